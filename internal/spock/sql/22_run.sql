-- Runs that change a cluster: nodes that join and leave. The journal of a run is on the nodes that it is about, so that it
-- can be taken up or undone from anywhere. The fence keeps table definitions as they are while a node joins.

CREATE TABLE IF NOT EXISTS spock.pgdrover_run (
    run_id     text PRIMARY KEY,
    kind       text NOT NULL,
    target     text NOT NULL,
    state      text NOT NULL CHECK (state IN ('wanted', 'running', 'failed', 'done', 'undone')),
    serial     bigint NOT NULL,
    owner      text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    record     jsonb NOT NULL
);

-- What each run has done, step by step.
CREATE OR REPLACE VIEW spock.pgdrover_run_step AS
SELECT r.run_id, s.path AS step, s.phase, s.object, s.command, s.node, s.status AS state, s.started AS started_at,
       nullif(s.ended, '0001-01-01 00:00:00+00') AS finished_at, s.error
  FROM spock.pgdrover_run r,
       LATERAL pg_catalog.jsonb_to_recordset(CASE pg_catalog.jsonb_typeof(r.record -> 'steps') WHEN 'array' THEN r.record -> 'steps'
               ELSE '[]' END) AS s(path text, phase text, object text, command text, node text, status text,
                                   started timestamptz, ended timestamptz, error text);

-- One row for each run that wants definitions to stay. Without a heartbeat for a minute it holds nobody up any more.
CREATE TABLE IF NOT EXISTS spock.pgdrover_fence (
    run_id      text PRIMARY KEY,
    owner       text NOT NULL,
    joins       text NOT NULL,
    rejects     boolean NOT NULL,
    raised_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    heartbeat   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    fingerprint jsonb
);

-- What superusers did all the same.
CREATE TABLE IF NOT EXISTS spock.pgdrover_fence_bypass (
    id          bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    run_id      text NOT NULL,
    executed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    role        name NOT NULL,
    tag         text NOT NULL,
    statement   text
);

-- What a database held before a copy came into it.
CREATE TABLE IF NOT EXISTS spock.pgdrover_inventory (
    run_id   text PRIMARY KEY,
    taken_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    objects  jsonb NOT NULL
);

-- Stores the journal of a run, unless a later state of it is there already.
CREATE OR REPLACE FUNCTION pgdrover.store_run(
    run text, run_kind text, run_target text, run_state text, number bigint, run_owner text, document jsonb)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO spock.pgdrover_run AS r (run_id, kind, target, state, serial, owner, record)
    VALUES (run, run_kind, run_target, run_state, number, run_owner, document)
        ON CONFLICT (run_id) DO UPDATE SET state = excluded.state, serial = excluded.serial, owner = excluded.owner,
               record = excluded.record, updated_at = pg_catalog.clock_timestamp()
         WHERE r.serial <= excluded.serial;
    RETURN FOUND;
END
$$;

-- What sessions ask the executor for, and what it tells them while it works.
CREATE TABLE IF NOT EXISTS spock.pgdrover_request (
    id        bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    kind      text NOT NULL,
    arguments jsonb NOT NULL,
    state     text NOT NULL DEFAULT 'wanted' CHECK (state IN ('wanted', 'running', 'done', 'failed')),
    asked_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    heard_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    error     text,
    hint      text
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS spock.pgdrover_request_event (
    request_id bigint NOT NULL REFERENCES spock.pgdrover_request (id) ON DELETE CASCADE,
    n          integer NOT NULL,
    message    text NOT NULL,
    PRIMARY KEY (request_id, n)
);

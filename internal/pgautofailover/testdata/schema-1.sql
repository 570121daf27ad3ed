-- The schema as its first version was installed: what an upgrade starts from.
-- The schema, its types, the role that nodes and commands use, and the version.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'autoctl_node') THEN
        CREATE ROLE autoctl_node LOGIN;
    END IF;
EXCEPTION
    -- Roles belong to the whole server: another database may install at the same time.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

CREATE SCHEMA pgautofailover;
GRANT USAGE ON SCHEMA pgautofailover TO autoctl_node;

-- For the exclusion constraint of table node. It stays out of our schema when possible, so that only ours is in it.
DO $$
BEGIN
    EXECUTE pg_catalog.format('CREATE EXTENSION IF NOT EXISTS btree_gist WITH SCHEMA %I',
        CASE WHEN pg_catalog.to_regnamespace('public') IS NULL THEN 'pgautofailover' ELSE 'public' END);
END
$$;

CREATE TYPE pgautofailover.replication_state AS ENUM (
    'unknown', 'init', 'single', 'wait_primary', 'primary', 'draining', 'demote_timeout', 'demoted', 'catchingup',
    'secondary', 'prepare_promotion', 'stop_replication', 'wait_standby', 'maintenance', 'join_primary',
    'apply_settings', 'prepare_maintenance', 'wait_maintenance', 'report_lsn', 'fast_forward', 'join_secondary',
    'dropped'
);

CREATE TYPE pgautofailover.fsm_section AS ENUM ('api_triggered', 'early_checks', 'reporting_node', 'primary_node');

-- A request that is refused, in words that clients see.
CREATE TYPE pgautofailover.refusal AS (severity text, code text, message text, detail text, hint text);

CREATE TABLE pgautofailover.schema_version (
    version      integer NOT NULL,
    installed_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
INSERT INTO pgautofailover.schema_version (version) VALUES (1);
-- Tables. Columns that clients of pg_auto_failover know come first and keep their names; ours follow.

CREATE TABLE pgautofailover.formation (
    formationid          text NOT NULL DEFAULT 'default',
    kind                 text NOT NULL DEFAULT 'pgsql',
    dbname               name NOT NULL DEFAULT 'postgres',
    opt_secondary        boolean NOT NULL DEFAULT true,
    number_sync_standbys integer NOT NULL DEFAULT 0,
    PRIMARY KEY (formationid),
    CONSTRAINT formation_kind_check CHECK (kind IN ('pgsql', 'citus')),
    CONSTRAINT formation_number_sync_standbys_check CHECK (number_sync_standbys >= 0)
);
INSERT INTO pgautofailover.formation (formationid, kind, dbname, opt_secondary, number_sync_standbys)
VALUES ('default', 'pgsql', 'postgres', true, 0);

CREATE TABLE pgautofailover.node (
    formationid             text NOT NULL DEFAULT 'default',
    nodeid                  bigserial NOT NULL,
    groupid                 integer NOT NULL,
    nodename                text NOT NULL,
    nodehost                text NOT NULL,
    nodeport                integer NOT NULL,
    sysidentifier           bigint,
    goalstate               pgautofailover.replication_state NOT NULL DEFAULT 'init',
    reportedstate           pgautofailover.replication_state NOT NULL,
    reportedpgisrunning     boolean DEFAULT true,
    reportedrepstate        text DEFAULT 'async',
    reporttime              timestamptz NOT NULL DEFAULT pg_catalog.now(),
    reportedtli             integer NOT NULL DEFAULT 1 CHECK (reportedtli > 0),
    reportedlsn             pg_lsn NOT NULL DEFAULT '0/0',
    walreporttime           timestamptz NOT NULL DEFAULT pg_catalog.now(),
    health                  integer NOT NULL DEFAULT -1,
    healthchecktime         timestamptz NOT NULL DEFAULT pg_catalog.now(),
    statechangetime         timestamptz NOT NULL DEFAULT pg_catalog.now(),
    candidatepriority       integer NOT NULL DEFAULT 100,
    replicationquorum       boolean NOT NULL DEFAULT true,
    nodecluster             text NOT NULL DEFAULT 'default',
    region                  text NOT NULL DEFAULT 'default',
    replication_stall_since timestamptz,
    pg_versionnum           integer,
    pg_version              text,
    pg_versionstring        text,
    citus_version           text,
    -- goalnumber counts the goals given to this node, the same state given again included. reachednumber is the
    -- number of the last goal that its keeper says it has established; answerednumber that of the last goal
    -- handed to a client that does not know numbers.
    goalnumber              bigint NOT NULL DEFAULT 1,
    reachednumber           bigint NOT NULL DEFAULT 0,
    answerednumber          bigint NOT NULL DEFAULT 0,
    -- The last position is that of a clean shutdown's checkpoint record.
    reportedcleanstop       boolean NOT NULL DEFAULT false,
    -- Does the receiver stream? NULL when the client does not say.
    reportedstreaming       boolean,
    -- Some session of the node's keeper has held the node's lock.
    haskeptsession          boolean NOT NULL DEFAULT false,
    PRIMARY KEY (nodeid),
    CONSTRAINT node_formationid_fkey FOREIGN KEY (formationid) REFERENCES pgautofailover.formation (formationid),
    CONSTRAINT node_formationid_nodename_key UNIQUE (formationid, nodename),
    CONSTRAINT node_nodehost_nodeport_key UNIQUE (nodehost, nodeport),
    CONSTRAINT system_identifier_is_null_at_init_only CHECK (
        sysidentifier IS NOT NULL OR reportedstate IN ('init', 'wait_standby', 'catchingup', 'dropped')),
    CONSTRAINT same_system_identifier_within_group EXCLUDE USING gist (
        formationid WITH OPERATOR(pg_catalog.=), groupid WITH OPERATOR(pg_catalog.=),
        sysidentifier WITH OPERATOR(pg_catalog.<>)) DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT node_candidatepriority_check CHECK (candidatepriority BETWEEN -101 AND 201),
    CONSTRAINT node_health_check CHECK (health BETWEEN -1 AND 1),
    CONSTRAINT node_nodeport_check CHECK (nodeport BETWEEN 1 AND 65535)
) WITH (fillfactor = 25);

CREATE TABLE pgautofailover.event (
    eventid           bigserial NOT NULL PRIMARY KEY,
    eventtime         timestamptz NOT NULL DEFAULT pg_catalog.now(),
    formationid       text NOT NULL,
    nodeid            bigint NOT NULL,
    groupid           integer NOT NULL,
    nodename          text NOT NULL,
    nodehost          text NOT NULL,
    nodeport          integer NOT NULL,
    reportedstate     pgautofailover.replication_state NOT NULL,
    goalstate         pgautofailover.replication_state NOT NULL,
    reportedrepstate  text,
    reportedtli       integer NOT NULL DEFAULT 1 CHECK (reportedtli > 0),
    reportedlsn       pg_lsn NOT NULL DEFAULT '0/0',
    candidatepriority integer,
    replicationquorum boolean,
    description       text,
    rule_pos          integer,
    rule_section      pgautofailover.fsm_section
);

CREATE TABLE pgautofailover.node_timeline_history (
    nodeid          bigint NOT NULL REFERENCES pgautofailover.node (nodeid) ON DELETE CASCADE,
    tli             integer NOT NULL,
    parenttli       integer NOT NULL,
    switchpoint_lsn pg_lsn NOT NULL,
    PRIMARY KEY (nodeid, tli)
);

CREATE TABLE pgautofailover.accepted_timeline (
    formationid  text NOT NULL,
    groupid      integer NOT NULL,
    accepted_tli integer NOT NULL,
    decided_by   text,
    decided_at   timestamptz NOT NULL DEFAULT pg_catalog.now(),
    resolved_at  timestamptz,
    PRIMARY KEY (formationid, groupid, decided_at)
);

-- What decisions remember of a group, stored in the transaction that stores the goals they explain.
CREATE TABLE pgautofailover.group_state (
    formationid   text NOT NULL REFERENCES pgautofailover.formation (formationid) ON DELETE CASCADE,
    groupid       integer NOT NULL,
    -- The newest synchronous_standby_names that a primary was ordered to apply, and its number.
    list_number   bigint NOT NULL DEFAULT 0,
    standby_names text NOT NULL DEFAULT '',
    record        jsonb NOT NULL DEFAULT '{}',
    -- Why the group does not move although it should; empty when it rests.
    waiting       text NOT NULL DEFAULT '',
    PRIMARY KEY (formationid, groupid)
);

-- What was asked of a group, or what happened to it outside a decision. The next decision closes it.
CREATE TABLE pgautofailover.intent (
    intentid        bigserial NOT NULL PRIMARY KEY,
    formationid     text NOT NULL REFERENCES pgautofailover.formation (formationid) ON DELETE CASCADE,
    groupid         integer NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('failover', 'promotion', 'start_maintenance', 'stop_maintenance',
                                                  'remove', 'removed', 'registered', 'settings')),
    nodeid          bigint,
    allow_data_loss boolean NOT NULL DEFAULT false,
    text            text NOT NULL DEFAULT '',
    ghost           jsonb,
    created_at      timestamptz NOT NULL DEFAULT pg_catalog.now(),
    closed_at       timestamptz,
    applied         boolean,
    outcome         text
);
CREATE INDEX intent_open_idx ON pgautofailover.intent (formationid, groupid) WHERE closed_at IS NULL;

-- One row: the number of the monitor process that may decide.
CREATE TABLE pgautofailover.decider (
    number bigint NOT NULL,
    holder text NOT NULL DEFAULT '',
    since  timestamptz NOT NULL DEFAULT pg_catalog.now()
);
INSERT INTO pgautofailover.decider (number) VALUES (0);
-- Locks. Everything that changes a group takes the formation's lock, then the group's, and never a stronger one later.
-- They are advisory locks of two integers, the first of which names the class:
--   727400001 installation        727400012 reporting session of a node (session level, shared)
--   727400010 formation           727400013 the decider: 1 its session, 2 its transactions
--   727400011 group

CREATE FUNCTION pgautofailover.lock_formation(formation_id text, exclusive boolean)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF exclusive THEN
        PERFORM pg_catalog.pg_advisory_xact_lock(727400010, pg_catalog.hashtext(formation_id));
    ELSE
        PERFORM pg_catalog.pg_advisory_xact_lock_shared(727400010, pg_catalog.hashtext(formation_id));
    END IF;
END
$$;

CREATE FUNCTION pgautofailover.group_lock_key(formation_id text, group_id integer)
RETURNS integer LANGUAGE sql AS $$
    SELECT pg_catalog.hashtext(formation_id || '/' || group_id)
$$;

CREATE FUNCTION pgautofailover.lock_group(formation_id text, group_id integer)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock(727400011, pgautofailover.group_lock_key(formation_id, group_id));
END
$$;

-- Locks formation and group of a node and reads the node again. No row when it is unknown or was removed meanwhile.
CREATE FUNCTION pgautofailover.lock_node(node_id bigint, exclusive boolean)
RETURNS pgautofailover.node LANGUAGE plpgsql AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    SELECT * INTO n FROM pgautofailover.node m WHERE m.nodeid = node_id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM pgautofailover.lock_formation(n.formationid, exclusive);
    PERFORM pgautofailover.lock_group(n.formationid, n.groupid);
    SELECT * INTO n FROM pgautofailover.node m WHERE m.nodeid = node_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    RETURN n;
END
$$;

CREATE FUNCTION pgautofailover.testing_lock_formation(formation_id text)
RETURNS void LANGUAGE sql AS $$
    SELECT pgautofailover.lock_formation(formation_id, true)
$$;

CREATE FUNCTION pgautofailover.testing_lock_node_group(formation_id text, group_id integer)
RETURNS void LANGUAGE sql AS $$
    SELECT pgautofailover.lock_group(formation_id, group_id)
$$;
-- Texts, notifications, events.

CREATE FUNCTION pgautofailover.node_text(n pgautofailover.node)
RETURNS text LANGUAGE sql AS $$
    SELECT pg_catalog.format('node %s "%s" (%s:%s)', n.nodeid, n.nodename, n.nodehost, n.nodeport)
$$;

CREATE FUNCTION pgautofailover.bool_text(b boolean)
RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN b THEN 'true' ELSE 'false' END
$$;

CREATE FUNCTION pgautofailover.notify_state(n pgautofailover.node)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('state', pg_catalog.format(
        '{"type": "state", "formation": %s, "groupId": %s, "nodeId": %s, "name": %s, "host": %s, "port": %s, '
        '"reportedState": "%s", "goalState": "%s", "health":"%s"}',
        pg_catalog.to_json(n.formationid), n.groupid, n.nodeid, pg_catalog.to_json(n.nodename),
        pg_catalog.to_json(n.nodehost), n.nodeport, n.reportedstate, n.goalstate,
        CASE n.health WHEN 1 THEN 'good' WHEN 0 THEN 'bad' ELSE 'unknown' END));
END
$$;

-- The text goes to channel log and to the server's log. A payload has at most 7999 bytes, a character at most four.
CREATE FUNCTION pgautofailover.notify_log(line text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('log',
        CASE WHEN pg_catalog.octet_length(line) < 8000 THEN line ELSE pg_catalog.left(line, 1999) END);
    RAISE LOG '%', line;
END
$$;

-- Wakes the monitor process: there may be something to decide.
CREATE FUNCTION pgautofailover.wake(formation_id text, group_id integer)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('pgdrover', formation_id || '/' || group_id);
END
$$;

CREATE FUNCTION pgautofailover.store_event(n pgautofailover.node, line text)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO pgautofailover.event
           (formationid, nodeid, groupid, nodename, nodehost, nodeport, reportedstate, goalstate, reportedrepstate,
            reportedtli, reportedlsn, candidatepriority, replicationquorum, description)
    VALUES (n.formationid, n.nodeid, n.groupid, n.nodename, n.nodehost, n.nodeport, n.reportedstate, n.goalstate,
            n.reportedrepstate, n.reportedtli, n.reportedlsn, n.candidatepriority, n.replicationquorum, line)
$$;

-- A change of a node: one line of history and both notifications.
CREATE FUNCTION pgautofailover.record_change(n pgautofailover.node, line text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgautofailover.notify_log(line);
    PERFORM pgautofailover.notify_state(n);
    PERFORM pgautofailover.store_event(n, line);
END
$$;
-- The goal of a node that registers, for everything that matters about its group. It is the one goal that SQL
-- chooses, because the node's row is invisible to the monitor process until its keeper commits.
-- The rows are generated: go test -run TestFirstGoalTable -rewrite

CREATE TABLE pgautofailover.first_goal (
    group_empty       boolean NOT NULL, -- no other node, those being dropped not counted
    electable         boolean NOT NULL, -- candidate priority above 0
    secondary_allowed boolean NOT NULL, -- the formation's opt_secondary
    primary_known     boolean NOT NULL, -- some node has a writable goal or is being promoted
    source_waiting    boolean NOT NULL, -- some node with candidate priority 0 has reached report_lsn
    goal              pgautofailover.replication_state,
    refusal           text,
    PRIMARY KEY (group_empty, electable, secondary_allowed, primary_known, source_waiting),
    CHECK ((goal IS NULL) <> (refusal IS NULL))
);

INSERT INTO pgautofailover.first_goal
       (group_empty, electable, secondary_allowed, primary_known, source_waiting, goal, refusal)
VALUES
    (true , true , true , false, false, 'single', NULL),
    (true , true , false, false, false, 'single', NULL),
    (true , false, true , false, false, NULL, 'no_primary'),
    (true , false, false, false, false, NULL, 'secondary_disallowed'),
    (false, true , true , true , true , 'wait_standby', NULL),
    (false, true , true , true , false, 'wait_standby', NULL),
    (false, true , true , false, true , 'report_lsn', NULL),
    (false, true , true , false, false, NULL, 'no_primary'),
    (false, true , false, true , true , NULL, 'secondary_disallowed'),
    (false, true , false, true , false, NULL, 'secondary_disallowed'),
    (false, true , false, false, true , NULL, 'secondary_disallowed'),
    (false, true , false, false, false, NULL, 'secondary_disallowed'),
    (false, false, true , true , true , 'wait_standby', NULL),
    (false, false, true , true , false, 'wait_standby', NULL),
    (false, false, true , false, true , 'report_lsn', NULL),
    (false, false, true , false, false, NULL, 'no_primary'),
    (false, false, false, true , true , NULL, 'secondary_disallowed'),
    (false, false, false, true , false, NULL, 'secondary_disallowed'),
    (false, false, false, false, true , NULL, 'secondary_disallowed'),
    (false, false, false, false, false, NULL, 'secondary_disallowed');
-- Predicates: what is refused, and why. They read and never write; a test compares them with fsm.CheckIntent.
-- A refusal whose code is NULL refuses nothing; WARNING and NOTICE let the call go on.

CREATE FUNCTION pgautofailover.refuse(
    code text, message text, detail text DEFAULT NULL, hint text DEFAULT NULL, severity text DEFAULT 'ERROR')
RETURNS pgautofailover.refusal LANGUAGE sql AS $$
    SELECT ROW(severity, code, message, detail, hint)::pgautofailover.refusal
$$;

-- The members of a group: all nodes but those being dropped.
CREATE FUNCTION pgautofailover.members(formation_id text, group_id integer)
RETURNS SETOF pgautofailover.node LANGUAGE sql STABLE AS $$
    SELECT n.* FROM pgautofailover.node n
     WHERE n.formationid = formation_id AND n.groupid = group_id AND n.goalstate <> 'dropped' ORDER BY n.nodeid
$$;

CREATE FUNCTION pgautofailover.is_writable(state pgautofailover.replication_state)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT state IN ('single', 'wait_primary', 'primary', 'join_primary', 'apply_settings')
$$;

CREATE FUNCTION pgautofailover.belongs_to_primary(state pgautofailover.replication_state)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT state IN ('single', 'wait_primary', 'primary', 'join_primary', 'apply_settings',
                     'draining', 'demote_timeout', 'prepare_maintenance')
$$;

-- The node reports the goal that it has.
CREATE FUNCTION pgautofailover.converged(n pgautofailover.node)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT n.reportedstate = n.goalstate
$$;

CREATE FUNCTION pgautofailover.stable(n pgautofailover.node, state pgautofailover.replication_state)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT n.goalstate = state AND n.reportedstate = state
$$;

CREATE FUNCTION pgautofailover.being_promoted(n pgautofailover.node)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT n.goalstate IN ('fast_forward', 'prepare_promotion', 'stop_replication')
       AND n.reportedstate IN ('report_lsn', 'fast_forward', 'prepare_promotion', 'stop_replication', 'secondary')
$$;

CREATE FUNCTION pgautofailover.healthy(n pgautofailover.node)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(n.reportedpgisrunning, true) AND n.health <> 0
$$;

-- The node that takes writes or is ordered to.
CREATE FUNCTION pgautofailover.writable_node(formation_id text, group_id integer)
RETURNS pgautofailover.node LANGUAGE sql STABLE AS $$
    SELECT n FROM pgautofailover.members(formation_id, group_id) n
     WHERE pgautofailover.is_writable(n.goalstate) ORDER BY n.nodeid LIMIT 1
$$;

CREATE FUNCTION pgautofailover.no_primary(formation_id text, group_id integer)
RETURNS pgautofailover.refusal LANGUAGE sql STABLE AS $$
    SELECT pgautofailover.refuse('XX000', pg_catalog.format(
        'couldn''t find the primary node in formation "%s", group %s', formation_id, group_id))
$$;

-- An operator who accepts a loss may override whatever the group waits for, and one may set a stuck election going.
CREATE FUNCTION pgautofailover.check_failover(
    formation_id text, group_id integer, allow_data_loss boolean, by_name boolean DEFAULT false)
RETURNS pgautofailover.refusal LANGUAGE plpgsql STABLE AS $$
DECLARE
    node_count integer;
    p pgautofailover.node;
    s pgautofailover.node;
BEGIN
    IF allow_data_loss THEN
        RETURN NULL;
    END IF;
    SELECT pg_catalog.count(*) INTO node_count FROM pgautofailover.members(formation_id, group_id);
    IF node_count < 2 THEN
        RETURN pgautofailover.refuse('XX000', pg_catalog.format(
            'cannot fail over: group %s in formation %s currently has %s node registered',
            group_id, formation_id, node_count), 'At least 2 nodes are required to implement a failover');
    END IF;
    IF EXISTS (SELECT FROM pgautofailover.members(formation_id, group_id) n
                WHERE pgautofailover.stable(n, 'report_lsn')) THEN
        RETURN NULL;
    END IF;
    SELECT n.* INTO p FROM pgautofailover.members(formation_id, group_id) n
     WHERE pgautofailover.converged(n) AND n.goalstate IN ('single', 'primary', 'join_primary')
     ORDER BY n.nodeid LIMIT 1;
    IF NOT FOUND THEN
        RETURN pgautofailover.no_primary(formation_id, group_id);
    END IF;
    IF node_count > 2 THEN
        RETURN NULL;
    END IF;
    SELECT n.* INTO s FROM pgautofailover.members(formation_id, group_id) n WHERE n.nodeid <> p.nodeid;
    IF s.goalstate <> 'secondary' THEN
        RETURN pgautofailover.refuse('XX000', pg_catalog.format(
            'standby %s is in state "%s", which prevents the node for being a failover candidate',
            pgautofailover.node_text(s), s.goalstate));
    END IF;
    IF s.reportedstate <> 'secondary' THEN
        RETURN pgautofailover.refuse('XX000', 'cannot fail over: primary node is not in a stable state',
            pg_catalog.format('%s has reported state "%s" and is assigned state "%s", and %s has reported state "%s" '
                'and is assigned state "%s"', pgautofailover.node_text(p), p.reportedstate, p.goalstate,
                pgautofailover.node_text(s), s.reportedstate, s.goalstate),
            'a stable state must be observed to perform a manual failover');
    END IF;
    IF s.candidatepriority = 0 AND NOT by_name THEN
        RETURN pgautofailover.refuse('XX000', pg_catalog.format(
            'cannot fail over: standby %s has candidate priority set to zero', pgautofailover.node_text(s)),
            pg_catalog.format('Set a candidate priority greater than zero on %s, or promote it by name',
                              pgautofailover.node_text(s)));
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION pgautofailover.check_promotion(n pgautofailover.node, allow_data_loss boolean)
RETURNS pgautofailover.refusal LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF pgautofailover.stable(n, 'single') OR pgautofailover.stable(n, 'primary') THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'cannot perform promotion: node %s in formation %s is already a primary.', n.nodename, n.formationid),
            severity => 'NOTICE');
    END IF;
    IF NOT (pgautofailover.stable(n, 'secondary') OR pgautofailover.stable(n, 'report_lsn')) THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'cannot perform promotion: node %s in formation %s has reported state "%s" and is assigned state "%s", '
            'promotion can only be performed when in state "secondary".',
            n.nodename, n.formationid, n.reportedstate, n.goalstate));
    END IF;
    RETURN pgautofailover.check_failover(n.formationid, n.groupid, allow_data_loss, by_name => true);
END
$$;

CREATE FUNCTION pgautofailover.check_start_maintenance(n pgautofailover.node)
RETURNS pgautofailover.refusal LANGUAGE plpgsql STABLE AS $$
DECLARE
    p pgautofailover.node;
    candidates integer;
    voters integer;
    required integer;
BEGIN
    IF n.reportedstate = 'maintenance' OR n.goalstate = 'maintenance' THEN
        RETURN NULL;
    END IF;
    IF NOT pgautofailover.stable(n, 'primary') AND n.reportedstate NOT IN ('secondary', 'catchingup') THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'cannot start maintenance: node %s:%s has reported state "%s" and is assigned state "%s", '
            'expected either "primary", "secondary" or "catchingup"',
            n.nodehost, n.nodeport, n.reportedstate, n.goalstate));
    END IF;
    IF pgautofailover.stable(n, 'primary') THEN
        SELECT pg_catalog.count(*) INTO candidates FROM pgautofailover.members(n.formationid, n.groupid) s
         WHERE s.nodeid <> n.nodeid AND s.candidatepriority > 0
           AND pgautofailover.stable(s, 'secondary') AND pgautofailover.healthy(s);
        IF candidates < 1 THEN
            RETURN pgautofailover.refuse('55000', pg_catalog.format(
                'Starting maintenance on %s in state "%s" is not currently possible',
                pgautofailover.node_text(n), n.reportedstate),
                pg_catalog.format('there is currently %s candidate nodes available', candidates));
        END IF;
        RETURN NULL;
    END IF;
    p := pgautofailover.writable_node(n.formationid, n.groupid);
    IF p.nodeid IS NULL THEN
        RETURN pgautofailover.no_primary(n.formationid, n.groupid);
    END IF;
    IF NOT pgautofailover.stable(p, 'primary') THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'cannot start maintenance: current state for %s is "%s", expected "secondary" or "catchingup", '
            'and current state for primary %s is "%s" ➜ "%s" ',
            pgautofailover.node_text(n), n.reportedstate, pgautofailover.node_text(p), p.reportedstate, p.goalstate));
    END IF;
    SELECT f.number_sync_standbys INTO required FROM pgautofailover.formation f WHERE f.formationid = n.formationid;
    SELECT pg_catalog.count(*) INTO voters FROM pgautofailover.members(n.formationid, n.groupid) s
     WHERE s.nodeid <> p.nodeid AND s.replicationquorum
       AND pgautofailover.stable(s, 'secondary') AND pgautofailover.healthy(s);
    IF required > 0 AND voters <= required AND n.replicationquorum
       AND pgautofailover.stable(n, 'secondary') AND pgautofailover.healthy(n) THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'Starting maintenance on %s will block writes on the primary %s',
            pgautofailover.node_text(n), pgautofailover.node_text(p)),
            pg_catalog.format('we now have %s healthy node(s) left in the "secondary" state and formation "%s" '
                'number-sync-standbys requires %s sync standbys', voters - 1, n.formationid, required),
            severity => 'WARNING');
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION pgautofailover.check_stop_maintenance(n pgautofailover.node)
RETURNS pgautofailover.refusal LANGUAGE plpgsql STABLE AS $$
DECLARE
    node_count integer;
BEGIN
    SELECT pg_catalog.count(*) INTO node_count FROM pgautofailover.members(n.formationid, n.groupid);
    IF pgautofailover.stable(n, 'maintenance')
       OR (node_count > 2 AND pgautofailover.stable(n, 'prepare_maintenance')) THEN
        RETURN NULL;
    END IF;
    RETURN pgautofailover.refuse('55000', pg_catalog.format(
        'cannot stop maintenance when current state for %s is not "maintenance"', pgautofailover.node_text(n)),
        pg_catalog.format('Current reported state is "%s" and assigned state is "%s"', n.reportedstate, n.goalstate));
END
$$;

CREATE FUNCTION pgautofailover.check_candidate_priority(n pgautofailover.node, priority integer)
RETURNS pgautofailover.refusal LANGUAGE plpgsql STABLE AS $$
DECLARE
    p pgautofailover.node;
    electable integer;
BEGIN
    IF priority NOT BETWEEN 0 AND 100 THEN
        RETURN pgautofailover.refuse('22023', pg_catalog.format(
            'invalid value for candidate_priority "%s" expected an integer value between 0 and 100', priority));
    END IF;
    IF n.nodecluster <> 'default' AND priority <> 0 THEN
        RETURN pgautofailover.refuse('22023', 'invalid value for candidate_priority: read-replica nodes in a citus '
            'cluster must always have candidate priority set to zero');
    END IF;
    p := pgautofailover.writable_node(n.formationid, n.groupid);
    IF pgautofailover.stable(p, 'apply_settings')
       AND (SELECT pg_catalog.count(*) > 1 FROM pgautofailover.members(n.formationid, n.groupid)) THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'cannot set candidate priority when current state for primary %s is "apply_settings"',
            pgautofailover.node_text(p)));
    END IF;
    SELECT pg_catalog.count(*) INTO electable FROM pgautofailover.members(n.formationid, n.groupid) s
     WHERE s.nodeid <> n.nodeid AND s.candidatepriority <> 0;
    IF priority = 0 AND n.candidatepriority <> 0 AND electable < 2 THEN
        RETURN pgautofailover.refuse('55000', 'setting candidate priority to zero, preventing automated failover',
            pg_catalog.format('Group %s in formation "%s" have no failover candidate.', n.groupid, n.formationid),
            severity => 'NOTICE');
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION pgautofailover.check_replication_quorum(n pgautofailover.node, quorum boolean)
RETURNS pgautofailover.refusal LANGUAGE plpgsql STABLE AS $$
DECLARE
    p pgautofailover.node;
    required integer;
    voters integer;
BEGIN
    p := pgautofailover.writable_node(n.formationid, n.groupid);
    IF NOT quorum AND p.nodeid IS NULL THEN
        RETURN pgautofailover.refuse('XX000', pg_catalog.format(
            'Couldn''t find the primary node in formation "%s", group %s', n.formationid, n.groupid));
    END IF;
    SELECT f.number_sync_standbys INTO required FROM pgautofailover.formation f WHERE f.formationid = n.formationid;
    SELECT pg_catalog.count(*) INTO voters FROM pgautofailover.members(n.formationid, n.groupid) s
     WHERE s.nodeid <> p.nodeid AND CASE WHEN s.nodeid = n.nodeid THEN quorum ELSE s.replicationquorum END;
    IF NOT quorum AND required > 0 AND voters < required + 1 THEN
        RETURN pgautofailover.refuse('22023', 'can''t set replication quorum to false', pg_catalog.format(
            'At least %s standby nodes are required in formation %s with number_sync_standbys = %s, '
            'and only %s would be participating in the replication quorum',
            required + 1, n.formationid, required, voters));
    END IF;
    IF pgautofailover.stable(p, 'apply_settings')
       AND (SELECT pg_catalog.count(*) > 1 FROM pgautofailover.members(n.formationid, n.groupid)) THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'cannot set replication quorum when current state for primary %s is "%s"',
            pgautofailover.node_text(p), p.reportedstate));
    END IF;
    RETURN NULL;
END
$$;

-- Every group is asked, not only the first. A group of its own kind is one without a standby in the quorum: there the
-- number has no effect, so it does not stand in the way, except in the only group of a pgsql formation.
CREATE FUNCTION pgautofailover.check_number_sync_standbys(formation_id text, group_id integer, number integer)
RETURNS pgautofailover.refusal LANGUAGE plpgsql STABLE AS $$
DECLARE
    p pgautofailover.node;
    voters integer;
BEGIN
    p := pgautofailover.writable_node(formation_id, group_id);
    IF p.nodeid IS NULL THEN
        RETURN pgautofailover.refuse('XX000', pg_catalog.format(
            'Couldn''t find the primary node in formation "%s", group %s', formation_id, group_id));
    END IF;
    SELECT pg_catalog.count(*) INTO voters FROM pgautofailover.members(formation_id, group_id) s
     WHERE s.nodeid <> p.nodeid AND s.replicationquorum;
    IF group_id > 0 AND voters = 0 THEN
        RETURN NULL;
    END IF;
    IF NOT (pgautofailover.stable(p, 'primary') OR pgautofailover.stable(p, 'wait_primary')) THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'cannot set number_sync_standbys when current goal state for primary %s is "%s", '
            'and current reported state is "%s"', pgautofailover.node_text(p), p.goalstate, p.reportedstate),
            'The primary node so must be in state "primary" or "wait_primary" to be able to apply configuration '
            'changes to its synchronous_standby_names setting');
    END IF;
    IF number <> 0 AND number + 1 > voters THEN
        RETURN pgautofailover.refuse('22023', pg_catalog.format(
            'invalid value for number_sync_standbys: "%s"', number), pg_catalog.format(
            'At least %s standby nodes are required, and only %s are currently participating in the replication quorum',
            number + 1, voters));
    END IF;
    RETURN NULL;
END
$$;
-- Raising, and formations.

-- Says what a refusal says; an option that is not there must not be named.
CREATE FUNCTION pgautofailover.raise_refusal(r pgautofailover.refusal)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF r.code IS NULL THEN
        RETURN;
    ELSIF r.severity = 'WARNING' AND r.detail IS NOT NULL THEN
        RAISE WARNING USING ERRCODE = r.code, MESSAGE = r.message, DETAIL = r.detail;
    ELSIF r.severity = 'WARNING' THEN
        RAISE WARNING USING ERRCODE = r.code, MESSAGE = r.message;
    ELSIF r.severity = 'NOTICE' AND r.detail IS NOT NULL THEN
        RAISE NOTICE USING ERRCODE = r.code, MESSAGE = r.message, DETAIL = r.detail;
    ELSIF r.severity = 'NOTICE' THEN
        RAISE NOTICE USING ERRCODE = r.code, MESSAGE = r.message;
    ELSIF r.detail IS NOT NULL AND r.hint IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = r.code, MESSAGE = r.message, DETAIL = r.detail, HINT = r.hint;
    ELSIF r.detail IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = r.code, MESSAGE = r.message, DETAIL = r.detail;
    ELSIF r.hint IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = r.code, MESSAGE = r.message, HINT = r.hint;
    ELSE
        RAISE EXCEPTION USING ERRCODE = r.code, MESSAGE = r.message;
    END IF;
END
$$;

CREATE FUNCTION pgautofailover.insert_formation(
    id text, new_kind text, database name, secondaries boolean, sync_standbys integer)
RETURNS pgautofailover.formation LANGUAGE plpgsql AS $$
DECLARE
    f pgautofailover.formation;
BEGIN
    IF new_kind NOT IN ('pgsql', 'citus', '') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('unknown formation kind "%s"', new_kind);
    END IF;
    INSERT INTO pgautofailover.formation (formationid, kind, dbname, opt_secondary, number_sync_standbys)
    VALUES (id, new_kind, database, secondaries, sync_standbys) RETURNING * INTO f;
    RETURN f;
END
$$;

CREATE FUNCTION pgautofailover.create_formation(
    IN formation_id text, IN kind text, IN dbname name, IN opt_secondary boolean, IN number_sync_standbys integer,
    OUT formation_id text, OUT kind text, OUT dbname name, OUT opt_secondary boolean, OUT number_sync_standbys integer)
RETURNS record LANGUAGE sql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
    SELECT f.formationid, f.kind, f.dbname, f.opt_secondary, f.number_sync_standbys
      FROM pgautofailover.insert_formation($1, $2, $3, $4, $5) f
$$;

CREATE FUNCTION pgautofailover.drop_formation(formation_id text)
RETURNS void LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM pgautofailover.formation f WHERE f.formationid = formation_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = format('couldn''t find formation "%s"', formation_id);
    END IF;
END
$$;

CREATE FUNCTION pgautofailover.set_opt_secondary(formation_id text, allow boolean)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE pgautofailover.formation f SET opt_secondary = allow WHERE f.formationid = formation_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000',
            MESSAGE = pg_catalog.format('couldn''t find formation "%s"', formation_id);
    END IF;
    -- The answer has always been false; clients ignore it.
    RETURN false;
END
$$;

CREATE FUNCTION pgautofailover.enable_secondary(formation_id text)
RETURNS boolean LANGUAGE sql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
    SELECT pgautofailover.set_opt_secondary(formation_id, true)
$$;

CREATE FUNCTION pgautofailover.disable_secondary(formation_id text)
RETURNS boolean LANGUAGE sql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
    SELECT pgautofailover.set_opt_secondary(formation_id, false)
$$;

CREATE FUNCTION pgautofailover.update_secondary_check()
RETURNS trigger LANGUAGE plpgsql SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    IF new.opt_secondary OR NOT old.opt_secondary THEN
        RETURN new;
    END IF;
    SELECT m.* INTO n FROM pgautofailover.node m
     WHERE m.formationid = new.formationid AND m.goalstate <> 'dropped' AND m.reportedstate <> 'single'
     ORDER BY m.nodeid LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'formation has nodes that are not in SINGLE state',
            DETAIL = format('nodeid %s is in state %s', n.nodeid, n.reportedstate),
            HINT = 'drop secondary nodes before disabling secondaries on formation';
    END IF;
    RETURN new;
END
$$;

CREATE TRIGGER disable_secondary_check BEFORE UPDATE ON pgautofailover.formation
FOR EACH ROW EXECUTE FUNCTION pgautofailover.update_secondary_check();
-- Registration.

-- The group in which a node registers, as asked for or the first of a Citus formation with room for it.
CREATE FUNCTION pgautofailover.choose_group(
    f pgautofailover.formation, node_host text, node_port integer, desired_group_id integer)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    room integer := CASE WHEN f.opt_secondary THEN 2 ELSE 1 END;
    candidate integer := 1;
BEGIN
    IF f.kind = 'pgsql' THEN
        IF desired_group_id > 0 THEN
            RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(
                'node %s:%s can not be registered in group %s in formation "%s" of type pgsql',
                node_host, node_port, desired_group_id, f.formationid),
                DETAIL = 'in a pgsql formation, there can be only one group, with groupId 0';
        END IF;
        RETURN 0;
    END IF;
    IF desired_group_id >= 0 THEN
        RETURN desired_group_id;
    END IF;
    WHILE (SELECT pg_catalog.count(*) >= room FROM pgautofailover.members(f.formationid, candidate)) LOOP
        candidate := candidate + 1;
    END LOOP;
    RETURN candidate;
END
$$;

CREATE FUNCTION pgautofailover.choose_first_goal(
    f pgautofailover.formation, group_id integer, candidate_priority integer)
RETURNS pgautofailover.replication_state LANGUAGE plpgsql AS $$
DECLARE
    answer pgautofailover.first_goal;
    -- The group's record names the node that is being promoted, from its selection to its opening.
    owned boolean := coalesce((SELECT (s.record ->> 'owner')::bigint <> 0 FROM pgautofailover.group_state s
                                WHERE s.formationid = f.formationid AND s.groupid = group_id), false);
BEGIN
    SELECT g.* INTO STRICT answer
      FROM pgautofailover.first_goal g
      JOIN (SELECT pg_catalog.count(*) = 0 AS group_empty,
                   coalesce(pg_catalog.bool_or(pgautofailover.is_writable(n.goalstate)
                                               OR pgautofailover.being_promoted(n) OR owned), false) AS primary_known,
                   coalesce(pg_catalog.bool_or(n.candidatepriority = 0
                                               AND pgautofailover.stable(n, 'report_lsn')), false) AS source_waiting
              FROM pgautofailover.members(f.formationid, group_id) n) facts
           USING (group_empty, primary_known, source_waiting)
     WHERE g.electable = (candidate_priority > 0) AND g.secondary_allowed = f.opt_secondary;
    IF answer.refusal = 'secondary_disallowed' THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = pg_catalog.format('Formation "%s" does not allow secondary nodes', f.formationid),
            HINT = 'use pg_autoctl enable secondary';
    ELSIF answer.refusal IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55006', MESSAGE = pg_catalog.format(
            'JoinAutoFailoverFormation couldn''t find the  primary node in formation "%s", group %s',
            f.formationid, group_id), HINT = 'Retry registering in a moment';
    END IF;
    RETURN answer.goal;
END
$$;

-- The name of a node that does not bring one.
CREATE FUNCTION pgautofailover.default_node_name(
    f pgautofailover.formation, group_id integer, node_id bigint)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    prefix text := CASE WHEN group_id = 0 THEN 'coord0' ELSE 'worker' || group_id END;
    letter integer := pg_catalog.ascii('a');
BEGIN
    IF f.kind = 'pgsql' THEN
        RETURN 'node_' || node_id;
    END IF;
    WHILE letter < pg_catalog.ascii('z') AND EXISTS (
        SELECT FROM pgautofailover.node n
         WHERE n.formationid = f.formationid AND n.nodename = prefix || pg_catalog.chr(letter)) LOOP
        letter := letter + 1;
    END LOOP;
    RETURN prefix || pg_catalog.chr(letter);
END
$$;

-- Locks the formation and reads it; an empty one takes the kind and the database of its first node.
CREATE FUNCTION pgautofailover.formation_for_node(
    formation_id text, node_host text, node_port integer, node_kind text, database name)
RETURNS pgautofailover.formation LANGUAGE plpgsql AS $$
DECLARE
    f pgautofailover.formation;
    kind_of_node text;
    empty boolean;
BEGIN
    PERFORM pgautofailover.lock_formation(formation_id, true);
    SELECT g.* INTO f FROM pgautofailover.formation g WHERE g.formationid = formation_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42P17',
            MESSAGE = pg_catalog.format('formation "%s" does not exist', formation_id),
            HINT = 'Use `pg_autoctl create formation` to create the target formation first';
    END IF;
    kind_of_node := CASE WHEN node_kind = 'standalone' THEN 'pgsql'
                         WHEN node_kind IN ('coordinator', 'worker') THEN 'citus' END;
    IF kind_of_node IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('unknown formation kind "%s"', node_kind);
    END IF;
    empty := NOT EXISTS (SELECT FROM pgautofailover.node n WHERE n.formationid = formation_id);
    IF f.kind <> kind_of_node AND NOT empty THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(
            'node %s:%s of kind "%s" can not be registered in formation "%s" of kind "%s"',
            node_host, node_port, node_kind, formation_id, f.kind);
    END IF;
    IF f.dbname <> database AND NOT empty THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(
            'node %s:%s with dbname "%s" can not be registered in formation "%s" which expects dbname "%s"',
            node_host, node_port, database, formation_id, f.dbname);
    END IF;
    IF f.kind <> kind_of_node OR f.dbname <> database THEN
        UPDATE pgautofailover.formation g SET kind = kind_of_node, dbname = database
         WHERE g.formationid = formation_id RETURNING g.* INTO f;
    END IF;
    RETURN f;
END
$$;

CREATE FUNCTION pgautofailover.register_node(
    IN formation_id text, IN node_host text, IN node_port integer, IN dbname name, IN node_name text DEFAULT '',
    IN sysidentifier bigint DEFAULT 0, IN desired_node_id bigint DEFAULT -1, IN desired_group_id integer DEFAULT -1,
    IN initial_group_role pgautofailover.replication_state DEFAULT 'init', IN node_kind text DEFAULT 'standalone',
    IN candidate_priority integer DEFAULT 100, IN replication_quorum boolean DEFAULT true,
    IN node_cluster text DEFAULT 'default', IN node_region text DEFAULT 'default',
    OUT assigned_node_id bigint, OUT assigned_group_id integer,
    OUT assigned_group_state pgautofailover.replication_state, OUT assigned_candidate_priority integer,
    OUT assigned_replication_quorum boolean, OUT assigned_node_name text)
RETURNS record LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    f pgautofailover.formation;
    n pgautofailover.node;
    new_group integer;
    goal pgautofailover.replication_state;
    new_id bigint;
BEGIN
    -- The caller commits once its own files are written. Until then everybody else waits for these locks.
    PERFORM set_config('idle_in_transaction_session_timeout', '10s', true);
    f := pgautofailover.formation_for_node(formation_id, node_host, node_port, node_kind, register_node.dbname);
    IF candidate_priority NOT BETWEEN 0 AND 100 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format(
            'invalid value for candidate_priority "%s" expected an integer value between 0 and 100',
            candidate_priority);
    END IF;
    new_group := pgautofailover.choose_group(f, node_host, node_port, desired_group_id);
    PERFORM pgautofailover.lock_group(formation_id, new_group);
    goal := pgautofailover.choose_first_goal(f, new_group, candidate_priority);

    IF desired_node_id > 0 THEN
        new_id := desired_node_id;
    ELSE
        new_id := nextval('pgautofailover.node_nodeid_seq');
    END IF;
    INSERT INTO pgautofailover.node AS m
           (formationid, nodeid, groupid, nodename, nodehost, nodeport, sysidentifier, goalstate, reportedstate,
            candidatepriority, replicationquorum, nodecluster, region, answerednumber)
    VALUES (formation_id, new_id, new_group,
            CASE WHEN node_name = '' THEN pgautofailover.default_node_name(f, new_group, new_id) ELSE node_name END,
            node_host, node_port, nullif(register_node.sysidentifier, 0), goal, initial_group_role,
            candidate_priority, replication_quorum, node_cluster, node_region, 1)
    RETURNING m.* INTO n;
    IF desired_node_id > 0 THEN
        PERFORM setval('pgautofailover.node_nodeid_seq', greatest(
            (SELECT max(m.nodeid) FROM pgautofailover.node m),
            (SELECT s.last_value FROM pgautofailover.node_nodeid_seq s)));
    END IF;
    PERFORM pgautofailover.notify_log(format(
        'Registering %s to formation "%s" with replication quorum %s and candidate priority %s [%s]',
        pgautofailover.node_text(n), formation_id, pgautofailover.bool_text(n.replicationquorum),
        n.candidatepriority, n.candidatepriority));
    IF goal = 'single' THEN
        PERFORM pgautofailover.record_change(n, format(
            'Setting goal state of %s to single as there is no other node.', pgautofailover.node_text(n)));
    END IF;
    IF initial_group_role NOT IN ('init', goal) THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = format(
            'node %s:%s can not be registered in state %s, it should be in state %s',
            node_host, node_port, initial_group_role, goal);
    END IF;
    INSERT INTO pgautofailover.group_state (formationid, groupid) VALUES (formation_id, new_group)
        ON CONFLICT DO NOTHING;
    PERFORM pgautofailover.store_intent(formation_id, new_group, 'registered', n.nodeid);

    assigned_node_id := n.nodeid;
    assigned_group_id := n.groupid;
    assigned_group_state := n.goalstate;
    assigned_candidate_priority := n.candidatepriority;
    assigned_replication_quorum := n.replicationquorum;
    assigned_node_name := n.nodename;
END
$$;

-- NULL keeps what is stored.
CREATE FUNCTION pgautofailover.update_node_metadata(
    node_id bigint, node_name text, node_host text, node_port integer)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    before pgautofailover.node;
    n pgautofailover.node;
BEGIN
    IF node_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'udpate_node_metadata requires a non-null nodeid';
    END IF;
    before := pgautofailover.lock_node(node_id, false);
    IF before.nodeid IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('node %s is not registered', node_id);
    END IF;
    UPDATE pgautofailover.node m
       SET nodename = coalesce(node_name, m.nodename), nodehost = coalesce(node_host, m.nodehost),
           nodeport = coalesce(node_port, m.nodeport)
     WHERE m.nodeid = node_id RETURNING m.* INTO n;
    IF (n.nodename, n.nodehost, n.nodeport) IS DISTINCT FROM (before.nodename, before.nodehost, before.nodeport) THEN
        -- The other nodes must learn of it: their access rules and connections name this host.
        PERFORM pgautofailover.record_change(n, format('Updating metadata of %s: it is now %s',
            pgautofailover.node_text(before), pgautofailover.node_text(n)));
        PERFORM pgautofailover.wake(n.formationid, n.groupid);
    END IF;
    RETURN true;
END
$$;

CREATE FUNCTION pgautofailover.set_node_system_identifier(
    IN node_id bigint, IN node_sysidentifier bigint,
    OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer)
RETURNS record LANGUAGE sql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
    UPDATE pgautofailover.node n SET sysidentifier = $2 WHERE n.nodeid = $1
    RETURNING n.nodeid, n.nodename, n.nodehost, n.nodeport
$$;

-- A group id alone does not name a group: with several formations nothing is guessed.
CREATE FUNCTION pgautofailover.set_group_system_identifier(
    IN group_id bigint, IN node_sysidentifier bigint,
    OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer)
RETURNS SETOF record LANGUAGE sql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
    UPDATE pgautofailover.node n SET sysidentifier = $2
     WHERE n.groupid = $1 AND n.sysidentifier = 0
       AND (SELECT count(DISTINCT m.formationid) = 1 FROM pgautofailover.node m
             WHERE m.groupid = $1 AND m.sysidentifier = 0)
    RETURNING n.nodeid, n.nodename, n.nodehost, n.nodeport
$$;
-- Reports.

-- Stores one report and returns the node as it is then. reached is NULL for clients that do not know goal numbers.
--
-- The usual report changes nothing: its node rests, and only the position moved. It takes the row and no other lock,
-- notifies nobody, and need not survive a crash of this server. It finds out by its own WHERE clause.
CREATE FUNCTION pgautofailover.store_report(
    formation_id text, node_id bigint, state pgautofailover.replication_state, running boolean,
    tli integer, lsn pg_lsn, sync_state text, clean boolean, streams boolean, reached bigint)
RETURNS pgautofailover.node LANGUAGE plpgsql AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    IF state IN ('single', 'wait_primary', 'primary', 'secondary', 'maintenance', 'demoted') THEN
        UPDATE pgautofailover.node m
           SET reporttime = pg_catalog.now(),
               reportedlsn = CASE WHEN lsn = '0/0' THEN m.reportedlsn ELSE lsn END,
               walreporttime = CASE WHEN lsn = '0/0' THEN m.walreporttime ELSE pg_catalog.now() END
         WHERE m.nodeid = node_id AND m.formationid = formation_id
           AND m.goalstate = state AND m.reportedstate = state AND m.reachednumber = m.goalnumber
           AND CASE WHEN reached IS NULL THEN m.answerednumber = m.goalnumber AND NOT m.haskeptsession
                    ELSE reached = m.goalnumber END
           AND m.reportedpgisrunning = running AND (tli = 0 OR tli = m.reportedtli)
           AND m.reportedrepstate = CASE WHEN sync_state = '' THEN 'unknown' ELSE sync_state END
           AND m.reportedcleanstop = clean AND m.reportedstreaming IS NOT DISTINCT FROM streams
        RETURNING m.* INTO n;
        IF FOUND THEN
            PERFORM pg_catalog.set_config('synchronous_commit', 'off', true);
            RETURN n;
        END IF;
    END IF;
    RETURN pgautofailover.store_changed_report(
        formation_id, node_id, state, running, tli, lsn, sync_state, clean, streams, reached);
END
$$;

CREATE FUNCTION pgautofailover.store_changed_report(
    formation_id text, node_id bigint, state pgautofailover.replication_state, running boolean,
    tli integer, lsn pg_lsn, sync_state text, clean boolean, streams boolean, reached bigint)
RETURNS pgautofailover.node LANGUAGE plpgsql AS $$
DECLARE
    n pgautofailover.node;
    before pgautofailover.node;
BEGIN
    SELECT m.* INTO before FROM pgautofailover.node m WHERE m.nodeid = node_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704',
            MESSAGE = pg_catalog.format('couldn''t find node with nodeid %s', node_id);
    END IF;
    IF before.formationid <> formation_id THEN
        RAISE EXCEPTION USING ERRCODE = '42P17',
            MESSAGE = pg_catalog.format('node %s does not belong to formation %s', node_id, formation_id);
    END IF;
    IF sync_state NOT IN ('', 'unknown', 'sync', 'async', 'quorum', 'potential') THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = pg_catalog.format('unknown pg_stat_replication.sync_state "%s"', sync_state);
    END IF;
    before := pgautofailover.lock_node(node_id, false);
    IF before.nodeid IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = pg_catalog.format(
            'node %s was removed while node_active() was waiting for a lock', node_id);
    END IF;
    UPDATE pgautofailover.node m
       SET reportedstate = state,
           reportedpgisrunning = running,
           reportedrepstate = CASE WHEN sync_state = '' THEN 'unknown' ELSE sync_state END,
           reporttime = pg_catalog.now(),
           reportedtli = CASE WHEN tli = 0 THEN m.reportedtli ELSE tli END,
           reportedlsn = CASE WHEN lsn = '0/0' THEN m.reportedlsn ELSE lsn END,
           walreporttime = CASE WHEN lsn = '0/0' THEN m.walreporttime ELSE pg_catalog.now() END,
           statechangetime = CASE WHEN m.reportedstate = state THEN m.statechangetime ELSE pg_catalog.now() END,
           reportedcleanstop = clean,
           reportedstreaming = streams,
           -- A client without numbers has established its goal when it reports the goal that it was last given.
           reachednumber = CASE WHEN reached IS NOT NULL THEN least(reached, m.goalnumber)
                                WHEN m.goalstate = state AND m.answerednumber = m.goalnumber THEN m.goalnumber
                                ELSE m.reachednumber END,
           answerednumber = m.goalnumber,
           haskeptsession = m.haskeptsession AND reached IS NOT NULL
     WHERE m.nodeid = node_id RETURNING m.* INTO n;
    IF n.reportedstate <> before.reportedstate THEN
        PERFORM pgautofailover.record_change(n, CASE WHEN n.goalstate = 'report_lsn'
            THEN pg_catalog.format('New state is reported by %s with LSN %s: %s',
                                   pgautofailover.node_text(n), n.reportedlsn, n.reportedstate)
            ELSE pg_catalog.format('New state is reported by %s: "%s"',
                                   pgautofailover.node_text(n), n.reportedstate) END);
    END IF;
    IF (n.reportedstate, n.reportedpgisrunning, n.reportedrepstate, n.reportedtli, n.reportedlsn, n.reportedcleanstop,
        n.reportedstreaming, n.reachednumber)
       IS DISTINCT FROM
       (before.reportedstate, before.reportedpgisrunning, before.reportedrepstate, before.reportedtli,
        before.reportedlsn, before.reportedcleanstop, before.reportedstreaming, before.reachednumber) THEN
        PERFORM pgautofailover.wake(n.formationid, n.groupid);
    END IF;
    RETURN n;
END
$$;

CREATE FUNCTION pgautofailover.node_active(
    IN formation_id text, IN node_id bigint, IN group_id integer,
    IN current_group_role pgautofailover.replication_state DEFAULT 'init',
    IN current_pg_is_running boolean DEFAULT true, IN current_tli integer DEFAULT 1,
    IN current_lsn pg_lsn DEFAULT '0/0', IN current_rep_state text DEFAULT '',
    OUT assigned_node_id bigint, OUT assigned_group_id integer,
    OUT assigned_group_state pgautofailover.replication_state, OUT assigned_candidate_priority integer,
    OUT assigned_replication_quorum boolean)
RETURNS record LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.store_report(formation_id, node_id, current_group_role, current_pg_is_running,
                                     current_tli, current_lsn, current_rep_state, false, NULL, NULL);
    assigned_node_id := n.nodeid;
    assigned_group_id := n.groupid;
    assigned_group_state := n.goalstate;
    assigned_candidate_priority := n.candidatepriority;
    assigned_replication_quorum := n.replicationquorum;
END
$$;

-- node_active for keepers that know more: not strict, because streaming may be unknown.
CREATE FUNCTION pgautofailover.keeper_report(
    IN formation_id text, IN node_id bigint, IN group_id integer,
    IN current_group_role pgautofailover.replication_state, IN current_pg_is_running boolean,
    IN current_tli integer, IN current_lsn pg_lsn, IN current_rep_state text,
    IN clean_stop boolean, IN streaming boolean, IN reached_goal_number bigint,
    OUT assigned_node_id bigint, OUT assigned_group_id integer,
    OUT assigned_group_state pgautofailover.replication_state, OUT assigned_candidate_priority integer,
    OUT assigned_replication_quorum boolean, OUT assigned_goal_number bigint)
RETURNS record LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.store_report(formation_id, node_id, current_group_role, current_pg_is_running, current_tli,
                                     current_lsn, current_rep_state, clean_stop, streaming,
                                     coalesce(reached_goal_number, 0));
    assigned_node_id := n.nodeid;
    assigned_group_id := n.groupid;
    assigned_group_state := n.goalstate;
    assigned_candidate_priority := n.candidatepriority;
    assigned_replication_quorum := n.replicationquorum;
    assigned_goal_number := n.goalnumber;
END
$$;

-- Makes the caller's session the node's reporting session. Shared, so that a keeper which connects anew never waits
-- for a session of its own that this server has not yet seen end.
CREATE FUNCTION pgautofailover.keep_session(node_id bigint)
RETURNS void LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pgautofailover.node n WHERE n.nodeid = node_id) THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('couldn''t find node with nodeid %s', node_id);
    END IF;
    PERFORM pg_advisory_lock_shared(727400012, (node_id & 2147483647)::integer);
    UPDATE pgautofailover.node n SET haskeptsession = true WHERE n.nodeid = node_id AND NOT n.haskeptsession;
END
$$;

CREATE FUNCTION pgautofailover.report_postgres_version(
    node_id bigint, pg_versionnum integer DEFAULT NULL, pg_version text DEFAULT NULL,
    pg_versionstring text DEFAULT NULL, citus_version text DEFAULT NULL)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
    UPDATE pgautofailover.node SET pg_versionnum = $2, pg_version = $3, pg_versionstring = $4, citus_version = $5
     WHERE nodeid = $1
$$;

-- A node that was rewound may carry another history under the same numbers: what it says last is true, and timelines
-- that its history does not have any more are forgotten.
CREATE FUNCTION pgautofailover.report_timeline_history(node_id bigint, history jsonb)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.lock_node(node_id, false);
    IF n.nodeid IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('couldn''t find node with nodeid %s', node_id);
    END IF;
    DELETE FROM pgautofailover.node_timeline_history h
     WHERE h.nodeid = node_id
       AND NOT EXISTS (SELECT FROM jsonb_to_recordset(history) AS e(tli integer, parenttli integer, switchpoint pg_lsn)
                        WHERE (e.tli, e.parenttli, e.switchpoint) = (h.tli, h.parenttli, h.switchpoint_lsn));
    INSERT INTO pgautofailover.node_timeline_history (nodeid, tli, parenttli, switchpoint_lsn)
    SELECT node_id, e.tli, e.parenttli, e.switchpoint
      FROM jsonb_to_recordset(history) AS e(tli integer, parenttli integer, switchpoint pg_lsn)
        ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM pgautofailover.wake(n.formationid, n.groupid);
    END IF;
END
$$;
-- Requests. Each one takes the locks, asks the predicates, and stores what is wanted; a decision takes it up.

CREATE FUNCTION pgautofailover.decider_alive()
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l
                    WHERE l.locktype = 'advisory' AND l.classid = 727400013 AND l.objid = 1 AND l.objsubid = 2
                      AND l.granted AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
                                                       WHERE d.datname = pg_catalog.current_database()))
$$;

-- A wish of an operator is refused when nobody is there to take it up: it would come true at an unexpected time.
-- What has happened already is stored all the same.
CREATE FUNCTION pgautofailover.store_intent(
    formation_id text, group_id integer, kind text, node_id bigint DEFAULT NULL, allow_data_loss boolean DEFAULT false,
    text text DEFAULT '', ghost jsonb DEFAULT NULL)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF kind NOT IN ('removed', 'registered', 'settings') AND NOT pgautofailover.decider_alive() THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = 'the monitor process is not running: nobody would take up this request',
            HINT = 'Start the monitor with `pg_autoctl run` in its data directory, then try again.';
    END IF;
    INSERT INTO pgautofailover.intent (formationid, groupid, kind, nodeid, allow_data_loss, text, ghost)
    VALUES (formation_id, group_id, store_intent.kind, node_id, store_intent.allow_data_loss, store_intent.text,
            store_intent.ghost);
    PERFORM pgautofailover.wake(formation_id, group_id);
END
$$;

-- The caller's word that acknowledged writes may be lost: guard_data_loss, switched off in this transaction.
CREATE FUNCTION pgautofailover.caller_allows_data_loss()
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT NOT coalesce(nullif(pg_catalog.current_setting('pgautofailover.guard_data_loss', true), ''), 'on')::boolean
$$;

CREATE FUNCTION pgautofailover.perform_failover(formation_id text DEFAULT 'default', group_id integer DEFAULT 0)
RETURNS void LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    allowed boolean := pgautofailover.caller_allows_data_loss();
BEGIN
    PERFORM pgautofailover.lock_formation(formation_id, false);
    PERFORM pgautofailover.lock_group(formation_id, group_id);
    PERFORM pgautofailover.raise_refusal(pgautofailover.check_failover(formation_id, group_id, allowed));
    IF NOT EXISTS (SELECT FROM pgautofailover.members(formation_id, group_id)) THEN
        -- Even a loss that is allowed needs a node that could take over.
        PERFORM pgautofailover.raise_refusal(pgautofailover.check_failover(formation_id, group_id, false));
    END IF;
    PERFORM pgautofailover.store_intent(formation_id, group_id, 'failover', allow_data_loss => allowed);
END
$$;

CREATE FUNCTION pgautofailover.lock_node_by_name(formation_id text, node_name text)
RETURNS pgautofailover.node LANGUAGE plpgsql AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.lock_node(
        (SELECT m.nodeid FROM pgautofailover.node m WHERE m.formationid = formation_id AND m.nodename = node_name),
        false);
    IF n.nodeid IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = pg_catalog.format(
            'node "%s" is not registered in formation "%s"', node_name, formation_id);
    END IF;
    RETURN n;
END
$$;

CREATE FUNCTION pgautofailover.perform_promotion(formation_id text, node_name text)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    allowed boolean := pgautofailover.caller_allows_data_loss();
    n pgautofailover.node;
    r pgautofailover.refusal;
BEGIN
    n := pgautofailover.lock_node_by_name(formation_id, node_name);
    r := pgautofailover.check_promotion(n, allowed);
    PERFORM pgautofailover.raise_refusal(r);
    IF r.code IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM pgautofailover.store_intent(n.formationid, n.groupid, 'promotion', n.nodeid, allowed);
    RETURN true;
END
$$;

CREATE FUNCTION pgautofailover.start_maintenance(node_id bigint)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.lock_node(node_id, false);
    IF n.nodeid IS NULL THEN
        RETURN false;
    END IF;
    IF n.reportedstate = 'maintenance' OR n.goalstate = 'maintenance' THEN
        RETURN true;
    END IF;
    PERFORM pgautofailover.raise_refusal(pgautofailover.check_start_maintenance(n));
    PERFORM pgautofailover.store_intent(n.formationid, n.groupid, 'start_maintenance', n.nodeid);
    RETURN true;
END
$$;

CREATE FUNCTION pgautofailover.stop_maintenance(node_id bigint)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.lock_node(node_id, false);
    IF n.nodeid IS NULL THEN
        RETURN false;
    END IF;
    PERFORM pgautofailover.raise_refusal(pgautofailover.check_stop_maintenance(n));
    PERFORM pgautofailover.store_intent(n.formationid, n.groupid, 'stop_maintenance', n.nodeid);
    RETURN true;
END
$$;

-- Forced, or when the node is gone already, the row goes here and now; the group keeps what it must know of it.
CREATE FUNCTION pgautofailover.remove_locked_node(n pgautofailover.node, force boolean)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF force OR pgautofailover.stable(n, 'dropped') THEN
        DELETE FROM pgautofailover.node m WHERE m.nodeid = n.nodeid;
        PERFORM pgautofailover.notify_log(pg_catalog.format('Removing %s from formation "%s" and group %s',
            pgautofailover.node_text(n), n.formationid, n.groupid));
        PERFORM pgautofailover.store_intent(n.formationid, n.groupid, 'removed', n.nodeid,
            ghost => pg_catalog.jsonb_build_object(
                'id', n.nodeid, 'name', n.nodename, 'host', n.nodehost, 'port', n.nodeport, 'goal', n.goalstate,
                'reported', n.reportedstate, 'quorum', n.replicationquorum, 'tli', n.reportedtli,
                'lsn', n.reportedlsn));
    ELSIF n.goalstate <> 'dropped' THEN
        PERFORM pgautofailover.store_intent(n.formationid, n.groupid, 'remove', n.nodeid);
    END IF;
    RETURN true;
END
$$;

CREATE FUNCTION pgautofailover.remove_node(node_id bigint, force boolean DEFAULT false)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.lock_node(node_id, true);
    IF n.nodeid IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('couldn''t find node with nodeid %s', node_id);
    END IF;
    RETURN pgautofailover.remove_locked_node(n, force);
END
$$;

CREATE FUNCTION pgautofailover.remove_node(node_host text, node_port integer DEFAULT 5432, force boolean DEFAULT false)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.lock_node(
        (SELECT m.nodeid FROM pgautofailover.node m WHERE m.nodehost = node_host AND m.nodeport = node_port), true);
    IF n.nodeid IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704',
            MESSAGE = format('couldn''t find node with hostname "%s" and port %s', node_host, node_port);
    END IF;
    RETURN pgautofailover.remove_locked_node(n, force);
END
$$;
-- Settings. The setting itself is stored here; that the primary has to apply it is a decision.

-- What follows a stored setting of a node: alone in its group it is an event, else the group's primary has to hear of it.
CREATE FUNCTION pgautofailover.setting_stored(n pgautofailover.node, alone_text text, intent_text text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT pg_catalog.count(*) FROM pgautofailover.members(n.formationid, n.groupid)) <= 1 THEN
        PERFORM pgautofailover.record_change(n, alone_text);
        PERFORM pgautofailover.wake(n.formationid, n.groupid);
        RETURN;
    END IF;
    PERFORM pgautofailover.store_intent(n.formationid, n.groupid, 'settings', n.nodeid, text => intent_text);
END
$$;

CREATE FUNCTION pgautofailover.set_node_candidate_priority(
    formation_id text, node_name text, candidate_priority integer)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.lock_node_by_name(formation_id, node_name);
    PERFORM pgautofailover.raise_refusal(pgautofailover.check_candidate_priority(n, candidate_priority));
    UPDATE pgautofailover.node m SET candidatepriority = candidate_priority
     WHERE m.nodeid = n.nodeid RETURNING m.* INTO n;
    PERFORM pgautofailover.setting_stored(n,
        format('Updating candidate priority to %s for %s', candidate_priority, pgautofailover.node_text(n)),
        format('updating %s candidate priority to %s', pgautofailover.node_text(n), candidate_priority));
    RETURN true;
END
$$;

CREATE FUNCTION pgautofailover.set_node_replication_quorum(
    formation_id text, node_name text, replication_quorum boolean)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
    word text := pgautofailover.bool_text(replication_quorum);
BEGIN
    n := pgautofailover.lock_node_by_name(formation_id, node_name);
    PERFORM pgautofailover.raise_refusal(pgautofailover.check_replication_quorum(n, replication_quorum));
    UPDATE pgautofailover.node m SET replicationquorum = replication_quorum
     WHERE m.nodeid = n.nodeid RETURNING m.* INTO n;
    PERFORM pgautofailover.setting_stored(n,
        format('Updating replicationQuorum to %s for %s', word, pgautofailover.node_text(n)),
        format('updating %s replication quorum to %s', pgautofailover.node_text(n), word));
    RETURN true;
END
$$;

CREATE FUNCTION pgautofailover.set_node_region(formation_id text, node_name text, region text)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.lock_node_by_name(formation_id, node_name);
    IF region = '' THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = 'invalid value for region: expected a non-empty string';
    END IF;
    UPDATE pgautofailover.node m SET region = set_node_region.region WHERE m.nodeid = n.nodeid;
    RETURN true;
END
$$;

-- Groups are locked in the order of their keys: with two formations at work, equal keys must not be taken crosswise.
CREATE FUNCTION pgautofailover.set_formation_number_sync_standbys(formation_id text, number_sync_standbys integer)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    v integer := number_sync_standbys;
    g integer;
    groups integer[];
BEGIN
    PERFORM pgautofailover.lock_formation(formation_id, true);
    IF NOT EXISTS (SELECT FROM pgautofailover.formation f WHERE f.formationid = formation_id) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('unknown formation "%s"', formation_id);
    END IF;
    IF v < 0 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', DETAIL = 'A non-negative integer is expected',
            MESSAGE = format('invalid value for number_sync_standbys: "%s"', v);
    END IF;
    SELECT array_agg(x.groupid ORDER BY pgautofailover.group_lock_key(formation_id, x.groupid)) INTO groups
      FROM (SELECT 0 AS groupid UNION SELECT n.groupid FROM pgautofailover.node n
             WHERE n.formationid = formation_id AND n.goalstate <> 'dropped') x;
    FOREACH g IN ARRAY groups LOOP
        PERFORM pgautofailover.lock_group(formation_id, g);
    END LOOP;
    SELECT array_agg(x ORDER BY x) INTO groups FROM unnest(groups) x;
    FOREACH g IN ARRAY groups LOOP
        PERFORM pgautofailover.raise_refusal(pgautofailover.check_number_sync_standbys(formation_id, g, v));
    END LOOP;
    UPDATE pgautofailover.formation f SET number_sync_standbys = v WHERE f.formationid = formation_id;
    FOREACH g IN ARRAY groups LOOP
        PERFORM pgautofailover.store_intent(formation_id, g, 'settings',
            text => format('updating number_sync_standbys to %s for formation %s', v, formation_id));
    END LOOP;
    RETURN true;
END
$$;
-- Readers.

-- NULL as group means the whole formation.
CREATE FUNCTION pgautofailover.get_nodes(
    IN formation_id text DEFAULT 'default', IN group_id integer DEFAULT NULL,
    OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer, OUT node_lsn pg_lsn,
    OUT node_is_primary boolean)
RETURNS SETOF record LANGUAGE plpgsql AS $$
BEGIN
    IF formation_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'formation_id must not be null';
    END IF;
    RETURN QUERY
    SELECT n.nodeid, n.nodename, n.nodehost, n.nodeport, n.reportedlsn, pgautofailover.is_writable(n.reportedstate)
      FROM pgautofailover.node n
     WHERE n.formationid = formation_id AND (group_id IS NULL OR n.groupid = group_id)
     ORDER BY n.nodeid;
END
$$;

CREATE FUNCTION pgautofailover.other_members(asking bigint)
RETURNS SETOF pgautofailover.node LANGUAGE plpgsql AS $$
DECLARE
    me pgautofailover.node;
BEGIN
    SELECT n.* INTO me FROM pgautofailover.node n WHERE n.nodeid = asking;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = pg_catalog.format('node %s is not registered', asking);
    END IF;
    RETURN QUERY SELECT n.* FROM pgautofailover.members(me.formationid, me.groupid) n WHERE n.nodeid <> asking;
END
$$;

CREATE FUNCTION pgautofailover.get_other_nodes(
    IN nodeid bigint,
    OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer, OUT node_lsn pg_lsn,
    OUT node_is_primary boolean)
RETURNS SETOF record LANGUAGE sql STRICT AS $$
    SELECT n.nodeid, n.nodename, n.nodehost, n.nodeport, n.reportedlsn, pgautofailover.is_writable(n.reportedstate)
      FROM pgautofailover.other_members($1) n ORDER BY n.nodeid
$$;

CREATE FUNCTION pgautofailover.get_other_nodes(
    IN nodeid bigint, IN current_state pgautofailover.replication_state,
    OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer, OUT node_lsn pg_lsn,
    OUT node_is_primary boolean)
RETURNS SETOF record LANGUAGE sql STRICT AS $$
    SELECT n.nodeid, n.nodename, n.nodehost, n.nodeport, n.reportedlsn, pgautofailover.is_writable(n.reportedstate)
      FROM pgautofailover.other_members($1) n WHERE n.goalstate = $2 ORDER BY n.nodeid
$$;

-- A writable goal first, so that a failover's winner is named from the moment when it is ordered to open.
CREATE FUNCTION pgautofailover.get_primary(
    IN formation_id text DEFAULT 'default', IN group_id integer DEFAULT 0,
    OUT primary_node_id bigint, OUT primary_name text, OUT primary_host text, OUT primary_port integer)
RETURNS record LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
BEGIN
    SELECT n.nodeid, n.nodename, n.nodehost, n.nodeport
      INTO primary_node_id, primary_name, primary_host, primary_port
      FROM pgautofailover.members(formation_id, group_id) n
     WHERE pgautofailover.is_writable(n.goalstate) OR pgautofailover.belongs_to_primary(n.reportedstate)
     ORDER BY pgautofailover.is_writable(n.goalstate) DESC,
              n.goalstate IN ('draining', 'demote_timeout', 'prepare_maintenance') DESC, n.nodeid
     LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'group has no writable node right now';
    END IF;
END
$$;

CREATE FUNCTION pgautofailover.get_coordinator(
    IN formation_id text DEFAULT 'default', OUT node_host text, OUT node_port integer)
RETURNS SETOF record LANGUAGE sql STRICT AS $$
    SELECT n.nodehost, n.nodeport
      FROM pgautofailover.formation f JOIN pgautofailover.members(f.formationid, 0) n ON f.kind = 'citus'
     WHERE f.formationid = $1 AND n.reportedstate IN ('single', 'wait_primary', 'primary')
       AND n.goalstate IN ('single', 'wait_primary', 'primary')
     ORDER BY n.nodeid LIMIT 1
$$;

CREATE FUNCTION pgautofailover.get_most_advanced_standby(
    IN formationid text DEFAULT 'default', IN groupid integer DEFAULT 0, IN caller_node_id bigint DEFAULT 0,
    OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer, OUT node_lsn pg_lsn,
    OUT node_is_primary boolean)
RETURNS SETOF record LANGUAGE sql STRICT AS $$
    SELECT n.nodeid, n.nodename, n.nodehost, n.nodeport, n.reportedlsn, false
      FROM pgautofailover.node n
     WHERE n.formationid = $1 AND n.groupid = $2 AND n.reportedstate = 'report_lsn' AND n.nodeid <> $3
       AND (n.health > 0 OR NOT pgautofailover.caller_allows_data_loss())
     ORDER BY n.reportedlsn DESC, n.health DESC, n.nodeid LIMIT 1
$$;

-- What the group's decisions stored: the value that its primary is to have, empty before the first.
CREATE FUNCTION pgautofailover.synchronous_standby_names(
    formation_id text DEFAULT 'default', group_id integer DEFAULT 0)
RETURNS text LANGUAGE plpgsql STRICT AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pgautofailover.members(formation_id, group_id)) THEN
        RAISE EXCEPTION USING ERRCODE = '42P17', MESSAGE = pg_catalog.format(
            'no nodes found in group %s of formation "%s"', group_id, formation_id);
    END IF;
    RETURN coalesce((SELECT s.standby_names FROM pgautofailover.group_state s
                      WHERE s.formationid = formation_id AND s.groupid = group_id), '');
END
$$;

CREATE FUNCTION pgautofailover.current_state(
    IN formation_id text DEFAULT 'default',
    OUT formation_kind text, OUT nodename text, OUT nodehost text, OUT nodeport integer, OUT group_id integer,
    OUT node_id bigint, OUT current_group_state pgautofailover.replication_state,
    OUT assigned_group_state pgautofailover.replication_state, OUT candidate_priority integer,
    OUT replication_quorum boolean, OUT reported_tli integer, OUT reported_lsn pg_lsn, OUT health integer,
    OUT nodecluster text, OUT noderegion text)
RETURNS SETOF record LANGUAGE sql STRICT AS $$
    SELECT f.kind, n.nodename, n.nodehost, n.nodeport, n.groupid, n.nodeid, n.reportedstate, n.goalstate,
           n.candidatepriority, n.replicationquorum, n.reportedtli, n.reportedlsn, n.health, n.nodecluster, n.region
      FROM pgautofailover.node n JOIN pgautofailover.formation f USING (formationid)
     WHERE n.formationid = $1 ORDER BY n.groupid, n.nodeid
$$;

CREATE FUNCTION pgautofailover.current_state(
    IN formation_id text, IN group_id integer,
    OUT formation_kind text, OUT nodename text, OUT nodehost text, OUT nodeport integer, OUT group_id integer,
    OUT node_id bigint, OUT current_group_state pgautofailover.replication_state,
    OUT assigned_group_state pgautofailover.replication_state, OUT candidate_priority integer,
    OUT replication_quorum boolean, OUT reported_tli integer, OUT reported_lsn pg_lsn, OUT health integer,
    OUT nodecluster text, OUT noderegion text)
RETURNS SETOF record LANGUAGE sql STRICT AS $$
    SELECT c.* FROM pgautofailover.current_state($1) c WHERE c.group_id = $2
$$;

CREATE FUNCTION pgautofailover.last_events(count integer DEFAULT 10)
RETURNS SETOF pgautofailover.event LANGUAGE sql STRICT AS $$
    SELECT e.* FROM (SELECT * FROM pgautofailover.event ORDER BY eventid DESC LIMIT $1) e
     ORDER BY e.eventtime, e.eventid
$$;

CREATE FUNCTION pgautofailover.last_events(formation_id text DEFAULT 'default', count integer DEFAULT 10)
RETURNS SETOF pgautofailover.event LANGUAGE sql STRICT AS $$
    SELECT e.* FROM (SELECT * FROM pgautofailover.event WHERE formationid = $1 ORDER BY eventid DESC LIMIT $2) e
     ORDER BY e.eventtime, e.eventid
$$;

CREATE FUNCTION pgautofailover.last_events(formation_id text, group_id integer, count integer DEFAULT 10)
RETURNS SETOF pgautofailover.event LANGUAGE sql STRICT AS $$
    SELECT e.* FROM (SELECT * FROM pgautofailover.event WHERE formationid = $1 AND groupid = $2
                      ORDER BY eventid DESC LIMIT $3) e
     ORDER BY e.eventtime, e.eventid
$$;

CREATE FUNCTION pgautofailover.formation_settings(
    IN formation_id text DEFAULT 'default',
    OUT context text, OUT group_id integer, OUT node_id bigint, OUT nodename text, OUT setting text, OUT value text)
RETURNS SETOF record LANGUAGE sql STRICT AS $$
    SELECT s.context, s.group_id, s.node_id, s.nodename, s.setting, s.value
      FROM (SELECT 1 AS part, 'formation' AS context, NULL::integer AS group_id, NULL::bigint AS node_id,
                   f.formationid AS nodename, 'number_sync_standbys' AS setting, f.number_sync_standbys::text AS value
              FROM pgautofailover.formation f WHERE f.formationid = $1
             UNION ALL
            SELECT 2, 'primary', n.groupid, n.nodeid, n.nodename, 'synchronous_standby_names',
                   pg_catalog.format('''%s''', coalesce(g.standby_names, ''))
              FROM pgautofailover.node n LEFT JOIN pgautofailover.group_state g USING (formationid, groupid)
             WHERE n.formationid = $1 AND pgautofailover.is_writable(n.reportedstate)
             UNION ALL
            SELECT 3, 'node', n.groupid, n.nodeid, n.nodename, 'replication quorum',
                   pgautofailover.bool_text(n.replicationquorum)
              FROM pgautofailover.node n WHERE n.formationid = $1
             UNION ALL
            SELECT 4, 'node', n.groupid, n.nodeid, n.nodename, 'candidate priority', n.candidatepriority::text
              FROM pgautofailover.node n WHERE n.formationid = $1) s
     ORDER BY s.part, s.node_id
$$;

CREATE FUNCTION pgautofailover.formation_uri(
    formation_id text DEFAULT 'default', cluster_name text DEFAULT 'default', sslmode text DEFAULT 'prefer',
    sslrootcert text DEFAULT '', sslcrl text DEFAULT '')
RETURNS text LANGUAGE sql STRICT AS $$
    SELECT 'postgres://' || pg_catalog.string_agg(
               CASE WHEN pg_catalog.strpos(n.nodehost, ':') > 0 THEN '[' || n.nodehost || ']' ELSE n.nodehost END
               || ':' || n.nodeport, ',' ORDER BY n.nodeid)
           || '/' || f.dbname || '?'
           || CASE WHEN $2 = 'default' THEN 'target_session_attrs=read-write&' ELSE '' END
           || 'sslmode=' || $3
           || CASE WHEN $4 = '' THEN '' ELSE '&sslrootcert=' || $4 END
           || CASE WHEN $5 = '' THEN '' ELSE '&sslcrl=' || $5 END
      FROM pgautofailover.formation f JOIN pgautofailover.node n USING (formationid)
     WHERE f.formationid = $1 AND n.groupid = 0 AND n.nodecluster = $2
     GROUP BY f.dbname
$$;

CREATE FUNCTION pgautofailover.accept_timeline(
    formation_id text, group_id integer, target_tli integer, decided_by text DEFAULT NULL)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pgautofailover.node n
                    WHERE n.formationid = formation_id AND n.groupid = group_id
                      AND (n.reportedtli = target_tli
                           OR EXISTS (SELECT FROM pgautofailover.node_timeline_history h
                                       WHERE h.nodeid = n.nodeid AND target_tli IN (h.tli, h.parenttli)))) THEN
        RAISE EXCEPTION 'timeline % has never been reported by any node in formation "%" group %',
            target_tli, formation_id, group_id;
    END IF;
    UPDATE pgautofailover.accepted_timeline t SET resolved_at = now()
     WHERE t.formationid = formation_id AND t.groupid = group_id AND t.resolved_at IS NULL;
    INSERT INTO pgautofailover.accepted_timeline (formationid, groupid, accepted_tli, decided_by, decided_at)
    VALUES (formation_id, group_id, target_tli, accept_timeline.decided_by, clock_timestamp());
    PERFORM pgautofailover.wake(formation_id, group_id);
    RETURN true;
END
$$;

CREATE FUNCTION pgautofailover.resolve_accepted_timeline(formation_id text, group_id integer)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
BEGIN
    UPDATE pgautofailover.accepted_timeline t SET resolved_at = now()
     WHERE t.formationid = formation_id AND t.groupid = group_id AND t.resolved_at IS NULL;
    PERFORM pgautofailover.wake(formation_id, group_id);
    RETURN true;
END
$$;

-- The reference is the accepted timeline, else the primary's, else the highest. On its lineage is who is on it or on
-- one of its ancestors, which some node's history names.
CREATE FUNCTION pgautofailover.node_timeline_status(
    IN formation_id text, IN group_id integer,
    OUT node_id bigint, OUT node_name text, OUT tli integer, OUT lsn pg_lsn, OUT reference_tli integer,
    OUT on_accepted_lineage boolean)
RETURNS SETOF record LANGUAGE sql AS $$
    WITH RECURSIVE reference AS (
        SELECT coalesce(
            (SELECT t.accepted_tli FROM pgautofailover.accepted_timeline t
              WHERE t.formationid = $1 AND t.groupid = $2 AND t.resolved_at IS NULL
              ORDER BY t.decided_at DESC LIMIT 1),
            (SELECT n.reportedtli FROM pgautofailover.members($1, $2) n
              WHERE pgautofailover.is_writable(n.goalstate) ORDER BY n.nodeid LIMIT 1),
            (SELECT pg_catalog.max(n.reportedtli) FROM pgautofailover.members($1, $2) n)) AS tli
    ), lineage(tli) AS (
        SELECT r.tli FROM reference r
         UNION
        SELECT h.parenttli FROM lineage l
          JOIN pgautofailover.node_timeline_history h ON h.tli = l.tli
          JOIN pgautofailover.members($1, $2) n ON n.nodeid = h.nodeid
    )
    SELECT n.nodeid, n.nodename, n.reportedtli, n.reportedlsn, r.tli, n.reportedtli IN (SELECT l.tli FROM lineage l)
      FROM pgautofailover.members($1, $2) n CROSS JOIN reference r ORDER BY n.nodeid
$$;
-- For the one monitor process. Nobody else may execute these.

-- Takes the decider's lock for the session and a new number; NULL when another process has it. Transactions of the
-- holder before hold the second lock while they run, so none of them commits after the number has changed.
CREATE FUNCTION pgautofailover.acquire_decider(new_holder text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    new_number bigint;
BEGIN
    IF NOT pg_catalog.pg_try_advisory_lock(727400013, 1) THEN
        RETURN NULL;
    END IF;
    PERFORM pg_catalog.pg_advisory_xact_lock(727400013, 2);
    UPDATE pgautofailover.decider d SET number = d.number + 1, holder = new_holder, since = pg_catalog.now()
    RETURNING d.number INTO new_number;
    RETURN new_number;
END
$$;

-- Begins a decision: false when the caller is not the decider any more. The number is read by a statement of its own,
-- whose snapshot is younger than the lock.
CREATE FUNCTION pgautofailover.lock_for_decision(my_number bigint, formation_id text, group_id integer)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock_shared(727400013, 2);
    IF NOT EXISTS (SELECT FROM pgautofailover.decider d WHERE d.number = my_number) THEN
        RETURN false;
    END IF;
    PERFORM pgautofailover.lock_formation(formation_id, false);
    PERFORM pgautofailover.lock_group(formation_id, group_id);
    RETURN true;
END
$$;

CREATE FUNCTION pgautofailover.set_node_health(node_id bigint, verdict integer)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    before pgautofailover.node;
    n pgautofailover.node;
BEGIN
    before := pgautofailover.lock_node(node_id, false);
    UPDATE pgautofailover.node m SET health = verdict, healthchecktime = pg_catalog.now()
     WHERE m.nodeid = before.nodeid RETURNING m.* INTO n;
    IF n.health = before.health OR n.nodeid IS NULL THEN
        RETURN;
    END IF;
    IF n.health >= 0 THEN
        PERFORM pgautofailover.record_change(n, pg_catalog.format('Node %s is marked as %s by the monitor',
            pgautofailover.node_text(n), CASE WHEN n.health = 0 THEN 'unhealthy' ELSE 'healthy' END));
    END IF;
    PERFORM pgautofailover.wake(n.formationid, n.groupid);
END
$$;

CREATE FUNCTION pgautofailover.testing_set_node_health(
    node_id bigint, health integer, health_check_age interval, report_age interval, state_change_age interval)
RETURNS void LANGUAGE sql AS $$
    UPDATE pgautofailover.node
       SET health = $2, healthchecktime = pg_catalog.now() - $3, reporttime = pg_catalog.now() - $4,
           statechangetime = pg_catalog.now() - $5
     WHERE nodeid = $1
$$;
-- The state machine as tables to look at. It lives in the monitor process, which writes its tables here whenever it
-- installs or upgrades the schema; nothing reads them to decide.

CREATE TABLE pgautofailover.fsm_rule (
    rank    integer NOT NULL PRIMARY KEY, -- in the order of evaluation
    pos     integer NOT NULL,
    section text NOT NULL,
    name    text NOT NULL,
    comment text NOT NULL
);

CREATE TABLE pgautofailover.fsm_order (
    current_state  pgautofailover.replication_state NOT NULL,
    assigned_state pgautofailover.replication_state NOT NULL,
    PRIMARY KEY (current_state, assigned_state)
);

-- The conditions and goals of a rule are code; its comment tells them in words.
CREATE FUNCTION pgautofailover.dump_fsm(
    OUT pos integer, OUT section text, OUT comment text, OUT active_node_current_state text,
    OUT other_node_current_state text, OUT candidate_node_current_state text, OUT active_node_conditions text,
    OUT other_node_conditions text, OUT candidate_node_conditions text, OUT group_conditions text,
    OUT active_node_assigned_state text, OUT other_node_assigned_state text, OUT has_extra_action boolean,
    OUT section_path text)
RETURNS SETOF record LANGUAGE sql AS $$
    SELECT r.pos, r.section, r.comment, NULL::text, NULL::text, NULL::text, NULL::text, NULL::text, NULL::text,
           NULL::text, NULL::text, NULL::text, false,
           pg_catalog.concat_ws('.', nullif(r.section, ''), pg_catalog.replace(r.name, '-', '_'))
      FROM pgautofailover.fsm_rule r ORDER BY r.rank
$$;

CREATE VIEW pgautofailover.fsm AS SELECT * FROM pgautofailover.dump_fsm();

CREATE FUNCTION pgautofailover.dump_fsm_edges(
    OUT pos integer, OUT current_state pgautofailover.replication_state,
    OUT assigned_state pgautofailover.replication_state)
RETURNS SETOF record LANGUAGE sql AS $$
    SELECT (pg_catalog.row_number() OVER (ORDER BY o.assigned_state, o.current_state))::integer,
           o.current_state, o.assigned_state
      FROM pgautofailover.fsm_order o ORDER BY 1
$$;

-- What the monitor may order and a keeper with these edges cannot do. "any" stands for every state.
CREATE FUNCTION pgautofailover.check_fsm_reachability(
    IN keeper_edges jsonb,
    OUT pos integer, OUT current_state pgautofailover.replication_state,
    OUT assigned_state pgautofailover.replication_state, OUT comment text)
RETURNS SETOF record LANGUAGE sql AS $$
    SELECT d.pos, d.current_state, d.assigned_state,
           pg_catalog.format('the keeper has no way from %s to %s', d.current_state, d.assigned_state)
      FROM pgautofailover.dump_fsm_edges() d
     WHERE NOT EXISTS (SELECT FROM pg_catalog.jsonb_to_recordset(keeper_edges) AS e(current text, assigned text)
                        WHERE e.current IN (d.current_state::text, 'any')
                          AND e.assigned IN (d.assigned_state::text, 'any'))
     ORDER BY d.pos
$$;
-- Grants. Functions stay executable by everybody who may use the schema, as clients expect, except our inner ones.

GRANT SELECT ON ALL TABLES IN SCHEMA pgautofailover TO autoctl_node;

DO $$
DECLARE
    fn regprocedure;
BEGIN
    FOR fn IN
        SELECT p.oid FROM pg_catalog.pg_proc p
         WHERE p.pronamespace = 'pgautofailover'::regnamespace
           AND p.proname IN ('store_intent', 'remove_locked_node', 'record_change', 'store_event', 'insert_formation',
                             'set_opt_secondary', 'store_report', 'store_changed_report', 'setting_stored',
                             'acquire_decider', 'lock_for_decision', 'set_node_health')
    LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', fn);
    END LOOP;
    FOR fn IN
        SELECT p.oid FROM pg_catalog.pg_proc p
         WHERE p.pronamespace = 'pgautofailover'::regnamespace
           AND p.proname IN ('create_formation', 'drop_formation', 'set_formation_number_sync_standbys',
               'register_node', 'node_active', 'keeper_report', 'keep_session', 'update_node_metadata',
               'set_node_system_identifier', 'set_group_system_identifier', 'set_node_candidate_priority',
               'set_node_replication_quorum', 'set_node_region', 'get_nodes', 'get_other_nodes', 'get_primary',
               'get_coordinator', 'get_most_advanced_standby', 'synchronous_standby_names', 'current_state',
               'last_events', 'perform_failover', 'perform_promotion', 'start_maintenance', 'stop_maintenance',
               'remove_node', 'report_postgres_version', 'report_timeline_history', 'accept_timeline',
               'resolve_accepted_timeline', 'node_timeline_status', 'dump_fsm', 'dump_fsm_edges',
               'check_fsm_reachability', 'decider_alive')
    LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO autoctl_node', fn);
    END LOOP;
END
$$;

-- Keepers of pg_auto_failover ask pg_available_extensions for the monitor's version before every report. There is no
-- extension: a view of that name answers, found first by its search_path. The version is a setting, because one
-- monitor serves keepers of one version at a time.
CREATE SCHEMA pgautofailover_catalog;
CREATE VIEW pgautofailover_catalog.pg_available_extensions AS
    SELECT 'pgautofailover'::name AS name, v.version AS default_version, v.version AS installed_version,
           'pg_auto_failover monitor'::text AS comment
      FROM (SELECT coalesce(nullif(pg_catalog.current_setting('pgautofailover.extension_version', true), ''), '2.2')
                   AS version) v
     UNION ALL
    SELECT e.name, e.default_version, e.installed_version, e.comment
      FROM pg_catalog.pg_available_extensions e WHERE e.name <> 'pgautofailover';
GRANT USAGE ON SCHEMA pgautofailover_catalog TO autoctl_node;
GRANT SELECT ON pgautofailover_catalog.pg_available_extensions TO autoctl_node;

DO $$
BEGIN
    EXECUTE pg_catalog.format(
        'ALTER ROLE autoctl_node IN DATABASE %I SET search_path TO pgautofailover_catalog, pg_catalog, "$user", public',
        pg_catalog.current_database());
END
$$;

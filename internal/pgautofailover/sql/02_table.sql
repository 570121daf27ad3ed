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

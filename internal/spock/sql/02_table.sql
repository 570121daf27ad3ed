-- Spock's tables, column by column.

CREATE TABLE spock.node (
    node_id   oid PRIMARY KEY,
    node_name name NOT NULL UNIQUE,
    location  text,
    country   text,
    info      jsonb
);

CREATE TABLE spock.node_interface (
    if_id     oid PRIMARY KEY,
    if_name   name NOT NULL,
    if_nodeid oid REFERENCES spock.node (node_id) ON UPDATE CASCADE,
    if_dsn    text NOT NULL,
    UNIQUE (if_nodeid, if_name)
);

CREATE TABLE spock.local_node (
    node_id              oid PRIMARY KEY REFERENCES spock.node (node_id),
    node_local_interface oid NOT NULL REFERENCES spock.node_interface (if_id)
);
-- At most one row.
CREATE UNIQUE INDEX local_node_onlyone ON spock.local_node ((true));

CREATE TABLE spock.subscription (
    sub_id                  oid PRIMARY KEY,
    sub_name                name NOT NULL UNIQUE,
    sub_origin              oid NOT NULL REFERENCES spock.node (node_id) ON UPDATE CASCADE,
    sub_target              oid NOT NULL REFERENCES spock.node (node_id) ON UPDATE CASCADE,
    sub_origin_if           oid NOT NULL REFERENCES spock.node_interface (if_id),
    sub_target_if           oid NOT NULL REFERENCES spock.node_interface (if_id),
    sub_enabled             boolean NOT NULL DEFAULT true,
    sub_slot_name           name NOT NULL,
    sub_replication_sets    text[],
    sub_forward_origins     text[],
    sub_apply_delay         interval NOT NULL DEFAULT '0',
    sub_force_text_transfer boolean NOT NULL DEFAULT false,
    sub_skip_lsn            pg_lsn NOT NULL DEFAULT '0/0',
    sub_skip_schema         text[],
    sub_created_at          timestamptz
);

CREATE TABLE spock.local_sync_status (
    sync_kind      "char" NOT NULL CHECK (sync_kind IN ('i', 's', 'd', 'f')),
    sync_subid     oid NOT NULL REFERENCES spock.subscription (sub_id),
    sync_nspname   name,
    sync_relname   name,
    sync_status    "char" NOT NULL,
    sync_statuslsn pg_lsn NOT NULL,
    UNIQUE (sync_subid, sync_nspname, sync_relname)
);

CREATE TABLE spock.replication_set (
    set_id             oid PRIMARY KEY,
    set_nodeid         oid NOT NULL REFERENCES spock.node (node_id) ON UPDATE CASCADE,
    set_name           name NOT NULL,
    replicate_insert   boolean NOT NULL DEFAULT true,
    replicate_update   boolean NOT NULL DEFAULT true,
    replicate_delete   boolean NOT NULL DEFAULT true,
    replicate_truncate boolean NOT NULL DEFAULT true,
    UNIQUE (set_nodeid, set_name)
);

CREATE TABLE spock.replication_set_table (
    set_id         oid NOT NULL,
    set_reloid     regclass NOT NULL,
    set_att_list   text[],
    set_row_filter pg_node_tree,
    PRIMARY KEY (set_id, set_reloid)
);

CREATE TABLE spock.replication_set_seq (
    set_id     oid NOT NULL,
    set_seqoid regclass NOT NULL,
    PRIMARY KEY (set_id, set_seqoid)
);

CREATE TABLE spock.sequence_state (
    seqoid     oid PRIMARY KEY,
    cache_size integer NOT NULL,
    last_value bigint NOT NULL
);

CREATE TABLE spock.depend (
    classid     oid NOT NULL,
    objid       oid NOT NULL,
    objsubid    integer NOT NULL,
    refclassid  oid NOT NULL,
    refobjid    oid NOT NULL,
    refobjsubid integer NOT NULL,
    deptype     "char" NOT NULL
);
CREATE INDEX depend_depender_index ON spock.depend (classid, objid, objsubid);
CREATE INDEX depend_reference_index ON spock.depend (refclassid, refobjid, refobjsubid);

CREATE TABLE spock.pii (
    id         integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    pii_schema text NOT NULL,
    pii_table  text NOT NULL,
    pii_column text NOT NULL
);

CREATE TABLE spock.reserved_object (
    name              name NOT NULL,
    kind              text NOT NULL CHECK (kind IN ('schema', 'extension')),
    exclude_from_dump boolean NOT NULL DEFAULT true,
    block_in_repset   boolean NOT NULL DEFAULT true,
    replicate_ddl     boolean,
    builtin           boolean NOT NULL DEFAULT false,
    PRIMARY KEY (name, kind),
    CHECK ((replicate_ddl IS NOT NULL) = (kind = 'schema'))
);
INSERT INTO spock.reserved_object (name, kind, exclude_from_dump, block_in_repset, replicate_ddl, builtin) VALUES
    ('spock', 'schema', true, true, true, true),
    ('spock', 'extension', true, true, NULL, true),
    ('snowflake', 'schema', true, true, true, true),
    ('snowflake', 'extension', true, true, NULL, true),
    ('lolor', 'schema', true, false, true, true),
    ('lolor', 'extension', true, false, NULL, true),
    ('pgedge_ace', 'schema', true, true, false, true);

CREATE TABLE spock.resolutions (
    id                  integer GENERATED ALWAYS AS IDENTITY,
    node_name           name NOT NULL,
    log_time            timestamptz NOT NULL,
    relname             text,
    idxname             text,
    conflict_type       text,
    conflict_resolution text,
    local_origin        integer,
    local_tuple         text,
    local_xid           xid,
    local_timestamp     timestamptz,
    remote_origin       integer,
    remote_tuple        text,
    remote_xid          xid,
    remote_timestamp    timestamptz,
    remote_lsn          pg_lsn,
    PRIMARY KEY (id, node_name)
);
CREATE INDEX resolutions_log_time_idx ON spock.resolutions (log_time);

CREATE TABLE spock.exception_log (
    remote_origin    oid NOT NULL,
    remote_commit_ts timestamptz NOT NULL,
    command_counter  integer NOT NULL,
    retry_errored_at timestamptz NOT NULL,
    remote_xid       bigint NOT NULL,
    local_origin     oid,
    local_commit_ts  timestamptz,
    table_schema     text,
    table_name       text,
    operation        text,
    local_tup        jsonb,
    remote_old_tup   jsonb,
    remote_new_tup   jsonb,
    ddl_statement    text,
    ddl_user         text,
    error_message    text NOT NULL,
    PRIMARY KEY (remote_origin, remote_commit_ts, command_counter, retry_errored_at)
);

CREATE TABLE spock.exception_status (
    remote_origin      oid NOT NULL,
    remote_commit_ts   timestamptz NOT NULL,
    retry_errored_at   timestamptz NOT NULL,
    remote_xid         bigint NOT NULL,
    status             text NOT NULL,
    resolved_at        timestamptz,
    resolution_details jsonb,
    PRIMARY KEY (remote_origin, remote_commit_ts, retry_errored_at)
);

CREATE TABLE spock.exception_status_detail (
    remote_origin      oid NOT NULL,
    remote_commit_ts   timestamptz NOT NULL,
    command_counter    integer NOT NULL,
    retry_errored_at   timestamptz NOT NULL,
    remote_xid         bigint NOT NULL,
    status             text NOT NULL,
    resolved_at        timestamptz,
    resolution_details jsonb,
    PRIMARY KEY (remote_origin, remote_commit_ts, command_counter, retry_errored_at),
    FOREIGN KEY (remote_origin, remote_commit_ts, retry_errored_at)
        REFERENCES spock.exception_status (remote_origin, remote_commit_ts, retry_errored_at)
);

CREATE TABLE spock.queue (
    queued_at        timestamptz NOT NULL,
    role             name NOT NULL,
    replication_sets text[],
    message_type     "char" NOT NULL,
    message          json NOT NULL
);

-- The last four columns are those by which release 6 calls the same facts.
CREATE TABLE spock.progress (
    node_id           oid NOT NULL,
    remote_node_id    oid NOT NULL,
    remote_commit_ts  timestamptz NOT NULL,
    remote_lsn        pg_lsn NOT NULL,
    remote_insert_lsn pg_lsn NOT NULL,
    last_updated_ts   timestamptz NOT NULL,
    updated_by_decode boolean NOT NULL,
    dbid              oid,
    prev_remote_ts    timestamptz,
    remote_commit_lsn pg_lsn,
    received_lsn      pg_lsn,
    PRIMARY KEY (node_id, remote_node_id)
) WITH (fillfactor = 50);

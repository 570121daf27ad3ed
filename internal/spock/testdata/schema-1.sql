-- Version 1 of the schema as it was installed first.
-- The two schemas and the version. Schema spock has what clients know, and private tables named pgdrover_...; schema
-- pgdrover has private functions, so that lists of either show no strangers. CREATE EXTENSION has made schema spock
-- before it runs this text.

DO $$
BEGIN
    IF pg_catalog.current_setting('server_version_num')::integer < 150000 THEN
        RAISE EXCEPTION USING ERRCODE = '0A000', MESSAGE = pg_catalog.format(
            'Unsupported PostgreSQL major version %s',
            pg_catalog.current_setting('server_version_num')::integer / 10000);
    END IF;
    IF pg_catalog.to_regnamespace('spock') IS NULL THEN
        CREATE SCHEMA spock;
    END IF;
END
$$;

CREATE SCHEMA pgdrover;

CREATE TABLE spock.pgdrover_schema_version (
    version      integer NOT NULL,
    installed_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
INSERT INTO spock.pgdrover_schema_version (version) VALUES (1);

CREATE FUNCTION spock.spock_version()
RETURNS text LANGUAGE sql AS $$ SELECT '5.0.11'::text $$;

CREATE FUNCTION spock.spock_version_num()
RETURNS integer LANGUAGE sql AS $$ SELECT 50011 $$;

CREATE FUNCTION spock.spock_max_proto_version()
RETURNS integer LANGUAGE sql AS $$ SELECT 4 $$;

CREATE FUNCTION spock.spock_min_proto_version()
RETURNS integer LANGUAGE sql AS $$ SELECT 3 $$;

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

-- Our own tables. They are in schema spock, because scripts take every table outside it for a user's; none is published
-- but the texts of row filters.

-- Text of each row filter: what applies it needs a text, and pg_node_tree does not survive a dump.
CREATE TABLE spock.pgdrover_row_filter (
    set_id     oid NOT NULL,
    set_reloid oid NOT NULL,
    row_filter text NOT NULL,
    PRIMARY KEY (set_id, set_reloid)
);

-- What the engine knows of a subscription beyond its definition. A subscription that sub_create could not check is
-- pending until the engine has.
CREATE TABLE spock.pgdrover_subscription (
    sub_id            oid PRIMARY KEY REFERENCES spock.subscription (sub_id) ON DELETE CASCADE,
    pending           boolean NOT NULL DEFAULT false,
    state             text,
    state_since       timestamptz,
    last_error        text,
    last_error_code   text,
    last_error_at     timestamptz,
    failures          integer NOT NULL DEFAULT 0,
    provider_sysid    text,
    provider_timeline integer,
    clean_stop        boolean NOT NULL DEFAULT false,
    clean_lsn         pg_lsn,
    sync_requested    boolean NOT NULL DEFAULT false,
    sync_truncate     boolean NOT NULL DEFAULT false
) WITH (fillfactor = 70);

-- One row for each session that applies, written in the transaction it applies: exact in every snapshot.
CREATE TABLE spock.pgdrover_progress (
    sub_id           oid NOT NULL REFERENCES spock.subscription (sub_id) ON DELETE CASCADE,
    worker           integer NOT NULL,
    remote_lsn       pg_lsn NOT NULL,
    remote_commit_ts timestamptz,
    done             pg_lsn[],
    PRIMARY KEY (sub_id, worker)
) WITH (fillfactor = 50);

-- Origins of this database's subscriptions, and the node that each stands for in commit stamps. A retired origin is
-- kept, renamed, until every slot has passed the point of its retirement.
CREATE TABLE spock.pgdrover_origin (
    roident    oid PRIMARY KEY,
    roname     text NOT NULL,
    node_id    oid NOT NULL,
    sub_id     oid,
    worker     integer NOT NULL DEFAULT 0,
    retired_at pg_lsn
);
CREATE INDEX pgdrover_origin_node ON spock.pgdrover_origin (node_id);

-- Deleted keys. A row without key stands for all rows of the relation (TRUNCATE). The stamp is that of the row's own
-- xmin until commit_time and author say otherwise; author NULL is this node.
CREATE TABLE spock.pgdrover_tombstone (
    relid       oid NOT NULL,
    key         bytea,
    commit_time timestamptz,
    author      oid,
    author_lsn  pg_lsn
);
CREATE INDEX pgdrover_tombstone_key ON spock.pgdrover_tombstone (relid, key);
CREATE INDEX pgdrover_tombstone_fresh ON spock.pgdrover_tombstone (relid) WHERE commit_time IS NULL;

-- Tables whose deletes leave tombstones, and the key that their triggers were made for.
CREATE TABLE spock.pgdrover_watch (
    relid       oid PRIMARY KEY,
    key_columns name[],
    definition  text NOT NULL
);

-- How far each provider says that it has applied each node's changes.
CREATE TABLE spock.pgdrover_vector (
    provider_id oid NOT NULL,
    origin_id   oid NOT NULL,
    lsn         pg_lsn NOT NULL,
    received_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (provider_id, origin_id)
) WITH (fillfactor = 50);

-- The provider's sets as of the point that its stream has reached here.
CREATE TABLE spock.pgdrover_remote_set (
    sub_id             oid NOT NULL REFERENCES spock.subscription (sub_id) ON DELETE CASCADE,
    set_id             oid NOT NULL,
    set_name           name NOT NULL,
    replicate_insert   boolean NOT NULL,
    replicate_update   boolean NOT NULL,
    replicate_delete   boolean NOT NULL,
    replicate_truncate boolean NOT NULL,
    PRIMARY KEY (sub_id, set_id)
);
CREATE TABLE spock.pgdrover_remote_table (
    sub_id     oid NOT NULL REFERENCES spock.subscription (sub_id) ON DELETE CASCADE,
    set_id     oid NOT NULL,
    set_reloid oid NOT NULL,
    att_list   text[],
    row_filter text,
    PRIMARY KEY (sub_id, set_id, set_reloid)
);

-- Journal of an initial copy, one row for each piece of a table; what is not finished is done again.
CREATE TABLE spock.pgdrover_copy (
    sub_id      oid NOT NULL REFERENCES spock.subscription (sub_id) ON DELETE CASCADE,
    nspname     name NOT NULL,
    relname     name NOT NULL,
    piece       integer NOT NULL,
    first_block bigint,
    last_block  bigint,
    state       text NOT NULL DEFAULT 'wanted' CHECK (state IN ('wanted', 'copying', 'done', 'failed')),
    bytes_total bigint,
    bytes_done  bigint NOT NULL DEFAULT 0,
    rows_done   bigint NOT NULL DEFAULT 0,
    started_at  timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (sub_id, nspname, relname, piece)
) WITH (fillfactor = 70);

-- Stamp of a row whose last writer only added a difference to its delta columns.
CREATE TABLE spock.pgdrover_stamp (
    relid       oid NOT NULL,
    key         bytea NOT NULL,
    written_by  xid NOT NULL,
    commit_time timestamptz NOT NULL,
    author      oid,
    PRIMARY KEY (relid, key)
) WITH (fillfactor = 70);

CREATE TABLE spock.pgdrover_delta_column (
    relid       oid NOT NULL,
    column_name name NOT NULL,
    PRIMARY KEY (relid, column_name)
);

-- Columns that were dropped here while a peer may still send them.
CREATE TABLE spock.pgdrover_dropped_column (
    relid       oid NOT NULL,
    column_name name NOT NULL,
    dropped_lsn pg_lsn NOT NULL,
    PRIMARY KEY (relid, column_name)
);

-- Sequences that draw values of this node alone.
CREATE TABLE spock.pgdrover_spread (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    max_nodes   integer NOT NULL,
    node_number integer NOT NULL
);

-- Counters: the engine adds what it counted, about once a second. They do not outlive a crash.
CREATE UNLOGGED TABLE spock.pgdrover_channel_stats (
    subid                       oid NOT NULL,
    relid                       oid NOT NULL,
    n_tup_ins                   bigint NOT NULL DEFAULT 0,
    n_tup_upd                   bigint NOT NULL DEFAULT 0,
    n_tup_del                   bigint NOT NULL DEFAULT 0,
    n_conflict                  bigint NOT NULL DEFAULT 0,
    n_dca                       bigint NOT NULL DEFAULT 0,
    confl_insert_exists         bigint NOT NULL DEFAULT 0,
    confl_update_origin_differs bigint NOT NULL DEFAULT 0,
    confl_update_exists         bigint NOT NULL DEFAULT 0,
    confl_update_missing        bigint NOT NULL DEFAULT 0,
    confl_delete_origin_differs bigint NOT NULL DEFAULT 0,
    confl_delete_missing        bigint NOT NULL DEFAULT 0,
    confl_delete_exists         bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (subid, relid)
) WITH (fillfactor = 50);
CREATE UNLOGGED TABLE spock.pgdrover_counter (
    sub_id oid NOT NULL,
    name   text NOT NULL,
    value  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (sub_id, name)
) WITH (fillfactor = 50);
CREATE UNLOGGED TABLE spock.pgdrover_stats_reset (
    sub_id      oid PRIMARY KEY,
    stats_reset timestamptz NOT NULL
);

-- Identifiers are computed from names, so that every node agrees without asking: the functions here are the rules.

CREATE FUNCTION pgdrover.node_id(node_name name)
RETURNS oid LANGUAGE sql IMMUTABLE AS $$
    SELECT (pg_catalog.hashname(node_name) & 65535)::oid
$$;

CREATE FUNCTION pgdrover.subscription_id(sub_name name)
RETURNS oid LANGUAGE sql IMMUTABLE AS $$
    SELECT (pg_catalog.hashname(sub_name)::int8 & 4294967295)::oid
$$;

-- Four bytes, the lowest first, as hexadecimal digits.
CREATE FUNCTION pgdrover.little_endian(n int8)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_catalog.substr(h, 7, 2) || pg_catalog.substr(h, 5, 2) || pg_catalog.substr(h, 3, 2)
           || pg_catalog.substr(h, 1, 2)
      FROM pg_catalog.lpad(pg_catalog.to_hex(n & 4294967295), 8, '0') AS h
$$;

-- Replication sets and interfaces.
CREATE FUNCTION pgdrover.member_id(node_id oid, member_name name)
RETURNS oid LANGUAGE sql IMMUTABLE AS $$
    SELECT (pg_catalog.hashmacaddr8((pgdrover.little_endian(node_id::int8)
            || pgdrover.little_endian(pg_catalog.hashname(member_name)::int8))::macaddr8)::int8 & 4294967295)::oid
$$;

CREATE FUNCTION pgdrover.short_name(n name)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN pg_catalog.octet_length(n::text) <= 16 THEN n::text
                ELSE pg_catalog.left(n::text, 8)
                     || pg_catalog.left(pg_catalog.lpad(pg_catalog.to_hex(pg_catalog.hashname(n)), 8, '0'), 7) END
$$;

CREATE FUNCTION spock.spock_gen_slot_name(dbname name, provider_node name, subscription name)
RETURNS name LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT pg_catalog.regexp_replace(pg_catalog.left('spk_' || pgdrover.short_name(dbname) || '_'
           || pgdrover.short_name(provider_node) || '_' || pgdrover.short_name(subscription), 63),
           '[^a-z0-9_]', '_', 'g')::name
$$;

-- The same 32 bits, for keys of advisory locks (pg_locks shows the oid again) and for columns of type integer.
CREATE FUNCTION pgdrover.as_integer(id oid)
RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT (CASE WHEN id::int8 > 2147483647 THEN id::int8 - 4294967296 ELSE id::int8 END)::integer
$$;

-- A connection string without what follows the word password.
CREATE FUNCTION pgdrover.masked(dsn text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN p = 0 THEN dsn
                ELSE pg_catalog.left(dsn, p + 7)
                     || pg_catalog.repeat('X', greatest(pg_catalog.length(dsn) - p - 7, 0)) END
      FROM pg_catalog.strpos(dsn, 'password') AS p
$$;

-- What a connection to a peer is opened with: our defaults, the string itself, then what must hold.
CREATE FUNCTION pgdrover.peer_dsn(dsn text, application_name text, extra text[] = '{}')
RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    defaults text[] := ARRAY['connect_timeout=30', 'keepalives=1', 'keepalives_idle=20', 'keepalives_interval=20',
                             'keepalives_count=5', 'fallback_application_name=' || pg_catalog.left(application_name, 63)];
    place integer;
BEGIN
    IF dsn !~ '^postgres(ql)?://' THEN
        RETURN pg_catalog.array_to_string(defaults, ' ') || ' ' || dsn || ' '
            || coalesce(pg_catalog.current_setting('spock.extra_connection_options', true), '') || ' '
            || pg_catalog.array_to_string(extra, ' ');
    END IF;
    place := pg_catalog.strpos(dsn, '?');
    RETURN CASE place WHEN 0 THEN dsn ELSE pg_catalog.left(dsn, place - 1) END || '?'
        || pg_catalog.array_to_string(defaults, '&')
        || CASE WHEN place = 0 THEN '' ELSE '&' || pg_catalog.substr(dsn, place + 1) END
        || CASE WHEN pg_catalog.cardinality(extra) = 0 THEN '' ELSE '&' || pg_catalog.array_to_string(extra, '&') END;
END
$$;

-- A relation as the server names it in messages: with its schema only where the search path does not find it.
CREATE FUNCTION pgdrover.visible_name(schema_name name, object_name name, visible name[])
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN schema_name = ANY (visible) THEN pg_catalog.quote_ident(object_name)
                ELSE pg_catalog.quote_ident(schema_name) || '.' || pg_catalog.quote_ident(object_name) END
$$;

CREATE FUNCTION pgdrover.qualified_name(rel oid)
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = rel
$$;

-- Settings. A stock server takes any value for spock.x and checks none: this is where they are read and checked.

-- Every setting with its default and what it may be. kind: bool, int (low..high), enum (words), text.
CREATE FUNCTION pgdrover.setting_catalog(
    OUT name text, OUT kind text, OUT default_value text, OUT words text[], OUT low bigint, OUT high bigint)
RETURNS SETOF record LANGUAGE sql IMMUTABLE AS $$
    VALUES
    ('spock.conflict_resolution', 'enum', 'last_update_wins',
     '{error,apply_remote,keep_local,last_update_wins,first_update_wins}'::text[], NULL::bigint, NULL::bigint),
    ('spock.conflict_log_level', 'enum', 'log',
     '{debug5,debug4,debug3,debug2,debug1,debug,info,notice,warning,error,log,fatal,panic}', NULL, NULL),
    ('spock.save_resolutions', 'bool', 'off', NULL, NULL, NULL),
    ('spock.resolutions_retention_days', 'int', '100', NULL, 0, 2147483647),
    ('spock.log_origin_change', 'enum', 'none', '{none,remote_only_differs,since_sub_creation}', NULL, NULL),
    ('spock.exception_behaviour', 'enum', 'transdiscard', '{discard,transdiscard,sub_disable}', NULL, NULL),
    ('spock.exception_logging', 'enum', 'all', '{none,discard,all}', NULL, NULL),
    ('spock.exception_replay_queue_size', 'int', '4194304', NULL, 0, 9223372036854775807),
    ('spock.restart_delay_default', 'int', '5000', NULL, 1, 2147483647),
    ('spock.restart_delay_on_exception', 'int', '0', NULL, 0, 2147483647),
    ('spock.synchronous_commit', 'bool', 'off', NULL, NULL, NULL),
    ('spock.feedback_frequency', 'int', '200', NULL, 1, 2147483647),
    ('spock.use_spi', 'bool', 'off', NULL, NULL, NULL),
    ('spock.batch_inserts', 'bool', 'on', NULL, NULL, NULL),
    ('spock.check_all_uc_indexes', 'bool', 'on', NULL, NULL, NULL),
    ('spock.channel_counters', 'bool', 'on', NULL, NULL, NULL),
    ('spock.stats_max_entries', 'int', '-1', NULL, -1, 2147483647),
    ('spock.enable_ddl_replication', 'bool', 'off', NULL, NULL, NULL),
    ('spock.include_ddl_repset', 'bool', 'off', NULL, NULL, NULL),
    ('spock.allow_ddl_from_functions', 'bool', 'off', NULL, NULL, NULL),
    ('spock.deny_all_ddl', 'bool', 'off', NULL, NULL, NULL),
    ('spock.readonly', 'enum', 'off', '{off,user,local,all}', NULL, NULL),
    ('spock.replication_repair_mode', 'bool', 'off', NULL, NULL, NULL),
    ('spock.pause_timeout', 'int', '10', NULL, 1, 86400),
    ('spock.temp_directory', 'text', '', NULL, NULL, NULL),
    ('spock.extra_connection_options', 'text', '', NULL, NULL, NULL),
    ('spock.country', 'text', '??', NULL, NULL, NULL),
    ('spock.use_native_failover_slots', 'bool', 'off', NULL, NULL, NULL),
    ('spock.pg_standby_slot_names', 'text', '', NULL, NULL, NULL),
    ('spock.standby_slots_min_confirmed', 'int', '-1', NULL, -1, 100),
    ('spock.synchronize_slot_names', 'text', 'name_like:%%', NULL, NULL, NULL),
    ('spock.drop_extra_slots', 'bool', 'on', NULL, NULL, NULL),
    ('spock.primary_dsn', 'text', '', NULL, NULL, NULL),
    ('spock.failover_slots_naptime', 'int', '1000', NULL, 1, 3600000),
    ('spock.failover_slots_feedback_naptime', 'int', '10000', NULL, 1, 3600000),
    ('spock.sync_timeout', 'int', '0', NULL, 0, 2147483647),
    ('spock.read_retry_count', 'int', '5', NULL, 0, 100),
    ('spock.apply_idle_timeout', 'int', '300', NULL, 0, 2147483647),
    ('spock.output_delay', 'int', '0', NULL, 0, 60000),
    ('spock.enable_quiet_mode', 'bool', 'off', NULL, NULL, NULL),
    ('spock.log_verbosity', 'enum', 'normal', '{normal,debug1,debug2}', NULL, NULL),
    ('spock.apply_change_logging', 'enum', 'none', '{none,key_only,verbose}', NULL, NULL),
    -- Ours: what Spock decides otherwise than nodes that are to end equal.
    ('spock.update_missing', 'enum', 'insert', '{insert,error,skip}', NULL, NULL),
    ('spock.delete_conflict', 'enum', 'last_update_wins', '{last_update_wins,apply}', NULL, NULL),
    ('spock.truncate_conflict', 'enum', 'last_update_wins', '{last_update_wins,apply}', NULL, NULL),
    ('spock.save_remote_wins', 'bool', 'off', NULL, NULL, NULL),
    ('spock.max_clock_skew', 'int', '5000', NULL, 0, 2147483647),
    ('spock.apply_workers', 'int', '0', NULL, 0, 64)
$$;

-- Whether a text is a legal value, and that value in the form that we use.
CREATE FUNCTION pgdrover.checked_setting(kind text, value text, words text[], low bigint, high bigint)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    n numeric;
BEGIN
    CASE kind
        WHEN 'bool' THEN
            RETURN CASE WHEN value::boolean THEN 'on' ELSE 'off' END;
        WHEN 'int' THEN
            n := value::numeric;
            RETURN CASE WHEN n = pg_catalog.trunc(n) AND n BETWEEN low AND high THEN pg_catalog.trunc(n)::text END;
        WHEN 'enum' THEN
            RETURN CASE WHEN pg_catalog.lower(value) = ANY (words) THEN pg_catalog.lower(value) END;
        ELSE
            RETURN value;
    END CASE;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

-- The effective values; invalid holds a value that was set and is not legal, instead of which the default holds.
CREATE FUNCTION pgdrover.settings(OUT name text, OUT value text, OUT default_value text, OUT invalid text)
RETURNS SETOF record LANGUAGE sql STABLE AS $$
    SELECT s.name, coalesce(s.checked, s.default_value), s.default_value,
           CASE WHEN s.given IS NOT NULL AND s.checked IS NULL THEN s.given END
      FROM (SELECT c.*, g.given,
                   CASE WHEN g.given IS NOT NULL
                        THEN pgdrover.checked_setting(c.kind, g.given, c.words, c.low, c.high) END AS checked
              FROM pgdrover.setting_catalog() c,
                   LATERAL (SELECT CASE WHEN c.kind = 'text' THEN pg_catalog.current_setting(c.name, true)
                                        ELSE nullif(pg_catalog.current_setting(c.name, true), '') END AS given) g) s
$$;

CREATE FUNCTION pgdrover.setting(setting_name text)
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT s.value FROM pgdrover.settings() s WHERE s.name = setting_name
$$;

-- A switch; what is not a boolean is off.
CREATE FUNCTION pgdrover.flag(setting_name text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN coalesce(nullif(pg_catalog.current_setting(setting_name, true), '')::boolean, false);
EXCEPTION WHEN data_exception THEN
    RETURN false;
END
$$;

CREATE FUNCTION spock.get_country()
RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(nullif(pg_catalog.current_setting('spock.country', true), ''), '??')
$$;

-- Our own DDL is neither captured nor examined by our own event triggers.
CREATE FUNCTION pgdrover.internal()
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(pg_catalog.current_setting('pgdrover.internal', true) = 'on', false)
$$;

CREATE FUNCTION pgdrover.run(ddl text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    before text := coalesce(pg_catalog.current_setting('pgdrover.internal', true), '');
BEGIN
    PERFORM pg_catalog.set_config('pgdrover.internal', 'on', true);
    EXECUTE ddl;
    PERFORM pg_catalog.set_config('pgdrover.internal', before, true);
END
$$;

-- A message of automatic DDL replication; quiet mode sends it to the log alone.
CREATE FUNCTION pgdrover.tell(level text, message text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pgdrover.flag('spock.enable_quiet_mode') THEN
        RAISE LOG USING MESSAGE = message;
    ELSIF level = 'warning' THEN
        RAISE WARNING USING MESSAGE = message;
    ELSE
        RAISE INFO USING MESSAGE = message;
    END IF;
END
$$;

-- Reading SQL text: where its statements end, and what kind each is. Only borders and leading words matter here, so
-- this knows quotes, comments, parentheses and bodies, and nothing of grammar.

-- One statement per element, without surrounding blanks and the semicolon; empty statements are left out.
CREATE FUNCTION pgdrover.split_statements(sql text)
RETURNS text[] LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    tokens text[];
    n integer;
    i integer := 1;
    first integer := 1;     -- where the current statement begins
    tok text;
    words integer := 0;     -- words of the current statement so far
    parens integer := 0;
    bodies integer := 0;    -- BEGIN ATOMIC and the CASEs within it
    last_word text;         -- in lower case; NULL when something else stood between
    glued boolean := false; -- the token before this one was a word, without a blank between
    depth integer;
    width integer;
    part text;
    statements text[] := '{}';
BEGIN
    IF pg_catalog.strpos(sql, ';') = 0 THEN
        RETURN CASE WHEN pg_catalog.btrim(sql, E' \t\r\n') = '' THEN '{}'::text[]
                    ELSE ARRAY[pg_catalog.btrim(sql, E' \t\r\n')] END;
    END IF;
    SELECT pg_catalog.array_agg(m[1]) INTO tokens
      FROM pg_catalog.regexp_matches(sql, '(--|/\*|\*/|[[:alnum:]_]+|[ \t\r]+|\\.|.|\n)', 'gn') AS m;
    n := pg_catalog.cardinality(tokens);
    WHILE i <= n LOOP
        tok := tokens[i];
        CASE
            WHEN tok = '--' THEN
                WHILE i < n AND tokens[i + 1] <> E'\n' LOOP i := i + 1; END LOOP;
                glued := false;
            WHEN tok = '/*' THEN
                depth := 1;
                WHILE i < n AND depth > 0 LOOP
                    i := i + 1;
                    depth := depth + CASE tokens[i] WHEN '/*' THEN 1 WHEN '*/' THEN -1 ELSE 0 END;
                END LOOP;
                glued := false;
            WHEN tok = '''' OR tok = '"' THEN
                -- Two quotes in a row end one string and begin the next: the same border.
                LOOP
                    i := i + 1;
                    EXIT WHEN i > n OR tokens[i] = tok;
                    -- A backslash takes the quote behind it along only in an E'' string.
                    EXIT WHEN tokens[i] = E'\\' || tok AND NOT (glued AND last_word = 'e' AND tok = '''');
                END LOOP;
                glued := false;
                last_word := NULL;
            WHEN tok = '$' AND NOT glued THEN
                width := CASE WHEN tokens[i + 1] = '$' THEN 2
                              WHEN tokens[i + 2] = '$' AND tokens[i + 1] ~ '^[[:alpha:]_]' THEN 3
                              ELSE 0 END;
                IF width > 0 THEN
                    part := pg_catalog.array_to_string(tokens[i : i + width - 1], '');
                    i := i + width;
                    WHILE i <= n AND NOT (tokens[i] = '$'
                          AND pg_catalog.array_to_string(tokens[i : i + width - 1], '') = part) LOOP
                        -- A backslash and what follows it are one token, which may hide the border.
                        IF tokens[i] = E'\\$' THEN
                            tokens[i] := '$';
                        ELSE
                            i := i + 1;
                        END IF;
                    END LOOP;
                    i := i + width - 1;
                END IF;
                last_word := NULL;
            WHEN tok = '(' THEN
                parens := parens + 1;
                glued := false;
                last_word := NULL;
            WHEN tok = ')' THEN
                parens := parens - 1;
                glued := false;
                last_word := NULL;
            WHEN tok = ';' THEN
                IF parens <= 0 AND bodies = 0 THEN
                    IF words > 0 THEN
                        statements := statements || pg_catalog.btrim(
                            pg_catalog.array_to_string(tokens[first : i - 1], ''), E' \t\r\n');
                    END IF;
                    first := i + 1;
                    words := 0;
                    parens := 0;
                END IF;
                glued := false;
                last_word := NULL;
            WHEN tok ~ '^[[:alnum:]_]' THEN
                words := words + 1;
                IF bodies = 0 AND pg_catalog.lower(tok) = 'atomic' AND last_word = 'begin' THEN
                    bodies := 1;
                ELSIF bodies > 0 AND NOT glued THEN
                    bodies := bodies + CASE pg_catalog.lower(tok) WHEN 'case' THEN 1 WHEN 'end' THEN -1 ELSE 0 END;
                END IF;
                last_word := pg_catalog.lower(tok);
                glued := true;
            WHEN tok = E'\n' OR tok ~ '^[ \t\r]' THEN
                glued := false;
            ELSE
                words := words + 1;
                glued := false;
                last_word := NULL;
        END CASE;
        i := i + 1;
    END LOOP;
    IF words > 0 AND first <= n THEN
        statements := statements || pg_catalog.btrim(pg_catalog.array_to_string(tokens[first : n], ''), E' \t\r\n');
    END IF;
    RETURN statements;
END
$$;

-- A statement without comments and with single blanks: enough to compare its leading words. What stands in quotes is
-- left as it is, which is good enough for the words before it.
CREATE FUNCTION pgdrover.bare_text(statement text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_catalog.btrim(pg_catalog.regexp_replace(pg_catalog.regexp_replace(pg_catalog.regexp_replace(
           statement, '--[^\n]*', ' ', 'g'), '/\*.*?\*/', ' ', 'g'), '\s+', ' ', 'g'))
$$;

-- Whether an expression is one expression: parentheses closed, no semicolon, no unfinished string.
CREATE FUNCTION pgdrover.is_one_expression(expression text)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    -- Inside parentheses a semicolon is no border, so the closing one must be ours: then exactly two statements come out.
    RETURN pgdrover.split_statements(E'a (' || expression || E'\n) b; c') =
           ARRAY[E'a (' || expression || E'\n) b', 'c']
       AND pg_catalog.cardinality(pgdrover.split_statements(E'a ' || expression || E'\n; c')) = 2;
END
$$;

-- The command tag of a statement, as far as its leading words tell it: what it is called in messages, and whether it
-- is DDL.
CREATE FUNCTION pgdrover.command_tag(statement text, OUT tag text, OUT is_ddl boolean)
RETURNS record LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    bare text := pg_catalog.upper(pgdrover.bare_text(statement));
    w text[];
    kind text;
BEGIN
    w := pg_catalog.regexp_split_to_array(pg_catalog.regexp_replace(bare, '[^A-Z0-9_ ].*$', ''), ' +');
    is_ddl := w[1] IN ('CREATE', 'ALTER', 'DROP', 'COMMENT', 'GRANT', 'REVOKE', 'REASSIGN', 'REFRESH', 'IMPORT',
                       'SECURITY', 'CLUSTER')
              OR bare ~ '^(SELECT|WITH)\M.*\mINTO\M' AND bare ~ '^SELECT\M'
                 AND bare ~ '^SELECT [^''"(]*\mINTO (TEMP |TEMPORARY |UNLOGGED |TABLE )*[A-Z_"]';
    tag := CASE
        WHEN w[1] = 'SELECT' AND is_ddl THEN 'SELECT INTO'
        WHEN w[1] IN ('CREATE', 'ALTER', 'DROP') THEN NULL
        WHEN w[1] = 'REFRESH' THEN 'REFRESH MATERIALIZED VIEW'
        WHEN w[1] = 'IMPORT' THEN 'IMPORT FOREIGN SCHEMA'
        WHEN w[1] = 'SECURITY' THEN 'SECURITY LABEL'
        WHEN w[1] = 'REASSIGN' THEN 'REASSIGN OWNED'
        WHEN w[1] IN ('WITH', 'VALUES', 'TABLE') OR w[1] = '' THEN 'SELECT'
        WHEN w[1] = 'START' THEN 'START TRANSACTION'
        WHEN w[1] = 'END' THEN 'COMMIT'
        WHEN w[1] = 'ABORT' THEN 'ROLLBACK'
        WHEN w[1] = 'LOCK' THEN 'LOCK TABLE'
        WHEN w[1] = 'DECLARE' THEN 'DECLARE CURSOR'
        WHEN w[1] = 'TRUNCATE' THEN 'TRUNCATE TABLE'
        WHEN w[1] = 'ANALYSE' THEN 'ANALYZE'
        ELSE w[1] END;
    IF tag IS NULL THEN
        kind := pg_catalog.array_to_string(w[2:], ' ');
        kind := pg_catalog.regexp_replace(kind,
            '^(OR REPLACE |TEMP |TEMPORARY |LOCAL |GLOBAL |UNLOGGED |UNIQUE |TRUSTED |PROCEDURAL |RECURSIVE |CONSTRAINT |DEFAULT (?=CONVERSION))+', '');
        tag := w[1] || ' ' || coalesce(pg_catalog.substring(kind,
            '^(ACCESS METHOD|DEFAULT PRIVILEGES|EVENT TRIGGER|FOREIGN DATA WRAPPER|FOREIGN TABLE|LARGE OBJECT|'
            'MATERIALIZED VIEW|OPERATOR CLASS|OPERATOR FAMILY|TEXT SEARCH CONFIGURATION|TEXT SEARCH DICTIONARY|'
            'TEXT SEARCH PARSER|TEXT SEARCH TEMPLATE|USER MAPPING)\M'), pg_catalog.split_part(kind, ' ', 1));
        IF tag = 'CREATE TABLE' AND bare ~ '^[^(]*(\([^()]*\))?[^()]* AS (MATERIALIZED )?(SELECT|WITH|TABLE|VALUES|EXECUTE|\()' THEN
            tag := 'CREATE TABLE AS';
        ELSIF tag IN ('CREATE USER', 'CREATE GROUP', 'ALTER USER', 'ALTER GROUP', 'DROP USER', 'DROP GROUP') THEN
            tag := w[1] || ' ROLE';
        END IF;
    END IF;
END
$$;

-- Keys of tables, and the publications. A table is in the publication of an action exactly when one of the node's sets
-- that hold it replicates that action and, for updates and deletes, the server can identify its rows: a table without
-- identity in a publication of updates would make the application's own UPDATEs fail.

-- The index by which the server identifies rows for replication; NULL when there is none.
CREATE FUNCTION pgdrover.identity_index(rel oid)
RETURNS oid LANGUAGE sql STABLE AS $$
    SELECT i.indexrelid
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_index i ON i.indrelid = c.oid
     WHERE c.oid = rel AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
       AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
$$;

-- The index by which a row is found here: that of the identity, unless it carries delta columns; else the primary key.
CREATE FUNCTION pgdrover.key_index(rel oid)
RETURNS oid LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        (SELECT i.indexrelid FROM pg_catalog.pg_index i
          WHERE i.indexrelid = pgdrover.identity_index(rel)
            AND NOT EXISTS (SELECT FROM spock.pgdrover_delta_column d JOIN pg_catalog.pg_attribute a
                                ON a.attrelid = d.relid AND a.attname = d.column_name
                             WHERE d.relid = rel AND a.attnum = ANY (i.indkey::int2[]))),
        (SELECT i.indexrelid FROM pg_catalog.pg_index i
          WHERE i.indrelid = rel AND i.indisprimary AND i.indimmediate AND i.indisvalid))
$$;

CREATE FUNCTION pgdrover.index_columns(index_id oid)
RETURNS name[] LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.array_agg(a.attname ORDER BY k.n)
      FROM pg_catalog.pg_index i
           CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
           JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
     WHERE i.indexrelid = index_id AND k.n <= i.indnkeyatts
$$;

CREATE FUNCTION pgdrover.key_columns(rel oid)
RETURNS name[] LANGUAGE sql STABLE AS $$
    SELECT pgdrover.index_columns(pgdrover.key_index(rel))
$$;

-- Whether a table may join a set that replicates updates or deletes.
CREATE FUNCTION pgdrover.has_key(rel oid)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT pgdrover.identity_index(rel) IS NOT NULL
        OR (SELECT c.relreplident = 'f' FROM pg_catalog.pg_class c WHERE c.oid = rel)
           AND EXISTS (SELECT FROM spock.pgdrover_delta_column d WHERE d.relid = rel)
$$;

CREATE FUNCTION pgdrover.local_node_id()
RETURNS oid LANGUAGE sql STABLE AS $$ SELECT l.node_id FROM spock.local_node l $$;

-- The schemas that never join.
CREATE FUNCTION pgdrover.reserved_schema(schema_name name)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT schema_name IN ('spock', 'pgdrover', 'information_schema') OR pg_catalog.starts_with(schema_name::text, 'pg_')
        OR EXISTS (SELECT FROM spock.reserved_object r
                    WHERE r.kind = 'schema' AND r.name = schema_name AND r.block_in_repset)
$$;

-- Brings the publications in line with the sets, for these tables or, with NULL, for all.
CREATE FUNCTION pgdrover.publish(rels oid[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    p record;
BEGIN
    FOR p IN
        WITH member AS (
            SELECT t.set_reloid::oid AS relid, pg_catalog.bool_or(s.replicate_insert) AS ins,
                   pg_catalog.bool_or(s.replicate_update) AS upd, pg_catalog.bool_or(s.replicate_delete) AS del,
                   pg_catalog.bool_or(s.replicate_truncate) AS trunc
              FROM spock.replication_set_table t
              JOIN spock.replication_set s USING (set_id)
              JOIN spock.local_node l ON l.node_id = s.set_nodeid
             WHERE rels IS NULL OR t.set_reloid::oid = ANY (rels)
             GROUP BY 1
        ), identified AS (
            SELECT m.*, c.relreplident = 'f' OR pgdrover.identity_index(m.relid) IS NOT NULL AS ok
              FROM member m JOIN pg_catalog.pg_class c ON c.oid = m.relid
             WHERE c.relkind = 'r' AND c.relpersistence = 'p'
        ), wanted AS (
            SELECT a.pubname, i.relid
              FROM identified i CROSS JOIN LATERAL (VALUES
                   ('pgdrover_ins', i.ins), ('pgdrover_upd', i.upd AND i.ok),
                   ('pgdrover_del', i.del AND i.ok), ('pgdrover_trunc', i.trunc)) AS a(pubname, yes)
             WHERE a.yes
        ), present AS (
            SELECT pub.pubname::text AS pubname, r.prrelid AS relid
              FROM pg_catalog.pg_publication pub JOIN pg_catalog.pg_publication_rel r ON r.prpubid = pub.oid
              JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
             WHERE pub.pubname IN ('pgdrover_ins', 'pgdrover_upd', 'pgdrover_del', 'pgdrover_trunc')
               AND c.relnamespace <> 'spock'::regnamespace AND (rels IS NULL OR r.prrelid = ANY (rels))
        ), difference AS (
            SELECT coalesce(w.pubname, h.pubname) AS pubname, coalesce(w.relid, h.relid) AS relid,
                   w.relid IS NOT NULL AS adding
              FROM wanted w FULL JOIN present h USING (pubname, relid)
             WHERE w.relid IS NULL OR h.relid IS NULL
        )
        SELECT pg_catalog.format('ALTER PUBLICATION %I %s TABLE %s', d.pubname,
                   CASE WHEN d.adding THEN 'ADD' ELSE 'DROP' END,
                   pg_catalog.string_agg('ONLY ' || pgdrover.qualified_name(d.relid), ', ' ORDER BY d.relid)) AS ddl
          FROM difference d JOIN pg_catalog.pg_publication pub ON pub.pubname = d.pubname
         GROUP BY d.pubname, d.adding ORDER BY d.adding, d.pubname
    LOOP
        PERFORM pgdrover.run(p.ddl);
    END LOOP;
END
$$;

-- All publications exist before any slot does: on 15 to 17 a slot whose past knows no such publication ends in an error.
CREATE FUNCTION pgdrover.create_publications()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    p record;
BEGIN
    FOR p IN SELECT * FROM (VALUES
                 ('pgdrover_ins', 'insert', 'spock.queue'), ('pgdrover_upd', 'update', NULL),
                 ('pgdrover_del', 'delete', NULL), ('pgdrover_trunc', 'truncate', NULL),
                 ('pgdrover_sys', 'insert, update, delete',
                  'spock.replication_set, spock.replication_set_table, spock.pgdrover_row_filter')) AS v(name, action, tables)
              WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_publication pub WHERE pub.pubname = v.name)
    LOOP
        PERFORM pgdrover.run(pg_catalog.format('CREATE PUBLICATION %I %s WITH (publish = %L)', p.name,
                                               'FOR TABLE ' || p.tables, p.action));
    END LOOP;
    PERFORM pgdrover.publish(NULL);
END
$$;

CREATE FUNCTION pgdrover.drop_publications()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    p name;
BEGIN
    FOR p IN SELECT pub.pubname FROM pg_catalog.pg_publication pub
              WHERE pub.pubname IN ('pgdrover_ins', 'pgdrover_upd', 'pgdrover_del', 'pgdrover_trunc', 'pgdrover_sys')
    LOOP
        PERFORM pgdrover.run(pg_catalog.format('DROP PUBLICATION %I', p));
    END LOOP;
END
$$;

-- Tombstones: a delete that happens here leaves (relation, key), written in its own transaction by triggers on the
-- tables that are sent or applied to. They fire for local work only; what applies changes writes its own.

-- An SQL expression over the columns of alias that gives a row's key as bytes. Equal keys give equal bytes, whatever
-- the session's settings: the columns' binary form, each behind its length when there are several.
CREATE FUNCTION pgdrover.key_expression(rel oid, alias text)
RETURNS text LANGUAGE sql STABLE AS $$
    WITH part AS (
        SELECT k.n, CASE
            WHEN t.typname = 'numeric' AND tn.nspname = 'pg_catalog' THEN
                pg_catalog.format('pg_catalog.numeric_send(pg_catalog.trim_scale(%s::pg_catalog.numeric))', col)
            -- Zero has two forms.
            WHEN t.typname IN ('float4', 'float8') AND tn.nspname = 'pg_catalog' THEN
                pg_catalog.format('pg_catalog.%ssend(%s::pg_catalog.%s OPERATOR(pg_catalog.+) 0::pg_catalog.%s)',
                                  t.typname, col, t.typname, t.typname)
            WHEN t.typname = 'bpchar' AND tn.nspname = 'pg_catalog' THEN
                pg_catalog.format('pg_catalog.textsend(%s::pg_catalog.text)', col)
            WHEN t.typname = 'citext' THEN
                pg_catalog.format('pg_catalog.textsend(pg_catalog.lower(%s::pg_catalog.text))', col)
            WHEN t.typsend <> 0 THEN
                pg_catalog.format('%I.%I(%s::%I.%I)', fn.nspname, f.proname, col, tn.nspname, t.typname)
            ELSE pg_catalog.format('pg_catalog.textsend(%s::pg_catalog.text)', col) END AS bytes
          FROM pg_catalog.unnest(pgdrover.key_columns(rel)) WITH ORDINALITY AS k(name, n)
          JOIN pg_catalog.pg_attribute a ON a.attrelid = rel AND a.attname = k.name
          JOIN LATERAL (
                WITH RECURSIVE base AS (
                    SELECT y.oid, y.typbasetype FROM pg_catalog.pg_type y WHERE y.oid = a.atttypid
                     UNION ALL
                    SELECT y.oid, y.typbasetype FROM base b JOIN pg_catalog.pg_type y ON y.oid = b.typbasetype)
                SELECT b.oid FROM base b WHERE b.typbasetype = 0) AS base ON true
          JOIN pg_catalog.pg_type t ON t.oid = base.oid
          JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
          LEFT JOIN pg_catalog.pg_proc f ON f.oid = t.typsend
          LEFT JOIN pg_catalog.pg_namespace fn ON fn.oid = f.pronamespace
          CROSS JOIN LATERAL (SELECT pg_catalog.format('%s.%I', alias, a.attname) AS col) AS c
    )
    SELECT CASE WHEN pg_catalog.count(*) = 0 THEN NULL
                WHEN pg_catalog.count(*) = 1 THEN pg_catalog.format('pgdrover.short_key(%s)', pg_catalog.min(bytes))
                ELSE pg_catalog.format('pgdrover.short_key(%s)', pg_catalog.string_agg(pg_catalog.format(
                    'pg_catalog.int4send(pg_catalog.octet_length(%s)) OPERATOR(pg_catalog.||) %s', bytes, bytes),
                    ' OPERATOR(pg_catalog.||) ' ORDER BY n)) END
      FROM part
$$;

-- A key that may stand in an index.
CREATE FUNCTION pgdrover.short_key(key bytea)
RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN pg_catalog.octet_length(key) OPERATOR(pg_catalog.<=) 256 THEN key
                ELSE pg_catalog.sha256(key) END
$$;

CREATE FUNCTION pgdrover.on_truncate()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO spock.pgdrover_tombstone (relid) VALUES (TG_RELID);
    RETURN NULL;
END
$$;

-- Makes the triggers of a table, or makes them anew when its key is another one. The update trigger names no columns
-- and has no condition: either would forbid the application to change a key column's type.
CREATE FUNCTION pgdrover.watch(rel oid)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    expression text := pgdrover.key_expression(rel, 'OLD');
    body text;
    fn text := pg_catalog.format('pgdrover.%I', 'tombstone_' || rel);
    relation text;
    old_definition text;
BEGIN
    SELECT pgdrover.qualified_name(c.oid) INTO relation
      FROM pg_catalog.pg_class c
     WHERE c.oid = rel AND c.relkind = 'r' AND c.relpersistence = 'p' AND c.relnamespace <> 'spock'::regnamespace;
    IF relation IS NULL THEN
        RETURN;
    END IF;
    SELECT w.definition INTO old_definition FROM spock.pgdrover_watch w WHERE w.relid = rel;
    IF old_definition = coalesce(expression, '') AND
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_trigger t WHERE t.tgrelid = rel AND t.tgname LIKE 'pgdrover\_tombstone\_%')
       = (CASE WHEN expression IS NULL THEN 1 ELSE 3 END) THEN
        RETURN;
    END IF;
    IF expression IS NULL THEN
        PERFORM pgdrover.drop_row_triggers(rel);
    ELSE
        body := pg_catalog.format(
            'BEGIN '
            'IF TG_OP OPERATOR(pg_catalog.=) ''UPDATE'' THEN '
            'IF %s OPERATOR(pg_catalog.=) %s THEN RETURN NULL; END IF; '
            'END IF; '
            'INSERT INTO spock.pgdrover_tombstone (relid, key) VALUES (TG_RELID, %s); '
            'RETURN NULL; '
            'END', expression, pgdrover.key_expression(rel, 'NEW'), expression);
        -- No SET search_path: it would cost more than the rest, for each row; every name in the body is qualified.
        PERFORM pgdrover.run(pg_catalog.format(
            'CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS %L', fn, body));
        PERFORM pgdrover.run(pg_catalog.format('REVOKE ALL ON FUNCTION %s() FROM PUBLIC', fn));
        PERFORM pgdrover.run(pg_catalog.format(
            'CREATE OR REPLACE TRIGGER pgdrover_tombstone_delete AFTER DELETE ON %s FOR EACH ROW EXECUTE FUNCTION %s()',
            relation, fn));
        PERFORM pgdrover.run(pg_catalog.format(
            'CREATE OR REPLACE TRIGGER pgdrover_tombstone_update AFTER UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION %s()',
            relation, fn));
    END IF;
    PERFORM pgdrover.run(pg_catalog.format(
        'CREATE OR REPLACE TRIGGER pgdrover_tombstone_truncate AFTER TRUNCATE ON %s '
        'FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.on_truncate()', relation));
    IF EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE e.extname = 'spock') THEN
        PERFORM pgdrover.bind_to_extension(rel, expression IS NOT NULL);
    END IF;
    INSERT INTO spock.pgdrover_watch (relid, key_columns, definition)
    VALUES (rel, pgdrover.key_columns(rel), coalesce(expression, ''))
        ON CONFLICT (relid) DO UPDATE SET key_columns = excluded.key_columns, definition = excluded.definition;
END
$$;

-- Lets DROP EXTENSION take the triggers along.
CREATE FUNCTION pgdrover.bind_to_extension(rel oid, keyed boolean)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    t name;
BEGIN
    IF keyed THEN
        PERFORM pgdrover.run(pg_catalog.format('ALTER FUNCTION pgdrover.%I() DEPENDS ON EXTENSION spock',
                                               'tombstone_' || rel));
    END IF;
    FOR t IN SELECT g.tgname FROM pg_catalog.pg_trigger g
              WHERE g.tgrelid = rel AND g.tgname LIKE 'pgdrover\_tombstone\_%' LOOP
        PERFORM pgdrover.run(pg_catalog.format('ALTER TRIGGER %I ON %s DEPENDS ON EXTENSION spock', t,
                                               pgdrover.qualified_name(rel)));
    END LOOP;
END
$$;

CREATE FUNCTION pgdrover.drop_row_triggers(rel oid)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    t name;
BEGIN
    FOR t IN SELECT g.tgname FROM pg_catalog.pg_trigger g
              WHERE g.tgrelid = rel AND g.tgname IN ('pgdrover_tombstone_delete', 'pgdrover_tombstone_update') LOOP
        PERFORM pgdrover.run(pg_catalog.format('DROP TRIGGER %I ON %s', t, pgdrover.qualified_name(rel)));
    END LOOP;
    IF pg_catalog.to_regprocedure(pg_catalog.format('pgdrover.%I()', 'tombstone_' || rel)) IS NOT NULL THEN
        PERFORM pgdrover.run(pg_catalog.format('DROP FUNCTION pgdrover.%I()', 'tombstone_' || rel));
    END IF;
END
$$;

-- Takes the triggers away; the tombstones go with them, because from now on the picture has gaps.
CREATE FUNCTION pgdrover.unwatch(rel oid)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgdrover.drop_row_triggers(rel);
    IF EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = rel) THEN
        PERFORM pgdrover.run(pg_catalog.format('DROP TRIGGER IF EXISTS pgdrover_tombstone_truncate ON %s',
                                               pgdrover.qualified_name(rel)));
        PERFORM pgdrover.run(pg_catalog.format('DROP TRIGGER IF EXISTS pgdrover_readonly ON %s',
                                               pgdrover.qualified_name(rel)));
    END IF;
    DELETE FROM spock.pgdrover_watch w WHERE w.relid = rel;
    DELETE FROM spock.pgdrover_tombstone t WHERE t.relid = rel;
    DELETE FROM spock.pgdrover_stamp s WHERE s.relid = rel;
END
$$;

-- Tables that are neither sent nor applied to. While there is any subscription, whatever is watched may be applied to.
CREATE FUNCTION pgdrover.unwatch_unused()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    rel oid;
BEGIN
    IF EXISTS (SELECT FROM spock.subscription) THEN
        RETURN;
    END IF;
    FOR rel IN SELECT w.relid FROM spock.pgdrover_watch w
                WHERE NOT EXISTS (SELECT FROM spock.replication_set_table t
                                    JOIN spock.replication_set s USING (set_id)
                                    JOIN spock.local_node l ON l.node_id = s.set_nodeid
                                   WHERE t.set_reloid = w.relid) LOOP
        PERFORM pgdrover.unwatch(rel);
    END LOOP;
END
$$;

-- Gives deletes that have committed their stamp in columns, which outlives the server's own record of it, and to local
-- ones a position of this node's WAL behind them, which is what peers report to have applied. Returns how many.
CREATE FUNCTION pgdrover.stamp_tombstones()
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    WITH fresh AS MATERIALIZED (
        SELECT t.ctid AS place, s."timestamp" AS at
          FROM spock.pgdrover_tombstone t
               CROSS JOIN LATERAL pg_catalog.pg_xact_commit_timestamp_origin(t.xmin) s
         WHERE t.commit_time IS NULL AND s."timestamp" IS NOT NULL
         LIMIT 10000
    )
    UPDATE spock.pgdrover_tombstone t
       SET commit_time = f.at, author = coalesce(t.author, pgdrover.local_node_id()),
           author_lsn = CASE WHEN t.author IS NULL THEN pg_catalog.pg_current_wal_insert_lsn() ELSE t.author_lsn END
      FROM fresh f WHERE t.ctid = f.place;
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;

-- Tombstones that nobody can need: every provider has said that it applied the delete, or made it. Without any
-- subscription nothing older can arrive. Returns how many went.
CREATE FUNCTION pgdrover.purge_tombstones()
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    WITH reached AS (
        -- For each author the position that all providers are known to be past. A provider is past its own at once; one
        -- that says where it is, and does not name the author, does not apply that author's work.
        SELECT a.author, pg_catalog.min(CASE
                   WHEN p.sub_origin = a.author THEN 'FFFFFFFF/FFFFFFFF'::pg_lsn
                   WHEN v.lsn IS NOT NULL THEN v.lsn
                   WHEN EXISTS (SELECT FROM spock.pgdrover_vector o WHERE o.provider_id = p.sub_origin)
                        THEN 'FFFFFFFF/FFFFFFFF'::pg_lsn
                   ELSE '0/0'::pg_lsn END) AS lsn
          FROM (SELECT DISTINCT t.author FROM spock.pgdrover_tombstone t WHERE t.author_lsn IS NOT NULL) a
               CROSS JOIN (SELECT DISTINCT s.sub_origin FROM spock.subscription s) p
               LEFT JOIN spock.pgdrover_vector v ON v.provider_id = p.sub_origin AND v.origin_id = a.author
         GROUP BY a.author
    )
    DELETE FROM spock.pgdrover_tombstone t
     WHERE t.author_lsn IS NOT NULL
       AND (NOT EXISTS (SELECT FROM spock.subscription)
            OR EXISTS (SELECT FROM reached r WHERE r.author = t.author AND r.lsn >= t.author_lsn));
    GET DIAGNOSTICS n = ROW_COUNT;
    DELETE FROM spock.pgdrover_dropped_column c
     WHERE NOT EXISTS (SELECT FROM spock.subscription s
                         LEFT JOIN spock.pgdrover_vector v
                                ON v.provider_id = s.sub_origin AND v.origin_id = pgdrover.local_node_id()
                        WHERE CASE WHEN v.lsn IS NOT NULL THEN v.lsn < c.dropped_lsn
                                   ELSE NOT EXISTS (SELECT FROM spock.pgdrover_vector o
                                                     WHERE o.provider_id = s.sub_origin) END);
    -- A row that was written again has its own stamp.
    DELETE FROM spock.pgdrover_stamp s
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.relid);
    RETURN n;
END
$$;

-- Replication origins. Stamps hold an origin's number, and it is best that of the node that it stands for, as in Spock;
-- where that number is taken or we may not choose it, the table pgdrover_origin translates.

CREATE FUNCTION pgdrover.origin_create(origin_name text, origin_node oid, subscription oid = NULL, worker_number integer = 0)
RETURNS oid LANGUAGE plpgsql AS $$
DECLARE
    id oid;
    superuser boolean := (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user);
BEGIN
    IF superuser THEN
        LOCK TABLE pg_catalog.pg_replication_origin IN EXCLUSIVE MODE;
    END IF;
    SELECT o.roident INTO id FROM pg_catalog.pg_replication_origin o WHERE o.roname = origin_name;
    IF id IS NULL AND superuser THEN
        -- An origin of that node that was retired is the same author: nothing of it may come back to us.
        SELECT r.roident INTO id FROM spock.pgdrover_origin r
          JOIN pg_catalog.pg_replication_origin o ON o.roident = r.roident
         WHERE r.node_id = origin_node AND r.retired_at IS NOT NULL ORDER BY r.roident LIMIT 1;
        IF id IS NOT NULL THEN
            UPDATE pg_catalog.pg_replication_origin o SET roname = origin_name WHERE o.roident = id;
            -- Its old position is none of the new subscription's.
            PERFORM pgdrover.origin_reset(origin_name);
        ELSIF worker_number = 0 AND NOT EXISTS (
                SELECT FROM pg_catalog.pg_replication_origin o WHERE o.roident = origin_node) THEN
            INSERT INTO pg_catalog.pg_replication_origin (roident, roname) VALUES (origin_node, origin_name);
            id := origin_node;
        END IF;
    END IF;
    IF id IS NULL THEN
        id := pg_catalog.pg_replication_origin_create(origin_name);
    END IF;
    INSERT INTO spock.pgdrover_origin (roident, roname, node_id, sub_id, worker)
    VALUES (id, origin_name, origin_node, subscription, worker_number)
        ON CONFLICT (roident) DO UPDATE SET roname = excluded.roname, node_id = excluded.node_id,
               sub_id = excluded.sub_id, worker = excluded.worker, retired_at = NULL;
    RETURN id;
END
$$;

-- Back to nothing. An origin that was never used has no position, and none to reset.
CREATE FUNCTION pgdrover.origin_reset(origin_name text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.pg_replication_origin_progress(origin_name, false) IS NOT NULL THEN
        PERFORM pg_catalog.pg_replication_origin_advance(origin_name, '0/0');
    END IF;
END
$$;

-- Ends an origin. On 15 our own senders tell foreign transactions by the origin's name, so it must still have one while
-- any slot of this server has WAL of it ahead.
CREATE FUNCTION pgdrover.origin_retire(origin_name text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    id oid := (SELECT o.roident FROM pg_catalog.pg_replication_origin o WHERE o.roname = origin_name);
    superuser boolean := (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user);
    known boolean;
BEGIN
    IF id IS NULL THEN
        DELETE FROM spock.pgdrover_origin r WHERE r.roname = origin_name;
        RETURN;
    END IF;
    known := EXISTS (SELECT FROM spock.pgdrover_origin r WHERE r.roident = id);
    IF superuser AND known AND pg_catalog.current_setting('server_version_num')::integer < 160000
       AND EXISTS (SELECT FROM pg_catalog.pg_replication_slots s WHERE s.slot_type = 'logical') THEN
        UPDATE pg_catalog.pg_replication_origin o SET roname = 'pgdrover_retired_' || id WHERE o.roident = id;
        UPDATE spock.pgdrover_origin r
           SET roname = 'pgdrover_retired_' || id, sub_id = NULL, retired_at = pg_catalog.pg_current_wal_insert_lsn()
         WHERE r.roident = id;
        RETURN;
    END IF;
    PERFORM pg_catalog.pg_replication_origin_drop(origin_name);
    -- Rows that it stamped keep its number: the translation stays.
    UPDATE spock.pgdrover_origin r SET sub_id = NULL, retired_at = pg_catalog.pg_current_wal_insert_lsn()
     WHERE r.roident = id;
END
$$;

-- Drops the retired origins that every logical slot has left behind. Returns how many.
CREATE FUNCTION pgdrover.drop_retired_origins()
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    o record;
    n integer := 0;
BEGIN
    FOR o IN SELECT r.roident, r.roname FROM spock.pgdrover_origin r
               JOIN pg_catalog.pg_replication_origin c ON c.roident = r.roident AND c.roname = r.roname
              WHERE r.retired_at IS NOT NULL AND r.roname = 'pgdrover_retired_' || r.roident
                AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s
                                 WHERE s.slot_type = 'logical'
                                   AND (s.confirmed_flush_lsn IS NULL OR s.confirmed_flush_lsn < r.retired_at))
    LOOP
        PERFORM pg_catalog.pg_replication_origin_drop(o.roname);
        n := n + 1;
    END LOOP;
    RETURN n;
END
$$;

-- The node that stands behind an origin in a stamp: 0 is this node, an unknown one stands for itself.
CREATE FUNCTION pgdrover.origin_node(origin oid)
RETURNS oid LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN origin = 0 THEN pgdrover.local_node_id()
                ELSE coalesce((SELECT r.node_id FROM spock.pgdrover_origin r WHERE r.roident = origin), origin) END
$$;

CREATE FUNCTION spock.xact_commit_timestamp_origin(xid xid, OUT "timestamp" timestamptz, OUT roident oid)
RETURNS record LANGUAGE sql STRICT AS $$
    SELECT s."timestamp", s.roident FROM pg_catalog.pg_xact_commit_timestamp_origin(xid) s
$$;

-- Asking a peer from SQL, through the entry points of the server's own dblink library. They are ours and private: no
-- extension has to be installed, and who may not make them leaves the asking to the engine.

DO $$
BEGIN
    CREATE FUNCTION pgdrover.dblink_connect(text, text)
    RETURNS text LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_connect';
    CREATE FUNCTION pgdrover.dblink_record(text, text)
    RETURNS SETOF record LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_record';
    CREATE FUNCTION pgdrover.dblink_exec(text, text)
    RETURNS text LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_exec';
    CREATE FUNCTION pgdrover.dblink_disconnect(text)
    RETURNS text LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_disconnect';
EXCEPTION WHEN insufficient_privilege OR undefined_file OR undefined_function OR system_error OR invalid_parameter_value THEN
    RAISE NOTICE USING MESSAGE = 'peers cannot be asked from SQL: ' || SQLERRM,
        HINT = 'Subscriptions are checked by the engine instead, after they were stored.';
END
$$;

CREATE FUNCTION pgdrover.can_ask_peers()
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.to_regprocedure('pgdrover.dblink_connect(text,text)') IS NOT NULL
       AND (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)
$$;

-- Opens a connection, or raises what Spock's callers look for.
CREATE FUNCTION pgdrover.peer_open(connection text, dsn text, application_name text, replication boolean = false)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    PERFORM pgdrover.peer_close(connection);
    PERFORM pgdrover.dblink_connect(connection, pgdrover.peer_dsn(dsn, application_name,
        CASE WHEN replication THEN ARRAY['replication=database'] ELSE '{}' END));
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(CASE
            WHEN replication THEN 'could not connect to the postgresql server in replication mode: %s'
            ELSE 'could not connect to the postgresql server: %s' END,
            coalesce(nullif(pg_catalog.btrim(detail, E' \n'), ''), SQLERRM)),
        DETAIL = 'dsn was: ' || pgdrover.masked(dsn);
END
$$;

-- Runs a query there that gives one column of text.
CREATE FUNCTION pgdrover.peer_query(connection text, query text)
RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE 'SELECT r.answer FROM pgdrover.dblink_record($1, $2) AS r(answer text)' USING connection, query;
END
$$;

CREATE FUNCTION pgdrover.peer_close(connection text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgdrover.dblink_disconnect(connection);
EXCEPTION WHEN connection_does_not_exist THEN
    NULL;
END
$$;

-- Nodes and their interfaces.

-- The local node, locked against others that change what belongs to it.
CREATE FUNCTION pgdrover.require_local_node()
RETURNS spock.local_node LANGUAGE plpgsql AS $$
DECLARE
    l spock.local_node;
BEGIN
    LOCK TABLE spock.local_node IN SHARE ROW EXCLUSIVE MODE;
    SELECT * INTO l FROM spock.local_node;
    IF l.node_id IS NULL THEN
        PERFORM pgdrover.raise_no_node();
    END IF;
    RETURN l;
END
$$;

CREATE FUNCTION pgdrover.raise_no_node()
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'current database is not configured as spock node',
        HINT = 'create spock node first';
END
$$;

-- What reads only needs no lock.
CREATE FUNCTION pgdrover.known_local_node()
RETURNS oid LANGUAGE plpgsql STABLE AS $$
DECLARE
    id oid := pgdrover.local_node_id();
BEGIN
    IF id IS NULL THEN
        PERFORM pgdrover.raise_no_node();
    END IF;
    RETURN id;
END
$$;

CREATE FUNCTION pgdrover.find_node(wanted name)
RETURNS spock.node LANGUAGE plpgsql STABLE AS $$
DECLARE
    n spock.node;
BEGIN
    SELECT * INTO n FROM spock.node k WHERE k.node_name = wanted;
    IF n.node_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('node %s not found', wanted);
    END IF;
    RETURN n;
END
$$;

-- The id is that of the replication origin as well, and 0 and 65535 mean something else there.
CREATE FUNCTION pgdrover.check_node_id(id oid, wanted name)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    other name;
BEGIN
    SELECT k.node_name INTO other FROM spock.node k WHERE k.node_id = id AND k.node_name <> wanted;
    IF other IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(
            'node id %s (computed from name "%s") collides with existing node "%s"; rename this node to resolve the collision',
            id, wanted, other);
    END IF;
    IF id::int8 IN (0, 65535) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'node name "%s" gives node id %s, which cannot be a replication origin', wanted, id),
            HINT = 'Choose another name.';
    END IF;
END
$$;

-- Whether an engine serves this database.
CREATE FUNCTION pgdrover.engine_connected()
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l
                    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 727400013 AND l.objid = 0 AND l.objsubid = 2
                      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
$$;

CREATE FUNCTION pgdrover.notice_engine(dsn text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT pgdrover.engine_connected() THEN
        RAISE NOTICE USING MESSAGE = 'no engine is connected to this database: nothing is applied yet',
            HINT = 'Start one: pgdrover spock run --dsn ' || pg_catalog.quote_literal(pgdrover.masked(dsn));
    END IF;
END
$$;

CREATE FUNCTION spock.node_create(
    node_name name, dsn text, location text = NULL, country text = NULL, info jsonb = NULL)
RETURNS oid LANGUAGE plpgsql AS $$
DECLARE
    id oid := pgdrover.node_id(node_create.node_name);
    interface oid;
BEGIN
    IF node_create.node_name IS NULL OR dsn IS NULL THEN
        RETURN NULL;
    END IF;
    LOCK TABLE spock.local_node IN SHARE ROW EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM spock.local_node) THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'current database is already configured as spock node';
    END IF;
    IF EXISTS (SELECT FROM spock.node k WHERE k.node_name = node_create.node_name) THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('node %s already exists', node_create.node_name);
    END IF;
    PERFORM pgdrover.check_node_id(id, node_create.node_name);
    IF pg_catalog.current_setting('track_commit_timestamp') <> 'on' THEN
        RAISE WARNING USING MESSAGE = 'track_commit_timestamp is off',
            HINT = 'Subscriptions need it on, on every node; it takes effect with a restart.';
    END IF;
    interface := pgdrover.member_id(id, node_create.node_name);
    INSERT INTO spock.node (node_id, node_name, location, country, info)
    VALUES (id, node_create.node_name, node_create.location, node_create.country, node_create.info);
    INSERT INTO spock.node_interface (if_id, if_name, if_nodeid, if_dsn)
    VALUES (interface, node_create.node_name, id, dsn);
    INSERT INTO spock.local_node (node_id, node_local_interface) VALUES (id, interface);
    INSERT INTO spock.replication_set
           (set_id, set_nodeid, set_name, replicate_insert, replicate_update, replicate_delete, replicate_truncate)
    SELECT pgdrover.member_id(id, s.name), id, s.name, s.ins, s.upd, s.del, s.trunc
      FROM (VALUES ('default'::name, true, true, true, true), ('default_insert_only', true, false, false, true),
                   ('ddl_sql', true, false, false, false)) AS s(name, ins, upd, del, trunc);
    PERFORM pgdrover.create_publications();
    PERFORM pgdrover.notice_engine(dsn);
    RETURN id;
END
$$;

CREATE FUNCTION spock.node_drop(node_name name, ifexists boolean = false)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    n spock.node;
    slot record;
BEGIN
    LOCK TABLE spock.local_node IN SHARE ROW EXCLUSIVE MODE;
    SELECT * INTO n FROM spock.node k WHERE k.node_name = node_drop.node_name;
    IF n.node_id IS NULL THEN
        IF ifexists THEN
            RETURN false;
        END IF;
        n := pgdrover.find_node(node_drop.node_name);
    END IF;
    IF EXISTS (SELECT FROM spock.subscription s WHERE n.node_id IN (s.sub_origin, s.sub_target)) THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
            'cannot drop node "%s" because it still has subscriptions associated with it', n.node_name),
            HINT = 'drop the subscriptions first';
    END IF;
    IF n.node_id = pgdrover.local_node_id() THEN
        FOR slot IN SELECT r.slot_name, r.active FROM pg_catalog.pg_replication_slots r
                     WHERE r.database = pg_catalog.current_database() AND r.slot_name LIKE 'spk\_%'
                       AND r.plugin IN ('pgoutput', 'spock_output', 'spock') LOOP
            IF slot.active THEN
                RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
                    'cannot drop node "%s" because one or more replication slots for the node are still active', n.node_name),
                    HINT = 'drop the subscriptions connected to the node first';
            END IF;
            PERFORM pg_catalog.pg_drop_replication_slot(slot.slot_name);
        END LOOP;
        DELETE FROM spock.local_node;
        PERFORM pgdrover.drop_publications();
    END IF;
    PERFORM pgdrover.remove_node_rows(n.node_id);
    PERFORM pgdrover.unwatch_unused();
    RETURN true;
END
$$;

CREATE FUNCTION pgdrover.remove_node_rows(id oid)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM spock.depend d USING spock.replication_set s WHERE s.set_nodeid = id AND d.objid = s.set_id;
    DELETE FROM spock.pgdrover_row_filter f USING spock.replication_set s WHERE s.set_nodeid = id AND f.set_id = s.set_id;
    DELETE FROM spock.replication_set_table t USING spock.replication_set s WHERE s.set_nodeid = id AND t.set_id = s.set_id;
    DELETE FROM spock.replication_set_seq q USING spock.replication_set s WHERE s.set_nodeid = id AND q.set_id = s.set_id;
    DELETE FROM spock.sequence_state t WHERE NOT EXISTS (SELECT FROM spock.replication_set_seq q WHERE q.set_seqoid = t.seqoid);
    DELETE FROM spock.replication_set s WHERE s.set_nodeid = id;
    DELETE FROM spock.progress p WHERE id IN (p.node_id, p.remote_node_id);
    DELETE FROM spock.pgdrover_vector v WHERE id IN (v.provider_id, v.origin_id);
    DELETE FROM spock.node_interface i WHERE i.if_nodeid = id;
    DELETE FROM spock.node k WHERE k.node_id = id;
END
$$;

CREATE FUNCTION spock.node_add_interface(node_name name, interface_name name, dsn text)
RETURNS oid LANGUAGE plpgsql STRICT AS $$
DECLARE
    n spock.node := pgdrover.find_node(node_add_interface.node_name);
    id oid := pgdrover.member_id(n.node_id, interface_name);
BEGIN
    IF EXISTS (SELECT FROM spock.node_interface i WHERE i.if_nodeid = n.node_id AND i.if_name = interface_name) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'node "%s" already has interface named "%s"', n.node_name, interface_name);
    END IF;
    INSERT INTO spock.node_interface (if_id, if_name, if_nodeid, if_dsn) VALUES (id, interface_name, n.node_id, dsn);
    RETURN id;
END
$$;

CREATE FUNCTION spock.node_drop_interface(node_name name, interface_name name)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    n spock.node := pgdrover.find_node(node_drop_interface.node_name);
    id oid;
    user_of name;
BEGIN
    SELECT i.if_id INTO id FROM spock.node_interface i WHERE i.if_nodeid = n.node_id AND i.if_name = interface_name;
    IF id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'interface "%s" for node node "%s" not found', interface_name, n.node_name);
    END IF;
    SELECT s.sub_name INTO user_of FROM spock.subscription s WHERE id IN (s.sub_origin_if, s.sub_target_if)
     ORDER BY s.sub_name LIMIT 1;
    IF user_of IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
            'cannot drop interface "%s" for node "%s" because subscription "%s" is using it',
            interface_name, n.node_name, user_of), HINT = 'change the subscription interface first';
    END IF;
    DELETE FROM spock.node_interface i WHERE i.if_id = id;
    RETURN true;
END
$$;

CREATE FUNCTION spock.node_info(
    OUT node_id oid, OUT node_name text, OUT sysid text, OUT dbname text, OUT replication_sets text,
    OUT location text, OUT country text, OUT info jsonb)
RETURNS record LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT n.node_id, n.node_name::text, n.location, n.country, n.info
      INTO node_info.node_id, node_info.node_name, node_info.location, node_info.country, node_info.info
      FROM spock.local_node l JOIN spock.node n ON n.node_id = l.node_id;
    IF node_info.node_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'local spock node not found';
    END IF;
    SELECT c.system_identifier::text INTO sysid FROM pg_catalog.pg_control_system() c;
    dbname := pg_catalog.current_database();
    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(s.set_name), ',' ORDER BY s.set_name) INTO replication_sets
      FROM spock.replication_set s WHERE s.set_nodeid = node_info.node_id;
END
$$;

-- Replication sets, and which tables are in them.

-- A message in the stream, in order with the data.
CREATE FUNCTION pgdrover.enqueue(sets text[], message_type "char", message json, role name = current_user)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO spock.queue (queued_at, role, replication_sets, message_type, message)
    VALUES (pg_catalog.clock_timestamp(), role, sets, message_type, message)
$$;

CREATE FUNCTION pgdrover.find_set(node oid, wanted text, code text = 'XX000')
RETURNS spock.replication_set LANGUAGE plpgsql STABLE AS $$
DECLARE
    s spock.replication_set;
BEGIN
    SELECT * INTO s FROM spock.replication_set r WHERE r.set_nodeid = node AND r.set_name = wanted::name;
    IF s.set_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = code, MESSAGE = pg_catalog.format('replication set %s not found', wanted);
    END IF;
    RETURN s;
END
$$;

CREATE FUNCTION pgdrover.require_value(given anyelement, what text)
RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF given IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = what || ' cannot be NULL';
    END IF;
END
$$;

CREATE FUNCTION spock.repset_create(
    set_name name, replicate_insert boolean = true, replicate_update boolean = true, replicate_delete boolean = true,
    replicate_truncate boolean = true)
RETURNS oid LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    id oid := pgdrover.member_id(l.node_id, repset_create.set_name);
BEGIN
    IF repset_create.set_name = '' THEN
        RAISE EXCEPTION USING ERRCODE = '42602', MESSAGE = 'replication set name cannot be empty';
    END IF;
    IF EXISTS (SELECT FROM spock.replication_set s WHERE s.set_nodeid = l.node_id AND s.set_name = repset_create.set_name) THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(
            'replication set %s already exists', repset_create.set_name);
    END IF;
    INSERT INTO spock.replication_set
    VALUES (id, l.node_id, repset_create.set_name, repset_create.replicate_insert, repset_create.replicate_update,
            repset_create.replicate_delete, repset_create.replicate_truncate);
    RETURN id;
END
$$;

CREATE FUNCTION spock.repset_alter(
    set_name name, replicate_insert boolean = NULL, replicate_update boolean = NULL, replicate_delete boolean = NULL,
    replicate_truncate boolean = NULL)
RETURNS oid LANGUAGE plpgsql AS $$
DECLARE
    l spock.local_node;
    s spock.replication_set;
BEGIN
    PERFORM pgdrover.require_value(repset_alter.set_name, 'set_name');
    l := pgdrover.require_local_node();
    s := pgdrover.find_set(l.node_id, repset_alter.set_name);
    s.replicate_insert := coalesce(repset_alter.replicate_insert, s.replicate_insert);
    s.replicate_update := coalesce(repset_alter.replicate_update, s.replicate_update);
    s.replicate_delete := coalesce(repset_alter.replicate_delete, s.replicate_delete);
    s.replicate_truncate := coalesce(repset_alter.replicate_truncate, s.replicate_truncate);
    IF (s.replicate_update OR s.replicate_delete) AND EXISTS (
            SELECT FROM spock.replication_set_table t JOIN pg_catalog.pg_class c ON c.oid = t.set_reloid
             WHERE t.set_id = s.set_id AND c.relkind = 'r' AND NOT pgdrover.has_key(c.oid)) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'replication set %s cannot be altered to replicate UPDATEs or DELETEs because it contains tables without PRIMARY KEY',
            s.set_name);
    END IF;
    UPDATE spock.replication_set r
       SET replicate_insert = s.replicate_insert, replicate_update = s.replicate_update,
           replicate_delete = s.replicate_delete, replicate_truncate = s.replicate_truncate
     WHERE r.set_id = s.set_id;
    RETURN s.set_id;
END
$$;

CREATE FUNCTION spock.repset_drop(set_name name, ifexists boolean = false)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.replication_set;
    seq oid;
BEGIN
    IF ifexists AND NOT EXISTS (SELECT FROM spock.replication_set r
                                 WHERE r.set_nodeid = l.node_id AND r.set_name = repset_drop.set_name) THEN
        RETURN false;
    END IF;
    s := pgdrover.find_set(l.node_id, repset_drop.set_name);
    DELETE FROM spock.depend d WHERE d.objid = s.set_id;
    DELETE FROM spock.pgdrover_row_filter f WHERE f.set_id = s.set_id;
    DELETE FROM spock.replication_set_table t WHERE t.set_id = s.set_id;
    FOR seq IN DELETE FROM spock.replication_set_seq q WHERE q.set_id = s.set_id RETURNING q.set_seqoid LOOP
        PERFORM pgdrover.forget_sequence(seq);
    END LOOP;
    DELETE FROM spock.replication_set r WHERE r.set_id = s.set_id;
    RETURN true;
END
$$;

-- One membership.
CREATE FUNCTION pgdrover.add_member(s spock.replication_set, rel oid, columns text[], row_filter text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    c pg_catalog.pg_class;
    col text;
BEGIN
    SELECT * INTO c FROM pg_catalog.pg_class k WHERE k.oid = rel;
    IF c.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION USING ERRCODE = '42809', MESSAGE = pg_catalog.format('"%s" is not a table', c.relname);
    END IF;
    IF c.relpersistence <> 'p' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'UNLOGGED and TEMP tables cannot be replicated';
    END IF;
    IF pgdrover.reserved_schema((SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE n.oid = c.relnamespace)) OR c.oid < 16384 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'table %s cannot be added to replication set %s', c.relname, s.set_name),
            DETAIL = 'table is in a reserved schema';
    END IF;
    IF (s.replicate_update OR s.replicate_delete) AND c.relkind = 'r' AND NOT pgdrover.has_key(rel) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'table %s cannot be added to replication set %s', c.relname, s.set_name),
            DETAIL = 'table does not have PRIMARY KEY and given replication set is configured to replicate UPDATEs and/or DELETEs',
            HINT = 'Add a PRIMARY KEY to the table';
    END IF;
    FOREACH col IN ARRAY coalesce(columns, '{}') LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                        WHERE a.attrelid = rel AND a.attname = col::name AND a.attnum > 0 AND NOT a.attisdropped) THEN
            RAISE EXCEPTION USING ERRCODE = '42601', MESSAGE = pg_catalog.format(
                'table %s does not have column %s', pgdrover.qualified_name(rel), col);
        END IF;
    END LOOP;
    IF columns IS NOT NULL AND NOT coalesce(pgdrover.index_columns(pgdrover.identity_index(rel)), '{}')::text[] <@ columns THEN
        RAISE EXCEPTION USING ERRCODE = '42601', MESSAGE = 'REPLICA IDENTITY columns must be replicated';
    END IF;
    INSERT INTO spock.replication_set_table (set_id, set_reloid, set_att_list) VALUES (s.set_id, rel, columns);
    INSERT INTO spock.depend VALUES
        ('spock.replication_set_table'::regclass, s.set_id, pgdrover.as_integer(rel), 'pg_catalog.pg_class'::regclass, rel, 0, 'a');
    IF row_filter IS NOT NULL THEN
        PERFORM pgdrover.store_filter(s.set_id, rel, row_filter);
    END IF;
END
$$;

CREATE FUNCTION pgdrover.remove_member(set_id oid, rel oid)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM spock.pgdrover_row_filter f WHERE f.set_id = remove_member.set_id AND f.set_reloid = rel;
    DELETE FROM spock.depend d
     WHERE d.classid = 'spock.replication_set_table'::regclass AND d.objid = remove_member.set_id
       AND d.objsubid = pgdrover.as_integer(rel);
    DELETE FROM spock.replication_set_table t WHERE t.set_id = remove_member.set_id AND t.set_reloid = rel;
    RETURN FOUND;
END
$$;

-- The partitions below a table, at any depth.
CREATE FUNCTION pgdrover.partitions(rel oid)
RETURNS SETOF oid LANGUAGE sql STABLE AS $$
    SELECT p.relid::oid FROM pg_catalog.pg_partition_tree(rel::regclass) p WHERE p.relid <> rel ORDER BY p.level, p.relid
$$;

CREATE FUNCTION pgdrover.enqueue_table(set_name name, rel oid)
RETURNS void LANGUAGE sql AS $$
    SELECT pgdrover.enqueue(ARRAY[set_name::text], 'A', pg_catalog.format('{"schema_name": %s,"table_name": %s}',
               pg_catalog.to_json(n.nspname::text), pg_catalog.to_json(c.relname::text))::json)
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = rel
$$;

CREATE FUNCTION spock.repset_add_table(
    set_name name, relation regclass, synchronize_data boolean = false, columns text[] = NULL, row_filter text = NULL,
    include_partitions boolean = true)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    l spock.local_node;
    s spock.replication_set;
    part oid;
BEGIN
    PERFORM pgdrover.require_value(repset_add_table.set_name, 'set_name');
    PERFORM pgdrover.require_value(relation, 'relation');
    PERFORM pgdrover.require_value(synchronize_data, 'synchronize_data');
    l := pgdrover.require_local_node();
    s := pgdrover.find_set(l.node_id, repset_add_table.set_name);
    IF (SELECT c.relkind IN ('r', 'p') FROM pg_catalog.pg_class c WHERE c.oid = relation) THEN
        EXECUTE pg_catalog.format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE', pgdrover.qualified_name(relation));
    END IF;
    PERFORM pgdrover.add_member(s, relation, columns, row_filter);
    IF include_partitions THEN
        FOR part IN SELECT p FROM pgdrover.partitions(relation) p
                     WHERE NOT EXISTS (SELECT FROM spock.replication_set_table t WHERE t.set_id = s.set_id AND t.set_reloid = p) LOOP
            PERFORM pgdrover.add_member(s, part, columns, row_filter);
        END LOOP;
    END IF;
    PERFORM pgdrover.warn_unspread(relation);
    IF synchronize_data THEN
        PERFORM pgdrover.enqueue_table(s.set_name, relation);
    END IF;
    RETURN true;
END
$$;

CREATE FUNCTION spock.repset_add_all_tables(set_name name, schema_names text[], synchronize_data boolean = false)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.replication_set := pgdrover.find_set(l.node_id, repset_add_all_tables.set_name);
    schema_name text;
    c record;
BEGIN
    FOREACH schema_name IN ARRAY schema_names LOOP
        IF pg_catalog.to_regnamespace(pg_catalog.quote_ident(schema_name)) IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = '3F000', MESSAGE = pg_catalog.format('schema "%s" does not exist', schema_name);
        END IF;
        FOR c IN SELECT k.oid, k.relispartition FROM pg_catalog.pg_class k JOIN pg_catalog.pg_namespace n ON n.oid = k.relnamespace
                  WHERE n.nspname = schema_name::name AND k.relkind IN ('r', 'p') AND k.relpersistence = 'p' ORDER BY k.oid LOOP
            CONTINUE WHEN EXISTS (SELECT FROM spock.replication_set_table t WHERE t.set_id = s.set_id AND t.set_reloid = c.oid);
            PERFORM pgdrover.add_member(s, c.oid, NULL, NULL);
            IF synchronize_data AND NOT c.relispartition THEN
                PERFORM pgdrover.enqueue_table(s.set_name, c.oid);
            END IF;
        END LOOP;
    END LOOP;
    RETURN true;
END
$$;

CREATE FUNCTION pgdrover.raise_no_member(set_name name, rel oid)
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('Table %s not found in replication set %s',
        (SELECT c.relname FROM pg_catalog.pg_class c WHERE c.oid = rel), set_name);
END
$$;

CREATE FUNCTION spock.repset_remove_table(set_name name, relation regclass, include_partitions boolean = true)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.replication_set := pgdrover.find_set(l.node_id, repset_remove_table.set_name);
BEGIN
    IF NOT pgdrover.remove_member(s.set_id, relation)
       AND NOT (SELECT c.relispartition FROM pg_catalog.pg_class c WHERE c.oid = relation) THEN
        PERFORM pgdrover.raise_no_member(s.set_name, relation);
    END IF;
    IF include_partitions THEN
        PERFORM pgdrover.remove_member(s.set_id, p) FROM pgdrover.partitions(relation) p;
    END IF;
    RETURN true;
END
$$;

CREATE FUNCTION spock.repset_add_partition(parent regclass, partition regclass = NULL, row_filter text = NULL)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    l spock.local_node;
    m record;
    part oid;
    n integer := 0;
BEGIN
    PERFORM pgdrover.require_value(parent, 'parent table');
    l := pgdrover.require_local_node();
    FOR m IN SELECT s AS repset, t.set_att_list, pg_catalog.pg_get_expr(t.set_row_filter, t.set_reloid) AS filter
               FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)
              WHERE t.set_reloid = parent AND s.set_nodeid = l.node_id ORDER BY s.set_name LOOP
        FOR part IN SELECT p FROM pgdrover.partitions(parent) p
                     WHERE (partition IS NULL OR p = partition)
                       AND NOT EXISTS (SELECT FROM spock.replication_set_table t
                                        WHERE t.set_id = (m.repset).set_id AND t.set_reloid = p) LOOP
            PERFORM pgdrover.add_member(m.repset, part, m.set_att_list, coalesce(repset_add_partition.row_filter, m.filter));
            n := n + 1;
        END LOOP;
    END LOOP;
    RETURN n;
END
$$;

CREATE FUNCTION spock.repset_remove_partition(parent regclass, partition regclass = NULL)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    l spock.local_node;
    s record;
    part oid;
    n integer := 0;
BEGIN
    PERFORM pgdrover.require_value(parent, 'parent table');
    l := pgdrover.require_local_node();
    FOR s IN SELECT r.set_id, r.set_name FROM spock.replication_set_table t JOIN spock.replication_set r USING (set_id)
              WHERE t.set_reloid = parent AND r.set_nodeid = l.node_id ORDER BY r.set_name LOOP
        FOR part IN SELECT p FROM pgdrover.partitions(parent) p WHERE partition IS NULL OR p = partition LOOP
            IF pgdrover.remove_member(s.set_id, part) THEN
                n := n + 1;
            ELSIF partition IS NOT NULL THEN
                PERFORM pgdrover.raise_no_member(s.set_name, part);
            END IF;
        END LOOP;
    END LOOP;
    RETURN n;
END
$$;

CREATE FUNCTION spock.repset_show_table(
    relation regclass, repsets text[], OUT relid oid, OUT nspname text, OUT relname text, OUT att_list text[],
    OUT has_row_filter boolean, OUT relkind "char", OUT relispartition boolean)
RETURNS record LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    node oid := pgdrover.local_node_id();
    ids oid[];
    listed text[];
BEGIN
    IF node IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'local spock node not found';
    END IF;
    SELECT pg_catalog.array_agg((pgdrover.find_set(node, r, '22023')).set_id) INTO ids FROM pg_catalog.unnest(repsets) r;
    SELECT c.oid, n.nspname::text, c.relname::text, c.relkind, c.relispartition
      INTO relid, repset_show_table.nspname, repset_show_table.relname, repset_show_table.relkind, repset_show_table.relispartition
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation;
    -- A set without a list does not widen the union of those with one.
    SELECT pg_catalog.array_agg(DISTINCT a.name) FILTER (WHERE a.name IS NOT NULL),
           coalesce(pg_catalog.bool_or(t.set_row_filter IS NOT NULL), false)
      INTO listed, has_row_filter
      FROM spock.replication_set_table t LEFT JOIN LATERAL pg_catalog.unnest(t.set_att_list) AS a(name) ON true
     WHERE t.set_reloid = relation AND t.set_id = ANY (ids);
    SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) INTO att_list
      FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
       AND (listed IS NULL OR a.attname::text = ANY (listed));
END
$$;

-- Row filters. There is no function that makes a pg_node_tree of a text; the server makes one for a CHECK constraint.

CREATE FUNCTION pgdrover.store_filter(target_set oid, rel oid, expression text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    relation text := pgdrover.qualified_name(rel);
    partitioned boolean := (SELECT c.relkind = 'p' FROM pg_catalog.pg_class c WHERE c.oid = rel);
    con record;
    code text;
BEGIN
    IF NOT pgdrover.is_one_expression(expression) THEN
        RAISE EXCEPTION USING ERRCODE = '42601', MESSAGE = pg_catalog.format('invalid row_filter expression "%s"', expression);
    END IF;
    BEGIN
        PERFORM pgdrover.run(pg_catalog.format(
            E'ALTER TABLE %s ADD CONSTRAINT pgdrover_row_filter CHECK (%s\n)%s NOT VALID', relation, expression,
            CASE WHEN partitioned THEN '' ELSE ' NO INHERIT' END));
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE;
        RAISE EXCEPTION USING ERRCODE = code,
            MESSAGE = pg_catalog.replace(pg_catalog.replace(SQLERRM,
                'can be referenced in check constraint', 'can be referenced in row_filter'),
                'argument of CHECK must', 'argument of row_filter must'),
            DETAIL = CASE WHEN code = '42601' THEN pg_catalog.format('invalid row_filter expression "%s"', expression) ELSE '' END;
    END;
    SELECT c.oid, c.conbin, pg_catalog.pg_get_expr(c.conbin, c.conrelid) AS text INTO STRICT con
      FROM pg_catalog.pg_constraint c WHERE c.conrelid = rel AND c.conname = 'pgdrover_row_filter';
    UPDATE spock.replication_set_table t SET set_row_filter = con.conbin WHERE t.set_id = target_set AND t.set_reloid = rel;
    INSERT INTO spock.pgdrover_row_filter (set_id, set_reloid, row_filter) VALUES (target_set, rel, con.text);
    INSERT INTO spock.depend
    SELECT DISTINCT 'spock.replication_set_table'::regclass::oid, target_set, pgdrover.as_integer(rel),
           d.refclassid, d.refobjid, d.refobjsubid, 'n'::"char"
      FROM pg_catalog.pg_depend d
     WHERE d.classid = 'pg_catalog.pg_constraint'::regclass AND d.objid = con.oid
       AND (d.refclassid <> 'pg_catalog.pg_class'::regclass OR d.refobjsubid > 0)
       AND d.refclassid <> 'pg_catalog.pg_constraint'::regclass;
    PERFORM pgdrover.run(pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT pgdrover_row_filter', relation));
END
$$;

-- A column that is renamed changes the texts of filters, which travel as texts.
CREATE FUNCTION pgdrover.refresh_filters(rels oid[])
RETURNS void LANGUAGE sql AS $$
    UPDATE spock.pgdrover_row_filter f
       SET row_filter = pg_catalog.pg_get_expr(t.set_row_filter, t.set_reloid)
      FROM spock.replication_set_table t
     WHERE t.set_id = f.set_id AND t.set_reloid = f.set_reloid AND (rels IS NULL OR f.set_reloid = ANY (rels))
       AND f.row_filter <> pg_catalog.pg_get_expr(t.set_row_filter, t.set_reloid)
$$;

CREATE FUNCTION spock.table_data_filtered(reltyp anyelement, relation regclass, repsets text[])
RETURNS SETOF anyelement LANGUAGE plpgsql STABLE AS $$
DECLARE
    node oid;
    ids oid[];
    filters text;
BEGIN
    PERFORM pgdrover.require_value(relation, 'relation');
    PERFORM pgdrover.require_value(repsets, 'repsets');
    IF (SELECT t.typtype <> 'c' FROM pg_catalog.pg_type t WHERE t.oid = pg_catalog.pg_typeof(reltyp)) THEN
        RAISE EXCEPTION USING ERRCODE = '42804',
            MESSAGE = 'first argument of spock_table_data_filtered must be a row type';
    END IF;
    IF (SELECT c.reltype <> pg_catalog.pg_typeof(reltyp) FROM pg_catalog.pg_class c WHERE c.oid = relation) THEN
        RAISE EXCEPTION USING ERRCODE = '42804',
            MESSAGE = 'return type of spock_table_data_filtered must be same as row type of the relation';
    END IF;
    node := pgdrover.local_node_id();
    IF node IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'local spock node not found';
    END IF;
    SELECT pg_catalog.array_agg((pgdrover.find_set(node, r, '22023')).set_id) INTO ids FROM pg_catalog.unnest(repsets) r;
    -- NULL when some set takes every row.
    SELECT CASE WHEN pg_catalog.bool_or(t.set_row_filter IS NULL) THEN NULL ELSE pg_catalog.string_agg(
               '(' || pg_catalog.pg_get_expr(t.set_row_filter, t.set_reloid) || ')', ' OR ') END INTO filters
      FROM spock.replication_set_table t WHERE t.set_reloid = relation AND t.set_id = ANY (ids);
    RETURN QUERY EXECUTE 'SELECT * FROM ' || pgdrover.qualified_name(relation)
        || CASE WHEN filters IS NULL THEN '' ELSE ' WHERE ' || filters END;
END
$$;

-- Sequences: subscribers get values well ahead of those in use. And, for nodes that all write, values that no two nodes
-- can both draw.

CREATE FUNCTION pgdrover.forget_sequence(seq oid)
RETURNS void LANGUAGE sql AS $$
    DELETE FROM spock.sequence_state t
     WHERE t.seqoid = seq AND NOT EXISTS (SELECT FROM spock.replication_set_seq q WHERE q.set_seqoid = seq)
$$;

CREATE FUNCTION pgdrover.sequence_value(seq oid)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v bigint;
BEGIN
    EXECUTE 'SELECT last_value FROM ' || pgdrover.qualified_name(seq) INTO v;
    RETURN v;
END
$$;

-- Tells the subscribers of these sets a value that is cache_size ahead.
CREATE FUNCTION pgdrover.announce_sequence(seq oid, sets text[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v bigint;
BEGIN
    UPDATE spock.sequence_state t SET last_value = pgdrover.sequence_value(seq) + t.cache_size
     WHERE t.seqoid = seq RETURNING t.last_value INTO v;
    PERFORM pgdrover.enqueue(sets, 'S', pg_catalog.format('{"schema_name": %s,"sequence_name": %s,"last_value": "%s"}',
                pg_catalog.to_json(n.nspname::text), pg_catalog.to_json(c.relname::text), v)::json)
       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = seq;
END
$$;

CREATE FUNCTION pgdrover.add_sequence(s spock.replication_set, seq oid, synchronize_data boolean)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    c pg_catalog.pg_class;
BEGIN
    SELECT * INTO c FROM pg_catalog.pg_class k WHERE k.oid = seq;
    IF c.relkind <> 'S' THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('"%s" is not a sequence', c.relname);
    END IF;
    IF c.relpersistence <> 'p' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'UNLOGGED and TEMP sequences cannot be replicated';
    END IF;
    INSERT INTO spock.replication_set_seq (set_id, set_seqoid) VALUES (s.set_id, seq);
    INSERT INTO spock.sequence_state (seqoid, cache_size, last_value)
    SELECT seq, 1000, pgdrover.sequence_value(seq)
     WHERE NOT EXISTS (SELECT FROM spock.sequence_state t WHERE t.seqoid = seq);
    IF synchronize_data THEN
        PERFORM pgdrover.announce_sequence(seq, ARRAY[s.set_name::text]);
    END IF;
END
$$;

CREATE FUNCTION spock.repset_add_seq(set_name name, relation regclass, synchronize_data boolean = false)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
BEGIN
    PERFORM pgdrover.add_sequence(pgdrover.find_set(l.node_id, repset_add_seq.set_name), relation, synchronize_data);
    RETURN true;
END
$$;

CREATE FUNCTION spock.repset_add_all_seqs(set_name name, schema_names text[], synchronize_data boolean = false)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.replication_set := pgdrover.find_set(l.node_id, repset_add_all_seqs.set_name);
    schema_name text;
    seq oid;
BEGIN
    FOREACH schema_name IN ARRAY schema_names LOOP
        IF pg_catalog.to_regnamespace(pg_catalog.quote_ident(schema_name)) IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = '3F000', MESSAGE = pg_catalog.format('schema "%s" does not exist', schema_name);
        END IF;
        FOR seq IN SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = schema_name::name AND c.relkind = 'S' AND c.relpersistence = 'p'
                      AND NOT EXISTS (SELECT FROM spock.replication_set_seq q WHERE q.set_id = s.set_id AND q.set_seqoid = c.oid)
                    ORDER BY c.oid LOOP
            PERFORM pgdrover.add_sequence(s, seq, synchronize_data);
        END LOOP;
    END LOOP;
    RETURN true;
END
$$;

CREATE FUNCTION spock.repset_remove_seq(set_name name, relation regclass)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.replication_set := pgdrover.find_set(l.node_id, repset_remove_seq.set_name);
BEGIN
    DELETE FROM spock.replication_set_seq q WHERE q.set_id = s.set_id AND q.set_seqoid = relation;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(
            'replication set sequence mapping %s:%s not found', s.set_id, relation::oid);
    END IF;
    PERFORM pgdrover.forget_sequence(relation);
    RETURN true;
END
$$;

CREATE FUNCTION spock.sync_seq(relation regclass)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    c pg_catalog.pg_class;
    sets text[];
BEGIN
    SELECT * INTO c FROM pg_catalog.pg_class k WHERE k.oid = relation;
    IF c.relkind <> 'S' THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('"%s" is not a sequence', c.relname);
    END IF;
    SELECT pg_catalog.array_agg(s.set_name::text ORDER BY s.set_name) INTO sets
      FROM spock.replication_set_seq q JOIN spock.replication_set s USING (set_id)
     WHERE q.set_seqoid = relation AND s.set_nodeid = l.node_id;
    IF sets IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('"%s" is not a replicated sequence', c.relname);
    END IF;
    PERFORM pgdrover.announce_sequence(relation, sets);
    RETURN true;
END
$$;

-- The periodic pass: a sequence that has come within half its cache of the announced value is announced again, twice as
-- far ahead, up to a million. Returns how many.
CREATE FUNCTION pgdrover.sync_sequences()
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    q record;
    n integer := 0;
BEGIN
    FOR q IN SELECT t.seqoid, pg_catalog.array_agg(s.set_name::text ORDER BY s.set_name) AS sets
               FROM spock.sequence_state t
               JOIN spock.replication_set_seq m ON m.set_seqoid = t.seqoid
               JOIN spock.replication_set s ON s.set_id = m.set_id AND s.set_nodeid = pgdrover.local_node_id()
              WHERE pgdrover.sequence_value(t.seqoid) > t.last_value - t.cache_size / 2
              GROUP BY t.seqoid ORDER BY t.seqoid LOOP
        UPDATE spock.sequence_state t SET cache_size = least(t.cache_size * 2, 1000000) WHERE t.seqoid = q.seqoid;
        PERFORM pgdrover.announce_sequence(q.seqoid, q.sets);
        n := n + 1;
    END LOOP;
    RETURN n;
END
$$;

-- Sequences behind columns of these tables: owned by one, or named in a default.
CREATE FUNCTION pgdrover.table_sequences(rels oid[])
RETURNS TABLE (seq oid, rel oid) LANGUAGE sql STABLE AS $$
    SELECT DISTINCT d.objid, d.refobjid FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid
     WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
       AND d.deptype IN ('a', 'i') AND c.relkind = 'S' AND d.refobjid = ANY (rels)
     UNION
    SELECT d.refobjid, a.adrelid FROM pg_catalog.pg_attrdef a
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = a.oid
                                 AND d.refclassid = 'pg_catalog.pg_class'::regclass
      JOIN pg_catalog.pg_class c ON c.oid = d.refobjid AND c.relkind = 'S'
     WHERE a.adrelid = ANY (rels)
$$;

-- Sequences behind member tables that may draw a value that another node draws too.
CREATE FUNCTION pgdrover.unspread_sequences(rels oid[] = NULL)
RETURNS TABLE (seq oid, rel oid) LANGUAGE sql STABLE AS $$
    SELECT t.seq, t.rel
      FROM pgdrover.table_sequences(coalesce(rels, (
               SELECT pg_catalog.array_agg(DISTINCT m.set_reloid::oid) FROM spock.replication_set_table m
                 JOIN spock.replication_set s USING (set_id) WHERE s.set_nodeid = pgdrover.local_node_id()))) t
      JOIN pg_catalog.pg_sequence q ON q.seqrelid = t.seq
     WHERE q.seqincrement IS DISTINCT FROM (SELECT p.max_nodes FROM spock.pgdrover_spread p)
$$;

CREATE FUNCTION pgdrover.warn_unspread(rel oid)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    q record;
BEGIN
    IF (SELECT pg_catalog.count(*) < 2 FROM spock.node) THEN
        RETURN;
    END IF;
    FOR q IN SELECT u.seq, u.rel FROM pgdrover.unspread_sequences(
                 (SELECT pg_catalog.array_agg(p) FROM (SELECT rel UNION ALL SELECT pgdrover.partitions(rel)) AS x(p))) u LOOP
        RAISE WARNING USING MESSAGE = pg_catalog.format('sequence %s of table %s may draw values that another node draws too',
                pgdrover.qualified_name(q.seq), pgdrover.qualified_name(q.rel)),
            HINT = 'Run SELECT pgdrover.sequence_spread() on every node.';
    END LOOP;
END
$$;

-- This node's place among max_nodes: the one it has, or the first from its id on that no known peer has taken.
CREATE FUNCTION pgdrover.choose_node_number(max_nodes integer)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    l record;
    peer record;
    taken integer[] := '{}';
    answer text;
    number integer;
BEGIN
    SELECT n.node_id, n.info INTO l FROM spock.local_node k JOIN spock.node n USING (node_id);
    IF l.info ->> 'sequence_number' ~ '^\d{1,4}$' THEN
        RETURN (l.info ->> 'sequence_number')::integer;
    END IF;
    FOR peer IN SELECT DISTINCT ON (n.node_id) n.node_id, n.node_name, n.info, i.if_dsn
                  FROM spock.node n JOIN spock.node_interface i ON i.if_nodeid = n.node_id
                 WHERE n.node_id <> l.node_id ORDER BY n.node_id, i.if_name LOOP
        IF NOT pgdrover.can_ask_peers() THEN
            RAISE EXCEPTION USING ERRCODE = '55000',
                MESSAGE = pg_catalog.format('cannot ask node "%s" for its place among the nodes', peer.node_name),
                HINT = 'Give each node a number of its own: SELECT pgdrover.sequence_spread(16, 1)';
        END IF;
        PERFORM pgdrover.peer_open('pgdrover_spread', peer.if_dsn, 'pgdrover sequence_spread');
        SELECT q INTO answer FROM pgdrover.peer_query('pgdrover_spread',
            'SELECT node_number::text FROM spock.pgdrover_spread') q;
        PERFORM pgdrover.peer_close('pgdrover_spread');
        taken := taken || answer::integer;
        answer := NULL;
    END LOOP;
    FOR i IN 0 .. max_nodes - 1 LOOP
        number := ((l.node_id::int8 + i) % max_nodes)::integer;
        IF NOT number = ANY (taken) OR pg_catalog.cardinality(taken) = 0 THEN
            RETURN number;
        END IF;
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('all %s places are taken by other nodes', max_nodes),
        HINT = 'Call it with a larger number on every node.';
END
$$;

-- Sets the increment of the sequences behind member tables to max_nodes, and their next value to one that only this
-- node draws. Local only: each node calls it. Returns how many sequences it changed.
CREATE FUNCTION pgdrover.sequence_spread(max_nodes integer = 16, node_number integer = NULL)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    number integer;
    q record;
    next_value bigint;
    used boolean;
    n integer := 0;
BEGIN
    IF max_nodes NOT BETWEEN 2 AND 1024 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'max_nodes must be between 2 and 1024';
    END IF;
    number := coalesce(sequence_spread.node_number,
        (SELECT s.node_number FROM spock.pgdrover_spread s WHERE s.node_number < sequence_spread.max_nodes),
        pgdrover.choose_node_number(sequence_spread.max_nodes)) % sequence_spread.max_nodes;
    DELETE FROM spock.pgdrover_spread;
    INSERT INTO spock.pgdrover_spread (max_nodes, node_number) VALUES (sequence_spread.max_nodes, number);
    FOR q IN SELECT DISTINCT s.seqrelid, s.seqmax FROM pg_catalog.pg_sequence s
               JOIN pgdrover.table_sequences((SELECT pg_catalog.array_agg(DISTINCT m.set_reloid::oid)
                        FROM spock.replication_set_table m JOIN spock.replication_set r USING (set_id)
                       WHERE r.set_nodeid = l.node_id)) t ON t.seq = s.seqrelid
              WHERE s.seqincrement > 0 LOOP
        EXECUTE 'SELECT last_value, is_called FROM ' || pgdrover.qualified_name(q.seqrelid) INTO next_value, used;
        next_value := next_value + CASE WHEN used THEN 1 ELSE 0 END;
        next_value := next_value + ((number - next_value) % sequence_spread.max_nodes + sequence_spread.max_nodes)
                                   % sequence_spread.max_nodes;
        IF next_value > q.seqmax THEN
            RAISE EXCEPTION USING ERRCODE = '2200H', MESSAGE = pg_catalog.format(
                'sequence %s has no value left for this node', pgdrover.qualified_name(q.seqrelid));
        END IF;
        CONTINUE WHEN (SELECT s.seqincrement = sequence_spread.max_nodes FROM pg_catalog.pg_sequence s WHERE s.seqrelid = q.seqrelid)
            AND (pgdrover.sequence_value(q.seqrelid) - number) % sequence_spread.max_nodes = 0;
        PERFORM pgdrover.run(pg_catalog.format('ALTER SEQUENCE %s INCREMENT BY %s RESTART WITH %s',
            pgdrover.qualified_name(q.seqrelid), sequence_spread.max_nodes, next_value));
        n := n + 1;
    END LOOP;
    PERFORM pg_catalog.pg_notify('spock_change', 'sequence');
    RETURN n;
END
$$;

-- Subscriptions. SQL stores what is wanted, after it has asked the provider whether that can be; the engine does it.

CREATE FUNCTION pgdrover.find_subscription(wanted name)
RETURNS spock.subscription LANGUAGE plpgsql STABLE AS $$
DECLARE
    s spock.subscription;
BEGIN
    SELECT * INTO s FROM spock.subscription k WHERE k.sub_name = wanted;
    IF s.sub_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('subscriber %s not found', wanted);
    END IF;
    RETURN s;
END
$$;

CREATE FUNCTION pgdrover.check_subscription_name(sub_name text)
RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF sub_name = '' THEN
        RAISE EXCEPTION USING ERRCODE = '42602', MESSAGE = pg_catalog.format('subscription name "%s" is too short', sub_name);
    ELSIF pg_catalog.octet_length(sub_name) > 63 THEN
        RAISE EXCEPTION USING ERRCODE = '42622', MESSAGE = pg_catalog.format('subscription name "%s" is too long', sub_name);
    ELSIF sub_name !~ '^[a-z0-9_]+$' THEN
        RAISE EXCEPTION USING ERRCODE = '42602',
            MESSAGE = pg_catalog.format('subscription name "%s" contains invalid character', sub_name),
            HINT = 'Subscription names may only contain lower case letters, numbers, and the underscore character.';
    END IF;
END
$$;

-- Whether a session of the engine works for this subscription: it holds the subscription's lock.
CREATE FUNCTION pgdrover.worker_runs(id oid)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l
                    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 727400011 AND l.objid = id AND l.objsubid = 2
                      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
$$;

-- Asks the provider, and refuses what could not work. Gives the answer of node_info there; NULL when peers cannot be
-- asked from here.
CREATE FUNCTION pgdrover.ask_provider(subscription_name name, provider_dsn text, local_dsn text, slot name, enabled boolean)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    app text := pgdrover.short_name(subscription_name) || '_create';
    answer jsonb;
    facts jsonb;
BEGIN
    IF NOT pgdrover.can_ask_peers() THEN
        RETURN NULL;
    END IF;
    PERFORM pgdrover.peer_open('pgdrover_create', provider_dsn, app);
    BEGIN
        SELECT q::jsonb INTO answer FROM pgdrover.peer_query('pgdrover_create',
            'SELECT pg_catalog.row_to_json(i)::text FROM spock.node_info() i') q;
    EXCEPTION WHEN OTHERS THEN
        PERFORM pgdrover.peer_close('pgdrover_create');
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('could not fetch remote node info: %s', SQLERRM);
    END;
    SELECT q::jsonb INTO facts FROM pgdrover.peer_query('pgdrover_create', pg_catalog.format(
        'SELECT pg_catalog.json_build_object(''wal_level'', pg_catalog.current_setting(''wal_level''), '
        '''stamps'', pg_catalog.current_setting(''track_commit_timestamp''), '
        '''encoding'', pg_catalog.current_setting(''server_encoding''), '
        '''slot'', (SELECT pg_catalog.to_json(s) FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = %L))::text', slot)) q;
    PERFORM pgdrover.peer_close('pgdrover_create');
    PERFORM pgdrover.peer_open('pgdrover_create', provider_dsn, app, true);
    PERFORM pgdrover.peer_close('pgdrover_create');
    PERFORM pgdrover.peer_open('pgdrover_create', local_dsn, app);
    PERFORM pgdrover.peer_close('pgdrover_create');
    PERFORM pgdrover.check_provider(answer, facts, enabled);
    RETURN answer;
END
$$;

CREATE FUNCTION pgdrover.check_provider(answer jsonb, facts jsonb, enabled boolean)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    provider text := answer ->> 'node_name';
    slot jsonb := facts -> 'slot';
BEGIN
    IF answer ->> 'sysid' = (SELECT c.system_identifier::text FROM pg_catalog.pg_control_system() c)
       AND answer ->> 'dbname' = pg_catalog.current_database() AND (answer ->> 'node_id')::oid = pgdrover.local_node_id() THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('node "%s" cannot subscribe to itself', provider),
            HINT = 'provider_dsn must lead to another node.';
    END IF;
    IF facts ->> 'wal_level' <> 'logical' THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
            'node "%s" cannot be a provider: its wal_level is %s', provider, facts ->> 'wal_level'),
            HINT = 'Set wal_level = logical there and restart that server.';
    END IF;
    IF facts ->> 'stamps' <> 'on' THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
            'node "%s" cannot be a provider: its track_commit_timestamp is off', provider),
            HINT = 'Set track_commit_timestamp = on there and restart that server.';
    END IF;
    IF facts ->> 'encoding' <> pg_catalog.current_setting('server_encoding') THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
            'node "%s" cannot be a provider: its encoding is %s, here it is %s', provider, facts ->> 'encoding',
            pg_catalog.current_setting('server_encoding'));
    END IF;
    IF enabled AND (slot ->> 'active')::boolean THEN
        RAISE EXCEPTION USING ERRCODE = '55006', MESSAGE = pg_catalog.format(
            'replication slot "%s" is active for PID %s', slot ->> 'slot_name', slot ->> 'active_pid'),
            DETAIL = pg_catalog.format('It is a slot of node "%s".', provider);
    END IF;
    IF NOT enabled AND slot ->> 'wal_status' = 'lost' THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
            'replication slot "%s" of node "%s" has lost the WAL that it needs', slot ->> 'slot_name', provider),
            HINT = 'Drop the slot and create it again.';
    END IF;
END
$$;

-- The provider's node and interface rows. A node that is known already must be known under this very string.
CREATE FUNCTION pgdrover.learn_provider(answer jsonb, dsn text)
RETURNS spock.node_interface LANGUAGE plpgsql AS $$
DECLARE
    node oid := (answer ->> 'node_id')::oid;
    provider name := answer ->> 'node_name';
    i spock.node_interface;
    other spock.node_interface;
BEGIN
    SELECT * INTO i FROM spock.node_interface k WHERE k.if_nodeid = node AND k.if_dsn = dsn ORDER BY k.if_name LIMIT 1;
    IF i.if_id IS NOT NULL THEN
        RETURN i;
    END IF;
    SELECT * INTO other FROM spock.node_interface k WHERE k.if_nodeid = node ORDER BY k.if_name LIMIT 1;
    IF other.if_id IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'dsn "%s" points to existing node "%s" with different dsn "%s"', pgdrover.masked(dsn), provider,
            pgdrover.masked(other.if_dsn));
    END IF;
    PERFORM pgdrover.check_node_id(node, provider);
    INSERT INTO spock.node (node_id, node_name, location, country, info)
    SELECT node, provider, answer ->> 'location', answer ->> 'country', nullif(answer -> 'info', 'null')
     WHERE NOT EXISTS (SELECT FROM spock.node k WHERE k.node_id = node);
    INSERT INTO spock.node_interface (if_id, if_name, if_nodeid, if_dsn)
    VALUES (pgdrover.member_id(node, provider), provider, node, dsn) RETURNING * INTO i;
    RETURN i;
END
$$;

CREATE FUNCTION spock.sub_create(
    subscription_name name, provider_dsn text, replication_sets text[] = '{default,default_insert_only,ddl_sql}',
    synchronize_structure boolean = false, synchronize_data boolean = false, forward_origins text[] = '{}',
    apply_delay interval = '0', force_text_transfer boolean = false, enabled boolean = true, skip_schema text[] = '{}')
RETURNS oid LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    local_dsn text := (SELECT i.if_dsn FROM spock.node_interface i WHERE i.if_id = l.node_local_interface);
    id oid := pgdrover.subscription_id(subscription_name);
    answer jsonb;
    provider spock.node_interface;
    slot name;
BEGIN
    PERFORM pgdrover.check_subscription_name(subscription_name::text);
    IF NOT enabled AND (synchronize_structure OR synchronize_data) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'subscription "%s" in disabled state is not allowed to synchronize structure or data', subscription_name);
    END IF;
    IF pg_catalog.current_setting('track_commit_timestamp') <> 'on' THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'this node cannot subscribe: its track_commit_timestamp is off',
            HINT = 'Set track_commit_timestamp = on and restart this server.';
    END IF;
    IF EXISTS (SELECT FROM spock.subscription s WHERE s.sub_name = subscription_name OR s.sub_id = id) THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('subscription %s already exists', subscription_name);
    END IF;
    -- The slot's name needs the provider's; the first question is whether there is one.
    answer := pgdrover.ask_provider(subscription_name, provider_dsn, local_dsn, '', enabled);
    IF answer IS NULL THEN
        RETURN pgdrover.store_pending(l, subscription_name, provider_dsn, replication_sets, synchronize_structure,
            synchronize_data, forward_origins, apply_delay, force_text_transfer, enabled, skip_schema);
    END IF;
    slot := spock.spock_gen_slot_name(pg_catalog.current_database(), (answer ->> 'node_name')::name, subscription_name);
    PERFORM pgdrover.check_slot(provider_dsn, subscription_name, slot, answer, enabled);
    provider := pgdrover.learn_provider(answer, provider_dsn);
    PERFORM pgdrover.warn_shared_sets(provider.if_nodeid, (answer ->> 'node_name'), replication_sets);
    PERFORM pgdrover.store_subscription(l, provider, subscription_name, slot, replication_sets, synchronize_structure,
        synchronize_data, forward_origins, apply_delay, force_text_transfer, enabled, skip_schema);
    PERFORM pgdrover.notice_engine(local_dsn);
    RETURN id;
END
$$;

CREATE FUNCTION pgdrover.check_slot(provider_dsn text, subscription_name name, slot name, answer jsonb, enabled boolean)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    facts jsonb;
BEGIN
    PERFORM pgdrover.peer_open('pgdrover_create', provider_dsn, pgdrover.short_name(subscription_name) || '_create');
    SELECT q::jsonb INTO facts FROM pgdrover.peer_query('pgdrover_create', pg_catalog.format(
        'SELECT pg_catalog.to_json(s)::text FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = %L', slot)) q;
    PERFORM pgdrover.peer_close('pgdrover_create');
    PERFORM pgdrover.check_provider(answer, pg_catalog.jsonb_build_object('slot', facts), enabled);
END
$$;

CREATE FUNCTION pgdrover.warn_shared_sets(provider oid, provider_name name, sets text[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT s.sub_name, n.name FROM spock.subscription s CROSS JOIN LATERAL pg_catalog.unnest(sets) AS n(name)
              WHERE s.sub_origin = provider AND n.name = ANY (s.sub_replication_sets) ORDER BY s.sub_name, n.name LOOP
        RAISE WARNING USING MESSAGE = pg_catalog.format(
            'existing subscription "%s" to node "%s" already subscribes to replication set "%s"', r.sub_name, provider_name, r.name);
    END LOOP;
END
$$;

CREATE FUNCTION pgdrover.store_subscription(
    l spock.local_node, provider spock.node_interface, subscription_name name, slot name, replication_sets text[],
    synchronize_structure boolean, synchronize_data boolean, forward_origins text[], apply_delay interval,
    force_text_transfer boolean, enabled boolean, skip_schema text[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    id oid := pgdrover.subscription_id(subscription_name);
BEGIN
    INSERT INTO spock.subscription
           (sub_id, sub_name, sub_origin, sub_target, sub_origin_if, sub_target_if, sub_enabled, sub_slot_name,
            sub_replication_sets, sub_forward_origins, sub_apply_delay, sub_force_text_transfer, sub_skip_schema, sub_created_at)
    VALUES (id, subscription_name, provider.if_nodeid, l.node_id, provider.if_id, l.node_local_interface, enabled, slot,
            nullif(replication_sets, '{}'), nullif(forward_origins, '{}'), apply_delay, force_text_transfer,
            nullif(skip_schema, '{}'), pg_catalog.now());
    INSERT INTO spock.pgdrover_subscription (sub_id) VALUES (id);
    INSERT INTO spock.progress
           (node_id, remote_node_id, remote_commit_ts, remote_lsn, remote_insert_lsn, last_updated_ts, updated_by_decode,
            dbid, remote_commit_lsn, received_lsn)
    SELECT l.node_id, provider.if_nodeid, pg_catalog.now(), '0/0', '0/0', pg_catalog.now(), true, d.oid, '0/0', '0/0'
      FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
        ON CONFLICT DO NOTHING;
    INSERT INTO spock.local_sync_status (sync_kind, sync_subid, sync_status, sync_statuslsn)
    VALUES (CASE WHEN synchronize_structure AND synchronize_data THEN 'f' WHEN synchronize_structure THEN 's'
                 WHEN synchronize_data THEN 'd' ELSE 'i' END::"char",
            id, CASE WHEN enabled THEN 'i' ELSE 'r' END::"char", '0/0');
    -- Whoever prepares a disabled subscription moves its origin before it is enabled.
    IF NOT enabled AND provider.if_nodeid <> l.node_id THEN
        PERFORM pgdrover.origin_create(slot, provider.if_nodeid, id);
    END IF;
END
$$;

-- A subscription whose provider could not be asked: stored under a provider that stands for it until the engine knows better.
CREATE FUNCTION pgdrover.store_pending(
    l spock.local_node, subscription_name name, provider_dsn text, replication_sets text[], synchronize_structure boolean,
    synchronize_data boolean, forward_origins text[], apply_delay interval, force_text_transfer boolean, enabled boolean,
    skip_schema text[])
RETURNS oid LANGUAGE plpgsql AS $$
DECLARE
    i spock.node_interface;
    id oid := pgdrover.subscription_id(subscription_name);
BEGIN
    SELECT * INTO i FROM spock.node_interface k WHERE k.if_dsn = provider_dsn AND k.if_nodeid <> l.node_id
     ORDER BY k.if_name LIMIT 1;
    IF i.if_id IS NULL THEN
        INSERT INTO spock.node_interface (if_id, if_name, if_nodeid, if_dsn)
        VALUES (pgdrover.member_id(l.node_id, ('pending ' || subscription_name)::name), ('pending ' || subscription_name)::name,
                l.node_id, provider_dsn) RETURNING * INTO i;
    END IF;
    PERFORM pgdrover.store_subscription(l, i, subscription_name,
        spock.spock_gen_slot_name(pg_catalog.current_database(),
            (SELECT n.node_name FROM spock.node n WHERE n.node_id = i.if_nodeid), subscription_name),
        replication_sets, synchronize_structure, synchronize_data, forward_origins, apply_delay, force_text_transfer, enabled,
        skip_schema);
    UPDATE spock.pgdrover_subscription p SET pending = true WHERE p.sub_id = id;
    RAISE NOTICE USING MESSAGE = pg_catalog.format('subscription "%s" is stored and not yet checked', subscription_name),
        HINT = 'The engine asks the provider; sub_show_status and pgdrover spock status say what it found.';
    PERFORM pgdrover.notice_engine((SELECT k.if_dsn FROM spock.node_interface k WHERE k.if_id = l.node_local_interface));
    RETURN id;
END
$$;

-- What the engine does with a pending subscription once it has asked: the row gets its provider. Raises what sub_create would have.
CREATE FUNCTION pgdrover.sub_resolve(id oid, answer jsonb)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s spock.subscription;
    old spock.node_interface;
    provider spock.node_interface;
    slot name;
BEGIN
    SELECT * INTO STRICT s FROM spock.subscription k WHERE k.sub_id = id FOR UPDATE;
    SELECT * INTO STRICT old FROM spock.node_interface i WHERE i.if_id = s.sub_origin_if;
    PERFORM pgdrover.check_provider(answer, '{}', s.sub_enabled);
    provider := pgdrover.learn_provider(answer, old.if_dsn);
    slot := spock.spock_gen_slot_name(pg_catalog.current_database(), (answer ->> 'node_name')::name, s.sub_name);
    UPDATE spock.subscription k SET sub_origin = provider.if_nodeid, sub_origin_if = provider.if_id, sub_slot_name = slot
     WHERE k.sub_id = id;
    UPDATE spock.pgdrover_subscription p SET pending = false WHERE p.sub_id = id;
    DELETE FROM spock.progress p WHERE p.node_id = s.sub_target AND p.remote_node_id = s.sub_target;
    INSERT INTO spock.progress
           (node_id, remote_node_id, remote_commit_ts, remote_lsn, remote_insert_lsn, last_updated_ts, updated_by_decode)
    VALUES (s.sub_target, provider.if_nodeid, pg_catalog.now(), '0/0', '0/0', pg_catalog.now(), true) ON CONFLICT DO NOTHING;
    IF old.if_id <> provider.if_id AND old.if_nodeid = s.sub_target THEN
        DELETE FROM spock.node_interface i WHERE i.if_id = old.if_id;
    END IF;
    IF NOT s.sub_enabled THEN
        PERFORM pgdrover.origin_create(slot, provider.if_nodeid, id);
    END IF;
END
$$;

-- Waits until no session works for the subscription, and keeps it so until the end of the transaction: the engine sees
-- the waiter and lets go at the next border; one that does not is made to.
CREATE FUNCTION pgdrover.stop_worker(id oid)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    before text := pg_catalog.current_setting('lock_timeout');
BEGIN
    FOR attempt IN 1 .. 15 LOOP
        BEGIN
            PERFORM pg_catalog.set_config('lock_timeout', '2s', true);
            PERFORM pg_catalog.pg_advisory_xact_lock(727400011, pgdrover.as_integer(id));
            PERFORM pg_catalog.set_config('lock_timeout', before, true);
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_catalog.pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l
              WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 727400011 AND l.objid = id AND l.objsubid = 2
                AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
                AND l.pid <> pg_catalog.pg_backend_pid();
        END;
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = '55006', MESSAGE = 'the subscription''s worker does not end';
END
$$;

-- Ends whatever session applies for the subscription, now.
CREATE FUNCTION pgdrover.interrupt_worker(id oid)
RETURNS void LANGUAGE sql AS $$
    SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a
     WHERE a.datname = pg_catalog.current_database()
       AND a.application_name = pg_catalog.format('spock apply %s:%s', a.datid, id)
$$;

CREATE FUNCTION spock.sub_drop(subscription_name name, ifexists boolean = false)
RETURNS oid LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.subscription;
    dsn text;
    pending boolean;
    origin text;
BEGIN
    SELECT * INTO s FROM spock.subscription k WHERE k.sub_name = subscription_name FOR UPDATE;
    IF s.sub_id IS NULL THEN
        IF ifexists THEN
            RETURN 0;
        END IF;
        s := pgdrover.find_subscription(subscription_name);
    END IF;
    PERFORM pgdrover.stop_worker(s.sub_id);
    SELECT i.if_dsn INTO dsn FROM spock.node_interface i WHERE i.if_id = s.sub_origin_if;
    SELECT p.pending INTO pending FROM spock.pgdrover_subscription p WHERE p.sub_id = s.sub_id;
    DELETE FROM spock.local_sync_status y WHERE y.sync_subid = s.sub_id;
    DELETE FROM spock.subscription k WHERE k.sub_id = s.sub_id;
    DELETE FROM spock.pgdrover_channel_stats c WHERE c.subid = s.sub_id;
    DELETE FROM spock.pgdrover_counter c WHERE c.sub_id = s.sub_id;
    DELETE FROM spock.pgdrover_stats_reset c WHERE c.sub_id = s.sub_id;
    IF s.sub_origin = l.node_id THEN
        DELETE FROM spock.node_interface i WHERE i.if_id = s.sub_origin_if AND i.if_id <> l.node_local_interface;
    ELSIF NOT EXISTS (SELECT FROM spock.subscription k WHERE s.sub_origin IN (k.sub_origin, k.sub_target)) THEN
        PERFORM pgdrover.remove_node_rows(s.sub_origin);
    END IF;
    IF NOT coalesce(pending, false) THEN
        PERFORM pgdrover.drop_remote_slot(s, dsn);
        FOR origin IN SELECT o.roname FROM pg_catalog.pg_replication_origin o
                       WHERE o.roname = s.sub_slot_name::text
                          OR o.roname IN (SELECT r.roname FROM spock.pgdrover_origin r WHERE r.sub_id = s.sub_id) LOOP
            PERFORM pgdrover.origin_retire(origin);
        END LOOP;
    END IF;
    PERFORM pgdrover.unwatch_unused();
    RETURN 1;
END
$$;

-- Drops the slot there, with those of table copies, ending a sender that nobody listens to any more.
CREATE FUNCTION pgdrover.drop_remote_slot(s spock.subscription, dsn text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    left_over text;
    predicate text := pg_catalog.format('(slot_name = %L OR slot_name ~ %L) AND database = pg_catalog.current_database()',
        s.sub_slot_name, '^' || pg_catalog.left(s.sub_slot_name::text, 54) || '_[0-9a-f]{8}$');
BEGIN
    IF NOT pgdrover.can_ask_peers() THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'peers cannot be asked from here';
    END IF;
    PERFORM pgdrover.peer_open('pgdrover_drop', dsn, pgdrover.short_name(s.sub_name) || '_cleanup');
    FOR attempt IN 1 .. 100 LOOP
        PERFORM pgdrover.peer_query('pgdrover_drop',
            'SELECT pg_catalog.pg_terminate_backend(active_pid)::text FROM pg_catalog.pg_replication_slots WHERE active AND ' || predicate);
        BEGIN
            PERFORM pgdrover.peer_query('pgdrover_drop',
                'SELECT pg_catalog.pg_drop_replication_slot(slot_name)::text FROM pg_catalog.pg_replication_slots WHERE NOT active AND '
                || predicate);
        EXCEPTION WHEN object_in_use THEN
            NULL;
        END;
        SELECT q INTO left_over FROM pgdrover.peer_query('pgdrover_drop',
            'SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE ' || predicate || ' LIMIT 1') q;
        EXIT WHEN left_over IS NULL;
        PERFORM pg_catalog.pg_sleep(0.1);
    END LOOP;
    PERFORM pgdrover.peer_close('pgdrover_drop');
    IF left_over IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55006', MESSAGE = 'the slot stays active';
    END IF;
EXCEPTION WHEN OTHERS THEN
    IF pgdrover.can_ask_peers() THEN
        PERFORM pgdrover.peer_close('pgdrover_drop');
    END IF;
    RAISE WARNING USING MESSAGE = pg_catalog.format(
        'could not drop slot "%s" on provider, you will probably have to drop it manually', s.sub_slot_name), DETAIL = SQLERRM;
END
$$;

-- Whether the caller is inside a transaction block: its transaction began before its statement.
CREATE FUNCTION pgdrover.refuse_in_transaction(command text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.transaction_timestamp() <> pg_catalog.statement_timestamp() THEN
        RAISE EXCEPTION USING ERRCODE = '25001', MESSAGE = pg_catalog.format(
            '%s with immediate = true cannot be run inside a transaction block', command);
    END IF;
END
$$;

CREATE FUNCTION spock.sub_enable(subscription_name name, immediate boolean = false)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
BEGIN
    IF immediate THEN
        PERFORM pgdrover.refuse_in_transaction('alter_subscription_enable');
    END IF;
    UPDATE spock.subscription k SET sub_enabled = true WHERE k.sub_id = s.sub_id;
    RETURN true;
END
$$;

CREATE FUNCTION spock.sub_disable(subscription_name name, immediate boolean = false)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
BEGIN
    IF immediate THEN
        PERFORM pgdrover.refuse_in_transaction('alter_subscription_disable');
    END IF;
    UPDATE spock.subscription k SET sub_enabled = false WHERE k.sub_id = s.sub_id;
    IF immediate THEN
        PERFORM pgdrover.interrupt_worker(s.sub_id);
    END IF;
    RETURN true;
END
$$;

CREATE FUNCTION spock.sub_alter_interface(subscription_name name, interface_name name)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
    id oid;
BEGIN
    SELECT i.if_id INTO id FROM spock.node_interface i WHERE i.if_nodeid = s.sub_origin AND i.if_name = interface_name;
    IF id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(
            'node interface "%s" not found for nod %s', interface_name, s.sub_origin);
    END IF;
    IF id = s.sub_origin_if THEN
        RETURN false;
    END IF;
    UPDATE spock.subscription k SET sub_origin_if = id WHERE k.sub_id = s.sub_id;
    RETURN true;
END
$$;

CREATE FUNCTION spock.sub_add_repset(subscription_name name, replication_set name)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
BEGIN
    IF replication_set::text = ANY (s.sub_replication_sets) THEN
        RETURN false;
    END IF;
    UPDATE spock.subscription k SET sub_replication_sets = coalesce(k.sub_replication_sets, '{}') || replication_set::text
     WHERE k.sub_id = s.sub_id;
    RETURN true;
END
$$;

CREATE FUNCTION spock.sub_remove_repset(subscription_name name, replication_set name)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
BEGIN
    IF NOT coalesce(replication_set::text = ANY (s.sub_replication_sets), false) THEN
        RETURN false;
    END IF;
    UPDATE spock.subscription k
       SET sub_replication_sets = nullif(pg_catalog.array_remove(k.sub_replication_sets, replication_set::text), '{}')
     WHERE k.sub_id = s.sub_id;
    RETURN true;
END
$$;

CREATE FUNCTION spock.sub_alter_skiplsn(subscription_name name, lsn pg_lsn)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
BEGIN
    UPDATE spock.subscription k SET sub_skip_lsn = lsn WHERE k.sub_id = s.sub_id;
    RETURN true;
END
$$;

CREATE FUNCTION pgdrover.option_texts(key text, value jsonb)
RETURNS text[] LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF pg_catalog.jsonb_typeof(value) <> 'array' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('option "%s" must be a JSON array of strings', key);
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(value) e WHERE pg_catalog.jsonb_typeof(e) <> 'string') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('option "%s" must contain only strings', key);
    END IF;
    RETURN coalesce((SELECT pg_catalog.array_agg(e) FROM pg_catalog.jsonb_array_elements_text(value) e), '{}');
END
$$;

CREATE FUNCTION spock.sub_alter_options(subscription_name name, options jsonb)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
    o record;
BEGIN
    IF pg_catalog.jsonb_typeof(options) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'subscription options must be a JSON object';
    END IF;
    FOR o IN SELECT e.key, e.value FROM pg_catalog.jsonb_each(options) e ORDER BY e.key LOOP
        CASE o.key
            WHEN 'forward_origins' THEN
                s.sub_forward_origins := nullif(pgdrover.option_texts(o.key, o.value), '{}');
                IF NOT coalesce(s.sub_forward_origins <@ ARRAY['all'], true) THEN
                    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'option "forward_origins" may only contain "all"';
                END IF;
            WHEN 'skip_schema' THEN
                s.sub_skip_schema := nullif(pgdrover.option_texts(o.key, o.value), '{}');
            WHEN 'apply_delay' THEN
                IF pg_catalog.jsonb_typeof(o.value) <> 'string' THEN
                    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'option "apply_delay" must be a string';
                END IF;
                s.sub_apply_delay := (o.value #>> '{}')::interval;
            ELSE
                RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('unknown subscription option "%s"', o.key);
        END CASE;
    END LOOP;
    UPDATE spock.subscription k
       SET sub_forward_origins = s.sub_forward_origins, sub_skip_schema = s.sub_skip_schema, sub_apply_delay = s.sub_apply_delay
     WHERE k.sub_id = s.sub_id;
    RETURN true;
END
$$;

CREATE FUNCTION pgdrover.subscription_status(
    wanted name, OUT subscription_name text, OUT status text, OUT provider_node text, OUT provider_dsn text,
    OUT slot_name text, OUT replication_sets text[], OUT forward_origins text[])
RETURNS SETOF record LANGUAGE plpgsql STABLE AS $$
DECLARE
    node oid := pgdrover.known_local_node();
BEGIN
    IF wanted IS NOT NULL THEN
        PERFORM pgdrover.find_subscription(wanted);
    END IF;
    RETURN QUERY
        SELECT k.sub_name::text,
               CASE WHEN pgdrover.worker_runs(k.sub_id) THEN
                         CASE WHEN y.sync_status IS NULL THEN 'unknown' WHEN y.sync_status = 'r' THEN 'replicating'
                              ELSE 'initializing' END
                    WHEN k.sub_enabled THEN 'down' ELSE 'disabled' END,
               n.node_name::text, i.if_dsn, k.sub_slot_name::text, k.sub_replication_sets, k.sub_forward_origins
          FROM spock.subscription k
          JOIN spock.node n ON n.node_id = k.sub_origin
          JOIN spock.node_interface i ON i.if_id = k.sub_origin_if
          LEFT JOIN spock.local_sync_status y
                 ON y.sync_subid = k.sub_id AND y.sync_nspname IS NULL AND y.sync_relname IS NULL
         WHERE k.sub_target = node AND (wanted IS NULL OR k.sub_name = wanted)
         ORDER BY k.sub_name;
END
$$;

-- An argument and a column of one name: only language sql allows that.
CREATE FUNCTION spock.sub_show_status(
    subscription_name name = NULL, OUT subscription_name text, OUT status text, OUT provider_node text, OUT provider_dsn text,
    OUT slot_name text, OUT replication_sets text[], OUT forward_origins text[])
RETURNS SETOF record LANGUAGE sql STABLE AS $$
    SELECT * FROM pgdrover.subscription_status($1)
$$;

-- Synchronisation of tables, and waiting for it.

CREATE FUNCTION pgdrover.truncate_locally(nsp name, rel name)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- Nobody else is to empty theirs.
    PERFORM spock.repair_mode(true);
    EXECUTE pg_catalog.format('TRUNCATE TABLE %I.%I CASCADE', nsp, rel);
    PERFORM spock.repair_mode(false);
END
$$;

-- The provider's tables of the subscribed sets: those without a row are wanted, rows of others go.
CREATE FUNCTION pgdrover.sync_tables(id oid, nspnames name[], relnames name[], truncate boolean)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    t record;
BEGIN
    DELETE FROM spock.local_sync_status y
     WHERE y.sync_subid = id AND y.sync_relname IS NOT NULL
       AND NOT EXISTS (SELECT FROM unnest(nspnames, relnames) AS w(nsp, rel)
                        WHERE w.nsp = y.sync_nspname AND w.rel = y.sync_relname);
    FOR t IN SELECT w.nsp, w.rel FROM unnest(nspnames, relnames) AS w(nsp, rel)
              WHERE NOT EXISTS (SELECT FROM spock.local_sync_status y
                                 WHERE y.sync_subid = id AND y.sync_nspname = w.nsp AND y.sync_relname = w.rel)
              ORDER BY w.nsp, w.rel LOOP
        INSERT INTO spock.local_sync_status (sync_kind, sync_subid, sync_nspname, sync_relname, sync_status, sync_statuslsn)
        VALUES ('d', id, t.nsp, t.rel, 'i', '0/0');
        IF truncate AND pg_catalog.to_regclass(pg_catalog.format('%I.%I', t.nsp, t.rel)) IS NOT NULL THEN
            PERFORM pgdrover.truncate_locally(t.nsp, t.rel);
        END IF;
    END LOOP;
    UPDATE spock.pgdrover_subscription p SET sync_requested = false, sync_truncate = false
     WHERE p.sub_id = id AND p.sync_requested;
END
$$;

CREATE FUNCTION spock.sub_alter_sync(subscription_name name, truncate boolean = false)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
    nspnames name[];
    relnames name[];
BEGIN
    IF NOT pgdrover.can_ask_peers() THEN
        UPDATE spock.pgdrover_subscription p SET sync_requested = true, sync_truncate = truncate WHERE p.sub_id = s.sub_id;
        RETURN true;
    END IF;
    PERFORM pgdrover.peer_open('pgdrover_sync', (SELECT i.if_dsn FROM spock.node_interface i WHERE i.if_id = s.sub_origin_if),
                               pgdrover.short_name(s.sub_name) || '_sync');
    SELECT coalesce(pg_catalog.array_agg(j ->> 0), '{}'), coalesce(pg_catalog.array_agg(j ->> 1), '{}')
      INTO nspnames, relnames
      FROM (SELECT q::jsonb AS j FROM pgdrover.peer_query('pgdrover_sync', pg_catalog.format(
                'SELECT DISTINCT pg_catalog.jsonb_build_array(t.nspname, t.relname)::text FROM spock.tables t '
                'JOIN pg_catalog.pg_class c ON c.oid = t.relid WHERE NOT c.relispartition AND t.set_name = ANY (%L::name[])',
                s.sub_replication_sets)) q) AS answers;
    PERFORM pgdrover.peer_close('pgdrover_sync');
    PERFORM pgdrover.sync_tables(s.sub_id, nspnames, relnames, truncate);
    RETURN true;
END
$$;

CREATE FUNCTION spock.sub_resync_table(subscription_name name, relation regclass, truncate boolean = true)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
    readonly text := pgdrover.setting('spock.readonly');
    nsp name;
    rel name;
    state "char";
BEGIN
    SELECT n.nspname, c.relname INTO nsp, rel FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = relation;
    IF readonly <> 'off' THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = pg_catalog.format('cannot resync table "%s": subscriber is in read-only mode', rel),
            DETAIL = pg_catalog.format('spock.readonly is set to "%s" on this node.', readonly),
            HINT = 'Set spock.readonly to ''off'' before resyncing.';
    END IF;
    SELECT y.sync_status INTO state FROM spock.local_sync_status y
     WHERE y.sync_subid = s.sub_id AND y.sync_nspname = nsp AND y.sync_relname = rel FOR UPDATE;
    IF state IS NULL THEN
        INSERT INTO spock.local_sync_status (sync_kind, sync_subid, sync_nspname, sync_relname, sync_status, sync_statuslsn)
        VALUES ('d', s.sub_id, nsp, rel, 'i', '0/0');
    ELSIF state NOT IN ('r', 'y', 'i', 'f') THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(
            'table %s.%s is already being synchronized', nsp, rel);
    ELSE
        UPDATE spock.local_sync_status y SET sync_status = 'i', sync_statuslsn = '0/0'
         WHERE y.sync_subid = s.sub_id AND y.sync_nspname = nsp AND y.sync_relname = rel;
    END IF;
    IF truncate THEN
        PERFORM pgdrover.truncate_locally(nsp, rel);
    END IF;
    RETURN true;
END
$$;

CREATE FUNCTION pgdrover.sync_status_text(letter "char")
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE letter WHEN 'i' THEN 'sync_init' WHEN 's' THEN 'sync_structure' WHEN 'd' THEN 'sync_data'
                       WHEN 'c' THEN 'sync_constraints' WHEN 'w' THEN 'sync_waiting' WHEN 'u' THEN 'catchup'
                       WHEN 'y' THEN 'synchronized' WHEN 'r' THEN 'replicating' ELSE 'unknown' END
$$;

CREATE FUNCTION spock.sub_show_table(
    subscription_name name, relation regclass, OUT nspname text, OUT relname text, OUT status text)
RETURNS record LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    node oid := pgdrover.known_local_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
BEGIN
    SELECT n.nspname::text, c.relname::text INTO sub_show_table.nspname, sub_show_table.relname
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation;
    SELECT pgdrover.sync_status_text(y.sync_status) INTO status FROM spock.local_sync_status y
     WHERE y.sync_subid = s.sub_id AND y.sync_nspname = sub_show_table.nspname::name
       AND y.sync_relname = sub_show_table.relname::name;
    status := coalesce(status, 'unknown');
END
$$;

CREATE FUNCTION pgdrover.refuse_fixed_snapshot()
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'cannot wait for sync in REPEATABLE READ or SERIALIZABLE isolation';
    END IF;
END
$$;

CREATE FUNCTION spock.sub_wait_for_sync(subscription_name name)
RETURNS void LANGUAGE plpgsql STRICT AS $$
DECLARE
    s spock.subscription;
BEGIN
    PERFORM pgdrover.refuse_fixed_snapshot();
    s := pgdrover.find_subscription(subscription_name);
    LOOP
        -- The row may go while we wait.
        s := pgdrover.find_subscription(subscription_name);
        EXIT WHEN EXISTS (SELECT FROM spock.local_sync_status y
                           WHERE y.sync_subid = s.sub_id AND y.sync_relname IS NULL AND y.sync_status = 'r')
              AND NOT EXISTS (SELECT FROM spock.local_sync_status y
                               WHERE y.sync_subid = s.sub_id AND y.sync_relname IS NOT NULL AND y.sync_status <> 'r');
        PERFORM pg_catalog.pg_sleep(0.2);
    END LOOP;
END
$$;

CREATE FUNCTION spock.table_wait_for_sync(subscription_name name, relation regclass)
RETURNS void LANGUAGE plpgsql STRICT AS $$
DECLARE
    s spock.subscription;
    nsp name;
    rel name;
    state "char";
BEGIN
    PERFORM pgdrover.refuse_fixed_snapshot();
    SELECT n.nspname, c.relname INTO nsp, rel FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = relation;
    LOOP
        s := pgdrover.find_subscription(subscription_name);
        SELECT y.sync_status INTO state FROM spock.local_sync_status y
         WHERE y.sync_subid = s.sub_id AND y.sync_nspname = nsp AND y.sync_relname = rel;
        IF NOT FOUND THEN
            RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(
                'subscription %s table %s.%s status not found', s.sub_id, nsp, rel);
        END IF;
        EXIT WHEN state = 'r';
        PERFORM pg_catalog.pg_sleep(0.2);
    END LOOP;
END
$$;

-- Marks in the stream, positions, and waiting for them.

-- Four bytes, the lowest first.
CREATE FUNCTION pgdrover.le32(n int8)
RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_catalog.decode(pgdrover.little_endian(n), 'hex')
$$;

CREATE FUNCTION spock.repair_mode(enabled boolean)
RETURNS pg_lsn LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.set_config('spock.replication_repair_mode', CASE WHEN enabled THEN 'on' ELSE 'off' END, true);
    RETURN pg_catalog.pg_logical_emit_message(true, 'Spock', pgdrover.le32(CASE WHEN enabled THEN 1 ELSE 2 END));
END
$$;

CREATE FUNCTION spock.sync_event(transactional boolean = false)
RETURNS pg_lsn LANGUAGE plpgsql STRICT AS $$
DECLARE
    node oid := pgdrover.known_local_node();
    node_name bytea;
BEGIN
    SELECT pg_catalog.convert_to(n.node_name::text, pg_catalog.getdatabaseencoding()::name) INTO node_name
      FROM spock.node n WHERE n.node_id = node;
    -- With a transaction id the commit flushes, and the message before it.
    PERFORM pg_catalog.pg_current_xact_id();
    RETURN pg_catalog.pg_logical_emit_message(transactional, 'Spock', pgdrover.le32(3) || pgdrover.le32(node::int8) || node_name
        || pg_catalog.decode(pg_catalog.repeat('00', 64 - pg_catalog.octet_length(node_name)), 'hex'));
END
$$;

CREATE PROCEDURE spock.wait_for_sync_event(
    OUT result boolean, origin_id oid, lsn pg_lsn, timeout integer = 0, wait_if_disabled boolean = false)
LANGUAGE plpgsql AS $$
DECLARE
    target oid;
    s record;
    reached pg_lsn;
    began timestamptz := pg_catalog.clock_timestamp();
BEGIN
    IF origin_id IS NULL THEN
        RAISE EXCEPTION 'Invalid NULL origin_id';
    END IF;
    target := pgdrover.known_local_node();
    LOOP
        SELECT k.sub_enabled, k.sub_slot_name INTO s FROM spock.subscription k
         WHERE k.sub_origin = origin_id AND k.sub_target = target ORDER BY k.sub_enabled DESC, k.sub_name LIMIT 1;
        IF NOT FOUND THEN
            IF NOT wait_if_disabled THEN
                RAISE EXCEPTION 'No subscription found for replication % => %', origin_id, target;
            END IF;
        ELSE
            IF NOT s.sub_enabled AND NOT wait_if_disabled THEN
                RAISE EXCEPTION 'Subscription % => % has been disabled', origin_id, target;
            END IF;
            SELECT pg_catalog.max(o.remote_lsn) INTO reached FROM pg_catalog.pg_replication_origin_status o
             WHERE o.external_id = s.sub_slot_name::text;
            IF reached >= lsn THEN
                result := true;
                RETURN;
            END IF;
        END IF;
        IF timeout <> 0 AND pg_catalog.clock_timestamp() >= began + timeout * interval '1 second' THEN
            result := false;
            RETURN;
        END IF;
        -- So that neither snapshot nor locks are kept while waiting.
        ROLLBACK;
        PERFORM pg_catalog.pg_sleep(0.2);
    END LOOP;
END
$$;

CREATE PROCEDURE spock.wait_for_sync_event(
    OUT result boolean, origin name, lsn pg_lsn, timeout integer = 0, wait_if_disabled boolean = false)
LANGUAGE plpgsql AS $$
DECLARE
    id oid := (SELECT n.node_id FROM spock.node n WHERE n.node_name = origin);
BEGIN
    IF id IS NULL THEN
        RAISE EXCEPTION 'Origin node ''%'' not found', origin;
    END IF;
    CALL spock.wait_for_sync_event(result, id, lsn, timeout, wait_if_disabled);
END
$$;

CREATE FUNCTION spock.wait_slot_confirm_lsn(slotname name, target pg_lsn)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    goal pg_lsn := coalesce(target, pg_catalog.pg_current_wal_insert_lsn());
    confirmed pg_lsn;
BEGIN
    -- What is idle confirms what it has seen: give it something to see.
    PERFORM pg_catalog.pg_logical_emit_message(false, 'pgdrover/wait', '');
    LOOP
        SELECT pg_catalog.min(s.confirmed_flush_lsn) INTO confirmed FROM pg_catalog.pg_replication_slots s
         WHERE s.confirmed_flush_lsn IS NOT NULL AND (slotname IS NULL OR s.slot_name = slotname);
        EXIT WHEN confirmed >= goal;
        PERFORM pg_catalog.pg_sleep(0.1);
    END LOOP;
END
$$;

DO $$
BEGIN
    CREATE FUNCTION pgdrover.wal_records(
        pg_lsn, pg_lsn, OUT start_lsn pg_lsn, OUT end_lsn pg_lsn, OUT prev_lsn pg_lsn, OUT xid xid, OUT resource_manager text,
        OUT record_type text, OUT record_length integer, OUT main_data_length integer, OUT fpi_length integer,
        OUT description text, OUT block_ref text)
    RETURNS SETOF record LANGUAGE c STRICT AS '$libdir/pg_walinspect', 'pg_get_wal_records_info';
EXCEPTION WHEN insufficient_privilege OR undefined_file OR undefined_function OR system_error OR invalid_parameter_value THEN
    RAISE NOTICE USING MESSAGE = 'commit times cannot be looked up in WAL: ' || SQLERRM,
        HINT = 'get_lsn_from_commit_ts reads the stream of the slot instead.';
END
$$;

-- Approximate by nature: commit times do not quite follow the order of WAL.
CREATE FUNCTION spock.get_lsn_from_commit_ts(slot_name name, commit_ts timestamptz)
RETURNS pg_lsn LANGUAGE plpgsql STRICT AS $$
DECLARE
    s record;
    r record;
    answer pg_lsn;
BEGIN
    SELECT p.slot_type, p.restart_lsn, p.active_pid, p.wal_status, p.database INTO s FROM pg_catalog.pg_replication_slots p
     WHERE p.slot_name = get_lsn_from_commit_ts.slot_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = pg_catalog.format('replication slot "%s" does not exist', slot_name);
    ELSIF s.slot_type <> 'logical' THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'not a logical replication slot';
    ELSIF s.active_pid IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55006', MESSAGE = pg_catalog.format(
            'replication slot "%s" is active for PID %s', slot_name, s.active_pid);
    ELSIF s.restart_lsn IS NULL OR s.wal_status = 'lost' THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format('replication slot "%s" cannot be advanced', slot_name),
            DETAIL = 'This slot has never previously reserved WAL, or it has been invalidated.';
    END IF;
    answer := s.restart_lsn;
    IF pg_catalog.to_regprocedure('pgdrover.wal_records(pg_lsn,pg_lsn)') IS NOT NULL
       AND s.restart_lsn < pg_catalog.pg_current_wal_flush_lsn() THEN
        FOR r IN EXECUTE 'SELECT w.end_lsn, c."timestamp", c.roident '
                         'FROM pgdrover.wal_records($1, pg_catalog.pg_current_wal_flush_lsn()) w '
                         'CROSS JOIN LATERAL pg_catalog.pg_xact_commit_timestamp_origin(w.xid) c '
                         'WHERE w.resource_manager = ''Transaction'' AND w.record_type = ''COMMIT'' AND w.xid::text <> ''0'' '
                         'ORDER BY w.start_lsn' USING s.restart_lsn LOOP
            CONTINUE WHEN r.roident IS DISTINCT FROM 0::oid;
            EXIT WHEN r."timestamp" > commit_ts;
            answer := r.end_lsn;
        END LOOP;
        RETURN answer;
    END IF;
    -- A commit message: 'C', flags, commit position (8 bytes), end position (8), time (8, microseconds since 2000).
    FOR r IN SELECT ('x' || pg_catalog.encode(pg_catalog.substr(p.data, 11, 8), 'hex'))::bit(64)::int8 AS end_lsn,
                    timestamptz '2000-01-01 00:00:00+00'
                    + ('x' || pg_catalog.encode(pg_catalog.substr(p.data, 19, 8), 'hex'))::bit(64)::int8 * interval '1 microsecond' AS at
               FROM pg_catalog.pg_logical_slot_peek_binary_changes(slot_name, NULL, NULL, 'proto_version', '1',
                        'publication_names', 'pgdrover_ins,pgdrover_upd,pgdrover_del,pgdrover_trunc,pgdrover_sys', 'messages', 'true') p
              WHERE pg_catalog.get_byte(p.data, 0) = 67 LOOP
        EXIT WHEN r.at > commit_ts;
        answer := '0/0'::pg_lsn + r.end_lsn::numeric;
    END LOOP;
    RETURN answer;
END
$$;

-- The gate: whoever applies holds it shared; it is taken exclusively, by the session, until resume or the session's end.
CREATE FUNCTION spock.pause_apply_workers()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    patience integer := pgdrover.setting('spock.pause_timeout')::integer;
    before text := pg_catalog.current_setting('lock_timeout');
BEGIN
    BEGIN
        PERFORM pg_catalog.set_config('lock_timeout', patience || 's', true);
        PERFORM pg_catalog.pg_advisory_lock(727400012, 0);
        PERFORM pg_catalog.set_config('lock_timeout', before, true);
    EXCEPTION WHEN lock_not_available THEN
        RAISE EXCEPTION USING ERRCODE = '55P03', MESSAGE = pg_catalog.format(
            'timed out waiting for apply workers to pause after %s seconds', patience),
            HINT = 'Increase spock.pause_timeout if apply workers have long-running transactions.';
    END;
END
$$;

CREATE FUNCTION spock.resume_apply_workers()
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- Pausing twice is pausing once.
    WHILE EXISTS (SELECT FROM pg_catalog.pg_locks l
                   WHERE l.locktype = 'advisory' AND l.classid = 727400012 AND l.objid = 0 AND l.objsubid = 2
                     AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid = pg_catalog.pg_backend_pid()) LOOP
        EXIT WHEN NOT pg_catalog.pg_advisory_unlock(727400012, 0);
    END LOOP;
END
$$;

CREATE FUNCTION spock.get_apply_worker_status(
    OUT worker_pid bigint, OUT worker_dboid integer, OUT worker_subid bigint, OUT worker_status text)
RETURNS SETOF record LANGUAGE sql STABLE AS $$
    SELECT DISTINCT ON (m[1], m[2]) a.pid::bigint, pgdrover.as_integer(m[1]::oid), m[2]::bigint, 'running'::text
      FROM pg_catalog.pg_stat_activity a
           CROSS JOIN LATERAL pg_catalog.regexp_match(a.application_name, '^spock apply (\d{1,10}):(\d{1,10})$') AS m
     WHERE m IS NOT NULL ORDER BY m[1], m[2], a.backend_start
$$;

CREATE FUNCTION spock.wait_for_apply_worker(p_subbid bigint, timeout integer = 0)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz := pg_catalog.clock_timestamp();
BEGIN
    LOOP
        PERFORM pg_catalog.pg_stat_clear_snapshot();
        IF NOT EXISTS (SELECT FROM spock.get_apply_worker_status() w
                        WHERE w.worker_subid = p_subbid AND w.worker_status = 'running') THEN
            RETURN false;
        END IF;
        IF timeout > 0 AND pg_catalog.clock_timestamp() >= began + timeout * interval '1 millisecond' THEN
            RETURN true;
        END IF;
        PERFORM pg_catalog.pg_sleep(0.1);
    END LOOP;
END
$$;

CREATE FUNCTION spock.terminate_active_transactions()
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
BEGIN
    PERFORM CASE WHEN a.state IN ('idle in transaction', 'idle in transaction (aborted)')
                 THEN pg_catalog.pg_terminate_backend(a.pid) ELSE pg_catalog.pg_cancel_backend(a.pid) END
       FROM pg_catalog.pg_stat_activity a
      WHERE a.backend_type = 'client backend' AND a.pid <> pg_catalog.pg_backend_pid() AND a.state <> 'idle'
        AND a.application_name !~ '^spock (apply|sync|manager) ';
    RETURN true;
END
$$;

-- Only a replication connection can change the flag: one to ourselves.
CREATE FUNCTION spock.slot_enable_failover()
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    dsn text := (SELECT i.if_dsn FROM spock.local_node l JOIN spock.node_interface i ON i.if_id = l.node_local_interface);
    slot name;
    n integer := 0;
BEGIN
    IF pg_catalog.current_setting('server_version_num')::integer < 170000 OR dsn IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM pgdrover.peer_open('pgdrover_failover', dsn, 'pgdrover slot_enable_failover', true);
    FOR slot IN EXECUTE 'SELECT s.slot_name FROM pg_catalog.pg_replication_slots s '
                        'WHERE s.slot_type = ''logical'' AND s.database = pg_catalog.current_database() '
                        'AND s.slot_name LIKE ''spk\_%'' AND NOT s.failover AND NOT s.temporary' LOOP
        PERFORM pgdrover.dblink_exec('pgdrover_failover', pg_catalog.format('ALTER_REPLICATION_SLOT %I ( FAILOVER )', slot));
        n := n + 1;
    END LOOP;
    PERFORM pgdrover.peer_close('pgdrover_failover');
    RETURN n;
END
$$;

-- DDL that travels in the stream: what somebody asks for explicitly, and what event triggers catch.

-- A search path in SQL: its names, each quoted where it must be.
CREATE FUNCTION pgdrover.quoted_path(path text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN pg_catalog.btrim(path) = '' THEN '''''' ELSE (
        SELECT pg_catalog.string_agg(CASE
                   WHEN m[1] LIKE '"%' THEN pg_catalog.quote_ident(pg_catalog.replace(pg_catalog.btrim(m[1], '"'), '""', '"'))
                   ELSE pg_catalog.quote_ident(pg_catalog.lower(pg_catalog.btrim(m[1]))) END, ', ' ORDER BY n)
          FROM pg_catalog.regexp_matches(path, '("(?:[^"]|"")*"|[^,"\s][^,"]*)', 'g') WITH ORDINALITY AS r(m, n)) END
$$;

CREATE FUNCTION spock.replicate_ddl(
    command text, replication_sets text[] = '{ddl_sql}', search_path text = current_setting('search_path'),
    role text = CURRENT_USER)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    path_before text := pg_catalog.current_setting('search_path');
    role_before text := pg_catalog.current_setting('role');
    applying_before text := coalesce(pg_catalog.current_setting('pgdrover.applying', true), '');
    statements text[] := pgdrover.split_statements(command);
    statement text;
    t record;
BEGIN
    PERFORM pgdrover.find_set(l.node_id, r, '22023') FROM pg_catalog.unnest(replication_sets) r;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = role::name) THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = pg_catalog.format('role "%s" does not exist', role);
    END IF;
    FOREACH statement IN ARRAY statements LOOP
        t := pgdrover.command_tag(statement);
        IF NOT t.is_ddl THEN
            RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = pg_catalog.format(
                'spock.replicate_ddl() cannot execute %s statement', t.tag);
        END IF;
    END LOOP;
    BEGIN
        PERFORM pg_catalog.set_config('search_path', replicate_ddl.search_path, true);
    EXCEPTION WHEN invalid_parameter_value THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'provided search path is not valid';
    END;
    PERFORM pgdrover.enqueue(replication_sets, 'Q', pg_catalog.to_json(
        'SET search_path TO ' || pgdrover.quoted_path(replicate_ddl.search_path) || '; ' || command), replicate_ddl.role::name);
    PERFORM pg_catalog.set_config('pgdrover.applying', 'Q', true);
    PERFORM pg_catalog.set_config('role', replicate_ddl.role, true);
    FOREACH statement IN ARRAY statements LOOP
        EXECUTE statement;
    END LOOP;
    PERFORM pg_catalog.set_config('role', role_before, true);
    PERFORM pg_catalog.set_config('search_path', path_before, true);
    PERFORM pg_catalog.set_config('pgdrover.applying', applying_before, true);
    RETURN true;
END
$$;

CREATE FUNCTION spock.replicate_ddl(
    command text[], replication_sets text[] = '{ddl_sql}', search_path text = current_setting('search_path'),
    role text = CURRENT_USER)
RETURNS SETOF boolean LANGUAGE sql STRICT AS $$
    SELECT spock.replicate_ddl(c, replication_sets, search_path, role)
      FROM pg_catalog.unnest(command) WITH ORDINALITY AS u(c, n) ORDER BY n
$$;

-- The context without our own frames, which are the first lines: empty when the statement came from the client itself.
CREATE FUNCTION pgdrover.callers_context(context text)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    place integer := pg_catalog.regexp_instr(context, '(^|\n)PL/pgSQL function (pgdrover\.)?on_(ddl_end|sql_drop)\(\)[^\n]*(\n|$)',
                                             1, 1, 1);
BEGIN
    RETURN CASE WHEN place = 0 THEN '' ELSE pg_catalog.substr(context, place) END;
END
$$;

-- The statement of the innermost frame, when a frame shows one.
CREATE FUNCTION pgdrover.context_statement(callers text)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    rest text;
    ends integer;
BEGIN
    IF NOT pg_catalog.starts_with(callers, 'SQL statement "') THEN
        RETURN NULL;
    END IF;
    rest := pg_catalog.substr(callers, 16);
    ends := pg_catalog.regexp_instr(rest, '"\n(PL/|SQL (statement|function|expression) )');
    RETURN CASE WHEN ends = 0 THEN pg_catalog.left(rest, -1) ELSE pg_catalog.left(rest, ends - 1) END;
END
$$;

-- The text of the statement that an event trigger fires for: one of the client's message, or what a function runs.
-- context is that of our trigger function and of whatever called it. moves says whether the next question is about the
-- statement behind this one.
CREATE FUNCTION pgdrover.current_statement(
    context text, tag text, names text[], moves boolean, OUT statement text, OUT from_function boolean)
RETURNS record LANGUAGE plpgsql AS $$
DECLARE
    callers text := pgdrover.callers_context(context);
    source text;
    statements text[];
    place text[];
    stamp text := pg_catalog.extract('epoch', pg_catalog.statement_timestamp())::text;
    found_at integer;
    by_name boolean;
BEGIN
    from_function := callers <> '';
    source := CASE WHEN from_function THEN pgdrover.context_statement(callers) ELSE pg_catalog.current_query() END;
    IF source IS NULL THEN
        RETURN;
    END IF;
    statements := pgdrover.split_statements(source);
    IF pg_catalog.cardinality(statements) = 1 THEN
        statement := statements[1];
        RETURN;
    END IF;
    -- Where the last one of this very message was.
    place := pg_catalog.string_to_array(coalesce(pg_catalog.current_setting('pgdrover.ddl_cursor', true), ''), ' ');
    IF place[1] IS DISTINCT FROM stamp OR place[2] IS DISTINCT FROM pg_catalog.md5(source) THEN
        place := ARRAY[stamp, pg_catalog.md5(source), '0'];
    END IF;
    SELECT s.n, s.named INTO found_at, by_name
      FROM (SELECT u.n, EXISTS (SELECT FROM pg_catalog.unnest(names) AS k(name)
                                 WHERE pg_catalog.strpos(pg_catalog.lower(u.text), pg_catalog.lower(k.name)) > 0) AS named,
                   (pgdrover.command_tag(u.text)).tag AS kind
              FROM pg_catalog.unnest(statements) WITH ORDINALITY AS u(text, n)
             WHERE u.n > place[3]::integer) AS s
     WHERE s.kind = tag OR s.kind IN ('CREATE TABLE', 'CREATE TABLE AS') AND tag IN ('CREATE TABLE', 'CREATE TABLE AS')
     ORDER BY s.named DESC, s.n LIMIT 1;
    IF found_at IS NULL THEN
        RETURN;
    END IF;
    statement := statements[found_at];
    IF moves THEN
        -- For the session: a COMMIT within the message ends what is local to a transaction.
        PERFORM pg_catalog.set_config('pgdrover.ddl_cursor', place[1] || ' ' || place[2] || ' ' || found_at, false);
    END IF;
END
$$;

-- Names that the statement behind these commands must mention.
CREATE FUNCTION pgdrover.command_names()
RETURNS text[] LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.array_agg(DISTINCT pg_catalog.replace(pg_catalog.substring(
               pg_catalog.regexp_replace(c.object_identity, '\(.*$', ''), '([^.]+)$'), '"', ''))
      FROM pg_catalog.pg_event_trigger_ddl_commands() c
$$;

-- Statements that stay here: they cannot run inside a transaction, or concern this node alone.
CREATE FUNCTION pgdrover.stays_local(tag text, statement text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    bare text := pg_catalog.upper(pgdrover.bare_text(statement));
BEGIN
    RETURN tag LIKE '% SUBSCRIPTION' OR tag LIKE '% DATABASE' OR tag LIKE '% TABLESPACE' OR tag = 'REINDEX'
        OR bare ~ '^(CREATE (UNIQUE )?|DROP )INDEX CONCURRENTLY\M'
        OR bare ~ '\mDETACH PARTITION\M.*\mCONCURRENTLY$'
        OR bare ~ '^CREATE .*\mAS EXECUTE\M' AND tag = 'CREATE TABLE AS'
        OR coalesce(pg_catalog.current_setting('pgdrover.dropped_temporary', true) = 'on', false)
        OR EXISTS (SELECT FROM pg_catalog.pg_event_trigger_ddl_commands() c
                    WHERE c.schema_name = 'pg_temp' OR c.schema_name LIKE 'pg\_temp\_%'
                       OR EXISTS (SELECT FROM spock.reserved_object r
                                   WHERE r.kind = 'schema' AND NOT r.replicate_ddl
                                     AND (r.name = c.schema_name::name
                                          OR c.object_type = 'schema' AND r.name = c.object_identity::name)));
END
$$;

-- Runs with the rights of the schema's owner, because whoever may run DDL may not write the queue. What it is told
-- may be forged: it stores only what the session's own user could have done.
CREATE FUNCTION pgdrover.capture(tag text, path text, caller name)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    enabled boolean := pgdrover.flag('spock.enable_ddl_replication');
    context text;
    commands bigint;
    ours bigint;
    s record;
BEGIN
    IF to_regclass('spock.local_node') IS NULL OR pgdrover.internal() OR NOT enabled AND strpos(current_query(), ';') = 0
       OR pgdrover.local_node_id() IS NULL THEN
        RETURN;
    END IF;
    SELECT count(*), count(*) FILTER (WHERE c.in_extension OR c.schema_name IN ('spock', 'pgdrover')
               OR c.object_type = 'extension' AND c.object_identity = 'spock'
               OR c.object_type = 'schema' AND c.object_identity IN ('spock', 'pgdrover')
               OR c.object_type IN ('publication', 'publication relation', 'publication namespace')
                  AND c.object_identity LIKE '%pgdrover\_%')
      INTO commands, ours FROM pg_event_trigger_ddl_commands() c;
    IF commands > 0 AND commands = ours THEN
        RETURN;
    END IF;
    GET DIAGNOSTICS context = PG_CONTEXT;
    s := pgdrover.current_statement(context, tag, pgdrover.command_names(), true);
    IF NOT enabled OR pgdrover.flag('spock.replication_repair_mode')
       OR coalesce(current_setting('pgdrover.applying', true), '') <> ''
       OR s.from_function AND NOT pgdrover.flag('spock.allow_ddl_from_functions') THEN
        RETURN;
    END IF;
    IF s.statement IS NULL AND NOT s.from_function THEN
        RETURN; -- inside an extension's script
    END IF;
    IF s.statement IS NULL OR pgdrover.stays_local(tag, s.statement) OR NOT pg_has_role(session_user, caller, 'MEMBER') THEN
        PERFORM set_config('pgdrover.dropped_temporary', '', true);
        PERFORM pgdrover.tell('warning', 'This DDL statement will not be replicated.');
        RETURN;
    END IF;
    PERFORM pgdrover.enqueue('{default_insert_only}', 'D', to_json('SET search_path TO '
        || CASE WHEN btrim(path) = '' THEN '''''' ELSE path END || '; ' || s.statement), caller);
    IF tag IN ('CREATE TABLE AS', 'SELECT INTO') THEN
        PERFORM pgdrover.tell('warning', 'DDL statement replicated, but could be unsafe.');
    ELSE
        PERFORM pgdrover.tell('info', 'DDL statement replicated.');
    END IF;
    PERFORM pgdrover.assign_created();
END
$$;

-- Automatic membership, where it is wanted, of the tables that a statement made or changed.
CREATE FUNCTION pgdrover.assign_created()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    rel oid;
BEGIN
    IF NOT pgdrover.flag('spock.include_ddl_repset') THEN
        RETURN;
    END IF;
    FOR rel IN SELECT DISTINCT coalesce(i.indrelid, k.oid)
                 FROM pg_catalog.pg_event_trigger_ddl_commands() c
                 JOIN pg_catalog.pg_class k ON c.classid = 'pg_catalog.pg_class'::regclass AND k.oid = c.objid
                 LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = k.oid
                WHERE k.relkind IN ('r', 'p') OR i.indrelid IS NOT NULL AND c.command_tag = 'ALTER INDEX'
                ORDER BY 1 LOOP
        PERFORM pgdrover.assign_table(rel);
    END LOOP;
END
$$;

-- The set that suits a table: default with a key, default_insert_only without. A member of a set that suits it stays.
CREATE FUNCTION pgdrover.assign_table(rel oid)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    node oid := pgdrover.local_node_id();
    c record;
    keyed boolean;
    target spock.replication_set;
BEGIN
    FOR c IN SELECT k.oid, k.relname, k.relpersistence, k.relnamespace, n.nspname, k.relkind
               FROM (SELECT rel UNION ALL SELECT pgdrover.partitions(rel)) AS m(id)
               JOIN pg_catalog.pg_class k ON k.oid = m.id JOIN pg_catalog.pg_namespace n ON n.oid = k.relnamespace LOOP
        CONTINUE WHEN c.relkind NOT IN ('r', 'p') OR pgdrover.reserved_schema(c.nspname);
        keyed := pgdrover.has_key(c.oid);
        IF c.relpersistence <> 'p' THEN
            PERFORM pgdrover.remove_member(t.set_id, c.oid) FROM spock.replication_set_table t WHERE t.set_reloid = c.oid;
            CONTINUE;
        END IF;
        CONTINUE WHEN keyed AND EXISTS (
            SELECT FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)
             WHERE t.set_reloid = c.oid AND s.set_nodeid = node AND s.set_name <> 'default_insert_only');
        PERFORM pgdrover.remove_member(t.set_id, c.oid)
           FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)
          WHERE t.set_reloid = c.oid AND (keyed OR s.replicate_update OR s.replicate_delete);
        SELECT * INTO target FROM spock.replication_set s
         WHERE s.set_nodeid = node AND s.set_name = CASE WHEN keyed THEN 'default' ELSE 'default_insert_only' END;
        CONTINUE WHEN target.set_id IS NULL OR EXISTS (
            SELECT FROM spock.replication_set_table t WHERE t.set_reloid = c.oid AND t.set_id = target.set_id);
        PERFORM pgdrover.add_member(target, c.oid, NULL, NULL);
        RAISE LOG USING MESSAGE = pg_catalog.format('table ''%s'' was added to ''%s'' replication set.', c.relname, target.set_name);
    END LOOP;
END
$$;

-- Reads what only the caller's own context shows, and hands it on. No SET clause and no operators here: the search path
-- is the caller's.
CREATE FUNCTION pgdrover.on_ddl_end()
RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgdrover.capture(TG_TAG, pg_catalog.current_setting('search_path'), current_user);
END
$$;

CREATE FUNCTION pgdrover.on_ddl_start()
RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    IF pgdrover.flag('spock.deny_all_ddl') AND NOT pgdrover.internal() THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('cannot execute %s within spock cluster', TG_TAG);
    END IF;
END
$$;

-- Whoever changes a table, also what applies changes: publications, triggers and filters follow.
CREATE FUNCTION pgdrover.on_ddl_upkeep()
RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    rels oid[];
    rel oid;
    everything boolean := TG_TAG IN ('DROP INDEX', 'DROP TYPE', 'DROP DOMAIN', 'DROP EXTENSION', 'DROP OWNED', 'DROP SCHEMA',
                                     'DROP COLLATION', 'DROP OPERATOR CLASS', 'DROP FUNCTION', 'ALTER TYPE', 'ALTER SCHEMA');
BEGIN
    IF to_regclass('spock.local_node') IS NULL OR pgdrover.internal() THEN
        RETURN;
    END IF;
    IF coalesce(current_setting('pgdrover.applying', true), '') = 'D' AND current_setting('session_replication_role') = 'replica'
       AND pgdrover.local_node_id() IS NOT NULL THEN
        PERFORM pgdrover.assign_created();
    END IF;
    SELECT array_agg(DISTINCT k.rel) INTO rels
      FROM (SELECT coalesce(i.indrelid, c.objid) AS rel
              FROM pg_event_trigger_ddl_commands() c LEFT JOIN pg_index i ON i.indexrelid = c.objid
             WHERE c.classid = 'pg_class'::regclass) k
     WHERE EXISTS (SELECT FROM spock.replication_set_table t WHERE t.set_reloid = k.rel)
        OR EXISTS (SELECT FROM spock.pgdrover_watch w WHERE w.relid = k.rel);
    IF everything THEN
        rels := NULL;
    ELSIF rels IS NULL THEN
        RETURN;
    END IF;
    PERFORM pgdrover.publish(rels);
    PERFORM pgdrover.refresh_filters(rels);
    FOR rel IN SELECT w.relid FROM spock.pgdrover_watch w WHERE rels IS NULL OR w.relid = ANY (rels) ORDER BY 1 LOOP
        PERFORM pgdrover.watch(rel);
    END LOOP;
END
$$;

-- What a DROP takes along: memberships depend on their tables and on what their filters use. The server plans its drop
-- without knowing that; when it is done and nobody said CASCADE, this undoes it by an error.

-- The memberships that hang on what was just dropped.
CREATE FUNCTION pgdrover.dropped_memberships(
    visible name[], OUT set_id oid, OUT set_name name, OUT rel oid, OUT member text, OUT object text, OUT table_gone boolean)
RETURNS SETOF record LANGUAGE sql STABLE AS $$
    WITH dropped AS (
        SELECT o.*, pg_catalog.row_number() OVER () AS n FROM pg_catalog.pg_event_trigger_dropped_objects() o
    ), tables AS (
        SELECT d.objid, pgdrover.visible_name(d.schema_name::name, d.object_name::name, visible) AS name
          FROM dropped d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objsubid = 0
    )
    SELECT DISTINCT ON (t.set_reloid::oid, s.set_name) t.set_id, s.set_name, t.set_reloid::oid,
           'table ' || coalesce(g.name, pgdrover.visible_name(n.nspname, k.relname, visible)),
           CASE WHEN d.objsubid > 0 THEN
                     pg_catalog.format('column %I of table %s', d.address_names[3],
                         pgdrover.visible_name(d.address_names[1]::name, d.address_names[2]::name, visible))
                WHEN g.name IS NOT NULL THEN 'table ' || g.name
                ELSE d.object_type || ' ' || CASE WHEN d.schema_name::name = ANY (visible)
                     THEN pg_catalog.substr(d.object_identity, pg_catalog.length(pg_catalog.quote_ident(d.schema_name)) + 2)
                     ELSE d.object_identity END END,
           g.name IS NOT NULL
      FROM dropped d
      JOIN spock.depend p ON p.classid = 'spock.replication_set_table'::regclass
                         AND p.refclassid = d.classid AND p.refobjid = d.objid AND p.refobjsubid = d.objsubid
      JOIN spock.replication_set_table t ON t.set_id = p.objid AND pgdrover.as_integer(t.set_reloid) = p.objsubid
      JOIN spock.replication_set s ON s.set_id = t.set_id
      LEFT JOIN tables g ON g.objid = t.set_reloid
      LEFT JOIN pg_catalog.pg_class k ON k.oid = t.set_reloid
      LEFT JOIN pg_catalog.pg_namespace n ON n.oid = k.relnamespace
     ORDER BY t.set_reloid::oid, s.set_name, p.deptype, d.n
$$;

CREATE FUNCTION pgdrover.drop_members(tag text, visible name[])
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    context text;
    m record;
    lines text[];
    details text[];
    s record;
BEGIN
    IF to_regclass('spock.local_node') IS NULL OR pgdrover.internal() THEN
        RETURN;
    END IF;
    -- Who drops nothing but temporary objects says nothing to other nodes.
    IF (SELECT bool_and(o.is_temporary) FROM pg_event_trigger_dropped_objects() o WHERE o.original) THEN
        PERFORM set_config('pgdrover.dropped_temporary', 'on', true);
        RETURN;
    END IF;
    PERFORM set_config('pgdrover.dropped_temporary', '', true);
    SELECT array_agg('drop cascades to ' || d.member || ' membership in replication set ' || d.set_name),
           array_agg(d.member || ' membership in replication set ' || d.set_name || ' depends on ' || d.object)
      INTO lines, details FROM pgdrover.dropped_memberships(visible) d;
    IF lines IS NOT NULL THEN
        GET DIAGNOSTICS context = PG_CONTEXT;
        IF NOT pgdrover.drop_may_cascade(tag, context) THEN
            RAISE EXCEPTION USING ERRCODE = '2BP01', MESSAGE = pgdrover.refused_drop(visible),
                DETAIL = array_to_string(details, E'\n'),
                HINT = 'Use DROP ... CASCADE to drop the dependent objects too.';
        END IF;
        FOR m IN SELECT d.set_id, d.rel FROM pgdrover.dropped_memberships(visible) d LOOP
            PERFORM pgdrover.remove_member(m.set_id, m.rel);
        END LOOP;
        IF pgdrover.flag('spock.enable_quiet_mode') THEN
            NULL;
        ELSIF cardinality(lines) = 1 THEN
            RAISE NOTICE USING MESSAGE = lines[1];
        ELSE
            RAISE NOTICE USING MESSAGE = format('drop cascades to %s other objects', cardinality(lines)),
                DETAIL = array_to_string(lines, E'\n');
        END IF;
    END IF;
    PERFORM pgdrover.forget_dropped();
END
$$;

CREATE FUNCTION pgdrover.drop_may_cascade(tag text, context text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    names text[];
    s record;
BEGIN
    IF pgdrover.flag('spock.enable_ddl_replication') OR pg_catalog.current_setting('session_replication_role') = 'replica' THEN
        RETURN true;
    END IF;
    SELECT pg_catalog.array_agg(coalesce(o.address_names[pg_catalog.cardinality(o.address_names)], o.object_identity)) INTO names
      FROM pg_catalog.pg_event_trigger_dropped_objects() o WHERE o.original;
    s := pgdrover.current_statement(context, tag, names, false);
    RETURN coalesce(s.statement, pg_catalog.current_query()) ~* '\mcascade\M';
END
$$;

-- As the server words it.
CREATE FUNCTION pgdrover.refused_drop(visible name[])
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN pg_catalog.count(*) = 1 THEN pg_catalog.format(
                    'cannot drop %s because other objects depend on it', pg_catalog.min(o.name))
                ELSE 'cannot drop desired object(s) because other objects depend on them' END
      FROM (SELECT CASE WHEN d.object_type = 'table column' THEN pg_catalog.format('column %I of table %s', d.address_names[3],
                            pgdrover.visible_name(d.address_names[1]::name, d.address_names[2]::name, visible))
                        WHEN d.schema_name::name = ANY (visible) THEN d.object_type || ' ' || pg_catalog.substr(
                            d.object_identity, pg_catalog.length(pg_catalog.quote_ident(d.schema_name)) + 2)
                        ELSE d.object_type || ' ' || d.object_identity END AS name
              FROM pg_catalog.pg_event_trigger_dropped_objects() d WHERE d.original) AS o
$$;

-- What we keep about objects that are gone.
CREATE FUNCTION pgdrover.forget_dropped()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    o record;
BEGIN
    FOR o IN SELECT d.objid, d.objsubid, d.object_type, d.address_names FROM pg_catalog.pg_event_trigger_dropped_objects() d
              WHERE d.classid = 'pg_catalog.pg_class'::regclass LOOP
        IF o.object_type = 'table column' THEN
            DELETE FROM spock.pgdrover_delta_column c WHERE c.relid = o.objid AND c.column_name = o.address_names[3]::name;
            INSERT INTO spock.pgdrover_dropped_column (relid, column_name, dropped_lsn)
            SELECT o.objid, o.address_names[3]::name, pg_catalog.pg_current_wal_insert_lsn()
             WHERE EXISTS (SELECT FROM spock.subscription)
               AND EXISTS (SELECT FROM spock.pgdrover_watch w WHERE w.relid = o.objid)
                ON CONFLICT (relid, column_name) DO UPDATE SET dropped_lsn = excluded.dropped_lsn;
        ELSIF o.object_type = 'sequence' THEN
            DELETE FROM spock.replication_set_seq q WHERE q.set_seqoid = o.objid;
            DELETE FROM spock.sequence_state q WHERE q.seqoid = o.objid;
        ELSIF o.object_type = 'table' THEN
            DELETE FROM spock.pgdrover_delta_column c WHERE c.relid = o.objid;
            DELETE FROM spock.pgdrover_dropped_column c WHERE c.relid = o.objid;
            IF EXISTS (SELECT FROM spock.pgdrover_watch w WHERE w.relid = o.objid) THEN
                PERFORM pgdrover.unwatch(o.objid);
            END IF;
        END IF;
    END LOOP;
END
$$;

CREATE FUNCTION pgdrover.on_sql_drop()
RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgdrover.drop_members(TG_TAG, pg_catalog.current_schemas(true));
END
$$;

-- Columns that take differences, functions for values, and the schemas that stand apart.

CREATE FUNCTION spock.delta_apply(int2, int2, int2)
RETURNS int2 LANGUAGE sql AS $$ SELECT $3 + ($2 - $1) $$;
CREATE FUNCTION spock.delta_apply(int4, int4, int4)
RETURNS int4 LANGUAGE sql AS $$ SELECT $3 + ($2 - $1) $$;
CREATE FUNCTION spock.delta_apply(int8, int8, int8)
RETURNS int8 LANGUAGE sql AS $$ SELECT $3 + ($2 - $1) $$;
CREATE FUNCTION spock.delta_apply(float4, float4, float4)
RETURNS float4 LANGUAGE sql AS $$ SELECT $3 + ($2 - $1) $$;
CREATE FUNCTION spock.delta_apply(float8, float8, float8)
RETURNS float8 LANGUAGE sql AS $$ SELECT $3 + ($2 - $1) $$;
CREATE FUNCTION spock.delta_apply(numeric, numeric, numeric)
RETURNS numeric LANGUAGE sql AS $$ SELECT $3 + ($2 - $1) $$;
CREATE FUNCTION spock.delta_apply(money, money, money)
RETURNS money LANGUAGE sql AS $$ SELECT $3 + ($2 - $1) $$;

CREATE FUNCTION pgdrover.require_table(relation regclass)
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF (SELECT c.relkind <> 'r' OR c.relpersistence <> 'p' FROM pg_catalog.pg_class c WHERE c.oid = relation) THEN
        RAISE EXCEPTION USING ERRCODE = '42809', MESSAGE = pg_catalog.format('%s is not an ordinary table', relation);
    END IF;
END
$$;

-- An update adds new - old to such a column here, whatever becomes of the rest of the row. The old value travels only
-- with replica identity FULL, or when the identity's index contains the column. Call it on every node.
CREATE FUNCTION pgdrover.delta_column_add(relation regclass, column_name name)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    a record;
BEGIN
    PERFORM pgdrover.require_table(relation);
    SELECT k.atttypid, k.attnotnull, k.attgenerated INTO a FROM pg_catalog.pg_attribute k
     WHERE k.attrelid = relation AND k.attname = column_name AND k.attnum > 0 AND NOT k.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42703', MESSAGE = pg_catalog.format(
            'column "%s" of relation %s does not exist', column_name, relation);
    ELSIF a.atttypid::regtype::text NOT IN ('smallint', 'integer', 'bigint', 'real', 'double precision', 'numeric', 'money')
          OR a.attgenerated <> '' THEN
        RAISE EXCEPTION USING ERRCODE = '42804', MESSAGE = pg_catalog.format(
            'column "%s" of relation %s cannot take differences', column_name, relation),
            DETAIL = 'It must be a number or money, and not generated.';
    ELSIF NOT a.attnotnull THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'column "%s" of relation %s must be NOT NULL', column_name, relation);
    ELSIF NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                       WHERE i.indrelid = relation AND i.indisprimary AND i.indimmediate AND i.indisvalid) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('table %s has no primary key', relation);
    ELSIF column_name = ANY (pgdrover.index_columns((SELECT i.indexrelid FROM pg_catalog.pg_index i
                                                      WHERE i.indrelid = relation AND i.indisprimary))) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'column "%s" is part of the primary key of %s', column_name, relation);
    END IF;
    IF EXISTS (SELECT FROM spock.pgdrover_delta_column d WHERE d.relid = relation AND d.column_name = delta_column_add.column_name) THEN
        RETURN false;
    END IF;
    INSERT INTO spock.pgdrover_delta_column (relid, column_name) VALUES (relation, delta_column_add.column_name);
    IF NOT coalesce(column_name = ANY (pgdrover.index_columns(pgdrover.identity_index(relation))), false)
       AND (SELECT c.relreplident <> 'f' FROM pg_catalog.pg_class c WHERE c.oid = relation) THEN
        PERFORM pgdrover.run(pg_catalog.format('ALTER TABLE %s REPLICA IDENTITY FULL', pgdrover.qualified_name(relation)));
        RAISE NOTICE USING MESSAGE = pg_catalog.format('replica identity of %s is now FULL', relation);
    END IF;
    PERFORM pgdrover.publish(ARRAY[relation::oid]);
    RETURN true;
END
$$;

CREATE FUNCTION pgdrover.delta_column_remove(relation regclass, column_name name)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    removed boolean;
BEGIN
    DELETE FROM spock.pgdrover_delta_column d WHERE d.relid = relation AND d.column_name = delta_column_remove.column_name;
    removed := FOUND;
    IF removed AND NOT EXISTS (SELECT FROM spock.pgdrover_delta_column d WHERE d.relid = relation)
       AND (SELECT c.relreplident = 'f' FROM pg_catalog.pg_class c WHERE c.oid = relation) THEN
        PERFORM pgdrover.run(pg_catalog.format('ALTER TABLE %s REPLICA IDENTITY DEFAULT', pgdrover.qualified_name(relation)));
        RAISE NOTICE USING MESSAGE = pg_catalog.format('replica identity of %s is now DEFAULT', relation);
    END IF;
    PERFORM pgdrover.publish(ARRAY[relation::oid]);
    RETURN removed;
END
$$;

CREATE FUNCTION spock.convert_column_to_int8(p_rel regclass, p_attnum smallint)
RETURNS integer LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    a record;
    command text;
    r record;
    n integer := 0;
BEGIN
    SELECT k.attname, k.atttypid INTO a FROM pg_attribute k WHERE k.attrelid = p_rel AND k.attnum = p_attnum AND NOT k.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'Attribute % of reation % not found', p_attnum, p_rel;
    END IF;
    IF a.atttypid <> 'int8'::regtype THEN
        command := format('ALTER TABLE %s ALTER COLUMN %I SET DATA TYPE int8', p_rel, a.attname);
        RAISE NOTICE 'EXECUTE %', command;
        EXECUTE command;
        n := 1;
    END IF;
    FOR r IN SELECT c.conrelid::regclass AS rel, c.conkey[array_position(c.confkey, p_attnum)] AS attnum
               FROM pg_constraint c
              WHERE c.contype = 'f' AND c.confrelid = p_rel AND p_attnum = ANY (c.confkey) AND c.conparentid = 0
              ORDER BY c.oid LOOP
        n := n + CASE WHEN (SELECT k.atttypid = 'int8'::regtype FROM pg_attribute k WHERE k.attrelid = r.rel AND k.attnum = r.attnum)
                      THEN 0 ELSE spock.convert_column_to_int8(r.rel, r.attnum) END;
    END LOOP;
    RETURN n;
END
$$;

CREATE FUNCTION spock.convert_sequence_to_snowflake(p_seqid regclass)
RETURNS integer LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    d record;
    command text;
    n integer := 0;
BEGIN
    FOR d IN SELECT f.adrelid::regclass AS rel, f.adnum, a.attname
               FROM pg_attrdef f
               JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
               JOIN pg_depend p ON p.classid = 'pg_attrdef'::regclass AND p.objid = f.oid
                               AND p.refclassid = 'pg_class'::regclass AND p.refobjid = p_seqid
              WHERE pg_get_expr(f.adbin, f.adrelid) ~ '^nextval\(' ORDER BY f.oid LOOP
        n := n + spock.convert_column_to_int8(d.rel, d.adnum);
        command := format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT snowflake.nextval(%L::regclass)', d.rel, d.attname, p_seqid);
        RAISE NOTICE 'EXECUTE %', command;
        EXECUTE command;
        n := n + 1;
    END LOOP;
    RETURN n;
END
$$;

CREATE FUNCTION spock.md5_agg_sfunc(text, anyelement)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT pg_catalog.md5($1 || $2::text) $$;
CREATE AGGREGATE spock.md5_agg(ORDER BY anyelement) (STYPE = text, SFUNC = spock.md5_agg_sfunc, INITCOND = '', PARALLEL = SAFE);

CREATE FUNCTION pgdrover.guard_reserved_object()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.builtin THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = pg_catalog.format(
            'cannot %s built-in reserved object "%s" (%s)', pg_catalog.lower(TG_OP), OLD.name, OLD.kind);
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;
CREATE TRIGGER reserved_object_guard BEFORE UPDATE OR DELETE ON spock.reserved_object
    FOR EACH ROW EXECUTE FUNCTION pgdrover.guard_reserved_object();

CREATE FUNCTION spock.reserved_object_add(
    p_name name, p_kind text, p_exclude_from_dump boolean = true, p_block_in_repset boolean = true, p_replicate_ddl boolean = NULL)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO spock.reserved_object AS r (name, kind, exclude_from_dump, block_in_repset, replicate_ddl)
    VALUES (p_name, p_kind, p_exclude_from_dump, p_block_in_repset,
            CASE WHEN p_kind = 'schema' THEN coalesce(p_replicate_ddl, true) END)
        ON CONFLICT (name, kind) DO UPDATE SET exclude_from_dump = excluded.exclude_from_dump,
               block_in_repset = excluded.block_in_repset, replicate_ddl = excluded.replicate_ddl;
END
$$;

CREATE FUNCTION spock.reserved_object_remove(p_name name, p_kind text)
RETURNS void LANGUAGE sql AS $$
    DELETE FROM spock.reserved_object r WHERE r.name = p_name AND r.kind = p_kind
$$;

-- Read-only modes: sessions begin read-only, and member tables refuse writes of those that change that for themselves.
CREATE FUNCTION pgdrover.on_readonly()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '25006', MESSAGE = 'spock: invalid statement for a read-only cluster';
END
$$;

CREATE FUNCTION pgdrover.enforce_readonly(mode text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    rel oid;
BEGIN
    PERFORM pgdrover.run(pg_catalog.format('ALTER DATABASE %I %s', pg_catalog.current_database(),
        CASE WHEN mode = 'off' THEN 'RESET default_transaction_read_only' ELSE 'SET default_transaction_read_only = on' END));
    FOR rel IN SELECT w.relid FROM spock.pgdrover_watch w JOIN pg_catalog.pg_class c ON c.oid = w.relid
                WHERE (mode = 'off') = EXISTS (SELECT FROM pg_catalog.pg_trigger t
                                                WHERE t.tgrelid = w.relid AND t.tgname = 'pgdrover_readonly') ORDER BY 1 LOOP
        PERFORM pgdrover.run(pg_catalog.format(CASE WHEN mode = 'off' THEN 'DROP TRIGGER pgdrover_readonly ON %s'
            ELSE 'CREATE TRIGGER pgdrover_readonly BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s '
                 'FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.on_readonly()' END, pgdrover.qualified_name(rel)));
    END LOOP;
END
$$;

-- What can be seen: views, progress, statistics.

CREATE VIEW spock.tables AS
    SELECT c.oid AS relid, n.nspname, c.relname, s.set_name
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      JOIN spock.replication_set_table t ON t.set_reloid = c.oid
      JOIN spock.replication_set s ON s.set_id = t.set_id
      JOIN spock.local_node l ON l.node_id = s.set_nodeid
     WHERE c.relkind IN ('r', 'p')
     UNION
    SELECT c.oid, n.nspname, c.relname, NULL
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname !~ '^pg_'
       AND n.nspname <> 'information_schema' AND n.nspname <> 'spock'
       AND NOT EXISTS (SELECT FROM spock.replication_set_table t
                         JOIN spock.replication_set s ON s.set_id = t.set_id
                         JOIN spock.local_node l ON l.node_id = s.set_nodeid
                        WHERE t.set_reloid = c.oid);

CREATE FUNCTION spock.get_channel_stats(
    OUT subid oid, OUT relid oid, OUT n_tup_ins bigint, OUT n_tup_upd bigint, OUT n_tup_del bigint, OUT n_conflict bigint,
    OUT n_dca bigint)
RETURNS SETOF record LANGUAGE sql AS $$
    SELECT c.subid, c.relid, c.n_tup_ins, c.n_tup_upd, c.n_tup_del, c.n_conflict, c.n_dca FROM spock.pgdrover_channel_stats c
$$;

CREATE FUNCTION spock.reset_channel_stats()
RETURNS void LANGUAGE sql AS $$
    DELETE FROM spock.pgdrover_channel_stats
$$;

CREATE VIEW spock.channel_table_stats AS
    SELECT h.subid, h.relid, CASE h.subid WHEN 0 THEN '<output>' ELSE s.sub_name END AS sub_name,
           pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS table_name,
           h.n_tup_ins, h.n_tup_upd, h.n_tup_del, h.n_conflict, h.n_dca
      FROM spock.get_channel_stats() AS h
      LEFT JOIN spock.subscription s ON s.sub_id = h.subid
      LEFT JOIN pg_catalog.pg_class c ON c.oid = h.relid
      LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace;

CREATE VIEW spock.channel_summary_stats AS
    SELECT subid, sub_name, pg_catalog.sum(n_tup_ins) AS n_tup_ins, pg_catalog.sum(n_tup_upd) AS n_tup_upd,
           pg_catalog.sum(n_tup_del) AS n_tup_del, pg_catalog.sum(n_conflict) AS n_conflict, pg_catalog.sum(n_dca) AS n_dca
      FROM spock.channel_table_stats GROUP BY subid, sub_name;

-- The engine adds what it counted since the last time. Arrays of equal length.
CREATE FUNCTION pgdrover.add_channel_stats(
    subids oid[], relids oid[], ins bigint[], upd bigint[], del bigint[], conflicts bigint[], dca bigint[],
    insert_exists bigint[], update_origin_differs bigint[], update_exists bigint[], update_missing bigint[],
    delete_origin_differs bigint[], delete_missing bigint[], delete_exists bigint[])
RETURNS void LANGUAGE sql AS $$
    INSERT INTO spock.pgdrover_channel_stats AS c
    SELECT * FROM unnest(subids, relids, ins, upd, del, conflicts, dca, insert_exists, update_origin_differs,
                                    update_exists, update_missing, delete_origin_differs, delete_missing, delete_exists)
        ON CONFLICT (subid, relid) DO UPDATE
       SET n_tup_ins = c.n_tup_ins + excluded.n_tup_ins, n_tup_upd = c.n_tup_upd + excluded.n_tup_upd,
           n_tup_del = c.n_tup_del + excluded.n_tup_del, n_conflict = c.n_conflict + excluded.n_conflict,
           n_dca = c.n_dca + excluded.n_dca,
           confl_insert_exists = c.confl_insert_exists + excluded.confl_insert_exists,
           confl_update_origin_differs = c.confl_update_origin_differs + excluded.confl_update_origin_differs,
           confl_update_exists = c.confl_update_exists + excluded.confl_update_exists,
           confl_update_missing = c.confl_update_missing + excluded.confl_update_missing,
           confl_delete_origin_differs = c.confl_delete_origin_differs + excluded.confl_delete_origin_differs,
           confl_delete_missing = c.confl_delete_missing + excluded.confl_delete_missing,
           confl_delete_exists = c.confl_delete_exists + excluded.confl_delete_exists
$$;

CREATE FUNCTION pgdrover.add_counter(subscription oid, counter text, n bigint)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO spock.pgdrover_counter AS c (sub_id, name, value) VALUES (subscription, counter, n)
        ON CONFLICT (sub_id, name) DO UPDATE SET value = c.value + excluded.value
$$;

CREATE FUNCTION pgdrover.subscription_stats(
    wanted oid, OUT subid oid, OUT confl_insert_exists bigint, OUT confl_update_origin_differs bigint,
    OUT confl_update_exists bigint, OUT confl_update_missing bigint, OUT confl_delete_origin_differs bigint,
    OUT confl_delete_missing bigint, OUT confl_delete_exists bigint, OUT stats_reset timestamptz)
RETURNS record LANGUAGE sql STABLE AS $$
    SELECT wanted, coalesce(pg_catalog.sum(c.confl_insert_exists), 0)::bigint,
           coalesce(pg_catalog.sum(c.confl_update_origin_differs), 0)::bigint,
           coalesce(pg_catalog.sum(c.confl_update_exists), 0)::bigint,
           coalesce(pg_catalog.sum(c.confl_update_missing), 0)::bigint,
           coalesce(pg_catalog.sum(c.confl_delete_origin_differs), 0)::bigint,
           coalesce(pg_catalog.sum(c.confl_delete_missing), 0)::bigint,
           coalesce(pg_catalog.sum(c.confl_delete_exists), 0)::bigint,
           (SELECT r.stats_reset FROM spock.pgdrover_stats_reset r WHERE r.sub_id = wanted)
      FROM spock.pgdrover_channel_stats c WHERE c.subid = wanted
$$;

CREATE FUNCTION spock.get_subscription_stats(
    subid oid, OUT subid oid, OUT confl_insert_exists bigint, OUT confl_update_origin_differs bigint,
    OUT confl_update_exists bigint, OUT confl_update_missing bigint, OUT confl_delete_origin_differs bigint,
    OUT confl_delete_missing bigint, OUT confl_delete_exists bigint, OUT stats_reset timestamptz)
RETURNS record LANGUAGE sql STABLE AS $$
    SELECT * FROM pgdrover.subscription_stats($1)
$$;

CREATE FUNCTION spock.reset_subscription_stats(subid oid = NULL)
RETURNS void LANGUAGE sql AS $$
    UPDATE spock.pgdrover_channel_stats c
       SET confl_insert_exists = 0, confl_update_origin_differs = 0, confl_update_exists = 0, confl_update_missing = 0,
           confl_delete_origin_differs = 0, confl_delete_missing = 0, confl_delete_exists = 0
     WHERE $1 IS NULL OR c.subid = $1;
    INSERT INTO spock.pgdrover_stats_reset (sub_id, stats_reset)
    SELECT s.sub_id, pg_catalog.now() FROM spock.subscription s WHERE $1 IS NULL OR s.sub_id = $1
        ON CONFLICT (sub_id) DO UPDATE SET stats_reset = excluded.stats_reset
$$;

CREATE FUNCTION spock.cleanup_resolutions(days integer = NULL)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    keep integer := coalesce(days, pgdrover.setting('spock.resolutions_retention_days')::integer);
    n bigint;
BEGIN
    IF keep <= 0 AND days IS NULL THEN
        RETURN 0;
    END IF;
    DELETE FROM spock.resolutions r WHERE r.log_time < pg_catalog.now() - keep * interval '1 day';
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END
$$;

-- Release 5 and 6 in one view: clients select by name.
CREATE VIEW spock.lag_tracker AS
    SELECT o.node_name AS origin_name, r.node_name AS receiver_name,
           pg_catalog.max(p.remote_commit_ts) AS commit_timestamp, pg_catalog.max(p.remote_lsn) AS last_received_lsn,
           pg_catalog.max(p.remote_commit_lsn) AS commit_lsn, pg_catalog.max(p.remote_insert_lsn) AS remote_insert_lsn,
           pg_catalog.max(p.received_lsn) AS received_lsn,
           CASE WHEN pg_catalog.bool_or(p.updated_by_decode)
                THEN pg_catalog.max(p.remote_insert_lsn) - pg_catalog.max(p.remote_lsn) ELSE 0::numeric END AS replication_lag_bytes,
           CASE WHEN pg_catalog.bool_or(p.updated_by_decode) THEN pg_catalog.now() - pg_catalog.max(p.remote_commit_ts)
                ELSE pg_catalog.now() - pg_catalog.max(p.last_updated_ts) END AS replication_lag
      FROM spock.progress p
      LEFT JOIN spock.subscription s ON s.sub_target = p.node_id AND s.sub_origin = p.remote_node_id
      LEFT JOIN spock.node o ON o.node_id = s.sub_origin
      LEFT JOIN spock.node r ON r.node_id = p.node_id
     GROUP BY o.node_name, r.node_name;

CREATE FUNCTION spock.apply_group_progress(
    OUT dbid oid, OUT node_id oid, OUT remote_node_id oid, OUT remote_commit_ts timestamptz, OUT prev_remote_ts timestamptz,
    OUT remote_commit_lsn pg_lsn, OUT remote_insert_lsn pg_lsn, OUT received_lsn pg_lsn, OUT last_updated_ts timestamptz,
    OUT updated_by_decode boolean)
RETURNS SETOF record LANGUAGE sql AS $$
    SELECT coalesce(p.dbid, d.oid), p.node_id, p.remote_node_id, p.remote_commit_ts, p.prev_remote_ts,
           coalesce(p.remote_commit_lsn, p.remote_lsn), p.remote_insert_lsn, p.received_lsn, p.last_updated_ts, p.updated_by_decode
      FROM spock.progress p, pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
$$;

-- One provider's row, at most once a second. A NULL leaves what is there.
CREATE FUNCTION pgdrover.store_progress(
    provider oid, commit_ts timestamptz, commit_lsn pg_lsn, insert_lsn pg_lsn, received pg_lsn, by_decode boolean)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO spock.progress AS p
           (node_id, remote_node_id, remote_commit_ts, remote_lsn, remote_insert_lsn, last_updated_ts, updated_by_decode,
            dbid, remote_commit_lsn, received_lsn)
    SELECT l.node_id, provider, coalesce(commit_ts, pg_catalog.clock_timestamp()), coalesce(commit_lsn, '0/0'),
           coalesce(insert_lsn, '0/0'), pg_catalog.clock_timestamp(), by_decode, d.oid, coalesce(commit_lsn, '0/0'),
           coalesce(received, '0/0')
      FROM spock.local_node l, pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
        ON CONFLICT (node_id, remote_node_id) DO UPDATE
       SET prev_remote_ts = CASE WHEN commit_ts IS NULL THEN p.prev_remote_ts ELSE p.remote_commit_ts END,
           remote_commit_ts = coalesce(commit_ts, p.remote_commit_ts), remote_lsn = coalesce(commit_lsn, p.remote_lsn),
           remote_commit_lsn = coalesce(commit_lsn, p.remote_commit_lsn),
           remote_insert_lsn = greatest(insert_lsn, p.remote_insert_lsn),
           received_lsn = greatest(received, p.received_lsn), last_updated_ts = excluded.last_updated_ts,
           updated_by_decode = excluded.updated_by_decode, dbid = excluded.dbid
$$;

CREATE FUNCTION spock.read_peer_progress(p_slot_name text, p_provider_node_id oid, p_subscriber_node_id oid)
RETURNS TABLE (
    lsn pg_lsn, snapshot text, dbid oid, node_id oid, remote_node_id oid, remote_commit_ts timestamptz, prev_remote_ts timestamptz,
    remote_commit_lsn pg_lsn, remote_insert_lsn pg_lsn, received_lsn pg_lsn, last_updated_ts timestamptz, updated_by_decode boolean)
LANGUAGE plpgsql STRICT AS $$
BEGIN
    RETURN QUERY SELECT s.restart_lsn, ''::text, NULL::oid, NULL::oid, NULL::oid, NULL::timestamptz, NULL::timestamptz, NULL::pg_lsn,
                        NULL::pg_lsn, NULL::pg_lsn, NULL::timestamptz, NULL::boolean
                   FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = p_slot_name::name;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = pg_catalog.format('replication slot "%s" does not exist', p_slot_name);
    END IF;
    RAISE NOTICE 'SPOCK cswp slot % of node % read for node %', p_slot_name, p_provider_node_id, p_subscriber_node_id;
    RETURN QUERY SELECT NULL::pg_lsn, NULL::text, p.dbid, p.node_id, p.remote_node_id, p.remote_commit_ts, p.prev_remote_ts,
                        coalesce(pg_catalog.pg_replication_origin_progress(k.sub_slot_name::text, false), '0/0'), p.remote_insert_lsn,
                        p.received_lsn, p.last_updated_ts, p.updated_by_decode
                   FROM spock.subscription k
                   JOIN spock.apply_group_progress() p ON p.node_id = k.sub_target AND p.remote_node_id = k.sub_origin
                  WHERE k.sub_target = p_provider_node_id AND k.sub_origin <> p_subscriber_node_id
                    AND EXISTS (SELECT FROM pg_catalog.pg_replication_origin o WHERE o.roname = k.sub_slot_name::text);
END
$$;

-- How far initial copies are, one row for each table.
CREATE VIEW spock.pgdrover_copy_progress AS
    SELECT s.sub_name, c.nspname, c.relname, pg_catalog.count(*) AS pieces,
           pg_catalog.count(*) FILTER (WHERE c.state = 'done') AS pieces_done,
           pg_catalog.sum(c.bytes_total) AS bytes_total, pg_catalog.sum(c.bytes_done) AS bytes_done,
           pg_catalog.sum(c.rows_done) AS rows_done, pg_catalog.min(c.started_at) AS started_at,
           CASE WHEN pg_catalog.bool_and(c.state = 'done') THEN pg_catalog.max(c.finished_at) END AS finished_at,
           CASE WHEN pg_catalog.bool_or(c.state = 'failed') THEN 'failed' WHEN pg_catalog.bool_and(c.state = 'done') THEN 'done'
                WHEN pg_catalog.bool_or(c.state IN ('copying', 'done')) THEN 'copying' ELSE 'wanted' END AS state
      FROM spock.pgdrover_copy c JOIN spock.subscription s ON s.sub_id = c.sub_id
     GROUP BY s.sub_name, c.nspname, c.relname;

-- Triggers of our own tables, and event triggers. The latter come last: they fire from here on.

CREATE FUNCTION pgdrover.notify_change()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('spock_change', TG_TABLE_NAME);
    RETURN NULL;
END
$$;

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['subscription', 'local_sync_status', 'replication_set', 'replication_set_table', 'node',
                             'node_interface', 'local_node', 'pgdrover_subscription', 'pgdrover_delta_column'] LOOP
        EXECUTE pg_catalog.format('CREATE TRIGGER pgdrover_notify AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON spock.%I '
                                  'FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.notify_change()', t);
    END LOOP;
END
$$;

-- Membership and publication change in one commit, whoever changes the membership: what applies changes, too.
CREATE FUNCTION pgdrover.members_added()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    rel oid;
BEGIN
    PERFORM pgdrover.publish((SELECT coalesce(array_agg(DISTINCT t.set_reloid::oid), '{}') FROM added t));
    FOR rel IN SELECT DISTINCT t.set_reloid::oid FROM added t ORDER BY 1 LOOP
        PERFORM pgdrover.watch(rel);
    END LOOP;
    RETURN NULL;
END
$$;

CREATE FUNCTION pgdrover.members_removed()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pgdrover.publish((SELECT coalesce(array_agg(DISTINCT t.set_reloid::oid), '{}') FROM removed t));
    PERFORM pgdrover.unwatch_unused();
    RETURN NULL;
END
$$;

CREATE FUNCTION pgdrover.set_changed()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pgdrover.publish((SELECT coalesce(array_agg(DISTINCT t.set_reloid::oid), '{}') FROM spock.replication_set_table t
                                JOIN changed c ON c.set_id = t.set_id));
    RETURN NULL;
END
$$;

CREATE TRIGGER pgdrover_members_added AFTER INSERT ON spock.replication_set_table
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.members_added();
CREATE TRIGGER pgdrover_members_removed AFTER DELETE ON spock.replication_set_table
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.members_removed();
CREATE TRIGGER pgdrover_set_changed AFTER UPDATE ON spock.replication_set
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.set_changed();
ALTER TABLE spock.replication_set_table ENABLE ALWAYS TRIGGER pgdrover_members_added;
ALTER TABLE spock.replication_set_table ENABLE ALWAYS TRIGGER pgdrover_members_removed;
ALTER TABLE spock.replication_set ENABLE ALWAYS TRIGGER pgdrover_set_changed;

-- Only superusers may make event triggers. Without them tables are published as they were when they joined, and DDL
-- travels only by replicate_ddl.
DO $$
BEGIN
    CREATE EVENT TRIGGER pgdrover_ddl_start ON ddl_command_start EXECUTE FUNCTION pgdrover.on_ddl_start();
    CREATE EVENT TRIGGER pgdrover_sql_drop ON sql_drop EXECUTE FUNCTION pgdrover.on_sql_drop();
    ALTER EVENT TRIGGER pgdrover_sql_drop ENABLE ALWAYS;
    CREATE EVENT TRIGGER pgdrover_ddl_end ON ddl_command_end EXECUTE FUNCTION pgdrover.on_ddl_end();
    CREATE EVENT TRIGGER pgdrover_ddl_upkeep ON ddl_command_end EXECUTE FUNCTION pgdrover.on_ddl_upkeep();
    ALTER EVENT TRIGGER pgdrover_ddl_upkeep ENABLE ALWAYS;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING USING MESSAGE = 'no event triggers: ' || SQLERRM,
        HINT = 'DDL is not captured. Run pgdrover spock install as superuser to have it.';
END
$$;

-- Rights. Schema spock grants nothing, as in Spock. Everybody's DDL runs through our event triggers, whose functions
-- must be found; what works with the owner's rights is closed, except what guards itself.

GRANT USAGE ON SCHEMA pgdrover TO PUBLIC;

DO $$
DECLARE
    f record;
BEGIN
    FOR f IN SELECT p.oid::regprocedure AS fn FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
              WHERE p.pronamespace = 'pgdrover'::regnamespace
                AND (p.prosecdef OR l.lanname = 'c') AND p.proname NOT IN ('capture', 'drop_members') LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f.fn);
    END LOOP;
END
$$;

REVOKE ALL ON FUNCTION spock.pause_apply_workers(), spock.resume_apply_workers(), spock.slot_enable_failover(),
    spock.cleanup_resolutions(integer) FROM PUBLIC;


-- Our own tables. They are in schema spock, because scripts take every table outside it for a user's; published
-- are the texts of row filters and what this node has applied.

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
    clean_lsn         pg_lsn,
    sync_requested    boolean NOT NULL DEFAULT false,
    sync_truncate     boolean NOT NULL DEFAULT false,
    last_hint         text
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

-- Stamps of rows that came with those of other transactions as one: by the transaction that wrote them here and their key,
-- or, in tables without one, the hash of the whole row.
CREATE TABLE spock.pgdrover_bundle (
    written_by xid NOT NULL,
    relid      oid NOT NULL,
    keys       bytea[] NOT NULL,
    times      timestamptz[] NOT NULL,
    author     oid NOT NULL,
    author_lsn pg_lsn NOT NULL
);
CREATE INDEX pgdrover_bundle_written_by ON spock.pgdrover_bundle USING hash (written_by);

-- Slots here by which others get only what this node itself has written: they have said so.
CREATE TABLE spock.pgdrover_follower (
    slot_name name PRIMARY KEY
);

-- How far each provider says that it has applied each node's changes.
CREATE TABLE spock.pgdrover_vector (
    provider_id oid NOT NULL,
    origin_id   oid NOT NULL,
    lsn         pg_lsn NOT NULL,
    received_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (provider_id, origin_id)
) WITH (fillfactor = 50);

-- How far this node has applied whose changes, as those who follow it are told: "node=lsn,…". A row, not a message:
-- messages are everybody's to write.
CREATE TABLE spock.pgdrover_applied (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    vector text NOT NULL
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
    author_lsn  pg_lsn,
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

-- Columns that came by DDL that travels, while peers may still send rows of before, and what such a row gets there when the
-- DDL arrives. The position is one of its author's log that is not before it.
CREATE TABLE spock.pgdrover_added_column (
    relid       oid NOT NULL,
    column_name name NOT NULL,
    value       text,
    author      oid,
    author_lsn  pg_lsn,
    PRIMARY KEY (relid, column_name)
);

-- Tables that DDL has written anew, in transactions that wrote nothing else into them. Their rows then bear its mark, and not
-- that of who wrote them: of those that have the xmin of a row here nobody knows any more how old they are.
CREATE TABLE spock.pgdrover_rewrite (
    relid oid NOT NULL
);
CREATE INDEX pgdrover_rewrite_relid ON spock.pgdrover_rewrite (relid);

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

-- An operator's publication FOR ALL TABLES, which takes these in as well, lets only rows that it can name be changed.
DO $$
DECLARE
    rel pg_catalog.regclass;
BEGIN
    FOR rel IN SELECT c.oid FROM pg_catalog.pg_class c
                WHERE c.relnamespace = 'spock'::regnamespace AND c.relkind = 'r' AND c.relpersistence = 'p'
                  AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s REPLICA IDENTITY FULL', rel);
    END LOOP;
END $$;

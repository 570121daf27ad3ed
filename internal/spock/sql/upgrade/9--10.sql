-- From version 9 to version 10: what a node has applied is told in a row; transactions that are written as one.

CREATE TABLE IF NOT EXISTS spock.pgdrover_applied (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    vector text NOT NULL
) WITH (fillfactor = 50);
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_publication p WHERE p.pubname = 'pgdrover_sys') AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_publication_tables t
         WHERE t.pubname = 'pgdrover_sys' AND t.schemaname = 'spock' AND t.tablename = 'pgdrover_applied') THEN
        ALTER PUBLICATION pgdrover_sys ADD TABLE spock.pgdrover_applied;
    END IF;
END
$$;

-- Stamps of rows that came with those of other transactions as one: by the transaction that wrote them here and their key,
-- or, in tables without one, the hash of the whole row.
CREATE TABLE IF NOT EXISTS spock.pgdrover_bundle (
    written_by xid NOT NULL,
    relid      oid NOT NULL,
    keys       bytea[] NOT NULL,
    times      timestamptz[] NOT NULL,
    author     oid NOT NULL,
    author_lsn pg_lsn NOT NULL
);
CREATE INDEX IF NOT EXISTS pgdrover_bundle_written_by ON spock.pgdrover_bundle USING hash (written_by);
ALTER TABLE spock.pgdrover_bundle REPLICA IDENTITY FULL;

-- Slots here by which others get only what this node itself has written: they have said so.
CREATE TABLE IF NOT EXISTS spock.pgdrover_follower (
    slot_name name PRIMARY KEY
);

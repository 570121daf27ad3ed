-- From version 9 to version 10: what a node has applied is told in a row.

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

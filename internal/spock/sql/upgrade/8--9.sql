-- From version 8 to version 9: tables that DDL has written anew.

CREATE TABLE IF NOT EXISTS spock.pgdrover_rewrite (
    relid oid NOT NULL
);
CREATE INDEX IF NOT EXISTS pgdrover_rewrite_relid ON spock.pgdrover_rewrite (relid);
ALTER TABLE spock.pgdrover_rewrite REPLICA IDENTITY FULL;

-- From version 7 to version 8: what to do about a subscription's last error, and columns that came by DDL. That a node knows
-- its database comes with the functions.

ALTER TABLE spock.pgdrover_subscription ADD COLUMN IF NOT EXISTS last_hint text;

CREATE TABLE IF NOT EXISTS spock.pgdrover_added_column (
    relid       oid NOT NULL,
    column_name name NOT NULL,
    value       text,
    author      oid,
    author_lsn  pg_lsn,
    PRIMARY KEY (relid, column_name)
);

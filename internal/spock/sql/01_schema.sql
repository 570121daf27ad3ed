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
INSERT INTO spock.pgdrover_schema_version (version) VALUES (10);

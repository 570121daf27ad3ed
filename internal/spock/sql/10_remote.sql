-- Asking a peer from SQL, through the entry points of the server's own dblink library. They are ours and private: no
-- extension has to be installed, and who may not make them leaves the asking to the engine.

DO $$
BEGIN
    CREATE OR REPLACE FUNCTION pgdrover.dblink_connect(text, text)
    RETURNS text LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_connect';
    CREATE OR REPLACE FUNCTION pgdrover.dblink_record(text, text)
    RETURNS SETOF record LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_record';
    CREATE OR REPLACE FUNCTION pgdrover.dblink_exec(text, text)
    RETURNS text LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_exec';
    CREATE OR REPLACE FUNCTION pgdrover.dblink_disconnect(text)
    RETURNS text LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_disconnect';
EXCEPTION WHEN insufficient_privilege OR undefined_file OR undefined_function OR system_error OR invalid_parameter_value THEN
    RAISE NOTICE USING MESSAGE = 'peers cannot be asked from SQL: ' || SQLERRM,
        HINT = 'Subscriptions are checked by the engine instead, after they were stored.';
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.can_ask_peers()
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.to_regprocedure('pgdrover.dblink_connect(text,text)') IS NOT NULL
       AND (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)
$$;

-- Opens a connection, or raises what Spock's callers look for.
CREATE OR REPLACE FUNCTION pgdrover.peer_open(connection text, dsn text, application_name text, replication boolean = false)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    detail pg_catalog.text;
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
CREATE OR REPLACE FUNCTION pgdrover.peer_query(connection text, query text)
RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE 'SELECT r.answer FROM pgdrover.dblink_record($1, $2) AS r(answer text)' USING connection, query;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.peer_close(connection text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgdrover.dblink_disconnect(connection);
EXCEPTION WHEN connection_does_not_exist THEN
    NULL;
END
$$;

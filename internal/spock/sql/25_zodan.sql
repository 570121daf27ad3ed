-- What scripts that add and remove nodes call. The argument lists are exactly those of zodan.sql and zodremove.sql, so that
-- these load over them: another argument, even with a default, would make calls ambiguous. The work is done by the executor
-- inside "pgdrover spock run", which meets the caller in the tables of requests.

CREATE OR REPLACE FUNCTION pgdrover.executor_connected()
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l
                    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 727400017 AND l.objid = 0 AND l.objsubid = 2
                      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
$$;

-- Asks the executor, tells what it says, and raises what it fails with. It commits: others must see the question.
CREATE OR REPLACE PROCEDURE pgdrover.request(what text, given jsonb)
LANGUAGE plpgsql AS $$
DECLARE
    asked bigint;
    told integer := 0;
    e pg_catalog.record;
    r pg_catalog.record;
    missing integer := 0;
BEGIN
    IF NOT pgdrover.executor_connected() THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format('cannot run %s: no executor is connected to this database', what),
            HINT = pg_catalog.format('Start one: pgdrover spock run --dsn ''dbname=%s''; or call "pgdrover zodan %s" from a shell.',
                                     pg_catalog.current_database(), what);
    END IF;
    DELETE FROM spock.pgdrover_request q WHERE q.heard_at < pg_catalog.clock_timestamp() - interval '7 days';
    INSERT INTO spock.pgdrover_request (kind, arguments) VALUES (what, given) RETURNING id INTO asked;
    PERFORM pg_catalog.pg_notify('pgdrover_request', asked::text);
    COMMIT;
    LOOP
        SELECT q.state, q.error, q.hint INTO r FROM spock.pgdrover_request q WHERE q.id = asked;
        FOR e IN SELECT v.n, v.message FROM spock.pgdrover_request_event v WHERE v.request_id = asked AND v.n > told ORDER BY v.n LOOP
            RAISE NOTICE '%', e.message;
            told := e.n;
        END LOOP;
        EXIT WHEN r.state IN ('done', 'failed') OR r.state IS NULL;
        missing := CASE WHEN pgdrover.executor_connected() THEN 0 ELSE missing + 1 END;
        IF missing > 150 THEN
            RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format('%s was given up: the executor has gone', what),
                HINT = 'Start "pgdrover spock run" again and repeat the call: it goes on where it was.';
        END IF;
        UPDATE spock.pgdrover_request q SET heard_at = pg_catalog.clock_timestamp() WHERE q.id = asked;
        COMMIT;
        PERFORM pg_catalog.pg_sleep(0.2);
    END LOOP;
    IF r.state IS DISTINCT FROM 'done' THEN
        RAISE EXCEPTION USING ERRCODE = 'P0001', MESSAGE = coalesce(r.error, what || ' has failed'),
            HINT = coalesce(r.hint, 'The notices above say more.');
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.refuse_block(what text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.transaction_timestamp() <> pg_catalog.statement_timestamp() THEN
        RAISE EXCEPTION USING ERRCODE = '25001', MESSAGE = pg_catalog.format('%s cannot be run inside a transaction block', what);
    END IF;
END
$$;

CREATE OR REPLACE PROCEDURE spock.add_node(
    src_node_name text, src_dsn text, new_node_name text, new_node_dsn text, verb boolean DEFAULT false,
    new_node_location text DEFAULT 'NY', new_node_country text DEFAULT 'USA', new_node_info jsonb DEFAULT '{}'::jsonb)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgdrover.refuse_block('add_node');
    CALL pgdrover.request('add_node', pg_catalog.jsonb_build_object('src_node_name', src_node_name, 'src_dsn', src_dsn,
        'new_node_name', new_node_name, 'new_node_dsn', new_node_dsn, 'verb', verb, 'location', new_node_location,
        'country', new_node_country, 'info', new_node_info));
END
$$;

CREATE OR REPLACE PROCEDURE spock.attach_node(
    src_node_name text, src_dsn text, new_node_name text, new_node_dsn text, verb boolean DEFAULT false,
    new_node_location text DEFAULT 'NY', new_node_country text DEFAULT 'USA', new_node_info jsonb DEFAULT '{}'::jsonb,
    timeout_sec integer DEFAULT 180)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgdrover.refuse_block('attach_node');
    CALL pgdrover.request('add_node', pg_catalog.jsonb_build_object('src_node_name', src_node_name, 'src_dsn', src_dsn,
        'new_node_name', new_node_name, 'new_node_dsn', new_node_dsn, 'verb', verb, 'location', new_node_location,
        'country', new_node_country, 'info', new_node_info, 'timeout', timeout_sec));
END
$$;

CREATE OR REPLACE PROCEDURE spock.health_check(
    src_node_name text, src_dsn text, new_node_name text DEFAULT NULL, new_node_dsn text DEFAULT NULL,
    check_type text DEFAULT 'pre', verb boolean DEFAULT false)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgdrover.refuse_block('health_check');
    CALL pgdrover.request('health_check', pg_catalog.jsonb_build_object('src_node_name', src_node_name, 'src_dsn', src_dsn,
        'new_node_name', new_node_name, 'new_node_dsn', new_node_dsn, 'check_type', check_type, 'verb', verb));
END
$$;

CREATE OR REPLACE PROCEDURE spock.remove_node(target_node_name text, target_node_dsn text, verbose_mode boolean DEFAULT true)
LANGUAGE plpgsql AS $$
DECLARE
    here pg_catalog.text := (SELECT n.node_name FROM spock.local_node l JOIN spock.node n ON n.node_id = l.node_id);
BEGIN
    PERFORM pgdrover.refuse_block('remove_node');
    -- A removal that ended early may have dropped the node here, and not yet on the others.
    IF here IS DISTINCT FROM target_node_name AND NOT (here IS NULL AND EXISTS (
        SELECT FROM spock.pgdrover_run r WHERE r.kind = 'remove_node' AND r.target = target_node_name AND r.state <> 'done')) THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
            'remove_node must be run on the node being removed: this is %s, not %s', coalesce(here, 'no node'), target_node_name),
            HINT = pg_catalog.format('CALL pgdrover.remove_node(%L) does it from here.', target_node_name);
    END IF;
    CALL pgdrover.request('remove_node', pg_catalog.jsonb_build_object('target_node_name', target_node_name,
        'target_node_dsn', target_node_dsn, 'verb', verbose_mode));
END
$$;

CREATE OR REPLACE PROCEDURE spock.detach_node(target_node_name text, target_node_dsn text, verbose_mode boolean DEFAULT true)
LANGUAGE plpgsql AS $$
BEGIN
    CALL spock.remove_node(target_node_name, target_node_dsn, verbose_mode);
END
$$;

-- From a node that stays; the other one may be dead or half added.
CREATE OR REPLACE PROCEDURE pgdrover.remove_node(target_node_name text)
LANGUAGE plpgsql AS $$
DECLARE
    here pg_catalog.text := (SELECT i.if_dsn FROM spock.local_node l JOIN spock.node_interface i ON i.if_id = l.node_local_interface);
    there pg_catalog.text := (SELECT i.if_dsn FROM spock.node n JOIN spock.node_interface i ON i.if_nodeid = n.node_id
                    WHERE n.node_name = target_node_name ORDER BY i.if_name LIMIT 1);
BEGIN
    PERFORM pgdrover.refuse_block('remove_node');
    CALL pgdrover.request('remove_node', pg_catalog.jsonb_build_object('target_node_name', target_node_name,
        'target_node_dsn', there, 'survivor_dsn', here, 'verb', true));
END
$$;

-- Runs a statement on another node and gives its one text. For the procedures below.
CREATE OR REPLACE FUNCTION pgdrover.on_node(dsn text, query text)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer pg_catalog.text;
BEGIN
    IF NOT pgdrover.can_ask_peers() THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'other nodes cannot be asked from here',
            HINT = 'Call it as superuser, on a server that has the library dblink.';
    END IF;
    PERFORM pgdrover.peer_open('pgdrover_zodan', dsn, 'pgdrover zodan');
    SELECT q INTO answer FROM pgdrover.peer_query('pgdrover_zodan', query) q;
    PERFORM pgdrover.peer_close('pgdrover_zodan');
    RETURN answer;
EXCEPTION WHEN OTHERS THEN
    IF pgdrover.can_ask_peers() THEN
        PERFORM pgdrover.peer_close('pgdrover_zodan');
    END IF;
    RAISE;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.zodan_ok(message text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE '    OK: %', pg_catalog.rpad(message, 120);
END
$$;

CREATE OR REPLACE PROCEDURE spock.create_node(
    node_name text, dsn text, verb boolean, location text DEFAULT 'NY', country text DEFAULT 'USA', info jsonb DEFAULT '{}'::jsonb)
LANGUAGE plpgsql AS $$
BEGIN
    IF pgdrover.on_node(dsn, pg_catalog.format('SELECT pg_catalog.count(*)::text FROM spock.node n WHERE n.node_name = %L', node_name)) <> '0' THEN
        RAISE NOTICE '    - Node % already exists, skipping creation', node_name;
        RETURN;
    END IF;
    PERFORM pgdrover.on_node(dsn, pg_catalog.format('SELECT spock.node_create(%L, %L, %L, %L, %L::jsonb)::text', node_name, dsn, location,
        country, info));
    PERFORM pgdrover.zodan_ok(pg_catalog.format('Node %s created', node_name));
END
$$;

CREATE OR REPLACE PROCEDURE spock.get_spock_nodes(src_dsn text, verb boolean)
LANGUAGE plpgsql AS $$
DECLARE
    rows pg_catalog.text := pgdrover.on_node(src_dsn, 'SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(n.node_id, n.node_name, n.location, '
        'n.country, n.info, i.if_dsn) ORDER BY n.node_name), ''[]'')::text FROM spock.node n JOIN spock.node_interface i ON n.node_id = i.if_nodeid');
BEGIN
    DROP TABLE IF EXISTS temp_spock_nodes;
    CREATE TEMP TABLE temp_spock_nodes (node_id integer, node_name text, location text, country text, info text, dsn text);
    INSERT INTO temp_spock_nodes
    SELECT (e ->> 0)::integer, e ->> 1, e ->> 2, e ->> 3, e ->> 4, e ->> 5 FROM pg_catalog.jsonb_array_elements(rows::jsonb) e;
    IF verb THEN
        RAISE NOTICE '[INFO] % nodes', pg_catalog.jsonb_array_length(rows::jsonb);
    END IF;
END
$$;

CREATE OR REPLACE PROCEDURE spock.create_sub(
    node_dsn text, subscription_name text, provider_dsn text, replication_sets text, synchronize_structure boolean,
    synchronize_data boolean, forward_origins text, apply_delay interval, enabled boolean, force_text_transfer boolean, verb boolean)
LANGUAGE plpgsql AS $$
DECLARE
    skipped pg_catalog.text := '{}';
BEGIN
    IF synchronize_structure THEN
        skipped := pgdrover.on_node(node_dsn, 'SELECT coalesce(pg_catalog.array_agg(n.nspname::text), ''{}'')::text FROM pg_catalog.pg_namespace n '
            'WHERE n.nspname !~ ''^pg_'' AND n.nspname NOT IN (''information_schema'', ''spock'', ''pgdrover'', ''public'', ''lolor'')');
    END IF;
    PERFORM pgdrover.on_node(node_dsn, pg_catalog.format('SELECT spock.sub_create(subscription_name := %L, provider_dsn := %L, '
        'replication_sets := %s, synchronize_structure := %L, synchronize_data := %L, forward_origins := %s, apply_delay := %L, '
        'enabled := %L, force_text_transfer := %L, skip_schema := %L::text[])::text', subscription_name, provider_dsn,
        CASE WHEN replication_sets ~* E'^array\\[' THEN replication_sets || '::text[]' ELSE pg_catalog.quote_literal(replication_sets) || '::text[]' END,
        synchronize_structure, synchronize_data,
        CASE WHEN forward_origins ~* E'^array\\[' THEN forward_origins || '::text[]' ELSE pg_catalog.quote_literal(forward_origins) || '::text[]' END,
        apply_delay, enabled, force_text_transfer, skipped));
    PERFORM pgdrover.zodan_ok(pg_catalog.format('Subscription %s created', subscription_name));
END
$$;

CREATE OR REPLACE PROCEDURE spock.enable_sub(node_dsn text, sub_name text, verb boolean, immediate boolean DEFAULT true)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgdrover.on_node(node_dsn, pg_catalog.format('SELECT spock.sub_enable(%L, %L)::text', sub_name, immediate));
    PERFORM pgdrover.zodan_ok(pg_catalog.format('Subscription %s enabled', sub_name));
END
$$;

CREATE OR REPLACE PROCEDURE spock.create_replication_slot(node_dsn text, slot_name text, verb boolean, plugin text DEFAULT 'spock_output')
LANGUAGE plpgsql AS $$
BEGIN
    IF pgdrover.on_node(node_dsn, pg_catalog.format('SELECT pg_catalog.count(*)::text FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = %L',
            slot_name)) <> '0' THEN
        RAISE NOTICE '    - Replication slot % already exists, skipping creation', slot_name;
        RETURN;
    END IF;
    -- Where there is no library of that name, the engine's own plugin is meant.
    BEGIN
        PERFORM pgdrover.on_node(node_dsn, pg_catalog.format('SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot(%L, %L)', slot_name, plugin));
    EXCEPTION WHEN undefined_file OR insufficient_privilege OR invalid_parameter_value THEN
        IF plugin <> 'spock_output' THEN
            RAISE;
        END IF;
        PERFORM pgdrover.on_node(node_dsn, pg_catalog.format('SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot(%L, %L)', slot_name, 'pgoutput'));
    END;
    PERFORM pgdrover.zodan_ok(pg_catalog.format('Replication slot %s created', slot_name));
END
$$;

CREATE OR REPLACE PROCEDURE spock.sync_event(node_dsn text, verb boolean, INOUT sync_lsn pg_lsn DEFAULT NULL)
LANGUAGE plpgsql AS $$
BEGIN
    sync_lsn := pgdrover.on_node(node_dsn, 'SELECT spock.sync_event()::text')::pg_lsn;
    IF verb THEN
        RAISE NOTICE '[INFO] Sync event at %', sync_lsn;
    END IF;
END
$$;

CREATE OR REPLACE PROCEDURE spock.get_commit_timestamp(node_dsn text, n1 text, n2 text, verb boolean, INOUT commit_ts timestamp DEFAULT NULL)
LANGUAGE plpgsql AS $$
BEGIN
    commit_ts := pgdrover.on_node(node_dsn, pg_catalog.format(
        'SELECT (commit_timestamp AT TIME ZONE %L)::text FROM spock.lag_tracker WHERE origin_name = %L AND receiver_name = %L',
        pg_catalog.current_setting('TimeZone'), n1, n2))::timestamp;
END
$$;

CREATE OR REPLACE PROCEDURE spock.advance_replication_slot(node_dsn text, slot_name text, sync_timestamp timestamp, verb boolean)
LANGUAGE plpgsql AS $$
DECLARE
    target pg_catalog.pg_lsn;
BEGIN
    IF sync_timestamp IS NULL THEN
        RAISE NOTICE '    - No commit timestamp, slot % stays', slot_name;
        RETURN;
    END IF;
    target := pgdrover.on_node(node_dsn, pg_catalog.format('SELECT spock.get_lsn_from_commit_ts(%L, %L::timestamptz)::text', slot_name,
        sync_timestamp::timestamptz::text))::pg_lsn;
    IF target IS NULL OR target <= pgdrover.on_node(node_dsn, pg_catalog.format(
            'SELECT confirmed_flush_lsn::text FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = %L', slot_name))::pg_lsn THEN
        RAISE NOTICE '    - Slot % is there already', slot_name;
        RETURN;
    END IF;
    PERFORM pgdrover.on_node(node_dsn, pg_catalog.format('SELECT end_lsn::text FROM pg_catalog.pg_replication_slot_advance(%L, %L)', slot_name, target));
    PERFORM pgdrover.zodan_ok(pg_catalog.format('Slot %s advanced to %s', slot_name, target));
END
$$;

-- All of them act with the caller's own rights, and are nobody's by default.
DO $$
DECLARE
    p pg_catalog.record;
BEGIN
    FOR p IN SELECT f.oid::regprocedure AS name FROM pg_catalog.pg_proc f
              WHERE f.pronamespace IN ('spock'::regnamespace, 'pgdrover'::regnamespace) AND f.prokind = 'p'
                AND f.proname <> 'wait_for_sync_event' LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON PROCEDURE %s FROM PUBLIC', p.name);
    END LOOP;
END
$$;

-- Marks in the stream, positions, and waiting for them.

-- Four bytes, the lowest first.
CREATE OR REPLACE FUNCTION pgdrover.le32(n int8)
RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_catalog.decode(pgdrover.little_endian(n), 'hex')
$$;

CREATE OR REPLACE FUNCTION spock.repair_mode(enabled boolean)
RETURNS pg_lsn LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.set_config('spock.replication_repair_mode', CASE WHEN enabled THEN 'on' ELSE 'off' END, true);
    RETURN pg_catalog.pg_logical_emit_message(true, 'Spock', pgdrover.le32(CASE WHEN enabled THEN 1 ELSE 2 END));
END
$$;

CREATE OR REPLACE FUNCTION spock.sync_event(transactional boolean = false)
RETURNS pg_lsn LANGUAGE plpgsql STRICT AS $$
DECLARE
    node pg_catalog.oid := pgdrover.known_local_node();
    node_name pg_catalog.bytea;
BEGIN
    SELECT pg_catalog.convert_to(n.node_name::text, pg_catalog.getdatabaseencoding()::name) INTO node_name
      FROM spock.node n WHERE n.node_id = node;
    -- With a transaction id the commit flushes, and the message before it.
    PERFORM pg_catalog.pg_current_xact_id();
    RETURN pg_catalog.pg_logical_emit_message(transactional, 'Spock', pgdrover.le32(3) || pgdrover.le32(node::int8) || node_name
        || pg_catalog.decode(pg_catalog.repeat('00', 64 - pg_catalog.octet_length(node_name)), 'hex'));
END
$$;

-- Whether these subscriptions have brought all that their provider had committed up to that position. A stream leaves out what
-- comes for a table that waits for its copy; the copy has it, and all that came until it was made. The position is read before
-- the tables are: a table that is to be copied is entered by what moves the position.
CREATE OR REPLACE FUNCTION pgdrover.have_reached(subs oid[], goal pg_lsn)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    reached boolean;
BEGIN
    SELECT pg_catalog.bool_and(coalesce((SELECT pg_catalog.max(o.remote_lsn) FROM pg_catalog.pg_replication_origin_status o
                                          WHERE o.external_id = k.sub_slot_name::text) >= goal, false))
      INTO reached FROM spock.subscription k WHERE k.sub_id = ANY (subs);
    RETURN coalesce(reached, false)
       AND NOT EXISTS (SELECT FROM spock.local_sync_status y WHERE y.sync_subid = ANY (subs) AND y.sync_status NOT IN ('r', 'y'))
       AND NOT EXISTS (SELECT FROM spock.pgdrover_subscription p WHERE p.sub_id = ANY (subs) AND p.sync_requested);
END
$$;

CREATE OR REPLACE PROCEDURE spock.wait_for_sync_event(
    OUT result boolean, origin_id oid, lsn pg_lsn, timeout integer = 0, wait_if_disabled boolean = false)
LANGUAGE plpgsql AS $$
DECLARE
    target pg_catalog.oid;
    enabled pg_catalog.oid[];
    disabled pg_catalog.oid[];
    began pg_catalog.timestamptz := pg_catalog.clock_timestamp();
BEGIN
    IF origin_id IS NULL THEN
        RAISE EXCEPTION 'Invalid NULL origin_id';
    END IF;
    target := pgdrover.known_local_node();
    LOOP
        SELECT pg_catalog.array_agg(k.sub_id) FILTER (WHERE k.sub_enabled), pg_catalog.array_agg(k.sub_id) FILTER (WHERE NOT k.sub_enabled)
          INTO enabled, disabled FROM spock.subscription k WHERE k.sub_origin = origin_id AND k.sub_target = target;
        IF enabled IS NULL AND NOT wait_if_disabled THEN
            IF disabled IS NULL THEN
                RAISE EXCEPTION 'No subscription found for replication % => %', origin_id, target;
            END IF;
            RAISE EXCEPTION 'Subscription % => % has been disabled', origin_id, target;
        END IF;
        IF pgdrover.have_reached(coalesce(enabled, disabled), lsn) THEN
            result := true;
            RETURN;
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

CREATE OR REPLACE PROCEDURE spock.wait_for_sync_event(
    OUT result boolean, origin name, lsn pg_lsn, timeout integer = 0, wait_if_disabled boolean = false)
LANGUAGE plpgsql AS $$
DECLARE
    id pg_catalog.oid := (SELECT n.node_id FROM spock.node n WHERE n.node_name = origin);
BEGIN
    IF id IS NULL THEN
        RAISE EXCEPTION 'Origin node ''%'' not found', origin;
    END IF;
    CALL spock.wait_for_sync_event(result, id, lsn, timeout, wait_if_disabled);
END
$$;

CREATE OR REPLACE FUNCTION spock.wait_slot_confirm_lsn(slotname name, target pg_lsn)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    goal pg_catalog.pg_lsn := coalesce(target, pg_catalog.pg_current_wal_insert_lsn());
    confirmed pg_catalog.pg_lsn;
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
    CREATE OR REPLACE FUNCTION pgdrover.wal_records(
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
CREATE OR REPLACE FUNCTION spock.get_lsn_from_commit_ts(slot_name name, commit_ts timestamptz)
RETURNS pg_lsn LANGUAGE plpgsql STRICT AS $$
DECLARE
    s pg_catalog.record;
    r pg_catalog.record;
    answer pg_catalog.pg_lsn;
BEGIN
    SELECT p.slot_type, p.restart_lsn, p.confirmed_flush_lsn, p.active_pid, p.wal_status INTO s FROM pg_catalog.pg_replication_slots p
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
    -- A slot cannot go back: what is found before this position would be refused as a target.
    answer := s.confirmed_flush_lsn;
    IF pg_catalog.to_regprocedure('pgdrover.wal_records(pg_lsn,pg_lsn)') IS NOT NULL
       AND s.restart_lsn < pg_catalog.pg_current_wal_flush_lsn() THEN
        FOR r IN EXECUTE 'SELECT w.end_lsn, c."timestamp", c.roident '
                         'FROM pgdrover.wal_records($1, pg_catalog.pg_current_wal_flush_lsn()) w '
                         'CROSS JOIN LATERAL pg_catalog.pg_xact_commit_timestamp_origin(w.xid) c '
                         'WHERE w.resource_manager = ''Transaction'' AND w.record_type = ''COMMIT'' AND w.xid::text <> ''0'' '
                         'ORDER BY w.start_lsn' USING s.restart_lsn LOOP
            CONTINUE WHEN r.roident IS DISTINCT FROM 0::oid;
            EXIT WHEN r."timestamp" > commit_ts;
            answer := greatest(answer, r.end_lsn);
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
CREATE OR REPLACE FUNCTION spock.pause_apply_workers()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    patience integer := pgdrover.setting('spock.pause_timeout')::integer;
    before pg_catalog.text := pg_catalog.current_setting('lock_timeout');
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

CREATE OR REPLACE FUNCTION spock.resume_apply_workers()
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

CREATE OR REPLACE FUNCTION spock.get_apply_worker_status(
    OUT worker_pid bigint, OUT worker_dboid integer, OUT worker_subid bigint, OUT worker_status text)
RETURNS SETOF record LANGUAGE sql STABLE AS $$
    SELECT DISTINCT ON (m[1], m[2]) a.pid::bigint, pgdrover.as_integer(m[1]::oid), m[2]::bigint, 'running'::text
      FROM pg_catalog.pg_stat_activity a
           CROSS JOIN LATERAL pg_catalog.regexp_match(a.application_name, E'^spock apply (\\d{1,10}):(\\d{1,10})$') AS m
     WHERE m IS NOT NULL ORDER BY m[1], m[2], a.backend_start
$$;

CREATE OR REPLACE FUNCTION spock.wait_for_apply_worker(p_subbid bigint, timeout integer = 0)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    began pg_catalog.timestamptz := pg_catalog.clock_timestamp();
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

CREATE OR REPLACE FUNCTION spock.terminate_active_transactions()
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
CREATE OR REPLACE FUNCTION spock.slot_enable_failover()
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    dsn pg_catalog.text := (SELECT i.if_dsn FROM spock.local_node l JOIN spock.node_interface i ON i.if_id = l.node_local_interface);
    slot pg_catalog.name;
    n integer := 0;
BEGIN
    IF pg_catalog.current_setting('server_version_num')::integer < 170000 OR dsn IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM pgdrover.peer_open('pgdrover_failover', dsn, 'pgdrover slot_enable_failover', true);
    FOR slot IN EXECUTE 'SELECT s.slot_name FROM pg_catalog.pg_replication_slots s '
                        'WHERE s.slot_type = ''logical'' AND s.database = pg_catalog.current_database() '
                        'AND s.slot_name ^@ ''spk_'' AND NOT s.failover AND NOT s.temporary' LOOP
        PERFORM pgdrover.dblink_exec('pgdrover_failover', pg_catalog.format('ALTER_REPLICATION_SLOT %I ( FAILOVER )', slot));
        n := n + 1;
    END LOOP;
    PERFORM pgdrover.peer_close('pgdrover_failover');
    RETURN n;
END
$$;

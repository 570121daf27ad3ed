-- Synchronisation of tables, and waiting for it.

-- Empties a table, and that one only: tables that refer to it keep their rows, which its copy is about to have again.
CREATE OR REPLACE FUNCTION pgdrover.truncate_locally(nsp name, rel name)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    role pg_catalog.text := pg_catalog.current_setting('session_replication_role');
BEGIN
    -- Nobody else is to empty theirs. Nor is it a delete of rows, which older inserts of other nodes would lose against.
    PERFORM spock.repair_mode(true);
    PERFORM pg_catalog.set_config('session_replication_role', 'replica', true);
    BEGIN
        EXECUTE pg_catalog.format('TRUNCATE TABLE %I.%I', nsp, rel);
    EXCEPTION WHEN feature_not_supported THEN
        -- A foreign key forbids it. To a replica it means nothing.
        EXECUTE pg_catalog.format('DELETE FROM %I.%I', nsp, rel);
    END;
    PERFORM pg_catalog.set_config('session_replication_role', role, true);
    PERFORM spock.repair_mode(false);
END
$$;

-- Tells what copies a table that it was emptied for that: what was in it can be had only from the provider.
CREATE OR REPLACE FUNCTION pgdrover.note_emptied(id oid, nsp name, rel name)
RETURNS void LANGUAGE sql AS $$
    UPDATE spock.local_sync_status y SET sync_statuslsn = pg_catalog.pg_current_wal_insert_lsn()
     WHERE y.sync_subid = id AND y.sync_nspname = nsp AND y.sync_relname = rel
$$;

-- The provider's tables of the subscribed sets: those without a row are wanted, rows of others go.
CREATE OR REPLACE FUNCTION pgdrover.sync_tables(id oid, nspnames name[], relnames name[], truncate boolean)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    t pg_catalog.record;
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
            PERFORM pgdrover.note_emptied(id, t.nsp, t.rel);
        END IF;
    END LOOP;
    UPDATE spock.pgdrover_subscription p SET sync_requested = false, sync_truncate = false
     WHERE p.sub_id = id AND p.sync_requested;
END
$$;

CREATE OR REPLACE FUNCTION spock.sub_alter_sync(subscription_name name, truncate boolean = false)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_original_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
    nspnames pg_catalog.name[];
    relnames pg_catalog.name[];
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

CREATE OR REPLACE FUNCTION spock.sub_resync_table(subscription_name name, relation regclass, truncate boolean = true)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_original_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
    readonly pg_catalog.text := pgdrover.setting('spock.readonly');
    nsp pg_catalog.name;
    rel pg_catalog.name;
    state pg_catalog."char";
BEGIN
    SELECT n.nspname, c.relname INTO nsp, rel FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = relation;
    IF pgdrover.reserved_schema(nsp) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('table %s.%s is never replicated', nsp, rel);
    END IF;
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
        -- What an earlier request has emptied stays so.
        UPDATE spock.local_sync_status y
           SET sync_status = 'i', sync_statuslsn = CASE WHEN y.sync_status = 'i' THEN y.sync_statuslsn ELSE '0/0' END
         WHERE y.sync_subid = s.sub_id AND y.sync_nspname = nsp AND y.sync_relname = rel;
    END IF;
    IF truncate THEN
        PERFORM pgdrover.truncate_locally(nsp, rel);
        PERFORM pgdrover.note_emptied(s.sub_id, nsp, rel);
    END IF;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.sync_status_text(letter "char")
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE letter WHEN 'i' THEN 'sync_init' WHEN 's' THEN 'sync_structure' WHEN 'd' THEN 'sync_data'
                       WHEN 'c' THEN 'sync_constraints' WHEN 'w' THEN 'sync_waiting' WHEN 'u' THEN 'catchup'
                       WHEN 'y' THEN 'synchronized' WHEN 'r' THEN 'replicating' ELSE 'unknown' END
$$;

CREATE OR REPLACE FUNCTION spock.sub_show_table(
    subscription_name name, relation regclass, OUT nspname text, OUT relname text, OUT status text)
RETURNS record LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    node pg_catalog.oid := pgdrover.known_local_node();
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

CREATE OR REPLACE FUNCTION pgdrover.refuse_fixed_snapshot()
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'cannot wait for sync in REPEATABLE READ or SERIALIZABLE isolation';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION spock.sub_wait_for_sync(subscription_name name)
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

CREATE OR REPLACE FUNCTION spock.table_wait_for_sync(subscription_name name, relation regclass)
RETURNS void LANGUAGE plpgsql STRICT AS $$
DECLARE
    s spock.subscription;
    nsp pg_catalog.name;
    rel pg_catalog.name;
    state pg_catalog."char";
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

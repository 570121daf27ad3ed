-- Subscriptions. SQL stores what is wanted, after it has asked the provider whether that can be; the engine does it.

CREATE OR REPLACE FUNCTION pgdrover.find_subscription(wanted name)
RETURNS spock.subscription LANGUAGE plpgsql STABLE AS $$
DECLARE
    s spock.subscription;
BEGIN
    SELECT * INTO s FROM spock.subscription k WHERE k.sub_name = wanted;
    IF s.sub_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('subscriber %s not found', wanted);
    END IF;
    RETURN s;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.check_subscription_name(sub_name text)
RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF sub_name = '' THEN
        RAISE EXCEPTION USING ERRCODE = '42602', MESSAGE = pg_catalog.format('subscription name "%s" is too short', sub_name);
    ELSIF pg_catalog.octet_length(sub_name) > 63 THEN
        RAISE EXCEPTION USING ERRCODE = '42622', MESSAGE = pg_catalog.format('subscription name "%s" is too long', sub_name);
    ELSIF sub_name !~ '^[a-z0-9_]+$' THEN
        RAISE EXCEPTION USING ERRCODE = '42602',
            MESSAGE = pg_catalog.format('subscription name "%s" contains invalid character', sub_name),
            HINT = 'Subscription names may only contain lower case letters, numbers, and the underscore character.';
    END IF;
END
$$;

-- Whether a session of the engine works for this subscription: it holds the subscription's lock.
CREATE OR REPLACE FUNCTION pgdrover.worker_runs(id oid)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l
                    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 727400011 AND l.objid = id AND l.objsubid = 2
                      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
$$;

-- Asks the provider, and refuses what could not work. Gives the answer of node_info there; NULL when peers cannot be
-- asked from here.
CREATE OR REPLACE FUNCTION pgdrover.ask_provider(subscription_name name, provider_dsn text, local_dsn text, slot name, enabled boolean)
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    app pg_catalog.text := pgdrover.short_name(subscription_name) || '_create';
    answer pg_catalog.jsonb;
    facts pg_catalog.jsonb;
BEGIN
    IF NOT pgdrover.can_ask_peers() THEN
        RETURN NULL;
    END IF;
    PERFORM pgdrover.peer_open('pgdrover_create', provider_dsn, app);
    BEGIN
        SELECT q::jsonb INTO answer FROM pgdrover.peer_query('pgdrover_create',
            'SELECT pg_catalog.row_to_json(i)::text FROM spock.node_info() i') q;
    EXCEPTION WHEN OTHERS THEN
        PERFORM pgdrover.peer_close('pgdrover_create');
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('could not fetch remote node info: %s', SQLERRM);
    END;
    SELECT q::jsonb INTO facts FROM pgdrover.peer_query('pgdrover_create', pg_catalog.format(
        'SELECT pg_catalog.json_build_object(''wal_level'', pg_catalog.current_setting(''wal_level''), '
        '''stamps'', pg_catalog.current_setting(''track_commit_timestamp''), '
        '''encoding'', pg_catalog.current_setting(''server_encoding''), ''standby'', pg_catalog.pg_is_in_recovery(), '
        '''slot'', (SELECT pg_catalog.to_json(s) FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = %L))::text', slot)) q;
    PERFORM pgdrover.peer_close('pgdrover_create');
    PERFORM pgdrover.peer_open('pgdrover_create', provider_dsn, app, true);
    PERFORM pgdrover.peer_close('pgdrover_create');
    PERFORM pgdrover.peer_open('pgdrover_create', local_dsn, app);
    PERFORM pgdrover.peer_close('pgdrover_create');
    PERFORM pgdrover.check_provider(answer, facts, enabled);
    RETURN answer;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.check_provider(answer jsonb, facts jsonb, enabled boolean)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    provider pg_catalog.text := answer ->> 'node_name';
    slot pg_catalog.jsonb := facts -> 'slot';
BEGIN
    IF answer ->> 'sysid' = (SELECT c.system_identifier::text FROM pg_catalog.pg_control_system() c)
       AND answer ->> 'dbname' = pg_catalog.current_database() AND (answer ->> 'node_id')::oid = pgdrover.local_node_id() THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('node "%s" cannot subscribe to itself', provider),
            HINT = 'provider_dsn must lead to another node.';
    END IF;
    IF (facts ->> 'standby')::boolean THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
            'node "%s" cannot be a provider: its server is a standby', provider),
            HINT = 'provider_dsn must lead to the primary; it may name several hosts, with target_session_attrs=read-write.';
    END IF;
    IF facts ->> 'wal_level' <> 'logical' THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
            'node "%s" cannot be a provider: its wal_level is %s', provider, facts ->> 'wal_level'),
            HINT = 'Set wal_level = logical there and restart that server.';
    END IF;
    IF facts ->> 'stamps' <> 'on' THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
            'node "%s" cannot be a provider: its track_commit_timestamp is off', provider),
            HINT = 'Set track_commit_timestamp = on there and restart that server.';
    END IF;
    IF facts ->> 'encoding' <> pg_catalog.current_setting('server_encoding') THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
            'node "%s" cannot be a provider: its encoding is %s, here it is %s', provider, facts ->> 'encoding',
            pg_catalog.current_setting('server_encoding'));
    END IF;
    IF slot ->> 'slot_name' IS NOT NULL AND (slot ->> 'database') IS DISTINCT FROM (answer ->> 'dbname') THEN
        RAISE EXCEPTION USING ERRCODE = '42710', MESSAGE = pg_catalog.format(
            'replication slot "%s" of node "%s" is somebody else''s', slot ->> 'slot_name', provider),
            DETAIL = coalesce('It belongs to database "' || (slot ->> 'database') || '".', 'It is a physical slot.'),
            HINT = 'Give the subscription another name, or drop the slot if nobody needs it.';
    END IF;
    IF enabled AND (slot ->> 'active')::boolean THEN
        RAISE EXCEPTION USING ERRCODE = '55006', MESSAGE = pg_catalog.format(
            'replication slot "%s" is active for PID %s', slot ->> 'slot_name', slot ->> 'active_pid'),
            DETAIL = pg_catalog.format('It is a slot of node "%s".', provider);
    END IF;
    IF NOT enabled AND slot ->> 'wal_status' = 'lost' THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
            'replication slot "%s" of node "%s" has lost the WAL that it needs', slot ->> 'slot_name', provider),
            HINT = 'Drop the slot and create it again.';
    END IF;
END
$$;

-- The provider's node and interface rows. A node that is known already must be known under this very string.
CREATE OR REPLACE FUNCTION pgdrover.learn_provider(answer jsonb, dsn text)
RETURNS spock.node_interface LANGUAGE plpgsql AS $$
DECLARE
    node pg_catalog.oid := (answer ->> 'node_id')::oid;
    provider pg_catalog.name := answer ->> 'node_name';
    i spock.node_interface;
    other spock.node_interface;
BEGIN
    SELECT * INTO i FROM spock.node_interface k WHERE k.if_nodeid = node AND k.if_dsn = dsn ORDER BY k.if_name LIMIT 1;
    IF i.if_id IS NOT NULL THEN
        RETURN i;
    END IF;
    SELECT * INTO other FROM spock.node_interface k WHERE k.if_nodeid = node ORDER BY k.if_name LIMIT 1;
    IF other.if_id IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'dsn "%s" points to existing node "%s" with different dsn "%s"', pgdrover.masked(dsn), provider,
            pgdrover.masked(other.if_dsn));
    END IF;
    PERFORM pgdrover.check_node_id(node, provider);
    IF NOT EXISTS (SELECT FROM spock.node k WHERE k.node_id = node) THEN
        -- Of an earlier one of this name others may have told us meanwhile.
        DELETE FROM spock.pgdrover_vector v WHERE node IN (v.provider_id, v.origin_id);
    END IF;
    INSERT INTO spock.node (node_id, node_name, location, country, info)
    SELECT node, provider, answer ->> 'location', answer ->> 'country', nullif(answer -> 'info', 'null')
     WHERE NOT EXISTS (SELECT FROM spock.node k WHERE k.node_id = node);
    INSERT INTO spock.node_interface (if_id, if_name, if_nodeid, if_dsn)
    VALUES (pgdrover.member_id(node, provider), provider, node, dsn) RETURNING * INTO i;
    RETURN i;
END
$$;

CREATE OR REPLACE FUNCTION spock.sub_create(
    subscription_name name, provider_dsn text, replication_sets text[] = '{default,default_insert_only,ddl_sql}',
    synchronize_structure boolean = false, synchronize_data boolean = false, forward_origins text[] = '{}',
    apply_delay interval = '0', force_text_transfer boolean = false, enabled boolean = true, skip_schema text[] = '{}')
RETURNS oid LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_original_node();
    local_dsn pg_catalog.text := (SELECT i.if_dsn FROM spock.node_interface i WHERE i.if_id = l.node_local_interface);
    id pg_catalog.oid := pgdrover.subscription_id(subscription_name);
    answer pg_catalog.jsonb;
    provider spock.node_interface;
    slot pg_catalog.name;
BEGIN
    PERFORM pgdrover.check_length(subscription_name, 'subscription');
    PERFORM pgdrover.check_subscription_name(subscription_name::text);
    PERFORM pgdrover.check_list('replication_sets', replication_sets), pgdrover.check_list('forward_origins', forward_origins),
            pgdrover.check_list('skip_schema', skip_schema);
    IF NOT forward_origins <@ ARRAY['all'] THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'option "forward_origins" may only contain "all"';
    END IF;
    IF apply_delay < '0' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'apply_delay must not be negative';
    END IF;
    IF NOT enabled AND (synchronize_structure OR synchronize_data) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'subscription "%s" in disabled state is not allowed to synchronize structure or data', subscription_name);
    END IF;
    IF pg_catalog.current_setting('track_commit_timestamp') <> 'on' THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'this node cannot subscribe: its track_commit_timestamp is off',
            HINT = 'Set track_commit_timestamp = on and restart this server.';
    END IF;
    IF EXISTS (SELECT FROM spock.subscription s WHERE s.sub_name = subscription_name OR s.sub_id = id) THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('subscription %s already exists', subscription_name);
    END IF;
    -- The slot's name needs the provider's; the first question is whether there is one.
    answer := pgdrover.ask_provider(subscription_name, provider_dsn, local_dsn, '', enabled);
    IF answer IS NULL THEN
        RETURN pgdrover.store_pending(l, subscription_name, provider_dsn, replication_sets, synchronize_structure,
            synchronize_data, forward_origins, apply_delay, force_text_transfer, enabled, skip_schema);
    END IF;
    slot := spock.spock_gen_slot_name(pg_catalog.current_database(), (answer ->> 'node_name')::name, subscription_name);
    PERFORM pgdrover.check_slot(provider_dsn, subscription_name, slot, answer, enabled);
    provider := pgdrover.learn_provider(answer, provider_dsn);
    PERFORM pgdrover.warn_shared_sets(provider.if_nodeid, (answer ->> 'node_name'), replication_sets);
    PERFORM pgdrover.store_subscription(l, provider, subscription_name, slot, replication_sets, synchronize_structure,
        synchronize_data, forward_origins, apply_delay, force_text_transfer, enabled, skip_schema);
    PERFORM pgdrover.notice_engine(local_dsn);
    RETURN id;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.check_slot(provider_dsn text, subscription_name name, slot name, answer jsonb, enabled boolean)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    facts pg_catalog.jsonb;
BEGIN
    PERFORM pgdrover.peer_open('pgdrover_create', provider_dsn, pgdrover.short_name(subscription_name) || '_create');
    SELECT q::jsonb INTO facts FROM pgdrover.peer_query('pgdrover_create', pg_catalog.format(
        'SELECT pg_catalog.to_json(s)::text FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = %L', slot)) q;
    PERFORM pgdrover.peer_close('pgdrover_create');
    PERFORM pgdrover.check_provider(answer, pg_catalog.jsonb_build_object('slot', facts), enabled);
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.warn_shared_sets(provider oid, provider_name name, sets text[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    r pg_catalog.record;
BEGIN
    FOR r IN SELECT s.sub_name, n.name FROM spock.subscription s CROSS JOIN LATERAL pg_catalog.unnest(sets) AS n(name)
              WHERE s.sub_origin = provider AND n.name = ANY (s.sub_replication_sets) ORDER BY s.sub_name, n.name LOOP
        RAISE WARNING USING MESSAGE = pg_catalog.format(
            'existing subscription "%s" to node "%s" already subscribes to replication set "%s"', r.sub_name, provider_name, r.name);
    END LOOP;
END
$$;

-- What a worker wrote about an earlier subscription of this name while that was dropped: its sessions are replicas, for
-- which foreign keys do not hold.
CREATE OR REPLACE FUNCTION pgdrover.forget_subscription(id oid)
RETURNS void LANGUAGE sql AS $$
    DELETE FROM spock.local_sync_status y WHERE y.sync_subid = id;
    DELETE FROM spock.pgdrover_copy c WHERE c.sub_id = id;
    DELETE FROM spock.pgdrover_remote_table t WHERE t.sub_id = id;
    DELETE FROM spock.pgdrover_remote_set r WHERE r.sub_id = id;
    DELETE FROM spock.pgdrover_progress p WHERE p.sub_id = id;
    DELETE FROM spock.pgdrover_subscription p WHERE p.sub_id = id;
$$;

CREATE OR REPLACE FUNCTION pgdrover.store_subscription(
    l spock.local_node, provider spock.node_interface, subscription_name name, slot name, replication_sets text[],
    synchronize_structure boolean, synchronize_data boolean, forward_origins text[], apply_delay interval,
    force_text_transfer boolean, enabled boolean, skip_schema text[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    id pg_catalog.oid := pgdrover.subscription_id(subscription_name);
BEGIN
    INSERT INTO spock.subscription
           (sub_id, sub_name, sub_origin, sub_target, sub_origin_if, sub_target_if, sub_enabled, sub_slot_name,
            sub_replication_sets, sub_forward_origins, sub_apply_delay, sub_force_text_transfer, sub_skip_schema, sub_created_at)
    VALUES (id, subscription_name, provider.if_nodeid, l.node_id, provider.if_id, l.node_local_interface, enabled, slot,
            nullif(replication_sets, '{}'), nullif(forward_origins, '{}'), apply_delay, force_text_transfer,
            nullif(skip_schema, '{}'), pg_catalog.now());
    PERFORM pgdrover.forget_subscription(id);
    INSERT INTO spock.pgdrover_subscription (sub_id) VALUES (id);
    INSERT INTO spock.progress
           (node_id, remote_node_id, remote_commit_ts, remote_lsn, remote_insert_lsn, last_updated_ts, updated_by_decode,
            dbid, remote_commit_lsn, received_lsn)
    SELECT l.node_id, provider.if_nodeid, pg_catalog.now(), '0/0', '0/0', pg_catalog.now(), true, d.oid, '0/0', '0/0'
      FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
        ON CONFLICT DO NOTHING;
    INSERT INTO spock.local_sync_status (sync_kind, sync_subid, sync_status, sync_statuslsn)
    VALUES (CASE WHEN synchronize_structure AND synchronize_data THEN 'f' WHEN synchronize_structure THEN 's'
                 WHEN synchronize_data THEN 'd' ELSE 'i' END::"char",
            id, CASE WHEN enabled THEN 'i' ELSE 'r' END::"char", '0/0');
    -- Whoever prepares a disabled subscription moves its origin before it is enabled.
    IF NOT enabled AND provider.if_nodeid <> l.node_id THEN
        PERFORM pgdrover.origin_create(slot, provider.if_nodeid, id);
    END IF;
END
$$;

-- A subscription whose provider could not be asked: stored under a provider that stands for it until the engine knows better.
CREATE OR REPLACE FUNCTION pgdrover.store_pending(
    l spock.local_node, subscription_name name, provider_dsn text, replication_sets text[], synchronize_structure boolean,
    synchronize_data boolean, forward_origins text[], apply_delay interval, force_text_transfer boolean, enabled boolean,
    skip_schema text[])
RETURNS oid LANGUAGE plpgsql AS $$
DECLARE
    i spock.node_interface;
    id pg_catalog.oid := pgdrover.subscription_id(subscription_name);
BEGIN
    SELECT * INTO i FROM spock.node_interface k WHERE k.if_dsn = provider_dsn AND k.if_nodeid <> l.node_id
     ORDER BY k.if_name LIMIT 1;
    IF i.if_id IS NULL THEN
        INSERT INTO spock.node_interface (if_id, if_name, if_nodeid, if_dsn)
        VALUES (pgdrover.member_id(l.node_id, ('pending ' || subscription_name)::name), ('pending ' || subscription_name)::name,
                l.node_id, provider_dsn) RETURNING * INTO i;
    END IF;
    PERFORM pgdrover.store_subscription(l, i, subscription_name,
        spock.spock_gen_slot_name(pg_catalog.current_database(),
            (SELECT n.node_name FROM spock.node n WHERE n.node_id = i.if_nodeid), subscription_name),
        replication_sets, synchronize_structure, synchronize_data, forward_origins, apply_delay, force_text_transfer, enabled,
        skip_schema);
    UPDATE spock.pgdrover_subscription p SET pending = true WHERE p.sub_id = id;
    RAISE NOTICE USING MESSAGE = pg_catalog.format('subscription "%s" is stored and not yet checked', subscription_name),
        HINT = 'The engine asks the provider; sub_show_status and pgdrover spock status say what it found.';
    PERFORM pgdrover.notice_engine((SELECT k.if_dsn FROM spock.node_interface k WHERE k.if_id = l.node_local_interface));
    RETURN id;
END
$$;

-- What the engine does with a pending subscription once it has asked: the row gets its provider. Raises what sub_create would have.
CREATE OR REPLACE FUNCTION pgdrover.sub_resolve(id oid, answer jsonb)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s spock.subscription;
    old spock.node_interface;
    provider spock.node_interface;
    slot pg_catalog.name;
BEGIN
    SELECT * INTO STRICT s FROM spock.subscription k WHERE k.sub_id = id FOR UPDATE;
    SELECT * INTO STRICT old FROM spock.node_interface i WHERE i.if_id = s.sub_origin_if;
    PERFORM pgdrover.check_provider(answer, '{}', s.sub_enabled);
    provider := pgdrover.learn_provider(answer, old.if_dsn);
    slot := spock.spock_gen_slot_name(pg_catalog.current_database(), (answer ->> 'node_name')::name, s.sub_name);
    UPDATE spock.subscription k SET sub_origin = provider.if_nodeid, sub_origin_if = provider.if_id, sub_slot_name = slot
     WHERE k.sub_id = id;
    UPDATE spock.pgdrover_subscription p SET pending = false WHERE p.sub_id = id;
    DELETE FROM spock.progress p WHERE p.node_id = s.sub_target AND p.remote_node_id = s.sub_target;
    INSERT INTO spock.progress
           (node_id, remote_node_id, remote_commit_ts, remote_lsn, remote_insert_lsn, last_updated_ts, updated_by_decode)
    VALUES (s.sub_target, provider.if_nodeid, pg_catalog.now(), '0/0', '0/0', pg_catalog.now(), true) ON CONFLICT DO NOTHING;
    IF old.if_id <> provider.if_id AND old.if_nodeid = s.sub_target THEN
        DELETE FROM spock.node_interface i WHERE i.if_id = old.if_id;
    END IF;
    IF NOT s.sub_enabled THEN
        PERFORM pgdrover.origin_create(slot, provider.if_nodeid, id);
    END IF;
END
$$;

-- Waits until no session works for the subscription, and keeps it so until the end of the transaction: the engine sees
-- the waiter and lets go at the next border; one that does not is made to.
CREATE OR REPLACE FUNCTION pgdrover.stop_worker(id oid)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    before pg_catalog.text := pg_catalog.current_setting('lock_timeout');
BEGIN
    FOR attempt IN 1 .. 15 LOOP
        BEGIN
            PERFORM pg_catalog.set_config('lock_timeout', '2s', true);
            PERFORM pg_catalog.pg_advisory_xact_lock(727400011, pgdrover.as_integer(id));
            PERFORM pg_catalog.set_config('lock_timeout', before, true);
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_catalog.pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l
              WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 727400011 AND l.objid = id AND l.objsubid = 2
                AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
                AND l.pid <> pg_catalog.pg_backend_pid();
        END;
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = '55006', MESSAGE = 'the subscription''s worker does not end';
END
$$;

-- Ends whatever session applies for the subscription, now.
CREATE OR REPLACE FUNCTION pgdrover.interrupt_worker(id oid)
RETURNS void LANGUAGE sql AS $$
    SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a
     WHERE a.datname = pg_catalog.current_database()
       AND a.application_name = pg_catalog.format('spock apply %s:%s', a.datid, id)
$$;

-- Ends what a worker that has let go, or was made to, may have left: a copy has sessions of its own, which hold the
-- subscription's origins and write under them, and hears late that its worker is gone.
CREATE OR REPLACE FUNCTION pgdrover.end_sessions(id oid)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    left_over integer;
BEGIN
    FOR attempt IN 1 .. 100 LOOP
        -- What this transaction has seen of sessions before is not what there is now.
        PERFORM pg_catalog.pg_stat_clear_snapshot();
        SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(a.pid)) INTO left_over FROM pg_catalog.pg_stat_activity a
         WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
           AND a.application_name ~ pg_catalog.format('^spock (apply|sync) %s:%s($|[^0-9])', a.datid, id);
        EXIT WHEN left_over = 0;
        PERFORM pg_catalog.pg_sleep(0.1);
    END LOOP;
END
$$;

-- Retires a subscription's origins. One that a session still holds is waited for; who does not let go is named by the error.
CREATE OR REPLACE FUNCTION pgdrover.retire_origins(s spock.subscription)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    origin pg_catalog.text;
BEGIN
    FOR origin IN SELECT o.roname FROM pg_catalog.pg_replication_origin o
                   WHERE o.roname = s.sub_slot_name::text
                      OR o.roname IN (SELECT r.roname FROM spock.pgdrover_origin r WHERE r.sub_id = s.sub_id) LOOP
        FOR attempt IN 1 .. 100 LOOP
            BEGIN
                PERFORM pgdrover.origin_retire(origin);
                EXIT;
            EXCEPTION WHEN object_in_use OR undefined_object OR internal_error THEN
                -- The last two where somebody else has just dropped it.
                IF attempt = 100 THEN
                    RAISE;
                END IF;
            END;
            PERFORM pg_catalog.pg_sleep(0.1);
        END LOOP;
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION spock.sub_drop(subscription_name name, ifexists boolean = false)
RETURNS oid LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_original_node();
    s spock.subscription;
    dsn pg_catalog.text;
    pending boolean;
BEGIN
    SELECT * INTO s FROM spock.subscription k WHERE k.sub_name = subscription_name FOR UPDATE;
    IF s.sub_id IS NULL THEN
        IF ifexists THEN
            RETURN 0;
        END IF;
        s := pgdrover.find_subscription(subscription_name);
    END IF;
    PERFORM pgdrover.stop_worker(s.sub_id);
    PERFORM pgdrover.end_sessions(s.sub_id);
    SELECT i.if_dsn INTO dsn FROM spock.node_interface i WHERE i.if_id = s.sub_origin_if;
    SELECT p.pending INTO pending FROM spock.pgdrover_subscription p WHERE p.sub_id = s.sub_id;
    DELETE FROM spock.local_sync_status y WHERE y.sync_subid = s.sub_id;
    DELETE FROM spock.subscription k WHERE k.sub_id = s.sub_id;
    DELETE FROM spock.pgdrover_channel_stats c WHERE c.subid = s.sub_id;
    DELETE FROM spock.pgdrover_counter c WHERE c.sub_id = s.sub_id;
    DELETE FROM spock.pgdrover_stats_reset c WHERE c.sub_id = s.sub_id;
    IF s.sub_origin = l.node_id THEN
        DELETE FROM spock.node_interface i WHERE i.if_id = s.sub_origin_if AND i.if_id <> l.node_local_interface;
    ELSIF NOT EXISTS (SELECT FROM spock.subscription k WHERE s.sub_origin IN (k.sub_origin, k.sub_target)) THEN
        PERFORM pgdrover.remove_node_rows(s.sub_origin);
    END IF;
    PERFORM pgdrover.unwatch_unused();
    IF NOT coalesce(pending, false) THEN
        PERFORM pgdrover.retire_origins(s);
        -- At last, when nothing can fail any more: it does not come back.
        PERFORM pgdrover.drop_remote_slot(s, dsn);
    END IF;
    RETURN 1;
END
$$;

-- Drops the slot there, with those of table copies, which are temporary, ending a sender that nobody listens to any more.
CREATE OR REPLACE FUNCTION pgdrover.drop_remote_slot(s spock.subscription, dsn text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    left_over pg_catalog.text;
    predicate pg_catalog.text := pg_catalog.format('(slot_name = %L OR temporary AND slot_name ~ %L) AND database = pg_catalog.current_database()',
        s.sub_slot_name, '^' || pg_catalog.left(s.sub_slot_name::text, 54) || '_[0-9a-f]{8}$');
BEGIN
    IF NOT pgdrover.can_ask_peers() THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'peers cannot be asked from here';
    END IF;
    PERFORM pgdrover.peer_open('pgdrover_drop', dsn, pgdrover.short_name(s.sub_name) || '_cleanup');
    FOR attempt IN 1 .. 100 LOOP
        PERFORM pgdrover.peer_query('pgdrover_drop',
            'SELECT pg_catalog.pg_terminate_backend(active_pid)::text FROM pg_catalog.pg_replication_slots WHERE active AND ' || predicate);
        BEGIN
            PERFORM pgdrover.peer_query('pgdrover_drop',
                'SELECT pg_catalog.pg_drop_replication_slot(slot_name)::text FROM pg_catalog.pg_replication_slots WHERE NOT active AND '
                || predicate);
        EXCEPTION WHEN object_in_use THEN
            NULL;
        END;
        SELECT q INTO left_over FROM pgdrover.peer_query('pgdrover_drop',
            'SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE ' || predicate || ' LIMIT 1') q;
        EXIT WHEN left_over IS NULL;
        PERFORM pg_catalog.pg_sleep(0.1);
    END LOOP;
    PERFORM pgdrover.peer_close('pgdrover_drop');
    IF left_over IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55006', MESSAGE = 'the slot stays active';
    END IF;
EXCEPTION WHEN OTHERS THEN
    IF pgdrover.can_ask_peers() THEN
        PERFORM pgdrover.peer_close('pgdrover_drop');
    END IF;
    RAISE WARNING USING MESSAGE = pg_catalog.format(
        'could not drop slot "%s" on provider, you will probably have to drop it manually', s.sub_slot_name), DETAIL = SQLERRM;
END
$$;

-- Whether the caller is inside a transaction block: its transaction began before its statement.
CREATE OR REPLACE FUNCTION pgdrover.refuse_in_transaction(command text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.transaction_timestamp() <> pg_catalog.statement_timestamp() THEN
        RAISE EXCEPTION USING ERRCODE = '25001', MESSAGE = pg_catalog.format(
            '%s with immediate = true cannot be run inside a transaction block', command);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION spock.sub_enable(subscription_name name, immediate boolean = false)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_original_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
BEGIN
    IF immediate THEN
        PERFORM pgdrover.refuse_in_transaction('alter_subscription_enable');
    END IF;
    UPDATE spock.subscription k SET sub_enabled = true WHERE k.sub_id = s.sub_id;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION spock.sub_disable(subscription_name name, immediate boolean = false)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_original_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
BEGIN
    IF immediate THEN
        PERFORM pgdrover.refuse_in_transaction('alter_subscription_disable');
    END IF;
    UPDATE spock.subscription k SET sub_enabled = false WHERE k.sub_id = s.sub_id;
    IF immediate THEN
        PERFORM pgdrover.interrupt_worker(s.sub_id);
    END IF;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION spock.sub_alter_interface(subscription_name name, interface_name name)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_original_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
    id pg_catalog.oid;
BEGIN
    SELECT i.if_id INTO id FROM spock.node_interface i WHERE i.if_nodeid = s.sub_origin AND i.if_name = interface_name;
    IF id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(
            'node interface "%s" not found for nod %s', interface_name, s.sub_origin);
    END IF;
    IF id = s.sub_origin_if THEN
        RETURN false;
    END IF;
    UPDATE spock.subscription k SET sub_origin_if = id WHERE k.sub_id = s.sub_id;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION spock.sub_add_repset(subscription_name name, replication_set name)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_original_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
BEGIN
    PERFORM pgdrover.check_list('replication_sets', ARRAY[replication_set::text]);
    IF replication_set::text = ANY (s.sub_replication_sets) THEN
        RETURN false;
    END IF;
    UPDATE spock.subscription k SET sub_replication_sets = coalesce(k.sub_replication_sets, '{}') || replication_set::text
     WHERE k.sub_id = s.sub_id;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION spock.sub_remove_repset(subscription_name name, replication_set name)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_original_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
BEGIN
    IF NOT coalesce(replication_set::text = ANY (s.sub_replication_sets), false) THEN
        RETURN false;
    END IF;
    UPDATE spock.subscription k
       SET sub_replication_sets = nullif(pg_catalog.array_remove(k.sub_replication_sets, replication_set::text), '{}')
     WHERE k.sub_id = s.sub_id;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION spock.sub_alter_skiplsn(subscription_name name, lsn pg_lsn)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_original_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
BEGIN
    UPDATE spock.subscription k SET sub_skip_lsn = lsn WHERE k.sub_id = s.sub_id;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.option_texts(key text, value jsonb)
RETURNS text[] LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF pg_catalog.jsonb_typeof(value) <> 'array' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('option "%s" must be a JSON array of strings', key);
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(value) e WHERE pg_catalog.jsonb_typeof(e) <> 'string') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('option "%s" must contain only strings', key);
    END IF;
    RETURN coalesce((SELECT pg_catalog.array_agg(e) FROM pg_catalog.jsonb_array_elements_text(value) e), '{}');
END
$$;

CREATE OR REPLACE FUNCTION spock.sub_alter_options(subscription_name name, options jsonb)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_original_node();
    s spock.subscription := pgdrover.find_subscription(subscription_name);
    o pg_catalog.record;
BEGIN
    IF pg_catalog.jsonb_typeof(options) <> 'object' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'subscription options must be a JSON object';
    END IF;
    FOR o IN SELECT e.key, e.value FROM pg_catalog.jsonb_each(options) e ORDER BY e.key LOOP
        CASE o.key
            WHEN 'forward_origins' THEN
                s.sub_forward_origins := nullif(pgdrover.option_texts(o.key, o.value), '{}');
                IF NOT coalesce(s.sub_forward_origins <@ ARRAY['all'], true) THEN
                    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'option "forward_origins" may only contain "all"';
                END IF;
            WHEN 'skip_schema' THEN
                s.sub_skip_schema := nullif(pgdrover.option_texts(o.key, o.value), '{}');
            WHEN 'apply_delay' THEN
                IF pg_catalog.jsonb_typeof(o.value) <> 'string' THEN
                    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'option "apply_delay" must be a string';
                END IF;
                s.sub_apply_delay := (o.value #>> '{}')::interval;
                IF s.sub_apply_delay < '0' THEN
                    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'apply_delay must not be negative';
                END IF;
            ELSE
                RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('unknown subscription option "%s"', o.key);
        END CASE;
    END LOOP;
    UPDATE spock.subscription k
       SET sub_forward_origins = s.sub_forward_origins, sub_skip_schema = s.sub_skip_schema, sub_apply_delay = s.sub_apply_delay
     WHERE k.sub_id = s.sub_id;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.subscription_status(
    wanted name, OUT subscription_name text, OUT status text, OUT provider_node text, OUT provider_dsn text,
    OUT slot_name text, OUT replication_sets text[], OUT forward_origins text[])
RETURNS SETOF record LANGUAGE plpgsql STABLE AS $$
DECLARE
    node pg_catalog.oid := pgdrover.known_local_node();
BEGIN
    IF wanted IS NOT NULL THEN
        PERFORM pgdrover.find_subscription(wanted);
    END IF;
    RETURN QUERY
        SELECT k.sub_name::text,
               CASE WHEN pgdrover.worker_runs(k.sub_id) THEN
                         CASE WHEN y.sync_status IS NULL THEN 'unknown' WHEN y.sync_status = 'r' THEN 'replicating'
                              ELSE 'initializing' END
                    WHEN k.sub_enabled THEN 'down' ELSE 'disabled' END,
               n.node_name::text, i.if_dsn, k.sub_slot_name::text, k.sub_replication_sets, k.sub_forward_origins
          FROM spock.subscription k
          JOIN spock.node n ON n.node_id = k.sub_origin
          JOIN spock.node_interface i ON i.if_id = k.sub_origin_if
          LEFT JOIN spock.local_sync_status y
                 ON y.sync_subid = k.sub_id AND y.sync_nspname IS NULL AND y.sync_relname IS NULL
         WHERE k.sub_target = node AND (wanted IS NULL OR k.sub_name = wanted)
         ORDER BY k.sub_name;
END
$$;

-- An argument and a column of one name: only language sql allows that.
CREATE OR REPLACE FUNCTION spock.sub_show_status(
    subscription_name name = NULL, OUT subscription_name text, OUT status text, OUT provider_node text, OUT provider_dsn text,
    OUT slot_name text, OUT replication_sets text[], OUT forward_origins text[])
RETURNS SETOF record LANGUAGE sql STABLE AS $$
    SELECT * FROM pgdrover.subscription_status($1)
$$;

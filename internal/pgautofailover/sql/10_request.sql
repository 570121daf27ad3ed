-- Requests. Each one takes the locks, asks the predicates, and stores what is wanted; a decision takes it up.

CREATE OR REPLACE FUNCTION pgautofailover.decider_alive()
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l
                    WHERE l.locktype = 'advisory' AND l.classid = 727400013 AND l.objid = 1 AND l.objsubid = 2
                      AND l.granted AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
                                                       WHERE d.datname = pg_catalog.current_database()))
$$;

-- A wish of an operator is refused when nobody is there to take it up: it would come true at an unexpected time.
-- What has happened already is stored all the same.
CREATE OR REPLACE FUNCTION pgautofailover.store_intent(
    formation_id text, group_id integer, kind text, node_id bigint DEFAULT NULL, allow_data_loss boolean DEFAULT false,
    text text DEFAULT '', ghost jsonb DEFAULT NULL)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF kind NOT IN ('removed', 'registered', 'settings') AND NOT pgautofailover.decider_alive() THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = 'the monitor process is not running: nobody would take up this request',
            HINT = 'Start the monitor with `pg_autoctl run` in its data directory, then try again.';
    END IF;
    INSERT INTO pgautofailover.intent (formationid, groupid, kind, nodeid, allow_data_loss, text, ghost)
    VALUES (formation_id, group_id, store_intent.kind, node_id, store_intent.allow_data_loss, store_intent.text,
            store_intent.ghost);
    PERFORM pgautofailover.wake(formation_id, group_id);
END
$$;

-- The caller's word that acknowledged writes may be lost: guard_data_loss, switched off in this transaction.
CREATE OR REPLACE FUNCTION pgautofailover.caller_allows_data_loss()
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT NOT coalesce(nullif(pg_catalog.current_setting('pgautofailover.guard_data_loss', true), ''), 'on')::boolean
$$;

CREATE OR REPLACE FUNCTION pgautofailover.perform_failover(formation_id text DEFAULT 'default', group_id integer DEFAULT 0)
RETURNS void LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    allowed boolean := pgautofailover.caller_allows_data_loss();
BEGIN
    PERFORM pgautofailover.lock_formation(formation_id, false);
    PERFORM pgautofailover.lock_group(formation_id, group_id);
    PERFORM pgautofailover.raise_refusal(pgautofailover.check_failover(formation_id, group_id, allowed));
    IF NOT EXISTS (SELECT FROM pgautofailover.members(formation_id, group_id)) THEN
        -- Even a loss that is allowed needs a node that could take over.
        PERFORM pgautofailover.raise_refusal(pgautofailover.check_failover(formation_id, group_id, false));
    END IF;
    IF NOT allowed THEN
        PERFORM pgautofailover.raise_refusal(pgautofailover.check_coordinator(formation_id, group_id));
    END IF;
    PERFORM pgautofailover.store_intent(formation_id, group_id, 'failover', allow_data_loss => allowed);
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.lock_node_by_name(formation_id text, node_name text)
RETURNS pgautofailover.node LANGUAGE plpgsql AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.lock_node(
        (SELECT m.nodeid FROM pgautofailover.node m WHERE m.formationid = formation_id AND m.nodename = node_name),
        false);
    IF n.nodeid IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = pg_catalog.format(
            'node "%s" is not registered in formation "%s"', node_name, formation_id);
    END IF;
    RETURN n;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.perform_promotion(formation_id text, node_name text)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    allowed boolean := pgautofailover.caller_allows_data_loss();
    n pgautofailover.node;
    r pgautofailover.refusal;
BEGIN
    n := pgautofailover.lock_node_by_name(formation_id, node_name);
    r := pgautofailover.check_promotion(n, allowed);
    PERFORM pgautofailover.raise_refusal(r);
    IF r.code IS NOT NULL THEN
        RETURN false;
    END IF;
    IF NOT allowed THEN
        PERFORM pgautofailover.raise_refusal(pgautofailover.check_coordinator(n.formationid, n.groupid));
    END IF;
    PERFORM pgautofailover.store_intent(n.formationid, n.groupid, 'promotion', n.nodeid, allowed);
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.start_maintenance(node_id bigint)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.lock_node(node_id, false);
    IF n.nodeid IS NULL THEN
        RETURN false;
    END IF;
    IF n.reportedstate = 'maintenance' OR n.goalstate = 'maintenance' THEN
        RETURN true;
    END IF;
    PERFORM pgautofailover.raise_refusal(pgautofailover.check_start_maintenance(n));
    IF pgautofailover.stable(n, 'primary') THEN
        PERFORM pgautofailover.raise_refusal(pgautofailover.check_coordinator(n.formationid, n.groupid));
    END IF;
    PERFORM pgautofailover.store_intent(n.formationid, n.groupid, 'start_maintenance', n.nodeid);
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.stop_maintenance(node_id bigint)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.lock_node(node_id, false);
    IF n.nodeid IS NULL THEN
        RETURN false;
    END IF;
    PERFORM pgautofailover.raise_refusal(pgautofailover.check_stop_maintenance(n));
    PERFORM pgautofailover.store_intent(n.formationid, n.groupid, 'stop_maintenance', n.nodeid);
    RETURN true;
END
$$;

-- Forced, or when the node is gone already, the row goes here and now; the group keeps what it must know of it.
CREATE OR REPLACE FUNCTION pgautofailover.remove_locked_node(n pgautofailover.node, force boolean)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF force OR pgautofailover.stable(n, 'dropped') THEN
        DELETE FROM pgautofailover.node m WHERE m.nodeid = n.nodeid;
        PERFORM pgautofailover.notify_log(pg_catalog.format('Removing %s from formation "%s" and group %s',
            pgautofailover.node_text(n), n.formationid, n.groupid));
        PERFORM pgautofailover.store_intent(n.formationid, n.groupid, 'removed', n.nodeid,
            ghost => pg_catalog.jsonb_build_object(
                'id', n.nodeid, 'name', n.nodename, 'host', n.nodehost, 'port', n.nodeport, 'goal', n.goalstate,
                'reported', n.reportedstate, 'quorum', n.replicationquorum, 'tli', n.reportedtli,
                'lsn', n.reportedlsn));
    ELSIF n.goalstate <> 'dropped' THEN
        PERFORM pgautofailover.store_intent(n.formationid, n.groupid, 'remove', n.nodeid);
    END IF;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.remove_node(node_id bigint, force boolean DEFAULT false)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.lock_node(node_id, true);
    IF n.nodeid IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('couldn''t find node with nodeid %s', node_id);
    END IF;
    RETURN pgautofailover.remove_locked_node(n, force);
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.remove_node(node_host text, node_port integer DEFAULT 5432, force boolean DEFAULT false)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.lock_node(
        (SELECT m.nodeid FROM pgautofailover.node m WHERE m.nodehost = node_host AND m.nodeport = node_port), true);
    IF n.nodeid IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704',
            MESSAGE = format('couldn''t find node with hostname "%s" and port %s', node_host, node_port);
    END IF;
    RETURN pgautofailover.remove_locked_node(n, force);
END
$$;

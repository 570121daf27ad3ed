-- Reports.

-- Stores one report and returns the node as it is then. reached is NULL for clients that do not know goal numbers.
--
-- The usual report changes nothing: its node rests, and only the position moved. It takes the row and no other lock,
-- notifies nobody, and need not survive a crash of this server. It finds out by its own WHERE clause. Where the row was
-- changed in the same moment, the server has locked it before it sees that the clause holds no more. The row comes after
-- the locks of formation and group, so that lock has to go first, and only the end of a subtransaction lets it go.
CREATE OR REPLACE FUNCTION pgautofailover.store_report(
    formation_id text, node_id bigint, state pgautofailover.replication_state, running boolean,
    tli integer, lsn pg_lsn, sync_state text, clean boolean, streams boolean, reached bigint)
RETURNS pgautofailover.node LANGUAGE plpgsql AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    IF state IN ('single', 'wait_primary', 'primary', 'secondary', 'maintenance', 'demoted') THEN
        BEGIN
            UPDATE pgautofailover.node m
               SET reporttime = pg_catalog.now(),
                   reportedlsn = CASE WHEN lsn = '0/0' THEN m.reportedlsn ELSE lsn END,
                   walreporttime = CASE WHEN lsn = '0/0' THEN m.walreporttime ELSE pg_catalog.now() END
             WHERE m.nodeid = node_id AND m.formationid = formation_id
               AND m.goalstate = state AND m.reportedstate = state AND m.reachednumber = m.goalnumber
               AND CASE WHEN reached IS NULL THEN m.answerednumber = m.goalnumber AND NOT m.haskeptsession
                        ELSE reached = m.goalnumber END
               AND m.reportedpgisrunning = running AND (tli = 0 OR tli = m.reportedtli)
               AND m.reportedrepstate = CASE WHEN sync_state = '' THEN 'unknown' ELSE sync_state END
               AND m.reportedcleanstop = clean AND m.reportedstreaming IS NOT DISTINCT FROM streams
            RETURNING m.* INTO n;
            IF NOT FOUND THEN
                RAISE EXCEPTION USING ERRCODE = 'PGD01', MESSAGE = 'this report changes something';
            END IF;
            PERFORM pg_catalog.set_config('synchronous_commit', 'off', true);
            RETURN n;
        EXCEPTION WHEN SQLSTATE 'PGD01' THEN
            NULL;
        END;
    END IF;
    RETURN pgautofailover.store_changed_report(
        formation_id, node_id, state, running, tli, lsn, sync_state, clean, streams, reached);
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.store_changed_report(
    formation_id text, node_id bigint, state pgautofailover.replication_state, running boolean,
    tli integer, lsn pg_lsn, sync_state text, clean boolean, streams boolean, reached bigint)
RETURNS pgautofailover.node LANGUAGE plpgsql AS $$
DECLARE
    n pgautofailover.node;
    before pgautofailover.node;
BEGIN
    SELECT m.* INTO before FROM pgautofailover.node m WHERE m.nodeid = node_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704',
            MESSAGE = pg_catalog.format('couldn''t find node with nodeid %s', node_id);
    END IF;
    IF before.formationid <> formation_id THEN
        RAISE EXCEPTION USING ERRCODE = '42P17',
            MESSAGE = pg_catalog.format('node %s does not belong to formation %s', node_id, formation_id);
    END IF;
    IF sync_state NOT IN ('', 'unknown', 'sync', 'async', 'quorum', 'potential') THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = pg_catalog.format('unknown pg_stat_replication.sync_state "%s"', sync_state);
    END IF;
    before := pgautofailover.lock_node(node_id, false);
    IF before.nodeid IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = pg_catalog.format(
            'node %s was removed while node_active() was waiting for a lock', node_id);
    END IF;
    UPDATE pgautofailover.node m
       SET reportedstate = state,
           reportedpgisrunning = running,
           reportedrepstate = CASE WHEN sync_state = '' THEN 'unknown' ELSE sync_state END,
           reporttime = pg_catalog.now(),
           reportedtli = CASE WHEN tli = 0 THEN m.reportedtli ELSE tli END,
           reportedlsn = CASE WHEN lsn = '0/0' THEN m.reportedlsn ELSE lsn END,
           walreporttime = CASE WHEN lsn = '0/0' THEN m.walreporttime ELSE pg_catalog.now() END,
           statechangetime = CASE WHEN m.reportedstate = state THEN m.statechangetime ELSE pg_catalog.now() END,
           reportedcleanstop = clean,
           reportedstreaming = streams,
           -- A final report without a position is none: the one that is stored may be older than what the node acknowledged.
           -- A client without numbers has established its goal when it reports the goal that it was last given.
           reachednumber = CASE WHEN state = 'report_lsn' AND lsn = '0/0' THEN least(m.reachednumber, m.goalnumber)
                                WHEN reached IS NOT NULL THEN least(reached, m.goalnumber)
                                WHEN m.goalstate = state AND m.answerednumber = m.goalnumber THEN m.goalnumber
                                ELSE m.reachednumber END,
           answerednumber = m.goalnumber,
           haskeptsession = m.haskeptsession AND reached IS NOT NULL
     WHERE m.nodeid = node_id RETURNING m.* INTO n;
    IF n.reportedstate <> before.reportedstate THEN
        PERFORM pgautofailover.record_change(n, CASE WHEN n.goalstate = 'report_lsn'
            THEN pg_catalog.format('New state is reported by %s with LSN %s: %s',
                                   pgautofailover.node_text(n), n.reportedlsn, n.reportedstate)
            ELSE pg_catalog.format('New state is reported by %s: "%s"',
                                   pgautofailover.node_text(n), n.reportedstate) END);
    END IF;
    IF (n.reportedstate, n.reportedpgisrunning, n.reportedrepstate, n.reportedtli, n.reportedlsn, n.reportedcleanstop,
        n.reportedstreaming, n.reachednumber)
       IS DISTINCT FROM
       (before.reportedstate, before.reportedpgisrunning, before.reportedrepstate, before.reportedtli,
        before.reportedlsn, before.reportedcleanstop, before.reportedstreaming, before.reachednumber) THEN
        PERFORM pgautofailover.wake(n.formationid, n.groupid);
    END IF;
    RETURN n;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.node_active(
    IN formation_id text, IN node_id bigint, IN group_id integer,
    IN current_group_role pgautofailover.replication_state DEFAULT 'init',
    IN current_pg_is_running boolean DEFAULT true, IN current_tli integer DEFAULT 1,
    IN current_lsn pg_lsn DEFAULT '0/0', IN current_rep_state text DEFAULT '',
    OUT assigned_node_id bigint, OUT assigned_group_id integer,
    OUT assigned_group_state pgautofailover.replication_state, OUT assigned_candidate_priority integer,
    OUT assigned_replication_quorum boolean)
RETURNS record LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.store_report(formation_id, node_id, current_group_role, current_pg_is_running,
                                     current_tli, current_lsn, current_rep_state, false, NULL, NULL);
    assigned_node_id := n.nodeid;
    assigned_group_id := n.groupid;
    assigned_group_state := n.goalstate;
    assigned_candidate_priority := n.candidatepriority;
    assigned_replication_quorum := n.replicationquorum;
END
$$;

-- node_active for keepers that know more: not strict, because streaming may be unknown.
CREATE OR REPLACE FUNCTION pgautofailover.keeper_report(
    IN formation_id text, IN node_id bigint, IN group_id integer,
    IN current_group_role pgautofailover.replication_state, IN current_pg_is_running boolean,
    IN current_tli integer, IN current_lsn pg_lsn, IN current_rep_state text,
    IN clean_stop boolean, IN streaming boolean, IN reached_goal_number bigint,
    OUT assigned_node_id bigint, OUT assigned_group_id integer,
    OUT assigned_group_state pgautofailover.replication_state, OUT assigned_candidate_priority integer,
    OUT assigned_replication_quorum boolean, OUT assigned_goal_number bigint, OUT assigned_timeline integer)
RETURNS record LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.store_report(formation_id, node_id, current_group_role, current_pg_is_running, current_tli,
                                     current_lsn, current_rep_state, clean_stop, streaming,
                                     coalesce(reached_goal_number, 0));
    assigned_node_id := n.nodeid;
    assigned_group_id := n.groupid;
    assigned_group_state := n.goalstate;
    assigned_candidate_priority := n.candidatepriority;
    assigned_replication_quorum := n.replicationquorum;
    assigned_goal_number := n.goalnumber;
    -- The number of the timeline that a node on its way to be open begins, 0 for any.
    assigned_timeline := 0;
    IF n.goalstate IN ('prepare_promotion', 'stop_replication', 'wait_primary', 'single') THEN
        SELECT coalesce(max((g.value->>'tli')::integer), 0) INTO assigned_timeline
          FROM pgautofailover.group_state s, jsonb_array_elements(coalesce(s.record->'grants', '[]')) AS g
         WHERE s.formationid = n.formationid AND s.groupid = n.groupid AND (g.value->>'node')::bigint = n.nodeid;
    END IF;
END
$$;

-- Makes the caller's session the node's reporting session. Shared, so that a keeper which connects anew never waits
-- for a session of its own that this server has not yet seen end.
CREATE OR REPLACE FUNCTION pgautofailover.keep_session(node_id bigint)
RETURNS void LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pgautofailover.node n WHERE n.nodeid = node_id) THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('couldn''t find node with nodeid %s', node_id);
    END IF;
    PERFORM pg_advisory_lock_shared(727400012, (node_id & 2147483647)::integer);
    UPDATE pgautofailover.node n SET haskeptsession = true WHERE n.nodeid = node_id AND NOT n.haskeptsession;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.report_postgres_version(
    node_id bigint, pg_versionnum integer DEFAULT NULL, pg_version text DEFAULT NULL,
    pg_versionstring text DEFAULT NULL, citus_version text DEFAULT NULL)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
    UPDATE pgautofailover.node SET pg_versionnum = $2, pg_version = $3, pg_versionstring = $4, citus_version = $5
     WHERE nodeid = $1
$$;

-- A standby that was away for too long is copied again; its events shall say why it takes so long.
CREATE OR REPLACE FUNCTION pgautofailover.report_copy(node_id bigint)
RETURNS void LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
    line text;
BEGIN
    SELECT m.* INTO n FROM pgautofailover.node m WHERE m.nodeid = node_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('couldn''t find node with nodeid %s', node_id);
    END IF;
    line := format('%s copies the data directory: the primary does not hold its WAL any more',
                   initcap(left(pgautofailover.node_text(n), 1)) || substr(pgautofailover.node_text(n), 2));
    PERFORM pgautofailover.notify_log(line);
    PERFORM pgautofailover.store_event(n, line);
END
$$;

-- A node that was rewound may carry another history under the same numbers: what it says last is true, and timelines
-- that its history does not have any more are forgotten.
CREATE OR REPLACE FUNCTION pgautofailover.report_timeline_history(node_id bigint, history jsonb)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.lock_node(node_id, false);
    IF n.nodeid IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('couldn''t find node with nodeid %s', node_id);
    END IF;
    DELETE FROM pgautofailover.node_timeline_history h
     WHERE h.nodeid = node_id
       AND NOT EXISTS (SELECT FROM jsonb_to_recordset(history) AS e(tli integer, parenttli integer, switchpoint pg_lsn)
                        WHERE (e.tli, e.parenttli, e.switchpoint) = (h.tli, h.parenttli, h.switchpoint_lsn));
    INSERT INTO pgautofailover.node_timeline_history (nodeid, tli, parenttli, switchpoint_lsn)
    SELECT node_id, e.tli, e.parenttli, e.switchpoint
      FROM jsonb_to_recordset(history) AS e(tli integer, parenttli integer, switchpoint pg_lsn)
        ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM pgautofailover.wake(n.formationid, n.groupid);
    END IF;
END
$$;

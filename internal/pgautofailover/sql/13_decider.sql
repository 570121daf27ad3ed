-- For the one monitor process. Nobody else may execute these.

-- Takes the decider's lock for the session and a new number; NULL when another process has it. Transactions of the
-- holder before hold the second lock while they run, so none of them commits after the number has changed.
CREATE OR REPLACE FUNCTION pgautofailover.acquire_decider(new_holder text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    new_number bigint;
BEGIN
    IF NOT pg_catalog.pg_try_advisory_lock(727400013, 1) THEN
        RETURN NULL;
    END IF;
    PERFORM pg_catalog.pg_advisory_xact_lock(727400013, 2);
    UPDATE pgautofailover.decider d SET number = d.number + 1, holder = new_holder, since = pg_catalog.now()
    RETURNING d.number INTO new_number;
    RETURN new_number;
END
$$;

-- Begins a decision: false when the caller is not the decider any more. The number is read by a statement of its own,
-- whose snapshot is younger than the lock.
CREATE OR REPLACE FUNCTION pgautofailover.lock_for_decision(my_number bigint, formation_id text, group_id integer)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock_shared(727400013, 2);
    IF NOT EXISTS (SELECT FROM pgautofailover.decider d WHERE d.number = my_number) THEN
        RETURN false;
    END IF;
    PERFORM pgautofailover.lock_formation(formation_id, false);
    PERFORM pgautofailover.lock_group(formation_id, group_id);
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.set_node_health(node_id bigint, verdict integer)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    before pgautofailover.node;
    n pgautofailover.node;
BEGIN
    before := pgautofailover.lock_node(node_id, false);
    UPDATE pgautofailover.node m SET health = verdict, healthchecktime = pg_catalog.now()
     WHERE m.nodeid = before.nodeid RETURNING m.* INTO n;
    IF n.health = before.health OR n.nodeid IS NULL THEN
        RETURN;
    END IF;
    IF n.health >= 0 THEN
        PERFORM pgautofailover.record_change(n, pg_catalog.format('Node %s is marked as %s by the monitor',
            pgautofailover.node_text(n), CASE WHEN n.health = 0 THEN 'unhealthy' ELSE 'healthy' END));
    END IF;
    PERFORM pgautofailover.wake(n.formationid, n.groupid);
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.testing_set_node_health(
    node_id bigint, health integer, health_check_age interval, report_age interval, state_change_age interval)
RETURNS void LANGUAGE sql AS $$
    UPDATE pgautofailover.node
       SET health = $2, healthchecktime = pg_catalog.now() - $3, reporttime = pg_catalog.now() - $4,
           statechangetime = pg_catalog.now() - $5
     WHERE nodeid = $1
$$;

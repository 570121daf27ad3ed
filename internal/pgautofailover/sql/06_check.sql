-- Predicates: what is refused, and why. They read and never write; a test compares them with fsm.CheckIntent.
-- A refusal whose code is NULL refuses nothing; WARNING and NOTICE let the call go on.

CREATE OR REPLACE FUNCTION pgautofailover.refuse(
    code text, message text, detail text DEFAULT NULL, hint text DEFAULT NULL, severity text DEFAULT 'ERROR')
RETURNS pgautofailover.refusal LANGUAGE sql AS $$
    SELECT ROW(severity, code, message, detail, hint)::pgautofailover.refusal
$$;

-- The members of a group: all nodes but those being dropped.
CREATE OR REPLACE FUNCTION pgautofailover.members(formation_id text, group_id integer)
RETURNS SETOF pgautofailover.node LANGUAGE sql STABLE AS $$
    SELECT n.* FROM pgautofailover.node n
     WHERE n.formationid = formation_id AND n.groupid = group_id AND n.goalstate <> 'dropped' ORDER BY n.nodeid
$$;

CREATE OR REPLACE FUNCTION pgautofailover.is_writable(state pgautofailover.replication_state)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT state IN ('single', 'wait_primary', 'primary', 'join_primary', 'apply_settings')
$$;

CREATE OR REPLACE FUNCTION pgautofailover.belongs_to_primary(state pgautofailover.replication_state)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT state IN ('single', 'wait_primary', 'primary', 'join_primary', 'apply_settings',
                     'draining', 'demote_timeout', 'prepare_maintenance')
$$;

-- The node reports the goal that it has.
CREATE OR REPLACE FUNCTION pgautofailover.converged(n pgautofailover.node)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT n.reportedstate = n.goalstate
$$;

CREATE OR REPLACE FUNCTION pgautofailover.stable(n pgautofailover.node, state pgautofailover.replication_state)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT n.goalstate = state AND n.reportedstate = state
$$;

CREATE OR REPLACE FUNCTION pgautofailover.being_promoted(n pgautofailover.node)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT n.goalstate IN ('fast_forward', 'prepare_promotion', 'stop_replication')
       AND n.reportedstate IN ('report_lsn', 'fast_forward', 'prepare_promotion', 'stop_replication', 'secondary')
$$;

CREATE OR REPLACE FUNCTION pgautofailover.healthy(n pgautofailover.node)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(n.reportedpgisrunning, true) AND n.health <> 0
$$;

-- The node that takes writes or is ordered to.
CREATE OR REPLACE FUNCTION pgautofailover.writable_node(formation_id text, group_id integer)
RETURNS pgautofailover.node LANGUAGE sql STABLE AS $$
    SELECT n FROM pgautofailover.members(formation_id, group_id) n
     WHERE pgautofailover.is_writable(n.goalstate) ORDER BY n.nodeid LIMIT 1
$$;

CREATE OR REPLACE FUNCTION pgautofailover.no_primary(formation_id text, group_id integer)
RETURNS pgautofailover.refusal LANGUAGE sql STABLE AS $$
    SELECT pgautofailover.refuse('XX000', pg_catalog.format(
        'couldn''t find the primary node in formation "%s", group %s', formation_id, group_id))
$$;

-- An operator who accepts a loss may override whatever the group waits for, and one may set a stuck election going.
CREATE OR REPLACE FUNCTION pgautofailover.check_failover(
    formation_id text, group_id integer, allow_data_loss boolean, by_name boolean DEFAULT false)
RETURNS pgautofailover.refusal LANGUAGE plpgsql STABLE AS $$
DECLARE
    node_count integer;
    p pgautofailover.node;
    s pgautofailover.node;
BEGIN
    IF allow_data_loss THEN
        RETURN NULL;
    END IF;
    SELECT pg_catalog.count(*) INTO node_count FROM pgautofailover.members(formation_id, group_id);
    IF node_count < 2 THEN
        RETURN pgautofailover.refuse('XX000', pg_catalog.format(
            'cannot fail over: group %s in formation %s currently has %s node registered',
            group_id, formation_id, node_count), 'At least 2 nodes are required to implement a failover');
    END IF;
    IF EXISTS (SELECT FROM pgautofailover.members(formation_id, group_id) n
                WHERE pgautofailover.stable(n, 'report_lsn')) THEN
        RETURN NULL;
    END IF;
    SELECT n.* INTO p FROM pgautofailover.members(formation_id, group_id) n
     WHERE pgautofailover.converged(n) AND n.goalstate IN ('single', 'primary', 'join_primary')
     ORDER BY n.nodeid LIMIT 1;
    IF NOT FOUND THEN
        RETURN pgautofailover.no_primary(formation_id, group_id);
    END IF;
    IF node_count > 2 THEN
        RETURN NULL;
    END IF;
    SELECT n.* INTO s FROM pgautofailover.members(formation_id, group_id) n WHERE n.nodeid <> p.nodeid;
    IF s.goalstate <> 'secondary' THEN
        RETURN pgautofailover.refuse('XX000', pg_catalog.format(
            'standby %s is in state "%s", which prevents the node for being a failover candidate',
            pgautofailover.node_text(s), s.goalstate));
    END IF;
    IF s.reportedstate <> 'secondary' THEN
        RETURN pgautofailover.refuse('XX000', 'cannot fail over: primary node is not in a stable state',
            pg_catalog.format('%s has reported state "%s" and is assigned state "%s", and %s has reported state "%s" '
                'and is assigned state "%s"', pgautofailover.node_text(p), p.reportedstate, p.goalstate,
                pgautofailover.node_text(s), s.reportedstate, s.goalstate),
            'a stable state must be observed to perform a manual failover');
    END IF;
    IF s.candidatepriority = 0 AND NOT by_name THEN
        RETURN pgautofailover.refuse('XX000', pg_catalog.format(
            'cannot fail over: standby %s has candidate priority set to zero', pgautofailover.node_text(s)),
            pg_catalog.format('Set a candidate priority greater than zero on %s, or promote it by name',
                              pgautofailover.node_text(s)));
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.check_promotion(n pgautofailover.node, allow_data_loss boolean)
RETURNS pgautofailover.refusal LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF pgautofailover.stable(n, 'single') OR pgautofailover.stable(n, 'primary') THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'cannot perform promotion: node %s in formation %s is already a primary.', n.nodename, n.formationid),
            severity => 'NOTICE');
    END IF;
    IF NOT (pgautofailover.stable(n, 'secondary') OR pgautofailover.stable(n, 'report_lsn')) THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'cannot perform promotion: node %s in formation %s has reported state "%s" and is assigned state "%s", '
            'promotion can only be performed when in state "secondary".',
            n.nodename, n.formationid, n.reportedstate, n.goalstate));
    END IF;
    RETURN pgautofailover.check_failover(n.formationid, n.groupid, allow_data_loss, by_name => true);
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.check_start_maintenance(n pgautofailover.node)
RETURNS pgautofailover.refusal LANGUAGE plpgsql STABLE AS $$
DECLARE
    p pgautofailover.node;
    candidates integer;
    voters integer;
    required integer;
BEGIN
    IF n.reportedstate = 'maintenance' OR n.goalstate = 'maintenance' THEN
        RETURN NULL;
    END IF;
    IF NOT pgautofailover.stable(n, 'primary') AND n.reportedstate NOT IN ('secondary', 'catchingup') THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'cannot start maintenance: node %s:%s has reported state "%s" and is assigned state "%s", '
            'expected either "primary", "secondary" or "catchingup"',
            n.nodehost, n.nodeport, n.reportedstate, n.goalstate));
    END IF;
    IF pgautofailover.stable(n, 'primary') THEN
        SELECT pg_catalog.count(*) INTO candidates FROM pgautofailover.members(n.formationid, n.groupid) s
         WHERE s.nodeid <> n.nodeid AND s.candidatepriority > 0
           AND pgautofailover.stable(s, 'secondary') AND pgautofailover.healthy(s);
        IF candidates < 1 THEN
            RETURN pgautofailover.refuse('55000', pg_catalog.format(
                'Starting maintenance on %s in state "%s" is not currently possible',
                pgautofailover.node_text(n), n.reportedstate),
                pg_catalog.format('there is currently %s candidate nodes available', candidates));
        END IF;
        RETURN NULL;
    END IF;
    p := pgautofailover.writable_node(n.formationid, n.groupid);
    IF p.nodeid IS NULL THEN
        RETURN pgautofailover.no_primary(n.formationid, n.groupid);
    END IF;
    IF NOT pgautofailover.stable(p, 'primary') THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'cannot start maintenance: current state for %s is "%s", expected "secondary" or "catchingup", '
            'and current state for primary %s is "%s" ➜ "%s" ',
            pgautofailover.node_text(n), n.reportedstate, pgautofailover.node_text(p), p.reportedstate, p.goalstate));
    END IF;
    SELECT f.number_sync_standbys INTO required FROM pgautofailover.formation f WHERE f.formationid = n.formationid;
    SELECT pg_catalog.count(*) INTO voters FROM pgautofailover.members(n.formationid, n.groupid) s
     WHERE s.nodeid <> p.nodeid AND s.replicationquorum
       AND pgautofailover.stable(s, 'secondary') AND pgautofailover.healthy(s);
    IF required > 0 AND voters <= required AND n.replicationquorum
       AND pgautofailover.stable(n, 'secondary') AND pgautofailover.healthy(n) THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'Starting maintenance on %s will block writes on the primary %s',
            pgautofailover.node_text(n), pgautofailover.node_text(p)),
            pg_catalog.format('we now have %s healthy node(s) left in the "secondary" state and formation "%s" '
                'number-sync-standbys requires %s sync standbys', voters - 1, n.formationid, required),
            severity => 'WARNING');
    END IF;
    RETURN NULL;
END
$$;

-- A planned change of the primary of a worker's group needs the coordinator, which leads writes elsewhere: begun
-- without it, the group would stop taking writes and wait. A change that is not planned does wait.
CREATE OR REPLACE FUNCTION pgautofailover.check_coordinator(formation_id text, group_id integer)
RETURNS pgautofailover.refusal LANGUAGE plpgsql STABLE AS $$
DECLARE
    c pgautofailover.node;
    p pgautofailover.node := pgautofailover.writable_node(formation_id, group_id);
BEGIN
    IF group_id = 0 OR p.nodeid IS NULL
       OR NOT EXISTS (SELECT FROM pgautofailover.formation f WHERE f.formationid = formation_id AND f.kind = 'citus') THEN
        RETURN NULL;
    END IF;
    SELECT n.* INTO c FROM pgautofailover.members(formation_id, 0) n
     WHERE n.reportedstate IN ('single', 'wait_primary', 'primary') AND n.goalstate IN ('single', 'wait_primary', 'primary')
     ORDER BY pgautofailover.healthy(n) DESC, n.nodeid LIMIT 1;
    IF c.nodeid IS NULL OR NOT pgautofailover.healthy(c) THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'cannot change the primary of group %s in formation "%s" now: the coordinator does not take writes',
            group_id, formation_id),
            CASE WHEN c.nodeid IS NOT NULL THEN pg_catalog.format('%s does not answer', pgautofailover.node_text(c))
                 ELSE 'no node of group 0 is in state "single", "wait_primary" or "primary"' END,
            'The coordinator has to lead writes to the group''s new primary. '
            'Try again once group 0 takes writes, as `pg_autoctl show state` tells.');
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.check_stop_maintenance(n pgautofailover.node)
RETURNS pgautofailover.refusal LANGUAGE plpgsql STABLE AS $$
DECLARE
    node_count integer;
BEGIN
    SELECT pg_catalog.count(*) INTO node_count FROM pgautofailover.members(n.formationid, n.groupid);
    IF pgautofailover.stable(n, 'maintenance')
       OR (node_count > 2 AND pgautofailover.stable(n, 'prepare_maintenance')) THEN
        RETURN NULL;
    END IF;
    RETURN pgautofailover.refuse('55000', pg_catalog.format(
        'cannot stop maintenance when current state for %s is not "maintenance"', pgautofailover.node_text(n)),
        pg_catalog.format('Current reported state is "%s" and assigned state is "%s"', n.reportedstate, n.goalstate));
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.check_candidate_priority(n pgautofailover.node, priority integer)
RETURNS pgautofailover.refusal LANGUAGE plpgsql STABLE AS $$
DECLARE
    p pgautofailover.node;
    electable integer;
BEGIN
    IF priority NOT BETWEEN 0 AND 100 THEN
        RETURN pgautofailover.refuse('22023', pg_catalog.format(
            'invalid value for candidate_priority "%s" expected an integer value between 0 and 100', priority));
    END IF;
    IF n.nodecluster <> 'default' AND priority <> 0 THEN
        RETURN pgautofailover.refuse('22023', 'invalid value for candidate_priority: read-replica nodes in a citus '
            'cluster must always have candidate priority set to zero');
    END IF;
    p := pgautofailover.writable_node(n.formationid, n.groupid);
    IF pgautofailover.stable(p, 'apply_settings')
       AND (SELECT pg_catalog.count(*) > 1 FROM pgautofailover.members(n.formationid, n.groupid)) THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'cannot set candidate priority when current state for primary %s is "apply_settings"',
            pgautofailover.node_text(p)));
    END IF;
    SELECT pg_catalog.count(*) INTO electable FROM pgautofailover.members(n.formationid, n.groupid) s
     WHERE s.nodeid <> n.nodeid AND s.candidatepriority <> 0;
    IF priority = 0 AND n.candidatepriority <> 0 AND electable < 2 THEN
        RETURN pgautofailover.refuse('55000', 'setting candidate priority to zero, preventing automated failover',
            pg_catalog.format('Group %s in formation "%s" have no failover candidate.', n.groupid, n.formationid),
            severity => 'NOTICE');
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.check_replication_quorum(n pgautofailover.node, quorum boolean)
RETURNS pgautofailover.refusal LANGUAGE plpgsql STABLE AS $$
DECLARE
    p pgautofailover.node;
    required integer;
    voters integer;
BEGIN
    p := pgautofailover.writable_node(n.formationid, n.groupid);
    IF NOT quorum AND p.nodeid IS NULL THEN
        RETURN pgautofailover.refuse('XX000', pg_catalog.format(
            'Couldn''t find the primary node in formation "%s", group %s', n.formationid, n.groupid));
    END IF;
    SELECT f.number_sync_standbys INTO required FROM pgautofailover.formation f WHERE f.formationid = n.formationid;
    SELECT pg_catalog.count(*) INTO voters FROM pgautofailover.members(n.formationid, n.groupid) s
     WHERE s.nodeid <> p.nodeid AND CASE WHEN s.nodeid = n.nodeid THEN quorum ELSE s.replicationquorum END;
    IF NOT quorum AND required > 0 AND voters < required + 1 THEN
        RETURN pgautofailover.refuse('22023', 'can''t set replication quorum to false', pg_catalog.format(
            'At least %s standby nodes are required in formation %s with number_sync_standbys = %s, '
            'and only %s would be participating in the replication quorum',
            required + 1, n.formationid, required, voters));
    END IF;
    IF pgautofailover.stable(p, 'apply_settings')
       AND (SELECT pg_catalog.count(*) > 1 FROM pgautofailover.members(n.formationid, n.groupid)) THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'cannot set replication quorum when current state for primary %s is "%s"',
            pgautofailover.node_text(p), p.reportedstate));
    END IF;
    RETURN NULL;
END
$$;

-- Every group is asked, not only the first. A group of its own kind is one without a standby in the quorum: there the
-- number has no effect, so it does not stand in the way, except in the only group of a pgsql formation.
CREATE OR REPLACE FUNCTION pgautofailover.check_number_sync_standbys(formation_id text, group_id integer, number integer)
RETURNS pgautofailover.refusal LANGUAGE plpgsql STABLE AS $$
DECLARE
    p pgautofailover.node;
    voters integer;
BEGIN
    p := pgautofailover.writable_node(formation_id, group_id);
    IF p.nodeid IS NULL THEN
        RETURN pgautofailover.refuse('XX000', pg_catalog.format(
            'Couldn''t find the primary node in formation "%s", group %s', formation_id, group_id));
    END IF;
    SELECT pg_catalog.count(*) INTO voters FROM pgautofailover.members(formation_id, group_id) s
     WHERE s.nodeid <> p.nodeid AND s.replicationquorum;
    IF group_id > 0 AND voters = 0 THEN
        RETURN NULL;
    END IF;
    IF NOT (pgautofailover.stable(p, 'primary') OR pgautofailover.stable(p, 'wait_primary')) THEN
        RETURN pgautofailover.refuse('55000', pg_catalog.format(
            'cannot set number_sync_standbys when current goal state for primary %s is "%s", '
            'and current reported state is "%s"', pgautofailover.node_text(p), p.goalstate, p.reportedstate),
            'The primary node so must be in state "primary" or "wait_primary" to be able to apply configuration '
            'changes to its synchronous_standby_names setting');
    END IF;
    IF number <> 0 AND number + 1 > voters THEN
        RETURN pgautofailover.refuse('22023', pg_catalog.format(
            'invalid value for number_sync_standbys: "%s"', number), pg_catalog.format(
            'At least %s standby nodes are required, and only %s are currently participating in the replication quorum',
            number + 1, voters));
    END IF;
    RETURN NULL;
END
$$;

-- A host is a name or an address: every node writes it into its access rules.
CREATE OR REPLACE FUNCTION pgautofailover.check_host(host text)
RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF host !~ '^[A-Za-z0-9._:%-]{1,253}$' OR host IN ('all', 'samehost', 'samenet') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('invalid host %L', host),
            HINT = 'A host is a name or an IP address: letters, digits, dots, hyphens, underscores and colons.';
    END IF;
END
$$;

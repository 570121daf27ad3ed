-- Settings. The setting itself is stored here; that the primary has to apply it is a decision.

-- What follows a stored setting of a node: alone in its group it is an event, else the group's primary has to hear of it.
CREATE OR REPLACE FUNCTION pgautofailover.setting_stored(n pgautofailover.node, alone_text text, intent_text text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT pg_catalog.count(*) FROM pgautofailover.members(n.formationid, n.groupid)) <= 1 THEN
        PERFORM pgautofailover.record_change(n, alone_text);
        PERFORM pgautofailover.wake(n.formationid, n.groupid);
        RETURN;
    END IF;
    PERFORM pgautofailover.store_intent(n.formationid, n.groupid, 'settings', n.nodeid, text => intent_text);
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.set_node_candidate_priority(
    formation_id text, node_name text, candidate_priority integer)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.lock_node_by_name(formation_id, node_name);
    PERFORM pgautofailover.raise_refusal(pgautofailover.check_candidate_priority(n, candidate_priority));
    UPDATE pgautofailover.node m SET candidatepriority = candidate_priority
     WHERE m.nodeid = n.nodeid RETURNING m.* INTO n;
    PERFORM pgautofailover.setting_stored(n,
        format('Updating candidate priority to %s for %s', candidate_priority, pgautofailover.node_text(n)),
        format('updating %s candidate priority to %s', pgautofailover.node_text(n), candidate_priority));
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.set_node_replication_quorum(
    formation_id text, node_name text, replication_quorum boolean)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
    word text := pgautofailover.bool_text(replication_quorum);
BEGIN
    n := pgautofailover.lock_node_by_name(formation_id, node_name);
    PERFORM pgautofailover.raise_refusal(pgautofailover.check_replication_quorum(n, replication_quorum));
    UPDATE pgautofailover.node m SET replicationquorum = replication_quorum
     WHERE m.nodeid = n.nodeid RETURNING m.* INTO n;
    PERFORM pgautofailover.setting_stored(n,
        format('Updating replicationQuorum to %s for %s', word, pgautofailover.node_text(n)),
        format('updating %s replication quorum to %s', pgautofailover.node_text(n), word));
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.set_node_region(formation_id text, node_name text, region text)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    n := pgautofailover.lock_node_by_name(formation_id, node_name);
    IF region = '' THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = 'invalid value for region: expected a non-empty string';
    END IF;
    UPDATE pgautofailover.node m SET region = set_node_region.region WHERE m.nodeid = n.nodeid;
    RETURN true;
END
$$;

-- Groups are locked in the order of their keys: with two formations at work, equal keys must not be taken crosswise.
CREATE OR REPLACE FUNCTION pgautofailover.set_formation_number_sync_standbys(formation_id text, number_sync_standbys integer)
RETURNS boolean LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    v integer := number_sync_standbys;
    g integer;
    groups integer[];
BEGIN
    PERFORM pgautofailover.lock_formation(formation_id, true);
    IF NOT EXISTS (SELECT FROM pgautofailover.formation f WHERE f.formationid = formation_id) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format('unknown formation "%s"', formation_id);
    END IF;
    IF v < 0 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', DETAIL = 'A non-negative integer is expected',
            MESSAGE = format('invalid value for number_sync_standbys: "%s"', v);
    END IF;
    SELECT array_agg(x.groupid ORDER BY pgautofailover.group_lock_key(formation_id, x.groupid)) INTO groups
      FROM (SELECT 0 AS groupid UNION SELECT n.groupid FROM pgautofailover.node n
             WHERE n.formationid = formation_id AND n.goalstate <> 'dropped') x;
    FOREACH g IN ARRAY groups LOOP
        PERFORM pgautofailover.lock_group(formation_id, g);
    END LOOP;
    SELECT array_agg(x ORDER BY x) INTO groups FROM unnest(groups) x;
    FOREACH g IN ARRAY groups LOOP
        PERFORM pgautofailover.raise_refusal(pgautofailover.check_number_sync_standbys(formation_id, g, v));
    END LOOP;
    UPDATE pgautofailover.formation f SET number_sync_standbys = v WHERE f.formationid = formation_id;
    FOREACH g IN ARRAY groups LOOP
        PERFORM pgautofailover.store_intent(formation_id, g, 'settings',
            text => format('updating number_sync_standbys to %s for formation %s', v, formation_id));
    END LOOP;
    RETURN true;
END
$$;

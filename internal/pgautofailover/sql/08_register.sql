-- Registration.

-- The group in which a node registers, as asked for or the first of a Citus formation with room for it.
CREATE OR REPLACE FUNCTION pgautofailover.choose_group(
    f pgautofailover.formation, node_host text, node_port integer, desired_group_id integer)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    room integer := CASE WHEN f.opt_secondary THEN 2 ELSE 1 END;
    candidate integer := 1;
BEGIN
    IF f.kind = 'pgsql' THEN
        IF desired_group_id > 0 THEN
            RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(
                'node %s:%s can not be registered in group %s in formation "%s" of type pgsql',
                node_host, node_port, desired_group_id, f.formationid),
                DETAIL = 'in a pgsql formation, there can be only one group, with groupId 0';
        END IF;
        RETURN 0;
    END IF;
    IF desired_group_id >= 0 THEN
        RETURN desired_group_id;
    END IF;
    WHILE (SELECT pg_catalog.count(*) >= room FROM pgautofailover.members(f.formationid, candidate)) LOOP
        candidate := candidate + 1;
    END LOOP;
    RETURN candidate;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.choose_first_goal(
    f pgautofailover.formation, group_id integer, candidate_priority integer)
RETURNS pgautofailover.replication_state LANGUAGE plpgsql AS $$
DECLARE
    answer pgautofailover.first_goal;
    -- The group's record names the node that is being promoted, from its selection to its opening.
    owned boolean := coalesce((SELECT (s.record ->> 'owner')::bigint <> 0 FROM pgautofailover.group_state s
                                WHERE s.formationid = f.formationid AND s.groupid = group_id), false);
BEGIN
    SELECT g.* INTO STRICT answer
      FROM pgautofailover.first_goal g
      JOIN (SELECT pg_catalog.count(*) = 0 AS group_empty,
                   coalesce(pg_catalog.bool_or(pgautofailover.is_writable(n.goalstate)
                                               OR pgautofailover.being_promoted(n) OR owned), false) AS primary_known,
                   coalesce(pg_catalog.bool_or(n.candidatepriority = 0
                                               AND pgautofailover.stable(n, 'report_lsn')), false) AS source_waiting
              FROM pgautofailover.members(f.formationid, group_id) n) facts
           USING (group_empty, primary_known, source_waiting)
     WHERE g.electable = (candidate_priority > 0) AND g.secondary_allowed = f.opt_secondary;
    IF answer.refusal = 'secondary_disallowed' THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = pg_catalog.format('Formation "%s" does not allow secondary nodes', f.formationid),
            HINT = 'use pg_autoctl enable secondary';
    ELSIF answer.refusal IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55006', MESSAGE = pg_catalog.format(
            'JoinAutoFailoverFormation couldn''t find the  primary node in formation "%s", group %s',
            f.formationid, group_id), HINT = 'Retry registering in a moment';
    END IF;
    RETURN answer.goal;
END
$$;

-- The name of a node that does not bring one.
CREATE OR REPLACE FUNCTION pgautofailover.default_node_name(
    f pgautofailover.formation, group_id integer, node_id bigint)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    prefix text := CASE WHEN group_id = 0 THEN 'coord0' ELSE 'worker' || group_id END;
    letter integer := pg_catalog.ascii('a');
BEGIN
    IF f.kind = 'pgsql' THEN
        RETURN 'node_' || node_id;
    END IF;
    WHILE letter < pg_catalog.ascii('z') AND EXISTS (
        SELECT FROM pgautofailover.node n
         WHERE n.formationid = f.formationid AND n.nodename = prefix || pg_catalog.chr(letter)) LOOP
        letter := letter + 1;
    END LOOP;
    RETURN prefix || pg_catalog.chr(letter);
END
$$;

-- Locks the formation and reads it; an empty one takes the kind and the database of its first node.
CREATE OR REPLACE FUNCTION pgautofailover.formation_for_node(
    formation_id text, node_host text, node_port integer, node_kind text, database name)
RETURNS pgautofailover.formation LANGUAGE plpgsql AS $$
DECLARE
    f pgautofailover.formation;
    kind_of_node text;
    empty boolean;
BEGIN
    PERFORM pgautofailover.lock_formation(formation_id, true);
    SELECT g.* INTO f FROM pgautofailover.formation g WHERE g.formationid = formation_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42P17',
            MESSAGE = pg_catalog.format('formation "%s" does not exist', formation_id),
            HINT = 'Use `pg_autoctl create formation` to create the target formation first';
    END IF;
    kind_of_node := CASE WHEN node_kind = 'standalone' THEN 'pgsql'
                         WHEN node_kind IN ('coordinator', 'worker') THEN 'citus' END;
    IF kind_of_node IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('unknown formation kind "%s"', node_kind);
    END IF;
    empty := NOT EXISTS (SELECT FROM pgautofailover.node n WHERE n.formationid = formation_id);
    IF f.kind <> kind_of_node AND NOT empty THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(
            'node %s:%s of kind "%s" can not be registered in formation "%s" of kind "%s"',
            node_host, node_port, node_kind, formation_id, f.kind);
    END IF;
    IF f.dbname <> database AND NOT empty THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(
            'node %s:%s with dbname "%s" can not be registered in formation "%s" which expects dbname "%s"',
            node_host, node_port, database, formation_id, f.dbname);
    END IF;
    IF f.kind <> kind_of_node OR f.dbname <> database THEN
        UPDATE pgautofailover.formation g SET kind = kind_of_node, dbname = database
         WHERE g.formationid = formation_id RETURNING g.* INTO f;
    END IF;
    RETURN f;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.register_node(
    IN formation_id text, IN node_host text, IN node_port integer, IN dbname name, IN node_name text DEFAULT '',
    IN sysidentifier bigint DEFAULT 0, IN desired_node_id bigint DEFAULT -1, IN desired_group_id integer DEFAULT -1,
    IN initial_group_role pgautofailover.replication_state DEFAULT 'init', IN node_kind text DEFAULT 'standalone',
    IN candidate_priority integer DEFAULT 100, IN replication_quorum boolean DEFAULT true,
    IN node_cluster text DEFAULT 'default', IN node_region text DEFAULT 'default',
    OUT assigned_node_id bigint, OUT assigned_group_id integer,
    OUT assigned_group_state pgautofailover.replication_state, OUT assigned_candidate_priority integer,
    OUT assigned_replication_quorum boolean, OUT assigned_node_name text)
RETURNS record LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    f pgautofailover.formation;
    n pgautofailover.node;
    new_group integer;
    goal pgautofailover.replication_state;
    new_id bigint;
BEGIN
    -- The caller commits once its own files are written. Until then everybody else waits for these locks.
    PERFORM set_config('idle_in_transaction_session_timeout', '10s', true);
    PERFORM pgautofailover.check_host(node_host);
    f := pgautofailover.formation_for_node(formation_id, node_host, node_port, node_kind, register_node.dbname);
    IF candidate_priority NOT BETWEEN 0 AND 100 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = format(
            'invalid value for candidate_priority "%s" expected an integer value between 0 and 100',
            candidate_priority);
    END IF;
    new_group := pgautofailover.choose_group(f, node_host, node_port, desired_group_id);
    PERFORM pgautofailover.lock_group(formation_id, new_group);
    goal := pgautofailover.choose_first_goal(f, new_group, candidate_priority);

    IF desired_node_id > 0 THEN
        new_id := desired_node_id;
    ELSE
        new_id := nextval('pgautofailover.node_nodeid_seq');
    END IF;
    INSERT INTO pgautofailover.node AS m
           (formationid, nodeid, groupid, nodename, nodehost, nodeport, sysidentifier, goalstate, reportedstate,
            candidatepriority, replicationquorum, nodecluster, region, answerednumber)
    VALUES (formation_id, new_id, new_group,
            CASE WHEN node_name = '' THEN pgautofailover.default_node_name(f, new_group, new_id) ELSE node_name END,
            node_host, node_port, nullif(register_node.sysidentifier, 0), goal, initial_group_role,
            candidate_priority, replication_quorum, node_cluster, node_region, 1)
    RETURNING m.* INTO n;
    IF desired_node_id > 0 THEN
        PERFORM setval('pgautofailover.node_nodeid_seq', greatest(
            (SELECT max(m.nodeid) FROM pgautofailover.node m),
            (SELECT s.last_value FROM pgautofailover.node_nodeid_seq s)));
    END IF;
    PERFORM pgautofailover.notify_log(format(
        'Registering %s to formation "%s" with replication quorum %s and candidate priority %s [%s]',
        pgautofailover.node_text(n), formation_id, pgautofailover.bool_text(n.replicationquorum),
        n.candidatepriority, n.candidatepriority));
    IF goal = 'single' THEN
        PERFORM pgautofailover.record_change(n, format(
            'Setting goal state of %s to single as there is no other node.', pgautofailover.node_text(n)));
    END IF;
    IF initial_group_role NOT IN ('init', goal) THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = format(
            'node %s:%s can not be registered in state %s, it should be in state %s',
            node_host, node_port, initial_group_role, goal);
    END IF;
    INSERT INTO pgautofailover.group_state (formationid, groupid) VALUES (formation_id, new_group)
        ON CONFLICT DO NOTHING;
    PERFORM pgautofailover.store_intent(formation_id, new_group, 'registered', n.nodeid);

    assigned_node_id := n.nodeid;
    assigned_group_id := n.groupid;
    assigned_group_state := n.goalstate;
    assigned_candidate_priority := n.candidatepriority;
    assigned_replication_quorum := n.replicationquorum;
    assigned_node_name := n.nodename;
END
$$;

-- NULL keeps what is stored.
CREATE OR REPLACE FUNCTION pgautofailover.update_node_metadata(
    node_id bigint, node_name text, node_host text, node_port integer)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    before pgautofailover.node;
    n pgautofailover.node;
BEGIN
    IF node_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'udpate_node_metadata requires a non-null nodeid';
    END IF;
    PERFORM pgautofailover.check_host(node_host);
    before := pgautofailover.lock_node(node_id, false);
    IF before.nodeid IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = format('node %s is not registered', node_id);
    END IF;
    UPDATE pgautofailover.node m
       SET nodename = coalesce(node_name, m.nodename), nodehost = coalesce(node_host, m.nodehost),
           nodeport = coalesce(node_port, m.nodeport)
     WHERE m.nodeid = node_id RETURNING m.* INTO n;
    IF (n.nodename, n.nodehost, n.nodeport) IS DISTINCT FROM (before.nodename, before.nodehost, before.nodeport) THEN
        -- The other nodes must learn of it: their access rules and connections name this host.
        PERFORM pgautofailover.record_change(n, format('Updating metadata of %s: it is now %s',
            pgautofailover.node_text(before), pgautofailover.node_text(n)));
        PERFORM pgautofailover.wake(n.formationid, n.groupid);
    END IF;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.set_node_system_identifier(
    IN node_id bigint, IN node_sysidentifier bigint,
    OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer)
RETURNS record LANGUAGE sql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
    UPDATE pgautofailover.node n SET sysidentifier = $2 WHERE n.nodeid = $1
    RETURNING n.nodeid, n.nodename, n.nodehost, n.nodeport
$$;

-- A group id alone does not name a group: with several formations nothing is guessed.
CREATE OR REPLACE FUNCTION pgautofailover.set_group_system_identifier(
    IN group_id bigint, IN node_sysidentifier bigint,
    OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer)
RETURNS SETOF record LANGUAGE sql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
    UPDATE pgautofailover.node n SET sysidentifier = $2
     WHERE n.groupid = $1 AND n.sysidentifier = 0
       AND (SELECT count(DISTINCT m.formationid) = 1 FROM pgautofailover.node m
             WHERE m.groupid = $1 AND m.sysidentifier = 0)
    RETURNING n.nodeid, n.nodename, n.nodehost, n.nodeport
$$;

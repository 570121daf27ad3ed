-- Readers.

-- NULL as group means the whole formation.
CREATE OR REPLACE FUNCTION pgautofailover.get_nodes(
    IN formation_id text DEFAULT 'default', IN group_id integer DEFAULT NULL,
    OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer, OUT node_lsn pg_lsn,
    OUT node_is_primary boolean)
RETURNS SETOF record LANGUAGE plpgsql AS $$
BEGIN
    IF formation_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'formation_id must not be null';
    END IF;
    RETURN QUERY
    SELECT n.nodeid, n.nodename, n.nodehost, n.nodeport, n.reportedlsn, pgautofailover.is_writable(n.reportedstate)
      FROM pgautofailover.node n
     WHERE n.formationid = formation_id AND (group_id IS NULL OR n.groupid = group_id)
     ORDER BY n.nodeid;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.other_members(asking bigint)
RETURNS SETOF pgautofailover.node LANGUAGE plpgsql AS $$
DECLARE
    me pgautofailover.node;
BEGIN
    SELECT n.* INTO me FROM pgautofailover.node n WHERE n.nodeid = asking;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = pg_catalog.format('node %s is not registered', asking);
    END IF;
    RETURN QUERY SELECT n.* FROM pgautofailover.members(me.formationid, me.groupid) n WHERE n.nodeid <> asking;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.get_other_nodes(
    IN nodeid bigint,
    OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer, OUT node_lsn pg_lsn,
    OUT node_is_primary boolean)
RETURNS SETOF record LANGUAGE sql STRICT AS $$
    SELECT n.nodeid, n.nodename, n.nodehost, n.nodeport, n.reportedlsn, pgautofailover.is_writable(n.reportedstate)
      FROM pgautofailover.other_members($1) n ORDER BY n.nodeid
$$;

CREATE OR REPLACE FUNCTION pgautofailover.get_other_nodes(
    IN nodeid bigint, IN current_state pgautofailover.replication_state,
    OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer, OUT node_lsn pg_lsn,
    OUT node_is_primary boolean)
RETURNS SETOF record LANGUAGE sql STRICT AS $$
    SELECT n.nodeid, n.nodename, n.nodehost, n.nodeport, n.reportedlsn, pgautofailover.is_writable(n.reportedstate)
      FROM pgautofailover.other_members($1) n WHERE n.goalstate = $2 ORDER BY n.nodeid
$$;

-- A writable goal first, so that a failover's winner is named from the moment when it is ordered to open.
CREATE OR REPLACE FUNCTION pgautofailover.get_primary(
    IN formation_id text DEFAULT 'default', IN group_id integer DEFAULT 0,
    OUT primary_node_id bigint, OUT primary_name text, OUT primary_host text, OUT primary_port integer)
RETURNS record LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
BEGIN
    SELECT n.nodeid, n.nodename, n.nodehost, n.nodeport
      INTO primary_node_id, primary_name, primary_host, primary_port
      FROM pgautofailover.members(formation_id, group_id) n
     WHERE pgautofailover.is_writable(n.goalstate) OR pgautofailover.belongs_to_primary(n.reportedstate)
     ORDER BY pgautofailover.is_writable(n.goalstate) DESC,
              n.goalstate IN ('draining', 'demote_timeout', 'prepare_maintenance') DESC, n.nodeid
     LIMIT 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'group has no writable node right now';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.get_coordinator(
    IN formation_id text DEFAULT 'default', OUT node_host text, OUT node_port integer)
RETURNS SETOF record LANGUAGE sql STRICT AS $$
    SELECT n.nodehost, n.nodeport
      FROM pgautofailover.formation f JOIN pgautofailover.members(f.formationid, 0) n ON f.kind = 'citus'
     WHERE f.formationid = $1 AND n.reportedstate IN ('single', 'wait_primary', 'primary')
       AND n.goalstate IN ('single', 'wait_primary', 'primary')
     ORDER BY n.nodeid LIMIT 1
$$;

CREATE OR REPLACE FUNCTION pgautofailover.get_most_advanced_standby(
    IN formationid text DEFAULT 'default', IN groupid integer DEFAULT 0, IN caller_node_id bigint DEFAULT 0,
    OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer, OUT node_lsn pg_lsn,
    OUT node_is_primary boolean)
RETURNS SETOF record LANGUAGE sql STRICT AS $$
    SELECT n.nodeid, n.nodename, n.nodehost, n.nodeport, n.reportedlsn, false
      FROM pgautofailover.node n
     WHERE n.formationid = $1 AND n.groupid = $2 AND n.reportedstate = 'report_lsn' AND n.nodeid <> $3
       AND (n.health > 0 OR NOT pgautofailover.caller_allows_data_loss())
     ORDER BY n.nodeid = (SELECT (s.record -> 'election' ->> 'source')::bigint FROM pgautofailover.group_state s
                           WHERE s.formationid = $1 AND s.groupid = $2) DESC NULLS LAST,
              n.reportedtli DESC, n.reportedlsn DESC, n.health DESC, n.nodeid LIMIT 1
$$;

-- What the group's decisions stored: the value that its primary is to have, empty before the first.
CREATE OR REPLACE FUNCTION pgautofailover.synchronous_standby_names(
    formation_id text DEFAULT 'default', group_id integer DEFAULT 0)
RETURNS text LANGUAGE plpgsql STRICT AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pgautofailover.members(formation_id, group_id)) THEN
        RAISE EXCEPTION USING ERRCODE = '42P17', MESSAGE = pg_catalog.format(
            'no nodes found in group %s of formation "%s"', group_id, formation_id);
    END IF;
    RETURN coalesce((SELECT s.standby_names FROM pgautofailover.group_state s
                      WHERE s.formationid = formation_id AND s.groupid = group_id), '');
END
$$;

-- The list that belongs to one goal of a node: goal and list are stored by one transaction and read here from one
-- snapshot. NULL when the node has another goal by now.
CREATE OR REPLACE FUNCTION pgautofailover.keeper_list(node_id bigint, goal_number bigint)
RETURNS text LANGUAGE sql STRICT AS $$
    SELECT coalesce(s.standby_names, '')
      FROM pgautofailover.node n LEFT JOIN pgautofailover.group_state s USING (formationid, groupid)
     WHERE n.nodeid = $1 AND n.goalnumber = $2
$$;

CREATE OR REPLACE FUNCTION pgautofailover.current_state(
    IN formation_id text DEFAULT 'default',
    OUT formation_kind text, OUT nodename text, OUT nodehost text, OUT nodeport integer, OUT group_id integer,
    OUT node_id bigint, OUT current_group_state pgautofailover.replication_state,
    OUT assigned_group_state pgautofailover.replication_state, OUT candidate_priority integer,
    OUT replication_quorum boolean, OUT reported_tli integer, OUT reported_lsn pg_lsn, OUT health integer,
    OUT nodecluster text, OUT noderegion text)
RETURNS SETOF record LANGUAGE sql STRICT AS $$
    SELECT f.kind, n.nodename, n.nodehost, n.nodeport, n.groupid, n.nodeid, n.reportedstate, n.goalstate,
           n.candidatepriority, n.replicationquorum, n.reportedtli, n.reportedlsn, n.health, n.nodecluster, n.region
      FROM pgautofailover.node n JOIN pgautofailover.formation f USING (formationid)
     WHERE n.formationid = $1 ORDER BY n.groupid, n.nodeid
$$;

CREATE OR REPLACE FUNCTION pgautofailover.current_state(
    IN formation_id text, IN group_id integer,
    OUT formation_kind text, OUT nodename text, OUT nodehost text, OUT nodeport integer, OUT group_id integer,
    OUT node_id bigint, OUT current_group_state pgautofailover.replication_state,
    OUT assigned_group_state pgautofailover.replication_state, OUT candidate_priority integer,
    OUT replication_quorum boolean, OUT reported_tli integer, OUT reported_lsn pg_lsn, OUT health integer,
    OUT nodecluster text, OUT noderegion text)
RETURNS SETOF record LANGUAGE sql STRICT AS $$
    SELECT c.* FROM pgautofailover.current_state($1) c WHERE c.group_id = $2
$$;

CREATE OR REPLACE FUNCTION pgautofailover.last_events(count integer DEFAULT 10)
RETURNS SETOF pgautofailover.event LANGUAGE sql STRICT AS $$
    SELECT e.* FROM (SELECT * FROM pgautofailover.event ORDER BY eventid DESC LIMIT $1) e
     ORDER BY e.eventtime, e.eventid
$$;

CREATE OR REPLACE FUNCTION pgautofailover.last_events(formation_id text DEFAULT 'default', count integer DEFAULT 10)
RETURNS SETOF pgautofailover.event LANGUAGE sql STRICT AS $$
    SELECT e.* FROM (SELECT * FROM pgautofailover.event WHERE formationid = $1 ORDER BY eventid DESC LIMIT $2) e
     ORDER BY e.eventtime, e.eventid
$$;

CREATE OR REPLACE FUNCTION pgautofailover.last_events(formation_id text, group_id integer, count integer DEFAULT 10)
RETURNS SETOF pgautofailover.event LANGUAGE sql STRICT AS $$
    SELECT e.* FROM (SELECT * FROM pgautofailover.event WHERE formationid = $1 AND groupid = $2
                      ORDER BY eventid DESC LIMIT $3) e
     ORDER BY e.eventtime, e.eventid
$$;

CREATE OR REPLACE FUNCTION pgautofailover.formation_settings(
    IN formation_id text DEFAULT 'default',
    OUT context text, OUT group_id integer, OUT node_id bigint, OUT nodename text, OUT setting text, OUT value text)
RETURNS SETOF record LANGUAGE sql STRICT AS $$
    SELECT s.context, s.group_id, s.node_id, s.nodename, s.setting, s.value
      FROM (SELECT 1 AS part, 'formation' AS context, NULL::integer AS group_id, NULL::bigint AS node_id,
                   f.formationid AS nodename, 'number_sync_standbys' AS setting, f.number_sync_standbys::text AS value
              FROM pgautofailover.formation f WHERE f.formationid = $1
             UNION ALL
            SELECT 2, 'primary', n.groupid, n.nodeid, n.nodename, 'synchronous_standby_names',
                   pg_catalog.format('''%s''', coalesce(g.standby_names, ''))
              FROM pgautofailover.node n LEFT JOIN pgautofailover.group_state g USING (formationid, groupid)
             WHERE n.formationid = $1 AND pgautofailover.is_writable(n.reportedstate)
             UNION ALL
            SELECT 3, 'node', n.groupid, n.nodeid, n.nodename, 'replication quorum',
                   pgautofailover.bool_text(n.replicationquorum)
              FROM pgautofailover.node n WHERE n.formationid = $1
             UNION ALL
            SELECT 4, 'node', n.groupid, n.nodeid, n.nodename, 'candidate priority', n.candidatepriority::text
              FROM pgautofailover.node n WHERE n.formationid = $1) s
     ORDER BY s.part, s.node_id
$$;

CREATE OR REPLACE FUNCTION pgautofailover.formation_uri(
    formation_id text DEFAULT 'default', cluster_name text DEFAULT 'default', sslmode text DEFAULT 'prefer',
    sslrootcert text DEFAULT '', sslcrl text DEFAULT '')
RETURNS text LANGUAGE sql STRICT AS $$
    SELECT 'postgres://' || pg_catalog.string_agg(
               CASE WHEN pg_catalog.strpos(n.nodehost, ':') > 0 THEN '[' || n.nodehost || ']' ELSE n.nodehost END
               || ':' || n.nodeport, ',' ORDER BY n.nodeid)
           || '/' || f.dbname || '?'
           || CASE WHEN $2 = 'default' THEN 'target_session_attrs=read-write&' ELSE '' END
           || 'sslmode=' || $3
           || CASE WHEN $4 = '' THEN '' ELSE '&sslrootcert=' || $4 END
           || CASE WHEN $5 = '' THEN '' ELSE '&sslcrl=' || $5 END
      FROM pgautofailover.formation f JOIN pgautofailover.node n USING (formationid)
     WHERE f.formationid = $1 AND n.groupid = 0 AND n.nodecluster = $2
     GROUP BY f.dbname
$$;

CREATE OR REPLACE FUNCTION pgautofailover.accept_timeline(
    formation_id text, group_id integer, target_tli integer, decided_by text DEFAULT NULL)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pgautofailover.node n
                    WHERE n.formationid = formation_id AND n.groupid = group_id
                      AND (n.reportedtli = target_tli
                           OR EXISTS (SELECT FROM pgautofailover.node_timeline_history h
                                       WHERE h.nodeid = n.nodeid AND target_tli IN (h.tli, h.parenttli)))) THEN
        RAISE EXCEPTION 'timeline % has never been reported by any node in formation "%" group %',
            target_tli, formation_id, group_id;
    END IF;
    UPDATE pgautofailover.accepted_timeline t SET resolved_at = now()
     WHERE t.formationid = formation_id AND t.groupid = group_id AND t.resolved_at IS NULL;
    INSERT INTO pgautofailover.accepted_timeline (formationid, groupid, accepted_tli, decided_by, decided_at)
    VALUES (formation_id, group_id, target_tli, accept_timeline.decided_by, clock_timestamp());
    PERFORM pgautofailover.wake(formation_id, group_id);
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.resolve_accepted_timeline(formation_id text, group_id integer)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
BEGIN
    UPDATE pgautofailover.accepted_timeline t SET resolved_at = now()
     WHERE t.formationid = formation_id AND t.groupid = group_id AND t.resolved_at IS NULL;
    PERFORM pgautofailover.wake(formation_id, group_id);
    RETURN true;
END
$$;

-- The reference is the accepted timeline, else the primary's, else the highest. On its lineage is who is on it or on
-- one of its ancestors, which some node's history names.
CREATE OR REPLACE FUNCTION pgautofailover.node_timeline_status(
    IN formation_id text, IN group_id integer,
    OUT node_id bigint, OUT node_name text, OUT tli integer, OUT lsn pg_lsn, OUT reference_tli integer,
    OUT on_accepted_lineage boolean)
RETURNS SETOF record LANGUAGE sql AS $$
    WITH RECURSIVE reference AS (
        SELECT coalesce(
            (SELECT t.accepted_tli FROM pgautofailover.accepted_timeline t
              WHERE t.formationid = $1 AND t.groupid = $2 AND t.resolved_at IS NULL
              ORDER BY t.decided_at DESC LIMIT 1),
            (SELECT n.reportedtli FROM pgautofailover.members($1, $2) n
              WHERE pgautofailover.is_writable(n.goalstate) ORDER BY n.nodeid LIMIT 1),
            (SELECT pg_catalog.max(n.reportedtli) FROM pgautofailover.members($1, $2) n)) AS tli
    ), lineage(tli) AS (
        SELECT r.tli FROM reference r
         UNION
        SELECT h.parenttli FROM lineage l
          JOIN pgautofailover.node_timeline_history h ON h.tli = l.tli
          JOIN pgautofailover.members($1, $2) n ON n.nodeid = h.nodeid
    )
    SELECT n.nodeid, n.nodename, n.reportedtli, n.reportedlsn, r.tli, n.reportedtli IN (SELECT l.tli FROM lineage l)
      FROM pgautofailover.members($1, $2) n CROSS JOIN reference r ORDER BY n.nodeid
$$;

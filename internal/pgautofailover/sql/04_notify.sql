-- Texts, notifications, events.

CREATE OR REPLACE FUNCTION pgautofailover.node_text(n pgautofailover.node)
RETURNS text LANGUAGE sql AS $$
    SELECT pg_catalog.format('node %s "%s" (%s:%s)', n.nodeid, n.nodename, n.nodehost, n.nodeport)
$$;

CREATE OR REPLACE FUNCTION pgautofailover.bool_text(b boolean)
RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN b THEN 'true' ELSE 'false' END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.notify_state(n pgautofailover.node)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('state', pg_catalog.format(
        '{"type": "state", "formation": %s, "groupId": %s, "nodeId": %s, "name": %s, "host": %s, "port": %s, '
        '"reportedState": "%s", "goalState": "%s", "health":"%s"}',
        pg_catalog.to_json(n.formationid), n.groupid, n.nodeid, pg_catalog.to_json(n.nodename),
        pg_catalog.to_json(n.nodehost), n.nodeport, n.reportedstate, n.goalstate,
        CASE n.health WHEN 1 THEN 'good' WHEN 0 THEN 'bad' ELSE 'unknown' END));
END
$$;

-- The text goes to channel log and to the server's log. A payload has at most 7999 bytes, a character at most four.
CREATE OR REPLACE FUNCTION pgautofailover.notify_log(line text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('log',
        CASE WHEN pg_catalog.octet_length(line) < 8000 THEN line ELSE pg_catalog.left(line, 1999) END);
    RAISE LOG '%', line;
END
$$;

-- Wakes the monitor process: there may be something to decide.
CREATE OR REPLACE FUNCTION pgautofailover.wake(formation_id text, group_id integer)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('pgdrover', formation_id || '/' || group_id);
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.store_event(n pgautofailover.node, line text)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO pgautofailover.event
           (formationid, nodeid, groupid, nodename, nodehost, nodeport, reportedstate, goalstate, reportedrepstate,
            reportedtli, reportedlsn, candidatepriority, replicationquorum, description)
    VALUES (n.formationid, n.nodeid, n.groupid, n.nodename, n.nodehost, n.nodeport, n.reportedstate, n.goalstate,
            n.reportedrepstate, n.reportedtli, n.reportedlsn, n.candidatepriority, n.replicationquorum, line)
$$;

-- A change of a node: one line of history and both notifications.
CREATE OR REPLACE FUNCTION pgautofailover.record_change(n pgautofailover.node, line text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgautofailover.notify_log(line);
    PERFORM pgautofailover.notify_state(n);
    PERFORM pgautofailover.store_event(n, line);
END
$$;

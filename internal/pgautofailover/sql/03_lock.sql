-- Locks. Everything that changes a group takes the formation's lock, then the group's, and never a stronger one later.
-- They are advisory locks of two integers, the first of which names the class:
--   727400001 installation        727400012 reporting session of a node (session level, shared)
--   727400010 formation           727400013 the decider: 1 its session, 2 its transactions
--   727400011 group

CREATE OR REPLACE FUNCTION pgautofailover.lock_formation(formation_id text, exclusive boolean)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF exclusive THEN
        PERFORM pg_catalog.pg_advisory_xact_lock(727400010, pg_catalog.hashtext(formation_id));
    ELSE
        PERFORM pg_catalog.pg_advisory_xact_lock_shared(727400010, pg_catalog.hashtext(formation_id));
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.group_lock_key(formation_id text, group_id integer)
RETURNS integer LANGUAGE sql AS $$
    SELECT pg_catalog.hashtext(formation_id || '/' || group_id)
$$;

CREATE OR REPLACE FUNCTION pgautofailover.lock_group(formation_id text, group_id integer)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock(727400011, pgautofailover.group_lock_key(formation_id, group_id));
END
$$;

-- Locks formation and group of a node and reads the node again. No row when it is unknown or was removed meanwhile.
CREATE OR REPLACE FUNCTION pgautofailover.lock_node(node_id bigint, exclusive boolean)
RETURNS pgautofailover.node LANGUAGE plpgsql AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    SELECT * INTO n FROM pgautofailover.node m WHERE m.nodeid = node_id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM pgautofailover.lock_formation(n.formationid, exclusive);
    PERFORM pgautofailover.lock_group(n.formationid, n.groupid);
    SELECT * INTO n FROM pgautofailover.node m WHERE m.nodeid = node_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    RETURN n;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.testing_lock_formation(formation_id text)
RETURNS void LANGUAGE sql AS $$
    SELECT pgautofailover.lock_formation(formation_id, true)
$$;

CREATE OR REPLACE FUNCTION pgautofailover.testing_lock_node_group(formation_id text, group_id integer)
RETURNS void LANGUAGE sql AS $$
    SELECT pgautofailover.lock_group(formation_id, group_id)
$$;

-- What a coordinator knows of its nodes, under the names and with the arguments
-- of Citus. A session that works with a group's rows holds the group's lock until its
-- transaction ends, and writes to the group's node over a connection of its own; who
-- leads the group elsewhere waits for the lock, and ends who holds it once the
-- cooldown is over. As Citus, a session that waits for an answer of a node which
-- says nothing cannot be ended.

CREATE SCHEMA citus;

CREATE TYPE pg_catalog.noderole AS ENUM ('primary', 'secondary', 'unavailable');

CREATE SEQUENCE citus.pg_dist_node_nodeid_seq;
CREATE SEQUENCE citus.pg_dist_groupid_seq;

CREATE TABLE citus.pg_dist_node (
    nodeid integer PRIMARY KEY DEFAULT nextval('citus.pg_dist_node_nodeid_seq'),
    groupid integer NOT NULL DEFAULT nextval('citus.pg_dist_groupid_seq'),
    nodename text NOT NULL,
    nodeport integer NOT NULL DEFAULT 5432,
    isactive boolean NOT NULL DEFAULT true,
    noderole noderole NOT NULL DEFAULT 'primary',
    nodecluster name NOT NULL DEFAULT 'default',
    UNIQUE (nodename, nodeport)
);
ALTER TABLE citus.pg_dist_node SET SCHEMA pg_catalog;
GRANT SELECT ON pg_catalog.pg_dist_node TO public;

CREATE TABLE citus.pg_dist_poolinfo (nodeid integer PRIMARY KEY, poolinfo text NOT NULL);
ALTER TABLE citus.pg_dist_poolinfo SET SCHEMA pg_catalog;

CREATE FUNCTION pg_catalog.citus_insert_node(host text, port integer, grp integer, role noderole, cluster name, active boolean)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    id integer;
BEGIN
    SELECT n.nodeid INTO id FROM pg_catalog.pg_dist_node n WHERE n.nodename = host AND n.nodeport = port;
    IF FOUND THEN
        RETURN id;
    END IF;
    IF role = 'primary' AND EXISTS (SELECT FROM pg_catalog.pg_dist_node n WHERE n.groupid = grp AND n.noderole = 'primary') THEN
        RAISE EXCEPTION 'group % already has a primary node', grp;
    END IF;
    INSERT INTO pg_catalog.pg_dist_node (groupid, nodename, nodeport, isactive, noderole, nodecluster)
    VALUES (CASE WHEN grp < 0 THEN nextval('citus.pg_dist_groupid_seq') ELSE grp END, host, port, active, role, cluster)
    RETURNING nodeid INTO id;
    RETURN id;
END
$$;

CREATE FUNCTION pg_catalog.citus_add_node(nodename text, nodeport integer, groupid integer DEFAULT -1,
    noderole noderole DEFAULT 'primary', nodecluster name DEFAULT 'default')
RETURNS integer LANGUAGE sql AS $$ SELECT pg_catalog.citus_insert_node($1, $2, $3, $4, $5, true) $$;

CREATE FUNCTION pg_catalog.citus_add_inactive_node(nodename text, nodeport integer, groupid integer DEFAULT -1,
    noderole noderole DEFAULT 'primary', nodecluster name DEFAULT 'default')
RETURNS integer LANGUAGE sql AS $$ SELECT pg_catalog.citus_insert_node($1, $2, $3, $4, $5, false) $$;

CREATE FUNCTION pg_catalog.citus_activate_node(nodename text, nodeport integer)
RETURNS integer LANGUAGE sql AS $$
    UPDATE pg_catalog.pg_dist_node n SET isactive = true WHERE n.nodename = $1 AND n.nodeport = $2 RETURNING n.nodeid
$$;

-- The lock of a group is the advisory lock (19740, group).
CREATE FUNCTION citus.end_holders(grp integer) RETURNS void LANGUAGE sql AS $$
    SELECT pg_catalog.pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l
     WHERE l.locktype = 'advisory' AND l.classid = 19740 AND l.objid = grp AND l.objsubid = 2 AND l.granted
       AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
       AND l.pid <> pg_catalog.pg_backend_pid()
$$;

CREATE FUNCTION citus.lock_group(grp integer, force boolean, lock_cooldown integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    limit_before text := pg_catalog.current_setting('lock_timeout');
    wait integer := greatest(lock_cooldown, 1);
BEGIN
    WHILE force LOOP
        BEGIN
            PERFORM pg_catalog.set_config('lock_timeout', wait::text, true);
            PERFORM pg_catalog.pg_advisory_xact_lock(19740, grp);
            PERFORM pg_catalog.set_config('lock_timeout', limit_before, true);
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM citus.end_holders(grp);
            wait := 100;
        END;
    END LOOP;
    PERFORM pg_catalog.pg_advisory_xact_lock(19740, grp);
END
$$;

CREATE FUNCTION pg_catalog.citus_update_node(node_id integer, new_node_name text, new_node_port integer,
    force boolean DEFAULT false, lock_cooldown integer DEFAULT 10000)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    grp integer;
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_dist_node n
                WHERE n.nodename = new_node_name AND n.nodeport = new_node_port AND n.nodeid <> node_id) THEN
        RAISE EXCEPTION 'there is already another node with the specified hostname and port';
    END IF;
    SELECT n.groupid INTO grp FROM pg_catalog.pg_dist_node n WHERE n.nodeid = node_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'node % not found', node_id;
    END IF;
    PERFORM citus.lock_group(grp, force, lock_cooldown);
    UPDATE pg_catalog.pg_dist_node n SET nodename = new_node_name, nodeport = new_node_port WHERE n.nodeid = node_id;
END
$$;

CREATE FUNCTION citus.send(conninfo text, sql text) RETURNS text LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_exec';

-- What a statement on a distributed table does: it runs on the group's node.
CREATE FUNCTION citus.execute(grp integer, sql text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    n pg_catalog.pg_dist_node;
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock_shared(19740, grp);
    SELECT d.* INTO STRICT n FROM pg_catalog.pg_dist_node d WHERE d.groupid = grp AND d.noderole = 'primary';
    PERFORM citus.send(pg_catalog.format('host=%s port=%s dbname=%s user=%s %s', n.nodename, n.nodeport,
        pg_catalog.current_database(), current_user, pg_catalog.current_setting('citus.node_conninfo', true)), sql);
END
$$;

CREATE FUNCTION pg_catalog.citus_remove_node(nodename text, nodeport integer)
RETURNS void LANGUAGE sql AS $$
    DELETE FROM pg_catalog.pg_dist_node n WHERE n.nodename = $1 AND n.nodeport = $2
$$;

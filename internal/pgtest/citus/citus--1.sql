-- What a coordinator knows of its nodes, under the names and with the arguments
-- of Citus. A client that asks where a group's rows are locks that answer until it
-- has written, and the functions that change it wait for the lock, as Citus does
-- for the shards of a node.

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

CREATE FUNCTION pg_catalog.citus_update_node(node_id integer, new_node_name text, new_node_port integer,
    force boolean DEFAULT false, lock_cooldown integer DEFAULT 10000)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_dist_node n
                WHERE n.nodename = new_node_name AND n.nodeport = new_node_port AND n.nodeid <> node_id) THEN
        RAISE EXCEPTION 'there is already another node with the specified hostname and port';
    END IF;
    UPDATE pg_catalog.pg_dist_node n SET nodename = new_node_name, nodeport = new_node_port WHERE n.nodeid = node_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'node % not found', node_id;
    END IF;
END
$$;

CREATE FUNCTION pg_catalog.citus_remove_node(nodename text, nodeport integer)
RETURNS void LANGUAGE sql AS $$
    DELETE FROM pg_catalog.pg_dist_node n WHERE n.nodename = $1 AND n.nodeport = $2
$$;

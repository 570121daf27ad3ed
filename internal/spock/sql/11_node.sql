-- Nodes and their interfaces.

-- The database that the local node was made in. Schema spock goes along with a dump or a clone, and so does the word that
-- it is the node; the slots on its providers and the origins do not.
CREATE TABLE IF NOT EXISTS spock.pgdrover_place (
    one               boolean PRIMARY KEY DEFAULT true CHECK (one),
    system_identifier bigint NOT NULL,
    database_id       oid NOT NULL
);

-- Keeps where this is; with another word than what is kept only for a node that is made anew.
CREATE OR REPLACE FUNCTION pgdrover.keep_place(anew boolean)
RETURNS void LANGUAGE sql AS $$
    DELETE FROM spock.pgdrover_place WHERE anew;
    INSERT INTO spock.pgdrover_place (system_identifier, database_id)
    SELECT c.system_identifier, d.oid FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d
     WHERE d.datname = pg_catalog.current_database()
        ON CONFLICT DO NOTHING;
$$;

-- Whether this is a node's database that was restored or cloned, and not the node.
CREATE OR REPLACE FUNCTION pgdrover.is_copy()
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM spock.local_node)
       AND NOT EXISTS (SELECT FROM spock.pgdrover_place p, pg_catalog.pg_control_system() c, pg_catalog.pg_database d
                        WHERE d.datname = pg_catalog.current_database()
                          AND p.system_identifier = c.system_identifier AND p.database_id = d.oid)
$$;

-- Refuses what would reach for the slots and origins of the node that this is a copy of.
CREATE OR REPLACE FUNCTION pgdrover.refuse_copy()
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF pgdrover.is_copy() THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format('database "%s" is a copy of node "%s", not the node',
                pg_catalog.current_database(),
                (SELECT n.node_name FROM spock.local_node l JOIN spock.node n ON n.node_id = l.node_id)),
            DETAIL = 'It was restored from a dump, cloned from a template, or taken to another server by pg_upgrade.',
            HINT = 'Take the copied schema away with "pgdrover spock uninstall", which leaves the node alone; '
                   'to replace a node that is gone, create it anew after that.';
    END IF;
END
$$;

-- For a removal: whether this is a copy, with a warning of what stays with the node.
CREATE OR REPLACE FUNCTION pgdrover.leave_original()
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    slots pg_catalog.text := (
        SELECT pg_catalog.string_agg(pg_catalog.format('"%s" on %s', s.sub_slot_name, n.node_name), ', ' ORDER BY s.sub_slot_name)
          FROM spock.subscription s JOIN spock.node n ON n.node_id = s.sub_origin);
BEGIN
    IF pgdrover.is_copy() AND slots IS NOT NULL THEN
        RAISE WARNING USING MESSAGE = 'this database is a copy of a node''s: the slots of the node are left alone',
            DETAIL = pg_catalog.format('Slots: %s.', slots),
            HINT = 'If that node is gone for good, drop its slots there: they keep WAL for it.';
    END IF;
    RETURN pgdrover.is_copy();
END
$$;

-- The local node, locked against others that change what belongs to it.
CREATE OR REPLACE FUNCTION pgdrover.require_local_node()
RETURNS spock.local_node LANGUAGE plpgsql AS $$
DECLARE
    l spock.local_node;
BEGIN
    LOCK TABLE spock.local_node IN SHARE ROW EXCLUSIVE MODE;
    SELECT * INTO l FROM spock.local_node;
    IF l.node_id IS NULL THEN
        PERFORM pgdrover.raise_no_node();
    END IF;
    RETURN l;
END
$$;

-- The same, for what has to do with other nodes.
CREATE OR REPLACE FUNCTION pgdrover.require_original_node()
RETURNS spock.local_node LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgdrover.refuse_copy();
    RETURN pgdrover.require_local_node();
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.raise_no_node()
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'current database is not configured as spock node',
        HINT = 'create spock node first';
END
$$;

-- What reads only needs no lock.
CREATE OR REPLACE FUNCTION pgdrover.known_local_node()
RETURNS oid LANGUAGE plpgsql STABLE AS $$
DECLARE
    id pg_catalog.oid := pgdrover.local_node_id();
BEGIN
    IF id IS NULL THEN
        PERFORM pgdrover.raise_no_node();
    END IF;
    RETURN id;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.find_node(wanted name)
RETURNS spock.node LANGUAGE plpgsql STABLE AS $$
DECLARE
    n spock.node;
BEGIN
    SELECT * INTO n FROM spock.node k WHERE k.node_name = wanted;
    IF n.node_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('node %s not found', wanted);
    END IF;
    RETURN n;
END
$$;

-- The id is that of the replication origin as well, and 0 and 65535 mean something else there.
CREATE OR REPLACE FUNCTION pgdrover.check_node_id(id oid, wanted name)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    other pg_catalog.name;
BEGIN
    SELECT k.node_name INTO other FROM spock.node k WHERE k.node_id = id AND k.node_name <> wanted;
    IF other IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(
            'node id %s (computed from name "%s") collides with existing node "%s"; rename this node to resolve the collision',
            id, wanted, other);
    END IF;
    IF id::int8 IN (0, 65535) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'node name "%s" gives node id %s, which cannot be a replication origin', wanted, id),
            HINT = 'Choose another name.';
    END IF;
END
$$;

-- Whether an engine serves this database.
CREATE OR REPLACE FUNCTION pgdrover.engine_connected()
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l
                    WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 727400013 AND l.objid = 0 AND l.objsubid = 2
                      AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
$$;

CREATE OR REPLACE FUNCTION pgdrover.notice_engine(dsn text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- One that waits for the database to become a node runs the calls of others already.
    IF NOT pgdrover.engine_connected() AND NOT pgdrover.executor_connected() THEN
        RAISE NOTICE USING MESSAGE = 'no engine is connected to this database: nothing is applied yet',
            HINT = 'Start one: pgdrover spock run --dsn ''' -- as a shell takes it
                   || pg_catalog.replace(pgdrover.masked(dsn), '''', E'\'\\\'\'') || '''';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION spock.node_create(
    node_name name, dsn text, location text = NULL, country text = NULL, info jsonb = NULL)
RETURNS oid LANGUAGE plpgsql AS $$
DECLARE
    id pg_catalog.oid := pgdrover.node_id(node_create.node_name);
    interface pg_catalog.oid;
BEGIN
    IF node_create.node_name IS NULL OR dsn IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM pgdrover.check_length(node_create.node_name, 'node');
    LOCK TABLE spock.local_node IN SHARE ROW EXCLUSIVE MODE;
    PERFORM pgdrover.refuse_copy();
    IF EXISTS (SELECT FROM spock.node k WHERE k.node_name = node_create.node_name) THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('node %s already exists', node_create.node_name);
    END IF;
    PERFORM pgdrover.check_node_id(id, node_create.node_name);
    IF EXISTS (SELECT FROM spock.local_node) THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'current database is already configured as spock node';
    END IF;
    IF pg_catalog.current_setting('track_commit_timestamp') <> 'on' THEN
        RAISE WARNING USING MESSAGE = 'track_commit_timestamp is off',
            HINT = 'Subscriptions need it on, on every node; it takes effect with a restart.';
    END IF;
    interface := pgdrover.member_id(id, node_create.node_name);
    INSERT INTO spock.node (node_id, node_name, location, country, info)
    VALUES (id, node_create.node_name, node_create.location, node_create.country, node_create.info);
    INSERT INTO spock.node_interface (if_id, if_name, if_nodeid, if_dsn)
    VALUES (interface, node_create.node_name, id, dsn);
    INSERT INTO spock.local_node (node_id, node_local_interface) VALUES (id, interface);
    PERFORM pgdrover.keep_place(true);
    INSERT INTO spock.replication_set
           (set_id, set_nodeid, set_name, replicate_insert, replicate_update, replicate_delete, replicate_truncate)
    SELECT pgdrover.member_id(id, s.name), id, s.name, s.ins, s.upd, s.del, s.trunc
      FROM (VALUES ('default'::name, true, true, true, true), ('default_insert_only', true, false, false, true),
                   ('ddl_sql', true, false, false, false)) AS s(name, ins, upd, del, trunc);
    PERFORM pgdrover.create_publications();
    PERFORM pgdrover.drop_strange_triggers();
    PERFORM pgdrover.notice_engine(dsn);
    RETURN id;
END
$$;

CREATE OR REPLACE FUNCTION spock.node_drop(node_name name, ifexists boolean = false)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    n spock.node;
    slot pg_catalog.record;
BEGIN
    LOCK TABLE spock.local_node IN SHARE ROW EXCLUSIVE MODE;
    PERFORM pgdrover.refuse_copy();
    SELECT * INTO n FROM spock.node k WHERE k.node_name = node_drop.node_name;
    IF n.node_id IS NULL THEN
        IF ifexists THEN
            RETURN false;
        END IF;
        n := pgdrover.find_node(node_drop.node_name);
    END IF;
    IF EXISTS (SELECT FROM spock.subscription s WHERE n.node_id IN (s.sub_origin, s.sub_target)) THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
            'cannot drop node "%s" because it still has subscriptions associated with it', n.node_name),
            HINT = 'drop the subscriptions first';
    END IF;
    IF n.node_id = pgdrover.local_node_id() THEN
        FOR slot IN SELECT r.slot_name, r.active FROM pg_catalog.pg_replication_slots r
                     WHERE r.database = pg_catalog.current_database() AND r.slot_name LIKE E'spk\\_%'
                       AND r.plugin IN ('pgoutput', 'spock_output', 'spock') LOOP
            IF slot.active THEN
                RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
                    'cannot drop node "%s" because one or more replication slots for the node are still active', n.node_name),
                    HINT = 'drop the subscriptions connected to the node first';
            END IF;
            PERFORM pg_catalog.pg_drop_replication_slot(slot.slot_name);
        END LOOP;
        DELETE FROM spock.local_node;
        DELETE FROM spock.pgdrover_applied;
        PERFORM pgdrover.drop_publications();
    END IF;
    PERFORM pgdrover.remove_node_rows(n.node_id);
    PERFORM pgdrover.unwatch_unused();
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.remove_node_rows(id oid)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM spock.depend d USING spock.replication_set s WHERE s.set_nodeid = id AND d.objid = s.set_id;
    DELETE FROM spock.pgdrover_row_filter f USING spock.replication_set s WHERE s.set_nodeid = id AND f.set_id = s.set_id;
    DELETE FROM spock.replication_set_table t USING spock.replication_set s WHERE s.set_nodeid = id AND t.set_id = s.set_id;
    DELETE FROM spock.replication_set_seq q USING spock.replication_set s WHERE s.set_nodeid = id AND q.set_id = s.set_id;
    DELETE FROM spock.sequence_state t WHERE NOT EXISTS (SELECT FROM spock.replication_set_seq q WHERE q.set_seqoid = t.seqoid);
    DELETE FROM spock.replication_set s WHERE s.set_nodeid = id;
    DELETE FROM spock.progress p WHERE id IN (p.node_id, p.remote_node_id);
    DELETE FROM spock.pgdrover_vector v WHERE id IN (v.provider_id, v.origin_id);
    DELETE FROM spock.node_interface i WHERE i.if_nodeid = id;
    DELETE FROM spock.node k WHERE k.node_id = id;
END
$$;

CREATE OR REPLACE FUNCTION spock.node_add_interface(node_name name, interface_name name, dsn text)
RETURNS oid LANGUAGE plpgsql STRICT AS $$
DECLARE
    n spock.node := pgdrover.find_node(node_add_interface.node_name);
    id pg_catalog.oid := pgdrover.member_id(n.node_id, interface_name);
BEGIN
    IF interface_name = '' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'interface name must not be empty';
    END IF;
    IF EXISTS (SELECT FROM spock.node_interface i WHERE i.if_nodeid = n.node_id AND i.if_name = interface_name) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'node "%s" already has interface named "%s"', n.node_name, interface_name);
    END IF;
    INSERT INTO spock.node_interface (if_id, if_name, if_nodeid, if_dsn) VALUES (id, interface_name, n.node_id, dsn);
    RETURN id;
END
$$;

CREATE OR REPLACE FUNCTION spock.node_drop_interface(node_name name, interface_name name)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    n spock.node := pgdrover.find_node(node_drop_interface.node_name);
    id pg_catalog.oid;
    user_of pg_catalog.name;
BEGIN
    SELECT i.if_id INTO id FROM spock.node_interface i WHERE i.if_nodeid = n.node_id AND i.if_name = interface_name;
    IF id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'interface "%s" for node node "%s" not found', interface_name, n.node_name);
    END IF;
    SELECT s.sub_name INTO user_of FROM spock.subscription s WHERE id IN (s.sub_origin_if, s.sub_target_if)
     ORDER BY s.sub_name LIMIT 1;
    IF user_of IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
            'cannot drop interface "%s" for node "%s" because subscription "%s" is using it',
            interface_name, n.node_name, user_of), HINT = 'change the subscription interface first';
    END IF;
    IF EXISTS (SELECT FROM spock.local_node l WHERE l.node_local_interface = id) THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format(
            'cannot drop interface "%s" for node "%s" because it is the one of this database', interface_name, n.node_name);
    END IF;
    DELETE FROM spock.node_interface i WHERE i.if_id = id;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION spock.node_info(
    OUT node_id oid, OUT node_name text, OUT sysid text, OUT dbname text, OUT replication_sets text,
    OUT location text, OUT country text, OUT info jsonb)
RETURNS record LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM pgdrover.refuse_copy();
    SELECT n.node_id, n.node_name::text, n.location, n.country, n.info
      INTO node_info.node_id, node_info.node_name, node_info.location, node_info.country, node_info.info
      FROM spock.local_node l JOIN spock.node n ON n.node_id = l.node_id;
    IF node_info.node_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'local spock node not found';
    END IF;
    SELECT c.system_identifier::text INTO sysid FROM pg_catalog.pg_control_system() c;
    dbname := pg_catalog.current_database();
    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(s.set_name), ',' ORDER BY s.set_name) INTO replication_sets
      FROM spock.replication_set s WHERE s.set_nodeid = node_info.node_id;
END
$$;

-- Replication sets, and which tables are in them.

-- A message in the stream, in order with the data.
CREATE OR REPLACE FUNCTION pgdrover.enqueue(sets text[], message_type "char", message json, role name = current_user)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO spock.queue (queued_at, role, replication_sets, message_type, message)
    VALUES (pg_catalog.clock_timestamp(), role, sets, message_type, message)
$$;

CREATE OR REPLACE FUNCTION pgdrover.find_set(node oid, wanted text, code text = 'XX000')
RETURNS spock.replication_set LANGUAGE plpgsql STABLE AS $$
DECLARE
    s spock.replication_set;
BEGIN
    SELECT * INTO s FROM spock.replication_set r WHERE r.set_nodeid = node AND r.set_name = wanted::name;
    IF s.set_id IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = code, MESSAGE = pg_catalog.format('replication set %s not found', wanted);
    END IF;
    RETURN s;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.require_value(given anyelement, what text)
RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF given IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = what || ' cannot be NULL';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION spock.repset_create(
    set_name name, replicate_insert boolean = true, replicate_update boolean = true, replicate_delete boolean = true,
    replicate_truncate boolean = true)
RETURNS oid LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    id pg_catalog.oid := pgdrover.member_id(l.node_id, repset_create.set_name);
BEGIN
    IF repset_create.set_name = '' THEN
        RAISE EXCEPTION USING ERRCODE = '42602', MESSAGE = 'replication set name cannot be empty';
    END IF;
    PERFORM pgdrover.check_length(repset_create.set_name, 'replication set');
    IF EXISTS (SELECT FROM spock.replication_set s WHERE s.set_nodeid = l.node_id AND s.set_name = repset_create.set_name) THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(
            'replication set %s already exists', repset_create.set_name);
    END IF;
    INSERT INTO spock.replication_set
    VALUES (id, l.node_id, repset_create.set_name, repset_create.replicate_insert, repset_create.replicate_update,
            repset_create.replicate_delete, repset_create.replicate_truncate);
    RETURN id;
END
$$;

CREATE OR REPLACE FUNCTION spock.repset_alter(
    set_name name, replicate_insert boolean = NULL, replicate_update boolean = NULL, replicate_delete boolean = NULL,
    replicate_truncate boolean = NULL)
RETURNS oid LANGUAGE plpgsql AS $$
DECLARE
    l spock.local_node;
    s spock.replication_set;
BEGIN
    PERFORM pgdrover.require_value(repset_alter.set_name, 'set_name');
    l := pgdrover.require_local_node();
    s := pgdrover.find_set(l.node_id, repset_alter.set_name);
    s.replicate_insert := coalesce(repset_alter.replicate_insert, s.replicate_insert);
    s.replicate_update := coalesce(repset_alter.replicate_update, s.replicate_update);
    s.replicate_delete := coalesce(repset_alter.replicate_delete, s.replicate_delete);
    s.replicate_truncate := coalesce(repset_alter.replicate_truncate, s.replicate_truncate);
    IF (s.replicate_update OR s.replicate_delete) AND EXISTS (
            SELECT FROM spock.replication_set_table t JOIN pg_catalog.pg_class c ON c.oid = t.set_reloid
             WHERE t.set_id = s.set_id AND c.relkind = 'r' AND NOT pgdrover.has_key(c.oid)) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'replication set %s cannot be altered to replicate UPDATEs or DELETEs because it contains tables without PRIMARY KEY',
            s.set_name);
    END IF;
    UPDATE spock.replication_set r
       SET replicate_insert = s.replicate_insert, replicate_update = s.replicate_update,
           replicate_delete = s.replicate_delete, replicate_truncate = s.replicate_truncate
     WHERE r.set_id = s.set_id;
    RETURN s.set_id;
END
$$;

CREATE OR REPLACE FUNCTION spock.repset_drop(set_name name, ifexists boolean = false)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.replication_set;
    seq pg_catalog.oid;
BEGIN
    IF ifexists AND NOT EXISTS (SELECT FROM spock.replication_set r
                                 WHERE r.set_nodeid = l.node_id AND r.set_name = repset_drop.set_name) THEN
        RETURN false;
    END IF;
    s := pgdrover.find_set(l.node_id, repset_drop.set_name);
    DELETE FROM spock.depend d WHERE d.objid = s.set_id;
    DELETE FROM spock.pgdrover_row_filter f WHERE f.set_id = s.set_id;
    DELETE FROM spock.replication_set_table t WHERE t.set_id = s.set_id;
    FOR seq IN DELETE FROM spock.replication_set_seq q WHERE q.set_id = s.set_id RETURNING q.set_seqoid LOOP
        PERFORM pgdrover.forget_sequence(seq);
    END LOOP;
    DELETE FROM spock.replication_set r WHERE r.set_id = s.set_id;
    RETURN true;
END
$$;

-- One membership.
CREATE OR REPLACE FUNCTION pgdrover.add_member(s spock.replication_set, rel oid, columns text[], row_filter text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    c pg_catalog.pg_class;
    col pg_catalog.text;
BEGIN
    SELECT * INTO c FROM pg_catalog.pg_class k WHERE k.oid = rel;
    IF c.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION USING ERRCODE = '42809', MESSAGE = pg_catalog.format('"%s" is not a table', c.relname);
    END IF;
    IF c.relpersistence <> 'p' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'UNLOGGED and TEMP tables cannot be replicated';
    END IF;
    IF pgdrover.reserved_schema((SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE n.oid = c.relnamespace)) OR c.oid < 16384 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'table %s cannot be added to replication set %s', c.relname, s.set_name),
            DETAIL = 'table is in a reserved schema';
    END IF;
    IF (s.replicate_update OR s.replicate_delete) AND c.relkind = 'r' AND NOT pgdrover.has_key(rel) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'table %s cannot be added to replication set %s', c.relname, s.set_name),
            DETAIL = 'table does not have PRIMARY KEY and given replication set is configured to replicate UPDATEs and/or DELETEs',
            HINT = 'Add a PRIMARY KEY to the table';
    END IF;
    FOREACH col IN ARRAY coalesce(columns, '{}') LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                        WHERE a.attrelid = rel AND a.attname = col::name AND a.attnum > 0 AND NOT a.attisdropped) THEN
            RAISE EXCEPTION USING ERRCODE = '42601', MESSAGE = pg_catalog.format(
                'table %s does not have column %s', pgdrover.qualified_name(rel), col);
        END IF;
    END LOOP;
    IF columns IS NOT NULL AND NOT coalesce(pgdrover.index_columns(pgdrover.identity_index(rel)), '{}')::text[] <@ columns THEN
        RAISE EXCEPTION USING ERRCODE = '42601', MESSAGE = 'REPLICA IDENTITY columns must be replicated';
    END IF;
    INSERT INTO spock.replication_set_table (set_id, set_reloid, set_att_list) VALUES (s.set_id, rel, columns);
    INSERT INTO spock.depend VALUES
        ('spock.replication_set_table'::regclass, s.set_id, pgdrover.as_integer(rel), 'pg_catalog.pg_class'::regclass, rel, 0, 'a');
    IF row_filter IS NOT NULL THEN
        PERFORM pgdrover.store_filter(s.set_id, rel, row_filter);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.remove_member(set_id oid, rel oid)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM spock.pgdrover_row_filter f WHERE f.set_id = remove_member.set_id AND f.set_reloid = rel;
    DELETE FROM spock.depend d
     WHERE d.classid = 'spock.replication_set_table'::regclass AND d.objid = remove_member.set_id
       AND d.objsubid = pgdrover.as_integer(rel);
    DELETE FROM spock.replication_set_table t WHERE t.set_id = remove_member.set_id AND t.set_reloid = rel;
    RETURN FOUND;
END
$$;

-- The partitions below a table, at any depth.
CREATE OR REPLACE FUNCTION pgdrover.partitions(rel oid)
RETURNS SETOF oid LANGUAGE sql STABLE AS $$
    SELECT p.relid::oid FROM pg_catalog.pg_partition_tree(rel::regclass) p WHERE p.relid <> rel ORDER BY p.level, p.relid
$$;

CREATE OR REPLACE FUNCTION pgdrover.enqueue_table(set_name name, rel oid)
RETURNS void LANGUAGE sql AS $$
    SELECT pgdrover.enqueue(ARRAY[set_name::text], 'A', pg_catalog.format('{"schema_name": %s,"table_name": %s}',
               pg_catalog.to_json(n.nspname::text), pg_catalog.to_json(c.relname::text))::json)
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = rel
$$;

CREATE OR REPLACE FUNCTION spock.repset_add_table(
    set_name name, relation regclass, synchronize_data boolean = false, columns text[] = NULL, row_filter text = NULL,
    include_partitions boolean = true)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    l spock.local_node;
    s spock.replication_set;
    part pg_catalog.oid;
BEGIN
    PERFORM pgdrover.require_value(repset_add_table.set_name, 'set_name');
    PERFORM pgdrover.require_value(relation, 'relation');
    PERFORM pgdrover.require_value(synchronize_data, 'synchronize_data');
    l := pgdrover.require_local_node();
    s := pgdrover.find_set(l.node_id, repset_add_table.set_name);
    IF (SELECT c.relkind IN ('r', 'p') FROM pg_catalog.pg_class c WHERE c.oid = relation) THEN
        EXECUTE pg_catalog.format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE', pgdrover.qualified_name(relation));
    END IF;
    PERFORM pgdrover.add_member(s, relation, columns, row_filter);
    IF include_partitions THEN
        FOR part IN SELECT p FROM pgdrover.partitions(relation) p
                     WHERE NOT EXISTS (SELECT FROM spock.replication_set_table t WHERE t.set_id = s.set_id AND t.set_reloid = p) LOOP
            PERFORM pgdrover.add_member(s, part, columns, row_filter);
        END LOOP;
    END IF;
    PERFORM pgdrover.warn_unspread(relation);
    IF synchronize_data THEN
        PERFORM pgdrover.enqueue_table(s.set_name, relation);
    END IF;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION spock.repset_add_all_tables(set_name name, schema_names text[], synchronize_data boolean = false)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.replication_set := pgdrover.find_set(l.node_id, repset_add_all_tables.set_name);
    schema_name pg_catalog.text;
    c pg_catalog.record;
BEGIN
    PERFORM pgdrover.check_list('schema_names', schema_names);
    FOREACH schema_name IN ARRAY schema_names LOOP
        IF pg_catalog.to_regnamespace(pg_catalog.quote_ident(schema_name)) IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = '3F000', MESSAGE = pg_catalog.format('schema "%s" does not exist', schema_name);
        END IF;
        FOR c IN SELECT k.oid, k.relispartition FROM pg_catalog.pg_class k JOIN pg_catalog.pg_namespace n ON n.oid = k.relnamespace
                  WHERE n.nspname = schema_name::name AND k.relkind IN ('r', 'p') AND k.relpersistence = 'p' ORDER BY k.oid LOOP
            CONTINUE WHEN EXISTS (SELECT FROM spock.replication_set_table t WHERE t.set_id = s.set_id AND t.set_reloid = c.oid);
            PERFORM pgdrover.add_member(s, c.oid, NULL, NULL);
            IF synchronize_data AND NOT c.relispartition THEN
                PERFORM pgdrover.enqueue_table(s.set_name, c.oid);
            END IF;
        END LOOP;
    END LOOP;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.raise_no_member(set_name name, rel oid)
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('Table %s not found in replication set %s',
        (SELECT c.relname FROM pg_catalog.pg_class c WHERE c.oid = rel), set_name);
END
$$;

CREATE OR REPLACE FUNCTION spock.repset_remove_table(set_name name, relation regclass, include_partitions boolean = true)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.replication_set := pgdrover.find_set(l.node_id, repset_remove_table.set_name);
BEGIN
    IF NOT pgdrover.remove_member(s.set_id, relation)
       AND NOT (SELECT c.relispartition FROM pg_catalog.pg_class c WHERE c.oid = relation) THEN
        PERFORM pgdrover.raise_no_member(s.set_name, relation);
    END IF;
    IF include_partitions THEN
        PERFORM pgdrover.remove_member(s.set_id, p) FROM pgdrover.partitions(relation) p;
    END IF;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION spock.repset_add_partition(parent regclass, partition regclass = NULL, row_filter text = NULL)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    l spock.local_node;
    m pg_catalog.record;
    part pg_catalog.oid;
    n integer := 0;
BEGIN
    PERFORM pgdrover.require_value(parent, 'parent table');
    l := pgdrover.require_local_node();
    FOR m IN SELECT s AS repset, t.set_att_list, pgdrover.filter_text(t.set_row_filter, t.set_reloid) AS filter
               FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)
              WHERE t.set_reloid = parent AND s.set_nodeid = l.node_id ORDER BY s.set_name LOOP
        FOR part IN SELECT p FROM pgdrover.partitions(parent) p
                     WHERE (partition IS NULL OR p = partition)
                       AND NOT EXISTS (SELECT FROM spock.replication_set_table t
                                        WHERE t.set_id = (m.repset).set_id AND t.set_reloid = p) LOOP
            PERFORM pgdrover.add_member(m.repset, part, m.set_att_list, coalesce(repset_add_partition.row_filter, m.filter));
            n := n + 1;
        END LOOP;
    END LOOP;
    RETURN n;
END
$$;

CREATE OR REPLACE FUNCTION spock.repset_remove_partition(parent regclass, partition regclass = NULL)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    l spock.local_node;
    s pg_catalog.record;
    part pg_catalog.oid;
    n integer := 0;
BEGIN
    PERFORM pgdrover.require_value(parent, 'parent table');
    l := pgdrover.require_local_node();
    FOR s IN SELECT r.set_id, r.set_name FROM spock.replication_set_table t JOIN spock.replication_set r USING (set_id)
              WHERE t.set_reloid = parent AND r.set_nodeid = l.node_id ORDER BY r.set_name LOOP
        FOR part IN SELECT p FROM pgdrover.partitions(parent) p WHERE partition IS NULL OR p = partition LOOP
            IF pgdrover.remove_member(s.set_id, part) THEN
                n := n + 1;
            ELSIF partition IS NOT NULL THEN
                PERFORM pgdrover.raise_no_member(s.set_name, part);
            END IF;
        END LOOP;
    END LOOP;
    RETURN n;
END
$$;

CREATE OR REPLACE FUNCTION spock.repset_show_table(
    relation regclass, repsets text[], OUT relid oid, OUT nspname text, OUT relname text, OUT att_list text[],
    OUT has_row_filter boolean, OUT relkind "char", OUT relispartition boolean)
RETURNS record LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    node pg_catalog.oid := pgdrover.local_node_id();
    ids pg_catalog.oid[];
    listed pg_catalog.text[];
BEGIN
    IF node IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'local spock node not found';
    END IF;
    SELECT pg_catalog.array_agg((pgdrover.find_set(node, r, '22023')).set_id) INTO ids FROM pg_catalog.unnest(repsets) r;
    SELECT c.oid, n.nspname::text, c.relname::text, c.relkind, c.relispartition
      INTO relid, repset_show_table.nspname, repset_show_table.relname, repset_show_table.relkind, repset_show_table.relispartition
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation;
    -- A set without a list does not widen the union of those with one.
    SELECT pg_catalog.array_agg(DISTINCT a.name) FILTER (WHERE a.name IS NOT NULL),
           coalesce(pg_catalog.bool_or(t.set_row_filter IS NOT NULL), false)
      INTO listed, has_row_filter
      FROM spock.replication_set_table t LEFT JOIN LATERAL pg_catalog.unnest(t.set_att_list) AS a(name) ON true
     WHERE t.set_reloid = relation AND t.set_id = ANY (ids);
    SELECT pg_catalog.array_agg(a.attname::text ORDER BY a.attnum) INTO att_list
      FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
       AND (listed IS NULL OR a.attname::text = ANY (listed));
END
$$;

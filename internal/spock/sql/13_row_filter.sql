-- Row filters. There is no function that makes a pg_node_tree of a text; the server makes one for a CHECK constraint.

-- A filter's text, the same whatever the search path of who asks and of who evaluates it.
CREATE OR REPLACE FUNCTION pgdrover.filter_text(tree pg_node_tree, rel oid)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
BEGIN
    RETURN pg_get_expr(tree, rel);
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.add_filter_constraint(rel oid, expression text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    code pg_catalog.text;
    message pg_catalog.text;
BEGIN
    PERFORM pgdrover.run(pg_catalog.format(E'ALTER TABLE %s ADD CONSTRAINT pgdrover_row_filter CHECK (%s\n)%s NOT VALID',
        pgdrover.qualified_name(rel), expression,
        CASE (SELECT c.relkind FROM pg_catalog.pg_class c WHERE c.oid = rel) WHEN 'p' THEN '' ELSE ' NO INHERIT' END));
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE;
    message := pg_catalog.replace(pg_catalog.replace(SQLERRM,
        'can be referenced in check constraint', 'can be referenced in row_filter'),
        'argument of CHECK must', 'argument of row_filter must');
    IF code = '42601' THEN
        RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message,
            DETAIL = pg_catalog.format('invalid row_filter expression "%s"', expression);
    END IF;
    RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message;
END
$$;

-- Parses an expression and stores it as the filter of a membership, instead of an older one.
CREATE OR REPLACE FUNCTION pgdrover.store_filter(target_set oid, rel oid, expression text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    con pg_catalog.record;
BEGIN
    IF NOT pgdrover.is_one_expression(expression) THEN
        RAISE EXCEPTION USING ERRCODE = '42601', MESSAGE = pg_catalog.format('invalid row_filter expression "%s"', expression);
    END IF;
    PERFORM pgdrover.add_filter_constraint(rel, expression);
    SELECT c.oid, c.conbin, pgdrover.filter_text(c.conbin, c.conrelid) AS text INTO STRICT con
      FROM pg_catalog.pg_constraint c WHERE c.conrelid = rel AND c.conname = 'pgdrover_row_filter';
    UPDATE spock.replication_set_table t SET set_row_filter = con.conbin WHERE t.set_id = target_set AND t.set_reloid = rel;
    INSERT INTO spock.pgdrover_row_filter (set_id, set_reloid, row_filter) VALUES (target_set, rel, con.text)
        ON CONFLICT (set_id, set_reloid) DO UPDATE SET row_filter = excluded.row_filter;
    DELETE FROM spock.depend d
     WHERE d.classid = 'spock.replication_set_table'::regclass AND d.objid = target_set
       AND d.objsubid = pgdrover.as_integer(rel) AND d.deptype = 'n';
    INSERT INTO spock.depend
    SELECT DISTINCT 'spock.replication_set_table'::regclass::oid, target_set, pgdrover.as_integer(rel),
           d.refclassid, d.refobjid, d.refobjsubid, 'n'::"char"
      FROM pg_catalog.pg_depend d
     WHERE d.classid = 'pg_catalog.pg_constraint'::regclass AND d.objid = con.oid
       AND (d.refclassid <> 'pg_catalog.pg_class'::regclass OR d.refobjsubid > 0)
       AND d.refclassid <> 'pg_catalog.pg_constraint'::regclass;
    PERFORM pgdrover.run(pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT pgdrover_row_filter', pgdrover.qualified_name(rel)));
END
$$;

-- A table that was altered has its filters read again: columns may have other names or types. A filter that no longer
-- makes sense fails the statement, as a CHECK constraint would.
CREATE OR REPLACE FUNCTION pgdrover.refresh_filters(rels oid[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    t pg_catalog.record;
BEGIN
    FOR t IN SELECT m.set_id, m.set_reloid, pgdrover.filter_text(m.set_row_filter, m.set_reloid) AS filter
               FROM spock.replication_set_table m
              WHERE m.set_row_filter IS NOT NULL AND m.set_reloid::oid = ANY (rels) LOOP
        PERFORM pgdrover.store_filter(t.set_id, t.set_reloid, t.filter);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION spock.table_data_filtered(reltyp anyelement, relation regclass, repsets text[])
RETURNS SETOF anyelement LANGUAGE plpgsql STABLE AS $$
DECLARE
    node pg_catalog.oid;
    ids pg_catalog.oid[];
    filters pg_catalog.text;
BEGIN
    PERFORM pgdrover.require_value(relation, 'relation');
    PERFORM pgdrover.require_value(repsets, 'repsets');
    IF (SELECT t.typtype <> 'c' FROM pg_catalog.pg_type t WHERE t.oid = pg_catalog.pg_typeof(reltyp)) THEN
        RAISE EXCEPTION USING ERRCODE = '42804',
            MESSAGE = 'first argument of spock_table_data_filtered must be a row type';
    END IF;
    IF (SELECT c.reltype <> pg_catalog.pg_typeof(reltyp) FROM pg_catalog.pg_class c WHERE c.oid = relation) THEN
        RAISE EXCEPTION USING ERRCODE = '42804',
            MESSAGE = 'return type of spock_table_data_filtered must be same as row type of the relation';
    END IF;
    node := pgdrover.local_node_id();
    IF node IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'local spock node not found';
    END IF;
    SELECT pg_catalog.array_agg((pgdrover.find_set(node, r, '22023')).set_id) INTO ids FROM pg_catalog.unnest(repsets) r;
    -- NULL when some set takes every row.
    SELECT CASE WHEN pg_catalog.bool_or(t.set_row_filter IS NULL) THEN NULL ELSE pg_catalog.string_agg(
               '(' || pgdrover.filter_text(t.set_row_filter, t.set_reloid) || ')', ' OR ') END INTO filters
      FROM spock.replication_set_table t WHERE t.set_reloid = relation AND t.set_id = ANY (ids);
    RETURN QUERY EXECUTE 'SELECT * FROM ' || pgdrover.qualified_name(relation)
        || CASE WHEN filters IS NULL THEN '' ELSE ' WHERE ' || filters END;
END
$$;

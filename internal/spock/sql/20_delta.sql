-- Columns that take differences, functions for values, and the schemas that stand apart.

CREATE OR REPLACE FUNCTION spock.delta_apply(int2, int2, int2)
RETURNS int2 LANGUAGE sql AS $$ SELECT $3 + ($2 - $1) $$;
CREATE OR REPLACE FUNCTION spock.delta_apply(int4, int4, int4)
RETURNS int4 LANGUAGE sql AS $$ SELECT $3 + ($2 - $1) $$;
CREATE OR REPLACE FUNCTION spock.delta_apply(int8, int8, int8)
RETURNS int8 LANGUAGE sql AS $$ SELECT $3 + ($2 - $1) $$;
CREATE OR REPLACE FUNCTION spock.delta_apply(float4, float4, float4)
RETURNS float4 LANGUAGE sql AS $$ SELECT $3 + ($2 - $1) $$;
CREATE OR REPLACE FUNCTION spock.delta_apply(float8, float8, float8)
RETURNS float8 LANGUAGE sql AS $$ SELECT $3 + ($2 - $1) $$;
CREATE OR REPLACE FUNCTION spock.delta_apply(numeric, numeric, numeric)
RETURNS numeric LANGUAGE sql AS $$ SELECT $3 + ($2 - $1) $$;
CREATE OR REPLACE FUNCTION spock.delta_apply(money, money, money)
RETURNS money LANGUAGE sql AS $$ SELECT $3 + ($2 - $1) $$;

CREATE OR REPLACE FUNCTION pgdrover.require_table(relation regclass)
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF (SELECT c.relkind <> 'r' OR c.relpersistence <> 'p' FROM pg_catalog.pg_class c WHERE c.oid = relation) THEN
        RAISE EXCEPTION USING ERRCODE = '42809', MESSAGE = pg_catalog.format('%s is not an ordinary table', relation);
    END IF;
END
$$;

-- With replica identity FULL a table without delta columns has no key, and is for inserts alone; one that has got its key
-- (back) is taken out of there. Elsewhere it stays what somebody has made of it.
CREATE OR REPLACE FUNCTION pgdrover.assign_keyed(relation regclass)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pgdrover.has_key(relation) AND 'default_insert_only' = ALL (
           SELECT s.set_name FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id) WHERE t.set_reloid = relation)
       AND EXISTS (SELECT FROM spock.replication_set_table t WHERE t.set_reloid = relation) THEN
        PERFORM pgdrover.assign_table(relation);
    END IF;
END
$$;

-- An update adds new - old to such a column here, whatever becomes of the rest of the row. The old value travels only
-- with replica identity FULL, or when the identity's index contains the column. Call it on every node.
CREATE OR REPLACE FUNCTION pgdrover.delta_column_add(relation regclass, column_name name)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    a pg_catalog.record;
    keyed boolean := pgdrover.has_key(relation);
BEGIN
    PERFORM pgdrover.require_table(relation);
    SELECT k.atttypid, k.attnotnull, k.attgenerated INTO a FROM pg_catalog.pg_attribute k
     WHERE k.attrelid = relation AND k.attname = column_name AND k.attnum > 0 AND NOT k.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42703', MESSAGE = pg_catalog.format(
            'column "%s" of relation %s does not exist', column_name, relation);
    ELSIF a.atttypid::regtype::text NOT IN ('smallint', 'integer', 'bigint', 'real', 'double precision', 'numeric', 'money')
          OR a.attgenerated <> '' THEN
        RAISE EXCEPTION USING ERRCODE = '42804', MESSAGE = pg_catalog.format(
            'column "%s" of relation %s cannot take differences', column_name, relation),
            DETAIL = 'It must be a number or money, and not generated.';
    ELSIF NOT a.attnotnull THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'column "%s" of relation %s must be NOT NULL', column_name, relation);
    ELSIF NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                       WHERE i.indrelid = relation AND i.indisprimary AND i.indimmediate AND i.indisvalid) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('table %s has no primary key', relation);
    ELSIF column_name = ANY (pgdrover.index_columns((SELECT i.indexrelid FROM pg_catalog.pg_index i
                                                      WHERE i.indrelid = relation AND i.indisprimary))) THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format(
            'column "%s" is part of the primary key of %s', column_name, relation);
    END IF;
    IF EXISTS (SELECT FROM spock.pgdrover_delta_column d WHERE d.relid = relation AND d.column_name = delta_column_add.column_name) THEN
        RETURN false;
    END IF;
    INSERT INTO spock.pgdrover_delta_column (relid, column_name) VALUES (relation, delta_column_add.column_name);
    IF NOT coalesce(column_name = ANY (pgdrover.index_columns(pgdrover.identity_index(relation))), false)
       AND (SELECT c.relreplident <> 'f' FROM pg_catalog.pg_class c WHERE c.oid = relation) THEN
        PERFORM pgdrover.run(pg_catalog.format('ALTER TABLE %s REPLICA IDENTITY FULL', pgdrover.qualified_name(relation)));
        RAISE NOTICE USING MESSAGE = pg_catalog.format('replica identity of %s is now FULL', relation);
    END IF;
    PERFORM pgdrover.publish(ARRAY[relation::oid]);
    IF NOT keyed THEN
        PERFORM pgdrover.assign_keyed(relation);
    END IF;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.delta_column_remove(relation regclass, column_name name)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    removed boolean;
    reset boolean := false;
BEGIN
    DELETE FROM spock.pgdrover_delta_column d WHERE d.relid = relation AND d.column_name = delta_column_remove.column_name;
    removed := FOUND;
    IF removed AND NOT EXISTS (SELECT FROM spock.pgdrover_delta_column d WHERE d.relid = relation)
       AND (SELECT c.relreplident = 'f' FROM pg_catalog.pg_class c WHERE c.oid = relation) THEN
        PERFORM pgdrover.run(pg_catalog.format('ALTER TABLE %s REPLICA IDENTITY DEFAULT', pgdrover.qualified_name(relation)));
        RAISE NOTICE USING MESSAGE = pg_catalog.format('replica identity of %s is now DEFAULT', relation);
        reset := true;
    END IF;
    PERFORM pgdrover.publish(ARRAY[relation::oid]);
    IF reset THEN
        PERFORM pgdrover.assign_keyed(relation);
    END IF;
    RETURN removed;
END
$$;

CREATE OR REPLACE FUNCTION spock.convert_column_to_int8(p_rel regclass, p_attnum smallint)
RETURNS integer LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    a pg_catalog.record;
    command pg_catalog.text;
    r pg_catalog.record;
    n integer := 0;
BEGIN
    SELECT k.attname, k.atttypid INTO a FROM pg_attribute k WHERE k.attrelid = p_rel AND k.attnum = p_attnum AND NOT k.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'Attribute % of reation % not found', p_attnum, p_rel;
    END IF;
    IF a.atttypid <> 'int8'::regtype THEN
        command := format('ALTER TABLE %s ALTER COLUMN %I SET DATA TYPE int8', p_rel, a.attname);
        RAISE NOTICE 'EXECUTE %', command;
        EXECUTE command;
        n := 1;
    END IF;
    FOR r IN SELECT c.conrelid::regclass AS rel, c.conkey[array_position(c.confkey, p_attnum)] AS attnum
               FROM pg_constraint c
              WHERE c.contype = 'f' AND c.confrelid = p_rel AND p_attnum = ANY (c.confkey) AND c.conparentid = 0
              ORDER BY c.oid LOOP
        n := n + CASE WHEN (SELECT k.atttypid = 'int8'::regtype FROM pg_attribute k WHERE k.attrelid = r.rel AND k.attnum = r.attnum)
                      THEN 0 ELSE spock.convert_column_to_int8(r.rel, r.attnum) END;
    END LOOP;
    RETURN n;
END
$$;

CREATE OR REPLACE FUNCTION spock.convert_sequence_to_snowflake(p_seqid regclass)
RETURNS integer LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    d pg_catalog.record;
    command pg_catalog.text;
    n integer := 0;
BEGIN
    FOR d IN SELECT f.adrelid::regclass AS rel, f.adnum, a.attname
               FROM pg_attrdef f
               JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
               JOIN pg_depend p ON p.classid = 'pg_attrdef'::regclass AND p.objid = f.oid
                               AND p.refclassid = 'pg_class'::regclass AND p.refobjid = p_seqid
              WHERE pg_get_expr(f.adbin, f.adrelid) ~ E'^nextval\\(' ORDER BY f.oid LOOP
        n := n + spock.convert_column_to_int8(d.rel, d.adnum);
        command := format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT snowflake.nextval(%L::regclass)', d.rel, d.attname, p_seqid);
        RAISE NOTICE 'EXECUTE %', command;
        EXECUTE command;
        n := n + 1;
    END LOOP;
    RETURN n;
END
$$;

CREATE OR REPLACE FUNCTION spock.md5_agg_sfunc(text, anyelement)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT pg_catalog.md5($1 || $2::text) $$;
CREATE OR REPLACE AGGREGATE spock.md5_agg(ORDER BY anyelement) (STYPE = text, SFUNC = spock.md5_agg_sfunc, INITCOND = '', PARALLEL = SAFE);

CREATE OR REPLACE FUNCTION pgdrover.guard_reserved_object()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.builtin THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = pg_catalog.format(
            'cannot %s built-in reserved object "%s" (%s)', pg_catalog.lower(TG_OP), OLD.name, OLD.kind);
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;
CREATE OR REPLACE TRIGGER reserved_object_guard BEFORE UPDATE OR DELETE ON spock.reserved_object
    FOR EACH ROW EXECUTE FUNCTION pgdrover.guard_reserved_object();

CREATE OR REPLACE FUNCTION spock.reserved_object_add(
    p_name name, p_kind text, p_exclude_from_dump boolean = true, p_block_in_repset boolean = true, p_replicate_ddl boolean = NULL)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO spock.reserved_object AS r (name, kind, exclude_from_dump, block_in_repset, replicate_ddl)
    VALUES (p_name, p_kind, p_exclude_from_dump, p_block_in_repset,
            CASE WHEN p_kind = 'schema' THEN coalesce(p_replicate_ddl, true) END)
        ON CONFLICT (name, kind) DO UPDATE SET exclude_from_dump = excluded.exclude_from_dump,
               block_in_repset = excluded.block_in_repset, replicate_ddl = excluded.replicate_ddl;
END
$$;

CREATE OR REPLACE FUNCTION spock.reserved_object_remove(p_name name, p_kind text)
RETURNS void LANGUAGE sql AS $$
    DELETE FROM spock.reserved_object r WHERE r.name = p_name AND r.kind = p_kind
$$;

-- Read-only modes: sessions begin read-only, and member tables refuse writes of those that change that for themselves.
CREATE OR REPLACE FUNCTION pgdrover.on_readonly()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '25006', MESSAGE = 'spock: invalid statement for a read-only cluster';
END
$$;

-- The mode that is enforced now; nothing while none ever was.
CREATE TABLE IF NOT EXISTS spock.pgdrover_readonly (
    one  boolean PRIMARY KEY DEFAULT true CHECK (one),
    mode text NOT NULL
);

CREATE OR REPLACE FUNCTION pgdrover.enforce_readonly(mode text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    rel pg_catalog.oid;
BEGIN
    INSERT INTO spock.pgdrover_readonly (mode) VALUES (enforce_readonly.mode) ON CONFLICT (one) DO UPDATE SET mode = excluded.mode;
    PERFORM pgdrover.run(pg_catalog.format('ALTER DATABASE %I %s', pg_catalog.current_database(),
        CASE WHEN mode = 'off' THEN 'RESET default_transaction_read_only' ELSE 'SET default_transaction_read_only = on' END));
    FOR rel IN SELECT w.relid FROM spock.pgdrover_watch w JOIN pg_catalog.pg_class c ON c.oid = w.relid
                WHERE (mode = 'off') = EXISTS (SELECT FROM pg_catalog.pg_trigger t
                                                WHERE t.tgrelid = w.relid AND t.tgname = 'pgdrover_readonly') ORDER BY 1 LOOP
        PERFORM pgdrover.run(pg_catalog.format(CASE WHEN mode = 'off' THEN 'DROP TRIGGER pgdrover_readonly ON %s'
            ELSE 'CREATE TRIGGER pgdrover_readonly BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s '
                 'FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.on_readonly()' END, pgdrover.qualified_name(rel)));
    END LOOP;
END
$$;

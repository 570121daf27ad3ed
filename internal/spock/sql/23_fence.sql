-- The fence against changes of definitions while a node joins.

CREATE OR REPLACE FUNCTION pgdrover.fence_raise(run text, run_owner text, joining text, reject boolean)
RETURNS void LANGUAGE sql AS $$
    DELETE FROM spock.pgdrover_fence f WHERE f.run_id <> run AND f.heartbeat < pg_catalog.clock_timestamp() - interval '1 hour';
    INSERT INTO spock.pgdrover_fence (run_id, owner, joins, rejects) VALUES (run, run_owner, joining, reject)
        ON CONFLICT (run_id) DO UPDATE SET owner = excluded.owner, rejects = excluded.rejects,
               heartbeat = pg_catalog.clock_timestamp()
$$;

CREATE OR REPLACE FUNCTION pgdrover.fence_beat(run text)
RETURNS void LANGUAGE sql AS $$
    UPDATE spock.pgdrover_fence SET heartbeat = pg_catalog.clock_timestamp() WHERE run_id = run
$$;

CREATE OR REPLACE FUNCTION pgdrover.fence_lower(run text)
RETURNS void LANGUAGE sql AS $$
    DELETE FROM spock.pgdrover_fence WHERE run_id = run;
    DELETE FROM spock.pgdrover_fence_bypass WHERE run_id = run
$$;

-- The run that holds definitions now.
CREATE OR REPLACE FUNCTION pgdrover.fence_run()
RETURNS spock.pgdrover_fence LANGUAGE sql STABLE AS $$
    SELECT f FROM spock.pgdrover_fence f
     WHERE f.rejects AND f.heartbeat > pg_catalog.clock_timestamp() - interval '60 s' ORDER BY f.run_id LIMIT 1
$$;

-- Refuses the statement, or notes that a superuser wants it all the same.
CREATE OR REPLACE FUNCTION pgdrover.fence_refuse(tag text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    f spock.pgdrover_fence := pgdrover.fence_run();
BEGIN
    IF f.run_id IS NULL THEN
        RETURN;
    END IF;
    IF pg_catalog.current_setting('pgdrover.fence', true) = 'off'
       AND (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = session_user) THEN
        INSERT INTO spock.pgdrover_fence_bypass (run_id, role, tag, statement)
        VALUES (f.run_id, session_user, tag, pg_catalog.left(pg_catalog.current_query(), 10000));
        RETURN;
    END IF;
    RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = pg_catalog.format('cannot execute %s while %s joins the cluster', tag, f.joins),
        DETAIL = pg_catalog.format('Run %s of %s keeps definitions as they are since %s.', f.run_id, f.owner,
                                   pg_catalog.date_trunc('second', f.raised_at)),
        HINT = 'Try again when it has ended. Temporary objects are not affected.';
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.on_fence_end()
RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('spock.pgdrover_fence') IS NULL OR NOT EXISTS (SELECT FROM spock.pgdrover_fence) OR pgdrover.internal()
       OR TG_TAG IN ('REFRESH MATERIALIZED VIEW', 'REINDEX') THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() c
                WHERE NOT coalesce(c.schema_name = 'pg_temp' OR c.schema_name LIKE E'pg\\_temp\\_%'
                                   OR c.object_identity ~ E'\\mon pg_temp(_\\d+)?\\.' OR c.object_identity ~ E'^pg_temp(_\\d+)?\\.', false)) THEN
        PERFORM pgdrover.fence_refuse(TG_TAG);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.on_fence_drop()
RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('spock.pgdrover_fence') IS NULL OR NOT EXISTS (SELECT FROM spock.pgdrover_fence) OR pgdrover.internal() THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() d WHERE d.original AND NOT d.is_temporary) THEN
        PERFORM pgdrover.fence_refuse(TG_TAG);
    END IF;
END
$$;

-- Whether an object is somebody's own: no part of an extension, of ours, or of the system.
CREATE OR REPLACE FUNCTION pgdrover.is_foreign(class oid, object oid, schema oid)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                        WHERE d.classid = class AND d.objid = object AND d.deptype = 'e')
       AND NOT pgdrover.reserved_schema((SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE n.oid = schema))
$$;

-- Every definition with a digest of it: what tables are, and with "all" also functions, types, replication sets and roles.
CREATE OR REPLACE FUNCTION pgdrover.fingerprint(everything boolean, skipped text[] = '{}')
RETURNS jsonb LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    WITH own AS MATERIALIZED ( -- before all else: most of what there is lies in other schemas
        SELECT n.oid, n.nspname FROM pg_namespace n WHERE NOT pgdrover.reserved_schema(n.nspname)),
    rel AS (
        SELECT c.oid, c.relkind, c.relreplident, c.relname, n.nspname, format('%I.%I', n.nspname, c.relname) AS name
          FROM pg_class c JOIN own n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't' AND NOT n.nspname = ANY (skipped::name[])
           AND pgdrover.is_foreign('pg_class'::regclass, c.oid, n.oid))
    SELECT coalesce(jsonb_object_agg(k.name, md5(k.definition)), '{}') FROM (
        SELECT 'relation ' || r.name AS name, concat_ws(' ', r.relkind, r.relreplident,
                   CASE WHEN r.relkind IN ('v', 'm') THEN pg_get_viewdef(r.oid) END,
                   CASE WHEN r.relkind = 'p' THEN pg_get_partkeydef(r.oid) END,
                   (SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
                                                a.attgenerated, pg_get_expr(d.adbin, d.adrelid)), ', ' ORDER BY a.attname)
                      FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                     WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped AND r.relkind <> 'S')) AS definition
          FROM rel r
        UNION ALL SELECT format('constraint %I on %s', k.conname, r.name), pg_get_constraintdef(k.oid)
          FROM pg_constraint k JOIN rel r ON r.oid = k.conrelid WHERE k.contype IN ('c', 'f', 'p', 'u', 'x')
        UNION ALL SELECT format('index %I on %s', c.relname, r.name), pg_get_indexdef(i.indexrelid)
          FROM pg_index i JOIN rel r ON r.oid = i.indrelid JOIN pg_class c ON c.oid = i.indexrelid
        UNION ALL SELECT format('trigger %I on %s', t.tgname, r.name), pg_get_triggerdef(t.oid) || t.tgenabled::text
          FROM pg_trigger t JOIN rel r ON r.oid = t.tgrelid
         WHERE everything AND NOT t.tgisinternal AND t.tgname NOT LIKE E'pgdrover\\_%'
        UNION ALL SELECT 'function ' || p.oid::regprocedure, CASE WHEN p.prokind IN ('f', 'p') THEN pg_get_functiondef(p.oid) ELSE p.prosrc END
          FROM pg_proc p
         WHERE everything AND p.pronamespace = ANY (ARRAY (SELECT n.oid FROM own n)) AND pgdrover.is_foreign('pg_proc'::regclass, p.oid, p.pronamespace)
        UNION ALL SELECT 'type ' || y.oid::regtype, concat_ws(' ', y.typtype, y.typnotnull, format_type(y.typbasetype, y.typtypmod),
                   (SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = y.oid),
                   (SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
                      FROM pg_attribute a WHERE a.attrelid = y.typrelid AND a.attnum > 0 AND NOT a.attisdropped))
          FROM pg_type y
         WHERE everything AND (y.typtype IN ('e', 'd', 'r') OR (SELECT c.relkind FROM pg_class c WHERE c.oid = y.typrelid) = 'c')
           AND y.typnamespace = ANY (ARRAY (SELECT n.oid FROM own n))
           AND pgdrover.is_foreign('pg_type'::regclass, y.oid, y.typnamespace)
        UNION ALL SELECT 'schema ' || quote_ident(n.nspname), '' FROM pg_namespace n
         WHERE everything AND NOT pgdrover.reserved_schema(n.nspname)
        UNION ALL SELECT 'extension ' || quote_ident(x.extname), x.extversion FROM pg_extension x WHERE everything
        UNION ALL SELECT 'role ' || quote_ident(o.rolname), concat_ws(' ', o.rolcanlogin, o.rolsuper, o.rolinherit)
          FROM pg_roles o WHERE everything AND o.rolname !~ '^pg_'
        UNION ALL SELECT format('replication set %I', s.set_name), concat_ws(' ', s.replicate_insert, s.replicate_update,
                   s.replicate_delete, s.replicate_truncate)
          FROM spock.replication_set s JOIN spock.local_node l ON l.node_id = s.set_nodeid WHERE everything
        UNION ALL SELECT format('member %s of replication set %I', m.set_reloid, s.set_name),
                   concat_ws(' ', m.set_att_list, pg_get_expr(m.set_row_filter, m.set_reloid))
          FROM spock.replication_set_table m JOIN spock.replication_set s USING (set_id) JOIN spock.local_node l ON l.node_id = s.set_nodeid
         WHERE everything) AS k
$$;

CREATE OR REPLACE FUNCTION pgdrover.fence_mark(run text)
RETURNS void LANGUAGE sql AS $$
    UPDATE spock.pgdrover_fence SET fingerprint = pgdrover.fingerprint(true) WHERE run_id = run
$$;

-- What is not any more as it was at the mark; NULL when everything is.
CREATE OR REPLACE FUNCTION pgdrover.fence_changes(run text)
RETURNS text LANGUAGE sql STABLE AS $$
    WITH f AS (SELECT k.fingerprint AS before, pgdrover.fingerprint(true) AS after FROM spock.pgdrover_fence k WHERE k.run_id = run)
    SELECT CASE WHEN NOT EXISTS (SELECT FROM f WHERE f.before IS NOT NULL) THEN 'the mark of this run is gone' ELSE (
        SELECT pg_catalog.string_agg(d.change, ', ' ORDER BY d.change) FROM (
            SELECT CASE WHEN b.key IS NULL THEN 'new ' || a.key WHEN a.key IS NULL THEN 'gone ' || b.key ELSE 'changed ' || a.key END AS change
              FROM (SELECT e.* FROM f, LATERAL pg_catalog.jsonb_each_text(f.before) e) AS b
              FULL JOIN (SELECT e.* FROM f, LATERAL pg_catalog.jsonb_each_text(f.after) e) AS a USING (key)
             WHERE a.value IS DISTINCT FROM b.value ORDER BY 1 LIMIT 50) AS d) END
$$;

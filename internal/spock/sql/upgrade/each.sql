-- The end of every upgrade, when all functions are the new ones.

-- A node of before that was kept is where it is.
SELECT pgdrover.keep_place(false) FROM spock.local_node;

-- A node that was made in a restored dump may still have the triggers of the one that was dumped.
SELECT pgdrover.drop_strange_triggers();

-- Triggers of users' tables whose functions would be made differently now, and filters whose texts would be.
SELECT pgdrover.watch(w.relid) FROM spock.pgdrover_watch w ORDER BY w.relid;

UPDATE spock.pgdrover_row_filter f
   SET row_filter = pgdrover.filter_text(t.set_row_filter, t.set_reloid)
  FROM spock.replication_set_table t
 WHERE t.set_id = f.set_id AND t.set_reloid = f.set_reloid
   AND f.row_filter <> pgdrover.filter_text(t.set_row_filter, t.set_reloid);

-- What CREATE EXTENSION has made goes with DROP EXTENSION, and so does what came later.
DO $$
DECLARE
    object text;
BEGIN
    FOR object IN
        SELECT o.kind || ' ' || o.name FROM (
            SELECT CASE p.prokind WHEN 'p' THEN 'PROCEDURE' WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END AS kind,
                   p.oid::regprocedure::text AS name, 'pg_catalog.pg_proc'::regclass AS class, p.oid AS id
              FROM pg_catalog.pg_proc p
             WHERE p.pronamespace IN ('spock'::regnamespace, 'pgdrover'::regnamespace) AND p.proname NOT LIKE 'tombstone\_%'
             UNION ALL
            SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, c.oid::regclass::text, 'pg_catalog.pg_class'::regclass, c.oid
              FROM pg_catalog.pg_class c WHERE c.relnamespace = 'spock'::regnamespace AND c.relkind IN ('r', 'v')
             UNION ALL
            SELECT 'EVENT TRIGGER', e.evtname::text, 'pg_catalog.pg_event_trigger'::regclass, e.oid
              FROM pg_catalog.pg_event_trigger e WHERE e.evtname LIKE 'pgdrover\_%') AS o
         WHERE EXISTS (SELECT FROM pg_catalog.pg_extension x WHERE x.extname = 'spock')
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                            WHERE d.classid = o.class AND d.objid = o.id AND d.deptype = 'e') LOOP
        EXECUTE 'ALTER EXTENSION spock ADD ' || object;
    END LOOP;
END
$$;

-- Keys of tables, and the publications. A table is in the publication of an action exactly when one of the node's sets
-- that hold it replicates that action and, for updates and deletes, the server can identify its rows: a table without
-- identity in a publication of updates would make the application's own UPDATEs fail.

-- The index by which the server identifies rows for replication; NULL when there is none. A generated column is never
-- sent: with one in its key a row cannot be named, and from 18 on such a table in a publication of updates makes the
-- application's own UPDATEs fail.
CREATE OR REPLACE FUNCTION pgdrover.identity_index(rel oid)
RETURNS oid LANGUAGE sql STABLE AS $$
    SELECT i.indexrelid
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_index i ON i.indrelid = c.oid
     WHERE c.oid = rel AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
       AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                        WHERE a.attrelid = rel AND a.attgenerated <> '' AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
$$;

-- The index by which a row is found here: that of the identity, unless it carries delta columns; else the primary key.
CREATE OR REPLACE FUNCTION pgdrover.key_index(rel oid)
RETURNS oid LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        (SELECT i.indexrelid FROM pg_catalog.pg_index i
          WHERE i.indexrelid = pgdrover.identity_index(rel)
            AND NOT EXISTS (SELECT FROM spock.pgdrover_delta_column d JOIN pg_catalog.pg_attribute a
                                ON a.attrelid = d.relid AND a.attname = d.column_name
                             WHERE d.relid = rel AND a.attnum = ANY (i.indkey::int2[]))),
        (SELECT i.indexrelid FROM pg_catalog.pg_index i
          WHERE i.indrelid = rel AND i.indisprimary AND i.indimmediate AND i.indisvalid))
$$;

CREATE OR REPLACE FUNCTION pgdrover.index_columns(index_id oid)
RETURNS name[] LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.array_agg(a.attname ORDER BY k.n)
      FROM pg_catalog.pg_index i
           CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
           JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
     WHERE i.indexrelid = index_id AND k.n <= i.indnkeyatts
$$;

CREATE OR REPLACE FUNCTION pgdrover.key_columns(rel oid)
RETURNS name[] LANGUAGE sql STABLE AS $$
    SELECT pgdrover.index_columns(pgdrover.key_index(rel))
$$;

-- Whether a table may join a set that replicates updates or deletes.
CREATE OR REPLACE FUNCTION pgdrover.has_key(rel oid)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT pgdrover.identity_index(rel) IS NOT NULL
        OR (SELECT c.relreplident = 'f' FROM pg_catalog.pg_class c WHERE c.oid = rel)
           AND EXISTS (SELECT FROM spock.pgdrover_delta_column d WHERE d.relid = rel)
$$;

CREATE OR REPLACE FUNCTION pgdrover.local_node_id()
RETURNS oid LANGUAGE sql STABLE AS $$ SELECT l.node_id FROM spock.local_node l $$;

-- The schemas that never join.
CREATE OR REPLACE FUNCTION pgdrover.reserved_schema(schema_name name)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT schema_name IN ('spock', 'pgdrover', 'information_schema') OR pg_catalog.starts_with(schema_name::text, 'pg_')
        OR EXISTS (SELECT FROM spock.reserved_object r
                    WHERE r.kind = 'schema' AND r.name = schema_name AND r.block_in_repset)
$$;

-- Brings the publications in line with the sets, for these tables or, with NULL, for all.
CREATE OR REPLACE FUNCTION pgdrover.publish(rels oid[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    p pg_catalog.record;
BEGIN
    FOR p IN
        WITH member AS (
            SELECT t.set_reloid::oid AS relid, pg_catalog.bool_or(s.replicate_insert) AS ins,
                   pg_catalog.bool_or(s.replicate_update) AS upd, pg_catalog.bool_or(s.replicate_delete) AS del,
                   pg_catalog.bool_or(s.replicate_truncate) AS trunc
              FROM spock.replication_set_table t
              JOIN spock.replication_set s USING (set_id)
              JOIN spock.local_node l ON l.node_id = s.set_nodeid
             WHERE rels IS NULL OR t.set_reloid::oid = ANY (rels)
             GROUP BY 1
        ), identified AS (
            SELECT m.*, c.relreplident = 'f' OR pgdrover.identity_index(m.relid) IS NOT NULL AS ok
              FROM member m JOIN pg_catalog.pg_class c ON c.oid = m.relid
             WHERE c.relkind = 'r' AND c.relpersistence = 'p'
        ), wanted AS (
            SELECT a.pubname, i.relid
              FROM identified i CROSS JOIN LATERAL (VALUES
                   ('pgdrover_ins', i.ins), ('pgdrover_upd', i.upd AND i.ok),
                   ('pgdrover_del', i.del AND i.ok), ('pgdrover_trunc', i.trunc)) AS a(pubname, yes)
             WHERE a.yes
        ), present AS (
            SELECT pub.pubname::text AS pubname, r.prrelid AS relid
              FROM pg_catalog.pg_publication pub JOIN pg_catalog.pg_publication_rel r ON r.prpubid = pub.oid
              JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
             WHERE pub.pubname IN ('pgdrover_ins', 'pgdrover_upd', 'pgdrover_del', 'pgdrover_trunc')
               AND c.relnamespace <> 'spock'::regnamespace AND (rels IS NULL OR r.prrelid = ANY (rels))
        ), difference AS (
            SELECT coalesce(w.pubname, h.pubname) AS pubname, coalesce(w.relid, h.relid) AS relid,
                   w.relid IS NOT NULL AS adding
              FROM wanted w FULL JOIN present h USING (pubname, relid)
             WHERE w.relid IS NULL OR h.relid IS NULL
        )
        SELECT pg_catalog.format('ALTER PUBLICATION %I %s TABLE %s', d.pubname,
                   CASE WHEN d.adding THEN 'ADD' ELSE 'DROP' END,
                   pg_catalog.string_agg('ONLY ' || pgdrover.qualified_name(d.relid), ', ' ORDER BY d.relid)) AS ddl
          FROM difference d JOIN pg_catalog.pg_publication pub ON pub.pubname = d.pubname
         GROUP BY d.pubname, d.adding ORDER BY d.adding, d.pubname
    LOOP
        PERFORM pgdrover.run(p.ddl);
    END LOOP;
END
$$;

-- Has providers describe all tables to their subscribers anew. The server does so by itself when a table was changed, but before
-- 16 not when its schema got another name: what followed would go to a table that is no more.
CREATE OR REPLACE FUNCTION pgdrover.describe_again()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    p pg_catalog.record;
BEGIN
    FOR p IN SELECT * FROM (VALUES ('pgdrover_ins', 'insert'), ('pgdrover_upd', 'update'),
                                   ('pgdrover_del', 'delete'), ('pgdrover_trunc', 'truncate')) AS v(name, action)
              WHERE EXISTS (SELECT FROM pg_catalog.pg_publication pub WHERE pub.pubname = v.name)
    LOOP
        PERFORM pgdrover.run(pg_catalog.format('ALTER PUBLICATION %I SET (publish = %L)', p.name, p.action));
    END LOOP;
END
$$;

-- All publications exist before any slot does: on 15 to 17 a slot whose past knows no such publication ends in an error.
CREATE OR REPLACE FUNCTION pgdrover.create_publications()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    p pg_catalog.record;
BEGIN
    FOR p IN SELECT * FROM (VALUES
                 ('pgdrover_ins', 'insert', 'spock.queue'), ('pgdrover_upd', 'update', NULL),
                 ('pgdrover_del', 'delete', NULL), ('pgdrover_trunc', 'truncate', NULL),
                 ('pgdrover_sys', 'insert, update, delete',
                  'spock.replication_set, spock.replication_set_table, spock.pgdrover_row_filter, spock.pgdrover_applied')) AS v(name, action, tables)
              WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_publication pub WHERE pub.pubname = v.name)
    LOOP
        PERFORM pgdrover.run(pg_catalog.format('CREATE PUBLICATION %I %s WITH (publish = %L)', p.name,
                                               'FOR TABLE ' || p.tables, p.action));
    END LOOP;
    PERFORM pgdrover.publish(NULL);
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.drop_publications()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    p pg_catalog.name;
BEGIN
    FOR p IN SELECT pub.pubname FROM pg_catalog.pg_publication pub
              WHERE pub.pubname IN ('pgdrover_ins', 'pgdrover_upd', 'pgdrover_del', 'pgdrover_trunc', 'pgdrover_sys')
    LOOP
        PERFORM pgdrover.run(pg_catalog.format('DROP PUBLICATION %I', p));
    END LOOP;
END
$$;

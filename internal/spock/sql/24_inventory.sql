-- What a database held before a copy came, and the way back to it. Also whether clients may write yet.

-- The objects of this database that can be dropped by name, in the order in which that is best done.
CREATE OR REPLACE FUNCTION pgdrover.droppable(OUT class oid, OUT object oid, OUT rank integer)
RETURNS SETOF record LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT o.class, o.object, o.rank FROM (
        SELECT 'pg_event_trigger'::regclass::oid AS class, e.oid AS object, 1 AS rank FROM pg_event_trigger e WHERE e.evtname NOT LIKE E'pgdrover\\_%'
        UNION ALL SELECT 'pg_extension'::regclass, x.oid, 2 FROM pg_extension x
        UNION ALL SELECT 'pg_class'::regclass, c.oid, 3 FROM pg_class c
                   WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND NOT pgdrover.reserved_schema(c.relnamespace::regnamespace::text::name)
        UNION ALL SELECT 'pg_cast'::regclass, c.oid, 4 FROM pg_cast c
        UNION ALL SELECT 'pg_operator'::regclass, p.oid, 5 FROM pg_operator p WHERE NOT pgdrover.reserved_schema(p.oprnamespace::regnamespace::text::name)
        UNION ALL SELECT 'pg_proc'::regclass, p.oid, 6 FROM pg_proc p WHERE NOT pgdrover.reserved_schema(p.pronamespace::regnamespace::text::name)
        UNION ALL SELECT 'pg_type'::regclass, y.oid, 7 FROM pg_type y -- a composite type owns its relation, a table its type
                   WHERE y.typtype IN ('b', 'c', 'd', 'e', 'r', 'p') AND NOT pgdrover.reserved_schema(y.typnamespace::regnamespace::text::name)
        UNION ALL SELECT 'pg_collation'::regclass, c.oid, 8 FROM pg_collation c WHERE NOT pgdrover.reserved_schema(c.collnamespace::regnamespace::text::name)
        UNION ALL SELECT 'pg_ts_config'::regclass, c.oid, 8 FROM pg_ts_config c WHERE NOT pgdrover.reserved_schema(c.cfgnamespace::regnamespace::text::name)
        UNION ALL SELECT 'pg_ts_dict'::regclass, c.oid, 9 FROM pg_ts_dict c WHERE NOT pgdrover.reserved_schema(c.dictnamespace::regnamespace::text::name)
        UNION ALL SELECT 'pg_ts_template'::regclass, c.oid, 10 FROM pg_ts_template c WHERE NOT pgdrover.reserved_schema(c.tmplnamespace::regnamespace::text::name)
        UNION ALL SELECT 'pg_ts_parser'::regclass, c.oid, 10 FROM pg_ts_parser c WHERE NOT pgdrover.reserved_schema(c.prsnamespace::regnamespace::text::name)
        UNION ALL SELECT 'pg_conversion'::regclass, c.oid, 10 FROM pg_conversion c WHERE NOT pgdrover.reserved_schema(c.connamespace::regnamespace::text::name)
        UNION ALL SELECT 'pg_opfamily'::regclass, f.oid, 10 FROM pg_opfamily f WHERE NOT pgdrover.reserved_schema(f.opfnamespace::regnamespace::text::name)
        UNION ALL SELECT 'pg_foreign_server'::regclass, f.oid, 10 FROM pg_foreign_server f
        UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, f.oid, 11 FROM pg_foreign_data_wrapper f
        UNION ALL SELECT 'pg_publication'::regclass, p.oid, 12 FROM pg_publication p WHERE p.pubname NOT LIKE E'pgdrover\\_%'
        UNION ALL SELECT 'pg_language'::regclass, l.oid, 13 FROM pg_language l
        UNION ALL SELECT 'pg_namespace'::regclass, n.oid, 14 FROM pg_namespace n WHERE NOT pgdrover.reserved_schema(n.nspname)) AS o
     WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.class AND d.objid = o.object AND d.objsubid = 0
                          AND d.deptype IN ('i', 'e', 'P', 'S') AND d.refobjsubid = 0)
$$;

-- The first look counts: a second one would take the copy for what was there before.
CREATE OR REPLACE FUNCTION pgdrover.take_inventory(run text)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO spock.pgdrover_inventory (run_id, objects)
    SELECT run, coalesce(pg_catalog.jsonb_agg(DISTINCT d.class || ' ' || d.object), '[]') FROM pgdrover.droppable() d
        ON CONFLICT DO NOTHING
$$;

-- Drops what has come since the inventory of a run, a few objects at a time: a transaction cannot lock any number.
CREATE OR REPLACE PROCEDURE pgdrover.purge_copied(run text)
LANGUAGE plpgsql AS $$
DECLARE
    before pg_catalog.text[];
    o pg_catalog.record;
    name pg_catalog.record;
    n integer;
    stays pg_catalog.text[] := '{}';
    reasons pg_catalog.text[] := '{}';
BEGIN
    SELECT (SELECT pg_catalog.array_agg(e) FROM pg_catalog.jsonb_array_elements_text(i.objects) e) INTO before
      FROM spock.pgdrover_inventory i WHERE i.run_id = run;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM spock.subscription) OR EXISTS (SELECT FROM spock.local_node) THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'what was copied is still in use: this database is a node',
            HINT = 'Drop its subscriptions and the node first.';
    END IF;
    LOOP
        n := 0;
        FOR o IN SELECT d.class, d.object FROM pgdrover.droppable() d
                  WHERE NOT d.class || ' ' || d.object = ANY (coalesce(before, '{}') || stays) ORDER BY d.rank, d.object LIMIT 30 LOOP
            SELECT i.type, i.identity INTO name FROM pg_catalog.pg_identify_object(o.class, o.object, 0) i;
            CONTINUE WHEN name.identity IS NULL;
            BEGIN
                PERFORM pgdrover.run('DROP ' || pg_catalog.upper(pg_catalog.replace(name.type, '-', ' ')) || ' IF EXISTS ' || name.identity || ' CASCADE');
            EXCEPTION WHEN OTHERS THEN
                -- One that stays does not keep the others.
                stays := stays || (o.class || ' ' || o.object);
                reasons := reasons || pg_catalog.format('%s %s: %s', name.type, name.identity, SQLERRM);
            END;
            n := n + 1;
        END LOOP;
        EXIT WHEN n = 0;
        COMMIT;
    END LOOP;
    IF reasons <> '{}' THEN
        RAISE EXCEPTION USING ERRCODE = '2BP01', MESSAGE = 'not all of what was copied can be dropped: ' || pg_catalog.array_to_string(reasons, '; '),
            HINT = 'Drop it by hand and call it again.';
    END IF;
    -- What was known about rows that are gone.
    DELETE FROM spock.pgdrover_tombstone t WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.relid);
    DELETE FROM spock.pgdrover_stamp t WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.relid);
    DELETE FROM spock.pgdrover_watch t WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.relid);
    DELETE FROM spock.pgdrover_delta_column t WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.relid);
    DELETE FROM spock.pgdrover_dropped_column t WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.relid);
    DELETE FROM spock.pgdrover_added_column t WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.relid);
    DELETE FROM spock.pgdrover_rewrite t WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.relid);
    DELETE FROM spock.pgdrover_spread;
    DELETE FROM spock.queue;
    DELETE FROM spock.pgdrover_inventory i WHERE i.run_id = run;
    PERFORM pgdrover.drop_retired_origins();
    COMMIT;
END
$$;

-- Sessions of clients begin read-only until the node has joined: nobody keeps its changes so far.
CREATE OR REPLACE FUNCTION pgdrover.close_node()
RETURNS void LANGUAGE sql AS $$
    SELECT pgdrover.run(pg_catalog.format('ALTER DATABASE %I SET default_transaction_read_only = on', pg_catalog.current_database()))
$$;

CREATE OR REPLACE FUNCTION pgdrover.open_node()
RETURNS void LANGUAGE sql AS $$
    SELECT pgdrover.run(pg_catalog.format('ALTER DATABASE %I RESET default_transaction_read_only', pg_catalog.current_database()))
$$;

-- Where the sequences of this database are.
CREATE OR REPLACE FUNCTION pgdrover.sequence_positions()
RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
    q pg_catalog.record;
    at bigint;
    used boolean;
    all_of pg_catalog.jsonb := '[]';
BEGIN
    FOR q IN SELECT c.oid, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND pgdrover.is_foreign('pg_class'::regclass, c.oid, n.oid)
              ORDER BY n.nspname, c.relname LOOP
        EXECUTE format('SELECT last_value, is_called FROM %I.%I', q.nspname, q.relname) INTO at, used;
        IF used THEN
            all_of := all_of || jsonb_build_array(jsonb_build_array(q.nspname, q.relname, at));
        END IF;
    END LOOP;
    RETURN jsonb_build_object('sequences', all_of, 'spread', (SELECT s.max_nodes FROM spock.pgdrover_spread s));
END
$$;

-- Moves the sequences here past those positions, and some values further, never back. Returns how many it moved.
CREATE OR REPLACE FUNCTION pgdrover.advance_sequences(positions jsonb)
RETURNS integer LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    q pg_catalog.record;
    at bigint;
    wanted numeric;
    n integer := 0;
BEGIN
    FOR q IN SELECT c.oid, c.relname, k.nspname, s.seqincrement, s.seqcache, s.seqmin, s.seqmax, (e ->> 2)::bigint AS there
               FROM jsonb_array_elements(positions -> 'sequences') e
               JOIN pg_namespace k ON k.nspname = e ->> 0 JOIN pg_class c ON c.relnamespace = k.oid AND c.relname = e ->> 1
               JOIN pg_sequence s ON s.seqrelid = c.oid LOOP
        EXECUTE format('SELECT last_value FROM %I.%I', q.nspname, q.relname) INTO at;
        wanted := q.there + q.seqincrement::numeric * (1000 + q.seqcache);
        wanted := least(greatest(wanted, q.seqmin), q.seqmax);
        IF wanted <> at AND (wanted > at) = (q.seqincrement > 0) THEN
            PERFORM setval(q.oid, wanted::bigint);
            n := n + 1;
        END IF;
    END LOOP;
    IF positions ->> 'spread' IS NOT NULL THEN
        PERFORM pgdrover.sequence_spread((positions ->> 'spread')::integer);
    END IF;
    RETURN n;
END
$$;

-- Nothing of a node that has left is to be taken up again, or to be undone.
CREATE OR REPLACE FUNCTION pgdrover.forget_runs(node text)
RETURNS void LANGUAGE sql AS $$
    DELETE FROM spock.pgdrover_run WHERE kind = 'add_node' AND node = ANY (pg_catalog.string_to_array(target, ', '));
    DELETE FROM spock.pgdrover_fence WHERE node = ANY (pg_catalog.string_to_array(joins, ', '))
$$;

-- The materialized views of this database that have rows.
CREATE OR REPLACE FUNCTION pgdrover.filled_views()
RETURNS jsonb LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_array(n.nspname, format('%I.%I', n.nspname, c.relname)) ORDER BY c.oid), '[]')
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'm' AND c.relispopulated AND pgdrover.is_foreign('pg_class'::regclass, c.oid, n.oid)
$$;

-- Fills those materialized views that were copied without their rows, whichever of them read others first. Returns how many it filled.
CREATE OR REPLACE FUNCTION pgdrover.fill_views(wanted jsonb, skipped text[])
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    todo pg_catalog.text[] := ARRAY (SELECT v ->> 1 FROM pg_catalog.jsonb_array_elements(wanted) v
                                      WHERE NOT v ->> 0 = ANY (skipped) AND pg_catalog.to_regclass(v ->> 1) IS NOT NULL);
    later pg_catalog.text[];
    v pg_catalog.text;
    reason pg_catalog.text;
    n integer := 0;
BEGIN
    LOOP
        later := '{}';
        FOREACH v IN ARRAY todo LOOP
            CONTINUE WHEN (SELECT c.relkind <> 'm' OR c.relispopulated FROM pg_catalog.pg_class c WHERE c.oid = v::pg_catalog.regclass);
            BEGIN
                PERFORM pgdrover.run('REFRESH MATERIALIZED VIEW ' || v);
                n := n + 1;
            EXCEPTION WHEN object_not_in_prerequisite_state THEN
                later := later || v; -- it reads another one
                reason := SQLERRM;
            WHEN OTHERS THEN
                RAISE WARNING 'materialized view % stays empty: %', v, SQLERRM;
            END;
        END LOOP;
        EXIT WHEN later = '{}' OR later = todo;
        todo := later;
    END LOOP;
    FOREACH v IN ARRAY later LOOP
        RAISE WARNING 'materialized view % stays empty: %', v, reason;
    END LOOP;
    RETURN n;
END
$$;

-- The roles of this server with their attributes and memberships, but for passwords.
CREATE OR REPLACE FUNCTION pgdrover.role_definitions()
RETURNS jsonb LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT jsonb_build_object('roles', (
        SELECT coalesce(jsonb_agg(jsonb_build_object('name', r.rolname, 'options', concat_ws(' ',
                   CASE WHEN r.rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END, CASE WHEN r.rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
                   CASE WHEN r.rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END, CASE WHEN r.rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
                   CASE WHEN r.rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END, CASE WHEN r.rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
                   CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END, 'CONNECTION LIMIT ' || r.rolconnlimit,
                   'VALID UNTIL ' || quote_literal(r.rolvaliduntil::text))) ORDER BY r.rolname), '[]')
          FROM pg_roles r WHERE r.rolname !~ '^pg_' AND r.rolname NOT IN ('postgres', 'rdsadmin', 'rdsrepladmin', 'rds_superuser')),
        'members', (SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_array(g.rolname, m.rolname)), '[]')
          FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid WHERE m.rolname !~ '^pg_'))
$$;

-- Those of them that this server lacks.
CREATE OR REPLACE FUNCTION pgdrover.lacking_roles(definitions jsonb)
RETURNS jsonb LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
    SELECT jsonb_build_object('roles', (SELECT coalesce(jsonb_agg(d), '[]') FROM jsonb_array_elements(definitions -> 'roles') d
                                         WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = d ->> 'name')),
        'members', (SELECT coalesce(jsonb_agg(d), '[]') FROM jsonb_array_elements(definitions -> 'members') d
                     WHERE NOT EXISTS (SELECT FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid
                                        WHERE g.rolname = d ->> 0 AND m.rolname = d ->> 1)))
$$;

-- Creates them; what is there from an earlier attempt stays. Returns how many roles it created.
CREATE OR REPLACE FUNCTION pgdrover.create_roles(lacking jsonb)
RETURNS integer LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    d pg_catalog.jsonb;
    n integer := 0;
BEGIN
    lacking := pgdrover.lacking_roles(lacking);
    FOR d IN SELECT * FROM jsonb_array_elements(lacking -> 'roles') LOOP
        PERFORM pgdrover.run(format('CREATE ROLE %I %s', d ->> 'name', d ->> 'options'));
        n := n + 1;
    END LOOP;
    FOR d IN SELECT * FROM jsonb_array_elements(lacking -> 'members') LOOP
        PERFORM pgdrover.run(format('GRANT %I TO %I', d ->> 0, d ->> 1));
    END LOOP;
    RETURN n;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.drop_roles(lacking jsonb)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    d pg_catalog.jsonb;
BEGIN
    FOR d IN SELECT m FROM jsonb_array_elements(lacking -> 'members') m
              WHERE EXISTS (SELECT FROM pg_roles r WHERE r.rolname = m ->> 0) AND EXISTS (SELECT FROM pg_roles r WHERE r.rolname = m ->> 1) LOOP
        PERFORM pgdrover.run(format('REVOKE %I FROM %I', d ->> 0, d ->> 1));
    END LOOP;
    FOR d IN SELECT * FROM jsonb_array_elements(lacking -> 'roles') LOOP
        PERFORM pgdrover.run(format('DROP ROLE IF EXISTS %I', d ->> 'name'));
    END LOOP;
END
$$;

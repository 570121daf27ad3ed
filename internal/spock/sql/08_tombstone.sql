-- Tombstones: a delete that happens here leaves (relation, key), written in its own transaction by triggers on the
-- tables that are sent or applied to. They fire for local work only; what applies changes writes its own.

-- An SQL expression over the columns of alias that gives a row's key as bytes. Equal keys give equal bytes, whatever
-- the session's settings: the columns' binary form, each behind its length when there are several.
CREATE OR REPLACE FUNCTION pgdrover.key_expression(rel oid, alias text)
RETURNS text LANGUAGE sql STABLE AS $$
    WITH part AS (
        SELECT k.n, CASE
            WHEN t.typname = 'numeric' AND tn.nspname = 'pg_catalog' THEN
                pg_catalog.format('pg_catalog.numeric_send(pg_catalog.trim_scale(%s::pg_catalog.numeric))', col)
            -- Zero has two forms.
            WHEN t.typname IN ('float4', 'float8') AND tn.nspname = 'pg_catalog' THEN
                pg_catalog.format('pg_catalog.%ssend(%s::pg_catalog.%s OPERATOR(pg_catalog.+) 0::pg_catalog.%s)',
                                  t.typname, col, t.typname, t.typname)
            WHEN t.typname = 'bpchar' AND tn.nspname = 'pg_catalog' THEN
                pg_catalog.format('pg_catalog.textsend(%s::pg_catalog.text)', col)
            -- The extension's own: a type of that name may have a cast that runs its owner's code.
            WHEN t.typname = 'citext' AND EXISTS (
                     SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension x ON x.oid = d.refobjid
                      WHERE d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid
                        AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
                        AND x.extname = 'citext') THEN
                pg_catalog.format('pg_catalog.textsend(pg_catalog.lower(%s::pg_catalog.text))', col)
            WHEN t.typsend <> 0 THEN
                pg_catalog.format('%I.%I(%s::%I.%I)', fn.nspname, f.proname, col, tn.nspname, t.typname)
            ELSE pg_catalog.format('pg_catalog.textsend(%s::pg_catalog.text)', col) END AS bytes
          FROM pg_catalog.unnest(pgdrover.key_columns(rel)) WITH ORDINALITY AS k(name, n)
          JOIN pg_catalog.pg_attribute a ON a.attrelid = rel AND a.attname = k.name
          JOIN LATERAL (
                WITH RECURSIVE base AS (
                    SELECT y.oid, y.typbasetype FROM pg_catalog.pg_type y WHERE y.oid = a.atttypid
                     UNION ALL
                    SELECT y.oid, y.typbasetype FROM base b JOIN pg_catalog.pg_type y ON y.oid = b.typbasetype)
                SELECT b.oid FROM base b WHERE b.typbasetype = 0) AS base ON true
          JOIN pg_catalog.pg_type t ON t.oid = base.oid
          JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
          LEFT JOIN pg_catalog.pg_proc f ON f.oid = t.typsend
          LEFT JOIN pg_catalog.pg_namespace fn ON fn.oid = f.pronamespace
          CROSS JOIN LATERAL (SELECT pg_catalog.format('%s.%I', alias, a.attname) AS col) AS c
    )
    SELECT CASE WHEN pg_catalog.count(*) = 0 THEN NULL
                WHEN pg_catalog.count(*) = 1 THEN pg_catalog.format('pgdrover.short_key(%s)', pg_catalog.min(bytes))
                ELSE pg_catalog.format('pgdrover.short_key(%s)', pg_catalog.string_agg(pg_catalog.format(
                    'pg_catalog.int4send(pg_catalog.octet_length(%s)) OPERATOR(pg_catalog.||) %s', bytes, bytes),
                    ' OPERATOR(pg_catalog.||) ' ORDER BY n)) END
      FROM part
$$;

-- A key that may stand in an index.
CREATE OR REPLACE FUNCTION pgdrover.short_key(key bytea)
RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN pg_catalog.octet_length(key) OPERATOR(pg_catalog.<=) 256 THEN key
                ELSE pg_catalog.sha256(key) END
$$;

-- Keeps a table as it is until the end of the transaction, as a change of one of its rows would.
CREATE OR REPLACE FUNCTION pgdrover.hold(schema name, relation name)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = schema AND c.relname = relation AND c.relkind IN ('r', 'p')) THEN
        EXECUTE pg_catalog.format('LOCK TABLE ONLY %I.%I IN ROW EXCLUSIVE MODE', schema, relation);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.on_truncate()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO spock.pgdrover_tombstone (relid) VALUES (TG_RELID);
    RETURN NULL;
END
$$;

-- Makes the triggers of a table, or makes them anew when its key is another one, or somebody has switched one off (DISABLE
-- TRIGGER USER means them, too): made anew it is on. The update trigger names no columns and has no condition: either would
-- forbid the application to change a key column's type.
CREATE OR REPLACE FUNCTION pgdrover.watch(rel oid)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    expression pg_catalog.text := pgdrover.key_expression(rel, 'OLD');
    body pg_catalog.text;
    fn pg_catalog.text := pg_catalog.format('pgdrover.%I', 'tombstone_' || rel);
    relation pg_catalog.text;
    old_definition pg_catalog.text;
    complete boolean;
BEGIN
    SELECT pgdrover.qualified_name(c.oid) INTO relation
      FROM pg_catalog.pg_class c
     WHERE c.oid = rel AND c.relkind = 'r' AND c.relpersistence = 'p' AND c.relnamespace <> 'spock'::regnamespace;
    IF relation IS NULL THEN
        RETURN;
    END IF;
    SELECT w.definition INTO old_definition FROM spock.pgdrover_watch w WHERE w.relid = rel;
    complete := (SELECT pg_catalog.count(*) FROM pg_catalog.pg_trigger t
                  WHERE t.tgrelid = rel AND t.tgname LIKE E'pgdrover\\_tombstone\\_%' AND t.tgenabled = 'O'
                    AND (t.tgname = 'pgdrover_tombstone_truncate' OR t.tgfoid = pg_catalog.to_regprocedure(fn || '()')))
                = (CASE WHEN expression IS NULL THEN 1 ELSE 3 END);
    IF complete AND old_definition = coalesce(expression, '') THEN
        RETURN;
    END IF;
    -- What an extension's script makes is the extension's and goes with it; what is there already it may not replace.
    IF pgdrover.script_depth(NULL, 0) > 0 THEN
        PERFORM pg_catalog.set_config('pgdrover.held', pg_catalog.concat_ws(' ',
            nullif(pg_catalog.current_setting('pgdrover.held', true), ''), rel), true);
        RETURN;
    END IF;
    IF old_definition IS NULL AND pg_catalog.to_regprocedure(fn || '()') IS NOT NULL THEN
        PERFORM pgdrover.drop_strange_triggers();
        complete := false;
    END IF;
    IF expression IS NULL THEN
        PERFORM pgdrover.drop_row_triggers(rel);
    ELSE
        body := pg_catalog.format(
            'BEGIN '
            'IF TG_OP OPERATOR(pg_catalog.=) ''UPDATE'' THEN '
            'IF %s OPERATOR(pg_catalog.=) %s THEN RETURN NULL; END IF; '
            'END IF; '
            'INSERT INTO spock.pgdrover_tombstone (relid, key) VALUES (TG_RELID, %s); '
            'RETURN NULL; '
            'END', expression, pgdrover.key_expression(rel, 'NEW'), expression);
        -- No SET search_path: it would cost more than the rest, for each row; every name in the body is qualified.
        PERFORM pgdrover.run(pg_catalog.format(
            'CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS %L', fn, body));
        -- Triggers that are there, and on, do with the new function: a key may change in many partitions at once.
        IF NOT coalesce(complete AND old_definition <> '', false) THEN
            PERFORM pgdrover.run(pg_catalog.format('REVOKE ALL ON FUNCTION %s() FROM PUBLIC', fn));
            PERFORM pgdrover.run(pg_catalog.format(
                'CREATE OR REPLACE TRIGGER pgdrover_tombstone_delete AFTER DELETE ON %s FOR EACH ROW EXECUTE FUNCTION %s()',
                relation, fn));
            PERFORM pgdrover.run(pg_catalog.format(
                'CREATE OR REPLACE TRIGGER pgdrover_tombstone_update AFTER UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION %s()',
                relation, fn));
        END IF;
    END IF;
    IF NOT complete THEN
        PERFORM pgdrover.run(pg_catalog.format(
            'CREATE OR REPLACE TRIGGER pgdrover_tombstone_truncate AFTER TRUNCATE ON %s '
            'FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.on_truncate()', relation));
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE e.extname = 'spock') THEN
        PERFORM pgdrover.bind_to_extension(rel, expression IS NOT NULL);
    END IF;
    INSERT INTO spock.pgdrover_watch (relid, key_columns, definition)
    VALUES (rel, pgdrover.key_columns(rel), coalesce(expression, ''))
        ON CONFLICT (relid) DO UPDATE SET key_columns = excluded.key_columns, definition = excluded.definition;
END
$$;

-- The same for many. Each of them would have everything planned anew, twice for each statement, by changing the role for it.
CREATE OR REPLACE FUNCTION pgdrover.watch_each(rels oid[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    role_before pg_catalog.text := pg_catalog.current_setting('session_replication_role');
    quiet boolean := pg_catalog.cardinality(rels) > 1 AND role_before <> 'replica'
                     AND pg_catalog.has_parameter_privilege('session_replication_role', 'SET');
    rel pg_catalog.oid;
BEGIN
    IF quiet THEN
        PERFORM pg_catalog.set_config('session_replication_role', 'replica', true);
    END IF;
    FOREACH rel IN ARRAY rels LOOP
        PERFORM pgdrover.watch(rel);
    END LOOP;
    IF quiet THEN
        PERFORM pg_catalog.set_config('session_replication_role', role_before, true);
    END IF;
END
$$;

-- Makes what had to wait for the end of an extension's script. The list is the session's: it may name only what is ours to
-- watch.
CREATE OR REPLACE FUNCTION pgdrover.watch_held()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    held pg_catalog.text := coalesce(pg_catalog.current_setting('pgdrover.held', true), '');
BEGIN
    IF held <> '' THEN
        PERFORM pg_catalog.set_config('pgdrover.held', '', true);
        PERFORM pgdrover.watch_each(ARRAY(
            SELECT DISTINCT h::oid FROM pg_catalog.regexp_split_to_table(held, ' ') h
             WHERE EXISTS (SELECT FROM spock.replication_set_table t WHERE t.set_reloid = h::oid)
                OR EXISTS (SELECT FROM spock.pgdrover_watch w WHERE w.relid = h::oid) ORDER BY 1));
    END IF;
END
$$;

-- Lets DROP EXTENSION take the triggers along.
CREATE OR REPLACE FUNCTION pgdrover.bind_to_extension(rel oid, keyed boolean)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    t pg_catalog.name;
BEGIN
    IF keyed THEN
        PERFORM pgdrover.run(pg_catalog.format('ALTER FUNCTION pgdrover.%I() DEPENDS ON EXTENSION spock',
                                               'tombstone_' || rel));
    END IF;
    FOR t IN SELECT g.tgname FROM pg_catalog.pg_trigger g
              WHERE g.tgrelid = rel AND g.tgname LIKE E'pgdrover\\_tombstone\\_%' LOOP
        PERFORM pgdrover.run(pg_catalog.format('ALTER TRIGGER %I ON %s DEPENDS ON EXTENSION spock', t,
                                               pgdrover.qualified_name(rel)));
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.drop_triggers(rel oid, names name[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    t pg_catalog.name;
BEGIN
    FOR t IN SELECT g.tgname FROM pg_catalog.pg_trigger g WHERE g.tgrelid = rel AND g.tgname = ANY (names) LOOP
        PERFORM pgdrover.run(pg_catalog.format('DROP TRIGGER %I ON %s', t, pgdrover.qualified_name(rel)));
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.drop_row_triggers(rel oid)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgdrover.drop_triggers(rel, '{pgdrover_tombstone_delete,pgdrover_tombstone_update}');
    IF pg_catalog.to_regprocedure(pg_catalog.format('pgdrover.%I()', 'tombstone_' || rel)) IS NOT NULL THEN
        PERFORM pgdrover.run(pg_catalog.format('DROP FUNCTION pgdrover.%I()', 'tombstone_' || rel));
    END IF;
END
$$;

-- Drops triggers that somebody else's node has left, and their functions: a dump of a database in which the schema is an extension
-- brings them, but not what it knows. The functions bear the numbers that tables had there, as others may have here.
CREATE OR REPLACE FUNCTION pgdrover.drop_strange_triggers()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    rel pg_catalog.oid;
    fn pg_catalog.name;
BEGIN
    FOR rel IN SELECT DISTINCT t.tgrelid FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
                WHERE p.pronamespace = 'pgdrover'::regnamespace AND (t.tgname LIKE E'pgdrover\\_tombstone\\_%' OR t.tgname = 'pgdrover_readonly')
                  AND NOT EXISTS (SELECT FROM spock.pgdrover_watch w WHERE w.relid = t.tgrelid) LOOP
        PERFORM pgdrover.drop_triggers(rel,
            '{pgdrover_tombstone_truncate,pgdrover_tombstone_delete,pgdrover_tombstone_update,pgdrover_readonly}');
    END LOOP;
    FOR fn IN SELECT p.proname FROM pg_catalog.pg_proc p
               WHERE p.pronamespace = 'pgdrover'::regnamespace AND p.proname ~ '^tombstone_[0-9]+$'
                 AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgfoid = p.oid) LOOP
        PERFORM pgdrover.run(pg_catalog.format('DROP FUNCTION pgdrover.%I()', fn));
    END LOOP;
END
$$;

-- Takes the triggers away; the tombstones go with them, because from now on the picture has gaps.
CREATE OR REPLACE FUNCTION pgdrover.unwatch(rel oid)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgdrover.drop_triggers(rel, '{pgdrover_tombstone_truncate,pgdrover_readonly}');
    PERFORM pgdrover.drop_row_triggers(rel);
    DELETE FROM spock.pgdrover_watch w WHERE w.relid = rel;
    DELETE FROM spock.pgdrover_tombstone t WHERE t.relid = rel;
    DELETE FROM spock.pgdrover_stamp s WHERE s.relid = rel;
END
$$;

-- Tables that are neither sent nor applied to. While there is any subscription, whatever is watched may be applied to.
CREATE OR REPLACE FUNCTION pgdrover.unwatch_unused()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    rel pg_catalog.oid;
BEGIN
    IF EXISTS (SELECT FROM spock.subscription) THEN
        RETURN;
    END IF;
    FOR rel IN SELECT w.relid FROM spock.pgdrover_watch w
                WHERE NOT EXISTS (SELECT FROM spock.replication_set_table t
                                    JOIN spock.replication_set s USING (set_id)
                                    JOIN spock.local_node l ON l.node_id = s.set_nodeid
                                   WHERE t.set_reloid = w.relid) LOOP
        PERFORM pgdrover.unwatch(rel);
    END LOOP;
END
$$;

-- The time up to which this server has forgotten when rows were written: it keeps the times of commits no longer than it
-- takes to freeze all of its databases, and not while track_commit_timestamp is off. NULL when it has forgotten nothing since
-- this node was made: what was here before that is older than whatever comes.
CREATE OR REPLACE FUNCTION pgdrover.forgotten_until()
RETURNS timestamptz LANGUAGE sql STABLE AS $$
    -- The first transaction after those stands for them all: one of this node's own, since what it applied has the times of
    -- others. Up to the first checkpoint after the times were switched on, the record says what that begins with as its next.
    SELECT CASE WHEN NOT EXISTS (SELECT FROM spock.local_node l WHERE pg_catalog.pg_xact_commit_timestamp(l.xmin) IS NOT NULL) THEN coalesce((
        SELECT s."timestamp"
          FROM (SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint AS next,
                       least(pg_catalog.age(coalesce(nullif(c.oldest_commit_ts_xid, '0'::xid), pg_catalog.split_part(c.next_xid, ':', 2)::xid)),
                             (SELECT pg_catalog.max(pg_catalog.age(d.datfrozenxid)) FROM pg_catalog.pg_database d))::bigint AS kept
                  FROM pg_catalog.pg_control_checkpoint() c) k
               CROSS JOIN LATERAL pg_catalog.generate_series(greatest(k.next - k.kept, 3), least(k.next - k.kept + 100000, k.next - 1)) AS x(id)
               CROSS JOIN LATERAL pg_catalog.pg_xact_commit_timestamp_origin(greatest(x.id % 4294967296, 3)::text::xid) AS s
         WHERE s.roident = 0 ORDER BY x.id LIMIT 1), pg_catalog.now()) END
$$;

-- Gives deletes that have committed their stamp in columns, which outlives the server's own record of it, and to local
-- ones a position of this node's WAL behind them, which is what peers report to have applied. Returns how many.
CREATE OR REPLACE FUNCTION pgdrover.stamp_tombstones()
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    WITH fresh AS MATERIALIZED (
        SELECT t.ctid AS place, s."timestamp" AS at
          FROM spock.pgdrover_tombstone t
               CROSS JOIN LATERAL pg_catalog.pg_xact_commit_timestamp_origin(t.xmin) s
         WHERE t.commit_time IS NULL AND s."timestamp" IS NOT NULL
         LIMIT 10000
    )
    UPDATE spock.pgdrover_tombstone t
       SET commit_time = f.at, author = coalesce(t.author, pgdrover.local_node_id()),
           author_lsn = CASE WHEN t.author IS NULL THEN pg_catalog.pg_current_wal_insert_lsn() ELSE t.author_lsn END
      FROM fresh f WHERE t.ctid = f.place;
    GET DIAGNOSTICS n = ROW_COUNT;
    -- Whose time is forgotten, because nobody came here for so long, is not from after that.
    IF n = 0 AND EXISTS (SELECT FROM spock.pgdrover_tombstone t WHERE t.commit_time IS NULL)
       AND pg_catalog.current_setting('track_commit_timestamp')::boolean THEN
        UPDATE spock.pgdrover_tombstone t
           SET commit_time = coalesce(pgdrover.forgotten_until(), pg_catalog.now()), author = coalesce(t.author, pgdrover.local_node_id()),
               author_lsn = CASE WHEN t.author IS NULL THEN pg_catalog.pg_current_wal_insert_lsn() ELSE t.author_lsn END
         WHERE t.commit_time IS NULL AND (pg_catalog.pg_xact_commit_timestamp_origin(t.xmin))."timestamp" IS NULL;
        GET DIAGNOSTICS n = ROW_COUNT;
    END IF;
    RETURN n;
END
$$;

-- Of a provider that does not apply a node's work: the position of that work which is older than all that has yet to come
-- from the provider.
ALTER TABLE spock.pgdrover_vector ADD COLUMN IF NOT EXISTS outlived pg_lsn;

-- The position of a node's work that every provider is known to be past; NULL without any provider. A provider is past
-- its own at once; one that says where it is, and does not name the node, does not apply that node's work.
CREATE OR REPLACE FUNCTION pgdrover.passed(work_of oid)
RETURNS pg_lsn LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.min(CASE
               WHEN p.sub_origin = work_of THEN 'FFFFFFFF/FFFFFFFF'::pg_lsn
               WHEN v.lsn IS NOT NULL THEN v.lsn
               WHEN EXISTS (SELECT FROM spock.pgdrover_vector o WHERE o.provider_id = p.sub_origin AND (o.lsn > '0/0' OR o.outlived IS NULL))
                    THEN 'FFFFFFFF/FFFFFFFF'::pg_lsn
               ELSE '0/0'::pg_lsn END)
      FROM (SELECT DISTINCT s.sub_origin FROM spock.subscription s) p
           LEFT JOIN spock.pgdrover_vector v ON v.provider_id = p.sub_origin AND v.origin_id = work_of
$$;

-- The position of a node's work than which nothing older can arrive: every provider has applied it, or has written since.
-- One that forwards sends what others wrote, as soon as it has it: it says of whom.
CREATE OR REPLACE FUNCTION pgdrover.outlived(work_of oid)
RETURNS pg_lsn LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.min(CASE
               WHEN p.sub_origin = work_of THEN 'FFFFFFFF/FFFFFFFF'::pg_lsn
               WHEN v.lsn IS NOT NULL THEN greatest(v.lsn, v.outlived)
               WHEN p.forwards AND EXISTS (SELECT FROM spock.pgdrover_vector o
                                            WHERE o.provider_id = p.sub_origin AND (o.lsn > '0/0' OR o.outlived IS NULL))
                    THEN 'FFFFFFFF/FFFFFFFF'::pg_lsn
               ELSE '0/0'::pg_lsn END)
      FROM (SELECT s.sub_origin, pg_catalog.bool_or(coalesce(pg_catalog.cardinality(s.sub_forward_origins), 0) > 0) AS forwards
              FROM spock.subscription s GROUP BY s.sub_origin) p
           LEFT JOIN spock.pgdrover_vector v ON v.provider_id = p.sub_origin AND v.origin_id = work_of
$$;

-- Tombstones that nobody can need: nothing older than the delete can arrive, as there cannot without any subscription.
-- Returns how many went.
CREATE OR REPLACE FUNCTION pgdrover.purge_tombstones()
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    WITH passed AS MATERIALIZED (
        SELECT a.author, pgdrover.outlived(a.author) AS lsn
          FROM (SELECT DISTINCT t.author FROM spock.pgdrover_tombstone t WHERE t.author_lsn IS NOT NULL) a
    )
    DELETE FROM spock.pgdrover_tombstone t
     WHERE t.author_lsn IS NOT NULL
       AND (NOT EXISTS (SELECT FROM spock.subscription)
            OR EXISTS (SELECT FROM passed p WHERE p.author = t.author AND p.lsn >= t.author_lsn));
    GET DIAGNOSTICS n = ROW_COUNT;
    DELETE FROM spock.pgdrover_dropped_column c
     WHERE coalesce(pgdrover.passed(pgdrover.local_node_id()) >= c.dropped_lsn, true);
    PERFORM pgdrover.purge_added_columns();
    -- The server has forgotten it, as it has of the rows.
    DELETE FROM spock.pgdrover_rewrite w WHERE pg_catalog.pg_xact_commit_timestamp(w.xmin) IS NULL;
    -- A stamp that stands beside its row is of no use any more when nothing older can arrive.
    WITH passed AS MATERIALIZED (
        SELECT a.author, pgdrover.outlived(a.author) AS lsn
          FROM (SELECT DISTINCT s.author FROM spock.pgdrover_stamp s WHERE s.author_lsn IS NOT NULL) a
    )
    DELETE FROM spock.pgdrover_stamp s
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.relid)
        OR EXISTS (SELECT FROM passed p WHERE p.author = s.author AND p.lsn >= s.author_lsn);
    WITH passed AS MATERIALIZED (
        SELECT a.author, pgdrover.outlived(a.author) AS lsn FROM (SELECT DISTINCT b.author FROM spock.pgdrover_bundle b) a
    )
    DELETE FROM spock.pgdrover_bundle b
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = b.relid)
        OR NOT EXISTS (SELECT FROM spock.subscription)
        OR pg_catalog.pg_xact_commit_timestamp(b.written_by) IS NULL
        OR EXISTS (SELECT FROM passed p WHERE p.author = b.author AND p.lsn >= b.author_lsn);
    DELETE FROM spock.pgdrover_follower f WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = f.slot_name);
    RETURN n;
END
$$;

-- What follows this node by a slot of it says whether it gets what others wrote as well. Transactions of others that are
-- written here as one would come to it with one time.
CREATE OR REPLACE FUNCTION pgdrover.note_follower(slot name, forwards boolean)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF forwards THEN
        DELETE FROM spock.pgdrover_follower f WHERE f.slot_name = slot;
    ELSE
        INSERT INTO spock.pgdrover_follower (slot_name) VALUES (slot) ON CONFLICT DO NOTHING;
    END IF;
END
$$;

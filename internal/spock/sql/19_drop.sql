-- What a DROP takes along: memberships depend on their tables and on what their filters use. The server plans its drop
-- without knowing that; when it is done and nobody said CASCADE, this undoes it by an error.

-- The memberships that hang on what was just dropped.
CREATE OR REPLACE FUNCTION pgdrover.dropped_memberships(
    visible name[], OUT set_id oid, OUT set_name name, OUT rel oid, OUT member text, OUT object text, OUT table_gone boolean)
RETURNS SETOF record LANGUAGE sql STABLE AS $$
    WITH dropped AS (
        SELECT o.*, pg_catalog.row_number() OVER () AS n FROM pg_catalog.pg_event_trigger_dropped_objects() o
    ), tables AS (
        SELECT d.objid, pgdrover.visible_name(d.schema_name::name, d.object_name::name, visible) AS name
          FROM dropped d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objsubid = 0
    )
    SELECT DISTINCT ON (t.set_reloid::oid, s.set_name) t.set_id, s.set_name, t.set_reloid::oid,
           'table ' || coalesce(g.name, pgdrover.visible_name(n.nspname, k.relname, visible)),
           CASE WHEN d.objsubid > 0 THEN
                     pg_catalog.format('column %I of table %s', d.address_names[3],
                         pgdrover.visible_name(d.address_names[1]::name, d.address_names[2]::name, visible))
                WHEN g.name IS NOT NULL THEN 'table ' || g.name
                ELSE d.object_type || ' ' || CASE WHEN d.schema_name::name = ANY (visible)
                     THEN pg_catalog.substr(d.object_identity, pg_catalog.length(pg_catalog.quote_ident(d.schema_name)) + 2)
                     ELSE d.object_identity END END,
           g.name IS NOT NULL
      FROM dropped d
      JOIN spock.depend p ON p.classid = 'spock.replication_set_table'::regclass
                         AND p.refclassid = d.classid AND p.refobjid = d.objid AND p.refobjsubid = d.objsubid
      JOIN spock.replication_set_table t ON t.set_id = p.objid AND pgdrover.as_integer(t.set_reloid) = p.objsubid
      JOIN spock.replication_set s ON s.set_id = t.set_id
      LEFT JOIN tables g ON g.objid = t.set_reloid
      LEFT JOIN pg_catalog.pg_class k ON k.oid = t.set_reloid
      LEFT JOIN pg_catalog.pg_namespace n ON n.oid = k.relnamespace
     ORDER BY t.set_reloid::oid, s.set_name, p.deptype, d.n
$$;

-- The tables that a drop has left, but not as they were: without a column, a constraint, a trigger. Whose an index was
-- cannot be seen any more; that of a primary key goes with its constraint, so it may have been a replica identity.
CREATE OR REPLACE FUNCTION pgdrover.drop_concerns()
RETURNS oid[] LANGUAGE sql STABLE AS $$
    WITH dropped AS (SELECT o.object_type, o.address_names FROM pg_catalog.pg_event_trigger_dropped_objects() o)
    SELECT coalesce(pg_catalog.array_agg(DISTINCT t.rel), '{}') FROM (
        SELECT pg_catalog.to_regclass(pg_catalog.format('%I.%I', d.address_names[1], d.address_names[2]))::oid AS rel
          FROM dropped d WHERE d.object_type IN ('table column', 'table constraint', 'trigger')
         UNION ALL
        SELECT c.oid FROM pg_catalog.pg_class c
         WHERE c.relreplident = 'i' AND c.relkind IN ('r', 'p') AND EXISTS (SELECT FROM dropped d WHERE d.object_type = 'index')) AS t
     WHERE t.rel IS NOT NULL
$$;

CREATE OR REPLACE FUNCTION pgdrover.drop_members(tag text, visible name[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    m pg_catalog.record;
    lines pg_catalog.text[];
    details pg_catalog.text[];
    lasting pg_catalog.text[];
BEGIN
    IF to_regclass('spock.local_node') IS NULL OR pgdrover.internal() THEN
        RETURN;
    END IF;
    -- Who drops nothing but temporary objects says nothing to other nodes. Of rules the server does not say it.
    IF (SELECT bool_and(o.is_temporary OR coalesce(o.address_names[1] = 'pg_temp', false)) FROM pg_event_trigger_dropped_objects() o WHERE o.original) THEN
        PERFORM set_config('pgdrover.dropped_temporary', 'on', true);
        RETURN;
    END IF;
    SELECT array_agg('drop cascades to ' || d.member || ' membership in replication set ' || d.set_name),
           array_agg(d.member || ' membership in replication set ' || d.set_name || ' depends on ' || d.object)
      INTO lines, details FROM pgdrover.dropped_memberships(visible) d;
    IF lines IS NOT NULL THEN
        IF NOT pgdrover.drop_may_cascade(tag, pgdrover.plain_context()) THEN
            RAISE EXCEPTION USING ERRCODE = '2BP01', MESSAGE = pgdrover.refused_drop(visible),
                DETAIL = array_to_string(details, E'\n'),
                HINT = 'Use DROP ... CASCADE to drop the dependent objects too.';
        END IF;
        FOR m IN SELECT d.set_id, d.rel FROM pgdrover.dropped_memberships(visible) d LOOP
            PERFORM pgdrover.remove_member(m.set_id, m.rel);
        END LOOP;
        IF pgdrover.flag('spock.enable_quiet_mode') THEN
            NULL;
        ELSIF cardinality(lines) = 1 THEN
            RAISE NOTICE USING MESSAGE = lines[1];
        ELSE
            RAISE NOTICE USING MESSAGE = format('drop cascades to %s other objects', cardinality(lines)),
                DETAIL = array_to_string(lines, E'\n');
        END IF;
    END IF;
    PERFORM pgdrover.forget_dropped();
    -- Other nodes have none of what is temporary.
    IF tag LIKE 'DROP %' AND tag <> 'DROP OWNED' THEN
        SELECT array_agg(o.object_identity ORDER BY o.object_identity) FILTER (WHERE NOT o.is_temporary) INTO lasting
          FROM pg_event_trigger_dropped_objects() o WHERE o.original HAVING bool_or(o.is_temporary);
    END IF;
    -- Last, as DDL of our own clears it.
    PERFORM set_config('pgdrover.dropped_temporary', coalesce(lasting::text, ''), true);
    PERFORM set_config('pgdrover.dropped', pgdrover.drop_concerns()::text, true);
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.drop_may_cascade(tag text, context text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    names pg_catalog.text[];
    s pg_catalog.record;
BEGIN
    IF pgdrover.flag('spock.enable_ddl_replication') OR pg_catalog.current_setting('session_replication_role') = 'replica' THEN
        RETURN true;
    END IF;
    SELECT pg_catalog.array_agg(coalesce(o.address_names[pg_catalog.cardinality(o.address_names)], o.object_identity)) INTO names
      FROM pg_catalog.pg_event_trigger_dropped_objects() o WHERE o.original;
    s := pgdrover.current_statement(context, tag, names, false);
    RETURN coalesce(s.statement, pg_catalog.current_query()) ~* E'\\mcascade\\M';
END
$$;

-- As the server words it.
CREATE OR REPLACE FUNCTION pgdrover.refused_drop(visible name[])
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN pg_catalog.count(*) = 1 THEN pg_catalog.format(
                    'cannot drop %s because other objects depend on it', pg_catalog.min(o.name))
                ELSE 'cannot drop desired object(s) because other objects depend on them' END
      FROM (SELECT CASE WHEN d.object_type = 'table column' THEN pg_catalog.format('column %I of table %s', d.address_names[3],
                            pgdrover.visible_name(d.address_names[1]::name, d.address_names[2]::name, visible))
                        WHEN d.schema_name::name = ANY (visible) THEN d.object_type || ' ' || pg_catalog.substr(
                            d.object_identity, pg_catalog.length(pg_catalog.quote_ident(d.schema_name)) + 2)
                        ELSE d.object_type || ' ' || d.object_identity END AS name
              FROM pg_catalog.pg_event_trigger_dropped_objects() d WHERE d.original) AS o
$$;

-- What we keep about objects that are gone.
CREATE OR REPLACE FUNCTION pgdrover.forget_dropped()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    o pg_catalog.record;
BEGIN
    FOR o IN SELECT d.objid, d.objsubid, d.object_type, d.address_names FROM pg_catalog.pg_event_trigger_dropped_objects() d
              WHERE d.classid = 'pg_catalog.pg_class'::regclass LOOP
        IF o.object_type = 'table column' THEN
            DELETE FROM spock.pgdrover_delta_column c WHERE c.relid = o.objid AND c.column_name = o.address_names[3]::name;
            DELETE FROM spock.pgdrover_added_column c WHERE c.relid = o.objid AND c.column_name = o.address_names[3]::name;
            INSERT INTO spock.pgdrover_dropped_column (relid, column_name, dropped_lsn)
            SELECT o.objid, o.address_names[3]::name, pg_catalog.pg_current_wal_insert_lsn()
             WHERE EXISTS (SELECT FROM spock.subscription)
               AND EXISTS (SELECT FROM spock.pgdrover_watch w WHERE w.relid = o.objid)
                ON CONFLICT (relid, column_name) DO UPDATE SET dropped_lsn = excluded.dropped_lsn;
        ELSIF o.object_type = 'sequence' THEN
            DELETE FROM spock.replication_set_seq q WHERE q.set_seqoid = o.objid;
            DELETE FROM spock.sequence_state q WHERE q.seqoid = o.objid;
        ELSIF o.object_type = 'table' THEN
            DELETE FROM spock.pgdrover_delta_column c WHERE c.relid = o.objid;
            DELETE FROM spock.pgdrover_dropped_column c WHERE c.relid = o.objid;
            DELETE FROM spock.pgdrover_added_column c WHERE c.relid = o.objid;
            DELETE FROM spock.pgdrover_rewrite c WHERE c.relid = o.objid;
            IF EXISTS (SELECT FROM spock.pgdrover_watch w WHERE w.relid = o.objid) THEN
                PERFORM pgdrover.unwatch(o.objid);
            END IF;
        END IF;
    END LOOP;
END
$$;

-- Notes what an ALTER TABLE that travels has added, and what it gave to the rows that were there: values that each node
-- computes for itself are not noted. A column that was changed otherwise is taken for one as well, which does no harm: all
-- peers send it. Values are written as the engine reads them.
CREATE OR REPLACE FUNCTION pgdrover.note_added_columns()
RETURNS void LANGUAGE plpgsql SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 3 AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM spock.subscription)
       OR coalesce(pg_catalog.current_setting('pgdrover.applying', true), '') = ''
          AND (NOT pgdrover.flag('spock.enable_ddl_replication') OR pgdrover.flag('spock.replication_repair_mode')) THEN
        RETURN;
    END IF;
    INSERT INTO spock.pgdrover_added_column (relid, column_name, value)
    WITH RECURSIVE changed (rel) AS (
        SELECT c.objid FROM pg_catalog.pg_event_trigger_ddl_commands() c WHERE c.classid = 'pg_catalog.pg_class'::regclass
         UNION SELECT i.inhrelid FROM changed p JOIN pg_catalog.pg_inherits i ON i.inhparent = p.rel
    )
    SELECT a.attrelid, a.attname, CASE
               WHEN a.atthasmissing THEN (a.attmissingval::text::text[])[1]
               WHEN e.expr LIKE 'NULL::%' THEN NULL
               WHEN e.expr LIKE '''%' THEN pg_catalog.replace(pg_catalog.substring(e.expr, '^''((?:[^'']|'''')*)'''), '''''', '''')
               ELSE e.expr END
      FROM (SELECT DISTINCT c.rel FROM changed c) r
      JOIN pg_catalog.pg_attribute a ON a.attrelid = r.rel AND a.attnum > 0 AND NOT a.attisdropped
           AND a.attgenerated = '' AND a.attidentity = '' AND pg_catalog.age(a.xmin) <= 0 -- of this transaction
      LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
      CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_expr(f.adbin, f.adrelid) AS expr) e
     WHERE (EXISTS (SELECT FROM spock.replication_set_table t WHERE t.set_reloid = r.rel)
            OR EXISTS (SELECT FROM spock.pgdrover_watch w WHERE w.relid = r.rel))
       AND (a.atthasmissing OR e.expr IS NULL
            -- The table was written anew, or has no rows of its own. This is a constant.
            OR e.expr ~ E'^(-?[0-9.]+|true|false|NULL::[^()'']+|''([^''\\\\]|'''')*''::[^()'']+)$')
        ON CONFLICT (relid, column_name) DO NOTHING;
END
$$;

-- Of which tables the running statement writes all rows anew.
CREATE OR REPLACE FUNCTION pgdrover.on_table_rewrite()
RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('pgdrover.rewritten', concat_ws(' ', nullif(current_setting('pgdrover.rewritten', true), ''), pg_event_trigger_table_rewrite_oid()), true);
END
$$;

-- Notes them, in the subtransaction that has rewritten them.
CREATE OR REPLACE FUNCTION pgdrover.note_rewritten()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    rels pg_catalog.text := coalesce(pg_catalog.current_setting('pgdrover.rewritten', true), '');
BEGIN
    IF rels = '' THEN
        RETURN;
    END IF;
    PERFORM pg_catalog.set_config('pgdrover.rewritten', '', true);
    INSERT INTO spock.pgdrover_rewrite (relid)
    SELECT DISTINCT c.oid FROM pg_catalog.regexp_split_to_table(rels, ' ') r JOIN pg_catalog.pg_class c ON c.oid::text = r
     WHERE c.relpersistence = 'p' AND EXISTS (SELECT FROM spock.subscription);
END
$$;

-- Whether the running transaction, or a subtransaction of it, has written a row that is seen. One that began later may have, and
-- may be over.
CREATE OR REPLACE FUNCTION pgdrover.is_own(writer xid)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN pg_catalog.age(writer) <= 0 THEN pg_catalog.pg_xact_status(
        (pg_catalog.pg_current_xact_id()::text::bigint - pg_catalog.age(writer))::text::xid8) = 'in progress' ELSE false END
$$;

-- Whoever writes rows into such a table in the same transaction, before or after, means them to be of its time. The rows look
-- all the same: then they all are. That something was written shows in the lock that it has left.
CREATE OR REPLACE FUNCTION pgdrover.end_rewrites()
RETURNS void LANGUAGE sql AS $$
    DELETE FROM spock.pgdrover_rewrite w USING pg_catalog.pg_locks l
     WHERE pgdrover.is_own(w.xmin) AND l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.relation = w.relid
       AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
       AND l.mode = 'RowExclusiveLock'
$$;

-- Whether a deferred trigger fires because the transaction commits, and not because of a SET CONSTRAINTS: then there is a frame
-- of what runs that, or the client's message has it. A client that commits has no message where the end of a pipeline does it.
CREATE OR REPLACE FUNCTION pgdrover.commits(callers text)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(CASE WHEN callers = '' THEN coalesce(pg_catalog.current_query(), '') !~* E'\\mconstraints\\M'
                         ELSE callers ~ E'^PL/pgSQL [^\\n]* line [0-9]+ at COMMIT(\\n|$)' END, false)
$$;

-- All that the transaction does must be known. Where it may go on to write rows, they all count as written by it: it has had its
-- constraints checked before its end, or has written into a table that has a trigger which may yet fire.
CREATE OR REPLACE FUNCTION pgdrover.on_rewrite()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pgdrover.commits(pgdrover.callers_context(pgdrover.plain_context())) AND NOT EXISTS (
           SELECT FROM pg_locks l JOIN pg_trigger t ON t.tgrelid = l.relation
            WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'
              AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
              AND t.tgdeferrable AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgrelid <> TG_RELID) THEN
        PERFORM pgdrover.end_rewrites();
    ELSE
        DELETE FROM spock.pgdrover_rewrite w WHERE pgdrover.is_own(w.xmin);
    END IF;
    RETURN NULL;
END
$$;

-- The providers to which a column is still on its way: those that follow who added it, and are not past that. Whoever does
-- not will never have it.
CREATE OR REPLACE FUNCTION pgdrover.awaited_by(author oid, author_lsn pg_lsn, noted_by xid)
RETURNS SETOF bigint LANGUAGE sql STABLE AS $$
    SELECT v.provider_id::bigint FROM spock.pgdrover_vector v
     WHERE v.origin_id = coalesce(awaited_by.author, (SELECT pgdrover.origin_node(s.roident) FROM pg_catalog.pg_xact_commit_timestamp_origin(noted_by) s),
                                  pgdrover.local_node_id())
       AND (v.lsn > '0/0' OR v.outlived IS NULL) AND NOT coalesce(v.lsn >= awaited_by.author_lsn, false)
       AND EXISTS (SELECT FROM spock.subscription s WHERE s.sub_origin = v.provider_id)
$$;

-- Forgets columns that every provider sends by now, as far as it ever will. Whose DDL it was, its commit tells; where that
-- author's stream is by then, it is past the DDL.
CREATE OR REPLACE FUNCTION pgdrover.purge_added_columns()
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE spock.pgdrover_added_column c
       SET author = x.author,
           author_lsn = CASE WHEN x.author = pgdrover.local_node_id() THEN pg_catalog.pg_current_wal_insert_lsn()
               ELSE coalesce((SELECT pg_catalog.max(s.remote_lsn) FROM spock.pgdrover_origin o
                                JOIN pg_catalog.pg_replication_origin_status s ON s.local_id = o.roident
                               WHERE o.node_id = x.author), '0/0') END
      FROM (SELECT n.ctid AS place, coalesce(pgdrover.origin_node(s.roident), pgdrover.local_node_id()) AS author
              FROM spock.pgdrover_added_column n CROSS JOIN LATERAL pg_catalog.pg_xact_commit_timestamp_origin(n.xmin) s
             WHERE n.author IS NULL) x
     WHERE c.ctid = x.place;
    DELETE FROM spock.pgdrover_added_column c
     WHERE c.author IS NOT NULL AND NOT EXISTS (SELECT FROM pgdrover.awaited_by(c.author, c.author_lsn, NULL));
    IF FOUND THEN
        -- Who has passed it without the column will not have it.
        PERFORM pg_catalog.pg_notify('spock_change', 'definition');
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.on_sql_drop()
RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgdrover.drop_members(TG_TAG, coalesce(nullif(current_setting('pgdrover.caller_schemas', true), ''), '{}')::name[]);
END
$$;

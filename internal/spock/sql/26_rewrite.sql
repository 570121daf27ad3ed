-- DDL that rewrites a table gives all its rows the stamp of its own transaction, here and wherever it is applied; a change
-- that another node made before would lose against rows that are older. So the rows' own stamps are kept beside them: for
-- those that an older change can still meet each its own, for all others together one that is older than everything.

-- What is known of a table's rows between the begin and the end of the statement, and of the table until the transaction
-- ends; no other transaction ever sees a row. Place 0 says that the table is being rewritten; without a place it has been, and
-- the rows of writer was and command are those that were.
CREATE UNLOGGED TABLE IF NOT EXISTS spock.pgdrover_rewrite (
    relid       oid NOT NULL,
    place       bigint,
    was         xid,
    commit_time timestamptz,
    author      oid,
    key         bytea,
    key_before  bytea,
    known       boolean NOT NULL DEFAULT false,
    command     cid,
    written     bigint
);

-- In place of a key: the stamp is that of all rows which a transaction has rewritten, but for those whose own one is kept,
-- and for those that the same transaction has also changed: of these this stands before the key. No key is as long.
CREATE OR REPLACE FUNCTION pgdrover.rewritten_key()
RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_catalog.decode(pg_catalog.repeat('00', 257), 'hex')
$$;

-- A time than which nothing older can arrive, by the clock of whoever sends it. The margins are for clocks that differ, and
-- for what a provider forwards.
CREATE OR REPLACE FUNCTION pgdrover.seen_by_all()
RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.min(CASE
               WHEN p.updated_by_decode IS FALSE THEN greatest(p.remote_commit_ts, p.last_updated_ts - interval '5 min')
               ELSE coalesce(p.remote_commit_ts, s.sub_created_at, '-infinity') END
           - CASE WHEN coalesce(pg_catalog.cardinality(s.sub_forward_origins), 0) > 0 THEN interval '1 day' ELSE interval '30 s' END)
      FROM spock.subscription s
           LEFT JOIN (spock.progress p JOIN spock.local_node l USING (node_id)) ON p.remote_node_id = s.sub_origin
$$;

-- Rows of that table that were written in this transaction.
CREATE OR REPLACE FUNCTION pgdrover.written_now(rel oid)
RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN pg_catalog.current_setting('track_counts') = 'on'
                THEN pg_catalog.pg_stat_get_xact_tuples_inserted(rel) + pg_catalog.pg_stat_get_xact_tuples_updated(rel) END
$$;

-- Comes before a table is rewritten. Its columns are already those of afterwards, and cannot be read; but the rows keep
-- their order.
CREATE OR REPLACE FUNCTION pgdrover.on_table_rewrite()
RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel pg_catalog.oid := pg_event_trigger_table_rewrite_oid();
    since pg_catalog.timestamptz;
    earlier pg_catalog.xid;
    command pg_catalog.cid;
    indexed boolean;
BEGIN
    -- An older snapshot would show other rows than those that are rewritten.
    IF to_regclass('spock.local_node') IS NULL OR pgdrover.internal() OR current_setting('transaction_isolation') <> 'read committed'
       OR NOT EXISTS (SELECT FROM (SELECT rel UNION SELECT pg_partition_ancestors(rel)::oid) a (id)
                       WHERE EXISTS (SELECT FROM spock.pgdrover_watch w WHERE w.relid = a.id)
                          OR EXISTS (SELECT FROM spock.replication_set_table t WHERE t.set_reloid = a.id))
       OR NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = rel AND c.relkind = 'r' AND c.relpersistence = 'p' AND c.relnamespace <> 'spock'::regnamespace) THEN
        RETURN;
    END IF;
    since := pgdrover.seen_by_all();
    IF since IS NULL THEN
        RETURN; -- nothing arrives
    END IF;
    SELECT s.written_by INTO earlier FROM spock.pgdrover_stamp s WHERE s.relid = rel AND s.key = pgdrover.rewritten_key();
    SELECT r.command INTO command FROM spock.pgdrover_rewrite r WHERE r.relid = rel AND r.place IS NULL;
    DELETE FROM spock.pgdrover_rewrite r WHERE r.relid = rel;
    -- Anybody can set a setting.
    INSERT INTO spock.pgdrover_rewrite (relid, place) VALUES (rel, 0);
    -- Its indexes may be empty files by now, on which no query of it could be planned.
    UPDATE pg_class c SET relhasindex = false WHERE c.oid = rel AND c.relhasindex RETURNING true INTO indexed;
    -- Whoever reads a large table begins where others read.
    IF coalesce(current_setting('pgdrover.rewriting', true), '') = '' THEN
        PERFORM set_config('pgdrover.synchronize_seqscans', current_setting('synchronize_seqscans'), true);
        PERFORM set_config('synchronize_seqscans', 'off', true);
    END IF;
    EXECUTE format($q$
        INSERT INTO spock.pgdrover_rewrite (relid, place, was, commit_time, author)
        SELECT $1, r.place, CASE WHEN NOT r.changed THEN r.writer END, r."timestamp", CASE WHEN r."timestamp" IS NOT NULL THEN pgdrover.origin_node(r.roident) END
          FROM (SELECT k.place, k.writer, s."timestamp", s.roident,
                       s."timestamp" IS NULL AND age(k.writer) <= age(pg_current_xact_id()::xid)
                       AND NOT coalesce(k.writer = $3 AND k.command = $4, false) AS changed
                  FROM (SELECT row_number() OVER () AS place, t.xmin AS writer, t.cmin AS command FROM ONLY %s t) k
                       CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(k.writer) s) r
         WHERE r.changed OR r."timestamp" > $2 AND r.writer IS DISTINCT FROM $3
            OR r.writer IN (SELECT o.written_by FROM spock.pgdrover_stamp o WHERE o.relid = $1 AND o.key <> pgdrover.rewritten_key())
        $q$, pgdrover.qualified_name(rel)) USING rel, since, earlier, command;
    IF indexed THEN
        UPDATE pg_class c SET relhasindex = true WHERE c.oid = rel;
    END IF;
    PERFORM set_config('pgdrover.rewriting', concat_ws(',', nullif(current_setting('pgdrover.rewriting', true), ''), rel), true);
END
$$;

-- The keys of the rows that were noted, and what they were before, where a stamp may stand beside such a key.
CREATE OR REPLACE FUNCTION pgdrover.note_keys(rel oid, expression text, before text)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_indexonlyscan = off AS $$
BEGIN
    EXECUTE format($q$
        UPDATE spock.pgdrover_rewrite h SET key = n.key, key_before = n.key_before
          FROM (SELECT old.pgdrover_place AS place, %s AS key, %s AS key_before
                  FROM (SELECT x.*, row_number() OVER () AS pgdrover_place FROM ONLY %s x) old
                 WHERE old.pgdrover_place = ANY (ARRAY(SELECT w.place FROM spock.pgdrover_rewrite w WHERE w.relid = $1))) n
         WHERE h.relid = $1 AND h.place = n.place
        $q$, expression, coalesce(before, 'NULL::bytea'), pgdrover.qualified_name(rel)) USING rel;
END
$$;

-- Comes when the statement is done.
CREATE OR REPLACE FUNCTION pgdrover.on_rewritten()
RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rels pg_catalog.oid[] := string_to_array(nullif(current_setting('pgdrover.rewriting', true), ''), ',')::oid[];
    rel pg_catalog.oid;
BEGIN
    IF rels IS NULL THEN
        RETURN;
    END IF;
    PERFORM set_config('pgdrover.rewriting', '', true);
    FOREACH rel IN ARRAY rels LOOP
        PERFORM pgdrover.keep_stamps(rel);
    END LOOP;
    PERFORM set_config('synchronize_seqscans', current_setting('pgdrover.synchronize_seqscans'), true);
    PERFORM set_config('pgdrover.rewritten', concat_ws(',', nullif(current_setting('pgdrover.rewritten', true), ''), array_to_string(rels, ',')), true);
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.keep_stamps(rel oid)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    expression pg_catalog.text := pgdrover.key_expression(rel, 'old');
    before pg_catalog.text := (SELECT w.definition FROM spock.pgdrover_watch w WHERE w.relid = rel AND w.definition <> '');
    earlier pg_catalog.xid := (SELECT s.written_by FROM spock.pgdrover_stamp s WHERE s.relid = rel AND s.key = pgdrover.rewritten_key());
    writer pg_catalog.xid;
    command pg_catalog.cid;
BEGIN
    IF NOT EXISTS (SELECT FROM spock.pgdrover_rewrite r WHERE r.relid = rel AND r.place = 0) THEN
        RETURN;
    END IF;
    DELETE FROM spock.pgdrover_rewrite r WHERE r.relid = rel AND r.place = 0;
    IF expression IS NOT NULL AND EXISTS (SELECT FROM spock.pgdrover_rewrite r WHERE r.relid = rel) THEN
        IF before = pgdrover.key_expression(rel, 'OLD') THEN
            before := expression;
        ELSIF NOT EXISTS (SELECT FROM spock.pgdrover_stamp s WHERE s.relid = rel AND s.key <> pgdrover.rewritten_key()) THEN
            before := NULL;
        END IF;
        BEGIN
            PERFORM pgdrover.note_keys(rel, expression, before);
        EXCEPTION WHEN OTHERS THEN
            -- The key has become something from which it cannot be had back.
            PERFORM pgdrover.note_keys(rel, expression, NULL);
        END;
        UPDATE spock.pgdrover_rewrite r SET known = true, commit_time = s.commit_time, author = coalesce(s.author, pgdrover.local_node_id())
          FROM spock.pgdrover_stamp s
         WHERE r.relid = rel AND s.relid = rel AND s.key = r.key_before AND s.written_by = r.was;
        UPDATE spock.pgdrover_rewrite r SET known = true, was = CASE WHEN r.commit_time IS NOT NULL THEN r.was END
          FROM spock.pgdrover_stamp s
         WHERE r.relid = rel AND s.relid = rel AND s.key = pgdrover.rewritten_key() || r.key_before AND s.written_by = r.was;
    END IF;
    -- Whatever stood beside the rows was of those that wrote them before.
    DELETE FROM spock.pgdrover_stamp s WHERE s.relid = rel;
    EXECUTE format('SELECT k.xmin, k.cmin FROM ONLY %s k LIMIT 1', pgdrover.qualified_name(rel)) INTO writer, command;
    IF expression IS NULL OR writer IS NULL THEN
        DELETE FROM spock.pgdrover_rewrite r WHERE r.relid = rel;
        RETURN;
    END IF;
    INSERT INTO spock.pgdrover_stamp (relid, key, written_by, commit_time, author)
    SELECT rel, r.key, writer, r.commit_time, r.author FROM spock.pgdrover_rewrite r
     WHERE r.relid = rel AND r.was IS NOT NULL AND r.commit_time IS NOT NULL AND (r.known OR r.was IS DISTINCT FROM earlier)
     UNION ALL
    SELECT rel, pgdrover.rewritten_key() || r.key, writer, 'epoch', pgdrover.local_node_id() FROM spock.pgdrover_rewrite r
     WHERE r.relid = rel AND r.was IS NULL
     UNION ALL
    SELECT rel, pgdrover.rewritten_key(), writer, 'epoch', pgdrover.local_node_id();
    DELETE FROM spock.pgdrover_rewrite r WHERE r.relid = rel;
    INSERT INTO spock.pgdrover_rewrite (relid, was, command, written) VALUES (rel, writer, command, pgdrover.written_now(rel));
    -- When nobody needs it any more, nobody needs the stamps.
    INSERT INTO spock.pgdrover_tombstone (relid, key) VALUES ('spock.pgdrover_stamp'::regclass, pgdrover.rewrite_mark(rel, writer));
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.rewrite_mark(rel oid, writer xid)
RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_catalog.convert_to(pg_catalog.concat_ws(' ', rel, writer), 'UTF8')
$$;

-- At the end of the transaction: rows that it has written besides have its own stamp.
CREATE OR REPLACE FUNCTION pgdrover.end_rewrite()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    expression pg_catalog.text := pgdrover.key_expression(NEW.relid, 'k');
    written bigint := pgdrover.written_now(NEW.relid);
BEGIN
    DELETE FROM spock.pgdrover_rewrite r WHERE r.relid = NEW.relid AND r.place IS NULL AND r.was = NEW.was AND r.command = NEW.command;
    -- It may be gone, or have been rewritten again.
    IF NOT FOUND OR expression IS NULL OR written = NEW.written
       OR NOT EXISTS (SELECT FROM spock.pgdrover_stamp s WHERE s.relid = NEW.relid AND s.key = pgdrover.rewritten_key() AND s.written_by = NEW.was) THEN
        RETURN NULL;
    END IF;
    EXECUTE format($q$
        WITH besides AS MATERIALIZED (SELECT %s AS key FROM ONLY %s k WHERE k.xmin = $2 AND NOT k.cmin = $3),
             gone AS (DELETE FROM spock.pgdrover_stamp s USING besides b WHERE s.relid = $1 AND s.key = b.key)
        INSERT INTO spock.pgdrover_stamp (relid, key, written_by, commit_time, author)
        SELECT $1, pgdrover.rewritten_key() || b.key, $2, 'epoch', pgdrover.local_node_id() FROM besides b ON CONFLICT DO NOTHING
        $q$, expression, pgdrover.qualified_name(NEW.relid)) USING NEW.relid, NEW.was, NEW.command;
    RETURN NULL;
END
$$;

-- A tombstone goes that stands for a rewritten table.
CREATE OR REPLACE FUNCTION pgdrover.forget_rewrite()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mark pg_catalog.text[] := string_to_array(convert_from(OLD.key, 'UTF8'), ' ');
BEGIN
    DELETE FROM spock.pgdrover_stamp s WHERE s.relid = mark[1]::oid AND s.written_by = mark[2]::xid AND s.author_lsn IS NULL;
    RETURN NULL;
END
$$;

-- DDL that travels in the stream: what somebody asks for explicitly, and what event triggers catch.

-- A search path in SQL: its names, each quoted where it must be.
CREATE OR REPLACE FUNCTION pgdrover.quoted_path(path text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN pg_catalog.btrim(path) IN ('', '""') THEN '''''' ELSE (
        SELECT pg_catalog.string_agg(CASE
                   WHEN m[1] LIKE '"%' THEN pg_catalog.quote_ident(pg_catalog.replace(pg_catalog.btrim(m[1], '"'), '""', '"'))
                   ELSE pg_catalog.quote_ident(pg_catalog.lower(pg_catalog.btrim(m[1]))) END, ', ' ORDER BY n)
          FROM pg_catalog.regexp_matches(path, E'("(?:[^"]|"")*"|[^,"\\s][^,"]*)', 'g') WITH ORDINALITY AS r(m, n)) END
$$;

-- What is written before a statement, so that it means elsewhere what it means here: literals of times, intervals and
-- XML are read by these, and what becomes a text is written by them. An engine has the values named here when it begins
-- with a statement, or what is the same.
CREATE OR REPLACE FUNCTION pgdrover.statement_settings()
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT coalesce(pg_catalog.string_agg(pg_catalog.format('SET LOCAL %s TO %L; ', s.name, s.value), '' ORDER BY s.n), '')
      FROM (SELECT b.n, b.name, b.usual, pg_catalog.current_setting(b.name) AS value
              FROM (VALUES (1, 'timezone', '{UTC,Etc/UTC,UCT,Etc/UCT,GMT,Etc/GMT}'::text[]), (2, 'datestyle', '{"ISO, MDY"}'),
                           (3, 'intervalstyle', '{postgres}'), (4, 'xmloption', '{content}'), (5, 'array_nulls', '{on}'),
                           (6, 'bytea_output', '{hex}'), (7, 'extra_float_digits', '{1,2,3}'), (8, 'transform_null_equals', '{off}'),
                           (9, 'xmlbinary', '{base64}'))
                   AS b(n, name, usual)) AS s
     WHERE s.value <> ALL (s.usual)
$$;

CREATE OR REPLACE FUNCTION spock.replicate_ddl(
    command text, replication_sets text[] = '{ddl_sql}', search_path text = current_setting('search_path'),
    role text = CURRENT_USER)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    path_before pg_catalog.text := pg_catalog.current_setting('search_path');
    role_before pg_catalog.text := pg_catalog.current_setting('role');
    applying_before pg_catalog.text := coalesce(pg_catalog.current_setting('pgdrover.applying', true), '');
    statements pg_catalog.text[] := pgdrover.split_statements(command);
    statement pg_catalog.text;
    t pg_catalog.record;
BEGIN
    PERFORM pgdrover.find_set(l.node_id, r, '22023') FROM pg_catalog.unnest(replication_sets) r;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = role::name) THEN
        RAISE EXCEPTION USING ERRCODE = '42704', MESSAGE = pg_catalog.format('role "%s" does not exist', role);
    END IF;
    FOREACH statement IN ARRAY statements LOOP
        t := pgdrover.command_tag(statement);
        IF NOT t.is_ddl THEN
            RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = pg_catalog.format(
                'spock.replicate_ddl() cannot execute %s statement', t.tag);
        END IF;
    END LOOP;
    BEGIN
        PERFORM pg_catalog.set_config('search_path', replicate_ddl.search_path, true);
    EXCEPTION WHEN invalid_parameter_value THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = 'provided search path is not valid';
    END;
    PERFORM pgdrover.enqueue(replication_sets, 'Q', pg_catalog.to_json(
        'SET search_path TO ' || pgdrover.quoted_path(replicate_ddl.search_path) || '; ' || pgdrover.statement_settings()
        || pgdrover.conforming(command)), replicate_ddl.role::name);
    PERFORM pg_catalog.set_config('pgdrover.applying', 'Q', true);
    PERFORM pg_catalog.set_config('role', replicate_ddl.role, true);
    FOREACH statement IN ARRAY statements LOOP
        EXECUTE statement;
    END LOOP;
    PERFORM pg_catalog.set_config('role', role_before, true);
    PERFORM pg_catalog.set_config('search_path', path_before, true);
    PERFORM pg_catalog.set_config('pgdrover.applying', applying_before, true);
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION spock.replicate_ddl(
    command text[], replication_sets text[] = '{ddl_sql}', search_path text = current_setting('search_path'),
    role text = CURRENT_USER)
RETURNS SETOF boolean LANGUAGE sql STRICT AS $$
    SELECT spock.replicate_ddl(c, replication_sets, search_path, role)
      FROM pg_catalog.unnest(command) WITH ORDINALITY AS u(c, n) ORDER BY n
$$;

-- Where we stand, in the words that the functions below read: the server translates what it calls a frame. Only a
-- superuser may have that changed; without, they find no frame of ours.
CREATE OR REPLACE FUNCTION pgdrover.plain_context()
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before pg_catalog.text := pg_catalog.current_setting('lc_messages');
    context pg_catalog.text;
BEGIN
    IF before NOT IN ('C', 'POSIX') THEN
        BEGIN
            PERFORM pg_catalog.set_config('lc_messages', 'C', true);
        EXCEPTION WHEN insufficient_privilege THEN
            NULL;
        END;
    END IF;
    GET DIAGNOSTICS context = PG_CONTEXT;
    IF pg_catalog.current_setting('lc_messages') <> before THEN
        PERFORM pg_catalog.set_config('lc_messages', before, true);
    END IF;
    RETURN context;
END
$$;

-- The context without our own frames, which are the first lines: empty when the statement came from the client itself,
-- NULL when we cannot tell.
CREATE OR REPLACE FUNCTION pgdrover.callers_context(context text)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    -- Ours comes before all that others may have named like it.
    place integer := pg_catalog.regexp_instr(context, E'(^|\\n)PL/pgSQL function "?pgdrover"?\\."?on_(ddl_end|sql_drop|rewrite)"?\\(\\)[^\\n]*(\\n|$)',
                                             1, 1, 1);
BEGIN
    RETURN CASE WHEN place > 0 THEN pg_catalog.substr(context, place) END;
END
$$;

-- The statement of the innermost frame, when a frame shows one. What looks like the next frame may stand in one of its
-- literals: it ends where nothing is left open.
CREATE OR REPLACE FUNCTION pgdrover.context_statement(callers text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    rest pg_catalog.text;
    statements pg_catalog.text[];
    ends integer;
    n integer := 0;
BEGIN
    IF NOT pg_catalog.starts_with(callers, 'SQL statement "') THEN
        RETURN NULL;
    END IF;
    rest := pg_catalog.substr(callers, 16);
    LOOP
        n := n + 1;
        ends := pg_catalog.regexp_instr(rest, E'"\\nPL/\\w+ (function|anonymous) ', 1, n);
        IF ends = 0 THEN
            RETURN pg_catalog.left(rest, -1);
        END IF;
        statements := pgdrover.split_statements(pg_catalog.left(rest, ends - 1) || E'\n; c');
        IF pg_catalog.cardinality(statements) > 1 AND statements[pg_catalog.cardinality(statements)] = 'c' THEN
            RETURN pg_catalog.left(rest, ends - 1);
        END IF;
    END LOOP;
END
$$;

-- Where a session is in its client's message. Not to count with: currval is the session's own, and no rollback takes it
-- back, as none makes the message begin anew. A COMMIT within the message does not end it, either. It goes where the table
-- goes.
CREATE SEQUENCE IF NOT EXISTS spock.pgdrover_message_place OWNED BY spock.queue.queued_at;

CREATE OR REPLACE FUNCTION pgdrover.message_place()
RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN pg_catalog.currval('spock.pgdrover_message_place');
EXCEPTION WHEN object_not_in_prerequisite_state THEN
    RETURN 0;
END
$$;

-- The text of the statement that an event trigger fires for: one of the client's message, or what a function runs.
-- context is that of our trigger function and of whatever called it. moves says whether the next question is about the
-- statement behind this one. NULL when it cannot be known for sure.
CREATE OR REPLACE FUNCTION pgdrover.current_statement(
    context text, tag text, names text[], moves boolean, OUT statement text, OUT from_function boolean)
RETURNS record LANGUAGE plpgsql AS $$
DECLARE
    callers pg_catalog.text := pgdrover.callers_context(context);
    source pg_catalog.text;
    mark bigint;
    place bigint;
    behind integer;     -- where the one ends that was asked for before
    ends integer;
BEGIN
    from_function := coalesce(callers <> '', false);
    source := CASE WHEN from_function THEN pgdrover.context_statement(callers)
                   WHEN callers = '' THEN pg_catalog.current_query() END;
    IF source IS NULL OR pg_catalog.strpos(source, ';') = 0 THEN
        statement := pg_catalog.btrim(source, E' \t\r\n');
        RETURN;
    END IF;
    -- A function runs a text anew, after a rollback as well: its place goes back with the transaction. 30 bits are for
    -- the place, the rest tells this message from others.
    mark := pg_catalog.hashtextextended(pg_catalog.extract('epoch', pg_catalog.statement_timestamp())::text || ' ' || source, 0)
            & 4294967295;
    place := CASE WHEN from_function
                  THEN coalesce(nullif(pg_catalog.current_setting('pgdrover.ddl_cursor', true), ''), '0')::bigint
                  ELSE pgdrover.message_place() END;
    behind := CASE WHEN place >> 30 = mark THEN place & 1073741823 ELSE 0 END;
    SELECT n.statement, n.ends INTO statement, ends FROM pgdrover.next_statement(source, tag, names, behind) AS n;
    IF statement IS NULL AND from_function THEN
        SELECT n.statement, n.ends INTO statement, ends FROM pgdrover.next_statement(source, tag, names, 0) AS n;
    END IF;
    IF NOT moves OR statement IS NULL OR statement = pg_catalog.btrim(source, E'; \t\r\n') THEN
        RETURN;
    END IF;
    place := mark << 30 | ends;
    IF from_function THEN
        PERFORM pg_catalog.set_config('pgdrover.ddl_cursor', place::text, false);
    ELSE
        PERFORM pg_catalog.setval('spock.pgdrover_message_place', place);
    END IF;
END
$$;

-- The next of a message's statements that has this tag, and where it ends. Each that has it fires our triggers, so it is
-- the one; but for what was run while they did not fire, and the names show that. A message's only statement is it anyway.
CREATE OR REPLACE FUNCTION pgdrover.next_statement(
    source text, tag text, names text[], behind integer, OUT statement text, OUT ends integer)
RETURNS record LANGUAGE plpgsql STABLE AS $$
DECLARE
    -- Cheap, for the most of a long message: what may stand before the first word.
    begins pg_catalog.text := E'^(\\s|--[^\\n]*\\n|/\\*.*\\*/)*' || CASE tag WHEN 'SELECT INTO' THEN '(SELECT|WITH)'
                                                                       ELSE pg_catalog.split_part(tag, ' ', 1) END || E'\\M';
    doubtful boolean := source ~* E'session_replication_role|event\\s+trigger|node_create';
    bare pg_catalog.text[] := ARRAY(SELECT pg_catalog.lower(pg_catalog.replace(k.name, '"', '')) FROM pg_catalog.unnest(names) AS k(name));
    whole integer := pg_catalog.length(source);
    place integer := behind;
    width integer := 300;
    part pg_catalog.record;
    seen integer := 0;
    lone pg_catalog.text;       -- the message's, while there is no other
    places integer := 0;        -- of statements that have the tag; statement is the first of them
    named integer := 0;         -- how many of them show a name
    named_statement pg_catalog.text;
    named_ends integer;
    kind pg_catalog.text;
BEGIN
    WHILE place < whole LOOP
        part := pgdrover.statements_within(source, place, width);
        FOR i IN 1 .. pg_catalog.cardinality(part.statements) LOOP
            seen := seen + 1;
            lone := CASE WHEN seen = 1 THEN part.statements[i] END;
            place := part.ends[i];
            CONTINUE WHEN part.statements[i] !~* begins;
            kind := (pgdrover.command_tag(part.statements[i])).tag;
            CONTINUE WHEN kind IS NULL OR kind <> tag AND NOT (kind IN ('CREATE TABLE', 'CREATE TABLE AS') AND tag IN ('CREATE TABLE', 'CREATE TABLE AS'));
            places := places + 1;
            IF places = 1 THEN
                statement := part.statements[i];
                ends := place;
            END IF;
            IF part.statements[i] ~* E'\\mU&"|\\mALL\\s+IN\\s+TABLESPACE\\M' -- names that do not show
               OR EXISTS (SELECT FROM pg_catalog.unnest(bare) AS k(name)
                           WHERE pg_catalog.strpos(pg_catalog.lower(pg_catalog.replace(part.statements[i], '"', '')), k.name) > 0) THEN
                named := named + 1;
                IF named = 1 THEN
                    named_statement := part.statements[i];
                    named_ends := place;
                END IF;
            END IF;
            -- The server names an index that got no name, as another statement may name its own.
            IF NOT doubtful AND places = 1 AND (named = 1 OR tag = 'CREATE INDEX') THEN
                RETURN;
            END IF;
        END LOOP;
        EXIT WHEN place + width >= whole AND part.statements = '{}';
        -- Some at a time, of which one may be as long as it likes.
        width := CASE WHEN part.statements = '{}' THEN least(width::bigint * 4, whole) ELSE least(width * 4, 50000) END;
    END LOOP;
    IF behind = 0 AND seen = 1 THEN
        statement := lone;
        ends := whole;
    ELSIF doubtful AND places > 1 THEN
        statement := CASE WHEN named = 1 THEN named_statement END;
        ends := named_ends;
    ELSIF named_ends <> ends AND tag <> 'CREATE INDEX' THEN
        statement := NULL;
    END IF;
END
$$;

-- Names that the statement behind these commands must mention.
CREATE OR REPLACE FUNCTION pgdrover.command_names()
RETURNS text[] LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.array_agg(DISTINCT pg_catalog.replace(pg_catalog.substring(
               pg_catalog.regexp_replace(c.object_identity, E'\\(.*$', ''), '([^.]+)$'), '"', ''))
      FROM pg_catalog.pg_event_trigger_ddl_commands() c
$$;

-- Statements that stay here: they cannot run inside a transaction, or concern this node alone.
CREATE OR REPLACE FUNCTION pgdrover.stays_local(tag text, statement text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    bare pg_catalog.text := pgdrover.outline(statement);
BEGIN
    -- DROP OWNED mostly follows REASSIGN OWNED, which no event trigger sees: elsewhere the role may still own all that was
    -- given away here.
    RETURN tag LIKE '% SUBSCRIPTION' OR tag LIKE '% DATABASE' OR tag LIKE '% TABLESPACE' OR tag IN ('REINDEX', 'DROP OWNED')
        OR bare ~ E'^(CREATE (UNIQUE )?|DROP )INDEX CONCURRENTLY\\M'
        OR bare ~ E'\\mDETACH PARTITION\\M.*\\mCONCURRENTLY$'
        OR bare ~ E'^CREATE .*\\mAS EXECUTE\\M' AND tag = 'CREATE TABLE AS'
        OR coalesce(pg_catalog.current_setting('pgdrover.dropped_temporary', true) = 'on', false)
        OR pgdrover.reads_session(tag, statement)
        OR EXISTS (SELECT FROM pg_catalog.pg_event_trigger_ddl_commands() c
                    WHERE c.schema_name = 'pg_temp' OR c.schema_name LIKE E'pg\\_temp\\_%'
                       OR c.object_identity ~ E' on pg_temp(_[0-9]+)?\\.' -- a trigger, a rule, a policy
                       OR EXISTS (SELECT FROM spock.reserved_object r
                                   WHERE r.kind = 'schema' AND NOT r.replicate_ddl
                                     AND (r.name = c.schema_name::name
                                          OR c.object_type = 'schema' AND r.name = c.object_identity::name)));
END
$$;

-- Whether a statement reads what only this session has: its temporary relations, or the parameters of an EXECUTE. A name
-- alone may be that of something else: who reads a relation keeps it locked. GRANT locks nothing.
CREATE OR REPLACE FUNCTION pgdrover.reads_session(tag text, statement text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    makes_rows CONSTANT boolean := tag IN ('CREATE TABLE AS', 'SELECT INTO', 'CREATE MATERIALIZED VIEW');
    grants CONSTANT boolean := tag IN ('GRANT', 'REVOKE');
    -- What may be within a name, as for lex.
    inside CONSTANT pg_catalog.text := E'[^\\x01-\\x23\\x25-\\x2f\\x3a-\\x40\\x5b-\\x5e\\x60\\x7b-\\x7f]';
    code pg_catalog.text;
BEGIN
    IF NOT makes_rows AND NOT (pg_catalog.pg_my_temp_schema() <> 0 AND (
               grants OR tag IN ('CREATE FUNCTION', 'CREATE PROCEDURE', 'CREATE RULE', 'CREATE STATISTICS')
               OR tag = 'CREATE TABLE' AND statement ~* E'\\mlike\\M')) THEN
        RETURN false;
    END IF;
    SELECT pg_catalog.string_agg(CASE u.kind WHEN '-' THEN ' ' WHEN '''' THEN '''''' WHEN '_' THEN '' WHEN 'w' THEN pg_catalog.lower(u.piece)
                                 ELSE u.piece END, '' ORDER BY u.n) INTO code
      FROM pgdrover.lex(statement) AS l,
           ROWS FROM (pg_catalog.unnest(l.pieces), pg_catalog.unnest(l.kinds)) WITH ORDINALITY AS u(piece, kind, n);
    IF makes_rows AND code ~ ('(?<!' || inside || E')\\$[0-9]') THEN
        RETURN true;
    END IF;
    code := pg_catalog.regexp_replace(code, E'\\s*\\.\\s*', '.', 'g');
    code := pg_catalog.regexp_replace(code, '(?<!' || inside || E')"?pg_temp(_[0-9]+)?"?\\.', ' ', 'g');
    IF grants THEN
        code := pg_catalog.substring(code, E'\\mon\\M\\s*(.*?)\\s(?:to|from)\\M');
        IF code IS NULL OR code ~ E'^(all|database|domain|foreign|function|language|large|parameter|procedure|routine|schema|tablespace|type)\\M' THEN
            RETURN false;
        END IF;
    END IF;
    -- Not what a schema stands before. A name needs no quotes that has nothing but such characters, and none in upper case.
    RETURN EXISTS (
        SELECT FROM pg_catalog.pg_class c
         WHERE c.relnamespace = pg_catalog.pg_my_temp_schema() AND c.relkind IN ('r', 'p', 'v', 'S')
           AND code ~ ('(?<![.]|' || inside || ')('
                       || CASE WHEN c.relname ~ ('^' || inside || '+$') AND c.relname !~ E'[\\x41-\\x5a]'
                               THEN pg_catalog.replace(c.relname, '$', E'\\$') || '(?!' || inside || ')|' ELSE '' END
                       || '"' || pg_catalog.regexp_replace(pg_catalog.replace(c.relname, '"', '""'),
                                     E'([\\x21\\x23-\\x2f\\x3a-\\x40\\x5b-\\x5e\\x60\\x7b-\\x7e])', E'\\\\\\1', 'g') || '")')
           AND (grants OR EXISTS (
                   SELECT FROM pg_catalog.pg_locks k
                    WHERE k.locktype = 'relation' AND k.pid = pg_catalog.pg_backend_pid() AND k.relation = c.oid AND k.granted)));
END
$$;

-- How deep the session is in statements that run an extension's script: 1 while it is in one, 2 for an ALTER EXTENSION of the
-- script itself. Whatever a script does belongs to that statement; not all of it shows in an event trigger as a part of
-- the extension, a DROP does not. With a step of 0 it is only asked for.
CREATE OR REPLACE FUNCTION pgdrover.script_depth(tag text, step integer)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    depth integer := coalesce(nullif(pg_catalog.current_setting('pgdrover.script_depth', true), ''), '0')::integer;
BEGIN
    IF step <> 0 AND tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN
        depth := greatest(depth + step, 0);
        PERFORM pg_catalog.set_config('pgdrover.script_depth', depth::text, true);
    END IF;
    RETURN depth;
END
$$;

-- Whether an ALTER TABLE has given the rows that were there values that each node computes for itself: of the clock, at
-- random, from a sequence. Constants are the same everywhere.
CREATE OR REPLACE FUNCTION pgdrover.computes_values(tag text, statement text)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT tag = 'ALTER TABLE' AND pgdrover.outline(statement) ~ E'\\mADD\\M' AND EXISTS (
        SELECT FROM pg_catalog.pg_event_trigger_ddl_commands() c
          JOIN pg_catalog.pg_class k ON c.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND k.oid = c.objid
          JOIN pg_catalog.pg_attribute a ON a.attrelid = k.oid AND a.attnum > 0 AND NOT a.attisdropped
          LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
         WHERE (k.relkind = 'p' OR k.relkind = 'r' AND pg_catalog.pg_relation_size(k.oid) > 0)
           AND pg_catalog.age(a.xmin) <= 0 -- of this transaction
           AND a.attgenerated = ''
           AND (a.attidentity <> '' OR pg_catalog.regexp_replace(pg_catalog.pg_get_expr(f.adbin, f.adrelid), '''[^'']*''', '', 'g')
                                       ~ E'\\w\\(|\\m(CURRENT_|LOCALTIME)'))
$$;

-- Stores the statement, for peers to run as caller. Only on_ddl_end calls it, with the rights of the schema's owner: whoever may
-- run DDL may not write the queue.
CREATE OR REPLACE FUNCTION pgdrover.capture(tag text, path text, caller name)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    enabled boolean := pgdrover.flag('spock.enable_ddl_replication');
    commands bigint;
    ours bigint;
    s pg_catalog.record;
    -- What a statement dropped that is not temporary, when it dropped both.
    lasting CONSTANT pg_catalog.text := substring(current_setting('pgdrover.dropped_temporary', true), E'^\\{.*$');
BEGIN
    -- The statement that runs the script counts until all is done that follows it.
    IF pgdrover.script_depth(tag, 0) > (CASE WHEN tag IN ('CREATE EXTENSION', 'ALTER EXTENSION') THEN 1 ELSE 0 END) THEN
        RETURN;
    END IF;
    IF to_regclass('spock.local_node') IS NULL OR pgdrover.internal() OR NOT enabled AND strpos(current_query(), ';') = 0
       OR pgdrover.local_node_id() IS NULL THEN
        RETURN;
    END IF;
    SELECT count(*), count(*) FILTER (WHERE c.in_extension OR c.schema_name IN ('spock', 'pgdrover')
               OR c.object_type = 'extension' AND c.object_identity = 'spock'
               OR c.object_type = 'schema' AND c.object_identity IN ('spock', 'pgdrover')
               OR c.object_type IN ('publication', 'publication relation', 'publication namespace')
                  AND c.object_identity LIKE E'%pgdrover\\_%')
      INTO commands, ours FROM pg_event_trigger_ddl_commands() c;
    -- Also what is not sent is a step forward in the message.
    s := pgdrover.current_statement(pgdrover.plain_context(), tag, pgdrover.command_names(), true);
    IF commands > 0 AND commands = ours THEN
        RETURN;
    END IF;
    -- The server does that for REFRESH … CONCURRENTLY.
    IF s.from_function AND s.statement ~ E'^(CREATE TEMP|ALTER|DROP) TABLE pg_temp(_[0-9]+)?\\.pg_temp_[0-9]+' THEN
        RETURN;
    END IF;
    IF NOT enabled OR pgdrover.flag('spock.replication_repair_mode')
       OR coalesce(current_setting('pgdrover.applying', true), '') <> ''
       OR s.from_function AND NOT pgdrover.flag('spock.allow_ddl_from_functions') THEN
        RETURN;
    END IF;
    IF lasting IS NOT NULL AND tag LIKE 'DROP %' AND s.statement IS NOT NULL THEN
        s.statement := tag || CASE WHEN pgdrover.outline(s.statement) ~ E'^DROP [A-Z ]+ IF EXISTS\\M' THEN ' IF EXISTS ' ELSE ' ' END
                       || array_to_string(lasting::text[], ', ')
                       || CASE WHEN pgdrover.outline(s.statement) ~ E'\\mCASCADE$' THEN ' CASCADE' ELSE '' END;
    END IF;
    IF s.statement IS NULL OR pgdrover.stays_local(tag, s.statement) OR NOT coalesce(pg_has_role(session_user, caller, 'MEMBER'), false) THEN
        PERFORM pgdrover.tell('warning', 'This DDL statement will not be replicated.');
        RETURN;
    END IF;
    -- Peers run this text: the path is what anybody has set, and set_config takes more than names.
    PERFORM pgdrover.enqueue('{default_insert_only}', 'D',
        to_json('SET search_path TO ' || pgdrover.quoted_path(path) || '; ' || pgdrover.statement_settings() || pgdrover.conforming(s.statement)), caller);
    IF tag IN ('CREATE TABLE AS', 'SELECT INTO') OR pgdrover.computes_values(tag, s.statement) THEN
        PERFORM pgdrover.tell('warning', 'DDL statement replicated, but could be unsafe.');
    ELSE
        PERFORM pgdrover.tell('info', 'DDL statement replicated.');
    END IF;
    PERFORM pgdrover.assign_created();
END
$$;

-- Automatic membership, where it is wanted, of the tables that a statement made or changed.
CREATE OR REPLACE FUNCTION pgdrover.assign_created()
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    rel pg_catalog.oid;
BEGIN
    IF NOT pgdrover.flag('spock.include_ddl_repset') THEN
        RETURN;
    END IF;
    FOR rel IN SELECT DISTINCT coalesce(i.indrelid, k.oid)
                 FROM pg_catalog.pg_event_trigger_ddl_commands() c
                 JOIN pg_catalog.pg_class k ON c.classid = 'pg_catalog.pg_class'::regclass AND k.oid = c.objid
                 LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = k.oid
                WHERE k.relkind IN ('r', 'p') OR i.indrelid IS NOT NULL AND c.command_tag = 'ALTER INDEX'
                ORDER BY 1 LOOP
        PERFORM pgdrover.assign_table(rel);
    END LOOP;
END
$$;

-- The set that suits a table: default with a key, default_insert_only without. A member of a set that suits it stays.
CREATE OR REPLACE FUNCTION pgdrover.assign_table(rel oid)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    node pg_catalog.oid := pgdrover.local_node_id();
    c pg_catalog.record;
    keyed boolean;
    target spock.replication_set;
BEGIN
    FOR c IN SELECT k.oid, k.relname, k.relpersistence, k.relnamespace, n.nspname, k.relkind
               FROM (SELECT rel UNION ALL SELECT pgdrover.partitions(rel)) AS m(id)
               JOIN pg_catalog.pg_class k ON k.oid = m.id JOIN pg_catalog.pg_namespace n ON n.oid = k.relnamespace LOOP
        CONTINUE WHEN c.relkind NOT IN ('r', 'p') OR pgdrover.reserved_schema(c.nspname);
        keyed := pgdrover.has_key(c.oid);
        IF c.relpersistence <> 'p' THEN
            PERFORM pgdrover.remove_member(t.set_id, c.oid) FROM spock.replication_set_table t WHERE t.set_reloid = c.oid;
            CONTINUE;
        END IF;
        CONTINUE WHEN keyed AND EXISTS (
            SELECT FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)
             WHERE t.set_reloid = c.oid AND s.set_nodeid = node AND s.set_name <> 'default_insert_only');
        PERFORM pgdrover.remove_member(t.set_id, c.oid)
           FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)
          WHERE t.set_reloid = c.oid AND (keyed OR s.replicate_update OR s.replicate_delete);
        SELECT * INTO target FROM spock.replication_set s
         WHERE s.set_nodeid = node AND s.set_name = CASE WHEN keyed THEN 'default' ELSE 'default_insert_only' END;
        CONTINUE WHEN target.set_id IS NULL OR EXISTS (
            SELECT FROM spock.replication_set_table t WHERE t.set_reloid = c.oid AND t.set_id = target.set_id);
        PERFORM pgdrover.add_member(target, c.oid, NULL, NULL);
        RAISE LOG USING MESSAGE = pg_catalog.format('table ''%s'' was added to ''%s'' replication set.', c.relname, target.set_name);
    END LOOP;
END
$$;

-- Notes what only the caller's own context shows: what works with the owner's rights cannot see it. Event triggers fire in the
-- order of their names, so that this is the one before on_ddl_end and before on_sql_drop, with nobody's code between them:
-- whatever anybody has put into the settings is overwritten. It must be no argument, as anybody could call that with another
-- one. No SET clause and no operators here: the search path is the caller's.
CREATE OR REPLACE FUNCTION pgdrover.on_ddl_caller()
RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.set_config('pgdrover.caller', current_user, true);
    PERFORM pg_catalog.set_config('pgdrover.caller_path', pg_catalog.current_setting('search_path'), true);
    IF TG_EVENT OPERATOR(pg_catalog.=) 'sql_drop' THEN
        PERFORM pg_catalog.set_config('pgdrover.caller_schemas', pg_catalog.current_schemas(true)::pg_catalog.text, true);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.on_ddl_end()
RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgdrover.capture(TG_TAG, current_setting('pgdrover.caller_path', true), nullif(current_setting('pgdrover.caller', true), '')::name);
    -- It says nothing about the statement that this one may be a part of.
    PERFORM set_config('pgdrover.dropped_temporary', '', true);
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.on_ddl_start()
RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgdrover.script_depth(TG_TAG, 1);
    -- What an earlier statement of the transaction dropped says nothing about this one.
    IF coalesce(current_setting('pgdrover.dropped_temporary', true), '') <> '' THEN
        PERFORM set_config('pgdrover.dropped_temporary', '', true);
    END IF;
    IF coalesce(current_setting('pgdrover.rewritten', true), '') <> '' THEN
        PERFORM set_config('pgdrover.rewritten', '', true);
    END IF;
    IF pgdrover.flag('spock.deny_all_ddl') AND NOT pgdrover.internal() AND current_setting('session_replication_role') <> 'replica' THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format('cannot execute %s within spock cluster', TG_TAG);
    END IF;
END
$$;

-- Whether the running transaction has changed a table's keys, or its triggers.
CREATE OR REPLACE FUNCTION pgdrover.key_changed(rel oid)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_catalog.pg_index i
                    WHERE i.indrelid = rel AND i.indisunique AND (pg_catalog.age(i.xmin) <= 0 OR EXISTS (
                          SELECT FROM pg_catalog.pg_attribute a
                           WHERE a.attrelid = rel AND a.attnum = ANY (i.indkey::int2[]) AND pg_catalog.age(a.xmin) <= 0)))
        OR EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = rel AND pg_catalog.age(t.xmin) <= 0)
$$;

-- The tables that are sent or applied to among those that a statement names or has left without something, and those below
-- them: the server does not name these, although much of what is done to a table is done to its partitions and children as
-- well. There may be many of them, and most of it leaves their keys alone.
CREATE OR REPLACE FUNCTION pgdrover.concerned_tables(tag text, dropped oid[], OUT rel oid, OUT named boolean, OUT keyed_anew boolean)
RETURNS SETOF record LANGUAGE sql STABLE AS $$
    WITH RECURSIVE named (rel) AS (
        SELECT coalesce(i.indrelid, c.objid)
          FROM pg_catalog.pg_event_trigger_ddl_commands() c LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.objid
         WHERE c.classid = 'pg_catalog.pg_class'::regclass
         UNION SELECT pg_catalog.unnest(dropped)
    ), reached (rel) AS (
        SELECT n.rel FROM named n
         UNION SELECT h.inhrelid FROM reached p JOIN pg_catalog.pg_inherits h ON h.inhparent = p.rel
                WHERE tag LIKE 'ALTER %' OR tag = 'CREATE INDEX'
    )
    SELECT r.rel, n.rel IS NOT NULL, n.rel IS NULL AND pgdrover.key_changed(r.rel)
      FROM reached r LEFT JOIN named n USING (rel)
     WHERE EXISTS (SELECT FROM spock.replication_set_table t WHERE t.set_reloid = r.rel)
        OR EXISTS (SELECT FROM spock.pgdrover_watch w WHERE w.relid = r.rel)
$$;

-- Of these tables those whose filters use a column that the running transaction has changed.
CREATE OR REPLACE FUNCTION pgdrover.filters_changed(rels oid[])
RETURNS oid[] LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.array_agg(DISTINCT d.refobjid)
      FROM spock.depend d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
     WHERE d.classid = 'spock.replication_set_table'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
       AND d.deptype = 'n' AND d.refobjid = ANY (rels) AND pg_catalog.age(a.xmin) <= 0
$$;

-- Whoever changes a table, also what applies changes: publications, triggers and filters follow.
CREATE OR REPLACE FUNCTION pgdrover.on_ddl_upkeep()
RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    depth integer := pgdrover.script_depth(TG_TAG, -1);
    concerned pg_catalog.oid[];
    named pg_catalog.oid[];
    rels pg_catalog.oid[];
    -- An extension takes its types along into another schema.
    everything boolean := TG_TAG IN ('ALTER TYPE', 'ALTER SCHEMA', 'ALTER EXTENSION');
    dropped pg_catalog.text := coalesce(current_setting('pgdrover.dropped', true), '');
BEGIN
    IF dropped <> '' THEN
        PERFORM set_config('pgdrover.dropped', '', true);
    END IF;
    IF to_regclass('spock.local_node') IS NULL OR pgdrover.internal() THEN
        RETURN;
    END IF;
    IF depth = 0 THEN
        PERFORM pgdrover.watch_held();
    END IF;
    IF coalesce(current_setting('pgdrover.applying', true), '') = 'D' AND current_setting('session_replication_role') = 'replica'
       AND pgdrover.local_node_id() IS NOT NULL THEN
        PERFORM pgdrover.assign_created();
    END IF;
    IF TG_TAG = 'ALTER TABLE' THEN
        PERFORM pgdrover.note_added_columns();
    END IF;
    PERFORM pgdrover.note_rewritten();
    IF NOT everything THEN
        SELECT array_agg(c.rel), array_agg(c.rel) FILTER (WHERE c.named), coalesce(array_agg(c.rel) FILTER (WHERE c.named OR c.keyed_anew), '{}')
          INTO concerned, named, rels
          FROM pgdrover.concerned_tables(TG_TAG, nullif(dropped, '')::oid[]) c;
        IF concerned IS NULL AND (dropped = '' OR TG_TAG NOT IN ('DROP INDEX', 'DROP TYPE', 'DROP DOMAIN', 'DROP EXTENSION', 'DROP OWNED',
                                                             'DROP SCHEMA', 'DROP COLLATION', 'DROP OPERATOR CLASS', 'DROP FUNCTION')) THEN
            RETURN;
        END IF;
    END IF;
    -- What applies knows its tables, and has to look again.
    PERFORM pg_notify('spock_change', 'definition');
    PERFORM pgdrover.publish(rels);
    IF TG_TAG = 'ALTER SCHEMA' THEN
        PERFORM pgdrover.describe_again();
    END IF;
    IF TG_TAG = 'ALTER TABLE' THEN
        PERFORM pgdrover.refresh_filters(coalesce(named || pgdrover.filters_changed(concerned), '{}'));
    END IF;
    PERFORM pgdrover.watch_each(ARRAY(SELECT w.relid FROM spock.pgdrover_watch w WHERE rels IS NULL OR w.relid = ANY (rels) ORDER BY 1));
END
$$;

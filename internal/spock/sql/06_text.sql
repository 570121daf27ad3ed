-- Reading SQL text: where its statements end, and what kind each is. Only borders and leading words matter here, so
-- this knows quotes, comments, parentheses and bodies, and nothing of grammar.

-- The pieces of a text, in order: together they are the text. kinds tells what each is: w a word, ' the beginning of a
-- literal and _ its rest, " and = the same of a quoted name, - a comment, a blank, ( ) ; or . for anything else. numbers tells
-- which statement it is of, from 0: NULL is a semicolon that ends one. As for the server, the session's
-- standard_conforming_strings say what a backslash is.
CREATE OR REPLACE FUNCTION pgdrover.lex(sql text, OUT pieces text[], OUT kinds text[], OUT numbers integer[])
RETURNS record LANGUAGE plpgsql STABLE AS $$
DECLARE
    escaping CONSTANT boolean := NOT pg_catalog.current_setting('standard_conforming_strings')::boolean;
    escapes boolean;        -- in the literal at hand
    n integer;
    i integer := 1;
    last integer;           -- the last piece of what begins at i
    tok pg_catalog.text;
    kind pg_catalog.text;
    rest pg_catalog.text;   -- kind of the pieces behind i
    depth integer;
    width integer;
    glued pg_catalog.text := '';     -- the word that ends where the piece begins, in lower case
    last_word pg_catalog.text := ''; -- the same with blanks and comments between, or a mark; a quote behind a literal that escapes
    begins boolean := false;         -- last_word is a BEGIN, not the name of a column
    number integer := 0;
    parens integer := 0;
    body boolean := false;  -- within BEGIN ATOMIC
BEGIN
    -- Words as the server takes them: beyond ASCII everything is a letter. A backslash and what it may take along are one.
    SELECT pg_catalog.array_agg(coalesce(m[1], m[2], m[3])),
           pg_catalog.array_agg(CASE WHEN m[1] IS NOT NULL THEN 'w' WHEN m[2] IS NOT NULL THEN ' '
                                     WHEN m[3] IN ('(', ')', ';') THEN m[3] ELSE '.' END)
      INTO pieces, kinds
      FROM pg_catalog.regexp_matches(sql, E'([^\\x01-\\x2f\\x3a-\\x40\\x5b-\\x5e\\x60\\x7b-\\x7f]+)|([ \\t\\r\\f\\v]+|\\n)'
                                          '|(--|/\\*|\\*/|\\\\[''"\\\\]|.)', 'g') AS m;
    n := coalesce(pg_catalog.cardinality(pieces), 0);
    numbers := '{}';
    WHILE i <= n LOOP
        kind := kinds[i];
        IF kind = 'w' THEN
            tok := pg_catalog.lower(pieces[i]);
            IF NOT body THEN
                body := tok = 'atomic' AND begins;
            ELSIF tok = 'end' AND last_word IN (';', 'atomic') THEN
                -- That of a CASE, or a name, stands within a statement.
                body := false;
            END IF;
            begins := tok = 'begin' AND glued = '' AND last_word NOT IN ('.', 'as');
            glued := tok;
            last_word := tok;
            numbers := numbers || number;
            i := i + 1;
            CONTINUE;
        ELSIF kind = ' ' THEN
            glued := '';
            numbers := numbers || number;
            i := i + 1;
            CONTINUE;
        END IF;
        tok := pieces[i];
        last := i;
        rest := '_';
        escapes := false;
        IF tok = '--' THEN
            kind := '-';
            rest := '-';
            WHILE last < n AND pieces[last + 1] <> E'\n' LOOP last := last + 1; END LOOP;
        ELSIF tok = '/*' THEN
            kind := '-';
            rest := '-';
            depth := 1;
            WHILE last < n AND depth > 0 LOOP
                last := last + 1;
                depth := depth + CASE pieces[last] WHEN '/*' THEN 1 WHEN '*/' THEN -1 ELSE 0 END;
            END LOOP;
        ELSIF tok IN ('''', '"') THEN
            kind := tok;
            rest := CASE tok WHEN '"' THEN '=' ELSE '_' END;
            -- A literal goes on in another line with another quote.
            escapes := tok = '''' AND (escaping OR glued = 'e' OR last_word = '''');
            LOOP
                last := last + 1;
                EXIT WHEN last > n OR pieces[last] = E'\\' || tok AND NOT escapes;
                IF pieces[last] = tok THEN
                    EXIT WHEN pieces[last + 1] IS DISTINCT FROM tok;
                    last := last + 1;
                END IF;
            END LOOP;
        ELSIF tok = '$' AND glued = '' THEN
            width := CASE WHEN pieces[i + 1] = '$' THEN 1
                          WHEN pieces[i + 2] = '$' AND kinds[i + 1] = 'w' AND pieces[i + 1] !~ '^[0-9]' THEN 2 ELSE 0 END;
            IF width > 0 THEN
                kind := '''';
                last := i + width + 1;
                WHILE last <= n AND NOT (pieces[last] = '$' AND pieces[last + 1] = pieces[i + 1]
                                         AND (width = 1 OR pieces[last + 2] = '$')) LOOP
                    last := last + 1;
                END LOOP;
                last := last + width;
            END IF;
        ELSE
            parens := parens + CASE kind WHEN '(' THEN 1 WHEN ')' THEN -1 ELSE 0 END;
        END IF;
        IF kind = ';' AND parens <= 0 AND NOT body THEN
            numbers := numbers || NULL::integer;
            number := number + 1;
            parens := 0;
        ELSE
            numbers := numbers || number;
        END IF;
        kinds[i] := kind;
        last := least(last, n);
        FOR k IN i + 1 .. last LOOP
            kinds[k] := rest;
            numbers := numbers || number;
        END LOOP;
        glued := CASE WHEN tok = '$' AND glued <> '' THEN '$' ELSE '' END;
        begins := begins AND kind = '-';
        last_word := CASE WHEN kind = '-' THEN last_word WHEN escapes THEN '''' WHEN kind IN (';', '.') THEN tok ELSE '' END;
        i := last + 1;
    END LOOP;
    kinds := coalesce(kinds, '{}');
END
$$;

-- The statements of a text that end within its next characters, without surrounding blanks and the semicolon; empty ones
-- are left out. ends are the places behind the semicolons; places count in characters from 0. What a text ends with is a
-- statement, too.
CREATE OR REPLACE FUNCTION pgdrover.statements_within(
    sql text, place integer, width integer, OUT statements text[], OUT ends integer[])
RETURNS record LANGUAGE plpgsql STABLE AS $$
DECLARE
    part pg_catalog.text := pg_catalog.substr(sql, place + 1, width);
    l pg_catalog.record := pgdrover.lex(part);
    -- The one that goes on behind the characters; whatever is cut in two there, no semicolon follows it.
    unfinished integer := CASE WHEN place + width < pg_catalog.length(sql) THEN l.numbers[pg_catalog.cardinality(l.numbers)] END;
BEGIN
    SELECT pg_catalog.array_agg(pg_catalog.btrim(s.statement, E' \t\r\n') ORDER BY s.number), pg_catalog.array_agg(s.ends ORDER BY s.number)
      INTO statements, ends
      FROM (SELECT u.number, pg_catalog.string_agg(u.piece, '' ORDER BY u.n) AS statement, place + pg_catalog.max(u.ends)::integer + 1 AS ends
              FROM (SELECT k.*, pg_catalog.sum(pg_catalog.length(k.piece)) OVER (ORDER BY k.n) AS ends
                      FROM ROWS FROM (pg_catalog.unnest(l.pieces), pg_catalog.unnest(l.kinds), pg_catalog.unnest(l.numbers))
                           WITH ORDINALITY AS k(piece, kind, number, n)) AS u
             WHERE u.number IS NOT NULL
             GROUP BY u.number HAVING pg_catalog.bool_or(u.kind NOT IN (' ', '-'))) AS s
     WHERE s.number IS DISTINCT FROM unfinished;
    statements := coalesce(statements, '{}');
    ends := coalesce(ends, '{}');
END
$$;

-- One statement per element.
CREATE OR REPLACE FUNCTION pgdrover.split_statements(sql text)
RETURNS text[] LANGUAGE sql STABLE AS $$
    SELECT s.statements FROM pgdrover.statements_within(sql, 0, pg_catalog.length(sql)) AS s
$$;

-- A statement without comments, which nest, and with single blanks: enough to compare its leading words.
CREATE OR REPLACE FUNCTION pgdrover.bare_text(statement text)
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.btrim(pg_catalog.regexp_replace(coalesce(pg_catalog.string_agg(
               CASE u.kind WHEN '-' THEN ' ' ELSE u.piece END, '' ORDER BY u.n), ''), E'\\s+', ' ', 'g'))
      FROM pgdrover.lex(statement) AS l,
           ROWS FROM (pg_catalog.unnest(l.pieces), pg_catalog.unnest(l.kinds)) WITH ORDINALITY AS u(piece, kind, n)
$$;

-- The words of a statement itself, in upper case: each literal is '', each quoted name "", whatever stands in parentheses {}.
CREATE OR REPLACE FUNCTION pgdrover.outline(statement text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    words pg_catalog.text := (
        SELECT pg_catalog.string_agg(CASE u.kind WHEN '-' THEN ' ' WHEN '''' THEN '''''' WHEN '"' THEN '""' WHEN '_' THEN '' WHEN '=' THEN ''
                                     ELSE u.piece END, '' ORDER BY u.n)
          FROM pgdrover.lex(statement) AS l,
               ROWS FROM (pg_catalog.unnest(l.pieces), pg_catalog.unnest(l.kinds)) WITH ORDINALITY AS u(piece, kind, n));
    before pg_catalog.text;
BEGIN
    LOOP
        before := words;
        words := pg_catalog.regexp_replace(words, E'\\([^()]*\\)', ' {} ', 'g');
        EXIT WHEN words IS NOT DISTINCT FROM before;
    END LOOP;
    RETURN coalesce(pg_catalog.upper(pg_catalog.btrim(pg_catalog.regexp_replace(words, E'\\s+', ' ', 'g'))), '');
END
$$;

-- A statement that means the same whatever standard_conforming_strings are.
CREATE OR REPLACE FUNCTION pgdrover.conforming(statement text)
RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    l pg_catalog.record;
    before pg_catalog.text := '';   -- kind of the piece before that is no blank
    glued pg_catalog.text;
    conforms pg_catalog.text := '';
BEGIN
    IF pg_catalog.current_setting('standard_conforming_strings')::boolean OR pg_catalog.strpos(statement, E'\\') = 0 THEN
        RETURN statement;
    END IF;
    l := pgdrover.lex(statement);
    FOR i IN 1 .. pg_catalog.cardinality(l.pieces) LOOP
        -- Not what goes on in another line, nor bits.
        IF l.kinds[i] = '''' AND l.pieces[i] = '''' AND before <> '_' THEN
            glued := CASE l.kinds[i - 1] WHEN 'w' THEN pg_catalog.lower(l.pieces[i - 1]) ELSE '' END;
            conforms := conforms || CASE WHEN glued IN ('e', 'b', 'x', 'n') THEN '' WHEN glued = '' THEN 'E' ELSE ' E' END;
        END IF;
        conforms := conforms || l.pieces[i];
        before := CASE WHEN l.kinds[i] IN (' ', '-') THEN before ELSE l.kinds[i] END;
    END LOOP;
    RETURN conforms;
END
$$;

-- Whether an expression is one expression: parentheses closed, no semicolon, no unfinished string.
CREATE OR REPLACE FUNCTION pgdrover.is_one_expression(expression text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- Inside parentheses a semicolon is no border, so the closing one must be ours: then exactly two statements come out.
    RETURN pgdrover.split_statements(E'a (' || expression || E'\n) b; c') =
           ARRAY[E'a (' || expression || E'\n) b', 'c']
       AND pg_catalog.cardinality(pgdrover.split_statements(E'a ' || expression || E'\n; c')) = 2;
END
$$;

-- The command tag of a statement, as far as its leading words tell it: what it is called in messages, and whether it
-- is DDL. What concerns shared objects fires no event trigger; where the server gives it the same tag as what does, this
-- gives it another.
CREATE OR REPLACE FUNCTION pgdrover.command_tag(statement text, OUT tag text, OUT is_ddl boolean)
RETURNS record LANGUAGE plpgsql STABLE AS $$
DECLARE
    bare pg_catalog.text := pgdrover.outline(statement);
    w pg_catalog.text[];
    kind pg_catalog.text;
    into_table boolean;
BEGIN
    w := pg_catalog.regexp_split_to_array(pg_catalog.regexp_replace(bare, '[^A-Z0-9_ ].*$', ''), ' +');
    into_table := w[1] IN ('SELECT', 'WITH') AND bare ~ E'\\mINTO\\M' AND bare !~ E'\\m(INSERT|MERGE) INTO\\M';
    is_ddl := w[1] IN ('CREATE', 'ALTER', 'DROP', 'COMMENT', 'GRANT', 'REVOKE', 'REASSIGN', 'REFRESH', 'IMPORT',
                       'SECURITY', 'CLUSTER') OR into_table;
    kind := CASE WHEN w[1] IN ('GRANT', 'REVOKE')
                 -- A table may have such a name, too.
                 THEN pg_catalog.substring(bare, E'\\mON (DATABASE|TABLESPACE|PARAMETER) (?!TO\\M|FROM\\M|[,.])')
                 WHEN w[1] IN ('COMMENT', 'SECURITY')
                 THEN pg_catalog.substring(bare, E'^(?:COMMENT|SECURITY LABEL(?: FOR [^ ]+)?) ON (ROLE|DATABASE|TABLESPACE|EVENT TRIGGER)\\M') END;
    tag := CASE
        WHEN into_table THEN 'SELECT INTO'
        WHEN kind IS NOT NULL THEN w[1] || ' ON ' || kind
        WHEN w[1] IN ('GRANT', 'REVOKE') AND bare !~ E'\\mON\\M' THEN w[1] || ' ROLE'
        WHEN w[1] IN ('CREATE', 'ALTER', 'DROP') THEN NULL
        WHEN w[1] = 'REFRESH' THEN 'REFRESH MATERIALIZED VIEW'
        WHEN w[1] = 'IMPORT' THEN 'IMPORT FOREIGN SCHEMA'
        WHEN w[1] = 'SECURITY' THEN 'SECURITY LABEL'
        WHEN w[1] = 'REASSIGN' THEN 'REASSIGN OWNED'
        WHEN w[1] IN ('WITH', 'VALUES', 'TABLE') OR w[1] = '' THEN 'SELECT'
        WHEN w[1] = 'START' THEN 'START TRANSACTION'
        WHEN w[1] = 'END' THEN 'COMMIT'
        WHEN w[1] = 'ABORT' THEN 'ROLLBACK'
        WHEN w[1] = 'LOCK' THEN 'LOCK TABLE'
        WHEN w[1] = 'DECLARE' THEN 'DECLARE CURSOR'
        WHEN w[1] = 'TRUNCATE' THEN 'TRUNCATE TABLE'
        WHEN w[1] = 'ANALYSE' THEN 'ANALYZE'
        ELSE w[1] END;
    IF tag IS NULL THEN
        kind := pg_catalog.array_to_string(w[2:], ' ');
        kind := pg_catalog.regexp_replace(kind,
            '^(OR REPLACE |TEMP |TEMPORARY |LOCAL |GLOBAL |UNLOGGED |UNIQUE |TRUSTED |PROCEDURAL |RECURSIVE |CONSTRAINT |DEFAULT (?=CONVERSION))+', '');
        tag := w[1] || ' ' || coalesce(pg_catalog.substring(kind,
            E'^(ACCESS METHOD|DEFAULT PRIVILEGES|EVENT TRIGGER|FOREIGN DATA WRAPPER|FOREIGN TABLE|LARGE OBJECT|'
            'MATERIALIZED VIEW|OPERATOR CLASS|OPERATOR FAMILY|TEXT SEARCH CONFIGURATION|TEXT SEARCH DICTIONARY|'
            'TEXT SEARCH PARSER|TEXT SEARCH TEMPLATE|USER MAPPING)\\M'), pg_catalog.split_part(kind, ' ', 1));
        IF tag = 'CREATE TABLE' AND bare ~ E'\\mAS (SELECT|WITH|TABLE|VALUES|EXECUTE|\\{)' THEN
            tag := 'CREATE TABLE AS';
        ELSIF tag IN ('CREATE USER', 'CREATE GROUP', 'ALTER USER', 'ALTER GROUP', 'DROP USER', 'DROP GROUP') THEN
            tag := w[1] || ' ROLE';
        END IF;
    END IF;
END
$$;

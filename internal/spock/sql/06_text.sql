-- Reading SQL text: where its statements end, and what kind each is. Only borders and leading words matter here, so
-- this knows quotes, comments, parentheses and bodies, and nothing of grammar.

-- One statement per element, without surrounding blanks and the semicolon; empty statements are left out.
CREATE OR REPLACE FUNCTION pgdrover.split_statements(sql text)
RETURNS text[] LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    tokens pg_catalog.text[];
    n integer;
    i integer := 1;
    first integer := 1;     -- where the current statement begins
    tok pg_catalog.text;
    words integer := 0;     -- words of the current statement so far
    parens integer := 0;
    bodies integer := 0;    -- BEGIN ATOMIC and the CASEs within it
    last_word pg_catalog.text;         -- in lower case; NULL when something else stood between
    glued boolean := false; -- the token before this one was a word, without a blank between
    depth integer;
    width integer;
    part pg_catalog.text;
    statements pg_catalog.text[] := '{}';
BEGIN
    IF pg_catalog.strpos(sql, ';') = 0 THEN
        RETURN CASE WHEN pg_catalog.btrim(sql, E' \t\r\n') = '' THEN '{}'::text[]
                    ELSE ARRAY[pg_catalog.btrim(sql, E' \t\r\n')] END;
    END IF;
    SELECT pg_catalog.array_agg(m[1]) INTO tokens
      FROM pg_catalog.regexp_matches(sql, E'(--|/\\*|\\*/|[[:alnum:]_]+|[ \\t\\r]+|\\\\.|.|\\n)', 'gn') AS m;
    n := pg_catalog.cardinality(tokens);
    WHILE i <= n LOOP
        tok := tokens[i];
        CASE
            WHEN tok = '--' THEN
                WHILE i < n AND tokens[i + 1] <> E'\n' LOOP i := i + 1; END LOOP;
                glued := false;
            WHEN tok = '/*' THEN
                depth := 1;
                WHILE i < n AND depth > 0 LOOP
                    i := i + 1;
                    depth := depth + CASE tokens[i] WHEN '/*' THEN 1 WHEN '*/' THEN -1 ELSE 0 END;
                END LOOP;
                glued := false;
            WHEN tok = '''' OR tok = '"' THEN
                -- Two quotes in a row end one string and begin the next: the same border.
                LOOP
                    i := i + 1;
                    EXIT WHEN i > n OR tokens[i] = tok;
                    -- A backslash takes the quote behind it along only in an E'' string.
                    EXIT WHEN tokens[i] = E'\\' || tok AND NOT (glued AND last_word = 'e' AND tok = '''');
                END LOOP;
                glued := false;
                last_word := NULL;
            WHEN tok = '$' AND NOT glued THEN
                width := CASE WHEN tokens[i + 1] = '$' THEN 2
                              WHEN tokens[i + 2] = '$' AND tokens[i + 1] ~ '^[[:alpha:]_]' THEN 3
                              ELSE 0 END;
                IF width > 0 THEN
                    part := pg_catalog.array_to_string(tokens[i : i + width - 1], '');
                    i := i + width;
                    -- A backslash and what follows it are one token, which may hold the border's first sign.
                    WHILE i <= n AND NOT (tokens[i] IN ('$', E'\\$') AND '$'
                          || pg_catalog.array_to_string(tokens[i + 1 : i + width - 1], '') = part) LOOP
                        i := i + 1;
                    END LOOP;
                    i := i + width - 1;
                END IF;
                last_word := NULL;
            WHEN tok = '(' THEN
                parens := parens + 1;
                glued := false;
                last_word := NULL;
            WHEN tok = ')' THEN
                parens := parens - 1;
                glued := false;
                last_word := NULL;
            WHEN tok = ';' THEN
                IF parens <= 0 AND bodies = 0 THEN
                    IF words > 0 THEN
                        statements := statements || pg_catalog.btrim(
                            pg_catalog.array_to_string(tokens[first : i - 1], ''), E' \t\r\n');
                    END IF;
                    first := i + 1;
                    words := 0;
                    parens := 0;
                END IF;
                glued := false;
                last_word := NULL;
            WHEN tok ~ '^[[:alnum:]_]' THEN
                words := words + 1;
                IF bodies = 0 AND pg_catalog.lower(tok) = 'atomic' AND last_word = 'begin' THEN
                    bodies := 1;
                ELSIF bodies > 0 AND NOT glued THEN
                    bodies := bodies + CASE pg_catalog.lower(tok) WHEN 'case' THEN 1 WHEN 'end' THEN -1 ELSE 0 END;
                END IF;
                last_word := pg_catalog.lower(tok);
                glued := true;
            WHEN tok = E'\n' OR tok ~ E'^[ \\t\\r]' THEN
                glued := false;
            ELSE
                words := words + 1;
                glued := false;
                last_word := NULL;
        END CASE;
        i := i + 1;
    END LOOP;
    IF words > 0 AND first <= n THEN
        statements := statements || pg_catalog.btrim(pg_catalog.array_to_string(tokens[first : n], ''), E' \t\r\n');
    END IF;
    RETURN statements;
END
$$;

-- A statement without its comments, which nest. masked empties literals and quoted names, too: what is left are words.
CREATE OR REPLACE FUNCTION pgdrover.without_comments(statement text, masked boolean)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    tokens pg_catalog.text[];
    kept pg_catalog.text[] := '{}';
    n integer;
    i integer := 1;
    last integer;           -- token of the literal that begins at i
    width integer;
    depth integer;
    tok pg_catalog.text;
    before pg_catalog.text := ''; -- the token before
    escapes boolean;
BEGIN
    SELECT pg_catalog.array_agg(m[1]) INTO tokens
      FROM pg_catalog.regexp_matches(statement,
           E'(--|/\\*|\\*/|\\\\[''"\\\\]|[[:alnum:]_]+|[^-[:alnum:]_''"/*$\\\\\\n]+|.)', 'g') AS m;
    n := coalesce(pg_catalog.cardinality(tokens), 0);
    WHILE i <= n LOOP
        tok := tokens[i];
        last := i;
        IF tok = '--' THEN
            WHILE i < n AND tokens[i + 1] <> E'\n' LOOP i := i + 1; END LOOP;
            tok := ' ';
        ELSIF tok = '/*' THEN
            depth := 1;
            WHILE i < n AND depth > 0 LOOP
                i := i + 1;
                depth := depth + CASE tokens[i] WHEN '/*' THEN 1 WHEN '*/' THEN -1 ELSE 0 END;
            END LOOP;
            tok := ' ';
        ELSIF tok IN ('''', '"') THEN
            escapes := tok = '''' AND pg_catalog.lower(before) = 'e';
            LOOP
                last := last + 1;
                EXIT WHEN last > n OR tokens[last] = E'\\' || tok AND NOT escapes;
                IF tokens[last] = tok THEN
                    EXIT WHEN NOT escapes OR tokens[last + 1] IS DISTINCT FROM tok;
                    last := last + 1;
                END IF;
            END LOOP;
            tok := CASE WHEN masked THEN tok || tok ELSE tok END;
        ELSIF tok = '$' AND before !~ E'[[:alnum:]_$]$' THEN
            width := CASE WHEN tokens[i + 1] = '$' THEN 1 WHEN tokens[i + 2] = '$' AND tokens[i + 1] ~ '^[[:alpha:]_]' THEN 2 ELSE 0 END;
            IF width > 0 THEN
                last := i + width + 1;
                WHILE last <= n AND NOT (tokens[last] = '$' AND tokens[last + 1] = tokens[i + 1]
                                         AND (width = 1 OR tokens[last + 2] = '$')) LOOP
                    last := last + 1;
                END LOOP;
                last := last + width;
                tok := CASE WHEN masked THEN '''''' ELSE tok END;
            END IF;
        END IF;
        kept := kept || tok;
        before := tok;
        IF NOT masked THEN
            FOR k IN i + 1 .. least(last, n) LOOP
                kept := kept || tokens[k];
            END LOOP;
        END IF;
        i := greatest(i, last) + 1;
    END LOOP;
    RETURN pg_catalog.array_to_string(kept, '');
END
$$;

-- A statement without comments and with single blanks: enough to compare its leading words.
CREATE OR REPLACE FUNCTION pgdrover.bare_text(statement text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_catalog.btrim(pg_catalog.regexp_replace(pgdrover.without_comments(statement, false), E'\\s+', ' ', 'g'))
$$;

-- The words of a statement itself, in upper case: each literal is '', each quoted name "", whatever stands in parentheses {}.
CREATE OR REPLACE FUNCTION pgdrover.outline(statement text)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    words pg_catalog.text := pgdrover.without_comments(statement, true);
    before pg_catalog.text;
BEGIN
    LOOP
        before := words;
        words := pg_catalog.regexp_replace(words, E'\\([^()]*\\)', ' {} ', 'g');
        EXIT WHEN words = before;
    END LOOP;
    RETURN pg_catalog.upper(pg_catalog.btrim(pg_catalog.regexp_replace(words, E'\\s+', ' ', 'g')));
END
$$;

-- Whether an expression is one expression: parentheses closed, no semicolon, no unfinished string.
CREATE OR REPLACE FUNCTION pgdrover.is_one_expression(expression text)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
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
RETURNS record LANGUAGE plpgsql IMMUTABLE AS $$
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

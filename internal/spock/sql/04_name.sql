-- What the schema says it is.

CREATE OR REPLACE FUNCTION spock.spock_version()
RETURNS text LANGUAGE sql AS $$ SELECT '5.0.11'::text $$;

CREATE OR REPLACE FUNCTION spock.spock_version_num()
RETURNS integer LANGUAGE sql AS $$ SELECT 50011 $$;

CREATE OR REPLACE FUNCTION spock.spock_max_proto_version()
RETURNS integer LANGUAGE sql AS $$ SELECT 4 $$;

CREATE OR REPLACE FUNCTION spock.spock_min_proto_version()
RETURNS integer LANGUAGE sql AS $$ SELECT 3 $$;

-- Identifiers are computed from names, so that every node agrees without asking: the functions here are the rules.

CREATE OR REPLACE FUNCTION pgdrover.node_id(node_name name)
RETURNS oid LANGUAGE sql IMMUTABLE AS $$
    SELECT (pg_catalog.hashname(node_name) & 65535)::oid
$$;

CREATE OR REPLACE FUNCTION pgdrover.subscription_id(sub_name name)
RETURNS oid LANGUAGE sql IMMUTABLE AS $$
    SELECT (pg_catalog.hashname(sub_name)::int8 & 4294967295)::oid
$$;

-- Four bytes, the lowest first, as hexadecimal digits.
CREATE OR REPLACE FUNCTION pgdrover.little_endian(n int8)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_catalog.substr(h, 7, 2) || pg_catalog.substr(h, 5, 2) || pg_catalog.substr(h, 3, 2)
           || pg_catalog.substr(h, 1, 2)
      FROM pg_catalog.lpad(pg_catalog.to_hex(n & 4294967295), 8, '0') AS h
$$;

-- Replication sets and interfaces.
CREATE OR REPLACE FUNCTION pgdrover.member_id(node_id oid, member_name name)
RETURNS oid LANGUAGE sql IMMUTABLE AS $$
    SELECT (pg_catalog.hashmacaddr8((pgdrover.little_endian(node_id::int8)
            || pgdrover.little_endian(pg_catalog.hashname(member_name)::int8))::macaddr8)::int8 & 4294967295)::oid
$$;

-- A list of names is one: no element is missing or empty, and none is a list.
CREATE OR REPLACE FUNCTION pgdrover.check_list(what text, list text[])
RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF coalesce(pg_catalog.array_ndims(list), 1) > 1 OR EXISTS (SELECT FROM pg_catalog.unnest(list) AS e(name) WHERE coalesce(e.name, '') = '') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('%s must be a list of names, without NULL or empty ones', what);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.short_name(n name)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN pg_catalog.octet_length(n::text) <= 16 THEN n::text
                ELSE pg_catalog.left(n::text, 8)
                     || pg_catalog.left(pg_catalog.lpad(pg_catalog.to_hex(pg_catalog.hashname(n)), 8, '0'), 7) END
$$;

CREATE OR REPLACE FUNCTION spock.spock_gen_slot_name(dbname name, provider_node name, subscription name)
RETURNS name LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT pg_catalog.regexp_replace(pg_catalog.left('spk_' || pgdrover.short_name(dbname) || '_'
           || pgdrover.short_name(provider_node) || '_' || pgdrover.short_name(subscription), 63),
           '[^a-z0-9_]', '_', 'g')::name
$$;

-- The same 32 bits, for keys of advisory locks (pg_locks shows the oid again) and for columns of type integer.
CREATE OR REPLACE FUNCTION pgdrover.as_integer(id oid)
RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT (CASE WHEN id::int8 > 2147483647 THEN id::int8 - 4294967296 ELSE id::int8 END)::integer
$$;

-- A connection string without what follows the word password, nor what a URI has behind its user.
CREATE OR REPLACE FUNCTION pgdrover.masked(dsn text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN p = 0 THEN d
                ELSE pg_catalog.left(d, p + 7)
                     || pg_catalog.repeat('X', greatest(pg_catalog.length(d) - p - 7, 0)) END
      FROM pg_catalog.regexp_replace(dsn, '^([[:space:]]*postgres(?:ql)?://[^:/@?]*:).*@', E'\\1XXXX@') AS d,
           pg_catalog.strpos(d, 'password') AS p
$$;

-- What a connection to a peer is opened with: our defaults, the string itself, then what must hold.
CREATE OR REPLACE FUNCTION pgdrover.peer_dsn(dsn text, application_name text, extra text[] = '{}')
RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    defaults pg_catalog.text[] := ARRAY['connect_timeout=30', 'keepalives=1', 'keepalives_idle=20', 'keepalives_interval=20',
                             'keepalives_count=5', 'fallback_application_name='
                             || pg_catalog.regexp_replace(pg_catalog.left(application_name, 63), '[^A-Za-z0-9_]', '_', 'g')];
    place integer;
BEGIN
    IF dsn !~ '^postgres(ql)?://' THEN
        RETURN pg_catalog.array_to_string(defaults, ' ') || ' ' || dsn || ' '
            || coalesce(pg_catalog.current_setting('spock.extra_connection_options', true), '') || ' '
            || pg_catalog.array_to_string(extra, ' ');
    END IF;
    place := pg_catalog.strpos(dsn, '?');
    RETURN CASE place WHEN 0 THEN dsn ELSE pg_catalog.left(dsn, place - 1) END || '?'
        || pg_catalog.array_to_string(defaults, '&')
        || CASE WHEN place = 0 THEN '' ELSE '&' || pg_catalog.substr(dsn, place + 1) END
        || CASE WHEN pg_catalog.cardinality(extra) = 0 THEN '' ELSE '&' || pg_catalog.array_to_string(extra, '&') END;
END
$$;

-- A relation as the server names it in messages: with its schema only where the search path does not find it.
CREATE OR REPLACE FUNCTION pgdrover.visible_name(schema_name name, object_name name, visible name[])
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN schema_name = ANY (visible) THEN pg_catalog.quote_ident(object_name)
                ELSE pg_catalog.quote_ident(schema_name) || '.' || pg_catalog.quote_ident(object_name) END
$$;

CREATE OR REPLACE FUNCTION pgdrover.qualified_name(rel oid)
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = rel
$$;

-- Whether the server has cut a name to what the type takes, before any function could see it: the client's statement has
-- more of it. What comes as a parameter cannot be told.
CREATE OR REPLACE FUNCTION pgdrover.was_cut(given name)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.octet_length(given::text) >= 60 AND coalesce((
        SELECT pg_catalog.bool_and(pg_catalog.left(p.rest, 1) NOT IN ('''', '"', '$'))
          FROM pg_catalog.unnest((pg_catalog.string_to_array(pg_catalog.current_query(), given::text))[2:]) AS p(rest)), false)
$$;

CREATE OR REPLACE FUNCTION pgdrover.check_length(given name, what text)
RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF pgdrover.was_cut(given) THEN
        RAISE EXCEPTION USING ERRCODE = '42622', MESSAGE = pg_catalog.format('%s name "%s" is too long', what, given),
            HINT = 'A name has at most 63 bytes.';
    END IF;
END
$$;

-- Sequences: subscribers get values well ahead of those in use. And, for nodes that all write, values that no two nodes
-- can both draw.

CREATE OR REPLACE FUNCTION pgdrover.forget_sequence(seq oid)
RETURNS void LANGUAGE sql AS $$
    DELETE FROM spock.sequence_state t
     WHERE t.seqoid = seq AND NOT EXISTS (SELECT FROM spock.replication_set_seq q WHERE q.set_seqoid = seq)
$$;

CREATE OR REPLACE FUNCTION pgdrover.sequence_value(seq oid)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v bigint;
BEGIN
    EXECUTE 'SELECT last_value FROM ' || pgdrover.qualified_name(seq) INTO v;
    RETURN v;
END
$$;

-- Tells the subscribers of these sets a value that is cache_size ahead.
CREATE OR REPLACE FUNCTION pgdrover.announce_sequence(seq oid, sets text[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v bigint;
BEGIN
    UPDATE spock.sequence_state t SET last_value = pgdrover.sequence_value(seq) + t.cache_size
     WHERE t.seqoid = seq RETURNING t.last_value INTO v;
    PERFORM pgdrover.enqueue(sets, 'S', pg_catalog.format('{"schema_name": %s,"sequence_name": %s,"last_value": "%s"}',
                pg_catalog.to_json(n.nspname::text), pg_catalog.to_json(c.relname::text), v)::json)
       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = seq;
END
$$;

-- Takes up what a provider says of a sequence. Never back: what lies between was drawn here. A sequence that draws this
-- node's share of the numbers has its own place among them. What this node has announced moves along: its subscribers hear of
-- the provider's value from the provider, and two nodes that announce to each other would never come to an end.
CREATE OR REPLACE FUNCTION pgdrover.follow_sequence(seq regclass, announced bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    step bigint := (SELECT s.seqincrement FROM pg_catalog.pg_sequence s WHERE s.seqrelid = seq);
    here bigint := pgdrover.sequence_value(seq);
BEGIN
    IF EXISTS (SELECT FROM spock.pgdrover_spread p WHERE p.max_nodes = step)
       OR step > 0 AND announced < here OR step < 0 AND announced > here THEN
        RETURN;
    END IF;
    PERFORM pg_catalog.setval(seq, announced);
    UPDATE spock.sequence_state t SET last_value = t.last_value + (announced - here) WHERE t.seqoid = seq AND step > 0;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.add_sequence(s spock.replication_set, seq oid, synchronize_data boolean)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    c pg_catalog.pg_class;
BEGIN
    SELECT * INTO c FROM pg_catalog.pg_class k WHERE k.oid = seq;
    IF c.relkind <> 'S' THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('"%s" is not a sequence', c.relname);
    END IF;
    IF c.relpersistence <> 'p' THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'UNLOGGED and TEMP sequences cannot be replicated';
    END IF;
    INSERT INTO spock.replication_set_seq (set_id, set_seqoid) VALUES (s.set_id, seq);
    INSERT INTO spock.sequence_state (seqoid, cache_size, last_value)
    SELECT seq, 1000, pgdrover.sequence_value(seq)
     WHERE NOT EXISTS (SELECT FROM spock.sequence_state t WHERE t.seqoid = seq);
    IF synchronize_data THEN
        PERFORM pgdrover.announce_sequence(seq, ARRAY[s.set_name::text]);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION spock.repset_add_seq(set_name name, relation regclass, synchronize_data boolean = false)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
BEGIN
    PERFORM pgdrover.add_sequence(pgdrover.find_set(l.node_id, repset_add_seq.set_name), relation, synchronize_data);
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION spock.repset_add_all_seqs(set_name name, schema_names text[], synchronize_data boolean = false)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.replication_set := pgdrover.find_set(l.node_id, repset_add_all_seqs.set_name);
    schema_name pg_catalog.text;
    seq pg_catalog.oid;
BEGIN
    PERFORM pgdrover.check_list('schema_names', schema_names);
    FOREACH schema_name IN ARRAY schema_names LOOP
        IF pg_catalog.to_regnamespace(pg_catalog.quote_ident(schema_name)) IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = '3F000', MESSAGE = pg_catalog.format('schema "%s" does not exist', schema_name);
        END IF;
        FOR seq IN SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = schema_name::name AND c.relkind = 'S' AND c.relpersistence = 'p'
                      AND NOT EXISTS (SELECT FROM spock.replication_set_seq q WHERE q.set_id = s.set_id AND q.set_seqoid = c.oid)
                    ORDER BY c.oid LOOP
            PERFORM pgdrover.add_sequence(s, seq, synchronize_data);
        END LOOP;
    END LOOP;
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION spock.repset_remove_seq(set_name name, relation regclass)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    s spock.replication_set := pgdrover.find_set(l.node_id, repset_remove_seq.set_name);
BEGIN
    DELETE FROM spock.replication_set_seq q WHERE q.set_id = s.set_id AND q.set_seqoid = relation;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format(
            'replication set sequence mapping %s:%s not found', s.set_id, relation::oid);
    END IF;
    PERFORM pgdrover.forget_sequence(relation);
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION spock.sync_seq(relation regclass)
RETURNS boolean LANGUAGE plpgsql STRICT AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    c pg_catalog.pg_class;
    sets pg_catalog.text[];
BEGIN
    SELECT * INTO c FROM pg_catalog.pg_class k WHERE k.oid = relation;
    IF c.relkind <> 'S' THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('"%s" is not a sequence', c.relname);
    END IF;
    SELECT pg_catalog.array_agg(s.set_name::text ORDER BY s.set_name) INTO sets
      FROM spock.replication_set_seq q JOIN spock.replication_set s USING (set_id)
     WHERE q.set_seqoid = relation AND s.set_nodeid = l.node_id;
    IF sets IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = pg_catalog.format('"%s" is not a replicated sequence', c.relname);
    END IF;
    PERFORM pgdrover.announce_sequence(relation, sets);
    RETURN true;
END
$$;

-- The periodic pass: a sequence that has come within half its cache of the announced value is announced again, twice as
-- far ahead, up to a million. Returns how many.
CREATE OR REPLACE FUNCTION pgdrover.sync_sequences()
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    q pg_catalog.record;
    n integer := 0;
BEGIN
    FOR q IN SELECT t.seqoid, pg_catalog.array_agg(s.set_name::text ORDER BY s.set_name) AS sets
               FROM spock.sequence_state t
               JOIN spock.replication_set_seq m ON m.set_seqoid = t.seqoid
               JOIN spock.replication_set s ON s.set_id = m.set_id AND s.set_nodeid = pgdrover.local_node_id()
              WHERE pgdrover.sequence_value(t.seqoid) > t.last_value - t.cache_size / 2
              GROUP BY t.seqoid ORDER BY t.seqoid LOOP
        UPDATE spock.sequence_state t SET cache_size = least(t.cache_size * 2, 1000000) WHERE t.seqoid = q.seqoid;
        PERFORM pgdrover.announce_sequence(q.seqoid, q.sets);
        n := n + 1;
    END LOOP;
    RETURN n;
END
$$;

-- Sequences behind columns of these tables: owned by one, or named in a default.
CREATE OR REPLACE FUNCTION pgdrover.table_sequences(rels oid[])
RETURNS TABLE (seq oid, rel oid) LANGUAGE sql STABLE AS $$
    SELECT DISTINCT d.objid, d.refobjid FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid
     WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
       AND d.deptype IN ('a', 'i') AND c.relkind = 'S' AND d.refobjid = ANY (rels)
     UNION
    SELECT d.refobjid, a.adrelid FROM pg_catalog.pg_attrdef a
      JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = a.oid
                                 AND d.refclassid = 'pg_catalog.pg_class'::regclass
      JOIN pg_catalog.pg_class c ON c.oid = d.refobjid AND c.relkind = 'S'
     WHERE a.adrelid = ANY (rels)
$$;

-- Sequences behind member tables that may draw a value that another node draws too.
CREATE OR REPLACE FUNCTION pgdrover.unspread_sequences(rels oid[] = NULL)
RETURNS TABLE (seq oid, rel oid) LANGUAGE sql STABLE AS $$
    SELECT t.seq, t.rel
      FROM pgdrover.table_sequences(coalesce(rels, (
               SELECT pg_catalog.array_agg(DISTINCT m.set_reloid::oid) FROM spock.replication_set_table m
                 JOIN spock.replication_set s USING (set_id) WHERE s.set_nodeid = pgdrover.local_node_id()))) t
      JOIN pg_catalog.pg_sequence q ON q.seqrelid = t.seq
     WHERE q.seqincrement IS DISTINCT FROM (SELECT p.max_nodes FROM spock.pgdrover_spread p)
$$;

CREATE OR REPLACE FUNCTION pgdrover.warn_unspread(rel oid)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    q pg_catalog.record;
BEGIN
    IF (SELECT pg_catalog.count(*) < 2 FROM spock.node) THEN
        RETURN;
    END IF;
    FOR q IN SELECT u.seq, u.rel FROM pgdrover.unspread_sequences(
                 (SELECT pg_catalog.array_agg(p) FROM (SELECT rel UNION ALL SELECT pgdrover.partitions(rel)) AS x(p))) u LOOP
        RAISE WARNING USING MESSAGE = pg_catalog.format('sequence %s of table %s may draw values that another node draws too',
                pgdrover.qualified_name(q.seq), pgdrover.qualified_name(q.rel)),
            HINT = 'Run SELECT pgdrover.sequence_spread() on every node.';
    END LOOP;
END
$$;

-- This node's place among max_nodes: the one it has, or the first from its id on that no known peer has taken.
CREATE OR REPLACE FUNCTION pgdrover.choose_node_number(max_nodes integer)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    l pg_catalog.record;
    peer pg_catalog.record;
    taken integer[] := '{}';
    answer pg_catalog.text;
    number integer;
BEGIN
    SELECT n.node_id, n.info INTO l FROM spock.local_node k JOIN spock.node n USING (node_id);
    IF l.info ->> 'sequence_number' ~ E'^\\d{1,4}$' THEN
        RETURN (l.info ->> 'sequence_number')::integer;
    END IF;
    FOR peer IN SELECT DISTINCT ON (n.node_id) n.node_id, n.node_name, n.info, i.if_dsn
                  FROM spock.node n JOIN spock.node_interface i ON i.if_nodeid = n.node_id
                 WHERE n.node_id <> l.node_id ORDER BY n.node_id, i.if_name LOOP
        IF NOT pgdrover.can_ask_peers() THEN
            RAISE EXCEPTION USING ERRCODE = '55000',
                MESSAGE = pg_catalog.format('cannot ask node "%s" for its place among the nodes', peer.node_name),
                HINT = 'Give each node a number of its own: SELECT pgdrover.sequence_spread(16, 1)';
        END IF;
        PERFORM pgdrover.peer_open('pgdrover_spread', peer.if_dsn, 'pgdrover sequence_spread');
        SELECT q INTO answer FROM pgdrover.peer_query('pgdrover_spread',
            'SELECT node_number::text FROM spock.pgdrover_spread') q;
        PERFORM pgdrover.peer_close('pgdrover_spread');
        IF answer IS NOT NULL THEN
            taken := taken || answer::integer;
        END IF;
    END LOOP;
    FOR i IN 0 .. max_nodes - 1 LOOP
        number := ((l.node_id::int8 + i) % max_nodes)::integer;
        IF NOT number = ANY (taken) THEN
            RETURN number;
        END IF;
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('all %s places are taken by other nodes', max_nodes),
        HINT = 'Call it with a larger number on every node.';
END
$$;

-- Sets the increment of the sequences behind member tables to max_nodes, and their next value to one that only this
-- node draws. Local only: each node calls it. Returns how many sequences it changed.
CREATE OR REPLACE FUNCTION pgdrover.sequence_spread(max_nodes integer = 16, node_number integer = NULL)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    l spock.local_node := pgdrover.require_local_node();
    number integer;
    q pg_catalog.record;
    next_value bigint;
    used boolean;
    n integer := 0;
BEGIN
    IF max_nodes IS NULL OR max_nodes NOT BETWEEN 2 AND 1024 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'max_nodes must be between 2 and 1024';
    END IF;
    IF sequence_spread.node_number < 0 THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'node_number must not be negative';
    END IF;
    number := coalesce(sequence_spread.node_number,
        (SELECT s.node_number FROM spock.pgdrover_spread s WHERE s.node_number < sequence_spread.max_nodes),
        pgdrover.choose_node_number(sequence_spread.max_nodes)) % sequence_spread.max_nodes;
    DELETE FROM spock.pgdrover_spread;
    INSERT INTO spock.pgdrover_spread (max_nodes, node_number) VALUES (sequence_spread.max_nodes, number);
    FOR q IN SELECT DISTINCT s.seqrelid, s.seqmax FROM pg_catalog.pg_sequence s
               JOIN pgdrover.table_sequences((SELECT pg_catalog.array_agg(DISTINCT m.set_reloid::oid)
                        FROM spock.replication_set_table m JOIN spock.replication_set r USING (set_id)
                       WHERE r.set_nodeid = l.node_id)) t ON t.seq = s.seqrelid
              WHERE s.seqincrement > 0 LOOP
        EXECUTE 'SELECT last_value, is_called FROM ' || pgdrover.qualified_name(q.seqrelid) INTO next_value, used;
        next_value := next_value + CASE WHEN used THEN 1 ELSE 0 END;
        next_value := next_value + ((number - next_value) % sequence_spread.max_nodes + sequence_spread.max_nodes)
                                   % sequence_spread.max_nodes;
        IF next_value > q.seqmax THEN
            RAISE EXCEPTION USING ERRCODE = '2200H', MESSAGE = pg_catalog.format(
                'sequence %s has no value left for this node', pgdrover.qualified_name(q.seqrelid));
        END IF;
        CONTINUE WHEN (SELECT s.seqincrement = sequence_spread.max_nodes FROM pg_catalog.pg_sequence s WHERE s.seqrelid = q.seqrelid)
            AND (pgdrover.sequence_value(q.seqrelid) - number) % sequence_spread.max_nodes = 0;
        PERFORM pgdrover.run(pg_catalog.format('ALTER SEQUENCE %s INCREMENT BY %s RESTART WITH %s',
            pgdrover.qualified_name(q.seqrelid), sequence_spread.max_nodes, next_value));
        n := n + 1;
    END LOOP;
    PERFORM pg_catalog.pg_notify('spock_change', 'sequence');
    RETURN n;
END
$$;

package spock_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// tombstones empties the table of tombstones and returns relation and key of each; a whole relation is "all".
func (n *node) tombstones(t *testing.T) []string {
	t.Helper()
	return n.lines(t, `WITH d AS (DELETE FROM spock.pgdrover_tombstone RETURNING relid, key)
		SELECT relid::regclass || ' ' || coalesce(encode(key, 'hex'), 'all') FROM d ORDER BY 1`)
}

func TestTombstones(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `
		CREATE TABLE a (id int PRIMARY KEY, v text);
		CREATE TABLE b (k text, m numeric, v text, PRIMARY KEY (k, m));
		CREATE TABLE bare (v text);
		CREATE TABLE parent (id int PRIMARY KEY);
		CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
		SELECT spock.repset_add_table('default', x) FROM unnest('{a,b,parent,child}'::regclass[]) x;
		SELECT spock.repset_add_table('default_insert_only', 'bare');
		INSERT INTO a SELECT i, 'v' FROM generate_series(1, 5) i; INSERT INTO b VALUES ('x', 1.50, 'v'), ('y', 2, 'v');
		INSERT INTO bare VALUES ('x'); INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1), (2, 2);`)
	for _, c := range []struct {
		sql  string
		want []string
	}{
		{`UPDATE a SET v = 'w'`, nil},
		{`UPDATE a SET id = id`, nil},
		{`DELETE FROM a WHERE id = 1`, []string{"a 00000001"}},
		{`UPDATE a SET id = 20 WHERE id = 2`, []string{"a 00000002"}},
		{`DELETE FROM a WHERE id IN (3, 4)`, []string{"a 00000003", "a 00000004"}},
		{`UPDATE b SET v = 'w', m = 1.5 WHERE k = 'x'`, nil}, // an equal key
		{`UPDATE b SET m = 3 WHERE k = 'x'`, []string{"b 00000001780000000a00020000000000010001" + "1388"}},
		{`DELETE FROM bare`, nil},
		{`TRUNCATE bare, a`, []string{"a all", "bare all"}},
		{`DELETE FROM parent WHERE id = 1`, []string{"child 00000001", "parent 00000001"}},
		{`SET session_replication_role = replica; DELETE FROM parent; TRUNCATE b; RESET session_replication_role`, nil},
		{`ALTER TABLE child ALTER id TYPE bigint; ALTER TABLE child RENAME id TO ident; DELETE FROM child`, []string{"child 0000000000000002"}},
	} {
		n.exec(t, c.sql)
		got := n.tombstones(t)
		if c.sql == `UPDATE b SET m = 3 WHERE k = 'x'` {
			require.Len(t, got, 1) // the form of numeric is the server's own
			continue
		}
		require.ElementsMatch(t, c.want, got, c.sql)
	}
	// The key of another index, then none, then a column's new name.
	n.exec(t, `CREATE UNIQUE INDEX a_v ON a (v); ALTER TABLE a ALTER v SET NOT NULL; ALTER TABLE a REPLICA IDENTITY USING INDEX a_v`)
	n.exec(t, `INSERT INTO a VALUES (1, 'ab'); DELETE FROM a`)
	require.Equal(t, []string{"a 6162"}, n.tombstones(t))
	n.exec(t, `DROP INDEX a_v; ALTER TABLE a DROP CONSTRAINT a_pkey; INSERT INTO a VALUES (1, 'x'); DELETE FROM a`)
	require.Empty(t, n.tombstones(t))
	n.exec(t, `ALTER TABLE a ADD PRIMARY KEY (id, v); INSERT INTO a VALUES (1, 'x'); DELETE FROM a`)
	require.Equal(t, []string{"a 00000004000000010000000178"}, n.tombstones(t))

	// A rollback takes the tombstone along.
	n.exec(t, `INSERT INTO a VALUES (1, 'x'); BEGIN; DELETE FROM a; ROLLBACK`)
	require.Empty(t, n.tombstones(t))
}

// TestKeyBytes is about equality: keys that the server takes for equal give equal bytes under all settings.
func TestKeyBytes(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `CREATE EXTENSION citext; CREATE DOMAIN code AS varchar(10); CREATE TYPE mood AS ENUM ('ok', 'bad'); CREATE TYPE pair AS (a int, b text)`)
	for _, c := range []struct{ kind, one, same, other string }{
		{"int", "1", "1", "2"},
		{"bigint", "1", "1", "-1"},
		{"text", "'a'", "'a'", "'a '"},
		{"varchar(5)", "'a'", "'a'", "'b'"},
		{"char(5)", "'a'", "'a   '", "'b'"},
		{"numeric", "1.0", "1.000", "1.01"},
		{"float8", "0", "'-0'", "1e-300"},
		{"citext", "'Abc'", "'aBC'", "'abd'"},
		{"code", "'a'", "'a'", "'b'"},
		{"mood", "'ok'", "'ok'", "'bad'"},
		{"uuid", "'00000000-0000-0000-0000-00000000000A'", "'0000000000000000000000000000000a'", "'00000000-0000-0000-0000-00000000000b'"},
		{"timestamptz", "'2026-01-01 00:00+00'", "'2026-01-01 02:00+02'", "'2026-01-01 00:00:00.000001+00'"},
		{"date", "'2026-01-01'", "'2026-01-01'", "'2026-01-02'"},
		{"bytea", `'\x01'`, `'\x01'`, `'\x02'`},
		{"inet", "'10.0.0.1'", "'10.0.0.1/32'", "'10.0.0.1/24'"},
		{"int[]", "'{1,2}'", "'{1,2}'", "'{2,1}'"},
		{"int4range", "'[1,3)'", "'[1,2]'", "'[1,3]'"},
		{"pair", "'(1,a)'", "'(1,a)'", "'(1,b)'"},
		{"jsonb", `'{"a": 1, "b": 2}'`, `'{"b":2,"a":1}'`, `'{"a": 1}'`},
	} {
		n.exec(t, fmt.Sprintf(`CREATE TABLE k (id %s PRIMARY KEY)`, c.kind))
		var expression string
		require.NoError(t, n.sql.QueryRow(t.Context(), `SELECT pgdrover.key_expression('k'::regclass, 'x')`).Scan(&expression))
		bytes := func(value string, settings string) string {
			n.exec(t, settings)
			defer n.exec(t, `RESET ALL`)
			return n.text(t, fmt.Sprintf(`SELECT %s FROM (SELECT %s::%s AS id) x`, expression, value, c.kind))
		}
		one := bytes(c.one, ``)
		require.Equal(t, one, bytes(c.same, `SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'; SET extra_float_digits = -10`), c.kind)
		require.NotEqual(t, one, bytes(c.other, ``), c.kind)
		n.exec(t, `SELECT spock.repset_add_table('default', 'k'); INSERT INTO k VALUES (`+c.one+`); DELETE FROM k`)
		require.Equal(t, "1", n.text(t, `SELECT count(*) FROM spock.pgdrover_tombstone WHERE key::text = $1`, one), c.kind)
		n.exec(t, `DROP TABLE k CASCADE`)
	}
	n.exec(t, `CREATE TABLE long (id text PRIMARY KEY); SELECT spock.repset_add_table('default', 'long'); INSERT INTO long VALUES (repeat('x', 2000)); DELETE FROM long`)
	require.Equal(t, "32", n.text(t, `SELECT length(key) FROM spock.pgdrover_tombstone`))
}

func TestWatchForApply(t *testing.T) {
	t.Parallel()
	provider, n := create(t, "p1"), create(t, "s1")
	n.exec(t, `CREATE TABLE a (id int PRIMARY KEY)`)
	n.exec(t, `SELECT spock.sub_create('sub', $1, enabled := false)`, provider.dsn)
	var oid uint32
	require.NoError(t, n.sql.QueryRow(t.Context(), `SELECT 'a'::regclass::oid`).Scan(&oid))
	require.NoError(t, n.db.Watch(t.Context(), oid))
	require.NoError(t, n.db.Watch(t.Context(), oid))
	watched, err := n.db.Watched(t.Context())
	require.NoError(t, err)
	require.Len(t, watched, 1)
	require.Equal(t, []string{"id"}, watched[0].Key)
	n.exec(t, `INSERT INTO a VALUES (1); DELETE FROM a`)
	require.Equal(t, []string{"a 00000001"}, n.tombstones(t))
	n.exec(t, `SELECT spock.sub_drop('sub')`)
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM pg_trigger WHERE tgrelid = 'a'::regclass`), "nothing is sent or applied")
}

// TestPurge goes through the life of a local tombstone: stamped once committed, gone once both providers have applied the delete.
func TestPurge(t *testing.T) {
	t.Parallel()
	n, second, third := create(t, "n1"), create(t, "n2"), create(t, "n3")
	n.exec(t, `CREATE TABLE a (id int PRIMARY KEY); SELECT spock.repset_add_table('default', 'a'); INSERT INTO a VALUES (1), (2)`)
	n.exec(t, `SELECT spock.sub_create('sub2', $1, enabled := false)`, second.dsn)
	n.exec(t, `SELECT spock.sub_create('sub3', $1, enabled := false)`, third.dsn)
	count := func() string { return n.text(t, `SELECT count(*) FROM spock.pgdrover_tombstone`) }
	ctx := t.Context()

	open := n.session(t)
	_, err := open.Exec(ctx, `BEGIN; DELETE FROM a WHERE id = 1`)
	require.NoError(t, err)
	stamped, err := n.db.StampTombstones(ctx)
	require.NoError(t, err)
	require.Zero(t, stamped, "not committed yet")
	_, err = open.Exec(ctx, `COMMIT`)
	require.NoError(t, err)
	stamped, err = n.db.StampTombstones(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, stamped)
	require.Equal(t, "n1", n.text(t, `SELECT node_name FROM spock.pgdrover_tombstone JOIN spock.node ON node_id = author WHERE commit_time <= now() AND author_lsn > '0/0'`))

	var me uint32
	require.NoError(t, n.sql.QueryRow(ctx, `SELECT pgdrover.local_node_id()`).Scan(&me))
	ids := map[string]uint32{}
	for _, name := range []string{"n2", "n3"} {
		var id uint32
		require.NoError(t, n.sql.QueryRow(ctx, `SELECT pgdrover.node_id($1)`, name).Scan(&id))
		ids[name] = id
	}
	purge := func(want string) {
		t.Helper()
		_, err := n.db.PurgeTombstones(ctx)
		require.NoError(t, err)
		require.Equal(t, want, count())
	}
	purge("1") // nobody has said anything
	require.NoError(t, n.db.StoreVector(ctx, ids["n2"], position(me, 0xFFFFFFFFFF)))
	purge("1") // one of two
	require.NoError(t, n.db.StoreVector(ctx, ids["n3"], position(me, 1)))
	purge("1") // the other is behind
	require.NoError(t, n.db.StoreVector(ctx, ids["n3"], position(me, 0xFFFFFFFFFF)))
	purge("0")

	// A provider's own delete: the provider has it, the other must say so.
	n.exec(t, `INSERT INTO spock.pgdrover_tombstone VALUES ('a'::regclass, '\x01', now(), $1, '0/500')`, ids["n2"])
	// n3 says where it is, and not that it applies n2. What it wrote before may be on its way.
	purge("1")
	n.exec(t, `INSERT INTO spock.pgdrover_vector (provider_id, origin_id, lsn, outlived) VALUES ($1, $2, '0/0', '0/4FF')`, ids["n3"], ids["n2"])
	purge("1")
	n.exec(t, `UPDATE spock.pgdrover_vector SET outlived = '0/500' WHERE provider_id = $1 AND origin_id = $2`, ids["n3"], ids["n2"])
	purge("0")
	n.exec(t, `UPDATE spock.pgdrover_vector SET outlived = NULL WHERE provider_id = $1 AND origin_id = $2`, ids["n3"], ids["n2"])
	require.NoError(t, n.db.StoreVector(ctx, ids["n3"], position(ids["n2"], 0x400)))
	n.exec(t, `INSERT INTO spock.pgdrover_tombstone VALUES ('a'::regclass, '\x01', now(), $1, '0/500')`, ids["n2"])
	purge("1")
	require.NoError(t, n.db.StoreVector(ctx, ids["n3"], position(ids["n2"], 0x500)))
	purge("0")
	n.exec(t, `INSERT INTO spock.pgdrover_tombstone VALUES ('a'::regclass, '\x01', now(), $1, '0/FFFF')`, ids["n2"])
	purge("1")
	n.exec(t, `SELECT spock.sub_drop('sub3')`)
	purge("0")
	total, _, err := n.db.TombstoneStats(ctx)
	require.NoError(t, err)
	require.Zero(t, total)
}

func TestDeltaColumns(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `CREATE TABLE a (id int PRIMARY KEY, n int NOT NULL, m numeric, v text NOT NULL); CREATE TABLE bare (n int NOT NULL)`)
	for call, message := range map[string]string{
		`'a', 'x'`:    `column "x" of relation a does not exist`,
		`'a', 'v'`:    `column "v" of relation a cannot take differences`,
		`'a', 'm'`:    `column "m" of relation a must be NOT NULL`,
		`'a', 'id'`:   `column "id" is part of the primary key of a`,
		`'bare', 'n'`: `table bare has no primary key`,
	} {
		require.Equal(t, message, n.refused(t, `SELECT pgdrover.delta_column_add(`+call+`)`).Message)
	}
	n.exec(t, `SELECT spock.repset_add_table('default', 'a')`)
	require.Equal(t, "true", n.text(t, `pgdrover.delta_column_add('a', 'n')`))
	require.Equal(t, "false", n.text(t, `pgdrover.delta_column_add('a', 'n')`))
	require.Equal(t, "f", n.text(t, `SELECT relreplident FROM pg_class WHERE relname = 'a'`))
	require.Equal(t, []string{"a: del ins trunc upd"}, n.published(t))
	n.exec(t, `SELECT spock.repset_remove_table('default', 'a'); SELECT spock.repset_add_table('default', 'a')`)
	require.Equal(t, "{id}", n.text(t, `SELECT key_columns FROM spock.pgdrover_watch`))
	columns, err := n.db.DeltaColumns(t.Context())
	require.NoError(t, err)
	require.Len(t, columns, 1)
	require.Equal(t, "true", n.text(t, `pgdrover.delta_column_remove('a', 'n')`))
	require.Equal(t, "d", n.text(t, `SELECT relreplident FROM pg_class WHERE relname = 'a'`))
	// An identity that contains the counter: rows are still found by the primary key.
	n.exec(t, `CREATE UNIQUE INDEX a_n ON a (id, n); ALTER TABLE a REPLICA IDENTITY USING INDEX a_n; SELECT pgdrover.delta_column_add('a', 'n')`)
	require.Equal(t, "i", n.text(t, `SELECT relreplident FROM pg_class WHERE relname = 'a'`))
	require.Equal(t, "{id}", n.text(t, `SELECT pgdrover.key_columns('a'::regclass)`))
	for _, kind := range []string{"int2", "int4", "int8", "float4", "float8", "numeric", "money"} {
		require.Equal(t, n.text(t, `SELECT 15::int::`+map[bool]string{true: "numeric::money", false: kind}[kind == "money"]),
			n.text(t, fmt.Sprintf(`spock.delta_apply(%[1]s, %[2]s, %[3]s)`, cast(5, kind), cast(8, kind), cast(12, kind))), kind)
	}
}

// TestAllMajors installs, and walks a short way, on every server version of this machine.
func TestAllMajors(t *testing.T) {
	t.Parallel()
	pgtest.EachMajor(t, func(t *testing.T, bin string) {
		s := pgtest.NewServer(t, pgtest.ServerConfig{Bin: bin, Settings: map[string]string{"track_commit_timestamp": "on"}})
		n := open(t, s.DSN("postgres"), true)
		n.exec(t, `SELECT spock.node_create('n1', $1)`, n.dsn)
		n.exec(t, `SET spock.enable_ddl_replication = on; SET spock.include_ddl_repset = on; CREATE TABLE a (id int PRIMARY KEY)`)
		n.exec(t, `INSERT INTO a VALUES (1); DELETE FROM a`)
		require.Equal(t, []string{"a 00000001"}, n.tombstones(t))
		require.Equal(t, []string{"a: del ins trunc upd"}, n.published(t))
	})
}

// An operator's own publication of everything: our tables are in it, and can be
// changed all the same.
func TestPublicationOfEverything(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	require.Equal(t, "NULL", n.text(t, `SELECT string_agg(c.oid::regclass::text, ', ') FROM pg_class c
		WHERE c.relnamespace = 'spock'::regnamespace AND c.relkind = 'r' AND c.relpersistence = 'p' AND c.relreplident <> 'f'
		AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)`))
	n.exec(t, `CREATE PUBLICATION everything FOR ALL TABLES; CREATE TABLE t (id int PRIMARY KEY);
		SELECT spock.repset_add_table('default', 't'); INSERT INTO t VALUES (1); DELETE FROM t; SELECT pgdrover.stamp_tombstones();
		DELETE FROM spock.pgdrover_tombstone; DELETE FROM spock.queue`)
}

// TestKeyOfAnotherCitext: the trigger runs as the owner of the schema, and code of a type's owner must not run in it.
func TestKeyOfAnotherCitext(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	role := "role_" + n.text(t, `current_database()`)
	n.exec(t, `CREATE ROLE `+role+`; GRANT CREATE ON SCHEMA public TO `+role)
	t.Cleanup(func() { dropRole(t, n, role) })
	n.exec(t, `SET SESSION AUTHORIZATION `+role)
	n.exec(t, `CREATE TYPE public.citext AS (a int)`)
	n.exec(t, `CREATE FUNCTION public.own(public.citext) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
		RAISE EXCEPTION 'run by %', current_user; END $$`)
	n.exec(t, `CREATE CAST (public.citext AS text) WITH FUNCTION public.own(public.citext)`)
	n.exec(t, `CREATE TABLE public.x (id public.citext PRIMARY KEY); RESET SESSION AUTHORIZATION`)
	n.exec(t, `SELECT spock.repset_add_table('default', 'public.x')`)
	n.exec(t, `INSERT INTO public.x VALUES (ROW(1)); DELETE FROM public.x`)
	require.Len(t, n.tombstones(t), 1)
	n.exec(t, `DROP TABLE public.x CASCADE; DROP CAST (public.citext AS text); DROP FUNCTION public.own; DROP TYPE public.citext`)
}

// TestMarkOfRewrittenRows: it stays where the transaction has written no rows of the table, and where that is not known before
// its end it goes.
func TestMarkOfRewrittenRows(t *testing.T) {
	t.Parallel()
	provider, n := create(t, "n2"), create(t, "n1")
	n.exec(t, `SELECT spock.sub_create('sub_n2_n1', $1, enabled := false)`, provider.dsn)
	n.exec(t, `CREATE TABLE rw (id int PRIMARY KEY, k int, v text); INSERT INTO rw VALUES (1, 1, 'a'), (2, 2, 'b');
		CREATE TABLE other (id int);
		CREATE FUNCTION settle() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET CONSTRAINTS ALL IMMEDIATE; END $$;
		CREATE FUNCTION retype(name text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'ALTER TABLE rw ALTER k TYPE ' || name; END $$;
		CREATE FUNCTION settled() RETURNS int LANGUAGE sql AS 'SET CONSTRAINTS ALL IMMEDIATE; SELECT 1';
		CREATE FUNCTION later() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE rw SET v = 'late'; RETURN NULL; END $$;
		CREATE TABLE watched (id int);
		CREATE CONSTRAINT TRIGGER later AFTER INSERT ON watched DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION later();
		CREATE PROCEDURE work(writes boolean) LANGUAGE plpgsql AS $$ BEGIN
			COMMIT; PERFORM retype('bigint'); IF writes THEN UPDATE rw SET v = 'w'; END IF; COMMIT; INSERT INTO other VALUES (1); END $$;
		CREATE PROCEDURE work_settled() LANGUAGE plpgsql AS $$ BEGIN
			PERFORM retype('bigint'); SET CONSTRAINTS ALL IMMEDIATE; UPDATE rw SET v = 'w'; COMMIT; END $$;`)
	for _, c := range []struct {
		messages []string
		marks    string
	}{
		{[]string{`ALTER TABLE rw ALTER k TYPE bigint`}, "1"},
		{[]string{`BEGIN`, `ALTER TABLE rw ALTER k TYPE bigint`, `INSERT INTO other VALUES (1)`, `COMMIT`}, "1"},
		{[]string{`BEGIN`, `ALTER TABLE rw ALTER k TYPE bigint`, `UPDATE rw SET v = 'new'`, `COMMIT`}, "0"},
		{[]string{`BEGIN; ALTER TABLE rw ALTER k TYPE bigint; COMMIT`}, "1"},
		{[]string{`SELECT retype('bigint')`}, "1"},
		{[]string{`CALL work(false)`}, "1"},
		{[]string{`CALL work(true)`}, "0"},
		{[]string{`BEGIN`, `ALTER TABLE rw ALTER k TYPE bigint`, `SET CONSTRAINTS ALL IMMEDIATE`, `UPDATE rw SET v = 'new'`, `COMMIT`}, "0"},
		{[]string{`BEGIN; ALTER TABLE rw ALTER k TYPE bigint; SET /* */ constraints ALL IMMEDIATE; UPDATE rw SET v = 'new'; COMMIT`}, "0"},
		{[]string{`ALTER TABLE rw ALTER k TYPE bigint; SET CONSTRAINTS ALL IMMEDIATE; UPDATE rw SET v = 'new'`}, "0"},
		{[]string{`BEGIN`, `SET CONSTRAINTS ALL IMMEDIATE`, `ALTER TABLE rw ALTER k TYPE bigint`, `UPDATE rw SET v = 'new'`, `COMMIT`}, "0"},
		{[]string{`BEGIN`, `ALTER TABLE rw ALTER k TYPE bigint`, `SELECT settle()`, `UPDATE rw SET v = 'new'`, `COMMIT`}, "0"},
		{[]string{`BEGIN`, `ALTER TABLE rw ALTER k TYPE bigint`, `SELECT settled()`, `UPDATE rw SET v = 'new'`, `COMMIT`}, "0"},
		{[]string{`BEGIN`, `ALTER TABLE rw ALTER k TYPE bigint`, `DO 'BEGIN PERFORM settle(); END'`, `UPDATE rw SET v = 'new'`, `COMMIT`}, "0"},
		{[]string{`CALL work_settled()`}, "0"},
		{[]string{`BEGIN`, `ALTER TABLE rw ALTER k TYPE bigint`, `SAVEPOINT s`, `SET CONSTRAINTS ALL IMMEDIATE`, `ROLLBACK TO s`, `COMMIT`}, "1"},
		{[]string{`BEGIN`, `ALTER TABLE rw ALTER k TYPE bigint`, `INSERT INTO watched VALUES (1)`, `COMMIT`}, "0"},
		{[]string{`BEGIN`, `INSERT INTO watched VALUES (1)`, `ALTER TABLE rw ALTER k TYPE bigint`, `COMMIT`}, "0"},
	} {
		n.exec(t, `ALTER TABLE rw ALTER k TYPE int`)
		n.exec(t, `DELETE FROM spock.pgdrover_rewrite`)
		for _, message := range c.messages {
			n.exec(t, message)
		}
		require.Equal(t, "bigint", n.text(t, `SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = 'rw'::regclass AND attname = 'k'`))
		require.Equal(t, c.marks, n.text(t, `SELECT count(*) FROM spock.pgdrover_rewrite`), "%v", c.messages)
	}

	// The end of a pipeline has no statement.
	n.exec(t, `ALTER TABLE rw ALTER k TYPE int`)
	n.exec(t, `DELETE FROM spock.pgdrover_rewrite`)
	_, err := n.sql.Exec(t.Context(), `ALTER TABLE rw ALTER k TYPE bigint`, pgx.QueryExecModeExec)
	require.NoError(t, err)
	require.Equal(t, "1", n.text(t, `SELECT count(*) FROM spock.pgdrover_rewrite`))

	// What others have rewritten meanwhile is theirs, also where this transaction writes it afterwards.
	n.exec(t, `CREATE TABLE theirs (id int PRIMARY KEY, k int); INSERT INTO theirs VALUES (1, 1); DELETE FROM spock.pgdrover_rewrite`)
	n.exec(t, `BEGIN; SELECT pg_current_xact_id()`)
	_, err = n.session(t).Exec(t.Context(), `ALTER TABLE theirs ALTER k TYPE bigint`)
	require.NoError(t, err)
	n.exec(t, `ALTER TABLE rw ALTER k TYPE int; UPDATE theirs SET k = 2; SET CONSTRAINTS ALL IMMEDIATE; COMMIT`)
	require.Equal(t, "theirs", n.text(t, `SELECT string_agg(relid::regclass::text, ' ') FROM spock.pgdrover_rewrite`))
}

// TestTriggersOfAnotherNode: a dump of a database in which the schema is an extension has the triggers of its tables in it, and
// their functions, but not what the schema knows. They are told from ours before a table gets one of those numbers.
func TestTriggersOfAnotherNode(t *testing.T) {
	t.Parallel()
	n := install(t)
	n.exec(t, `CREATE TABLE old (id int PRIMARY KEY); CREATE TABLE fresh (other text PRIMARY KEY); INSERT INTO old VALUES (1), (2)`)
	left := func() {
		t.Helper()
		fn := "pgdrover.tombstone_" + n.text(t, `'fresh'::regclass::oid`)
		n.exec(t, `SET pgdrover.internal = on;
			CREATE OR REPLACE FUNCTION `+fn+`() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
				INSERT INTO spock.pgdrover_tombstone (relid, key) VALUES (TG_RELID, int4send(OLD.id)); RETURN NULL; END $$;
			CREATE TRIGGER pgdrover_tombstone_delete AFTER DELETE ON old FOR EACH ROW EXECUTE FUNCTION `+fn+`();
			CREATE TRIGGER pgdrover_tombstone_update AFTER UPDATE ON old FOR EACH ROW EXECUTE FUNCTION `+fn+`();
			CREATE TRIGGER pgdrover_tombstone_truncate AFTER TRUNCATE ON old FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.on_truncate();
			RESET pgdrover.internal`)
	}
	const ours = `SELECT tgname::text FROM pg_trigger WHERE tgrelid = 'old'::regclass`
	left()
	n.exec(t, `SELECT spock.node_create('n1', $1)`, n.dsn)
	require.Empty(t, n.lines(t, ours))
	require.Empty(t, n.lines(t, `SELECT proname::text FROM pg_proc WHERE proname LIKE 'tombstone\_%'`))
	n.exec(t, `SELECT spock.repset_add_table('default', 'fresh'); DELETE FROM old WHERE id = 1`)
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM spock.pgdrover_tombstone`))

	// Also one that is restored into a node.
	n.exec(t, `SELECT spock.repset_remove_table('default', 'fresh')`)
	left()
	n.exec(t, `SELECT spock.repset_add_table('default', 'fresh'); DELETE FROM old; INSERT INTO fresh VALUES ('a'); DELETE FROM fresh`)
	require.Empty(t, n.lines(t, ours))
	require.Equal(t, "1", n.text(t, `SELECT count(*) FROM spock.pgdrover_tombstone`))

	// A table of ours that comes with the triggers of another.
	left()
	n.exec(t, `SELECT spock.repset_add_table('default', 'old'); INSERT INTO old VALUES (3); DELETE FROM old`)
	require.Equal(t, "1", n.text(t, `SELECT count(*) FROM spock.pgdrover_tombstone WHERE relid = 'old'::regclass`))
	require.Equal(t, "2", n.text(t, `SELECT count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
		WHERE tgrelid = 'old'::regclass AND p.proname = 'tombstone_' || tgrelid`))
}

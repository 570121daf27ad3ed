package apply

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// Code that runs with a replicated statement stays the role's own: the session
// that runs it is a superuser's, and must not be to be had.
func TestStatementsStayTheirRoles(t *testing.T) {
	t.Parallel()
	settings := map[string]string{"spock.enable_ddl_replication": "on", "spock.include_ddl_repset": "on"}
	a, b := newNode(t, "n1", settings), newNode(t, "n2", settings)
	for _, n := range []*node{a, b} {
		n.exec(t, "CREATE ROLE app LOGIN; GRANT CREATE, USAGE ON SCHEMA public TO app")
	}
	b.subscribe(t, a, "")
	user := &node{name: "n1", server: a.server, conn: a.server.Connect(t, database)}
	user.exec(t, "SET SESSION AUTHORIZATION app")
	user.exec(t, `CREATE FUNCTION public.evil() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
		IF current_setting('application_name') LIKE 'spock apply%' THEN
			PERFORM set_config('statement_timeout', '1', false);
			RESET ROLE; ALTER ROLE app SUPERUSER; SET ROLE app;
		END IF; RETURN 1; END $$`)
	user.exec(t, "CREATE TABLE public.mine AS SELECT public.evil() AS id")
	user.exec(t, "CREATE TABLE public.good (id int PRIMARY KEY, v text DEFAULT 'a;b'); COMMENT ON TABLE public.good IS 'x'; INSERT INTO public.good VALUES (1)")
	user.exec(t, "SELECT g.id, 'w' AS w INTO public.into FROM public.good g")
	b.eventually(t, "SELECT string_agg(v, ',') FROM public.good", "a;b")
	b.eventually(t, "SELECT c.relowner::regrole FROM pg_class c WHERE c.relname = 'into'", "app")
	require.Equal(t, "f|app", b.text(t, "SELECT r.rolsuper, c.relowner::regrole FROM pg_roles r, pg_class c WHERE r.rolname = 'app' AND c.relname = 'good'"))
	require.Contains(t, b.text(t, "SELECT error_message FROM spock.exception_log"), "security-definer")
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM pg_proc WHERE proname = 'pgdrover_ddl'"))
}

// A transaction that is refused is left out whatever its size, however few locks
// the server has; what it did to the replication sets stays.
func TestLargeExceptions(t *testing.T) {
	t.Parallel()
	settings := map[string]string{"max_locks_per_transaction": "10", "spock.exception_replay_queue_size": "20000"}
	a, b := newNode(t, "n1", nil), newNode(t, "n2", settings)
	for _, n := range []*node{a, b} {
		n.exec(t, "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY)")
	}
	a.exec(t, "SELECT spock.repset_add_table('default', 't')")
	b.exec(t, "ALTER TABLE t ADD CHECK (v < 100)")
	b.subscribe(t, a, "")
	a.exec(t, "BEGIN; SELECT spock.repset_add_table('default', 'u'); INSERT INTO t SELECT i, 1 FROM generate_series(1, 2500) i; INSERT INTO t VALUES (3000, 100); COMMIT")
	a.exec(t, "INSERT INTO t VALUES (3001, 1); INSERT INTO u VALUES (1)")
	b.eventually(t, "SELECT count(*) FROM u", "1")
	require.Equal(t, "3001", b.text(t, "SELECT string_agg(id::text, ',') FROM t"))
	require.Equal(t, "2501|1", b.text(t, "SELECT count(*), count(*) FILTER (WHERE error_message LIKE '[SQLSTATE 23514]%') FROM spock.exception_log"))
	b.halt(t)
	b.start(t)
	a.exec(t, "INSERT INTO u VALUES (2)")
	b.eventually(t, "SELECT count(*) FROM u", "2")
}

// What only the end of a transaction refuses takes the whole transaction with
// it, also where else only single actions are left out.
func TestDiscardMeetsDeferredCheck(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", map[string]string{"spock.exception_behaviour": "discard"})
	for _, n := range []*node{a, b} {
		n.exec(t, "CREATE TABLE t (id int PRIMARY KEY, v int); SELECT spock.repset_add_table('default', 't')")
	}
	b.exec(t, `ALTER TABLE t ADD CHECK (v < 100);
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.v = 7 THEN RAISE 'no seven'; END IF; RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
		ALTER TABLE t ENABLE ALWAYS TRIGGER late`)
	b.subscribe(t, a, "")
	a.exec(t, "BEGIN; INSERT INTO t VALUES (1, 1); INSERT INTO t VALUES (2, 200); INSERT INTO t VALUES (3, 7); COMMIT; INSERT INTO t VALUES (4, 4)")
	b.eventually(t, "SELECT string_agg(id::text, ',') FROM t", "4")
	require.Equal(t, "3", b.text(t, "SELECT count(*) FROM spock.exception_log"))
}

// TRUNCATE leaves what is newer: also where a foreign key binds the tables, where
// a table refers that nobody replicates, and where a row's stamp stands beside it.
func TestTruncateLeavesNewerRows(t *testing.T) {
	t.Parallel()
	const schema = `CREATE TABLE parent (id serial PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent);
		CREATE TABLE sum (id int PRIMARY KEY, n int NOT NULL, v text); ALTER TABLE sum REPLICA IDENTITY FULL;
		SELECT pgdrover.delta_column_add('sum', 'n');
		SELECT spock.repset_add_table('default', c) FROM unnest('{parent,child,sum}'::regclass[]) c;`
	a, b := pairOf(t, schema, "", nil)
	b.exec(t, "CREATE TABLE own (p int REFERENCES parent)")
	a.exec(t, "INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1); INSERT INTO sum VALUES (1, 10, 'old')")
	settle(t, a, b)
	a.halt(t)
	b.halt(t)
	a.exec(t, "UPDATE sum SET n = n + 1")
	a.exec(t, "TRUNCATE parent, child, sum RESTART IDENTITY")
	b.exec(t, "INSERT INTO child VALUES (2, 2)")
	b.exec(t, "UPDATE sum SET v = 'newest'")
	a.start(t)
	b.start(t)
	settle(t, a, b)
	settle(t, a, b)
	equal(t, "SELECT id, v FROM sum", a, b)
	require.Equal(t, "1|newest", a.text(t, "SELECT id, v FROM sum"))
	for _, n := range []*node{a, b} {
		require.Equal(t, "2|2|0", n.text(t, "SELECT (SELECT string_agg(concat_ws('|', id, p), ',') FROM child), (SELECT count(*) FROM parent)"), n.name)
		require.Equal(t, "0", n.text(t, "SELECT count(*) FROM spock.exception_log"), n.text(t, "SELECT error_message FROM spock.exception_log LIMIT 1"))
		require.Equal(t, "1", n.text(t, "SELECT nextval('parent_id_seq')"))
	}
}

// A copy that goes on takes back what it has written itself, and nothing else.
func TestCopyGoesOnBesideOthers(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, "CREATE TABLE parent (id int PRIMARY KEY, v text); CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent, v text)")
	}
	a.exec(t, `INSERT INTO parent SELECT i, repeat('p', 300) FROM generate_series(1, 200) i; INSERT INTO child SELECT i, i % 200 + 1, repeat('c', 500) FROM generate_series(1, 400) i;
		SELECT spock.repset_add_table('default', c) FROM unnest('{parent,child}'::regclass[]) c`)
	b.exec(t, "ALTER TABLE parent ADD CONSTRAINT most CHECK (id <> 200)")
	b.exec(t, fmt.Sprintf("SELECT spock.sub_create('sub_n1_n2', '%s', synchronize_data := true)", a.dsn()))
	b.eventually(t, `SELECT (SELECT count(*) FROM spock.pgdrover_copy WHERE relname = 'parent' AND state = 'done') > 0 AND
		(SELECT count(*) FROM spock.local_sync_status WHERE sync_relname = 'child' AND sync_status IN ('r', 'y')) = 1`, "t")
	b.exec(t, "INSERT INTO parent VALUES (1000, 'own'); CREATE TABLE own (p int REFERENCES parent); INSERT INTO own VALUES (1000)")
	b.exec(t, "ALTER TABLE parent DROP CONSTRAINT most")
	b.exec(t, "SELECT spock.sub_wait_for_sync('sub_n1_n2')")
	b.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n1_n2')", "replicating")
	require.Equal(t, "201|400|1", b.text(t, "SELECT (SELECT count(*) FROM parent), (SELECT count(*) FROM child), (SELECT count(*) FROM own)"))
}

// What is changed at a table here is known to the next change that arrives: a
// column that adds up, a unique index, a sequence; and keys of every length are
// themselves. A node may follow another by several subscriptions.
func TestTablesChangeHere(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, `CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, u int);
		CREATE TABLE code (id char(4) PRIMARY KEY, b bit(3), v text); CREATE SEQUENCE s;
		SELECT spock.repset_add_table('default', c) FROM unnest('{t,code}'::regclass[]) c;
		SELECT spock.repset_create('more')`, "", map[string]string{"spock.save_resolutions": "on"})
	a.exec(t, "INSERT INTO t VALUES (1), (2), (3); INSERT INTO code VALUES ('ab', '101', 'a'), ('ac', '110', 'a')")
	settle(t, a, b)
	b.exec(t, fmt.Sprintf("SELECT spock.sub_create('second', '%s', '{more}')", a.dsn()))
	b.eventually(t, "SELECT count(*) FROM spock.sub_show_status() WHERE status = 'replicating'", "2")

	for _, n := range []*node{a, b} {
		n.exec(t, "SELECT pgdrover.delta_column_add('t', 'n')")
		n.exec(t, "UPDATE t SET u = id WHERE id = 3")
	}
	settle(t, a, b)
	pause := func(what string) {
		t.Helper()
		for _, n := range []*node{a, b} {
			n.exec(t, "SELECT spock."+what+"_apply_workers()")
		}
	}
	pause("pause")
	for _, n := range []*node{a, b} {
		n.exec(t, "UPDATE t SET n = n + 10 WHERE id = 1")
	}
	a.exec(t, "DELETE FROM code WHERE id = 'ab'; SELECT setval('s', 10)")
	b.exec(t, "UPDATE code SET v = 'b' WHERE id = 'ac'; SELECT setval('s', 5000)")
	pause("resume")
	settle(t, a, b)
	a.exec(t, "SELECT spock.repset_add_seq('default', 's'); SELECT spock.sync_seq('s')")
	// The index comes when everybody knows the table already.
	for _, n := range []*node{a, b} {
		n.exec(t, "CREATE UNIQUE INDEX ON t (u)")
	}
	pause("pause")
	a.exec(t, "INSERT INTO t VALUES (10, 0, 77)")
	b.exec(t, "INSERT INTO t VALUES (20, 0, 77)")
	pause("resume")
	settle(t, a, b)
	equal(t, "SELECT * FROM t ORDER BY id", a, b)
	equal(t, "SELECT * FROM code ORDER BY id", a, b)
	require.Equal(t, "20", a.text(t, "SELECT n FROM t WHERE id = 1"))
	require.Equal(t, "1", a.text(t, "SELECT count(*) FROM t WHERE u = 77"))
	require.Equal(t, "5000", b.text(t, "SELECT last_value FROM s"))
	for _, n := range []*node{a, b} {
		require.Empty(t, n.text(t, "SELECT error_message FROM spock.exception_log"), n.name)
		require.NotContains(t, n.text(t, "SELECT string_agg(coalesce(last_error, ''), ';') FROM spock.pgdrover_subscription"), "second time")
	}
}

// A session that waits for somebody's lock ends soon after its engine, and lets
// go of the origin.
func TestSessionsEndWithTheirEngine(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, keyed)
	}
	b.subscribe(t, a, "")
	other := &node{name: "n2", server: b.server, conn: b.server.Connect(t, database)}
	other.exec(t, "BEGIN; LOCK TABLE t")
	a.exec(t, "INSERT INTO t VALUES (1, 'a')")
	b.blocked(t)
	b.halt(t)
	other.exec(t, "COMMIT")
	b.start(t)
	b.eventually(t, "SELECT count(*) FROM t", "1")
}

// What writes nothing here moves the subscription's position all the same: the
// provider hears that it was applied, and must find that so after a new start.
func TestTransactionsThatWriteNothing(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE kept_out (id int PRIMARY KEY); SELECT spock.repset_add_all_tables('default', '{public}')")
	}
	b.exec(t, `CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER nothing BEFORE INSERT ON kept_out FOR EACH ROW EXECUTE FUNCTION nothing(); ALTER TABLE kept_out ENABLE ALWAYS TRIGGER nothing`)
	b.subscribe(t, a, "")
	for i, nothing := range []string{
		"UPDATE t SET v = 'late' WHERE id = %d", "DELETE FROM t WHERE id = %d", travels + "DROP TABLE IF EXISTS none_%d", "INSERT INTO kept_out VALUES (%d)",
	} {
		a.exec(t, fmt.Sprintf("INSERT INTO t VALUES (%d, 'a')", i))
		b.eventually(t, "SELECT count(*) FROM t", "1")
		b.halt(t)
		a.exec(t, fmt.Sprintf(nothing, i))
		a.exec(t, "RESET spock.enable_ddl_replication")
		lsn := a.text(t, "SELECT pg_current_wal_insert_lsn()")
		b.exec(t, "DELETE FROM t")
		b.start(t)
		a.eventually(t, "SELECT (confirmed_flush_lsn >= '"+lsn+"')::text FROM pg_replication_slots", "true")
		confirmed := a.text(t, "SELECT confirmed_flush_lsn FROM pg_replication_slots")
		require.Equal(t, "true", b.text(t, "SELECT (remote_lsn >= '"+confirmed+"')::text FROM pg_replication_origin_status"), nothing)
		b.halt(t)
		b.start(t)
	}
	a.exec(t, "INSERT INTO t VALUES (100, 'a')")
	b.eventually(t, "SELECT count(*) FROM t WHERE id = 100", "1")
}

// A set changes after rows that brought their old keys.
func TestSetChangesBehindOldKeys(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, "CREATE TABLE t (id int PRIMARY KEY); SELECT spock.repset_add_table('default', 't')", "", nil)
	a.exec(t, "INSERT INTO t VALUES (1), (2); UPDATE t SET id = 3 WHERE id = 1; SELECT spock.repset_alter('default', replicate_delete := false); DELETE FROM t WHERE id = 2")
	a.exec(t, "SELECT spock.repset_alter('default', replicate_delete := true); UPDATE t SET id = 4 WHERE id = 3")
	b.eventually(t, "SELECT string_agg(id::text, ',' ORDER BY id) FROM t", "2,4")
}

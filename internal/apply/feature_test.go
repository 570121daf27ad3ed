package apply

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

const wholeCopy = ", synchronize_structure := true, synchronize_data := true"

// A subscription that brings structure and data along, while the provider is
// written to, and follows afterwards.
func TestInitialCopy(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	a.exec(t, `CREATE TYPE mood AS ENUM ('sad', 'happy');
		CREATE DOMAIN positive AS int CHECK (value > 0);
		CREATE TABLE parent (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m mood, ms mood[], p positive, doc jsonb, b bytea, num numeric,
			r int4range, twice int GENERATED ALWAYS AS (p * 2) STORED, at timestamptz DEFAULT now(), name text UNIQUE);
		CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
		CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
		CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
		CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (100) TO (200);
		SELECT spock.repset_add_all_tables('default', '{public}');
		INSERT INTO parent (m, ms, p, doc, b, num, r, name) SELECT 'happy', '{sad,happy}', i, '{"a": [1, null]}', '\x00ff', i / 3.0, int4range(i, NULL), 'n' || i
			FROM generate_series(1, 1000) i;
		INSERT INTO child SELECT i, i FROM generate_series(1, 1000) i;
		INSERT INTO part SELECT i, 'v' FROM generate_series(1, 150) i`)
	b.subscribe(t, a, wholeCopy)
	b.exec(t, "SELECT spock.sub_wait_for_sync('sub_n1_n2')")
	a.exec(t, `INSERT INTO parent (m, ms, p, name) VALUES ('sad', '{happy,NULL}', 7, 'late'); UPDATE parent SET m = 'sad', ms = NULL WHERE id = 3;
		DELETE FROM child WHERE id = 9; UPDATE part SET v = 'w' WHERE id IN (5, 105)`)
	settle(t, a)
	lsn := a.text(t, "SELECT spock.sync_event()")
	b.eventually(t, fmt.Sprintf("SELECT (max(remote_lsn) >= '%s')::text FROM pg_replication_origin_status", lsn), "true")
	for _, table := range []string{"parent", "child", "part"} {
		equal(t, "SELECT * FROM "+table+" ORDER BY id", a, b)
	}
	require.Equal(t, "1", b.text(t, "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conrelid = 'child'::regclass"))
	require.Equal(t, "replicating", b.text(t, "SELECT status FROM spock.sub_show_table('sub_n1_n2', 'parent')"))

	// A table that is added later, and one that is copied again.
	a.exec(t, "CREATE TABLE more (id int PRIMARY KEY); INSERT INTO more SELECT generate_series(1, 10)")
	b.exec(t, "CREATE TABLE more (id int PRIMARY KEY); DELETE FROM child")
	a.exec(t, "SELECT spock.repset_add_table('default', 'more', true)")
	b.eventually(t, "SELECT count(*) FROM more", "10")
	a.exec(t, "INSERT INTO more VALUES (11)")
	b.eventually(t, "SELECT count(*) FROM more", "11")
	b.exec(t, "SELECT spock.sub_resync_table('sub_n1_n2', 'child')")
	b.eventually(t, "SELECT count(*) FROM child", "999")
	// Again while this node is behind, and has rows of its own.
	b.halt(t)
	a.exec(t, "UPDATE child SET parent = 1 WHERE id <= 300; INSERT INTO child VALUES (5001, 1)")
	b.exec(t, "INSERT INTO child VALUES (5001, 2), (5002, 2); SELECT spock.sub_resync_table('sub_n1_n2', 'child', false)")
	b.start(t)
	b.eventually(t, "SELECT count(*), count(*) FILTER (WHERE parent = 1), count(*) FILTER (WHERE parent = 2) FROM child", "1001|299|2")
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM spock.exception_log"), b.text(t, "SELECT error_message FROM spock.exception_log LIMIT 1"))
}

// A copy that is broken off goes on: what was copied stays, and follows the
// stream from where its snapshot was.
func TestCopyGoesOn(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, "CREATE TABLE big (id int PRIMARY KEY, v text); CREATE TABLE small (id int PRIMARY KEY, v text); CREATE TABLE bare (id int)")
	}
	a.exec(t, `SELECT spock.repset_add_table('default_insert_only', 'bare'); SELECT spock.repset_add_table('default', c)
		FROM unnest('{big,small}'::regclass[]) c; INSERT INTO big SELECT i, repeat('x', 100) FROM generate_series(1, 2000) i;
		INSERT INTO small SELECT i, 'v' FROM generate_series(1, 10) i; INSERT INTO bare SELECT generate_series(1, 5)`)
	// The copy of one table has to wait.
	b.exec(t, "BEGIN; LOCK TABLE small IN SHARE MODE")
	other := &node{name: "n2", server: b.server, conn: b.server.Connect(t, database), stop: b.stop, done: b.done}
	other.exec(t, fmt.Sprintf("SELECT spock.sub_create('sub_n1_n2', '%s', synchronize_data := true)", a.dsn()))
	other.eventually(t, "SELECT string_agg(sync_relname, ',' ORDER BY sync_relname) FROM spock.local_sync_status WHERE sync_relname IS NOT NULL", "bare,big")
	other.halt(t)
	before := other.text(t, "SELECT string_agg(DISTINCT xmin::text, ',') FROM big")
	require.Contains(t, before, ",", "a large table comes in pieces")
	a.exec(t, "INSERT INTO bare VALUES (6); UPDATE big SET v = 'new' WHERE id = 5; DELETE FROM big WHERE id = 6; INSERT INTO big VALUES (3000, 'z')")
	a.exec(t, "UPDATE small SET v = 'w' WHERE id = 1; INSERT INTO small VALUES (11, 'v')")
	b.exec(t, "COMMIT")
	b.start(t)
	b.eventually(t, "SELECT status FROM spock.sub_show_status()", "replicating")
	a.exec(t, "INSERT INTO bare VALUES (7); INSERT INTO small VALUES (12, 'v')")
	lsn := a.text(t, "SELECT spock.sync_event()")
	b.eventually(t, fmt.Sprintf("SELECT (max(remote_lsn) >= '%s')::text FROM pg_replication_origin_status", lsn), "true")
	for _, table := range []string{"big", "small", "bare"} {
		equal(t, "SELECT * FROM "+table+" ORDER BY id", a, b)
	}
	require.Equal(t, "1998", b.text(t, "SELECT count(*) FROM big WHERE xmin::text = ANY (string_to_array('"+before+"', ','))"), "it was not copied again")
	b.eventually(t, "SELECT string_agg(sync_status::text, '') FROM spock.local_sync_status", "rrrr")
}

// DDL travels in order with the data, and new tables join by themselves.
func TestAutomaticDDL(t *testing.T) {
	t.Parallel()
	settings := map[string]string{"spock.enable_ddl_replication": "on", "spock.include_ddl_repset": "on"}
	a, b := newNode(t, "n1", settings), newNode(t, "n2", settings)
	b.subscribe(t, a, "")
	a.subscribe(t, b, "")
	a.exec(t, "CREATE SCHEMA app; SET search_path = app, public")
	a.exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	a.exec(t, "INSERT INTO t VALUES (1, 'one')")
	a.exec(t, "ALTER TABLE t ADD COLUMN w int DEFAULT 5")
	a.exec(t, "BEGIN; ALTER TABLE t ADD COLUMN x int; UPDATE t SET x = 3; INSERT INTO t VALUES (2, 'two', 6, 7); COMMIT")
	settle(t, a, b)
	equal(t, "SELECT * FROM app.t ORDER BY id", a, b)
	b.exec(t, "UPDATE app.t SET v = 'zwei' WHERE id = 2; INSERT INTO app.t VALUES (3)")
	settle(t, a, b)
	equal(t, "SELECT * FROM app.t ORDER BY id", a, b)
	a.exec(t, "ALTER SCHEMA app RENAME TO later; INSERT INTO later.t VALUES (4); UPDATE later.t SET v = 'vier' WHERE id = 3")
	settle(t, a, b)
	b.exec(t, "UPDATE later.t SET v = 'four' WHERE id = 4; DELETE FROM later.t WHERE id = 1")
	settle(t, a, b)
	equal(t, "SELECT * FROM later.t ORDER BY id", a, b)
	a.exec(t, "DROP TABLE later.t")
	settle(t, a, b)
	require.Empty(t, b.text(t, "SELECT to_regclass('later.t')"))
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM spock.exception_log"), b.text(t, "SELECT error_message FROM spock.exception_log LIMIT 1"))
}

func exceptionNodes(t *testing.T, behaviour string) (a, b *node) {
	t.Helper()
	settings := map[string]string{"spock.exception_behaviour": behaviour}
	a, b = newNode(t, "n1", settings), newNode(t, "n2", settings)
	a.exec(t, "CREATE TABLE t (id int PRIMARY KEY, v int); SELECT spock.repset_add_table('default', 't')")
	b.exec(t, "CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v < 100))")
	b.subscribe(t, a, "")
	a.exec(t, "BEGIN; INSERT INTO t VALUES (1, 1); INSERT INTO t VALUES (2, 200); INSERT INTO t VALUES (3, 3); COMMIT")
	a.exec(t, "INSERT INTO t VALUES (4, 4)")
	return a, b
}

func TestExceptionDiscard(t *testing.T) {
	t.Parallel()
	_, b := exceptionNodes(t, "discard")
	b.eventually(t, "SELECT string_agg(id::text, ',' ORDER BY id) FROM t", "1,3,4")
	require.Equal(t, "INSERT|[SQLSTATE 23514] new row for relation \"t\" violates check constraint \"t_v_check\"",
		b.text(t, "SELECT operation, error_message FROM spock.exception_log WHERE error_message LIKE '[SQL%'"))
	require.Equal(t, "3", b.text(t, "SELECT count(*) FROM spock.exception_log"))
	require.JSONEq(t, `[{"value": 2, "attname": "id", "atttype": "integer"}, {"value": 200, "attname": "v", "atttype": "integer"}]`,
		b.text(t, "SELECT remote_new_tup FROM spock.exception_log WHERE error_message LIKE '[SQL%'"))
}

func TestExceptionTransdiscard(t *testing.T) {
	t.Parallel()
	_, b := exceptionNodes(t, "transdiscard")
	b.eventually(t, "SELECT string_agg(id::text, ',' ORDER BY id) FROM t", "4")
	require.Equal(t, "transdiscard: tuple discarded due to exception at command_counter 3\n"+
		"[SQLSTATE 23514] new row for relation \"t\" violates check constraint \"t_v_check\"\n"+
		"transdiscard: tuple discarded due to exception at command_counter 3",
		b.text(t, "SELECT error_message FROM spock.exception_log ORDER BY command_counter"))
}

// Disabled, mended, enabled: applied once. Skipped: left out once.
func TestExceptionDisable(t *testing.T) {
	t.Parallel()
	a, b := exceptionNodes(t, "sub_disable")
	b.eventually(t, "SELECT sub_enabled FROM spock.subscription", "f")
	b.eventually(t, "SELECT status FROM spock.sub_show_status()", "disabled")
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM t"))
	b.eventually(t, `SELECT (last_error LIKE 'apply transaction %: %t_v_check%')::text || (last_hint LIKE '%sub_alter_skiplsn(''sub_n1_n2'', %')::text
		FROM spock.pgdrover_subscription`, "truetrue")
	b.exec(t, "ALTER TABLE t DROP CONSTRAINT t_v_check; SELECT spock.sub_enable('sub_n1_n2')")
	b.eventually(t, "SELECT string_agg(id::text, ',' ORDER BY id) FROM t", "1,2,3,4")
	b.exec(t, "ALTER TABLE t ADD CHECK (id < 10)")
	a.exec(t, "INSERT INTO t VALUES (10, 1)")
	b.eventually(t, "SELECT sub_enabled FROM spock.subscription", "f")
	b.eventually(t, "SELECT status FROM spock.sub_show_status()", "disabled")
	b.exec(t, `SELECT spock.sub_alter_skiplsn('sub_n1_n2', (SELECT substring(error_message FROM 'skip_lsn = (.*)')::pg_lsn FROM spock.exception_log
		WHERE operation = 'SUB_DISABLE' ORDER BY retry_errored_at DESC LIMIT 1)); SELECT spock.sub_enable('sub_n1_n2')`)
	a.exec(t, "INSERT INTO t VALUES (5, 5)")
	b.eventually(t, "SELECT string_agg(id::text, ',' ORDER BY id) FROM t", "1,2,3,4,5")
	b.eventually(t, "SELECT sub_skip_lsn FROM spock.subscription", "0/0")
}

// A transaction that is larger than what is kept of one, also when a part of it
// has to be repeated in another form.
func TestLargeTransaction(t *testing.T) {
	t.Parallel()
	settings := map[string]string{"spock.exception_replay_queue_size": "100000"}
	a, b := newNode(t, "n1", settings), newNode(t, "n2", settings)
	for _, n := range []*node{a, b} {
		n.exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text); SELECT spock.repset_add_table('default', 't')")
	}
	b.subscribe(t, a, "")
	a.subscribe(t, b, "")
	a.exec(t, "INSERT INTO t SELECT i, repeat('x', 50) FROM generate_series(1, 50000) i")
	settle(t, a, b)
	equal(t, "SELECT count(*), sum(hashtext(v)) FROM t", a, b)
	a.halt(t)
	b.halt(t)
	b.exec(t, "INSERT INTO t VALUES (60000, 'b')")
	a.exec(t, "INSERT INTO t SELECT i, 'a' FROM generate_series(50001, 62000) i")
	a.start(t)
	b.start(t)
	settle(t, a, b)
	equal(t, "SELECT count(*), sum(hashtext(v)) FROM t", a, b)
	equal(t, "SELECT v FROM t WHERE id = 60000", a, b)
}

// A table that has rows is copied again, and what both sides have written since
// shares values that only an index computes: the later row stays, on both.
func TestCopyMeetsComputedKeys(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, `CREATE TABLE mail (id int PRIMARY KEY, "At" text COLLATE "C", host text, low text GENERATED ALWAYS AS (lower(host)) STORED UNIQUE, j jsonb);
		CREATE UNIQUE INDEX ON mail (lower("At")); CREATE UNIQUE INDEX ON mail ((j->>'k'), coalesce(j->>'l', '-')) WHERE j->>'w' = 'yes';
		SELECT spock.repset_add_table('default', 'mail')`, "", nil)
	a.exec(t, `INSERT INTO mail (id, "At", host, j) VALUES (1, 'both', 'both', '{"k": 0, "w": "yes"}')`)
	settle(t, a, b)
	a.halt(t)
	b.exec(t, "SELECT spock.sub_disable('sub_n1_n2', true)")
	b.exec(t, `INSERT INTO mail (id, "At", host, j) VALUES (12, 'n2', 'TWO', NULL), (14, 'n2-4', '14', '{"k": 2, "w": "yes"}'), (16, 'Six', '16', NULL)`)
	a.exec(t, `INSERT INTO mail (id, "At", host, j) VALUES (2, 'n1', 'two', NULL), (5, 'five', '5', NULL), (3, 'n1-3', '3', '{"k": 1}'), (4, 'n1-4', '4', '{"k": 2, "w": "yes"}'), (6, 'six', '6', NULL)`)
	b.exec(t, `INSERT INTO mail (id, "At", host, j) VALUES (11, 'FIVE', 'n2', NULL), (13, 'n2-3', '13', '{"k": 1, "w": "yes"}')`)
	b.exec(t, "SELECT spock.sub_resync_table('sub_n1_n2', 'mail', false)")
	b.exec(t, "SELECT spock.sub_enable('sub_n1_n2', true)")
	b.eventually(t, "SELECT status FROM spock.sub_show_table('sub_n1_n2', 'mail')", "replicating")
	require.Equal(t, "1,2,3,4,6,11,13", b.text(t, "SELECT string_agg(id::text, ',' ORDER BY id) FROM mail"))
	a.start(t)
	settle(t, a, b)
	equal(t, "SELECT * FROM mail ORDER BY id", a, b)
	for _, n := range []*node{a, b} {
		require.Equal(t, "0", n.text(t, "SELECT count(*) FROM spock.exception_log"), n.text(t, "SELECT error_message FROM spock.exception_log LIMIT 1"))
	}
}

// A table that the provider writes anew, after the snapshot and before it is read,
// looks empty there. The copy notices and begins again.
func TestRewrittenWhileCopying(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	a.exec(t, `CREATE TABLE first (id int PRIMARY KEY, v text); INSERT INTO first SELECT i, repeat('x', 100) FROM generate_series(1, 5000) i;
		CREATE TABLE typed (id int PRIMARY KEY, v char(4)); INSERT INTO typed SELECT i, 'v' FROM generate_series(1, 100) i;
		CREATE TABLE filled (id int PRIMARY KEY); INSERT INTO filled SELECT generate_series(1, 100);
		SELECT spock.repset_add_table('default', c) FROM unnest('{first,typed,filled}'::regclass[]) c`)
	for _, text := range []string{`CREATE TABLE first (id int PRIMARY KEY, v text); CREATE TABLE typed (id int PRIMARY KEY, v char(12));
		CREATE TABLE filled (id int PRIMARY KEY, n int); INSERT INTO filled VALUES (1000)`, `ALTER DATABASE app SET pgdrover.copy_limits = 'jobs=1'`} {
		b.exec(t, text)
	}
	// The largest is copied first, and has to wait.
	b.exec(t, "BEGIN; LOCK TABLE first IN SHARE MODE")
	other := &node{name: "n2", server: b.server, conn: b.server.Connect(t, database), stop: b.stop, done: b.done}
	other.exec(t, fmt.Sprintf("SELECT spock.sub_create('sub_n1_n2', '%s', synchronize_data := true)", a.dsn()))
	other.eventually(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'COPY%'", "1")
	a.exec(t, "ALTER TABLE typed ALTER v TYPE char(12); ALTER TABLE filled ADD n int DEFAULT random() * 100")
	b.exec(t, "COMMIT")
	b.eventually(t, "SELECT string_agg(status, ',') FROM spock.sub_show_status()", "replicating")
	b.eventually(t, "SELECT count(*) FROM first", "5000")
	equal(t, "SELECT * FROM typed ORDER BY id", a, b)
	equal(t, "SELECT * FROM filled WHERE id < 1000 ORDER BY id", a, b)
	require.Equal(t, "100|1", b.text(t, "SELECT count(*) FILTER (WHERE id < 1000), count(*) FILTER (WHERE id = 1000) FROM filled"))
}

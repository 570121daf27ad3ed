package apply

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

const travels = "SET spock.enable_ddl_replication = on;"

// heard waits until each node knows from the others how far they have followed it.
func heard(t *testing.T, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		n.eventually(t, "SELECT count(*) FROM spock.pgdrover_vector WHERE origin_id = pgdrover.local_node_id() AND lsn > '0/0'", fmt.Sprint(len(nodes)-1))
	}
}

// heardFrom waits until a node has all that a provider wrote.
func heardFrom(t *testing.T, n, from *node) {
	t.Helper()
	n.reaches(t, from, from.text(t, "SELECT spock.sync_event()"))
}

// A column is added, and filled, while another node that has yet to hear of it
// writes the same rows: what wins there wins as a whole here, with what the column
// is there when it comes.
func TestColumnIsAddedWhileOthersWrite(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, keyed+`CREATE TABLE counted (id int PRIMARY KEY, v text, k int NOT NULL DEFAULT 0, g int GENERATED ALWAYS AS IDENTITY); ALTER TABLE counted REPLICA IDENTITY FULL; SELECT pgdrover.delta_column_add('counted', 'k');
		CREATE TABLE listed (id int PRIMARY KEY, v text); CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
		CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (100);
		SELECT spock.repset_add_table('default', 'listed', columns := '{id,v}'); SELECT spock.repset_add_table('default', r) FROM unnest('{counted,parted}'::regclass[]) r;`, "", nil)
	a.exec(t, `INSERT INTO t SELECT i, 'a' FROM generate_series(1, 9) i; INSERT INTO counted VALUES (1, 'a'), (2, 'a');
		INSERT INTO listed VALUES (1, 'a'); INSERT INTO parted VALUES (1, 'a')`)
	settle(t, a, b)
	heard(t, a, b)
	b.halt(t)
	a.exec(t, travels+`ALTER TABLE t ADD c int; ALTER TABLE t ADD d int DEFAULT 9, ADD e text DEFAULT 'it''s', ADD f int[] DEFAULT '{1,2}', ADD h timestamptz DEFAULT '2020-01-01 UTC';
		ALTER TABLE t ALTER d SET DEFAULT 10, ALTER e DROP DEFAULT; ALTER TABLE t ADD gone int DEFAULT 1; ALTER TABLE t DROP gone;
		ALTER TABLE t ADD again int DEFAULT 1; ALTER TABLE t DROP again; ALTER TABLE t ADD again int DEFAULT 2;
		ALTER TABLE counted ADD n int NOT NULL DEFAULT 100, ADD m int DEFAULT 3; ALTER TABLE listed ADD c int; ALTER TABLE parted ADD c int DEFAULT 3;
		RESET spock.enable_ddl_replication`)
	a.exec(t, `UPDATE t SET c = 5, d = 6, e = 'a', f = '{}', h = now(), again = 3, v = 'a1'; DELETE FROM t WHERE id = 6; INSERT INTO t (id, v, c, d) VALUES (20, 'a1', 7, 7);
		UPDATE counted SET m = 4, n = n + 5, k = k + 1 WHERE id = 1; UPDATE listed SET c = 5; UPDATE parted SET c = 5`)
	b.exec(t, `UPDATE t SET v = 'b' WHERE id = 1; BEGIN; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (2, 'b'); COMMIT; UPDATE t SET id = -3 WHERE id = 3;
		UPDATE t SET v = 'b' WHERE id IN (4, 6, 7, 8); INSERT INTO t VALUES (20, 'b'), (21, 'b'); INSERT INTO t SELECT i, 'many' FROM generate_series(101, 300) i;
		BEGIN; UPDATE t SET v = 'b' WHERE id = 9; UPDATE t SET id = 19 WHERE id = 9; COMMIT; UPDATE t SET v = 'm' WHERE id > 100;
		UPDATE counted SET v = 'b', k = k + 10, g = DEFAULT; UPDATE parted SET v = 'b'`)
	b.exec(t, "UPDATE listed SET v = 'b'")
	heardFrom(t, a, b)
	a.exec(t, "UPDATE t SET v = 'late', c = 8 WHERE id = 4")
	require.Equal(t, "b||9|it's|{1,2}|2", a.text(t, "SELECT v, c, d, e, f, again FROM t WHERE id = 1"))
	b.start(t)
	settle(t, a, b)
	for _, query := range []string{
		"SELECT id, v, c, d, e, f, h AT TIME ZONE 'UTC', again FROM t ORDER BY id", "SELECT id, v, k, g, m, n FROM counted ORDER BY id", "SELECT * FROM parted",
	} {
		equal(t, query, a, b)
	}
	require.Equal(t, "-3 a ,1 b ,2 b ,4 late 8,5 a1 5,6 b ,7 b ,8 b ,19 b ,20 b ,21 b ", a.text(t,
		"SELECT string_agg(concat_ws(' ', id, v, coalesce(c::text, '')), ',' ORDER BY id) FROM t WHERE id < 100"))
	require.Equal(t, "200|t", b.text(t, "SELECT count(*), bool_and(d = 9 AND e = 'it''s' AND v = 'm') FROM t WHERE id > 100"))
	require.Equal(t, "1 b 11 3 100,2 b 10 3 100", b.text(t, "SELECT string_agg(concat_ws(' ', id, v, k, m, n), ',' ORDER BY id) FROM counted"))
	require.Equal(t, "b|5", a.text(t, "SELECT v, c FROM listed"), "the sets leave it out")
	for _, n := range []*node{a, b} {
		n.eventually(t, "SELECT count(*) FROM spock.pgdrover_added_column", "0")
		require.Equal(t, "0", n.text(t, "SELECT count(*) FROM spock.exception_log"))
	}
}

// A third node heard of the column from its author, and hears of the rows from
// who has not: that one's position in the author's work counts, not in the third's.
func TestColumnIsAddedInAMesh(t *testing.T) {
	t.Parallel()
	all := mesh(t, 3, keyed, nil)
	a, b, c := all[0], all[1], all[2]
	a.exec(t, "INSERT INTO t SELECT i, 'a' FROM generate_series(1, 5) i")
	b.exec(t, "INSERT INTO t VALUES (10, 'b')")
	settle(t, all...)
	heard(t, all...)
	// What DDL of one stream changes another has to know at once, and not when word of it comes round.
	c.exec(t, `DO $$ BEGIN EXECUTE replace(pg_get_functiondef('pgdrover.on_ddl_upkeep'::regproc), 'PERFORM pg_notify(''spock_change'', ''definition'')', 'NULL'); END $$`)
	require.NotContains(t, c.text(t, "SELECT prosrc FROM pg_proc WHERE proname = 'on_ddl_upkeep'"), "pg_notify")
	b.exec(t, "SELECT spock.sub_disable('sub_n1_n2')")
	b.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n1_n2')", "disabled")
	a.exec(t, travels+"BEGIN; ALTER TABLE t ADD c int DEFAULT 9; UPDATE t SET c = 5; COMMIT")
	settle(t, a, c)
	// The node that is behind knows all else.
	lsn := c.text(t, "SELECT spock.sync_event()")
	c.eventually(t, "SELECT (lsn >= '"+lsn+"')::text FROM spock.pgdrover_vector WHERE origin_id = pgdrover.local_node_id() AND provider_id = (SELECT node_id FROM spock.node WHERE node_name = 'n2')", "true")
	c.eventually(t, "SELECT count(author_lsn) FROM spock.pgdrover_added_column", "1")
	require.Equal(t, "0", c.text(t, "SELECT pgdrover.purge_tombstones()"))
	b.exec(t, "UPDATE t SET v = 'b' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (2, 'b'); UPDATE t SET id = 33 WHERE id = 3")
	lsn = b.text(t, "SELECT spock.sync_event()")
	for _, n := range []*node{a, c} {
		n.reaches(t, b, lsn)
		require.Equal(t, "1 b 9,2 b 9,4 a 5,5 a 5,10 b 5,33 a 9",
			n.text(t, "SELECT string_agg(concat_ws(' ', id, v, c), ',' ORDER BY id) FROM t"))
	}
	b.exec(t, "SELECT spock.sub_enable('sub_n1_n2')")
	settle(t, all...)
	equal(t, "SELECT id, v, c FROM t ORDER BY id", all...)
	for _, n := range all {
		n.eventually(t, "SELECT count(*) FROM spock.pgdrover_added_column", "0")
		require.Equal(t, "0", n.text(t, "SELECT count(*) FROM spock.exception_log"))
	}
}

// Whoever does not follow the node that adds a column will never have it: rows
// from there leave it as it is.
func TestColumnThatOthersNeverGet(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, keyed)
	}
	a.subscribe(t, b, "")
	b.exec(t, "INSERT INTO t VALUES (1, 'b'), (2, 'b')")
	a.eventually(t, "SELECT count(*) FROM t", "2")
	a.exec(t, travels+"ALTER TABLE t ADD c int; UPDATE t SET c = 7")
	b.exec(t, "UPDATE t SET v = 'later' WHERE id = 1")
	a.eventually(t, "SELECT v FROM t WHERE id = 1", "later")
	a.eventually(t, "SELECT count(*) FROM spock.pgdrover_added_column", "0")
	b.exec(t, "UPDATE t SET v = 'later' WHERE id = 2")
	a.eventually(t, "SELECT v FROM t WHERE id = 2", "later")
	require.Equal(t, "1 7,2 7", a.text(t, "SELECT string_agg(id || ' ' || coalesce(c::text, 'gone'), ',' ORDER BY id) FROM t"))
}

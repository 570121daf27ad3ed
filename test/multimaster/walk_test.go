package multimaster

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// pgbench runs the program of that name against a node.
func (n *node) pgbench(t testing.TB, args ...string) {
	t.Helper()
	args = append([]string{"-h", n.server.Socket, "-p", fmt.Sprint(n.server.Port), "-U", pgtest.Superuser}, args...)
	res := pgtest.Run(t, forever, pgtest.Command{Path: filepath.Join(n.server.Bin, "pgbench"), Args: append(args, database)})
	require.Zero(t, res.Code, res.Stderr)
}

// The manual's walk-through from nothing: a configuration with Spock's words,
// node_create on each node, sub_create both ways, pgbench on one of them, and
// its tables are on the other.
func TestManualWalkThrough(t *testing.T) {
	t.Parallel()
	settings := map[string]string{"spock.enable_ddl_replication": "on", "spock.include_ddl_repset": "on", "spock.allow_ddl_from_functions": "on"}
	a, b := newNode(t, "n1", settings), newNode(t, "n2", settings)
	a.subscribe(t, b, "")
	b.subscribe(t, a, "")
	a.exec(t, "SELECT spock.sub_wait_for_sync('sub_n2_n1')")

	a.pgbench(t, "-i", "-s", "1")
	settle(t, a, b)
	const tables = "SELECT relname, set_name FROM spock.tables WHERE nspname = 'public' ORDER BY 1"
	require.Equal(t, "pgbench_accounts|default\npgbench_branches|default\npgbench_history|default_insert_only\npgbench_tellers|default", b.text(t, tables))
	equal(t, tables, a, b)
	equal(t, "SELECT count(*), sum(hashtext(t::text)) FROM pgbench_accounts t", a, b)
	require.Equal(t, "100000", b.text(t, "SELECT count(*) FROM pgbench_accounts"))

	// Both take writes, of the same rows.
	a.pgbench(t, "-n", "-c", "2", "-t", "200")
	b.pgbench(t, "-n", "-c", "2", "-t", "200")
	settle(t, a, b)
	for _, table := range []string{"pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history"} {
		equal(t, "SELECT count(*), sum(hashtext(t::text)) FROM "+table+" t", a, b)
	}
	require.Equal(t, "800", b.text(t, "SELECT count(*) FROM pgbench_history"))
	noExceptions(t, a, b)
	inTurn(t, []*node{a, b}, []step{
		{"Check11TransdiscardWithDDL", check11TransdiscardWithDDL},
		{"Check14BacklogWithSetChanges", check14BacklogWithSetChanges},
		{"ColumnDroppedWhileItIsWritten", columnDroppedWhileItIsWritten},
		{"NobodyBecomesSuperuser", nobodyBecomesSuperuser},
	})

	// What an operator looks at.
	status := must(t, "spock", "status", "--check", "--dsn", a.server.DSN(database), "--dsn", b.server.DSN(database))
	require.Contains(t, status.Stdout, "sub_n1_n2")
	require.Equal(t, "n1|n2", b.text(t, "SELECT origin_name, receiver_name FROM spock.lag_tracker"))
	a.exec(t, "SELECT spock.sub_drop('sub_n2_n1')")
	b.exec(t, "SELECT spock.sub_drop('sub_n1_n2')")
	for _, n := range []*node{a, b} {
		require.Equal(t, "0", n.text(t, "SELECT count(*) FROM pg_replication_slots"), "slots that stay behind on %s", n.name)
		n.exec(t, fmt.Sprintf("SELECT spock.node_drop('%s')", n.name))
	}
}

// One node drops a column that another one still writes: the value is left out, and nothing else of the row.
func columnDroppedWhileItIsWritten(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	a.exec(t, "ALTER TABLE t ADD COLUMN w text")
	a.exec(t, "INSERT INTO t VALUES (1, 'start', 0, 'w')")
	settle(t, nodes...)
	apart(a, b,
		func() { b.exec(t, "UPDATE t SET v = 'new', w = 'late'; INSERT INTO t VALUES (2, 'two', 0, 'late')") },
		func() { a.exec(t, "ALTER TABLE t DROP COLUMN w") })
	settle(t, nodes...)
	equal(t, "SELECT * FROM t ORDER BY id", nodes...)
	require.Equal(t, "1|new|0\n2|two|0", a.text(t, "SELECT * FROM t ORDER BY id"))
	noExceptions(t, nodes...)
	b.exec(t, "INSERT INTO t VALUES (3, 'three')")
	settle(t, nodes...)
	equal(t, "SELECT * FROM t ORDER BY id", nodes...)
}

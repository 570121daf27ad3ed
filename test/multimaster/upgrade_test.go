package multimaster

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// Two nodes of the first version of the schema, with data, sets and subscriptions that wait for an engine. Brought up to date they
// go on where they were. One engine reaches its peer by another address than the servers do.
func TestNodesOfTheFirstVersion(t *testing.T) {
	t.Parallel()
	image, err := os.ReadFile("../../internal/spock/testdata/schema-1.sql")
	require.NoError(t, err)
	a, b := newEmpty(t, "n1", nil), newEmpty(t, "n2", nil)
	nodes := []*node{a, b}
	for _, n := range nodes {
		n.exec(t, "BEGIN; SET LOCAL search_path = pg_catalog; SET LOCAL pgdrover.internal = on;"+string(image)+"; COMMIT")
		n.exec(t, fmt.Sprintf("SELECT spock.node_create('%s', '%s')", n.name, n.address(n.server.Port)))
		n.exec(t, oneTable)
	}
	a.ask(t, b, "")
	b.ask(t, a, "")
	a.exec(t, "INSERT INTO t VALUES (1, 'before the slot was there')")
	status := run(t, "spock", "status", "--dsn", a.server.DSN(database))
	require.NotZero(t, status.Code)
	require.Contains(t, status.Stderr, "pgdrover spock upgrade")
	must(t, "spock", "upgrade", "--dsn", a.server.DSN(database), "--dsn", b.server.DSN(database))

	a.start(t)
	link := a.link(t, "n2")
	b.options = []string{"--map", fmt.Sprintf("127.0.0.1:%d=127.0.0.1:%d", link.Port(), a.server.Port)}
	link.Cut()
	b.start(t)
	for _, n := range nodes {
		n.eventually(t, "SELECT status FROM spock.sub_show_status()", "replicating", nodes...)
	}
	a.exec(t, "INSERT INTO t VALUES (2, 'a'); INSERT INTO journal VALUES ('n1', 1)")
	b.exec(t, "INSERT INTO t VALUES (3, 'b'); INSERT INTO journal VALUES ('n2', 1)")
	settle(t, nodes...)
	a.exec(t, "DELETE FROM t WHERE id = 3")
	b.exec(t, "UPDATE t SET v = 'b again' WHERE id = 2")
	settle(t, nodes...)
	require.Equal(t, "2|b again|0", a.text(t, "SELECT * FROM t WHERE id > 1"))
	equal(t, "SELECT * FROM t WHERE id > 1", nodes...)
	equal(t, "SELECT * FROM journal ORDER BY node", nodes...)
	noExceptions(t, nodes...)
	must(t, "spock", "status", "--check", "--dsn", a.server.DSN(database), "--dsn", b.server.DSN(database))
}

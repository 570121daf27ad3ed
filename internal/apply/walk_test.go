package apply

import (
	"testing"
)

// The manual's walk-through: two nodes, a subscription each way, a table made on
// one of them.
func TestTwoNodes(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, "CREATE TABLE items (id int PRIMARY KEY, name text, n bigint DEFAULT 0); CREATE TABLE log (node text, n int)")
		n.exec(t, "SELECT spock.repset_add_table('default', 'items'); SELECT spock.repset_add_table('default_insert_only', 'log')")
	}
	b.subscribe(t, a, "")
	a.subscribe(t, b, "")
	a.exec(t, "INSERT INTO items SELECT i, 'a' || i FROM generate_series(1, 2500) i")
	b.exec(t, "INSERT INTO items SELECT i, 'b' || i FROM generate_series(5001, 5010) i; INSERT INTO log VALUES ('b', 1)")
	settle(t, a, b)
	equal(t, "SELECT * FROM items ORDER BY id", a, b)
	equal(t, "SELECT * FROM log ORDER BY n", a, b)
	a.exec(t, "UPDATE items SET n = n + 1 WHERE id <= 1500; DELETE FROM items WHERE id = 7; UPDATE items SET id = 9001 WHERE id = 8")
	b.exec(t, "UPDATE items SET n = n + 1 WHERE id = 5001")
	settle(t, a, b)
	equal(t, "SELECT * FROM items ORDER BY id", a, b)
	equal(t, "SELECT count(*), sum(n) FROM items", a, b)
}

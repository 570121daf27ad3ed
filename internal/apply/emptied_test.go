package apply

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	emptiedSchema = "CREATE TABLE t (id int PRIMARY KEY, v text); SELECT spock.repset_add_table('default', 't'); CREATE TABLE busy (v int);"
	// waitsForSlot counts who waits for a slot until others' transactions have ended.
	waitsForSlot = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE_REPLICATION_SLOT%' AND wait_event_type = 'Lock'"
)

// emptiedPair are two nodes that follow each other, with rows of both.
func emptiedPair(t *testing.T) (a, b *node) {
	t.Helper()
	nodes := mesh(t, 2, emptiedSchema, nil)
	a, b = nodes[0], nodes[1]
	a.exec(t, "INSERT INTO t SELECT i, 'a' FROM generate_series(1, 100) i")
	b.exec(t, "INSERT INTO t SELECT i, 'b' FROM generate_series(101, 200) i")
	settle(t, a, b)
	return a, b
}

// hold opens a transaction that writes, until the function it returns is called.
func (n *node) hold(t *testing.T) (end func()) {
	t.Helper()
	other := &node{name: n.name, server: n.server, conn: n.server.Connect(t, database)}
	other.exec(t, "BEGIN; INSERT INTO busy VALUES (1)")
	return func() { other.exec(t, "COMMIT") }
}

// A provider empties a table, to have it copied again, while the copy of it waits
// for the provider's transactions: nothing that is gone there is gone here.
func TestProviderEmptiesWhileTheCopyBegins(t *testing.T) {
	t.Parallel()
	a, b := emptiedPair(t)
	end := b.hold(t)
	a.exec(t, "SELECT spock.sub_resync_table('sub_n2_n1', 't', false)")
	b.eventually(t, waitsForSlot, "1")
	b.exec(t, "SELECT spock.sub_resync_table('sub_n1_n2', 't')")
	end()
	const counts = "SELECT count(*) FILTER (WHERE v = 'a'), count(*) FILTER (WHERE v = 'b') FROM t"
	for _, n := range []*node{a, b} {
		n.eventually(t, "SELECT string_agg(sync_status::text, '') FROM spock.local_sync_status", "rr")
		require.Equal(t, "100|100", n.text(t, counts), n.name)
	}
	a.exec(t, "INSERT INTO t VALUES (201, 'a')")
	b.exec(t, "INSERT INTO t VALUES (202, 'b')")
	settle(t, a, b)
	equal(t, "SELECT * FROM t ORDER BY id", a, b)
	require.Equal(t, "101|101", a.text(t, counts))
}

// A node that joins meanwhile does not take the empty table either.
func TestProviderEmptiesWhileANodeJoins(t *testing.T) {
	t.Parallel()
	a, b := emptiedPair(t)
	c := newNode(t, "n3", map[string]string{"spock.restart_delay_default": "200"})
	end := b.hold(t)
	c.exec(t, fmt.Sprintf("SELECT spock.sub_create('sub_n2_n3', '%s'%s)", b.dsn(), wholeCopy))
	b.eventually(t, waitsForSlot, "1")
	again := a.hold(t) // until then the provider does not have its rows again
	b.exec(t, "SELECT spock.sub_resync_table('sub_n1_n2', 't')")
	end()
	c.eventually(t, "SELECT last_error LIKE '%' || $$"+errEmptied.Error()+"$$ FROM spock.pgdrover_subscription", "t")
	again()
	c.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n2_n3')", "replicating")
	require.Equal(t, "200", c.text(t, "SELECT count(*) FROM t"))
}

// Two nodes empty the same table, each to have it from the other: one of them
// begins, and says what that means. What was written since is on both.
func TestBothEmptyATable(t *testing.T) {
	t.Parallel()
	a, b := emptiedPair(t)
	first, second := a, b
	if a.text(t, "SELECT pgdrover.local_node_id()::int8 > (SELECT max(node_id::int8) FROM spock.node WHERE node_name = 'n2')") == "t" {
		first, second = b, a
	}
	for _, n := range []*node{a, b} {
		n.halt(t)
	}
	a.exec(t, "SELECT spock.sub_resync_table('sub_n2_n1', 't'); INSERT INTO t VALUES (201, 'a')")
	b.exec(t, "SELECT spock.sub_resync_table('sub_n1_n2', 't'); INSERT INTO t VALUES (202, 'b')")
	for _, n := range []*node{a, b} {
		n.start(t)
	}
	for _, n := range []*node{a, b} {
		n.eventually(t, "SELECT string_agg(sync_status::text, '') FROM spock.local_sync_status", "rr")
		require.Equal(t, "201 a,202 b", n.text(t, "SELECT string_agg(id || ' ' || v, ',' ORDER BY id) FROM t"), n.name)
	}
	require.Contains(t, first.warnings(), "the provider has emptied the table as well")
	require.NotContains(t, second.warnings(), "the provider has emptied the table as well")
}

package multimaster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// synced waits until a table follows a subscription's stream again.
func (n *node) synced(t testing.TB, sub, table string, others ...*node) {
	t.Helper()
	n.eventually(t, fmt.Sprintf("SELECT status FROM spock.sub_show_table('%s', '%s')", sub, table), "replicating", others...)
}

// meshOfCopies makes nodes of which one has data, and all subscriptions between them at once, each with a copy. They all
// wait for each other's work, and none in a circle.
func meshOfCopies(t testing.TB, count int, settings map[string]string) []*node {
	t.Helper()
	nodes := make([]*node, count)
	for i := range nodes {
		nodes[i] = newNode(t, fmt.Sprintf("n%d", i+1), settings)
		nodes[i].exec(t, oneTable)
	}
	nodes[0].exec(t, "INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 3000) i; INSERT INTO journal SELECT 'n1', i FROM generate_series(1, 500) i")
	for _, n := range nodes {
		for _, p := range nodes {
			if p != n {
				n.ask(t, p, ", synchronize_data := true")
			}
		}
	}
	for _, n := range nodes {
		n.eventually(t, "SELECT bool_and(status = 'replicating') FROM spock.sub_show_status()", "t", nodes...)
		n.eventually(t, "SELECT bool_and(sync_status = 'r') FROM spock.local_sync_status", "t", nodes...)
	}
	settle(t, nodes...)
	for _, n := range nodes {
		require.NotContains(t, n.engine.Log(), "the provider does not say how far it has applied", "somebody waited until it was too long")
		require.Equal(t, "3000|3000", n.text(t, "SELECT count(*), count(*) FILTER (WHERE v = 'row ' || id) FROM t"), n.name)
		require.Equal(t, "n1|500|500", n.text(t, "SELECT node, count(*), count(DISTINCT number) FROM journal GROUP BY 1"), n.name)
	}
	noExceptions(t, nodes...)
	return nodes
}

// A table is copied again into one that has rows. What the provider has not seen stays, deletes too; what it has
// written or deleted later comes; and what a third node sends afterwards, and is older, loses.
func resyncGoesByTheOrderOfStamps(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b, c := nodes[0], nodes[1], nodes[2]
	a.exec(t, "INSERT INTO t SELECT i, 'start' FROM generate_series(1, 9) i")
	settle(t, nodes...)
	c.exec(t, "UPDATE t SET v = 'third' WHERE id BETWEEN 6 AND 7; INSERT INTO journal VALUES ('n3', 1)")
	a.exec(t, "INSERT INTO journal VALUES ('n1', 1)")
	b.exec(t, "INSERT INTO journal VALUES ('n2', 1)")
	settle(t, nodes...)

	// The provider hears of none of this.
	a.away(b)
	a.away(c)
	b.exec(t, "DELETE FROM t WHERE id = 1; UPDATE t SET v = 'b' WHERE id = 2; INSERT INTO t VALUES (21, 'b'); INSERT INTO journal VALUES ('n2', 2)")
	c.exec(t, "DELETE FROM t WHERE id = 3; UPDATE t SET v = 'c' WHERE id = 4; INSERT INTO t VALUES (22, 'c'); INSERT INTO journal VALUES ('n3', 2)")
	b.follow(t, c)
	// And this is on its way here, older than what the provider has.
	b.away(c)
	c.exec(t, "UPDATE t SET v = 'older' WHERE id = 5")
	a.exec(t, "UPDATE t SET v = 'newer' WHERE id = 5")
	b.follow(t, a)
	b.exec(t, "SELECT spock.sub_disable('sub_n1_n2', true)")
	b.exec(t, "SELECT spock.sub_resync_table('sub_n1_n2', 't', false), spock.sub_resync_table('sub_n1_n2', 'journal', false)")
	a.exec(t, "DELETE FROM t WHERE id = 6; UPDATE t SET v = 'a' WHERE id = 7; DELETE FROM t WHERE id = 8; INSERT INTO journal VALUES ('n1', 2)")
	b.exec(t, "SELECT spock.sub_enable('sub_n1_n2', true)")
	b.synced(t, "sub_n1_n2", "t", a)
	b.synced(t, "sub_n1_n2", "journal", a)
	require.Equal(t, "2|b\n4|c\n5|newer\n7|a\n9|start\n21|b\n22|c", b.text(t, "SELECT id, v FROM t ORDER BY id"))
	b.back(c)
	b.follow(t, c)
	a.back(b)
	a.back(c)
	settle(t, nodes...)
	equal(t, "SELECT * FROM t ORDER BY id", nodes...)
	require.Equal(t, "2|b\n4|c\n5|newer\n7|a\n9|start\n21|b\n22|c", b.text(t, "SELECT id, v FROM t ORDER BY id"))
	for _, n := range nodes {
		require.Equal(t, "n1|2|2\nn2|2|2\nn3|2|2", n.text(t, "SELECT node, count(*), count(DISTINCT number) FROM journal GROUP BY 1 ORDER BY 1"), n.name)
	}
	noExceptions(t, nodes...)
}

// A table is emptied and copied again while the provider has not yet seen what was in it: the copy waits for that.
func resyncWaitsForWhatOnlyTheSubscriberHad(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b, c := nodes[0], nodes[1], nodes[2]
	a.exec(t, "INSERT INTO t SELECT i, 'start' FROM generate_series(1, 5) i; INSERT INTO journal VALUES ('n1', 1)")
	settle(t, nodes...)
	a.away(b)
	b.exec(t, "INSERT INTO t VALUES (21, 'b'); UPDATE t SET v = 'b' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO journal VALUES ('n2', 1)")
	b.exec(t, "SELECT spock.sub_resync_table('sub_n1_n2', 't'), spock.sub_resync_table('sub_n1_n2', 'journal')")
	await(t, func() error {
		if !strings.Contains(b.engine.Log(), "copy waits until the provider has seen what was here") {
			return errWant
		}
		return nil
	}, nodes...)
	a.back(b)
	b.synced(t, "sub_n1_n2", "t", a, c)
	b.synced(t, "sub_n1_n2", "journal", a, c)
	settle(t, nodes...)
	for _, n := range nodes {
		require.Equal(t, "1|b\n3|start\n4|start\n5|start\n21|b", n.text(t, "SELECT id, v FROM t ORDER BY id"), n.name)
		require.Equal(t, "n1|1\nn2|1", n.text(t, "SELECT * FROM journal ORDER BY 1, 2"), n.name)
	}
	noExceptions(t, nodes...)
}

// A subscription with a copy is made where the tables have rows already.
func copyIntoTablesWithRows(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, `CREATE TABLE t (id int PRIMARY KEY, v text, u int UNIQUE); SELECT spock.repset_add_table('default', 't');
		CREATE TABLE journal (node text, number int); SELECT spock.repset_add_table('default_insert_only', 'journal')`, nodes...)
	a, b := nodes[0], nodes[1]
	for i, n := range nodes {
		n.exec(t, fmt.Sprintf("INSERT INTO t SELECT i, 'start', i FROM generate_series(%d, %d) i; INSERT INTO journal VALUES ('n%d', 1)", 10*i+1, 10*i+6, i+1))
	}
	settle(t, nodes...)
	b.exec(t, "SELECT spock.sub_drop('sub_n1_n2')")
	b.exec(t, "UPDATE t SET v = 'b' WHERE id IN (1, 2); DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (51, 'b', 100); INSERT INTO journal VALUES ('n2', 2)")
	a.follow(t, b)
	a.exec(t, "UPDATE t SET v = 'a' WHERE id IN (2, 4, 11, 21); DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (52, 'a', 101); INSERT INTO journal VALUES ('n1', 2)")
	// Two rows of one unique value: the later one stays.
	a.away(b)
	b.exec(t, "INSERT INTO t VALUES (61, 'early', 200)")
	a.exec(t, "INSERT INTO t VALUES (71, 'late', 200), (72, 'early', 201)")
	b.exec(t, "INSERT INTO t VALUES (62, 'late', 201); UPDATE t SET v = 'unseen' WHERE id = 6; DELETE FROM t WHERE id = 12")
	b.ask(t, a, ", synchronize_data := true")
	b.exec(t, "SELECT spock.sub_wait_for_sync('sub_n1_n2')")
	a.back(b)
	settle(t, nodes...)
	equal(t, "SELECT * FROM t ORDER BY id", nodes...)
	require.Equal(t, "1|b\n2|a\n4|a\n6|unseen\n11|a\n13|start\n14|start\n15|start\n16|start\n21|a\n22|start\n23|start\n24|start\n25|start\n26|start\n51|b\n52|a\n62|late\n71|late",
		a.text(t, "SELECT id, v FROM t ORDER BY id"))
	for _, n := range nodes {
		require.Equal(t, "n1|2|2\nn2|2|2\nn3|1|1", n.text(t, "SELECT node, count(*), count(DISTINCT number) FROM journal GROUP BY 1 ORDER BY 1"), n.name)
	}
	noExceptions(t, nodes...)
}

// Tables are copied again, emptied or not, from and to random nodes, while all nodes write them and are killed: they end equal.
func TestCheck01TablesCopiedAgainUnderKills(t *testing.T) {
	t.Parallel()
	if os.Getenv(seedVar) == "" && os.Getenv(seedsVar) == "" {
		t.Skipf("a campaign: set %s to the number of seeds to run", seedsVar)
	}
	nodes := mesh(t, 3, playground, recording())
	var done atomic.Int64
	var writers []*writer
	for _, n := range nodes {
		writers = append(writers, &writer{n: n, done: &done})
	}
	for _, s := range seeds(t, 2) {
		for i, w := range writers {
			w.rand = rand.New(rand.NewPCG(s, uint64(i)))
		}
		r := rand.New(rand.NewPCG(s, 2000))
		hits := 0
		write(t, writers, 60, func() {
			for ; hits < 2*blows; hits++ {
				pause(t.Context(), time.Duration(50+r.IntN(200))*time.Millisecond)
				resyncSome(r, nodes)
				if hits%4 == 3 {
					strike(t, r, nodes)
				}
			}
		})
		for _, n := range nodes {
			n.eventually(t, "SELECT bool_and(sync_status = 'r') FROM spock.local_sync_status", "t", nodes...)
		}
		converge(t, writers, fmt.Sprintf("%s=%d", seedVar, s))
		t.Logf("seed %d: %d transactions so far", s, done.Load())
	}
}

// resyncSome asks for the copy of some table. One may be on its way already, or the server away.
func resyncSome(r *rand.Rand, nodes []*node) {
	n := nodes[r.IntN(len(nodes))]
	other := nodes[(r.IntN(len(nodes)-1)+1+index(nodes, n))%len(nodes)]
	table := []string{"item", "pair", "rich", "sole", "part"}[r.IntN(5)]
	for _, at := range nodes { // what is being copied already may be half of it
		busy, err := at.try("SELECT count(*) FROM spock.local_sync_status WHERE sync_status <> 'r' AND sync_relname = '" + table + "'")
		if err != nil || busy != "0" {
			return
		}
	}
	_, _ = n.try(fmt.Sprintf("SELECT spock.sub_resync_table('%s', '%s', %t)", subscription(other, n), table, r.IntN(2) == 0))
}

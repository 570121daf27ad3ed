package multimaster

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// The tests below break a rule of the engine's from outside, and require that
// the comparison of the other tests notices: a check that cannot fail is none.

// Without tombstones an older update brings a deleted row back.
func checkerNoticesMissingTombstones(t *testing.T, nodes []*node) {
	t.Helper()
	for _, broken := range []bool{false, true} {
		fresh(t, oneTable, nodes...)
		a, b, c := nodes[0], nodes[1], nodes[2]
		if broken {
			c.exec(t, `CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
				CREATE TRIGGER forget BEFORE INSERT ON spock.pgdrover_tombstone FOR EACH ROW EXECUTE FUNCTION forget();
				ALTER TABLE spock.pgdrover_tombstone ENABLE ALWAYS TRIGGER forget`)
		}
		a.exec(t, "INSERT INTO t VALUES (1, 'start')")
		settle(t, nodes...)
		c.away(b)
		a.away(b)
		b.exec(t, "UPDATE t SET v = 'older'")
		a.exec(t, "DELETE FROM t")
		c.follow(t, a)
		a.back(b)
		c.back(b)
		settle(t, nodes...)
		err := differ("SELECT * FROM t", nodes...)
		require.Equal(t, broken, err != nil, "%v", err)
	}
}

// A node that ranks its peer otherwise chooses another winner of a tie.
func checkerNoticesAnotherTieRule(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	nodes[1].exec(t, `UPDATE spock.node SET info = '{"tiebreaker": 1}' WHERE node_name = 'n1'`)
	tie(t, nodes)
	require.Error(t, differ("SELECT * FROM t", nodes...))
	nodes[1].exec(t, "UPDATE spock.node SET info = NULL WHERE node_name = 'n1'")
}

// A position that is ahead of the data loses a transaction.
func checkerNoticesALostTransaction(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, playground, nodes...)
	a, b := nodes[0], nodes[1]
	var done atomic.Int64
	writers := []*writer{{n: a, done: &done, last: 3}, {n: b, done: &done}}
	a.exec(t, "INSERT INTO journal VALUES ('n1', 1)")
	settle(t, nodes...)
	b.exec(t, "SELECT spock.sub_disable('sub_n1_n2')")
	b.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n1_n2')", "disabled")
	a.exec(t, "INSERT INTO journal VALUES ('n1', 2)")
	// Not where the transaction ends, since a position that an abort has left would be recognised.
	past := a.text(t, "SELECT pg_logical_emit_message(false, 'test', 'behind it')")
	b.exec(t, fmt.Sprintf(`SELECT pg_replication_origin_advance(sub_slot_name, '%s') FROM spock.subscription WHERE sub_name = 'sub_n1_n2'`, past))
	a.exec(t, "INSERT INTO journal VALUES ('n1', 3)")
	b.exec(t, "SELECT spock.sub_enable('sub_n1_n2')")
	settle(t, nodes...)
	require.ErrorContains(t, check(t, writers), "n2 has applied transactions of n1 (all|distinct|last) 2|2|3, want 3|3|3")
}

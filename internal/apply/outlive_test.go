package apply

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A node that only receives from a provider deletes a row, and passes that on.
// An older change of the row, of the provider, is still on its way: the delete's
// tombstone stays until it has come, and goes then, on all nodes. Where it goes
// before, the row comes back here, and nowhere else.
func TestTombstonesBelowAProviderThatHearsNothing(t *testing.T) {
	t.Parallel()
	for name, early := range map[string]bool{"kept until it has come": false, "gone too early": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b, c := newNode(t, "n1", nil), newNode(t, "n2", nil), newNode(t, "n3", nil)
			for _, n := range []*node{a, b, c} {
				n.exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text); SELECT spock.repset_add_table('default', 't')")
			}
			b.subscribe(t, a, "")
			c.subscribe(t, a, "")
			c.subscribe(t, b, "")
			a.exec(t, "INSERT INTO t SELECT i, 'start' FROM generate_series(1, 10) i")
			b.eventually(t, "SELECT count(*) FROM t", "10")
			c.eventually(t, "SELECT count(*) FROM t", "10")
			a.link.Stall()
			a.exec(t, "UPDATE t SET v = 'older' WHERE id <= 2")
			b.exec(t, "DELETE FROM t WHERE id = 1")
			const kept = "SELECT count(*) FROM spock.pgdrover_tombstone"
			c.eventually(t, "SELECT count(*) FROM t", "9")
			b.eventually(t, kept+" WHERE commit_time < now() - interval '7 s'", "1") // the engine has had occasion
			c.eventually(t, kept, "1")
			if early {
				b.exec(t, "DELETE FROM spock.pgdrover_tombstone")
			}
			a.link.Restore()
			for _, n := range []*node{b, c} {
				n.eventually(t, "SELECT v FROM t WHERE id = 2", "older")
			}
			if early {
				require.NotEmpty(t, differing(t, "SELECT * FROM t ORDER BY id", b, c))
				return
			}
			equal(t, "SELECT * FROM t ORDER BY id", b, c)
			require.Equal(t, "9", b.text(t, "SELECT count(*) FROM t"))
			b.eventually(t, kept, "0")
			c.eventually(t, kept, "0")
		})
	}
}

// Whom a provider has left it names no more: what it said of that node is
// forgotten, since another may come under its name, whose log begins anew.
func TestVectorOfOneThatWasLeft(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, keyed, "", nil)
	a.exec(t, "INSERT INTO t VALUES (1, 'a')")
	settle(t, a, b)
	a.exec(t, "INSERT INTO spock.pgdrover_vector (provider_id, origin_id, lsn) SELECT sub_origin, 4711, 'FF/FF' FROM spock.subscription")
	a.exec(t, "INSERT INTO t VALUES (2, 'a')")
	a.eventually(t, "SELECT count(*) FROM spock.pgdrover_vector WHERE origin_id = 4711", "0")
	require.Equal(t, "t", a.text(t, "SELECT lsn > '0/0' FROM spock.pgdrover_vector WHERE origin_id = pgdrover.local_node_id()"))
}

package zodan

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// A node of a newer server joins under load, and takes the place of the older
// one, which leaves: that is an upgrade. An older server cannot copy a newer one.
// It is tried on the two newest of this machine.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	pgtest.Bin(t)
	all := pgtest.AllBinaries()
	if len(all) < 2 {
		t.Skip("this machine has one major version of PostgreSQL only; PGDROVER_PG_BINDIRS names more")
	}
	older, newer := all[len(all)-2], all[len(all)-1]
	dir := t.TempDir()
	a := firstOf(t, newNodeFrom(t, "n1", older.Dir, nil))
	b, c := newNodeFrom(t, "n2", newer.Dir, nil), newNodeFrom(t, "n3", older.Dir, nil)
	ready(t, a, b, c)
	l := startLoad(t, a)
	must(t, 0, add(dir, a, b)...)
	l.converged(t, a, b)
	ready(t, a, b)
	tl := must(t, 5, add(dir, b, c)...)
	require.Contains(t, tl.said(), fmt.Sprintf("new node n3 has PostgreSQL %d, the source %d", older.Major, newer.Major))
	l = startLoad(t, a, b)
	must(t, 0, add(dir, a, c)...) // the cluster has both, and its source may be the older one
	l.converged(t, a, b, c)
	startLoad(t, b, c).converged(t, a, b, c)
	for _, n := range []*node{c, a} {
		must(t, 0, call(dir, "remove_node", "--target-node-name="+n.name, "--target-node-dsn="+n.dsn())...)
	}
	b.exec(t, "INSERT INTO journal VALUES ('alone', 1)")
	require.Equal(t, "1|0|0", b.text(t, "SELECT (SELECT count(*) FROM spock.node), (SELECT count(*) FROM spock.subscription), (SELECT count(*) FROM pg_replication_slots)"))
}

package apply

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// A transaction that changes many keys leaves a tombstone for each, and looks
// for those of each: it must find them by their keys, not read them all.
func TestTombstonesAreFoundByTheirKeys(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	const rows = 500
	for _, n := range []*node{a, b} {
		n.exec(t, keyed)
	}
	// To the planner another table has all of them.
	b.exec(t, `CREATE TABLE other (id int PRIMARY KEY); SELECT spock.repset_add_table('default', 'other');
		INSERT INTO other SELECT generate_series(1, 5000); DELETE FROM other; ANALYZE spock.pgdrover_tombstone`)
	b.subscribe(t, a, "")
	a.exec(t, fmt.Sprintf("INSERT INTO t SELECT i, 'v' FROM generate_series(1, %d) i; UPDATE t SET id = -id", rows))
	b.eventually(t, "SELECT sum(id) FROM t", fmt.Sprint(-rows*(rows+1)/2))
	b.eventually(t, fmt.Sprintf("SELECT (sum(n_tup_ins) >= %d)::text FROM pg_stat_user_tables WHERE relname = 'pgdrover_tombstone'", 5000+rows), "true")
	read, err := strconv.Atoi(b.text(t, "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'pgdrover_tombstone'"))
	require.NoError(t, err)
	require.Less(t, read, 50*rows, "half of their square would be %d", rows*rows/2)
	equal(t, "SELECT * FROM t ORDER BY id", a, b)
}

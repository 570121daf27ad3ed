package apply

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A local transaction that inserts rows has its commit time, but cannot be seen
// yet: it waits for a standby. Deletes that arrive meanwhile are later than the
// rows, and must not miss them.
func TestDeleteMeetsCommittingInsert(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, keyed, "", nil)
	a.exec(t, "INSERT INTO t SELECT i, 'a' FROM generate_series(1, 5) i")
	settle(t, a, b)
	a.halt(t)
	b.exec(t, "DELETE FROM t WHERE id < 4")

	look := &node{name: "n2", server: b.server, conn: b.server.Connect(t, database)}
	for _, sql := range []string{"ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()"} {
		look.exec(t, sql)
	}
	writer := b.server.Connect(t, database)
	look.eventually(t, "SELECT current_setting('synchronous_standby_names')", "nobody")
	var group sync.WaitGroup
	defer group.Wait()
	var failed error
	group.Go(func() {
		_, failed = writer.Exec(context.WithoutCancel(t.Context()), "INSERT INTO t SELECT i, 'b' FROM generate_series(1, 3) i")
	})
	const waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
	look.eventually(t, waits, "1")

	// One misses its row, one moves its row away, and one of another transaction
	// that finds its row has to wait for its turn.
	a.exec(t, "BEGIN; DELETE FROM t WHERE id = 1; UPDATE t SET id = 6 WHERE id = 2; COMMIT")
	a.exec(t, "DELETE FROM t WHERE id = 5")
	lsn := a.text(t, "SELECT pg_current_wal_flush_lsn()")
	// It waits, or it is through and has missed them.
	look.eventually(t, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'spock apply%' AND state = 'idle in transaction'
		AND clock_timestamp() - xact_start > interval '1500 ms') OR (SELECT bool_and(remote_lsn >= '`+lsn+`') FROM pg_replication_origin_status)`, "t")
	require.Equal(t, "1", look.text(t, waits))
	for _, sql := range []string{"ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"} {
		look.exec(t, sql)
	}
	group.Wait()
	require.NoError(t, failed)
	a.start(t)
	settle(t, a, b)
	equal(t, "SELECT id, v FROM t ORDER BY id", a, b)
	require.Equal(t, "3|b\n4|a\n6|a", b.text(t, "SELECT id, v FROM t ORDER BY id"))
}

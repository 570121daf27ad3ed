package apply

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// stamped is how many different origins of other nodes the rows of a table have.
const stamped = "SELECT count(DISTINCT s.roident) FROM journal k CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(k.xmin) s WHERE s.roident <> 0"

const sessionsBeside = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'spock apply %/%' AND datname = current_database()"

// Transactions commit in their order, whichever session writes them: one that
// does not depend on those before is written and waits, one that does depend is
// not begun. A deadlock that goes through the order is found.
func TestSeveralSessionsKeepTheOrder(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, keyed+"CREATE TABLE journal (n int); SELECT spock.repset_add_table('default_insert_only', 'journal')", "",
		map[string]string{"spock.apply_workers": "4"})
	a.exec(t, "INSERT INTO t SELECT i, 'old' FROM generate_series(1, 9) i")
	settle(t, a, b)
	local := b.server.Connect(t, database)
	_, err := local.Exec(t.Context(), "BEGIN")
	require.NoError(t, err)
	_, err = local.Exec(t.Context(), "SELECT FROM t WHERE id = 1 FOR UPDATE")
	require.NoError(t, err)
	for n, id := range []int{1, 2, 3, 1} {
		a.exec(t, fmt.Sprintf("BEGIN; UPDATE t SET v = 'new %d' WHERE id = %d; INSERT INTO journal VALUES (%[1]d); COMMIT", n, id))
	}
	const waiting = `SELECT count(*) FILTER (WHERE wait_event_type = 'Lock'), count(*) FILTER (WHERE wait_event_type = 'Client')
		FROM pg_stat_activity WHERE application_name LIKE 'spock apply %' AND backend_xid IS NOT NULL`
	b.eventually(t, waiting, "1|2")
	require.Equal(t, "9|0", b.text(t, "SELECT count(*) FILTER (WHERE v = 'old'), (SELECT count(*) FROM journal) FROM t"))

	// The first waits for the local transaction, that one for the second's row, and
	// the second for its turn.
	var group sync.WaitGroup
	group.Go(func() {
		_, err := local.Exec(context.WithoutCancel(t.Context()), "UPDATE t SET v = 'local' WHERE id = 2; COMMIT")
		if err != nil {
			t.Errorf("local transaction: %v", err)
		}
	})
	group.Wait()
	settle(t, a, b)
	equal(t, "SELECT id, v FROM t ORDER BY id", a, b)
	require.Equal(t, "new 3|local|new 2", b.text(t, "SELECT concat_ws('|', max(v) FILTER (WHERE id = 1), max(v) FILTER (WHERE id = 2), max(v) FILTER (WHERE id = 3)) FROM t"))
	require.Equal(t, "4|4", b.text(t, "SELECT count(*), count(DISTINCT n) FROM journal"))

	// What is set with the database counts at once, also that there is one session less.
	b.exec(t, "ALTER DATABASE app SET spock.apply_workers = 1")
	b.eventually(t, sessionsBeside, "0")
	a.exec(t, "INSERT INTO journal VALUES (4)")
	settle(t, a, b)
	require.Equal(t, "5|5", b.text(t, "SELECT count(*), count(DISTINCT n) FROM journal"))
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'spk%/%'"))
}

// Whatever is killed while sessions apply side by side: each transaction is
// applied once, and what is there is always the beginning of what was sent.
func TestSeveralSessionsAreKilled(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", map[string]string{"spock.apply_workers": "3", "spock.restart_delay_default": "200"})
	for _, n := range []*node{a, b} {
		n.exec(t, keyed+"CREATE TABLE journal (n serial); SELECT spock.repset_add_table('default_insert_only', 'journal')")
	}
	b.subscribe(t, a, "")
	const rounds, each = 6, 60
	for round := range rounds {
		stopped := round%2 == 1 && round < rounds-1
		if stopped { // what has piled up is written side by side
			b.halt(t)
		}
		for n := range each {
			a.exec(t, fmt.Sprintf("BEGIN; INSERT INTO journal DEFAULT VALUES; INSERT INTO t SELECT i, 'x' FROM generate_series(%d, %[1]d + 19) i; COMMIT", 1000*(each*round+n)))
		}
		switch {
		case round == rounds-1:
			b.server.Stop(t, syscall.SIGKILL)
			b.server.Start(t)
			b.conn = b.server.Connect(t, database)
		case stopped:
			b.start(t)
		default:
			kill(t.Context(), b)
		}
		// No gap: the numbers are those from 1 on.
		require.Equal(t, "t", b.text(t, "SELECT count(*) = coalesce(max(n), 0) AND count(*) = count(DISTINCT n) FROM journal"))
	}
	lsn := a.text(t, "SELECT spock.sync_event()")
	b.eventually(t, "SELECT (max(remote_lsn) >= '"+lsn+"')::text FROM pg_replication_origin_status", "true")
	require.Equal(t, fmt.Sprintf("%d|%[1]d", rounds*each), b.text(t, "SELECT count(*), count(DISTINCT n) FROM journal"))
	equal(t, "SELECT count(*), sum(id) FROM t", a, b)
	require.NotEqual(t, "1", b.text(t, stamped))
}

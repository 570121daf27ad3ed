package multimaster

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// Updates of rows that are gone here without a trace, in the middle of many
// small transactions that are on their way together.
func missInAPipelineOfTransactions(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	a.exec(t, "INSERT INTO t SELECT i, 'start' FROM generate_series(1, 100) i")
	b.follow(t, a)
	b.exec(t, "SET session_replication_role = replica")
	b.exec(t, "DELETE FROM t WHERE id % 7 = 0")
	b.exec(t, "RESET session_replication_role")
	b.stop(t, syscall.SIGTERM)
	for i := 1; i <= 100; i++ {
		a.exec(t, fmt.Sprintf("BEGIN; INSERT INTO journal VALUES ('n1', %[1]d); UPDATE t SET v = 'new', n = %[1]d WHERE id = %[1]d; COMMIT", i))
	}
	b.start(t)
	b.follow(t, a)
	require.Equal(t, "100|100|100", b.text(t, "SELECT count(*), count(DISTINCT number), max(number) FROM journal"))
	equal(t, "SELECT * FROM t ORDER BY id", a, b)
	noExceptions(t, b)
}

// An older change arrives while a local delete of its row is not committed yet.
func olderChangeMeetsOpenDelete(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	a.exec(t, "INSERT INTO t VALUES (1, 'start')")
	settle(t, nodes...)
	b.away(a)
	a.exec(t, "UPDATE t SET v = 'older' WHERE id = 1; INSERT INTO t VALUES (2, 'older')")
	b.exec(t, "INSERT INTO t VALUES (2, 'b')")
	conn := b.server.Connect(t, database)
	_, err := conn.Exec(t.Context(), "BEGIN")
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "DELETE FROM t")
	require.NoError(t, err)
	b.back(a)
	b.eventually(t, "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'spock apply%' AND cardinality(pg_blocking_pids(pid)) > 0", "t", a)
	_, err = conn.Exec(t.Context(), "COMMIT")
	require.NoError(t, err)
	settle(t, nodes...)
	equal(t, "SELECT * FROM t ORDER BY id", nodes...)
	require.Empty(t, b.text(t, "SELECT * FROM t"))
	noExceptions(t, nodes...)
}

// Two streams write one row of a third node all the time.
func twoStreamsOnOneKey(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	var group sync.WaitGroup
	errs := make([]error, 2)
	for i, n := range nodes[:2] {
		group.Go(func() { errs[i] = hammer(t.Context(), n, 150) })
	}
	group.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	settle(t, nodes...)
	equal(t, "SELECT * FROM t", nodes...)
	for _, n := range nodes {
		require.Equal(t, "n1|150|150\nn2|150|150", n.text(t, "SELECT node, count(*), count(DISTINCT number) FROM journal GROUP BY 1 ORDER BY 1"), n.name)
	}
	noExceptions(t, nodes...)
}

// hammer inserts, updates and deletes one row in turn.
func hammer(ctx context.Context, n *node, transactions int) error {
	conn, err := pgx.Connect(ctx, n.server.DSN(database))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for i := 1; i <= transactions; {
		change := fmt.Sprintf("INSERT INTO t VALUES (1, '%s', %d) ON CONFLICT (id) DO UPDATE SET v = excluded.v, n = excluded.n", n.name, i)
		if i%3 == 0 {
			change = "DELETE FROM t"
		}
		_, err := conn.PgConn().Exec(ctx, fmt.Sprintf("BEGIN; INSERT INTO journal VALUES ('%s', %d); %s; COMMIT", n.name, i, change)).ReadAll()
		if err == nil {
			i++
			continue
		}
		// A deadlock with what is applied here.
		if _, rollback := conn.PgConn().Exec(ctx, "ROLLBACK").ReadAll(); rollback != nil {
			return err
		}
	}
	return nil
}

// A node's clock is two seconds ahead: what it wrote waits until this clock has passed it, so that what is written here
// afterwards is later.
func clockTwoSecondsAhead(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	forwarding(t, a, b)
	b.stop(t, syscall.SIGTERM)
	a.forge(t, a.text(t, "SELECT now() + '2 s'::interval"), "INSERT INTO t VALUES (1, 'soon')")
	b.start(t)
	b.eventually(t, "SELECT count(*) FROM t", "1", a)
	b.exec(t, "UPDATE t SET v = 'later'")
	require.Equal(t, "t", a.text(t, fmt.Sprintf("SELECT (pg_xact_commit_timestamp(xmin)) < '%s' FROM t",
		b.text(t, "SELECT pg_xact_commit_timestamp(xmin) FROM t"))), "what was written after a change is later than it")
	settle(t, nodes...)
	equal(t, "SELECT * FROM t", nodes...)
	require.Equal(t, "1|later|0", a.text(t, "SELECT * FROM t"))
}

// A node's clock is an hour ahead: nobody waits for that. Its changes are applied at once, counted, and shown.
func clockOneHourAhead(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	forwarding(t, a, b)
	a.forge(t, a.text(t, "SELECT now() + '1 h'::interval"), "INSERT INTO t VALUES (2, 'in an hour')")
	b.eventually(t, "SELECT count(*) FROM t", "1", a)
	b.eventually(t, "SELECT value > 0 FROM spock.pgdrover_counter WHERE name = 'clock_ahead'", "t")
	status := must(t, "spock", "status", "--dsn", b.server.DSN(database))
	require.Contains(t, status.Stdout, "clock_ahead")
	settle(t, nodes...)
	equal(t, "SELECT * FROM t", nodes...)
}

// A node's clock was set back: its changes are applied in the order in which it made them, and the step is counted.
func clockSteppedBack(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	forwarding(t, a, b)
	a.exec(t, "INSERT INTO t VALUES (1, 'before')")
	a.forge(t, a.text(t, "SELECT now() - '10 min'::interval"), "UPDATE t SET v = 'after'")
	b.follow(t, a)
	require.Equal(t, "1|after|0", b.text(t, "SELECT * FROM t"))
	b.eventually(t, "SELECT value > 0 FROM spock.pgdrover_counter WHERE name = 'clock_stepped_back'", "t")
	status := must(t, "spock", "status", "--dsn", b.server.DSN(database))
	require.Contains(t, status.Stdout, "clock_stepped_back")
	noExceptions(t, nodes...)
}

// Two nodes forward to each other. One of them drops its subscription while the other has not yet read what came through
// it: that is still the other's own work, and does not come back to it.
func forwardingProviderDropsASubscription(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	forwarding(t, a, b)
	a.stop(t, syscall.SIGTERM)
	a.exec(t, "INSERT INTO journal SELECT 'n1', i FROM generate_series(1, 50) i")
	b.follow(t, a)
	b.exec(t, "SELECT spock.sub_drop('sub_n1_n2'); INSERT INTO journal VALUES ('n2', 1)")
	delete(b.subscribed, "n1")
	a.start(t)
	a.follow(t, b)
	require.Equal(t, "n1|50|50\nn2|1|1", a.text(t, "SELECT node, count(*), count(DISTINCT number) FROM journal GROUP BY 1 ORDER BY 1"))
	// The number is free again as soon as nobody is behind it.
	b.eventually(t, "SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'pgdrover_retired%'", "0", a)
	b.subscribe(t, a, ", forward_origins := '{all}'")
	settle(t, nodes...)
	equal(t, "SELECT node, count(*) FROM journal GROUP BY 1 ORDER BY 1", nodes...)
	noExceptions(t, nodes...)
}

package apply

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

const loggedRows = "CREATE TABLE log (v text, n int); SELECT spock.repset_add_table('default_insert_only', 'log');"

// second is another session of the same node.
func (n *node) second(t *testing.T) *node {
	t.Helper()
	return &node{name: n.name, server: n.server, conn: n.server.Connect(t, database)}
}

// What waits for a lock is seen to wait, however large it is: some rows, more than
// a worker keeps of a transaction, more than the sockets hold.
func TestLagWhileBlocked(t *testing.T) {
	t.Parallel()
	for _, rows := range []int{1, 20000, 300000} {
		t.Run(fmt.Sprint(rows), func(t *testing.T) {
			t.Parallel()
			a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
			for _, n := range []*node{a, b} {
				n.exec(t, loggedRows)
			}
			b.subscribe(t, a, "")
			other := b.second(t)
			b.exec(t, "BEGIN; LOCK TABLE log IN ACCESS EXCLUSIVE MODE")
			a.exec(t, fmt.Sprintf("INSERT INTO log SELECT 'big' || g, 1 FROM generate_series(1, %d) g", rows))
			at, from := a.text(t, "SELECT clock_timestamp()"), a.text(t, "SELECT pg_current_wal_insert_lsn()")
			other.blocked(t)
			other.eventually(t, "SELECT replication_lag_bytes > 0 FROM spock.lag_tracker WHERE origin_name = 'n1'", "t")
			// It grows with what comes behind it, and with the time.
			a.exec(t, "CREATE TABLE more AS SELECT repeat('x', 100) FROM generate_series(1, 10000)")
			size := a.text(t, fmt.Sprintf("SELECT pg_current_wal_insert_lsn() - '%s'", from))
			for _, wait := range []time.Duration{3 * time.Second, 6 * time.Second} {
				other.eventually(t, fmt.Sprintf(`SELECT replication_lag_bytes >= %s AND replication_lag >= '%s' AND clock_timestamp() - last_updated_ts < '10 s'
					FROM spock.lag_tracker CROSS JOIN spock.progress WHERE origin_name = 'n1'`, size, wait), "t")
			}
			// It is the age of what waits, no more.
			require.Equal(t, "t", other.text(t, fmt.Sprintf("SELECT commit_timestamp <= '%[1]s' AND commit_timestamp > '%[1]s'::timestamptz - interval '5 min' FROM spock.lag_tracker WHERE origin_name = 'n1'", at)))
			b.exec(t, "COMMIT")
			b.eventually(t, "SELECT count(*) FROM log", fmt.Sprint(rows))
			b.eventually(t, "SELECT replication_lag_bytes FROM spock.lag_tracker WHERE origin_name = 'n1'", "0")
			b.eventually(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgdrover worker sub_n1_n2'", "1")
		})
	}
}

// Local sessions get into the way again and again. What is repeated counts once,
// and so do the conflicts in it.
func TestCountsOnce(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, keyed+"INSERT INTO t SELECT g, 'old' FROM generate_series(1, 100) g")
	}
	b.subscribe(t, a, "")
	b.exec(t, "UPDATE t SET v = 'here' WHERE id <= 10")
	other := b.second(t)
	// The first row waits. Behind it others are written, each of which fails with the one before.
	b.exec(t, "BEGIN; SELECT 1 FROM t WHERE id = 1 FOR UPDATE")
	for i := range 50 {
		a.exec(t, fmt.Sprintf("BEGIN; UPDATE t SET v = 'there' WHERE id = %d; INSERT INTO t VALUES (%d, 'new'); COMMIT", i+1, 1000+i))
	}
	for range 3 {
		other.blocked(t)
		other.exec(t, `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'spock apply%' AND wait_event_type = 'Lock'`)
	}
	b.exec(t, "COMMIT")
	b.eventually(t, "SELECT count(*) FROM t WHERE v = 'new'", "50")
	counts := "SELECT n_tup_ins || ' ' || n_tup_upd FROM spock.channel_summary_stats"
	b.eventually(t, counts, "50 50")
	// Nothing comes after that: what was counted is stored once a second.
	b.exec(t, "SELECT pg_sleep(3)")
	require.Equal(t, "50 50", b.text(t, counts))
}

// A provider is stopped while its subscriber cannot get on. It stops; what it
// could not hand over comes when it is back.
func TestProviderStopsWhileBlocked(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, block, unblock, options string
		rows                          []int
	}{
		{"lock", "BEGIN; LOCK TABLE log IN ACCESS EXCLUSIVE MODE", "COMMIT", "", []int{1, 300000}},
		{"delay", "", "", ", apply_delay := '1 hour'", []int{1}},
		{"standby", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'; SELECT pg_reload_conf()", "ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()", "", []int{1}},
	} {
		for _, rows := range c.rows {
			t.Run(fmt.Sprintf("%s/%d", c.name, rows), func(t *testing.T) {
				t.Parallel()
				a, b := newNode(t, "n1", map[string]string{"wal_sender_timeout": "0"}), newNode(t, "n2", nil)
				for _, n := range []*node{a, b} {
					n.exec(t, loggedRows)
				}
				b.subscribe(t, a, c.options)
				other := b.second(t)
				for s := range strings.SplitSeq(c.block, ";") {
					b.exec(t, s)
				}
				a.exec(t, fmt.Sprintf("INSERT INTO log SELECT 'big' || g, 1 FROM generate_series(1, %d) g", rows))
				slot := a.text(t, "SELECT slot_name FROM pg_replication_slots")
				switch c.name {
				case "lock":
					other.blocked(t)
				case "standby":
					other.eventually(t, "SELECT count(*) FROM log", fmt.Sprint(rows))
				}
				at := a.text(t, "SELECT pg_current_wal_insert_lsn()")
				a.stopEngine()
				a.server.Stop(t, syscall.SIGINT)
				a.server.Start(t)
				a.conn = a.server.Connect(t, database)
				require.Equal(t, "t", a.text(t, fmt.Sprintf("SELECT confirmed_flush_lsn < '%s' FROM pg_replication_slots WHERE slot_name = '%s'", at, slot)),
					"what is not on disk was acknowledged")
				if c.options != "" {
					return
				}
				for s := range strings.SplitSeq(c.unblock, ";") {
					b.exec(t, s)
				}
				b.eventually(t, "SELECT count(*) FROM log", fmt.Sprint(rows))
				a.eventually(t, fmt.Sprintf("SELECT confirmed_flush_lsn >= '%s' FROM pg_replication_slots WHERE slot_name = '%s'", at, slot), "t")
			})
		}
	}
}

// A stream is ended only where the provider takes no sessions and nothing moves.
func TestParting(t *testing.T) {
	t.Parallel()
	down, full := &pgconn.PgError{Code: pgerrcode.CannotConnectNow}, &pgconn.PgError{Code: pgerrcode.TooManyConnections}
	var p parting
	now := time.Now()
	require.False(t, p.refused(down, standing{}, now))
	require.False(t, p.refused(down, standing{}, now.Add(partingPatience-1)))
	require.False(t, p.refused(down, standing{unanswered: 1}, now.Add(partingPatience)), "a statement was sent or answered")
	require.False(t, p.refused(full, standing{unanswered: 1}, now.Add(3*partingPatience)), "it may be up")
	require.False(t, p.refused(down, standing{unanswered: 1}, now.Add(3*partingPatience)))
	require.True(t, p.refused(down, standing{unanswered: 1}, now.Add(4*partingPatience)))
}

// An engine that is asked to stop does, though the server takes nothing from it.
func TestStopsWhileBlocked(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, loggedRows)
	}
	b.subscribe(t, a, "")
	other := b.second(t)
	b.exec(t, "BEGIN; LOCK TABLE log IN ACCESS EXCLUSIVE MODE")
	// More than is taken by the sockets on the way, each of which a kernel may let grow to 32 MB.
	a.exec(t, "INSERT INTO log SELECT repeat('x', 100), 1 FROM generate_series(1, 800000) g")
	other.blocked(t)
	a.eventually(t, "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'walsender'", "WalSenderWriteData")
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		b.stopEngine()
	}()
	select {
	case <-stopped:
	case <-time.After(patience):
		t.Error("the engine does not stop")
	}
	b.exec(t, "COMMIT")
	<-stopped
}

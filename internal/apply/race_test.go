package apply

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// pairOf makes two nodes that subscribe to each other, with the same tables.
func pairOf(t *testing.T, schema, options string, settings map[string]string) (a, b *node) {
	t.Helper()
	a, b = newNode(t, "n1", settings), newNode(t, "n2", settings)
	for _, n := range []*node{a, b} {
		n.exec(t, schema)
	}
	b.subscribe(t, a, options)
	a.subscribe(t, b, options)
	return a, b
}

const keyed = "CREATE TABLE t (id int PRIMARY KEY, v text); SELECT spock.repset_add_table('default', 't');"

// A provider that is stopped waits until it hears that nothing is left to do,
// here for ever: nothing but the engine's own answer can end it.
func TestProviderStops(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", map[string]string{"wal_sender_timeout": "0"}), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, keyed)
	}
	b.subscribe(t, a, "")
	a.exec(t, "CREATE TABLE other AS SELECT generate_series(1, 1000)")
	a.stopEngine()
	a.server.Stop(t, syscall.SIGINT)
}

// The statement of one transaction finds nothing while the next ones are on
// their way: each takes effect once.
func TestMissWhileMoreIsOnItsWay(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, keyed+"CREATE TABLE log (n int); SELECT spock.repset_add_table('default_insert_only', 'log')", "", nil)
	a.exec(t, "INSERT INTO t SELECT i, 'a' FROM generate_series(1, 50) i")
	settle(t, a, b)
	a.halt(t)
	b.halt(t)
	for i := range 50 {
		a.exec(t, fmt.Sprintf("BEGIN; UPDATE t SET v = 'late' WHERE id = %d; INSERT INTO log VALUES (%d); COMMIT", i+1, i))
	}
	b.exec(t, "DELETE FROM t WHERE id % 3 = 0")
	a.start(t)
	b.start(t)
	settle(t, a, b)
	equal(t, "SELECT * FROM t ORDER BY id", a, b)
	require.Equal(t, "34", a.text(t, "SELECT count(*) FROM t"))
	equal(t, "SELECT n, count(*) FROM log GROUP BY n ORDER BY n", a, b)
	require.Equal(t, "50|50", b.text(t, "SELECT count(*), count(DISTINCT n) FROM log"))
}

// blocked waits until a session that applies waits for a lock.
func (n *node) blocked(t *testing.T) {
	t.Helper()
	n.eventually(t, "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'spock apply%' AND wait_event_type = 'Lock'", "t")
}

// An insert arrives that is older than a local delete which has not committed
// yet: the row must not come back.
func TestOlderInsertMeetsRunningDelete(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, keyed, "", nil)
	a.halt(t)
	b.exec(t, "INSERT INTO t VALUES (1, 'b')")
	b.exec(t, "BEGIN; DELETE FROM t WHERE id = 1")
	a.exec(t, "INSERT INTO t VALUES (1, 'a')")
	other := &node{name: "n2", server: b.server, conn: b.server.Connect(t, database)}
	other.blocked(t)
	b.exec(t, "COMMIT")
	a.start(t)
	settle(t, a, b)
	equal(t, "SELECT * FROM t", a, b)
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM t"))
}

// A delete of one stream, not yet committed, and an older insert of the same key
// in another: neither sees the other's work, so they must not meet.
func TestTwoStreamsOneKey(t *testing.T) {
	t.Parallel()
	a, b, c := newNode(t, "n1", nil), newNode(t, "n2", nil), newNode(t, "n3", nil)
	for _, n := range []*node{a, b, c} {
		n.exec(t, keyed+"CREATE TABLE gate (id int PRIMARY KEY); SELECT spock.repset_add_table('default', 'gate')")
	}
	b.subscribe(t, a, "")
	c.subscribe(t, a, "")
	c.subscribe(t, b, "")
	c.exec(t, "SELECT spock.sub_disable('sub_n1_n3')")
	c.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n1_n3')", "disabled")
	a.exec(t, "INSERT INTO t VALUES (1, 'a')")
	b.eventually(t, "SELECT count(*) FROM t", "1")
	other := &node{name: "n3", server: c.server, conn: c.server.Connect(t, database)}
	other.exec(t, "BEGIN; INSERT INTO gate VALUES (1)")
	b.exec(t, "BEGIN; DELETE FROM t WHERE id = 1; INSERT INTO gate VALUES (1); COMMIT")
	c.blocked(t)
	c.exec(t, "SELECT spock.sub_enable('sub_n1_n3')")
	c.eventually(t, "SELECT state FROM spock.pgdrover_subscription p JOIN spock.subscription USING (sub_id) WHERE sub_name = 'sub_n1_n3'", "streaming")
	other.exec(t, "COMMIT")
	for _, provider := range []*node{a, b} {
		lsn := provider.text(t, "SELECT spock.sync_event()")
		c.eventually(t, fmt.Sprintf(`SELECT (pg_replication_origin_progress((SELECT sub_slot_name FROM spock.subscription
			WHERE sub_name = 'sub_%s_n3'), false) >= '%s')::text`, provider.name, lsn), "true")
	}
	require.Equal(t, "0", c.text(t, "SELECT count(*) FROM t"))
}

// forge commits with a chosen time. It takes an origin, which stands for the
// node itself; what has one is sent where it is forwarded.
func (n *node) forge(t *testing.T, at, sql string) {
	t.Helper()
	n.exec(t, `INSERT INTO spock.pgdrover_origin (roident, roname, node_id)
		SELECT pg_replication_origin_create('forged'), 'forged', node_id FROM spock.local_node
		WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = 'forged')`)
	n.exec(t, fmt.Sprintf("SELECT pg_replication_origin_session_setup('forged'); BEGIN; SELECT pg_replication_origin_xact_setup('0/1', %s); "+
		"%s; COMMIT; SELECT pg_replication_origin_session_reset()", at, sql))
}

const forwarded = ", forward_origins := '{all}'"

// Equal commit times of two nodes: both choose the same one.
func TestEqualStamps(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, keyed, forwarded, nil)
	for _, n := range []*node{a, b} {
		n.halt(t)
		n.forge(t, "'2020-01-01'", "INSERT INTO t SELECT i, '"+n.name+"' FROM generate_series(1, 3) i")
	}
	a.start(t)
	b.start(t)
	settle(t, a, b)
	equal(t, "SELECT * FROM t ORDER BY id", a, b)
	winner := a.text(t, "SELECT v FROM t WHERE id = 1")
	require.Equal(t, a.text(t, "SELECT node_name FROM spock.node ORDER BY node_id LIMIT 1"), winner, "the smaller number wins")
	require.Equal(t, "3", a.text(t, "SELECT count(*) FROM t WHERE v = '"+winner+"'"))
}

// A node's clock is ahead. What it wrote is held back until this server's clock
// has passed it, so that a later write here counts as later everywhere; when it
// is too far ahead it is applied at once, and that is said.
func TestClockAhead(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, keyed, forwarded, nil)
	a.forge(t, "now() + interval '2 s'", "INSERT INTO t VALUES (1, 'a')")
	b.eventually(t, "SELECT count(*) FROM t", "1")
	b.exec(t, "UPDATE t SET v = 'b saw it'")
	settle(t, a, b)
	equal(t, "SELECT * FROM t", a, b)
	require.Equal(t, "b saw it", a.text(t, "SELECT v FROM t"))
	require.Empty(t, b.text(t, "SELECT value FROM spock.pgdrover_counter WHERE name = 'clock_ahead'"))

	a.forge(t, "now() + interval '1 h'", "INSERT INTO t VALUES (2, 'a')")
	b.eventually(t, "SELECT count(*) FROM t", "2")
	b.eventually(t, "SELECT value > 0 FROM spock.pgdrover_counter WHERE name = 'clock_ahead'", "t")
}

// backup copies a stopped server's directory; restore puts it back.
func backup(t *testing.T, n *node) (restore func()) {
	t.Helper()
	kept := filepath.Join(t.TempDir(), "backup")
	run := func(args ...string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	n.server.Stop(t, syscall.SIGINT)
	run("cp", "-a", n.server.Dir, kept)
	n.server.Start(t)
	n.conn = n.server.Connect(t, database)
	return func() {
		n.server.Stop(t, syscall.SIGINT)
		run("rm", "-rf", n.server.Dir)
		run("cp", "-a", kept, n.server.Dir)
		n.server.Start(t)
		n.conn = n.server.Connect(t, database)
	}
}

// A server that came back as it was some time ago lacks what was acknowledged:
// the stream is refused, on either side, until somebody decides.
func TestRestoredFromBackup(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"provider", "subscriber"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
			for _, n := range []*node{a, b} {
				n.exec(t, keyed)
			}
			b.subscribe(t, a, "")
			a.exec(t, "INSERT INTO t VALUES (1, 'a')")
			b.eventually(t, "SELECT count(*) FROM t", "1")
			back := a
			if who == "subscriber" {
				back = b
			}
			restore := backup(t, back)
			a.exec(t, "INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(2, 1000) i")
			b.eventually(t, "SELECT count(*) FROM t", "1000")
			// What was applied is acknowledged by now.
			lsn := a.text(t, "SELECT pg_current_wal_lsn()")
			a.exec(t, "INSERT INTO t VALUES (1001, 'a')")
			a.eventually(t, fmt.Sprintf("SELECT bool_and(confirmed_flush_lsn > '%s') FROM pg_replication_slots", lsn), "t")
			restore()
			b.eventually(t, "SELECT state FROM spock.pgdrover_subscription", "refused")
			want := "it was restored from a backup"
			if who == "subscriber" {
				want = "it has lost transactions that it had acknowledged"
			}
			require.Contains(t, b.text(t, "SELECT last_error FROM spock.pgdrover_subscription"), want)
			a.exec(t, "INSERT INTO t VALUES (2000, 'after')")
			require.Equal(t, "0", b.text(t, "SELECT count(*) FROM t WHERE id = 2000"))
		})
	}
}

// Columns whose names we use ourselves, and one that takes values only from an
// insert.
func TestAwkwardColumns(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, `CREATE TABLE odd (k int PRIMARY KEY, v int UNIQUE, w text, s text, d text, o text, x text, t text);
		CREATE TABLE rich (id text PRIMARY KEY, v text, serial int GENERATED ALWAYS AS IDENTITY);
		CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
		CREATE TABLE alike (k numeric PRIMARY KEY, v text); CREATE TABLE folded (k text COLLATE any_case PRIMARY KEY, v text);
		CREATE TABLE mail (id int PRIMARY KEY, "At" text COLLATE "C", host text, low text GENERATED ALWAYS AS (lower(host)) STORED UNIQUE, j jsonb);
		CREATE UNIQUE INDEX ON mail (lower("At")); CREATE UNIQUE INDEX ON mail ((j->>'k'), coalesce(j->>'l', '-')) WHERE j->>'w' = 'yes';
		SELECT spock.repset_add_table('default', c) FROM unnest('{odd,rich,alike,folded,mail}'::regclass[]) c`, "",
		map[string]string{"spock.save_resolutions": "on", "spock.save_remote_wins": "on"})
	a.halt(t)
	b.halt(t)
	a.exec(t, "SELECT setval('rich_serial_seq', 100)")
	for _, n := range []*node{a, b} {
		n.exec(t, fmt.Sprintf(`INSERT INTO rich (id, v) VALUES ('x', '%[1]s'), ('y', '%[1]s'), ('z', '%[1]s');
			INSERT INTO odd VALUES (1, 1, '%[1]s'), (2, 20, '%[1]s'); UPDATE odd SET s = w WHERE k = 1; DELETE FROM odd WHERE k = 2`, n.name))
	}
	a.exec(t, "UPDATE rich SET v = 'a again' WHERE id = 'y'")
	b.exec(t, "UPDATE rich SET v = 'b again' WHERE id = 'z'; INSERT INTO odd VALUES (2, 21, 'b')")
	// What is unique is computed.
	a.exec(t, `INSERT INTO mail (id, "At", host, j) VALUES (1, 'One', 'n1', NULL), (2, 'n1', 'Two', NULL), (3, 'n1-3', '3', '{"k": 1, "w": "yes"}'), (4, 'n1-4', '4', '{"k": 2}'), (5, 'n1-5', '5', NULL)`)
	b.exec(t, `INSERT INTO mail (id, "At", host, j) VALUES (11, 'oNE', 'n2', NULL), (12, 'n2', 'tWO', NULL), (13, 'n2-3', '13', '{"k": 1, "w": "yes"}'), (14, 'n2-4', '14', '{"k": 2, "w": "yes"}'), (15, 'n2-5', '15', NULL)`)
	a.exec(t, "UPDATE mail SET \"At\" = 'Five' WHERE id = 5")
	b.exec(t, "UPDATE mail SET \"At\" = 'five' WHERE id = 15")
	a.start(t)
	b.start(t)
	settle(t, a, b)
	equal(t, "SELECT * FROM mail ORDER BY id", a, b)
	require.Equal(t, "4,11,12,13,14,15", a.text(t, "SELECT string_agg(id::text, ',' ORDER BY id) FROM mail"))
	equal(t, "SELECT * FROM rich ORDER BY id", a, b)
	equal(t, "SELECT * FROM odd ORDER BY k", a, b)
	// The same key, written in another way.
	a.exec(t, "INSERT INTO alike VALUES (1.0, 'one'), (2.0, 'two'); INSERT INTO folded VALUES ('a', 'one')")
	settle(t, a, b)
	b.exec(t, "BEGIN; SELECT spock.repair_mode(true); DELETE FROM alike WHERE k = 2; COMMIT")
	a.exec(t, "UPDATE alike SET k = k * 1.00; UPDATE folded SET k = 'A'")
	settle(t, a, b)
	b.exec(t, "UPDATE alike SET v = 'later' WHERE k = 1; UPDATE folded SET v = 'later'")
	settle(t, a, b)
	a.halt(t)
	b.halt(t)
	a.exec(t, "UPDATE alike SET k = 2 WHERE k = 2")
	b.exec(t, "UPDATE alike SET v = 'zwei' WHERE k = 2")
	a.start(t)
	b.start(t)
	settle(t, a, b)
	for _, n := range []*node{a, b} {
		require.Equal(t, "1.000|later\n2.000|zwei", n.text(t, "SELECT * FROM alike ORDER BY k"), n.name)
		require.Equal(t, "A|later", n.text(t, "SELECT * FROM folded"), n.name)
	}
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM spock.exception_log"), b.text(t, "SELECT error_message FROM spock.exception_log LIMIT 1"))
}

// The checker is worth something: with the look for tombstones or the tie rule
// taken away, or a transaction lost at a border, it complains.
func TestCheckerNotices(t *testing.T) {
	t.Parallel()
	t.Run("tombstones", func(t *testing.T) {
		t.Parallel()
		a, b := pairOf(t, keyed, "", nil)
		a.halt(t)
		b.halt(t)
		a.exec(t, "INSERT INTO t VALUES (1, 'a')")
		b.exec(t, "INSERT INTO t VALUES (1, 'b'); DELETE FROM t; DELETE FROM spock.pgdrover_tombstone")
		b.start(t)
		b.eventually(t, "SELECT count(*) FROM t", "1")
		a.start(t)
		settle(t, a, b)
		require.NotEmpty(t, differing(t, "SELECT * FROM t", a, b))
	})
	t.Run("ties", func(t *testing.T) {
		t.Parallel()
		a, b := pairOf(t, keyed, forwarded, nil)
		for _, n := range []*node{a, b} {
			n.halt(t)
			n.forge(t, "'2020-01-01'", "INSERT INTO t VALUES (1, '"+n.name+"')")
			// Each prefers itself.
			n.exec(t, "UPDATE spock.node SET info = CASE WHEN node_id = (SELECT node_id FROM spock.local_node) THEN '{\"tiebreaker\": 1}' ELSE '{\"tiebreaker\": 2}' END::jsonb")
		}
		a.start(t)
		b.start(t)
		settle(t, a, b)
		require.NotEmpty(t, differing(t, "SELECT * FROM t", a, b))
	})
	t.Run("borders", func(t *testing.T) {
		t.Parallel()
		a, b := pairOf(t, keyed, "", nil)
		b.halt(t)
		a.exec(t, "INSERT INTO t VALUES (1, 'a')")
		// Not where the transaction ends, since a position that an abort has left would be recognised.
		lsn := a.text(t, "SELECT pg_logical_emit_message(false, 'test', 'behind the first')")
		a.exec(t, "INSERT INTO t VALUES (2, 'a')")
		// As if the second had moved the origin, and the first had not committed.
		b.exec(t, fmt.Sprintf("SELECT pg_replication_origin_advance(sub_slot_name, '%s') FROM spock.subscription", lsn))
		b.start(t)
		settle(t, a, b)
		require.NotEmpty(t, differing(t, "SELECT * FROM t ORDER BY id", a, b))
	})
}

package multimaster

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

const oneTable = `CREATE TABLE t (id int PRIMARY KEY, v text, n int DEFAULT 0); SELECT spock.repset_add_table('default', 't');
	CREATE TABLE journal (node text, number int); SELECT spock.repset_add_table('default_insert_only', 'journal')`

// away cuts a node off from what a provider sends; back lets it through again.
func (n *node) away(provider *node) { provider.links[n.name].Cut() }
func (n *node) back(provider *node) { provider.links[n.name].Restore() }

// forge commits statements of a given time as this node's own work. Only a
// transaction under an origin takes any stamp, so the nodes must forward.
func (n *node) forge(t testing.TB, at, sql string) {
	t.Helper()
	n.exec(t, `SELECT pg_replication_origin_create('forged') WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = 'forged')`)
	n.exec(t, `INSERT INTO spock.pgdrover_origin (roident, roname, node_id, worker)
		SELECT roident, roname, (SELECT node_id FROM spock.local_node), 0 FROM pg_replication_origin WHERE roname = 'forged' ON CONFLICT DO NOTHING`)
	n.exec(t, "SELECT pg_replication_origin_session_setup('forged')")
	n.exec(t, fmt.Sprintf("BEGIN; SELECT pg_replication_origin_xact_setup('0/0', '%s'); %s; COMMIT", at, sql))
	n.exec(t, "SELECT pg_replication_origin_session_reset()")
}

// forwarding makes two nodes send on what they did under an origin.
func forwarding(t testing.TB, a, b *node) {
	t.Helper()
	for _, x := range [][2]*node{{a, b}, {b, a}} {
		name := subscription(x[0], x[1])
		if x[1].text(t, fmt.Sprintf("SELECT sub_forward_origins IS NULL FROM spock.subscription WHERE sub_name = '%s'", name)) == "t" {
			x[1].exec(t, fmt.Sprintf("SELECT spock.sub_drop('%s')", name))
			x[1].subscribe(t, x[0], ", forward_origins := '{all}'")
		}
	}
}

// step is a test that takes its turn on nodes that others have used.
type step struct {
	name string
	run  func(t *testing.T, nodes []*node)
}

func inTurn(t *testing.T, nodes []*node, steps []step) {
	t.Helper()
	for _, s := range steps {
		if !t.Run(s.name, func(t *testing.T) { s.run(t, nodes) }) {
			return // the nodes are not what the next one expects
		}
	}
}

func TestThreeNodes(t *testing.T) {
	t.Parallel()
	inTurn(t, meshOfCopies(t, 3, recording()), []step{
		{"Check03UpdateArrivesBeforeItsInsert", check03UpdateArrivesBeforeItsInsert},
		{"Check04DeleteAgainstUpdate", check04DeleteAgainstUpdate},
		{"Check06KeyChangeAgainstUpdate", check06KeyChangeAgainstUpdate},
		{"Check07UnchangedToastOfMissingRow", check07UnchangedToastOfMissingRow},
		{"Check09OriginDroppedWhileItIsRead", check09OriginDroppedWhileItIsRead},
		{"TwoStreamsOnOneKey", twoStreamsOnOneKey},
		{"EveryLostWriteIsRecorded", everyLostWriteIsRecorded},
		{"AuthorHasAnOlderRow", authorHasAnOlderRow},
		{"ResyncGoesByTheOrderOfStamps", resyncGoesByTheOrderOfStamps},
		{"ResyncWaitsForWhatOnlyTheSubscriberHad", resyncWaitsForWhatOnlyTheSubscriberHad},
		{"CopyIntoTablesWithRows", copyIntoTablesWithRows},
		{"CheckerNoticesMissingTombstones", checkerNoticesMissingTombstones},
	})
}

func TestTwoNodes(t *testing.T) {
	t.Parallel()
	settings := recording()
	settings["max_wal_size"], settings["wal_sender_timeout"], settings["logical_decoding_work_mem"] = "4GB", "30s", "1MB"
	settings["spock.restart_delay_default"] = "100"
	inTurn(t, mesh(t, 2, "", settings), []step{
		{"Check08KeyDroppedUnderLoad", check08KeyDroppedUnderLoad},
		{"Check10AbortAtEachStatement", check10AbortAtEachStatement},
		{"Check13SyncEventOnIdleNode", check13SyncEventOnIdleNode},
		{"MissInAPipelineOfTransactions", missInAPipelineOfTransactions},
		{"OlderChangeMeetsOpenDelete", olderChangeMeetsOpenDelete},
		{"CheckerNoticesALostTransaction", checkerNoticesALostTransaction},
		{"Check02EqualCommitTimes", check02EqualCommitTimes},
		{"CheckerNoticesAnotherTieRule", checkerNoticesAnotherTieRule},
		{"ClockTwoSecondsAhead", clockTwoSecondsAhead},
		{"ClockOneHourAhead", clockOneHourAhead},
		{"ClockSteppedBack", clockSteppedBack},
		{"ForwardingProviderDropsASubscription", forwardingProviderDropsASubscription},
		// Last: on 15 all of it also goes back to where it came from.
		{"Check15MillionRows", check15MillionRows},
	})
}

// Equal commit times from two nodes: both choose the same winner.
func check02EqualCommitTimes(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	tie(t, nodes)
	equal(t, "SELECT * FROM t", nodes...)
	// The smaller number wins, and n2's is the smaller one.
	require.Equal(t, "1|n2|0", nodes[0].text(t, "SELECT * FROM t"))
	noExceptions(t, nodes...)
}

// tie writes one key on both nodes at the same microsecond.
func tie(t *testing.T, nodes []*node) {
	t.Helper()
	forwarding(t, nodes[0], nodes[1])
	for _, n := range nodes {
		n.stop(t, syscall.SIGTERM)
	}
	for _, n := range nodes {
		n.forge(t, "2026-01-02 03:04:05.678901+00", fmt.Sprintf("INSERT INTO t VALUES (1, '%s')", n.name))
	}
	for _, n := range nodes {
		n.start(t)
	}
	settle(t, nodes...)
}

// An insert on A, an update on B before C has seen the insert: C ends equal.
func check03UpdateArrivesBeforeItsInsert(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b, c := nodes[0], nodes[1], nodes[2]
	c.away(a)
	a.exec(t, "INSERT INTO t VALUES (1, 'a')")
	b.follow(t, a)
	b.exec(t, "UPDATE t SET v = 'b' WHERE id = 1")
	c.follow(t, b)
	require.Equal(t, "1|b|0", c.text(t, "SELECT * FROM t"))
	c.back(a)
	settle(t, nodes...)
	equal(t, "SELECT * FROM t", nodes...)
	require.Equal(t, "1|b|0", c.text(t, "SELECT * FROM t"))
	noExceptions(t, nodes...)
}

// A delete on A against a newer and against an older update on B, in both
// orders of arrival at C, with C's engine killed between the two.
func check04DeleteAgainstUpdate(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b, c := nodes[0], nodes[1], nodes[2]
	a.exec(t, "INSERT INTO t SELECT i, 'start' FROM generate_series(1, 4) i")
	settle(t, nodes...)
	for id := 1; id <= 4; id++ {
		deleteFirst, deleteArrivesFirst := id <= 2, id%2 == 1
		for _, pair := range [][2]*node{{a, b}, {b, a}, {c, a}, {c, b}} {
			pair[0].away(pair[1])
		}
		change := []func(){
			func() { a.exec(t, fmt.Sprintf("DELETE FROM t WHERE id = %d", id)) },
			func() { b.exec(t, fmt.Sprintf("UPDATE t SET v = 'later' WHERE id = %d", id)) },
		}
		if !deleteFirst {
			change[0], change[1] = change[1], change[0]
		}
		change[0]()
		change[1]()
		first, second := a, b
		if !deleteArrivesFirst {
			first, second = b, a
		}
		c.back(first)
		c.follow(t, first)
		c.stop(t, syscall.SIGKILL)
		c.start(t)
		c.back(second)
		a.back(b)
		b.back(a)
		settle(t, nodes...)
		equal(t, "SELECT * FROM t ORDER BY id", nodes...)
		want := "0"
		if deleteFirst {
			want = "1"
		}
		require.Equal(t, want, c.text(t, fmt.Sprintf("SELECT count(*) FROM t WHERE id = %d", id)), "key %d", id)
	}
	noExceptions(t, nodes...)
}

// A key that is changed on A, while B updates the row under its old key.
func check06KeyChangeAgainstUpdate(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	a.exec(t, "INSERT INTO t VALUES (1, 'start'), (2, 'start')")
	settle(t, nodes...)
	a.away(b)
	b.away(a)
	a.exec(t, "UPDATE t SET id = 11 WHERE id = 1")
	b.exec(t, "UPDATE t SET v = 'b' WHERE id = 1; UPDATE t SET v = 'b' WHERE id = 2")
	a.exec(t, "UPDATE t SET id = 12 WHERE id = 2")
	a.back(b)
	b.back(a)
	settle(t, nodes...)
	equal(t, "SELECT * FROM t ORDER BY id", nodes...)
	// The update of the old key was later than the first change of a key, and earlier than the second.
	require.Equal(t, "1|b|0\n11|start|0\n12|start|0", a.text(t, "SELECT * FROM t ORDER BY id"))
	noExceptions(t, nodes...)
}

// An update that leaves a large value out reaches a node that has not seen the row yet.
func check07UnchangedToastOfMissingRow(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, `CREATE TABLE t (id int PRIMARY KEY, n int, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
		SELECT spock.repset_add_table('default', 't')`, nodes...)
	a, b, c := nodes[0], nodes[1], nodes[2]
	c.away(a)
	a.exec(t, "INSERT INTO t VALUES (1, 1, repeat('a', 5000)), (2, 1, repeat('a', 5000)), (3, 1, repeat('a', 5000))")
	b.follow(t, a)
	b.exec(t, "UPDATE t SET n = 2")
	b.exec(t, "DELETE FROM t WHERE id = 2; UPDATE t SET big = repeat('b', 5000) WHERE id = 3")
	c.follow(t, b)
	require.Equal(t, "1|2|a|5000\n3|2|b|5000", c.text(t, "SELECT id, n, left(big, 1), length(big) FROM t ORDER BY id"))
	c.back(a)
	settle(t, nodes...)
	equal(t, "SELECT id, n, md5(big) FROM t ORDER BY id", nodes...)
	noExceptions(t, nodes...)
}

// A node asks a row's author for values that may not have come along. The author
// has emptied the table meanwhile, to copy it again, and holds an older row for
// the time being: that is not the one.
func authorHasAnOlderRow(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, "CREATE TABLE t (id int PRIMARY KEY, n int, big text); SELECT spock.repset_add_table('default', 't')", nodes...)
	a, b, c := nodes[0], nodes[1], nodes[2]
	a.exec(t, "INSERT INTO t VALUES (1, 1, 'first'), (2, 1, 'first')")
	settle(t, nodes...)
	a.away(c)
	c.exec(t, "UPDATE t SET n = 2, big = 'older'")
	b.follow(t, c)
	b.exec(t, "UPDATE t SET n = 3, big = 'newest'")
	a.follow(t, b)
	b.forge(t, "2020-01-01", "UPDATE t SET n = 1, big = 'first' WHERE id = 1")
	a.back(c)
	a.follow(t, c)
	require.Equal(t, "1|3|newest\n2|3|newest", a.text(t, "SELECT * FROM t ORDER BY id"))
	require.Equal(t, "1|1|first\n2|3|newest", b.text(t, "SELECT * FROM t ORDER BY id"))
	noExceptions(t, nodes...)
}

// The key of a table goes and comes back under load: no UPDATE of an
// application ever fails because of how the table is published.
func check08KeyDroppedUnderLoad(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	a.exec(t, "INSERT INTO t SELECT i, 'v' FROM generate_series(1, 20) i")
	settle(t, nodes...)
	ctx, cancel := context.WithCancel(t.Context())
	updates, failed := 0, make(chan error, 1)
	go func() {
		conn, err := pgx.Connect(ctx, a.server.DSN(database))
		for ; err == nil && ctx.Err() == nil; updates++ {
			_, err = conn.PgConn().Exec(context.WithoutCancel(ctx), fmt.Sprintf("UPDATE t SET n = n + 1 WHERE id = %d", 1+updates%20)).ReadAll()
		}
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
		failed <- err
	}()
	for range 5 {
		a.exec(t, "ALTER TABLE t DROP CONSTRAINT t_pkey")
		pause(ctx, 100*time.Millisecond)
		a.exec(t, "ALTER TABLE t ADD PRIMARY KEY (id)")
		pause(ctx, 100*time.Millisecond)
	}
	cancel()
	require.NoError(t, <-failed, "after %d updates", updates)
	// The stream goes on, and a table that joins its set again is replicated again.
	a.exec(t, `DO $do$ BEGIN IF NOT EXISTS (SELECT FROM spock.tables WHERE relname = 't' AND set_name = 'default') THEN
		PERFORM spock.repset_add_table('default', 't'); END IF; END $do$`)
	b.follow(t, a)
	b.exec(t, "SELECT spock.sub_resync_table('sub_n1_n2', 't')")
	b.eventually(t, "SELECT status FROM spock.sub_show_table('sub_n1_n2', 't')", "replicating", a)
	a.exec(t, "UPDATE t SET v = 'end'")
	settle(t, nodes...)
	equal(t, "SELECT * FROM t ORDER BY id", nodes...)
}

// A subscription goes and comes back while another node has not yet read what
// was applied under its origin: nothing is taken for local work and sent on.
func check09OriginDroppedWhileItIsRead(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b, c := nodes[0], nodes[1], nodes[2]
	c.stop(t, syscall.SIGTERM)
	a.exec(t, "INSERT INTO journal SELECT 'a', i FROM generate_series(1, 50) i; INSERT INTO t VALUES (1, 'a')")
	b.follow(t, a)
	b.exec(t, "SELECT spock.sub_drop('sub_n1_n2')")
	b.exec(t, "INSERT INTO journal VALUES ('b', 1)")
	delete(b.subscribed, "n1")
	b.subscribe(t, a, "")
	a.exec(t, "INSERT INTO journal VALUES ('a', 51); UPDATE t SET v = 'again'")
	b.follow(t, a)
	c.start(t)
	settle(t, nodes...)
	for _, n := range nodes {
		require.Equal(t, "52|52", n.text(t, "SELECT count(*), count(DISTINCT (node, number)) FROM journal"), "journal of %s", n.name)
	}
	equal(t, "SELECT * FROM t", nodes...)
	noExceptions(t, nodes...)
}

// The applying session dies at each statement of a transaction in turn: the
// origin is never ahead of the data.
func check10AbortAtEachStatement(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	// The third of these sessions ends at the statement that the counter names;
	// a sequence does not go back with the transaction, so it happens once.
	b.exec(t, `CREATE SEQUENCE strikes;
		CREATE TABLE fatal (at int);
		INSERT INTO fatal VALUES (0);
		CREATE FUNCTION strike() RETURNS trigger LANGUAGE plpgsql AS $f$
		BEGIN
			IF nextval('public.strikes') = (SELECT at FROM public.fatal) THEN
				PERFORM pg_terminate_backend(pg_backend_pid());
			END IF;
			RETURN NEW;
		END $f$;
		CREATE TRIGGER strike BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION strike();
		ALTER TABLE t ENABLE ALWAYS TRIGGER strike;
		CREATE TRIGGER strike BEFORE INSERT ON journal FOR EACH ROW EXECUTE FUNCTION strike();
		ALTER TABLE journal ENABLE ALWAYS TRIGGER strike`)
	for k := 1; k <= 6; k++ {
		b.exec(t, fmt.Sprintf("UPDATE fatal SET at = %d; SELECT setval('strikes', 1, false)", k))
		a.exec(t, fmt.Sprintf(`BEGIN; INSERT INTO journal VALUES ('a', %[1]d); INSERT INTO t VALUES (%[1]d, 'new'); UPDATE t SET v = 'one' WHERE id = %[1]d;
			INSERT INTO journal VALUES ('b', %[1]d); UPDATE t SET v = 'two' WHERE id = %[1]d; COMMIT; INSERT INTO journal VALUES ('c', %[1]d)`, k))
		b.follow(t, a)
		require.Equal(t, fmt.Sprintf("%d|%d", 3*k, 3*k), b.text(t, "SELECT count(*), count(DISTINCT (node, number)) FROM journal"), "ended at statement %d", k)
		equal(t, "SELECT * FROM t ORDER BY id", a, b)
	}
	noExceptions(t, b)
}

// A transaction with DDL in the middle cannot be applied: all of it is left
// out, all of it is on record, and the stream goes on.
func check11TransdiscardWithDDL(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, "", nodes...)
	a, b := nodes[0], nodes[1]
	a.exec(t, "CREATE TABLE t (id int PRIMARY KEY, v int)")
	b.follow(t, a)
	b.exec(t, "BEGIN; SELECT spock.repair_mode(true); ALTER TABLE t ADD CHECK (v < 100); COMMIT")
	// One statement at a time, as psql sends them.
	for _, sql := range []string{"BEGIN", "INSERT INTO t VALUES (1, 1)", "ALTER TABLE t ADD COLUMN w int", "INSERT INTO t VALUES (2, 200, 2)", "COMMIT"} {
		a.exec(t, sql)
	}
	b.follow(t, a)
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM t"))
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'w'"))
	require.Equal(t, "INSERT\nDDL\nINSERT", b.text(t, "SELECT operation FROM spock.exception_log ORDER BY command_counter"))
	require.Contains(t, b.text(t, "SELECT ddl_statement FROM spock.exception_log WHERE operation = 'DDL'"), "ADD COLUMN w int")
	require.Contains(t, b.text(t, "SELECT error_message FROM spock.exception_log ORDER BY command_counter DESC LIMIT 1"), "violates check constraint")
	// The operator mends it by hand, without telling anybody.
	b.exec(t, "BEGIN; SELECT spock.repair_mode(true); ALTER TABLE t DROP CONSTRAINT t_v_check, ADD COLUMN w int; INSERT INTO t VALUES (1, 1, NULL), (2, 200, 2); COMMIT")
	a.exec(t, "UPDATE t SET w = 3 WHERE id = 2; INSERT INTO t VALUES (3, 300, 3)")
	b.follow(t, a)
	equal(t, "SELECT * FROM t ORDER BY id", a, b)
}

// A sync event on an idle node is at the other side without anybody writing.
func check13SyncEventOnIdleNode(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	for range 3 {
		lsn := a.text(t, "SELECT spock.sync_event()")
		began := time.Now()
		require.Equal(t, "t", b.text(t, fmt.Sprintf("CALL spock.wait_for_sync_event(NULL, 'n1', '%s', %d)", lsn, int(2*stillness.Seconds()))))
		t.Logf("a sync event took %s", time.Since(began).Round(time.Millisecond))
	}
	// One in a transaction counts with it, and one in a transaction that rolls back is gone.
	lsn := a.text(t, "BEGIN; INSERT INTO t VALUES (1, 'one'); SELECT spock.sync_event(true)")
	a.exec(t, "COMMIT")
	require.Equal(t, "t", b.text(t, fmt.Sprintf("CALL spock.wait_for_sync_event(NULL, 'n1', '%s', %d)", lsn, int(2*stillness.Seconds()))))
	require.Equal(t, "1|one|0", b.text(t, "SELECT * FROM t"))
}

// A subscriber was away while DDL, TRUNCATE and changes of sets went by: at
// each point of the backlog that point's membership counts.
func check14BacklogWithSetChanges(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable+"; CREATE TABLE u (id int PRIMARY KEY, v text)", nodes...)
	a, b := nodes[0], nodes[1]
	a.exec(t, "INSERT INTO t VALUES (1, 'before')")
	b.follow(t, a)
	b.stop(t, syscall.SIGTERM)
	for _, sql := range []string{
		"INSERT INTO t VALUES (2, 'member')",
		"INSERT INTO u VALUES (1, 'no member')",
		"SELECT spock.repset_add_table('default', 'u')",
		"INSERT INTO u VALUES (2, 'member')",
		"SELECT spock.repset_remove_table('default', 't')",
		"INSERT INTO t VALUES (3, 'no member')",
		"UPDATE t SET v = 'unseen' WHERE id = 1",
		"SELECT spock.repset_add_table('default', 't')",
		"INSERT INTO t VALUES (4, 'member again')",
		"ALTER TABLE u ADD COLUMN w int DEFAULT 5",
		"INSERT INTO u VALUES (3, 'with w', 6)",
		"SELECT spock.repset_alter('default', replicate_delete := false)",
		"DELETE FROM t WHERE id = 2",
		"SELECT spock.repset_alter('default', replicate_delete := true)",
		"DELETE FROM t WHERE id = 4",
		"INSERT INTO journal VALUES ('gone', 1)",
		"TRUNCATE journal",
		"INSERT INTO journal VALUES ('stays', 1)",
		"SELECT spock.repset_remove_table('default', 'u')",
		"INSERT INTO u VALUES (4, 'no member', 7)",
		"SELECT spock.repset_create('partial')",
		"SELECT spock.repset_add_table('partial', 'u')",
		"INSERT INTO u VALUES (5, 'of a set that nobody asked for', 8)",
	} {
		a.exec(t, sql)
	}
	b.start(t)
	b.follow(t, a)
	require.Equal(t, "1|before|0\n2|member|0", b.text(t, "SELECT * FROM t ORDER BY id"))
	require.Equal(t, "2|member|5\n3|with w|6", b.text(t, "SELECT * FROM u ORDER BY id"))
	require.Equal(t, "stays|1", b.text(t, "SELECT * FROM journal"))
	noExceptions(t, b)
}

// A transaction of a million rows: the engine's memory stays bounded, and the
// provider hears from it all the while.
func check15MillionRows(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	const rows = 1_000_000
	a.exec(t, fmt.Sprintf("INSERT INTO t SELECT i, 'row ' || i, i FROM generate_series(1, %d) i", rows))
	b.follow(t, a)
	require.Equal(t, strconv.Itoa(rows), b.text(t, "SELECT count(*) FROM t"))
	require.NotContains(t, a.server.Log(), "terminating walsender process due to replication timeout")
	peak := peakMemory(t, b.engine)
	t.Logf("the engine's memory was at most %d MB", peak>>20)
	require.Less(t, peak, int64(200<<20))
	noExceptions(t, b)
}

// peakMemory is the most that a process ever had in memory.
func peakMemory(t testing.TB, p *pgtest.Process) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid))
	require.NoError(t, err)
	for line := range strings.SplitSeq(string(text), "\n") {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
			require.NoError(t, err)
			return kb << 10
		}
	}
	t.Fatal("the process does not say how much memory it took")
	return 0
}

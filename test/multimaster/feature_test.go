package multimaster

import (
	"fmt"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// What sets, subscriptions and tables can be told beyond the plain case. A
// subscription that meets an exception is disabled: none passes unseen.
func TestFeatures(t *testing.T) {
	t.Parallel()
	inTurn(t, mesh(t, 2, "", map[string]string{"spock.exception_behaviour": "sub_disable"}), []step{
		{"FilteredRowsAndColumns", filteredRowsAndColumns},
		{"CountersAddUp", countersAddUp},
		{"SequencesAreAhead", sequencesAreAhead},
		{"TableThatCannotBeCopied", tableThatCannotBeCopied}, // while there are few tables: all are copied again
		{"EveryTypeUnderHostileSettings", everyTypeUnderHostileSettings},
		{"TruncateLosesToLaterRows", truncateLosesToLaterRows},
		{"SetsOfSomeActions", setsOfSomeActions},
		{"SpocksOwnChoices", spocksOwnChoices},
		{"AppliedWithDelay", appliedWithDelay},
		{"Check12DisableMendEnable", check12DisableMendEnable},
		{"CascadeWithoutASchema", cascadeWithoutASchema},
	})
}

// A set with a column list and a filter that calls a function: the copy and
// the stream carry the same part of the table.
func filteredRowsAndColumns(t *testing.T, nodes []*node) {
	t.Helper()
	a, b := nodes[0], nodes[1]
	a.exec(t, `CREATE TABLE allowed (region text PRIMARY KEY);
		INSERT INTO allowed VALUES ('eu');
		CREATE FUNCTION is_allowed(text) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM public.allowed WHERE region = $1)';
		CREATE TABLE f (id int PRIMARY KEY, region text, v text, secret text);
		INSERT INTO f VALUES (1, 'eu', 'copied', 's'), (2, 'us', 'not copied', 's');
		SELECT spock.repset_create('part');
		SELECT spock.repset_add_table('part', 'f', columns := '{id,region,v}', row_filter := 'is_allowed(region)')`)
	b.exec(t, `CREATE TABLE f (id int PRIMARY KEY, region text, v text, secret text DEFAULT 'mine');
		SELECT spock.sub_add_repset('sub_n1_n2', 'part')`)
	b.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n1_n2')", "replicating", a)
	b.exec(t, "SELECT spock.sub_alter_sync('sub_n1_n2')")
	b.eventually(t, "SELECT status FROM spock.sub_show_table('sub_n1_n2', 'f')", "replicating", a)
	require.Equal(t, "1|eu|copied|mine", b.text(t, "SELECT * FROM f ORDER BY id"))

	a.exec(t, `INSERT INTO f VALUES (3, 'eu', 'new', 's'), (4, 'us', 'new', 's'), (5, NULL, 'new', 's')`)
	a.exec(t, `UPDATE f SET v = 'changed' WHERE id IN (1, 2)`)
	a.exec(t, `UPDATE f SET region = 'us', v = 'left' WHERE id = 3`) // a row that leaves the filter stays as it was
	b.follow(t, a)
	require.Equal(t, "1|eu|changed|mine\n3|eu|new|mine", b.text(t, "SELECT * FROM f ORDER BY id"))
	a.exec(t, `INSERT INTO allowed VALUES ('asia')`)
	a.exec(t, `INSERT INTO f VALUES (6, 'asia', 'allowed by now', 's')`)
	b.follow(t, a)
	require.Equal(t, "6|asia|allowed by now|mine", b.text(t, "SELECT * FROM f WHERE id > 3"))
	noExceptions(t, b)
}

// Both nodes add to one counter at once: it has both sums, and so while other
// columns of the row go to the later writer.
func countersAddUp(t *testing.T, nodes []*node) {
	t.Helper()
	for _, n := range nodes {
		n.exec(t, `CREATE TABLE account (id int PRIMARY KEY, n int NOT NULL, sum numeric NOT NULL, note text);
			SELECT spock.repset_add_table('default', 'account');
			ALTER TABLE account REPLICA IDENTITY FULL;
			SELECT pgdrover.delta_column_add('account', 'n'), pgdrover.delta_column_add('account', 'sum')`)
	}
	nodes[0].exec(t, "INSERT INTO account SELECT i, 100, 0.5, 'start' FROM generate_series(1, 3) i")
	settle(t, nodes...)
	const rounds = 60
	var group sync.WaitGroup
	errs := make([]error, len(nodes))
	for i, n := range nodes {
		group.Go(func() {
			for r := 0; r < rounds && errs[i] == nil; r++ {
				_, errs[i] = n.try(fmt.Sprintf("UPDATE account SET n = n + %d, sum = sum - 1.25, note = '%s %d' WHERE id = %d", i+1, n.name, r, r%3+1))
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	settle(t, nodes...)
	equal(t, "SELECT * FROM account ORDER BY id", nodes...)
	require.Equal(t, "160|-49.50\n160|-49.50\n160|-49.50", nodes[0].text(t, "SELECT n, sum FROM account ORDER BY id"))
	noExceptions(t, nodes...)
}

// A sequence that is sent is always ahead on the other side, and never set back there. Nodes that both send it come to rest.
func sequencesAreAhead(t *testing.T, nodes []*node) {
	t.Helper()
	a, b := nodes[0], nodes[1]
	for _, n := range nodes {
		n.exec(t, "CREATE SEQUENCE numbers")
	}
	a.exec(t, "SELECT nextval('numbers') FROM generate_series(1, 10); SELECT spock.repset_add_seq('default', 'numbers', true)")
	b.follow(t, a)
	require.Equal(t, "1010", b.text(t, "SELECT last_value FROM numbers"))
	a.exec(t, "SELECT nextval('numbers') FROM generate_series(1, 700)")
	// More than half of what was announced is used: the engine announces more by itself.
	b.eventually(t, "SELECT last_value >= 1710 FROM numbers", "t", a)
	b.exec(t, "SELECT setval('numbers', 90000)")
	a.exec(t, "SELECT spock.sync_seq('numbers')")
	b.follow(t, a)
	require.Equal(t, "90000", b.text(t, "SELECT last_value FROM numbers"), "what b has drawn is not drawn again")

	b.exec(t, "SELECT spock.repset_add_seq('default', 'numbers', true)")
	a.follow(t, b)
	for range 3 { // each looks whether it has more to say, as the engines do now and then
		for _, n := range nodes {
			n.exec(t, "SELECT pgdrover.sync_sequences()")
		}
		settle(t, nodes...)
	}
	for _, n := range nodes {
		require.Equal(t, "0", n.text(t, "SELECT pgdrover.sync_sequences()"), "%s has still more to say", n.name)
	}
	noExceptions(t, nodes...)
}

// apart makes changes on two nodes, one after the other, neither of which sees the other's before both are made.
func apart(a, b *node, changes ...func()) {
	a.away(b)
	b.away(a)
	for _, change := range changes {
		change()
	}
	a.back(b)
	b.back(a)
}

// TRUNCATE is a delete of all rows that are older than it: those that another node wrote later stay.
func truncateLosesToLaterRows(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	a.exec(t, "INSERT INTO t SELECT i, 'start' FROM generate_series(1, 3) i")
	settle(t, nodes...)
	apart(a, b,
		func() { b.exec(t, "UPDATE t SET v = 'older' WHERE id = 2; INSERT INTO t VALUES (4, 'older')") },
		func() { a.exec(t, "TRUNCATE t") },
		func() { b.exec(t, "UPDATE t SET v = 'later' WHERE id = 1; INSERT INTO t VALUES (5, 'later')") })
	settle(t, nodes...)
	equal(t, "SELECT * FROM t ORDER BY id", nodes...)
	require.Equal(t, "1|later|0\n5|later|0", a.text(t, "SELECT * FROM t ORDER BY id"))
	noExceptions(t, nodes...)
}

// Sets that carry some actions only: the others stay on the node that made them.
func setsOfSomeActions(t *testing.T, nodes []*node) {
	t.Helper()
	settle(t, nodes...)
	a, b := nodes[0], nodes[1]
	for _, n := range nodes {
		n.exec(t, "CREATE TABLE part_of (id int PRIMARY KEY, v text)")
	}
	a.exec(t, `SELECT spock.repset_create('some_actions', replicate_update := false, replicate_truncate := false);
		SELECT spock.repset_add_table('some_actions', 'part_of')`)
	b.exec(t, "SELECT spock.sub_add_repset('sub_n1_n2', 'some_actions')")
	b.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n1_n2')", "replicating", a)
	b.follow(t, a)
	a.exec(t, "INSERT INTO part_of VALUES (1, 'one'), (2, 'two'), (3, 'three')")
	a.exec(t, "UPDATE part_of SET v = 'not sent'; DELETE FROM part_of WHERE id = 3; TRUNCATE part_of")
	b.follow(t, a)
	require.Equal(t, "1|one\n2|two", b.text(t, "SELECT * FROM part_of ORDER BY id"))
	a.exec(t, "SELECT spock.repset_alter('some_actions', replicate_insert := false, replicate_update := true, replicate_truncate := true)")
	a.exec(t, "INSERT INTO part_of VALUES (4, 'not sent')")
	b.follow(t, a)
	require.Equal(t, "1|one\n2|two", b.text(t, "SELECT * FROM part_of ORDER BY id"))
	a.exec(t, "TRUNCATE part_of")
	b.follow(t, a)
	require.Empty(t, b.text(t, "SELECT * FROM part_of"))
	noExceptions(t, b)
}

// spocksOwnChoices: what Spock 5 does where it differs, by settings: a delete and a TRUNCATE always win, and an update of a
// missing row is an exception, or left out.
func spocksOwnChoices(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	set := func(sql string) {
		t.Helper()
		b.stop(t, syscall.SIGTERM)
		b.exec(t, sql)
		b.start(t)
	}
	set(`ALTER DATABASE app SET spock.delete_conflict = apply; ALTER DATABASE app SET spock.truncate_conflict = apply;
		ALTER DATABASE app SET spock.update_missing = error`)
	a.exec(t, "INSERT INTO t SELECT i, 'start' FROM generate_series(1, 3) i")
	settle(t, nodes...)
	apart(a, b,
		func() { a.exec(t, "DELETE FROM t WHERE id = 1") },
		func() { b.exec(t, "UPDATE t SET v = 'later' WHERE id = 1") })
	b.follow(t, a)
	require.Equal(t, "2\n3", b.text(t, "SELECT id FROM t ORDER BY id"), "the delete wins")
	apart(a, b,
		func() { a.exec(t, "TRUNCATE t") },
		func() { b.exec(t, "INSERT INTO t VALUES (4, 'later')") })
	b.follow(t, a)
	require.Empty(t, b.text(t, "SELECT * FROM t"), "the TRUNCATE wins")

	a.exec(t, "INSERT INTO t VALUES (6, 'a')")
	b.follow(t, a)
	b.exec(t, "BEGIN; SELECT spock.repair_mode(true); DELETE FROM t WHERE id = 6; DELETE FROM spock.pgdrover_tombstone; COMMIT")
	a.exec(t, "UPDATE t SET v = 'missing' WHERE id = 6")
	b.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n1_n2')", "disabled", a)
	require.Contains(t, b.text(t, "SELECT error_message FROM spock.exception_log"), "logical replication did not find row to be updated in replication target relation (public.t)")
	set("ALTER DATABASE app SET spock.update_missing = skip; DELETE FROM spock.exception_log; SELECT spock.sub_enable('sub_n1_n2')")
	b.follow(t, a)
	require.Empty(t, b.text(t, "SELECT * FROM t"))
	noExceptions(t, b)
	set("ALTER DATABASE app RESET ALL")
}

// A table that is missing here cannot be copied. The stream of the others goes
// on, and the table follows as soon as it is there.
func tableThatCannotBeCopied(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	a.exec(t, "CREATE TABLE lonely (id int PRIMARY KEY); INSERT INTO lonely VALUES (1); SELECT spock.repset_add_table('default', 'lonely')")
	b.exec(t, "SELECT spock.sub_alter_sync('sub_n1_n2')")
	b.eventually(t, "SELECT last_error LIKE '%lonely%does not exist%' FROM spock.pgdrover_subscription JOIN spock.subscription USING (sub_id) WHERE sub_name = 'sub_n1_n2'", "t", a)
	for i := range 20 {
		a.exec(t, fmt.Sprintf("INSERT INTO t VALUES (%d, 'goes on')", i))
	}
	b.eventually(t, "SELECT count(*) FROM t", "20", a) // t itself is copied once more
	b.exec(t, "CREATE TABLE lonely (id int PRIMARY KEY)")
	b.eventually(t, "SELECT status FROM spock.sub_show_table('sub_n1_n2', 'lonely')", "replicating", a)
	a.exec(t, "INSERT INTO lonely VALUES (2)")
	b.follow(t, a)
	require.Equal(t, "1\n2", b.text(t, "SELECT id FROM lonely ORDER BY id"))
	noExceptions(t, b)
}

// What arrives through a delayed subscription is not there before its time.
func appliedWithDelay(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	// A worker that has not heard of the change yet would apply at once.
	b.exec(t, "SELECT spock.sub_disable('sub_n1_n2')")
	b.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n1_n2')", "disabled")
	b.exec(t, `SELECT spock.sub_alter_options('sub_n1_n2', '{"apply_delay": "1500 milliseconds"}'); SELECT spock.sub_enable('sub_n1_n2')`)
	a.exec(t, "INSERT INTO t VALUES (1, 'late')")
	b.eventually(t, "SELECT count(*) FROM t", "1", a)
	require.Equal(t, "t", b.text(t, "SELECT clock_timestamp() - pg_xact_commit_timestamp(xmin) >= '1500 milliseconds' FROM t"))
	b.exec(t, `SELECT spock.sub_alter_options('sub_n1_n2', '{"apply_delay": "0"}')`)
	b.follow(t, a)
	noExceptions(t, b)
}

// A change that fails disables the subscription. Mended and enabled, it is
// applied once; skipped by its number, it is left out once.
func check12DisableMendEnable(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	b.exec(t, "ALTER TABLE t ADD CONSTRAINT small CHECK (n < 100)")
	a.exec(t, "BEGIN; INSERT INTO journal VALUES ('n1', 1); INSERT INTO t VALUES (1, 'too large', 200); COMMIT")
	a.exec(t, "INSERT INTO journal VALUES ('n1', 2)")
	disabled := func() {
		b.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n1_n2')", "disabled", a)
		require.Equal(t, "SUB_DISABLE", b.text(t, "SELECT operation FROM spock.exception_log ORDER BY retry_errored_at DESC, command_counter DESC LIMIT 1"))
	}
	disabled()
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM journal"))
	b.exec(t, "ALTER TABLE t DROP CONSTRAINT small; SELECT spock.sub_enable('sub_n1_n2')")
	b.follow(t, a)
	const journal = "SELECT count(*), count(DISTINCT number), sum(number) FROM journal"
	require.Equal(t, "2|2|3", b.text(t, journal))
	equal(t, "SELECT * FROM t", nodes...)

	b.exec(t, "ALTER TABLE t ADD CONSTRAINT small CHECK (id < 10)")
	a.exec(t, "BEGIN; INSERT INTO journal VALUES ('n1', 100); INSERT INTO t VALUES (10, 'left out'); COMMIT")
	a.exec(t, "INSERT INTO journal VALUES ('n1', 3)")
	disabled()
	b.exec(t, `SELECT spock.sub_alter_skiplsn('sub_n1_n2', (SELECT substring(error_message FROM 'skip_lsn = (.*)')::pg_lsn FROM spock.exception_log
		WHERE operation = 'SUB_DISABLE' ORDER BY retry_errored_at DESC LIMIT 1)); SELECT spock.sub_enable('sub_n1_n2')`)
	b.follow(t, a)
	require.Equal(t, "3|3|6", b.text(t, journal))
	require.Equal(t, "0/0", b.text(t, "SELECT sub_skip_lsn FROM spock.subscription WHERE sub_name = 'sub_n1_n2'"))
	b.exec(t, "ALTER TABLE t DROP CONSTRAINT small; DELETE FROM spock.exception_log")
}

// A third node copies one of the two, but for a schema, and receives what both
// write from that one alone.
func cascadeWithoutASchema(t *testing.T, nodes []*node) {
	t.Helper()
	fresh(t, oneTable, nodes...)
	a, b := nodes[0], nodes[1]
	b.exec(t, "CREATE SCHEMA hidden; CREATE TABLE hidden.h (id int PRIMARY KEY)")
	a.exec(t, "CREATE SCHEMA hidden; CREATE TABLE hidden.h (id int PRIMARY KEY); SELECT spock.repset_add_table('default', 'hidden.h'); INSERT INTO hidden.h VALUES (1)")
	b.exec(t, "INSERT INTO t VALUES (1, 'copied')")
	settle(t, nodes...)
	c := newNode(t, "n3", nil)
	c.subscribe(t, a, wholeCopy+", forward_origins := '{all}', skip_schema := '{hidden}', force_text_transfer := true")
	c.exec(t, "SELECT spock.sub_wait_for_sync('sub_n1_n3')")
	require.Equal(t, "t", c.text(t, "SELECT to_regnamespace('hidden') IS NULL"))
	equal(t, "SELECT * FROM kind.every ORDER BY id", a, c)
	a.exec(t, "UPDATE kind.every SET "+assignments(2)+" WHERE id = 4; INSERT INTO kind.every VALUES (5, "+values(1)+")")
	a.exec(t, "INSERT INTO t VALUES (2, 'of a'); INSERT INTO journal VALUES ('n1', 1)")
	b.exec(t, "INSERT INTO t VALUES (3, 'of b'); INSERT INTO journal VALUES ('n2', 1)")
	settle(t, nodes...)
	c.follow(t, a)
	equal(t, "SELECT * FROM t ORDER BY id", a, c)
	equal(t, "SELECT * FROM kind.every ORDER BY id", a, b, c)
	require.Equal(t, "n1|1\nn2|1", c.text(t, "SELECT * FROM journal ORDER BY 1"))
	// A server that can keep slots on its standbys is asked to.
	require.Equal(t, "t", a.text(t, `SELECT bool_and(current_setting('server_version_num')::int < 170000 OR (to_jsonb(s) ->> 'failover')::boolean)
		FROM pg_replication_slots s WHERE slot_name = 'spk_app_n1_sub_n1_n3'`))
	noExceptions(t, a, b, c)
}

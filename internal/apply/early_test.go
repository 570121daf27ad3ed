package apply

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// A large transaction of a backlog is applied while it comes, and has its stamp
// all the same; wherever that cannot be done, it is applied as a whole.
func TestLargeTransactionsOfABacklog(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, keyed+"CREATE TABLE journal (n int); SELECT spock.repset_add_table('default_insert_only', 'journal')", "",
		map[string]string{"spock.exception_replay_queue_size": "100000"})
	settle(t, a, b)
	// Whether the stream that runs now was asked for with blocks.
	const asked = `SELECT query LIKE '%"streaming"%' FROM pg_stat_activity WHERE application_name = 'spk_app_n1_sub_n1_n2'`
	other := a.server.Connect(t, database)
	insert := func(from int) string {
		return fmt.Sprintf("INSERT INTO t SELECT i, 'value ' || i FROM generate_series(%d, %d) i;", from, from+1999)
	}
	for i, c := range []struct {
		name  string
		work  func(from int)
		whole bool // it is received again
		// skipped: a server that looks ahead does not send it.
		skipped bool
	}{
		{name: "rows", work: func(from int) {
			a.exec(t, "BEGIN; "+insert(from)+fmt.Sprintf("UPDATE t SET v = v || ' more' WHERE id >= %d; INSERT INTO journal VALUES (%[1]d); COMMIT", from))
		}},
		{name: "savepoint", whole: true, work: func(from int) {
			a.exec(t, "BEGIN; "+insert(from)+"SAVEPOINT s; "+insert(from+2000)+"ROLLBACK TO s; "+insert(from+4000)+"COMMIT")
		}},
		{name: "savepoint kept", work: func(from int) {
			a.exec(t, "BEGIN; "+insert(from)+"SAVEPOINT s; "+insert(from+2000)+"RELEASE s; "+insert(from+4000)+"COMMIT")
		}},
		{name: "deletes", whole: true, work: func(from int) {
			a.exec(t, "BEGIN; "+insert(from)+fmt.Sprintf("DELETE FROM t WHERE id >= %d; COMMIT", from+1000))
		}},
		{name: "others between", whole: true, work: func(from int) {
			a.exec(t, "BEGIN; "+insert(from))
			_, err := other.Exec(t.Context(), "INSERT INTO journal VALUES ($1)", from)
			require.NoError(t, err)
			a.exec(t, insert(from+2000)+"COMMIT")
		}},
		{name: "two at a time", whole: true, work: func(from int) {
			a.exec(t, "BEGIN; "+insert(from))
			_, err := other.PgConn().Exec(t.Context(), "BEGIN; "+insert(from+2000)).ReadAll()
			require.NoError(t, err)
			a.exec(t, insert(from+4000)+"COMMIT")
			_, err = other.Exec(t.Context(), "COMMIT")
			require.NoError(t, err)
		}},
		{name: "rolled back", whole: true, skipped: true, work: func(from int) {
			a.exec(t, "BEGIN; "+insert(from)+"ROLLBACK; INSERT INTO journal VALUES (0)")
		}},
		{name: "conflict", whole: true, work: func(from int) {
			a.exec(t, insert(from))
			b.exec(t, fmt.Sprintf("INSERT INTO t VALUES (%d, 'later')", from+1500))
		}},
		{name: "definition", whole: true, work: func(from int) {
			a.exec(t, "BEGIN; "+insert(from)+"SELECT spock.replicate_ddl('ALTER TABLE public.t ADD COLUMN more int'); "+insert(from+2000)+"COMMIT")
		}},
	} {
		b.exec(t, "SELECT spock.sub_disable('sub_n1_n2')")
		b.eventually(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'spock apply %' AND datname = current_database()", "0")
		a.eventually(t, "SELECT count(*) FROM pg_replication_slots WHERE active", "0")
		a.exec(t, "SELECT pg_stat_reset_replication_slot(NULL)")
		c.work(i * 100_000)
		b.exec(t, "SELECT spock.sub_enable('sub_n1_n2')")
		settle(t, a, b)
		equal(t, "SELECT id, v FROM t ORDER BY id", a, b)
		equal(t, "SELECT n FROM journal ORDER BY n", a, b)
		switch {
		case c.skipped && a.text(t, "SELECT current_setting('server_version_num')::int >= 180000") == "t":
			// Version 18 knows of the end, and sends nothing.
		case c.whole:
			a.eventually(t, asked, "f")
		default:
			require.Equal(t, "t", a.text(t, asked))
			a.eventually(t, "SELECT stream_txns > 0 FROM pg_stat_replication_slots", "t")
		}
		t.Logf("%s: as it should be", c.name)
	}
	// The stamps are those of the provider, but for what was written here.
	equal(t, `SELECT DISTINCT pg_xact_commit_timestamp(xmin) FROM t WHERE v <> 'later' ORDER BY 1`, a, b)
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM spock.exception_log"))

	// One that runs yet is received when it has committed.
	b.exec(t, "SELECT spock.sub_disable('sub_n1_n2')")
	b.eventually(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'spock apply %' AND datname = current_database()", "0")
	a.exec(t, "BEGIN; "+insert(2_000_000))
	_, err := other.Exec(t.Context(), "INSERT INTO journal VALUES (1)")
	require.NoError(t, err)
	b.exec(t, "SELECT spock.sub_enable('sub_n1_n2')")
	b.eventually(t, "SELECT count(*) FROM journal WHERE n = 1", "1")
	a.exec(t, "COMMIT")
	settle(t, a, b)
	equal(t, "SELECT id, v FROM t ORDER BY id", a, b)
}

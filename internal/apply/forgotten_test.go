package apply

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// freeze has a server forget when its rows were written.
func (n *node) freeze(t *testing.T, forgotten string) {
	t.Helper()
	n.exec(t, "UPDATE pg_database SET datallowconn = true")
	// What a slot may still need is not frozen: it moves on with what its reader confirms.
	for deadline := time.Now().Add(2 * time.Minute); n.text(t, forgotten) != ""; time.Sleep(200 * time.Millisecond) {
		require.Less(t, time.Now(), deadline, "the server forgets nothing")
		n.exec(t, "CHECKPOINT")
		for range 20 {
			n.exec(t, "SELECT pg_current_xact_id()")
		}
		for _, name := range []string{"postgres", "template0", "template1", database} {
			conn, err := pgx.Connect(t.Context(), n.server.DSN(name))
			require.NoError(t, err)
			_, err = conn.Exec(t.Context(), "VACUUM (FREEZE)")
			require.NoError(t, err)
			require.NoError(t, conn.Close(context.WithoutCancel(t.Context())))
		}
	}
}

// What a subscription missed while its node forgot when it had written itself
// can't be compared any more: it is refused, unless somebody knows better. A
// tombstone whose time is forgotten goes when nothing older can come.
func TestForgottenTimes(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, keyed, "", nil)
	a.exec(t, "INSERT INTO t VALUES (1, 'first'), (2, 'first')")
	settle(t, a, b)
	require.Empty(t, a.text(t, "SELECT pgdrover.forgotten_until()"))
	a.exec(t, "SELECT spock.sub_disable('sub_n2_n1', true)")
	a.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n2_n1')", "disabled")
	b.exec(t, "UPDATE t SET v = 'older'")
	a.halt(t)
	a.exec(t, "UPDATE t SET v = 'newer' WHERE id = 1; DELETE FROM t WHERE id = 2")
	b.eventually(t, "SELECT string_agg(id || v, ',') FROM t", "1newer")
	a.freeze(t, "SELECT pg_xact_commit_timestamp(xmin) FROM t")
	require.Equal(t, "1|", a.text(t, "SELECT count(*), max((pg_xact_commit_timestamp_origin(xmin)).timestamp) FROM spock.pgdrover_tombstone"))
	require.NotEmpty(t, a.text(t, "SELECT pgdrover.forgotten_until()"))

	a.exec(t, "SELECT spock.sub_enable('sub_n2_n1')")
	a.start(t)
	a.eventually(t, "SELECT state || ' ' || (last_error LIKE '%has forgotten when rows were written%')::text FROM spock.pgdrover_subscription", "refused true")
	require.Equal(t, "1newer", a.text(t, "SELECT string_agg(id || v, ',') FROM t"))
	a.eventually(t, "SELECT bool_and(commit_time IS NOT NULL)::text FROM spock.pgdrover_tombstone", "true")

	// What comes from now on is from a time that it remembers.
	a.exec(t, "ALTER DATABASE "+database+" SET spock.forgotten_times = 'lose'")
	settle(t, a, b)
	a.exec(t, "ALTER DATABASE "+database+" RESET spock.forgotten_times")
	b.exec(t, "INSERT INTO t VALUES (3, 'later')")
	a.eventually(t, "SELECT v FROM t WHERE id = 3", "later")
	a.eventually(t, "SELECT count(*) FROM spock.pgdrover_tombstone", "0")
}

// A server that has not kept times for a while has forgotten all before, also as
// long as its first checkpoint after that has not come.
func TestTimesAreSwitchedOffAndOn(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, keyed, "", nil)
	a.exec(t, "INSERT INTO t VALUES (1, 'first')")
	settle(t, a, b)
	a.exec(t, "SELECT spock.sub_disable('sub_n2_n1', true)")
	a.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n2_n1')", "disabled")
	b.exec(t, "UPDATE t SET v = 'older'")
	a.exec(t, "UPDATE t SET v = 'newer'")
	b.eventually(t, "SELECT v FROM t", "newer")
	a.halt(t)
	for _, value := range []string{"off", "on"} {
		a.exec(t, "ALTER SYSTEM SET track_commit_timestamp = "+value)
		a.server.Stop(t, syscall.SIGINT)
		a.server.Start(t)
		a.conn = a.server.Connect(t, database)
	}
	require.NotEmpty(t, a.text(t, "SELECT pgdrover.forgotten_until()"))
	a.exec(t, "SELECT spock.sub_enable('sub_n2_n1')")
	a.start(t)
	a.eventually(t, "SELECT state || ' ' || (last_error LIKE '%has forgotten when rows were written%')::text FROM spock.pgdrover_subscription", "refused true")
	require.Equal(t, "newer", a.text(t, "SELECT v FROM t"))
}

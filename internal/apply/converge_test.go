package apply

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

const convergeSchema = `
CREATE TABLE small (id int PRIMARY KEY, who text, n int, big text);
ALTER TABLE small ALTER COLUMN big SET STORAGE EXTERNAL;
CREATE TABLE pair (a text, b int, v numeric, tags text[], PRIMARY KEY (a, b));
CREATE TABLE journal (node text, number int);
SELECT spock.repset_add_table('default', 'small');
SELECT spock.repset_add_table('default', 'pair');
SELECT spock.repset_add_table('default_insert_only', 'journal');`

// writer makes random changes of few keys on one node. Each transaction leaves
// its number in a table without a key, where a gap or a repetition shows.
type writer struct {
	n     *node
	rand  *rand.Rand
	next  int
	total *atomic.Int64 // commits of all writers
}

func (w *writer) run(ctx context.Context, transactions int) error {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	for done := 0; done < transactions; {
		if ctx.Err() != nil {
			return nil
		}
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = pgx.Connect(ctx, w.n.server.DSN(database)); err != nil {
				conn = nil
				continue // the server is being restarted
			}
		}
		ok, err := w.transaction(ctx, conn)
		if err != nil {
			return err
		}
		if ok {
			done++
			w.total.Add(1)
		}
	}
	return nil
}

// transaction commits a number and some changes; false means that it has not
// committed, or that nobody knows.
func (w *writer) transaction(ctx context.Context, conn *pgx.Conn) (bool, error) {
	next := w.next + 1
	var b strings.Builder
	fmt.Fprintf(&b, "INSERT INTO journal VALUES ('%s', %d);", w.n.name, next)
	for range 1 + w.rand.IntN(4) {
		b.WriteString(w.statement())
	}
	_, err := conn.PgConn().Exec(ctx, "BEGIN;"+b.String()+"COMMIT").ReadAll()
	if err == nil {
		w.next = next
		return true, nil
	}
	_ = conn.Close(ctx)
	// The connection may have gone with the answer: did it commit?
	for ctx.Err() == nil {
		check, err := pgx.Connect(ctx, w.n.server.DSN(database))
		if err != nil {
			continue
		}
		var there bool
		err = check.QueryRow(ctx, "SELECT EXISTS (SELECT FROM journal WHERE node = $1 AND number = $2)", w.n.name, next).Scan(&there)
		_ = check.Close(ctx)
		if err == nil {
			if there {
				w.next = next
			}
			return there, nil
		}
	}
	return false, nil
}

func (w *writer) statement() string {
	id, other := w.rand.IntN(12), w.rand.IntN(12)
	switch w.rand.IntN(10) {
	case 0, 1:
		return fmt.Sprintf("INSERT INTO small VALUES (%d, '%s', %d, repeat('%s', 3000)) ON CONFLICT DO NOTHING;", id, w.n.name, w.rand.IntN(100), w.n.name)
	case 2, 3:
		return fmt.Sprintf("UPDATE small SET n = n + 1, who = '%s' WHERE id = %d;", w.n.name, id)
	case 4:
		return fmt.Sprintf("UPDATE small SET big = repeat('%d', 3000) WHERE id = %d;", w.rand.IntN(1000), id)
	case 5:
		return fmt.Sprintf("DELETE FROM small WHERE id = %d;", id)
	case 6:
		return fmt.Sprintf("UPDATE small SET id = %d WHERE id = %d AND NOT EXISTS (SELECT FROM small WHERE id = %d);", other, id, other)
	case 7:
		return fmt.Sprintf("INSERT INTO pair VALUES ('k%d', %d, %d.5, '{%s,NULL}') ON CONFLICT (a, b) DO UPDATE SET v = excluded.v, tags = NULL;",
			id/4, id%4, w.rand.IntN(1000), w.n.name)
	case 8:
		return fmt.Sprintf("UPDATE pair SET v = v + 1 WHERE a = 'k%d';", id/4)
	default:
		return fmt.Sprintf("DELETE FROM pair WHERE a = 'k%d' AND b = %d;", id/4, id%4)
	}
}

// checkConverged asserts that all nodes hold the same rows, and each node's
// transactions were applied everywhere, once.
func checkConverged(t *testing.T, writers []*writer, nodes ...*node) {
	t.Helper()
	settle(t, nodes...)
	settle(t, nodes...) // what a fetch or a resolution has written is not sent: nothing else follows
	for _, n := range nodes {
		for _, w := range writers {
			require.Equal(t, fmt.Sprintf("%d|%d|%d", w.next, w.next, w.next), n.text(t, fmt.Sprintf(
				"SELECT count(*), count(DISTINCT number), coalesce(max(number), 0) FROM journal WHERE node = '%s'", w.n.name)),
				"transactions of %s on %s", w.n.name, n.name)
		}
		require.Equal(t, "0", n.text(t, "SELECT count(*) FROM spock.exception_log"), "exceptions of %s: %s", n.name,
			n.text(t, "SELECT operation, table_name, error_message FROM spock.exception_log LIMIT 5"))
	}
	equal(t, "SELECT id, who, n, md5(big) FROM small ORDER BY id", nodes...)
	equal(t, "SELECT * FROM pair ORDER BY a, b", nodes...)
}

func mesh(t *testing.T, count int, schema string, settings map[string]string) []*node {
	t.Helper()
	var nodes []*node
	for i := range count {
		n := newNode(t, fmt.Sprintf("n%d", i+1), settings)
		n.exec(t, schema)
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		for _, p := range nodes {
			if p != n {
				n.subscribe(t, p, "")
			}
		}
	}
	return nodes
}

func seed(t *testing.T) uint64 {
	t.Helper()
	s := uint64(time.Now().UnixNano())
	if given := os.Getenv("APPLY_SEED"); given != "" {
		var err error
		s, err = strconv.ParseUint(given, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("APPLY_SEED=%d", s)
	return s
}

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	if given := os.Getenv(name); given != "" {
		n, err := strconv.Atoi(given)
		require.NoError(t, err)
		return n
	}
	return otherwise
}

// write runs writers on all nodes at once, and trouble beside them: each time
// when some transactions have got through.
func write(t *testing.T, s uint64, nodes []*node, transactions int, trouble func(ctx context.Context, r *rand.Rand)) []*writer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var writers []*writer
	var group, other sync.WaitGroup
	errs := make(chan error, len(nodes))
	var total atomic.Int64
	for i, n := range nodes {
		w := &writer{n: n, rand: rand.New(rand.NewPCG(s, uint64(i))), total: &total}
		writers = append(writers, w)
		group.Go(func() { errs <- w.run(ctx, transactions) })
	}
	troubleCtx, stop := context.WithCancel(ctx)
	if trouble != nil {
		other.Go(func() {
			r := rand.New(rand.NewPCG(s, 1000))
			for next := int64(0); sleep(troubleCtx, time.Duration(300+r.IntN(700))*time.Millisecond); {
				if total.Load() >= next {
					trouble(troubleCtx, r)
					next = total.Load() + int64(r.IntN(100))
				}
			}
		})
	}
	group.Wait()
	stop()
	other.Wait()
	for range nodes {
		require.NoError(t, <-errs)
	}
	return writers
}

func TestConvergeThreeNodes(t *testing.T) {
	t.Parallel()
	s := seed(t)
	nodes := mesh(t, 3, convergeSchema, map[string]string{"spock.save_resolutions": "on"})
	writers := write(t, s, nodes, number(t, "APPLY_TRANSACTIONS", 200), nil)
	checkConverged(t, writers, nodes...)
}

// Every record is kept, and with it every change of another author's row goes
// the careful way.
func TestConvergeRecordingAll(t *testing.T) {
	t.Parallel()
	s := seed(t)
	nodes := mesh(t, 2, convergeSchema, map[string]string{"spock.save_resolutions": "on", "spock.save_remote_wins": "on"})
	writers := write(t, s, nodes, number(t, "APPLY_TRANSACTIONS", 150), nil)
	checkConverged(t, writers, nodes...)
}

// One node applies with one session for each subscription, the others with
// several: as many as there is room for.
func TestConvergeUnderKills(t *testing.T) {
	t.Parallel()
	s := seed(t)
	nodes := mesh(t, 3, convergeSchema, map[string]string{"spock.restart_delay_default": "500", "max_replication_slots": "6"})
	for _, n := range nodes[:2] {
		n.exec(t, "ALTER DATABASE app SET spock.apply_workers = 4")
		n.eventually(t, strings.Replace(sessionsBeside, "count(*)", "count(*) IN (2, 3)", 1), "t")
	}
	writers := write(t, s, nodes, number(t, "APPLY_TRANSACTIONS", 200), func(ctx context.Context, r *rand.Rand) {
		n := nodes[r.IntN(len(nodes))]
		switch r.IntN(8) {
		case 0:
			n.link.Cut()
			n.link.Restore()
		case 1:
			n.server.Stop(t, syscall.SIGKILL)
			n.server.Start(t)
		default:
			kill(ctx, n)
		}
	})
	for _, n := range nodes {
		n.conn = n.server.Connect(t, database)
	}
	checkConverged(t, writers, nodes...)
}

// kill ends one of the sessions that apply or send.
func kill(ctx context.Context, n *node) {
	conn, err := pgx.Connect(ctx, n.server.DSN(database))
	if err != nil {
		return
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, _ = conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE application_name LIKE 'spock apply %' OR backend_type = 'walsender' ORDER BY random() LIMIT 1`)
}

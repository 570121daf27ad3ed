package multimaster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// playground is what the writers write: few keys, so that they collide; every
// common type; values that an update leaves out. A secondary key has two rows
// that want it, never more, and none of them goes: chains of them need not end alike.
const playground = `
CREATE TYPE mood AS ENUM ('sad', 'fair', 'happy');
CREATE DOMAIN score AS int CHECK (value >= 0);
CREATE TYPE spot AS (x int, y text);
CREATE TABLE item (id int PRIMARY KEY, who text, n int, big text);
ALTER TABLE item ALTER big SET STORAGE EXTERNAL;
CREATE TABLE pair (a text, b int, v numeric, tags text[], PRIMARY KEY (a, b));
CREATE TABLE rich (id text PRIMARY KEY, m mood, ms mood[], s score, doc jsonb, raw bytea, r int4range, at timestamptz, d date, u uuid, f float8,
	p spot, b boolean, i interval, ip inet, bits bit varying(8), twice int GENERATED ALWAYS AS (s * 2) STORED, serial int GENERATED ALWAYS AS IDENTITY);
CREATE TABLE sole (id int PRIMARY KEY, k int UNIQUE, who text);
CREATE TABLE part (id int PRIMARY KEY, who text) PARTITION BY RANGE (id);
CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (5);
CREATE TABLE part_high PARTITION OF part FOR VALUES FROM (5) TO (100);
CREATE TABLE whole (id int, v text);
ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE tally (id int PRIMARY KEY, n int NOT NULL, who text);
ALTER TABLE tally REPLICA IDENTITY FULL;
CREATE TABLE journal (node text, number int);
SELECT pgdrover.delta_column_add('tally', 'n');
SELECT spock.repset_add_table('default', t::regclass) FROM unnest('{item,pair,rich,sole,part,tally}'::text[]) t;
SELECT spock.repset_add_table('default_insert_only', 'journal');`

// compared are the queries that have one answer when the nodes have converged.
// Values of an identity column belong to the node that drew them, and travel.
var compared = []string{
	"SELECT id, who, n, md5(big), length(big) FROM item ORDER BY id",
	"SELECT * FROM pair ORDER BY a, b",
	"SELECT * FROM rich ORDER BY id",
	"SELECT * FROM sole ORDER BY id",
	"SELECT tableoid::regclass, * FROM part ORDER BY id",
	"SELECT * FROM tally ORDER BY id",
}

// writer makes random changes on one node. Each of its transactions leaves its
// number in a table without a key, where a gap or a repetition shows.
type writer struct {
	n    *node
	rand *rand.Rand
	last int // number of the last transaction that is known to be committed
	done *atomic.Int64
}

// run commits transactions until it is enough, whatever happens to the server meanwhile.
func (w *writer) run(ctx context.Context, enough func(done int) bool) error {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	for done := 0; !enough(done) && ctx.Err() == nil; {
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = w.connect(ctx); err != nil {
				return err
			}
		}
		committed, err := w.transaction(ctx, conn)
		if err != nil {
			return err
		}
		if committed {
			done++
			w.done.Add(1)
			pause(ctx, time.Duration(w.rand.IntN(10))*time.Millisecond)
		}
	}
	return context.Cause(ctx)
}

// connect goes on until the server is back.
func (w *writer) connect(ctx context.Context) (*pgx.Conn, error) {
	for {
		conn, err := pgx.Connect(ctx, w.n.server.DSN(database))
		if err == nil {
			return conn, nil
		}
		if !pause(ctx, 50*time.Millisecond) {
			return nil, context.Cause(ctx)
		}
	}
}

// transaction tries one; false means that it was not committed.
func (w *writer) transaction(ctx context.Context, conn *pgx.Conn) (bool, error) {
	number := w.last + 1
	var b strings.Builder
	fmt.Fprintf(&b, "BEGIN; INSERT INTO journal VALUES ('%s', %d);", w.n.name, number)
	for range 1 + w.rand.IntN(4) {
		b.WriteString(w.statement())
	}
	b.WriteString("COMMIT")
	_, err := conn.PgConn().Exec(ctx, b.String()).ReadAll()
	if err == nil {
		w.last = number
		return true, nil
	}
	refused, ok := errors.AsType[*pgconn.PgError](err)
	if ok && !strings.HasPrefix(refused.Code, "57") && !strings.HasPrefix(refused.Code, "08") {
		// A deadlock, or a key that somebody else took a moment ago.
		_, err := conn.PgConn().Exec(ctx, "ROLLBACK").ReadAll()
		if err != nil {
			_ = conn.Close(ctx)
		}
		return false, nil
	}
	// The connection went, and perhaps the answer with it: did it commit?
	_ = conn.Close(ctx)
	for {
		check, err := w.connect(ctx)
		if err != nil {
			return false, err
		}
		var there bool
		err = check.QueryRow(ctx, "SELECT EXISTS (SELECT FROM journal WHERE node = $1 AND number = $2)", w.n.name, number).Scan(&there)
		_ = check.Close(ctx)
		if err == nil {
			if there {
				w.last = number
			}
			return there, nil
		}
	}
}

func (w *writer) statement() string {
	id, other, n, me := w.rand.IntN(10), w.rand.IntN(10), w.rand.IntN(1000), w.n.name
	switch w.rand.IntN(20) {
	case 0, 1:
		return fmt.Sprintf("INSERT INTO item VALUES (%d, '%s', %d, repeat('%s', 3000)) ON CONFLICT DO NOTHING;", id, me, n, me)
	case 2, 3:
		return fmt.Sprintf("UPDATE item SET n = n + 1, who = '%s' WHERE id = %d;", me, id)
	case 4:
		return fmt.Sprintf("UPDATE item SET big = repeat('%d', 3000), n = NULL WHERE id = %d;", n, id)
	case 5:
		return fmt.Sprintf("DELETE FROM item WHERE id = %d;", id)
	case 6:
		return fmt.Sprintf("UPDATE item SET id = %d WHERE id = %d AND NOT EXISTS (SELECT FROM item WHERE id = %d);", other, id, other)
	case 7:
		return fmt.Sprintf("INSERT INTO pair VALUES ('k%d', %d, %d.50, '{%s,NULL}') ON CONFLICT (a, b) DO UPDATE SET v = excluded.v, tags = NULL;", id/4, id%4, n, me)
	case 8:
		return fmt.Sprintf("UPDATE pair SET v = v + 1, tags = tags || '%s'::text WHERE a = 'k%d';", me, id/4)
	case 9:
		return fmt.Sprintf("DELETE FROM pair WHERE a = 'k%d' AND b = %d;", id/4, id%4)
	case 10, 11:
		return fmt.Sprintf(`INSERT INTO rich (id, m, ms, s, doc, raw, r, at, d, u, f, p, b, i, ip, bits) VALUES ('r%d', 'sad', '{happy,NULL}', %d, '{"by": "%s"}',
			'\x00ff%02x', '[%d,)', now(), now(), gen_random_uuid(), %d / 3.0, (%d, '%s'), NULL, '%d days', '10.0.0.%d', B'101')
			ON CONFLICT (id) DO UPDATE SET m = 'happy', ms = NULL, s = excluded.s, doc = NULL, at = clock_timestamp(), p = excluded.p, bits = NULL;`,
			id, n, me, n%256, n, n, n, me, n, n%256)
	case 12:
		return fmt.Sprintf("DELETE FROM rich WHERE id = 'r%d';", id)
	case 13, 14, 15:
		return fmt.Sprintf("INSERT INTO sole VALUES (%d, %d, '%s') ON CONFLICT DO NOTHING;", id, id/2, me)
	case 17, 18:
		return fmt.Sprintf("INSERT INTO tally VALUES (%d, 1, '%s') ON CONFLICT (id) DO UPDATE SET n = tally.n + excluded.n, who = excluded.who;", id/3, me)
	case 16:
		return fmt.Sprintf("INSERT INTO part VALUES (%d, '%s') ON CONFLICT (id) DO UPDATE SET who = excluded.who;", id, me)
	default:
		return fmt.Sprintf("DELETE FROM part WHERE id = %d;", id)
	}
}

// write runs a writer on each node until each has committed so many
// transactions and the trouble beside them is over. trouble runs on the test's
// own goroutine.
func write(t testing.TB, writers []*writer, transactions int, trouble func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	calm, rested := context.WithCancel(ctx)
	defer rested()
	enough := func(done int) bool { return done >= transactions && calm.Err() != nil }
	var group sync.WaitGroup
	errs := make([]error, len(writers))
	for i, w := range writers {
		group.Go(func() { errs[i] = w.run(ctx, enough) })
	}
	ended := make(chan struct{})
	go func() {
		group.Wait()
		close(ended)
	}()
	trouble()
	rested()
	await(t, func() error {
		select {
		case <-ended:
			return nil
		default:
			return fmt.Errorf("%w: the writers have committed %d transactions", errWant, writers[0].done.Load())
		}
	}, nodesOf(writers)...)
	for _, err := range errs {
		require.NoError(t, err)
	}
}

func nodesOf(writers []*writer) []*node {
	nodes := make([]*node, len(writers))
	for i, w := range writers {
		nodes[i] = w.n
	}
	return nodes
}

// check says what is wrong when the nodes have come to rest: rows that differ,
// or a transaction that was not applied exactly once everywhere.
func check(t testing.TB, writers []*writer) error {
	t.Helper()
	nodes := nodesOf(writers)
	for _, n := range nodes {
		for _, w := range writers {
			got := n.text(t, fmt.Sprintf("SELECT count(*), count(DISTINCT number), coalesce(max(number), 0) FROM journal WHERE node = '%s'", w.n.name))
			if want := fmt.Sprintf("%d|%d|%d", w.last, w.last, w.last); got != want {
				return fmt.Errorf("%s has applied transactions of %s (all|distinct|last) %s, want %s", n.name, w.n.name, got, want)
			}
		}
		if text := n.text(t, "SELECT operation, table_name, error_message FROM spock.exception_log LIMIT 3"); text != "" {
			return fmt.Errorf("exceptions of %s: %s", n.name, text)
		}
	}
	for _, sql := range compared {
		if err := differ(sql, nodes...); err != nil {
			return err
		}
	}
	return nil
}

// converge waits for rest and checks.
func converge(t testing.TB, writers []*writer, what string) {
	t.Helper()
	nodes := nodesOf(writers)
	settle(t, nodes...)
	settle(t, nodes...) // what a resolution has written is not sent: nothing else follows
	if err := check(t, writers); err != nil {
		for _, n := range nodes {
			n.explain(t)
		}
		t.Fatalf("%s: %v", what, err)
	}
}

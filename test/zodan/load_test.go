package zodan

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

// schema is what applications use while nodes come and go: a table in which each
// node has keys of its own, one in which they collide, one without a key, one
// with a filter and fewer columns, and one that is in no set.
const schema = `
CREATE SCHEMA shop;
CREATE TYPE shop.mood AS ENUM ('sad', 'fair');
CREATE FUNCTION shop.double(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
CREATE TABLE shop.item (id bigint PRIMARY KEY, who text NOT NULL, n int, m shop.mood DEFAULT 'fair', twice int GENERATED ALWAYS AS (shop.double(n)) STORED);
CREATE INDEX ON shop.item (who, n);
CREATE VIEW shop.fair AS SELECT * FROM shop.item WHERE m = 'fair';
CREATE TABLE contested (id int PRIMARY KEY, who text, n int);
CREATE TABLE journal (node text, number int, hits int);
CREATE TABLE counter (id int PRIMARY KEY, n int NOT NULL);
CREATE TABLE part (id int PRIMARY KEY, secret text, open boolean NOT NULL);
CREATE TABLE alone (id serial PRIMARY KEY, v text);
CREATE TABLE kept_out (id int PRIMARY KEY);
CREATE MATERIALIZED VIEW shop.b AS SELECT who, count(*) AS n FROM shop.item GROUP BY who;
CREATE MATERIALIZED VIEW shop.a AS SELECT sum(n) AS n FROM shop.b;
CREATE MATERIALIZED VIEW shop.unfilled AS SELECT 1 AS one WITH NO DATA;
CREATE UNIQUE INDEX ON shop.b (who);`

// filled are rows and sets of the first node.
const filled = `
INSERT INTO shop.item (id, who, n) SELECT i, 'old', i FROM generate_series(1, 3000) i;
INSERT INTO counter SELECT i, 0 FROM generate_series(1, 5) i;
INSERT INTO contested SELECT i, 'old', 0 FROM generate_series(1, 10) i;
INSERT INTO part SELECT i, 'secret ' || i, i % 2 = 0 FROM generate_series(1, 10) i;
INSERT INTO alone (v) VALUES ('a'), ('b'), ('c');
INSERT INTO kept_out VALUES (1);
SELECT spock.repset_add_table('default', 'kept_out'), spock.repset_remove_table('default', 'kept_out');
SELECT spock.repset_create('extra');
SELECT spock.repset_add_table('default', 'shop.item');
SELECT spock.repset_add_table('default', 'contested');
SELECT spock.repset_add_table('default', 'counter'), pgdrover.delta_column_add('counter', 'n');
SELECT spock.repset_add_table('default_insert_only', 'journal');
SELECT spock.repset_add_table('extra', 'part', columns := '{id,open}', row_filter := 'open');`

// compared are the queries that have one answer when the nodes have converged.
var compared = []string{
	"SELECT * FROM shop.item ORDER BY id", "SELECT * FROM contested ORDER BY id", "SELECT id, open FROM part WHERE open ORDER BY id",
	"SELECT count(*), count(DISTINCT (node, number)) FROM journal", "SELECT * FROM counter ORDER BY id",
	"SELECT * FROM alone WHERE false", "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'm' AND relispopulated",
	"SELECT count(*) FROM shop.fair WHERE m = 'sad'",
}

// writer makes transactions on one node until it is told to stop. Each leaves
// its number in a table without a key, where a gap or a repetition shows.
type writer struct {
	n       *node
	habit   habit
	rand    *rand.Rand
	done    atomic.Int64
	last    int     // number of the last transaction that is known to be committed
	refused []error // what no client may see
}

// habit is what writers do besides.
type habit struct {
	apart bool // nobody changes a row that another node changes as well
	count bool // but for columns that take differences
}

// run goes on whatever happens to the server meanwhile.
func (w *writer) run(ctx context.Context) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	for ctx.Err() == nil {
		if conn == nil || conn.IsClosed() {
			if conn = w.connect(ctx); conn == nil {
				return
			}
		}
		w.transaction(ctx, conn)
		w.done.Add(1)
		pause(ctx, time.Duration(5+w.rand.IntN(20))*time.Millisecond)
	}
}

func (w *writer) connect(ctx context.Context) *pgx.Conn {
	for ctx.Err() == nil {
		conn, err := pgx.Connect(context.WithoutCancel(ctx), w.n.server.DSN(database))
		if err == nil {
			return conn
		}
		pause(ctx, 50*time.Millisecond)
	}
	return nil
}

func (w *writer) transaction(ctx context.Context, conn *pgx.Conn) {
	number := w.last + 1
	_, err := conn.PgConn().Exec(context.WithoutCancel(ctx), w.statements(number)).ReadAll()
	if err == nil {
		w.last = number
		return
	}
	answer, ok := errors.AsType[*pgconn.PgError](err)
	if ok && !strings.HasPrefix(answer.Code, "57") && !strings.HasPrefix(answer.Code, "08") {
		if !strings.HasPrefix(answer.Code, "40") && answer.Code != "23505" { // a conflict of two of them, or with what was applied
			w.refused = append(w.refused, err)
		}
		_ = conn.Close(context.WithoutCancel(ctx))
		return
	}
	// The connection went, and perhaps the answer with it: did it commit? A
	// writer that is told to stop has to know that too.
	_ = conn.Close(context.WithoutCancel(ctx))
	for {
		var there bool
		check := w.connect(context.WithoutCancel(ctx))
		err := check.QueryRow(context.WithoutCancel(ctx), "SELECT EXISTS (SELECT FROM journal WHERE node = $1 AND number = $2)", w.n.name, number).Scan(&there)
		_ = check.Close(context.WithoutCancel(ctx))
		if err == nil {
			if there {
				w.last = number
			}
			return
		}
	}
}

// statements are one transaction: keys of this node alone in the first tables.
func (w *writer) statements(number int) string {
	var b strings.Builder
	me, base := w.n.name, 1_000_000*w.n.server.Port
	mine := func() int { return base + w.rand.IntN(200) }
	level := [...]string{"READ COMMITTED", "REPEATABLE READ"}[w.rand.IntN(2)]
	kind, hits := w.rand.IntN(8), 0
	switch {
	case kind == 7 && w.habit.count:
		hits = 1
	case kind == 7, kind == 5 && w.habit.apart:
		kind = 0
	}
	fmt.Fprintf(&b, "BEGIN ISOLATION LEVEL %s; INSERT INTO journal VALUES ('%s', %d, %d);", level, me, number, hits)
	switch kind {
	case 7: // in rows that others change as well: differences add up
		fmt.Fprintf(&b, "UPDATE counter SET n = n + 1 WHERE id = %d;", 1+w.rand.IntN(5))
	case 0, 1:
		fmt.Fprintf(&b, "INSERT INTO shop.item (id, who, n) VALUES (%d, '%s', %d) ON CONFLICT (id) DO UPDATE SET n = excluded.n;", mine(), me, number)
	case 2:
		from, to := mine(), mine()
		fmt.Fprintf(&b, "UPDATE shop.item SET id = %d, n = n + 1 WHERE id = %d AND NOT EXISTS (SELECT FROM shop.item WHERE id = %d);", to, from, to)
	case 3:
		fmt.Fprintf(&b, "INSERT INTO shop.item (id, who, n) VALUES (%d, '%s', 0) ON CONFLICT DO NOTHING;", base+1000, me)
		fmt.Fprintf(&b, "UPDATE shop.item SET n = n + 1 WHERE id = %d; UPDATE shop.item SET m = 'sad' WHERE id = %d;", base+1000, mine())
	case 4:
		fmt.Fprintf(&b, "DELETE FROM shop.item WHERE id = %d;", mine())
	case 5:
		fmt.Fprintf(&b, "UPDATE contested SET who = '%s', n = %d WHERE id = %d;", me, number, 1+w.rand.IntN(10))
	default:
		b.WriteString("CREATE TEMP TABLE scratch (id serial PRIMARY KEY, v text); CREATE INDEX ON scratch (v); " +
			"INSERT INTO scratch (v) SELECT who FROM contested; DROP TABLE scratch;")
	}
	b.WriteString("COMMIT")
	return b.String()
}

// load writes on nodes.
type load struct {
	writers []*writer
	cancel  context.CancelFunc
	group   sync.WaitGroup
}

// startLoad begins to write; numbers go on where an earlier load has ended.
func startLoad(t testing.TB, nodes ...*node) *load {
	t.Helper()
	return startLoadOf(t, habit{count: true}, nodes...)
}

func startLoadOf(t testing.TB, h habit, nodes ...*node) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	l := &load{cancel: cancel}
	for i, n := range nodes {
		w := &writer{n: n, habit: h, rand: rand.New(rand.NewPCG(uint64(i), 7))}
		text := n.text(t, fmt.Sprintf("SELECT coalesce(max(number), 0) FROM journal WHERE node = '%s'", n.name))
		_, err := fmt.Sscan(text, &w.last)
		require.NoError(t, err)
		l.writers = append(l.writers, w)
		l.group.Go(func() { w.run(ctx) })
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) end() {
	l.cancel()
	l.group.Wait()
}

// stop ends the writing when each writer has written.
func (l *load) stop(t testing.TB) {
	t.Helper()
	for _, w := range l.writers {
		await(t, func() error {
			if w.done.Load() < 10 {
				return want("%s has written %d times", w.n.name, w.done.Load())
			}
			return nil
		})
	}
	l.end()
	for _, w := range l.writers {
		require.Empty(t, w.refused, "clients of %s saw errors", w.n.name)
	}
}

// converged stops the load, waits for rest, and compares all nodes.
func (l *load) converged(t testing.TB, nodes ...*node) {
	t.Helper()
	l.stop(t)
	settle(t, nodes...)
	settle(t, nodes...)
	if t.Failed() {
		return
	}
	defer func() {
		if t.Failed() {
			for _, n := range nodes {
				n.explain(t)
			}
		}
	}()
	for _, n := range nodes {
		for _, w := range l.writers {
			require.Equal(t, fmt.Sprintf("%[1]d|%[1]d|%[1]d", w.last), n.text(t, fmt.Sprintf(
				"SELECT count(*), count(DISTINCT number), max(number) FROM journal WHERE node = '%s'", w.n.name)),
				"transactions of %s on %s: all, distinct, last", w.n.name, n.name)
		}
		require.Equal(t, "t", n.text(t, "SELECT (SELECT sum(n) FROM counter) = (SELECT coalesce(sum(hits), 0) FROM journal)"), "counters of %s", n.name)
		require.Empty(t, n.text(t, "SELECT operation, table_name, error_message FROM spock.exception_log LIMIT 3"), "exceptions of %s", n.name)
	}
	for _, sql := range compared {
		equal(t, sql, nodes...)
	}
}

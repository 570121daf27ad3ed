package multimaster

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

const patience = 10 * time.Minute

// number is a setting of the benchmark.
func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

// load is something that the provider does while nobody follows.
type load struct {
	name string
	what string
	unit string
	n    int // of what is counted
	aim  aim
	make func(b *testing.B, f *field, n, round int)
}

func loads() []load {
	script := func(text string) func(b *testing.B, f *field, n, round int) {
		return func(b *testing.B, f *field, n, _ int) {
			b.Helper()
			path := filepath.Join(b.TempDir(), "script.sql")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				b.Fatal(err)
			}
			f.pgbench(b, "-n", "-M", "prepared", "-c", "4", "-t", fmt.Sprint(n/4), "-f", path, "-s", fmt.Sprint(f.scale))
		}
	}
	return []load{
		{
			name: "small", what: "pgbench's transactions, four rows each", unit: "%.0f tx/s", n: 40000, aim: aim{ratio: 1},
			make: func(b *testing.B, f *field, n, _ int) {
				b.Helper()
				f.pgbench(b, "-n", "-M", "prepared", "-c", "4", "-t", fmt.Sprint(n/4))
			},
		},
		{
			name: "single", what: "transactions of one updated row", unit: "%.0f tx/s", n: 60000,
			make: script("\\set id random(1, 100000)\nUPDATE item SET n = n + 1 WHERE id = :id;\n"),
		},
		{
			name: "mixed", what: "mixed transactions: inserts, deletes, runs of updates", unit: "%.0f tx/s", n: 20000,
			make: script(`\set id random(1, 99000)
\set gone random(1, 1000000000)
\set pick random(1, 10)
\if :pick <= 5
BEGIN;
UPDATE item SET n = n + 1, v = 'item ' || :gone WHERE id = :id;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :id, 1, now());
END;
\elif :pick <= 7
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid BETWEEN :id AND :id + 19;
\elif :pick <= 9
BEGIN;
INSERT INTO item VALUES (100000 + :gone, 1, 'new') ON CONFLICT DO NOTHING;
UPDATE item SET n = n + 1 WHERE id = :id;
END;
\else
DELETE FROM item WHERE id = (SELECT id FROM item WHERE id > 100000 LIMIT 1 FOR UPDATE SKIP LOCKED);
\endif
`),
		},
		{
			name: "large", what: "one transaction of inserted rows", unit: "%.0f rows/s", n: 1000000, aim: aim{ratio: 1.5},
			make: func(b *testing.B, f *field, n, round int) {
				b.Helper()
				f.exec(b, f.provider, app, fmt.Sprintf("INSERT INTO big SELECT i, 'value ' || i FROM generate_series(%d, %d) i", round*n+1, round*n+n))
			},
		},
	}
}

// BenchmarkReplication has all contenders follow one database: first they copy
// it, then they drain the same backlogs one after the other, in turns.
func BenchmarkReplication(b *testing.B) {
	f := newField(b)
	rounds := number("BENCH_ROUNDS", 3)
	b.Run("copy", func(b *testing.B) {
		for round := range rounds {
			for _, c := range turned(f.contenders, round) {
				f.join(b, c)
				if round < rounds-1 {
					f.leave(b, c)
				}
			}
			f.dump(b)
		}
		b.ReportMetric(0, "ns/op")
	})
	f.follow(b)
	for _, l := range loads() {
		b.Run(l.name, func(b *testing.B) {
			for round := range rounds {
				f.drain(b, l, round)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
	b.Run("lag", func(b *testing.B) {
		for round := range rounds {
			for _, c := range turned(f.contenders, round) {
				f.lag(b, c)
			}
		}
		b.ReportMetric(0, "ns/op")
	})
	f.compare(b)
}

// turned is in another order in each round.
func turned(all []contender, round int) []contender {
	n := round % len(all)
	return append(slices.Clone(all[n:]), all[:n]...)
}

// follow makes all follow who do not yet, stops them, and has them take times.
func (f *field) follow(b *testing.B) {
	b.Helper()
	for _, c := range f.contenders {
		if !f.joined[c.name] {
			f.join(b, c)
		}
		f.exec(b, f.subscriber, c.name, `CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS
			'BEGIN NEW.applied := clock_timestamp(); RETURN NEW; END';
			CREATE TRIGGER stamp BEFORE INSERT ON beat FOR EACH ROW EXECUTE FUNCTION stamp(); ALTER TABLE beat ENABLE ALWAYS TRIGGER stamp`)
		f.stop(b, c)
	}
}

// join copies the database.
func (f *field) join(b *testing.B, c contender) {
	b.Helper()
	if c.name != ours {
		if f.database(b, c.name) && c.name == pglogical {
			f.exec(b, f.subscriber, c.name, fmt.Sprintf("CREATE EXTENSION pglogical; SELECT pglogical.create_node('subscriber', '%s')",
				f.address(f.subscriber, c.name)))
		}
		f.copyDefinitions(b, c.name)
	}
	f.exec(b, f.subscriber, c.name, "CHECKPOINT")
	conn := f.subscriber.Connect(b, c.name)
	defer func() { _ = conn.Close(b.Context()) }()
	began := time.Now()
	if _, err := conn.Exec(b.Context(), c.join); err != nil {
		b.Fatalf("%s: %v", c.name, err)
	}
	f.until(b, conn, c.following)
	f.took(b, c.name, time.Since(began))
	f.joined[c.name] = true
}

// database makes a database on the subscriber unless it is there.
func (f *field) database(b *testing.B, name string) (made bool) {
	b.Helper()
	conn := f.subscriber.Connect(b, "postgres")
	defer func() { _ = conn.Close(b.Context()) }()
	if ask(b, conn, fmt.Sprintf("SELECT EXISTS (SELECT FROM pg_database WHERE datname = '%s')", name)) {
		return false
	}
	f.exec(b, f.subscriber, "postgres", "CREATE DATABASE "+name)
	return true
}

func (f *field) took(b *testing.B, who string, d time.Duration) {
	b.Helper()
	measured.add(fmt.Sprintf("copy of pgbench at scale %d", f.scale), "%.2f s",
		aim{ratio: 0.8, less: true, beside: []string{native, pglogical, dump}}, who, d.Seconds())
}

// leave undoes join.
func (f *field) leave(b *testing.B, c contender) {
	b.Helper()
	f.exec(b, f.subscriber, c.name, c.leave)
	f.empty(b, c.name)
	if c.name == ours { // the copy of the structure brought it along
		f.exec(b, f.subscriber, ours, "DROP EXTENSION IF EXISTS pglogical; DROP SCHEMA IF EXISTS pglogical CASCADE")
	}
	f.joined[c.name] = false
}

// empty drops the tables of a database of the subscriber. The database stays:
// dropping one waits for a word of every process of the server, and pglogical's
// supervisor never gives it.
func (f *field) empty(b *testing.B, database string) {
	b.Helper()
	f.exec(b, f.subscriber, database, `DO $$ DECLARE t text; BEGIN
		FOR t IN SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
		LOOP EXECUTE 'DROP TABLE ' || t; END LOOP; END $$; DROP SEQUENCE IF EXISTS beat_id_seq; DROP PUBLICATION IF EXISTS everything`)
}

// dump is the copy that needs no replication.
func (f *field) dump(b *testing.B) {
	b.Helper()
	f.database(b, dump)
	f.exec(b, f.subscriber, dump, "CHECKPOINT")
	began := time.Now()
	f.shell(b, fmt.Sprintf("%[1]s/pg_dump -n public --no-publications '%[2]s' | %[1]s/psql -qX '%[3]s' 2>&1", f.provider.Bin, f.provider.DSN(app),
		f.subscriber.DSN(dump)))
	f.took(b, dump, time.Since(began))
	f.empty(b, dump)
}

// until waits until a query answers t.
func (f *field) until(b *testing.B, conn *pgx.Conn, sql string) {
	b.Helper()
	for began := time.Now(); time.Since(began) < patience; time.Sleep(5 * time.Millisecond) {
		if ask(b, conn, sql) {
			return
		}
	}
	b.Fatalf("%s: still not true after %s\n%s", sql, patience, f.engine.Tail(20))
}

func ask(b *testing.B, conn *pgx.Conn, sql string) bool {
	b.Helper()
	var yes bool
	if err := conn.QueryRow(b.Context(), sql).Scan(&yes); err != nil {
		b.Fatalf("%s: %v", sql, err)
	}
	return yes
}

func (f *field) stop(b *testing.B, c contender) {
	b.Helper()
	conn := f.subscriber.Connect(b, c.name)
	defer func() { _ = conn.Close(b.Context()) }()
	if _, err := conn.Exec(b.Context(), c.pause); err != nil {
		b.Fatalf("%s: %v", c.name, err)
	}
	f.until(b, conn, c.paused)
}

// mark ends what was written so far with a row that can be waited for.
func (f *field) mark(b *testing.B) (n int) {
	b.Helper()
	conn := f.provider.Connect(b, app)
	defer func() { _ = conn.Close(b.Context()) }()
	if err := conn.QueryRow(b.Context(), "UPDATE marker SET n = n + 1 RETURNING n").Scan(&n); err != nil {
		b.Fatal(err)
	}
	return n
}

// drain makes a backlog and has each contender apply it, alone. Measured is the
// time between two marks, so that connecting is not.
func (f *field) drain(b *testing.B, l load, round int) {
	b.Helper()
	n := l.n * number("BENCH_SIZE", 100) / 100
	first := f.mark(b)
	l.make(b, f, n, round)
	last := f.mark(b)
	f.exec(b, f.provider, app, "CHECKPOINT")
	for _, c := range turned(f.contenders, round) {
		f.exec(b, f.subscriber, c.name, "CHECKPOINT")
		conn := f.subscriber.Connect(b, c.name)
		if _, err := conn.Exec(b.Context(), c.resume); err != nil {
			b.Fatalf("%s: %v", c.name, err)
		}
		f.until(b, conn, fmt.Sprintf("SELECT n >= %d FROM marker", first))
		began, spent := time.Now(), f.applied(b)
		f.until(b, conn, fmt.Sprintf("SELECT n >= %d FROM marker", last))
		took, spent := time.Since(began).Seconds(), f.applied(b)-spent
		measured.add(l.what, l.unit, l.aim, c.name, float64(n)/took)
		measured.add(costOf(l), costUnit, aim{}, c.name, float64(spent.Microseconds())/float64(n))
		_ = conn.Close(b.Context())
		f.stop(b, c)
	}
	if l.name == "small" {
		f.bare(b, l, n)
	}
	if l.name == "large" {
		measured.add("memory of the engine, at most", "%.0f MB", aim{}, ours, memory(b, f.engine.Pid))
	}
}

// lag follows a steady load and measures when each row arrives after its commit.
func (f *field) lag(b *testing.B, c contender) {
	b.Helper()
	conn := f.subscriber.Connect(b, c.name)
	defer func() { _ = conn.Close(b.Context()) }()
	if _, err := conn.Exec(b.Context(), c.resume); err != nil {
		b.Fatalf("%s: %v", c.name, err)
	}
	f.until(b, conn, fmt.Sprintf("SELECT n >= %d FROM marker", f.mark(b)))
	script := filepath.Join(b.TempDir(), "beat.sql")
	if err := os.WriteFile(script, []byte("INSERT INTO beat DEFAULT VALUES;\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	const second = 500
	source := f.provider.Connect(b, app)
	defer func() { _ = source.Close(b.Context()) }()
	var from int64
	if err := source.QueryRow(b.Context(), "SELECT coalesce(max(id), 0) FROM beat").Scan(&from); err != nil {
		b.Fatal(err)
	}
	f.pgbench(b, "-n", "-c", "2", "-R", fmt.Sprint(second), "-T", "10", "-f", script)
	f.until(b, conn, fmt.Sprintf("SELECT n >= %d FROM marker", f.mark(b)))
	sent := times(b, source, "SELECT id, pg_xact_commit_timestamp(xmin) FROM beat WHERE id > $1", from)
	applied := times(b, conn, "SELECT id, applied FROM beat WHERE id > $1", from)
	var lags []float64
	for id, at := range sent {
		lags = append(lags, applied[id].Sub(at).Seconds()*1000)
	}
	slices.Sort(lags)
	what := fmt.Sprintf("lag at %d tx/s, ", second)
	measured.add(what+"median", "%.2f ms", aim{}, c.name, lags[len(lags)/2])
	measured.add(what+"p99", "%.2f ms", aim{ratio: 1, less: true}, c.name, lags[len(lags)*99/100])
	f.stop(b, c)
}

func times(b *testing.B, conn *pgx.Conn, sql string, from int64) map[int64]time.Time {
	b.Helper()
	rows, err := conn.Query(b.Context(), sql, from)
	if err != nil {
		b.Fatal(err)
	}
	all := map[int64]time.Time{}
	var id int64
	var at time.Time
	if _, err := pgx.ForEachRow(rows, []any{&id, &at}, func() error { all[id] = at; return nil }); err != nil {
		b.Fatal(err)
	}
	return all
}

// compare makes sure that speed was not bought with rows.
func (f *field) compare(b *testing.B) {
	b.Helper()
	const sums = `SELECT concat_ws(' ', (SELECT concat(count(*), ' ', sum(abalance)) FROM pgbench_accounts), (SELECT count(*) FROM pgbench_history),
		(SELECT concat(count(*), ' ', sum(n), ' ', sum(hashtext(v))) FROM item), (SELECT concat(count(*), ' ', sum(hashtext(v))) FROM big))`
	read := func(s *pgtest.Server, database string) (text string) {
		conn := s.Connect(b, database)
		defer func() { _ = conn.Close(b.Context()) }()
		if err := conn.QueryRow(b.Context(), sums).Scan(&text); err != nil {
			b.Fatal(err)
		}
		return text
	}
	want := read(f.provider, app)
	for _, c := range f.contenders {
		conn := f.subscriber.Connect(b, c.name)
		if _, err := conn.Exec(b.Context(), c.resume); err != nil {
			b.Fatalf("%s: %v", c.name, err)
		}
		f.until(b, conn, fmt.Sprintf("SELECT n >= %d FROM marker", f.mark(b)))
		_ = conn.Close(b.Context())
		if got := read(f.subscriber, c.name); got != want {
			b.Errorf("%s has %s, the provider %s", c.name, got, want)
		}
	}
}

package apply

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

const bundleTables = `CREATE TABLE t (id int PRIMARY KEY, v text, n int); CREATE TABLE h (id int, v text);
	SELECT spock.repset_add_table('default', 't'), spock.repset_add_table('default_insert_only', 'h');`

// disable stops subscriptions of a node, and waits until they have stopped.
func (n *node) disable(t *testing.T, subscriptions ...string) {
	t.Helper()
	for _, s := range subscriptions {
		n.exec(t, "SELECT spock.sub_disable('"+s+"')")
		n.eventually(t, "SELECT status FROM spock.sub_show_status('"+s+"')", "disabled")
	}
}

func (n *node) enable(t *testing.T, subscriptions ...string) {
	t.Helper()
	for _, s := range subscriptions {
		n.exec(t, "SELECT spock.sub_enable('"+s+"')")
	}
}

// bundles waits until the node's engine may write transactions as one.
func (n *node) bundles(t *testing.T) {
	t.Helper()
	require.NoError(t, pgtest.WaitFor(patience, func() error {
		if !n.engine.bundling.Load() {
			return errors.New("somebody may get from the node what others wrote")
		}
		return nil
	}))
}

// each runs a statement in transactions of its own, for numbers from one to another.
func (n *node) each(t *testing.T, from, to int, statement string) {
	t.Helper()
	n.exec(t, fmt.Sprintf("DO $do$ BEGIN FOR i IN %d..%d LOOP %s; COMMIT; END LOOP; END $do$", from, to, statement))
}

// exactTime is the time of a row's own transaction, as the engine knows it.
func exactTime(table, name string) string {
	return "coalesce(" + bundledTime("'"+table+"'::regclass", name, "k.xmin") + ", pg_xact_commit_timestamp(k.xmin))"
}

// keyOfT is what names rows of table t.
func keyOfT(t *testing.T, n *node) string {
	t.Helper()
	return n.text(t, "SELECT pgdrover.key_expression('t'::regclass, 'k')")
}

// A backlog is written in few transactions; each row is what its last one made
// of it, and its time is known to the microsecond as long as that matters.
func TestBacklogIsBundled(t *testing.T) {
	t.Parallel()
	all := mesh(t, 3, bundleTables, nil)
	a, b := all[0], all[1]
	a.exec(t, "INSERT INTO t VALUES (0, 'x', 0)")
	settle(t, all...)
	b.bundles(t)
	b.disable(t, "sub_n1_n2", "sub_n3_n2")
	a.each(t, 1, 1000, "INSERT INTO t VALUES (i, 'a', i); UPDATE t SET n = n + i, v = 'b' WHERE id IN (i, 0); INSERT INTO h VALUES (i, 'h')")
	b.enable(t, "sub_n1_n2")
	heardFrom(t, b, a)
	require.Equal(t, "1000|500500|1001000", b.text(t, "SELECT (SELECT count(*) FROM h), (SELECT n FROM t WHERE id = 0), (SELECT sum(n) FROM t WHERE id > 0)"))
	require.Equal(t, "t", b.text(t, "SELECT count(DISTINCT xmin::text) < 900 FROM h"))
	key := keyOfT(t, b)
	for table, name := range map[string]string{"t": key, "h": wholeRow("k")} {
		exact := "SELECT string_agg(k.id || ' ' || " + exactTime(table, name) + ", ',' ORDER BY k.id) FROM " + table + " k"
		require.Equal(t, a.text(t, exact), b.text(t, exact), table)
	}
	b.eventually(t, `SELECT sum(n_tup_ins) FILTER (WHERE table_name = 'public.h'), sum(n_tup_upd) FILTER (WHERE table_name = 'public.t'),
		sum(n_conflict) FROM spock.channel_table_stats WHERE sub_name = 'sub_n1_n2'`, "1000|2000|0")
	b.enable(t, "sub_n3_n2")
	settle(t, all...)
	// Nothing older can come any more.
	b.eventually(t, "SELECT count(*) FROM spock.pgdrover_bundle", "0")
}

// What another node wrote between the times of two transactions that were
// written as one comes later than the first of them, and before the second.
func TestChangeFromWithinABundlesTime(t *testing.T) {
	t.Parallel()
	all := mesh(t, 3, bundleTables, nil)
	a, b, c := all[0], all[1], all[2]
	a.exec(t, "INSERT INTO t SELECT i, 'first', 0 FROM generate_series(1, 100) i")
	for range 20 {
		settle(t, all...)
		b.bundles(t)
		key := keyOfT(t, b)
		b.disable(t, "sub_n1_n2", "sub_n3_n2")
		c.disable(t, "sub_n1_n3")
		a.disable(t, "sub_n3_n1")
		a.each(t, 1, 50, "UPDATE t SET v = 'a', n = n + 1 WHERE id = i")
		c.exec(t, "UPDATE t SET v = 'c', n = n + 1; DELETE FROM t WHERE id % 10 = 0")
		a.each(t, 51, 100, "UPDATE t SET v = 'a', n = n + 1 WHERE id = i")
		b.enable(t, "sub_n1_n2")
		heardFrom(t, b, a)
		at := c.text(t, "SELECT max(pg_xact_commit_timestamp(xmin)) FROM t WHERE v = 'c'")
		met := b.text(t, "SELECT count(*) FROM t k WHERE v = 'a' AND pg_xact_commit_timestamp(k.xmin) > '"+at+"' AND "+exactTime("t", key)+" < '"+at+"'")
		b.enable(t, "sub_n3_n2")
		c.enable(t, "sub_n1_n3")
		a.enable(t, "sub_n3_n1")
		settle(t, all...)
		equal(t, "SELECT * FROM t ORDER BY id", all...)
		if met != "0" {
			require.Equal(t, "45 c,50 a", b.text(t, "SELECT string_agg(n || ' ' || v, ',' ORDER BY v DESC) FROM (SELECT count(*) AS n, v FROM t GROUP BY v) x"))
			return
		}
		a.exec(t, "DELETE FROM t")
		settle(t, all...)
		a.exec(t, "INSERT INTO t SELECT i, 'first', 0 FROM generate_series(1, 100) i")
	}
	t.Fatal("no bundle has spanned the other node's change")
}

// A node that joins gets the times of rows as they are, not those of bundles.
func TestCopyOfWhatWasBundled(t *testing.T) {
	t.Parallel()
	all := mesh(t, 3, bundleTables, nil)
	a, b := all[0], all[1]
	settle(t, all...)
	b.bundles(t)
	b.disable(t, "sub_n1_n2", "sub_n3_n2")
	a.each(t, 1, 300, "INSERT INTO t VALUES (i, 'a', i)")
	b.enable(t, "sub_n1_n2")
	b.eventually(t, "SELECT count(*) FROM t", "300")
	require.NotEqual(t, "0", b.text(t, "SELECT count(*) FROM spock.pgdrover_bundle"))
	d := newNode(t, "n4", nil)
	d.exec(t, strings.ReplaceAll(bundleTables, "SELECT spock", "-- "))
	d.subscribe(t, b, ", synchronize_data := true")
	d.eventually(t, "SELECT count(*) FROM t", "300")
	const exact = "SELECT string_agg(id || ' ' || %s, ',' ORDER BY id) FROM t k"
	require.Equal(t, a.text(t, fmt.Sprintf(exact, "pg_xact_commit_timestamp(xmin)")), d.text(t, fmt.Sprintf(exact,
		"(SELECT o.commit_time FROM spock.pgdrover_stamp o WHERE o.relid = 't'::regclass AND o.written_by = k.xmin AND o.key = "+keyOfT(t, d)+")")))
}

// Who gets from a node what others wrote gets each transaction by itself.
func TestWhatIsFollowedIsNotBundled(t *testing.T) {
	t.Parallel()
	a, b, d := newNode(t, "n1", nil), newNode(t, "n2", nil), newNode(t, "n3", nil)
	for _, n := range []*node{a, b, d} {
		n.exec(t, bundleTables)
	}
	b.subscribe(t, a, "")
	a.subscribe(t, b, "")
	a.eventually(t, "SELECT status FROM spock.sub_show_status()", "replicating")
	b.eventually(t, "SELECT string_agg(slot_name, ',') FROM spock.pgdrover_follower", "spk_app_n2_sub_n2_n1")
	b.bundles(t)
	backlog := func(from int) string {
		b.disable(t, "sub_n1_n2")
		a.each(t, from+1, from+300, "INSERT INTO t VALUES (i, 'a', i)")
		b.enable(t, "sub_n1_n2")
		b.eventually(t, fmt.Sprintf("SELECT count(*) FROM t WHERE id > %d", from), "300")
		return b.text(t, fmt.Sprintf("SELECT count(DISTINCT xmin::text) FROM t WHERE id > %d", from))
	}
	require.NotEqual(t, "300", backlog(0))
	b.exec(t, "SELECT pg_create_logical_replication_slot('somebody', 'test_decoding')")
	require.Equal(t, "300", backlog(1000))
	b.exec(t, "SELECT pg_drop_replication_slot('somebody')")
	d.subscribe(t, b, forwarded)
	d.eventually(t, "SELECT status FROM spock.sub_show_status()", "replicating")
	require.Equal(t, "300", backlog(2000))
	d.eventually(t, "SELECT count(*) FROM t WHERE id > 2000", "300")
	const times = "SELECT string_agg(id || ' ' || pg_xact_commit_timestamp(xmin), ',' ORDER BY id) FROM t WHERE id > 2000"
	require.Equal(t, a.text(t, times), d.text(t, times))
}

// One change that meets another node's does not go with others, nor does it keep
// them from being written.
func TestBundleWithAConflict(t *testing.T) {
	t.Parallel()
	all := mesh(t, 2, bundleTables, nil)
	a, b := all[0], all[1]
	a.exec(t, "INSERT INTO t SELECT i, 'first', 0 FROM generate_series(1, 600) i")
	settle(t, all...)
	b.disable(t, "sub_n1_n2")
	a.disable(t, "sub_n2_n1")
	b.exec(t, "UPDATE t SET v = 'early' WHERE id % 50 = 0; DELETE FROM t WHERE id % 70 = 0; INSERT INTO t VALUES (1000, 'early', 1)")
	a.each(t, 1, 600, "UPDATE t SET v = 'a', n = n + 1 WHERE id = i; INSERT INTO h VALUES (i, 'h')")
	a.exec(t, "INSERT INTO t VALUES (1000, 'a', 1)")
	b.exec(t, "UPDATE t SET v = 'late' WHERE id % 30 = 0")
	b.enable(t, "sub_n1_n2")
	a.enable(t, "sub_n2_n1")
	settle(t, all...)
	equal(t, "SELECT * FROM t ORDER BY id", all...)
	equal(t, "SELECT * FROM h ORDER BY id", all...)
	require.Equal(t, "600|600", b.text(t, "SELECT count(*), count(DISTINCT id) FROM h"))
	require.Equal(t, "583 a,18 late", b.text(t, "SELECT string_agg(n || ' ' || v, ',' ORDER BY v) FROM (SELECT count(*) AS n, v FROM t GROUP BY v) x"))
}

// Backlogs of three nodes that write the same few rows, taken up in any order and
// with engines stopped on the way, end equal, and each transaction is there once.
func TestBundlesConverge(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(seed(t), 1))
	all := mesh(t, 3, bundleTables, nil)
	a := all[0]
	a.exec(t, "INSERT INTO t SELECT i, 'first', 0 FROM generate_series(1, 100) i")
	settle(t, all...)
	bundled := 0
	written := 0
	for range number(t, "APPLY_ROUNDS", 4) {
		var off []func()
		for _, n := range all {
			n.bundles(t)
			for _, p := range all {
				if p != n && random.IntN(3) > 0 {
					name := fmt.Sprintf("sub_%s_%s", p.name, n.name)
					n.disable(t, name)
					off = append(off, func() { n.enable(t, name) })
				}
			}
		}
		for range 3 {
			for i, n := range all {
				// Mostly other rows than the other nodes, so that not every bundle meets a conflict.
				one := fmt.Sprintf(`CASE WHEN random() < 0.99 THEN %d + (random() * 30)::int ELSE 1 + (random() * 99)::int END`, 1+33*i)
				n.each(t, written+1, written+100, fmt.Sprintf(`UPDATE t SET v = '%[1]s' || i, n = n + 1 WHERE id = %[2]s;
					INSERT INTO t VALUES (%[2]s + CASE WHEN random() < 0.5 THEN 100 + i * 200 ELSE 0 END, '%[1]s new' || i, 0) ON CONFLICT DO NOTHING;
					IF random() < 0.01 THEN DELETE FROM t WHERE id = %[2]s; END IF;
					INSERT INTO h VALUES (i, '%[1]s')`, n.name, one))
			}
			written += 100
		}
		random.Shuffle(len(off), func(i, j int) { off[i], off[j] = off[j], off[i] })
		for _, on := range off {
			on()
			if n := all[random.IntN(3)]; random.IntN(2) == 0 {
				n.stopEngine()
				n.start(t)
			}
		}
		settle(t, all...)
		equal(t, "SELECT * FROM t ORDER BY id", all...)
		equal(t, "SELECT * FROM h ORDER BY v, id", all...)
		for _, n := range all {
			require.Equal(t, fmt.Sprintf("%d|%[1]d", 3*written), n.text(t, "SELECT count(*), count(DISTINCT (id, v)) FROM h"))
			if n.text(t, "SELECT count(DISTINCT xmin::text) < count(*) FROM h") == "t" {
				bundled++
			}
		}
	}
	require.NotZero(t, bundled)
}

// Sessions that end at any moment of a backlog lose no bundle and repeat none.
func TestBundlesAreThereOnce(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(seed(t), 2))
	a, b := pairOf(t, bundleTables, "", nil)
	a.exec(t, "INSERT INTO t SELECT i, 'x', 0 FROM generate_series(1, 100) i")
	settle(t, a, b)
	for round := range number(t, "APPLY_ROUNDS", 3) {
		b.bundles(t)
		b.disable(t, "sub_n1_n2")
		a.each(t, round*3000+1, round*3000+3000, "UPDATE t SET n = n + 1 WHERE id = 1 + i % 100; INSERT INTO h VALUES (i, 'h')")
		b.enable(t, "sub_n1_n2")
		for range 5 {
			time.Sleep(time.Duration(random.IntN(120)) * time.Millisecond)
			b.exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'spock apply%'")
		}
		settle(t, a, b)
		require.Equal(t, fmt.Sprintf("%d|%[1]d", 3000*(round+1)), b.text(t, "SELECT count(*), count(DISTINCT id) FROM h"))
		equal(t, "SELECT * FROM t ORDER BY id", a, b)
	}
	require.Equal(t, "t", b.text(t, "SELECT count(DISTINCT xmin::text) < count(*) FROM h"))
}

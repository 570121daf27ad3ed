package apply

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// A column changes its type while another node, which has yet to hear of it,
// writes rows in the old one: they win over rows that DDL alone has written
// anew, and mean here what they mean there.
func TestTypeChangesWhileOthersWrite(t *testing.T) {
	t.Parallel()
	cases := []struct{ before, value, other, after string }{
		{"int", "7", "8", "bigint"},
		{"bigint", "7", "8", "int"},
		{"int", "7", "8", "text"},
		{"text", "7", "8", "int USING v::int"},
		{"int", "7", "8", "numeric(10,2)"},
		{"numeric", "7", "8", "int"},
		{"varchar(10)", "x", "y", "text"},
		{"text", "x", "y", "mood USING v::mood"},
		{"mood", "x", "y", "text"},
		{"small", "7", "8", "bigint"},
		{"int", "7", "8", "large"},
		{"small", "7", "8", "large"},
		{"json", `{"a":1}`, `{"b":2}`, "jsonb"},
		{"jsonb", `{"a":1}`, `{"b":2}`, "json"},
		{"int[]", "{1,2}", "{3}", "bigint[]"},
		{"mood[]", "{x,y}", "{y}", "text[]"},
		{"timestamp", "2020-01-01 12:00", "2021-01-01 12:00", "timestamptz USING v AT TIME ZONE 'UTC'"},
		{"pair", "(1,x)", "(2,y)", "text USING v::text"},
		{"digit", "7", "8888", "int USING v::text::int; DROP TYPE digit"},
	}
	setup := "CREATE TYPE mood AS ENUM ('x', 'y'); CREATE DOMAIN small AS int; CREATE DOMAIN large AS bigint; CREATE TYPE pair AS (a int, b text); CREATE TYPE digit AS ENUM ('7', '8888');"
	var fill, alter, write strings.Builder
	for i, c := range cases {
		setup += fmt.Sprintf("CREATE TABLE t%d (id int PRIMARY KEY, v %s, w int); SELECT spock.repset_add_table('default', 't%[1]d');", i, c.before)
		fmt.Fprintf(&fill, "INSERT INTO t%d SELECT i, '%s', i FROM generate_series(1, 9) i;", i, c.value)
		fmt.Fprintf(&alter, "ALTER TABLE t%d ALTER v TYPE %s;", i, c.after)
		fmt.Fprintf(&write, "UPDATE t%d SET v = '%[2]s' WHERE id = 1; DELETE FROM t%[1]d WHERE id = 2; INSERT INTO t%[1]d VALUES (20, '%[2]s', 1);"+
			"INSERT INTO t%[1]d SELECT i, '%[3]s', i FROM generate_series(100, 400) i; UPDATE t%[1]d SET w = 0 WHERE id > 300; UPDATE t%[1]d SET id = 30 WHERE id = 3;",
			i, c.other, c.value)
	}
	a, b := pairOf(t, setup, "", nil)
	a.exec(t, fill.String())
	settle(t, a, b)
	b.halt(t)
	a.exec(t, travels+alter.String()+"RESET spock.enable_ddl_replication")
	for _, statement := range strings.SplitAfter(write.String(), ";") {
		b.exec(t, statement)
	}
	heardFrom(t, a, b)
	b.start(t)
	settle(t, a, b)
	for i, c := range cases {
		t.Log(c.before, "to", c.after)
		equal(t, fmt.Sprintf("SELECT id, v::text, w FROM t%d ORDER BY id", i), a, b)
		require.Equal(t, "310|1|100", a.text(t, fmt.Sprintf(
			"SELECT count(*), count(*) FILTER (WHERE id = 30), count(*) FILTER (WHERE w = 0) FROM t%d WHERE v IS NOT NULL", i)))
	}
	for _, n := range []*node{a, b} {
		require.Equal(t, "0", n.text(t, "SELECT count(*) FROM spock.exception_log"))
	}
}

// Rows that DDL writes anew lose against what others have written before they
// heard of it, unless its transaction writes rows as well.
func TestRowsThatDDLRewrites(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, `CREATE TABLE t (id int PRIMARY KEY, v text, u int UNIQUE); CREATE TABLE emptied (id int PRIMARY KEY, v int);
		CREATE TABLE before (id int PRIMARY KEY, v text, w int); CREATE TABLE after (id int PRIMARY KEY, v text, w int);
		CREATE TABLE parted (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (100);
		SELECT spock.repset_add_table('default', r) FROM unnest('{t,emptied,before,after,parted}'::regclass[]) r;`, "", nil)
	a.exec(t, `INSERT INTO t SELECT i, 'a', i FROM generate_series(1, 20) i; INSERT INTO emptied VALUES (1, 1); INSERT INTO parted VALUES (1, 1), (2, 2);
		INSERT INTO before VALUES (1, 'a'), (2, 'a'); INSERT INTO after VALUES (1, 'a'), (2, 'a')`)
	settle(t, a, b)
	b.halt(t)
	a.exec(t, "SELECT spock.sub_disable('sub_n2_n1')")
	a.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n2_n1')", "disabled")
	b.exec(t, `UPDATE t SET v = 'b' WHERE id < 6; DELETE FROM t WHERE id = 9; UPDATE t SET id = 100 WHERE id = 10; UPDATE t SET u = 110 WHERE id = 11;
		TRUNCATE emptied; UPDATE parted SET v = 8 WHERE id = 1; UPDATE before SET v = 'b'; UPDATE after SET v = 'b'`)
	for _, transaction := range []string{
		"ALTER TABLE t ALTER id TYPE bigint, ALTER u TYPE bigint", "ALTER TABLE t ADD r float DEFAULT random()",
		"BEGIN; UPDATE before SET v = 'a2'; ALTER TABLE before ALTER w TYPE bigint; COMMIT",
		"BEGIN; ALTER TABLE after ALTER w TYPE bigint; UPDATE after SET v = 'a2'; COMMIT",
		"BEGIN; SAVEPOINT s; ALTER TABLE parted ALTER v TYPE bigint; ROLLBACK TO s; ALTER TABLE parted ALTER v TYPE numeric; RELEASE s; COMMIT",
		"ALTER TABLE emptied ALTER v TYPE bigint", "ALTER TABLE emptied SET (fillfactor = 90)",
	} {
		a.exec(t, travels+transaction)
	}
	a.exec(t, "RESET spock.enable_ddl_replication; BEGIN; UPDATE t SET v = 'never'; DELETE FROM t WHERE id < 4; DROP TABLE t CASCADE; ROLLBACK")
	a.exec(t, "BEGIN; UPDATE t SET v = 'never'; ROLLBACK")
	require.Equal(t, "t 2,before 0,after 0,parted 0,part 1,emptied 1", a.text(t, `SELECT string_agg(n || ' ' ||
		(SELECT count(*) FROM spock.pgdrover_rewrite w WHERE w.relid = n::regclass), ',') FROM unnest('{t,before,after,parted,part,emptied}'::text[]) n`))
	a.exec(t, "UPDATE t SET v = 'a3' WHERE id = 2; SELECT spock.sub_enable('sub_n2_n1')")
	heardFrom(t, a, b)
	b.start(t)
	settle(t, a, b)
	for _, query := range []string{
		"SELECT id, v, u FROM t ORDER BY id", "SELECT * FROM emptied", "SELECT * FROM parted ORDER BY id", "SELECT * FROM before ORDER BY id", "SELECT * FROM after ORDER BY id",
	} {
		equal(t, query, a, b)
	}
	require.Equal(t, "1 b,2 a3,3 b,4 b,5 b", a.text(t, "SELECT string_agg(concat_ws(' ', id, v), ',' ORDER BY id) FROM t WHERE id < 6"))
	require.Equal(t, "a2,a2,a2,a2|0", a.text(t, "SELECT string_agg(v, ','), (SELECT count(*) FROM emptied) FROM (TABLE before UNION ALL TABLE after) x"))
	require.Equal(t, "4", b.text(t, "SELECT count(*) FROM spock.pgdrover_rewrite"))
	a.exec(t, "DROP TABLE parted, emptied CASCADE")
	require.Equal(t, "2", a.text(t, "SELECT count(*) FROM spock.pgdrover_rewrite"))
	for _, n := range []*node{a, b} {
		require.Equal(t, "0", n.text(t, "SELECT count(*) FROM spock.exception_log"))
	}
}

// A setting that anybody may make is no list of tables.
func TestListOfRewrittenTablesIsNobodys(t *testing.T) {
	t.Parallel()
	a, _ := pairOf(t, "CREATE TABLE t (id int PRIMARY KEY)", "", nil)
	a.exec(t, "SET pgdrover.rewritten = 'x 1 2'; CREATE TABLE one (id int); CREATE TABLE two (id int)")
	require.Equal(t, "0", a.text(t, "SELECT count(*) FROM spock.pgdrover_rewrite"))
}

// A type that is renamed, and another that gets its name: values are of the type
// that the column has.
func TestTypeIsRenamed(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, `CREATE TYPE mood AS ENUM ('x', 'y', 'z'); CREATE TABLE t (id int PRIMARY KEY, m mood); CREATE TABLE u (id int PRIMARY KEY, m mood, n mood[]);
		SELECT spock.repset_add_table('default', r) FROM unnest('{t,u}'::regclass[]) r`, "", nil)
	a.exec(t, "INSERT INTO t VALUES (1, 'x'); INSERT INTO u VALUES (1, 'z', '{z}')")
	b.exec(t, "INSERT INTO u VALUES (2, 'z', '{z}')")
	settle(t, a, b)
	a.exec(t, travels+"ALTER TYPE mood RENAME TO mood_old; CREATE TYPE mood AS ENUM ('x', 'y'); ALTER TABLE t ALTER m TYPE mood USING m::text::mood; RESET spock.enable_ddl_replication")
	a.exec(t, "INSERT INTO u VALUES (3, 'z', '{z}'); INSERT INTO t VALUES (2, 'y')")
	settle(t, a, b)
	b.exec(t, "INSERT INTO u VALUES (4, 'z', '{z}'); UPDATE u SET m = 'y' WHERE id = 1")
	settle(t, a, b)
	for _, n := range []*node{a, b} {
		require.Equal(t, "1 y {z},2 z {z},3 z {z},4 z {z}", n.text(t, "SELECT string_agg(concat_ws(' ', id, m, n), ',' ORDER BY id) FROM u"))
		require.Equal(t, "1 x,2 y", n.text(t, "SELECT string_agg(concat_ws(' ', id, m), ',' ORDER BY id) FROM t"))
		require.Equal(t, "0", n.text(t, "SELECT count(*) FROM spock.exception_log"))
	}
}

// A key that is no value of the column here finds none.
func TestKeysOfAnotherType(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	a.exec(t, "CREATE TABLE t (id numeric PRIMARY KEY, v text); SELECT spock.repset_add_table('default', 't')")
	b.exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	b.subscribe(t, a, "")
	a.exec(t, "INSERT INTO t VALUES (1, 'one'), (2.00, 'two'), (3, 'three')")
	a.exec(t, "SELECT spock.repair_mode(true); INSERT INTO t VALUES (1.4, 'other')")
	a.exec(t, "UPDATE t SET v = 'changed' WHERE id = 2; DELETE FROM t WHERE id = 1.4; DELETE FROM t WHERE id = 3.0; INSERT INTO t VALUES (9, 'last')")
	b.eventually(t, "SELECT count(*) FROM t WHERE id = 9", "1")
	require.Equal(t, "one,changed,last", b.text(t, "SELECT string_agg(v, ',' ORDER BY id) FROM t"))
}

// Nodes change the types of columns in turn while all of them write rows, each
// its own: nothing is lost, and nobody stumbles over a definition that changes
// beside him.
func TestTypesChangeUnderWriters(t *testing.T) {
	t.Parallel()
	all := mesh(t, 3, "CREATE TABLE t (id int PRIMARY KEY, v int, w text, u int UNIQUE); SELECT spock.repset_add_table('default', 't')", nil)
	for i, n := range all {
		n.exec(t, fmt.Sprintf("INSERT INTO t SELECT i, i, '7', i FROM generate_series(%d, %d) i", i*1000+1, i*1000+300))
	}
	settle(t, all...)
	var writers sync.WaitGroup
	var stop atomic.Bool
	var written [3]atomic.Int64
	defer writers.Wait()
	defer stop.Store(true)
	for i, n := range all {
		conn, err := pgx.Connect(t.Context(), n.dsn())
		require.NoError(t, err)
		writers.Go(func() {
			defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for !stop.Load() {
				id := i*1000 + 1 + r.IntN(300)
				sql := fmt.Sprintf("UPDATE t SET v = %d, w = '%d' WHERE id = %d", r.IntN(1000), r.IntN(1000), id)
				switch r.IntN(4) {
				case 0:
					sql = fmt.Sprintf("DELETE FROM t WHERE id = %d", id)
				case 1:
					sql = fmt.Sprintf("INSERT INTO t VALUES (%d, %[1]d, '5', %[1]d) ON CONFLICT DO NOTHING", id)
				}
				if _, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
					t.Error(err)
					return
				}
				written[i].Add(1)
			}
		})
	}
	for k, change := range []string{
		"v TYPE bigint", "w TYPE int USING w::int", "v TYPE text", "w TYPE text", "v TYPE int USING v::int", "u TYPE bigint", "u TYPE int",
	} {
		n := all[k%3]
		n.exec(t, travels+"ALTER TABLE t ALTER "+change+"; RESET spock.enable_ddl_replication")
		lsn := n.text(t, "SELECT spock.sync_event()")
		for i, m := range all {
			if m != n {
				m.eventually(t, fmt.Sprintf("SELECT max(remote_lsn) >= '%s' FROM pg_replication_origin_status WHERE external_id LIKE '%%sub_n%d\\_%%'", lsn, k%3+1), "t")
			}
			before := written[i].Load()
			require.Eventually(t, func() bool { return written[i].Load() > before+10 }, time.Minute, 10*time.Millisecond)
		}
	}
	stop.Store(true)
	writers.Wait()
	settle(t, all...)
	equal(t, "SELECT * FROM t ORDER BY id", all...)
	for _, n := range all {
		require.Equal(t, "0", n.text(t, "SELECT count(*) FROM spock.exception_log"))
		require.Equal(t, "7", n.text(t, "SELECT count(*) FROM spock.pgdrover_rewrite"))
	}
}

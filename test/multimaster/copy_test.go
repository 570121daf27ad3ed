package multimaster

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const wholeCopy = ", synchronize_structure := true, synchronize_data := true"

// A row is copied to a node that joins; an older change of it, of a third node,
// arrives there afterwards. It lost at the source, and loses at the new node.
func TestCheck05OlderChangeAfterTheCopy(t *testing.T) {
	t.Parallel()
	a, b, c := newNode(t, "n1", nil), newNode(t, "n2", nil), newNode(t, "n3", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, oneTable)
	}
	a.subscribe(t, b, "")
	b.subscribe(t, a, "")
	a.exec(t, "INSERT INTO t SELECT i, 'start' FROM generate_series(1, 20) i")
	settle(t, a, b)
	// As an operator who adds a node does it: the peer's slot first.
	b.exec(t, "SELECT pg_create_logical_replication_slot(spock.spock_gen_slot_name('app', 'n2', 'sub_n2_n3'), 'pgoutput')")
	c.ask(t, b, ", enabled := false")
	b.links["n1"].Stall() // the stream stands, and does not know
	b.exec(t, "UPDATE t SET v = 'older' WHERE id <= 10")
	a.exec(t, "UPDATE t SET v = 'newer' WHERE id <= 5")
	c.subscribe(t, a, wholeCopy)
	c.exec(t, "SELECT spock.sub_wait_for_sync('sub_n1_n3')")
	c.exec(t, "SELECT spock.sub_enable('sub_n2_n3')")
	a.back(b)
	settle(t, a, b, c)
	equal(t, "SELECT * FROM t ORDER BY id", a, b, c)
	require.Equal(t, "5|5|10", c.text(t, `SELECT count(*) FILTER (WHERE v = 'newer'), count(*) FILTER (WHERE v = 'older'), count(*) FILTER (WHERE v = 'start') FROM t`))
}

// An engine that is killed while keys and indexes are built goes on with those
// that are left, beside sessions of its own that may be at work still.
func TestCopySurvivesKillsAmongIndexes(t *testing.T) {
	t.Parallel()
	settings := map[string]string{"spock.restart_delay_default": "200"}
	a, b := newNode(t, "n1", settings), newNode(t, "n2", settings)
	a.exec(t, `CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM pg_catalog.pg_sleep(0.01); RETURN $1; END';
		CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, t int REFERENCES t);
		CREATE INDEX slow1 ON t (slow(id)); CREATE INDEX slow2 ON t (slow(-id)); CREATE INDEX slow3 ON u (slow(id)); CREATE UNIQUE INDEX plain ON u (t);
		INSERT INTO t SELECT i, 'v' FROM generate_series(1, 50) i; INSERT INTO u SELECT i, i FROM generate_series(1, 50) i;
		SELECT spock.repset_add_table('default', t::regclass) FROM unnest('{t,u}'::text[]) t`)
	b.exec(t, "ALTER DATABASE app SET pgdrover.copy_limits = 'jobs=2'")
	b.ask(t, a, wholeCopy)
	for n := range 4 {
		b.eventually(t, fmt.Sprintf(`SELECT EXISTS (SELECT FROM spock.local_sync_status WHERE sync_relname IS NULL AND sync_status = 'r')
			OR (SELECT count(*) FROM pg_index WHERE indrelid IN (to_regclass('t'), to_regclass('u'))) > %d`, n), "t", a)
		if n == 1 {
			b.crash(t)
			continue
		}
		b.stop(t, syscall.SIGKILL)
		a.exec(t, fmt.Sprintf("UPDATE t SET v = v || '.' WHERE id %% 10 = %d", n))
		b.start(t)
	}
	b.eventually(t, "SELECT coalesce(bool_and(sync_status = 'r'), false) FROM spock.local_sync_status", "t", a)
	b.follow(t, a)
	for _, q := range []string{
		"SELECT * FROM t ORDER BY id", "SELECT * FROM u ORDER BY id",
		"SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid IN ('t'::regclass, 'u'::regclass) ORDER BY 1",
		"SELECT conname, convalidated FROM pg_constraint WHERE conrelid IN ('t'::regclass, 'u'::regclass) ORDER BY 1",
	} {
		equal(t, q, a, b)
	}
	noExceptions(t, b)
}

// The first copy goes on after whatever is killed meanwhile, and ends equal.
func TestCopySurvivesKills(t *testing.T) {
	t.Parallel()
	settings := map[string]string{"spock.restart_delay_default": "200"}
	a, b := newNode(t, "n1", settings), newNode(t, "n2", settings)
	a.exec(t, `CREATE TABLE journal (node text, number int);
		CREATE TABLE big (id int PRIMARY KEY, v text UNIQUE); CREATE TABLE small (id int PRIMARY KEY REFERENCES big, v text);
		INSERT INTO big SELECT i, 'row ' || i FROM generate_series(1, 60000) i; INSERT INTO small SELECT i, 'x' FROM generate_series(1, 20000) i;
		SELECT spock.repset_add_table('default', t::regclass) FROM unnest('{big,small}'::text[]) t; SELECT spock.repset_add_table('default_insert_only', 'journal')`)
	b.ask(t, a, wholeCopy)
	r := rand.New(rand.NewPCG(5, 5))
	const done = "SELECT coalesce(bool_and(sync_status = 'r'), false) FROM spock.local_sync_status"
	for i := range 6 {
		pause(t.Context(), time.Duration(r.IntN(400))*time.Millisecond)
		a.exec(t, fmt.Sprintf("INSERT INTO journal VALUES ('n1', %d); UPDATE big SET v = v || '.' WHERE id %% 100 = %d", i, i))
		switch i % 3 {
		case 0:
			b.stop(t, syscall.SIGKILL)
			b.start(t)
		case 1:
			b.crash(t)
		case 2:
			a.crash(t)
		}
	}
	b.eventually(t, done, "t", a)
	b.follow(t, a)
	for _, table := range []string{"big", "small", "journal"} {
		equal(t, "SELECT count(*), sum(hashtext(t::text)::bigint) FROM "+table+" t", a, b)
	}
	require.Equal(t, "6|6", b.text(t, "SELECT count(*), count(DISTINCT number) FROM journal"))
	require.Equal(t, "1", b.text(t, "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conrelid = 'small'::regclass"))
	noExceptions(t, b)
	require.Equal(t, "1", a.text(t, "SELECT count(*) FROM pg_replication_slots"))
}

package apply

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// A transaction that changes many keys leaves a tombstone for each, and looks
// for those of each: it must find them by their keys, not read them all.
func TestTombstonesAreFoundByTheirKeys(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	const rows = 500
	for _, n := range []*node{a, b} {
		n.exec(t, keyed)
	}
	// To the planner another table has all of them.
	b.exec(t, `CREATE TABLE other (id int PRIMARY KEY); SELECT spock.repset_add_table('default', 'other');
		INSERT INTO other SELECT generate_series(1, 5000); DELETE FROM other; ANALYZE spock.pgdrover_tombstone`)
	b.subscribe(t, a, "")
	a.exec(t, fmt.Sprintf("INSERT INTO t SELECT i, 'v' FROM generate_series(1, %d) i; UPDATE t SET id = -id", rows))
	b.eventually(t, "SELECT sum(id) FROM t", fmt.Sprint(-rows*(rows+1)/2))
	b.eventually(t, fmt.Sprintf("SELECT (sum(n_tup_ins) >= %d)::text FROM pg_stat_user_tables WHERE relname = 'pgdrover_tombstone'", 5000+rows), "true")
	read, err := strconv.Atoi(b.text(t, "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'pgdrover_tombstone'"))
	require.NoError(t, err)
	require.Less(t, read, 50*rows, "half of their square would be %d", rows*rows/2)
	equal(t, "SELECT * FROM t ORDER BY id", a, b)
}

// Rows that move to other keys arrive as they are, also over keys that others
// leave, with what only this node has, and with values that did not come along.
func TestRowsMoveToOtherKeys(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, `CREATE TABLE t (a int, b text, v text, g int GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (a, b));
			CREATE TABLE more (id int PRIMARY KEY, v text, large text); ALTER TABLE more ALTER large SET STORAGE EXTERNAL;
			CREATE TABLE wide (id int PRIMARY KEY, v text);
			SELECT spock.repset_add_table('default', r) FROM unnest('{t,more,wide}'::regclass[]) r`)
	}
	b.exec(t, "ALTER TABLE wide ADD mine text DEFAULT 'default'")
	b.subscribe(t, a, "")
	a.subscribe(t, b, "")
	a.exec(t, `INSERT INTO t SELECT i, 'b' || i % 3, 'v' || i FROM generate_series(1, 100) i;
		INSERT INTO more SELECT i, 'v', repeat(md5(i::text), 200) FROM generate_series(1, 20) i; INSERT INTO wide SELECT i, 'v' FROM generate_series(1, 20) i`)
	settle(t, a, b)
	b.exec(t, "SELECT spock.repair_mode(true); UPDATE wide SET mine = 'mine ' || id; SELECT spock.repair_mode(false)")
	for _, step := range []string{
		"UPDATE t SET a = -a", "UPDATE t SET b = b || 'x' WHERE a % 2 = 0", "UPDATE t SET a = a - 100, v = v || '!'",
		"DO $$ BEGIN FOR i IN 1 .. 100 LOOP UPDATE t SET a = -101 - i + 1000 WHERE a = -100 - i; END LOOP; END $$",
		"BEGIN; UPDATE t SET a = 5000 WHERE a = 899; UPDATE t SET a = 899 WHERE a = 898; UPDATE t SET a = 898 WHERE a = 5000; COMMIT",
		"UPDATE more SET id = id + 100", "UPDATE more SET id = id + 100, large = large || 'x' WHERE id % 2 = 0", "UPDATE wide SET id = -id",
		"BEGIN; DELETE FROM wide WHERE id = -1; UPDATE wide SET id = -1 WHERE id = -2; INSERT INTO wide VALUES (-2, 'again'); COMMIT",
	} {
		a.exec(t, step)
	}
	settle(t, a, b)
	b.exec(t, "UPDATE t SET a = a + 1000000")
	settle(t, a, b)
	for _, table := range []string{"t", "more"} {
		equal(t, "SELECT r::text FROM "+table+" r ORDER BY 1", a, b)
	}
	equal(t, "SELECT id, v FROM wide ORDER BY id", a, b)
	require.Equal(t, "mine 2|default|mine 3", b.text(t, "SELECT (SELECT mine FROM wide WHERE id = -1), (SELECT mine FROM wide WHERE id = -2), (SELECT mine FROM wide WHERE id = -3)"))
	require.Equal(t, "0|0", b.text(t, "SELECT (SELECT count(*) FROM spock.exception_log), (SELECT count(*) FROM spock.resolutions)"))
}

// In the blocks of a large transaction the end is not known while its rows are
// written: tombstones get its place in the log all the same.
func TestKeysChangeInALargeTransaction(t *testing.T) {
	t.Parallel()
	a, b := pairOf(t, keyed, "", map[string]string{"spock.exception_replay_queue_size": "100000"})
	a.exec(t, "INSERT INTO t SELECT i, 'v' FROM generate_series(1, 10) i")
	settle(t, a, b)
	b.exec(t, "SELECT spock.sub_disable('sub_n1_n2')")
	b.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n1_n2')", "disabled")
	a.eventually(t, "SELECT count(*) FROM pg_replication_slots WHERE active", "0")
	// Nobody needs them here, so that they may be gone a moment later.
	b.exec(t, `SELECT spock.repair_mode(true); CREATE TABLE seen (author_lsn pg_lsn);
		CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen VALUES (NEW.author_lsn); RETURN NEW; END $$;
		CREATE TRIGGER see BEFORE INSERT ON spock.pgdrover_tombstone FOR EACH ROW EXECUTE FUNCTION see();
		ALTER TABLE spock.pgdrover_tombstone ENABLE ALWAYS TRIGGER see; SELECT spock.repair_mode(false)`)
	from := a.text(t, "SELECT pg_current_wal_lsn()")
	a.exec(t, "BEGIN; UPDATE t SET id = -id; INSERT INTO t SELECT i, 'value ' || i FROM generate_series(1000, 15000) i; COMMIT")
	b.exec(t, "SELECT spock.sub_enable('sub_n1_n2')")
	settle(t, a, b)
	equal(t, "SELECT count(*), sum(id) FROM t", a, b)
	require.Equal(t, "10|t", b.text(t, "SELECT count(*), bool_and(author_lsn > '"+from+"') FROM seen"))
}

// A node that is forwarded what came here is told that rows have moved, and not
// that some went and others came: it may have more to them.
func TestMovesAreForwardedAsMoves(t *testing.T) {
	t.Parallel()
	a, b, c := newNode(t, "n1", nil), newNode(t, "n2", nil), newNode(t, "n3", nil)
	for _, n := range []*node{a, b, c} {
		n.exec(t, keyed)
	}
	c.exec(t, "ALTER TABLE t ADD mine text DEFAULT 'default'")
	b.exec(t, "SELECT spock.repset_alter('default', replicate_delete := false)")
	b.subscribe(t, a, "")
	c.subscribe(t, b, ", forward_origins := '{all}'")
	a.exec(t, "INSERT INTO t SELECT i, 'v' FROM generate_series(1, 3) i")
	c.eventually(t, "SELECT count(*) FROM t", "3")
	c.exec(t, "UPDATE t SET mine = 'kept ' || id")
	a.exec(t, "UPDATE t SET id = id * 10; INSERT INTO t VALUES (99, 'last')")
	c.eventually(t, "SELECT count(*) FROM t WHERE id = 99", "1")
	require.Equal(t, "10 kept 1,20 kept 2,30 kept 3,99 default", c.text(t, "SELECT string_agg(id || ' ' || mine, ',' ORDER BY id) FROM t"))
}

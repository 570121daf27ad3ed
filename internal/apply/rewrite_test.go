package apply

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// DDL that rewrites a table makes no row newer than it is, where it was run and
// where it was applied: what another node has written before, and what comes after
// the DDL, wins over older rows and over no others.
func TestRewriteKeepsStamps(t *testing.T) {
	t.Parallel()
	a, b, c := newNode(t, "n1", nil), newNode(t, "n2", nil), newNode(t, "n3", nil)
	nodes := []*node{a, b, c}
	// A transaction on the first node, with which rows of its own go.
	alters := map[string][]string{
		"added":  {"BEGIN; UPDATE added SET v = 'a' WHERE id = 5; ALTER TABLE added ADD COLUMN at timestamptz DEFAULT clock_timestamp(); UPDATE added SET v = 'a' WHERE id = 6; COMMIT"},
		"typed":  {"ALTER TABLE typed ALTER n TYPE bigint"},
		"wider":  {"BEGIN; UPDATE wider SET v = 'a' WHERE id = 5; ALTER TABLE wider ALTER id TYPE bigint; UPDATE wider SET v = 'a' WHERE id = 6; COMMIT"},
		"twice":  {"ALTER TABLE twice ALTER n TYPE bigint", "ALTER TABLE twice ALTER id TYPE bigint"},
		"again":  {"BEGIN; UPDATE again SET v = 'a' WHERE id = 5; ALTER TABLE again ALTER id TYPE bigint; UPDATE again SET v = 'a' WHERE id = 6; ALTER TABLE again ALTER n TYPE bigint; COMMIT"},
		"nested": {"BEGIN; SAVEPOINT one; ALTER TABLE nested ALTER n TYPE bigint; RELEASE one; UPDATE nested SET v = 'a' WHERE id = 6; COMMIT"},
		"parted": {"ALTER TABLE parted ALTER n TYPE bigint"},
		"apart":  {"ALTER TABLE apart ALTER n TYPE bigint"},
	}
	const local = "apart" // every node runs it for itself
	for _, n := range nodes {
		for table := range alters {
			schema := "CREATE TABLE " + table + " (gone text, n int DEFAULT 0, id int PRIMARY KEY, v text);"
			if table == "parted" {
				schema = `CREATE TABLE parted (gone text, n int DEFAULT 0, id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
					CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (4); CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (4) TO (100);`
			}
			n.exec(t, schema+fmt.Sprintf("ALTER TABLE %[1]s DROP gone; SELECT spock.repset_add_table('default', '%[1]s')", table))
			n.forge(t, "'2020-01-01'", fmt.Sprintf("INSERT INTO %s (id, v) SELECT i, 'base' FROM generate_series(1, 4) i", table))
		}
	}
	for _, n := range nodes {
		for _, p := range nodes {
			if n != p {
				n.subscribe(t, p, "")
			}
		}
	}
	for table := range alters {
		a.exec(t, fmt.Sprintf("INSERT INTO %s (id, v) SELECT i, 'base' FROM generate_series(5, 12) i", table))
	}
	settle(t, nodes...)
	for _, n := range []*node{a, b} {
		n.exec(t, fmt.Sprintf("SELECT spock.sub_disable('sub_n3_%s', true)", n.name))
		n.eventually(t, fmt.Sprintf("SELECT status FROM spock.sub_show_status('sub_n3_%s')", n.name), "disabled")
	}
	c.eventually(t, "SELECT count(*) FROM pg_replication_slots WHERE active", "0")
	for table := range alters {
		a.exec(t, fmt.Sprintf("UPDATE %s SET v = 'a' WHERE id IN (7)", table))
		c.exec(t, fmt.Sprintf("UPDATE %[1]s SET v = 'c' WHERE id IN (1, 3, 5, 6, 7, 8, 9); DELETE FROM %[1]s WHERE id IN (2, 4, 10, 11)", table))
		a.exec(t, fmt.Sprintf("UPDATE %s SET v = 'a' WHERE id IN (3, 4, 8, 11)", table))
	}
	a.exec(t, "SET spock.enable_ddl_replication = on")
	for table, texts := range alters {
		for _, text := range texts {
			if table != local {
				a.exec(t, text)
				continue
			}
			for _, n := range nodes {
				n.exec(t, "SELECT spock.repair_mode(true); "+text+"; SELECT spock.repair_mode(false)")
			}
		}
	}
	lsn := a.text(t, "SELECT spock.sync_event()")
	b.eventually(t, fmt.Sprintf("SELECT bool_or(remote_lsn >= '%s')::text FROM pg_replication_origin_status", lsn), "true")
	for _, n := range []*node{a, b} {
		n.exec(t, fmt.Sprintf("SELECT spock.sub_enable('sub_n3_%s', true)", n.name))
	}
	settle(t, nodes...)
	for table, texts := range alters {
		in := func(id int, own string) string {
			if strings.Contains(texts[0], fmt.Sprintf("'a' WHERE id = %d", id)) {
				return own
			}
			return "c"
		}
		want := fmt.Sprintf("1c,3a,4a,5%s,6%s,7c,8a,9c,11a,12base", in(5, "a"), in(6, "a"))
		for _, n := range nodes {
			require.Equal(t, want, n.text(t, fmt.Sprintf("SELECT string_agg(id || v, ',' ORDER BY id) FROM %s", table)), "%s of %s", table, n.name)
		}
	}
	// Everybody has heard of everything.
	for _, n := range nodes {
		n.eventually(t, "SELECT (SELECT count(*) FROM spock.pgdrover_stamp), (SELECT count(*) FROM spock.pgdrover_rewrite)", "0|0")
	}
	equal(t, "SELECT relname, format_type(atttypid, atttypmod) FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE relname = ANY ('{wider,typed,again}') AND attnum > 0 ORDER BY 1, attnum", nodes...)
}

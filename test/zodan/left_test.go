package zodan

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// What runs that fail, and nodes that are gone, must not leave behind; and what
// is left all the same is named.
func TestWhatIsLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := first(t, "n1", nil), newNode(t, "n2", nil)
	ready(t, a, b)
	_ = t.Run("objects of every kind", func(t *testing.T) { objectsOfEveryKind(t, b) }) &&
		t.Run("a removal that ends early", func(t *testing.T) { removalGoesOn(t, dir, a, b) }) &&
		t.Run("rows in tables that were there", func(t *testing.T) { rowsAlone(t, dir, a, b) }) &&
		t.Run("a node that cannot leave", func(t *testing.T) { cannotLeave(t, dir, a, b) }) &&
		t.Run("a slot with another name", func(t *testing.T) { unknownSlot(t, dir, a, b) })
}

// objectsOfEveryKind go with the copy that brought them, and one that cannot go keeps no other.
func objectsOfEveryKind(t *testing.T, b *node) {
	t.Helper()
	kinds := b.text(t, footprint)
	b.exec(t, "SELECT pgdrover.take_inventory('kinds')")
	b.exec(t, `CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE TABLE k (id int PRIMARY KEY, a int, b int);
		CREATE STATISTICS k_stat ON a, b FROM k; CREATE OPERATOR FAMILY fam USING btree; CREATE OPERATOR CLASS cls FOR TYPE int USING btree FAMILY fam AS STORAGE int;
		CREATE CONVERSION conv FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8; CREATE TEXT SEARCH TEMPLATE tmpl (LEXIZE = dsimple_lexize);
		CREATE TEXT SEARCH PARSER prs (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype);
		CREATE TEXT SEARCH DICTIONARY dict (TEMPLATE = tmpl); CREATE TEXT SEARCH CONFIGURATION conf (PARSER = prs); CREATE COLLATION coll FROM "C";
		CREATE DOMAIN dom AS int; CREATE TYPE pair AS (x int); CREATE TABLE pairs (p pair); CREATE TYPE shell; CREATE VIEW v AS SELECT * FROM k; CREATE AGGREGATE agg (int) (SFUNC = int4pl, STYPE = int)`)
	b.exec(t, "CREATE PUBLICATION mine")
	b.exec(t, "CALL pgdrover.purge_copied('kinds')")
	require.Equal(t, kinds, b.text(t, footprint))
	for _, catalog := range []string{"pg_foreign_data_wrapper", "pg_opfamily WHERE opfname = 'fam'", "pg_conversion WHERE conname = 'conv'", "pg_ts_template WHERE tmplname = 'tmpl'", "pg_ts_parser WHERE prsname = 'prs'"} {
		require.Equal(t, "0", b.text(t, "SELECT count(*) FROM "+catalog), catalog)
	}
}

// removalGoesOn: wherever a removal ends early, the same call goes on with it,
// also when the node is none any more and knows nobody: its journal does.
func removalGoesOn(t *testing.T, dir string, a, b *node) {
	t.Helper()
	before := footprints(t, a, b)
	nothing := func() {
		t.Helper()
		require.Empty(t, must(t, 0, remove(dir, b)...).events, "there is nothing to remove")
	}
	nothing()
	must(t, 0, add(dir, a, b)...)
	a.exec(t, "ALTER FUNCTION spock.node_drop(name, boolean) RENAME TO hidden") // it cannot end before that is undone
	for i, phase := range []string{"check", "D1", "D1", "D2", "D3", "D4", "D5", "D6", "D6"} {
		how, words := ends[i%len(ends)], remove(dir, b)
		if phase == "check" {
			how, words = syscall.SIGINT, call(dir, "health-check", "--src-node-name=n1", "--src-dsn="+a.dsn())[:3]
			words = append(words, "--format=json")
		}
		tl := begin(t, func(tl *tool, e event) {
			if e.Status == "running" && e.Phase == phase || phase == "check" {
				tl.end(how)
			}
		}, words...)
		if phase == "D6" { // it may have met what is hidden before
			require.NotZero(t, tl.wait(), tl.said())
			continue
		}
		tl.requireEnded(t, how)
		if how != syscall.SIGKILL {
			requireTold(t, tl)
		}
		if phase == "D1" && how != syscall.SIGKILL {
			require.Contains(t, tl.said(), "taken back: Close n2 to writers")
			b.disconnect()
			b.exec(t, fmt.Sprintf("INSERT INTO journal VALUES ('open again', %d)", i))
		}
	}
	for _, machine := range []string{dir, t.TempDir()} {
		require.Contains(t, must(t, 1, remove(machine, b)...).said(), "D6 | n1 | failed | Forget node n2 on n1")
	}
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM spock.node"))
	a.exec(t, "ALTER FUNCTION spock.hidden(name, boolean) RENAME TO node_drop")
	_, err := b.psql(t, fmt.Sprintf("CALL spock.remove_node('n2', %s, false)", quote(b.dsn())))
	require.NoError(t, err)
	requireFootprints(t, before, a, b)
	nothing()
	_, err = b.psql(t, fmt.Sprintf("CALL spock.remove_node('n2', %s, false)", quote(b.dsn())))
	require.ErrorContains(t, err, "must be run on the node being removed")
	ready(t, a, b)
}

// requireTold: who ends a removal on its way hears whether the node stays closed.
func requireTold(t *testing.T, tl *tool) {
	t.Helper()
	leaving, open := false, false
	for _, e := range tl.events {
		leaving = leaving || e.Phase >= "D2" && e.Phase <= "D7"
		open = open || e.Description == "Open n2 to writers" && e.Status == "ok"
	}
	closed := strings.Contains(tl.said(), "n2 stays closed to writers until the same call has gone on")
	require.Equal(t, leaving && !open, closed, tl.said())
}

// rowsAlone: a join that copies rows into tables that are there is undone to
// empty tables, and can be made again; tables with rows are refused.
func rowsAlone(t *testing.T, dir string, a, b *node) {
	t.Helper()
	b.exec(t, schema)
	b.exec(t, "INSERT INTO contested VALUES (1, 'mine', 0); CREATE TABLE local (item bigint REFERENCES shop.item)")
	words := append(add(dir, a, b), "--skip-schema")
	tl := must(t, 5, words...)
	require.Contains(t, tl.said(), "tables of new node n2 have rows already: public.contested")
	b.exec(t, "DELETE FROM contested")
	before := footprints(t, a, b)
	const args = "name, text, text[], boolean, boolean, text[], interval, boolean, boolean, text[]"
	a.exec(t, "ALTER FUNCTION spock.sub_create("+args+") RENAME TO hidden")
	tl = must(t, 1, words...)
	require.Contains(t, tl.said(), "J14 |")
	require.NotEqual(t, "0", b.text(t, "SELECT count(*) FROM shop.item"))
	a.exec(t, "SET pgdrover.fence = off; ALTER FUNCTION spock.hidden("+args+") RENAME TO sub_create; RESET pgdrover.fence")
	must(t, 0, append(words, "--rollback")...)
	requireFootprints(t, before, a, b)
	require.Equal(t, "0|0|0", b.text(t, "SELECT (SELECT count(*) FROM shop.item), (SELECT count(*) FROM contested), (SELECT count(*) FROM journal)"))
	ready(t, a, b)
	must(t, 0, words...)
	settle(t, a, b)
	for _, sql := range compared {
		equal(t, sql, a, b)
	}
}

// cannotLeave: a removal that waits in vain for the last changes leaves the node
// to its clients.
func cannotLeave(t *testing.T, dir string, a, b *node) {
	t.Helper()
	require.NoError(t, a.engine.Signal(syscall.SIGKILL))
	a.engine.Wait(t, patience)
	words := remove(dir, b)
	for i, word := range words {
		if strings.HasPrefix(word, "--stall-timeout=") {
			words[i] = "--stall-timeout=1s"
		}
	}
	words = words[:len(words)-1] // nobody noted what it held before
	b.disconnect()
	tl := must(t, 4, words...)
	require.Contains(t, tl.said(), "taken back: Close n2 to writers")
	require.NotContains(t, tl.said(), "--rollback")
	b.disconnect()
	b.exec(t, "INSERT INTO journal VALUES ('still here', 1)")
	a.start(t)
	a.eventually(t, "SELECT count(*) FROM journal WHERE node = 'still here'", "1")
}

// unknownSlot: what a dead node has left under a name that only it knew is
// named with what it keeps, and goes when that is asked for.
func unknownSlot(t *testing.T, dir string, a, b *node) {
	t.Helper()
	b.exec(t, fmt.Sprintf("SELECT spock.sub_create('mysub', %s, '{extra}')", quote(a.dsn())))
	b.eventually(t, "SELECT status FROM spock.sub_show_status('mysub')", "replicating")
	slot := b.text(t, "SELECT sub_slot_name FROM spock.subscription WHERE sub_name = 'mysub'")
	b.disconnect()
	b.server.Stop(t, syscall.SIGKILL)
	a.eventually(t, "SELECT count(*) FROM pg_replication_slots WHERE active", "0")
	words := call(dir, "remove_node", "--target-node-name=n2", "--dead", "--survivor-dsn="+a.dsn())
	tl := must(t, 1, words...)
	require.Contains(t, tl.said(), "n1 has slots that nobody reads; if no other subscriber does, call it again with --drop-left-slots: slot "+slot+" keeps ")
	require.Equal(t, slot, a.text(t, "SELECT slot_name FROM pg_replication_slots"))
	must(t, 0, append(words, "--drop-left-slots")...)
	require.Equal(t, "0|1", a.text(t, "SELECT (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM spock.node)"))
	must(t, 0, words...)
}

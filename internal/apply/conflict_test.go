package apply

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each kind of conflict once, made while neither engine runs: both nodes end
// with the same rows, and both say what happened.
func TestConflictsOfEveryKind(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"binary", "text"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			settings := map[string]string{"spock.save_resolutions": "on", "spock.save_remote_wins": "on"}
			a, b := newNode(t, "n1", settings), newNode(t, "n2", settings)
			for _, n := range []*node{a, b} {
				n.exec(t, `CREATE TABLE t (id int PRIMARY KEY, v text, u int UNIQUE, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
					SELECT spock.repset_add_table('default', 't')`)
			}
			options := fmt.Sprintf(", force_text_transfer := %t", mode == "text")
			b.subscribe(t, a, options)
			a.subscribe(t, b, options)
			a.exec(t, "INSERT INTO t SELECT i, 'start', i, repeat('s', 3000) FROM generate_series(1, 20) i")
			settle(t, a, b)
			a.halt(t)
			b.halt(t)
			for _, change := range []struct {
				n   *node
				sql string
			}{
				{a, "INSERT INTO t VALUES (100, 'a', 100)"},
				{b, "INSERT INTO t VALUES (100, 'b', 101)"},
				{b, "UPDATE t SET v = 'b' WHERE id = 1"},
				{a, "UPDATE t SET v = 'a' WHERE id = 1"},
				{a, "DELETE FROM t WHERE id = 2"},
				{b, "UPDATE t SET v = 'b' WHERE id = 2"},
				{b, "UPDATE t SET v = 'b' WHERE id = 3"},
				{a, "DELETE FROM t WHERE id = 3"},
				{a, "DELETE FROM t WHERE id = 4"},
				{b, "DELETE FROM t WHERE id = 4"},
				{a, "UPDATE t SET id = 205 WHERE id = 5"},
				{b, "UPDATE t SET v = 'b' WHERE id = 5"},
				{b, "UPDATE t SET v = 'b' WHERE id = 6"},
				{a, "UPDATE t SET id = 206 WHERE id = 6"},
				{a, "INSERT INTO t VALUES (110, 'a', 300)"},
				{b, "INSERT INTO t VALUES (111, 'b', 300)"},
				{a, "UPDATE t SET big = repeat('a', 3000) WHERE id = 7"},
				{b, "UPDATE t SET v = 'b' WHERE id = 7"},
				{a, "DELETE FROM t WHERE id = 8"},
				{b, "DELETE FROM t WHERE id = 8; INSERT INTO t VALUES (8, 'b again', 8)"},
				{a, "UPDATE t SET id = 209 WHERE id = 9"},
				{b, "INSERT INTO t VALUES (209, 'b', 209)"},
			} {
				change.n.exec(t, change.sql)
			}
			a.start(t)
			b.start(t)
			settle(t, a, b)
			equal(t, "SELECT id, v, u, left(big, 2) FROM t ORDER BY id", a, b)
			for _, want := range []string{"100|b|101|", "1|a|1|ss", "2|b|2|ss", "5|b|5|ss", "206|start|6|ss", "111|b|300|", "8|b again|8|", "209|b|209|"} {
				require.Contains(t, "\n"+a.text(t, "SELECT id, v, u, left(big, 2) FROM t ORDER BY id")+"\n", "\n"+want+"\n")
			}
			for _, n := range []*node{a, b} {
				require.Equal(t, "0", n.text(t, "SELECT count(*) FROM spock.exception_log"), n.text(t, "SELECT error_message FROM spock.exception_log LIMIT 1"))
			}
			a.eventually(t, "SELECT n_conflict > 0 FROM spock.channel_summary_stats WHERE sub_name = 'sub_n2_n1'", "t") // it is stored now and then
			require.Contains(t, b.text(t, "SELECT DISTINCT conflict_type || ' ' || conflict_resolution FROM spock.resolutions"), "insert_exists keep_local")
			require.Contains(t, a.text(t, "SELECT DISTINCT conflict_type || ' ' || conflict_resolution FROM spock.resolutions"), "insert_exists apply_remote")
		})
	}
}

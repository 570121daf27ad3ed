package apply

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBundle(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, `CREATE TABLE t (id int PRIMARY KEY, v text, n int); CREATE TABLE h (id int, v text);
			SELECT spock.repset_add_table('default', 't'), spock.repset_add_table('default_insert_only', 'h')`)
	}
	b.subscribe(t, a, "")
	a.exec(t, "INSERT INTO t VALUES (0, 'x', 0)")
	b.eventually(t, "SELECT count(*) FROM t", "1")
	b.exec(t, "SELECT spock.sub_disable('sub_n1_n2')")
	b.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n1_n2')", "disabled")
	a.exec(t, "DO $$ BEGIN FOR i IN 1..1000 LOOP INSERT INTO t VALUES (i, 'a', i); UPDATE t SET n = n + i, v = 'b' WHERE id IN (i, 0); INSERT INTO h VALUES (i, 'h'); COMMIT; END LOOP; END $$")
	b.exec(t, "SELECT spock.sub_enable('sub_n1_n2')")
	b.eventually(t, "SELECT count(*) FROM h", "1000")
	require.Equal(t, "500500|1501500", b.text(t, "SELECT (SELECT n FROM t WHERE id = 0) || '|' || (SELECT sum(n) FROM t)"))
	t.Log(b.text(t, "SELECT count(*) || ' ' || count(DISTINCT written_by::text) || ' ' || sum(cardinality(keys)) FROM spock.pgdrover_bundle"))
	t.Log(b.text(t, "SELECT count(DISTINCT xmin::text) FROM h"))
}

package apply

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// circle makes nodes that each get everything from the one before.
func circle(t *testing.T) (a, b, c *node) {
	t.Helper()
	settings := map[string]string{"spock.enable_ddl_replication": "on", "spock.include_ddl_repset": "on"}
	a, b, c = newNode(t, "n1", settings), newNode(t, "n2", settings), newNode(t, "n3", settings)
	for _, n := range []*node{a, b, c} {
		n.exec(t, "SET spock.enable_ddl_replication = off; CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE journal (id int);"+
			"SELECT spock.repset_add_table('default', 't'), spock.repset_add_table('default_insert_only', 'journal'); RESET spock.enable_ddl_replication")
	}
	b.subscribe(t, a, forwarded)
	c.subscribe(t, b, forwarded)
	a.subscribe(t, c, forwarded)
	return a, b, c
}

// What goes round comes back to its author, and ends there.
func TestForwardingInACircle(t *testing.T) {
	t.Parallel()
	a, b, c := circle(t)
	all := []*node{a, b, c}
	for i, n := range all {
		n.exec(t, fmt.Sprintf("INSERT INTO t VALUES (%d, '%s'); INSERT INTO journal VALUES (1)", i, n.name))
		n.exec(t, "UPDATE t SET v = v || ' changed'")
	}
	for _, n := range all {
		n.eventually(t, "SELECT count(*) FROM journal", "3")
		n.eventually(t, "SELECT count(*) FROM t", "3")
	}
	a.exec(t, "DELETE FROM t; INSERT INTO t VALUES (1, 'last'); INSERT INTO journal VALUES (2)")
	for range 3 {
		// Each message goes once around, behind whatever still goes.
		for _, n := range all {
			n.exec(t, "INSERT INTO journal VALUES (3)")
			for _, m := range all {
				m.eventually(t, "SELECT count(*) FROM journal WHERE id = 3", n.text(t, "SELECT count(*) FROM journal WHERE id = 3"))
			}
		}
	}
	for _, n := range all {
		require.Equal(t, "13", n.text(t, "SELECT count(*) FROM journal"))
		require.Equal(t, "1|last", n.text(t, "SELECT * FROM t"))
		require.Equal(t, "0", n.text(t, "SELECT coalesce(sum(value), 0) FROM spock.pgdrover_counter WHERE name = 'clock_stepped_back'"))
	}
	places := a.text(t, "SELECT ctid, xmin FROM t")
	a.exec(t, "INSERT INTO journal VALUES (4)")
	for _, n := range all {
		n.eventually(t, "SELECT count(*) FROM journal WHERE id = 4", "1")
	}
	require.Equal(t, places, a.text(t, "SELECT ctid, xmin FROM t"), "nobody writes it again")
}

// DDL goes on to those who get everything through another node, with its place
// among the rows.
func TestDDLIsForwarded(t *testing.T) {
	t.Parallel()
	a, b, c := circle(t)
	a.exec(t, "CREATE TABLE made (id int PRIMARY KEY, v text)")
	a.exec(t, "INSERT INTO made VALUES (1, 'a'); BEGIN; ALTER TABLE made ADD w int; UPDATE made SET w = 7; COMMIT; INSERT INTO made VALUES (2, 'b', 8)")
	for _, n := range []*node{b, c} {
		n.eventually(t, "SELECT count(*) FROM pg_class WHERE relname = 'made'", "1")
		n.eventually(t, "SELECT string_agg(concat_ws(' ', id, v, w), ',' ORDER BY id) FROM made", "1 a 7,2 b 8")
	}
	b.exec(t, "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; INSERT INTO made VALUES (3, 'c', 9)")
	for _, n := range []*node{a, c} {
		n.eventually(t, "SELECT count(*) FROM made", "3")
		require.Equal(t, "1", n.text(t, "SELECT count(*) FROM pg_proc WHERE proname = 'f'"))
	}
	for _, n := range []*node{a, b, c} {
		n.exec(t, "INSERT INTO journal VALUES (1)")
	}
	for _, n := range []*node{a, b, c} {
		n.eventually(t, "SELECT count(*) FROM journal", "3")
		require.Equal(t, "0", n.text(t, "SELECT count(*) FROM spock.exception_log"))
	}
}

// Messages are everybody's to write: what a role writes that may do nothing does
// nothing.
func TestMessagesOfStrangers(t *testing.T) {
	t.Parallel()
	a, b, c := circle(t)
	super := a.text(t, "SELECT current_user")
	a.exec(t, "CREATE ROLE nobody; GRANT CREATE ON SCHEMA public TO nobody")
	b.eventually(t, "SELECT count(*) FROM pg_roles WHERE rolname = 'nobody'", b.text(t, "SELECT count(*) FROM pg_roles WHERE rolname = 'nobody'"))
	for _, n := range []*node{b, c} {
		n.exec(t, "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'nobody') THEN CREATE ROLE nobody; END IF; GRANT CREATE ON SCHEMA public TO nobody; END $$")
	}
	evil := fmt.Sprintf(`json_build_object('role', '%s', 'kind', 'Q', 'all', true, 'text', 'CREATE ROLE evil SUPERUSER')::text`, super)
	a.exec(t, "SET ROLE nobody; SELECT pg_logical_emit_message(true, 'pgdrover/q', "+evil+"); SELECT pg_logical_emit_message(true, 'pgdrover/a', 'x'); "+
		"SELECT pg_logical_emit_message(false, 'pgdrover/a', 'x'); CREATE TABLE public.mine AS SELECT pg_logical_emit_message(true, 'pgdrover/q', "+evil+")::text; RESET ROLE")
	id := b.text(t, "SELECT node_id FROM spock.local_node")
	// Nor does it say of a node what that has applied, or stop who reads it.
	a.exec(t, "SET ROLE nobody; SELECT pg_logical_emit_message(false, 'pgdrover/v', '"+id+"=FFFFFFFF/FFFFFFFF'); "+
		"SELECT pg_logical_emit_message(false, 'pgdrover/v', 'x=y'); RESET ROLE")
	lsn := c.text(t, "SELECT spock.sync_event()")
	b.eventually(t, "SELECT (lsn >= '"+lsn+"')::text FROM spock.pgdrover_vector WHERE provider_id = "+
		a.text(t, "SELECT node_id FROM spock.local_node")+" AND origin_id = "+c.text(t, "SELECT node_id FROM spock.local_node"), "true")
	a.exec(t, "BEGIN; SELECT pg_logical_emit_message(true, 'pgdrover/a', '"+id+"'); INSERT INTO t VALUES (1, 'a'); SELECT pg_logical_emit_message(true, 'pgdrover/a', '"+id+"'); INSERT INTO t VALUES (2, 'a'); COMMIT")
	for _, n := range []*node{b, c} {
		n.eventually(t, "SELECT count(*) FROM t", "2")
		n.eventually(t, "SELECT count(*) FROM pg_class WHERE relname = 'mine'", "1")
		require.Equal(t, "0", n.text(t, "SELECT count(*) FROM pg_roles WHERE rolname = 'evil'"))
		require.Equal(t, "0", n.text(t, "SELECT count(*) FROM spock.pgdrover_vector WHERE lsn = 'FFFFFFFF/FFFFFFFF'"))
		require.Equal(t, "0", n.text(t, "SELECT coalesce(sum(failures), 0) FROM spock.pgdrover_subscription"))
	}
}

package apply

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// A third node joins while the first two are written to. It copies one of them
// and goes on with the other exactly where the copy is.
func TestJoinWhileWriting(t *testing.T) {
	t.Parallel()
	s := seed(t)
	nodes := mesh(t, 2, convergeSchema, nil)
	a, b := nodes[0], nodes[1]
	c := newNode(t, "n3", nil)
	// The slot on the second node, before anything is copied.
	slot := b.text(t, "SELECT spock.spock_gen_slot_name(current_database()::name, 'n2', 'sub_n2_n3')")
	b.exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	c.exec(t, fmt.Sprintf("SELECT spock.sub_create('sub_n2_n3', '%s', enabled := false)", b.dsn()))
	joined := make(chan struct{})
	done := false
	writers := write(t, s, nodes, number(t, "APPLY_TRANSACTIONS", 200), func(context.Context, *rand.Rand) {
		if done {
			return
		}
		done = true
		c.subscribe(t, a, wholeCopy)
		close(joined)
	})
	select {
	case <-joined:
	default:
		c.subscribe(t, a, wholeCopy)
	}
	at := c.text(t, `SELECT p.remote_lsn FROM spock.progress p JOIN spock.node n ON n.node_id = p.remote_node_id WHERE n.node_name = 'n2'`)
	require.NotEqual(t, "0/0", at)
	b.exec(t, fmt.Sprintf("SELECT pg_replication_slot_advance('%s', '%s')", slot, at))
	c.exec(t, fmt.Sprintf("SELECT pg_replication_origin_advance('%s', '%s'); SELECT spock.sub_enable('sub_n2_n3')", slot, at))
	c.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n2_n3')", "replicating")
	for _, provider := range nodes {
		provider.subscribe(t, c, "")
	}
	checkConverged(t, writers, a, b, c)
}

// Without a way to ask from SQL, subscriptions are stored unchecked: the engine
// asks, says what is wrong, and goes on when it is right.
func TestSubscriptionsThatSQLCannotCheck(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", map[string]string{"spock.restart_delay_default": "200"})
	b.exec(t, "CREATE OR REPLACE FUNCTION pgdrover.can_ask_peers() RETURNS boolean LANGUAGE sql AS 'SELECT false'")
	for _, n := range []*node{a, b} {
		n.exec(t, "CREATE TABLE t (id int PRIMARY KEY, v text)")
	}
	a.exec(t, "SELECT spock.repset_add_table('default', 't'); INSERT INTO t VALUES (1, 'before')")
	b.exec(t, "SELECT spock.sub_create('itself', '"+b.dsn()+"')")
	b.eventually(t, "SELECT last_error LIKE '%cannot subscribe to itself%' FROM spock.pgdrover_subscription", "t")
	b.exec(t, "SELECT spock.sub_drop('itself')")
	b.subscribe(t, a, "")
	require.Equal(t, "n1", b.text(t, "SELECT node_name FROM spock.subscription s JOIN spock.node n ON n.node_id = s.sub_origin"))
	a.exec(t, "INSERT INTO t VALUES (2, 'after')")
	b.eventually(t, "SELECT string_agg(id::text, ',' ORDER BY id) FROM t", "2")
	b.exec(t, "SELECT spock.sub_alter_sync('sub_n1_n2', true)")
	b.eventually(t, "SELECT string_agg(id::text, ',' ORDER BY id) FROM t", "1,2")
}

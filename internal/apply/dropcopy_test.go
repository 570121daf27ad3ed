package apply

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// holdCopy begins a subscription of b to a whose initial copy gets nowhere: somebody has the table.
func holdCopy(t *testing.T, a, b *node) {
	t.Helper()
	for _, n := range []*node{a, b} {
		n.exec(t, "CREATE TABLE t (id int PRIMARY KEY)")
	}
	a.exec(t, "INSERT INTO t SELECT generate_series(1, 100); SELECT spock.repset_add_table('default', 't')")
	other := &node{name: b.name, server: b.server, conn: b.server.Connect(t, database)}
	other.exec(t, "BEGIN; LOCK TABLE t")
	b.exec(t, fmt.Sprintf("SELECT spock.sub_create('sub_n1_n2', '%s', synchronize_data := true)", a.dsn()))
	b.eventually(t, copySessions+" AND a.wait_event_type = 'Lock'", "1")
}

const copySessions = "SELECT count(*) FROM pg_stat_activity a WHERE a.application_name LIKE 'spock sync %'"

// A subscription is dropped while its initial copy runs, which holds the origin
// and hears nothing of it: all of it is gone then, on both sides.
func TestDropWhileCopying(t *testing.T) {
	t.Parallel()
	for name, slot := range map[string]bool{"origin is dropped": false, "origin is retired, since others may need its name": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
			if slot {
				b.exec(t, "SELECT pg_create_logical_replication_slot('witness', 'pgoutput')")
			}
			holdCopy(t, a, b)
			b.exec(t, "SELECT spock.sub_drop('sub_n1_n2')")
			require.Equal(t, "0", b.text(t, copySessions))
			require.Equal(t, "0", b.text(t, "SELECT count(*) FROM spock.subscription"))
			require.Equal(t, "0", b.text(t, "SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'spk%'"))
			require.Equal(t, "0", a.text(t, "SELECT count(*) FROM pg_replication_slots"))
		})
	}
}

// What cannot be dropped here stays, and so does what it needs of the provider.
func TestDropThatFailsLeavesTheSlot(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, keyed)
	}
	b.subscribe(t, a, "")
	b.exec(t, "SELECT spock.sub_disable('sub_n1_n2')")
	b.eventually(t, "SELECT status FROM spock.sub_show_status('sub_n1_n2')", "disabled")
	other := &node{name: b.name, server: b.server, conn: b.server.Connect(t, database)}
	other.exec(t, "SELECT pg_replication_origin_session_setup(sub_slot_name) FROM spock.subscription")
	_, err := b.try(t, "SELECT spock.sub_drop('sub_n1_n2')")
	require.ErrorContains(t, err, "in use by PID "+other.text(t, "SELECT pg_backend_pid()"))
	require.Equal(t, "1", a.text(t, "SELECT count(*) FROM pg_replication_slots"))
	other.exec(t, "SELECT pg_replication_origin_session_reset()")
	b.exec(t, "SELECT spock.sub_enable('sub_n1_n2')")
	a.exec(t, "INSERT INTO t VALUES (1, 'a')")
	b.eventually(t, "SELECT count(*) FROM t", "1")
	b.exec(t, "SELECT spock.sub_drop('sub_n1_n2')")
	require.Equal(t, "0", a.text(t, "SELECT count(*) FROM pg_replication_slots"))
}

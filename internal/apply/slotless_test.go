package apply

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// A table whose copy finds no slot free on the provider waits for one. The stream
// goes on meanwhile, in the same session, and the subscription has no failures.
func TestTableWithoutASlot(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", map[string]string{"max_replication_slots": "2"}), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, `CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY);
			SELECT spock.repset_add_table('default', c) FROM unnest('{t,u}'::regclass[]) c`)
	}
	a.exec(t, "INSERT INTO t VALUES (1)")
	b.subscribe(t, a, "")
	a.exec(t, "SELECT pg_create_logical_replication_slot('taken', 'pgoutput')")
	const session = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'spock apply %' ORDER BY 1"
	applying := b.text(t, session)
	b.exec(t, "SELECT spock.sub_resync_table('sub_n1_n2', 't')")
	require.NoError(t, pgtest.WaitFor(limit, func() error {
		if strings.Count(b.warnings(), "synchronise table public.t: ") < 2 {
			return errAsked
		}
		return nil
	}), b.warnings())
	a.exec(t, "INSERT INTO u VALUES (1)")
	b.eventually(t, "SELECT count(*) FROM u", "1")
	require.Equal(t, applying, b.text(t, session))
	require.NotContains(t, b.warnings(), "worker stopped")
	require.Equal(t, "streaming|0|53400|t|t", b.text(t, `SELECT state, failures, last_error_code, last_hint <> '', last_error LIKE 'synchronise table public.t: %'
		FROM spock.pgdrover_subscription`))
	a.exec(t, "SELECT pg_drop_replication_slot('taken')")
	b.eventually(t, "SELECT string_agg(id::text, ',') FROM t", "1")
}

// A role that logs in as another one is itself where the engine logs in.
func TestEngineTakesNoOtherRole(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, keyed)
	}
	a.exec(t, "INSERT INTO t VALUES (1, 'a')")
	b.subscribe(t, a, ", synchronize_data := true")
	for _, n := range []*node{a, b} {
		n.halt(t)
		n.exec(t, "ALTER ROLE "+pgtest.Superuser+" SET role = pg_read_all_data")
		n.start(t)
	}
	a.exec(t, "INSERT INTO t VALUES (2, 'b')")
	b.eventually(t, "SELECT count(*) FROM t", "2")
	b.exec(t, "SELECT spock.sub_resync_table('sub_n1_n2', 't')")
	b.eventually(t, "SELECT string_agg(id::text, ',' ORDER BY id) FROM t", "1,2")
	require.Empty(t, a.warnings()+b.warnings())
}

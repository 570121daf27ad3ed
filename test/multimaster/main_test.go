// Package multimaster runs multi-master nodes on this host: real servers, and
// the real program as their apply engine. It breaks them, and asserts what is
// left in the tables afterwards, never how long it took.
package multimaster

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

func TestMain(m *testing.M) { group.Main(m) }

const (
	// stillness is how long nothing may move anywhere before a wait is given up.
	stillness = 60 * time.Second
	// forever is when a wait is given up although things move.
	forever = 6 * time.Minute
)

// await waits until look has nothing to complain about. However loaded the
// machine is, it goes on for as long as the nodes get anything done.
func await(t testing.TB, look func() error, nodes ...*node) {
	t.Helper()
	began, last := time.Now(), ""
	for {
		err := pgtest.WaitFor(stillness, look)
		if err == nil {
			return
		}
		at := fingerprint(nodes)
		if at == last || time.Since(began) > forever {
			for _, n := range nodes {
				n.explain(t)
			}
			t.Fatalf("no progress for %s: %v\n%s", stillness, err, at)
		}
		last = at
	}
}

// fingerprint tells how far all nodes are.
func fingerprint(nodes []*node) string {
	var all []string
	for _, n := range nodes {
		at, err := n.try(`SELECT concat_ws(' ',
			(SELECT string_agg(concat(external_id, '=', remote_lsn), ',' ORDER BY external_id) FROM pg_replication_origin_status),
			(SELECT string_agg(concat(sync_subid, sync_relname, sync_status, sync_statuslsn), ',') FROM (
				SELECT * FROM spock.local_sync_status ORDER BY sync_subid, sync_relname) s),
			(SELECT string_agg(concat(relname, piece, state, bytes_done), ',') FROM (
				SELECT * FROM spock.pgdrover_copy ORDER BY relname, piece) c))`)
		if err != nil {
			at = err.Error()
		}
		all = append(all, n.name+": "+at)
	}
	return strings.Join(all, "\n")
}

// settle waits until every node has applied what all others had committed.
func settle(t testing.TB, nodes ...*node) {
	t.Helper()
	for _, provider := range nodes {
		lsn := provider.text(t, "SELECT spock.sync_event()")
		for _, n := range nodes {
			if n != provider && n.subscribed[provider.name] {
				n.reaches(t, provider, lsn, nodes...)
			}
		}
	}
}

// equal asserts that a query has the same answer on all nodes.
func equal(t testing.TB, sql string, nodes ...*node) {
	t.Helper()
	if err := differ(sql, nodes...); err != nil {
		for _, n := range nodes {
			n.explain(t)
		}
		t.Fatal(err)
	}
}

// differ complains about the first node whose answer is not that of the first.
func differ(sql string, nodes ...*node) error {
	want, err := nodes[0].try(sql)
	if err != nil {
		return err
	}
	for _, n := range nodes[1:] {
		got, err := n.try(sql)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%s and %s differ: %s\nonly on %s:\n%s\nonly on %s:\n%s", nodes[0].name, n.name, sql,
				nodes[0].name, without(want, got), n.name, without(got, want))
		}
	}
	return nil
}

// without are the lines of a that b has not.
func without(a, b string) string {
	have := map[string]bool{}
	for line := range strings.SplitSeq(b, "\n") {
		have[line] = true
	}
	var left []string
	for line := range strings.SplitSeq(a, "\n") {
		if !have[line] {
			left = append(left, line)
		}
	}
	return strings.Join(left, "\n")
}

// noExceptions asserts that nothing went the exception path.
func noExceptions(t testing.TB, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		require.Empty(t, n.text(t, `SELECT operation, table_schema, table_name, error_message, ddl_statement FROM spock.exception_log
			ORDER BY retry_errored_at LIMIT 5`), "exceptions of %s", n.name)
	}
}

var errWant = errors.New("not yet")

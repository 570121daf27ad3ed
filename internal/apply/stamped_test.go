package apply

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// A transaction that had its stamp and was aborted by the end of its session is
// applied nevertheless, also where the server has moved the origin behind it; one
// that did commit is not repeated, however the engine ended.
func TestStampedAndNotCommitted(t *testing.T) {
	t.Parallel()
	const ledger = "CREATE TABLE ledger (n int); SELECT spock.repset_add_table('default_insert_only', 'ledger');"
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, ledger)
	}
	b.subscribe(t, a, "")
	insert := func(from, to int) {
		for n := from; n <= to; n++ {
			a.exec(t, fmt.Sprintf("INSERT INTO ledger VALUES (%d)", n))
		}
	}
	slot := b.text(t, "SELECT sub_slot_name FROM spock.subscription")
	// abort does what is left of a transaction when its session ends before the
	// commit. It is one of those that did not come: there are so many before it.
	abort := func(before int) {
		a.eventually(t, fmt.Sprintf("SELECT active::text FROM pg_replication_slots WHERE slot_name = '%s'", slot), "false")
		reached := b.text(t, fmt.Sprintf("SELECT pg_replication_origin_progress('%s', true)", slot))
		end := a.text(t, fmt.Sprintf(`SELECT c.at FROM (SELECT '0/0'::pg_lsn + ('x' || encode(substr(p.data, 11, 8), 'hex'))::bit(64)::int8::numeric AS at
			FROM pg_logical_slot_peek_binary_changes('%s', NULL, NULL, 'proto_version', '1', 'publication_names', 'pgdrover_ins') p
			WHERE get_byte(p.data, 0) = 67) c WHERE c.at > '%s' ORDER BY c.at OFFSET %d LIMIT 1`, slot, reached, before))
		b.exec(t, fmt.Sprintf(`SELECT pg_replication_origin_session_setup('%s'); BEGIN; INSERT INTO ledger VALUES (0);
			SELECT pg_replication_origin_xact_setup('%s', now()); ROLLBACK; SELECT pg_replication_origin_session_reset()`, slot, end))
		moved := b.text(t, fmt.Sprintf("SELECT pg_replication_origin_progress('%s', true) = '%s'", slot, end))
		require.Equal(t, b.text(t, "SELECT current_setting('server_version_num')::int >= 160000"), moved, "what this server does with a stamp")
	}
	all := func(n int) {
		t.Helper()
		lsn := a.text(t, "SELECT spock.sync_event()")
		b.eventually(t, fmt.Sprintf("SELECT (max(remote_lsn) >= '%s')::text FROM pg_replication_origin_status", lsn), "true")
		require.Equal(t, fmt.Sprintf("%[1]d|%[1]d", n), b.text(t, "SELECT count(*), count(DISTINCT n) FROM ledger"))
	}
	insert(1, 3)
	all(3)
	// It ends in no good order the first time, and all before that was acknowledged.
	begun := b.text(t, "SELECT clean_lsn FROM spock.pgdrover_subscription")
	a.eventually(t, fmt.Sprintf("SELECT (confirmed_flush_lsn >= '%s')::text FROM pg_replication_slots WHERE slot_name = '%s'",
		b.text(t, fmt.Sprintf("SELECT pg_replication_origin_progress('%s', true)", slot)), slot), "true")
	b.halt(t)
	b.exec(t, fmt.Sprintf("UPDATE spock.pgdrover_subscription SET clean_lsn = '%s'", begun))
	insert(4, 6)
	abort(0) // of the transactions that nobody has heard of: the first
	b.start(t)
	all(6)
	b.halt(t)
	insert(7, 9)
	abort(2) // behind two that were not even begun
	b.start(t)
	all(9)
	// It ended in no good order, but all is here.
	b.halt(t)
	b.exec(t, fmt.Sprintf("UPDATE spock.pgdrover_subscription SET clean_lsn = '%s'", begun))
	b.start(t)
	insert(10, 12)
	all(12)
}

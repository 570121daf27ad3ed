package apply

import (
	"syscall"
	"testing"
)

// A subscription that follows goes on doing so from where it began, whatever the
// server had written to its disk when it crashed: what its users wrote since they
// saw that must come.
func TestCrashBehindTheBeginning(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", map[string]string{"wal_writer_delay": "10s"})
	for _, n := range []*node{a, b} {
		n.exec(t, keyed)
	}
	b.subscribe(t, a, "")
	b.server.Stop(t, syscall.SIGKILL)
	a.exec(t, "INSERT INTO t SELECT i, 'written behind the beginning' FROM generate_series(1, 10) i")
	b.server.Start(t)
	b.conn = b.server.Connect(t, database)
	lsn := a.text(t, "SELECT spock.sync_event()")
	b.eventually(t, "SELECT (max(remote_lsn) >= '"+lsn+"')::text FROM pg_replication_origin_status", "true")
	equal(t, "SELECT * FROM t ORDER BY id", a, b)
}

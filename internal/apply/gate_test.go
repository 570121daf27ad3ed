package apply

import "testing"

// A worker that is stopped while it waits at the gate leaves nothing behind: a
// session that stayed would hold the subscription's lock against all later ones.
func TestWorkerIsStoppedAtTheGate(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", map[string]string{"spock.restart_delay_default": "200"})
	for _, n := range []*node{a, b} {
		n.exec(t, keyed)
	}
	b.subscribe(t, a, "")

	const sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'spock apply %' AND datname = current_database()"
	b.exec(t, "SELECT spock.pause_apply_workers()")
	const waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND classid = 727400012"
	b.eventually(t, waiting, "1")
	// The next one has only begun when it comes to the gate.
	b.exec(t, "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name LIKE 'spock apply %' AND datname = current_database()")
	b.eventually(t, waiting, "1")
	b.exec(t, "SELECT spock.sub_disable('sub_n1_n2', false)")
	b.eventually(t, sessions, "0")
	b.exec(t, "SELECT spock.resume_apply_workers()")

	b.exec(t, "SELECT spock.sub_enable('sub_n1_n2', false)")
	a.exec(t, "INSERT INTO t VALUES (1, 'after')")
	b.eventually(t, "SELECT max(v) FROM t", "after")
}

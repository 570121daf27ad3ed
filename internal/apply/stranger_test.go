package apply

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// Whoever may connect can take the lock by which apply workers are paused: they
// do not wait for him, neither those that run nor those that begin. Whoever may
// pause them does, and the lag is told meanwhile.
func TestGateIsNotEverybodys(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", map[string]string{"spock.restart_delay_default": "200", "spock.pause_timeout": "60"})
	for _, n := range []*node{a, b} {
		n.exec(t, keyed)
	}
	b.subscribe(t, a, "")
	b.exec(t, "CREATE ROLE mallory LOGIN; CREATE ROLE keeper LOGIN; GRANT USAGE ON SCHEMA spock TO keeper; GRANT EXECUTE ON FUNCTION spock.pause_apply_workers(), spock.resume_apply_workers() TO keeper")
	// A stranger comes first: the engine holds the gate, and he waits for ever.
	waiter := b.as(t, "mallory")
	waiting := make(chan struct{})
	go func() {
		defer close(waiting)
		_ = waiter.conn.PgConn().Exec(t.Context(), "SELECT pg_advisory_lock(727400012, 0)").Close()
	}()
	b.says(t, "asks for that")
	a.exec(t, "INSERT INTO t VALUES (1, 'he waits')")
	b.eventually(t, "SELECT max(v) FROM t WHERE id = 1", "he waits")
	// The next life cannot take the gate, and goes on without.
	b.exec(t, "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name LIKE 'spock apply %' AND datname = current_database()")
	<-waiting
	a.exec(t, "INSERT INTO t VALUES (2, 'he holds it')")
	b.eventually(t, "SELECT max(v) FROM t WHERE id = 2", "he holds it")
	require.Equal(t, "mallory", b.text(t, "SELECT a.usename FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.classid = 727400012 AND l.granted AND l.mode = 'ExclusiveLock'"))
	require.NoError(t, waiter.conn.Close(t.Context()))

	// Somebody who may does stop them, and they say who.
	keeper := b.as(t, "keeper")
	keeper.exec(t, "SELECT spock.pause_apply_workers()")
	line := b.says(t, "apply is paused")
	require.Contains(t, line, "role=keeper")
	require.Contains(t, line, "pid="+keeper.text(t, "SELECT pg_backend_pid()"))
	a.exec(t, "INSERT INTO t VALUES (3, 'nobody holds it')")
	b.eventually(t, "SELECT replication_lag_bytes > 0 AND replication_lag > '1 s' FROM spock.lag_tracker WHERE origin_name = 'n1'", "t")
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM t WHERE id = 3"))
	// A stranger behind him gets it after him, and changes nothing.
	behind, ended := b.as(t, "mallory"), make(chan struct{})
	go func() {
		defer close(ended)
		_ = behind.conn.PgConn().Exec(t.Context(), "SELECT pg_advisory_lock(727400012, 0)").Close()
	}()
	b.eventually(t, "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.classid = 727400012 AND NOT l.granted AND a.usename = 'mallory'", "1")
	keeper.exec(t, "SELECT spock.resume_apply_workers()")
	b.eventually(t, "SELECT max(v) FROM t WHERE id = 3", "nobody holds it")
	b.exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mallory'")
	<-ended
}

// as is another session of the node's, of a role.
func (n *node) as(t *testing.T, role string) *node {
	t.Helper()
	other := n.second(t)
	config := other.conn.Config().Copy()
	config.User = role
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	other.conn = conn
	return other
}

// Triggers of a role's that put themselves off to the end of the transaction do
// not run there with the engine's rights.
func TestTriggersPutThemselvesOff(t *testing.T) {
	t.Parallel()
	a, b := authored(t)
	a.exec(t, `SET spock.allow_ddl_from_functions = on; CREATE SCHEMA mal AUTHORIZATION author; SET SESSION AUTHORIZATION author; CREATE TABLE mal.deft (id int);
		CREATE FUNCTION mal.trg() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN ALTER ROLE author SUPERUSER; END IF;
			IF NEW.id = 1 THEN SET CONSTRAINTS mal.tt DEFERRED; INSERT INTO mal.deft VALUES (2); END IF; RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER tt AFTER INSERT ON mal.deft DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mal.trg();
		ALTER TABLE mal.deft ENABLE ALWAYS TRIGGER tt;
		CREATE FUNCTION mal.go(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO mal.deft VALUES (n); RETURN 1; END $$`)
	a.exec(t, "CREATE TABLE mal.fine AS SELECT mal.go(7) AS a; RESET SESSION AUTHORIZATION")
	settle(t, a, b)
	require.Empty(t, fault(t, b))
	a.exec(t, "SET SESSION AUTHORIZATION author; CREATE TABLE mal.boom AS SELECT mal.go(1) AS a")
	a.exec(t, "RESET SESSION AUTHORIZATION")
	settle(t, a, b)
	require.Contains(t, fault(t, b), "its triggers put themselves off to the end of the transaction")
	require.Equal(t, "f|1|", b.text(t, "SELECT rolsuper, (SELECT count(*) FROM mal.fine), to_regclass('mal.boom') FROM pg_roles WHERE rolname = 'author'"))
}

// What a text does to its session's advisory locks does not outlive it: neither
// that it gives them up nor that it takes one, also where it fails.
func TestDDLKeepsTheLocks(t *testing.T) {
	t.Parallel()
	a, b := authored(t)
	const held = `SELECT string_agg(concat_ws(' ', l.classid, l.mode), ',' ORDER BY l.classid, l.mode) FROM pg_locks l JOIN pg_stat_activity s USING (pid)
		WHERE l.locktype = 'advisory' AND l.granted AND s.application_name ~ '^spock apply [0-9]+:[0-9]+$' AND s.datname = current_database()`
	const wanted = "727400011 ExclusiveLock,727400012 ShareLock"
	b.eventually(t, held, wanted)
	b.exec(t, "SET spock.enable_ddl_replication = off; CREATE FUNCTION bad() RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_unlock_all(); PERFORM pg_advisory_lock(727400012, 0); RAISE division_by_zero; END'")
	a.exec(t, "SET spock.enable_ddl_replication = off; CREATE FUNCTION bad() RETURNS int LANGUAGE sql AS 'SELECT 1'; RESET spock.enable_ddl_replication")
	for i, sql := range []string{
		"SELECT pg_advisory_unlock_all()::text AS v", "SELECT pg_advisory_lock(727400012, 0)::text AS v, pg_advisory_lock(4711)::text AS w", "SELECT bad() AS v",
	} {
		for _, role := range []string{"author", "postgres"} {
			a.exec(t, fmt.Sprintf("SET SESSION AUTHORIZATION %s; CREATE TABLE made%d_%[1]s AS %[3]s", role, i, sql))
			a.exec(t, "RESET SESSION AUTHORIZATION; SELECT pg_advisory_unlock_all()")
			settle(t, a, b)
			b.eventually(t, held, wanted)
		}
	}
	require.Equal(t, "4", b.text(t, "SELECT count(*) FROM pg_class WHERE relname LIKE 'made%'"))
}

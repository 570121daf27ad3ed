package apply

import (
	"fmt"
	"testing"
)

// An engine that ends between the last statement of a copy's structure and the
// word that it is done finds all of it there: it copies the data again where it
// has to, but does not stumble over keys and indexes for ever. A primary key
// that is there has another error than everything else.
func TestStructureThatWasRestoredIsKept(t *testing.T) {
	t.Parallel()
	for name, definition := range map[string]string{
		"primary key": "CREATE TABLE t (id int PRIMARY KEY, v text)",
		"index":       "CREATE TABLE t (id int, v text); CREATE INDEX at ON t (v); ALTER TABLE t REPLICA IDENTITY FULL",
		"trigger": `CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
			CREATE TABLE t (id int, v text); CREATE TRIGGER at BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
			a.exec(t, definition+"; INSERT INTO t VALUES (1, 'one'), (2, 'two'); SELECT spock.repset_add_table('default_insert_only', 't')")
			b.exec(t, fmt.Sprintf("SELECT spock.sub_create('sub_n1_n2', '%s', synchronize_structure := true, synchronize_data := true)", a.dsn()))
			b.eventually(t, "SELECT status FROM spock.sub_show_status()", "replicating")
			b.halt(t)
			b.exec(t, "UPDATE spock.local_sync_status SET sync_status = 'c' WHERE sync_relname IS NULL")
			a.eventually(t, "SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE NOT active", "1")
			b.start(t)
			b.eventually(t, "SELECT sync_status FROM spock.local_sync_status WHERE sync_relname IS NULL", "r")
			b.eventually(t, "SELECT status FROM spock.sub_show_status()", "replicating")
			a.exec(t, "INSERT INTO t VALUES (3, 'three')")
			lsn := a.text(t, "SELECT spock.sync_event()")
			b.eventually(t, fmt.Sprintf("SELECT (max(remote_lsn) >= '%s')::text FROM pg_replication_origin_status", lsn), "true")
			equal(t, "SELECT * FROM t ORDER BY id", a, b)
		})
	}
}

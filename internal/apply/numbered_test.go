package apply

import (
	"fmt"
	"testing"
)

// What names an object arrives as that name, and not as the number that the
// provider's has: from the beginning where the copy brings it, and when such a
// table is first written while the stream runs.
func TestObjectsAreNamed(t *testing.T) {
	t.Parallel()
	for _, options := range []string{"", ", force_text_transfer := true", ", synchronize_data := true"} {
		t.Run(options, func(t *testing.T) {
			t.Parallel()
			a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
			b.exec(t, "CREATE TABLE shift1 (i int); CREATE TABLE shift2 (i int); DROP TABLE shift1, shift2")
			for _, n := range []*node{a, b} {
				n.exec(t, keyed+`CREATE TABLE "The Target" (id int); CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
					CREATE TABLE r (id int PRIMARY KEY, c regclass, t regtype, p regprocedure, l regclass[]); SELECT spock.repset_add_table('default', 'r')`)
			}
			const row = `(%d, '"The Target"', '"The Target"', 'f(int)', '{"\"The Target\"",pg_class}')`
			if options == ", synchronize_data := true" {
				a.exec(t, "INSERT INTO r VALUES "+fmt.Sprintf(row, 0))
			}
			b.subscribe(t, a, options)
			a.exec(t, "INSERT INTO t VALUES (1, 'before')")
			a.exec(t, "BEGIN; INSERT INTO t VALUES (2, 'with'); INSERT INTO r VALUES "+fmt.Sprintf(row, 1)+"; INSERT INTO t VALUES (3, 'with'); COMMIT")
			a.exec(t, "UPDATE r SET c = 'pg_type' WHERE id = 1; INSERT INTO r VALUES "+fmt.Sprintf(row, 2))
			// Sets have such a column, too, and go on being read.
			a.exec(t, "CREATE TABLE later (id int PRIMARY KEY)")
			b.exec(t, "CREATE TABLE later (id int PRIMARY KEY)")
			a.exec(t, "SELECT spock.repset_add_table('default', 'later'); INSERT INTO later VALUES (1)")
			lsn := a.text(t, "SELECT spock.sync_event()")
			b.eventually(t, fmt.Sprintf("SELECT (max(remote_lsn) >= '%s')::text FROM pg_replication_origin_status", lsn), "true")
			equal(t, "SELECT id, c::text, t::text, p::text, l::text FROM r ORDER BY id", a, b)
			equal(t, "SELECT * FROM t ORDER BY id", a, b)
			equal(t, "SELECT * FROM later", a, b)
		})
	}
}

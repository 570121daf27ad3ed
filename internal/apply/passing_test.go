package apply

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What is not a transaction's fault leaves nothing of it out, however long it
// lasts: a full disk is one, a deadlock that comes again and again another.
func TestWhatPassesLeavesNothingOut(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ behaviour, state, sql, want string }{
		"full disk":         {"transdiscard", "53100", "INSERT INTO t VALUES (1, 1), (2, 2)", "1,2,9"},
		"locks":             {"transdiscard", "53200", "INSERT INTO t VALUES (1, 1); INSERT INTO t VALUES (2, 2)", "1,2,9"},
		"deadlock":          {"sub_disable", "40P01", "INSERT INTO t VALUES (1, 1); INSERT INTO t VALUES (2, 2)", "1,2,9"},
		"disk with a fault": {"discard", "58030", "BEGIN; INSERT INTO t VALUES (1, 1); INSERT INTO t VALUES (3, 200); INSERT INTO t VALUES (2, 2); COMMIT", "1,2,9"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newNode(t, "n1", nil), newNode(t, "n2", map[string]string{"spock.exception_behaviour": c.behaviour})
			a.exec(t, "CREATE TABLE t (id int PRIMARY KEY, v int); SELECT spock.repset_add_table('default', 't')")
			b.exec(t, `CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v < 100)); CREATE SEQUENCE tries;
				CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 2 THEN
					PERFORM nextval('public.tries'); RAISE 'no room' USING ERRCODE = '`+c.state+`', HINT = 'make some'; END IF; RETURN NEW; END $$;
				CREATE TRIGGER fail BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION fail(); ALTER TABLE t ENABLE ALWAYS TRIGGER fail`)
			b.subscribe(t, a, "")
			a.exec(t, c.sql)
			a.exec(t, "INSERT INTO t VALUES (9, 9)")
			b.eventually(t, "SELECT (last_value > 20)::text FROM tries", "true")
			b.eventually(t, "SELECT (last_hint LIKE 'make some. %sub_alter_skiplsn(''sub_n1_n2'', %')::text FROM spock.pgdrover_subscription", "true")
			require.Equal(t, "0|0|t", b.text(t, "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM spock.exception_log), sub_enabled FROM spock.subscription"))
			b.exec(t, "ALTER TABLE t DISABLE TRIGGER fail")
			b.eventually(t, "SELECT string_agg(id::text, ',' ORDER BY id) FROM t", c.want)
			require.Equal(t, "f", b.text(t, "SELECT EXISTS (SELECT FROM spock.exception_log WHERE error_message LIKE '%no room%')"))
		})
	}
}

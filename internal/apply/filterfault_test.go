package apply

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A filter that fails for a row stops nothing: the transaction takes the
// exception path, and once the filter is mended it can be applied.
func TestFilterThatFails(t *testing.T) {
	t.Parallel()
	for behaviour, want := range map[string]string{"discard": "1,3,4", "transdiscard": "4", "sub_disable": "1,2,3,4"} {
		t.Run(behaviour, func(t *testing.T) {
			t.Parallel()
			a, b := newNode(t, "n1", nil), newNode(t, "n2", map[string]string{"spock.exception_behaviour": behaviour})
			for _, n := range []*node{a, b} {
				n.exec(t, "CREATE TABLE ff (id int PRIMARY KEY, a int)")
			}
			a.exec(t, `CREATE FUNCTION fits(n int) RETURNS boolean LANGUAGE sql AS 'SELECT 10 / n > 0';
				SELECT spock.repset_add_table('default', 'ff', row_filter := 'fits(a)')`)
			b.subscribe(t, a, "")
			a.exec(t, "BEGIN; INSERT INTO ff VALUES (1, 1); INSERT INTO ff VALUES (2, 0); INSERT INTO ff VALUES (3, 3); COMMIT")
			a.exec(t, "INSERT INTO ff VALUES (4, 4)")
			if behaviour == "sub_disable" {
				b.eventually(t, "SELECT status FROM spock.sub_show_status()", "disabled")
				b.eventually(t, `SELECT (last_error LIKE 'apply transaction %: evaluate row filter of public.ff on its provider: ERROR: division by zero%')::text ||
					(last_hint LIKE '%sub_alter_skiplsn(''sub_n1_n2'', %')::text FROM spock.pgdrover_subscription`, "truetrue")
				a.exec(t, "CREATE OR REPLACE FUNCTION fits(n int) RETURNS boolean LANGUAGE sql AS 'SELECT true'")
				b.exec(t, "SELECT spock.sub_enable('sub_n1_n2')")
			}
			b.eventually(t, "SELECT string_agg(id::text, ',' ORDER BY id) FROM ff", want)
			require.Equal(t, "INSERT|evaluate row filter of public.ff on its provider: ERROR: division by zero (SQLSTATE 22012)",
				b.text(t, "SELECT operation, error_message FROM spock.exception_log WHERE error_message LIKE 'evaluate%'"))
			require.Equal(t, want == "1,2,3,4", b.text(t, "SELECT count(*) FROM spock.exception_log WHERE operation = 'SUB_DISABLE'") == "1")
		})
	}
}

// The same in a transaction of which parts are let go before its end.
func TestFilterThatFailsInLargeTransaction(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", map[string]string{"spock.exception_behaviour": "discard", "spock.exception_replay_queue_size": "50000"})
	for _, n := range []*node{a, b} {
		n.exec(t, "CREATE TABLE ff (id int PRIMARY KEY)")
	}
	a.exec(t, "SELECT spock.repset_add_table('default', 'ff', row_filter := '10 / (id - 4000) < 100')")
	b.subscribe(t, a, "")
	a.exec(t, "INSERT INTO ff SELECT generate_series(1, 5000)")
	b.eventually(t, "SELECT count(*) FROM ff", "4999")
	require.Equal(t, "1", b.text(t, "SELECT count(*) FROM spock.exception_log WHERE error_message LIKE 'evaluate row filter%'"))
}

// A filter's function that was renamed is found when a table is copied, too.
func TestCopyThroughFilterOfAnotherName(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, "CREATE TABLE fn (id int PRIMARY KEY)")
	}
	a.exec(t, `INSERT INTO fn VALUES (1), (2); CREATE FUNCTION odd(n int) RETURNS boolean LANGUAGE sql AS 'SELECT n % 2 = 1';
		SELECT spock.repset_add_table('default', 'fn', row_filter := 'odd(id)'); ALTER FUNCTION odd RENAME TO odder`)
	b.subscribe(t, a, ", synchronize_data := true")
	b.eventually(t, "SELECT string_agg(id::text, ',') FROM fn", "1")
}

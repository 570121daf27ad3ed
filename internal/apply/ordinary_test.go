package apply

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What a role or a database says for its sessions changes nothing about what is
// applied or copied, and ends no session of the engine's.
func TestSettingsOfARoleChangeNothing(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	const table = `CREATE TABLE t (id int PRIMARY KEY, list text[], x xml, at timestamptz, i interval, b bytea, f float8);
		SELECT spock.repset_add_table('default', 't')`
	for _, n := range []*node{a, b} {
		n.exec(t, table)
		settings := []string{
			"array_nulls = off", "xmloption = document", "transform_null_equals = on", "exit_on_error = on", "idle_session_timeout = 300", "timezone = 'Asia/Tokyo'",
			"datestyle = 'SQL, DMY'", "intervalstyle = sql_standard", "bytea_output = escape", "extra_float_digits = -15", "lock_timeout = 1", "statement_timeout = 2000",
			"default_transaction_isolation = serializable", "default_transaction_read_only = on",
		}
		if a.text(t, "SHOW server_version_num") >= "170000" {
			settings = append(settings, "transaction_timeout = 2000")
		}
		for _, setting := range settings {
			n.exec(t, "ALTER DATABASE "+database+" SET "+setting)
		}
		n.stopEngine()
		n.start(t)
	}
	rows := func(from int) {
		_, err := a.conn.Exec(t.Context(), `INSERT INTO t SELECT i, ARRAY['NULL', NULL, 'a\b'], '<a/>x'::xml, '2026-01-02 03:04:05+00', '1 day -2 hours', '\x00ff27', 1.0::float8 / 3
			FROM generate_series($1::int, $1 + 9) i`, from)
		require.NoError(t, err)
	}
	const content = "SELECT id, array_to_string(list, ',', '-'), list[1] = 'NULL', list[2] IS NULL, x::text, at, i::text, b, f FROM t ORDER BY id"
	rows(1)
	b.subscribe(t, a, ", synchronize_data := true")
	rows(11)
	b.eventually(t, "SELECT count(*) FROM t", "20")
	equal(t, content, a, b)
	b.exec(t, "UPDATE spock.subscription SET sub_force_text_transfer = true; SELECT spock.sub_resync_table('sub_n1_n2', 't', truncate := false)")
	rows(21)
	b.eventually(t, "SELECT count(*) FROM t", "30")
	b.eventually(t, "SELECT bool_and(sync_status IN ('r', 'y'))::text FROM spock.local_sync_status", "true")
	equal(t, content, a, b)
	// A transaction lasts as long as it must.
	b.exec(t, `SET default_transaction_read_only = off; SELECT spock.repair_mode(true);
		CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END $$;
		CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION slow(); ALTER TABLE t ENABLE ALWAYS TRIGGER slow; SELECT spock.repair_mode(false)`)
	rows(31)
	b.eventually(t, "SELECT count(*) FROM t", "40")
	equal(t, content, a, b)
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM spock.exception_log"))
}

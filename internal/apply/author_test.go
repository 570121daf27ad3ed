package apply

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A statement means on the peers what it meant to its author; what follows it
// in the transaction is applied as ever.
func TestDDLMeansWhatItsAuthorMeant(t *testing.T) {
	t.Parallel()
	settings := map[string]string{"spock.enable_ddl_replication": "on", "spock.include_ddl_repset": "on"}
	a := newNode(t, "n1", settings)
	settings["timezone"], settings["datestyle"], settings["array_nulls"] = "'America/New_York'", "'German, DMY'", "off"
	b := newNode(t, "n2", settings)
	b.subscribe(t, a, "")
	a.subscribe(t, b, "")
	for _, n := range []*node{a, b} {
		n.exec(t, "SET spock.enable_ddl_replication = off; CREATE ROLE author; GRANT CREATE ON SCHEMA public TO author; RESET spock.enable_ddl_replication")
	}
	const part = `(id int, at timestamptz, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);`
	a.exec(t, `SET timezone = 'Asia/Tokyo'; SET datestyle = 'SQL, DMY'; SET intervalstyle = sql_standard; SET array_nulls = off`)
	a.exec(t, `CREATE TABLE part `+part+`
		CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('01/01/2024') TO ('01/02/2024');
		CREATE TABLE t (id int PRIMARY KEY, at timestamptz DEFAULT '01/02/2024 00:00', i interval DEFAULT '-1 2:00:00', list text[] DEFAULT '{NULL}', v text)`)
	a.exec(t, `BEGIN; INSERT INTO t (id, v) VALUES (1, '03/04/2024 05:00'); ALTER TABLE t ALTER v TYPE timestamptz USING v::timestamptz;
		INSERT INTO t VALUES (2, '05/06/2024 07:08', '-1 2:00:00', '{NULL}', '06/07/2024 07:08'); UPDATE t SET i = '-3 4:00:00' WHERE id = 1; COMMIT`)
	a.exec(t, `SET SESSION AUTHORIZATION author; CREATE TABLE his (id int PRIMARY KEY, at timestamptz DEFAULT '01/02/2024 00:00'); RESET SESSION AUTHORIZATION`)
	a.exec(t, `SELECT spock.replicate_ddl('CREATE TABLE explicit (id int PRIMARY KEY, at timestamptz DEFAULT ''01/02/2024 00:00'')', '{default}')`)
	a.exec(t, `INSERT INTO part VALUES (1, '31/01/2024 23:59')`)
	settle(t, a, b)
	b.exec(t, `SET timezone = 'UTC'; SET datestyle = 'ISO, MDY'; RESET array_nulls; CREATE TABLE plain `+part+`
		CREATE TABLE plain_1 PARTITION OF plain FOR VALUES FROM ('01/03/2024') TO ('01/04/2024')`)
	settle(t, a, b)
	a.exec(t, `SET timezone = 'UTC'; SET datestyle = 'ISO, MDY'; RESET intervalstyle`)
	for _, sql := range []string{
		`SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_class c WHERE c.relpartbound IS NOT NULL ORDER BY 1`,
		`SELECT f.adrelid::regclass, f.adnum, pg_get_expr(f.adbin, f.adrelid) FROM pg_attrdef f
			WHERE f.adrelid IN ('t'::regclass, 'his'::regclass, 'explicit'::regclass) ORDER BY 1, 2`,
		`SELECT * FROM t ORDER BY id`,
		`SELECT * FROM part`,
	} {
		equal(t, sql, a, b)
	}
	require.Equal(t, "FOR VALUES FROM ('2023-12-31 15:00:00+00') TO ('2024-01-31 15:00:00+00')", b.text(t, `SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'part_1'`))
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM spock.exception_log"), b.text(t, "SELECT error_message FROM spock.exception_log LIMIT 1"))
}

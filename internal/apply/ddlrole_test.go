package apply

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// authored makes two nodes that send their DDL to each other, with a role that
// is no superuser.
func authored(t *testing.T) (a, b *node) {
	t.Helper()
	settings := map[string]string{"spock.enable_ddl_replication": "on", "spock.include_ddl_repset": "on"}
	a, b = newNode(t, "n1", settings), newNode(t, "n2", settings)
	b.subscribe(t, a, "")
	a.subscribe(t, b, "")
	for _, n := range []*node{a, b} {
		n.exec(t, "SET spock.enable_ddl_replication = off; CREATE ROLE author; GRANT CREATE ON SCHEMA public TO author; RESET spock.enable_ddl_replication")
	}
	return a, b
}

func fault(t *testing.T, n *node) string {
	t.Helper()
	return n.text(t, "SELECT coalesce(string_agg(error_message, '; '), '') FROM spock.exception_log")
}

// A table that an ordinary role's SELECT INTO makes is one like any other on
// the peers.
func TestSelectIntoOfAnOrdinaryRole(t *testing.T) {
	t.Parallel()
	a, b := authored(t)
	a.exec(t, `SET SESSION AUTHORIZATION author; CREATE TABLE src (id int PRIMARY KEY); INSERT INTO src VALUES (1), (2)`)
	a.exec(t, `BEGIN; SELECT id, 'it''s' AS v INTO made FROM src; ALTER TABLE made ADD PRIMARY KEY (id); COMMIT`)
	a.exec(t, `WITH s AS (SELECT max(id) AS id FROM src) SELECT id INTO bare FROM s; RESET SESSION AUTHORIZATION`)
	settle(t, a, b)
	require.Empty(t, fault(t, b))
	const sets = `SELECT s.set_name, t.set_reloid::text, (SELECT count(*) FROM pg_trigger g WHERE g.tgrelid = t.set_reloid AND NOT g.tgisinternal), c.relowner::regrole
		FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id) JOIN pg_class c ON c.oid = t.set_reloid ORDER BY 2`
	require.Equal(t, "default_insert_only|bare|1|author\ndefault|made|3|author\ndefault|src|3|author", b.text(t, sets))
	equal(t, sets, a, b)
	b.exec(t, "INSERT INTO made VALUES (3, 'c'); DELETE FROM made WHERE id = 1; INSERT INTO bare VALUES (7)")
	settle(t, a, b)
	for _, n := range []*node{a, b} {
		require.Equal(t, "2,3|2,7", n.text(t, "SELECT (SELECT string_agg(id::text, ',' ORDER BY id) FROM made), (SELECT string_agg(id::text, ',' ORDER BY id) FROM bare)"))
	}
	require.Empty(t, b.text(t, "SELECT string_agg(proname, ',') FROM pg_proc WHERE pronamespace::regnamespace::text LIKE 'pg_temp%'"))
}

// Policies show an author on the peers what they showed him at home.
func TestDDLUnderRowSecurity(t *testing.T) {
	t.Parallel()
	a, b := authored(t)
	a.exec(t, `CREATE TABLE rl (id int PRIMARY KEY, secret boolean NOT NULL); ALTER TABLE rl ENABLE ROW LEVEL SECURITY;
		CREATE POLICY p ON rl USING (NOT secret); GRANT SELECT ON rl TO author; INSERT INTO rl VALUES (1, false), (2, true);
		SET SESSION AUTHORIZATION author; CREATE TABLE forced (id int PRIMARY KEY); INSERT INTO forced VALUES (1); ALTER TABLE forced ENABLE ROW LEVEL SECURITY;
		ALTER TABLE forced FORCE ROW LEVEL SECURITY; CREATE POLICY p ON forced USING (true); CREATE TABLE child (id int PRIMARY KEY, f int); INSERT INTO child VALUES (1, 1)`)
	for _, sql := range []string{
		"CREATE TABLE c AS SELECT * FROM rl", "SELECT * INTO i FROM rl", "CREATE MATERIALIZED VIEW m AS SELECT * FROM rl", "ALTER TABLE child ADD FOREIGN KEY (f) REFERENCES forced",
	} {
		a.exec(t, sql)
	}
	a.exec(t, "RESET SESSION AUTHORIZATION")
	settle(t, a, b)
	require.Empty(t, fault(t, b))
	for _, table := range []string{"c", "i", "m"} {
		require.Equal(t, "1", b.text(t, "SELECT string_agg(id::text, ',') FROM "+table), table)
	}
	require.Equal(t, "1", b.text(t, "SELECT count(*) FROM pg_constraint WHERE conrelid = 'child'::regclass AND contype = 'f'"))
}

// What a query makes of values is the same on the peers.
func TestDDLWritesValuesAlike(t *testing.T) {
	t.Parallel()
	a, b := authored(t)
	const query = ` AS SELECT '\x00ff'::bytea::text AS b, (1::float8 / 3)::text AS f, xmlelement(name x, '\x00ff'::bytea)::text AS x, count(nullif(v = NULL, false)) AS n
		FROM (VALUES (NULL::int)) s (v)`
	a.exec(t, "CREATE TABLE usual"+query+"; SET bytea_output = escape; SET extra_float_digits = 0; SET transform_null_equals = on; SET xmlbinary = hex; CREATE TABLE odd"+query)
	settle(t, a, b)
	require.Empty(t, fault(t, b))
	equal(t, "SELECT * FROM usual UNION ALL SELECT * FROM odd", a, b)
}

// What a statement does with temporary tables, the server's own among them,
// costs the peers nothing.
func TestDDLBesideTemporaryTables(t *testing.T) {
	t.Parallel()
	a, b := authored(t)
	for _, n := range []*node{a, b} {
		n.exec(t, "GRANT TEMP ON DATABASE "+database+" TO author")
	}
	a.exec(t, `SET spock.allow_ddl_from_functions = on; SET SESSION AUTHORIZATION author; CREATE TABLE src (id int PRIMARY KEY); INSERT INTO src VALUES (1);
		CREATE MATERIALIZED VIEW m AS SELECT * FROM src; CREATE UNIQUE INDEX ON m (id); CREATE TABLE d (id int PRIMARY KEY)`)
	a.exec(t, `BEGIN; INSERT INTO src VALUES (2); REFRESH MATERIALIZED VIEW CONCURRENTLY m; COMMIT`)
	a.exec(t, `CREATE TEMP TABLE passing AS SELECT 7 AS id`)
	a.exec(t, `BEGIN; INSERT INTO src VALUES (3); CREATE TABLE here AS SELECT * FROM passing; DROP TABLE passing, d; COMMIT; RESET SESSION AUTHORIZATION`)
	settle(t, a, b)
	require.Empty(t, fault(t, b))
	require.Equal(t, "3|2||", b.text(t, "SELECT (SELECT count(*) FROM src), (SELECT count(*) FROM m), to_regclass('here'), to_regclass('d')"))
}

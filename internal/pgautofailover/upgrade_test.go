package pgautofailover_test

import (
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// catalogQuery lists all that is in the schema, one line for each thing.
const catalogQuery = `
WITH ours AS (SELECT oid FROM pg_namespace WHERE nspname LIKE 'pgautofailover%')
SELECT format('relation %s %s %s', c.oid::regclass, c.relkind, (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(c.relacl) a))
  FROM pg_class c WHERE c.relnamespace IN (TABLE ours)
UNION ALL
SELECT format('column %s %s %s %s %s %s', a.attrelid::regclass, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
         pg_get_expr(d.adbin, d.adrelid))
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
 WHERE c.relnamespace IN (TABLE ours) AND a.attnum > 0 AND c.relkind IN ('r', 'v')
UNION ALL
SELECT format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint WHERE connamespace IN (TABLE ours)
UNION ALL
SELECT format('index %s', pg_get_indexdef(indexrelid)) FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE c.relnamespace IN (TABLE ours)
UNION ALL
SELECT format('trigger %s', pg_get_triggerdef(t.oid)) FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid WHERE c.relnamespace IN (TABLE ours) AND NOT tgisinternal
UNION ALL
SELECT format('view %s %s', c.oid::regclass, pg_get_viewdef(c.oid)) FROM pg_class c WHERE c.relnamespace IN (TABLE ours) AND c.relkind = 'v'
UNION ALL
SELECT format('enum %s %s', t.oid::regtype, (SELECT string_agg(enumlabel, ' ' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid))
  FROM pg_type t WHERE t.typnamespace IN (TABLE ours) AND t.typtype = 'e'
UNION ALL
SELECT format('function %s %s', (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(p.proacl) a), pg_get_functiondef(p.oid))
  FROM pg_proc p WHERE p.pronamespace IN (TABLE ours)
UNION ALL
SELECT format('schema %s %s', nspname, (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(nspacl) a))
  FROM pg_namespace WHERE oid IN (TABLE ours)
UNION ALL
SELECT format('setting %s %s', setrole::regrole, setconfig)
  FROM pg_db_role_setting WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION ALL
SELECT format('first goal %s', to_jsonb(g)) FROM pgautofailover.first_goal g
UNION ALL
SELECT format('rule %s', to_jsonb(r)) FROM pgautofailover.fsm_rule r
UNION ALL
SELECT format('order %s %s', o.current_state, o.assigned_state) FROM pgautofailover.fsm_order o
UNION ALL
SELECT format('version %s', version) FROM pgautofailover.schema_version
ORDER BY 1`

func catalog(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), catalogQuery)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return lines
}

// TestUpgradeFromTheFirstVersion: a database of the first version is what a
// new one is afterwards, with all that was in it.
func TestUpgradeFromTheFirstVersion(t *testing.T) {
	t.Parallel()
	fresh := pgtest.Database(t)
	require.NoError(t, pgautofailover.Install(t.Context(), connect(t, fresh)))
	want := catalog(t, pgtest.Connect(t, fresh))

	dsn := pgtest.Database(t)
	conn := pgtest.Connect(t, dsn)
	image, err := os.ReadFile("testdata/schema-1.sql")
	require.NoError(t, err)
	_, err = conn.PgConn().Exec(t.Context(), string(image)).ReadAll()
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `
INSERT INTO pgautofailover.formation (formationid) VALUES ('kept');
INSERT INTO pgautofailover.node (formationid, groupid, nodename, nodehost, nodeport, sysidentifier, goalstate, reportedstate)
VALUES ('kept', 0, 'node_1', 'localhost', 5501, 7, 'single', 'single');
INSERT INTO pgautofailover.group_state (formationid, groupid, list_number) VALUES ('kept', 0, 3)`)
	require.NoError(t, err)
	require.NotEqual(t, want, catalog(t, conn))
	// What somebody's monitoring has made of our functions.
	_, err = conn.Exec(t.Context(), `CREATE VIEW public.nodes AS SELECT nodename FROM pgautofailover.current_state('kept')`)
	require.NoError(t, err)

	db := connect(t, dsn)
	version, err := pgautofailover.SchemaVersion(t.Context(), db)
	require.NoError(t, err)
	require.Equal(t, 1, version)
	for range 2 {
		require.NoError(t, pgautofailover.Upgrade(t.Context(), db))
		require.Equal(t, strings.Join(want, "\n"), strings.Join(catalog(t, conn), "\n"))
	}
	var kept string
	require.NoError(t, conn.QueryRow(t.Context(), `
SELECT concat_ws(' ', nodename, goalstate, list_number) FROM pgautofailover.node JOIN pgautofailover.group_state USING (formationid, groupid)`).Scan(&kept))
	require.Equal(t, "node_1 single 3", kept)
	require.Equal(t, "node_1", query(t, conn, `SELECT nodename FROM public.nodes`))
	require.NoError(t, db.ReportCopy(t.Context(), 1), "what the first version had not")
	require.Equal(t, `Node 1 "node_1" (localhost:5501) copies the data directory: the primary does not hold its WAL any more`,
		query(t, conn, `SELECT description FROM pgautofailover.event ORDER BY eventid DESC LIMIT 1`))
}

func query(t *testing.T, conn *pgx.Conn, sql string) (text string) {
	t.Helper()
	require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&text))
	return text
}

// TestUpgradeNamesWhatIsInTheWay: a function that has to go does not take along what an operator has made of it.
func TestUpgradeNamesWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	conn := pgtest.Connect(t, dsn)
	image, err := os.ReadFile("testdata/schema-1.sql")
	require.NoError(t, err)
	_, err = conn.PgConn().Exec(t.Context(), string(image)).ReadAll()
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `
CREATE FUNCTION pgautofailover.of_long_ago() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE VIEW public.old AS SELECT pgautofailover.of_long_ago()`)
	require.NoError(t, err)
	err = pgautofailover.Upgrade(t.Context(), connect(t, dsn))
	require.EqualError(t, err, "upgrade schema pgautofailover: cannot drop function pgautofailover.of_long_ago() because other objects depend on it: "+
		"view public.old depends on function pgautofailover.of_long_ago()")
	var hint interface{ Hint() string }
	require.ErrorAs(t, err, &hint)
	require.Contains(t, hint.Hint(), "Drop what depends on it")
	_, err = conn.Exec(t.Context(), `DROP VIEW public.old`)
	require.NoError(t, err)
	require.NoError(t, pgautofailover.Upgrade(t.Context(), connect(t, dsn)))
	require.Equal(t, "true", query(t, conn, `SELECT (to_regprocedure('pgautofailover.of_long_ago()') IS NULL)::text`))
}

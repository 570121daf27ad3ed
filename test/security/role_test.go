package security

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// relation is a table, a view or a sequence of the monitor's.
type relation struct{ Kind, Name string }

// TestRoleOfNodes tries, as the role that every node connects as, what that
// role must not do: it calls functions and reads tables, and writes none.
func TestRoleOfNodes(t *testing.T) {
	t.Parallel()
	g := group.New(t, group.Config{})
	conn := connectTo(t, g.Monitor, "autoctl_node", "pg_auto_failover")
	refused := func(sql string) {
		t.Helper()
		_, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
		answer := new(pgconn.PgError)
		require.ErrorAs(t, err, &answer, sql)
		require.Equal(t, "42501", answer.Code, "%s: %s", sql, answer.Message)
	}

	super := connectTo(t, g.Monitor, pgtest.Superuser, "pg_auto_failover")
	const relations = `SELECT c.relkind::text, format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname LIKE 'pgautofailover%' AND c.relkind IN ('r', 'p', 'v', 'm', 'S') ORDER BY 2`
	tables := 0
	rows, err := super.Query(t.Context(), relations)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[relation])
	require.NoError(t, err)
	for _, r := range all {
		kind, name := r.Kind, r.Name
		if kind == "S" {
			refused("SELECT nextval('" + name + "')")
			refused("SELECT setval('" + name + "', 1)")
			continue
		}
		tables++
		_, err := conn.Exec(t.Context(), "SELECT * FROM "+name+" LIMIT 1")
		require.NoError(t, err, "reading %s is allowed", name)
		column := first(t, super, "SELECT attname FROM pg_attribute WHERE attrelid = '"+name+"'::regclass AND attnum = 1")
		if kind == "v" {
			continue // nobody can write it, and the answer says so in other words
		}
		refused("DELETE FROM " + name)
		refused("INSERT INTO " + name + " DEFAULT VALUES")
		refused("UPDATE " + name + " SET " + pgx.Identifier{column}.Sanitize() + " = DEFAULT")
		refused("TRUNCATE " + name)
		refused("LOCK TABLE " + name + " IN ACCESS EXCLUSIVE MODE; SELECT 1")
		refused("ALTER TABLE " + name + " ADD COLUMN more int")
		refused("CREATE TRIGGER t BEFORE INSERT ON " + name + " EXECUTE FUNCTION suppress_redundant_updates_trigger()")
	}
	require.Greater(t, tables, 5)

	for _, sql := range []string{
		"CREATE TABLE pgautofailover.t ()", "CREATE FUNCTION pgautofailover.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
		"CREATE TABLE pgautofailover_catalog.t ()", "CREATE TABLE public.t ()", "CREATE SCHEMA s",
		"CREATE ROLE r", "ALTER ROLE autoctl_node SUPERUSER", "ALTER ROLE autoctl PASSWORD 'x'", "SET ROLE autoctl", "SET ROLE postgres",
		"ALTER SYSTEM SET work_mem TO '1MB'", "SELECT pg_reload_conf()", "SELECT pg_read_file('postgresql.conf')",
		fmt.Sprintf("SELECT pg_terminate_backend(%d)", super.PgConn().PID()),
		"COPY pgautofailover.node TO '/tmp/pgdrover-test-role'", "COPY pgautofailover.node TO PROGRAM 'true'", "SELECT lo_import('/etc/passwd')",
		"DROP SCHEMA pgautofailover CASCADE", "DROP DATABASE pg_auto_failover", "SELECT * FROM pg_authid",
		"SELECT pg_create_physical_replication_slot('s')", "CREATE EXTENSION pg_stat_statements",
	} {
		refused(sql)
	}
	require.Equal(t, "f f f f f", first(t, super, `SELECT concat_ws(' ', rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls)
		FROM pg_roles WHERE rolname = 'autoctl_node'`))
	require.Equal(t, "0", first(t, super, "SELECT count(*)::text FROM pg_auth_members WHERE member = 'autoctl_node'::regrole"))
	require.Equal(t, "false", first(t, super, "SELECT has_schema_privilege('autoctl', 'pgautofailover', 'USAGE')::text"))
	require.Equal(t, "0", first(t, super, `SELECT count(*)::text FROM pg_namespace n, aclexplode(n.nspacl) a
		WHERE n.nspname LIKE 'pgautofailover%' AND a.grantee = 0`), "everybody may use no schema of ours")
	require.Equal(t, "0", first(t, super, `SELECT count(*)::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
		WHERE n.nspname LIKE 'pgautofailover%' AND (a.grantee = 0 OR a.grantee = 'autoctl_node'::regrole AND a.privilege_type <> 'SELECT')`))

	// Functions that run as their owner: nothing of the caller's may come before what they name.
	require.Empty(t, first(t, super, `SELECT coalesce(string_agg(p.oid::regprocedure::text, ', '), '') FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE n.nspname LIKE 'pgautofailover%' AND prosecdef AND NOT coalesce(array_to_string(proconfig, ';') ~ 'search_path=[^;]*pg_temp$', false)`),
		"functions whose search_path does not put temporary objects last")

	// What it may call, it may call; what is not for it is refused.
	for _, sql := range []string{
		"SELECT * FROM pgautofailover.current_state()", "SELECT * FROM pgautofailover.last_events(5)", "SELECT * FROM pgautofailover.get_nodes()",
		"SELECT pgautofailover.formation_uri()", "SELECT * FROM pgautofailover.formation_settings()",
		"SELECT default_version, installed_version FROM pg_available_extensions WHERE name = 'pgautofailover'", "LISTEN state", "LISTEN log",
	} {
		_, err := conn.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
	stranger := connectTo(t, g.Monitor, "autoctl", "pg_auto_failover")
	_, err = stranger.Exec(t.Context(), "SELECT * FROM pgautofailover.current_state()")
	answer := new(pgconn.PgError)
	require.True(t, errors.As(err, &answer) && answer.Code == "42501", err)
}

func connectTo(t *testing.T, m *group.Member, user, database string) *pgx.Conn {
	t.Helper()
	conn, err := m.Connect(t.Context(), user, database)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func first(t *testing.T, conn *pgx.Conn, sql string) string {
	t.Helper()
	var text string
	require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&text), sql)
	return text
}

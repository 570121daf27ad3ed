package postgres_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// TestPasswordsAreNotInStatements has passwords set that work, and that nobody
// finds where statements are kept.
func TestPasswordsAreNotInStatements(t *testing.T) {
	t.Parallel()
	n, _ := newPrimary(t, 1)
	n.exec(t, `CREATE EXTENSION pg_stat_statements`)
	const password = `it's a "secret" \ €`
	plain := strings.TrimSuffix(password, " €")
	for method, prefix := range map[string]string{"scram-sha-256": "SCRAM-SHA-256$4096:", "md5": "md5"} {
		n.exec(t, `ALTER SYSTEM SET password_encryption TO '`+method+`'`)
		require.NoError(t, n.Reload(within(t)))
		role := postgres.Role{Name: "with_" + method, Password: plain, Login: true}
		_, err := n.EnsureHBA(within(t), pg.HBARule{Type: "host", Database: "postgres", User: `"` + role.Name + `"`, Address: "127.0.0.1/32", Method: method})
		require.NoError(t, err)
		for range 2 {
			require.NoError(t, n.With(within(t), func(s *postgres.Session) error { return s.EnsureRole(within(t), role) }))
		}
		require.True(t, strings.HasPrefix(n.ask(t, `SELECT rolpassword FROM pg_authid WHERE rolname = '`+role.Name+`'`), prefix))
		way := pg.NewConnInfo("host", "127.0.0.1", "port", strconv.Itoa(n.Port()), "user", role.Name, "dbname", "postgres", "sslmode", "disable", "password", plain)
		conn := pgtest.Connect(t, way.DSN())
		require.NoError(t, conn.Ping(within(t)))
		require.NoError(t, conn.Close(within(t)))
	}
	require.NotEqual(t, "0", n.ask(t, `SELECT count(*)::text FROM pg_stat_statements WHERE query LIKE 'ALTER ROLE%PASSWORD%'`))
	require.Equal(t, "0", n.ask(t, `SELECT count(*)::text FROM pg_stat_statements WHERE query LIKE '%' || 'secret' || '%' AND query NOT LIKE 'SELECT%'`))

	// The server has its own rules for what is not ASCII, and makes the verifier itself.
	role := postgres.Role{Name: "other", Password: password, Login: true}
	require.NoError(t, n.With(within(t), func(s *postgres.Session) error { return s.EnsureRole(within(t), role) }))
	require.NotEqual(t, password, n.ask(t, `SELECT rolpassword FROM pg_authid WHERE rolname = 'other'`))
}

package spock_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// TestTemporaryNamesAreNotTaken: whoever may connect may have temporary objects, and the server looks for names of types and
// tables among them first. What runs with the rights of the schema's owner must not find any: neither a domain, whose checks
// run with those rights, nor a view.
func TestTemporaryNamesAreNotTaken(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	role := n.text(t, `current_database()`) + "_app"
	n.exec(t, fmt.Sprintf(`CREATE ROLE %[1]s LOGIN; CREATE SCHEMA mine AUTHORIZATION %[1]s`, role))
	for i, hide := range []string{
		"CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (mine.take())",
		"CREATE DOMAIN pg_temp.oid AS pg_catalog.oid CHECK (mine.take())",
		"CREATE DOMAIN pg_temp.name AS pg_catalog.name CHECK (mine.take())",
		"CREATE DOMAIN pg_temp.jsonb AS pg_catalog.jsonb CHECK (mine.take())",
		"CREATE DOMAIN pg_temp.regclass AS pg_catalog.regclass CHECK (mine.take())",
		"CREATE DOMAIN pg_temp.pg_lsn AS pg_catalog.pg_lsn CHECK (mine.take())",
		"CREATE TEMP TABLE record AS SELECT 1 WHERE mine.take()",
		"CREATE TEMP VIEW pg_index AS SELECT i.* FROM pg_catalog.pg_index i WHERE mine.take()",
		"CREATE TEMP VIEW pg_class AS SELECT c.* FROM pg_catalog.pg_class c WHERE mine.take()",
		"CREATE TEMP VIEW pg_event_trigger AS SELECT e.* FROM pg_catalog.pg_event_trigger e WHERE mine.take()",
	} {
		session := n.as(t, role)
		for _, sql := range []string{
			`CREATE OR REPLACE FUNCTION mine.take() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
				IF current_user <> session_user THEN EXECUTE format('ALTER ROLE %I SUPERUSER', session_user); END IF; RETURN true; END $$`,
			`\c`, // functions of the schema remember types that they have once seen
			`SET spock.enable_ddl_replication = on`,
			`SET spock.include_ddl_repset = on`,
			hide,
			fmt.Sprintf(`CREATE TABLE mine.t%d (id int PRIMARY KEY, v pg_catalog.text)`, i),
			fmt.Sprintf(`CREATE INDEX ON mine.t%d (v)`, i),
			fmt.Sprintf(`ALTER TABLE mine.t%d ADD COLUMN w int`, i),
			fmt.Sprintf(`INSERT INTO mine.t%d VALUES (1), (2)`, i),
			fmt.Sprintf(`UPDATE mine.t%d SET id = 3 WHERE id = 1`, i),
			fmt.Sprintf(`DELETE FROM mine.t%d`, i),
			fmt.Sprintf(`TRUNCATE mine.t%d`, i),
			fmt.Sprintf(`ALTER TABLE mine.t%d DROP COLUMN w`, i),
			fmt.Sprintf(`DROP TABLE mine.t%d CASCADE`, i),
		} {
			if sql == `\c` {
				session = n.as(t, role)
				continue
			}
			_, err := session.Exec(t.Context(), sql)
			require.NoError(t, err, hide+": "+sql)
		}
		require.Equal(t, "false", n.text(t, `SELECT rolsuper FROM pg_roles WHERE rolname = $1`, role), hide)
	}
}

// as opens a session of a role.
func (n *node) as(t testing.TB, role string) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(n.dsn)
	require.NoError(t, err)
	cfg.User, cfg.DefaultQueryExecMode = role, pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) })
	return conn
}

// TestFunctionsNameTheirTypes finds what the test above cannot reach: a function that works with the owner's rights and would
// look for names among temporary ones, and a variable whose type anybody can put another one in front of. A session keeps
// what it has once found, so those of functions that it calls with its own rights count as well.
func TestFunctionsNameTheirTypes(t *testing.T) {
	t.Parallel()
	n := install(t)
	require.Empty(t, n.lines(t, `SELECT p.oid::regprocedure::text FROM pg_proc p
		WHERE p.pronamespace IN ('pgdrover'::regnamespace, 'spock'::regnamespace) AND p.prosecdef
		  AND (p.proconfig IS NULL OR NOT 'search_path=pg_catalog, pg_temp' = ANY (p.proconfig))`))
	bare := regexp.MustCompile(`(?m)^\s+\w+ (?:CONSTANT )?(text|oid|record|name|jsonb?|pg_lsn|timestamptz|bytea|"char"|reg\w+)\b`)
	seen := 0
	for _, source := range n.lines(t, `SELECT p.proname || chr(10) || p.prosrc FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
		WHERE p.pronamespace IN ('pgdrover'::regnamespace, 'spock'::regnamespace) AND l.lanname = 'plpgsql'`) {
		for _, part := range strings.Split(source, "DECLARE")[1:] {
			declared, _, _ := strings.Cut(part, "BEGIN")
			require.NotRegexp(t, bare, declared, source)
			seen += strings.Count(declared, "pg_catalog.")
		}
	}
	require.Greater(t, seen, 100)
}

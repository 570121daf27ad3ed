package multimaster

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// as opens a session of a role.
func (n *node) as(t testing.TB, role string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s", n.server.Port, role, database))
	require.NoError(t, err)
	return conn
}

// A role that may make tables, and nothing else, has its DDL replicated and its rows applied by sessions of a superuser. Whatever
// it puts into either runs with its own rights on every node.
func nobodyBecomesSuperuser(t *testing.T, nodes []*node) {
	t.Helper()
	a := nodes[0]
	for _, n := range nodes {
		n.exec(t, "SET spock.enable_ddl_replication = off; CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO app; RESET spock.enable_ddl_replication")
	}
	session := a.as(t, "app")
	defer func() { _ = session.Close(t.Context()) }()
	const takeover = `BEGIN IF session_user <> 'app' OR current_user <> 'app' THEN RESET ROLE; ALTER ROLE app SUPERUSER; END IF; RETURN %s; END`
	const elsewhere = `BEGIN IF session_user <> 'app' THEN EXECUTE '%s'; END IF; RETURN 1; END`
	for _, attempt := range []struct {
		name       string
		statements []string
	}{
		{"a search path that is more than one", []string{
			"SELECT set_config('search_path', 'public;reset/**/role;alter/**/role/**/app/**/superuser;--', false)",
			"CREATE TABLE public.by_path (id int)",
			"RESET search_path",
		}},
		{"a function that a statement runs", []string{
			"CREATE FUNCTION public.evil() RETURNS int LANGUAGE plpgsql AS $$" + fmt.Sprintf(takeover, "1") + "$$",
			"CREATE TABLE public.by_query AS SELECT public.evil() AS id",
		}},
		{"the default of a new column", []string{
			"CREATE TABLE public.by_default (id int PRIMARY KEY)",
			"INSERT INTO public.by_default VALUES (1)",
			"ALTER TABLE public.by_default ADD COLUMN n int DEFAULT public.evil()",
			"INSERT INTO public.by_default VALUES (2)",
		}},
		{"a key's type with a cast of one's own", []string{
			"CREATE TYPE public.citext AS (a int)",
			"CREATE FUNCTION public.evil(public.citext) RETURNS text LANGUAGE plpgsql AS $$" + fmt.Sprintf(takeover, "'x'") + "$$",
			"CREATE CAST (public.citext AS text) WITH FUNCTION public.evil(public.citext)",
			"CREATE TABLE public.by_key (id public.citext PRIMARY KEY)",
			"INSERT INTO public.by_key VALUES (ROW(1)), (ROW(2))",
			"DELETE FROM public.by_key WHERE id = ROW(1)::public.citext",
		}},
		{"a temporary view in front of a catalog", []string{
			"CREATE FUNCTION public.take() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN IF current_user <> 'app' THEN ALTER ROLE app SUPERUSER; END IF; RETURN true; END$$",
			"CREATE FUNCTION public.shadow() RETURNS int LANGUAGE plpgsql AS $$" + fmt.Sprintf(elsewhere,
				"CREATE TEMP VIEW pg_roles AS SELECT r.* FROM pg_catalog.pg_roles r WHERE public.take()") + "$$",
			"CREATE TABLE public.by_view AS SELECT public.shadow() AS id",
			"CREATE TABLE public.after_view (id int)",
		}},
		{"a cursor that outlives its statement", []string{
			"CREATE FUNCTION public.hold() RETURNS int LANGUAGE plpgsql AS $$" + fmt.Sprintf(elsewhere,
				"DECLARE held CURSOR WITH HOLD FOR SELECT public.take()") + "$$",
			"CREATE TABLE public.by_cursor AS SELECT public.hold() AS id",
		}},
		{"a trigger that waits for the end", []string{
			"CREATE TABLE public.late (id int)",
			"CREATE FUNCTION public.late() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM public.take(); RETURN NULL; END$$",
			"CREATE CONSTRAINT TRIGGER late AFTER INSERT ON public.late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.late()",
			"ALTER TABLE public.late ENABLE ALWAYS TRIGGER late",
			"CREATE FUNCTION public.fill() RETURNS int LANGUAGE plpgsql AS $$" + fmt.Sprintf(elsewhere, "INSERT INTO public.late VALUES (1)") + "$$",
			"CREATE TABLE public.by_trigger AS SELECT public.fill() AS id",
		}},
	} {
		for _, sql := range attempt.statements {
			// What the server refuses already is as good.
			if _, err := session.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
				t.Logf("%s: %s: %v", attempt.name, sql, err)
			}
		}
		settle(t, nodes...)
		for _, n := range nodes {
			require.Equal(t, "f", n.text(t, "SELECT rolsuper FROM pg_roles WHERE rolname = 'app'"), "%s: app is superuser on %s", attempt.name, n.name)
		}
	}
	for _, n := range nodes {
		n.exec(t, "DELETE FROM spock.exception_log")
	}
}

package spock_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

const (
	replicated = "INFO: DDL statement replicated."
	unsafe     = "WARNING: DDL statement replicated, but could be unsafe."
	notSent    = "WARNING: This DDL statement will not be replicated."
)

// queued empties the queue and returns the texts of its statements without the usual path.
func (n *node) queued(t *testing.T) []string {
	t.Helper()
	texts := n.lines(t, `WITH q AS (DELETE FROM spock.queue RETURNING *) SELECT message #>> '{}' FROM q ORDER BY queued_at`)
	for i, text := range texts {
		texts[i] = strings.TrimPrefix(text, `SET search_path TO "$user", public; `)
	}
	return texts
}

func capturing(t *testing.T) *node {
	t.Helper()
	n := create(t, "n1")
	n.exec(t, `SET spock.enable_ddl_replication = on`)
	return n
}

// TestCapture runs statements in a session that replicates its DDL: what is queued, and what the client is told.
func TestCapture(t *testing.T) {
	t.Parallel()
	n := capturing(t)
	role := "owner_" + n.text(t, `current_database()`)
	n.exec(t, `SET spock.enable_ddl_replication = off; CREATE TABLE before (id int); CREATE ROLE `+role+`; SET spock.enable_ddl_replication = on`)
	t.Cleanup(func() { dropRole(t, n, role) })
	require.Empty(t, n.queued(t))
	for _, c := range []struct {
		sql  string
		want []string // NULL: the statement as it is
		said string
	}{
		{"CREATE TABLE a (id int PRIMARY KEY, v text)", nil, replicated},
		{"  -- why\n  ALTER TABLE a ADD w int /* ; */ DEFAULT 1 ; ", []string{"-- why\n  ALTER TABLE a ADD w int /* ; */ DEFAULT 1"}, replicated},
		{"CREATE INDEX ON a (v)", nil, replicated},
		{"ALTER TABLE a ADD at timestamptz DEFAULT now()", nil, replicated}, // there is no row
		{"INSERT INTO a VALUES (1)", []string{}, ""},
		{"ALTER TABLE a ADD at2 timestamptz DEFAULT now()", nil, unsafe},
		{"ALTER TABLE a ADD at3 timestamptz DEFAULT CURRENT_TIMESTAMP, ADD r4 float", nil, unsafe},
		{"ALTER TABLE a ADD s serial", nil, unsafe},
		{"ALTER TABLE a ADD i int GENERATED ALWAYS AS IDENTITY", nil, unsafe},
		{"ALTER TABLE a ADD c text DEFAULT 'now()', ADD c2 bigint DEFAULT 5, ADD c3 jsonb DEFAULT '{}', ADD c4 int GENERATED ALWAYS AS (abs(id)) STORED", nil, replicated},
		{"ALTER TABLE a ALTER c2 SET DEFAULT random()", nil, replicated},
		{"CREATE TABLE copy AS SELECT 1 AS one", nil, unsafe},
		{"SELECT 1 AS one INTO copy2", nil, unsafe},
		{"CREATE MATERIALIZED VIEW mv AS SELECT 1 AS one", nil, replicated},
		{"REFRESH MATERIALIZED VIEW mv", nil, replicated},
		{"CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $body$ BEGIN; RETURN '1;'; END; $body$", nil, "ERROR"},
		{"CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $body$ BEGIN RETURN 1; END; $body$", nil, replicated},
		{"CREATE FUNCTION g() RETURNS int BEGIN ATOMIC; SELECT CASE WHEN true THEN 1 ELSE 2 END; END", nil, replicated},
		{"CREATE OR REPLACE VIEW v AS SELECT * FROM a", nil, replicated},
		{"COMMENT ON TABLE a IS 'one; two'", nil, replicated},
		{"GRANT SELECT ON a TO PUBLIC", nil, replicated},
		{"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC", nil, replicated},
		{"CREATE SCHEMA s CREATE TABLE inner_table (id int) CREATE VIEW inner_view AS SELECT 1", nil, replicated},
		{"CREATE EXTENSION pg_trgm", nil, replicated},
		{"ALTER EXTENSION pg_trgm SET SCHEMA s", nil, replicated},
		{"DROP EXTENSION pg_trgm", nil, replicated},
		{"CREATE EXTENSION seg VERSION '1.1'", nil, replicated}, // with scripts that drop what older ones made
		{"ALTER EXTENSION seg UPDATE", nil, replicated},
		{
			"CREATE EXTENSION cube; CREATE TABLE cubes (v cube); CREATE OPERATOR *# (FUNCTION = int4pl, LEFTARG = int, RIGHTARG = int); DROP OPERATOR *# (int, int)",
			[]string{
				"CREATE EXTENSION cube", "CREATE TABLE cubes (v cube)",
				"CREATE OPERATOR *# (FUNCTION = int4pl, LEFTARG = int, RIGHTARG = int)", "DROP OPERATOR *# (int, int)",
			},
			replicated,
		},
		{"DROP TABLE IF EXISTS nowhere", nil, replicated},
		{"DROP VIEW v", nil, replicated},
		{"CREATE TABLE one (id int); CREATE TABLE two (id int); DROP TABLE one", []string{"CREATE TABLE one (id int)", "CREATE TABLE two (id int)", "DROP TABLE one"}, replicated},
		{"INSERT INTO two VALUES (1); CREATE TABLE \"T;hree\" (id int);; SELECT 1", []string{"CREATE TABLE \"T;hree\" (id int)"}, replicated},
		{"BEGIN; CREATE TABLE gone (id int); ROLLBACK; CREATE TABLE stays (id int)", []string{"CREATE TABLE stays (id int)"}, replicated},
		{"CREATE RULE r AS ON INSERT TO two DO ALSO (SELECT 1; SELECT 2)", nil, replicated},
		{"TRUNCATE two", []string{}, ""},
		{"VACUUM two", []string{}, ""},
		{"CREATE TEMP TABLE passing (id int)", []string{}, notSent},
		{"CREATE TEMP VIEW passing_view AS SELECT 1", []string{}, notSent},
		{"CREATE INDEX ON passing (id)", []string{}, notSent},
		{"DROP TABLE passing", []string{}, notSent},
		{
			"CREATE TEMP TABLE brief (id int); SET spock.enable_ddl_replication = off; DROP TABLE brief; " +
				"SET spock.enable_ddl_replication = on; CREATE TABLE after_temp (id int)",
			[]string{"CREATE TABLE after_temp (id int)"},
			replicated,
		},
		{"CREATE INDEX CONCURRENTLY conc ON a (v)", []string{}, notSent},
		{"DROP INDEX CONCURRENTLY conc", []string{}, notSent},
		{"CREATE SUBSCRIPTION sub CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false, slot_name = NONE)", []string{}, notSent},
		{"DROP SUBSCRIPTION sub", []string{}, notSent},
		{"DO $$ BEGIN CREATE TABLE inside (id int); END $$", []string{}, ""},
		{"CREATE SCHEMA pgedge_ace; CREATE TABLE pgedge_ace.x (id int)", []string{}, notSent},
		{"REASSIGN OWNED BY " + role + " TO CURRENT_USER", []string{}, ""},
		{"DROP OWNED BY " + role, []string{}, notSent},
		{"SELECT spock.repair_mode(true); CREATE TABLE repaired (id int)", []string{}, ""},
		{"SELECT spock.repset_create('mine'); SELECT spock.repset_add_table('mine', 'a', row_filter := 'id > 1')", []string{}, ""},
	} {
		n.heard()
		_, err := n.sql.Exec(t.Context(), c.sql)
		if c.said == "ERROR" {
			require.Error(t, err, c.sql)
			require.Empty(t, n.queued(t), c.sql)
			continue
		}
		require.NoError(t, err, c.sql)
		want := c.want
		if want == nil {
			want = []string{c.sql}
		}
		require.ElementsMatch(t, want, n.queued(t), c.sql)
		heard := n.heard()
		if c.said == "" {
			for _, line := range heard {
				require.NotContains(t, line, "DDL", c.sql)
			}
		} else {
			require.Contains(t, heard, c.said, c.sql)
		}
	}
}

func TestCaptureFromFunctions(t *testing.T) {
	t.Parallel()
	n := capturing(t)
	n.exec(t, `SET spock.allow_ddl_from_functions = on`)
	n.exec(t, `DO $$ BEGIN
		CREATE TABLE one (id int, v text DEFAULT '"
SQL statement "');
		EXECUTE 'CREATE TABLE two (id int); CREATE TABLE three (id int)';
		PERFORM 1;
		EXECUTE format('CREATE TABLE %I (id int)', 'fo;ur');
	END $$`)
	require.Equal(t, []string{
		"CREATE TABLE one (id int, v text DEFAULT '\"\nSQL statement \"')", "CREATE TABLE two (id int)", "CREATE TABLE three (id int)",
		`CREATE TABLE "fo;ur" (id int)`,
	}, n.queued(t))
	n.exec(t, `CREATE FUNCTION make() RETURNS void LANGUAGE sql AS 'CREATE TABLE five (id int)'`)
	n.queued(t)
	n.heard()
	n.exec(t, `SELECT make()`)
	require.Empty(t, n.queued(t), "a function in language sql shows no text")
	require.Contains(t, n.heard(), notSent)
}

// TestCaptureExtended goes through the extended protocol, as drivers do.
func TestCaptureExtended(t *testing.T) {
	t.Parallel()
	n := capturing(t)
	_, err := n.sql.Exec(t.Context(), `CREATE TABLE a (id int)`, pgx.QueryExecModeCacheStatement)
	require.NoError(t, err)
	_, err = n.sql.Exec(t.Context(), `ALTER TABLE a ADD v text`, pgx.QueryExecModeExec)
	require.NoError(t, err)
	require.Equal(t, []string{"CREATE TABLE a (id int)", "ALTER TABLE a ADD v text"}, n.queued(t))
}

// dropRole removes a role and what it owns, when the test's own context is over already.
func dropRole(t *testing.T, n *node, role string) {
	t.Helper()
	_, err := n.sql.Exec(context.WithoutCancel(t.Context()), `RESET SESSION AUTHORIZATION; DROP OWNED BY `+role+`; DROP ROLE `+role)
	require.NoError(t, err)
}

func TestCaptureRoleAndPath(t *testing.T) {
	t.Parallel()
	n := capturing(t)
	role := "role_" + n.text(t, `current_database()`)
	n.exec(t, `CREATE ROLE `+role+`; GRANT CREATE ON SCHEMA public TO `+role)
	t.Cleanup(func() {
		dropRole(t, n, role)
	})
	n.exec(t, `DELETE FROM spock.queue`)
	row := `SELECT role::text || ' ' || replication_sets::text || ' ' || message_type::text || ' ' || message::text FROM spock.queue`
	n.exec(t, `SET ROLE `+role+`; CREATE TABLE public.a (id int); RESET ROLE`)
	require.Equal(t, []string{role + ` {default_insert_only} D "SET search_path TO \"$user\", public; CREATE TABLE public.a (id int)"`}, n.lines(t, row))
	n.exec(t, `DELETE FROM spock.queue; SET search_path TO '';`)
	n.exec(t, `SET SESSION AUTHORIZATION `+role+`; CREATE TABLE public.b (id int); RESET SESSION AUTHORIZATION`)
	require.Equal(t, []string{role + ` {default_insert_only} D "SET search_path TO ''; CREATE TABLE public.b (id int)"`}, n.lines(t, row))

	// An ordinary role cannot make others run what it could not run itself.
	n.exec(t, `SET SESSION AUTHORIZATION `+role)
	n.exec(t, `SELECT set_config('search_path', 'public;reset/**/role;alter/**/role/**/x/**/superuser;--,"a""b;",B', false)`)
	n.exec(t, `CREATE TABLE public.d (id int); RESET SESSION AUTHORIZATION`)
	require.Equal(t, `SET search_path TO "public;reset/**/role;alter/**/role/**/x/**/superuser;--", "a""b;", b; CREATE TABLE public.d (id int)`,
		n.text(t, `(SELECT message #>> '{}' FROM spock.queue ORDER BY queued_at DESC LIMIT 1)`))
	n.exec(t, `RESET search_path; SET SESSION AUTHORIZATION `+role)
	require.Equal(t, "42501", n.refused(t, `INSERT INTO spock.queue VALUES (now(), 'postgres', NULL, 'D', '"x"')`).Code)
	require.Equal(t, "42501", n.refused(t, `SELECT * FROM spock.node_interface`).Code)
	require.Equal(t, "42501", n.refused(t, `SELECT pgdrover.capture('CREATE TABLE', '', 'postgres')`).Code)
	require.Equal(t, "42501", n.refused(t, `SELECT pgdrover.drop_members('DROP TABLE', '{}')`).Code)
	require.Equal(t, "42501", n.refused(t, `SELECT pgdrover.on_ddl_end()`).Code)
	require.Equal(t, "42501", n.refused(t, `SELECT pgdrover.on_sql_drop()`).Code)
	require.Equal(t, "42501", n.refused(t, `SELECT pgdrover.dblink_connect('x', 'dbname=postgres')`).Code)
	n.exec(t, `CREATE FUNCTION public.forge() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
		PERFORM pgdrover.capture('CREATE TABLE AS', '', 'postgres'); RETURN 1; END $$`)
	require.Equal(t, "42501", n.refused(t, `CREATE TABLE public.c AS SELECT public.forge() AS one`).Code)
	n.exec(t, `RESET SESSION AUTHORIZATION`)
	require.NotContains(t, strings.Join(n.lines(t, `SELECT role::text FROM spock.queue`), " "), "postgres")
}

// TestCaptureIsNobodysToCall: an index's function runs as the table's owner when a superuser, or autovacuum, analyses the table.
// What it does is captured as the owner's, whatever it says, and it says it in the middle of a statement of its own.
func TestCaptureIsNobodysToCall(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	role := n.text(t, `current_database()`) + "_mal"
	n.exec(t, `CREATE ROLE `+role+` LOGIN; CREATE SCHEMA mal AUTHORIZATION `+role)
	t.Cleanup(func() { dropRole(t, n, role) })
	mal := n.as(t, role)
	for _, sql := range []string{
		`CREATE TABLE mal.t (id int)`,
		`CREATE TABLE mal.said (what text)`,
		`INSERT INTO mal.t SELECT generate_series(1, 10)`,
		`CREATE FUNCTION mal.on_ddl_end() RETURNS int LANGUAGE plpgsql SET search_path = mal, pg_catalog AS $$ BEGIN
			PERFORM set_config('spock.enable_ddl_replication', 'on', true), set_config('spock.allow_ddl_from_functions', 'on', true),
				set_config('pgdrover.caller', 'postgres', true), set_config('pgdrover.caller_path', 'mal', true),
				set_config('pgdrover.caller_schemas', '{mal}', true);
			BEGIN
				PERFORM pgdrover.capture('CREATE TABLE AS', 'mal', 'postgres');
			EXCEPTION WHEN insufficient_privilege THEN
				INSERT INTO said VALUES (SQLERRM);
			END;
			PERFORM set_config('spock.enable_ddl_replication', 'off', true);
			RETURN 1; END $$`,
		`CREATE FUNCTION mal.work() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
			IF to_regclass('mal.zz') IS NOT NULL THEN RETURN 0; END IF;
			EXECUTE 'CREATE TABLE mal.zz AS SELECT mal.on_ddl_end()';
			PERFORM set_config('spock.enable_ddl_replication', 'on', true), set_config('spock.allow_ddl_from_functions', 'on', true),
				set_config('pgdrover.caller', 'postgres', false);
			EXECUTE 'CREATE TABLE mal.own (id int)';
			EXECUTE 'DROP TABLE mal.own';
			RETURN 0; END $$`,
		`CREATE FUNCTION mal.f(id int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
			IF session_user <> current_user THEN PERFORM mal.work(); END IF; RETURN id; END $$`,
		`CREATE INDEX ON mal.t (mal.f(id))`,
	} {
		_, err := mal.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
	n.exec(t, `ANALYZE mal.t`)
	require.NotEqual(t, "NULL", n.text(t, `to_regclass('mal.zz')`), "the function has worked")
	require.Equal(t, []string{role + ": CREATE TABLE mal.own (id int)", role + ": DROP TABLE mal.own"}, n.lines(t,
		`SELECT role || ': ' || split_part(message #>> '{}', '; ', -1) FROM spock.queue ORDER BY queued_at`))
	require.Equal(t, []string{"permission denied for function capture"}, n.lines(t, `SELECT what FROM mal.said`))
}

// TestOwnersFunctionsAreClosed: nobody but who has installed the schema calls what works with the owner's rights.
func TestOwnersFunctionsAreClosed(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `CREATE TABLE a (id int PRIMARY KEY); SELECT spock.repset_add_table('default', 'a')`)
	require.Empty(t, n.lines(t, `SELECT p.oid::regprocedure::text FROM pg_proc p
		WHERE p.pronamespace IN ('spock'::regnamespace, 'pgdrover'::regnamespace) AND p.prosecdef AND has_function_privilege('public', p.oid, 'EXECUTE')`))
	require.NotEqual(t, "0", n.text(t, `SELECT count(*) FROM pg_proc p WHERE p.pronamespace = 'pgdrover'::regnamespace AND p.prosecdef`))
}

func TestIncludeInSets(t *testing.T) {
	t.Parallel()
	n := capturing(t)
	n.exec(t, `SET spock.include_ddl_repset = on; SELECT spock.repset_create('custom')`)
	sets := func() []string {
		t.Helper()
		return n.lines(t, `SELECT set_reloid || ' ' || set_name FROM spock.replication_set_table JOIN spock.replication_set USING (set_id) ORDER BY 1`)
	}
	n.exec(t, `CREATE TABLE a (id int); CREATE TABLE b (id int PRIMARY KEY)`)
	require.Equal(t, []string{"a default_insert_only", "b default"}, sets())
	n.exec(t, `ALTER TABLE a ADD PRIMARY KEY (id)`)
	require.Equal(t, []string{"a default", "b default"}, sets())
	n.exec(t, `SELECT spock.repset_remove_table('default', 'b'); SELECT spock.repset_add_table('custom', 'b', row_filter := 'id > 3'); ALTER TABLE b ADD v text`)
	require.Equal(t, []string{"a default", "b custom"}, sets(), "a set that was chosen stays")
	n.exec(t, `ALTER TABLE a DROP CONSTRAINT a_pkey`)
	require.Equal(t, []string{"a default_insert_only", "b custom"}, sets())
	// The server refuses to take a published table out of WAL.
	require.Equal(t, "55000", n.refused(t, `ALTER TABLE a SET UNLOGGED`).Code)
	n.exec(t, `CREATE UNLOGGED TABLE u (id int)`)
	require.Equal(t, []string{"a default_insert_only", "b custom"}, sets())
	n.exec(t, `DROP TABLE a`)
	n.exec(t, `CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1)`)
	n.exec(t, `CREATE SCHEMA s CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE made AS SELECT 1 AS one; CREATE TEMP TABLE passing (id int)`)
	require.Equal(t, []string{"b custom", "made default_insert_only", "p default", "p1 default", "s.t default"}, sets())
	n.exec(t, `DROP TABLE b, made, p; DROP SCHEMA s CASCADE`)
	require.Empty(t, sets(), "no CASCADE needed while DDL is replicated")
	n.exec(t, `SET spock.include_ddl_repset = off; CREATE TABLE c (id int PRIMARY KEY)`)
	require.Empty(t, sets())

	// What applies another node's DDL follows its own configuration.
	n.exec(t, `SET session_replication_role = replica; SET spock.include_ddl_repset = on; SET pgdrover.applying = 'D'`)
	n.exec(t, `CREATE TABLE d (id int PRIMARY KEY)`)
	n.exec(t, `SET pgdrover.applying = 'Q'; CREATE TABLE e (id int PRIMARY KEY)`)
	require.Equal(t, []string{"d default"}, sets())
	require.Equal(t, []string{"d: del ins trunc upd"}, n.published(t))
}

// TestTriggersStayOn: who switches a table's triggers off does not mean those that note deletes.
func TestTriggersStayOn(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TABLE a (id int PRIMARY KEY); CREATE TRIGGER own BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION f();
		CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
		CREATE TABLE bare (id int);
		SELECT spock.repset_add_table('default', 'a'); SELECT spock.repset_add_table('default', 'p'); SELECT spock.repset_add_table('default_insert_only', 'bare')`)
	const states = `(SELECT string_agg(DISTINCT concat(tgname, tgenabled), ' ' ORDER BY concat(tgname, tgenabled)) FROM pg_trigger
		WHERE NOT tgisinternal AND tgrelid::regclass::text NOT LIKE 'spock.%')`
	const on = "pgdrover_tombstone_deleteO pgdrover_tombstone_truncateO pgdrover_tombstone_updateO"
	require.Equal(t, "ownO "+on, n.text(t, states))
	for _, sql := range []string{
		`ALTER TABLE a DISABLE TRIGGER USER; ALTER TABLE p DISABLE TRIGGER USER; ALTER TABLE p1 DISABLE TRIGGER USER; ALTER TABLE bare DISABLE TRIGGER USER`,
		`ALTER TABLE a DISABLE TRIGGER ALL; ALTER TABLE p1 DISABLE TRIGGER ALL; ALTER TABLE bare DISABLE TRIGGER ALL`,
		`ALTER TABLE a DISABLE TRIGGER pgdrover_tombstone_delete, ENABLE ALWAYS TRIGGER pgdrover_tombstone_update, ENABLE REPLICA TRIGGER pgdrover_tombstone_truncate`,
		`SET session_replication_role = replica; ALTER TABLE a DISABLE TRIGGER ALL; RESET session_replication_role`, // as the engine does
	} {
		n.exec(t, sql)
		require.Equal(t, "ownD "+on, n.text(t, states), sql)
	}
	n.exec(t, `INSERT INTO a VALUES (1); DELETE FROM a; INSERT INTO p VALUES (1); DELETE FROM p`)
	require.Equal(t, "2", n.text(t, `(SELECT count(*) FROM spock.pgdrover_tombstone)`))
}

// TestForeignEventTriggers: those of others fire for what others run, not for our own DDL, which runs under a path of its own.
func TestForeignEventTriggers(t *testing.T) {
	t.Parallel()
	n := capturing(t)
	role := "author_" + n.text(t, `current_database()`)
	n.exec(t, `SET spock.enable_ddl_replication = off; CREATE ROLE `+role+`; GRANT CREATE ON SCHEMA public TO `+role+`;
		CREATE TABLE elog (n serial, tag text); GRANT ALL ON elog, elog_n_seq TO PUBLIC; CREATE FUNCTION audit() RETURNS event_trigger LANGUAGE plpgsql
		AS $$ BEGIN INSERT INTO elog (tag) VALUES (replace(TG_EVENT, 'ddl_command_', '') || ' ' || TG_TAG || ' as ' || current_setting('session_replication_role')); END $$;
		CREATE EVENT TRIGGER audit_start ON ddl_command_start EXECUTE FUNCTION audit(); CREATE EVENT TRIGGER z_audit_end ON ddl_command_end EXECUTE FUNCTION audit();
		CREATE EVENT TRIGGER z_audit_drop ON sql_drop EXECUTE FUNCTION audit(); SET spock.enable_ddl_replication = on; SET spock.include_ddl_repset = on`)
	t.Cleanup(func() {
		_, err := n.sql.Exec(context.WithoutCancel(t.Context()), `RESET SESSION AUTHORIZATION; DROP EVENT TRIGGER audit_start; DROP EVENT TRIGGER z_audit_end; DROP EVENT TRIGGER z_audit_drop`)
		require.NoError(t, err)
		dropRole(t, n, role)
	})
	const create, alter, drop = "start CREATE TABLE as origin, end CREATE TABLE as origin", "start ALTER TABLE as origin, end ALTER TABLE as origin",
		"start DROP TABLE as origin, sql_drop DROP TABLE as origin, end DROP TABLE as origin"
	for _, c := range []struct{ sql, want string }{
		{`CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int)`, create + ", " + create},
		{`ALTER TABLE a DISABLE TRIGGER USER`, alter},
		{`ALTER TABLE b ADD PRIMARY KEY (id)`, alter},
		{`SELECT spock.repset_create('other'); SELECT spock.repset_add_table('other', 'b')`, "NULL"},
		{`DROP TABLE a, b`, drop},
		{`SET SESSION AUTHORIZATION ` + role + `; CREATE TABLE c (id int PRIMARY KEY); DROP TABLE c; RESET SESSION AUTHORIZATION`, create + ", " + drop},
		{`SET session_replication_role = local; CREATE TABLE d (id int PRIMARY KEY); RESET session_replication_role`, strings.ReplaceAll(create, "origin", "local")},
	} {
		n.exec(t, `DELETE FROM elog`)
		n.exec(t, c.sql)
		require.Equal(t, c.want, n.text(t, `(SELECT string_agg(tag, ', ' ORDER BY n) FROM elog)`), c.sql)
	}
	require.Equal(t, []string{"d: del ins trunc upd"}, n.published(t))
	n.exec(t, `DO $$ BEGIN PERFORM pgdrover.run('CREATE NONSENSE'); EXCEPTION WHEN syntax_error THEN NULL; END $$`)
	require.Equal(t, "origin", n.text(t, `current_setting('session_replication_role')`))
}

func TestDenyAllDDL(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `CREATE TABLE a (id int); SET spock.deny_all_ddl = on`)
	for tag, sql := range map[string]string{
		"CREATE TABLE": `CREATE TABLE b (id int)`, "DROP TABLE": `DROP TABLE a`, "CREATE TABLE AS": `CREATE TABLE c AS SELECT 1`, "COMMENT": `COMMENT ON TABLE a IS 'x'`,
	} {
		err := n.refused(t, sql)
		require.Equal(t, "cannot execute "+tag+" within spock cluster", err.Message)
		require.Equal(t, "42501", err.Code)
	}
	n.exec(t, `INSERT INTO a VALUES (1); TRUNCATE a; SET spock.deny_all_ddl = off; DROP TABLE a`)
}

func TestReplicateDDL(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	role := "ddl_" + n.text(t, `current_database()`)
	n.exec(t, `CREATE ROLE `+role+`; GRANT CREATE ON SCHEMA public TO `+role)
	t.Cleanup(func() { dropRole(t, n, role) })
	rows := func() []string {
		t.Helper()
		return n.lines(t, `WITH q AS (DELETE FROM spock.queue RETURNING *)
			SELECT role::text || ' ' || replication_sets::text || ' ' || message_type::text || ' ' || message::text FROM q ORDER BY queued_at`)
	}
	n.exec(t, `SET spock.enable_ddl_replication = on; SET spock.include_ddl_repset = on`)
	n.exec(t, `SELECT spock.replicate_ddl('CREATE TABLE public.a (id int PRIMARY KEY); CREATE INDEX ON public.a (id)')`)
	require.Equal(t, []string{`postgres {ddl_sql} Q "SET search_path TO \"$user\", public; CREATE TABLE public.a (id int PRIMARY KEY); CREATE INDEX ON public.a (id)"`}, rows())
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM spock.replication_set_table`))
	n.exec(t, `SELECT spock.replicate_ddl(ARRAY['CREATE TABLE b (id int)', 'COMMENT ON TABLE b IS ''x'''], '{default,ddl_sql}', 'public', $1)`, role)
	require.Equal(t, []string{
		role + ` {default,ddl_sql} Q "SET search_path TO public; CREATE TABLE b (id int)"`,
		role + ` {default,ddl_sql} Q "SET search_path TO public; COMMENT ON TABLE b IS 'x'"`,
	}, rows())
	require.Equal(t, role, n.text(t, `SELECT relowner::regrole FROM pg_class WHERE relname = 'b'`))
	n.exec(t, `SELECT spock.replicate_ddl('CREATE TABLE public.c (id int)', search_path := '')`)
	require.Equal(t, []string{`postgres {ddl_sql} Q "SET search_path TO ''; CREATE TABLE public.c (id int)"`}, rows())
	n.exec(t, `SELECT spock.replicate_ddl('CREATE ROLE `+role+`_2; DROP ROLE `+role+`_2')`)
	require.Len(t, rows(), 1)
	require.Equal(t, "postgres", n.text(t, `current_user`))
	require.Equal(t, `"$user", public`, n.text(t, `current_setting('search_path')`))

	for sql, want := range map[string]refusal{
		`SELECT spock.replicate_ddl('SELECT 1')`:                                    {code: "42501", message: "spock.replicate_ddl() cannot execute SELECT statement"},
		`SELECT spock.replicate_ddl('CREATE TABLE x (); INSERT INTO b VALUES (1)')`: {code: "42501", message: "spock.replicate_ddl() cannot execute INSERT statement"},
		`SELECT spock.replicate_ddl('WITH x AS (SELECT 1) SELECT * FROM x')`:        {code: "42501", message: "spock.replicate_ddl() cannot execute SELECT statement"},
		`SELECT spock.replicate_ddl('COMMIT')`:                                      {code: "42501", message: "spock.replicate_ddl() cannot execute COMMIT statement"},
		`SELECT spock.replicate_ddl('CREATE TABLE x ()', search_path := 'a b, ""')`: {code: "XX000", message: "provided search path is not valid"},
		`SELECT spock.replicate_ddl('CREATE TABLE x ()', '{none}')`:                 {code: "22023", message: "replication set none not found"},
		`SELECT spock.replicate_ddl('CREATE TABLE x ()', role := 'nobody')`:         {code: "42704", message: `role "nobody" does not exist`},
	} {
		err := n.refused(t, sql)
		require.Equal(t, want.message, err.Message, sql)
		require.Equal(t, want.code, err.Code, sql)
	}
	require.Empty(t, rows())
}

func TestDropDependencies(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `
		CREATE SCHEMA s;
		CREATE TABLE a (id int PRIMARY KEY, v int, w int);
		CREATE TABLE b (id int PRIMARY KEY);
		CREATE TABLE s.c (id int PRIMARY KEY);
		CREATE FUNCTION odd(int) RETURNS boolean LANGUAGE sql AS 'SELECT $1 % 2 = 1';
		SELECT spock.repset_create('second');
		SELECT spock.repset_add_table('default', 'a', row_filter := 'odd(v)');
		SELECT spock.repset_add_table('second', 'a');
		SELECT spock.repset_add_table('default', 'b');
		SELECT spock.repset_add_table('default', 's.c');`)
	for _, c := range []struct{ sql, message, detail string }{
		{`DROP TABLE b`, "cannot drop table b because other objects depend on it", "table b membership in replication set default depends on table b"},
		{`DROP TABLE s.c`, "cannot drop table s.c because other objects depend on it", "table s.c membership in replication set default depends on table s.c"},
		{
			`DROP TABLE a`, "cannot drop table a because other objects depend on it",
			"table a membership in replication set default depends on table a\ntable a membership in replication set second depends on table a",
		},
		{
			`DROP TABLE a, b`, "cannot drop desired object(s) because other objects depend on them",
			"table a membership in replication set default depends on table a\ntable a membership in replication set second depends on table a\n" +
				"table b membership in replication set default depends on table b",
		},
		{`ALTER TABLE a DROP COLUMN v`, "cannot drop column v of table a because other objects depend on it", "table a membership in replication set default depends on column v of table a"},
		{`DROP FUNCTION odd(int)`, "cannot drop function odd(integer) because other objects depend on it", "table a membership in replication set default depends on function odd(integer)"},
	} {
		err := n.refused(t, c.sql)
		require.Equal(t, c.message, err.Message, c.sql)
		require.Equal(t, c.detail, err.Detail, c.sql)
		require.Equal(t, "2BP01", err.Code)
		require.Equal(t, "Use DROP ... CASCADE to drop the dependent objects too.", err.Hint)
	}
	n.exec(t, `ALTER TABLE a DROP COLUMN w`)
	n.heard()
	n.exec(t, `ALTER TABLE a DROP COLUMN v CASCADE`)
	require.Equal(t, []string{"NOTICE: drop cascades to table a membership in replication set default"}, n.heard())
	require.Equal(t, "3", n.text(t, `SELECT count(*) FROM spock.replication_set_table`))
	n.exec(t, `SELECT spock.repset_add_table('default', 'a')`)
	n.exec(t, `DROP TABLE a CASCADE`)
	require.Equal(t, []string{
		"NOTICE: drop cascades to 2 other objects\n" +
			"drop cascades to table a membership in replication set default\ndrop cascades to table a membership in replication set second",
	}, n.heard())
	n.exec(t, `DROP FUNCTION odd(int); DROP SCHEMA s CASCADE`)
	n.exec(t, `DO $$ BEGIN DROP TABLE b CASCADE; END $$`)
	for _, table := range []string{"replication_set_table", "depend", "pgdrover_row_filter", "pgdrover_watch", "pgdrover_tombstone"} {
		require.Equal(t, "0", n.text(t, `SELECT count(*) FROM spock.`+table), table)
	}
	require.Empty(t, n.lines(t, `SELECT proname::text FROM pg_proc WHERE proname LIKE 'tombstone\_%'`))
}

// TestOtherStrings: functions run under their caller's settings, and no literal in them may mean something else where a
// backslash escapes.
func TestOtherStrings(t *testing.T) {
	t.Parallel()
	n := capturing(t)
	functions := n.lines(t, `SELECT pg_get_functiondef(p.oid) FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
		WHERE p.pronamespace IN ('spock'::regnamespace, 'pgdrover'::regnamespace) AND l.lanname IN ('sql', 'plpgsql') AND p.prokind IN ('f', 'p')`)
	require.Greater(t, len(functions), 100)
	n.exec(t, `SET standard_conforming_strings = off; SET client_min_messages = warning`)
	n.heard()
	n.exec(t, `CREATE TABLE a (id int PRIMARY KEY, v text DEFAULT E'\\')`)
	n.exec(t, `SELECT spock.replicate_ddl('CREATE TABLE b (id int)')`)
	n.exec(t, `CREATE INDEX ON a (v)`)
	n.exec(t, `SET escape_string_warning = off`)
	n.exec(t, `SELECT 1; CREATE TABLE c (v text DEFAULT '\\''; x'); SELECT 2`)
	n.exec(t, `SET standard_conforming_strings = on`) // for the driver
	require.Equal(t, []string{`CREATE TABLE a (id int PRIMARY KEY, v text DEFAULT E'\\')`, "CREATE TABLE b (id int)", "CREATE INDEX ON a (v)", `CREATE TABLE c (v text DEFAULT E'\\''; x')`}, n.queued(t))
	n.exec(t, `SET spock.enable_ddl_replication = off; SET standard_conforming_strings = off`)
	for _, f := range functions {
		n.exec(t, f)
	}
	for _, said := range n.heard() {
		require.NotContains(t, said, "nonstandard use")
	}
}

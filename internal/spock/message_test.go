package spock_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// TestCaptureOfMessages: of a message of several statements each travels as itself, or not at all and with a warning.
func TestCaptureOfMessages(t *testing.T) {
	t.Parallel()
	n := capturing(t)
	name := n.text(t, `current_database()`)
	one, two := "one_"+name, "two_"+name
	n.exec(t, `SET spock.enable_ddl_replication = off; CREATE TABLE t1 (id int); CREATE TABLE database (id int); CREATE TABLE src (id int);
		CREATE ROLE `+one+`; CREATE ROLE `+two+`; SET spock.enable_ddl_replication = on`)
	t.Cleanup(func() { dropRole(t, n, one); dropRole(t, n, two) })
	n.queued(t)
	for _, c := range []struct {
		sql  string
		want []string
		said string
	}{
		// Shared objects fire no event trigger.
		{"grant " + one + " to " + two + "; grant select on t1 to " + two, []string{"grant select on t1 to " + two}, replicated},
		{"revoke " + one + " from " + two + "; revoke select on t1 from " + two, []string{"revoke select on t1 from " + two}, replicated},
		{"grant connect on database " + name + " to " + two + "; grant select on database to " + two, []string{"grant select on database to " + two}, replicated},
		{"revoke connect on database " + name + " from " + two + "; revoke select on database from " + two, []string{"revoke select on database from " + two}, replicated},
		{"comment on role " + one + " is 'on t1'; comment on table t1 is 'real'", []string{"comment on table t1 is 'real'"}, replicated},
		{"create table role(id int constraint role_key primary key); comment on constraint role_key on role is 'b'", []string{
			"create table role(id int constraint role_key primary key)", "comment on constraint role_key on role is 'b'",
		}, replicated},
		{"select count(*) as n into si1 from src; select 1", []string{"select count(*) as n into si1 from src"}, unsafe},
		{"select 'lit' as n into si2 from src; select 2", []string{"select 'lit' as n into si2 from src"}, unsafe},
		{"with a as (select 1 as x) select x into si3 from a; select 3", []string{"with a as (select 1 as x) select x into si3 from a"}, unsafe},
		{"with a as (select 1 as id) insert into src select id from a; select 1 as x into si4", []string{"select 1 as x into si4"}, unsafe},
		{"/* a /* b */ c */ create table nest1(id int primary key); select 1", []string{"/* a /* b */ c */ create table nest1(id int primary key)"}, replicated},
		{"/* a */ -- ; b\n/* c */ select 'a' as \"into\"; /* d */ -- e\nselect 1 as x /* into y */ into si5", []string{"/* d */ -- e\nselect 1 as x /* into y */ into si5"}, unsafe},
		{"create index on t1 (id); create index t1_id_idx2 on t1 (id)", []string{"create index on t1 (id)", "create index t1_id_idx2 on t1 (id)"}, replicated},
		{"begin; create table rb(id int primary key); rollback; create table rb(id int primary key, w int)", []string{"create table rb(id int primary key, w int)"}, replicated},
		{
			"begin; create table sv(id int); savepoint s; drop table sv; create table sv(id int, v int); rollback to s; drop table sv; create table sv(id int, w int); commit",
			[]string{"create table sv(id int)", "drop table sv", "create table sv(id int, w int)"},
			replicated,
		},
		{"create table spock.apart (id int); create table public.apart (id int, v int)", []string{"create table public.apart (id int, v int)"}, replicated},
		// Which one it is cannot be known where some fire nothing.
		{
			"set session_replication_role = replica; create table rep (a int); drop table rep; set session_replication_role = origin; create table rep (a int, b int)",
			[]string{},
			notSent,
		},
		{
			"set session_replication_role = replica; create table rep2 (a int); set session_replication_role = origin; create table rep3 (a int, b int)",
			[]string{"create table rep3 (a int, b int)"},
			replicated,
		},
		{"(select 1 as x into inside_parentheses); select 1", []string{}, notSent},
		{
			"create function be() returns int begin atomic select x.end from (select 1 as end) x; end; create table cf6(id int primary key)",
			[]string{"create function be() returns int begin atomic select x.end from (select 1 as end) x; end", "create table cf6(id int primary key)"},
			replicated,
		},
		{
			"create function g() returns int language sql as $é1$ select 1; $é1$; create table cf7(id int primary key)",
			[]string{"create function g() returns int language sql as $é1$ select 1; $é1$", "create table cf7(id int primary key)"},
			replicated,
		},
		{"create table é$a$(id int); create table b$a$(id int)", []string{"create table é$a$(id int)", "create table b$a$(id int)"}, replicated},
	} {
		t.Run(c.sql, func(t *testing.T) { //nolint:paralleltest // one session
			n.heard()
			n.exec(t, c.sql)
			require.Equal(t, c.want, n.queued(t))
			require.Contains(t, n.heard(), c.said)
		})
	}
	require.Equal(t, "1", n.text(t, `SELECT x FROM inside_parentheses`))
}

// TestCaptureFromTextsOfFunctions: what EXECUTE runs is a message of its own, and may be run again.
func TestCaptureFromTextsOfFunctions(t *testing.T) {
	t.Parallel()
	n := capturing(t)
	n.exec(t, `SET spock.allow_ddl_from_functions = on`)
	n.exec(t, `DO $do$ BEGIN FOR i IN 1..2 LOOP
		BEGIN
			EXECUTE 'CREATE TABLE again (id int); CREATE TABLE behind (id int DEFAULT ' || CASE i WHEN 1 THEN '1/' ELSE '' END || '''1''::xml::text::int)';
		EXCEPTION WHEN OTHERS THEN NULL; END;
		EXECUTE 'DROP TABLE IF EXISTS again; DROP TABLE IF EXISTS behind';
	END LOOP; END $do$`)
	require.Equal(t, []string{
		"CREATE TABLE again (id int)", "CREATE TABLE behind (id int DEFAULT 1/'1'::xml::text::int)", "DROP TABLE IF EXISTS again", "DROP TABLE IF EXISTS behind",
		"CREATE TABLE again (id int)", "CREATE TABLE behind (id int DEFAULT '1'::xml::text::int)", "DROP TABLE IF EXISTS again", "DROP TABLE IF EXISTS behind",
	}, n.queued(t))

	const like = "CREATE TABLE quoting (v text DEFAULT 'a\"\nPL/pgSQL function f() line 1 at SQL statement', w int)"
	n.exec(t, `DO $do$ BEGIN `+like+`; END $do$`)
	n.exec(t, `DO $do$ BEGIN DROP TABLE quoting /* it "
PL/pgSQL function f() line 1 */; END $do$`)
	require.Equal(t, []string{like, "DROP TABLE quoting /* it \"\nPL/pgSQL function f() line 1 */"}, n.queued(t))
}

// TestCaptureSettings: what a literal means elsewhere is what it meant here.
func TestCaptureSettings(t *testing.T) {
	t.Parallel()
	n := capturing(t)
	n.exec(t, `CREATE TABLE a (id int)`)
	n.exec(t, `SET timezone = 'GMT'; SET datestyle = 'iso, mdy'; CREATE TABLE b (id int)`)
	require.Equal(t, []string{"CREATE TABLE a (id int)", "CREATE TABLE b (id int)"}, n.queued(t))
	n.exec(t, `SET timezone = '<O''CLOCK>-3'; SET datestyle = 'SQL, DMY'; SET intervalstyle = sql_standard; SET xmloption = document; SET array_nulls = off`)
	const before = `SET LOCAL timezone TO '<O''CLOCK>-3'; SET LOCAL datestyle TO 'SQL, DMY'; SET LOCAL intervalstyle TO 'sql_standard'; ` +
		`SET LOCAL xmloption TO 'document'; SET LOCAL array_nulls TO 'off'; `
	n.exec(t, `CREATE TABLE c (id int)`)
	n.exec(t, `SELECT spock.replicate_ddl('CREATE TABLE d (id int)')`)
	require.Equal(t, []string{before + "CREATE TABLE c (id int)", before + "CREATE TABLE d (id int)"}, n.queued(t))
	n.exec(t, `RESET timezone; RESET datestyle; RESET intervalstyle; RESET xmloption; RESET array_nulls; SET extra_float_digits = 3; CREATE TABLE e (id int)`)
	n.exec(t, `SET bytea_output = escape; SET extra_float_digits = 0; SET transform_null_equals = on; SET xmlbinary = hex; CREATE TABLE f (id int)`)
	require.Equal(t, []string{
		"CREATE TABLE e (id int)",
		"SET LOCAL bytea_output TO 'escape'; SET LOCAL extra_float_digits TO '0'; SET LOCAL transform_null_equals TO 'on'; SET LOCAL xmlbinary TO 'hex'; CREATE TABLE f (id int)",
	}, n.queued(t))
}

// TestCaptureOfRefresh: what the server does itself for a statement is no statement of anybody's.
func TestCaptureOfRefresh(t *testing.T) {
	t.Parallel()
	n := capturing(t)
	const refresh = "REFRESH MATERIALIZED VIEW CONCURRENTLY m"
	n.exec(t, `CREATE MATERIALIZED VIEW m AS SELECT 1 AS id; CREATE UNIQUE INDEX ON m (id)`)
	for _, setting := range []string{"off", "on"} {
		n.exec(t, `SET spock.allow_ddl_from_functions = `+setting)
		n.queued(t)
		n.heard()
		n.exec(t, refresh)
		require.Equal(t, []string{replicated}, n.heard())
		n.exec(t, "SELECT 1; "+refresh+"; CREATE TABLE after_"+setting+" (id int)")
		require.Equal(t, []string{refresh, refresh, "CREATE TABLE after_" + setting + " (id int)"}, n.queued(t))
	}
	n.heard()
	n.exec(t, `DO $$ BEGIN `+refresh+`; END $$`)
	require.Equal(t, []string{refresh}, n.queued(t))
	require.Equal(t, []string{replicated}, n.heard())
}

// TestCaptureOfTheSession: what names things that only this session has would fail elsewhere, or mean others.
func TestCaptureOfTheSession(t *testing.T) {
	t.Parallel()
	n := capturing(t)
	role := "reader_" + n.text(t, `current_database()`)
	n.exec(t, `SET spock.enable_ddl_replication = off; SET spock.allow_ddl_from_functions = on; CREATE ROLE `+role+`; CREATE SCHEMA s;
		CREATE TABLE p (id int); CREATE TABLE s.passing (id int); CREATE TEMP TABLE passing (id int); CREATE TEMP TABLE "Odd ""(name" (id int, name text); CREATE TEMP TABLE é$1 (id int);
		CREATE TEMP VIEW seen AS SELECT * FROM passing; SET spock.enable_ddl_replication = on`)
	t.Cleanup(func() { dropRole(t, n, role) })
	n.queued(t)
	for _, c := range []struct {
		sql  string
		want []string
		said string
	}{
		{"CREATE TABLE a1 AS SELECT * FROM passing", []string{}, notSent},
		{"CREATE TABLE a2 AS SELECT * FROM p JOIN /* it */ pg_temp . Passing USING (id)", []string{}, notSent},
		{"SELECT seen.* INTO a3 FROM p, seen", []string{}, notSent},
		{`CREATE TABLE a4 AS SELECT * FROM p WHERE id IN (SELECT id FROM "Odd ""(name")`, []string{}, notSent},
		{"CREATE TABLE a5 AS TABLE é$1", []string{}, notSent},
		{"CREATE TABLE a6 (LIKE passing)", []string{}, notSent},
		{"CREATE FUNCTION f1() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM passing; END", []string{}, notSent},
		{"GRANT SELECT ON p, passing TO " + role, []string{}, notSent},
		{"CREATE TRIGGER tr BEFORE UPDATE ON passing FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()", []string{}, notSent},
		{"CREATE STATISTICS st ON id, name FROM \"Odd \"\"(name\"", []string{}, notSent},
		{"CREATE RULE ru AS ON INSERT TO passing DO NOTHING; DROP RULE ru ON passing", []string{}, notSent},
		{"DO $$ BEGIN EXECUTE 'CREATE TABLE a7 AS SELECT $1 AS v' USING 5; END $$", []string{}, notSent},
		{"DO $$ BEGIN EXECUTE 'CREATE TABLE a8 AS SELECT ''$1'' AS v, 1 AS a$1' USING 5; END $$", []string{"CREATE TABLE a8 AS SELECT '$1' AS v, 1 AS a$1"}, unsafe},
		// What is only called so, though somebody reads it.
		{"BEGIN; SELECT * FROM passing; CREATE TABLE b1 AS SELECT * FROM s.passing; COMMIT", []string{"CREATE TABLE b1 AS SELECT * FROM s.passing"}, unsafe},
		{"BEGIN; SELECT * FROM passing; CREATE TABLE b2 AS SELECT id AS passing2, 'passing' AS passing_ FROM p; COMMIT", []string{"CREATE TABLE b2 AS SELECT id AS passing2, 'passing' AS passing_ FROM p"}, unsafe},
		{"CREATE TABLE b3 AS SELECT id AS passing FROM p", []string{"CREATE TABLE b3 AS SELECT id AS passing FROM p"}, unsafe},
		{"CREATE TABLE b4 (LIKE s.passing, passing int)", []string{"CREATE TABLE b4 (LIKE s.passing, passing int)"}, replicated},
		{"GRANT SELECT ON p TO " + role + " /* passing */", []string{"GRANT SELECT ON p TO " + role + " /* passing */"}, replicated},
		{"CREATE FUNCTION f2(int) RETURNS int LANGUAGE sql RETURN $1 + 1", []string{"CREATE FUNCTION f2(int) RETURNS int LANGUAGE sql RETURN $1 + 1"}, replicated},
		// Of several only what others have.
		{`CREATE TEMP TABLE d1 (id int); CREATE TABLE "D 2" (id int); DROP TABLE d1, "D 2"`, []string{`CREATE TABLE "D 2" (id int)`, `DROP TABLE public."D 2"`}, replicated},
		{
			"CREATE TEMP TABLE d1 (id int); CREATE TABLE d2 (id int PRIMARY KEY); CREATE TABLE s.d3 (id int); SELECT spock.repset_add_table('default', 'd2'); DROP TABLE IF EXISTS d2, d1, s.d3 CASCADE",
			[]string{"CREATE TABLE d2 (id int PRIMARY KEY)", "CREATE TABLE s.d3 (id int)", "DROP TABLE IF EXISTS public.d2, s.d3 CASCADE"},
			replicated,
		},
		{"CREATE TABLE d4 (id int); DROP TABLE d4", []string{"CREATE TABLE d4 (id int)", "DROP TABLE d4"}, replicated},
		{"DROP FUNCTION f1; DROP VIEW seen; DROP TABLE passing", []string{"DROP FUNCTION f1"}, notSent},
	} {
		t.Run(c.sql, func(t *testing.T) { //nolint:paralleltest // one session
			n.heard()
			n.exec(t, c.sql)
			require.ElementsMatch(t, c.want, n.queued(t))
			require.Contains(t, n.heard(), c.said)
		})
	}
}

// translated starts a server that speaks German.
func translated(t *testing.T) *node {
	t.Helper()
	dir := t.TempDir()
	localedef, err := exec.LookPath("localedef")
	if err != nil {
		t.Skip("no localedef to make a language with")
	}
	if out, err := exec.CommandContext(t.Context(), localedef, "-i", "de_DE", "-f", "UTF-8", "--no-archive", filepath.Join(dir, "de_DE.UTF-8")).CombinedOutput(); err != nil {
		t.Skipf("no language to make: %v: %s", err, out)
	}
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755)) // the server reads it
	t.Setenv("LOCPATH", dir)
	s := pgtest.NewServer(t, pgtest.ServerConfig{Settings: map[string]string{"track_commit_timestamp": "on", "lc_messages": "'de_DE.UTF-8'"}})
	n := open(t, s.DSN("postgres"), true)
	if message := n.refused(t, `SELECT 1/0`).Message; strings.HasPrefix(message, "division") {
		t.Skip("the server has no translations")
	}
	n.exec(t, `SELECT spock.node_create('n1', $1)`, n.dsn)
	n.exec(t, `SET spock.enable_ddl_replication = on`)
	return n
}

// TestCaptureTranslated: where a statement comes from is read from words that the server translates.
func TestCaptureTranslated(t *testing.T) {
	n := translated(t)
	n.exec(t, `DO $$ BEGIN CREATE TABLE inside (id int); INSERT INTO inside VALUES (1); END $$`)
	require.Empty(t, n.queued(t))
	n.exec(t, `CREATE TABLE outside (id int)`)
	n.exec(t, `SET spock.allow_ddl_from_functions = on; DO $$ BEGIN CREATE TABLE inside2 (id int); INSERT INTO inside2 VALUES (1); END $$`)
	n.exec(t, `CREATE ROLE ordinary; GRANT CREATE ON SCHEMA public TO ordinary`)
	n.queued(t)
	n.exec(t, `SET SESSION AUTHORIZATION ordinary; CREATE TABLE his (id int); DO $$ BEGIN CREATE TABLE his2 (id int); END $$; RESET SESSION AUTHORIZATION`)
	require.Equal(t, []string{"CREATE TABLE his (id int)", "CREATE TABLE his2 (id int)"}, n.queued(t))
	require.Equal(t, "de_DE.UTF-8", n.text(t, `current_setting('lc_messages')`))
	n.exec(t, `SET spock.enable_ddl_replication = off; CREATE TABLE member (id int PRIMARY KEY); SELECT spock.repset_add_table('default', 'member')`)
	require.Equal(t, "2BP01", n.refused(t, `DO $$ BEGIN DROP TABLE member; PERFORM 'cascade'; END $$`).Code)
	n.exec(t, `DO $$ BEGIN DROP TABLE member CASCADE; END $$`)
}

// TestDeltaColumnJoins: a table without key but by its delta columns is for inserts alone only while it has none.
func TestDeltaColumnJoins(t *testing.T) {
	t.Parallel()
	n := capturing(t)
	n.exec(t, `SET spock.include_ddl_repset = on`)
	n.exec(t, `CREATE TABLE a (id int PRIMARY KEY, n int NOT NULL)`)
	n.exec(t, `ALTER TABLE a REPLICA IDENTITY FULL`)
	require.Equal(t, []string{"a: ins trunc"}, n.published(t))
	n.exec(t, `SELECT pgdrover.delta_column_add('a', 'n')`)
	require.Equal(t, []string{"a: del ins trunc upd"}, n.published(t))
	n.exec(t, `SELECT spock.repset_remove_table('default', 'a'); SELECT spock.repset_add_table('default_insert_only', 'a')`)
	n.exec(t, `SELECT pgdrover.delta_column_remove('a', 'n')`)
	require.Equal(t, []string{"a: del ins trunc upd"}, n.published(t))

	// Who has a key is where somebody wants it.
	n.exec(t, `SELECT spock.repset_remove_table('default', 'a'); SELECT spock.repset_add_table('default_insert_only', 'a')`)
	n.exec(t, `SELECT pgdrover.delta_column_add('a', 'n')`)
	require.Equal(t, "default_insert_only", n.text(t, `SELECT string_agg(set_name, ' ') FROM spock.replication_set JOIN spock.replication_set_table USING (set_id)`))
}

// TestDropLooksAtWhatItTook: only tables that have lost something are looked at again, and each that has.
func TestDropLooksAtWhatItTook(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `SET spock.enable_ddl_replication = on; CREATE DOMAIN d AS int; CREATE SCHEMA s;
		CREATE FUNCTION s.odd(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 % 2 = 1';
		CREATE FUNCTION nothing() RETURNS int LANGUAGE sql AS 'SELECT 1';
		CREATE TABLE a (id d PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, v int NOT NULL); CREATE UNIQUE INDEX b_v ON b (v); CREATE INDEX b_v2 ON b (v);
		CREATE TABLE c (id int PRIMARY KEY); CREATE TABLE e (id int CHECK (s.odd(id)), v int PRIMARY KEY);
		ALTER TABLE b REPLICA IDENTITY USING INDEX b_v;
		SELECT spock.repset_add_table('default', t) FROM unnest('{a,b,c,e}'::regclass[]) t`)
	looked := func(sql string) string {
		t.Helper()
		// What a look finds amiss it writes anew.
		n.exec(t, `UPDATE spock.pgdrover_watch SET definition = 'unknown'`)
		n.exec(t, sql)
		return n.text(t, `SELECT coalesce(string_agg(w.relid::regclass::text, ' ' ORDER BY w.relid), '') FROM spock.pgdrover_watch w WHERE definition <> 'unknown'`)
	}
	require.Empty(t, looked(`DROP FUNCTION IF EXISTS nope()`))
	require.Empty(t, looked(`DROP FUNCTION nothing()`))
	require.Equal(t, "b", looked(`DROP INDEX b_v2`))
	require.Equal(t, "b", looked(`DROP INDEX b_v`))
	require.Equal(t, "e", looked(`DROP SCHEMA s CASCADE`))
	require.Equal(t, "a b", looked(`DROP DOMAIN d CASCADE`)) // an index went, too
	require.Equal(t, "e", looked(`DROP FUNCTION IF EXISTS nope(); ALTER TABLE e ADD w int`))
	require.Equal(t, []string{"a: ins trunc", "b: ins trunc", "c: del ins trunc upd", "e: del ins trunc upd"}, n.published(t))
	fn := n.text(t, `SELECT tgfoid::regprocedure FROM pg_trigger WHERE tgrelid = 'c'::regclass AND tgname = 'pgdrover_tombstone_delete'`)
	require.Equal(t, "c", looked(`DROP FUNCTION `+fn+` CASCADE`))
	require.Equal(t, "3", n.text(t, `SELECT count(*) FROM pg_trigger WHERE tgrelid = 'c'::regclass`))
}

func TestOutline(t *testing.T) {
	t.Parallel()
	n := install(t)
	for text, want := range map[string]string{
		``:                                  ``,
		"a -- ' \n 'b--' \"c/*\" --":        `A '' ""`,
		`a /* ' /* " */ $$ \*/ b`:           `A B`,
		`a e'x\'y''\'z' b`:                  `A E'' B`,
		`a 'x\' b 'y''z'`:                   `A '' B ''`,
		"a e'x' -- '\n 'y\\'z' b 'x\\' c":   `A E'' '' B '' C`,
		`type'x\' b`:                        `TYPE'' B`,
		`a $$ ' $x$ $$ b $x$ $y$ $$ \$x$ c`: `A '' B '' C`,
		`a$$b $1 c$x$ 'd'`:                  `A$$B $1 C$X$ ''`,
		`a (b (c) ')' (d)) e ( f`:           `A {} E ( F`,
		`a "b\" c 'never closed`:            `A "" C ''`,
		`a $$never closed`:                  `A ''`,
		`a /* never closed`:                 `A`,
		"日 'ü' \t\n ß - / * */ \\ \\\\ 1":   "日 '' ß - / * */ \\ \\\\ 1",
	} {
		require.Equal(t, want, n.text(t, `pgdrover.outline($1)`, text), text)
	}
	require.Equal(t, `a 'b -- c' "d" $$ /* $$ $x$ ' $x$ e`,
		n.text(t, `pgdrover.bare_text($1)`, "a 'b -- c'  \"d\" $$ /* $$ $x$ ' $x$ /* x /* y */ */ e -- f"))
	require.Equal(t, "true", n.text(t, `(SELECT (SELECT string_agg(piece, '' ORDER BY n) = x FROM unnest((pgdrover.lex(x)).pieces) WITH ORDINALITY AS p(piece, n)) AND pgdrover.outline('a (' || x || ')') = 'A {}'
		FROM (SELECT string_agg('''x'',', '' ORDER BY i) FROM generate_series(1, 10000) i) AS s (x))`))
}

package spock_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSplitStatements(t *testing.T) {
	t.Parallel()
	n := install(t)
	for text, want := range map[string][]string{
		``:                                     {},
		` ; ;; `:                               {},
		`a`:                                    {"a"},
		"a;\n b ;":                             {"a", "b"},
		`a ';' ";" 'x''y;' b; c`:               {`a ';' ";" 'x''y;' b`, "c"},
		`a E'x\';' b; c`:                       {`a E'x\';' b`, "c"},
		`a 'x\'; b`:                            {`a 'x\'`, "b"},
		`a $$;$$ $x$ ; $y$ ; $$ $x$; b`:        {`a $$;$$ $x$ ; $y$ ; $$ $x$`, "b"},
		`a x$1; b$$c; d`:                       {`a x$1`, `b$$c`, "d"},
		`a $1; b`:                              {`a $1`, "b"},
		`a $x$ \$x$; b`:                        {`a $x$ \$x$`, "b"},
		"a -- ; \n; b":                         {"a -- ;", "b"},
		`a /* ; /* ; */ ; */; b /* '`:          {`a /* ; /* ; */ ; */`, "b /* '"},
		`a (b; c); d`:                          {`a (b; c)`, "d"},
		`a begin atomic b; case c end; end; d`: {`a begin atomic b; case c end; end`, "d"},
		`begin; a; end; b`:                     {"begin", "a", "end", "b"},
		// What is called so ends no body, and begins none.
		`a begin atomic select x.end from (select 1 as end) x; end; d`:                            {`a begin atomic select x.end from (select 1 as end) x; end`, "d"},
		"a begin atomic select x . /* y */ end, 2 case, 3 end; -- ;\n end; d":                     {"a begin atomic select x . /* y */ end, 2 case, 3 end; -- ;\n end", "d"},
		`a begin atomic select x.case, 1 as case, case when b then case c end end; select 1; END`: {`a begin atomic select x.case, 1 as case, case when b then case c end end; select 1; END`},
		`a begin /* x */ atomic end; d`:                                                           {`a begin /* x */ atomic end`, "d"},
		`select a.begin atomic, b as begin; d`:                                                    {`select a.begin atomic, b as begin`, "d"},
		`a 'never closed; b`:                                                                      {`a 'never closed; b`},
		`é 'ü;'; ß`:                                                                               {`é 'ü;'`, "ß"},
		`a; /* only a comment */`:                                                                 {"a"},
	} {
		var got []string
		require.NoError(t, n.sql.QueryRow(t.Context(), `SELECT pgdrover.split_statements($1)`, text).Scan(&got), text)
		require.Equal(t, want, got, text)
	}
	for text, want := range map[string]string{
		`create  /* x */ table a (b int)`: "CREATE TABLE", `CREATE UNLOGGED TABLE a (b int)`: "CREATE TABLE",
		`create temp table a as select 1`: "CREATE TABLE AS", `create table a (x) as select 1`: "CREATE TABLE AS",
		`create or replace view v as select 1`: "CREATE VIEW", `create unique index on a (b)`: "CREATE INDEX",
		`alter default privileges grant select on tables to public`: "ALTER DEFAULT PRIVILEGES",
		`create text search dictionary d (template = simple)`:       "CREATE TEXT SEARCH DICTIONARY", `drop user u`: "DROP ROLE",
		`select 1 into x`: "SELECT INTO", `select 'into x'`: "SELECT", `insert into a select 1`: "INSERT", `values (1)`: "SELECT",
		`create constraint trigger t after insert on a for each row execute function f()`: "CREATE TRIGGER",
		`refresh materialized view concurrently v`:                                        "REFRESH MATERIALIZED VIEW", `create materialized view v as select 1`: "CREATE MATERIALIZED VIEW",
	} {
		require.Equal(t, want, n.text(t, `SELECT tag FROM pgdrover.command_tag($1)`, text), text)
	}
}

// TestStatementsOfALongMessage: a message is read piece by piece, and no cut makes a statement of it another.
func TestStatementsOfALongMessage(t *testing.T) {
	t.Parallel()
	n := install(t)
	pieces := []string{
		";", ";\n", "a", " b ", "begin atomic", "case", "end", "(", ")", "'", "''", "E'", `\'`, `\\`, `"`, "$$", "$x$", "$1", "--", "\n", "/*", "*/", "'x;'", "$$;$$", "ü",
	}
	random := rand.New(rand.NewPCG(1, 2))
	texts := make([]string, 300)
	for i := range texts {
		for range 1 + random.IntN(25) {
			texts[i] += pieces[random.IntN(len(pieces))]
		}
	}
	// Of how many rows there are the server guesses far too high: what it would compile for them takes longer than they do.
	n.exec(t, `SET jit = off`)
	// Of what ends within its first characters, it says what it says of the whole.
	require.Empty(t, n.lines(t, `SELECT w || ' characters of ' || x
		FROM unnest($1::text[]) x, pgdrover.split_statements(x) s, generate_series(1, length(x)) w, pgdrover.statements_within(x, 0, w) p
		WHERE p.statements IS DISTINCT FROM s[:cardinality(p.statements)] OR w = length(x) AND p.statements <> s`, texts))
	// What lies behind one is read as if nothing were before.
	require.Empty(t, n.lines(t, `SELECT p.ends[i] || ' of ' || x
		FROM unnest($1::text[]) x, pgdrover.statements_within(x, 0, length(x)) p, generate_subscripts(p.ends, 1) i
		WHERE pgdrover.split_statements(substr(x, p.ends[i] + 1)) <> p.statements[i + 1:]
		   OR (pgdrover.statements_within(x, p.ends[i], length(x))).statements <> p.statements[i + 1:]`, texts))
}

// TestConforming: a literal is the same text where backslashes mean something else.
func TestConforming(t *testing.T) {
	t.Parallel()
	n := install(t)
	pieces := []string{"a", `\\`, `\n`, `\'`, "''", `\x41`, " ", `\"`, "$$", "--", "/*", "E", `"`}
	random := rand.New(rand.NewPCG(3, 4))
	texts := make([]string, 200)
	literal := func() string {
		var b strings.Builder
		b.WriteString("'")
		for range random.IntN(5) {
			b.WriteString(pieces[random.IntN(len(pieces))])
		}
		return b.String() + "'"
	}
	for i := range texts {
		texts[i] = strings.Join([]string{
			literal(), " || E" + literal(), " || text" + literal(), " || $x$" + `\` + "$x$ || " + literal() + "\n -- it's\n" + literal(),
			` || (SELECT "\" FROM (SELECT ` + literal() + ` AS "\") AS s)`, " || (B'01' || X'1f')::text",
		}[:1+random.IntN(6)], "")
	}
	n.exec(t, `CREATE FUNCTION value(expression text, how text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE v text; BEGIN
		PERFORM set_config('standard_conforming_strings', how, true), set_config('backslash_quote', 'on', true);
		EXECUTE 'SELECT (' || expression || ')::text' INTO v; RETURN v; END $$;
		CREATE FUNCTION conforming(expression text) RETURNS text LANGUAGE plpgsql SET standard_conforming_strings = off
		AS $$ BEGIN RETURN pgdrover.conforming(expression); END $$`)
	require.Empty(t, n.lines(t, `SELECT x || ' became ' || conforming(x) FROM unnest($1::text[]) x WHERE value(x, 'off') <> value(conforming(x), 'on')`, texts))
	require.Equal(t, `E'\\' || b`, n.text(t, `conforming($1)`, `'\\' || b`))
	require.Equal(t, `'\\' || b`, n.text(t, `pgdrover.conforming($1)`, `'\\' || b`))
}

// TestLongStatements: a statement may be longer than what is read at a time, alone or before others.
func TestLongStatements(t *testing.T) {
	t.Parallel()
	n := capturing(t)
	long := "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT '" + strings.Repeat("x", 60000) + "' $$"
	n.exec(t, long+";")
	n.exec(t, "SELECT 1; "+strings.Replace(long, "f()", "g()", 1)+"; CREATE TABLE a (id int); DO $$ BEGIN PERFORM '"+strings.Repeat("y ", 30000)+"'; END $$; CREATE TABLE b (id int)")
	require.Equal(t, []string{long, strings.Replace(long, "f()", "g()", 1), "CREATE TABLE a (id int)", "CREATE TABLE b (id int)"}, n.queued(t))
}

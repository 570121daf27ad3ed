package workflow_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

func TestConfig(t *testing.T) {
	t.Parallel()
	c := config(t)
	require.Equal(t, "pgedge", c.Cluster)
	require.Equal(t, 2, c.Verbosity)
	require.Empty(t, c.LogFile)
	require.Empty(t, c.Warnings)
	require.Equal(t, []string{"n1", "n2", "n3"}, c.Names())
	require.Equal(t, "it's secret", c.Nodes[0].ConnInfo.Get("password"))
	require.Equal(t, "5432", c.Nodes[1].ConnInfo.Get("port"))
	require.Equal(t, "5433", c.Nodes[2].ConnInfo.Get("port"))

	c, err := workflow.ParseConfig([]byte("\ufeff" + `{"spock-nodes": [{"node_name": "n", "postgres": {"postgres_ip": "h", "postgres_colour": "red"}}]}`))
	require.NoError(t, err)
	require.Equal(t, "host=h port=5432", c.Nodes[0].ConnInfo.DSN())
	require.Equal(t, []string{`line 1, column 70: unknown key "postgres_colour" is ignored`}, c.Warnings)
	require.Equal(t, -1, c.Verbosity)

	_, err = workflow.ParseConfig([]byte(`{
		"global": {"log": {"log_level": 9, "log_destination": "file"}},
		"spock-nodes": [{"node_name": "n", "postgres": {"postgres_ip": "h", "postgres_port": "x"}}, {"node_name": "m", "postgres": {}},
			{"node_name": "m2"}, 5, {"node_name": "k", "postgres": {"postgres_dsn": "host"}}, {"node_name": "k", "postgres": {"postgres_ip": "h"}},
			{"node_name": "k", "postgres": {"postgres_ip": "h"}}]}`))
	require.EqualError(t, err, `line 2, column 35: "log_level" must be a number from 0 to 3, or ERROR, WARNING, INFO or DEBUG
line 2, column 21: "log_file" is missing, although "log_destination" is "file"
line 3, column 88: "postgres_port" must be a number from 1 to 65535
line 3, column 126: "postgres_ip" is missing: the name or the address of the server
line 4, column 4: "postgres" is missing: how to reach node "m2"
line 4, column 25: a node must be an object, not a number
line 4, column 76: "postgres_dsn": parse connection string: expected keyword=value: invalid syntax
line 5, column 18: node "k" is named twice`)
}

func TestParseList(t *testing.T) {
	t.Parallel()
	ab := []string{"a", "b"}
	for text, want := range map[string][]string{
		"ARRAY['a', 'b']": ab, "array['a','b']::text[]": ab, "'{a,b}'::text[]": ab, "{a,b}": ab, "a,b": ab, `'{"a", b}'`: ab,
		"ARRAY['it''s']": {"it's"}, "": nil, "'{}'": nil, "{}": nil, "'{}'::text[]": nil, "ARRAY[]::text[]": nil, "none": nil, "'all'": {"all"},
		" ARRAY [ 'a' , 'b' ] :: text [] ": ab,
	} {
		got, ok := workflow.ParseList(text)
		require.True(t, ok, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{
		"ARRAY[a]", "ARRAY['a',]", "ARRAY['a' 'b']", "ARRAY['a", "{a", "a,,b", "(SELECT 1)", "'{a}'::int[]", "{a}b", "current_schemas(true)",
	} {
		_, ok := workflow.ParseList(text)
		require.False(t, ok, text)
	}
}

func TestParseBool(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"true", "T", "'true'", "on", "1", "yes", "'t'::boolean"} {
		got, ok := workflow.ParseBool(text)
		require.True(t, ok && got, text)
	}
	for _, text := range []string{"false", "f", "'off'", "0", "no"} {
		got, ok := workflow.ParseBool(text)
		require.True(t, ok && !got, text)
	}
	_, ok := workflow.ParseBool("perhaps")
	require.False(t, ok)
}

func TestMask(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"host=h password=secret dbname=d":                  "host=h password=*** dbname=d",
		"host=h PASSWORD = 'se cret' dbname=d":             "host=h PASSWORD = *** dbname=d",
		`password='a\'b' x=1`:                              "password=*** x=1",
		"SELECT f('host=h password=secret', 1)":            "SELECT f('host=h password=***', 1)",
		"SELECT f('password=''se cret'' user=u', 1)":       "SELECT f('password=*** user=u', 1)",
		"postgresql://u:pw@h:5432/d and postgres://v@h":    "postgresql://u:***@h:5432/d and postgres://v@h",
		"postgres://h/d?user=u&password=pw&sslmode=prefer": "postgres://h/d?user=u&password=***&sslmode=prefer",
		`{"postgres_password": "p\"w", "x": 1}`:            `{"postgres_password": ***, "x": 1}`,
		"no password here":                                 "no password here",
		"password=":                                        "password=***",
	} {
		require.Equal(t, want, workflow.Mask(text))
	}
}

func TestMaskHidesEveryPassword(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		secret := "Z" + rapid.StringMatching(`[A-Y0-9%;:.]{3,12}`).Draw(t, "secret")
		for _, shape := range []string{"host=h password=%s x=1", "x password = '%s'", "postgres://u:%s@h/d", "SELECT f('a=b password=%s')"} {
			text := replace(shape, secret)
			require.NotContains(t, workflow.Mask(text), secret, text)
		}
	})
}

func TestSubstituteSQL(t *testing.T) {
	t.Parallel()
	vars := workflow.Variables{}
	for key, value := range map[string]string{"lsn": "0/1A", "quote": `it's`, "back": `a\b`, "tag": "x $$ y", "id": "777", "ident": `we"ird`} {
		vars.Set("n2", key, &value)
	}
	vars.Set("n2", "nothing", nil)
	isNode := func(name string) bool { return name == "n2" }
	for text, want := range map[string]string{
		"SELECT $n2.lsn::pg_lsn":                  "SELECT '0/1A'::pg_lsn",
		"SELECT '$n2.lsn'::pg_lsn":                "SELECT '0/1A'::pg_lsn",
		"SELECT 'x$n2.lsn'":                       "SELECT 'x0/1A'",
		"SELECT $n2.quote, '$n2.quote'":           "SELECT 'it''s', 'it''s'",
		`SELECT E'$n2.back', '$n2.back'`:          `SELECT E'a\\b', 'a\b'`,
		`SELECT "$n2.ident"`:                      `SELECT "we""ird"`,
		"SELECT $1.5, $tag$.x, $n3.lsn":           "SELECT $1.5, $tag$.x, $n3.lsn",
		"DO $$ BEGIN PERFORM '$n2.quote'; END $$": "DO $$ BEGIN PERFORM 'it's'; END $$",
		"SELECT 1 -- $n2.unknown\n, $n2.id":       "SELECT 1 -- $n2.unknown\n, '777'",
		"/* $n2.x /* $n2.y */ */ SELECT $n2.id":   "/* $n2.x /* $n2.y */ */ SELECT '777'",
		"SELECT $n2.nothing":                      "SELECT NULL",
		"SELECT ${n2}.id, '${n2}.lsn', ${n3}.id":  "SELECT '777', '0/1A', ${n3}.id",
		"SELECT a$n2.id":                          "SELECT a'777'",
	} {
		got, err := workflow.SubstituteSQL(text, isNode, vars)
		require.NoError(t, err, text)
		require.Equal(t, want, got)
	}
	for text, want := range map[string]string{
		"SELECT $n2.unknown":      "variable $n2.unknown is not set",
		"SELECT '$n2.nothing'":    "variable $n2.nothing is NULL, and it stands in quotes",
		"DO $$ '$n2.tag' $$":      "the value of variable $n2.tag holds the quote $$ that it stands in",
		"SELECT $n2.id, $n2.gone": "variable $n2.gone is not set",
	} {
		_, err := workflow.SubstituteSQL(text, isNode, vars)
		require.EqualError(t, err, want)
	}
	got, err := workflow.SubstituteText("host=$n2.id x=$n9.y", isNode, vars)
	require.NoError(t, err)
	require.Equal(t, "host=777 x=$n9.y", got)
	_, err = workflow.SubstituteText("$n2.nothing", isNode, vars)
	require.EqualError(t, err, "variable $n2.nothing is NULL")
}

// Whatever a value holds, it stays one constant.
func TestValuesStayConstants(t *testing.T) {
	t.Parallel()
	isNode := func(string) bool { return true }
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.String().Draw(t, "value")
		vars := workflow.Variables{}
		vars.Set("n", "v", &value)
		bare, err := workflow.SubstituteSQL("SELECT $n.v AS x", isNode, vars)
		require.NoError(t, err)
		quoted, err := workflow.SubstituteSQL("SELECT '$n.v' AS x", isNode, vars)
		require.NoError(t, err)
		require.Equal(t, bare, quoted)
		// What stands there now is one constant: a variable behind it is seen as SQL.
		mark := "!"
		vars.Set("n", "m", &mark)
		after, err := workflow.SubstituteSQL(bare+", $n.m", func(n string) bool { return n == "n" }, vars)
		if err == nil {
			require.Equal(t, ", '!'", after[len(after)-5:])
		}
	})
}

// A node may have any name: it ends neither its reference nor the quotes around it.
func TestAnyNameInReferences(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.StringMatching("[a'\"\\\\{}.$/* -]{1,12}"), rapid.StringN(1, 20, 60)).Draw(t, "name")
		value := "0/1A"
		vars := workflow.Variables{}
		vars.Set(name, "lsn", &value)
		for text, want := range map[string]string{
			"SELECT %s, 1":              "SELECT '0/1A', 1",
			"SELECT '%s'::pg_lsn":       "SELECT '0/1A'::pg_lsn",
			"SELECT E'%s', \"%s\" -- a": "SELECT E'0/1A', \"0/1A\" -- a",
			"DO $$ x '%s' $$":           "DO $$ x '0/1A' $$",
		} {
			got, err := workflow.SubstituteSQL(strings.ReplaceAll(text, "%s", "${"+name+"}.lsn"), func(n string) bool { return n == name }, vars)
			require.NoError(t, err, text)
			require.Equal(t, want, got)
		}
	})
}

func replace(shape, secret string) string {
	for i := range len(shape) - 1 {
		if shape[i:i+2] == "%s" {
			return shape[:i] + secret + shape[i+2:]
		}
	}
	return shape
}

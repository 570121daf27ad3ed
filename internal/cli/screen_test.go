package cli

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/spock"
)

// terminal is a call whose outputs are terminals.
func terminal(variables map[string]string) (env *Env, stdout, stderr *bytes.Buffer) {
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	env = &Env{
		Name: nameDrover, Stdout: stdout, Stderr: stderr, Terminal: true, OutTerminal: true,
		Getenv: func(name string) (string, bool) { value, ok := variables[name]; return value, ok },
	}
	env.prepare()
	env.level.Set(slog.LevelInfo)
	return env, stdout, stderr
}

// halfCopied is a copy that goes on, and progress of a run that does.
func halfCopied(env *Env) {
	view := &copyView{env: env, said: map[string]int64{}}
	for range 2 {
		view.show([]spock.CopyProgress{
			{Subscription: "sub_n1_n2", Schema: "public", Table: "a_table_with_quite_a_long_name", State: "done", Rows: 1_000_000},
			{Subscription: "sub_n1_n2", Schema: "public", Table: "t", State: "copying", BytesTotal: 100, BytesDone: 50, Rows: 7},
		}, "")
	}
	newRunReporter(env, false).event(orchestrator.Event{
		Time: time.Unix(0, 0), Status: orchestrator.Running, Step: "7", Phase: "J7", Node: "n2", Done: 30 << 20, Of: 60 << 20, Rate: 5 << 20, Left: 6 * time.Second,
	})
	env.warnf("it is late")
}

// Who asks for plain text, and a terminal that takes nothing else, get it.
func TestPlainOutput(t *testing.T) {
	t.Parallel()
	env, stdout, stderr := terminal(nil)
	halfCopied(env)
	require.Contains(t, stdout.String(), "\x1b[2A")
	require.Contains(t, stdout.String(), "\r    [###############...............] J7 on n2: 50 %")
	require.Contains(t, stderr.String(), "\x1b[33m")
	for _, variables := range []map[string]string{{"NO_COLOR": "1"}, {"TERM": "dumb"}} {
		env, stdout, stderr := terminal(variables)
		halfCopied(env)
		require.NotContains(t, stdout.String()+stderr.String(), "\x1b", variables)
		require.NotContains(t, stdout.String(), "\r", variables)
		require.Contains(t, stdout.String(), "sub_n1_n2 public.t: 50 %, 7 rows, copying\n", variables)
		require.Contains(t, stdout.String(), "    J7 on n2: 50 %, 30 MB of 60 MB, 5120 kB/s, 6s left\n", variables)
		require.Contains(t, stderr.String(), "WARN  it is late\n", variables)
	}
}

// A demonstration whose table does not fit tells of changes line by line.
func TestDemoFits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		variables map[string]string
		table     bool
	}{
		{nil, true},
		{map[string]string{"COLUMNS": "120"}, true},
		{map[string]string{"COLUMNS": "80"}, false},
		{map[string]string{"NO_COLOR": "1"}, false},
	} {
		env, _, _ := terminal(c.variables)
		// There need be no PostgreSQL.
		place, _ := stage(t.Context(), env, newDemoCmd(env))
		require.Equal(t, c.table, place.Terminal, c.variables)
	}
}

// What is drawn over must not wrap.
func TestBarsFit(t *testing.T) {
	t.Parallel()
	for columns, wanted := range map[string]string{
		"120": "public.t                                 [###############...............]  50 %  7 rows",
		"80":  "public.t                 [###############...............]  50 %  7 rows",
		"40":  "public.t           50 %  7 rows",
		"10":  "  50 % …",
	} {
		env, stdout, _ := terminal(map[string]string{"COLUMNS": columns})
		halfCopied(env)
		require.Contains(t, stdout.String(), wanted, columns)
		for line := range strings.FieldsFuncSeq(stdout.String(), func(r rune) bool { return r == '\n' || r == '\r' }) {
			line, _, _ = strings.Cut(strings.TrimPrefix(line, "\x1b[2A"), "\x1b")
			require.Less(t, utf8.RuneCountInString(line), map[string]int{"120": 120, "80": 80, "40": 40, "10": 10}[columns], line)
		}
	}
}

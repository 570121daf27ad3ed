package workflow_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

// groups are the numbers of the steps that may run at the same time.
func groups(steps []workflow.Step) []string {
	var all []string
	last := 0
	for _, s := range steps {
		if s.Parallel != 0 && s.Parallel == last {
			all[len(all)-1] += " " + s.Path
			continue
		}
		all, last = append(all, s.Path), s.Parallel
	}
	return all
}

func parallelized(t *testing.T, text []byte) []string {
	t.Helper()
	cfg := config(t)
	w, err := workflow.Parse(text, workflow.CheckConfig{Config: cfg})
	require.NoError(t, err)
	return groups(workflow.Parallelize(w.Steps, cfg))
}

// Only what cannot meet runs at the same time: the subscriptions of two nodes to
// a third one do, a mark and the wait for it do not.
func TestParallelize(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"1", "2 3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"}, parallelized(t, read(t, "add_node.json")))
	require.Equal(t, "1 2", parallelized(t, read(t, "cross-wire.json"))[0], "two nodes are created")

	quoted := func(text string) string {
		b, err := json.Marshal(text)
		require.NoError(t, err)
		return string(b)
	}
	step := func(node, sql string) string {
		return `{"sql": {"node": "` + node + `", "args": [` + quoted("--sql="+sql) + `]}}`
	}
	spock := func(node, command, more string, args ...string) string {
		for i := range args {
			args[i] = quoted(args[i])
		}
		return `{"spock": {"node": "` + node + `", "command": "` + command + `"` + more + `, "args": [` + strings.Join(args, ",") + `]}}`
	}
	for name, x := range map[string]struct {
		steps []string
		want  []string
	}{
		"different nodes":        {[]string{step("n1", "SELECT 1"), step("n2", "SELECT 1"), step("n3", "SELECT 1")}, []string{"1 2 3"}},
		"one node twice":         {[]string{step("n1", "SELECT 1"), step("n2", "SELECT 1"), step("n1", "SELECT 1")}, []string{"1 2", "3"}},
		"a variable":             {[]string{step("n1", "SELECT 1 AS a"), step("n1", "SELECT 1 AS a"), step("n2", "SELECT $n1.a")}, []string{"1", "2", "3"}},
		"a name":                 {[]string{step("n1", "SELECT 1"), step("n2", "SELECT 'n1'")}, []string{"1", "2"}},
		"part of a name":         {[]string{step("n1", "SELECT 1"), step("n2", "SELECT 'n12', 'sub_n1'")}, []string{"1 2"}},
		"a provider":             {[]string{spock("n1", "CREATE SUBSCRIPTION", "", "--sub_name=s", "--provider_dsn=host=127.0.0.1 port=5432"), step("n2", "SELECT 1"), step("n3", "SELECT 1")}, []string{"1", "2 3"}},
		"an unknown provider":    {[]string{spock("n1", "CREATE SUBSCRIPTION", "", "--sub_name=s", "--provider_dsn=host=elsewhere"), step("n2", "SELECT 1")}, []string{"1", "2"}},
		"a known subscription":   {[]string{spock("n1", "CREATE SUBSCRIPTION", "", "--sub_name=s", "--provider_dsn=host=127.0.0.1 port=5432"), spock("n1", "DROP SUBSCRIPTION", "", "--sub_name=s"), step("n3", "SELECT 1")}, []string{"1", "2 3"}},
		"somebody's":             {[]string{spock("n1", "DROP SUBSCRIPTION", "", "--sub_name=s"), step("n3", "SELECT 1")}, []string{"1", "2"}},
		"what jumps":             {[]string{step("n1", "SELECT 1"), spock("n2", "DROP SLOT", `, "on_failure": {"stop": true}`, "--slot=x"), step("n3", "SELECT 1")}, []string{"1", "2", "3"}},
		"slots on several nodes": {[]string{spock("n1", "CREATE SLOT", "", "--slot=x"), spock("n2", "CREATE SLOT", "", "--slot=x")}, []string{"1 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, x.want, parallelized(t, []byte(`{"steps": [`+strings.Join(x.steps, ",")+`]}`)))
		})
	}
}

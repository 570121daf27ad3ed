package workflow_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

func read(tb testing.TB, file string) []byte {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	require.NoError(tb, err)
	return text
}

func config(tb testing.TB) *workflow.Config {
	tb.Helper()
	c, err := workflow.ParseConfig(read(tb, "spockctrl.json"))
	require.NoError(tb, err)
	return c
}

// The published files parse as they are, without a warning.
func TestPublishedFiles(t *testing.T) {
	t.Parallel()
	for file, steps := range map[string]int{"add_node.json": 15, "cross-wire.json": 12, "remove_node.json": 8, "uncross-wire.json": 6} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			w, err := workflow.Parse(read(t, file), workflow.CheckConfig{Config: config(t)})
			require.NoError(t, err)
			require.Empty(t, w.Warnings)
			require.Len(t, w.Steps, steps)
			for i, s := range w.Steps {
				require.Equal(t, i+1, s.Number)
				require.NotEmpty(t, s.Description)
				require.Nil(t, s.OnSuccess)
				require.Nil(t, s.OnFailure)
			}
		})
	}
}

func TestStatementsOfAddNode(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	w, err := workflow.Parse(read(t, "add_node.json"), workflow.CheckConfig{Config: cfg})
	require.NoError(t, err)
	isNode := func(name string) bool { _, ok := cfg.Node(name); return ok }
	vars := workflow.Variables{}
	for _, v := range [][3]string{
		{"n2", "sub_create", "777"},
		{"n2", "sync_event", "0/1A"},
		{"n1", "sync_event", "0/2B"},
		{"n3", "commit_timestamp", "2026-11-21 12:00:00.123456+00"},
	} {
		vars.Set(v[0], v[1], &v[2])
	}
	var got []string
	for _, i := range []int{0, 1, 3, 4, 5, 7, 12, 13} {
		s, err := w.Steps[i].Statement(isNode, vars, false)
		require.NoError(t, err)
		got = append(got, w.Steps[i].Node+": "+s.String())
	}
	require.Equal(t, []string{
		`n3: SELECT spock.node_create(node_name := 'n3', dsn := 'host=127.0.0.1 port=5433 user=pgedge password=***', ` +
			`location := 'Los Angeles', country := 'USA', info := '{"role": "writer"}'::jsonb)`,
		`n1: SELECT spock.sub_create(subscription_name := 'sub_n3_n1', provider_dsn := 'host=127.0.0.1 port=5433 user=pgedge password=***', ` +
			`replication_sets := '{"default","default_insert_only","ddl_sql"}'::text[], synchronize_structure := true, ` +
			`synchronize_data := true, forward_origins := '{}'::text[], apply_delay := '0 seconds'::interval, ` +
			`force_text_transfer := false, enabled := true)`,
		`n2: SELECT spock.wait_for_apply_worker('777', 1000);`,
		`n3: SELECT spock.sub_create(subscription_name := 'sub_n2_n3', provider_dsn := 'host=127.0.0.1 port=5432 user=pgedge password=***', ` +
			`replication_sets := '{"default","default_insert_only","ddl_sql"}'::text[], synchronize_structure := false, ` +
			`synchronize_data := false, forward_origins := '{}'::text[], apply_delay := '0 seconds'::interval, ` +
			`force_text_transfer := false, enabled := false)`,
		`n2: SELECT slot_name, lsn FROM pg_catalog.pg_create_logical_replication_slot(slot_name := 'spk_pgedge_n2_sub_n2_n3', plugin := 'spock_output')`,
		`n1: CALL spock.wait_for_sync_event(true, 'n2', '0/1A'::pg_lsn, 1200000);`,
		`n2: WITH pos AS (SELECT spock.get_lsn_from_commit_ts('spk_pgedge_n2_sub_n2_n3', '2026-11-21 12:00:00.123456+00'::timestamp) AS lsn) ` +
			`SELECT pg_replication_slot_advance('spk_pgedge_n2_sub_n2_n3', lsn) FROM pos;`,
		`n3: SELECT spock.sub_enable(subscription_name := 'sub_n2_n3', immediate := true)`,
	}, got)
	require.Equal(t, 10*time.Second, w.Steps[6].Sleep)
	require.Contains(t, w.Steps[14].SQL, "$$\nDECLARE", "quotes of PL/pgSQL are no variables")
	require.Empty(t, w.Steps[14].Reads(isNode))
}

// Everything that a file can say wrong is told with its place.
func TestComplaints(t *testing.T) {
	t.Parallel()
	step := func(s string) string { return `{"steps": [` + "\n" + s + `]}` }
	for name, c := range map[string]struct{ text, want string }{
		"nothing":         {"", "line 1, column 1: the file is empty"},
		"no JSON":         {"{\n  \"steps\": [\n}", "line 3, column 1: invalid JSON: invalid character '}' looking for beginning of value"},
		"cut short":       {"{\"steps\": [", "line 1, column 12: invalid JSON: unexpected end of JSON input"},
		"two documents":   {"{} {}", "line 1, column 4: invalid JSON: invalid character '{' after top-level value"},
		"no object":       {"[]", "line 1, column 1: a workflow must be an object, not an array"},
		"no steps":        {"{}", `line 1, column 1: "steps" is missing`},
		"steps no array":  {`{"steps": 5}`, `line 1, column 11: "steps" must be an array, not a number`},
		"empty steps":     {`{"steps": []}`, `line 1, column 11: "steps" is empty`},
		"no type":         {step(`{"node": "n1"}`), `line 2, column 1: a step needs a type: "spock", "sql" or "shell"`},
		"two types":       {step(`{"sql": {"node": "n1", "args": ["--sql=SELECT 1"]}, "spock": {"node": "n1", "command": "DROP NODE", "args": ["--node_name=n1"]}}`), `line 2, column 9: a step has one type: "spock" or "sql"`},
		"key twice":       {step(`{"sql": {"node": "n1", "node": "n2"}}`), `line 2, column 24: key "node" is given twice`},
		"unknown command": {step(`{"spock": {"node": "n1", "command": "CREATE WORLD", "args": []}}`), `line 2, column 37: unknown command "CREATE WORLD"`},
		"no command":      {step(`{"spock": {"node": "n1", "args": []}}`), `line 2, column 11: "command" is missing`},
		"unknown node":    {step(`{"sql": {"node": "n9", "args": ["--sql=SELECT 1"]}}`), `line 2, column 18: node "n9" is not in the configuration, which has n1, n2, n3`},
		"no node":         {step(`{"sql": {"args": ["--sql=SELECT 1"]}}`), `line 2, column 9: "node" is missing: the node that the step runs on`},
		"unknown option":  {step(`{"spock": {"node": "n1", "command": "DROP NODE", "args": ["--node_name=n1", "--nod=x", "--why"]}}`), "line 2, column 77: DROP NODE: option --nod is ambiguous: --node_name, --node\nline 2, column 88: DROP NODE: unknown option --why"},
		"stray word":      {step(`{"spock": {"node": "n1", "command": "DROP NODE", "args": ["n1"]}}`), "line 2, column 11: DROP NODE: option --node_name is missing\nline 2, column 59: argument \"n1\" is no option: options look like --name=value"},
		"value missing":   {step(`{"spock": {"node": "n1", "command": "DROP NODE", "args": ["--node_name"]}}`), "line 2, column 11: DROP NODE: option --node_name is missing\nline 2, column 59: DROP NODE: option --node_name needs a value"},
		"no text":         {step(`{"spock": {"node": "n1", "command": "DROP NODE", "args": ["--node_name=n1", 7]}}`), "line 2, column 77: an argument must be a text, not a number"},
		"no boolean":      {step(`{"spock": {"node": "n1", "command": "DROP NODE", "args": ["--node_name=n1", "--ifexists=maybe"]}}`), "line 2, column 77: DROP NODE: option --ifexists: \"maybe\" is not a boolean (SQL expressions need --allow-raw-sql)"},
		"no info":         {step(`{"spock": {"node": "n1", "command": "CREATE NODE", "args": ["--node_name=n1", "--dsn=host=h", "--info=[1]"]}}`), "line 2, column 95: CREATE NODE: option --info: \"[1]\" is not a JSON object: json: cannot unmarshal array into Go value of type map[string]interface {}"},
		"other node":      {step(`{"spock": {"node": "n1", "command": "CREATE NODE", "args": ["--node_name=n2", "--dsn=host=h"]}}`), `line 2, column 11: CREATE NODE: node "n2" cannot be created on node "n1": the statement makes its own server the node`},
		"no statement":    {step(`{"sql": {"node": "n1", "args": []}}`), "line 2, column 9: a step of type sql needs its statement: --sql=…"},
		"never set":       {step(`{"sql": {"node": "n1", "args": ["--sql=SELECT $n2.sync_event"]}}`), "line 2, column 1: variable $n2.sync_event is never set before this step"},
		"shell":           {step(`{"shell": {"command": "true"}}`), "line 2, column 23: a step runs a command of the shell, which is not allowed"},
		"bad sleep":       {step(`{"sql": {"node": "n1", "sleep": "soon", "args": ["--sql=SELECT 1"]}}`), `line 2, column 33: "sleep" must be a number of seconds, at most 86400`},
		"jump to nowhere": {step(`{"sql": {"node": "n1", "args": ["--sql=SELECT 1"], "on_failure": {"goto": "x"}}}`), `line 2, column 1: no step is named "x"`},
		"not UTF-8 wide":  {step("{\"sql\": {\"description\": \"a → b\", \"node\": 7, \"args\": [\"--sql=x\"]}}"), "line 2, column 9: \"node\" is missing: the node that the step runs on\nline 2, column 42: \"node\" must be a text, not a number"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := workflow.Parse([]byte(c.text), workflow.CheckConfig{Config: config(t)})
			require.EqualError(t, err, c.want)
		})
	}
}

func TestFollows(t *testing.T) {
	t.Parallel()
	const text = `{"steps": [
		{"sql": {"name": "first", "node": "n1", "sleep": "0.5", "args": ["--sql", "SELECT 1", "--node=n2"],
			"on_failure": {"steps": [{"sql": {"node": "n3", "args": ["--sql=SELECT 2"]}}], "stop": true}}},
		{"spock": {"node": "n2", "command": "drop  subscription", "args": ["--sub=s", "--ifexists", "false"]}, "on_success": {"goto": "first"}}
	], "failure_step": {"command": "DROP SLOT", "args": ["--node=n1", "--slot=x"]}, "extra": 1}`
	w, err := workflow.Parse([]byte(text), workflow.CheckConfig{Config: config(t)})
	require.NoError(t, err)
	require.Equal(t, []string{
		`line 5, column 82: unknown key "extra" is ignored`, `line 2, column 89: --node=n2 overrides the step's node "n1"`,
	}, w.Warnings)
	require.Equal(t, "n2", w.Steps[0].Node)
	require.Equal(t, 500*time.Millisecond, w.Steps[0].Sleep)
	require.True(t, w.Steps[0].OnFailure.Stop)
	require.Equal(t, "1.f1", w.Steps[0].OnFailure.Steps[0].Path)
	require.Equal(t, map[string]string{"sub_name": "s", "ifexists": "false"}, w.Steps[1].Options)
	require.Equal(t, "first", w.Steps[1].OnSuccess.Goto)
	require.Equal(t, "DROP SLOT x", w.Failure.Steps[0].Description)
	require.Nil(t, w.Success)
}

func TestRawSQL(t *testing.T) {
	t.Parallel()
	const text = `{"steps": [{"spock": {"node": "n1", "command": "CREATE SUBSCRIPTION",
		"args": ["--sub_name=s", "--provider_dsn=host=h", "--apply_delay=now() - now()"]}}]}`
	_, err := workflow.Parse([]byte(text), workflow.CheckConfig{Config: config(t)})
	require.EqualError(t, err, `line 2, column 53: CREATE SUBSCRIPTION: option --apply_delay: "now() - now()" is not an interval (SQL expressions need --allow-raw-sql)`)
	w, err := workflow.Parse([]byte(text), workflow.CheckConfig{Config: config(t), AllowRawSQL: true})
	require.NoError(t, err)
	s, err := w.Steps[0].Statement(func(string) bool { return false }, nil, true)
	require.NoError(t, err)
	require.Equal(t, "SELECT spock.sub_create(subscription_name := $1::name, provider_dsn := $2::text, apply_delay := (now() - now())::interval)", s.SQL)
}

func FuzzParse(f *testing.F) {
	for _, file := range []string{"add_node.json", "cross-wire.json", "remove_node.json", "uncross-wire.json", "spockctrl.json"} {
		f.Add(read(f, file))
	}
	f.Add([]byte(`{"steps": [{"sql": {"node": "n1", "args": ["--sql=SELECT '$n1.x'", "--i"]}}]}`))
	cfg := config(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		_, _ = workflow.ParseConfig(text)
		w, err := workflow.Parse(text, workflow.CheckConfig{Config: cfg, AllowShell: true, AllowRawSQL: true})
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		for _, s := range w.Steps {
			if s.Type == workflow.TypeShell {
				continue
			}
			_, ok := cfg.Node(s.Node)
			require.True(t, ok)
			if len(s.Reads(func(n string) bool { _, ok := cfg.Node(n); return ok })) == 0 {
				_, err := s.Statement(func(string) bool { return false }, nil, true)
				require.NoError(t, err)
			}
		}
	})
}

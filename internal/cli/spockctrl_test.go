package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/spock"
)

// Command lines as manuals and scripts have them, and what ours are.
func TestSpockctrlArgs(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"":                                       "help",
		"--help":                                 "help",
		"-h":                                     "help",
		"--version":                              "version",
		"--version --config=x":                   "version",
		"-c spockctrl.json -w add_node.json":     "workflow run add_node.json --config=spockctrl.json",
		"--config=c.json --workflow=w.json":      "workflow run w.json --config=c.json",
		"--workflow w.json --config c.json -v 2": "workflow run w.json --config=c.json --verbosity=2",
		"-w w.json -v":                           "workflow run w.json --verbosity=1",
		"-ww.json -v3 -fjson":                    "workflow run w.json --format=json --verbosity=3",
		"-w w.json --verbose=0 node list":        "workflow run w.json --verbosity=0",
		"-w":                                     "--workflow",
		"node create --node=n1 --node_name=n1 --dsn x":                               "node create --node=n1 --node-name=n1 --dsn=x",
		"node drop n1 --ifexists":                                                    "node drop n1 --ifexists=true",
		"sub enable s --immediate false --node n":                                    "sub enable s --immediate=false --node=n",
		"sub create s dsn --target-node n --repsets a,b --enable --synchronize-data": "sub create s dsn --node=n --replication-sets=a,b --enabled=true --synchronize-data=true",
		"sql n1 -- --comment":                                                        "sql n1 --comment",
		"sql --node n1 --sql=SELECT":                                                 "sql --node=n1 --sql=SELECT",
		"node list --help -v 9":                                                      "node list 9 --verbosity=1 --help",
		"-w w --fast --plan":                                                         "workflow run w --no-sleep=true --dry-run=true",
		"node list -x --verbose=7":                                                   "node list -x --verbosity=7",
	} {
		require.Equal(t, want, strings.Join(spockctrlArgs(strings.Fields(line)), " "), line)
	}
}

func TestPrintRows(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	require.NoError(t, printRows(&b, orchestrator.Result{
		Columns: []orchestrator.Column{{Name: "name"}, {Name: "ünï"}},
		Rows:    [][]*string{{new("a"), nil}, {new("longer"), new("x\ny")}},
	}))
	require.Equal(t, " name   | ünï\n--------+-----\n a      |\n longer | x y\n(2 rows)\n", b.String())
}

// What is no number in JSON is a text there.
func TestJSONOfRows(t *testing.T) {
	t.Parallel()
	float := orchestrator.Column{Name: "f", Type: pgtype.Float8OID}
	var b strings.Builder
	s := &spockctrl{env: &Env{Stdout: &b}}
	require.NoError(t, s.printJSON(orchestrator.Result{
		Columns: []orchestrator.Column{float},
		Rows:    [][]*string{{new("NaN")}, {new("-Infinity")}, {new("1.5")}, {nil}},
	}))
	var rows []map[string]any
	require.NoError(t, json.Unmarshal([]byte(b.String()), &rows))
	require.Equal(t, []map[string]any{{"f": "NaN"}, {"f": "-Infinity"}, {"f": 1.5}, {"f": nil}}, rows)
}

// Numbers keep all of their digits.
func TestJSONOfLongNumbers(t *testing.T) {
	t.Parallel()
	const value = `{"a": 123456789012345678901234567890, "b": [0.1, 0.12345678901234567890123], "c": 1e400}`
	for _, column := range []orchestrator.Column{{Name: "j", Type: pgtype.JSONBOID}, {Name: "j", Type: pgtype.JSONOID}} {
		var b strings.Builder
		s := &spockctrl{env: &Env{Stdout: &b}}
		require.NoError(t, s.printJSON(orchestrator.Result{Columns: []orchestrator.Column{column}, Rows: [][]*string{{new(value)}}}))
		require.Equal(t, `[{"j":`+strings.ReplaceAll(value, " ", "")+"}]", strings.Join(strings.Fields(b.String()), ""))
	}
}

// spockctrlSettings are those of the server whose databases the scripts use.
func spockctrlSettings() map[string]string {
	return map[string]string{"track_commit_timestamp": "on", "max_replication_slots": "60", "max_wal_senders": "60"}
}

// TestSpockctrlScripts runs the scripts of spockctrl on three databases with the schema and one without.
func TestSpockctrlScripts(t *testing.T) {
	t.Parallel()
	pgtest.Bin(t)
	bin := programs(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/spockctrl", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
			env.Setenv("HOME", pgtest.Dir(t))
			env.Setenv("TZ", "UTC")
			env.Setenv("PGDROVER_SPOCK_CONFIG", filepath.Join(env.WorkDir, "spockctrl.json"))
			var nodes []string
			for i := 1; i <= 4; i++ {
				dsn := pgtest.DatabaseWith(t, spockctrlSettings())
				info, err := pg.ParseConnInfo(dsn)
				require.NoError(t, err)
				if i < 4 {
					installSpock(t, info)
				}
				env.Setenv(fmt.Sprintf("DSN%d", i), info.DSN())
				nodes = append(nodes, fmt.Sprintf(`{"node_name": "n%d", "postgres": {"postgres_dsn": %q}}`, i, info.DSN()))
			}
			config := `{"global": {"spock": {"cluster_name": "demo", "version": "1.0.0"}}, "spock-nodes": [` + strings.Join(nodes, ",\n") + "]}\n"
			return os.WriteFile(filepath.Join(env.WorkDir, "spockctrl.json"), []byte(config), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ok": inScript(commandOK), "code": inScript(commandCode), "expand": scriptExpand, "tree": scriptTree,
		},
	})
}

func installSpock(t *testing.T, info pg.ConnInfo) {
	t.Helper()
	db, err := spock.Connect(t.Context(), spock.ConnectConfig{ConnInfo: info, ApplicationName: "spockctrl test"})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close(t.Context())) }()
	require.NoError(t, spock.Install(t.Context(), db))
}

// inScript gives the files of a script's directory their whole names: the
// command runs in this process, which has another directory.
func inScript(run func(*testscript.TestScript, bool, []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		for i, arg := range args {
			if path := ts.MkAbs(arg); i > 0 && arg != "" && isFile(path) {
				args[i] = path
			}
		}
		run(ts, neg, args)
	}
}

// scriptExpand replaces $DSN1 and the like in files.
func scriptExpand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: expand file...")
	}
	for _, file := range args {
		text := os.Expand(ts.ReadFile(file), func(name string) string {
			if strings.HasPrefix(name, "DSN") {
				return ts.Getenv(name)
			}
			return "$" + name
		})
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o600))
	}
}

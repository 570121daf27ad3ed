package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/spock"
)

// TestSpockScripts runs the scripts of the spock commands on databases of a shared server.
func TestSpockScripts(t *testing.T) {
	t.Parallel()
	serverPrograms := pgtest.Bin(t)
	bin := programs(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/spock", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
			env.Setenv("HOME", pgtest.Dir(t))
			env.Setenv("PGCTL", filepath.Join(serverPrograms, "pg_ctl"))
			env.Setenv("PSQL", filepath.Join(serverPrograms, "psql"))
			env.Setenv("NUMBER", strconv.Itoa(spock.SchemaNumber))
			for _, name := range []string{"DSN1", "DSN2"} {
				dsn := pgtest.DatabaseWith(t, map[string]string{"track_commit_timestamp": "on", "max_replication_slots": "40", "max_wal_senders": "40"})
				env.Setenv(name, dsn)
				info, err := pg.ParseConnInfo(dsn)
				require.NoError(t, err)
				env.Setenv(name+"_OTHER", info.With("dbname", "no_such_database").DSN())
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": scriptCode, "until": scriptUntil},
	})
}

func TestUnitWord(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain": "plain", "host=a dbname=b": `"host=a dbname=b"`, `a"b`: `"a\"b"`, "50%": "50%%", "$HOME": "$$HOME", `a\b`: `"a\\b"`,
	} {
		require.Equal(t, want, unitWord(text))
	}
}

// TestManualNamesEverySetting: an operator finds each setting in the manual, with its default.
func TestManualNamesEverySetting(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/multimaster.md")
	require.NoError(t, err)
	info, err := pg.ParseConnInfo(pgtest.Database(t))
	require.NoError(t, err)
	db, err := spock.Connect(t.Context(), spock.ConnectConfig{ConnInfo: info})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close(t.Context())) }()
	require.NoError(t, spock.Install(t.Context(), db))
	settings, err := db.Settings(t.Context())
	require.NoError(t, err)
	for _, s := range settings {
		require.Contains(t, string(page), "`"+s.Name+"`")
		if row := regexp.MustCompile("(?m)^\\| `" + regexp.QuoteMeta(s.Name) + "` \\| `([^`]*)`").FindStringSubmatch(string(page)); row != nil {
			require.Equal(t, s.Default, row[1], "default of %s", s.Name)
		}
	}
}

// TestDefaultsAreTheSchemas: the file that settings prints without a database is what one would say.
func TestDefaultsAreTheSchemas(t *testing.T) {
	t.Parallel()
	info, err := pg.ParseConnInfo(pgtest.Database(t))
	require.NoError(t, err)
	installSpock(t, info)
	db, err := spock.Connect(t.Context(), spock.ConnectConfig{ConnInfo: info})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close(t.Context())) }()
	settings, err := db.DefaultSettings(t.Context())
	require.NoError(t, err)
	require.Equal(t, settings.Render(), spockDefaults, "spock_defaults.conf is not what the schema says")
}

// TestStatusOfAStandby: it says where the connection string must lead to instead, also among nodes that answer.
func TestStatusOfAStandby(t *testing.T) {
	t.Parallel()
	s := pgtest.NewServer(t, pgtest.ServerConfig{Name: "n1", Settings: map[string]string{"track_commit_timestamp": "on"}})
	info, err := pg.ParseConnInfo(s.DSN("postgres"))
	require.NoError(t, err)
	installSpock(t, info)
	s.Exec(t, "postgres", "SELECT spock.node_create('n1', '"+s.DSN("postgres")+"')")
	s.Stop(t, syscall.SIGINT)
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir, "standby.signal"), nil, 0o600))
	s.Start(t)
	other, err := pg.ParseConnInfo(pgtest.Database(t))
	require.NoError(t, err)
	installSpock(t, other)
	code, stdout, stderr := callProgram(t, pgtest.Dir(t), "pgdrover", "spock", "status", "--dsn", info.DSN(), "--dsn", other.DSN())
	require.Equal(t, exitBadState, code)
	require.Equal(t, place(other)+": schema spock version "+strconv.Itoa(spock.SchemaNumber)+", not a node yet\n\n", stdout)
	require.Contains(t, stderr, "ERROR "+place(info)+": the server is a standby\n")
	require.Contains(t, stderr, "ERROR HINT: the connection string must lead to the primary: name all hosts in it, with target_session_attrs=read-write\n")
	code, stdout, stderr = callProgram(t, pgtest.Dir(t), "pgdrover", "spock", "status", "--json", "--dsn", info.DSN(),
		"--dsn", info.With("dbname", "no_such_database").DSN())
	require.Equal(t, exitPgSQL, code)
	require.Contains(t, stderr, "ERROR HINT: the connection string must lead to the primary: ", "the first of several errors")
	require.Contains(t, stdout, `"error": "`+place(info)+`: the server is a standby",`)
	require.Contains(t, stdout, `"hint": "the connection string must lead to the primary: `)
}

func TestPlace(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"host=a dbname=x":                              "a:5432/x",
		"host=a,b port=1,2 user=u":                     "a:1,b:2/u",
		"hostaddr=10.0.0.1 dbname=x":                   "10.0.0.1:5432/x",
		"dbname=x":                                     "local:5432/x",
		"service=mine":                                 "service=mine",
		"service=mine user=u password=p":               "service=mine",
		"dbname=x port=1 service=mine":                 "service=mine port=1 dbname=x",
		"postgres://u:p@h/x?service=mine&sslmode=pref": "service=mine host=h dbname=x",
	} {
		info, err := pg.ParseConnInfo(text)
		require.NoError(t, err)
		require.Equal(t, want, place(info), text)
	}
}

func TestFailureToConnectListsEachTryOnce(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"refused":                        "refused",
		"connect:\n\ta: no\n\ta: no":     "connect: a: no",
		"connect:\n\ta: no\n\tb: no":     "connect: a: no; b: no",
		"connect:\n\ta: TLS\n\ta: no":    "connect: a: TLS; a: no",
		"connect:\n\ta\n\tb\n\ta\n\tb\n": "connect: a; b",
	} {
		require.Equal(t, want, onceEach(text))
	}
}

func TestWaitHint(t *testing.T) {
	t.Parallel()
	info := pg.NewConnInfo("host", "a", "password", "secret")
	there, copying := awaited{name: "s1", enabled: true}, awaited{name: "s2", enabled: true, left: "subscription s2 is not synchronised"}
	failing, disabled := copying, copying
	failing.state.LastError, disabled.enabled = "all replication slots are in use", false
	resting := there
	resting.enabled = false
	for _, x := range []struct {
		engine bool
		subs   []awaited
		want   string
	}{
		{true, []awaited{there, resting, copying}, "it goes on by itself: look at pgdrover spock status"},
		{true, []awaited{there, copying, failing}, "mend what the last error names: the engine tries again until then; look at pgdrover spock status"},
		{true, []awaited{failing, disabled}, "subscription s2 is disabled: SELECT spock.sub_enable('s2') lets it go on"},
		{false, []awaited{copying}, `no engine serves this database; start it: pgdrover spock run --dsn "host=a password=****"`},
	} {
		require.Equal(t, x.want, waitHint(info, x.engine, x.subs))
	}
}

func TestUnitUser(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"postgres", "_pg", "a-b_9", "1000", "0", "first.last@example.org", `DOMAIN\user`, "müller"} {
		require.True(t, unitUser(name), name)
	}
	for _, name := range []string{
		"no body", " a", "a\n", "a\tb", "a:b", "a/b", "%i", "-a", "-1", ".", "..", `a\`, "65535", "4294967295", "4294967296", "007", "a\xff",
		strings.Repeat("a", 256),
	} {
		require.False(t, unitUser(name), name)
	}
}

func TestCopyBars(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		copied spock.CopyProgress
		want   string
	}{
		{spock.CopyProgress{State: "wanted", BytesTotal: 100}, "[..............................]"},
		{spock.CopyProgress{State: "copying", BytesTotal: 100, BytesDone: 50}, "[###############...............]"},
		{spock.CopyProgress{State: "copying", BytesTotal: 100, BytesDone: 300}, "[#############################.]"},
		{spock.CopyProgress{State: "copying"}, "[..............................]"},
		{spock.CopyProgress{State: "done"}, "[##############################]"},
	} {
		require.Equal(t, x.want, bar(share(x.copied)))
	}
}

// TestLagOfANewStream: what an earlier life of a stream has told is not the lag of this one, and a transaction that is tried
// again is no progress; what has healed is well.
func TestLagOfANewStream(t *testing.T) {
	t.Parallel()
	at := func(second int) time.Time { return time.Date(2026, 1, 1, 0, 0, second, 0, time.UTC) }
	failed := spock.EngineState{State: "streaming", Since: at(20), Began: at(20), LastError: "could not extend file", LastErrorAt: at(10), Failures: 3}
	fresh, ofTable, retries := failed, failed, failed
	fresh.LastError, fresh.LastErrorAt, fresh.Failures = "", time.Time{}, 0
	ofTable.LastErrorAt = at(30)
	retries.State, retries.Since = "down", at(10)
	idle := func(told int) spock.Progress {
		return spock.Progress{UpdatedAt: at(told), CommitAt: at(1), CommitLSN: 100, InsertLSN: 100, Moved: true}
	}
	behind := func(told, committed int, moved bool) spock.Progress {
		return spock.Progress{UpdatedAt: at(told), CommitAt: at(committed), CommitLSN: 100, InsertLSN: 300, ByCommit: true, Moved: moved}
	}
	for name, x := range map[string]struct {
		state    spock.EngineState
		progress spock.Progress
		delay    time.Duration
		lag      string // "?" is unknown
		well     bool
	}{
		"it was stopped, and has begun":                    {fresh, idle(5), 0, "?", true},
		"it has begun, and said so":                        {fresh, idle(21), 0, "0s", true},
		"it tries again what failed":                       {failed, idle(5), 0, "?", false},
		"it has not begun to try again":                    {retries, idle(5), 0, "?", false},
		"the error came after what was told":               {failed, behind(5, 4, true), 0, "?", false},
		"it is told of while it is tried again":            {failed, behind(22, 4, false), 0, "36s", false},
		"it gets on, though far behind":                    {failed, behind(22, 4, true), 0, "36s", true},
		"it waits for what was committed later":            {failed, behind(22, 15, false), 0, "25s", true},
		"it waits for its delay":                           {failed, behind(22, 4, false), 10 * time.Second, "36s", true},
		"it has healed, and nothing is left to do":         {failed, idle(21), 0, "0s", true},
		"a table waits for its copy, and the stream is on": {ofTable, idle(25), 0, "0s", true},
	} {
		s := spockSub{Subscription: spock.Subscription{Name: "s", Enabled: true, ApplyDelay: x.delay}, status: statusReplicating, state: x.state, known: true, progress: x.progress}
		s.measure(at(40))
		n := spockNode{name: "n", engine: true, subs: []spockSub{s}}
		lag := "?"
		if s.lagKnown() {
			lag = s.lag.String()
		}
		require.Equal(t, x.lag, lag, name)
		require.Equal(t, lag != "?", s.bytesKnown(), name)
		require.Equal(t, x.well, n.trouble() == "", "%s: %s", name, n.trouble())
		require.Equal(t, !x.well && lag == "?", n.beginning(), name)
		var table, object strings.Builder
		require.NoError(t, writeSpockTables(&table, []spockNode{n}))
		require.NoError(t, writeSpockJSON(&object, []spockNode{n}))
		require.Equal(t, lag == "?", regexp.MustCompile(`\|\s+\?\s+\|`).MatchString(table.String()), table.String())
		require.Equal(t, lag == "?", strings.Contains(object.String(), `"lag_ms": null`), object.String())
	}
}

// TestSpockctrlHintsAtTheVersion: where nobody serves a node, that may be because of the schema's version.
func TestSpockctrlHintsAtTheVersion(t *testing.T) {
	t.Parallel()
	dir := pgtest.Dir(t)
	info, err := pg.ParseConnInfo(pgtest.DatabaseWith(t, spockctrlSettings()))
	require.NoError(t, err)
	installSpock(t, info)
	config := filepath.Join(dir, "spockctrl.json")
	require.NoError(t, os.WriteFile(config, []byte(`{"global": {"spock": {"cluster_name": "demo", "version": "1.0.0"}},
		"spock-nodes": [{"node_name": "n1", "postgres": {"postgres_dsn": "`+info.DSN()+`"}}]}`), 0o600))
	create := func(more ...string) string {
		_, _, stderr := callProgram(t, dir, append([]string{"spockctrl", "--config", config, "node", "create", "n1", "--dsn", info.DSN()}, more...)...)
		return stderr
	}
	stderr := create("-v", "-v")
	require.Contains(t, stderr, "NOTICE: no engine is connected to this database")
	require.Contains(t, stderr, "HINT: start one: pgdrover spock run --dsn ")
	db, err := spock.Connect(t.Context(), spock.ConnectConfig{ConnInfo: info})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close(t.Context())) }()
	for _, sql := range []string{"SELECT spock.node_drop('n1')", "UPDATE spock.pgdrover_schema_version SET version = version - 1"} {
		_, err = db.Conn().Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	stderr = create()
	require.Contains(t, stderr, "node n1: no engine serves it: its schema spock has version "+strconv.Itoa(spock.SchemaNumber-1))
	require.Contains(t, stderr, "pgdrover spock upgrade --dsn ")
	require.NotContains(t, stderr, "start one")
}

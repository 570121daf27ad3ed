package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

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

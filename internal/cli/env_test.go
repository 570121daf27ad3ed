package cli

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func testEnv(t *testing.T, vars map[string]string) (*Env, *bytes.Buffer) {
	t.Helper()
	var stderr bytes.Buffer
	env := &Env{
		Name: "pgdrover", Stdout: &bytes.Buffer{}, Stderr: &stderr, PID: 7,
		Getenv: func(name string) (string, bool) {
			v, ok := vars[name]
			return v, ok
		},
	}
	env.prepare()
	return env, &stderr
}

func TestSiteOf(t *testing.T) {
	t.Parallel()
	env, _ := testEnv(t, map[string]string{"HOME": "/home/me", "XDG_RUNTIME_DIR": "/does/not/exist"})
	s, err := siteOf(env, "/srv/data")
	require.NoError(t, err)
	require.Equal(t, site{
		pgdata: "/srv/data",
		config: "/home/me/.config/pg_autoctl/srv/data/pg_autoctl.cfg",
		state:  "/home/me/.local/share/pg_autoctl/srv/data/pg_autoctl.state",
		init:   "/home/me/.local/share/pg_autoctl/srv/data/pg_autoctl.init",
		nodes:  "/home/me/.local/share/pg_autoctl/srv/data/nodes.json",
		pid:    "/tmp/pg_autoctl/srv/data/pg_autoctl.pid",
		orders: "/tmp/pg_autoctl/srv/data/pg_autoctl.pg",
	}, s)

	dir := t.TempDir()
	env, _ = testEnv(t, map[string]string{"HOME": "/h", "XDG_CONFIG_HOME": "/c", "XDG_DATA_HOME": "/d", "XDG_RUNTIME_DIR": dir})
	s, err = siteOf(env, "/p")
	require.NoError(t, err)
	require.Equal(t, "/c/pg_autoctl/p/pg_autoctl.cfg", s.config)
	require.Equal(t, "/d/pg_autoctl/p/pg_autoctl.state", s.state)
	require.Equal(t, dir+"/pg_autoctl/p/pg_autoctl.pid", s.pid)

	env, _ = testEnv(t, nil)
	_, err = siteOf(env, "/p")
	require.ErrorContains(t, err, "HOME")
}

func TestVerbosity(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		verbose int
		quiet   bool
		want    []string
	}{{0, false, nil}, {1, false, nil}, {2, false, []string{"-vv"}}, {5, false, []string{"-vvv"}}, {3, true, []string{"-q"}}} {
		env, _ := testEnv(t, nil)
		env.setVerbosity(test.verbose, test.quiet)
		require.Equal(t, test.want, env.verbosityFlags())
	}
}

// Log lines go to the handler that the environment asks for.
func TestJSONLog(t *testing.T) {
	t.Parallel()
	env, stderr := testEnv(t, map[string]string{"PGDROVER_LOG_FORMAT": "json"})
	env.warnf("the %s", "end")
	require.Contains(t, stderr.String(), `"level":"WARN","msg":"the end"`)
}

func TestProgramName(t *testing.T) {
	t.Parallel()
	for argv0, want := range map[string]string{
		"pg_autoctl": nameAutoctl, "/usr/bin/pg_autoctl": nameAutoctl, "./pgdrover": nameDrover, "renamed": nameDrover,
	} {
		require.Equal(t, want, programName(argv0))
	}
}

// What a command sets is seen by what it starts.
func TestChildEnv(t *testing.T) {
	t.Parallel()
	env, _ := testEnv(t, map[string]string{"A": "1"})
	env.Environ = []string{"A=1"}
	env.setenv("PGDATA", "/d")
	require.Equal(t, "/d", env.getenv("PGDATA"))
	require.Equal(t, []string{"A=1", "PGDATA=/d", "X=2"}, env.childEnv("X=2"))
}

func TestSSLParams(t *testing.T) {
	t.Parallel()
	require.Equal(t, sslParams{mode: "prefer"}, sslParams{}.trimmed())
	require.Equal(t, sslParams{mode: "require"}, sslParams{"require", "ca", "crl"}.trimmed())
	require.Equal(t, sslParams{"verify-ca", "ca", "crl"}, sslParams{"verify-ca", "ca", "crl"}.trimmed())
}

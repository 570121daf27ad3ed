package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// mistake is a command that must be refused.
type mistake struct {
	name string
	// prepare returns the arguments, and places that must stay as they are.
	prepare func(t *testing.T, g *group.Group) (args []string, places []string)
	root    bool
	code    int
	says    string // in the one sentence
}

// create makes the arguments of "create postgres" for a place that nobody has.
func create(t *testing.T, g *group.Group, options ...string) (m *group.Member, args []string) {
	t.Helper()
	m = g.Outsider(t, "another")
	m.Dir = g.Path(fmt.Sprintf("another%d", m.Port))
	return m, m.CreateArgs(options...)
}

// instead replaces the value of an option.
func instead(args []string, option, value string) []string {
	for i, arg := range args {
		if arg == option {
			args[i+1] = value
		}
	}
	return args
}

// initdb makes a data directory without the program.
func initdb(t *testing.T, dir string) {
	t.Helper()
	res := pgtest.Run(t, group.Patience, pgtest.Command{
		Path: filepath.Join(pgtest.Bin(t), "initdb"), Args: []string{"--no-sync", "--auth=trust", "--username=" + pgtest.Superuser, "-D", dir},
	})
	require.Zero(t, res.Code, res.Stderr)
}

// badDirectories are wrong places for a node.
func badDirectories() []mistake {
	return []mistake{
		{
			name: "a directory with other contents", code: 3, says: "not empty",
			prepare: func(t *testing.T, g *group.Group) ([]string, []string) {
				t.Helper()
				m, args := create(t, g)
				pgtest.Mkdir(t, m.Dir)
				require.NoError(t, os.WriteFile(filepath.Join(m.Dir, "letter"), []byte("dear"), 0o600))
				return args, []string{m.Dir}
			},
		}, {
			name: "a file", code: 3, says: "not a directory",
			prepare: func(t *testing.T, g *group.Group) ([]string, []string) {
				t.Helper()
				m, args := create(t, g)
				require.NoError(t, os.WriteFile(m.Dir, []byte("dear"), 0o644))
				return args, []string{m.Dir}
			},
		}, {
			name: "the directory of another node", code: 3, says: "already running",
			prepare: func(t *testing.T, g *group.Group) ([]string, []string) {
				t.Helper()
				_, args := create(t, g)
				return instead(args, "--pgdata", g.Nodes[0].Dir), nil
			},
		}, {
			name: "a server that runs without us", code: 3, says: "already running",
			prepare: func(t *testing.T, g *group.Group) ([]string, []string) {
				t.Helper()
				m, args := create(t, g)
				initdb(t, m.Dir)
				server := pgtest.Start(t, pgtest.Command{
					Path: filepath.Join(pgtest.Bin(t), "postgres"),
					Args: []string{"-D", m.Dir, "-p", strconv.Itoa(m.Port), "-k", g.Path("run"), "-c", "autovacuum=off"},
				})
				pgtest.Eventually(t, group.Patience, func() error {
					conn, err := m.Connect(t.Context(), pgtest.Superuser, "postgres")
					if err != nil {
						return fmt.Errorf("%w\n%s", err, server.Tail(5))
					}
					return conn.Close(t.Context())
				})
				return args, []string{filepath.Join(m.Dir, "postmaster.pid"), filepath.Join(m.Dir, "postgresql.conf"), filepath.Join(m.Dir, "pg_hba.conf")}
			},
		}, {
			name: "another system identifier", code: 3, says: "system identifier",
			prepare: func(t *testing.T, g *group.Group) ([]string, []string) {
				t.Helper()
				m, args := create(t, g)
				initdb(t, m.Dir)
				return args, []string{m.Dir}
			},
		}, {
			name: "a disk that is full", code: 3, says: "disk",
			prepare: func(t *testing.T, g *group.Group) ([]string, []string) {
				t.Helper()
				disk := pgtest.SmallDisk(t)
				_, args := create(t, g)
				return instead(args, "--pgdata", filepath.Join(disk, "node")), []string{disk}
			},
		},
	}
}

// badAddresses are wrong ways to reach something.
func badAddresses() []mistake {
	monitorAt := func(uri func(t *testing.T, g *group.Group) string) func(*testing.T, *group.Group) ([]string, []string) {
		return func(t *testing.T, g *group.Group) ([]string, []string) {
			t.Helper()
			m, args := create(t, g)
			return instead(args, "--monitor", uri(t, g)), []string{m.Dir}
		}
	}
	return []mistake{
		{
			name: "a monitor where nothing listens", code: 6, says: "monitor",
			prepare: monitorAt(func(t *testing.T, _ *group.Group) string {
				t.Helper()
				return fmt.Sprintf("postgres://autoctl_node@localhost:%d/pg_auto_failover", pgtest.FreePort(t))
			}),
		}, {
			name: "a monitor URI that is none", code: 1, says: "monitor",
			prepare: monitorAt(func(*testing.T, *group.Group) string { return "http://localhost" }),
		}, {
			name: "a server that is no monitor", code: 6, says: "no monitor",
			prepare: monitorAt(func(t *testing.T, g *group.Group) string {
				t.Helper()
				return fmt.Sprintf("postgres://%s@localhost:%d/postgres?sslmode=disable", pgtest.Superuser, g.WaitWhole(t).Port)
			}),
		}, {
			name: "a port that is taken", code: 3, says: "already in use",
			prepare: func(t *testing.T, g *group.Group) ([]string, []string) {
				t.Helper()
				m, args := create(t, g)
				l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", m.Port))
				require.NoError(t, err)
				t.Cleanup(func() { _ = l.Close() })
				return args, []string{m.Dir}
			},
		}, {
			name: "a port that is none", code: 1, says: "port",
			prepare: func(t *testing.T, g *group.Group) ([]string, []string) {
				t.Helper()
				m, args := create(t, g)
				return instead(args, "--pgport", "70000"), []string{m.Dir}
			},
		},
	}
}

// badWishes are what cannot be had.
func badWishes() []mistake {
	creation := func(options ...string) func(*testing.T, *group.Group) ([]string, []string) {
		return func(t *testing.T, g *group.Group) ([]string, []string) {
			t.Helper()
			m, args := create(t, g, options...)
			return args, []string{m.Dir}
		}
	}
	setting := func(words ...string) func(*testing.T, *group.Group) ([]string, []string) {
		return func(_ *testing.T, g *group.Group) ([]string, []string) {
			return append(words, "--pgdata", g.Nodes[0].Dir), nil
		}
	}
	return []mistake{
		{name: "an unknown formation", code: 6, says: `formation "nowhere"`, prepare: creation("--formation", "nowhere")},
		{name: "created with a priority too high", code: 1, says: "priority", prepare: creation("--candidate-priority", "101")},
		{name: "created with a negative priority", code: 1, says: "priority", prepare: creation("--candidate-priority", "-1")},
		{name: "created with a quorum that is none", code: 1, says: "quorum", prepare: creation("--replication-quorum", "perhaps")},
		{name: "a priority too high", code: 1, says: "priority", prepare: setting("set", "node", "candidate-priority", "101")},
		{name: "a priority that is none", code: 1, says: "priority", prepare: setting("set", "node", "candidate-priority", "high")},
		{name: "a quorum that is none", code: 1, says: "quorum", prepare: setting("set", "node", "replication-quorum", "perhaps")},
		{name: "too many synchronous standbys", code: 6, says: "sync", prepare: setting("set", "formation", "number-sync-standbys", "5")},
		{name: "a number of them that is none", code: 1, says: "sync", prepare: setting("set", "formation", "number-sync-standbys", "many")},
		{name: "as root", root: true, code: 1, says: "root", prepare: creation()},
		{name: "run as root", root: true, code: 1, says: "root", prepare: setting("run")},
	}
}

// TestMistakesChangeNothing makes every mistake that an operator can make: each
// is answered in one sentence with a hint, and with the exit code that scripts
// rely on; files, registration and servers stay as they were.
func TestMistakesChangeNothing(t *testing.T) {
	t.Parallel()
	g := group.Start(t, group.Config{Nodes: 2})
	// More than the small disk holds.
	g.WaitWhole(t).Exec(t, "CREATE TABLE bulk AS SELECT i, repeat('x', 500) AS text FROM generate_series(1, 100000) i")
	for _, m := range append(append(badDirectories(), badAddresses()...), badWishes()...) {
		t.Run(m.name, func(t *testing.T) {
			if m.root && os.Geteuid() != 0 {
				t.Skip("only root can make this mistake")
			}
			args, places := m.prepare(t, g)
			g.WaitWhole(t)
			before := g.Footprint(t, places...)
			// How long a monitor that does not answer is waited for.
			res := g.RunCommand(t, pgtest.Command{Args: args, Root: m.root, Env: []string{"PGCONNECT_TIMEOUT=2"}})
			require.Equal(t, m.code, res.Code, res.Stdout+res.Stderr)
			requireOneSentence(t, res.Stderr, m.says)
			// The others may be told that somebody came and went.
			pgtest.Eventually(t, group.Patience, func() error {
				if diff := before.Diff(g.Footprint(t, places...)); diff != "" {
					return fmt.Errorf("changed: %s\n%s", diff, res.Stderr)
				}
				return nil
			})
		})
	}
}

// requireOneSentence takes the log of a command that was refused apart: one
// complaint, and a hint: what to do, what was expected, or how to call it.
func requireOneSentence(t *testing.T, log, says string) {
	t.Helper()
	var complaints, hints []string
	for line := range strings.Lines(log) {
		switch {
		case strings.Contains(line, "HINT:"), strings.Contains(line, "DETAIL:"), strings.HasPrefix(line, "usage:"):
			hints = append(hints, line)
		case strings.Contains(line, " ERROR ") || strings.Contains(line, " FATAL "):
			complaints = append(complaints, line)
		}
	}
	require.Len(t, complaints, 1, log)
	require.Contains(t, complaints[0], says)
	require.NotEmpty(t, hints, log)
}

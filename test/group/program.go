package group

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

const (
	// programVar holds the path of the program under test.
	programVar = "PGDROVER_TEST_PROGRAM"
	// flagsVar holds more flags for building it, -race for example.
	flagsVar = "PGDROVER_TEST_BUILDFLAGS"
)

// Main builds the program and runs the tests of a package; see pgtest.Main.
func Main(m pgtest.Tests) { pgtest.Setup{Prepare: build}.Main(m) }

// MainAsRoot builds the program and runs the tests of a package that needs
// network namespaces; see pgtest.MainAsRoot.
func MainAsRoot(m pgtest.Tests) { pgtest.Setup{Prepare: build, KeepRoot: true}.Main(m) }

// MainWithSmallDisk is MainAsRoot with a file system of so many megabytes; see
// pgtest.SmallDisk.
func MainWithSmallDisk(m pgtest.Tests, megabytes int) {
	pgtest.Setup{Prepare: build, KeepRoot: true, SmallDisk: megabytes}.Main(m)
}

func build(dir string) ([]string, error) {
	program := filepath.Join(dir, "pgdrover")
	flags := strings.Fields(os.Getenv(flagsVar))
	args := slices.Concat([]string{"build", "-buildvcs=false", "-o", program}, flags, []string{"github.com/pgdrover/pgdrover/cmd/pgdrover"})
	cmd := exec.Command("go", args...)
	cmd.Env = os.Environ()
	if !slices.Contains(flags, "-race") {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	} else {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return []string{programVar + "=" + program}, nil
}

// Program is the path of the built program.
func Program(t testing.TB) string {
	t.Helper()
	path := os.Getenv(programVar)
	if path == "" {
		t.Fatal("no program was built: the package's TestMain must call group.Main")
	}
	return path
}

// environment of the program: a home and a runtime directory of its own, so
// that nothing of the caller's is seen or touched.
func (g *Group) environment() []string {
	return append([]string{
		"HOME=" + filepath.Join(g.root, "home"),
		"XDG_RUNTIME_DIR=" + filepath.Join(g.root, "run"),
		"PG_REGRESS_SOCK_DIR=" + g.root,
	}, g.cfg.Access.Env...)
}

// Run runs one command of the program to its end.
func (g *Group) Run(t testing.TB, args ...string) pgtest.Result {
	t.Helper()
	return g.RunCommand(t, pgtest.Command{Args: args})
}

// RunCommand is Run with a say in more than the arguments: further variables, or
// the superuser of the system.
func (g *Group) RunCommand(t testing.TB, c pgtest.Command) pgtest.Result {
	t.Helper()
	if c.Path == "" {
		c.Path = g.program
	}
	c.Dir, c.Host = g.root, g.Monitor.Host
	c.Env = append(g.environment(), c.Env...)
	return pgtest.Run(t, commandPatience, c)
}

// Begin starts one command of the program and does not wait for it.
func (g *Group) Begin(t testing.TB, args ...string) *pgtest.Process {
	t.Helper()
	return pgtest.Start(t, pgtest.Command{
		Name: "pgdrover-" + args[0], Path: g.program, Args: args, Env: g.environment(), Dir: g.root, Host: g.Monitor.Host,
	})
}

// Must runs one command of the program and ends the test unless it succeeds.
func (g *Group) Must(t testing.TB, args ...string) pgtest.Result {
	t.Helper()
	res := g.Run(t, args...)
	if res.Code != 0 {
		t.Fatalf("pgdrover %s: exit code %d\n%s%s", strings.Join(args, " "), res.Code, res.Stdout, res.Stderr)
	}
	return res
}

// commandPatience bounds a command. Those that wait for a state give up after
// 60 s by themselves.
const commandPatience = 2 * time.Minute

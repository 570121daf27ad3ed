package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// programNames are the names under which scripts call the program.
var programNames = []string{nameDrover, nameAutoctl, nameSpockctrl, nameZodan, nameZodremove, nameZodan + ".py"}

var rewrite = flag.Bool("rewrite", false, "write the generated pages instead of comparing them")

// TestMain is the program itself when the test binary was called by one of its
// names: the scripts find it in PATH.
func TestMain(m *testing.M) {
	if base := filepath.Base(os.Args[0]); slices.Contains(programNames, base) {
		os.Exit(runProgram())
	}
	if !slices.ContainsFunc(os.Args, func(arg string) bool { return strings.Contains(arg, "test.parallel") }) {
		// Scripts on servers wait most of the time: more of them than there are processors.
		os.Args = append(os.Args[:1:1], append([]string{"-test.parallel=6"}, os.Args[1:]...)...)
	}
	if slices.Contains(os.Args, "-rewrite") {
		// The pages are the caller's, whom pgtest may not run as.
		os.Exit(m.Run())
	}
	pgtest.Main(m)
}

func runProgram() int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP)
	reload := make(chan struct{}, 1)
	go func() {
		for sig := range signals {
			if sig == syscall.SIGHUP {
				select {
				case reload <- struct{}{}:
				default:
				}
				continue
			}
			cancel(&SignalError{Sig: sig})
		}
	}()
	executable, err := os.Executable()
	if err != nil {
		panic(err)
	}
	euid := os.Geteuid()
	if os.Getenv("TEST_AS_ROOT") != "" {
		euid = 0
	}
	return Main(ctx, Env{
		Name: filepath.Base(os.Args[0]), Args: os.Args[1:], Version: "1.2.3",
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.LookupEnv, Environ: os.Environ(), Executable: executable,
		PID: os.Getpid(), EUID: euid, Reload: reload,
	})
}

// TestScripts runs every script under both names of the program.
func TestScripts(t *testing.T) {
	t.Parallel()
	for _, name := range []string{nameDrover, nameAutoctl} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runScripts(t, "testdata/script", name)
		})
	}
}

// TestServerScripts runs the scripts that need PostgreSQL, one after the other.
func TestServerScripts(t *testing.T) {
	t.Parallel()
	pgtest.Bin(t)
	runScripts(t, "testdata/server", nameAutoctl)
}

func runScripts(t *testing.T, dir, name string) {
	t.Helper()
	bin := programs(t)
	testscript.Run(t, testscript.Params{
		Dir: dir, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			// Sockets need a short path.
			short := pgtest.Dir(t)
			env.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
			env.Setenv("NAME", name)
			env.Setenv("HOME", filepath.Join(short, "home"))
			env.Setenv("XDG_RUNTIME_DIR", short)
			env.Setenv("PG_REGRESS_SOCK_DIR", short)
			env.Setenv("DATA", short)
			env.Setenv("BIN", serverBin(t, dir))
			env.Setenv("PGCTL", filepath.Join(serverBin(t, dir), "pg_ctl"))
			for _, port := range []string{"PORT0", "PORT1", "PORT2", "PORT3"} {
				env.Setenv(port, strconv.Itoa(pgtest.FreePort(t)))
			}
			env.Setenv("MONITOR", "postgres://autoctl_node@localhost:"+env.Getenv("PORT0")+"/pg_auto_failover?sslmode=prefer")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ok": commandOK, "code": commandCode, "until": commandUntil, "tree": scriptTree,
			"badoptions": commandBadOptions, "both": commandBoth,
		},
	})
}

// serverBin is where the servers' programs are; scripts without servers get a place that does not exist.
func serverBin(t *testing.T, dir string) string {
	t.Helper()
	if !strings.HasSuffix(dir, "server") {
		return "/nonexistent"
	}
	return pgtest.Bin(t)
}

// programs makes a directory that holds this binary under both names.
func programs(t *testing.T) string {
	t.Helper()
	bin := pgtest.Dir(t)
	self, err := os.Executable()
	require.NoError(t, err)
	for _, name := range programNames {
		require.NoError(t, os.Symlink(self, filepath.Join(bin, name)))
	}
	return bin
}

// commandOK runs a command line of ours that must succeed.
func commandOK(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: ok program args...")
	}
	if _, code := runCommand(ts, args); code != 0 {
		ts.Fatalf("exit code %d", code)
	}
}

// commandCode runs a command line of ours that must end with the exit code given first.
func commandCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code number program args...")
	}
	if _, code := runCommand(ts, args[1:]); strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// commandUntil runs a command line of ours until its output matches a pattern.
func commandUntil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until pattern program args...")
	}
	if !slices.Contains(programNames, args[1]) {
		scriptUntil(ts, neg, args)
		return
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	for deadline := time.Now().Add(untilPatience); ; <-pace.C {
		a := answerOf(ts, args[1:])
		if pattern.MatchString(a.out.String()) {
			a.show(ts)
			return
		}
		if time.Now().After(deadline) {
			a.show(ts)
			ts.Fatalf("not within %s: output does not match %q", untilPatience, args[0])
		}
	}
}

// runCommand runs one command line and leaves what it said for the script to look at.
func runCommand(ts *testscript.TestScript, args []string) (answer, int) {
	a := answerOf(ts, args)
	a.show(ts)
	return a, a.code
}

// answer is how one command line ended.
type answer struct {
	out, err *strings.Builder
	code     int
}

func (a answer) show(ts *testscript.TestScript) {
	_, _ = ts.Stdout().Write([]byte(a.out.String()))
	_, _ = ts.Stderr().Write([]byte(a.err.String()))
}

// answerOf runs one command line. A process for each takes longer to begin, under
// the race detector, than most commands take to run: so they run in this one,
// but for services, and for words that mean a file of the script's directory.
func answerOf(ts *testscript.TestScript, args []string) answer {
	a := answer{out: &strings.Builder{}, err: &strings.Builder{}}
	if !slices.Contains(programNames, args[0]) || needsProcess(ts, args[1:]) {
		err := ts.Exec(args[0], args[1:]...)
		a.out.WriteString(ts.ReadFile("stdout"))
		a.err.WriteString(ts.ReadFile("stderr"))
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			a.code = exit.ExitCode()
		} else {
			ts.Check(err)
		}
		return a
	}
	executable, err := os.Executable()
	ts.Check(err)
	euid := os.Geteuid()
	if ts.Getenv("TEST_AS_ROOT") != "" {
		euid = 0
	}
	// A minute is patience enough for whatever does not serve.
	ctx, cancel := context.WithTimeout(context.Background(), commandPatience)
	defer cancel()
	a.code = Main(ctx, Env{
		Name: args[0], Args: args[1:], Version: "1.2.3",
		Stdin: strings.NewReader(""), Stdout: a.out, Stderr: a.err,
		Getenv:  func(name string) (string, bool) { v := ts.Getenv(name); return v, v != "" },
		Environ: os.Environ(), Executable: executable, PID: os.Getpid(), EUID: euid,
	})
	return a
}

// commandPatience bounds one command line that does not serve.
const commandPatience = 3 * time.Minute

// needsProcess tells command lines that cannot run inside this process.
func needsProcess(ts *testscript.TestScript, args []string) bool {
	for _, arg := range args {
		if arg == "run" || arg == "--run" || arg == "demo" || arg == "--terminal" {
			return true
		}
		if arg == "" || filepath.IsAbs(arg) {
			continue
		}
		if _, err := os.Stat(ts.MkAbs(arg)); err == nil {
			return true
		}
	}
	return false
}

// scriptCode runs a program that must end with the exit code given first.
func scriptCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code number program args...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// untilPatience bounds what a script waits for.
const untilPatience = 2 * time.Minute

// scriptUntil runs a program until its output matches a pattern.
func scriptUntil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until pattern program args...")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	// Each look is a process, so it comes at a measured pace.
	pace := time.NewTicker(150 * time.Millisecond)
	defer pace.Stop()
	for deadline := time.Now().Add(untilPatience); ; <-pace.C {
		err := ts.Exec(args[1], args[2:]...)
		out := ts.ReadFile("stdout")
		if pattern.MatchString(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not within %s, last: %v: output does not match %q:\n%s", untilPatience, err, args[0], out)
		}
	}
}

// scriptTree writes the names and contents of all files below a directory into
// a file, so that a script can tell that nothing changed. When a keeper last
// heard of others is no change.
func scriptTree(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: tree directory file")
	}
	var b strings.Builder
	root := ts.MkAbs(args[0])
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if d.Type().IsRegular() && filepath.Ext(path) != ".new" { // one that is about to replace another
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if filepath.Ext(path) == ".state" && len(data) > 72 {
				clear(data[48:56])
				clear(data[64:72])
			}
			fmt.Fprintf(&b, "%s %d %x\n", strings.TrimPrefix(path, root), len(data), data)
		}
		return nil
	})
	if !errors.Is(err, os.ErrNotExist) {
		ts.Check(err)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(b.String()), 0o600))
}

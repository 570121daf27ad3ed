package pgtest

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"go.uber.org/goleak"
)

const (
	// serverUser runs the servers when the tests are started by root.
	serverUser = "postgres"
	// childVar marks the process that runs the tests.
	childVar = "PGDROVER_PGTEST_CHILD"
)

// Tests is what Main runs: a *testing.M, or something around one.
type Tests interface{ Run() int }

// Main runs the tests of a package and exits with their code. When started by
// root the tests run as user postgres. A goroutine or a process that is left
// over at the end fails the package.
func Main(m Tests) { Setup{}.Main(m) }

// MainAsRoot is Main for tests that make network namespaces: started by root
// they stay root, and only what they start runs as user postgres.
func MainAsRoot(m Tests) { Setup{KeepRoot: true}.Main(m) }

// Setup says how the tests of a package are run. The zero value is that of the
// function Main.
type Setup struct {
	KeepRoot bool // as MainAsRoot
	// Prepare runs once, before the tests and as the caller: what it puts into
	// dir the tests may read and execute. It returns variables for the tests.
	Prepare func(dir string) (env []string, err error)
	// SmallDisk asks for a file system of so many megabytes; see SmallDisk.
	SmallDisk int
}

// Main runs the tests of a package and exits with their code.
func (s Setup) Main(m Tests) {
	if os.Getenv(childVar) != "" {
		os.Exit(runTests(m))
	}
	code, err := s.supervise()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func runTests(m Tests) int {
	code := m.Run()
	shared.close()
	if code != 0 {
		return code
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest: the tests leave goroutines behind:", err)
		return 1
	}
	return 0
}

// serverOwner is the user that servers must run as when this process is root;
// nil when the process is an ordinary user already, or when there is none
// (then Bin explains why the tests are skipped).
func serverOwner() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(serverUser)
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // a machine without that user has no servers to test either
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("read uid of %s: %w", serverUser, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("read gid of %s: %w", serverUser, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// output is a file or directory that "go test" asked for. It usually lies where
// only the caller may write, so the child writes it into our own directory.
type output struct{ from, to string }

var fileFlags = []string{"coverprofile", "cpuprofile", "memprofile", "blockprofile", "mutexprofile", "trace"}

// redirect rewrites the arguments of a test binary so that everything it writes
// goes below dir, and says what has to be copied back where.
func redirect(args []string, dir string) ([]string, []output) {
	var kept []string
	var outs []output
	outputDir, artifacts := ".", false
	for _, arg := range args {
		name, value, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		name, isTest := strings.CutPrefix(name, "test.")
		switch {
		case !isTest:
			kept = append(kept, arg)
		case name == "testlogfile":
			// Only feeds the cache of test results. A test of real processes
			// depends on more than files, so it is better not cached.
		case name == "outputdir":
			outputDir = value
		case name == "gocoverdir", slices.Contains(fileFlags, name):
			from := filepath.Join(dir, name)
			kept = append(kept, "-test."+name+"="+from)
			outs = append(outs, output{from: from, to: value})
		default:
			artifacts = artifacts || name == "artifacts" && value != "false"
			kept = append(kept, arg)
		}
	}
	for i, o := range outs {
		if slices.Contains(fileFlags, filepath.Base(o.from)) && !filepath.IsAbs(o.to) {
			outs[i].to = filepath.Join(outputDir, o.to)
		}
	}
	if artifacts {
		from := filepath.Join(dir, "outputdir")
		kept = append(kept, "-test.outputdir="+from)
		outs = append(outs, output{from: from, to: outputDir})
	}
	return kept, outs
}

// copyBack brings one output to where it was asked for. A file that the tests
// never wrote is not missed.
func (o output) copyBack() error {
	info, err := os.Stat(o.from)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at test output: %w", err)
	}
	if info.IsDir() {
		return copyTree(o.from, o.to)
	}
	return copyFile(o.from, o.to, 0o644)
}

// childEnv is the environment of the tests: the caller's without what would
// lead a client or server library to somebody else's server or files.
func childEnv(env []string, home, tmp string, owner *syscall.Credential) []string {
	kept := slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "PGDROVER_") ||
			strings.HasPrefix(name, "XDG_") || name == "HOME" || name == "TMPDIR" || name == childVar
	})
	kept = append(kept, childVar+"=1", "HOME="+home, "TMPDIR="+tmp)
	if owner != nil {
		kept = append(kept, "USER="+serverUser, "LOGNAME="+serverUser)
	}
	return kept
}

package pgtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"
)

const (
	// binVar names more directories of server binaries, separated by colons.
	binVar = "PGDROVER_PG_BINDIRS"
	// majorVar names the one major version to run on, where there are several.
	majorVar = "PGDROVER_PG_MAJOR"
	// oldestMajor is the oldest server that pgdrover supports.
	oldestMajor = 15
)

// Binaries is a directory of server programs and the major version of them.
type Binaries struct {
	Major int
	Dir   string
}

var versionText = regexp.MustCompile(`PostgreSQL\) (\d+)`)

// AllBinaries lists the supported servers of this machine, one for each major
// version, the oldest first; of $PGDROVER_PG_MAJOR alone if that is set.
func AllBinaries() []Binaries {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	dirs = append(filepath.SplitList(os.Getenv(binVar)), dirs...)
	var all []Binaries
	for _, dir := range dirs {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
		cancel()
		if err != nil {
			continue
		}
		m := versionText.FindSubmatch(out)
		if m == nil {
			continue
		}
		major, err := strconv.Atoi(string(m[1]))
		if err != nil || major < oldestMajor {
			continue
		}
		if only := os.Getenv(majorVar); only != "" && only != strconv.Itoa(major) {
			continue
		}
		if !slices.ContainsFunc(all, func(b Binaries) bool { return b.Major == major }) {
			all = append(all, Binaries{Major: major, Dir: dir})
		}
	}
	slices.SortFunc(all, func(a, b Binaries) int { return a.Major - b.Major })
	return all
}

// Bin returns the directory of the programs of the oldest of them. Without
// one the test is skipped, or fails when CI=true.
func Bin(t testing.TB) string {
	t.Helper()
	return servers(t)[0].Dir
}

// EachMajor runs a test on every server version of this machine.
func EachMajor(t *testing.T, test func(t *testing.T, bin string)) {
	t.Helper()
	for _, b := range servers(t) {
		t.Run(fmt.Sprintf("pg%d", b.Major), func(t *testing.T) { test(t, b.Dir) })
	}
}

func servers(t testing.TB) []Binaries {
	t.Helper()
	if os.Geteuid() == 0 {
		if owner, err := serverOwner(); err != nil || owner == nil {
			missing(t, "servers refuse root and this machine has no user "+serverUser)
		}
	}
	all := shared.allBinaries()
	if len(all) == 0 {
		missing(t, fmt.Sprintf("no PostgreSQL %d or later in /usr/lib/postgresql/*/bin or $%s (or not that of $%s)",
			oldestMajor, binVar, majorVar))
	}
	return all
}

// missing ends a test for want of something that "make setup" installs.
func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s (a failure because CI=true)", what)
	}
	t.Skip(what)
}

package group

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// nextVar holds the path of the program as its next release.
const nextVar = "PGDROVER_TEST_NEXT"

// NextVersion is what the program of NextProgram calls itself.
const NextVersion = "9.9.9-next"

// MainWithNext is MainAsRoot for tests of upgrades, which need the program twice.
func MainWithNext(m pgtest.Tests) {
	pgtest.Setup{KeepRoot: true, Prepare: func(dir string) ([]string, error) {
		env, err := build(dir)
		if err != nil {
			return nil, err
		}
		next := filepath.Join(dir, "pgdrover-next")
		cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-X main.version="+NextVersion, "-o", next, "github.com/pgdrover/pgdrover/cmd/pgdrover")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build the next program: %w\n%s", err, out)
		}
		return append(env, nextVar+"="+next), nil
	}}.Main(m)
}

// NextProgram is the path of the program with another version.
func NextProgram(t testing.TB) string {
	t.Helper()
	path := os.Getenv(nextVar)
	if path == "" {
		t.Fatal("no next program was built: the package's TestMain must call group.MainWithNext")
	}
	return path
}

package zodan

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// offClock makes a directory of server programs whose server has a clock that
// is so many seconds off.
func offClock(t *testing.T, seconds int) (bin string) {
	t.Helper()
	compiler, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler: a server's clock cannot be set wrong")
	}
	library := filepath.Join(pgtest.Dir(t), "clock.so")
	out, err := exec.Command(compiler, "-shared", "-fPIC", "-O1", "-o", library, "testdata/clock.c").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return wrapped(t, fmt.Sprintf("CLOCK_OFFSET=%d LD_PRELOAD=%s", seconds, library))
}

// wrapped makes a directory of server programs whose server has more in its environment.
func wrapped(t testing.TB, environment string) (bin string) {
	t.Helper()
	dir, programs := pgtest.Dir(t), pgtest.Bin(t)
	entries, err := os.ReadDir(programs)
	require.NoError(t, err)
	bin = filepath.Join(dir, "bin")
	pgtest.Mkdir(t, bin)
	for _, e := range entries {
		if e.Name() != "postgres" {
			require.NoError(t, os.Symlink(filepath.Join(programs, e.Name()), filepath.Join(bin, e.Name())))
		}
	}
	script := fmt.Sprintf("#!/bin/sh\n%s exec %s \"$@\"\n", environment, filepath.Join(programs, "postgres"))
	require.NoError(t, os.WriteFile(filepath.Join(bin, "postgres"), []byte(script), 0o700))
	return bin
}

// The clocks of two nodes are an hour off, and each server has another time zone:
// no row is missing, none is there twice, and differences add up on all nodes.
func TestClocks(t *testing.T) {
	t.Parallel()
	a := first(t, "n1", nil)
	b := newNodeFrom(t, "n2", offClock(t, -3600), map[string]string{"timezone": "'Asia/Tokyo'"})
	c := newNodeFrom(t, "n3", offClock(t, 3600), map[string]string{"timezone": "'America/St_Johns'"})
	ready(t, a, b, c)
	dir := t.TempDir()
	must(t, 0, add(dir, a, b)...)
	checkup{source: a, target: c, options: []string{"--patience=2m"}}.says(t, 0,
		"WARN: the clock of n2 is 1h0m0s behind the source's: the later of two changes is known by it",
		"WARN: the clock of n3 is 1h0m0s ahead of the source's: the later of two changes is known by it")

	// Which of two changes of one row is the later one is for clocks to say; all else is not.
	apart := habit{apart: true, count: true}
	l := startLoadOf(t, apart, a, b)
	must(t, 0, add(dir, a, c)...)
	l.converged(t, a, b, c)
	startLoadOf(t, apart, a, b, c).converged(t, a, b, c)
	must(t, 0, remove(dir, c)...)
}

package zodan

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// saidDisks makes a directory of server programs whose servers hear of their
// disks what a file in their data directory says, when it is there.
func saidDisks(t testing.TB) (bin string) {
	t.Helper()
	df, err := exec.LookPath("df")
	if err != nil {
		t.Skip("no df: servers cannot say how full their disks are")
	}
	dir := pgtest.Dir(t)
	script := fmt.Sprintf("#!/bin/sh\nif [ -f df_says ]; then exec cat df_says; fi\nexec %s \"$@\"\n", df)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "df"), []byte(script), 0o700))
	return wrapped(t, "PATH="+dir+":$PATH")
}

// disk makes a node's server hear that its disk of 100 GB has so many kB left;
// none lets it look itself.
func (n *node) disk(t testing.TB, left int) {
	t.Helper()
	file := filepath.Join(n.server.Dir, "df_says")
	if left == 0 {
		require.NoError(t, os.Remove(file))
		return
	}
	line := fmt.Sprintf("/dev/some 104857600 %d %d 99%% /\n", 104857600-left, left)
	text := "Filesystem 1024-blocks Used Available Capacity Mounted on\n" + strings.Repeat(line, 2)
	require.NoError(t, os.WriteFile(file+".new", []byte(text), 0o600))
	require.NoError(t, os.Rename(file+".new", file))
}

// fullDisks: a join ends before it fills the disk of a node that keeps changes for
// the new one, or that of the new one; what it has made goes at once.
func fullDisks(t *testing.T, dir string, a, b, c *node, before map[string]string) {
	t.Helper()
	commit := openOn(t, a) // for which the copy waits
	tl := begin(t, nil, add(dir, a, c)...)
	tl.waitsFor(t, "J8")
	b.disk(t, 1000)
	require.Equal(t, 1, tl.wait(), tl.said())
	require.Regexp(t, "stop for the sake of node "+b.name+": "+b.name+" keeps .* of WAL for the new node.* 1000 kB of its disk are free", tl.said())
	commit()
	b.disk(t, 0)
	requireFootprints(t, before, a, b, c)
	ready(t, a, b, c)

	c.disk(t, 1000)
	checkup{source: a, target: c, options: []string{"--patience=2m"}}.says(t, 1, "FAIL: the disk of new node "+c.name+" has no room for the copy: …")
	tl = must(t, 1, append(add(dir, a, c), "--skip-check")...)
	require.Contains(t, tl.said(), "stop for the sake of node "+c.name+": 1000 kB of 100 GB are left on the disk that has the data of the new node")
	c.disk(t, 0)
	requireFootprints(t, before, a, b, c)
}

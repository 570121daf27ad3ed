package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOverlaps(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, "data"), 0o700))
	require.NoError(t, os.Symlink(filepath.Join(root, "data"), filepath.Join(root, "link")))
	data := filepath.Join(root, "data")
	for path, want := range map[string]bool{
		"data": true, "": true, "data/backup": true, "link": true, "link/backup/deep": true, "data/../data": true,
		"database": false, "backup": false, "backup/node_1": false,
	} {
		require.Equal(t, want, overlaps(filepath.Join(root, path), data), path)
	}
	require.True(t, overlaps("/", data))
}

// TestRemoveData: what is somewhere else and belongs to the directory goes, what
// others have there stays, and so do the links that an operator made.
func TestRemoveData(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	put := func(path string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(root, path), []byte("x"), 0o600))
	}
	for _, path := range []string{
		"disk/base/1/1", "wal/000000010000000000000001", "space/PG_15_202209061/5/1", "space/PG_14_202107181/5/1",
		"data.initdb", "data.rewind/postgresql.conf", "data.other/file",
	} {
		put(path)
	}
	require.NoError(t, os.Mkdir(filepath.Join(root, "disk/pg_tblspc"), 0o700))
	for link, to := range map[string]string{"data": "disk", "disk/pg_wal": "wal", "disk/pg_tblspc/16384": "space"} {
		require.NoError(t, os.Symlink(filepath.Join(root, to), filepath.Join(root, link)))
	}
	data := filepath.Join(root, "data")
	require.NoError(t, removeData(data, "PG_15_202209061"))
	require.True(t, isLink(data))
	for _, empty := range []string{"disk", "wal"} {
		entries, err := os.ReadDir(filepath.Join(root, empty))
		require.NoError(t, err)
		require.Empty(t, entries, empty)
	}
	for _, gone := range []string{"data.initdb", "data.rewind", "space/PG_15_202209061"} {
		require.NoFileExists(t, filepath.Join(root, gone))
		require.NoDirExists(t, filepath.Join(root, gone))
	}
	require.FileExists(t, filepath.Join(root, "space/PG_14_202107181/5/1"), "another server's")
	require.FileExists(t, filepath.Join(root, "data.other/file"))

	plain := filepath.Join(root, "plain")
	put("plain/PG_VERSION")
	require.NoError(t, removeData(plain, ""))
	require.NoDirExists(t, plain)
	require.NoError(t, removeData(plain, ""), "again")
}

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

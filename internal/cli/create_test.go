package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUnwritable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	locked := filepath.Join(dir, "locked")
	require.NoError(t, os.Mkdir(locked, 0o500))
	missing := filepath.Join(dir, "missing")
	for directories, want := range map[string]string{
		"":                   "",
		dir:                  "",
		"@abstract":          "",
		missing:              missing,
		dir + ", " + locked:  locked,
		dir + "," + missing:  missing,
		" " + dir + " , @ab": "",
	} {
		require.Equal(t, want, unwritable(directories), directories)
	}
}

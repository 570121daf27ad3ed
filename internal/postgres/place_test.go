package postgres_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// A node that loses its primary while it asks to copy it may be elected a moment later.
func TestCopyThatDoesNotBeginKeepsTablespaces(t *testing.T) {
	t.Parallel()
	n, p := newPrimary(t, 2)
	place := filepath.Join(n.root, "far")
	require.NoError(t, os.Mkdir(place, 0o700))
	n.exec(t, fmt.Sprintf(`CREATE TABLESPACE far LOCATION '%s'`, place))
	n.exec(t, `CREATE TABLE kept TABLESPACE far AS SELECT generate_series(1, 1000) AS id`)
	n.stop(t, p, postgres.StopFast)

	gone := n.backup(n)
	gone.Source = gone.Source.With("port", strconv.Itoa(pgtest.FreePort(t)))
	require.ErrorContains(t, n.BaseBackup(within(t), gone), "refused")
	foreign, _ := newPrimary(t, 1)
	require.ErrorIs(t, n.BaseBackup(within(t), n.backup(foreign)), postgres.ErrForeignSystem)

	require.False(t, n.RewindInterrupted())
	n.start(t)
	require.Equal(t, "1000", n.ask(t, `SELECT count(*)::text FROM kept`))
}

func TestCopyThatFailsOnTheWayLeavesNothingToStart(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	n, p := newStandby(t, primary, 2)
	n.stop(t, p, postgres.StopFast)
	place := filepath.Join(n.root, "far")
	require.NoError(t, os.MkdirAll(filepath.Join(place, "PG_15_202209061", "5"), 0o700))
	require.NoError(t, os.Symlink(place, filepath.Join(n.DataDir(), "pg_tblspc", "16999")))

	backup := n.backup(primary)
	backup.Slot = "nobody_made_it"
	require.Error(t, n.BaseBackup(within(t), backup))
	require.NoDirExists(t, filepath.Join(place, "PG_15_202209061"))
	require.NoFileExists(t, backup.BackupDir+".copy")
	require.True(t, n.RewindInterrupted())
	_, err := n.Start(within(t), postgres.StartConfig{})
	require.ErrorIs(t, err, postgres.ErrCannotRewind)

	require.NoError(t, n.BaseBackup(within(t), n.backup(primary)))
	require.False(t, n.RewindInterrupted())
	n.start(t)
	require.NoError(t, n.WaitStreaming(within(t)))
}

// An operator names the directory of his dumps, or the one that holds the data
// directory: both are on its file system, as the option's description wants.
func TestBackupDirectoryOfOthersIsNotEmptied(t *testing.T) {
	t.Parallel()
	n := newNode(t, 2)
	control := filepath.Join(n.DataDir(), "global", "pg_control")
	require.NoError(t, os.MkdirAll(filepath.Dir(control), 0o700))
	require.NoError(t, os.WriteFile(control, nil, 0o600))
	link := filepath.Join(n.root, "link")
	require.NoError(t, os.Symlink(n.root, link))
	backup := n.backup(n) // where nobody answers
	for _, dir := range []string{n.root, link, n.DataDir(), filepath.Join(link, "data", "backup")} {
		backup.BackupDir, backup.Ours = dir, true
		require.ErrorContains(t, n.BaseBackup(within(t), backup), "holds it, or lies in it", dir)
		require.FileExists(t, control)
	}

	backup.BackupDir, backup.Ours = filepath.Join(n.root, "dumps"), false
	dump := filepath.Join(backup.BackupDir, "of-last-night.sql")
	require.NoError(t, os.Mkdir(backup.BackupDir, 0o700))
	require.NoError(t, os.WriteFile(dump, nil, 0o600))
	require.ErrorContains(t, n.BaseBackup(within(t), backup), "of-last-night.sql")
	require.FileExists(t, dump)

	backup.Ours = true
	require.ErrorContains(t, n.BaseBackup(within(t), backup), "refused")
	require.NoFileExists(t, dump)
	require.NoFileExists(t, backup.BackupDir+".copy")
}

func TestCopyKeepsTheWALOnItsOwnDisk(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	n, p := newStandby(t, primary, 2)
	n.stop(t, p, postgres.StopFast)
	place, link := filepath.Join(n.root, "wal"), filepath.Join(n.DataDir(), "pg_wal")
	require.NoError(t, os.Rename(link, place))
	require.NoError(t, os.Symlink("../wal", link))
	old := filepath.Join(place, "000000010000009900000099")
	require.NoError(t, os.WriteFile(old, nil, 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(place, "lost+found"), 0o700))

	require.NoError(t, n.BaseBackup(within(t), n.backup(primary)))
	text, err := os.Readlink(link)
	require.NoError(t, err)
	require.Equal(t, "../wal", text)
	require.NoFileExists(t, old)
	require.DirExists(t, filepath.Join(place, "lost+found"))
	entries, err := os.ReadDir(filepath.Join(n.root, "backup"))
	require.NoError(t, err)
	require.Empty(t, entries)
	n.start(t)
	require.NoError(t, n.WaitStreaming(within(t)))
	require.NotContains(t, n.log.String(), "the WAL is in the data directory now")

	// Where that cannot be, the copy is a good one all the same, and somebody is told.
	n.end(t)
	require.NoError(t, os.Chmod(place, 0o500))
	require.NoError(t, n.BaseBackup(within(t), n.backup(primary)))
	require.Contains(t, n.log.String(), "the WAL is in the data directory now")
	require.NoError(t, os.Chmod(place, 0o700))
	n.start(t)
	require.NoError(t, n.WaitStreaming(within(t)))
}

func TestRemoveFollowsLinksAndKeepsThem(t *testing.T) {
	t.Parallel()
	n := newNode(t, 1)
	at := func(elem ...string) string { return filepath.Join(append([]string{n.root}, elem...)...) }
	for _, dir := range []string{"disk", "wal", "far", "data.other"} {
		require.NoError(t, os.Mkdir(at(dir), 0o700))
	}
	require.NoError(t, os.Symlink(at("disk"), n.DataDir()))
	require.NoError(t, n.InitDB(within(t), postgres.InitDBConfig{Args: []string{"--no-sync", "--waldir", at("wal")}}))
	major, err := os.ReadFile(at("disk", "PG_VERSION"))
	require.NoError(t, err)
	own := "PG_" + strings.TrimSpace(string(major)) + "_202209061"
	for _, dir := range []string{own, "PG_9.6_201608131"} {
		require.NoError(t, os.MkdirAll(at("far", dir, "5"), 0o700))
	}
	require.NoError(t, os.Symlink(at("far"), at("disk", "pg_tblspc", "16999")))
	for _, mark := range []string{".initdb", ".rewind"} {
		require.NoError(t, os.WriteFile(n.DataDir()+mark, nil, 0o600))
	}

	require.NoError(t, n.Remove())
	for _, dir := range []string{"disk", "wal"} {
		entries, err := os.ReadDir(at(dir))
		require.NoError(t, err)
		require.Empty(t, entries, dir)
	}
	require.NoDirExists(t, at("far", own))
	require.DirExists(t, at("far", "PG_9.6_201608131"))
	entries, err := os.ReadDir(n.root)
	require.NoError(t, err)
	require.Len(t, entries, 5, "data, data.other, disk, far, wal: %v", entries)
	target, err := os.Readlink(n.DataDir())
	require.NoError(t, err)
	require.Equal(t, at("disk"), target)
	require.NoError(t, n.Remove(), "nothing is left")

	// No link: nothing stays in its place.
	require.NoError(t, os.Remove(n.DataDir()))
	require.NoError(t, os.Mkdir(n.DataDir(), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(n.DataDir(), "PG_VERSION"), major, 0o600))
	require.NoError(t, n.Remove())
	require.NoDirExists(t, n.DataDir())
	require.NoError(t, n.Remove(), "again")
}

package postgres_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// historyFiles are the numbers of the timelines that a node has history files of.
func (n *node) historyFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(n.DataDir(), "pg_wal", "*.history"))
	require.NoError(t, err)
	for i := range files {
		files[i] = strings.TrimLeft(strings.TrimSuffix(filepath.Base(files[i]), ".history"), "0")
	}
	return files
}

// sees waits until a standby has so many rows.
func (n *node) sees(t *testing.T, rows int) {
	t.Helper()
	eventually(t, func() error {
		if have := n.count(t); have != rows {
			return fmt.Errorf("%d rows", have)
		}
		return nil
	})
}

// TestPromotionLeavesNumbersOut: a promotion begins the timeline that it is
// told to, and everybody can follow: by streaming, after a rewind, as a new
// copy, and through the promotion after it.
func TestPromotionLeavesNumbersOut(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	first, p1 := newPrimary(t, 1)
	second, p2 := newStandby(t, first, 2)
	third, p3 := newStandby(t, first, 3)
	first.exec(t, `INSERT INTO t SELECT generate_series(1, 10)`)
	second.sees(t, 10)
	third.sees(t, 10)
	for _, n := range []*node{second, third} {
		_, err := n.EndReceiver(ctx)
		require.NoError(t, err)
	}
	first.exec(t, `INSERT INTO t VALUES (99)`) // nobody has it: the old primary has to be rewound
	first.stop(t, p1, postgres.StopFast)

	wrote, err := second.SkipTimelines(ctx, 1, 5)
	require.NoError(t, err)
	require.Equal(t, 3, wrote)
	wrote, err = second.SkipTimelines(ctx, 1, 5)
	require.NoError(t, err)
	require.Zero(t, wrote)
	// The server looks for timelines all the time, and takes none of these for its own.
	eventually(t, func() error {
		if !strings.Contains(second.StartupLog(), "new timeline 4 is not a child of database system timeline 1") {
			return fmt.Errorf("it has not looked yet")
		}
		return nil
	})
	_, err = second.Promote(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 5, second.observe(t).TLI)
	line, err := second.HistoryOf(5)
	require.NoError(t, err)
	require.Len(t, line, 2)
	require.EqualValues(t, 1, line[1].Parent)
	second.exec(t, `INSERT INTO t VALUES (100)`)

	second.slot(t, 1, 3, 4)
	require.NoError(t, third.Follow(ctx, postgres.StandbyOf(third.upstream(second))))
	third.sees(t, 11)
	require.Equal(t, []string{"2", "3", "4", "5"}, third.historyFiles(t))

	_, err = first.Rewind(ctx, postgres.RewindConfig{
		Source: postgres.CopyFrom(first.upstream(second)), Standby: postgres.StandbyOf(first.upstream(second)),
	})
	require.NoError(t, err)
	first.start(t)
	first.sees(t, 11)

	fourth, p4 := newStandby(t, second, 4)
	fourth.sees(t, 11)

	// The next promotion, of a node that came to the timeline by streaming; its
	// standbys are a rewound one and a copy that lacks the older files.
	second.exec(t, `INSERT INTO t VALUES (101)`)
	third.sees(t, 12)
	first.sees(t, 12)
	fourth.sees(t, 12)
	second.stop(t, p2, postgres.StopFast) // all of them have all of it
	_, err = third.Promote(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 6, third.observe(t).TLI)
	third.slot(t, 1, 4)
	for _, n := range []*node{first, fourth} {
		require.NoError(t, n.Follow(ctx, postgres.StandbyOf(n.upstream(third))))
	}
	third.exec(t, `INSERT INTO t VALUES (102)`)
	first.sees(t, 13)
	fourth.sees(t, 13)

	// Nothing of it is taken for a leftover, and a leftover does not stay.
	fourth.stop(t, p4, postgres.StopFast)
	third.stop(t, p3, postgres.StopFast)
	third.start(t)
	require.Equal(t, []string{"2", "3", "4", "5", "6"}, third.historyFiles(t))
	for tli := pg.Timeline(7); tli < 9; tli++ {
		text, err := os.ReadFile(filepath.Join(third.DataDir(), "pg_wal", pg.Timeline(2).HistoryFile()))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(fourth.DataDir(), "pg_wal", tli.HistoryFile()), text, 0o600))
	}
	fourth.start(t)
	require.NotContains(t, fourth.historyFiles(t), "7")
	third.exec(t, `INSERT INTO t VALUES (103)`)
	fourth.sees(t, 14)
}

// TestSkippedNumbersReachTheArchive: who restores from there counts as the server does.
func TestSkippedNumbersReachTheArchive(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	archive := t.TempDir()
	first, p1 := newPrimary(t, 1)
	second, p2 := newStandby(t, first, 2)
	second.stop(t, p2, postgres.StopFast)
	_, err := second.WriteSettings(append(settings(second),
		pg.Setting{Name: "archive_mode", Value: "on"},
		pg.Setting{Name: "archive_command", Value: fmt.Sprintf("test ! -f %[1]s/%%f && cp %%p %[1]s/%%f", archive)},
		pg.Setting{Name: "restore_command", Value: fmt.Sprintf("cp %s/%%f %%p", archive)}))
	require.NoError(t, err)
	used := "1\t0/9000000\tsomebody promoted another node\n"
	require.NoError(t, os.WriteFile(filepath.Join(archive, pg.Timeline(3).HistoryFile()), []byte(used), 0o600))
	second.start(t)
	require.NoError(t, second.WaitStreaming(ctx))
	first.stop(t, p1, postgres.StopFast)
	wrote, err := second.SkipTimelines(ctx, 1, 5)
	require.NoError(t, err)
	require.Equal(t, 3, wrote)
	_, err = second.Promote(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 5, second.observe(t).TLI)
	eventually(t, func() error {
		for _, tli := range []pg.Timeline{2, 4, 5} {
			if _, err := os.Stat(filepath.Join(archive, tli.HistoryFile())); err != nil {
				return err
			}
		}
		return nil
	})
	text, err := os.ReadFile(filepath.Join(archive, pg.Timeline(3).HistoryFile()))
	require.NoError(t, err)
	require.Equal(t, used, string(text))
	line, err := second.HistoryOf(5)
	require.NoError(t, err)
	require.Len(t, line, 2, "that line is not its own")
}

// TestArchiveThatRefusesALeftOutNumber: the archive has another node's file of that name, and takes no second one.
func TestArchiveThatRefusesALeftOutNumber(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	archive := filepath.Join(primary.root, "archive")
	require.NoError(t, os.Mkdir(archive, 0o755))
	primary.exec(t, `ALTER SYSTEM SET archive_mode = 'on'`)
	primary.exec(t, fmt.Sprintf(`ALTER SYSTEM SET archive_command = 'test ! -f %s/%%f && cp %%p %s/%%f'`, archive, archive))
	standby, sp := newStandby(t, primary, 2)
	standby.stop(t, sp, postgres.StopFast)
	standby.start(t)
	theirs := filepath.Join(archive, "00000002.history")
	require.NoError(t, os.WriteFile(theirs, []byte("1\t0/3000000\tno recovery target specified\n"), 0o600))
	ctx := within(t)
	_, err := standby.SkipTimelines(ctx, 1, 4)
	require.NoError(t, err)
	_, err = standby.Promote(ctx)
	require.NoError(t, err)
	standby.exec(t, `CREATE TABLE x (a int)`)

	var left postgres.LeftOut
	var given []string
	eventually(t, func() error {
		standby.exec(t, `INSERT INTO x VALUES (1); SELECT pg_switch_wal()`) // wakes the archiver as well
		return standby.With(ctx, func(s *postgres.Session) error {
			refused, err := left.Tend(ctx, standby.Instance, s)
			if given = append(given, refused...); err == nil && len(given) == 0 {
				err = fmt.Errorf("nothing is given up: %s", standby.ask(t, `SELECT row(archived_count, last_archived_wal, failed_count, last_failed_wal)::text FROM pg_stat_archiver`))
			}
			return err
		})
	})
	require.Equal(t, []string{"00000002.history"}, given)
	require.FileExists(t, filepath.Join(archive, "00000003.history"), "a number that nobody used is in the archive too")
	was := standby.ask(t, `SELECT archived_count::text FROM pg_stat_archiver`)
	eventually(t, func() error {
		standby.exec(t, `INSERT INTO x VALUES (1); SELECT pg_switch_wal()`)
		if now := standby.ask(t, `SELECT archived_count::text FROM pg_stat_archiver`); now == was {
			return fmt.Errorf("%s files are archived", now)
		}
		return nil
	})
	text, err := os.ReadFile(theirs)
	require.NoError(t, err)
	require.Contains(t, string(text), "no recovery target specified")
}

package postgres_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

func TestBaseBackupNeverBearsAStandbysName(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	n := newNode(t, 2)
	backup := n.backup(primary)
	backup.Source = postgres.StandbyOf(n.upstream(primary)).ConnInfo
	require.ErrorContains(t, n.BaseBackup(within(t), backup), "application name")
	_, err := n.Rewind(within(t), postgres.RewindConfig{Source: backup.Source})
	require.ErrorContains(t, err, "application name")

	// Its streaming child too has another name.
	backup = n.backup(primary)
	backup.MaxRate = "4M"
	primary.slot(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.BaseBackup(ctx, backup) }()
	conn := pgtest.Connect(t, primary.dsn())
	eventually(t, func() error {
		var names []string
		if err := conn.QueryRow(within(t), `SELECT coalesce(array_agg(application_name), '{}') FROM pg_stat_replication`).Scan(&names); err != nil {
			return err
		}
		if len(names) != 2 {
			return fmt.Errorf("%v", names)
		}
		require.Equal(t, []string{pg.CopyName(2), pg.CopyName(2)}, names)
		return nil
	})
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	eventually(t, func() error { return copiesLeft(filepath.Join(n.root, "backup")) })
	entries, err := os.ReadDir(filepath.Join(n.root, "backup"))
	require.NoError(t, err)
	require.Empty(t, entries)
}

func copiesLeft(dir string) error {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, p := range procs {
		cmdline, err := os.ReadFile(filepath.Join("/proc", p.Name(), "cmdline"))
		if err == nil && strings.HasPrefix(filepath.Base(string(cmdline)), "pg_basebackup") && strings.Contains(string(cmdline), dir) {
			return fmt.Errorf("process %s still copies", p.Name())
		}
	}
	return nil
}

func TestBaseBackupReportsProgressAndKeepsWhatIsOurs(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	primary.exec(t, `INSERT INTO t SELECT generate_series(1, 100000)`)
	n, p := newStandby(t, primary, 2)
	require.Equal(t, 100000, n.count(t))
	n.stop(t, p, postgres.StopFast)
	cert, err := n.EnsureCertificate("node2")
	require.NoError(t, err)
	key, err := os.ReadFile(cert.KeyFile)
	require.NoError(t, err)
	own, err := os.ReadFile(filepath.Join(n.DataDir(), "postgresql-auto-failover.conf"))
	require.NoError(t, err)
	o := n.configureByHand(t)

	var last postgres.Progress
	backup := n.backup(primary)
	backup.Progress = func(p postgres.Progress) { last = p }
	require.NoError(t, n.BaseBackup(within(t), backup))
	require.Positive(t, last.Total)
	require.GreaterOrEqual(t, last.Done, last.Total)
	again, err := os.ReadFile(cert.KeyFile)
	require.NoError(t, err)
	require.Equal(t, key, again)
	settings, err := os.ReadFile(filepath.Join(n.DataDir(), "postgresql-auto-failover.conf"))
	require.NoError(t, err)
	require.Equal(t, own, settings)
	require.True(t, n.IsStandby())
	o.requireKept(t, n)
	n.start(t)
	require.NoError(t, n.WaitStreaming(within(t)))
}

// byHand is what an operator has written into a data directory.
type byHand map[string]string

// configureByHand writes what an operator would, with less sessions than the
// other nodes have.
func (n *node) configureByHand(t *testing.T) byHand {
	t.Helper()
	path := func(name string) string { return filepath.Join(n.DataDir(), name) }
	config, err := os.ReadFile(path("postgresql.conf"))
	require.NoError(t, err)
	auto, err := os.ReadFile(path("postgresql.auto.conf"))
	require.NoError(t, err)
	o := byHand{
		"postgresql.conf":      string(config) + fmt.Sprintf("restore_command = 'false # %d'\nmax_connections = 20\ninclude_dir = 'mine.d'\n", n.id),
		"mine.d/a.conf":        "work_mem = '5MB'\n",
		"pg_ident.conf":        "mine somebody postgres\n",
		"postgresql.auto.conf": string(auto) + "archive_timeout = '1h'\n",
	}
	require.NoError(t, os.MkdirAll(path("mine.d"), 0o700))
	for name, text := range o {
		require.NoError(t, os.WriteFile(path(name), []byte(text), 0o600))
	}
	return o
}

// requireKept: all of it is there, with as many sessions as a standby has to have.
func (o byHand) requireKept(t *testing.T, n *node) {
	t.Helper()
	for name, text := range o {
		now, err := os.ReadFile(filepath.Join(n.DataDir(), name))
		require.NoError(t, err)
		if name == "postgresql.auto.conf" {
			require.Contains(t, string(now), "archive_timeout = '1h'")
			require.Contains(t, string(now), "max_connections = '100'")
			require.NotContains(t, string(now), "primary_conninfo")
			continue
		}
		require.True(t, strings.HasSuffix(string(now), text), "%s: %s", name, now) // includes of ours are put on top
	}
	files, err := filepath.Glob(filepath.Join(n.DataDir(), "mine.d", "*"))
	require.NoError(t, err)
	require.Len(t, files, 1, "what is not its own: %v", files)
}

// runCopier is a process that makes a base backup until it is killed.
func runCopier(spec string) {
	fields := strings.Split(spec, ",")
	port, _ := strconv.Atoi(fields[2])
	i := postgres.New(postgres.Config{Tools: postgres.Tools{Dir: fields[0]}, DataDir: fields[1]})
	root := filepath.Dir(fields[1])
	up := postgres.UpstreamConfig{ID: 2, Host: "127.0.0.1", Port: port, DBName: "postgres"}
	err := i.BaseBackup(context.Background(), postgres.BackupConfig{
		Source: postgres.CopyFrom(up), Slot: pg.StandbyName(2), MaxRate: "8M", BackupDir: filepath.Join(root, "backup"), Standby: postgres.StandbyOf(up),
	})
	fmt.Println("copied", err)
}

func TestBaseBackupOfAKilledKeeperIsRepeated(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	primary.slot(t, 2)
	n := newNode(t, 2)
	dir := filepath.Join(n.root, "backup")
	for range 2 {
		copier := exec.CommandContext(t.Context(), "/proc/self/exe")
		copier.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%s,%d", copierVar, n.Tools().Dir, n.DataDir(), primary.Port()))
		require.NoError(t, copier.Start())
		eventually(t, func() error {
			if _, err := os.Stat(filepath.Join(dir, "pg_wal")); err != nil {
				return err
			}
			if n := len(primary.observe(t).Standbys); n != 0 {
				return fmt.Errorf("%d standbys", n)
			}
			_, err := os.Stat(filepath.Join(dir, "base"))
			return err
		})
		require.NoError(t, copier.Process.Signal(syscall.SIGKILL))
		_ = copier.Wait()
		require.NoFileExists(t, filepath.Join(n.DataDir(), "PG_VERSION"))
	}
	// The slot is free again once the server has noticed.
	eventually(t, func() error { return n.BaseBackup(within(t), n.backup(primary)) })
	require.NoError(t, copiesLeft(dir))
	require.NoFileExists(t, dir+".copy")
	_, err := n.WriteSettings(settings(n))
	require.NoError(t, err)
	n.start(t)
	require.NoError(t, n.WaitStreaming(within(t)))
}

func TestBaseBackupOfAnotherSystemIsRefused(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	other, p := newPrimary(t, 2)
	backup := other.backup(primary)
	require.ErrorIs(t, other.BaseBackup(within(t), backup), postgres.ErrRunning)
	other.stop(t, p, postgres.StopFast)
	require.ErrorIs(t, other.BaseBackup(within(t), backup), postgres.ErrForeignSystem)
	_, err := other.Rewind(within(t), postgres.RewindConfig{Source: backup.Source})
	require.ErrorIs(t, err, postgres.ErrForeignSystem)
	require.False(t, other.IsStandby())
	other.start(t)
	require.Zero(t, other.count(t))
}

func TestBaseBackupOntoAnotherFileSystemIsRefusedBeforeItBegins(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	n := newNode(t, 2)
	backup := n.backup(primary)
	backup.BackupDir = pgtest.OtherFileSystem(t, n.root)
	err := n.BaseBackup(within(t), backup)
	require.ErrorContains(t, err, "file system")
	var hint interface{ Hint() string }
	require.ErrorAs(t, err, &hint)
	require.Contains(t, hint.Hint(), "backup_directory")
}

func TestRewindOfAServerThatStoppedInAnOrderlyWayIsConfigurationOnly(t *testing.T) {
	t.Parallel()
	primary, p := newPrimary(t, 1)
	standby, _ := newStandby(t, primary, 2)
	primary.exec(t, `INSERT INTO t VALUES (1)`)
	primary.stop(t, p, postgres.StopFast)
	at, clean, err := primary.ShutdownLocation(within(t))
	require.NoError(t, err)
	require.True(t, clean)
	require.Greater(t, standby.observe(t).LSN, at, "the standby has the shutdown record")
	standby.promote(t)
	standby.exec(t, `INSERT INTO t VALUES (2)`)
	rejoin(t, primary, standby)
	require.NotContains(t, primary.log.String(), "program=pg_rewind")
	require.Contains(t, primary.log.String(), "lineage=follows")
}

// rejoin makes the stopped server n a standby of other by rewind.
func rejoin(t *testing.T, n, other *node) {
	t.Helper()
	other.slot(t, n.id)
	up := postgres.StandbyOf(n.upstream(other))
	proved, err := n.Rewind(within(t), postgres.RewindConfig{Source: postgres.CopyFrom(n.upstream(other)), Standby: up})
	require.NoError(t, err)
	require.False(t, n.RewindInterrupted())
	p := n.start(t)
	if !proved {
		_, err := n.EndReceiver(within(t))
		require.NoError(t, err)
		require.NoError(t, n.Follow(within(t), up))
	}
	require.NoError(t, n.WaitStreaming(within(t)))
	want := other.count(t)
	eventually(t, func() error {
		if have := n.count(t); have != want {
			return fmt.Errorf("%d of %d rows", have, want)
		}
		return nil
	})
	p.Release()
}

func TestRewindOfAKilledPrimary(t *testing.T) {
	t.Parallel()
	primary, p := newPrimary(t, 1)
	standby, _ := newStandby(t, primary, 2)
	_, err := standby.EndReceiver(within(t))
	require.NoError(t, err)
	primary.exec(t, `INSERT INTO t SELECT generate_series(1, 1000)`)
	primary.stop(t, p, postgres.StopImmediate)
	// No checkpoint after the promotion: the rewind asks for one itself.
	standby.promote(t)
	standby.exec(t, `INSERT INTO t VALUES (-1)`)
	require.NoError(t, os.Mkdir(filepath.Join(standby.DataDir(), "mine.d"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(standby.DataDir(), "mine.d", "theirs.conf"), []byte("work_mem = '6MB'\n"), 0o600))
	o := primary.configureByHand(t)
	rejoin(t, primary, standby)
	o.requireKept(t, primary)
	require.Equal(t, "true", primary.ask(t, `SELECT (current_setting('restore_command') LIKE 'false # %' AND current_setting('work_mem') = '5MB')::text`))
	require.Equal(t, 1, primary.count(t), "what the other line does not have is gone")
	require.Contains(t, primary.log.String(), "program=pg_rewind")

	// And the other way round, with a standby that was killed.
	st, err := primary.Adopt()
	require.NoError(t, err)
	primary.stop(t, st, postgres.StopImmediate)
	st.Release()
	require.NoError(t, primary.RecoverCrash(within(t)))
	control, err := primary.ControlData(within(t))
	require.NoError(t, err)
	require.Equal(t, "shut down in recovery", control.State)
	rejoin(t, primary, standby)
}

func TestSameTimelineNumberOnTwoLinesIsNotRewound(t *testing.T) {
	t.Parallel()
	primary, p := newPrimary(t, 1)
	second, p2 := newStandby(t, primary, 2)
	third, _ := newStandby(t, primary, 3)
	_, err := second.EndReceiver(within(t))
	require.NoError(t, err)
	primary.exec(t, `INSERT INTO t VALUES (1)`)
	p.Release()
	eventually(t, func() error {
		if n := third.count(t); n != 1 {
			return fmt.Errorf("%d rows", n)
		}
		return nil
	})
	primary.end(t)
	second.promote(t)
	third.promote(t)
	require.Equal(t, second.observe(t).TLI, third.observe(t).TLI)
	second.stop(t, p2, postgres.StopFast)
	_, err = second.Rewind(within(t), postgres.RewindConfig{
		Source: postgres.CopyFrom(second.upstream(third)), Standby: postgres.StandbyOf(second.upstream(third)),
	})
	require.ErrorIs(t, err, postgres.ErrCannotRewind)
	require.False(t, second.IsStandby())
	third.slot(t, 2)
	require.NoError(t, second.BaseBackup(within(t), second.backup(third)))
	second.start(t)
	require.NoError(t, second.WaitStreaming(within(t)))
	require.Equal(t, 1, second.count(t))
}

func TestTwoTimelinesThatBeganAtOnePlaceAreToldApart(t *testing.T) {
	t.Parallel()
	primary, p := newPrimary(t, 1)
	second, p2 := newStandby(t, primary, 2)
	third, _ := newStandby(t, primary, 3)
	primary.stop(t, p, postgres.StopFast)
	for _, n := range []*node{second, third} {
		_, err := n.EndReceiver(within(t))
		require.NoError(t, err)
		n.promote(t)
	}
	ours, err := second.HistoryOf(2)
	require.NoError(t, err)
	theirs, err := postgres.Identify(within(t), postgres.CopyFrom(second.upstream(third)))
	require.NoError(t, err)
	require.Equal(t, ours, theirs.History, "nothing in the histories shows it")
	same, err := second.SameLine(within(t), postgres.CopyFrom(second.upstream(third)), ours, theirs.History)
	require.NoError(t, err)
	require.False(t, same)
	same, err = second.SameLine(within(t), postgres.CopyFrom(second.upstream(second)), ours, theirs.History)
	require.NoError(t, err)
	require.True(t, same)
	second.stop(t, p2, postgres.StopFast)
	rewind := postgres.RewindConfig{Source: postgres.CopyFrom(second.upstream(third)), Standby: postgres.StandbyOf(second.upstream(third))}
	_, err = second.Rewind(within(t), rewind)
	require.ErrorIs(t, err, postgres.ErrCannotRewind)

	// The old primary is behind both and may follow either.
	rejoin(t, primary, third)
	line, err := primary.HistoryOf(2)
	require.NoError(t, err)
	same, err = primary.SameLine(within(t), rewind.Source, line, theirs.History)
	require.NoError(t, err)
	require.True(t, same)
}

func TestFullDiskDuringBaseBackupLeavesEverythingAsItWas(t *testing.T) {
	t.Parallel()
	small := pgtest.SmallDisk(t)
	primary, _ := newPrimary(t, 1)
	n, p := newStandbyIn(t, primary, 2, small)
	n.stop(t, p, postgres.StopFast)
	before, err := os.ReadFile(filepath.Join(n.DataDir(), "postgresql-auto-failover-standby.conf"))
	require.NoError(t, err)
	primary.exec(t, `INSERT INTO t SELECT generate_series(1, 1500000)`)
	err = n.BaseBackup(within(t), n.backup(primary))
	require.ErrorContains(t, err, "No space left on device")
	var hint interface{ Hint() string }
	require.ErrorAs(t, err, &hint)
	require.Contains(t, hint.Hint(), "space")
	entries, err := os.ReadDir(filepath.Join(n.root, "backup"))
	require.NoError(t, err)
	require.Empty(t, entries)
	after, err := os.ReadFile(filepath.Join(n.DataDir(), "postgresql-auto-failover-standby.conf"))
	require.NoError(t, err)
	require.Equal(t, before, after)
	control, err := n.ControlData(within(t))
	require.NoError(t, err)
	require.Equal(t, "shut down in recovery", control.State)
}

func TestInterruptedRewindIsNeverStarted(t *testing.T) {
	t.Parallel()
	primary, p := newPrimary(t, 1)
	standby, _ := newStandby(t, primary, 2)
	primary.stop(t, p, postgres.StopFast)
	standby.promote(t)
	require.NoError(t, os.WriteFile(primary.DataDir()+".rewind", nil, 0o600))
	_, err := primary.Start(within(t), postgres.StartConfig{})
	require.ErrorIs(t, err, postgres.ErrCannotRewind)
	_, err = primary.Rewind(within(t), postgres.RewindConfig{})
	require.ErrorIs(t, err, postgres.ErrCannotRewind)
	standby.slot(t, 1)
	require.NoError(t, primary.BaseBackup(within(t), primary.backup(standby)))
	require.False(t, primary.RewindInterrupted())
	primary.start(t)
}

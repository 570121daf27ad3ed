package postgres_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// starterVar makes the test binary a process that starts a server and waits to be killed.
const starterVar = "PGDROVER_TEST_STARTER"

func runStarter(spec string) {
	fields := strings.Split(spec, ",")
	port, _ := strconv.Atoi(fields[2])
	i := postgres.New(postgres.Config{
		Tools: postgres.Tools{Dir: fields[0]}, DataDir: fields[1], Port: port, ListenAddresses: "127.0.0.1",
		SocketDir: filepath.Dir(fields[1]), Logger: slog.New(slog.DiscardHandler),
	})
	ctx := context.Background()
	p, err := i.Start(ctx, postgres.StartConfig{})
	if err == nil {
		_, err = p.WaitReady(ctx)
	}
	fmt.Println("started", err)
	select {}
}

// initVar makes the test binary a process that creates a data directory.
const initVar = "PGDROVER_TEST_INIT"

func runInit(spec string) {
	fields := strings.Split(spec, ",")
	i := postgres.New(postgres.Config{Tools: postgres.Tools{Dir: fields[0]}, DataDir: fields[1]})
	fmt.Println("created", i.InitDB(context.Background(), postgres.InitDBConfig{Args: []string{"--no-sync"}}))
}

// killAt runs the test binary as the process that variable names and kills it as soon as the moment has come.
func killAt(t *testing.T, n *node, variable string, moment func() error) {
	t.Helper()
	process := exec.CommandContext(t.Context(), "/proc/self/exe")
	process.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%s,%d", variable, n.Tools().Dir, n.DataDir(), n.Port()))
	require.NoError(t, process.Start())
	eventually(t, moment)
	require.NoError(t, process.Process.Kill())
	_ = process.Wait()
}

func TestServerStartsOnceAndStopsWhole(t *testing.T) {
	t.Parallel()
	n, p := newPrimary(t, 1)
	st, err := n.Status()
	require.NoError(t, err)
	require.Equal(t, "ready", st.State)
	require.Equal(t, p.PID(), st.PID)
	require.Equal(t, n.Port(), st.Port)
	require.Equal(t, n.root, st.SocketDir)

	again, err := n.Start(within(t), postgres.StartConfig{})
	require.NoError(t, err)
	defer again.Release()
	require.True(t, again.Adopted())
	require.Equal(t, p.PID(), again.PID())
	require.ErrorIs(t, n.Remove(), postgres.ErrRunning)

	n.stop(t, p, postgres.StopFast)
	waitExit(t, again)
	st, err = n.Status()
	require.NoError(t, err)
	require.False(t, st.Running)
	at, clean, err := n.ShutdownLocation(within(t))
	require.NoError(t, err)
	require.True(t, clean)
	require.NotZero(t, at)
	_, err = n.Adopt()
	require.ErrorIs(t, err, postgres.ErrNotRunning)
}

func TestKilledPostmasterIsKnownAtOnceAndItsChildrenAreNotLeft(t *testing.T) {
	t.Parallel()
	n, p := newPrimary(t, 1)
	busy := pgtest.Connect(t, n.dsn())
	done := make(chan error, 1)
	go func() {
		// A backend that computes does not look whether its postmaster lives.
		_, err := busy.Exec(context.Background(), `DO $$ BEGIN LOOP END LOOP; END $$`)
		done <- err
	}()
	eventually(t, func() error {
		var active int
		if err := pgtest.Connect(t, n.dsn()).QueryRow(within(t), `SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'DO%'`).Scan(&active); err != nil {
			return err
		}
		if active != 1 {
			return fmt.Errorf("%d busy sessions", active)
		}
		return nil
	})
	require.NoError(t, syscall.Kill(p.PID(), syscall.SIGKILL))
	waitExit(t, p)
	require.Contains(t, p.ExitText(), "killed")
	orphans, err := n.Orphans()
	require.NoError(t, err)
	require.NotEmpty(t, orphans)
	require.ErrorIs(t, n.BaseBackup(within(t), postgres.BackupConfig{BackupDir: filepath.Join(n.root, "backup")}), postgres.ErrRunning)

	next := n.start(t)
	require.False(t, next.Adopted())
	require.Error(t, <-done)
	require.Zero(t, n.count(t))
}

func TestServerOutlivesItsStarterAndIsAdopted(t *testing.T) {
	t.Parallel()
	n, p := newPrimary(t, 1)
	n.stop(t, p, postgres.StopFast)

	starter := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^$")
	starter.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%s,%d", starterVar, n.Tools().Dir, n.DataDir(), n.Port()))
	out, err := starter.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, starter.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "started <nil>\n", line)
	conn := pgtest.Connect(t, n.dsn())
	require.NoError(t, starter.Process.Kill())
	_ = starter.Wait()
	require.NoError(t, conn.Ping(within(t)), "a session of before goes on")

	adopted, err := n.Adopt()
	require.NoError(t, err)
	defer adopted.Release()
	require.True(t, adopted.Adopted())
	standby, err := adopted.WaitReady(within(t))
	require.NoError(t, err)
	require.False(t, standby)
	require.NoError(t, syscall.Kill(adopted.PID(), syscall.SIGKILL))
	waitExit(t, adopted)
	require.NoError(t, adopted.Wait(within(t)))
}

func TestPidFileThatNamesAStrangerIsNoServer(t *testing.T) {
	t.Parallel()
	n, p := newPrimary(t, 1)
	pidFile := filepath.Join(n.DataDir(), "postmaster.pid")
	before, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	n.stop(t, p, postgres.StopImmediate)
	require.NoError(t, os.WriteFile(pidFile, []byte(strings.Replace(string(before), strconv.Itoa(p.PID()), strconv.Itoa(os.Getpid()), 1)), 0o600))
	_, err = n.Adopt()
	require.ErrorIs(t, err, postgres.ErrNotRunning)
	n.start(t)
}

func TestDeadServerThatNobodyReapedDoesNotKeepTheNextOneFromStarting(t *testing.T) {
	t.Parallel()
	n, p := newPrimary(t, 1)
	files := []string{filepath.Join(n.DataDir(), "postmaster.pid"), filepath.Join(n.root, fmt.Sprintf(".s.PGSQL.%d.lock", n.Port()))}
	before := make([]string, len(files))
	for i, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		before[i] = string(text)
	}
	n.stop(t, p, postgres.StopFast)
	zombie := exec.CommandContext(t.Context(), "sleep", "3600")
	require.NoError(t, zombie.Start())
	defer func() { _ = zombie.Wait() }()
	require.NoError(t, zombie.Process.Kill())
	for i, file := range files {
		require.NoError(t, os.WriteFile(file, []byte(strings.Replace(before[i], strconv.Itoa(p.PID()), strconv.Itoa(zombie.Process.Pid), 1)), 0o600))
	}
	n.start(t)

	// The socket of another server is another server's.
	other, p := newPrimary(t, 2)
	other.stop(t, p, postgres.StopFast)
	foreign := postgres.New(postgres.Config{
		Tools: n.Tools(), DataDir: other.DataDir(), Port: n.Port(), ListenAddresses: "127.0.0.2", SocketDir: n.root,
	})
	p, err := foreign.Start(within(t), postgres.StartConfig{})
	require.NoError(t, err)
	defer p.Release()
	_, err = p.WaitReady(within(t))
	require.ErrorIs(t, err, postgres.ErrExited)
	require.ErrorContains(t, err, "lock file")
	require.Zero(t, n.count(t))
}

func TestServerWhoseFileDoesNotFitIsNotTouched(t *testing.T) {
	t.Parallel()
	n, p := newPrimary(t, 1)
	pidFile := filepath.Join(n.DataDir(), "postmaster.pid")
	before, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	lines := strings.Split(string(before), "\n")
	lines[2] = "1000000000"
	require.NoError(t, os.WriteFile(pidFile, []byte(strings.Join(lines, "\n")), 0o600))
	st, err := n.Status()
	require.NoError(t, err, "the shared memory segment proves it when the clock was set")
	require.True(t, st.Running)
	lines[6] = "  1 1"
	require.NoError(t, os.WriteFile(pidFile, []byte(strings.Join(lines, "\n")), 0o600))
	_, err = n.Adopt()
	require.ErrorIs(t, err, postgres.ErrForeignServer)
	_, err = n.Start(within(t), postgres.StartConfig{})
	require.ErrorIs(t, err, postgres.ErrForeignServer)
	require.NoError(t, os.WriteFile(pidFile, before, 0o600))
	n.stop(t, p, postgres.StopFast)
}

func TestServerThatCannotStartSaysWhy(t *testing.T) {
	t.Parallel()
	n, p := newPrimary(t, 1)
	n.stop(t, p, postgres.StopFast)
	p, err := n.Start(within(t), postgres.StartConfig{Options: []string{"-c", "shared_preload_libraries=no_such_library"}})
	require.NoError(t, err)
	defer p.Release()
	_, err = p.WaitReady(within(t))
	require.ErrorIs(t, err, postgres.ErrExited)
	require.ErrorContains(t, err, "no_such_library")
	require.NoError(t, p.Wait(within(t)))
}

func TestServerWithALogOfItsOwnSaysWhyToo(t *testing.T) {
	t.Parallel()
	n, p := newPrimary(t, 1)
	n.stop(t, p, postgres.StopFast)
	p, err := n.Start(within(t), postgres.StartConfig{Options: []string{"-c", "logging_collector=on", "-c", "hba_file=/nowhere"}})
	require.NoError(t, err)
	defer p.Release()
	_, err = p.WaitReady(within(t))
	require.ErrorIs(t, err, postgres.ErrExited)
	require.ErrorContains(t, err, "/nowhere")
	require.NoError(t, p.Wait(within(t)))
}

func TestStoppedProcessesDoNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	n, p := newPrimary(t, 1)
	children, err := exec.CommandContext(t.Context(), "pgrep", "-P", strconv.Itoa(p.PID())).Output()
	require.NoError(t, err)
	for _, pid := range append(strings.Fields(string(children)), strconv.Itoa(p.PID())) {
		number, err := strconv.Atoi(pid)
		require.NoError(t, err)
		_ = syscall.Kill(number, syscall.SIGSTOP)
	}
	n.stop(t, p, postgres.StopImmediate)
}

func TestInterruptedInitDBIsRepeated(t *testing.T) {
	t.Parallel()
	n := newNode(t, 1)
	require.NoError(t, os.MkdirAll(filepath.Join(n.DataDir(), "global"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(n.DataDir(), "global", "pg_control"), nil, 0o600))
	require.NoError(t, os.WriteFile(n.DataDir()+".initdb", nil, 0o600))
	require.NoError(t, n.InitDB(within(t), postgres.InitDBConfig{Args: []string{"--no-sync"}}))
	_, err := n.ControlData(within(t))
	require.NoError(t, err)
	require.NoFileExists(t, n.DataDir()+".initdb")
	require.NoError(t, n.InitDB(within(t), postgres.InitDBConfig{}), "what is there stays")

	// For real: a process killed at three moments.
	third := newNode(t, 3)
	for _, file := range []string{"PG_VERSION", "global/pg_control", "base/1/PG_VERSION"} {
		killAt(t, third, initVar, func() error {
			_, err := os.Stat(filepath.Join(third.DataDir(), file))
			return err
		})
	}
	require.NoError(t, third.InitDB(within(t), postgres.InitDBConfig{Args: []string{"--no-sync"}}))
	third.start(t)

	other := newNode(t, 2)
	require.NoError(t, os.MkdirAll(other.DataDir(), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(other.DataDir(), "precious"), nil, 0o600))
	require.ErrorContains(t, other.InitDB(within(t), postgres.InitDBConfig{}), "not empty")
	require.FileExists(t, filepath.Join(other.DataDir(), "precious"))
}

// The mark of an interrupted initdb outlives what it was made for: an operator
// empties the directory and brings his own data.
func TestForgottenMarkOfInitDBCostsNoData(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"postmaster.opts", "backup_label", "backup_manifest", "holiday.jpg"} {
		n := newNode(t, 1)
		require.NoError(t, os.MkdirAll(filepath.Join(n.DataDir(), "global"), 0o700))
		for _, name := range []string{"PG_VERSION", "global/pg_control", file} {
			require.NoError(t, os.WriteFile(filepath.Join(n.DataDir(), name), nil, 0o600))
		}
		require.NoError(t, os.WriteFile(n.DataDir()+".initdb", nil, 0o600))
		require.False(t, n.InitInterrupted())
		err := n.InitDB(within(t), postgres.InitDBConfig{})
		require.ErrorContains(t, err, file)
		var hint interface{ Hint() string }
		require.ErrorAs(t, err, &hint)
		require.Contains(t, hint.Hint(), n.DataDir()+".initdb")
		require.FileExists(t, filepath.Join(n.DataDir(), file))

		require.NoError(t, n.ForgetInit())
		require.NoError(t, n.InitDB(within(t), postgres.InitDBConfig{}), "what is there stays")
		require.FileExists(t, filepath.Join(n.DataDir(), file))
	}
}

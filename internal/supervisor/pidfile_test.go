package supervisor

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPidFileExcludesASecondOwnerAndGoesWithTheFirst(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "dir", "pg_autoctl.pid")
	_, err := ReadPidFile(path)
	require.ErrorIs(t, err, ErrNotRunning)

	p, err := AcquirePidFile(path, PidInfo{DataDir: "/data", Version: "2.2", ExtensionVersion: "2.2"})
	require.NoError(t, err)
	require.NoError(t, p.SetServices("postgres", "node-active"))
	pid := strconv.Itoa(os.Getpid())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, pid+"\n/data\n2.2\n2.2\n0\n"+pid+" postgres\n"+pid+" node-active\n", string(text))

	info, err := ReadPidFile(path)
	require.NoError(t, err)
	require.Equal(t, os.Getpid(), info.PID)
	require.Equal(t, []ServicePID{{os.Getpid(), "postgres"}, {os.Getpid(), "node-active"}}, info.Services)

	_, err = AcquirePidFile(path, PidInfo{})
	var running *AlreadyRunningError
	require.ErrorAs(t, err, &running)
	require.Equal(t, os.Getpid(), running.PID)
	require.Contains(t, running.Hint(), "stop")

	require.NoError(t, p.Check())
	require.NoError(t, p.Release())
	require.NoFileExists(t, path)
	require.Error(t, p.Check())
	again, err := AcquirePidFile(path, PidInfo{})
	require.NoError(t, err)
	require.NoError(t, again.Release())
}

func TestPidFileOfADeadProcessIsRemovedByAReader(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pg_autoctl.pid")
	// A live process of another kind that happens to have the number.
	require.NoError(t, os.WriteFile(path, []byte("1\n/data\n"), 0o600))
	_, err := ReadPidFile(path)
	require.ErrorIs(t, err, ErrNotRunning)
	require.NoFileExists(t, path)
}

func TestLockIsNotInheritedByPrograms(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pg_autoctl.pid")
	p, err := AcquirePidFile(path, PidInfo{})
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), "sleep", "3600")
	require.NoError(t, child.Start())
	defer func() { _ = child.Wait() }()
	defer func() { _ = child.Process.Kill() }()
	require.NoError(t, p.Release())
	again, err := AcquirePidFile(path, PidInfo{})
	require.NoError(t, err)
	require.NoError(t, again.Release())
}

func TestRemovedPidFileIsNoticed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pg_autoctl.pid")
	p, err := AcquirePidFile(path, PidInfo{})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte("1\n"), 0o600))
	require.ErrorContains(t, p.Check(), "process 1")
	require.NoError(t, p.Release())
	require.FileExists(t, path, "it is somebody else's")
}

func FuzzParsePidInfo(f *testing.F) {
	f.Add("1\n/data\n2.2\n2.2\n0\n2 postgres\n")
	f.Fuzz(func(t *testing.T, text string) {
		info, err := ParsePidInfo(text)
		if err != nil {
			return
		}
		again, err := ParsePidInfo(info.text())
		require.NoError(t, err)
		require.Equal(t, info.PID, again.PID)
		require.Len(t, again.Services, len(info.Services))
	})
}

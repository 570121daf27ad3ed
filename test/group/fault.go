package group

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// postmaster reads the pid of the member's server and proves that it is that
// server and not another process that was given the same number.
func (m *Member) postmaster() (int, error) {
	text, err := os.ReadFile(filepath.Join(m.Dir, "postmaster.pid"))
	if err != nil {
		return 0, fmt.Errorf("find server of %s: %w", m.Name, err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return 0, fmt.Errorf("find server of %s: %w", m.Name, err)
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil {
		return 0, fmt.Errorf("find server of %s: %w", m.Name, err)
	}
	dir, err := filepath.EvalSymlinks(m.Dir)
	if err != nil {
		return 0, fmt.Errorf("find server of %s: %w", m.Name, err)
	}
	if cwd != dir {
		return 0, fmt.Errorf("find server of %s: process %d belongs to %s", m.Name, pid, cwd)
	}
	return pid, nil
}

// Postmaster is the pid of the member's server.
func (m *Member) Postmaster(t testing.TB) int {
	t.Helper()
	pid, err := m.postmaster()
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// KillPostmaster ends the postmaster without warning; its children notice. When it
// returns the postmaster answers nobody any more.
func (m *Member) KillPostmaster(t testing.TB) {
	t.Helper()
	pid := m.Postmaster(t)
	m.signal(t, syscall.SIGKILL, pid)
	pgtest.Eventually(t, Patience, func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH):
			return nil
		case err != nil:
			return err
		}
		// The state follows the name, which stands in parentheses.
		if _, rest, ok := strings.Cut(string(stat), ") "); ok && strings.HasPrefix(rest, "Z") {
			return nil
		}
		return fmt.Errorf("postmaster %d of %s is still ending", pid, m.Name)
	})
}

// KillKeeper ends the member's process of the program without warning.
func (m *Member) KillKeeper(t testing.TB) {
	t.Helper()
	m.signal(t, syscall.SIGKILL, m.proc.Pid)
	m.proc.Wait(t, Patience)
}

// KillBoth ends the postmaster and the member's process without warning.
func (m *Member) KillBoth(t testing.TB) {
	t.Helper()
	postmaster := m.Postmaster(t)
	if m.Program != "" {
		m.killPrograms()
		m.signal(t, syscall.SIGKILL, postmaster)
		return
	}
	// In this order, or the process would start the server again.
	m.signal(t, syscall.SIGKILL, m.proc.Pid, postmaster)
	m.proc.Wait(t, Patience)
}

// StopKeeper stops the member's process by SIGSTOP; its server goes on.
func (m *Member) StopKeeper(t testing.TB) (resume func()) {
	t.Helper()
	return m.suspend(t, m.proc.Pid)
}

// StopBoth stops the member's process and its postmaster by SIGSTOP. The
// server's other processes go on: sessions that are open still work.
func (m *Member) StopBoth(t testing.TB) (resume func()) {
	t.Helper()
	return m.suspend(t, m.proc.Pid, m.Postmaster(t))
}

// StartServer starts the member's server without its process, as a distribution's
// own unit does at boot.
func (m *Member) StartServer(t testing.TB) {
	t.Helper()
	res := pgtest.Run(t, Patience, pgtest.Command{
		Path: filepath.Join(m.group.cfg.Bin, "pg_ctl"), Dir: m.group.root, Host: m.Host, Args: []string{
			"start", "--silent", "--wait", "--pgdata", m.Dir, "--log", filepath.Join(m.group.root, m.Name+".pg_ctl.log"),
			"--options", fmt.Sprintf("-p %d -k %s", m.Port, m.group.root),
		},
	})
	if res.Code != 0 {
		t.Fatalf("start server of %s: exit code %d\n%s%s", m.Name, res.Code, res.Stdout, res.Stderr)
	}
}

// Freeze stops the member's process and its whole server by SIGSTOP, as a host
// does that hangs.
func (m *Member) Freeze(t testing.TB) (resume func()) {
	t.Helper()
	postmaster := m.Postmaster(t)
	m.signal(t, syscall.SIGSTOP, m.proc.Pid, postmaster) // no new children from here on
	return m.suspend(t, append([]int{m.proc.Pid, postmaster}, pgtest.ChildrenOf(postmaster)...)...)
}

func (m *Member) suspend(t testing.TB, pids ...int) (resume func()) {
	t.Helper()
	m.signal(t, syscall.SIGSTOP, pids...)
	return func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
}

// Stop ends the member's process as an operator does, and waits for it.
func (m *Member) Stop(t testing.TB) {
	t.Helper()
	m.waitPidFile(t) // one that has only just been started cannot be told anything
	m.group.Must(t, "stop", "--pgdata", m.Dir)
	if code := m.proc.Wait(t, Patience); code != 0 {
		t.Fatalf("the process of %s was asked to stop and ended with code %d\n%s", m.Name, code, m.proc.Tail(30))
	}
}

// waitPidFile waits until the member's process has written its pid file.
func (m *Member) waitPidFile(t testing.TB) {
	t.Helper()
	path := filepath.Join(m.group.root, "run", "pg_autoctl", m.Dir, "pg_autoctl.pid")
	pgtest.Eventually(t, Patience, func() error {
		text, err := os.ReadFile(path)
		if err != nil {
			return errors.Join(err, m.Alive())
		}
		if first, _, _ := strings.Cut(string(text), "\n"); first != strconv.Itoa(m.proc.Pid) {
			return fmt.Errorf("the pid file of %s names process %s, not %d", m.Name, first, m.proc.Pid)
		}
		return nil
	})
}

func (m *Member) signal(t testing.TB, s syscall.Signal, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatalf("send %s to process %d of %s: %v", s, pid, m.Name, err)
		}
	}
}

// killServer ends what is left of the member's server when the test is over.
func (m *Member) killServer() {
	pid, err := m.postmaster()
	if err != nil {
		return
	}
	children := pgtest.ChildrenOf(pid)
	for _, p := range append([]int{pid}, children...) {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
	_ = pgtest.WaitFor(10*time.Second, func() error {
		for _, p := range append([]int{pid}, children...) {
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", p)); err == nil {
				return fmt.Errorf("process %d is left", p)
			}
		}
		return nil
	})
}

// Switchover asks for one by the command line and waits until it is done.
func (g *Group) Switchover(t testing.TB) {
	t.Helper()
	g.Must(t, "perform", "switchover", "--pgdata", g.Monitor.Dir)
}

// SyncNames is what the member's server has as synchronous_standby_names.
func (m *Member) SyncNames(t testing.TB) string {
	t.Helper()
	return m.Ask(t, "SHOW synchronous_standby_names")
}

// refuseEverybody is a pg_hba.conf under which nobody gets in.
const refuseEverybody = "local all,replication all reject\nhost all,replication all all reject\n"

// Refuse makes the member's server answer every new connection with an error,
// and ends the sessions of all its clients; what streams goes on streaming. The
// function that it returns lets everybody in again.
func (m *Member) Refuse(t testing.TB) (admit func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	conn := m.superuser(ctx, t)
	defer conn.Close(ctx)
	path := filepath.Join(m.Dir, "pg_hba.conf")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// In place: the file belongs to the user who runs the server.
	if err := os.WriteFile(path, []byte(refuseEverybody), 0o600); err != nil {
		t.Fatal(err)
	}
	m.signal(t, syscall.SIGHUP, m.Postmaster(t))
	pgtest.Eventually(t, Patience, func() error {
		another, err := m.Connect(ctx, pgtest.Superuser, "postgres")
		if err != nil {
			return nil //nolint:nilerr // as it should be
		}
		return errors.Join(fmt.Errorf("%s still lets clients in", m.Name), another.Close(ctx))
	})
	_, err = conn.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
	if err != nil {
		t.Fatalf("end the sessions of %s: %v", m.Name, err)
	}
	return func() {
		if err := os.WriteFile(path, before, 0o600); err != nil {
			t.Fatal(err)
		}
		if pid, err := m.postmaster(); err == nil { // otherwise it will read the file as it starts
			m.signal(t, syscall.SIGHUP, pid)
		}
	}
}

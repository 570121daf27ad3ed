package group

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// Peer is the program of Debian's pg_auto_failover, release 2.0, made to run
// among the members of a group. Where it is not installed and we are root it is
// installed; otherwise the test is skipped.
func Peer(t testing.TB) string {
	t.Helper()
	path, err := peer()
	if err != nil {
		t.Skipf("no pg_auto_failover to try this with: %v", err)
	}
	return plain(t, path)
}

// Plain is the program that was built from this tree, to be used with a Peer:
// both have their servers put sockets where the servers do by themselves.
func Plain(t testing.TB) string {
	t.Helper()
	return plain(t, Program(t))
}

// plain wraps a program: the harness has servers put their sockets into a
// directory of the test, by a variable that a Peer only half respects.
func plain(t testing.TB, path string) string {
	t.Helper()
	script := filepath.Join(pgtest.Dir(t), filepath.Base(path))
	text := "#!/bin/sh\nunset PG_REGRESS_SOCK_DIR\nexec " + path + " \"$@\"\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return script
}

// peer looks, and installs, once.
var peer = sync.OnceValues(findPeer)

func aptGet(args ...string) ([]byte, error) {
	cmd := exec.Command("apt-get", append([]string{"-o", "DPkg::Lock::Timeout=120"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	return cmd.CombinedOutput()
}

func findPeer() (string, error) {
	const path, extension = "/usr/bin/pg_autoctl", "/usr/share/postgresql/15/extension/pgautofailover.control"
	packages := []string{"pg-auto-failover-cli", "postgresql-15-auto-failover"}
	there := func() bool {
		_, errProgram := os.Stat(path)
		_, errExtension := os.Stat(extension)
		return errProgram == nil && errExtension == nil
	}
	if there() {
		return path, nil
	}
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("it is not installed, and only root can do that: apt-get install %s", strings.Join(packages, " "))
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", errors.New("it is not installed, and this machine has no apt-get")
	}
	if out, err := aptGet(append([]string{"install", "-qy", "--no-install-recommends"}, packages...)...); err != nil {
		// A new machine knows no packages yet.
		if _, err := aptGet("update", "-q"); err != nil {
			return "", fmt.Errorf("install it: %w: %s", err, out)
		}
		if out, err := aptGet(append([]string{"install", "-qy", "--no-install-recommends"}, packages...)...); err != nil {
			return "", fmt.Errorf("install it: %w: %s", err, out)
		}
	}
	if !there() {
		return "", fmt.Errorf("its packages do not bring %s and %s", path, extension)
	}
	return path, nil
}

// programs are the member's process and all that it started, without its server.
func (m *Member) programs() []int {
	all := []int{m.proc.Pid}
	for i := 0; i < len(all); i++ {
		for _, pid := range pgtest.ChildrenOf(all[i]) {
			name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			if err == nil && strings.TrimSpace(string(name)) != "postgres" {
				all = append(all, pid)
			}
		}
	}
	return all
}

// killPrograms ends the member's process and all that it started but its server.
func (m *Member) killPrograms() {
	if m.Alive() != nil {
		return
	}
	_ = syscall.Kill(m.proc.Pid, syscall.SIGSTOP) // it starts no more
	for _, pid := range m.programs() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-m.proc.Done()
}

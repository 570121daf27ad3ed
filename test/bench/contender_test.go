package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// contender is a program that takes pg_autoctl's commands.
type contender struct {
	name string
	// program is its path; empty means the one that was built from this tree.
	program string
}

const (
	ours   = "pgdrover"
	theirs = "pg_auto_failover"
)

// programVar is where the test harness looks for the program under test.
const programVar = "PGDROVER_TEST_PROGRAM"

// use makes the harness run this program until the benchmark ends.
func (c contender) use(b *testing.B) {
	b.Helper()
	if c.program == "" {
		return
	}
	// The harness has the servers put their sockets into a directory of the
	// test, by a variable that this program only half respects.
	script := filepath.Join(pgtest.Dir(b), "pg_autoctl")
	text := "#!/bin/sh\nunset PG_REGRESS_SOCK_DIR\nexec " + c.program + " \"$@\"\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		b.Fatal(err)
	}
	b.Setenv(programVar, script)
}

// tidy ends all processes of a group's programs before the harness ends the
// ones that it knows: theirs has several for each member.
func tidy(b *testing.B, g *group.Group) {
	b.Helper()
	b.Cleanup(func() {
		for _, m := range append([]*group.Member{g.Monitor}, g.Nodes...) {
			if m.Alive() == nil {
				signal(b, syscall.SIGKILL, held(b, m)...)
				<-m.Process().Done()
			}
		}
	})
}

// contenders are pgdrover and, where it is installed or can be, Debian's
// pg_auto_failover.
func contenders(b *testing.B) []contender {
	b.Helper()
	all := []contender{{name: ours}}
	path, err := peer()
	if err != nil {
		b.Logf("measuring without %s: %v", theirs, err)
		return all
	}
	return append(all, contender{name: theirs, program: path})
}

// peer finds pg_autoctl and its extension, and installs Debian's packages when
// this is a Debian-like machine and we are root.
func peer() (string, error) {
	const path, extension = "/usr/bin/pg_autoctl", "/usr/share/postgresql/15/extension/pgautofailover.control"
	there := func() bool {
		_, errProgram := os.Stat(path)
		_, errExtension := os.Stat(extension)
		return errProgram == nil && errExtension == nil
	}
	if there() {
		return path, nil
	}
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("it is not installed, and only root can do that: apt-get install %s", strings.Join(packages(), " "))
	}
	install := exec.Command("apt-get", append([]string{"install", "-qy", "--no-install-recommends"}, packages()...)...)
	install.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("install it: %w\n%s", err, out)
	}
	if !there() {
		return "", fmt.Errorf("its packages do not bring %s and %s", path, extension)
	}
	return path, nil
}

func packages() []string { return []string{"pg-auto-failover-cli", "postgresql-15-auto-failover"} }

// programs are the processes of the program that look after a member: one of
// ours, several of theirs.
func programs(b *testing.B, m *group.Member) []int {
	b.Helper()
	var pids []int
	for _, p := range tree(b, m.Process().Pid) {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.pid))
		if err == nil && strings.TrimSpace(string(name)) != "postgres" {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// held are the same processes, all of them: the first is stopped, so that it
// starts no more.
func held(b *testing.B, m *group.Member) []int {
	b.Helper()
	signal(b, syscall.SIGSTOP, m.Process().Pid)
	return programs(b, m)
}

func signal(b *testing.B, s syscall.Signal, pids ...int) {
	b.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil {
			b.Fatalf("send %s to process %d: %v", s, pid, err)
		}
	}
}

// killBoth ends the program's processes and the postmaster without warning.
func killBoth(b *testing.B, m *group.Member) {
	b.Helper()
	postmaster := m.Postmaster(b)
	signal(b, syscall.SIGKILL, append(held(b, m), postmaster)...)
	m.Process().Wait(b, group.Patience)
}

// freeze stops everything of a member, as a host does that hangs or is cut off.
func freeze(b *testing.B, m *group.Member) (resume func()) {
	b.Helper()
	postmaster := m.Postmaster(b)
	first := append(programs(b, m), postmaster)
	signal(b, syscall.SIGSTOP, first...) // no new children from here on
	all := first
	for _, p := range tree(b, postmaster) {
		all = append(all, p.pid)
	}
	for _, pid := range all {
		_ = syscall.Kill(pid, syscall.SIGSTOP) // a session may have just ended
	}
	return func() {
		for _, pid := range all {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
}

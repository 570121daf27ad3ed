package pgtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// leaveGrace is how long processes may take to end after the tests.
const leaveGrace = 5 * time.Second

// supervise starts this test binary again as the process that runs the tests,
// waits for it, ends what it left running and returns its exit code.
func (s Setup) supervise() (int, error) {
	owner, err := serverOwner()
	if err != nil {
		return 0, err
	}
	// The child dies with the thread that started it: keep the thread.
	runtime.LockOSThread()
	begin := time.Now()
	// A short name: the path of a socket, which may repeat it, holds 107 bytes.
	dir, err := os.MkdirTemp(place(), "p")
	if err != nil {
		return 0, fmt.Errorf("make a directory for the tests: %w", err)
	}
	defer os.RemoveAll(dir)
	defer unmountSmallDisk(dir)
	attr, outs, err := s.prepareChild(dir, owner)
	if err != nil {
		return 0, err
	}
	// Orphans of the tests become our children: they are reaped as an init
	// process would do it, and cannot outlive us unseen.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("become the parent of orphans: %w", err)
	}
	sigs := make(chan os.Signal, 16)
	signal.Notify(sigs, unix.SIGCHLD, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGHUP)
	child, err := os.StartProcess(attr.path, attr.args, &attr.attr)
	if err != nil {
		return 0, fmt.Errorf("start the tests: %w", err)
	}
	status := awaitChild(child.Pid, sigs)
	code := status.ExitStatus()
	if status.Signaled() {
		fmt.Fprintln(os.Stderr, "pgtest: the tests were ended by signal:", status.Signal())
		code = 128 + int(status.Signal())
	}
	if left := endOrphans(code == 0); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "pgtest: the tests leave processes behind, ended now:\n\t%s\n", strings.Join(left, "\n\t"))
		if code == 0 {
			code = 1
		}
	}
	removeNamespaces(namespacePrefix(child.Pid))
	releaseSharedMemory(dir)
	if owner != nil {
		removeSegments(int(owner.Uid), begin)
	} else {
		removeSegments(os.Getuid(), begin)
	}
	for _, o := range outs {
		err = errors.Join(err, o.copyBack())
	}
	return code, err
}

type childAttr struct {
	path string
	args []string
	attr os.ProcAttr
}

// prepareChild copies the test binary to where the server user may execute it
// ("go test" keeps it in a directory of its own user) and lays out its home.
func (s Setup) prepareChild(dir string, owner *syscall.Credential) (childAttr, []output, error) {
	c := childAttr{path: filepath.Join(dir, filepath.Base(os.Args[0]))}
	if err := copyFile("/proc/self/exe", c.path, 0o755); err != nil {
		return c, nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return c, nil, fmt.Errorf("open directory: %w", err)
	}
	home, tmp, out := filepath.Join(dir, "home"), filepath.Join(dir, "t"), filepath.Join(dir, "out")
	args, outs := redirect(os.Args[1:], out)
	dirs := []string{home, tmp, out}
	for _, o := range outs {
		if filepath.Base(o.from) == "gocoverdir" || filepath.Base(o.from) == "outputdir" {
			dirs = append(dirs, o.from)
		}
	}
	for _, d := range dirs {
		if err := os.Mkdir(d, 0o755); err != nil {
			return c, nil, fmt.Errorf("lay out directory for the tests: %w", err)
		}
		if owner != nil {
			if err := os.Chown(d, int(owner.Uid), int(owner.Gid)); err != nil {
				return c, nil, fmt.Errorf("give directory to %s: %w", serverUser, err)
			}
		}
	}
	env := childEnv(os.Environ(), home, tmp, owner)
	if s.Prepare != nil {
		more, err := s.Prepare(dir)
		if err != nil {
			return c, nil, err
		}
		env = append(env, more...)
	}
	more, err := s.mountSmallDisk(dir, owner)
	if err != nil {
		return c, nil, err
	}
	env = append(env, more...)
	c.args = append([]string{os.Args[0]}, args...)
	c.attr = os.ProcAttr{
		Env:   env,
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	}
	if !s.KeepRoot {
		c.attr.Sys.Credential = owner
	}
	return c, outs, nil
}

// awaitChild passes signals on and reaps every child until this one has ended.
func awaitChild(child int, sigs <-chan os.Signal) unix.WaitStatus {
	for s := range sigs {
		if s != unix.SIGCHLD {
			_ = unix.Kill(child, s.(syscall.Signal))
			continue
		}
		for {
			var ws unix.WaitStatus
			pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || pid == 0 {
				break
			}
			if pid == child {
				return ws
			}
		}
	}
	panic("pgtest: the channel of signals was closed")
}

// endOrphans kills everything the tests left running and says what that was.
// After a success, processes get a moment to end by themselves.
func endOrphans(patient bool) []string {
	deadline := time.Now()
	if patient {
		deadline = deadline.Add(leaveGrace)
	}
	var left []string
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil { // no children at all
				return left
			}
			if pid == 0 {
				break
			}
		}
		if time.Now().Before(deadline) {
			continue
		}
		for _, pid := range ChildrenOf(os.Getpid()) {
			if what := describeProcess(pid); what != "" {
				left = append(left, what)
			}
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// ChildrenOf lists the processes whose parent is pid.
func ChildrenOf(parent int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var pids []int
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// The command stands in parentheses and may contain anything.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func describeProcess(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(text) == 0 {
		return ""
	}
	return fmt.Sprintf("%d %s", pid, strings.TrimSpace(string(bytes.ReplaceAll(text, []byte{0}, []byte{' '}))))
}

// removeNamespaces deletes the network namespaces of tests that could not do it.
func removeNamespaces(prefix string) {
	names, _ := filepath.Glob("/run/netns/" + prefix + "*")
	for _, name := range names {
		out, err := exec.Command("ip", "netns", "del", filepath.Base(name)).CombinedOutput()
		if err != nil {
			fmt.Fprintf(os.Stderr, "pgtest: delete namespace: %v: %s\n", err, out)
		}
	}
}

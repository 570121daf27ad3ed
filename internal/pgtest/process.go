package pgtest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Command is a program to start. Its zero fields mean: this test's environment
// and directory, this machine's network, the user who runs the servers.
type Command struct {
	Name string   // in messages and log files; the program's base name when empty
	Path string   // the program
	Args []string // without the program itself
	Env  []string // more variables, name=value
	Dir  string
	Host *Host // the network namespace to run in
	Root bool  // keep root when the tests run as root
	// Owner is the test with which the process ends, when that is not the one
	// that starts it.
	Owner testing.TB

	ended func(*Process) // a gentle way to end it, tried before SIGKILL
}

// build makes the command without starting it.
func (c Command) build(ctx context.Context) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Dir = c.Dir
	// A group of its own: an interrupt at the terminal reaches the tests first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.Root {
		return cmd, nil
	}
	owner, err := serverOwner()
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr.Credential = owner
	return cmd, nil
}

func (c Command) start(cmd *exec.Cmd) error {
	if c.Host == nil {
		return cmd.Start()
	}
	return c.Host.Do(cmd.Start)
}

// Process is a started program that is killed when its test ends. Its output is
// kept, and shown when the test fails.
type Process struct {
	Name string
	Pid  int

	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended and state is set
	err  error
}

// Start starts a program.
func Start(t testing.TB, c Command) *Process {
	t.Helper()
	if c.Name == "" {
		c.Name = filepath.Base(c.Path)
	}
	log, err := os.CreateTemp("", "log-*")
	if err != nil {
		t.Fatalf("make log file: %v", err)
	}
	defer log.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cmd, err := c.build(ctx)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := c.start(cmd); err != nil {
		cancel()
		t.Fatalf("start %s: %v", c.Name, err)
	}
	p := &Process{Name: c.Name, Pid: cmd.Process.Pid, cmd: cmd, log: log.Name(), done: make(chan struct{})}
	go func() {
		defer cancel()
		p.err = cmd.Wait()
		close(p.done)
	}()
	owner := c.Owner
	if owner == nil {
		owner = t
	}
	owner.Cleanup(func() {
		if c.ended != nil && p.running() == nil {
			c.ended(p)
		}
		cancel() // kills it
		<-p.done
		p.keepLog(owner)
	})
	return p
}

// keepLog shows the end of the output of a failed test's program, and leaves
// the whole among the test's artifacts.
func (p *Process) keepLog(t testing.TB) {
	t.Helper()
	if WantLogs(t) {
		Keep(t, fmt.Sprintf("%s-%d.log", p.Name, p.Pid), p.log)
		t.Logf("end of the output of %s (%d):\n%s", p.Name, p.Pid, p.Tail(20))
	}
	_ = os.Remove(p.log)
}

// keepVar asks for the logs of tests that pass, too.
const keepVar = "PGDROVER_KEEP_LOGS"

// WantLogs says whether the logs of what a test started are worth keeping: when
// it failed, or when the environment asks for all of them.
func WantLogs(t testing.TB) bool {
	t.Helper()
	return t.Failed() || os.Getenv(keepVar) != ""
}

// Keep leaves a copy of a file among the artifacts of a test, if those are kept
// at all (go test -artifacts). It may be called by cleanups.
func Keep(t testing.TB, name, from string) {
	t.Helper()
	if !artifactsKept() {
		return
	}
	if err := copyFile(from, filepath.Join(t.ArtifactDir(), strings.ReplaceAll(name, "/", "_")), 0o644); err != nil {
		t.Errorf("keep %s: %v", name, err)
	}
}

func artifactsKept() bool {
	f := flag.Lookup("test.artifacts")
	return f != nil && f.Value.String() == "true"
}

// Report logs what a test has measured, and leaves it among the test's
// artifacts as well: the log of a test that passes is rarely seen.
func Report(t testing.TB, name, text string) {
	t.Helper()
	t.Log(text)
	if !artifactsKept() {
		return
	}
	if err := os.WriteFile(filepath.Join(t.ArtifactDir(), name), []byte(text+"\n"), 0o600); err != nil {
		t.Errorf("keep %s: %v", name, err)
	}
}

// Signal sends a signal to the process itself, not to its children.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("signal %s (%d): %w", p.Name, p.Pid, err)
	}
	return nil
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// running returns nil while the process runs, and how it ended afterwards.
func (p *Process) running() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s (%d) has ended: %s", p.Name, p.Pid, p.cmd.ProcessState)
	default:
		return nil
	}
}

// Wait waits until the process has ended and returns its exit code; -1 means
// that a signal ended it.
func (p *Process) Wait(t testing.TB, timeout time.Duration) int {
	t.Helper()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-timer.C:
		t.Fatalf("%s (%d) has not ended within %s", p.Name, p.Pid, timeout)
		return 0
	}
}

// Log is what the process has written so far.
func (p *Process) Log() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return "read log: " + err.Error()
	}
	return string(text)
}

// Tail is the end of the log.
func (p *Process) Tail(lines int) string {
	all := strings.Split(strings.TrimRight(p.Log(), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Result is how a program ended.
type Result struct {
	Code           int // exit code; -1 when a signal ended it
	Stdout, Stderr string
}

// Run runs a program to its end. One that has not ended in time, or cannot be
// started at all, ends the test.
func Run(t testing.TB, timeout time.Duration, c Command) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd, err := c.build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A child that keeps the pipes open must not hold up the test.
	cmd.WaitDelay = 5 * time.Second
	if err := c.start(cmd); err != nil {
		t.Fatalf("start %s: %v", c.Path, err)
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		t.Fatalf("%s %s has not ended within %s\n%s%s", c.Path, strings.Join(c.Args, " "), timeout, &stdout, &stderr)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s: %v", c.Path, err)
	}
	return Result{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
}

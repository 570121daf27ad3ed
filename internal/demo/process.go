package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pgdrover/pgdrover/internal/postgres"
)

// process is a run of this very program, with the server that it looks after.
type process struct {
	stage  *Stage
	name   string
	pgdata string // of its server
	port   int    // of its server
	cmd    *exec.Cmd
	exited chan struct{}
}

// begin starts the program. It gets a process group of its own: Ctrl-C is for
// the demonstration alone.
func (p *process) begin(args []string) error {
	s := p.stage
	log, err := os.OpenFile(s.logFile(p.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", p.name, err)
	}
	defer log.Close()                                                            //nolint:errcheck // the child has its own
	cmd := exec.Command(s.Executable, append(slices.Clone(args), s.Flags...)...) //nolint:gosec,noctx // ourselves; stopped by pid
	cmd.Args[0] = "pgdrover"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = s.Directory
	cmd.Env = s.environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	exited := make(chan struct{})
	p.cmd, p.exited = cmd, exited
	// It ends with the process, which stop awaits.
	go func() {
		defer close(exited)
		_ = cmd.Wait()
	}()
	return nil
}

// ended reports a process that was started and is gone.
func (p *process) ended() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// checkRunning answers the last words of the first process that ended early.
func checkRunning(processes []*process) error {
	for _, p := range processes {
		if p.ended() {
			log := p.stage.logFile(p.name)
			return &Error{Err: fmt.Errorf("%s ended early: %s", p.name, lastLine(log)), Advice: "its log is " + log}
		}
	}
	return nil
}

// lastLine is the last thing that a log says.
func lastLine(path string) string {
	data, err := os.ReadFile(path) //nolint:gosec // a log of ours
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return lines[len(lines)-1]
}

// pids are the process itself, its postmaster, and that one's children.
func (p *process) pids() []int {
	pids := []int{p.cmd.Process.Pid}
	if p.pgdata == "" {
		return pids
	}
	status, err := p.instance().Status()
	if err != nil || !status.Running {
		return pids
	}
	return append(append(pids, status.PID), childrenOf(status.PID)...)
}

func (p *process) instance() *postgres.Instance {
	return postgres.New(postgres.Config{Tools: p.stage.Tools, DataDir: p.pgdata, Port: p.port})
}

// childrenOf lists the children of a process.
func childrenOf(parent int) []int {
	var pids []int
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	for _, path := range stats {
		data, err := os.ReadFile(path) //nolint:gosec // below /proc
		if err != nil {
			continue
		}
		// The command's name may hold anything, so fields count from its last parenthesis.
		text := string(data)
		fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func signalAll(pids []int, sig syscall.Signal) error {
	var all error
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			all = errors.Join(all, fmt.Errorf("send %s to process %d: %w", sig, pid, err))
		}
	}
	return all
}

// kill ends the process and its server at once.
func (p *process) kill(ctx context.Context) error {
	if err := signalAll(p.pids(), syscall.SIGKILL); err != nil {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// freeze stops the process and its server where they are; thaw lets them go on.
func (p *process) freeze() (thaw func() error, err error) {
	pids := p.pids()
	return func() error { return signalAll(pids, syscall.SIGCONT) }, signalAll(pids, syscall.SIGSTOP)
}

// stopPatience is how long a process may take to stop before it is killed.
const stopPatience = 20 * time.Second

// stopAll ends processes and what they left behind, by pid.
func stopAll(ctx context.Context, processes []*process) {
	for _, p := range processes {
		if p.cmd == nil {
			continue
		}
		pids := p.pids()
		_ = signalAll(pids, syscall.SIGCONT) // one of them may be frozen
		_ = signalAll(pids[:1], syscall.SIGINT)
	}
	for _, p := range processes {
		if p.cmd == nil {
			continue
		}
		ended, cancel := context.WithTimeout(ctx, stopPatience)
		select {
		case <-p.exited:
		case <-ended.Done():
			p.stage.Logger.WarnContext(ctx, "the process does not stop, killing it", "name", p.name)
			_ = signalAll([]int{p.cmd.Process.Pid}, syscall.SIGKILL)
			<-p.exited
		}
		cancel()
		p.stopServer(ctx)
	}
}

// stopServer ends a server that outlived the process that looks after it.
func (p *process) stopServer(ctx context.Context) {
	if p.pgdata == "" {
		return
	}
	postmaster, err := p.instance().Adopt()
	if err != nil {
		return
	}
	if err := postmaster.Stop(ctx, postgres.StopImmediate); err != nil {
		p.stage.Logger.WarnContext(ctx, "stop the server", "name", p.name, "error", err)
	}
}

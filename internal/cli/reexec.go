package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// restartSignal asks a running service to go on as the program that is on disk now.
const restartSignal = syscall.SIGUSR2

// reexecVariable remembers, across an exec, which program was executed for
// which version of the monitor: one that is still not right is not executed again.
const reexecVariable = "PGDROVER_REEXECUTED_FOR"

// lookAgain is how often the program on disk is looked at while the monitor
// speaks another version than this one.
const lookAgain = 5 * time.Second

// successor is the program that a service goes on as: the one on disk, which
// an upgrade may have replaced while the service runs.
type successor struct {
	env    *Env
	path   string
	detach context.CancelCauseFunc
	// leave is the cause that has the service leave its server running.
	leave error
	// wanted is the version of the monitor's schema when it is not this program's.
	wanted chan int
	ended  chan struct{}
	wg     sync.WaitGroup
}

// followSuccessor ends a service, for the cause that has it leave its server
// running, when it shall go on as another program: the context that it answers
// is the one to run under.
func followSuccessor(ctx context.Context, env *Env, leave error) (context.Context, *successor) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &successor{env: env, path: ownProgram(env), detach: cancel, leave: leave, wanted: make(chan int, 1), ended: make(chan struct{})}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, restartSignal)
	s.wg.Go(func() {
		defer signal.Stop(asked)
		s.follow(ctx, asked)
	})
	return ctx, s
}

// ownProgram is the file to execute in this program's place.
func ownProgram(env *Env) string {
	if path := env.getenv("PG_AUTOCTL_DEBUG_BIN_PATH"); path != "" {
		return path
	}
	if path, err := exec.LookPath(env.Name); err == nil {
		if path, err := filepath.Abs(path); err == nil {
			return path
		}
	}
	return env.Executable
}

// mismatch is told that the monitor's schema is of another version.
func (s *successor) mismatch(monitor, _ int) {
	select {
	case s.wanted <- monitor:
	default: // it is being looked at
	}
}

func (s *successor) follow(ctx context.Context, asked <-chan os.Signal) {
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	wanted, seen := 0, ""
	for {
		select {
		case <-s.ended:
			return
		case <-ctx.Done():
			return
		case <-asked:
			s.env.infof("Restarting as the program on disk, %q: the server goes on", s.path)
			s.detach(s.leave)
			return
		case wanted = <-s.wanted:
			seen = ""
		case <-look.C:
		}
		if wanted == 0 {
			continue
		}
		if now := s.stamp(); now != seen {
			seen = now
			if s.fits(ctx, wanted) {
				s.env.infof("The monitor has schema version %d, and so has the program on disk, %q: going on as that one", wanted, s.path)
				s.env.setenv(reexecVariable, strconv.Itoa(wanted)+" "+now)
				s.detach(s.leave)
				return
			}
		}
	}
}

// stamp tells one file on disk from the next one of that name.
func (s *successor) stamp() string {
	info, err := os.Stat(s.path)
	if err != nil {
		return ""
	}
	return strconv.FormatInt(info.ModTime().UnixNano(), 10)
}

// fits asks the program on disk whether it speaks the monitor's version.
func (s *successor) fits(ctx context.Context, wanted int) bool {
	if s.env.getenv(reexecVariable) == strconv.Itoa(wanted)+" "+s.stamp() {
		return false // this is that program
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, s.path, "version", "--json").Output() //nolint:gosec // our own program
	var version struct {
		Schema int `json:"pgautofailover_schema"`
	}
	if err == nil {
		err = json.Unmarshal(out, &version)
	}
	if err != nil {
		s.env.warnf("ask %q for its version: %s", s.path, err)
		return false
	}
	return version.Schema == wanted
}

// end waits until nobody can ask for a restart any more. It answers how the
// service ended, once no other program takes its place.
func (s *successor) end(ctx context.Context, manager *notifier, pgdata string, err error) error {
	close(s.ended)
	s.wg.Wait()
	if !errors.Is(context.Cause(ctx), s.leave) {
		return err
	}
	if err != nil && !errors.Is(err, s.leave) && !errors.Is(err, context.Canceled) {
		return err
	}
	extra := []string{}
	if manager.socket != "" {
		extra = append(extra, notifyVariable+"="+manager.socket)
	}
	args := append([]string{s.env.Name, "run", "--pgdata", pgdata}, s.env.verbosityFlags()...)
	return fmt.Errorf("execute %s: %w", s.path, syscall.Exec(s.path, args, s.env.childEnv(extra...))) //nolint:gosec // our own program
}

// restartProgram has a running service go on as the program on disk, and prints its process number.
func restartProgram(ctx context.Context, env *Env, n node, svc service) error {
	if !catches(svc.pid(), restartSignal) {
		return fatal(exitInternal, "the service with pid %d is of a version that can't do that", svc.pid()).
			withHint("stop it and run it again; a standby's or a monitor's absence does no harm")
	}
	before, err := os.Stat(n.pid)
	if err != nil {
		return withCode(exitInternal, err)
	}
	if err := syscall.Kill(svc.pid(), restartSignal); err != nil {
		return fail(exitInternal, "send %s to process %d: %w", restartSignal, svc.pid(), err)
	}
	for deadline := time.Now().Add(restartPatience); ; {
		now, err := os.Stat(n.pid)
		if err == nil && (!os.SameFile(before, now) || !now.ModTime().Equal(before.ModTime())) {
			if svc, err := findService(n.site); err == nil && svc.running {
				env.printf("%d\n", svc.pid())
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fail(exitInternal, "the service did not come back within %s", restartPatience).withHint("look at its log")
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// catches reports whether a process handles a signal, which would end it otherwise.
func catches(pid int, sig syscall.Signal) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if mask, ok := strings.CutPrefix(line, "SigCgt:"); ok {
			caught, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return err == nil && caught&(1<<(uint(sig)-1)) != 0
		}
	}
	return false
}

package keeper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// StepKind says how much of a step is made, in the words of the step socket.
type StepKind string

// The kinds of steps.
const (
	StepWhole   StepKind = "STEP"    // report, walk one edge, report again
	StepReport  StepKind = "REPORT"  // report, and remember the goal that the monitor answers
	StepAdvance StepKind = "ADVANCE" // walk the edge to the goal that is remembered, and tell nobody
)

// stepPatience bounds what one end of the step socket waits for the other.
const stepPatience = 5 * time.Second

// ErrNotSuspended tells that nobody waits for steps.
var ErrNotSuspended = errors.New("no suspended service waits for steps")

// order is what the monitor wants, as it said last.
type order struct {
	goal    fsm.State
	task    task
	reached int64 // the last goal number whose state is established
	kept    bool  // by a service, from one step to the next
}

// StepOf makes one step of a kind. It answers the state before it, and the one
// after it; of a report, the goal.
func (k *Keeper) StepOf(ctx context.Context, kind StepKind) (from, to fsm.State, err error) {
	lock, err := k.lock()
	if err != nil {
		return 0, 0, err
	}
	defer lock.release()
	return k.step(ctx, kind, &order{})
}

// step makes one step for the holder of the lock. Last is what was told before,
// the zero value when nothing was.
func (k *Keeper) step(ctx context.Context, kind StepKind, last *order) (from, to fsm.State, err error) {
	state, err := ReadState(k.cfg.Paths.StateFile)
	if err != nil {
		return 0, 0, err
	}
	from = state.Current
	to = from
	err = k.single(ctx, state, func(s monitorSession, local *node) error {
		v := local.look(ctx)
		// Without an order the last report is said again, which tells the monitor nothing new.
		if kind != StepAdvance || last.goal == fsm.Unknown {
			r := oneReport(v, state.Current)
			r.Reached = last.reached
			a, err := s.Report(ctx, r)
			if err != nil {
				return &MonitorError{Op: "report to the monitor", Err: err}
			}
			last.goal = a.Goal
			last.task = task{Number: a.Number, Timeline: a.Timeline, Current: v.TLI}
			state.Assigned, state.LastMonitorContact = a.Goal, time.Now()
			if err := k.saveState(local, state); err != nil {
				return err
			}
		}
		to = last.goal
		if kind == StepReport || last.goal == state.Current && (!last.kept || last.reached == last.task.Number) {
			return nil
		}
		if err := k.walk(ctx, local, state.Current, last); err != nil {
			return err
		}
		state.Current = last.goal
		if err := k.saveState(local, state); err != nil || kind == StepAdvance {
			return err
		}
		r := oneReport(local.look(ctx), state.Current)
		r.Reached = last.reached
		if _, err := s.Report(ctx, r); err != nil {
			return &MonitorError{Op: "report to the monitor", Err: err}
		}
		return nil
	})
	return from, to, err
}

// walk brings the server to the goal; where it is there by its state, its state
// is established again, for nobody knows what has happened to it since.
func (k *Keeper) walk(ctx context.Context, local *node, from fsm.State, o *order) error {
	t, steps := o.task, fsm.Reenter(from)
	t.From, t.To = from, o.goal
	if o.goal != from {
		edge, ok := fsm.Next(kindOf(k.cfg.File), from, o.goal)
		if !ok {
			return fmt.Errorf("reach state %s: there is no edge from %s", o.goal, from)
		}
		steps = edge.Steps
	}
	for _, step := range steps {
		if err := local.perform(ctx, step, t); err != nil {
			return err
		}
	}
	o.reached = t.Number
	return nil
}

// RunSuspended is Run in step mode: the node does nothing by itself. It makes
// the steps that it is asked for on the step socket, and stops its server at the
// end, unless the cause of that is ErrDetach.
func (k *Keeper) RunSuspended(ctx context.Context) error {
	if err := refuseRoot(); err != nil {
		return err
	}
	lock, err := k.lock()
	if err != nil {
		return err
	}
	defer lock.release()
	state, err := ReadState(k.cfg.Paths.StateFile)
	if err != nil {
		return &StateError{Path: k.cfg.Paths.StateFile, Err: err}
	}
	path := stepSocket(k.cfg.Paths.PIDFile)
	if err := removeFile(path); err != nil { // of a process that was killed: we hold its lock
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return withHint(fmt.Errorf("listen for steps: %w", err), "set XDG_RUNTIME_DIR to a directory with a short path")
	}
	if err := os.Chmod(path, privateMode); err != nil {
		return errors.Join(err, listener.Close())
	}
	k.log.InfoContext(ctx, "suspended: waiting for steps", "node", state.NodeID, "state", state.Current.String(), "socket", path)
	if k.cfg.Ready != nil {
		k.cfg.Ready()
	}
	k.serveSteps(ctx, listener)
	if errors.Is(context.Cause(ctx), ErrDetach) {
		return nil
	}
	local := k.newNode(identity{formation: k.cfg.File.Formation, group: int(state.Group), nodeID: int64(state.NodeID)}, k.log)
	defer local.release()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return local.perform(ctx, fsm.StepStop, task{From: state.Current, To: state.Current})
}

// serveSteps answers one request after the other until ctx ends.
func (k *Keeper) serveSteps(ctx context.Context, listener net.Listener) {
	var closing sync.WaitGroup
	defer closing.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	closing.Go(func() {
		<-ctx.Done()
		_ = listener.Close()
	})
	last := order{kept: true}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, k.answerStep(ctx, conn, &last)+"\n")
		_ = conn.Close()
	}
}

// answerStep reads one request, makes its step and says how it went.
func (k *Keeper) answerStep(ctx context.Context, conn net.Conn, last *order) string {
	_ = conn.SetReadDeadline(time.Now().Add(stepPatience))
	line, err := bufio.NewReader(io.LimitReader(conn, 64)).ReadString('\n')
	if err != nil {
		return "ERROR a request is one line: STEP, REPORT or ADVANCE"
	}
	kind := StepKind(strings.TrimSpace(line))
	switch kind {
	case StepWhole, StepReport, StepAdvance:
	default:
		return fmt.Sprintf("ERROR there is no step %q: they are STEP, REPORT and ADVANCE", kind)
	}
	from, to, err := k.step(ctx, kind, last)
	if err != nil {
		k.log.WarnContext(ctx, "step failed", "kind", string(kind), "error", err)
		return "ERROR " + strings.ReplaceAll(err.Error(), "\n", " ")
	}
	return fmt.Sprintf("OK %s %s", from, to)
}

// stepSocket is where the steps of a suspended service are asked for.
func stepSocket(pidFile string) string { return pidFile + ".step" }

// AskStep asks the suspended service with this pid file for a step, and answers
// the two states that it names: ErrNotSuspended when there is none.
func AskStep(ctx context.Context, pidFile string, kind StepKind) (from, to fsm.State, err error) {
	conn, err := (&net.Dialer{Timeout: stepPatience}).DialContext(ctx, "unix", stepSocket(pidFile))
	if err != nil {
		return 0, 0, ErrNotSuspended
	}
	defer conn.Close() //nolint:errcheck // it has said all
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := io.WriteString(conn, string(kind)+"\n"); err != nil {
		return 0, 0, fmt.Errorf("ask for a step: %w", err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return 0, 0, fmt.Errorf("ask for a step: %w", err)
	}
	words := strings.Fields(answer)
	if len(words) != 3 || words[0] != "OK" {
		return 0, 0, errors.New(strings.TrimSpace(strings.TrimPrefix(answer, "ERROR ")))
	}
	if from, err = fsm.ParseState(words[1]); err == nil {
		to, err = fsm.ParseState(words[2])
	}
	return from, to, err
}

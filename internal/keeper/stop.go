package keeper

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// StopMode is how Run ends.
type StopMode int

// The ways to stop, in order of strength; the strongest one asked for wins.
const (
	// StopNone: not asked to stop.
	StopNone StopMode = iota
	// StopSmart hands a primary over to another node first, when there is one.
	StopSmart
	// StopFast stops PostgreSQL, with a shutdown checkpoint, and says so.
	StopFast
	// StopImmediate ends PostgreSQL at once.
	StopImmediate
	// StopDetach leaves PostgreSQL running.
	StopDetach
)

// Times of a stop.
const (
	handoverPatience = 30 * time.Second
	farewellPatience = 3 * time.Second
	undoPause        = 2 * time.Second
	refusalPoll      = 500 * time.Millisecond
)

// stopModeOf reads the cause of a cancelled context.
func stopModeOf(cause error) StopMode {
	if errors.Is(cause, ErrDetach) {
		return StopDetach
	}
	var s interface {
		error
		Signal() os.Signal
	}
	if !errors.As(cause, &s) {
		return StopFast
	}
	switch s.Signal() {
	case syscall.SIGTERM:
		return StopSmart
	case syscall.SIGQUIT:
		return StopImmediate
	default:
		return StopFast
	}
}

// stopState is how far the end of the service has come.
type stopState struct {
	mode     StopMode
	asked    bool // the monitor was asked to hand over
	handing  bool // and agreed: the node walks to maintenance
	deadline time.Duration
	handover chan error
	down     bool // the server is stopped for good
	downAt   time.Duration

	// undoing: the monitor is asked to take back an earlier stop's maintenance.
	undoing bool
	undone  chan error
	undoAt  time.Duration // not before
}

// requestStop begins the end of the service, or makes it stronger.
func (e *engine) requestStop(ctx context.Context, mode StopMode) {
	if mode <= e.stop.mode {
		return
	}
	e.log.InfoContext(ctx, "stopping", "mode", int(mode), "state", e.state.Current.String())
	e.stop.mode = mode
	switch {
	case mode == StopDetach:
		e.over = true
	case mode != StopSmart:
		e.stop.handing = false
	case e.cfg.Creating || e.lost || !e.confirmed:
	case e.state.Current.In(fsm.Primary, fsm.Secondary, fsm.CatchingUp):
		e.askHandover(ctx)
	}
}

// askHandover asks the monitor to send this node to maintenance. The wish is
// on disk before, so that the next start undoes what this one began.
func (e *engine) askHandover(ctx context.Context) {
	next := e.state
	next.MaintenanceOnStop = true
	if err := e.save(next); err != nil {
		e.log.WarnContext(ctx, "could not record the stop, stopping without handing over", "error", err)
		return
	}
	e.stop.asked, e.stop.handing = true, true
	e.stop.deadline = e.cfg.Clock() + handoverPatience
	e.aside.Go(func() {
		err := e.reporter.ask(ctx, func(ctx context.Context, s monitorSession) error {
			return s.StartMaintenance(ctx)
		})
		for said := true; said; {
			select {
			case e.stop.handover <- err:
			case <-ctx.Done():
				return
			}
			if said = err == nil; said {
				err = e.refusal(ctx)
			}
		}
	})
}

// refusal waits until the monitor gives up a handover that it had agreed to: the
// group may have changed before it was taken up.
func (e *engine) refusal(ctx context.Context) error {
	tick := time.NewTicker(refusalPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		answer := make(chan string, 1) // the question may go on after ctx has ended
		err := e.reporter.ask(ctx, func(ctx context.Context, s monitorSession) error {
			reason, err := s.Refused(ctx)
			answer <- reason
			return err
		})
		if err != nil {
			continue
		}
		if reason := <-answer; reason != "" {
			return errors.New(reason)
		}
	}
}

// handoverAnswered takes the monitor's answer.
func (e *engine) handoverAnswered(err error) {
	if err == nil {
		e.log.Info("handing over before the stop", "state", e.state.Current.String())
		return
	}
	e.log.Info("stopping without handing over", "reason", err)
	e.stop.handing = false
	next := e.state
	next.MaintenanceOnStop = false
	if err := e.save(next); err != nil {
		e.log.Warn("could not record the state", "error", err)
	}
}

// undo takes the node out of the maintenance that an earlier stop of the
// service began. It asks until the goal says so.
func (e *engine) undo(ctx context.Context) {
	if !e.state.MaintenanceOnStop || e.stop.mode != StopNone || !e.confirmed || e.stop.undoing {
		return
	}
	if !e.goal.Goal.MaintenanceGoal() {
		next := e.state
		next.MaintenanceOnStop = false
		if err := e.save(next); err != nil {
			e.log.WarnContext(ctx, "could not record the state", "error", err)
		}
		return
	}
	if e.goal.Goal != fsm.Maintenance || e.state.Current != fsm.Maintenance || e.cfg.Clock() < e.stop.undoAt {
		return
	}
	e.stop.undoing = true
	e.aside.Go(func() {
		e.stop.undone <- e.reporter.ask(ctx, func(ctx context.Context, s monitorSession) error {
			return s.StopMaintenance(ctx)
		})
	})
}

// undoAnswered takes the monitor's answer.
func (e *engine) undoAnswered(err error) {
	e.stop.undoing = false
	e.stop.undoAt = e.cfg.Clock() + undoPause
	if err != nil {
		e.log.Warn("could not leave maintenance yet, retrying", "error", err)
		return
	}
	e.log.Info("leaving the maintenance that the last stop began")
}

// ending reports that nothing but the stop of the server is left to do.
func (s *stopState) ending(e *engine) bool {
	if s.mode == StopNone || s.mode == StopDetach {
		return false
	}
	if s.handing {
		there := e.state.Current == fsm.Maintenance && e.answered.State == fsm.Maintenance && e.job == nil
		s.handing = !there && e.cfg.Clock() < s.deadline
	}
	return !s.handing
}

// job returns the stop of the server; ok is true once nothing else may be done.
func (s *stopState) job(e *engine) (j *job, ok bool) {
	if !s.ending(e) {
		return nil, false
	}
	if s.down {
		return nil, true
	}
	step := fsm.StepStop
	if s.mode == StopImmediate {
		step = fsm.StepStopNow
	}
	role := e.state.Current
	return &job{kind: jobStop, edge: fsm.Edge{From: role, To: role}, steps: []fsm.Step{step}, mode: s.mode}, true
}

// overrides reports whether the stop is in the way of j.
func (s *stopState) overrides(j *job) bool {
	if s.mode == StopNone || s.handing {
		return false
	}
	return j.kind != jobStop || j.mode < s.mode
}

// complete reports that the server is down and the monitor knows.
func (s *stopState) complete(e *engine) bool {
	if !s.down {
		return false
	}
	told := e.heardAny && !e.answered.Running && e.answered == e.said && e.view.Epoch >= e.freshFrom && e.said == e.report()
	return told || e.lost || s.mode == StopImmediate || e.cfg.Clock()-s.downAt > farewellPatience
}

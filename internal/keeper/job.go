package keeper

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// machine performs steps on the local server. It can be cancelled anywhere and
// the step performed again.
type machine interface {
	perform(ctx context.Context, s fsm.Step, t task) error
	// publish tells the monitor which timelines and version the server has.
	publish(ctx context.Context) error
	// arm prepares a standby for the day when it has standbys of its own.
	arm(ctx context.Context) error
	// mend finds out why a standby does not stream, and copies the primary when
	// nothing else helps.
	mend(ctx context.Context) error
	// stir has the upstream of a standby send something.
	stir(ctx context.Context) error
	// fit restarts a standby whose replay is paused until it has larger settings.
	fit(ctx context.Context) error
	// reconfigure brings the server in line with a configuration that was read again.
	reconfigure(ctx context.Context, role fsm.State) error
}

// task is what a step has to know besides itself.
type task struct {
	From, To fsm.State
	// Number is the goal's that the edge leads to.
	Number int64
	// Timeline is the one to begin when the edge promotes, 0 for any; Current is the server's.
	Timeline, Current pg.Timeline
	// Mode is how StepStop stops.
	Mode StopMode
	// List hands the group's list from StepSetList on to a StepPromote that
	// follows; nil where none does.
	List *handedList
}

// handedList is a list that a promotion puts in force.
type handedList struct {
	due   bool
	names pg.StandbyNames
}

// jobKind says why a job runs, and so what may interrupt it.
type jobKind int

const (
	jobEdge      jobKind = iota // to the goal
	jobReenter                  // establish the state again
	jobRepair                   // start a server that ended
	jobUpkeep                   // slots, rules, publications
	jobMend                     // a standby that does not stream
	jobMisplaced                // stop a server that must not run
	jobFence                    // stop a primary that is cut off
	jobStop                     // stop because the service stops
)

// job is one list of steps in the hands of the runner.
type job struct {
	kind   jobKind
	edge   fsm.Edge
	steps  []fsm.Step
	extra  func(ctx context.Context) error
	after  func() // in the engine, on success
	number int64
	source int // the monitor that numbered the goal
	// next is the timeline to begin when the steps promote, current the server's when the job was made.
	next, current pg.Timeline
	mode          StopMode

	begun     time.Duration
	cancel    context.CancelCauseFunc
	cancelled bool
}

// jobResult is how a job ended.
type jobResult struct {
	job  *job
	step fsm.Step // the one that failed
	err  error
}

// start runs j in a goroutine of its own, which ends by sending its result.
func (e *engine) start(ctx context.Context, j *job) {
	ctx, cancel := context.WithCancelCause(ctx)
	j.begun, j.cancel = e.cfg.Clock(), cancel
	if j.kind == jobEdge {
		// From here on the state may be half left.
		e.unsettled = true
		e.fence.moves()
		e.log.DebugContext(ctx, "walking", "state", j.edge.From.String(), "goal_state", j.edge.To.String())
	}
	e.job = j
	go func() {
		defer cancel(nil)
		e.results <- e.perform(ctx, j)
	}()
}

// perform walks the steps.
func (e *engine) perform(ctx context.Context, j *job) jobResult {
	t := task{From: j.edge.From, To: j.edge.To, Number: j.number, Timeline: j.next, Current: j.current, Mode: j.mode}
	if slices.Contains(j.steps, fsm.StepPromote) {
		t.List = new(handedList)
	}
	for _, s := range j.steps {
		if err := context.Cause(ctx); err != nil {
			return jobResult{job: j, step: s, err: err}
		}
		begun := e.cfg.Clock()
		err := e.cfg.Machine.perform(ctx, s, t)
		e.log.DebugContext(ctx, "step", "step", s.String(), "took", (e.cfg.Clock() - begun).String(), "error", err)
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return jobResult{job: j, step: s, err: err}
		}
		if e.cfg.AfterStep != nil {
			e.cfg.AfterStep(s)
		}
	}
	if j.extra != nil {
		if err := j.extra(ctx); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return jobResult{job: j, err: err}
		}
	}
	return jobResult{job: j}
}

// obsolete returns why the running job should be given up, or nil.
func (e *engine) obsolete() error {
	j, goal := e.job, e.goal.Goal
	if e.stop.overrides(j) {
		return errSuperseded
	}
	switch j.kind {
	case jobFence, jobStop, jobMisplaced:
		return nil
	case jobEdge:
		if e.fenceDue || j.edge.To != goal || j.source != e.source {
			return errSuperseded
		}
	case jobRepair:
		if e.fenceDue || goal != j.edge.To && (!goal.Writable() || !j.edge.To.Writable()) {
			return errSuperseded
		}
	case jobReenter, jobUpkeep, jobMend:
		if j.kind == jobReenter && j.source != e.source {
			return errSuperseded
		}
		if e.fenceDue || goal != j.edge.To || e.haveView && !e.view.Running && j.kind == jobUpkeep {
			return errSuperseded
		}
	}
	return nil
}

// complete takes a job's result.
func (e *engine) complete(r jobResult) {
	j := r.job
	e.job = nil
	if j.kind != jobUpkeep {
		e.freshFrom = e.observer.renew()
	}
	if r.err == nil {
		e.finish(j, nil)
		return
	}
	if errors.Is(r.err, errStaleGoal) {
		e.reporter.hurryUp()
	}
	if errors.Is(r.err, errSuperseded) {
		e.log.Debug("gave up", "state", j.edge.From.String(), "goal_state", j.edge.To.String())
		return
	}
	e.finish(j, &r)
}

// finish draws the conclusions of a job that came to its end; failed is nil
// when it succeeded.
func (e *engine) finish(j *job, failed *jobResult) {
	now := e.cfg.Clock()
	var took time.Duration
	if j.cancel != nil {
		took = now - j.begun
	}
	if failed != nil {
		e.failed(j, *failed, now)
		return
	}
	var err error
	switch j.kind {
	case jobEdge:
		if err = e.enter(j.edge.To, took); err == nil {
			e.settle(j)
		}
	case jobFence:
		if err = e.enter(j.edge.To, took); err == nil {
			// Whatever the goal was, the monitor has to say it again.
			e.unsettled, e.fenceDue = false, false
			e.confirmed, e.confirmFrom = false, now
		}
	case jobReenter:
		e.settle(j)
	case jobStop:
		e.stop.down = true
		e.stop.downAt = now
	case jobRepair, jobUpkeep, jobMend, jobMisplaced:
	}
	if err != nil {
		e.failed(j, jobResult{job: j, err: err}, now)
		return
	}
	e.failures, e.notBefore = 0, 0
	if j.kind == jobMisplaced {
		// Whatever made it run may do so again.
		e.notBefore = now + misplacedPause
	}
	if j.after != nil {
		j.after()
	}
}

// failed logs and sets the time of the next attempt.
func (e *engine) failed(j *job, r jobResult, now time.Duration) {
	if e.failures++; e.failures == 1 {
		e.failing = now
	}
	pause := min(50*time.Millisecond<<min(e.failures, 5), time.Second)
	e.notBefore = now + pause
	switch j.kind {
	case jobRepair:
		e.restarts.failed(now)
		e.notBefore = now + e.restarts.pause()
		e.log.Error("the server did not start", "failures", e.restarts.failures, "error", r.err)
	case jobUpkeep:
		// Each second, for as long as the monitor is away: said once a minute.
		if said := &e.upkeepSaid; said.text != r.err.Error() || now-said.at >= time.Minute {
			said.text, said.at = r.err.Error(), now
			e.log.Warn("could not prepare for the other nodes, retrying", "error", r.err)
		}
		e.notBefore, e.upkeepAfter = 0, now+time.Second
	case jobStop:
		e.log.Error("the server did not stop", "error", r.err)
		e.stop.down, e.stop.downAt = true, now
	default:
		level := e.log.Warn
		if e.failures > 3 {
			level = e.log.Error
		}
		level("could not reach the goal, retrying", "state", j.edge.From.String(), "goal_state", j.edge.To.String(),
			"attempt", e.failures, "error", r.err)
	}
	if e.cfg.Creating && j.kind != jobUpkeep && e.hopeless(r.err, now) {
		e.err = &CreateError{Step: "reach state " + j.edge.To.String(), Err: r.err}
		e.over = true
	}
}

// misplacedPause is how long a server rests that had to be stopped.
const misplacedPause = 200 * time.Millisecond

// A creation tries one edge several times before it gives up; longer while the
// server to follow is away, for a failover or its crash recovery cures that.
const (
	createAttempts = 6
	createPatience = time.Minute
)

// hopeless reports whether a creation should give up after a failed attempt.
func (e *engine) hopeless(err error, now time.Duration) bool {
	switch {
	case permanent(err):
		return true
	case away(err):
		return e.failures >= createAttempts && now-e.failing >= createPatience
	}
	return e.failures >= createAttempts
}

// permanent reports an error that waiting does not cure: somebody has to act.
func permanent(err error) bool {
	return hintOf(err) != "" && !errors.As(err, new(*MonitorError))
}

// away reports an error that says no more than that a server is not there
// right now: it does not answer, starts, stops, or the group is between two primaries.
func away(err error) bool {
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch answer.Code {
		case pgerrcode.AdminShutdown, pgerrcode.CrashShutdown, pgerrcode.CannotConnectNow:
			return true
		}
		return pgerrcode.IsConnectionException(answer.Code) || pgautofailover.IsBetweenPrimaries(err)
	}
	if name, ok := errors.AsType[*net.DNSError](err); ok {
		return !name.IsNotFound
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Op != "remote error" // which is an alert of TLS: an answer
	}
	return pgconn.Timeout(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

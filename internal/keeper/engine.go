package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// engineConfig is what an engine works with.
type engineConfig struct {
	State    State
	Machine  machine
	Sensor   sensor
	Reporter *reporter
	Clock    func() time.Duration // runs through suspend
	Save     func(State) error
	Logger   *slog.Logger
	// AfterStep sees each step that was performed.
	AfterStep func(fsm.Step)
	// Care is what a node of a Citus formation does beside; the zero value is for all others.
	Care  care
	Ready func()

	Limits limits

	// Creating ends the run once InitExists is false and the monitor heard of the state reached.
	Creating   bool
	InitExists func() bool

	Stops   <-chan StopMode
	Reloads <-chan struct{}
	// Reload reads the configuration again and reports whether it could.
	Reload func() (limits, bool)
}

// limits are the times of the configuration that the engine goes by.
type limits struct {
	NetworkPartition time.Duration
	RestartTimeout   time.Duration
	RestartRetries   int
}

// engine is the one goroutine of a keeper that decides: it knows the state
// reached and the goal, takes what the reporter, the observer and the running
// job tell it, and starts at most one job at a time.
//
// Invariants: the state file is written before the monitor is told of a state;
// reached is the number of a goal only when its state was established after
// the last step that led away from it.
type engine struct {
	cfg      engineConfig
	reporter *reporter
	observer *observer
	log      *slog.Logger

	state    State
	goal     assignment
	reached  int64
	haveGoal bool
	// source counts the monitors that this node had since it started: a goal's
	// number means something only together with it.
	source int
	// introduced: the monitor has said what it knows of this node.
	introduced bool
	// confirmed: the monitor answered a report sent after confirmFrom, so the
	// goal holds and the server may be started.
	confirmed   bool
	confirmFrom time.Duration
	// unsettled: the state may have been left by an edge that was given up, or
	// by an earlier life of this process.
	unsettled bool

	view      view
	haveView  bool
	everReady bool
	freshFrom int64 // looks of an earlier epoch are out of date

	fence    *fence
	fenceDue bool
	restarts restarts

	job       *job
	results   chan jobResult
	notBefore time.Duration
	failures  int
	failing   time.Duration // since when, if failures > 0
	// upkeepAfter holds back what can wait after it has failed.
	upkeepAfter time.Duration
	// upkeepSaid is what it failed with when that was last logged.
	upkeepSaid struct {
		text string
		at   time.Duration
	}

	said       report
	saidAny    bool
	answered   report
	heardAny   bool
	lost       bool // the monitor is not reachable
	unknown    int  // answers in a row that say that our id is unknown
	peers      []peer
	peersKnown bool
	peersDone  []peer
	slotsAt    time.Duration // when the slots were last seen to
	stirredAt  time.Duration // when the upstream was last made to say something
	fittedAt   time.Duration // when a paused replay was last asked for the reason
	published  pg.Timeline
	// reconfigured: the server goes by the configuration as last read.
	reconfigured bool
	restingSince time.Duration // since when a standby in catchingup is where it is, 0 when it is in another state
	restingAt    position
	armed        bool // the running standby is ready to wait for standbys of its own
	noEdge       [2]fsm.State

	stop  stopState
	aside sync.WaitGroup // questions of the engine itself
	err   error          // why the run ends, once it does
	over  bool
}

func newEngine(cfg engineConfig) *engine {
	now := cfg.Clock()
	return &engine{
		cfg: cfg, reporter: cfg.Reporter, observer: newObserver(cfg.Sensor), log: cfg.Logger,
		state: cfg.State, unsettled: true, confirmFrom: -1,
		fence:    newFence(now),
		restarts: restarts{timeout: cfg.Limits.RestartTimeout, retries: cfg.Limits.RestartRetries, answered: now},
		results:  make(chan jobResult), reconfigured: true,
		stop: stopState{handover: make(chan error, 1), undone: make(chan error, 1)},
	}
}

// run works until the node is dropped, the stop is complete or, while a node
// is created, the creation is over. It returns after all that it started has ended.
func (e *engine) run(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { e.observer.run(work) })
	wg.Go(func() { e.reporter.run(work) })
	defer func() {
		cancel()
		if e.job != nil {
			e.job.cancel(errSuperseded)
			<-e.results
		}
		wg.Wait()
		e.aside.Wait()
	}()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	done := ctx.Done()
	for {
		e.advance(work)
		e.publish()
		e.undo(work)
		e.observer.pace(lookEvery(e.state.Current, e.job != nil))
		if e.finished() {
			return e.err
		}
		timer.Reset(e.nextWake())
		select {
		case <-done:
			done = nil
			e.requestStop(work, stopModeOf(context.Cause(ctx)))
		case mode := <-e.cfg.Stops:
			e.requestStop(work, mode)
		case err := <-e.stop.handover:
			e.handoverAnswered(err)
		case err := <-e.stop.undone:
			e.undoAnswered(err)
		case a := <-e.reporter.answers:
			e.hear(a)
		case v := <-e.observer.views:
			e.see(v)
		case r := <-e.results:
			e.complete(r)
		case <-e.cfg.Reloads:
			e.reload()
		case <-timer.C:
		}
	}
}

// reload takes over a configuration that was read again.
func (e *engine) reload() {
	e.log.Info("reloading the configuration")
	next, ok := e.cfg.Reload()
	if !ok {
		return
	}
	e.cfg.Limits = next
	e.restarts.timeout, e.restarts.retries = next.RestartTimeout, next.RestartRetries
	e.peersDone, e.reconfigured, e.unknown = nil, false, 0
}

// nextWake is how long the loop may sleep when nothing happens.
func (e *engine) nextWake() time.Duration {
	if wait := e.notBefore - e.cfg.Clock(); wait > 0 && e.job == nil {
		return min(wait, time.Second)
	}
	return time.Second
}

// hear takes the monitor's answer to a report.
func (e *engine) hear(a answer) {
	if a.source < e.reporter.source() {
		return // of a monitor that this node does not listen to any more
	}
	if a.err != nil {
		e.monitorLost(a.err)
		return
	}
	if a.source != e.source {
		e.changeMonitor(a.source)
	}
	if a.known != nil {
		e.introduced = true
		if a.known.State == e.state.Current {
			e.reached = a.known.Reached
		}
		return
	}
	if e.lost {
		e.lost = false
		e.log.Info("the monitor answers again")
	}
	e.unknown = 0
	e.fence.answered(a.sent)
	e.answered, e.heardAny = a.report, true
	e.state.LastMonitorContact = time.Now()
	if a.peers != nil {
		e.peers, e.peersKnown = a.peers, true
		e.fence.group(a.peers)
	}
	// Numbers only grow: an answer that took its time must not lead back.
	if !e.haveGoal || a.assigned != e.goal && a.assigned.Number >= e.goal.Number {
		if a.assigned.Goal != e.goal.Goal && a.assigned.Goal != e.state.Current {
			e.log.Info("new goal", "state", e.state.Current.String(), "goal_state", a.assigned.Goal.String(),
				"goal_number", a.assigned.Number)
		}
		if !e.haveGoal || a.assigned.Goal != e.goal.Goal {
			e.notBefore, e.failures = 0, 0
		}
		e.goal, e.haveGoal = a.assigned, true
	}
	if a.sent > e.confirmFrom && !e.confirmed {
		e.confirmed = true
		if e.cfg.Ready != nil {
			e.cfg.Ready()
			e.cfg.Ready = nil
		}
	}
	e.state.Assigned = e.goal.Goal
}

// changeMonitor forgets what another monitor said: it numbered its goals by
// itself, and the next one knows nothing yet of what was told to it.
func (e *engine) changeMonitor(source int) {
	e.source, e.haveGoal, e.reached = source, false, 0
	e.published, e.peersDone = 0, nil
}

// monitorLost notes that the monitor could not be told.
func (e *engine) monitorLost(err error) {
	if unknownNode(err) {
		e.unknown++
		if e.unknown >= 2 && e.goal.Goal != fsm.Dropped {
			e.log.Error("the monitor does not know this node any more", "node", e.state.NodeID)
			e.goal, e.haveGoal = assignment{Goal: fsm.Dropped}, true
			e.state.Assigned, e.confirmed = fsm.Dropped, true
		}
		return
	}
	if !e.lost {
		e.lost = true
		e.log.Warn("lost the monitor", "error", err)
	}
}

// see takes one look at the local server.
func (e *engine) see(v view) {
	e.view, e.haveView = v, true
	if v.Ready {
		e.everReady = true
	}
	if !v.Running {
		e.everReady, e.armed = false, false
	}
	e.fence.saw(v, e.job != nil && e.job.kind == jobEdge || v.Epoch < e.freshFrom)
	now := e.cfg.Clock()
	e.fenceDue = e.fence.applies(e.fenceRole(), e.goal.Goal) && e.fence.expired(now, e.cfg.Limits.NetworkPartition)
	switch {
	case v.Ready && !v.Refused:
		e.restarts.sawRunning(now)
	case v.Running && !v.Alive:
		// Silent: how long that may last is counted from the last answer.
	case e.job == nil || e.job.kind == jobRepair:
		e.restarts.sawDown(now)
	}
	if v.Ready && !v.InRecovery && len(v.Standbys) > 0 {
		e.state.LastSecondaryContact = time.Now()
	}
}

// fenceRole is the role that counts for self-fencing: the target's as soon as
// an edge that opens the server has begun.
func (e *engine) fenceRole() fsm.State {
	if e.job != nil && e.job.kind == jobEdge && e.job.edge.To.Writable() && !e.state.Current.Writable() {
		return e.job.edge.To
	}
	return e.state.Current
}

// publish hands the latest report to the reporter.
func (e *engine) publish() {
	if !e.introduced || !e.haveView || e.view.Epoch < e.freshFrom {
		return
	}
	r := e.report()
	if e.saidAny && r == e.said {
		return
	}
	hurry := !e.saidAny || r.differs(e.said)
	e.said, e.saidAny = r, true
	e.reporter.say(r, hurry)
}

// report is what the monitor should know now.
func (e *engine) report() report {
	now := e.cfg.Clock()
	role, v := e.state.Current, e.view
	// A standby that takes writes is none, whatever else it is.
	foreign := v.Ready && !v.InRecovery && standbyRole(role)
	refused := v.Refused && e.restarts.exhausted(now)
	truth := (v.Ready || v.Running && !v.Alive && e.everReady) && !foreign && !refused
	busy := e.job != nil && (e.job.kind == jobEdge || e.job.kind == jobReenter)
	r := report{
		State: role, Reached: e.reached,
		Running: e.restarts.running(role, truth, busy, now) && !e.stop.down,
	}
	switch {
	case foreign:
	case v.Ready:
		r.TLI, r.LSN, r.SyncState, r.Streaming = v.TLI, v.LSN, v.SyncState, v.Streaming
	case role.Writable() && v.Running && !busy:
		// Its standbys stall because of it, and are not to be blamed.
		r.Streaming = fsm.StreamingNo
	case v.CleanStop && (role.In(fsm.Draining, fsm.DemoteTimeout, fsm.Demoted, fsm.PrepareMaintenance) || e.stop.down):
		r.TLI, r.LSN, r.CleanStop = v.TLI, v.LSN, true
	}
	if v.Refused && role.Writable() {
		r.Streaming = fsm.StreamingNo // receivers that lose their session do not get another
	}
	return r
}

// finished reports whether the run is over, and sets err.
func (e *engine) finished() bool {
	if e.over {
		return true
	}
	switch {
	case e.job != nil:
		return false
	case e.state.Current == fsm.Dropped && e.unknown > 0:
		e.err = ErrNotRegistered
		if e.heardAny {
			e.err = ErrDropped
		}
		return true
	case e.state.Current == fsm.Dropped && e.heardAny && e.answered.State == fsm.Dropped:
		e.err = ErrDropped
		return true
	case e.stop.complete(e):
		return true
	case e.cfg.Creating && e.haveGoal && e.heardAny && !e.cfg.InitExists() &&
		e.goal.Goal == e.state.Current && e.answered.State == e.state.Current && e.reached == e.goal.Number:
		return true
	}
	return false
}

// save writes the state file.
func (e *engine) save(s State) error {
	if err := e.cfg.Save(s); err != nil {
		return err
	}
	e.state = s
	return nil
}

// enter records that the node has reached a state. The monitor hears of it
// only after the file is on disk.
func (e *engine) enter(to fsm.State, took time.Duration) error {
	from := e.state.Current
	next := e.state
	next.Current = to
	if err := e.save(next); err != nil {
		return fmt.Errorf("record state %s: %w", to, err)
	}
	e.log.Info("reached state", "previous", from.String(), "state", to.String(), "goal_state", e.goal.Goal.String(),
		"took", took.Round(time.Millisecond).String(), "lsn", e.view.LSN.String())
	return nil
}

// settle notes that the state reached is fully established, for the goal that
// the job led to and for no later one.
func (e *engine) settle(j *job) {
	e.unsettled = false
	if e.goal.Goal == e.state.Current && e.haveGoal && j.source == e.source {
		e.reached = j.number
	}
}

// advance starts, or gives up, the one job of the moment.
func (e *engine) advance(ctx context.Context) {
	if e.job != nil {
		if cause := e.obsolete(); cause != nil && !e.job.cancelled {
			e.job.cancelled = true
			e.job.cancel(cause)
		}
		return
	}
	for e.job == nil {
		j := e.decide()
		if j == nil {
			return
		}
		if len(j.steps) == 0 && j.extra == nil {
			e.finish(j, nil)
			continue
		}
		e.start(ctx, j)
	}
}

// decide returns what to do next; nil when there is nothing.
func (e *engine) decide() *job {
	now := e.cfg.Clock()
	role, goal := e.state.Current, e.goal.Goal
	if j, ok := e.stop.job(e); ok {
		return j
	}
	if e.fenceDue {
		if j := e.cutOff(role); j != nil {
			return j
		}
	}
	if e.misplaced() {
		e.log.Warn("stopping PostgreSQL: it must not run as it does in this state", "state", role.String())
		steps := []fsm.Step{fsm.StepStop}
		if fsm.DutyOf(role).Postgres == fsm.PowerStopped {
			steps = append(steps, fsm.StepSeal)
		}
		return &job{kind: jobMisplaced, edge: fsm.Edge{From: role, To: role}, steps: steps}
	}
	if !e.confirmed || now < e.notBefore {
		return nil
	}
	if role == goal && role.Writable() && e.haveView && e.view.Sealed && e.view.Epoch >= e.freshFrom {
		e.log.Warn("the server was started as it had been left for others to find, opening it again", "state", role.String())
		return e.reenter(role)
	}
	if role == goal || role.Writable() && goal.Writable() {
		if j := e.repair(); j != nil {
			return j
		}
	}
	if role != goal {
		return e.edge(role, goal)
	}
	// The same goal given again comes with another list or another upstream.
	if e.unsettled || e.reached != e.goal.Number {
		return e.reenter(role)
	}
	return e.upkeep()
}

// reenter returns the job that establishes the state again.
func (e *engine) reenter(role fsm.State) *job {
	return e.towardsGoal(job{kind: jobReenter, edge: fsm.Edge{From: role, To: role}, steps: fsm.Reenter(role)})
}

// cutOff returns the job of a node that has lost both the monitor and its
// standbys. A server that is down anyway only stays down until the monitor has
// spoken.
func (e *engine) cutOff(role fsm.State) *job {
	if e.haveView && !e.view.Running && e.view.Epoch >= e.freshFrom {
		e.fenceDue, e.confirmed, e.confirmFrom = false, false, e.cfg.Clock()
		return nil
	}
	to := role
	if fsm.DutyOf(role).Postgres != fsm.PowerStopped {
		to = fsm.DemoteTimeout
	}
	e.log.Error("stopping PostgreSQL: neither the monitor nor enough standbys were there",
		"state", role.String(), "timeout", e.cfg.Limits.NetworkPartition.String())
	return &job{kind: jobFence, edge: fsm.Edge{From: role, To: to}, steps: []fsm.Step{fsm.StepStopNow, fsm.StepSeal}}
}

// edge returns the job that leads to the goal.
func (e *engine) edge(role, goal fsm.State) *job {
	edge, ok := fsm.Next(e.cfg.Care.kind, role, goal)
	if !ok {
		if pair := [2]fsm.State{role, goal}; pair != e.noEdge {
			e.noEdge = pair
			e.log.Error("does not know how to reach the goal", "state", role.String(), "goal_state", goal.String())
		}
		return nil
	}
	return e.towardsGoal(job{kind: jobEdge, edge: edge, steps: edge.Steps})
}

// towardsGoal gives a job what belongs to the goal that it serves.
func (e *engine) towardsGoal(j job) *job {
	j.number, j.source, j.next, j.current = e.goal.Number, e.source, e.goal.Timeline, e.view.TLI
	return &j
}

// misplaced reports whether the server runs although this state forbids it, or
// takes writes as a standby must not, and no edge is about to change that.
func (e *engine) misplaced() bool {
	if !e.haveView || !e.view.Running || e.view.Epoch < e.freshFrom {
		return false
	}
	role, goal := e.state.Current, e.goal.Goal
	if e.confirmed && goal != role && (goal.Writable() || goal.In(fsm.StopReplication, fsm.CatchingUp, fsm.ReportLSN)) {
		return false
	}
	if fsm.DutyOf(role).Postgres == fsm.PowerStopped {
		return true
	}
	return e.view.Ready && !e.view.InRecovery &&
		role.In(fsm.Secondary, fsm.CatchingUp, fsm.ReportLSN, fsm.JoinSecondary, fsm.FastForward, fsm.WaitMaintenance)
}

// repair returns the job that brings a server back that should run.
func (e *engine) repair() *job {
	role := e.state.Current
	if fsm.DutyOf(role).Postgres != fsm.PowerRunning || !e.haveView || e.view.Running || e.view.Epoch < e.freshFrom {
		return nil
	}
	e.log.Warn("the server is not running, starting it", "state", role.String(), "failures", e.restarts.failures)
	steps := []fsm.Step{fsm.StepStart}
	if role.Writable() {
		steps = []fsm.Step{fsm.StepUnseal, fsm.StepStart}
	}
	return &job{kind: jobRepair, edge: fsm.Edge{From: role, To: role}, steps: steps}
}

// upkeep returns what a node at rest has to do for the others.
func (e *engine) upkeep() *job {
	role := e.state.Current
	if !e.peersKnown || !e.view.Ready || e.cfg.Clock() < e.upkeepAfter {
		return nil
	}
	duty := fsm.DutyOf(role)
	care := func(steps []fsm.Step, extra func(ctx context.Context) error, after func()) *job {
		return &job{kind: jobUpkeep, edge: fsm.Edge{From: role, To: role}, steps: steps, extra: extra, after: after}
	}
	if !e.reconfigured {
		work := func(ctx context.Context) error { return e.cfg.Machine.reconfigure(ctx, role) }
		return care(nil, work, func() { e.reconfigured = true })
	}
	// What fails again and again, as without the monitor, must not keep this from its turn.
	if e.upkeepAfter > 0 && e.cfg.Clock()-e.upkeepAfter < 2*time.Second {
		if work := e.cfg.Care.job(role, e.cfg.Clock()); work != nil {
			return care(nil, work, nil)
		}
	}
	if steps := e.peerSteps(duty); len(steps) > 0 {
		peers := e.peers
		return care(steps, nil, func() { e.peersDone, e.slotsAt = peers, e.cfg.Clock() })
	}
	e.peersDone = e.peers
	if duty.Slots && len(e.peers) > 0 && e.cfg.Clock()-e.slotsAt > slotsEvery {
		return care([]fsm.Step{fsm.StepSlots}, nil, func() { e.slotsAt = e.cfg.Clock() })
	}
	if tli := e.view.TLI; tli != e.published && duty.Postgres == fsm.PowerRunning {
		return care(nil, e.cfg.Machine.publish, func() { e.published = tli })
	}
	if e.view.Connecting && role.In(fsm.CatchingUp, fsm.Secondary) && e.cfg.Clock()-e.stirredAt > stirEvery {
		e.stirredAt = e.cfg.Clock()
		return care(nil, e.cfg.Machine.stir, nil)
	}
	if e.view.Paused && role.In(fsm.CatchingUp, fsm.Secondary) && (e.fittedAt == 0 || e.cfg.Clock()-e.fittedAt > fitEvery) {
		e.fittedAt = e.cfg.Clock()
		j := care(nil, e.cfg.Machine.fit, nil)
		j.kind = jobMend // the server may be down in between
		return j
	}
	if role == fsm.Secondary && !e.armed {
		return care(nil, e.cfg.Machine.arm, func() { e.armed = true })
	}
	if work := e.cfg.Care.job(role, e.cfg.Clock()); work != nil {
		return care(nil, work, nil)
	}
	if e.stuck() {
		e.restingSince = e.cfg.Clock()
		j := care(nil, e.cfg.Machine.mend, nil)
		j.kind = jobMend
		return j
	}
	return nil
}

// peerSteps lists what the latest news of the other nodes ask for.
func (e *engine) peerSteps(duty fsm.Duty) []fsm.Step {
	moved := !sameAddresses(e.peers, e.peersDone)
	if !moved && slices.Equal(e.peers, e.peersDone) {
		return nil
	}
	var steps []fsm.Step
	if moved && duty.Postgres == fsm.PowerRunning {
		steps = append(steps, fsm.StepHBA)
	}
	if duty.Slots && (moved || duty.Advance && e.cfg.Clock()-e.slotsAt >= advanceEvery) {
		steps = append(steps, fsm.StepSlots)
	}
	return steps
}

// stuck reports whether a standby that rests in catchingup has got nowhere for
// a while: it does not stream, or its position stays where it is. The
// receiver's own word is not enough: one whose line has left the upstream's
// connects and fails many times a second, and seems to stream in between.
func (e *engine) stuck() bool {
	now, at := e.cfg.Clock(), position{e.view.TLI, e.view.LSN}
	if e.state.Current != fsm.CatchingUp {
		e.restingSince = 0
		return false
	}
	if e.restingSince == 0 || e.view.Streaming != fsm.StreamingNo && at != e.restingAt {
		e.restingSince, e.restingAt = now, at
	}
	return now-e.restingSince > mendAfter
}

// position is a place in a server's WAL.
type position struct {
	tli pg.Timeline
	lsn pg.LSN
}

// sameAddresses compares what HBA rules depend on.
func sameAddresses(a, b []peer) bool {
	return slices.EqualFunc(a, b, func(x, y peer) bool { return x.ID == y.ID && x.Host == y.Host })
}

// slotsEvery is how often a node at rest sees to the slots of the others: an
// operator may have dropped one, or it may have been invalidated.
const slotsEvery = 10 * time.Second

// advanceEvery is how often a standby's slots follow the positions of the
// others: in the middle of a failover, with news many times a second, it would
// only take time from those who work on it.
const advanceEvery = time.Second

// stirEvery is how often a standby whose receiver has heard nothing yet makes
// its upstream say something.
const stirEvery = time.Second

// fitEvery is how often a standby whose replay is paused is asked for the reason.
const fitEvery = 5 * time.Second

// mendAfter is how long a standby may take to begin streaming by itself.
const mendAfter = 10 * time.Second

// errStaleGoal ends an edge whose goal is not the node's any more.
var errStaleGoal = errors.New("the monitor has another goal by now")

// errSuperseded ends a job that leads where nobody wants to go any more.
var errSuperseded = errors.New("the goal changed")

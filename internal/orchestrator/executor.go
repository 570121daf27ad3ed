package orchestrator

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// Config is what an executor works with.
type Config struct {
	// Name is that of the workflow, Cluster that of the nodes' cluster; runs on
	// one cluster exclude each other.
	Name, Cluster string
	Nodes         []workflow.Node
	Steps         []workflow.Step
	// Success and Failure run at the end; both may be nil.
	Success, Failure *workflow.Follow
	Journal          Journal
	// Plan is kept in the journal, for whoever made the steps.
	Plan json.RawMessage
	// Dial opens sessions; [Dial] when it is nil.
	Dial Dialer
	// Snapshot makes what several nodes copy; with a replication connection when it is nil.
	Snapshot Snapshotter
	// GivenUp are nodes that an unfinished run has given up: they need not be there.
	GivenUp []string
	Log     *slog.Logger
	// OnEvent receives what happens, one call at a time; it may be nil.
	OnEvent func(Event)
	// OnAnswer receives the whole answer of each step that leaves variables behind; it may be nil.
	OnAnswer func(node string, answer Result)
	// Shell runs a command of type shell; without it there are none.
	Shell func(ctx context.Context, command string, env []string) error

	// GoOn continues after a failed step; the run fails at its end.
	GoOn bool
	// NoSleep drops the pauses after steps; what they were for is waited for.
	NoSleep bool
	// Rollback undoes what the run made when it fails or is cancelled.
	Rollback bool
	// Restart forgets an unfinished run of the same steps.
	Restart bool
	// RawSQL lets values be SQL expressions.
	RawSQL bool
	// StepTimeout bounds every step; 0 does not.
	StepTimeout time.Duration
	// StallTimeout bounds how long a waiting step sees no progress; 3 min.
	StallTimeout time.Duration
	// Grace is how long a worker may take to start; 2 min.
	Grace time.Duration
	// Poll is the pause between two looks at what is waited for; 200 ms.
	Poll time.Duration
	// From and To limit the run to steps, by number or name; empty does not.
	From, To string
	// Variables are set before the first step.
	Variables workflow.Variables
	// Run and Owner are kept in the journal.
	Run, Owner string
	// Beat is sent to every node all the time, so that the nodes see that the run
	// is alive, and a lock that went with its server is taken again. Empty sends nothing.
	Beat string
	// BeatEvery is the pause between two; 5 s.
	BeatEvery time.Duration
	// Guards are asked all the time while the run lasts.
	Guards []Guard
	// Fit is asked before a new run begins, when no other one can work on the
	// cluster any more: whether all is still as it was when the steps were made. It may be nil.
	Fit func(ctx context.Context) error
}

// Guard watches over a limit on a node.
type Guard struct {
	Node string
	// Look says what is to be told, and whether the run must end.
	Look func(ctx context.Context, server Server) ([]Finding, error)
	// Every is the pause between two looks; 2 s.
	Every time.Duration
}

// Finding is what a guard has seen.
type Finding struct {
	Text string
	// About is what it is about: that is told once, or again when Again says so.
	About string
	Again bool
	// End says that the run must end, and be undone.
	End bool
	// Note says that it is no warning.
	Note bool
}

// Executor runs steps. It is for one run.
type Executor struct {
	cfg   Config
	nodes map[string]workflow.Node

	mu       sync.Mutex // above all below
	idle     map[string][]Server
	lent     map[Server]loan
	locks    map[string]Server
	record   *Record
	failures int
	timedOut bool
	held     *Snapshot       // that several nodes copy, if there is one
	givenUp  []string        // nodes with the reasons
	gone     map[string]bool // nodes that did not come back while something was undone on them
}

// New makes an executor; it touches nothing.
func New(cfg Config) (*Executor, error) {
	if len(cfg.Steps) == 0 {
		return nil, errors.New("there is no step to execute")
	}
	if cfg.Dial == nil {
		cfg.Dial = Dial
	}
	if cfg.Snapshot == nil {
		cfg.Snapshot = takeSnapshot
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = 3 * time.Minute
	}
	if cfg.Grace == 0 {
		cfg.Grace = 2 * time.Minute
	}
	if cfg.Poll == 0 {
		cfg.Poll = 200 * time.Millisecond
	}
	if cfg.BeatEvery == 0 {
		cfg.BeatEvery = 5 * time.Second
	}
	e := &Executor{cfg: cfg, nodes: map[string]workflow.Node{}, idle: map[string][]Server{}, lent: map[Server]loan{}, locks: map[string]Server{}, gone: map[string]bool{}}
	for _, n := range cfg.Nodes {
		e.nodes[n.Name] = n
	}
	for _, s := range cfg.Steps {
		if _, ok := e.nodes[s.Node]; !ok && s.Type != workflow.TypeShell {
			return nil, fmt.Errorf("%s: unknown node %q", s.Label(), s.Node)
		}
	}
	for _, label := range []string{cfg.From, cfg.To} {
		if label != "" && e.find(label) < 0 {
			return nil, fmt.Errorf("there is no step %q", label)
		}
	}
	return e, nil
}

// find is the index of a step by number or name, -1 when there is none.
func (e *Executor) find(label string) int {
	return slices.IndexFunc(e.cfg.Steps, func(s workflow.Step) bool { return s.Path == label || s.Name == label })
}

func (e *Executor) isNode(name string) bool { _, ok := e.nodes[name]; return ok }

// Run executes the steps. An unfinished run of the same steps is taken up where
// it ended.
func (e *Executor) Run(ctx context.Context) error {
	defer e.closeAll(context.WithoutCancel(ctx))
	if err := e.open(ctx, false); err != nil {
		return cancelled(ctx, "its beginning", err)
	}
	first, err := e.start(ctx)
	if err != nil {
		return cancelled(ctx, "its beginning", err)
	}
	walkCtx, end := context.WithCancelCause(ctx)
	stop := e.watch(walkCtx, end)
	err = e.walk(walkCtx, first)
	if guard, ok := errors.AsType[*GuardError](context.Cause(walkCtx)); ok && ctx.Err() == nil {
		err = guard
	}
	end(nil)
	stop()
	if err == nil && e.failures > 0 {
		err = &StepError{Failed: e.failures, TimedOut: e.timedOut}
	}
	e.letGo(ctx)
	if err != nil {
		e.lift(context.WithoutCancel(ctx))
	}
	if err == nil {
		err = e.follow(ctx, e.cfg.Success)
	} else if ctx.Err() == nil {
		_ = e.follow(ctx, e.cfg.Failure)
	}
	return e.finish(ctx, err)
}

// cancelled is the error of what was told to end, whatever that made fail.
func cancelled(ctx context.Context, at string, err error) error {
	if _, ok := errors.AsType[*CancelledError](err); err == nil || ok || ctx.Err() == nil {
		return err
	}
	return &CancelledError{Step: at, Err: context.Cause(ctx)}
}

// liftTime bounds what is done for clients at the end of a run that has failed.
const liftTime = 15 * time.Second

// lift ends what steps do to clients, when the run ends before a later phase has
// begun: a node that was closed and does not leave serves its clients again. What
// lasts is told.
func (e *Executor) lift(ctx context.Context) {
	for i, s := range e.cfg.Steps {
		if s.Lift == "" || e.record.status(s.Path) == "" {
			continue
		}
		later := e.cfg.Steps[i+1:]
		ev := Event{Status: Noted, Step: s.Path, Phase: s.Phase, Node: s.Node, Type: "WARNING"}
		if slices.ContainsFunc(later, func(o workflow.Step) bool { return o.Phase != s.Phase && e.record.status(o.Path) != "" }) {
			ended := func(o workflow.Step) bool { return o.Description == s.Ended && e.record.status(o.Path).Good() }
			if s.Lasts != "" && !slices.ContainsFunc(later, ended) {
				ev.Message = s.Lasts
				e.event(ev)
			}
			continue
		}
		limited, cancel := context.WithTimeout(ctx, liftTime)
		_, err := e.run(limited, s.Node, workflow.Statement{SQL: s.Lift, Simple: true})
		cancel()
		if err != nil {
			ev.Message = "not taken back: " + s.Description + ": " + workflow.Mask(err.Error())
		} else {
			ev.Type, ev.Message = "", "taken back: "+s.Description
		}
		e.event(ev)
	}
}

// finish stores how a run has ended, and undoes it when that is wanted.
func (e *Executor) finish(ctx context.Context, err error) error {
	ctx = context.WithoutCancel(ctx)
	if err == nil {
		e.record.Finished = e.cfg.From == "" && e.cfg.To == ""
		e.record.State = RunDone
		return errors.Join(e.notJoined(), e.save(ctx))
	}
	e.record.State = RunFailed
	if guard, ok := errors.AsType[*GuardError](err); e.cfg.Rollback || ok && guard.Undo {
		return errors.Join(err, e.undoAll(ctx))
	}
	if saveErr := e.save(ctx); saveErr != nil {
		e.cfg.Log.WarnContext(ctx, "the end of the run is not in its journal", "error", saveErr)
	}
	e.tellMade()
	return err
}

// tellMade lists what an unfinished run has made so far, node by node.
func (e *Executor) tellMade() {
	for _, n := range e.cfg.Nodes {
		var made []string
		for _, a := range e.record.Created {
			if a.Node == n.Name {
				made = append(made, a.text())
			}
		}
		if len(made) > 0 {
			e.event(Event{Status: Noted, Node: n.Name, Message: "made so far on " + n.Name + ": " + strings.Join(made, ", ")})
		}
	}
}

// open reaches every node of the steps and keeps other runs out. What is undone
// needs no node that is gone.
func (e *Executor) open(ctx context.Context, undo bool) error {
	var problems []error
	began := time.Now()
	// In one order everywhere: two runs that begin at once must not wait for each other.
	byName := func(a, b workflow.Node) int { return strings.Compare(a.Name, b.Name) }
	for _, n := range slices.SortedFunc(slices.Values(e.cfg.Nodes), byName) {
		used := slices.ContainsFunc(e.cfg.Steps, func(s workflow.Step) bool { return s.Node == n.Name })
		server, err := e.cfg.Dial(ctx, n, e.notice(n.Name))
		switch {
		case err != nil && used && !undo && !slices.Contains(e.cfg.GivenUp, n.Name):
			problems = append(problems, &NodeError{Node: n.Name, Op: "connect", Err: serverError(err)})
			continue
		case err != nil:
			what := "; no step runs there"
			if undo {
				what = "; what the run has made there stays"
			}
			e.event(Event{Status: Noted, Node: n.Name, Message: "node " + n.Name + " cannot be reached" + what})
			continue
		}
		e.mu.Lock()
		e.locks[n.Name] = server
		e.mu.Unlock()
		if err := e.lock(ctx, n.Name, server, began, true); err != nil {
			return errors.Join(append(problems, err)...)
		}
	}
	return errors.Join(problems...)
}

// lockClass is the first half of the key of the advisory lock of runs.
const lockClass = "727400016"

const (
	// lockPatience is how long the servers may take to notice that the sessions of
	// a run that has just ended are gone.
	lockPatience = 15 * time.Second
	// lockQuiet is how long nobody is told that this is waited for.
	lockQuiet = time.Second
)

// qLockHolder is who keeps other runs out of a node.
const qLockHolder = `SELECT pg_catalog.format('process %s of %s, connected since %s from %s', a.pid, a.usename,
       pg_catalog.date_trunc('second', a.backend_start), coalesce(a.client_addr::text, 'its own host'))
  FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.granted AND l.classid = ` + lockClass + ` AND l.objsubid = 2 AND l.objid::int8 = pg_catalog.hashtext($1)::int8 & 4294967295
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())`

// lock keeps other runs out of a node. All nodes together are waited for since began.
func (e *Executor) lock(ctx context.Context, node string, server Server, began time.Time, tell bool) error {
	for {
		answer, err := server.Ask(ctx, "SELECT pg_catalog.pg_try_advisory_lock("+lockClass+", pg_catalog.hashtext($1))", &e.cfg.Cluster)
		if err != nil {
			return &NodeError{Node: node, Op: "lock", Err: err}
		}
		if answer.is() {
			return nil
		}
		waited := time.Since(began)
		if waited >= lockPatience {
			return &NodeError{Node: node, Op: "lock", Err: errLocked}
		}
		if waited >= lockQuiet && tell {
			tell = false
			// Who it is helps, and is not needed.
			holder, _ := server.Ask(ctx, qLockHolder, &e.cfg.Cluster)
			e.event(Event{Status: Noted, Node: node, Message: fmt.Sprintf(
				"another run works on this cluster, its end is waited for, at most %s: on %s %s", lockPatience, node, cmp.Or(holder.text(0), "somebody"))})
		}
		select {
		case <-ctx.Done():
			return &NodeError{Node: node, Op: "lock", Err: context.Cause(ctx)}
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// notice passes on what a server says besides errors.
func (e *Executor) notice(node string) func(spock.Notice) {
	return func(n spock.Notice) {
		e.event(Event{Status: Noted, Node: node, Type: n.Severity, Message: workflow.Mask(n.Message)})
	}
}

// start loads the journal and says where to begin.
func (e *Executor) start(ctx context.Context) (int, error) {
	record, err := e.cfg.Journal.Load(ctx)
	if err != nil && !e.cfg.Restart {
		return 0, err
	}
	if record == nil || record.Finished || e.cfg.Restart || !record.Begun() {
		if e.cfg.Fit != nil {
			if err := e.cfg.Fit(ctx); err != nil {
				return 0, err
			}
		}
		e.record = &Record{
			Version: recordVersion, Workflow: e.cfg.Name, Cluster: e.cfg.Cluster, Started: time.Now().UTC(),
			Variables: workflow.Variables{}, Plan: e.cfg.Plan, Run: e.cfg.Run,
		}
		if record != nil {
			e.record.Serial = record.Serial
		}
	} else {
		e.record = record
		if e.record.Variables == nil {
			e.record.Variables = workflow.Variables{}
		}
	}
	e.record.Owner, e.record.State = e.cfg.Owner, RunRunning
	e.undoGivenUp(ctx) // what an earlier call could not
	for node, keys := range e.cfg.Variables {
		for key, value := range keys {
			e.record.Variables.Set(node, key, value)
		}
	}
	first := 0
	if e.cfg.From != "" {
		first = e.find(e.cfg.From)
	} else if e.record.Begun() {
		if first, err = e.resume(ctx); err != nil {
			return 0, err
		}
		e.event(Event{Status: Noted, Message: fmt.Sprintf("an unfinished run of this workflow is taken up at %s", e.cfg.Steps[first].Label())})
	}
	return first, e.save(ctx)
}

// resume is the first step that is not done, or whose work is gone again.
func (e *Executor) resume(ctx context.Context) (int, error) {
	for i, s := range e.cfg.Steps {
		if !e.wanted(s) {
			continue
		}
		if what := e.record.what(s.Path); s.Phase != "" && what != "" && what != s.Description {
			return 0, &otherPlan{step: s.Label(), before: what, now: s.Description}
		}
		if !e.record.status(s.Path).Good() {
			return e.heldBefore(i), nil
		}
		for _, a := range e.record.Created {
			if a.Step != s.Path || a.Exists == "" {
				continue
			}
			there, err := e.ask(ctx, a.Node, a.Exists)
			if err != nil {
				return 0, err
			}
			if !there.is() {
				return e.heldBefore(i), nil
			}
		}
	}
	return len(e.cfg.Steps) - 1, nil
}

// walk runs the steps from first on.
func (e *Executor) walk(ctx context.Context, first int) error {
	last := len(e.cfg.Steps) - 1
	if e.cfg.To != "" {
		last = e.find(e.cfg.To)
	}
	const jumps = 10000 // far more than any file means
	for i, n := first, 0; i <= last; n++ {
		if n > jumps {
			return errors.New("the workflow's jumps never end")
		}
		if steps := e.beside(i, last); len(steps) > 1 {
			if err := e.together(ctx, e.staying(e.undone(steps, i == first))); err != nil && (!e.cfg.GoOn || ctx.Err() != nil) {
				return cancelled(ctx, steps[0].Label(), err)
			}
			i += len(steps)
			continue
		}
		if !e.wanted(e.cfg.Steps[i]) {
			i++
			continue
		}
		next, stop, err := e.one(ctx, e.cfg.Steps[i])
		if err != nil || stop {
			return err
		}
		i++
		if next != "" {
			i = e.find(next)
		}
	}
	return nil
}

// beside are the steps that run at the same time as the one at i, from there on.
func (e *Executor) beside(i, last int) []workflow.Step {
	end := i + 1
	for end <= last && e.cfg.Steps[i].Parallel != 0 && e.cfg.Steps[end].Parallel == e.cfg.Steps[i].Parallel {
		end++
	}
	return e.cfg.Steps[i:end]
}

// undone leaves out what an earlier call has done already beside the step at
// which this one goes on.
func (e *Executor) undone(steps []workflow.Step, resumed bool) []workflow.Step {
	if !resumed {
		return steps
	}
	var left []workflow.Step
	for i, s := range steps {
		if i == 0 || !e.record.status(s.Path).Good() {
			left = append(left, s)
		}
	}
	return left
}

// together runs steps at the same time; the first that fails ends the others,
// unless the run is to go on whatever fails.
func (e *Executor) together(ctx context.Context, steps []workflow.Step) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	errs := make([]error, len(steps))
	for i, s := range steps {
		group.Go(func() {
			errs[i] = e.attempt(ctx, s, true)
			switch {
			case errs[i] == nil || s.IgnoreErrors || e.cfg.GoOn:
			case e.giveUp(ctx, s, errs[i]) != "":
				errs[i] = nil
				if alone(s, steps) {
					e.undoGivenUp(ctx) // the others may take hours
				}
			default:
				cancel(errs[i])
			}
		})
	}
	group.Wait()
	e.undoGivenUp(ctx)
	for i, err := range errs {
		if err != nil && !steps[i].IgnoreErrors && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return errors.Join(errs...)
}

// alone says that no other of some steps serves a node that this one serves.
func alone(s workflow.Step, steps []workflow.Step) bool {
	n := 0
	for _, other := range steps {
		if slices.ContainsFunc(other.For, func(name string) bool { return slices.Contains(s.For, name) }) {
			n++
		}
	}
	return n == 1
}

// one runs a step and what follows it, and says where to go on.
func (e *Executor) one(ctx context.Context, s workflow.Step) (next string, stop bool, err error) {
	err = e.attempt(ctx, s, false)
	if ctx.Err() != nil {
		return "", true, &CancelledError{Step: s.Label(), Err: context.Cause(ctx)}
	}
	if err != nil && e.giveUp(ctx, s, err) != "" {
		e.undoGivenUp(ctx)
		return "", false, nil
	}
	after := s.OnSuccess
	if err != nil && !s.IgnoreErrors {
		after = s.OnFailure
	}
	if after != nil {
		if followErr := e.follow(ctx, after); followErr != nil {
			return "", true, followErr
		}
		if after.Goto != "" {
			return after.Goto, false, nil
		}
	}
	switch {
	case err == nil || s.IgnoreErrors:
		return "", after != nil && after.Stop, nil
	case e.cfg.GoOn && (after == nil || !after.Stop):
		return "", false, nil
	default:
		return "", true, err
	}
}

// follow runs the steps that come after another.
func (e *Executor) follow(ctx context.Context, f *workflow.Follow) error {
	if f == nil {
		return nil
	}
	for _, s := range f.Steps {
		if err := e.attempt(ctx, s, false); err != nil && !s.IgnoreErrors {
			return err
		}
	}
	return nil
}

func (e *Executor) event(ev Event) {
	if e.cfg.OnEvent == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	ev.Time = time.Now()
	ev.Total = len(e.cfg.Steps)
	ev.Run = e.cfg.Run
	e.cfg.OnEvent(ev)
}

func (e *Executor) save(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.saveLocked(ctx)
}

// saveLocked stores the journal, also when the run is told to end: what it has
// begun must be known.
func (e *Executor) saveLocked(ctx context.Context) error {
	e.record.Updated = time.Now().UTC()
	e.record.Serial++
	return e.cfg.Journal.Save(context.WithoutCancel(ctx), e.record)
}

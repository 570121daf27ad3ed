package keeper

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

var errDown = errors.New("connection refused")

// heard is one report as the fake monitor received it.
type heard struct {
	at time.Duration
	report
}

// fakeMonitor answers reports with the goal that a test sets.
type fakeMonitor struct {
	clock func() time.Duration

	mu       sync.Mutex
	down     bool
	known    known
	peers    []peer
	goal     assignment
	reports  []heard
	asked    []string
	refuse   error  // of start_maintenance
	refused  string // afterwards
	onStart  func()
	sessions int
	notes    chan notification
}

func (m *fakeMonitor) dial(context.Context) (monitorSession, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down {
		return nil, errDown
	}
	m.sessions++
	return &fakeSession{m}, nil
}

// assign stores a goal and notifies, as a decision does.
func (m *fakeMonitor) assign(s fsm.State) {
	m.mu.Lock()
	m.goal.Goal, m.goal.Number = s, m.goal.Number+1
	m.mu.Unlock()
	select {
	case m.notes <- notification{Node: 1}:
	default:
	}
}

func (m *fakeMonitor) setDown(down bool) {
	m.mu.Lock()
	m.down = down
	m.mu.Unlock()
	if down {
		select {
		case m.notes <- notification{Node: -1}:
		default:
		}
	}
}

func (m *fakeMonitor) all() []heard {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]heard{}, m.reports...)
}

func (m *fakeMonitor) last() heard {
	all := m.all()
	if len(all) == 0 {
		return heard{}
	}
	return all[len(all)-1]
}

type fakeSession struct{ *fakeMonitor }

func (s *fakeSession) Close(context.Context) {}

func (s *fakeSession) Report(_ context.Context, r report) (assignment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return assignment{}, errDown
	}
	s.reports = append(s.reports, heard{at: s.clock(), report: r})
	return s.goal, nil
}

func (s *fakeSession) WaitNotification(ctx context.Context) (notification, error) {
	select {
	case n := <-s.notes:
		if n.Node < 0 {
			return n, errDown
		}
		return n, nil
	case <-ctx.Done():
		return notification{}, context.Cause(ctx)
	}
}

func (s *fakeSession) Known(context.Context) (known, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known, nil
}

func (s *fakeSession) note(what string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, what)
	return nil
}

func (s *fakeSession) OtherNodes(context.Context) ([]peer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peers, nil
}

func (s *fakeSession) Candidate(context.Context) (peer, bool, error) {
	return peer{}, false, nil
}
func (s *fakeSession) Primary(context.Context) (peer, error) { return peer{ID: 2}, nil }
func (s *fakeSession) MostAdvancedStandby(context.Context) (peer, bool, error) {
	return peer{}, false, nil
}

func (s *fakeSession) List(context.Context, int64) (pg.StandbyNames, bool, error) {
	return pg.StandbyNames{}, true, nil
}

func (s *fakeSession) StartMaintenance(context.Context) error {
	_ = s.note("start_maintenance")
	if s.refuse != nil {
		return s.refuse
	}
	if s.onStart != nil {
		s.onStart()
	}
	return nil
}

func (s *fakeSession) Refused(context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused, nil
}

func (s *fakeSession) Copies(context.Context) error { return s.note("copies") }

func (s *fakeSession) StopMaintenance(context.Context) error                  { return s.note("stop_maintenance") }
func (s *fakeSession) PublishHistory(context.Context, pg.History) error       { return nil }
func (s *fakeSession) SetSystemIdentifier(context.Context, pg.SystemID) error { return nil }
func (s *fakeSession) PublishVersion(context.Context, int, string, string) error {
	return nil
}
func (s *fakeSession) UpdateMetadata(context.Context, string, string, int) error { return nil }

// fakeServer is a server that does at once what a step asks, unless a test
// blocks or breaks the step.
type fakeServer struct {
	clock func() time.Duration

	mu       sync.Mutex
	running  bool
	silent   bool // runs and does not answer
	refusing bool // lets nobody in
	recovery bool
	sealed   bool
	cleanEnd bool
	lsn      pg.LSN
	names    pg.StandbyNames
	standbys map[int64]bool // who replies each second
	steps    []fsm.Step
	begin    pg.Timeline // what it was told to begin
	mended   int
	stirred  int
	deaf     bool // its receiver has heard nothing yet
	streams  fsm.Streaming
	blocked  map[fsm.Step]bool
	broken   map[fsm.Step]error
	exited   chan struct{}
}

func (s *fakeServer) runs() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

func (s *fakeServer) setRunning(running bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if running && !s.running {
		s.exited = make(chan struct{})
	}
	if !running && s.running {
		close(s.exited)
	}
	s.running = running
}

func (s *fakeServer) perform(ctx context.Context, step fsm.Step, t task) error {
	s.mu.Lock()
	s.steps = append(s.steps, step)
	if step == fsm.StepPromote {
		s.begin = t.Timeline
	}
	blocked, broken := s.blocked[step], s.broken[step]
	s.mu.Unlock()
	if blocked {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if broken != nil {
		return broken
	}
	switch step {
	case fsm.StepRewindOrInit, fsm.StepBaseBackup, fsm.StepStandbyAlone:
		s.edit(func() { s.recovery = true })
		s.setRunning(true)
	case fsm.StepStart, fsm.StepFollow:
		s.setRunning(true)
	case fsm.StepStop:
		s.mu.Lock()
		s.cleanEnd = true
		s.mu.Unlock()
		s.setRunning(false)
	case fsm.StepUnseal:
		s.edit(func() { s.recovery, s.sealed = s.recovery && !s.sealed, false })
	case fsm.StepStopNow:
		s.mu.Lock()
		s.cleanEnd = false
		s.mu.Unlock()
		s.setRunning(false)
	case fsm.StepPromote:
		s.mu.Lock()
		s.recovery = false
		s.mu.Unlock()
	default:
	}
	return nil
}

func (s *fakeServer) publish(context.Context) error { return nil }
func (s *fakeServer) arm(context.Context) error     { return nil }
func (s *fakeServer) fit(context.Context) error     { return nil }
func (s *fakeServer) mend(context.Context) error {
	s.edit(func() { s.mended++ })
	return nil
}

func (s *fakeServer) stir(context.Context) error {
	s.edit(func() { s.stirred++ })
	return nil
}
func (s *fakeServer) reconfigure(context.Context, fsm.State) error { return nil }

func (s *fakeServer) events() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.running {
		return nil
	}
	return s.exited
}

func (s *fakeServer) look(ctx context.Context) view {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := view{At: s.clock(), Running: s.running}
	switch {
	case s.running && s.silent:
		s.mu.Unlock()
		<-ctx.Done()
		s.mu.Lock()
		v.Err = context.Cause(ctx)
	case s.running:
		v.Ready, v.Alive, v.InRecovery, v.TLI, v.LSN, v.SyncNames = true, true, s.recovery, 1, s.lsn, s.names
		v.Sealed, v.Refused = s.sealed && s.recovery, s.refusing
		v.Streaming, v.Connecting = s.streams, s.deaf
		for id, lives := range s.standbys {
			seen := standbySeen{ID: id, ReplyTime: time.Unix(1, 0)}
			if lives {
				seen.ReplyTime = time.Now()
			}
			v.Standbys = append(v.Standbys, seen)
		}
	case s.cleanEnd:
		v.CleanStop, v.LSN, v.TLI = true, s.lsn, 1
	}
	return v
}

func (s *fakeServer) done() []fsm.Step {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]fsm.Step{}, s.steps...)
}

func (s *fakeServer) edit(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

var testLimits = limits{NetworkPartition: 20 * time.Second, RestartTimeout: 20 * time.Second, RestartRetries: 3}

// world is one engine among fakes, in virtual time.
type world struct {
	t       *testing.T
	clock   func() time.Duration
	monitor *fakeMonitor
	server  *fakeServer
	saved   []State
	saveErr error
	mu      sync.Mutex
	stops   chan StopMode
	reloads chan struct{}
	reload  func()
	// reporter is the running engine's.
	reporter *reporter
	cancel   context.CancelCauseFunc
	ended    chan error
	after    func(fsm.Step)
	care     care
	log      slog.Handler // what the node says; nil: nobody listens
	creating bool         // the node is being created
}

// inWorld runs test with a node in a state, its goal the same, its server
// running if the state asks for it.
func inWorld(t *testing.T, state fsm.State, prepare func(*world), test func(*testing.T, *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		clock := func() time.Duration { return time.Since(begin) }
		w := &world{
			t: t, clock: clock,
			monitor: &fakeMonitor{clock: clock, goal: assignment{Goal: state, Number: 7}, notes: make(chan notification, 16)},
			server: &fakeServer{
				clock: clock, recovery: standbyRole(state) || state == fsm.PreparePromotion, lsn: 0x1000,
				blocked: map[fsm.Step]bool{}, broken: map[fsm.Step]error{}, standbys: map[int64]bool{},
			},
			stops: make(chan StopMode, 4), reloads: make(chan struct{}), ended: make(chan error, 1),
		}
		w.server.setRunning(fsm.DutyOf(state).Postgres == fsm.PowerRunning)
		if prepare != nil {
			prepare(w)
		}
		w.start(state)
		test(t, w)
		w.cancel(ErrDetach)
		<-w.ended
	})
}

// start begins a run of an engine; the previous one has ended.
func (w *world) start(state fsm.State) {
	s := NewState()
	s.NodeID, s.Current, s.Assigned = 1, state, state
	w.startWith(s)
}

func (w *world) startWith(s State) {
	ctx, cancel := context.WithCancelCause(w.t.Context())
	w.cancel = cancel
	w.reporter = newReporter(1, w.clock, slog.New(slog.DiscardHandler), w.monitor.dial)
	e := newEngine(engineConfig{
		State: s, Machine: w.server, Sensor: w.server,
		Reporter: w.reporter,
		Clock:    w.clock, Save: w.save, Logger: slog.New(cmp.Or(w.log, slog.DiscardHandler)),
		AfterStep: func(s fsm.Step) {
			if w.after != nil {
				w.after(s)
			}
		},
		Limits: testLimits, Care: w.care,
		Creating: w.creating, InitExists: func() bool { return w.creating },
		Stops: w.stops, Reloads: w.reloads,
		Reload: func() (limits, bool) {
			if w.reload != nil {
				w.reload()
			}
			return testLimits, w.reload != nil
		},
	})
	go func() { w.ended <- e.run(ctx) }()
}

func (w *world) save(s State) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.saveErr != nil {
		return w.saveErr
	}
	w.saved = append(w.saved, s)
	return nil
}

func (w *world) current() fsm.State {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.saved) == 0 {
		return fsm.Unknown
	}
	return w.saved[len(w.saved)-1].Current
}

// pass lets virtual time go by.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// reached requires that the monitor has heard of a state.
func (w *world) reached(s fsm.State) {
	w.t.Helper()
	require.Equal(w.t, s, w.monitor.last().State)
}

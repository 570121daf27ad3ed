package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// node is the local server in the keeper's hands: the machine that performs
// steps on it and the sensor that looks at it.
type node struct {
	paths Paths
	tools postgres.Tools
	clock func() time.Duration
	log   *slog.Logger
	// tuning overrides what this machine would get.
	tuning postgres.Tuning
	// socketDir overrides where the server's socket is.
	socketDir string
	// ask puts a question to the monitor.
	ask func(ctx context.Context, do func(ctx context.Context, s monitorSession) error) error

	mu      sync.Mutex
	file    File
	who     identity
	pm      *postgres.Postmaster // nil: no server that we know of
	armed   int                  // process number of the postmaster that surely waits for standbys, 0 for none
	names   pg.StandbyNames      // as last set
	control pg.ControlData       // as last read
	checked checked              // by StepCheckTimeline
	// checkedUp is the server that it was compared with.
	checkedUp postgres.UpstreamConfig
	// gateOpen is the process number of the postmaster that surely lets clients in, 0 for none.
	gateOpen int
	addrs    map[string]string // HBA addresses that were looked up
	wanted   map[string]bool   // HBA rules that the operator was asked for
	citus    citusMemory
	// unrecovered counts starts of a standby in a row that ended while it recovered.
	unrecovered int
	leftOut     bool // timelines were left out for a promotion since this process started
	// archiver sees to numbers that were left out, while slots are seen to.
	archiver postgres.LeftOut

	// looking guards what the observer's goroutine looks with; a step borrows the session while it rests.
	looking     sync.Mutex
	session     *postgres.Session
	sessionPID  int
	sessionAt   time.Duration // when it began
	controlTime time.Time
	stopped     view
}

func (k *Keeper) newNode(who identity, log *slog.Logger) *node {
	return &node{
		paths: k.cfg.Paths, tools: k.cfg.Tools, tuning: k.cfg.Tuning, socketDir: k.cfg.SocketDir,
		clock: k.clock, log: log, file: k.cfg.File, who: who, addrs: make(map[string]string), wanted: make(map[string]bool),
		ask: func(context.Context, func(context.Context, monitorSession) error) error { return errNoMonitor },
	}
}

// config returns the configuration of the moment.
func (n *node) config() File {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.file
}

func (n *node) setConfig(f File) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.file = f
	clear(n.addrs)
}

func (n *node) identity() identity {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.who
}

// instance returns the data directory with the configuration of the moment.
func (n *node) instance() *postgres.Instance {
	return n.instanceOf(n.config())
}

func (n *node) instanceOf(f File) *postgres.Instance {
	cfg := postgres.Config{
		Tools: n.tools, DataDir: f.PGData, Port: f.Port, ListenAddresses: f.ListenAddresses,
		Host: f.Host, SocketDir: n.socketDir, Logger: n.log,
	}
	if n.socketDir == "" && filepath.IsAbs(f.Host) {
		cfg.SocketDir = f.Host
	}
	return postgres.New(cfg)
}

// lastControl returns the control data as last read, if ever.
func (n *node) lastControl() (pg.ControlData, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.control, n.control.SystemID != 0
}

// readControl reads the control file and keeps what it says.
func (n *node) readControl(ctx context.Context) (pg.ControlData, error) {
	control, err := n.instance().ControlData(ctx)
	if err != nil {
		return control, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.control = control
	return control, nil
}

// server returns the running server's postmaster, adopting one that somebody
// else started; nil when there is none.
func (n *node) server() (*postgres.Postmaster, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pm != nil {
		select {
		case <-n.pm.Exited():
			n.pm.Release()
			n.pm = nil
		default:
			return n.pm, nil
		}
	}
	pm, err := n.instanceOf(n.file).Adopt()
	if errors.Is(err, postgres.ErrNotRunning) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n.pm = pm
	return pm, nil
}

// keep makes pm the server that we know of. Of two handles on one process our
// own child's is kept: it is the one that reaps it.
func (n *node) keep(pm *postgres.Postmaster) *postgres.Postmaster {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.pm
	if old == pm {
		return pm
	}
	if old != nil && old.PID() == pm.PID() && pm.Adopted() {
		pm.Release()
		return old
	}
	if old != nil {
		old.Release()
	}
	n.pm = pm
	return pm
}

// release lets go of the server, which goes on without us.
func (n *node) release() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pm != nil {
		n.pm.Release()
		n.pm = nil
	}
}

// errHalfRewound refuses to start what is not a server any more: only a copy
// of another node helps, and until then this one must not vote.
var errHalfRewound = errors.New("the data directory is the remains of an interrupted rewind")

// start has the server running and answering, whatever it is.
func (n *node) start(ctx context.Context) error {
	pm, err := n.launch(ctx)
	if err != nil {
		return err
	}
	_, err = pm.WaitReady(ctx)
	return err
}

// startStandby is start for a standby: it may lack WAL or be damaged, and then
// never answers. The error is hopeless once another start would not help.
func (n *node) startStandby(ctx context.Context) error {
	pm, err := n.launch(ctx)
	if err != nil {
		return err
	}
	_, err = pm.WaitRecovered(ctx, recoveryStall)
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case err == nil:
		n.unrecovered = 0
	case errors.Is(err, postgres.ErrStalled):
		err = fmt.Errorf("%w: %w", errHopeless, err)
	case errors.Is(err, postgres.ErrNotRecovered) && !strings.Contains(err.Error(), "No space left on device"):
		if n.unrecovered++; n.unrecovered >= recoveryTries {
			err = fmt.Errorf("%w: %w", errHopeless, err)
		}
	}
	return err
}

// errHopeless marks a standby that does not come up whatever it is given: it
// needs another node's data.
var errHopeless = errors.New("this standby cannot be started")

// Patience with a standby that starts.
const (
	recoveryStall = 30 * time.Second // without any progress
	recoveryTries = 3                // that ended while it recovered
)

// launch has the server running.
func (n *node) launch(ctx context.Context) (*postgres.Postmaster, error) {
	pm, err := n.server()
	if err != nil || pm != nil {
		return pm, err
	}
	if n.instance().RewindInterrupted() {
		return nil, errHalfRewound
	}
	names := n.diskNames()
	started, err := n.instance().Start(ctx, postgres.StartConfig{})
	if err != nil {
		return nil, err
	}
	pm = n.keep(started)
	if !names.Empty() {
		n.markArmed(pm.PID())
	}
	return pm, nil
}

// diskNames returns the list that a server started now will go by.
func (n *node) diskNames() pg.StandbyNames {
	image, err := os.ReadFile(filepath.Join(n.config().PGData, "postgresql.auto.conf"))
	if err != nil {
		return pg.StandbyNames{}
	}
	settings, err := pg.ParseSettings(string(image))
	if err != nil {
		return pg.StandbyNames{}
	}
	value, _ := settings.Get("synchronous_standby_names")
	names, err := pg.ParseStandbyNames(value)
	if err != nil {
		return pg.StandbyNames{}
	}
	return names
}

// markArmed notes that commits on this postmaster's server wait for standbys:
// its checkpointer has seen a list that is not empty. Nobody else puts a list
// in force, and a promotion must not open before one is.
func (n *node) markArmed(pid int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.armed = pid
}

func (n *node) isArmed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pm != nil && n.pm.PID() == n.armed
}

// inRecovery asks the running server.
func (n *node) inRecovery(ctx context.Context) (bool, error) {
	var in bool
	err := n.instance().With(ctx, func(s *postgres.Session) error {
		return s.Conn().QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&in)
	})
	return in, err
}

// look observes the server once: through a kept connection when it runs,
// through its control file when it does not.
func (n *node) look(ctx context.Context) view {
	n.looking.Lock()
	defer n.looking.Unlock()
	v := view{At: n.clock()}
	pm, err := n.server()
	if err != nil {
		v.Err = err
		return v
	}
	if pm == nil {
		n.closeSession(ctx)
		return n.lookStopped(ctx, v)
	}
	n.controlTime = time.Time{}
	v.Running = true
	if n.session != nil && (n.session.Broken() || n.sessionPID != pm.PID()) {
		n.closeSession(ctx)
	}
	if n.session == nil || v.At-n.sessionAt > sessionLife {
		s, err := n.connect(ctx)
		switch {
		case err == nil:
			n.closeSession(ctx)
			n.session, n.sessionPID, n.sessionAt = s, pm.PID(), v.At
		case n.session == nil:
			v.Err, v.Alive = err, answers(err)
			return v
		default:
			// The session that we have goes on. An answer is what new clients get; no answer may be a busy machine.
			if v.Refused = answers(err); !v.Refused {
				n.sessionAt = v.At
			}
		}
	}
	o, err := n.session.Observe(ctx)
	if err != nil {
		v.Err, v.Alive = err, answers(err)
		n.closeSession(ctx)
		return v
	}
	fill(&v, o)
	v.Sealed = v.InRecovery && n.instance().Sealed()
	return v
}

// sessionLife is how long looks share a session: whether the server lets
// anybody in shows only when one begins.
const sessionLife = 5 * time.Second

// connect opens a session for looks; where there is one already that one's look needs time as well.
func (n *node) connect(ctx context.Context) (*postgres.Session, error) {
	if n.session != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, lookTimeout/2)
		defer cancel()
	}
	return n.instance().Connect(ctx, postgres.ConnectConfig{ApplicationName: "pgdrover observer", StatementTimeout: lookTimeout})
}

// answers reports whether an error came from a server that lives.
func answers(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer)
}

// fill turns an observation into a view.
func fill(v *view, o postgres.Observation) {
	v.Ready, v.Alive = true, true
	v.InRecovery, v.TLI, v.LSN, v.SyncState = o.InRecovery, o.TLI, o.LSN, o.SyncState
	if o.InRecovery {
		v.Streaming = fsm.StreamingNo
		if o.Receiver.Streaming() {
			v.Streaming = fsm.StreamingYes
		}
		v.Connecting = o.Receiver.Status == "connecting"
		v.Paused = o.Paused
	}
	for _, s := range o.Standbys {
		v.Standbys = append(v.Standbys, standbySeen{ID: s.ID, ReplyTime: s.ReplyTime})
	}
	names, err := pg.ParseStandbyNames(o.SyncNames)
	if err != nil {
		// A list in a form that we do not write: whoever is there may acknowledge.
		names = pg.StandbyNames{K: 1}
		for _, s := range o.Standbys {
			names.Members = append(names.Members, pg.StandbyName(s.ID))
		}
	}
	v.SyncNames = names
}

// lookStopped reads the control file of a server that does not run, when it
// has changed since the last look.
func (n *node) lookStopped(ctx context.Context, v view) view {
	info, err := os.Stat(filepath.Join(n.config().PGData, "global", "pg_control"))
	if err != nil {
		return v
	}
	if !info.ModTime().Equal(n.controlTime) {
		control, err := n.readControl(ctx)
		if err != nil {
			v.Err = err
			return v
		}
		n.controlTime = info.ModTime()
		n.stopped = view{}
		if control.CleanShutdown() {
			n.stopped = view{CleanStop: true, LSN: control.Checkpoint, TLI: control.TLI}
		}
	}
	v.CleanStop, v.LSN, v.TLI = n.stopped.CleanStop, n.stopped.LSN, n.stopped.TLI
	return v
}

// glance asks something on the observer's session while that rests, and else on
// one of its own: to begin a session costs more than most questions.
func (n *node) glance(ctx context.Context, f func(context.Context, *postgres.Session) error) error {
	if done, err := n.borrow(ctx, f); done {
		return err
	}
	return n.instance().With(ctx, func(s *postgres.Session) error { return f(ctx, s) })
}

// borrow asks on the observer's session; not done when there is none that works.
func (n *node) borrow(ctx context.Context, f func(context.Context, *postgres.Session) error) (done bool, err error) {
	pm, err := n.server()
	if err != nil || pm == nil || !n.looking.TryLock() {
		return false, nil
	}
	defer n.looking.Unlock()
	if n.session == nil || n.session.Broken() || n.sessionPID != pm.PID() {
		return false, nil
	}
	// Not for long: a server that hangs has to be seen.
	ctx, cancel := context.WithTimeout(ctx, lookTimeout/2)
	defer cancel()
	err = f(ctx, n.session)
	return !n.session.Broken(), err
}

func (n *node) closeSession(ctx context.Context) {
	if n.session != nil {
		n.session.Close(ctx)
		n.session = nil
	}
}

// events is closed when the server that we know of has ended.
func (n *node) events() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pm == nil {
		return nil
	}
	return n.pm.Exited()
}

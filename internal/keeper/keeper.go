package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// Config is everything a keeper is told.
type Config struct {
	Paths Paths
	File  File
	Tools postgres.Tools
	// Tuning overrides the memory and processor figures of this machine; zero means look.
	Tuning postgres.Tuning
	// SocketDir is where the server puts its socket; empty means postgresql.host
	// when that is a directory, else the server's default.
	SocketDir string
	Logger    *slog.Logger
	// Reload asks to read Paths.ConfigFile again; nil means never.
	Reload  <-chan struct{}
	Version string // of the program, for the pid file
	// Ready is called once, at the first report that the monitor answered.
	Ready func()
	// VersionMismatch is called at each connection to a monitor whose schema is
	// not of this program's version. A caller that finds a fitting program on
	// disk cancels Run with ErrDetach and executes it.
	VersionMismatch func(monitor, own int)
	// AfterStep sees each step that was performed; for tests.
	AfterStep func(fsm.Step)
}

// Keeper keeps one PostgreSQL server in the state that the monitor asks for.
type Keeper struct {
	cfg   Config
	log   *slog.Logger
	clock func() time.Duration
	stops chan StopMode
}

// New checks the configuration; it touches nothing.
func New(cfg Config) (*Keeper, error) {
	if err := cfg.File.Validate(); err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{cfg: cfg, log: log, clock: boottime, stops: make(chan StopMode, 4)}, nil
}

// boottime is a clock that nobody sets and that runs through suspend.
func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err))
	}
	return time.Duration(ts.Nano())
}

// Stop asks a running Run to end, or to end faster. The strongest mode wins.
func (k *Keeper) Stop(mode StopMode) {
	select {
	case k.stops <- mode:
	default: // four wishes wait already
	}
}

// Run keeps the server until ctx ends, and returns after the stop that its
// cause asks for: an error with a method Signal() os.Signal tells SIGTERM
// (hand over first), SIGINT (stop) and SIGQUIT (stop at once) apart, ErrDetach
// leaves PostgreSQL running. ErrDropped and ErrNotRegistered end it as well.
func (k *Keeper) Run(ctx context.Context) error {
	if err := refuseRoot(); err != nil {
		return err
	}
	lock, err := k.lock()
	if err != nil {
		return err
	}
	defer lock.release()
	// Another program may have written it so that everybody can read its passwords.
	if err := os.Chmod(k.cfg.Paths.ConfigFile, privateMode); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("protect configuration file: %w", err)
	}
	if err := removeFile(k.cfg.Paths.PostgresFile); err != nil {
		return err
	}
	state, err := ReadState(k.cfg.Paths.StateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return &StateError{Path: k.cfg.Paths.StateFile, Err: err}
	}
	if err != nil {
		return err
	}
	if _, err := ReadInit(k.cfg.Paths.InitFile); err == nil {
		k.log.InfoContext(ctx, "continuing from a previous `pg_autoctl create` failed attempt", "node", state.NodeID)
	}
	return k.work(ctx, state, false)
}

// work runs the engine of a registered node.
func (k *Keeper) work(ctx context.Context, state State, creating bool) error {
	who := identity{formation: k.cfg.File.Formation, group: int(state.Group), nodeID: int64(state.NodeID)}
	log := k.log.With("formation", who.formation, "group", who.group, "node", who.nodeID)
	local := k.newNode(who, log)
	defer local.release()
	self := &alone{paths: k.cfg.Paths, self: who.nodeID}
	reporter := newReporter(who.nodeID, k.clock, log, func(ctx context.Context) (monitorSession, error) {
		if local.config().Monitor == MonitorDisabled {
			return self, nil
		}
		s, err := dialMonitor(ctx, local.config().Monitor, who)
		if err != nil {
			return nil, err
		}
		k.compareVersions(ctx, s.db)
		return s, nil
	})
	local.ask = reporter.ask
	e := newEngine(engineConfig{
		State: state, Machine: local, Sensor: local, Reporter: reporter, Clock: k.clock,
		Save:      func(s State) error { return k.saveState(local, s) },
		Logger:    log,
		AfterStep: k.cfg.AfterStep, Ready: k.cfg.Ready, Care: local.citusCare(),
		Limits:     k.cfg.File.limits(),
		Creating:   creating,
		InitExists: func() bool { return exists(k.cfg.Paths.InitFile) },
		Stops:      k.stops, Reloads: k.cfg.Reload,
		Reload: func() (limits, bool) { return k.reload(local, reporter) },
	})
	if !creating {
		local.freshen(ctx, state.Current)
	}
	err := e.run(ctx)
	local.closeSession(context.WithoutCancel(ctx))
	if saveErr := k.saveState(local, e.state); saveErr != nil && err == nil {
		return saveErr
	}
	return err
}

// compareVersions tells whoever wants to know that monitor and keeper are of
// different versions. The server is kept all the same: a difference of
// versions is no reason to stop it.
func (k *Keeper) compareVersions(ctx context.Context, db *pgautofailover.DB) {
	version, err := pgautofailover.SchemaVersion(ctx, db)
	if err != nil || version == pgautofailover.SchemaNumber {
		return
	}
	k.log.WarnContext(ctx, "the monitor is of another version", "monitor", version, "own", pgautofailover.SchemaNumber)
	if k.cfg.VersionMismatch != nil {
		k.cfg.VersionMismatch(version, pgautofailover.SchemaNumber)
	}
}

// saveState writes the state file with what is known of the data directory.
func (k *Keeper) saveState(local *node, s State) error {
	if control, ok := local.lastControl(); ok {
		s.ControlVersion = uint32(control.ControlVersion) //nolint:gosec // small numbers
		s.CatalogVersion = uint32(control.CatalogVersion) //nolint:gosec // small numbers
		s.SystemID = control.SystemID
	}
	if local.config().Monitor == MonitorDisabled {
		// The goal in the file is an operator's, who may have written it since it was read.
		if now, err := ReadState(k.cfg.Paths.StateFile); err == nil {
			s.Assigned = now.Assigned
		}
	}
	return WriteState(k.cfg.Paths.StateFile, s)
}

// reload reads the configuration again. What cannot change while the node is
// kept stays as it was.
func (k *Keeper) reload(local *node, reporter *reporter) (limits, bool) {
	next, err := LoadFile(k.cfg.Paths.ConfigFile)
	if err == nil {
		err = next.Validate()
	}
	if err != nil {
		k.log.Warn("keeping the configuration as it was", "error", err)
		return limits{}, false
	}
	now := local.config()
	for _, fixed := range []struct{ key, was, is string }{
		{"postgresql.pgdata", now.PGData, next.PGData},
		{"pg_autoctl.formation", now.Formation, next.Formation},
		{"pg_autoctl.nodekind", now.NodeKind, next.NodeKind},
	} {
		if fixed.was != fixed.is {
			k.log.Warn("ignoring a change that needs a new node", "option", fixed.key, "value", fixed.is)
		}
	}
	next.PGData, next.Formation, next.NodeKind, next.Group = now.PGData, now.Formation, now.NodeKind, now.Group
	local.setConfig(next)
	if next.Monitor != now.Monitor {
		reporter.reconnect()
	}
	return next.limits(), true
}

// exists reports whether there is a file.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// refuseRoot ends what could only fail later: PostgreSQL does not run as root.
func refuseRoot() error {
	if os.Geteuid() == 0 {
		return withHint(errors.New("PostgreSQL cannot be run as root"),
			"run this command as the system user that owns the data directory")
	}
	return nil
}

// single opens one session with the monitor for a command that is over soon.
func (k *Keeper) single(ctx context.Context, state State, do func(s monitorSession, local *node) error) error {
	if k.cfg.File.Monitor == MonitorDisabled {
		return &ConfigError{Key: "pg_autoctl.monitor", Err: errDisabled, hint: "the node's goal is assigned with `pg_autoctl do fsm assign`"}
	}
	who := identity{formation: k.cfg.File.Formation, group: int(state.Group), nodeID: int64(state.NodeID)}
	local := k.newNode(who, k.log)
	defer local.release()
	defer local.closeSession(context.WithoutCancel(ctx))
	s, err := dialMonitor(ctx, k.cfg.File.Monitor, who)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	var mu sync.Mutex
	local.ask = func(ctx context.Context, do func(ctx context.Context, s monitorSession) error) error {
		mu.Lock()
		defer mu.Unlock()
		return do(ctx, s)
	}
	return do(s, local)
}

// Step makes one report and walks at most one edge.
func (k *Keeper) Step(ctx context.Context) error {
	_, _, err := k.StepOf(ctx, StepWhole)
	return err
}

// oneReport says what one look shows.
func oneReport(v view, state fsm.State) report {
	r := report{State: state, Running: v.Ready}
	if v.Ready || v.CleanStop {
		r.TLI, r.LSN, r.SyncState, r.Streaming, r.CleanStop = v.TLI, v.LSN, v.SyncState, v.Streaming, v.CleanStop
	}
	return r
}

// ReportDropped stops PostgreSQL and tells the monitor that a dropped node is
// gone, for a node whose service does not run.
func ReportDropped(ctx context.Context, cfg Config) error {
	k, err := New(cfg)
	if err != nil {
		return err
	}
	lock, err := k.lock()
	if err != nil {
		return err
	}
	defer lock.release()
	state, err := ReadState(cfg.Paths.StateFile)
	if err != nil {
		return err
	}
	return k.single(ctx, state, func(s monitorSession, local *node) error {
		if err := local.perform(ctx, fsm.StepStop, task{From: state.Current, To: fsm.Dropped}); err != nil {
			return err
		}
		if err := removeFile(cfg.Paths.InitFile); err != nil {
			return err
		}
		state.Current, state.Assigned = fsm.Dropped, fsm.Dropped
		if err := k.saveState(local, state); err != nil {
			return err
		}
		// Twice: the answer to the first names the goal's number.
		a, err := s.Report(ctx, report{State: fsm.Dropped})
		if err == nil && a.Goal == fsm.Dropped {
			_, err = s.Report(ctx, report{State: fsm.Dropped, Reached: a.Number})
		}
		if err != nil && !unknownNode(err) {
			return &MonitorError{Op: "report to the monitor", Err: err}
		}
		return nil
	})
}

// CheckDropped reports whether the monitor does not know this node any more.
func CheckDropped(ctx context.Context, cfg Config) (bool, error) {
	state, err := ReadState(cfg.Paths.StateFile)
	if err != nil {
		return false, err
	}
	known, err := nodeKnown(ctx, cfg.File.Monitor, int64(state.NodeID))
	return !known, err
}

// systemOf reads the system identifier of an existing data directory.
func systemOf(ctx context.Context, inst *postgres.Instance) (pg.SystemID, error) {
	if !inst.Exists() {
		return 0, nil
	}
	control, err := inst.ControlData(ctx)
	return control.SystemID, err
}

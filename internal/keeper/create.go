package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// CreateConfig is one creation.
type CreateConfig struct {
	Config
	CandidatePriority int
	ReplicationQuorum bool
	// NodeID numbers a node without a monitor.
	NodeID int64
	// Run leaves PostgreSQL running at the end: Run adopts it.
	Run bool
}

// Patience of a creation with the monitor.
const (
	connectPatience  = 5 * time.Second
	registerPatience = 5 * time.Minute
	registerPause    = 500 * time.Millisecond
)

// Create registers this node with the monitor and initialises it: it becomes
// the group's first node, or a standby of the primary. Killed anywhere, the
// same call again goes on where the first one was. What it refuses leaves
// files, servers and the registration as they were.
func Create(ctx context.Context, cfg CreateConfig) error {
	if err := refuseRoot(); err != nil {
		return err
	}
	k, err := New(cfg.Config)
	if err != nil {
		return err
	}
	lock, err := k.lock()
	if err != nil {
		return err
	}
	defer lock.release()
	c := creation{Keeper: k, cfg: cfg}
	state, err := c.register(ctx)
	if errors.Is(err, ErrCreated) && cfg.Run {
		return nil
	}
	if err != nil {
		return err
	}
	if state.Assigned == fsm.Init {
		k.log.InfoContext(ctx, "this node has no monitor and waits for its goal", "node", state.NodeID,
			"hint", "run it, and assign one with `pg_autoctl do fsm assign`")
		return nil
	}
	if err := k.work(ctx, state, true); err != nil {
		if ctx.Err() == nil && c.restore != nil && permanent(err) {
			// Trying again would not help, and this call began from nothing: take it all back.
			if undoErr := c.takeBack(context.WithoutCancel(ctx), state); undoErr != nil {
				return errors.Join(err, undoErr)
			}
		}
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("create this node: %w", err)
	}
	if cfg.Run {
		return nil
	}
	local := k.newNode(identity{}, k.log)
	defer local.release()
	return local.stop(ctx)
}

// creation is one Create under way.
type creation struct {
	*Keeper
	cfg CreateConfig
	// restore puts the files back as they were; nil unless this call registered the node.
	restore func() error
	pre     PreInit
}

// register returns the state of a registered node whose initialisation is not
// over: a new one, or one whose creation was interrupted.
func (c *creation) register(ctx context.Context) (State, error) {
	paths := c.cfg.Paths
	desired := int64(0)
	state, err := ReadState(paths.StateFile)
	switch {
	case err == nil:
		known := c.disabled()
		if state.NodeID > 0 && !known {
			if known, err = c.known(ctx, int64(state.NodeID)); err != nil {
				return State{}, err
			}
		}
		// The init file goes before the state is recorded.
		if known && (exists(paths.InitFile) || state.Current.In(fsm.Init, fsm.WaitStandby)) {
			return c.resume(state)
		}
		if known && state.Current != fsm.Dropped {
			return State{}, &CreateError{
				Step: "create this node",
				Err:  fmt.Errorf("%w: the state file %q exists and there is no init in progress", ErrCreated, paths.StateFile),
				hint: "use `pg_autoctl run` to start the node, or `pg_autoctl drop node` first",
			}
		}
		if state.Current != fsm.Init {
			desired = int64(state.NodeID)
		}
		c.log.InfoContext(ctx, "registering again: the monitor does not know this node", "node", state.NodeID)
		if err := removeFile(paths.InitFile); err != nil {
			return State{}, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return State{}, err
	default:
		if exists(paths.InitFile) {
			// Written in a registration that was taken back.
			if err := removeFile(paths.InitFile); err != nil {
				return State{}, err
			}
		}
	}
	pre, err := c.inspect(ctx)
	if err != nil {
		return State{}, err
	}
	if c.disabled() {
		return c.numberItself(ctx, pre)
	}
	return c.registerNew(ctx, pre, desired)
}

// disabled reports a node without a monitor.
func (c *creation) disabled() bool { return c.cfg.File.Monitor == MonitorDisabled }

// numberItself is the registration of a node without a monitor.
func (c *creation) numberItself(ctx context.Context, pre PreInit) (State, error) {
	if c.cfg.NodeID < 1 || c.cfg.NodeID > math.MaxInt32 {
		return State{}, &CreateError{
			Step: "number this node", Err: fmt.Errorf("%d is no node number", c.cfg.NodeID),
			hint: "without a monitor give a number of its own to each node of the group, with --node-id",
		}
	}
	self := pgautofailover.Registered{NodeID: c.cfg.NodeID, Goal: firstGoal(c.cfg.NodeID), Name: c.cfg.File.Name}
	if self.Name == "" {
		self.Name = fmt.Sprintf("node_%d", self.NodeID)
	}
	undo := c.keepFiles()
	state, err := c.writeFiles(self, pre)
	if err != nil {
		return State{}, errors.Join(err, undo())
	}
	c.restore, c.pre = undo, pre
	c.log.InfoContext(ctx, "created without a monitor", "group", state.Group, "node", state.NodeID, "goal_state", state.Assigned.String())
	return state, nil
}

// resume goes on with a creation that was interrupted.
func (c *creation) resume(state State) (State, error) {
	c.log.Info("continuing from a previous `pg_autoctl create` failed attempt", "node", state.NodeID,
		"state", state.Current.String(), "goal_state", state.Assigned.String())
	c.Keeper.cfg.File.Group = int(state.Group)
	if c.Keeper.cfg.File.BackupDirectory == "" {
		c.Keeper.cfg.File.BackupDirectory = defaultBackupDir(c.cfg.File.PGData, int64(state.NodeID))
	}
	return state, c.Keeper.cfg.File.Save(c.cfg.Paths.ConfigFile)
}

// inspect looks at the data directory and refuses what cannot become a node.
func (c *creation) inspect(ctx context.Context) (PreInit, error) {
	file := c.cfg.File
	refuse := func(err error, hint string) (PreInit, error) {
		return PreInitUnknown, &CreateError{Step: "use data directory " + file.PGData, Err: err, hint: hint}
	}
	inst := c.newNode(identity{}, c.log).instance()
	info, err := os.Stat(file.PGData)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := parentWritable(file.PGData); err != nil {
			return refuse(err, "choose another --pgdata or make its parent directory writable for this user")
		}
		return PGDataAbsent, c.portFree(ctx)
	case err != nil:
		return refuse(err, "")
	case !info.IsDir():
		return refuse(errors.New("it is not a directory"), "choose another --pgdata")
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return refuse(fmt.Errorf("it belongs to user id %d, this command runs as %d", st.Uid, os.Geteuid()),
			"run this command as the owner of the data directory")
	}
	if !inst.Exists() {
		entries, err := os.ReadDir(file.PGData)
		if err != nil {
			return refuse(err, "")
		}
		if len(entries) > 0 && !inst.InitInterrupted() {
			return refuse(errors.New("it is not empty and holds no database system"),
				"choose another --pgdata, or empty the directory when its contents are not needed")
		}
		return PGDataAbsent, c.portFree(ctx)
	}
	if inst.InitInterrupted() {
		return PGDataAbsent, c.portFree(ctx) // it will be made anew
	}
	status, err := inst.Status()
	if err != nil {
		return refuse(err, hintOf(err))
	}
	if status.Running {
		return refuse(fmt.Errorf("PostgreSQL runs in it with pid %d", status.PID),
			"stop that server with pg_ctl stop and run the same command again")
	}
	if err := c.sameMajor(ctx); err != nil {
		return refuse(err, "use the pg_ctl of the version that created the data directory, with --pgctl")
	}
	return PGDataExists, c.portFree(ctx)
}

// parentWritable reports whether the data directory could be made.
func parentWritable(pgdata string) error {
	dir := filepath.Dir(filepath.Clean(pgdata))
	for !exists(dir) && dir != "/" {
		dir = filepath.Dir(dir)
	}
	if err := syscall.Access(dir, 2); err != nil {
		return fmt.Errorf("create it in %s: %w", dir, err)
	}
	return nil
}

// sameMajor compares the data directory's version with the tools'.
func (c *creation) sameMajor(ctx context.Context) error {
	text, err := os.ReadFile(filepath.Join(c.cfg.File.PGData, "PG_VERSION"))
	if err != nil {
		return err
	}
	version, err := c.cfg.Tools.Version(ctx)
	if err != nil {
		return err
	}
	if major := strconv.Itoa(version.Number / 10000); strings.TrimSpace(string(text)) != major {
		return fmt.Errorf("it was made by PostgreSQL %s, the tools are version %s", strings.TrimSpace(string(text)), version.Text)
	}
	return nil
}

// portFree refuses a port that somebody listens on.
func (c *creation) portFree(ctx context.Context) error {
	host := c.cfg.File.ListenAddresses
	if host == "*" || strings.Contains(host, ",") {
		host = ""
	}
	address := net.JoinHostPort(host, strconv.Itoa(c.cfg.File.Port))
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if err == nil {
		return l.Close()
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return nil // a name that only the server can listen on: it will say so itself
	}
	return &CreateError{
		Step: "use port " + strconv.Itoa(c.cfg.File.Port), Err: errors.New("another program listens on it"),
		hint: "choose a free port with --pgport, or stop that program",
	}
}

// monitor connects, and tries for a moment: it may be starting as well.
func (c *creation) monitor(ctx context.Context) (*pgautofailover.DB, error) {
	deadline := time.Now().Add(connectPatience)
	for {
		db, err := connectMonitor(ctx, c.cfg.File.Monitor, "pg_autoctl create postgres")
		if err == nil || !time.Now().Before(deadline) || !mayComeUp(err) {
			return db, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(registerPause):
		}
	}
}

// mayComeUp reports an error of a server that starts, or is not there yet.
func mayComeUp(err error) bool {
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok {
		return answer.Code == pgerrcode.CannotConnectNow
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func (c *creation) known(ctx context.Context, nodeID int64) (bool, error) {
	db, err := c.monitor(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = db.Close(ctx) }()
	return knows(ctx, db, nodeID)
}

func nodeKnown(ctx context.Context, uri string, nodeID int64) (bool, error) {
	db, err := connectMonitor(ctx, uri, "pg_autoctl")
	if err != nil {
		return false, err
	}
	defer func() { _ = db.Close(ctx) }()
	return knows(ctx, db, nodeID)
}

func knows(ctx context.Context, db *pgautofailover.DB, nodeID int64) (bool, error) {
	_, err := db.NodeByID(ctx, nodeID)
	switch {
	case errors.Is(err, pgautofailover.ErrNotFound):
		return false, nil
	case err != nil:
		return false, &MonitorError{Op: "look for this node on the monitor", Err: err}
	}
	return true, nil
}

// registerNew registers the node, and tries again while another registration
// is in the way.
func (c *creation) registerNew(ctx context.Context, pre PreInit, desired int64) (State, error) {
	deadline := time.Now().Add(registerPatience)
	for {
		state, err := c.registerOnce(ctx, pre, desired)
		if err == nil || !time.Now().Before(deadline) || !worthRetrying(err) {
			return state, err
		}
		c.log.WarnContext(ctx, "could not register yet, retrying", "error", err)
		select {
		case <-ctx.Done():
			return State{}, context.Cause(ctx)
		case <-time.After(registerPause):
		}
	}
}

// worthRetrying reports refusals that go away by themselves: another
// registration is under way, or the group has no primary at the moment.
func worthRetrying(err error) bool {
	if pgautofailover.SQLState(err) == pgerrcode.ObjectInUse {
		return true
	}
	return pgautofailover.SQLState(err) != "" && pgautofailover.Retryable(err)
}

// registerOnce is the registration: the monitor makes it visible only after
// state, configuration and init file are on disk, so that no node is ever
// registered without knowing it.
func (c *creation) registerOnce(ctx context.Context, pre PreInit, desired int64) (State, error) {
	file := c.cfg.File
	var system pg.SystemID
	if pre == PGDataExists {
		var err error
		if system, err = systemOf(ctx, c.newNode(identity{}, c.log).instance()); err != nil {
			return State{}, &CreateError{Step: "read data directory " + file.PGData, Err: err}
		}
	}
	db, err := c.monitor(ctx)
	if err != nil {
		return State{}, err
	}
	defer func() { _ = db.Close(context.WithoutCancel(ctx)) }()
	pending, err := db.BeginRegistration(ctx, pgautofailover.Registration{
		Formation: file.Formation, Host: file.Hostname, Port: file.Port, DBName: file.DBName, Name: file.Name,
		SystemID: system, DesiredNode: desired, DesiredGroup: file.Group, Initial: fsm.Init, Kind: kindOf(file),
		Priority: c.cfg.CandidatePriority, Quorum: c.cfg.ReplicationQuorum, Cluster: file.CitusClusterName,
	})
	if err != nil {
		return State{}, refusal(err)
	}
	undo := c.keepFiles()
	if pre == PGDataExists {
		// Not before the monitor has accepted the node: there is no way back.
		if err := c.newNode(identity{}, c.log).instance().ImportDebianConfig(postgres.DebianConfigDir); err != nil {
			return State{}, errors.Join(err, pending.Rollback(ctx))
		}
	}
	state, err := c.writeFiles(pending.Result, pre)
	if err != nil {
		return State{}, errors.Join(err, undo(), pending.Rollback(ctx))
	}
	if err := pending.Commit(ctx); err != nil {
		if pgautofailover.SQLState(err) == "" {
			// Nobody knows whether it is registered: the next try will ask.
			return State{}, &MonitorError{Op: "complete the registration", Err: err}
		}
		return State{}, errors.Join(refusal(err), undo())
	}
	c.restore, c.pre = undo, pre
	c.log.InfoContext(ctx, "registered", "formation", file.Formation, "group", state.Group, "node", state.NodeID,
		"goal_state", state.Assigned.String())
	return state, nil
}

// refusal words what the monitor did not accept.
func refusal(err error) error {
	e := &CreateError{Step: "register this node", Err: err}
	switch pgautofailover.SQLState(err) {
	case pgerrcode.ExclusionViolation:
		if hintOf(err) == "" {
			e.hint = "the group's nodes all hold one database system: use an empty --pgdata, or another formation"
		}
	case pgerrcode.UndefinedTable, pgerrcode.InvalidSchemaName, pgerrcode.UndefinedFunction:
		e.Err = fmt.Errorf("this database is no monitor: %w", err)
		e.hint = "the monitor shows its URI with `pg_autoctl show uri --formation monitor`"
	}
	return e
}

// writeFiles writes what a registered node has on disk.
func (c *creation) writeFiles(r pgautofailover.Registered, pre PreInit) (State, error) {
	if pre == PGDataExists {
		// A mark that an earlier creation left there says nothing of this data.
		if err := c.newNode(identity{}, c.log).instance().ForgetInit(); err != nil {
			return State{}, err
		}
	}
	state := NewState()
	state.NodeID, state.Group = int32(r.NodeID), int32(r.Group) //nolint:gosec // small numbers
	state.Assigned = r.Goal
	file := &c.Keeper.cfg.File
	file.Group, file.Name = r.Group, r.Name
	if file.BackupDirectory == "" {
		file.BackupDirectory = defaultBackupDir(file.PGData, r.NodeID)
	}
	if file.SSL.SelfSigned {
		file.SSL.CertFile = filepath.Join(file.PGData, "server.crt")
		file.SSL.KeyFile = filepath.Join(file.PGData, "server.key")
	}
	paths := c.cfg.Paths
	if err := WriteState(paths.StateFile, state); err != nil {
		return State{}, err
	}
	if err := file.Save(paths.ConfigFile); err != nil {
		return State{}, err
	}
	return state, writeInit(paths.InitFile, pre)
}

// keepFiles remembers the files as they are and returns what puts them back.
func (c *creation) keepFiles() func() error {
	paths := c.cfg.Paths
	config, configErr := os.ReadFile(paths.ConfigFile)
	state, stateErr := os.ReadFile(paths.StateFile)
	file := c.Keeper.cfg.File
	restore := func(path string, data []byte, readErr error, mode os.FileMode) error {
		if readErr != nil {
			return removeFile(path)
		}
		return replaceFile(path, ".tmp", data, mode)
	}
	return func() error {
		c.Keeper.cfg.File = file
		return errors.Join(removeFile(paths.InitFile), restore(paths.ConfigFile, config, configErr, privateMode),
			restore(paths.StateFile, state, stateErr, 0o600))
	}
}

// unregister removes the node from the monitor.
func (c *creation) unregister(ctx context.Context, nodeID int64) error {
	db, err := c.monitor(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close(ctx) }()
	if _, err := db.RemoveNode(ctx, nodeID, true); err != nil && pgautofailover.SQLState(err) != pgerrcode.UndefinedObject {
		return fmt.Errorf("take the registration back: %w", err)
	}
	return nil
}

// takeBack undoes a registration whose initialisation cannot succeed: the
// node leaves the monitor, its files and the data directory are as they were.
func (c *creation) takeBack(ctx context.Context, state State) error {
	now, err := ReadState(c.cfg.Paths.StateFile)
	if err != nil || !now.Current.In(fsm.Init, fsm.WaitStandby) {
		return err
	}
	if !c.disabled() {
		if err := c.unregister(ctx, int64(state.NodeID)); err != nil {
			return err
		}
	}
	local := c.newNode(identity{}, c.log)
	defer local.release()
	if c.pre == PGDataAbsent && exists(c.cfg.File.PGData) {
		if err := local.stopNow(ctx); err != nil {
			return err
		}
		if err := local.instance().Remove(); err != nil {
			return err
		}
	}
	chosen := c.Keeper.cfg.File
	if err := errors.Join(c.restore(), local.instance().ForgetInit()); err != nil {
		return err
	}
	RemoveBackupDir(chosen)
	c.log.InfoContext(ctx, "took the registration back", "node", state.NodeID)
	return nil
}

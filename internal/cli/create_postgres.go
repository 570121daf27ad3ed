package cli

import (
	"context"
	"errors"
	"math"
	"os"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/keeper"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

func newCreatePostgresCmd(env *Env) *cobra.Command {
	cmd := newLeaf("postgres", "Initialize a pg_auto_failover postgres node", func(cmd *cobra.Command, _ []string) error {
		return createNode(cmd.Context(), env, cmd, fsm.Standalone)
	})
	createFlags(cmd)
	nodeFlags(cmd, "postgres")
	f := cmd.Flags()
	f.StringP("node-id", "I", "", "`number` of the node, without a monitor")
	f.StringP("maximum-backup-rate", "R", "", "maximum transfer `rate` of a base backup (default 100M)")
	f.StringP("monitor-password", "W", "", "`password` for connections to the monitor")
	f.StringP("replication-password", "w", "", "`password` for streaming replication")
	return cmd
}

// nodeFlags adds the options of every kind of node.
func nodeFlags(cmd *cobra.Command, dbname string) {
	f := cmd.Flags()
	f.StringP("pghost", "H", "", "`host` or socket directory for local connections")
	f.StringP("username", "U", "", "`name` of the database user to create")
	f.StringP("dbname", "d", "", "`name` of the database to create (default "+dbname+")")
	f.StringP("name", "a", "", "`name` of the node, as the monitor shows it")
	f.StringP("formation", "f", "", "`name` of the formation to join (default default)")
	f.StringP("monitor", "m", "", "`URI` of the monitor")
	f.BoolP("disable-monitor", "M", false, "run without a monitor")
	f.BoolP("pg-hba-lan", "L", false, "let the whole local network connect")
	f.StringP("candidate-priority", "P", "", "`priority` of this node to be promoted, 0 to 100 (default 50)")
	f.StringP("replication-quorum", "r", "", "`true` when this node takes part in the replication quorum (default true)")
	f.StringP("region", "G", "", "`name` of the region that the node is in (default default)")
}

// registration is what only the monitor is told of a new node.
type registration struct {
	nodeID   int64 // without a monitor only
	priority int
	given    bool // the priority was not left to its default
	quorum   bool
}

func createNode(ctx context.Context, env *Env, cmd *cobra.Command, kind fsm.NodeKind) error {
	if err := env.refuseRoot(env.program() + " create " + cmd.Name()); err != nil {
		return err
	}
	reg, citus, err := readRegistration(env, cmd, kind)
	if err != nil {
		return err
	}
	c, err := readCreation(env, cmd)
	if err != nil {
		return err
	}
	if on(cmd, "skip-pg-hba") && on(cmd, "pg-hba-lan") {
		return misuse("Please use either --skip-pg-hba or --pg-hba-lan")
	}
	if err := c.refuseRunning(); err != nil {
		return err
	}
	file, err := c.keeperFile(ctx, env, cmd, citus)
	if err != nil {
		return err
	}
	n := node{site: c.site, role: roleKeeper, keeper: file}
	cfg := keeper.Config{
		Paths: c.site.keeperPaths(), File: file, Tools: c.tools, Logger: env.log, Reload: env.Reload, Version: env.Version,
	}
	run := on(cmd, "run")
	switch done, err := createdBefore(ctx, env, &n, cfg, run); {
	case err != nil:
		return err
	case done && run:
		return runKeeper(ctx, env, cfg)
	case done:
		return fatal(exitOK, "The state file %q exists and there's no init in progress", n.state).
			withHint("use `%s run` to start the service of this node", env.program())
	}
	err = keeper.Create(ctx, keeper.CreateConfig{
		Config: cfg, CandidatePriority: reg.priority, ReplicationQuorum: reg.quorum, NodeID: reg.nodeID, Run: run,
	})
	if err != nil {
		return createFailed(ctx, err)
	}
	if err := interrupted(ctx, run); err != nil || ctx.Err() != nil {
		return err
	}
	if err := placeInRegion(ctx, env, n, text(cmd, "region")); err != nil {
		return err
	}
	env.infof("%s node has been successfully initialized.", cmd.Name())
	if !run {
		return nil
	}
	if cfg.File, err = keeper.LoadFile(c.site.config); err != nil {
		return withCode(exitBadConfig, err)
	}
	return runKeeper(ctx, env, cfg)
}

// readRegistration reads priority and quorum, and how the node knows its monitor.
func readRegistration(env *Env, cmd *cobra.Command, kind fsm.NodeKind) (registration, citusOptions, error) {
	reg := registration{priority: 50, quorum: true}
	if err := reg.readPriority(env, cmd); err != nil {
		return reg, citusOptions{}, err
	}
	citus, err := readCitus(cmd, kind, &reg)
	if err == nil && kind == fsm.Standalone {
		err = reg.readNumber(cmd)
	}
	return reg, citus, err
}

// readNumber reads the number of a node without a monitor.
func (reg *registration) readNumber(cmd *cobra.Command) error {
	disabled := on(cmd, "disable-monitor")
	switch {
	case disabled && text(cmd, "node-id") == "":
		return fatal(exitBadArgs, "Option --disable-monitor needs --node-id")
	case !disabled && text(cmd, "node-id") != "":
		return fatal(exitBadArgs, "Option --node-id needs --disable-monitor: a monitor numbers its nodes itself")
	}
	if id := text(cmd, "node-id"); id != "" {
		v, err := parseInt(id, math.MaxInt32)
		if err != nil || v < 1 {
			return fatal(exitBadArgs, "--node-id argument is not a valid node number: %q", id).
				withHint("number the nodes of a group 1, 2, 3 …; node 1 begins the group")
		}
		reg.nodeID = int64(v)
	}
	return nil
}

// readPriority reads what a promotion and the replication quorum make of the node.
func (reg *registration) readPriority(env *Env, cmd *cobra.Command) error {
	value, source := text(cmd, "candidate-priority"), "--candidate-priority"
	if value == "" {
		value, source = env.getenv("PG_AUTOCTL_CANDIDATE_PRIORITY"), "PG_AUTOCTL_CANDIDATE_PRIORITY"
	}
	if value != "" {
		v, err := parseInt(value, 100)
		if err != nil {
			return fatal(exitBadArgs, "%s argument is not a valid priority: %q", source, value).
				withHint("valid values are integers from 0 to 100; 0 is never elected")
		}
		reg.priority, reg.given = v, true
	}
	value, source = text(cmd, "replication-quorum"), "--replication-quorum"
	if value == "" {
		value, source = env.getenv("PG_AUTOCTL_REPLICATION_QUORUM"), "PG_AUTOCTL_REPLICATION_QUORUM"
	}
	if value != "" {
		v, err := parseBool(value)
		if err != nil {
			return fatal(exitBadArgs, "%s argument is not valid: %q", source, value).withHint("valid values are true and false")
		}
		reg.quorum = v
	}
	return nil
}

// loadKeeperFile answers the configuration to merge the options over.
func (c *creation) loadKeeperFile() (keeper.File, error) {
	if c.fresh {
		return keeper.DefaultFile(), nil
	}
	role, err := readRole(c.site.config)
	if err != nil {
		return keeper.File{}, err
	}
	if role != roleKeeper {
		return keeper.File{}, fatal(exitBadConfig, "%q holds a %s already", c.site.pgdata, role).
			withHint("choose another directory with --pgdata")
	}
	file, err := keeper.LoadFile(c.site.config)
	return file, withCode(exitBadConfig, err)
}

// keeperFile merges the options over the configuration file, or over the
// defaults, and checks all that can be checked before anything is written.
func (c *creation) keeperFile(ctx context.Context, env *Env, cmd *cobra.Command, citus citusOptions) (keeper.File, error) {
	file, err := c.loadKeeperFile()
	if err != nil {
		return file, err
	}
	if err := c.chooseMonitor(env, cmd, &file); err != nil {
		return file, err
	}
	if c.tools, err = findTools(ctx, env, orDefault(text(cmd, "pgctl"), file.PgCtl)); err != nil {
		return file, err
	}
	if err := c.lookAtServer(); err != nil {
		return file, err
	}
	if err := c.checkDirectory(isFile(c.site.init) || isFile(c.site.state)); err != nil {
		return file, err
	}
	if err := c.choosePort(env, cmd, file.Port); err != nil {
		return file, err
	}
	c.mergeOptions(env, cmd, &file)
	if err := citus.merge(c, &file); err != nil {
		return file, err
	}
	socket, err := c.chooseSocketDirectory(ctx, env, file.Host)
	if err != nil {
		return file, err
	}
	file.Host = orDefault(file.Host, socket)
	if err := c.checkPort(ctx, file.ListenAddresses); err != nil {
		return file, err
	}
	if err := citus.checkExtension(ctx, c.tools); err != nil {
		return file, err
	}
	if err := c.meetMonitor(ctx, env, cmd, &file, citus); err != nil {
		return file, err
	}
	return file, withCode(exitBadConfig, file.Validate())
}

// chooseMonitor takes the monitor's URI from the option, the environment or the file.
func (c *creation) chooseMonitor(env *Env, cmd *cobra.Command, file *keeper.File) error {
	uri := orDefault(text(cmd, "monitor"), env.getenv("PG_AUTOCTL_MONITOR"))
	switch {
	case on(cmd, "disable-monitor") && text(cmd, "monitor") != "":
		return fatal(exitBadArgs, "Options --monitor and --disable-monitor exclude each other")
	case on(cmd, "disable-monitor"):
		file.Monitor = keeper.MonitorDisabled
		return nil
	case uri != "":
		file.Monitor = uri
	case file.Monitor == "":
		return fatal(exitBadArgs, "Failed to set the monitor URI: use either --monitor postgresql://... or --disable-monitor").
			withHint("the monitor shows its URI with: %s show uri --formation monitor", env.program())
	}
	if file.Monitor == keeper.MonitorDisabled {
		return nil
	}
	_, err := parseMonitorURI(file.Monitor)
	return err
}

// mergeOptions puts what the command line says over what the file says.
func (c *creation) mergeOptions(env *Env, cmd *cobra.Command, file *keeper.File) {
	set := func(into *string, values ...string) {
		for _, v := range values {
			if v != "" {
				*into = v
				return
			}
		}
	}
	file.PGData, file.PgCtl, file.Port = c.site.pgdata, c.tools.PgCtl(), c.port
	set(&file.Host, text(cmd, "pghost"), file.Host, env.getenv("PGHOST"), env.getenv("PG_REGRESS_SOCK_DIR"))
	if dir, ok := env.lookupenv("PG_REGRESS_SOCK_DIR"); ok && dir == "" {
		set(&file.Host, file.Host, "localhost")
	}
	set(&file.ListenAddresses, text(cmd, "listen"), file.ListenAddresses, "*")
	set(&file.Username, text(cmd, "username"), file.Username, env.getenv("PGUSER"))
	set(&file.Name, text(cmd, "name"), file.Name, env.getenv("PG_AUTOCTL_NODE_NAME"))
	set(&file.MaximumBackupRate, text(cmd, "maximum-backup-rate"))
	set(&file.MonitorPassword, text(cmd, "monitor-password"), env.getenv("PG_AUTOCTL_MONITOR_PASSWORD"))
	set(&file.ReplicationPassword, text(cmd, "replication-password"), env.getenv("PG_AUTOCTL_REPLICATION_PASSWORD"))
	set(&file.AuthMethod, c.auth)
	if c.fresh {
		set(&file.DBName, text(cmd, "dbname"), env.getenv("PGDATABASE"), databaseOf(cmd.Name()))
	} else {
		set(&file.DBName, text(cmd, "dbname"))
	}
	// The formation of a registered node does not change.
	if c.fresh || !isFile(c.site.state) {
		set(&file.Formation, text(cmd, "formation"), file.Formation, defaultFormation)
	}
	lan, err := parseBool(env.getenv("PG_AUTOCTL_PG_HBA_LAN"))
	switch {
	case c.hba == "skip":
		file.HBALevel = "skip"
	case on(cmd, "pg-hba-lan"), err == nil && lan:
		file.HBALevel = "app"
	}
	if c.ssl.made {
		s := c.ssl
		file.SSL = keeper.SSL{
			Active: s.active, Mode: s.mode, CAFile: s.caFile, CRLFile: s.crlFile,
			CertFile: s.certFile, KeyFile: s.keyFile, SelfSigned: s.selfSigned,
		}
	}
}

// meetMonitor asks the monitor what a wrong option would make it refuse, and
// finds the hostname that the way to it shows.
func (c *creation) meetMonitor(ctx context.Context, env *Env, cmd *cobra.Command, file *keeper.File, citus citusOptions) error {
	if c.site.complete() && file.Hostname != "" {
		file.Hostname = orDefault(text(cmd, "hostname"), file.Hostname)
		return nil
	}
	towards := pg.HostPort{}
	if file.Monitor != keeper.MonitorDisabled {
		info, err := parseMonitorURI(file.Monitor)
		if err != nil {
			return err
		}
		s, err := reachMonitor(ctx, env, info, file.Formation)
		if err != nil {
			return err
		}
		defer s.close(ctx)
		if err := citus.checkFormation(ctx, s, *file); err != nil {
			return err
		}
		if err := c.sameSystem(ctx, s, file.Formation, citus); err != nil {
			return err
		}
		if hosts := info.Hosts(); len(hosts) > 0 {
			towards = hosts[0]
		}
	}
	host := text(cmd, "hostname")
	if host == "" && file.Hostname != "" {
		return nil
	}
	var err error
	file.Hostname, err = findHostname(ctx, env, host, towards)
	return err
}

// sameSystem refuses a data directory that holds another database system than the group.
func (c *creation) sameSystem(ctx context.Context, s *session, formation string, citus citusOptions) error {
	in := postgres.New(postgres.Config{Tools: c.tools, DataDir: c.site.pgdata, Port: c.port})
	if !in.Exists() {
		return nil
	}
	control, err := in.ControlData(ctx)
	if err != nil {
		return withCode(exitPgCtl, err)
	}
	nodes, err := s.db.NodeRows(ctx, formation, nil)
	if err != nil {
		return withCode(exitMonitor, err)
	}
	for _, n := range nodes {
		if citus.sameGroup(n.Group) && n.SystemID != 0 && n.SystemID != control.SystemID && n.Goal != fsm.Dropped {
			return fatal(exitBadState, "the data directory %q has the system identifier %s, the nodes of formation %q have %s",
				c.site.pgdata, control.SystemID, formation, n.SystemID).
				withHint("a group is copies of one database system: use an empty --pgdata, or another formation")
		}
	}
	return nil
}

// complete reports a data directory whose creation is over.
func (s site) complete() bool { return isFile(s.state) && !isFile(s.init) }

// createdBefore reports that the node exists already and nothing is left to
// create; changed name, host and port are told to the monitor. A service that
// is to run starts also while the monitor is away.
func createdBefore(ctx context.Context, env *Env, n *node, cfg keeper.Config, run bool) (bool, error) {
	if !n.complete() {
		return false, nil
	}
	if n.monitorDisabled() {
		return true, nil
	}
	switch dropped, err := keeper.CheckDropped(ctx, cfg); {
	case err != nil && run:
		env.warnf("Failed to ask the monitor for this node: %s", err)
		return true, nil
	case err != nil || dropped:
		return false, withCode(exitMonitor, err)
	}
	old, err := keeper.LoadFile(n.config)
	if err != nil {
		return false, withCode(exitBadConfig, err)
	}
	if old.Name != n.keeper.Name || old.Hostname != n.keeper.Hostname || old.Port != n.keeper.Port {
		if err := pushMetadata(ctx, env, n); err != nil {
			return false, err
		}
	}
	return true, withCode(exitBadConfig, n.keeper.Save(n.config))
}

// createFailed gives a failed creation its exit code.
func createFailed(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return interrupted(ctx, false)
	case errors.Is(err, os.ErrPermission):
		return fatal(exitBadState, "%w", err).withHint("check the permissions of the directory named")
	case isConfigError(err):
		return withCode(exitBadConfig, err)
	}
	return &exitError{code: exitBadState, level: levelFatal, err: err}
}

// interrupted ends a creation that was asked to stop on its way. A service,
// which --run asked for, has then done as it was told.
func interrupted(ctx context.Context, run bool) error {
	if ctx.Err() == nil || run {
		return nil
	}
	return fail(exitInternal, "the creation was interrupted: %w", context.Cause(ctx)).
		withHint("run the same command again to go on from there")
}

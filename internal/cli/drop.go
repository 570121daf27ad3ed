package cli

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/keeper"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// servicePatience is how long a service may take to end on its own, or when told to.
const servicePatience = 30 * time.Second

func newDropCmd(env *Env) *cobra.Command {
	return newSet("drop", "Drop a pg_auto_failover node, or formation",
		newDropMonitorCmd(env),
		newDropNodeCmd(env),
		newDropFormationCmd(env),
	)
}

func dropFlags(cmd *cobra.Command) {
	pgdataFlag(cmd)
	f := cmd.Flags()
	f.StringP("monitor", "m", "", "`URI` of the monitor")
	f.String("formation", "", "`name` of the formation of the node")
	f.String("name", "", "`name` of the node to drop")
	f.StringP("hostname", "n", "", "`hostname` of the node to drop")
	f.StringP("pgport", "p", "", "`port` of the node to drop")
	f.BoolP("destroy", "d", false, "also stop Postgres and delete the data directory")
	f.Bool("force", false, "remove the node from the monitor at once, whatever it does")
	f.Int("wait", 60, "how many `seconds` to wait for the node to be gone from the monitor")
	f.Bool("no-wait", false, "do not wait for the node to be gone from the monitor")
}

func newDropNodeCmd(env *Env) *cobra.Command {
	cmd := newLeaf("node", "Drop a node from the pg_auto_failover monitor", func(cmd *cobra.Command, _ []string) error {
		return dropNode(cmd.Context(), env, cmd)
	})
	dropFlags(cmd)
	return cmd
}

func dropNode(ctx context.Context, env *Env, cmd *cobra.Command) error {
	byAddress := given(cmd, "hostname") || given(cmd, "pgport")
	switch {
	case on(cmd, "destroy") && byAddress:
		return fail(exitBadArgs, "Please use either --hostname and --pgport or --destroy: only a local node can be destroyed")
	case given(cmd, "name") && given(cmd, "hostname"):
		return fail(exitBadArgs, "Please use either --name or --hostname")
	}
	remote := text(cmd, "monitor") != "" || env.getenv("PG_AUTOCTL_MONITOR") != ""
	if !remote {
		s, err := sitePGData(env, cmd)
		if err != nil {
			return err
		}
		if !isFile(s.config) {
			return withCode(exitBadConfig, fatal(exitBadConfig, "Expected configuration file does not exist: %q", s.config).
				withHint("use --monitor to drop a node of another host"))
		}
		n, err := readNode(env, s)
		if err != nil {
			return err
		}
		if !n.isMonitor() {
			if byAddress || given(cmd, "name") {
				return fatal(exitBadArgs, "Only the local node can be dropped from %q: --name, --hostname and --pgport do not apply", n.pgdata).
					withHint("to drop another node use --monitor, or --pgdata with the monitor's data directory")
			}
			return dropLocal(ctx, env, cmd, &n)
		}
	}
	if on(cmd, "destroy") {
		return fail(exitBadArgs, "Option --destroy only applies to the local node")
	}
	return withMonitor(env, dropRemote)(cmd, nil) //nolint:contextcheck // the command carries it
}

// dropRemote removes another node through the monitor.
func dropRemote(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
	formation := s.formation(cmd)
	var target pgautofailover.NodeRow
	var err error
	switch {
	case text(cmd, "name") != "":
		if target, err = s.db.NodeByName(ctx, formation, text(cmd, "name")); err != nil {
			return unknownNode(err, formation, text(cmd, "name"))
		}
	case text(cmd, "hostname") != "":
		port, err := parsePort(orDefault(text(cmd, "pgport"), orDefault(s.env.getenv("PGPORT"), "5432")))
		if err != nil {
			return err
		}
		target, err = s.db.NodeByHostPort(ctx, text(cmd, "hostname"), port)
		if errors.Is(err, pgautofailover.ErrNotFound) {
			return fail(exitMonitor, "no node is registered at %s", hostPort(text(cmd, "hostname"), port)).withHint("%s", listNodes)
		}
		if err != nil {
			return err
		}
	default:
		return fatal(exitBadArgs, "To drop a remote node, please use either --name or --hostname and --pgport").
			withHint("to drop the local node use --pgdata")
	}
	force := on(cmd, "force")
	if err := s.db.Listen(ctx, pgautofailover.ChannelState); err != nil {
		return err
	}
	if _, err := s.db.RemoveNode(ctx, target.ID, force); err != nil {
		return err
	}
	s.env.infof("Dropping node %q (%s) from formation %q", target.Name, hostPort(target.Host, target.Port), target.Formation)
	wait := number(cmd, "wait")
	if force || wait == 0 || on(cmd, "no-wait") {
		return nil
	}
	return s.waitGone(ctx, target.ID, time.Duration(wait)*time.Second)
}

// waitGone waits until the monitor has forgotten a node.
func (s *session) waitGone(ctx context.Context, id int64, patience time.Duration) error {
	limited, cancel := context.WithTimeoutCause(ctx, patience, errPatience)
	defer cancel()
	for {
		_, err := s.db.NodeByID(ctx, id)
		if errors.Is(err, pgautofailover.ErrNotFound) {
			return nil
		}
		if err == nil {
			err = s.awaitNews(limited)
		}
		if errors.Is(context.Cause(limited), errPatience) {
			return fail(exitInternal, "Failed to see node %d gone from the monitor within %d s", id, int(patience.Seconds())).
				withHint("a node that does not run cannot say that it stopped: use --force when it is gone for good")
		}
		if err != nil {
			return err
		}
	}
}

// awaitNews returns at the next notification, or after a second.
func (s *session) awaitNews(ctx context.Context) error {
	tick, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := s.db.WaitNotification(tick)
	if err != nil && tick.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

// dropLocal removes the node of this data directory. Running it again is safe.
func dropLocal(ctx context.Context, env *Env, cmd *cobra.Command, n *node) error {
	if n.monitorDisabled() {
		if !on(cmd, "destroy") {
			return fatal(exitBadArgs, "The node at %q has no monitor to be dropped from", n.pgdata).
				withHint("use --destroy to remove the node and its data")
		}
		if err := endService(ctx, env, n.site); err != nil {
			return err
		}
		return destroyNode(ctx, env, n)
	}
	st, err := n.keeperState()
	if err != nil {
		if on(cmd, "destroy") && !isFile(n.state) {
			return destroyNode(ctx, env, n)
		}
		return err
	}
	if err := leaveMonitor(ctx, env, cmd, n, st); err != nil {
		return err
	}
	if on(cmd, "destroy") {
		return destroyNode(ctx, env, n)
	}
	env.warnf("Preserving configuration file: %q", n.config)
	env.warnf("Preserving Postgres data directory: %q", n.pgdata)
	env.hint("use `%s drop node --destroy` to remove them too", env.program())
	return nil
}

// leaveMonitor takes the local node out of its group: ask, let the service
// say its last word, and say it in its place when it does not run.
func leaveMonitor(ctx context.Context, env *Env, cmd *cobra.Command, n *node, st keeper.State) error {
	s, err := openNodeMonitor(ctx, env, n)
	if err != nil {
		return err
	}
	defer s.close(ctx)
	force, id := on(cmd, "force"), int64(st.NodeID)
	if err := s.db.Listen(ctx, pgautofailover.ChannelState); err != nil {
		return withCode(exitMonitor, err)
	}
	if st.Assigned != fsm.Dropped || force {
		_, err := s.db.RemoveNode(ctx, id, force)
		if err != nil && pgautofailover.SQLState(err) != pgerrcode.UndefinedObject {
			return withCode(exitMonitor, err)
		}
	}
	before, err := findService(n.site)
	if err != nil {
		return err
	}
	if !force {
		if _, err := waitStopped(ctx, n.site, servicePatience); err != nil {
			return err
		}
	}
	if err := endService(ctx, env, n.site); err != nil {
		return err
	}
	patience := time.Duration(0)
	if before.running {
		// The service has said that it is dropped; the monitor acts on it in a moment.
		patience = lastWordPatience
	}
	if s.waitGone(ctx, id, patience) == nil {
		return nil
	}
	return n.reportDropped(ctx, env, s, id)
}

// lastWordPatience is how long the monitor may take to forget a node that said
// that it is dropped.
const lastWordPatience = 5 * time.Second

// reportDropped says the last word in the place of a service that does not run.
func (n *node) reportDropped(ctx context.Context, env *Env, s *session, id int64) error {
	tools, err := postgres.FindTools(ctx, postgres.FindConfig{PgCtl: n.pgCtl()})
	if err != nil {
		return withCode(exitPgCtl, err)
	}
	reported := keeper.ReportDropped(ctx, keeper.Config{
		Paths: n.keeperPaths(), File: n.keeper, Tools: tools, Logger: env.log, Version: env.Version,
	})
	err = s.waitGone(ctx, id, lastWordPatience)
	if err != nil && reported != nil {
		return fatal(exitMonitor, "Failed to tell the monitor that node %d is dropped: %w", id, reported)
	}
	return withCode(exitMonitor, err)
}

// endService stops the service of a site that did not end by itself.
func endService(ctx context.Context, env *Env, s site) error {
	svc, err := findService(s)
	if err != nil || !svc.running {
		return err
	}
	env.infof("An instance of this keeper is running with PID %d, stopping it", svc.pid())
	if err := syscall.Kill(svc.pid(), syscall.SIGQUIT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fail(exitInternal, "send SIGQUIT to process %d: %w", svc.pid(), err)
	}
	ended, err := waitStopped(ctx, s, servicePatience)
	if err == nil && !ended {
		return fail(exitInternal, "Failed to stop the service with pid %d within %d s", svc.pid(), int(servicePatience.Seconds()))
	}
	return err
}

func newDropMonitorCmd(env *Env) *cobra.Command {
	cmd := newLeaf("monitor", "Drop the pg_auto_failover monitor", func(cmd *cobra.Command, _ []string) error {
		return dropMonitor(cmd.Context(), env, cmd)
	})
	dropFlags(cmd)
	return cmd
}

func dropMonitor(ctx context.Context, env *Env, cmd *cobra.Command) error {
	n, err := localNode(env, cmd)
	if err != nil {
		return err
	}
	if !n.isMonitor() {
		return fatal(exitBadConfig, "Local node is not a monitor").
			withHint("use `%s drop node` to drop the node at %q", env.program(), n.pgdata)
	}
	if err := endService(ctx, env, n.site); err != nil {
		return err
	}
	if on(cmd, "destroy") {
		return destroyNode(ctx, env, &n)
	}
	env.warnf("Preserving configuration file: %q", n.config)
	env.warnf("Preserving Postgres data directory: %q", n.pgdata)
	return nil
}

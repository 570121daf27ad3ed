package cli

import (
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/keeper"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// citusDatabase is the database of a Citus formation unless another one is named.
const citusDatabase = "citus"

func newCreateCoordinatorCmd(env *Env) *cobra.Command {
	cmd := newLeaf("coordinator", "Initialize a pg_auto_failover citus coordinator node", func(cmd *cobra.Command, _ []string) error {
		return createNode(cmd.Context(), env, cmd, fsm.Coordinator)
	})
	createFlags(cmd)
	nodeFlags(cmd, citusDatabase)
	citusFlags(cmd)
	return cmd
}

func newCreateWorkerCmd(env *Env) *cobra.Command {
	cmd := newLeaf("worker", "Initialize a pg_auto_failover citus worker node", func(cmd *cobra.Command, _ []string) error {
		return createNode(cmd.Context(), env, cmd, fsm.Worker)
	})
	createFlags(cmd)
	nodeFlags(cmd, citusDatabase)
	citusFlags(cmd)
	f := cmd.Flags()
	f.StringP("group", "g", "", "`number` of the worker's group, from 1 (default: the first group with room)")
	f.StringP("proxyport", "y", "", "`port` of a pooler on this host, through which the other nodes connect")
	return cmd
}

// citusFlags adds the options of coordinators and workers.
func citusFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolP("citus-secondary", "z", false, "when used, this node is a read replica, a member of a read-only cluster")
	f.StringP("citus-cluster", "Z", "", "`name` of the read-only cluster that this node is a member of")
}

// databaseOf is the database that a node of this kind is created with.
func databaseOf(kind string) string {
	if kind == fsm.Coordinator.String() || kind == fsm.Worker.String() {
		return citusDatabase
	}
	return "postgres"
}

// citusOptions are the options of a Citus node, checked as far as they go by themselves.
type citusOptions struct {
	kind      fsm.NodeKind
	secondary bool
	cluster   string
	group     int // -1: the monitor chooses
	proxyPort int
}

// readCitus reads the options of a Citus node; those of a standalone node are the zero value.
func readCitus(cmd *cobra.Command, kind fsm.NodeKind, reg *registration) (citusOptions, error) {
	o := citusOptions{kind: kind, secondary: on(cmd, "citus-secondary"), cluster: text(cmd, "citus-cluster")}
	if kind == fsm.Standalone {
		return o, nil
	}
	if on(cmd, "disable-monitor") {
		return o, fatal(exitBadArgs, "A %s needs a monitor: --disable-monitor is for other nodes", kind).
			withHint("create a monitor with `%s create monitor` and name it with --monitor", nameAutoctl)
	}
	if o.secondary && o.cluster == "" {
		return o, fatal(exitBadArgs, "Option --citus-secondary needs --citus-cluster").
			withHint("name the read-only cluster that this node is a member of")
	}
	if o.secondary && reg.given && reg.priority > 0 {
		return o, fatal(exitBadArgs, "--candidate-priority of a read replica must be 0, not %d", reg.priority).
			withHint("a node created with --citus-secondary is never promoted: leave --candidate-priority out")
	}
	if o.secondary {
		reg.priority = 0
	}
	if kind == fsm.Coordinator {
		return o, nil
	}
	o.group = -1
	if value := text(cmd, "group"); value != "" {
		group, err := parseInt(value, math.MaxInt32)
		switch {
		case err != nil:
			return o, fail(exitBadArgs, "--group argument is not a valid group number: %q", value).withHint("groups of workers are numbered from 1")
		case group == 0:
			return o, fail(exitBadArgs, "Group 0 is the coordinator's: a worker can not be a member of it").
				withHint("groups of workers are numbered from 1; without --group the monitor chooses one")
		}
		o.group = group
	}
	if value := text(cmd, "proxyport"); value != "" {
		port, err := parsePort(value)
		if err != nil {
			return o, fail(exitBadArgs, "--proxyport argument is not a port: %q", value)
		}
		o.proxyPort = port
	}
	return o, nil
}

// merge puts what a Citus node's options say into its configuration.
func (o citusOptions) merge(c *creation, file *keeper.File) error {
	if !c.fresh && file.NodeKind != o.kind.String() {
		return fatal(exitBadConfig, "%q holds a node of kind %s, not %s", c.site.pgdata, file.NodeKind, o.kind).
			withHint("choose another directory with --pgdata")
	}
	if !c.fresh && o.group > 0 && file.Group >= 0 && o.group != file.Group {
		return fatal(exitBadConfig, "%q holds a node of group %d, not %d", c.site.pgdata, file.Group, o.group).
			withHint("a node stays in its group: leave --group out to go on with it, or choose another directory with --pgdata")
	}
	file.NodeKind = o.kind.String()
	if o.kind == fsm.Standalone || !c.fresh && isFile(c.site.state) {
		return nil
	}
	file.Group, file.ProxyPort, file.CitusClusterName = o.group, o.proxyPort, o.cluster
	file.CitusRole = "primary"
	if o.secondary {
		file.CitusRole = "secondary"
	}
	return nil
}

// checkExtension refuses an installation of PostgreSQL without Citus, as far as
// it can be seen without a server.
func (o citusOptions) checkExtension(ctx context.Context, tools postgres.Tools) error {
	if o.kind == fsm.Standalone {
		return nil
	}
	for _, part := range []struct{ option, file string }{
		{"--sharedir", "extension/citus.control"},
		{"--pkglibdir", "citus.so"},
	} {
		out, err := exec.CommandContext(ctx, tools.Path("pg_config"), part.option).Output() //nolint:gosec // of the installation that is asked for
		if err != nil {
			return nil //nolint:nilerr // no pg_config: the server will say what it lacks
		}
		path := filepath.Join(strings.TrimSpace(string(out)), part.file)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return fatal(exitBadState, "extension citus is not installed for the PostgreSQL in %q: there is no %q", tools.Dir, path).
				withHint("install Citus for this version of PostgreSQL on every node of the formation, or name another installation with --pgctl")
		}
	}
	return nil
}

// checkFormation refuses what the monitor would refuse, before anything is
// written, and has a worker wait for the coordinator.
func (o citusOptions) checkFormation(ctx context.Context, s *session, file keeper.File) error {
	f, err := s.db.FormationByID(ctx, file.Formation)
	if err != nil {
		return withCode(exitMonitor, err)
	}
	nodes, err := s.db.NodeRows(ctx, file.Formation, nil)
	if err != nil {
		return withCode(exitMonitor, err)
	}
	want := "citus"
	if o.kind == fsm.Standalone {
		want = "pgsql"
	}
	switch {
	case len(nodes) > 0 && f.Kind != want:
		return fatal(exitBadState, "a %s node can not join formation %q, which is of kind %s", o.kind, file.Formation, f.Kind).
			withHint("create a formation for it with: %s create formation --formation NAME --kind %s --dbname %s, and name that with --formation",
				s.env.program(), want, file.DBName)
	case o.kind == fsm.Standalone:
		return nil
	case len(nodes) > 0 && f.DBName != file.DBName:
		return fatal(exitBadState, "the nodes of formation %q work on database %q, not %q", file.Formation, f.DBName, file.DBName).
			withHint("use --dbname %s", f.DBName)
	case o.kind == fsm.Worker:
		return o.awaitCoordinator(ctx, s, file)
	}
	return nil
}

// awaitCoordinator waits for a coordinator that takes writes: it may be about to be created.
func (o citusOptions) awaitCoordinator(ctx context.Context, s *session, file keeper.File) error {
	limit := time.Second * time.Duration(min(file.Timeouts.CitusCoordinatorWaitTimeout, file.Timeouts.CitusCoordinatorWaitMaxRetries))
	if s.env.getenv("PGCONNECT_TIMEOUT") != "" {
		limit = s.env.patience()
	}
	deadline := time.Now().Add(limit)
	for warned := false; ; warned = true {
		_, _, err := s.db.Coordinator(ctx, file.Formation)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, pgautofailover.ErrNotFound):
			return withCode(exitMonitor, err)
		case time.Now().After(deadline):
			return fatal(exitCoordinator, "formation %q has no coordinator that takes writes: a worker can not join it", file.Formation).
				withHint("create the coordinator first with: %s create coordinator --formation %s", s.env.program(), file.Formation)
		case !warned:
			s.env.warnf("Formation %q has no coordinator that takes writes yet, waiting for one up to %d s", file.Formation, int(limit.Seconds()))
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// sameGroup reports whether a node's data must be a copy of this group's: the
// group that a new node will be a member of, as far as that is certain.
func (o citusOptions) sameGroup(group int) bool { return group == max(o.group, 0) && o.group >= 0 }

package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/keeper"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// refuseService refuses a data directory that a service keeps, for commands
// that do by hand what the service does by itself.
func (n node) refuseService(instead string) error {
	svc, err := findService(n.site)
	if err != nil || !svc.running {
		return err
	}
	return fatal(exitBadState, "the service with pid %d keeps %q", svc.pid(), n.pgdata).withHint("%s", instead)
}

// offlineKeeper is localKeeper for a node whose service must not run.
func offlineKeeper(env *Env, cmd *cobra.Command, instead string) (node, error) {
	n, err := localKeeper(env, cmd)
	if err == nil {
		err = n.refuseService(instead)
	}
	return n, err
}

func newFSMInitCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("init", "Initialize the keeper's state on disk", func(cmd *cobra.Command, _ []string) error {
		n, err := offlineKeeper(env, cmd, "its state file is in use: stop it first")
		if err != nil {
			return err
		}
		old, err := keeper.ReadState(n.state)
		switch {
		case err == nil && old.NodeID > 0:
			return fatal(exitBadState, "The state file %q exists: this is node %d", n.state, old.NodeID).
				withHint("a node without its state file does not know its number any more; move the file away if that is meant")
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			env.warnf("replacing a state file that cannot be read: %s", err)
		}
		st := keeper.NewState()
		in := n.instance(nil)
		if in.Exists() {
			control, err := in.ControlData(cmd.Context())
			if err != nil {
				return withCode(exitBadState, err)
			}
			st.ControlVersion = uint32(control.ControlVersion) //nolint:gosec // small numbers
			st.CatalogVersion = uint32(control.CatalogVersion) //nolint:gosec // small numbers
			st.SystemID = control.SystemID
		}
		if err := keeper.WriteState(n.state, st); err != nil {
			return withCode(exitBadState, err)
		}
		return printKeeperState(env, cmd, n, st)
	})
	pgdataFlag(cmd)
	return cmd
}

func newFSMStepCmd(env *Env) *cobra.Command {
	cmd := newWordsLeaf("step [ report|advance ]", "Make a state transition if instructed by the monitor; or only report, or only go on", func(cmd *cobra.Command, words []string) error {
		kind := keeper.StepWhole
		if len(words) == 1 {
			if words[0] != "report" && words[0] != "advance" {
				return misuse("only the word report or advance may follow, not %q", words[0])
			}
			kind = keeper.StepKind(strings.ToUpper(words[0]))
		}
		n, err := localKeeper(env, cmd)
		if err != nil {
			return err
		}
		if n.monitorDisabled() {
			return fatal(exitBadConfig, "The monitor is disabled for the node at %q", n.pgdata).
				withHint("assign its goal with: %s manual fsm assign", env.program())
		}
		from, to, err := keeper.AskStep(cmd.Context(), n.pid, kind)
		if errors.Is(err, keeper.ErrNotSuspended) {
			if err := n.refuseService("it makes the steps by itself; one that is started with " + suspendedVariable + "=1 waits for yours"); err != nil {
				return err
			}
			from, to, err = stepAlone(cmd.Context(), env, n, kind)
		}
		if err != nil {
			return withCode(exitBadState, err)
		}
		env.printf("%s ➜ %s\n", from, to)
		return nil
	})
	pgdataFlag(cmd)
	return cmd
}

// suspendedVariable has a service make no step by itself.
const suspendedVariable = "PG_AUTOCTL_SUSPENDED"

// stepAlone makes a step of a node that no service keeps.
func stepAlone(ctx context.Context, env *Env, n node, kind keeper.StepKind) (from, to fsm.State, err error) {
	if _, err := n.keeperState(); err != nil {
		return 0, 0, err
	}
	tools, err := postgres.FindTools(ctx, postgres.FindConfig{PgCtl: n.pgCtl()})
	if err != nil {
		return 0, 0, withCode(exitPgCtl, err)
	}
	k, err := keeper.New(keeper.Config{Paths: n.keeperPaths(), File: n.keeper, Tools: tools, Logger: env.log, Version: env.Version})
	if err != nil {
		return 0, 0, withCode(exitBadConfig, err)
	}
	return k.StepOf(ctx, kind)
}

// reportOnce tells the monitor what this node is, and stores the goal that it answers.
func reportOnce(ctx context.Context, env *Env, n node, st keeper.State) (pgautofailover.Assignment, error) {
	s, err := openNodeMonitor(ctx, env, &n)
	if err != nil {
		return pgautofailover.Assignment{}, err
	}
	defer s.close(ctx)
	r := pgautofailover.Report{Formation: n.keeper.Formation, NodeID: int64(st.NodeID), Group: int(st.Group), State: st.Current}
	_ = n.instance(nil).With(ctx, func(local *postgres.Session) error {
		seen, err := local.Observe(ctx)
		if err == nil {
			r.PgIsRunning, r.TLI, r.LSN, r.SyncState = true, seen.TLI, seen.LSN, seen.SyncState
		}
		return err
	}) // a server that does not answer is reported as such
	a, err := s.db.Report(ctx, r)
	if err != nil {
		return a, withCode(exitMonitor, err)
	}
	st.Assigned = a.Goal
	return a, withCode(exitBadState, keeper.WriteState(n.state, st))
}

// monitorByHandCmds are what a node tells its monitor, done by hand.
func monitorByHandCmds(env *Env) []*cobra.Command {
	register := newWordsLeaf("register <state>", "Register the current node with the monitor", func(cmd *cobra.Command, words []string) error {
		state, err := fsm.ParseState(words[0])
		if err != nil {
			return fatal(exitBadArgs, "%w", err)
		}
		n, err := offlineKeeper(env, cmd, "the node is registered")
		if err != nil {
			return err
		}
		return registerByHand(cmd.Context(), env, cmd, n, state)
	})
	active := newMixedLeaf("active", "Call in the monitor's node_active protocol", func(cmd *cobra.Command, _ []string) error {
		n, err := offlineKeeper(env, cmd, "it reports by itself")
		if err != nil {
			return err
		}
		st, err := n.keeperState()
		if err != nil {
			return err
		}
		a, err := reportOnce(cmd.Context(), env, n, st)
		if err != nil {
			return err
		}
		return printAssignment(env, cmd, n, a.NodeID, a.Group, a.Goal)
	})
	version := newMixedLeaf("version", "Check that the monitor's schema is this program's, and bring it there", func(cmd *cobra.Command, _ []string) error {
		return schemaByHand(cmd.Context(), env, cmd)
	})
	for _, cmd := range []*cobra.Command{register, active, version} {
		pgdataFlag(cmd)
	}
	return []*cobra.Command{register, active, version}
}

// registerByHand registers a node under a state of the operator's choice. Its
// state file is written before the monitor counts it.
func registerByHand(ctx context.Context, env *Env, cmd *cobra.Command, n node, state fsm.State) error {
	st, err := keeper.ReadState(n.state)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		st = keeper.NewState()
	case err != nil:
		return withCode(exitBadState, err)
	case st.NodeID > 0:
		return fatal(exitBadState, "The state file %q exists: this is node %d", n.state, st.NodeID).
			withHint("remove the node from its monitor and from here with: %s drop node", env.program())
	}
	s, err := openNodeMonitor(ctx, env, &n)
	if err != nil {
		return err
	}
	defer s.close(ctx)
	r := pgautofailover.Registration{
		Formation: n.keeper.Formation, Host: n.keeper.Hostname, Port: n.pgPort(), DBName: n.keeper.DBName, Name: n.keeper.Name,
		DesiredGroup: n.keeper.Group, Initial: state, Kind: n.nodeKind(), Priority: 50, Quorum: true,
	}
	if in := n.instance(nil); in.Exists() {
		control, err := in.ControlData(ctx)
		if err != nil {
			return withCode(exitPgCtl, err)
		}
		r.SystemID = control.SystemID
	}
	pending, err := s.db.BeginRegistration(ctx, r)
	if err != nil {
		return withCode(exitMonitor, err)
	}
	got := pending.Result
	st.NodeID, st.Group, st.Current, st.Assigned = int32(got.NodeID), int32(got.Group), state, got.Goal //nolint:gosec // small numbers
	if err := keeper.WriteState(n.state, st); err != nil {
		return withCode(exitBadState, errors.Join(err, pending.Rollback(ctx)))
	}
	if err := pending.Commit(ctx); err != nil {
		return withCode(exitMonitor, err)
	}
	n.keeper.Group, n.keeper.Name = got.Group, got.Name
	if err := n.keeper.Save(n.config); err != nil {
		return withCode(exitBadConfig, err)
	}
	return printAssignment(env, cmd, n, got.NodeID, got.Group, got.Goal)
}

func printAssignment(env *Env, cmd *cobra.Command, n node, id int64, group int, goal fsm.State) error {
	if jsonWanted(cmd) {
		return writeJSON(env.Stdout, object{
			{"formation", n.keeper.Formation},
			{"host", n.keeper.Hostname},
			{"port", n.pgPort()},
			{"nodeId", id},
			{"groupId", group},
			{"assigned_role", goal},
		})
	}
	env.printf("%s/%d %s %d:%d %s\n", n.keeper.Formation, group, hostPort(n.keeper.Hostname, n.pgPort()), id, group, goal)
	return nil
}

// schemaByHand brings the schema of the local monitor to this program's version.
func schemaByHand(ctx context.Context, env *Env, cmd *cobra.Command) error {
	n, err := localNode(env, cmd)
	if err != nil {
		return err
	}
	if !n.isMonitor() {
		return fatal(exitBadConfig, "%q is no monitor", n.pgdata).withHint("use --pgdata with the monitor's data directory")
	}
	info, err := n.instance(nil).ConnInfo()
	if err != nil {
		return withCode(exitPgCtl, err)
	}
	db, err := pgautofailover.Connect(ctx, pgautofailover.ConnectConfig{ConnInfo: info, ApplicationName: env.program() + " cli"})
	if err != nil {
		return withCode(exitPgSQL, err)
	}
	defer func() { _ = db.Close(context.WithoutCancel(ctx)) }()
	if err := pgautofailover.Upgrade(ctx, db); err != nil {
		return withCode(exitMonitor, fmt.Errorf("upgrade the monitor's schema: %w", err))
	}
	if jsonWanted(cmd) {
		return writeJSON(env.Stdout, object{{"version", pgautofailover.CompatVersion}, {"schema", pgautofailover.SchemaNumber}})
	}
	env.printf("%s\n", pgautofailover.CompatVersion)
	return nil
}

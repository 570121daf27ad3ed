package cli

import (
	"context"
	"errors"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/keeper"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// newManualCoordinatorCmd says single things to a formation's coordinator, as the service does.
func newManualCoordinatorCmd(env *Env) *cobra.Command {
	leaf := func(name, short string, call keeper.CoordinatorCall) *cobra.Command {
		cmd := newMixedLeaf(name, short, func(cmd *cobra.Command, _ []string) error {
			n, at, err := callCoordinator(cmd.Context(), env, cmd, call)
			if err != nil {
				return err
			}
			env.printf("%s %s:%s\n", n.keeper.Formation, at.Host, at.Port)
			return nil
		})
		pgdataFlag(cmd)
		return cmd
	}
	return newSet("coordinator", "Change what a Citus coordinator knows of this node",
		leaf("add", "Add this node to its formation's coordinator", keeper.CoordinatorAdd),
		leaf("activate", "Activate this node on its formation's coordinator", keeper.CoordinatorActivate),
		leaf("remove", "Remove this node from its formation's coordinator", keeper.CoordinatorRemove),
		newSet("update", "Have the coordinator lead the writes of a group to this node",
			leaf("prepare", "Prepare it: writes to the group wait from here on", keeper.CoordinatorPrepare),
			leaf("commit", "Commit what was prepared; without that, move the writes in one go", keeper.CoordinatorCommit),
			leaf("rollback", "Roll back what was prepared", keeper.CoordinatorRollback),
		),
	)
}

// callCoordinator has the coordinator do something about this node, and says where the coordinator is.
func callCoordinator(ctx context.Context, env *Env, cmd *cobra.Command, call keeper.CoordinatorCall) (node, pg.HostPort, error) {
	n, err := localKeeper(env, cmd)
	if err != nil {
		return n, pg.HostPort{}, err
	}
	if !slices.Contains([]fsm.NodeKind{fsm.Coordinator, fsm.Worker}, n.nodeKind()) {
		return n, pg.HostPort{}, fatal(exitBadArgs, "The node at %q is not a Citus node: no coordinator knows it", n.pgdata).
			withHint("this command is for nodes made with `%s create coordinator` and `%s create worker`", nameAutoctl, nameAutoctl)
	}
	cfg := keeper.Config{Paths: n.keeperPaths(), File: n.keeper, Logger: env.log, Version: env.Version}
	at, err := keeper.Call(ctx, cfg, call)
	switch {
	case err == nil:
		return n, at, nil
	case errors.As(err, new(*keeper.MonitorError)):
		return n, at, withCode(exitMonitor, err)
	case errors.As(err, new(*keeper.StateError)):
		return n, at, withCode(exitKeeper, err)
	default:
		return n, at, withCode(exitCoordinator, err)
	}
}

// activateNode has the coordinator use this node (again).
func activateNode(ctx context.Context, env *Env, cmd *cobra.Command) error {
	n, _, err := callCoordinator(ctx, env, cmd, keeper.CoordinatorUse)
	if err != nil {
		return err
	}
	env.infof("The coordinator uses the node at %q", n.pgdata)
	return nil
}

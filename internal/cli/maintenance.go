package cli

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/keeper"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

func newEnableCmd(env *Env) *cobra.Command {
	return newSet("enable", "Enable a feature on a formation",
		newSecondaryCmd(env, true),
		newEnableMaintenanceCmd(env),
		newSSLCmd(env),
		newEnableMonitorCmd(env),
	)
}

func newDisableCmd(env *Env) *cobra.Command {
	return newSet("disable", "Disable a feature on a formation",
		newSecondaryCmd(env, false),
		newDisableMaintenanceCmd(env),
		newDisableSSLCmd(env),
		newDisableMonitorCmd(env),
	)
}

func newSecondaryCmd(env *Env, enable bool) *cobra.Command {
	short, call := "Disable secondary nodes on a formation", (*pgautofailover.DB).DisableSecondary
	if enable {
		short, call = "Enable secondary nodes on a formation", (*pgautofailover.DB).EnableSecondary
	}
	cmd := newLeaf("secondary", short, func(cmd *cobra.Command, words []string) error {
		formation := text(cmd, "formation")
		if formation == "" {
			return misuse("Option --formation is mandatory")
		}
		return withMonitor(env, func(ctx context.Context, s *session, _ *cobra.Command, _ []string) error {
			if err := s.formationExists(ctx, formation); err != nil {
				return err
			}
			if err := call(s.db, ctx, formation); err != nil {
				return err
			}
			if enable {
				env.infof("Enabled secondaries for formation %q, make sure to add secondaries to the formation", formation)
			} else {
				env.infof("Disabled secondaries for formation %q", formation)
			}
			return nil
		})(cmd, words)
	})
	pgdataFlag(cmd)
	monitorFlag(cmd, "m")
	formationFlag(cmd)
	return cmd
}

func newEnableMaintenanceCmd(env *Env) *cobra.Command {
	cmd := newLeaf("maintenance", "Enable Postgres maintenance mode on this node", func(cmd *cobra.Command, _ []string) error {
		return withOwnNode(env, cmd, func(ctx context.Context, s *session, st keeper.State) error {
			return enableMaintenance(ctx, s, cmd, st)
		})
	})
	pgdataFlag(cmd)
	cmd.Flags().BoolP("allow-failover", "A", false, "on a primary: hand over to a standby first")
	return cmd
}

func newDisableMaintenanceCmd(env *Env) *cobra.Command {
	cmd := newLeaf("maintenance", "Disable Postgres maintenance mode on this node", func(cmd *cobra.Command, _ []string) error {
		return withOwnNode(env, cmd, disableMaintenance)
	})
	pgdataFlag(cmd)
	cmd.Flags().BoolP("allow-failover", "A", false, "accepted for symmetry with enable maintenance")
	return cmd
}

// withOwnNode runs a request of a data node about itself.
func withOwnNode(env *Env, cmd *cobra.Command, run func(context.Context, *session, keeper.State) error) error {
	ctx := cmd.Context()
	n, err := localKeeper(env, cmd)
	if err != nil {
		return err
	}
	if n.monitorDisabled() {
		_, err := n.monitorConnInfo()
		return err
	}
	st, err := n.keeperState()
	if err != nil {
		if e, ok := errors.AsType[*exitError](err); ok {
			e.code = exitKeeper
		}
		return err
	}
	s, err := openNodeMonitor(ctx, env, &n)
	if err != nil {
		return err
	}
	defer s.close(ctx)
	return withCode(exitMonitor, run(ctx, s, st))
}

func enableMaintenance(ctx context.Context, s *session, cmd *cobra.Command, st keeper.State) error {
	env, allow := s.env, on(cmd, "allow-failover")
	if st.Current == fsm.Maintenance && st.Assigned == fsm.Maintenance {
		env.infof("This node is already in maintenance mode")
		return nil
	}
	if st.Current == fsm.Primary && !allow {
		env.warnf("Enabling maintenance on a primary causes a failover")
		return fatal(exitBadArgs, "Please use --allow-failover to allow the command proceed").
			withHint("with --allow-failover a standby takes over first; the group needs a healthy one")
	}
	f, err := newFollower(ctx, s, s.node.keeper.Formation, s.node.keeper.Group)
	if err != nil {
		return err
	}
	id := int64(st.NodeID)
	err = maintenanceCall(ctx, s, func() (bool, error) { return s.db.StartMaintenance(ctx, id) })
	if err != nil {
		return advise(fatal(exitMonitor, "%w", err), "show blockers tells what stands in the way; show state, what the node and its group do now")
	}
	patience := 60 * time.Second
	if allow {
		patience = 180 * time.Second
	}
	return waitOwnState(ctx, f, id, patience, fsm.Maintenance)
}

func disableMaintenance(ctx context.Context, s *session, st keeper.State) error {
	f, err := newFollower(ctx, s, s.node.keeper.Formation, s.node.keeper.Group)
	if err != nil {
		return err
	}
	id := int64(st.NodeID)
	err = maintenanceCall(ctx, s, func() (bool, error) { return s.db.StopMaintenance(ctx, id) })
	if err != nil {
		return advise(fatal(exitMonitor, "%w", err), "show state tells what the node does now")
	}
	return waitOwnState(ctx, f, id, 60*time.Second, fsm.Secondary, fsm.Primary, fsm.Single)
}

// waitOwnState shows the group's progress until a node rests in one of states.
func waitOwnState(ctx context.Context, f *follower, id int64, patience time.Duration, states ...fsm.State) error {
	if err := f.asked(ctx); err != nil {
		return err
	}
	f.announce()
	err := f.wait(ctx, patience, true, func() bool {
		p := f.states[id]
		return p.reported == p.goal && p.goal.In(states...)
	})
	if errors.Is(err, errPatience) {
		if err := showWaiting(ctx, f.s, f.formation, &f.group); err != nil {
			return err
		}
		return fail(exitMonitor, "Failed to see node %d reach the state %q within %d s", id, states[0], int(patience.Seconds())).
			withHint("the group goes on by itself: look at %s show state", f.s.env.program())
	}
	return err
}

// maintenanceCall asks the monitor, patiently as long as another change of the
// group is what stands in the way.
func maintenanceCall(ctx context.Context, s *session, call func() (bool, error)) error {
	deadline := time.Now().Add(900 * time.Second)
	for {
		known, err := call()
		if err == nil && !known {
			return fail(exitMonitor, "the monitor does not know this node").
				withHint("see %s show state for the nodes it knows", s.env.program())
		}
		if err == nil || !momentary(pgautofailover.SQLState(err)) || time.Now().After(deadline) {
			return err
		}
		s.env.warnf("%s, retrying", err)
		if err := sleep(ctx, time.Second+rand.N(4*time.Second)); err != nil { //nolint:gosec // jitter
			return err
		}
	}
}

// momentary lists the SQLSTATEs after which the same call may succeed.
func momentary(code string) bool {
	return code == pgerrcode.SerializationFailure || code == pgerrcode.StatementCompletionUnknown ||
		code == pgerrcode.DeadlockDetected || pgerrcode.IsInsufficientResources(code) || pgerrcode.IsProgramLimitExceeded(code)
}

package cli

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

func newPerformCmd(env *Env) *cobra.Command {
	return newSet("perform", "Perform an action orchestrated by the monitor",
		newFailoverCmd(env, "failover", "Perform a failover for given formation and group"),
		newFailoverCmd(env, "switchover", "Perform a switchover for given formation and group"),
		newPromotionCmd(env),
	)
}

func performFlags(cmd *cobra.Command) {
	pgdataFlag(cmd)
	monitorFlag(cmd, "m")
	formationFlag(cmd)
	cmd.Flags().Int("wait", 60, "how many `seconds` to wait for the new primary; 0 waits for ever")
	cmd.Flags().BoolP("allow-data-loss", "A", false, "go on although acknowledged writes may be lost")
}

func newFailoverCmd(env *Env, name, short string) *cobra.Command {
	cmd := newLeaf(name, short, withMonitor(env, performFailover))
	performFlags(cmd)
	groupFlag(cmd)
	return cmd
}

func performFailover(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
	formation, group, err := s.formationGroup(ctx, cmd)
	if err != nil {
		return err
	}
	f, err := newFollower(ctx, s, formation, group)
	if err != nil {
		return err
	}
	loss := on(cmd, "allow-data-loss")
	err = retryDeadlocks(ctx, func() error { return s.db.PerformFailover(ctx, formation, group, loss) })
	if err != nil {
		return advise(fatal(exitMonitor, "%w", err), "show blockers tells what stands in the way, and which command helps")
	}
	return waitNewPrimary(ctx, f, cmd)
}

// waitNewPrimary shows the group's progress until a node is primary again.
func waitNewPrimary(ctx context.Context, f *follower, cmd *cobra.Command) error {
	if err := f.asked(ctx); err != nil {
		return err
	}
	f.announce()
	seconds := number(cmd, "wait")
	err := f.wait(ctx, time.Duration(seconds)*time.Second, true, func() bool {
		return f.succeeded() || on(cmd, "allow-data-loss") && f.replaced()
	})
	if errors.Is(err, errPatience) {
		if err := showWaiting(ctx, f.s, f.formation, &f.group); err != nil {
			return err
		}
		return fail(exitInternal, "Failed to see a new primary within %d s", seconds).
			withHint("the group goes on by itself: look at %s show state, and %s show events", f.s.env.program(), f.s.env.program())
	}
	return err
}

// retryDeadlocks repeats a call that lost a race against another transaction.
func retryDeadlocks(ctx context.Context, call func() error) error {
	for attempt := 1; ; attempt++ {
		err := call()
		code := pgautofailover.SQLState(err)
		if attempt == 5 || (code != pgerrcode.SerializationFailure && code != pgerrcode.DeadlockDetected) {
			return err
		}
		if err := sleep(ctx, time.Duration(attempt)*100*time.Millisecond); err != nil {
			return err
		}
	}
}

func newPromotionCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("promotion", "Perform a failover that promotes a target node", withMonitor(env, performPromotion))
	performFlags(cmd)
	nameFlag(cmd, "n")
	return cmd
}

func performPromotion(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
	formation := s.formation(cmd)
	if err := s.formationExists(ctx, formation); err != nil {
		return err
	}
	name, err := s.nodeName(cmd)
	if err != nil {
		return err
	}
	target, err := s.db.NodeByName(ctx, formation, name)
	if err != nil {
		return unknownNode(err, formation, name)
	}
	f, err := newFollower(ctx, s, formation, target.Group)
	if err != nil {
		return err
	}
	promoting := false
	err = retryDeadlocks(ctx, func() error {
		promoting, err = s.db.PerformPromotion(ctx, formation, name, on(cmd, "allow-data-loss"))
		return err
	})
	if err != nil {
		return advise(fatal(exitMonitor, "%w", err), "show blockers tells what stands in the way, and which command helps")
	}
	if !promoting {
		return nil
	}
	return waitNewPrimary(ctx, f, cmd)
}

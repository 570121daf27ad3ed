package keeper

import (
	"context"
	"errors"

	"github.com/pgdrover/pgdrover/internal/postgres"
)

// An operator may pause or delay a standby's replay, and until it is at the end of the
// local WAL PostgreSQL goes by no change of the upstream. For its vote in an election and
// for a new upstream such a standby is let go; while its upstream stays it is left as it is.

// lastWord ends the receiver. Where PostgreSQL has paused the replay until the
// server has larger settings it is restarted with them.
func (n *node) lastWord(ctx context.Context) (postgres.Observation, error) {
	o, err := n.instance().EndReceiver(ctx)
	if !errors.Is(err, postgres.ErrLimits) {
		return o, err
	}
	if err := n.restartLarger(ctx, err); err != nil {
		return postgres.Observation{}, err
	}
	return n.instance().EndReceiver(ctx)
}

func (n *node) restartLarger(ctx context.Context, cause error) error {
	n.log.WarnContext(ctx, "restarting this standby: its replay is paused until it has larger settings", "error", cause)
	if err := n.stop(ctx); err != nil {
		return err
	}
	return n.startStandby(ctx)
}

// fit restarts a standby whose replay waits for larger settings. One that its
// operator has paused is left as it is.
func (n *node) fit(ctx context.Context) error {
	err := n.instance().CheckLimits(ctx)
	if !errors.Is(err, postgres.ErrLimits) {
		return err
	}
	return n.restartLarger(ctx, err)
}

// heldBack reports that nothing has to be found out about a standby: it is on the line
// of the upstream that it has and shall keep, and does not stream because its replay is
// paused or delayed. It does again once the replay goes on.
func (n *node) heldBack(ctx context.Context, up postgres.UpstreamConfig, o postgres.Observation) (bool, error) {
	if !o.Held || o.ReplayIdle {
		return false, nil
	}
	stays, err := n.instance().Follows(up)
	if err != nil || !stays {
		return false, err
	}
	lineage, final, err := n.compare(ctx, up, o)
	if err != nil || final || lineage != postgres.LineageFollows {
		return false, err
	}
	n.log.WarnContext(ctx, "this standby does not stream before its replay goes on, which is paused or delayed", "replayed", o.Replayed.String())
	return true, nil
}

// letGo ends the receiver of a standby that is paused or delayed and follows another
// server than up: it would not turn to that one. freed tells that it had to.
func (n *node) letGo(ctx context.Context, up postgres.UpstreamConfig, o postgres.Observation) (_ postgres.Observation, freed bool, err error) {
	if !o.Held {
		return o, false, nil
	}
	other, err := n.instance().FollowsOther(up)
	if err != nil || !other {
		return o, false, err
	}
	if o, err = n.lastWord(ctx); err != nil {
		return o, false, err
	}
	o.Receiver, o.ReplayIdle = postgres.Receiver{}, true // there is no more to come
	return o, true, nil
}

package keeper

import (
	"context"
	"errors"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// setList writes the group's list, as it belongs to the goal that the edge
// leads to: a node that slept through a failover must not apply its successor's.
//
// A standby that is about to be promoted gets it while it is promoted. Nothing
// is acknowledged in between: it goes by its guard, which nobody satisfies.
func (n *node) setList(ctx context.Context, t task) error {
	names, err := query(ctx, n, func(ctx context.Context, s monitorSession) (pg.StandbyNames, error) {
		names, ours, err := s.List(ctx, t.Number)
		if err == nil && !ours {
			err = errStaleGoal
		}
		return names, err
	})
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.names = names
	n.mu.Unlock()
	pm, err := n.server()
	if err != nil {
		return err
	}
	if pm == nil {
		return n.instance().SetSyncNamesOffline(names)
	}
	if t.List != nil && n.isArmed() && n.diskNames().Equal(guardList()) && n.instance().IsStandby() {
		t.List.due, t.List.names = true, names
		return nil
	}
	return n.instance().With(ctx, func(s *postgres.Session) error { return n.applyList(ctx, s, names) })
}

// applyList has the running server go by a list.
func (n *node) applyList(ctx context.Context, s *postgres.Session, names pg.StandbyNames) error {
	have, err := s.SyncNames(ctx)
	if err != nil {
		return err
	}
	if names.Empty() {
		n.markArmed(0)
	}
	if have != names.String() {
		if err := s.SetSyncNames(ctx, names); err != nil {
			return err
		}
	}
	if !names.Empty() {
		return nil
	}
	released, err := s.ReleaseSyncWaiters(ctx)
	if released > 0 {
		n.log.WarnContext(ctx, "released sessions that waited for a standby", "sessions", released)
	}
	return err
}

// guardName is a standby that does not exist. Every standby carries a list of
// just that name, from before it starts: promoted, it acknowledges nothing
// before it has its own list, and needs no checkpoint to go by that one.
const guardName = "pgautofailover_nobody"

func guardList() pg.StandbyNames { return pg.StandbyNames{K: 1, Members: []string{guardName}} }

// guard gives a running standby the guard list again, after an edge that was
// given up replaced it.
func (n *node) guard(ctx context.Context) error {
	return n.instance().With(ctx, func(s *postgres.Session) error {
		have, err := s.SyncNames(ctx)
		if err != nil || have == guardList().String() {
			return err
		}
		return s.SetSyncNames(ctx, guardList())
	})
}

// arm has the guard in force on a running standby for which that is not
// certain: this process did not start it.
func (n *node) arm(ctx context.Context) error {
	pm, err := n.server()
	if err != nil || pm == nil || n.isArmed() {
		return err
	}
	if err := n.guard(ctx); err != nil {
		return err
	}
	return n.inForce(ctx, pm, guardList())
}

// enforceList waits until the list holds for every session.
func (n *node) enforceList(ctx context.Context) error {
	n.mu.Lock()
	names := n.names
	n.mu.Unlock()
	pm, err := n.server()
	if err != nil {
		return err
	}
	if names.Empty() {
		return nil
	}
	if pm == nil {
		return postgres.ErrNotRunning
	}
	return n.inForce(ctx, pm, names)
}

// inForce returns when new sessions see the list and commits wait for it. The
// second is only a question when the server had an empty list before: then a
// checkpoint shows that the checkpointer, who tells the others, has taken note.
func (n *node) inForce(ctx context.Context, pm *postgres.Postmaster, names pg.StandbyNames) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		shown := false
		err := n.instance().With(ctx, func(s *postgres.Session) error {
			have, err := s.SyncNames(ctx)
			if shown = have == names.String(); err != nil || !shown || n.isArmed() {
				return err
			}
			return s.Checkpoint(ctx)
		})
		if err != nil {
			return err
		}
		if shown {
			n.markArmed(pm.PID())
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// waitVoters waits until the list is in force and its members hold what was
// written before. That can take as long as standbys are away, so the other
// nodes are looked after meanwhile: one of them may need its slot first.
func (n *node) waitVoters(ctx context.Context) error {
	n.mu.Lock()
	names := n.names
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- n.instance().WaitVoters(ctx, names) }()
	tick := time.NewTicker(peersWhileWaiting)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err == nil && !names.Empty() {
				if pm, pmErr := n.server(); pmErr == nil && pm != nil {
					n.markArmed(pm.PID())
				}
			}
			return err
		case <-tick.C:
			if err := errors.Join(n.peerRules(ctx), n.slots(ctx)); err != nil && ctx.Err() == nil {
				n.log.WarnContext(ctx, "could not prepare for the other nodes", "error", err)
			}
		}
	}
}

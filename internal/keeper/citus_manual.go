package keeper

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// CoordinatorCall is what an operator has a Citus node say to its formation's coordinator.
type CoordinatorCall int

// The calls.
const (
	// CoordinatorUse has the coordinator use this node, whatever its metadata say now.
	CoordinatorUse CoordinatorCall = iota
	// CoordinatorAdd makes this node known to the coordinator.
	CoordinatorAdd
	// CoordinatorActivate has the coordinator use a node that it knows.
	CoordinatorActivate
	// CoordinatorRemove takes this node out of the metadata.
	CoordinatorRemove
	// CoordinatorPrepare, …Commit and …Rollback are the steps that lead a group's writes to this node.
	CoordinatorPrepare
	CoordinatorCommit
	CoordinatorRollback
)

// Call has the formation's coordinator do what an operator asks for this node,
// and returns where that coordinator is.
func Call(ctx context.Context, cfg Config, call CoordinatorCall) (pg.HostPort, error) {
	k, err := New(cfg)
	if err != nil {
		return pg.HostPort{}, err
	}
	state, err := ReadState(cfg.Paths.StateFile)
	if err != nil {
		return pg.HostPort{}, err
	}
	who := identity{formation: k.cfg.File.Formation, group: int(state.Group), nodeID: int64(state.NodeID)}
	db, err := connectMonitor(ctx, k.cfg.File.Monitor, "pg_autoctl coordinator")
	if err != nil {
		return pg.HostPort{}, err
	}
	s := &pgSession{db: db, identity: who}
	defer s.Close(ctx)
	local := k.newNode(who, k.log)
	defer local.release()
	// It looks at the monitor while it works on the coordinator.
	var mu sync.Mutex
	local.ask = func(ctx context.Context, do func(ctx context.Context, s monitorSession) error) error {
		mu.Lock()
		defer mu.Unlock()
		return do(ctx, s)
	}
	at, err := local.coordinator(ctx)
	if errors.Is(err, errNoCoordinator) {
		err = withHint(fmt.Errorf("call the coordinator: %w", err), "see what group 0 waits for with: pg_autoctl show state")
	}
	if err != nil {
		return at, err
	}
	return at, local.withCoordinator(ctx, func(ctx context.Context, s *distSession) error { return local.tell(ctx, s, call) })
}

func (n *node) tell(ctx context.Context, s *distSession, call CoordinatorCall) error {
	switch call {
	case CoordinatorUse:
		return n.setEntry(ctx, s, s.cooldown)
	case CoordinatorPrepare:
		return n.prepareMove(ctx, s)
	case CoordinatorCommit:
		return n.commitMove(ctx, s)
	case CoordinatorRollback:
		return s.finish(ctx, "ROLLBACK", updateGID(n.self().Group))
	case CoordinatorAdd, CoordinatorActivate, CoordinatorRemove:
	}
	self := n.self()
	rows, err := s.nodes(ctx)
	if err != nil {
		return err
	}
	action, row := planEntry(rows, self)
	switch {
	case action == entryMove:
		return withHint(fmt.Errorf("group %d is node %s in the coordinator's metadata, not this node", self.Group, postgres.HostPort(row.Host, row.Port)),
			"the entry follows the group's primary; to lead writes to this node by hand: pg_autoctl manual coordinator update prepare, then commit")
	case call == CoordinatorRemove && row.ID != 0:
		return s.remove(ctx, row)
	case call == CoordinatorAdd && action == entryAddFirst:
		return s.add(ctx, self, false)
	case call == CoordinatorAdd && action == entryAdd:
		return s.add(ctx, self, true)
	case call == CoordinatorActivate && row.ID == 0:
		return withHint(errors.New("this node is not in the coordinator's metadata"), "add it with: pg_autoctl manual coordinator add")
	case call == CoordinatorActivate:
		return s.activate(ctx, self)
	}
	return nil
}

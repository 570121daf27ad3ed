package keeper

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// kindOf is the kind of node that a configuration is for.
func kindOf(f File) fsm.NodeKind {
	for _, k := range []fsm.NodeKind{fsm.Coordinator, fsm.Worker} {
		if f.NodeKind == k.String() {
			return k
		}
	}
	return fsm.Standalone
}

// citusRepair bounds what a coordinator's own steps wait for locks: what holds
// them may be a worker's transaction that ends only once this coordinator is known to be open.
const citusRepair = 500 * time.Millisecond

// coordinate keeps the coordinator's metadata in step with this node's edge.
func (n *node) coordinate(ctx context.Context, s fsm.Step, t task) error {
	kind := kindOf(n.config())
	switch {
	case s == fsm.StepCoordinatorAdd:
		return n.coordinatorAdd(ctx, kind, t)
	case s == fsm.StepCoordinatorRemove:
		n.coordinatorRemove(ctx)
		return nil
	case kind == fsm.Coordinator:
		n.ownEntry(ctx)
		return nil
	case s == fsm.StepCoordinatorPrepare:
		return n.insist(ctx, "prepare the promotion", n.prepareMove)
	case s == fsm.StepCoordinatorCommit:
		return n.insist(ctx, "commit the promotion", n.commitMove)
	case s == fsm.StepCoordinatorRepair:
		return n.insist(ctx, "repair the metadata", n.repairMove)
	}
	return fmt.Errorf("perform step %d: unknown", int(s))
}

// insist tries until the coordinator has taken it, or the edge leads nowhere
// any more: a worker's promotion is worth nothing while writes are led elsewhere.
func (n *node) insist(ctx context.Context, what string, do func(ctx context.Context, s *distSession) error) error {
	return n.persist(ctx, what, func(ctx context.Context) error { return n.withCoordinator(ctx, do) })
}

func (n *node) persist(ctx context.Context, what string, attempt func(ctx context.Context) error) error {
	var told string
	var toldAt, began time.Duration
	began = n.clock()
	for {
		err := attempt(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		now := n.clock()
		if err == nil {
			if told != "" {
				n.log.InfoContext(ctx, "the coordinator has answered", "step", what, "took", (now - began).Round(time.Millisecond).String())
			}
			return nil
		}
		if err.Error() != told || now-toldAt > coordinatorTold {
			n.log.WarnContext(ctx, "waiting for the coordinator", withAdvice(err, "step", what)...)
			told, toldAt = err.Error(), now
		}
		if err := sleepFor(ctx, coordinatorAgain); err != nil {
			return err
		}
	}
}

func sleepFor(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// self is this node as the metadata are to show it.
func (n *node) self() citusSelf { return selfOf(n.config(), n.identity().group) }

// facts reads what the metadata hold.
func (s *distSession) facts(ctx context.Context) (rows []distNode, list []prepared, err error) {
	if rows, err = s.nodes(ctx); err != nil {
		return nil, nil, err
	}
	list, err = s.prepared(ctx)
	return rows, list, err
}

// prepareMove has the transaction prepared that leads the group's writes here:
// from now on the coordinator holds them back.
func (n *node) prepareMove(ctx context.Context, s *distSession) error {
	self := n.self()
	rows, list, err := s.facts(ctx)
	if err != nil {
		return err
	}
	switch planPreparation(list, rows, self, n.preparedByUs()) {
	case prepareNothing:
		return nil
	case prepareInstead:
		if err := s.finish(ctx, "ROLLBACK", updateGID(self.Group)); err != nil {
			return err
		}
	case prepareNew:
	}
	action, row := planEntry(rows, self)
	if action != entryMove {
		return nil
	}
	if err := s.move(ctx, row, self, s.cooldown, "PREPARE TRANSACTION '"+updateGID(self.Group)+"'"); err != nil {
		if !noRoomToPrepare(err) {
			return err
		}
		// The end of the promotion changes the address in one go.
		n.log.WarnContext(ctx, "the coordinator cannot prepare the change of address, going on without", "error", err,
			"hint", "raise max_prepared_transactions on the coordinator's nodes, or leave it to Citus")
		return nil
	}
	if list, err = s.prepared(ctx); err != nil {
		return err
	}
	found, _ := findPrepared(list, self.Group)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.citus.prepared = found
	return nil
}

// commitMove leads the group's writes here, and leaves nothing prepared.
func (n *node) commitMove(ctx context.Context, s *distSession) error {
	self := n.self()
	list, err := s.prepared(ctx)
	if err != nil {
		return err
	}
	if _, ok := findPrepared(list, self.Group); ok {
		// It may be another candidate's, who never got to the end: then the entry shows it.
		if err := s.finish(ctx, "COMMIT", updateGID(self.Group)); err != nil {
			return err
		}
	}
	return n.setEntry(ctx, s, s.cooldown)
}

// repairMove forgets what was prepared for somebody else: this node goes on.
func (n *node) repairMove(ctx context.Context, s *distSession) error {
	self := n.self()
	list, err := s.prepared(ctx)
	if err != nil {
		return err
	}
	if _, ok := findPrepared(list, self.Group); ok {
		if err := s.finish(ctx, "ROLLBACK", updateGID(self.Group)); err != nil {
			return err
		}
	}
	return n.setEntry(ctx, s, s.cooldown)
}

// preparedByUs is the transaction that this process has prepared.
func (n *node) preparedByUs() prepared {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.citus.prepared
}

// setEntry has the metadata show this node as it is.
func (n *node) setEntry(ctx context.Context, s *distSession, wait time.Duration) error {
	self := n.self()
	rows, err := s.nodes(ctx)
	if err != nil {
		return err
	}
	switch action, row := planEntry(rows, self); action {
	case entryRight:
		return nil
	case entryMove:
		return s.move(ctx, row, self, wait, "COMMIT")
	case entryActivate:
		return s.activate(ctx, self)
	case entryAdd:
		return s.add(ctx, self, true)
	case entryAddFirst:
		if err := s.add(ctx, self, false); err != nil {
			return err
		}
		return s.activate(ctx, self)
	}
	return nil
}

// add makes a node known, and its pooler's address.
func (s *distSession) add(ctx context.Context, self citusSelf, active bool) error {
	sql, err := s.catalog.addSQL(active)
	if err != nil {
		return err
	}
	if err := s.run(ctx, "BEGIN"); err != nil {
		return err
	}
	if _, err := s.conn.Exec(ctx, sql, self.Host, self.Port, self.Group, self.Role, self.Cluster); err != nil {
		return s.undo(ctx, fmt.Errorf("add this node to the coordinator's metadata: %w", err))
	}
	if self.ProxyPort != 0 {
		var id int
		err := s.conn.QueryRow(ctx, `SELECT nodeid FROM pg_catalog.pg_dist_node WHERE nodename = $1 AND nodeport = $2`, self.Host, self.Port).Scan(&id)
		if err == nil {
			err = s.pool(ctx, id, self)
		}
		if err != nil {
			return s.undo(ctx, err)
		}
	}
	return s.run(ctx, "COMMIT")
}

func (s *distSession) activate(ctx context.Context, self citusSelf) error {
	sql, err := s.catalog.activateSQL()
	if err != nil {
		return err
	}
	if _, err := s.conn.Exec(ctx, sql, self.Host, self.Port); err != nil {
		return fmt.Errorf("activate this node on the coordinator: %w", err)
	}
	return nil
}

// coordinatorAdd registers this node with the coordinator. A standby is not
// registered, unless it is a member of a cluster of read replicas.
func (n *node) coordinatorAdd(ctx context.Context, kind fsm.NodeKind, t task) error {
	file, self := n.config(), n.self()
	if t.To != fsm.Single && self.Role != citusSecondary {
		return nil
	}
	if kind == fsm.Coordinator && t.To == fsm.Single {
		if file.HBALevel == hbaSkip {
			n.log.InfoContext(ctx, "the coordinator is not added to its own metadata: its access rules are left to the operator")
			return nil
		}
		return n.locally(ctx, func(ctx context.Context, s *distSession) error { return n.setEntry(ctx, s, citusRepair) })
	}
	return n.awaitCoordinator(ctx, func(ctx context.Context, s *distSession) error {
		if kind == fsm.Coordinator {
			rows, err := s.nodes(ctx)
			if err != nil || !knowsCoordinator(rows) {
				return err
			}
		}
		return n.setEntry(ctx, s, s.cooldown)
	})
}

// awaitCoordinator tries for as long, and as often, as the configuration says.
func (n *node) awaitCoordinator(ctx context.Context, do func(ctx context.Context, s *distSession) error) error {
	times := n.config().Timeouts
	limit := time.Duration(times.CitusCoordinatorWaitTimeout) * time.Second
	began := n.clock()
	for try := 1; ; try++ {
		err := n.withCoordinator(ctx, do)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case try > times.CitusCoordinatorWaitMaxRetries || n.clock()-began >= limit:
			return withHint(fmt.Errorf("register with the coordinator: %w", err),
				"the formation's coordinator must be running, hold extension citus in this node's database, and reach this node's server")
		}
		if try == 1 {
			n.log.WarnContext(ctx, "waiting for the coordinator", withAdvice(err, "timeout", limit.String())...)
		}
		if err := sleepFor(ctx, time.Second); err != nil {
			return err
		}
	}
}

// coordinatorRemove takes a node that is dropped out of the metadata. What does
// not succeed here the coordinator's own node does later.
func (n *node) coordinatorRemove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, coordinatorLogin)
	defer cancel()
	err := n.withCoordinator(ctx, func(ctx context.Context, s *distSession) error {
		nodes, err := n.formationNodes(ctx)
		if err != nil {
			return err
		}
		rows, err := s.nodes(ctx)
		if err != nil {
			return err
		}
		row, ok := leaving(rows, nodes, n.self(), n.identity().nodeID)
		if !ok {
			return nil
		}
		return s.remove(ctx, row)
	})
	if err != nil && !errors.Is(err, errDisabled) && !errors.Is(err, errNoCoordinator) {
		n.log.WarnContext(ctx, "this node may still be in the coordinator's metadata", "error", err)
	}
}

func (s *distSession) remove(ctx context.Context, row distNode) error {
	sql, err := s.catalog.removeSQL()
	if err != nil {
		return err
	}
	if _, err := s.conn.Exec(ctx, sql, row.Host, row.Port); err != nil {
		return fmt.Errorf("remove node %d (%s) from the metadata: %w", row.ID, postgres.HostPort(row.Host, row.Port), err)
	}
	return nil
}

// locally runs do on this node's own server.
func (n *node) locally(ctx context.Context, do func(ctx context.Context, s *distSession) error) error {
	local, err := n.instance().Connect(ctx, postgres.ConnectConfig{DBName: n.config().DBName, ApplicationName: "pgdrover citus"})
	if err != nil {
		return err
	}
	defer local.Close(ctx)
	s, err := n.openDist(ctx, local.Conn())
	if err != nil {
		return err
	}
	return do(ctx, s)
}

// ownEntry has a coordinator's metadata show its own new address. It is not
// worth holding up the coordinator's promotion: what is in the way now is tried again at rest.
func (n *node) ownEntry(ctx context.Context) {
	err := n.locally(ctx, func(ctx context.Context, s *distSession) error {
		rows, err := s.nodes(ctx)
		if err != nil || !knowsCoordinator(rows) {
			return err
		}
		return n.setEntry(ctx, s, citusRepair)
	})
	if err != nil && ctx.Err() == nil {
		n.log.WarnContext(ctx, "could not update the coordinator's own entry yet", "error", err)
	}
}

package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// Times between two looks at the coordinator's metadata.
const (
	coordinatorCare = 5 * time.Second
	workerCare      = 10 * time.Second
	careTimeout     = 8 * time.Second
	careAsks        = 3 * time.Second // of it for the monitor, which may be away
	checkEvery      = 10 * time.Minute
)

// citusMemory is what a node remembers of the coordinator's metadata.
type citusMemory struct {
	prepared  prepared   // by this process, the last one
	strangers []distNode // seen by the last look

	checked time.Duration // when this node's own server was looked at, 0: never
}

// care is what a node of a Citus formation does now and then while it takes writes.
type care struct {
	kind fsm.NodeKind
	// do is nil for nodes of other formations.
	do func(ctx context.Context) error

	role fsm.State
	next time.Duration
}

func (n *node) citusCare() care {
	c := care{kind: kindOf(n.config())}
	switch c.kind {
	case fsm.Coordinator:
		c.do = n.careAsCoordinator
	case fsm.Worker:
		c.do = n.careAsWorker
	case fsm.Standalone:
	}
	return c
}

// job returns the work that is due, nil when there is none.
func (c *care) job(role fsm.State, now time.Duration) func(ctx context.Context) error {
	if c.do == nil || !role.Writable() {
		c.role = role
		return nil
	}
	if c.role == role && now < c.next {
		return nil
	}
	c.role, c.next = role, now+workerCare
	if c.kind == fsm.Coordinator {
		c.next = now + coordinatorCare
	}
	return c.do
}

// careAsCoordinator keeps the metadata as the monitor knows the formation:
// nothing waits for a worker that is being replaced, nothing stays prepared for a
// promotion that is not under way, no node stays that is gone, and the
// coordinator's own entry is right.
func (n *node) careAsCoordinator(ctx context.Context) error {
	return n.careFor(ctx, n.locally, func(ctx context.Context, s *distSession) error {
		rows, list, err := s.facts(ctx)
		if err != nil {
			return err
		}
		asking, cancel := context.WithTimeout(ctx, careAsks)
		nodes, err := n.formationNodes(asking)
		cancel()
		if err != nil {
			return errors.Join(err, n.rollBack(ctx, s, list, overdue))
		}
		var errs error
		for _, at := range replaced(rows, nodes) {
			errs = errors.Join(errs, n.cutOffAll(ctx, s, at))
		}
		if err := n.rollBack(ctx, s, list, func(p prepared) bool { return abandoned(p, nodes) }); err != nil {
			return errors.Join(errs, err)
		}
		if knowsCoordinator(rows) {
			errs = errors.Join(errs, n.setEntry(ctx, s, citusRepair))
		}
		return errors.Join(errs, n.removeStrangers(ctx, s, strangers(rows, nodes)))
	})
}

// rollBack rolls back those of these prepared transactions that are left over, nil: all.
func (n *node) rollBack(ctx context.Context, s *distSession, list []prepared, left func(p prepared) bool) error {
	for _, p := range list {
		if left != nil && !left(p) {
			continue
		}
		n.log.WarnContext(ctx, "rolling back a prepared transaction that no promotion waits for", "name", p.GID, "age", p.Age.String())
		if err := s.finish(ctx, "ROLLBACK", p.GID); err != nil {
			return err
		}
	}
	return nil
}

// removeStrangers takes out entries that the last look found as well.
func (n *node) removeStrangers(ctx context.Context, s *distSession, list []distNode) error {
	n.mu.Lock()
	before := n.citus.strangers
	n.citus.strangers = list
	n.mu.Unlock()
	var errs error
	for _, r := range list {
		if !slices.Contains(before, r) {
			continue
		}
		n.log.InfoContext(ctx, "removing a node from the metadata that the monitor does not know",
			"group", r.Group, "address", postgres.HostPort(r.Host, r.Port))
		errs = errors.Join(errs, s.remove(ctx, r))
	}
	return errs
}

// careAsWorker looks after this group's entry on the coordinator: its address
// may have changed, the coordinator may have failed over to an older state.
func (n *node) careAsWorker(ctx context.Context) error {
	return n.careFor(ctx, n.withCoordinator, func(ctx context.Context, s *distSession) error {
		self := n.self()
		rows, list, err := s.facts(ctx)
		if err != nil {
			return err
		}
		action, row := planEntry(rows, self)
		found, there := findPrepared(list, self.Group)
		if !there && action != entryMove {
			return nil // an entry that is missing or not active is somebody's doing
		}
		nodes, err := n.formationNodes(ctx)
		if err != nil || promoting(nodes, self.Group) {
			return err
		}
		if there {
			if !abandoned(found, nodes) {
				return nil
			}
			if err := n.rollBack(ctx, s, []prepared{found}, nil); err != nil {
				return err
			}
		}
		if action != entryMove {
			return nil
		}
		n.log.InfoContext(ctx, "updating the coordinator's metadata", "previous", postgres.HostPort(row.Host, row.Port))
		return s.move(ctx, row, self, citusRepair, "COMMIT")
	})
}

// checkCitus says now and then what Citus lacks on this node's own server: an operator's
// settings win over ours, and what is amiss shows with clients only, or when a node is lost.
func (n *node) checkCitus(ctx context.Context) {
	n.mu.Lock()
	due := n.citus.checked == 0 || n.clock()-n.citus.checked >= checkEvery
	n.mu.Unlock()
	if !due {
		return
	}
	err := n.locally(ctx, func(ctx context.Context, s *distSession) error { return s.check(ctx) })
	if ctx.Err() != nil {
		return
	}
	n.mu.Lock()
	n.citus.checked = n.clock()
	n.mu.Unlock()
	if err != nil {
		n.log.WarnContext(ctx, "this node's server is not fit for Citus", withAdvice(err)...)
	}
}

const checkSQL = `
SELECT current_setting('shared_preload_libraries'), current_setting('max_prepared_transactions')::int, current_setting('max_connections')::int`

func (s *distSession) check(ctx context.Context) error {
	var libraries string
	var prepared, connections int
	if err := s.conn.QueryRow(ctx, checkSQL).Scan(&libraries, &prepared, &connections); err != nil {
		return fmt.Errorf("look at the settings: %w", err)
	}
	return unfit(libraries, prepared, connections)
}

// unfit says what keeps a server from doing a Citus node's work.
func unfit(libraries string, prepared, connections int) error {
	first, _, _ := strings.Cut(libraries, ",")
	switch {
	case strings.Trim(first, ` "`) != "citus":
		return withHint(fmt.Errorf("shared_preload_libraries is %q and does not begin with citus", libraries),
			"leave shared_preload_libraries out of postgresql.conf and ALTER SYSTEM, or have it begin with citus; then restart PostgreSQL")
	case prepared < connections:
		return withHint(fmt.Errorf("max_prepared_transactions is %d, less than max_connections, %d: transactions on several workers may fail", prepared, connections),
			"leave max_prepared_transactions out of postgresql.conf and ALTER SYSTEM, Citus chooses it then, or raise it; then restart PostgreSQL, the standbys first")
	}
	return nil
}

// careFor runs do; trouble is logged and tried again at the next look, as the node works without it.
func (n *node) careFor(ctx context.Context,
	on func(ctx context.Context, do func(ctx context.Context, s *distSession) error) error,
	do func(ctx context.Context, s *distSession) error,
) error {
	ctx, cancel := context.WithTimeout(ctx, careTimeout)
	defer cancel()
	n.checkCitus(ctx)
	err := on(ctx, do)
	if err != nil && !errors.Is(err, errDisabled) && !errors.Is(context.Cause(ctx), errSuperseded) {
		n.log.WarnContext(ctx, "could not look after the coordinator's metadata, retrying later", withAdvice(err)...)
	}
	return nil
}

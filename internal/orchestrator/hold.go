package orchestrator

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/pgdrover/pgdrover/internal/walreceiver"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// Snapshot is what a node held at one position of its log.
type Snapshot struct {
	// ID is its name for SET TRANSACTION SNAPSHOT, Slot that of the temporary slot
	// which begins there: as long as the one is there, so is the other.
	ID, Slot string
	// Point is that position.
	Point string
	// Close gives it up.
	Close func(ctx context.Context)
}

// Snapshotter makes a snapshot of a node and keeps it for others to copy.
type Snapshotter func(ctx context.Context, node workflow.Node, slot string) (Snapshot, error)

// takeSnapshot makes one with a replication connection, which holds it.
func takeSnapshot(ctx context.Context, node workflow.Node, slot string) (Snapshot, error) {
	conn, err := walreceiver.Connect(ctx, walreceiver.Config{ConnInfo: node.ConnInfo, ApplicationName: "pgdrover"})
	if err != nil {
		return Snapshot{}, &NodeError{Node: node.Name, Op: "connect", Err: serverError(err)}
	}
	made, err := conn.CreateSlot(ctx, walreceiver.SlotConfig{Name: slot, Plugin: "pgoutput", Temporary: true, Snapshot: walreceiver.SnapshotExport})
	if err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return Snapshot{}, &NodeError{Node: node.Name, Op: "make a snapshot", Err: serverError(err)}
	}
	return Snapshot{ID: made.Snapshot, Slot: made.Name, Point: made.ConsistentPoint.String(), Close: func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}}, nil
}

const (
	// qAskExact asks the workers of a node to write their progress into each
	// transaction that they apply, so that a snapshot says how far it goes.
	qAskExact = `SELECT pg_catalog.pg_advisory_lock_shared(727400014, 0)`
	// qInexact counts those that do not say so yet.
	qInexact = `SELECT count(*) FROM spock.subscription s WHERE s.sub_enabled AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks l
 WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 727400015 AND l.objid = s.sub_id AND l.objsubid = 2
   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))`
)

// hold makes a snapshot that several nodes copy, and keeps it. Where the source
// does not say exactly what it holds there is none, and each node makes its own.
func (e *Executor) hold(ctx context.Context, s workflow.Step) (outcome, error) {
	e.letGo(ctx)
	stop := e.watchBlockers(ctx, s)
	defer stop()
	server, err := e.acquire(ctx, s.Node)
	if err != nil {
		return outcome{}, err
	}
	// Its lock ends with it.
	defer func() { _ = server.Close(context.WithoutCancel(ctx)) }()
	if _, err := server.Ask(ctx, qAskExact); err != nil {
		return outcome{}, err
	}
	exact, err := e.exact(ctx, server, e.cfg.Grace)
	if err != nil {
		return outcome{}, err
	}
	var snapshot Snapshot
	if exact {
		if snapshot, err = e.cfg.Snapshot(ctx, e.nodes[s.Node], "pgdrover_share_"+strconv.FormatInt(time.Now().UnixNano(), 36)); err != nil {
			return outcome{}, err
		}
		if exact, err = e.exact(ctx, server, 0); !exact || err != nil {
			snapshot.Close(ctx)
		}
	}
	if err != nil {
		return outcome{}, err
	}
	if !exact {
		return outcome{
			status: OK, variables: map[string]*string{workflow.SharedSnapshot: new("")},
			message: "each node copies a snapshot of its own: not all streams of " + s.Node + " run",
		}, nil
	}
	e.mu.Lock()
	e.held = &snapshot
	e.mu.Unlock()
	return outcome{status: OK, variables: map[string]*string{
		workflow.SharedSnapshot: new(fmt.Sprintf("slot=%s snapshot=%s point=%s", snapshot.Slot, snapshot.ID, snapshot.Point)),
	}}, nil
}

// exact waits until all workers of a node write their progress into each transaction.
func (e *Executor) exact(ctx context.Context, server Server, patience time.Duration) (bool, error) {
	for began := time.Now(); ; {
		answer, err := server.Ask(ctx, qInexact)
		if err != nil || answer.text(0) == "0" || time.Since(began) >= patience {
			return err == nil && answer.text(0) == "0", err
		}
		if err := e.pause(ctx, e.cfg.Poll); err != nil {
			return false, err
		}
	}
}

// letGo gives up the snapshot that is held, if there is one.
func (e *Executor) letGo(ctx context.Context) {
	e.mu.Lock()
	held := e.held
	e.held = nil
	e.mu.Unlock()
	if held != nil {
		held.Close(ctx)
	}
}

// heldBefore is the step at which a run goes on that is to go on at i: a
// snapshot that was to be copied in the same phase went with whoever held it.
func (e *Executor) heldBefore(i int) int {
	for h := i - 1; h >= 0 && e.cfg.Steps[h].Phase == e.cfg.Steps[i].Phase; h-- {
		if e.cfg.Steps[h].Type == workflow.TypeHold {
			return h
		}
	}
	return i
}

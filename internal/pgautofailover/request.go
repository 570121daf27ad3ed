package pgautofailover

import (
	"context"
	"fmt"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

const (
	qAllowDataLoss    = `SELECT set_config('pgautofailover.guard_data_loss', 'off', true)`
	qPerformFailover  = `SELECT pgautofailover.perform_failover($1, $2)`
	qPerformPromotion = `SELECT pgautofailover.perform_promotion($1, $2)`
)

// PerformFailover asks for a failover of a group. With allowDataLoss the
// request also says that missing votes do not matter.
func (db *DB) PerformFailover(ctx context.Context, formation string, group int, allowDataLoss bool) error {
	_, err := db.request(ctx, "perform failover", allowDataLoss, qPerformFailover, formation, group)
	return err
}

// PerformPromotion asks for the promotion of one node; false says that it is the primary already.
func (db *DB) PerformPromotion(ctx context.Context, formation, name string, allowDataLoss bool) (bool, error) {
	return db.request(ctx, "perform promotion", allowDataLoss, qPerformPromotion, formation, name)
}

// request calls a function that answers with a boolean or nothing.
func (db *DB) request(ctx context.Context, op string, allowDataLoss bool, sql string, args ...any) (bool, error) {
	var answer any
	if !allowDataLoss {
		err := db.conn.QueryRow(ctx, sql, args...).Scan(&answer)
		return answer == true, wrap(op, err)
	}
	tx, err := db.conn.Begin(ctx)
	if err != nil {
		return false, wrap(op, err)
	}
	defer rollback(ctx, tx)
	if _, err := tx.Exec(ctx, qAllowDataLoss); err != nil {
		return false, wrap(op, err)
	}
	if err := tx.QueryRow(ctx, sql, args...).Scan(&answer); err != nil {
		return false, wrap(op, err)
	}
	return answer == true, wrap(op, tx.Commit(ctx))
}

const (
	qStartMaintenance = `SELECT pgautofailover.start_maintenance($1)`
	qStopMaintenance  = `SELECT pgautofailover.stop_maintenance($1)`
	qRemoveNode       = `SELECT pgautofailover.remove_node($1::bigint, $2::boolean)`
	qRemoveNodeByHost = `SELECT pgautofailover.remove_node($1::text, $2::int, $3::boolean)`
)

// StartMaintenance asks to hand a node's server to its operator; false says that there is no such node.
func (db *DB) StartMaintenance(ctx context.Context, nodeID int64) (bool, error) {
	return db.request(ctx, "start maintenance", false, qStartMaintenance, nodeID)
}

// StopMaintenance asks to take a node back; false says that there is no such node.
func (db *DB) StopMaintenance(ctx context.Context, nodeID int64) (bool, error) {
	return db.request(ctx, "stop maintenance", false, qStopMaintenance, nodeID)
}

// RemoveNode asks to remove a node. With force the row goes at once, whatever the node does.
func (db *DB) RemoveNode(ctx context.Context, nodeID int64, force bool) (bool, error) {
	return db.request(ctx, "remove the node", false, qRemoveNode, nodeID, force)
}

// RemoveNodeByHost is RemoveNode for the node at an address.
func (db *DB) RemoveNodeByHost(ctx context.Context, host string, port int, force bool) (bool, error) {
	return db.request(ctx, "remove the node", false, qRemoveNodeByHost, host, port, force)
}

// RemoveNodeByName is RemoveNode for the node of that name in a formation.
func (db *DB) RemoveNodeByName(ctx context.Context, formation, name string, force bool) (bool, error) {
	node, err := db.NodeByName(ctx, formation, name)
	if err != nil {
		return false, fmt.Errorf("remove the node %q of formation %q: %w", name, formation, err)
	}
	return db.RemoveNode(ctx, node.ID, force)
}

const (
	qSetPriority     = `SELECT pgautofailover.set_node_candidate_priority($1, $2, $3)`
	qSetQuorum       = `SELECT pgautofailover.set_node_replication_quorum($1, $2, $3)`
	qSetRegion       = `SELECT pgautofailover.set_node_region($1, $2, $3)`
	qSetSyncStandbys = `SELECT pgautofailover.set_formation_number_sync_standbys($1, $2)`
)

// SetCandidatePriority changes a node's candidate priority, 0 to 100.
func (db *DB) SetCandidatePriority(ctx context.Context, formation, name string, priority int) error {
	_, err := db.request(ctx, "set the candidate priority", false, qSetPriority, formation, name, priority)
	return err
}

// SetReplicationQuorum changes whether a node takes part in the replication quorum.
func (db *DB) SetReplicationQuorum(ctx context.Context, formation, name string, quorum bool) error {
	_, err := db.request(ctx, "set the replication quorum", false, qSetQuorum, formation, name, quorum)
	return err
}

// SetRegion changes a node's region.
func (db *DB) SetRegion(ctx context.Context, formation, name, region string) error {
	_, err := db.request(ctx, "set the region", false, qSetRegion, formation, name, region)
	return err
}

// SetNumberSyncStandbys changes a formation's number of synchronous standbys.
func (db *DB) SetNumberSyncStandbys(ctx context.Context, formation string, number int) error {
	_, err := db.request(ctx, "set the number of synchronous standbys", false, qSetSyncStandbys, formation, number)
	return err
}

const qMonitorAlive = `SELECT pgautofailover.decider_alive()`

// MonitorAlive reports whether a monitor process is there to take up requests.
func (db *DB) MonitorAlive(ctx context.Context) (bool, error) {
	var alive bool
	err := db.conn.QueryRow(ctx, qMonitorAlive).Scan(&alive)
	return alive, wrap("look for the monitor process", err)
}

// Request is what became of a request of an operator.
type Request struct {
	ID     int64
	Kind   fsm.IntentKind
	NodeID int64 // 0 when it is about the group
	// Open says that it still waits to be taken up. Applied and Outcome tell how it ended otherwise:
	// Outcome says why it was given up.
	Open    bool
	Applied bool
	Outcome string
}

const (
	qPendingRequests = `
SELECT count(*) FROM pgautofailover.intent WHERE formationid = $1 AND groupid = $2 AND closed_at IS NULL`
	qLastRequest = `
SELECT intentid, kind, coalesce(nodeid, 0), closed_at IS NULL, coalesce(applied, false), coalesce(outcome, '')
  FROM pgautofailover.intent
 WHERE formationid = $1 AND groupid = $2 AND kind NOT IN ('removed', 'registered', 'settings')
 ORDER BY intentid DESC LIMIT 1`
)

// PendingRequests counts what waits to be taken up in a group.
func (db *DB) PendingRequests(ctx context.Context, formation string, group int) (int, error) {
	var n int
	err := db.conn.QueryRow(ctx, qPendingRequests, formation, group).Scan(&n)
	return n, wrap("count the pending requests", err)
}

// LastRequest returns the newest request of an operator in a group, or ErrNotFound.
func (db *DB) LastRequest(ctx context.Context, formation string, group int) (Request, error) {
	var r Request
	err := db.conn.QueryRow(ctx, qLastRequest, formation, group).
		Scan(&r.ID, (*string)(&r.Kind), &r.NodeID, &r.Open, &r.Applied, &r.Outcome)
	return r, wrap("read the last request", err)
}

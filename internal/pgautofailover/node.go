package pgautofailover

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// stateText scans the text of a replication_state into a fsm.State.
type stateText fsm.State

// Scan reads a state's SQL name.
func (s *stateText) Scan(src any) error {
	text, ok := src.(string)
	if !ok {
		return fmt.Errorf("scan state: unexpected %T", src)
	}
	return (*fsm.State)(s).UnmarshalText([]byte(text))
}

// lsnText scans the text of a pg_lsn.
type lsnText pg.LSN

// Scan reads the server's spelling of a position.
func (l *lsnText) Scan(src any) error {
	text, ok := src.(string)
	if !ok {
		return fmt.Errorf("scan position: unexpected %T", src)
	}
	return (*pg.LSN)(l).UnmarshalText([]byte(text))
}

// A system identifier has 64 bits without a sign, the server's column one with: the bits are the same.
func systemID(stored int64) pg.SystemID   { return pg.SystemID(stored) } //nolint:gosec // see above
func storedSystemID(id pg.SystemID) int64 { return int64(id) }           //nolint:gosec // see above

// Peer is a node as other nodes need to know it.
type Peer struct {
	ID        int64
	Name      string
	Host      string
	Port      int
	LSN       pg.LSN
	IsPrimary bool
}

func scanPeer(row pgx.CollectableRow) (Peer, error) {
	var p Peer
	err := row.Scan(&p.ID, &p.Name, &p.Host, &p.Port, (*lsnText)(&p.LSN), &p.IsPrimary)
	return p, err
}

// collect runs a query and reads all its rows.
func collect[T any](
	ctx context.Context, q querier, op string, scan pgx.RowToFunc[T], sql string, args ...any,
) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, wrap(op, err)
	}
	all, err := pgx.CollectRows(rows, scan)
	return all, wrap(op, err)
}

const (
	qOtherNodes = `
SELECT node_id, node_name, node_host, node_port, node_lsn::text, node_is_primary
  FROM pgautofailover.get_other_nodes($1) ORDER BY node_id`
	qNodes = `
SELECT node_id, node_name, node_host, node_port, node_lsn::text, node_is_primary
  FROM pgautofailover.get_nodes($1, $2) ORDER BY node_id`
	qMostAdvancedStandby = `
SELECT node_id, node_name, node_host, node_port, node_lsn::text, node_is_primary
  FROM pgautofailover.get_most_advanced_standby($1, $2, $3)`
	qPrimary = `
SELECT primary_node_id, primary_name, primary_host, primary_port, '0/0', true
  FROM pgautofailover.get_primary($1, $2)`
)

// OtherNodes returns the other nodes of the same group, those being dropped excluded.
func (db *DB) OtherNodes(ctx context.Context, nodeID int64) ([]Peer, error) {
	return collect(ctx, db.conn, "list the other nodes", scanPeer, qOtherNodes, nodeID)
}

// Nodes returns the nodes of a formation, or of one group when group is not nil, those being dropped included.
func (db *DB) Nodes(ctx context.Context, formation string, group *int) ([]Peer, error) {
	return collect(ctx, db.conn, "list the nodes", scanPeer, qNodes, formation, group)
}

// MostAdvancedStandby returns the node with the highest reported position in
// an election, the caller excluded; ErrNotFound when there is none.
func (db *DB) MostAdvancedStandby(ctx context.Context, formation string, group int, caller int64) (Peer, error) {
	return db.onePeer(ctx, "find the most advanced standby", qMostAdvancedStandby, formation, group, caller)
}

// Primary returns the node that takes writes or is about to; during a
// failover the new one from the moment when it is ordered to open.
func (db *DB) Primary(ctx context.Context, formation string, group int) (Peer, error) {
	return db.onePeer(ctx, "find the primary", qPrimary, formation, group)
}

func (db *DB) onePeer(ctx context.Context, op, sql string, args ...any) (Peer, error) {
	rows, err := db.conn.Query(ctx, sql, args...)
	if err != nil {
		return Peer{}, wrap(op, err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, scanPeer)
	return p, wrap(op, err)
}

const qCoordinator = `SELECT node_host, node_port FROM pgautofailover.get_coordinator($1)`

// Coordinator returns where the coordinator of a Citus formation takes writes; ErrNotFound when it does not.
func (db *DB) Coordinator(ctx context.Context, formation string) (host string, port int, err error) {
	err = db.conn.QueryRow(ctx, qCoordinator, formation).Scan(&host, &port)
	return host, port, wrap("find the coordinator", err)
}

const qSynchronousStandbyNames = `SELECT pgautofailover.synchronous_standby_names($1, $2)`

// SynchronousStandbyNames returns the list that the group's decisions stored.
func (db *DB) SynchronousStandbyNames(ctx context.Context, formation string, group int) (string, error) {
	var names string
	err := db.conn.QueryRow(ctx, qSynchronousStandbyNames, formation, group).Scan(&names)
	return names, wrap("read the synchronous standby names", err)
}

const qKeeperList = `SELECT pgautofailover.keeper_list($1, $2)`

// ListFor returns the group's stored list as it belongs to one goal of a node;
// false when the node has another goal by now, or is gone.
func (db *DB) ListFor(ctx context.Context, nodeID, goalNumber int64) (pg.StandbyNames, bool, error) {
	var text *string
	err := db.conn.QueryRow(ctx, qKeeperList, nodeID, goalNumber).Scan(&text)
	if err != nil || text == nil {
		return pg.StandbyNames{}, false, wrap("read the list of the goal", err)
	}
	names, err := pg.ParseStandbyNames(*text)
	return names, err == nil, err
}

// NodeRow is a node as registered and last reported.
type NodeRow struct {
	Formation  string
	Group      int
	ID         int64
	Name       string
	Host       string
	Port       int
	Goal       fsm.State
	Reported   fsm.State
	GoalNumber int64
	Reached    int64
	Priority   int
	Quorum     bool
	Cluster    string
	Region     string
	SystemID   pg.SystemID
	Health     fsm.Health
	TLI        pg.Timeline
	LSN        pg.LSN
	// PgVersion is the server's version as last told, "" when it never was.
	PgVersion string
}

const (
	nodeRowColumns = `
SELECT formationid, groupid, nodeid, nodename, nodehost, nodeport, goalstate::text, reportedstate::text,
       goalnumber, reachednumber, candidatepriority, replicationquorum, nodecluster, region,
       coalesce(sysidentifier, 0), health, reportedtli, reportedlsn::text, coalesce(pg_version, '')
  FROM pgautofailover.node `
	qNodeByID       = nodeRowColumns + `WHERE nodeid = $1`
	qNodeByName     = nodeRowColumns + `WHERE formationid = $1 AND nodename = $2`
	qNodeByHostPort = nodeRowColumns + `WHERE nodehost = $1 AND nodeport = $2`
	qNodeRows       = nodeRowColumns + `WHERE formationid = $1 AND ($2::int IS NULL OR groupid = $2) ORDER BY groupid, nodeid`
	qAllNodeRows    = nodeRowColumns + `ORDER BY formationid, groupid, nodeid`
)

func scanNodeRow(row pgx.CollectableRow) (NodeRow, error) {
	var n NodeRow
	var sysid int64
	err := row.Scan(&n.Formation, &n.Group, &n.ID, &n.Name, &n.Host, &n.Port, (*stateText)(&n.Goal),
		(*stateText)(&n.Reported), &n.GoalNumber, &n.Reached, &n.Priority, &n.Quorum, &n.Cluster, &n.Region,
		&sysid, &n.Health, (*uint32)(&n.TLI), (*lsnText)(&n.LSN), &n.PgVersion)
	n.SystemID = systemID(sysid)
	return n, err
}

func (db *DB) oneNodeRow(ctx context.Context, sql string, args ...any) (NodeRow, error) {
	rows, err := db.conn.Query(ctx, sql, args...)
	if err != nil {
		return NodeRow{}, wrap("find the node", err)
	}
	n, err := pgx.CollectExactlyOneRow(rows, scanNodeRow)
	return n, wrap("find the node", err)
}

// NodeByID returns a node, or ErrNotFound.
func (db *DB) NodeByID(ctx context.Context, nodeID int64) (NodeRow, error) {
	return db.oneNodeRow(ctx, qNodeByID, nodeID)
}

// NodeByName returns the node of that name in a formation, or ErrNotFound.
func (db *DB) NodeByName(ctx context.Context, formation, name string) (NodeRow, error) {
	return db.oneNodeRow(ctx, qNodeByName, formation, name)
}

// NodeByHostPort returns the node at an address, or ErrNotFound.
func (db *DB) NodeByHostPort(ctx context.Context, host string, port int) (NodeRow, error) {
	return db.oneNodeRow(ctx, qNodeByHostPort, host, port)
}

// NodeRows returns the nodes of a formation, or of one group when group is not nil.
func (db *DB) NodeRows(ctx context.Context, formation string, group *int) ([]NodeRow, error) {
	return collect(ctx, db.conn, "list the nodes", scanNodeRow, qNodeRows, formation, group)
}

// AllNodeRows returns every node of every formation.
func (db *DB) AllNodeRows(ctx context.Context) ([]NodeRow, error) {
	return collect(ctx, db.conn, "list all nodes", scanNodeRow, qAllNodeRows)
}

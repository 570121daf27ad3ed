package spock

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Node is one row of spock.node with its interfaces.
type Node struct {
	ID       uint32
	Name     string
	Location string
	Country  string
	Info     []byte // JSON, empty when there is none
	Local    bool
	// Tiebreaker orders nodes where two changes have the same commit time; the node's id unless its info says otherwise.
	Tiebreaker int64
	Interfaces []Interface
}

// Interface is one way to reach a node.
type Interface struct {
	ID   uint32
	Name string
	DSN  string `json:"-"` // may hold a password
}

const qNodes = `
SELECT n.node_id, n.node_name::text, coalesce(n.location, ''), coalesce(n.country, ''), n.info::text,
       l.node_id IS NOT NULL,
       CASE WHEN n.info ->> 'tiebreaker' ~ '^-?\d{1,9}$' THEN (n.info ->> 'tiebreaker')::int8 ELSE n.node_id::int8 END,
       i.if_id, i.if_name::text, i.if_dsn
  FROM spock.node n
  LEFT JOIN spock.local_node l ON l.node_id = n.node_id
  LEFT JOIN spock.node_interface i ON i.if_nodeid = n.node_id
 ORDER BY n.node_name, i.if_id = l.node_local_interface DESC NULLS LAST, i.if_name`

// Nodes returns the local node and those that it knows, by name; the local
// node's own interface is its first.
func (db *DB) Nodes(ctx context.Context) ([]Node, error) {
	const op = "list the nodes"
	rows, err := db.conn.Query(ctx, qNodes)
	if err != nil {
		return nil, wrap(op, err)
	}
	defer rows.Close()
	var nodes []Node
	for rows.Next() {
		var n Node
		var info, ifName, ifDSN *string
		var ifID *uint32
		if err := rows.Scan(&n.ID, &n.Name, &n.Location, &n.Country, &info, &n.Local, &n.Tiebreaker,
			&ifID, &ifName, &ifDSN); err != nil {
			return nil, wrap(op, err)
		}
		if info != nil {
			n.Info = []byte(*info)
		}
		if len(nodes) == 0 || nodes[len(nodes)-1].ID != n.ID {
			nodes = append(nodes, n)
		}
		if ifID != nil {
			last := &nodes[len(nodes)-1]
			last.Interfaces = append(last.Interfaces, Interface{ID: *ifID, Name: *ifName, DSN: *ifDSN})
		}
	}
	return nodes, wrap(op, rows.Err())
}

// LocalNode returns the database's own node, or ErrNotFound.
func (db *DB) LocalNode(ctx context.Context) (Node, error) {
	nodes, err := db.Nodes(ctx)
	if err != nil {
		return Node{}, err
	}
	for _, n := range nodes {
		if n.Local {
			return n, nil
		}
	}
	return Node{}, wrap("find the local node", pgx.ErrNoRows)
}

// Origin is a replication origin of this database and the node whose work it marks.
type Origin struct {
	ID           uint32
	Name         string
	Node         uint32
	Subscription uint32 // 0 when its subscription is gone
	Worker       int
	Retired      bool
}

const (
	qOrigins = `
SELECT roident, roname, node_id, coalesce(sub_id, 0), worker, retired_at IS NOT NULL FROM spock.pgdrover_origin ORDER BY roident`
	qOriginCreate     = `SELECT pgdrover.origin_create($1, $2, $3, $4)`
	qOriginProgress   = `SELECT coalesce(pg_replication_origin_progress($1, $2), '0/0')`
	qOriginAdvance    = `SELECT pg_replication_origin_advance($1, $2)`
	qOriginRetire     = `SELECT pgdrover.origin_retire($1)`
	qRetiredOrigins   = `SELECT pgdrover.drop_retired_origins()`
	qOriginExists     = `SELECT EXISTS (SELECT FROM pg_replication_origin WHERE roname = $1)`
	qOriginNodeSearch = `SELECT pgdrover.origin_node($1)`
)

// Origins returns every origin that ever stood for a node here: stamps of rows
// keep the number of an origin that is gone.
func (db *DB) Origins(ctx context.Context) ([]Origin, error) {
	return collect[Origin](ctx, db.conn, "list the origins", qOrigins)
}

// CreateOrigin makes the origin of one worker of a subscription, or finds it,
// and returns its number. Worker 0 is the one named like the slot.
func (db *DB) CreateOrigin(ctx context.Context, name string, node, subscription uint32, worker int) (uint32, error) {
	var id uint32
	err := db.conn.QueryRow(ctx, qOriginCreate, name, node, subscription, worker).Scan(&id)
	return id, wrap("create replication origin", err)
}

// OriginExists reports whether there is an origin of this name.
func (db *DB) OriginExists(ctx context.Context, name string) (bool, error) {
	var ok bool
	err := db.conn.QueryRow(ctx, qOriginExists, name).Scan(&ok)
	return ok, wrap("look for the replication origin", err)
}

// OriginProgress returns how far an origin is; with flush only what is durable counts.
func (db *DB) OriginProgress(ctx context.Context, name string, flush bool) (pg.LSN, error) {
	return lsn(db.conn.QueryRow(ctx, qOriginProgress, name, flush), "read the origin's progress")
}

// AdvanceOrigin sets an origin's position, which may be an earlier one. No session may hold it.
func (db *DB) AdvanceOrigin(ctx context.Context, name string, to pg.LSN) error {
	_, err := db.conn.Exec(ctx, qOriginAdvance, name, to.String())
	return wrap("advance the replication origin", err)
}

// RetireOrigin drops an origin, or keeps its number until all slots have passed what it marked.
func (db *DB) RetireOrigin(ctx context.Context, name string) error {
	_, err := db.conn.Exec(ctx, qOriginRetire, name)
	return wrap("retire the replication origin", err)
}

// DropRetiredOrigins drops those that every logical slot has left behind and returns how many.
func (db *DB) DropRetiredOrigins(ctx context.Context) (int, error) {
	var n int
	err := db.conn.QueryRow(ctx, qRetiredOrigins).Scan(&n)
	return n, wrap("drop retired origins", err)
}

// OriginNode returns the node behind an origin in a stamp; 0 is the local node.
func (db *DB) OriginNode(ctx context.Context, origin uint32) (uint32, error) {
	var id uint32
	err := db.conn.QueryRow(ctx, qOriginNodeSearch, origin).Scan(&id)
	return id, wrap("find the origin's node", err)
}

const (
	qNodeCreate       = `SELECT spock.node_create($1, $2, $3, $4, $5::jsonb)`
	qNodeDrop         = `SELECT spock.node_drop($1, $2)`
	qNodeAddInterface = `SELECT spock.node_add_interface($1, $2, $3)`
	qNodeDropIface    = `SELECT spock.node_drop_interface($1, $2)`
	qNodeInfo         = `SELECT node_id, node_name, sysid, dbname, coalesce(replication_sets, '') FROM spock.node_info()`
	qVersion          = `SELECT spock.spock_version()`
)

// NewNode is what CreateNode stores; empty texts are NULL.
type NewNode struct {
	Name, DSN, Location, Country, Info string
}

// CreateNode makes this database a node.
func (db *DB) CreateNode(ctx context.Context, n NewNode) (uint32, error) {
	var id uint32
	err := db.conn.QueryRow(ctx, qNodeCreate, n.Name, n.DSN, null(n.Location), null(n.Country), null(n.Info)).Scan(&id)
	return id, wrap("create node "+n.Name, err)
}

// DropNode removes a node's rows; of the local one also publications and slots.
func (db *DB) DropNode(ctx context.Context, name string, ifExists bool) (bool, error) {
	var ok bool
	err := db.conn.QueryRow(ctx, qNodeDrop, name, ifExists).Scan(&ok)
	return ok, wrap("drop node "+name, err)
}

// AddInterface stores a further way to reach a node.
func (db *DB) AddInterface(ctx context.Context, node, name, dsn string) (uint32, error) {
	var id uint32
	err := db.conn.QueryRow(ctx, qNodeAddInterface, node, name, dsn).Scan(&id)
	return id, wrap("add interface "+name, err)
}

// DropInterface removes one that no subscription uses.
func (db *DB) DropInterface(ctx context.Context, node, name string) error {
	_, err := db.conn.Exec(ctx, qNodeDropIface, node, name)
	return wrap("drop interface "+name, err)
}

// NodeInfo is what a node says of itself to its peers.
type NodeInfo struct {
	ID              uint32
	Name            string
	SystemID        string
	Database        string
	ReplicationSets string
}

// NodeInfo asks the node behind this connection who it is.
func (db *DB) NodeInfo(ctx context.Context) (NodeInfo, error) {
	var n NodeInfo
	err := db.conn.QueryRow(ctx, qNodeInfo).Scan(&n.ID, &n.Name, &n.SystemID, &n.Database, &n.ReplicationSets)
	return n, wrap("ask the node who it is", err)
}

// Version returns the version of Spock that the schema says it is.
func (db *DB) Version(ctx context.Context) (string, error) {
	var v string
	err := db.conn.QueryRow(ctx, qVersion).Scan(&v)
	return v, wrap("read the version", err)
}

// null makes an empty text NULL.
func null(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// collect reads rows into structs by position.
func collect[T any](ctx context.Context, q querier, op, sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, wrap(op, err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	return all, wrap(op, err)
}

// lsn reads one position.
func lsn(row pgx.Row, op string) (pg.LSN, error) {
	var at Position
	if err := row.Scan(&at); err != nil {
		return 0, wrap(op, err)
	}
	return pg.LSN(at), nil
}

package pgautofailover

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// Registration is what a new node says of itself.
type Registration struct {
	Formation string
	Host      string
	Port      int
	DBName    string
	Name      string // "" for the default name
	SystemID  pg.SystemID
	// DesiredNode is the node id that the node had before, 0 for a new one.
	DesiredNode int64
	// DesiredGroup is the group to join, -1 to let the monitor choose.
	DesiredGroup int
	// Initial is the state in which the node is: init for a new one.
	Initial  fsm.State
	Kind     fsm.NodeKind
	Priority int
	Quorum   bool
	Cluster  string // "" for default
	Region   string // "" for default
}

// Registered is the monitor's answer to a registration.
type Registered struct {
	NodeID   int64
	Group    int
	Goal     fsm.State
	Priority int
	Quorum   bool
	Name     string
}

// PendingRegistration is a registration that nobody else sees until Commit. It
// holds the locks of its formation: the server ends the session when it is
// left idle for some seconds.
type PendingRegistration struct {
	Result Registered
	tx     pgx.Tx
}

const qRegisterNode = `
SELECT assigned_node_id, assigned_group_id, assigned_group_state::text,
       assigned_candidate_priority, assigned_replication_quorum, assigned_node_name
  FROM pgautofailover.register_node(
         formation_id => $1, node_host => $2, node_port => $3, dbname => $4::text::name, node_name => $5,
         sysidentifier => $6, desired_node_id => $7, desired_group_id => $8,
         initial_group_role => $9::text::pgautofailover.replication_state, node_kind => $10,
         candidate_priority => $11, replication_quorum => $12, node_cluster => $13, node_region => $14)`

// BeginRegistration registers a node in a transaction that stays open: commit
// it once the keeper's own state is on disk.
func (db *DB) BeginRegistration(ctx context.Context, r Registration) (*PendingRegistration, error) {
	const op = "register the node"
	tx, err := db.conn.Begin(ctx)
	if err != nil {
		return nil, wrap(op, err)
	}
	orDefault := func(s string) string {
		if s == "" {
			return "default"
		}
		return s
	}
	desired := r.DesiredNode
	if desired == 0 {
		desired = -1
	}
	p := &PendingRegistration{tx: tx}
	err = tx.QueryRow(ctx, qRegisterNode, r.Formation, r.Host, r.Port, r.DBName, r.Name, storedSystemID(r.SystemID), desired,
		r.DesiredGroup, r.Initial.String(), r.Kind.String(), r.Priority, r.Quorum, orDefault(r.Cluster),
		orDefault(r.Region)).
		Scan(&p.Result.NodeID, &p.Result.Group, (*stateText)(&p.Result.Goal), &p.Result.Priority, &p.Result.Quorum,
			&p.Result.Name)
	if err != nil {
		rollback(ctx, tx)
		return nil, wrap(op, err)
	}
	return p, nil
}

// Commit makes the node known to everybody.
func (p *PendingRegistration) Commit(ctx context.Context) error {
	return wrap("commit the registration", p.tx.Commit(ctx))
}

// Rollback forgets the registration.
func (p *PendingRegistration) Rollback(ctx context.Context) error {
	return wrap("roll back the registration", p.tx.Rollback(ctx))
}

// farewell bounds a rollback: the server forgets the transaction anyway when the connection ends.
const farewell = 5 * time.Second

// rollback ends a transaction whose error is already on its way to the caller,
// also when the caller's context has ended. Where the server does not answer,
// the connection is closed. After a commit it does nothing.
func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	_ = tx.Rollback(ctx)
}

package pgautofailover

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// NodeState is a row of pgautofailover.current_state().
type NodeState struct {
	FormationKind string
	Name          string
	Host          string
	Port          int
	Group         int
	NodeID        int64
	Reported      fsm.State
	Goal          fsm.State
	Priority      int
	Quorum        bool
	TLI           pg.Timeline
	LSN           pg.LSN
	Health        fsm.Health
	Cluster       string
	Region        string
}

// ConnectionType is the type of connection that a node in a state gives.
func ConnectionType(s fsm.State) string {
	switch {
	case s.In(fsm.Single, fsm.Primary, fsm.WaitPrimary, fsm.JoinPrimary, fsm.PrepareMaintenance, fsm.ApplySettings):
		return "read-write"
	case s.In(fsm.Secondary, fsm.CatchingUp, fsm.PreparePromotion, fsm.StopReplication, fsm.WaitMaintenance,
		fsm.FastForward, fsm.JoinSecondary, fsm.ReportLSN):
		return "read-only"
	}
	return "none"
}

// Connection is the type of connection that the node gives, with the mark of a
// server that does not answer ("!") or of which nothing is known yet ("?").
func (n NodeState) Connection() string {
	kind := ConnectionType(n.Reported)
	switch n.Health {
	case fsm.HealthGood:
		return kind
	case fsm.HealthBad:
		return kind + " !"
	case fsm.HealthUnknown:
	}
	return kind + " ?"
}

const (
	currentStateColumns = `
SELECT formation_kind, nodename, nodehost, nodeport, group_id, node_id, current_group_state::text,
       assigned_group_state::text, candidate_priority, replication_quorum, reported_tli, reported_lsn::text,
       health, nodecluster, noderegion
  FROM `
	qCurrentState      = currentStateColumns + `pgautofailover.current_state($1)`
	qCurrentStateGroup = currentStateColumns + `pgautofailover.current_state($1, $2)`
)

// CurrentState returns one row for each node of a formation, or of one group when group is not nil.
func (db *DB) CurrentState(ctx context.Context, formation string, group *int) ([]NodeState, error) {
	scan := func(row pgx.CollectableRow) (NodeState, error) {
		var n NodeState
		err := row.Scan(&n.FormationKind, &n.Name, &n.Host, &n.Port, &n.Group, &n.NodeID, (*stateText)(&n.Reported),
			(*stateText)(&n.Goal), &n.Priority, &n.Quorum, (*uint32)(&n.TLI), (*lsnText)(&n.LSN), &n.Health, &n.Cluster, &n.Region)
		return n, err
	}
	const op = "read the current state"
	if group == nil {
		return collect(ctx, db.conn, op, scan, qCurrentState, formation)
	}
	return collect(ctx, db.conn, op, scan, qCurrentStateGroup, formation, *group)
}

// Event is a row of pgautofailover.event.
type Event struct {
	ID          int64
	Time        time.Time
	TimeText    string // as the server writes it
	Formation   string
	NodeID      int64
	Group       int
	Name        string
	Host        string
	Port        int
	Reported    fsm.State
	Goal        fsm.State
	SyncState   *string
	TLI         pg.Timeline
	LSN         pg.LSN
	Priority    *int
	Quorum      *bool
	Description string
	RulePos     *int
	RuleSection *string
}

const (
	eventColumns = `
SELECT eventid, eventtime, eventtime::text, formationid, nodeid, groupid, nodename, nodehost, nodeport,
       reportedstate::text, goalstate::text, reportedrepstate, reportedtli, reportedlsn::text,
       candidatepriority, replicationquorum, coalesce(description, ''), rule_pos, rule_section::text
  FROM `
	qLastEvents      = eventColumns + `pgautofailover.last_events(formation_id => $1, count => $2)`
	qLastEventsGroup = eventColumns + `pgautofailover.last_events($1, $2, $3)`
)

// LastEvents returns the newest events of a formation, or of one group when group is not nil, oldest first.
func (db *DB) LastEvents(ctx context.Context, formation string, group *int, count int) ([]Event, error) {
	const op = "read the last events"
	if group == nil {
		return collect(ctx, db.conn, op, scanEvent, qLastEvents, formation, count)
	}
	return collect(ctx, db.conn, op, scanEvent, qLastEventsGroup, formation, *group, count)
}

func scanEvent(row pgx.CollectableRow) (Event, error) {
	var e Event
	err := row.Scan(&e.ID, &e.Time, &e.TimeText, &e.Formation, &e.NodeID, &e.Group, &e.Name, &e.Host, &e.Port,
		(*stateText)(&e.Reported), (*stateText)(&e.Goal), &e.SyncState, (*uint32)(&e.TLI), (*lsnText)(&e.LSN), &e.Priority,
		&e.Quorum, &e.Description, &e.RulePos, &e.RuleSection)
	return e, err
}

// GroupWaiting is a group that does not move although it should, and why.
type GroupWaiting struct {
	Group   int
	Waiting string
}

const qWaiting = `
SELECT groupid, waiting FROM pgautofailover.group_state WHERE formationid = $1 AND waiting <> '' ORDER BY groupid`

// Waiting lists the groups of a formation that wait for something, with the reason as the last decision gave it.
func (db *DB) Waiting(ctx context.Context, formation string) ([]GroupWaiting, error) {
	scan := func(row pgx.CollectableRow) (GroupWaiting, error) {
		var w GroupWaiting
		err := row.Scan(&w.Group, &w.Waiting)
		return w, err
	}
	return collect(ctx, db.conn, "read what groups wait for", scan, qWaiting, formation)
}

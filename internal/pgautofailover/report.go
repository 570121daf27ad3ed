package pgautofailover

import (
	"context"
	"encoding/json"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// Report is what a keeper says each second, and at once when something changed.
type Report struct {
	Formation string
	NodeID    int64
	Group     int
	State     fsm.State
	// Reached is the number of the last goal whose state the keeper has established.
	Reached     int64
	PgIsRunning bool
	// TLI and LSN are left as they were when zero.
	TLI       pg.Timeline
	LSN       pg.LSN
	SyncState string // of pg_stat_replication on a primary, "" when there is none
	// CleanStop says that LSN is the location of a clean shutdown's checkpoint record.
	CleanStop bool
	Streaming fsm.Streaming
}

// Assignment is what the monitor answers: the goal stored when the report was.
type Assignment struct {
	NodeID     int64
	Group      int
	Goal       fsm.State
	GoalNumber int64
	// Timeline is the number of the timeline that the node begins when it
	// promotes on its way to the goal, 0 for any.
	Timeline pg.Timeline
	Priority int
	Quorum   bool
}

const qKeeperReport = `
SELECT assigned_node_id, assigned_group_id, assigned_group_state::text, assigned_goal_number,
       assigned_candidate_priority, assigned_replication_quorum, assigned_timeline
  FROM pgautofailover.keeper_report(
         formation_id => $1, node_id => $2, group_id => $3,
         current_group_role => $4::text::pgautofailover.replication_state, current_pg_is_running => $5,
         current_tli => $6, current_lsn => $7::text::pg_lsn, current_rep_state => $8,
         clean_stop => $9, streaming => $10, reached_goal_number => $11)`

// Report stores a report and returns the stored goal. A node that was removed
// meanwhile gets SQLSTATE 42704.
func (db *DB) Report(ctx context.Context, r Report) (Assignment, error) {
	var a Assignment
	var streaming *bool
	if r.Streaming != fsm.StreamingUnknown {
		yes := r.Streaming == fsm.StreamingYes
		streaming = &yes
	}
	err := db.conn.QueryRow(ctx, qKeeperReport, r.Formation, r.NodeID, r.Group, r.State.String(), r.PgIsRunning,
		uint32(r.TLI), r.LSN.String(), r.SyncState, r.CleanStop, streaming, r.Reached).
		Scan(&a.NodeID, &a.Group, (*stateText)(&a.Goal), &a.GoalNumber, &a.Priority, &a.Quorum, (*uint32)(&a.Timeline))
	if err != nil {
		return Assignment{}, wrap("report to the monitor", err)
	}
	return a, nil
}

const qKeepSession = `SELECT pgautofailover.keep_session($1)`

// KeepSession makes this session the node's reporting session: it takes a
// lock that lives as long as the session, so that the monitor process learns
// within moments when the keeper is gone. Calling it again changes nothing.
func (db *DB) KeepSession(ctx context.Context, nodeID int64) error {
	_, err := db.conn.Exec(ctx, qKeepSession, nodeID)
	return wrap("mark the reporting session", err)
}

const qReportTimelineHistory = `SELECT pgautofailover.report_timeline_history($1, $2::text::jsonb)`

// ReportTimelineHistory stores a node's timeline history; timelines that are known already stay.
func (db *DB) ReportTimelineHistory(ctx context.Context, nodeID int64, history pg.History) error {
	if history == nil {
		history = pg.History{}
	}
	text, err := json.Marshal(history)
	if err != nil {
		return wrap("encode timeline history", err)
	}
	_, err = db.conn.Exec(ctx, qReportTimelineHistory, nodeID, string(text))
	return wrap("report timeline history", err)
}

// Version is what a node runs; zero fields are stored as unknown.
type Version struct {
	PgVersionNum    int
	PgVersion       string
	PgVersionString string
	CitusVersion    string
}

const qReportPostgresVersion = `
SELECT pgautofailover.report_postgres_version(
         $1, nullif($2::int, 0), nullif($3::text, ''), nullif($4::text, ''), nullif($5::text, ''))`

// ReportVersion stores the versions of a node's PostgreSQL.
func (db *DB) ReportVersion(ctx context.Context, nodeID int64, v Version) error {
	_, err := db.conn.Exec(ctx, qReportPostgresVersion, nodeID, v.PgVersionNum, v.PgVersion, v.PgVersionString,
		v.CitusVersion)
	return wrap("report the version", err)
}

const qReportCopy = `SELECT pgautofailover.report_copy($1)`

// ReportCopy says in the node's events that it is copied anew, because the
// primary does not hold the WAL that it needs.
func (db *DB) ReportCopy(ctx context.Context, nodeID int64) error {
	_, err := db.conn.Exec(ctx, qReportCopy, nodeID)
	return wrap("tell why the node is copied", err)
}

const qSetNodeSystemIdentifier = `SELECT node_id FROM pgautofailover.set_node_system_identifier($1, $2)`

// SetNodeSystemIdentifier stores the system identifier of a node's data directory.
func (db *DB) SetNodeSystemIdentifier(ctx context.Context, nodeID int64, id pg.SystemID) error {
	var got int64
	err := db.conn.QueryRow(ctx, qSetNodeSystemIdentifier, nodeID, storedSystemID(id)).Scan(&got)
	return wrap("store the system identifier", err)
}

const qUpdateNodeMetadata = `
SELECT pgautofailover.update_node_metadata($1, nullif($2::text, ''), nullif($3::text, ''), nullif($4::int, 0))`

// UpdateNodeMetadata changes a node's name, host and port; empty ones stay as they are.
func (db *DB) UpdateNodeMetadata(ctx context.Context, nodeID int64, name, host string, port int) error {
	_, err := db.conn.Exec(ctx, qUpdateNodeMetadata, nodeID, name, host, port)
	return wrap("update the node's metadata", err)
}

package pgautofailover

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// TimelineStatus tells whether a node is on the line that counts in its group:
// that of the accepted timeline, else of the primary's, else of the highest.
type TimelineStatus struct {
	NodeID    int64
	Name      string
	TLI       pg.Timeline
	LSN       pg.LSN
	Reference pg.Timeline
	OnLineage bool
}

const (
	qTimelineHistory = `
SELECT DISTINCT h.tli, h.parenttli, h.switchpoint_lsn::text
  FROM pgautofailover.node_timeline_history h JOIN pgautofailover.node n ON n.nodeid = h.nodeid
 WHERE n.formationid = $1 AND n.groupid = $2
 ORDER BY 1, 2, 3`
	qTimelineStatus = `
SELECT node_id, node_name, tli, lsn::text, reference_tli, on_accepted_lineage
  FROM pgautofailover.node_timeline_status($1, $2)`
)

// TimelineHistory returns the switches between timelines that nodes of a group
// have reported, in the order of timelines. A timeline that is there twice has
// two histories.
func (db *DB) TimelineHistory(ctx context.Context, formation string, group int) (pg.History, error) {
	scan := func(row pgx.CollectableRow) (pg.HistoryEntry, error) {
		var e pg.HistoryEntry
		err := row.Scan((*uint32)(&e.TLI), (*uint32)(&e.Parent), (*lsnText)(&e.Switch))
		return e, err
	}
	return collect(ctx, db.conn, "read the timelines", scan, qTimelineHistory, formation, group)
}

// TimelineStatuses returns where each node of a group stands, in id order.
func (db *DB) TimelineStatuses(ctx context.Context, formation string, group int) ([]TimelineStatus, error) {
	scan := func(row pgx.CollectableRow) (TimelineStatus, error) {
		var s TimelineStatus
		err := row.Scan(&s.NodeID, &s.Name, (*uint32)(&s.TLI), (*lsnText)(&s.LSN), (*uint32)(&s.Reference), &s.OnLineage)
		return s, err
	}
	return collect(ctx, db.conn, "read the timelines of the nodes", scan, qTimelineStatus, formation, group)
}

package pgautofailover

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

const (
	qAcceptTimeline = `SELECT pgautofailover.accept_timeline($1, $2, $3, NULLIF($4, ''))`
	qCheckEdges     = `
SELECT pos, current_state::text, assigned_state::text, comment
  FROM pgautofailover.check_fsm_reachability($1::text::jsonb)`
)

// AcceptTimeline makes a timeline the one that the nodes of a group are
// measured on, by the word of an operator whose reason may be empty.
func (db *DB) AcceptTimeline(ctx context.Context, formation string, group int, tli pg.Timeline, reason string) error {
	_, err := db.conn.Exec(ctx, qAcceptTimeline, formation, group, int64(tli), reason)
	return wrap("accept timeline", err)
}

// MissingEdge is a change of state that the monitor may order and a keeper cannot make.
type MissingEdge struct {
	Pos           int
	Current, Goal fsm.State
	Comment       string
}

// CheckEdges compares the edges of a keeper, an array of {"current","assigned"}
// in JSON, with what this monitor may order.
func (db *DB) CheckEdges(ctx context.Context, edges string) ([]MissingEdge, error) {
	scan := func(row pgx.CollectableRow) (MissingEdge, error) {
		var m MissingEdge
		err := row.Scan(&m.Pos, (*stateText)(&m.Current), (*stateText)(&m.Goal), &m.Comment)
		return m, err
	}
	return collect(ctx, db.conn, "check the keeper's edges", scan, qCheckEdges, edges)
}

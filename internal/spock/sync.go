package spock

import (
	"context"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// TableSync is the status of one table of a subscription.
type TableSync struct {
	Schema, Table string
	Kind          string // letter
	Status        string // letter
	LSN           Position
}

const (
	qTableSyncs = `
SELECT sync_nspname::text, sync_relname::text, sync_kind::text, sync_status::text, sync_statuslsn FROM spock.local_sync_status
 WHERE sync_subid = $1 AND sync_relname IS NOT NULL ORDER BY 1, 2`
	qSetTableSync = `
INSERT INTO spock.local_sync_status (sync_kind, sync_subid, sync_nspname, sync_relname, sync_status, sync_statuslsn)
VALUES ($4::text::"char", $1, $2, $3, $5::text::"char", $6)
    ON CONFLICT (sync_subid, sync_nspname, sync_relname) DO UPDATE
   SET sync_status = excluded.sync_status, sync_statuslsn = excluded.sync_statuslsn`
	qSetSync = `
UPDATE spock.local_sync_status SET sync_status = $2::text::"char", sync_statuslsn = $3
 WHERE sync_subid = $1 AND sync_relname IS NULL`
)

// TableSyncs returns the status of each table that was copied or is to be.
func (db *DB) TableSyncs(ctx context.Context, subscription uint32) ([]TableSync, error) {
	return collect[TableSync](ctx, db.conn, "list the table copies", qTableSyncs, subscription)
}

// SetTableSync stores the status of one table; the kind counts for a new row only.
func (db *DB) SetTableSync(ctx context.Context, subscription uint32, t TableSync) error {
	_, err := db.conn.Exec(ctx, qSetTableSync, subscription, t.Schema, t.Table, t.Kind, t.Status, t.LSN.String())
	return wrap("store the status of a table copy", err)
}

// SetSync stores the status of a subscription's own synchronisation.
func (db *DB) SetSync(ctx context.Context, subscription uint32, status string, at pg.LSN) error {
	_, err := db.conn.Exec(ctx, qSetSync, subscription, status, at.String())
	return wrap("store the subscription's status", err)
}

// CopyPiece is one piece of a table in the journal of an initial copy. The
// whole table is piece 0 with NULL blocks.
type CopyPiece struct {
	Schema, Table string
	Piece         int
	First, Last   *int64 // heap blocks
	State         string // wanted, copying, done, failed
	BytesTotal    int64
	BytesDone     int64
	RowsDone      int64
}

const (
	qCopyPieces = `
SELECT nspname::text, relname::text, piece, first_block, last_block, state, coalesce(bytes_total, 0), bytes_done, rows_done
  FROM spock.pgdrover_copy WHERE sub_id = $1 ORDER BY 1, 2, 3`
	qPlanPiece = `
INSERT INTO spock.pgdrover_copy (sub_id, nspname, relname, piece, first_block, last_block, state, bytes_total)
VALUES ($1, $2, $3, $4, $5, $6, 'wanted', $7)
    ON CONFLICT (sub_id, nspname, relname, piece) DO UPDATE
   SET first_block = excluded.first_block, last_block = excluded.last_block, state = 'wanted', bytes_total = excluded.bytes_total,
       bytes_done = 0, rows_done = 0, started_at = NULL, finished_at = NULL`
	qSetPiece = `
UPDATE spock.pgdrover_copy
   SET state = $5, bytes_done = $6, rows_done = $7, started_at = coalesce(started_at, clock_timestamp()),
       finished_at = CASE WHEN $5 IN ('done', 'failed') THEN clock_timestamp() END
 WHERE sub_id = $1 AND nspname = $2 AND relname = $3 AND piece = $4`
	qForgetCopy   = `DELETE FROM spock.pgdrover_copy WHERE sub_id = $1`
	qCopyProgress = `
SELECT sub_name::text, nspname::text, relname::text, pieces, pieces_done, coalesce(bytes_total, 0)::int8, bytes_done::int8,
       rows_done::int8, coalesce(started_at, 'epoch'::timestamptz), coalesce(finished_at, 'epoch'::timestamptz), state
  FROM spock.pgdrover_copy_progress ORDER BY 1, 2, 3`
)

// CopyPieces returns the journal of a subscription's copy.
func (db *DB) CopyPieces(ctx context.Context, subscription uint32) ([]CopyPiece, error) {
	return collect[CopyPiece](ctx, db.conn, "read the journal of the copy", qCopyPieces, subscription)
}

// PlanPiece stores a piece that is to be copied, from its beginning.
func (db *DB) PlanPiece(ctx context.Context, subscription uint32, p CopyPiece) error {
	_, err := db.conn.Exec(ctx, qPlanPiece, subscription, p.Schema, p.Table, p.Piece, p.First, p.Last, p.BytesTotal)
	return wrap("plan the copy of a table", err)
}

// SetPiece stores how far a piece is.
func (db *DB) SetPiece(ctx context.Context, subscription uint32, p CopyPiece) error {
	_, err := db.conn.Exec(ctx, qSetPiece, subscription, p.Schema, p.Table, p.Piece, p.State, p.BytesDone, p.RowsDone)
	return wrap("store the progress of a copy", err)
}

// ForgetCopy empties the journal.
func (db *DB) ForgetCopy(ctx context.Context, subscription uint32) error {
	_, err := db.conn.Exec(ctx, qForgetCopy, subscription)
	return wrap("empty the journal of the copy", err)
}

// CopyProgress is how far the copy of one table is.
type CopyProgress struct {
	Subscription, Schema, Table string
	Pieces, PiecesDone          int
	BytesTotal, BytesDone, Rows int64
	Started, Finished           time.Time
	State                       string
}

// CopyProgress returns how far the copies of all tables are.
func (db *DB) CopyProgress(ctx context.Context) ([]CopyProgress, error) {
	return collect[CopyProgress](ctx, db.conn, "read the progress of copies", qCopyProgress)
}

package spock

import (
	"context"
	"time"
)

// Vector says how far a node has applied another's changes.
type Vector struct {
	Provider, Origin uint32
	LSN              Position
	ReceivedAt       time.Time
}

const (
	qVectors     = `SELECT provider_id, origin_id, lsn, received_at FROM spock.pgdrover_vector ORDER BY 1, 2`
	qStoreVector = `
INSERT INTO spock.pgdrover_vector AS v (provider_id, origin_id, lsn)
SELECT $1::oid, u.origin, u.lsn FROM unnest($2::oid[], $3::text[]::pg_lsn[]) AS u(origin, lsn)
    ON CONFLICT (provider_id, origin_id) DO UPDATE SET lsn = greatest(v.lsn, excluded.lsn), received_at = now()`
	qStampTombstones = `SELECT pgdrover.stamp_tombstones()`
	qPurgeTombstones = `SELECT pgdrover.purge_tombstones()`
	qTombstoneStats  = `
SELECT count(*), coalesce(min(coalesce(t.commit_time, pg_xact_commit_timestamp(t.xmin))), now()) FROM spock.pgdrover_tombstone t`
	qWatch         = `SELECT pgdrover.watch($1)`
	qWatched       = `SELECT relid, coalesce(key_columns::text[], '{}') FROM spock.pgdrover_watch ORDER BY 1`
	qKeyExpression = `SELECT pgdrover.key_expression($1, $2)`
	qDeltaColumns  = `SELECT relid, column_name::text FROM spock.pgdrover_delta_column ORDER BY 1, 2`
)

// Vectors returns what the providers last said.
func (db *DB) Vectors(ctx context.Context) ([]Vector, error) {
	return collect[Vector](ctx, db.conn, "read the vectors", qVectors)
}

// StoreVector stores what a provider says: how far it has applied each origin's changes.
func (db *DB) StoreVector(ctx context.Context, provider uint32, applied map[uint32]Position) error {
	var origins []uint32
	var positions []string
	for origin, at := range applied {
		origins, positions = append(origins, origin), append(positions, at.String())
	}
	_, err := db.conn.Exec(ctx, qStoreVector, provider, origins, positions)
	return wrap("store a vector", err)
}

// StampTombstones gives committed local deletes their stamp and a position behind them; it returns how many.
func (db *DB) StampTombstones(ctx context.Context) (int64, error) {
	return db.count(ctx, "stamp tombstones", qStampTombstones)
}

// PurgeTombstones removes those that nobody can need any more; it returns how many.
func (db *DB) PurgeTombstones(ctx context.Context) (int64, error) {
	return db.count(ctx, "purge tombstones", qPurgeTombstones)
}

// TombstoneStats returns how many tombstones there are, and the time of the oldest.
func (db *DB) TombstoneStats(ctx context.Context) (n int64, oldest time.Time, err error) {
	err = db.conn.QueryRow(ctx, qTombstoneStats).Scan(&n, &oldest)
	return n, oldest, wrap("count tombstones", err)
}

// Watch makes a table's deletes leave tombstones; done before, it does nothing.
func (db *DB) Watch(ctx context.Context, relation uint32) error {
	_, err := db.conn.Exec(ctx, qWatch, relation)
	return wrap("watch a table", err)
}

// Watched is a table whose deletes leave tombstones.
type Watched struct {
	Relation uint32
	Key      []string
}

// Watched returns the watched tables.
func (db *DB) Watched(ctx context.Context) ([]Watched, error) {
	return collect[Watched](ctx, db.conn, "list the watched tables", qWatched)
}

// KeyExpression returns the SQL expression over alias that gives a row's key
// as tombstones hold it; "" for a table without key.
func (db *DB) KeyExpression(ctx context.Context, relation uint32, alias string) (string, error) {
	var expression *string
	if err := db.conn.QueryRow(ctx, qKeyExpression, relation, alias).Scan(&expression); err != nil || expression == nil {
		return "", wrap("make a key's expression", err)
	}
	return *expression, nil
}

// DeltaColumn is a column that takes differences.
type DeltaColumn struct {
	Relation uint32
	Column   string
}

// DeltaColumns returns all of them.
func (db *DB) DeltaColumns(ctx context.Context) ([]DeltaColumn, error) {
	return collect[DeltaColumn](ctx, db.conn, "list the delta columns", qDeltaColumns)
}

// count calls a function that says how many.
func (db *DB) count(ctx context.Context, op, sql string, args ...any) (int64, error) {
	var n int64
	err := db.conn.QueryRow(ctx, sql, args...).Scan(&n)
	return n, wrap(op, err)
}

package spock

import (
	"context"
	"time"
)

// WorkerProgress is how far one applying session of a subscription is. Done
// lists transactions beyond LSN that are applied already.
type WorkerProgress struct {
	Worker   int
	LSN      Position
	CommitAt time.Time
	Done     []string
}

const (
	qWorkerProgress = `
SELECT worker, remote_lsn, coalesce(remote_commit_ts, 'epoch'::timestamptz), coalesce(done::text[], '{}')
  FROM spock.pgdrover_progress WHERE sub_id = $1 ORDER BY worker`
	qStoreWorkerProgress = `
INSERT INTO spock.pgdrover_progress (sub_id, worker, remote_lsn, remote_commit_ts) VALUES ($1, $2, $3, $4)
    ON CONFLICT (sub_id, worker) DO UPDATE
   SET remote_lsn = excluded.remote_lsn, remote_commit_ts = coalesce(excluded.remote_commit_ts, pgdrover_progress.remote_commit_ts)`
	qStoreProgress = `SELECT pgdrover.store_progress($1, $2, $3, $4, $5, $6)`
	qProgress      = `
SELECT node_id, remote_node_id, remote_commit_ts, remote_lsn, remote_insert_lsn, coalesce(received_lsn, '0/0'), last_updated_ts,
       updated_by_decode, prev_remote_ts IS DISTINCT FROM remote_commit_ts FROM spock.progress ORDER BY node_id, remote_node_id`
	qPeerProgress = `
SELECT s.sub_origin, max(p.remote_lsn)
  FROM spock.pgdrover_progress p JOIN spock.subscription s USING (sub_id) GROUP BY s.sub_origin ORDER BY 1`
)

// WorkerProgress returns the exact progress of a subscription, one row for each session that applied.
func (db *DB) WorkerProgress(ctx context.Context, subscription uint32) ([]WorkerProgress, error) {
	return collect[WorkerProgress](ctx, db.conn, "read the worker's progress", qWorkerProgress, subscription)
}

// StoreWorkerProgress stores it outside of an applied transaction, as idle
// streams need; a zero time leaves the last one.
func (db *DB) StoreWorkerProgress(ctx context.Context, subscription uint32, p WorkerProgress) error {
	_, err := db.conn.Exec(ctx, qStoreWorkerProgress, subscription, p.Worker, p.LSN.String(), someTime(p.CommitAt))
	return wrap("store the worker's progress", err)
}

// Progress is one row of spock.progress.
type Progress struct {
	Node, Provider                 uint32
	CommitAt                       time.Time
	CommitLSN, InsertLSN, Received Position
	UpdatedAt                      time.Time
	ByCommit                       bool // the last change was a commit, not a keepalive
	Moved                          bool // CommitAt is another than when it was told before
}

// StoreProgress stores what everybody may see, at most about once a second. Zero values leave what is there.
func (db *DB) StoreProgress(ctx context.Context, p Progress) error {
	_, err := db.conn.Exec(ctx, qStoreProgress, p.Provider, someTime(p.CommitAt), somePosition(p.CommitLSN),
		somePosition(p.InsertLSN), somePosition(p.Received), p.ByCommit)
	return wrap("store the progress", err)
}

// Progress returns the rows of spock.progress.
func (db *DB) Progress(ctx context.Context) ([]Progress, error) {
	return collect[Progress](ctx, db.conn, "read the progress", qProgress)
}

// PeerProgress is how far a node has applied another's changes.
type PeerProgress struct {
	Provider uint32
	LSN      Position
}

// PeerProgress returns the exact position of every provider's stream as of
// this transaction's snapshot.
func (db *DB) PeerProgress(ctx context.Context) ([]PeerProgress, error) {
	return collect[PeerProgress](ctx, db.conn, "read the progress of all streams", qPeerProgress)
}

func someTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func somePosition(p Position) *string {
	if p == 0 {
		return nil
	}
	text := p.String()
	return &text
}

// Lag is one row of spock.lag_tracker.
type Lag struct {
	Origin, Receiver string // empty when no subscription matches
	CommitAt         time.Time
	CommitLSN        Position
	InsertLSN        Position
	Received         Position
	Bytes            int64
	Lag              time.Duration
}

const qLag = `
SELECT coalesce(origin_name::text, ''), coalesce(receiver_name::text, ''), commit_timestamp, last_received_lsn, remote_insert_lsn,
       received_lsn, coalesce(replication_lag_bytes, 0)::int8, coalesce(extract(epoch FROM replication_lag), 0)::float8
  FROM spock.lag_tracker ORDER BY 1, 2`

// Lags returns how far behind its providers this node is.
func (db *DB) Lags(ctx context.Context) ([]Lag, error) {
	const op = "read the lag"
	rows, err := db.conn.Query(ctx, qLag)
	if err != nil {
		return nil, wrap(op, err)
	}
	defer rows.Close()
	var all []Lag
	for rows.Next() {
		var l Lag
		var seconds float64
		if err := rows.Scan(&l.Origin, &l.Receiver, &l.CommitAt, &l.CommitLSN, &l.InsertLSN, &l.Received, &l.Bytes, &seconds); err != nil {
			return nil, wrap(op, err)
		}
		l.Lag = time.Duration(seconds * float64(time.Second))
		all = append(all, l)
	}
	return all, wrap(op, rows.Err())
}

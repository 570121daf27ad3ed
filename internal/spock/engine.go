package spock

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// Lock is what an advisory lock of this database stands for.
type Lock int32

// The locks that the engine holds. What waits for one of them asks for something.
const (
	LockWorker Lock = 727400011 // per subscription, exclusive: a waiter asks the worker to stop
	LockGate   Lock = 727400012 // shared, by every session that applies: a waiter asks for a pause
	LockEngine Lock = 727400013 // exclusive: one engine serves a database
)

const (
	qLockEngine   = `SELECT pg_try_advisory_lock(727400013, 0)`
	qLockWorker   = `SELECT pg_try_advisory_lock(727400011, pgdrover.as_integer($1))`
	qUnlockWorker = `SELECT pg_advisory_unlock(727400011, pgdrover.as_integer($1))`
	qLockGate     = `SELECT pg_advisory_lock_shared(727400012, 0)`
	qUnlockGate   = `SELECT pg_advisory_unlock_shared(727400012, 0)`
	qWaiters      = `
SELECT DISTINCT l.classid::int8, l.objid FROM pg_locks l
 WHERE l.locktype = 'advisory' AND NOT l.granted AND l.objsubid = 2 AND l.classid BETWEEN 727400011 AND 727400013
   AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
 ORDER BY 1, 2`
	qEngineConnected = `SELECT pgdrover.engine_connected()`
	qKeepRow         = `SELECT sub_enabled FROM spock.subscription WHERE sub_id = $1 FOR KEY SHARE`
	qDatabaseID      = `SELECT oid FROM pg_database WHERE datname = current_database()`
)

// LockEngine takes the database for the engine on this session; false when another engine has it.
func (db *DB) LockEngine(ctx context.Context) (bool, error) {
	return db.ask(ctx, "take the engine's lock", qLockEngine)
}

// EngineConnected reports whether an engine serves this database.
func (db *DB) EngineConnected(ctx context.Context) (bool, error) {
	return db.ask(ctx, "look for the engine", qEngineConnected)
}

// StartWorker takes a subscription's lock on this session and returns the
// subscription as it is then. A drop or a change that is under way is waited
// for. ErrNotFound: it is gone; ok is false when another session serves it.
func (db *DB) StartWorker(ctx context.Context, id uint32) (s Subscription, ok bool, err error) {
	const op = "start the subscription's worker"
	tx, err := db.conn.Begin(ctx)
	if err != nil {
		return s, false, wrap(op, err)
	}
	defer rollback(ctx, tx)
	var enabled bool
	if err := tx.QueryRow(ctx, qKeepRow, id).Scan(&enabled); err != nil {
		return s, false, wrap(op, err)
	}
	if err := tx.QueryRow(ctx, qLockWorker, id).Scan(&ok); err != nil || !ok {
		return s, false, wrap(op, err)
	}
	all, err := subscriptions(ctx, tx, id)
	if err == nil && len(all) == 0 {
		err = wrap(op, pgx.ErrNoRows)
	}
	if err == nil {
		err = wrap(op, tx.Commit(ctx))
	}
	if err != nil {
		// The lock belongs to the session, not to the transaction.
		_ = tx.Rollback(context.WithoutCancel(ctx)) // the first error counts
		return s, false, errors.Join(err, db.StopWorker(context.WithoutCancel(ctx), id))
	}
	return all[0], true, nil
}

// StopWorker gives a subscription's lock back.
func (db *DB) StopWorker(ctx context.Context, id uint32) error {
	_, err := db.ask(ctx, "stop the subscription's worker", qUnlockWorker, id)
	return err
}

// EnterGate lets this session apply; it waits while the workers are paused.
func (db *DB) EnterGate(ctx context.Context) error {
	_, err := db.conn.Exec(ctx, qLockGate)
	return wrap("wait while workers are paused", err)
}

// LeaveGate lets a pause begin.
func (db *DB) LeaveGate(ctx context.Context) error {
	_, err := db.ask(ctx, "let the workers pause", qUnlockGate)
	return err
}

// Waiter is somebody who waits for one of our locks.
type Waiter struct {
	Lock         Lock
	Subscription uint32 // of a worker's lock
}

// Waiters returns what is waited for, each once; the engine looks about every 200 ms.
func (db *DB) Waiters(ctx context.Context) ([]Waiter, error) {
	return collect[Waiter](ctx, db.conn, "look for waiters", qWaiters)
}

// DatabaseID returns the oid of the database, as application names have it.
func (db *DB) DatabaseID(ctx context.Context) (uint32, error) {
	var id uint32
	err := db.conn.QueryRow(ctx, qDatabaseID).Scan(&id)
	return id, wrap("read the database's oid", err)
}

const (
	qSetState = `
UPDATE spock.pgdrover_subscription
   SET state = $2, state_since = CASE WHEN state IS DISTINCT FROM $2 THEN clock_timestamp() ELSE state_since END
 WHERE sub_id = $1`
	qSetTrouble = `
UPDATE spock.pgdrover_subscription
   SET state = $2, state_since = CASE WHEN state IS DISTINCT FROM $2 THEN clock_timestamp() ELSE state_since END,
       last_error = $3, last_error_code = $4, last_error_at = clock_timestamp(), failures = failures + 1
 WHERE sub_id = $1`
	qClearTrouble = `UPDATE spock.pgdrover_subscription SET failures = 0 WHERE sub_id = $1 AND failures > 0`
	qSetProvider  = `UPDATE spock.pgdrover_subscription SET provider_sysid = $2, provider_timeline = $3 WHERE sub_id = $1`
	qEngineStates = `
SELECT s.sub_id, s.sub_name::text, coalesce(p.state, ''), coalesce(p.state_since, 'epoch'::timestamptz), coalesce(p.last_error, ''),
       coalesce(p.last_error_code, ''), coalesce(p.last_error_at, 'epoch'::timestamptz), coalesce(p.failures, 0), coalesce(p.last_hint, ''),
       greatest(coalesce(p.state_since, 'epoch'::timestamptz), (SELECT max(a.backend_start) FROM pg_stat_activity a
         WHERE a.datname = current_database() AND a.application_name = format('spock apply %s:%s', a.datid, s.sub_id)))
  FROM spock.subscription s LEFT JOIN spock.pgdrover_subscription p USING (sub_id) ORDER BY s.sub_name`
)

// SetState stores what the engine does with a subscription, in one word.
func (db *DB) SetState(ctx context.Context, id uint32, state string) error {
	_, err := db.conn.Exec(ctx, qSetState, id, state)
	return wrap("store the subscription's state", err)
}

// SetTrouble stores a state and the error that led to it.
func (db *DB) SetTrouble(ctx context.Context, id uint32, state, message, code string) error {
	_, err := db.conn.Exec(ctx, qSetTrouble, id, state, message, code)
	return wrap("store the subscription's trouble", err)
}

// ClearTrouble resets the number of failures; the last message stays readable.
func (db *DB) ClearTrouble(ctx context.Context, id uint32) error {
	_, err := db.conn.Exec(ctx, qClearTrouble, id)
	return wrap("clear the subscription's trouble", err)
}

// SetProvider stores which server the provider is.
func (db *DB) SetProvider(ctx context.Context, id uint32, systemID string, timeline int) error {
	_, err := db.conn.Exec(ctx, qSetProvider, id, systemID, timeline)
	return wrap("store the provider's identity", err)
}

// EngineState is what the engine says about one subscription.
type EngineState struct {
	ID            uint32
	Subscription  string
	State         string
	Since         time.Time
	LastError     string
	LastErrorCode string
	LastErrorAt   time.Time
	Failures      int
	LastHint      string    // what to do about the last error, where that is known
	Began         time.Time // when what the engine does now began: what was told before is an earlier life's
}

// EngineStates returns what the engine says about its subscriptions.
func (db *DB) EngineStates(ctx context.Context) ([]EngineState, error) {
	return collect[EngineState](ctx, db.conn, "read the engine's states", qEngineStates)
}

package pgautofailover

import (
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var (
	// ErrDeciderExists says that another monitor process holds the decider's lock.
	ErrDeciderExists = errors.New("take the decider's lock: another monitor process holds it")
	// ErrNotDecider says that this process lost the right to decide: another one took over.
	ErrNotDecider = errors.New("check the decider's number: another monitor process took over")
	// ErrNotFound says that there is no such row.
	ErrNotFound = errors.New("no such row")
)

// ServerError is an error that the monitor's server raised. The original
// *pgconn.PgError is behind Unwrap.
type ServerError struct {
	Op      string // what was asked, as a verb phrase
	Code    string // SQLSTATE
	Message string
	Detail  string
	hint    string
	err     error
}

// Error returns what was asked and the server's message.
func (e *ServerError) Error() string { return e.Op + ": " + e.Message }

// Hint returns the server's hint, which may be empty.
func (e *ServerError) Hint() string { return e.hint }

// Unwrap returns the driver's error.
func (e *ServerError) Unwrap() error { return e.err }

// SQLState returns the SQLSTATE of an error that the server raised, "" for any other.
func SQLState(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}

// Retryable reports whether the same call may succeed in a moment without
// anybody changing anything: locks, deadlocks, serialization, a connection that was
// lost, a server that starts or is full, a registration that has to wait for the group.
func Retryable(err error) bool {
	if err == nil {
		return false
	}
	code := SQLState(err)
	switch code {
	case "":
		return !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrNotDecider)
	case pgerrcode.ObjectInUse, pgerrcode.LockNotAvailable, pgerrcode.QueryCanceled,
		pgerrcode.SerializationFailure, pgerrcode.DeadlockDetected, pgerrcode.IdleInTransactionSessionTimeout:
		return true
	}
	return pgerrcode.IsConnectionException(code) || pgerrcode.IsOperatorIntervention(code) ||
		pgerrcode.IsInsufficientResources(code)
}

// IsBetweenPrimaries reports that a group was asked for its primary while none
// takes writes: the old one is gone, and the next is on its way.
func IsBetweenPrimaries(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == pgerrcode.InternalError && e.Message == "group has no writable node right now"
}

// wrap says what was asked; it keeps nil.
func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%s: %w", op, ErrNotFound)
	}
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return fmt.Errorf("%s: %w", op, err)
	}
	return &ServerError{
		Op: op, Code: pgErr.Code, Message: pgErr.Message, Detail: pgErr.Detail, hint: pgErr.Hint, err: err,
	}
}

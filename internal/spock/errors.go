package spock

import (
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var (
	// ErrNotInstalled says that the database has no schema spock.
	ErrNotInstalled = errors.New("read the version of schema spock: it is not installed")
	// ErrNotFound says that there is no such row.
	ErrNotFound = errors.New("no such row")
)

// hinted is an error that an operator can fix.
type hinted struct{ text, hint string }

func (e hinted) Error() string { return e.text }

// Hint says what to do.
func (e hinted) Hint() string { return e.hint }

// ServerError is an error that the server raised. The original *pgconn.PgError
// is behind Unwrap.
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
// anybody changing anything: locks, deadlocks, serialization, a connection
// that was lost, a server that starts or is full.
func Retryable(err error) bool {
	if err == nil {
		return false
	}
	code := SQLState(err)
	switch code {
	case "":
		return !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrNotInstalled)
	case pgerrcode.ObjectInUse, pgerrcode.LockNotAvailable, pgerrcode.QueryCanceled,
		pgerrcode.SerializationFailure, pgerrcode.DeadlockDetected, pgerrcode.IdleInTransactionSessionTimeout:
		return true
	}
	return pgerrcode.IsConnectionException(code) || pgerrcode.IsOperatorIntervention(code) ||
		pgerrcode.IsInsufficientResources(code)
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

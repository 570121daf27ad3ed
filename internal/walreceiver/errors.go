package walreceiver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

var (
	// ErrSilent means that the server has sent nothing for too long.
	ErrSilent = errors.New("server is silent")
	// ErrEnded means that the server has ended the stream, as it does on its way
	// down.
	ErrEnded = errors.New("server ended the stream")

	errClosed       = errors.New("connection is closed")
	errNotStreaming = errors.New("no stream was started")
	errStreaming    = errors.New("a stream was started")
	errProtocol     = errors.New("unexpected message")
)

// Error is what every method of this package fails with.
type Error struct {
	Op  string // what was tried: "create slot"
	Err error

	retry bool
}

func (e *Error) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// SafeToRetry tells whether doing the same again can do no harm. It is false
// when a slot may have been made and nobody knows.
func (e *Error) SafeToRetry() bool { return e.retry }

// Hint says what an operator can do about it, if anything.
func (e *Error) Hint() string {
	var server *pgconn.PgError
	if !errors.As(e.Err, &server) {
		return ""
	}
	switch {
	case server.Hint != "":
		return server.Hint
	case server.Code == pgerrcode.ObjectNotInPrerequisiteState && strings.Contains(server.Message, "wal_level"):
		return "Set wal_level = logical on the server and restart it."
	case SlotLost(e):
		return "The server no longer has the changes that were not yet received: copy the tables anew."
	case SlotMissing(e):
		return "The slot was dropped, or the server was replaced by one that never had it: copy the tables anew."
	case server.Code == pgerrcode.InsufficientPrivilege:
		return "Connect as a superuser or as a role with the REPLICATION attribute."
	case server.Code == pgerrcode.InvalidAuthorizationSpecification:
		return "Add a line for this database, role and host to the server's pg_hba.conf."
	default:
		return ""
	}
}

// SafeToRetry tells whether what failed can be done again without harm.
func SafeToRetry(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.retry
}

// Lost tells whether the connection is gone: a new one may go on.
func Lost(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	if errors.Is(err, ErrSilent) || errors.Is(err, ErrEnded) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) {
		return true
	}
	switch code := sqlState(err); code {
	case "":
	case pgerrcode.AdminShutdown, pgerrcode.CrashShutdown, pgerrcode.CannotConnectNow, pgerrcode.IdleSessionTimeout:
		return true
	default:
		return pgerrcode.IsConnectionException(code)
	}
	var network net.Error
	var system syscall.Errno
	return errors.As(err, &network) || errors.As(err, &system)
}

// Transient tells whether the trouble may pass with nobody doing anything.
func Transient(err error) bool {
	if Lost(err) {
		return true
	}
	switch code := sqlState(err); code {
	case "":
		return false
	case pgerrcode.ObjectInUse, pgerrcode.LockNotAvailable, pgerrcode.QueryCanceled:
		return true
	default:
		return pgerrcode.IsInsufficientResources(code) || pgerrcode.IsTransactionRollback(code)
	}
}

// SlotInUse tells whether the slot has another receiver, perhaps one whose loss
// the server has yet to notice.
func SlotInUse(err error) bool { return sqlState(err) == pgerrcode.ObjectInUse }

// SlotExists tells whether a slot could not be made because there is one of
// that name.
func SlotExists(err error) bool { return sqlState(err) == pgerrcode.DuplicateObject }

// SlotMissing tells whether the slot that was to be streamed or dropped is not
// there.
func SlotMissing(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Op == opStart || e.Op == opDropSlot) && sqlState(err) == pgerrcode.UndefinedObject
}

// SlotLost tells whether the server has removed log that the slot needed.
func SlotLost(err error) bool {
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return false
	}
	switch server.Code {
	case pgerrcode.ObjectNotInPrerequisiteState:
		return strings.Contains(server.Message, "can no longer get changes") || strings.Contains(server.Message, "cannot read from")
	case pgerrcode.UndefinedFile:
		return strings.Contains(server.Message, "has already been removed")
	default:
		return false
	}
}

func sqlState(err error) string {
	if server, ok := errors.AsType[*pgconn.PgError](err); ok {
		return server.Code
	}
	return ""
}

// The operations that errors name.
const (
	opConnect   = "connect for replication"
	opIdentify  = "identify system"
	opHistory   = "read timeline history"
	opCreate    = "create replication slot"
	opDropSlot  = "drop replication slot"
	opStart     = "start replication"
	opReceive   = "receive changes"
	opReport    = "report progress"
	opClose     = "close replication connection"
	opConfigure = "configure replication connection"
)

func fail(op string, err error, retry bool) *Error { return &Error{Op: op, Err: err, retry: retry} }

func unexpected(what any) error { return fmt.Errorf("%w: %T", errProtocol, what) }

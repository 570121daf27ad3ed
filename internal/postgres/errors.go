package postgres

import "errors"

// Errors that callers branch on.
var (
	// ErrNotRunning: no server of this data directory runs.
	ErrNotRunning = errors.New("PostgreSQL is not running")
	// ErrRunning: the operation needs a stopped server.
	ErrRunning = errors.New("PostgreSQL is running")
	// ErrForeignServer: postmaster.pid names a live process that cannot be proved to be the server of this directory.
	ErrForeignServer = errors.New("postmaster.pid names a process that is not the server of this data directory")
	// ErrForeignSystem: the other server has another system identifier; neither rewind nor base backup may touch ours.
	ErrForeignSystem = errors.New("the other server has a different system identifier")
	// ErrCannotRewind: only a base backup makes this data directory a standby of that server.
	ErrCannotRewind = errors.New("the data directory cannot be rewound")
	// ErrShortOfWAL: the directory does not hold the WAL that it must replay before it is consistent.
	ErrShortOfWAL = errors.New("the WAL that is here ends before the server is consistent")
	// ErrExited: the postmaster ended while it was waited for.
	ErrExited = errors.New("PostgreSQL ended")
	// ErrNotRecovered: it ended while it recovered its data.
	ErrNotRecovered = errors.New("PostgreSQL could not recover its data")
	// ErrStalled: a standby that is not consistent yet makes no progress.
	ErrStalled = errors.New("the recovery has made no progress")
	// ErrLimits: a standby cannot replay its WAL before it is restarted with larger settings.
	ErrLimits = errors.New("settings are smaller than a standby of its primary needs")
)

// hinted is an error that an operator can do something about.
type hinted struct {
	error
	hint string
}

// Hint says what to do.
func (h hinted) Hint() string { return h.hint }

// Unwrap returns what went wrong.
func (h hinted) Unwrap() error { return h.error }

func withHint(err error, hint string) error { return hinted{error: err, hint: hint} }

package keeper

import (
	"errors"
	"fmt"
	"io/fs"
)

// ErrDropped ends Run and Create when the monitor has removed this node and
// the node has said that it is gone.
var ErrDropped = errors.New("this node has been dropped from the monitor")

// ErrNotRegistered ends Run at its start when the monitor does not know the
// node any more.
var ErrNotRegistered = errors.New("this node is not registered on the monitor any more")

// ErrCreated refuses a creation that is over already. Create with Run set
// takes it for success.
var ErrCreated = errors.New("this node has been created before")

// ErrDetach as the cause of a cancelled context ends Run and leaves PostgreSQL
// running: the next Run adopts it.
var ErrDetach = errors.New("leave PostgreSQL running")

// StateError tells that a state or init file cannot be understood.
type StateError struct {
	Path string
	Err  error
}

func (e *StateError) Error() string {
	if errors.Is(e.Err, fs.ErrNotExist) {
		return fmt.Sprintf("state file %q does not exist", e.Path)
	}
	return fmt.Sprintf("state file %q exists but is broken or wrong version: %v", e.Path, e.Err)
}

func (e *StateError) Unwrap() error { return e.Err }

// Hint says how a node gets its state file.
func (e *StateError) Hint() string {
	if errors.Is(e.Err, fs.ErrNotExist) {
		return "create the node first with `pg_autoctl create postgres`"
	}
	return "restore the file, or drop the node and create it again"
}

// ConfigError tells what is wrong with a configuration key.
type ConfigError struct {
	Path string // file, when the value came from one
	Key  string // section.key, when it is about one
	Err  error
	hint string
}

func (e *ConfigError) Error() string {
	switch {
	case e.Key != "" && e.Path != "":
		return fmt.Sprintf("read option %s in %q: %v", e.Key, e.Path, e.Err)
	case e.Key != "":
		return fmt.Sprintf("check option %s: %v", e.Key, e.Err)
	case e.Path != "":
		return fmt.Sprintf("read configuration file %q: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("check configuration: %v", e.Err)
}

func (e *ConfigError) Unwrap() error { return e.Err }

// Hint says what the operator can do.
func (e *ConfigError) Hint() string { return e.hint }

// CreateError tells which part of a creation failed.
type CreateError struct {
	Step string
	Err  error
	hint string
}

func (e *CreateError) Error() string { return e.Step + ": " + e.Err.Error() }

func (e *CreateError) Unwrap() error { return e.Err }

// Hint says what the operator can do: this error's own hint, or its cause's.
func (e *CreateError) Hint() string {
	if e.hint != "" {
		return e.hint
	}
	return hintOf(e.Err)
}

// MonitorError tells that the monitor could not be reached or did not answer.
type MonitorError struct {
	Op  string
	Err error
}

func (e *MonitorError) Error() string { return e.Op + ": " + e.Err.Error() }

func (e *MonitorError) Unwrap() error { return e.Err }

// Hint says where to look.
func (e *MonitorError) Hint() string {
	if h := hintOf(e.Err); h != "" {
		return h
	}
	return "check that the monitor is running and that pg_autoctl.monitor holds its URI"
}

// hintOf finds the hint that an error or one of its causes carries.
func hintOf(err error) string {
	type hinting interface {
		error
		Hint() string
	}
	if h, ok := errors.AsType[hinting](err); ok {
		return h.Hint()
	}
	return ""
}

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

package cli

import (
	"errors"
	"fmt"
	"log/slog"
)

// The exit codes that scripts rely on.
const (
	exitOK          = 0
	exitBadArgs     = 1
	exitBadConfig   = 2
	exitBadState    = 3
	exitPgSQL       = 4
	exitPgCtl       = 5
	exitMonitor     = 6
	exitCoordinator = 7
	exitKeeper      = 8
	exitInternal    = 12
	exitDropped     = 121
	exitFatal       = 122
)

// Levels that slog does not have.
const (
	levelTrace = slog.Level(-8)
	levelFatal = slog.Level(12)
)

// exitError is an error that knows how the process ends.
type exitError struct {
	code  int
	level slog.Level
	err   error
	hint  string
	// usage asks for the command's usage text after the message.
	usage bool
	// silent says that everything worth saying has been said.
	silent bool
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// Hint tells the operator what to do about it.
func (e *exitError) Hint() string {
	if e.hint != "" {
		return e.hint
	}
	return hintOf(e.err)
}

// withHint adds a hint and returns e.
func (e *exitError) withHint(format string, args ...any) *exitError {
	e.hint = fmt.Sprintf(format, args...)
	return e
}

// fail ends the command with an ERROR line and code.
func fail(code int, format string, args ...any) *exitError {
	return &exitError{code: code, level: slog.LevelError, err: fmt.Errorf(format, args...)}
}

// fatal ends the command with a FATAL line and code.
func fatal(code int, format string, args ...any) *exitError {
	return &exitError{code: code, level: levelFatal, err: fmt.Errorf(format, args...)}
}

// misuse ends the command with an ERROR line, its usage text and exit code 1.
func misuse(format string, args ...any) *exitError {
	e := fail(exitBadArgs, format, args...)
	e.usage = true
	return e
}

// quit ends the command with code and no further word.
func quit(code int) *exitError {
	return &exitError{code: code, err: errors.New("exit"), silent: true}
}

// withCode gives err an exit code unless it has one already.
func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*exitError](err); ok {
		return err
	}
	return &exitError{code: code, level: slog.LevelError, err: err}
}

// advise adds a hint to what the monitor refused without one.
func advise(err error, hint string) error {
	if err == nil || hintOf(err) != "" {
		return err
	}
	if exit, ok := errors.AsType[*exitError](err); ok {
		return exit.withHint("%s", hint)
	}
	return fail(exitMonitor, "%w", err).withHint("%s", hint)
}

// hintOf finds the hint of an error that an operator can fix.
func hintOf(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// Env is all that a call of the program may know about the process it runs in.
type Env struct {
	// Name is argv[0] as typed; its base name selects the command tree.
	Name string
	// Args are the words after it.
	Args []string
	// Hide takes a secret out of what others see of this process; may be nil.
	Hide func(secret string)
	// Version is the version of the program.
	Version        string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Getenv answers a variable and whether it is set; os.LookupEnv in the program.
	Getenv func(string) (string, bool)
	// Environ is the environment that children inherit.
	Environ []string
	// Executable is the program's own file, for children that run it again.
	Executable string
	PID, EUID  int
	// OneThread is for a service that mostly waits: waking further threads costs
	// it more than they are worth; may be nil.
	OneThread func()
	// Terminal says that Stderr is a terminal; OutTerminal says the same of Stdout.
	Terminal, OutTerminal bool
	// Reload delivers one value for each SIGHUP.
	Reload <-chan struct{}
	// Signals delivers the signals that follow the one that ended the context.
	Signals <-chan os.Signal

	log     *slog.Logger
	level   *slog.LevelVar
	overlay map[string]string
}

// prepare gives a call its logger and its own view of the environment.
func (e *Env) prepare() {
	e.level = &slog.LevelVar{}
	e.overlay = map[string]string{}
	if e.Getenv == nil {
		e.Getenv = func(string) (string, bool) { return "", false }
	}
	if format := e.getenv("PGDROVER_LOG_FORMAT"); format == "json" {
		e.log = slog.New(slog.NewJSONHandler(e.Stderr, &slog.HandlerOptions{Level: e.level}))
		return
	}
	e.log = slog.New(newLineHandler(e.Stderr, e.PID, e.level, e.colours()))
}

// lookupenv answers a variable, the values set by this call first.
func (e *Env) lookupenv(name string) (string, bool) {
	if v, ok := e.overlay[name]; ok {
		return v, true
	}
	return e.Getenv(name)
}

func (e *Env) getenv(name string) string {
	v, _ := e.lookupenv(name)
	return v
}

// setenv sets a variable for the rest of the call and for its children.
func (e *Env) setenv(name, value string) { e.overlay[name] = value }

// childEnv is the environment for a process that this call starts.
func (e *Env) childEnv(extra ...string) []string {
	env := append([]string{}, e.Environ...)
	for name, value := range e.overlay {
		env = append(env, name+"="+value)
	}
	return append(env, extra...)
}

// program is the name under which the program was called.
func (e *Env) program() string { return programName(e.Name) }

func programName(argv0 string) string {
	base := strings.TrimSuffix(filepath.Base(argv0), ".exe")
	if base == nameAutoctl || base == nameSpockctrl {
		return base
	}
	if name := strings.TrimSuffix(base, ".py"); isZodan(name) {
		return name
	}
	return nameDrover
}

// The names the program answers to.
const (
	nameDrover    = "pgdrover"
	nameAutoctl   = "pg_autoctl"
	nameSpockctrl = "spockctrl"
	nameZodan     = "zodan"
	nameZodremove = "zodremove"
)

// printf writes to standard output; a reader that went away is not an error of ours.
func (e *Env) printf(format string, args ...any) { _, _ = fmt.Fprintf(e.Stdout, format, args...) }

// infof, warnf and errorf log a sentence for the operator.
func (e *Env) infof(format string, args ...any)  { e.log.Info(fmt.Sprintf(format, args...)) }  //nolint:sloglint // a sentence for people
func (e *Env) warnf(format string, args ...any)  { e.log.Warn(fmt.Sprintf(format, args...)) }  //nolint:sloglint // a sentence for people
func (e *Env) errorf(format string, args ...any) { e.log.Error(fmt.Sprintf(format, args...)) } //nolint:sloglint // a sentence for people

// say logs a sentence at a level of its own.
func (e *Env) say(ctx context.Context, level slog.Level, text string) {
	e.log.Log(ctx, level, text) //nolint:sloglint // a sentence for people
}

// hint logs what to do next, at the level of what it belongs to.
func (e *Env) hint(format string, args ...any) { e.infof("HINT: "+format, args...) }

// setVerbosity sets the log level from the counts of -v and -q.
func (e *Env) setVerbosity(verbose int, quiet bool) {
	switch {
	case quiet:
		e.level.Set(slog.LevelError)
	case verbose >= 3:
		e.level.Set(levelTrace)
	case verbose == 2:
		e.level.Set(slog.LevelDebug)
	}
}

// verbosityFlags are the level options to hand to a child of this call.
func (e *Env) verbosityFlags() []string {
	switch l := e.level.Level(); {
	case l >= slog.LevelError:
		return []string{"-q"}
	case l <= levelTrace:
		return []string{"-vvv"}
	case l <= slog.LevelDebug:
		return []string{"-vv"}
	}
	return nil
}

// refuseRoot ends commands that create or run a server when the superuser
// calls them: PostgreSQL does not run as root.
func (e *Env) refuseRoot(what string) error {
	if e.EUID != 0 {
		return nil
	}
	return fatal(exitBadArgs, "%s can't be run as root: PostgreSQL refuses to run as root", what).
		withHint("run it as the user that owns the data directory, for example: runuser -u postgres -- %s", what)
}

// absolute makes a path absolute without asking whether it exists.
func absolute(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("make path %q absolute: %w", path, err)
	}
	return abs, nil
}

// isDir reports whether path is a directory.
func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// isFile reports whether path exists and is not a directory.
func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

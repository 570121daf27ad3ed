package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/postgres"
)

// patience bounds every wait of a demonstration.
const patience = 120 * time.Second

// Stage is where a demonstration takes place and what it is told with.
type Stage struct {
	// Version is the version of the program.
	Version string
	// Directory holds data and logs; it must be empty or absent. Without one
	// the demonstration makes a temporary one.
	Directory string
	// Keep leaves data and logs behind.
	Keep bool
	// Port is the first port to use; free ones are taken when it is 0.
	Port int
	// Tools are PostgreSQL's programs.
	Tools postgres.Tools
	// Executable is the program to start processes of, with these Flags after
	// each command and Environ for an environment.
	Executable string
	Environ    []string
	Flags      []string
	// Out takes the story; Terminal says that it can be drawn upon.
	Out      io.Writer
	Terminal bool
	Logger   *slog.Logger

	start time.Time
	made  bool // the directory is ours to remove
}

// Error is a demonstration that went wrong, with what to do about it.
type Error struct {
	Err    error
	Advice string
	// Refused says that nothing was started, for what was asked cannot be.
	Refused bool
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Hint tells the operator what to do about it.
func (e *Error) Hint() string { return e.Advice }

// check refuses a stage on which count processes with a port each have no room.
func (s *Stage) check(count int) error {
	switch {
	case s.Executable == "":
		return errors.New("no program to run is given")
	case s.Out == nil:
		return errors.New("no place to tell the story is given")
	case s.Port < 0 || s.Port+count-1 > 65535:
		return &Error{Err: fmt.Errorf("port %d leaves no room for %d ports below 65536", s.Port, count), Refused: true}
	}
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// open makes sure of an empty directory and starts the clock.
func (s *Stage) open() error {
	s.start = time.Now()
	if s.Directory == "" {
		dir, err := os.MkdirTemp("", "pgdrover-demo-")
		s.Directory, s.made = dir, true
		return err
	}
	dir, err := filepath.Abs(s.Directory)
	if err != nil {
		return err
	}
	s.Directory = dir
	entries, err := os.ReadDir(dir)
	switch {
	case os.IsNotExist(err):
		s.made = true
		err = os.MkdirAll(dir, 0o700)
	case err == nil && len(entries) > 0:
		return &Error{Err: fmt.Errorf("directory %q is not empty", dir), Advice: "choose another one with --directory", Refused: true}
	}
	if err != nil {
		return &Error{Err: err, Refused: true}
	}
	return nil
}

// leave removes what open made, unless somebody may want to look at it.
func (s *Stage) leave(look bool) {
	if s.made && !s.Keep && !look {
		if err := os.RemoveAll(s.Directory); err != nil {
			s.Logger.Warn("remove the demonstration's directory", "path", s.Directory, "error", err)
		}
		return
	}
	s.printf("Data and logs are in %s\n", s.Directory)
}

func (s *Stage) printf(format string, args ...any) { _, _ = fmt.Fprintf(s.Out, format, args...) }

// say tells the story with the seconds since the start.
func (s *Stage) say(format string, args ...any) {
	s.printf("%6.1fs  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

// ports are free ones, unless the operator chose.
func (s *Stage) ports(ctx context.Context, count int) ([]int, error) {
	ports := make([]int, 0, count)
	var lc net.ListenConfig
	for i := range count {
		port := 0
		if s.Port > 0 {
			port = s.Port + i
		}
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort("localhost", strconv.Itoa(port)))
		if err != nil {
			return nil, &Error{Err: fmt.Errorf("port %d is not free: %w", port, err), Advice: "choose another one with --port", Refused: true}
		}
		// Held until all are chosen, so that no two are the same.
		defer l.Close() //nolint:errcheck // only a reservation
		_, chosen, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		if port, err = strconv.Atoi(chosen); err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}

// socketDir is where servers put their sockets; its name is short, as a
// socket's path has to fit into a hundred bytes.
func (s *Stage) socketDir() string          { return filepath.Join(s.Directory, "s") }
func (s *Stage) logFile(name string) string { return filepath.Join(s.Directory, name+".log") }

// environ keeps files of the processes below the demonstration's directory,
// and the operator's own settings out.
func (s *Stage) environ() []string {
	var env []string
	for _, v := range s.Environ {
		name, _, _ := strings.Cut(v, "=")
		if !strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "XDG_") && name != "HOME" {
			env = append(env, v)
		}
	}
	return append(env, "HOME="+s.Directory, "XDG_RUNTIME_DIR="+s.Directory, "PG_REGRESS_SOCK_DIR="+s.socketDir())
}

// sleep waits for a time or for the end of the context.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait: %w", context.Cause(ctx))
	case <-timer.C:
		return nil
	}
}

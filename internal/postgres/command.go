package postgres

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// killDelay is how long a program may clean up after it was asked to end.
const killDelay = 5 * time.Second

// run runs a program of the installation to its end. When ctx ends, or this
// process dies, the program ends too, with all that it started in its process
// group. Its output goes to the debug log and, the end of it, into the error.
func (i *Instance) run(ctx context.Context, cfg runConfig) error {
	path := i.cfg.Tools.Path(cfg.program)
	cmd := exec.CommandContext(ctx, path, cfg.args...) //nolint:gosec // the configured program
	cmd.Env = append(cmd.Environ(), cfg.env...)
	if cfg.program != "initdb" {
		// Messages that can be read; initdb alone takes the databases' locale from here.
		cmd.Env = append(cmd.Env, "LC_ALL=C", "LANG=C")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = killDelay

	var tail tailBuffer
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	var lines sync.WaitGroup
	lines.Go(func() { i.readLines(ctx, cfg, reader, &tail) })

	// The kernel sends the death signal when the starting *thread* ends, so keep it.
	runtime.LockOSThread()
	err := cmd.Run()
	runtime.UnlockOSThread()
	if cmd.Process != nil && (ctx.Err() != nil || err != nil) {
		// Whatever is left of the group: pg_basebackup's streaming child outlives its parent.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	_ = writer.Close()
	lines.Wait()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("run %s: %w", cfg.program, context.Cause(ctx))
	default:
		return programError(cfg.program, err, tail.String())
	}
}

func (i *Instance) readLines(ctx context.Context, cfg runConfig, r io.Reader, tail *tailBuffer) {
	scanner := bufio.NewScanner(r)
	scanner.Split(splitOutput)
	for scanner.Scan() {
		text := strings.TrimSpace(scanner.Text())
		if text == "" {
			continue
		}
		tail.add(text)
		i.log.DebugContext(ctx, "program output", "program", cfg.program, "line", text)
		if cfg.line != nil {
			cfg.line(text)
		}
	}
	// A line longer than the scanner takes must not block the program.
	_, _ = io.Copy(io.Discard, r)
}

// splitOutput ends a line at a newline or, for progress reports, at a carriage return.
func splitOutput(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if n := bytes.IndexAny(data, "\r\n"); n >= 0 {
		return n + 1, data[:n], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// tailBuffer keeps the last lines of a program's output.
type tailBuffer struct{ lines []string }

func (t *tailBuffer) add(line string) {
	t.lines = append(t.lines, line)
	if len(t.lines) > 5 {
		t.lines = t.lines[1:]
	}
}

func (t *tailBuffer) String() string { return strings.Join(t.lines, "; ") }

// programError makes one sentence of a program's failure.
func programError(program string, err error, output string) error {
	if strings.Contains(output, "No space left on device") {
		return diskHint(fmt.Errorf("run %s: %w: %s", program, syscall.ENOSPC, output))
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && output != "" {
		return &ProgramError{Program: program, ExitCode: exit.ExitCode(), Output: output}
	}
	return fmt.Errorf("run %s: %w", program, err)
}

// ProgramError is a PostgreSQL program that ended with an error.
type ProgramError struct {
	Program  string
	ExitCode int
	Output   string // its last lines
}

// Error implements error.
func (e *ProgramError) Error() string {
	return fmt.Sprintf("run %s: exit status %d: %s", e.Program, e.ExitCode, e.Output)
}

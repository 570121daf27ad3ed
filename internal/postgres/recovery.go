package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// recoverySignal asks for recovery without standby mode: what RecoverCrash
// has in the place of the standby's own signal while it works.
const recoverySignal = "recovery.signal"

// RecoverCrash brings a stopped server that was not ended in an orderly way to
// a state that pg_rewind accepts. Nobody can connect meanwhile. Nothing happens
// to a server that needs no recovery. It ends by itself, however long the
// replay takes: ErrShortOfWAL when the directory does not hold what it must
// replay before it is consistent.
func (i *Instance) RecoverCrash(ctx context.Context) error {
	control, err := i.ControlData(ctx)
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	if !recoveryPending(control) {
		return nil
	}
	if err := i.EndOrphans(ctx); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	if err := i.removeStaleFiles(); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	i.log.InfoContext(ctx, "recovering a server that was not stopped in an orderly way", "state", control.State)
	if !i.crashRecovery(control) {
		return i.recoverArchive(ctx, control)
	}
	standby := i.IsStandby()
	if err := errors.Join(removeFile(i.path(signalFile)), removeFile(i.path(recoverySignal))); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	// A single-user server replays its WAL, reads the end of its input, and writes a shutdown checkpoint.
	args := []string{"--single", "-D", i.cfg.DataDir, "-c", "archive_mode=off", "-c", "synchronous_standby_names=", "template1"}
	err = i.run(ctx, runConfig{program: "postgres", args: args})
	if standby {
		err = errors.Join(err, writeFile(i.path(signalFile), nil, 0o600))
	}
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	return nil
}

// recoveryPending: how far the WAL reaches is not known before it is replayed.
// That is also so where crash recovery of a former primary was stopped in an
// orderly way: the control file then names no point that must be reached.
func recoveryPending(control pg.ControlData) bool {
	return control.NeedsRecovery() || !control.CleanShutdown() && control.MinRecovery == 0
}

// crashRecovery reports whether the directory is a former primary's, which is
// consistent where its own WAL ends, and not a standby's or a copy's, which
// must reach a point that its control file or its label names.
func (i *Instance) crashRecovery(control pg.ControlData) bool {
	if _, err := os.Stat(i.path("backup_label")); err == nil {
		return false
	}
	return !i.IsStandby() || control.RanAsPrimary() || control.MinRecovery == 0
}

// recoverArchive replays what a standby holds, on the line that it is on and
// without an upstream, until it is consistent. Standby mode would wait for
// more WAL for ever; this ends where the WAL ends. A run that fails may have
// come further than the one before, and is followed by another one.
func (i *Instance) recoverArchive(ctx context.Context, control pg.ControlData) error {
	// One of the two is always there: without any, a start would open the server.
	if err := writeFile(i.path(recoverySignal), nil, 0o600); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	if err := removeFile(i.path(signalFile)); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	err := i.replay(ctx, control)
	if err = errors.Join(err, i.standbyAgain()); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	return nil
}

// standbyAgain gives a standby its signal back that an interrupted recovery took.
func (i *Instance) standbyAgain() error {
	if _, err := os.Stat(i.path(recoverySignal)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := writeFile(i.path(signalFile), nil, 0o600); err != nil {
		return err
	}
	return removeFile(i.path(recoverySignal))
}

func (i *Instance) replay(ctx context.Context, before pg.ControlData) error {
	for {
		target := fmt.Sprintf("recovery_target_timeline=%d", max(before.TLI, before.MinRecoveryTLI))
		ended := i.replayOnce(ctx, target)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		after, err := i.ControlData(ctx)
		if err != nil {
			return err
		}
		if !recoveryPending(after) {
			return nil // however the run ended, what it came to is in the control file
		}
		if after == before {
			// It came no further, or it was consistent from the start and had no record to say so at.
			if err := i.consistentAlone(ctx, target); err != nil {
				return fmt.Errorf("%w: %w: %w", ErrShortOfWAL, err, ended)
			}
			return nil
		}
		before = after
	}
}

// privateOptions let a server recover where nobody else can connect. It must
// listen somewhere: it does in a directory that only we can enter.
func privateOptions(dir, target string, more ...string) []string {
	options := append(noTarget(), "listen_addresses=", "unix_socket_directories="+dir, "archive_mode=off", "primary_conninfo=", target)
	var args []string
	for _, o := range append(options, more...) {
		args = append(args, "-c", o)
	}
	return args
}

// replayOnce runs a server that ends when it is consistent, or when it cannot be.
func (i *Instance) replayOnce(ctx context.Context, target string) error {
	dir, err := os.MkdirTemp("", "pgdrover-recovery-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	p, err := i.launch(ctx, StartConfig{Options: privateOptions(dir, target,
		"hot_standby=off", "restore_command=false", "recovery_target=immediate", "recovery_target_action=shutdown")})
	if err != nil {
		return err
	}
	defer p.Release()
	select {
	case <-p.Exited():
		return p.exitError(ctx)
	case <-ctx.Done():
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), killDelay)
		defer cancel()
		return errors.Join(context.Cause(ctx), p.Stop(stop, StopImmediate))
	}
}

// aloneStall is how long a standby that recovers alone may show no progress.
const aloneStall = 5 * time.Second

// consistentAlone runs a standby without upstream until it would let clients
// in, and stops it then; not for ever when it never comes so far.
func (i *Instance) consistentAlone(ctx context.Context, target string) error {
	if err := i.standbyAgain(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "pgdrover-recovery-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	p, err := i.launch(ctx, StartConfig{Options: privateOptions(dir, target, "hot_standby=on")})
	if err != nil {
		return err
	}
	defer p.Release()
	if err := p.waitState(ctx, "ready", aloneStall); err != nil {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), killDelay)
		defer cancel()
		return errors.Join(err, p.Stop(stop, StopImmediate))
	}
	return p.Stop(ctx, StopFast)
}

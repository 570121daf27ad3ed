package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// rewindMark is there while pg_rewind works on the directory of that name: what an
// interrupted one leaves may be replaced, never started.
const rewindMark = ".rewind"

// RewindConfig is one rewind.
type RewindConfig struct {
	// Source is the server whose line is to be joined: CopyFrom's string.
	Source pg.ConnInfo
	// Standby is the upstream of the standby that results.
	Standby Upstream
}

// Rewind makes a stopped server, whatever it was, a standby on the line of
// another one: nothing but the configuration when it holds nothing foreign,
// pg_rewind otherwise, after crash recovery when it was not stopped in an orderly way.
// ErrCannotRewind: only a base backup can. ErrForeignSystem: not even that may.
func (i *Instance) Rewind(ctx context.Context, cfg RewindConfig) error {
	if strings.HasPrefix(cfg.Source.Get("application_name"), pg.StandbyPrefix) {
		return errors.New("rewind: refusing to work under a standby's application name, it would acknowledge commits")
	}
	if err := i.requireStopped(); err != nil {
		return fmt.Errorf("rewind: %w", err)
	}
	if i.RewindInterrupted() {
		return fmt.Errorf("rewind: %w: an earlier rewind was interrupted", ErrCannotRewind)
	}
	source, err := Identify(ctx, cfg.Source)
	if err != nil {
		return fmt.Errorf("rewind: %w", err)
	}
	if err := i.RecoverCrash(ctx); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("rewind: %w", err)
		}
		return fmt.Errorf("rewind: %w: %w", ErrCannotRewind, err)
	}
	lineage, err := i.Compare(ctx, source)
	if err != nil {
		return fmt.Errorf("rewind: %w: %w", ErrCannotRewind, err)
	}
	if lineage != LineageForeign && lineage != LineageAmbiguous {
		local, err := i.History(ctx)
		if err != nil {
			return fmt.Errorf("rewind: %w: %w", ErrCannotRewind, err)
		}
		same, err := i.SameLine(ctx, cfg.Source, local, source.History)
		if err != nil {
			return fmt.Errorf("rewind: %w", err)
		}
		if !same {
			lineage = LineageAmbiguous
		}
	}
	i.log.InfoContext(ctx, "compared with the upstream", "lineage", lineage.String(), "upstream_tli", source.TLI, "upstream_lsn", source.LSN.String())
	switch lineage {
	case LineageForeign:
		return fmt.Errorf("rewind: %w: %s", ErrForeignSystem, source.SystemID)
	case LineageAmbiguous, LineageAhead:
		// pg_rewind would find both on one timeline and nothing to do.
		return fmt.Errorf("rewind: %w: its line is %s", ErrCannotRewind, lineage)
	case LineageFollows:
	case LineageDiverged:
		if err := i.rewindTo(ctx, cfg, source); err != nil {
			return err
		}
	}
	if err := i.WriteStandby(ctx, cfg.Standby); err != nil {
		return fmt.Errorf("rewind: %w", err)
	}
	return removeFile(i.rewindMark())
}

// RewindInterrupted reports whether the directory is the remains of a rewind
// that did not end: only a base backup makes it usable.
func (i *Instance) RewindInterrupted() bool {
	_, err := os.Stat(i.rewindMark())
	return err == nil
}

// RequireCopy marks a directory that must not be trusted any more, although
// it looks like a server: only a base backup makes it usable again.
func (i *Instance) RequireCopy() error {
	if err := writeFile(i.rewindMark(), nil, 0o600); err != nil {
		return fmt.Errorf("require a copy: %w", err)
	}
	return nil
}

func (i *Instance) rewindMark() string { return filepath.Clean(i.cfg.DataDir) + rewindMark }

func (i *Instance) rewindTo(ctx context.Context, cfg RewindConfig, source SystemInfo) error {
	if err := sourceCheckpointed(ctx, cfg.Source, source.TLI); err != nil {
		return fmt.Errorf("rewind: %w", err)
	}
	own, err := i.readOwnFiles()
	if err != nil {
		return fmt.Errorf("rewind: %w", err)
	}
	if err := writeFile(i.rewindMark(), nil, 0o600); err != nil {
		return fmt.Errorf("rewind: %w", err)
	}
	err = i.run(ctx, runConfig{
		program: "pg_rewind",
		args: []string{
			"--target-pgdata", i.cfg.DataDir, "--source-server", toolSource(cfg.Source),
			"--no-ensure-shutdown",
		},
		env: passwordEnv(cfg.Source),
	})
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("rewind: %w", err)
		}
		return fmt.Errorf("rewind: %w: %w", ErrCannotRewind, err)
	}
	// The configuration files are the source's now.
	for name, data := range own {
		if err := writeFile(i.path(name), data, 0o600); err != nil {
			return fmt.Errorf("rewind: keep %s: %w", name, err)
		}
	}
	if err := i.forgetSource(cfg.Standby); err != nil {
		return fmt.Errorf("rewind: %w", err)
	}
	return nil
}

func (i *Instance) readOwnFiles() (map[string][]byte, error) {
	own := make(map[string][]byte)
	for _, name := range ownFiles() {
		data, err := os.ReadFile(i.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("keep %s: %w", name, err)
		}
		own[name] = data
	}
	return own, nil
}

// RecoverCrash brings a stopped server that was not ended in an orderly way to
// a state that pg_rewind accepts. Nobody can connect meanwhile. Nothing happens
// to a server that needs no recovery.
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
	if i.IsStandby() {
		return i.recoverStandby(ctx)
	}
	// A single-user server replays its WAL, reads the end of its input, and writes a shutdown checkpoint.
	args := []string{"--single", "-D", i.cfg.DataDir, "-c", "archive_mode=off", "-c", "synchronous_standby_names=", "template1"}
	if err := i.run(ctx, runConfig{program: "postgres", args: args}); err != nil {
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

// recoverStandby runs a standby without upstream until it is consistent. A
// server must listen somewhere: it does in a directory that only we can enter.
func (i *Instance) recoverStandby(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "pgdrover-recovery-")
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	p, err := i.Start(ctx, StartConfig{Options: []string{
		"-c", "listen_addresses=", "-c", "unix_socket_directories=" + dir, "-c", "primary_conninfo=", "-c", "hot_standby=on",
	}})
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	defer p.Release()
	if err := p.waitState(ctx, "ready"); err != nil {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), killDelay)
		defer cancel()
		return errors.Join(fmt.Errorf("recover: %w", err), p.Stop(stop, StopImmediate))
	}
	if err := p.Stop(ctx, StopFast); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	return nil
}

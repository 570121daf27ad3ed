package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// rewindMark is there while pg_rewind works on the directory of that name, and
// while its tablespaces are a base backup's already: what an interrupted one leaves
// may be replaced, never started. It holds the node's own
// configuration, of which the directory may have another node's by then.
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
//
// proved tells whether all of the directory is known to be on that line. It is
// not where WAL may wait behind what the control file knows of. Then the result has no
// upstream under a standby's name: its position has to be compared once it has
// replayed all, before it may acknowledge anything.
func (i *Instance) Rewind(ctx context.Context, cfg RewindConfig) (proved bool, err error) {
	if strings.HasPrefix(cfg.Source.Get("application_name"), pg.StandbyPrefix) {
		return false, errors.New("rewind: refusing to work under a standby's application name, it would acknowledge commits")
	}
	if err := i.requireStopped(); err != nil {
		return false, fmt.Errorf("rewind: %w", err)
	}
	if i.RewindInterrupted() {
		return false, fmt.Errorf("rewind: %w: an earlier rewind was interrupted", ErrCannotRewind)
	}
	source, err := Identify(ctx, cfg.Source)
	if err != nil {
		return false, fmt.Errorf("rewind: %w", err)
	}
	short := i.RecoverCrash(ctx)
	if ctx.Err() != nil {
		return false, fmt.Errorf("rewind: %w", short)
	}
	if short != nil && !errors.Is(short, ErrShortOfWAL) {
		return false, fmt.Errorf("rewind: %w: %w", ErrCannotRewind, short)
	}
	lineage, err := i.lineage(ctx, cfg.Source, source)
	if err != nil {
		return false, err
	}
	i.log.InfoContext(ctx, "compared with the upstream", "lineage", lineage.String(), "upstream_tli", source.TLI, "upstream_lsn", source.LSN.String())
	up := cfg.Standby
	switch lineage {
	case LineageForeign:
		return false, fmt.Errorf("rewind: %w: %s", ErrForeignSystem, source.SystemID)
	case LineageAmbiguous, LineageAhead:
		// pg_rewind would find both on one timeline and nothing to do.
		return false, fmt.Errorf("rewind: %w: its line is %s", ErrCannotRewind, lineage)
	case LineageFollows:
		control, err := i.ControlData(ctx)
		if err != nil {
			return false, fmt.Errorf("rewind: %w", err)
		}
		proved = control.CleanShutdown()
		switch {
		case short != nil:
			// What it lacks is on the upstream's line: it has to come from there.
			up = Upstream{ConnInfo: cfg.Source, Slot: cfg.Standby.Slot}
		case !proved:
			up = Upstream{}
		}
	case LineageDiverged:
		if short != nil {
			return false, fmt.Errorf("rewind: %w: %w", ErrCannotRewind, short)
		}
		if err := i.rewindTo(ctx, cfg, source); err != nil {
			return false, err
		}
		proved = true
	}
	if err := i.WriteStandby(ctx, up); err != nil {
		return false, fmt.Errorf("rewind: %w", err)
	}
	return proved, removeFile(i.rewindMark())
}

// lineage relates the stopped server to the source, the bytes of their last
// shared timeline included.
func (i *Instance) lineage(ctx context.Context, conn pg.ConnInfo, source SystemInfo) (Lineage, error) {
	lineage, err := i.Compare(ctx, source)
	if err != nil {
		return LineageForeign, fmt.Errorf("rewind: %w: %w", ErrCannotRewind, err)
	}
	if lineage == LineageForeign || lineage == LineageAmbiguous {
		return lineage, nil
	}
	local, err := i.History(ctx)
	if err != nil {
		return LineageForeign, fmt.Errorf("rewind: %w: %w", ErrCannotRewind, err)
	}
	same, err := i.SameLine(ctx, conn, local, source.History)
	if err != nil {
		return LineageForeign, fmt.Errorf("rewind: %w", err)
	}
	if !same {
		lineage = LineageAmbiguous
	}
	return lineage, nil
}

// RewindInterrupted reports whether the directory is the remains of a rewind, or
// of a base backup onto tablespaces, that did not end: only a base backup makes it usable.
func (i *Instance) RewindInterrupted() bool {
	_, err := os.Stat(i.rewindMark())
	return err == nil
}

// RequireCopy marks a directory that must not be trusted any more, although
// it looks like a server: only a base backup makes it usable again.
func (i *Instance) RequireCopy() error {
	if i.RewindInterrupted() {
		return nil // the mark holds what the copy is to keep
	}
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
	if err := own.putAside(i); err != nil {
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
	if err := own.restore(i); err != nil {
		return fmt.Errorf("rewind: %w", err)
	}
	if err := i.forgetSource(cfg.Standby); err != nil {
		return fmt.Errorf("rewind: %w", err)
	}
	if err := i.raiseLimits(ctx); err != nil {
		return fmt.Errorf("rewind: %w", err)
	}
	return nil
}

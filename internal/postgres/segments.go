package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// segmentSize is the size of a WAL segment, which a file shows, and otherwise the
// control file.
func (i *Instance) segmentSize(ctx context.Context) (int64, error) {
	const least = 1 << 20
	if dir, err := os.Open(i.path("pg_wal")); err == nil {
		names, _ := dir.Readdirnames(16)
		_ = dir.Close()
		for _, name := range names {
			info, err := os.Stat(i.path("pg_wal", name))
			if len(name) == segmentName && err == nil && info.Size() >= least && info.Size()&(info.Size()-1) == 0 {
				return info.Size(), nil
			}
		}
	}
	control, err := i.ControlData(ctx)
	return control.WalSegmentSize, err
}

// segmentName is the length of the name of a segment.
const segmentName = 24

// newestLine returns the line that a standby follows when it starts: the server
// counts upward from the timeline of its control file as long as it finds
// history files. Those of timelines that nobody began are gone before it starts,
// unless there is one in use above them.
func (i *Instance) newestLine(control pg.ControlData) (pg.History, error) {
	tli := max(control.TLI, control.MinRecoveryTLI)
	newest := tli
	for {
		tli++
		path := i.path("pg_wal", tli.HistoryFile())
		if _, err := os.Stat(path); err != nil {
			return i.HistoryOf(newest)
		}
		if !unused(path) {
			newest = tli
		}
	}
}

// startable reports whether the line that a standby would follow by itself
// passes over what its control file says; otherwise it refuses to start.
func (i *Instance) startable(control pg.ControlData) (bool, error) {
	line, err := i.newestLine(control)
	if err != nil {
		return false, err
	}
	// The checkpoint's record begins at its location.
	return line.Contains(control.TLI, control.Checkpoint+1) &&
		(control.MinRecovery == 0 || line.Contains(control.MinRecoveryTLI, control.MinRecovery)), nil
}

// setAsideHalf takes a half streamed first segment of a new timeline out of a
// stopped standby's way. A receiver that changes to a new timeline fetches the
// segment in which that begins from its start. A server that was stopped
// in between would read the older WAL from this file, find its end before the
// new timeline begins, and end with "WAL location … belongs to timeline …, but
// previous recovered WAL file came from timeline …" at every start. All that
// the file holds is in the older timeline's file as well, as WAL arrives in order.
func (i *Instance) setAsideHalf(ctx context.Context) error {
	if !i.IsStandby() {
		return nil
	}
	control, err := i.ControlData(ctx)
	if err != nil {
		return err
	}
	line, err := i.newestLine(control)
	if err != nil {
		i.log.WarnContext(ctx, "starting a standby whose timelines are not known", "error", err)
		return nil
	}
	for n := len(line) - 1; n > 0 && line[n].Switch > control.Redo; n-- {
		name := fmt.Sprintf("%08X%s", uint32(line[n].TLI), segmentSuffix(line[n].Switch, control.WalSegmentSize))
		if _, err := os.Stat(i.path("pg_wal", name)); err != nil {
			continue
		}
		whole, err := i.reachesSwitch(ctx, line[n], control.WalSegmentSize)
		if err != nil || whole {
			return err
		}
		i.log.WarnContext(ctx, "setting a half streamed WAL segment aside", "segment", name, "tli", uint32(line[n].TLI), "lsn", line[n].Switch.String())
		// The server removes files of this name in its own time.
		if err := os.Rename(i.path("pg_wal", name), i.path("pg_wal", name+".partial")); err != nil {
			return err
		}
		if err := syncDir(i.path("pg_wal")); err != nil {
			return err
		}
	}
	return nil
}

// reachesSwitch reports whether the segment in which a timeline begins can be
// read up to there.
func (i *Instance) reachesSwitch(ctx context.Context, e pg.HistoryEntry, size int64) (bool, error) {
	offset := segmentOffset(e.Switch, size)
	if offset == 0 {
		return true, nil
	}
	start := e.Switch - pg.LSN(offset) //nolint:gosec // positive
	err := i.run(ctx, runConfig{program: "pg_waldump", args: []string{
		"--path", i.path("pg_wal"), "--timeline", fmt.Sprint(uint32(e.TLI)),
		"--start", start.String(), "--end", e.Switch.String(), "--stats",
	}})
	if errors.As(err, new(*ProgramError)) {
		return false, nil
	}
	return err == nil, err
}

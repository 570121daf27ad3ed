package postgres

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// unusedText is the history file of a timeline that no server has ever begun.
// PostgreSQL takes a number for used when there is such a file, and reads a line
// that begins with # as a comment. The file names no parent on purpose: a running
// standby that comes upon it finds that it is no child of its own timeline
// and stays where it is.
const unusedText = "# No server ever began this timeline. pgdrover left its number out, for one that another\n" +
	"# node of the group may have used.\n"

// SkipTimelines makes the next promotion of a standby on timeline current begin
// timeline next, where PostgreSQL would take a lower number by itself: the ones
// between get history files. They stay for good on a server that is promoted, as
// receivers want every history file between their timeline and their upstream's.
// It says how many it wrote.
func (i *Instance) SkipTimelines(ctx context.Context, current, next pg.Timeline) (wrote int, err error) {
	// From the top: the server counts upward, and sees none of them before it sees
	// the last. Somebody's true file in between, which may well name its own line
	// as the parent, is thus never the newest.
	for tli := next - 1; tli > current && next > 0; tli-- {
		path := i.path("pg_wal", tli.HistoryFile())
		if _, err := os.Stat(path); err == nil {
			continue
		}
		err := i.With(ctx, func(s *Session) error { return i.skipTimeline(ctx, s, tli, path) })
		if err != nil {
			return wrote, fmt.Errorf("leave out timeline %d: %w", tli, err)
		}
		wrote++
	}
	return wrote, nil
}

// skipTimeline writes one file. An archive needs it as well, or whoever restores
// from there would stop counting at the gap; but never over a file that
// somebody who did use the number has put there. [LeftOut] sees to an archive
// that refuses it.
func (i *Instance) skipTimeline(ctx context.Context, s *Session, tli pg.Timeline, path string) error {
	var mode, restore string
	if err := s.conn.QueryRow(ctx, `SELECT current_setting('archive_mode'), current_setting('restore_command')`).Scan(&mode, &restore); err != nil {
		return fmt.Errorf("ask for the archive: %w", err)
	}
	if err := writeFile(path, []byte(unusedText), 0o600); err != nil {
		return err
	}
	if mode == "off" || restore != "" && i.archived(ctx, restore, tli.HistoryFile()) {
		return nil
	}
	return touch(i.archiveStatus(tli.HistoryFile(), ".ready"))
}

// restorePatience is how long a restore_command may take for a file of some bytes.
const restorePatience = 5 * time.Second

// archived reports whether the archive has a file of this name.
func (i *Instance) archived(ctx context.Context, command, name string) bool {
	target := i.path("pg_wal", ".restored."+name)
	defer func() { _ = os.Remove(target) }()
	ctx, cancel := context.WithTimeout(ctx, restorePatience)
	defer cancel()
	line := strings.NewReplacer("%f", name, "%p", target, "%r", name, "%%", "%").Replace(command)
	cmd := exec.CommandContext(ctx, "sh", "-c", line) //nolint:gosec // the operator's own command, as the server runs it
	cmd.Dir = i.cfg.DataDir
	return cmd.Run() == nil
}

// DropSkipped removes the files that SkipTimelines left for a promotion that
// did not come: those with no timeline in use above them. A standby that is
// started would take the last of them for the line to follow, and refuse. A
// running one only says each time it looks that they are no children of its timeline.
func (i *Instance) DropSkipped() error {
	files, err := filepath.Glob(i.path("pg_wal", "*.history"))
	if err != nil {
		return err
	}
	slices.Sort(files)
	for n, path := range slices.Backward(files) {
		follows := n+1 < len(files) && files[n+1] != ""
		if follows && consecutive(path, files[n+1]) || !unused(path) {
			continue
		}
		if err := removeFile(path); err != nil {
			return err
		}
		files[n] = ""
	}
	return nil
}

// consecutive: b is the history file of the timeline after a's.
func consecutive(a, b string) bool {
	tli, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(a), ".history"), 16, 32)
	return err == nil && (pg.Timeline(tli)+1).HistoryFile() == filepath.Base(b)
}

// unused reports whether this is a file of SkipTimelines.
func unused(path string) bool {
	text, err := os.ReadFile(path) //nolint:gosec // files of our instance
	return err == nil && string(text) == unusedText
}

// LeftOut watches over the files of SkipTimelines in a primary's archive. The
// archive may hold the true file of such a number, and a command that takes no
// other text under a known name then fails for ever: history files go first, and
// no WAL would be archived any more. The zero value is ready for use, by one
// goroutine at a time.
type LeftOut struct {
	// aside holds the files that were set aside, by name.
	aside map[string]*setAside
}

type setAside struct {
	archived int64 // files that had been archived by then
	again    bool  // it was offered once more since, to an archive that took others
}

// Tend sets a file aside that fails while others wait, and offers it once more
// when the archive has taken others: only then it was this file that was
// refused, and not the archive that was away. It returns the files that are
// given up in this call.
func (l *LeftOut) Tend(ctx context.Context, i *Instance, s *Session) (refused []string, err error) {
	ready, err := filepath.Glob(i.path("pg_wal", "archive_status", "*.ready"))
	if err != nil || len(ready) == 0 && len(l.aside) == 0 {
		return nil, err
	}
	var archived int64
	var failing string
	if err := s.conn.QueryRow(ctx, `SELECT archived_count,
		CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity') THEN last_failed_wal ELSE '' END
		FROM pg_stat_archiver`).Scan(&archived, &failing); err != nil {
		return nil, fmt.Errorf("ask for the archiver: %w", err)
	}
	for name, a := range l.aside {
		if archived <= a.archived || a.again {
			continue
		}
		a.again = true
		if err := rename(i.archiveStatus(name, ".done"), i.archiveStatus(name, ".ready")); err != nil {
			return refused, err
		}
	}
	if failing == "" || len(ready) < 2 || !slices.Contains(ready, i.archiveStatus(failing, ".ready")) ||
		!strings.HasSuffix(failing, ".history") || !unused(i.path("pg_wal", failing)) {
		return refused, nil
	}
	a := l.aside[failing]
	if a == nil {
		if l.aside == nil {
			l.aside = map[string]*setAside{}
		}
		l.aside[failing] = &setAside{archived: archived}
	} else {
		a.archived = archived
		refused = append(refused, failing)
	}
	return refused, rename(i.archiveStatus(failing, ".ready"), i.archiveStatus(failing, ".done"))
}

func (i *Instance) archiveStatus(name, state string) string {
	return i.path("pg_wal", "archive_status", name+state)
}

// rename moves a file that may have gone meanwhile.
func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("set %s aside: %w", filepath.Base(from), err)
	}
	return nil
}

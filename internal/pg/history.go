package pg

import (
	"fmt"
	"strings"
)

// HistoryEntry is one timeline of a server's line.
type HistoryEntry struct {
	TLI Timeline `json:"tli"`
	// Parent is the timeline that TLI branched off, 0 for the first.
	Parent Timeline `json:"parenttli"`
	// Switch is where TLI begins on Parent, 0/0 for the first.
	Switch LSN `json:"switchpoint"`
}

// History is the line of timelines that led to a server, oldest first; the
// last entry is the server's own timeline.
type History []HistoryEntry

// ParseHistory reads the history file of timeline tli. The first timeline has
// no file: its text is empty.
func ParseHistory(tli Timeline, text string) (History, error) {
	if tli == 0 {
		return nil, fmt.Errorf("parse history of timeline 0: %w", ErrSyntax)
	}
	var history History
	var parent Timeline
	var begins LSN
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			return nil, fmt.Errorf("parse history of timeline %d, line %q: %w", tli, line, ErrSyntax)
		}
		t, err := ParseTimeline(fields[0])
		if err != nil {
			return nil, fmt.Errorf("parse history of timeline %d: %w", tli, err)
		}
		end, err := ParseLSN(fields[1])
		if err != nil {
			return nil, fmt.Errorf("parse history of timeline %d: %w", tli, err)
		}
		if t <= parent || t >= tli || end < begins {
			return nil, fmt.Errorf("parse history of timeline %d, line %q is out of order: %w", tli, line, ErrSyntax)
		}
		history = append(history, HistoryEntry{TLI: t, Parent: parent, Switch: begins})
		parent, begins = t, end
	}
	return append(history, HistoryEntry{TLI: tli, Parent: parent, Switch: begins}), nil
}

// TLI returns the last timeline of the line, 0 when there is none.
func (h History) TLI() Timeline {
	if len(h) == 0 {
		return 0
	}
	return h[len(h)-1].TLI
}

// SwitchFrom returns where the line left timeline tli; ok is false when tli is
// its last or not in it.
func (h History) SwitchFrom(tli Timeline) (at LSN, ok bool) {
	for i := 1; i < len(h); i++ {
		if h[i-1].TLI == tli {
			return h[i].Switch, true
		}
	}
	return 0, false
}

// Has reports whether the line passes over timeline tli.
func (h History) Has(tli Timeline) bool {
	for _, e := range h {
		if e.TLI == tli {
			return true
		}
	}
	return false
}

// Contains reports whether a server that holds WAL of timeline tli up to lsn
// holds nothing that is foreign to this line.
func (h History) Contains(tli Timeline, lsn LSN) bool {
	if !h.Has(tli) {
		return false
	}
	at, left := h.SwitchFrom(tli)
	return !left || lsn <= at
}

// Fork returns the last position that both lines share: the timeline and the
// location up to which they are the same. When one line is the beginning of
// the other, that is the end of the shorter one's last common timeline, and
// at is where the longer one left it (or open is true when neither left it).
func (h History) Fork(other History) (tli Timeline, at LSN, open bool) {
	for i := range min(len(h), len(other)) {
		if h[i] != other[i] {
			break
		}
		tli = h[i].TLI
	}
	if tli == 0 {
		return 0, 0, false
	}
	mine, leftMine := h.SwitchFrom(tli)
	theirs, leftTheirs := other.SwitchFrom(tli)
	switch {
	case leftMine && leftTheirs:
		return tli, min(mine, theirs), false
	case leftMine:
		return tli, mine, false
	case leftTheirs:
		return tli, theirs, false
	default:
		return tli, 0, true
	}
}

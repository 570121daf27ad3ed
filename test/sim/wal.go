package sim

import "github.com/pgdrover/pgdrover/internal/pg"

// The sizes that matter for positions: a record, a segment, and a burst that
// is larger than the thresholds which decisions compare lag with.
const (
	firstLSN   pg.LSN = 0x3000000
	recordSize pg.LSN = 0x100
	burstSize  pg.LSN = 20 << 20
	segment    pg.LSN = 16 << 20
)

// branch is one line of WAL that exactly one server wrote. Two branches may
// carry the same timeline number: only the model can tell them apart.
type branch struct {
	id     int
	tli    pg.Timeline
	parent *branch
	start  pg.LSN // where it leaves parent
	end    pg.LSN // last position ever written
	// promised and lone are the last positions acknowledged to a client under
	// a list of standbys, and without one.
	promised, lone pg.LSN
	// opened says that ordinary clients could write to this branch once.
	opened bool
	// given and loose are what was known when another branch opened: an operator
	// gave this one up; its group was asynchronous by choice.
	given, loose bool
	line         pg.History
}

// position is an end of WAL: everything on the way from the root to branch b
// up to at. It is normalised: at lies beyond the start of b, unless b is a root.
type position struct {
	b  *branch
	at pg.LSN
}

// place returns the position of at on the line that leads to b.
func place(b *branch, at pg.LSN) position {
	for b.parent != nil && at <= b.start {
		b = b.parent
	}
	return position{b, at}
}

// holds reports whether a server that ends at p has everything up to q.
func (p position) holds(q position) bool {
	limit := p.at
	for b := p.b; b != nil; b = b.parent {
		if b == q.b {
			return q.at <= limit
		}
		limit = min(limit, b.start)
	}
	return false
}

// line reports up to where the line that ends at p runs over branch b; ok is
// false when it does not.
func (p position) line(b *branch) (pg.LSN, bool) {
	limit := p.at
	for x := p.b; x != nil; x = x.parent {
		if x == b {
			return limit, true
		}
		limit = min(limit, x.start)
	}
	return 0, false
}

// fork returns the last position that the lines of p and q share.
func fork(p, q position) position {
	for b := p.b; b != nil; b = b.parent {
		mine, _ := p.line(b)
		if theirs, ok := q.line(b); ok {
			return place(b, min(mine, theirs))
		}
	}
	return position{}
}

// root returns the first branch of a line: its system identifier, in effect.
func (p position) root() *branch {
	b := p.b
	for b != nil && b.parent != nil {
		b = b.parent
	}
	return b
}

// history is what pg_wal's history files say of the line that leads to b.
func (b *branch) history() pg.History {
	if b.line == nil {
		entry := pg.HistoryEntry{TLI: b.tli}
		if b.parent != nil {
			entry.Parent, entry.Switch = b.parent.tli, b.start
			b.line = append(b.line, b.parent.history()...)
		}
		b.line = append(b.line, entry)
	}
	return b.line
}

// newBranch begins a line of WAL at the end of from, nil for a new cluster.
func (w *World) newBranch(from position, tli pg.Timeline) *branch {
	b := &branch{id: len(w.branches) + 1, tli: tli, end: firstLSN}
	if from.b != nil {
		b.parent, b.start, b.end = from.b, from.at, from.at
		for _, other := range w.branches {
			if other.tli == tli && (position{other, other.end}).root() == from.root() {
				w.fail("I21", "branches %d and %d are both timeline %d", other.id, b.id, tli)
			}
		}
	}
	w.branches = append(w.branches, b)
	return b
}

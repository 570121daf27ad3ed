package fsm

import (
	"cmp"
	"slices"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// position is a node's WAL on the reference lineage: how far it agrees with
// it, and whether it went another way after that point.
type position struct {
	lsn pg.LSN
	// forked: not to be elected; told says that a history proves it.
	forked, told bool
}

// where projects (tli, lsn) of n on the reference timeline. Positions of
// different lineages are never compared by their numbers: a node that was
// promoted without ever opening counts up to the point where it left.
func (t *turn) where(n *Node, tli pg.Timeline, lsn pg.LSN) position {
	ref := t.reference()
	switch {
	case n != nil && t.stray(n.ID):
		return position{forked: true, told: true}
	case ref == 0 || tli == 0 || tli == ref:
		return position{lsn: lsn}
	case tli > ref && n == nil:
		return position{}
	case tli > ref:
		if left, ok := n.History.SwitchFrom(ref); ok {
			return position{lsn: min(left, lsn)}
		}
		return position{lsn: lsn}
	}
	left, ok := t.referenceHistory().SwitchFrom(tli)
	if !ok || lsn > left {
		// Past the point where the reference left tli, or nobody told where that
		// is: then an old primary's unacknowledged tail cannot be told from lag.
		return position{lsn: left, forked: true, told: ok}
	}
	return position{lsn: lsn}
}

// reference is the timeline that positions are measured on: the one that the
// last open primary reported, or the higher one of a voter. Who is no stray can
// have a higher one only from the node that was last ordered to open.
func (t *turn) reference() pg.Timeline {
	ref := t.rec.Timeline
	if e := t.rec.Election; e != nil && ref != 0 {
		for _, v := range e.Votes {
			if !t.stray(v.Node) {
				ref = max(ref, v.TLI)
			}
		}
	}
	return ref
}

// stray: id may have a timeline of its own. Not so the node that was last
// ordered to open: its timeline is the group's.
func (t *turn) stray(id int64) bool {
	return id != t.rec.Primary && slices.Contains(t.rec.Strays, id)
}

// strays notes that n is replaced although it may have promoted.
func (t *turn) strays(n *Node) {
	if n != nil && !slices.Contains(t.rec.Strays, n.ID) {
		t.rec.Strays = append(t.rec.Strays, n.ID)
		slices.Sort(t.rec.Strays)
	}
}

// referenceHistory is the history of the reference timeline as some node told it.
func (t *turn) referenceHistory() pg.History {
	ref := t.reference()
	for i := range t.g.Nodes {
		if t.stray(t.g.Nodes[i].ID) {
			continue
		}
		h := t.g.Nodes[i].History
		if len(h) > 0 && h[len(h)-1].TLI >= ref {
			for _, entry := range h {
				if entry.TLI == ref {
					return h
				}
			}
		}
	}
	return nil
}

// position is where n's last report puts it, or its vote when it has voted.
func (t *turn) position(n *Node) position {
	if e := t.rec.Election; e != nil {
		for _, v := range e.Votes {
			if v.Node == n.ID {
				return t.where(n, v.TLI, v.LSN)
			}
		}
	}
	return t.where(n, n.TLI, n.LSN)
}

// beyond: n has received past the record with which the old primary's clean stop ended its WAL.
func (t *turn) beyond(n *Node) bool {
	return t.rec.Fenced && t.rec.FinalLSN != 0 && !t.stray(n.ID) && n.TLI == t.rec.FinalTLI && n.LSN > t.rec.FinalLSN
}

func (a position) compare(b position) int { return cmp.Compare(a.lsn, b.lsn) }

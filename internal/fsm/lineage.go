package fsm

import (
	"cmp"

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
	ref := t.rec.Timeline
	switch {
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

// referenceHistory is the history of the reference timeline as some node told it.
func (t *turn) referenceHistory() pg.History {
	for i := range t.g.Nodes {
		h := t.g.Nodes[i].History
		if len(h) > 0 && h[len(h)-1].TLI >= t.rec.Timeline {
			for _, entry := range h {
				if entry.TLI == t.rec.Timeline {
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
	return t.rec.Fenced && t.rec.FinalLSN != 0 && n.TLI == t.rec.FinalTLI && n.LSN > t.rec.FinalLSN
}

func (a position) compare(b position) int { return cmp.Compare(a.lsn, b.lsn) }

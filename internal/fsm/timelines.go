package fsm

import (
	"slices"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Grant is the number of the timeline that a node is to begin when it promotes.
// Nobody else is ever given it, so that no two lines of WAL have one number:
// PostgreSQL tells lines apart by nothing else.
type Grant struct {
	Node int64       `json:"node"`
	TLI  pg.Timeline `json:"tli"`
}

// Granted is the number that n was given with its latest order to promote, 0 for none.
func (r Record) Granted(n int64) pg.Timeline {
	for _, g := range r.Grants {
		if g.Node == n {
			return g.TLI
		}
	}
	return 0
}

// countTimelines takes the numbers in use out of the reports, also that of a
// node that promoted without its order, and forgets grants that have done their work.
func (t *turn) countTimelines() {
	for i := range t.g.Nodes {
		n := &t.g.Nodes[i]
		t.rec.Timelines = max(t.rec.Timelines, n.TLI, n.History.TLI())
	}
	t.rec.Grants = slices.DeleteFunc(t.rec.Grants, func(g Grant) bool {
		n := t.node(g.Node)
		return n == nil || n.Settled() && !n.Goal.In(FastForward, PreparePromotion, StopReplication)
	})
	if len(t.rec.Grants) == 0 {
		t.rec.Grants = nil
	}
}

// grant gives n the next number. The goals on its way to be open come with the
// same one, as long as it is the one being promoted.
func (t *turn) grant(n *Node) {
	t.rec.Timelines++
	t.rec.Grants = slices.DeleteFunc(t.rec.Grants, func(g Grant) bool { return g.Node == n.ID })
	t.rec.Grants = append(t.rec.Grants, Grant{Node: n.ID, TLI: t.rec.Timelines})
}

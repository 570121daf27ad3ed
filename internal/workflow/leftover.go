package workflow

import (
	"fmt"
	"slices"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// The kinds of what an earlier attempt may have left, in the order in which they are dropped.
const (
	LeftSubscription = "subscription"
	LeftNode         = "node"
	LeftSlot         = "slot"
	LeftOrigin       = "origin"
)

// Leftover is something on a node that bears a name which a join is about to
// give: an earlier attempt, or an earlier life of the node, has left it.
type Leftover struct{ Kind, Name, Node string }

func (l Leftover) String() string { return l.Kind + " " + l.Name + " on " + l.Node }

// adopt drops what was left: a stream that took it over would begin where the
// earlier one has ended, and miss what lies before that.
func (p *planner) adopt(j Joining) {
	for _, kind := range []string{LeftSubscription, LeftNode, LeftSlot, LeftOrigin} {
		for _, left := range j.Stale {
			if left.Kind != kind {
				continue
			}
			what := fmt.Sprintf("Drop %s %s on %s, which was left", kind, left.Name, left.Node)
			var s Step
			switch kind {
			case LeftSubscription:
				s = commandStep("J2", left.Node, what, DropSubscription, "sub_name", left.Name, "ifexists", "true")
			case LeftNode:
				s = commandStep("J2", left.Node, what, DropNode, "node_name", left.Name, "ifexists", "true")
			case LeftSlot:
				s = sqlStep("J2", left.Node, what, "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = "+
					pg.QuoteLiteral(left.Name)+" AND database = pg_catalog.current_database()")
			default:
				drop := "pgdrover.origin_retire(roname)" // what it stamped keeps its author
				if j.Bare {
					drop = "pg_catalog.pg_replication_origin_drop(roname)"
				}
				s = sqlStep("J2", left.Node, what, "SELECT "+drop+" FROM pg_catalog.pg_replication_origin WHERE roname = "+pg.QuoteLiteral(left.Name))
			}
			if slices.Contains(j.Names(), left.Node) {
				s.For = []string{left.Node}
			}
			p.add(s)
		}
	}
}

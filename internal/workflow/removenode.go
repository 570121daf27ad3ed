package workflow

import (
	"fmt"
	"slices"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Leaving says which node leaves which cluster.
type Leaving struct {
	Target Member
	Peers  []Member // those that can be reached
	// Dead says that the target cannot be reached.
	Dead bool
	// Links are the subscriptions that one of them has with another.
	Links []Link
	// Slots are names of slots that a peer may keep for the target, by peer.
	Slots map[string][]string
	// NoDrain leaves out waiting for the target's last changes.
	NoDrain bool
	// Fenced says that the target can be closed to writers while its last changes leave it.
	Fenced bool
	// Purge is the run whose copy on the target is to go as well; empty keeps it.
	Purge string
}

// RemoveNode plans how a node leaves, also one that is dead or half added.
func RemoveNode(l Leaving) []Step {
	p := &planner{}
	target := l.Target.Name
	var followers []Member
	for _, m := range l.Peers {
		if slices.ContainsFunc(l.Links, func(x Link) bool { return x.Provider == target && x.Subscriber == m.Name }) {
			followers = append(followers, m)
		}
	}
	closed := l.Fenced && !l.Dead && !l.NoDrain && !l.Target.Bare
	if closed {
		p.add(sqlStep("D1", target, "Close "+target+" to writers", "SELECT pgdrover.enforce_readonly('user')"))
	}
	if !l.Dead && !l.NoDrain && !l.Target.Bare && len(followers) > 0 {
		p.add(mark("D1", target, "last_lsn"))
		p.each(followers, func(_ int, m Member) Step { return reached("D1", m.Name, target, "last_lsn") })
	}
	drop := func(phase string, x Link) {
		p.add(commandStep(phase, x.Subscriber, "Drop subscription "+x.Name+" on "+x.Subscriber, DropSubscription, "sub_name", x.Name, "ifexists", "true"))
	}
	for _, x := range l.Links {
		if x.Provider == target && x.Subscriber != target {
			drop("D2", x)
		}
	}
	for _, x := range l.Links {
		if x.Subscriber == target && !l.Dead {
			drop("D3", x)
		}
	}
	for _, m := range l.Peers {
		for _, slot := range l.Slots[m.Name] {
			p.add(sqlStep("D4", m.Name, fmt.Sprintf("Drop slot %s on %s if it is left", slot, m.Name),
				"SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = "+pg.QuoteLiteral(slot)))
		}
	}
	if closed {
		p.add(sqlStep("D5", target, "Open "+target+" to writers", "SELECT pgdrover.enforce_readonly('off')"))
	}
	if !l.Dead && !l.Target.Bare {
		p.add(commandStep("D5", target, "Drop node "+target, DropNode, "node_name", target, "ifexists", "true"))
	}
	if l.Purge != "" && !l.Dead {
		p.add(sqlStep("D5", target, "Drop what was copied to "+target, "CALL pgdrover.purge_copied("+pg.QuoteLiteral(l.Purge)+")"))
	}
	for _, m := range l.Peers {
		p.add(commandStep("D6", m.Name, fmt.Sprintf("Forget node %s on %s", target, m.Name), DropNode, "node_name", target, "ifexists", "true"))
	}
	p.forget(l)
	for _, m := range l.Peers {
		s := sqlStep("D7", m.Name, fmt.Sprintf("See that nothing on %s refers to %s", m.Name, target),
			"SELECT NOT EXISTS (SELECT FROM spock.node WHERE node_name = "+pg.QuoteLiteral(target)+") AS result")
		s.Refuse = fmt.Sprintf("%s still knows %s", m.Name, target)
		p.add(s)
	}
	return p.steps
}

// forget ends what an unfinished join of the node has left in journals and fences.
func (p *planner) forget(l Leaving) {
	if !l.Fenced {
		return
	}
	members := slices.Clone(l.Peers)
	if !l.Dead {
		members = append(members, l.Target)
	}
	for _, m := range members {
		sql := "SELECT pgdrover.forget_runs(" + pg.QuoteLiteral(l.Target.Name) + ")"
		if m.Name == l.Target.Name {
			sql += ", pgdrover.open_node()"
		}
		p.add(sqlStep("D6", m.Name, fmt.Sprintf("Forget the runs of %s on %s", l.Target.Name, m.Name), sql))
	}
}

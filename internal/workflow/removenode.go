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
	// Own are the names of slots on a peer that belong to nodes that stay, by peer.
	Own map[string][]string
	// DropLeft drops the slots of the engine's that are nobody's, also those whose
	// names do not say that they were the target's.
	DropLeft bool
	// Known are peers of which an earlier call has noted how far they have a dead
	// target's changes: they do not follow it any more.
	Known []string
	// EvenOut brings peers those changes of a dead target that another peer has.
	EvenOut bool
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
	reopened := "Open " + target + " to writers"
	if closed {
		s := sqlStep("D1", target, "Close "+target+" to writers", "SELECT pgdrover.enforce_readonly('user')")
		s.Lift = "SELECT pgdrover.enforce_readonly(pgdrover.setting('spock.readonly'))"
		s.Lasts, s.Ended = target+" stays closed to writers until the same call has gone on: part of it has left already", reopened
		p.add(s)
	}
	if !l.Dead && !l.NoDrain && !l.Target.Bare && len(followers) > 0 {
		p.add(mark("D1", target, "last_lsn"))
		p.each(followers, func(_ int, m Member) Step { return reached("D1", m.Name, target, "last_lsn") })
	}
	if l.Dead {
		p.compare(l)
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
	if l.Dead && l.DropLeft {
		for _, m := range l.Peers {
			p.add(sqlStep("D4", m.Name, "Drop the slots on "+m.Name+" that nobody reads",
				"SELECT pg_catalog.pg_drop_replication_slot(r.slot_name)"+l.leftSlots(m.Name)))
		}
	}
	if closed {
		p.add(sqlStep("D5", target, reopened, "SELECT pgdrover.enforce_readonly('off')"))
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
	p.noSlotLeft(l)
	p.evenOut(l)
	if l.Fenced {
		p.troubled()
	}
	return p.steps
}

// leftSlots are the slots on a peer that look like the engine's, are read by
// nobody, and belong to no node that stays.
func (l Leaving) leftSlots(peer string) string {
	return ` FROM pg_catalog.pg_replication_slots r
 WHERE r.database = pg_catalog.current_database() AND r.slot_type = 'logical' AND NOT r.temporary AND NOT r.active AND r.slot_name ~ '^spk_'
   AND r.slot_name <> ALL (` + pg.QuoteLiteral(ListLiteral(l.Own[peer])) + "::name[])"
}

// noSlotLeft looks for slots that a dead node has left under a name that is not
// known: what they keep would fill a disk. They may be those of a subscriber
// that no node knows, so that they are named, and not dropped unasked.
func (p *planner) noSlotLeft(l Leaving) {
	if !l.Dead {
		return
	}
	for _, m := range l.Peers {
		s := sqlStep("D7", m.Name, fmt.Sprintf("See that no slot on %s keeps WAL for %s", m.Name, l.Target.Name),
			"SELECT count(*) = 0 AS result, string_agg(format('slot %s keeps %s of WAL', r.slot_name,\n"+
				"       pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), r.restart_lsn))), ', ' ORDER BY r.slot_name) AS why"+l.leftSlots(m.Name))
		s.Refuse = m.Name + " has slots that nobody reads; if no other subscriber does, call it again with --drop-left-slots"
		p.add(s)
	}
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

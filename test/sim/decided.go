package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// decided checks a decision that was just stored; g is the group before it.
func (j *judge) decided(p *process, g fsm.Group, d fsm.Decision, before fsm.Record) {
	w, m := j.w, j.w.mon
	rec := m.record
	j.goals += len(d.Assign)
	if e := rec.Election; e != nil {
		// Before the candidate is chosen the election belongs to the next epoch.
		epoch := rec.Epoch
		if rec.Owner == 0 {
			epoch++
		}
		j.word[epoch] = j.word[epoch] || e.AllowDataLoss
		j.off[epoch] = j.off[epoch] || e.Off
	}
	if rec.Election != nil && before.Election == nil {
		j.openAsync = j.asyncByChoice(g, before)
	}
	for _, a := range d.Assign {
		if a.Node == rec.Owner && a.Goal.Writable() {
			j.ordered[a.Node] = w.now
			j.async[rec.Epoch] = j.openAsync
			if before.Primary == a.Node {
				// It had been ordered to open before and nobody else was since:
				// what that order left behind is not lost once more.
				j.async[rec.Epoch] = j.openAsync || j.async[j.openEpoch]
				j.word[rec.Epoch] = j.word[rec.Epoch] || j.word[j.openEpoch]
				j.off[rec.Epoch] = j.off[rec.Epoch] || j.off[j.openEpoch]
			}
			j.openEpoch = rec.Epoch
		}
	}
	for _, c := range d.Close {
		for _, i := range g.Intents {
			j.dropped = j.dropped || i.ID == c.Intent && i.Kind == fsm.IntentRemove
		}
	}
	if rec.Owner != 0 && rec.Epoch != before.Epoch && before.Election != nil {
		j.votes[rec.Epoch] = slices.Clone(rec.Election.Votes)
		j.lines[rec.Epoch] = rec.Timeline
	}
	j.checkGoals(g, d)
	j.checkOwner(g, d, before)
	j.checkEvents(d)
	j.checkListOrders(g, before)
	j.checkGrace(p, g, d, before)
	_ = w
}

// asyncByChoice: the group that gets a new primary had no quorum standby, and
// no list that names one in force.
func (j *judge) asyncByChoice(g fsm.Group, before fsm.Record) bool {
	for _, n := range g.Nodes {
		if n.Quorum && n.ID != before.Primary && n.Goal != fsm.Dropped {
			return false
		}
	}
	return !slices.ContainsFunc(before.Lists, func(l fsm.List) bool { return !l.Empty() })
}

func (j *judge) checkGoals(g fsm.Group, d fsm.Decision) {
	w, m := j.w, j.w.mon
	writable, promoting := 0, 0
	for _, r := range m.rows {
		if r.Goal.Writable() {
			writable++
		}
		if beingPromoted(r.Node) {
			promoting++
		}
	}
	if writable > 1 {
		w.fail("I1", "rule %d %s leaves %d nodes with a writable goal", d.Rule.Pos, d.Rule.Name, writable)
	}
	if promoting > 1 {
		w.fail("I5", "rule %d %s leaves %d nodes being promoted", d.Rule.Pos, d.Rule.Name, promoting)
	}
	for _, a := range d.Assign {
		i := slices.IndexFunc(g.Nodes, func(n fsm.Node) bool { return n.ID == a.Node })
		if i < 0 {
			continue
		}
		n := g.Nodes[i]
		if n.Goal == fsm.Dropped {
			w.fail("I18", "rule %d %s assigns %s to dropped node %d", d.Rule.Pos, d.Rule.Name, a.Goal, a.Node)
		}
		if n.Stable(fsm.Maintenance) && a.Goal != fsm.Dropped && !closes(g, d, n.ID, fsm.IntentStopMaintenance) {
			w.fail("I17", "rule %d %s assigns %s to node %d, which is in maintenance", d.Rule.Pos, d.Rule.Name, a.Goal, a.Node)
		}
		if _, ok := w.edge(n.Reported, a.Goal); !ok && n.Reported != a.Goal {
			w.fail("I19", "rule %d %s assigns %s to node %d, which reports %s: no edge", d.Rule.Pos, d.Rule.Name, a.Goal, a.Node, n.Reported)
		}
	}
}

// beingPromoted is the predicate over reported and goal state.
func beingPromoted(n fsm.Node) bool {
	switch n.Goal {
	case fsm.PreparePromotion, fsm.StopReplication, fsm.FastForward:
		return true
	case fsm.WaitPrimary:
		return n.Reported.In(fsm.PreparePromotion, fsm.StopReplication)
	default:
		return false
	}
}

func closes(g fsm.Group, d fsm.Decision, node int64, kind fsm.IntentKind) bool {
	for _, c := range d.Close {
		for _, i := range g.Intents {
			if i.ID == c.Intent && i.Node == node && i.Kind == kind {
				return true
			}
		}
	}
	return false
}

// checkOwner: who is chosen, and in which epoch.
func (j *judge) checkOwner(g fsm.Group, d fsm.Decision, before fsm.Record) {
	w, rec := j.w, j.w.mon.record
	if rec.Owner == before.Owner || rec.Owner == 0 {
		return
	}
	if rec.Epoch <= before.Epoch {
		w.fail("I5", "rule %d %s makes node %d the owner without a new epoch", d.Rule.Pos, d.Rule.Name, rec.Owner)
	}
	r := w.mon.node(rec.Owner)
	if r == nil {
		return
	}
	named := before.Election != nil && before.Election.Prefer == r.ID || rec.Election != nil && rec.Election.Prefer == r.ID
	if r.Priority == 0 && !named {
		w.fail("I15", "rule %d %s promotes node %d, whose candidate priority is 0", d.Rule.Pos, d.Rule.Name, r.ID)
	}
	_ = g
}

// checkEvents: every new goal is in the history.
func (j *judge) checkEvents(d fsm.Decision) {
	for _, a := range d.Assign {
		if !slices.ContainsFunc(d.Events, func(e fsm.Event) bool { return e.Node == a.Node }) {
			j.w.fail("I23", "rule %d %s assigns %s to node %d without an event", d.Rule.Pos, d.Rule.Name, a.Goal, a.Node)
		}
	}
}

// checkListOrders: a list that is ordered now fits the group's settings.
func (j *judge) checkListOrders(g fsm.Group, before fsm.Record) {
	w, m := j.w, j.w.mon
	last := m.list()
	if n := len(before.Lists); n > 0 && before.Lists[n-1].Number == last.Number {
		return
	}
	if !last.Empty() && (last.K < 1 || last.K > len(last.Voters)) {
		w.fail("I24", "list %d wants %d of %d voters", last.Number, last.K, len(last.Voters))
	}
	quorum := 0
	for _, r := range m.rows {
		if r.Quorum && r.ID != last.Primary && r.Goal != fsm.Dropped {
			quorum++
		}
	}
	for _, id := range last.Voters {
		r := m.node(id)
		if r == nil || !r.Quorum || r.Goal == fsm.Dropped || id == last.Primary {
			w.fail("I12", "list %d of node %d names node %d, which is no quorum standby", last.Number, last.Primary, id)
		}
	}
	if nss := max(0, min(m.nss, quorum-1)); nss >= 1 && last.Empty() && len(before.Lists) > 0 {
		w.fail("I11", "node %d is ordered an empty list although number_sync_standbys is %d", last.Primary, nss)
	}
	_ = g
}

// checkGrace: no failover on what was seen before the monitor process started.
func (j *judge) checkGrace(p *process, g fsm.Group, d fsm.Decision, before fsm.Record) {
	w, rec := j.w, j.w.mon.record
	opens := before.Election == nil && rec.Election != nil && before.Owner == 0
	if !opens || len(d.Close) > 0 {
		return
	}
	old := slices.IndexFunc(g.Nodes, func(n fsm.Node) bool { return n.ID == before.Primary })
	if old < 0 || g.Nodes[old].Goal == fsm.Dropped {
		return
	}
	n := g.Nodes[old]
	ownWord := !n.PgIsRunning && !n.Seen.IsZero() || !n.Goal.Writable()
	if w.now-p.start < g.Settings.StartupGrace && !ownWord {
		w.fail("I27", "rule %d %s opens an election %s after the monitor process started", d.Rule.Pos, d.Rule.Name, w.now-p.start)
	}
	if deaf := w.net.deaf(); deaf > 3*time.Second && !ownWord {
		w.fail("I27", "rule %d %s replaces node %d although the monitor has heard nobody for %s", d.Rule.Pos, d.Rule.Name, n.ID, deaf)
	}
	calm := w.now - w.calmSince
	if calm > 2*time.Minute && !ownWord {
		w.fail("L8", "rule %d %s replaces node %d although nothing has happened for %s", d.Rule.Pos, d.Rule.Name, n.ID, calm)
	}
}

// recordText renders a record for traces.
func recordText(r fsm.Record) string {
	var b strings.Builder
	fmt.Fprintf(&b, "epoch=%d owner=%d primary=%d fenced=%v tli=%d", r.Epoch, r.Owner, r.Primary, r.Fenced, r.Timeline)
	if r.FinalLSN != 0 {
		fmt.Fprintf(&b, " final=%d/%s", r.FinalTLI, r.FinalLSN)
	}
	if len(r.Strays) > 0 {
		fmt.Fprintf(&b, " strays=%v", r.Strays)
	}
	for _, l := range r.Lists {
		fmt.Fprintf(&b, " list#%d(%d)=%d%v", l.Number, l.Primary, l.K, l.Voters)
	}
	if e := r.Election; e != nil {
		fmt.Fprintf(&b, " election{planned=%v loss=%v off=%v prefer=%d avoid=%d votes=", e.Planned, e.AllowDataLoss, e.Off, e.Prefer, e.Avoid)
		for _, v := range e.Votes {
			fmt.Fprintf(&b, "%d:%d/%s ", v.Node, v.TLI, v.LSN)
		}
		b.WriteString("}")
	}
	return b.String()
}

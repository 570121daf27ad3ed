package fsm

import (
	"fmt"
	"slices"
)

// intents takes up the oldest request that waits. A request that no longer
// applies is closed with the reason; none waits for ever.
func intents(t *turn) bool {
	if t.handingOver() != nil {
		return false // it takes a moment, and must not meet another change of the primary's
	}
	for _, i := range t.g.Intents {
		if !t.fact(i) && t.now.Sub(i.At) > t.g.Settings.IntentTimeout {
			return t.close(i, "it was not taken up in time")
		}
		if t.take(i) {
			return true
		}
	}
	return false
}

func (t *turn) fact(i Intent) bool {
	return i.Kind == IntentRemoved || i.Kind == IntentRegistered || i.Kind == IntentSettings
}

// close ends an intent: applied when reason is empty.
func (t *turn) close(i Intent, reason string) bool {
	t.d.Close = append(t.d.Close, Closing{Intent: i.ID, Applied: reason == "", Text: reason})
	if reason != "" {
		t.event(t.node(i.Node), "Request %s is given up: %s.", i.Kind, reason)
	}
	return true
}

func (t *turn) take(i Intent) bool {
	if t.settlesFirst(i) {
		return false
	}
	if !t.fact(i) {
		if r := CheckIntent(t.g, i, t.now); r != nil && r.Severity == "ERROR" {
			return t.close(i, r.Message)
		}
	}
	switch i.Kind {
	case IntentFailover:
		return t.takeFailover(i, 0)
	case IntentPromotion:
		return t.takeFailover(i, i.Node)
	case IntentStartMaintenance:
		return t.takeStartMaintenance(i)
	case IntentStopMaintenance:
		return t.takeStopMaintenance(i)
	case IntentRemove:
		return t.takeRemove(i)
	case IntentRemoved:
		return t.takeRemoved(i)
	case IntentRegistered:
		return t.takeRegistered(i)
	case IntentSettings:
		return t.takeSettings(i)
	}
	return t.close(i, fmt.Sprintf("%q is not a kind of request", i.Kind))
}

// successor is the node that takes over in a planned way: healthy and streaming.
func (t *turn) successor(p *Node, prefer int64) *Node {
	var best *Node
	for _, n := range t.others(p) {
		if !n.Stable(Secondary) || !t.healthy(n) || n.Streaming == StreamingNo || n.Priority == 0 && n.ID != prefer ||
			n.Cluster != "" && n.Cluster != "default" || n.TLI != p.TLI {
			continue
		}
		if n.ID == prefer {
			return n
		}
		if best == nil || t.rather(n, best) {
			best = n
		}
	}
	return best
}

// rather: of two standbys that could take over, n is the better one. Who has
// fallen silent, which may be the beginning of its end, comes last among equals.
func (t *turn) rather(n, best *Node) bool {
	switch {
	case n.Priority != best.Priority:
		return n.Priority > best.Priority
	case t.silent(n) != t.silent(best):
		return t.silent(best)
	}
	return n.LSN > best.LSN
}

// prepare asks s to get ready to take over from p, which goes on until s has
// answered and stops cleanly then, by way of the goal then. named: nobody else will do.
func (t *turn) prepare(p, s *Node, then State, named bool, why string) {
	t.open(Election{Planned: true, Avoid: p.ID, Prefer: s.ID, Then: then, Named: named})
	t.own(s)
	t.goal(s, PreparePromotion, "%s to prepare_promotion %s", s, why)
	if t.g.Formation.Kind == "citus" {
		// A worker's candidate has a transaction prepared on the coordinator, which
		// blocks writes until its promotion ends it: there is no way back from here.
		t.rec.Election.Then = Unknown
		t.goal(p, then, "%s to %s %s", p, then, why)
	}
}

func (t *turn) takeFailover(i Intent, prefer int64) bool {
	if e := t.rec.Election; e != nil {
		if prefer != 0 {
			e.Prefer, e.Avoid = prefer, 0
		}
		if i.AllowDataLoss {
			t.allowDataLoss()
		}
		return t.close(i, "")
	}
	p := t.node(t.rec.Primary)
	if len(t.members()) == 1 && t.members()[0].Goal == Single {
		return t.close(i, "the only node of the group is its primary")
	}
	if p == nil || !p.Goal.Writable() || t.unhealthy(p) {
		if !i.AllowDataLoss {
			return t.close(i, "the primary is not healthy, and the group fails over by itself when it can")
		}
		t.open(Election{Prefer: prefer})
		t.allowDataLoss()
		if p != nil && p.Goal.Writable() {
			t.drain(p, "%s to %s after a user-initiated failover.", p, t.drainGoal(p))
		}
		if s := t.owner(); s != nil && s.Goal.In(StopReplication, WaitPrimary, Single) {
			t.strays(s)
		}
		t.rec.Owner = 0
		t.fanOut()
		return t.close(i, "")
	}
	s := t.successor(p, prefer)
	if s == nil {
		return t.close(i, "no healthy standby with a candidate priority above zero streams from the primary")
	}
	t.prepare(p, s, Draining, prefer != 0, "after a user-initiated failover.")
	return t.close(i, "")
}

// allowDataLoss records an operator's word on the open election.
func (t *turn) allowDataLoss() {
	t.rec.Election.AllowDataLoss = true
	t.event(t.node(t.rec.Primary), "An operator allowed the loss of acknowledged writes in this failover.")
}

func (t *turn) takeStartMaintenance(i Intent) bool {
	n := t.node(i.Node)
	if n == nil || n.Goal.In(Maintenance, Dropped) || n.Reported == Maintenance {
		return t.close(i, "")
	}
	p := t.writable()
	if p != nil && p.ID == n.ID {
		s := t.successor(p, 0)
		if s == nil {
			return t.close(i, "no healthy standby with a candidate priority above zero streams from the primary")
		}
		t.prepare(p, s, PrepareMaintenance, false, "after a user-initiated start_maintenance call.")
		return t.close(i, "")
	}
	if t.lastSync(p, n) {
		t.push(p, List{})
		t.goal(p, WaitPrimary, "%s to wait_primary and %s to wait_maintenance after a user-initiated start_maintenance call.", p, n)
		t.goal(n, WaitMaintenance, "%s to wait_primary and %s to wait_maintenance after a user-initiated start_maintenance call.", p, n)
		return t.close(i, "")
	}
	t.goal(n, Maintenance, "%s to maintenance after a user-initiated start_maintenance call.", n)
	return t.close(i, "")
}

// settlesFirst: the node that is to leave by way of wait_maintenance may still be
// on its way to or from another state, out of which no edge leads there.
func (t *turn) settlesFirst(i Intent) bool {
	n := t.node(i.Node)
	return i.Kind == IntentStartMaintenance && n != nil && !n.Settled() && t.lastSync(t.writable(), n)
}

// lastSync: without n the primary has no healthy quorum standby left, and may go on alone.
func (t *turn) lastSync(p, n *Node) bool {
	if p == nil || t.syncStandbys(p) > 0 || !n.Quorum || n.Goal != Secondary {
		return false
	}
	return !slices.ContainsFunc(t.others(p), func(x *Node) bool {
		return x.ID != n.ID && x.Quorum && x.Stable(Secondary) && t.healthy(x)
	})
}

func (t *turn) takeStopMaintenance(i Intent) bool {
	n := t.node(i.Node)
	if n == nil || !n.Goal.MaintenanceGoal() {
		return t.close(i, "")
	}
	if len(t.members()) == 1 {
		t.rec.Owner, t.rec.Election = 0, nil
		t.open(Election{})
		t.goal(n, ReportLSN, "%s to report_lsn after a user-initiated stop_maintenance call.", n)
		return t.close(i, "")
	}
	if p := t.writable(); p != nil && t.rec.Election == nil && !t.unhealthy(p) {
		t.goal(n, CatchingUp, "%s to catchingup  after a user-initiated stop_maintenance call.", n)
	} else {
		t.goal(n, ReportLSN, "%s to report_lsn after a user-initiated stop_maintenance call.", n)
	}
	return t.close(i, "")
}

func (t *turn) takeRemove(i Intent) bool {
	n := t.node(i.Node)
	if n == nil || n.Goal == Dropped {
		return t.close(i, "")
	}
	const text = "%s from formation %q and group %d to \"dropped\" to implement node removal."
	others := t.others(n)
	if n.Goal.Writable() && len(others) > 0 {
		t.removePrimary(n)
	}
	t.order(n, Dropped, text, n, t.g.Formation.ID, t.g.ID)
	t.lowerSyncStandbys(n)
	return t.close(i, "")
}

// removePrimary starts the succession of a primary that an operator removes:
// planned when a standby can take over, by election otherwise.
func (t *turn) removePrimary(p *Node) {
	if t.rec.Owner == p.ID {
		t.rec.Owner = 0
	}
	s := t.successor(p, 0)
	if s != nil && p.Settled() && t.rec.Owner == 0 && t.healthy(p) {
		t.open(Election{Planned: true, Avoid: p.ID, Prefer: s.ID})
		t.own(s)
		t.goal(s, PreparePromotion, "%s to prepare_promotion after primary node removal.", s)
		return
	}
	t.open(Election{})
	for _, n := range t.others(p) {
		if !n.Goal.MaintenanceGoal() && asked(n) {
			t.goal(n, ReportLSN, "%s to report_lsn after primary node removal.", n)
		}
	}
}

// lowerSyncStandbys keeps number_sync_standbys possible after a removal.
func (t *turn) lowerSyncStandbys(gone *Node) {
	count := -1
	for _, x := range t.others(gone) {
		if x.Quorum {
			count++
		}
	}
	nss := t.g.Formation.NumberSyncStandbys
	if nss == 0 || count >= nss+1 {
		return
	}
	value := max(count-1, 0)
	t.d.NumberSyncStandbys = &value
	t.event(nil, "Setting number_sync_standbys to %d for formation %q now that we have %d standby nodes set with replication-quorum.",
		value, t.g.Formation.ID, max(count, 0))
}

func (t *turn) takeRemoved(i Intent) bool {
	ghost := i.Ghost
	if ghost == nil {
		return t.close(i, "")
	}
	t.rec.Removed = append(t.rec.Removed, *ghost)
	if ghost.ID == t.rec.Owner {
		t.rec.Owner = 0
	}
	if ghost.ID == t.rec.Primary && !t.rec.Fenced {
		t.open(Election{Off: t.maySolo()})
		if t.maySolo() {
			t.event(nil, "The primary node %d was removed by force: what it acknowledged alone may be lost.", ghost.ID)
		}
		for _, n := range t.members() {
			if asked(n) {
				t.goal(n, ReportLSN, "%s to report_lsn after primary node removal.", n)
			}
		}
	}
	t.lowerSyncStandbys(nil) // its row is gone already
	return t.close(i, "")
}

// takeRegistered raises number_sync_standbys when a group gets its second quorum standby.
func (t *turn) takeRegistered(i Intent) bool {
	n := t.node(i.Node)
	if n == nil || n.Goal != WaitStandby && n.Reported != WaitStandby || t.g.Formation.NumberSyncStandbys != 0 || !n.Quorum {
		return t.close(i, "")
	}
	count, total := 0, 0
	p := t.primary()
	for _, x := range t.others(p) {
		if x.ID > n.ID {
			continue
		}
		total++
		if x.Quorum {
			count++
		}
	}
	if count == 2 {
		one := 1
		t.d.NumberSyncStandbys = &one
		t.event(nil, "Setting number_sync_standbys to 1 for formation %s now that we have 2/%d standby nodes set with replication-quorum.",
			t.g.Formation.ID, total)
	}
	return t.close(i, "")
}

// takeSettings has a primary at rest apply changed settings; one that is on
// its way somewhere picks them up when it arrives.
func (t *turn) takeSettings(i Intent) bool {
	p := t.atWork()
	if p != nil && len(t.members()) > 1 && (p.Stable(Primary) || p.Stable(WaitPrimary)) {
		t.goal(p, ApplySettings, "%s to apply_settings after %s.", p, i.Text)
	}
	return t.close(i, "")
}

package fsm

import (
	"slices"
	"time"
)

// removed deletes the row of a node that reported dropped. The row of a
// primary that hands over stays until its successor opens: it holds its last word.
func removed(t *turn) bool {
	for i := range t.g.Nodes {
		n := &t.g.Nodes[i]
		if n.Goal != Dropped || n.Reported != Dropped || n.ID == t.rec.Primary && t.rec.Owner != 0 {
			continue
		}
		t.d.Remove = append(t.d.Remove, n.ID)
		t.event(nil, "Removing %s from formation %q and group %d", n, t.g.Formation.ID, t.g.ID)
		return true
	}
	return false
}

// fencedBack lets a primary that fenced itself reach what was decided
// meanwhile by way of demoted, which every node service knows.
func fencedBack(t *turn) bool {
	for _, n := range t.members() {
		if n.Reported == DemoteTimeout && n.Goal.In(CatchingUp, Secondary, JoinSecondary) {
			return t.goal(n, Demoted, "%s to demoted after it demoted itself.", n)
		}
	}
	return false
}

// leftAlone serves the last node of a group. One that may write goes on alone;
// a standby does so by way of an election, which knows whether it may.
func leftAlone(t *turn) bool {
	members := t.members()
	if len(members) != 1 {
		return false
	}
	n := members[0]
	if n.Stable(Single) || n.Goal == Single || n.Goal.MaintenanceGoal() || n.Reported.In(WaitStandby, Init) {
		return false
	}
	if n.Goal.Writable() || n.ID == t.rec.Primary && n.Goal.In(downStates...) {
		if t.rec.Owner != 0 && t.rec.Owner != n.ID {
			return false
		}
		t.rec.Owner, t.rec.Election = 0, nil
		t.rec.Primary, t.rec.Fenced = n.ID, false
		t.push(n, List{})
		return t.goal(n, Single, "%s to single as there is no other node.", n)
	}
	if t.rec.Owner != 0 || n.Goal == ReportLSN || n.Goal.In(PreparePromotion, FastForward, StopReplication) {
		return false
	}
	if t.rec.Election == nil {
		t.open(Election{})
	}
	if n.Priority == 0 {
		return t.goal(n, ReportLSN, "%s to report_lsn as there is no other node and candidate priority is 0.", n)
	}
	return t.goal(n, ReportLSN, "%s to report_lsn to find the failover candidate", n)
}

// openPrimary is the primary when it is there to be followed: it was ordered to
// be writable, nobody else is being promoted, and its server runs. It need not
// be at rest: one that waits for its voters is what they have to follow.
func (t *turn) openPrimary() *Node {
	p := t.writable()
	if p == nil || !t.healthy(p) || t.rec.Owner != 0 && t.rec.Owner != p.ID {
		return nil
	}
	if p.Goal != Single && p.Reported != Single && (p.Reported.Writable() || p.Reported.In(downStates...)) {
		return p
	}
	return nil
}

// mayClone lets a new standby copy the primary.
func mayClone(t *turn) bool {
	p := t.openPrimary()
	if p == nil {
		return false
	}
	for _, n := range t.others(p) {
		if n.Stable(WaitStandby) {
			return t.goal(n, CatchingUp, "%s to catchingup after %s converged to %s.", n, p, p.Reported)
		}
	}
	return false
}

// caughtUp makes a standby a secondary that streams on the primary's timeline, close enough behind.
func caughtUp(t *turn) bool {
	p := t.openPrimary()
	if p == nil {
		return false
	}
	for _, n := range t.others(p) {
		if n.Stable(CatchingUp) && t.healthy(n) && n.TLI == p.TLI && t.streams(n, p) {
			return t.goal(n, Secondary, "%s to secondary after it caught up.", n)
		}
	}
	return false
}

// How a standby shows that it really streams: it is this near the primary's
// position, or it has streamed without a break for so long. One whose WAL
// the primary has no more connects again and again, and is refused each time.
// The second way is that of a primary that writes fast.
const (
	nearPrimary  = 1 << 20
	steadyStream = 1500 * time.Millisecond
)

// streams: n streams from p, close enough behind to be waited for.
func (t *turn) streams(n, p *Node) bool {
	switch n.Streaming {
	case StreamingNo:
		return false
	case StreamingYes:
		steady := t.now.Sub(later(n.StreamingAt, t.g.MonitorStart)) > steadyStream
		return within(n, p, nearPrimary) || steady && within(n, p, t.g.Settings.SyncThreshold)
	case StreamingUnknown:
	}
	return within(n, p, t.g.Settings.SyncThreshold)
}

// catchupStalled tells a standby once more to follow that rests in catchingup
// and does not stream.
func catchupStalled(t *turn) bool {
	p := t.openPrimary()
	if p == nil {
		return false
	}
	for _, n := range t.others(p) {
		if n.Stable(CatchingUp) && t.healthy(n) && n.Streaming == StreamingNo &&
			t.now.Sub(later(later(n.StreamingAt, n.GoalAt), t.g.MonitorStart)) > t.g.Settings.StallTimeout {
			t.order(n, CatchingUp, "%s to catchingup to follow %s.", n, p)
			return true
		}
	}
	return false
}

// divergedSecondary sends a secondary whose timeline is not on the reference lineage to be rewound.
func divergedSecondary(t *turn) bool {
	p := t.openPrimary()
	if p == nil {
		return false
	}
	for _, n := range t.others(p) {
		if n.Stable(Secondary) && (t.where(n, n.TLI, n.LSN).forked || t.rec.Timeline != 0 && n.TLI > p.TLI) {
			return t.goal(n, CatchingUp, "%s to catchingup after its timeline diverged from that of %s.", n, p)
		}
	}
	return false
}

// voterReturns lets nodes that took part in an election, or waited for a
// primary, follow the one that is there.
func voterReturns(t *turn) bool {
	p := t.openPrimary()
	if p == nil {
		return false
	}
	for _, n := range t.others(p) {
		if !n.Goal.In(ReportLSN, JoinSecondary) {
			continue
		}
		if !n.Settled() {
			answering := t.alive(n) && n.Reported.In(Secondary, CatchingUp, ReportLSN, JoinSecondary) &&
				t.now.Sub(later(n.GoalAt, t.g.MonitorStart)) <= t.g.Settings.StallTimeout
			if t.rec.Election != nil || answering {
				continue
			}
			if n.Reported.In(Init, WaitStandby) {
				return t.goal(n, WaitStandby, "%s to wait_standby after %s converged to %s.", n, p, p.Reported)
			}
			return t.goal(n, CatchingUp, "%s to catchingup after %s converged to %s.", n, p, p.Reported)
		}
		if at := t.position(n); n.TLI > p.TLI || at.forked && at.told || t.stray(n.ID) {
			return t.goal(n, Demoted, "%s to demoted after its timeline diverged from that of %s.", n, p)
		}
		if !within(n, p, t.g.Settings.SyncThreshold) || !t.healthy(n) {
			return t.goal(n, CatchingUp, "%s to catchingup after %s converged to %s.", n, p, p.Reported)
		}
		return t.goal(n, Secondary, "%s to secondary after %s converged to %s.", n, p, p.Reported)
	}
	return false
}

// demotedReturns lets an old primary, or a candidate that was given up, follow the primary.
func demotedReturns(t *turn) bool {
	p := t.openPrimary()
	if p == nil {
		return false
	}
	for _, n := range t.others(p) {
		if n.Settled() && n.Goal.In(downStates...) {
			return t.goal(n, CatchingUp, "%s to catchingup after it converged to demotion and %s converged to %s.", n, p, p.Reported)
		}
	}
	return false
}

// demoteOrphan gives a goal to nodes that an earlier promotion left behind.
func demoteOrphan(t *turn) bool {
	p := t.openPrimary()
	if p == nil || t.rec.Owner != 0 || t.rec.Election != nil {
		return false
	}
	for _, n := range t.others(p) {
		if n.Goal.In(PreparePromotion, StopReplication, FastForward) {
			return t.goal(n, Demoted, "%s to demoted after %s converged to %s.", n, p, p.Reported)
		}
	}
	return false
}

// maintenanceReady releases a standby once the primary no longer needs it.
func maintenanceReady(t *turn) bool {
	p := t.writable()
	for _, n := range t.members() {
		if !n.Stable(WaitMaintenance) {
			continue
		}
		switch {
		case p != nil && p.Stable(WaitPrimary):
			return t.goal(n, Maintenance, "%s to maintenance after %s converged to wait_primary.", n, p)
		case p == nil || p.Goal != WaitPrimary:
			return t.goal(n, Maintenance, "%s to maintenance as no primary waits for it.", n)
		}
	}
	return false
}

// primaryToMaintenance ends the maintenance handshake of an old primary whose successor is open.
func primaryToMaintenance(t *turn) bool {
	p := t.openPrimary()
	if p == nil {
		return false
	}
	i := slices.IndexFunc(t.others(p), func(n *Node) bool { return n.Stable(PrepareMaintenance) })
	if i < 0 {
		return false
	}
	n := t.others(p)[i]
	return t.goal(n, Maintenance, "%s to maintenance after it converged to prepare_maintenance.", n)
}

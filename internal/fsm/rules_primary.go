package fsm

import (
	"slices"
)

// atWork is the writable primary when it can be given work: it is healthy and
// no election or promotion is under way. One that fenced itself is at work
// again once its server runs: it may be waiting for a voter that is gone.
func (t *turn) atWork() *Node {
	p := t.writable()
	if p == nil || t.rec.Election != nil || t.rec.Owner != 0 || t.unhealthy(p) ||
		p.Reported.In(downStates...) && !p.PgIsRunning {
		return nil
	}
	return p
}

// standbys returns the members other than p that are stable secondaries, and those of them with quorum.
func (t *turn) secondaries(p *Node) (all, quorum int) {
	for _, n := range t.others(p) {
		if n.Stable(Secondary) {
			all++
			if n.Quorum {
				quorum++
			}
		}
	}
	return all, quorum
}

// firstStandby lets a lone primary prepare for the standbys that wait for it.
func firstStandby(t *turn) bool {
	p := t.atWork()
	if p == nil || !p.Stable(Single) {
		return false
	}
	for _, n := range t.others(p) {
		if n.Stable(WaitStandby) || n.Goal.In(CatchingUp, Secondary, ReportLSN, JoinSecondary, Demoted) {
			return t.goal(p, WaitPrimary, "%s to wait_primary after %s joined.", p, n)
		}
	}
	return false
}

// standbyLost takes the role of a secondary from a node that cannot fill it:
// it is unhealthy, or it has not streamed for too long.
func standbyLost(t *turn) bool {
	p := t.atWork()
	if p == nil || !p.Goal.In(Primary, WaitPrimary, ApplySettings) {
		return false
	}
	changed := false
	for _, n := range t.others(p) {
		if n.Goal != Secondary || n.Reported.In(ReportLSN, JoinSecondary) && !t.unreachable(n) {
			continue
		}
		switch {
		case t.unhealthy(n):
			t.goal(n, CatchingUp, "%s to catchingup after it became unhealthy.", n)
		case t.stalled(n, p):
			t.goal(n, CatchingUp, "%s to catchingup after it stopped streaming.", n)
		default:
			continue
		}
		changed = true
	}
	return changed
}

// stalled: n says that its receiver has not streamed for longer than allowed,
// while p was there to be streamed from. While p waits for its voters on its way
// to primary, and clients with it, half of that is long enough.
func (t *turn) stalled(n, p *Node) bool {
	limit := t.g.Settings.StallTimeout
	if p.Goal == Primary && !p.Settled() {
		limit /= 2
	}
	since := later(later(n.StreamingAt, p.StreamingAt), t.g.MonitorStart)
	return (n.Settled() || standingDown(n)) && n.Streaming == StreamingNo && t.healthy(p) && p.Streaming != StreamingNo &&
		t.now.Sub(since) > limit
}

// standingDown: n was to take over in a planned way, was given up and has not
// answered yet. It streams from the primary all along.
func standingDown(n *Node) bool {
	return n.Goal == Secondary && n.Reported.In(PreparePromotion, Secondary)
}

// allAsync serves a group whose standbys are all asynchronous.
func allAsync(t *turn) bool {
	p := t.atWork()
	if p == nil || !p.Settled() || !p.Goal.In(Primary, WaitPrimary, ApplySettings) || !t.asyncByChoice(p) {
		return false
	}
	all, _ := t.secondaries(p)
	want := Primary
	if all == 0 {
		want = WaitPrimary
	}
	if p.Goal == want {
		if p.Goal == Primary && !t.rec.list().Empty() {
			return t.goal(p, ApplySettings, "%s to apply_settings to edit synchronous_standby_names.", p)
		}
		return false
	}
	t.push(p, List{})
	if want == WaitPrimary {
		return t.goal(p, want, "%s to wait_primary because none of the secondary nodes are healthy at the moment.", p)
	}
	return t.goal(p, want, "%s to primary now that we have %d healthy secondary nodes.", p, all)
}

// quorumLost chooses between waiting and going on alone when no quorum standby
// is left: number_sync_standbys decides. A primary on its way to a list whose
// voters are gone goes back the same way.
func quorumLost(t *turn) bool {
	p := t.atWork()
	if p == nil || t.asyncByChoice(p) || t.syncStandbys(p) > 0 || p.Goal == WaitPrimary || p.Goal == Single {
		return false
	}
	if slices.ContainsFunc(t.others(p), func(n *Node) bool {
		return n.Quorum && n.Goal == Secondary && (n.Settled() || !p.Settled() || standingDown(n))
	}) {
		return false
	}
	if !p.Settled() && !p.Goal.In(Primary) {
		return false
	}
	t.push(p, List{})
	return t.goal(p, WaitPrimary,
		"%s to wait_primary because none of the standby nodes in the quorum are healthy at the moment.", p)
}

// quorumBack lets the primary wait for its standbys again.
func quorumBack(t *turn) bool {
	p := t.atWork()
	if p == nil || !p.Stable(WaitPrimary) || t.asyncByChoice(p) {
		return false
	}
	_, quorum := t.secondaries(p)
	if quorum < max(1, t.syncStandbys(p)) {
		return false
	}
	t.push(p, t.wantedList(p))
	return t.goal(p, Primary, "%s to primary now that we have %d healthy  secondary nodes in the quorum.", p, quorum)
}

// settingsApplied leads a primary out of apply_settings with the list of the day.
func settingsApplied(t *turn) bool {
	p := t.atWork()
	if p == nil || !p.Stable(ApplySettings) {
		return false
	}
	_, quorum := t.secondaries(p)
	want := Primary
	if t.syncStandbys(p) == 0 && quorum == 0 {
		want = WaitPrimary
		t.push(p, List{})
	} else {
		t.push(p, t.wantedList(p))
	}
	return t.goal(p, want, "%s to %s after it applied replication properties change.", p, want)
}

// listUnreachable turns a primary back that is on its way to a list which can
// no longer be satisfied, when there is a better one: the list can only be
// replaced while the primary rests.
func listUnreachable(t *turn) bool {
	p := t.writable()
	if p == nil || t.rec.Election != nil || t.rec.Owner != 0 || p.Goal != Primary || p.Settled() || t.unhealthy(p) {
		return false
	}
	last, want := t.rec.list(), t.wantedList(p)
	if last.Empty() || want.K == last.K && slices.Equal(want.Voters, last.Voters) {
		return false
	}
	there := 0
	for _, id := range last.Voters {
		if n := t.node(id); n != nil && n.Goal == Secondary {
			there++
		}
	}
	if there >= last.K {
		return false
	}
	t.order(p, ApplySettings, "%s to apply_settings to edit synchronous_standby_names.", p)
	return true
}

// listChanged sends a stable primary through apply_settings when the list that
// it should have is not the one it has.
func listChanged(t *turn) bool {
	p := t.atWork()
	if p == nil || !p.Stable(Primary) || t.asyncByChoice(p) {
		return false
	}
	want, last := t.wantedList(p), t.rec.list()
	if want.K == last.K && slices.Equal(want.Voters, last.Voters) || want.Empty() {
		return false
	}
	return t.goal(p, ApplySettings, "%s to apply_settings to edit synchronous_standby_names.", p)
}

// openListChanged does the same for a primary that waits for its quorum but
// may acknowledge alone although number_sync_standbys forbids it by now, or
// the other way round.
func openListChanged(t *turn) bool {
	p := t.atWork()
	if p == nil || !p.Stable(WaitPrimary) || t.asyncByChoice(p) {
		return false
	}
	alone := t.syncStandbys(p) == 0
	if alone == t.rec.list().Empty() {
		return false
	}
	if alone {
		t.push(p, List{})
	} else {
		t.push(p, t.openingList(p))
	}
	t.order(p, WaitPrimary, "%s to wait_primary to edit synchronous_standby_names.", p)
	return true
}

// joinPrimary moves a primary that an older node service left in join_primary.
func joinPrimary(t *turn) bool {
	p := t.atWork()
	return p != nil && p.Stable(JoinPrimary) && t.goal(p, Primary, "%s to primary", p)
}

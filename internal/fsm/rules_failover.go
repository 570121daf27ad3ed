package fsm

import "slices"

// failedPrimary is the primary that has to be replaced, or nil: it was ordered
// to be writable and cannot do its work. One that stopped by itself and is
// there to be told to go on is not failed, unless it does not get up again.
func (t *turn) failedPrimary() *Node {
	p := t.node(t.rec.Primary)
	if p == nil || !p.Goal.Writable() || !t.unhealthy(p) {
		return nil
	}
	if t.rec.Owner != 0 && t.rec.Owner != p.ID {
		return nil
	}
	if t.getsUp(p) {
		return nil
	}
	return p
}

// getsUp: p fenced itself, is there again and has had little time to start.
func (t *turn) getsUp(p *Node) bool {
	return p.Reported.In(downStates...) && t.alive(p) &&
		t.now.Sub(later(p.ReportedAt, t.g.MonitorStart)) <= t.g.Settings.SessionlessTimeout
}

// potential: who would have voted if an election opened now.
func (t *turn) potential(p *Node) func(int64) bool {
	return func(id int64) bool {
		n := t.node(id)
		return n != nil && n.ID != p.ID && n.Goal != Dropped && t.mayVote(n)
	}
}

// replaceable: replacing p can succeed, with the nodes that are there now.
// An election that cannot end would only keep a returning primary from its work.
func (t *turn) replaceable(p *Node) bool {
	has := t.potential(p)
	if t.asyncElection() {
		return slices.ContainsFunc(t.others(p), func(n *Node) bool {
			return has(n.ID) && t.healthy(n) && t.electable(n) && n.TLI == t.rec.Timeline && within(n, p, t.g.Settings.PromoteThreshold)
		})
	}
	loss := t.rec.Election != nil && t.rec.Election.AllowDataLoss
	return (loss || t.allSatisfied(has)) && slices.ContainsFunc(t.others(p), func(n *Node) bool {
		return has(n.ID) && t.healthy(n) && t.electable(n)
	})
}

// primaryFailed2 is the failover of two nodes: the standby is all there is of
// the quorum, so it is promoted behind a closed gate and its promotion ends its receiver.
func primaryFailed2(t *turn) bool {
	p := t.failedPrimary()
	if p == nil || len(t.members()) != 2 || t.maySolo() {
		return false
	}
	s := t.others(p)[0]
	if !s.Stable(Secondary) || !t.healthy(s) || !t.electable(s) || !t.replaceable(p) {
		return false
	}
	if t.rec.Owner == p.ID {
		t.strays(p)
	}
	t.open(Election{})
	t.own(s)
	t.drain(p, "%s to %s and %s to prepare_promotion after %s became unhealthy.", p, t.drainGoal(p), s, p)
	t.goal(s, PreparePromotion, "%s to %s and %s to prepare_promotion after %s became unhealthy.", p, t.drainGoal(p), s, p)
	return true
}

// primaryFailed opens an election: every standby ends its receiver and says how far it got.
func primaryFailed(t *turn) bool {
	p := t.failedPrimary()
	if p == nil || !t.replaceable(p) {
		return false
	}
	if t.rec.Owner == p.ID { // it was ordered to open and never said that it did
		t.rec.Owner = 0
		t.strays(p)
	}
	e := Election{Async: t.fencesAsync(p)}
	for _, n := range t.others(p) {
		if e.Async && t.mayFollow(n, p) {
			e.Followers = append(e.Followers, n.ID)
		}
	}
	t.open(e)
	t.drain(p, "%s to %s after it became unhealthy.", p, t.drainGoal(p))
	t.fanOut()
	return true
}

// mayFollow: p may count on n for its contact with the group. Its keeper counts
// the nodes whose goal was secondary when it was last answered.
func (t *turn) mayFollow(n, p *Node) bool {
	heard := p.Seen.Add(-t.g.Settings.UnhealthyTimeout)
	return n.Goal == Secondary ||
		n.Reported.In(Secondary, CatchingUp, WaitMaintenance, Maintenance) && !n.GoalAt.Before(heard)
}

// drainGoal is the stopped state that p is sent to: another one than it
// reports, so that its next report is an answer to this order.
func (t *turn) drainGoal(p *Node) State {
	if p.Reported.In(downStates...) {
		return Demoted
	}
	return Draining
}

func (t *turn) drain(p *Node, format string, args ...any) {
	t.goal(p, t.drainGoal(p), format, args...)
}

// promotionReady opens the candidate for writes: what was acknowledged is on
// it, and the old primary acknowledges nothing any more.
func promotionReady(t *turn) bool {
	s := t.owner()
	if s == nil || t.rec.Election == nil || !s.Goal.In(PreparePromotion, StopReplication) || !s.Settled() || !t.healthy(s) {
		return false
	}
	if !t.durable(s) || !t.exclusive(s) {
		return false
	}
	t.openFor(s, t.why(s))
	return true
}

// why tells on what ground a promotion goes ahead.
func (t *turn) why(s *Node) string {
	p := t.old()
	switch {
	case t.rec.Election.AllowDataLoss:
		return "an operator allowed the loss of acknowledged writes"
	case t.beyond(s) && p != nil && p.Goal == PrepareMaintenance:
		return p.String() + " converged to prepare_maintenance"
	case t.beyond(s):
		return "it received the shutdown record of the old primary"
	case t.rec.Fenced:
		return "the old primary stopped"
	case !t.maySolo() && t.allSatisfied(t.voted):
		return "the quorum left the old primary"
	}
	return "the demote timeout expired"
}

// stopReplication promotes the only member of the quorum behind a closed gate.
func stopReplication(t *turn) bool {
	s := t.owner()
	if s == nil || t.rec.Election == nil || t.rec.Election.Planned || !s.Stable(PreparePromotion) || t.voted(s.ID) ||
		!t.healthy(s) {
		return false
	}
	if t.maySolo() || !t.soleQuorum(s) {
		return false
	}
	p := t.old()
	if p != nil && beingDemoted(p) && p.Goal != PrepareMaintenance {
		t.goal(p, DemoteTimeout, "%s to demote_timeout and %s to stop_replication after %s converged to prepare_promotion.", p, s, s)
		return t.goal(s, StopReplication, "%s to demote_timeout and %s to stop_replication after %s converged to prepare_promotion.", p, s, s)
	}
	return t.goal(s, StopReplication, "%s to stop_replication after %s converged to prepare_promotion.", s, s)
}

// plannedGivenUp turns a planned promotion that does not get anywhere into an
// ordinary election: the old primary vanished, does not stop, or its last
// record did not arrive.
func plannedGivenUp(t *turn) bool {
	e, s := t.rec.Election, t.owner()
	if e == nil || !e.Planned || s == nil || s.Goal != PreparePromotion {
		return false
	}
	p := t.old()
	if p != nil && p.Goal.Writable() {
		return false // it is not asked to stop yet
	}
	switch {
	case t.rec.Fenced && p != nil && t.now.Sub(p.ReportedAt) <= settleWindow:
		return false
	case t.rec.Fenced || t.unreachable(p):
	case t.now.Sub(p.GoalAt) <= t.g.Settings.DemoteTimeout:
		return false
	}
	if t.rec.Fenced && s.Settled() && t.healthy(s) && t.durable(s) {
		return false
	}
	e.Planned = false
	if !t.maySolo() && t.soleQuorum(s) && !t.unhealthy(s) {
		t.event(nil, "The planned promotion of %s goes on without its old primary.", s)
		return true
	}
	t.rec.Owner = 0
	t.goal(s, ReportLSN, "%s to report_lsn to find the failover candidate", s)
	t.fanOut()
	return true
}

// askOldPrimary takes the candidate back when it cannot open, or only by
// losing something, while the old primary has stopped and is there to be asked.
func askOldPrimary(t *turn) bool {
	s, p, e := t.owner(), t.old(), t.rec.Election
	if s == nil || p == nil || e == nil || e.Planned || !s.Stable(PreparePromotion) || t.beyond(s) || t.voted(p.ID) {
		return false
	}
	if !t.rec.Fenced || !t.alive(p) || !p.Settled() || !p.Goal.In(downStates...) || p.Goal == Dropped {
		return false
	}
	if t.allSatisfied(t.voted) || e.AllowDataLoss || e.Off || t.soleQuorum(s) {
		return false
	}
	t.rec.Owner = 0
	t.goal(s, ReportLSN, "%s to report_lsn to find the failover candidate", s)
	t.goal(p, ReportLSN, "%s to report_lsn to find the failover candidate", p)
	return true
}

// candidateBehind takes back a candidate that does not have what was reported:
// what it fetched was another lineage's WAL, or it was promoted because nobody
// else was there, and the old primary came back with more.
func candidateBehind(t *turn) bool {
	s, e := t.owner(), t.rec.Election
	if s == nil || e == nil || e.AllowDataLoss || !t.allSatisfied(t.voted) || t.complete(s) || t.beyond(s) {
		return false
	}
	switch {
	case s.Stable(PreparePromotion):
		t.rec.Owner = 0
		e.Avoid, e.Prefer = s.ID, 0
		return t.goal(s, ReportLSN, "%s to report_lsn after it lacked what was reported.", s)
	case !s.Stable(StopReplication):
		return false
	case t.othersVoted(s):
		t.rec.Owner = 0
		t.strays(s)
		t.dropVote(s)
		t.goal(s, Demoted, "%s to demoted after it lacked what was reported.", s)
		t.fanOut()
		return true
	}
	p := t.old()
	if p == nil || !t.alive(p) || !p.Settled() || !p.Goal.In(downStates...) || p.Goal == Dropped {
		return false
	}
	return t.goal(p, ReportLSN, "%s to report_lsn to find the failover candidate", p)
}

// othersVoted: without s the votes suffice, and one of those who gave them can be chosen.
func (t *turn) othersVoted(s *Node) bool {
	has := func(id int64) bool {
		n := t.node(id)
		return n != nil && id != s.ID && t.voted(id) && t.mayVote(n)
	}
	return t.allSatisfied(has) && slices.ContainsFunc(t.others(s), func(n *Node) bool { return has(n.ID) && t.electable(n) })
}

// fetched: the candidate has the WAL that it lacked.
func fetched(t *turn) bool {
	s := t.owner()
	return s != nil && s.Stable(FastForward) && t.goal(s, PreparePromotion, "%s to prepare_promotion", s)
}

// fetchFailed takes a candidate back that cannot get the missing WAL: its
// source is gone, or it takes too long and another candidate may do better.
func fetchFailed(t *turn) bool {
	s, e := t.owner(), t.rec.Election
	if s == nil || e == nil || s.Goal != FastForward || s.Settled() {
		return false
	}
	late := t.now.Sub(s.GoalAt) > t.g.Settings.FastForwardTimeout
	if t.source(s, t.bestPosition()) != nil && !late {
		return false
	}
	if late {
		e.Avoid, e.Prefer = s.ID, 0
	}
	t.rec.Owner = 0
	return t.goal(s, ReportLSN, "%s to report_lsn after it could not fetch missing WAL.", s)
}

// candidateLost replaces a candidate that was lost before it was ordered to
// open, as soon as the others can do without it.
func candidateLost(t *turn) bool {
	if t.rec.Owner == 0 || t.rec.Election == nil {
		return false
	}
	s := t.owner()
	if s == nil || s.Goal == Dropped || s.Goal.MaintenanceGoal() {
		t.rec.Owner, t.rec.Election.Planned = 0, false
		t.dropVote(s)
		t.fanOut()
		return true
	}
	if !s.Goal.In(FastForward, PreparePromotion, StopReplication) || !t.unhealthy(s) || !t.canDoWithout(s) {
		return false
	}
	t.rec.Owner, t.rec.Election.Planned = 0, false
	t.dropVote(s)
	if s.Goal == StopReplication {
		t.strays(s)
		t.goal(s, Demoted, "%s to demoted after it became unhealthy.", s)
	} else {
		t.goal(s, ReportLSN, "%s to report_lsn after it became unhealthy.", s)
	}
	t.fanOut()
	return true
}

func (t *turn) dropVote(s *Node) {
	if s == nil {
		return
	}
	e := t.rec.Election
	e.Votes = slices.DeleteFunc(e.Votes, func(v Vote) bool { return v.Node == s.ID })
}

// canDoWithout: the other nodes, a stopped primary among them, suffice for an election.
func (t *turn) canDoWithout(s *Node) bool {
	p := t.old()
	has := func(id int64) bool {
		n := t.node(id)
		if n == nil || id == s.ID || n.Goal == Dropped {
			return false
		}
		if p != nil && id == p.ID {
			return t.alive(p) && p.Settled() && p.Goal.In(downStates...)
		}
		return t.mayVote(n)
	}
	if !t.allSatisfied(has) && !t.rec.Election.AllowDataLoss && (!t.rec.Election.Off || !t.maySolo()) && !t.asyncElection() {
		return false
	}
	return slices.ContainsFunc(t.others(s), func(n *Node) bool { return has(n.ID) && t.electable(n) })
}

// collectVotes asks members that came back, and an old primary that stopped, while the election is open.
func collectVotes(t *turn) bool {
	if t.rec.Election == nil || t.rec.Owner != 0 {
		return false
	}
	return t.fanOut() || t.callOld()
}

// electCandidate chooses the candidate once the votes suffice.
func electCandidate(t *turn) bool { return t.rec.Election != nil && t.elect() }

// orphanVote opens an election for nodes that wait in report_lsn without any primary to come back to.
func orphanVote(t *turn) bool {
	if t.rec.Election != nil || t.rec.Owner != 0 {
		return false
	}
	if p := t.node(t.rec.Primary); p != nil && p.Goal.Writable() {
		return false
	}
	if !slices.ContainsFunc(t.members(), func(n *Node) bool { return n.Goal == ReportLSN }) {
		return false
	}
	t.open(Election{})
	t.fanOut()
	return true
}

// followCandidate gets the others out of the election's way.
func followCandidate(t *turn) bool {
	s := t.owner()
	if s == nil || !s.Goal.In(StopReplication, WaitPrimary, Primary, Single) {
		return false
	}
	for _, n := range t.others(s) {
		if n.Stable(ReportLSN) {
			return t.goal(n, JoinSecondary, "%s to join_secondary after %s got selected as the failover candidate.", n, s)
		}
	}
	return false
}

package fsm

import (
	"slices"
	"time"
)

// settleWindow is how long the last WAL of a cleanly stopped primary may take
// to show in the candidate's reports before the planned way is given up.
const settleWindow = 2 * time.Second

// answerWindow is how long the candidate of a planned promotion may take to
// answer. Nobody waits for it but the operator: the primary still writes.
const answerWindow = 5 * time.Second

// preferWindow is how long an election whose quorum has answered waits for a
// healthy node of higher priority, which has been asked as well: who answers
// first is chance, and the priority is an operator's word.
const preferWindow = time.Second

// old is the node that the election replaces: the last primary as long as its row is there.
func (t *turn) old() *Node {
	if n := t.node(t.rec.Primary); n != nil && n.ID != t.rec.Owner {
		return n
	}
	return nil
}

// owner is the node being promoted, or nil.
func (t *turn) owner() *Node {
	if t.rec.Owner == 0 {
		return nil
	}
	return t.node(t.rec.Owner)
}

// open starts an election; what an operator said of an earlier one that never ended stays.
func (t *turn) open(e Election) {
	if was := t.rec.Election; was != nil {
		e.AllowDataLoss = e.AllowDataLoss || was.AllowDataLoss
		e.Off = e.Off || was.Off
		if e.Prefer == 0 {
			e.Prefer = was.Prefer
		}
		if e.Avoid == 0 {
			e.Avoid = was.Avoid
		}
	}
	t.rec.Election = &e
}

// own makes n the one node that is being promoted, in a new epoch and on a
// timeline that nobody else begins.
func (t *turn) own(n *Node) {
	t.rec.Epoch++
	t.rec.Owner = n.ID
	t.grant(n)
}

// asked: n can be asked for its last word. A node on its way back to being a
// standby cannot: its data directory may be half rewound, and no list counts on it.
func asked(n *Node) bool {
	switch {
	case n.Goal.In(ReportLSN, JoinSecondary):
		return true
	case n.Goal.In(Secondary, CatchingUp):
		return n.Reported.In(Secondary, CatchingUp, JoinSecondary, ReportLSN, PreparePromotion, FastForward, WaitMaintenance)
	}
	return false
}

// mayVote: n is there to answer an election that opens now.
func (t *turn) mayVote(n *Node) bool {
	return asked(n) && t.alive(n) && n.PgIsRunning
}

// candidate: n may be chosen now that it has voted.
func (t *turn) candidate(n *Node) bool {
	return t.electable(n) && n.Stable(ReportLSN) && t.healthy(n) && !t.position(n).forked
}

// electable: priority 0 is chosen only by name; read replicas never.
func (t *turn) electable(n *Node) bool {
	e := t.rec.Election
	named := e != nil && e.Prefer == n.ID
	return (n.Priority > 0 || named) && (n.Cluster == "" || n.Cluster == "default")
}

// fanOut asks every member that can vote for its last word.
func (t *turn) fanOut() bool {
	changed := false
	for _, n := range t.members() {
		if n.ID == t.rec.Owner || !asked(n) || n.Goal == ReportLSN || n.Goal == JoinSecondary && t.rec.Owner != 0 ||
			!t.alive(n) {
			continue
		}
		t.goal(n, ReportLSN, "%s to report_lsn to find the failover candidate", n)
		changed = true
	}
	return changed
}

// callOld lets nodes that stopped take part when the votes do not suffice
// without them: the primaries of the lists in force, who know best what they
// acknowledged, and with an operator's leave anybody, even on the way back
// to being a standby of a primary that is gone.
func (t *turn) callOld() bool {
	if t.allSatisfied(t.voted) && t.canElect() {
		return false
	}
	anybody := t.rec.Election.AllowDataLoss && !t.anyCandidate()
	changed := false
	for _, n := range t.members() {
		primary := n.ID == t.rec.Primary || slices.ContainsFunc(t.rec.Lists, func(l List) bool { return l.Primary == n.ID })
		stopped := n.Settled() && n.Goal.In(Draining, DemoteTimeout, Demoted, PrepareMaintenance)
		returning := !n.Settled() && n.Goal == CatchingUp && n.Reported != WaitStandby
		if t.alive(n) && (stopped && primary && !t.stray(n.ID) || (stopped || returning) && anybody) {
			changed = t.goal(n, ReportLSN, "%s to report_lsn to find the failover candidate", n) || changed
		}
	}
	return changed
}

// canElect: some candidate has what was reported, or can fetch it.
func (t *turn) canElect() bool {
	best := t.bestPosition()
	return slices.ContainsFunc(t.members(), func(n *Node) bool {
		return t.candidate(n) && (t.position(n).compare(best) >= 0 || t.source(n, best) != nil)
	})
}

func (t *turn) anyCandidate() bool { return slices.ContainsFunc(t.members(), t.candidate) }

// durable: what was acknowledged so far is on s.
func (t *turn) durable(s *Node) bool {
	if t.rec.Election.AllowDataLoss || t.beyond(s) {
		return true
	}
	if t.rec.Primary == s.ID {
		return true
	}
	if t.allSatisfied(t.voted) {
		return t.complete(s)
	}
	// A stopped primary left nothing acknowledged that its whole quorum lacks.
	// But what it wrote last without asking anybody is worth waiting for, if it stopped cleanly.
	if t.rec.Fenced && (!t.rec.Election.Planned || t.rec.FinalLSN == 0) && t.soleQuorum(s) {
		return true
	}
	return t.waited(s)
}

// complete: what s reports now has everything that was reported, on one lineage.
func (t *turn) complete(s *Node) bool {
	at := t.where(s, s.TLI, s.LSN)
	return !at.forked && at.compare(t.bestPosition()) >= 0
}

// soleQuorum: s alone holds everything that was acknowledged under the lists in force.
func (t *turn) soleQuorum(s *Node) bool {
	return t.allSatisfied(func(id int64) bool { return id == s.ID })
}

// exclusive: the old primary acknowledges nothing any more.
func (t *turn) exclusive(s *Node) bool {
	if t.rec.Primary == 0 || t.rec.Fenced || t.rec.Primary == s.ID {
		return true
	}
	if !t.maySolo() && t.allSatisfied(t.voted) {
		return true
	}
	return t.waited(s)
}

// waited: the old primary may have acknowledged alone and has not said that
// it stopped, but the group is asynchronous by choice or an operator gave his
// word: after the last final report it gets the demote timeout to fence itself.
func (t *turn) waited(s *Node) bool {
	e := t.rec.Election
	if !t.asyncElection() && !e.AllowDataLoss && (!e.Off || !t.quorumsSatisfied()) {
		return false
	}
	if e.Async && !e.AllowDataLoss && !t.followersGone() {
		return false
	}
	last := t.g.MonitorStart
	if p := t.old(); p != nil && !e.AllowDataLoss {
		// Each report that is answered starts its clock again; while it is heard
		// its own word is on the way.
		last = later(last, p.Seen)
	}
	for _, n := range t.members() {
		if t.voted(n.ID) || n.ID == s.ID {
			last = later(last, n.ReportedAt)
		} else if n.Goal == ReportLSN && t.alive(n) && t.now.Sub(n.GoalAt) <= t.g.Settings.DemoteTimeout {
			return false
		}
	}
	return t.now.Sub(last) > t.g.Settings.DemoteTimeout
}

// followersGone: none of the old primary's standbys streams from it any more,
// by their own word. One that does would keep it from fencing itself.
func (t *turn) followersGone() bool {
	return !slices.ContainsFunc(t.rec.Election.Followers, func(id int64) bool { return !t.voted(id) })
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// asyncElection: the old primary had no quorum standby by choice, and was in a
// state in which it fences itself when it is cut off. One in single or
// wait_primary does not: it may be all there is, so that only its word counts.
func (t *turn) asyncElection() bool {
	if slices.ContainsFunc(t.rec.Lists, func(l List) bool { return !l.Empty() }) {
		return false
	}
	if e := t.rec.Election; e != nil {
		return e.Async
	}
	return t.fencesAsync(t.node(t.rec.Primary))
}

func (t *turn) fencesAsync(p *Node) bool {
	fencing := []State{Primary, ApplySettings, JoinPrimary}
	return p != nil && t.asyncByChoice(p) && p.Goal.In(fencing...) && p.Reported.In(fencing...)
}

// openFor orders s to open for writes: its list, the old primary's way back
// and the followers' new upstream are part of the same decision.
func (t *turn) openFor(s *Node, why string) {
	p := t.old()
	goal, list := WaitPrimary, t.openingList(s)
	if len(t.members()) == 1 {
		goal = Single
	}
	if p != nil && t.oldGoal(p) != p.Goal {
		t.order(s, goal, "%s to %s and %s to %s after %s.", s, goal, p, t.oldGoal(p), why)
		t.order(p, t.oldGoal(p), "%s to %s and %s to %s after %s.", s, goal, p, t.oldGoal(p), why)
	} else {
		t.order(s, goal, "%s to %s after %s.", s, goal, why)
	}
	t.strayBeyond(s)
	for _, n := range t.others(s) {
		if n.Goal.In(ReportLSN, JoinSecondary) && slices.Contains(t.rec.Strays, n.ID) {
			// The new primary may take the same timeline number for another
			// timeline: only a rewind tells them apart.
			t.goal(n, Demoted, "%s to demoted after %s got selected as the failover candidate.", n, s)
		}
	}
	t.rec.Strays = slices.DeleteFunc(t.rec.Strays, func(id int64) bool { return id == s.ID })
	if s.TLI != 0 && s.TLI < t.rec.Timeline {
		// What is on later timelines is left behind: should s never say that it
		// opened, the others are measured on its line and not on that of a stray.
		t.rec.Timeline = s.TLI
	}
	t.rec.Primary, t.rec.Owner = s.ID, s.ID
	t.rec.Fenced, t.rec.FinalTLI, t.rec.FinalLSN = false, 0, 0
	t.push(s, list)
	for _, n := range t.others(s) {
		if n.Goal.In(Secondary, CatchingUp) && n.Reported != WaitStandby {
			t.order(n, CatchingUp, "%s to catchingup to follow %s.", n, s)
		}
	}
}

// strayBeyond marks the nodes on timelines that s does not know, when an
// operator's leave promotes one that is behind: the number of its new timeline
// may be theirs as well.
func (t *turn) strayBeyond(s *Node) {
	for _, n := range t.others(s) {
		if s.TLI != 0 && (n.TLI > s.TLI || n.TLI == s.TLI && s.Reported == StopReplication) {
			t.strays(n)
		}
	}
}

// oldGoal is where the old primary goes once the new one opens.
func (t *turn) oldGoal(p *Node) State {
	switch {
	case p.Goal == PrepareMaintenance:
		return Maintenance
	case p.Goal.In(Draining, DemoteTimeout) || p.Goal.Writable():
		return Demoted
	}
	return p.Goal
}

// elect chooses the candidate once the votes suffice.
func (t *turn) elect() bool {
	e := t.rec.Election
	if t.rec.Owner != 0 || !t.votesSuffice() {
		return false
	}
	best := t.bestPosition()
	candidates := slices.DeleteFunc(t.members(), func(n *Node) bool { return !t.candidate(n) })
	if len(candidates) == 0 && e.AllowDataLoss {
		candidates = slices.DeleteFunc(t.members(), func(n *Node) bool {
			return !t.electable(n) || !n.Stable(ReportLSN) || !t.healthy(n)
		})
	}
	slices.SortFunc(candidates, t.byMerit)
	for _, s := range candidates {
		// A forked node, which only an operator's leave brings here, can fetch nothing.
		complete := t.position(s).forked || t.position(s).compare(best) >= 0
		if !complete && t.wantsAsyncThreshold(s) || complete && t.stranger(s) {
			continue
		}
		src := t.source(s, best)
		if !complete && src == nil && !e.AllowDataLoss {
			continue
		}
		t.own(s)
		e.Source = 0
		if complete || src == nil {
			t.goal(s, PreparePromotion, "%s to prepare_promotion and %d nodes reported their LSN position.", s, len(e.Votes))
		} else {
			e.Source = src.ID
			t.goal(s, FastForward, "%s to fast_forward after %d nodes reported their LSN position.", s, len(e.Votes))
		}
		return true
	}
	return false
}

// votesSuffice: what the old primary acknowledged is known to those who voted.
func (t *turn) votesSuffice() bool {
	e := t.rec.Election
	if len(e.Votes) == 0 {
		return false
	}
	if t.allSatisfied(t.voted) || e.AllowDataLoss || e.Off && t.quorumsSatisfied() {
		return t.allAsked()
	}
	if t.asyncElection() {
		return t.followersGone() && t.allAsked()
	}
	return t.rec.Fenced && t.rec.FinalLSN != 0 && slices.ContainsFunc(t.members(), func(n *Node) bool {
		return t.candidate(n) && t.beyond(n)
	})
}

// allAsked: where the quorum does not decide, every live member that was asked
// has answered, or had long enough to; where it does, those that would win have.
func (t *turn) allAsked() bool {
	e := t.rec.Election
	if t.allSatisfied(t.voted) && !t.maySolo() && !e.AllowDataLoss {
		return !t.betterIsComing()
	}
	return !slices.ContainsFunc(t.members(), func(n *Node) bool {
		return n.Goal == ReportLSN && !t.answered(n.ID) && t.alive(n) && t.now.Sub(n.GoalAt) <= t.g.Settings.DemoteTimeout
	})
}

// betterIsComing: a healthy node that would win by the operator's word has been
// asked a moment ago and has not answered yet.
func (t *turn) betterIsComing() bool {
	e := t.rec.Election
	highest, found := 0, false
	for _, n := range t.members() {
		if t.candidate(n) {
			if n.ID == e.Prefer {
				return false
			}
			highest, found = max(highest, n.Priority), true
		}
	}
	return found && slices.ContainsFunc(t.members(), func(n *Node) bool {
		return n.Goal == ReportLSN && !t.answered(n.ID) && t.electable(n) && t.healthy(n) && n.ID != e.Avoid &&
			(n.ID == e.Prefer || n.Priority > highest) && t.now.Sub(n.GoalAt) <= preferWindow
	})
}

// bestPosition is the most advanced of all votes, those of nodes that are gone included.
func (t *turn) bestPosition() position {
	var best position
	for _, v := range t.rec.Election.Votes {
		at := t.where(t.node(v.Node), v.TLI, v.LSN)
		at.forked, at.told = false, false // up to where it forked its WAL is the reference's
		if at.compare(best) > 0 {
			best = at
		}
	}
	return best
}

// wantsAsyncThreshold: nothing but the threshold protects the writes of a
// primary that acknowledged alone, so a candidate too far behind, or one that
// never followed this primary, is left out.
func (t *turn) wantsAsyncThreshold(s *Node) bool {
	p := t.old()
	return t.asyncElection() && p != nil && !t.rec.Election.AllowDataLoss &&
		(s.TLI != t.rec.Timeline || !within(s, p, t.g.Settings.PromoteThreshold))
}

// stranger: the old primary was removed by force, and s never followed it: what
// that one acknowledged, to the others as well, s has none of.
func (t *turn) stranger(s *Node) bool {
	e := t.rec.Election
	return e.Off && !e.AllowDataLoss && s.TLI < t.rec.Timeline && !t.allSatisfied(t.voted)
}

// byMerit: the node asked for by name, then those not handing over, then
// priority, position and id.
func (t *turn) byMerit(a, b *Node) int {
	e := t.rec.Election
	if (a.ID == e.Prefer) != (b.ID == e.Prefer) {
		return before(a.ID == e.Prefer)
	}
	if (a.ID == e.Avoid) != (b.ID == e.Avoid) {
		return before(b.ID == e.Avoid)
	}
	if a.Priority != b.Priority {
		return b.Priority - a.Priority
	}
	if c := t.position(b).compare(t.position(a)); c != 0 {
		return c
	}
	return byPreference(a, b)
}

func before(first bool) int {
	if first {
		return -1
	}
	return 1
}

// source is the most advanced node that s can fetch missing WAL from, or nil:
// it has everything up to best, or is at least ahead of s where an operator allowed loss.
func (t *turn) source(s *Node, best position) *Node {
	var found *Node
	for _, n := range t.members() {
		if n.ID == s.ID || !n.Stable(ReportLSN) || !t.healthy(n) || t.position(n).forked {
			continue
		}
		at := t.position(n)
		if at.compare(best) < 0 && !t.rec.Election.AllowDataLoss || at.compare(t.position(s)) <= 0 {
			continue
		}
		if found == nil || at.compare(t.position(found)) > 0 {
			found = n
		}
	}
	return found
}

package fsm

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// rule is one row of the monitor's table. when looks at the group, writes what
// should change into the turn and reports whether anything should.
type rule struct {
	id   RuleID
	when func(*turn) bool
	doc  string // one sentence for the operator's manual
}

// rules returns the monitor's table in the order of evaluation; the first rule
// that applies decides. Positions below 500 are those of the upstream rules
// that a row stems from; the others are our own.
func rules() []rule {
	return []rule{
		{RuleID{201, "removed"}, removed, "A node that reported dropped: its row goes."},
		{RuleID{508, "hand-over"}, handOver, "The candidate of a planned promotion has answered and is close behind: the primary stops. One that does not get ready is given up, and the primary goes on."},
		{RuleID{101, "request"}, intents, "What operators asked for, oldest first: failover, promotion, maintenance, removal, changed settings."},
		{RuleID{207, "fenced-back"}, fencedBack, "A primary that fenced itself, and that was left behind meanwhile, goes to demoted first."},
		{RuleID{209, "left-alone"}, leftAlone, "The last node of a group: a primary goes on as single, a standby by way of an election."},

		{RuleID{502, "ask-old-primary"}, askOldPrimary, "The old primary stopped and is there to be asked, and the candidate lacks what it may have."},
		{RuleID{504, "candidate-behind"}, candidateBehind, "The candidate does not have what was reported."},
		{RuleID{341, "promotion-ready"}, promotionReady, "The candidate has what was acknowledged, and the old primary acknowledges nothing any more: it opens."},
		{RuleID{501, "planned-given-up"}, plannedGivenUp, "A planned promotion whose old primary vanished or whose last record did not arrive becomes an unplanned one."},
		{RuleID{339, "stop-replication"}, stopReplication, "The candidate is the whole quorum: it is promoted behind a closed gate, which ends its receiver."},
		{RuleID{311, "fetched"}, fetched, "The candidate has fetched the WAL that it lacked."},
		{RuleID{363, "fetch-failed"}, fetchFailed, "The candidate cannot fetch the WAL that it lacks: its source is gone, or it takes too long."},
		{RuleID{503, "candidate-lost"}, candidateLost, "The candidate is gone before it opened, and the others suffice without it."},
		{RuleID{514, "coordinator-away"}, coordinatorAway, "A worker is to be promoted and the coordinator has not taken up its address for a while: history says so, nothing else changes."},
		{RuleID{325, "primary-failed-pair"}, primaryFailed2, "The primary of two nodes is unhealthy and its standby is the whole quorum."},
		{RuleID{391, "primary-failed"}, primaryFailed, "The primary is unhealthy and enough of its voters are there: an election opens."},
		{RuleID{505, "orphan-vote"}, orphanVote, "Nodes wait in report_lsn and there is no primary: they elect one."},
		{RuleID{367, "collect-votes"}, collectVotes, "Nodes that come back during an election, and an old primary that stopped, are asked as well."},
		{RuleID{375, "elect-candidate"}, electCandidate, "The votes suffice: the candidate is chosen by priority, then by WAL; it fetches WAL first when it lacks some."},
		{RuleID{365, "follow-candidate"}, followCandidate, "The voters that were not chosen wait for the new primary."},

		{RuleID{401, "first-standby"}, firstStandby, "A lone primary prepares for its first standby."},
		{RuleID{403, "standby-lost"}, standbyLost, "A secondary that is unhealthy or has stopped streaming loses its role."},
		{RuleID{405, "all-async"}, allAsync, "No standby takes part in the quorum: the list is empty."},
		{RuleID{407, "quorum-lost"}, quorumLost, "The last quorum standby is gone and number_sync_standbys is 0: writes go on alone."},
		{RuleID{411, "quorum-back"}, quorumBack, "Enough quorum standbys stream: commits wait for them again."},
		{RuleID{413, "settings-applied"}, settingsApplied, "The primary has seen that settings changed: it gets the list of the day."},
		{RuleID{506, "list-unreachable"}, listUnreachable, "The voters that the primary waits for are gone, and there is a better list."},
		{RuleID{507, "list-changed"}, listChanged, "The list of synchronous standbys that the primary should have is not the one it has."},
		{RuleID{509, "open-list-changed"}, openListChanged, "The same for a primary in wait_primary, when number_sync_standbys changed between 0 and more."},
		{RuleID{421, "join-primary"}, joinPrimary, "A primary that an older node service left in join_primary."},

		{RuleID{301, "diverged-secondary"}, divergedSecondary, "A secondary whose timeline is not the primary's history is rewound."},
		{RuleID{307, "voter-returns"}, voterReturns, "A node that took part in an election follows the new primary."},
		{RuleID{315, "may-clone"}, mayClone, "A new standby may copy the primary."},
		{RuleID{321, "caught-up"}, caughtUp, "A standby streams on the primary's timeline: it is close behind, or has streamed without a break for a moment."},
		{RuleID{513, "catchup-stalled"}, catchupStalled, "A standby rests in catchingup and does not stream: it is told once more."},
		{RuleID{327, "maintenance-ready"}, maintenanceReady, "A standby may go to maintenance: the primary no longer waits for it."},
		{RuleID{347, "primary-to-maintenance"}, primaryToMaintenance, "An old primary ends its way to maintenance once another one is open."},
		{RuleID{357, "demoted-returns"}, demotedReturns, "An old primary that stopped follows the new one."},
		{RuleID{511, "demote-orphan"}, demoteOrphan, "A node that an earlier promotion left half-way is demoted and rejoins."},
	}
}

// Rules lists the rules of the monitor's table in the order of evaluation.
func Rules() []RuleID {
	table := rules()
	ids := make([]RuleID, len(table))
	for i, r := range table {
		ids[i] = r.id
	}
	return ids
}

// Decide returns the first thing that should change in the group, and the rule
// that says so. A decision without changes means that the group rests; its
// Waiting then says what a group at rest is waiting for, if it should not rest.
func Decide(g Group, now time.Time) (Decision, error) { return decide(g, now, rules()) }

func decide(g Group, now time.Time, table []rule) (Decision, error) {
	if !slices.IsSortedFunc(g.Nodes, func(a, b Node) int { return int(a.ID - b.ID) }) {
		return Decision{}, errors.New("decide group: nodes are not in id order")
	}
	t := newTurn(g, now)
	t.absorb()
	for _, r := range table {
		if r.when(t) {
			t.d.Rule = r.id
			return t.finish(), nil
		}
	}
	d := t.finish()
	if d.RecordChanged {
		d.Rule = RuleID{Name: "record"}
	}
	d.Waiting = t.waiting()
	return d, nil
}

func (t *turn) finish() Decision {
	t.d.Record = t.rec
	t.d.RecordChanged = !t.rec.equal(t.g.Record)
	return t.d
}

func (r Record) equal(o Record) bool {
	same := r.Epoch == o.Epoch && r.Owner == o.Owner && r.Primary == o.Primary && r.Fenced == o.Fenced &&
		r.FinalTLI == o.FinalTLI && r.FinalLSN == o.FinalLSN && r.Timeline == o.Timeline && r.Told == o.Told &&
		r.Timelines == o.Timelines && slices.Equal(r.Grants, o.Grants) && slices.Equal(r.Removed, o.Removed) &&
		slices.Equal(r.Strays, o.Strays) && slices.EqualFunc(r.Lists, o.Lists, func(a, b List) bool {
		return a.Number == b.Number && a.Primary == b.Primary && a.K == b.K && slices.Equal(a.Voters, b.Voters)
	})
	if !same || (r.Election == nil) != (o.Election == nil) {
		return false
	}
	if r.Election == nil {
		return true
	}
	a, b := *r.Election, *o.Election
	return slices.Equal(a.Votes, b.Votes) && a.AllowDataLoss == b.AllowDataLoss && a.Prefer == b.Prefer &&
		a.Avoid == b.Avoid && a.Planned == b.Planned && a.Then == b.Then && a.Named == b.Named && a.Off == b.Off && a.Async == b.Async &&
		a.Source == b.Source && slices.Equal(a.Followers, b.Followers)
}

// Apply returns the group as it is once d is stored at the time now.
func Apply(g Group, d Decision, now time.Time) Group {
	g.Nodes = slices.Clone(g.Nodes)
	for _, a := range d.Assign {
		for i := range g.Nodes {
			if n := &g.Nodes[i]; n.ID == a.Node {
				n.Goal = a.Goal
				n.GoalNumber++
				n.GoalAt = now
			}
		}
	}
	g.Nodes = slices.DeleteFunc(g.Nodes, func(n Node) bool { return slices.Contains(d.Remove, n.ID) })
	g.Intents = slices.DeleteFunc(slices.Clone(g.Intents), func(i Intent) bool {
		return slices.ContainsFunc(d.Close, func(c Closing) bool { return c.Intent == i.ID })
	})
	if d.RecordChanged {
		g.Record = d.Record
	}
	if d.NumberSyncStandbys != nil {
		g.Formation.NumberSyncStandbys = *d.NumberSyncStandbys
	}
	return g
}

// Settle applies Decide until nothing changes. It returns the group after all
// of it, the decisions in order, and what the group waits for. More decisions
// than any group can need in one go are an error: a pair of rules undoes each other.
func Settle(g Group, now time.Time) (Group, []Decision, string, error) {
	var made []Decision
	for limit := 50 + 10*(len(g.Nodes)+len(g.Intents)); ; limit-- {
		d, err := Decide(g, now)
		if err != nil {
			return g, made, "", err
		}
		if !d.Changes() {
			return g, made, d.Waiting, nil
		}
		if limit == 0 {
			return g, made, "", fmt.Errorf("settle group %s/%d: no end of decisions, the last by rule %q",
				g.Formation.ID, g.ID, d.Rule.Name)
		}
		made = append(made, d)
		g = Apply(g, d, now)
	}
}

// NextDeadline returns the soonest time after now at which the mere passing of
// time may change a decision; ok is false when there is none.
func NextDeadline(g Group, now time.Time) (soonest time.Time, ok bool) {
	t := newTurn(g, now)
	s := g.Settings
	note := func(at time.Time) {
		if at.After(now) && (!ok || at.Before(soonest)) {
			soonest, ok = at, true
		}
	}
	const instant = time.Millisecond // limits are passed, not reached
	note(g.MonitorStart.Add(s.StartupGrace + instant))
	for i := range g.Nodes {
		n := &g.Nodes[i]
		note(t.lastSeen(n).Add(t.patience(n) + instant))
		note(later(n.StreamingAt, g.MonitorStart).Add(steadyStream + instant))
		note(later(n.StreamingAt, g.MonitorStart).Add(s.StallTimeout/2 + instant))
		note(later(n.StreamingAt, g.MonitorStart).Add(s.StallTimeout + instant))
		note(later(n.ReportedAt, g.MonitorStart).Add(s.SessionlessTimeout + instant))
		note(later(n.GoalAt, g.MonitorStart).Add(s.StallTimeout + instant))
		if g.Record.Election == nil && g.Record.Owner == 0 {
			continue
		}
		note(later(n.ReportedAt, g.MonitorStart).Add(s.DemoteTimeout + instant))
		note(n.ReportedAt.Add(settleWindow + instant))
		note(n.GoalAt.Add(s.DemoteTimeout + instant))
		note(n.GoalAt.Add(answerWindow + instant))
		note(n.GoalAt.Add(preferWindow + instant))
		note(later(n.GoalAt, g.MonitorStart).Add(settleWindow + instant))
		note(later(n.Seen, g.MonitorStart).Add(s.DemoteTimeout + instant))
		note(n.GoalAt.Add(s.FastForwardTimeout + instant))
	}
	for _, i := range g.Intents {
		note(i.At.Add(s.IntentTimeout + instant))
	}
	return soonest, ok
}

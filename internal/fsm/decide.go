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
}

// rules returns the monitor's table in the order of evaluation; the first rule
// that applies decides. Positions below 500 are those of the upstream rules
// that a row stems from; the others are our own.
func rules() []rule {
	return []rule{
		{RuleID{201, "removed"}, removed},
		{RuleID{101, "request"}, intents},
		{RuleID{207, "fenced-back"}, fencedBack},
		{RuleID{209, "left-alone"}, leftAlone},

		{RuleID{341, "promotion-ready"}, promotionReady},
		{RuleID{501, "planned-given-up"}, plannedGivenUp},
		{RuleID{339, "stop-replication"}, stopReplication},
		{RuleID{311, "fetched"}, fetched},
		{RuleID{363, "fetch-failed"}, fetchFailed},
		{RuleID{503, "candidate-lost"}, candidateLost},
		{RuleID{325, "primary-failed-pair"}, primaryFailed2},
		{RuleID{391, "primary-failed"}, primaryFailed},
		{RuleID{505, "orphan-vote"}, orphanVote},
		{RuleID{367, "collect-votes"}, collectVotes},
		{RuleID{375, "elect-candidate"}, electCandidate},
		{RuleID{365, "follow-candidate"}, followCandidate},

		{RuleID{401, "first-standby"}, firstStandby},
		{RuleID{403, "standby-lost"}, standbyLost},
		{RuleID{405, "all-async"}, allAsync},
		{RuleID{407, "quorum-lost"}, quorumLost},
		{RuleID{411, "quorum-back"}, quorumBack},
		{RuleID{413, "settings-applied"}, settingsApplied},
		{RuleID{507, "list-changed"}, listChanged},
		{RuleID{509, "open-list-changed"}, openListChanged},
		{RuleID{421, "join-primary"}, joinPrimary},

		{RuleID{301, "diverged-secondary"}, divergedSecondary},
		{RuleID{307, "voter-returns"}, voterReturns},
		{RuleID{315, "may-clone"}, mayClone},
		{RuleID{321, "caught-up"}, caughtUp},
		{RuleID{327, "maintenance-ready"}, maintenanceReady},
		{RuleID{347, "primary-to-maintenance"}, primaryToMaintenance},
		{RuleID{357, "demoted-returns"}, demotedReturns},
		{RuleID{511, "demote-orphan"}, demoteOrphan},
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
		r.FinalTLI == o.FinalTLI && r.FinalLSN == o.FinalLSN && r.Timeline == o.Timeline &&
		slices.Equal(r.Removed, o.Removed) && slices.EqualFunc(r.Lists, o.Lists, func(a, b List) bool {
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
		a.Avoid == b.Avoid && a.Planned == b.Planned && a.Off == b.Off
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
		note(later(n.StreamingAt, g.MonitorStart).Add(s.StallTimeout + instant))
		note(later(n.ReportedAt, g.MonitorStart).Add(s.SessionlessTimeout + instant))
		if g.Record.Election == nil && g.Record.Owner == 0 {
			continue
		}
		note(later(n.ReportedAt, g.MonitorStart).Add(s.DemoteTimeout + instant))
		note(n.ReportedAt.Add(settleWindow + instant))
		note(n.GoalAt.Add(s.DemoteTimeout + instant))
		note(n.GoalAt.Add(s.FastForwardTimeout + instant))
	}
	for _, i := range g.Intents {
		note(i.At.Add(s.IntentTimeout + instant))
	}
	return soonest, ok
}

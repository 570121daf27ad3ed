package fsm

import (
	"fmt"
	"slices"
	"strings"
)

const overrideHint = "run pgdrover perform failover --allow-data-loss to go on without it"

// waiting says why a group that should be moving is not, and what helps.
func (t *turn) waiting() string {
	switch e := t.rec.Election; {
	case e != nil && t.rec.Owner == 0:
		return t.waitingForVotes()
	case e != nil:
		return t.waitingForOwner()
	}
	p := t.node(t.rec.Primary)
	if p == nil || !p.Goal.Writable() || !t.unhealthy(p) || len(t.members()) < 2 {
		return ""
	}
	if t.getsUp(p) || p.Reported == Init {
		return ""
	}
	if t.maySolo() && !t.asyncElection() {
		return fmt.Sprintf("%s is not healthy and may have acknowledged writes that no standby has: "+
			"it is not replaced unless it says that it stopped; bring it back, or %s", p, overrideHint)
	}
	if !slices.ContainsFunc(t.others(p), t.electable) {
		return fmt.Sprintf("%s is not healthy and no other node has a candidate priority above zero: "+
			"set one, or run pgdrover perform promotion --name for the node to promote", p)
	}
	return fmt.Sprintf("%s is not healthy and too few of the nodes that hold its acknowledged writes are there to replace it: "+
		"bring %s back, or %s", p, t.missing(t.potential(p)), overrideHint)
}

func (t *turn) waitingForVotes() string {
	e := t.rec.Election
	switch {
	case t.maySolo() && !t.asyncElection() && !e.AllowDataLoss && !e.Off && !t.allSatisfied(t.voted):
		return fmt.Sprintf("the election waits for the old primary, node %d, which may have acknowledged writes that no standby has; "+
			"bring it back, or %s", t.rec.Primary, overrideHint)
	case e.Async && !t.followersGone():
		return fmt.Sprintf("the election waits for the final report of every standby that followed node %d, which may still stream from it; "+
			"bring them back, or %s", t.rec.Primary, overrideHint)
	case t.allSatisfied(t.voted) && !t.maySolo() && !e.AllowDataLoss && t.betterIsComing():
		return "the election gives the preferred node a moment to answer"
	case !t.votesSuffice():
		return fmt.Sprintf("the election waits for the final report of %s; bring it back, or %s", t.missing(t.voted), overrideHint)
	case !slices.ContainsFunc(t.members(), t.electable):
		return "no node has a candidate priority above zero: set one, or run pgdrover perform promotion --name for the node to promote"
	}
	return "the election waits for a healthy candidate that has, or can fetch, everything that was reported; " + overrideHint
}

func (t *turn) waitingForOwner() string {
	s := t.owner()
	if p := t.old(); t.rec.Election.Planned && p != nil && (p.Goal.Writable() || t.now.Sub(p.GoalAt) <= settleWindow) {
		return "" // it takes a moment: nothing is wrong yet
	}
	if w := t.announcing(); w != nil {
		return waitingForCoordinator(w)
	}
	if s != nil && s.Goal.Writable() && t.unhealthy(s) {
		return fmt.Sprintf("%s was ordered to open and is not healthy, and too few of the others are there to replace it: "+
			"bring it or %s back, or %s", s, t.missing(t.potential(s)), overrideHint)
	}
	if s == nil || !s.Settled() || !s.Goal.In(PreparePromotion, StopReplication) {
		return ""
	}
	if !t.exclusive(s) && t.asyncElection() || t.rec.Election.AllowDataLoss || t.rec.Election.Off {
		return fmt.Sprintf("%s opens once the demote timeout of %s has passed, as the old primary may still acknowledge writes",
			s, t.g.Settings.DemoteTimeout)
	}
	if !t.exclusive(s) {
		return fmt.Sprintf("%s waits until node %d, the old primary, has stopped", s, t.rec.Primary)
	}
	if !t.durable(s) {
		return fmt.Sprintf("%s waits for the last record of node %d, the old primary", s, t.rec.Primary)
	}
	return fmt.Sprintf("%s is chosen and does not answer", s)
}

// missing names the voters whose word is lacking.
func (t *turn) missing(has func(int64) bool) string {
	var names []string
	for _, l := range t.rec.Lists {
		if t.satisfied(l, has) {
			continue
		}
		for _, id := range l.Voters {
			if has(id) {
				continue
			}
			name := fmt.Sprintf("node %d", id)
			if n := t.node(id); n != nil {
				name = n.String()
			}
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return "a standby that can be promoted"
	}
	return strings.Join(names, " or ")
}

package sim

import (
	"slices"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// RealRules are the functions of fsm with one safeguard switched off, or none.
func RealRules(broken Mutation) *Rules {
	return &Rules{
		Decide: fsm.Decide, CheckIntent: fsm.CheckIntent, FirstGoal: fsm.FirstGoal, Broken: broken,
		plain: newEdgeTable(fsm.Standalone), worker: newEdgeTable(fsm.Worker),
	}
}

// decide is Decide behind the switch.
func (r *Rules) decide(g fsm.Group, now time.Time) (fsm.Decision, error) {
	switch r.Broken {
	case ListsForgotten, VotersRecounted, OneVoteEnough, DegradedReplaced:
		return r.decideOnOtherLists(g, now)
	case NoFencing:
		return r.decideUnfenced(g, now)
	case NoDemoteWait:
		g.Settings.DemoteTimeout = 0
	case LoneOrder:
		return r.decideAlone(g, now)
	case DeafDecides:
		return r.Decide(everybodyHeard(g, now), now)
	default:
	}
	return r.Decide(g, now)
}

// everybodyHeard is the group as if all but its primary had just reported.
func everybodyHeard(g fsm.Group, now time.Time) fsm.Group {
	g.Nodes = slices.Clone(g.Nodes)
	for i := range g.Nodes {
		if n := &g.Nodes[i]; n.ID != g.Record.Primary && !n.Seen.IsZero() {
			n.Seen, n.Session = now, fsm.SessionHeld
		}
	}
	return g
}

// decideOnOtherLists shows Decide other lists than those in force and puts the
// true ones back into its answer.
func (r *Rules) decideOnOtherLists(g fsm.Group, now time.Time) (fsm.Decision, error) {
	truth := g.Record.Lists
	if len(truth) == 0 {
		return r.Decide(g, now)
	}
	shown := slices.Clone(truth)
	switch r.Broken {
	case ListsForgotten:
		shown = shown[len(shown)-1:]
	case OneVoteEnough:
		for i := range shown {
			shown[i].K = max(shown[i].K, len(shown[i].Voters))
		}
	case DegradedReplaced:
		for i, l := range shown {
			if l.Empty() && primaryInTrouble(g) {
				shown[i] = fullList(g, l)
			}
		}
	case VotersRecounted:
		if g.Record.Election != nil {
			for i, l := range shown {
				shown[i].Voters = reachable(g, l.Voters)
			}
		}
	default:
	}
	g.Record.Lists = shown
	d, err := r.Decide(g, now)
	lists := slices.Clone(d.Record.Lists)
	for i, l := range lists {
		for n, s := range shown {
			if s.Number == l.Number {
				lists[i] = truth[len(truth)-len(shown)+n]
			}
		}
	}
	if len(lists) == len(shown) && r.Broken != ListsForgotten && sameNumbers(lists, truth) {
		lists = truth
	}
	d.Record.Lists = lists
	return d, err
}

func sameNumbers(a, b []fsm.List) bool {
	return slices.EqualFunc(a, b, func(x, y fsm.List) bool { return x.Number == y.Number })
}

// primaryInTrouble: an election is open, or about to be.
func primaryInTrouble(g fsm.Group) bool {
	i := slices.IndexFunc(g.Nodes, func(n fsm.Node) bool { return n.ID == g.Record.Primary })
	return g.Record.Election != nil || i >= 0 && (g.Nodes[i].Health == fsm.HealthBad || !g.Nodes[i].PgIsRunning)
}

// fullList makes a list that allows lone acknowledgement look like one that does not.
func fullList(g fsm.Group, l fsm.List) fsm.List {
	for _, n := range g.Nodes {
		if n.Quorum && n.ID != l.Primary && n.Goal.In(fsm.Secondary, fsm.CatchingUp, fsm.ReportLSN, fsm.PreparePromotion, fsm.StopReplication) {
			l.Voters = append(slices.Clone(l.Voters), n.ID)
		}
	}
	l.K = len(l.Voters)
	return l
}

func reachable(g fsm.Group, voters []int64) []int64 {
	kept := slices.DeleteFunc(slices.Clone(voters), func(id int64) bool {
		i := slices.IndexFunc(g.Nodes, func(n fsm.Node) bool { return n.ID == id })
		return i < 0 || g.Nodes[i].Session == fsm.SessionLost || g.Nodes[i].Health == fsm.HealthBad
	})
	if len(kept) == 0 {
		return voters
	}
	return kept
}

// decideUnfenced opens the candidate at once, whoever has answered.
func (r *Rules) decideUnfenced(g fsm.Group, now time.Time) (fsm.Decision, error) {
	if g.Record.Election == nil || g.Record.Election.AllowDataLoss {
		return r.Decide(g, now)
	}
	e := *g.Record.Election
	e.AllowDataLoss = true
	g.Record.Election = &e
	g.Settings.DemoteTimeout = 0
	d, err := r.Decide(g, now)
	if d.Record.Election != nil {
		e = *d.Record.Election
		e.AllowDataLoss = false
		d.Record.Election = &e
	}
	return d, err
}

// decideAlone tells an old primary to go on alone when an election opens.
func (r *Rules) decideAlone(g fsm.Group, now time.Time) (fsm.Decision, error) {
	d, err := r.Decide(g, now)
	if err != nil || g.Record.Election != nil || d.Record.Election == nil || g.Formation.NumberSyncStandbys > 0 {
		return d, err
	}
	for i, a := range d.Assign {
		if a.Node == g.Record.Primary && a.Goal == fsm.Draining {
			d.Assign[i].Goal = fsm.WaitPrimary
		}
	}
	return d, err
}

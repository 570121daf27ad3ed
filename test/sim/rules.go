package sim

import (
	"slices"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// RealRules are the functions of fsm with one safeguard switched off, or none.
func RealRules(broken Mutation) *Rules {
	return &Rules{Decide: fsm.Decide, CheckIntent: fsm.CheckIntent, FirstGoal: fsm.FirstGoal, Broken: broken,
		plain: newEdgeTable(fsm.Standalone), worker: newEdgeTable(fsm.Worker)}
}

// decide is Decide behind the switch.
func (r *Rules) decide(g fsm.Group, now time.Time) (fsm.Decision, error) {
	switch r.Broken {
	case ListsForgotten, VotersRecounted, OneVoteEnough, DegradedReplaced:
		return r.decideOnOtherLists(g, now)
	case NoFencing:
		return r.decideFenced(g, now)
	case NoDemoteWait:
		g.Settings.DemoteTimeout = 0
	case LoneOrder:
		return r.decideAlone(g, now)
	}
	return r.Decide(g, now)
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
			if l.Empty() && g.Record.Primary != 0 {
				shown[i] = fullList(g, l)
			}
		}
	case VotersRecounted:
		if g.Record.Election != nil {
			for i, l := range shown {
				shown[i].Voters = reachable(g, l.Voters)
			}
		}
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

// decideFenced makes Decide believe that the old primary has stopped.
func (r *Rules) decideFenced(g fsm.Group, now time.Time) (fsm.Decision, error) {
	was := g.Record.Fenced
	if g.Record.Election == nil && g.Record.Owner == 0 {
		return r.Decide(g, now)
	}
	g.Record.Fenced = true
	d, err := r.Decide(g, now)
	if !d.Changes() || d.Record.Primary == g.Record.Primary && len(d.Assign) == 0 && len(d.Close) == 0 {
		d.RecordChanged = false
		d.Record.Fenced = was
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
			lists := slices.Clone(d.Record.Lists)
			last := lists[len(lists)-1]
			d.Record.Lists = append(lists, fsm.List{Number: last.Number + 1, Primary: a.Node})
		}
	}
	return d, err
}

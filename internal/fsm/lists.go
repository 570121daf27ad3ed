package fsm

import (
	"cmp"
	"slices"
)

// byPreference orders nodes for lists and elections: priority first, then id.
func byPreference(a, b *Node) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.ID, b.ID))
}

// wantedList is the list that p should have as a primary: any max(1, n) of the
// quorum nodes whose goal is secondary, for n = number_sync_standbys. With fewer than n of
// them the list that p has stays: commits wait. A list that would be empty
// although n > 0 is filled up with the other quorum nodes.
func (t *turn) wantedList(p *Node) List {
	n := t.syncStandbys(p)
	voters := t.quorumNodes(p, func(x *Node) bool { return x.Goal == Secondary })
	if len(voters) >= max(1, n) {
		return List{K: max(1, n), Voters: voters}
	}
	if n == 0 {
		return List{}
	}
	if last := t.rec.list(); !last.Empty() && last.Primary == p.ID {
		return List{K: last.K, Voters: last.Voters}
	}
	return t.openingList(p)
}

// openingList is the list of a primary that has just opened or cannot have the
// one it should: empty when it may acknowledge alone (n = 0), else any n of
// the quorum nodes that took part and are there, filled up with others, live ones
// first, to n: commits wait for whoever is named here.
func (t *turn) openingList(p *Node) List {
	n := t.syncStandbys(p)
	if n == 0 {
		return List{}
	}
	voters := t.quorumNodes(p, func(x *Node) bool {
		return (x.Goal == Secondary || t.voted(x.ID)) && t.alive(x) && !t.silent(x)
	})
	fill := append(t.quorumNodes(p, t.alive), t.quorumNodes(p, func(x *Node) bool { return !t.alive(x) })...)
	for _, id := range fill {
		if len(voters) < n && !slices.Contains(voters, id) {
			voters = append(voters, id)
		}
	}
	return List{K: n, Voters: voters}
}

func (t *turn) quorumNodes(p *Node, want func(*Node) bool) []int64 {
	nodes := slices.DeleteFunc(t.others(p), func(x *Node) bool { return !x.Quorum || !want(x) })
	slices.SortFunc(nodes, byPreference)
	ids := make([]int64, 0, len(nodes))
	for _, x := range nodes {
		ids = append(ids, x.ID)
	}
	return ids
}

// absorb takes the facts out of the reports into the record: which lists are
// out of force, whether the old primary has stopped and where, which votes are
// in, and whether the promotion under way is over.
func (t *turn) absorb() {
	t.forget()
	t.countTimelines()
	if t.rec.Primary == 0 {
		if w := t.writable(); w != nil {
			t.rec.Primary = w.ID
			t.push(w, List{})
		}
	}
	p := t.node(t.rec.Primary)
	switch {
	case p == nil:
	case p.Goal.Writable() && p.Settled():
		t.absorbOpen(p)
	case !p.Goal.Writable() && p.Settled() && p.Reported.Stopped():
		t.rec.Fenced = true
		if p.CleanStop && p.LSN != 0 {
			t.rec.FinalTLI, t.rec.FinalLSN = p.TLI, p.LSN
		}
	}
	t.rec.Strays = slices.DeleteFunc(t.rec.Strays, func(id int64) bool {
		n := t.node(id)
		return n == nil || n.Settled() && n.Goal.In(CatchingUp, Secondary)
	})
	if len(t.rec.Strays) == 0 {
		t.rec.Strays = nil
	}
	if t.rec.Election == nil {
		return
	}
	for _, n := range t.g.Nodes {
		if n.Stable(ReportLSN) {
			t.vote(n)
		}
	}
}

// forget ends the record of a group whose nodes are all gone: a node that
// registers first in the group begins a new one.
func (t *turn) forget() {
	nodes := t.members()
	gone := len(t.g.Nodes) == 0 || len(nodes) == 1 && nodes[0].Goal == Single && t.rec.Primary != nodes[0].ID
	if !gone || t.rec.Primary == 0 && t.rec.Election == nil && t.rec.Owner == 0 {
		return
	}
	rec := Record{Epoch: t.rec.Epoch}
	if len(nodes) == 1 {
		rec.Primary = nodes[0].ID
		rec.Lists = []List{{Number: t.rec.list().Number + 1, Primary: rec.Primary}}
	}
	t.rec = rec
}

func (t *turn) absorbOpen(p *Node) {
	t.rec.Fenced, t.rec.FinalTLI, t.rec.FinalLSN = false, 0, 0
	if p.TLI != 0 {
		t.rec.Timeline = p.TLI
	}
	if t.rec.Owner == p.ID || t.rec.Owner == 0 {
		t.rec.Owner, t.rec.Election = 0, nil
	}
	last := t.rec.list()
	applied := p.Reported == Primary || last.Empty() && p.Reported.In(Single, WaitPrimary)
	if applied && last.Primary == p.ID {
		t.rec.Lists = t.rec.Lists[len(t.rec.Lists)-1:]
		t.rec.Removed = nil
	}
}

func (t *turn) vote(n Node) {
	e := t.rec.Election
	v := Vote{Node: n.ID, TLI: n.TLI, LSN: n.LSN}
	at, found := slices.BinarySearchFunc(e.Votes, n.ID, func(v Vote, id int64) int { return int(v.Node - id) })
	if found {
		e.Votes[at] = v
		return
	}
	e.Votes = slices.Insert(e.Votes, at, v)
}

// voted: n's receiver has ended for good in this election, by its own word.
func (t *turn) voted(id int64) bool {
	if t.rec.Election == nil {
		return false
	}
	if t.stray(id) {
		return false
	}
	if t.answered(id) {
		return true
	}
	n := t.node(id)
	return n != nil && id == t.rec.Owner && n.Stable(StopReplication)
}

// answered: id has given its final report, whatever it is worth.
func (t *turn) answered(id int64) bool {
	return slices.ContainsFunc(t.rec.Election.Votes, func(v Vote) bool { return v.Node == id })
}

// satisfied: for the list l, as many members have ended their receivers as
// make a further acknowledgement impossible and every earlier one known. The
// vote of the primary that acknowledged under the list answers for it, and so
// does that of the last one, which had all of it when it opened.
func (t *turn) satisfied(l List, has func(int64) bool) bool {
	if has(t.rec.Primary) || has(l.Primary) {
		return true
	}
	if l.Empty() {
		return false
	}
	count := 0
	for _, id := range l.Voters {
		if has(id) {
			count++
		}
	}
	return count >= len(l.Voters)-l.K+1
}

// quorumsSatisfied: satisfied for every list in force that is not empty.
func (t *turn) quorumsSatisfied() bool {
	return !slices.ContainsFunc(t.rec.Lists, func(l List) bool { return !l.Empty() && !t.satisfied(l, t.voted) })
}

// allSatisfied: satisfied for every list in force.
func (t *turn) allSatisfied(has func(int64) bool) bool {
	for _, l := range t.rec.Lists {
		if !t.satisfied(l, has) {
			return false
		}
	}
	return true
}

// maySolo: a list in force is empty, so that the old primary may acknowledge alone.
func (t *turn) maySolo() bool {
	return slices.ContainsFunc(t.rec.Lists, List.Empty)
}

// asyncByChoice: no member but p takes part in the quorum.
func (t *turn) asyncByChoice(p *Node) bool { return t.quorumStandbys(p) == 0 }

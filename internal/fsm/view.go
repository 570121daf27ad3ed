package fsm

import (
	"fmt"
	"slices"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// turn is one evaluation of a group: what is looked at, and what is decided so far.
type turn struct {
	g   Group
	now time.Time
	rec Record
	d   Decision
}

func newTurn(g Group, now time.Time) *turn {
	rec := g.Record
	rec.Lists = slices.Clone(rec.Lists)
	rec.Removed = slices.Clone(rec.Removed)
	rec.Strays = slices.Clone(rec.Strays)
	rec.Grants = slices.Clone(rec.Grants)
	if rec.Election != nil {
		e := *rec.Election
		e.Votes = slices.Clone(e.Votes)
		rec.Election = &e
	}
	return &turn{g: g, now: now, rec: rec}
}

// node returns the row of id, or nil.
func (t *turn) node(id int64) *Node {
	for i := range t.g.Nodes {
		if t.g.Nodes[i].ID == id {
			return &t.g.Nodes[i]
		}
	}
	return nil
}

// members returns the nodes that are not on their way out, in id order.
func (t *turn) members() []*Node {
	list := make([]*Node, 0, len(t.g.Nodes))
	for i := range t.g.Nodes {
		if t.g.Nodes[i].Goal != Dropped {
			list = append(list, &t.g.Nodes[i])
		}
	}
	return list
}

// others returns the members without p; all of them when p is nil.
func (t *turn) others(p *Node) []*Node {
	return slices.DeleteFunc(t.members(), func(n *Node) bool { return p != nil && n.ID == p.ID })
}

// primary returns the member that the group takes for its primary: the one
// with a writable goal, else the one that last had one and is on its way out.
// nil when that node's row is gone or it has become something else.
func (t *turn) primary() *Node {
	var last *Node
	for _, n := range t.members() {
		switch {
		case n.Goal.Writable():
			return n
		case n.Goal.In(Draining, DemoteTimeout, PrepareMaintenance),
			n.Goal == Demoted && (n.Reported.BelongsToPrimary() || n.Reported == Demoted):
			if last == nil || !beingDemoted(last) || n.ID == t.rec.Primary {
				last = n
			}
		}
	}
	return last
}

// writable returns the member with a writable goal, or nil.
func (t *turn) writable() *Node {
	for _, n := range t.members() {
		if n.Goal.Writable() {
			return n
		}
	}
	return nil
}

func beingDemoted(n *Node) bool { return n.Goal.In(Draining, DemoteTimeout, PrepareMaintenance) }

// reporting: the last report was seen recently enough.
func (t *turn) reporting(n *Node) bool {
	return t.now.Sub(t.lastSeen(n)) <= t.patience(n)
}

func (t *turn) lastSeen(n *Node) time.Time {
	if n.Seen.Before(t.g.MonitorStart) {
		return t.g.MonitorStart
	}
	return n.Seen
}

// patience is how long n may be silent: clients without a session lock fall
// silent while they walk an edge and get longer.
func (t *turn) patience(n *Node) time.Duration {
	if n.Session == SessionNone {
		return max(t.g.Settings.SessionlessTimeout, t.g.Settings.UnhealthyTimeout)
	}
	return t.g.Settings.UnhealthyTimeout
}

// alive: the keeper is there to act on a goal.
func (t *turn) alive(n *Node) bool {
	return n != nil && n.Session != SessionLost && t.reporting(n)
}

// unreachable: the keeper is gone or silent and the server does not answer
// either, as seen by this monitor process after its grace period.
func (t *turn) unreachable(n *Node) bool {
	if n == nil {
		return true
	}
	return n.Health == HealthBad && n.HealthAt.After(t.g.MonitorStart) &&
		t.now.Sub(t.g.MonitorStart) > t.g.Settings.StartupGrace &&
		(n.Session == SessionLost && t.somebodyHeard(n) || !t.reporting(n) && t.othersHeard(n))
}

// somebodyHeard: the monitor hears a keeper other than n's now. While it hears
// nobody, a session that ends may have been broken by its own network: those of
// a cut monitor end one by one, many seconds apart.
func (t *turn) somebodyHeard(n *Node) bool {
	return slices.ContainsFunc(t.g.Nodes, func(x Node) bool {
		return x.ID != n.ID && x.Session != SessionLost && t.now.Sub(x.Seen) <= heardNow
	})
}

// heardMargin is how much later than a silent node another one must have been
// heard for the silence to be the node's: one report's period and a half.
const heardMargin = 1500 * time.Millisecond

// silent: n's last report is older than it should be; that alone proves nothing.
func (t *turn) silent(n *Node) bool { return t.now.Sub(n.Seen) > heardMargin }

// heardNow is how young another node's last report must be at a verdict: late
// reports come in one by one, and the last of them may be the last for all.
const heardNow = 2500 * time.Millisecond

// othersHeard: somebody in the group reported after n's next report was due, and
// a moment ago. Otherwise the silence may be the monitor's own, cut off from everybody.
func (t *turn) othersHeard(n *Node) bool {
	for i := range t.g.Nodes {
		x := &t.g.Nodes[i]
		if x.ID != n.ID && x.Seen.Sub(t.lastSeen(n)) >= heardMargin && t.now.Sub(x.Seen) <= heardNow {
			return true
		}
	}
	return false
}

// unhealthy: the node cannot do its work. A report of a server that is down
// counts at once, if this monitor process heard it itself.
func (t *turn) unhealthy(n *Node) bool {
	if n == nil {
		return true
	}
	return !n.PgIsRunning && n.Seen.After(t.g.MonitorStart) || t.unreachable(n)
}

// healthy: the node can be given work now. Between healthy and unhealthy lie
// the doubtful, which are neither replaced nor promoted.
func (t *turn) healthy(n *Node) bool {
	if n == nil || !n.PgIsRunning || !t.alive(n) {
		return false
	}
	return n.Health != HealthBad || n.Seen.After(n.HealthAt) && t.now.Sub(n.Seen) <= time.Second
}

// within: x is at most delta bytes behind p, both positions known.
func within(x, p *Node, delta int64) bool {
	if x == nil || p == nil {
		return true
	}
	if x.LSN == 0 || p.LSN == 0 {
		return false
	}
	return p.LSN.Sub(x.LSN) <= delta
}

// quorumStandbys counts the members with quorum other than p, in any state.
func (t *turn) quorumStandbys(p *Node) int {
	count := 0
	for _, n := range t.others(p) {
		if n.Quorum {
			count++
		}
	}
	return count
}

// syncStandbys is number_sync_standbys as it holds for this group: a value
// that the group has too few quorum standbys for is lowered.
func (t *turn) syncStandbys(p *Node) int {
	return max(0, min(t.g.Formation.NumberSyncStandbys, t.quorumStandbys(p)-1))
}

// name renders a node the way events do.
func (n *Node) String() string {
	return fmt.Sprintf("node %d %q (%s:%d)", n.ID, n.Name, n.Host, n.Port)
}

// goal gives a node a new goal, with its event text; the goal it has already stays.
func (t *turn) goal(n *Node, s State, format string, args ...any) bool {
	if n.Goal == s {
		return false
	}
	t.order(n, s, format, args...)
	return true
}

// order gives a node a goal even when it is the one it has: the new number
// makes its keeper establish the state again.
func (t *turn) order(n *Node, s State, format string, args ...any) {
	t.assign(n, s)
	t.event(n, "Setting goal state of "+format, args...)
}

func (t *turn) assign(n *Node, s State) {
	at, found := slices.BinarySearchFunc(t.d.Assign, n.ID, func(a Assignment, id int64) int {
		return int(a.Node - id)
	})
	if found {
		t.d.Assign[at].Goal = s
		return
	}
	t.d.Assign = slices.Insert(t.d.Assign, at, Assignment{Node: n.ID, Goal: s})
}

func (t *turn) event(n *Node, format string, args ...any) {
	e := Event{Text: fmt.Sprintf(format, args...)}
	if n != nil {
		e.Node = n.ID
	}
	t.d.Events = append(t.d.Events, e)
}

// list returns the list that synchronous_standby_names() answers with now.
func (r Record) list() List {
	if len(r.Lists) == 0 {
		return List{}
	}
	return r.Lists[len(r.Lists)-1]
}

// StandbyNames is the value of synchronous_standby_names that the group's primary is to have.
func (r Record) StandbyNames() pg.StandbyNames { return r.list().StandbyNames() }

// push orders p to apply a list from now on. Orders that change nothing are none.
func (t *turn) push(p *Node, l List) {
	last := t.rec.list()
	if len(t.rec.Lists) > 0 && last.Primary == p.ID && last.K == l.K && slices.Equal(last.Voters, l.Voters) {
		return
	}
	l.Number, l.Primary = last.Number+1, p.ID
	t.rec.Lists = append(t.rec.Lists, l)
}

package operations

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// trio is a group of three nodes of which the first is primary, as somebody has
// set it up. One of them dies.
type trio struct {
	priority [3]int
	quorum   [3]bool
	standbys int // number_sync_standbys of the formation
	ahead    int // the standby that has received more, 0 when both have the same
	dead     int
	// backwards has the nodes report in the opposite order.
	backwards bool
}

func (c trio) String() string {
	var nodes []string
	for i := range 3 {
		vote := "votes"
		if !c.quorum[i] {
			vote = "async"
		}
		nodes = append(nodes, fmt.Sprintf("%d %s", c.priority[i], vote))
	}
	return fmt.Sprintf("%s; number_sync_standbys %d, node %d ahead, node %d dies, backwards %t",
		strings.Join(nodes, ", "), c.standbys, c.ahead+1, c.dead+1, c.backwards)
}

// trios are all combinations of priorities 0, 50 and 100 and of quorum yes and
// no, with each of the nodes dead.
func trios() []trio {
	var all []trio
	for bits := range 27 * 8 * 2 * 3 * 3 * 2 {
		pick := func(n int) int { v := bits % n; bits /= n; return v }
		var c trio
		for i := range 3 {
			c.priority[i], c.quorum[i] = pick(3)*50, pick(2) == 1
		}
		c.standbys, c.ahead, c.dead, c.backwards = pick(2), pick(3), pick(3), pick(2) == 1
		all = append(all, c)
	}
	return all
}

// outcome is where a group comes to rest.
type outcome struct {
	primary int // index of the node that takes writes, -1 when none does
	state   fsm.State
	names   string // synchronous_standby_names
	states  [3]fsm.State
}

// expected is what the manual promises for a group, worked out from nothing but
// its settings.
func (c trio) expected() outcome {
	if c.dead != 0 {
		return c.lead(0)
	}
	best := -1
	for _, i := range []int{1, 2} {
		switch {
		case c.priority[i] == 0: // is asked what it has, and never chosen
		case best < 0, c.priority[i] > c.priority[best]:
			best = i
		case c.priority[i] == c.priority[best] && c.ahead == i:
			best = i
		}
	}
	if best < 0 {
		// The standbys stay what they are, for when the primary is back.
		return outcome{primary: -1, states: [3]fsm.State{fsm.Unknown, fsm.Secondary, fsm.Secondary}}
	}
	return c.lead(best)
}

// lead is the outcome in which node p takes writes and one other node follows it.
func (c trio) lead(p int) outcome {
	o := outcome{primary: p, state: fsm.Primary}
	others := 0 // that belong to the quorum, the dead one included
	for i := range 3 {
		if i == p {
			continue
		}
		if c.quorum[i] {
			others++
		}
		o.states[i] = fsm.Secondary
		if i == c.dead {
			o.states[i] = fsm.Unknown
		} else if c.quorum[i] {
			o.names = pg.StandbyNames{K: 1, Members: []string{pg.StandbyName(int64(i + 1))}}.String()
		}
	}
	if o.names == "" && others > 0 {
		o.state = fsm.WaitPrimary // goes on alone until a voter is back
	}
	o.states[p] = o.state
	return o
}

// twin is a group whose keepers do at once what they are told.
type twin struct {
	g       fsm.Group
	now     time.Time
	dead    int
	waiting string
	visited [3][]fsm.State
}

const someLSN = pg.LSN(0x3000000)

func (c trio) start() *twin {
	now := time.Date(2026, 1, 1, 0, 1, 0, 0, time.UTC)
	w := &twin{now: now, dead: c.dead, g: fsm.Group{
		Formation:    fsm.Formation{ID: "default", Kind: "pgsql", DBName: "postgres", OptSecondary: true, NumberSyncStandbys: c.standbys},
		Settings:     fsm.DefaultSettings(),
		MonitorStart: now.Add(-time.Minute),
	}}
	list := fsm.List{Number: 1, Primary: 1}
	voters := 0
	for i := range 3 {
		n := fsm.Node{
			ID: int64(i + 1), Name: fmt.Sprintf("node_%d", i+1), Host: "localhost", Port: 5501 + i,
			Goal: fsm.Secondary, Reported: fsm.Secondary, GoalNumber: 1, Reached: 1, Priority: c.priority[i], Quorum: c.quorum[i],
			PgIsRunning: true, TLI: 1, LSN: someLSN, Streaming: fsm.StreamingYes, StreamingAt: now,
			Health: fsm.HealthGood, HealthAt: now, Session: fsm.SessionHeld, Seen: now, GoalAt: now, ReportedAt: now,
		}
		switch {
		case i == 0:
			n.Goal, n.Reported, n.Streaming, n.LSN = fsm.Primary, fsm.Primary, fsm.StreamingUnknown, someLSN+0x100
		case c.ahead == i:
			n.LSN += 0x100
		}
		if i > 0 && n.Quorum {
			voters++
			list.Voters = append(list.Voters, n.ID)
		}
		w.g.Nodes = append(w.g.Nodes, n)
	}
	if voters > 0 {
		list.K = max(1, min(c.standbys, voters-1))
	}
	w.g.Record = fsm.Record{Primary: 1, Timeline: 1, Timelines: 1, Lists: []fsm.List{list}}
	n := &w.g.Nodes[c.dead]
	n.Session, n.Health = fsm.SessionLost, fsm.HealthBad
	return w
}

// settle has the monitor decide, and looks at every decision.
func (w *twin) settle(t *testing.T) {
	t.Helper()
	before := w.g.Record.Owner
	next, decisions, waiting, err := fsm.Settle(w.g, w.now)
	require.NoError(t, err)
	for _, d := range decisions {
		for _, a := range d.Assign {
			w.visited[a.Node-1] = append(w.visited[a.Node-1], a.Goal)
		}
	}
	if before == 0 && next.Record.Owner != 0 {
		w.requireVotes(t, next.Record)
	}
	w.g, w.waiting = next, waiting
	writable := 0
	for i, n := range w.g.Nodes {
		if i != w.dead && n.Reported.Writable() {
			writable++
		}
	}
	require.LessOrEqual(t, writable, 1)
}

// requireVotes: whoever is chosen, every list that the old primary may have
// acknowledged under has too few members left to do so again.
func (w *twin) requireVotes(t *testing.T, r fsm.Record) {
	t.Helper()
	for _, l := range r.Lists {
		if l.Primary != 1 || l.Empty() {
			continue
		}
		said := 0
		for _, id := range l.Voters {
			if n := w.g.Nodes[id-1]; n.Stable(fsm.ReportLSN) || n.Reported.In(fsm.FastForward, fsm.PreparePromotion) {
				said++
			}
		}
		require.GreaterOrEqual(t, said, len(l.Voters)-l.K+1, "votes of %v", l)
	}
}

// arrive has a keeper do what it was told.
func (w *twin) arrive(t *testing.T, n *fsm.Node) {
	t.Helper()
	if n.Reported != n.Goal {
		_, ok := fsm.Next(fsm.Standalone, n.Reported, n.Goal)
		require.True(t, ok, "no edge from %s to %s", n.Reported, n.Goal)
	}
	from := n.Reported
	n.Reported, n.ReportedAt, n.Seen, n.Reached = n.Goal, w.now, w.now, n.GoalNumber
	n.PgIsRunning = !n.Goal.In(fsm.Draining, fsm.DemoteTimeout, fsm.Demoted, fsm.PrepareMaintenance)
	n.Streaming = fsm.StreamingUnknown
	switch {
	case n.Goal.In(fsm.StopReplication, fsm.WaitPrimary) && from == fsm.PreparePromotion:
		next := max(w.g.Record.Granted(n.ID), n.TLI+1)
		n.History = append(slices.Clone(n.History), pg.HistoryEntry{TLI: next, Parent: n.TLI, Switch: n.LSN})
		n.TLI, n.LSN = next, n.LSN+0x80
	case n.Goal.In(fsm.CatchingUp, fsm.Secondary):
		n.Streaming = fsm.StreamingYes
		for i, p := range w.g.Nodes {
			if i != w.dead && p.Reported.Writable() {
				n.TLI, n.LSN, n.History = p.TLI, p.LSN, p.History
			}
		}
	case n.Goal == fsm.FastForward:
		for i, x := range w.g.Nodes {
			if i != w.dead {
				n.LSN = max(n.LSN, x.LSN)
			}
		}
	}
}

// run lets the group come to rest: eighty seconds without anything to do.
func (w *twin) run(t *testing.T, backwards bool) {
	t.Helper()
	order := []int{0, 1, 2}
	if backwards {
		slices.Reverse(order)
	}
	w.settle(t)
	for quiet := 0; quiet < 8; {
		moved := false
		// The last words of both standbys arrive before anything is decided.
		for _, i := range order {
			if n := &w.g.Nodes[i]; i != w.dead && !n.Settled() && n.Goal == fsm.ReportLSN {
				w.arrive(t, n)
				moved = true
			}
		}
		w.settle(t)
		for _, i := range order {
			if n := &w.g.Nodes[i]; i != w.dead && !n.Settled() {
				w.arrive(t, n)
				w.settle(t)
				moved = true
			}
		}
		quiet++
		if moved {
			quiet = 0
		}
		w.now = w.now.Add(10 * time.Second)
		for i := range w.g.Nodes {
			if n := &w.g.Nodes[i]; i != w.dead {
				n.Seen, n.HealthAt = w.now, w.now
			}
		}
		w.settle(t)
	}
}

// TestElections: of three nodes one dies, whatever their priorities are and
// whoever belongs to the quorum. Who takes writes then, in which state and with
// which synchronous standbys, is what the manual says, and every node goes there
// in the documented order.
func TestElections(t *testing.T) {
	t.Parallel()
	for _, c := range trios() {
		w := c.start()
		w.run(t, c.backwards)
		want := c.expected()
		got := outcome{primary: -1, names: w.g.Record.StandbyNames().String()}
		for i, n := range w.g.Nodes {
			if i == c.dead {
				continue
			}
			require.True(t, n.Settled(), "%s: node %d is on its way: %s to %s", c, n.ID, n.Reported, n.Goal)
			got.states[i] = n.Goal
			if n.Goal.Writable() {
				got.primary, got.state = i, n.Goal
			}
		}
		if want.primary < 0 {
			require.NotEmpty(t, w.waiting, "%s: nothing is said about what the group waits for", c)
			want.names = got.names // the old one's, as long as nobody replaces it
		}
		require.Equal(t, want, got, "%s: %v, waits: %s", c, w.visited, w.waiting)
		w.requireOrder(t, c, want)
	}
}

// requireOrder compares the goals that each node was given with the documented ones.
func (w *twin) requireOrder(t *testing.T, c trio, want outcome) {
	t.Helper()
	follower := 3 - c.dead - want.primary
	path := func(i int) string {
		var names []string
		for _, s := range w.visited[i] {
			names = append(names, s.String())
		}
		return strings.Join(names, " ")
	}
	switch {
	case want.primary < 0:
		require.Empty(t, path(0)+path(1)+path(2), c)
	case c.dead == 0:
		fetch := ""
		if c.ahead == follower {
			fetch = "fast_forward " // its WAL is fetched before anything else
		}
		last := ""
		if want.state == fsm.Primary {
			last = " primary"
		}
		require.Equal(t, "report_lsn "+fetch+"prepare_promotion wait_primary"+last, path(want.primary), c)
		require.Equal(t, "report_lsn join_secondary secondary", path(follower), c)
	default:
		require.NotContains(t, path(0), "draining", c)
		require.Empty(t, path(follower), "%s: the other standby has nothing to do with it", c)
	}
}

package fsm

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestEveryOrderHasAnEdge(t *testing.T) {
	t.Parallel()
	for _, kind := range []NodeKind{Standalone, Coordinator, Worker} {
		require.Empty(t, Unreachable(kind), "orders of the monitor without an edge of a %s's keeper", kind)
	}
}

// TestUnreachableFindsGaps: the check would notice an edge that is gone.
func TestUnreachableFindsGaps(t *testing.T) {
	t.Parallel()
	asked := 0
	for _, o := range orders() {
		asked += len(o.from)
	}
	require.Greater(t, asked, 150)
	_, ok := Next(Standalone, WaitStandby, Primary)
	require.False(t, ok, "a node without data cannot be a primary")
}

// life is a group that lives at random.
type life struct {
	rt *rapid.T
	w  *world
}

// TestRandomLives lets groups of one to five nodes live at random: reports
// arrive in any order, nodes die and return, operators ask for anything. After
// every decision what no decision may break is checked.
func TestRandomLives(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		l := life{rt: rt, w: newWorld(t, rules())}
		l.w.g.Formation.NumberSyncStandbys = rapid.IntRange(0, 2).Draw(rt, "nss")
		l.seed()
		for range 60 {
			l.step()
			l.settle()
		}
	})
}

func (l *life) seed() {
	count := rapid.IntRange(1, 5).Draw(l.rt, "nodes")
	for id := range int64(count) {
		n := Node{
			ID: id + 1, Name: fmt.Sprintf("node_%d", id+1), Host: "localhost", Port: 5500 + int(id),
			Priority: rapid.SampledFrom([]int{50, 50, 100, 0}).Draw(l.rt, "priority"), Quorum: rapid.IntRange(0, 4).Draw(l.rt, "quorum") > 0,
			Goal: Secondary, Reported: Secondary, GoalNumber: 1, Reached: 1, PgIsRunning: true, TLI: 1, LSN: 0x3000000,
			Health: HealthGood, Session: SessionHeld, Streaming: StreamingYes,
			Seen: l.w.now, HealthAt: l.w.now, GoalAt: l.w.now, ReportedAt: l.w.now, StreamingAt: l.w.now,
		}
		if id == 0 {
			n.Goal, n.Reported, n.Streaming = Primary, Primary, StreamingUnknown
			if count == 1 {
				n.Goal, n.Reported = Single, Single
			}
		}
		l.w.g.Nodes = append(l.w.g.Nodes, n)
	}
	l.w.seedRecord()
}

func (l *life) pick() *Node {
	if len(l.w.g.Nodes) == 0 {
		l.w.g.Record = Record{}
		l.seed()
	}
	return &l.w.g.Nodes[rapid.IntRange(0, len(l.w.g.Nodes)-1).Draw(l.rt, "node")]
}

func (l *life) step() {
	n := l.pick()
	switch rapid.IntRange(0, 16).Draw(l.rt, "what") {
	case 0:
		l.w.dead[n.ID] = true
		n.Session, n.Health, n.HealthAt = SessionLost, HealthBad, l.w.now
	case 1, 2:
		delete(l.w.dead, n.ID)
		n.Session, n.Health, n.HealthAt, n.Seen = SessionHeld, HealthGood, l.w.now, l.w.now
	case 3:
		l.advance()
	case 4:
		n.PgIsRunning = !n.PgIsRunning
	case 5:
		n.LSN += 0x100
	case 6:
		n.Streaming, n.StreamingAt = StreamingNo, l.w.now
	case 7:
		if n.Reported.Writable() && !l.w.dead[n.ID] { // fences itself
			n.Reported, n.ReportedAt, n.Seen, n.PgIsRunning = DemoteTimeout, l.w.now, l.w.now, false
		}
	case 8:
		l.ask(n)
	case 9:
		l.change(n)
	default:
		l.arrive(n)
	}
}

func (l *life) advance() {
	l.w.now = l.w.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(l.rt, "seconds")) * time.Second)
	l.w.live()
}

// arrive lets a live node report its goal as reached, when there is an edge.
func (l *life) arrive(n *Node) {
	if l.w.dead[n.ID] || n.Settled() {
		return
	}
	l.w.t = nil
	_, ok := Next(Standalone, n.Reported, n.Goal)
	require.True(l.rt, ok || n.Reported == n.Goal, "no edge from %s to %s", n.Reported, n.Goal)
	dropped := n.Goal == Dropped
	l.w.arrive(n)
	if dropped {
		n.PgIsRunning = false
	}
}

func (l *life) ask(n *Node) {
	kinds := []IntentKind{IntentFailover, IntentPromotion, IntentStartMaintenance, IntentStopMaintenance, IntentRemove, IntentRemoved}
	l.w.next++
	i := Intent{
		ID: l.w.next, Kind: rapid.SampledFrom(kinds).Draw(l.rt, "ask"), Node: n.ID, At: l.w.now,
		AllowDataLoss: rapid.IntRange(0, 5).Draw(l.rt, "loss") == 0,
	}
	if i.Kind == IntentRemoved {
		if len(l.w.g.Nodes) < 3 {
			return
		}
		i.Ghost = &Ghost{ID: n.ID, Goal: n.Goal, Reported: n.Reported, Quorum: n.Quorum, TLI: n.TLI, LSN: n.LSN}
		l.w.g.Nodes = slices.DeleteFunc(l.w.g.Nodes, func(x Node) bool { return x.ID == i.Node })
	}
	l.w.g.Intents = append(l.w.g.Intents, i)
}

func (l *life) change(n *Node) {
	switch rapid.IntRange(0, 3).Draw(l.rt, "change") {
	case 0:
		n.Priority = rapid.SampledFrom([]int{0, 50, 100}).Draw(l.rt, "priority")
	case 1:
		n.Quorum = !n.Quorum
	case 2:
		l.w.g.Formation.NumberSyncStandbys = rapid.IntRange(0, 2).Draw(l.rt, "nss")
	case 3:
		if len(l.w.g.Nodes) > 5 {
			return
		}
		goal, refusal := FirstGoal(l.w.g, 50)
		if refusal != nil {
			return
		}
		id := l.w.g.Nodes[len(l.w.g.Nodes)-1].ID + 1
		l.w.g.Nodes = append(l.w.g.Nodes, Node{
			ID: id, Goal: goal, Reported: Init, GoalNumber: 1, PgIsRunning: true, TLI: 1,
			Health: HealthUnknown, Session: SessionHeld, Priority: 50, Quorum: true, Seen: l.w.now, Host: "localhost", Port: 6000 + int(id),
		})
	}
	l.w.next++
	l.w.g.Intents = append(l.w.g.Intents, Intent{ID: l.w.next, Kind: IntentSettings, Text: "a change", At: l.w.now})
}

func (l *life) settle() {
	for limit := 0; ; limit++ {
		require.Less(l.rt, limit, 100, "no end of decisions")
		before, err := json.Marshal(l.w.g)
		require.NoError(l.rt, err)
		d, err := Decide(l.w.g, l.w.now)
		require.NoError(l.rt, err)
		after, err := json.Marshal(l.w.g)
		require.NoError(l.rt, err)
		require.JSONEq(l.rt, string(before), string(after), "rule %q changed its input", d.Rule.Name)
		if !d.Changes() {
			return
		}
		l.check(d)
		l.w.g = Apply(l.w.g, d, l.w.now)
		l.checkGroup(d)
	}
}

// check looks at one decision.
func (l *life) check(d Decision) {
	table := orders()
	for _, a := range d.Assign {
		n := l.w.node(a.Node)
		require.NotEqual(l.rt, Dropped, n.Goal, "rule %q gives a goal to a dropped node", d.Rule.Name)
		if n.Goal == Maintenance && d.Rule.Name != "request" {
			l.rt.Fatalf("rule %q takes a node out of maintenance", d.Rule.Name)
		}
		if n.Reported == a.Goal {
			continue
		}
		at := slices.IndexFunc(table, func(o order) bool { return o.goal == a.Goal })
		require.GreaterOrEqual(l.rt, at, 0, "rule %q assigns %s, which no order names", d.Rule.Name, a.Goal)
		require.Contains(l.rt, table[at].from, n.Reported, "rule %q assigns %s", d.Rule.Name, a.Goal)
	}
	if len(d.Assign) > 0 {
		require.NotEmpty(l.rt, d.Events, "rule %q assigns without an event", d.Rule.Name)
	}
}

// checkGroup looks at the group after a decision.
func (l *life) checkGroup(d Decision) {
	writable, promoting := 0, 0
	for _, n := range l.w.g.Nodes {
		if n.Goal.Writable() {
			writable++
		}
		if n.Goal.In(PreparePromotion, StopReplication, FastForward) {
			promoting++
			require.Equal(l.rt, n.ID, l.w.g.Record.Owner, "rule %q: a promotion without ownership", d.Rule.Name)
		}
	}
	require.LessOrEqual(l.rt, writable, 1, "rule %q: two nodes with writable goals", d.Rule.Name)
	require.LessOrEqual(l.rt, promoting, 1, "rule %q: two promotions", d.Rule.Name)
	// Only the candidate of a planned promotion gets ready while the primary still works.
	rec := l.w.g.Record
	for i, g := range rec.Grants {
		require.LessOrEqual(l.rt, g.TLI, rec.Timelines)
		require.False(l.rt, slices.ContainsFunc(rec.Grants[:i], func(o Grant) bool { return o.Node == g.Node || o.TLI == g.TLI }),
			"rule %q: a timeline granted twice", d.Rule.Name)
	}
	e := l.w.g.Record.Election
	ready := e != nil && e.Planned && e.Then != Unknown
	require.Falsef(l.rt, writable > 0 && promoting > 0 && !ready, "rule %q: a promotion beside a writable goal", d.Rule.Name)
	if writable > 0 {
		require.NotEmpty(l.rt, l.w.g.Record.Lists, "no list in force")
	}
}

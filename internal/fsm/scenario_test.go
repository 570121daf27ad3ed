package fsm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// world is a group under a script: every live node reports whenever time passes.
type world struct {
	t     *testing.T
	g     Group
	now   time.Time
	dead  map[int64]bool
	table []rule
	next  int64
	out   strings.Builder
}

func newWorld(t *testing.T, table []rule) *world {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return &world{
		t: t, now: start.Add(time.Minute), dead: map[int64]bool{}, table: table,
		g: Group{
			Formation:    Formation{ID: "default", Kind: "pgsql", DBName: "postgres", OptSecondary: true},
			Settings:     DefaultSettings(),
			MonitorStart: start,
		},
	}
}

func (w *world) node(id int64) *Node {
	for i := range w.g.Nodes {
		if w.g.Nodes[i].ID == id {
			return &w.g.Nodes[i]
		}
	}
	w.t.Fatalf("scenario names node %d, which is not registered", id)
	return nil
}

// run performs one directive and returns what it printed.
func (w *world) run(d *datadriven.TestData) string {
	w.out.Reset()
	switch d.Cmd {
	case "group":
		w.setGroup(d)
	case "node":
		w.addNode(d)
		return ""
	case "register":
		w.register(d)
	case "report":
		w.report(d)
		w.settle()
	case "converge":
		w.converge(d)
	case "die", "unhealthy":
		n := w.node(argID(w.t, d))
		w.dead[n.ID] = true
		n.Session, n.Health, n.HealthAt = SessionLost, HealthBad, w.now
		w.settle()
	case "silent":
		w.dead[argID(w.t, d)] = true
	case "health":
		n := w.node(argID(w.t, d))
		n.Health, n.HealthAt = HealthGood, w.now
		if d.HasArg("bad") {
			n.Health = HealthBad
		}
		w.settle()
	case "back":
		n := w.node(argID(w.t, d))
		delete(w.dead, n.ID)
		n.Session, n.Health, n.HealthAt = SessionHeld, HealthGood, w.now
		w.live()
		w.settle()
	case "wait":
		var s string
		d.ScanArgs(w.t, "for", &s)
		step, err := time.ParseDuration(s)
		require.NoError(w.t, err)
		w.pass(step)
	case "intent":
		w.intent(d)
		w.settle()
	case "set":
		w.set(d)
		w.settle()
	case "show":
		w.show()
	default:
		w.t.Fatalf("no such directive %q", d.Cmd)
	}
	if w.out.Len() == 0 {
		return "ok\n"
	}
	return w.out.String()
}

func argID(t *testing.T, d *datadriven.TestData) int64 {
	var id int64
	d.ScanArgs(t, "node", &id)
	return id
}

func (w *world) setGroup(d *datadriven.TestData) {
	d.MaybeScanArgs(w.t, "nss", &w.g.Formation.NumberSyncStandbys)
	w.g.Formation.OptSecondary = !d.HasArg("no-secondary")
	for _, id := range []string{"epoch"} {
		d.MaybeScanArgs(w.t, id, &w.g.Record.Epoch)
	}
}

// addNode puts a node in place, at rest in its state unless a goal is given.
func (w *world) addNode(d *datadriven.TestData) {
	var state, goal, lsn string
	n := Node{
		Priority: 50, Quorum: true, PgIsRunning: true, TLI: 1, LSN: 0x3000000,
		Health: HealthGood, Session: SessionHeld, Host: "localhost", GoalNumber: 1, Reached: 1,
		Seen: w.now, HealthAt: w.now, GoalAt: w.now, ReportedAt: w.now, StreamingAt: w.now,
	}
	d.ScanArgs(w.t, "id", &n.ID)
	d.ScanArgs(w.t, "state", &state)
	n.Reported = mustState(w.t, state)
	n.Goal = n.Reported
	if d.MaybeScanArgs(w.t, "goal", &goal) {
		n.Goal = mustState(w.t, goal)
		n.GoalNumber++
	}
	if d.MaybeScanArgs(w.t, "lsn", &lsn) {
		n.LSN = mustLSN(w.t, lsn)
	}
	d.MaybeScanArgs(w.t, "priority", &n.Priority)
	d.MaybeScanArgs(w.t, "tli", (*uint32)(&n.TLI))
	n.Quorum = !d.HasArg("async")
	if d.HasArg("sessionless") {
		n.Session = SessionNone
	}
	n.Name, n.Port = fmt.Sprintf("node_%d", n.ID), 5500+int(n.ID)
	if n.Goal.In(Secondary, CatchingUp) {
		n.Streaming = StreamingYes
	}
	w.g.Nodes = append(w.g.Nodes, n)
	slices.SortFunc(w.g.Nodes, func(a, b Node) int { return int(a.ID - b.ID) })
	w.seedRecord()
}

// seedRecord gives a group put in place the record it would have.
func (w *world) seedRecord() {
	t := newTurn(w.g, w.now)
	p := t.writable()
	if p == nil {
		return
	}
	rec := Record{Primary: p.ID, Timeline: p.TLI, Epoch: w.g.Record.Epoch}
	list := List{Number: 1, Primary: p.ID}
	if p.Reported == Primary || p.Reported == ApplySettings {
		voters := t.quorumNodes(p, func(x *Node) bool { return x.Goal == Secondary })
		if len(voters) > 0 {
			list.K, list.Voters = max(1, t.syncStandbys(p)), voters
		}
	}
	rec.Lists = []List{list}
	w.g.Record = rec
}

func mustState(t *testing.T, name string) State {
	s, err := ParseState(name)
	require.NoError(t, err)
	return s
}

func mustLSN(t *testing.T, text string) pg.LSN {
	lsn, err := pg.ParseLSN(text)
	require.NoError(t, err)
	return lsn
}

func (w *world) register(d *datadriven.TestData) {
	n := Node{
		ID: int64(len(w.g.Nodes)) + 1, Priority: 50, Quorum: !d.HasArg("async"), Reported: Init, PgIsRunning: true, TLI: 1,
		Health: HealthUnknown, Session: SessionHeld, Host: "localhost", GoalNumber: 1, Seen: w.now, GoalAt: w.now,
		ReportedAt: w.now, StreamingAt: w.now,
	}
	d.MaybeScanArgs(w.t, "id", &n.ID)
	d.MaybeScanArgs(w.t, "priority", &n.Priority)
	n.Name, n.Port = fmt.Sprintf("node_%d", n.ID), 5500+int(n.ID)
	goal, refusal := FirstGoal(w.g, n.Priority)
	if refusal != nil {
		fmt.Fprintf(&w.out, "%s: %s\nHINT: %s\n", refusal.Code, refusal.Message, refusal.Hint)
		return
	}
	n.Goal = goal
	fmt.Fprintf(&w.out, "node %d registers: %s\n", n.ID, goal)
	w.g.Nodes = append(w.g.Nodes, n)
	w.next++
	w.g.Intents = append(w.g.Intents, Intent{ID: w.next, Kind: IntentRegistered, Node: n.ID, At: w.now})
	w.settle()
}

// report stores one report. Without a state the node reports its goal as reached.
func (w *world) report(d *datadriven.TestData) {
	n := w.node(argID(w.t, d))
	var state, lsn, streaming, switched string
	to := n.Goal
	if d.MaybeScanArgs(w.t, "state", &state) {
		to = mustState(w.t, state)
	}
	w.store(n, to)
	if d.MaybeScanArgs(w.t, "lsn", &lsn) {
		n.LSN = mustLSN(w.t, lsn)
	}
	d.MaybeScanArgs(w.t, "tli", (*uint32)(&n.TLI))
	if d.HasArg("down") {
		n.PgIsRunning = false
	}
	if d.HasArg("clean") {
		n.PgIsRunning, n.CleanStop = false, true
	}
	if d.HasArg("unclean") {
		n.PgIsRunning, n.CleanStop = false, false
	}
	if d.MaybeScanArgs(w.t, "streaming", &streaming) {
		n.StreamingAt = w.now
		n.Streaming = map[string]Streaming{"yes": StreamingYes, "no": StreamingNo}[streaming]
	}
	if d.MaybeScanArgs(w.t, "switched", &switched) {
		n.History = pg.History{{TLI: n.TLI - 1}, {TLI: n.TLI, Parent: n.TLI - 1, Switch: mustLSN(w.t, switched)}}
	}
	if d.HasArg("stale") {
		n.Reached = n.GoalNumber - 1
	}
}

func (w *world) store(n *Node, to State) {
	if n.Reported != to {
		n.ReportedAt = w.now
	}
	n.Reported, n.Seen = to, w.now
	n.PgIsRunning = !to.In(downStates...) && to != PrepareMaintenance && to != Dropped
	n.CleanStop = !n.PgIsRunning
	if to == n.Goal {
		n.Reached = n.GoalNumber
	}
	if to.In(WaitPrimary, StopReplication, Single) && n.Reported == to && to.In(WaitPrimary, StopReplication) && n.LSN%16 == 0 {
		n.LSN += 0x60 // the records of the promotion
	}
	n.Streaming = StreamingUnknown
	if to.In(Secondary, CatchingUp) {
		n.Streaming = StreamingYes
	}
	if n.Health == HealthUnknown {
		n.Health, n.HealthAt = HealthGood, w.now
	}
}

// converge lets every live node reach its goal until nothing moves any more.
// Old primaries rejoin on the primary's timeline.
func (w *world) converge(d *datadriven.TestData) {
	rounds := 40
	d.MaybeScanArgs(w.t, "rounds", &rounds)
	w.settle()
	for range rounds {
		moved := false
		for i := 0; i < len(w.g.Nodes); i++ {
			n := &w.g.Nodes[i]
			if w.dead[n.ID] || n.Settled() {
				continue
			}
			from := n.Reported
			if _, ok := Next(Standalone, from, n.Goal); !ok && from != n.Goal {
				w.t.Fatalf("node %d has no edge from %s to %s", n.ID, from, n.Goal)
			}
			w.arrive(n)
			fmt.Fprintf(&w.out, "node %d reports %s\n", n.ID, n.Reported)
			moved = true
			w.settle()
		}
		if !moved {
			return
		}
	}
}

// arrive puts n at its goal the way its edge would.
func (w *world) arrive(n *Node) {
	from := n.Reported
	w.store(n, n.Goal)
	p := newTurn(w.g, w.now).writable()
	switch {
	case n.Goal.In(StopReplication) || n.Goal == WaitPrimary && from == PreparePromotion || n.Goal == Single && from == PreparePromotion:
		if len(n.History) == 0 {
			n.History = pg.History{{TLI: n.TLI}}
		}
		n.History = append(slices.Clone(n.History), pg.HistoryEntry{TLI: n.TLI + 1, Parent: n.TLI, Switch: n.LSN})
		n.TLI++
		n.LSN += 0x80
	case n.Goal.In(CatchingUp, Secondary) && p != nil:
		n.TLI, n.LSN, n.History = p.TLI, p.LSN, p.History
	case n.Goal == FastForward:
		for _, s := range w.g.Nodes {
			if s.Reported == ReportLSN && s.TLI == n.TLI {
				n.LSN = max(n.LSN, s.LSN)
			}
		}
	case n.Goal == PreparePromotion && from == Secondary:
	case n.Goal.In(Draining, PrepareMaintenance, Dropped) && from.Writable():
		n.LSN += 0x28
		for i := range w.g.Nodes { // the shutdown record reaches streaming standbys
			s := &w.g.Nodes[i]
			if !w.dead[s.ID] && s.TLI == n.TLI && s.Goal.In(Secondary, PreparePromotion) {
				s.LSN = n.LSN + 0x78
			}
		}
	}
	if n.Goal == Dropped && !w.dead[n.ID] {
		w.dead[n.ID] = true
	}
}

// live has every node that lives report that nothing changed.
func (w *world) live() {
	for i := range w.g.Nodes {
		n := &w.g.Nodes[i]
		if !w.dead[n.ID] {
			n.Seen, n.HealthAt = w.now, w.now
		}
	}
}

func (w *world) pass(step time.Duration) {
	w.now = w.now.Add(step)
	w.live()
	w.settle()
}

func (w *world) intent(d *datadriven.TestData) {
	var kind string
	d.ScanArgs(w.t, "kind", &kind)
	w.next++
	i := Intent{ID: w.next, Kind: IntentKind(kind), At: w.now, AllowDataLoss: d.HasArg("data-loss")}
	d.MaybeScanArgs(w.t, "node", &i.Node)
	d.MaybeScanArgs(w.t, "text", &i.Text)
	if i.Kind == IntentRemoved {
		n := w.node(i.Node)
		i.Ghost = &Ghost{
			ID: n.ID, Name: n.Name, Host: n.Host, Port: n.Port, Goal: n.Goal, Reported: n.Reported,
			Quorum: n.Quorum, TLI: n.TLI, LSN: n.LSN,
		}
		w.g.Nodes = slices.DeleteFunc(w.g.Nodes, func(x Node) bool { return x.ID == i.Node })
	} else if r := CheckIntent(w.g, i, w.now); r != nil {
		fmt.Fprintf(&w.out, "%s %s: %s\n", r.Severity, r.Code, r.Message)
		if r.Detail != "" {
			fmt.Fprintf(&w.out, "DETAIL: %s\n", r.Detail)
		}
		if r.Severity != "WARNING" && !d.HasArg("anyway") {
			return
		}
	}
	w.g.Intents = append(w.g.Intents, i)
	if d.HasArg("late") {
		w.now = w.now.Add(w.g.Settings.IntentTimeout + time.Second)
		w.live()
	}
}

func (w *world) set(d *datadriven.TestData) {
	d.MaybeScanArgs(w.t, "worker", &w.g.ID)
	if w.g.ID > 0 {
		w.g.Formation.Kind = "citus"
	}
	d.MaybeScanArgs(w.t, "nss", &w.g.Formation.NumberSyncStandbys)
	if !d.HasArg("node") {
		return
	}
	n := w.node(argID(w.t, d))
	var goal, lsn string
	d.MaybeScanArgs(w.t, "priority", &n.Priority)
	if d.HasArg("async") {
		n.Quorum = false
	}
	if d.HasArg("running") {
		n.PgIsRunning = true
	}
	if d.HasArg("quorum") {
		n.Quorum = true
	}
	if d.MaybeScanArgs(w.t, "goal", &goal) {
		n.Goal = mustState(w.t, goal)
		n.GoalNumber++
	}
	if d.MaybeScanArgs(w.t, "lsn", &lsn) {
		n.LSN = mustLSN(w.t, lsn)
	}
}

// settle decides until the group rests and prints every decision.
func (w *world) settle() {
	for limit := 0; ; limit++ {
		if limit > 100 {
			w.out.WriteString("NO END\n")
			return
		}
		d, err := decide(w.g, w.now, w.table)
		require.NoError(w.t, err)
		if d.Waiting != "" {
			fmt.Fprintf(&w.out, "waits: %s\n", d.Waiting)
		}
		if !d.Changes() {
			return
		}
		w.print(d)
		w.g = Apply(w.g, d, w.now)
	}
}

func (w *world) print(d Decision) {
	before := w.g.Record
	if len(d.Assign) > 0 || d.Rule.Name != "record" {
		fmt.Fprintf(&w.out, "rule %s\n", d.Rule.Name)
	}
	for _, a := range d.Assign {
		n := w.node(a.Node)
		fmt.Fprintf(&w.out, "node %d: %s -> %s\n", a.Node, n.Goal, a.Goal)
		if _, ok := Next(Standalone, n.Reported, a.Goal); !ok && n.Reported != a.Goal {
			fmt.Fprintf(&w.out, "node %d: NO EDGE %s to %s\n", a.Node, n.Reported, a.Goal)
		}
	}
	if was, is := before.list(), d.Record.list(); was.Number != is.Number {
		fmt.Fprintf(&w.out, "list '%s'\n", is.StandbyNames())
	} else if len(before.Lists) > len(d.Record.Lists) {
		fmt.Fprintf(&w.out, "only list '%s' in force\n", is.StandbyNames())
	}
	for _, c := range d.Close {
		if !c.Applied {
			fmt.Fprintf(&w.out, "given up: %s\n", c.Text)
		}
	}
	for _, id := range d.Remove {
		fmt.Fprintf(&w.out, "node %d is removed\n", id)
	}
	if d.NumberSyncStandbys != nil {
		fmt.Fprintf(&w.out, "number_sync_standbys = %d\n", *d.NumberSyncStandbys)
	}
}

func (w *world) show() {
	for _, n := range w.g.Nodes {
		fmt.Fprintf(&w.out, "node %d: %s/%s %d:%s\n", n.ID, n.Reported, n.Goal, n.TLI, n.LSN)
	}
	for _, l := range w.g.Record.Lists {
		fmt.Fprintf(&w.out, "in force: node %d '%s'\n", l.Primary, l.StandbyNames())
	}
	fmt.Fprintf(&w.out, "epoch %d\n", w.g.Record.Epoch)
}

func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		w := newWorld(t, rules())
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			w.t = t
			return w.run(d)
		})
	})
}

// TestEveryRuleIsShown: for each rule some scenario ends differently without it.
func TestEveryRuleIsShown(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	for _, r := range rules() {
		t.Run(r.id.Name, func(t *testing.T) {
			t.Parallel()
			without := slices.DeleteFunc(rules(), func(x rule) bool { return x.id == r.id })
			shown := slices.ContainsFunc(files, func(path string) bool { return differs(t, path, without) })
			require.True(t, shown, "no scenario fails without rule %q", r.id.Name)
		})
	}
}

// differs runs a scenario file under another table and reports whether any answer changed.
func differs(t *testing.T, path string, table []rule) bool {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	w := newWorld(t, table)
	changed := false
	datadriven.RunTestFromString(t, string(text), func(t *testing.T, d *datadriven.TestData) string {
		if changed {
			return d.Expected
		}
		w.t = t
		if got := w.run(d); strings.TrimSpace(got) != strings.TrimSpace(d.Expected) {
			changed = true
		}
		return d.Expected
	})
	return changed
}

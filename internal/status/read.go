package status

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// Read reads a formation, or one of its groups when group is not nil, with
// that many of its newest events.
func Read(ctx context.Context, db *pgautofailover.DB, formation string, group *int, events int) (Snapshot, error) {
	o, err := db.Overview(ctx, formation, group, events)
	if err != nil {
		return Snapshot{}, err
	}
	return from(o), nil
}

func from(o pgautofailover.Overview) Snapshot {
	s := Snapshot{
		Formation: o.Formation.ID, Kind: o.Formation.Kind, NumberSyncStandbys: o.Formation.NumberSyncStandbys,
		Taken: o.Now, Deciding: o.Alive, Settings: fsm.DefaultSettings(),
	}
	rules := make(map[int]Rule)
	for _, r := range fsm.RuleDocs() {
		rules[r.Pos] = Rule{Pos: r.Pos, Name: r.Name, Text: r.Text}
	}
	for _, e := range o.Events {
		s.Events = append(s.Events, eventFrom(e, rules))
	}
	for _, g := range o.Groups {
		s.Settings = g.Settings
		s.Groups = append(s.Groups, groupFrom(o, g, s.Events))
	}
	return s
}

func eventFrom(e pgautofailover.Event, rules map[int]Rule) Event {
	event := Event{
		ID: e.ID, Time: e.Time, Node: e.NodeID, Name: e.Name, Group: e.Group, Reported: e.Reported, Goal: e.Goal,
		// Texts go into tables of one line a row.
		Description: strings.Join(strings.Fields(e.Description), " "),
	}
	if e.RulePos != nil {
		event.Rule = rules[*e.RulePos]
		event.Rule.Pos = *e.RulePos
	}
	return event
}

func groupFrom(o pgautofailover.Overview, from pgautofailover.LoadedGroup, events []Event) Group {
	rec := from.Record
	g := Group{
		ID: from.ID, Primary: rec.Primary, StandbyNames: rec.StandbyNames().String(), Timeline: rec.Timeline,
		Waiting: from.Waiting, Election: rec.Election != nil, Owner: rec.Owner,
		Lone: slices.ContainsFunc(rec.Lists, fsm.List.Empty),
	}
	if len(rec.Lists) > 0 {
		last := rec.Lists[len(rec.Lists)-1]
		g.K, g.Voters = last.K, last.Voters
	}
	for _, i := range from.Intents {
		g.Requests = append(g.Requests, Request{Kind: i.Kind, Age: age(o.Now, from.Requested[i.ID])})
	}
	for _, n := range from.Nodes {
		g.Nodes = append(g.Nodes, nodeFrom(o, from, n))
	}
	if i := slices.IndexFunc(g.Nodes, func(n Node) bool { return n.Goal.Writable() }); i >= 0 {
		g.Primary = g.Nodes[i].ID
	} else if _, ok := g.Node(g.Primary); !ok {
		g.Primary = 0
	}
	g.measureLag()
	here := make(map[int64]bool)
	for _, n := range g.Nodes {
		here[n.ID] = n.Keeper.Here()
	}
	g.Successor = successor(from.Group, here, g.Primary, o.Now)
	for i := range slices.Backward(events) {
		if events[i].Group == g.ID && events[i].Rule.Pos != 0 {
			g.LastChange = &events[i]
			break
		}
	}
	return g
}

func nodeFrom(o pgautofailover.Overview, g pgautofailover.LoadedGroup, n fsm.Node) Node {
	stamps := g.Stamps[n.ID]
	node := Node{
		ID: n.ID, Group: g.ID, Name: n.Name, Host: n.Host, Port: n.Port, Region: o.Rows[n.ID].Region, Cluster: n.Cluster,
		Priority: n.Priority, Quorum: n.Quorum, Reported: n.Reported, Goal: n.Goal, Settled: n.Settled(),
		Running: n.PgIsRunning, Health: n.Health, TLI: n.TLI, LSN: n.LSN, Streaming: n.Streaming,
		Report: age(o.Now, stamps.Report), Check: age(o.Now, stamps.HealthCheck), Change: age(o.Now, stamps.StateChange),
	}
	pulse := o.Sessions[n.ID]
	patience := g.Settings.UnhealthyTimeout
	if !pulse.HasSession && !pulse.EverHad {
		patience = max(patience, g.Settings.SessionlessTimeout)
	}
	switch {
	case pulse.EverHad && !pulse.HasSession:
		node.Keeper = KeeperLost
	case node.Report > patience:
		node.Keeper = KeeperSilent
	case pulse.HasSession:
		node.Keeper = KeeperConnected
	default:
		node.Keeper = KeeperCalls
	}
	return node
}

// age is how long before now at was; stamps of one transaction may be a little ahead of another's.
func age(now, at time.Time) time.Duration { return max(0, now.Sub(at)) }

// measureLag compares every node with the primary, or where there is none that
// takes writes, with the most advanced node.
func (g *Group) measureLag() {
	if len(g.Nodes) == 0 {
		return
	}
	reference := slices.MaxFunc(g.Nodes, func(a, b Node) int {
		if a.TLI != b.TLI {
			return int(a.TLI) - int(b.TLI)
		}
		return int(max(-1, min(1, a.LSN.Sub(b.LSN))))
	})
	if p, ok := g.Node(g.Primary); ok && p.Goal.Writable() {
		reference = p
	}
	for i := range g.Nodes {
		n := &g.Nodes[i]
		n.Measure = n.ID == reference.ID
		if n.Measure || n.TLI != reference.TLI || n.LSN == 0 || reference.LSN == 0 {
			continue
		}
		n.Lag, n.LagKnown = max(0, reference.LSN.Sub(n.LSN)), true
	}
}

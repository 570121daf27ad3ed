package status

import (
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// successor is the node that would take over if the group's primary were lost
// now, 0 when none would: it plays the loss through with the monitor's own rules, and
// every node that is there doing what it is asked.
func successor(g fsm.Group, here map[int64]bool, primary int64, now time.Time) int64 {
	const rounds = 30
	g.MonitorStart, g.Intents = now.Add(-time.Hour), nil
	nodes := append([]fsm.Node(nil), g.Nodes...)
	g.Nodes = nodes
	for range rounds {
		for i := range nodes {
			nodes[i] = observed(nodes[i], here[nodes[i].ID] && nodes[i].ID != primary, now)
		}
		g.Nodes = nodes
		after, _, _, err := fsm.Settle(g, now)
		if err != nil {
			return 0
		}
		g, nodes = after, after.Nodes
		if id, done := opened(nodes, primary); done {
			return id
		}
		if g.Record.Election == nil || !obey(nodes, here, primary) && now.Sub(g.MonitorStart) > 2*time.Hour {
			return 0
		}
		now = now.Add(max(time.Minute, 2*g.Settings.DemoteTimeout)) // what waits for time gets it
	}
	return 0
}

// observed is a node as the monitor sees it when it is there, or when it is lost.
func observed(n fsm.Node, here bool, now time.Time) fsm.Node {
	n.HealthAt = now
	if here {
		n.Seen, n.Session = now, fsm.SessionHeld
		return n
	}
	n.Seen, n.Session, n.Health = now.Add(-time.Hour), fsm.SessionLost, fsm.HealthBad
	return n
}

// opened finds the node that was ordered to take the writes over.
func opened(nodes []fsm.Node, primary int64) (int64, bool) {
	for _, n := range nodes {
		if n.ID != primary && n.Goal.Writable() {
			return n.ID, true
		}
	}
	return 0, false
}

// obey has the nodes that are there reach their goals, and reports whether one did.
func obey(nodes []fsm.Node, here map[int64]bool, primary int64) bool {
	var furthest fsm.Node
	for _, n := range nodes {
		if n.ID != primary && n.Goal == fsm.ReportLSN && n.LSN > furthest.LSN {
			furthest = n
		}
	}
	moved := false
	for i := range nodes {
		n := &nodes[i]
		if n.ID == primary || !here[n.ID] || !n.PgIsRunning || n.Settled() {
			continue
		}
		n.Reported, n.Reached = n.Goal, n.GoalNumber
		if n.Goal == fsm.FastForward {
			n.LSN = max(n.LSN, furthest.LSN)
		}
		moved = true
	}
	return moved
}

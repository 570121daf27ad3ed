package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// demoNode is what the demonstration shows of a node.
type demoNode struct {
	name           string
	port           int
	reported, goal fsm.State
	health         fsm.Health
	lsn            string
}

func demoNodes(states []pgautofailover.NodeState) []demoNode {
	nodes := make([]demoNode, 0, len(states))
	for _, n := range states {
		nodes = append(nodes, demoNode{
			name: n.Name, port: n.Port, reported: n.Reported, goal: n.Goal, health: n.Health, lsn: n.LSN.String(),
		})
	}
	return nodes
}

// primaryOf is the node that has reached primary.
func primaryOf(nodes []demoNode) string {
	for _, n := range nodes {
		if n.reported == fsm.Primary && n.goal == fsm.Primary {
			return n.name
		}
	}
	return ""
}

// writableOf is the node that takes writes, also before standbys are back.
func writableOf(nodes []demoNode) string {
	for _, n := range nodes {
		if n.reported.Writable() && n.goal.Writable() {
			return n.name
		}
	}
	return ""
}

// allSettled reports one primary and standbys everywhere else.
func allSettled(nodes []demoNode) bool {
	primaries := 0
	for _, n := range nodes {
		switch {
		case n.reported != n.goal:
			return false
		case n.goal == fsm.Primary:
			primaries++
		case n.goal != fsm.Secondary:
			return false
		}
	}
	return primaries == 1
}

// demoView shows the group as it changes: a table drawn over itself on a
// terminal, one line for each change elsewhere.
type demoView struct {
	env    *Env
	writer *demoWriter
	start  time.Time
	drawn  int // lines of the table on the screen
	last   map[string]demoNode
}

func newDemoView(env *Env, writer *demoWriter, start time.Time) *demoView {
	return &demoView{env: env, writer: writer, start: start, last: map[string]demoNode{}}
}

func (v *demoView) show(nodes []demoNode) {
	if v.env.OutTerminal {
		v.draw(nodes)
		return
	}
	for _, n := range nodes {
		old, known := v.last[n.name]
		if known && old.reported == n.reported && old.goal == n.goal {
			continue
		}
		v.last[n.name] = n
		v.env.printf("%6.1fs  %-8s %19s -> %-19s %8d rows acknowledged\n",
			time.Since(v.start).Seconds(), n.name, n.reported, n.goal, v.writer.acknowledged())
	}
}

// draw replaces the table on the screen.
func (v *demoView) draw(nodes []demoNode) {
	t := &table{columns: []column{
		{title: "Name", width: 8},
		{title: "Port", width: 5},
		{title: "LSN", width: 12},
		{title: "Connection", width: 12},
		{title: "Reported State", width: 19},
		{title: "Assigned State", width: 19},
	}}
	for _, n := range nodes {
		t.add(n.name, strconv.Itoa(n.port), n.lsn, connection(n.reported)+healthMark(n.health), n.reported.String(), n.goal.String())
	}
	var b strings.Builder
	if v.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", v.drawn)
	}
	widths := t.widths()
	lines := strings.Split(strings.TrimSuffix(t.header(widths), "\n"), "\n")
	for _, row := range t.rows {
		lines = append(lines, strings.TrimSuffix(t.line(widths, row), "\n"))
	}
	lines = append(lines, fmt.Sprintf("%6.1fs  %d rows acknowledged, last one %d ms ago, longest gap since the failure %d ms",
		time.Since(v.start).Seconds(), v.writer.acknowledged(), v.writer.silence().Milliseconds(), v.writer.gap().Milliseconds()))
	for _, line := range lines {
		b.WriteString(line + "\x1b[K\n")
	}
	v.drawn = len(lines)
	v.env.printf("%s", b.String())
}

// flush leaves the table where it is; the next one starts below.
func (v *demoView) flush() { v.drawn = 0 }

package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// node is what the demonstration shows of a node.
type node struct {
	name           string
	port           int
	reported, goal fsm.State
	connection     string
	lsn            string
}

// readNodes asks the monitor for the nodes of the default formation.
func readNodes(ctx context.Context, db *pgautofailover.DB) ([]node, error) {
	states, err := db.CurrentState(ctx, defaultFormation, nil)
	if err != nil {
		return nil, err
	}
	nodes := make([]node, 0, len(states))
	for _, n := range states {
		nodes = append(nodes, node{
			name: n.Name, port: n.Port, reported: n.Reported, goal: n.Goal, connection: n.Connection(), lsn: n.LSN.String(),
		})
	}
	return nodes, nil
}

// primaryOf is the node that has reached primary.
func primaryOf(nodes []node) string {
	for _, n := range nodes {
		if n.reported == fsm.Primary && n.goal == fsm.Primary {
			return n.name
		}
	}
	return ""
}

// writableOf is the node that takes writes, also before standbys are back.
func writableOf(nodes []node) string {
	for _, n := range nodes {
		if n.reported.Writable() && n.goal.Writable() {
			return n.name
		}
	}
	return ""
}

// allSettled reports one primary and standbys everywhere else.
func allSettled(nodes []node) bool {
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

// view shows the group as it changes: a table drawn over itself on a
// terminal, one line for each change elsewhere.
type view struct {
	stage  *Stage
	writer *writer
	drawn  int // lines of the table on the screen
	last   map[string]node
}

func newView(stage *Stage, writer *writer) *view {
	return &view{stage: stage, writer: writer, last: map[string]node{}}
}

func (v *view) show(nodes []node) {
	if v.stage.Terminal {
		v.draw(nodes)
		return
	}
	if len(v.last) == 0 {
		v.stage.printf("         %-8s %19s -> assigned state\n", "node", "reported state")
	}
	for _, n := range nodes {
		old, known := v.last[n.name]
		if known && old.reported == n.reported && old.goal == n.goal {
			continue
		}
		v.last[n.name] = n
		v.stage.printf("%6.1fs  %-8s %19s -> %-19s %8d rows acknowledged\n",
			time.Since(v.stage.start).Seconds(), n.name, n.reported, n.goal, v.writer.acknowledged())
	}
}

// draw replaces the table on the screen.
func (v *view) draw(nodes []node) {
	const row = "%-8s | %5s | %12s | %-12s | %-19s | %-19s"
	lines := []string{fmt.Sprintf(row, "Name", "Port", "LSN", "Connection", "Reported State", "Assigned State")}
	lines = append(lines, strings.Map(func(r rune) rune {
		if r == '|' {
			return '+'
		}
		return '-'
	}, lines[0]))
	for _, n := range nodes {
		lines = append(lines, fmt.Sprintf(row, n.name, fmt.Sprint(n.port), n.lsn, n.connection, n.reported, n.goal))
	}
	lines = append(lines, fmt.Sprintf("%6.1fs  %d rows acknowledged, last one %d ms ago, longest gap since the failure %d ms",
		time.Since(v.stage.start).Seconds(), v.writer.acknowledged(), v.writer.silence().Milliseconds(), v.writer.gap().Milliseconds()))
	var b strings.Builder
	if v.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", v.drawn)
	}
	for _, line := range lines {
		b.WriteString(line + "\x1b[K\n")
	}
	v.drawn = len(lines)
	v.stage.printf("%s", b.String())
}

// flush leaves the table where it is; the next one starts below.
func (v *view) flush() { v.drawn = 0 }

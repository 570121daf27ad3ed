package demo

import (
	"fmt"
	"strings"
	"time"
)

// mastersView shows the nodes: a table drawn over itself on a terminal, a line
// for each node now and then elsewhere.
type mastersView struct {
	stage *Stage
	drawn int // lines of the table on the screen
}

// pace is the pause between two looks.
func (v *mastersView) pace() time.Duration {
	if v.stage.Terminal {
		return 200 * time.Millisecond
	}
	return time.Second
}

func (v *mastersView) show(masters []*master) {
	if !v.stage.Terminal {
		for _, x := range masters {
			v.stage.say("%s: %s, %d transactions written, lag %d bytes, %d ms, %d conflicts", x.name, x.status, x.committed.Load(), x.lagBytes,
				x.lag.Milliseconds(), x.conflicts)
		}
		return
	}
	const row = "%-6s | %5s | %-11s | %12s | %9s | %8s | %9s | %10s"
	lines := []string{fmt.Sprintf(row, "Node", "Port", "Engine", "Transactions", "Lag bytes", "Lag ms", "Conflicts", "Tombstones")}
	lines = append(lines, strings.Map(func(r rune) rune {
		if r == '|' {
			return '+'
		}
		return '-'
	}, lines[0]))
	for _, x := range masters {
		lines = append(lines, fmt.Sprintf(row, x.name, fmt.Sprint(x.port), x.status, fmt.Sprint(x.committed.Load()), fmt.Sprint(x.lagBytes),
			fmt.Sprint(x.lag.Milliseconds()), fmt.Sprint(x.conflicts), fmt.Sprint(x.tombstones)))
	}
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
func (v *mastersView) flush() { v.drawn = 0 }

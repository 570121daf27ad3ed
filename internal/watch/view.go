package watch

import (
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"

	"github.com/pgdrover/pgdrover/internal/status"
)

// The styles use the terminal's own sixteen colours, which suit its background.
var (
	stylePlain  = lipgloss.NewStyle()
	styleTitle  = lipgloss.NewStyle().Bold(true)
	styleHead   = lipgloss.NewStyle().Bold(true).Underline(true)
	styleGood   = lipgloss.NewStyle().Foreground(lipgloss.Color("2"))
	styleMoving = lipgloss.NewStyle().Foreground(lipgloss.Color("3"))
	styleBad    = lipgloss.NewStyle().Foreground(lipgloss.Color("1"))
	styleAlarm  = lipgloss.NewStyle().Bold(true).Reverse(true).Foreground(lipgloss.Color("1"))
	styleFaint  = lipgloss.NewStyle().Faint(true)
	styleChosen = lipgloss.NewStyle().Reverse(true)
)

// View draws the whole screen.
func (m Model) View() tea.View {
	v := tea.NewView(strings.Join(m.frame(), "\n"))
	v.AltScreen = true
	v.WindowTitle = "formation " + plain(m.formation())
	return v
}

// Render draws a snapshot once, for an output that is no terminal: without colours, all rows.
func Render(s status.Snapshot, zone *time.Location, w int) string {
	m := New(s.Formation, zone, s.Taken)
	m.width, m.height, m.snapshot, m.known = w, 1<<20, s, true
	lines := []string{m.title(s.Taken)}
	lines = append(lines, m.alarms()...)
	lines = append(lines, m.nodeLines(len(s.Nodes()))...)
	lines = append(lines, "")
	lines = append(lines, m.groupLines(20)...)
	if len(s.Events) > 0 {
		lines = append(lines, "", m.eventHeader())
		for _, e := range s.Events {
			lines = append(lines, m.eventLine(e))
		}
	}
	for i := range lines {
		lines[i] = strings.TrimRight(uncolour(lines[i]), " ")
	}
	return strings.Join(lines, "\n") + "\n"
}

func (m Model) formation() string {
	if m.known {
		return m.snapshot.Formation
	}
	return m.Formation
}

// small: every line counts.
func (m Model) small() bool { return m.height < 16 }

// frame is the screen, line by line, from the top; it has exactly as many lines as the terminal.
func (m Model) frame() []string {
	lines := append([]string{m.title(m.now)}, m.alarms()...)
	if !m.known {
		return m.fit(append(lines, "", cut(" Waiting for the monitor to answer.", m.width)))
	}
	gap := []string{""}
	var footer []string
	if m.small() {
		gap = nil
	} else {
		footer = []string{m.footer()}
	}
	detail := m.detail()
	room := m.height - len(lines) - len(footer) - len(detail)
	groups := m.groupLines(max(1, room/3))
	nodes := m.nodeLines(max(2, room-len(groups)-len(gap)*2-2))
	lines = slices.Concat(lines, nodes, gap, groups, gap)
	lines = m.fitTo(lines, m.height-len(footer)-len(detail))
	left := m.height - len(lines) - len(footer) - len(detail)
	if !m.small() && left > 1 {
		lines = append(lines, styleHead.Render(m.eventHeader()))
		left--
	}
	shown := m.eventWindow(max(0, left))
	for _, e := range shown {
		lines = append(lines, m.eventLine(e))
	}
	lines = append(lines, make([]string, max(0, left-len(shown)))...)
	return m.fit(slices.Concat(lines, detail, footer))
}

// fit makes a frame as high as the terminal, and no wider.
func (m Model) fit(lines []string) []string {
	lines = m.fitTo(lines, m.height)
	for i, line := range lines {
		if width(line) > m.width {
			lines[i] = cut(uncolour(line), m.width)
		}
	}
	return append(lines, make([]string, max(0, m.height-len(lines)))...)
}

func (m Model) fitTo(lines []string, n int) []string { return lines[:max(0, min(len(lines), n))] }

func (m Model) title(now time.Time) string {
	left := " Formation: " + plain(m.formation())
	if m.known {
		left += fmt.Sprintf(" - Sync Standbys: %d", m.snapshot.NumberSyncStandbys)
	}
	right := now.In(m.zone()).Format(time.TimeOnly)
	left = cut(left, m.width-width(right)-1)
	return styleTitle.Render(left + strings.Repeat(" ", max(1, m.width-width(left)-width(right))) + right)
}

// alarms are what an operator must see first.
func (m Model) alarms() []string {
	alarm := func(format string, args ...any) string {
		return styleAlarm.Render(pad(cut(" "+plain(fmt.Sprintf(format, args...)), m.width), m.width, false))
	}
	var lines []string
	switch {
	case m.lost != nil && m.known:
		lines = append(lines, alarm("MONITOR LOST %s ago, all this is old: %v", status.Brief(m.now.Sub(m.takenAt)), m.lost))
	case m.lost != nil:
		lines = append(lines, alarm("NO MONITOR since %s: %v", status.Brief(m.now.Sub(m.lostAt)), m.lost))
	case m.known && !m.snapshot.Deciding:
		lines = append(lines, alarm("NO MONITOR PROCESS: nothing is decided, nothing fails over."))
	}
	return lines
}

// nodeLines is the node table in at most n lines, around the selected node.
func (m Model) nodeLines(n int) []string {
	nodes := m.snapshot.Nodes()
	if len(nodes) == 0 {
		return []string{cut(" No node is registered.", m.width)}
	}
	t := layOut(nodes, m.snapshot.Kind == "citus", m.width)
	first, last := 0, len(nodes)
	if last > n {
		at := max(0, slices.IndexFunc(nodes, func(n status.Node) bool { return n.ID == m.selected.node }))
		first = max(0, min(at-n/2, len(nodes)-n))
		last = first + n
	}
	lines := []string{styleHead.Render(t.header(m.width))}
	for i := first; i < last; i++ {
		lines = append(lines, t.row(i, nodes[i], nodes[i].ID == m.selected.node, m.width))
	}
	return lines
}

// groupLines tell of each group what its primary waits for, why the group does
// not move, and the rule behind its last change, in at most n lines.
func (m Model) groupLines(n int) []string {
	var lines []string
	several := len(m.snapshot.Groups) > 1
	each := max(1, n/max(1, len(m.snapshot.Groups)))
	for i := range m.snapshot.Groups {
		g := &m.snapshot.Groups[i]
		prefix := " "
		if several {
			prefix = fmt.Sprintf(" %d: ", g.ID)
		}
		var own []string
		if g.Stuck() {
			for _, line := range fold("Waits: "+plain(g.Waiting), m.width-width(prefix), max(1, each-2)) {
				own = append(own, styleBad.Render(prefix+line))
			}
		}
		if rule := m.ruleText(g); rule != "" {
			for _, line := range fold(rule, m.width-width(prefix), m.ruleLines(each-len(own))) {
				own = append(own, prefix+line)
			}
		}
		if len(own) < each && !m.small() {
			own = append(own, cut(prefix+m.listText(g), m.width))
		}
		lines = append(lines, own[:min(each, len(own))]...)
	}
	return lines[:min(n, len(lines))]
}

// ruleLines is how many lines the rule gets of those that are left.
func (m Model) ruleLines(left int) int {
	if m.small() {
		return 1
	}
	return max(1, min(2, left))
}

// ruleText is the rule behind a group's last change.
func (m Model) ruleText(g *status.Group) string {
	e := g.LastChange
	if e == nil {
		return ""
	}
	rule := e.Rule
	if rule.Name == "" {
		return fmt.Sprintf("Rule %d, %s ago", rule.Pos, status.Brief(m.snapshot.Taken.Sub(e.Time)))
	}
	return fmt.Sprintf("Rule %d %s, %s ago: %s", rule.Pos, rule.Name, status.Brief(m.snapshot.Taken.Sub(e.Time)), rule.Text)
}

// listText is the list of synchronous standbys, with the nodes' names, and who
// would be the next primary.
func (m Model) listText(g *status.Group) string {
	text := "Commits wait for no standby."
	if len(g.Voters) > 0 {
		var names []string
		for _, id := range g.Voters {
			names = append(names, nodeName(g, id))
		}
		text = fmt.Sprintf("Commits wait for any %d of %s.", g.K, strings.Join(names, ", "))
	}
	switch {
	case g.Election:
	case g.Successor != 0:
		text += " Next primary: " + nodeName(g, g.Successor) + "."
	default:
		text += " Next primary: NONE, see show blockers."
	}
	return plain(text)
}

func nodeName(g *status.Group, id int64) string {
	if n, ok := g.Node(id); ok {
		return n.Name
	}
	return fmt.Sprintf("node %d", id)
}

// detail is what can be said of the selected row, below everything else.
func (m Model) detail() []string {
	limit := max(1, m.height/4)
	title, text := m.detailText()
	if title == "" || m.small() {
		return nil
	}
	lines := []string{styleHead.Render(pad(cut(" "+title, m.width), m.width, false))}
	for _, paragraph := range text {
		for _, line := range fold(plain(paragraph), m.width-2, limit) {
			lines = append(lines, " "+line)
		}
	}
	return lines[:min(limit+1, len(lines))]
}

func (m Model) detailText() (title string, text []string) {
	for _, e := range m.snapshot.Events {
		if m.selected.event == 0 || e.ID != m.selected.event {
			continue
		}
		title = fmt.Sprintf("Event %d, %s, %s", e.ID, plain(e.Name), e.Time.In(m.zone()).Format(time.DateTime))
		text = append(text, e.Description)
		if e.Rule.Pos != 0 {
			text = append(text, fmt.Sprintf("Rule %d %s: %s", e.Rule.Pos, e.Rule.Name, e.Rule.Text))
		}
	}
	for _, n := range m.snapshot.Nodes() {
		if m.selected.node == 0 || n.ID != m.selected.node {
			continue
		}
		title = fmt.Sprintf("%s, %s:%d, tli %d: %s, priority %d, quorum %s",
			plain(n.Name), plain(n.Host), n.Port, n.TLI, n.LSN, n.Priority, yes(n.Quorum))
		text = m.explain(n)
	}
	return title, text
}

// explain says why a node is not promoted, or that it could be.
func (m Model) explain(n status.Node) []string {
	var text []string
	about := status.About(m.snapshot.Blockers(status.Caller{Program: m.Program}), n)
	if own := slices.DeleteFunc(slices.Clone(about), func(b status.Blocker) bool { return b.Node != n.ID }); len(own) > 0 {
		about = own // what the group waits for is shown above
	}
	for _, b := range about {
		line := b.Text + "."
		if b.Command != "" {
			line += " → " + b.Command
		}
		text = append(text, line)
	}
	switch {
	case len(text) > 0:
	case n.Goal.Writable():
		text = []string{"It takes the group's writes."}
	default:
		text = []string{"Nothing keeps it from taking over."}
	}
	return text
}

// footer names the keys.
func (m Model) footer() string {
	var parts []string
	for _, b := range m.keys.shown() {
		parts = append(parts, b.Help().Key+" "+b.Help().Desc)
	}
	return styleFaint.Render(cut(" "+strings.Join(parts, "  "), m.width))
}

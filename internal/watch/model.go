package watch

import (
	"slices"
	"time"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"github.com/pgdrover/pgdrover/internal/status"
)

// Model is the dashboard: what it knows and where the operator looks.
type Model struct {
	// Formation is shown until the first snapshot is there; Zone is where times are told in.
	Formation string
	Zone      *time.Location
	// Program is the name that commands are told with.
	Program string

	keys          keyMap
	width, height int
	now           time.Time
	snapshot      status.Snapshot
	known         bool      // a snapshot is there
	takenAt       time.Time // when the snapshot came, on this clock
	lost          error     // why the monitor does not answer; nil when it does
	lostAt        time.Time
	// selected is the row that the operator looks at. It is remembered by id, so
	// that it stays when rows are added.
	selected selection
	// left is how many columns the descriptions are scrolled by.
	left int
}

// selection is a node or an event, by id; the zero value is none.
type selection struct{ node, event int64 }

// Messages of the dashboard besides those of the terminal.
type (
	snapshotMsg status.Snapshot
	lostMsg     struct{ err error }
	clockMsg    time.Time
)

// New makes a dashboard that has seen nothing yet, in a terminal of the usual size.
func New(formation string, zone *time.Location, now time.Time) Model {
	return Model{Formation: formation, Zone: zone, Program: "pgdrover", keys: keys(), width: 80, height: 24, now: now}
}

// Init asks to be told the time.
func (m Model) Init() tea.Cmd { return tick() }

func tick() tea.Cmd {
	return tea.Every(time.Second, func(t time.Time) tea.Msg { return clockMsg(t) })
}

// Update takes one message.
func (m Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case clockMsg:
		m.now = time.Time(msg)
		return m, tick()
	case snapshotMsg:
		m.snapshot, m.known, m.takenAt, m.lost = status.Snapshot(msg), true, m.now, nil
	case lostMsg:
		if m.lost == nil {
			m.lostAt = m.now
		}
		m.lost = msg.err
	case tea.KeyPressMsg:
		return m.press(msg)
	}
	return m, nil
}

func (m Model) press(msg tea.KeyPressMsg) (tea.Model, tea.Cmd) {
	const step = 10
	k := m.keys
	switch {
	case key.Matches(msg, k.quit):
		return m, tea.Quit
	case key.Matches(msg, k.up):
		m.move(-1)
	case key.Matches(msg, k.down):
		m.move(1)
	case key.Matches(msg, k.pageUp):
		m.move(-m.page())
	case key.Matches(msg, k.pageDown):
		m.move(m.page())
	case key.Matches(msg, k.left):
		m.left = max(0, m.left-step)
	case key.Matches(msg, k.right):
		m.left = min(m.left+step, m.lastColumn())
	case key.Matches(msg, k.home):
		m.left = 0
	case key.Matches(msg, k.end):
		m.left = m.lastColumn()
	case key.Matches(msg, k.clear):
		m.selected = selection{}
	}
	return m, nil
}

// page is how many rows a page key moves by.
func (m Model) page() int { return max(1, m.height/2) }

// lastColumn is how far descriptions can be scrolled so that the end of the longest shows.
func (m Model) lastColumn() int {
	longest := 0
	for _, e := range m.snapshot.Events {
		longest = max(longest, width(m.describe(e)))
	}
	return max(0, longest-m.descriptionWidth())
}

// rows are everything that can be selected, from top to bottom.
func (m Model) rows() []selection {
	var rows []selection
	for _, n := range m.snapshot.Nodes() {
		rows = append(rows, selection{node: n.ID})
	}
	for _, e := range m.snapshot.Events {
		rows = append(rows, selection{event: e.ID})
	}
	return rows
}

// move selects another row; the first move selects the first row, or the last when it goes up.
func (m *Model) move(by int) {
	rows := m.rows()
	if len(rows) == 0 {
		return
	}
	at := slices.Index(rows, m.selected)
	switch {
	case at < 0 && by > 0:
		at = 0
	case at < 0:
		at = len(rows) - 1
	default:
		at = max(0, min(at+by, len(rows)-1))
	}
	m.selected = rows[at]
}

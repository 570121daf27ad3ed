package watch

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/status"
)

// eventLayout is which columns the event list has.
type eventLayout struct {
	id, clock, date, name, rule bool
}

// The rooms of the event list's columns.
const (
	idWidth    = 6
	clockWidth = 8
	dateWidth  = 19
	ruleWidth  = 20
)

// narrow is the width below which only the essential is shown.
const narrow = 60

// eventLayout gives descriptions most of the line, and takes every other column that leaves them enough.
func (m Model) eventLayout() eventLayout {
	switch {
	case m.width >= 130:
		return eventLayout{id: true, date: true, name: true, rule: true}
	case m.width >= 100:
		return eventLayout{id: true, date: true}
	case m.width >= narrow:
		return eventLayout{clock: true}
	}
	return eventLayout{id: true}
}

// prefix is everything of an event's line but its description.
func (m Model) eventPrefix(l eventLayout, id, clock, date, name, rule string) string {
	line := ""
	take := func(on bool, text string, w int, right bool) {
		if on {
			line += pad(cut(plain(text), w), w, right) + "  "
		}
	}
	take(l.id, id, idWidth, true)
	take(l.clock, clock, clockWidth, false)
	take(l.date, date, dateWidth, false)
	take(l.name, name, m.nameWidth(), false)
	take(l.rule, rule, ruleWidth, false)
	return line
}

// nameWidth is the room of the longest node name.
func (m Model) nameWidth() int {
	room := 6
	for _, e := range m.snapshot.Events {
		room = max(room, min(20, width(plain(e.Name))))
	}
	return room
}

func (m Model) descriptionWidth() int {
	return max(1, m.width-1-width(m.eventPrefix(m.eventLayout(), "", "", "", "", "")))
}

func (m Model) eventHeader() string {
	l := m.eventLayout()
	return cut(" "+m.eventPrefix(l, "Id", "Time", "Event Time", "Name", "Rule")+"Description", m.width)
}

func (m Model) eventLine(e status.Event) string {
	l := m.eventLayout()
	at := e.Time.In(m.zone())
	clock := at.Format(time.TimeOnly)
	if m.snapshot.Taken.Sub(e.Time) > 24*time.Hour {
		clock = at.Format("Jan _2")
	}
	text := m.eventPrefix(l, strconv.FormatInt(e.ID, 10), clock, at.Format(time.DateTime), e.Name, e.Rule.Name) +
		skip(m.describe(e), m.left)
	chosen := m.selected.event == e.ID && e.ID != 0
	if chosen {
		return styleChosen.Render(pad(cut("›"+text, m.width), m.width, false))
	}
	return cut(" "+text, m.width)
}

// describe is an event's text for the list, with names where the full text has
// addresses too. The full text is shown of the event that is selected.
func (m Model) describe(e status.Event) string {
	text := e.Description
	for _, n := range m.snapshot.Nodes() {
		text = strings.ReplaceAll(text, n.String(), n.Name)
	}
	if m.width < narrow {
		text = strings.TrimPrefix(text, "Setting goal state of ")
		text = strings.TrimPrefix(text, "New state is reported by ")
	}
	return plain(text)
}

func (m Model) zone() *time.Location {
	if m.Zone == nil {
		return time.UTC
	}
	return m.Zone
}

// eventWindow is the part of the events that n lines show: the newest, or
// those around the one that is selected.
func (m Model) eventWindow(n int) []status.Event {
	events := m.snapshot.Events
	last := len(events)
	if at := slices.IndexFunc(events, func(e status.Event) bool { return e.ID == m.selected.event }); at >= 0 && at < last-n {
		last = min(last, at+max(1, n/2)+1)
		last = max(last, min(n, len(events)))
	}
	return events[max(0, last-n):last]
}

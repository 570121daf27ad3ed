package watch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"charm.land/lipgloss/v2"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/status"
)

// field names a column of the node table.
type field int

const (
	fieldID field = iota
	fieldName
	fieldNode
	fieldRegion
	fieldQuorum
	fieldPriority
	fieldHost
	fieldLSN
	fieldCheck
	fieldLastCheck
	fieldConnection
	fieldLag
	fieldReport
	fieldLastReport
	fieldReported
	fieldAssigned
)

// stateWidth holds every state but the two that a node passes through on its
// way to maintenance, so that a failover does not change the layout.
const stateWidth = 17

// column is how a field is shown: its title, the room it keeps, and which side it leans to.
type column struct {
	title string
	least int
	right bool
}

func (f field) column() column {
	switch f {
	case fieldID:
		return column{"Id", 3, true}
	case fieldName:
		return column{"Name", 6, false}
	case fieldNode:
		return column{"Node", 4, true}
	case fieldRegion:
		return column{"Region", 6, false}
	case fieldQuorum:
		return column{"Quorum", 6, false}
	case fieldPriority:
		return column{"Priority", 8, true}
	case fieldHost:
		return column{"Host:Port", 9, false}
	case fieldLSN:
		return column{"TLI: LSN", 16, true}
	case fieldCheck:
		return column{"Check", 5, true}
	case fieldLastCheck:
		return column{"Last Check", 10, true}
	case fieldConnection:
		return column{"Connection", 12, false}
	case fieldLag:
		return column{"Lag", 7, true}
	case fieldReport:
		return column{"Report", 6, true}
	case fieldLastReport:
		return column{"Last Report", 11, true}
	case fieldReported:
		return column{"Reported State", stateWidth, false}
	case fieldAssigned:
		return column{"Assigned State", stateWidth, false}
	}
	return column{}
}

// layouts are the sets of columns, from the widest to the narrowest; the first that fits is taken.
func layouts(regions bool) [][]field {
	states := []field{fieldReported, fieldAssigned}
	verbose := []field{fieldName, fieldNode, fieldRegion, fieldQuorum, fieldPriority}
	all := [][]field{
		slices.Concat(verbose, []field{fieldHost, fieldLSN, fieldLastCheck, fieldConnection, fieldLag, fieldLastReport}, states),
		slices.Concat(verbose, []field{fieldHost, fieldLSN, fieldCheck, fieldConnection, fieldLag, fieldLastReport}, states),
		slices.Concat(verbose, []field{fieldLSN, fieldCheck, fieldConnection, fieldLag, fieldReport}, states),
		slices.Concat(verbose, []field{fieldCheck, fieldConnection, fieldLag, fieldReport}, states),
		slices.Concat([]field{fieldName, fieldID, fieldCheck, fieldConnection, fieldLag, fieldReport}, states),
		slices.Concat([]field{fieldName, fieldID, fieldConnection, fieldLag, fieldReport}, states),
		slices.Concat([]field{fieldName, fieldConnection, fieldLag, fieldReport}, states),
		slices.Concat([]field{fieldName, fieldLag, fieldReport}, states),
		slices.Concat([]field{fieldName, fieldID, fieldReport}, states),
		slices.Concat([]field{fieldName, fieldReport}, states),
		slices.Concat([]field{fieldID}, states),
	}
	if regions {
		return all
	}
	for i := range all {
		all[i] = slices.DeleteFunc(all[i], func(f field) bool { return f == fieldRegion })
	}
	return all
}

// cell is what a node shows in a column.
func cell(f field, n status.Node, citus bool) string {
	switch f {
	case fieldName:
		return n.Name
	case fieldID, fieldNode:
		if citus {
			return fmt.Sprintf("%d/%d", n.Group, n.ID)
		}
		return strconv.FormatInt(n.ID, 10)
	case fieldRegion:
		return n.Region
	case fieldQuorum:
		return yes(n.Quorum)
	case fieldPriority:
		return strconv.Itoa(n.Priority)
	case fieldHost:
		return n.Host + ":" + strconv.Itoa(n.Port)
	case fieldLSN:
		return fmt.Sprintf("%3d: %s", n.TLI, n.LSN)
	case fieldCheck, fieldLastCheck:
		return status.Brief(n.Check)
	case fieldConnection:
		return n.MarkedConnection()
	case fieldLag:
		return lag(n)
	case fieldReport, fieldLastReport:
		if !n.Keeper.Here() {
			return status.Brief(n.Report) + " !"
		}
		return status.Brief(n.Report)
	case fieldReported:
		return n.Reported.String()
	case fieldAssigned:
		return n.Goal.String()
	}
	return ""
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// lag is how far a node is behind; the primary is the measure, and positions
// on another timeline do not compare.
func lag(n status.Node) string {
	switch {
	case n.LagKnown:
		return status.Bytes(n.Lag)
	case n.Measure:
		return "-"
	case n.LSN == 0:
		return "?"
	}
	return fmt.Sprintf("tli %d", n.TLI)
}

// table is a node table laid out for one frame.
type table struct {
	fields []field
	widths []int
	gap    string
	cells  [][]string
	// grouped puts the group's number before the name, as nothing else tells it.
	grouped bool
}

func (t *table) cell(f field, n status.Node, citus bool) string {
	text := plain(cell(f, n, citus))
	if t.grouped && f == fieldName {
		return fmt.Sprintf("%d: %s", n.Group, text)
	}
	return text
}

// layOut takes the widest set of columns that fits into w.
func layOut(nodes []status.Node, citus bool, w int) table {
	regions := slices.ContainsFunc(nodes, func(n status.Node) bool { return n.Region != "" && n.Region != "default" })
	all := layouts(regions)
	for i, fields := range all {
		t := table{fields: fields, gap: "  "}
		if citus && !slices.Contains(fields, fieldNode) && !slices.Contains(fields, fieldID) {
			t.grouped = true
		}
		if i == len(all)-1 {
			t.gap = " "
		}
		total := 1 - len(t.gap)
		for _, f := range fields {
			c := f.column()
			room := max(c.least, width(c.title))
			for _, n := range nodes {
				room = max(room, width(t.cell(f, n, citus)))
			}
			t.widths = append(t.widths, room)
			total += len(t.gap) + room
		}
		if total <= w || i == len(all)-1 {
			t.fill(nodes, citus)
			return t
		}
	}
	return table{}
}

func (t *table) fill(nodes []status.Node, citus bool) {
	for _, n := range nodes {
		var row []string
		for i, f := range t.fields {
			row = append(row, pad(t.cell(f, n, citus), t.widths[i], f.column().right))
		}
		t.cells = append(t.cells, row)
	}
}

// header is the line of titles.
func (t *table) header(w int) string {
	var titles []string
	for i, f := range t.fields {
		titles = append(titles, pad(f.column().title, t.widths[i], f.column().right))
	}
	return cut(" "+strings.Join(titles, t.gap), w)
}

// row draws one node in at most w columns; chosen rows carry a mark, too, for terminals without colours.
func (t *table) row(i int, n status.Node, chosen bool, w int) string {
	mark := " "
	if chosen {
		mark = "›"
	}
	if chosen {
		return styleChosen.Render(pad(cut(mark+strings.Join(t.cells[i], t.gap), w), w, false))
	}
	used := width(mark)
	var line strings.Builder
	line.WriteString(mark)
	for c, f := range t.fields {
		text := t.cells[i][c]
		if c > 0 {
			text = t.gap + text
		}
		text = cut(text, w-used)
		used += width(text)
		line.WriteString(nodeStyle(f, n).Render(text))
	}
	return line.String()
}

// nodeStyle colours a cell: red is broken, yellow is on its way, green takes writes.
func nodeStyle(f field, n status.Node) lipgloss.Style {
	switch f {
	case fieldConnection:
		if n.Health == fsm.HealthBad {
			return styleBad
		}
	case fieldReport, fieldLastReport:
		if !n.Keeper.Here() {
			return styleBad
		}
	case fieldReported, fieldAssigned:
		switch {
		case !n.Keeper.Here() && n.Health == fsm.HealthBad:
			return styleBad
		case !n.Settled:
			return styleMoving
		case n.Goal.Writable():
			return styleGood
		}
	default:
	}
	return stylePlain
}

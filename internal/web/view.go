package web

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/status"
)

// picture is what is known of the formation.
type picture struct {
	snapshot status.Snapshot
	known    bool
	lost     error // why the monitor cannot be read now
}

// alarm is what an operator must see first; "" when there is nothing.
func (p picture) alarm() string {
	switch {
	case p.lost != nil && p.known:
		return fmt.Sprintf("The monitor is lost, all this is old: %v", p.lost)
	case p.lost != nil:
		return fmt.Sprintf("The monitor does not answer: %v", p.lost)
	case !p.known:
		return "Waiting for the monitor to answer."
	case !p.snapshot.Deciding:
		return "There is no monitor process: nothing is decided, nothing fails over."
	}
	return ""
}

// formationView is what the template shows.
type formationView struct {
	Name, Alarm, Taken string
	SyncStandbys       int
	Groups             []groupView
	Events             []eventView
}

type groupView struct {
	Title, Waiting, List, Successor, Rule string
	Nodes                                 []nodeView
}

type nodeView struct {
	Name, ID, Address, Position, Connection, Lag, Report, Reported, Assigned string
	// Class is how the row looks: good, moving or bad.
	Class string
}

type eventView struct{ Time, Node, Rule, Text string }

func (s *Server) view(p picture) formationView {
	snapshot := p.snapshot
	v := formationView{Name: s.cfg.Formation, Alarm: p.alarm(), SyncStandbys: snapshot.NumberSyncStandbys}
	if !p.known {
		return v
	}
	v.Taken = snapshot.Taken.In(s.cfg.Zone).Format(time.TimeOnly)
	for i := range snapshot.Groups {
		v.Groups = append(v.Groups, viewGroup(&snapshot, &snapshot.Groups[i]))
	}
	for _, e := range slices.Backward(snapshot.Events) { // the newest is on top
		v.Events = append(v.Events, eventView{
			Time: e.Time.In(s.cfg.Zone).Format(time.DateTime), Node: e.Name, Rule: e.Rule.Name, Text: e.Description,
		})
	}
	return v
}

// title names a group by what it is for.
func title(kind string, group int) string {
	switch {
	case kind != "citus":
		return fmt.Sprintf("Group %d", group)
	case group == 0:
		return "Group 0: coordinator"
	}
	return fmt.Sprintf("Group %d: worker", group)
}

func viewGroup(s *status.Snapshot, g *status.Group) groupView {
	v := groupView{Title: title(s.Kind, g.ID), List: g.StandbyNames}
	if g.Stuck() {
		v.Waiting = g.Waiting
	}
	if n, ok := g.Node(g.Successor); ok && !g.Election {
		v.Successor = n.Name
	}
	if e := g.LastChange; e != nil {
		v.Rule = fmt.Sprintf("%s, %s ago: %s", e.Rule.Name, status.Brief(s.Taken.Sub(e.Time)), e.Rule.Text)
	}
	for _, n := range g.Nodes {
		v.Nodes = append(v.Nodes, viewNode(s.Kind, n))
	}
	return v
}

func viewNode(kind string, n status.Node) nodeView {
	v := nodeView{
		Name: n.Name, ID: strconv.FormatInt(n.ID, 10), Address: net.JoinHostPort(n.Host, strconv.Itoa(n.Port)),
		Position: fmt.Sprintf("%d: %s", n.TLI, n.LSN), Connection: n.MarkedConnection(), Report: status.Brief(n.Report),
		Reported: n.Reported.String(), Assigned: n.Goal.String(), Class: class(n),
	}
	if kind == "citus" {
		v.ID = fmt.Sprintf("%d/%d", n.Group, n.ID)
	}
	switch {
	case n.Measure:
	case n.LagKnown:
		v.Lag = status.Bytes(n.Lag)
	default:
		v.Lag = "?"
	}
	return v
}

func class(n status.Node) string {
	switch {
	case n.Health == fsm.HealthBad || !n.Keeper.Here():
		return "bad"
	case n.Reported != n.Goal:
		return "moving"
	}
	return "good"
}

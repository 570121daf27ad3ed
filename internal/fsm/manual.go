package fsm

import (
	"fmt"
	"strings"
)

// Manual renders both tables for the operator's manual: the monitor's rules in
// the order of evaluation, the keeper's edges with their steps, and a diagram.
func Manual() string {
	var b strings.Builder
	b.WriteString("# The state machine\n\nGenerated from the tables in `internal/fsm`.\n\n")
	b.WriteString("## What the monitor decides\n\nThe first rule that applies decides; then the table is read again until nothing changes.\n")
	b.WriteString("Events name the rule.\n\n| Position | Rule | When |\n|---|---|---|\n")
	for _, r := range rules() {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", r.id.Pos, r.id.Name, r.doc)
	}
	b.WriteString("\n## What the node does\n\nEach step is \"make it so\": it can be killed anywhere and run again.\n\n")
	b.WriteString("| From | To | Steps |\n|---|---|---|\n")
	for _, row := range edgeTable() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", stateList(row.from), stateList(row.to), stepList(row.steps))
	}
	b.WriteString("\n## The usual ways\n\n```mermaid\nstateDiagram-v2\n")
	for _, e := range usualWays() {
		fmt.Fprintf(&b, "    %s --> %s\n", e[0], e[1])
	}
	b.WriteString("```\n")
	return b.String()
}

func stateList(states []State) string {
	if len(states) == len(stateNames) {
		return "any"
	}
	names := make([]string, len(states))
	for i, s := range states {
		names[i] = s.String()
	}
	return strings.Join(names, ", ")
}

func stepList(steps []Step) string {
	if len(steps) == 0 {
		return "–"
	}
	names := make([]string, len(steps))
	for i, s := range steps {
		names[i] = s.String()
	}
	return strings.Join(names, ", ")
}

// usualWays are the transitions of creation, failover, switchover and return.
func usualWays() [][2]State {
	return [][2]State{
		{Init, Single},
		{Single, WaitPrimary},
		{Init, WaitStandby},
		{WaitStandby, CatchingUp},
		{CatchingUp, Secondary},
		{WaitPrimary, Primary},
		{Primary, ApplySettings},
		{ApplySettings, Primary},
		{Primary, WaitPrimary},
		{Primary, Draining},
		{Draining, DemoteTimeout},
		{Draining, Demoted},
		{DemoteTimeout, Demoted},
		{Demoted, CatchingUp},
		{Secondary, PreparePromotion},
		{PreparePromotion, StopReplication},
		{StopReplication, WaitPrimary},
		{PreparePromotion, WaitPrimary},
		{Secondary, ReportLSN},
		{ReportLSN, PreparePromotion},
		{ReportLSN, FastForward},
		{FastForward, PreparePromotion},
		{ReportLSN, JoinSecondary},
		{JoinSecondary, Secondary},
		{Secondary, CatchingUp},
	}
}

package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// edgeList is every change of state that a keeper of a kind can make.
func edgeList(kind fsm.NodeKind) []fsm.Edge {
	var out []fsm.Edge
	for _, from := range fsm.States() {
		for _, to := range reachable(kind, from) {
			edge, _ := fsm.Next(kind, from, to)
			out = append(out, edge)
		}
	}
	return out
}

// edgesJSON are the edges as the monitor's check takes them.
func edgesJSON(kind fsm.NodeKind) array {
	list := array{}
	for _, e := range edgeList(kind) {
		list = append(list, object{{"current", e.From}, {"assigned", e.To}})
	}
	return list
}

func newFSMGraphCmd(env *Env) *cobra.Command {
	return newMixedLeaf("gv", "Output the keeper's FSM as a graphviz program suitable for dot", func(_ *cobra.Command, _ []string) error {
		env.printf("digraph finite_state_machine\n{\n    size=\"12\"\n    ratio=\"fill\"\n    node [shape = doublecircle]; init primary single secondary dropped;\n    node [shape = circle];\n")
		for _, e := range edgeList(fsm.Standalone) {
			env.printf("    %s -> %s;\n", e.From, e.To)
		}
		env.printf("}\n")
		return nil
	})
}

// diagrams are the parts of a group's life that a diagram can show, and the
// states that belong to each.
func diagrams() []struct {
	name   string
	states []fsm.State
} {
	return []struct {
		name   string
		states []fsm.State
	}{
		{"init", []fsm.State{fsm.Init, fsm.Single, fsm.WaitPrimary, fsm.WaitStandby, fsm.CatchingUp, fsm.Primary, fsm.Secondary}},
		{"steady-state", []fsm.State{
			fsm.Single, fsm.WaitPrimary, fsm.JoinPrimary, fsm.Primary, fsm.ApplySettings, fsm.CatchingUp, fsm.Secondary,
		}},
		{"failover", []fsm.State{
			fsm.Primary, fsm.Draining, fsm.DemoteTimeout, fsm.Demoted, fsm.Secondary, fsm.CatchingUp, fsm.ReportLSN, fsm.FastForward,
			fsm.PreparePromotion, fsm.StopReplication, fsm.WaitPrimary, fsm.JoinSecondary,
		}},
		{"maintenance", []fsm.State{
			fsm.Primary, fsm.PrepareMaintenance, fsm.Secondary, fsm.WaitMaintenance, fsm.Maintenance, fsm.CatchingUp, fsm.ReportLSN,
		}},
		{"removal", []fsm.State{fsm.Primary, fsm.WaitPrimary, fsm.Single, fsm.Secondary, fsm.CatchingUp, fsm.ReportLSN, fsm.Dropped}},
	}
}

func newFSMDiagramCmd(env *Env) *cobra.Command {
	return newWordsLeaf("mermaid <init|steady-state|failover|maintenance|removal>", "Output a part of the keeper's FSM as a mermaid diagram",
		func(_ *cobra.Command, words []string) error {
			for _, d := range diagrams() {
				if d.name == words[0] {
					env.printf("%s", diagram(d.states))
					return nil
				}
			}
			return misuse("there is no diagram %q", words[0])
		})
}

// diagram draws the edges between some states.
func diagram(states []fsm.State) string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n")
	for _, e := range edgeList(fsm.Standalone) {
		if e.From.In(states...) && e.To.In(states...) {
			fmt.Fprintf(&b, "    %s --> %s\n", e.From, e.To)
		}
	}
	return b.String()
}

func newFSMCheckCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("check", "Check that the keeper knows every change of state that the monitor may order",
		withMonitor(env, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
			kind := fsm.Standalone
			if s.node != nil {
				kind = s.node.nodeKind()
			}
			var edges strings.Builder
			if err := encodeJSON(&edges, edgesJSON(kind), jsonStyle{}, 0); err != nil {
				return err
			}
			missing, err := s.db.CheckEdges(ctx, edges.String())
			if err != nil {
				return err
			}
			mismatches := array{}
			t := &table{columns: []column{{title: "Current", width: 20}, {title: "Assigned", width: 20}, {title: "Comment", left: true}}}
			for _, m := range missing {
				t.add(m.Current.String(), m.Goal.String(), m.Comment)
				mismatches = append(mismatches, object{
					{"pos", m.Pos}, {"current", m.Current}, {"assigned", m.Goal}, {"comment", m.Comment},
				})
			}
			if jsonWanted(cmd) {
				err = writeJSON(env.Stdout, object{{"ok", len(missing) == 0}, {"mismatches", mismatches}})
			} else if len(missing) > 0 {
				err = t.write(env.Stdout)
			}
			switch {
			case err != nil:
				return err
			case len(missing) > 0:
				return fail(exitInternal, "the monitor may order %d changes of state that this program does not know", len(missing)).
					withHint("run the same version on the monitor and on its nodes")
			}
			env.infof("This program knows every change of state that the monitor may order")
			return nil
		}))
	pgdataFlag(cmd)
	return cmd
}

package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/status"
)

func newShowBlockersCmd(env *Env) *cobra.Command {
	cmd := newLeaf("blockers",
		"Explains what keeps groups from being primary and nodes from being promoted, and which command helps; exit code 1 when something does",
		withMonitor(env, showBlockers))
	pgdataFlag(cmd)
	monitorFlag(cmd, "m")
	formationFlag(cmd)
	groupFlag(cmd)
	nameFlag(cmd, "n")
	return cmd
}

func showBlockers(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
	formation := s.formation(cmd)
	if err := s.formationExists(ctx, formation); err != nil {
		return err
	}
	snapshot, err := status.Read(ctx, s.db, formation, optionalGroup(cmd), watchedEvents)
	if err != nil {
		return err
	}
	found := snapshot.Blockers(status.Caller{Program: s.env.program(), Options: s.sameMonitor(cmd)})
	name := text(cmd, "name")
	var node status.Node
	if name != "" {
		nodes := snapshot.Nodes()
		i := slices.IndexFunc(nodes, func(n status.Node) bool { return n.Name == name })
		if i < 0 {
			return fail(exitMonitor, "node %q is not registered in formation %q", name, formation)
		}
		node = nodes[i]
		found = status.About(found, node)
	}
	// What somebody set so is an answer about that node, and no trouble of its group.
	blocked := slices.ContainsFunc(found, func(b status.Blocker) bool { return !b.Deliberate || b.Node == node.ID && name != "" })
	switch {
	case jsonWanted(cmd):
		err = writeJSON(s.env.Stdout, blockersJSON(formation, blocked, found))
	case name != "":
		printBlockers(s.env, found)
		if !blocked {
			s.env.printf("Nothing keeps %s from its work: %s.\n", node, duty(node))
		}
	default:
		printBlockers(s.env, found)
		if !blocked {
			printUnblocked(s.env, &snapshot)
		}
	}
	if err == nil && blocked {
		return quit(exitBadArgs)
	}
	return err
}

// sameMonitor spells the options that lead to the monitor that was asked.
func (s *session) sameMonitor(cmd *cobra.Command) string {
	switch uri := text(cmd, "monitor"); {
	case uri != "" && s.info.Get("password") != "":
		return "--monitor URI" // a password has no place on a screen
	case uri != "":
		return "--monitor '" + uri + "'"
	case text(cmd, "pgdata") != "":
		return "--pgdata " + text(cmd, "pgdata")
	}
	return ""
}

// printBlockers prints one paragraph for each: what blocks, and below it what helps.
func printBlockers(env *Env, found []status.Blocker) {
	for _, b := range found {
		subject := b.Text
		if b.Node == 0 && b.Cause != status.CauseNoMonitor && b.Cause != status.CauseNoNode {
			subject = fmt.Sprintf("group %d: %s", b.Group, b.Text)
		}
		mark := "-"
		if b.Deliberate {
			mark = " " // set so
		}
		env.printf("%s %s\n", mark, subject)
		if b.Command != "" {
			env.printf("      %s\n", b.Command)
		}
	}
}

// printUnblocked says of each group who is primary, and who would follow.
func printUnblocked(env *Env, s *status.Snapshot) {
	for i := range s.Groups {
		g := &s.Groups[i]
		p, _ := g.Node(g.Primary)
		next, _ := g.Node(g.Successor)
		env.printf("Nothing blocks group %d of formation %q: %s is %s, and %s would take over.\n",
			g.ID, s.Formation, p.Name, p.Goal, next.Name)
	}
}

func duty(n status.Node) string {
	if n.Goal.Writable() {
		return "it takes the group's writes as " + n.Goal.String()
	}
	if n.Goal == fsm.Secondary {
		return "it could take over"
	}
	return "it is " + n.Goal.String()
}

func blockersJSON(formation string, blocked bool, found []status.Blocker) object {
	list := array{}
	for _, b := range found {
		var id, name, command any
		if b.Node != 0 {
			id, name = b.Node, b.Name
		}
		if b.Command != "" {
			command = b.Command
		}
		list = append(list, object{
			{"cause", string(b.Cause)},
			{"group_id", b.Group},
			{"node_id", id},
			{"nodename", name},
			{"text", b.Text},
			{"command", command},
			{"deliberate", b.Deliberate},
		})
	}
	return object{{"formation", formation}, {"blocked", blocked}, {"blockers", list}}
}

package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/keeper"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// newInspectMonitorCmd holds what a node can ask its monitor, and more when there is more.
func newInspectMonitorCmd(env *Env, short string, more ...*cobra.Command) *cobra.Command {
	return newSet("monitor", short, append([]*cobra.Command{
		newSet("get", "Get information from the monitor",
			newMonitorGetCmd(env, "primary", "Get the primary node of the local node's group", getPrimary),
			newMonitorGetCmd(env, "others", "Get the other nodes of the local node's group", getOthers),
			newMonitorGetCmd(env, "candidate-count", "Get how many other nodes could be promoted", getCandidateCount),
			newMonitorGetCmd(env, "coordinator", "Get the coordinator of a Citus formation", getCoordinator),
		),
		newParseNotificationCmd(env),
	}, more...)...)
}

func newMonitorGetCmd(
	env *Env, name, short string, get func(ctx context.Context, s *session, cmd *cobra.Command, st keeper.State) error,
) *cobra.Command {
	cmd := newMixedLeaf(name, short, func(cmd *cobra.Command, _ []string) error {
		return withOwnNode(env, cmd, func(ctx context.Context, s *session, st keeper.State) error {
			return get(ctx, s, cmd, st)
		})
	})
	pgdataFlag(cmd)
	return cmd
}

func getPrimary(ctx context.Context, s *session, cmd *cobra.Command, st keeper.State) error {
	formation, group := s.node.keeper.Formation, int(st.Group)
	p, err := s.db.Primary(ctx, formation, group)
	if errors.Is(err, pgautofailover.ErrNotFound) {
		return fail(exitMonitor, "formation %q has no primary in group %d now", formation, group).
			withHint("see what the group does with: %s show state", s.env.program())
	}
	if err != nil {
		return err
	}
	if jsonWanted(cmd) {
		return writeJSON(s.env.Stdout, object{
			{"formation", formation}, {"groupId", group}, {"nodeId", p.ID}, {"name", p.Name}, {"host", p.Host}, {"port", p.Port},
		})
	}
	s.env.printf("%s/%d %s\n", formation, group, hostPort(p.Host, p.Port))
	return nil
}

func getOthers(ctx context.Context, s *session, cmd *cobra.Command, st keeper.State) error {
	peers, err := s.db.OtherNodes(ctx, int64(st.NodeID))
	if err != nil {
		return err
	}
	nodes := make([]keeper.Neighbour, 0, len(peers))
	for _, p := range peers {
		nodes = append(nodes, keeper.Neighbour{ID: p.ID, Name: p.Name, Host: p.Host, Port: p.Port, LSN: p.LSN, Primary: p.IsPrimary})
	}
	if jsonWanted(cmd) {
		return writeJSON(s.env.Stdout, neighboursJSON(nodes))
	}
	return neighboursTable(nodes).write(s.env.Stdout)
}

func getCandidateCount(ctx context.Context, s *session, cmd *cobra.Command, st keeper.State) error {
	formation, group := s.node.keeper.Formation, int(st.Group)
	rows, err := s.db.NodeRows(ctx, formation, &group)
	if err != nil {
		return err
	}
	count := 0
	for _, r := range rows {
		if r.ID != int64(st.NodeID) && r.Priority > 0 && r.Goal != fsm.Dropped {
			count++
		}
	}
	return s.answer(cmd, count, object{{"formation", formation}, {"groupId", group}, {"failoverCandidateCount", count}})
}

func getCoordinator(ctx context.Context, s *session, cmd *cobra.Command, _ keeper.State) error {
	formation := s.node.keeper.Formation
	host, port, err := s.db.Coordinator(ctx, formation)
	if errors.Is(err, pgautofailover.ErrNotFound) {
		return fail(exitMonitor, "formation %q has no coordinator that takes writes", formation).
			withHint("only formations of kind citus have coordinators; see what the nodes do with: %s show state", s.env.program())
	}
	if err != nil {
		return err
	}
	if jsonWanted(cmd) {
		return writeJSON(s.env.Stdout, object{{"formation", formation}, {"groupId", 0}, {"host", host}, {"port", port}})
	}
	s.env.printf("%s %s\n", formation, hostPort(host, port))
	return nil
}

func newParseNotificationCmd(env *Env) *cobra.Command {
	return newWordsLeaf("parse-notification <payload>", "Parse a notification of the monitor's state channel", func(_ *cobra.Command, words []string) error {
		n, err := pgautofailover.ParseStateNotification(words[0])
		if err != nil {
			return withCode(exitBadArgs, err)
		}
		return writeJSON(env.Stdout, object{
			{"name", n.Name},
			{"hostname", n.Host},
			{"port", n.Port},
			{"formationid", n.Formation},
			{"reportedState", n.Reported},
			{"goalState", n.Goal},
		})
	})
}

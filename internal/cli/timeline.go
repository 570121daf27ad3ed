package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

func newShowTimelineCmd(env *Env) *cobra.Command {
	cmd := newLeaf("timeline", "Print the timelines of a group and where its nodes stand", withMonitor(env, showTimeline))
	pgdataFlag(cmd)
	monitorFlag(cmd, "m")
	formationFlag(cmd)
	groupFlag(cmd)
	return cmd
}

// What a node's timeline means for it.
const (
	timelineOK   = "ok, on accepted lineage"
	timelineFork = "FORK: diverges from the reference timeline, pg_rewind required"
)

func timelineStatus(s pgautofailover.TimelineStatus) string {
	if s.OnLineage {
		return timelineOK
	}
	return timelineFork
}

func showTimeline(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
	formation, group, err := s.formationGroup(ctx, cmd)
	if err != nil {
		return err
	}
	history, err := s.db.TimelineHistory(ctx, formation, group)
	if err != nil {
		return err
	}
	nodes, err := s.db.TimelineStatuses(ctx, formation, group)
	if err != nil {
		return err
	}
	if jsonWanted(cmd) {
		return writeJSON(s.env.Stdout, timelineJSON(formation, group, history, nodes))
	}
	lines := &table{columns: []column{{title: "TLI", width: 8}, {title: "Parent TLI", width: 10}, {title: "Switchpoint LSN", width: 15}}}
	for _, e := range history {
		lines.add(fmt.Sprint(e.TLI), fmt.Sprint(e.Parent), e.Switch.String())
	}
	if err := lines.write(s.env.Stdout); err != nil {
		return err
	}
	stands := &table{columns: []column{
		{title: "Name", width: 20},
		{title: "NodeId", width: 6},
		{title: "TLI", width: 4},
		{title: "LSN", width: 11},
		{title: "Status", left: true},
	}}
	forked := false
	for _, n := range nodes {
		forked = forked || !n.OnLineage
		stands.add(n.Name, fmt.Sprint(n.NodeID), fmt.Sprint(n.TLI), n.LSN.String(), timelineStatus(n))
	}
	if err := stands.write(s.env.Stdout); err != nil {
		return err
	}
	if forked {
		s.env.hint("a node that forked is rewound onto the reference timeline, or copied anew, by itself once it follows a primary")
	}
	return nil
}

func timelineJSON(formation string, group int, history pg.History, nodes []pgautofailover.TimelineStatus) object {
	timelines, stands := array{}, array{}
	for _, e := range history {
		timelines = append(timelines, object{{"tli", int(e.TLI)}, {"parenttli", int(e.Parent)}, {"switchpoint", e.Switch}})
	}
	for _, n := range nodes {
		stands = append(stands, object{
			{"name", n.Name},
			{"node_id", n.NodeID},
			{"tli", int(n.TLI)},
			{"lsn", n.LSN},
			{"reference_tli", int(n.Reference)},
			{"status", timelineStatus(n)},
		})
	}
	return object{{"formation", formation}, {"group", group}, {"timelines", timelines}, {"nodes", stands}}
}

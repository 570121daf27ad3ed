package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

func newShowCmd(env *Env) *cobra.Command {
	return newSet("show", "Show pg_auto_failover information",
		newShowURICmd(env),
		newShowEventsCmd(env),
		newShowStateCmd(env),
		newShowSettingsCmd(env),
		newShowStandbyNamesCmd(env),
		newShowTimelineCmd(env),
		newShowFileCmd(env),
		newShowSystemdCmd(env),
		newShowBlockersCmd(env),
	)
}

func newShowStateCmd(env *Env) *cobra.Command {
	cmd := newLeaf("state", "Prints monitor's state of nodes in a given formation and group", withWatch(env, func(cmd *cobra.Command, words []string) error {
		if on(cmd, "local") {
			return showLocalState(env, cmd)
		}
		if n, ok := monitorlessNode(env, cmd); ok {
			env.infof("Monitor is disabled in the configuration of %q: showing the local state", n.pgdata)
			return showLocalState(env, cmd)
		}
		return withMonitor(env, showState)(cmd, words)
	}))
	pgdataFlag(cmd)
	monitorFlag(cmd, "m")
	formationFlag(cmd)
	groupFlag(cmd)
	cmd.Flags().Bool("local", false, "show what the local keeper knows, without the monitor")
	cmd.Flags().Bool("watch", false, "full-screen dashboard")
	cmd.Flags().IntP("count", "n", 10, "accepted for symmetry with show events")
	return cmd
}

// monitorlessNode finds a local node that works without a monitor.
func monitorlessNode(env *Env, cmd *cobra.Command) (node, bool) {
	if text(cmd, "monitor") != "" || env.getenv("PG_AUTOCTL_MONITOR") != "" {
		return node{}, false
	}
	n, err := localNode(env, cmd)
	return n, err == nil && n.monitorDisabled()
}

func showState(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
	formation := s.formation(cmd)
	nodes, err := s.db.CurrentState(ctx, formation, optionalGroup(cmd))
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		if err := s.formationExists(ctx, formation); err != nil {
			return err
		}
	}
	if jsonWanted(cmd) {
		return writeJSONB(s.env.Stdout, stateJSON(nodes))
	}
	if err := stateTable(nodes).write(s.env.Stdout); err != nil {
		return err
	}
	return showWaiting(ctx, s, formation, optionalGroup(cmd))
}

// showWaiting says below the table why a group does not move although it
// should. It goes to standard error: scripts read the table.
func showWaiting(ctx context.Context, s *session, formation string, group *int) error {
	waiting, err := s.db.Waiting(ctx, formation)
	if err != nil {
		return err
	}
	for _, w := range waiting {
		if group == nil || *group == w.Group {
			_, _ = fmt.Fprintf(s.env.Stderr, "Formation %q, group %d waits: %s\n", formation, w.Group, w.Waiting)
		}
	}
	return nil
}

// nodeID shows a node's id, with its group where formations have several.
func nodeID(kind string, group int, id int64) string {
	if kind == "" || kind == "pgsql" {
		return strconv.FormatInt(id, 10)
	}
	return strconv.Itoa(group) + "/" + strconv.FormatInt(id, 10)
}

func stateTable(nodes []pgautofailover.NodeState) *table {
	t := &table{columns: []column{
		{title: "Name", width: 4},
		{title: "Node", width: 5},
		{title: "Host:Port", width: 10},
		{title: "TLI: LSN", width: 9},
		{title: "Connection", width: 12},
		{title: "Reported State", width: 19},
		{title: "Assigned State", width: 19},
	}}
	for _, n := range nodes {
		t.add(n.Name, nodeID(n.FormationKind, n.Group, n.NodeID), hostPort(n.Host, n.Port),
			fmt.Sprintf("%3d: %s", n.TLI, n.LSN), n.Connection(),
			n.Reported.String(), n.Goal.String())
	}
	return t
}

func hostPort(host string, port int) string { return host + ":" + strconv.Itoa(port) }

func stateJSON(nodes []pgautofailover.NodeState) array {
	out := array{}
	for _, n := range nodes {
		out = append(out, object{
			{"formation_kind", n.FormationKind},
			{"nodename", n.Name},
			{"nodehost", n.Host},
			{"nodeport", n.Port},
			{"group_id", n.Group},
			{"node_id", n.NodeID},
			{"current_group_state", n.Reported},
			{"assigned_group_state", n.Goal},
			{"candidate_priority", n.Priority},
			{"replication_quorum", n.Quorum},
			{"reported_tli", int64(n.TLI)},
			{"reported_lsn", n.LSN},
			{"health", int(n.Health)},
			{"nodecluster", n.Cluster},
		})
	}
	return out
}

func newShowEventsCmd(env *Env) *cobra.Command {
	cmd := newLeaf("events", "Prints the last events of a given formation and group", withCount(withWatch(env, withMonitor(env, showEvents))))
	pgdataFlag(cmd)
	monitorFlag(cmd, "m")
	formationFlag(cmd)
	groupFlag(cmd)
	cmd.Flags().Bool("local", false, "accepted for symmetry with show state")
	cmd.Flags().Bool("watch", false, "full-screen dashboard")
	cmd.Flags().StringP("count", "n", "10", "how many `events` to show")
	return cmd
}

// withCount refuses a count that is none.
func withCount(run runFunc) runFunc {
	return func(cmd *cobra.Command, words []string) error {
		if count := text(cmd, "count"); count != "" {
			if _, err := parseInt(count, 1<<30); err != nil {
				return fatal(exitBadArgs, "--count argument is not a valid count: %q", count)
			}
		}
		return run(cmd, words)
	}
}

func showEvents(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
	count, err := parseInt(text(cmd, "count"), 1<<30)
	if err != nil {
		return err
	}
	formation := s.formation(cmd)
	events, err := s.db.LastEvents(ctx, formation, optionalGroup(cmd), count)
	if err != nil {
		return err
	}
	if len(events) == 0 {
		if err := s.formationExists(ctx, formation); err != nil {
			return err
		}
	}
	if jsonWanted(cmd) {
		return writeJSONB(s.env.Stdout, eventsJSON(events))
	}
	return eventsTable(events).write(s.env.Stdout)
}

func eventsTable(events []pgautofailover.Event) *table {
	t := &table{columns: []column{
		{title: "Event Time", width: 30},
		{title: "Node", width: 6},
		{title: "Current State", width: 19},
		{title: "Assigned State", width: 19},
		{title: "Comment", width: 10, left: true, fixed: true},
	}}
	for _, e := range events {
		t.add(e.TimeText, strconv.Itoa(e.Group)+"/"+strconv.FormatInt(e.NodeID, 10),
			e.Reported.String(), e.Goal.String(), e.Description)
	}
	return t
}

func eventsJSON(events []pgautofailover.Event) array {
	out := array{}
	for _, e := range events {
		out = append(out, object{
			{"eventid", e.ID},
			{"eventtime", e.Time.Format(time.RFC3339Nano)},
			{"formationid", e.Formation},
			{"nodeid", e.NodeID},
			{"groupid", e.Group},
			{"nodename", e.Name},
			{"nodehost", e.Host},
			{"nodeport", e.Port},
			{"reportedstate", e.Reported},
			{"goalstate", e.Goal},
			{"reportedrepstate", orNull(e.SyncState)},
			{"reportedtli", int64(e.TLI)},
			{"reportedlsn", e.LSN},
			{"candidatepriority", orNull(e.Priority)},
			{"replicationquorum", orNull(e.Quorum)},
			{"description", e.Description},
		})
	}
	return out
}

// orNull is a value that may be absent, as JSON has it.
func orNull[T any](v *T) any {
	if v == nil {
		return nil
	}
	return *v
}

func newShowSettingsCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("settings", "Print replication settings for a formation from the monitor", withMonitor(env, showSettings))
	pgdataFlag(cmd)
	monitorFlag(cmd, "m")
	formationFlag(cmd)
	nameFlag(cmd, "")
	return cmd
}

func showSettings(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
	formation := s.formation(cmd)
	settings, err := s.db.FormationSettings(ctx, formation)
	if err != nil {
		return err
	}
	if len(settings) == 0 {
		return fail(exitMonitor, "formation %q does not exist on the monitor", formation).
			withHint("list the formations with: %s show uri", s.env.program())
	}
	if jsonWanted(cmd) {
		return writeJSONB(s.env.Stdout, settingsJSON(settings))
	}
	t := &table{columns: []column{
		{title: "Context", width: 9},
		{title: "Name", width: 4},
		{title: "Setting", width: 7},
		{title: "Value", width: 5, left: true},
	}}
	for _, row := range settings {
		t.add(row.Context, textOf(row.NodeName), row.Setting, row.Value)
	}
	return t.write(s.env.Stdout)
}

func textOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func settingsJSON(settings []pgautofailover.FormationSetting) object {
	lists := map[string]array{"formation": {}, "primary": {}, "node": {}}
	for _, row := range settings {
		lists[row.Context] = append(lists[row.Context], object{
			{"context", row.Context},
			{"group_id", orNull(row.Group)},
			{"node_id", orNull(row.NodeID)},
			{"nodename", orNull(row.NodeName)},
			{"setting", row.Setting},
			{"value", row.Value},
		})
	}
	return object{{"formation", lists["formation"]}, {"primary", lists["primary"]}, {"nodes", lists["node"]}}
}

func newShowStandbyNamesCmd(env *Env) *cobra.Command {
	cmd := newLeaf("standby-names", "Prints synchronous_standby_names for a given group", withMonitor(env, showStandbyNames))
	pgdataFlag(cmd)
	monitorFlag(cmd, "m")
	formationFlag(cmd)
	groupFlag(cmd)
	return cmd
}

func showStandbyNames(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
	formation := s.formation(cmd)
	group, err := s.group(ctx, cmd, formation)
	if err != nil {
		return err
	}
	names, err := s.db.SynchronousStandbyNames(ctx, formation, group)
	if err != nil {
		return err
	}
	if jsonWanted(cmd) {
		return writeJSON(s.env.Stdout, object{
			{"formation", formation}, {"group", group}, {"synchronous_standby_names", names},
		})
	}
	s.env.printf("'%s'\n", strings.ReplaceAll(names, "'", "''"))
	return nil
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/status"
	"github.com/pgdrover/pgdrover/internal/watch"
)

// watchedEvents is how much of the formation's history the dashboard holds.
const watchedEvents = 80

func newWatchCmd(env *Env) *cobra.Command {
	cmd := newLeaf("watch", "Display a dashboard to watch monitor's events and state", func(cmd *cobra.Command, _ []string) error {
		return runWatch(env, cmd)
	})
	pgdataFlag(cmd)
	monitorFlag(cmd, "m")
	formationFlag(cmd)
	groupFlag(cmd)
	cmd.Flags().BoolP("wait", "w", false, "keep trying until the monitor answers")
	return cmd
}

// withWatch gives a command the option --watch, which turns it into the dashboard.
func withWatch(env *Env, run runFunc) runFunc {
	return func(cmd *cobra.Command, words []string) error {
		if !on(cmd, "watch") {
			return run(cmd, words)
		}
		if on(cmd, "local") || jsonWanted(cmd) {
			return fail(exitBadArgs, "Option --watch cannot be used together with --local or --json")
		}
		return runWatch(env, cmd)
	}
}

// worthShowing tells what is wrong from the start, which is an answer and not
// something to show; with --wait there is nothing that cannot still come.
func (s *session) worthShowing(ctx context.Context, cmd *cobra.Command, formation string) error {
	if on(cmd, "wait") {
		return nil
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
	err := s.formationExists(ctx, formation)
	s.close(ctx)
	if err != nil {
		return withCode(exitMonitor, err)
	}
	return nil
}

// snapshots opens what a dashboard follows, in a session that is named after its command.
func (s *session) snapshots(command, formation string, group *int) func(context.Context) (status.Session, error) {
	return func(ctx context.Context) (status.Session, error) {
		session, err := status.Listen(ctx, pgautofailover.ConnectConfig{
			ConnInfo: s.info, ApplicationName: s.env.program() + " " + command,
		}, formation, group, watchedEvents)
		if err != nil {
			return nil, briefCause(err)
		}
		return session, nil
	}
}

// runWatch shows the dashboard on a terminal, and one snapshot anywhere else.
func runWatch(env *Env, cmd *cobra.Command) error {
	ctx := cmd.Context()
	s := &session{env: env}
	if err := s.locate(cmd); err != nil {
		return err
	}
	formation, group := s.formation(cmd), optionalGroup(cmd)
	if jsonWanted(cmd) || !env.OutTerminal || env.getenv("TERM") == "dumb" {
		return watchOnce(ctx, s, cmd, formation, group)
	}
	if err := s.worthShowing(ctx, cmd, formation); err != nil {
		return err
	}
	err := watch.Run(ctx, watch.Config{
		Formation: formation, Program: env.program(), Input: env.Stdin, Output: env.Stdout, Environ: env.Environ, Zone: time.Local,
		Open: s.snapshots("watch", formation, group),
	})
	if ctx.Err() == nil {
		return err
	}
	return nil // a signal is one more way to quit
}

// briefCause is what kept a connection from being made, in the room that a dashboard has for it.
func briefCause(err error) error {
	err = plainCause(err)
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Addr == nil {
		return err
	}
	if number, ok := errors.AsType[syscall.Errno](err); ok {
		return fmt.Errorf("%s: %w", op.Addr, number)
	}
	return err
}

// watchOnce prints the formation as it is now.
func watchOnce(ctx context.Context, s *session, cmd *cobra.Command, formation string, group *int) error {
	for {
		err := s.connect(ctx)
		if err == nil {
			break
		}
		if !on(cmd, "wait") || ctx.Err() != nil {
			return err
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
	}
	defer s.close(ctx)
	if err := s.formationExists(ctx, formation); err != nil {
		return withCode(exitMonitor, err)
	}
	snapshot, err := status.Read(ctx, s.db, formation, group, watchedEvents)
	if err != nil {
		return withCode(exitMonitor, err)
	}
	if jsonWanted(cmd) {
		return writeJSON(s.env.Stdout, snapshotJSON(snapshot))
	}
	s.env.printf("%s", watch.Render(snapshot, time.Local, s.env.columns()))
	s.env.infof("Standard output is not a terminal: this is the formation as it is now")
	return nil
}

// columns is how wide an output that is no terminal may be.
func (e *Env) columns() int {
	if n, err := strconv.Atoi(e.getenv("COLUMNS")); err == nil && n > 0 {
		return n
	}
	return 200
}

func snapshotJSON(s status.Snapshot) object {
	groups, events := array{}, array{}
	for i := range s.Groups {
		groups = append(groups, groupJSON(&s.Groups[i]))
	}
	for _, e := range s.Events {
		events = append(events, eventJSON(e))
	}
	return object{
		{"formation", s.Formation},
		{"kind", s.Kind},
		{"number_sync_standbys", s.NumberSyncStandbys},
		{"time", s.Taken.Format(time.RFC3339Nano)},
		{"monitor_process", s.Deciding},
		{"groups", groups},
		{"events", events},
	}
}

func groupJSON(g *status.Group) object {
	nodes := array{}
	for _, n := range g.Nodes {
		nodes = append(nodes, nodeJSON(n))
	}
	var primary, successor, change any
	if g.Primary != 0 {
		primary = g.Primary
	}
	if g.Successor != 0 {
		successor = g.Successor
	}
	if g.LastChange != nil {
		change = eventJSON(*g.LastChange)
	}
	return object{
		{"group_id", g.ID},
		{"primary", primary},
		{"successor", successor},
		{"synchronous_standby_names", g.StandbyNames},
		{"timeline", int64(g.Timeline)},
		{"failover", g.Election},
		{"waiting", g.Waiting},
		{"last_change", change},
		{"nodes", nodes},
	}
}

func nodeJSON(n status.Node) object {
	var lag any
	if n.LagKnown {
		lag = n.Lag
	}
	return object{
		{"node_id", n.ID},
		{"nodename", n.Name},
		{"nodehost", n.Host},
		{"nodeport", n.Port},
		{"region", n.Region},
		{"nodecluster", n.Cluster},
		{"candidate_priority", n.Priority},
		{"replication_quorum", n.Quorum},
		{"reported_state", n.Reported},
		{"assigned_state", n.Goal},
		{"connection", n.Connection()},
		{"health", int(n.Health)},
		{"keeper", string(n.Keeper)},
		{"pg_is_running", n.Running},
		{"reported_tli", int64(n.TLI)},
		{"reported_lsn", n.LSN},
		{"lag_bytes", lag},
		{"last_report_seconds", n.Report.Seconds()},
		{"last_check_seconds", n.Check.Seconds()},
	}
}

func eventJSON(e status.Event) object {
	var pos, name any
	if e.Rule.Pos != 0 {
		pos, name = e.Rule.Pos, e.Rule.Name
	}
	return object{
		{"eventid", e.ID},
		{"eventtime", e.Time.Format(time.RFC3339Nano)},
		{"nodeid", e.Node},
		{"nodename", e.Name},
		{"groupid", e.Group},
		{"reportedstate", e.Reported},
		{"goalstate", e.Goal},
		{"rule_pos", pos},
		{"rule", name},
		{"description", e.Description},
	}
}

package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/keeper"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// switchPatience bounds every wait of a change of monitors.
const switchPatience = 60 * time.Second

func newDisableMonitorCmd(env *Env) *cobra.Command {
	cmd := newLeaf("monitor", "Disable the monitor for this node", func(cmd *cobra.Command, _ []string) error {
		return disableMonitor(cmd.Context(), env, cmd)
	})
	pgdataFlag(cmd)
	cmd.Flags().BoolP("force", "F", false, "also when the node is registered to the monitor, or the monitor cannot be reached")
	return cmd
}

// disableMonitor has a node go on without its monitor. The keeper turns away
// from the monitor before its registration is removed: a keeper that hears of
// its removal stops its server.
func disableMonitor(ctx context.Context, env *Env, cmd *cobra.Command) error {
	n, err := localKeeper(env, cmd)
	if err != nil {
		return err
	}
	if n.monitorDisabled() {
		return fatal(exitBadConfig, "The monitor is disabled already for the node at %q", n.pgdata)
	}
	st, err := n.keeperState()
	if err != nil {
		return err
	}
	force := on(cmd, "force")
	s, err := openNodeMonitor(ctx, env, &n)
	switch {
	case err != nil && !force:
		return fatal(exitMonitor, "%w", err).withHint("use --force to go on without asking the monitor")
	case err != nil:
		env.warnf("%s", err)
		return n.turnAway(env)
	}
	defer s.close(ctx)
	id := int64(st.NodeID)
	group := int(st.Group)
	rows, err := s.db.NodeRows(ctx, n.keeper.Formation, &group)
	if err != nil {
		return withCode(exitMonitor, err)
	}
	registered := false
	for _, row := range rows {
		registered = registered || row.ID == id
	}
	if registered && !force {
		return fatal(exitBadState, "This node is registered to the monitor as node %d %q", id, n.keeper.Name).
			withHint("use --force to remove it from the monitor; its server goes on as it is")
	}
	if err := keeper.WriteNeighbours(n.nodes, neighbours(rows)); err != nil {
		return withCode(exitBadState, err)
	}
	if err := n.turnAway(env); err != nil {
		return err
	}
	if !registered {
		return nil
	}
	return withCode(exitMonitor, s.forget(ctx, n.keeper.Formation, group, id, rows))
}

// neighbours are the rows of a group as a node without a monitor knows them.
func neighbours(rows []pgautofailover.NodeRow) []keeper.Neighbour {
	nodes := make([]keeper.Neighbour, 0, len(rows))
	for _, r := range rows {
		nodes = append(nodes, keeper.Neighbour{
			ID: r.ID, Name: r.Name, Host: r.Host, Port: r.Port, LSN: r.LSN, Primary: r.Goal.Writable(),
		})
	}
	return nodes
}

// turnAway stores that there is no monitor, and has the service take it over.
func (n *node) turnAway(env *Env) error {
	n.keeper.Monitor = keeper.MonitorDisabled
	if err := n.keeper.Save(n.config); err != nil {
		return withCode(exitBadConfig, err)
	}
	if err := signalReload(env, n.site); err != nil {
		return err
	}
	env.infof("The node at %q goes on without a monitor: no failover happens until it has one again", n.pgdata)
	return nil
}

// forget removes a node from the monitor once its keeper does not listen any
// more. A primary with standbys stays: removing it would make one of them take
// over, while it goes on.
func (s *session) forget(ctx context.Context, formation string, group int, id int64, rows []pgautofailover.NodeRow) error {
	for _, r := range rows {
		if r.ID == id && r.Goal.Writable() && len(rows) > 1 {
			s.env.warnf("The monitor keeps the registration of this node: it is the primary of %d other nodes there", len(rows)-1)
			return nil
		}
	}
	deadline := time.Now().Add(switchPatience)
	for {
		o, err := s.db.Overview(ctx, formation, &group, 0)
		if err != nil {
			return err
		}
		if !o.Sessions[id].HasSession {
			break
		}
		if time.Now().After(deadline) {
			return fail(exitMonitor, "the service of this node did not turn away from the monitor within %s", switchPatience).
				withHint("look at its log, and run the command again")
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	if _, err := s.db.RemoveNode(ctx, id, true); err != nil {
		return err
	}
	s.env.infof("Removed node %d from the monitor", id)
	return nil
}

func newEnableMonitorCmd(env *Env) *cobra.Command {
	cmd := newWordsLeaf("monitor <monitor URI>", "Enable a monitor for this node to be orchestrated from", func(cmd *cobra.Command, words []string) error {
		info, err := parseMonitorURI(words[0])
		if err != nil {
			return err
		}
		return enableMonitor(cmd.Context(), env, cmd, words[0], info)
	})
	pgdataFlag(cmd)
	cmd.Flags().BoolP("allow-failover", "A", false, "accepted for compatibility")
	return cmd
}

// enableMonitor registers a running node to a monitor as what it is: nothing is
// copied and nothing restarted. The primary comes first.
func enableMonitor(ctx context.Context, env *Env, cmd *cobra.Command, uri string, info pg.ConnInfo) error {
	n, err := localKeeper(env, cmd)
	if err != nil {
		return err
	}
	if !n.monitorDisabled() {
		return fatal(exitBadConfig, "The node at %q has a monitor already", n.pgdata).
			withHint("turn away from it first, with: %s disable monitor --force", env.program())
	}
	st, err := n.keeperState()
	if err != nil {
		return err
	}
	s := &session{env: env, node: &n, info: info}
	if err := s.connect(ctx); err != nil {
		return err
	}
	defer s.close(ctx)
	if err := s.formationExists(ctx, n.keeper.Formation); err != nil {
		return err
	}
	if err := s.adopt(ctx, n, st); err != nil {
		return withCode(exitMonitor, err)
	}
	n.keeper.Monitor = uri
	if err := n.keeper.Save(n.config); err != nil {
		return withCode(exitBadConfig, err)
	}
	if err := signalReload(env, n.site); err != nil {
		return err
	}
	env.infof("The node at %q is node %d of the monitor at %s", n.pgdata, st.NodeID, info)
	env.hint("candidate priority and replication quorum of the node are the defaults again: 50 and true")
	return nil
}

// adopt registers the running server under the id that it had.
func (s *session) adopt(ctx context.Context, n node, st keeper.State) error {
	r := pgautofailover.Registration{
		Formation: n.keeper.Formation, Host: n.keeper.Hostname, Port: n.pgPort(), DBName: n.keeper.DBName, Name: n.keeper.Name,
		DesiredNode: int64(st.NodeID), DesiredGroup: int(st.Group), Initial: fsm.Single, Kind: n.nodeKind(), Priority: 50, Quorum: true,
	}
	var seen postgres.Observation
	err := n.instance(nil).With(ctx, func(local *postgres.Session) error {
		var err error
		if r.SystemID, err = local.SystemID(ctx); err != nil {
			return err
		}
		seen, err = local.Observe(ctx)
		return err
	})
	if err != nil {
		return fail(exitPgSQL, "ask the local server what it is: %w", err).withHint("the server must run to be taken over")
	}
	if seen.InRecovery {
		r.Initial = fsm.WaitStandby
		group := int(st.Group)
		rows, err := s.db.NodeRows(ctx, r.Formation, &group)
		if err == nil && len(rows) == 0 {
			err = fatal(exitBadState, "this node is a standby, and the monitor does not know its primary").
				withHint("enable the monitor on the primary first")
		}
		if err != nil {
			return err
		}
	}
	pending, err := s.db.BeginRegistration(ctx, r)
	if err != nil {
		return err
	}
	if id := pending.Result.NodeID; id != int64(st.NodeID) || pending.Result.Group != int(st.Group) {
		return errors.Join(pending.Rollback(ctx), fail(exitMonitor,
			"the monitor would number this node %d in group %d, not %d in group %d as before", id, pending.Result.Group, st.NodeID, st.Group))
	}
	if err := pending.Commit(ctx); err != nil || !seen.InRecovery {
		return err
	}
	if err := s.awaitPlace(ctx, r, seen); err != nil {
		_, removeErr := s.db.RemoveNode(context.WithoutCancel(ctx), r.DesiredNode, true)
		return errors.Join(err, removeErr)
	}
	return nil
}

// awaitPlace reports a standby that waits until the monitor lets it catch up,
// which it does as it is: its keeper, which takes over then, copies nothing.
func (s *session) awaitPlace(ctx context.Context, r pgautofailover.Registration, seen postgres.Observation) error {
	report := pgautofailover.Report{
		Formation: r.Formation, NodeID: r.DesiredNode, Group: r.DesiredGroup, State: fsm.WaitStandby,
		PgIsRunning: true, TLI: seen.TLI, LSN: seen.LSN,
	}
	deadline := time.Now().Add(switchPatience)
	for {
		a, err := s.db.Report(ctx, report)
		if err != nil {
			return err
		}
		if a.Goal == fsm.CatchingUp {
			return nil
		}
		if a.Goal == fsm.WaitStandby {
			report.Reached = a.GoalNumber
		}
		if time.Now().After(deadline) {
			return fail(exitMonitor, "the monitor did not let this standby catch up within %s: it still wants %q", switchPatience, a.Goal).
				withHint("see what the group waits for with: %s show state --monitor", s.env.program())
		}
		if err := sleep(ctx, 300*time.Millisecond); err != nil {
			return err
		}
	}
}

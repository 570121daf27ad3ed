package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/keeper"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// contact shows when somebody was last heard, "0" for never.
func contact(t time.Time) string {
	if t.IsZero() {
		return "0"
	}
	return t.Local().Format(time.ANSIC)
}

// keeperStateJSON is the state file as an object.
func keeperStateJSON(st keeper.State) object {
	return object{
		{"current_role", st.Current},
		{"assigned_role", st.Assigned},
		{"version", int64(st.Version)},
		{"groupId", int64(st.Group)},
		{"nodeId", int64(st.NodeID)},
		{"last_monitor_contact", contact(st.LastMonitorContact)},
		{"last_secondary_contact", contact(st.LastSecondaryContact)},
		{"pgversion", int64(st.ControlVersion)},
	}
}

func showStateContents(env *Env, cmd *cobra.Command, n node) error {
	st, err := n.keeperState()
	if err != nil {
		return err
	}
	if jsonWanted(cmd) {
		return writeJSON(env.Stdout, keeperStateJSON(st))
	}
	decimal := func(v int64) string { return strconv.FormatInt(v, 10) }
	return labelled(env.Stdout, 26,
		[2]string{"Current Role:", st.Current.String()},
		[2]string{"Assigned Role:", st.Assigned.String()},
		[2]string{"Last Monitor Contact:", contact(st.LastMonitorContact)},
		[2]string{"Last Secondary Contact:", contact(st.LastSecondaryContact)},
		[2]string{"pg_autoctl state version:", decimal(int64(st.Version))},
		[2]string{"group:", decimal(int64(st.Group))},
		[2]string{"node id:", decimal(int64(st.NodeID))},
		[2]string{"nodes version:", strconv.FormatUint(st.NodesVersion, 10)},
		[2]string{"PostgreSQL Version:", decimal(int64(st.ControlVersion))},
		[2]string{"PostgreSQL CatVersion:", decimal(int64(st.CatalogVersion))},
		[2]string{"PostgreSQL System Id:", st.SystemID.String()},
	)
}

func showInitContents(env *Env, n node) error {
	pre, err := keeper.ReadInit(n.init)
	if err != nil {
		return withCode(exitBadState, err)
	}
	env.printf("Postgres state at keeper init: %s\n", preInitText(pre))
	return nil
}

// preInitText is what a data directory held when its node was registered.
func preInitText(pre keeper.PreInit) string {
	switch pre {
	case keeper.PGDataAbsent:
		return "PGDATA does not exist"
	case keeper.PGDataExists:
		return "PGDATA exists"
	case keeper.PGDataRunning:
		return "PostgreSQL is running"
	case keeper.PGDataPrimary:
		return "PostgreSQL is running as a primary"
	case keeper.PreInitUnknown:
	}
	return "unknown"
}

// showLocalState shows what the local keeper knows, for when the monitor cannot be asked.
func showLocalState(env *Env, cmd *cobra.Command) error {
	n, err := localNode(env, cmd)
	if err != nil {
		return err
	}
	if n.isMonitor() {
		return fail(exitMonitor, "Option --local is not supported on a monitor").
			withHint("use show state without --local")
	}
	if g := optionalGroup(cmd); g != nil && *g != n.keeper.Group {
		return fail(exitBadConfig, "The local node is in group %d, not %d", n.keeper.Group, *g)
	}
	st, err := n.keeperState()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	server, err := inspectServer(ctx, n)
	if err != nil {
		return err
	}
	tli, lsn, recovery := n.position(ctx, server)
	conn := pgautofailover.ConnectionType(st.Current)
	if jsonWanted(cmd) {
		return writeJSON(env.Stdout, object{
			{"node_id", int64(st.NodeID)},
			{"group_id", int64(st.Group)},
			{"nodename", n.keeper.Name},
			{"nodehost", n.keeper.Hostname},
			{"nodeport", n.keeper.Port},
			{"current_group_state", st.Current},
			{"assigned_group_state", st.Assigned},
			{"timeline", int64(tli)},
			{"Minimum Recovery Ending LSN", recovery.String()},
			{"reachable", "unknown"},
			{"conntype", conn},
		})
	}
	t := stateTable(nil)
	t.add(n.keeper.Name, nodeID(n.kind(), int(st.Group), int64(st.NodeID)), hostPort(n.keeper.Hostname, n.keeper.Port),
		strconvTLI(tli)+": "+lsn.String(), conn+" ?", st.Current.String(), st.Assigned.String())
	return t.write(env.Stdout)
}

func strconvTLI(tli pg.Timeline) string {
	text := strconv.FormatUint(uint64(tli), 10)
	return pad(text, 3, false)
}

// kind is the kind of formation this node belongs to, as far as it knows.
func (n node) kind() string {
	if n.keeper.NodeKind == "" || n.keeper.NodeKind == "standalone" {
		return "pgsql"
	}
	return "citus"
}

// position asks the running server where it is, or reads it from pg_control.
func (n node) position(ctx context.Context, s server) (tli pg.Timeline, lsn, recovery pg.LSN) {
	tli, lsn, recovery = s.control.TLI, s.control.Checkpoint, s.control.MinRecovery
	if s.control.MinRecoveryTLI > tli {
		tli = s.control.MinRecoveryTLI
	}
	if !s.up() {
		return tli, max(lsn, recovery), recovery
	}
	_ = n.instance(nil).With(ctx, func(session *postgres.Session) error {
		seen, err := session.Observe(ctx)
		if err == nil {
			tli, lsn = seen.TLI, seen.LSN
		}
		return err
	})
	return tli, lsn, recovery
}

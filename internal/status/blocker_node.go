package status

import (
	"fmt"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// node explains why a node does not do its work, or would not be promoted.
func (e *explainer) node(g *Group, n Node) {
	say := func(cause Cause, command, format string, args ...any) {
		e.add(Blocker{
			Cause: cause, Group: g.ID, Node: n.ID, Name: n.Name, Command: command,
			Text: n.String() + " " + fmt.Sprintf(format, args...),
			// What is set so for a node blocks nothing else.
			Deliberate: cause == CausePriorityZero || cause == CauseReadReplica || cause == CauseMaintenance || cause == CauseLeaving,
		})
	}
	away := n.Goal == fsm.Dropped || n.Goal == fsm.Maintenance && n.Settled
	switch {
	case n.Goal == fsm.Dropped:
		say(CauseLeaving, "", "is leaving the group")
	case away && !n.Keeper.Here():
		say(CauseMaintenance, on(n, "start its service, or "+e.local("run")),
			"is in maintenance, where a node rests that was stopped, and no keeper runs there")
	case away:
		say(CauseMaintenance, on(n, e.local("disable maintenance")), "is in maintenance")
	case e.silent(n, say):
	case n.ID == g.Primary && n.Goal.Writable():
		e.transition(n, say)
		return
	default:
		e.standby(g, n, say)
	}
	switch {
	case n.Cluster != "" && n.Cluster != "default":
		say(CauseReadReplica, "", "is a read replica (cluster %q), which is never promoted", n.Cluster)
	case n.Priority <= 0 && n.ID != g.Primary:
		say(CausePriorityZero, e.command("set node candidate-priority 50 --name %s", n.Name),
			"has candidate priority 0: it is promoted only by name")
	}
}

type sayNode func(cause Cause, command, format string, args ...any)

// silent says that something of the node does not answer.
func (e *explainer) silent(n Node, say sayNode) bool {
	run := on(n, "start its service, or "+e.local("run"))
	switch {
	case !n.Keeper.Here() && n.Health == fsm.HealthBad:
		say(CauseUnreachable, run, "cannot be reached: it reported last %s ago, and its server does not answer the monitor", Brief(n.Report))
	case !n.Keeper.Here():
		say(CauseKeeperDown, run, "has no keeper running, or one that the monitor does not hear: it reported last %s ago", Brief(n.Report))
	case !n.Running && !n.stopped():
		say(CauseServerDown, on(n, "read log/ and startup.log in the data directory"),
			"has a server that does not run, says its keeper, which tries to start it")
	case n.Health == fsm.HealthBad && !n.stopped():
		say(CausePortClosed, fmt.Sprintf("on the monitor's host: pg_isready -h %s -p %d", n.Host, n.Port),
			"reports that its server runs, but the monitor cannot connect to port %d of %s: "+
				"see listen_addresses, pg_hba.conf and firewalls", n.Port, n.Host)
	default:
		return false
	}
	return true
}

// stopped: the server is to be down in the state that the node reported, or
// its keeper is busy with a data directory that is not ready.
func (n Node) stopped() bool {
	down := []fsm.State{
		fsm.Init, fsm.WaitStandby, fsm.Draining, fsm.DemoteTimeout, fsm.Demoted, fsm.PrepareMaintenance, fsm.Maintenance, fsm.Dropped,
	}
	return n.Reported.In(down...) || n.Goal.In(down...)
}

// transition says that a node is on its way.
func (e *explainer) transition(n Node, say sayNode) {
	if !n.Settled {
		say(CauseTransition, "", "is on its way from %s to %s since %s", n.Reported, n.Goal, Brief(n.Change))
	}
}

// standby explains a node that answers and is not the primary.
func (e *explainer) standby(g *Group, n Node, say sayNode) {
	p, _ := g.Node(g.Primary)
	open := p.ID != 0 && p.Goal.Writable() && p.ID != n.ID
	switch {
	case n.Reported.In(fsm.Init, fsm.WaitStandby) && n.Goal != fsm.CatchingUp:
		say(CauseJoining, "", "is new and waits until the primary lets it copy")
	case n.Goal.In(fsm.Draining, fsm.DemoteTimeout, fsm.Demoted):
		verb := "is being stopped"
		if n.Settled {
			verb = "is stopped"
		}
		say(CauseStopped, "", "was the primary and %s (%s); it rejoins as a standby once another node takes writes", verb, n.Goal)
	case n.Goal.In(fsm.ReportLSN, fsm.JoinSecondary) && n.Settled:
		say(CauseVoting, "", "has given its final report to the failover, and waits since %s for it to go on (%s)", Brief(n.Change), n.Goal)
	case n.Goal.In(fsm.ReportLSN, fsm.FastForward, fsm.PreparePromotion, fsm.StopReplication, fsm.JoinSecondary):
		say(CauseVoting, "", "takes part in the failover: it reports %s and is to be %s since %s", n.Reported, n.Goal, Brief(n.Change))
	case n.Goal.MaintenanceGoal():
		e.transition(n, say)
	case n.Goal == fsm.CatchingUp && !n.Settled:
		say(CauseCatchingUp, on(n, "read the keeper's output for its progress"),
			"is made a standby since %s: it copies the primary, or rewinds, or starts", Brief(n.Change))
	case open && n.TLI != p.TLI:
		say(CauseOtherTimeline, on(n, "read the keeper's output, and log/ in the data directory"),
			"is on timeline %d while the primary is on timeline %d", n.TLI, p.TLI)
	case n.Streaming == fsm.StreamingNo:
		say(CauseNotStreaming, on(n, "read log/ in the data directory"),
			"does not stream from the primary: its server cannot connect to it, or lacks WAL that the primary no longer has")
	case n.Goal == fsm.CatchingUp && n.LagKnown && n.Lag > e.s.Settings.SyncThreshold:
		say(CauseBehind, "", "catches up: it is %s behind, and becomes a secondary below %s", Bytes(n.Lag), Bytes(e.s.Settings.SyncThreshold))
	case n.Goal == fsm.CatchingUp:
		say(CauseCatchingUp, "", "catches up: it streams, and waits for the monitor to find it healthy and the primary ready")
	case open && g.asyncByChoice(p) && (!n.LagKnown || n.Lag > e.s.Settings.PromoteThreshold):
		say(CauseBehind, "", "is %s behind an asynchronous primary, and is promoted only below %s", Bytes(n.Lag), Bytes(e.s.Settings.PromoteThreshold))
	default:
		e.transition(n, say)
	}
}

package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// Cause is a stable word for what blocks, for scripts.
type Cause string

// The causes, those of the formation first, then those of a group, then those of a node.
const (
	CauseNoMonitor       Cause = "monitor-process-down"
	CauseNoNode          Cause = "no-node"
	CauseWaiting         Cause = "group-waits"
	CauseElection        Cause = "failover-under-way"
	CauseRequest         Cause = "request-open"
	CauseNoPrimary       Cause = "no-primary"
	CauseSingle          Cause = "single-node"
	CauseNoQuorumStandby Cause = "no-quorum-standby"
	CauseCommitsWait     Cause = "commits-wait"
	CauseNoCandidate     Cause = "no-candidate"
	CauseLeaving         Cause = "leaving"
	CauseMaintenance     Cause = "maintenance"
	CauseUnreachable     Cause = "unreachable"
	CauseKeeperDown      Cause = "keeper-down"
	CauseServerDown      Cause = "server-down"
	CausePortClosed      Cause = "port-unreachable"
	CauseJoining         Cause = "joining"
	CauseStopped         Cause = "stopped-primary"
	CauseVoting          Cause = "in-election"
	CauseOtherTimeline   Cause = "other-timeline"
	CauseNotStreaming    Cause = "not-streaming"
	CauseBehind          Cause = "behind"
	CauseCatchingUp      Cause = "catching-up"
	CauseTransition      Cause = "in-transition"
	CausePriorityZero    Cause = "candidate-priority-zero"
	CauseReadReplica     Cause = "read-replica"
)

// Blocker is one reason why a group is not primary, or why a node would not be
// promoted, and what helps.
type Blocker struct {
	Cause Cause
	Group int
	// Node is 0 for what concerns the group or the whole formation.
	Node int64
	Name string // the node's
	Text string // a sentence
	// Command unblocks it; "" when there is nothing to do but to wait.
	Command string
	// Deliberate says that somebody set it so: worth knowing, but nothing is wrong.
	Deliberate bool
}

// Caller is how the commands of blockers are to be spelled.
type Caller struct {
	// Program is the name of the program; Options follow each command that talks
	// to the monitor, such as "--pgdata /data".
	Program, Options string
}

// explainer collects the blockers of one snapshot.
type explainer struct {
	s      *Snapshot
	caller Caller
	found  []Blocker
}

// Blockers explains what keeps the formation's groups from being primary with
// somebody to take over, and each node from being promoted: the formation
// first, then each group, then its nodes. It is empty when nothing does.
func (s *Snapshot) Blockers(c Caller) []Blocker {
	e := &explainer{s: s, caller: c}
	if !s.Deciding {
		e.add(Blocker{
			Cause:   CauseNoMonitor,
			Text:    "no monitor process is running: nothing is decided, and nothing fails over, until it is back",
			Command: "on the monitor's host: " + e.local("run"),
		})
	}
	if len(s.Groups) == 0 {
		e.add(Blocker{
			Cause: CauseNoNode, Text: fmt.Sprintf("no node of formation %q is registered here", s.Formation),
			Command: "on the node's host: " + e.local("create postgres") + e.formation() + " --monitor URI --run",
		})
	}
	for i := range s.Groups {
		e.group(&s.Groups[i])
	}
	return e.found
}

// About keeps what is said about one node, and what concerns its group or the formation.
func About(all []Blocker, n Node) []Blocker {
	return slices.DeleteFunc(slices.Clone(all), func(b Blocker) bool {
		general := b.Cause == CauseNoMonitor || b.Cause == CauseNoNode
		return !general && (b.Group != n.Group || b.Node != 0 && b.Node != n.ID)
	})
}

func (e *explainer) add(b Blocker) { e.found = append(e.found, b) }

// command spells a command that talks to the monitor.
func (e *explainer) command(format string, args ...any) string {
	words := e.caller.Program + " " + fmt.Sprintf(format, args...) + e.formation()
	if e.caller.Options != "" {
		words += " " + e.caller.Options
	}
	return words
}

func (e *explainer) formation() string {
	if e.s.Formation == "default" {
		return ""
	}
	return " --formation " + e.s.Formation
}

func (e *explainer) inGroup(g *Group) string {
	if len(e.s.Groups) < 2 && g.ID == 0 {
		return ""
	}
	return fmt.Sprintf(" --group %d", g.ID)
}

// local spells a command that is about a data directory on its own host.
func (e *explainer) local(words string) string {
	return e.caller.Program + " " + words + " --pgdata DIRECTORY"
}

func on(n Node, command string) string { return "on " + n.Host + ": " + command }

// String names a node the way events do.
func (n Node) String() string { return fmt.Sprintf("node %d %q (%s:%d)", n.ID, n.Name, n.Host, n.Port) }

func (e *explainer) group(g *Group) {
	p, hasPrimary := g.Node(g.Primary)
	say := func(cause Cause, command, format string, args ...any) {
		e.add(Blocker{Cause: cause, Group: g.ID, Command: command, Text: fmt.Sprintf(format, args...)})
	}
	e.openBusiness(g, say)
	moving := g.Stuck() || g.Election
	switch {
	case moving:
	case !hasPrimary || !p.Goal.Writable():
		say(CauseNoPrimary, e.command("perform failover%s", e.inGroup(g)), "no node takes writes, and no failover is under way")
	case len(g.Nodes) == 1:
		say(CauseSingle, "on another host: "+e.local("create postgres")+e.formation()+" --monitor URI --run",
			"%s is the only node of the group: nobody can take over", p)
	default:
		e.primary(g, p, say)
	}
	for _, n := range g.Nodes {
		e.node(g, n)
	}
}

// openBusiness is what the group itself says that it waits for.
func (e *explainer) openBusiness(g *Group, say func(Cause, string, string, ...any)) {
	for _, r := range g.Requests {
		if r.Kind != fsm.IntentRegistered && r.Kind != fsm.IntentRemoved {
			say(CauseRequest, "", "a request (%s) waits since %s to be taken up", strings.ReplaceAll(string(r.Kind), "_", " "), Brief(r.Age))
		}
	}
	switch {
	case g.Stuck():
		say(CauseWaiting, e.override(g), "%s", g.Waiting)
	case g.Election && g.Owner != 0:
		who := fmt.Sprintf("node %d", g.Owner)
		if n, ok := g.Node(g.Owner); ok {
			who = fmt.Sprintf("%s, which reports %s and is to be %s", n, n.Reported, n.Goal)
		}
		say(CauseElection, "", "a failover is under way: it promotes %s", who)
	case g.Election:
		say(CauseElection, "", "a failover is under way: the standbys report how far they got")
	}
}

// patience is how long a group that moves may say that it waits before it is
// told: each step of a failover waits for somebody's answer.
const patience = 2 * time.Second

// Stuck reports whether the group waits for something, and has not moved for a while.
func (g *Group) Stuck() bool {
	moved := slices.ContainsFunc(g.Nodes, func(n Node) bool { return n.Change < patience })
	p, _ := g.Node(g.Primary)
	created := p.Reported == fsm.Init // a server that is not there yet has acknowledged nothing
	return g.Waiting != "" && (!g.Election || !moved) && !created
}

// override is the command that the group's waiting text names.
func (e *explainer) override(g *Group) string {
	switch {
	case strings.Contains(g.Waiting, "--allow-data-loss"):
		return e.command("perform failover --allow-data-loss%s", e.inGroup(g))
	case strings.Contains(g.Waiting, "perform promotion"):
		return e.command("perform promotion --name NAME")
	}
	return ""
}

// asyncByChoice: nobody but the primary takes part in the quorum.
func (g *Group) asyncByChoice(p Node) bool {
	return !slices.ContainsFunc(g.Nodes, func(n Node) bool { return n.ID != p.ID && n.Quorum && n.Goal != fsm.Dropped })
}

// primary explains a group that has a primary and standbys.
func (e *explainer) primary(g *Group, p Node, say func(Cause, string, string, ...any)) {
	voters := 0
	for _, id := range g.Voters {
		if n, ok := g.Node(id); ok && n.Goal == fsm.Secondary && n.Settled && n.confirms() {
			voters++
		}
	}
	async := g.asyncByChoice(p)
	switch {
	case p.Reported == fsm.Init: // its node says that it is being created
	case !async && len(g.Voters) == 0 && p.Goal.In(fsm.WaitPrimary, fsm.Single):
		say(CauseNoQuorumStandby, "", "%s takes writes alone, because no standby of the quorum is ready; "+
			"were it lost now, the group would wait for it", p)
	case len(g.Voters) > 0 && voters < g.K:
		say(CauseCommitsWait, e.command("set formation number-sync-standbys 0"),
			"commits on %s wait: %d of the standbys in %s must have them, and %d can; "+
				"bring a standby back, or let the primary go on alone", p, g.K, g.StandbyNames, voters)
	case async && !slices.ContainsFunc(g.Nodes, func(n Node) bool { return n.Goal == fsm.Secondary && n.Settled }):
		say(CauseNoQuorumStandby, "", "%s takes writes alone, because no standby is ready", p)
	case p.Goal == fsm.WaitPrimary && p.Settled:
		say(CauseTransition, "", "%s takes writes as wait_primary until its standbys are ready", p)
	case g.Successor == 0 && p.Settled:
		say(CauseNoCandidate, "", "if %s failed now, no node could take over: see what is said of each", p)
	}
}

// confirms: the node's server takes part in commits, whether or not its keeper is there.
func (n Node) confirms() bool {
	return n.Running && n.Health != fsm.HealthBad && n.Streaming != fsm.StreamingNo
}

// Brief shows how long something takes or is ago, in at most six characters
// where a duration below a hundred days is told.
func Brief(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Truncate(100*time.Millisecond).Seconds())
	case d < 100*time.Second:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 100*time.Minute:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// Bytes shows a size in at most eight characters.
func Bytes(n int64) string {
	units := []string{"kB", "MB", "GB", "TB", "PB"}
	if n < 10_000 {
		return fmt.Sprintf("%d B", n)
	}
	value := float64(n)
	for i, unit := range units {
		value /= 1024
		if value < 1000 || i == len(units)-1 {
			if value < 100 {
				return fmt.Sprintf("%.1f %s", value, unit)
			}
			return fmt.Sprintf("%.0f %s", value, unit)
		}
	}
	return ""
}

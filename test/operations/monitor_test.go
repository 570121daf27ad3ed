package operations

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/test/group"
)

// settings keep the monitor from taking a stall of the machine for a dead node.
func settings() map[string]string {
	return map[string]string{
		"startup_grace_period": "1s", "node_considered_unhealthy_timeout": "20s", "health_check_timeout": "10s",
	}
}

// clients write all the time, but no faster than it takes to see that they can:
// a group of these tests is one of many on the machine, and what it costs is theirs to wait.
func clients() group.WriterConfig {
	return group.WriterConfig{Patience: 30 * time.Second, Pause: 20 * time.Millisecond}
}

// inUse starts a group that clients write to.
func inUse(t *testing.T, nodes int) (*group.Group, *group.Writer) {
	t.Helper()
	return inUsePaced(t, nodes, clients())
}

// inUsePaced is inUse with clients of another kind.
func inUsePaced(t *testing.T, nodes int, pace group.WriterConfig) (*group.Group, *group.Writer) {
	t.Helper()
	g := group.Start(t, group.Config{Nodes: nodes, MonitorSettings: settings()})
	g.CreateLedger(t)
	w := g.Write(t, pace)
	w.WaitAck(t, time.Now())
	return g, w
}

// same remembers what may not change: who is primary, and every postmaster.
type same struct {
	primary     *group.Member
	postmasters map[string]int
}

func remember(t *testing.T, g *group.Group) same {
	t.Helper()
	s := same{primary: g.WaitWhole(t), postmasters: map[string]int{}}
	for _, m := range g.Nodes {
		s.postmasters[m.Name] = m.Postmaster(t)
	}
	return s
}

// require ends the test unless the same servers run in the same roles and
// clients still write.
func (s same) require(t *testing.T, g *group.Group, w *group.Writer) {
	t.Helper()
	require.Equal(t, s.primary.Name, g.WaitWhole(t).Name, "another node is primary")
	s.requireServers(t, g, w)
}

func (s same) requireServers(t *testing.T, g *group.Group, w *group.Writer) {
	t.Helper()
	for name, pid := range s.postmasters {
		require.Equal(t, pid, g.Node(name).Postmaster(t), "%s was restarted", name)
	}
	w.WaitAck(t, time.Now())
	require.Equal(t, "f", s.primary.Ask(t, "SELECT pg_is_in_recovery()::text::char"))
}

// finish stops the writer and compares all nodes.
func finish(t *testing.T, g *group.Group, w *group.Writer, since time.Time) {
	t.Helper()
	t.Logf("write gap %s, %+v", w.Gap(since).Round(time.Millisecond), w.Outcome())
	w.Stop()
	group.RequireOneAtATime(t, w.Acks())
	g.RequireEqual(t)
	for _, m := range g.Nodes {
		m.RequireAll(t, w.Acks())
	}
}

// replaceMonitor turns every node away from its monitor, creates another
// monitor and registers the nodes there, the primary first.
func replaceMonitor(t *testing.T, g *group.Group, primary *group.Member, check func()) {
	t.Helper()
	for _, m := range g.Nodes {
		g.Must(t, "disable", "monitor", "--force", "--pgdata", m.Dir)
		check()
	}
	g.NewMonitor(t, "successor").Stop(t)
	check()
	for _, m := range append([]*group.Member{primary}, g.Others(primary)...) {
		g.Must(t, "enable", "monitor", "--pgdata", m.Dir, g.MonitorURI())
		check()
	}
}

// TestMonitorIsReplaced: every node is turned away from its monitor, a new one
// is created, and the nodes register there as what they are. Nothing is copied,
// no server is restarted and nobody is promoted.
func TestMonitorIsReplaced(t *testing.T) {
	t.Parallel()
	for name, nodes := range map[string]int{"lone primary": 1, "three nodes": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, w := inUse(t, nodes)
			before := remember(t, g)
			start := time.Now()
			replaceMonitor(t, g, before.primary, func() { before.requireServers(t, g, w) })
			before.require(t, g, w)
			t.Logf("write gap %s", w.Gap(start).Round(time.Millisecond))
			requireQuiet(t, g)

			// The new monitor can do what the old one could.
			if nodes > 1 {
				g.Switchover(t)
				g.WaitWhole(t)
			}
			finish(t, g, w, start)
		})
	}
}

// requireQuiet ends the test if the monitor has ordered anybody to be promoted or demoted.
func requireQuiet(t *testing.T, g *group.Group) {
	t.Helper()
	events := strings.Join(g.Events(t), "\n")
	for _, state := range []string{"draining", "demoted", "demote_timeout", "prepare_promotion", "report_lsn"} {
		require.NotContains(t, events, state)
	}
}

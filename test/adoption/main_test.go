// Package adoption takes over what was there before: servers that ran without
// us, with everything their owners had set, and whole groups of Debian's
// pg_auto_failover 2.0, whose nodes and monitor go on under our program without
// a copy of the data.
package adoption

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/test/group"
)

func TestMain(m *testing.M) { group.MainAsRoot(m) }

// patientMonitor bears with a small machine, which is silent for seconds by itself.
func patientMonitor() map[string]string {
	return map[string]string{
		"startup_grace_period": "1s", "node_considered_unhealthy_timeout": "6s", "health_check_timeout": "4s",
	}
}

// failover kills the primary of two nodes, waits for the other one, and starts it again.
func failover(t *testing.T, g *group.Group, w *group.Writer) {
	t.Helper()
	old := g.WaitWhole(t)
	start := time.Now()
	old.KillBoth(t)
	next := g.NewPrimary(t, old)
	w.WaitAck(t, time.Now())
	gap := w.Gap(start)
	old.Start(t)
	require.Equal(t, next, g.WaitWhole(t))
	check(t, g, w)
	t.Logf("failover from %s to %s: write gap %s, whole after %s", old.Name, next.Name, gap.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
}

func switchover(t *testing.T, g *group.Group, w *group.Writer) {
	t.Helper()
	old := g.WaitWhole(t)
	start := time.Now()
	g.Switchover(t)
	w.WaitAck(t, time.Now())
	require.NotEqual(t, old, g.WaitWhole(t))
	check(t, g, w)
	t.Logf("switchover from %s: write gap %s", old.Name, w.Gap(start).Round(time.Millisecond))
}

// check looks for every acknowledged row on the primary.
func check(t *testing.T, g *group.Group, w *group.Writer) {
	t.Helper()
	g.WaitWhole(t).RequireAll(t, w.Acks())
	group.RequireOneAtATime(t, w.Acks())
}

func finish(t *testing.T, g *group.Group, w *group.Writer) {
	t.Helper()
	w.Stop()
	g.RequireEqual(t)
	check(t, g, w)
}

// requireNoCopy ends the test when a member's process has copied the data directory.
func requireNoCopy(t *testing.T, m *group.Member) {
	t.Helper()
	require.NotContains(t, m.Log(), "copying the data directory", m.Name)
	require.NotContains(t, m.Log(), "pg_basebackup", m.Name)
}

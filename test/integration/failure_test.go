package integration

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// written starts a whole group with a writer.
func written(t *testing.T, nodes int) (*group.Group, *group.Writer) {
	t.Helper()
	return writtenWith(t, nodes, group.WriterConfig{})
}

// patient is a writer that takes no stall of the machine for a broken session.
var patient = group.WriterConfig{Patience: 30 * time.Second}

func writtenWith(t *testing.T, nodes int, cfg group.WriterConfig) (*group.Group, *group.Writer) {
	t.Helper()
	g := group.Start(t, group.Config{Nodes: nodes, MonitorSettings: map[string]string{
		// The monitor replaces nobody for 10 s after its own start; here that
		// would only be a part of every time that is logged.
		"startup_grace_period": "1s",
		// A small machine under many tests is silent for seconds by itself.
		"node_considered_unhealthy_timeout": "6s",
		"health_check_timeout":              "4s",
	}})
	g.CreateLedger(t)
	w := g.Write(t, cfg)
	w.WaitAck(t, time.Now())
	return g, w
}

// settle waits until the group is whole again, writes go on, and the new
// primary has every row that was ever acknowledged.
func settle(t *testing.T, g *group.Group, w *group.Writer, since time.Time) {
	t.Helper()
	primary := g.WaitReady(t)
	w.WaitAck(t, time.Now())
	primary.RequireAll(t, w.Acks())
	group.RequireOneAtATime(t, w.Acks())
	t.Logf("%s is primary, write gap %s, %+v", primary.Name, w.Gap(since).Round(time.Millisecond), w.Outcome())
}

// finish stops the writer and compares all nodes.
func finish(t *testing.T, g *group.Group, w *group.Writer) {
	t.Helper()
	w.Stop()
	g.RequireEqual(t)
	for _, m := range g.Nodes {
		m.RequireAll(t, w.Acks())
	}
}

// step is a test inside a test that runs on the same group: after a failure the
// rest would only fail too.
func step(t *testing.T, name string, run func(t *testing.T)) {
	t.Helper()
	if !t.Run(name, run) {
		t.FailNow()
	}
}

func TestPrimaryFails(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{2, 3} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) {
			t.Parallel()
			g, w := written(t, nodes)

			step(t, "postmaster killed", func(t *testing.T) {
				old := g.WaitWhole(t)
				start := time.Now()
				old.KillPostmaster(t)
				w.WaitAck(t, start)
				settle(t, g, w, start)
			})
			step(t, "postmaster and keeper killed", func(t *testing.T) {
				old := g.WaitWhole(t)
				start := time.Now()
				old.KillBoth(t)
				g.NewPrimary(t, old)
				w.WaitAck(t, time.Now())
				old.Start(t) // as an init system would
				settle(t, g, w, start)
			})
			step(t, "keeper and postmaster stopped", func(t *testing.T) {
				old := g.WaitWhole(t)
				start := time.Now()
				resume := old.StopBoth(t)
				g.NewPrimary(t, old)
				w.WaitAck(t, time.Now())
				resume()
				settle(t, g, w, start)
			})
			step(t, "everything of the node stopped", func(t *testing.T) {
				old := g.WaitWhole(t)
				start := time.Now()
				resume := old.Freeze(t)
				g.NewPrimary(t, old)
				w.WaitAck(t, time.Now())
				resume()
				settle(t, g, w, start)
			})
			step(t, "switchover and back", func(t *testing.T) {
				old := g.WaitWhole(t)
				for range 2 {
					before := g.WaitWhole(t)
					start := time.Now()
					g.Switchover(t)
					settle(t, g, w, start)
					require.NotEqual(t, before.Name, g.WaitWhole(t).Name)
				}
				if nodes == 2 {
					require.Equal(t, old.Name, g.WaitWhole(t).Name)
				}
			})
			finish(t, g, w)
		})
	}
}

// keeperGone is longer than a node may be silent before it counts as lost, if
// its server does not answer either.
const keeperGone = 10 * time.Second

// TestKeeperKilledAlone leaves servers alone for a while: neither they nor those
// who write to them may notice.
func TestKeeperKilledAlone(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{2, 3} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) {
			t.Parallel()
			g, w := writtenWith(t, nodes, patient)
			primary := g.WaitWhole(t)
			for what, victim := range map[string]*group.Member{"the primary's": primary, "a standby's": g.Others(primary)[0]} {
				step(t, what, func(t *testing.T) {
					server := victim.Postmaster(t)
					start := time.Now()
					victim.KillKeeper(t)
					writeFor(t, w, keeperGone)
					victim.Start(t)
					settle(t, g, w, start)
					require.Equal(t, server, victim.Postmaster(t), "the server must not notice")
					require.Equal(t, primary.Name, g.WaitWhole(t).Name, "nobody may take over")
				})
			}
			requireUnbroken(t, w, primary)
			finish(t, g, w)
		})
	}
}

// requireUnbroken ends the test when a session of the writer broke, or another
// server than this one acknowledged a row.
func requireUnbroken(t *testing.T, w *group.Writer, primary *group.Member) {
	t.Helper()
	require.Zero(t, w.Outcome().Unknown, "no session may break")
	for _, a := range w.Acks() {
		require.Equal(t, primary.Port, a.Port, "no other node may acknowledge")
	}
}

// writeFor lets time pass in which rows are acknowledged to the very end: it is
// this time that is tested.
func writeFor(t *testing.T, w *group.Writer, d time.Duration) {
	t.Helper()
	start := time.Now()
	for last := w.WaitAck(t, start); last.Got.Sub(start) < d; {
		last = w.WaitAck(t, last.Got)
	}
}

func TestStandbyFails(t *testing.T) {
	t.Parallel()
	g, w := written(t, 2)
	step(t, "postmaster and keeper killed", func(t *testing.T) {
		primary := g.WaitWhole(t)
		standby := g.Others(primary)[0]
		start := time.Now()
		standby.KillBoth(t)
		g.WaitState(t, primary, "wait_primary")
		w.WaitAck(t, start)
		standby.Start(t)
		settle(t, g, w, start)
		require.Equal(t, primary.Name, g.WaitWhole(t).Name)
	})
	step(t, "postmaster killed", func(t *testing.T) {
		primary := g.WaitWhole(t)
		standby := g.Others(primary)[0]
		start := time.Now()
		standby.KillPostmaster(t)
		settle(t, g, w, start)
		require.Equal(t, primary.Name, g.WaitWhole(t).Name)
	})
	finish(t, g, w)
}

func TestSwitchoverWithThirdNodeStopped(t *testing.T) {
	t.Parallel()
	g, w := written(t, 3)
	primary := g.WaitWhole(t)
	third := g.Others(primary)[1]

	step(t, "stopped by its operator", func(t *testing.T) {
		start := time.Now()
		third.Stop(t)
		w.WaitAck(t, start)
		g.WaitPrimary(t, third)
		for range 2 { // and back
			before := g.WaitPrimary(t, third)
			g.Switchover(t)
			w.WaitAck(t, time.Now())
			require.NotEqual(t, before.Name, g.WaitPrimary(t, third).Name)
		}
		require.Equal(t, primary.Name, g.WaitPrimary(t, third).Name)
		third.Start(t)
		settle(t, g, w, start)
	})
	step(t, "silent", func(t *testing.T) {
		before := g.WaitWhole(t)
		third := g.Others(before)[1]
		start := time.Now()
		resume := third.Freeze(t)
		g.Switchover(t)
		w.WaitAck(t, time.Now())
		resume()
		settle(t, g, w, start)
		require.NotEqual(t, before.Name, g.WaitWhole(t).Name)
	})
	step(t, "killed", func(t *testing.T) {
		before := g.WaitWhole(t)
		third := g.Others(before)[1]
		start := time.Now()
		third.KillBoth(t)
		g.WaitLost(t, third) // a primary that is changing its list refuses
		g.Switchover(t)
		w.WaitAck(t, time.Now())
		third.Start(t)
		settle(t, g, w, start)
		require.NotEqual(t, before.Name, g.WaitWhole(t).Name)
	})
	finish(t, g, w)
}

func TestPrimaryLostWhileThirdNodeJoins(t *testing.T) {
	t.Parallel()
	for name, begun := range map[string]func(g *group.Group, third *group.Member) bool{
		"before it copies": func(g *group.Group, third *group.Member) bool {
			all, err := g.States()
			return err == nil && slices.ContainsFunc(all, func(s group.Status) bool { return s.Name == third.Name })
		},
		"while it copies": func(_ *group.Group, third *group.Member) bool {
			return strings.Contains(third.Log(), "done_kb=")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, w := written(t, 2)
			// Enough to copy that the failure falls into the copy.
			old := g.WaitWhole(t)
			old.Exec(t, "CREATE TABLE bulk AS SELECT i, repeat('x', 500) AS text FROM generate_series(1, 200000) i")
			third := g.Create(t, "node3", "--maximum-backup-rate", "20M")
			pgtest.Eventually(t, group.Patience, func() error {
				if !begun(g, third) {
					return errors.New("node3 is not there yet")
				}
				return nil
			})

			start := time.Now()
			old.KillBoth(t)
			g.NewPrimary(t, old)
			w.WaitAck(t, time.Now())
			old.Start(t)
			settle(t, g, w, start)
			finish(t, g, w)
		})
	}
}

func TestPrimaryLostAfterAnotherNode(t *testing.T) {
	t.Parallel()
	g, w := written(t, 3)
	old := g.WaitWhole(t)
	first := g.Others(old)[0]
	start := time.Now()
	first.KillBoth(t)
	g.WaitLost(t, first)

	old.KillBoth(t)
	// It is alone, and with number_sync_standbys 1 a commit needs a standby.
	g.NewPrimary(t, old)
	old.Start(t)
	w.WaitAck(t, time.Now())
	first.Start(t)
	settle(t, g, w, start)
	finish(t, g, w)
}

func TestTwentyFailovers(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{2, 3} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) {
			t.Parallel()
			g, w := written(t, nodes)
			var gaps, wholes []time.Duration
			var lines []string
			for i := range 20 {
				old := g.WaitWhole(t)
				start := time.Now()
				old.KillBoth(t)
				g.NewPrimary(t, old)
				w.WaitAck(t, time.Now())
				gap := w.Gap(start)
				old.Start(t)
				primary := g.WaitWhole(t)
				primary.RequireAll(t, w.Acks())
				group.RequireOneAtATime(t, w.Acks())
				whole := time.Since(start)
				gaps, wholes = append(gaps, gap), append(wholes, whole)
				lines = append(lines, fmt.Sprintf("failover %d: %s to %s, write gap %s, whole after %s", i+1, old.Name, primary.Name,
					gap.Round(time.Millisecond), whole.Round(time.Millisecond)))
				t.Log(lines[i])
			}
			finish(t, g, w)
			lines = append(lines, fmt.Sprintf("%d failovers: write gap %s, whole after %s", len(gaps), summary(gaps), summary(wholes)))
			pgtest.Report(t, "failovers.txt", strings.Join(lines, "\n"))
		})
	}
}

// summary says how long something took, in the middle and at worst.
func summary(times []time.Duration) string {
	slices.Sort(times)
	return fmt.Sprintf("median %s, worst %s", times[len(times)/2].Round(time.Millisecond), times[len(times)-1].Round(time.Millisecond))
}

// monitorGone is how long the monitor stays away.
const monitorGone = 30 * time.Second

func TestMonitorFails(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{2, 3} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) {
			t.Parallel()
			g, w := writtenWith(t, nodes, patient)
			step(t, "process and server", func(t *testing.T) { monitorKilled(t, g, w, (*group.Member).KillBoth) })
			step(t, "process alone", func(t *testing.T) { monitorKilled(t, g, w, (*group.Member).KillKeeper) })
			finish(t, g, w)
		})
	}
}

func monitorKilled(t *testing.T, g *group.Group, w *group.Writer, kill func(*group.Member, testing.TB)) {
	t.Helper()
	primary := g.WaitWhole(t)
	start := time.Now()
	kill(g.Monitor, t)
	writeFor(t, w, monitorGone)
	g.Monitor.Start(t)
	settle(t, g, w, start)
	require.Equal(t, primary.Name, g.WaitWhole(t).Name, "nobody may take over")
	requireUnbroken(t, w, primary)
}

func TestFormationURIReachesThePrimary(t *testing.T) {
	t.Parallel()
	g := group.Start(t, group.Config{Nodes: 2})
	g.CreateLedger(t)
	uri := strings.TrimSpace(g.Must(t, "show", "uri", "--pgdata", g.Monitor.Dir, "--formation", "default").Stdout)
	ask := func() (port int) {
		conn := pgtest.Connect(t, uri+"&user="+pgtest.Superuser)
		require.NoError(t, conn.QueryRow(t.Context(), "SELECT inet_server_port()").Scan(&port))
		return port
	}
	require.Equal(t, g.WaitWhole(t).Port, ask())
	g.Switchover(t)
	require.Equal(t, g.WaitWhole(t).Port, ask())
}

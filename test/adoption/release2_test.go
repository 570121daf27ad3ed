package adoption

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// TestNodesOfRelease2 has nodes of pg_auto_failover 2.0 under our monitor,
// through a failover and a switchover, and then replaces their program by ours,
// node by node, under writes and without a copy.
func TestNodesOfRelease2(t *testing.T) {
	t.Parallel()
	theirs := group.Peer(t)
	settings := patientMonitor()
	settings["extension_version"] = "2.0" // what these nodes ask for
	g := group.New(t, group.Config{MonitorSettings: settings})
	for _, name := range []string{"node1", "node2"} {
		m := g.Outsider(t, name)
		m.Program = theirs
		m.Create(t, "--run")
		g.Nodes = append(g.Nodes, m)
		if name == "node1" {
			g.WaitState(t, m, "single")
		}
	}
	g.CreateLedger(t)
	w := g.Write(t, group.WriterConfig{})
	w.WaitAck(t, time.Now())
	failover(t, g, w)
	switchover(t, g, w)
	replacePrograms(t, g, w, group.Plain(t))
	failover(t, g, w)
	finish(t, g, w)
}

// replacePrograms has our program take the nodes over from theirs: the standby
// first, then, after a switchover, what was the primary.
func replacePrograms(t *testing.T, g *group.Group, w *group.Writer, ours string) {
	t.Helper()
	for range g.Nodes {
		primary := g.WaitWhole(t)
		m := g.Others(primary)[0]
		if m.Program == ours {
			switchover(t, g, w)
			m = primary
		}
		before := state(t, m)
		m.Stop(t)
		m.Program = ours
		m.Start(t)
		// What the monitor says of it may be older than the change.
		pgtest.Eventually(t, group.Patience, func() error {
			conn, err := m.Connect(t.Context(), pgtest.Superuser, "postgres")
			if err != nil {
				return err
			}
			_ = conn.Close(t.Context())
			if n := m.Ask(t, "SELECT count(*)::text FROM pg_stat_wal_receiver WHERE status = 'streaming'"); n != "1" {
				return errors.New(m.Name + " does not stream")
			}
			return nil
		})
		g.WaitWhole(t)
		require.Equal(t, before, state(t, m)[:len(before)], "the node keeps its number and its system")
		requireNoCopy(t, m)
		check(t, g, w)
	}
}

// state is the beginning of a node's state file: versions, system identifier, number and group.
func state(t *testing.T, m *group.Member) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.Group().Path("home"), ".local/share/pg_autoctl", m.Dir, "pg_autoctl.state"))
	require.NoError(t, err)
	return text[8:32]
}

// TestGroupOfRelease2 takes a whole group of pg_auto_failover 2.0 over: the
// monitor with what it knows, then the nodes.
func TestGroupOfRelease2(t *testing.T) {
	t.Parallel()
	g := group.New(t, group.Config{Program: group.Peer(t), MonitorSettings: map[string]string{"primary_demote_timeout": "15s"}})
	for i, name := range []string{"node1", "node2"} {
		m := g.Outsider(t, name)
		m.Program = g.Monitor.Program
		m.Create(t, "--run", "--candidate-priority", []string{"60", "40"}[i])
		g.Nodes = append(g.Nodes, m)
		if i == 0 {
			g.WaitState(t, m, "single")
		}
	}
	g.CreateLedger(t)
	w := g.Write(t, group.WriterConfig{Patience: 30 * time.Second})
	w.WaitAck(t, time.Now())
	primary := g.WaitWhole(t)
	known := g.Footprint(t)
	events := g.Events(t)

	g.Monitor.Stop(t)
	ours := group.Plain(t)
	g.Monitor.Program = ours
	g.Monitor.Start(t)
	g.WaitWhole(t)
	w.WaitAck(t, time.Now())
	require.Empty(t, registered(known).Diff(registered(g.Footprint(t))), "what is registered must be what was")
	require.Equal(t, events, g.Events(t)[:len(events)])
	require.Equal(t, primary, g.WaitWhole(t), "nobody may take over")
	require.Zero(t, w.Outcome().Unknown, "no session may break")
	replacePrograms(t, g, w, ours)
	failover(t, g, w)
	finish(t, g, w)
}

// registered are the facts about nodes and formations.
func registered(all group.Footprint) group.Footprint {
	var kept group.Footprint
	for _, line := range all {
		if strings.HasPrefix(line, "node ") || strings.HasPrefix(line, "formation ") {
			kept = append(kept, line)
		}
	}
	return kept
}

package adoption

import (
	"errors"
	"os"
	"path/filepath"
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

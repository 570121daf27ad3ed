package operations

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// awayFor is longer than a primary that misses both its monitor and its
// standbys goes on by default; PGDROVER_TEST_MONITOR_AWAY says how many seconds.
func awayFor(t *testing.T) time.Duration {
	t.Helper()
	return time.Duration(group.Number(t, "PGDROVER_TEST_MONITOR_AWAY", 25)) * time.Second
}

// TestMonitorIsAway: without a monitor everything goes on as it was, and when
// it is back nothing has to change.
func TestMonitorIsAway(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		nodes       int
		maintenance bool
	}{
		{"lone primary", 1, false},
		{"two nodes", 2, false},
		{"standby in maintenance", 2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pace := clients()
			if awayFor(t) > time.Minute {
				pace.Pause = 50 * time.Millisecond // an hour of it is enough, and leaves others their share of the machine
			}
			g, w := inUsePaced(t, c.nodes, pace)
			before := remember(t, g)
			var standby *group.Member
			if c.maintenance {
				standby = g.Others(before.primary)[0]
				g.Must(t, "enable", "maintenance", "--pgdata", standby.Dir)
				delete(before.postmasters, standby.Name)
			}
			start := time.Now()
			g.Monitor.Stop(t)
			group.During(t, awayFor(t))
			before.requireServers(t, g, w)
			g.Monitor.Start(t)
			if c.maintenance {
				g.WaitState(t, standby, "maintenance")
				g.WaitState(t, before.primary, "wait_primary")
				before.requireServers(t, g, w)
				g.Must(t, "disable", "maintenance", "--pgdata", standby.Dir)
			}
			before.require(t, g, w)
			requireQuiet(t, g)
			finish(t, g, w, start)
		})
	}
}

// TestMonitorIsReplacedDuringMaintenance: the primary writes alone while its
// standby is in maintenance, and goes on so from one monitor to the next.
func TestMonitorIsReplacedDuringMaintenance(t *testing.T) {
	t.Parallel()
	g, w := inUse(t, 2)
	before := remember(t, g)
	standby := g.Others(before.primary)[0]
	g.Must(t, "enable", "maintenance", "--pgdata", standby.Dir)
	// To leave maintenance is to start the server anew, whoever stopped it.
	delete(before.postmasters, standby.Name)
	start := time.Now()
	replaceMonitor(t, g, before.primary, func() { before.requireServers(t, g, w) })
	before.require(t, g, w)
	requireQuiet(t, g)
	finish(t, g, w, start)
}

// TestMonitorIsUpgraded: a monitor of a later version finds nodes of this one,
// which go on, and become the program on disk once that one fits. Their servers
// are not touched.
func TestMonitorIsUpgraded(t *testing.T) {
	t.Parallel()
	program := filepath.Join(pgtest.Dir(t), "pgdrover")
	// A program that says of itself which schema it is made for.
	install := func(schema string) {
		text := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = version ] && { echo '{\"pgautofailover_schema\": %s}'; exit; }\nexec %s \"$@\"\n", schema, group.Program(t))
		require.NoError(t, os.WriteFile(program+".new", []byte(text), 0o755))
		require.NoError(t, os.Rename(program+".new", program))
	}
	install("0")
	g := group.Start(t, group.Config{
		Nodes: 2, MonitorSettings: settings(), Access: group.Access{Env: []string{"PG_AUTOCTL_DEBUG_BIN_PATH=" + program}},
	})
	g.CreateLedger(t)
	w := g.Write(t, clients())
	before := remember(t, g)
	start := time.Now()
	pids := map[string]int{}
	for _, m := range g.Nodes {
		pids[m.Name] = m.Process().Pid
	}

	db, err := g.Monitor.Connect(t.Context(), pgtest.Superuser, "pg_auto_failover")
	require.NoError(t, err)
	defer db.Close(t.Context())
	_, err = db.Exec(t.Context(), "UPDATE pgautofailover.schema_version SET version = version + 1")
	require.NoError(t, err)
	var schema string
	require.NoError(t, db.QueryRow(t.Context(), "SELECT version::text FROM pgautofailover.schema_version").Scan(&schema))
	// The nodes connect again, as they do when their monitor has been restarted.
	_, err = db.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'autoctl_node'")
	require.NoError(t, err)
	for _, m := range g.Nodes {
		pgtest.Eventually(t, group.Patience, func() error { return says(m, "the monitor is of another version") })
	}
	before.require(t, g, w)

	install(schema)
	for _, m := range g.Nodes {
		pgtest.Eventually(t, group.Patience, func() error { return says(m, "going on as that one") })
		require.NoError(t, m.Alive())
		require.Equal(t, pids[m.Name], m.Process().Pid)
	}
	before.require(t, g, w)
	for _, m := range g.Nodes {
		require.Equal(t, 1, strings.Count(m.Log(), "going on as that one"), "executed again and again")
	}
	finish(t, g, w, start)
}

// says looks for a text in a member's log.
func says(m *group.Member, text string) error {
	if strings.Contains(m.Log(), text) {
		return nil
	}
	return fmt.Errorf("%s has not said %q", m.Name, text)
}

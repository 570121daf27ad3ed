package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// assign does what the operator's command does.
func (p place) assign(t *testing.T, goal fsm.State) {
	t.Helper()
	path := p.config().Paths.StateFile
	state, err := ReadState(path)
	require.NoError(t, err)
	state.Assigned = goal
	require.NoError(t, WriteState(path, state))
	pgtest.Eventually(t, patience, func() error {
		state, err := ReadState(path)
		if err == nil && state.Current != goal {
			err = fmt.Errorf("the node is %s", state.Current)
		}
		return err
	})
}

// createAlone creates a node without a monitor.
func (p place) createAlone(t *testing.T, id int64) error {
	t.Helper()
	cfg := p.config()
	cfg.Logger = slog.New(slog.NewTextHandler(&lines{t: t, name: p.Name}, nil))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return Create(ctx, CreateConfig{Config: cfg, NodeID: id})
}

// knows writes the nodes file.
func (p place) knows(t *testing.T, nodes ...fileNode) {
	t.Helper()
	text, err := json.Marshal(nodes)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(p.config().Paths.NodesFile, text, 0o600))
}

func TestGroupWithoutAMonitor(t *testing.T) {
	t.Parallel()
	g := &group{uri: MonitorDisabled}
	first, second := g.place(t, "n1"), g.place(t, "n2")
	require.Error(t, first.createAlone(t, 0))
	require.NoFileExists(t, first.config().Paths.StateFile)
	require.NoError(t, first.createAlone(t, 1))
	require.ErrorIs(t, first.createAlone(t, 1), ErrCreated)
	_, err := first.instance().Adopt()
	require.ErrorIs(t, err, postgres.ErrNotRunning, "a creation leaves nothing running")

	k1 := first.run(t, false)
	pgtest.Eventually(t, patience, func() error {
		_, err := first.ask(t, "SELECT ''")
		return err
	})
	require.Equal(t, "0", first.query(t, "SELECT count(*)::text FROM pg_roles WHERE rolname = 'pgautofailover_monitor'"))
	before := first.query(t, "CREATE TABLE t (id int)", "SELECT pg_postmaster_start_time()::text")

	// Killed, it is started again; the service stopped, it is stopped.
	pm, err := first.instance().Adopt()
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pm.PID(), syscall.SIGKILL))
	<-pm.Exited()
	pm.Release()
	pgtest.Eventually(t, patience, func() error {
		now, err := first.ask(t, "SELECT pg_postmaster_start_time()::text")
		if err == nil && now == before {
			err = errors.New("not restarted")
		}
		return err
	})
	k1.end(t, sigterm{})
	_, err = first.instance().Adopt()
	require.ErrorIs(t, err, postgres.ErrNotRunning)
	first.run(t, false)

	// The second node waits for its goal; then both walk as an operator says.
	require.NoError(t, second.createAlone(t, 2))
	second.run(t, false)
	nodes := []fileNode{
		{ID: 1, Name: "n1", Host: "127.0.0.1", Port: first.Port, Primary: true}, {ID: 2, Name: "n2", Host: "127.0.0.1", Port: second.Port},
	}
	first.knows(t, nodes...)
	second.knows(t, nodes...)
	second.assign(t, fsm.WaitStandby)
	first.assign(t, fsm.WaitPrimary)
	second.assign(t, fsm.CatchingUp)
	second.assign(t, fsm.Secondary)
	first.assign(t, fsm.Primary)
	require.Equal(t, "ANY 1 (pgautofailover_standby_2)", first.query(t, "INSERT INTO t VALUES (1)", "SHOW synchronous_standby_names"))
	require.Equal(t, "quorum", first.query(t, "SELECT sync_state FROM pg_stat_replication WHERE application_name LIKE '%standby%'"))
}

// ask is query for a server that may not be there.
func (p place) ask(t *testing.T, sql string) (value string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = p.instance().With(ctx, func(s *postgres.Session) error { return s.Conn().QueryRow(ctx, sql).Scan(&value) })
	return value, err
}

package pgautofailover_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// A node's role, which may only read, sees the whole of a formation.
func TestOverview(t *testing.T) {
	t.Parallel()
	m, n1, n2 := pair(t)
	require.NoError(t, m.node.KeepSession(t.Context(), n1.NodeID))
	require.NoError(t, m.node.PerformFailover(t.Context(), "default", 0, false))

	o, err := m.node.Overview(t.Context(), "default", nil, 5)
	require.NoError(t, err)
	require.Equal(t, "default", o.Formation.ID)
	require.True(t, o.Alive)
	require.False(t, o.Now.IsZero())
	require.Len(t, o.Groups, 1)
	g := o.Groups[0]
	require.Len(t, g.Nodes, 2)
	require.Equal(t, fsm.Primary, g.Nodes[0].Goal)
	require.Equal(t, "ANY 1 (pgautofailover_standby_2)", g.Record.StandbyNames().String())
	require.Len(t, g.Intents, 1)
	require.Equal(t, fsm.IntentFailover, g.Intents[0].Kind)
	require.True(t, o.Sessions[n1.NodeID].HasSession)
	require.False(t, o.Sessions[n2.NodeID].HasSession)
	require.Equal(t, "node_2", o.Rows[n2.NodeID].Name)
	require.Len(t, o.Events, 5)
	require.Less(t, o.Events[0].ID, o.Events[4].ID)

	group := 7
	o, err = m.node.Overview(t.Context(), "default", &group, 5)
	require.NoError(t, err)
	require.Empty(t, o.Groups)
	require.Empty(t, o.Events)
	_, err = m.node.Overview(t.Context(), "nowhere", nil, 5)
	require.ErrorIs(t, err, pgautofailover.ErrNotFound)
	require.NoError(t, m.node.Ping(t.Context()), "the connection stays usable")
}

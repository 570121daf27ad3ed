package pgautofailover_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
)

func TestTimelines(t *testing.T) {
	t.Parallel()
	m, n1, n2 := pair(t)
	require.NoError(t, m.node.ReportTimelineHistory(t.Context(), n1.NodeID, pg.History{{TLI: 2, Parent: 1, Switch: 0x10}}))
	m.exec(t, `UPDATE pgautofailover.node SET reportedtli = CASE nodeid WHEN 1 THEN 2 ELSE 3 END`)
	require.NoError(t, m.node.ReportTimelineHistory(t.Context(), n2.NodeID, pg.History{{TLI: 3, Parent: 1, Switch: 0x8}}))

	history, err := m.node.TimelineHistory(t.Context(), "default", 0)
	require.NoError(t, err)
	require.Equal(t, pg.History{{TLI: 2, Parent: 1, Switch: 0x10}, {TLI: 3, Parent: 1, Switch: 0x8}}, history)
	nodes, err := m.node.TimelineStatuses(t.Context(), "default", 0)
	require.NoError(t, err)
	require.Len(t, nodes, 2)
	require.True(t, nodes[0].OnLineage)
	require.False(t, nodes[1].OnLineage, "its timeline left the primary's line")
	require.Equal(t, pg.Timeline(2), nodes[1].Reference)
	require.NoError(t, m.node.SetRegion(t.Context(), "default", n1.Name, "paris"))
	row, err := m.node.NodeByID(t.Context(), n1.NodeID)
	require.NoError(t, err)
	require.Equal(t, "paris", row.Region)
}

package keeper

import (
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// TestOnlyTheMonitorForgetsANode: a keeper stops its server for good when the
// monitor has no such node, and on nothing that only looks like it.
func TestOnlyTheMonitorForgetsANode(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	info, err := pg.ParseConnInfo(g.uri)
	require.NoError(t, err)
	nobody := identity{formation: "default", nodeID: 4711}

	_, err = dialMonitor(t.Context(), g.uri, nobody)
	require.True(t, unknownNode(err), "%v", err)

	// The server's own word for an option that it does not know has the same code.
	_, err = dialMonitor(t.Context(), info.With("no_such_option", "1").URI(), nobody)
	require.Equal(t, pgerrcode.UndefinedObject, pgautofailover.SQLState(err))
	require.False(t, unknownNode(err), "%v", err)

	// Options of libpq's own do not get there.
	_, err = dialMonitor(t.Context(), info.With("load_balance_hosts", "disable").URI(), nobody)
	require.True(t, unknownNode(err), "%v", err)
}

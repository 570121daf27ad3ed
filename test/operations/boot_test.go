package operations

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// TestServerIsStartedAtBoot: the distribution's own unit starts the server of a
// node at boot, before the service of the node does anything. Another node has
// become primary meanwhile. The server takes no write that counts, and the
// service makes of it what the node is now.
func TestServerIsStartedAtBoot(t *testing.T) {
	t.Parallel()
	g, w := inUse(t, 2)
	start := time.Now()

	// A primary that has handed over, for maintenance say, and its host was started again.
	old := g.WaitWhole(t)
	pgtest.Eventually(t, group.Patience, func() error {
		res := g.Run(t, "enable", "maintenance", "--allow-failover", "--pgdata", old.Dir)
		if res.Code != 0 {
			return errors.New(res.Stderr) // its standby is healthy only once it has been probed
		}
		return nil
	})
	old.Stop(t)
	old.StartServer(t)
	require.Equal(t, "t", old.Ask(t, "SELECT pg_is_in_recovery()::text::char"), "a former primary takes writes")
	w.WaitAck(t, time.Now())
	old.Start(t)
	g.WaitState(t, old, "maintenance")
	g.Must(t, "disable", "maintenance", "--pgdata", old.Dir)
	next := g.WaitWhole(t)
	require.NotEqual(t, old.Name, next.Name)

	// Switched off.
	next.KillBoth(t)
	g.NewPrimary(t, next)
	next.StartServer(t)
	w.WaitAck(t, time.Now())
	next.Start(t)
	require.Equal(t, old.Name, g.WaitWhole(t).Name)
	finish(t, g, w, start)
}

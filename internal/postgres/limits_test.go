package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/postgres"
)

// PostgreSQL pauses a standby itself whose settings are smaller than its
// primary's have become, and ends it when somebody resumes or promotes it.
func TestStandbyOfAPrimaryWithLargerSettingsComesThroughARestart(t *testing.T) {
	t.Parallel()
	primary, p := newPrimary(t, 1)
	standby, sp := newStandby(t, primary, 2)
	primary.exec(t, `ALTER SYSTEM SET max_connections = 150`)
	primary.stop(t, p, postgres.StopFast)
	primary.start(t)
	primary.exec(t, `INSERT INTO t SELECT generate_series(1, 10)`)
	standby.waitsFor(t, "RecoveryPause")
	require.True(t, standby.observe(t).Paused)
	require.ErrorIs(t, standby.CheckLimits(within(t)), postgres.ErrLimits)
	_, err := standby.EndReceiver(within(t))
	require.ErrorIs(t, err, postgres.ErrLimits)
	require.ErrorContains(t, err, "max_connections is 100, the primary has 150")

	standby.stop(t, sp, postgres.StopFast)
	standby.start(t)
	require.NoError(t, standby.CheckLimits(within(t)))
	_, err = standby.EndReceiver(within(t))
	require.NoError(t, err)
	standby.promote(t)
	require.Equal(t, "150", standby.ask(t, `SHOW max_connections`))
}

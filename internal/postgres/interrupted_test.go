package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/postgres"
)

// A killed primary whose crash recovery, as a standby, was itself stopped in an
// orderly way: the control file names the last checkpoint and nothing behind it.
func TestRewindAfterAnInterruptedCrashRecoveryFindsTheUnreplicatedWAL(t *testing.T) {
	t.Parallel()
	primary, p := newPrimary(t, 1)
	standby, _ := newStandby(t, primary, 2)
	primary.exec(t, `CHECKPOINT`)
	_, err := standby.EndReceiver(within(t))
	require.NoError(t, err)
	primary.exec(t, `INSERT INTO t SELECT generate_series(1, 300000)`)
	primary.stop(t, p, postgres.StopImmediate)
	require.NoError(t, standby.Promote(within(t)))
	standby.exec(t, `INSERT INTO t VALUES (-1)`)

	require.NoError(t, primary.WriteStandby(within(t), postgres.Upstream{}))
	for {
		again, err := primary.Start(within(t), postgres.StartConfig{})
		require.NoError(t, err)
		require.NoError(t, again.Stop(within(t), postgres.StopFast))
		again.Release()
		control, err := primary.ControlData(within(t))
		require.NoError(t, err)
		if control.State == "shut down in recovery" {
			require.Zero(t, control.MinRecovery, "the recovery came to its end: the stop was too late")
			break
		}
	}
	rejoin(t, primary, standby)
	require.Contains(t, primary.log.String(), "program=pg_rewind")
	require.Equal(t, 1, primary.count(t), "what the other line does not have is gone")
}

package postgres_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/postgres"
)

// A killed primary whose crash recovery, as a standby, was itself stopped in an
// orderly way: the control file names the last checkpoint and nothing behind it.
func TestRewindAfterAnInterruptedCrashRecoveryFindsTheUnreplicatedWAL(t *testing.T) {
	t.Parallel()
	// On a slow machine the stop may come after the end of the recovery: then everything is done again.
	for {
		primary, standby, early := interruptedRecovery(t)
		if !early {
			continue
		}
		rejoin(t, primary, standby)
		require.Contains(t, primary.log.String(), "program=pg_rewind")
		require.Equal(t, 1, primary.count(t), "what the other line does not have is gone")
		return
	}
}

// interruptedRecovery returns such a former primary and the one that replaced it.
func interruptedRecovery(t *testing.T) (primary, standby *node, early bool) {
	t.Helper()
	primary, p := newPrimary(t, 1)
	standby, _ = newStandby(t, primary, 2)
	primary.exec(t, `CHECKPOINT`)
	_, err := standby.EndReceiver(within(t))
	require.NoError(t, err)
	primary.exec(t, `INSERT INTO t SELECT generate_series(1, 600000)`)
	primary.stop(t, p, postgres.StopImmediate)
	standby.promote(t)
	standby.exec(t, `INSERT INTO t VALUES (-1)`)

	require.NoError(t, primary.WriteStandby(within(t), postgres.Upstream{}))
	for {
		again, err := primary.Start(within(t), postgres.StartConfig{})
		require.NoError(t, err)
		require.Eventually(t, func() bool { return strings.Contains(primary.StartupLog(), "redo starts at") }, time.Minute, time.Millisecond)
		require.NoError(t, again.Stop(within(t), postgres.StopFast))
		again.Release()
		control, err := primary.ControlData(within(t))
		require.NoError(t, err)
		if control.State == "shut down in recovery" {
			return primary, standby, control.MinRecovery == 0
		}
	}
}

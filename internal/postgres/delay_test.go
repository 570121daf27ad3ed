package postgres_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/postgres"
)

// waitsFor waits until the standby's startup process waits for that.
func (n *node) waitsFor(t *testing.T, event string) {
	t.Helper()
	eventually(t, func() error {
		if wait := n.ask(t, `SELECT coalesce(wait_event, '') FROM pg_stat_activity WHERE backend_type = 'startup'`); wait != event {
			return fmt.Errorf("it waits for %q", wait)
		}
		return nil
	})
}

// receives waits until the standby has, and need not have replayed, what the primary has written.
func (n *node) receives(t *testing.T, primary *node) postgres.Observation {
	t.Helper()
	want := primary.observe(t).LSN
	var o postgres.Observation
	eventually(t, func() error {
		if o = n.observe(t); o.Received < want {
			return fmt.Errorf("received %s of %s", o.Received, want)
		}
		return nil
	})
	return o
}

func TestPausedStandbyVotes(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	standby, _ := newStandby(t, primary, 2)
	standby.exec(t, `SELECT pg_wal_replay_pause()`)
	primary.exec(t, `INSERT INTO t SELECT generate_series(1, 10)`)
	standby.waitsFor(t, "RecoveryPause")
	before := standby.receives(t, primary)
	require.True(t, before.Paused)
	require.True(t, before.Held)
	vote, err := standby.EndReceiver(within(t))
	require.NoError(t, err)
	require.GreaterOrEqual(t, vote.LSN, before.Received)
	require.False(t, vote.Held)
	require.Equal(t, 10, standby.count(t))
}

func TestDelayedStandbyVotesAndIsDelayedAgainBehindItsNextUpstream(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	for n, auto := range []bool{true, false} {
		standby, _ := newStandby(t, primary, int64(2+n))
		if auto {
			standby.exec(t, `ALTER SYSTEM SET recovery_min_apply_delay = '1h'`)
		} else {
			appendConf(t, standby, "recovery_min_apply_delay = '1h'\n")
		}
		require.NoError(t, standby.Reload(within(t)))
		for range 2 {
			primary.exec(t, `INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t`)
			standby.waitsFor(t, "RecoveryApplyDelay")
			before := standby.receives(t, primary)
			require.True(t, before.Held)
			vote, err := standby.EndReceiver(within(t))
			require.NoError(t, err)
			require.GreaterOrEqual(t, vote.LSN, before.Received)
			require.Equal(t, primary.count(t), standby.count(t))

			require.NoError(t, standby.Follow(within(t), postgres.StandbyOf(standby.upstream(primary))))
			require.NoError(t, standby.WaitStreaming(within(t)))
			require.Equal(t, "1h", standby.ask(t, `SHOW recovery_min_apply_delay`))
			require.Equal(t, fmt.Sprint(auto), standby.ask(t, `SELECT (count(*) > 0)::text FROM pg_file_settings
WHERE name LIKE '%recovery_min_apply_delay' AND sourcefile LIKE '%auto.conf'`), "only what the operator has there")
		}
	}
}

// An operator's own word, given while the delay is lifted, stays; so does a delay
// that was lifted on a server that is stopped then.
func TestLiftedDelayComesBack(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	standby, p := newStandby(t, primary, 2)
	up := postgres.StandbyOf(standby.upstream(primary))
	standby.exec(t, `ALTER SYSTEM SET recovery_min_apply_delay = '1h'`)
	require.NoError(t, standby.Reload(within(t)))
	lift := func() {
		primary.exec(t, `INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t`)
		standby.waitsFor(t, "RecoveryApplyDelay")
		_, err := standby.EndReceiver(within(t))
		require.NoError(t, err)
	}
	lift()
	require.Equal(t, "0", standby.ask(t, `SHOW recovery_min_apply_delay`))
	standby.stop(t, p, postgres.StopFast)
	require.NoError(t, standby.WriteStandby(within(t), up))
	standby.start(t)
	require.Equal(t, "1h", standby.ask(t, `SHOW recovery_min_apply_delay`))

	lift()
	standby.exec(t, `ALTER SYSTEM SET recovery_min_apply_delay = '2h'`)
	require.NoError(t, standby.Follow(within(t), up))
	require.Equal(t, "2h", standby.ask(t, `SHOW recovery_min_apply_delay`))
}

package postgres_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// firstSegment is the file in which the second timeline begins, and where in it.
func (n *node) firstSegment(t *testing.T) (path string, offset int64) {
	t.Helper()
	line, err := n.HistoryOf(2)
	require.NoError(t, err)
	const size = 16 << 20
	at := line[1].Switch
	return filepath.Join(n.DataDir(), "pg_wal", fmt.Sprintf("00000002%08X%08X", uint64(at)>>32, uint64(at)%(1<<32)/size)), int64(at % size)
}

// A standby that is stopped while the segment in which a new timeline begins is
// half there cannot be started by a stock server.
func TestHalfStreamedSegmentOfANewTimelineIsSetAside(t *testing.T) {
	t.Parallel()
	primary, p := newPrimary(t, 1)
	upstream, _ := newStandby(t, primary, 2)
	follower, p3 := newStandby(t, primary, 3)
	primary.exec(t, `CHECKPOINT`)
	eventually(t, func() error {
		follower.exec(t, `CHECKPOINT`)
		control, err := follower.ControlData(within(t))
		if err == nil && control.Checkpoint < primary.checkpoint(t) {
			err = errors.New("no restart point yet")
		}
		return err
	})
	primary.exec(t, `INSERT INTO t SELECT generate_series(1, 30000)`)
	primary.stop(t, p, postgres.StopFast)
	for _, n := range []*node{upstream, follower} {
		_, err := n.EndReceiver(within(t))
		require.NoError(t, err)
	}
	follower.stop(t, p3, postgres.StopFast)
	upstream.promote(t)
	upstream.slot(t, 3)

	// What the receiver had fetched of the new timeline when the server was stopped.
	history, err := os.ReadFile(filepath.Join(upstream.DataDir(), "pg_wal", "00000002.history"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(follower.DataDir(), "pg_wal", "00000002.history"), history, 0o600))
	theirs, offset := upstream.firstSegment(t)
	segment, err := os.ReadFile(theirs)
	require.NoError(t, err)
	half := filepath.Join(follower.DataDir(), "pg_wal", filepath.Base(theirs))
	clear(segment[offset-3*8192:])
	require.NoError(t, os.WriteFile(half, segment, 0o600))

	require.NoError(t, follower.WriteStandby(within(t), postgres.StandbyOf(follower.upstream(upstream))))
	p3 = follower.start(t)
	require.FileExists(t, half+".partial")
	require.NoError(t, follower.WaitStreaming(within(t)))
	upstream.exec(t, `INSERT INTO t VALUES (-1)`)
	eventually(t, func() error {
		if rows := follower.count(t); rows != 30001 {
			return fmt.Errorf("%d rows", rows)
		}
		return nil
	})

	// One that is whole stays: it may hold what this standby has acknowledged.
	follower.stop(t, p3, postgres.StopImmediate)
	follower.start(t)
	require.FileExists(t, half)
}

func (n *node) checkpoint(t *testing.T) pg.LSN {
	t.Helper()
	control, err := n.ControlData(within(t))
	require.NoError(t, err)
	return control.Checkpoint
}

// A killed standby that does not hold the WAL it must replay: recovery by
// itself ends, and the upstream has what is missing.
func TestRecoveryEndsWhereTheWALEnds(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	standby, p := newStandby(t, primary, 2)
	primary.exec(t, `INSERT INTO t SELECT generate_series(1, 30000)`)
	eventually(t, func() error {
		if rows := standby.count(t); rows != 30000 {
			return fmt.Errorf("%d rows", rows)
		}
		return nil
	})
	// Consistent at the end of its WAL, killed there, and the last page lost.
	standby.stop(t, p, postgres.StopFast)
	require.NoError(t, standby.WriteStandby(within(t), postgres.Upstream{}))
	p = standby.start(t)
	standby.stop(t, p, postgres.StopImmediate)
	control, err := standby.ControlData(within(t))
	require.NoError(t, err)
	require.Equal(t, "in archive recovery", control.State)
	const size = 16 << 20
	name := fmt.Sprintf("00000001%08X%08X", uint64(control.MinRecovery)>>32, uint64(control.MinRecovery)%(1<<32)/size)
	wal, err := os.OpenFile(filepath.Join(standby.DataDir(), "pg_wal", name), os.O_WRONLY, 0)
	require.NoError(t, err)
	page := int64(control.MinRecovery%size) / 8192 * 8192
	_, err = wal.WriteAt(make([]byte, 8192), page)
	require.NoError(t, err)
	require.NoError(t, wal.Close())

	require.ErrorIs(t, standby.RecoverCrash(within(t)), postgres.ErrShortOfWAL)
	require.True(t, standby.IsStandby())
	require.NoFileExists(t, filepath.Join(standby.DataDir(), "recovery.signal"))
	rejoin(t, standby, primary)

	// With all its WAL it ends where it is consistent.
	p, err = standby.Adopt()
	require.NoError(t, err)
	standby.stop(t, p, postgres.StopImmediate)
	require.NoError(t, standby.RecoverCrash(within(t)))
	control, err = standby.ControlData(within(t))
	require.NoError(t, err)
	require.Equal(t, "shut down in recovery", control.State)
	require.NoError(t, standby.RecoverCrash(within(t)), "there is nothing left to do")

	// Killed in the middle of it, it is still a standby.
	signal := filepath.Join(standby.DataDir(), "standby.signal")
	require.NoError(t, os.Rename(signal, filepath.Join(standby.DataDir(), "recovery.signal")))
	require.True(t, standby.IsStandby())
	p = standby.start(t)
	require.FileExists(t, signal)
	require.True(t, standby.observe(t).InRecovery)
	standby.stop(t, p, postgres.StopFast)
	rejoin(t, standby, primary)
}

// A killed standby may hold WAL that its control file knows nothing of, and
// that the new primary's line left out.
func TestWALBehindTheControlFileIsFound(t *testing.T) {
	t.Parallel()
	primary, p := newPrimary(t, 1)
	second, _ := newStandby(t, primary, 2)
	third, p3 := newStandby(t, primary, 3)
	_, err := second.EndReceiver(within(t))
	require.NoError(t, err)
	third.exec(t, `SELECT pg_wal_replay_pause()`)
	primary.exec(t, `INSERT INTO t SELECT generate_series(1, 1000)`)
	end := primary.observe(t).LSN
	eventually(t, func() error {
		if at := third.observe(t).Received; at < end {
			return fmt.Errorf("the standby is at %s, not %s", at, end)
		}
		return nil
	})
	third.stop(t, p3, postgres.StopImmediate)
	primary.stop(t, p, postgres.StopImmediate)
	second.promote(t)
	second.exec(t, `INSERT INTO t VALUES (-1)`)
	second.slot(t, 3)

	up := postgres.StandbyOf(third.upstream(second))
	rewind := postgres.RewindConfig{Source: postgres.CopyFrom(third.upstream(second)), Standby: up}
	proved, err := third.Rewind(within(t), rewind)
	require.NoError(t, err)
	require.False(t, proved)
	p3 = third.start(t)
	last, err := third.EndReceiver(within(t))
	require.NoError(t, err)
	info, err := postgres.Identify(within(t), rewind.Source)
	require.NoError(t, err)
	line, err := third.HistoryOf(last.TLI)
	require.NoError(t, err)
	require.Equal(t, postgres.LineageDiverged, postgres.Relate(line, last.LSN, info))

	// Replayed and stopped it knows where it ends.
	third.stop(t, p3, postgres.StopFast)
	proved, err = third.Rewind(within(t), rewind)
	require.NoError(t, err)
	require.True(t, proved)
	third.start(t)
	require.NoError(t, third.WaitStreaming(within(t)))
	require.Equal(t, 1, third.count(t), "what the other line does not have is gone")
}

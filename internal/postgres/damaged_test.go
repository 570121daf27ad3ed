package postgres_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A standby that received WAL which it cannot replay would lose it by a promotion: it must not vote with it.
func TestVoteCountsOnlyWhatCanBeReplayed(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	standby, _ := newStandby(t, primary, 2)
	primary.exec(t, `CREATE TABLE big (s text)`)
	primary.exec(t, `SELECT pg_switch_wal()`)
	target := primary.observe(t).LSN
	eventually(t, func() error {
		if at := standby.observe(t).Replayed; at < target {
			return fmt.Errorf("the standby is at %s, not %s", at, target)
		}
		return nil
	})
	standby.exec(t, `SELECT pg_wal_replay_pause()`)
	// More than the reader has decoded ahead, less than a segment.
	primary.exec(t, `INSERT INTO big SELECT repeat('x', 1000) FROM generate_series(1, 8000)`)
	end := primary.observe(t).LSN
	eventually(t, func() error {
		if at := standby.observe(t).Received; at < end {
			return fmt.Errorf("the standby is at %s, not %s", at, end)
		}
		return nil
	})

	const size = 16 << 20
	damage := uint64(end) - 1<<20
	require.Equal(t, uint64(end)/size, damage/size)
	segments, err := filepath.Glob(filepath.Join(standby.DataDir(), "pg_wal", "0000000100000000*"))
	require.NoError(t, err)
	f, err := os.OpenFile(segments[len(segments)-1], os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(make([]byte, 64<<10), int64(damage%size))
	require.NoError(t, err)
	require.NoError(t, f.Close())

	standby.exec(t, `SELECT pg_wal_replay_resume()`)
	vote, err := standby.EndReceiver(within(t))
	require.NoError(t, err)
	require.Equal(t, end, vote.Received)
	require.Equal(t, vote.Replayed, vote.LSN)
	require.Less(t, uint64(vote.LSN), damage+64<<10)
}

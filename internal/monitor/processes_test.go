package monitor

import (
	"os/exec"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

func TestProcessWatch(t *testing.T) {
	t.Parallel()
	start := func() (pid int, end func()) {
		cmd := exec.CommandContext(t.Context(), "cat")
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		return cmd.Process.Pid, func() {
			require.NoError(t, in.Close())
			require.NoError(t, cmd.Wait())
		}
	}
	w := newProcessWatch()
	defer w.Close()
	one, endOne := start()
	two, endTwo := start()
	require.True(t, w.Follow([]int{one, two}))
	require.True(t, w.Follow([]int{one, two}))
	select {
	case <-w.Ended():
		require.Fail(t, "both processes live")
	default:
	}
	endOne()
	<-w.Ended()
	require.False(t, w.Follow([]int{one, two, 1 << 30}), "there is no such process")
	require.True(t, w.Follow([]int{two}))
	require.True(t, w.Follow(nil), "nobody waits for a process that is of no interest")
	endTwo()
	require.Empty(t, w.files)
}

// TestEndOfSessionIsSeenAtOnce: the end of the session's server process is
// enough, no look at the locks is awaited.
func TestEndOfSessionIsSeenAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newFakeDB()
		db.add(testKey, 1, fsm.Primary)
		db.add(testKey, 2, fsm.Secondary)
		db.nodes[1].backend, db.nodes[2].backend = 71, 72
		ended := make(chan struct{}, 1)
		w := newWatchedWorld(t, db, fakeWatchman{ended})
		defer w.end()
		go db.report(t.Context(), 1, 2)
		time.Sleep(grace + 10*time.Millisecond)

		w.servers.set(5001, outcomeRefused)
		db.change(testKey, false, func() { db.nodes[1].session = false })
		ended <- struct{}{}
		synctest.Wait()
		_, lost, _ := w.decider.observed.silence(1)
		require.True(t, lost, "although no time has passed")
		time.Sleep(time.Second)
		require.Len(t, db.decisions(), 1)
	})
}

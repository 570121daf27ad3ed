package keeper

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// end cancels the run with a signal and returns how it ended.
func (w *world) end(cause error) {
	w.cancel(cause)
	require.NoError(w.t, <-w.ended)
	w.ended <- nil
}

type sigterm struct{}

func (sigterm) Error() string     { return "terminated" }
func (sigterm) Signal() os.Signal { return syscall.SIGTERM }

type sigint struct{}

func (sigint) Error() string     { return "interrupt" }
func (sigint) Signal() os.Signal { return syscall.SIGINT }

type sigquit struct{}

func (sigquit) Error() string     { return "quit" }
func (sigquit) Signal() os.Signal { return syscall.SIGQUIT }

func TestStopHandsAPrimaryOver(t *testing.T) {
	inWorld(t, fsm.Primary, func(w *world) {
		w.monitor.onStart = func() {
			go func() {
				w.monitor.assign(fsm.PrepareMaintenance)
				time.Sleep(2 * time.Second)
				w.monitor.assign(fsm.Maintenance)
			}()
		}
	}, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		w.end(sigterm{})
		w.reached(fsm.Maintenance)
		require.Contains(t, w.monitor.asked, "start_maintenance")
		require.False(t, w.server.runs())
		require.True(t, w.saved[len(w.saved)-1].MaintenanceOnStop)
	})
}

func TestStopWithoutCandidateStopsAndSaysSo(t *testing.T) {
	inWorld(t, fsm.Primary, func(w *world) {
		w.monitor.refuse = errors.New("no candidate")
	}, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		begin := w.clock()
		w.end(sigterm{})
		require.Less(t, w.clock()-begin, time.Second)
		last := w.monitor.last()
		require.Equal(t, fsm.Primary, last.State)
		require.False(t, last.Running)
		require.True(t, last.CleanStop)
		require.False(t, w.saved[len(w.saved)-1].MaintenanceOnStop)
	})
}

func TestStopThatNobodyTakesOverEndsInTime(t *testing.T) {
	inWorld(t, fsm.Primary, nil, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		begin := w.clock()
		w.end(sigterm{})
		require.Less(t, w.clock()-begin, 35*time.Second)
		require.False(t, w.server.runs())
	})
}

func TestStopDoesNotWaitForAHandoverThatIsRefusedLater(t *testing.T) {
	inWorld(t, fsm.Primary, nil, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		w.monitor.mu.Lock()
		w.monitor.refused = "node 1 cannot go to maintenance: there is no candidate"
		w.monitor.mu.Unlock()
		begin := w.clock()
		w.end(sigterm{})
		require.Less(t, w.clock()-begin, 2*time.Second)
		require.False(t, w.server.runs())
		require.False(t, w.saved[len(w.saved)-1].MaintenanceOnStop)
	})
}

func TestSecondSignalIsStronger(t *testing.T) {
	inWorld(t, fsm.Primary, nil, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		begin := w.clock()
		go func() {
			time.Sleep(3 * time.Second)
			w.stops <- StopFast
		}()
		w.end(sigterm{})
		require.Less(t, w.clock()-begin, 5*time.Second)
		require.False(t, w.server.runs())
	})
}

func TestFastAndImmediateStops(t *testing.T) {
	t.Run("fast", func(t *testing.T) {
		inWorld(t, fsm.Primary, nil, func(t *testing.T, w *world) {
			w.pass(2 * time.Second)
			w.end(sigint{})
			require.NotContains(t, w.monitor.asked, "start_maintenance")
			require.True(t, w.monitor.last().CleanStop)
		})
	})
	t.Run("immediate", func(t *testing.T) {
		inWorld(t, fsm.Primary, nil, func(t *testing.T, w *world) {
			w.pass(2 * time.Second)
			w.end(sigquit{})
			require.Contains(t, w.server.done(), fsm.StepStopNow)
		})
	})
	t.Run("during an edge", func(t *testing.T) {
		inWorld(t, fsm.WaitPrimary, func(w *world) { w.server.blocked[fsm.StepWaitVoters] = true }, func(t *testing.T, w *world) {
			w.pass(time.Second)
			w.monitor.assign(fsm.Primary)
			w.pass(time.Second)
			w.end(sigint{})
			require.False(t, w.server.runs())
		})
	})
	t.Run("without monitor", func(t *testing.T) {
		inWorld(t, fsm.Single, nil, func(t *testing.T, w *world) {
			w.pass(2 * time.Second)
			w.monitor.setDown(true)
			w.pass(2 * time.Second)
			begin := w.clock()
			w.end(sigterm{})
			require.False(t, w.server.runs())
			require.Less(t, w.clock()-begin, 5*time.Second)
		})
	})
}

func TestDetachLeavesTheServer(t *testing.T) {
	inWorld(t, fsm.Primary, nil, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		w.end(ErrDetach)
		require.True(t, w.server.runs())
	})
}

func TestMaintenanceOfAStopIsUndoneAtTheNextStart(t *testing.T) {
	inWorld(t, fsm.Maintenance, nil, func(t *testing.T, w *world) {
		w.end(ErrDetach)
		<-w.ended
		s := NewState()
		s.NodeID, s.Current, s.Assigned, s.MaintenanceOnStop = 1, fsm.Maintenance, fsm.Maintenance, true
		w.startWith(s)
		w.pass(2 * time.Second)
		require.Contains(t, w.monitor.asked, "stop_maintenance")
		require.Empty(t, w.saved)
		w.monitor.assign(fsm.CatchingUp)
		w.pass(time.Second)
		require.False(t, w.saved[len(w.saved)-1].MaintenanceOnStop)
		w.reached(fsm.CatchingUp)
	})
}

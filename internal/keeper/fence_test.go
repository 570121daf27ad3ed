package keeper

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// list is ANY k (members).
func list(k int, ids ...int64) pg.StandbyNames {
	names := pg.StandbyNames{K: k}
	for _, id := range ids {
		names.Members = append(names.Members, pg.StandbyName(id))
	}
	return names
}

// cutOff takes the monitor and all standbys away.
func cutOff(w *world) {
	w.monitor.setDown(true)
	w.server.edit(func() {
		for id := range w.server.standbys {
			w.server.standbys[id] = false
		}
	})
}

func TestPrimaryThatIsCutOffStopsItself(t *testing.T) {
	for _, state := range []fsm.State{fsm.Primary, fsm.ApplySettings, fsm.JoinPrimary, fsm.WaitPrimary} {
		t.Run(state.String(), func(t *testing.T) {
			inWorld(t, state, func(w *world) {
				w.server.names = list(1, 2, 3)
				w.server.standbys[2], w.server.standbys[3] = true, true
			}, func(t *testing.T, w *world) {
				w.pass(60 * time.Second)
				require.True(t, w.server.runs())
				cutOff(w)
				w.pass(18 * time.Second)
				require.True(t, w.server.runs())
				w.pass(6 * time.Second)
				require.False(t, w.server.runs())
				steps := w.server.done()
				require.Equal(t, []fsm.Step{fsm.StepStopNow, fsm.StepSeal}, steps[len(steps)-2:], "a fast stop would wait for a silent standby")
				require.Equal(t, fsm.DemoteTimeout, w.current())
			})
		})
	}
}

func TestFencedPrimaryStartsOnlyAfterTheMonitorSpoke(t *testing.T) {
	inWorld(t, fsm.Primary, func(w *world) {
		w.server.names = list(1, 2)
		w.server.standbys[2] = true
	}, func(t *testing.T, w *world) {
		w.pass(5 * time.Second)
		cutOff(w)
		w.pass(60 * time.Second)
		require.False(t, w.server.runs())
		require.Equal(t, fsm.DemoteTimeout, w.current())
		w.monitor.setDown(false)
		w.pass(2 * time.Second)
		require.True(t, w.server.runs(), "the goal is still primary")
		w.reached(fsm.Primary)
		seen := false
		for _, r := range w.monitor.all() {
			seen = seen || r.State == fsm.DemoteTimeout && !r.Running
		}
		require.True(t, seen)
	})
}

func TestOneContactIsEnough(t *testing.T) {
	t.Run("monitor", func(t *testing.T) {
		inWorld(t, fsm.Primary, func(w *world) { w.server.names = list(1, 2) }, func(t *testing.T, w *world) {
			w.pass(5 * time.Minute)
			require.True(t, w.server.runs())
		})
	})
	t.Run("standby", func(t *testing.T) {
		inWorld(t, fsm.Primary, func(w *world) {
			w.server.names = list(1, 2, 3)
			w.server.standbys[2], w.server.standbys[3] = true, true
		}, func(t *testing.T, w *world) {
			w.pass(5 * time.Second)
			w.monitor.setDown(true)
			w.server.edit(func() { w.server.standbys[2] = false })
			w.pass(5 * time.Minute)
			require.True(t, w.server.runs())
		})
	})
}

func TestAsManyStandbysAsACommitNeeds(t *testing.T) {
	inWorld(t, fsm.Primary, func(w *world) {
		w.server.names = list(2, 2, 3, 4)
		w.server.standbys[2], w.server.standbys[3], w.server.standbys[4] = true, true, true
	}, func(t *testing.T, w *world) {
		w.pass(5 * time.Second)
		cutOff(w)
		w.server.edit(func() { w.server.standbys[3] = true })
		w.pass(30 * time.Second)
		require.False(t, w.server.runs(), "one of two is too few")
	})
}

func TestOnlyMembersOfTheListCount(t *testing.T) {
	inWorld(t, fsm.Primary, func(w *world) {
		w.server.names = list(1, 2)
		w.server.standbys[2], w.server.standbys[9] = true, true
	}, func(t *testing.T, w *world) {
		w.pass(5 * time.Second)
		cutOff(w)
		w.server.edit(func() { w.server.standbys[9] = true })
		w.pass(30 * time.Second)
		require.False(t, w.server.runs())
	})
}

func TestAnySecondaryCountsForAnAsynchronousPrimary(t *testing.T) {
	inWorld(t, fsm.Primary, func(w *world) {
		w.server.standbys[8], w.server.standbys[9] = true, true
		w.monitor.peers = []peer{{ID: 8, Goal: fsm.CatchingUp}, {ID: 9, Goal: fsm.Secondary}}
	}, func(t *testing.T, w *world) {
		w.pass(5 * time.Second)
		w.monitor.setDown(true)
		w.pass(time.Minute)
		require.True(t, w.server.runs())
		w.server.edit(func() { w.server.standbys[9] = false })
		w.pass(30 * time.Second)
		require.False(t, w.server.runs(), "the monitor does not wait for a node that is catching up")
	})
}

func TestWhoeverNobodyReplacesIsNotStopped(t *testing.T) {
	for _, state := range []fsm.State{fsm.Single, fsm.WaitPrimary} {
		t.Run(state.String(), func(t *testing.T) {
			inWorld(t, state, nil, func(t *testing.T, w *world) {
				w.pass(5 * time.Second)
				cutOff(w)
				w.pass(time.Hour)
				require.True(t, w.server.runs())
			})
		})
	}
}

func TestContactsAreNotCountedTooLate(t *testing.T) {
	t.Parallel()
	f := newFence(0)
	see := func(at, reply int) {
		f.saw(view{
			At: time.Duration(at) * time.Second, Ready: true, SyncNames: list(1, 2),
			Standbys: []standbySeen{{ID: 2, ReplyTime: time.Unix(int64(reply), 0)}},
		}, false)
	}
	see(1, 100)
	see(2, 101)
	require.Equal(t, time.Second, f.standbys(), "it was there after the look before")
	// A pause of this process: the reply came right after the last look, for all we know.
	see(100, 102)
	require.Equal(t, 2*time.Second, f.standbys())
	f.answered(90 * time.Second)
	f.answered(80 * time.Second)
	require.Equal(t, 90*time.Second, f.monitor)
	require.False(t, f.expired(100*time.Second, 20*time.Second))
	require.True(t, f.expired(111*time.Second, 20*time.Second))
}

func TestZeroStampsMeanSinceTheStart(t *testing.T) {
	t.Parallel()
	f := newFence(50 * time.Second)
	require.False(t, f.expired(70*time.Second, 20*time.Second))
	require.True(t, f.expired(71*time.Second, 20*time.Second))
	require.True(t, f.applies(fsm.Primary, fsm.Primary), "a list that nobody saw is not empty")
	require.False(t, f.applies(fsm.WaitPrimary, fsm.WaitPrimary))
}

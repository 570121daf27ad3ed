package keeper

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

func TestReportsGoOnEachSecondAtRest(t *testing.T) {
	inWorld(t, fsm.Primary, nil, func(t *testing.T, w *world) {
		w.pass(10*time.Second + 500*time.Millisecond)
		n := len(w.monitor.all())
		require.GreaterOrEqual(t, n, 10)
		require.LessOrEqual(t, n, 14, "a node at rest reports once a second")
	})
}

func TestReportsGoOnWhileAnEdgeRuns(t *testing.T) {
	inWorld(t, fsm.WaitStandby, func(w *world) {
		w.server.blocked[fsm.StepBaseBackup] = true
	}, func(t *testing.T, w *world) {
		w.pass(time.Second)
		w.monitor.assign(fsm.CatchingUp)
		w.pass(time.Second)
		before := len(w.monitor.all())
		w.pass(30 * time.Second)
		require.GreaterOrEqual(t, len(w.monitor.all())-before, 29)
		w.reached(fsm.WaitStandby)
		require.Contains(t, w.server.done(), fsm.StepBaseBackup)
	})
}

func TestGoalIsHeardByNotification(t *testing.T) {
	inWorld(t, fsm.Primary, nil, func(t *testing.T, w *world) {
		w.pass(1300 * time.Millisecond)
		w.monitor.assign(fsm.Draining)
		w.pass(20 * time.Millisecond)
		w.reached(fsm.Draining)
		last := w.monitor.last()
		require.True(t, last.CleanStop)
		require.False(t, last.Running)
		require.Equal(t, pg.LSN(0x1000), last.LSN)
		require.Equal(t, int64(8), last.Reached)
	})
}

func TestStoppedStateIsNeverReportedWithTheOldPosition(t *testing.T) {
	inWorld(t, fsm.Primary, nil, func(t *testing.T, w *world) {
		w.pass(time.Second)
		w.monitor.assign(fsm.Draining)
		w.pass(3 * time.Second)
		for _, r := range w.monitor.all() {
			if r.State == fsm.Draining {
				require.False(t, r.Running)
				require.True(t, r.CleanStop)
			}
		}
	})
}

func TestStateIsWrittenBeforeItIsReported(t *testing.T) {
	inWorld(t, fsm.Secondary, nil, func(t *testing.T, w *world) {
		w.pass(time.Second)
		w.mu.Lock()
		w.saveErr = errors.New("no space left on device")
		w.mu.Unlock()
		w.monitor.assign(fsm.PreparePromotion)
		w.pass(5 * time.Second)
		w.reached(fsm.Secondary)
		w.mu.Lock()
		w.saveErr = nil
		w.mu.Unlock()
		w.pass(2 * time.Second)
		w.reached(fsm.PreparePromotion)
		require.Equal(t, fsm.PreparePromotion, w.current())
	})
}

func TestNewGoalGivesUpTheRunningEdge(t *testing.T) {
	inWorld(t, fsm.WaitPrimary, func(w *world) {
		w.server.blocked[fsm.StepWaitVoters] = true
	}, func(t *testing.T, w *world) {
		w.pass(time.Second)
		w.monitor.assign(fsm.Primary)
		w.pass(5 * time.Second)
		w.reached(fsm.WaitPrimary)
		w.monitor.assign(fsm.Draining)
		w.pass(50 * time.Millisecond)
		w.reached(fsm.Draining)
		require.False(t, w.server.runs())
	})
}

func TestGoalThatComesBackIsEstablishedAgain(t *testing.T) {
	inWorld(t, fsm.ReportLSN, nil, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		require.Equal(t, int64(7), w.monitor.last().Reached)
		w.server.edit(func() { w.server.blocked[fsm.StepFollow] = true; w.server.steps = nil })
		w.monitor.assign(fsm.Secondary)
		w.pass(2 * time.Second)
		w.monitor.assign(fsm.ReportLSN)
		w.pass(100 * time.Millisecond)
		steps := w.server.done()
		require.Contains(t, steps, fsm.StepFollow)
		require.Equal(t, fsm.StepEndReceiver, steps[len(steps)-1], "the receiver may have been started again")
		require.Equal(t, int64(9), w.monitor.last().Reached)
		for _, r := range w.monitor.all() {
			require.NotEqual(t, int64(8), r.Reached)
		}
	})
}

func TestSameGoalAgainIsEstablishedAgain(t *testing.T) {
	for _, state := range []fsm.State{fsm.ReportLSN, fsm.CatchingUp, fsm.WaitPrimary} {
		t.Run(state.String(), func(t *testing.T) {
			inWorld(t, state, nil, func(t *testing.T, w *world) {
				w.pass(2 * time.Second)
				w.server.edit(func() { w.server.steps = nil })
				w.monitor.assign(state)
				w.pass(100 * time.Millisecond)
				require.Equal(t, int64(8), w.monitor.last().Reached)
				require.Equal(t, fsm.Reenter(state), w.server.done(), "its list or its upstream may be another")
			})
		})
	}
}

func TestStandbyThatGetsNowhereIsLookedAt(t *testing.T) {
	for name, tc := range map[string]struct {
		streams fsm.Streaming
		moves   bool
		mended  bool
	}{
		"it does not stream":                       {streams: fsm.StreamingNo, mended: true},
		"it seems to stream and stays where it is": {streams: fsm.StreamingYes, mended: true},
		"it streams":                               {streams: fsm.StreamingYes, moves: true},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, fsm.CatchingUp, func(w *world) { w.server.streams = tc.streams }, func(t *testing.T, w *world) {
				for range 30 {
					w.pass(time.Second)
					if tc.moves {
						w.server.edit(func() { w.server.lsn += 0x100 })
					}
				}
				w.server.edit(func() { require.Equal(t, tc.mended, w.server.mended > 0) })
			})
		})
	}
}

func TestRestartEstablishesTheStateBeforeItIsConfirmed(t *testing.T) {
	inWorld(t, fsm.Primary, nil, func(t *testing.T, w *world) {
		w.pass(500 * time.Millisecond)
		require.Equal(t, fsm.Reenter(fsm.Primary), w.server.done())
		first := w.monitor.all()[0]
		require.Zero(t, first.Reached, "an earlier life may have left the state half way")
		require.Equal(t, int64(7), w.monitor.last().Reached)
	})
}

func TestOlderGoalIsNotTakenBack(t *testing.T) {
	inWorld(t, fsm.Secondary, nil, func(_ *testing.T, w *world) {
		w.pass(time.Second)
		w.monitor.assign(fsm.PreparePromotion)
		w.pass(time.Second)
		w.reached(fsm.PreparePromotion)
		w.monitor.mu.Lock()
		w.monitor.goal = assignment{Goal: fsm.ReportLSN, Number: 3}
		w.monitor.mu.Unlock()
		w.pass(3 * time.Second)
		w.reached(fsm.PreparePromotion)
	})
}

func TestRestartTakesUpWhatTheMonitorKnows(t *testing.T) {
	inWorld(t, fsm.Secondary, func(w *world) {
		w.monitor.known = known{State: fsm.Secondary, Reached: 7}
	}, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		for _, r := range w.monitor.all() {
			require.Equal(t, int64(7), r.Reached, "or else the primary would give it up for a moment")
		}
	})
}

func TestNothingIsStartedBeforeTheMonitorConfirmed(t *testing.T) {
	inWorld(t, fsm.Primary, func(w *world) {
		w.monitor.down = true
		w.server.setRunning(false)
	}, func(t *testing.T, w *world) {
		w.pass(30 * time.Second)
		require.Empty(t, w.server.done())
		w.monitor.setDown(false)
		w.pass(2 * time.Second)
		require.True(t, w.server.runs())
	})
}

func TestServerOfADemotedNodeIsStoppedFirst(t *testing.T) {
	for _, state := range []fsm.State{fsm.Draining, fsm.DemoteTimeout, fsm.Demoted, fsm.PrepareMaintenance} {
		t.Run(state.String(), func(t *testing.T) {
			inWorld(t, state, func(w *world) {
				w.monitor.down = true
				w.server.setRunning(true)
			}, func(t *testing.T, w *world) {
				w.pass(time.Second)
				require.Equal(t, []fsm.Step{fsm.StepStop, fsm.StepSeal}, w.server.done())
				require.False(t, w.server.runs())
			})
		})
	}
}

func TestWritableServerOfAStandbyIsStoppedFirst(t *testing.T) {
	inWorld(t, fsm.Secondary, func(w *world) {
		w.monitor.down = true
		w.server.recovery = false
	}, func(t *testing.T, w *world) {
		w.pass(time.Second)
		require.Equal(t, []fsm.Step{fsm.StepStop}, w.server.done())
	})
}

func TestPromotedServerGoesOnToItsGoal(t *testing.T) {
	inWorld(t, fsm.PreparePromotion, func(w *world) {
		w.server.recovery = false // promoted by an edge that was killed before it was recorded
		w.monitor.goal.Goal = fsm.WaitPrimary
	}, func(t *testing.T, w *world) {
		w.pass(time.Second)
		w.reached(fsm.WaitPrimary)
		require.NotContains(t, w.server.done(), fsm.StepStop)
	})
}

func TestPrimaryIsRestartedOnTheSpot(t *testing.T) {
	inWorld(t, fsm.Primary, nil, func(t *testing.T, w *world) {
		w.pass(2500 * time.Millisecond)
		w.server.setRunning(false)
		w.pass(50 * time.Millisecond)
		require.True(t, w.server.runs())
		w.pass(5 * time.Second)
		for _, r := range w.monitor.all() {
			require.True(t, r.Running)
		}
	})
}

func TestPrimaryIsRestartedWithoutMonitor(t *testing.T) {
	inWorld(t, fsm.Single, nil, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		w.monitor.setDown(true)
		w.pass(2 * time.Second)
		w.server.setRunning(false)
		w.pass(time.Second)
		require.True(t, w.server.runs())
	})
}

func TestPrimaryThatDoesNotStartIsReportedAfterThreeTries(t *testing.T) {
	inWorld(t, fsm.Primary, nil, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		w.server.edit(func() {
			w.server.broken[fsm.StepStart] = errors.New("could not load library")
			w.server.steps = nil
		})
		w.server.setRunning(false)
		w.pass(10 * time.Millisecond)
		require.True(t, w.monitor.last().Running)
		w.pass(3 * time.Second)
		require.False(t, w.monitor.last().Running)
		tries := slices.Index(w.server.done(), fsm.StepStart)
		require.NotEqual(t, -1, tries)
		w.server.edit(func() { delete(w.server.broken, fsm.StepStart) })
		w.pass(3 * time.Second)
		require.True(t, w.monitor.last().Running)
	})
}

func TestStandbyThatEndedIsReportedAndRestarted(t *testing.T) {
	inWorld(t, fsm.Secondary, nil, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		w.server.edit(func() { w.server.broken[fsm.StepStart] = errors.New("no") })
		w.server.setRunning(false)
		w.pass(100 * time.Millisecond)
		require.False(t, w.monitor.last().Running)
		w.server.edit(func() { delete(w.server.broken, fsm.StepStart) })
		w.pass(3 * time.Second)
		require.True(t, w.monitor.last().Running)
	})
}

func TestHungServerIsReportedInTheEnd(t *testing.T) {
	inWorld(t, fsm.Primary, func(w *world) { w.server.standbys[2] = true }, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		require.Equal(t, fsm.StreamingUnknown, w.monitor.last().Streaming)
		w.server.edit(func() { w.server.silent = true })
		w.pass(15 * time.Second)
		require.True(t, w.monitor.last().Running)
		require.Equal(t, fsm.StreamingNo, w.monitor.last().Streaming, "standbys that stall are not to be blamed")
		w.pass(10 * time.Second)
		require.False(t, w.monitor.last().Running)
	})
}

func TestDroppedNodeStopsSaysSoAndEnds(t *testing.T) {
	inWorld(t, fsm.Secondary, nil, func(t *testing.T, w *world) {
		w.pass(time.Second)
		w.monitor.assign(fsm.Dropped)
		err := <-w.ended
		require.ErrorIs(t, err, ErrDropped)
		w.reached(fsm.Dropped)
		require.False(t, w.server.runs())
		w.ended <- nil
	})
}

func TestStandbyIsLookedAtOftenWhileThePrimaryDrains(t *testing.T) {
	inWorld(t, fsm.PreparePromotion, nil, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		w.server.edit(func() { w.server.lsn = 0x2000 })
		w.pass(30 * time.Millisecond)
		require.Equal(t, pg.LSN(0x2000), w.monitor.last().LSN)
	})
}

func TestGoalWithoutEdgeIsWaitedOut(t *testing.T) {
	inWorld(t, fsm.Maintenance, nil, func(_ *testing.T, w *world) {
		w.pass(time.Second)
		w.monitor.assign(fsm.FastForward)
		w.pass(3 * time.Second)
		w.reached(fsm.Maintenance)
		w.monitor.assign(fsm.CatchingUp)
		w.pass(time.Second)
		w.reached(fsm.CatchingUp)
	})
}

func TestMonitorLossIsSurvived(t *testing.T) {
	inWorld(t, fsm.Single, nil, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		w.server.edit(func() { w.server.steps = nil })
		w.monitor.setDown(true)
		w.pass(time.Hour)
		require.Empty(t, w.server.done())
		require.True(t, w.server.runs())
		w.monitor.setDown(false)
		w.pass(1100 * time.Millisecond)
		require.Less(t, w.clock()-w.monitor.last().at, 1100*time.Millisecond)
		require.Empty(t, w.server.done())
	})
}

// TestSealedServerOfAPrimaryIsOpened: somebody started the server of a node
// whose keeper was killed before it recorded that it is a primary again.
func TestSealedServerOfAPrimaryIsOpened(t *testing.T) {
	inWorld(t, fsm.Primary, func(w *world) {
		w.server.recovery, w.server.sealed = true, true
	}, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		require.Contains(t, w.server.done(), fsm.StepUnseal)
		require.False(t, w.server.sealed)
	})
}

// TestCandidateAnswersAtOnce: the primary writes on until its successor has
// said that it is there, so nothing may hold the answer up.
func TestCandidateAnswersAtOnce(t *testing.T) {
	inWorld(t, fsm.Secondary, func(w *world) {
		w.monitor.peers = []peer{{ID: 2, Host: "h", Port: 1, Goal: fsm.Primary}}
		w.server.blocked[fsm.StepSlots] = true
	}, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		require.Contains(t, w.server.done(), fsm.StepSlots)
		w.monitor.assign(fsm.PreparePromotion)
		w.pass(25 * time.Millisecond)
		w.reached(fsm.PreparePromotion)
		require.Equal(t, int64(8), w.monitor.last().Reached)
	})
}

// TestServerThatRefusesEverybodyIsReportedDown: whoever is connected may stay,
// and nobody else gets in. The monitor hears of it once that has lasted.
func TestServerThatRefusesEverybodyIsReportedDown(t *testing.T) {
	for _, state := range []fsm.State{fsm.Primary, fsm.Single, fsm.Secondary} {
		t.Run(state.String(), func(t *testing.T) {
			inWorld(t, state, nil, func(t *testing.T, w *world) {
				w.pass(5 * time.Second)
				w.server.edit(func() { w.server.refusing = true })
				w.pass(18 * time.Second)
				require.True(t, w.monitor.last().Running, "it may be an operator's mistake that is undone at once")
				require.Equal(t, fsm.StreamingNo == w.monitor.last().Streaming, state.Writable())
				w.pass(5 * time.Second)
				require.False(t, w.monitor.last().Running)
				require.True(t, w.server.runs())
				w.server.edit(func() { w.server.refusing = false })
				w.pass(2 * time.Second)
				require.True(t, w.monitor.last().Running)
			})
		})
	}
}

// TestSlotsAreSeenToNowAndThen: somebody drops the slot of a node that is away,
// and that node could never be copied.
func TestSlotsAreSeenToNowAndThen(t *testing.T) {
	inWorld(t, fsm.Primary, func(w *world) {
		w.monitor.peers = []peer{{ID: 2, Host: "h", Port: 1, Goal: fsm.CatchingUp}}
	}, func(t *testing.T, w *world) {
		w.pass(5 * time.Second)
		before := len(w.server.done())
		w.pass(25 * time.Second)
		again := w.server.done()[before:]
		require.NotEmpty(t, again)
		require.LessOrEqual(t, len(again), 3)
		for _, s := range again {
			require.Equal(t, fsm.StepSlots, s)
		}
	})
}

// TestReceiverThatHearsNothingIsSpokenTo: where nobody writes, the upstream of a
// standby that comes back has nothing to say, and nobody would know that it streams.
func TestReceiverThatHearsNothingIsSpokenTo(t *testing.T) {
	inWorld(t, fsm.CatchingUp, func(w *world) {
		w.server.recovery, w.server.deaf = true, true
		w.monitor.peers = []peer{{ID: 2, Host: "h", Port: 1, Goal: fsm.Primary}}
	}, func(t *testing.T, w *world) {
		w.pass(3 * time.Second)
		spoken := func() (n int) {
			w.server.edit(func() { n = w.server.stirred })
			return n
		}
		before := spoken()
		require.Positive(t, before)
		require.LessOrEqual(t, before, 3)
		w.server.edit(func() { w.server.deaf = false })
		w.pass(time.Second)
		before = spoken()
		w.pass(5 * time.Second)
		require.Equal(t, before, spoken())
	})
}

// TestAnotherMonitorCountsFromOne: after a reload that names another monitor
// the numbers of the one before mean nothing, and what it still answers neither.
func TestAnotherMonitorCountsFromOne(t *testing.T) {
	inWorld(t, fsm.Secondary, nil, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		require.Equal(t, int64(7), w.monitor.last().Reached)
		w.monitor.mu.Lock()
		w.monitor.goal = assignment{Goal: fsm.CatchingUp, Number: 1}
		w.monitor.reports = nil
		w.monitor.mu.Unlock()
		w.pass(3 * time.Second)
		w.reached(fsm.Secondary)
		w.reload = func() { w.reporter.reconnect() }
		w.reloads <- struct{}{}
		w.pass(3 * time.Second)
		w.reached(fsm.CatchingUp)
		require.Equal(t, int64(1), w.monitor.last().Reached)
		w.monitor.assign(fsm.Secondary)
		w.pass(time.Second)
		w.reached(fsm.Secondary)
		require.Equal(t, int64(2), w.monitor.last().Reached)
	})
}

// TestSameStateUnderAnotherMonitorIsEstablishedAgain: its list or its upstream
// may be another.
func TestSameStateUnderAnotherMonitorIsEstablishedAgain(t *testing.T) {
	inWorld(t, fsm.Primary, nil, func(t *testing.T, w *world) {
		w.pass(2 * time.Second)
		w.server.edit(func() { w.server.steps = nil })
		w.reload = func() { w.reporter.reconnect() } // its goal has the same number by chance
		w.reloads <- struct{}{}
		w.pass(3 * time.Second)
		require.Equal(t, fsm.Reenter(fsm.Primary), w.server.done())
		require.Equal(t, int64(7), w.monitor.last().Reached)
	})
}

// TestPromotionIsToldItsTimeline: the number comes with the goal.
func TestPromotionIsToldItsTimeline(t *testing.T) {
	inWorld(t, fsm.PreparePromotion, nil, func(t *testing.T, w *world) {
		w.pass(time.Second)
		w.monitor.mu.Lock()
		w.monitor.goal.Timeline = 7
		w.monitor.mu.Unlock()
		w.monitor.assign(fsm.WaitPrimary)
		w.pass(time.Second)
		w.reached(fsm.WaitPrimary)
		w.server.edit(func() { require.Equal(t, pg.Timeline(7), w.server.begin) })
	})
}

// TestCreationWaitsForAServerThatIsAway: a source that dies before the copy
// begins has a successor in a few seconds.
func TestCreationWaitsForAServerThatIsAway(t *testing.T) {
	between := &pgconn.PgError{Code: pgerrcode.InternalError, Message: "group has no writable node right now"}
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for name, c := range map[string]struct {
		err     error
		patient bool
	}{
		"refused":           {fmt.Errorf("ask h:5432: %w", refused), true},
		"cut":               {fmt.Errorf("ask h:5432: %w", io.ErrUnexpectedEOF), true},
		"starts up":         {&pgconn.PgError{Code: pgerrcode.CannotConnectNow}, true},
		"between primaries": {&MonitorError{Op: "ask the monitor", Err: between}, true},
		"no such host":      {&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, false},
		"access rules":      {&pgconn.PgError{Code: pgerrcode.InvalidAuthorizationSpecification}, false},
		"its certificate":   {&net.OpError{Op: "remote error", Err: errors.New("tls: unknown certificate authority")}, false},
		"disk":              {syscall.ENOSPC, false},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, fsm.WaitStandby, func(w *world) {
				w.creating = true
				w.server.broken[fsm.StepBaseBackup] = c.err
			}, func(t *testing.T, w *world) {
				w.pass(time.Second)
				w.monitor.assign(fsm.CatchingUp)
				w.pass(30 * time.Second)
				require.Equal(t, !c.patient, len(w.ended) > 0)
				if c.patient {
					w.pass(40 * time.Second)
				}
				err := <-w.ended
				w.ended <- err
				require.ErrorAs(t, err, new(*CreateError))
				require.ErrorIs(t, err, c.err)
			})
		})
	}
	t.Run("its successor is there", func(t *testing.T) {
		inWorld(t, fsm.WaitStandby, func(w *world) {
			w.creating = true
			w.server.broken[fsm.StepBaseBackup] = refused
		}, func(t *testing.T, w *world) {
			w.pass(time.Second)
			w.monitor.assign(fsm.CatchingUp)
			w.pass(40 * time.Second)
			w.server.edit(func() { delete(w.server.broken, fsm.StepBaseBackup) })
			w.pass(2 * time.Second)
			w.reached(fsm.CatchingUp)
			require.Empty(t, w.ended)
		})
	})
}

package monitor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

const grace = 15 * time.Second

func TestSilentHostIsReplacedWhenItsSilenceCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newFakeDB()
		db.add(testKey, 1, fsm.Primary)
		db.add(testKey, 2, fsm.Secondary)
		w := newWorld(t, db)
		defer w.end()
		go db.report(t.Context(), 2)
		for range 20 {
			time.Sleep(time.Second)
			db.change(testKey, false, func() { db.nodes[1].reported = time.Now() })
		}
		time.Sleep(300 * time.Millisecond)
		require.Empty(t, db.decisions())

		// The last report was 0.3 s ago; from here on nothing answers.
		heard := time.Now().Add(-300 * time.Millisecond)
		w.servers.set(5001, outcomeSilent)
		time.Sleep(4 * time.Second)
		require.Len(t, db.decisions(), 1)
		took := db.decisions()[0].at.Sub(heard)
		require.Greater(t, took, 3*time.Second)
		require.Less(t, took, 3*time.Second+2*pulseInterval)
		w.servers.mu.Lock()
		defer w.servers.mu.Unlock()
		require.False(t, w.servers.overlap)
	})
}

func TestLostSessionAndTwoRefusalsDecideAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newFakeDB()
		db.add(testKey, 1, fsm.Primary)
		db.add(testKey, 2, fsm.Secondary)
		w := newWorld(t, db)
		defer w.end()
		go db.report(t.Context(), 1, 2)
		time.Sleep(grace)

		killed := time.Now()
		w.servers.set(5001, outcomeRefused)
		db.change(testKey, false, func() { db.nodes[1].session = false })
		time.Sleep(time.Second)
		require.Len(t, db.decisions(), 1)
		require.LessOrEqual(t, db.decisions()[0].at.Sub(killed), 2*pulseInterval+200*time.Millisecond)
	})
}

func TestLostSessionAloneIsNoFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newFakeDB()
		db.add(testKey, 1, fsm.Primary)
		w := newWorld(t, db)
		defer w.end()
		time.Sleep(grace)
		db.change(testKey, false, func() { db.nodes[1].session = false })
		time.Sleep(time.Minute)
		require.Empty(t, db.decisions(), "the server answers, so its keeper may be gone as long as it likes")
	})
}

func TestRefusedProbeOfReportingNodeIsNoFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newFakeDB()
		db.add(testKey, 1, fsm.Primary)
		w := newWorld(t, db)
		defer w.end()
		go db.report(t.Context(), 1)
		time.Sleep(grace)
		w.servers.set(5001, outcomeRefused)
		time.Sleep(time.Minute)
		require.Empty(t, db.decisions())
		db.mu.Lock()
		defer db.mu.Unlock()
		require.Equal(t, fsm.HealthBad, db.nodes[1].Health)
	})
}

func TestNothingIsDecidedFromOurOwnSleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newFakeDB()
		db.add(testKey, 1, fsm.Primary)
		w := newWorld(t, db)
		defer w.end()
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			for range 40 {
				time.Sleep(time.Second)
				db.change(testKey, false, func() { db.nodes[1].reported = time.Now() })
			}
		}()
		time.Sleep(grace)
		// The database does not answer us for 8 s; the host is gone since the beginning of that.
		w.servers.set(5001, outcomeSilent)
		db.change(testKey, false, func() { db.hang = 8 * time.Second })
		time.Sleep(9 * time.Second)
		require.Empty(t, db.decisions())
		<-stopped
		require.Empty(t, db.decisions(), "it reports again, though its server does not answer")
		time.Sleep(5 * time.Second)
		require.Len(t, db.decisions(), 1, "now it really is silent")
	})
}

func TestDeciderThatLostItsConnectionDecidesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newFakeDB()
		db.add(testKey, 1, fsm.Primary)
		w := newWorld(t, db)
		defer w.end()
		reporting, silent := context.WithTimeout(t.Context(), grace)
		defer silent()
		db.report(reporting, 1)
		// The server is gone, and with it the keeper and our connections; another process is faster.
		db.cut()
		db.mu.Lock()
		db.number++
		other := db.open(db.number)
		db.holder = other
		db.mu.Unlock()
		w.servers.set(5001, outcomeRefused)
		db.change(testKey, true, func() { db.nodes[1].session = false })
		time.Sleep(time.Minute)
		require.Empty(t, db.decisions())

		// The other one goes: this one decides, when it has watched the silence itself.
		other.Close(t.Context())
		back := time.Now()
		time.Sleep(10 * time.Second)
		require.Len(t, db.decisions(), 1)
		require.EqualValues(t, 3, db.decisions()[0].number)
		require.Greater(t, db.decisions()[0].at.Sub(back), 3*time.Second)
	})
}

func TestStaleNumberEndsTheSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newFakeDB()
		db.add(testKey, 1, fsm.Primary)
		w := newWorld(t, db)
		defer w.end()
		time.Sleep(grace)
		db.change(testKey, true, func() { db.number++ })
		time.Sleep(time.Second)
		db.mu.Lock()
		defer db.mu.Unlock()
		require.EqualValues(t, 3, db.number, "it takes a new number")
	})
}

func TestDeadlineWakesExactly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newFakeDB()
		db.add(testKey, 1, fsm.Primary)
		w := newWorld(t, db)
		defer w.end()
		go db.report(t.Context(), 1)
		time.Sleep(grace)
		asked := time.Now()
		db.change(testKey, true, func() { db.intents[7] = fsm.Intent{ID: 7} })
		time.Sleep(2 * time.Minute)
		require.Len(t, db.decisions(), 1)
		late := db.decisions()[0].at.Sub(asked) - db.settings.Decision.IntentTimeout
		require.InDelta(t, 0, late.Seconds(), 0.01)
	})
}

func TestStartupGraceEndsByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newFakeDB()
		db.add(testKey, 1, fsm.Primary)
		db.nodes[1].session = false
		start := time.Now()
		w := newWorld(t, db)
		defer w.end()
		w.servers.set(5001, outcomeRefused)
		time.Sleep(grace)
		require.Len(t, db.decisions(), 1)
		require.InDelta(t, db.settings.Decision.StartupGrace.Seconds(), db.decisions()[0].at.Sub(start).Seconds(), 0.01)
	})
}

func TestGroupInTroubleDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newFakeDB()
		stuck, broken := groupKey{Formation: "stuck"}, groupKey{Formation: "broken"}
		db.add(stuck, 1, fsm.Primary)
		db.add(broken, 2, fsm.Primary)
		db.add(testKey, 3, fsm.Primary)
		db.refuse[stuck] = &pgconn.PgError{Code: pgerrcode.LockNotAvailable}
		db.refuse[broken] = errors.New("nobody knows what this is")
		w := newWorld(t, db)
		defer w.end()
		time.Sleep(grace)
		for id := int64(1); id <= 3; id++ {
			w.servers.set(int(5000+id), outcomeRefused)
			db.change(testKey, false, func() { db.nodes[id].session = false })
		}
		time.Sleep(time.Minute)
		require.Len(t, db.decisions(), 1)
		require.Equal(t, testKey, db.decisions()[0].key)
		db.change(stuck, false, func() { clear(db.refuse) })
		time.Sleep(5 * time.Second)
		require.Len(t, db.decisions(), 3)
	})
}

func TestGroupAtRestIsLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := newFakeDB()
		db.add(testKey, 1, fsm.Primary)
		db.add(testKey, 2, fsm.Secondary)
		w := newWorld(t, db)
		defer w.end()
		go db.report(t.Context(), 1, 2)
		time.Sleep(time.Minute)
		db.mu.Lock()
		before := db.looks
		db.mu.Unlock()
		time.Sleep(time.Hour)
		db.mu.Lock()
		defer db.mu.Unlock()
		require.Equal(t, before, db.looks)
	})
}

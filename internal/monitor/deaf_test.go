package monitor

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// deafDB is a group of three with a list of two voters, and a monitor that is as
// patient as one on a small machine.
func deafDB(probe time.Duration) *fakeDB {
	db := newFakeDB()
	db.settings.Decision.UnhealthyTimeout = 8 * time.Second
	db.settings.HealthCheckTimeout = probe
	for id, state := range map[int64]fsm.State{1: fsm.Primary, 2: fsm.Secondary, 3: fsm.Secondary} {
		db.add(testKey, id, state)
		n := &db.nodes[id].Node
		n.Quorum, n.Priority, n.TLI, n.LSN, n.Streaming = true, 50, 1, pg.LSN(0x5000000), fsm.StreamingYes
	}
	db.records[testKey] = fsm.Record{
		Epoch: 1, Primary: 1, Timeline: 1, Lists: []fsm.List{{Number: 1, Primary: 1, K: 1, Voters: []int64{2, 3}}},
	}
	return db
}

// orders are the decisions that give goals.
func (f *fakeDB) orders() []storedDecision {
	return slices.DeleteFunc(f.decisions(), func(s storedDecision) bool { return len(s.d.Assign) == 0 })
}

// deafWorld plays what a monitor sees that was cut off from everybody, healed
// for a moment and cut off again.
type deafWorld struct {
	*world
	t *testing.T
}

// cut: packets are dropped; sessions stay until TCP gives them up.
func (w deafWorld) cut(ids ...int64) {
	for _, id := range ids {
		w.servers.set(int(5000+id), outcomeSilent)
	}
}

func (w deafWorld) heal(ids ...int64) {
	for _, id := range ids {
		w.servers.set(int(5000+id), outcomeAlive)
	}
}

// report has nodes report each second, and nobody else, for a time.
func (w deafWorld) report(d time.Duration, ids ...int64) {
	for passed := time.Duration(0); passed < d; passed += 100 * time.Millisecond {
		if passed%time.Second == 0 {
			w.db.change(testKey, false, func() {
				for _, id := range ids {
					w.db.nodes[id].reported = time.Now()
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (w deafWorld) session(held bool, ids ...int64) {
	w.db.change(testKey, false, func() {
		for _, id := range ids {
			w.db.nodes[id].session = held
		}
	})
}

// TestMonitorThatHearsNobodyDecidesNothing: the sessions of a monitor that is
// cut off break one by one, and what its probes ran into says nothing.
func TestMonitorThatHearsNobodyDecidesNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		probe time.Duration
		play  func(deafWorld)
	}{
		{"the primary's session ends first", 5 * time.Second, func(w deafWorld) {
			w.cut(1, 2, 3)
			w.report(10 * time.Second)
			w.session(false, 1)
			w.report(9 * time.Second)
			w.session(false, 2, 3)
			w.report(21 * time.Second)
		}},
		{"two cuts, and the primary's session ends in the second by the first", 5 * time.Second, func(w deafWorld) {
			w.cut(1, 2, 3)
			w.report(7 * time.Second)
			w.heal(1, 2, 3)
			w.report(time.Second, 2, 3)
			w.cut(1, 2, 3)
			w.report(500 * time.Millisecond)
			w.session(false, 1)
			w.report(9 * time.Second)
			w.session(false, 2, 3)
			w.report(30 * time.Second)
		}},
		{"the primary connects again when the cut heals, and a probe is on its way", time.Second, func(w deafWorld) {
			w.cut(1, 2, 3)
			w.report(7 * time.Second)
			w.heal(2, 3)
			w.report(700*time.Millisecond, 2, 3)
			w.session(false, 1)
			w.report(time.Second, 2, 3)
			w.heal(1)
			w.session(true, 1)
			w.report(5*time.Second, 1, 2, 3)
		}},
		{"two cuts soon after each other, and everybody was heard in between", time.Second, func(w deafWorld) {
			w.cut(1, 2, 3)
			w.report(2500 * time.Millisecond)
			w.heal(1, 2, 3)
			w.report(1500*time.Millisecond, 1, 2, 3)
			w.cut(1, 2, 3)
			w.report(7500 * time.Millisecond)
			w.heal(2, 3)
			w.report(2*time.Second, 2, 3)
		}},
		{"an interface that answers for everybody: refused", time.Second, func(w deafWorld) {
			for id := range int64(3) {
				w.servers.set(int(5001+id), outcomeRefused)
			}
			w.session(false, 1, 2, 3)
			w.report(40 * time.Second)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := deafDB(c.probe)
				w := deafWorld{newRealWorld(t, db), t}
				defer w.end()
				w.report(2*grace, 1, 2, 3)
				require.Empty(t, db.orders())
				c.play(w)
				w.heal(1, 2, 3)
				w.report(time.Second, 3) // one by one they come back
				w.session(true, 3)
				w.report(2*time.Second, 2, 3)
				w.session(true, 2)
				w.report(2*time.Second, 1, 2, 3)
				w.session(true, 1)
				w.report(10*time.Second, 1, 2, 3)
				require.Empty(t, db.orders())

				// Not because it has gone deaf for good.
				w.servers.set(5001, outcomeRefused)
				w.session(false, 1)
				w.report(2*time.Second, 2, 3)
				require.NotEmpty(t, db.orders())
				require.Equal(t, "primary-failed", db.orders()[0].d.Rule.Name)
			})
		})
	}
}

// TestPrimaryThatDiesWhileItsStandbysStutter: the verdict waits for the next
// word of anybody, and comes with it.
func TestPrimaryThatDiesWhileItsStandbysStutter(t *testing.T) {
	t.Parallel()
	for name, heard := range map[string][]int64{"nobody is heard": nil, "the primary was heard last": {1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := deafDB(5 * time.Second)
				w := deafWorld{newRealWorld(t, db), t}
				defer w.end()
				w.report(2*grace, 1, 2, 3)
				// A silence that is excused, so that the next one is not.
				w.report(3 * time.Second)
				w.report(time.Second, 1, 2, 3)
				w.report(2700*time.Millisecond, heard...)
				w.servers.set(5001, outcomeRefused)
				w.session(false, 1)
				w.report(time.Second)
				require.Empty(t, db.orders())
				w.report(time.Second, 2)
				require.NotEmpty(t, db.orders())
			})
		})
	}
}

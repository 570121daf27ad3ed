package monitor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

func pulse(id int64, reported time.Time, held bool) pgautofailover.Pulse {
	return pgautofailover.Pulse{GroupKey: testKey, NodeID: id, Reported: reported, HasSession: held, EverHad: true}
}

func filled(o *observer, now time.Time, nodes ...fsm.Node) fsm.Group {
	g := fsm.Group{Nodes: nodes}
	o.fill(&g, testKey, nil, now)
	return g
}

func TestClocksStartAgainAfterALateTick(t *testing.T) {
	t.Parallel()
	t0 := time.Now()
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	o := newObserver(t0)
	require.False(t, o.steady(t0), "nothing is decided before the first look")
	require.True(t, o.tick(at(0)))
	stamp := at(-99999) // the database's clock is its own
	o.pulses([]pgautofailover.Pulse{pulse(1, stamp, true)}, at(0))
	o.verdict(1, fsm.HealthBad, at(50))
	require.False(t, o.tick(at(100)))
	g := o.pulses([]pgautofailover.Pulse{pulse(1, stamp, false)}, at(100))
	require.Equal(t, []int64{1}, g.lost)
	n := filled(o, at(150), fsm.Node{ID: 1}).Nodes[0]
	require.Equal(t, fsm.SessionLost, n.Session)
	require.Zero(t, n.Seen, "its report is older than this process")
	require.Equal(t, at(50), n.HealthAt)
	require.True(t, o.steady(at(1299)))
	require.False(t, o.steady(at(1300)))

	require.True(t, o.tick(at(1300)))
	n = filled(o, at(1300), fsm.Node{ID: 1}).Nodes[0]
	require.Equal(t, fsm.SessionHeld, n.Session, "whoever was away may have missed its return")
	require.Zero(t, n.HealthAt)
	require.Equal(t, at(150), n.GoalAt, "a wait that began is not longer for our being late")
}

// TestSilenceOfAllIsOurOwn: a monitor that was cut off from everybody must not
// take the node that comes back second for dead.
func TestSilenceOfAllIsOurOwn(t *testing.T) {
	t.Parallel()
	t0 := time.Now()
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	o := newObserver(t0)
	var forgiven []int64
	o.onExcuse(func(ids ...int64) { forgiven = append(forgiven, ids...) })
	var changed []groupKey
	look := func(ms, first, second int, held bool) {
		o.tick(at(ms))
		changed = o.pulses([]pgautofailover.Pulse{pulse(1, at(first), true), pulse(2, at(second), held)}, at(ms)).changed
	}
	seen := func(ms int) fsm.Node { return filled(o, at(ms), fsm.Node{ID: 1}, fsm.Node{ID: 2}).Nodes[1] }
	look(0, -10, -10, true)
	look(1000, 900, 900, true)
	for ms := 2000; ms < 8000; ms += 1000 {
		look(ms, 900, 900, ms < 4000) // nobody is heard, and a session breaks
	}
	o.verdict(2, fsm.HealthBad, at(7000))
	require.Equal(t, at(1000), seen(7900).Seen)
	require.Equal(t, fsm.SessionLost, seen(7900).Session)
	require.Empty(t, forgiven)
	look(8000, 7990, 900, false)
	require.ElementsMatch(t, []int64{1, 2}, forgiven, "failed probes were failures of our own network")
	require.Contains(t, changed, testKey)
	n := seen(8000)
	require.Equal(t, at(8000), n.Seen, "the other one gets its time")
	require.Equal(t, fsm.SessionHeld, n.Session)
	require.True(t, n.HealthAt.IsZero())

	// One that stays away while others are heard is silent for itself.
	for ms := 9000; ms < 13000; ms += 1000 {
		look(ms, ms-10, 900, false)
	}
	require.Equal(t, at(8000), seen(12500).Seen)
	// And a lone speaker who stutters does not excuse it again and again.
	for ms := 13000; ms < 16000; ms += 1000 {
		look(ms, 11990, 900, false)
	}
	require.Empty(t, changed)
	look(16000, 15990, 900, false)
	require.Equal(t, at(8000), seen(16000).Seen)
	require.Len(t, forgiven, 2)
	require.Equal(t, []groupKey{testKey}, changed, "nothing is excused, and yet somebody is heard who may take over")
}

func TestSuspendedMachineIsLate(t *testing.T) {
	t.Parallel()
	o := newObserver(time.Now())
	o.tick(time.Now())
	// A wall clock that ran ahead of the monotonic one: Round(0) drops the latter.
	require.True(t, o.late(o.lastTick.Round(0).Add(time.Hour)))
}

func TestReportIsSeenByItsStamp(t *testing.T) {
	t.Parallel()
	t0 := time.Now()
	o := newObserver(t0)
	o.tick(t0)
	o.pulses([]pgautofailover.Pulse{pulse(1, t0, false)}, t0)
	o.pulses([]pgautofailover.Pulse{pulse(1, t0, false)}, t0.Add(time.Second))
	heard, _, known := o.silence(1)
	require.True(t, known)
	require.Equal(t, t0, heard, "silence counts from the start of this process")
	// The database's clock may be set back: any other stamp is a report.
	o.pulses([]pgautofailover.Pulse{pulse(1, t0.Add(-time.Hour), false)}, t0.Add(2*time.Second))
	heard, _, _ = o.silence(1)
	require.Equal(t, t0.Add(2*time.Second), heard)
	o.restartClocks(t0.Add(5 * time.Second))
	heard, _, _ = o.silence(1)
	require.Equal(t, t0.Add(5*time.Second), heard)

	o.pulses([]pgautofailover.Pulse{pulse(1, t0, false), pulse(2, t0, false)}, t0.Add(6*time.Second))
	heard, _, _ = o.silence(2)
	require.Equal(t, t0.Add(6*time.Second), heard, "it has just registered")
}

func TestClientThatStoppedHoldingSessionsIsPatientlyTreated(t *testing.T) {
	t.Parallel()
	t0 := time.Now()
	o := newObserver(t0)
	o.tick(t0)
	o.pulses([]pgautofailover.Pulse{pulse(1, t0, true)}, t0)
	for i := range 12 {
		now := t0.Add(time.Duration(i+1) * time.Second)
		o.tick(now)
		o.pulses([]pgautofailover.Pulse{pulse(1, now, false)}, now)
	}
	require.Equal(t, fsm.SessionNone, filled(o, t0.Add(13*time.Second), fsm.Node{ID: 1}).Nodes[0].Session)
}

func TestSweepNamesGroupsThatDiffer(t *testing.T) {
	t.Parallel()
	t0 := time.Now()
	o := newObserver(t0)
	other := groupKey{Formation: "other", Group: 1}
	rows := []pgautofailover.NodeRow{
		{Formation: "default", ID: 1, Goal: fsm.Primary, GoalNumber: 3, Reported: fsm.Primary},
		{Formation: "other", Group: 1, ID: 2, Goal: fsm.Single, GoalNumber: 1, Reported: fsm.Single},
	}
	require.ElementsMatch(t, []groupKey{testKey, other}, o.sweep(rows, t0))
	filled(o, t0, fsm.Node{ID: 1, Goal: fsm.Primary, GoalNumber: 3, Reported: fsm.Primary})
	g := fsm.Group{Nodes: []fsm.Node{{ID: 2, Goal: fsm.Single, GoalNumber: 1, Reported: fsm.Single}}}
	o.fill(&g, other, nil, t0)
	require.Empty(t, o.sweep(rows, t0))
	rows[0].GoalNumber++
	require.Equal(t, []groupKey{testKey}, o.sweep(rows, t0))
	require.ElementsMatch(t, []groupKey{testKey, other}, o.sweep(rows[:1], t0), "a row that is gone is a difference too")
}

// TestSessionThatCameAndWentBetweenLooks: who dies in the first second of its
// life is lost like any other, though no look ever saw its session.
func TestSessionThatCameAndWentBetweenLooks(t *testing.T) {
	t.Parallel()
	t0 := time.Now()
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	pulse := func(id int64, reported int, held, ever bool) pgautofailover.Pulse {
		return pgautofailover.Pulse{GroupKey: testKey, NodeID: id, Reported: at(reported), HasSession: held, EverHad: ever}
	}
	session := func(o *observer, id int64, ms int) fsm.Session {
		return filled(o, at(ms), fsm.Node{ID: id}).Nodes[0].Session
	}
	o := newObserver(t0)
	// Of before this process's time: it may come back any moment.
	require.Empty(t, o.pulses([]pgautofailover.Pulse{pulse(1, 0, false, true)}, at(0)).lost)
	require.Equal(t, fsm.SessionHeld, session(o, 1, 0))

	g := o.pulses([]pgautofailover.Pulse{pulse(1, 0, false, true), pulse(2, 400, false, false)}, at(400))
	require.Empty(t, g.lost)
	require.Equal(t, fsm.SessionNone, session(o, 2, 400), "it has registered and no more")

	g = o.pulses([]pgautofailover.Pulse{pulse(1, 0, false, true), pulse(2, 1500, false, true), pulse(3, 2000, false, true)}, at(2400))
	require.ElementsMatch(t, []int64{2, 3}, g.lost)
	require.Contains(t, g.changed, testKey)
	require.Equal(t, fsm.SessionLost, session(o, 2, 2400))
	require.Equal(t, fsm.SessionLost, session(o, 3, 2400), "nor was the node itself known")

	// A client that goes on without a session is one that holds none, and stays so.
	for ms := 2800; ms < 30000; ms += 400 {
		g = o.pulses([]pgautofailover.Pulse{pulse(1, 0, false, true), pulse(2, ms, false, true), pulse(3, ms, false, true)}, at(ms))
		require.Empty(t, g.lost)
	}
	require.Equal(t, fsm.SessionNone, session(o, 2, 30000))
	require.False(t, g.missing)
}

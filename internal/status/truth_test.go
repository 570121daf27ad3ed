package status

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// drawGroup makes a primary with standbys in all conditions, as the rules leave it.
func drawGroup(t *rapid.T, now time.Time) (fsm.Group, string) {
	count := rapid.IntRange(2, 5).Draw(t, "nodes")
	g := fsm.Group{
		Formation:    fsm.Formation{ID: "default", Kind: "pgsql", OptSecondary: true, NumberSyncStandbys: rapid.IntRange(0, 2).Draw(t, "number_sync_standbys")},
		Settings:     fsm.DefaultSettings(),
		MonitorStart: now.Add(-time.Hour),
		Record:       fsm.Record{Primary: 1, Timeline: 1},
	}
	for id := range int64(count) {
		n := fsm.Node{
			ID: id + 1, Name: "n", Host: "h", Port: 5432, Goal: fsm.Secondary, Reported: fsm.Secondary, GoalNumber: 1, Reached: 1,
			Priority: 50, Quorum: rapid.Float64().Draw(t, "quorum") < 0.8, PgIsRunning: true, TLI: 1, LSN: 100 << 20,
			Streaming: fsm.StreamingYes, Health: fsm.HealthGood, HealthAt: now, Session: fsm.SessionHeld, Seen: now,
		}
		if id == 0 {
			n.Goal, n.Reported, n.Streaming, n.Quorum = fsm.Primary, fsm.Primary, fsm.StreamingUnknown, true
			g.Nodes = append(g.Nodes, n)
			continue
		}
		switch rapid.IntRange(0, 9).Draw(t, "condition") {
		case 0:
			n.Priority = 0
		case 1:
			n.Cluster = "reports"
		case 2:
			n.Session, n.Health, n.Seen = fsm.SessionLost, fsm.HealthBad, now.Add(-time.Minute)
		case 3:
			n.PgIsRunning = false
		case 4:
			n.Goal, n.Reported = fsm.Maintenance, fsm.Maintenance
		case 5:
			n.LSN -= 50 << 20
		case 6:
			n.Goal, n.Reported, n.Streaming = fsm.CatchingUp, fsm.CatchingUp, fsm.StreamingNo
		}
		g.Nodes = append(g.Nodes, n)
	}
	waiting := ""
	for range 30 {
		var err error
		g, _, waiting, err = fsm.Settle(g, now)
		require.NoError(t, err)
		if !answer(&g) {
			break
		}
	}
	return g, waiting
}

// answer has every node that is there reach its goal, and reports whether one did.
func answer(g *fsm.Group) bool {
	moved := false
	for i := range g.Nodes {
		n := &g.Nodes[i]
		if n.Session == fsm.SessionHeld && n.PgIsRunning && !n.Settled() {
			n.Reported, n.Reached = n.Goal, n.GoalNumber
			moved = true
		}
	}
	return moved
}

// look makes the snapshot of a group.
func look(g fsm.Group, waiting string, now time.Time) Snapshot {
	o := pgautofailover.Overview{
		Now: now, Alive: true, Formation: pgautofailover.Formation{ID: "default", Kind: "pgsql"},
		Sessions: map[int64]pgautofailover.Pulse{},
	}
	loaded := pgautofailover.LoadedGroup{Group: g, Waiting: waiting, Stamps: map[int64]pgautofailover.Stamps{}}
	for _, n := range g.Nodes {
		loaded.Stamps[n.ID] = pgautofailover.Stamps{Report: n.Seen, HealthCheck: n.HealthAt, StateChange: now.Add(-time.Minute)}
		o.Sessions[n.ID] = pgautofailover.Pulse{HasSession: n.Session == fsm.SessionHeld, EverHad: true}
	}
	o.Groups = append(o.Groups, loaded)
	return from(o)
}

// What is said of a group is what happens: where nothing blocks, the loss of
// the primary opens an election, and where no node could take over it does not.
func TestBlockersTellTheTruth(t *testing.T) {
	t.Parallel()
	now := noonOf(2026)
	rapid.Check(t, func(t *rapid.T) {
		g, waiting := drawGroup(t, now)
		s := look(g, waiting, now)
		var causes []Cause
		for _, b := range s.Blockers(Caller{Program: "pgdrover"}) {
			if b.Node == 0 || b.Node == 1 {
				causes = append(causes, b.Cause)
			}
		}
		p := &g.Nodes[0]
		p.Session, p.Health, p.Seen = fsm.SessionLost, fsm.HealthBad, now.Add(-time.Minute)
		after, _, _, err := fsm.Settle(g, now)
		require.NoError(t, err)
		fails := after.Record.Election != nil
		if len(causes) == 0 {
			require.True(t, fails, "nothing blocks, and yet the lost primary is not replaced")
		}
		if slices.Contains(causes, CauseNoCandidate) {
			_, opens := opened(after.Nodes, p.ID)
			require.False(t, opens, "no node could take over, and yet one does")
		}
		if next := s.Groups[0].Successor; next != 0 {
			require.True(t, fails, "node %d is said to take over, and yet nothing happens", next)
		}
	})
}

func noonOf(year int) time.Time { return time.Date(year, 6, 1, 12, 0, 0, 0, time.UTC) }

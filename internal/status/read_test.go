package status

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

func TestFromOverview(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 14, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) pgautofailover.Stamps {
		return pgautofailover.Stamps{Report: now.Add(-d), HealthCheck: now.Add(-2 * d), StateChange: now.Add(-3 * d)}
	}
	node := func(id int64, s fsm.State) fsm.Node {
		return fsm.Node{
			ID: id, Name: "n", Goal: s, Reported: s, PgIsRunning: true, TLI: 2, LSN: 0x1000, Health: fsm.HealthGood,
		}
	}
	n1, n2, n3, n4 := node(1, fsm.Primary), node(2, fsm.Secondary), node(3, fsm.Secondary), node(4, fsm.CatchingUp)
	n1.LSN, n4.TLI = 0x3000, 1
	rule := 403
	o := pgautofailover.Overview{
		Now: now, Alive: true, Formation: pgautofailover.Formation{ID: "f", Kind: "pgsql", NumberSyncStandbys: 1},
		Rows: map[int64]pgautofailover.NodeRow{2: {Region: "west"}},
		Sessions: map[int64]pgautofailover.Pulse{
			1: {HasSession: true, EverHad: true}, 2: {HasSession: true, EverHad: true}, 3: {EverHad: true},
		},
		Groups: []pgautofailover.LoadedGroup{{
			Group: fsm.Group{
				Nodes: []fsm.Node{n1, n2, n3, n4}, Settings: fsm.DefaultSettings(),
				Record:  fsm.Record{Primary: 1, Timeline: 2, Lists: []fsm.List{{Number: 3, Primary: 1, K: 1, Voters: []int64{2}}}},
				Intents: []fsm.Intent{{ID: 9, Kind: fsm.IntentFailover}},
			},
			Stamps: map[int64]pgautofailover.Stamps{
				1: ago(time.Second), 2: ago(10 * time.Second), 3: ago(time.Second), 4: ago(10 * time.Second),
			},
			Requested: map[int64]time.Time{9: now.Add(-4 * time.Second)}, Waiting: "w",
		}},
		Events: []pgautofailover.Event{
			{ID: 1, RulePos: &rule, Description: "Setting\ngoal  state"}, {ID: 2, Description: "New state is reported"}, {ID: 3, Group: 1, RulePos: &rule},
		},
	}
	s := from(o)
	require.Equal(t, "f", s.Formation)
	g := s.Groups[0]
	require.EqualValues(t, 1, g.Primary)
	require.Equal(t, "ANY 1 (pgautofailover_standby_2)", g.StandbyNames)
	require.Equal(t, []int64{2}, g.Voters)
	require.False(t, g.Lone)
	require.Equal(t, []Request{{Kind: fsm.IntentFailover, Age: 4 * time.Second}}, g.Requests)
	require.NotNil(t, g.LastChange)
	require.EqualValues(t, 1, g.LastChange.ID, "a report is no decision, and another group's event is not this group's")
	require.Equal(t, "standby-lost", g.LastChange.Rule.Name)
	require.Equal(t, "Setting goal state", s.Events[0].Description)

	var keepers []Keeper
	for _, n := range g.Nodes {
		keepers = append(keepers, n.Keeper)
	}
	require.Equal(t, []Keeper{KeeperConnected, KeeperSilent, KeeperLost, KeeperCalls}, keepers)
	require.Equal(t, "west", g.Nodes[1].Region)
	require.Equal(t, 20*time.Second, g.Nodes[1].Check)
	require.False(t, g.Nodes[0].LagKnown)
	require.True(t, g.Nodes[0].Measure, "the primary is the measure")
	require.True(t, g.Nodes[1].LagKnown)
	require.EqualValues(t, 0x2000, g.Nodes[1].Lag)
	require.False(t, g.Nodes[3].LagKnown, "positions on different timelines do not compare")

	// Without a primary the most advanced node is the measure.
	o.Groups[0].Nodes[0].Goal = fsm.Draining
	o.Groups[0].Record.Primary = 17
	g = from(o).Groups[0]
	require.Zero(t, g.Primary)
	require.True(t, g.Nodes[0].Measure)
	require.True(t, g.Nodes[1].LagKnown)
}

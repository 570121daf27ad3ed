package status

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

func TestSuccessor(t *testing.T) {
	t.Parallel()
	now := noonOf(2026)
	for name, test := range map[string]struct {
		change func(g *fsm.Group)
		want   int64
	}{
		"the first of equals":              {func(*fsm.Group) {}, 2},
		"the one with the higher priority": {func(g *fsm.Group) { g.Nodes[2].Priority = 90 }, 3},
		"the one with more WAL":            {func(g *fsm.Group) { g.Nodes[1].LSN -= 1 << 20 }, 3},
		"not one with priority 0":          {func(g *fsm.Group) { g.Nodes[1].Priority = 0 }, 3},
		"a straggler, which fetches from a node with priority 0": {func(g *fsm.Group) {
			g.Nodes[1].Priority = 0
			g.Nodes[2].Goal, g.Nodes[2].Reported, g.Nodes[2].LSN = fsm.CatchingUp, fsm.CatchingUp, 1<<20
			g.Record.Lists[0].Voters = []int64{2}
		}, 3},
		"nobody with a priority": {func(g *fsm.Group) { g.Nodes[1].Priority, g.Nodes[2].Priority = 0, 0 }, 0},
		"nobody, while votes lack": {func(g *fsm.Group) {
			g.Nodes[1].Session, g.Nodes[2].Goal, g.Nodes[2].Reported = fsm.SessionLost, fsm.Maintenance, fsm.Maintenance
		}, 0},
		"nobody after a primary that is alone": {func(g *fsm.Group) { g.Record.Lists = []fsm.List{{Number: 1, Primary: 1}} }, 0},
		"an asynchronous standby, in time": {func(g *fsm.Group) {
			g.Nodes[1].Quorum, g.Nodes[2].Quorum = false, false
			g.Record.Lists = []fsm.List{{Number: 1, Primary: 1}}
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := fsm.Group{
				Formation: fsm.Formation{ID: "default", Kind: "pgsql", OptSecondary: true, NumberSyncStandbys: 1}, Settings: fsm.DefaultSettings(),
				Record: fsm.Record{Primary: 1, Timeline: 1, Lists: []fsm.List{{Number: 1, Primary: 1, K: 1, Voters: []int64{2, 3}}}},
			}
			here := map[int64]bool{}
			for id := int64(1); id <= 3; id++ {
				n := fsm.Node{
					ID: id, Goal: fsm.Secondary, Reported: fsm.Secondary, Priority: 50, Quorum: true, PgIsRunning: true,
					TLI: 1, LSN: 100 << 20, Streaming: fsm.StreamingYes, Health: fsm.HealthGood,
				}
				if id == 1 {
					n.Goal, n.Reported, n.Streaming = fsm.Primary, fsm.Primary, fsm.StreamingUnknown
				}
				g.Nodes = append(g.Nodes, n)
			}
			test.change(&g)
			for _, n := range g.Nodes {
				here[n.ID] = n.Session != fsm.SessionLost
			}
			before := g.Nodes[0]
			require.Equal(t, test.want, successor(g, here, 1, now))
			require.Equal(t, before, g.Nodes[0], "the group itself stays as it is")
			require.Nil(t, g.Record.Election)
		})
	}
}

// A look into the future is cheap: the dashboard takes one for each picture.
func BenchmarkSuccessor(b *testing.B) {
	g := fsm.Group{Settings: fsm.DefaultSettings(), Record: fsm.Record{Primary: 1, Lists: []fsm.List{{Number: 1, Primary: 1, K: 1, Voters: []int64{2, 3}}}}}
	here := map[int64]bool{}
	for id := int64(1); id <= 5; id++ {
		s := fsm.Secondary
		if id == 1 {
			s = fsm.Primary
		}
		g.Nodes = append(g.Nodes, fsm.Node{ID: id, Goal: s, Reported: s, Priority: 50, Quorum: true, PgIsRunning: true, Health: fsm.HealthGood, TLI: 1, LSN: 1 << 20})
		here[id] = true
	}
	for b.Loop() {
		successor(g, here, 1, time.Unix(1e9, 0))
	}
}

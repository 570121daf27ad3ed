package status

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// trio is a formation at rest: a primary and two standbys of the quorum.
func trio() Snapshot {
	node := func(id int64, s fsm.State) Node {
		return Node{
			ID: id, Name: "n" + string(rune('0'+id)), Host: "h" + string(rune('0'+id)), Port: 5432, Cluster: "default",
			Priority: 50, Quorum: true, Reported: s, Goal: s, Settled: true, Running: true, Health: fsm.HealthGood,
			Keeper: KeeperConnected, TLI: 1, LSN: 0x3000000, LagKnown: s == fsm.Secondary,
			Report: 300 * time.Millisecond, Change: time.Hour,
		}
	}
	n2, n3 := node(2, fsm.Secondary), node(3, fsm.Secondary)
	n2.Streaming, n3.Streaming = fsm.StreamingYes, fsm.StreamingYes
	return Snapshot{
		Formation: "default", Kind: "pgsql", NumberSyncStandbys: 1, Deciding: true, Settings: fsm.DefaultSettings(),
		Groups: []Group{{
			Primary: 1, StandbyNames: "ANY 1 (pgautofailover_standby_2, pgautofailover_standby_3)", K: 1, Voters: []int64{2, 3},
			Timeline: 1, Successor: 2, Nodes: []Node{node(1, fsm.Primary), n2, n3},
		}},
	}
}

// as puts a node in a state.
func (n *Node) as(reported, goal fsm.State) {
	n.Reported, n.Goal, n.Settled = reported, goal, reported == goal
	n.LagKnown = n.LagKnown && goal.In(fsm.Secondary, fsm.CatchingUp)
}

func TestBlockers(t *testing.T) {
	t.Parallel()
	type change func(s *Snapshot, g *Group, n []Node)
	for name, test := range map[string]struct {
		change change
		want   []Cause
		says   string // in the text of the first
		does   string // in its command
	}{
		"at rest": {func(*Snapshot, *Group, []Node) {}, nil, "", ""},
		"monitor process down": {
			func(s *Snapshot, _ *Group, _ []Node) { s.Deciding = false },
			[]Cause{CauseNoMonitor},
			"nothing fails over", "on the monitor's host: pgdrover run",
		},
		"no node": {
			func(s *Snapshot, _ *Group, _ []Node) { s.Groups = nil },
			[]Cause{CauseNoNode},
			`no node of formation "default"`, "create postgres",
		},
		"one node": {
			func(_ *Snapshot, g *Group, n []Node) {
				n[0].as(fsm.Single, fsm.Single)
				g.Nodes, g.Voters, g.Lone = n[:1], nil, true
			},
			[]Cause{CauseSingle},
			"the only node", "create postgres",
		},
		"priority zero": {
			func(_ *Snapshot, _ *Group, n []Node) { n[2].Priority = 0 },
			[]Cause{CausePriorityZero},
			"promoted only by name", "pgdrover set node candidate-priority 50 --name n3 --monitor U",
		},
		"nobody has a priority": {
			func(_ *Snapshot, g *Group, n []Node) { n[1].Priority, n[2].Priority, g.Successor = 0, 0, 0 },
			[]Cause{CauseNoCandidate, CausePriorityZero, CausePriorityZero},
			"no node could take over", "",
		},
		"read replica": {
			func(_ *Snapshot, _ *Group, n []Node) { n[2].Cluster = "reports" },
			[]Cause{CauseReadReplica},
			"never promoted", "",
		},
		"standby in maintenance": {
			func(_ *Snapshot, _ *Group, n []Node) { n[2].as(fsm.Maintenance, fsm.Maintenance) },
			[]Cause{CauseMaintenance},
			"in maintenance", "on h3: pgdrover disable maintenance",
		},
		"standby stopped by its operator": {
			func(_ *Snapshot, _ *Group, n []Node) {
				n[2].as(fsm.Maintenance, fsm.Maintenance)
				n[2].Keeper, n[2].Health = KeeperLost, fsm.HealthBad
			},
			[]Cause{CauseMaintenance},
			"no keeper runs there", "on h3: start its service",
		},
		"standby on its way to maintenance": {
			func(_ *Snapshot, _ *Group, n []Node) { n[2].as(fsm.Secondary, fsm.WaitMaintenance) },
			[]Cause{CauseTransition},
			"from secondary to wait_maintenance since 60m", "",
		},
		"standby being dropped": {
			func(_ *Snapshot, _ *Group, n []Node) { n[2].as(fsm.Secondary, fsm.Dropped) },
			[]Cause{CauseLeaving},
			"leaving", "",
		},
		"standby's host gone": {
			func(_ *Snapshot, _ *Group, n []Node) {
				n[2].Keeper, n[2].Health, n[2].Report = KeeperLost, fsm.HealthBad, 12*time.Second
			},
			[]Cause{CauseUnreachable},
			"reported last 12s ago", "on h3: start its service",
		},
		"standby's keeper gone": {
			func(_ *Snapshot, _ *Group, n []Node) { n[2].Keeper = KeeperSilent },
			[]Cause{CauseKeeperDown},
			"no keeper running", "pgdrover run",
		},
		"standby's server down": {
			func(_ *Snapshot, _ *Group, n []Node) { n[2].Running = false },
			[]Cause{CauseServerDown},
			"does not run", "startup.log",
		},
		"standby's port closed": {
			func(_ *Snapshot, _ *Group, n []Node) { n[2].Health = fsm.HealthBad },
			[]Cause{CausePortClosed},
			"cannot connect to port 5432 of h3", "pg_isready -h h3 -p 5432",
		},
		"both voters gone": {
			func(_ *Snapshot, g *Group, n []Node) {
				n[1].Keeper, n[1].Health = KeeperLost, fsm.HealthBad
				n[2].Keeper, n[2].Health = KeeperLost, fsm.HealthBad
				g.Successor = 0
			},
			[]Cause{CauseCommitsWait, CauseUnreachable, CauseUnreachable},
			"commits on node 1", "set formation number-sync-standbys 0",
		},
		"both keepers gone": {
			func(_ *Snapshot, g *Group, n []Node) {
				n[1].Keeper, n[2].Keeper, g.Successor = KeeperLost, KeeperLost, 0
			},
			[]Cause{CauseNoCandidate, CauseKeeperDown, CauseKeeperDown},
			"no node could take over", "",
		},
		"primary being created": {
			func(_ *Snapshot, g *Group, n []Node) {
				n[0].as(fsm.Init, fsm.Single)
				n[0].Running = false
				n[1].as(fsm.WaitStandby, fsm.WaitStandby)
				g.Nodes, g.Voters, g.Lone, g.K, g.Successor = n[:2], nil, true, 0, 0
				g.Waiting = "node 1 is not healthy and may have acknowledged writes that no standby has"
			},
			[]Cause{CauseTransition, CauseJoining},
			"from init to single", "",
		},
		"wait_primary alone": {
			func(_ *Snapshot, g *Group, n []Node) {
				n[0].as(fsm.WaitPrimary, fsm.WaitPrimary)
				n[1].as(fsm.CatchingUp, fsm.CatchingUp)
				n[1].Streaming = fsm.StreamingNo
				g.Nodes, g.Voters, g.Lone, g.K = n[:2], nil, true, 0
			},
			[]Cause{CauseNoQuorumStandby, CauseNotStreaming},
			"takes writes alone", "",
		},
		"asynchronous alone": {
			func(_ *Snapshot, g *Group, n []Node) {
				n[0].as(fsm.WaitPrimary, fsm.WaitPrimary)
				n[1].as(fsm.CatchingUp, fsm.CatchingUp)
				n[1].Quorum = false
				g.Nodes, g.Voters, g.Lone, g.K = n[:2], nil, true, 0
			},
			[]Cause{CauseNoQuorumStandby, CauseCatchingUp},
			"takes writes alone", "",
		},
		"asynchronous, far behind": {
			func(_ *Snapshot, g *Group, n []Node) {
				n[1].Quorum, n[1].Lag, g.Successor = false, 20<<20, 0
				g.Nodes, g.Voters, g.Lone, g.K = n[:2], nil, true, 0
			},
			[]Cause{CauseNoCandidate, CauseBehind},
			"no node could take over", "",
		},
		"wait_primary becoming primary": {
			func(_ *Snapshot, _ *Group, n []Node) { n[0].as(fsm.WaitPrimary, fsm.Primary) },
			[]Cause{CauseTransition},
			"from wait_primary to primary", "",
		},
		"wait_primary, standbys there": {
			func(_ *Snapshot, _ *Group, n []Node) { n[0].as(fsm.WaitPrimary, fsm.WaitPrimary) },
			[]Cause{CauseTransition},
			"until its standbys are ready", "",
		},
		"standby that copies": {
			func(_ *Snapshot, _ *Group, n []Node) { n[2].as(fsm.WaitStandby, fsm.CatchingUp) },
			[]Cause{CauseCatchingUp},
			"copies the primary", "keeper's output",
		},
		"standby that waits to copy": {
			func(_ *Snapshot, _ *Group, n []Node) { n[2].as(fsm.WaitStandby, fsm.WaitStandby) },
			[]Cause{CauseJoining},
			"is new", "",
		},
		"standby far behind": {
			func(_ *Snapshot, _ *Group, n []Node) {
				n[2].as(fsm.CatchingUp, fsm.CatchingUp)
				n[2].Lag = 1 << 30
			},
			[]Cause{CauseBehind},
			"1.0 GB behind, and becomes a secondary below 16.0 MB", "",
		},
		"standby on another timeline": {
			func(_ *Snapshot, _ *Group, n []Node) { n[0].TLI, n[1].TLI = 2, 2 },
			[]Cause{CauseOtherTimeline},
			"on timeline 1 while the primary is on timeline 2", "keeper's output",
		},
		"old primary": {
			func(_ *Snapshot, _ *Group, n []Node) {
				n[2].as(fsm.Demoted, fsm.Demoted)
				n[2].Running = false
			},
			[]Cause{CauseStopped},
			"was the primary", "",
		},
		"standby settling": {
			func(_ *Snapshot, _ *Group, n []Node) { n[2].as(fsm.CatchingUp, fsm.Secondary) },
			[]Cause{CauseTransition},
			"from catchingup to secondary", "",
		},
		"election": {
			func(_ *Snapshot, g *Group, n []Node) {
				n[0].as(fsm.Primary, fsm.Draining)
				n[0].Keeper, n[0].Health = KeeperLost, fsm.HealthBad
				n[1].as(fsm.Secondary, fsm.ReportLSN)
				n[2].as(fsm.ReportLSN, fsm.ReportLSN)
				g.Election = true
			},
			[]Cause{CauseElection, CauseUnreachable, CauseVoting, CauseVoting},
			"report how far they got", "",
		},
		"promotion": {
			func(_ *Snapshot, g *Group, n []Node) {
				n[0].as(fsm.Draining, fsm.Draining)
				n[1].as(fsm.ReportLSN, fsm.PreparePromotion)
				g.Election, g.Owner = true, 2
			},
			[]Cause{CauseElection, CauseStopped, CauseVoting},
			"it promotes node 2", "",
		},
		"election that waits": {
			func(_ *Snapshot, g *Group, n []Node) {
				n[0].as(fsm.Primary, fsm.Draining)
				n[1].Keeper, n[1].Health = KeeperLost, fsm.HealthBad
				n[2].as(fsm.ReportLSN, fsm.ReportLSN)
				g.Election = true
				g.Waiting = "the election waits for node 2; bring it back, or run pgdrover perform failover --allow-data-loss to go on without it"
			},
			[]Cause{CauseWaiting, CauseStopped, CauseUnreachable, CauseVoting},
			"waits for node 2",
			"pgdrover perform failover --allow-data-loss --monitor U",
		},
		"election that waits since a moment": {
			func(_ *Snapshot, g *Group, n []Node) {
				n[0].as(fsm.Primary, fsm.Draining)
				n[1].as(fsm.Secondary, fsm.ReportLSN)
				n[1].Change = time.Second
				n[2].as(fsm.ReportLSN, fsm.ReportLSN)
				g.Election, g.Waiting = true, "the election waits for node 2"
			},
			[]Cause{CauseElection, CauseStopped, CauseVoting, CauseVoting},
			"under way", "",
		},
		"nobody to promote but by name": {
			func(_ *Snapshot, g *Group, _ []Node) {
				g.Waiting = "set one, or run pgdrover perform promotion --name for the node to promote"
			},
			[]Cause{CauseWaiting},
			"set one", "pgdrover perform promotion --name NAME --monitor U",
		},
		"request open": {
			func(_ *Snapshot, g *Group, _ []Node) {
				g.Requests = []Request{{Kind: fsm.IntentStartMaintenance, Age: 4 * time.Second}, {Kind: fsm.IntentRegistered}}
			},
			[]Cause{CauseRequest},
			"a request (start maintenance) waits since 4.0s", "",
		},
		"no primary": {
			func(_ *Snapshot, _ *Group, n []Node) { n[0].as(fsm.Maintenance, fsm.Maintenance) },
			[]Cause{CauseNoPrimary, CauseMaintenance},
			"no node takes writes", "pgdrover perform failover --monitor U",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := trio()
			test.change(&s, &s.Groups[0], nodesOf(&s))
			got := s.Blockers(Caller{Program: "pgdrover", Options: "--monitor U"})
			var causes []Cause
			for _, b := range got {
				causes = append(causes, b.Cause)
				require.NotEmpty(t, b.Text)
				require.NotContains(t, b.Text, "%!")
				require.NotContains(t, b.Command, "%!")
				require.Equal(t, b.Node != 0, b.Name != "")
			}
			require.Equal(t, test.want, causes)
			if len(got) > 0 {
				require.Contains(t, got[0].Text, test.says)
				require.Contains(t, got[0].Command, test.does)
				require.Equal(t, test.does == "", got[0].Command == "", got[0].Command)
			}
		})
	}
}

// nodesOf gives tests a handle on the nodes of the first group.
func nodesOf(s *Snapshot) []Node { return s.Groups[0].Nodes }

func TestBlockersOfOtherGroupsAndFormations(t *testing.T) {
	t.Parallel()
	s := trio()
	s.Formation = "app"
	second := trio().Groups[0]
	second.ID = 1
	for i := range second.Nodes {
		second.Nodes[i].ID += 3
		second.Nodes[i].Group = 1
	}
	second.Primary, second.Voters = 4, []int64{5, 6}
	second.Nodes[2].Priority = 0
	second.Waiting = "bring it back, or run pgdrover perform failover --allow-data-loss to go on without it"
	s.Groups = append(s.Groups, second)
	got := s.Blockers(Caller{Program: "pg_autoctl"})
	require.Len(t, got, 2)
	require.Equal(t, "pg_autoctl perform failover --allow-data-loss --group 1 --formation app", got[0].Command)
	require.Equal(t, "pg_autoctl set node candidate-priority 50 --name n3 --formation app", got[1].Command)
	require.True(t, got[1].Deliberate)

	require.Len(t, About(got, second.Nodes[2]), 2)
	require.Len(t, About(got, second.Nodes[1]), 1)
	require.Empty(t, About(got, s.Groups[0].Nodes[1]))
}

func TestBrief(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0.0s", 9990 * time.Millisecond: "9.9s", 99 * time.Second: "99s", 100 * time.Second: "1m", 5 * time.Hour: "5h", 480 * time.Hour: "20d",
	} {
		require.Equal(t, want, Brief(d))
	}
	for n, want := range map[int64]string{
		0: "0 B", 9999: "9999 B", 10_240: "10.0 kB", 999_000: "976 kB", 16 << 20: "16.0 MB", 1 << 40: "1.0 TB", 1 << 62: "4096 PB",
	} {
		require.Equal(t, want, Bytes(n))
	}
}

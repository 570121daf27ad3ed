package pgautofailover_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// key is the group of most tests.
var key = pgautofailover.GroupKey{Formation: "default"}

// settle has fsm decide the default group, all nodes healthy and heard of just now.
func (m monitor) settle(tb testing.TB) []fsm.Decision {
	tb.Helper()
	var all []fsm.Decision
	err := m.decider.Decide(tb.Context(), key, func(g pgautofailover.LoadedGroup) (pgautofailover.Settled, error) {
		now := time.Now()
		g.MonitorStart = now.Add(-time.Hour)
		for i := range g.Nodes {
			n := &g.Nodes[i]
			n.Seen, n.GoalAt, n.ReportedAt, n.HealthAt = now, now, now, now
			n.Health, n.Session = fsm.HealthGood, fsm.SessionHeld
		}
		for i := range g.Intents {
			g.Intents[i].At = now
		}
		_, decisions, waiting, err := fsm.Settle(g.Group, now)
		all = decisions
		return pgautofailover.Settled{Decisions: decisions, Waiting: waiting}, err
	})
	require.NoError(tb, err)
	return all
}

// walk lets every node report its goal as reached, and decides, until nothing changes.
func (m monitor) walk(tb testing.TB) {
	tb.Helper()
	for range 20 {
		rows, err := m.db.NodeRows(tb.Context(), "default", nil)
		require.NoError(tb, err)
		for _, n := range rows {
			m.report(tb, n.ID, n.Goal, func(r *pgautofailover.Report) {
				if n.Goal.In(fsm.Secondary, fsm.CatchingUp) {
					r.Streaming = fsm.StreamingYes
				}
			})
		}
		changed := false
		for _, d := range m.settle(tb) {
			changed = changed || len(d.Assign) > 0
		}
		if !changed {
			return
		}
	}
	require.Fail(tb, "the group does not come to rest")
}

// pair makes a group of a primary and a secondary, by decisions.
func pair(tb testing.TB) (monitor, pgautofailover.Registered, pgautofailover.Registered) {
	tb.Helper()
	m := install(tb)
	m.decide(tb)
	n1 := m.register(tb, 5001)
	m.walk(tb)
	n2 := m.register(tb, 5002)
	m.walk(tb)
	return m, n1, n2
}

func (m monitor) states(tb testing.TB) string {
	tb.Helper()
	rows, err := m.db.CurrentState(tb.Context(), "default", nil)
	require.NoError(tb, err)
	var text string
	for _, r := range rows {
		text += fmt.Sprintf("%d %s/%s ", r.NodeID, r.Reported, r.Goal)
	}
	return text
}

func TestGroupComesToRest(t *testing.T) {
	t.Parallel()
	m, _, n2 := pair(t)
	require.Equal(t, "1 primary/primary 2 secondary/secondary ", m.states(t))
	names, err := m.node.SynchronousStandbyNames(t.Context(), "default", 0)
	require.NoError(t, err)
	require.Equal(t, "ANY 1 (pgautofailover_standby_2)", names)
	require.Equal(t, fsm.WaitStandby, n2.Goal)
	list, ok, err := m.node.ListFor(t.Context(), 2, 3)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, names, list.String())

	p, err := m.node.Primary(t.Context(), "default", 0)
	require.NoError(t, err)
	require.EqualValues(t, 1, p.ID)
	events, err := m.node.LastEvents(t.Context(), "default", nil, 1000)
	require.NoError(t, err)
	for _, e := range events {
		t.Log(e.ID, e.NodeID, e.Reported, e.Goal, e.RulePos, e.RuleSection, e.Description)
	}
}

func TestFailoverRequestIsTakenUp(t *testing.T) {
	t.Parallel()
	m, _, _ := pair(t)
	require.NoError(t, m.node.PerformFailover(t.Context(), "default", 0, false))
	pending, err := m.node.PendingRequests(t.Context(), "default", 0)
	require.NoError(t, err)
	require.Equal(t, 1, pending)
	m.settle(t)
	require.Equal(t, "1 primary/primary 2 secondary/prepare_promotion ", m.states(t), "the primary writes on until its successor answers")
	m.report(t, 2, fsm.PreparePromotion)
	m.settle(t)
	require.Equal(t, "1 primary/draining 2 prepare_promotion/prepare_promotion ", m.states(t))
	r, err := m.node.LastRequest(t.Context(), "default", 0)
	require.NoError(t, err)
	require.Equal(t, pgautofailover.Request{ID: r.ID, Kind: fsm.IntentFailover, Applied: true}, r)

	g, err := m.decider.Load(t.Context(), key)
	require.NoError(t, err)
	require.NotNil(t, g.Record.Election)
	require.EqualValues(t, 2, g.Record.Owner)
	p, err := m.node.Primary(t.Context(), "default", 0)
	require.NoError(t, err)
	require.EqualValues(t, 1, p.ID, "the old primary is named until the new one is ordered to open")
}

func TestRemovedByForce(t *testing.T) {
	t.Parallel()
	m, _, _ := pair(t)
	ok, err := m.node.RemoveNodeByHost(t.Context(), "h", 5001, true)
	require.NoError(t, err)
	require.True(t, ok)
	g, err := m.decider.Load(t.Context(), key)
	require.NoError(t, err)
	require.Len(t, g.Intents, 1)
	require.Equal(t, fsm.IntentRemoved, g.Intents[0].Kind)
	require.Equal(t, &fsm.Ghost{
		ID: 1, Name: "node_1", Host: "h", Port: 5001, Goal: fsm.Primary, Reported: fsm.Primary, Quorum: true,
		TLI: 1, LSN: 0x1000,
	}, g.Intents[0].Ghost)
	m.settle(t)
	g, err = m.decider.Load(t.Context(), key)
	require.NoError(t, err)
	require.Empty(t, g.Intents)
	require.Len(t, g.Record.Removed, 1)
}

func TestEmptyGroupIsForgotten(t *testing.T) {
	t.Parallel()
	m, _, _ := pair(t)
	for _, id := range []int64{2, 1} {
		_, err := m.node.RemoveNode(t.Context(), id, true)
		require.NoError(t, err)
	}
	m.settle(t)
	groups, err := m.decider.Groups(t.Context())
	require.NoError(t, err)
	require.Empty(t, groups)
	again := m.register(t, 5003)
	require.Equal(t, fsm.Single, again.Goal)
	require.EqualValues(t, 3, again.NodeID)
}

// store stores decisions as they are.
func (m monitor) store(tb testing.TB, decisions ...fsm.Decision) error {
	tb.Helper()
	return m.decider.Decide(tb.Context(), key, func(pgautofailover.LoadedGroup) (pgautofailover.Settled, error) {
		return pgautofailover.Settled{Decisions: decisions, Waiting: "for better times"}, nil
	})
}

func TestDecisionIsStored(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.decide(t)
	m.register(t, 5001)
	m.register(t, 5002, func(r *pgautofailover.Registration) { r.Name = `a "b"` })
	m.exec(t, `DELETE FROM pgautofailover.event; DELETE FROM pgautofailover.intent`)
	require.NoError(t, m.node.Listen(t.Context(), pgautofailover.ChannelState, pgautofailover.ChannelLog))
	one := 1
	record := fsm.Record{
		Epoch: 3, Owner: 2, Primary: 1, Timelines: 6, Grants: []fsm.Grant{{Node: 1, TLI: 5}, {Node: 2, TLI: 6}},
		Lists: []fsm.List{{Number: 7, Primary: 1, K: 1, Voters: []int64{2, 3}}},
		Removed: []fsm.Ghost{{
			ID: 9, Name: "gone", Host: "g", Port: 1, Goal: fsm.Primary, Reported: fsm.Draining, TLI: 4, LSN: 0x20,
		}},
	}
	require.NoError(t, m.store(t, fsm.Decision{
		Rule: fsm.RuleID{Pos: 303, Name: "test"},
		Assign: []fsm.Assignment{
			{Node: 1, Goal: fsm.Draining}, {Node: 2, Goal: fsm.PreparePromotion},
		},
		Events: []fsm.Event{{Node: 2, Text: "for two"}, {Text: "for nobody"}, {Node: 9, Text: "for a ghost"}},
		Record: record, RecordChanged: true, NumberSyncStandbys: &one,
	}))

	want := []pgautofailover.Notification{
		{Channel: "state", Payload: `{"type": "state", "formation": "default", "groupId": 0, "nodeId": 1, "name": "node_1", "host": "h", "port": 5001, "reportedState": "init", "goalState": "draining", "health":"unknown"}`},
		{Channel: "state", Payload: `{"type": "state", "formation": "default", "groupId": 0, "nodeId": 2, "name": "a \"b\"", "host": "h", "port": 5002, "reportedState": "init", "goalState": "prepare_promotion", "health":"unknown"}`},
		{Channel: "log", Payload: "for two"},
		{Channel: "log", Payload: "for nobody"},
		{Channel: "log", Payload: "for a ghost"},
	}
	for _, w := range want {
		got, err := m.node.WaitNotification(t.Context())
		require.NoError(t, err)
		require.Equal(t, w, got)
	}
	n, err := pgautofailover.ParseStateNotification(want[1].Payload)
	require.NoError(t, err)
	require.Equal(t, `a "b"`, n.Name)
	require.Equal(t, fsm.PreparePromotion, n.Goal)

	events, err := m.node.LastEvents(t.Context(), "default", nil, 10)
	require.NoError(t, err)
	require.Len(t, events, 2)
	require.Equal(t, "for two", events[0].Description)
	require.Equal(t, fsm.PreparePromotion, events[0].Goal)
	require.Equal(t, 303, *events[0].RulePos)
	require.Equal(t, "reporting_node", *events[0].RuleSection)
	require.Equal(t, "gone", events[1].Name)
	require.Equal(t, fsm.Draining, events[1].Reported)

	g, err := m.decider.Load(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, record, g.Record)
	require.Equal(t, "for better times", g.Waiting)
	require.EqualValues(t, 7, g.Number)
	require.Equal(t, 1, g.Formation.NumberSyncStandbys)
	require.EqualValues(t, 2, g.Nodes[0].GoalNumber)
	require.Equal(t, fsm.Draining, g.Nodes[0].Goal)
	names, err := m.node.SynchronousStandbyNames(t.Context(), "default", 0)
	require.NoError(t, err)
	require.Equal(t, "ANY 1 (pgautofailover_standby_2, pgautofailover_standby_3)", names)
	list, ok, err := m.node.ListFor(t.Context(), 1, 2)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, record.Lists[0].StandbyNames(), list)
	_, ok, err = m.node.ListFor(t.Context(), 1, 1)
	require.NoError(t, err)
	require.False(t, ok, "that goal is gone, and its list with it")
	waiting, err := m.node.Waiting(t.Context(), "default")
	require.NoError(t, err)
	require.Equal(t, []pgautofailover.GroupWaiting{{Waiting: "for better times"}}, waiting)
	for id, tli := range map[int64]pg.Timeline{1: 0, 2: 6} {
		a, err := m.node.Report(t.Context(), pgautofailover.Report{Formation: "default", NodeID: id, State: fsm.Init})
		require.NoError(t, err)
		require.Equal(t, tli, a.Timeline, "who promotes is told what to begin, node %d", id)
	}

	// The same goal again is a new goal: the number tells.
	require.NoError(t, m.store(t, fsm.Decision{
		Assign: []fsm.Assignment{{Node: 1, Goal: fsm.Draining}}, Remove: []int64{2}, Record: record,
	}))
	g, err = m.decider.Load(t.Context(), key)
	require.NoError(t, err)
	require.Len(t, g.Nodes, 1)
	require.EqualValues(t, 3, g.Nodes[0].GoalNumber)
}

func TestErrorStoresNothing(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.decide(t)
	m.register(t, 5001)
	err := m.store(t,
		fsm.Decision{Assign: []fsm.Assignment{{Node: 1, Goal: fsm.Primary}}},
		fsm.Decision{Assign: []fsm.Assignment{{Node: 1, Goal: fsm.State(99)}}})
	require.Error(t, err)
	require.Equal(t, "1 init/single ", m.states(t))
	require.ErrorIs(t, m.decider.Decide(t.Context(), pgautofailover.GroupKey{Formation: "none"},
		func(pgautofailover.LoadedGroup) (pgautofailover.Settled, error) { panic("there is nothing to decide") },
	), pgautofailover.ErrNotFound)
}

func TestOneDecider(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.register(t, 5001)
	alive := func() bool {
		yes, err := m.node.MonitorAlive(t.Context())
		require.NoError(t, err)
		return yes
	}
	require.False(t, alive())

	first := connect(t, m.dsn)
	old, err := pgautofailover.Acquire(t.Context(), first, "first")
	require.NoError(t, err)
	require.True(t, alive())
	elsewhere := connect(t, m.dsn)
	_, err = pgautofailover.Acquire(t.Context(), elsewhere, "second")
	require.ErrorIs(t, err, pgautofailover.ErrDeciderExists)

	// The first loses its session but keeps a worker.
	worker := old.On(connect(t, m.dsn))
	require.NoError(t, first.Close(t.Context()))
	var now *pgautofailover.Decider
	require.Eventually(t, func() bool {
		now, err = pgautofailover.Acquire(t.Context(), elsewhere, "second")
		return err == nil
	}, patience, 10*time.Millisecond)
	require.Equal(t, old.Number()+1, now.Number())
	called := false
	err = worker.Decide(t.Context(), key, func(pgautofailover.LoadedGroup) (pgautofailover.Settled, error) {
		called = true
		return pgautofailover.Settled{}, nil
	})
	require.ErrorIs(t, err, pgautofailover.ErrNotDecider)
	require.False(t, called)
}

func TestSessionIsMissed(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.decide(t)
	m.register(t, 5001)
	m.register(t, 5002)
	pulse := func(id int64) pgautofailover.Pulse {
		all, err := m.decider.Pulses(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 2)
		require.Equal(t, id, all[id-1].NodeID)
		return all[id-1]
	}
	require.False(t, pulse(2).EverHad)

	keeper, again := connect(t, m.dsn, asNode), connect(t, m.dsn, asNode)
	require.NoError(t, keeper.KeepSession(t.Context(), 2))
	require.NoError(t, keeper.KeepSession(t.Context(), 2))
	require.True(t, pulse(2).HasSession)
	require.True(t, pulse(2).EverHad)
	require.False(t, pulse(1).HasSession)
	require.NoError(t, again.KeepSession(t.Context(), 2), "a keeper that connects anew waits for nobody")
	require.NoError(t, keeper.Close(t.Context()))
	require.True(t, pulse(2).HasSession)
	require.NoError(t, again.Close(t.Context()))
	require.Eventually(t, func() bool { return !pulse(2).HasSession }, patience, 10*time.Millisecond)
	require.True(t, pulse(2).EverHad)
	require.Equal(t, "42704", pgautofailover.SQLState(m.node.KeepSession(t.Context(), 77)))
}

func TestHistoryIsReplaced(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.decide(t)
	m.register(t, 5001)
	histories := func() string {
		g, err := m.decider.Load(t.Context(), key)
		require.NoError(t, err)
		text, err := json.Marshal(g.Nodes[0].History)
		require.NoError(t, err)
		return string(text)
	}
	for _, text := range []string{
		`[{"tli":2,"parenttli":1,"switchpoint":"0/10"},{"tli":3,"parenttli":2,"switchpoint":"0/20"}]`,
		`[{"tli":2,"parenttli":1,"switchpoint":"0/10"},{"tli":4,"parenttli":2,"switchpoint":"0/18"}]`,
	} {
		var h fsm.Node
		require.NoError(t, json.Unmarshal([]byte(text), &h.History))
		require.NoError(t, m.node.ReportTimelineHistory(t.Context(), 1, h.History))
		require.JSONEq(t, text, histories())
	}
}

// TestHostIsOneWord: hosts become access rules on every node, and a role of nodes must not write those.
func TestHostIsOneWord(t *testing.T) {
	t.Parallel()
	m := install(t)
	r := m.register(t, 5432)
	for _, host := range []string{"10.0.0.1/32 trust\nhost all all 0.0.0.0/0 trust #", "0.0.0.0/0", "all", "a b"} {
		err := m.node.UpdateNodeMetadata(t.Context(), r.NodeID, "", host, 0)
		require.Equal(t, "22023", pgautofailover.SQLState(err), host)
		_, err = m.sql.Exec(t.Context(), `SELECT pgautofailover.register_node('default', $1, 5433, 'postgres')`, host)
		require.Equal(t, "22023", pgautofailover.SQLState(err), host)
	}
	require.NoError(t, m.node.UpdateNodeMetadata(t.Context(), r.NodeID, "", "fe80::1%eth0", 0))
}

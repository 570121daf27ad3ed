package pgautofailover_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// quiet says that nothing was notified before a marker that is sent now.
func (m monitor) quiet(t *testing.T, listener *pgautofailover.DB) {
	t.Helper()
	require.Empty(t, m.heard(t, listener))
}

// heard returns what was notified so far.
func (m monitor) heard(t *testing.T, listener *pgautofailover.DB) []pgautofailover.Notification {
	t.Helper()
	m.exec(t, `SELECT pg_notify('log', 'the marker')`)
	var all []pgautofailover.Notification
	for {
		n, err := listener.WaitNotification(t.Context())
		require.NoError(t, err)
		if n.Payload == "the marker" {
			return all
		}
		all = append(all, n)
	}
}

func (m monitor) listen(t *testing.T) *pgautofailover.DB {
	t.Helper()
	db := connect(t, m.dsn, asNode)
	require.NoError(t, db.Listen(t.Context(), pgautofailover.ChannelLog, pgautofailover.ChannelState, pgautofailover.ChannelWake))
	return db
}

func TestRegistrationNotifies(t *testing.T) {
	t.Parallel()
	m := install(t)
	listener := m.listen(t)
	r := m.register(t, 5001, func(r *pgautofailover.Registration) { r.Priority = 70 })
	require.Equal(t, pgautofailover.Registered{NodeID: 1, Goal: fsm.Single, Priority: 70, Quorum: true, Name: "node_1"}, r)
	require.Equal(t, []pgautofailover.Notification{
		{Channel: "log", Payload: `Registering node 1 "node_1" (h:5001) to formation "default" with replication quorum true and candidate priority 70 [70]`},
		{Channel: "log", Payload: `Setting goal state of node 1 "node_1" (h:5001) to single as there is no other node.`},
		{Channel: "state", Payload: `{"type": "state", "formation": "default", "groupId": 0, "nodeId": 1, "name": "node_1", "host": "h", "port": 5001, "reportedState": "init", "goalState": "single", "health":"unknown"}`},
		{Channel: "pgdrover", Payload: "default/0"},
	}, m.heard(t, listener))

	m.register(t, 5002)
	require.Equal(t, []pgautofailover.Notification{
		{Channel: "log", Payload: `Registering node 2 "node_2" (h:5002) to formation "default" with replication quorum true and candidate priority 50 [50]`},
		{Channel: "pgdrover", Payload: "default/0"},
	}, m.heard(t, listener))
	require.Equal(t, "1", m.text(t, `SELECT count(*)::text FROM pgautofailover.event`))
}

func TestRegistrationRollsBack(t *testing.T) {
	t.Parallel()
	m := install(t)
	p, err := m.node.BeginRegistration(t.Context(), pgautofailover.Registration{
		Formation: "default", Host: "h", Port: 1, DBName: "postgres", DesiredGroup: -1, Initial: fsm.Init, Priority: 1,
	})
	require.NoError(t, err)
	require.NoError(t, p.Rollback(t.Context()))
	require.Equal(t, "0", m.text(t, `SELECT count(*)::text FROM pgautofailover.node`))
	require.Equal(t, "0", m.text(t, `SELECT count(*)::text FROM pgautofailover.intent`))
}

// TestAbandonedRegistration: a keeper that stops in the middle must not hold its formation for ever.
func TestAbandonedRegistration(t *testing.T) {
	t.Parallel()
	m := install(t)
	conn := pgtest.Connect(t, m.dsn)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	var limit string
	_, err = tx.Exec(t.Context(), `SELECT * FROM pgautofailover.register_node('default', 'h', 1, 'postgres')`)
	require.NoError(t, err)
	require.NoError(t, tx.QueryRow(t.Context(), `SHOW idle_in_transaction_session_timeout`).Scan(&limit))
	require.Equal(t, "10s", limit)
	require.NoError(t, tx.Rollback(t.Context()))
}

func TestDefaultNames(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.exec(t, `INSERT INTO pgautofailover.formation (formationid, kind) VALUES ('c', 'citus')`)
	port := 6000
	join := func(kind fsm.NodeKind, group int) pgautofailover.Registered {
		port++
		r := m.register(t, port, func(r *pgautofailover.Registration) {
			r.Formation, r.Kind, r.DesiredGroup, r.SystemID = "c", kind, group, 0
		})
		m.exec(t, `UPDATE pgautofailover.node SET reportedstate = goalstate, sysidentifier = groupid WHERE nodeid = $1`, r.NodeID)
		return r
	}
	require.Equal(t, "coord0a", join(fsm.Coordinator, 0).Name)
	second := join(fsm.Coordinator, 0)
	require.Equal(t, "coord0b", second.Name)
	require.Equal(t, "coord0c", join(fsm.Coordinator, 0).Name)
	first := join(fsm.Worker, -1)
	require.Equal(t, pgautofailover.Registered{NodeID: first.NodeID, Group: 1, Goal: fsm.Single, Priority: 50, Quorum: true, Name: "worker1a"}, first)
	require.Equal(t, "worker1b", join(fsm.Worker, -1).Name)
	require.Equal(t, "worker2a", join(fsm.Worker, -1).Name)
	_, err := m.node.RemoveNode(t.Context(), second.NodeID, true)
	require.NoError(t, err)
	require.Equal(t, "coord0b", join(fsm.Coordinator, 0).Name, "the first free letter, not the number of nodes")
	host, at, err := m.node.Coordinator(t.Context(), "c")
	require.NoError(t, err)
	require.Equal(t, "h", host)
	require.Equal(t, 6001, at)
}

func TestDesiredNode(t *testing.T) {
	t.Parallel()
	m := install(t)
	r := m.register(t, 5001, func(r *pgautofailover.Registration) { r.DesiredNode, r.Initial = 41, fsm.Single })
	require.EqualValues(t, 41, r.NodeID)
	require.EqualValues(t, 42, m.register(t, 5002).NodeID)
}

func TestReport(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.decide(t)
	m.register(t, 5001)
	listener := m.listen(t)

	a := m.report(t, 1, fsm.Single)
	require.Equal(t, pgautofailover.Assignment{NodeID: 1, Goal: fsm.Single, GoalNumber: 1, Priority: 50, Quorum: true}, a)
	require.Equal(t, []pgautofailover.Notification{
		{Channel: "log", Payload: `New state is reported by node 1 "node_1" (h:5001): "single"`},
		{Channel: "state", Payload: `{"type": "state", "formation": "default", "groupId": 0, "nodeId": 1, "name": "node_1", "host": "h", "port": 5001, "reportedState": "single", "goalState": "single", "health":"unknown"}`},
		{Channel: "pgdrover", Payload: "default/0"},
	}, m.heard(t, listener))

	// At rest only the position moves: nobody hears of it, the position is there.
	before, err := m.decider.Pulses(t.Context())
	require.NoError(t, err)
	m.report(t, 1, fsm.Single, func(r *pgautofailover.Report) { r.LSN = 0x2000 })
	m.quiet(t, listener)
	g, err := m.decider.Load(t.Context(), key)
	require.NoError(t, err)
	require.EqualValues(t, 0x2000, g.Nodes[0].LSN)
	after, err := m.decider.Pulses(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, before[0].Reported, after[0].Reported)

	// A report without a position leaves it.
	m.report(t, 1, fsm.Single, func(r *pgautofailover.Report) { r.LSN, r.TLI = 0, 0 })
	m.quiet(t, listener)
	g, err = m.decider.Load(t.Context(), key)
	require.NoError(t, err)
	require.EqualValues(t, 0x2000, g.Nodes[0].LSN)

	// Everything else wakes the monitor process, and only that.
	for _, change := range []func(*pgautofailover.Report){
		func(r *pgautofailover.Report) { r.PgIsRunning = false },
		func(r *pgautofailover.Report) { r.TLI = 2 },
		func(r *pgautofailover.Report) { r.CleanStop = true },
		func(r *pgautofailover.Report) { r.Streaming = fsm.StreamingNo },
		func(r *pgautofailover.Report) { r.SyncState = "quorum" },
		func(r *pgautofailover.Report) { r.Reached = 0 },
	} {
		m.report(t, 1, fsm.Single, change)
		require.Equal(t, []pgautofailover.Notification{{Channel: "pgdrover", Payload: "default/0"}}, m.heard(t, listener))
		g, err := m.decider.Load(t.Context(), key)
		require.NoError(t, err)
		n := g.Nodes[0]
		require.Equal(t, []any{n.PgIsRunning, n.CleanStop, n.Streaming, n.Reached}, reported(change))
		m.report(t, 1, fsm.Single)
		m.heard(t, listener)
	}

	// A changed report that takes the group's lock also sees a goal given meanwhile.
	require.NoError(t, m.store(t, fsm.Decision{Assign: []fsm.Assignment{{Node: 1, Goal: fsm.ReportLSN}}}))
	m.heard(t, listener)
	a = m.report(t, 1, fsm.ReportLSN, func(r *pgautofailover.Report) { r.LSN = 0x3000 })
	require.EqualValues(t, 2, a.GoalNumber)
	require.Equal(t, `New state is reported by node 1 "node_1" (h:5001) with LSN 0/3000: report_lsn`, m.heard(t, listener)[0].Payload)
	m.report(t, 1, fsm.ReportLSN, func(r *pgautofailover.Report) { r.LSN = 0x4000 })
	require.Len(t, m.heard(t, listener), 1, "a position matters while a node does not rest")
}

// reported is what the database should know after a change to an ordinary report of the first goal.
func reported(change func(*pgautofailover.Report)) []any {
	r := pgautofailover.Report{PgIsRunning: true, Reached: 1}
	change(&r)
	return []any{r.PgIsRunning, r.CleanStop, r.Streaming, r.Reached}
}

// TestOldClient: a client without numbers has reached the goal that it reports and was given.
func TestOldClient(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.decide(t)
	m.register(t, 5001)
	active := func(state string) string {
		return m.text(t, `SELECT assigned_group_state::text FROM pgautofailover.node_active('default', 1, 0, $1::text::pgautofailover.replication_state)`, state)
	}
	settled := func() bool {
		g, err := m.decider.Load(t.Context(), key)
		require.NoError(t, err)
		return g.Nodes[0].Settled()
	}
	require.Equal(t, "single", active("init"))
	require.False(t, settled())
	require.Equal(t, "single", active("single"))
	require.True(t, settled())

	// The goal comes back to where the client stands: it has not answered the new order yet.
	for _, s := range []fsm.State{fsm.ReportLSN, fsm.Single} {
		require.NoError(t, m.store(t, fsm.Decision{Assign: []fsm.Assignment{{Node: 1, Goal: s}}}))
	}
	require.False(t, settled())
	require.Equal(t, "single", active("single"))
	require.False(t, settled(), "it reported before it heard of the order")
	require.Equal(t, "single", active("single"))
	require.True(t, settled())

	listener := m.listen(t)
	active("single")
	m.quiet(t, listener)

	// A keeper with a session was here before: silence must count again.
	keeper := connect(t, m.dsn, asNode)
	require.NoError(t, keeper.KeepSession(t.Context(), 1))
	active("single")
	pulses, err := m.decider.Pulses(t.Context())
	require.NoError(t, err)
	require.False(t, pulses[0].EverHad)
}

func TestUnchangedReportIsCheap(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.register(t, 5001)
	m.report(t, 1, fsm.Single)
	m.node = connect(t, m.dsn, asNode)
	for i := range 50 {
		m.report(t, 1, fsm.Single, func(r *pgautofailover.Report) { r.LSN += 1 << (i % 10) })
	}
	// A session hands over its statistics when it ends.
	require.NoError(t, m.node.Close(t.Context()))
	pgtest.Eventually(t, patience, func() error {
		hot := m.text(t, `SELECT coalesce(sum(n_tup_hot_upd), 0)::text FROM pg_stat_user_tables WHERE relname = 'node' AND n_tup_hot_upd >= 45`)
		if hot == "0" {
			return errors.New("few updates of node stay on their page")
		}
		return nil
	})
}

func TestHealth(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.decide(t)
	m.register(t, 5001)
	m.register(t, 5002)
	listener := m.listen(t)
	good := pgautofailover.Probe{NodeID: 1, Health: fsm.HealthGood}
	require.NoError(t, m.decider.SetHealth(t.Context(), good, pgautofailover.Probe{NodeID: 99, Health: fsm.HealthBad}))
	require.Equal(t, []pgautofailover.Notification{
		{Channel: "log", Payload: `Node node 1 "node_1" (h:5001) is marked as healthy by the monitor`},
		{Channel: "state", Payload: `{"type": "state", "formation": "default", "groupId": 0, "nodeId": 1, "name": "node_1", "host": "h", "port": 5001, "reportedState": "init", "goalState": "single", "health":"good"}`},
		{Channel: "pgdrover", Payload: "default/0"},
	}, m.heard(t, listener))
	stamp := func() time.Time {
		g, err := m.decider.Load(t.Context(), key)
		require.NoError(t, err)
		return g.Stamps[1].HealthCheck
	}
	at := stamp()
	require.NoError(t, m.decider.SetHealth(t.Context(), good))
	m.quiet(t, listener)
	require.True(t, stamp().After(at))
	require.NoError(t, m.decider.SetHealth(t.Context(), pgautofailover.Probe{NodeID: 1, Health: fsm.HealthBad}, good))
	require.Equal(t, `Node node 1 "node_1" (h:5001) is marked as unhealthy by the monitor`, m.heard(t, listener)[0].Payload)
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.register(t, 5001)
	listener := m.listen(t)
	require.NoError(t, m.node.UpdateNodeMetadata(t.Context(), 1, "", "", 0))
	m.quiet(t, listener)
	require.NoError(t, m.node.UpdateNodeMetadata(t.Context(), 1, "", "new", 0))
	heard := m.heard(t, listener)
	require.Len(t, heard, 3)
	require.Equal(t, `Updating metadata of node 1 "node_1" (h:5001): it is now node 1 "node_1" (new:5001)`, heard[0].Payload)
	require.NoError(t, m.node.SetNodeSystemIdentifier(t.Context(), 1, 18446744073709551615))
	require.NoError(t, m.node.ReportVersion(t.Context(), 1, pgautofailover.Version{PgVersionNum: 150020, PgVersion: "15.20"}))
	n, err := m.node.NodeByName(t.Context(), "default", "node_1")
	require.NoError(t, err)
	require.EqualValues(t, uint64(18446744073709551615), n.SystemID)
	require.Equal(t, "15.20", n.PgVersion)
	require.Equal(t, "new", n.Host)
}

func TestLoneSettingIsAnEvent(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.register(t, 5001)
	listener := m.listen(t)
	require.NoError(t, m.node.SetCandidatePriority(t.Context(), "default", "node_1", 7))
	require.Equal(t, `Updating candidate priority to 7 for node 1 "node_1" (h:5001)`, m.heard(t, listener)[0].Payload)
	require.NoError(t, m.node.SetReplicationQuorum(t.Context(), "default", "node_1", true))
	require.Equal(t, `Updating replicationQuorum to true for node 1 "node_1" (h:5001)`, m.heard(t, listener)[0].Payload)
	require.Equal(t, "3", m.text(t, `SELECT count(*)::text FROM pgautofailover.event`))
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	m := install(t)
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	_, err := m.node.WaitNotification(ctx)
	require.ErrorIs(t, err, cause)
	require.NoError(t, m.node.Ping(t.Context()))

	require.NoError(t, m.node.Listen(t.Context(), pgautofailover.ChannelLog))
	short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	_, err = m.node.WaitNotification(short)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	m.exec(t, `NOTIFY log, 'still here'`)
	n, err := m.node.WaitNotification(t.Context())
	require.NoError(t, err)
	require.Equal(t, "still here", n.Payload)
}

// TestLateReportIsGivenUp: a report that waits too long must not land behind a newer one.
func TestLateReportIsGivenUp(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.register(t, 5001)
	tx, err := m.sql.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT pgautofailover.testing_lock_node_group('default', 0)`)
	require.NoError(t, err)
	hasty := connect(t, m.dsn, asNode, func(c *pgautofailover.ConnectConfig) { c.LockTimeout = 50 * time.Millisecond })
	report := pgautofailover.Report{Formation: "default", NodeID: 1, State: fsm.Single, Reached: 1, PgIsRunning: true}
	_, err = hasty.Report(t.Context(), report)
	require.Equal(t, "55P03", pgautofailover.SQLState(err))
	require.True(t, pgautofailover.Retryable(err))
	require.NoError(t, tx.Rollback(t.Context()))
	require.Equal(t, "1 init/single ", m.states(t))
	_, err = hasty.Report(t.Context(), report)
	require.NoError(t, err)
}

func TestLongTextIsCut(t *testing.T) {
	t.Parallel()
	m := install(t)
	listener := m.listen(t)
	m.exec(t, `SELECT pgautofailover.notify_log(repeat('➜', 5000))`)
	require.Len(t, m.heard(t, listener)[0].Payload, 1999*3)
}

// TestFinalReportHasAPosition: the monitor may know an older one, which is no vote.
func TestFinalReportHasAPosition(t *testing.T) {
	t.Parallel()
	m, _, _ := pair(t)
	const order = `UPDATE pgautofailover.node SET goalstate = 'report_lsn', goalnumber = goalnumber + 1 WHERE nodeid = 2`
	_, err := m.sql.Exec(t.Context(), order)
	require.NoError(t, err)
	stable := func() bool {
		row, err := m.node.NodeByID(t.Context(), 2)
		require.NoError(t, err)
		require.Equal(t, fsm.ReportLSN, row.Reported)
		return row.Reached == row.GoalNumber
	}
	dead := func(r *pgautofailover.Report) { r.PgIsRunning, r.TLI, r.LSN = false, 0, 0 }
	m.report(t, 2, fsm.ReportLSN, dead)
	require.False(t, stable())
	m.report(t, 2, fsm.ReportLSN, func(r *pgautofailover.Report) { r.LSN = 0x2000 })
	require.True(t, stable())
	m.report(t, 2, fsm.ReportLSN, dead)
	require.True(t, stable(), "what it said stands")

	// A client of the release before numbers.
	for _, c := range []struct {
		lsn  string
		want bool
	}{{"0/0", false}, {"0/3000", true}} {
		if !c.want {
			_, err = m.sql.Exec(t.Context(), order)
			require.NoError(t, err)
		}
		for range 2 {
			_, err = m.sql.Exec(t.Context(), `SELECT pgautofailover.node_active('default', 2, 0, 'report_lsn', $1, 1, $2)`, c.want, c.lsn)
			require.NoError(t, err)
		}
		require.Equal(t, c.want, stable(), c.lsn)
	}
}

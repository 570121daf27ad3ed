package pgautofailover_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// patience bounds every wait of these tests; nothing here should take a hundredth of it.
const patience = time.Minute

// connect opens a session with timeouts that a busy machine cannot reach.
func connect(t testing.TB, dsn string, change ...func(*pgautofailover.ConnectConfig)) *pgautofailover.DB {
	t.Helper()
	info, err := pg.ParseConnInfo(dsn)
	require.NoError(t, err)
	cfg := pgautofailover.ConnectConfig{
		ConnInfo: info, ApplicationName: "pgautofailover test", ConnectTimeout: patience,
		StatementTimeout: patience, LockTimeout: patience,
	}
	for _, f := range change {
		f(&cfg)
	}
	db, err := pgautofailover.Connect(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close(context.WithoutCancel(t.Context()))) })
	return db
}

// asNode makes a session that of a keeper or of a command.
func asNode(c *pgautofailover.ConnectConfig) { c.ConnInfo = c.ConnInfo.With("user", "autoctl_node") }

// monitor is a database with the schema, a superuser's session, a node's session and the decider.
type monitor struct {
	dsn      string
	db, node *pgautofailover.DB
	sql      *pgx.Conn // superuser, for what has no method
	decider  *pgautofailover.Decider
}

// install makes a monitor's database without a decider.
func install(t testing.TB) monitor {
	t.Helper()
	return installAt(t, pgtest.Database(t))
}

func installAt(t testing.TB, dsn string) monitor {
	t.Helper()
	m := monitor{dsn: dsn, db: connect(t, dsn), sql: pgtest.Connect(t, dsn)}
	require.NoError(t, pgautofailover.Install(t.Context(), m.db))
	m.node = connect(t, dsn, asNode)
	return m
}

// decide takes the decider's lock on a session of its own.
func (m *monitor) decide(t testing.TB) {
	t.Helper()
	var err error
	m.decider, err = pgautofailover.Acquire(t.Context(), connect(t, m.dsn), t.Name())
	require.NoError(t, err)
}

// register registers and commits a node on port, and returns what the monitor said.
func (m monitor) register(t testing.TB, port int, change ...func(*pgautofailover.Registration)) pgautofailover.Registered {
	t.Helper()
	r := pgautofailover.Registration{
		Formation: "default", Host: "h", Port: port, DBName: "postgres", SystemID: 1, DesiredGroup: -1,
		Initial: fsm.Init, Priority: 50, Quorum: true,
	}
	for _, f := range change {
		f(&r)
	}
	p, err := m.node.BeginRegistration(t.Context(), r)
	require.NoError(t, err)
	require.NoError(t, p.Commit(t.Context()))
	return p.Result
}

// report reports as a keeper does that has established its goal.
func (m monitor) report(t testing.TB, id int64, s fsm.State, change ...func(*pgautofailover.Report)) pgautofailover.Assignment {
	t.Helper()
	row, err := m.node.NodeByID(t.Context(), id)
	require.NoError(t, err)
	r := pgautofailover.Report{
		Formation: row.Formation, NodeID: id, Group: row.Group, State: s, Reached: row.GoalNumber, PgIsRunning: true,
		TLI: 1, LSN: 0x1000,
	}
	for _, f := range change {
		f(&r)
	}
	a, err := m.node.Report(t.Context(), r)
	require.NoError(t, err)
	return a
}

// exec runs SQL as superuser.
func (m monitor) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	_, err := m.sql.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

// text asks for one value.
func (m monitor) text(t testing.TB, sql string, args ...any) string {
	t.Helper()
	var s string
	require.NoError(t, m.sql.QueryRow(t.Context(), sql, args...).Scan(&s))
	return s
}

// set puts a node into a state as if goals and reports had led there.
func (m monitor) set(t testing.TB, id int64, reported, goal fsm.State) {
	t.Helper()
	m.exec(t, `UPDATE pgautofailover.node SET reportedstate = $2::text::pgautofailover.replication_state,
	           goalstate = $3::text::pgautofailover.replication_state, sysidentifier = 1,
	           reachednumber = CASE WHEN $2::text = $3::text THEN goalnumber ELSE 0 END,
	           answerednumber = goalnumber WHERE nodeid = $1`,
		id, reported.String(), goal.String())
}

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
func connect(tb testing.TB, dsn string, change ...func(*pgautofailover.ConnectConfig)) *pgautofailover.DB {
	tb.Helper()
	info, err := pg.ParseConnInfo(dsn)
	require.NoError(tb, err)
	cfg := pgautofailover.ConnectConfig{
		ConnInfo: info, ApplicationName: "pgautofailover test", ConnectTimeout: patience,
		StatementTimeout: patience, LockTimeout: patience,
	}
	for _, f := range change {
		f(&cfg)
	}
	db, err := pgautofailover.Connect(tb.Context(), cfg)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, db.Close(context.WithoutCancel(tb.Context()))) })
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
func install(tb testing.TB) monitor {
	tb.Helper()
	return installAt(tb, pgtest.Database(tb))
}

func installAt(tb testing.TB, dsn string) monitor {
	tb.Helper()
	m := monitor{dsn: dsn, db: connect(tb, dsn), sql: pgtest.Connect(tb, dsn)}
	require.NoError(tb, pgautofailover.Install(tb.Context(), m.db))
	m.node = connect(tb, dsn, asNode)
	return m
}

// decide takes the decider's lock on a session of its own.
func (m *monitor) decide(tb testing.TB) {
	tb.Helper()
	var err error
	m.decider, err = pgautofailover.Acquire(tb.Context(), connect(tb, m.dsn), tb.Name())
	require.NoError(tb, err)
}

// register registers and commits a node on port, and returns what the monitor said.
func (m monitor) register(tb testing.TB, port int, change ...func(*pgautofailover.Registration)) pgautofailover.Registered {
	tb.Helper()
	r := pgautofailover.Registration{
		Formation: "default", Host: "h", Port: port, DBName: "postgres", SystemID: 1, DesiredGroup: -1,
		Initial: fsm.Init, Priority: 50, Quorum: true,
	}
	for _, f := range change {
		f(&r)
	}
	p, err := m.node.BeginRegistration(tb.Context(), r)
	require.NoError(tb, err)
	require.NoError(tb, p.Commit(tb.Context()))
	return p.Result
}

// report reports as a keeper does that has established its goal.
func (m monitor) report(tb testing.TB, id int64, s fsm.State, change ...func(*pgautofailover.Report)) pgautofailover.Assignment {
	tb.Helper()
	row, err := m.node.NodeByID(tb.Context(), id)
	require.NoError(tb, err)
	r := pgautofailover.Report{
		Formation: row.Formation, NodeID: id, Group: row.Group, State: s, Reached: row.GoalNumber, PgIsRunning: true,
		TLI: 1, LSN: 0x1000,
	}
	for _, f := range change {
		f(&r)
	}
	a, err := m.node.Report(tb.Context(), r)
	require.NoError(tb, err)
	return a
}

// exec runs SQL as superuser.
func (m monitor) exec(tb testing.TB, sql string, args ...any) {
	tb.Helper()
	_, err := m.sql.Exec(tb.Context(), sql, args...)
	require.NoError(tb, err)
}

// text asks for one value.
func (m monitor) text(tb testing.TB, sql string, args ...any) string {
	tb.Helper()
	var s string
	require.NoError(tb, m.sql.QueryRow(tb.Context(), sql, args...).Scan(&s))
	return s
}

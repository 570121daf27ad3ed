package spock_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/spock"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// patience bounds every wait of these tests; nothing here should take a hundredth of it.
const patience = time.Minute

// database makes an empty database on a server that can replicate.
func database(tb testing.TB) string {
	tb.Helper()
	return pgtest.DatabaseWith(tb, map[string]string{"track_commit_timestamp": "on", "max_replication_slots": "60"})
}

// node is a database with the schema, and what its server said.
type node struct {
	dsn string
	db  *spock.DB
	sql *pgx.Conn

	mu   sync.Mutex
	said []pgconn.Notice
}

// install makes a database with the schema; it is no node yet.
func install(tb testing.TB) *node {
	tb.Helper()
	return open(tb, database(tb), true)
}

func open(tb testing.TB, dsn string, withSchema bool) *node {
	tb.Helper()
	n := &node{dsn: dsn}
	info, err := pg.ParseConnInfo(dsn)
	require.NoError(tb, err)
	n.db, err = spock.Connect(tb.Context(), spock.ConnectConfig{
		ConnInfo: info, ApplicationName: "spock test", ConnectTimeout: patience,
	})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, n.db.Close(context.WithoutCancel(tb.Context()))) })
	if withSchema {
		require.NoError(tb, spock.Install(tb.Context(), n.db))
	}
	n.sql = n.session(tb)
	return n
}

// session opens a further session, as superuser, with the usual search path.
func (n *node) session(tb testing.TB) *pgx.Conn {
	tb.Helper()
	cfg, err := pgx.ParseConfig(n.dsn)
	require.NoError(tb, err)
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	cfg.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.said = append(n.said, *notice)
	}
	conn, err := pgx.ConnectConfig(tb.Context(), cfg)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, conn.Close(context.WithoutCancel(tb.Context()))) })
	return conn
}

// create makes the database a node of this name.
func create(tb testing.TB, name string) *node {
	tb.Helper()
	n := install(tb)
	n.exec(tb, `SELECT spock.node_create($1, $2)`, name, n.dsn)
	n.heard()
	return n
}

// heard returns what the server said since the last call.
func (n *node) heard() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []string
	for _, s := range n.said {
		line := s.SeverityUnlocalized + ": " + s.Message
		if s.Detail != "" {
			line += "\n" + s.Detail
		}
		all = append(all, line)
	}
	n.said = nil
	return all
}

// exec runs SQL as superuser.
func (n *node) exec(tb testing.TB, sql string, args ...any) {
	tb.Helper()
	_, err := n.sql.Exec(tb.Context(), sql, args...)
	require.NoError(tb, err, sql)
}

// text asks for one value; NULL is "NULL".
func (n *node) text(tb testing.TB, sql string, args ...any) string {
	tb.Helper()
	var s *string
	require.NoError(tb, n.sql.QueryRow(tb.Context(), "SELECT ("+sql+")::text", args...).Scan(&s), sql)
	if s == nil {
		return "NULL"
	}
	return *s
}

// lines asks for rows of one column.
func (n *node) lines(tb testing.TB, sql string, args ...any) []string {
	tb.Helper()
	rows, err := n.sql.Query(tb.Context(), sql, args...)
	require.NoError(tb, err, sql)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(tb, err, sql)
	return all
}

// refused runs SQL that must fail, in a transaction of its own, and returns the error.
func (n *node) refused(tb testing.TB, sql string, args ...any) *pgconn.PgError {
	tb.Helper()
	_, err := n.sql.Exec(tb.Context(), sql, args...)
	require.Error(tb, err, sql)
	var pgErr *pgconn.PgError
	require.ErrorAs(tb, err, &pgErr)
	return pgErr
}

// position is a vector of one entry.
func position(origin uint32, at spock.Position) map[uint32]spock.Position {
	return map[uint32]spock.Position{origin: at}
}

// cast is an SQL constant of a type; money has no cast from integer constants under every setting.
func cast(n int, kind string) string {
	if kind == "money" {
		return fmt.Sprintf("%d::numeric::money", n)
	}
	return fmt.Sprintf("%d::%s", n, kind)
}

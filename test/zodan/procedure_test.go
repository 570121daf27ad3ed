package zodan

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// psql calls procedures as a session does, and keeps what it is told.
func (n *node) psql(t testing.TB, sql string) (notices string, err error) {
	t.Helper()
	cfg, err := pgx.ParseConfig(n.server.DSN(database))
	require.NoError(t, err)
	var mu sync.Mutex
	var said []string
	cfg.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, notice.Severity+": "+notice.Message)
	}
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	_, err = conn.PgConn().Exec(t.Context(), sql).ReadAll()
	mu.Lock()
	defer mu.Unlock()
	return strings.Join(said, "\n"), err
}

// The documented procedures do what the commands do, and say what they do.
func TestProcedures(t *testing.T) {
	t.Parallel()
	a, b := first(t, "n1", nil), newNode(t, "n2", nil)
	before := footprints(t, a, b)
	call := fmt.Sprintf("CALL spock.add_node('n1', %s, 'n2', %s, true, new_node_info := '{\"why\": \"a | b\"}')", quote(a.dsn()), quote(b.dsn()))

	require.NoError(t, b.engine.Signal(syscall.SIGKILL))
	b.engine.Wait(t, patience)
	b.eventually(t, "SELECT pgdrover.executor_connected()", "f")
	_, err := b.psql(t, call)
	require.ErrorContains(t, err, "no executor is connected to this database")
	b.start(t)
	b.eventually(t, "SELECT pgdrover.executor_connected()", "t")
	ready(t, a, b)

	b.exec(t, "BEGIN")
	_, err = b.try(call)
	require.ErrorContains(t, err, "transaction block")
	b.exec(t, "ROLLBACK")
	_, err = b.psql(t, strings.Replace(call, quote(a.dsn()), "'host=127.0.0.1 port=1 dbname=nowhere'", 1))
	require.ErrorContains(t, err, "checks failed")
	refused, ok := errors.AsType[*pgconn.PgError](err)
	require.True(t, ok)
	require.Equal(t, "The notices above say more.", refused.Hint)
	requireFootprints(t, before, a, b)

	check := fmt.Sprintf("CALL spock.health_check('n1', %s, 'n2', %s", quote(a.dsn()), quote(b.dsn()))
	said, err := b.psql(t, check+")")
	require.NoError(t, err, said)
	require.Contains(t, said, "NOTICE:     PASS: source node n1 can be reached")
	require.Contains(t, said, "Failed: 0")

	said, err = b.psql(t, call)
	require.NoError(t, err, said)
	require.Contains(t, said, "NOTICE: Phase 8: copy structure and data")
	require.Contains(t, said, "NOTICE:     OK: Open n2 to writers")
	settle(t, a, b)
	for _, sql := range compared {
		equal(t, sql, a, b)
	}
	require.JSONEq(t, `{"why": "a | b"}`, b.text(t, "SELECT info FROM spock.node WHERE node_name = 'n2'"))
	said, err = b.psql(t, check+", check_type := 'post')")
	require.NoError(t, err, said)
	_, err = b.psql(t, check+")")
	require.ErrorContains(t, err, "checks failed", "it has joined already")

	_, err = a.psql(t, fmt.Sprintf("CALL spock.remove_node('n2', %s)", quote(b.dsn())))
	require.ErrorContains(t, err, "must be run on the node being removed")
	said, err = b.psql(t, fmt.Sprintf("CALL spock.remove_node('n2', %s, false)", quote(b.dsn())))
	require.NoError(t, err, said)
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM spock.node"))
	require.Equal(t, "n1", a.text(t, "SELECT string_agg(node_name, ',') FROM spock.node"))
	require.Equal(t, "0", a.text(t, "SELECT count(*) FROM pg_replication_slots"))

	// The parts that stand alone, by name.
	n := quote(b.dsn())
	for _, sql := range []string{
		fmt.Sprintf("CALL spock.create_node('n2', %s, true)", n),
		fmt.Sprintf("CALL spock.create_node('n2', %s, true)", n),
		fmt.Sprintf("CALL spock.get_spock_nodes(%s, true); SELECT 1/(count(*) = 1)::int FROM temp_spock_nodes", quote(a.dsn())),
		fmt.Sprintf("CALL spock.create_replication_slot(%s, 'spk_app_n1_sub_n1_n2', true)", quote(a.dsn())),
		fmt.Sprintf("CALL spock.create_sub(%s, 'sub_n1_n2', %s, 'ARRAY[''default'']', false, false, 'ARRAY[]', '0', false, false, true)", n, quote(a.dsn())),
		fmt.Sprintf("CALL spock.sync_event(%s, true, NULL)", quote(a.dsn())),
		fmt.Sprintf("CALL spock.enable_sub(%s, 'sub_n1_n2', true)", n),
		fmt.Sprintf("CALL spock.get_commit_timestamp(%s, 'n1', 'n2', true, NULL)", n),
		fmt.Sprintf("CALL spock.advance_replication_slot(%s, 'spk_app_n1_sub_n1_n2', NULL, true)", quote(a.dsn())),
	} {
		said, err := b.psql(t, sql)
		require.NoError(t, err, "%s\n%s", sql, said)
	}
	require.Equal(t, "t", b.text(t, "SELECT sub_enabled FROM spock.subscription"))
}

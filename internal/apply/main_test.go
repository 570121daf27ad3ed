package apply

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/spock"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// patience is how long a node may stand still; limit is how long a test waits
// for one that moves.
const (
	patience = 60 * time.Second
	limit    = 8 * time.Minute
)

// node is a server with one database that is a node, and its engine.
type node struct {
	name   string
	server *pgtest.Server
	link   *pgtest.Link // what the others reach it by
	frozen int64        // its engine's, which is none unless asked for
	conn   *pgx.Conn
	engine *Engine
	stop   context.CancelFunc
	done   *sync.WaitGroup

	mu     sync.Mutex
	warned []string
}

const database = "app"

func newServer(t *testing.T, name string, settings map[string]string) *pgtest.Server {
	t.Helper()
	all := map[string]string{"track_commit_timestamp": "on", "max_connections": "60", "autovacuum_naptime": "'60s'", "logical_decoding_work_mem": "'64kB'"}
	if n := os.Getenv("APPLY_WORKERS"); n != "" {
		all["spock.apply_workers"] = n // every test may be run with several sessions
	}
	maps.Copy(all, settings)
	s := pgtest.NewServer(t, pgtest.ServerConfig{Name: name, Settings: all})
	s.Exec(t, "postgres", "CREATE DATABASE "+database)
	return s
}

// newNode makes a node with a running engine.
func newNode(t *testing.T, name string, settings map[string]string) *node {
	t.Helper()
	n := &node{name: name, server: newServer(t, name, settings), done: &sync.WaitGroup{}}
	n.link = pgtest.NewLink(t, fmt.Sprintf("127.0.0.1:%d", n.server.Port))
	info, err := pg.ParseConnInfo(n.server.DSN(database))
	require.NoError(t, err)
	db, err := spock.Connect(t.Context(), spock.ConnectConfig{ConnInfo: info})
	require.NoError(t, err)
	require.NoError(t, spock.Install(t.Context(), db))
	require.NoError(t, db.Close(t.Context()))
	n.conn = n.server.Connect(t, database)
	n.exec(t, fmt.Sprintf("SELECT spock.node_create('%s', '%s')", name, n.dsn()))
	n.start(t)
	return n
}

func (n *node) dsn() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s", n.link.Port(), pgtest.Superuser, database)
}

// start runs the node's engine until its test ends or stopEngine is called.
func (n *node) start(t *testing.T) {
	t.Helper()
	info, err := pg.ParseConnInfo(n.server.DSN(database))
	require.NoError(t, err)
	level := slog.LevelWarn
	if os.Getenv("APPLY_DEBUG") != "" {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(&testWriter{t: t, node: n}, &slog.HandlerOptions{Level: level}))
	e, err := New(Config{ConnInfo: info, Logger: log, BinDir: n.server.Bin})
	require.NoError(t, err)
	e.piece, e.beside, e.backlog, e.frozen = 2, 1, 1, n.frozen
	e.margin = 100 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	n.stop, n.engine = cancel, e
	n.done.Go(func() {
		if err := e.Run(ctx); err != nil {
			t.Errorf("engine of %s: %v", n.name, err)
		}
	})
	t.Cleanup(n.stopEngine)
}

func (n *node) stopEngine() {
	n.stop()
	n.done.Wait()
}

// halt stops the engine, and waits until its sessions have ended.
func (n *node) halt(t *testing.T) {
	t.Helper()
	n.stopEngine()
	n.eventually(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'spock %' AND datname = current_database()", "0")
}

type testWriter struct {
	t    *testing.T
	node *node
}

func (w *testWriter) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	w.t.Logf("%s: %s", w.node.name, line)
	w.node.mu.Lock()
	defer w.node.mu.Unlock()
	w.node.warned = append(w.node.warned, line)
	return len(b), nil
}

// warnings are the lines that the engine has logged so far.
func (n *node) warnings() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.warned, "\n")
}

func (n *node) exec(t *testing.T, sql string) {
	t.Helper()
	_, err := n.conn.PgConn().Exec(t.Context(), sql).ReadAll()
	require.NoError(t, err, "%s: %s", n.name, sql)
}

// text is the only value of a query, as text.
func (n *node) text(t *testing.T, sql string) string {
	t.Helper()
	s, err := n.try(t, sql)
	require.NoError(t, err, "%s: %s", n.name, sql)
	return s
}

func (n *node) try(t *testing.T, sql string) (string, error) {
	t.Helper()
	result := n.conn.PgConn().ExecParams(t.Context(), sql, nil, nil, nil, nil).Read()
	if result.Err != nil {
		return "", result.Err
	}
	var lines []string
	for _, row := range result.Rows {
		var fields []string
		for _, v := range row {
			fields = append(fields, string(v))
		}
		lines = append(lines, strings.Join(fields, "|"))
	}
	return strings.Join(lines, "\n"), nil
}

// eventually waits until a query answers that. It gives up when the node has
// stood still for as long as patience: a loaded machine is no failure.
func (n *node) eventually(t *testing.T, sql, want string) {
	t.Helper()
	moved := ""
	for began := time.Now(); time.Since(began) < limit; {
		err := pgtest.WaitFor(patience, func() error {
			got, err := n.try(t, sql)
			if err != nil {
				return err
			}
			if got != want {
				return fmt.Errorf("%s: %s: got %q, want %q; %s", n.name, sql, got, want, n.trouble(t))
			}
			return nil
		})
		if err == nil {
			return
		}
		at := n.position(t)
		if at == moved {
			n.explain(t)
			t.Fatalf("no progress for %s, at %s: %v", patience, at, err)
		}
		moved = at
	}
	t.Fatalf("%s: %s is not %q after %s", n.name, sql, want, limit)
}

// explain logs what the node's sessions and this process are doing.
func (n *node) explain(t *testing.T) {
	t.Helper()
	at, err := n.try(t, `SELECT pid, application_name, state, wait_event_type, wait_event, pg_blocking_pids(pid), left(query, 100)
		FROM pg_stat_activity WHERE datname = current_database()`)
	t.Logf("%s: sessions (%v):\n%s", n.name, err, at)
	stacks := make([]byte, 1<<20)
	t.Logf("goroutines:\n%s", stacks[:runtime.Stack(stacks, true)])
}

// position is how far a node has come with everything.
func (n *node) position(t *testing.T) string {
	t.Helper()
	at, err := n.try(t, `SELECT concat_ws(' ', (SELECT string_agg(remote_lsn::text, ',' ORDER BY external_id) FROM pg_replication_origin_status),
		(SELECT string_agg(sync_status::text || sync_statuslsn::text, ',' ORDER BY sync_subid, sync_relname) FROM spock.local_sync_status),
		(SELECT string_agg(piece || state, ',' ORDER BY relname, piece) FROM spock.pgdrover_copy))`)
	if err != nil {
		return err.Error()
	}
	return at
}

func (n *node) trouble(t *testing.T) string {
	s, err := n.try(t, "SELECT string_agg(concat_ws(' ', state, last_error), '; ') FROM spock.pgdrover_subscription")
	if err != nil {
		return err.Error()
	}
	return s
}

// subscribe makes a subscription of n to provider and waits until it streams.
func (n *node) subscribe(t *testing.T, provider *node, options string) {
	t.Helper()
	name := "sub_" + provider.name + "_" + n.name
	n.exec(t, fmt.Sprintf("SELECT spock.sub_create('%s', '%s'%s)", name, provider.dsn(), options))
	n.eventually(t, fmt.Sprintf("SELECT status FROM spock.sub_show_status('%s')", name), "replicating")
}

// settle waits until everybody has applied what everybody had committed.
func settle(t *testing.T, nodes ...*node) {
	t.Helper()
	for _, provider := range nodes {
		lsn := provider.text(t, "SELECT spock.sync_event()")
		for _, n := range nodes {
			if n == provider {
				continue
			}
			n.reaches(t, provider, lsn)
		}
	}
}

// reaches waits until a node is past a position of a provider's log.
func (n *node) reaches(t *testing.T, provider *node, lsn string) {
	t.Helper()
	n.eventually(t, fmt.Sprintf(`SELECT coalesce(bool_and(remote_lsn >= '%s'), false)::text FROM pg_replication_origin_status
		WHERE external_id IN (SELECT s.sub_slot_name FROM spock.subscription s JOIN spock.node n ON n.node_id = s.sub_origin
		WHERE n.node_name = '%s')`, lsn, provider.name), "true")
}

// equal asserts that a query has the same answer everywhere.
func equal(t *testing.T, sql string, nodes ...*node) {
	t.Helper()
	want := strings.Split(nodes[0].text(t, sql), "\n")
	for _, n := range nodes[1:] {
		got := strings.Split(n.text(t, sql), "\n")
		if slices.Equal(want, got) {
			continue
		}
		for _, n := range nodes {
			t.Logf("%s:\nresolutions\n%s\ntombstones\n%s\nvectors\n%s", n.name, n.text(t, `SELECT relname, conflict_type, conflict_resolution,
				local_origin, left(local_tuple, 40), local_timestamp, remote_origin, left(remote_tuple, 40), remote_timestamp FROM spock.resolutions ORDER BY id DESC LIMIT 60`),
				n.text(t, "SELECT relid::regclass, key, coalesce(commit_time, (pg_xact_commit_timestamp_origin(xmin)).timestamp), author, author_lsn FROM spock.pgdrover_tombstone ORDER BY 3 DESC LIMIT 30"),
				n.text(t, "SELECT * FROM spock.pgdrover_vector"))
		}
		require.Equal(t, difference(want, got), difference(got, want), "%s and %s differ: %s", nodes[0].name, n.name, sql)
	}
}

// differing is what two nodes' answers to a query do not share.
func differing(t *testing.T, sql string, a, b *node) []string {
	t.Helper()
	x, y := strings.Split(a.text(t, sql), "\n"), strings.Split(b.text(t, sql), "\n")
	return append(difference(x, y), difference(y, x)...)
}

// difference is what a has and b has not.
func difference(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

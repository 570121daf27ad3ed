package multimaster

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// database is the name of every node's database.
const database = "app"

// node is a server with one database that is a node, and its engine.
type node struct {
	name   string
	owner  testing.TB // the test with which it all ends
	server *pgtest.Server
	engine *pgtest.Process
	// options are what its engine is given besides the database.
	options []string
	// links are what each of the others reaches this node by.
	links      map[string]*pgtest.Link
	subscribed map[string]bool

	mu   sync.Mutex // guards conn
	conn *pgx.Conn
}

// newServer starts a server that can be a node.
func newServer(t testing.TB, name string, settings map[string]string) *pgtest.Server {
	t.Helper()
	all := map[string]string{"track_commit_timestamp": "on", "max_connections": "80", "spock.restart_delay_default": "1000"}
	maps.Copy(all, settings)
	s := pgtest.NewServer(t, pgtest.ServerConfig{Name: name, Settings: all})
	s.Exec(t, "postgres", "CREATE DATABASE "+database)
	return s
}

// newNode makes a node whose engine runs.
func newNode(t testing.TB, name string, settings map[string]string) *node {
	t.Helper()
	n := newBare(t, name, settings)
	n.exec(t, fmt.Sprintf("SELECT spock.node_create('%s', '%s')", name, n.address(n.server.Port)))
	n.start(t)
	return n
}

// newBare makes a database with the schema that is no node yet.
func newBare(t testing.TB, name string, settings map[string]string) *node {
	t.Helper()
	n := newEmpty(t, name, settings)
	must(t, "spock", "install", "--dsn", n.server.DSN(database))
	return n
}

// newEmpty makes an empty database.
func newEmpty(t testing.TB, name string, settings map[string]string) *node {
	t.Helper()
	n := &node{name: name, owner: t, server: newServer(t, name, settings), links: map[string]*pgtest.Link{}, subscribed: map[string]bool{}}
	t.Cleanup(n.disconnect)
	return n
}

// must runs the program, which must succeed.
func must(t testing.TB, args ...string) pgtest.Result {
	t.Helper()
	res := run(t, args...)
	require.Zero(t, res.Code, "pgdrover %s\n%s%s", strings.Join(args, " "), res.Stdout, res.Stderr)
	return res
}

func run(t testing.TB, args ...string) pgtest.Result {
	t.Helper()
	return pgtest.Run(t, 2*stillness, pgtest.Command{Path: group.Program(t), Args: args})
}

func (n *node) address(port int) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s", port, pgtest.Superuser, database)
}

// link is what a subscriber reaches this node by.
func (n *node) link(t testing.TB, subscriber string) *pgtest.Link {
	t.Helper()
	if n.links[subscriber] == nil {
		n.links[subscriber] = pgtest.NewLink(n.owner, fmt.Sprintf("127.0.0.1:%d", n.server.Port))
	}
	return n.links[subscriber]
}

// start runs the node's engine.
func (n *node) start(t testing.TB) {
	t.Helper()
	n.engine = pgtest.Start(t, pgtest.Command{
		Name: "engine-" + n.name, Path: group.Program(t), Owner: n.owner,
		Args: append([]string{"spock", "run", "-vv", "--dsn", n.server.DSN(database), "--pgctl", filepath.Join(n.server.Bin, "pg_ctl")}, n.options...),
	})
}

// stop ends the engine with a signal and waits until it is gone.
func (n *node) stop(t testing.TB, how syscall.Signal) {
	t.Helper()
	require.NoError(t, n.engine.Signal(how))
	code := n.engine.Wait(t, 2*stillness)
	if how != syscall.SIGKILL && code != -1 { // -1: the signal came before the program listened
		require.Zero(t, code, "engine of %s", n.name)
	}
}

// crash kills the server as a power failure does, and starts it again.
func (n *node) crash(t testing.TB) {
	t.Helper()
	n.disconnect()
	n.server.Stop(t, syscall.SIGKILL)
	n.boot()
}

// boot starts a stopped server again.
func (n *node) boot() { n.server.Start(n.owner) }

func (n *node) disconnect() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn != nil {
		_ = n.conn.Close(context.Background())
		n.conn = nil
	}
}

// try runs statements and returns the rows of the last one that has any, a
// line each.
func (n *node) try(sql string) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 2*stillness)
	defer cancel()
	if n.conn == nil || n.conn.IsClosed() {
		conn, err := pgx.Connect(ctx, n.server.DSN(database))
		if err != nil {
			n.conn = nil
			return "", err
		}
		n.conn = conn
	}
	results, err := n.conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return "", fmt.Errorf("%s: %w", n.name, err)
	}
	var lines []string
	for _, r := range results {
		if len(r.FieldDescriptions) > 0 {
			lines = nil
		}
		for _, row := range r.Rows {
			fields := make([]string, len(row))
			for i, v := range row {
				fields[i] = string(v)
				if v == nil {
					fields[i] = "∅"
				}
			}
			lines = append(lines, strings.Join(fields, "|"))
		}
	}
	return strings.Join(lines, "\n"), nil
}

func (n *node) exec(t testing.TB, sql string) {
	t.Helper()
	_, err := n.try(sql)
	require.NoError(t, err, "%s: %s", n.name, sql)
}

func (n *node) text(t testing.TB, sql string) string {
	t.Helper()
	s, err := n.try(sql)
	require.NoError(t, err, "%s: %s", n.name, sql)
	return s
}

// eventually waits until a query gives that answer.
func (n *node) eventually(t testing.TB, sql, want string, others ...*node) {
	t.Helper()
	await(t, func() error {
		got, err := n.try(sql)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%w: %s: %s is %q, want %q", errWant, n.name, sql, got, want)
		}
		return nil
	}, append(others, n)...)
}

// subscribe makes n receive from a provider and waits until it does.
func (n *node) subscribe(t testing.TB, provider *node, options string) {
	t.Helper()
	n.ask(t, provider, options)
	n.eventually(t, fmt.Sprintf("SELECT status FROM spock.sub_show_status('%s')", subscription(provider, n)), "replicating", provider)
}

// ask makes the subscription, and waits for nothing.
func (n *node) ask(t testing.TB, provider *node, options string) {
	t.Helper()
	n.exec(t, fmt.Sprintf("SELECT spock.sub_create('%s', '%s'%s)", subscription(provider, n),
		n.address(provider.link(t, n.name).Port()), options))
	n.subscribed[provider.name] = true
}

func subscription(provider, subscriber *node) string {
	return "sub_" + provider.name + "_" + subscriber.name
}

// reaches waits until n has applied what the provider had written before lsn.
func (n *node) reaches(t testing.TB, provider *node, lsn string, nodes ...*node) {
	t.Helper()
	n.eventually(t, fmt.Sprintf(`SELECT coalesce(bool_and(remote_lsn >= '%s'), false) FROM pg_replication_origin_status
		WHERE external_id = (SELECT sub_slot_name FROM spock.subscription WHERE sub_name = '%s')`,
		lsn, subscription(provider, n)), "t", nodes...)
}

// follow waits until n has applied everything that the provider has committed.
func (n *node) follow(t testing.TB, provider *node) {
	t.Helper()
	n.reaches(t, provider, provider.text(t, "SELECT spock.sync_event()"), provider)
}

// explain logs what is known about a node that others disagree with.
func (n *node) explain(t testing.TB) {
	t.Helper()
	for what, sql := range map[string]string{
		"subscriptions": "SELECT s.sub_name, p.state, p.last_error, p.failures FROM spock.subscription s LEFT JOIN spock.pgdrover_subscription p USING (sub_id)",
		"sessions": `SELECT pid, application_name, state, wait_event, pg_blocking_pids(pid), left(query, 80) FROM pg_stat_activity
			WHERE datname = current_database()`,
		"resolutions": `SELECT relname, conflict_type, conflict_resolution, local_origin, left(local_tuple, 60), local_timestamp, remote_origin,
			left(remote_tuple, 60), remote_timestamp FROM spock.resolutions ORDER BY id DESC LIMIT 40`,
		"tombstones": `SELECT relid::regclass, left(key::text, 40), coalesce(commit_time, (pg_xact_commit_timestamp_origin(xmin)).timestamp), author, author_lsn
			FROM spock.pgdrover_tombstone ORDER BY 3 DESC LIMIT 40`,
		"vectors":    "SELECT * FROM spock.pgdrover_vector",
		"exceptions": "SELECT operation, table_name, error_message FROM spock.exception_log ORDER BY retry_errored_at DESC LIMIT 10",
	} {
		text, err := n.try(sql)
		if err != nil {
			text = err.Error()
		}
		t.Logf("%s, %s:\n%s", n.name, what, text)
	}
}

// mesh makes nodes that all receive from each other, with a schema on each.
func mesh(t testing.TB, count int, schema string, settings map[string]string) []*node {
	t.Helper()
	nodes := make([]*node, count)
	for i := range nodes {
		nodes[i] = newNode(t, fmt.Sprintf("n%d", i+1), settings)
		nodes[i].exec(t, schema)
	}
	for _, n := range nodes {
		for _, p := range nodes {
			if p != n {
				n.ask(t, p, "")
			}
		}
	}
	for _, n := range nodes {
		n.eventually(t, "SELECT bool_and(status = 'replicating') FROM spock.sub_show_status()", "t", nodes...)
	}
	return nodes
}

// fresh gives nodes that have come to rest new tables.
func fresh(t testing.TB, schema string, nodes ...*node) {
	t.Helper()
	settle(t, nodes...)
	for _, n := range nodes {
		n.exec(t, "SET client_min_messages = warning; SET spock.enable_ddl_replication = off")
		n.exec(t, "DROP TABLE IF EXISTS t, journal CASCADE")
		n.exec(t, schema)
		n.exec(t, "RESET spock.enable_ddl_replication; DELETE FROM spock.exception_log")
	}
}

// pause waits a little, or until the context ends.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

package zodan

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// database is the name of every node's database.
const database = "app"

// node is a server with one database that has the schema, and its engine. It
// may be in a cluster or not.
type node struct {
	name   string
	odd    bool // its connection string is a URI
	owner  testing.TB
	server *pgtest.Server
	engine *pgtest.Process

	mu   sync.Mutex // guards conn
	conn *pgx.Conn
}

// newNode makes a server that may become a node.
func newNode(t testing.TB, name string, settings map[string]string) *node {
	t.Helper()
	return newNodeFrom(t, name, "", settings)
}

// newNodeFrom is newNode with the server's programs in a directory of their own.
func newNodeFrom(t testing.TB, name, bin string, settings map[string]string) *node {
	t.Helper()
	all := map[string]string{
		"track_commit_timestamp": "on", "max_connections": "80", "spock.restart_delay_default": "200", "log_statement": "none",
		"spock.save_resolutions": "on", "spock.save_remote_wins": "on",
	}
	maps.Copy(all, settings)
	n := &node{name: name, owner: t, server: pgtest.NewServer(t, pgtest.ServerConfig{Name: name, Bin: bin, Settings: all})}
	n.server.Exec(t, "postgres", "CREATE DATABASE "+database)
	t.Cleanup(n.disconnect)
	res := pgtest.Run(t, patience, pgtest.Command{Path: group.Program(t), Args: []string{"spock", "install", "--dsn", n.server.DSN(database)}})
	require.Zero(t, res.Code, res.Stderr)
	n.start(t)
	return n
}

// dsn is how the tool and the other servers reach the node.
func (n *node) dsn() string {
	if n.odd {
		return fmt.Sprintf("postgresql://%s@127.0.0.1:%d/%s?connect_timeout=60", pgtest.Superuser, n.server.Port, database)
	}
	return fmt.Sprintf("host='127.0.0.1' port=%d user=%s dbname='%s'", n.server.Port, pgtest.Superuser, database)
}

// start runs the node's engine.
func (n *node) start(t testing.TB) {
	t.Helper()
	n.engine = pgtest.Start(t, pgtest.Command{
		Name: "engine-" + n.name, Path: group.Program(t), Owner: n.owner,
		Args: []string{"spock", "run", "--dsn", n.server.DSN(database), "--pgctl", filepath.Join(n.server.Bin, "pg_ctl")},
	})
}

// crash kills the server as a power failure does, and starts it again.
func (n *node) crash(t testing.TB) {
	t.Helper()
	n.disconnect()
	n.server.Stop(t, syscall.SIGKILL)
	n.server.Start(n.owner)
}

// restartEngine kills the engine and starts another.
func (n *node) restartEngine(t testing.TB) {
	t.Helper()
	require.NoError(t, n.engine.Signal(syscall.SIGKILL))
	n.engine.Wait(t, patience)
	n.start(t)
}

func (n *node) disconnect() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn != nil {
		_ = n.conn.Close(context.Background())
		n.conn = nil
	}
}

// try runs statements and returns the rows of the last one that has any, a line each.
func (n *node) try(sql string) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
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
func (n *node) eventually(t testing.TB, sql, answer string) {
	t.Helper()
	await(t, func() error {
		got, err := n.try(sql)
		if err != nil {
			return err
		}
		if got != answer {
			return want("%s: %s is %q, not %q", n.name, sql, got, answer)
		}
		return nil
	})
}

// footprint is all that a join leaves in the catalogs of a node.
const footprint = `
SELECT 'node ' || node_name FROM spock.node
UNION ALL SELECT 'interface ' || if_name FROM spock.node_interface
UNION ALL SELECT 'subscription ' || sub_name || ' ' || sub_enabled FROM spock.subscription
UNION ALL SELECT 'set ' || set_name FROM spock.replication_set
UNION ALL SELECT 'member ' || set_reloid::regclass FROM spock.replication_set_table
UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin o WHERE EXISTS (SELECT FROM spock.pgdrover_origin r WHERE r.roident = o.roident)
UNION ALL SELECT 'fence ' || run_id FROM spock.pgdrover_fence
UNION ALL SELECT 'run ' || run_id FROM spock.pgdrover_run WHERE state <> 'done'
UNION ALL SELECT 'inventory ' || run_id FROM spock.pgdrover_inventory
UNION ALL SELECT 'progress ' || remote_node_id FROM spock.progress
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_'
UNION ALL SELECT 'object ' || oid::regclass FROM pg_class WHERE relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname NOT IN ('spock', 'pgdrover', 'pg_catalog', 'information_schema') AND nspname !~ '^pg_(toast|temp)')
UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE pronamespace IN (SELECT oid FROM pg_namespace WHERE nspname NOT IN ('spock', 'pgdrover', 'pg_catalog', 'information_schema'))
UNION ALL SELECT 'type ' || oid::regtype FROM pg_type WHERE typnamespace IN (SELECT oid FROM pg_namespace WHERE nspname NOT IN ('spock', 'pgdrover', 'pg_catalog', 'information_schema') AND nspname !~ '^pg_(toast|temp)')
UNION ALL SELECT 'publication ' || pubname FROM pg_publication
UNION ALL SELECT 'extension ' || extname FROM pg_extension
UNION ALL SELECT 'setting ' || array_to_string(setconfig, ',') FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = current_database()
UNION ALL SELECT 'lock' FROM pg_locks WHERE locktype = 'advisory' AND classid = 727400016 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY 1`

// footprints are those of all nodes.
func footprints(t testing.TB, nodes ...*node) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, n := range nodes {
		await(t, func() error { // the session of a tool that has just ended may still be there
			text, err := n.try(footprint)
			if err == nil && slices.Contains(strings.Split(text, "\n"), "lock") {
				return want("a tool works on %s", n.name)
			}
			all[n.name] = text
			return err
		})
	}
	return all
}

// requireFootprints waits until all nodes are again as they were. What is
// retired goes when nobody needs it any more.
func requireFootprints(t testing.TB, before map[string]string, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		await(t, func() error {
			now, err := n.try(footprint)
			if err != nil {
				return err
			}
			if now != before[n.name] {
				return want("%s is not as it was before; more:\n%s\nless:\n%s", n.name, without(now, before[n.name]), without(before[n.name], now))
			}
			return nil
		})
	}
}

// without are the lines of a that b has not.
func without(a, b string) string {
	have := map[string]bool{}
	for line := range strings.SplitSeq(b, "\n") {
		have[line] = true
	}
	var left []string
	for line := range strings.SplitSeq(a, "\n") {
		if !have[line] {
			left = append(left, line)
		}
	}
	return strings.Join(left, "\n")
}

// settle waits until every node has applied what all others had committed.
func settle(t testing.TB, nodes ...*node) {
	t.Helper()
	for _, provider := range nodes {
		at := provider.text(t, "SELECT spock.sync_event()")
		for _, n := range nodes {
			if n != provider {
				n.eventually(t, fmt.Sprintf(`SELECT coalesce(bool_and(o.remote_lsn >= '%s'), false) FROM spock.subscription s
					JOIN spock.node p ON p.node_id = s.sub_origin JOIN pg_replication_origin_status o ON o.external_id = s.sub_slot_name::text
					WHERE p.node_name = '%s'`, at, provider.name), "t")
			}
		}
	}
}

// equal waits until a query has the same answer on all nodes.
func equal(t testing.TB, sql string, nodes ...*node) {
	t.Helper()
	first := nodes[0].text(t, sql)
	for _, n := range nodes[1:] {
		got := n.text(t, sql)
		if got != first {
			t.Fatalf("%s\nonly on %s:\n%s\nonly on %s:\n%s", sql, nodes[0].name, without(first, got), n.name, without(got, first))
		}
	}
}

// explain logs what is known about a node.
func (n *node) explain(t testing.TB) {
	t.Helper()
	for _, sql := range []string{
		"SELECT subscription_name, status FROM spock.sub_show_status()",
		"SELECT s.sub_name, p.state, p.last_error FROM spock.subscription s JOIN spock.pgdrover_subscription p USING (sub_id)",
		"SELECT slot_name, active, restart_lsn, confirmed_flush_lsn, wal_status FROM pg_replication_slots",
		"SELECT operation, table_name, error_message FROM spock.exception_log LIMIT 5",
		"SELECT pid, application_name, state, wait_event, left(query, 100) FROM pg_stat_activity WHERE datname = current_database()",
	} {
		text, err := n.try(sql)
		if err != nil {
			text = err.Error()
		}
		t.Logf("%s: %s\n%s", n.name, sql, text)
	}
}

// ready waits until nodes are fit for a join: engines run, and what subscribes replicates.
func ready(t testing.TB, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		n.eventually(t, `SELECT CASE WHEN EXISTS (SELECT FROM spock.local_node)
			THEN pgdrover.engine_connected() AND (SELECT coalesce(bool_and(status = 'replicating'), true) FROM spock.sub_show_status())
			ELSE EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name ~ '^spock manager') END`, "t")
	}
}

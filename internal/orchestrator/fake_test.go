package orchestrator_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// cluster is a set of servers that remember what they were sent.
type cluster struct {
	mu sync.Mutex
	// sent is every statement that changes or waits, with its node in front.
	sent []string
	// objects are what was created, by node and name.
	objects map[string]bool
	// answer may answer a statement; nil leaves it to the default.
	answer func(node, sql string) *answer
	closed int
	opened int
}

type answer struct {
	result orchestrator.Result
	err    error
}

func newCluster() *cluster { return &cluster{objects: map[string]bool{}} }

func (c *cluster) dial(_ context.Context, node workflow.Node, _ func(spock.Notice)) (orchestrator.Server, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.reply(node.Name, "connect"); a != nil {
		return nil, a.err
	}
	c.opened++
	return &fakeServer{cluster: c, node: node.Name}, nil
}

func (c *cluster) reply(node, sql string) *answer {
	if c.answer == nil {
		return nil
	}
	return c.answer(node, sql)
}

type fakeServer struct {
	cluster *cluster
	node    string
}

func (s *fakeServer) Closed() bool { return false }

func (s *fakeServer) Close(context.Context) error {
	s.cluster.mu.Lock()
	defer s.cluster.mu.Unlock()
	s.cluster.closed++
	return nil
}

func (s *fakeServer) Run(ctx context.Context, sql string) (orchestrator.Result, error) {
	return s.Ask(ctx, sql)
}

func (s *fakeServer) Ask(ctx context.Context, sql string, args ...*string) (orchestrator.Result, error) {
	if ctx.Err() != nil {
		return orchestrator.Result{}, ctx.Err()
	}
	c := s.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	plain := workflow.Statement{SQL: sql, Args: args}.Plain()
	if a := c.reply(s.node, plain); a != nil {
		if a.err != nil || !strings.HasPrefix(plain, "SELECT EXISTS") {
			c.sent = append(c.sent, s.node+": "+plain)
		}
		return a.result, a.err
	}
	return c.standard(s.node, plain), nil
}

// standard answers as a healthy server would.
func (c *cluster) standard(node, sql string) orchestrator.Result {
	name := node + " " + quoted(sql)
	switch {
	case strings.HasPrefix(sql, "SELECT to_regnamespace"):
		return boolean("ours", false)
	case strings.Contains(sql, "pg_try_advisory_lock"):
		return boolean("ok", true)
	case strings.Contains(sql, "current_database()\n") || sql == "SELECT pg_catalog.current_database()":
		return one("current_database", "pgedge")
	case strings.HasPrefix(sql, "SELECT EXISTS"):
		return boolean("exists", c.objects[name])
	case strings.Contains(sql, "FROM spock.local_node") || strings.Contains(sql, "FROM spock.subscription") ||
		strings.Contains(sql, "FROM spock.replication_set") || strings.Contains(sql, "plugin, database ="):
		if strings.HasPrefix(sql, "SELECT NOT EXISTS") {
			return boolean("none", false)
		}
		return orchestrator.Result{}
	}
	c.sent = append(c.sent, node+": "+sql)
	for _, create := range []string{"node_create", "sub_create", "repset_create", "pg_create_logical"} {
		if strings.Contains(sql, create+"(") || strings.Contains(sql, create) && create == "pg_create_logical" {
			c.objects[name] = true
		}
	}
	for _, drop := range []string{"node_drop", "sub_drop", "repset_drop", "pg_drop_replication_slot"} {
		if strings.Contains(sql, drop) {
			delete(c.objects, name)
		}
	}
	switch {
	case strings.Contains(sql, "sync_event()"):
		return one("sync_event", "0/1A")
	case strings.Contains(sql, "sub_create"):
		return one("sub_create", "777")
	case strings.Contains(sql, "CALL spock.wait_for_sync_event"):
		return boolean("result", true)
	case strings.Contains(sql, "wait_for_apply_worker"):
		return boolean("wait_for_apply_worker", true)
	case strings.Contains(sql, "SELECT commit_timestamp"):
		return one("commit_timestamp", "2026-11-21 12:00:00+00")
	case strings.Contains(sql, "sub_show_status"):
		return one("status", "replicating")
	}
	return one("done", "1")
}

// quoted is the first constant of a statement: the name of its object.
func quoted(sql string) string {
	_, rest, ok := strings.Cut(sql, "'")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "'")
	return name
}

func one(column, value string) orchestrator.Result {
	return orchestrator.Result{
		Columns: []orchestrator.Column{{Name: column, Type: pgtype.TextOID}}, Rows: [][]*string{{&value}},
	}
}

// two is a row of two columns.
func two(column, value, second, other string) orchestrator.Result {
	return orchestrator.Result{
		Columns: []orchestrator.Column{{Name: column, Type: pgtype.TextOID}, {Name: second, Type: pgtype.BoolOID}}, Rows: [][]*string{{&value, &other}},
	}
}

func boolean(column string, value bool) orchestrator.Result {
	text := "f"
	if value {
		text = "t"
	}
	return orchestrator.Result{
		Columns: []orchestrator.Column{{Name: column, Type: pgtype.BoolOID}}, Rows: [][]*string{{&text}},
	}
}

func refusal(code, message string) *answer {
	return &answer{err: &pgconn.PgError{Severity: "ERROR", Code: code, Message: message}}
}

// run is a run of a list of steps on a fake cluster.
type run struct {
	cluster *cluster
	cfg     orchestrator.Config
	events  []orchestrator.Event
}

func config(tb testing.TB) *workflow.Config {
	tb.Helper()
	text, err := os.ReadFile("../workflow/testdata/spockctrl.json")
	require.NoError(tb, err)
	c, err := workflow.ParseConfig(text)
	require.NoError(tb, err)
	return c
}

func newRun(tb testing.TB, steps string) *run {
	tb.Helper()
	nodes := config(tb)
	w, err := workflow.Parse([]byte(steps), workflow.CheckConfig{Config: nodes, AllowShell: true})
	require.NoError(tb, err)
	r := &run{cluster: newCluster()}
	r.cfg = orchestrator.Config{
		Name: w.Name, Cluster: nodes.Cluster, Nodes: nodes.Nodes, Steps: w.Steps, Success: w.Success, Failure: w.Failure,
		Journal: orchestrator.FileJournal{Path: filepath.Join(tb.TempDir(), "state", "run.json")},
		Dial:    r.cluster.dial, OnEvent: func(e orchestrator.Event) { r.events = append(r.events, e) },
	}
	return r
}

func example(tb testing.TB, file string) *run {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("../workflow/testdata", file))
	require.NoError(tb, err)
	return newRun(tb, string(text))
}

// start runs it once, with an executor of its own.
func (r *run) start(ctx context.Context, tb testing.TB) error {
	tb.Helper()
	r.events, r.cluster.sent = nil, nil
	e, err := orchestrator.New(r.cfg)
	require.NoError(tb, err)
	err = e.Run(ctx)
	require.Equal(tb, r.cluster.opened, r.cluster.closed, "every session is closed")
	return err
}

// ended are the steps that came to an end, with their status.
func (r *run) ended() []string {
	var all []string
	for _, e := range r.events {
		if e.Status != orchestrator.Running && e.Status != orchestrator.Noted {
			all = append(all, e.Step+" "+string(e.Status))
		}
	}
	return all
}

// sqlStep is one step of a file.
func sqlStep(node, sql, more string) string {
	quoted, err := json.Marshal("--sql=" + sql)
	if err != nil {
		panic(err)
	}
	return `{"sql": {"node": "` + node + `", "args": [` + string(quoted) + `]` + more + `}}`
}

func list(steps ...string) string { return `{"steps": [` + strings.Join(steps, ",") + `]}` }

var errGone = errors.New("the connection is gone")

// soon is a time that no virtual clock of these tests reaches by itself.
const soon = time.Hour

package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// copierVar makes the test binary a process that makes a base backup.
const copierVar = "PGDROVER_TEST_COPIER"

// patience bounds every wait; the machine may be busy.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	if dir := os.Getenv(starterVar); dir != "" {
		runStarter(dir)
		return
	}
	if spec := os.Getenv(initVar); spec != "" {
		runInit(spec)
		return
	}
	if spec := os.Getenv(copierVar); spec != "" {
		runCopier(spec)
		return
	}
	pgtest.Setup{SmallDisk: 120}.Main(m)
}

// node is an instance under test and the directory around it.
type node struct {
	*postgres.Instance
	id   int64
	root string
	log  *logBuffer
}

// logBuffer keeps a log that the instance may still write to.
// promote also compares what it returns with what the server has.
func (n *node) promote(t *testing.T) {
	t.Helper()
	history, err := n.Promote(within(t))
	require.NoError(t, err)
	stored, err := n.HistoryOf(history.TLI())
	require.NoError(t, err)
	require.Equal(t, stored, history)
	require.False(t, n.IsStandby())
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// newNode returns an instance without a data directory.
func newNode(t *testing.T, id int64) *node {
	t.Helper()
	return newNodeIn(t, id, pgtest.Dir(t))
}

func newNodeIn(t *testing.T, id int64, root string) *node {
	t.Helper()
	log := &logBuffer{}
	n := &node{id: id, root: root, log: log, Instance: postgres.New(postgres.Config{
		Tools: postgres.Tools{Dir: pgtest.Bin(t)}, DataDir: filepath.Join(root, "data"), Port: pgtest.FreePort(t),
		ListenAddresses: "127.0.0.1", SocketDir: root,
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})}
	t.Cleanup(func() {
		n.end(t)
		if t.Failed() {
			t.Logf("log of node %d:\n%s\n%s", id, log, n.StartupLog())
		}
	})
	return n
}

// end stops whatever runs, at once.
func (n *node) end(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	p, err := n.Adopt()
	if errors.Is(err, postgres.ErrNotRunning) {
		require.NoError(t, n.EndOrphans(ctx))
		return
	}
	require.NoError(t, err)
	defer p.Release()
	require.NoError(t, p.Stop(ctx, postgres.StopImmediate))
}

func settings(n *node) pg.Settings {
	s := postgres.NodeSettings(postgres.SettingsConfig{
		ListenAddresses: "127.0.0.1", Port: n.Port(), AuthMethod: "trust", Tuning: postgres.Tuning{Small: true},
	})
	return append(s,
		pg.Setting{Name: "fsync", Value: "off"}, pg.Setting{Name: "shared_buffers", Value: "16MB"},
		pg.Setting{Name: "logging_collector", Value: "off"}, pg.Setting{Name: "autovacuum", Value: "off"})
}

// newPrimary returns a running primary that lets every node in.
func newPrimary(t *testing.T, id int64) (*node, *postgres.Postmaster) {
	t.Helper()
	n := newNode(t, id)
	ctx := within(t)
	require.NoError(t, n.InitDB(ctx, postgres.InitDBConfig{Args: []string{"--no-sync"}}))
	_, err := n.WriteSettings(settings(n))
	require.NoError(t, err)
	_, err = n.EnsureHBA(ctx, append(postgres.PeerRules(false, "postgres", "127.0.0.1/32", "trust"), postgres.MonitorRule(false, "127.0.0.1/32"))...)
	require.NoError(t, err)
	p := n.start(t)
	require.NoError(t, n.With(ctx, func(s *postgres.Session) error {
		return errors.Join(s.EnsureRole(ctx, postgres.ReplicationRole("")), s.EnsureRole(ctx, postgres.MonitorRole()))
	}))
	n.exec(t, `CREATE TABLE t (id bigint PRIMARY KEY)`)
	return n, p
}

func (n *node) start(t *testing.T) *postgres.Postmaster {
	t.Helper()
	p, err := n.Start(within(t), postgres.StartConfig{})
	require.NoError(t, err)
	t.Cleanup(p.Release)
	_, err = p.WaitReady(within(t))
	require.NoError(t, err)
	return p
}

func (n *node) stop(t *testing.T, p *postgres.Postmaster, mode postgres.StopMode) {
	t.Helper()
	require.NoError(t, p.Stop(within(t), mode))
}

// upstream is how node n reaches other.
func (n *node) upstream(other *node) postgres.UpstreamConfig {
	return postgres.UpstreamConfig{ID: n.id, Host: "127.0.0.1", Port: other.Port(), DBName: "postgres", SSLMode: "prefer"}
}

func (n *node) slot(t *testing.T, ids ...int64) {
	t.Helper()
	ctx := within(t)
	require.NoError(t, n.With(ctx, func(s *postgres.Session) error {
		var want []postgres.SlotWant
		for _, id := range ids {
			want = append(want, postgres.SlotWant{ID: id})
		}
		return s.EnsureSlots(ctx, want)
	}))
}

// newStandby returns a running standby of primary that streams.
func newStandby(t *testing.T, primary *node, id int64) (*node, *postgres.Postmaster) {
	t.Helper()
	return newStandbyIn(t, primary, id, pgtest.Dir(t))
}

func newStandbyIn(t *testing.T, primary *node, id int64, root string) (*node, *postgres.Postmaster) {
	t.Helper()
	n := newNodeIn(t, id, root)
	ctx := within(t)
	have := []int64{id}
	require.NoError(t, primary.With(ctx, func(s *postgres.Session) error {
		slots, err := s.Slots(ctx)
		for _, slot := range slots {
			if other, ok := pg.ParseStandbyName(slot.Name); ok && other != id {
				have = append(have, other)
			}
		}
		return err
	}))
	primary.slot(t, have...)
	require.NoError(t, n.BaseBackup(ctx, n.backup(primary)))
	_, err := n.WriteSettings(settings(n))
	require.NoError(t, err)
	p := n.start(t)
	require.NoError(t, n.WaitStreaming(ctx))
	return n, p
}

func (n *node) backup(from *node) postgres.BackupConfig {
	return postgres.BackupConfig{
		Source: postgres.CopyFrom(n.upstream(from)), Slot: pg.StandbyName(n.id), BackupDir: filepath.Join(n.root, "backup"),
		Standby: postgres.StandbyOf(n.upstream(from)),
	}
}

// dsn is an ordinary client's way in.
func (n *node) dsn() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres sslmode=disable", n.Port())
}

func (n *node) exec(t *testing.T, sql string) {
	t.Helper()
	conn := pgtest.Connect(t, n.dsn())
	_, err := conn.Exec(within(t), sql)
	require.NoError(t, err)
	require.NoError(t, conn.Close(within(t)))
}

func (n *node) ask(t *testing.T, sql string) (value string) {
	t.Helper()
	conn := pgtest.Connect(t, n.dsn())
	require.NoError(t, conn.QueryRow(within(t), sql).Scan(&value))
	require.NoError(t, conn.Close(within(t)))
	return value
}

func (n *node) count(t *testing.T) int {
	t.Helper()
	conn := pgtest.Connect(t, n.dsn())
	var rows int
	require.NoError(t, conn.QueryRow(within(t), `SELECT count(*) FROM t`).Scan(&rows))
	require.NoError(t, conn.Close(within(t)))
	return rows
}

func (n *node) observe(t *testing.T) postgres.Observation {
	t.Helper()
	var o postgres.Observation
	ctx := within(t)
	require.NoError(t, n.With(ctx, func(s *postgres.Session) (err error) {
		o, err = s.Observe(ctx)
		return err
	}))
	return o
}

// eventually waits for something that the server does in its own time.
func eventually(t *testing.T, look func() error) {
	t.Helper()
	pgtest.Eventually(t, patience, look)
}

func waitExit(t *testing.T, p *postgres.Postmaster) {
	t.Helper()
	select {
	case <-p.Exited():
	case <-within(t).Done():
		t.Fatal("the postmaster did not end")
	}
}

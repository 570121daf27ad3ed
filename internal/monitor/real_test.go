package monitor

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// patience bounds every wait of the tests below; nothing is ever this slow.
const patience = 60 * time.Second

// realConfig describes a monitor in a directory of the test.
func realConfig(t *testing.T) Config {
	t.Helper()
	dir := pgtest.Dir(t)
	f := DefaultFile()
	f.PGData, f.Hostname, f.ListenAddresses, f.Port = filepath.Join(dir, "monitor"), "localhost", "localhost", pgtest.FreePort(t)
	return Config{
		Paths:  Paths{ConfigFile: filepath.Join(dir, "config", "pg_autoctl.cfg"), PIDFile: filepath.Join(dir, "run", "pg_autoctl.pid")},
		File:   f,
		Tools:  postgres.Tools{Dir: pgtest.Bin(t)},
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})), SocketDir: dir,
	}
}

// running is a monitor that runs in this process.
type running struct {
	cfg  Config
	stop context.CancelFunc
	done chan error
}

// start runs a monitor and waits until it decides.
func start(t *testing.T, cfg Config) *running {
	t.Helper()
	ready := make(chan struct{}, 1)
	cfg.Ready = func() { poke(ready) }
	m, err := New(cfg)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	r := &running{cfg: cfg, stop: stop, done: make(chan error, 1)}
	go func() { r.done <- m.Run(ctx) }()
	t.Cleanup(func() { r.end(t) })
	select {
	case <-ready:
	case err := <-r.done:
		r.done <- err
		require.NoError(t, err)
		require.Fail(t, "the monitor ended by itself")
	case <-time.After(patience):
		require.Fail(t, "the monitor does not decide")
	}
	return r
}

func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	err := <-r.done
	r.done <- err
	require.NoError(t, err)
}

func connect(t *testing.T, cfg Config) *pgautofailover.DB {
	t.Helper()
	m, err := New(cfg)
	require.NoError(t, err)
	info, err := m.ownConnInfo()
	require.NoError(t, err)
	db, err := pgautofailover.Connect(t.Context(), pgautofailover.ConnectConfig{ConnInfo: info, ApplicationName: "test"})
	require.NoError(t, err)
	t.Cleanup(func() { closeDB(context.WithoutCancel(t.Context()), db) })
	return db
}

func TestCreateThenRun(t *testing.T) {
	t.Parallel()
	cfg := realConfig(t)
	require.NoError(t, Create(t.Context(), CreateConfig{Config: cfg, Formations: []string{"other"}}))
	require.NoError(t, Create(t.Context(), CreateConfig{Config: cfg, Formations: []string{"other"}}), "again is no harm")
	status, err := cfg.instance().Status()
	require.NoError(t, err)
	require.False(t, status.Running)

	saved, err := LoadFile(cfg.Paths.ConfigFile)
	require.NoError(t, err)
	require.Equal(t, cfg.File, saved)

	start(t, cfg)
	db := connect(t, cfg)
	alive, err := db.MonitorAlive(t.Context())
	require.NoError(t, err)
	require.True(t, alive)
	formations, err := db.Formations(t.Context())
	require.NoError(t, err)
	require.Len(t, formations, 2)

	// Nodes reach it by its URI, and see every setting.
	conn, err := pgx.Connect(t.Context(), cfg.File.URI())
	require.NoError(t, err)
	defer conn.Close(t.Context()) //nolint:errcheck // the test is over
	var timeout string
	require.NoError(t, conn.QueryRow(t.Context(), "SHOW pgautofailover.node_considered_unhealthy_timeout").Scan(&timeout))
	require.Equal(t, "3s", timeout)
}

func TestServerThatDiesIsStartedAgain(t *testing.T) {
	t.Parallel()
	cfg := realConfig(t)
	require.NoError(t, Create(t.Context(), CreateConfig{Config: cfg, Run: true}))
	r := start(t, cfg)
	before, err := cfg.instance().Status()
	require.NoError(t, err)
	p, err := cfg.instance().Adopt()
	require.NoError(t, err)
	require.NoError(t, p.Signal(postgres.StopImmediate))
	require.NoError(t, p.Wait(t.Context()))
	p.Release()
	pgtest.Eventually(t, patience, func() error {
		db, err := pgautofailover.Connect(t.Context(), pgautofailover.ConnectConfig{ConnInfo: r.connInfo(t), ApplicationName: "test"})
		if err != nil {
			return err
		}
		defer closeDB(t.Context(), db)
		alive, err := db.MonitorAlive(t.Context())
		if err == nil && !alive {
			err = errGone
		}
		return err
	})
	after, err := cfg.instance().Status()
	require.NoError(t, err)
	require.NotEqual(t, before.PID, after.PID)
}

func TestServerIsAdopted(t *testing.T) {
	t.Parallel()
	cfg := realConfig(t)
	require.NoError(t, Create(t.Context(), CreateConfig{Config: cfg, Run: true}))
	before, err := cfg.instance().Status()
	require.NoError(t, err)
	require.True(t, before.Running)
	start(t, cfg)
	after, err := cfg.instance().Status()
	require.NoError(t, err)
	require.Equal(t, before.PID, after.PID)
}

func (r *running) connInfo(t *testing.T) pg.ConnInfo {
	t.Helper()
	m, err := New(r.cfg)
	require.NoError(t, err)
	info, err := m.ownConnInfo()
	require.NoError(t, err)
	return info
}

package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/postgres"
	"github.com/pgdrover/pgdrover/internal/supervisor"
)

func TestMain(m *testing.M) {
	if os.Getenv(createVar) != "" {
		os.Exit(createFromEnv())
	}
	pgtest.Main(m)
}

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
	defer conn.Close(t.Context())
	var timeout string
	require.NoError(t, conn.QueryRow(t.Context(), "SHOW pgautofailover.node_considered_unhealthy_timeout").Scan(&timeout))
	require.Equal(t, "3s", timeout)
	var connections int
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT current_setting('max_connections')::int").Scan(&connections))
	require.Equal(t, 1000, connections)
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

func TestSecondDeciderWaitsForTheFirst(t *testing.T) {
	t.Parallel()
	cfg := realConfig(t)
	require.NoError(t, Create(t.Context(), CreateConfig{Config: cfg, Run: true}))
	r := start(t, cfg)
	m, err := New(cfg)
	require.NoError(t, err)
	ready := make(chan struct{}, 1)
	second := newDecider(&database{info: m.ownConnInfo, holder: "second", log: cfg.Logger}, newPostgresDialer(), cfg.Logger, func() { poke(ready) })
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = second.Run(ctx)
	}()
	defer func() {
		stop()
		<-done
	}()
	db := pgtest.Connect(t, r.connInfo(t).DSN())
	one := func(want int, sql string) {
		t.Helper()
		pgtest.Eventually(t, patience, func() error {
			var got int
			if err := db.QueryRow(t.Context(), sql).Scan(&got); err != nil {
				return err
			}
			if got != want {
				return fmt.Errorf("%s: got %d, want %d", sql, got, want)
			}
			return nil
		})
	}
	one(2, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgdrover monitor decider'")
	one(1, "SELECT number FROM pgautofailover.decider")
	require.Empty(t, ready)
	// The first one loses its connection: one of the two takes over, with a higher number.
	_, err = db.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
		WHERE locktype = 'advisory' AND objid = 1 AND application_name = 'pgdrover monitor decider' AND granted`)
	require.NoError(t, err)
	one(2, "SELECT number FROM pgautofailover.decider")
	one(2, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgdrover monitor decider'")
}

func TestSettingsAreNoticedByThemselves(t *testing.T) {
	t.Parallel()
	cfg := realConfig(t)
	require.NoError(t, Create(t.Context(), CreateConfig{Config: cfg, Run: true}))
	m, err := New(cfg)
	require.NoError(t, err)
	d := newDecider(&database{info: m.ownConnInfo, holder: "test", log: cfg.Logger}, newPostgresDialer(), cfg.Logger, nil)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = d.Run(ctx)
	}()
	defer func() {
		stop()
		<-done
		stopServer(t, cfg)
	}()
	info, err := m.ConnInfo("")
	require.NoError(t, err)
	db := pgtest.Connect(t, info.DSN())
	_, err = db.Exec(t.Context(), "ALTER SYSTEM SET pgautofailover.node_considered_unhealthy_timeout = '2min'")
	require.NoError(t, err)
	_, err = db.Exec(t.Context(), "SELECT pg_reload_conf()")
	require.NoError(t, err)
	pgtest.Eventually(t, patience, func() error {
		if got := d.current().Decision.UnhealthyTimeout; got != 2*time.Minute {
			return fmt.Errorf("the timeout is %s", got)
		}
		return nil
	})
}

func stopServer(t *testing.T, cfg Config) {
	t.Helper()
	p, err := cfg.instance().Adopt()
	require.NoError(t, err)
	defer p.Release()
	require.NoError(t, p.Stop(context.WithoutCancel(t.Context()), postgres.StopFast))
}

// createVar makes this binary create a monitor instead of running tests: a
// creation that can be killed.
const createVar = "PGDROVER_TEST_CREATE_MONITOR"

func createFromEnv() int {
	var cfg CreateConfig
	if err := json.Unmarshal([]byte(os.Getenv(createVar)), &cfg.File); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cfg.Tools.Dir, cfg.SocketDir = filepath.Dir(cfg.File.PgCtl), filepath.Dir(cfg.File.PGData)
	cfg.Paths.PIDFile = cfg.File.PGData + ".pid"
	cfg.Paths.ConfigFile = cfg.File.PGData + ".cfg"
	if err := Create(context.Background(), cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestKilledCreationIsFinishedByTheNext(t *testing.T) {
	t.Parallel()
	cfg := realConfig(t)
	cfg.File.PgCtl = filepath.Join(cfg.Tools.Dir, "pg_ctl")
	text, err := json.Marshal(cfg.File)
	require.NoError(t, err)
	self, err := os.Executable()
	require.NoError(t, err)
	command := pgtest.Command{Name: "create", Path: self, Env: []string{createVar + "=" + string(text)}}
	// A whole creation takes one to two seconds; every kill is a little later.
	for after := 20 * time.Millisecond; after < 1500*time.Millisecond; after += 70 * time.Millisecond {
		p := pgtest.Start(t, command)
		select {
		case <-p.Done():
		case <-time.After(after):
			require.NoError(t, p.Signal(syscall.SIGKILL))
			<-p.Done()
		}
	}
	p := pgtest.Start(t, command)
	require.Zero(t, p.Wait(t, patience), p.Log())
	cfg.Paths = Paths{PIDFile: cfg.File.PGData + ".pid", ConfigFile: cfg.File.PGData + ".cfg"}
	start(t, cfg)
}

func TestFailedCreationLeavesNothing(t *testing.T) {
	t.Parallel()
	cfg := realConfig(t)
	busy, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort("localhost", strconv.Itoa(cfg.File.Port)))
	require.NoError(t, err)
	err = Create(t.Context(), CreateConfig{Config: cfg})
	e, ok := errors.AsType[*ConfigError](err)
	require.True(t, ok, "%v", err)
	require.Contains(t, e.Hint(), "--pgport")
	require.NoDirExists(t, cfg.File.PGData)
	require.NoFileExists(t, cfg.Paths.ConfigFile)
	require.NoError(t, busy.Close())

	// A setting that the server refuses is found only once everything is there.
	wrong := cfg
	wrong.File.ListenAddresses = "999.999.999.999"
	err = Create(t.Context(), CreateConfig{Config: wrong})
	require.Error(t, err)
	require.NoDirExists(t, cfg.File.PGData)
	require.NoFileExists(t, cfg.Paths.ConfigFile)

	// Somebody's own server is none of our business.
	require.NoError(t, cfg.instance().InitDB(t.Context(), postgres.InitDBConfig{}))
	p, err := cfg.instance().Start(t.Context(), postgres.StartConfig{})
	require.NoError(t, err)
	_, err = p.WaitReady(t.Context())
	require.NoError(t, err)
	require.ErrorIs(t, Create(t.Context(), CreateConfig{Config: cfg}), errNotOurs)
	status, err := cfg.instance().Status()
	require.NoError(t, err)
	require.True(t, status.Running)
	require.NoError(t, p.Stop(t.Context(), postgres.StopFast))
	p.Release()
}

func TestSecondRunIsRefused(t *testing.T) {
	t.Parallel()
	cfg := realConfig(t)
	require.NoError(t, Create(t.Context(), CreateConfig{Config: cfg}))
	start(t, cfg)
	m, err := New(cfg)
	require.NoError(t, err)
	_, ok := errors.AsType[*supervisor.AlreadyRunningError](m.Run(t.Context()))
	require.True(t, ok)
	_, ok = errors.AsType[*supervisor.AlreadyRunningError](Create(t.Context(), CreateConfig{Config: cfg}))
	require.True(t, ok)
}

func TestRemovedPidFileEndsTheMonitor(t *testing.T) {
	t.Parallel()
	cfg := realConfig(t)
	require.NoError(t, Create(t.Context(), CreateConfig{Config: cfg}))
	r := start(t, cfg)
	require.NoError(t, os.Remove(cfg.Paths.PIDFile))
	select {
	case err := <-r.done:
		r.done <- err
	case <-time.After(patience):
		require.Fail(t, "it goes on")
	}
	status, err := cfg.instance().Status()
	require.NoError(t, err)
	require.False(t, status.Running)
}

func TestReload(t *testing.T) {
	t.Parallel()
	cfg := realConfig(t)
	reload := make(chan struct{}, 1)
	cfg.Reload = reload
	require.NoError(t, Create(t.Context(), CreateConfig{Config: cfg}))
	r := start(t, cfg)
	changed := cfg.File
	changed.AuthMethod = "md5"
	require.NoError(t, changed.Save(cfg.Paths.ConfigFile))
	reload <- struct{}{}
	pgtest.Eventually(t, patience, func() error {
		db := pgtest.Connect(t, r.connInfo(t).DSN())
		var method string
		if err := db.QueryRow(t.Context(), "SHOW password_encryption").Scan(&method); err != nil {
			return err
		}
		if method != "md5" {
			return fmt.Errorf("password_encryption is %s", method)
		}
		return nil
	})
}

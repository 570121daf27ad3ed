package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// childVariable holds what a re-executed test binary is to create.
const childVariable = "KEEPER_TEST_CREATE"

func TestMain(m *testing.M) {
	if what := os.Getenv(childVariable); what != "" {
		os.Exit(createInChild(what))
	}
	pgtest.Main(m)
}

// patience bounds every wait of these tests.
const patience = 2 * time.Minute

// child is one creation in a process of its own, which kills itself after so
// many steps; 0 means never.
type child struct {
	Place     place
	KillAfter int
}

func createInChild(what string) int {
	var c child
	if err := json.Unmarshal([]byte(what), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cfg := c.Place.config()
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	done := 0
	cfg.AfterStep = func(fsm.Step) {
		if done++; done == c.KillAfter {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := Create(ctx, CreateConfig{Config: cfg, CandidatePriority: 50, ReplicationQuorum: true})
	if err != nil && !errors.Is(err, ErrCreated) {
		fmt.Fprintf(os.Stderr, "create: %v\nhint: %s\n", err, hintOf(err))
		return 1
	}
	return 0
}

// place is where a node of a test lives.
type place struct {
	Root, Name, Bin, Monitor string
	Port                     int
}

func (p place) config() Config {
	f := DefaultFile()
	f.Monitor, f.Name, f.Hostname = p.Monitor, p.Name, "127.0.0.1"
	f.PGData, f.Port, f.ListenAddresses, f.AuthMethod = filepath.Join(p.Root, p.Name), p.Port, "127.0.0.1", "trust"
	f.Host = p.Root
	dirs := Dirs{ConfigHome: p.Root + "/c", DataHome: p.Root + "/d", RuntimeDir: p.Root + "/r"}
	return Config{
		Paths: PathsOf(dirs, f.PGData), File: f, Tools: postgres.Tools{Dir: p.Bin},
		Tuning: postgres.Tuning{Small: true}, SocketDir: p.Root,
	}
}

// instance is the node's server, for a look from outside.
func (p place) instance() *postgres.Instance {
	cfg := p.config()
	k := &Keeper{cfg: cfg, log: slog.New(slog.DiscardHandler), clock: boottime}
	return k.newNode(identity{}, k.log).instance()
}

// group is a monitor's database whose decisions are made by this test, all
// nodes taken for alive.
type group struct {
	uri string
	db  *pgautofailover.DB
	mu  sync.Mutex // guards db
}

func newGroup(t *testing.T) *group {
	t.Helper()
	dsn := pgtest.Database(t)
	info, err := pg.ParseConnInfo(dsn)
	require.NoError(t, err)
	open := func() *pgautofailover.DB {
		db, err := pgautofailover.Connect(t.Context(), pgautofailover.ConnectConfig{
			ConnInfo: info, ApplicationName: "keeper test", StatementTimeout: patience, LockTimeout: patience,
		})
		require.NoError(t, err)
		return db
	}
	g := &group{db: open(), uri: info.With("user", "autoctl_node").URI()}
	require.NoError(t, pgautofailover.Install(t.Context(), g.db))
	db := open()
	decider, err := pgautofailover.Acquire(t.Context(), db, "test")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { decide(ctx, t, decider) })
	t.Cleanup(func() {
		stop()
		wg.Wait()
		_ = db.Close(context.WithoutCancel(ctx))
		_ = g.db.Close(context.WithoutCancel(ctx))
	})
	return g
}

// decide settles the group again and again.
func decide(ctx context.Context, t *testing.T, decider *pgautofailover.Decider) {
	key := pgautofailover.GroupKey{Formation: "default"}
	for ctx.Err() == nil {
		err := decider.Decide(ctx, key, func(g pgautofailover.LoadedGroup) (pgautofailover.Settled, error) {
			now := time.Now()
			g.MonitorStart = now.Add(-time.Hour)
			for i := range g.Nodes {
				n := &g.Nodes[i]
				n.Seen, n.GoalAt, n.ReportedAt, n.StreamingAt = now, now, now, now
				n.Session = fsm.SessionHeld
			}
			for i := range g.Intents {
				g.Intents[i].At = now
			}
			_, decisions, waiting, err := fsm.Settle(g.Group, now)
			return pgautofailover.Settled{Decisions: decisions, Waiting: waiting}, err
		})
		if err != nil && ctx.Err() == nil {
			t.Logf("decide: %v", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// nodes reads the group as the monitor knows it.
func (g *group) nodes(t *testing.T) []pgautofailover.NodeRow {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	rows, err := g.db.NodeRows(t.Context(), "default", nil)
	require.NoError(t, err)
	return rows
}

// wait waits until the nodes report these states, by name, as their goals.
func (g *group) wait(t *testing.T, want map[string]fsm.State) {
	t.Helper()
	pgtest.Eventually(t, patience, func() error {
		rows := g.nodes(t)
		if len(rows) != len(want) {
			return fmt.Errorf("%d nodes", len(rows))
		}
		for _, n := range rows {
			if n.Reported != want[n.Name] || n.Goal != want[n.Name] || n.GoalNumber != n.Reached {
				return fmt.Errorf("%s: %s -> %s (%d of %d)", n.Name, n.Reported, n.Goal, n.Reached, n.GoalNumber)
			}
		}
		return nil
	})
}

// place prepares a node that is not created yet; its server ends with the test.
func (g *group) place(t *testing.T, name string) place {
	t.Helper()
	p := place{Root: pgtest.Dir(t), Name: name, Bin: pgtest.Bin(t), Monitor: g.uri, Port: pgtest.FreePort(t)}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if pm, err := p.instance().Adopt(); err == nil {
			_ = pm.Stop(ctx, postgres.StopImmediate)
			pm.Release()
		}
		_ = p.instance().EndOrphans(ctx)
	})
	return p
}

// keeperUnderTest is a keeper in this process.
type keeperUnderTest struct {
	stop  context.CancelCauseFunc
	ended chan error
}

// run creates the node if need be and keeps it until the test ends.
func (p place) run(t *testing.T, create bool) *keeperUnderTest {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(t.Context()))
	k := &keeperUnderTest{stop: cancel, ended: make(chan error, 1)}
	cfg := p.config()
	cfg.Logger = slog.New(slog.NewTextHandler(&lines{t: t, name: p.Name}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	go func() {
		k.ended <- func() error {
			if create {
				err := Create(ctx, CreateConfig{Config: cfg, CandidatePriority: 50, ReplicationQuorum: true, Run: true})
				if err != nil {
					return err
				}
			}
			file, err := LoadFile(cfg.Paths.ConfigFile)
			if err != nil {
				return err
			}
			cfg.File = file
			keeper, err := New(cfg)
			if err != nil {
				return err
			}
			return keeper.Run(ctx)
		}()
	}()
	t.Cleanup(func() { k.end(t, ErrDetach) })
	return k
}

// end stops the keeper and waits for it.
func (k *keeperUnderTest) end(t *testing.T, cause error) {
	t.Helper()
	k.stop(cause)
	select {
	case err := <-k.ended:
		if err != nil {
			t.Logf("keeper ended: %v", err)
		}
		k.ended <- nil
	case <-time.After(patience):
		t.Error("the keeper does not end")
	}
}

// lines turns log output into the test's.
type lines struct {
	t    *testing.T
	name string
	mu   sync.Mutex
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.t.Context().Err() == nil {
		l.t.Logf("%s %s", l.name, strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

// query runs statements on a node's server and returns the one value of the last.
func (p place) query(t *testing.T, statements ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn := pgtest.Connect(t, fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", p.Root, p.Port))
	last := len(statements) - 1
	for _, sql := range statements[:last] {
		_, err := conn.Exec(ctx, sql)
		require.NoError(t, err)
	}
	var value string
	require.NoError(t, conn.QueryRow(ctx, statements[last]).Scan(&value))
	return value
}

func TestCreateThatIsKilledAfterEachStepFinishes(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	first, second := g.place(t, "n1"), g.place(t, "n2")
	first.createWithKills(t)
	g.wait(t, map[string]fsm.State{"n1": fsm.Single})
	first.run(t, false)
	second.createWithKills(t)
	state, err := ReadState(second.config().Paths.StateFile)
	require.NoError(t, err)
	require.Equal(t, fsm.CatchingUp, state.Current)
	require.NotZero(t, state.SystemID)
	second.run(t, false)
	g.wait(t, map[string]fsm.State{"n1": fsm.Primary, "n2": fsm.Secondary})
	require.Equal(t, "1", first.query(t, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)", "SELECT count(*)::text FROM t"))
}

// createWithKills creates a node in processes that die after one, two, three …
// steps, until one finishes.
func (p place) createWithKills(t *testing.T) {
	t.Helper()
	for steps := 1; steps < 30; steps++ {
		what, err := json.Marshal(child{Place: p, KillAfter: steps})
		require.NoError(t, err)
		result := pgtest.Run(t, patience, pgtest.Command{
			Name: fmt.Sprintf("%s-%d", p.Name, steps), Path: "/proc/self/exe", Env: []string{childVariable + "=" + string(what)},
		})
		if result.Code == 0 {
			require.Greater(t, steps, 1, "there was nothing to kill")
			_, err := os.Stat(p.config().Paths.InitFile)
			require.ErrorIs(t, err, os.ErrNotExist)
			return
		}
		require.Contains(t, []int{-1, 137}, result.Code, result.Stderr)
	}
	t.Fatal("the creation never finishes")
}

func TestGroupSwitchesOverAndComesBack(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	first, second := g.place(t, "n1"), g.place(t, "n2")
	k1 := first.run(t, true)
	g.wait(t, map[string]fsm.State{"n1": fsm.Single})
	k2 := second.run(t, true)
	g.wait(t, map[string]fsm.State{"n1": fsm.Primary, "n2": fsm.Secondary})
	require.Equal(t, "1", first.query(t, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)", "SELECT count(*)::text FROM t"))

	g.failover(t)
	g.wait(t, map[string]fsm.State{"n1": fsm.Secondary, "n2": fsm.Primary})
	require.Equal(t, "2", second.query(t, "INSERT INTO t VALUES (2)", "SELECT count(*)::text FROM t"))
	require.Equal(t, guardList().String(), first.query(t, "SHOW synchronous_standby_names"))

	// A keeper that dies leaves its server alone, and finds it again.
	before := second.query(t, "SELECT pg_postmaster_start_time()::text")
	k2.end(t, ErrDetach)
	// The settings file may be of an earlier version: a start makes it today's.
	settings := filepath.Join(second.config().File.PGData, "postgresql-auto-failover.conf")
	image, err := os.ReadFile(settings)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(settings, regexp.MustCompile("(?m)^wal_receiver_timeout.*\n").ReplaceAll(image, nil), 0o600))
	second.query(t, "SELECT pg_reload_conf()::text")
	pgtest.Eventually(t, patience, func() error {
		if now := second.query(t, "SHOW wal_receiver_timeout"); now != "1min" {
			return fmt.Errorf("wal_receiver_timeout is %s", now)
		}
		return nil
	})
	second.run(t, false)
	pgtest.Eventually(t, patience, func() error {
		if now := second.query(t, "SHOW wal_receiver_timeout"); now != "5s" {
			return fmt.Errorf("wal_receiver_timeout is %s", now)
		}
		return nil
	})
	again, err := os.ReadFile(settings)
	require.NoError(t, err)
	require.Equal(t, string(image), string(again))
	g.failover(t)
	g.wait(t, map[string]fsm.State{"n1": fsm.Primary, "n2": fsm.Secondary})
	require.NotEqual(t, before, second.query(t, "SELECT pg_postmaster_start_time()::text"))
	require.Equal(t, "2", first.query(t, "SELECT count(*)::text FROM t"))

	// A stop hands over; the next start comes back.
	k1.end(t, sigterm{})
	g.wait(t, map[string]fsm.State{"n1": fsm.Maintenance, "n2": fsm.WaitPrimary})
	first.run(t, false)
	g.wait(t, map[string]fsm.State{"n1": fsm.Secondary, "n2": fsm.Primary})
	require.Equal(t, "2", first.query(t, "SELECT count(*)::text FROM t"))
}

func (g *group) failover(t *testing.T) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	require.NoError(t, g.db.PerformFailover(t.Context(), "default", 0, false))
}

const (
	stopSignal     = syscall.SIGSTOP
	continueSignal = syscall.SIGCONT
)

func signalAll(t *testing.T, pids []int, s syscall.Signal) {
	t.Helper()
	for _, pid := range pids {
		_ = syscall.Kill(pid, s)
	}
}

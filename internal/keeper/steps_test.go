package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// scripted is a monitor that answers a step's questions as a test says.
type scripted struct {
	fakeSession
	mu       sync.Mutex
	primary  peer
	others   []peer
	list     pg.StandbyNames
	stale    bool
	advanced *peer
	told     []pg.History
}

func (s *scripted) Primary(context.Context) (peer, error)      { return s.primary, nil }
func (s *scripted) OtherNodes(context.Context) ([]peer, error) { return s.others, nil }
func (s *scripted) Candidate(context.Context) (peer, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.others {
		if p.Goal == fsm.PreparePromotion {
			return p, true, nil
		}
	}
	return peer{}, false, nil
}

func (s *scripted) MostAdvancedStandby(context.Context) (peer, bool, error) {
	if s.advanced == nil {
		return peer{}, false, nil
	}
	return *s.advanced, true, nil
}

func (s *scripted) List(context.Context, int64) (pg.StandbyNames, bool, error) {
	return s.list, !s.stale, nil
}

func (s *scripted) PublishHistory(_ context.Context, h pg.History) error {
	s.told = append(s.told, h)
	return nil
}

// pair is a primary and a standby made by steps alone.
type pair struct {
	t      *testing.T
	p1, p2 place
	n1, n2 *node
	m1, m2 *scripted
}

func (p place) node(t *testing.T, id int64, m *scripted) *node {
	t.Helper()
	k := &Keeper{cfg: p.config(), log: slog.New(slog.DiscardHandler), clock: boottime}
	n := k.newNode(identity{formation: "default", nodeID: id}, k.log)
	var mu sync.Mutex
	n.ask = func(ctx context.Context, do func(context.Context, monitorSession) error) error {
		mu.Lock()
		defer mu.Unlock()
		return do(ctx, m)
	}
	t.Cleanup(func() {
		n.closeSession(context.Background())
		n.release()
	})
	return n
}

func newPair(t *testing.T) *pair {
	t.Helper()
	g := &group{uri: "postgres://autoctl_node@127.0.0.1:1/none"}
	r := &pair{t: t, p1: g.place(t, "n1"), p2: g.place(t, "n2")}
	r.m1 = &scripted{others: []peer{{ID: 2, Host: "127.0.0.1", Port: r.p2.Port}}}
	r.m2 = &scripted{
		others:  []peer{{ID: 1, Host: "127.0.0.1", Port: r.p1.Port}},
		primary: peer{ID: 1, Host: "127.0.0.1", Port: r.p1.Port},
	}
	r.m1.primary = peer{ID: 2, Host: "127.0.0.1", Port: r.p2.Port}
	r.n1, r.n2 = r.p1.node(t, 1, r.m1), r.p2.node(t, 2, r.m2)
	r.walk(r.n1, fsm.Init, fsm.Single)
	r.walk(r.n1, fsm.Single, fsm.WaitPrimary)
	r.walk(r.n2, fsm.WaitStandby, fsm.CatchingUp)
	r.walk(r.n2, fsm.CatchingUp, fsm.Secondary)
	return r
}

// walk performs an edge, twice over: every step may be repeated.
func (r *pair) walk(n *node, from, to fsm.State) {
	r.t.Helper()
	edge, ok := fsm.Next(fsm.Standalone, from, to)
	require.True(r.t, ok, "%s to %s", from, to)
	t := task{From: from, To: to}
	if slices.Contains(edge.Steps, fsm.StepPromote) {
		t.List = new(handedList)
	}
	for _, s := range edge.Steps {
		for range 2 {
			require.NoError(r.t, n.perform(r.t.Context(), s, t), "%s to %s: %s", from, to, s)
		}
	}
}

// look is what the observer sees.
func (r *pair) look(n *node) view {
	r.t.Helper()
	v := n.look(r.t.Context())
	require.NoError(r.t, v.Err)
	return v
}

func TestEdgesOnRealServers(t *testing.T) {
	t.Parallel()
	r := newPair(t)
	require.Equal(t, guardList(), r.look(r.n2).SyncNames, "a standby is guarded")
	require.True(t, r.n2.isArmed())
	r.m1.list = list(1, 2)
	r.walk(r.n1, fsm.WaitPrimary, fsm.Primary)
	require.Equal(t, list(1, 2), r.look(r.n1).SyncNames)
	require.Equal(t, "quorum", r.look(r.n1).SyncState)
	require.Equal(t, "1", r.p1.query(t, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)", "SELECT count(*)::text FROM t"))
	require.Equal(t, fsm.StreamingYes, r.look(r.n2).Streaming)

	// A planned hand-over: the old primary's last word is its shutdown checkpoint.
	r.walk(r.n1, fsm.Primary, fsm.Draining)
	last := r.look(r.n1)
	require.True(t, last.CleanStop)
	require.Greater(t, r.look(r.n2).LSN, last.LSN)
	r.m2.list = pg.StandbyNames{}
	r.walk(r.n2, fsm.PreparePromotion, fsm.WaitPrimary)
	require.False(t, r.look(r.n2).InRecovery)
	require.Equal(t, pg.Timeline(2), r.m2.told[len(r.m2.told)-1].TLI(), "the line is told before the state")
	require.Equal(t, "2", r.p2.query(t, "INSERT INTO t VALUES (2)", "SELECT count(*)::text FROM t"))

	// The old one comes back.
	r.walk(r.n1, fsm.Draining, fsm.CatchingUp)
	r.walk(r.n1, fsm.CatchingUp, fsm.Secondary)
	require.Equal(t, guardList(), r.look(r.n1).SyncNames)
}

func TestElectionOnRealServers(t *testing.T) {
	t.Parallel()
	r := newPair(t)
	r.walk(r.n2, fsm.Secondary, fsm.ReportLSN)
	v := r.look(r.n2)
	require.True(t, v.InRecovery)
	require.Equal(t, fsm.StreamingNo, v.Streaming)
	require.Equal(t, "1", r.p1.query(t, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)", "SELECT count(*)::text FROM t"))
	require.Equal(t, v.LSN, r.look(r.n2).LSN, "the position is final")
	r.walk(r.n2, fsm.ReportLSN, fsm.Secondary)
	require.Equal(t, fsm.StreamingYes, r.look(r.n2).Streaming)

	// Promoted behind the gate, and then the order changes.
	require.NoError(t, r.n1.stopNow(t.Context()))
	r.walk(r.n2, fsm.PreparePromotion, fsm.StopReplication)
	closed, err := r.n2.instance().GateClosed()
	require.NoError(t, err)
	require.True(t, closed)
	require.False(t, r.look(r.n2).InRecovery)
	r.walk(r.n2, fsm.PreparePromotion, fsm.ReportLSN)
	v = r.look(r.n2)
	require.True(t, v.InRecovery, "a server that takes writes must not vote")
	require.Equal(t, guardList(), v.SyncNames)

	// The old primary is the primary again: the fork is rewound or copied over.
	require.NoError(t, r.n1.start(t.Context()))
	require.Equal(t, "1", r.p1.query(t, "INSERT INTO t VALUES (2)", "SELECT (count(*) - 1)::text FROM t"))
	r.walk(r.n2, fsm.ReportLSN, fsm.Secondary)
	require.Equal(t, pg.Timeline(1), r.look(r.n2).TLI)
	require.Equal(t, fsm.StreamingYes, r.look(r.n2).Streaming)
}

func TestFormerPrimaryIsRewound(t *testing.T) {
	t.Parallel()
	r := newPair(t)
	order := task{From: fsm.PreparePromotion, To: fsm.WaitPrimary, List: new(handedList)}
	require.NoError(t, r.n2.perform(t.Context(), fsm.StepSetList, order))
	require.Equal(t, guardList(), r.look(r.n2).SyncNames, "the list comes with the promotion")
	r.walk(r.n2, fsm.PreparePromotion, fsm.WaitPrimary)
	require.True(t, r.look(r.n2).SyncNames.Empty())
	// Both write now, as only a test can make them.
	require.Equal(t, "1", r.p1.query(t, "CREATE TABLE lost (id int)", "INSERT INTO lost VALUES (1)", "SELECT count(*)::text FROM lost"))
	require.Equal(t, "1", r.p2.query(t, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)", "SELECT count(*)::text FROM t"))
	require.NoError(t, r.n1.stopNow(t.Context()))
	r.walk(r.n1, fsm.Demoted, fsm.CatchingUp)
	r.walk(r.n1, fsm.CatchingUp, fsm.Secondary)
	pgtest.Eventually(t, patience, func() error {
		return r.n1.instance().With(t.Context(), func(s *postgres.Session) error {
			var n int
			return s.Conn().QueryRow(t.Context(), "SELECT count(*) FROM public.t").Scan(&n)
		})
	})
	require.Equal(t, "0", r.p1.query(t, "SELECT count(*)::text FROM pg_class WHERE relname = 'lost'"))
}

func TestServerThatStartsAsAPrimaryByMistakeIsNotStarted(t *testing.T) {
	t.Parallel()
	r := newPair(t)
	require.NoError(t, r.n2.stop(t.Context()))
	require.NoError(t, os.Remove(filepath.Join(r.p2.config().File.PGData, "standby.signal")))
	require.NoError(t, r.n2.perform(t.Context(), fsm.StepStart, task{From: fsm.Secondary, To: fsm.Secondary}))
	require.True(t, r.look(r.n2).InRecovery)
	require.NoError(t, r.n2.stop(t.Context()))
	require.NoError(t, os.Remove(filepath.Join(r.p2.config().File.PGData, "standby.signal")))
	require.NoError(t, r.n2.perform(t.Context(), fsm.StepStart, task{From: fsm.ReportLSN, To: fsm.ReportLSN}))
	v := r.look(r.n2)
	require.True(t, v.InRecovery)
	require.Equal(t, fsm.StreamingNo, v.Streaming)
}

func TestListOfAnotherGoalIsNotApplied(t *testing.T) {
	t.Parallel()
	r := newPair(t)
	r.m1.list, r.m1.stale = list(1, 2), true
	err := r.n1.perform(t.Context(), fsm.StepSetList, task{From: fsm.WaitPrimary, To: fsm.Primary, Number: 3})
	require.ErrorIs(t, err, errStaleGoal)
	require.True(t, r.look(r.n1).SyncNames.Empty())
}

func TestHalfRewoundDirectoryIsCopied(t *testing.T) {
	t.Parallel()
	r := newPair(t)
	require.NoError(t, r.n2.stop(t.Context()))
	mark := r.p2.config().File.PGData + ".rewind"
	require.NoError(t, os.WriteFile(mark, nil, 0o600))
	require.Error(t, r.n2.start(t.Context()))
	require.Error(t, r.n2.standbyAlone(t.Context()), "it must not vote")
	require.NoError(t, r.n2.perform(t.Context(), fsm.StepStart, task{From: fsm.Secondary, To: fsm.Secondary}))
	require.NoFileExists(t, mark)
	require.True(t, r.look(r.n2).InRecovery)
}

func TestSilentStandbyDoesNotHoldUpTheStop(t *testing.T) {
	t.Parallel()
	r := newPair(t)
	pm, err := r.n2.server()
	require.NoError(t, err)
	pids := append(pgtest.ChildrenOf(pm.PID()), pm.PID())
	signalAll(t, pids, stopSignal)
	defer signalAll(t, pids, continueSignal)
	// The standby cannot confirm anything, but the monitor says that the next primary has it all.
	r.m1.mu.Lock()
	r.m1.others = []peer{{ID: 2, Host: "127.0.0.1", Port: r.p2.Port, Goal: fsm.PreparePromotion, LSN: 1 << 60}}
	r.m1.mu.Unlock()
	begin := boottime()
	require.NoError(t, r.n1.stop(t.Context()))
	t.Logf("stopped within %s", boottime()-begin)
	require.True(t, r.look(r.n1).CleanStop)
}

// TestStandbyThatRanAsAPrimaryIsCopied: what somebody wrote on a standby stands
// on the timeline that its upstream writes too, where no comparison finds it.
func TestStandbyThatRanAsAPrimaryIsCopied(t *testing.T) {
	t.Parallel()
	r := newPair(t)
	require.NoError(t, r.n2.stop(t.Context()))
	require.NoError(t, r.n2.instance().RemoveStandby())
	require.NoError(t, r.n2.start(t.Context()))
	require.False(t, r.look(r.n2).InRecovery)

	// Found running: stopped and marked. Found stopped: marked as well.
	require.NoError(t, r.n2.perform(t.Context(), fsm.StepStop, task{From: fsm.Secondary, To: fsm.Secondary}))
	require.True(t, r.n2.instance().RewindInterrupted())
	err := r.n2.perform(t.Context(), fsm.StepStart, task{From: fsm.Secondary, To: fsm.ReportLSN})
	require.Error(t, err, "it must not vote")

	r.walk(r.n2, fsm.Secondary, fsm.CatchingUp)
	require.False(t, r.n2.instance().RewindInterrupted())
	r.walk(r.n2, fsm.CatchingUp, fsm.Secondary)
	require.Equal(t, fsm.StreamingYes, r.look(r.n2).Streaming)
}

// TestStoppedPrimaryIsHarmless: the distribution, or an operator, starts the
// server of a node that was told to be down.
func TestStoppedPrimaryIsHarmless(t *testing.T) {
	t.Parallel()
	r := newPair(t)
	r.m1.list = list(1, 2)
	r.walk(r.n1, fsm.WaitPrimary, fsm.Primary)
	r.walk(r.n1, fsm.Primary, fsm.Draining)
	require.True(t, r.look(r.n1).CleanStop)
	require.True(t, r.n1.instance().Sealed())

	require.NoError(t, r.n1.start(t.Context()))
	v := r.look(r.n1)
	require.True(t, v.InRecovery)
	require.True(t, v.Sealed)
	require.Equal(t, guardList(), v.SyncNames)

	// It was all for nothing, and it goes on as the primary that it was.
	r.walk(r.n1, fsm.Draining, fsm.Primary)
	v = r.look(r.n1)
	require.False(t, v.InRecovery)
	require.Equal(t, pg.Timeline(1), v.TLI)
	require.Equal(t, list(1, 2), v.SyncNames)
	require.Equal(t, "1", r.p1.query(t, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)", "SELECT count(*)::text FROM t"))

	// Fenced, started by somebody in crash recovery, and replaced.
	for _, s := range []fsm.Step{fsm.StepStopNow, fsm.StepSeal} {
		require.NoError(t, r.n1.perform(t.Context(), s, task{From: fsm.Primary, To: fsm.DemoteTimeout}))
	}
	require.NoError(t, r.n1.start(t.Context()))
	require.True(t, r.look(r.n1).InRecovery)
	r.m2.list = pg.StandbyNames{}
	r.walk(r.n2, fsm.PreparePromotion, fsm.WaitPrimary)
	r.walk(r.n1, fsm.DemoteTimeout, fsm.CatchingUp)
	r.walk(r.n1, fsm.CatchingUp, fsm.Secondary)
	require.False(t, r.n1.instance().Sealed(), "a true standby is not sealed")

	// A standby that is demoted loses its upstream and is never opened by the seal's end.
	r.walk(r.n1, fsm.Secondary, fsm.Demoted)
	require.False(t, r.n1.instance().Sealed())
	require.NoError(t, r.n1.perform(t.Context(), fsm.StepUnseal, task{}))
	require.NoError(t, r.n1.start(t.Context()))
	v = r.look(r.n1)
	require.True(t, v.InRecovery)
	require.Equal(t, fsm.StreamingNo, v.Streaming)
}

// TestLookSeesWhoIsLetIn: a session that began before goes on when the server
// lets nobody in any more.
func TestLookSeesWhoIsLetIn(t *testing.T) {
	t.Parallel()
	r := newPair(t)
	later := func() view {
		r.look(r.n1)
		r.n1.sessionAt -= 2 * sessionLife
		return r.look(r.n1)
	}
	require.False(t, later().Refused)

	// Ordinary clients have used up what is theirs; the keeper's place is another one.
	r.p1.query(t, "CREATE ROLE ordinary LOGIN", "SELECT ''")
	dsn := fmt.Sprintf("host=%s port=%d user=ordinary dbname=postgres", r.p1.Root, r.p1.Port)
	var full bool
	for range 200 {
		conn, err := pgx.Connect(t.Context(), dsn)
		if full = err != nil; full {
			require.ErrorContains(t, err, "remaining connection slots are reserved")
			break
		}
		t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	}
	require.True(t, full)
	require.False(t, later().Refused, "clients that have used up their connections are no reason to fail over")

	hba := filepath.Join(r.p1.config().File.PGData, "pg_hba.conf")
	rules, err := os.ReadFile(hba)
	require.NoError(t, err)
	reload := func(rules []byte) {
		require.NoError(t, os.WriteFile(hba, rules, 0o600))
		pm, err := r.n1.server()
		require.NoError(t, err)
		require.NoError(t, pm.Reload())
	}
	reload(append([]byte("local all all reject\nhost all all all reject\n"), rules...))
	pgtest.Eventually(t, patience, func() error {
		if v := later(); !v.Refused || !v.Ready {
			return fmt.Errorf("ready %t, refused %t", v.Ready, v.Refused)
		}
		return nil
	})
	reload(rules)
	pgtest.Eventually(t, patience, func() error {
		if v := later(); v.Refused || !v.Ready {
			return fmt.Errorf("ready %t, refused %t", v.Ready, v.Refused)
		}
		return nil
	})
}

// TestPieceOfARecordIsNoDivergence: what was received reaches beyond the place
// where the primary's line begins, as the last record came only in part.
func TestPieceOfARecordIsNoDivergence(t *testing.T) {
	t.Parallel()
	r := newPair(t)
	r.walk(r.n1, fsm.WaitPrimary, fsm.Draining)
	r.walk(r.n2, fsm.PreparePromotion, fsm.WaitPrimary)
	r.walk(r.n1, fsm.Draining, fsm.CatchingUp)
	r.walk(r.n1, fsm.CatchingUp, fsm.Secondary)
	ctx := t.Context()
	up, err := r.n1.primary(ctx)
	require.NoError(t, err)
	line, err := r.n1.instance().HistoryOf(2)
	require.NoError(t, err)
	fork := line[1].Switch
	between := postgres.Observation{
		InRecovery: true, TLI: 1, LSN: fork + 8192, Received: fork + 8192, Replayed: fork,
		Receiver: postgres.Receiver{Status: "streaming", TLI: 1},
	}
	lineage, ended, err := r.n1.relation(ctx, up, between)
	require.NoError(t, err)
	require.Equal(t, postgres.LineageFollows, lineage)
	require.True(t, ended, "it is asked again when it knows")
	v := r.look(r.n1)
	require.Equal(t, fsm.StreamingNo, v.Streaming)

	between.Replayed = fork + 100
	lineage, ended, err = r.n1.relation(ctx, up, between)
	require.NoError(t, err)
	require.Equal(t, postgres.LineageDiverged, lineage)
	require.False(t, ended, "nothing takes back what was replayed")

	// The step leaves a standby that was asked with its upstream.
	r.walk(r.n1, fsm.Secondary, fsm.CatchingUp)
	require.NoError(t, r.n1.checkConnection(ctx))
}

// TestStandbyThatCannotBeStartedIsCopied: its WAL is gone, and no number of
// starts brings it back.
func TestStandbyThatCannotBeStartedIsCopied(t *testing.T) {
	t.Parallel()
	r := newPair(t)
	require.NoError(t, r.n2.stop(t.Context()))
	require.NoError(t, os.RemoveAll(filepath.Join(r.p2.config().File.PGData, "pg_wal")))
	var err error
	tries := 0
	for ; tries < 2*recoveryTries; tries++ {
		if err = r.n2.perform(t.Context(), fsm.StepStart, task{From: fsm.Secondary, To: fsm.Secondary}); err == nil {
			break
		}
	}
	require.NoError(t, err)
	require.Positive(t, tries, "a start that fails once may have been unlucky")
	require.NoError(t, r.n2.checkConnection(t.Context()))
	require.Equal(t, guardList(), r.look(r.n2).SyncNames)
}

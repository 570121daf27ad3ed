package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// citusWorld is a coordinator's real server, and a monitor that knows it.
type citusWorld struct {
	t       *testing.T
	server  *pgtest.Server
	conn    *pgx.Conn
	genuine bool
	away    bool
	nodes   []pgautofailover.NodeRow
}

// The monitorSession of the world answers nothing else.
type citusMonitor struct {
	monitorSession
	w *citusWorld
}

func (m citusMonitor) Coordinator(context.Context) (host string, port int, err error) {
	if m.w.away {
		return "", 0, pgautofailover.ErrNotFound
	}
	return "127.0.0.1", m.w.server.Port, nil
}

func (m citusMonitor) FormationNodes(context.Context) ([]pgautofailover.NodeRow, error) {
	return m.w.nodes, nil
}

// withCitus runs a test with the extension where it is installed, else with its stand-in; its name says which.
func withCitus(t *testing.T, test func(t *testing.T, w *citusWorld)) {
	t.Parallel()
	bin, genuine := pgtest.Citus(t)
	if !genuine {
		runWithStandIn(t, bin, test)
		return
	}
	t.Run("with the extension", func(t *testing.T) {
		t.Parallel()
		test(t, newCitusWorld(t, bin, true))
	})
}

// withStandIn runs a test that needs the stand-in wherever it is.
func withStandIn(t *testing.T, test func(t *testing.T, w *citusWorld)) {
	t.Parallel()
	runWithStandIn(t, pgtest.CitusStandIn(t), test)
}

func runWithStandIn(t *testing.T, bin string, test func(t *testing.T, w *citusWorld)) {
	t.Helper()
	t.Run("stand-in for the extension", func(t *testing.T) {
		t.Parallel()
		test(t, newCitusWorld(t, bin, false))
	})
}

func newCitusWorld(t *testing.T, bin string, genuine bool) *citusWorld {
	t.Helper()
	settings := map[string]string{"shared_preload_libraries": "citus", "max_prepared_transactions": "100"}
	if genuine {
		settings["citus.node_conninfo"] = "'sslmode=prefer'"
		settings["citus.enable_metadata_sync"] = "off" // there are no workers' servers here
		settings["max_wal_senders"] = "20"
	}
	w := &citusWorld{t: t, genuine: genuine, server: pgtest.NewServer(t, pgtest.ServerConfig{Name: "coordinator", Bin: bin, Settings: settings})}
	w.server.Exec(t, "postgres", "CREATE EXTENSION citus")
	conn, err := pgx.Connect(t.Context(), w.server.DSN("postgres"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	w.conn = conn
	return w
}

// endsAtSignals tells whether a signal ends a session of the stand-in while it
// connects to a worker: dblink looks for one from version 16 on.
func (w *citusWorld) endsAtSignals() bool {
	var version int
	require.NoError(w.t, w.conn.QueryRow(w.t.Context(), "SELECT current_setting('server_version_num')::int").Scan(&version))
	return version >= 160000
}

// node is a node of the formation.
func (w *citusWorld) node(kind string, group, port int) *node {
	f := DefaultFile()
	f.NodeKind, f.Hostname, f.Port, f.DBName, f.Username = kind, "127.0.0.1", port, "postgres", pgtest.Superuser
	f.Timeouts.CitusUpdateNodeLockCooldown = 5000
	n := &node{
		file: f, who: identity{formation: "default", group: group, nodeID: int64(port)}, clock: boottime,
		log: slog.New(slog.DiscardHandler), addrs: map[string]string{},
	}
	n.ask = func(ctx context.Context, do func(ctx context.Context, s monitorSession) error) error {
		return do(ctx, citusMonitor{w: w})
	}
	return n
}

func (w *citusWorld) step(n *node, s fsm.Step, from, to fsm.State) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	require.NoError(w.t, n.coordinate(ctx, s, task{From: from, To: to}))
}

func (w *citusWorld) prepare(n *node) {
	w.t.Helper()
	w.step(n, fsm.StepCoordinatorPrepare, fsm.Secondary, fsm.PreparePromotion)
}

func (w *citusWorld) commit(n *node) {
	w.t.Helper()
	w.step(n, fsm.StepCoordinatorCommit, fsm.StopReplication, fsm.WaitPrimary)
}

// port is where the metadata lead a group.
func (w *citusWorld) port(group int) int {
	w.t.Helper()
	var port int
	require.NoError(w.t, w.conn.QueryRow(w.t.Context(), "SELECT nodeport FROM pg_dist_node WHERE groupid = $1", group).Scan(&port))
	return port
}

func (w *citusWorld) gids() []string {
	w.t.Helper()
	rows, err := w.conn.Query(w.t.Context(), "SELECT gid FROM pg_prepared_xacts ORDER BY gid")
	require.NoError(w.t, err)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(w.t, err)
	return list
}

// entry makes a group known without asking its server, which does not exist.
func (w *citusWorld) entry(group, port int) {
	w.t.Helper()
	_, err := w.conn.Exec(w.t.Context(), "INSERT INTO pg_dist_node (groupid, nodename, nodeport) VALUES ($1, '127.0.0.1', $2)", group, port)
	require.NoError(w.t, err)
}

// TestWorkerIsMovedInTwoSteps plays the steps of promotions against a real
// server, each also again, in another process, or by another candidate.
func TestWorkerIsMovedInTwoSteps(t *testing.T) { withCitus(t, workerIsMovedInTwoSteps) }

func workerIsMovedInTwoSteps(t *testing.T, w *citusWorld) {
	w.entry(1, 5001)
	w.entry(2, 5101)

	second := w.node("worker", 1, 5002)
	w.prepare(second)
	require.Equal(t, []string{"master_update_node 1"}, w.gids())
	require.Equal(t, 5001, w.port(1))
	w.prepare(second) // begun again: nothing changes
	require.Equal(t, []string{"master_update_node 1"}, w.gids())
	w.commit(second)
	require.Empty(t, w.gids())
	require.Equal(t, 5002, w.port(1))
	w.commit(second)
	require.Equal(t, 5002, w.port(1))

	// Another process of the candidate ends what the first one began.
	w.prepare(w.node("worker", 1, 5003))
	w.commit(w.node("worker", 1, 5003))
	require.Equal(t, 5003, w.port(1))

	// The candidate is lost, another one is chosen.
	w.prepare(w.node("worker", 1, 5001))
	third := w.node("worker", 1, 5002)
	w.prepare(third)
	require.Equal(t, []string{"master_update_node 1"}, w.gids())
	w.commit(third)
	require.Equal(t, 5002, w.port(1))

	// A candidate that never prepared, and one that finds another's transaction at the end.
	w.commit(w.node("worker", 1, 5001))
	require.Equal(t, 5001, w.port(1))
	w.prepare(w.node("worker", 1, 5003))
	w.commit(w.node("worker", 1, 5002))
	require.Equal(t, 5002, w.port(1))
	require.Empty(t, w.gids())

	// The old primary goes on: what was prepared for the other is forgotten.
	w.prepare(w.node("worker", 1, 5003))
	w.step(w.node("worker", 1, 5002), fsm.StepCoordinatorRepair, fsm.Draining, fsm.Single)
	require.Empty(t, w.gids())
	require.Equal(t, 5002, w.port(1))
	require.Equal(t, 5101, w.port(2))
}

// TestCoordinatorsNodeEndsWhatNobodyWaitsFor: a candidate prepared its promotion and was lost.
func TestCoordinatorsNodeEndsWhatNobodyWaitsFor(t *testing.T) {
	withCitus(t, coordinatorsNodeEndsWhatNobodyWaitsFor)
}

func coordinatorsNodeEndsWhatNobodyWaitsFor(t *testing.T, w *citusWorld) {
	w.entry(1, 5001)
	w.prepare(w.node("worker", 1, 5002))
	primary := w.node("worker", 1, 5001)
	w.nodes = []pgautofailover.NodeRow{
		{ID: 5001, Group: 1, Goal: fsm.Primary, Reported: fsm.Primary, Health: fsm.HealthGood},
		{ID: 5002, Group: 1, Goal: fsm.PreparePromotion, Reported: fsm.PreparePromotion, Health: fsm.HealthGood},
	}
	require.NoError(t, primary.careAsWorker(t.Context()))
	require.Len(t, w.gids(), 1, "its candidate is on the way")
	w.nodes[1].Goal, w.nodes[1].Reported = fsm.Secondary, fsm.Secondary
	pgtest.Eventually(t, patience, func() error {
		if err := primary.careAsWorker(t.Context()); err != nil {
			return err
		}
		if len(w.gids()) > 0 {
			return errNoCoordinator
		}
		return nil
	})
	require.Equal(t, 5001, w.port(1))

	// The address of a worker at rest has changed.
	moved := w.node("worker", 1, 5009)
	require.NoError(t, moved.careAsWorker(t.Context()))
	require.Equal(t, 5009, w.port(1))
}

// TestNoRoomToPrepare: others have all the prepared transactions that the coordinator can hold.
// The promotion goes on, and changes the address at its end.
func TestNoRoomToPrepare(t *testing.T) { withCitus(t, noRoomToPrepareOneMore) }

func noRoomToPrepareOneMore(t *testing.T, w *citusWorld) {
	w.entry(1, 5001)
	var room int
	require.NoError(t, w.conn.QueryRow(t.Context(), "SELECT current_setting('max_prepared_transactions')::int").Scan(&room))
	for i := range room {
		_, err := w.conn.Exec(t.Context(), fmt.Sprintf("BEGIN; SELECT txid_current(); PREPARE TRANSACTION 'client %d'", i))
		require.NoError(t, err)
	}
	n := w.node("worker", 1, 5002)
	w.prepare(n)
	require.Len(t, w.gids(), room)
	require.Equal(t, 5001, w.port(1))
	w.commit(n)
	require.Equal(t, 5002, w.port(1))
}

// TestPromotionWaitsForTheCoordinator and goes on by itself.
func TestPromotionWaitsForTheCoordinator(t *testing.T) { withCitus(t, promotionWaitsForTheCoordinator) }

func promotionWaitsForTheCoordinator(t *testing.T, w *citusWorld) {
	w.entry(1, 5001)
	w.server.Stop(t, syscall.SIGINT)
	n := w.node("worker", 1, 5002)
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() {
		done <- n.coordinate(ctx, fsm.StepCoordinatorPrepare, task{From: fsm.Secondary, To: fsm.PreparePromotion})
	}()
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(time.Second):
	}
	w.server.Start(t)
	require.NoError(t, <-done)
	conn, err := pgx.Connect(t.Context(), w.server.DSN("postgres"))
	require.NoError(t, err)
	w.conn = conn
	require.Equal(t, []string{"master_update_node 1"}, w.gids())
	require.NoError(t, conn.Close(t.Context()))

	// An edge that leads nowhere any more ends the wait.
	w.server.Stop(t, syscall.SIGINT)
	given, giveUp := context.WithCancelCause(t.Context())
	giveUp(errSuperseded)
	require.ErrorIs(t, n.coordinate(given, fsm.StepCoordinatorCommit, task{}), errSuperseded)
}

// TestHungSessionDoesNotHoldUpAPromotion: a client's transaction that will never
// end holds locks on the shards; it is ended after the cooldown.
func TestHungSessionDoesNotHoldUpAPromotion(t *testing.T) {
	withCitus(t, hungSessionDoesNotHoldUpAPromotion)
}

func hungSessionDoesNotHoldUpAPromotion(t *testing.T, w *citusWorld) {
	n := w.node("worker", 0, w.server.Port+1) // the only server there is holds the shards
	n.file.Timeouts.CitusUpdateNodeLockCooldown = 2000
	work := "SELECT pg_advisory_xact_lock_shared(19740, 0)" // what the stand-in locks
	if w.genuine {
		work = "INSERT INTO rows VALUES (1)"
		w.distribute()
	} else {
		w.entry(0, w.server.Port)
	}
	hung := w.session()
	_, err := hung.Exec(t.Context(), "BEGIN")
	require.NoError(t, err)
	_, err = hung.Exec(t.Context(), work)
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, n.withCoordinator(ctx, n.prepareMove), "at the first attempt")
	require.Equal(t, []string{"master_update_node 0"}, w.gids())
	_, err = hung.Exec(t.Context(), "COMMIT")
	require.Error(t, err)
	require.NoError(t, n.withCoordinator(ctx, func(ctx context.Context, s *distSession) error {
		return s.finish(ctx, "ROLLBACK", updateGID(0))
	}))
}

// distribute has the coordinator's server hold the shards of a table.
func (w *citusWorld) distribute() {
	w.t.Helper()
	for _, sql := range []string{
		fmt.Sprintf("SELECT citus_set_coordinator_host('127.0.0.1', %d)", w.server.Port),
		fmt.Sprintf("SELECT citus_set_node_property('127.0.0.1', %d, 'shouldhaveshards', true)", w.server.Port),
		"CREATE TABLE rows (id bigint PRIMARY KEY)",
		"SELECT create_distributed_table('rows', 'id', shard_count => 2)",
	} {
		_, err := w.conn.Exec(w.t.Context(), sql)
		require.NoError(w.t, err, sql)
	}
}

// session is one more session of a client.
func (w *citusWorld) session() *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.server.DSN("postgres"))
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(w.t.Context())) })
	return conn
}

// TestWorkerThatHangsIsCutOff: a session of the coordinator waits for
// a server that will never answer, on a host whose system says that all is well.
// No signal ends it; the end of its connection does, once that worker is being replaced.
func TestWorkerThatHangsIsCutOff(t *testing.T) {
	if !pgtest.ReachesConnections(t) {
		t.Skip("this system does not let a process reach another's connections")
	}
	withStandIn(t, workerThatHangsIsCutOff)
}

func workerThatHangsIsCutOff(t *testing.T, w *citusWorld) {
	mute, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = mute.Close() }()
	address, err := netip.ParseAddrPort(mute.Addr().String())
	require.NoError(t, err)
	port := int(address.Port())
	w.entry(1, port)
	hung := w.session()
	told := make(chan error, 1)
	go func() {
		_, err := hung.Exec(t.Context(), "SELECT citus.execute(1, 'SELECT 1')")
		told <- err
	}()
	conn, err := mute.Accept()
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()

	pid := int(hung.PgConn().PID())
	ended := !w.endsAtSignals()
	if ended {
		_, err = w.conn.Exec(t.Context(), "SELECT pg_terminate_backend($1)", pid)
		require.NoError(t, err)
	}
	coordinator := w.node("coordinator", 0, w.server.Port)
	look := func() {
		rows := []distNode{{ID: 1, Group: 1, Host: "127.0.0.1", Port: port, Role: citusPrimary, Cluster: defaultCluster, Active: true}}
		require.NoError(t, coordinator.withCoordinator(t.Context(), func(ctx context.Context, s *distSession) error {
			for _, at := range replaced(rows, w.nodes) {
				if err := coordinator.cutOffAll(ctx, s, at); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	// The node is there, and nobody is about to take its place.
	w.nodes = []pgautofailover.NodeRow{
		{ID: 1, Group: 1, Host: "127.0.0.1", Port: port, Goal: fsm.Primary, Reported: fsm.Primary},
		{ID: 2, Group: 1, Host: "127.0.0.1", Port: port + 1, Goal: fsm.Secondary, Reported: fsm.Secondary},
	}
	look()
	select {
	case err := <-told:
		t.Fatalf("the session has ended: %v", err)
	default:
	}
	w.nodes[0].Goal, w.nodes[1].Goal = fsm.Draining, fsm.PreparePromotion
	look()
	require.Error(t, <-told)
	require.Eventually(t, func() bool {
		var there bool
		err := w.conn.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid).Scan(&there)
		return err == nil && there != ended
	}, patience, 20*time.Millisecond)
}

// TestCallsByHand: what an operator has a node say to the coordinator.
func TestCallsByHand(t *testing.T) { withStandIn(t, callsByHand) }

func callsByHand(t *testing.T, w *citusWorld) {
	tell := func(n *node, call CoordinatorCall) error {
		return n.withCoordinator(t.Context(), func(ctx context.Context, s *distSession) error { return n.tell(ctx, s, call) })
	}
	entry := func() (active bool) {
		require.NoError(t, w.conn.QueryRow(t.Context(), "SELECT isactive FROM pg_dist_node WHERE groupid = 1").Scan(&active))
		return active
	}
	first, second := w.node("worker", 1, 5001), w.node("worker", 1, 5002)
	require.ErrorContains(t, tell(first, CoordinatorActivate), "this node is not in the coordinator's metadata")
	for range 2 { // again changes nothing
		require.NoError(t, tell(first, CoordinatorAdd))
		require.False(t, entry())
	}
	for range 2 {
		require.NoError(t, tell(first, CoordinatorActivate))
		require.True(t, entry())
	}
	for _, call := range []CoordinatorCall{CoordinatorAdd, CoordinatorActivate, CoordinatorRemove} {
		require.ErrorContains(t, tell(second, call), "group 1 is node 127.0.0.1:5001 in the coordinator's metadata")
	}
	for range 2 {
		require.NoError(t, tell(second, CoordinatorPrepare))
		require.Equal(t, []string{"master_update_node 1"}, w.gids())
	}
	require.NoError(t, tell(second, CoordinatorRollback))
	require.NoError(t, tell(second, CoordinatorRollback))
	require.Empty(t, w.gids())
	require.Equal(t, 5001, w.port(1))
	require.NoError(t, tell(second, CoordinatorPrepare))
	require.NoError(t, tell(second, CoordinatorCommit))
	require.NoError(t, tell(second, CoordinatorCommit))
	require.Empty(t, w.gids())
	require.Equal(t, 5002, w.port(1))
	for range 2 {
		require.NoError(t, tell(second, CoordinatorRemove))
	}
	var left int
	require.NoError(t, w.conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_dist_node").Scan(&left))
	require.Zero(t, left)
	require.NoError(t, tell(first, CoordinatorUse))
	require.True(t, entry())
}

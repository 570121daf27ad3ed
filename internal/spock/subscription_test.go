package spock_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/spock"
)

// pair is a provider and a subscriber that knows nobody yet.
func pair(t *testing.T) (provider, subscriber *node) {
	t.Helper()
	return create(t, "p1"), create(t, "s1")
}

func TestSubscriptionLife(t *testing.T) {
	t.Parallel()
	provider, n := pair(t)
	ctx := t.Context()
	id, err := n.db.CreateSubscription(ctx, spock.NewSubscription{
		Name: "sub_p1_s1", ProviderDSN: provider.dsn, SyncStructure: true, SyncData: true, ApplyDelay: 90 * time.Second,
		ForwardOrigins: []string{"all"}, SkipSchemas: []string{"audit"},
	})
	require.NoError(t, err)
	all, err := n.db.Subscriptions(ctx)
	require.NoError(t, err)
	require.Len(t, all, 1)
	s := all[0]
	require.Equal(t, id, s.ID)
	require.Equal(t, "p1", s.ProviderName)
	require.Equal(t, "s1", s.TargetName)
	require.Equal(t, provider.dsn, s.ProviderDSN)
	require.Equal(t, []string{"default", "default_insert_only", "ddl_sql"}, s.Sets)
	require.Equal(t, []string{"all"}, s.ForwardOrigins)
	require.Equal(t, []string{"audit"}, s.SkipSchemas)
	require.Equal(t, 90*time.Second, s.ApplyDelay)
	require.Equal(t, "f", s.SyncKind)
	require.Equal(t, "i", s.SyncStatus)
	require.True(t, s.Enabled)
	require.False(t, s.Pending)
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM pg_replication_origin WHERE roname = $1`, s.Slot), "the engine makes it")

	status := func() string { return n.text(t, `SELECT status FROM spock.sub_show_status('sub_p1_s1')`) }
	require.Equal(t, "down", status())
	worker := open(t, n.dsn, false).db
	served, ok, err := worker.StartWorker(ctx, id)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, s, served)
	_, ok, err = n.db.StartWorker(ctx, id)
	require.NoError(t, err)
	require.False(t, ok, "one session serves a subscription")
	require.Equal(t, "initializing", status())
	require.NoError(t, worker.SetSync(ctx, id, "r", 0))
	require.Equal(t, "replicating", status())
	n.exec(t, `SELECT spock.sub_disable('sub_p1_s1')`)
	require.Equal(t, "replicating", status(), "until the worker has ended")
	require.NoError(t, worker.StopWorker(ctx, id))
	require.Equal(t, "disabled", status())
	n.exec(t, `DELETE FROM spock.local_sync_status`)
	_, ok, err = worker.StartWorker(ctx, id)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "unknown", status())
	require.NoError(t, worker.StopWorker(ctx, id))

	for call, want := range map[string]string{
		`spock.sub_add_repset('sub_p1_s1', 'more')`: "true", `spock.sub_add_repset('sub_p1_s1', 'default')`: "false",
		`spock.sub_remove_repset('sub_p1_s1', 'none')`: "false", `spock.sub_remove_repset('sub_p1_s1', 'ddl_sql')`: "true",
		`spock.sub_alter_interface('sub_p1_s1', 'p1')`: "false", `spock.sub_alter_skiplsn('sub_p1_s1', '0/123')`: "true",
		`spock.sub_enable('sub_p1_s1', true)`: "true",
		`spock.sub_alter_options('sub_p1_s1', '{"forward_origins": [], "apply_delay": "1 month 2 days 03:00", "skip_schema": ["x", "y"]}')`: "true",
	} {
		require.Equal(t, want, n.text(t, call), call)
	}
	s, err = n.db.Subscription(ctx, id)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"default", "default_insert_only", "more"}, s.Sets)
	require.Equal(t, spock.Position(0x123), s.SkipLSN)
	require.Empty(t, s.ForwardOrigins)
	require.Equal(t, []string{"x", "y"}, s.SkipSchemas)
	require.Equal(t, 32*24*time.Hour+3*time.Hour, s.ApplyDelay)
	n.exec(t, `SELECT spock.node_add_interface('p1', 'second', $1)`, provider.dsn+" connect_timeout=9")
	require.Equal(t, "true", n.text(t, `spock.sub_alter_interface('sub_p1_s1', 'second')`))

	provider.exec(t, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, s.Slot)
	n.exec(t, `INSERT INTO spock.pgdrover_progress VALUES ($1, 0, '0/1', now()); SELECT pgdrover.add_counter($1, 'x', 1)`, id)
	ok, err = n.db.DropSubscription(ctx, "sub_p1_s1", false)
	require.NoError(t, err)
	require.True(t, ok)
	ok, err = n.db.DropSubscription(ctx, "sub_p1_s1", true)
	require.NoError(t, err)
	require.False(t, ok)
	require.Equal(t, "0", provider.text(t, `SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1`, s.Slot))
	require.Equal(t, []string{"s1"}, n.lines(t, `SELECT node_name::text FROM spock.node`))
	for _, table := range []string{
		"subscription", "local_sync_status", "progress", "pgdrover_subscription", "pgdrover_progress", "pgdrover_counter",
	} {
		require.Equal(t, "0", n.text(t, `SELECT count(*) FROM spock.`+table), table)
	}
	_, err = n.db.Subscription(ctx, id)
	require.ErrorIs(t, err, spock.ErrNotFound)
	_, err = n.db.CreateSubscription(ctx, spock.NewSubscription{Name: "a123456789012345678901234567890123456789012345678901234567890123"})
	require.ErrorContains(t, err, "longer than 63 bytes")
}

func TestDisabledSubscriptionHasOrigin(t *testing.T) {
	t.Parallel()
	provider, n := pair(t)
	n.exec(t, `SELECT spock.sub_create('sub', $1, enabled := false)`, provider.dsn)
	all, err := n.db.Subscriptions(t.Context())
	require.NoError(t, err)
	slot := all[0].Slot
	require.Equal(t, "r", all[0].SyncStatus)
	origins, err := n.db.Origins(t.Context())
	require.NoError(t, err)
	require.Len(t, origins, 1)
	require.Equal(t, slot, origins[0].Name)
	require.Equal(t, all[0].Provider, origins[0].Node)

	// What scripts do before they enable it.
	n.exec(t, `SELECT pg_replication_origin_advance($1, '0/5000')`, slot)
	at, err := n.db.OriginProgress(t.Context(), slot, true)
	require.NoError(t, err)
	require.EqualValues(t, 0x5000, at)
	again, err := n.db.CreateOrigin(t.Context(), slot, all[0].Provider, all[0].ID, 0)
	require.NoError(t, err)
	require.Equal(t, origins[0].ID, again)
	at, err = n.db.OriginProgress(t.Context(), slot, true)
	require.NoError(t, err)
	require.EqualValues(t, 0x5000, at, "making sure changes nothing")
	second, err := n.db.CreateOrigin(t.Context(), slot+"_1", all[0].Provider, all[0].ID, 1)
	require.NoError(t, err)
	node, err := n.db.OriginNode(t.Context(), second)
	require.NoError(t, err)
	require.Equal(t, all[0].Provider, node)

	// While a slot of this server may still have its work ahead, the number keeps a name, or whoever receives through that
	// slot would take the work for this node's own; the next subscription takes it over.
	n.exec(t, `SELECT pg_create_logical_replication_slot('witness_' || current_database(), 'pgoutput')`)
	defer func() {
		_, err := n.sql.Exec(context.WithoutCancel(t.Context()), `SELECT pg_drop_replication_slot('witness_' || current_database())`)
		require.NoError(t, err)
	}()
	const retired = `SELECT count(*) FROM pg_replication_origin WHERE roident IN ($1, $2) AND roname LIKE 'pgdrover_retired_%'`
	n.exec(t, `SELECT spock.sub_drop('sub')`)
	require.Equal(t, "2", n.text(t, retired, again, second))
	n.exec(t, `SELECT spock.sub_create('sub', $1, enabled := false)`, provider.dsn)
	at, err = n.db.OriginProgress(t.Context(), slot, true)
	require.NoError(t, err)
	require.Zero(t, at, "its old position is not the new subscription's")
	dropped, err := n.db.DropRetiredOrigins(t.Context())
	require.NoError(t, err)
	require.Zero(t, dropped)
	n.exec(t, `SELECT pg_replication_slot_advance('witness_' || current_database(), pg_current_wal_insert_lsn())`)
	dropped, err = n.db.DropRetiredOrigins(t.Context())
	require.NoError(t, err)
	require.LessOrEqual(t, dropped, 1) // another test's slot may hold it
	require.Equal(t, "true", n.text(t, `SELECT node_id = pgdrover.origin_node($1) FROM spock.node WHERE node_name = 'p1'`, second), "stamps outlive the origin")
}

// TestLeftoversOfADroppedSubscription: a worker, whose sessions are replicas, may write about its subscription while that goes.
func TestLeftoversOfADroppedSubscription(t *testing.T) {
	t.Parallel()
	provider, n := pair(t)
	n.exec(t, `SELECT spock.sub_create('sub', $1)`, provider.dsn)
	id := n.text(t, `SELECT sub_id FROM spock.subscription`)
	n.exec(t, `SELECT spock.sub_drop('sub')`)
	n.exec(t, `SET session_replication_role = replica`)
	n.exec(t, `INSERT INTO spock.pgdrover_subscription (sub_id, state) VALUES (`+id+`, 'down')`)
	n.exec(t, `INSERT INTO spock.local_sync_status VALUES ('i', `+id+`, NULL, NULL, 'r', '0/1')`)
	n.exec(t, `RESET session_replication_role`)
	n.exec(t, `SELECT spock.sub_create('sub', $1)`, provider.dsn)
	require.Equal(t, []string{"i"}, n.lines(t, `SELECT sync_status::text FROM spock.local_sync_status`))
	require.Equal(t, "NULL", n.text(t, `SELECT state FROM spock.pgdrover_subscription`))
}

// TestStateBeganWithItsSession: an engine that was stopped and started leaves the state as it was; what applies is new.
func TestStateBeganWithItsSession(t *testing.T) {
	t.Parallel()
	provider, n := pair(t)
	n.exec(t, `SELECT spock.sub_create('sub', $1)`, provider.dsn)
	n.exec(t, `UPDATE spock.pgdrover_subscription SET state = 'streaming', state_since = '2026-01-01 00:00:00+00'`)
	began := func() time.Time {
		states, err := n.db.EngineStates(t.Context())
		require.NoError(t, err)
		require.Len(t, states, 1)
		return states[0].Began
	}
	require.Equal(t, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), began().UTC())
	applying := n.session(t)
	_, err := applying.Exec(t.Context(), `SELECT set_config('application_name', format('spock apply %s:%s', d.oid, s.sub_id), false)
		FROM pg_database d, spock.subscription s WHERE d.datname = current_database()`)
	require.NoError(t, err)
	require.Equal(t, n.text(t, `SELECT backend_start FROM pg_stat_activity WHERE pid = `+strconv.FormatUint(uint64(applying.PgConn().PID()), 10)),
		n.text(t, `$1::timestamptz`, began()))
}

// TestOriginNumbersAreNotReused: rows that an origin has stamped outlive it, and must not pass for another node's.
// Numbers are the server's: no test of another database may draw one meanwhile.
func TestOriginNumbersAreNotReused(t *testing.T) {
	_, n := pair(t)
	const mine, other = 50001, 50002
	number := func(name string, node uint32, worker int) uint32 {
		id, err := n.db.CreateOrigin(t.Context(), name+"_"+n.text(t, "SELECT current_database()"), node, 0, worker)
		require.NoError(t, err)
		return id
	}
	drop := func(name string) {
		n.exec(t, `SELECT pg_replication_origin_drop($1)`, name+"_"+n.text(t, "SELECT current_database()"))
	}
	first := number("first", mine, 1)
	drop("first")
	second := number("second", other, 1)
	require.NotEqual(t, first, second, "the number of another node's rows")
	drop("second")
	require.Equal(t, first, number("third", mine, 1), "rows of the same node")
	drop("third")
	node, err := n.db.OriginNode(t.Context(), second)
	require.NoError(t, err)
	require.EqualValues(t, other, node)
}

// TestDropEndsTheWorker drops a subscription under a worker that lets go when it is asked, and under one that does not.
func TestDropEndsTheWorker(t *testing.T) {
	t.Parallel()
	provider, n := pair(t)
	ctx := t.Context()
	for _, polite := range []bool{true, false} {
		id, err := n.db.CreateSubscription(ctx, spock.NewSubscription{Name: "sub", ProviderDSN: provider.dsn})
		require.NoError(t, err)
		worker := open(t, n.dsn, false).db
		_, ok, err := worker.StartWorker(ctx, id)
		require.NoError(t, err)
		require.True(t, ok)
		dropped := make(chan error, 1)
		go func() {
			_, err := n.db.DropSubscription(ctx, "sub", false)
			dropped <- err
		}()
		if polite {
			require.Eventually(t, func() bool {
				waiters, err := worker.Waiters(ctx)
				return err == nil && len(waiters) == 1 && waiters[0] == spock.Waiter{Lock: spock.LockWorker, Subscription: id}
			}, patience, 10*time.Millisecond)
			require.NoError(t, worker.StopWorker(ctx, id))
		}
		require.NoError(t, <-dropped)
		_, _, err = open(t, n.dsn, false).db.StartWorker(ctx, id)
		require.ErrorIs(t, err, spock.ErrNotFound)
		// One that has not heard of it leaves nothing behind.
		_, err = n.db.CreateOrigin(ctx, "late/1", 50003, id, 1)
		require.Equal(t, pgerrcode.UndefinedObject, spock.SQLState(err))
		require.Equal(t, "0", n.text(t, "SELECT count(*) FROM pg_replication_origin WHERE roname = 'late/1'"))
	}
}

// TestDropLeavesOtherSlots: only copies of the dropped subscription have slots beside its own, and those are temporary.
func TestDropLeavesOtherSlots(t *testing.T) {
	t.Parallel()
	provider, n := pair(t)
	n.exec(t, `SELECT spock.sub_create('sub', $1, '{default}')`, provider.dsn)
	n.exec(t, `SELECT spock.sub_create('sub_20261121', $1, '{ddl_sql}')`, provider.dsn)
	slots := func() []string {
		return provider.lines(t, `SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database() ORDER BY 1`)
	}
	other := n.text(t, `(SELECT sub_slot_name FROM spock.subscription WHERE sub_name = 'sub_20261121')`)
	own := n.text(t, `(SELECT sub_slot_name FROM spock.subscription WHERE sub_name = 'sub')`)
	for _, name := range []string{own, other} {
		provider.exec(t, `SELECT pg_create_logical_replication_slot($1, 'pgoutput') WHERE $1 NOT IN (SELECT slot_name FROM pg_replication_slots)`, name)
	}
	require.ElementsMatch(t, []string{own, other}, slots())
	copying := open(t, provider.dsn, false)
	copying.exec(t, `SELECT pg_create_logical_replication_slot($1, 'pgoutput', true)`, own+"_0badcafe")
	n.exec(t, `SELECT spock.sub_drop('sub')`)
	require.Equal(t, []string{other}, slots())
}

func TestSubDropWithoutProvider(t *testing.T) {
	t.Parallel()
	provider, n := pair(t)
	n.exec(t, `SELECT spock.sub_create('sub', $1)`, provider.dsn)
	n.exec(t, `UPDATE spock.node_interface SET if_dsn = 'host=/nowhere connect_timeout=1' WHERE if_name = 'p1'`)
	n.heard()
	require.Equal(t, "1", n.text(t, `spock.sub_drop('sub')`))
	require.Contains(t, n.heard()[0], `WARNING: could not drop slot "spk_`)
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM spock.subscription`))
}

func TestSharedSetsWarn(t *testing.T) {
	t.Parallel()
	provider, n := pair(t)
	n.exec(t, `SELECT spock.sub_create('first', $1, '{default}')`, provider.dsn)
	n.heard()
	n.exec(t, `SELECT spock.sub_create('second', $1, '{default,ddl_sql}')`, provider.dsn)
	require.Contains(t, n.heard(), `WARNING: existing subscription "first" to node "p1" already subscribes to replication set "default"`)
}

// TestPending is about a role that cannot ask peers: the engine checks later, and refuses what sub_create would have.
func TestPending(t *testing.T) {
	t.Parallel()
	provider, n := pair(t)
	n.exec(t, `DROP FUNCTION pgdrover.dblink_connect(text, text)`)
	n.exec(t, `SELECT spock.sub_create('sub', $1)`, provider.dsn)
	require.Contains(t, n.heard(), `NOTICE: subscription "sub" is stored and not yet checked`)
	all, err := n.db.Subscriptions(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.True(t, all[0].Pending)
	require.Equal(t, provider.dsn, all[0].ProviderDSN)
	require.ErrorContains(t, n.db.ResolveSubscription(t.Context(), all[0].ID, n.text(t, `SELECT row_to_json(i) FROM spock.node_info() i`)),
		"cannot subscribe to itself")
	require.NoError(t, n.db.ResolveSubscription(t.Context(), all[0].ID, provider.text(t, `SELECT row_to_json(i) FROM spock.node_info() i`)))
	resolved, err := n.db.Subscription(t.Context(), all[0].ID)
	require.NoError(t, err)
	require.False(t, resolved.Pending)
	require.Equal(t, "p1", resolved.ProviderName)
	require.Equal(t, n.text(t, `spock.spock_gen_slot_name(current_database(), 'p1', 'sub')`), resolved.Slot)
	require.Equal(t, []string{"p1", "s1"}, n.lines(t, `SELECT if_name::text FROM spock.node_interface ORDER BY 1`))

	n.exec(t, `SELECT spock.sub_alter_sync('sub', true)`)
	s, err := n.db.Subscription(t.Context(), all[0].ID)
	require.NoError(t, err)
	require.True(t, s.SyncRequested && s.SyncTruncate)
	require.NoError(t, n.db.SyncTables(t.Context(), s.ID, []string{"public"}, []string{"t"}, true))
	s, err = n.db.Subscription(t.Context(), all[0].ID)
	require.NoError(t, err)
	require.False(t, s.SyncRequested || s.SyncTruncate)
	require.Equal(t, "1", n.text(t, `spock.sub_drop('sub')`))
	require.Equal(t, []string{"s1"}, n.lines(t, `SELECT node_name::text FROM spock.node`))
}

func TestTableSync(t *testing.T) {
	t.Parallel()
	provider, n := pair(t)
	ctx := t.Context()
	for _, x := range []*node{provider, n} {
		x.exec(t, `CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)`)
	}
	provider.exec(t, `SELECT spock.repset_add_table('default', 'a')`)
	id, err := n.db.CreateSubscription(ctx, spock.NewSubscription{Name: "sub", ProviderDSN: provider.dsn})
	require.NoError(t, err)
	require.NoError(t, n.db.SetTableSync(ctx, id, spock.TableSync{Schema: "public", Table: "b", Kind: "d", Status: "r"}))
	n.exec(t, `SELECT spock.sub_alter_sync('sub', true)`)
	require.Equal(t, []string{"sync_init unknown"}, n.lines(t, `SELECT (spock.sub_show_table('sub', 'a')).status || ' ' || (spock.sub_show_table('sub', 'b')).status`))
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM a`), "truncated here")
	require.Equal(t, "1", n.text(t, `SELECT count(*) FROM b`))

	rows, err := n.db.TableSyncs(ctx, id)
	require.NoError(t, err)
	require.Len(t, rows, 1)
	emptied := rows[0].LSN
	require.NotZero(t, emptied, "what copies it knows that it was emptied")
	require.Equal(t, []spock.TableSync{{Schema: "public", Table: "a", Kind: "d", Status: "i", LSN: emptied}}, rows)
	n.exec(t, `SELECT spock.sub_resync_table('sub', 'a', false)`)
	rows, err = n.db.TableSyncs(ctx, id)
	require.NoError(t, err)
	require.Equal(t, emptied, rows[0].LSN, "a later request does not make it forgotten")
	require.NoError(t, n.db.SetTableSync(ctx, id, spock.TableSync{Schema: "public", Table: "a", Kind: "d", Status: "d"}))
	require.Equal(t, "table public.a is already being synchronized", n.refused(t, `SELECT spock.sub_resync_table('sub', 'a')`).Message)
	for letter, text := range map[string]string{
		"i": "sync_init", "s": "sync_structure", "d": "sync_data", "c": "sync_constraints", "w": "sync_waiting", "u": "catchup",
		"y": "synchronized", "r": "replicating", "?": "unknown",
	} {
		require.NoError(t, n.db.SetTableSync(ctx, id, spock.TableSync{Schema: "public", Table: "a", Kind: "d", Status: letter, LSN: 0x10}))
		require.Equal(t, text, n.text(t, `SELECT status FROM spock.sub_show_table('sub', 'a')`))
	}
	require.NoError(t, n.db.SetTableSync(ctx, id, spock.TableSync{Schema: "public", Table: "a", Kind: "d", Status: "r"}))
	n.exec(t, `SET spock.readonly = 'user'`)
	refused := n.refused(t, `SELECT spock.sub_resync_table('sub', 'a')`)
	require.Equal(t, `cannot resync table "a": subscriber is in read-only mode`, refused.Message)
	require.Equal(t, `spock.readonly is set to "user" on this node.`, refused.Detail)
	n.exec(t, `RESET spock.readonly; INSERT INTO a VALUES (1); SELECT spock.sub_resync_table('sub', 'a', false)`)
	require.Equal(t, "1", n.text(t, `SELECT count(*) FROM a`))
	n.exec(t, `CREATE TABLE child (a int REFERENCES a); INSERT INTO child VALUES (1); SELECT spock.sub_resync_table('sub', 'a')`)
	require.Equal(t, "0 1", n.text(t, `SELECT concat_ws(' ', (SELECT count(*) FROM a), (SELECT count(*) FROM child))`), "what refers to it stays")

	waited := make(chan error, 2)
	second := open(t, n.dsn, false)
	third := open(t, n.dsn, false)
	go func() { waited <- second.db.WaitForSync(ctx, "sub") }()
	go func() { waited <- third.db.WaitForTable(ctx, "sub", "public.a") }()
	require.NoError(t, n.db.SetTableSync(ctx, id, spock.TableSync{Schema: "public", Table: "a", Kind: "d", Status: "r"}))
	require.NoError(t, n.db.SetSync(ctx, id, "r", 0))
	require.NoError(t, <-waited)
	require.NoError(t, <-waited)

	piece := spock.CopyPiece{Schema: "public", Table: "a", Piece: 0, BytesTotal: 100}
	require.NoError(t, n.db.PlanPiece(ctx, id, piece))
	piece.State, piece.BytesDone, piece.RowsDone = "copying", 50, 5
	require.NoError(t, n.db.SetPiece(ctx, id, piece))
	progress, err := n.db.CopyProgress(ctx)
	require.NoError(t, err)
	require.Len(t, progress, 1)
	require.Equal(t, "copying", progress[0].State)
	require.EqualValues(t, 50, progress[0].BytesDone)
	pieces, err := n.db.CopyPieces(ctx, id)
	require.NoError(t, err)
	require.Len(t, pieces, 1)
	require.NoError(t, n.db.ForgetCopy(ctx, id))
}

// TestConnectTakesNoOtherRole: ALTER ROLE … SET role is for an operator's own statements.
func TestConnectTakesNoOtherRole(t *testing.T) {
	t.Parallel()
	n := install(t)
	n.exec(t, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET role = pg_read_all_data', current_database()); END $$`)
	info, err := pg.ParseConnInfo(n.dsn)
	require.NoError(t, err)
	for want, connect := range map[string]func(context.Context, spock.ConnectConfig) (*spock.DB, error){
		"none": spock.Connect, "pg_read_all_data": spock.ConnectSession,
	} {
		db, err := connect(t.Context(), spock.ConnectConfig{ConnInfo: info})
		require.NoError(t, err)
		var role string
		require.NoError(t, db.Conn().QueryRow(t.Context(), "SHOW role").Scan(&role))
		require.Equal(t, want, role)
		require.NoError(t, db.Close(t.Context()))
	}
}

// TestSchemaChangeLockedOut: who could not have a lock is told how to find out whose it is.
func TestSchemaChangeLockedOut(t *testing.T) {
	t.Parallel()
	n := install(t)
	n.exec(t, `UPDATE spock.pgdrover_schema_version SET version = version - 1`)
	n.exec(t, `CREATE FUNCTION public.locked() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
		RAISE EXCEPTION USING ERRCODE = '55P03', MESSAGE = 'canceling statement due to lock timeout'; END $$`)
	n.exec(t, `CREATE EVENT TRIGGER locked ON ddl_command_start EXECUTE FUNCTION public.locked()`)
	for name, change := range map[string]func(context.Context, *spock.DB) error{"upgrade": spock.Upgrade, "uninstall": spock.Uninstall} {
		err := change(t.Context(), n.db)
		require.ErrorContains(t, err, "canceling statement due to lock timeout", name)
		_, query, ok := strings.Cut(hint(t, err), "among those of ")
		require.True(t, ok, name)
		query, prepared, ok := strings.Cut(query, "; or are prepared: ")
		require.True(t, ok, name)
		for _, sql := range []string{query, strings.TrimSuffix(prepared, ".")} {
			n.exec(t, sql) // as it stands
		}
	}
}

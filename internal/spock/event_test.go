package spock_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/spock"
)

// TestStreamMessages reads the node's own stream as a subscriber would get it.
func TestStreamMessages(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `CREATE TABLE a (id int PRIMARY KEY); SELECT spock.repset_add_table('default', 'a')`)
	slot := "spk_" + n.text(t, `current_database()`)
	n.exec(t, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, slot)
	// pgoutput's M message: flags, position (8 bytes), prefix, zero, length (4), content.
	messages := func() []string {
		return n.lines(t, fmt.Sprintf(`
			SELECT (('x' || encode(substr(data, 3, 8), 'hex'))::bit(64)::int8 + '0/0'::pg_lsn)::text || ' ' || get_byte(data, 1) || ' '
			       || encode(substr(data, 21), 'hex')
			  FROM pg_logical_slot_get_binary_changes('%s', NULL, NULL, 'proto_version', '1', 'messages', 'true',
			       'publication_names', 'pgdrover_ins,pgdrover_upd,pgdrover_del,pgdrover_trunc,pgdrover_sys')
			 WHERE get_byte(data, 0) = 77 AND position('\x53706f636b00'::bytea IN data) = 11`, slot))
	}
	event := "03000000" + "2cc20000" + "6e31" + strings.Repeat("00", 62)
	at := n.text(t, `spock.sync_event()`)
	require.Equal(t, []string{at + " 0 " + event}, messages())
	at = n.text(t, `spock.sync_event(true)`)
	require.Equal(t, []string{at + " 1 " + event}, messages())
	n.exec(t, `BEGIN`)
	on := n.text(t, `spock.repair_mode(true)`)
	require.Equal(t, "on", n.text(t, `current_setting('spock.replication_repair_mode')`))
	n.exec(t, `INSERT INTO a VALUES (1)`)
	off := n.text(t, `spock.repair_mode(false)`)
	n.exec(t, `COMMIT`)
	require.Equal(t, []string{on + " 1 01000000", off + " 1 02000000"}, messages())

	// Memberships travel in the stream, filters as texts.
	n.exec(t, `SELECT spock.repset_create('other'); SELECT spock.repset_add_table('other', 'a', row_filter := 'id > 5')`)
	require.Contains(t, n.text(t, fmt.Sprintf(`
		SELECT string_agg(encode(data, 'escape'), ' ') FROM pg_logical_slot_get_binary_changes('%s', NULL, NULL, 'proto_version', '1',
		       'publication_names', 'pgdrover_ins,pgdrover_sys')`, slot)), "(id > 5)")
}

func TestWaitSlotConfirm(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	slot := "spk_" + n.text(t, `current_database()`)
	n.exec(t, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, slot)
	n.exec(t, `SELECT spock.wait_slot_confirm_lsn($1, '0/1')`, slot)
	waiting := n.session(t)
	done := make(chan error, 1)
	go func() {
		_, err := waiting.Exec(t.Context(), `SELECT spock.wait_slot_confirm_lsn($1, NULL)`, slot)
		done <- err
	}()
	n.exec(t, `CREATE TABLE a (id int)`)
	require.Eventually(t, func() bool {
		n.exec(t, `SELECT pg_replication_slot_advance($1, pg_current_wal_insert_lsn())`, slot)
		select {
		case err := <-done:
			require.NoError(t, err)
			return true
		default:
			return false
		}
	}, patience, 50*time.Millisecond)
}

func TestCommitTimeToPosition(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `CREATE TABLE a (id int PRIMARY KEY); SELECT spock.repset_add_table('default', 'a')`)
	slot := "spk_" + n.text(t, `current_database()`)
	start := n.text(t, `SELECT lsn FROM pg_create_logical_replication_slot($1, 'pgoutput')`, slot)
	var times, after []string
	for i := range 3 {
		n.exec(t, `INSERT INTO a VALUES ($1)`, i)
		times = append(times, n.text(t, `SELECT pg_xact_commit_timestamp(xmin) FROM a WHERE id = $1`, i))
		after = append(after, n.text(t, `pg_current_wal_insert_lsn()`))
	}
	for _, way := range []string{"WAL records", "the slot's stream"} {
		for i, at := range times {
			require.Equal(t, "true", n.text(t, `SELECT spock.get_lsn_from_commit_ts($1, $2::timestamptz) BETWEEN $3::pg_lsn AND $4::pg_lsn`,
				slot, at, start, after[i]), way)
			if i > 0 {
				require.Equal(t, "true", n.text(t, `SELECT spock.get_lsn_from_commit_ts($1, $2::timestamptz) > spock.get_lsn_from_commit_ts($1, $3::timestamptz)`,
					slot, at, times[i-1]), way)
			}
		}
		n.exec(t, `DROP FUNCTION IF EXISTS pgdrover.wal_records`)
	}
	require.Equal(t, `replication slot "none" does not exist`, n.refused(t, `SELECT spock.get_lsn_from_commit_ts('none', now())`).Message)
	n.exec(t, `SELECT pg_create_physical_replication_slot('phys_' || current_database())`)
	require.Equal(t, "not a logical replication slot", n.refused(t, `SELECT spock.get_lsn_from_commit_ts(('phys_' || current_database())::name, now())`).Message)
	n.exec(t, `SELECT pg_drop_replication_slot('phys_' || current_database())`)
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	ctx := t.Context()
	worker := open(t, n.dsn, false).db
	require.NoError(t, worker.EnterGate(ctx))
	n.exec(t, `SET spock.pause_timeout = 1`)
	refused := n.refused(t, `SELECT spock.pause_apply_workers()`)
	require.Equal(t, "timed out waiting for apply workers to pause after 1 seconds", refused.Message)
	require.Equal(t, "55P03", refused.Code)
	require.Equal(t, "Increase spock.pause_timeout if apply workers have long-running transactions.", refused.Hint)

	n.exec(t, `SET spock.pause_timeout = 60`)
	paused := make(chan error, 1)
	go func() {
		_, err := n.sql.Exec(ctx, `SELECT spock.pause_apply_workers()`)
		paused <- err
	}()
	require.Eventually(t, func() bool {
		waiters, err := worker.Waiters(ctx)
		return err == nil && len(waiters) == 1 && waiters[0].Lock == spock.LockGate
	}, patience, 10*time.Millisecond)
	require.NoError(t, worker.LeaveGate(ctx))
	require.NoError(t, <-paused)
	entered := make(chan error, 1)
	go func() { entered <- worker.EnterGate(ctx) }()
	n.exec(t, `SELECT spock.pause_apply_workers()`)
	select {
	case <-entered:
		require.Fail(t, "a worker entered while workers were paused")
	default:
	}
	n.exec(t, `SELECT spock.resume_apply_workers()`)
	require.NoError(t, <-entered)
	n.exec(t, `SELECT spock.resume_apply_workers()`)
}

func TestEngineLock(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	ctx := t.Context()
	n.exec(t, `SELECT spock.node_drop('n1'); SELECT spock.node_create('n1', $1)`, n.dsn)
	require.Contains(t, n.heard(), "NOTICE: no engine is connected to this database: nothing is applied yet")
	ok, err := n.db.LockEngine(ctx)
	require.NoError(t, err)
	require.True(t, ok)
	second := open(t, n.dsn, false).db
	ok, err = second.LockEngine(ctx)
	require.NoError(t, err)
	require.False(t, ok)
	ok, err = second.EngineConnected(ctx)
	require.NoError(t, err)
	require.True(t, ok)
	n.exec(t, `SELECT spock.node_drop('n1'); SELECT spock.node_create('n1', $1)`, n.dsn)
	require.Empty(t, n.heard())
}

func TestSettings(t *testing.T) {
	t.Parallel()
	n := install(t)
	ctx := t.Context()
	settings, err := n.db.Settings(ctx)
	require.NoError(t, err)
	require.Equal(t, "last_update_wins", settings.Get("spock.conflict_resolution"))
	require.True(t, settings.On("spock.check_all_uc_indexes"))
	require.False(t, settings.On("spock.save_resolutions"))
	defaults, err := n.db.DefaultSettings(ctx)
	require.NoError(t, err)
	require.Len(t, defaults, len(settings))
	for _, d := range defaults {
		require.Equal(t, d.Value, settings.Get(d.Name), d.Name)
	}
	for _, c := range []struct{ name, given, value, invalid string }{
		{"spock.save_resolutions", "yes", "on", ""},
		{"spock.save_resolutions", "maybe", "off", "maybe"},
		{"spock.pause_timeout", "30", "30", ""},
		{"spock.pause_timeout", "0", "10", "0"},
		{"spock.pause_timeout", "soon", "10", "soon"},
		{"spock.exception_behaviour", "DISCARD", "discard", ""},
		{"spock.exception_behaviour", "ignore", "transdiscard", "ignore"},
		{"spock.country", "DE", "DE", ""},
	} {
		_, err := n.db.Conn().Exec(ctx, `SELECT set_config($1, $2, false)`, c.name, c.given)
		require.NoError(t, err)
		settings, err := n.db.Settings(ctx)
		require.NoError(t, err)
		require.Equal(t, c.value, settings.Get(c.name), c)
		require.Equal(t, c.invalid, settings[c.name].Invalid, c)
	}
	require.Equal(t, "??", n.text(t, `spock.get_country()`))
	n.exec(t, `SET spock.country = 'FR'`)
	require.Equal(t, "FR", n.text(t, `spock.get_country()`))
	at, err := n.db.ConfigurationLoaded(ctx)
	require.NoError(t, err)
	require.NotEmpty(t, at)
}

func TestStatistics(t *testing.T) {
	t.Parallel()
	provider, n := pair(t)
	ctx := t.Context()
	id, err := n.db.CreateSubscription(ctx, spock.NewSubscription{Name: "sub", ProviderDSN: provider.dsn})
	require.NoError(t, err)
	n.exec(t, `CREATE TABLE "A b" (id int)`)
	var rel uint32
	require.NoError(t, n.sql.QueryRow(ctx, `SELECT '"A b"'::regclass::oid`).Scan(&rel))
	add := spock.ChannelStats{Subscription: id, Relation: rel, Inserted: 1, Updated: 2, Deleted: 3, Conflicts: 4, DCA: 5, InsertExists: 6, DeleteExists: 7}
	for range 2 {
		require.NoError(t, n.db.AddChannelStats(ctx, []spock.ChannelStats{add}))
	}
	require.Equal(t, []string{`sub public."A b" 2 4 6 8 10`}, n.lines(t,
		`SELECT concat_ws(' ', sub_name, table_name, n_tup_ins, n_tup_upd, n_tup_del, n_conflict, n_dca) FROM spock.channel_table_stats`))
	require.Equal(t, []string{`sub 2 10`}, n.lines(t, `SELECT concat_ws(' ', sub_name, n_tup_ins, n_dca) FROM spock.channel_summary_stats`))
	require.Equal(t, "12 14", n.text(t, `SELECT confl_insert_exists || ' ' || confl_delete_exists FROM spock.get_subscription_stats($1)`, id))
	n.exec(t, `SELECT spock.reset_subscription_stats()`)
	require.Equal(t, "0 true", n.text(t, `SELECT confl_insert_exists || ' ' || (stats_reset <= now()) FROM spock.get_subscription_stats($1)`, id))
	stats, err := n.db.ChannelStats(ctx)
	require.NoError(t, err)
	require.Len(t, stats, 1)
	require.EqualValues(t, 2, stats[0].Inserted)
	n.exec(t, `SELECT spock.reset_channel_stats()`)
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM spock.get_channel_stats()`))
	require.NoError(t, n.db.AddCounter(ctx, spock.Counter{Subscription: id, Name: "future", Value: 2}))
	require.NoError(t, n.db.AddCounter(ctx, spock.Counter{Subscription: id, Name: "future", Value: 3}))
	counters, err := n.db.Counters(ctx)
	require.NoError(t, err)
	require.Equal(t, []spock.Counter{{Subscription: id, Name: "future", Value: 5}}, counters)

	n.exec(t, `INSERT INTO spock.resolutions (node_name, log_time) VALUES ('x', now()), ('x', now() - interval '50 days'), ('x', now() - interval '101 days')`)
	gone, err := n.db.CleanupResolutions(ctx, nil)
	require.NoError(t, err)
	require.EqualValues(t, 1, gone)
	days := 7
	gone, err = n.db.CleanupResolutions(ctx, &days)
	require.NoError(t, err)
	require.EqualValues(t, 1, gone)
	resolutions, exceptions, err := n.db.Records(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, resolutions)
	require.Zero(t, exceptions)
}

func TestProgressAndLag(t *testing.T) {
	t.Parallel()
	provider, n := pair(t)
	ctx := t.Context()
	id, err := n.db.CreateSubscription(ctx, spock.NewSubscription{Name: "sub", ProviderDSN: provider.dsn})
	require.NoError(t, err)
	all, err := n.db.Progress(ctx)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.True(t, all[0].ByCommit)
	require.Zero(t, all[0].CommitLSN)
	at := time.Now().Add(-3 * time.Second).Round(time.Microsecond)
	p := spock.Progress{Provider: all[0].Provider, CommitAt: at, CommitLSN: 0x1000, InsertLSN: 0x1500, Received: 0x1400, ByCommit: true}
	require.NoError(t, n.db.StoreProgress(ctx, p))
	lags, err := n.db.Lags(ctx)
	require.NoError(t, err)
	require.Len(t, lags, 1)
	require.Equal(t, "p1", lags[0].Origin)
	require.Equal(t, "s1", lags[0].Receiver)
	require.EqualValues(t, 0x500, lags[0].Bytes)
	require.GreaterOrEqual(t, lags[0].Lag, 3*time.Second)
	require.NoError(t, n.db.StoreProgress(ctx, spock.Progress{Provider: p.Provider, InsertLSN: 0x1600}))
	lags, err = n.db.Lags(ctx)
	require.NoError(t, err)
	require.Zero(t, lags[0].Bytes, "idle")
	require.Equal(t, spock.Position(0x1000), lags[0].CommitLSN)
	require.Equal(t, spock.Position(0x1600), lags[0].InsertLSN)
	require.True(t, lags[0].CommitAt.Equal(at))
	require.Equal(t, "0/1000", n.text(t, `SELECT remote_commit_lsn FROM spock.apply_group_progress()`))

	require.NoError(t, n.db.StoreWorkerProgress(ctx, id, spock.WorkerProgress{LSN: 0x2000, CommitAt: at}))
	require.NoError(t, n.db.StoreWorkerProgress(ctx, id, spock.WorkerProgress{LSN: 0x2100}))
	workers, err := n.db.WorkerProgress(ctx, id)
	require.NoError(t, err)
	require.Len(t, workers, 1)
	require.Equal(t, spock.Position(0x2100), workers[0].LSN)
	require.True(t, workers[0].CommitAt.Equal(at))
	peers, err := n.db.PeerProgress(ctx)
	require.NoError(t, err)
	require.Equal(t, []spock.PeerProgress{{Provider: p.Provider, LSN: 0x2100}}, peers)

	require.NoError(t, n.db.SetTrouble(ctx, id, "waiting", "connection refused", "08006"))
	require.NoError(t, n.db.SetState(ctx, id, "streaming"))
	require.NoError(t, n.db.SetProvider(ctx, id, "123", 4))
	states, err := n.db.EngineStates(ctx)
	require.NoError(t, err)
	require.Equal(t, []any{"streaming", "connection refused", "08006", 1},
		[]any{states[0].State, states[0].LastError, states[0].LastErrorCode, states[0].Failures})
	s, err := n.db.Subscription(ctx, id)
	require.NoError(t, err)
	require.Equal(t, []any{"123", 4}, []any{s.SystemID, s.Timeline})
	require.NoError(t, n.db.ClearTrouble(ctx, id))
}

func TestSmallThings(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a)`)
	require.Equal(t, n.text(t, `md5(md5('1') || '2')`), n.text(t, `SELECT spock.md5_agg() WITHIN GROUP (ORDER BY x) FROM (VALUES (1), (2)) v(x)`))
	require.Equal(t, "2", n.text(t, `spock.convert_column_to_int8('a', 1::smallint)`))
	require.Equal(t, []string{
		"NOTICE: EXECUTE ALTER TABLE public.a ALTER COLUMN id SET DATA TYPE int8", "NOTICE: EXECUTE ALTER TABLE public.b ALTER COLUMN a SET DATA TYPE int8",
	}, n.heard())
	require.Equal(t, "Attribute 9 of reation public.a not found", n.refused(t, `SELECT spock.convert_column_to_int8('a', 9::smallint)`).Message)

	n.exec(t, `SELECT spock.reserved_object_add('mine', 'schema')`)
	require.Equal(t, "true", n.text(t, `SELECT replicate_ddl FROM spock.reserved_object WHERE name = 'mine'`))
	n.exec(t, `CREATE SCHEMA mine CREATE TABLE c (id int PRIMARY KEY)`)
	require.Equal(t, "table is in a reserved schema", n.refused(t, `SELECT spock.repset_add_table('default', 'mine.c')`).Detail)
	n.exec(t, `SELECT spock.reserved_object_add('mine', 'schema', true, false, false); SELECT spock.repset_add_table('default', 'mine.c'); SELECT spock.reserved_object_remove('mine', 'schema')`)
	require.Equal(t, `cannot delete built-in reserved object "lolor" (schema)`, n.refused(t, `SELECT spock.reserved_object_remove('lolor', 'schema')`).Message)
	require.Equal(t, `cannot update built-in reserved object "spock" (extension)`, n.refused(t, `SELECT spock.reserved_object_add('spock', 'extension')`).Message)

	n.exec(t, `INSERT INTO a VALUES (1)`)
	require.Equal(t, "true", n.text(t, `SELECT (spock.xact_commit_timestamp_origin(xmin))."timestamp" = pg_xact_commit_timestamp(xmin) FROM a`))
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM spock.get_apply_worker_status()`))
	id := n.text(t, `SELECT oid FROM pg_database WHERE datname = current_database()`)
	worker := n.session(t)
	_, err := worker.Exec(t.Context(), `SET application_name = 'spock apply `+id+`:7'`)
	require.NoError(t, err)
	require.Equal(t, "7 running", n.text(t, `SELECT worker_subid || ' ' || worker_status FROM spock.get_apply_worker_status() WHERE worker_dboid = $1::int`, id))
	require.Equal(t, "true", n.text(t, `spock.wait_for_apply_worker(7, 1)`))
	require.Equal(t, "false", n.text(t, `spock.wait_for_apply_worker(8)`))
	require.Equal(t, "0", n.text(t, `spock.slot_enable_failover()`))

	// Read-only: for sessions to come, and on member tables for those that change that for themselves.
	n.exec(t, `SELECT spock.repset_add_table('default', 'a'); SELECT pgdrover.enforce_readonly('user')`)
	require.Equal(t, "user", n.text(t, `SELECT mode FROM spock.pgdrover_readonly`))
	session := n.session(t)
	_, err = session.Exec(t.Context(), `INSERT INTO b VALUES (1)`)
	require.ErrorContains(t, err, "read-only transaction")
	_, err = session.Exec(t.Context(), `SET default_transaction_read_only = off`)
	require.NoError(t, err)
	_, err = session.Exec(t.Context(), `DELETE FROM a`)
	require.ErrorContains(t, err, "spock: invalid statement for a read-only cluster")
	_, err = session.Exec(t.Context(), `SET session_replication_role = replica; DELETE FROM a`)
	require.NoError(t, err)
	require.NoError(t, n.db.EnforceReadonly(t.Context(), "off"))
	n.exec(t, `INSERT INTO a VALUES (2)`)
}

// TestWaitForSyncEventLooksAtAll: what one subscription has brought another one to the same node may not have, and a stream that
// is past a position has left out what came for tables that wait for their copies.
func TestWaitForSyncEventLooksAtAll(t *testing.T) {
	t.Parallel()
	provider, n := create(t, "p1"), create(t, "s1")
	for _, sub := range []string{"a", "b"} {
		n.exec(t, `SELECT spock.sub_create($1, $2, replication_sets := ARRAY[$3], enabled := false)`, sub, provider.dsn,
			map[string]string{"a": "default", "b": "ddl_sql"}[sub])
	}
	at := func(sub, lsn string) {
		t.Helper()
		n.exec(t, `SELECT pg_replication_origin_advance(sub_slot_name, $2::text::pg_lsn) FROM spock.subscription WHERE sub_name = $1`, sub, lsn)
	}
	waited := func(want bool, lsn string, disabled bool) {
		t.Helper()
		var reached bool
		require.NoError(t, n.sql.QueryRow(t.Context(), `CALL spock.wait_for_sync_event(NULL, 'p1', $1::text::pg_lsn, 1, $2)`, lsn, disabled).Scan(&reached))
		require.Equal(t, want, reached)
	}
	at("a", "0/200")
	at("b", "0/100")
	waited(false, "0/200", true)
	waited(true, "0/100", true)
	require.Contains(t, n.refused(t, `CALL spock.wait_for_sync_event(NULL, 'p1', '0/100')`).Message, "has been disabled")
	n.exec(t, `UPDATE spock.subscription SET sub_enabled = true WHERE sub_name = 'a'`)
	waited(true, "0/200", false) // nobody says that the other one is to bring anything
	n.exec(t, `UPDATE spock.subscription SET sub_enabled = true`)
	waited(false, "0/200", false)
	at("b", "0/300")
	waited(true, "0/200", false)

	n.exec(t, `INSERT INTO spock.local_sync_status SELECT 'd', sub_id, 'public', 't', 'i', '0/0' FROM spock.subscription WHERE sub_name = 'b'`)
	for _, c := range []struct {
		status string
		want   bool
	}{{"i", false}, {"d", false}, {"c", false}, {"w", false}, {"f", false}, {"y", true}, {"r", true}} {
		n.exec(t, `UPDATE spock.local_sync_status SET sync_status = $1::text::"char", sync_statuslsn = '0/280' WHERE sync_relname = 't'`, c.status)
		waited(c.want, "0/200", false)
	}
	n.exec(t, `UPDATE spock.pgdrover_subscription SET sync_requested = true WHERE sub_id = (SELECT sub_id FROM spock.subscription WHERE sub_name = 'a')`)
	waited(false, "0/200", false)
	n.exec(t, `UPDATE spock.pgdrover_subscription SET sync_requested = false`)
	n.exec(t, `UPDATE spock.local_sync_status SET sync_status = 'd' WHERE sync_relname IS NULL AND sync_subid = (SELECT sub_id FROM spock.subscription WHERE sub_name = 'a')`)
	waited(false, "0/200", false) // its first copy
	n.exec(t, `UPDATE spock.local_sync_status SET sync_status = 'r'`)
	waited(true, "0/200", false)
}

package multimaster

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// nothing asserts that a refused subscription left no trace on either side.
func nothing(t testing.TB, n *node, providers ...*node) {
	t.Helper()
	require.Equal(t, "0|0|0", n.text(t, `SELECT (SELECT count(*) FROM spock.subscription), (SELECT count(*) FROM pg_replication_origin),
		(SELECT count(*) FROM spock.node WHERE node_id <> (SELECT node_id FROM spock.local_node))`))
	for _, p := range providers {
		require.Equal(t, "0", p.text(t, "SELECT count(*) FROM pg_replication_slots WHERE NOT active"))
	}
}

// What can be wrong with a subscription: one clear sentence each, and nothing half-made.
func TestBadSubscriptions(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	physical, timeless := newBare(t, "n3", map[string]string{"wal_level": "replica"}), newBare(t, "n4", map[string]string{"track_commit_timestamp": "off"})
	bare := newBare(t, "n5", nil)
	for _, n := range []*node{physical, timeless} {
		n.exec(t, fmt.Sprintf("SELECT spock.node_create('%s', '%s')", n.name, n.address(n.server.Port)))
	}
	a.exec(t, "CREATE ROLE poor LOGIN")
	to := func(n *node) string { return n.address(n.server.Port) }
	for _, bad := range []struct{ name, dsn, options, want string }{
		{"sub", "host=127.0.0.1 port=1 dbname=app", "", "could not connect to the postgresql server"},
		{"sub", to(physical), "", "wal_level"},
		{"sub", to(timeless), "", "track_commit_timestamp"},
		{"sub", to(bare), "", "could not fetch remote node info"},
		{"sub", strings.Replace(to(a), pgtest.Superuser, "poor", 1), "", "permission denied"},
		{"sub", to(b), "", "itself"},
		{"", to(a), "", `subscription name "" is too short`},
		{"With Blanks", to(a), "", "contains invalid character"},
		{strings.Repeat("long", 16), to(a), "", "is too long"},
		{"sub", to(a), ", enabled := false, synchronize_data := true", "in disabled state is not allowed to synchronize"},
	} {
		_, err := b.try(fmt.Sprintf("SELECT spock.sub_create('%s', '%s'%s)", bad.name, bad.dsn, bad.options))
		require.ErrorContains(t, err, bad.want)
		nothing(t, b, a, timeless)
	}
	// Slots of that name that are somebody else's, whether they use them now or not.
	slot := b.text(t, "SELECT spock.spock_gen_slot_name('app', 'n1', 'sub_n1_n2')")
	for made, whose := range map[string]string{
		"pg_create_logical_replication_slot('%s', 'pgoutput')": `It belongs to database "postgres".`,
		"pg_create_physical_replication_slot('%s')":            "It is a physical slot.",
	} {
		a.server.Exec(t, "postgres", "SELECT "+fmt.Sprintf(made, slot))
		_, err := b.try(fmt.Sprintf("SELECT spock.sub_create('sub_n1_n2', '%s')", to(a)))
		var refused *pgconn.PgError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, whose, refused.Detail, refused.Message)
		nothing(t, b)
		a.server.Exec(t, "postgres", fmt.Sprintf("SELECT pg_drop_replication_slot('%s')", slot))
	}
	a.exec(t, fmt.Sprintf("SELECT pg_create_logical_replication_slot('%s', 'pgoutput')", slot))
	hold := pgtest.Start(t, pgtest.Command{Name: "pg_recvlogical", Path: a.server.Bin + "/pg_recvlogical", Args: []string{
		"-d", a.server.DSN(database), "--slot", slot, "--start", "-f", "/dev/null", "-o", "proto_version=1", "-o", "publication_names=pgdrover_ins",
	}})
	a.eventually(t, "SELECT active FROM pg_replication_slots", "t")
	_, err := b.try(fmt.Sprintf("SELECT spock.sub_create('sub_n1_n2', '%s')", to(a)))
	require.ErrorContains(t, err, slot)
	nothing(t, b)
	require.NoError(t, hold.Signal(syscall.SIGKILL))
	<-hold.Done()
	a.eventually(t, "SELECT active FROM pg_replication_slots", "f")
	a.exec(t, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")

	// Twice the same one.
	b.subscribe(t, a, "")
	_, err = b.try(fmt.Sprintf("SELECT spock.sub_create('sub_n1_n2', '%s')", a.address(a.links["n2"].Port())))
	require.ErrorContains(t, err, "subscription sub_n1_n2 already exists")
	require.Equal(t, "1", b.text(t, "SELECT count(*) FROM spock.subscription"))
}

// An engine says what its own server lacks, and serves as soon as it is there.
func TestEngineOfAServerWithoutTimestamps(t *testing.T) {
	t.Parallel()
	n := newBare(t, "n1", map[string]string{"track_commit_timestamp": "off"})
	n.exec(t, fmt.Sprintf("SELECT spock.node_create('n1', '%s')", n.address(n.server.Port)))
	n.start(t)
	await(t, func() error {
		if log := n.engine.Log(); !strings.Contains(log, "track_commit_timestamp is off") {
			return fmt.Errorf("%w: %s", errWant, log)
		}
		return nil
	}, n)
	n.disconnect()
	n.server.Stop(t, syscall.SIGINT)
	settings := n.server.Dir + "/postgresql.auto.conf"
	res := pgtest.Run(t, stillness, pgtest.Command{Path: "/bin/sh", Args: []string{"-c", "echo 'track_commit_timestamp = on' >> " + settings}})
	require.Zero(t, res.Code, res.Stderr)
	n.boot()
	n.eventually(t, "SELECT pgdrover.engine_connected()", "t")
}

// Tables that do not fit: refused where they are added, or an exception that says why.
func TestBadTables(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	a.exec(t, "CREATE TABLE keyless (v text)")
	_, err := a.try("SELECT spock.repset_add_table('default', 'keyless')")
	require.ErrorContains(t, err, "table keyless cannot be added to replication set default")
	a.exec(t, "CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY)")
	_, err = a.try("SELECT spock.repset_add_table('default', 'fleeting')")
	require.ErrorContains(t, err, "UNLOGGED and TEMP tables cannot be replicated")

	a.exec(t, `CREATE TABLE wider (id int PRIMARY KEY, extra text); CREATE TABLE other (id int PRIMARY KEY, v text); CREATE TABLE gone (id int PRIMARY KEY);
		CREATE TABLE good (id int PRIMARY KEY); SELECT spock.repset_add_table('default', t::regclass) FROM unnest('{wider,other,gone,good}'::text[]) t`)
	b.exec(t, "CREATE TABLE wider (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY, v int); CREATE TABLE good (id int PRIMARY KEY)")
	b.subscribe(t, a, "")
	a.exec(t, "INSERT INTO wider VALUES (1, 'x')")
	a.exec(t, "INSERT INTO other VALUES (1, 'no number')")
	a.exec(t, "INSERT INTO gone VALUES (1)")
	a.exec(t, "INSERT INTO good VALUES (1)")
	b.follow(t, a)
	require.Equal(t, "1", b.text(t, "SELECT count(*) FROM good"), "the stream goes on")
	log := b.text(t, "SELECT operation, error_message FROM spock.exception_log ORDER BY retry_errored_at")
	require.Contains(t, log, "extra")
	require.Contains(t, log, `invalid input syntax for type integer: "no number"`)
	require.Contains(t, log, "Spock can't find relation")
	require.Equal(t, "3", b.text(t, "SELECT count(*) FROM spock.exception_log"))
}

// refusedWith waits until the engine of n says that it does not start the stream, and why.
func (n *node) refusedWith(t testing.TB, why string) {
	t.Helper()
	await(t, func() error {
		got, err := n.try("SELECT state, last_error FROM spock.pgdrover_subscription")
		if err == nil && !strings.Contains(got, why) {
			err = fmt.Errorf("%w: %s: %q does not say %q", errWant, n.name, got, why)
		}
		return err
	}, n)
	status := must(t, "spock", "status", "--dsn", n.server.DSN(database))
	require.Contains(t, status.Stdout, why)
}

// backup copies the data directory of a stopped server, and restore puts it back.
func (n *node) backup(t testing.TB) {
	t.Helper()
	n.shell(t, "cp -a "+n.server.Dir+" "+n.server.Dir+".backup")
}

func (n *node) restore(t testing.TB) {
	t.Helper()
	n.shell(t, "rm -r "+n.server.Dir+" && cp -a "+n.server.Dir+".backup "+n.server.Dir)
}

func (n *node) shell(t testing.TB, script string) {
	t.Helper()
	res := pgtest.Run(t, forever, pgtest.Command{Path: "/bin/sh", Args: []string{"-c", script}})
	require.Zero(t, res.Code, res.Stderr)
}

// halt stops the server; after SIGQUIT it has to recover.
func (n *node) halt(t testing.TB, how syscall.Signal) {
	t.Helper()
	n.disconnect()
	n.server.Stop(t, how)
}

// follower makes a provider with these settings, and a node that has applied its
// first row.
func follower(t testing.TB, settings map[string]string) (a, b *node) {
	t.Helper()
	a, b = newNode(t, "n1", settings), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, oneTable)
	}
	b.subscribe(t, a, "")
	a.exec(t, "INSERT INTO t VALUES (1, 'kept')")
	b.follow(t, a)
	return a, b
}

// A provider that came back from an older backup has forgotten what it sent:
// going on would lose what it writes next.
func TestProviderRestoredFromBackup(t *testing.T) {
	t.Parallel()
	a, b := follower(t, nil)
	a.halt(t, syscall.SIGQUIT)
	a.backup(t)
	a.boot()
	a.exec(t, "INSERT INTO t SELECT i, 'forgotten' FROM generate_series(2, 2000) i")
	b.follow(t, a)
	a.halt(t, syscall.SIGQUIT)
	a.restore(t)
	a.boot()
	b.refusedWith(t, "restored from a backup")
	require.Equal(t, "2000", b.text(t, "SELECT count(*) FROM t"))
}

// The same, but on a new timeline, as a restore to a point in time and a promotion leave it: the provider has written more
// than was applied of it, only not the same.
func TestProviderRestoredToAPointInTime(t *testing.T) {
	t.Parallel()
	a, b := follower(t, nil)
	a.halt(t, syscall.SIGQUIT)
	a.backup(t)
	a.boot()
	a.exec(t, "INSERT INTO t SELECT i, 'forgotten' FROM generate_series(2, 200) i")
	b.follow(t, a)
	b.stop(t, syscall.SIGTERM)
	a.halt(t, syscall.SIGQUIT)
	a.restore(t)
	a.shell(t, "touch "+a.server.Dir+"/standby.signal")
	a.boot()
	a.exec(t, "SELECT pg_promote()")
	a.exec(t, "INSERT INTO t SELECT i, 'instead' FROM generate_series(2, 2000) i; SELECT pg_switch_wal()")
	b.start(t)
	b.refusedWith(t, "provider left timeline 1 at")
	require.Equal(t, "200", b.text(t, "SELECT count(*) FROM t"))
}

// A subscriber that came back from an older backup misses what its provider
// does not send again.
func TestSubscriberRestoredFromBackup(t *testing.T) {
	t.Parallel()
	a, b := follower(t, nil)
	b.stop(t, syscall.SIGTERM)
	b.halt(t, syscall.SIGINT)
	b.backup(t)
	b.boot()
	b.start(t)
	a.exec(t, "INSERT INTO t SELECT i, 'forgotten' FROM generate_series(2, 2000) i")
	lsn := a.text(t, "SELECT pg_current_wal_insert_lsn()")
	b.follow(t, a)
	a.eventually(t, fmt.Sprintf("SELECT confirmed_flush_lsn >= '%s' FROM pg_replication_slots", lsn), "t", b)
	b.stop(t, syscall.SIGTERM)
	b.halt(t, syscall.SIGINT)
	b.restore(t)
	b.boot()
	b.start(t)
	b.refusedWith(t, "it has lost transactions that it had acknowledged")
	require.Equal(t, "1", b.text(t, "SELECT count(*) FROM t"))
}

// The provider has thrown away log that this node still needed.
func TestSlotLost(t *testing.T) {
	t.Parallel()
	a, b := follower(t, map[string]string{"max_slot_wal_keep_size": "'1MB'", "max_wal_size": "'32MB'", "min_wal_size": "'32MB'"})
	b.stop(t, syscall.SIGTERM)
	await(t, func() error {
		a.exec(t, "INSERT INTO journal SELECT 'n1', i FROM generate_series(1, 1000) i; SELECT pg_switch_wal(); CHECKPOINT")
		if got := a.text(t, "SELECT wal_status FROM pg_replication_slots"); got != "lost" {
			return fmt.Errorf("%w: the slot is %s", errWant, got)
		}
		return nil
	}, a)
	b.start(t)
	b.refusedWith(t, "has lost log that was not received yet")
	// It can be dropped all the same, and made anew.
	b.exec(t, "SELECT spock.sub_drop('sub_n1_n2'); TRUNCATE journal, t")
	require.Equal(t, "0", a.text(t, "SELECT count(*) FROM pg_replication_slots"))
	b.subscribe(t, a, ", synchronize_data := true")
	b.exec(t, "SELECT spock.sub_wait_for_sync('sub_n1_n2')")
	b.follow(t, a)
	equal(t, "SELECT count(*), sum(number) FROM journal", a, b)

	// A slot that somebody has made anew begins where it was made, not where this node is.
	b.stop(t, syscall.SIGTERM)
	a.eventually(t, "SELECT active FROM pg_replication_slots", "f")
	a.exec(t, "INSERT INTO t VALUES (100, 'lost with the slot')")
	a.exec(t, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots;
		SELECT pg_create_logical_replication_slot('spk_app_n1_sub_n1_n2', 'pgoutput')`)
	b.start(t)
	b.refusedWith(t, "this node only at")
}

package zodan

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// checkup is a call of the health check with what it must say.
type checkup struct {
	source, target *node // target is the new node; nil for none
	sourceName     string
	sourceDSN      string
	newName        string
	newDSN         string
	dir            string // in which the tool runs
	options        []string
}

// says runs the check. Every wanted line must be there; one that ends with "…" may go on.
func (c checkup) says(t testing.TB, code int, wanted ...string) {
	t.Helper()
	or := func(text, fallback string) string {
		if text != "" {
			return text
		}
		return fallback
	}
	args := []string{"zodan", "health-check", "--src-node-name=" + or(c.sourceName, c.source.name), "--src-dsn=" + or(c.sourceDSN, c.source.dsn())}
	if c.target != nil {
		args = append(args, "--new-node-name="+or(c.newName, c.target.name), "--new-node-dsn="+or(c.newDSN, c.target.dsn()))
	}
	res := pgtest.Run(t, patience, pgtest.Command{Path: group.Program(t), Args: append(args, c.options...), Dir: c.dir})
	require.Equal(t, code, res.Code, "%s%s", res.Stdout, res.Stderr)
	lines := strings.Split(res.Stdout, "\n")
	for _, want := range wanted {
		beginning, open := strings.CutSuffix(want, "…")
		require.True(t, slices.ContainsFunc(lines, func(line string) bool {
			line = strings.TrimPrefix(line, "    ")
			return line == want || open && strings.HasPrefix(line, beginning)
		}), "%q is not among\n%s%s", want, res.Stdout, res.Stderr)
	}
}

// install makes a database of a server ready, without an engine.
func install(t testing.TB, n *node, database string) string {
	t.Helper()
	res := pgtest.Run(t, patience, pgtest.Command{Path: group.Program(t), Args: []string{"spock", "install", "--dsn", n.server.DSN(database)}})
	require.Zero(t, res.Code, res.Stderr)
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s", n.server.Port, pgtest.Superuser, database)
}

// Every condition that a health check knows is produced, and named in its line.
func TestHealth(t *testing.T) {
	t.Parallel()
	a := newNode(t, "n1", map[string]string{"max_prepared_transactions": "2"})
	a.exec(t, schema)
	a.exec(t, "SELECT spock.node_create('n1', "+quote(a.dsn())+")")
	a.exec(t, filled)
	b := newNode(t, "n2", nil)
	c := newNode(t, "n3", nil)
	ready(t, a, b, c)
	must(t, 0, add(t.TempDir(), a, b)...)
	fit := checkup{source: a, target: c, options: []string{"--patience=2m"}}
	odd := checkup{source: a, target: c, options: []string{"--patience=1ms"}}

	t.Run("a cluster and a new node that are fit", func(t *testing.T) {
		for _, n := range []*node{a, c} { // what an extension has brought is not in the way of the copy
			n.exec(t, "CREATE TYPE pair AS (x int); ALTER EXTENSION plpgsql ADD TYPE pair")
			defer n.exec(t, "ALTER EXTENSION plpgsql DROP TYPE pair; DROP TYPE pair")
		}
		fit.says(t, 0, "PASS: source node n1 can be reached, and schema spock is installed", "PASS: source node n1 knows 2 nodes",
			"PASS: new node n3 can be reached, and schema spock is installed", "PASS: wal_level of n3 is logical", "PASS: track_commit_timestamp of n2 is on",
			"PASS: n3 has 20 free replication slots", "PASS: n3 has 20 free senders", "PASS: n3 has "+c.text(t, "SELECT coalesce(current_setting('max_active_replication_origins', true), '20')")+" free replication origins", "PASS: an engine serves n3",
			"PASS: all 1 subscriptions of n1 replicate", "PASS: all 1 slots of n1 are read, nobody is more than …", "PASS: new node n3 has no tables",
			"PASS: new node n3 has no subscriptions", "PASS: new node n3 is in no cluster", "PASS: nothing is left of an earlier attempt of new node n3", "PASS: new node n3 has all roles of the source",
			"PASS: the disk of new node n3 has room for the copy: …", "PASS: n3 has version …", "PASS: n3 has the encoding and locale of the source",
			"PASS: the clocks of n3 and the source agree within …", "PASS: new node n3 has PostgreSQL …", "PASS: new node n3 has the extensions of the source",
			"PASS: n1 reaches every other node", "PASS: n3 reaches every other node", "PASS: every node subscribes to every other",
			"WARN: tables are in no replication set, their rows stay behind: alone, kept_out")
	})
	// Each part leaves the nodes as the next one needs them.
	_ = t.Run("the source", func(t *testing.T) { sourceConditions(t, odd, a, c) }) &&
		t.Run("the new node", func(t *testing.T) { newcomerConditions(t, odd, a, c) }) &&
		t.Run("its server", func(t *testing.T) { serverConditions(t, odd, a) }) &&
		t.Run("after a join", func(t *testing.T) { joinedConditions(t, fit, odd, a, b) }) &&
		t.Run("the cluster", func(t *testing.T) { clusterConditions(t, odd, a, b) })
}

// sourceConditions are about the node through which the cluster is asked.
func sourceConditions(t *testing.T, odd checkup, a, c *node) {
	t.Helper()
	odd.target = nil
	for _, x := range []struct{ name, dsn, want string }{
		{"n1", "host=127.0.0.1 port=1 dbname=app", "FAIL: connect to source node n1: …"},
		{"n1", a.at("postgres"), "FAIL: schema spock is not installed on source node n1"},
		{"n2", a.dsn(), `FAIL: source node n2: the connection string leads to node "n1", not to "n2"`},
	} {
		odd.sourceName, odd.sourceDSN = x.name, x.dsn
		odd.says(t, 1, x.want)
	}
	c.exec(t, "ALTER TABLE spock.node RENAME TO hidden")
	odd.sourceName, odd.sourceDSN = "n3", c.dsn()
	odd.says(t, 1, `FAIL: the nodes that source node n3 knows cannot be read: …`)
	c.exec(t, "ALTER TABLE spock.hidden RENAME TO node")
}

// at is how a database of the node's server is reached.
func (n *node) at(database string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s", n.server.Port, pgtest.Superuser, database)
}

// newcomerConditions are about what is, or is not, in a new node's database.
func newcomerConditions(t *testing.T, odd checkup, a, c *node) {
	t.Helper()
	for _, x := range []struct{ name, dsn, want string }{
		{"n3", "host=127.0.0.1 port=1 dbname=app", "FAIL: connect to new node n3: …"},
		{"n3", c.at("postgres"), "FAIL: schema spock is not installed on new node n3"},
		{"n2", c.dsn(), "FAIL: the cluster already has a node n2"},
		{"n3", a.dsn(), "FAIL: the connection string of new node n3 leads to node n1 of the cluster"},
		{strings.Repeat("n", 64), c.dsn(), "FAIL: the name of new node nnn…"},
	} {
		with := odd
		with.newName, with.newDSN = x.name, x.dsn
		with.says(t, 1, x.want)
	}

	// Most of what can be wrong, at once.
	a.exec(t, "CREATE ROLE app LOGIN; CREATE ROLE reader LOGIN; CREATE ROLE readers; GRANT readers TO reader")
	a.exec(t, "CREATE TABLE loose (id int PRIMARY KEY); SELECT spock.repset_add_table('default', 'loose'); ALTER TABLE loose DROP CONSTRAINT loose_pkey")
	a.exec(t, "SELECT lo_create(0)")
	a.exec(t, "SET allow_in_place_tablespaces = on")
	a.exec(t, "CREATE TABLESPACE apart LOCATION ''")
	a.exec(t, "CREATE TABLE lies_there (id int) TABLESPACE apart")
	c.exec(t, `CREATE TABLE stray (id int); CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.stray (id int);
		CREATE ROLE reader NOLOGIN; CREATE ROLE readers; SELECT lo_create(0); SELECT pg_replication_origin_create('spk_app_n1_sub_n1_n3'), pg_replication_origin_create('spk_app_n7_sub_n7_n3');
		CREATE SCHEMA lolor; CREATE TABLE lolor.pg_largeobject (loid oid); CREATE TABLE lolor.pg_largeobject_metadata (oid oid); INSERT INTO lolor.pg_largeobject VALUES (1);
		CREATE FUNCTION spock.real_version() RETURNS text LANGUAGE sql AS $$ SELECT '5.0.4'::text $$;
		ALTER FUNCTION spock.spock_version() RENAME TO kept_version; ALTER FUNCTION spock.real_version() RENAME TO spock_version`)
	c.exec(t, "SELECT pg_create_logical_replication_slot('spk_app_left', 'pgoutput')")
	a.exec(t, "BEGIN; INSERT INTO journal VALUES ('prepared', 0); PREPARE TRANSACTION 'left'")
	huge := a.enlarge(t)
	odd.says(t, 1, "FAIL: new node n3 is not empty: elsewhere.stray, public.stray", "FAIL: new node n3 lacks the roles app", "FAIL: new node n3 lacks the tablespaces apart",
		"FAIL: roles that may log in on the source may not on new node n3: reader", "WARN: new node n3 lacks memberships of roles: reader in readers",
		"WARN: new node n3 has large objects already: 1 of them", "WARN: large objects of the source stay behind: 1 of them",
		"FAIL: left by an earlier attempt: origin spk_app_n1_sub_n1_n3 on n3; --adopt-stale=drop drops it before the node joins",
		"WARN: new node n3 has replication origins that are not of this cluster: spk_app_n7_sub_n7_n3", "FAIL: new node n3 has large objects of lolor already",
		"FAIL: n3 has version 5.0.4, the source has …", "WARN: n3 has slots that nobody reads: spk_app_left", "WARN: tables have no key, their updates and deletes cannot follow: loose",
		"WARN: n1 has 1 prepared transactions, for which slots wait", "FAIL: the disk of new node n3 has no room for the copy: …")
	require.NoError(t, os.Remove(huge))
	a.exec(t, "ROLLBACK PREPARED 'left'")
	a.exec(t, "DROP TABLE lies_there")
	a.exec(t, "DROP TABLESPACE apart")
	a.exec(t, "DROP TABLE loose CASCADE; SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
	c.exec(t, "CREATE VIEW contested AS SELECT 1 AS one; CREATE SEQUENCE alone_id_seq; CREATE TYPE kind AS ENUM ('a'); CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'")
	a.exec(t, "CREATE DOMAIN kind AS int; CREATE FUNCTION f(a int) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE FUNCTION f(a int, b int) RETURNS int LANGUAGE sql AS 'SELECT 1'")
	odd.says(t, 1, "FAIL: new node n3 has objects that the copy would bring: function f(integer), relation alone_id_seq, relation contested, type kind")
	c.exec(t, "DROP VIEW contested; DROP SEQUENCE alone_id_seq; DROP TYPE kind; DROP FUNCTION f")
	a.exec(t, "DROP DOMAIN kind; DROP FUNCTION f(int); DROP FUNCTION f(int, int)")
	c.exec(t, "SELECT pg_drop_replication_slot('spk_app_left'); DROP TABLE stray; DROP SCHEMA elsewhere CASCADE; DROP SCHEMA lolor CASCADE")
	c.exec(t, "DROP FUNCTION spock.spock_version(); ALTER FUNCTION spock.kept_version() RENAME TO spock_version")
	c.exec(t, "SELECT pg_replication_origin_drop('spk_app_n1_sub_n1_n3'), pg_replication_origin_drop('spk_app_n7_sub_n7_n3'); SELECT lo_unlink(oid) FROM pg_largeobject_metadata; ALTER ROLE reader LOGIN; CREATE ROLE app LOGIN")

	// What is in a cluster already; a source with more than the new node; another database, and no way to it.
	c.exec(t, "CREATE ROLE keyed SUPERUSER LOGIN PASSWORD 'open'; CREATE ROLE plain LOGIN")
	c.exec(t, "CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII'")
	c.exec(t, "SELECT spock.node_create('n9', 'host=nowhere')")
	a.exec(t, "CREATE SCHEMA lolor; CREATE TABLE lolor.pg_largeobject (loid oid PRIMARY KEY); SELECT spock.repset_add_table('default', 'lolor.pg_largeobject')")
	// An extension whose files are on one of two servers only: these two share theirs.
	a.exec(t, `SET allow_system_table_mods = on; INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
		VALUES (1, 'elsewhere', 10, 11, false, '1'), (2, 'dblink', 10, 11, false, '0.9')`)
	hba := filepath.Join(c.server.Dir, "pg_hba.conf")
	rules, err := os.ReadFile(hba)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(hba, append([]byte("host all keyed 127.0.0.1/32 scram-sha-256\n"), rules...), 0o600))
	c.exec(t, "SELECT pg_reload_conf()")
	with := odd
	with.dir = t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(with.dir, "mine"), []byte("*:*:*:*:open\n"), 0o600))
	with.newDSN = fmt.Sprintf("host=127.0.0.1 port=%d user=keyed dbname=app passfile=mine", c.server.Port)
	long := a.server.Connect(t, database)
	_, err = long.Exec(t.Context(), "BEGIN")
	require.NoError(t, err)
	_, err = long.Exec(t.Context(), "INSERT INTO journal VALUES ('long', 0)")
	require.NoError(t, err)
	with.options = append(slices.Clone(with.options), "--long-transaction=1ms")
	with.says(t, 1, "FAIL: new node n3 knows nodes already: n9", "FAIL: the source replicates large objects of lolor, which new node n3 has not installed",
		"FAIL: n1 does not reach n3 at its connection string: …", "FAIL: n2 does not reach n3 at its connection string: …",
		"WARN: n1 has an open transaction, for which slots wait: …", "FAIL: new node n3 has no extension elsewhere",
		"WARN: new node n3 would get dblink 1.2 instead of 0.9")
	_, err = long.Exec(t.Context(), "ROLLBACK")
	require.NoError(t, err)
	c.exec(t, "SELECT spock.node_drop('n9'); SELECT spock.node_create('n9', "+quote(c.dsn())+")")
	c.exec(t, "SELECT spock.sub_create('mine', "+quote(a.dsn())+", enabled := false)")
	odd.says(t, 1, "FAIL: new node n3 has subscriptions: mine")
	c.exec(t, "SELECT spock.sub_drop('mine'); SELECT spock.node_drop('n9')")
	a.exec(t, "DELETE FROM pg_extension WHERE extversion IN ('1', '0.9') AND oid < 3; RESET allow_system_table_mods; DROP SCHEMA lolor CASCADE")
	with.newDSN = fmt.Sprintf("host=127.0.0.1 port=%d user=plain dbname=app", c.server.Port)
	with.says(t, 1, "FAIL: user plain of n3 is no superuser")
	with.newDSN = install(t, c, "ascii")
	with.says(t, 1, "FAIL: encoding and locale of n3 are SQL_ASCII, C, C, of the source UTF8, C, C", "WARN: the database of n3 is ascii, of the source app",
		"FAIL: no engine serves n3: pgdrover spock run --dsn …")
}

// enlarge makes a node's database larger than any disk, without a byte of it.
func (n *node) enlarge(t testing.TB) (file string) {
	t.Helper()
	file = filepath.Join(n.server.Dir, "base", n.text(t, "SELECT oid FROM pg_database WHERE datname = current_database()"), "4000000000")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Truncate(file, 15<<40))
	return file
}

// serverConditions are about a new node's server.
func serverConditions(t *testing.T, odd checkup, a *node) {
	t.Helper()
	settings, origins := map[string]string{
		"wal_level": "replica", "track_commit_timestamp": "off", "max_replication_slots": "1", "max_wal_senders": "1",
	}, "max_replication_slots"
	if a.text(t, "SELECT current_setting('max_active_replication_origins', true) IS NOT NULL") == "t" {
		origins = "max_active_replication_origins"
		settings[origins] = "1"
	}
	d := &node{name: "n4", owner: t, server: pgtest.NewServer(t, pgtest.ServerConfig{Name: "n4", Settings: settings})}
	t.Cleanup(d.disconnect)
	install(t, d, "postgres")
	odd.target = d
	odd.newDSN = fmt.Sprintf("host=127.0.0.1 port=%d user=%s", d.server.Port, pgtest.Superuser)
	a.exec(t, "CREATE ROLE everywhere")
	odd.says(t, 1, "FAIL: wal_level of n4 is replica, not logical", "FAIL: track_commit_timestamp of n4 is off",
		"FAIL: n4 has 1 free replication slots and needs 2: raise max_replication_slots", "FAIL: n4 has 1 free senders and needs 2: raise max_wal_senders",
		"FAIL: n4 has 1 free replication origins and needs 2: raise "+origins, "WARN: the connection string of n4 names no database",
		"FAIL: new node n4 lacks the roles app, everywhere, reader, readers")
}

// joinedConditions are about a node that has joined, or says so.
func joinedConditions(t *testing.T, fit, odd checkup, a, b *node) {
	t.Helper()
	settle(t, a, b)
	stranger := odd
	stranger.options = append(slices.Clone(odd.options), "--check-type=post")
	stranger.says(t, 1, "FAIL: the cluster does not know n3", "FAIL: n3 has no enabled subscription")
	fit.target, odd.target = b, b
	fit.options = append(slices.Clone(fit.options), "--check-type=post", "--compare-data")
	fit.says(t, 0, "PASS: the cluster knows n2", "PASS: n2 has 1 enabled subscriptions", "PASS: the replication sets of n2 are those of n1",
		"PASS: changes of n1 arrive on every other node", "PASS: changes of n2 arrive on every other node", "PASS: all nodes have the same rows in 4 tables")
	b.exec(t, "SELECT spock.repset_create('odd')")
	b.exec(t, "BEGIN; SELECT spock.repair_mode(true); UPDATE contested SET n = n - 1 WHERE id = 1; COMMIT")
	odd.options = append(slices.Clone(odd.options), "--check-type=post", "--compare-data")
	odd.says(t, 1, "FAIL: the replication sets of n2 are not those of n1; only on n2: set odd (t t t t)", "FAIL: nodes have different rows in public.contested")
	b.exec(t, "SELECT spock.repset_drop('odd')")

	// An engine that stands still.
	require.NoError(t, b.engine.Signal(syscall.SIGSTOP))
	a.exec(t, "SELECT pg_logical_emit_message(false, 'zodan', repeat('x', 8000000)), pg_switch_wal()")
	odd.options = append(odd.options, "--max-lag=1MB")
	odd.says(t, 1, "FAIL: changes of n1 do not arrive on n2 within 1ms", "FAIL: n2 is …")
	require.NoError(t, b.engine.Signal(syscall.SIGCONT))
}

// clusterConditions are about nodes and streams that are there already. What
// they do to the cluster stays.
func clusterConditions(t *testing.T, odd checkup, a, b *node) {
	t.Helper()
	a.exec(t, "SELECT spock.sub_disable('sub_n2_n1', true)")
	b.exec(t, "SELECT spock.sub_drop('sub_n1_n2')")
	odd.says(t, 1, "FAIL: subscriptions of n1: sub_n2_n1 is disabled", "FAIL: subscriptions are missing: n2 to n1")
	require.NoError(t, a.engine.Signal(syscall.SIGKILL))
	a.engine.Wait(t, patience)
	slot := b.text(t, "SELECT slot_name FROM pg_replication_slots WHERE slot_name ~ 'sub_n2_n1'")
	a.eventually(t, "SELECT pgdrover.engine_connected()", "f")
	a.exec(t, "SELECT spock.sub_enable('sub_n2_n1')")
	odd.says(t, 1, "FAIL: no engine serves n1: pgdrover spock run --dsn …", "FAIL: subscriptions of n1: sub_n2_n1 is down",
		"FAIL: nobody reads slot "+slot+" of n2, that of subscription sub_n2_n1 of n1")
	b.exec(t, "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
	b.exec(t, "SELECT pg_reload_conf()")
	b.eventually(t, "SHOW max_slot_wal_keep_size", "1MB")
	for range 3 {
		b.exec(t, "SELECT pg_logical_emit_message(true, 'zodan', 'x')")
		b.exec(t, "SELECT pg_switch_wal()")
	}
	b.exec(t, "CHECKPOINT")
	odd.says(t, 1, "FAIL: slot "+slot+" of n2 has lost WAL that n1 needs")
	b.exec(t, "SELECT pg_drop_replication_slot("+quote(slot)+")")
	odd.says(t, 1, "FAIL: n2 has no slot "+slot+" for subscription sub_n2_n1 of n1")
	b.disconnect()
	b.server.Stop(t, syscall.SIGINT)
	odd.says(t, 1, "FAIL: connect to node n2: …")
}

package spock_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/spock"
)

// trees makes tables that have others below them, of which some are sent with all below them, some are not themselves. Keys
// of heirs come when the heirs are there: where a key made with its table names what forbids NULL otherwise than the key
// above it did, as since 18, the server itself refuses another type for the column of both.
const trees = `
	CREATE TABLE par (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
	CREATE TABLE par1 PARTITION OF par FOR VALUES IN (1);
	CREATE TABLE par2 PARTITION OF par FOR VALUES IN (2) PARTITION BY LIST (k);
	CREATE TABLE par2x PARTITION OF par2 DEFAULT;
	CREATE TABLE alone (LIKE par INCLUDING ALL) PARTITION BY LIST (k);
	CREATE TABLE alone1 PARTITION OF alone FOR VALUES IN (1);
	CREATE TABLE base (id int, v text);
	CREATE TABLE heir () INHERITS (base);
	CREATE TABLE grandson (extra int) INHERITS (heir);
	ALTER TABLE heir ADD PRIMARY KEY (id);
	ALTER TABLE grandson ADD PRIMARY KEY (id);
	SELECT spock.repset_add_table('default', x) FROM unnest('{par,alone1,heir,grandson}'::regclass[]) x;`

// TestRecursion: what is done to a table is done to those below it, and only the former is named by the server.
func TestRecursion(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, trees)
	fill := func(column string) {
		t.Helper()
		for _, table := range []string{"par", "alone"} {
			n.exec(t, `INSERT INTO `+table+` (`+column+`, k) VALUES (1, 1)`)
		}
		n.exec(t, `INSERT INTO par (`+column+`, k) VALUES (1, 2); INSERT INTO heir (`+column+`) VALUES (1); INSERT INTO grandson (`+column+`) VALUES (1)`)
	}
	empty := func() []string {
		t.Helper()
		n.exec(t, `UPDATE par SET v = 'x'; UPDATE alone SET v = 'x'; UPDATE base SET v = 'x'`)
		n.exec(t, `DELETE FROM par; DELETE FROM alone; DELETE FROM base`)
		return n.tombstones(t)
	}
	const one, two = "0000000400000001", "0000000400000002"
	const long = "000000080000000000000001"
	want := []string{"alone1 " + one + one, "grandson 00000001", "heir 00000001", "par1 " + one + one, "par2x " + one + two}

	n.exec(t, `ALTER TABLE par RENAME COLUMN id TO ident; ALTER TABLE alone RENAME COLUMN id TO ident; ALTER TABLE base RENAME COLUMN id TO ident`)
	fill("ident")
	require.Equal(t, want, empty(), "another name")
	n.exec(t, `ALTER VIEW par RENAME COLUMN ident TO id; ALTER VIEW alone RENAME COLUMN ident TO id; ALTER VIEW base RENAME COLUMN ident TO id`)
	fill("id")
	require.Equal(t, want, empty(), "whatever the server lets one say")

	n.exec(t, `ALTER TABLE par ALTER id TYPE bigint; ALTER TABLE alone ALTER id TYPE bigint; ALTER TABLE base ALTER id TYPE bigint`)
	fill("id")
	require.Equal(t, []string{
		"alone1 " + long + one, "grandson 0000000000000001", "heir 0000000000000001", "par1 " + long + one, "par2x " + long + two,
	}, empty(), "another type")
	n.exec(t, `INSERT INTO par VALUES (5000000000, 1); INSERT INTO heir VALUES (5000000000); DELETE FROM par; DELETE FROM base`)
	require.Len(t, n.tombstones(t), 2)

	// The same in one transaction that goes on with it, and on behalf of what applies.
	n.exec(t, `SET session_replication_role = replica; ALTER TABLE par ALTER id TYPE int; RESET session_replication_role`)
	n.exec(t, `BEGIN; ALTER TABLE base RENAME COLUMN id TO ident; SAVEPOINT a; ALTER TABLE base RENAME COLUMN ident TO id;
		ALTER TABLE base ALTER id TYPE int; RELEASE a; INSERT INTO heir VALUES (1); DELETE FROM base; COMMIT`)
	n.exec(t, `INSERT INTO par VALUES (1, 1); DELETE FROM par`)
	require.Equal(t, []string{"heir 00000001", "par1 " + one + one}, n.tombstones(t))

	// The key goes, and another one comes.
	n.exec(t, `ALTER TABLE par DROP CONSTRAINT par_pkey`)
	require.Equal(t, []string{
		"alone1: del ins trunc upd", "grandson: del ins trunc upd", "heir: del ins trunc upd", "par1: ins trunc", "par2x: ins trunc",
	}, n.published(t))
	n.exec(t, `INSERT INTO par VALUES (1, 1, 'a'); UPDATE par SET v = 'b'; DELETE FROM par`)
	require.Empty(t, n.tombstones(t))
	n.exec(t, `ALTER TABLE par ADD PRIMARY KEY (k, id)`)
	require.Contains(t, n.published(t), "par2x: del ins trunc upd")
	n.exec(t, `INSERT INTO par VALUES (1, 2, 'a'); UPDATE par SET v = 'b'; DELETE FROM par`)
	require.Equal(t, []string{"par2x " + two + one}, n.tombstones(t))
	n.exec(t, `CREATE UNIQUE INDEX par_one ON par (k, id); ALTER TABLE par1 REPLICA IDENTITY USING INDEX par1_k_id_idx; ALTER TABLE par RENAME id TO ident`)
	n.exec(t, `INSERT INTO par VALUES (1, 1, 'a'); UPDATE par SET v = 'b'; DELETE FROM par`)
	require.Equal(t, []string{"par1 " + one + one}, n.tombstones(t))
	n.exec(t, `DROP INDEX par_one; ALTER TABLE par DROP COLUMN ident; INSERT INTO par VALUES (1, 'a'); DELETE FROM par`)
	require.Empty(t, n.tombstones(t))

	// One that comes gets the key, with whatever is done afterwards; one that has gone keeps it.
	n.exec(t, `CREATE TABLE late (ident bigint NOT NULL, v text, k int NOT NULL); SELECT spock.repset_add_table('default_insert_only', 'late');
		ALTER TABLE par ADD ident bigint; ALTER TABLE par ADD PRIMARY KEY (k, ident)`)
	n.exec(t, `ALTER TABLE par ATTACH PARTITION late FOR VALUES IN (3); INSERT INTO par (k, ident) VALUES (3, 1); DELETE FROM par`)
	require.Equal(t, []string{"late 00000004" + "00000003" + long}, n.tombstones(t))
	n.exec(t, `ALTER TABLE par DETACH PARTITION late; ALTER TABLE par ALTER ident TYPE text; INSERT INTO late (k, ident) VALUES (3, 5000000000); DELETE FROM late`)
	require.Len(t, n.tombstones(t), 1)

	// What noted deletes goes on to do so.
	n.exec(t, `CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TRIGGER own BEFORE INSERT ON par FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE par DISABLE TRIGGER USER; ALTER TABLE par DISABLE TRIGGER ALL`)
	n.exec(t, `INSERT INTO par (k, ident) VALUES (1, 'a'); DELETE FROM par`)
	require.Equal(t, []string{"par1 " + one + "0000000161"}, n.tombstones(t))
}

// TestRecursionIsHeard: engines look again at tables that changed with the one above them, and the notes that they go by are there.
func TestRecursionIsHeard(t *testing.T) {
	t.Parallel()
	provider, n := create(t, "p1"), create(t, "n1")
	n.exec(t, trees)
	n.exec(t, `SELECT spock.sub_create('sub', $1, enabled := false)`, provider.dsn)
	listener := n.session(t)
	_, err := listener.Exec(t.Context(), `LISTEN spock_change`)
	require.NoError(t, err)
	n.exec(t, `SET spock.enable_ddl_replication = on`)
	heard := func(sql string) bool {
		t.Helper()
		n.exec(t, sql)
		n.exec(t, `SELECT pg_notify('spock_change', 'end')`)
		for found := false; ; {
			m, err := listener.WaitForNotification(t.Context())
			require.NoError(t, err)
			if m.Payload == "end" {
				return found
			}
			found = found || m.Payload == "definition"
		}
	}
	for _, sql := range []string{
		`ALTER TABLE alone ADD w int`, `ALTER TABLE alone RENAME v TO text`, `ALTER TABLE alone DROP COLUMN text`,
		`CREATE UNIQUE INDEX one ON alone (w, k)`, `ALTER TABLE alone ADD CHECK (w > 0)`, `DROP INDEX one`,
		`ALTER TABLE base ADD w int`, `ALTER TABLE base DROP COLUMN v`,
	} {
		require.True(t, heard(sql), sql)
	}
	for _, sql := range []string{`COMMENT ON TABLE alone IS 'x'`, `CREATE TABLE other (id int) PARTITION BY LIST (id)`, `ALTER TABLE other ADD w int`} {
		require.False(t, heard(sql), sql)
	}
	require.Equal(t, []string{"alone1 text", "grandson v", "heir v"},
		n.lines(t, `SELECT relid::regclass || ' ' || column_name FROM spock.pgdrover_dropped_column ORDER BY 1`))
	require.Equal(t, []string{"alone1 w", "grandson w", "heir w"},
		n.lines(t, `SELECT relid::regclass || ' ' || column_name FROM spock.pgdrover_added_column WHERE column_name = 'w' ORDER BY 1`))
}

// TestRecursionOfFilters: the filters of partitions know their columns by the names that these have now.
func TestRecursionOfFilters(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
		SELECT spock.repset_add_table('default', 'p', row_filter := 'length(v) > 3')`)
	filters := func() []string {
		t.Helper()
		return n.lines(t, `SELECT set_reloid::regclass || ': ' || row_filter FROM spock.pgdrover_row_filter ORDER BY 1`)
	}
	n.exec(t, `ALTER TABLE p RENAME v TO w`)
	require.Equal(t, []string{"p1: (length(w) > 3)", "p: (length(w) > 3)"}, filters())
	made := n.text(t, `SELECT xmin FROM spock.pgdrover_row_filter WHERE set_reloid = 'p1'::regclass`)
	n.exec(t, `ALTER TABLE p ADD x int`)
	require.Equal(t, made, n.text(t, `SELECT xmin FROM spock.pgdrover_row_filter WHERE set_reloid = 'p1'::regclass`), "nothing that it uses has changed")
	n.exec(t, `ALTER TABLE p ALTER w TYPE varchar(10)`)
	require.Equal(t, []string{"p1: (length((w)::text) > 3)", "p: (length((w)::text) > 3)"}, filters())
}

// TestRecursionBeforeUpgrade: an upgrade finds what earlier versions left behind.
func TestRecursionBeforeUpgrade(t *testing.T) {
	t.Parallel()
	n := first(t, database(t))
	n.exec(t, `SELECT spock.node_create('n1', $1)`, n.dsn)
	n.exec(t, trees)
	n.exec(t, `ALTER TABLE par RENAME COLUMN id TO ident; ALTER TABLE base ALTER id TYPE bigint; INSERT INTO par VALUES (1, 1); INSERT INTO heir VALUES (5000000000)`)
	require.Equal(t, "42703", n.refused(t, `DELETE FROM par`).Code)
	require.Equal(t, "22003", n.refused(t, `DELETE FROM base`).Code)
	require.NoError(t, spock.Upgrade(t.Context(), n.db))
	n.exec(t, `UPDATE par SET v = 'x'; DELETE FROM par; DELETE FROM base`)
	require.Equal(t, []string{"heir 000000012a05f200", "par1 00000004000000010000000400000001"}, n.tombstones(t))
}

// TestExtensionScripts: what an extension's script does to tables that are sent is followed when it has ended. Whatever is
// made in it is the extension's.
func TestExtensionScripts(t *testing.T) {
	t.Parallel()
	bin, dirs := installation(t)
	for name, text := range map[string]string{
		"changer.control": "default_version = '1'\nrelocatable = true\n",
		"changer--1.sql": `CREATE TYPE chosen AS (one int); ALTER TYPE chosen ADD ATTRIBUTE two int;
			ALTER TABLE public.a RENAME COLUMN id TO ident; ALTER TABLE public.p ALTER id TYPE bigint;
			DROP TYPE public.kind CASCADE;
			CREATE TABLE public.own (id int PRIMARY KEY); SELECT spock.repset_add_table('default', 'public.own');`,
		"changer--1--2.sql": `ALTER TABLE public.a ALTER ident TYPE bigint; ALTER TABLE public.own ALTER id TYPE bigint;`,
		"keys.control":      "default_version = '1'\nrelocatable = true\n",
		"keys--1.sql":       `CREATE TYPE key AS ENUM ('a', 'b');`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dirs.Share, "extension", name), []byte(text), 0o644))
	}
	s := pgtest.NewServer(t, pgtest.ServerConfig{Bin: bin, Settings: map[string]string{"track_commit_timestamp": "on"}})
	for _, role := range []string{"origin", "replica"} {
		s.Exec(t, "postgres", `CREATE DATABASE `+role)
		n := open(t, s.DSN(role), true)
		n.exec(t, `SELECT spock.node_create('n1', $1)`, n.dsn)
		n.exec(t, `CREATE TYPE kind AS ENUM ('x', 'y'); CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (k kind PRIMARY KEY, v text);
			CREATE TABLE p (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k); CREATE TABLE p1 PARTITION OF p DEFAULT;
			CREATE EXTENSION keys; CREATE TABLE c (k key PRIMARY KEY);
			SELECT spock.repset_add_table('default', x) FROM unnest('{a,b,c,p}'::regclass[]) x`)
		changing := func(sql string) {
			t.Helper()
			n.exec(t, `SET session_replication_role = `+role)
			n.exec(t, sql)
			n.exec(t, `RESET session_replication_role`)
		}
		// The types of tables and of arrays go with what they belong to; since 17 they are members beside it.
		members := `SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d
			WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'changer')
			AND NOT EXISTS (SELECT FROM pg_depend i WHERE i.classid = d.classid AND i.objid = d.objid AND i.deptype = 'i') ORDER BY 1`
		changing(`CREATE EXTENSION changer`)
		require.Equal(t, []string{"table own", "type chosen"}, n.lines(t, members))
		n.exec(t, `INSERT INTO a VALUES (1); INSERT INTO p VALUES (5000000000, 1); INSERT INTO own VALUES (1); INSERT INTO b VALUES ('x')`)
		n.exec(t, `UPDATE a SET v = 'x'; UPDATE b SET v = 'y'; DELETE FROM a; DELETE FROM b; DELETE FROM p; DELETE FROM own`)
		require.Equal(t, []string{"a 00000001", "own 00000001", "p1 00000008000000012a05f2000000000400000001"}, n.tombstones(t))

		// Nor is a script the place for the rest of the transaction.
		changing(`BEGIN; SAVEPOINT a; ALTER EXTENSION changer UPDATE TO '2'; ROLLBACK TO a; ALTER EXTENSION changer UPDATE TO '2'; ALTER TABLE a RENAME v TO w; COMMIT`)
		n.exec(t, `INSERT INTO a VALUES (5000000000); INSERT INTO own VALUES (5000000000); DELETE FROM a; DELETE FROM own`)
		require.Equal(t, []string{"a 000000012a05f200", "own 000000012a05f200"}, n.tombstones(t))
		require.Equal(t, []string{"table own", "type chosen"}, n.lines(t, members))

		// The types of keys move with their extension.
		changing(`CREATE SCHEMA elsewhere; ALTER EXTENSION keys SET SCHEMA elsewhere`)
		n.exec(t, `INSERT INTO c VALUES ('a'); DELETE FROM c`)
		require.Equal(t, []string{"c 61"}, n.tombstones(t))
		// A script that alters a type has everything looked at, also what somebody else left behind.
		n.exec(t, `UPDATE spock.pgdrover_watch SET definition = 'another'`)
		changing(`CREATE EXTENSION cube; DROP EXTENSION changer CASCADE`)
		require.Equal(t, "0", n.text(t, `SELECT count(*) FROM spock.pgdrover_watch WHERE definition = 'another'`))
		changing(`DROP EXTENSION cube`)
		n.exec(t, `INSERT INTO a VALUES (1); DELETE FROM a`)
		require.Equal(t, []string{"a 0000000000000001"}, n.tombstones(t))
	}
}

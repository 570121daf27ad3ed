package apply

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// filteredPair is a provider with tables that go through filters, and who follows
// it. The last statements run on the provider alone.
func filteredPair(t *testing.T, tables, provider string) (a, b *node) {
	t.Helper()
	a, b = newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, tables)
	}
	a.exec(t, provider)
	b.subscribe(t, a, "")
	return a, b
}

// follow waits until all that is in the provider's log has been applied.
func follow(t *testing.T, a, b *node) {
	t.Helper()
	lsn := a.text(t, "SELECT spock.sync_event()")
	b.eventually(t, fmt.Sprintf("SELECT coalesce(max(remote_lsn) >= '%s', false)::text FROM pg_replication_origin_status", lsn), "true")
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM spock.exception_log"), b.text(t, "SELECT error_message FROM spock.exception_log LIMIT 1"))
}

// What a provider computes is not sent, and filters use it all the same.
func TestFilterOverGeneratedColumn(t *testing.T) {
	t.Parallel()
	a, b := filteredPair(t, `CREATE TABLE gs (id int PRIMARY KEY, a int, s int GENERATED ALWAYS AS (a * 10) STORED, v text);
		CREATE TABLE gk (id int PRIMARY KEY, "K" int GENERATED ALWAYS AS (id * 10) STORED, v text);
		CREATE TABLE gl (id int PRIMARY KEY, a int, s int GENERATED ALWAYS AS (a * 10) STORED, v text);
		CREATE TABLE gn (id int PRIMARY KEY, a int, s numeric(10, 2) GENERATED ALWAYS AS (a / 3.0) STORED, o oid GENERATED ALWAYS AS (tableoid) STORED)`,
		`SELECT spock.repset_add_table('default', 'gs', row_filter := 's > 15'), spock.repset_add_table('default', 'gk', row_filter := '"K" > 15'),
		spock.repset_add_table('default', 'gl', columns := '{id,v}', row_filter := 's > 15 AND a < 9'),
		spock.repset_add_table('default', 'gn', row_filter := $$s = 0.33 AND o = 'gn'::regclass$$)`)
	a.exec(t, `INSERT INTO gs (id, a, v) VALUES (1, 1, 'no'), (2, 2, 'yes'), (3, NULL, 'null'), (4, 4, 'moves');
		UPDATE gs SET v = 'none' WHERE id = 1; UPDATE gs SET v = 'two' WHERE id = 2; UPDATE gs SET a = 1, v = 'moved' WHERE id = 4;
		INSERT INTO gk (id, v) VALUES (1, 'no'), (2, 'yes'), (3, 'gone'); DELETE FROM gk WHERE id = 3; UPDATE gk SET id = 4 WHERE id = 2;
		INSERT INTO gl (id, a, v) VALUES (1, 1, 'no'), (2, 2, 'yes'), (3, 9, 'no'); INSERT INTO gn (id, a) VALUES (1, 1), (2, 2)`)
	follow(t, a, b)
	require.Equal(t, "2two,4moves|4yes|2yes|1", b.text(t, `SELECT (SELECT string_agg(id || v, ',' ORDER BY id) FROM gs),
		(SELECT string_agg(id || v, ',' ORDER BY id) FROM gk), (SELECT string_agg(id || v, ',' ORDER BY id) FROM gl WHERE a IS NULL),
		(SELECT string_agg(id::text, ',' ORDER BY id) FROM gn)`))
	// Of a deleted row only the key is known, and what is computed from that.
	a.exec(t, "DELETE FROM gs WHERE id = 2; DELETE FROM gk WHERE id = 4")
	follow(t, a, b)
	require.Equal(t, "2|0", b.text(t, "SELECT (SELECT count(*) FROM gs), (SELECT count(*) FROM gk)"))
}

// From 18 on columns are computed when they are read, unless they are to be stored.
func TestFilterOverVirtualColumn(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	if a.text(t, "SELECT (current_setting('server_version_num')::int < 180000)::text") == "true" {
		t.Skip("the server has no virtual columns")
	}
	for _, n := range []*node{a, b} {
		n.exec(t, `CREATE TABLE gv (id int PRIMARY KEY, a int, s int GENERATED ALWAYS AS (a * 10) VIRTUAL, v text);
			CREATE FUNCTION fits(r gv) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN r.a = 2; END'`)
	}
	a.exec(t, "SELECT spock.repset_add_table('default', 'gv', row_filter := 's > 15')")
	b.subscribe(t, a, "")
	a.exec(t, "INSERT INTO gv (id, a) VALUES (1, 1), (2, 2); UPDATE gv SET v = 'two' WHERE id = 2")
	follow(t, a, b)
	require.Equal(t, "2|2|20|two", b.text(t, "SELECT id, a, s, v FROM gv"))
	_, err := a.try(t, "ALTER TABLE gv ALTER s SET EXPRESSION AS (a * 20)")
	require.ErrorContains(t, err, "part of a publication")
}

// What else a filter may use: the row as a whole, its table, collations, and
// columns of types that take no NULL where a delete has nothing but the key.
func TestFilterUsesMoreThanValues(t *testing.T) {
	t.Parallel()
	a, b := filteredPair(t, `CREATE TABLE fw (id int PRIMARY KEY, gone int, a int, s int GENERATED ALWAYS AS (a * 10) STORED, v text);
		ALTER TABLE fw DROP gone;
		CREATE TABLE ft (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE ft_1 PARTITION OF ft FOR VALUES IN (1); CREATE TABLE ft_2 PARTITION OF ft FOR VALUES IN (2);
		CREATE TABLE fc (id int PRIMARY KEY, v text COLLATE "und-x-icu"); CREATE DOMAIN sure AS text NOT NULL;
		CREATE TABLE fd (id int PRIMARY KEY, d sure); CREATE TABLE fe (id int PRIMARY KEY, d sure);
		CREATE TABLE fs (id int PRIMARY KEY, n int, big text); ALTER TABLE fs ALTER big SET STORAGE EXTERNAL`,
		`CREATE FUNCTION fits(r fw) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN r.s = r.a * 10 AND r.v > $$a$$; END';
		SELECT spock.repset_add_table('default', 'fw', row_filter := 'fits(fw) AND tableoid > 0'),
		spock.repset_add_table('default', 'ft', row_filter := $$tableoid <> 'ft_2'::regclass$$), spock.repset_add_table('default', 'fc', row_filter := $$v > 'a'$$),
		spock.repset_add_table('default', 'fd', row_filter := 'id > 1'),
		spock.repset_add_table('default', 'fe', row_filter := $$id > 1 AND d IS DISTINCT FROM 'x'$$), spock.repset_add_table('default', 'fs', row_filter := 'n > 3')`)
	a.exec(t, `INSERT INTO fw (id, a, v) VALUES (1, 1, 'b'), (2, 2, 'a'), (3, NULL, 'b'); INSERT INTO ft VALUES (1), (2);
		INSERT INTO fc VALUES (1, 'Z'), (2, '1'); INSERT INTO fd VALUES (1, 'a'), (2, 'b'), (3, 'c'); INSERT INTO fe SELECT * FROM fd;
		DELETE FROM fd WHERE id < 3; DELETE FROM fe WHERE id < 3; UPDATE fw SET v = 'c' WHERE id = 1`)
	a.exec(t, "INSERT INTO fs VALUES (1, 4, repeat('x', 5000))")
	follow(t, a, b)
	require.Equal(t, "1c|1|1|3|3", b.text(t, `SELECT (SELECT string_agg(id || v, ',') FROM fw), (SELECT string_agg(id::text, ',') FROM ft),
		(SELECT string_agg(id::text, ',') FROM fc), (SELECT string_agg(id::text, ',') FROM fd), (SELECT string_agg(id::text, ',') FROM fe)`))
	// A large value that was not written is not in the stream. Nobody asks for it
	// where the filter does not.
	b.halt(t)
	a.exec(t, "UPDATE fs SET n = 5 WHERE id = 1")
	a.exec(t, "UPDATE fs SET n = 1 WHERE id = 1")
	b.start(t)
	follow(t, a, b)
	require.Equal(t, "5", b.text(t, "SELECT n FROM fs"))
}

// While a node is behind, what its filters name is given other names, or goes.
func TestFilterWhoseNamesHaveChanged(t *testing.T) {
	t.Parallel()
	a, b := filteredPair(t, `CREATE TABLE nr (id int PRIMARY KEY, a int, s int GENERATED ALWAYS AS (a * 10) STORED, big text); ALTER TABLE nr ALTER big SET STORAGE EXTERNAL;
		CREATE TABLE nf (id int PRIMARY KEY, a int); CREATE TABLE nd (id int PRIMARY KEY, a int); CREATE TABLE nt (id int PRIMARY KEY, a int, big text);
		ALTER TABLE nt ALTER big SET STORAGE EXTERNAL; CREATE TABLE na (id int PRIMARY KEY, a int)`,
		`CREATE SCHEMA tools; CREATE FUNCTION tools.odd(n int) RETURNS boolean LANGUAGE sql AS 'SELECT n % 2 = 1';
		CREATE FUNCTION kept(r na) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN r.a > 1; END';
		SELECT spock.repset_add_table('default', 'nr', row_filter := $$s > 15 AND big > 'a'$$), spock.repset_add_table('default', 'nf', row_filter := 'tools.odd(a)'),
		spock.repset_add_table('default', 'nd', row_filter := 'a > 1'), spock.repset_add_table('default', 'nt', row_filter := $$a > 1 AND big > 'a'$$),
		spock.repset_add_table('default', 'na', row_filter := 'kept(na)')`)
	a.exec(t, `INSERT INTO nr (id, a, big) VALUES (1, 2, repeat('x', 5000)); INSERT INTO nt VALUES (1, 2, repeat('x', 5000))`)
	follow(t, a, b)
	b.halt(t)
	a.exec(t, "INSERT INTO nr (id, a) VALUES (2, 2); INSERT INTO nr (id, a, big) VALUES (3, 1, 'x'), (4, 2, 'x'); UPDATE nr SET a = 3 WHERE id = 1; INSERT INTO nf VALUES (1, 1), (2, 2)")
	a.exec(t, "INSERT INTO nd VALUES (1, 1), (2, 2); INSERT INTO na VALUES (1, 1), (2, 2); UPDATE nt SET a = 3 WHERE id = 1; INSERT INTO nt VALUES (2, 2, 'x')")
	a.exec(t, "ALTER TABLE nr RENAME id TO number; ALTER TABLE nr RENAME a TO b; ALTER TABLE nr RENAME TO nr_now")
	a.exec(t, "ALTER FUNCTION tools.odd RENAME TO odder; ALTER SCHEMA tools RENAME TO tool; ALTER TABLE na ADD c int")
	a.exec(t, "SELECT spock.repset_remove_table('default', 'nd'); DROP TABLE nd; SELECT spock.repset_remove_table('default', 'nt'); DROP TABLE nt")
	b.start(t)
	follow(t, a, b)
	require.Equal(t, "1:3,4:2|1|2|1:2,2:2|2", b.text(t, `SELECT (SELECT string_agg(id || ':' || a, ',' ORDER BY id) FROM nr), (SELECT string_agg(id::text, ',') FROM nf),
		(SELECT string_agg(id::text, ',') FROM nd), (SELECT string_agg(id || ':' || a, ',' ORDER BY id) FROM nt), (SELECT string_agg(id::text, ',') FROM na)`))
	a.exec(t, "INSERT INTO nf VALUES (3, 3), (4, 4)")
	follow(t, a, b)
	require.Equal(t, "1,3", b.text(t, "SELECT string_agg(id::text, ',' ORDER BY id) FROM nf"))
}

// A filter that fails for a row is told from a provider that does not answer.
func TestFaultOfFilter(t *testing.T) {
	t.Parallel()
	j := &judging{table: filteredTable("a")}
	fault := j.fault(&pgconn.PgError{Severity: "ERROR", Code: "22012", Message: "division by zero"})
	require.EqualError(t, fault, "evaluate row filter of public.t on its provider: ERROR: division by zero (SQLSTATE 22012)")
	require.NotErrorIs(t, fault, errPeer)
	require.Empty(t, sqlState(fault), "it is none of this node's server")
	require.Contains(t, hintOf(fault), "Mend on the provider what the filter uses")
	for _, err := range []error{
		&pgconn.PgError{Severity: "ERROR", Code: "40P01"}, &pgconn.PgError{Severity: "FATAL", Code: "XX000"}, errors.New("reset by peer"), //nolint:err113 // made up
	} {
		require.ErrorIs(t, j.fault(err), errPeer)
	}
	require.NoError(t, j.fault(nil))
}

func TestMatchRenamedColumns(t *testing.T) {
	t.Parallel()
	j := &judging{table: filteredTable("a", "b", "c"), columns: []column{{Name: "x", Type: 23}, {Name: "g", Generated: true}, {Name: "b", Type: 23}, {Name: "y", Type: 23}}}
	j.match()
	require.Equal(t, []int{0, 2, 3}, j.now)
	j.columns = append(j.columns, column{Name: "z", Type: 23})
	j.match()
	require.Equal(t, []int{-1, 2, -1}, j.now, "nobody can tell which was added")
}

func filteredTable(columns ...string) *remoteTable {
	rel := &pgoutput.Relation{ID: 1, Namespace: "public", Name: "t"}
	for _, name := range columns {
		rel.Columns = append(rel.Columns, pgoutput.Column{Name: name, Type: 23})
	}
	return &remoteTable{relation: rel}
}

package apply

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A structure is restored into a database that has none of its tables: one that
// is there is named, as long as it is there, and nothing is merged unasked.
func TestStructureMeetsATableThatIsThere(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	a.exec(t, keyed+`CREATE TABLE u (id int PRIMARY KEY); SELECT spock.repset_add_table('default', 'u');
		INSERT INTO t SELECT i, 'a' FROM generate_series(1, 10) i; INSERT INTO u VALUES (1);
		CREATE SCHEMA kept; CREATE TABLE kept.v (id int PRIMARY KEY)`)
	b.exec(t, "ALTER DATABASE "+database+` SET spock.restart_delay_default = 100; CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (5, 'b');
		CREATE SCHEMA kept; CREATE TABLE kept.v (id int PRIMARY KEY)`)
	b.exec(t, fmt.Sprintf("SELECT spock.sub_create('sub_n1_n2', '%s', synchronize_structure := true, synchronize_data := true, skip_schema := '{kept}')", a.dsn()))
	const refused = "refused copy structure: table public.t is here already"
	b.eventually(t, "SELECT state || ' ' || last_error FROM spock.pgdrover_subscription", refused)
	b.eventually(t, "SELECT (failures > 3)::text FROM spock.pgdrover_subscription", "true")
	require.Equal(t, refused, b.text(t, "SELECT 'refused ' || last_error FROM spock.pgdrover_subscription"))
	require.Equal(t, "i|5|b|", b.text(t, "SELECT sync_status, id, v, to_regclass('u') FROM spock.local_sync_status, t"), "nothing was changed")
	b.exec(t, "DROP TABLE t")
	b.eventually(t, "SELECT status FROM spock.sub_show_status()", "replicating")
	equal(t, "SELECT (SELECT string_agg(id || v, ',' ORDER BY id) FROM t), (SELECT count(*) FROM u)", a, b)
}

// What came with a copy takes part in the replication the other way as well,
// where new tables are to be added to sets.
func TestCopiedTablesJoinTheSets(t *testing.T) {
	t.Parallel()
	for wanted, sets := range map[string]string{"on": "log default_insert_only,t default,u default", "off": ""} {
		t.Run(wanted, func(t *testing.T) {
			t.Parallel()
			a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
			a.exec(t, keyed+`CREATE TABLE u (id int PRIMARY KEY, t int REFERENCES t); SELECT spock.repset_add_table('default', 'u');
				CREATE TABLE log (n int); SELECT spock.repset_add_table('default_insert_only', 'log'); INSERT INTO t VALUES (1, 'a')`)
			b.exec(t, "ALTER DATABASE "+database+" SET spock.include_ddl_repset = "+wanted)
			b.stopEngine()
			b.start(t)
			b.subscribe(t, a, wholeCopy)
			require.Equal(t, sets, b.text(t, "SELECT string_agg(set_reloid::text || ' ' || set_name, ',' ORDER BY set_reloid::text) FROM spock.replication_set_table JOIN spock.replication_set USING (set_id)"))
			if wanted == "off" {
				return
			}
			a.subscribe(t, b, "")
			b.exec(t, "INSERT INTO t VALUES (2, 'b'); UPDATE t SET v = 'c' WHERE id = 1; INSERT INTO u VALUES (1, 2); INSERT INTO log VALUES (1)")
			settle(t, a, b)
			equal(t, "SELECT (SELECT string_agg(id || v, ',' ORDER BY id) FROM t), (SELECT count(*) FROM u), (SELECT count(*) FROM log)", a, b)
			require.Equal(t, "1c,2b", a.text(t, "SELECT string_agg(id || v, ',' ORDER BY id) FROM t"))
		})
	}
}

// What an engine that was killed has left of a structure goes with the next copy;
// what is others' stays.
func TestLeftoverStructureGoes(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	dir := t.TempDir()
	b.exec(t, "ALTER DATABASE "+database+" SET spock.temp_directory = '"+dir+"'")
	b.stopEngine()
	b.start(t)
	a.exec(t, keyed+"INSERT INTO t VALUES (1, 'a')")
	prefix := b.text(t, "SELECT format('pgdrover-structure-%s-%s-', system_identifier, (SELECT oid FROM pg_database WHERE datname = current_database())) FROM pg_control_system()")
	ours, others := filepath.Join(dir, prefix+b.text(t, "SELECT pgdrover.subscription_id('sub_n1_n2')")+"-123"), filepath.Join(dir, prefix+"1-123")
	for _, left := range []string{ours, others} {
		require.NoError(t, os.MkdirAll(left, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(left, "structure"), []byte("x"), 0o600))
	}
	b.subscribe(t, a, wholeCopy)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.DirExists(t, others)
}

// A copy says which tables it leaves behind, and what the manual tells to add
// them adds each where it fits.
func TestTablesOutsideOfTheSets(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	a.exec(t, `CREATE TABLE keyed (id int PRIMARY KEY); CREATE TABLE bare (v int); CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY); CREATE TABLE empty (id int PRIMARY KEY);
		CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF parts FOR VALUES FROM (1) TO (10);
		INSERT INTO keyed VALUES (1); INSERT INTO bare VALUES (1); INSERT INTO fleeting VALUES (1); INSERT INTO parts VALUES (1)`)
	b.exec(t, fmt.Sprintf("SELECT spock.sub_create('sub_n1_n2', '%s'%s)", a.dsn(), wholeCopy))
	b.eventually(t, "SELECT status FROM spock.sub_show_status()", "replicating")
	require.Equal(t, "0|0|0", b.text(t, "SELECT (SELECT count(*) FROM keyed), (SELECT count(*) FROM bare), (SELECT count(*) FROM parts)"))
	require.Regexp(t, `their rows are not copied.*tables=3 first="public.bare, public.keyed, public.part"`, b.warnings())
	manual, err := os.ReadFile("../../docs/multimaster.md")
	require.NoError(t, err)
	_, sql, found := strings.Cut(string(manual), "SELECT spock.repset_add_table(CASE")
	require.True(t, found)
	sql, _, _ = strings.Cut(sql, "\n```")
	a.exec(t, "SELECT spock.repset_add_table(CASE"+sql)
	require.Equal(t, "default_insert_only bare|default empty|default keyed", a.text(t, `SELECT string_agg(set_name || ' ' || set_reloid, '|' ORDER BY set_reloid::text)
		FROM spock.replication_set_table JOIN spock.replication_set USING (set_id) WHERE set_reloid::text IN ('bare', 'empty', 'keyed')`))
}

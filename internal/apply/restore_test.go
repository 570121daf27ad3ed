package apply

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// An engine that ends between the last statement of a copy's structure and the
// word that it is done finds all of it there: it copies the data again where it
// has to, but does not stumble over keys and indexes for ever. A primary key
// that is there has another error than everything else.
func TestStructureThatWasRestoredIsKept(t *testing.T) {
	t.Parallel()
	for name, definition := range map[string]string{
		"primary key": "CREATE TABLE t (id int PRIMARY KEY, v text)",
		"index":       "CREATE TABLE t (id int, v text); CREATE INDEX at ON t (v); ALTER TABLE t REPLICA IDENTITY FULL",
		"comment":     "CREATE TABLE t (id int, v text); CREATE INDEX at ON t (v); COMMENT ON INDEX at IS 'of t'",
		"trigger": `CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
			CREATE TABLE t (id int, v text); CREATE TRIGGER at BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
			a.exec(t, definition+"; INSERT INTO t VALUES (1, 'one'), (2, 'two'); SELECT spock.repset_add_table('default_insert_only', 't')")
			b.exec(t, fmt.Sprintf("SELECT spock.sub_create('sub_n1_n2', '%s', synchronize_structure := true, synchronize_data := true)", a.dsn()))
			b.eventually(t, "SELECT status FROM spock.sub_show_status()", "replicating")
			b.halt(t)
			if name == "comment" {
				// It comes behind its index, and is not there yet.
				b.exec(t, "COMMENT ON INDEX at IS NULL")
			}
			b.exec(t, "UPDATE spock.local_sync_status SET sync_status = 'c' WHERE sync_relname IS NULL")
			a.eventually(t, "SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE NOT active", "1")
			b.start(t)
			b.eventually(t, "SELECT sync_status FROM spock.local_sync_status WHERE sync_relname IS NULL", "r")
			b.eventually(t, "SELECT status FROM spock.sub_show_status()", "replicating")
			a.exec(t, "INSERT INTO t VALUES (3, 'three')")
			lsn := a.text(t, "SELECT spock.sync_event()")
			b.eventually(t, fmt.Sprintf("SELECT (max(remote_lsn) >= '%s')::text FROM pg_replication_origin_status", lsn), "true")
			equal(t, "SELECT * FROM t ORDER BY id", a, b)
			equal(t, "SELECT obj_description(to_regclass('at'))", a, b)
		})
	}
}

// The keys and indexes that an engine has built before it ends are not built
// again; the others are, and so is what comes behind them.
func TestIndexesAreBuiltOnce(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	a.exec(t, `CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM pg_catalog.pg_sleep(0.03); RETURN $1; END';
		CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int CONSTRAINT "the key" PRIMARY KEY, t int REFERENCES t, CHECK (id > 0));
		CREATE UNIQUE INDEX "an index" ON u (t); CREATE INDEX slow1 ON t (slow(id)); CREATE INDEX slow2 ON t (slow(-id)); CREATE INDEX slow3 ON u (slow(id));
		CREATE STATISTICS s ON id, t FROM u; ALTER TABLE u ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON u USING (true);
		COMMENT ON INDEX "an index" IS 'of u'; CREATE RULE r AS ON DELETE TO u WHERE id < 0 DO NOTHING;
		CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER "a trigger" BEFORE INSERT ON u FOR EACH ROW EXECUTE FUNCTION f();
		INSERT INTO t SELECT i, 'v' FROM generate_series(1, 40) i; INSERT INTO u SELECT i, i FROM generate_series(1, 40) i;
		SELECT spock.repset_add_table('default', t::regclass) FROM unnest('{t,u}'::text[]) t`)
	b.exec(t, "ALTER DATABASE "+database+" SET pgdrover.copy_limits = 'jobs=2'; ALTER DATABASE "+database+" SET spock.restart_delay_default = 100")
	b.stopEngine()
	b.start(t)
	const (
		built  = "SELECT string_agg(concat_ws(' ', indexrelid::regclass, indexrelid), ',') FROM pg_index WHERE indrelid IN ('t'::regclass, 'u'::regclass)"
		others = `SELECT concat_ws(' ', (SELECT string_agg(conname, ',' ORDER BY conname) FROM pg_constraint WHERE conrelid IN ('t'::regclass, 'u'::regclass)),
			(SELECT count(*) FROM pg_policy), (SELECT string_agg(tgname, ',') FROM pg_trigger WHERE tgrelid = 'u'::regclass AND NOT tgisinternal AND tgname !~ '^pgdrover'),
			(SELECT count(*) FROM pg_rules WHERE tablename = 'u'), (SELECT stxname FROM pg_statistic_ext), obj_description('"an index"'::regclass), relrowsecurity)
			FROM pg_class WHERE relname = 'u'`
	)
	b.exec(t, fmt.Sprintf("SELECT spock.sub_create('sub_n1_n2', '%s', synchronize_structure := true, synchronize_data := true)", a.dsn()))
	first := ""
	for i := 0; b.text(t, "SELECT coalesce(max(sync_status::text), '') FROM spock.local_sync_status WHERE sync_relname IS NULL") != "r"; i++ {
		b.eventually(t, fmt.Sprintf(`SELECT EXISTS (SELECT FROM spock.local_sync_status WHERE sync_relname IS NULL AND sync_status = 'r'
			OR (SELECT count(*) FROM pg_index WHERE indrelid IN (to_regclass('t'), to_regclass('u'))) > %d)::text`, 2*i), "true")
		b.halt(t)
		if first == "" {
			first = b.text(t, built)
		}
		b.start(t)
		require.Less(t, i, 10, "it does not get on")
	}
	b.eventually(t, "SELECT status FROM spock.sub_show_status()", "replicating")
	last := b.text(t, built)
	for index := range strings.SplitSeq(first, ",") {
		require.Contains(t, strings.Split(last, ","), index, "built again")
	}
	equal(t, "SELECT string_agg(indexrelid::regclass::text, ',' ORDER BY indexrelid::regclass::text) FROM pg_index WHERE indrelid IN ('t'::regclass, 'u'::regclass)", a, b)
	equal(t, others, a, b)
	equal(t, "SELECT * FROM u ORDER BY id", a, b)
}

// What is known to be there is left out of an archive's list, and nothing else.
func TestListWithout(t *testing.T) {
	t.Parallel()
	list := "; a comment\n1; 0 0 ENCODING - ENCODING \n2; 2606 7 CONSTRAINT public t t_pkey me\n3; 2606 8 CONSTRAINT public t t_pkey2 me\n4; 1259 9 INDEX public an index me too\n"
	require.Equal(t, "; a comment\n1; 0 0 ENCODING - ENCODING \n3; 2606 8 CONSTRAINT public t t_pkey2 me\n",
		string(without([]byte(list), []string{"CONSTRAINT public t t_pkey me", "INDEX public an index me too", "INDEX public t_pkey me"})))
	require.True(t, onlyRestoredBefore("run pg_restore: exit status 1\npg_restore: error: could not execute query: ERROR:  relation \"i\" already exists\nCommand was: x\n"))
	require.False(t, onlyRestoredBefore("pg_restore: error: could not execute query: ERROR:  relation \"i\" already exists\npg_restore: error: out of memory"))
	require.False(t, onlyRestoredBefore("run pg_restore: no such file"))
}

package spock_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/spock"
)

// catalog is all that an installation makes, without what belongs to one database's tables.
const catalog = `
WITH spaces AS (SELECT oid FROM pg_namespace WHERE nspname IN ('spock', 'pgdrover')),
     rels AS (SELECT c.* FROM pg_class c JOIN spaces s ON s.oid = c.relnamespace)
SELECT 'function ' || p.oid::regprocedure || ' ' || p.proowner::regrole || ' ' || coalesce(p.proacl::text, '-') || E'\n'
       || CASE WHEN p.prokind = 'a' THEN (SELECT concat_ws(' ', a.aggkind, a.aggtransfn, a.aggfinalfn, a.aggtranstype::regtype, a.agginitval, p.proparallel)
                                            FROM pg_aggregate a WHERE a.aggfnoid = p.oid)
               ELSE pg_get_functiondef(p.oid) END AS line
  FROM pg_proc p JOIN spaces s ON s.oid = p.pronamespace WHERE p.proname NOT LIKE 'tombstone\_%'
UNION ALL
SELECT concat_ws(' ', 'relation', r.oid::regclass, r.relkind, r.relpersistence, r.relreplident, r.reloptions, r.relacl,
                 CASE WHEN r.relkind = 'v' THEN pg_get_viewdef(r.oid) END) FROM rels r WHERE r.relkind IN ('r', 'v', 'S')
UNION ALL
SELECT concat_ws(' ', 'column', r.oid::regclass, row_number() OVER (PARTITION BY r.oid ORDER BY a.attnum), a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
                 pg_get_expr(d.adbin, d.adrelid))
  FROM rels r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped AND r.relkind IN ('r', 'v')
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
UNION ALL
SELECT concat_ws(' ', 'constraint', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid)) FROM rels r JOIN pg_constraint k ON k.conrelid = r.oid
UNION ALL
SELECT 'index ' || pg_get_indexdef(i.indexrelid) FROM rels r JOIN pg_index i ON i.indrelid = r.oid
UNION ALL
SELECT 'trigger ' || pg_get_triggerdef(t.oid) || t.tgenabled::text FROM rels r JOIN pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal
UNION ALL
SELECT concat_ws(' ', 'event trigger', e.evtname, e.evtevent, e.evtfoid::regprocedure, e.evtenabled, e.evttags) FROM pg_event_trigger e
UNION ALL
SELECT concat_ws(' ', 'schema', n.nspname, n.nspacl) FROM pg_namespace n JOIN spaces s USING (oid)
UNION ALL
SELECT concat_ws(' ', 'reserved', r) FROM spock.reserved_object r
UNION ALL
SELECT 'version ' || version FROM spock.pgdrover_schema_version
ORDER BY 1`

// kept is what an upgrade must not change: users' data, and all that operators have told the schema.
const kept = `
SELECT concat_ws(' ', 'node', n) AS line FROM spock.node n
UNION ALL SELECT concat_ws(' ', 'interface', i) FROM spock.node_interface i
UNION ALL SELECT concat_ws(' ', 'local', l) FROM spock.local_node l
UNION ALL SELECT concat_ws(' ', 'subscription', s) FROM spock.subscription s
UNION ALL SELECT concat_ws(' ', 'sync', s) FROM spock.local_sync_status s
UNION ALL SELECT concat_ws(' ', 'set', s) FROM spock.replication_set s
UNION ALL SELECT concat_ws(' ', 'member', set_id, set_reloid, set_att_list, pg_get_expr(set_row_filter, set_reloid)) FROM spock.replication_set_table
UNION ALL SELECT concat_ws(' ', 'sequence', s) FROM spock.replication_set_seq s
UNION ALL SELECT concat_ws(' ', 'depend', refobjid::regclass, refobjsubid, deptype) FROM spock.depend WHERE refclassid = 'pg_class'::regclass
UNION ALL SELECT concat_ws(' ', 'delta', d) FROM spock.pgdrover_delta_column d
UNION ALL SELECT concat_ws(' ', 'tombstone', relid::regclass, key) FROM spock.pgdrover_tombstone
UNION ALL SELECT concat_ws(' ', 'origin', roident, roname) FROM pg_replication_origin
UNION ALL SELECT concat_ws(' ', 'known origin', roident, roname, node_id) FROM spock.pgdrover_origin
UNION ALL SELECT concat_ws(' ', 'progress', p) FROM spock.progress p
UNION ALL SELECT concat_ws(' ', 'resolution', r) FROM spock.resolutions r
UNION ALL SELECT concat_ws(' ', 'exception', e) FROM spock.exception_log e
UNION ALL SELECT concat_ws(' ', 'queued', q.message_type, q.message) FROM spock.queue q
UNION ALL SELECT concat_ws(' ', 'published', pubname, tablename) FROM pg_publication_tables WHERE tablename <> 'pgdrover_applied'
UNION ALL SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid IN ('t'::regclass, 'f'::regclass) AND NOT tgisinternal
UNION ALL SELECT concat_ws(' ', 'row', t) FROM t
UNION ALL SELECT concat_ws(' ', 'row', f) FROM f
ORDER BY 1`

// first installs version 1 as it was.
func first(t *testing.T, dsn string) *node {
	t.Helper()
	n := open(t, dsn, false)
	image, err := os.ReadFile("testdata/schema-1.sql")
	require.NoError(t, err)
	// As the program did: names are those of pg_catalog, event triggers are silent.
	n.exec(t, `SET search_path = pg_catalog`)
	n.exec(t, `BEGIN; SELECT set_config('pgdrover.internal', 'on', true);`+string(image)+`; COMMIT`)
	n.exec(t, `RESET search_path`)
	return n
}

// TestUpgrade brings the oldest version, in use, to the newest: what is installed then is what a fresh installation makes,
// and nothing that it was told is forgotten.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	provider := create(t, "n2")
	n := first(t, database(t))
	version, err := spock.SchemaVersion(t.Context(), n.db)
	require.NoError(t, err)
	require.Equal(t, 1, version)
	err = spock.CheckVersion(t.Context(), n.sql)
	require.ErrorContains(t, err, "it has version 1, this program needs")
	require.Contains(t, hint(t, err), "pgdrover spock upgrade")

	n.exec(t, `SELECT spock.node_create('n1', $1)`, n.dsn)
	n.exec(t, `
		CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, v text);
		CREATE FUNCTION keep(text) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT $1 <> ''''';
		CREATE TABLE f (id int PRIMARY KEY, v text);
		CREATE SEQUENCE numbers;
		INSERT INTO t SELECT i, i, 'v' || i FROM generate_series(1, 100) i;
		INSERT INTO f VALUES (1, 'x');
		SELECT spock.repset_create('mine', replicate_delete := false);
		SELECT spock.repset_add_table('mine', 't', columns := '{id,n}');
		SELECT spock.repset_add_table('default', 'f', row_filter := 'keep(v)');
		SELECT spock.repset_add_seq('default', 'numbers');
		SELECT pgdrover.delta_column_add('t', 'n');
		DELETE FROM t WHERE id > 90;
		SELECT spock.replicate_ddl('CREATE VIEW public.w AS SELECT 1 AS one');
		INSERT INTO spock.resolutions (node_name, log_time, relname) VALUES ('n1', '2026-01-01', 'public.t');
		INSERT INTO spock.exception_log (remote_origin, remote_commit_ts, command_counter, retry_errored_at, remote_xid, error_message)
			VALUES (1, '2026-01-01', 1, '2026-01-01', 7, 'no');`)
	n.exec(t, `SELECT spock.sub_create('sub_n2_n1', $1, enabled := false)`, provider.dsn)
	before := n.lines(t, kept)

	require.NoError(t, spock.Upgrade(t.Context(), n.db))
	require.NoError(t, spock.CheckVersion(t.Context(), n.sql))
	require.Equal(t, provider.lines(t, catalog), n.lines(t, catalog))
	require.Equal(t, before, n.lines(t, kept))
	require.Equal(t, "public.keep(v)", n.text(t, `SELECT row_filter FROM spock.pgdrover_row_filter`), "filters say it without a search path")

	// It works, and once more there is nothing to do.
	require.NoError(t, spock.Upgrade(t.Context(), n.db))
	require.Equal(t, before, n.lines(t, kept))
	n.exec(t, `DELETE FROM t WHERE id > 80; SELECT spock.repset_remove_table('mine', 't'), spock.repset_add_table('default', 't')`)
	require.Equal(t, "20", n.text(t, `SELECT count(*) FROM spock.pgdrover_tombstone WHERE relid = 't'::regclass`))
	n.exec(t, `SELECT spock.sub_drop('sub_n2_n1'); SELECT spock.node_drop('n1')`)
	require.NoError(t, spock.Uninstall(t.Context(), n.db))
	require.Equal(t, "80", n.text(t, `SELECT count(*) FROM t`))
}

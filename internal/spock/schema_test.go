package spock_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pgdrover/pgdrover/internal/spock"
)

func TestInstallTwice(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `CREATE TABLE t (id int PRIMARY KEY); SELECT spock.repset_add_table('default', 't')`)
	require.NoError(t, spock.Install(t.Context(), n.db))
	require.NoError(t, spock.Upgrade(t.Context(), n.db))
	version, err := spock.SchemaVersion(t.Context(), n.db)
	require.NoError(t, err)
	require.Equal(t, spock.SchemaNumber, version)
	require.Equal(t, spock.CompatVersion, n.text(t, `spock.spock_version()`))
	require.Equal(t, "1", n.text(t, `SELECT count(*) FROM spock.replication_set_table`))
}

func TestInstallAtOnce(t *testing.T) {
	t.Parallel()
	dsn := database(t)
	var group errgroup.Group
	for range 4 {
		db := open(t, dsn, false).db
		group.Go(func() error { return spock.Install(t.Context(), db) })
	}
	require.NoError(t, group.Wait())
}

func hint(t *testing.T, err error) string {
	t.Helper()
	h, ok := err.(interface{ Hint() string })
	require.True(t, ok, "%v has no hint", err)
	return h.Hint()
}

func TestInstallRefuses(t *testing.T) {
	t.Parallel()
	n := open(t, database(t), false)
	_, err := spock.SchemaVersion(t.Context(), n.db)
	require.ErrorIs(t, err, spock.ErrNotInstalled)
	require.ErrorIs(t, spock.Upgrade(t.Context(), n.db), spock.ErrNotInstalled)
	require.NoError(t, spock.Uninstall(t.Context(), n.db))

	n.exec(t, `CREATE SCHEMA spock`)
	err = spock.Install(t.Context(), n.db)
	require.ErrorContains(t, err, "was not made by this program")
	require.NotEmpty(t, hint(t, err))
	require.ErrorContains(t, spock.Uninstall(t.Context(), n.db), "was not made by this program")

	newer := install(t)
	newer.exec(t, `UPDATE spock.pgdrover_schema_version SET version = 99`)
	err = spock.Install(t.Context(), newer.db)
	require.ErrorContains(t, err, "it has version 99")
	require.NotEmpty(t, hint(t, err))
}

// TestUninstallLeavesUserData compares everything that is not ours before the schema came and after it went.
func TestUninstallLeavesUserData(t *testing.T) {
	t.Parallel()
	n := open(t, database(t), false)
	n.exec(t, `
		CREATE SCHEMA s;
		CREATE TABLE t (id int PRIMARY KEY, v text);
		CREATE TABLE s.u (a int, b text, PRIMARY KEY (a, b)) PARTITION BY RANGE (a);
		CREATE TABLE s.u1 PARTITION OF s.u FOR VALUES FROM (0) TO (10);
		CREATE TABLE log (line text);
		CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER mine AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION mine();
		CREATE PUBLICATION mine FOR TABLE t;
		INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 100) i;
		INSERT INTO s.u VALUES (1, 'x');`)
	const objects = `
		SELECT 'relation ' || oid::regclass || ' ' || relkind::text || relreplident::text FROM pg_class WHERE relnamespace IN ('public'::regnamespace, 's'::regnamespace)
		UNION ALL SELECT 'trigger ' || tgrelid::regclass || ' ' || tgname FROM pg_trigger WHERE NOT tgisinternal
		UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || conname FROM pg_constraint WHERE conrelid >= 16384
		UNION ALL SELECT 'publication ' || pubname || ' ' || coalesce(prrelid::regclass::text, '') FROM pg_publication p LEFT JOIN pg_publication_rel r ON prpubid = p.oid
		UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger
		UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc WHERE oid >= 16384
		UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE oid >= 16384 AND nspname !~ '^pg_'
		UNION ALL SELECT 'type ' || oid::regtype FROM pg_type WHERE oid >= 16384
		UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
		ORDER BY 1`
	before := n.lines(t, objects)

	require.NoError(t, spock.Install(t.Context(), n.db))
	n.exec(t, `SELECT spock.node_create('gone', $1)`, n.dsn)
	n.exec(t, `
		SELECT spock.repset_add_table('default', 't', row_filter := 'id > 5');
		SELECT spock.repset_add_table('default', 's.u');
		SELECT spock.repset_add_table('default_insert_only', 'log');`)
	n.exec(t, `SELECT pg_create_logical_replication_slot('spk_x_gone_sub', 'pgoutput')`)
	other := create(t, "gone2")
	other.exec(t, `SELECT spock.sub_create('sub_back', $1, enabled := false)`, n.dsn)
	n.exec(t, `SELECT spock.sub_create('sub_there', $1, enabled := false)`, other.dsn)
	n.exec(t, `SELECT pgdrover.enforce_readonly('user')`)
	n.exec(t, `SET default_transaction_read_only = off; SET session_replication_role = replica; DELETE FROM t WHERE id = 1; RESET session_replication_role`)
	require.NotEqual(t, before, n.lines(t, objects))
	origins := n.text(t, `SELECT array_agg(roident) FROM spock.pgdrover_origin`)

	// A session that began when the database was read-only.
	require.NoError(t, spock.Uninstall(t.Context(), open(t, n.dsn, false).db))
	require.Equal(t, before, n.lines(t, objects))
	require.Equal(t, "99", n.text(t, `SELECT count(*) FROM t`))
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM pg_replication_origin WHERE roident = ANY ($1::oid[])`, origins))
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = current_database()`))
	require.NoError(t, spock.Uninstall(t.Context(), n.db))
	require.NoError(t, spock.Install(t.Context(), n.db))
}

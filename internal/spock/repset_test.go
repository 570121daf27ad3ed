package spock_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// published lists the tables in the publications of actions, as table: actions.
func (n *node) published(t *testing.T) []string {
	t.Helper()
	return n.lines(t, `
		SELECT c.oid::regclass || ': ' || string_agg(substr(p.pubname, 10), ' ' ORDER BY p.pubname)
		  FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid JOIN pg_class c ON c.oid = r.prrelid
		 WHERE c.relnamespace <> 'spock'::regnamespace GROUP BY c.oid ORDER BY c.oid::regclass::text`)
}

func TestPublicationsFollowSets(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	require.Equal(t, []string{
		"pgdrover_del -", "pgdrover_ins spock.queue", "pgdrover_sys spock.pgdrover_applied", "pgdrover_sys spock.pgdrover_row_filter", "pgdrover_sys spock.replication_set",
		"pgdrover_sys spock.replication_set_table", "pgdrover_trunc -", "pgdrover_upd -",
	}, n.lines(t, `SELECT pubname || ' ' || coalesce(prrelid::regclass::text, '-') FROM pg_publication p
	                 LEFT JOIN pg_publication_rel r ON prpubid = p.oid ORDER BY 1`))

	n.exec(t, `
		CREATE TABLE a (id int PRIMARY KEY, v text);
		CREATE TABLE b (id int, v text);
		SELECT spock.repset_create('upd_only', false, true, false, false);
		SELECT spock.repset_add_table('default', 'a');
		SELECT spock.repset_add_table('default_insert_only', 'b');`)
	require.Equal(t, []string{"a: del ins trunc upd", "b: ins trunc"}, n.published(t))

	n.exec(t, `SELECT spock.repset_remove_table('default', 'a'); SELECT spock.repset_add_table('upd_only', 'a')`)
	require.Equal(t, []string{"a: upd", "b: ins trunc"}, n.published(t))
	n.exec(t, `SELECT spock.repset_alter('upd_only', replicate_delete := true, replicate_update := false)`)
	require.Equal(t, []string{"a: del", "b: ins trunc"}, n.published(t))
	n.exec(t, `SELECT spock.repset_add_table('default', 'a')`)
	require.Equal(t, []string{"a: del ins trunc upd", "b: ins trunc"}, n.published(t))
	n.exec(t, `SELECT spock.repset_drop('default')`)
	require.Equal(t, []string{"a: del", "b: ins trunc"}, n.published(t))

	// Membership and publication are one: a rollback takes back both.
	n.exec(t, `BEGIN; SELECT spock.repset_drop('upd_only'); SELECT spock.repset_drop('default_insert_only')`)
	require.Empty(t, n.published(t))
	n.exec(t, `ROLLBACK`)
	require.Equal(t, []string{"a: del", "b: ins trunc"}, n.published(t))

	n.exec(t, `SELECT spock.node_drop('n1')`)
	require.Empty(t, n.lines(t, `SELECT pubname::text FROM pg_publication`))
	require.Empty(t, n.lines(t, `SELECT tgname::text FROM pg_trigger WHERE tgrelid IN ('a'::regclass, 'b'::regclass)`))
	require.Empty(t, n.lines(t, `SELECT set_id::text FROM spock.replication_set UNION ALL SELECT relid::text FROM spock.pgdrover_watch`))
}

// TestKeyThatVanishes is about the application: its updates must never fail because of a publication.
func TestKeyThatVanishes(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `
		CREATE TABLE a (id int PRIMARY KEY, alt int NOT NULL, v text);
		CREATE UNIQUE INDEX a_alt ON a (alt);
		CREATE TYPE kind AS ENUM ('x', 'y');
		CREATE TABLE b (k kind PRIMARY KEY, v text);
		SELECT spock.repset_add_table('default', 'a'); SELECT spock.repset_add_table('default', 'b');
		INSERT INTO a VALUES (1, 1, 'v'); INSERT INTO b VALUES ('x', 'v');`)
	all, some := []string{"a: del ins trunc upd", "b: del ins trunc upd"}, []string{"a: ins trunc", "b: del ins trunc upd"}
	update := func() {
		t.Helper()
		n.exec(t, `UPDATE a SET v = v || 'x'; UPDATE b SET v = v || 'x'`)
	}
	for _, step := range []struct {
		ddl  string
		want []string
	}{
		{`ALTER TABLE a DROP CONSTRAINT a_pkey`, some},
		{`ALTER TABLE a REPLICA IDENTITY USING INDEX a_alt`, all},
		{`DROP INDEX a_alt`, some},
		{`CREATE UNIQUE INDEX a_alt ON a (alt)`, some},
		{`ALTER TABLE a REPLICA IDENTITY USING INDEX a_alt`, all},
		{`ALTER TABLE a REPLICA IDENTITY NOTHING`, some},
		{`ALTER TABLE a REPLICA IDENTITY FULL`, all},
		{`ALTER TABLE a REPLICA IDENTITY DEFAULT`, some},
		{`ALTER TABLE a ADD PRIMARY KEY (id)`, all},
		{`DROP TYPE kind CASCADE`, []string{"a: del ins trunc upd", "b: ins trunc"}},
		{`ALTER TABLE b ADD COLUMN id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY`, all},
	} {
		n.exec(t, step.ddl)
		require.Equal(t, step.want, n.published(t), step.ddl)
		update()
	}
	// The same on behalf of what applies changes.
	n.exec(t, `SET session_replication_role = replica; ALTER TABLE a DROP CONSTRAINT a_pkey; RESET session_replication_role`)
	require.Equal(t, some, n.published(t))
	update()
}

func TestPartitions(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `
		CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
		CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
		CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (30) PARTITION BY RANGE (id);
		CREATE TABLE p21 PARTITION OF p2 FOR VALUES FROM (10) TO (20);
		SELECT spock.repset_add_table('default', 'p', true, '{id}', 'id < 15');`)
	// Leaves alone are published: a parent would bring every partition along.
	require.Equal(t, []string{"p1: del ins trunc upd", "p21: del ins trunc upd"}, n.published(t))
	require.Equal(t, []string{"p {id} (id < 15)", "p1 {id} (id < 15)", "p2 {id} (id < 15)", "p21 {id} (id < 15)"}, n.lines(t, `
		SELECT set_reloid || ' ' || set_att_list::text || ' ' || pg_get_expr(set_row_filter, set_reloid)
		  FROM spock.replication_set_table ORDER BY set_reloid::text`))
	require.Equal(t, []string{`{"schema_name": "public","table_name": "p"}`}, n.lines(t, `SELECT message::text FROM spock.queue`))

	n.exec(t, `CREATE TABLE p22 PARTITION OF p2 FOR VALUES FROM (20) TO (30)`)
	require.Len(t, n.published(t), 2)
	require.Equal(t, "0", n.text(t, `spock.repset_add_partition('p1')`))
	require.Equal(t, "1", n.text(t, `spock.repset_add_partition('p', 'p22', 'id < 25')`))
	require.Equal(t, "(id < 25)", n.text(t, `SELECT pg_get_expr(set_row_filter, set_reloid) FROM spock.replication_set_table WHERE set_reloid = 'p22'::regclass`))
	require.Equal(t, "3", n.text(t, `SELECT count(*) FROM pg_trigger WHERE tgrelid = 'p22'::regclass AND tgname LIKE 'pgdrover%'`))
	require.Equal(t, "2", n.text(t, `spock.repset_remove_partition('p2')`))
	require.Equal(t, "2", n.text(t, `spock.repset_add_partition('p')`))
	n.exec(t, `SELECT spock.repset_remove_table('default', 'p')`)
	require.Empty(t, n.published(t))
}

func TestColumnsAndFilters(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `
		CREATE TABLE t (id int PRIMARY KEY, a int, b text);
		CREATE FUNCTION odd(int) RETURNS boolean LANGUAGE sql AS 'SELECT $1 % 2 = 1';
		INSERT INTO t SELECT i, i, 'v' || i FROM generate_series(1, 6) i;
		SELECT spock.repset_create('narrow'); SELECT spock.repset_create('odd'); SELECT spock.repset_create('all');
		SELECT spock.repset_add_table('narrow', 't', columns := '{id,a}', row_filter := 'a > 4');
		SELECT spock.repset_add_table('odd', 't', columns := '{id}', row_filter := 'odd(a) -- odd ones');
		SELECT spock.repset_add_table('all', 't');`)
	show := func(sets string) string {
		t.Helper()
		return n.text(t, `SELECT att_list::text || has_row_filter || relkind::text || relispartition FROM spock.repset_show_table('t', $1::text[])`, sets)
	}
	require.Equal(t, "{id,a}truerfalse", show("{narrow}"))
	require.Equal(t, "{id,a}truerfalse", show("{odd,narrow}"))
	require.Equal(t, "{id,a}truerfalse", show("{all,narrow}"), "a set without a list does not widen the others")
	require.Equal(t, "{id,a,b}falserfalse", show("{all}"))
	require.Equal(t, "{id,a,b}falserfalse", show("{default}"))
	rows := func(sets string) string {
		t.Helper()
		return n.text(t, `SELECT string_agg(id::text, ' ' ORDER BY id) FROM spock.table_data_filtered(NULL::t, 't', $1::text[])`, sets)
	}
	require.Equal(t, "5 6", rows("{narrow}"))
	require.Equal(t, "1 3 5 6", rows("{odd,narrow}"))
	require.Equal(t, "1 2 3 4 5 6", rows("{odd,all}"))

	// Texts follow names and types, and mean the same under any search path.
	require.Equal(t, []string{"(a > 4)", "public.odd(a)"}, n.lines(t, `SELECT row_filter FROM spock.pgdrover_row_filter ORDER BY 1`))
	n.exec(t, `ALTER TABLE t RENAME a TO c`)
	require.Equal(t, []string{"(c > 4)", "public.odd(c)"}, n.lines(t, `SELECT row_filter FROM spock.pgdrover_row_filter ORDER BY 1`))
	require.Equal(t, "function public.odd(bigint) does not exist", n.refused(t, `ALTER TABLE t ALTER c TYPE bigint`).Message)
	n.exec(t, `SELECT spock.repset_drop('odd')`)
	n.exec(t, `ALTER TABLE t ALTER c TYPE bigint`)
	require.Equal(t, "5 6", rows("{narrow}"))
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'c'`))
	members, err := n.db.Members(t.Context())
	require.NoError(t, err)
	require.Len(t, members, 2)
}

func TestTablesView(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `
		CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE UNLOGGED TABLE u (id int);
		SELECT spock.repset_add_all_tables('default', '{public}') WHERE false;
		SELECT spock.repset_add_table('default', 'a'); SELECT spock.repset_add_table('default_insert_only', 'a');`)
	require.Equal(t, []string{"public.a default", "public.a default_insert_only", "public.b -"},
		n.lines(t, `SELECT nspname || '.' || relname || ' ' || coalesce(set_name, '-') FROM spock.tables ORDER BY 1`))
	n.exec(t, `SELECT spock.repset_add_all_tables('default', '{public}', true)`)
	require.Equal(t, []string{"public.a default", "public.a default_insert_only", "public.b default"},
		n.lines(t, `SELECT nspname || '.' || relname || ' ' || coalesce(set_name, '-') FROM spock.tables ORDER BY 1`))
	require.Equal(t, []string{`A {default} {"schema_name": "public","table_name": "b"} postgres`},
		n.lines(t, `SELECT concat_ws(' ', message_type, replication_sets::text, message, role) FROM spock.queue`))
}

// TestChangesNotify wakes whoever listens, and says which table changed.
func TestChangesNotify(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	require.NoError(t, n.db.Listen(t.Context()))
	n.exec(t, `CREATE TABLE a (id int PRIMARY KEY); SELECT spock.repset_add_table('default', 'a')`)
	channel, payload, err := n.db.WaitNotification(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"spock_change", "replication_set_table"}, []string{channel, payload})
	n.exec(t, `SELECT spock.node_add_interface('n1', 'second', 'host=h')`)
	_, payload, err = n.db.WaitNotification(t.Context())
	require.NoError(t, err)
	require.Equal(t, "node_interface", payload)
	for _, sql := range []string{`ALTER TABLE a ADD COLUMN u int`, `CREATE UNIQUE INDEX a_u ON a (u)`, `DROP INDEX a_u`} {
		n.exec(t, sql)
		_, payload, err = n.db.WaitNotification(t.Context())
		require.NoError(t, err)
		require.Equal(t, "definition", payload, sql)
	}
}

func TestSequences(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `CREATE SEQUENCE s; CREATE SEQUENCE s2; SELECT nextval('s') FROM generate_series(1, 7); SELECT spock.repset_add_seq('default', 's', true)`)
	messages := `SELECT message_type::text || replication_sets::text || message::text FROM spock.queue ORDER BY queued_at`
	require.Equal(t, []string{`S{default}{"schema_name": "public","sequence_name": "s","last_value": "1007"}`}, n.lines(t, messages))
	require.Equal(t, "0", n.text(t, `pgdrover.sync_sequences()`))
	n.exec(t, `SELECT setval('s', 600)`)
	changed, err := n.db.SyncSequences(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, changed)
	require.Equal(t, `S{default}{"schema_name": "public","sequence_name": "s","last_value": "2600"}`, n.lines(t, messages)[1])
	n.exec(t, `SELECT spock.repset_add_all_seqs('default_insert_only', '{public}'); SELECT spock.sync_seq('s')`)
	require.Contains(t, n.lines(t, messages)[2], `{default,default_insert_only}`)
	n.exec(t, `SELECT spock.repset_remove_seq('default', 's')`)
	require.Equal(t, "2", n.text(t, `SELECT count(*) FROM spock.sequence_state`))
	n.exec(t, `DROP SEQUENCE s; DROP SEQUENCE s2`)
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM spock.sequence_state`))
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM spock.replication_set_seq`))
}

// TestSequencesFollowed: what a provider says of a sequence never sets it back, leaves one alone that draws its node's share of
// the numbers, and is no reason for this node to announce more.
func TestSequencesFollowed(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `CREATE TABLE t (id serial PRIMARY KEY); SELECT spock.repset_add_seq('default', 't_id_seq'); SELECT nextval('t_id_seq') FROM generate_series(1, 100)`)
	require.Equal(t, "1", n.text(t, `pgdrover.sync_sequences()`))
	require.Equal(t, "0", n.text(t, `pgdrover.sync_sequences()`))
	for _, v := range []struct{ announced, want string }{{"5000", "5000"}, {"10", "5000"}, {"2147483000", "2147483000"}} {
		n.exec(t, `SELECT pgdrover.follow_sequence('t_id_seq', `+v.announced+`)`)
		require.Equal(t, v.want, n.text(t, `SELECT last_value FROM t_id_seq`))
		require.Equal(t, "0", n.text(t, `pgdrover.sync_sequences()`), "nothing was drawn here")
	}
	n.exec(t, `SELECT setval('t_id_seq', 100); SELECT spock.repset_add_table('default', 't'); SELECT pgdrover.sequence_spread(16, 3)`)
	before := n.text(t, `SELECT last_value FROM t_id_seq`)
	n.exec(t, `SELECT pgdrover.follow_sequence('t_id_seq', 5000)`)
	require.Equal(t, before, n.text(t, `SELECT last_value FROM t_id_seq`))
}

func TestSequenceSpread(t *testing.T) {
	t.Parallel()
	one, two := create(t, "n1"), create(t, "n2")
	for _, n := range []*node{one, two} {
		n.exec(t, `
			CREATE TABLE a (id serial PRIMARY KEY, n int GENERATED BY DEFAULT AS IDENTITY, m int DEFAULT 0);
			CREATE SEQUENCE apart; ALTER TABLE a ALTER m SET DEFAULT nextval('apart');
			INSERT INTO a DEFAULT VALUES; INSERT INTO a DEFAULT VALUES;`)
	}
	one.exec(t, `SELECT spock.sub_create('from_two', $1, enabled := false)`, two.dsn)
	two.exec(t, `SELECT spock.sub_create('from_one', $1, enabled := false)`, one.dsn)
	one.heard()
	one.exec(t, `SELECT spock.repset_add_table('default', 'a')`)
	two.exec(t, `SELECT spock.repset_add_table('default', 'a')`)
	require.Len(t, one.heard(), 3, "one warning for each sequence")
	for _, n := range []*node{one, two} {
		require.Equal(t, "3", n.text(t, `pgdrover.sequence_spread(4)`))
		require.Equal(t, "0", n.text(t, `pgdrover.sequence_spread(4)`))
		rest, err := n.db.UnspreadSequences(t.Context())
		require.NoError(t, err)
		require.Empty(t, rest)
		n.exec(t, `INSERT INTO a SELECT FROM generate_series(1, 50)`)
	}
	drawn := func(n *node, column string) []string {
		t.Helper()
		return n.lines(t, `SELECT `+pgx.Identifier{column}.Sanitize()+`::text FROM a WHERE id > 2`)
	}
	for _, column := range []string{"id", "n", "m"} {
		for _, v := range drawn(one, column) {
			require.NotContains(t, drawn(two, column), v, column)
		}
	}
	n := create(t, "n3")
	n.exec(t, `SELECT pgdrover.sequence_spread(8, 3)`)
	require.Equal(t, "3", n.text(t, `SELECT node_number FROM spock.pgdrover_spread`))
}

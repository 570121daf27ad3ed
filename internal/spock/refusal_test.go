package spock_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// refusal is one call that is refused, with the words that clients look for.
type refusal struct {
	sql, code, message string
	detail, hint       string
}

func (n *node) refuses(t *testing.T, cases []refusal) {
	t.Helper()
	for _, c := range cases {
		err := n.refused(t, "SELECT "+c.sql)
		require.Equal(t, c.message, err.Message, c.sql)
		require.Equal(t, c.code, err.Code, c.sql)
		require.Equal(t, c.detail, err.Detail, c.sql)
		require.Equal(t, c.hint, err.Hint, c.sql)
	}
}

const (
	noNode      = "current database is not configured as spock node"
	createFirst = "create spock node first"
	addKey      = "Add a PRIMARY KEY to the table"
	noKey       = "table does not have PRIMARY KEY and given replication set is configured to replicate UPDATEs and/or DELETEs"
	lowerCase   = "Subscription names may only contain lower case letters, numbers, and the underscore character."
)

func TestRefusalsWithoutNode(t *testing.T) {
	t.Parallel()
	n := install(t)
	var cases []refusal
	for _, call := range []string{
		`spock.repset_create('s')`, `spock.repset_alter('s')`, `spock.repset_drop('s')`, `spock.repset_add_table('s', 'spock.node')`,
		`spock.repset_add_all_tables('s', '{public}')`, `spock.repset_remove_table('s', 'spock.node')`,
		`spock.repset_add_seq('s', 'spock.node')`, `spock.repset_remove_seq('s', 'spock.node')`, `spock.repset_add_partition('spock.node')`,
		`spock.replicate_ddl('CREATE TABLE x ()')`, `spock.sync_event()`, `spock.sub_show_status()`, `spock.sub_drop('s')`,
		`spock.sub_create('s', 'host=none')`, `spock.sub_enable('s')`, `spock.sync_seq('spock.node')`,
	} {
		cases = append(cases, refusal{call, "55000", noNode, "", createFirst})
	}
	n.refuses(t, cases)
	n.refuses(t, []refusal{
		{`spock.node_info()`, "55000", "local spock node not found", "", ""},
		{`spock.repset_show_table('spock.node', '{default}')`, "55000", "local spock node not found", "", ""},
		{`spock.table_data_filtered(NULL::spock.node, 'spock.node', '{default}')`, "55000", "local spock node not found", "", ""},
		{`spock.node_drop('nobody')`, "XX000", "node nobody not found", "", ""},
		{`spock.node_create('n30', 'host=h') FROM (SELECT set_config('x.y', '1', true)) s WHERE spock.node_drop('nobody')`, "XX000", "node nobody not found", "", ""},
	})
	require.Equal(t, "NULL", n.text(t, `spock.node_create(NULL, 'x')`))
	require.Equal(t, "NULL", n.text(t, `spock.node_create('x', NULL)`))
	require.Equal(t, "false", n.text(t, `spock.node_drop('nobody', true)`))
}

// namesOfOneID returns two names with the same node id.
func namesOfOneID(t *testing.T, n *node) (string, string) {
	t.Helper()
	two := n.lines(t, `SELECT unnest(names[1:2]) FROM (
		SELECT array_agg('c' || i ORDER BY i) AS names FROM generate_series(1, 3000) i
		 GROUP BY pgdrover.node_id(('c' || i)::name) HAVING count(*) > 1 LIMIT 1) s`)
	require.Len(t, two, 2)
	return two[0], two[1]
}

func TestNodeRefusals(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	first, second := namesOfOneID(t, n)
	n.exec(t, `INSERT INTO spock.node SELECT pgdrover.node_id($1), $1`, first)
	n.refuses(t, []refusal{
		{`spock.node_create('n1', 'x')`, "XX000", "node n1 already exists", "", ""},
		{`spock.node_create('n9', 'x')`, "XX000", "current database is already configured as spock node", "", ""},
		{`spock.node_add_interface('nobody', 'i', 'x')`, "XX000", "node nobody not found", "", ""},
		{`spock.node_add_interface('n1', 'n1', 'x')`, "22023", `node "n1" already has interface named "n1"`, "", ""},
		{`spock.node_drop_interface('n1', 'i')`, "22023", `interface "i" for node node "n1" not found`, "", ""},
		{`spock.node_drop_interface('n1', 'n1')`, "55000", `cannot drop interface "n1" for node "n1" because it is the one of this database`, "", ""},
	})
	other := install(t)
	other.exec(t, `INSERT INTO spock.node SELECT pgdrover.node_id($1), $1`, first)
	other.refuses(t, []refusal{
		{fmt.Sprintf(`spock.node_create('%s', 'x')`, first), "XX000", "node " + first + " already exists", "", ""},
		{fmt.Sprintf(`spock.node_create('%s', 'x')`, second), "XX000", fmt.Sprintf(`node id %s (computed from name "%s") collides with `+
			`existing node "%s"; rename this node to resolve the collision`, n.text(t, `pgdrover.node_id($1)`, first), second, first), "", ""},
	})
	zero := n.lines(t, `SELECT 'z' || i FROM generate_series(1, 400000) i WHERE pgdrover.node_id(('z' || i)::name) IN (0, 65535) LIMIT 1`)
	require.Len(t, zero, 1)
	require.Contains(t, other.refused(t, `SELECT spock.node_create($1, 'x')`, zero[0]).Message, "cannot be a replication origin")
	require.Equal(t, "0", other.text(t, `SELECT count(*) FROM spock.local_node`))
}

func TestRepsetRefusals(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `
		CREATE TABLE keyed (id int PRIMARY KEY, v text);
		CREATE TABLE computed (a int, k int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY); CREATE TABLE bare (id int, v text);
		CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE);
		CREATE TABLE whole (id int PRIMARY KEY); ALTER TABLE whole REPLICA IDENTITY FULL;
		CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY);
		CREATE TEMP TABLE passing (id int PRIMARY KEY);
		CREATE VIEW seen AS SELECT 1 AS one;
		CREATE SEQUENCE counting; CREATE TEMP SEQUENCE passing_seq;
		CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
		CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
		SELECT spock.repset_create('other', replicate_update := false, replicate_delete := false);
		SELECT spock.repset_add_table('other', 'bare');
		SELECT spock.repset_add_table('default', 'keyed');
		SELECT spock.repset_add_table('default', 'parts', include_partitions := false);`)
	set := n.text(t, `SELECT set_id FROM spock.replication_set WHERE set_name = 'default'`)
	member := n.text(t, `'keyed'::regclass::oid`)
	cannot := func(table string) refusal {
		return refusal{
			fmt.Sprintf(`spock.repset_add_table('default', '%s')`, table), "22023",
			fmt.Sprintf("table %s cannot be added to replication set default", table), noKey, addKey,
		}
	}
	n.refuses(t, []refusal{
		{`spock.repset_create('')`, "42602", "replication set name cannot be empty", "", ""},
		{`spock.repset_create('default')`, "XX000", "replication set default already exists", "", ""},
		{`spock.repset_alter(NULL)`, "22023", "set_name cannot be NULL", "", ""},
		{`spock.repset_alter('none')`, "XX000", "replication set none not found", "", ""},
		{`spock.repset_drop('none')`, "XX000", "replication set none not found", "", ""},
		{
			`spock.repset_alter('other', replicate_update := true)`, "22023",
			"replication set other cannot be altered to replicate UPDATEs or DELETEs because it contains tables without PRIMARY KEY", "", "",
		},
		{`spock.repset_add_table(NULL, 'keyed')`, "22023", "set_name cannot be NULL", "", ""},
		{`spock.repset_add_table('default', NULL)`, "22023", "relation cannot be NULL", "", ""},
		{`spock.repset_add_table('default', 'keyed', NULL)`, "22023", "synchronize_data cannot be NULL", "", ""},
		{`spock.repset_add_partition(NULL)`, "22023", "parent table cannot be NULL", "", ""},
		{`spock.table_data_filtered(NULL::keyed, 'keyed', NULL)`, "22023", "repsets cannot be NULL", "", ""},
		{`spock.table_data_filtered(NULL::keyed, NULL, '{default}')`, "22023", "relation cannot be NULL", "", ""},
		{`spock.table_data_filtered(1, 'keyed', '{default}')`, "42804", "first argument of spock_table_data_filtered must be a row type", "", ""},
		{
			`spock.table_data_filtered(NULL::bare, 'keyed', '{default}')`, "42804",
			"return type of spock_table_data_filtered must be same as row type of the relation", "", "",
		},
		{`spock.repset_show_table('keyed', '{none}')`, "22023", "replication set none not found", "", ""},
		{`spock.repset_add_table('none', 'keyed')`, "XX000", "replication set none not found", "", ""},
		{`spock.repset_add_table('default', 'fleeting')`, "22023", "UNLOGGED and TEMP tables cannot be replicated", "", ""},
		{`spock.repset_add_table('default', 'passing')`, "22023", "UNLOGGED and TEMP tables cannot be replicated", "", ""},
		cannot("bare"), cannot("deferred"), cannot("whole"), cannot("computed"),
		{
			`spock.repset_add_table('default', 'spock.queue')`, "22023",
			"table queue cannot be added to replication set default", "table is in a reserved schema", "",
		},
		{`spock.repset_add_table('default', 'seen')`, "42809", `"seen" is not a table`, "", ""},
		{`spock.repset_add_table('other', 'keyed', columns := '{id,w}')`, "42601", "table public.keyed does not have column w", "", ""},
		{`spock.repset_add_table('other', 'keyed', columns := '{v}')`, "42601", "REPLICA IDENTITY columns must be replicated", "", ""},
		{
			`spock.repset_add_table('default', 'keyed')`, "23505",
			`duplicate key value violates unique constraint "replication_set_table_pkey"`,
			fmt.Sprintf("Key (set_id, set_reloid)=(%s, %s) already exists.", set, member), "",
		},
		{`spock.repset_remove_table('default', 'bare')`, "XX000", "Table bare not found in replication set default", "", ""},
		{`spock.repset_remove_partition('parts', 'parts1')`, "XX000", "Table parts1 not found in replication set default", "", ""},
		{`spock.repset_add_all_tables('default', '{nowhere}')`, "3F000", `schema "nowhere" does not exist`, "", ""},
		{`spock.repset_add_seq('default', 'passing_seq')`, "22023", "UNLOGGED and TEMP sequences cannot be replicated", "", ""},
		{`spock.repset_add_seq('default', 'keyed')`, "XX000", `"keyed" is not a sequence`, "", ""},
		{
			`spock.repset_remove_seq('default', 'counting')`, "XX000",
			fmt.Sprintf("replication set sequence mapping %s:%s not found", set, n.text(t, `'counting'::regclass::oid`)), "", "",
		},
		{`spock.sync_seq('keyed')`, "XX000", `"keyed" is not a sequence`, "", ""},
		{`spock.sync_seq('counting')`, "XX000", `"counting" is not a replicated sequence`, "", ""},
	})
	require.Equal(t, "true", n.text(t, `spock.repset_remove_table('default', 'parts1')`), "a partition is no error")
	require.Equal(t, "false", n.text(t, `spock.repset_drop('none', true)`))
}

func TestRowFilterRefusals(t *testing.T) {
	t.Parallel()
	n := create(t, "n1")
	n.exec(t, `CREATE TABLE t (id int PRIMARY KEY, v text)`)
	for filter, want := range map[string]refusal{
		`id`:                     {code: "42804", message: "argument of row_filter must be type boolean, not type integer"},
		`id > (SELECT 1)`:        {code: "0A000", message: "cannot use subquery in check constraint"},
		`id > max(id)`:           {code: "42803", message: "aggregate functions are not allowed in check constraints"},
		`w > 1`:                  {code: "42703", message: `column "w" does not exist`},
		`id >`:                   {code: "42601", message: `syntax error at or near ")"`, detail: `invalid row_filter expression "id >"`},
		`id > 1); SELECT (1`:     {code: "42601", message: `invalid row_filter expression "id > 1); SELECT (1"`},
		`id > 1) NOT VALID; --`:  {code: "42601", message: `invalid row_filter expression "id > 1) NOT VALID; --"`},
		`v = 'open`:              {code: "42601", message: `invalid row_filter expression "v = 'open"`},
		`other.id > 1`:           {code: "42P01", message: `missing FROM-clause entry for table "other"`},
		`nosuchfunction(id) > 1`: {code: "42883", message: `function nosuchfunction(integer) does not exist`},
	} {
		err := n.refused(t, `SELECT spock.repset_add_table('default', 't', row_filter := $1)`, filter)
		require.Equal(t, want.message, err.Message, filter)
		require.Equal(t, want.code, err.Code, filter)
		require.Equal(t, want.detail, err.Detail, filter)
	}
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM spock.replication_set_table`))
	require.Equal(t, "0", n.text(t, `SELECT count(*) FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'c'`))
}

func TestSubscriptionRefusals(t *testing.T) {
	t.Parallel()
	provider, n := create(t, "p1"), create(t, "s1")
	n.exec(t, `SELECT spock.sub_create('first', $1)`, provider.dsn)
	nothing := strings.Replace(provider.dsn, "dbname=", "dbname=no_", 1)
	n.refuses(t, []refusal{
		{fmt.Sprintf(`spock.sub_create('first', '%s')`, provider.dsn), "XX000", "subscription first already exists", "", ""},
		{`spock.sub_create('', 'x')`, "42602", `subscription name "" is too short`, "", ""},
		{`spock.sub_create('` + strings.Repeat("a", 64) + `', 'x')`, "42622", `subscription name "` + strings.Repeat("a", 63) + `" is too long`, "", "A name has at most 63 bytes."},
		{`spock.sub_create('Second', 'x')`, "42602", `subscription name "Second" contains invalid character`, "", lowerCase},
		{`spock.sub_create('se-cond', 'x')`, "42602", `subscription name "se-cond" contains invalid character`, "", lowerCase},
		{
			`spock.sub_create('second', 'x', synchronize_data := true, enabled := false)`, "22023",
			`subscription "second" in disabled state is not allowed to synchronize structure or data`, "", "",
		},
		{`spock.sub_create('second', 'x', '{NULL,default}')`, "22023", `replication_sets must be a list of names, without NULL or empty ones`, "", ""},
		{`spock.sub_create('second', 'x', skip_schema := '{""}')`, "22023", `skip_schema must be a list of names, without NULL or empty ones`, "", ""},
		{`spock.sub_create('second', 'x', '{{a},{b}}')`, "22023", `replication_sets must be a list of names, without NULL or empty ones`, "", ""},
		{`spock.sub_create('second', 'x', forward_origins := '{bogus}')`, "22023", `option "forward_origins" may only contain "all"`, "", ""},
		{`spock.sub_create('second', 'x', apply_delay := '-1 s')`, "22023", `apply_delay must not be negative`, "", ""},
		{`spock.sub_alter_options('first', '{"apply_delay": "-1 s"}')`, "22023", `apply_delay must not be negative`, "", ""},
		{`spock.sub_add_repset('first', '')`, "22023", `replication_sets must be a list of names, without NULL or empty ones`, "", ""},
		{`spock.repset_add_all_tables('default', '{NULL}')`, "22023", `schema_names must be a list of names, without NULL or empty ones`, "", ""},
		{`spock.repset_add_all_seqs('default', '{""}')`, "22023", `schema_names must be a list of names, without NULL or empty ones`, "", ""},
		{`spock.node_add_interface('s1', '', 'dbname=x')`, "22023", `interface name must not be empty`, "", ""},
		{`pgdrover.sequence_spread(NULL)`, "22023", `max_nodes must be between 2 and 1024`, "", ""},
		{`pgdrover.sequence_spread(node_number := -1)`, "22023", `node_number must not be negative`, "", ""},
		{`spock.cleanup_resolutions(-1)`, "22023", `days must not be negative`, "", ""},
		{
			fmt.Sprintf(`spock.sub_create('second', '%s')`, n.dsn), "22023", `node "s1" cannot subscribe to itself`, "",
			"provider_dsn must lead to another node.",
		},
		{
			fmt.Sprintf(`spock.sub_create('second', '%s connect_timeout=7 password=secret')`, provider.dsn), "22023",
			fmt.Sprintf(`dsn "%s connect_timeout=7 passwordXXXXXXX" points to existing node "p1" with different dsn "%s"`,
				provider.dsn, provider.dsn), "", "",
		},
		{`spock.sub_drop('none')`, "XX000", "subscriber none not found", "", ""},
		{`spock.sub_enable('none')`, "XX000", "subscriber none not found", "", ""},
		{`spock.sub_disable('none')`, "XX000", "subscriber none not found", "", ""},
		{`spock.sub_show_status('none')`, "XX000", "subscriber none not found", "", ""},
		{`spock.sub_wait_for_sync('none')`, "XX000", "subscriber none not found", "", ""},
		{`spock.sub_alter_interface('first', 'none')`, "XX000", `node interface "none" not found for nod ` +
			n.text(t, `pgdrover.node_id('p1')`), "", ""},
		{`spock.node_drop('s1')`, "55000", `cannot drop node "s1" because it still has subscriptions associated with it`, "", "drop the subscriptions first"},
		{`spock.node_drop('p1')`, "55000", `cannot drop node "p1" because it still has subscriptions associated with it`, "", "drop the subscriptions first"},
		{
			`spock.node_drop_interface('p1', 'p1')`, "55000",
			`cannot drop interface "p1" for node "p1" because subscription "first" is using it`, "", "change the subscription interface first",
		},
		{`spock.sub_alter_options('first', '[]')`, "22023", "subscription options must be a JSON object", "", ""},
		{`spock.sub_alter_options('first', '{"skip_schema": "x"}')`, "22023", `option "skip_schema" must be a JSON array of strings`, "", ""},
		{`spock.sub_alter_options('first', '{"skip_schema": [1]}')`, "22023", `option "skip_schema" must contain only strings`, "", ""},
		{`spock.sub_alter_options('first', '{"colour": "red"}')`, "22023", `unknown subscription option "colour"`, "", ""},
		{`spock.sub_resync_table('first', 'spock.node')`, "22023", "table spock.node is never replicated", "", ""},
	})
	err := n.refused(t, `SELECT spock.sub_create('second', $1)`, nothing)
	require.Contains(t, err.Message, "could not connect to the postgresql server: ")
	require.Contains(t, err.Message, "does not exist")
	require.Equal(t, "dsn was: "+nothing, err.Detail)
	err = n.refused(t, `SELECT spock.sub_create('second', $1)`, database(t))
	require.Contains(t, err.Message, "could not fetch remote node info: ")

	n.exec(t, `CREATE TABLE t (id int PRIMARY KEY)`)
	n.refuses(t, []refusal{{
		`spock.table_wait_for_sync('first', 't')`, "XX000",
		fmt.Sprintf("subscription %s table public.t status not found", n.text(t, `pgdrover.subscription_id('first')`)), "", "",
	}})
	for _, call := range []struct{ sql, code, message string }{
		{`SELECT spock.sub_disable('first', true)`, "25001", "alter_subscription_disable with immediate = true cannot be run inside a transaction block"},
		{`SELECT spock.sub_enable('first', true)`, "25001", "alter_subscription_enable with immediate = true cannot be run inside a transaction block"},
	} {
		n.exec(t, `BEGIN`)
		err := n.refused(t, call.sql)
		require.Equal(t, call.message, err.Message)
		require.Equal(t, call.code, err.Code)
		n.exec(t, `ROLLBACK`)
	}
	n.exec(t, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
	require.Equal(t, "cannot wait for sync in REPEATABLE READ or SERIALIZABLE isolation",
		n.refused(t, `SELECT spock.sub_wait_for_sync('first')`).Message)
	n.exec(t, `ROLLBACK`)
	require.Equal(t, "1", n.text(t, `SELECT count(*) FROM spock.subscription`), "nothing half made")
	require.Equal(t, "2", n.text(t, `SELECT count(*) FROM spock.node`))
}

func TestWaitForSyncEventRefusals(t *testing.T) {
	t.Parallel()
	provider, n := create(t, "p1"), create(t, "s1")
	ids := n.text(t, `pgdrover.node_id('p1')`) + " => " + n.text(t, `pgdrover.node_id('s1')`)
	refused := func(call, message string) {
		t.Helper()
		err := n.refused(t, "CALL "+call)
		require.Equal(t, message, err.Message)
		require.Equal(t, "P0001", err.Code)
	}
	refused(`spock.wait_for_sync_event(NULL, 'p1'::name, '0/0')`, "Origin node 'p1' not found")
	refused(`spock.wait_for_sync_event(NULL, NULL::oid, '0/0')`, "Invalid NULL origin_id")
	refused(`spock.wait_for_sync_event(NULL, pgdrover.node_id('p1'), '0/0')`, "No subscription found for replication "+ids)
	n.exec(t, `SELECT spock.sub_create('sub', $1, enabled := false)`, provider.dsn)
	refused(`spock.wait_for_sync_event(NULL, 'p1', '0/0', 1)`, "Subscription "+ids+" has been disabled")
	var reached bool
	require.NoError(t, n.sql.QueryRow(t.Context(), `CALL spock.wait_for_sync_event(NULL, 'p1', '0/1', 1, true)`).Scan(&reached))
	require.False(t, reached)
	n.exec(t, `SELECT pg_replication_origin_advance('spk_' || current_database() || '_p1_sub', '0/100')`)
	require.NoError(t, n.sql.QueryRow(t.Context(), `CALL spock.wait_for_sync_event(NULL, 'p1', '0/100', 1, true)`).Scan(&reached))
	require.True(t, reached)
	ok, err := n.db.WaitForSyncEvent(t.Context(), "p1", 0x100, 1, true)
	require.NoError(t, err)
	require.True(t, ok)
}

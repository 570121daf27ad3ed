package pgautofailover_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// citusGroups makes node 1 the coordinator and the others a worker's group.
const citusGroups = `UPDATE pgautofailover.formation SET kind = 'citus';
	UPDATE pgautofailover.node SET groupid = 1 WHERE nodeid > 1`

// refusals are the documented refusals, in the words that clients see. Nodes
// are given as "reported/goal", with ! for priority 0, - for no quorum and ?
// for a server that is down.
var refusals = []struct {
	name  string
	nodes string
	setup string
	call  string

	code, message, detail, hint string
	severity                    string // ERROR when empty
}{
	// Registration.
	{
		name: "register: unknown formation",
		call: `register_node('nope', 'h', 1, 'postgres')`,
		code: "42P17", message: `formation "nope" does not exist`,
		hint: "Use `pg_autoctl create formation` to create the target formation first",
	},
	{
		name: "register: unknown kind",
		call: `register_node('default', 'h', 1, 'postgres', node_kind => 'sofa')`,
		code: "22023", message: `unknown formation kind "sofa"`,
	},
	{
		name: "register: kind of formation", nodes: "single/single",
		call: `register_node('default', 'h', 1, 'postgres', node_kind => 'worker')`,
		code: "XX000", message: `node h:1 of kind "worker" can not be registered in formation "default" of kind "pgsql"`,
	},
	{
		name: "register: database", nodes: "single/single",
		call: `register_node('default', 'h', 1, 'app')`,
		code: "XX000", message: `node h:1 with dbname "app" can not be registered in formation "default" which expects dbname "postgres"`,
	},
	{
		name: "register: group of pgsql",
		call: `register_node('default', 'h', 1, 'postgres', desired_group_id => 2)`,
		code: "XX000", message: `node h:1 can not be registered in group 2 in formation "default" of type pgsql`,
		detail: `in a pgsql formation, there can be only one group, with groupId 0`,
	},
	{
		name: "register: no secondary", nodes: "single/single",
		setup: `UPDATE pgautofailover.formation SET opt_secondary = false`,
		call:  `register_node('default', 'h', 1, 'postgres')`,
		code:  "55000", message: `Formation "default" does not allow secondary nodes`, hint: `use pg_autoctl enable secondary`,
	},
	{
		name: "register: no primary", nodes: "demoted/demoted",
		call: `register_node('default', 'h', 1, 'postgres')`,
		code: "55006", message: `JoinAutoFailoverFormation couldn't find the  primary node in formation "default", group 0`,
		hint: `Retry registering in a moment`,
	},
	{
		name: "register: empty group and priority 0",
		call: `register_node('default', 'h', 1, 'postgres', candidate_priority => 0)`,
		code: "55006", message: `JoinAutoFailoverFormation couldn't find the  primary node in formation "default", group 0`,
		hint: `Retry registering in a moment`,
	},
	{
		name: "register: priority",
		call: `register_node('default', 'h', 1, 'postgres', candidate_priority => 101)`,
		code: "22023", message: `invalid value for candidate_priority "101" expected an integer value between 0 and 100`,
	},
	{
		name: "register: state",
		call: `register_node('default', 'h', 1, 'postgres', sysidentifier => 1, initial_group_role => 'wait_standby')`,
		code: "XX000", message: `node h:1 can not be registered in state wait_standby, it should be in state single`,
	},
	{
		name: "register: same address", nodes: "single/single",
		call: `register_node('default', 'h1', 1, 'postgres')`,
		code: "23505", message: `duplicate key value violates unique constraint "node_nodehost_nodeport_key"`,
		detail: `Key (nodehost, nodeport)=(h1, 1) already exists.`,
	},
	{
		name: "register: same name", nodes: "single/single",
		call: `register_node('default', 'h', 9, 'postgres', node_name => 'n1')`,
		code: "23505", message: `duplicate key value violates unique constraint "node_formationid_nodename_key"`,
		detail: `Key (formationid, nodename)=(default, n1) already exists.`,
	},
	{
		name: "register: system identifier", nodes: "single/single", setup: `SET CONSTRAINTS ALL IMMEDIATE`,
		call: `register_node('default', 'h', 9, 'postgres', sysidentifier => 2)`,
		code: "23P01", message: `conflicting key value violates exclusion constraint "same_system_identifier_within_group"`,
		detail: `Key (formationid, groupid, sysidentifier)=(default, 0, 2) conflicts with existing key ` +
			`(formationid, groupid, sysidentifier)=(default, 0, 1).`,
	},

	// Reports.
	{
		name: "report: unknown node", call: `node_active('default', 7, 0)`,
		code: "42704", message: `couldn't find node with nodeid 7`,
	},
	{
		name: "report: formation", nodes: "single/single", call: `node_active('other', 1, 0)`,
		code: "42P17", message: `node 1 does not belong to formation other`,
	},
	{
		name: "report: sync state", nodes: "single/single",
		call: `node_active('default', 1, 0, 'single', true, 1, '0/0', 'semi')`,
		code: "22023", message: `unknown pg_stat_replication.sync_state "semi"`,
	},

	// Removal.
	{
		name: "remove: unknown id", call: `remove_node(7)`,
		code: "42704", message: `couldn't find node with nodeid 7`,
	},
	{
		name: "remove: unknown address", call: `remove_node('nowhere')`,
		code: "42704", message: `couldn't find node with hostname "nowhere" and port 5432`,
	},

	// Failover.
	{
		name: "failover: alone", nodes: "single/single", call: `perform_failover()`,
		code: "XX000", message: `cannot fail over: group 0 in formation default currently has 1 node registered`,
		detail: `At least 2 nodes are required to implement a failover`,
	},
	{
		name: "failover: no primary", nodes: "wait_primary/wait_primary catchingup/catchingup", call: `perform_failover()`,
		code: "XX000", message: `couldn't find the primary node in formation "default", group 0`,
	},
	{
		name: "failover: standby", nodes: "primary/primary catchingup/catchingup", call: `perform_failover()`,
		code: "XX000", message: `standby node 2 "n2" (h2:2) is in state "catchingup", which prevents the node for being a failover candidate`,
	},
	{
		name: "failover: unstable", nodes: "primary/primary catchingup/secondary", call: `perform_failover()`,
		code: "XX000", message: `cannot fail over: primary node is not in a stable state`,
		detail: `node 1 "n1" (h1:1) has reported state "primary" and is assigned state "primary", and node 2 "n2" (h2:2) ` +
			`has reported state "catchingup" and is assigned state "secondary"`,
		hint: `a stable state must be observed to perform a manual failover`,
	},
	{
		name: "failover: priority 0", nodes: "primary/primary secondary/secondary!", call: `perform_failover()`,
		code: "XX000", message: `cannot fail over: standby node 2 "n2" (h2:2) has candidate priority set to zero`,
		detail: `Set a candidate priority greater than zero on node 2 "n2" (h2:2), or promote it by name`,
	},
	{
		name: "failover: nobody to lose data for", setup: `SET LOCAL pgautofailover.guard_data_loss = off`,
		call: `perform_failover()`,
		code: "XX000", message: `cannot fail over: group 0 in formation default currently has 0 node registered`,
		detail: `At least 2 nodes are required to implement a failover`,
	},

	// Promotion.
	{
		name: "promotion: unknown", call: `perform_promotion('default', 'x')`,
		code: "42704", message: `node "x" is not registered in formation "default"`,
	},
	{
		name: "promotion: primary", nodes: "primary/primary secondary/secondary", call: `perform_promotion('default', 'n1')`,
		severity: "NOTICE", code: "55000",
		message: `cannot perform promotion: node n1 in formation default is already a primary.`,
	},
	{
		name: "promotion: state", nodes: "primary/primary catchingup/secondary", call: `perform_promotion('default', 'n2')`,
		code: "55000", message: `cannot perform promotion: node n2 in formation default has reported state "catchingup" ` +
			`and is assigned state "secondary", promotion can only be performed when in state "secondary".`,
	},

	// Maintenance.
	{
		name: "start maintenance: state", nodes: "wait_primary/wait_primary wait_standby/catchingup", call: `start_maintenance(2)`,
		code: "55000", message: `cannot start maintenance: node h2:2 has reported state "wait_standby" and is assigned ` +
			`state "catchingup", expected either "primary", "secondary" or "catchingup"`,
	},
	{
		name: "start maintenance: no primary", nodes: "demoted/demoted secondary/secondary", call: `start_maintenance(2)`,
		code: "XX000", message: `couldn't find the primary node in formation "default", group 0`,
	},
	{
		name: "start maintenance: no candidate", nodes: "primary/primary secondary/secondary!", call: `start_maintenance(1)`,
		code: "55000", message: `Starting maintenance on node 1 "n1" (h1:1) in state "primary" is not currently possible`,
		detail: `there is currently 0 candidate nodes available`,
	},
	{
		name: "start maintenance: primary busy", nodes: "wait_primary/wait_primary secondary/secondary", call: `start_maintenance(2)`,
		code: "55000", message: `cannot start maintenance: current state for node 2 "n2" (h2:2) is "secondary", expected ` +
			`"secondary" or "catchingup", and current state for primary node 1 "n1" (h1:1) is "wait_primary" ➜ "wait_primary" `,
	},
	{
		name: "start maintenance: blocks writes", nodes: "primary/primary secondary/secondary catchingup/catchingup",
		setup: `UPDATE pgautofailover.formation SET number_sync_standbys = 1`, call: `start_maintenance(2)`,
		severity: "WARNING", code: "55000",
		message: `Starting maintenance on node 2 "n2" (h2:2) will block writes on the primary node 1 "n1" (h1:1)`,
		detail: `we now have 0 healthy node(s) left in the "secondary" state and formation "default" number-sync-standbys ` +
			`requires 1 sync standbys`,
	},
	{
		name: "stop maintenance: state", nodes: "primary/primary secondary/secondary", call: `stop_maintenance(2)`,
		code: "55000", message: `cannot stop maintenance when current state for node 2 "n2" (h2:2) is not "maintenance"`,
		detail: `Current reported state is "secondary" and assigned state is "secondary"`,
	},

	// Settings of nodes.
	{
		name: "priority: unknown", call: `set_node_candidate_priority('default', 'x', 1)`,
		code: "42704", message: `node "x" is not registered in formation "default"`,
	},
	{
		name: "priority: range", nodes: "single/single", call: `set_node_candidate_priority('default', 'n1', 101)`,
		code: "22023", message: `invalid value for candidate_priority "101" expected an integer value between 0 and 100`,
	},
	{
		name: "priority: read replica", nodes: "single/single", setup: `UPDATE pgautofailover.node SET nodecluster = 'ro'`,
		call: `set_node_candidate_priority('default', 'n1', 1)`,
		code: "22023", message: `invalid value for candidate_priority: read-replica nodes in a citus cluster must always ` +
			`have candidate priority set to zero`,
	},
	{
		name: "priority: no candidate left", nodes: "primary/primary secondary/secondary",
		call:     `set_node_candidate_priority('default', 'n2', 0)`,
		severity: "NOTICE", code: "55000", message: `setting candidate priority to zero, preventing automated failover`,
		detail: `Group 0 in formation "default" have no failover candidate.`,
	},
	{
		name: "priority: applying", nodes: "apply_settings/apply_settings secondary/secondary",
		call: `set_node_candidate_priority('default', 'n2', 1)`,
		code: "55000", message: `cannot set candidate priority when current state for primary node 1 "n1" (h1:1) is "apply_settings"`,
	},
	{
		name: "quorum: unknown", call: `set_node_replication_quorum('default', 'x', true)`,
		code: "42704", message: `node "x" is not registered in formation "default"`,
	},
	{
		name: "quorum: no primary", nodes: "demoted/demoted secondary/secondary",
		call: `set_node_replication_quorum('default', 'n2', false)`,
		code: "XX000", message: `Couldn't find the primary node in formation "default", group 0`,
	},
	{
		name: "quorum: too few", nodes: "primary/primary secondary/secondary secondary/secondary",
		setup: `UPDATE pgautofailover.formation SET number_sync_standbys = 1`,
		call:  `set_node_replication_quorum('default', 'n2', false)`,
		code:  "22023", message: `can't set replication quorum to false`,
		detail: `At least 2 standby nodes are required in formation default with number_sync_standbys = 1, and only 1 ` +
			`would be participating in the replication quorum`,
	},
	{
		name: "quorum: applying", nodes: "apply_settings/apply_settings secondary/secondary",
		call: `set_node_replication_quorum('default', 'n2', false)`,
		code: "55000", message: `cannot set replication quorum when current state for primary node 1 "n1" (h1:1) is "apply_settings"`,
	},
	{
		name: "region: empty", nodes: "single/single", call: `set_node_region('default', 'n1', '')`,
		code: "22023", message: `invalid value for region: expected a non-empty string`,
	},
	{
		name: "region: unknown", call: `set_node_region('default', 'x', 'r')`,
		code: "42704", message: `node "x" is not registered in formation "default"`,
	},

	// Settings of formations.
	{
		name: "number: unknown formation", call: `set_formation_number_sync_standbys('nope', 1)`,
		code: "22023", message: `unknown formation "nope"`,
	},
	{
		name: "number: negative", call: `set_formation_number_sync_standbys('default', -1)`,
		code: "22023", message: `invalid value for number_sync_standbys: "-1"`, detail: `A non-negative integer is expected`,
	},
	{
		name: "number: no primary", call: `set_formation_number_sync_standbys('default', 1)`,
		code: "XX000", message: `Couldn't find the primary node in formation "default", group 0`,
	},
	{
		name: "number: unstable", nodes: "primary/apply_settings secondary/secondary",
		call: `set_formation_number_sync_standbys('default', 0)`,
		code: "55000", message: `cannot set number_sync_standbys when current goal state for primary node 1 "n1" (h1:1) is ` +
			`"apply_settings", and current reported state is "primary"`,
		detail: `The primary node so must be in state "primary" or "wait_primary" to be able to apply configuration changes ` +
			`to its synchronous_standby_names setting`,
	},
	{
		name: "number: too few", nodes: "primary/primary secondary/secondary secondary/secondary-",
		call: `set_formation_number_sync_standbys('default', 1)`,
		code: "22023", message: `invalid value for number_sync_standbys: "1"`,
		detail: `At least 2 standby nodes are required, and only 1 are currently participating in the replication quorum`,
	},
	{
		name: "formation: unknown kind", call: `create_formation('f', 'sofa', 'postgres', true, 0)`,
		code: "22023", message: `unknown formation kind "sofa"`,
	},
	{
		name: "formation: no kind", call: `create_formation('f', '', 'postgres', true, 0)`,
		code: "23514", message: `new row for relation "formation" violates check constraint "formation_kind_check"`,
		detail: `Failing row contains (f, , postgres, t, 0).`,
	},
	{
		name: "formation: exists", call: `create_formation('default', 'pgsql', 'postgres', true, 0)`,
		code: "23505", message: `duplicate key value violates unique constraint "formation_pkey"`,
		detail: `Key (formationid)=(default) already exists.`,
	},
	{
		name: "drop formation: nodes", nodes: "single/single", call: `drop_formation('default')`,
		code: "23503", message: `update or delete on table "formation" violates foreign key constraint "node_formationid_fkey" on table "node"`,
		detail: `Key (formationid)=(default) is still referenced from table "node".`,
	},
	{
		name: "drop formation: unknown", call: `drop_formation('nope')`,
		code: "XX000", message: `couldn't find formation "nope"`,
	},
	{
		name: "disable secondary", nodes: "primary/primary secondary/secondary", call: `disable_secondary('default')`,
		code: "55000", message: `formation has nodes that are not in SINGLE state`, detail: `nodeid 1 is in state primary`,
		hint: `drop secondary nodes before disabling secondaries on formation`,
	},

	// Others.
	{
		name: "metadata: no id", call: `update_node_metadata(NULL, 'n', 'h', 1)`,
		code: "XX000", message: `udpate_node_metadata requires a non-null nodeid`,
	},
	{
		name: "metadata: unknown", call: `update_node_metadata(7, 'n', 'h', 1)`,
		code: "42704", message: `node 7 is not registered`,
	},
	{
		name: "metadata: same address", nodes: "primary/primary secondary/secondary",
		call: `update_node_metadata(2, NULL, 'h1', 1)`,
		code: "23505", message: `duplicate key value violates unique constraint "node_nodehost_nodeport_key"`,
		detail: `Key (nodehost, nodeport)=(h1, 1) already exists.`,
	},
	{
		name: "names: no node", call: `synchronous_standby_names()`,
		code: "42P17", message: `no nodes found in group 0 of formation "default"`,
	},
	{name: "nodes: no formation", call: `get_nodes(NULL)`, code: "XX000", message: `formation_id must not be null`},
	{name: "other nodes", call: `get_other_nodes(7)`, code: "42704", message: `node 7 is not registered`},
	{
		name: "primary: none", nodes: "report_lsn/report_lsn", call: `get_primary()`,
		code: "XX000", message: `group has no writable node right now`,
	},
	{
		name: "accept timeline", nodes: "single/single", call: `accept_timeline('default', 0, 9, 'me')`,
		code: "P0001", message: `timeline 9 has never been reported by any node in formation "default" group 0`,
	},
	{
		name: "switchover of a worker: the coordinator fails over", nodes: "draining/draining primary/primary secondary/secondary", setup: citusGroups,
		call: `perform_failover('default', 1)`,
		code: "55000", message: `cannot change the primary of group 1 in formation "default" now: the coordinator does not take writes`,
		detail: `no node of group 0 is in state "single", "wait_primary" or "primary"`,
		hint:   "The coordinator has to lead writes to the group's new primary. Try again once group 0 takes writes, as `pg_autoctl show state` tells.",
	},
	{
		name: "switchover of a worker: the coordinator is down", nodes: "primary/primary? primary/primary secondary/secondary", setup: citusGroups,
		call: `perform_failover('default', 1)`,
		code: "55000", message: `cannot change the primary of group 1 in formation "default" now: the coordinator does not take writes`,
		detail: `node 1 "n1" (h1:1) does not answer`,
		hint:   "The coordinator has to lead writes to the group's new primary. Try again once group 0 takes writes, as `pg_autoctl show state` tells.",
	},
	{
		name: "promotion of a worker: the coordinator is down", nodes: "primary/primary? primary/primary secondary/secondary", setup: citusGroups,
		call: `perform_promotion('default', 'n3')`,
		code: "55000", message: `cannot change the primary of group 1 in formation "default" now: the coordinator does not take writes`,
		detail: `node 1 "n1" (h1:1) does not answer`,
		hint:   "The coordinator has to lead writes to the group's new primary. Try again once group 0 takes writes, as `pg_autoctl show state` tells.",
	},
	{
		name: "maintenance of a worker's primary: the coordinator is down", nodes: "primary/primary? primary/primary secondary/secondary", setup: citusGroups,
		call: `start_maintenance(2)`,
		code: "55000", message: `cannot change the primary of group 1 in formation "default" now: the coordinator does not take writes`,
		detail: `node 1 "n1" (h1:1) does not answer`,
		hint:   "The coordinator has to lead writes to the group's new primary. Try again once group 0 takes writes, as `pg_autoctl show state` tells.",
	},
}

// addNodes inserts nodes n1, n2, … at h1:1, h2:2, ….
func addNodes(t *testing.T, tx pgx.Tx, nodes string) {
	t.Helper()
	for i, spec := range strings.Fields(nodes) {
		states := strings.TrimRight(spec, "!-?")
		marks := spec[len(states):]
		reported, goal, ok := strings.Cut(states, "/")
		require.True(t, ok, spec)
		priority := 50
		if strings.Contains(marks, "!") {
			priority = 0
		}
		_, err := tx.Exec(t.Context(), `
			INSERT INTO pgautofailover.node (nodeid, groupid, nodename, nodehost, nodeport, sysidentifier, reportedstate,
			            goalstate, candidatepriority, replicationquorum, reportedpgisrunning, health, reachednumber)
			VALUES ($1::int, 0, 'n' || $1::int, 'h' || $1::int, $1::int, 1, $2::text::pgautofailover.replication_state,
			        $3::text::pgautofailover.replication_state, $4, $5, $6, 1, $7)`,
			i+1, reported, goal, priority, !strings.Contains(marks, "-"), !strings.Contains(marks, "?"),
			map[bool]int{true: 1}[reported == goal])
		require.NoError(t, err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.decide(t)
	config, err := pgx.ParseConfig(m.dsn)
	require.NoError(t, err)
	var notices []*pgconn.Notice
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n) }
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()

	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			tx, err := conn.Begin(t.Context())
			require.NoError(t, err)
			defer func() { require.NoError(t, tx.Rollback(t.Context())) }()
			addNodes(t, tx, c.nodes)
			_, err = tx.Exec(t.Context(), c.setup)
			require.NoError(t, err)
			notices = nil
			_, err = tx.Exec(t.Context(), "SELECT * FROM pgautofailover."+c.call)
			if c.severity == "" {
				var got *pgconn.PgError
				require.ErrorAs(t, err, &got)
				require.Equal(t, "ERROR "+c.code+" "+c.message, got.SeverityUnlocalized+" "+got.Code+" "+got.Message)
				require.Equal(t, c.detail, got.Detail)
				require.Equal(t, c.hint, got.Hint)
				require.Equal(t, c.name == "primary: none", pgautofailover.IsBetweenPrimaries(err))
				return
			}
			require.NoError(t, err)
			require.Len(t, notices, 1)
			got := notices[0]
			require.Equal(t, c.severity+" "+c.code+" "+c.message, got.SeverityUnlocalized+" "+got.Code+" "+got.Message)
			require.Equal(t, c.detail, got.Detail)
			require.Equal(t, c.hint, got.Hint)
		})
	}
}

// TestNoDecider: requests are refused when nobody would take them up, facts are kept.
func TestNoDecider(t *testing.T) {
	t.Parallel()
	m := install(t)
	conn := pgtest.Connect(t, m.dsn)
	refused := []string{
		`perform_failover()`, `perform_promotion('default', 'n2')`, `start_maintenance(2)`, `stop_maintenance(3)`,
		`remove_node(2)`, `remove_node('h2', 2)`,
	}
	kept := []string{
		`remove_node(2, force => true)`, `set_node_candidate_priority('default', 'n2', 3)`,
		`set_node_replication_quorum('default', 'n2', false)`, `set_formation_number_sync_standbys('default', 0)`,
		`register_node('default', 'h', 9, 'postgres', desired_node_id => 9)`, `node_active('default', 2, 0, 'secondary')`,
	}
	for _, call := range append(refused, kept...) {
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		addNodes(t, tx, "primary/primary secondary/secondary maintenance/maintenance")
		_, err = tx.Exec(t.Context(), "SELECT * FROM pgautofailover."+call)
		if len(refused) > 0 {
			refused = refused[1:]
			var got *pgconn.PgError
			require.ErrorAs(t, err, &got, call)
			require.Equal(t, "55000", got.Code)
			require.Contains(t, got.Message, "the monitor process is not running")
			require.NotEmpty(t, got.Hint)
		} else {
			require.NoError(t, err, call)
		}
		require.NoError(t, tx.Rollback(t.Context()))
	}
}

// TestAnswers: what functions return when they do not refuse.
func TestAnswers(t *testing.T) {
	t.Parallel()
	m := install(t)
	m.decide(t)
	conn := pgtest.Connect(t, m.dsn)
	const three = "primary/primary secondary/secondary secondary/secondary"
	for _, c := range []struct {
		nodes, setup, call, answer string
		intents                    string // kind and node of what is stored
	}{
		{three, ``, `perform_failover()`, ``, `failover 0 false`},
		{
			"wait_primary/wait_primary catchingup/catchingup", `SET LOCAL pgautofailover.guard_data_loss = off`,
			`perform_failover()`, ``, `failover 0 true`,
		},
		{"demoted/demoted report_lsn/report_lsn!", ``, `perform_failover()`, ``, `failover 0 false`},
		{three, ``, `perform_promotion('default', 'n3')`, `true`, `promotion 3 false`},
		{"primary/primary primary/primary secondary/secondary", citusGroups, `perform_failover('default', 1)`, ``, `failover 0 false`},
		{"primary/primary? primary/primary secondary/secondary", citusGroups, `start_maintenance(3)`, `true`, `start_maintenance 3 false`},
		{
			"primary/primary? primary/primary secondary/secondary", citusGroups + `; SET LOCAL pgautofailover.guard_data_loss = off`,
			`perform_failover('default', 1)`, ``, `failover 0 true`,
		},
		{"primary/primary? draining/draining report_lsn/report_lsn", citusGroups, `perform_failover('default', 1)`, ``, `failover 0 false`},
		{three, ``, `perform_promotion('default', 'n1')`, `false`, ``},
		{three, ``, `start_maintenance(2)`, `true`, `start_maintenance 2 false`},
		{three, ``, `start_maintenance(9)`, `false`, ``},
		{three, ``, `stop_maintenance(9)`, `false`, ``},
		{"primary/primary maintenance/maintenance", ``, `start_maintenance(2)`, `true`, ``},
		{"primary/primary secondary/maintenance", ``, `start_maintenance(2)`, `true`, ``},
		{"primary/primary maintenance/maintenance", ``, `stop_maintenance(2)`, `true`, `stop_maintenance 2 false`},
		{"maintenance/maintenance", ``, `stop_maintenance(1)`, `true`, `stop_maintenance 1 false`},
		{three, ``, `remove_node(2)`, `true`, `remove 2 false`},
		{"primary/primary secondary/dropped", ``, `remove_node(2)`, `true`, ``},
		{"primary/primary dropped/dropped", ``, `remove_node(2)`, `true`, `removed 2 false`},
		{three, ``, `remove_node('h1', 1, true)`, `true`, `removed 1 false`},
		{three, ``, `set_node_candidate_priority('default', 'n2', 7)`, `true`, `settings 2 false updating node 2 "n2" (h2:2) candidate priority to 7`},
		{three, ``, `set_node_replication_quorum('default', 'n2', false)`, `true`, `settings 2 false updating node 2 "n2" (h2:2) replication quorum to false`},
		{"single/single", ``, `set_node_replication_quorum('default', 'n1', false)`, `true`, ``},
		{three, ``, `set_formation_number_sync_standbys('default', 1)`, `true`, `settings 0 false updating number_sync_standbys to 1 for formation default`},
		{three, ``, `enable_secondary('default')`, `false`, ``},
		{three, ``, `set_node_region('default', 'n1', 'west')`, `true`, ``},
		{three, ``, `get_primary()`, `(1,n1,h1,1)`, ``},
		{"primary/draining prepare_promotion/prepare_promotion", ``, `get_primary()`, `(1,n1,h1,1)`, ``},
		{"draining/draining stop_replication/wait_primary", ``, `get_primary()`, `(2,n2,h2,2)`, ``},
		{three, ``, `get_other_nodes(2, 'primary')`, `(1,n1,h1,1,0/0,t)`, ``},
		{three, ``, `get_nodes(group_id => 3)`, `none`, ``},
		{"report_lsn/report_lsn", ``, `get_most_advanced_standby(caller_node_id => 1)`, `none`, ``},
		{"report_lsn/report_lsn", ``, `get_most_advanced_standby()`, `(1,n1,h1,1,0/0,f)`, ``},
		{three, ``, `get_coordinator()`, `none`, ``},
		{three, ``, `synchronous_standby_names()`, ``, ``},
		{"secondary/prepare_promotion primary/draining", ``, `synchronous_standby_names()`, ``, ``},
		{"primary/primary secondary/secondary", ``, `formation_uri()`, `postgres://h1:1,h2:2/postgres?target_session_attrs=read-write&sslmode=prefer`, ``},
		{"primary/primary", ``, `formation_uri(sslmode => 'verify-ca', sslrootcert => '/a', sslcrl => '/b')`, `postgres://h1:1/postgres?target_session_attrs=read-write&sslmode=verify-ca&sslrootcert=/a&sslcrl=/b`, ``},
		{"primary/primary", `UPDATE pgautofailover.node SET nodecluster = 'ro'`, `formation_uri('default', 'ro')`, `postgres://h1:1/postgres?sslmode=prefer`, ``},
		{three, ``, `formation_uri('none')`, `NULL`, ``},
		{three, ``, `create_formation('f', 'citus', 'app', false, 0)`, `(f,citus,app,f,0)`, ``},
		{three, ``, `accept_timeline('default', 0, 1)`, `true`, ``},
		{three, ``, `resolve_accepted_timeline('default', 0)`, `true`, ``},
		{"primary/primary", ``, `node_timeline_status('default', 0)`, `(1,n1,1,0/0,1,t)`, ``},
	} {
		t.Run(strings.ReplaceAll(c.call, "/", "|"), func(t *testing.T) { // a slash would name subtests
			tx, err := conn.Begin(t.Context())
			require.NoError(t, err)
			defer func() { require.NoError(t, tx.Rollback(t.Context())) }()
			addNodes(t, tx, c.nodes)
			_, err = tx.Exec(t.Context(), c.setup)
			require.NoError(t, err)
			var answer string
			err = tx.QueryRow(t.Context(), fmt.Sprintf(
				`SELECT coalesce((SELECT coalesce(x::text, 'NULL') FROM pgautofailover.%s x LIMIT 1), 'none')`, c.call)).Scan(&answer)
			require.NoError(t, err)
			require.Equal(t, c.answer, answer)
			var intents string
			require.NoError(t, tx.QueryRow(t.Context(), `
				SELECT coalesce(string_agg(trim(concat_ws(' ', kind, coalesce(nodeid, 0), allow_data_loss::text, text)), ', '), '')
				  FROM pgautofailover.intent`).Scan(&intents))
			require.Equal(t, c.intents, intents)
		})
	}
}

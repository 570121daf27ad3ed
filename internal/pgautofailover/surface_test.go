package pgautofailover_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// surface is the documented interface: arguments with their defaults, and results. Clients use named notation.
const surface = `
check_fsm_reachability(keeper_edges jsonb, OUT pos integer, OUT current_state pgautofailover.replication_state, OUT assigned_state pgautofailover.replication_state, OUT comment text) SETOF record
dump_fsm_edges(OUT pos integer, OUT current_state pgautofailover.replication_state, OUT assigned_state pgautofailover.replication_state) SETOF record
accept_timeline(formation_id text, group_id integer, target_tli integer, decided_by text DEFAULT NULL::text) boolean definer
create_formation(formation_id text, kind text, dbname name, opt_secondary boolean, number_sync_standbys integer, OUT formation_id text, OUT kind text, OUT dbname name, OUT opt_secondary boolean, OUT number_sync_standbys integer) record strict definer
current_state(formation_id text DEFAULT 'default'::text, OUT formation_kind text, OUT nodename text, OUT nodehost text, OUT nodeport integer, OUT group_id integer, OUT node_id bigint, OUT current_group_state pgautofailover.replication_state, OUT assigned_group_state pgautofailover.replication_state, OUT candidate_priority integer, OUT replication_quorum boolean, OUT reported_tli integer, OUT reported_lsn pg_lsn, OUT health integer, OUT nodecluster text, OUT noderegion text) SETOF record strict
current_state(formation_id text, group_id integer, OUT formation_kind text, OUT nodename text, OUT nodehost text, OUT nodeport integer, OUT group_id integer, OUT node_id bigint, OUT current_group_state pgautofailover.replication_state, OUT assigned_group_state pgautofailover.replication_state, OUT candidate_priority integer, OUT replication_quorum boolean, OUT reported_tli integer, OUT reported_lsn pg_lsn, OUT health integer, OUT nodecluster text, OUT noderegion text) SETOF record strict
disable_secondary(formation_id text) boolean strict definer
drop_formation(formation_id text) void strict definer
enable_secondary(formation_id text) boolean strict definer
formation_settings(formation_id text DEFAULT 'default'::text, OUT context text, OUT group_id integer, OUT node_id bigint, OUT nodename text, OUT setting text, OUT value text) SETOF record strict
formation_uri(formation_id text DEFAULT 'default'::text, cluster_name text DEFAULT 'default'::text, sslmode text DEFAULT 'prefer'::text, sslrootcert text DEFAULT ''::text, sslcrl text DEFAULT ''::text) text strict
get_coordinator(formation_id text DEFAULT 'default'::text, OUT node_host text, OUT node_port integer) SETOF record strict
get_most_advanced_standby(formationid text DEFAULT 'default'::text, groupid integer DEFAULT 0, caller_node_id bigint DEFAULT 0, OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer, OUT node_lsn pg_lsn, OUT node_is_primary boolean) SETOF record strict
get_nodes(formation_id text DEFAULT 'default'::text, group_id integer DEFAULT NULL::integer, OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer, OUT node_lsn pg_lsn, OUT node_is_primary boolean) SETOF record
get_other_nodes(nodeid bigint, OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer, OUT node_lsn pg_lsn, OUT node_is_primary boolean) SETOF record strict
get_other_nodes(nodeid bigint, current_state pgautofailover.replication_state, OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer, OUT node_lsn pg_lsn, OUT node_is_primary boolean) SETOF record strict
get_primary(formation_id text DEFAULT 'default'::text, group_id integer DEFAULT 0, OUT primary_node_id bigint, OUT primary_name text, OUT primary_host text, OUT primary_port integer) record strict definer
keeper_list(node_id bigint, goal_number bigint) text strict
last_events(count integer DEFAULT 10) SETOF pgautofailover.event strict
last_events(formation_id text DEFAULT 'default'::text, count integer DEFAULT 10) SETOF pgautofailover.event strict
last_events(formation_id text, group_id integer, count integer DEFAULT 10) SETOF pgautofailover.event strict
node_active(formation_id text, node_id bigint, group_id integer, current_group_role pgautofailover.replication_state DEFAULT 'init'::pgautofailover.replication_state, current_pg_is_running boolean DEFAULT true, current_tli integer DEFAULT 1, current_lsn pg_lsn DEFAULT '0/0'::pg_lsn, current_rep_state text DEFAULT ''::text, OUT assigned_node_id bigint, OUT assigned_group_id integer, OUT assigned_group_state pgautofailover.replication_state, OUT assigned_candidate_priority integer, OUT assigned_replication_quorum boolean) record strict definer
node_timeline_status(formation_id text, group_id integer, OUT node_id bigint, OUT node_name text, OUT tli integer, OUT lsn pg_lsn, OUT reference_tli integer, OUT on_accepted_lineage boolean) SETOF record
perform_failover(formation_id text DEFAULT 'default'::text, group_id integer DEFAULT 0) void strict definer
perform_promotion(formation_id text, node_name text) boolean strict definer
register_node(formation_id text, node_host text, node_port integer, dbname name, node_name text DEFAULT ''::text, sysidentifier bigint DEFAULT 0, desired_node_id bigint DEFAULT '-1'::integer, desired_group_id integer DEFAULT '-1'::integer, initial_group_role pgautofailover.replication_state DEFAULT 'init'::pgautofailover.replication_state, node_kind text DEFAULT 'standalone'::text, candidate_priority integer DEFAULT 100, replication_quorum boolean DEFAULT true, node_cluster text DEFAULT 'default'::text, node_region text DEFAULT 'default'::text, OUT assigned_node_id bigint, OUT assigned_group_id integer, OUT assigned_group_state pgautofailover.replication_state, OUT assigned_candidate_priority integer, OUT assigned_replication_quorum boolean, OUT assigned_node_name text) record strict definer
remove_node(node_host text, node_port integer DEFAULT 5432, force boolean DEFAULT false) boolean strict definer
remove_node(node_id bigint, force boolean DEFAULT false) boolean strict definer
report_postgres_version(node_id bigint, pg_versionnum integer DEFAULT NULL::integer, pg_version text DEFAULT NULL::text, pg_versionstring text DEFAULT NULL::text, citus_version text DEFAULT NULL::text) void definer
report_timeline_history(node_id bigint, history jsonb) void definer
resolve_accepted_timeline(formation_id text, group_id integer) boolean definer
set_formation_number_sync_standbys(formation_id text, number_sync_standbys integer) boolean strict definer
set_group_system_identifier(group_id bigint, node_sysidentifier bigint, OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer) SETOF record strict definer
set_node_candidate_priority(formation_id text, node_name text, candidate_priority integer) boolean strict definer
set_node_region(formation_id text, node_name text, region text) boolean strict definer
set_node_replication_quorum(formation_id text, node_name text, replication_quorum boolean) boolean strict definer
set_node_system_identifier(node_id bigint, node_sysidentifier bigint, OUT node_id bigint, OUT node_name text, OUT node_host text, OUT node_port integer) record strict definer
start_maintenance(node_id bigint) boolean strict definer
stop_maintenance(node_id bigint) boolean strict definer
synchronous_standby_names(formation_id text DEFAULT 'default'::text, group_id integer DEFAULT 0) text strict
testing_lock_formation(formation_id text) void
testing_lock_node_group(formation_id text, group_id integer) void
testing_set_node_health(node_id bigint, health integer, health_check_age interval, report_age interval, state_change_age interval) void
update_node_metadata(node_id bigint, node_name text, node_host text, node_port integer) boolean definer
update_secondary_check() trigger
`

func TestSurface(t *testing.T) {
	t.Parallel()
	m := install(t)
	rows, err := m.sql.Query(t.Context(), `
		SELECT concat_ws(' ', proname || '(' || pg_get_function_arguments(oid) || ')',
		                 CASE WHEN proretset THEN 'SETOF ' ELSE '' END || prorettype::regtype,
		                 CASE WHEN proisstrict THEN 'strict' END, CASE WHEN prosecdef THEN 'definer' END)
		  FROM pg_proc WHERE pronamespace = 'pgautofailover'::regnamespace`)
	require.NoError(t, err)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	for want := range strings.Lines(strings.TrimLeft(surface, "\n")) {
		require.Contains(t, got, strings.TrimRight(want, "\n"))
	}
	require.Equal(t, "0", m.text(t, `
		SELECT count(*)::text FROM pg_proc
		 WHERE pronamespace = 'pgautofailover'::regnamespace AND prosecdef
		   AND NOT 'search_path=pg_catalog, pg_temp' = ANY (coalesce(proconfig, '{}'))`),
		"who runs with the owner's rights fixes the search_path")
	require.Equal(t, "v", m.text(t, `
		SELECT string_agg(DISTINCT provolatile::text, '') FROM pg_proc
		 WHERE pronamespace = 'pgautofailover'::regnamespace AND prosecdef`))
}

func TestColumns(t *testing.T) {
	t.Parallel()
	m := install(t)
	for table, want := range map[string]string{
		"formation": "formationid kind dbname opt_secondary number_sync_standbys",
		"node": "formationid nodeid groupid nodename nodehost nodeport sysidentifier goalstate reportedstate " +
			"reportedpgisrunning reportedrepstate reporttime reportedtli reportedlsn walreporttime health healthchecktime " +
			"statechangetime candidatepriority replicationquorum nodecluster region replication_stall_since pg_versionnum " +
			"pg_version pg_versionstring citus_version",
		"event": "eventid eventtime formationid nodeid groupid nodename nodehost nodeport reportedstate goalstate " +
			"reportedrepstate reportedtli reportedlsn candidatepriority replicationquorum description rule_pos rule_section",
		"node_timeline_history": "nodeid tli parenttli switchpoint_lsn",
		"accepted_timeline":     "formationid groupid accepted_tli decided_by decided_at resolved_at",
	} {
		got := m.text(t, `SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute
			WHERE attrelid = ('pgautofailover.' || $1)::regclass AND attnum > 0 AND NOT attisdropped`, table)
		require.True(t, got == want || strings.HasPrefix(got, want+" "), "%s has %s", table, got)
	}
}

func TestGrants(t *testing.T) {
	t.Parallel()
	m := install(t)
	conn := pgtest.Connect(t, nodeDSN(t, m.dsn))
	rows, err := conn.Query(t.Context(), `SELECT c.oid::regclass::text FROM pg_class c
		WHERE c.relnamespace = 'pgautofailover'::regnamespace AND c.relkind = 'r'`)
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Contains(t, tables, "pgautofailover.event")
	for _, table := range tables {
		_, err := conn.Exec(t.Context(), "SELECT * FROM "+table)
		require.NoError(t, err)
		for _, write := range []string{
			"INSERT INTO " + table + " DEFAULT VALUES", "DELETE FROM " + table, "TRUNCATE " + table,
		} {
			_, err := conn.Exec(t.Context(), write)
			require.Equal(t, "42501", pgautofailover.SQLState(err), write)
		}
	}
	_, err = conn.Exec(t.Context(), `UPDATE pgautofailover.node SET goalstate = 'primary'`)
	require.Equal(t, "42501", pgautofailover.SQLState(err))
	// What works behind the documented functions is nobody else's.
	for _, call := range []string{
		`acquire_decider('me')`, `lock_for_decision(1, 'default', 0)`, `set_node_health(1, 0)`,
		`store_intent('default', 0, 'failover')`, `set_opt_secondary('default', false)`,
		`insert_formation('x', 'pgsql', 'postgres', true, 0)`,
	} {
		_, err := conn.Exec(t.Context(), "SELECT pgautofailover."+call)
		require.Equal(t, "42501", pgautofailover.SQLState(err), call)
	}
	// Somebody else may not even look.
	m.exec(t, `DO $$ BEGIN CREATE ROLE somebody LOGIN; EXCEPTION WHEN duplicate_object THEN END $$`)
	other := pgtest.Connect(t, withUser(t, m.dsn, "somebody"))
	_, err = other.Exec(t.Context(), `SELECT pgautofailover.get_nodes()`)
	require.Equal(t, "42501", pgautofailover.SQLState(err))
}

func withUser(t *testing.T, dsn, user string) string {
	t.Helper()
	info, err := pg.ParseConnInfo(dsn)
	require.NoError(t, err)
	return info.With("user", user).DSN()
}

func nodeDSN(t *testing.T, dsn string) string {
	t.Helper()
	return withUser(t, dsn, "autoctl_node")
}

// TestVersionForOldKeepers: they ask this before every report, and refuse another version than their own.
func TestVersionForOldKeepers(t *testing.T) {
	t.Parallel()
	m := install(t)
	conn := pgtest.Connect(t, nodeDSN(t, m.dsn))
	versions := func() (available, installed string) {
		require.NoError(t, conn.QueryRow(t.Context(),
			`SELECT default_version, installed_version FROM pg_available_extensions WHERE name = 'pgautofailover'`).
			Scan(&available, &installed))
		return available, installed
	}
	available, installed := versions()
	require.Equal(t, []string{pgautofailover.CompatVersion, pgautofailover.CompatVersion}, []string{available, installed})
	_, err := conn.Exec(t.Context(), `SET pgautofailover.extension_version = '2.0'`)
	require.NoError(t, err)
	available, installed = versions()
	require.Equal(t, []string{"2.0", "2.0"}, []string{available, installed})
	var others int
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_available_extensions WHERE name = 'plpgsql'`).Scan(&others))
	require.Equal(t, 1, others)
}

func TestFormations(t *testing.T) {
	t.Parallel()
	m := install(t)
	f := pgautofailover.Formation{ID: "f", Kind: "citus", DBName: "app", OptSecondary: true, NumberSyncStandbys: 1}
	got, err := m.node.CreateFormation(t.Context(), f)
	require.NoError(t, err)
	require.Equal(t, f, got)
	require.NoError(t, m.node.DisableSecondary(t.Context(), "f"))
	got, err = m.node.FormationByID(t.Context(), "f")
	require.NoError(t, err)
	require.False(t, got.OptSecondary)
	require.NoError(t, m.node.EnableSecondary(t.Context(), "f"))
	all, err := m.node.Formations(t.Context())
	require.NoError(t, err)
	require.Equal(t, f, all[1])
	require.NoError(t, m.node.DropFormation(t.Context(), "f"))
	_, err = m.node.FormationByID(t.Context(), "f")
	require.ErrorIs(t, err, pgautofailover.ErrNotFound)
}

func TestFormationSettings(t *testing.T) {
	t.Parallel()
	m, _, _ := pair(t)
	all, err := m.node.FormationSettings(t.Context(), "default")
	require.NoError(t, err)
	var lines []string
	for _, s := range all {
		lines = append(lines, s.Context+" "+*s.NodeName+" "+s.Setting+" "+s.Value)
	}
	require.Equal(t, []string{
		"formation default number_sync_standbys 0",
		"primary node_1 synchronous_standby_names 'ANY 1 (pgautofailover_standby_2)'",
		"node node_1 replication quorum true", "node node_2 replication quorum true",
		"node node_1 candidate priority 50", "node node_2 candidate priority 50",
	}, lines)
	require.Nil(t, all[0].NodeID)
	require.EqualValues(t, 1, *all[1].NodeID)
}

// TestMachineIsShown: the database shows the rules, and finds what a keeper cannot do.
func TestMachineIsShown(t *testing.T) {
	t.Parallel()
	m := install(t)
	rules := fsm.Rules()
	var got []fsm.RuleID
	rows, err := m.sql.Query(t.Context(), `SELECT pos, replace(split_part(section_path, '.', -1), '_', '-') FROM pgautofailover.fsm`)
	require.NoError(t, err)
	var id fsm.RuleID
	_, err = pgx.ForEachRow(rows, []any{&id.Pos, &id.Name}, func() error { got = append(got, id); return nil })
	require.NoError(t, err)
	require.Equal(t, rules, got)

	type edge struct {
		Current  string `json:"current"`
		Assigned string `json:"assigned"`
	}
	edges := []edge{{Current: "any", Assigned: "dropped"}}
	for _, from := range fsm.States() {
		for _, to := range fsm.States() {
			if _, ok := fsm.Next(fsm.Standalone, from, to); ok && to != fsm.Secondary && to != fsm.Dropped {
				edges = append(edges, edge{from.String(), to.String()})
			}
		}
	}
	text, err := json.Marshal(edges)
	require.NoError(t, err)
	require.Equal(t, "secondary", m.text(t, `
		SELECT string_agg(DISTINCT assigned_state::text, ' ') FROM pgautofailover.check_fsm_reachability($1::text::jsonb)`, string(text)))
}

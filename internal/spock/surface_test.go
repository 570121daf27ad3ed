package spock_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// surface is the documented interface: arguments with their defaults, results
// and properties. Clients use named notation.
const surface = `
add_node(IN src_node_name text, IN src_dsn text, IN new_node_name text, IN new_node_dsn text, IN verb boolean DEFAULT false, IN new_node_location text DEFAULT 'NY'::text, IN new_node_country text DEFAULT 'USA'::text, IN new_node_info jsonb DEFAULT '{}'::jsonb) procedure void
advance_replication_slot(IN node_dsn text, IN slot_name text, IN sync_timestamp timestamp without time zone, IN verb boolean) procedure void
apply_group_progress(OUT dbid oid, OUT node_id oid, OUT remote_node_id oid, OUT remote_commit_ts timestamp with time zone, OUT prev_remote_ts timestamp with time zone, OUT remote_commit_lsn pg_lsn, OUT remote_insert_lsn pg_lsn, OUT received_lsn pg_lsn, OUT last_updated_ts timestamp with time zone, OUT updated_by_decode boolean) SETOF record
attach_node(IN src_node_name text, IN src_dsn text, IN new_node_name text, IN new_node_dsn text, IN verb boolean DEFAULT false, IN new_node_location text DEFAULT 'NY'::text, IN new_node_country text DEFAULT 'USA'::text, IN new_node_info jsonb DEFAULT '{}'::jsonb, IN timeout_sec integer DEFAULT 180) procedure void
cleanup_resolutions(days integer DEFAULT NULL::integer) bigint
convert_column_to_int8(p_rel regclass, p_attnum smallint) integer
convert_sequence_to_snowflake(p_seqid regclass) integer
create_node(IN node_name text, IN dsn text, IN verb boolean, IN location text DEFAULT 'NY'::text, IN country text DEFAULT 'USA'::text, IN info jsonb DEFAULT '{}'::jsonb) procedure void
create_replication_slot(IN node_dsn text, IN slot_name text, IN verb boolean, IN plugin text DEFAULT 'spock_output'::text) procedure void
create_sub(IN node_dsn text, IN subscription_name text, IN provider_dsn text, IN replication_sets text, IN synchronize_structure boolean, IN synchronize_data boolean, IN forward_origins text, IN apply_delay interval, IN enabled boolean, IN force_text_transfer boolean, IN verb boolean) procedure void
delta_apply(bigint, bigint, bigint) bigint
delta_apply(double precision, double precision, double precision) double precision
delta_apply(integer, integer, integer) integer
delta_apply(money, money, money) money
delta_apply(numeric, numeric, numeric) numeric
delta_apply(real, real, real) real
delta_apply(smallint, smallint, smallint) smallint
detach_node(IN target_node_name text, IN target_node_dsn text, IN verbose_mode boolean DEFAULT true) procedure void
enable_sub(IN node_dsn text, IN sub_name text, IN verb boolean, IN immediate boolean DEFAULT true) procedure void
get_apply_worker_status(OUT worker_pid bigint, OUT worker_dboid integer, OUT worker_subid bigint, OUT worker_status text) SETOF record stable
get_channel_stats(OUT subid oid, OUT relid oid, OUT n_tup_ins bigint, OUT n_tup_upd bigint, OUT n_tup_del bigint, OUT n_conflict bigint, OUT n_dca bigint) SETOF record
get_commit_timestamp(IN node_dsn text, IN n1 text, IN n2 text, IN verb boolean, INOUT commit_ts timestamp without time zone DEFAULT NULL::timestamp without time zone) procedure record
get_country() text
get_lsn_from_commit_ts(slot_name name, commit_ts timestamp with time zone) pg_lsn strict
get_spock_nodes(IN src_dsn text, IN verb boolean) procedure void
get_subscription_stats(subid oid, OUT subid oid, OUT confl_insert_exists bigint, OUT confl_update_origin_differs bigint, OUT confl_update_exists bigint, OUT confl_update_missing bigint, OUT confl_delete_origin_differs bigint, OUT confl_delete_missing bigint, OUT confl_delete_exists bigint, OUT stats_reset timestamp with time zone) record stable
health_check(IN src_node_name text, IN src_dsn text, IN new_node_name text DEFAULT NULL::text, IN new_node_dsn text DEFAULT NULL::text, IN check_type text DEFAULT 'pre'::text, IN verb boolean DEFAULT false) procedure void
md5_agg(ORDER BY anyelement) aggregate text immutable parallel
md5_agg_sfunc(text, anyelement) text immutable parallel
node_add_interface(node_name name, interface_name name, dsn text) oid strict
node_create(node_name name, dsn text, location text DEFAULT NULL::text, country text DEFAULT NULL::text, info jsonb DEFAULT NULL::jsonb) oid
node_drop(node_name name, ifexists boolean DEFAULT false) boolean strict
node_drop_interface(node_name name, interface_name name) boolean strict
node_info(OUT node_id oid, OUT node_name text, OUT sysid text, OUT dbname text, OUT replication_sets text, OUT location text, OUT country text, OUT info jsonb) record stable
pause_apply_workers() void
read_peer_progress(p_slot_name text, p_provider_node_id oid, p_subscriber_node_id oid) SETOF record strict
remove_node(IN target_node_name text, IN target_node_dsn text, IN verbose_mode boolean DEFAULT true) procedure void
repair_mode(enabled boolean) pg_lsn
replicate_ddl(command text, replication_sets text[] DEFAULT '{ddl_sql}'::text[], search_path text DEFAULT current_setting('search_path'::text), role text DEFAULT CURRENT_USER) boolean strict
replicate_ddl(command text[], replication_sets text[] DEFAULT '{ddl_sql}'::text[], search_path text DEFAULT current_setting('search_path'::text), role text DEFAULT CURRENT_USER) SETOF boolean strict
repset_add_all_seqs(set_name name, schema_names text[], synchronize_data boolean DEFAULT false) boolean strict
repset_add_all_tables(set_name name, schema_names text[], synchronize_data boolean DEFAULT false) boolean strict
repset_add_partition(parent regclass, partition regclass DEFAULT NULL::regclass, row_filter text DEFAULT NULL::text) integer
repset_add_seq(set_name name, relation regclass, synchronize_data boolean DEFAULT false) boolean strict
repset_add_table(set_name name, relation regclass, synchronize_data boolean DEFAULT false, columns text[] DEFAULT NULL::text[], row_filter text DEFAULT NULL::text, include_partitions boolean DEFAULT true) boolean
repset_alter(set_name name, replicate_insert boolean DEFAULT NULL::boolean, replicate_update boolean DEFAULT NULL::boolean, replicate_delete boolean DEFAULT NULL::boolean, replicate_truncate boolean DEFAULT NULL::boolean) oid
repset_create(set_name name, replicate_insert boolean DEFAULT true, replicate_update boolean DEFAULT true, replicate_delete boolean DEFAULT true, replicate_truncate boolean DEFAULT true) oid strict
repset_drop(set_name name, ifexists boolean DEFAULT false) boolean strict
repset_remove_partition(parent regclass, partition regclass DEFAULT NULL::regclass) integer
repset_remove_seq(set_name name, relation regclass) boolean strict
repset_remove_table(set_name name, relation regclass, include_partitions boolean DEFAULT true) boolean strict
repset_show_table(relation regclass, repsets text[], OUT relid oid, OUT nspname text, OUT relname text, OUT att_list text[], OUT has_row_filter boolean, OUT relkind "char", OUT relispartition boolean) record strict stable
reserved_object_add(p_name name, p_kind text, p_exclude_from_dump boolean DEFAULT true, p_block_in_repset boolean DEFAULT true, p_replicate_ddl boolean DEFAULT NULL::boolean) void
reserved_object_remove(p_name name, p_kind text) void
reset_channel_stats() void
reset_subscription_stats(subid oid DEFAULT NULL::oid) void
resume_apply_workers() void
slot_enable_failover() integer
spock_gen_slot_name(dbname name, provider_node name, subscription name) name strict immutable parallel
spock_max_proto_version() integer
spock_min_proto_version() integer
spock_version() text
spock_version_num() integer
sub_add_repset(subscription_name name, replication_set name) boolean strict
sub_alter_interface(subscription_name name, interface_name name) boolean strict
sub_alter_options(subscription_name name, options jsonb) boolean strict
sub_alter_skiplsn(subscription_name name, lsn pg_lsn) boolean strict
sub_alter_sync(subscription_name name, truncate boolean DEFAULT false) boolean strict
sub_create(subscription_name name, provider_dsn text, replication_sets text[] DEFAULT '{default,default_insert_only,ddl_sql}'::text[], synchronize_structure boolean DEFAULT false, synchronize_data boolean DEFAULT false, forward_origins text[] DEFAULT '{}'::text[], apply_delay interval DEFAULT '00:00:00'::interval, force_text_transfer boolean DEFAULT false, enabled boolean DEFAULT true, skip_schema text[] DEFAULT '{}'::text[]) oid strict
sub_disable(subscription_name name, immediate boolean DEFAULT false) boolean strict
sub_drop(subscription_name name, ifexists boolean DEFAULT false) oid strict
sub_enable(subscription_name name, immediate boolean DEFAULT false) boolean strict
sub_remove_repset(subscription_name name, replication_set name) boolean strict
sub_resync_table(subscription_name name, relation regclass, truncate boolean DEFAULT true) boolean strict
sub_show_status(subscription_name name DEFAULT NULL::name, OUT subscription_name text, OUT status text, OUT provider_node text, OUT provider_dsn text, OUT slot_name text, OUT replication_sets text[], OUT forward_origins text[]) SETOF record stable
sub_show_table(subscription_name name, relation regclass, OUT nspname text, OUT relname text, OUT status text) record strict stable
sub_wait_for_sync(subscription_name name) void strict
sync_event(IN node_dsn text, IN verb boolean, INOUT sync_lsn pg_lsn DEFAULT NULL::pg_lsn) procedure record
sync_event(transactional boolean DEFAULT false) pg_lsn strict
sync_seq(relation regclass) boolean strict
table_data_filtered(reltyp anyelement, relation regclass, repsets text[]) SETOF anyelement stable
table_wait_for_sync(subscription_name name, relation regclass) void strict
terminate_active_transactions() boolean strict
wait_for_apply_worker(p_subbid bigint, timeout integer DEFAULT 0) boolean
wait_for_sync_event(OUT result boolean, IN origin name, IN lsn pg_lsn, IN timeout integer DEFAULT 0, IN wait_if_disabled boolean DEFAULT false) procedure record
wait_for_sync_event(OUT result boolean, IN origin_id oid, IN lsn pg_lsn, IN timeout integer DEFAULT 0, IN wait_if_disabled boolean DEFAULT false) procedure record
wait_slot_confirm_lsn(slotname name, target pg_lsn) void
xact_commit_timestamp_origin(xid xid, OUT "timestamp" timestamp with time zone, OUT roident oid) record strict
`

// relations are the documented tables and views. Tools read them by name, and by position in old scripts.
const relations = `
channel_summary_stats(subid oid, sub_name name, n_tup_ins numeric, n_tup_upd numeric, n_tup_del numeric, n_conflict numeric, n_dca numeric)
channel_table_stats(subid oid, relid oid, sub_name name, table_name text, n_tup_ins bigint, n_tup_upd bigint, n_tup_del bigint, n_conflict bigint, n_dca bigint)
depend(classid oid not null, objid oid not null, objsubid integer not null, refclassid oid not null, refobjid oid not null, refobjsubid integer not null, deptype "char" not null)
exception_log(remote_origin oid not null, remote_commit_ts timestamp with time zone not null, command_counter integer not null, retry_errored_at timestamp with time zone not null, remote_xid bigint not null, local_origin oid, local_commit_ts timestamp with time zone, table_schema text, table_name text, operation text, local_tup jsonb, remote_old_tup jsonb, remote_new_tup jsonb, ddl_statement text, ddl_user text, error_message text not null)
exception_status(remote_origin oid not null, remote_commit_ts timestamp with time zone not null, retry_errored_at timestamp with time zone not null, remote_xid bigint not null, status text not null, resolved_at timestamp with time zone, resolution_details jsonb)
exception_status_detail(remote_origin oid not null, remote_commit_ts timestamp with time zone not null, command_counter integer not null, retry_errored_at timestamp with time zone not null, remote_xid bigint not null, status text not null, resolved_at timestamp with time zone, resolution_details jsonb)
lag_tracker(origin_name name, receiver_name name, commit_timestamp timestamp with time zone, last_received_lsn pg_lsn, commit_lsn pg_lsn, remote_insert_lsn pg_lsn, received_lsn pg_lsn, replication_lag_bytes numeric, replication_lag interval)
local_node(node_id oid not null, node_local_interface oid not null)
local_sync_status(sync_kind "char" not null, sync_subid oid not null, sync_nspname name, sync_relname name, sync_status "char" not null, sync_statuslsn pg_lsn not null)
node(node_id oid not null, node_name name not null, location text, country text, info jsonb)
node_interface(if_id oid not null, if_name name not null, if_nodeid oid, if_dsn text not null)
pii(id integer not null, pii_schema text not null, pii_table text not null, pii_column text not null)
progress(node_id oid not null, remote_node_id oid not null, remote_commit_ts timestamp with time zone not null, remote_lsn pg_lsn not null, remote_insert_lsn pg_lsn not null, last_updated_ts timestamp with time zone not null, updated_by_decode boolean not null, dbid oid, prev_remote_ts timestamp with time zone, remote_commit_lsn pg_lsn, received_lsn pg_lsn)
queue(queued_at timestamp with time zone not null, role name not null, replication_sets text[], message_type "char" not null, message json not null)
replication_set(set_id oid not null, set_nodeid oid not null, set_name name not null, replicate_insert boolean not null, replicate_update boolean not null, replicate_delete boolean not null, replicate_truncate boolean not null)
replication_set_seq(set_id oid not null, set_seqoid regclass not null)
replication_set_table(set_id oid not null, set_reloid regclass not null, set_att_list text[], set_row_filter pg_node_tree)
reserved_object(name name not null, kind text not null, exclude_from_dump boolean not null, block_in_repset boolean not null, replicate_ddl boolean, builtin boolean not null)
resolutions(id integer not null, node_name name not null, log_time timestamp with time zone not null, relname text, idxname text, conflict_type text, conflict_resolution text, local_origin integer, local_tuple text, local_xid xid, local_timestamp timestamp with time zone, remote_origin integer, remote_tuple text, remote_xid xid, remote_timestamp timestamp with time zone, remote_lsn pg_lsn)
sequence_state(seqoid oid not null, cache_size integer not null, last_value bigint not null)
subscription(sub_id oid not null, sub_name name not null, sub_origin oid not null, sub_target oid not null, sub_origin_if oid not null, sub_target_if oid not null, sub_enabled boolean not null, sub_slot_name name not null, sub_replication_sets text[], sub_forward_origins text[], sub_apply_delay interval not null, sub_force_text_transfer boolean not null, sub_skip_lsn pg_lsn not null, sub_skip_schema text[], sub_created_at timestamp with time zone)
tables(relid oid, nspname name, relname name, set_name name)
`

func TestSurface(t *testing.T) {
	t.Parallel()
	n := install(t)
	require.Equal(t, strings.Split(strings.TrimSpace(surface), "\n"), n.lines(t, `
		SELECT concat_ws(' ', proname || '(' || pg_get_function_arguments(oid) || ')',
		                 CASE prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' END,
		                 CASE WHEN proretset THEN 'SETOF ' ELSE '' END || prorettype::regtype,
		                 CASE WHEN proisstrict THEN 'strict' END,
		                 CASE provolatile WHEN 's' THEN 'stable' WHEN 'i' THEN 'immutable' END,
		                 CASE proparallel WHEN 's' THEN 'parallel' END, CASE WHEN prosecdef THEN 'definer' END)
		  FROM pg_proc WHERE pronamespace = 'spock'::regnamespace ORDER BY 1`))
	require.Equal(t, strings.Split(strings.TrimSpace(relations), "\n"), n.lines(t, `
		SELECT relname || '(' || string_agg(attname || ' ' || format_type(atttypid, atttypmod)
		                 || CASE WHEN attnotnull THEN ' not null' ELSE '' END, ', ' ORDER BY attnum) || ')'
		  FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid
		 WHERE relnamespace = 'spock'::regnamespace AND relkind IN ('r', 'v') AND attnum > 0 AND relname NOT LIKE 'pgdrover\_%'
		 GROUP BY relname ORDER BY 1`))
}

// TestReservedNames keeps clear of what scripts that add and remove nodes define in this schema themselves; the procedures
// that users call have exactly the argument lists of those scripts, so that these replace them.
func TestReservedNames(t *testing.T) {
	t.Parallel()
	n := install(t)
	require.Empty(t, n.lines(t, `
		SELECT proname::text FROM pg_proc WHERE pronamespace = 'spock'::regnamespace AND proname IN (
		    'check_node_exists', 'check_repset_exists_on_node', 'check_slot_exists_on_node', 'extract_dbname_from_dsn',
		    'gen_sub_name', 'get_node_slots', 'version_major_minor', 'version_to_array', 'node_repset_list', 'repset_diff',
		    'sync_repsets_from_source', 'sync_timeout', 'wait_subscription')`))
	require.Empty(t, n.lines(t, `
		SELECT proname::text FROM pg_proc WHERE pronamespace = 'spock'::regnamespace AND proname LIKE 'pgdrover%'`))
}

func TestIdentifiers(t *testing.T) {
	t.Parallel()
	n := install(t)
	for _, v := range []struct{ node, id, all, insertOnly, ddl, iface string }{
		{"n1", "49708", "2215107256", "2285154942", "3025306227", "3980673619"},
		{"n2", "26863", "3548382209", "1419651688", "1071998122", "3757426505"},
		{"n3", "9057", "698826868", "2271014878", "326887478", "3582936755"},
		{"test_provider", "45328", "1240392030", "2449890230", "2225023092", "2794766463"},
		{"test_subscriber", "52665", "1814541545", "1909385617", "2586246310", "4160655218"},
	} {
		require.Equal(t, v.id, n.text(t, "pgdrover.node_id($1)", v.node))
		for set, id := range map[string]string{
			"default": v.all, "default_insert_only": v.insertOnly, "ddl_sql": v.ddl, v.node: v.iface,
		} {
			require.Equal(t, id, n.text(t, "pgdrover.member_id(pgdrover.node_id($1), $2)", v.node, set), set)
		}
	}
	require.Equal(t, "2353314786", n.text(t, "pgdrover.member_id(pgdrover.node_id('test_provider'), 'repset_replicate_all')"))
	require.Equal(t, "3848008564", n.text(t, "pgdrover.subscription_id('test_subscription')"))
	require.Equal(t, "2979946351", n.text(t, "pgdrover.subscription_id('sub_n1_n2')"))
	require.Equal(t, "spk_applicat6423823_datacentced61a6_sub_n1_n3",
		n.text(t, "spock.spock_gen_slot_name('application_database', 'datacenter-east-1', 'sub_n1_n3')"))
	require.Equal(t, "spk_db___node_sub_newy3c9e7ab", n.text(t, "spock.spock_gen_slot_name('db', 'A node', 'sub_newyork_losangeles')"))
	require.Equal(t, "spk_db_n1_sub_dataeb5940f", n.text(t, "spock.spock_gen_slot_name('db', 'n1', 'sub_datacenter-east-1_n3')"))
	require.Equal(t, "host=h passwordXXXX", n.text(t, "pgdrover.masked('host=h password=abc')"))
	require.Equal(t, "postgresql://app:XXXX@h:5433/shop?sslmode=require", n.text(t, "pgdrover.masked('postgresql://app:s3%40c@h:5433/shop?sslmode=require')"))
	require.Equal(t, "postgres://app@h/shop?passwordXXXX", n.text(t, "pgdrover.masked('postgres://app@h/shop?password=abc')"))
}

-- Grants. Functions stay executable by everybody who may use the schema, as clients expect, except our inner ones.

GRANT SELECT ON ALL TABLES IN SCHEMA pgautofailover TO autoctl_node;

DO $$
DECLARE
    fn regprocedure;
BEGIN
    FOR fn IN
        SELECT p.oid FROM pg_catalog.pg_proc p
         WHERE p.pronamespace = 'pgautofailover'::regnamespace
           AND p.proname IN ('store_intent', 'remove_locked_node', 'record_change', 'store_event', 'insert_formation',
                             'set_opt_secondary', 'store_report', 'store_changed_report', 'setting_stored',
                             'acquire_decider', 'lock_for_decision', 'set_node_health')
    LOOP
        EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', fn);
    END LOOP;
    FOR fn IN
        SELECT p.oid FROM pg_catalog.pg_proc p
         WHERE p.pronamespace = 'pgautofailover'::regnamespace
           AND p.proname IN ('create_formation', 'drop_formation', 'set_formation_number_sync_standbys',
               'register_node', 'node_active', 'keeper_report', 'keeper_list', 'keep_session', 'update_node_metadata',
               'set_node_system_identifier', 'set_group_system_identifier', 'set_node_candidate_priority',
               'set_node_replication_quorum', 'set_node_region', 'get_nodes', 'get_other_nodes', 'get_primary',
               'get_coordinator', 'get_most_advanced_standby', 'synchronous_standby_names', 'current_state',
               'last_events', 'perform_failover', 'perform_promotion', 'start_maintenance', 'stop_maintenance',
               'remove_node', 'report_postgres_version', 'report_timeline_history', 'report_copy', 'accept_timeline',
               'resolve_accepted_timeline', 'node_timeline_status', 'dump_fsm', 'dump_fsm_edges',
               'check_fsm_reachability', 'decider_alive')
    LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO autoctl_node', fn);
    END LOOP;
END
$$;

-- Keepers of pg_auto_failover ask pg_available_extensions for the monitor's version before every report. There is no
-- extension: a view of that name answers, found first by its search_path. The version is a setting, because one
-- monitor serves keepers of one version at a time.
CREATE SCHEMA IF NOT EXISTS pgautofailover_catalog;
CREATE OR REPLACE VIEW pgautofailover_catalog.pg_available_extensions AS
    SELECT 'pgautofailover'::name AS name, v.version AS default_version, v.version AS installed_version,
           'pg_auto_failover monitor'::text AS comment
      FROM (SELECT coalesce(nullif(pg_catalog.current_setting('pgautofailover.extension_version', true), ''), '2.2')
                   AS version) v
     UNION ALL
    SELECT e.name, e.default_version, e.installed_version, e.comment
      FROM pg_catalog.pg_available_extensions e WHERE e.name <> 'pgautofailover';
GRANT USAGE ON SCHEMA pgautofailover_catalog TO autoctl_node;
GRANT SELECT ON pgautofailover_catalog.pg_available_extensions TO autoctl_node;

DO $$
BEGIN
    EXECUTE pg_catalog.format(
        'ALTER ROLE autoctl_node IN DATABASE %I SET search_path TO pgautofailover_catalog, pg_catalog, "$user", public',
        pg_catalog.current_database());
END
$$;

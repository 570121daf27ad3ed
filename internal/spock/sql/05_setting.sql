-- Settings. A stock server takes any value for spock.x and checks none: this is where they are read and checked.

-- Every setting with its default and what it may be. kind: bool, int (low..high), enum (words), text.
CREATE OR REPLACE FUNCTION pgdrover.setting_catalog(
    OUT name text, OUT kind text, OUT default_value text, OUT words text[], OUT low bigint, OUT high bigint)
RETURNS SETOF record LANGUAGE sql IMMUTABLE AS $$
    VALUES
    ('spock.conflict_resolution', 'enum', 'last_update_wins',
     '{error,apply_remote,keep_local,last_update_wins,first_update_wins}'::text[], NULL::bigint, NULL::bigint),
    ('spock.conflict_log_level', 'enum', 'log',
     '{debug5,debug4,debug3,debug2,debug1,debug,info,notice,warning,error,log,fatal,panic}', NULL, NULL),
    ('spock.save_resolutions', 'bool', 'off', NULL, NULL, NULL),
    ('spock.resolutions_retention_days', 'int', '100', NULL, 0, 2147483647),
    ('spock.log_origin_change', 'enum', 'none', '{none,remote_only_differs,since_sub_creation}', NULL, NULL),
    ('spock.exception_behaviour', 'enum', 'transdiscard', '{discard,transdiscard,sub_disable}', NULL, NULL),
    ('spock.exception_logging', 'enum', 'all', '{none,discard,all}', NULL, NULL),
    ('spock.exception_replay_queue_size', 'int', '4194304', NULL, 0, 9223372036854775807),
    ('spock.restart_delay_default', 'int', '5000', NULL, 1, 2147483647),
    ('spock.restart_delay_on_exception', 'int', '0', NULL, 0, 2147483647),
    ('spock.synchronous_commit', 'bool', 'off', NULL, NULL, NULL),
    ('spock.feedback_frequency', 'int', '200', NULL, 1, 2147483647),
    ('spock.use_spi', 'bool', 'off', NULL, NULL, NULL),
    ('spock.batch_inserts', 'bool', 'on', NULL, NULL, NULL),
    ('spock.check_all_uc_indexes', 'bool', 'on', NULL, NULL, NULL),
    ('spock.channel_counters', 'bool', 'on', NULL, NULL, NULL),
    ('spock.stats_max_entries', 'int', '-1', NULL, -1, 2147483647),
    ('spock.enable_ddl_replication', 'bool', 'off', NULL, NULL, NULL),
    ('spock.include_ddl_repset', 'bool', 'off', NULL, NULL, NULL),
    ('spock.allow_ddl_from_functions', 'bool', 'off', NULL, NULL, NULL),
    ('spock.deny_all_ddl', 'bool', 'off', NULL, NULL, NULL),
    ('spock.readonly', 'enum', 'off', '{off,user,local,all}', NULL, NULL),
    ('spock.replication_repair_mode', 'bool', 'off', NULL, NULL, NULL),
    ('spock.pause_timeout', 'int', '10', NULL, 1, 86400),
    ('spock.temp_directory', 'text', '', NULL, NULL, NULL),
    ('spock.extra_connection_options', 'text', '', NULL, NULL, NULL),
    ('spock.country', 'text', '??', NULL, NULL, NULL),
    ('spock.use_native_failover_slots', 'bool', 'off', NULL, NULL, NULL),
    ('spock.pg_standby_slot_names', 'text', '', NULL, NULL, NULL),
    ('spock.standby_slots_min_confirmed', 'int', '-1', NULL, -1, 100),
    ('spock.synchronize_slot_names', 'text', 'name_like:%%', NULL, NULL, NULL),
    ('spock.drop_extra_slots', 'bool', 'on', NULL, NULL, NULL),
    ('spock.primary_dsn', 'text', '', NULL, NULL, NULL),
    ('spock.failover_slots_naptime', 'int', '1000', NULL, 1, 3600000),
    ('spock.failover_slots_feedback_naptime', 'int', '10000', NULL, 1, 3600000),
    ('spock.sync_timeout', 'int', '0', NULL, 0, 2147483647),
    ('spock.read_retry_count', 'int', '5', NULL, 0, 100),
    ('spock.apply_idle_timeout', 'int', '300', NULL, 0, 2147483647),
    ('spock.output_delay', 'int', '0', NULL, 0, 60000),
    ('spock.enable_quiet_mode', 'bool', 'off', NULL, NULL, NULL),
    ('spock.log_verbosity', 'enum', 'normal', '{normal,debug1,debug2}', NULL, NULL),
    ('spock.apply_change_logging', 'enum', 'none', '{none,key_only,verbose}', NULL, NULL),
    -- Ours: what Spock decides otherwise than nodes that are to end equal.
    ('spock.update_missing', 'enum', 'insert', '{insert,error,skip}', NULL, NULL),
    ('spock.delete_conflict', 'enum', 'last_update_wins', '{last_update_wins,apply}', NULL, NULL),
    ('spock.truncate_conflict', 'enum', 'last_update_wins', '{last_update_wins,apply}', NULL, NULL),
    ('spock.forgotten_times', 'enum', 'refuse', '{refuse,lose}', NULL, NULL),
    ('spock.save_remote_wins', 'bool', 'off', NULL, NULL, NULL),
    ('spock.max_clock_skew', 'int', '5000', NULL, 0, 2147483647),
    ('spock.apply_workers', 'int', '0', NULL, 0, 64),
    ('spock.apply_bundles', 'bool', 'on', NULL, NULL, NULL)
$$;

-- Whether a text is a legal value, and that value in the form that we use.
CREATE OR REPLACE FUNCTION pgdrover.checked_setting(kind text, value text, words text[], low bigint, high bigint)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    n numeric;
BEGIN
    CASE kind
        WHEN 'bool' THEN
            RETURN CASE WHEN value::boolean THEN 'on' ELSE 'off' END;
        WHEN 'int' THEN
            n := value::numeric;
            RETURN CASE WHEN n = pg_catalog.trunc(n) AND n BETWEEN low AND high THEN pg_catalog.trunc(n)::text END;
        WHEN 'enum' THEN
            RETURN CASE WHEN pg_catalog.lower(value) = ANY (words) THEN pg_catalog.lower(value) END;
        ELSE
            RETURN value;
    END CASE;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

-- The effective values; invalid holds a value that was set and is not legal, instead of which the default holds.
CREATE OR REPLACE FUNCTION pgdrover.settings(OUT name text, OUT value text, OUT default_value text, OUT invalid text)
RETURNS SETOF record LANGUAGE sql STABLE AS $$
    SELECT s.name, coalesce(s.checked, s.default_value), s.default_value,
           CASE WHEN s.given IS NOT NULL AND s.checked IS NULL THEN s.given END
      FROM (SELECT c.*, g.given,
                   CASE WHEN g.given IS NOT NULL
                        THEN pgdrover.checked_setting(c.kind, g.given, c.words, c.low, c.high) END AS checked
              FROM pgdrover.setting_catalog() c,
                   LATERAL (SELECT CASE WHEN c.kind = 'text' THEN pg_catalog.current_setting(c.name, true)
                                        ELSE nullif(pg_catalog.current_setting(c.name, true), '') END AS given) g) s
$$;

CREATE OR REPLACE FUNCTION pgdrover.setting(setting_name text)
RETURNS text LANGUAGE sql STABLE AS $$
    SELECT s.value FROM pgdrover.settings() s WHERE s.name = setting_name
$$;

-- A switch; what is not a boolean is off.
CREATE OR REPLACE FUNCTION pgdrover.flag(setting_name text)
RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN coalesce(nullif(pg_catalog.current_setting(setting_name, true), '')::boolean, false);
EXCEPTION WHEN data_exception THEN
    RETURN false;
END
$$;

CREATE OR REPLACE FUNCTION spock.get_country()
RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(nullif(pg_catalog.current_setting('spock.country', true), ''), '??')
$$;

-- Our own DDL is neither captured nor examined by our own event triggers.
CREATE OR REPLACE FUNCTION pgdrover.internal()
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(pg_catalog.current_setting('pgdrover.internal', true) = 'on', false)
$$;

-- Nor do event triggers of others fire for it: they would run under our search path.
CREATE OR REPLACE FUNCTION pgdrover.run(ddl text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    before pg_catalog.text := coalesce(pg_catalog.current_setting('pgdrover.internal', true), '');
    role_before pg_catalog.text := pg_catalog.current_setting('session_replication_role');
    quiet boolean := role_before <> 'replica' AND pg_catalog.has_parameter_privilege('session_replication_role', 'SET');
BEGIN
    PERFORM pg_catalog.set_config('pgdrover.internal', 'on', true);
    IF quiet THEN
        PERFORM pg_catalog.set_config('session_replication_role', 'replica', true);
    END IF;
    EXECUTE ddl;
    IF quiet THEN
        PERFORM pg_catalog.set_config('session_replication_role', role_before, true);
    END IF;
    PERFORM pg_catalog.set_config('pgdrover.internal', before, true);
END
$$;

-- A message of automatic DDL replication; quiet mode sends it to the log alone.
CREATE OR REPLACE FUNCTION pgdrover.tell(level text, message text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pgdrover.flag('spock.enable_quiet_mode') THEN
        RAISE LOG USING MESSAGE = message;
    ELSIF level = 'warning' THEN
        RAISE WARNING USING MESSAGE = message;
    ELSE
        RAISE INFO USING MESSAGE = message;
    END IF;
END
$$;

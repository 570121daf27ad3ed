-- The schema, its types, the role that nodes and commands use, and the version.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'autoctl_node') THEN
        CREATE ROLE autoctl_node LOGIN;
    END IF;
EXCEPTION
    -- Roles belong to the whole server: another database may install at the same time.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

CREATE SCHEMA pgautofailover;
GRANT USAGE ON SCHEMA pgautofailover TO autoctl_node;

-- For the exclusion constraint of table node. It stays out of our schema when possible, so that only ours is in it.
DO $$
BEGIN
    EXECUTE pg_catalog.format('CREATE EXTENSION IF NOT EXISTS btree_gist WITH SCHEMA %I',
        CASE WHEN pg_catalog.to_regnamespace('public') IS NULL THEN 'pgautofailover' ELSE 'public' END);
END
$$;

CREATE TYPE pgautofailover.replication_state AS ENUM (
    'unknown', 'init', 'single', 'wait_primary', 'primary', 'draining', 'demote_timeout', 'demoted', 'catchingup',
    'secondary', 'prepare_promotion', 'stop_replication', 'wait_standby', 'maintenance', 'join_primary',
    'apply_settings', 'prepare_maintenance', 'wait_maintenance', 'report_lsn', 'fast_forward', 'join_secondary',
    'dropped'
);

CREATE TYPE pgautofailover.fsm_section AS ENUM ('api_triggered', 'early_checks', 'reporting_node', 'primary_node');

-- A request that is refused, in words that clients see.
CREATE TYPE pgautofailover.refusal AS (severity text, code text, message text, detail text, hint text);

CREATE TABLE pgautofailover.schema_version (
    version      integer NOT NULL,
    installed_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
INSERT INTO pgautofailover.schema_version (version) VALUES (1);

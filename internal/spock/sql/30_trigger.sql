-- Triggers of our own tables, and event triggers. The latter come last: they fire from here on.

CREATE FUNCTION pgdrover.notify_change()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('spock_change', TG_TABLE_NAME);
    RETURN NULL;
END
$$;

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['subscription', 'local_sync_status', 'replication_set', 'replication_set_table', 'node',
                             'node_interface', 'local_node', 'pgdrover_subscription', 'pgdrover_delta_column'] LOOP
        EXECUTE pg_catalog.format('CREATE TRIGGER pgdrover_notify AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON spock.%I '
                                  'FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.notify_change()', t);
    END LOOP;
END
$$;

-- Membership and publication change in one commit, whoever changes the membership: what applies changes, too.
CREATE FUNCTION pgdrover.members_added()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    rel oid;
BEGIN
    PERFORM pgdrover.publish((SELECT coalesce(array_agg(DISTINCT t.set_reloid::oid), '{}') FROM added t));
    FOR rel IN SELECT DISTINCT t.set_reloid::oid FROM added t ORDER BY 1 LOOP
        PERFORM pgdrover.watch(rel);
    END LOOP;
    RETURN NULL;
END
$$;

CREATE FUNCTION pgdrover.members_removed()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pgdrover.publish((SELECT coalesce(array_agg(DISTINCT t.set_reloid::oid), '{}') FROM removed t));
    PERFORM pgdrover.unwatch_unused();
    RETURN NULL;
END
$$;

CREATE FUNCTION pgdrover.set_changed()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM pgdrover.publish((SELECT coalesce(array_agg(DISTINCT t.set_reloid::oid), '{}') FROM spock.replication_set_table t
                                JOIN changed c ON c.set_id = t.set_id));
    RETURN NULL;
END
$$;

CREATE TRIGGER pgdrover_members_added AFTER INSERT ON spock.replication_set_table
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.members_added();
CREATE TRIGGER pgdrover_members_removed AFTER DELETE ON spock.replication_set_table
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.members_removed();
CREATE TRIGGER pgdrover_set_changed AFTER UPDATE ON spock.replication_set
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.set_changed();
ALTER TABLE spock.replication_set_table ENABLE ALWAYS TRIGGER pgdrover_members_added;
ALTER TABLE spock.replication_set_table ENABLE ALWAYS TRIGGER pgdrover_members_removed;
ALTER TABLE spock.replication_set ENABLE ALWAYS TRIGGER pgdrover_set_changed;

-- Only superusers may make event triggers. Without them tables are published as they were when they joined, and DDL
-- travels only by replicate_ddl.
DO $$
BEGIN
    CREATE EVENT TRIGGER pgdrover_ddl_start ON ddl_command_start EXECUTE FUNCTION pgdrover.on_ddl_start();
    CREATE EVENT TRIGGER pgdrover_sql_drop ON sql_drop EXECUTE FUNCTION pgdrover.on_sql_drop();
    ALTER EVENT TRIGGER pgdrover_sql_drop ENABLE ALWAYS;
    CREATE EVENT TRIGGER pgdrover_ddl_end ON ddl_command_end EXECUTE FUNCTION pgdrover.on_ddl_end();
    CREATE EVENT TRIGGER pgdrover_ddl_upkeep ON ddl_command_end EXECUTE FUNCTION pgdrover.on_ddl_upkeep();
    ALTER EVENT TRIGGER pgdrover_ddl_upkeep ENABLE ALWAYS;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING USING MESSAGE = 'no event triggers: ' || SQLERRM,
        HINT = 'DDL is not captured. Run pgdrover spock install as superuser to have it.';
END
$$;

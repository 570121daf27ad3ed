-- Triggers of our own tables, and event triggers. The latter come last: they fire from here on. What is there already stays
-- as it is: making it anew would need the table for itself.

CREATE OR REPLACE FUNCTION pgdrover.has_trigger(relation text, name text)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger t
                    WHERE t.tgrelid = pg_catalog.format('spock.%I', relation)::regclass AND t.tgname = name)
$$;

CREATE OR REPLACE FUNCTION pgdrover.notify_change()
RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_notify('spock_change', TG_TABLE_NAME);
    RETURN NULL;
END
$$;

DO $$
DECLARE
    t pg_catalog.text;
BEGIN
    FOR t IN SELECT n FROM pg_catalog.unnest(ARRAY[
                 'subscription', 'local_sync_status', 'replication_set', 'replication_set_table', 'node', 'node_interface',
                 'local_node', 'pgdrover_subscription', 'pgdrover_delta_column']) n
              WHERE NOT pgdrover.has_trigger(n, 'pgdrover_notify') LOOP
        EXECUTE pg_catalog.format('CREATE TRIGGER pgdrover_notify AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON spock.%I '
                                  'FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.notify_change()', t);
    END LOOP;
END
$$;

-- Membership and publication change in one commit, whoever changes the membership: what applies changes, too.
CREATE OR REPLACE FUNCTION pgdrover.members_added()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel pg_catalog.oid;
BEGIN
    PERFORM pgdrover.publish((SELECT coalesce(array_agg(DISTINCT t.set_reloid::oid), '{}') FROM added t));
    FOR rel IN SELECT DISTINCT t.set_reloid::oid FROM added t ORDER BY 1 LOOP
        PERFORM pgdrover.watch(rel);
    END LOOP;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.members_removed()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgdrover.publish((SELECT coalesce(array_agg(DISTINCT t.set_reloid::oid), '{}') FROM removed t));
    PERFORM pgdrover.unwatch_unused();
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.set_changed()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgdrover.publish((SELECT coalesce(array_agg(DISTINCT t.set_reloid::oid), '{}') FROM spock.replication_set_table t
                                JOIN changed c ON c.set_id = t.set_id));
    RETURN NULL;
END
$$;

DO $$
BEGIN
    IF NOT pgdrover.has_trigger('replication_set_table', 'pgdrover_members_added') THEN
        CREATE TRIGGER pgdrover_members_added AFTER INSERT ON spock.replication_set_table
            REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.members_added();
        ALTER TABLE spock.replication_set_table ENABLE ALWAYS TRIGGER pgdrover_members_added;
    END IF;
    IF NOT pgdrover.has_trigger('replication_set_table', 'pgdrover_members_removed') THEN
        CREATE TRIGGER pgdrover_members_removed AFTER DELETE ON spock.replication_set_table
            REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.members_removed();
        ALTER TABLE spock.replication_set_table ENABLE ALWAYS TRIGGER pgdrover_members_removed;
    END IF;
    -- At the end, when all is known that the transaction does. What applies asks by itself.
    IF NOT pgdrover.has_trigger('pgdrover_rewrite', 'pgdrover_rewrite_end') THEN
        CREATE CONSTRAINT TRIGGER pgdrover_rewrite_end AFTER INSERT ON spock.pgdrover_rewrite
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pgdrover.on_rewrite();
    END IF;
    IF NOT pgdrover.has_trigger('replication_set', 'pgdrover_set_changed') THEN
        CREATE TRIGGER pgdrover_set_changed AFTER UPDATE ON spock.replication_set
            REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION pgdrover.set_changed();
        ALTER TABLE spock.replication_set ENABLE ALWAYS TRIGGER pgdrover_set_changed;
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgdrover.has_event_trigger(name text)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger t WHERE t.evtname = name)
$$;

-- Only superusers may make event triggers. Without them tables are published as they were when they joined, and DDL
-- travels only by replicate_ddl.
DO $$
BEGIN
    IF NOT pgdrover.has_event_trigger('pgdrover_ddl_start') THEN
        CREATE EVENT TRIGGER pgdrover_ddl_start ON ddl_command_start EXECUTE FUNCTION pgdrover.on_ddl_start();
    END IF;
    -- Extensions' scripts are counted also on behalf of what applies, whose upkeep has to wait for their end as well.
    IF EXISTS (SELECT FROM pg_catalog.pg_event_trigger t WHERE t.evtname = 'pgdrover_ddl_start' AND t.evtenabled <> 'A') THEN
        ALTER EVENT TRIGGER pgdrover_ddl_start ENABLE ALWAYS;
    END IF;
    -- Before pgdrover_sql_drop and pgdrover_ddl_end, whenever these fire.
    IF NOT pgdrover.has_event_trigger('pgdrover_sql_caller') THEN
        CREATE EVENT TRIGGER pgdrover_sql_caller ON sql_drop EXECUTE FUNCTION pgdrover.on_ddl_caller();
        ALTER EVENT TRIGGER pgdrover_sql_caller ENABLE ALWAYS;
    END IF;
    IF NOT pgdrover.has_event_trigger('pgdrover_ddl_caller') THEN
        CREATE EVENT TRIGGER pgdrover_ddl_caller ON ddl_command_end EXECUTE FUNCTION pgdrover.on_ddl_caller();
    END IF;
    IF NOT pgdrover.has_event_trigger('pgdrover_sql_drop') THEN
        CREATE EVENT TRIGGER pgdrover_sql_drop ON sql_drop EXECUTE FUNCTION pgdrover.on_sql_drop();
        ALTER EVENT TRIGGER pgdrover_sql_drop ENABLE ALWAYS;
    END IF;
    IF NOT pgdrover.has_event_trigger('pgdrover_table_rewrite') THEN
        CREATE EVENT TRIGGER pgdrover_table_rewrite ON table_rewrite EXECUTE FUNCTION pgdrover.on_table_rewrite();
        ALTER EVENT TRIGGER pgdrover_table_rewrite ENABLE ALWAYS;
    END IF;
    IF NOT pgdrover.has_event_trigger('pgdrover_ddl_end') THEN
        CREATE EVENT TRIGGER pgdrover_ddl_end ON ddl_command_end EXECUTE FUNCTION pgdrover.on_ddl_end();
    END IF;
    IF NOT pgdrover.has_event_trigger('pgdrover_ddl_upkeep') THEN
        CREATE EVENT TRIGGER pgdrover_ddl_upkeep ON ddl_command_end EXECUTE FUNCTION pgdrover.on_ddl_upkeep();
        ALTER EVENT TRIGGER pgdrover_ddl_upkeep ENABLE ALWAYS;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING USING MESSAGE = 'no event triggers: ' || SQLERRM,
        HINT = 'DDL is not captured. Run pgdrover spock install as superuser to have it.';
END
$$;

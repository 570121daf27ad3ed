-- The event triggers of the fence; only superusers may make them. Without them a join still notices what has changed.
DO $$
BEGIN
    IF NOT pgdrover.has_event_trigger('pgdrover_fence_drop') THEN
        CREATE EVENT TRIGGER pgdrover_fence_drop ON sql_drop EXECUTE FUNCTION pgdrover.on_fence_drop();
    END IF;
    IF NOT pgdrover.has_event_trigger('pgdrover_fence_end') THEN
        CREATE EVENT TRIGGER pgdrover_fence_end ON ddl_command_end EXECUTE FUNCTION pgdrover.on_fence_end();
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    NULL;
END
$$;

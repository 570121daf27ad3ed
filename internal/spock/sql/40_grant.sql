-- Rights. Schema spock grants nothing, as in Spock. Everybody's DDL runs through our event triggers, whose functions
-- must be found, while what works with the owner's rights is closed: triggers need nobody's right to call it.

GRANT USAGE ON SCHEMA pgdrover TO PUBLIC;

DO $$
DECLARE
    f pg_catalog.record;
BEGIN
    FOR f IN SELECT p.oid::regprocedure AS fn FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
              WHERE p.pronamespace = 'pgdrover'::regnamespace
                AND (p.prosecdef OR l.lanname = 'c' OR p.proname IN ('capture', 'drop_members')) LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f.fn);
    END LOOP;
END
$$;

REVOKE ALL ON FUNCTION spock.pause_apply_workers(), spock.resume_apply_workers(), spock.slot_enable_failover(),
    spock.cleanup_resolutions(integer) FROM PUBLIC;

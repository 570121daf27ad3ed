-- From version 1 to version 2. The tables are the same; functions are made again over those that are there. A change of a
-- table gets its statement here, or in the file of the next step.

-- Functions that answer with other columns cannot be replaced.
DO $$
DECLARE
    fn regprocedure;
BEGIN
    FOR fn IN
        SELECT p.oid FROM pg_catalog.pg_proc p
         WHERE p.pronamespace = 'pgautofailover'::regnamespace AND p.proname IN ('keeper_report')
    LOOP
        EXECUTE pg_catalog.format('DROP FUNCTION %s', fn);
    END LOOP;
END
$$;

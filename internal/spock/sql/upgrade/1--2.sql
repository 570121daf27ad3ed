-- From version 1 to version 2: what cannot be made by running the files of functions and views again. They run after this.
-- Version 1 grew under one number, so each part looks whether it is needed.

DO $$
DECLARE
    rel regclass;
BEGIN
    -- A stamp that stands beside its row needs the position behind which nothing older comes. Those without are of no use:
    -- they name the transaction, and the row bears the number of its savepoint.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid = 'spock.pgdrover_stamp'::regclass AND a.attname = 'author_lsn') THEN
        ALTER TABLE spock.pgdrover_stamp ADD COLUMN author_lsn pg_lsn;
        DELETE FROM spock.pgdrover_stamp;
    END IF;
    -- For a short while the journal of a run did not say which node it was about.
    IF pg_catalog.to_regprocedure('pgdrover.store_run(text,text,text,bigint,text,jsonb)') IS NOT NULL THEN
        DROP VIEW spock.pgdrover_run_step;
        DROP TABLE spock.pgdrover_run;
        DROP FUNCTION pgdrover.store_run(text, text, text, bigint, text, jsonb);
    END IF;
    -- An operator's publication FOR ALL TABLES takes in these tables as well, and lets only rows that it can name be changed.
    FOR rel IN SELECT c.oid FROM pg_catalog.pg_class c
                WHERE c.relnamespace = 'spock'::regnamespace AND c.relkind = 'r' AND c.relpersistence = 'p' AND c.relreplident = 'd'
                  AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) LOOP
        EXECUTE pg_catalog.format('ALTER TABLE %s REPLICA IDENTITY FULL', rel);
    END LOOP;
END
$$;

-- Raising, and formations.

-- Says what a refusal says; an option that is not there must not be named.
CREATE OR REPLACE FUNCTION pgautofailover.raise_refusal(r pgautofailover.refusal)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF r.code IS NULL THEN
        RETURN;
    ELSIF r.severity = 'WARNING' AND r.detail IS NOT NULL THEN
        RAISE WARNING USING ERRCODE = r.code, MESSAGE = r.message, DETAIL = r.detail;
    ELSIF r.severity = 'WARNING' THEN
        RAISE WARNING USING ERRCODE = r.code, MESSAGE = r.message;
    ELSIF r.severity = 'NOTICE' AND r.detail IS NOT NULL THEN
        RAISE NOTICE USING ERRCODE = r.code, MESSAGE = r.message, DETAIL = r.detail;
    ELSIF r.severity = 'NOTICE' THEN
        RAISE NOTICE USING ERRCODE = r.code, MESSAGE = r.message;
    ELSIF r.detail IS NOT NULL AND r.hint IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = r.code, MESSAGE = r.message, DETAIL = r.detail, HINT = r.hint;
    ELSIF r.detail IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = r.code, MESSAGE = r.message, DETAIL = r.detail;
    ELSIF r.hint IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = r.code, MESSAGE = r.message, HINT = r.hint;
    ELSE
        RAISE EXCEPTION USING ERRCODE = r.code, MESSAGE = r.message;
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.insert_formation(
    id text, new_kind text, database name, secondaries boolean, sync_standbys integer)
RETURNS pgautofailover.formation LANGUAGE plpgsql AS $$
DECLARE
    f pgautofailover.formation;
BEGIN
    IF new_kind NOT IN ('pgsql', 'citus', '') THEN
        RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = pg_catalog.format('unknown formation kind "%s"', new_kind);
    END IF;
    INSERT INTO pgautofailover.formation (formationid, kind, dbname, opt_secondary, number_sync_standbys)
    VALUES (id, new_kind, database, secondaries, sync_standbys) RETURNING * INTO f;
    RETURN f;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.create_formation(
    IN formation_id text, IN kind text, IN dbname name, IN opt_secondary boolean, IN number_sync_standbys integer,
    OUT formation_id text, OUT kind text, OUT dbname name, OUT opt_secondary boolean, OUT number_sync_standbys integer)
RETURNS record LANGUAGE sql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
    SELECT f.formationid, f.kind, f.dbname, f.opt_secondary, f.number_sync_standbys
      FROM pgautofailover.insert_formation($1, $2, $3, $4, $5) f
$$;

CREATE OR REPLACE FUNCTION pgautofailover.drop_formation(formation_id text)
RETURNS void LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM pgautofailover.formation f WHERE f.formationid = formation_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000', MESSAGE = format('couldn''t find formation "%s"', formation_id);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.set_opt_secondary(formation_id text, allow boolean)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE pgautofailover.formation f SET opt_secondary = allow WHERE f.formationid = formation_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'XX000',
            MESSAGE = pg_catalog.format('couldn''t find formation "%s"', formation_id);
    END IF;
    -- The answer has always been false; clients ignore it.
    RETURN false;
END
$$;

CREATE OR REPLACE FUNCTION pgautofailover.enable_secondary(formation_id text)
RETURNS boolean LANGUAGE sql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
    SELECT pgautofailover.set_opt_secondary(formation_id, true)
$$;

CREATE OR REPLACE FUNCTION pgautofailover.disable_secondary(formation_id text)
RETURNS boolean LANGUAGE sql STRICT SECURITY DEFINER SET search_path TO pg_catalog, pg_temp AS $$
    SELECT pgautofailover.set_opt_secondary(formation_id, false)
$$;

CREATE OR REPLACE FUNCTION pgautofailover.update_secondary_check()
RETURNS trigger LANGUAGE plpgsql SET search_path TO pg_catalog, pg_temp AS $$
DECLARE
    n pgautofailover.node;
BEGIN
    IF new.opt_secondary OR NOT old.opt_secondary THEN
        RETURN new;
    END IF;
    SELECT m.* INTO n FROM pgautofailover.node m
     WHERE m.formationid = new.formationid AND m.goalstate <> 'dropped' AND m.reportedstate <> 'single'
     ORDER BY m.nodeid LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'formation has nodes that are not in SINGLE state',
            DETAIL = format('nodeid %s is in state %s', n.nodeid, n.reportedstate),
            HINT = 'drop secondary nodes before disabling secondaries on formation';
    END IF;
    RETURN new;
END
$$;

CREATE OR REPLACE TRIGGER disable_secondary_check BEFORE UPDATE ON pgautofailover.formation
FOR EACH ROW EXECUTE FUNCTION pgautofailover.update_secondary_check();

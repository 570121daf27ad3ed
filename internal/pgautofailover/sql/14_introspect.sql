-- The state machine as tables to look at. It lives in the monitor process, which writes its tables here whenever it
-- installs or upgrades the schema; nothing reads them to decide.

CREATE TABLE IF NOT EXISTS pgautofailover.fsm_rule (
    rank    integer NOT NULL PRIMARY KEY, -- in the order of evaluation
    pos     integer NOT NULL,
    section text NOT NULL,
    name    text NOT NULL,
    comment text NOT NULL
);

CREATE TABLE IF NOT EXISTS pgautofailover.fsm_order (
    current_state  pgautofailover.replication_state NOT NULL,
    assigned_state pgautofailover.replication_state NOT NULL,
    PRIMARY KEY (current_state, assigned_state)
);

-- The conditions and goals of a rule are code; its comment tells them in words.
CREATE OR REPLACE FUNCTION pgautofailover.dump_fsm(
    OUT pos integer, OUT section text, OUT comment text, OUT active_node_current_state text,
    OUT other_node_current_state text, OUT candidate_node_current_state text, OUT active_node_conditions text,
    OUT other_node_conditions text, OUT candidate_node_conditions text, OUT group_conditions text,
    OUT active_node_assigned_state text, OUT other_node_assigned_state text, OUT has_extra_action boolean,
    OUT section_path text)
RETURNS SETOF record LANGUAGE sql AS $$
    SELECT r.pos, r.section, r.comment, NULL::text, NULL::text, NULL::text, NULL::text, NULL::text, NULL::text,
           NULL::text, NULL::text, NULL::text, false,
           pg_catalog.concat_ws('.', nullif(r.section, ''), pg_catalog.replace(r.name, '-', '_'))
      FROM pgautofailover.fsm_rule r ORDER BY r.rank
$$;

CREATE OR REPLACE VIEW pgautofailover.fsm AS SELECT * FROM pgautofailover.dump_fsm();

CREATE OR REPLACE FUNCTION pgautofailover.dump_fsm_edges(
    OUT pos integer, OUT current_state pgautofailover.replication_state,
    OUT assigned_state pgautofailover.replication_state)
RETURNS SETOF record LANGUAGE sql AS $$
    SELECT (pg_catalog.row_number() OVER (ORDER BY o.assigned_state, o.current_state))::integer,
           o.current_state, o.assigned_state
      FROM pgautofailover.fsm_order o ORDER BY 1
$$;

-- What the monitor may order and a keeper with these edges cannot do. "any" stands for every state.
CREATE OR REPLACE FUNCTION pgautofailover.check_fsm_reachability(
    IN keeper_edges jsonb,
    OUT pos integer, OUT current_state pgautofailover.replication_state,
    OUT assigned_state pgautofailover.replication_state, OUT comment text)
RETURNS SETOF record LANGUAGE sql AS $$
    WITH edge AS MATERIALIZED (
        SELECT e.current, e.assigned FROM pg_catalog.jsonb_to_recordset(keeper_edges) AS e(current text, assigned text)
    )
    SELECT d.pos, d.current_state, d.assigned_state,
           pg_catalog.format('the keeper has no way from %s to %s', d.current_state, d.assigned_state)
      FROM pgautofailover.dump_fsm_edges() d
     WHERE NOT EXISTS (SELECT FROM edge e
                        WHERE e.current IN (d.current_state::text, 'any')
                          AND e.assigned IN (d.assigned_state::text, 'any'))
     ORDER BY d.pos
$$;

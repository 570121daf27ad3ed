-- The goal of a node that registers, for everything that matters about its group. It is the one goal that SQL
-- chooses, because the node's row is invisible to the monitor process until its keeper commits.
-- The rows are generated: go test -run TestFirstGoalTable -rewrite

CREATE TABLE IF NOT EXISTS pgautofailover.first_goal (
    group_empty       boolean NOT NULL, -- no other node, those being dropped not counted
    electable         boolean NOT NULL, -- candidate priority above 0
    secondary_allowed boolean NOT NULL, -- the formation's opt_secondary
    primary_known     boolean NOT NULL, -- some node has a writable goal or is being promoted
    source_waiting    boolean NOT NULL, -- some node with candidate priority 0 has reached report_lsn
    goal              pgautofailover.replication_state,
    refusal           text,
    PRIMARY KEY (group_empty, electable, secondary_allowed, primary_known, source_waiting),
    CHECK ((goal IS NULL) <> (refusal IS NULL))
);

DELETE FROM pgautofailover.first_goal;
INSERT INTO pgautofailover.first_goal
       (group_empty, electable, secondary_allowed, primary_known, source_waiting, goal, refusal)
VALUES
    (true , true , true , false, false, 'single', NULL),
    (true , true , false, false, false, 'single', NULL),
    (true , false, true , false, false, NULL, 'no_primary'),
    (true , false, false, false, false, NULL, 'secondary_disallowed'),
    (false, true , true , true , true , 'wait_standby', NULL),
    (false, true , true , true , false, 'wait_standby', NULL),
    (false, true , true , false, true , 'report_lsn', NULL),
    (false, true , true , false, false, NULL, 'no_primary'),
    (false, true , false, true , true , NULL, 'secondary_disallowed'),
    (false, true , false, true , false, NULL, 'secondary_disallowed'),
    (false, true , false, false, true , NULL, 'secondary_disallowed'),
    (false, true , false, false, false, NULL, 'secondary_disallowed'),
    (false, false, true , true , true , 'wait_standby', NULL),
    (false, false, true , true , false, 'wait_standby', NULL),
    (false, false, true , false, true , 'report_lsn', NULL),
    (false, false, true , false, false, NULL, 'no_primary'),
    (false, false, false, true , true , NULL, 'secondary_disallowed'),
    (false, false, false, true , false, NULL, 'secondary_disallowed'),
    (false, false, false, false, true , NULL, 'secondary_disallowed'),
    (false, false, false, false, false, NULL, 'secondary_disallowed');

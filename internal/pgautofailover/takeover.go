package pgautofailover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

const (
	qExtension = `SELECT extversion FROM pg_extension WHERE extname = 'pgautofailover'`
	// Only a group at rest says by its states alone who may acknowledge what.
	qRestless = `
SELECT coalesce(string_agg(format('node %s "%s" is %s and shall be %s', nodeid, nodename, reportedstate, goalstate), ', ' ORDER BY nodeid), '')
  FROM pgautofailover.node
 WHERE reportedstate <> goalstate
    OR goalstate::text NOT IN ('single', 'wait_primary', 'primary', 'secondary', 'catchingup', 'maintenance')`
	rememberScript = `
CREATE TEMPORARY TABLE old_formation ON COMMIT DROP AS
SELECT formationid, kind, dbname, opt_secondary, number_sync_standbys FROM pgautofailover.formation;
CREATE TEMPORARY TABLE old_node ON COMMIT DROP AS
SELECT formationid, nodeid, groupid, nodename, nodehost, nodeport, sysidentifier, goalstate::text AS goalstate,
       reportedstate::text AS reportedstate, reportedpgisrunning, reportedrepstate, reporttime, reportedtli, reportedlsn,
       walreporttime, health, healthchecktime, statechangetime, candidatepriority, replicationquorum, nodecluster
  FROM pgautofailover.node;
CREATE TEMPORARY TABLE old_event ON COMMIT DROP AS
SELECT eventid, eventtime, formationid, nodeid, groupid, nodename, nodehost, nodeport, reportedstate::text AS reportedstate,
       goalstate::text AS goalstate, reportedrepstate, reportedtli, reportedlsn, candidatepriority, replicationquorum, description
  FROM pgautofailover.event;
CREATE TEMPORARY TABLE old_sequence ON COMMIT DROP AS
SELECT (SELECT last_value FROM pgautofailover.node_nodeid_seq) AS node, (SELECT last_value FROM pgautofailover.event_eventid_seq) AS event;
DROP EXTENSION pgautofailover CASCADE;
DROP SCHEMA IF EXISTS pgautofailover CASCADE`
	restoreScript = `
DELETE FROM pgautofailover.formation;
INSERT INTO pgautofailover.formation (formationid, kind, dbname, opt_secondary, number_sync_standbys)
SELECT * FROM pg_temp.old_formation;
INSERT INTO pgautofailover.node (formationid, nodeid, groupid, nodename, nodehost, nodeport, sysidentifier, goalstate, reportedstate,
       reportedpgisrunning, reportedrepstate, reporttime, reportedtli, reportedlsn, walreporttime, health, healthchecktime,
       statechangetime, candidatepriority, replicationquorum, nodecluster, reachednumber, answerednumber)
SELECT formationid, nodeid, groupid, nodename, nodehost, nodeport, sysidentifier, goalstate::pgautofailover.replication_state,
       reportedstate::pgautofailover.replication_state, reportedpgisrunning, reportedrepstate, reporttime, reportedtli, reportedlsn,
       walreporttime, health, healthchecktime, statechangetime, candidatepriority, replicationquorum, nodecluster, 1, 1
  FROM pg_temp.old_node;
INSERT INTO pgautofailover.event (eventid, eventtime, formationid, nodeid, groupid, nodename, nodehost, nodeport, reportedstate, goalstate,
       reportedrepstate, reportedtli, reportedlsn, candidatepriority, replicationquorum, description)
SELECT eventid, eventtime, formationid, nodeid, groupid, nodename, nodehost, nodeport, reportedstate::pgautofailover.replication_state,
       goalstate::pgautofailover.replication_state, reportedrepstate, reportedtli, reportedlsn, candidatepriority, replicationquorum, description
  FROM pg_temp.old_event;
SELECT setval('pgautofailover.node_nodeid_seq', node), setval('pgautofailover.event_eventid_seq', event) FROM pg_temp.old_sequence`
	qOldNodes = `
SELECT n.formationid, n.groupid, n.nodeid, n.goalstate::text, n.replicationquorum, n.reportedtli, f.number_sync_standbys
  FROM pgautofailover.node n JOIN pgautofailover.formation f USING (formationid) ORDER BY n.formationid, n.groupid, n.nodeid`
	qKeepVersion = `SELECT format('ALTER DATABASE %I SET pgautofailover.extension_version TO %L', current_database(), $1::text)`
)

// takeOver puts this program's schema in the place of pg_auto_failover's
// extension and keeps what is in it: formations, nodes with their numbers and
// states, events. Keepers of that release go on as they are: the monitor tells
// them the version that they had.
func takeOver(ctx context.Context, tx pgx.Tx) error {
	const op = "take over the monitor of pg_auto_failover"
	var version, restless string
	err := tx.QueryRow(ctx, qExtension).Scan(&version)
	if errors.Is(err, pgx.ErrNoRows) {
		return errForeign
	}
	if err != nil {
		return wrap(op, err)
	}
	if err := tx.QueryRow(ctx, qRestless).Scan(&restless); err != nil {
		return wrap(op, err)
	}
	if restless != "" {
		return hinted{op + ": " + restless, "Run the old monitor until every node has reached its state, then try again."}
	}
	script := func(text string) error {
		_, err := tx.Conn().PgConn().Exec(ctx, text).ReadAll()
		return wrap(op, err)
	}
	if err := script(rememberScript); err != nil {
		return err
	}
	if err := runFiles(ctx, tx, installOrder()); err != nil {
		return err
	}
	if err := script(restoreScript); err != nil {
		return err
	}
	if err := restoreRecords(ctx, tx); err != nil {
		return err
	}
	var keep string
	if err := tx.QueryRow(ctx, qKeepVersion, version).Scan(&keep); err != nil {
		return wrap(op, err)
	}
	return script(keep)
}

// oldNode is a node as it was registered with the old monitor.
type oldNode struct {
	Formation  string
	Group      int
	ID         int64
	Goal       string
	Quorum     bool
	TLI        uint32
	NumberSync int
}

// restoreRecords makes up what decisions remember of each group: who writes,
// and under which list of standbys, which follows from the states.
func restoreRecords(ctx context.Context, tx pgx.Tx) error {
	const op = "take over the groups of pg_auto_failover"
	rows, err := tx.Query(ctx, qOldNodes)
	if err != nil {
		return wrap(op, err)
	}
	nodes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[oldNode])
	if err != nil {
		return wrap(op, err)
	}
	for from := 0; from < len(nodes); {
		to := from
		for to < len(nodes) && nodes[to].Formation == nodes[from].Formation && nodes[to].Group == nodes[from].Group {
			to++
		}
		group := nodes[from:to]
		from = to
		record, err := oldRecord(group)
		if err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		text, err := json.Marshal(record)
		if err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		list := record.Lists[0]
		_, err = tx.Exec(ctx, qStoreRecord, group[0].Formation, group[0].Group, list.Number, list.StandbyNames().String(), string(text))
		if err != nil {
			return wrap(op, err)
		}
	}
	return nil
}

// oldRecord is the record of one group. A primary of pg_auto_failover waits for
// all standbys of the quorum, whatever their state, from three nodes on; of two
// nodes, for the other one when it is a secondary.
func oldRecord(group []oldNode) (fsm.Record, error) {
	list := fsm.List{Number: 1}
	record := fsm.Record{}
	state := ""
	for _, n := range group {
		if n.Goal != "single" && n.Goal != "wait_primary" && n.Goal != "primary" {
			continue
		}
		if list.Primary != 0 {
			return record, fmt.Errorf("formation %q, group %d: nodes %d and %d may both write", n.Formation, n.Group, list.Primary, n.ID)
		}
		list.Primary, record.Primary, record.Timeline, state = n.ID, n.ID, pg.Timeline(n.TLI), n.Goal
	}
	if list.Primary == 0 {
		return record, hinted{
			fmt.Sprintf("formation %q, group %d has no primary", group[0].Formation, group[0].Group),
			"Run the old monitor until it has one, then try again.",
		}
	}
	for _, n := range group {
		if state == "primary" && n.ID != list.Primary && n.Quorum && (len(group) > 2 || n.Goal == "secondary") {
			list.Voters = append(list.Voters, n.ID)
			list.K = max(n.NumberSync, 1)
		}
	}
	record.Lists = []fsm.List{list}
	return record, nil
}

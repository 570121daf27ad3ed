package pgautofailover

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

const (
	qAssignGoals = `
UPDATE pgautofailover.node n
   SET goalstate = a.goal::pgautofailover.replication_state, goalnumber = n.goalnumber + 1, statechangetime = now()
  FROM unnest($1::bigint[], $2::text[]) AS a(id, goal)
 WHERE n.nodeid = a.id`
	// A node that was removed by force has no row: its lines take what the group remembers of it.
	qStoreEvents = `
INSERT INTO pgautofailover.event
       (formationid, nodeid, groupid, nodename, nodehost, nodeport, reportedstate, goalstate, reportedrepstate,
        reportedtli, reportedlsn, candidatepriority, replicationquorum, description, rule_pos, rule_section)
SELECT $1, e.id, $2, coalesce(n.nodename, g.name), coalesce(n.nodehost, g.host), coalesce(n.nodeport, g.port),
       coalesce(n.reportedstate, g.reported::pgautofailover.replication_state),
       coalesce(n.goalstate, g.goal::pgautofailover.replication_state), n.reportedrepstate,
       greatest(coalesce(n.reportedtli, g.tli), 1), coalesce(n.reportedlsn, g.lsn), n.candidatepriority,
       coalesce(n.replicationquorum, g.quorum), e.text, nullif($5::int, 0),
       nullif($6::text, '')::pgautofailover.fsm_section
  FROM unnest($3::bigint[], $4::text[]) WITH ORDINALITY AS e(id, text, ord)
  LEFT JOIN pgautofailover.node n ON n.nodeid = e.id
  LEFT JOIN jsonb_to_recordset($7::text::jsonb)
         AS g(id bigint, name text, host text, port int, reported text, goal text, tli int, lsn pg_lsn, quorum boolean)
         ON g.id = e.id
 WHERE n.nodeid IS NOT NULL OR g.id IS NOT NULL
 ORDER BY e.ord`
	qNotifyStates = `
SELECT pgautofailover.notify_state(n) FROM pgautofailover.node n WHERE n.nodeid = ANY ($1::bigint[]) ORDER BY n.nodeid`
	qNotifyTexts = `
SELECT pgautofailover.notify_log(t.text) FROM unnest($1::text[]) WITH ORDINALITY AS t(text, ord) ORDER BY t.ord`
	qStoreRecord = `
INSERT INTO pgautofailover.group_state AS s (formationid, groupid, list_number, standby_names, record)
VALUES ($1, $2, $3, $4, $5::text::jsonb)
    ON CONFLICT (formationid, groupid) DO UPDATE
   SET list_number = excluded.list_number, standby_names = excluded.standby_names, record = excluded.record`
	qStoreWaiting = `
INSERT INTO pgautofailover.group_state AS s (formationid, groupid, waiting) VALUES ($1, $2, $3)
    ON CONFLICT (formationid, groupid) DO UPDATE SET waiting = excluded.waiting`
	qCloseIntents = `
UPDATE pgautofailover.intent i SET closed_at = now(), applied = c.applied, outcome = c.outcome
  FROM unnest($1::bigint[], $2::boolean[], $3::text[]) AS c(id, applied, outcome)
 WHERE i.intentid = c.id`
	qRemoveNodes     = `DELETE FROM pgautofailover.node WHERE nodeid = ANY ($1::bigint[])`
	qStoreNumberSync = `UPDATE pgautofailover.formation SET number_sync_standbys = $2 WHERE formationid = $1`
	qForgetGroup     = `
DELETE FROM pgautofailover.group_state s
 WHERE s.formationid = $1 AND s.groupid = $2
   AND NOT EXISTS (SELECT FROM pgautofailover.node n WHERE n.formationid = $1 AND n.groupid = $2)
   AND NOT EXISTS (SELECT FROM pgautofailover.intent i
                    WHERE i.formationid = $1 AND i.groupid = $2 AND i.closed_at IS NULL)`
)

// storeSettled writes all decisions in one round trip.
func storeSettled(ctx context.Context, tx pgx.Tx, g LoadedGroup, settled Settled) error {
	var batch pgx.Batch
	record, removed := g.Record, 0
	for _, d := range settled.Decisions {
		if err := queueDecision(&batch, g, record, d); err != nil {
			return err
		}
		if d.RecordChanged {
			record = d.Record
		}
		removed += len(d.Remove)
	}
	if settled.Waiting != g.Waiting {
		batch.Queue(qStoreWaiting, g.Formation.ID, g.ID, settled.Waiting)
	}
	if len(g.Nodes) == removed {
		// What is remembered concerns these nodes. Who registers next begins a group of its own.
		batch.Queue(qForgetGroup, g.Formation.ID, g.ID)
	}
	if batch.Len() == 0 {
		return nil
	}
	return wrap("store a decision", tx.SendBatch(ctx, &batch).Close())
}

// queueDecision writes goals first, so that events and notifications show the
// new ones, and deletes rows last. before is the record on which d was decided.
func queueDecision(batch *pgx.Batch, g LoadedGroup, before fsm.Record, d fsm.Decision) error {
	if len(d.Assign) > 0 {
		var ids []int64
		var goals []string
		for _, a := range d.Assign {
			ids, goals = append(ids, a.Node), append(goals, a.Goal.String())
		}
		batch.Queue(qAssignGoals, ids, goals)
		batch.Queue(qNotifyStates, ids)
	}
	if err := queueEvents(batch, g, before, d); err != nil {
		return err
	}
	if d.RecordChanged {
		if err := queueRecord(batch, g, d.Record); err != nil {
			return err
		}
	}
	if len(d.Close) > 0 {
		var ids []int64
		var applied []bool
		var outcomes []string
		for _, c := range d.Close {
			ids, applied, outcomes = append(ids, c.Intent), append(applied, c.Applied), append(outcomes, c.Text)
		}
		batch.Queue(qCloseIntents, ids, applied, outcomes)
	}
	if d.NumberSyncStandbys != nil {
		batch.Queue(qStoreNumberSync, g.Formation.ID, *d.NumberSyncStandbys)
	}
	if len(d.Remove) > 0 {
		batch.Queue(qRemoveNodes, d.Remove)
	}
	return nil
}

func queueEvents(batch *pgx.Batch, g LoadedGroup, before fsm.Record, d fsm.Decision) error {
	var ids []int64
	var texts, lines []string
	for _, e := range d.Events {
		lines = append(lines, e.Text)
		if e.Node != 0 {
			ids, texts = append(ids, e.Node), append(texts, e.Text)
		}
	}
	if len(ids) > 0 {
		ghosts := append(make([]fsm.Ghost, 0, len(before.Removed)), before.Removed...)
		for _, ghost := range d.Record.Removed {
			if !slices.ContainsFunc(ghosts, func(known fsm.Ghost) bool { return known.ID == ghost.ID }) {
				ghosts = append(ghosts, ghost)
			}
		}
		known, err := json.Marshal(ghosts)
		if err != nil {
			return fmt.Errorf("encode removed nodes: %w", err)
		}
		batch.Queue(qStoreEvents, g.Formation.ID, g.ID, ids, texts, d.Rule.Pos, ruleSection(d.Rule.Pos), string(known))
	}
	if len(lines) > 0 {
		batch.Queue(qNotifyTexts, lines)
	}
	return nil
}

func queueRecord(batch *pgx.Batch, g LoadedGroup, record fsm.Record) error {
	text, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encode the group's record: %w", err)
	}
	var number int64
	var names string
	if n := len(record.Lists); n > 0 {
		number, names = record.Lists[n-1].Number, record.Lists[n-1].StandbyNames().String()
	}
	batch.Queue(qStoreRecord, g.Formation.ID, g.ID, number, names, string(text))
	return nil
}

// ruleSection names the part of the rule table to which a position belongs.
func ruleSection(pos int) string {
	switch {
	case pos < 100:
		return ""
	case pos < 200:
		return "api_triggered"
	case pos < 300:
		return "early_checks"
	case pos < 400:
		return "reporting_node"
	case pos < 500:
		return "primary_node"
	}
	return ""
}

package pgautofailover

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

const (
	qLoadFormation = `
SELECT f.formationid, f.kind, f.dbname::text, f.opt_secondary, f.number_sync_standbys,
       coalesce(s.record::text, '{}'), coalesce(s.waiting, ''), coalesce(s.list_number, 0)
  FROM pgautofailover.formation f
  LEFT JOIN pgautofailover.group_state s ON s.formationid = f.formationid AND s.groupid = $2
 WHERE f.formationid = $1`
	qLoadNodes = `
SELECT nodeid, nodename, nodehost, nodeport, goalstate::text, reportedstate::text, goalnumber, reachednumber,
       candidatepriority, replicationquorum, nodecluster, coalesce(reportedpgisrunning, true), reportedtli,
       reportedlsn::text, coalesce(reportedrepstate, 'unknown'), reportedcleanstop, reportedstreaming, health,
       reporttime, healthchecktime, statechangetime
  FROM pgautofailover.node WHERE formationid = $1 AND groupid = $2 ORDER BY nodeid`
	qLoadIntents = `
SELECT intentid, kind, coalesce(nodeid, 0), allow_data_loss, text, ghost::text, created_at
  FROM pgautofailover.intent WHERE formationid = $1 AND groupid = $2 AND closed_at IS NULL ORDER BY intentid`
	qLoadHistories = `
SELECT h.nodeid, h.tli, h.parenttli, h.switchpoint_lsn::text
  FROM pgautofailover.node_timeline_history h JOIN pgautofailover.node n USING (nodeid)
 WHERE n.formationid = $1 AND n.groupid = $2 ORDER BY h.nodeid, h.tli`
)

// loadGroup reads everything in one round trip.
func loadGroup(ctx context.Context, tx pgx.Tx, key GroupKey) (LoadedGroup, error) {
	var g LoadedGroup
	var record string
	var intents []loadedIntent
	var nodes []loadedNode
	histories := make(map[int64]pg.History)
	var batch pgx.Batch
	batch.Queue(qLoadFormation, key.Formation, key.Group).QueryRow(func(row pgx.Row) error {
		f := &g.Formation
		return row.Scan(&f.ID, &f.Kind, &f.DBName, &f.OptSecondary, &f.NumberSyncStandbys, &record, &g.Waiting, &g.Number)
	})
	batch.Queue(qLoadNodes, key.Formation, key.Group).Query(func(rows pgx.Rows) (err error) {
		nodes, err = pgx.CollectRows(rows, scanLoadedNode)
		return err
	})
	batch.Queue(qLoadIntents, key.Formation, key.Group).Query(func(rows pgx.Rows) (err error) {
		intents, err = pgx.CollectRows(rows, scanLoadedIntent)
		return err
	})
	batch.Queue(qLoadHistories, key.Formation, key.Group).Query(func(rows pgx.Rows) error {
		var id int64
		var e pg.HistoryEntry
		_, err := pgx.ForEachRow(rows, []any{&id, (*uint32)(&e.TLI), (*uint32)(&e.Parent), (*lsnText)(&e.Switch)}, func() error {
			histories[id] = append(histories[id], e)
			return nil
		})
		return err
	})
	batch.Queue(qSettings, settingNames()).Query(func(rows pgx.Rows) error {
		g.All, g.SettingsErr = readSettings(rows)
		return rows.Err()
	})
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return LoadedGroup{}, wrap("load the group "+key.String(), err)
	}
	if err := json.Unmarshal([]byte(record), &g.Record); err != nil {
		return LoadedGroup{}, fmt.Errorf("read the record of group %s: %w", key, err)
	}
	g.ID, g.Settings = key.Group, g.All.Decision
	g.Stamps, g.Requested = make(map[int64]Stamps), make(map[int64]time.Time)
	for _, n := range nodes {
		n.History = histories[n.ID]
		g.Nodes = append(g.Nodes, n.Node)
		g.Stamps[n.ID] = n.stamps
	}
	for _, i := range intents {
		g.Intents = append(g.Intents, i.Intent)
		g.Requested[i.ID] = i.created
	}
	return g, nil
}

type loadedNode struct {
	fsm.Node
	stamps Stamps
}

func scanLoadedNode(row pgx.CollectableRow) (loadedNode, error) {
	var n loadedNode
	var streaming *bool
	err := row.Scan(&n.ID, &n.Name, &n.Host, &n.Port, (*stateText)(&n.Goal), (*stateText)(&n.Reported),
		&n.GoalNumber, &n.Reached, &n.Priority, &n.Quorum, &n.Cluster, &n.PgIsRunning, (*uint32)(&n.TLI), (*lsnText)(&n.LSN),
		&n.SyncState, &n.CleanStop, &streaming, &n.Health,
		&n.stamps.Report, &n.stamps.HealthCheck, &n.stamps.StateChange)
	switch {
	case streaming == nil:
		n.Streaming = fsm.StreamingUnknown
	case *streaming:
		n.Streaming = fsm.StreamingYes
	default:
		n.Streaming = fsm.StreamingNo
	}
	return n, err
}

type loadedIntent struct {
	fsm.Intent
	created time.Time
}

func scanLoadedIntent(row pgx.CollectableRow) (loadedIntent, error) {
	var i loadedIntent
	var kind string
	var ghost *string
	err := row.Scan(&i.ID, &kind, &i.Node, &i.AllowDataLoss, &i.Text, &ghost, &i.created)
	i.Kind = fsm.IntentKind(kind)
	if err == nil && ghost != nil {
		i.Ghost = new(fsm.Ghost)
		err = json.Unmarshal([]byte(*ghost), i.Ghost)
	}
	return i, err
}

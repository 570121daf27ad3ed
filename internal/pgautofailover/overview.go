package pgautofailover

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Overview is a formation with everything that an operator may see of it, as
// of one moment.
type Overview struct {
	// Now is the server's clock, which every time below belongs to.
	Now       time.Time
	Formation Formation
	// Alive says that a monitor process is there to decide.
	Alive bool
	// Groups are in the order of their numbers, with their nodes in id order.
	Groups []LoadedGroup
	// Rows are the nodes as registered, by id; Sessions say of each node whether
	// its keeper's session is there.
	Rows     map[int64]NodeRow
	Sessions map[int64]Pulse
	// Events are the newest ones, oldest first.
	Events []Event
}

const qNow = `SELECT now()`

// Overview reads a formation, or one of its groups when group is not nil, with
// its newest events, in one transaction that sees one moment. ErrNotFound says that there is no
// such formation.
func (db *DB) Overview(ctx context.Context, formation string, group *int, events int) (Overview, error) {
	o := Overview{Rows: make(map[int64]NodeRow), Sessions: make(map[int64]Pulse)}
	tx, err := db.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return o, wrap("begin to read the formation", err)
	}
	defer rollback(ctx, tx)
	var keys []int
	var batch pgx.Batch
	batch.Queue(qNow).QueryRow(func(row pgx.Row) error { return row.Scan(&o.Now) })
	batch.Queue(qMonitorAlive).QueryRow(func(row pgx.Row) error { return row.Scan(&o.Alive) })
	batch.Queue(qFormation, formation).QueryRow(func(row pgx.Row) error {
		f := &o.Formation
		return row.Scan(&f.ID, &f.Kind, &f.DBName, &f.OptSecondary, &f.NumberSyncStandbys)
	})
	batch.Queue(qNodeRows, formation, group).Query(func(rows pgx.Rows) error {
		all, err := pgx.CollectRows(rows, scanNodeRow)
		for _, n := range all {
			o.Rows[n.ID] = n
			if len(keys) == 0 || keys[len(keys)-1] != n.Group {
				keys = append(keys, n.Group)
			}
		}
		return err
	})
	batch.Queue(qPulses).Query(func(rows pgx.Rows) error {
		all, err := pgx.CollectRows(rows, scanPulse)
		for _, p := range all {
			o.Sessions[p.NodeID] = p
		}
		return err
	})
	queueLastEvents(&batch, formation, group, events, func(all []Event) { o.Events = all })
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return o, wrap("read the formation", err)
	}
	for _, key := range keys {
		g, err := loadGroup(ctx, tx, GroupKey{Formation: formation, Group: key})
		if err != nil {
			return o, err
		}
		o.Groups = append(o.Groups, g)
	}
	return o, wrap("read the formation", tx.Commit(ctx))
}

// queueLastEvents asks for the newest events of a formation, or of one group.
func queueLastEvents(batch *pgx.Batch, formation string, group *int, count int, take func([]Event)) {
	sql, args := qLastEvents, []any{formation, count}
	if group != nil {
		sql, args = qLastEventsGroup, []any{formation, *group, count}
	}
	batch.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		all, err := pgx.CollectRows(rows, scanEvent)
		take(all)
		return err
	})
}

package apply

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// shared is a snapshot of the provider that several new nodes copy. Who lets them
// join has made it, after a slot for each of them, and holds it.
type shared struct {
	id    string // for SET TRANSACTION SNAPSHOT
	slot  string // a temporary one of the session that holds it
	point pg.LSN // the slot's position: what commits behind it is not in the snapshot
}

// sharedQuery reads the setting of the database, also what was set a moment ago.
const sharedQuery = `SELECT pg_catalog.substr(c, pg_catalog.length('pgdrover.copy_snapshot=') + 1)
  FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase, pg_catalog.unnest(s.setconfig) c
 WHERE d.datname = pg_catalog.current_database() AND s.setrole = 0 AND pg_catalog.starts_with(c, 'pgdrover.copy_snapshot=')`

// findShared looks for a snapshot that this copy is to begin with, nil when there is none.
func (w *Worker) findShared(ctx context.Context) (*shared, error) {
	var text string
	err := w.db.QueryRow(ctx, sharedQuery).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil //nolint:nilnil // most copies have none
	}
	if err != nil {
		return nil, fmt.Errorf("look for a shared snapshot: %w", err)
	}
	return parseShared(text), nil
}

// parseShared reads "slot=… snapshot=… point=…"; what is not whole is none.
func parseShared(text string) *shared {
	var s shared
	for word := range strings.FieldsSeq(text) {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "slot":
			s.slot = value
		case "snapshot":
			s.id = value
		case "point":
			var err error
			if s.point, err = pg.ParseLSN(value); err != nil {
				return nil
			}
		}
	}
	if s.slot == "" || s.id == "" || s.point == 0 {
		return nil
	}
	return &s
}

// openShared opens a session on a shared snapshot, when everything is as whoever
// holds it has promised: the subscription's own slot keeps all behind the
// snapshot, and the snapshot is that one. Otherwise it returns nil, and the copy
// makes a snapshot of its own.
func (w *Worker) openShared(ctx context.Context) (*copier, error) {
	s, err := w.findShared(ctx)
	if s == nil || err != nil {
		return nil, err
	}
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return nil, err
	}
	slot := conn.ExecParams(ctx, `SELECT 1 FROM pg_replication_slots WHERE slot_name = $1 AND NOT active AND wal_status IS DISTINCT FROM 'lost'
		AND confirmed_flush_lsn <= $2::text::pg_lsn`, [][]byte{[]byte(w.sub.slot), []byte(s.point.String())}, nil, nil, nil).Read()
	if slot.Err != nil {
		return nil, fmt.Errorf("look for the slot of a shared snapshot: %w", slot.Err)
	}
	if len(slot.Rows) == 0 {
		w.log.InfoContext(ctx, "copy a snapshot of our own: nothing keeps what follows the shared one")
		return nil, nil //nolint:nilnil // it is gone on without
	}
	c := &copier{w: w, point: s.point, snapshot: s.id}
	if err := c.openProvider(ctx, &c.lane); err != nil {
		c.close(context.WithoutCancel(ctx))
		w.log.InfoContext(ctx, "copy a snapshot of our own: nobody holds the shared one", "error", err)
		return nil, nil //nolint:nilnil // it is gone on without
	}
	// The name of a snapshot may be that of another one in time, its slot's may not.
	// From here on our own session holds it, for all that copy.
	exported := c.provider.ExecParams(ctx, "SELECT pg_export_snapshot() WHERE EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND temporary)",
		[][]byte{[]byte(s.slot)}, nil, nil, nil).Read()
	if exported.Err != nil || len(exported.Rows) == 0 {
		c.close(context.WithoutCancel(ctx))
		w.log.InfoContext(ctx, "copy a snapshot of our own: the shared one is another", "error", exported.Err)
		return nil, nil //nolint:nilnil,nilerr // it is gone on without
	}
	c.snapshot = string(exported.Rows[0][0])
	if err := c.findRecent(ctx); err != nil {
		c.close(context.WithoutCancel(ctx))
		return nil, err
	}
	w.log.InfoContext(ctx, "copy a shared snapshot", "lsn", s.point.String())
	return c, w.forgetAttempt(ctx)
}

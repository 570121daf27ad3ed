package apply

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/walreceiver"
)

// tableSync is a table that does not follow the stream yet, or only from a
// position on.
type tableSync struct {
	schema, name string
	status       string
	at           pg.LSN // from which it follows
	part         bool   // a partition of one that is asked for
	emptied      pg.LSN // where in this server's log that was done for the copy; 0 when it was not
}

func (w *Worker) loadSyncing(ctx context.Context) error {
	// Changes name a partition, not the table that is asked for.
	rows, err := w.db.Query(ctx, `WITH y AS (SELECT sync_nspname, sync_relname, sync_status::text AS status, sync_statuslsn::text AS at
			FROM spock.local_sync_status WHERE sync_subid = $1 AND sync_relname IS NOT NULL AND sync_status <> 'r')
		SELECT y.sync_nspname::text, y.sync_relname::text, y.status, y.at, false FROM y UNION ALL
		SELECT n.nspname::text, c.relname::text, y.status, y.at, true FROM y
			CROSS JOIN LATERAL pg_partition_tree(to_regclass(quote_ident(y.sync_nspname) || '.' || quote_ident(y.sync_relname))) p
			JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE p.level > 0 ORDER BY 5 DESC, 1, 2`, w.sub.id)
	if err != nil {
		return fmt.Errorf("read state of tables: %w", err)
	}
	defer rows.Close()
	w.syncing = map[string]tableSync{}
	for rows.Next() {
		var t tableSync
		var at string
		if err := rows.Scan(&t.schema, &t.name, &t.status, &at, &t.part); err != nil {
			return fmt.Errorf("read state of tables: %w", err)
		}
		lsn, err := pg.ParseLSN(at)
		if err != nil {
			return err
		}
		if t.status == "y" {
			t.at = lsn
		} else {
			t.emptied = lsn
		}
		w.syncing[t.schema+"."+t.name] = t
	}
	return rows.Err()
}

// tableSyncs copies tables that are wanted, between two transactions, and lets
// those follow that the stream has reached.
func (w *Worker) tableSyncs(ctx context.Context) error {
	if err := w.outlive(ctx); err != nil {
		return err
	}
	if err := w.wantTables(ctx); err != nil {
		return err
	}
	if err := w.loadSyncing(ctx); err != nil {
		return err
	}
	looks := seenLooks
	for key, t := range w.syncing {
		switch {
		case t.part: // goes with the whole
		case t.status == "y" && t.at <= max(w.applier.reached, w.idle):
			if err := w.tableState(ctx, t.schema, t.name, "r", t.at); err != nil {
				return err
			}
			delete(w.syncing, key)
		case t.status != "y" && t.status != "f" && w.postponed.due(key, time.Now()):
			n, ready, err := w.ready(ctx, key, t, &looks)
			if err != nil {
				return err
			}
			if !ready {
				continue
			}
			if err := w.syncTable(ctx, t, n); err != nil {
				w.postponed.put(key, time.Now())
				err = fmt.Errorf("synchronise table %s.%s: %w", t.schema, t.name, err)
				if _, only := errors.AsType[*fullError](err); !only {
					return err
				}
				if err := w.noteTable(ctx, err, w.postponed[key].delay); err != nil {
					return err
				}
				continue
			}
			delete(w.postponed, key)
		}
	}
	return nil
}

// postponed are tables whose copy has to wait, or has failed, and when each is
// tried again: one that cannot be copied must not keep the stream from going on.
type postponed map[string]struct {
	until time.Time
	delay time.Duration
	noted *noted
	told  bool // what the copy waits for was said
}

const (
	firstPostponement   = time.Second
	longestPostponement = 30 * time.Second
)

func (p postponed) due(table string, now time.Time) bool { return !now.Before(p[table].until) }

func (p postponed) put(table string, now time.Time) {
	at := p[table]
	at.delay = min(max(2*at.delay, firstPostponement), longestPostponement)
	at.until = now.Add(at.delay)
	p[table] = at
}

// fullError is what the copy of a table ends with that has not begun, since the
// provider has no slot or no session to spare, or no rows: the stream has all it needs.
type fullError struct{ error }

func (e *fullError) Unwrap() error { return e.error }

// noteTable keeps for the operator why a table is not copied, while the stream
// goes on: the subscription's state stays as it is.
func (w *Worker) noteTable(ctx context.Context, err error, delay time.Duration) error {
	w.log.With("sqlstate", sqlState(err), "delay", delay).WarnContext(ctx, "table is not copied yet, the others go on", told(err)...)
	if _, err := w.db.Exec(ctx, `UPDATE spock.pgdrover_subscription SET last_error = $2, last_error_code = $3, last_error_at = clock_timestamp(),
		last_hint = nullif($4, '') WHERE sub_id = $1`, w.sub.id, err.Error(), sqlState(err), hintOf(err)); err != nil {
		return fmt.Errorf("store error of table: %w", err)
	}
	return nil
}

// wantTables does what sub_alter_sync could not: it asks the provider for the
// tables of the sets.
func (w *Worker) wantTables(ctx context.Context) error {
	var requested, empty bool
	err := w.db.QueryRow(ctx, "SELECT sync_requested, sync_truncate FROM spock.pgdrover_subscription WHERE sub_id = $1", w.sub.id).
		Scan(&requested, &empty)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && !requested {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read subscription: %w", err)
	}
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return err
	}
	result := conn.ExecParams(ctx, `SELECT DISTINCT t.nspname, t.relname FROM spock.tables t JOIN pg_class c ON c.oid = t.relid
		WHERE NOT c.relispartition AND t.set_name = ANY ($1::text[])`, [][]byte{[]byte(arrayText(w.sub.sets))}, nil, nil, nil).Read()
	if result.Err != nil {
		return fmt.Errorf("read tables of provider: %w", result.Err)
	}
	schemas, names := []string{}, []string{}
	for _, row := range result.Rows {
		schemas, names = append(schemas, string(row[0])), append(names, string(row[1]))
	}
	if _, err := w.db.Exec(ctx, "SELECT pgdrover.sync_tables($1, $2::text[]::name[], $3::text[]::name[], $4)", w.sub.id, schemas, names, empty); err != nil {
		return fmt.Errorf("want tables: %w", err)
	}
	return nil
}

func (w *Worker) tableState(ctx context.Context, schema, name, status string, at pg.LSN) error {
	_, err := w.db.Exec(ctx, `UPDATE spock.local_sync_status SET sync_status = $4::text::"char", sync_statuslsn = $5::text::pg_lsn
		WHERE sync_subid = $1 AND sync_nspname = $2 AND sync_relname = $3`, w.sub.id, schema, name, status, at.String())
	if err != nil {
		return fmt.Errorf("store state of table: %w", err)
	}
	return nil
}

// syncTable copies one table at a snapshot whose position is not before the
// stream's. The stream waits meanwhile; the provider keeps what it holds.
func (w *Worker) syncTable(ctx context.Context, t tableSync, n *noted) error {
	// A worker that has not heard yet of a set that was taken up would copy nothing of its tables.
	var current bool
	if err := w.db.QueryRow(ctx, "SELECT coalesce(sub_replication_sets, '{}') = $1::text::text[] FROM spock.subscription WHERE sub_id = $2",
		arrayText(w.sub.sets), w.sub.id).Scan(&current); err != nil {
		return fmt.Errorf("read subscription: %w", err)
	}
	if !current {
		return errChanged
	}
	if err := w.passBorder(ctx); err != nil {
		return err
	}
	w.log.InfoContext(ctx, "copy table", "table", t.schema+"."+t.name)
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(t.schema + "." + t.name))
	name := fmt.Sprintf("%.54s_%08x", w.sub.slot, hash.Sum32())
	c, err := w.openCopy(ctx, walreceiver.SlotConfig{Name: name, Plugin: "pgoutput", Temporary: true, Snapshot: walreceiver.SnapshotExport})
	if pgerrcode.IsInsufficientResources(sqlState(err)) {
		return &fullError{err}
	}
	if err != nil {
		return err
	}
	defer c.close(context.WithoutCancel(ctx))
	c.noted = n
	// Slots wait for every transaction of the provider's that writes: it may have
	// emptied the table meanwhile, and who asks now would not be told of the snapshot.
	if n == nil || !n.first {
		there, err := emptiedThere(ctx, c.provider, t.schema, t.name)
		if err != nil {
			return err
		}
		if len(there) > 0 {
			return &fullError{errEmptied}
		}
	}
	if err := w.tableState(ctx, t.schema, t.name, "d", t.emptied); err != nil {
		return err
	}
	// The session that applies lends its origin to the one that copies.
	if err := w.applier.session.run(ctx, "SELECT pg_replication_origin_session_reset()"); err != nil {
		return fmt.Errorf("lend origin: %w", err)
	}
	c.origin = w.sub.slot
	if err := w.openLocal(ctx, &c.lane); err != nil {
		return err
	}
	tables, err := c.tables(ctx)
	if err != nil {
		return err
	}
	tables = slices.DeleteFunc(tables, func(x copied) bool {
		return x.schema != t.schema || x.name != t.name && x.parent != t.schema+"."+t.name
	})
	for i, candidate := range tables {
		if i == len(tables)-1 {
			// Data and state commit together: nothing is copied twice.
			c.with = fmt.Sprintf("UPDATE spock.local_sync_status SET sync_status = 'y', sync_statuslsn = '%s'"+
				" WHERE sync_subid = %d AND sync_nspname = %s AND sync_relname = %s",
				c.point, w.sub.id, pg.QuoteLiteral(t.schema), pg.QuoteLiteral(t.name))
		}
		if err := c.look(ctx, c.local, &candidate); err != nil {
			return err
		}
		if candidate.merged {
			if err := w.markAll(ctx); err != nil {
				return err
			}
		}
		if err := c.copyPiece(ctx, &c.lane, &piece{copied: candidate, whole: true}); err != nil {
			return err
		}
		w.log.InfoContext(ctx, "table copied", "table", candidate.schema+"."+candidate.name)
	}
	c.closeLocal(ctx)
	if err := w.applier.session.run(ctx, "SELECT pg_replication_origin_session_setup("+pg.QuoteLiteral(w.sub.slot)+")"); err != nil {
		return fmt.Errorf("take origin back: %w", err)
	}
	if err := w.watch(ctx); err != nil {
		return err
	}
	w.applier.epoch++
	if err := w.tableState(ctx, t.schema, t.name, "y", c.point); err != nil {
		return err
	}
	return w.loadSyncing(ctx)
}

// synchronise brings a new subscription to the point where its stream begins.
func (w *Worker) synchronise(ctx context.Context) error {
	var kind, status string
	err := w.db.QueryRow(ctx, `SELECT sync_kind::text, sync_status::text FROM spock.local_sync_status
		WHERE sync_subid = $1 AND sync_relname IS NULL`, w.sub.id).Scan(&kind, &status)
	if errors.Is(err, pgx.ErrNoRows) || status == "r" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read state of subscription: %w", err)
	}
	w.log.InfoContext(ctx, "initial synchronisation", "kind", kind, "status", status)
	if err := w.state(ctx, "copying"); err != nil {
		return err
	}
	if status == "u" {
		return w.subState(ctx, "r", 0)
	}
	return w.initial(ctx, kind, status)
}

// subState stores the state of the subscription, on disk: who has seen that it
// follows writes what it is to bring, and a server that crashed then and had
// forgotten would begin with a new slot behind that.
func (w *Worker) subState(ctx context.Context, status string, at pg.LSN) error {
	err := pgx.BeginFunc(ctx, w.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = local"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE spock.local_sync_status SET sync_status = $2::text::"char", sync_statuslsn = $3::text::pg_lsn
			WHERE sync_subid = $1 AND sync_relname IS NULL`, w.sub.id, status, at.String())
		return err
	})
	if err != nil {
		return fmt.Errorf("store state of subscription: %w", err)
	}
	return nil
}

// initial copies structure and data. What an earlier attempt has left is known
// from the status and the journal: structure is restored in one transaction and
// stays. Its slot goes on where its snapshot was, so that tables that were copied
// stay too, and the others follow the stream from their own snapshot on.
func (w *Worker) initial(ctx context.Context, kind, status string) error {
	exact := false
	if kind != "i" { // else nothing is copied in which others' work could be
		release, all, err := w.askExact(ctx)
		if err != nil {
			return err
		}
		defer release()
		exact = all
	}
	if kind == "f" || kind == "d" {
		conn, err := w.applier.peers.connect(ctx, w.sub.provider)
		if err != nil {
			return err
		}
		if err := whole(ctx, conn); err != nil {
			return err
		}
	}
	start, resumed, err := w.resumable(ctx, status)
	if err != nil {
		return err
	}
	c, shared, err := w.beginCopy(ctx, start, resumed)
	if err != nil {
		return err
	}
	defer c.close(context.WithoutCancel(ctx))
	if kind == "f" || kind == "d" { // it may not have been, when the snapshot was taken
		if err := whole(ctx, c.provider); err != nil {
			return err
		}
	}
	if !resumed {
		start = c.point
		if err := w.copySets(ctx, c.provider); err != nil {
			return err
		}
		if kind != "i" {
			if err := w.copyPeers(ctx, c, shared, exact); err != nil {
				return err
			}
		}
	}
	if err := w.copyWhole(ctx, c, kind, status, start, resumed); err != nil {
		return err
	}
	if err := w.watch(ctx); err != nil {
		return err
	}
	if _, err := w.db.Exec(ctx, "SELECT pg_replication_origin_advance($1, $2::text::pg_lsn)", w.sub.slot, start.String()); err != nil {
		return fmt.Errorf("set origin: %w", err)
	}
	if err := w.subState(ctx, "u", start); err != nil {
		return err
	}
	return w.subState(ctx, "r", start)
}

// whole makes sure that a node has not emptied tables whose rows it waits for.
func whole(ctx context.Context, conn *pgconn.PgConn) error {
	there, err := emptiedThere(ctx, conn, "", "")
	if err == nil && len(there) > 0 {
		err = errEmptied
	}
	return err
}

// beginCopy opens the snapshot to be copied: one that other nodes copy too, when
// there is one, or a new one.
func (w *Worker) beginCopy(ctx context.Context, start pg.LSN, resumed bool) (c *copier, shared bool, err error) {
	slot := walreceiver.SlotConfig{Name: w.sub.slot, Plugin: "pgoutput", Snapshot: walreceiver.SnapshotExport}
	if resumed {
		w.log.InfoContext(ctx, "go on with initial synchronisation", "lsn", start.String())
		slot.Name, slot.Temporary = fmt.Sprintf("%.58s_more", w.sub.slot), true
	} else {
		if c, err = w.openShared(ctx); err != nil {
			return nil, false, err
		}
		if c != nil {
			if err = whole(ctx, c.provider); err == nil {
				return c, true, nil
			}
			c.close(context.WithoutCancel(ctx))
			if !errors.Is(err, errEmptied) {
				return nil, false, err
			}
			// It stays as it is for as long as it is held.
			w.log.InfoContext(ctx, "copy a snapshot of our own: the shared one lacks rows", "error", err)
		}
		if err := w.dropLeftover(ctx); err != nil {
			return nil, false, err
		}
	}
	c, err = w.openCopy(ctx, slot)
	return c, false, err
}

// copyWhole brings structure and data.
func (w *Worker) copyWhole(ctx context.Context, c *copier, kind, status string, start pg.LSN, resumed bool) error {
	structure, data := kind == "f" || kind == "s", kind == "f" || kind == "d"
	var dump *dump
	if c.made = structure; structure {
		var err error
		if dump, err = c.dumpStructure(ctx); err != nil {
			return err
		}
		defer dump.remove()
		if err := w.restoreTables(ctx, c, dump, status); err != nil {
			return err
		}
	}
	if status != "c" || !resumed {
		if err := w.subState(ctx, "d", start); err != nil {
			return err
		}
		if data {
			if err := c.sayOutside(ctx); err != nil {
				return err
			}
			if err := c.copyAll(ctx, kind, resumed); err != nil {
				return err
			}
		}
	}
	if !structure {
		return nil
	}
	if err := w.subState(ctx, "c", start); err != nil {
		return err
	}
	if err := w.restoreRest(ctx, c, dump, status == "c"); err != nil {
		return err
	}
	if err := w.assignTables(ctx, c); err != nil {
		return err
	}
	return c.copyDeltas(ctx)
}

// resumable tells whether an attempt that did not come to its end can be gone on
// with, and where its stream begins. Where the provider follows other nodes it
// cannot: this node would go on with those where the first snapshot was.
func (w *Worker) resumable(ctx context.Context, status string) (pg.LSN, bool, error) {
	if status != "d" && status != "c" {
		return 0, false, nil
	}
	var at string
	if err := w.db.QueryRow(ctx, "SELECT sync_statuslsn::text FROM spock.local_sync_status WHERE sync_subid = $1 AND sync_relname IS NULL",
		w.sub.id).Scan(&at); err != nil {
		return 0, false, fmt.Errorf("read state of subscription: %w", err)
	}
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return 0, false, err
	}
	result := conn.ExecParams(ctx, `SELECT 1 FROM pg_replication_slots WHERE slot_name = $1 AND NOT active AND wal_status IS DISTINCT FROM 'lost'
		AND confirmed_flush_lsn <= $2::text::pg_lsn AND NOT EXISTS (SELECT FROM spock.subscription s WHERE s.sub_enabled AND s.sub_origin <> $3::text::oid)`,
		[][]byte{[]byte(w.sub.slot), []byte(at), fmt.Append(nil, uint32(w.engine.node))}, nil, nil, nil).Read()
	if result.Err != nil {
		return 0, false, fmt.Errorf("look for slot of an earlier attempt: %w", result.Err)
	}
	start, err := pg.ParseLSN(at)
	return start, len(result.Rows) > 0, err
}

const (
	// inexactQuery counts the streams of a node whose progress is not in its
	// snapshots, and those of them that run. One that has yet to begin, because its
	// own copy comes first, has applied nothing, and may wait for us in turn: it does
	// not count, unless positions are wanted of all.
	inexactQuery = `SELECT count(*), count(*) FILTER (WHERE coalesce(p.state, '') NOT IN ('down', 'refused'))
		FROM spock.subscription s JOIN spock.local_sync_status y ON y.sync_subid = s.sub_id AND y.sync_relname IS NULL AND (y.sync_status = 'r' OR $3)
		LEFT JOIN spock.pgdrover_subscription p USING (sub_id) WHERE s.sub_enabled AND s.sub_origin <> $1 AND NOT EXISTS (
		SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.classid = $2 AND l.objid = s.sub_id AND l.objsubid = 2
		AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))`
	// exactPatience is how long a provider whose engine runs may take, and
	// downPatience how long its streams may be down: a third node that is away
	// must not keep another one from joining.
	exactPatience = 2 * time.Minute
	downPatience  = 10 * time.Second
)

// errInexact is what a copy ends with that would be of no use.
var errInexact = errors.New("the provider does not say how far it has applied other nodes' changes, with which this node is to go on")

// positionsWanted tells whether a subscription waits to hear from this copy where
// it begins: one that is not enabled and has no position.
func (w *Worker) positionsWanted(ctx context.Context) (wanted bool, err error) {
	if err := w.db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM spock.subscription s JOIN spock.local_node l ON l.node_id = s.sub_target
		LEFT JOIN pg_replication_origin_status p ON p.external_id = s.sub_slot_name
		WHERE NOT s.sub_enabled AND s.sub_origin <> $1 AND coalesce(p.remote_lsn, '0/0') = '0/0')`, uint32(w.sub.provider)).Scan(&wanted); err != nil {
		return false, fmt.Errorf("look for subscriptions that wait: %w", err)
	}
	return wanted, nil
}

// askExact asks the provider's workers to write their progress into each
// transaction that they apply, and waits until they all do, or for as long as
// that is worth it.
func (w *Worker) askExact(ctx context.Context) (release func(), exact bool, err error) {
	wanted, err := w.positionsWanted(ctx)
	if err != nil {
		return nil, false, err
	}
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return nil, false, err
	}
	if err := runAll(ctx, conn, fmt.Sprintf("SELECT pg_advisory_lock_shared(%d, 0)", lockJoin)); err != nil {
		return nil, false, fmt.Errorf("ask provider for exact progress: %w", err)
	}
	release = func() {
		_ = runAll(context.WithoutCancel(ctx), conn, fmt.Sprintf("SELECT pg_advisory_unlock_shared(%d, 0)", lockJoin)) // or with the session
	}
	for began := time.Now(); ; {
		left, running, err := w.inexact(ctx, conn, wanted)
		if err != nil {
			release()
			return nil, false, err
		}
		switch waited := time.Since(began); {
		case left == "0":
			return release, true, nil
		case wanted && waited > exactPatience:
			release()
			return nil, false, errInexact
		case waited > exactPatience || !wanted && running == "0" && waited > downPatience:
			return release, false, nil
		}
		runs, err := one(conn.ExecParams(ctx, "SELECT pgdrover.engine_connected()", nil, nil, nil, nil).Read())
		switch {
		case err != nil:
			release()
			return nil, false, fmt.Errorf("ask provider for its engine: %w", err)
		case string(runs[0]) == "f" && !wanted:
			return release, false, nil
		}
		if !sleep(ctx, lookEvery) {
			release()
			return nil, false, context.Cause(ctx)
		}
	}
}

func (w *Worker) inexact(ctx context.Context, conn *pgconn.PgConn, all bool) (left, running string, err error) {
	result := conn.ExecParams(ctx, inexactQuery, [][]byte{fmt.Append(nil, uint32(w.engine.node)), fmt.Append(nil, lockExact), fmt.Append(nil, all)},
		[]uint32{oidOID, oidOID, 16}, nil, nil).Read()
	if result.Err != nil {
		return "", "", fmt.Errorf("ask provider for exact progress: %w", result.Err)
	}
	return string(result.Rows[0][0]), string(result.Rows[0][1]), nil
}

// errBegan is what a copy ends with that a stream of the provider's has begun
// beside: the next one finds it at work.
var errBegan = errors.New("read progress of provider: one of its streams has just begun, or begun again")

// copyPeers takes over how far the provider has applied the other nodes' changes
// in the snapshot: there this node may go on with them. Who has made a shared one
// has seen before that the provider says so.
func (w *Worker) copyPeers(ctx context.Context, c *copier, shared, exact bool) error {
	wanted, err := w.positionsWanted(ctx)
	if err != nil {
		return err
	}
	left, _, err := w.inexact(ctx, c.provider, wanted)
	if err != nil {
		return err
	}
	if left != "0" && (exact || wanted) && !shared {
		return errBegan
	}
	if left != "0" && !shared {
		w.log.WarnContext(ctx, "the provider does not say how far it has applied other nodes' changes: not all its workers run", "workers", left)
		return nil
	}
	result := c.provider.ExecParams(ctx, `SELECT s.sub_origin, max(p.remote_lsn), max(p.remote_commit_ts)
		FROM spock.subscription s JOIN spock.local_sync_status y ON y.sync_subid = s.sub_id AND y.sync_relname IS NULL AND (y.sync_status = 'r' OR $2)
		LEFT JOIN spock.pgdrover_progress p USING (sub_id) WHERE s.sub_enabled AND s.sub_origin <> $1 GROUP BY s.sub_origin`,
		[][]byte{fmt.Append(nil, uint32(w.engine.node)), fmt.Append(nil, wanted)}, []uint32{oidOID, 16}, nil, nil).Read()
	if result.Err != nil {
		return fmt.Errorf("read progress of provider: %w", result.Err)
	}
	for _, row := range result.Rows {
		if row[1] == nil && shared {
			continue
		}
		if row[1] == nil {
			return errBegan
		}
		if _, err := w.db.Exec(ctx, `SELECT pgdrover.store_progress($1::text::oid, $2::text::timestamptz, $3::text::pg_lsn, $3::text::pg_lsn,
			$3::text::pg_lsn, false) WHERE NOT EXISTS (SELECT FROM spock.subscription s WHERE s.sub_origin = $1::text::oid AND s.sub_enabled)`,
			string(row[0]), string(row[2]), string(row[1])); err != nil {
			return fmt.Errorf("store progress of provider: %w", err)
		}
	}
	return nil
}

// dropLeftover drops the slot of an attempt that did not come to its end.
func (w *Worker) dropLeftover(ctx context.Context) error {
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return err
	}
	result := conn.ExecParams(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
		WHERE slot_name = $1 AND database = current_database() AND NOT active`, [][]byte{[]byte(w.sub.slot)}, nil, nil, nil).Read()
	if result.Err != nil {
		return fmt.Errorf("drop slot of an earlier attempt: %w", result.Err)
	}
	return w.forgetAttempt(ctx)
}

// forgetAttempt forgets what an earlier attempt has noted here.
func (w *Worker) forgetAttempt(ctx context.Context) error {
	if _, err := w.db.Exec(ctx, "DELETE FROM spock.local_sync_status WHERE sync_subid = $1 AND sync_relname IS NOT NULL", w.sub.id); err != nil {
		return fmt.Errorf("forget copied tables: %w", err)
	}
	_, err := w.db.Exec(ctx, "SELECT pgdrover.origin_reset($1)", w.sub.slot)
	if err != nil {
		return fmt.Errorf("reset origin: %w", err)
	}
	return nil
}

// failoverSlots is the first major version whose standbys keep copies of slots.
const failoverSlots = 17

// openCopy makes a slot and opens a session on the snapshot at which it begins.
func (w *Worker) openCopy(ctx context.Context, slot walreceiver.SlotConfig) (*copier, error) {
	c := &copier{w: w}
	var err error
	if c.receiver, err = w.dialProvider(ctx, w.sub.name+"_snap"); err != nil {
		return nil, err
	}
	// Standbys that keep a copy of the slot let the stream survive a failover of the provider.
	slot.Failover = !slot.Temporary && c.receiver.Major() >= failoverSlots
	made, err := c.receiver.CreateSlot(ctx, slot)
	if err != nil {
		c.close(context.WithoutCancel(ctx))
		return nil, err
	}
	c.point, c.snapshot = made.ConsistentPoint, made.Snapshot
	if err := c.openProvider(ctx, &c.lane); err != nil {
		c.close(context.WithoutCancel(ctx))
		return nil, err
	}
	if err := c.findRecent(ctx); err != nil {
		c.close(context.WithoutCancel(ctx))
		return nil, err
	}
	return c, nil
}

func runAll(ctx context.Context, conn *pgconn.PgConn, text string) error {
	_, err := conn.Exec(ctx, text).ReadAll()
	return err
}

// closeTime bounds how long connections take to be closed.
const closeTime = 5 * time.Second

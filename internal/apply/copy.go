package apply

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/walreceiver"
)

// copier copies tables from one snapshot of the provider.
type copier struct {
	w        *Worker
	receiver *walreceiver.Conn // holds the snapshot, and a slot
	lane                       // the first
	point    pg.LSN
	snapshot string
	with     string // a statement for the transaction of the copy
	noted    *noted // what was here when it was asked for; nil when nobody did
	made     bool   // the tables came with the copy
	recent   recent
	pace     *pace
	jobs     int   // sessions at a time; 0 leaves it to us
	pages    int64 // of all tables
}

// lane is a pair of sessions that copy: one reads from the snapshot, the other
// writes under an origin of the provider's, so that nobody is sent the copy.
type lane struct {
	provider *pgconn.PgConn
	local    *pgconn.PgConn
	origin   string
}

// copied is a table to be copied.
type copied struct {
	schema, name string
	parent       string // of a partition
	columns      []string
	filters      []string
	pages        int64
	size         int64  // bytes on the provider's disk, with what is stored aside
	merged       bool   // something is here already
	fresh        bool   // nothing has ever been here
	looked       string // when that was asked for, by this server's clock
}

// piece is a range of a table's blocks, copied in one transaction.
type piece struct {
	copied
	n           int
	first, last int64 // last is 0 where it is the end
	whole       bool  // there is no other
	bytes       atomic.Int64
}

// piecePages is the size of a piece in blocks: 64 MB.
const piecePages = 8192

// cut makes pieces of a table, of so many blocks.
func (t copied) cut(size int64) []*piece {
	if t.pages < 2*size || t.merged || t.fresh {
		return []*piece{{copied: t, whole: true}}
	}
	var all []*piece
	for first := int64(0); first < t.pages; first += size {
		p := &piece{copied: t, n: len(all), first: first, last: first + size}
		if p.last >= t.pages {
			p.last = 0 // what was added since the table was last measured, too
		}
		all = append(all, p)
	}
	return all
}

// share is how much of its table's size a piece has to expect, in bytes.
func (p *piece) share() int64 {
	last := p.last
	if last == 0 {
		last = p.pages
	}
	if p.whole || p.pages == 0 {
		return p.size
	}
	return p.size / p.pages * (last - p.first)
}

// where is the condition for the rows of a piece.
func (p *piece) where(alias string) string {
	if p.whole {
		return "true"
	}
	text := fmt.Sprintf("%sctid >= '(%d,0)'", alias, p.first)
	if p.last != 0 {
		text += fmt.Sprintf(" AND %sctid < '(%d,0)'", alias, p.last)
	}
	return text
}

func (t copied) quoted() string { return pg.QuoteIdent(t.schema) + "." + pg.QuoteIdent(t.name) }

func (c *copier) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	c.lane.close(ctx)
	if c.receiver != nil {
		_ = c.receiver.Close(ctx)
	}
}

func (l *lane) close(ctx context.Context) {
	l.closeLocal(ctx)
	if l.provider != nil {
		_ = l.provider.Close(ctx)
	}
}

func (l *lane) closeLocal(ctx context.Context) {
	if l.local == nil {
		return
	}
	// A session that merely ends keeps its origin for a moment.
	if !l.local.IsClosed() && l.local.TxStatus() == 'I' {
		_ = runAll(ctx, l.local, "SELECT pg_replication_origin_session_reset()")
	}
	_ = l.local.Close(ctx)
	l.local = nil
}

func (w *Worker) openLocal(ctx context.Context, l *lane) error {
	var err error
	if l.local, err = dial(ctx, w.engine.cfg.ConnInfo.DSN(), fmt.Sprintf("spock sync %d:%d", w.engine.database, w.sub.id),
		sessionSettings(false)); err != nil {
		return fmt.Errorf("connect to local database: %w", err)
	}
	if err := runAll(ctx, l.local, "SELECT pg_replication_origin_session_setup("+pg.QuoteLiteral(l.origin)+")"); err != nil {
		return fmt.Errorf("take over origin: %w", err)
	}
	return nil
}

// openProvider opens a session on the snapshot.
func (c *copier) openProvider(ctx context.Context, l *lane) error {
	var err error
	if l.provider, err = dialCopy(ctx, c.w.engine.peerDSN(c.w.sub.dsn), c.w.sub.name+"_copy"); err == nil {
		err = runAll(ctx, l.provider, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT "+pg.QuoteLiteral(c.snapshot))
	}
	if err != nil {
		return fmt.Errorf("open snapshot on provider: %w", err)
	}
	return nil
}

// tables are the provider's tables in the subscribed sets, at the snapshot.
// Partitions are copied, their parents are not.
func (c *copier) tables(ctx context.Context) ([]copied, error) {
	const query = `SELECT n.nspname, r.relname,
		coalesce((SELECT pn.nspname || '.' || p.relname FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent
			JOIN pg_namespace pn ON pn.oid = p.relnamespace WHERE h.inhrelid = r.oid AND r.relispartition), ''),
		(SELECT array_agg(DISTINCT a)::text FROM spock.replication_set_table u JOIN spock.replication_set v USING (set_id),
			unnest(u.set_att_list) a WHERE u.set_reloid = r.oid AND v.set_name = ANY ($1::text[]) AND v.set_nodeid = l.node_id),
		(SELECT array_agg(pg_get_expr(f.set_row_filter, f.set_reloid))::text FROM spock.replication_set_table f JOIN spock.replication_set v USING (set_id)
			WHERE f.set_row_filter IS NOT NULL AND f.set_reloid = r.oid AND v.set_name = ANY ($1::text[]) AND v.set_nodeid = l.node_id),
		EXISTS (SELECT FROM spock.replication_set_table u JOIN spock.replication_set v USING (set_id)
			WHERE u.set_reloid = r.oid AND v.set_name = ANY ($1::text[]) AND v.set_nodeid = l.node_id
			  AND NOT EXISTS (SELECT FROM spock.pgdrover_row_filter f WHERE f.set_id = u.set_id AND f.set_reloid = u.set_reloid::oid)),
		pg_relation_size(r.oid) / current_setting('block_size')::int8, pg_table_size(r.oid)
		FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace CROSS JOIN spock.local_node l
		WHERE r.relkind = 'r' AND r.oid IN (SELECT t.set_reloid FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)
			WHERE s.set_nodeid = l.node_id AND s.set_name = ANY ($1::text[]))
		ORDER BY 8 DESC, 1, 2`
	result := c.provider.ExecParams(ctx, query, [][]byte{[]byte(arrayText(c.w.sub.sets))}, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, fmt.Errorf("read tables of provider: %w", result.Err)
	}
	var all []copied
	for _, row := range result.Rows {
		t := copied{schema: string(row[0]), name: string(row[1]), parent: string(row[2])}
		var err error
		if t.pages, err = strconv.ParseInt(string(row[6]), 10, 64); err != nil {
			return nil, fmt.Errorf("read tables of provider: %w", err)
		}
		if t.size, err = strconv.ParseInt(string(row[7]), 10, 64); err != nil {
			return nil, fmt.Errorf("read tables of provider: %w", err)
		}
		if row[3] != nil {
			if t.columns, err = parseTextArray(string(row[3])); err != nil {
				return nil, err
			}
		}
		// Filters of several sets are joined with OR here, and a set without one lets all rows through.
		if row[4] != nil && string(row[5]) == "f" {
			if t.filters, err = parseTextArray(string(row[4])); err != nil {
				return nil, err
			}
		}
		all = append(all, t)
	}
	return all, nil
}

// arrayText writes {a,"b c"}.
func arrayText(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
	}
	return "{" + strings.Join(quoted, ",") + "}"
}

// copyAll copies all tables of the sets that are not there yet, a few at a time.
// Each is followed from the position of this snapshot on, which is that of the
// stream unless the copy has begun with an earlier one.
func (c *copier) copyAll(ctx context.Context, kind string, resumed bool) error {
	tables, err := c.tables(ctx)
	if err != nil {
		return err
	}
	for _, t := range tables {
		c.pages += t.pages
	}
	done, err := c.w.copiedTables(ctx)
	if err != nil {
		return err
	}
	c.origin = c.w.sub.slot
	if err := c.w.openLocal(ctx, &c.lane); err != nil {
		return err
	}
	defer c.closeLocal(context.WithoutCancel(ctx))
	ended, err := c.readPace(ctx)
	if err != nil {
		return err
	}
	defer ended()
	tables = slices.DeleteFunc(tables, func(t copied) bool {
		return slices.Contains(c.w.sub.schemas, t.schema) || done[t.schema+"."+t.name]
	})
	var pieces []*piece
	for _, t := range tables {
		if err := c.startOver(ctx, t); err != nil {
			return err
		}
		if err := errors.Join(c.look(ctx, c.local, &t), c.findFresh(ctx, &t)); err != nil {
			return err
		}
		pieces = append(pieces, t.cut(c.w.engine.piece)...)
	}
	if slices.ContainsFunc(pieces, func(p *piece) bool { return p.merged }) {
		if err := c.w.markAll(ctx); err != nil {
			return err
		}
	}
	if err := c.plan(ctx, pieces); err != nil {
		return err
	}
	status := "r"
	if resumed {
		status = "y"
	}
	return c.copyPieces(ctx, pieces, func(ctx context.Context, t copied) error {
		_, err := c.w.db.Exec(ctx, `INSERT INTO spock.local_sync_status
			(sync_kind, sync_subid, sync_nspname, sync_relname, sync_status, sync_statuslsn) VALUES ($1::text::"char", $2, $3, $4, $5::text::"char", $6::text::pg_lsn)
			ON CONFLICT (sync_subid, sync_nspname, sync_relname) DO UPDATE SET sync_status = excluded.sync_status, sync_statuslsn = excluded.sync_statuslsn`,
			kind, c.w.sub.id, t.schema, t.name, status, c.point.String())
		if err != nil {
			return fmt.Errorf("store state of table: %w", err)
		}
		return nil
	})
}

// look finds out whether a table has rows here, or deletes that the copy may not
// bring back. A table without a key that others send as well is never empty: what
// they send is in the copy, too. One that was just made will have its key later.
func (c *copier) look(ctx context.Context, conn *pgconn.PgConn, t *copied) error {
	name := pg.QuoteLiteral(t.quoted())
	row, err := one(conn.ExecParams(ctx, fmt.Sprintf(`SELECT statement_timestamp() - '10 s'::interval, EXISTS (SELECT FROM ONLY %s)
		OR EXISTS (SELECT FROM spock.pgdrover_tombstone d WHERE d.relid = %s::regclass AND NOT %s)
		OR %[5]t AND pgdrover.key_expression(%[2]s::regclass::oid, 'k') IS NULL AND EXISTS (SELECT FROM spock.subscription s JOIN spock.local_sync_status y
			ON y.sync_subid = s.sub_id AND y.sync_relname IS NULL AND y.sync_status = 'r' WHERE s.sub_enabled AND s.sub_origin <> '%[4]d')`,
		t.quoted(), name, c.noted.seen("d", uint32(c.w.engine.node)), uint32(c.w.sub.provider), !c.made), nil, nil, nil, nil).Read())
	if err != nil {
		return fmt.Errorf("look for rows of %s.%s: %w", t.schema, t.name, err)
	}
	if t.looked, t.merged = string(row[0]), string(row[1]) == "t"; t.merged {
		return nil
	}
	// Stamps of rows that went with the table's last contents.
	if err := runAll(ctx, conn, "DELETE FROM spock.pgdrover_stamp WHERE relid = "+name+"::regclass"); err != nil {
		return fmt.Errorf("forget stamps: %w", err)
	}
	return nil
}

// watch makes deletes in copied tables leave tombstones, before any of their
// changes has come by the stream.
func (w *Worker) watch(ctx context.Context) error {
	if _, err := w.db.Exec(ctx, `SELECT pgdrover.watch(r::oid) FROM spock.local_sync_status y,
		to_regclass(quote_ident(y.sync_nspname) || '.' || quote_ident(y.sync_relname)) r
		WHERE y.sync_subid = $1 AND y.sync_relname IS NOT NULL AND r IS NOT NULL`, w.sub.id); err != nil {
		return fmt.Errorf("watch deletes of copied tables: %w", err)
	}
	return nil
}

// copiedTables are those that an earlier attempt has finished.
func (w *Worker) copiedTables(ctx context.Context) (map[string]bool, error) {
	var names []string
	if err := w.db.QueryRow(ctx, `SELECT coalesce(array_agg(sync_nspname || '.' || sync_relname), '{}') FROM spock.local_sync_status
		WHERE sync_subid = $1 AND sync_relname IS NOT NULL AND sync_status IN ('r', 'y')`, w.sub.id).Scan(&names); err != nil {
		return nil, fmt.Errorf("read state of tables: %w", err)
	}
	done := map[string]bool{}
	for _, n := range names {
		done[n] = true
	}
	return done, nil
}

// plan writes the journal.
func (c *copier) plan(ctx context.Context, pieces []*piece) error {
	for _, p := range pieces {
		if _, err := c.w.db.Exec(ctx, `INSERT INTO spock.pgdrover_copy (sub_id, nspname, relname, piece, first_block, last_block, bytes_total)
			VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (sub_id, nspname, relname, piece) DO UPDATE SET state = 'wanted', bytes_done = 0,
			rows_done = 0, started_at = NULL, finished_at = NULL, bytes_total = excluded.bytes_total`,
			c.w.sub.id, p.schema, p.name, p.n, p.first, p.last, p.share()); err != nil {
			return fmt.Errorf("write journal of copy: %w", err)
		}
	}
	return nil
}

// maxLanes bounds how much is copied at a time.
const maxLanes = 4

// mostLanes is how many sessions may be at work at a time.
func (c *copier) mostLanes() int {
	if c.jobs > 0 {
		return c.jobs
	}
	return min(maxLanes, runtime.GOMAXPROCS(0))
}

// lanes opens as many as there is work and room for: each takes an origin, and a
// server has few.
func (c *copier) lanes(ctx context.Context, pieces int) []*lane {
	all := []*lane{&c.lane}
	for n := 1; n < min(c.mostLanes(), pieces); n++ {
		l := &lane{origin: fmt.Sprintf("%.57s_copy%d", c.w.sub.slot, n)}
		_, err := c.w.db.Exec(ctx, "SELECT pgdrover.origin_create($1, $2, $3, $4)", l.origin, uint32(c.w.sub.provider), c.w.sub.id, 100+n)
		if err == nil {
			err = c.w.openLocal(ctx, l)
		}
		if err == nil {
			err = c.openProvider(ctx, l)
		}
		if err != nil {
			c.w.log.InfoContext(ctx, "copy with fewer sessions", "sessions", n, "error", err)
			c.closeLane(ctx, l)
			return all
		}
		all = append(all, l)
	}
	return all
}

func (c *copier) closeLane(ctx context.Context, l *lane) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	l.close(ctx)
	if _, err := c.w.db.Exec(ctx, "SELECT pgdrover.origin_retire($1)", l.origin); err != nil {
		c.w.log.DebugContext(ctx, "origin of copy stays", "origin", l.origin, "error", err)
	}
}

// copyPieces copies pieces side by side; finish is called for each table when
// its last piece has committed.
func (c *copier) copyPieces(ctx context.Context, pieces []*piece, finish func(context.Context, copied) error) error {
	lanes := c.lanes(ctx, len(pieces))
	for _, l := range lanes[1:] {
		defer c.closeLane(ctx, l)
	}
	left := map[string]int{}
	for _, p := range pieces {
		left[p.quoted()]++
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	defer group.Wait()
	type result struct {
		p   *piece
		err error
	}
	work := make(chan *piece, len(pieces)) // holds all there is to do
	for _, p := range pieces {
		work <- p
	}
	close(work)
	results := make(chan result, len(pieces)) // nobody waits to say that he is done
	for _, l := range lanes {
		group.Go(func() {
			for p := range work {
				if ctx.Err() != nil {
					return
				}
				results <- result{p, c.copyPiece(ctx, l, p)}
			}
		})
	}
	tick := time.NewTicker(publicEvery)
	defer tick.Stop()
	for n := 0; n < len(pieces); {
		select {
		case r := <-results:
			n++
			if r.err != nil {
				cancel(r.err)
				return r.err
			}
			if left[r.p.quoted()]--; left[r.p.quoted()] == 0 {
				if err := finish(ctx, r.p.copied); err != nil {
					return err
				}
				c.w.log.InfoContext(ctx, "table copied", "table", r.p.schema+"."+r.p.name)
			}
		case <-tick.C:
			if err := c.showProgress(ctx, pieces); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (c *copier) showProgress(ctx context.Context, pieces []*piece) error {
	for _, p := range pieces {
		n := p.bytes.Load()
		if n == 0 {
			continue
		}
		if _, err := c.w.db.Exec(ctx, `UPDATE spock.pgdrover_copy SET state = 'copying', bytes_done = $5, started_at = coalesce(started_at, clock_timestamp())
			WHERE sub_id = $1 AND nspname = $2 AND relname = $3 AND piece = $4 AND state IN ('wanted', 'copying') AND bytes_done < $5`,
			c.w.sub.id, p.schema, p.name, p.n, n); err != nil {
			return fmt.Errorf("write journal of copy: %w", err)
		}
	}
	return nil
}

// startOver takes out of a table what an earlier attempt has copied, if only in part.
func (c *copier) startOver(ctx context.Context, t copied) error {
	table := [][]byte{fmt.Append(nil, c.w.sub.id), []byte(t.schema), []byte(t.name)}
	result := c.local.ExecParams(ctx, "SELECT 1 FROM spock.pgdrover_copy WHERE sub_id = $1 AND nspname = $2 AND relname = $3 AND state = 'done' LIMIT 1",
		table, nil, nil, nil).Read()
	if result.Err != nil {
		return fmt.Errorf("read journal of copy: %w", result.Err)
	}
	if len(result.Rows) == 0 {
		return nil
	}
	c.w.log.InfoContext(ctx, "copy table again", "table", t.schema+"."+t.name)
	// Only what the copy has written goes: it has the oldest stamp there is, under
	// an origin of the provider's, or one that is gone. Rows of other tables that
	// refer to these will find them again.
	if err := runAll(ctx, c.local, fmt.Sprintf(`DELETE FROM ONLY %s AS k WHERE (SELECT s."timestamp" = 'epoch' AND NOT EXISTS (SELECT FROM spock.pgdrover_origin o
			WHERE o.roident = s.roident AND o.node_id <> %d) FROM pg_xact_commit_timestamp_origin(k.xmin) s);
		DELETE FROM spock.pgdrover_stamp WHERE relid = %s::regclass;
		DELETE FROM spock.pgdrover_copy WHERE sub_id = %d AND nspname = %s AND relname = %s`, t.quoted(), uint32(c.w.sub.provider),
		pg.QuoteLiteral(t.quoted()), c.w.sub.id, pg.QuoteLiteral(t.schema), pg.QuoteLiteral(t.name))); err != nil {
		return fmt.Errorf("empty %s.%s: %w", t.schema, t.name, err)
	}
	return nil
}

// copyPiece copies a piece in one transaction. Its rows get the oldest stamp
// there is: every later change of them wins.
func (c *copier) copyPiece(ctx context.Context, l *lane, p *piece) error {
	columns, err := c.columnsOf(ctx, l, p.copied)
	if err != nil {
		return err
	}
	if p.merged && len(columns.names) > 0 {
		return c.merge(ctx, l, p, columns.names)
	}
	row, err := one(l.local.ExecParams(ctx, "SELECT "+pg.QuoteLiteral(p.quoted())+"::regclass::oid", nil, nil, nil, nil).Read())
	if err != nil {
		return fmt.Errorf("look for %s.%s: %w", p.schema, p.name, err)
	}
	oid, err := strconv.ParseUint(string(row[0]), 10, 32)
	if err != nil {
		return fmt.Errorf("look for %s.%s: %w", p.schema, p.name, err)
	}
	release, err := c.claim(ctx, uint32(oid))
	if err != nil {
		return err
	}
	if p.whole { // a stream may have been faster
		if err = c.look(ctx, l.local, &p.copied); err == nil && p.merged && len(columns.names) > 0 {
			release(false)
			return c.merge(ctx, l, p, columns.names)
		}
	}
	if err == nil {
		err = c.copyRows(ctx, l, p, columns)
	}
	release(err == nil)
	return err
}

// copyRows copies a piece into a table that has none of its rows.
func (c *copier) copyRows(ctx context.Context, l *lane, p *piece, columns columns) error {
	list, form := strings.Join(columns.names, ", "), columns.form
	source := "SELECT " + list + " FROM ONLY " + p.quoted() + " WHERE " + p.where("")
	if len(p.filters) > 0 {
		source += " AND ((" + strings.Join(p.filters, ") OR (") + "))"
	}
	target := "COPY " + p.quoted()
	if list != "" {
		target += " (" + list + ")"
	}
	if err := l.begin(ctx, p); err != nil {
		return fmt.Errorf("begin copy of %s.%s: %w", p.schema, p.name, errors.Join(err, l.rollback(ctx)))
	}
	there, here := " (FORMAT "+form+")", " (FORMAT "+form+")"
	if p.fresh {
		here = " (FORMAT " + form + ", FREEZE)"
	}
	rows, err := l.pipe(ctx, "COPY ("+source+") TO STDOUT"+there, target+" FROM STDIN"+here, columns.padded, &p.bytes, c.pace)
	if err == nil {
		err = errors.Join(l.unwritten(ctx, p.copied), c.undeleted(ctx, l, p))
	}
	if err != nil {
		return fmt.Errorf("copy %s.%s: %w", p.schema, p.name, errors.Join(err, l.rollback(ctx)))
	}
	if err := c.journal(ctx, l, p, rows); err != nil {
		return errors.Join(err, l.rollback(ctx))
	}
	if err := c.restamp(ctx, l, p); err != nil {
		return fmt.Errorf("copy stamps of %s.%s: %w", p.schema, p.name, errors.Join(err, l.rollback(ctx)))
	}
	if err := runAll(ctx, l.local, c.with+"; COMMIT"); err != nil {
		return fmt.Errorf("commit copy of %s.%s: %w", p.schema, p.name, err)
	}
	return nil
}

// errRewritten is what the copy of a table ends with that the provider has written
// anew since the snapshot, as an ALTER TABLE does that changes a type: whoever
// reads it with an older snapshot finds it empty. The next attempt has a newer one.
var errRewritten = errors.New("the provider has rewritten the table since the copy began")

// unwritten makes sure of that, once the table has been read: who has read it
// holds up everybody who would write it anew.
func (l *lane) unwritten(ctx context.Context, t copied) error {
	const query = `SELECT EXISTS (SELECT FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
		WHERE n.nspname = $1 AND r.relname = $2 AND r.relfilenode = coalesce(pg_relation_filenode(r.oid), 0))`
	row, err := one(l.provider.ExecParams(ctx, query, [][]byte{[]byte(t.schema), []byte(t.name)}, nil, nil, nil).Read())
	if err != nil {
		return fmt.Errorf("look whether the provider has rewritten the table: %w", err)
	}
	if string(row[0]) != "t" {
		return errRewritten
	}
	return nil
}

// errDeleted is what a copy ends with when a client has deleted, meanwhile, what
// it may just have brought: the next attempt knows of the delete.
var errDeleted = errors.New("rows were deleted here meanwhile")

// undeleted makes sure of that. What a client deletes once the copy's rows stand
// is deleted after them.
func (c *copier) undeleted(ctx context.Context, l *lane, p *piece) error {
	row, err := one(l.local.ExecParams(ctx, fmt.Sprintf(`SELECT EXISTS (SELECT FROM spock.pgdrover_tombstone d
		CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(d.xmin) s WHERE d.relid = %s::regclass AND coalesce(d.author, '%d') = '%[2]d'
		AND coalesce(d.commit_time, s."timestamp") >= %s AND NOT %s)`, pg.QuoteLiteral(p.quoted()), uint32(c.w.engine.node),
		pg.QuoteLiteral(p.looked), c.noted.seen("d", uint32(c.w.engine.node))), nil, nil, nil, nil).Read())
	if err != nil {
		return err
	}
	if string(row[0]) == "t" {
		return errDeleted
	}
	return nil
}

// journal notes that a piece is done.
func (c *copier) journal(ctx context.Context, l *lane, p *piece, rows int64) error {
	result := l.local.ExecParams(ctx, `INSERT INTO spock.pgdrover_copy (sub_id, nspname, relname, piece, state, bytes_done, rows_done, finished_at)
		VALUES ($1, $2, $3, $4, 'done', $5, $6, clock_timestamp()) ON CONFLICT (sub_id, nspname, relname, piece)
		DO UPDATE SET state = 'done', bytes_done = excluded.bytes_done, rows_done = excluded.rows_done, finished_at = excluded.finished_at`,
		[][]byte{
			fmt.Append(nil, c.w.sub.id), []byte(p.schema), []byte(p.name), fmt.Append(nil, p.n), fmt.Append(nil, p.bytes.Load()), fmt.Append(nil, rows),
		}, nil, nil, nil).Read()
	if result.Err != nil {
		return fmt.Errorf("write journal of copy: %w", result.Err)
	}
	return nil
}

func (l *lane) rollback(ctx context.Context) error {
	if l.local.IsClosed() {
		return nil
	}
	return runAll(ctx, l.local, "ROLLBACK")
}

// columns are what is copied of a table.
type columns struct {
	names  []string // quoted
	form   string   // of the COPY: binary or text
	padded []bool   // of type character(n), by column; nil in the form of text
}

// columnsOf are the columns of a table that are copied, without computed ones,
// and the form in which they are: binary where all are of the server's own types
// and the same on both sides. Those that name objects by their numbers are not
// the same anywhere.
func (c *copier) columnsOf(ctx context.Context, l *lane, t copied) (columns, error) {
	const query = `SELECT a.attname, a.atttypid, a.atttypid < 16384 AND NOT EXISTS (SELECT FROM pg_type e
			WHERE e.oid IN (t.oid, t.typelem) AND (e.typname LIKE 'reg%' OR e.typsend = 0 OR e.typreceive = 0)),
			a.atttypid = 'bpchar'::regtype AND a.atttypmod > 0
		FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_class r ON r.oid = a.attrelid JOIN pg_namespace n ON n.oid = r.relnamespace
		WHERE n.nspname = $1 AND r.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum`
	table := [][]byte{[]byte(t.schema), []byte(t.name)}
	there, here := l.provider.ExecParams(ctx, query, table, nil, nil, nil).Read(), l.local.ExecParams(ctx, query, table, nil, nil, nil).Read()
	if err := errors.Join(there.Err, here.Err); err != nil {
		return columns{}, fmt.Errorf("read columns of %s.%s: %w", t.schema, t.name, err)
	}
	types, padded := map[string]string{}, map[string]bool{}
	for _, row := range here.Rows {
		types[string(row[0])], padded[string(row[0])] = string(row[1]), string(row[3]) == "t"
	}
	all := columns{form: "binary"}
	for _, row := range there.Rows {
		name := string(row[0])
		if t.columns != nil && !slices.Contains(t.columns, name) {
			continue
		}
		all.names, all.padded = append(all.names, pg.QuoteIdent(name)), append(all.padded, padded[name])
		if string(row[2]) == "f" || types[name] != string(row[1]) || c.w.sub.text {
			all.form = "text"
		}
	}
	if all.names == nil {
		all.form = "text"
	}
	if all.form == "text" {
		all.padded = nil
	}
	return all, nil
}

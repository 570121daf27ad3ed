package apply

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/walreceiver"
)

// copier copies tables from one snapshot of the provider.
type copier struct {
	w        *Worker
	receiver *walreceiver.Conn // holds the snapshot, and a temporary slot
	provider *pgconn.PgConn    // reads
	local    *pgconn.PgConn    // writes, under the subscription's origin
	point    pg.LSN
	snapshot string
	with     string // a statement for the transaction of the copy
	recent   recent
}

// copied is a table to be copied.
type copied struct {
	schema, name string
	parent       string // of a partition
	columns      []string
	filters      []string
}

func (t copied) quoted() string { return pg.QuoteIdent(t.schema) + "." + pg.QuoteIdent(t.name) }

func (c *copier) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	c.closeLocal(ctx)
	if c.provider != nil {
		_ = c.provider.Close(ctx)
	}
	if c.receiver != nil {
		_ = c.receiver.Close(ctx)
	}
}

func (c *copier) closeLocal(ctx context.Context) {
	if c.local != nil {
		_ = c.local.Close(ctx)
		c.local = nil
	}
}

func (c *copier) openLocal(ctx context.Context) error {
	w := c.w
	var err error
	if c.local, err = dial(ctx, w.engine.cfg.ConnInfo.DSN(), fmt.Sprintf("spock sync %d:%d", w.engine.database, w.sub.id),
		sessionSettings(false)); err != nil {
		return fmt.Errorf("connect to local database: %w", err)
	}
	// The server may take a moment to see that another session has ended.
	text := "SELECT pg_replication_origin_session_setup(" + pg.QuoteLiteral(w.sub.slot) + ")"
	if err := runAll(ctx, c.local, text); err != nil {
		return fmt.Errorf("take over origin: %w", err)
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
		(SELECT array_agg(f.row_filter)::text FROM spock.pgdrover_row_filter f JOIN spock.replication_set v USING (set_id)
			WHERE f.set_reloid = r.oid AND v.set_name = ANY ($1::text[]) AND v.set_nodeid = l.node_id),
		EXISTS (SELECT FROM spock.replication_set_table u JOIN spock.replication_set v USING (set_id)
			WHERE u.set_reloid = r.oid AND v.set_name = ANY ($1::text[]) AND v.set_nodeid = l.node_id
			  AND NOT EXISTS (SELECT FROM spock.pgdrover_row_filter f WHERE f.set_id = u.set_id AND f.set_reloid = u.set_reloid::oid))
		FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace CROSS JOIN spock.local_node l
		WHERE r.relkind = 'r' AND r.oid IN (SELECT t.set_reloid FROM spock.replication_set_table t JOIN spock.replication_set s USING (set_id)
			WHERE s.set_nodeid = l.node_id AND s.set_name = ANY ($1::text[]))
		ORDER BY r.relpages DESC, 1, 2`
	result := c.provider.ExecParams(ctx, query, [][]byte{[]byte(arrayText(c.w.sub.sets))}, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, fmt.Errorf("read tables of provider: %w", result.Err)
	}
	var all []copied
	for _, row := range result.Rows {
		t := copied{schema: string(row[0]), name: string(row[1]), parent: string(row[2])}
		var err error
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

// copyAll copies all tables of the sets, each in one transaction with its line
// of the journal.
func (c *copier) copyAll(ctx context.Context, kind string) error {
	tables, err := c.tables(ctx)
	if err != nil {
		return err
	}
	if err := c.openLocal(ctx); err != nil {
		return err
	}
	defer func() {
		// A session that merely ends keeps its origin for a moment.
		if c.local != nil && !c.local.IsClosed() && c.local.TxStatus() == 'I' {
			_ = runAll(ctx, c.local, "SELECT pg_replication_origin_session_reset()")
		}
		c.closeLocal(ctx)
	}()
	skip := map[string]bool{}
	for _, s := range c.w.sub.schemas {
		skip[s] = true
	}
	for _, t := range tables {
		if skip[t.schema] {
			continue
		}
		if err := c.startOver(ctx, t); err != nil {
			return err
		}
		if err := c.copyTable(ctx, t); err != nil {
			return err
		}
		if _, err := c.w.db.Exec(ctx, `INSERT INTO spock.local_sync_status
			(sync_kind, sync_subid, sync_nspname, sync_relname, sync_status, sync_statuslsn) VALUES ($1::text::"char", $2, $3, $4, 'r', $5::text::pg_lsn)
			ON CONFLICT (sync_subid, sync_nspname, sync_relname) DO UPDATE SET sync_status = 'r', sync_statuslsn = excluded.sync_statuslsn`,
			kind, c.w.sub.id, t.schema, t.name, c.point.String()); err != nil {
			return fmt.Errorf("store state of table: %w", err)
		}
	}
	return nil
}

// startOver empties a table that an earlier attempt has filled.
func (c *copier) startOver(ctx context.Context, t copied) error {
	result := c.local.ExecParams(ctx, "SELECT 1 FROM spock.pgdrover_copy WHERE sub_id = $1 AND nspname = $2 AND relname = $3",
		[][]byte{fmt.Append(nil, c.w.sub.id), []byte(t.schema), []byte(t.name)}, nil, nil, nil).Read()
	if result.Err != nil {
		return fmt.Errorf("read journal of copy: %w", result.Err)
	}
	if len(result.Rows) == 0 {
		return nil
	}
	c.w.log.InfoContext(ctx, "copy table again", "table", t.schema+"."+t.name)
	if err := runAll(ctx, c.local, "TRUNCATE "+t.quoted()+" CASCADE"); err != nil {
		return fmt.Errorf("empty %s.%s: %w", t.schema, t.name, err)
	}
	return nil
}

// copyTable copies a table in one transaction. Its rows get the oldest stamp
// there is: every later change of them wins.
func (c *copier) copyTable(ctx context.Context, t copied) error {
	columns := t.columns
	if columns == nil {
		var err error
		if columns, err = c.columnsOf(ctx, t); err != nil {
			return err
		}
	}
	quoted := make([]string, len(columns))
	for i, name := range columns {
		quoted[i] = pg.QuoteIdent(name)
	}
	list := strings.Join(quoted, ", ")
	source := "SELECT " + list + " FROM ONLY " + t.quoted()
	if len(t.filters) > 0 {
		source += " WHERE (" + strings.Join(t.filters, ") OR (") + ")"
	}
	if err := runAll(ctx, c.local, "BEGIN; SELECT pg_replication_origin_xact_setup('0/0', 'epoch')"); err != nil {
		return fmt.Errorf("begin copy of %s.%s: %w", t.schema, t.name, err)
	}
	target := "COPY " + t.quoted()
	if len(quoted) > 0 {
		target += " (" + list + ")"
	}
	rows, size, err := c.pipe(ctx, "COPY ("+source+") TO STDOUT", target+" FROM STDIN")
	if err != nil {
		return fmt.Errorf("copy %s.%s: %w", t.schema, t.name, errors.Join(err, c.rollback(ctx)))
	}
	result := c.local.ExecParams(ctx, `INSERT INTO spock.pgdrover_copy (sub_id, nspname, relname, piece, state, bytes_done, rows_done, finished_at)
		VALUES ($1, $2, $3, 0, 'done', $4, $5, clock_timestamp()) ON CONFLICT (sub_id, nspname, relname, piece)
		DO UPDATE SET state = 'done', bytes_done = excluded.bytes_done, rows_done = excluded.rows_done, finished_at = excluded.finished_at`,
		[][]byte{fmt.Append(nil, c.w.sub.id), []byte(t.schema), []byte(t.name), fmt.Append(nil, size), fmt.Append(nil, rows)}, nil, nil, nil).Read()
	if result.Err != nil {
		return fmt.Errorf("write journal of copy: %w", errors.Join(result.Err, c.rollback(ctx)))
	}
	if err := c.restamp(ctx, t); err != nil {
		return fmt.Errorf("copy stamps of %s.%s: %w", t.schema, t.name, errors.Join(err, c.rollback(ctx)))
	}
	if err := runAll(ctx, c.local, c.with+"; COMMIT"); err != nil {
		return fmt.Errorf("commit copy of %s.%s: %w", t.schema, t.name, err)
	}
	c.w.log.InfoContext(ctx, "table copied", "table", t.schema+"."+t.name, "rows", rows, "bytes", size)
	return nil
}

func (c *copier) rollback(ctx context.Context) error {
	if c.local.IsClosed() {
		return nil
	}
	return runAll(ctx, c.local, "ROLLBACK")
}

// columnsOf are the columns of a table on the provider, without computed ones.
func (c *copier) columnsOf(ctx context.Context, t copied) ([]string, error) {
	result := c.provider.ExecParams(ctx, `SELECT a.attname FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid
		JOIN pg_namespace n ON n.oid = r.relnamespace
		WHERE n.nspname = $1 AND r.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum`,
		[][]byte{[]byte(t.schema), []byte(t.name)}, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, fmt.Errorf("read columns of %s.%s: %w", t.schema, t.name, result.Err)
	}
	var names []string
	for _, row := range result.Rows {
		names = append(names, string(row[0]))
	}
	return names, nil
}

const copyBuffer = 256 << 10

// pipe sends the bytes of one COPY into another, as they come.
func (c *copier) pipe(ctx context.Context, from, to string) (rows, size int64, err error) {
	r, out := io.Pipe()
	var read error
	var wg sync.WaitGroup
	wg.Go(func() {
		buffer := bufio.NewWriterSize(out, copyBuffer)
		_, read = c.provider.CopyTo(ctx, buffer, from)
		if read == nil {
			read = buffer.Flush()
		}
		_ = out.CloseWithError(read)
	})
	counted := &counter{r: r}
	tag, write := c.local.CopyFrom(ctx, counted, to)
	_ = r.CloseWithError(io.ErrClosedPipe)
	wg.Wait()
	if read != nil && !errors.Is(read, io.ErrClosedPipe) {
		return 0, 0, read
	}
	if write != nil {
		return 0, 0, write
	}
	return tag.RowsAffected(), counted.n, nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

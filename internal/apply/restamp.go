package apply

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/conflict"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// recent says which rows of a copy need their own stamps. The copy gives all its
// rows the oldest stamp there is; but a change of a third node that the provider
// had not seen, and that comes here after the copy, may be older than the row
// and must lose. The stamps of such rows go along, beside them, and so do the
// provider's tombstones.
type recent struct {
	since     string      // what was written before has been seen by all; "" when there is no third node
	positions [][2]string // nodes, and a position of the log of each behind all that the copy holds
}

// behind is the position that goes with an author, which an expression names.
func (r recent) behind(author string) string {
	var b strings.Builder
	b.WriteString("CASE " + author)
	for _, p := range r.positions {
		fmt.Fprintf(&b, " WHEN %s THEN '%s'::pg_lsn", p[0], p[1])
	}
	b.WriteString(" ELSE 'FFFFFFFF/FFFFFFFF' END")
	return b.String()
}

// findRecent asks the provider, in the snapshot of the copy.
func (c *copier) findRecent(ctx context.Context) error {
	c.recent = recent{}
	var err error
	if c.recent.since, err = c.seenByAll(ctx); err != nil {
		return err
	}
	positions, err := c.ask(ctx, `SELECT pgdrover.local_node_id(), pg_current_wal_insert_lsn() UNION ALL
		SELECT o.node_id, max(s.remote_lsn) FROM spock.pgdrover_origin o JOIN pg_replication_origin_status s ON s.local_id = o.roident
		WHERE s.remote_lsn IS NOT NULL GROUP BY o.node_id`)
	if err != nil {
		return fmt.Errorf("ask provider for its streams: %w", err)
	}
	for _, p := range positions {
		c.recent.positions = append(c.recent.positions, [2]string{string(p[0]), string(p[1])})
	}
	return nil
}

// seenMargin is for clocks that are compared over a network.
const seenMargin = 30 * time.Second

// seenByAll is the time, by the clocks of those who have yet to send it, before
// which no change can be that comes here after the copy; "" without a third node.
// The provider's streams tell it, and so do those that this node has itself, which
// may be further behind.
func (c *copier) seenByAll(ctx context.Context) (string, error) {
	const micros = "(extract(epoch FROM %s) * 1000000)::int8"
	began := time.Now()
	streams, err := c.ask(ctx, fmt.Sprintf(`SELECT p.remote_node_id, p.updated_by_decode, `+micros+", "+micros+", "+micros+`
		FROM spock.progress p JOIN spock.local_node l USING (node_id) WHERE p.remote_node_id <> $1
		AND EXISTS (SELECT FROM spock.subscription s WHERE s.sub_origin = p.remote_node_id)`, "p.remote_commit_ts", "p.last_updated_ts", "clock_timestamp()"),
		fmt.Append(nil, uint32(c.w.engine.node)))
	if err != nil {
		return "", fmt.Errorf("ask provider for its streams: %w", err)
	}
	// A stream of which nothing has come yet begins where its subscription was made.
	own := c.w.db.PgConn().ExecParams(ctx, fmt.Sprintf(`SELECT s.sub_origin, coalesce(p.updated_by_decode, true), `+micros+", "+micros+", "+micros+`
		FROM spock.subscription s LEFT JOIN (spock.progress p JOIN spock.local_node l USING (node_id)) ON p.remote_node_id = s.sub_origin
		WHERE s.sub_enabled AND s.sub_origin <> $1`, "coalesce(p.remote_commit_ts, s.sub_created_at, 'epoch')",
		"coalesce(p.last_updated_ts, clock_timestamp())", "clock_timestamp()"),
		[][]byte{fmt.Append(nil, uint32(c.w.sub.provider))}, []uint32{oidOID}, nil, nil).Read()
	if own.Err != nil {
		return "", fmt.Errorf("read streams: %w", own.Err)
	}
	streams = append(streams, own.Rows...)
	first := int64(math.MaxInt64)
	for _, s := range streams {
		var at [3]int64 // its last change by its own clock, when nothing more had come, and now, by the clock of who tells
		for i := range at {
			if at[i], err = strconv.ParseInt(string(s[2+i]), 10, 64); err != nil {
				return "", fmt.Errorf("read times of streams: %w", err)
			}
		}
		seen := at[0]
		if string(s[1]) == "f" {
			seen = c.idleSince(ctx, string(s[0]), at[0], at[1]-at[2], began)
		}
		first = min(first, seen)
	}
	if len(streams) == 0 {
		return "", nil
	}
	return time.UnixMicro(first).Add(-seenMargin).UTC().Format("2006-01-02 15:04:05.999999+00"), nil
}

// idleSince is the time by a node's own clock at which the provider had noted
// that nothing more had come from it: that long ago when it was asked. Who cannot be asked for his clock has
// sent his last change before whatever comes.
func (c *copier) idleSince(ctx context.Context, node string, last, ago int64, asked time.Time) int64 {
	id, err := strconv.ParseUint(node, 10, 32)
	if err != nil {
		return last
	}
	conn, err := c.w.applier.peers.connect(ctx, conflict.NodeID(id))
	if err != nil {
		c.w.log.DebugContext(ctx, "a node's clock cannot be asked for", "node", node, "error", err)
		return last
	}
	answer := c.w.applier.peers.ask(ctx, conn, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8")
	row, err := one(answer)
	if err != nil {
		return last
	}
	theirs, err := strconv.ParseInt(string(row[0]), 10, 64)
	if err != nil {
		return last
	}
	return max(last, theirs-time.Since(asked).Microseconds()+ago)
}

func (l *lane) ask(ctx context.Context, text string, values ...[]byte) ([][][]byte, error) {
	types := make([]uint32, len(values))
	for i := range types {
		types[i] = oidOID
	}
	result := l.provider.ExecParams(ctx, text, values, types, nil, nil).Read()
	return result.Rows, result.Err
}

// restamp brings a table's stamps and tombstones along, in the transaction that
// has copied its rows.
func (c *copier) restamp(ctx context.Context, l *lane, p *piece) error {
	if c.recent.since == "" {
		return nil
	}
	there, err := l.ask(ctx, "SELECT r.oid, pgdrover.key_expression(r.oid, 'k'), "+hasBundles+" FROM pg_class r WHERE r.oid = "+
		pg.QuoteLiteral(p.quoted())+"::regclass")
	if err != nil {
		return err
	}
	if len(there) == 0 || there[0][1] == nil {
		return nil // without a key nothing competes
	}
	here, err := one(l.local.ExecParams(ctx, "SELECT "+pg.QuoteLiteral(p.quoted())+"::regclass::oid, pg_current_xact_id()::xid", nil, nil, nil, nil).Read())
	if err != nil {
		return err
	}
	table, xid, remote, key := string(here[0]), string(here[1]), string(there[0][0]), string(there[0][1])
	rows := fmt.Sprintf(`SELECT %s, r.key, %s, r.at, r.author, %s FROM (SELECT %s AS key, coalesce(o.commit_time, %s, s."timestamp") AS at,
			coalesce(o.author, pgdrover.origin_node(s.roident)) AS author
		FROM ONLY %s AS k CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(k.xmin) s
		LEFT JOIN spock.pgdrover_stamp o ON o.relid = %s AND o.key = %s AND o.written_by = k.xmin
		WHERE s."timestamp" > %s AND %s) r`, table, xid, c.recent.behind("r.author"), key,
		bundledThere(there[0][2], remote, key, "k.xmin"), p.quoted(), remote, key, pg.QuoteLiteral(c.recent.since), p.where("k."))
	var ignored atomic.Int64
	if _, err := l.pipe(ctx, "COPY ("+rows+") TO STDOUT",
		"COPY spock.pgdrover_stamp (relid, key, written_by, commit_time, author, author_lsn) FROM STDIN", nil, &ignored, c.pace); err != nil || p.n > 0 {
		return err
	}
	deletes := fmt.Sprintf(`SELECT %s, r.key, r.at, r.author, %s FROM (SELECT d.key, coalesce(d.commit_time, s."timestamp") AS at,
			coalesce(d.author, pgdrover.origin_node(s.roident)) AS author
		FROM spock.pgdrover_tombstone d CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(d.xmin) s WHERE d.relid = %s) r
		WHERE r.at IS NOT NULL`, table, c.recent.behind("r.author"), remote)
	_, err = l.pipe(ctx, "COPY ("+deletes+") TO STDOUT",
		"COPY spock.pgdrover_tombstone (relid, key, commit_time, author, author_lsn) FROM STDIN", nil, &ignored, c.pace)
	return err
}

func one(result *pgconn.Result) ([][]byte, error) {
	if result.Err != nil {
		return nil, result.Err
	}
	if len(result.Rows) == 0 {
		return nil, errors.New("no row")
	}
	return result.Rows[0], nil
}

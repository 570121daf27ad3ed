package apply

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/conflict"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// noted is how far this node had written, and had applied the others' work, when
// a table was to be copied again. Of a table that was emptied nothing tells any
// more what the provider had not seen yet: it comes back only if the provider
// has seen all that before its snapshot is taken.
type noted struct {
	emptied pg.LSN // tells one request from the next
	at      map[conflict.NodeID]pg.LSN
	since   time.Time
	told    bool
	first   bool // everybody else who could have the rows waits for this node
}

// seen is an expression over a tombstone of this node: whether the provider has
// seen the delete, so that its rows are later. Nil knows of nothing.
func (n *noted) seen(alias string, self uint32) string {
	if n == nil || n.emptied == 0 || len(n.at) == 0 {
		return "false"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "coalesce(CASE coalesce(%s.author, '%d')", alias, self)
	for node, at := range n.at {
		fmt.Fprintf(&b, " WHEN '%d' THEN %s.author_lsn <= '%s'", node, alias, at)
	}
	b.WriteString(" ELSE false END, false)")
	return b.String()
}

const (
	// seenPatience is how long a copy waits for other nodes to see each other's work.
	seenPatience = 30 * time.Second
	// seenEvery and seenLooks are for the usual case: everybody is about to.
	seenEvery = 20 * time.Millisecond
	seenLooks = 10
	// eventPatience is how long another node may take to be asked for a mark.
	eventPatience = 3 * time.Second
)

// ready tells whether a table may be copied now. While it may not, the stream
// goes on: others may wait for this node in the same way. So many looks are to
// be had now, for all tables.
func (w *Worker) ready(ctx context.Context, key string, t tableSync, looks *int) (n *noted, ready bool, err error) {
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return nil, false, err
	}
	there, err := emptiedThere(ctx, conn, t.schema, t.name)
	if err != nil {
		return nil, false, err
	}
	if t.emptied == 0 {
		// Stamps tell. But rows that are gone there for the time being are not deleted.
		if len(there) > 0 {
			w.sayEmptied(ctx, key, there)
		}
		return nil, len(there) == 0, nil
	}
	p := w.postponed[key]
	if p.noted == nil || p.noted.emptied != t.emptied {
		if p.noted, err = w.note(ctx, t.emptied); err != nil {
			return nil, false, err
		}
		w.postponed[key] = p
	}
	if len(there) > 0 && !p.noted.first {
		p.noted.since = time.Now() // patience is for what comes then
		if p.noted.first, err = w.firstOf(ctx, t, there); err != nil || !p.noted.first {
			w.sayEmptied(ctx, key, there)
			return nil, false, err
		}
		w.log.WarnContext(ctx, "the provider has emptied the table as well, and waits for its rows from here: what neither has got since is lost, unless another node has it",
			"table", key, "hint", "Copy the table from a node that has the rows: SELECT spock.sub_resync_table('…', '…', truncate := false).")
	}
	if n = p.noted; n.first {
		n.at = nil // nothing is there that could have been seen
		return n, true, nil
	}
	var left []conflict.NodeID
	for {
		if left, err = w.unseen(ctx, t, n); err != nil || len(left) == 0 {
			return n, err == nil, err
		}
		if *looks--; *looks <= 0 {
			break
		}
		if !sleep(ctx, seenEvery) {
			return nil, false, context.Cause(ctx)
		}
	}
	if time.Since(n.since) > seenPatience {
		w.log.WarnContext(ctx, "the provider has not seen what was here of some nodes: that is lost where the copy does not have it",
			"table", key, "nodes", left)
		for _, node := range left {
			delete(n.at, node)
		}
		return n, true, nil
	}
	if !n.told {
		n.told = true
		w.log.InfoContext(ctx, "copy waits until the provider has seen what was here", "table", key, "nodes", left)
	}
	return n, false, nil
}

// sayEmptied says once what a copy waits for.
func (w *Worker) sayEmptied(ctx context.Context, key string, there []conflict.NodeID) {
	p := w.postponed[key]
	if p.told {
		return
	}
	p.told = true
	w.postponed[key] = p
	w.log.InfoContext(ctx, "copy waits until the provider, which has emptied the table, has its rows again", "table", key, "from", there)
}

// emptiedThere are the nodes from which another one waits for the rows of tables,
// or of one, that it has emptied to be copied again.
func emptiedThere(ctx context.Context, conn *pgconn.PgConn, schema, name string) ([]conflict.NodeID, error) {
	result := conn.ExecParams(ctx, `SELECT DISTINCT s.sub_origin FROM spock.local_sync_status y JOIN spock.subscription s ON s.sub_id = y.sync_subid
		CROSS JOIN to_regclass(quote_ident(nullif($1::text, '')) || '.' || quote_ident($2::text)) r
		WHERE y.sync_status NOT IN ('r', 'y') AND y.sync_statuslsn > '0/0' AND y.sync_relname IS NOT NULL
		AND ($1::text = '' OR y.sync_nspname = $1::text AND y.sync_relname = $2::text OR to_regclass(quote_ident(y.sync_nspname) || '.' || quote_ident(y.sync_relname))
			IN (SELECT relid FROM pg_partition_tree(r) UNION ALL SELECT relid FROM pg_partition_ancestors(r))) ORDER BY 1`,
		[][]byte{[]byte(schema), []byte(name)}, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, fmt.Errorf("ask provider for tables that it copies: %w", result.Err)
	}
	var all []conflict.NodeID
	for _, row := range result.Rows {
		node, err := strconv.ParseUint(string(row[0]), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("ask provider for tables that it copies: %w", err)
		}
		all = append(all, conflict.NodeID(node))
	}
	return all, nil
}

// firstOf tells whether this node is to begin, of those that have all emptied a
// table and wait for each other's rows in a ring: the one with the least number.
// Whom the provider waits for is given.
func (w *Worker) firstOf(ctx context.Context, t tableSync, there []conflict.NodeID) (bool, error) {
	met := map[conflict.NodeID]bool{w.sub.provider: true}
	for len(there) > 0 {
		next := there[0]
		if next == w.engine.node {
			for node := range met {
				if node < w.engine.node {
					return false, nil
				}
			}
			return true, nil
		}
		if met[next] {
			return false, nil // a ring without this node
		}
		met[next] = true
		conn, err := w.applier.peers.connect(ctx, next)
		if err != nil {
			w.log.DebugContext(ctx, "a node cannot be asked whether it has emptied a table", "node", uint32(next), "error", err)
			return false, nil // the provider waits for it as well
		}
		if there, err = emptiedThere(ctx, conn, t.schema, t.name); err != nil {
			return false, err
		}
	}
	return false, nil
}

// errEmptied is what a copy ends with that would find a table empty that is not.
var errEmptied = errors.New("a table of the provider is empty because it is being copied again there")

// note marks how far everybody is whose work is here.
func (w *Worker) note(ctx context.Context, emptied pg.LSN) (*noted, error) {
	n := &noted{emptied: emptied, at: map[conflict.NodeID]pg.LSN{}, since: time.Now()}
	// Deletes have a position from then on.
	for left := int64(1); left > 0; {
		if err := w.db.QueryRow(ctx, "SELECT pgdrover.stamp_tombstones()").Scan(&left); err != nil {
			return nil, fmt.Errorf("stamp tombstones: %w", err)
		}
	}
	var own string
	if err := w.db.QueryRow(ctx, "SELECT spock.sync_event()::text").Scan(&own); err != nil {
		return nil, fmt.Errorf("mark own work: %w", err)
	}
	var err error
	if n.at[w.engine.node], err = pg.ParseLSN(own); err != nil {
		return nil, err
	}
	streams, err := w.streams(ctx, w.db.PgConn())
	if err != nil {
		return nil, err
	}
	for node, at := range streams {
		n.at[node] = max(at, w.mark(ctx, node))
	}
	return n, nil
}

// markAll has everybody say where he is whose work comes here.
func (w *Worker) markAll(ctx context.Context) error {
	streams, err := w.streams(ctx, w.db.PgConn())
	if err != nil {
		return err
	}
	for node := range streams {
		_ = w.mark(ctx, node)
	}
	return nil
}

// streams are the nodes, besides the provider, whose work comes here, and how far it has.
func (w *Worker) streams(ctx context.Context, local *pgconn.PgConn) (map[conflict.NodeID]pg.LSN, error) {
	return readPositions(local.ExecParams(ctx, `SELECT s.sub_origin, coalesce(max(p.remote_lsn), '0/0') FROM spock.subscription s
		JOIN spock.local_sync_status y ON y.sync_subid = s.sub_id AND y.sync_relname IS NULL AND y.sync_status = 'r'
		LEFT JOIN spock.pgdrover_origin o ON (o.sub_id = s.sub_id OR o.roname = s.sub_slot_name) AND o.retired_at IS NULL AND o.worker < 100
		LEFT JOIN pg_replication_origin_status p ON p.external_id = o.roname
		WHERE s.sub_enabled AND s.sub_origin <> $1 GROUP BY s.sub_id, s.sub_origin`, [][]byte{fmt.Append(nil, uint32(w.sub.provider))},
		[]uint32{oidOID}, nil, nil).Read())
}

// readPositions reads nodes and positions, of several of one node the first.
func readPositions(result *pgconn.Result) (map[conflict.NodeID]pg.LSN, error) {
	if result.Err != nil {
		return nil, fmt.Errorf("read positions of streams: %w", result.Err)
	}
	all := map[conflict.NodeID]pg.LSN{}
	for _, row := range result.Rows {
		var node uint32
		if _, err := fmt.Sscan(string(row[0]), &node); err != nil {
			return nil, fmt.Errorf("read positions of streams: %w", err)
		}
		at, err := pg.ParseLSN(string(row[1]))
		if err != nil {
			return nil, err
		}
		if before, ok := all[conflict.NodeID(node)]; !ok || at < before {
			all[conflict.NodeID(node)] = at
		}
	}
	return all, nil
}

// mark has a node say where it is, so that whoever listens to it gets there at
// once; 0 when it cannot be asked.
func (w *Worker) mark(ctx context.Context, node conflict.NodeID) pg.LSN {
	ctx, cancel := context.WithTimeout(ctx, eventPatience)
	defer cancel()
	conn, err := w.applier.peers.connect(ctx, node)
	if err != nil {
		w.log.DebugContext(ctx, "a node cannot be asked for a mark", "node", uint32(node), "error", err)
		return 0
	}
	row, err := one(conn.ExecParams(ctx, "SELECT spock.sync_event()", nil, nil, nil, nil).Read())
	if err != nil {
		w.log.DebugContext(ctx, "a node gives no mark", "node", uint32(node), "error", err)
		return 0
	}
	at, err := pg.ParseLSN(string(row[0]))
	if err != nil {
		return 0
	}
	return at
}

// unseen are the nodes of whose work the provider, which follows them, has not
// seen what was here.
func (w *Worker) unseen(ctx context.Context, t tableSync, n *noted) ([]conflict.NodeID, error) {
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return nil, err
	}
	reached, err := positions(ctx, conn, t.schema, t.name)
	if err != nil {
		return nil, err
	}
	var left []conflict.NodeID
	for node, at := range n.at {
		if there, follows := reached[node]; follows && there < at {
			left = append(left, node)
		}
	}
	return left, nil
}

// positions are how far a node has applied the others' work in a table: not at
// all while the table waits for its own copy, from whomever.
func positions(ctx context.Context, conn *pgconn.PgConn, schema, name string) (map[conflict.NodeID]pg.LSN, error) {
	return readPositions(conn.ExecParams(ctx, `SELECT s.sub_origin, CASE WHEN EXISTS (SELECT FROM spock.local_sync_status y WHERE y.sync_status <> 'r'
			AND (y.sync_subid = s.sub_id AND y.sync_relname IS NULL OR y.sync_nspname = $1::text AND y.sync_relname = $2::text)) THEN '0/0'
		ELSE coalesce((SELECT max(p.remote_lsn) FROM spock.pgdrover_origin o JOIN pg_replication_origin_status p ON p.external_id = o.roname
			WHERE (o.sub_id = s.sub_id OR o.roname = s.sub_slot_name) AND o.retired_at IS NULL AND o.worker < 100), '0/0') END
		FROM spock.subscription s WHERE s.sub_enabled`, [][]byte{[]byte(schema), []byte(name)}, nil, nil, nil).Read())
}

// awaitWork waits until everything has arrived here that the provider had of
// other nodes in the snapshot: what has no key would come a second time.
func (w *Worker) awaitWork(ctx context.Context, l *lane) error {
	there, err := positions(ctx, l.provider, "", "")
	if err != nil {
		return err
	}
	for began := time.Now(); ; {
		here, err := w.streams(ctx, l.local)
		if err != nil {
			return err
		}
		var left []conflict.NodeID
		for node, at := range here {
			if there[node] > at {
				left = append(left, node)
			}
		}
		if len(left) == 0 {
			return nil
		}
		if time.Since(began) > seenPatience {
			return fmt.Errorf("wait for what the provider has of other nodes (%v): it does not come", left) //nolint:err113 // says it all
		}
		if !sleep(ctx, seenEvery) {
			return context.Cause(ctx)
		}
	}
}

// claim keeps streams off a table while it is copied: what they find or do not
// find there must not be half of it.
func (c *copier) claim(ctx context.Context, table uint32) (release func(committed bool), err error) {
	e, owner, all := c.w.engine, c.w.applier, &wish{tables: []uint32{table}}
	if err := e.claims.acquire(ctx, owner, all); err != nil {
		return nil, err
	}
	e.amended.add(table)
	return func(committed bool) {
		e.amended.end([]uint32{table}, committed && c.recent.since != "")
		e.claims.release(owner, all)
	}, nil
}

package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// outliving is how a node that only receives from a provider gets rid of its
// tombstones: that provider never says that it has applied a delete. It can send
// nothing older than the delete any more when its own clock is past the delete's
// time, and all has come that it had written by then.
type outliving struct {
	looked time.Time
	at     pg.LSN   // in the provider's log: what is behind it is later than the deletes; 0 when there are none
	nodes  []uint32 // whose deletes, and other work of which something is kept,
	up     []string // up to these positions of theirs
}

// outliveEvery is how often a worker looks for what nobody acknowledges.
const outliveEvery = 5 * time.Second

// outlivedQuery finds up to where work of nodes is older than a time, all of it,
// that is still kept because of a provider.
const outlivedQuery = `WITH kept AS MATERIALIZED (SELECT k.author, k.author_lsn AS lsn, k.commit_time <= $2::text::timestamptz AS old FROM (
		SELECT author, author_lsn, commit_time FROM spock.pgdrover_tombstone UNION ALL SELECT author, author_lsn, commit_time FROM spock.pgdrover_stamp
		UNION ALL SELECT author, author_lsn, pg_xact_commit_timestamp(written_by) FROM spock.pgdrover_bundle) k
		WHERE k.author <> $1 AND k.author_lsn < 'FFFFFFFF/FFFFFFFF' AND k.author <> ALL ($3::text::oid[])),
	late AS (SELECT author, min(lsn) AS lsn FROM kept WHERE NOT old GROUP BY author)
	SELECT k.author, max(k.lsn)::text FROM kept k LEFT JOIN late l USING (author) LEFT JOIN spock.pgdrover_vector v ON v.provider_id = $1 AND v.origin_id = k.author
	WHERE k.old AND (l.lsn IS NULL OR k.lsn < l.lsn) AND k.lsn > coalesce(greatest(v.lsn, v.outlived), '0/0') GROUP BY k.author`

// outlive does that for this subscription's provider. One that forwards others'
// work may send it late, whatever its own clock says.
func (w *Worker) outlive(ctx context.Context) error {
	o := &w.outliving
	if o.at != 0 && max(w.applier.reached, w.idle) >= o.at {
		o.at = 0
		if _, err := w.db.Exec(ctx, `INSERT INTO spock.pgdrover_vector AS v (provider_id, origin_id, lsn, outlived)
			SELECT $1, u.node, '0/0', u.at::pg_lsn FROM unnest($2::oid[], $3::text[]) u (node, at)
			ON CONFLICT (provider_id, origin_id) DO UPDATE SET outlived = greatest(v.outlived, excluded.outlived)`,
			uint32(w.sub.provider), o.nodes, o.up); err != nil {
			return fmt.Errorf("store what is outlived: %w", err)
		}
	}
	if o.at != 0 || len(w.sub.forward) > 0 || time.Since(o.looked) < outliveEvery {
		return nil
	}
	o.looked = time.Now()
	if err := w.outlived(ctx, "infinity", "{}"); err != nil || len(o.nodes) == 0 {
		return err
	}
	err := w.askOutlived(ctx)
	if errors.Is(err, errPeer) {
		w.log.DebugContext(ctx, "provider cannot be asked for its clock", "error", err)
		return nil
	}
	return err
}

func (w *Worker) outlived(ctx context.Context, before, followed string) error {
	o := &w.outliving
	o.nodes, o.up = nil, nil
	rows, err := w.db.Query(ctx, outlivedQuery, uint32(w.sub.provider), before, followed)
	if err != nil {
		return fmt.Errorf("look for deletes that nobody acknowledges: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var node uint32
		var at string
		if err := rows.Scan(&node, &at); err != nil {
			return fmt.Errorf("look for deletes that nobody acknowledges: %w", err)
		}
		o.nodes, o.up = append(o.nodes, node), append(o.up, at)
	}
	return rows.Err()
}

// askOutlived asks the provider whom it follows, since they hear of deletes, for
// its clock, and then for a mark in its stream.
func (w *Worker) askOutlived(ctx context.Context) error {
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return err
	}
	row, err := one(w.applier.peers.ask(ctx, conn, `SELECT clock_timestamp() - $1::interval, (SELECT coalesce(array_agg(f), '{}') FROM (
		SELECT sub_origin FROM spock.subscription UNION SELECT node_id FROM spock.pgdrover_origin WHERE retired_at IS NULL) x (f))`,
		fmt.Appendf(nil, "%d milliseconds", w.engine.margin.Milliseconds())))
	if err != nil {
		return fmt.Errorf("%w: %w", errPeer, err)
	}
	if err := w.outlived(ctx, string(row[0]), string(row[1])); err != nil || len(w.outliving.nodes) == 0 {
		return err
	}
	if row, err = one(w.applier.peers.ask(ctx, conn, "SELECT spock.sync_event()")); err != nil {
		return fmt.Errorf("%w: %w", errPeer, err)
	}
	w.outliving.at, err = pg.ParseLSN(string(row[0]))
	return err
}

package apply

import (
	"context"
	"time"

	"github.com/pgdrover/pgdrover/internal/conflict"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// A local transaction takes its commit time, waits for the disk and perhaps for
// standbys, and is seen only then. A delete that looks for its row in between
// finds none; the row appears a moment later, older than the delete, and would
// stay here and nowhere else. Everything that finds a row waits for who writes
// it, and so does everything that writes one: only what has found nothing needs
// to ask who is about to commit.

// stallLimit is how long a server process may take between reading the clock and
// noting its commit time, which are some instructions: meanwhile nothing tells
// that it commits.
const stallLimit = "1 s"

// committingText lists the transactions that have written to a table and have,
// or may have, a commit time that is not after the given one, but cannot be seen
// yet. Whoever has begun a statement since will commit later; who waits for a
// lock or for its client is not committing.
const committingText = `SELECT DISTINCT x.transactionid::text
	FROM pg_locks r JOIN pg_locks x ON x.virtualtransaction = r.virtualtransaction AND x.locktype = 'transactionid'
	AND x.mode = 'ExclusiveLock' AND x.granted CROSS JOIN LATERAL (SELECT pg_xact_commit_timestamp(x.transactionid) AS at) s
	LEFT JOIN pg_stat_activity a ON a.pid = r.pid
	WHERE r.locktype = 'relation' AND r.mode = 'RowExclusiveLock' AND r.granted
	AND r.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
	AND (r.relation = $1 OR r.relation IN (SELECT p.relid FROM pg_partition_tree($1::oid::regclass) p))
	AND coalesce(a.application_name, '') NOT LIKE 'spock %'
	AND CASE WHEN s.at IS NOT NULL THEN s.at <= $2 ELSE r.pid IS NOT NULL AND coalesce(a.state, '') NOT LIKE 'idle%'
		AND coalesce(a.query_start <= $2, true) AND coalesce(a.wait_event_type, '') NOT IN ('Lock', 'Client')
		AND clock_timestamp() < $2 + interval '` + stallLimit + `' END`

// needsAbsence tells whether a change does something because a row is not there
// which it would not have done had the row been there.
func (r *rowChange) needsAbsence() bool {
	return r.action == conflict.Delete || r.keyChanged()
}

// committing asks who is about to commit. Its answer is good for a look that
// comes after it: whoever is not in it has been seen, or commits later than the
// change.
func (c *carefully) committing(r *rowChange) []*ask {
	values := []pgoutput.Value{uint32Value(r.g.OID), int64Value(int64(c.tx.commitTime))}
	return []*ask{
		{text: "SELECT pg_stat_clear_snapshot()"}, // what was asked before in this transaction would be the answer again
		{text: committingText, types: []uint32{oidOID, timestamptzOID}, values: values},
	}
}

// awaitCommits waits until nobody is.
func (c *carefully) awaitCommits(ctx context.Context, r *rowChange) error {
	told := false
	for began, pause := time.Now(), time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		asks := c.committing(r)
		if err := c.session.together(ctx, asks...); err != nil {
			return err
		}
		rows := asks[1].rows()
		if len(rows) == 0 {
			return nil
		}
		if !told && time.Since(began) > time.Second {
			told = true
			c.log.InfoContext(ctx, "delete waits for a local transaction that is committing", "table", r.g.plain,
				"transaction", string(rows[0][0].Data), "lsn", c.tx.final.String())
		}
		if !sleep(ctx, pause) {
			return context.Cause(ctx)
		}
	}
}

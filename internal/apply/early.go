package apply

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// A provider reads a transaction to its end before it sends any of it, and
// writes what does not fit into its memory to files meanwhile. Of a backlog it
// can send the blocks of a large transaction as it comes by them instead. They
// are applied as they come, where that is as good as if the transaction had come
// as a whole: it has committed there, its commit time is known, nothing comes in
// between, and nothing but rows is written. Wherever one of that is not so, what
// was applied is rolled back, and the stream opened anew without such blocks.

const (
	// earlyBacklog is how much of the provider's log makes a backlog.
	earlyBacklog = 32 << 20
	// earlyPatience is how long the next block may be in coming: what was applied is
	// in the way of others.
	earlyPatience = time.Minute
)

// early tells whether to ask for the blocks of large transactions.
func (w *Worker) early(end pg.LSN) bool {
	a := w.applier
	return !w.whole && w.major >= 14 && a.reached != 0 && end > a.reached && end-a.reached >= w.engine.backlog &&
		w.limit > 0 && w.sub.delay == 0 && w.skip == 0 && len(w.forced) == 0
}

// wholly asks for the stream to be opened anew, without blocks.
func wholly(cause string) error {
	return &rereadError{whole: true, cause: errors.New(cause)} //nolint:err113 // for the log
}

// startBlock takes the beginning of a block.
func (w *Worker) startBlock(ctx context.Context, m *pgoutput.StreamStart) error {
	w.block = time.Now()
	if tx := w.current; tx != nil && tx.early && tx.xid == m.XID {
		return nil // the next one of the same transaction
	}
	switch {
	case w.current != nil:
		return wholly("two large transactions come at a time")
	case !m.First:
		return fmt.Errorf("handle %s message: transaction %d has not begun", m.Kind(), m.XID)
	case len(w.syncing) > 0:
		return wholly("a table is being synchronised")
	}
	at, local, err := w.committedThere(ctx, m.XID)
	switch {
	case err != nil:
		return err
	case at == 0:
		return wholly("the transaction is still running")
	case !local && len(w.sub.forward) > 0:
		return wholly("the transaction comes from elsewhere")
	}
	w.current = &transaction{commitTime: at, xid: m.XID, early: true, arena: w.applier.arena()}
	w.dropping, w.repairing, w.author = !local, false, w.sub.provider
	return nil
}

// committedThere asks the provider when a transaction has committed, and whether
// it was the provider's own. Zero means that it has not, as far as is known.
func (w *Worker) committedThere(ctx context.Context, xid uint32) (at pg.Timestamp, local bool, err error) {
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return 0, false, err
	}
	result := w.applier.peers.ask(ctx, conn, `SELECT ((extract(epoch FROM s."timestamp") * 1000000)::int8 - 946684800000000)::text, (s.roident = 0)::text
		FROM pg_xact_commit_timestamp_origin($1::text::xid) s WHERE s."timestamp" IS NOT NULL`, []byte(strconv.FormatUint(uint64(xid), 10)))
	switch {
	case result.Err != nil:
		return 0, false, fmt.Errorf("read commit time of transaction: %w", result.Err)
	case len(result.Rows) == 0:
		return 0, false, nil
	}
	n, err := strconv.ParseInt(string(result.Rows[0][0]), 10, 64)
	if err != nil {
		return 0, false, fmt.Errorf("read commit time of transaction: %w", err)
	}
	return pg.Timestamp(n), string(result.Rows[0][1]) == "true", nil
}

// awaitBlock gives up a transaction of which nothing comes any more.
func (w *Worker) awaitBlock() error {
	if tx := w.current; tx != nil && tx.early && !w.decoder.InStream() && time.Since(w.block) > earlyPatience {
		return wholly("the rest of the transaction does not come")
	}
	return nil
}

// endBlocks takes the commit of a transaction that came in blocks.
func (w *Worker) endBlocks(ctx context.Context, m *pgoutput.StreamCommit) error {
	tx := w.current
	switch {
	case tx == nil || !tx.early || tx.xid != m.XID:
		return fmt.Errorf("handle %s message: transaction %d has not begun", m.Kind(), m.XID)
	case tx.commitTime != m.CommitTime:
		return wholly("the transaction has another commit time than its server said")
	}
	tx.final = m.CommitLSN
	// One that was kept to its end is like any other.
	tx.early = tx.begun
	return w.endTransaction(ctx, &pgoutput.Commit{CommitLSN: m.CommitLSN, EndLSN: m.EndLSN, CommitTime: m.CommitTime})
}

// unfit says why a change of a transaction that came in blocks cannot be applied
// before the end, or nothing.
func unfit(t *remoteTable, kind pgoutput.Kind) string {
	switch {
	case t != nil && t.relation.Namespace == "spock":
		return "the transaction holds more than rows"
	case kind == pgoutput.KindInsert || kind == pgoutput.KindUpdate:
		return ""
	default:
		return "the transaction holds deletes, whose place in the log is not known yet" // tombstones have it
	}
}

// keepChange copies a change into the transaction, as it is outside of blocks:
// inside, the number of a transaction stands behind its kind.
func (tx *transaction) keepChange(data []byte) []byte {
	kept := tx.keep(data)
	if !tx.early {
		return kept
	}
	const number = 4
	copy(kept[1:], kept[1+number:])
	return kept[:len(kept)-number]
}

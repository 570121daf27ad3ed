package apply

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Servers from 16 on move an origin also when a transaction aborts that has its
// stamp: when the engine dies, or the session is ended, between the stamp and the
// commit, the origin stands behind a transaction that is not here. What did
// commit has the provider's commit time as its own, and tells the two apart.

const (
	// stampedFrom is the first server that does so.
	stampedFrom = 160000
	// ownCommits is how many of the last commits are looked at. More transactions
	// than inflightLimit, and those of a bundle, are never on their way.
	ownCommits = 3 * inflightLimit
	// commitsPiece is how many transaction numbers are looked at by one query, and
	// commitsMost by all.
	commitsPiece = 20000
	commitsMost  = 2000000
	// peekTime bounds the provider's reading of its log.
	peekTime = 10 * time.Minute
)

// sentCommit is a commit that the provider has sent, or would have.
type sentCommit struct {
	final, end pg.LSN
	time       pg.Timestamp
}

// unstamp takes the origin back where it stands behind transactions that have
// not committed here. The stream has not begun yet.
func (w *Worker) unstamp(ctx context.Context, confirmed pg.LSN) error {
	a := w.applier
	if a.version < stampedFrom || a.reached == 0 || confirmed >= a.reached {
		return nil
	}
	// Up to there all was here once: the stream began there, or ended in good order.
	var text string
	if err := w.db.QueryRow(ctx, "SELECT coalesce(max(clean_lsn), '0/0')::text FROM spock.pgdrover_subscription WHERE sub_id = $1",
		w.sub.id).Scan(&text); err != nil {
		return fmt.Errorf("read subscription: %w", err)
	}
	clean, err := pg.ParseLSN(text)
	if err != nil || clean == a.reached {
		return err
	}
	sent, err := w.sentCommits(ctx)
	sent = slices.DeleteFunc(sent, func(c sentCommit) bool { return clean < a.reached && c.end <= clean })
	if err != nil || len(sent) == 0 || sent[0].end != a.reached {
		return err
	}
	here, err := w.commitsHere(ctx)
	if err != nil || len(here) == 0 {
		return err
	}
	n := 0
	for n < len(sent) && !here[sent[n].time] {
		n++
	}
	// A position that an initial copy has left is nobody's commit here, and is
	// right all the same. One is behind it when what comes before it is here.
	if n == 0 || n == len(sent) && (clean == 0 || clean > a.reached) {
		return nil
	}
	// The provider sends what commits at this position or behind it.
	back := sent[n-1].final
	w.log.WarnContext(ctx, "origin stood behind what had not committed here, and is taken back", "origin", a.origin,
		"lsn", a.reached.String(), "back", back.String())
	if err := a.moveOrigin(ctx, back); err != nil {
		return fmt.Errorf("take origin back: %w", err)
	}
	a.reached, w.durable.flushed = back, back
	return nil
}

// begins notes where the first stream of a subscription begins. What is before
// that came with a copy, and what is behind it has to commit here.
func (w *Worker) begins(ctx context.Context) error {
	if _, err := w.db.Exec(ctx, "UPDATE spock.pgdrover_subscription SET clean_lsn = $2::text::pg_lsn WHERE sub_id = $1 AND clean_lsn IS NULL",
		w.sub.id, w.applier.reached.String()); err != nil {
		return fmt.Errorf("note where the stream begins: %w", err)
	}
	return nil
}

// sentCommits are the last ones before the origin's position that the provider
// has not heard to be safe here, the latest first.
func (w *Worker) sentCommits(ctx context.Context) ([]sentCommit, error) {
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, peekTime, fmt.Errorf("no answer within %s", peekTime))
	defer cancel()
	result := conn.ExecParams(ctx, `SELECT encode(c.data, 'hex') FROM (SELECT p.data, p.n FROM pg_logical_slot_peek_binary_changes($1, $2::pg_lsn, NULL,
		'proto_version', '1', 'publication_names', $3) WITH ORDINALITY p (lsn, xid, data, n) WHERE get_byte(p.data, 0) = ascii('C')
		ORDER BY p.n DESC LIMIT $4::int) c ORDER BY c.n DESC`,
		[][]byte{[]byte(w.sub.slot), []byte(w.applier.reached.String()), []byte(publicationNames), []byte(fmt.Sprint(inflightLimit + bundleMost))}, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, fmt.Errorf("look at what the provider has sent: %w", result.Err)
	}
	var all []sentCommit
	for _, row := range result.Rows {
		data, err := hex.DecodeString(string(row[0]))
		if err != nil || len(data) < 26 {
			return nil, fmt.Errorf("look at what the provider has sent: a commit of %d bytes: %w", len(data), pg.ErrSyntax)
		}
		c := sentCommit{
			final: pg.LSN(binary.BigEndian.Uint64(data[2:])), end: pg.LSN(binary.BigEndian.Uint64(data[10:])),
			time: pg.Timestamp(binary.BigEndian.Uint64(data[18:])), //nolint:gosec // two's complement is the wire's form
		}
		if c.end <= w.applier.reached {
			all = append(all, c)
		}
	}
	return all, nil
}

// commitsHere are the commit times of the last transactions here that came from
// the provider; none when they are too long ago to be found.
func (w *Worker) commitsHere(ctx context.Context) (map[pg.Timestamp]bool, error) {
	var next int64
	var origins []uint32
	if err := w.db.QueryRow(ctx, `SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8,
		array(SELECT o.roident::oid FROM spock.pgdrover_origin o WHERE o.roname = $1 OR o.sub_id = $2 AND o.worker BETWEEN 1 AND $3)`,
		w.sub.slot, w.sub.id, firstCopier-1).Scan(&next, &origins); err != nil {
		return nil, fmt.Errorf("read origins: %w", err)
	}
	here := map[pg.Timestamp]bool{}
	for end := max(next-commitsMost, 3); next > end && len(here) < ownCommits; next -= commitsPiece {
		var times []int64
		if err := w.db.QueryRow(ctx, `SELECT array(SELECT (extract(epoch FROM s."timestamp") * 1000000)::int8 - 946684800000000
			FROM generate_series($1::int8, $2::int8) x
			CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(greatest(x % 4294967296, 3)::text::xid) s WHERE s.roident = ANY ($3))`,
			max(next-commitsPiece, end), next-1, origins).Scan(&times); err != nil {
			return nil, fmt.Errorf("read commit times: %w", err)
		}
		for at := range slices.Values(times) {
			here[pg.Timestamp(at)] = true
		}
	}
	return here, nil
}

// moveOrigin sets the origin of the session to a position, also to an earlier
// one.
func (a *applier) moveOrigin(ctx context.Context, to pg.LSN) error {
	name := pg.QuoteLiteral(a.origin)
	return a.session.run(ctx, fmt.Sprintf("SELECT pg_replication_origin_session_reset(); "+
		"SELECT pg_replication_origin_advance(%s, '%s'); SELECT pg_replication_origin_session_setup(%s)", name, to, name))
}

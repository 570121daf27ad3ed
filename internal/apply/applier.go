package apply

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgerrcode"

	"github.com/pgdrover/pgdrover/internal/conflict"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// applier writes the transactions of one subscription, in their order, through
// one session.
type applier struct {
	session *session
	claims  *claims
	decoder *pgoutput.Decoder
	log     *slog.Logger
	rules   conflict.Rules
	verdict verdict
	self    conflict.NodeID
	author  conflict.NodeID // whose changes the stream brings
	name    string          // of the subscription
	origin  string          // name of the session's origin
	version int             // of the server
	binary  bool
	exact   bool // progress rows go along with each transaction
	subID   uint32
	peers   *peers
	counts  *counts
	amended *amended
	options options
	shapes  shapes
	crew    *crew // nil where one session applies

	epoch    int    // of targets: what was known of tables before is void
	defined  uint64 // of claims, when targets were made
	inflight []*transaction
	weight   int // bytes that those in flight hold
	sent     int // transactions that they are
	todo     []*transaction
	room     int          // so many may be written as one
	bundling *atomic.Bool // whether any may be
	gather   run
	arenas   [][]byte // to be used again
	durable  *durability
	reached  pg.LSN // end of the last transaction that committed here
	time     pg.Timestamp
	progress *progress // what others may see of that; nil before there is a stream
}

// errPipeline is the answer of a step that found the pipeline stopped.
var errPipeline = errors.New("the pipeline has stopped")

// rereadError asks for the stream to be opened anew: a transaction of which
// parts are gone has to be repeated in another form.
type rereadError struct {
	final pg.LSN
	mode  mode
	cause error

	failedAt int
	reread   bool
	attempts int // in the exception form that ended with what may go away
	// whole: transactions shall come as a whole; final is not known.
	whole bool
	// text: values shall come as text; final is not known.
	text bool
}

func (e *rereadError) Error() string {
	if e.whole {
		return fmt.Sprintf("receive transactions as a whole: %v", e.cause)
	}
	if e.text {
		return fmt.Sprintf("receive values as text: %v", e.cause)
	}
	return fmt.Sprintf("repeat transaction %s: %v", e.final, e.cause)
}
func (e *rereadError) Unwrap() error { return e.cause }

// put takes a transaction that is complete, or the next part of one that is
// too large to be kept.
func (a *applier) put(ctx context.Context, tx *transaction) error {
	a.todo = append(a.todo, tx)
	if a.holds(tx) {
		return nil
	}
	return a.work(ctx)
}

// last is the transaction that is the last to commit of those on their way.
func (a *applier) last() *transaction {
	switch {
	case len(a.todo) > 0:
		return a.todo[len(a.todo)-1]
	case len(a.inflight) > 0:
		return a.inflight[len(a.inflight)-1]
	default:
		return nil
	}
}

// work sends what is lined up.
func (a *applier) work(ctx context.Context) error {
	for len(a.todo) > 0 {
		next, err := a.bundle(ctx)
		if next == nil {
			next, a.todo = a.todo[0], a.todo[1:]
		}
		if err == nil {
			err = a.send(ctx, next)
		}
		if err == nil {
			err = a.settle()
		}
		if errors.Is(err, errPipeline) {
			err = a.repair(ctx, next)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// settle takes what the server has answered.
func (a *applier) settle() error {
	if a.crew != nil {
		return a.crew.settle(a)
	}
	done, failed, broken := a.session.state()
	for _, tx := range done {
		a.finished(tx)
	}
	switch {
	case broken != nil:
		return broken
	case failed != nil:
		return errPipeline
	default:
		return nil
	}
}

func (a *applier) finished(tx *transaction) {
	if len(a.inflight) > 0 && a.inflight[0] == tx {
		a.inflight = a.inflight[1:]
		a.weight -= tx.weight
		a.sent -= tx.count()
	}
	tx.finished = true
	switch {
	case tx.mode != fast:
		a.room = min(a.room, 1) // where one meets a conflict more may
	case tx.bundle == nil:
		a.room = min(a.room+1, bundleMost)
	default:
		a.room = min(2*a.room, bundleMost)
		for _, m := range tx.bundle.members {
			m.finished = true
			a.recycle(m)
		}
	}
	a.recycle(tx)
	a.letGo(tx)
	a.reached = max(a.reached, tx.end)
	if tx.commitTime != 0 {
		a.time = tx.commitTime
	}
	a.durable.committed(tx.end)
	a.progress.committed(a)
}

// recycle takes back the memory of a transaction that nobody will look at again.
func (a *applier) recycle(tx *transaction) {
	if tx.arena != nil && cap(tx.arena) <= arenaKept && len(a.arenas) < inflightLimit {
		a.arenas = append(a.arenas, tx.arena[:0])
	}
	tx.arena, tx.changes = nil, nil
}

// arena is memory for a transaction; nil when there is none to be used again.
func (a *applier) arena() []byte {
	last := len(a.arenas) - 1
	if last < 0 {
		return nil
	}
	arena := a.arenas[last]
	a.arenas = a.arenas[:last]
	return arena
}

func (a *applier) letGo(tx *transaction) {
	if a.crew != nil {
		a.crew.ended(tx)
	}
	if tx.defines && tx.finished {
		a.claims.defined.Add(1)
	}
	if tx.wish != nil {
		a.claims.release(a, tx.wish)
		tx.wish = nil
	}
	a.counts.end(tx)
	a.amended.end(tx.amends, tx.finished)
	tx.amends = nil
}

// repair leaves a stopped pipeline and lines up what has to be repeated: the
// transaction that failed, in the careful form, and all behind it.
func (a *applier) repair(ctx context.Context, current *transaction) error {
	failed, err := a.retreat(ctx)
	if err != nil {
		return err
	}
	if failed != nil && !expected(failed.err) {
		// It may be that a table is not what it was.
		a.epoch++
		if err := a.forget(ctx); err != nil {
			return err
		}
	}
	again := a.inflight
	a.inflight, a.weight, a.sent = nil, 0, 0
	if !current.finished && !slices.Contains(again, current) {
		again = append(again, current)
	}
	for _, tx := range again {
		a.letGo(tx)
	}
	if len(again) == 0 {
		return nil
	}
	bundled := again[0].bundle != nil
	again = unbundled(again)
	if bundled {
		// Which of them it was shows when they come one by one.
		a.room = 1
		return a.lineUp(again)
	}
	first := again[0]
	if a.crew != nil && (failed == nil || failed.tx != first) {
		// What was written side by side is written again one by one.
		return a.lineUp(again)
	}
	cause := errPipeline
	if failed != nil {
		cause = failed.err
	}
	a.log.DebugContext(ctx, "repeat transaction step by step", "lsn", first.final.String(), "error", cause)
	if failed != nil {
		// What the careful form waits for it hears at once: only the end can fail so.
		if first.mode == exception {
			return fmt.Errorf("end transaction %s: %w", first.final, cause)
		}
		if first.mode == careful && first.begun {
			if err := a.blame(first, cause, 0); err != nil {
				return err
			}
		}
	}
	first.mode = max(first.mode, careful)
	if first.cause == nil {
		first.cause = cause
	}
	return a.lineUp(again)
}

// lineUp has transactions repeated from their beginning.
func (a *applier) lineUp(again []*transaction) error {
	first := again[0]
	for _, tx := range again {
		if tx.early {
			return wholly("a transaction needs to be looked at")
		}
		if tx.partial {
			return &rereadError{final: first.final, mode: first.mode, cause: first.cause, failedAt: first.failedAt, reread: first.reread}
		}
		tx.begun, tx.saved, tx.stamped, tx.written = false, false, false, false
		tx.trials, tx.failed, tx.described, tx.untold = nil, false, 0, 0
	}
	a.todo = append(again, a.todo...)
	return nil
}

// retreat rolls back what has not committed, and tells what has failed.
func (a *applier) retreat(ctx context.Context) (*failure, error) {
	if a.crew != nil {
		return a.crew.recover(ctx, a)
	}
	_, failed, broken := a.session.state()
	if broken != nil {
		return nil, broken
	}
	if err := a.session.recover(ctx); err != nil {
		return nil, err
	}
	done, _, _ := a.session.state()
	for _, tx := range done {
		a.finished(tx)
	}
	return failed, a.checkOrigin(ctx, a.reached)
}

// forget drops what was prepared, in all sessions.
func (a *applier) forget(ctx context.Context) error {
	if a.crew == nil {
		return a.session.forget(ctx)
	}
	for _, h := range a.crew.hands {
		if err := h.session.forget(ctx); err != nil {
			return err
		}
	}
	return nil
}

// expected tells whether a statement of the fast form failed as it has to when
// a row is not what the sender saw.
func expected(err error) bool {
	switch sqlState(err) {
	case pgerrcode.InvalidTextRepresentation:
		return strings.Contains(err.Error(), unlike)
	case pgerrcode.UniqueViolation, pgerrcode.DeadlockDetected, pgerrcode.SerializationFailure:
		return true
	default:
		return false
	}
}

// checkOrigin undoes what newer servers do to the origin when a commit fails.
func (a *applier) checkOrigin(ctx context.Context, reached pg.LSN) error {
	if a.version < 160000 {
		return nil
	}
	r, err := a.session.query(ctx, "SELECT pg_replication_origin_session_progress(false)", nil)
	if err != nil {
		return fmt.Errorf("read origin: %w", err)
	}
	if len(r.rows) == 0 || r.rows[0][0].Kind == pgoutput.Null {
		return nil
	}
	at, err := pg.ParseLSN(string(r.rows[0][0].Data))
	if err != nil || at <= reached {
		return err
	}
	return a.moveOrigin(ctx, reached)
}

// send writes a transaction, or the part of it that is there, as far as nothing
// has to be waited for.
func (a *applier) send(ctx context.Context, tx *transaction) error {
	if a.wants(tx) {
		if done, err := a.assign(ctx, tx); done || err != nil {
			return err
		}
	}
	if err := a.join(ctx); err != nil {
		return err
	}
	if !tx.begun {
		if err := a.begin(ctx, tx); err != nil {
			return err
		}
	}
	if tx.bundle != nil {
		tx.bundle.send(tx)
	} else if err := a.sendChanges(ctx, tx); err != nil {
		return err
	}
	if !tx.complete {
		tx.partial = true
		tx.changes, tx.arena, tx.size = tx.changes[:0], nil, 0
		return nil
	}
	return a.finish(ctx, tx)
}

func (a *applier) begin(ctx context.Context, tx *transaction) error {
	w, err := a.wishOf(ctx, tx)
	if err != nil {
		return err
	}
	if !a.claims.tryAcquire(a, w) {
		// Somebody may wait for what our pipeline holds.
		if err := a.drain(ctx); err != nil {
			return err
		}
		if err := a.claims.acquire(ctx, a, w); err != nil {
			return err
		}
	}
	if a.redefined() {
		// What it wishes for may be something else now.
		a.claims.release(a, w)
		if tx.bundle != nil {
			return errPipeline // its rows as well
		}
		return a.begin(ctx, tx)
	}
	tx.wish = w
	tx.begun = true
	tx.actions = 1
	a.inflight = append(a.inflight, tx)
	tx.weight = tx.size
	a.weight += tx.weight
	a.sent += tx.count()
	if tx.mode != fast {
		if err := a.drain(ctx); err != nil {
			return err
		}
	}
	a.session.open(tx)
	passAuthor(a.session, tx)
	if tx.mode == exception {
		return a.session.run(ctx, "SAVEPOINT pgdrover_start")
	}
	return nil
}

// redefined tells whether another stream has changed tables since targets were
// made, and has them made anew. What is claimed is asked first: no DDL of another
// stream comes then.
func (a *applier) redefined() bool {
	now := a.claims.defined.Load()
	if now == a.defined {
		return false
	}
	a.defined = now
	a.epoch++
	return true
}

// drain waits until everything that was sent is answered.
func (a *applier) drain(ctx context.Context) error {
	if err := a.join(ctx); err != nil {
		return err
	}
	if err := a.session.border(ctx); err != nil {
		return err
	}
	return a.settle()
}

// wishOf is what a transaction works on.
func (a *applier) wishOf(ctx context.Context, tx *transaction) (*wish, error) {
	if tx.bundle != nil {
		return tx.bundle.wish, nil
	}
	w := &wish{}
	if !tx.complete || tx.mode == exception {
		w.all = true
		return w, nil
	}
	for i := range tx.changes {
		c := &tx.changes[i]
		if !c.row() {
			w.all = true
			return w, nil
		}
		g, err := a.target(ctx, c.table)
		if errors.Is(err, errPipeline) {
			return nil, err
		}
		if err != nil {
			tx.mode, tx.cause = max(tx.mode, careful), err
			w.all = true
			return w, nil //nolint:nilerr // the careful form meets it again, and knows what to do
		}
		m, err := a.decoder.DecodeOne(c.data, false)
		if err != nil {
			return nil, err
		}
		switch m := m.(type) {
		case *pgoutput.Insert:
			w.row(g, m.New)
		case *pgoutput.Update:
			w.row(g, m.New)
			if m.OldTuple != pgoutput.OldNone {
				w.row(g, m.Old)
			}
		case *pgoutput.Delete:
			w.row(g, m.Old)
		}
	}
	return w, nil
}

// target finds the local side of a remote table.
func (a *applier) target(ctx context.Context, t *remoteTable) (*target, error) {
	if t.fault != nil {
		return nil, t.fault
	}
	if t.target != nil && t.epoch == a.epoch {
		return t.target, nil
	}
	if err := a.drain(ctx); err != nil {
		return nil, err
	}
	local, err := loadTable(ctx, a.session, t.relation.Namespace, t.relation.Name)
	if err != nil {
		return nil, err
	}
	g, err := newTarget(local, t.relation, t.rule, a.binary, uint32(a.author))
	if err != nil {
		return nil, err
	}
	if err := g.convert(ctx, a.session, t.types); err != nil {
		return nil, err
	}
	if local.Amended {
		a.amended.learn(local.OID)
	}
	t.target, t.epoch = g, a.epoch
	return g, nil
}

func (a *applier) sendChanges(ctx context.Context, tx *transaction) error {
	r := &a.gather
	r.begin(a, tx)
	if tx.mode != fast {
		a.counts.write(a.subID, tx)
	}
	stretch := maxStretch
	for i := 0; i < len(tx.changes); {
		if tx.mode == fast {
			ok, err := r.add(ctx, &tx.changes[i])
			if err != nil {
				return err
			}
			if ok {
				i++
				continue
			}
			r.send()
			if err := a.drain(ctx); err != nil {
				return err
			}
			if tx.early {
				return wholly("a change needs to be looked at")
			}
			tx.mode = careful
			a.counts.write(a.subID, tx)
		}
		if tx.mode == careful && stretch >= minStretch {
			n, err := a.sendStretch(ctx, tx, i, stretch)
			if err != nil {
				return err
			}
			if n > 0 {
				i, stretch = i+n, min(2*stretch, maxStretch)
				continue
			}
			stretch /= 8
			continue
		}
		// What could not be written together, step by step.
		for n := 0; n < minStretch && i < len(tx.changes); n, i = n+1, i+1 {
			if err := a.sendCareful(ctx, tx, i); err != nil {
				return err
			}
		}
		stretch = 2 * minStretch
	}
	if tx.mode == fast && tx.complete && a.simple(tx) {
		r.finish()
	} else {
		r.send()
	}
	return a.write(ctx)
}

// simple tells whether nothing but its stamp stands between a transaction's last
// change and its commit.
func (a *applier) simple(tx *transaction) bool {
	return !tx.deferred && !tx.durable && !tx.position && !tx.skipped && !a.exact && tx.written
}

// A large transaction of which one row is in conflict need not go step by step
// all the way: its other rows are written in stretches of so many.
const (
	minStretch = 8
	maxStretch = 1024
)

// sendStretch writes some changes of a transaction in the fast form, in a
// savepoint. It returns how many; none when one of them is in conflict.
func (a *applier) sendStretch(ctx context.Context, tx *transaction, from, limit int) (int, error) {
	end := from
	for end < len(tx.changes) && end-from < limit && tx.changes[end].row() {
		end++
	}
	if end-from < minStretch {
		return 0, nil
	}
	c := &carefully{applier: a, tx: tx}
	if err := a.session.together(ctx, c.save()...); err != nil {
		return 0, err
	}
	actions := tx.actions
	r := run{a: a, tx: tx}
	n := 0
	var err error
	for ok := true; ok && err == nil && from+n < end; {
		if ok, err = r.add(ctx, &tx.changes[from+n]); ok {
			n++
		}
	}
	if err == nil {
		r.send()
		err = a.drain(ctx)
	}
	if !errors.Is(err, errPipeline) {
		return n, err
	}
	for i := range n {
		ch := &tx.changes[from+i]
		a.counts.row(a.subID, ch.table.target.OID, ch.kind, -1)
	}
	tx.actions = actions
	return 0, a.session.retreat(ctx, "ROLLBACK TO SAVEPOINT pgdrover_change")
}

// write hands on what has piled up.
func (a *applier) write(ctx context.Context) error {
	if a.session.full() {
		return a.session.flush()
	}
	_ = ctx
	return nil
}

const (
	setupText    = "SELECT pg_replication_origin_xact_setup($1, $2)"
	progressText = `INSERT INTO spock.pgdrover_progress (sub_id, worker, remote_lsn, remote_commit_ts) VALUES ($1, 0, $2::pg_lsn, $3)
ON CONFLICT (sub_id, worker) DO UPDATE SET remote_lsn = excluded.remote_lsn, remote_commit_ts = excluded.remote_commit_ts`
)

// finish ends the local transaction: the remote commit's position and time
// last, because newer servers move the origin also when a transaction aborts
// after that.
func (a *applier) finish(ctx context.Context, tx *transaction) error {
	s := a.session
	if tx.mode == exception {
		if err := a.conclude(ctx, tx); err != nil {
			return err
		}
	}
	if tx.deferred {
		s.execute("SET CONSTRAINTS ALL IMMEDIATE", nil, nil, op{tx: tx})
	}
	if tx.defines {
		s.execute("SELECT pgdrover.end_rewrites()", nil, nil, op{tx: tx})
	}
	setup := setupValues(tx)
	if tx.durable {
		s.execute("SET LOCAL synchronous_commit = local", nil, nil, op{tx: tx})
	}
	// The server moves no origin for a transaction that has written nothing.
	if tx.position || tx.skipped || a.exact || tx.mode != fast || !tx.written {
		s.execute(progressText, []uint32{26, pgLSNOID, timestamptzOID},
			append([]pgoutput.Value{uint32Value(a.subID)}, setup...), op{tx: tx})
	}
	if !tx.stamped {
		s.execute(setupText, []uint32{pgLSNOID, timestamptzOID}, setup, op{tx: tx})
	}
	s.commit(tx)
	if tx.mode != fast {
		return a.drain(ctx)
	}
	return a.write(ctx)
}

// setupValues are a transaction's position and time.
func setupValues(tx *transaction) []pgoutput.Value {
	return []pgoutput.Value{lsnValue(tx.end), int64Value(int64(tx.commitTime))}
}

func lsnValue(l pg.LSN) pgoutput.Value {
	return pgoutput.Value{Kind: pgoutput.Binary, Data: binary.BigEndian.AppendUint64(nil, uint64(l))}
}

func uint32Value(n uint32) pgoutput.Value {
	return pgoutput.Value{Kind: pgoutput.Binary, Data: binary.BigEndian.AppendUint32(nil, n)}
}

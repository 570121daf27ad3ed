package apply

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/conflict"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/walreceiver"
)

const (
	// lookEvery is the pause between two looks at what waits for us, and at what
	// has reached the disk.
	lookEvery = 200 * time.Millisecond
	// idleEvery is the least pause between two idle positions: each is a
	// transaction, which is news to the other nodes.
	idleEvery = 10 * time.Second
	// publicEvery is the pause between two updates of spock.progress, and between
	// two moments at which the server may report its statistics.
	publicEvery = time.Second
	// inflightLimit bounds the transactions that were sent and not answered, and
	// inflightBytes what is kept of them.
	inflightLimit = 1000
	inflightBytes = 8 << 20
	// witnessEvery is how long spock.progress may stay as it is while something
	// waits.
	witnessEvery = 2 * publicEvery
	// partingPatience is how long a provider that shuts down may wait for us while
	// nothing gets on here.
	partingPatience = 10 * time.Second
	// leaveTime is how long a worker that ends may take to come to the border of a
	// transaction.
	leaveTime = 5 * time.Second
)

// errParting ends the stream of a provider that shuts down: it would wait until
// it has heard that everything is on disk here.
var errParting = errors.New("end stream: the provider shuts down, and what it waits for does not get on here")

// stream receives and applies until something ends it.
func (w *Worker) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel(nil)
	w.applier.progress, w.settled = newProgress(w.applier), false
	w.goal, w.here, w.behind = nil, time.Time{}, time.Time{}
	w.ended.Store(nil) // where an earlier life's provider was says nothing of what is left now
	defer w.breakWrites(ctx)()
	received := make(chan error, 1) // holds 1: why nothing more will come
	group.Go(func() {
		received <- w.receiver.Run(ctx, func(m walreceiver.Message) error { return w.inbox.put(ctx, m) })
	})
	group.Go(func() { w.measure(ctx, cancel) })
	group.Go(func() { w.witness(ctx) })
	if _, err := w.waiters(ctx); err != nil { // which reads the clock, too
		return err
	}
	err := w.applyAll(ctx, received)
	if err != nil && errors.Is(context.Cause(ctx), errParting) {
		return errParting // whatever was interrupted by it
	}
	return err
}

// breakWrites sees to it that a worker that is to end does: a server that waits
// for a lock reads nothing, and what is being written to it has no end of its own.
func (w *Worker) breakWrites(ctx context.Context) (stop func()) {
	var group sync.WaitGroup
	done := make(chan struct{})
	group.Go(func() {
		select {
		case <-ctx.Done():
		case <-done:
			return
		}
		select {
		case <-time.After(leaveTime + time.Second):
			for _, s := range w.applier.sessions() {
				_ = s.conn.SetWriteDeadline(time.Unix(1, 0))
			}
		case <-done:
		}
	})
	return func() {
		close(done)
		group.Wait()
	}
}

// sessions are all that apply.
func (a *applier) sessions() []*session {
	if a.crew == nil {
		return []*session{a.session}
	}
	var all []*session
	for _, h := range a.crew.hands {
		all = append(all, h.session)
	}
	return all
}

func (w *Worker) applyAll(ctx context.Context, ended <-chan error) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	w.public, w.idleAt = time.Now(), time.Now().Add(-idleEvery)
	a := w.applier
	var empty batch
	for {
		if err := w.hand(ctx); err != nil {
			return err
		}
		select {
		case <-w.inbox.wake:
			full := w.inbox.take(empty)
			if err := w.handleAll(ctx, full); err != nil {
				return err
			}
			empty = full
		case <-a.session.wake:
			if err := w.settle(ctx); err != nil {
				return err
			}
		case <-tick.C:
			if err := w.look(ctx); err != nil {
				return err
			}
		case err := <-ended:
			return err
		case <-ctx.Done():
			return w.leave(context.WithoutCancel(ctx), context.Cause(ctx))
		}
	}
}

// hand gives the server all that is lined up.
func (w *Worker) hand(ctx context.Context) error {
	if err := w.applier.work(ctx); err != nil {
		return err
	}
	return w.applier.flush()
}

// leave ends the worker at the border of a transaction, if that comes soon.
func (w *Worker) leave(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	if err := errors.Join(w.applier.work(ctx), w.applier.drain(ctx)); err != nil {
		return errors.Join(cause, err)
	}
	if err := w.gatherPosition(ctx); err != nil {
		return errors.Join(cause, err)
	}
	if _, err := w.db.Exec(ctx, "UPDATE spock.pgdrover_subscription SET clean_lsn = $2::text::pg_lsn WHERE sub_id = $1",
		w.sub.id, w.applier.reached.String()); err != nil {
		return errors.Join(cause, err)
	}
	return cause
}

// settle takes the server's answers, and repeats what failed.
func (w *Worker) settle(ctx context.Context) error {
	a := w.applier
	err := a.settle()
	if err == nil && a.crew != nil {
		err = a.crew.unlock(ctx, a)
	}
	if !errors.Is(err, errPipeline) {
		return err
	}
	if len(a.inflight) == 0 {
		return fmt.Errorf("apply: %w", err)
	}
	last := a.inflight[len(a.inflight)-1]
	if err := a.repair(ctx, last); err != nil {
		return err
	}
	return a.work(ctx)
}

func (w *Worker) handleAll(ctx context.Context, b batch) error {
	p := w.applier.progress
	if n := len(b.messages); n > 0 {
		p.received.Store(max(p.received.Load(), uint64(b.messages[n-1].end)))
	}
	defer func() { p.await(w.applier, w.current) }()
	for _, m := range b.messages {
		if m.kind == walreceiver.Data {
			w.received = max(w.received, m.end)
			if err := w.handle(ctx, b.data[m.from:m.to]); err != nil {
				return err
			}
		} else if w.current == nil {
			w.idle = max(w.idle, m.end)
			w.asked = w.asked || m.ask
		}
		w.received = max(w.received, m.end)
		w.serverAt = m.time
		if w.current != nil {
			continue
		}
		if err := w.limitInflight(ctx); err != nil {
			return err
		}
		if time.Since(w.looked) > lookEvery {
			if err := w.look(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// limitInflight waits while too much is on its way.
func (w *Worker) limitInflight(ctx context.Context) error {
	a := w.applier
	for {
		if err := w.settle(ctx); err != nil {
			return err
		}
		if a.sent < inflightLimit && a.weight < inflightBytes || len(a.inflight) <= 1 {
			return nil
		}
		if err := a.await(ctx, crewPatience); err != nil && !errors.Is(err, errPipeline) {
			return err
		}
	}
}

// look is what the worker does now and then: acknowledge, make way, tell.
func (w *Worker) look(ctx context.Context) error {
	w.looked = time.Now()
	if err := w.applier.work(ctx); err != nil {
		return err
	}
	if err := w.settle(ctx); err != nil {
		return err
	}
	if err := w.awaitBlock(); err != nil {
		return err
	}
	if w.current != nil && w.current.begun {
		return w.acknowledge(ctx) // not at a border
	}
	if err := w.idlePosition(ctx); err != nil {
		return err
	}
	if err := w.breathe(ctx); err != nil {
		return err
	}
	now := time.Now()
	if now.Sub(w.public) < publicEvery {
		return nil
	}
	// While a transaction takes its time, others can be written beside it.
	joined, err := w.applier.joinWithin(ctx, lookEvery/4)
	if errors.Is(err, errPipeline) {
		return w.settle(ctx)
	}
	if err != nil || !joined {
		return err
	}
	w.public = now
	if err := w.passBorder(ctx); err != nil {
		return err
	}
	if err := w.gatherPosition(ctx); err != nil {
		return err
	}
	if w.current == nil { // what is kept of a transaction was chosen by the state of its tables
		if err := w.tableSyncs(ctx); err != nil {
			return err
		}
	}
	return w.tell(ctx)
}

// breathe makes way for those who wait, and acknowledges. It stands between two
// transactions.
func (w *Worker) breathe(ctx context.Context) error {
	stop, err := w.waiters(ctx)
	if err == nil && !stop {
		stop, err = w.outdated(ctx)
	}
	if err != nil {
		return err
	}
	if stop {
		return w.leave(ctx, errAsked)
	}
	if err := w.storeVectors(ctx); err != nil {
		return err
	}
	return w.acknowledge(ctx)
}

// passBorder gives the server a moment to report its statistics.
func (w *Worker) passBorder(ctx context.Context) error {
	for {
		err := w.applier.border(ctx)
		if !errors.Is(err, errPipeline) {
			return err
		}
		// What is repeated goes through the pipeline as well, and may fail in turn.
		if err := w.settle(ctx); err != nil {
			return err
		}
	}
}

// gatherPosition takes the stream's position into the origin that everybody
// looks at, where another session of ours has it.
func (w *Worker) gatherPosition(ctx context.Context) error {
	a := w.applier
	if a.crew == nil || !a.crew.strayed || len(a.inflight) > 0 {
		return nil
	}
	if err := w.put(ctx, &transaction{position: true, complete: true, end: a.reached, commitTime: a.time}); err != nil {
		return err
	}
	return w.passBorder(ctx)
}

// waiters makes way for those who wait for our locks: one asks us to end, the
// other to pause.
func (w *Worker) waiters(ctx context.Context) (stop bool, err error) {
	var barred, exact, held bool
	var at float64
	if err := w.db.QueryRow(ctx, `SELECT
		EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND NOT l.granted AND l.classid = $1 AND l.objid = $2 AND l.objsubid = 2
			AND l.database = $4),
		EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.classid = $3 AND l.objid = 0 AND l.objsubid = 2
			AND l.database = $4 AND l.mode = 'ExclusiveLock'),
		EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.classid = $5 AND l.objid = 0 AND l.objsubid = 2
			AND l.database = $4),
		(SELECT coalesce(string_agg(concat_ws(' ', l.classid, l.objid, l.mode), ',' ORDER BY l.classid), '') = $7 FROM pg_locks l
			WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.database = $4 AND l.pid = $6 AND l.classid IN ($1, $3)),
		extract(epoch FROM clock_timestamp())::float8`, uint32(lockWorker), w.sub.id, uint32(lockGate), w.engine.database, uint32(lockJoin), w.pid, w.locks()).
		Scan(&stop, &barred, &exact, &held, &at); err != nil {
		return false, fmt.Errorf("look for waiters: %w", err)
	}
	w.clock.add(time.Until(time.UnixMicro(int64(at * 1e6))))
	if exact != w.applier.exact {
		if err := w.setExact(ctx, exact); err != nil {
			return false, err
		}
	}
	if !held {
		// Code of a table's, or of a statement's, that failed has given them up, or has
		// taken more. A session that ends has none.
		w.log.WarnContext(ctx, "worker starts again: something that it has applied has changed its session's advisory locks")
	}
	if stop || !held {
		return true, nil
	}
	return false, w.yield(ctx, barred)
}

// setExact makes progress part of each snapshot, or no longer: a node that joins
// copies this one's data and goes on with the others where the data is. The row
// that is there from then on, and the lock, tell it that it may.
func (w *Worker) setExact(ctx context.Context, exact bool) error {
	if err := w.passBorder(ctx); err != nil {
		return err
	}
	a := w.applier
	a.exact = exact
	text := fmt.Sprintf("SELECT pg_advisory_unlock_shared(%d, %d)", lockExact, int32(w.sub.id)) //nolint:gosec // the number wraps around, as in SQL
	if exact {
		if _, err := w.db.Exec(ctx, progressText, w.sub.id, a.reached.String(), a.time.Time()); err != nil {
			return fmt.Errorf("store progress: %w", err)
		}
		text = fmt.Sprintf("SELECT pg_advisory_lock_shared(%d, %d)", lockExact, int32(w.sub.id)) //nolint:gosec // as above
	}
	if _, err := w.db.Exec(ctx, text); err != nil {
		return fmt.Errorf("say that progress is exact: %w", err)
	}
	return nil
}

// idlePosition remembers how far the stream is when nothing came that was for
// us: the slot must not hold the provider's log for ever, and may only be let on
// when the position is as durable here as data would be. A provider that asks
// may be stopping, which takes until it has the answer.
func (w *Worker) idlePosition(ctx context.Context) error {
	a := w.applier
	now := time.Now()
	if w.current != nil || len(a.inflight) > 0 || !w.asked && now.Sub(w.idleAt) < idleEvery {
		return nil
	}
	asked := w.asked
	w.asked = false
	if w.idle <= a.reached {
		return nil
	}
	w.idleAt = now
	return w.put(ctx, &transaction{position: true, complete: true, durable: asked, end: w.idle, commitTime: a.time})
}

// acknowledge finds out what is on disk, and tells the provider.
func (w *Worker) acknowledge(ctx context.Context) error {
	marked := w.durable.mark()
	if marked == 0 {
		w.receiver.SetFeedback(walreceiver.Feedback{Written: w.received, Flushed: w.durable.flushed, Applied: w.applier.reached})
		return nil
	}
	var insert, flush string
	if err := w.db.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn()::text, CASE WHEN current_setting('synchronous_standby_names') = ''
		THEN pg_current_wal_flush_lsn() ELSE least(pg_current_wal_flush_lsn(), coalesce((SELECT min(r.flush_lsn) FROM pg_stat_replication r
		WHERE r.sync_state IN ('sync', 'quorum')), '0/0')) END::text`).Scan(&insert, &flush); err != nil {
		return fmt.Errorf("read local log position: %w", err)
	}
	inserted, err := pg.ParseLSN(insert)
	if err != nil {
		return err
	}
	flushed, err := pg.ParseLSN(flush)
	if err != nil {
		return err
	}
	before := w.durable.flushed
	now := w.durable.advance(marked, inserted, flushed)
	feedback := walreceiver.Feedback{Written: w.received, Flushed: now, Applied: w.applier.reached}
	if now == before {
		w.receiver.SetFeedback(feedback)
		return nil
	}
	return w.receiver.Report(ctx, feedback)
}

// tell writes what everybody may see: while something is applied once a second,
// once when nothing is left to do, and now and then after that. More would be
// news to other nodes, and their answers to us.
func (w *Worker) tell(ctx context.Context) error {
	a := w.applier
	inserted := max(w.received, pg.LSN(w.inserted.Load())).String()
	if a.progress.isWitnessed() {
		w.settled = false // what is public was right while something waited
	}
	if a.time != 0 && a.time != w.lastTime {
		w.lastTime, w.settled, w.heard = a.time, false, time.Now()
		return w.publish(ctx, a.time.Time(), a.reached, inserted, true)
	}
	at := max(a.reached, w.idle)
	if w.current != nil || len(a.inflight)+len(a.todo) > 0 || at < w.received {
		return nil
	}
	if !w.caughtUp(at) {
		if w.behind.IsZero() {
			w.behind = time.Now()
		}
		if w.here.IsZero() || time.Since(w.behind) < witnessEvery {
			return nil // it is under way: telling of each moment would be news to other nodes
		}
		return w.tellBehind(ctx, at)
	}
	w.behind = time.Time{}
	if w.settled && time.Since(w.heard) < idleEvery {
		return nil
	}
	w.settled, w.heard = true, time.Now()
	return w.publish(ctx, nil, at, inserted, false)
}

// measured is where the provider's log ended, as far as it can be sent, and when
// that was by the provider's clock.
type measured struct {
	flushed pg.LSN
	at      time.Time
}

// caughtUp tells whether what the provider had is here, as far as that is known:
// that nothing comes says little, since a provider reads its log for a while
// before it sends anything. What it adds meanwhile is measured anew.
func (w *Worker) caughtUp(at pg.LSN) bool {
	last := w.ended.Load()
	if last == nil {
		return false
	}
	if w.goal == nil {
		w.goal = last
	}
	if at < w.goal.flushed {
		return false
	}
	w.here, w.goal = w.goal.at, last
	return true
}

// tellBehind tells of a stream that was level with its provider, and is not for
// a while. Nothing is known of what comes, but that it was not there then.
func (w *Worker) tellBehind(ctx context.Context, at pg.LSN) error {
	p := w.applier.progress
	last := w.ended.Load()
	if last == nil || at >= last.flushed || p.waiting.Load() != 0 || !p.silent() {
		return nil
	}
	w.settled = false
	var when any // that was told before
	if t := w.applier.time.Time(); w.applier.time != 0 && t.After(w.here) {
		when = t
	} else if !w.here.IsZero() {
		when = w.here
	}
	return w.publish(ctx, when, at, max(w.received, pg.LSN(w.inserted.Load())).String(), true)
}

const publishText = "SELECT pgdrover.store_progress($1, $2, $3::text::pg_lsn, $4::text::pg_lsn, $5::text::pg_lsn, $6)"

func (w *Worker) publish(ctx context.Context, at any, reached pg.LSN, inserted string, busy bool) error {
	p := w.applier.progress
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := w.db.Exec(ctx, publishText, uint32(w.sub.provider), at, reached.String(), inserted, w.received.String(), busy)
	if err != nil {
		return fmt.Errorf("store progress: %w", err)
	}
	p.told, p.floor, p.witnessed = time.Now(), reached, false
	return nil
}

// progress is how far a worker is, for whoever tells of it while the worker
// itself is busy with a transaction, or waits for a lock.
type progress struct {
	reached  atomic.Uint64 // end of the last transaction that committed here
	time     atomic.Int64  // its commit time
	waiting  atomic.Int64  // commit time of the first that has not; 0 when none is known
	received atomic.Uint64
	inflight atomic.Uint64 // position of the first that is being written; 0 when none is, or it is not known yet

	mu        sync.Mutex // held while something is told
	told      time.Time
	floor     pg.LSN // what was told to be applied
	witnessed bool   // not by the worker itself
}

func newProgress(a *applier) *progress {
	p := &progress{told: time.Now()}
	p.committed(a)
	return p
}

// committed notes how far an applier is.
func (p *progress) committed(a *applier) {
	if p == nil {
		return
	}
	p.reached.Store(uint64(a.reached))
	p.time.Store(int64(a.time))
	p.await(a, nil)
}

// await notes what is the first to commit, if nothing is on its way that one.
func (p *progress) await(a *applier, next *transaction) {
	inflight := pg.LSN(0)
	switch {
	case len(a.inflight) > 0:
		next = a.inflight[0]
	case len(a.todo) > 0:
		next = a.todo[0]
	}
	if len(a.inflight)+len(a.todo) > 0 {
		inflight = next.final
	}
	at := int64(0)
	if next != nil {
		at = int64(next.commitTime)
	}
	p.waiting.Store(at)
	p.inflight.Store(uint64(inflight))
}

// silent tells whether nothing was told for a while.
func (p *progress) silent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.told) >= witnessEvery
}

func (p *progress) isWitnessed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.witnessed
}

// witness tells how far the worker is when the worker has not done so for a
// while, though something waits. It has a connection of its own, which nothing
// that is applied can block.
func (w *Worker) witness(ctx context.Context) {
	p := w.applier.progress
	var db *pgx.Conn
	leave := func() {
		if db != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
			defer cancel()
			_ = db.Close(ctx)
			db = nil
		}
	}
	defer leave()
	var first int64
	var since time.Time
	var slow slowness
	for sleep(ctx, publicEvery) {
		long := slow.of(pg.LSN(p.inflight.Load()), time.Now(), w.engine.slow)
		if now := p.waiting.Load(); now != first || now == 0 {
			first, since = now, time.Now()
			leave()
			continue
		}
		if time.Since(since) < witnessEvery {
			continue
		}
		if db == nil || db.IsClosed() {
			var err error
			// A lock of the table itself is somebody's who will not have it for long.
			if db, err = w.engine.connect(ctx, "pgdrover worker "+w.sub.name, map[string]string{"lock_timeout": "2000"}); err != nil {
				db = nil
				continue
			}
		}
		if err := w.bearWitness(ctx, db); err != nil && ctx.Err() == nil {
			w.log.DebugContext(ctx, "progress was not stored", "error", err)
		}
		if long {
			slow.told = true
			w.saySlow(ctx, db, slow.lsn)
		}
	}
}

// slowAfter is how long one transaction may be written before the log says so.
const slowAfter = time.Minute

// slowness is since when the same transaction is the first that is written.
type slowness struct {
	lsn   pg.LSN
	since time.Time
	told  bool
}

// of tells whether it has been for long, and nobody was told yet.
func (s *slowness) of(lsn pg.LSN, now time.Time, after time.Duration) bool {
	if lsn != s.lsn {
		*s = slowness{lsn: lsn, since: now}
	}
	return lsn != 0 && !s.told && now.Sub(s.since) >= after
}

// saySlow says of a transaction that is long in coming what it is at.
func (w *Worker) saySlow(ctx context.Context, db *pgx.Conn, lsn pg.LSN) {
	ctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	var pid int32
	var at, query string
	var blockers []int32
	if err := db.QueryRow(ctx, `SELECT a.pid, concat_ws(' ', a.state, a.wait_event_type, a.wait_event), left(a.query, 200), pg_blocking_pids(a.pid)
		FROM pg_stat_activity a WHERE a.xact_start IS NOT NULL AND (a.pid = $1 OR starts_with(a.application_name, $2)) ORDER BY a.xact_start LIMIT 1`,
		w.pid, w.others()).Scan(&pid, &at, &query, &blockers); err != nil {
		at = "unknown: " + err.Error()
	}
	w.log.WarnContext(ctx, "transaction is being written for long", "lsn", lsn.String(), "pid", pid, "waits", at, "query", query, "blocked_by", blockers,
		"hint", fmt.Sprintf("See what it waits for. Once it cannot be had, leave it out: SELECT spock.sub_alter_skiplsn('%s', '%s').", w.sub.name, lsn))
}

func (w *Worker) bearWitness(ctx context.Context, db *pgx.Conn) error {
	p := w.applier.progress
	p.mu.Lock()
	defer p.mu.Unlock()
	first := pg.Timestamp(p.waiting.Load())
	if time.Since(p.told) < witnessEvery || first == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, closeTime)
	defer cancel()
	// What has committed there before the first that waits is all here.
	at := max(pg.Timestamp(p.time.Load()), first-1)
	reached, received := max(pg.LSN(p.reached.Load()), p.floor), pg.LSN(p.received.Load())
	times := 1
	if p.time.Load() == 0 {
		times = 2 // another time than before looks like getting on, which nothing has in this life
	}
	for range times {
		if _, err := db.Exec(ctx, publishText, uint32(w.sub.provider), at.Time(), reached.String(),
			max(received, pg.LSN(w.inserted.Load())).String(), received.String(), true); err != nil {
			return fmt.Errorf("store progress: %w", err)
		}
	}
	p.told, p.witnessed = time.Now(), true
	return nil
}

// standing is what changes as long as anything gets on here.
type standing struct {
	reached, flushed pg.LSN
	unanswered       int // statements
}

func (w *Worker) standing() standing {
	s := standing{reached: pg.LSN(w.applier.progress.reached.Load())}
	w.durable.mu.Lock()
	s.flushed = w.durable.flushed
	w.durable.mu.Unlock()
	for _, session := range w.applier.sessions() {
		session.mu.Lock()
		s.unanswered += len(session.pending) - session.head
		session.mu.Unlock()
	}
	return s
}

// parting tells whether a stream keeps its provider from shutting down, and for
// how long nothing has got on here meanwhile.
type parting struct {
	since time.Time // zero while the provider takes new sessions
	at    standing
}

// refused is called for each attempt to open a session with a provider whose
// stream is there: one that takes no more is on its way down, since one on its
// way up has no streams yet.
func (p *parting) refused(err error, at standing, now time.Time) (ended bool) {
	if sqlState(err) != pgerrcode.CannotConnectNow {
		p.since = time.Time{}
		return false
	}
	if p.since.IsZero() || p.at != at {
		p.since, p.at = now, at
	}
	return now.Sub(p.since) >= partingPatience
}

// measureText: what is not on the provider's disk is not sent.
const measureText = "SELECT pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn(), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

// measure asks the provider once a second where its log ends: the stream only
// says how far it was sent. A provider that shuts down ends that session, takes
// no other, and keeps the stream until everything it has sent is confirmed; what
// cannot be confirmed comes again when it is back.
func (w *Worker) measure(ctx context.Context, end context.CancelCauseFunc) {
	var parting parting
	dsn := w.engine.peerDSN(w.sub.dsn)
	var conn *pgconn.PgConn
	defer func() {
		if conn != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
			defer cancel()
			_ = conn.Close(ctx)
		}
	}()
	for first := true; first || sleep(ctx, publicEvery); first = false {
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = dial(ctx, dsn, w.sub.name+"_lag", nil); err != nil {
				conn = nil
				if parting.refused(err, w.standing(), time.Now()) {
					end(errParting)
					return
				}
				continue // the stream itself says what is wrong
			}
			parting.since = time.Time{}
		}
		result := w.applier.peers.askWith(ctx, conn, measureText, nil, nil, nil)
		if result.Err != nil {
			continue
		}
		row := result.Rows[0]
		if at, err := pg.ParseLSN(string(row[0])); err == nil {
			w.inserted.Store(uint64(at))
		}
		flushed, err := pg.ParseLSN(string(row[1]))
		at, err2 := strconv.ParseInt(string(row[2]), 10, 64)
		if err == nil && err2 == nil {
			w.ended.Store(&measured{flushed, time.UnixMicro(at)})
		}
	}
}

// put hands a transaction to the applier, when its time has come.
func (w *Worker) put(ctx context.Context, tx *transaction) error {
	if now := w.engine.defined.Load(); now != w.defined {
		w.defined = now
		w.applier.epoch++ // somebody has changed a table here
	}
	w.applier.progress.await(w.applier, tx)
	if !tx.begun && !tx.position {
		if err := w.wait(ctx, tx); err != nil {
			return err
		}
	}
	w.applier.progress.inflight.CompareAndSwap(0, uint64(tx.final))
	return w.applier.put(ctx, tx)
}

// wait holds a transaction back: for the delay that was asked for, and until
// this server's clock has passed its commit time.
func (w *Worker) wait(ctx context.Context, tx *transaction) error {
	if w.sub.delay > 0 {
		if err := w.pause(ctx, time.Until(tx.commitTime.Time().Add(w.sub.delay))); err != nil {
			return err
		}
	}
	for {
		now := pg.TimestampOf(time.Now().Add(w.clock.offset()))
		d, tooFar := conflict.Wait(tx.commitTime, now, w.engine.maxSkew())
		switch {
		case tooFar:
			w.applier.counts.add(w.sub.id, "clock_ahead", 1)
			w.log.WarnContext(ctx, "provider's clock is ahead", "lsn", tx.final.String(), "origin", uint32(w.sub.provider),
				"ahead", tx.commitTime.Sub(now))
			return nil
		case d == 0:
			return nil
		}
		if err := w.pause(ctx, d); err != nil {
			return err
		}
	}
}

// pause waits between two transactions. What was sent before goes on meanwhile:
// others may wait for the keys that it holds.
func (w *Worker) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := w.hand(ctx); err != nil {
			return err
		}
		select {
		case <-timer.C:
			return nil
		case <-w.applier.session.wake:
			if err := w.settle(ctx); err != nil {
				return err
			}
		case <-tick.C:
			if err := w.breathe(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return w.leave(context.WithoutCancel(ctx), context.Cause(ctx))
		}
	}
}

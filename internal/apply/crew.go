package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// crew is the sessions of one subscription that apply side by side. The
// transactions of the stream commit here in the order in which they did there:
// a transaction that does not depend on those before it is written by a session
// that is free, as far as its COMMIT, which is sent when its turn has come. So
// each session has at most one transaction that is open and waits, and what
// readers see, and where the stream goes on after a crash, is what one session
// would have left.
//
// Each session has an origin of its own: the server lets no two share one. The
// position of the stream is the highest of them.
type crew struct {
	hands []*hand // the first is the applier's own session
	// claims keep two sessions from working on one key at a time; those of the
	// engine keep subscriptions apart.
	claims *claims
	// alone is the end of the last transaction that is to be written by the first
	// session alone, because side by side it has failed.
	alone    pg.LSN
	db       *pgx.Conn    // for questions
	rows     int          // of a transaction that is worth it
	name     string       // with which the names of all sessions begin that apply here
	moved    time.Time    // when a transaction has committed last, or the first one began to wait
	asked    time.Time    // when it was asked last why none does
	blocked  *transaction // waits for a lock: what is behind it waits too, until it has committed
	stepBack bool         // all have to roll back
	// strayed: the first session's origin is not the highest one, but the one that
	// everybody looks at.
	strayed bool
}

// hand is one session of a crew.
type hand struct {
	*applier
	open  *transaction // written, and not sent to be committed
	count int          // transactions that were not seen to commit
}

const (
	// crewRows and crewBytes are what makes a transaction worth to be written beside
	// others: that its turn has come is told from session to session, by us.
	crewRows  = 16
	crewBytes = 32 << 10
	// crewPatience is how long nothing may commit before it is asked why.
	crewPatience = time.Second
)

// newCrew makes a crew of an applier's own session and others, which apply like it.
func newCrew(a *applier, db *pgx.Conn, e *Engine, sessions []*session, origins []string) *crew {
	c := &crew{
		claims: newClaims(), db: db, rows: e.beside, name: fmt.Sprintf("spock apply %d:", e.database),
		hands: []*hand{{applier: a}},
	}
	for i, s := range sessions {
		other := *a
		other.session, other.origin, other.crew = s, origins[i], nil
		other.shapes = shapes{ids: a.shapes.ids}
		other.gather, other.inflight, other.todo, other.arenas = run{}, nil, nil, nil
		c.hands = append(c.hands, &hand{applier: &other})
	}
	return c
}

// busy tells whether anything that was written side by side is not known to have
// committed.
func (c *crew) busy() bool {
	return slices.ContainsFunc(c.hands, func(h *hand) bool { return h.count > 0 })
}

// wants tells whether a transaction is to be written beside others.
func (a *applier) wants(tx *transaction) bool {
	c := a.crew
	if c == nil || tx.mode != fast || !tx.complete || tx.partial || tx.begun || tx.position || tx.skipped || tx.durable || a.exact ||
		tx.alone || tx.end <= c.alone || c.blocked != nil || len(tx.changes) == 0 {
		return false
	}
	return c.busy() || len(tx.changes) >= c.rows || tx.size >= crewBytes
}

// suits tells whether nothing but its keys binds a change to others: its table
// moves nothing else, and all its checks are made at once.
func (g *target) suits() bool { return g.Plain && !g.Deferrable && !g.careful }

// assign gives a transaction to a session that may write it now, and waits for
// one while there is none. False means that it is for the first session alone.
func (a *applier) assign(ctx context.Context, tx *transaction) (bool, error) {
	c := a.crew
	w, err := a.wishOf(ctx, tx)
	if err != nil || w.all {
		return false, err
	}
	for i := range tx.changes {
		if g := tx.changes[i].table.target; g == nil || !g.suits() || a.amended.has(g.OID) {
			return false, nil
		}
	}
	if !a.claims.tryAcquire(a, w) {
		// Somebody may wait for what we hold.
		if err := a.drain(ctx); err != nil {
			return false, err
		}
		if err := a.claims.acquire(ctx, a, w); err != nil {
			return false, err
		}
	}
	if a.redefined() {
		a.claims.release(a, w)
		return a.assign(ctx, tx)
	}
	tx.wish = w
	for {
		err := a.settle()
		if err == nil {
			if h := c.free(w); h != nil {
				return true, a.give(ctx, h, tx)
			}
			err = a.await(ctx, crewPatience)
		}
		if err != nil {
			// It is not among those that are on their way: nobody else would give back
			// what it has claimed.
			a.letGo(tx)
			return true, err
		}
	}
}

// free is a session that may write what is wished for: the one with least to do.
func (c *crew) free(w *wish) *hand {
	idle := slices.DeleteFunc(slices.Clone(c.hands), func(h *hand) bool { return h.open != nil })
	slices.SortStableFunc(idle, func(a, b *hand) int { return a.count - b.count })
	for _, h := range idle {
		if c.claims.tryAcquire(h, w) {
			return h
		}
	}
	return nil
}

// give has a session write a transaction, all but its end.
func (a *applier) give(ctx context.Context, h *hand, tx *transaction) error {
	c := a.crew
	if len(a.inflight) == 0 {
		c.moved = time.Now()
	}
	tx.hand, tx.begun, tx.actions = h, true, 1
	h.open, h.count = tx, h.count+1
	a.inflight = append(a.inflight, tx)
	tx.weight = tx.size
	a.weight += tx.weight
	h.epoch, h.exact = a.epoch, a.exact
	h.session.conclude()
	h.session.execute("BEGIN", nil, nil, op{tx: tx})
	passAuthor(h.session, tx)
	r := &h.gather
	r.begin(h.applier, tx)
	for i := range tx.changes {
		ok, err := r.add(ctx, &tx.changes[i])
		if err != nil {
			return err
		}
		if !ok || tx.deferred {
			tx.alone = true // one session alone can do more
			return errPipeline
		}
	}
	r.send()
	if err := a.turn(); err != nil {
		return err
	}
	return h.session.flush()
}

// turn sends the COMMIT of those whose turn has come: all before them have
// committed, or stand before them in the same session.
func (a *applier) turn() error {
	for i, tx := range a.inflight {
		if tx.hand == nil || tx.hand.open != tx {
			continue
		}
		if i > 0 && a.inflight[i-1].hand != tx.hand {
			return nil
		}
		h := tx.hand
		h.open = nil
		h.session.execute(setupText, []uint32{pgLSNOID, timestamptzOID}, setupValues(tx), op{tx: tx})
		h.session.execute("COMMIT", nil, nil, op{tx: tx, commit: true})
		if err := h.session.flush(); err != nil {
			return err
		}
	}
	return nil
}

// settle takes the answers of all sessions.
func (c *crew) settle(a *applier) error {
	var stopped bool
	for _, h := range c.hands {
		done, failed, broken := h.session.state()
		for _, tx := range done {
			c.moved = time.Now()
			a.finished(tx)
		}
		if broken != nil {
			return broken
		}
		stopped = stopped || failed != nil
	}
	if stopped || c.stepBack {
		return errPipeline
	}
	return a.turn()
}

// ended is called for each transaction that has committed, or is forgotten.
func (c *crew) ended(tx *transaction) {
	h := tx.hand
	if tx.finished {
		c.strayed = h != nil && h != c.hands[0]
		if c.blocked == tx {
			c.blocked = nil
		}
	}
	if h == nil {
		return
	}
	if h.open == tx {
		h.open = nil
	}
	h.count--
	tx.hand = nil
	if tx.wish != nil {
		c.claims.release(h, tx.wish)
	}
}

// border has all sessions pass a border.
func (a *applier) border(ctx context.Context) error {
	if err := a.drain(ctx); err != nil || a.crew == nil {
		return err
	}
	for _, h := range a.crew.hands[1:] {
		if err := h.session.border(ctx); err != nil {
			return err
		}
	}
	return nil
}

// flush writes what was sent in all sessions.
func (a *applier) flush() error {
	if a.crew == nil {
		return a.session.flush()
	}
	for _, h := range a.crew.hands {
		if err := h.session.flush(); err != nil {
			return err
		}
	}
	return nil
}

// await waits until some session has an answer, at most for so long.
func (a *applier) await(ctx context.Context, most time.Duration) error {
	if err := a.flush(); err != nil {
		return err
	}
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-a.session.wake:
		return nil
	case <-timer.C:
		if a.crew == nil {
			return nil
		}
		return a.crew.unlock(ctx, a)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// join waits until all that was written side by side has committed.
func (a *applier) join(ctx context.Context) error {
	for {
		if joined, err := a.joinWithin(ctx, time.Hour); joined || err != nil {
			return err
		}
	}
}

// joinWithin is join for a limited time.
func (a *applier) joinWithin(ctx context.Context, most time.Duration) (bool, error) {
	for began := time.Now(); a.crew != nil && a.crew.busy(); {
		if err := a.settle(); err != nil {
			return false, err
		}
		left := most - time.Since(began)
		switch {
		case !a.crew.busy():
			return true, nil
		case left <= 0:
			return false, nil
		}
		if err := a.await(ctx, min(left, crewPatience)); err != nil {
			return false, err
		}
	}
	return true, nil
}

// unlock finds out why nothing commits. The server sees no deadlock where the
// transaction whose turn it is waits for a lock of one behind it, directly or
// through others: that one does not wait for any lock, but for its turn. It may
// be another subscription's, which waits for ours in the same way.
func (c *crew) unlock(ctx context.Context, a *applier) error {
	now := time.Now()
	if len(a.inflight) == 0 || now.Sub(c.moved) < crewPatience || now.Sub(c.asked) < crewPatience {
		return nil
	}
	c.asked = now
	first := c.first(a)
	var others []int32
	for _, h := range c.hands {
		if h != first && h.open != nil {
			others = append(others, int32(h.session.pid)) //nolint:gosec // a process number
		}
	}
	if len(others) == 0 {
		return nil
	}
	var locked bool
	if err := c.db.QueryRow(ctx, `WITH RECURSIVE b (pid) AS (SELECT unnest(pg_blocking_pids($1)) UNION SELECT unnest(pg_blocking_pids(b.pid)) FROM b)
		SELECT EXISTS (SELECT FROM b LEFT JOIN pg_stat_activity a USING (pid) WHERE b.pid = ANY ($2) OR starts_with(a.application_name, $3))`,
		int32(first.session.pid), others, c.name).Scan(&locked); err != nil { //nolint:gosec // a process number
		return fmt.Errorf("look for locks: %w", err)
	}
	if !locked {
		return nil
	}
	a.log.InfoContext(ctx, "transaction waits for one behind it, which steps back", "lsn", a.inflight[0].final.String())
	c.blocked, c.stepBack = a.inflight[0], true
	return errPipeline
}

// first is the session whose turn it is to commit.
func (c *crew) first(a *applier) *hand {
	if len(a.inflight) > 0 && a.inflight[0].hand != nil {
		return a.inflight[0].hand
	}
	return c.hands[0]
}

// recover rolls back whatever has not committed, in all sessions: those behind
// the first first, because it may wait for what they hold.
func (c *crew) recover(ctx context.Context, a *applier) (*failure, error) {
	var found *failure
	first := c.first(a)
	c.stepBack = false
	others := slices.DeleteFunc(slices.Clone(c.hands), func(h *hand) bool { return h == first })
	for _, h := range append(others, first) {
		failed, broken := h.session.peek()
		if broken != nil {
			return nil, broken
		}
		if h.count == 0 && failed == nil && h != c.hands[0] {
			continue
		}
		if h.open != nil && h != first && failed == nil {
			if _, err := c.db.Exec(ctx, "SELECT pg_cancel_backend($1)", int32(h.session.pid)); err != nil { //nolint:gosec // a process number
				return nil, fmt.Errorf("end what waits: %w", err)
			}
		}
		if err := h.session.recover(ctx); err != nil {
			return nil, err
		}
		if failed != nil && (found == nil || slices.Index(a.inflight, failed.tx) < slices.Index(a.inflight, found.tx)) {
			found = failed
		}
	}
	for _, h := range c.hands {
		done, _, broken := h.session.state()
		if broken != nil {
			return nil, broken
		}
		for _, tx := range done {
			tx.finished = true
		}
	}
	for len(a.inflight) > 0 && a.inflight[0].finished {
		a.finished(a.inflight[0])
	}
	if slices.ContainsFunc(a.inflight, func(tx *transaction) bool { return tx.finished }) {
		return nil, errors.New("repeat transactions: a later one has committed before an earlier one")
	}
	for _, h := range c.hands {
		if err := h.checkOrigin(ctx, a.reached); err != nil {
			return nil, err
		}
	}
	if len(a.inflight) > 0 {
		c.alone = a.inflight[len(a.inflight)-1].end
	}
	return found, nil
}

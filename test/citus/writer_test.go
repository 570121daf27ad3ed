package citus

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// writer inserts numbered rows and remembers those whose commit was
// acknowledged without a warning. It never writes a number twice.
type writer struct {
	f    *formation
	dial func(ctx context.Context, network, address string) (net.Conn, error)
	rest time.Duration // between two rows
	stop context.CancelFunc
	wg   sync.WaitGroup
	next atomic.Int64

	mu    sync.Mutex
	acked []int64
	pairs []int64   // rows that went to the table together with the one of the same negative number
	last  time.Time // of the last acknowledgement
	gap   time.Duration
	err   error
}

// rowPatience is how long a row may take before its session is given up.
const rowPatience = 8 * time.Second

// write starts some sessions that write through the coordinator.
func (f *formation) write(t testing.TB) *writer {
	t.Helper()
	w := f.writer(t)
	for i := range 3 {
		// With the extension one of them writes two rows at a time, most often to two workers.
		insert := w.throughCoordinator
		if f.genuine && i == 0 {
			insert = w.pairThroughCoordinator
		}
		w.wg.Go(func() { w.session(t.Context(), insert) })
	}
	return w
}

// writeStraight starts a session that writes to one worker's server, whatever its state; on that worker's host.
func (f *formation) writeStraight(t testing.TB, m *group.Member) *writer {
	t.Helper()
	w := f.writer(t)
	if m.Host != nil {
		w.dial = m.Host.DialContext
	}
	w.next.Store(time.Now().UnixMicro())
	w.wg.Go(func() {
		w.session(t.Context(), func(ctx context.Context, link *link, id int64) error {
			return link.exec(ctx, fmt.Sprintf("host=127.0.0.1 port=%d", m.Port), fmt.Sprintf("INSERT INTO direct VALUES (%d)", id))
		})
	})
	return w
}

func (f *formation) writer(t testing.TB) *writer {
	t.Helper()
	w := &writer{f: f, dial: f.dial(), last: time.Now(), rest: 5 * time.Millisecond}
	if !f.genuine {
		w.rest = 15 * time.Millisecond // the stand-in opens a session on the worker for every row
	}
	t.Cleanup(w.end)
	return w
}

// requireStraight ends a client that wrote straight to a worker, and looks on its successor for every row that it was told is safe.
func (w *writer) requireStraight(t testing.TB, old, next *group.Member) {
	t.Helper()
	w.end()
	there := query[int64](t, next, "SELECT id FROM direct")
	for _, id := range w.acknowledged() {
		if !slices.Contains(there, id) {
			t.Fatalf("row %d, acknowledged by %s, is lost", id, old.Name)
		}
	}
}

func (w *writer) end() {
	w.mu.Lock()
	stop := w.stop
	w.stop = func() {}
	w.mu.Unlock()
	if stop != nil {
		stop()
	}
	w.wg.Wait()
}

// session writes until it is ended.
func (w *writer) session(ctx context.Context, insert func(context.Context, *link, int64) error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.mu.Lock()
	if before := w.stop; before == nil {
		w.stop = cancel
	} else {
		w.stop = func() { before(); cancel() }
	}
	w.mu.Unlock()
	link := &link{dial: w.dial, conns: make(map[string]*pgconn.PgConn)}
	defer link.close()
	for ctx.Err() == nil {
		id := w.next.Add(1)
		rowCtx, done := context.WithTimeout(ctx, rowPatience)
		link.warned.Store(false)
		err := insert(rowCtx, link, id)
		done()
		switch {
		case err != nil:
			link.close()
			w.mu.Lock()
			w.err = err
			w.mu.Unlock()
			pause(ctx, 20*time.Millisecond)
		case !link.warned.Load():
			w.mu.Lock()
			now := time.Now()
			w.gap = max(w.gap, now.Sub(w.last))
			w.acked, w.last = append(w.acked, id), now
			if n := len(w.pairs); n > 0 && w.pairs[n-1] == id {
				w.acked = append(w.acked, -id)
			}
			w.mu.Unlock()
			pause(ctx, w.rest)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// throughCoordinator writes one row as a client of the formation does.
func (w *writer) throughCoordinator(ctx context.Context, link *link, id int64) error {
	insert := fmt.Sprintf("INSERT INTO ledger VALUES (%d)", id)
	if !w.f.genuine {
		insert = fmt.Sprintf("SELECT citus.execute(%d, '%s')", int(id)%w.f.workers+1, insert)
	}
	return link.exec(ctx, w.f.anyCoordinator(), insert)
}

// anyCoordinator is how clients find the coordinator.
func (f *formation) anyCoordinator() string {
	var hosts, ports []string
	for _, m := range f.members(0) {
		hosts, ports = append(hosts, m.IP()), append(ports, strconv.Itoa(m.Port))
	}
	return "host=" + strings.Join(hosts, ",") + " port=" + strings.Join(ports, ",") + " target_session_attrs=read-write"
}

// pairThroughCoordinator writes two rows in one transaction.
func (w *writer) pairThroughCoordinator(ctx context.Context, link *link, id int64) error {
	w.mu.Lock()
	w.pairs = append(w.pairs, id)
	w.mu.Unlock()
	return link.exec(ctx, w.f.anyCoordinator(), fmt.Sprintf("INSERT INTO ledger VALUES (%d), (%d)", id, -id))
}

// requirePairs looks for transactions that did one half of their work: once nobody
// writes any more and nothing is prepared, there must be none.
func (w *writer) requirePairs(t testing.TB) {
	t.Helper()
	pgtest.Eventually(t, group.Patience, func() error { // the last ones may still be on their way
		there := w.f.ids(t)
		for _, id := range w.pairs {
			if there[id] != there[-id] {
				return fmt.Errorf("of the rows %d and %d, written in one transaction, only one is there", id, -id)
			}
		}
		return nil
	})
	t.Logf("%d transactions of two rows: each has left both or none", len(w.pairs))
}

// link is the connections of one session. It sends no cancel requests: a wait
// for a standby that is cancelled would look like a commit.
type link struct {
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	conns  map[string]*pgconn.PgConn
	warned atomic.Bool
}

func (l *link) conn(ctx context.Context, where string) (*pgconn.PgConn, error) {
	if c := l.conns[where]; c != nil {
		return c, nil
	}
	cfg, err := pgconn.ParseConfig(where + " user=" + pgtest.Superuser + " dbname=" + database + " sslmode=disable connect_timeout=2")
	if err != nil {
		return nil, err
	}
	cfg.DialFunc = l.dial
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			l.warned.Store(true)
		}
	}
	c, err := pgconn.ConnectConfig(ctx, cfg)
	if err == nil {
		l.conns[where] = c
	}
	return c, err
}

func (l *link) exec(ctx context.Context, where, sql string) error {
	c, err := l.conn(ctx, where)
	if err != nil {
		return err
	}
	// Not a context's deadline, which would send a cancel request.
	stop := context.AfterFunc(ctx, func() { _ = c.Conn().Close() })
	defer stop()
	_, err = c.Exec(context.WithoutCancel(ctx), sql).ReadAll()
	return err
}

func (l *link) close() {
	for where, c := range l.conns {
		_ = c.Conn().Close()
		delete(l.conns, where)
	}
}

func (w *writer) acknowledged() []int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.acked)
}

// begin starts a new measurement of the longest time without an acknowledgement.
func (w *writer) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gap, w.last = 0, time.Now()
}

func (w *writer) longest() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gap.Round(time.Millisecond)
}

// waitAck waits until enough rows are acknowledged after a moment that every
// group has taken one with near certainty.
func (w *writer) waitAck(t testing.TB, after time.Time) {
	t.Helper()
	before := len(w.acknowledged())
	pgtest.Eventually(t, group.Patience, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.acked) - before; n < 20*w.f.workers {
			return fmt.Errorf("%d rows were acknowledged since %s, the last error was: %w", n, after.Format(time.TimeOnly), w.err)
		}
		return nil
	})
}

package demo

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The demonstration's own table and statements.
const (
	qTable  = `CREATE TABLE IF NOT EXISTS public.demo (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT pg_catalog.now())`
	qInsert = `INSERT INTO public.demo (id) VALUES ($1) RETURNING pg_catalog.current_setting('port')::int`
	qRows   = `SELECT id FROM public.demo`
)

// writer writes one row after the other and remembers which were
// acknowledged. A commit that came with a warning is not counted: it means
// that the wait for a standby was cut short.
type writer struct {
	uri string
	// insert adds a row and answers the server's port.
	insert string

	mu        sync.Mutex
	acked     []int64
	attempts  int64
	lastAck   time.Time
	lastPort  int
	marked    time.Time
	markCount int
	markPort  int
	longest   time.Duration // since the mark
	lastErr   error
	warned    bool // by the server, on the current connection
}

func newWriter(uri string) *writer { return &writer{uri: uri, insert: qInsert} }

// connect finds the node that takes writes, as any application with this URI does.
func (w *writer) connect(ctx context.Context) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(w.uri)
	if err != nil {
		return nil, err
	}
	cfg.ConnectTimeout = 500 * time.Millisecond
	cfg.RuntimeParams["application_name"] = "pgdrover demo"
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.warned = true
		}
	}
	return pgx.ConnectConfig(ctx, cfg)
}

// prepare creates the table.
func (w *writer) prepare(ctx context.Context) error {
	conn, err := w.connect(ctx)
	if err != nil {
		return fmt.Errorf("connect to the group: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing hangs on it
	if _, err := conn.Exec(ctx, qTable); err != nil {
		return fmt.Errorf("create the table: %w", err)
	}
	return nil
}

// begin writes in the background until the function it answers is called.
func (w *writer) begin(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { w.loop(ctx) })
	return func() {
		cancel()
		wg.Wait()
	}
}

// loop keeps a connection and writes through it.
func (w *writer) loop(ctx context.Context) {
	for ctx.Err() == nil {
		conn, err := w.connect(ctx)
		if err != nil {
			w.note(err)
			if sleep(ctx, 10*time.Millisecond) != nil {
				return
			}
			continue
		}
		for ctx.Err() == nil {
			if err := w.write(ctx, conn); err != nil {
				w.note(err)
				break
			}
		}
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 100*time.Millisecond)
		_ = conn.Close(closing)
		cancel()
	}
}

func (w *writer) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lastErr = err
}

// writePatience is how long one row may take before the writer looks for
// another server: a hung one never answers.
const writePatience = time.Second

// write adds one row under an id that is never used again. The connection is
// cut, and no cancel request sent, when the answer does not come.
func (w *writer) write(ctx context.Context, conn *pgx.Conn) error {
	w.mu.Lock()
	w.attempts++
	id := w.attempts
	w.warned = false
	w.mu.Unlock()
	// The end of the demonstration lets the row in flight finish.
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), writePatience)
	defer cancel()
	var port int
	if err := conn.QueryRow(limited, w.insert, id).Scan(&port); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.warned {
		return nil
	}
	now := time.Now()
	if !w.marked.IsZero() && !w.lastAck.IsZero() {
		w.longest = max(w.longest, now.Sub(w.lastAck))
	}
	w.acked = append(w.acked, id)
	w.lastAck, w.lastPort, w.lastErr = now, port, nil
	return nil
}

// mark is the moment of the failure: gaps count from here.
func (w *writer) mark() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.marked, w.markCount, w.markPort, w.longest = time.Now(), len(w.acked), w.lastPort, 0
}

// gap is the longest pause between two acknowledged writes since the mark, the current one included.
func (w *writer) gap() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.marked.IsZero() {
		return 0
	}
	return w.longest
}

// silence is the time since the last acknowledged write.
func (w *writer) silence() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lastAck.IsZero() {
		return 0
	}
	return time.Since(w.lastAck)
}

func (w *writer) acknowledged() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

func (w *writer) acknowledgedSinceMark() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked) - w.markCount
}

// lastServer and serverAtMark tell the servers by their ports.
func (w *writer) lastServer() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lastPort
}

func (w *writer) serverAtMark() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.markPort
}

// count reads the table back and compares.
func (w *writer) count(ctx context.Context) (surviving, lost int, err error) {
	conn, err := w.connect(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("connect to the group: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only read
	rows, err := conn.Query(ctx, qRows)
	if err != nil {
		return 0, 0, fmt.Errorf("read the rows back: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return 0, 0, fmt.Errorf("read the rows back: %w", err)
	}
	there := make(map[int64]bool, len(ids))
	for _, id := range ids {
		there[id] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range w.acked {
		if !there[id] {
			lost++
		}
	}
	return len(ids), lost, nil
}

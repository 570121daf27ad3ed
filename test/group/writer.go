package group

import (
	"context"
	"errors"
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
)

// Ack is a row whose commit a server has acknowledged.
type Ack struct {
	ID       int64
	Port     int // the server's
	Timeline uint32
	Sent     time.Time
	Got      time.Time
}

// Outcome counts what happened to the rows of a writer.
type Outcome struct {
	Acked, Unknown, Warned int
}

// WriterConfig says how a writer connects. The zero value connects to all nodes
// of the group by a multi-host string that asks for a writable server.
type WriterConfig struct {
	Only     *Member       // connect to this node alone, from its own host, whatever its state
	Sessions int           // that write at the same time; 2 when 0
	Pause    time.Duration // between two rows of a session; 2 ms when 0
	Patience time.Duration // before an answer is given up; 1 s when 0
}

// Writer inserts numbered rows, one transaction each, and remembers the ones
// whose commit was acknowledged. It never sends a cancel request; it takes a
// commit that came with a warning for not acknowledged; it never writes a
// number twice, so an unknown outcome stays unknown.
type Writer struct {
	cfg     WriterConfig
	group   *Group
	first   int64
	stop    context.CancelFunc
	wg      sync.WaitGroup
	nextRow atomic.Int64

	mu       sync.Mutex
	acks     []Ack
	unknown  int
	warned   int
	lastErr  error
	progress chan struct{} // closed and replaced at every acknowledgement
}

// writerRole is an ordinary client: no superuser, no reserved connections.
const writerRole = "app"

// numbers of rows are unique among all writers of a process.
var writers atomic.Int64

// rowsPerWriter leaves every writer a range of numbers of its own.
const rowsPerWriter = 1_000_000_000

// CreateLedger makes the table that writers fill.
func (g *Group) CreateLedger(t testing.TB) {
	t.Helper()
	g.WaitWhole(t).Exec(t, "CREATE ROLE "+writerRole+" LOGIN; "+
		"CREATE TABLE ledger (id bigint PRIMARY KEY, written timestamptz DEFAULT clock_timestamp()); "+
		"GRANT SELECT, INSERT ON ledger TO "+writerRole)
}

// Write starts a writer that runs until Stop or the end of the test.
func (g *Group) Write(t testing.TB, cfg WriterConfig) *Writer {
	t.Helper()
	if cfg.Sessions == 0 {
		cfg.Sessions = 2
	}
	if cfg.Pause == 0 {
		cfg.Pause = 2 * time.Millisecond
	}
	if cfg.Patience == 0 {
		cfg.Patience = time.Second
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &Writer{cfg: cfg, group: g, stop: cancel, first: writers.Add(1) * rowsPerWriter, progress: make(chan struct{})}
	for range cfg.Sessions {
		w.wg.Go(func() { w.session(ctx) })
	}
	t.Cleanup(w.Stop)
	return w
}

// Stop ends the writer and waits for it.
func (w *Writer) Stop() {
	w.stop()
	w.wg.Wait()
}

// session is one client: connect, write until something fails, connect again.
func (w *Writer) session(ctx context.Context) {
	rotate := 0
	for ctx.Err() == nil {
		// Not used again: the driver may still want to cancel on an old one.
		link := &client{connecting: true}
		conn, err := w.connect(ctx, link, rotate)
		if err != nil {
			w.note(err)
			pause(ctx, 20*time.Millisecond)
			rotate++
			continue
		}
		if err := w.writeOn(ctx, conn, link); err != nil {
			w.note(err)
		}
		link.close()
		rotate++ // the server that failed is asked last
	}
}

// client is one TCP connection of a session. It dials only while the session
// connects: what the driver dials afterwards would carry a cancel request.
type client struct {
	mu         sync.Mutex
	connecting bool
	conn       net.Conn
	warned     bool
}

var errNoCancel = errors.New("a writer sends no cancel requests")

func (c *client) dial(ctx context.Context, from *pgtest.Host, network, address string) (net.Conn, error) {
	c.mu.Lock()
	ok := c.connecting
	c.mu.Unlock()
	if !ok {
		return nil, errNoCancel
	}
	var conn net.Conn
	var err error
	if from != nil {
		conn, err = from.DialContext(ctx, network, address)
	} else {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
	}
	if err == nil {
		c.mu.Lock()
		c.conn = conn
		c.mu.Unlock()
	}
	return conn, err
}

// connected ends the time in which the driver may dial.
func (c *client) connected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connecting = false
}

func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		_ = c.conn.Close()
	}
}

func (c *client) warn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.warned = true
}

// takeWarning says whether the server warned since the last call.
func (c *client) takeWarning() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	warned := c.warned
	c.warned = false
	return warned
}

// connString names all nodes, the one at which the session starts to look being
// another each time.
func (w *Writer) connString(rotate int) string {
	if w.cfg.Only != nil {
		return fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=postgres sslmode=disable", w.cfg.Only.Port, writerRole)
	}
	nodes := slices.Clone(w.group.Nodes)
	n := rotate % len(nodes)
	nodes = append(nodes[n:], nodes[:n]...)
	hosts, ports := make([]string, len(nodes)), make([]string, len(nodes))
	for i, m := range nodes {
		hosts[i], ports[i] = m.IP(), strconv.Itoa(m.Port)
	}
	client := "user=" + writerRole + " sslmode=disable"
	if w.group.cfg.Access.Client != "" {
		client = w.group.cfg.Access.Client
	}
	return fmt.Sprintf("host=%s port=%s dbname=postgres target_session_attrs=read-write %s",
		strings.Join(hosts, ","), strings.Join(ports, ","), client)
}

func (w *Writer) connect(ctx context.Context, link *client, rotate int) (*pgconn.PgConn, error) {
	cfg, err := pgconn.ParseConfig(w.connString(rotate))
	if err != nil {
		return nil, err
	}
	from := w.group.Monitor.Host
	if w.cfg.Only != nil {
		from = w.cfg.Only.Host
	}
	cfg.ConnectTimeout = w.cfg.Patience
	cfg.RuntimeParams["application_name"] = "writer"
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		return link.dial(ctx, from, network, address)
	}
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			link.warn()
		}
	}
	defer link.connected()
	return pgconn.ConnectConfig(ctx, cfg)
}

// writeOn writes until a row's outcome is not a plain success.
func (w *Writer) writeOn(ctx context.Context, conn *pgconn.PgConn, link *client) error {
	for ctx.Err() == nil {
		id := w.first + w.nextRow.Add(1)
		sent := time.Now()
		// Not a deadline of the driver's: that one would send a cancel.
		giveUp := time.AfterFunc(w.cfg.Patience, link.close)
		// The simple protocol: the answer comes after the commit.
		results, err := conn.Exec(context.Background(), fmt.Sprintf("INSERT INTO ledger (id) VALUES (%d) RETURNING inet_server_port(), "+
			"left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)", id)).ReadAll()
		giveUp.Stop()
		got := time.Now()
		if err != nil {
			if !w.lost(err) || w.cfg.Only == nil {
				return err
			}
			w.note(err) // a standby, say: stay with it
			pause(ctx, 20*time.Millisecond)
			continue
		}
		if link.takeWarning() {
			w.mu.Lock()
			w.warned++
			w.mu.Unlock()
			continue
		}
		row := results[0].Rows[0]
		port, err := strconv.Atoi(string(row[0]))
		if err != nil {
			return fmt.Errorf("read port of the server: %w", err)
		}
		tli, err := strconv.ParseUint(string(row[1]), 16, 32)
		if err != nil {
			return fmt.Errorf("read timeline of the server: %w", err)
		}
		w.acked(Ack{ID: id, Port: port, Timeline: uint32(tli), Sent: sent, Got: got})
		pause(ctx, w.cfg.Pause)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (w *Writer) acked(a Ack) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acks = append(w.acks, a)
	close(w.progress)
	w.progress = make(chan struct{})
}

// lost counts a row that was not acknowledged, and says whether the server
// refused it and keeps the session.
func (w *Writer) lost(err error) (refused bool) {
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok {
		return answer.SeverityUnlocalized == "ERROR"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unknown++
	return false
}

func (w *Writer) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lastErr = err
}

// Acks returns what was acknowledged so far.
func (w *Writer) Acks() []Ack {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.acks)
}

// Outcome counts what happened so far.
func (w *Writer) Outcome() Outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Outcome{Acked: len(w.acks), Unknown: w.unknown, Warned: w.warned}
}

// WaitAck waits until a row that was sent after a moment is acknowledged, and
// returns it.
func (w *Writer) WaitAck(t testing.TB, after time.Time) Ack {
	t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	for {
		w.mu.Lock()
		for _, a := range slices.Backward(w.acks) {
			if a.Sent.After(after) {
				w.mu.Unlock()
				return a
			}
			if a.Got.Before(after) {
				break
			}
		}
		more, last := w.progress, w.lastErr
		w.mu.Unlock()
		select {
		case <-more:
		case <-deadline.C:
			t.Fatalf("no row was acknowledged within %s, the writer's last error: %v", Patience, last)
		}
	}
}

// Gap is the longest time without an acknowledgement since a moment.
func (w *Writer) Gap(since time.Time) time.Duration {
	var longest time.Duration
	last := since
	for _, a := range w.Acks() {
		if a.Got.Before(since) {
			continue
		}
		longest = max(longest, a.Got.Sub(last))
		last = a.Got
	}
	return longest
}

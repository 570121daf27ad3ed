package walreceiver

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// What holds where Config is silent.
const (
	DefaultStatusInterval = 10 * time.Second
	DefaultTimeout        = 60 * time.Second
)

const (
	// readBuffer is what one read from the socket takes at most. A server that is
	// ahead fills it, and then it saves most of the system calls.
	readBuffer = 64 << 10
	// maxMessage is more than any message of a server can have.
	maxMessage = 1 << 30
	// partingTime bounds how long Close waits for the server to let go.
	partingTime = 5 * time.Second
)

// Config says where and how to connect.
type Config struct {
	ConnInfo        pg.ConnInfo // names the database; the replication keyword is added
	ApplicationName string      // seen in pg_stat_replication
	// Parameters are settings of the session, on top of those that make text
	// values independent of the server's and the role's configuration.
	Parameters map[string]string
	// StatusInterval is the longest pause between two reports; 0 is the default.
	StatusInterval time.Duration
	// Timeout is how long the server may be silent; 0 is the default, a negative
	// one is never. After half of it the server is asked for a sign of life.
	Timeout time.Duration
	// Idle is called by who receives, each time before the socket is read: all that
	// was received before has been handed over, and more may be long in coming.
	Idle func()
	// Dial opens the connection; nil is TCP with keepalives, or a unix socket.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Conn is a replication connection. Its methods must not run at the same time,
// but for SetFeedback and Report, which may run beside Receive and Run.
type Conn struct {
	conn       net.Conn
	frontend   *pgproto3.Frontend
	activity   *activity
	parameters map[string]string
	interval   time.Duration
	timeout    time.Duration // 0: never

	streaming bool
	armed     bool               // the read deadline is that of the next thing to do
	pinged    bool               // the server was asked for a sign of life
	last      *pgproto3.CopyData // what was received last

	mu       sync.Mutex // guards what follows, and writing
	broken   error      // why nothing can be written or read any more
	feedback Feedback
	reported time.Time // when the feedback was last sent
	replyDue bool      // the server has asked
	scratch  [statusSize]byte
}

// Connect opens a replication connection.
func Connect(ctx context.Context, cfg Config) (*Conn, error) {
	config, err := pgconn.ParseConfig(cfg.ConnInfo.DriverDSN())
	if err != nil {
		return nil, fail(opConfigure, err, true)
	}
	maps.Copy(config.RuntimeParams, sessionParameters())
	maps.Copy(config.RuntimeParams, cfg.Parameters)
	config.RuntimeParams["replication"] = "database"
	if cfg.ApplicationName != "" {
		config.RuntimeParams["application_name"] = cfg.ApplicationName
	}
	dial := cfg.Dial
	if dial == nil {
		dialer := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}
		dial = dialer.DialContext
	}
	line := &line{dial: dial, timeout: config.ConnectTimeout, idle: cfg.Idle}
	config.DialFunc = line.open
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		f := pgproto3.NewFrontend(&sieve{r: bufio.NewReaderSize(r, readBuffer)}, w)
		f.SetMaxBodyLen(maxMessage)
		return f
	}
	config.AfterConnect = Untimed
	driver, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		line.finish(nil)
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w (%w)", cause, err)
		}
		return nil, fail(opConnect, err, true)
	}
	// From here on the driver's own care for a broken connection, which dials
	// again to cancel a query, would only be in the way.
	taken, err := driver.Hijack()
	if err != nil {
		line.finish(nil)
		return nil, fail(opConnect, err, true)
	}
	c := &Conn{
		conn: taken.Conn, frontend: taken.Frontend, activity: under(taken.Conn), parameters: taken.ParameterStatuses,
		interval: cmp.Or(cfg.StatusInterval, DefaultStatusInterval), timeout: max(cmp.Or(cfg.Timeout, DefaultTimeout), 0),
	}
	line.finish(c.activity)
	return c, nil
}

// sessionParameters make text values come in one form, with names in full, and keep the timeouts of
// ordinary sessions away from this one.
func sessionParameters() map[string]string {
	return map[string]string{
		"search_path": "pg_catalog", "datestyle": "ISO", "intervalstyle": "postgres", "extra_float_digits": "3", "bytea_output": "hex",
		"statement_timeout": "0", "lock_timeout": "0", "idle_session_timeout": "0", "idle_in_transaction_session_timeout": "0",
	}
}

// Parameter is a setting that the server reported, like server_version or
// server_encoding; empty when it did not.
func (c *Conn) Parameter(name string) string { return c.parameters[name] }

// Major is the server's major version, 0 when it did not say.
func (c *Conn) Major() int { return majorOf(c.Parameter("server_version")) }

func majorOf(version string) int {
	var major int
	if _, err := fmt.Sscanf(version, "%d", &major); err != nil {
		return 0
	}
	return major
}

// timedTransactions is the first major version with a transaction_timeout; older
// ones refuse a connection that asks for it.
const timedTransactions = 17

// Untimed lets the transactions of a new connection last as long as they must.
// An exported snapshot is one, too.
func Untimed(ctx context.Context, conn *pgconn.PgConn) error {
	if majorOf(conn.ParameterStatus("server_version")) < timedTransactions {
		return nil
	}
	_, err := conn.Exec(ctx, "SET transaction_timeout = 0").ReadAll()
	return err
}

// Close ends the connection. It says the last feedback and then waits, until the
// server has let go of the slot, but for no more than a few seconds and only as
// long as the context lasts.
func (c *Conn) Close(ctx context.Context) error {
	c.mu.Lock()
	broken := c.broken
	c.mu.Unlock()
	if errors.Is(broken, errClosed) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, partingTime)
	defer cancel()
	defer interrupt(ctx, c.conn.SetDeadline)()
	if broken == nil {
		broken = c.part(ctx)
	}
	c.mu.Lock()
	c.broken = errClosed
	c.mu.Unlock()
	if err := c.conn.Close(); err != nil && broken == nil {
		return fail(opClose, err, true)
	}
	return nil
}

// part says goodbye and waits for the server's end of the connection, which
// comes after it has released the slot. What it still sends is not looked at.
func (c *Conn) part(ctx context.Context) error {
	if c.streaming {
		if err := c.report(ctx, opClose, false); err != nil {
			return err
		}
	}
	if err := c.send(ctx, &pgproto3.Terminate{}); err != nil {
		return err
	}
	if err := c.conn.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("wait for server: %w", err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	_, err := io.Copy(io.Discard, c.conn)
	return err
}

// interrupt calls set with a moment in the past when the context ends, so that
// reads or writes fail, until the function it returns is called. After that it
// touches the connection no more.
func interrupt(ctx context.Context, set func(time.Time) error) func() {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = set(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-done
		}
	}
}

// send writes a message of the ordinary protocol.
func (c *Conn) send(ctx context.Context, m pgproto3.FrontendMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return c.broken
	}
	if err := c.conn.SetWriteDeadline(time.Time{}); err != nil {
		return c.breakOff(fmt.Errorf("write: %w", err))
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.frontend.Send(m)
	if err := c.frontend.Flush(); err != nil {
		return c.breakOff(interrupted(ctx, err))
	}
	c.armed = false
	return nil
}

// breakOff remembers the first reason why the connection is no good any more.
// The caller holds the lock.
func (c *Conn) breakOff(err error) error {
	if c.broken == nil {
		c.broken = err
	}
	return err
}

// interrupted tells a context that ended from a network that failed.
func interrupted(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// command runs a statement and returns its rows; answered tells whether the
// server has said anything about it. With stream set it ends when the
// connection becomes a stream.
func (c *Conn) command(ctx context.Context, sql string, stream bool) (rows [][]string, answered bool, err error) {
	if c.streaming {
		return nil, false, errStreaming
	}
	defer interrupt(ctx, c.conn.SetDeadline)()
	if err := c.send(ctx, &pgproto3.Query{String: sql}); err != nil {
		return nil, false, err
	}
	if err := c.conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, false, fmt.Errorf("read: %w", err)
	}
	rows, answered, err = c.answer(ctx, stream)
	if err != nil && (!answered || sqlState(err) == "") {
		// In the middle of an answer nothing else can be asked.
		c.mu.Lock()
		defer c.mu.Unlock()
		return nil, answered, c.breakOff(err)
	}
	return rows, answered, err
}

func (c *Conn) answer(ctx context.Context, stream bool) (rows [][]string, answered bool, err error) {
	var refusal *pgconn.PgError
	for {
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		m, err := c.frontend.Receive()
		if err != nil {
			if refusal != nil { // a fatal error is the server's last word
				return nil, false, refusal
			}
			return nil, false, interrupted(ctx, err)
		}
		switch m := m.(type) {
		case *pgproto3.DataRow:
			row := make([]string, len(m.Values))
			for i, v := range m.Values {
				row[i] = string(v)
			}
			rows = append(rows, row)
		case *pgproto3.ErrorResponse:
			refusal = pgconn.ErrorResponseToPgError(m)
		case *pgproto3.CopyBothResponse:
			if !stream {
				return nil, false, unexpected(m)
			}
			return rows, true, nil
		case *pgproto3.ReadyForQuery:
			switch {
			case refusal != nil:
				return nil, true, refusal
			case stream:
				return nil, false, unexpected(m)
			}
			return rows, true, nil
		case *pgproto3.ParameterStatus:
			c.parameters[m.Name] = m.Value
		case *pgproto3.RowDescription, *pgproto3.CommandComplete, *pgproto3.NoticeResponse, *pgproto3.NotificationResponse:
		default:
			return nil, false, unexpected(m)
		}
	}
}

// line is where the driver gets its network connections from while it connects,
// and only then: when it fails it goes on in the background, and dials once more
// to cancel what it thinks may run.
type line struct {
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	timeout time.Duration
	idle    func()

	mu       sync.Mutex
	finished bool
	opened   []*activity
}

func (l *line) open(ctx context.Context, network, addr string) (net.Conn, error) {
	if l.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.timeout)
		defer cancel()
	}
	conn, err := l.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.finished {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	a := &activity{Conn: conn, idle: l.idle, socket: SocketOf(conn)}
	l.opened = append(l.opened, a)
	return a, nil
}

// finish closes all connections but one, and opens no other.
func (l *line) finish(keep *activity) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.finished = true
	for _, a := range l.opened {
		if a != keep {
			_ = a.Close()
		}
	}
}

// under returns the connection that open gave, which the driver may have wrapped.
func under(conn net.Conn) *activity {
	if encrypted, ok := conn.(*tls.Conn); ok {
		conn = encrypted.NetConn()
	}
	a, ok := conn.(*activity)
	if !ok {
		panic(fmt.Sprintf("the driver wrapped the connection in a %T", conn))
	}
	return a
}

// quote writes a name or a value of a replication command, where a backslash
// means nothing.
func quote(s string, mark string) string {
	return mark + strings.ReplaceAll(s, mark, mark+mark) + mark
}

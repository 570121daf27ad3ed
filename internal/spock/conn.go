package spock

import (
	"context"
	"maps"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// ConnectConfig says how to connect to a database. Zero durations take the defaults of Connect.
type ConnectConfig struct {
	ConnInfo        pg.ConnInfo
	ApplicationName string
	// ConnectTimeout bounds one attempt on one host; 10 s.
	ConnectTimeout time.Duration
	// StatementTimeout is enforced by the server; none.
	StatementTimeout time.Duration
	// LockTimeout bounds each wait for a lock; none.
	LockTimeout time.Duration
	// Settings are sent with the connection request, on top of ours.
	Settings map[string]string
	// OnNotice receives what the server says besides errors; may be nil.
	OnNotice func(Notice)
}

// Notice is a message of the server that is not an error.
type Notice struct {
	Severity, Code, Message, Detail, Hint string
}

// DB is one connection to a database with schema spock. It is for one
// goroutine at a time.
type DB struct {
	conn *pgx.Conn
}

// querier is what a connection and a transaction have in common.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Connect opens one connection. The session names itself, is its login's own
// role and looks names up in pg_catalog only; both ends notice a peer that vanished.
func Connect(ctx context.Context, cfg ConnectConfig) (*DB, error) {
	connConfig, err := connConfig(cfg)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, connConfig)
	if err != nil {
		return nil, wrap("connect to the database", err)
	}
	return &DB{conn: conn}, nil
}

func connConfig(cfg ConnectConfig) (*pgx.ConnConfig, error) {
	// These are ours to say.
	info := cfg.ConnInfo.With("application_name", "").With("replication", "")
	c, err := pgx.ParseConfig(info.DriverDSN())
	if err != nil {
		// pgx hides the password in its errors.
		return nil, wrap("read the connection string", err)
	}
	millis := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	c.ConnectTimeout = cfg.ConnectTimeout
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 10 * time.Second
	}
	dialer := net.Dialer{
		Timeout: c.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3,
		},
		Control: limitUnacknowledged,
	}
	c.DialFunc = dialer.DialContext
	maps.Copy(c.RuntimeParams, map[string]string{
		"application_name": cfg.ApplicationName,
		"search_path":      "pg_catalog",
		// Another role than the one that has logged in may do less.
		"role": "none",
		// Otherwise a backslash in a statement means something else.
		"standard_conforming_strings": "on",
		"statement_timeout":           millis(cfg.StatementTimeout),
		"lock_timeout":                millis(cfg.LockTimeout),
		// A session may have to wait, with a transaction that holds what others must not have meanwhile.
		"idle_session_timeout":                "0",
		"idle_in_transaction_session_timeout": "0",
		"tcp_keepalives_idle":                 "10",
		"tcp_keepalives_interval":             "5",
		"tcp_keepalives_count":                "3",
	})
	maps.Copy(c.RuntimeParams, cfg.Settings)
	if cfg.OnNotice != nil {
		c.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
			cfg.OnNotice(Notice{
				Severity: n.SeverityUnlocalized, Code: n.Code, Message: n.Message, Detail: n.Detail, Hint: n.Hint,
			})
		}
	}
	return c, nil
}

// limitUnacknowledged ends a connection whose peer does not acknowledge what
// was sent: keepalives are silent while something is under way.
func limitUnacknowledged(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var err error
	const limit = 30 * time.Second
	if controlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	}); controlErr != nil {
		return controlErr
	}
	return err
}

// Conn is the connection itself, for whoever sends statements of its own (the
// engine's pipelines on user tables). The methods of DB must not be called
// while such a pipeline is open.
func (db *DB) Conn() *pgx.Conn { return db.conn }

// Close ends the session.
func (db *DB) Close(ctx context.Context) error { return db.conn.Close(ctx) }

// Closed reports whether the connection is known to be gone.
func (db *DB) Closed() bool { return db.conn.IsClosed() }

// WaitNotification returns the next notification, also one that arrived while
// another method ran. It ends with the context, whose cause it then returns,
// and leaves the connection usable.
func (db *DB) WaitNotification(ctx context.Context) (channel, payload string, err error) {
	n, err := db.conn.WaitForNotification(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return "", "", context.Cause(ctx)
		}
		return "", "", wrap("wait for a notification", err)
	}
	return n.Channel, n.Payload, nil
}

// ChannelChange carries the name of a table of the schema that changed.
const ChannelChange = "spock_change"

const qListen = `LISTEN spock_change`

// Listen subscribes this session to [ChannelChange].
func (db *DB) Listen(ctx context.Context) error {
	_, err := db.conn.Exec(ctx, qListen)
	return wrap("listen to changes", err)
}

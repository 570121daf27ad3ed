package pgautofailover

import (
	"context"
	"crypto/tls"
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

// ConnectConfig says how to connect to a monitor. Zero durations take the defaults of Connect.
type ConnectConfig struct {
	ConnInfo        pg.ConnInfo
	ApplicationName string
	// ConnectTimeout bounds one attempt on one host; 2 s.
	ConnectTimeout time.Duration
	// StatementTimeout is enforced by the server; 4 s. It must be shorter than
	// the caller's patience: a report that its keeper gave up must never land
	// behind a newer one.
	StatementTimeout time.Duration
	// LockTimeout bounds each wait for a lock; 3 s.
	LockTimeout time.Duration
	// Revoked reads the file that sslcrl names and returns what is asked about the server's certificate; nil
	// leaves sslcrl alone.
	Revoked func(file string) (func(tls.ConnectionState) error, error)
	// OnNotice receives what the server says besides errors, while a method runs; may be nil.
	OnNotice func(Notice)
}

// Notice is a NOTICE or WARNING of the server.
type Notice struct {
	Severity, Code, Message, Detail, Hint string
}

// DB is one connection to a monitor's database. It is for one goroutine at a time.
type DB struct {
	conn *pgx.Conn
}

// querier is what a connection and a transaction have in common.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Connect opens one connection. The session names itself, looks names up in
// pg_catalog only, and has statement and lock timeouts; both ends notice a
// peer that vanished within some ten seconds.
func Connect(ctx context.Context, cfg ConnectConfig) (*DB, error) {
	connConfig, err := connConfig(cfg)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, connConfig)
	if err != nil {
		return nil, wrap("connect to the monitor", err)
	}
	return &DB{conn: conn}, nil
}

func connConfig(cfg ConnectConfig) (*pgx.ConnConfig, error) {
	// The name is ours to say.
	c, err := pgx.ParseConfig(cfg.ConnInfo.With("application_name", "").DriverDSN())
	if err != nil {
		// pgx hides the password in its errors.
		return nil, wrap("read the monitor's connection string", err)
	}
	if err := checkRevoked(c, cfg); err != nil {
		return nil, wrap("connect to the monitor", err)
	}
	orDefault := func(d, fallback time.Duration) time.Duration {
		if d == 0 {
			return fallback
		}
		return d
	}
	millis := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	c.ConnectTimeout = orDefault(cfg.ConnectTimeout, 2*time.Second)
	dialer := net.Dialer{
		Timeout: c.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 4 * time.Second, Interval: 2 * time.Second, Count: 3,
		},
		Control: limitUnacknowledged,
	}
	c.DialFunc = dialer.DialContext
	maps.Copy(c.RuntimeParams, map[string]string{
		"application_name":        cfg.ApplicationName,
		"search_path":             "pg_catalog",
		"statement_timeout":       millis(orDefault(cfg.StatementTimeout, 4*time.Second)),
		"lock_timeout":            millis(orDefault(cfg.LockTimeout, 3*time.Second)),
		"tcp_keepalives_idle":     "4",
		"tcp_keepalives_interval": "2",
		"tcp_keepalives_count":    "3",
		"tcp_user_timeout":        "10000",
	})
	if cfg.OnNotice != nil {
		c.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
			cfg.OnNotice(Notice{
				Severity: n.SeverityUnlocalized, Code: n.Code, Message: n.Message, Detail: n.Detail, Hint: n.Hint,
			})
		}
	}
	return c, nil
}

// checkRevoked has the connection refuse a monitor whose certificate is on the list that sslcrl names.
func checkRevoked(c *pgx.ConnConfig, cfg ConnectConfig) error {
	file := cfg.ConnInfo.Get("sslcrl")
	if file == "" || cfg.Revoked == nil {
		return nil
	}
	verify, err := cfg.Revoked(file)
	if err != nil {
		return err
	}
	if c.TLSConfig != nil {
		c.TLSConfig.VerifyConnection = verify
	}
	for _, other := range c.Fallbacks {
		if other.TLSConfig != nil {
			other.TLSConfig.VerifyConnection = verify
		}
	}
	return nil
}

// limitUnacknowledged ends a connection whose peer does not acknowledge what
// was sent: keepalives are silent while something is under way.
func limitUnacknowledged(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var err error
	const limit = 10 * time.Second
	if controlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	}); controlErr != nil {
		return controlErr
	}
	return err
}

// Close ends the session.
func (db *DB) Close(ctx context.Context) error { return db.conn.Close(ctx) }

// Closed reports whether the connection is known to be gone.
func (db *DB) Closed() bool { return db.conn.IsClosed() }

const qPing = `SELECT 1`

// Ping makes one round trip.
func (db *DB) Ping(ctx context.Context) error {
	_, err := db.conn.Exec(ctx, qPing)
	return wrap("ping the monitor", err)
}

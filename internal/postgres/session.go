package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// applicationName is how our own sessions appear on the server.
const applicationName = "pgdrover"

// Defaults of a session.
const (
	connectTimeout   = 2 * time.Second
	statementTimeout = 10 * time.Second
	closeTimeout     = time.Second
)

// ConnectConfig are the choices of one local session.
type ConnectConfig struct {
	DBName          string
	ApplicationName string
	// User overrides the instance's user.
	User string
	// StatementTimeout is 10 s when zero and none when negative.
	StatementTimeout time.Duration
}

// ConnInfo returns how to reach the server from this machine.
func (i *Instance) ConnInfo() (pg.ConnInfo, error) {
	name, err := i.localUser()
	if err != nil {
		return pg.ConnInfo{}, err
	}
	host, port := i.cfg.Host, i.cfg.Port
	if host == "" {
		host = i.cfg.SocketDir
	}
	if f, ok, err := i.readPidFile(); err == nil && ok && f.port > 0 {
		port = f.port
		if host == "" {
			host = f.socketDir
		}
		if host == "" {
			host = listenHost(f.listen)
		}
	}
	if strings.HasPrefix(host, ".") {
		host = i.path(host)
	}
	return pg.NewConnInfo("host", host, "port", strconv.Itoa(port), "user", name, "dbname", i.cfg.DBName), nil
}

// listenHost turns what the server listens on into something to connect to.
func listenHost(listen string) string {
	first, _, _ := strings.Cut(listen, ",")
	switch first = strings.TrimSpace(first); first {
	case "", "*", "0.0.0.0", "::":
		return "localhost"
	default:
		return first
	}
}

// Session is one local connection. It is not for concurrent use.
type Session struct {
	instance *Instance
	conn     *pgx.Conn
}

// Connect opens a session. Its own commits never wait for a standby.
func (i *Instance) Connect(ctx context.Context, cfg ConnectConfig) (*Session, error) {
	info, err := i.ConnInfo()
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	if cfg.DBName != "" {
		info = info.With("dbname", cfg.DBName)
	}
	if cfg.User != "" {
		info = info.With("user", cfg.User)
	}
	name := cfg.ApplicationName
	if name == "" {
		name = applicationName
	}
	timeout := cfg.StatementTimeout
	if timeout == 0 {
		timeout = statementTimeout
	}
	conn, err := connect(ctx, info.With("application_name", name), map[string]string{
		"synchronous_commit":             "local",
		"default_transaction_read_only":  "off",
		"statement_timeout":              milliseconds(timeout),
		"lock_timeout":                   milliseconds(timeout),
		"idle_session_timeout":           "0",
		"log_min_duration_statement":     "-1",
		"client_min_messages":            "warning",
		"standard_conforming_strings":    "on",
		"bytea_output":                   "hex",
		"default_transaction_isolation":  "read committed",
		"default_transaction_deferrable": "off",
	})
	if err != nil {
		return nil, err
	}
	return &Session{instance: i, conn: conn}, nil
}

// connect opens one connection with the settings that all of ours have.
func connect(ctx context.Context, info pg.ConnInfo, settings map[string]string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(info.With("target_session_attrs", "any").DriverDSN())
	if err != nil {
		// The driver's message may quote the string and its password.
		return nil, fmt.Errorf("connect to %s: the connection string is not valid", info)
	}
	if info.Get("connect_timeout") == "" {
		cfg.ConnectTimeout = connectTimeout
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.RuntimeParams["search_path"] = "pg_catalog"
	maps.Copy(cfg.RuntimeParams, settings)
	cfg.DialFunc = dialer().DialContext
	if err := checkRevoked(&cfg.Config, info.Get("sslcrl")); err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	return conn, nil
}

func milliseconds(d time.Duration) string {
	if d < 0 {
		return "0"
	}
	return strconv.FormatInt(d.Milliseconds(), 10)
}

// With opens a session, runs f and closes the session.
func (i *Instance) With(ctx context.Context, f func(*Session) error) error {
	return i.with(ctx, ConnectConfig{}, f)
}

func (i *Instance) with(ctx context.Context, cfg ConnectConfig, f func(*Session) error) error {
	s, err := i.Connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer s.Close(ctx)
	return f(s)
}

// Conn returns the connection for queries that have no method here.
func (s *Session) Conn() *pgx.Conn { return s.conn }

// Close ends the session.
func (s *Session) Close(ctx context.Context) {
	// A goodbye, also when the caller's context has ended; a server that does not take it is left.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// Broken reports whether the session ended or an earlier error made it useless.
func (s *Session) Broken() bool { return s.conn.IsClosed() }

func (s *Session) exec(ctx context.Context, what, sql string, args ...any) error {
	if _, err := s.conn.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// ServerVersion asks the running server.
func (s *Session) ServerVersion(ctx context.Context) (Version, error) {
	var v Version
	const query = `SELECT current_setting('server_version_num')::int, current_setting('server_version'), version()`
	if err := s.conn.QueryRow(ctx, query).Scan(&v.Number, &v.Text, &v.Full); err != nil {
		return Version{}, fmt.Errorf("ask for the server's version: %w", err)
	}
	return v, nil
}

// SystemID asks the running server for its system identifier.
func (s *Session) SystemID(ctx context.Context) (pg.SystemID, error) {
	// SQL shows it as a signed number.
	var id int64
	if err := s.conn.QueryRow(ctx, `SELECT system_identifier FROM pg_control_system()`).Scan(&id); err != nil {
		return 0, fmt.Errorf("ask for the system identifier: %w", err)
	}
	return pg.SystemID(id), nil //nolint:gosec // the same bits
}

// DataDirectory asks the running server where its data is; a keeper compares it with its own.
func (s *Session) DataDirectory(ctx context.Context) (string, error) {
	var dir string
	if err := s.conn.QueryRow(ctx, `SELECT current_setting('data_directory')`).Scan(&dir); err != nil {
		return "", fmt.Errorf("ask for the data directory: %w", err)
	}
	return filepath.Clean(dir), nil
}

// Checkpoint makes one now and waits for it, however long it takes.
func (s *Session) Checkpoint(ctx context.Context) error {
	return s.unhurried(ctx, "checkpoint", `CHECKPOINT`)
}

// unhurried is exec for what takes as long as the disk does: the statement has no limit but ctx.
func (s *Session) unhurried(ctx context.Context, doing, query string) error {
	if err := s.exec(ctx, doing, `SET statement_timeout = 0`); err != nil {
		return err
	}
	if err := s.exec(ctx, doing, query); err != nil {
		return errors.Join(err, s.exec(ctx, doing, `SET statement_timeout = `+milliseconds(statementTimeout)))
	}
	return s.exec(ctx, doing, `SET statement_timeout = `+milliseconds(statementTimeout))
}

// Reload has the server read its configuration again.
func (s *Session) Reload(ctx context.Context) error {
	return s.exec(ctx, "reload configuration", `SELECT pg_reload_conf()`)
}

// AlterSystem sets a value in postgresql.auto.conf; Reload puts it in force.
func (s *Session) AlterSystem(ctx context.Context, name, value string) error {
	return s.exec(ctx, "set "+name, `ALTER SYSTEM SET `+pg.QuoteIdent(name)+` TO `+pg.QuoteLiteral(value))
}

// ResetSystem removes names from postgresql.auto.conf.
func (s *Session) ResetSystem(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := s.exec(ctx, "reset "+name, `ALTER SYSTEM RESET `+pg.QuoteIdent(name)); err != nil {
			return err
		}
	}
	return nil
}

// TerminateClients ends every ordinary session except our own kind and returns
// how many it found. Sessions of the replication role and of the monitor stay;
// a WAL sender of anybody else may run SQL and goes.
func (s *Session) TerminateClients(ctx context.Context) (int, error) {
	const query = `
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE backend_type IN ('client backend', 'walsender') AND pid <> pg_backend_pid()
  AND usename IS DISTINCT FROM $1 AND usename IS DISTINCT FROM $2
  AND NOT (usename IS NOT DISTINCT FROM current_user AND application_name LIKE $3 || '%' AND client_addr IS NULL)`
	var n int
	err := s.conn.QueryRow(ctx, query, pg.ReplicationRole, pg.MonitorRole, applicationName).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("end client sessions: %w", err)
	}
	return n, nil
}

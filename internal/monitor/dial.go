package monitor

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// monitorPassword is public by design: the role may only connect.
const monitorPassword = pg.MonitorRole

// postgresDialer probes with a real connection and a trivial query: a server
// whose postmaster still accepts but whose backends hang is not alive.
type postgresDialer struct {
	mu sync.Mutex
	// secure are the addresses that refuse connections without TLS.
	secure map[string]bool
	// known are the addresses that a name last resolved to: a name server that
	// is down says nothing about a node.
	known map[string][]string
}

func newPostgresDialer() *postgresDialer {
	return &postgresDialer{secure: make(map[string]bool), known: make(map[string][]string)}
}

func (d *postgresDialer) lookup(ctx context.Context, host string) ([]string, error) {
	found, err := net.DefaultResolver.LookupHost(ctx, host)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.known[host] = found
		return found, nil
	}
	if before, ok := d.known[host]; ok {
		return before, nil
	}
	return nil, err
}

// Probe makes one attempt.
func (d *postgresDialer) Probe(ctx context.Context, host string, port int) outcome {
	config, err := probeConfig(host, port)
	if err != nil {
		return outcomeNone
	}
	config.LookupFunc = d.lookup
	address := net.JoinHostPort(host, strconv.Itoa(port))
	if d.isSecure(address) {
		// Who the server is does not matter here, only that it answers.
		config.TLSConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // see above
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return d.judge(ctx, address, err)
	}
	_, err = conn.Exec(ctx, "SELECT 1").ReadAll()
	if err == nil {
		// A polite end: the server closes first, so that its log and its
		// connection count see a client that left, not one that was lost.
		_ = conn.Close(ctx)
		return outcomeAlive
	}
	out := d.judge(ctx, address, err)
	_ = conn.Close(ctx)
	return out
}

func probeConfig(host string, port int) (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(pg.NewConnInfo("host", host, "port", strconv.Itoa(port), "user", pg.MonitorRole,
		"password", monitorPassword, "dbname", "postgres", "sslmode", "disable",
		"application_name", "pg_auto_failover health check").DSN())
	if err != nil {
		return nil, err
	}
	config.Fallbacks = nil
	config.ConnectTimeout = 0 // the context has it
	// No keepalives: the connection lives for milliseconds.
	config.DialFunc = (&net.Dialer{KeepAlive: -1, FallbackDelay: 50 * time.Millisecond}).DialContext
	return config, nil
}

func (d *postgresDialer) judge(ctx context.Context, address string, err error) outcome {
	if answer, ok := errors.AsType[*pgconn.PgError](err); ok {
		if answer.Code == pgerrcode.InvalidAuthorizationSpecification {
			d.turn(address)
		}
		return outcomeAlive
	}
	if d.isSecure(address) && ctx.Err() == nil {
		d.turn(address) // the server may have lost its TLS since
	}
	switch {
	case ours(err):
		return outcomeNone
	case ctx.Err() != nil:
		return outcomeSilent
	}
	return outcomeRefused
}

// ours reports whether an attempt failed before it left this machine.
func ours(err error) bool {
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return true
	}
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EADDRNOTAVAIL) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

func (d *postgresDialer) isSecure(address string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.secure[address]
}

// turn has the next attempt use TLS when this one did not, and the reverse.
func (d *postgresDialer) turn(address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.secure[address] = !d.secure[address]
}

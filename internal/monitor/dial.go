package monitor

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// postgresDialer probes with a real connection and a trivial query: a server
// whose postmaster still accepts but whose backends hang is not alive. It
// speaks the protocol itself, because it asks a question that no driver
// answers: did the server say anything at all?
type postgresDialer struct {
	dialer net.Dialer

	mu sync.Mutex
	// secure are the addresses that refused a connection without TLS.
	secure map[string]bool
	// known are the addresses that names last resolved to.
	known map[string]resolved
}

// resolved is what a name was found to stand for.
type resolved struct {
	addresses []string
	at        time.Time
}

// lookupEvery is how often a name is looked up again.
const lookupEvery = 5 * time.Second

func newPostgresDialer() *postgresDialer {
	return &postgresDialer{
		// No keepalives: a connection lives for milliseconds.
		dialer: net.Dialer{KeepAlive: -1}, secure: make(map[string]bool), known: make(map[string]resolved),
	}
}

// Probe makes one attempt. All addresses of a host are tried until one answers.
func (d *postgresDialer) Probe(ctx context.Context, host string, port int) outcome {
	addresses, err := d.lookup(ctx, host)
	if err != nil {
		return outcomeNone
	}
	out := outcomeNone
	for _, a := range addresses {
		switch out = d.probe(ctx, net.JoinHostPort(a, strconv.Itoa(port))); {
		case out == outcomeAlive, ctx.Err() != nil:
			return out
		}
	}
	return out
}

// lookup returns the addresses of a host. A name server that is down says
// nothing about a node, so what was known before stays good enough.
func (d *postgresDialer) lookup(ctx context.Context, host string) ([]string, error) {
	if _, err := netip.ParseAddr(host); err == nil {
		return []string{host}, nil
	}
	d.mu.Lock()
	before, known := d.known[host]
	d.mu.Unlock()
	if known && time.Since(before.at) < lookupEvery {
		return before.addresses, nil
	}
	found, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil && known {
		return before.addresses, nil
	}
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known[host] = resolved{addresses: found, at: time.Now()}
	return found, nil
}

func (d *postgresDialer) probe(ctx context.Context, address string) outcome {
	conn, err := d.dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return judge(ctx, err)
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	secure := d.isSecure(address)
	if secure {
		upgraded, offered, err := startTLS(ctx, conn)
		if err != nil {
			return judge(ctx, err)
		}
		if !offered {
			d.setSecure(address, false)
			return outcomeAlive
		}
		conn = upgraded
	}
	refusal, err := converse(conn)
	if err != nil {
		return judge(ctx, err)
	}
	if refusal == pgerrcode.InvalidAuthorizationSpecification && !secure {
		d.setSecure(address, true)
	}
	return outcomeAlive
}

// startTLS asks for encryption. Who the server is does not matter here, only
// that it answers.
func startTLS(ctx context.Context, conn net.Conn) (upgraded net.Conn, offered bool, err error) {
	request, err := (&pgproto3.SSLRequest{}).Encode(nil)
	if err != nil {
		return nil, false, err
	}
	if _, err := conn.Write(request); err != nil {
		return nil, false, err
	}
	var answer [1]byte
	if _, err := conn.Read(answer[:]); err != nil {
		return nil, false, err
	}
	if answer[0] != 'S' {
		return nil, false, nil
	}
	secured := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // see above
	return secured, true, secured.HandshakeContext(ctx)
}

// converse logs in, asks, and leaves politely. It returns the SQLSTATE with
// which the server refused, "" when it did not. A server that wants a password
// has answered as well.
func converse(conn net.Conn) (refusal string, err error) {
	f := pgproto3.NewFrontend(conn, conn)
	f.Send(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{
		"user": pg.MonitorRole, "database": "postgres", "application_name": "pg_auto_failover health check",
	}})
	if err := f.Flush(); err != nil {
		return "", err
	}
	asked := false
	for {
		m, err := f.Receive()
		if err != nil {
			return "", err
		}
		switch m := m.(type) {
		case *pgproto3.ErrorResponse:
			return m.Code, nil
		case *pgproto3.AuthenticationCleartextPassword, *pgproto3.AuthenticationMD5Password, *pgproto3.AuthenticationSASL:
			leave(f, conn)
			return "", nil
		case *pgproto3.ReadyForQuery:
			if asked {
				leave(f, conn)
				return "", nil
			}
			asked = true
			f.Send(&pgproto3.Query{String: "SELECT 1"})
			if err := f.Flush(); err != nil {
				return "", err
			}
		}
	}
}

// leave has the server close first, so that it knows of a client that left and
// counts it out before the next one comes. The answer is in already: whatever
// goes wrong here does not matter.
func leave(f *pgproto3.Frontend, conn net.Conn) {
	f.Send(&pgproto3.Terminate{})
	if f.Flush() != nil {
		return
	}
	_, _ = io.Copy(io.Discard, conn)
}

// judge tells what an error says about the server.
func judge(ctx context.Context, err error) outcome {
	switch {
	case ours(err):
		return outcomeNone
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return outcomeSilent
	}
	return outcomeRefused
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// ours reports whether an attempt failed before it left this machine.
func ours(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (d *postgresDialer) isSecure(address string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.secure[address]
}

func (d *postgresDialer) setSecure(address string, secure bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.secure[address] = secure
}

package walreceiver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestCommands(t *testing.T) {
	t.Parallel()
	tests := []struct{ got, want string }{
		{SlotConfig{Name: "a", Plugin: "pgoutput"}.command(), `CREATE_REPLICATION_SLOT "a" LOGICAL "pgoutput" (SNAPSHOT 'nothing')`},
		{SlotConfig{Name: `a"b`, Plugin: "spock_output", Temporary: true, TwoPhase: true, Failover: true, Snapshot: SnapshotExport}.command(), `CREATE_REPLICATION_SLOT "a""b" TEMPORARY LOGICAL "spock_output" (SNAPSHOT 'export', TWO_PHASE true, FAILOVER true)`},
		{StartConfig{Slot: "a"}.command(), `START_REPLICATION SLOT "a" LOGICAL 0/0`},
		{StartConfig{Slot: "a", From: 0x1_00000002, Options: []Option{{"x", `it's \`}, {"y", ""}}}.command(), `START_REPLICATION SLOT "a" LOGICAL 1/2 ("x" 'it''s \', "y" '')`},
		{StartConfig{Slot: "a", Options: Pgoutput{Version: 1, Publications: []string{"p", `Q "r"`}}.Options()}.command(), `START_REPLICATION SLOT "a" LOGICAL 0/0 ("proto_version" '1', "publication_names" '"p","Q ""r"""')`},
		{StartConfig{Slot: "a", Options: Pgoutput{Version: 4, Publications: []string{"p"}, Binary: true, Messages: true, TwoPhase: true, Streaming: "parallel", Origin: "none"}.Options()}.command(), `START_REPLICATION SLOT "a" LOGICAL 0/0 ("proto_version" '4', "publication_names" '"p"', "binary" 'true', "messages" 'true', "two_phase" 'true', "streaming" 'parallel', "origin" 'none')`},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, tt.got)
	}
}

func TestConnect(t *testing.T) {
	t.Parallel()
	client, end := net.Pipe()
	parameters := make(chan map[string]string, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		s := newServer(end)
		got, err := s.accept()
		if err == nil {
			parameters <- got
		}
		_, _ = io.Copy(io.Discard, end) // until the client is done
		_ = end.Close()
	})
	cfg := configTo(func(context.Context, string, string) (net.Conn, error) { return client, nil })
	cfg.ApplicationName = "spk_db_n1_sub"
	cfg.Parameters = map[string]string{"wal_sender_timeout": "30s", "bytea_output": "escape"}
	c, err := Connect(t.Context(), cfg)
	require.NoError(t, err)
	require.Equal(t, 15, c.Major())
	require.Empty(t, c.Parameter("unheard_of"))
	got := <-parameters
	for name, want := range map[string]string{
		"replication": "database", "database": "db", "user": "u", "application_name": "spk_db_n1_sub", "datestyle": "ISO",
		"wal_sender_timeout": "30s", "bytea_output": "escape",
	} {
		require.Equal(t, want, got[name], name)
	}
	_, err = c.Receive(t.Context())
	require.ErrorIs(t, err, errNotStreaming)
	require.ErrorIs(t, c.Report(t.Context(), Feedback{}), errNotStreaming)

	// Closing waits for the server, and nothing works afterwards.
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.NoError(t, c.Close(ctx))
	require.NoError(t, c.Close(t.Context()))
	_, err = c.IdentifySystem(t.Context())
	require.ErrorIs(t, err, errClosed)
	wg.Wait()
}

func TestConnectFails(t *testing.T) {
	t.Parallel()
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	_, err := Connect(t.Context(), configTo(func(context.Context, string, string) (net.Conn, error) { return nil, refused }))
	require.ErrorContains(t, err, "connect for replication: ")
	require.True(t, SafeToRetry(err))
	require.True(t, Transient(err))

	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("asked to stop")
	cancel(cause)
	_, err = Connect(ctx, configTo(func(ctx context.Context, _, _ string) (net.Conn, error) { return nil, context.Cause(ctx) }))
	require.ErrorIs(t, err, cause)
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	c := piped(t, Config{}, func(s *server) { _ = s.play() })
	got, err := c.IdentifySystem(t.Context())
	require.NoError(t, err)
	require.Equal(t, System{ID: 7000000000000000001, Timeline: 3, Flushed: 0x3000060, Database: "db"}, got)
	history, err := c.TimelineHistory(t.Context(), 3)
	require.NoError(t, err)
	left, ok := history.SwitchFrom(2)
	require.True(t, ok)
	require.Equal(t, pg.LSN(0x3000050), left)
	history, err = c.TimelineHistory(t.Context(), 1)
	require.NoError(t, err)
	require.Len(t, history, 1)
	slot, err := c.CreateSlot(t.Context(), SlotConfig{Name: "sl", Plugin: "pgoutput", Snapshot: SnapshotExport})
	require.NoError(t, err)
	require.Equal(t, Slot{"sl", 0x3000100, "00000003-00000002-1", "pgoutput"}, slot)

	// An error of the server leaves the connection as it was.
	err = c.DropSlot(t.Context(), "gone", true)
	require.EqualError(t, err, `drop replication slot: ERROR: what is DROP_REPLICATION_SLOT "gone" WAIT (SQLSTATE 42601)`)
	require.True(t, SafeToRetry(err))
	require.False(t, Transient(err))
	require.NoError(t, c.StartLogical(t.Context(), StartConfig{Slot: "sl"}))
	_, err = c.IdentifySystem(t.Context())
	require.ErrorIs(t, err, errStreaming)
}

func TestAnswersThatMakeNoSense(t *testing.T) {
	t.Parallel()
	tests := map[string]func(s *server) error{
		"no row":      func(s *server) error { return s.send(&pgproto3.ReadyForQuery{TxStatus: 'I'}) },
		"few columns": func(s *server) error { return s.row("1", "2") },
		"no id":       func(s *server) error { return s.row("x", "1", "0/0", "db") },
		"no timeline": func(s *server) error { return s.row("1", "x", "0/0", "db") },
		"no position": func(s *server) error { return s.row("1", "1", "0", "db") },
		"copy":        func(s *server) error { return s.send(&pgproto3.CopyBothResponse{}) },
		"a bind":      func(s *server) error { return s.send(&pgproto3.BindComplete{}) },
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := piped(t, Config{}, func(s *server) {
				if _, err := s.accept(); err == nil {
					if _, err := s.query(); err == nil {
						_ = answer(s)
					}
				}
			})
			_, err := c.IdentifySystem(t.Context())
			require.ErrorContains(t, err, "identify system: ")
			require.False(t, Lost(err))
		})
	}
}

func TestCancelledCommand(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	c := piped(t, Config{}, func(s *server) {
		if _, err := s.accept(); err == nil {
			_, _ = s.query()
			close(asked)
		}
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("asked to stop")
	go func() {
		<-asked
		cancel(cause)
	}()
	_, err := c.CreateSlot(ctx, SlotConfig{Name: "sl", Plugin: "pgoutput"})
	require.ErrorIs(t, err, cause)
	require.False(t, SafeToRetry(err), "nobody knows whether the slot is there")
	require.False(t, Lost(err))
	// What the server may still answer would be taken for the next answer.
	_, err = c.IdentifySystem(t.Context())
	require.ErrorIs(t, err, cause)
}

// cutAt is a server's connection that breaks after so many bytes.
type cutAt struct {
	net.Conn
	left int
}

func (c *cutAt) Write(b []byte) (int, error) {
	if len(b) < c.left {
		c.left -= len(b)
		return c.Conn.Write(b)
	}
	n, err := c.Conn.Write(b[:c.left])
	c.left = 0
	return n, errors.Join(err, c.Close(), errCut)
}

var errCut = errors.New("cut")

// TestCutAtEveryByte loses the connection after every number of bytes that a
// server sends, and once after all of them.
func TestCutAtEveryByte(t *testing.T) {
	t.Parallel()
	var listen net.ListenConfig
	listener, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var limit atomic.Int64
	var conns sync.WaitGroup
	conns.Go(func() {
		for { // the driver may try more than once
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s := newServer(&cutAt{conn, int(limit.Load())})
			if s.play() == nil {
				_ = s.send(keepalive(0x100, 1), data(0x100, 0x200, "first"), data(0x200, 0x300, "second"), keepalive(0x300, 0))
			}
			_ = conn.Close()
		}
	})
	dialer := net.Dialer{}
	cfg := configTo(func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp", listener.Addr().String())
	})
	ops := map[string]int{}
	for n := 1; ; n++ {
		limit.Store(int64(n))
		op, received, err := session(t, cfg)
		ops[op]++
		require.Error(t, err)
		require.True(t, Lost(err), "cut after %d bytes: %v", n, err)
		require.True(t, Transient(err))
		require.Equal(t, op != opCreate, SafeToRetry(err), "cut after %d bytes: %v", n, err)
		if received == 4 {
			break
		}
		require.Less(t, n, 5000, "the session never ends")
	}
	require.NoError(t, listener.Close())
	conns.Wait()
	for _, op := range []string{opConnect, opIdentify, opCreate, opStart, opReceive} {
		require.Greater(t, ops[op], 5, op)
	}
}

// session does all that a receiver does, until something fails.
func session(t *testing.T, cfg Config) (op string, received int, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := Connect(ctx, cfg)
	if err != nil {
		return opConnect, 0, err
	}
	defer func() { require.NoError(t, c.Close(ctx)) }()
	if _, err := c.IdentifySystem(ctx); err != nil {
		return opIdentify, 0, err
	}
	if _, err := c.CreateSlot(ctx, SlotConfig{Name: "sl", Plugin: "pgoutput"}); err != nil {
		return opCreate, 0, err
	}
	if err := c.StartLogical(ctx, StartConfig{Slot: "sl"}); err != nil {
		return opStart, 0, err
	}
	want := []string{"k 0/0 0/100 ", "w 0/100 0/200 first", "w 0/200 0/300 second", "k 0/0 0/300 "}
	for {
		m, err := c.Receive(ctx)
		if err != nil {
			_, again := c.Receive(ctx)
			require.Error(t, again)
			require.Equal(t, err.Error(), again.Error(), "a lost connection stays lost")
			return opReceive, received, err
		}
		require.Equal(t, want[received], fmt.Sprintf("%c %s %s %s", m.Kind, m.Start, m.End, m.Data))
		received++
	}
}

func hint(t *testing.T, err error) string {
	t.Helper()
	var e *Error
	require.ErrorAs(t, err, &e)
	return e.Hint()
}

func TestQuestions(t *testing.T) {
	t.Parallel()
	refusal := func(code, message string) error {
		return &pgconn.PgError{Severity: "ERROR", Code: code, Message: message}
	}
	tests := []struct {
		name                                      string
		err                                       error
		lost, transient, inUse, missing, slotLost bool
		hint                                      string
	}{
		{name: "end of file", err: fail(opReceive, io.ErrUnexpectedEOF, true), lost: true, transient: true},
		{name: "silence", err: fail(opReceive, ErrSilent, true), lost: true, transient: true},
		{name: "ended", err: fail(opReceive, ErrEnded, true), lost: true, transient: true},
		{name: "reset", err: fail(opReceive, &net.OpError{Op: "read", Err: syscall.ECONNRESET}, true), lost: true, transient: true},
		{name: "shutdown", err: fail(opReceive, refusal("57P01", "terminating connection due to administrator command"), true), lost: true, transient: true},
		{name: "starting up", err: fail(opConnect, refusal("57P03", "the database system is starting up"), true), lost: true, transient: true},
		{name: "connection failure", err: fail(opReceive, refusal("08006", "x"), true), lost: true, transient: true},
		{name: "asked to stop", err: fail(opReceive, fmt.Errorf("%w (%w)", context.Canceled, io.ErrUnexpectedEOF), true)},
		{name: "too many connections", err: fail(opConnect, refusal("53300", "sorry, too many clients already"), true), transient: true},
		{name: "slot in use", err: fail(opStart, refusal("55006", `replication slot "a" is active for PID 1`), true), transient: true, inUse: true},
		{name: "no slot", err: fail(opStart, refusal("42704", `replication slot "a" does not exist`), true), missing: true, hint: "The slot was dropped, or the server was replaced by one that never had it: copy the tables anew."},
		{name: "no publication", err: fail(opReceive, refusal("42704", `publication "p" does not exist`), true)},
		{name: "slot invalidated", err: fail(opStart, refusal("55000", `can no longer get changes from replication slot "a"`), true), slotLost: true, hint: "The server no longer has the changes that were not yet received: copy the tables anew."},
		{name: "log removed", err: fail(opReceive, refusal("58P01", "requested WAL segment 000000010000000000000001 has already been removed"), true), slotLost: true, hint: "The server no longer has the changes that were not yet received: copy the tables anew."},
		{name: "wal_level", err: fail(opCreate, refusal("55000", "logical decoding requires wal_level >= logical"), true), hint: "Set wal_level = logical on the server and restart it."},
		{name: "no rights", err: fail(opCreate, refusal("42501", "must be superuser or replication role to use replication slots"), true), hint: "Connect as a superuser or as a role with the REPLICATION attribute."},
		{name: "no line", err: fail(opConnect, refusal("28000", "no pg_hba.conf entry"), true), hint: "Add a line for this database, role and host to the server's pg_hba.conf."},
		{name: "the server's own hint", err: fail(opCreate, &pgconn.PgError{Code: "53400", Hint: "Free one or increase max_replication_slots."}, true), transient: true, hint: "Free one or increase max_replication_slots."},
		{name: "nonsense", err: fail(opReceive, errProtocol, true)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.lost, Lost(tt.err), "lost")
			require.Equal(t, tt.transient, Transient(tt.err), "transient")
			require.Equal(t, tt.inUse, SlotInUse(tt.err), "in use")
			require.Equal(t, tt.missing, SlotMissing(tt.err), "missing")
			require.Equal(t, tt.slotLost, SlotLost(tt.err), "slot lost")
			require.Equal(t, tt.hint, hint(t, tt.err))
			require.True(t, SafeToRetry(tt.err))
			require.True(t, pgconn.SafeToRetry(tt.err), "the driver's question is answered too")
		})
	}
	require.False(t, SafeToRetry(io.EOF))
	require.True(t, SlotExists(fail(opCreate, refusal("42710", "x"), true)))
}

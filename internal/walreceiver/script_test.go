package walreceiver

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// patience bounds what must not hang; nothing here takes that long.
const patience = 30 * time.Second

// server is the other end of one connection, played by a test.
type server struct {
	conn    net.Conn
	backend *pgproto3.Backend
}

func newServer(conn net.Conn) *server {
	return &server{conn: conn, backend: pgproto3.NewBackend(conn, conn)}
}

func (s *server) send(messages ...pgproto3.BackendMessage) error {
	for _, m := range messages {
		s.backend.Send(m)
	}
	return s.backend.Flush()
}

// accept goes through a connection's start.
func (s *server) accept() (parameters map[string]string, err error) {
	m, err := s.backend.ReceiveStartupMessage()
	if err != nil {
		return nil, err
	}
	startup, ok := m.(*pgproto3.StartupMessage)
	if !ok { // the driver wants to cancel
		return nil, unexpected(m)
	}
	return startup.Parameters, s.send(
		&pgproto3.AuthenticationOk{},
		&pgproto3.ParameterStatus{Name: "server_version", Value: "15.20 (Debian 15.20-0+deb12u1)"},
		&pgproto3.BackendKeyData{ProcessID: 7, SecretKey: []byte{1, 2, 3, 4}},
		&pgproto3.ReadyForQuery{TxStatus: 'I'})
}

func (s *server) query() (string, error) {
	m, err := s.backend.Receive()
	if err != nil {
		return "", err
	}
	q, ok := m.(*pgproto3.Query)
	if !ok {
		return "", unexpected(m)
	}
	return q.String, nil
}

func (s *server) row(values ...string) error {
	fields := make([]pgproto3.FieldDescription, len(values))
	row := make([][]byte, len(values))
	for i, v := range values {
		fields[i] = pgproto3.FieldDescription{Name: []byte("c"), DataTypeOID: 25}
		row[i] = []byte(v)
	}
	return s.send(&pgproto3.RowDescription{Fields: fields}, &pgproto3.DataRow{Values: row},
		&pgproto3.CommandComplete{CommandTag: []byte("OK")}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
}

func data(start, end pg.LSN, payload string) *pgproto3.CopyData {
	b := binary.BigEndian.AppendUint64([]byte{'w'}, uint64(start))
	b = binary.BigEndian.AppendUint64(b, uint64(end))
	b = binary.BigEndian.AppendUint64(b, 77)
	return &pgproto3.CopyData{Data: append(b, payload...)}
}

func keepalive(end pg.LSN, reply byte) *pgproto3.CopyData {
	b := binary.BigEndian.AppendUint64([]byte{'k'}, uint64(end))
	b = binary.BigEndian.AppendUint64(b, 78)
	return &pgproto3.CopyData{Data: append(b, reply)}
}

// report is a client's report.
type report struct {
	Feedback
	ping bool
}

// report waits for the client's next one.
func (s *server) report() (report, error) {
	m, err := s.backend.Receive()
	if err != nil {
		return report{}, err
	}
	copied, ok := m.(*pgproto3.CopyData)
	if !ok || len(copied.Data) != 34 || copied.Data[0] != 'r' {
		return report{}, unexpected(m)
	}
	word := func(at int) pg.LSN { return pg.LSN(binary.BigEndian.Uint64(copied.Data[at:])) }
	return report{Feedback{word(1), word(9), word(17)}, copied.Data[33] == 1}, nil
}

// play answers what a client asks that sets up a stream, and starts it.
func (s *server) play() error {
	if _, err := s.accept(); err != nil {
		return err
	}
	for {
		sql, err := s.query()
		if err != nil {
			return err
		}
		switch {
		case sql == "IDENTIFY_SYSTEM":
			err = s.row("7000000000000000001", "3", "0/3000060", "db")
		case sql == "TIMELINE_HISTORY 3":
			err = s.row("00000003.history", "1\t0/3000000\tno recovery target specified\n2\t0/3000050\tno recovery target specified\n")
		case strings.HasPrefix(sql, "CREATE_REPLICATION_SLOT"):
			err = s.row("sl", "0/3000100", "00000003-00000002-1", "pgoutput")
		case strings.HasPrefix(sql, "START_REPLICATION"):
			return s.send(&pgproto3.CopyBothResponse{})
		default:
			err = s.send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42601", Message: "what is " + sql}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
		}
		if err != nil {
			return err
		}
	}
}

func configTo(dial func(context.Context, string, string) (net.Conn, error)) Config {
	return Config{
		ConnInfo: pg.NewConnInfo("host", "127.0.0.1", "port", "1", "user", "u", "dbname", "db", "sslmode", "disable"),
		Dial:     dial,
	}
}

// roomy is an end of a pipe that takes what the other end writes even when
// nobody reads it, as a kernel does.
type roomy struct {
	net.Conn
	chunks chan []byte
	rest   []byte
}

// fill reads until the pipe is closed.
func (r *roomy) fill() {
	defer close(r.chunks)
	for {
		b := make([]byte, 1<<10)
		n, err := r.Conn.Read(b)
		if err != nil {
			return
		}
		r.chunks <- b[:n]
	}
}

func (r *roomy) Read(b []byte) (int, error) {
	if len(r.rest) == 0 {
		chunk, ok := <-r.chunks
		if !ok {
			return 0, io.EOF
		}
		r.rest = chunk
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// piped connects to a server in this process, without a network.
func piped(t *testing.T, cfg Config, play func(*server)) *Conn {
	t.Helper()
	client, end := net.Pipe()
	room := &roomy{Conn: end, chunks: make(chan []byte, 1000)}
	var wg sync.WaitGroup
	wg.Go(room.fill)
	wg.Go(func() { play(newServer(room)) })
	cfg.ConnInfo = configTo(nil).ConnInfo
	cfg.Dial = func(context.Context, string, string) (net.Conn, error) { return client, nil }
	c, err := Connect(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		require.NoError(t, c.Close(ctx))
		require.NoError(t, end.Close())
		wg.Wait()
	})
	return c
}

// streaming is piped with a stream that has begun.
func streaming(t *testing.T, cfg Config, play func(*server)) *Conn {
	t.Helper()
	c := piped(t, cfg, func(s *server) {
		if s.play() == nil {
			play(s)
		}
	})
	require.NoError(t, c.StartLogical(t.Context(), StartConfig{Slot: "sl"}))
	return c
}

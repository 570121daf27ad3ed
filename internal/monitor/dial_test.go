package monitor

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

func TestProbeOutcomes(t *testing.T) {
	t.Parallel()
	d := newPostgresDialer()
	attempt := func(port int) outcome {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		return d.Probe(ctx, "127.0.0.1", port)
	}
	listen := func(serve func(net.Conn)) int {
		t.Helper()
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				serve(c)
				_ = c.Close()
			}
		}()
		t.Cleanup(func() {
			_ = l.Close()
			<-done
		})
		return l.Addr().(*net.TCPAddr).Port
	}
	require.Equal(t, outcomeRefused, attempt(pgtest.FreePort(t)))
	require.Equal(t, outcomeRefused, attempt(listen(func(net.Conn) {})), "closed without a word")
	require.Equal(t, outcomeSilent, attempt(listen(func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })), "accepts and says nothing")
	errorAnswer := append([]byte{'E', 0, 0, 0, 24}, "SFATAL\x00C57P03\x00Mno\x00\x00"...)
	errorAnswer[4] = byte(len(errorAnswer) - 1)
	require.Equal(t, outcomeAlive, attempt(listen(func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1000))
		_, _ = c.Write(errorAnswer)
	})), "an error is an answer")
	require.Equal(t, outcomeNone, d.Probe(t.Context(), "no.such.host.invalid", 5432), "the name server's failure is not the node's")
}

func TestProbeOfARealServer(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, pgtest.ServerConfig{})
	d := newPostgresDialer()
	port := server.Port
	require.Equal(t, outcomeAlive, d.Probe(t.Context(), "127.0.0.1", port), "the role is missing, the server is not")
	server.Exec(t, "postgres", "CREATE ROLE pgautofailover_monitor LOGIN CONNECTION LIMIT 1")
	for range 20 {
		require.Equal(t, outcomeAlive, d.Probe(t.Context(), "127.0.0.1", port))
	}
	require.NotContains(t, server.Log(), "too many connections", "each is gone before the next begins")
}

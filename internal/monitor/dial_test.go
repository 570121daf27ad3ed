package monitor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"sync/atomic"
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
	require.Equal(t, outcomeAlive, attempt(listen(func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1000))
		_, _ = c.Write(refusal("57P03"))
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

// secureServer refuses whoever comes without TLS, as "hostssl" rules do.
type secureServer struct {
	config         *tls.Config
	plain, private atomic.Int32
}

func (s *secureServer) serve(c net.Conn) {
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return
	}
	isRequest := binary.BigEndian.Uint32(head[4:]) == 80877103
	if !isRequest {
		s.plain.Add(1)
		_, _ = c.Write(refusal("28000"))
		return
	}
	s.private.Add(1)
	_, _ = c.Write([]byte{'S'})
	secured := tls.Server(c, s.config)
	if _, err := secured.Read(make([]byte, 1000)); err == nil {
		_, _ = secured.Write(refusal("53300"))
	}
}

func refusal(code string) []byte {
	m := append([]byte{'E', 0, 0, 0, 0}, "SFATAL\x00C"+code+"\x00Mno\x00\x00"...)
	m[4] = byte(len(m) - 1)
	return m
}

func TestProbeLearnsToUseTLS(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	s := &secureServer{config: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}}}
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
			s.serve(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	d := newPostgresDialer()
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		require.Equal(t, outcomeAlive, d.Probe(ctx, "127.0.0.1", l.Addr().(*net.TCPAddr).Port))
		cancel()
	}
	require.EqualValues(t, 1, s.plain.Load(), "the server's log is not filled with refusals")
	require.EqualValues(t, 4, s.private.Load())
}

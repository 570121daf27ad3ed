package walreceiver

import (
	"context"
	"errors"
	"net"
	"testing"
)

// BenchmarkRun is what handing over one message costs, with a server that is
// always ahead.
func BenchmarkRun(b *testing.B) {
	var listen net.ListenConfig
	listener, err := listen.Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if newServer(conn).play() != nil {
			return
		}
		var block []byte
		for len(block) < 1<<20 {
			if block, err = data(1, 2, string(make([]byte, 100))).Encode(block); err != nil {
				return
			}
		}
		for {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	}()
	dialer := net.Dialer{}
	c, err := Connect(b.Context(), configTo(func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp", listener.Addr().String())
	}))
	if err != nil {
		b.Fatal(err)
	}
	if err := c.StartLogical(b.Context(), StartConfig{Slot: "sl"}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(130)
	n, enough := 0, errors.New("enough")
	b.ResetTimer()
	err = c.Run(b.Context(), func(Message) error {
		if n++; n > b.N {
			return enough
		}
		return nil
	})
	b.StopTimer()
	if !errors.Is(err, enough) {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	cancel()
	if err := c.Close(ctx); err != nil {
		b.Fatal(err)
	}
}

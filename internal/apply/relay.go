package apply

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgdrover/pgdrover/internal/walreceiver"
)

const (
	copyData   = 'd'
	headerSize = 5 // of a message: its type and its length, which counts itself
	// gatherSize is how much of a copy is read, and handed on, at once.
	gatherSize = 256 << 10
	// A copy lets come what comes, instead of being woken by each of the server's
	// buffers of 8 kB: for as long as it takes until there are about enoughSize
	// bytes, which a socket of the kernel's default size can hold.
	leastPause = 125 * time.Microsecond
	mostPause  = 2 * time.Millisecond
	enoughSize = 96 << 10
)

// gatherer is what a session that copies out reads from: a server sends each row
// as a message of its own, and who takes them one by one spends more on that than
// on the rows. It makes one message of those that are there.
type gatherer struct {
	r        io.Reader
	buf      []byte
	from, to int    // what was read and not looked at
	out      []byte // what is ready to be handed on, a part of buf
	pass     int    // bytes of a message that are handed on as they come
	copying  bool   // the last message was a row
	calm     *calm  // what r reads from, perhaps encrypted; nil in tests
}

// calm is a connection that reads, while rows come, no more often than it must.
// It stands below encryption, which reads in pieces of its own.
type calm struct {
	net.Conn
	socket  walreceiver.Socket
	copying atomic.Bool // rows come
	pause   time.Duration
	buf     []byte // for who asks for little
	there   []byte // what of it was not yet asked for
}

// dialCalm is for the configuration of a connection.
func dialCalm(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &calm{Conn: conn, socket: walreceiver.SocketOf(conn)}, nil
	}
}

func (c *calm) Read(p []byte) (int, error) {
	if len(c.there) > 0 {
		n := copy(p, c.there)
		c.there = c.there[n:]
		return n, nil
	}
	if !c.copying.Load() {
		return c.Conn.Read(p)
	}
	c.socket.Rest(c.pause)
	if len(p) >= enoughSize {
		n, err := c.Conn.Read(p)
		c.adapt(n)
		return n, err
	}
	if c.buf == nil {
		c.buf = make([]byte, gatherSize)
	}
	n, err := c.Conn.Read(c.buf)
	c.adapt(n)
	c.there = c.buf[:n]
	if n == 0 {
		return 0, err
	}
	n = copy(p, c.there)
	c.there = c.there[n:]
	return n, nil // an error comes again
}

// adapt sets the next pause by what came in the last.
func (c *calm) adapt(n int) {
	if n < enoughSize/2 {
		c.pause *= 2
	} else if n > enoughSize {
		c.pause /= 2
	}
	c.pause = min(max(c.pause, leastPause), mostPause)
}

// gatherFrontend is for the configuration of a connection.
func gatherFrontend(r io.Reader, w io.Writer) *pgproto3.Frontend {
	g := &gatherer{r: r}
	conn := w
	if encrypted, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = encrypted.NetConn()
	}
	g.calm, _ = conn.(*calm)
	return pgproto3.NewFrontend(g, w)
}

// Read hands on what is there, and waits only when nothing is.
func (g *gatherer) Read(p []byte) (int, error) {
	for len(g.out) == 0 {
		if g.next() {
			continue
		}
		if err := g.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, g.out)
	g.out = g.out[n:]
	return n, nil
}

// next takes what is whole, or part of what need not be, from what was read.
func (g *gatherer) next() bool {
	there := g.to - g.from
	if g.pass == 0 {
		if there < headerSize {
			return false
		}
		size := g.messageAt(g.from)
		g.copying = g.buf[g.from] == copyData
		if g.copying && size <= len(g.buf) {
			return size <= there && g.gather()
		}
		g.pass = size
	}
	n := min(g.pass, there)
	g.out = g.buf[g.from : g.from+n]
	g.from, g.pass = g.from+n, g.pass-n
	return n > 0
}

// messageAt is the size of the message that begins there, with its type.
func (g *gatherer) messageAt(at int) int {
	return 1 + max(int(binary.BigEndian.Uint32(g.buf[at+1:])), headerSize-1)
}

// gather makes one message of all whole rows.
func (g *gatherer) gather() bool {
	start, end := g.from, g.from+headerSize
	for g.to-g.from >= headerSize && g.buf[g.from] == copyData {
		size := g.messageAt(g.from)
		if size > g.to-g.from {
			break
		}
		end += copy(g.buf[end:], g.buf[g.from+headerSize:g.from+size])
		g.from += size
	}
	binary.BigEndian.PutUint32(g.buf[start+1:], uint32(end-start-1)) //nolint:gosec // less than the buffer
	g.out = g.buf[start:end]
	return true
}

// fill reads more.
func (g *gatherer) fill() error {
	if g.buf == nil {
		g.buf = make([]byte, 8<<10) // for a session that never copies
	}
	if g.copying && len(g.buf) < gatherSize {
		g.buf = append(make([]byte, 0, gatherSize), g.buf...)[:gatherSize]
	}
	g.to = copy(g.buf, g.buf[g.from:g.to])
	g.from = 0
	if g.calm != nil {
		g.calm.copying.Store(g.copying)
	}
	n, err := g.r.Read(g.buf[g.to:])
	g.to += n
	if n > 0 {
		return nil
	}
	return err
}

// pipe sends the bytes of one COPY into another, as they come; those columns
// that are padded, without their padding.
func (l *lane) pipe(ctx context.Context, from, to string, padded []bool, size *atomic.Int64, pace *pace) (rows int64, err error) {
	r, out := io.Pipe()
	var target io.Writer = out
	finish := func() error { return nil }
	if slices.Contains(padded, true) {
		trim := &trimmer{w: out, padded: padded}
		target, finish = trim, trim.finish
	}
	var read error
	var wg sync.WaitGroup
	wg.Go(func() {
		_, read = l.provider.CopyTo(ctx, &counter{w: target, n: size, pass: func(n int) error { return pace.pass(ctx, n) }}, from)
		if read == nil {
			read = finish()
		}
		_ = out.CloseWithError(read)
	})
	tag, write := l.local.CopyFrom(ctx, r, to)
	_ = r.CloseWithError(io.ErrClosedPipe)
	wg.Wait()
	if read != nil && !errors.Is(read, io.ErrClosedPipe) {
		return 0, read
	}
	if write != nil {
		return 0, write
	}
	return tag.RowsAffected(), nil
}

// counter counts what the provider has sent.
type counter struct {
	w    io.Writer
	n    *atomic.Int64
	pass func(n int) error
}

func (c *counter) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	if err := c.pass(len(b)); err != nil {
		return 0, err
	}
	return c.w.Write(b)
}

package pgtest

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"
)

// Link is a TCP connection point that passes everything on to another address,
// until it is told to misbehave.
type Link struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	gate  chan struct{} // closed while bytes may pass
	delay time.Duration
	cut   bool
	conns map[net.Conn]bool
	end   chan struct{}
	wg    sync.WaitGroup
}

// NewLink opens a link to a TCP address, at a free port of 127.0.0.1.
func NewLink(t testing.TB, target string) *Link {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatalf("open link: %v", err)
	}
	l := &Link{listener: listener, target: target, gate: make(chan struct{}), conns: map[net.Conn]bool{}, end: make(chan struct{})}
	close(l.gate)
	l.wg.Go(l.accept)
	t.Cleanup(func() {
		close(l.end)
		_ = listener.Close()
		l.Cut()
		l.wg.Wait()
	})
	return l
}

// Addr is where clients connect to, host:port.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Port is the port of Addr.
func (l *Link) Port() int { return l.listener.Addr().(*net.TCPAddr).Port }

// Cut breaks every connection with a reset and refuses new ones, as a host does
// on which nothing listens.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for c := range l.conns {
		reset(c)
	}
}

// Stall keeps connections open and accepts new ones, but passes nothing on: what
// a client sees of a host that has vanished.
func (l *Link) Stall() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.gate:
		l.gate = make(chan struct{})
	default: // stalled already
	}
}

// Delay holds back everything for so long, in both directions.
func (l *Link) Delay(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay = d
}

// Restore makes the link good again; what a stall held back is passed on.
func (l *Link) Restore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut, l.delay = false, 0
	select {
	case <-l.gate:
	default:
		close(l.gate)
	}
}

func (l *Link) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.wg.Go(func() { l.serve(client) })
	}
}

// pass waits until bytes may pass; false means that the link is closed.
func (l *Link) pass() bool {
	l.mu.Lock()
	gate, delay := l.gate, l.delay
	l.mu.Unlock()
	select {
	case <-gate:
	case <-l.end:
		return false
	}
	if delay == 0 {
		return true
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.end:
		return false
	}
}

// track remembers a connection for Cut; false means that the link is cut.
func (l *Link) track(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return false
	}
	l.conns[c] = true
	return true
}

func (l *Link) forget(c net.Conn) {
	l.mu.Lock()
	delete(l.conns, c)
	l.mu.Unlock()
	_ = c.Close()
}

func (l *Link) serve(client net.Conn) {
	if !l.track(client) {
		reset(client)
		return
	}
	defer l.forget(client)
	if !l.pass() {
		return
	}
	server, err := net.DialTimeout("tcp", l.target, 10*time.Second)
	if err != nil {
		reset(client)
		return
	}
	if !l.track(server) {
		reset(server)
		return
	}
	defer l.forget(server)
	var both sync.WaitGroup
	both.Go(func() { l.copy(server, client) })
	both.Go(func() { l.copy(client, server) })
	both.Wait()
}

func (l *Link) copy(to, from net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !l.pass() {
				break
			}
			if _, werr := to.Write(buf[:n]); werr != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	// Half a connection is of no use to either side.
	err := errors.Join(to.Close(), from.Close())
	_ = err // both may be closed already
}

// reset closes a connection so that the other side sees RST.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

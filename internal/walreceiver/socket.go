package walreceiver

import (
	"net"
	"syscall"
	"time"
)

// Socket is where the bytes of a connection come from.
type Socket struct{ raw syscall.RawConn }

// restMark is how much may lie in a socket before it wakes anybody, in bytes.
const restMark = 1 << 20

// SocketOf finds it. A connection without a socket has one that does nothing.
func SocketOf(conn net.Conn) Socket {
	if socket, ok := conn.(syscall.Conn); ok {
		if raw, err := socket.SyscallConn(); err == nil {
			return Socket{raw}
		}
	}
	return Socket{}
}

// Rest sleeps, without being woken by what comes meanwhile: a sleeping process is
// woken by each arrival, otherwise, if only to find that nobody waits for it.
func (s Socket) Rest(d time.Duration) {
	s.wakeAt(restMark)
	time.Sleep(d)
	s.wakeAt(1)
}

func (s Socket) wakeAt(bytes int) {
	if s.raw != nil {
		// A socket that cannot do that wakes more often; nothing else follows from it.
		_ = s.raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, bytes) })
	}
}

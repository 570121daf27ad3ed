package walreceiver

import (
	"net"
	"sync/atomic"
	"time"
)

// activity is a connection that knows when something last came in, and that
// reads little by little no more often than it must.
//
// A server sends each message of a stream by itself. Whoever waits for them is
// woken by each, and pays many times what the message costs; so does the server,
// whose call it is that wakes. While they come thick and fast it is better to
// sleep until there are many.
type activity struct {
	net.Conn
	last atomic.Int64 // Unix time in nanoseconds
	idle func()       // called before each read; nil for nothing

	socket  Socket
	patient bool // the caller does not mind to get messages together
	more    bool // the last read has got all it could take
	got     int  // bytes since the socket was empty, or since a rest
	rested  bool // before they came
	reads   int  // that left nothing, since the moment that follows
	since   int64
}

const (
	// busyReads within busyTime make it worth to rest.
	busyReads = 16
	busyTime  = int64(time.Millisecond)
	// restTime is the least that a rest takes: timers are no finer.
	restTime = time.Millisecond
	// restBytes is how much has to come in a rest to make the next one worth it, and
	// fullBytes how much shows that the server is ahead: reads are large without a rest.
	restBytes = 2 << 10
	fullBytes = readBuffer / 2
)

func (a *activity) Read(b []byte) (int, error) {
	if a.idle != nil {
		a.idle()
	}
	if a.patient && !a.more && a.busy() {
		a.socket.Rest(restTime)
	}
	n, err := a.Conn.Read(b)
	a.got, a.more = a.got+n, n == len(b)
	if n > 0 {
		a.last.Store(time.Now().UnixNano())
	}
	return n, err
}

// busy tells whether messages come so fast that it is better to wait for more.
// It is asked when everything that was there has been read.
func (a *activity) busy() bool {
	last, got := a.last.Load(), a.got
	a.got = 0
	if a.reads++; a.reads >= busyReads {
		often := last-a.since < busyTime
		a.reads, a.since = 0, last
		if often && got < fullBytes {
			a.rested = true
			return true
		}
	}
	a.rested = a.rested && got >= restBytes
	return a.rested && got < fullBytes
}

func (a *activity) at() time.Time { return time.Unix(0, a.last.Load()) }

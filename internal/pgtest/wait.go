package pgtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// lookEvery is the pause between two looks of Eventually.
const lookEvery = 20 * time.Millisecond

// Eventually calls look until it returns nil. When that takes longer than
// timeout the test ends with the last thing that look complained about.
func Eventually(t testing.TB, timeout time.Duration, look func() error) {
	t.Helper()
	if err := WaitFor(timeout, look); err != nil {
		t.Fatal(err)
	}
}

// WaitFor is Eventually for code that has to go on: it returns the last
// observation as an error.
func WaitFor(timeout time.Duration, look func() error) error {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for looks := 1; ; looks++ {
		err := look()
		if err == nil {
			return nil
		}
		select {
		case <-deadline.C:
			return fmt.Errorf("not within %s (%d looks), last: %w", timeout, looks, err)
		case <-tick.C:
		}
	}
}

// Ports are taken from below the range from which the kernel picks the local
// ports of outgoing connections, so that no client sits on a server's port.
const firstPort, lastPort = 10000, 32000

var errNoPort = errors.New("find a free port: none between 10000 and 32000")

// FreePort returns a TCP port on which nothing listens at 127.0.0.1 and that no
// other caller gets, in this process or another, until the test ends.
func FreePort(t testing.TB) int {
	t.Helper()
	port, release, err := reservePort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return port
}

// reservePort holds the port by an abstract socket of that name, which vanishes
// with its process.
func reservePort() (int, func(), error) {
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		lock, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("@pgdrover-pgtest-port-%d", port)})
		if err != nil {
			continue
		}
		release := func() { _ = lock.Close() }
		probe, err := net.ListenTCP("tcp", &net.TCPAddr{Port: port})
		if err != nil {
			release()
			continue
		}
		if err := probe.Close(); err != nil {
			release()
			continue
		}
		return port, release, nil
	}
	return 0, nil, errNoPort
}

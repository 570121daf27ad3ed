package keeper

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// TestCutsWhatWaitsForAFirstAnswer: a process begins a connection to a host that says nothing,
// and can do nothing else until that has failed.
func TestCutsWhatWaitsForAFirstAnswer(t *testing.T) {
	t.Parallel()
	if !pgtest.ReachesConnections(t) {
		t.Skip("this system does not let a process reach another's connections")
	}
	open := func() int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	// Nobody takes connections from its queue; once that is full no first packet is answered.
	listener := open()
	require.NoError(t, unix.Bind(listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, unix.Listen(listener, 0))
	at, err := unix.Getsockname(listener)
	require.NoError(t, err)
	to := []netip.AddrPort{addressOf(at)}
	require.Empty(t, connectingTo(to))
	var waiting int
	for i := 0; len(connectingTo(to)) == 0; i++ {
		require.Less(t, i, 100, "every connection is taken")
		waiting = open()
		require.NoError(t, unix.SetNonblock(waiting, true))
		if err := unix.Connect(waiting, at); err != nil {
			require.ErrorIs(t, err, unix.EINPROGRESS)
		}
	}
	blocked := open()
	told := make(chan error, 1)
	go func() { told <- unix.Connect(blocked, at) }()
	require.Eventually(t, func() bool { return len(connectingTo(to)) == 2 }, patience, time.Millisecond)

	other := []netip.AddrPort{netip.AddrPortFrom(to[0].Addr(), to[0].Port()^1)}
	require.Empty(t, connectingTo(other))
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	require.NoError(t, err)
	defer func() { _ = unix.Close(self) }()
	for _, fd := range []int{waiting, blocked} {
		cut, err := cutSocket(self, fd, cutTarget{to: other, connecting: connectingTo(other)})
		require.NoError(t, err)
		require.False(t, cut)
		cut, err = cutSocket(self, fd, cutTarget{to: to, connecting: connectingTo(to)})
		require.NoError(t, err)
		require.True(t, cut)
	}
	err = <-told
	require.Error(t, err)
	require.NotErrorIs(t, err, unix.ETIMEDOUT)
	require.Empty(t, connectingTo(to))
}

func TestParseConnecting(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode",
		"   0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  0        0 12345 1 x 20 4 30 10 -1", // established
		"   0: 0100007F:1F90 0100007:C350 02 00000000:00000000 00:00000000 00000000  0        0 12345 1 x 20 4 30 10 -1",
		"   0: 0100007F:1F90 010000:C350 02 00000000:00000000 00:00000000 00000000  0        0 12345 1 x 20 4 30 10 -1",
		"   0: 0100007F:1F90 0100007F 02 00000000:00000000 00:00000000 00000000  0        0 12345 1 x 20 4 30 10 -1",
		"   0: 0100007F:1F90 0100007F:C350 02 00000000:00000000 00:00000000 00000000  0        0 ? 1 x 20 4 30 10 -1",
	} {
		_, _, ok := parseConnecting(line)
		require.False(t, ok, line)
	}
}

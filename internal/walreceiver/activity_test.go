package walreceiver

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whoever reads rests only while messages come one by one and fast.
func TestRest(t *testing.T) {
	t.Parallel()
	read := func(a *activity, at time.Duration, got int) bool {
		a.last.Store(int64(time.Hour + at))
		a.got = got
		return a.busy()
	}
	t.Run("slowly", func(t *testing.T) {
		t.Parallel()
		a := &activity{}
		for i := range 10 * busyReads {
			require.False(t, read(a, time.Duration(i)*time.Millisecond, 100))
		}
	})
	t.Run("fast, then slowly", func(t *testing.T) {
		t.Parallel()
		a := &activity{}
		rests := 0
		for i := range 2 * busyReads {
			if read(a, time.Duration(i)*time.Microsecond, 100) {
				rests++
			}
		}
		require.Equal(t, 1, rests, "the first reads have nothing to be compared with")
		for i := range 3 * busyReads {
			require.True(t, read(a, time.Duration(1+i)*time.Millisecond, restBytes), "much has come in the rest: the next one is worth it")
		}
		require.False(t, read(a, time.Second, restBytes-1))
		require.False(t, read(a, time.Second, restBytes), "once it was not, it has to come fast again")
	})
	t.Run("the server is ahead", func(t *testing.T) {
		t.Parallel()
		a := &activity{}
		for i := range 4 * busyReads {
			require.False(t, read(a, time.Duration(i)*time.Microsecond, fullBytes))
		}
	})
}

// Small reads say nothing of a server while each gets all it asks for: an
// encrypted connection reads in small pieces.
func TestNoRestWhileThereIsMore(t *testing.T) {
	t.Parallel()
	var log []string
	a := &activity{Conn: steps{log: &log}, patient: true}
	for range 10 * busyReads {
		_, err := a.Read(make([]byte, 1))
		require.NoError(t, err)
	}
	require.False(t, a.rested)
	require.Equal(t, 1, a.reads, "before the first nothing is known")
	require.Equal(t, 10*busyReads, a.got)
}

// steps is a connection that says what is done with it.
type steps struct {
	net.Conn
	log *[]string
}

func (s steps) Read(b []byte) (int, error) {
	*s.log = append(*s.log, "read")
	return bytes.NewReader([]byte("x")).Read(b)
}

// What was received is told of before the socket is looked at again.
func TestIdleBeforeEachRead(t *testing.T) {
	t.Parallel()
	var log []string
	a := &activity{Conn: steps{log: &log}, idle: func() { log = append(log, "idle") }}
	for range 2 {
		n, err := a.Read(make([]byte, 10))
		require.NoError(t, err)
		require.Equal(t, 1, n)
	}
	require.Equal(t, []string{"idle", "read", "idle", "read"}, log)
	require.NotZero(t, a.last.Load())
}

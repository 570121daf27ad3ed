package apply

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"testing/iotest"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// What a server sends arrives whole and in its order, however it is cut up: rows
// in a row as one message or several, everything else as it was.
func TestGatherer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type message struct {
			kind byte
			body []byte
		}
		kinds := rapid.SliceOfN(rapid.SampledFrom([]byte("ddddddddNCZ")), 0, 24).Draw(t, "kinds")
		sizes := rapid.OneOf(rapid.IntRange(0, 200), rapid.IntRange(0, 200), rapid.IntRange(0, 40000))
		large := rapid.SampledFrom([]int{0, 0, gatherSize - headerSize, gatherSize, 2 * gatherSize}).Draw(t, "large")
		var stream []byte
		var want []message
		for i, kind := range kinds {
			size := sizes.Draw(t, "size")
			if i == 3 {
				size += large
			}
			body := bytes.Repeat([]byte{byte(i)}, size)
			stream = append(binary.BigEndian.AppendUint32(append(stream, kind), uint32(len(body)+4)), body...)
			if n := len(want); kind == copyData && n > 0 && want[n-1].kind == copyData {
				want[n-1].body = append(want[n-1].body, body...)
				continue
			}
			want = append(want, message{kind, body})
		}
		var source io.Reader = bytes.NewReader(stream)
		switch rapid.IntRange(0, 2).Draw(t, "cut") {
		case 1:
			source = iotest.HalfReader(source)
		case 2:
			source = iotest.DataErrReader(source)
		}
		raw, err := io.ReadAll(&gatherer{r: source})
		require.NoError(t, err)
		var got []message
		for len(raw) > 0 {
			size := 1 + int(binary.BigEndian.Uint32(raw[1:]))
			if n := len(got); raw[0] == copyData && n > 0 && got[n-1].kind == copyData {
				got[n-1].body = append(got[n-1].body, raw[headerSize:size]...)
			} else {
				got = append(got, message{raw[0], bytes.Clone(raw[headerSize:size])})
			}
			raw = raw[size:]
		}
		require.Len(t, got, len(want))
		for i := range want {
			require.Equal(t, want[i].kind, got[i].kind)
			require.True(t, bytes.Equal(want[i].body, got[i].body), "message %d", i)
		}
	})
}

// Rows that are there become one message, which is the point of it.
func TestGathererMakesOneMessageOfMany(t *testing.T) {
	t.Parallel()
	var stream []byte
	for range 20000 {
		stream = append(stream, copyData, 0, 0, 0, 8, 'r', 'o', 'w', '\n')
	}
	front := gatherFrontend(bytes.NewReader(append(stream, 'c', 0, 0, 0, 4)), io.Discard)
	messages, size := 0, 0
	for {
		msg, err := front.Receive()
		require.NoError(t, err)
		data, ok := msg.(*pgproto3.CopyData)
		if !ok {
			break
		}
		messages, size = messages+1, size+len(data.Data)
	}
	require.Equal(t, 80000, size)
	require.Less(t, messages, 10)
}

// A length that cannot be is the protocol's matter, not an endless loop.
func TestGathererOfNonsense(t *testing.T) {
	t.Parallel()
	_, err := io.ReadAll(&gatherer{r: bytes.NewReader([]byte{copyData, 0, 0, 0, 0, copyData, 0, 0, 0, 1, 'Z', 0, 0, 0, 2})})
	require.NoError(t, err)
}

// Encryption asks for a little at a time: what has come is read at once all the
// same, and only an empty socket is waited for.
func TestCalmReadsMuch(t *testing.T) {
	t.Parallel()
	const size = 10 << 20
	source := &lavish{left: size}
	c := &calm{Conn: source}
	c.copying.Store(true)
	got, part := 0, make([]byte, 8<<10)
	for {
		n, err := c.Read(part)
		got += n
		if err != nil {
			require.ErrorIs(t, err, io.EOF)
			break
		}
		require.Positive(t, n)
	}
	require.Equal(t, size, got)
	require.LessOrEqual(t, source.reads, size/gatherSize+2)

	// Who asks for much gets it without a detour.
	source = &lavish{left: size}
	c.Conn = source
	n, err := c.Read(make([]byte, 4*gatherSize))
	require.NoError(t, err)
	require.Equal(t, 4*gatherSize, n)
}

// lavish is a connection that has more than is asked for.
type lavish struct {
	net.Conn
	left, reads int
}

func (l *lavish) Read(p []byte) (int, error) {
	l.reads++
	if l.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), l.left)
	l.left -= n
	return n, nil
}

func TestCalmPause(t *testing.T) {
	t.Parallel()
	c := &calm{}
	for range 20 {
		c.adapt(100)
	}
	require.Equal(t, mostPause, c.pause, "little came: longer")
	c.adapt(enoughSize)
	require.Equal(t, mostPause, c.pause, "enough came")
	for range 20 {
		c.adapt(enoughSize + 1)
	}
	require.Equal(t, leastPause, c.pause, "the socket is full: the server has to wait")
}

package walreceiver

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// Large messages that anybody may write are not received; rows of any size are,
// and short messages.
func TestLargeMessagesAreLeftOut(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("z", 3<<20)
	sent := []string{"M short", "I" + large, "M" + large, "M" + strings.Repeat("z", largestWritten), "I a row", "M again", "M" + large, "B"}
	var wire []byte
	for _, payload := range sent {
		var err error
		wire, err = data(1, 2, payload).Encode(wire)
		require.NoError(t, err)
	}
	for name, reader := range map[string]io.Reader{
		"at once": bytes.NewReader(wire), "byte by byte": iotest.OneByteReader(bytes.NewReader(wire)), "interrupted": &interruptedReader{r: bytes.NewReader(wire)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := pgproto3.NewFrontend(&sieve{r: bufio.NewReaderSize(reader, readBuffer)}, io.Discard)
			for _, want := range []string{"M short", "I" + large, "I a row", "M again", "B"} {
				m, err := f.Receive()
				for err != nil && timedOut(err) {
					m, err = f.Receive()
				}
				require.NoError(t, err)
				got, err := parse(m.(*pgproto3.CopyData).Data)
				require.NoError(t, err)
				require.True(t, bytes.Equal([]byte(want), got.Data), "%.10s, %d bytes", got.Data, len(got.Data))
			}
			_, err := f.Receive()
			for err != nil && timedOut(err) {
				_, err = f.Receive()
			}
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		})
	}
}

// interruptedReader is one whose deadline passes now and then.
type interruptedReader struct {
	r io.Reader
	n int
}

func (r *interruptedReader) Read(b []byte) (int, error) {
	if r.n++; r.n%3 == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	return r.r.Read(b[:min(len(b), 10000)])
}

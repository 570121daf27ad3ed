package walreceiver

import (
	"bufio"
	"encoding/binary"
)

// sieve reads what a server sends, and leaves out large messages that
// pg_logical_emit_message wrote. Anybody who may connect writes such ones, of up
// to a gigabyte, to all who listen; those that mean something to someone here are
// short. They are never in memory as a whole.
type sieve struct {
	r    *bufio.Reader
	left int // bytes of the message at hand, to be handed on
	skip int // or to be left out
}

const (
	// largestWritten is the size of a message from which on it is left out.
	largestWritten = 8 << 10

	messageHead = 5  // type and length
	streamHead  = 25 // kind, two positions, time
)

// Read returns whole messages and parts of them. What it is interrupted in goes
// on with the next call.
func (s *sieve) Read(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		for s.left == 0 || s.skip > 0 {
			// What is there is handed on before anything is waited for.
			if n > 0 && (s.skip > 0 || s.r.Buffered() < messageHead+streamHead+1) {
				return n, nil
			}
			if err := s.advance(); err != nil {
				return 0, err
			}
		}
		if n > 0 && s.r.Buffered() == 0 {
			break
		}
		got, err := s.r.Read(b[n:min(len(b), n+s.left)])
		n, s.left = n+got, s.left-got
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// advance leaves out what is to be left out, and looks at the next message.
func (s *sieve) advance() error {
	if s.skip > 0 {
		n, err := s.r.Discard(s.skip)
		s.skip -= n
		return err
	}
	head, err := s.r.Peek(messageHead)
	if err != nil {
		return err
	}
	size := int(binary.BigEndian.Uint32(head[1:])) + 1
	if head[0] == 'd' && size > largestWritten {
		if head, err = s.r.Peek(messageHead + streamHead + 1); err != nil {
			return err
		}
		if Kind(head[messageHead]) == Data && head[messageHead+streamHead] == 'M' {
			s.skip = size
			return nil
		}
	}
	s.left = size
	return nil
}

package pgoutput

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// reader walks through one message. After its first problem it stands at the
// end and every value it gives is zero, so that callers look once, when done.
type reader struct {
	data    []byte
	off     int
	problem string
	at      int // where the problem is
}

const (
	cutShort    = "cut short"
	badLength   = "impossible length"
	noEndOfText = "text without an end"
)

func (r *reader) fail(problem string) {
	if r.problem == "" {
		r.problem, r.at = problem, r.off
	}
	r.off = len(r.data)
}

// take returns the next n bytes; appending to them does not touch what follows.
func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.data)-r.off {
		r.fail(cutShort)
		return nil
	}
	b := r.data[r.off : r.off+n : r.off+n]
	r.off += n
	return b
}

func (r *reader) byte() byte {
	if r.off >= len(r.data) {
		r.fail(cutShort)
		return 0
	}
	b := r.data[r.off]
	r.off++
	return b
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) lsn() pg.LSN { return pg.LSN(r.uint64()) }

func (r *reader) timestamp() pg.Timestamp {
	return pg.Timestamp(r.uint64()) //nolint:gosec // the sign travels in the highest bit
}

// text returns the bytes up to the next zero byte, and steps over that.
func (r *reader) text() []byte {
	n := bytes.IndexByte(r.data[r.off:], 0)
	if n < 0 {
		r.fail(noEndOfText)
		return nil
	}
	b := r.take(n)
	r.off++
	return b
}

// count reads a number of things of which each takes at least size bytes.
func (r *reader) count(n int64, size int) int {
	if n < 0 || n > int64((len(r.data)-r.off)/size) {
		r.fail(badLength)
		return 0
	}
	return int(n)
}

// sized reads a length of 32 bits and that many bytes.
func (r *reader) sized() []byte {
	n := int32(r.uint32()) //nolint:gosec // a negative length is refused by take
	return r.take(int(n))
}

// noFlags reads a byte that no server has ever set.
func (r *reader) noFlags() {
	if r.byte() != 0 {
		r.fail("unknown flags")
	}
}

// tuple reads a row into the space of an earlier one.
func (r *reader) tuple(t Tuple) Tuple {
	n := r.count(int64(int16(r.uint16())), 1) //nolint:gosec // a negative number is refused
	t = slices.Grow(t[:0], n)[:n]
	for i := range t {
		switch kind := ValueKind(r.byte()); kind {
		case Null, Unchanged:
			t[i] = Value{Kind: kind}
		case Text, Binary:
			t[i] = Value{Kind: kind, Data: r.sized()}
		default:
			r.fail("unknown form of a value")
			return t[:0]
		}
	}
	return t
}

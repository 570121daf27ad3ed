package apply

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

// A value of character(n) is stored, and sent, with blanks up to its length, and
// the server that takes it counts its characters one by one, which is a quarter
// of what such a COPY costs it. It pads what is shorter all the same, so the
// blanks stay behind.

// trimmer takes rows of a COPY in binary form and writes them without the
// padding. Rows may be cut anywhere.
type trimmer struct {
	w      io.Writer
	padded []bool // by column
	begun  bool   // the header has passed
	ended  bool   // the last row has
	rest   []byte // the beginning of a row, whose end was not in the same write
	out    []byte
}

// trimmedSize is how much is handed on at once, in bytes: a little is not worth
// waking a server.
const trimmedSize = 128 << 10

// copyHeader is the size of what stands before the first row, without an
// extension: the signature, the flags and the extension's length.
const copyHeader = 11 + 4 + 4

// errNoCopy is of a stream that is not a COPY in binary form of that many columns.
var errNoCopy = errors.New("rows do not have the form of a binary COPY")

func (t *trimmer) Write(b []byte) (int, error) {
	in := b
	if len(t.rest) > 0 {
		t.rest = append(t.rest, b...)
		in = t.rest
	}
	if !t.begun {
		n := copyHeader
		if len(in) >= n {
			n += int(binary.BigEndian.Uint32(in[copyHeader-4:]))
		}
		if len(in) < n {
			t.rest = append(t.rest[:0], in...)
			return len(b), nil
		}
		t.begun, t.out, in = true, append(t.out, in[:n]...), in[n:]
	}
	for len(in) > 0 {
		n, err := t.row(in)
		if err != nil {
			return 0, err
		}
		if n == 0 {
			break
		}
		in = in[n:]
	}
	t.rest = append(shrunk(t.rest), in...)
	if len(t.out) < trimmedSize && !t.ended {
		return len(b), nil
	}
	return len(b), t.flush()
}

func (t *trimmer) flush() error {
	_, err := t.w.Write(t.out)
	t.out = shrunk(t.out)
	return err
}

// finish is an error where the last row has not come: what is kept is not all.
func (t *trimmer) finish() error {
	if !t.ended {
		return errNoCopy
	}
	return nil
}

// shrunk is b, empty, unless it has become large for one large row.
func shrunk(b []byte) []byte {
	if cap(b) > 4*trimmedSize {
		return nil
	}
	return b[:0]
}

// sizeOf is the size of the row that begins there; 0 if it is not whole.
func (t *trimmer) sizeOf(in []byte) (int, error) {
	if len(in) < 2 {
		return 0, nil
	}
	end := 2
	switch columns := binary.BigEndian.Uint16(in); columns {
	case 0xffff:
		t.ended = true
		return end, nil
	case uint16(len(t.padded)): //nolint:gosec // a table has at most 1600
	default:
		return 0, errNoCopy
	}
	for range t.padded {
		if len(in) < end+4 {
			return 0, nil
		}
		end += 4 + max(int(int32(binary.BigEndian.Uint32(in[end:]))), 0) //nolint:gosec // -1 is NULL
	}
	if len(in) < end {
		return 0, nil
	}
	return end, nil
}

// row takes a row, and returns its size as it came; 0 if it is not whole.
func (t *trimmer) row(in []byte) (int, error) {
	end, err := t.sizeOf(in)
	if end == 0 || err != nil {
		return 0, err
	}
	t.out = append(t.out, in[:2]...)
	for left, column := in[2:end], 0; len(left) > 0; column++ {
		head := left[:4]
		size := int(int32(binary.BigEndian.Uint32(head))) //nolint:gosec // -1 is NULL
		value := left[4 : 4+max(size, 0)]
		left = left[4+len(value):]
		if size >= 0 && t.padded[column] {
			value = trimBlanks(value)
			t.out = binary.BigEndian.AppendUint32(t.out, uint32(len(value))) //nolint:gosec // less than it was
		} else {
			t.out = append(t.out, head...)
		}
		if len(value) < trimmedSize {
			t.out = append(t.out, value...)
			continue
		}
		if err := t.flush(); err != nil { // a large one is not held twice
			return 0, err
		}
		if _, err := t.w.Write(value); err != nil {
			return 0, err
		}
	}
	return end, nil
}

// trimBlanks is b without the blanks at its end.
func trimBlanks(b []byte) []byte {
	const blanks = 0x2020202020202020
	for len(b) >= 8 && binary.NativeEndian.Uint64(b[len(b)-8:]) == blanks {
		b = b[:len(b)-8]
	}
	return bytes.TrimRight(b, " ")
}

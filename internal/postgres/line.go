package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// SameLine reports whether the last timeline that two histories share is one
// timeline and not two of the same number that began at the same place: two
// standbys that were promoted at one position cannot be told apart by their
// histories, only by the first record that each wrote. When that record
// is gone on either side the answer is yes.
func (i *Instance) SameLine(ctx context.Context, source pg.ConnInfo, local, other pg.History) (bool, error) {
	return i.sameLine(ctx, local, other, func(ctx context.Context, name string, offset int64, n int) ([]byte, error) {
		return readRemoteWAL(ctx, source, name, offset, n)
	})
}

// SameLineAs is SameLine for a server that was met.
func (i *Instance) SameLineAs(ctx context.Context, r *Remote, local pg.History) (bool, error) {
	return i.sameLine(ctx, local, r.Info.History, r.readWAL)
}

// readRemoteWAL returns up to n bytes at an offset of a segment of another
// server; none when the segment is gone.
func readRemoteWAL(ctx context.Context, source pg.ConnInfo, name string, offset int64, n int) (data []byte, err error) {
	err = withRemote(ctx, source, func(s *Session) error {
		const query = `SELECT pg_read_binary_file('pg_wal/' || $1::text, $2::bigint, $3::bigint, true)`
		return s.conn.QueryRow(ctx, query, name, offset, int64(n)).Scan(&data)
	})
	return data, err
}

// reader reads another server's WAL.
type reader func(ctx context.Context, name string, offset int64, n int) ([]byte, error)

func (i *Instance) sameLine(ctx context.Context, local, other pg.History, read reader) (bool, error) {
	tli, _, _ := local.Fork(other)
	if tli <= 1 {
		return tli == 1, nil
	}
	var begins pg.LSN
	for _, e := range local {
		if e.TLI == tli {
			begins = e.Switch
		}
	}
	size, err := i.segmentSize(ctx)
	if err != nil {
		return false, err
	}
	at := firstRecord(begins, size)
	name := fmt.Sprintf("%08X%s", uint32(tli), segmentSuffix(at, size))
	offset := segmentOffset(at, size)
	mine, err := readRecord(i.path("pg_wal", name), offset)
	if err != nil || mine == nil {
		return err == nil, err
	}
	theirs, err := read(ctx, name, offset, len(mine))
	if err != nil {
		return false, fmt.Errorf("compare the beginning of timeline %d: %w", tli, err)
	}
	return len(theirs) < len(mine) || recordEmpty(theirs) || bytes.Equal(mine, theirs), nil
}

// Sizes of what lies before the first record of a page.
const (
	walPage         = 8192
	shortPageHeader = 24
	longPageHeader  = 40
	// longestFirst is longer than any record that begins a timeline.
	longestFirst = 1024
)

// firstRecord skips the page header when a timeline begins with a page.
func firstRecord(begins pg.LSN, segmentSize int64) pg.LSN {
	switch {
	case segmentOffset(begins, segmentSize) == 0:
		return begins + longPageHeader
	case begins%walPage == 0:
		return begins + shortPageHeader
	default:
		return begins
	}
}

// readRecord returns the bytes of the record at an offset of a segment; nil when there is none.
func readRecord(path string, offset int64) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // a segment of our instance
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read WAL: %w", err)
	}
	defer func() { _ = f.Close() }()
	buf := make([]byte, longestFirst)
	n, err := f.ReadAt(buf, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read WAL: %w", err)
	}
	if recordEmpty(buf[:n]) {
		return nil, nil
	}
	// A record begins with its length. Whatever follows it may not be written everywhere yet.
	length := int(binary.NativeEndian.Uint32(buf))
	return buf[:min(n, max(length, 4))], nil
}

func recordEmpty(b []byte) bool { return len(b) < 4 || binary.NativeEndian.Uint32(b) == 0 }

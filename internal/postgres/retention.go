package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Retention is how much WAL a server keeps for standbys that are away.
type Retention struct {
	// DiskBytes is the size of the file system that holds the WAL; 0 when it is not known.
	DiskBytes int64
	// Slots is what an operator wants as max_slot_wal_keep_size; empty for a
	// part of the disk.
	Slots string
}

// DetectRetention looks at the disk that has, or will have, the WAL.
func (i *Instance) DetectRetention(slots string) (Retention, error) {
	path := i.path("pg_wal")
	for {
		var st unix.Statfs_t
		err := unix.Statfs(path, &st)
		switch {
		case err == nil:
			return Retention{DiskBytes: int64(st.Blocks) * st.Bsize, Slots: slots}, nil //nolint:gosec // no disk has 2^63 bytes
		case !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path):
			return Retention{}, fmt.Errorf("ask for the size of the disk below %s: %w", path, err)
		}
		path = filepath.Dir(path)
	}
}

// settings bound what standbys that are away may cost: the disk of a primary
// that fills up stops it. A standby that comes back too late is copied again.
// The size of the disk does not change by itself, as its free space does: a
// node has the same limits after each start.
func (r Retention) settings() pg.Settings {
	const mb, gb = int64(1) << 20, int64(1) << 30
	keep, slots := 8*gb, r.DiskBytes/4
	keepText := "8 GB"
	if r.DiskBytes > 0 && r.DiskBytes/10 < keep {
		keep = r.DiskBytes / 10
		keepText = megabytes(keep)
	}
	s := pg.Settings{{Name: "wal_keep_size", Value: keepText}}
	switch {
	case r.Slots != "":
		s = append(s, pg.Setting{Name: "max_slot_wal_keep_size", Value: r.Slots})
	case r.DiskBytes > 0:
		s = append(s, pg.Setting{Name: "max_slot_wal_keep_size", Value: strconv.FormatInt(max(slots, keep, mb)/mb, 10) + " MB"})
	}
	return s
}

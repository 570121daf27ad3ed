package pg

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// LSN is a position in the write-ahead log. Zero is "no position".
type LSN uint64

// ErrSyntax is wrapped by every parser of this package.
var ErrSyntax = errors.New("invalid syntax")

// ParseLSN reads the form that PostgreSQL prints: two hexadecimal numbers of
// at most eight digits with a slash between them.
func ParseLSN(s string) (LSN, error) {
	high, low, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("parse lsn %q: %w", s, ErrSyntax)
	}
	hi, errHigh := parseHex32(high)
	lo, errLow := parseHex32(low)
	if errHigh != nil || errLow != nil {
		return 0, fmt.Errorf("parse lsn %q: %w", s, ErrSyntax)
	}
	return LSN(hi<<32 | lo), nil
}

func parseHex32(s string) (uint64, error) {
	if len(s) == 0 || len(s) > 8 || strings.ContainsAny(s, "_+-xX") {
		return 0, ErrSyntax
	}
	return strconv.ParseUint(s, 16, 32)
}

// String returns the position as PostgreSQL prints it, for example 0/3000060.
func (l LSN) String() string {
	return fmt.Sprintf("%X/%X", uint64(l)>>32, uint64(l)&0xFFFFFFFF)
}

// MarshalText implements encoding.TextMarshaler.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *LSN) UnmarshalText(text []byte) error {
	v, err := ParseLSN(string(text))
	if err != nil {
		return err
	}
	*l = v
	return nil
}

// Sub returns the signed distance in bytes from other to l.
func (l LSN) Sub(other LSN) int64 {
	return int64(l - other) //nolint:gosec // wraps around to the negative distance, as wanted
}

// Timeline is a timeline number. Zero is "unknown".
type Timeline uint32

// ParseTimeline reads a decimal timeline number.
func ParseTimeline(s string) (Timeline, error) {
	v, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("parse timeline %q: %w", s, ErrSyntax)
	}
	return Timeline(v), nil
}

// HistoryFile returns the name of the timeline's history file in pg_wal.
func (t Timeline) HistoryFile() string { return fmt.Sprintf("%08X.history", uint32(t)) }

// SystemID is the identifier that initdb gives to a data directory and that
// all its physical copies share.
type SystemID uint64

// ParseSystemID reads a decimal system identifier.
func ParseSystemID(s string) (SystemID, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parse system identifier %q: %w", s, ErrSyntax)
	}
	return SystemID(v), nil
}

// String returns the identifier in decimal.
func (id SystemID) String() string { return strconv.FormatUint(uint64(id), 10) }

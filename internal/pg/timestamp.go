package pg

import (
	"strconv"
	"time"
)

// Timestamp is a moment as PostgreSQL stores and sends it: microseconds since
// 2000-01-01 00:00 UTC. It is exactly the binary form of timestamptz, so that
// a commit time passes through without a conversion. Zero is "no time known".
type Timestamp int64

// The two moments that timestamptz has beyond all others.
const (
	TimestampNegativeInfinity Timestamp = -1 << 63
	TimestampInfinity         Timestamp = 1<<63 - 1
)

// timestampEpoch is 2000-01-01 00:00 UTC in microseconds of Unix time.
const timestampEpoch = 946_684_800_000_000

// TimestampOf rounds a time down to the microsecond.
func TimestampOf(t time.Time) Timestamp { return Timestamp(t.UnixMicro() - timestampEpoch) }

// Time returns the moment in UTC.
func (t Timestamp) Time() time.Time { return time.UnixMicro(int64(t) + timestampEpoch).UTC() }

// Sub returns the time from u to t, limited to what a duration can hold.
func (t Timestamp) Sub(u Timestamp) time.Duration {
	const limit = Timestamp(1<<63-1) / 1000
	d := t - u
	if (d > 0) != (t > u) { // wrapped around
		d = limit
		if t < u {
			d = -limit
		}
	}
	return time.Duration(max(-limit, min(limit, d))) * time.Microsecond
}

// String returns the moment in UTC, as PostgreSQL prints it in that zone.
func (t Timestamp) String() string {
	switch t {
	case TimestampInfinity:
		return "infinity"
	case TimestampNegativeInfinity:
		return "-infinity"
	}
	when := t.Time()
	if when.Year() < 0 || when.Year() > 9999 {
		return strconv.FormatInt(int64(t), 10)
	}
	return when.Format("2006-01-02 15:04:05.999999") + "+00"
}

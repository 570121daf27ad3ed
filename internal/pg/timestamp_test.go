package pg

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestTimestamp(t *testing.T) {
	t.Parallel()
	require.Equal(t, time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), Timestamp(0).Time())
	at := time.Date(2026, 3, 4, 5, 6, 7, 891_011_999, time.UTC)
	stamp := TimestampOf(at)
	require.Equal(t, at.Truncate(time.Microsecond), stamp.Time())
	require.Equal(t, "2026-03-04 05:06:07.891011+00", stamp.String())
	require.Equal(t, "1999-12-31 23:59:59+00", Timestamp(-1_000_000).String())
	require.Equal(t, "infinity", TimestampInfinity.String())
	require.Equal(t, "-infinity", TimestampNegativeInfinity.String())
}

func TestTimestampSub(t *testing.T) {
	t.Parallel()
	require.Equal(t, 3*time.Microsecond, Timestamp(5).Sub(2))
	require.Equal(t, -3*time.Microsecond, Timestamp(2).Sub(5))
	require.Positive(t, TimestampInfinity.Sub(TimestampNegativeInfinity))
	require.Negative(t, TimestampNegativeInfinity.Sub(TimestampInfinity))
	require.Zero(t, TimestampInfinity.Sub(TimestampInfinity))
}

func TestTimestampProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a := Timestamp(rapid.Int64().Draw(t, "a"))
		b := Timestamp(rapid.Int64().Draw(t, "b"))
		require.NotEmpty(t, a.String())
		switch d := a.Sub(b); {
		case a > b:
			require.Positive(t, d)
		case a < b:
			require.Negative(t, d)
		default:
			require.Zero(t, d)
		}
		if c := Timestamp(rapid.Int64Range(math.MinInt64/2, math.MaxInt64/2).Draw(t, "c")); c.Time().Year() > 1 && c.Time().Year() < 9999 {
			require.Equal(t, c, TimestampOf(c.Time()))
		}
	})
}

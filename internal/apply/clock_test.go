package apply

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// However long the answers take, the server's clock is never thought to be
// further than it is, and the quickest of the last answers says how far.
func TestClockIsALowerBound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ahead := time.Duration(rapid.Int64Range(-1e10, 1e10).Draw(t, "ahead"))
		var c clock
		require.Zero(t, c.offset())
		delays := rapid.SliceOfN(rapid.Int64Range(0, 1e9), 1, 40).Draw(t, "delays")
		for _, d := range delays {
			c.add(ahead - time.Duration(d))
			require.LessOrEqual(t, c.offset(), ahead)
		}
		best := delays[max(0, len(delays)-clockWindow):]
		quickest := best[0]
		for _, d := range best {
			quickest = min(quickest, d)
		}
		require.Equal(t, ahead-time.Duration(quickest), c.offset())
	})
}

package conflict

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// A change of a row that a copy has brought meets nobody, whoever had written the
// row; one of a row that somebody else has written since does.
func TestCopiedRows(t *testing.T) {
	t.Parallel()
	brought := Stamp{pg.TimestampOf(time.Unix(0, 0)), 3}
	require.True(t, brought.Copied())
	require.False(t, newer.Copied())
	rules := Rules{Self: self, SaveRemoteWins: true}
	for _, kind := range []Action{Update, Delete} {
		for _, x := range []struct {
			stamp Stamp
			n     int
		}{{brought, 0}, {Stamp{brought.CommitTime + 1, 3}, 1}} {
			out, err := Resolve(Change{Action: kind, Stamp: Stamp{20, 2}}, Local{Row: rowAt(0, x.stamp)}, rules)
			require.NoError(t, err)
			require.Len(t, out.Conflicts, x.n, "%v %v", kind, x.stamp)
			require.NotEmpty(t, out.Steps)
		}
	}
}

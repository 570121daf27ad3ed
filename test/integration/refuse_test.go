package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestPrimaryRefusesEverybody: the primary's server runs, streams, and answers
// every new connection with an error. Somebody else has to take over, although
// the server is alive.
func TestPrimaryRefusesEverybody(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{2, 3} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) {
			t.Parallel()
			g, w := written(t, nodes)
			old := g.WaitWhole(t)
			start := time.Now()
			admit := old.Refuse(t)
			next := g.NewPrimary(t, old)
			w.WaitAck(t, time.Now())
			admit() // as an operator would, who finds out at last
			settle(t, g, w, start)
			require.Equal(t, next.Name, g.WaitWhole(t).Name)
			finish(t, g, w)
		})
	}
}

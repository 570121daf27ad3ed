package partition

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

const (
	// cutsVar says how many random cuts TestRandomCuts makes.
	cutsVar = "PGDROVER_TEST_CUTS"
	// seedVar repeats the cuts of an earlier run.
	seedVar = "PGDROVER_TEST_SEED"
)

// fewCuts is for every run; the long one says how many it wants.
const fewCuts = 2

// TestRandomCuts cuts any direction between any two members, as many as chance
// wants, and heals them all at once.
func TestRandomCuts(t *testing.T) {
	t.Parallel()
	count, seed := group.Number(t, cutsVar, fewCuts), uint64(group.Number(t, seedVar, int(time.Now().UnixNano())))
	for _, nodes := range []int{2, 3} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) {
			t.Parallel()
			t.Logf("%s=%d %s=%d", seedVar, seed, cutsVar, count)
			rnd := rand.New(rand.NewPCG(seed, uint64(nodes)))
			r := start(t, nodes, nil)
			for range count {
				before := r.settle(t)
				start := time.Now()
				what := r.cutSome(t, rnd)
				length := time.Second + time.Duration(rnd.Float64()*float64(25*time.Second))
				group.During(t, length)
				r.net.Heal(t)
				end := time.Now()
				after := r.settle(t)
				t.Logf("cut %s for %s: %s was primary, %s is, whole again %s after the end, longest time without an acknowledgement %s, %d rows",
					what, length.Round(time.Millisecond), before.Name, after.Name, time.Since(end).Round(time.Millisecond),
					r.gap(start).Round(time.Millisecond), len(r.acks()))
			}
			for _, w := range r.writers {
				w.Stop()
			}
			r.RequireEqual(t)
		})
	}
}

// cutSome cuts each direction with one probability, and says which it were.
func (r *rig) cutSome(t *testing.T, rnd *rand.Rand) string {
	t.Helper()
	often := 0.1 + 0.5*rnd.Float64()
	var cut []string
	each := func(from, to *pgtest.Host) {
		if rnd.Float64() < often {
			r.net.CutOneWay(t, from, to)
			cut = append(cut, from.Name+"→"+to.Name)
		}
	}
	for i, a := range r.net.Hosts() {
		for _, b := range r.net.Hosts()[i+1:] {
			each(a, b)
			each(b, a)
		}
	}
	return strings.Join(cut, " ")
}

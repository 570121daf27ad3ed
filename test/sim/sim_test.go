package sim

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestForm(t *testing.T) {
	t.Parallel()
	for nodes := 1; nodes <= 5; nodes++ {
		s := Schedule{Setup: Setup{Seed: 1, Nodes: nodes, NSS: -1, Priorities: [6]int{50, 50, 50, 50, 50, 50}, Fair: true}}
		require.Nil(t, play(t, s))
	}
}

// play runs a schedule and shows its trace when it fails.
func play(t *testing.T, s Schedule) *Violation {
	t.Helper()
	r := Run(s, RealRules(Sound), true)
	if r.Violation != nil {
		t.Logf("%s%s", s, strings.Join(r.Trace, "\n"))
	}
	return r.Violation
}

// number reads a number from the environment.
func number(name string, otherwise uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return otherwise
}

// TestRandomSchedules plays PGDROVER_SIM_SCHEDULES schedules from PGDROVER_SIM_SEED on.
func TestRandomSchedules(t *testing.T) {
	t.Parallel()
	count, first := number("PGDROVER_SIM_SCHEDULES", 2000), number("PGDROVER_SIM_SEED", 1)
	var next, steps, acks, openings, bad atomic.Int64
	var mu sync.Mutex
	kinds := map[string]int{}
	firstOf := map[string]uint64{}
	start, limit := time.Now(), time.Duration(number("PGDROVER_SIM_SECONDS", 0))*time.Second
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			rules := RealRules(Sound)
			for {
				n := next.Add(1) - 1
				if n >= int64(count) || limit > 0 && time.Since(start) > limit {
					return
				}
				seed := first + uint64(n)
				r := Run(Generate(seed), rules, false)
				steps.Add(int64(r.Steps))
				acks.Add(int64(r.Acks))
				openings.Add(int64(r.Openings))
				if v := r.Violation; v != nil {
					bad.Add(1)
					mu.Lock()
					if os.Getenv("PGDROVER_SIM_LIST") != "" {
						fmt.Printf("    seed %d: %s\n", seed, v)
					}
					kinds[v.Check]++
					if _, ok := firstOf[v.Check]; !ok {
						firstOf[v.Check] = seed
					}
					mu.Unlock()
				}
			}
		})
	}
	group.Wait()
	took := time.Since(start)
	count = min(count, uint64(next.Load()))
	t.Logf("%d schedules, %d steps, %d acks, %d promotions in %s: %.0f schedules/s", count, steps.Load(), acks.Load(), openings.Load(), took.Round(time.Millisecond), float64(count)/took.Seconds())
	for k, n := range kinds {
		t.Logf("%s: %d times, first seed %d", k, n, firstOf[k])
	}
	require.Zero(t, bad.Load())
}

// TestSeed replays PGDROVER_SIM_ONE, shrinks it and shows its trace.
func TestSeed(t *testing.T) {
	seed := number("PGDROVER_SIM_ONE", 0)
	if seed == 0 {
		t.Skip("PGDROVER_SIM_ONE is not set")
	}
	s := Generate(seed)
	r := Run(s, RealRules(Sound), false)
	if r.Violation == nil {
		t.Logf("seed %d is fine", seed)
		return
	}
	fmt.Println(r.Violation)
	small := Shrink(s, func() *Rules { return RealRules(Sound) }, r.Violation.Check, int(number("PGDROVER_SIM_SHRINK", 1500)))
	r = Run(small, RealRules(Sound), true)
	fmt.Println(strings.Join(r.Trace, "\n"))
	fmt.Println(small)
	fmt.Println(r.Violation)
}

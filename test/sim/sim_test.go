package sim

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(800) // worlds are small, short-lived and many
	os.Exit(m.Run())
}

// number reads a number from the environment.
func number(name string, otherwise uint64) uint64 {
	if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return n
	}
	return otherwise
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

// campaign is a run over many seeds.
type campaign struct {
	count, first uint64
	limit        time.Duration // 0 for none

	next, steps, acks, openings atomic.Int64

	mu     sync.Mutex
	failed map[uint64]*Violation
}

func (c *campaign) run() time.Duration {
	start := time.Now()
	c.failed = map[uint64]*Violation{}
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			rules := RealRules(Sound)
			for c.limit == 0 || time.Since(start) < c.limit {
				n := uint64(c.next.Add(1) - 1)
				if n >= c.count {
					return
				}
				c.one(c.first+n, rules)
			}
		})
	}
	group.Wait()
	return time.Since(start)
}

func (c *campaign) one(seed uint64, rules *Rules) {
	r := Run(Generate(seed), rules, false)
	c.steps.Add(int64(r.Steps))
	c.acks.Add(int64(r.Acks))
	c.openings.Add(int64(r.Openings))
	if r.Violation != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.failed[seed] = r.Violation
		if os.Getenv("PGDROVER_SIM_LIST") != "" {
			fmt.Printf("seed %d: %s\n", seed, r.Violation)
		}
	}
}

// TestRandomSchedules plays PGDROVER_SIM_SCHEDULES schedules from seed
// PGDROVER_SIM_SEED on, for PGDROVER_SIM_SECONDS at most.
func TestRandomSchedules(t *testing.T) {
	t.Parallel()
	otherwise := uint64(20000)
	if testing.Short() {
		otherwise = 500
	}
	c := campaign{
		count: number("PGDROVER_SIM_SCHEDULES", otherwise), first: number("PGDROVER_SIM_SEED", 1),
		limit: time.Duration(number("PGDROVER_SIM_SECONDS", 0)) * time.Second,
	}
	took := c.run()
	played := min(c.count, uint64(c.next.Load()))
	t.Logf("%d schedules, %d steps, %d acknowledgements, %d promotions in %s: %.0f schedules/s",
		played, c.steps.Load(), c.acks.Load(), c.openings.Load(), took.Round(time.Millisecond), float64(played)/took.Seconds())
	shown := 0
	for seed, v := range c.failed {
		if shown++; shown > 3 {
			break
		}
		explain(t, seed, v)
	}
	require.Empty(t, c.failed, "replay one with PGDROVER_SIM_REPLAY=<seed> go test -run TestReplay -v ./test/sim")
}

// explain shrinks a failing seed and keeps the result as an artifact.
func explain(t *testing.T, seed uint64, v *Violation) {
	t.Helper()
	small := Shrink(Generate(seed), func() *Rules { return RealRules(Sound) }, v.Check, int(number("PGDROVER_SIM_SHRINK", 1500)))
	r := Run(small, RealRules(Sound), true)
	tail := r.Trace[max(0, len(r.Trace)-60):]
	file := filepath.Join(t.ArtifactDir(), fmt.Sprintf("found_%d.txt", seed))
	require.NoError(t, os.WriteFile(file, []byte("# "+v.Check+"\n"+small.String()), 0o600))
	t.Logf("seed %d: %s\nshrunk, as %s:\n%s\nits end:\n%s\n%s", seed, v, file, small, strings.Join(tail, "\n"), r.Violation)
}

// TestReplay shows what a seed or a scenario file (PGDROVER_SIM_REPLAY) does.
func TestReplay(t *testing.T) {
	what := os.Getenv("PGDROVER_SIM_REPLAY")
	if what == "" {
		t.Skip("PGDROVER_SIM_REPLAY names no seed and no scenario file")
	}
	var s Schedule
	if seed, err := strconv.ParseUint(what, 10, 64); err == nil {
		s = Generate(seed)
		if v := Run(s, RealRules(Sound), false).Violation; v != nil {
			explain(t, seed, v)
		}
	} else {
		text, err := os.ReadFile(what)
		require.NoError(t, err)
		s, err = ParseSchedule(string(text))
		require.NoError(t, err)
		t.Log(strings.Join(Run(s, RealRules(Sound), true).Trace, "\n"))
	}
	require.Nil(t, Run(s, RealRules(Sound), false).Violation)
}

// TestFormations forms groups of every size and lets them rest.
func TestFormations(t *testing.T) {
	t.Parallel()
	for nodes := 1; nodes <= 5; nodes++ {
		for _, async := range []int{0, everybody, 2} {
			s := Schedule{Setup: Setup{Seed: 4, Nodes: nodes, NSS: -1, Async: async, Priorities: [6]int{50, 50, 50, 50, 50, 50}, Fair: true}}
			require.Nil(t, play(t, s))
		}
	}
}

// TestSameScheduleSameTrace: a seed replays exactly.
func TestSameScheduleSameTrace(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		s := Generate(seed)
		a, b := Run(s, RealRules(Sound), true), Run(s, RealRules(Sound), true)
		require.Equal(t, a.Trace, b.Trace)
		require.Equal(t, a.Steps, b.Steps)
		quiet := Run(s, RealRules(Sound), false)
		require.Equal(t, a.Steps, quiet.Steps, "a trace must not change what it shows")
		require.GreaterOrEqual(t, a.Steps, minSteps)
	}
}

// TestShrink makes a failing schedule shorter without losing the failure.
func TestShrink(t *testing.T) {
	t.Parallel()
	rules := func() *Rules { return RealRules(CopyVotes) }
	for seed := uint64(1); ; seed++ {
		s := GenerateFor(CopyVotes, seed)
		v := Run(s, rules(), false).Violation
		if v == nil {
			continue
		}
		small := Shrink(s, rules, v.Check, 300)
		require.LessOrEqual(t, len(small.Ops), len(s.Ops))
		require.Equal(t, v.Check, Run(small, rules(), false).Violation.Check)
		return
	}
}

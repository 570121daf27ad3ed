package sim

import (
	"slices"
	"time"
)

// Shrink makes a failing schedule as short and plain as it can get in so many
// runs. What it returns breaks the same invariant.
func Shrink(s Schedule, rules func() *Rules, check string, runs int) Schedule {
	best := s
	try := func(c Schedule) bool {
		if runs <= 0 {
			return false
		}
		runs--
		if r := Run(c, rules(), false); r.Violation == nil || r.Violation.Check != check {
			return false
		}
		best = c
		return true
	}
	for again := true; again && runs > 0; {
		again = shrinkOps(&best, try)
		again = shrinkOpDetails(&best, try) || again
		again = shrinkSetup(&best, try) || again
	}
	return best
}

// shrinkOps leaves out operations, many at once first.
func shrinkOps(best *Schedule, try func(Schedule) bool) bool {
	shorter := false
	for size := max(1, len(best.Ops)/2); size >= 1; size /= 2 {
		for i := 0; i+size <= len(best.Ops); {
			c := *best
			c.Ops = slices.Delete(slices.Clone(best.Ops), i, i+size)
			if try(c) {
				shorter = true
			} else {
				i += size
			}
		}
	}
	return shorter
}

// shrinkOpDetails makes the operations that are left plainer.
func shrinkOpDetails(best *Schedule, try func(Schedule) bool) bool {
	plainer := false
	for i := range best.Ops {
		for _, change := range []func(*Op){
			func(o *Op) { o.Wait = 0; o.On = onTime },
			func(o *Op) { o.N = 0 },
			func(o *Op) { o.Wait = o.Wait.Round(time.Second) },
			func(o *Op) { o.Wait = o.Wait.Round(100 * time.Millisecond) },
			func(o *Op) { o.Wait /= 2 },
			func(o *Op) { o.On = onTime },
		} {
			if i >= len(best.Ops) {
				break
			}
			c := *best
			c.Ops = slices.Clone(best.Ops)
			change(&c.Ops[i])
			if c.Ops[i] != best.Ops[i] && try(c) {
				plainer = true
			}
		}
	}
	return plainer
}

// shrinkSetup makes the group smaller and plainer.
func shrinkSetup(best *Schedule, try func(Schedule) bool) bool {
	plainer := false
	for _, change := range []func(*Setup){
		func(s *Setup) { s.Fair = false },
		func(s *Setup) { s.LostReplies = 0 },
		func(s *Setup) { s.BadCopies = 0 },
		func(s *Setup) { s.Old = 0 },
		func(s *Setup) { s.Worker = false },
		func(s *Setup) { s.Async = 0 },
		func(s *Setup) { s.Priorities = [6]int{50, 50, 50, 50, 50, 50} },
		func(s *Setup) { s.NSS = -1 },
		func(s *Setup) { s.Nodes = max(1, s.Nodes-1) },
	} {
		c := *best
		change(&c.Setup)
		if c.Setup != best.Setup && try(c) {
			plainer = true
		}
	}
	return plainer
}

package monitor

import (
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// nextDeadline returns the first moment after a time at which a decision about
// the group could come out differently although nothing happens: somebody's
// silence, a wait or a request runs out. Zero means never. It knows the
// conditions' clocks, not the rules; a moment too many costs one look.
func nextDeadline(g fsm.Group, after time.Time) time.Time {
	var soonest time.Time
	consider := func(from time.Time, wait time.Duration) {
		if from.IsZero() || wait <= 0 {
			return
		}
		// Conditions compare with "longer than", so the moment itself is too soon.
		at := from.Add(wait + time.Millisecond)
		if at.After(after) && (soonest.IsZero() || at.Before(soonest)) {
			soonest = at
		}
	}
	s := g.Settings
	consider(g.MonitorStart, s.StartupGrace)
	for _, n := range g.Nodes {
		if n.Session == fsm.SessionNone {
			consider(n.Seen, s.SessionlessTimeout)
		} else {
			consider(n.Seen, s.UnhealthyTimeout)
		}
		if n.Streaming == fsm.StreamingNo {
			consider(n.StreamingAt, s.StallTimeout)
		}
		if n.Settled() && !restless(g) {
			continue
		}
		consider(n.GoalAt, s.DemoteTimeout)
		consider(n.ReportedAt, s.DemoteTimeout)
		consider(n.Seen, s.DemoteTimeout)
		consider(n.GoalAt, s.FastForwardTimeout)
		consider(n.ReportedAt, s.FastForwardTimeout)
	}
	for _, i := range g.Intents {
		consider(i.At, s.IntentTimeout)
	}
	return soonest
}

// restless reports whether the group is on its way somewhere.
func restless(g fsm.Group) bool {
	if g.Record.Election != nil || g.Record.Owner != 0 || len(g.Record.Removed) > 0 {
		return true
	}
	for _, n := range g.Nodes {
		if !n.Settled() {
			return true
		}
	}
	return false
}

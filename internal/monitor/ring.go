package monitor

import (
	"context"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// idleRing is how long the alarm loop sleeps when nothing is due.
const idleRing = time.Hour

// ring wakes the groups whose deadline has come.
func (d *decider) ring(ctx context.Context) error {
	for {
		due, next := d.due(time.Now())
		d.queue.add(due...)
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-d.rearm:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// due returns the groups to look at now, and how long the others can wait.
func (d *decider) due(now time.Time) (due []groupKey, next time.Duration) {
	next = idleRing
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, a := range d.alarms {
		at := a.retry
		if at.IsZero() {
			d.observed.refresh(&a.group)
			var some bool
			if at, some = fsm.NextDeadline(a.group, a.at); !some {
				continue
			}
		}
		if wait := at.Sub(now); wait > 0 {
			next = min(next, wait)
			continue
		}
		// Until the look is done there is nothing to wait for; it sets a new alarm.
		delete(d.alarms, key)
		due = append(due, key)
	}
	return due, next
}

// logTurn writes one line per decision, and one when the group begins or
// ceases to wait for something.
func (d *decider) logTurn(ctx context.Context, key groupKey, t turn) {
	log := d.log.With("formation", key.Formation, "group", key.Group)
	for _, step := range t.decisions {
		log.InfoContext(ctx, "decided", "rule", step.decision.Rule.Name, "rule_pos", step.decision.Rule.Pos,
			"nodes", describe(step.before, step.decision))
		for _, c := range step.decision.Close {
			if !c.Applied {
				log.WarnContext(ctx, "a request is not carried out", "request", c.Intent, "reason", c.Text)
			}
		}
	}
	switch t.waiting {
	case t.waited:
	case "":
		log.InfoContext(ctx, "the group does not wait any more")
	default:
		log.WarnContext(ctx, "the group waits", "reason", t.waiting)
	}
}

// describe shows every node as reported/goal, with the new goal behind an arrow.
func describe(g fsm.Group, dec fsm.Decision) string {
	goals := make(map[int64]fsm.State, len(dec.Assign))
	for _, a := range dec.Assign {
		goals[a.Node] = a.Goal
	}
	words := make([]string, 0, len(g.Nodes))
	for _, n := range g.Nodes {
		word := n.Name + " " + n.Reported.String() + "/" + n.Goal.String()
		if goal, ok := goals[n.ID]; ok {
			word += "->" + goal.String()
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

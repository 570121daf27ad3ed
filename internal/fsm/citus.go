package fsm

import "fmt"

// announcing reports whether the owner is a worker that has been getting ready
// for a while without an answer: all that it has to do is to have the
// coordinator lead writes to it.
func (t *turn) announcing() *Node {
	s := t.owner()
	if t.g.Formation.Kind != "citus" || t.g.ID == 0 || s == nil || s.Goal != PreparePromotion || s.Settled() || !t.alive(s) {
		return nil
	}
	if t.now.Sub(later(s.GoalAt, t.g.MonitorStart)) <= settleWindow {
		return nil
	}
	return s
}

// coordinatorAway notes, once in each promotion, that a worker waits for the coordinator.
func coordinatorAway(t *turn) bool {
	s := t.announcing()
	if s == nil || t.rec.Told == t.rec.Epoch {
		return false
	}
	t.rec.Told = t.rec.Epoch
	t.event(s, "The promotion of %s waits for the coordinator, which has not taken up its address yet.", s)
	return true
}

func waitingForCoordinator(s *Node) string {
	return fmt.Sprintf("%s is to be promoted and waits for the coordinator to take up its address: "+
		"it goes on by itself once group 0 has a primary that takes writes and that %s reaches", s, s)
}

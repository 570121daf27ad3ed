package fsm

// handingOver is the primary that still works while the candidate of a planned
// promotion gets ready, or nil.
func (t *turn) handingOver() *Node {
	e := t.rec.Election
	if e == nil || !e.Planned || e.Then == Unknown {
		return nil
	}
	if p := t.node(t.rec.Primary); p != nil && p.Goal.Writable() {
		return p
	}
	return nil
}

// handOver stops the primary once its successor has answered and is close
// behind. A successor that does not, or is not, is given up: to stop the primary for a
// node that has just fallen silent, or has gigabytes to fetch, would
// leave nobody to write to.
func handOver(t *turn) bool {
	p, s, e := t.handingOver(), t.owner(), t.rec.Election
	switch {
	case p == nil:
		return false
	case t.unhealthy(p) || p.Reported.In(downStates...):
		// Its failover, if it comes to that, is not a planned one.
		t.keepPrimary(s, "after %s became unhealthy.", p)
	case s == nil || s.Goal != PreparePromotion:
		t.prepareAnother(p, s)
	case s.Settled() && t.healthy(s) && within(s, p, t.g.Settings.PromoteThreshold):
		then := e.Then
		e.Then = Unknown
		return t.goal(p, then, "%s to %s after %s converged to prepare_promotion.", p, then, s)
	case t.unhealthy(s) || t.now.Sub(s.GoalAt) > answerWindow:
		t.prepareAnother(p, s)
	default:
		return false
	}
	return true
}

// keepPrimary ends a planned promotion before it cost anything.
func (t *turn) keepPrimary(s *Node, format string, args ...any) {
	t.rec.Owner, t.rec.Election = 0, nil
	t.standDown(s, format, args...)
}

// standDown makes a candidate that was given up a secondary again.
func (t *turn) standDown(s *Node, format string, args ...any) {
	if s != nil && s.Goal == PreparePromotion {
		t.goal(s, Secondary, "%s to secondary "+format, append([]any{s}, args...)...)
	}
}

// prepareAnother gives up a candidate that does not get ready and takes the next
// one, unless the operator wanted just that one.
func (t *turn) prepareAnother(p, s *Node) {
	next := t.successor(p, 0)
	if t.rec.Election.Named || next == nil {
		t.event(p, "The planned promotion is given up, %s goes on: no candidate has got ready.", p)
		t.keepPrimary(s, "after it did not get ready.")
		return
	}
	t.standDown(s, "after it did not get ready.")
	t.rec.Election.Prefer = next.ID
	t.own(next)
	t.goal(next, PreparePromotion, "%s to prepare_promotion as the candidate before it did not get ready.", next)
}

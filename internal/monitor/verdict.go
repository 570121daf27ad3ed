package monitor

import (
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// outcome is what one attempt to talk to a node's server came to.
type outcome int

const (
	// outcomeAlive: the server answered, be it with an error.
	outcomeAlive outcome = iota
	// outcomeRefused: somebody said at once that there is no server.
	outcomeRefused
	// outcomeSilent: nothing came back in time.
	outcomeSilent
	// outcomeNone: the attempt failed on our own side and says nothing.
	outcomeNone
)

// probeRules are the settings of the probes.
type probeRules struct {
	enabled   bool
	period    time.Duration // health_check_period
	timeout   time.Duration // health_check_timeout
	retries   int           // health_check_max_retries
	delay     time.Duration // health_check_retry_delay
	unhealthy time.Duration // node_considered_unhealthy_timeout
}

// suspicion is what the observer knows of a node beside its probes.
type suspicion struct {
	heard       time.Time // last report seen
	sessionLost bool
}

// verdict judges a node by its attempts, one after the other.
//
// Usually 1+retries failures in a row make a node bad. Two other witnesses
// shorten that: when the keeper's session is gone, two refusals the retry delay
// apart are enough; when the keeper has been silent for the unhealthy timeout,
// any unanswered attempt is.
type verdict struct {
	health   fsm.Health
	failures int
	refused  time.Time // first of the refusals in a row
}

// note takes one attempt in and reports whether it settled anything; then
// v.health is the verdict.
func (v *verdict) note(out outcome, at time.Time, rules probeRules, s suspicion) bool {
	switch out {
	case outcomeAlive:
		*v = verdict{health: fsm.HealthGood}
		return true
	case outcomeNone:
		return false
	case outcomeRefused, outcomeSilent:
	}
	v.failures++
	if out == outcomeSilent {
		v.refused = time.Time{}
	} else if v.refused.IsZero() {
		v.refused = at
	}
	twice := !v.refused.IsZero() && at.Sub(v.refused) >= rules.delay
	if v.failures > rules.retries || s.sessionLost && twice || v.overdue(at, rules, s) {
		v.health = fsm.HealthBad
		return true
	}
	return false
}

// overdue reports whether failures that are too few by themselves count
// because the keeper has been silent for so long.
func (v *verdict) overdue(at time.Time, rules probeRules, s suspicion) bool {
	return v.failures > 0 && at.Sub(s.heard) >= rules.unhealthy
}

// pause is how long to wait after an attempt that began at a time: the rest of
// the period, or the retry delay while failures have not made a verdict yet.
func (v *verdict) pause(began, now time.Time, rules probeRules) time.Duration {
	if v.failures > 0 && v.health != fsm.HealthBad {
		return rules.delay
	}
	return max(rules.period-now.Sub(began), 0)
}

// patience is how long an attempt that begins now may take. After a failure it
// ends in time for the verdict that the silence rule will ask for.
func (v *verdict) patience(now time.Time, rules probeRules, s suspicion) time.Duration {
	due := s.heard.Add(rules.unhealthy).Sub(now)
	if v.failures == 0 || due <= 0 {
		return rules.timeout
	}
	return min(rules.timeout, due)
}

// lateAfter is the silence of a keeper after which its server is probed at
// once: early enough that an attempt has run out when the silence counts.
func lateAfter(rules probeRules) time.Duration {
	const slack = 400 * time.Millisecond // look interval and scheduling
	return max(rules.unhealthy-rules.timeout-slack, rules.unhealthy/2)
}

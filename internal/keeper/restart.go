package keeper

import (
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// restarts counts how often a server that should run did not come up, and so
// decides what the monitor is told of it. Times are on the fence's clock.
type restarts struct {
	timeout time.Duration
	retries int

	down     bool
	since    time.Duration // the first moment of this outage
	failures int
	answered time.Duration // the last answer of a running server
}

// sawRunning notes an answer of the local server.
func (r *restarts) sawRunning(now time.Duration) {
	r.down, r.failures, r.answered = false, 0, now
}

// sawDown notes that the server is not there.
func (r *restarts) sawDown(now time.Duration) {
	if !r.down {
		r.down, r.since, r.failures = true, now, 0
	}
	r.answered = now
}

// failed notes a start that did not bring the server up.
func (r *restarts) failed(now time.Duration) {
	r.sawDown(now)
	r.failures++
}

// exhausted reports that the limits are spent.
func (r *restarts) exhausted(now time.Duration) bool {
	return r.down && (r.failures >= r.retries || now-r.since > r.timeout)
}

// hung reports that a server which is there has not answered for too long.
func (r *restarts) hung(now time.Duration) bool {
	return !r.down && now-r.answered > r.timeout
}

// running is what the monitor is told. A primary that its keeper is restarting
// counts as running from the first moment, or else a crash would fail over
// before the restart, which is faster, had a chance. Any other role tells the
// truth.
func (r *restarts) running(role fsm.State, truth, busy bool, now time.Duration) bool {
	if r.hung(now) {
		return false
	}
	if !role.Writable() {
		return truth
	}
	if busy && !r.down {
		return true
	}
	return truth || !r.exhausted(now)
}

// pause is how long to wait before the next attempt.
func (r *restarts) pause() time.Duration {
	switch {
	case r.failures == 0:
		return 0
	case r.failures < 3:
		return 100 * time.Millisecond
	default:
		return time.Second
	}
}

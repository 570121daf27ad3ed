package sim

import (
	"fmt"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// maxHosts is how many hosts a world has at most; the monitor is one more.
const maxHosts = 6

// monitorHost is the monitor's place in the network matrix.
const monitorHost = maxHosts

// epoch is when virtual time begins.
var epoch = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// Violation is an invariant that did not hold.
type Violation struct {
	Check string // I1 … I28, L1 … L8, or a word for a check of the model itself
	Text  string
	At    time.Duration
	Step  int
}

// Error tells which invariant broke, and how.
func (v *Violation) Error() string {
	return fmt.Sprintf("%s at %s, step %d: %s", v.Check, v.At.Round(time.Millisecond), v.Step, v.Text)
}

// trigger is a kind of moment that a schedule can wait for.
type trigger int

const (
	onTime trigger = iota
	onGoal
	onStep
	onReport
	onPromote
	onAck
	onList
	onDown
	onOwner
	triggers
)

var triggerNames = [triggers]string{"time", "goal", "step", "report", "promote", "ack", "list", "down", "owner"}

// World is one group, its monitor and its network, in virtual time.
type World struct {
	cfg   Setup
	now   time.Duration
	queue queue
	steps int

	hosts    []*host
	mon      *monitor
	net      network
	branches []*branch
	rules    *Rules
	rng      source // operators and clients

	counts [triggers]int
	failed *Violation

	// head is the branch that last opened for clients.
	head *branch
	// calmSince is when the last fault was injected or healed.
	calmSince time.Duration
	judge     judge

	tracing bool
	lines   []string
}

// Rules are the functions under test, and the switches that turn parts of
// their answers off.
type Rules struct {
	Decide      func(fsm.Group, time.Time) (fsm.Decision, error)
	CheckIntent func(fsm.Group, fsm.Intent, time.Time) *fsm.Refusal
	FirstGoal   func(fsm.Group, int) (fsm.State, *fsm.Refusal)
	Broken      Mutation

	plain, worker *edgeTable
}

// host is a machine with a keeper and a server.
type host struct {
	w        *World
	n        int
	up       bool
	frozen   bool // the whole machine stands still
	slow     int  // factor on everything that it does, 1 is normal
	rng      source
	deferred []func()
	k        *keeper
	s        *server
}

func newWorld(setup Setup, rules *Rules, tracing bool) *World {
	w := &World{cfg: setup, rules: rules, tracing: tracing, rng: newSource(setup.Seed, 1000)}
	w.judge = newJudge(w)
	w.net.w, w.net.tcp = w, newSource(setup.Seed, 2000)
	for n := range maxHosts {
		h := &host{w: w, n: n, slow: 1, rng: newSource(setup.Seed, uint64(n)+1)}
		h.s = newServer(h)
		h.k = newKeeper(h)
		w.hosts = append(w.hosts, h)
	}
	w.mon = newMonitor(w)
	return w
}

// after schedules fn.
func (w *World) after(d time.Duration, fn func()) { w.queue.push(w.now+d, fn) }

// clock is the virtual time as the functions under test want it.
func (w *World) clock() time.Time { return epoch.Add(w.now) }

// step lets the next event happen; it is false when nothing is left to do or
// an invariant is broken.
func (w *World) step() bool {
	if w.failed != nil || len(w.queue.heap) == 0 {
		return false
	}
	e := w.queue.pop()
	w.now = max(w.now, e.at)
	w.steps++
	e.fn()
	w.judge.always()
	return w.failed == nil
}

// run lets time pass.
func (w *World) run(d time.Duration) bool {
	until := w.now + d
	for len(w.queue.heap) > 0 && w.queue.heap[0].at <= until {
		if !w.step() {
			return false
		}
	}
	w.now = max(w.now, until)
	return w.failed == nil
}

// runUntil lets time pass until done, at most d.
func (w *World) runUntil(d time.Duration, done func() bool) bool {
	until := w.now + d
	for !done() {
		if len(w.queue.heap) == 0 || w.queue.heap[0].at > until {
			w.now = max(w.now, until)
			return done()
		}
		if !w.step() {
			return false
		}
	}
	return true
}

// happened counts a moment that schedules wait for, and lets clients write
// around it: that is when acknowledgements are in danger.
func (w *World) happened(t trigger) {
	w.counts[t]++
	if t != onAck && w.rng.chance(50) {
		w.after(w.rng.between(0, 3*time.Millisecond), w.traffic)
	}
}

// fail records the first broken invariant.
func (w *World) fail(check, format string, args ...any) {
	if w.failed == nil {
		w.failed = &Violation{Check: check, Text: fmt.Sprintf(format, args...), At: w.now, Step: w.steps}
		if w.tracing {
			w.logf("VIOLATION %s: %s", check, w.failed.Text)
		}
	}
}

// logf adds a line to the trace; call it only when tracing.
func (w *World) logf(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf("%10.3fs  ", w.now.Seconds())+fmt.Sprintf(format, args...))
}

// after schedules work on this host: later when it is slow or stands still by then.
func (h *host) after(d time.Duration, fn func()) { h.work(d, h.alarm, fn) }

// work schedules the end of d of work by an alarm. A long one is looked at again
// on the way: a host that is not slow any more does the rest at its usual speed.
func (h *host) work(d time.Duration, alarm func(time.Duration, func()), fn func()) {
	const slice = 5 * time.Second
	if whole := d * time.Duration(h.slow); whole <= slice || h.slow == 1 {
		alarm(whole, fn)
		return
	}
	alarm(slice, func() { h.work(d-slice/time.Duration(h.slow), alarm, fn) })
}

// alarm schedules by the clock, which runs the same on a slow host.
func (h *host) alarm(d time.Duration, fn func()) {
	h.w.after(d, func() {
		if h.frozen {
			h.deferred = append(h.deferred, fn)
			return
		}
		fn()
	})
}

// thaw lets the host go on with everything that came due meanwhile.
func (h *host) thaw() {
	h.frozen = false
	h.k.resumedAt = h.w.now
	due := h.deferred
	h.deferred = nil
	for _, fn := range due {
		h.after(h.rng.between(0, 5*time.Millisecond), fn)
	}
}

// crash cuts the power.
func (h *host) crash() {
	if !h.up {
		return
	}
	h.thaw()
	h.deferred = nil
	h.up = false
	h.k.die()
	h.s.vanish()
}

// boot starts the machine and its keeper.
func (h *host) boot() {
	if h.up {
		return
	}
	h.up = true
	h.k.start()
}

func (h *host) String() string { return fmt.Sprintf("host%d", h.n+1) }

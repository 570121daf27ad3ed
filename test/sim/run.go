package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// Bounds of virtual time.
const (
	formationLimit = 3 * time.Minute
	settleLimit    = 6 * time.Minute
	settledFor     = 3 * time.Second
	quietFor       = 45 * time.Second
	minSteps       = 200 // of the shortest schedule
)

// Result is what became of a schedule.
type Result struct {
	Violation *Violation
	Steps     int
	Virtual   time.Duration
	Acks      int
	Lone      int
	Openings  int
	Trace     []string
}

// Run plays a schedule. The same schedule gives the same result.
func Run(s Schedule, rules *Rules, tracing bool) Result {
	w := newWorld(s.Setup, rules, tracing)
	if w.form() {
		w.play(s.Ops)
	}
	if w.failed == nil && s.Fair {
		w.settle()
	}
	for w.steps < minSteps && w.step() {
		continue
	}
	return Result{
		Violation: w.failed, Steps: w.steps, Virtual: w.now, Acks: w.judge.acks, Lone: w.judge.lone,
		Openings: w.judge.promotions, Trace: w.lines,
	}
}

// form registers the nodes and waits until the group is at work.
func (w *World) form() bool {
	w.mon.boot()
	w.clients()
	for n := range w.cfg.Nodes {
		h := w.hosts[n]
		h.up = true
		w.mon.register(h, w.cfg.Priorities[n], w.cfg.Async&(1<<n) == 0, w.cfg.Old&(1<<n) != 0)
		if n == 0 {
			if !w.runUntil(time.Minute, func() bool { return w.mon.rows[0].Stable(fsm.Single) }) {
				w.fail("L4", "the first node does not reach single: %s", w.describe())
				return false
			}
		}
	}
	if !w.runUntil(formationLimit, w.settledNow) {
		w.fail("L4", "the group does not form: %s", w.describe())
		return false
	}
	if w.cfg.NSS >= 0 && w.mon.nss != w.cfg.NSS {
		w.set(w.mon.rows[0], Op{Do: doNSS, N: w.cfg.NSS})
		if !w.runUntil(formationLimit, func() bool { return len(w.mon.intents) == 0 && w.settledNow() }) {
			w.fail("L4", "the group does not take number_sync_standbys: %s", w.describe())
			return false
		}
	}
	return w.failed == nil
}

// play lets the operations happen, each at its moment.
func (w *World) play(ops []Op) {
	for _, o := range ops {
		if o.On == onTime {
			w.run(o.Wait)
		} else {
			seen := w.counts[o.On]
			w.runUntil(o.Wait, func() bool { return w.counts[o.On] != seen })
		}
		if w.failed != nil {
			return
		}
		w.apply(o)
	}
}

// settle ends all faults; the group must find its way back.
func (w *World) settle() {
	if w.tracing {
		w.logf("--- everything is healed")
	}
	w.calmSince = w.now
	w.repair()
	deadline := w.now + settleLimit
	since := time.Duration(-1)
	for w.now < deadline {
		if !w.run(500 * time.Millisecond) {
			return
		}
		if !w.settledNow() {
			since = -1
			if (deadline-w.now)%(5*time.Second) < 500*time.Millisecond {
				w.helpOut(settleLimit - (deadline - w.now))
			}
			continue
		}
		if since < 0 {
			since = w.now
		}
		if w.now-since >= settledFor {
			w.quiet()
			return
		}
	}
	w.fail("L1", "the group does not settle within %s: %s", settleLimit, w.describe())
}

// helpOut is what an operator does for a group that cannot settle by itself.
func (w *World) helpOut(waited time.Duration) {
	m := w.mon
	electable := false
	for _, r := range m.rows {
		if r.Stable(fsm.Maintenance) || r.Stable(fsm.PrepareMaintenance) {
			m.ask(fsm.Intent{Kind: fsm.IntentStopMaintenance, Node: r.ID})
		}
		electable = electable || r.Priority > 0 && w.hosts[r.host].s.exists && (waited < time.Minute || r.Reported == fsm.ReportLSN)
	}
	for _, r := range m.rows {
		if !electable && w.hosts[r.host].s.exists && r.Priority == 0 && (waited < time.Minute || r.Reported == fsm.ReportLSN) {
			w.set(r, Op{Do: doPriority, N: 50})
			break
		}
	}
	if waited > 2*time.Minute && (len(w.judge.forced) > 0 || w.judge.dropped) && m.waiting != "" && !slices.ContainsFunc(m.intents, func(i fsm.Intent) bool { return i.AllowDataLoss }) {
		m.ask(fsm.Intent{Kind: fsm.IntentFailover, AllowDataLoss: true})
	}
}

// quiet: nothing happens to a settled group, so nothing is decided.
func (w *World) quiet() {
	goals, acks := w.judge.goals, w.judge.acks+w.judge.lone
	if !w.run(2 * time.Second) {
		return
	}
	if w.judge.acks+w.judge.lone == acks && w.anyData() {
		w.fail("L4", "the group has settled, but no commit is acknowledged: %s", w.describe())
		return
	}
	if w.cfg.Seed%4 == 0 && !w.run(quietFor) {
		return
	}
	if w.judge.goals != goals {
		w.fail("L8", "goals change in a settled group: %s", w.describe())
	}
}

// settledNow: the monitor's view is at rest, and the servers are as it says.
func (w *World) settledNow() bool {
	m := w.mon
	if len(m.intents) == 0 && !w.anyData() {
		return true
	}
	if len(m.intents) > 0 || m.record.Election != nil || m.record.Owner != 0 {
		return false
	}
	var p *row
	for _, r := range m.rows {
		if !r.Settled() || r.Goal == fsm.Dropped {
			return false
		}
		if r.Goal.Writable() {
			p = r
		}
	}
	if p == nil || !w.hosts[p.host].s.rw {
		return false
	}
	return w.standbysFollow(p)
}

// anyData: some node of the group has a whole data directory. A group whose
// data was removed on request has nothing to settle.
func (w *World) anyData() bool {
	for _, r := range w.mon.rows {
		if s := w.hosts[r.host].s; s.exists && !s.broken && s.consistent() {
			return true
		}
	}
	return false
}

// standbysFollow: everybody else is a secondary that streams from p.
func (w *World) standbysFollow(p *row) bool {
	s := w.hosts[p.host].s
	quorum := 0
	for _, r := range w.mon.rows {
		if r == p {
			continue
		}
		st := w.hosts[r.host].s.conn
		if r.Goal != fsm.Secondary || st == nil || st.up != s || !st.sending {
			return false
		}
		if r.Quorum {
			quorum++
		}
	}
	want := fsm.Primary
	if len(w.mon.rows) == 1 {
		want = fsm.Single
	}
	if c := &w.mon.coordinator; w.cfg.Worker && (c.prepared != 0 || c.owner != p.ID) {
		return false
	}
	l := w.mon.list()
	return p.Goal == want && sameList(s.listDisk, l) && sameList(s.force, l) && sameList(s.old, l) &&
		l.Empty() == (quorum == 0)
}

// describe tells where everybody is.
func (w *World) describe() string {
	var b strings.Builder
	for _, r := range w.mon.rows {
		h := w.hosts[r.host]
		fmt.Fprintf(&b, "node %d (%s): %s#%d/%s#%d keeper=%s", r.ID, h, r.Reported, r.Reached, r.Goal, r.GoalNumber, h.k.current)
		if wk := h.k.walk; wk != nil {
			fmt.Fprintf(&b, " walks %s->%s step %d", wk.from, wk.to, wk.i)
			if wk.i < len(wk.steps) {
				fmt.Fprintf(&b, " (%d.%d)", int(wk.steps[wk.i]), wk.part)
			}
		}
		fmt.Fprintf(&b, " running=%v tli=%d lsn=%s server=%d rw=%v;\n    ", r.PgIsRunning, r.TLI, r.LSN, h.s.state, h.s.rw)
	}
	fmt.Fprintf(&b, "%s; waiting: %q", recordText(w.mon.record), w.mon.waiting)
	for _, i := range w.mon.intents {
		fmt.Fprintf(&b, "; intent %s of node %d", i.Kind, i.Node)
	}
	return b.String()
}

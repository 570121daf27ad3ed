package sim

import (
	"fmt"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// primaryHost is the host of the node that the monitor takes for the primary, or nil.
func (w *World) primaryHost() *host {
	for _, r := range w.mon.rows {
		if r.Goal.Writable() {
			return w.hosts[r.host]
		}
	}
	return nil
}

// ownerHost is the host of the node that is being promoted, or nil.
func (w *World) ownerHost() *host {
	if r := w.mon.node(w.mon.record.Owner); r != nil {
		return w.hosts[r.host]
	}
	return nil
}

func (w *World) hostOf(n int) *host {
	if n < 1 {
		n = 1
	}
	return w.hosts[(n-1)%maxHosts]
}

// apply does what an operation says; what makes no sense now does nothing.
func (w *World) apply(o Op) {
	if w.tracing {
		w.logf("--- %s", o)
	}
	h := w.hostOf(o.A)
	switch o.Do {
	case doExpect:
		w.expect(o.A)
		return
	case doKillPrimary, doIsolatePrimary, doCrashPrimary, doStopPrimary, doFreezePrimary, doSickPrimary:
		if h = w.primaryHost(); h == nil {
			return
		}
	case doCrashOwner, doKillOwnerKeeper, doIsolateOwner:
		if h = w.ownerHost(); h == nil {
			return
		}
	default:
	}
	if o.Do < doKillDecider || o.Do >= doKillPrimary {
		w.calmSince = w.now
		w.disturb(h, o)
		return
	}
	if o.Do <= doCoordinatorUp {
		w.calmSince = w.now
		w.disturbMonitor(o)
		return
	}
	w.operate(h, o)
}

// expect checks which host has the group's one open primary; 0 for none.
func (w *World) expect(n int) {
	open := 0
	for _, r := range w.mon.rows {
		if r.Goal.Writable() && w.hosts[r.host].s.rw {
			open = r.host + 1
		}
	}
	if open != n {
		w.fail("expected", "host%d should be the primary, host%d is: %s", n, open, w.describe())
	}
}

// disturb injects or repairs a fault of a host or of the network.
func (w *World) disturb(h *host, o Op) {
	switch o.Do {
	case doCrash, doCrashPrimary, doCrashOwner:
		h.crash()
	case doBoot:
		h.boot()
	case doKillPostmaster:
		h.s.killPostmaster(time.Duration(o.N) * time.Millisecond)
	case doKillBoth, doKillPrimary:
		h.k.die()
		h.s.killPostmaster(time.Duration(o.N) * time.Millisecond)
	case doKillKeeper, doKillOwnerKeeper:
		h.k.die()
	case doStartKeeper:
		h.k.start()
	case doFreeze, doFreezePrimary:
		h.frozen = h.up
	case doSickPrimary:
		h.s.fallSick(o.N != 0)
	case doThaw:
		h.thaw()
	case doStop, doStopPrimary:
		if h.k.alive {
			h.k.frozen = true
		}
		h.s.pmFrozen = h.s.state == running
	case doContinue:
		h.unstop()
	case doIsolate, doIsolatePrimary, doIsolateOwner:
		for n := range maxHosts + 1 {
			w.net.cut(h.n, n)
			w.net.cut(n, h.n)
		}
	case doSlow:
		h.slow = max(1, o.N)
	case doForeignStart:
		if h.k.id != 0 {
			h.boot() // the distribution's own unit was left enabled, or somebody starts it by hand
			h.s.start()
		}
	case doCannotStart:
		h.s.cantStart = true
	case doCanStart:
		h.s.cantStart = false
	case doRepair:
		w.repair()
	default:
		w.disturbLinks(h, o)
	}
}

func (w *World) disturbLinks(h *host, o Op) {
	other := w.hostOf(o.B)
	switch o.Do {
	case doCutMonitor:
		w.net.cut(h.n, monitorHost)
		w.net.cut(monitorHost, h.n)
	case doCutPeers:
		for n := range maxHosts {
			w.net.cut(h.n, n)
			w.net.cut(n, h.n)
		}
	case doCutLink:
		w.net.cut(h.n, other.n)
		w.net.cut(other.n, h.n)
	case doCutOneWay:
		to := other.n
		if o.B == 0 {
			to = monitorHost
		}
		w.net.cut(h.n, to)
	case doCutOffMonitor:
		for n := range maxHosts {
			w.net.cut(monitorHost, n)
			w.net.cut(n, monitorHost)
		}
	case doHeal:
		w.net.healAll()
	case doLossy:
		for n := range maxHosts + 1 {
			w.net.lossy[h.n][n], w.net.lossy[n][h.n] = o.N, o.N
		}
	default:
	}
}

// unstop lets keeper and postmaster go on.
func (h *host) unstop() {
	if h.k.frozen {
		h.k.resume()
	}
	if h.s.pmFrozen {
		h.s.pmFrozen = false
		h.s.reload()
	}
}

// repair ends every fault.
func (w *World) repair() {
	w.net.healAll()
	for _, h := range w.hosts {
		h.slow = 1
		h.s.cantStart, h.s.sick = false, false
		if h.frozen {
			h.thaw()
		}
		h.unstop()
		if h.k.id != 0 {
			h.boot()
			h.k.start()
		}
	}
	w.mon.coordinator.down = false
	w.mon.boot()
	for _, p := range w.mon.procs {
		p.frozen = false
	}
	w.mon.procs[0].run()
}

func (w *World) disturbMonitor(o Op) {
	m := w.mon
	switch o.Do {
	case doKillDecider:
		if p := m.active(); p != nil {
			p.die()
		}
	case doStartDecider:
		m.procs[o.N&1].run()
	case doFreezeDecider:
		if p := m.active(); p != nil {
			p.frozen = true
		}
	case doThawDecider:
		for _, p := range m.procs {
			p.frozen = false
		}
	case doCrashMonitor:
		m.crash()
	case doBootMonitor:
		m.boot()
	case doEndDeciderSession:
		for _, p := range m.procs {
			if p.alive && p.holds {
				p.holds = false
				p.after(w.rng.between(0, time.Second), p.tryLock)
			}
		}
	case doCoordinatorDown:
		m.coordinator.down = true
	case doCoordinatorUp:
		m.coordinator.down = false
	default:
	}
}

// operate is what operators and clients do.
func (w *World) operate(h *host, o Op) {
	m := w.mon
	switch o.Do {
	case doWrite:
		w.traffic()
		return
	case doBurst:
		h.s.commit(burstSize)
		return
	case doRegister:
		if m.up && h.k.id == 0 {
			if !h.up {
				h.up = true
			}
			m.register(h, o.N, o.B == 0, false)
		}
		return
	default:
	}
	if !m.up {
		return
	}
	r := m.nodeAt(h.n)
	if r == nil {
		return
	}
	switch o.Do {
	case doFailover:
		m.ask(fsm.Intent{Kind: fsm.IntentFailover})
	case doAllowLoss:
		m.ask(fsm.Intent{Kind: fsm.IntentFailover, AllowDataLoss: true})
	case doPromotion:
		m.ask(fsm.Intent{Kind: fsm.IntentPromotion, Node: r.ID})
	case doMaintenance:
		m.ask(fsm.Intent{Kind: fsm.IntentStartMaintenance, Node: r.ID})
	case doEndMaintenance:
		m.ask(fsm.Intent{Kind: fsm.IntentStopMaintenance, Node: r.ID})
	case doDrop:
		m.ask(fsm.Intent{Kind: fsm.IntentRemove, Node: r.ID})
	case doForceDrop:
		m.removeByForce(r.ID)
	case doPriority, doQuorum, doNSS:
		w.set(r, o)
	default:
	}
}

// set changes a setting the way the SQL functions do: refused where they refuse.
func (w *World) set(r *row, o Op) {
	m := w.mon
	p := (*row)(nil)
	quorum := 0
	for _, x := range m.rows {
		if x.Goal.Writable() {
			p = x
		}
	}
	for _, x := range m.rows {
		if x != p && x.Quorum && x.Goal != fsm.Dropped {
			quorum++
		}
	}
	busy := p != nil && p.Reported == fsm.ApplySettings && p.Goal == fsm.ApplySettings
	if m.active() == nil || busy && len(m.rows) > 1 {
		return
	}
	var text string
	switch o.Do {
	case doPriority:
		r.Priority = o.N
		text = fmt.Sprintf("updating %s candidate priority to %d", &r.Node, o.N)
	case doQuorum:
		if p == nil || o.N == 0 && r != p && r.Quorum && m.nss > 0 && quorum-1 < m.nss+1 {
			return
		}
		r.Quorum = o.N != 0
		text = fmt.Sprintf("updating %s replication quorum to %v", &r.Node, r.Quorum)
	case doNSS:
		if p == nil || !p.Goal.In(fsm.Primary, fsm.WaitPrimary) || p.Reported != p.Goal || o.N > 0 && o.N+1 > quorum {
			return
		}
		m.nss = o.N
		text = fmt.Sprintf("updating number_sync_standbys to %d", o.N)
	default:
		return
	}
	if w.tracing {
		w.logf("operator: %s", text)
	}
	m.request(fsm.Intent{Kind: fsm.IntentSettings, Node: r.ID, Text: text})
}

// traffic is one commit on every server that takes it: there is a client
// beside each.
func (w *World) traffic() {
	for _, h := range w.hosts {
		h.s.commit(recordSize)
	}
}

// clients keeps writing.
func (w *World) clients() {
	w.traffic()
	w.after(w.rng.between(100*time.Millisecond, 500*time.Millisecond), w.clients)
}

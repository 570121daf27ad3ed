package sim

import (
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

const (
	sweepEvery   = time.Second
	probeEvery   = time.Second
	probeTimeout = time.Second
	probeRetry   = 100 * time.Millisecond
	probeTries   = 3
	lockLook     = 100 * time.Millisecond
	// A process that heard nobody for quietAfter takes that for its own silence,
	// at most every quietAgain.
	quietAfter = 2 * time.Second
	quietAgain = 10 * time.Second
)

// row is a node as the monitor's database has it.
type row struct {
	fsm.Node
	host    int
	reports int64 // counts calls, as reporttime does
	seq     int64 // the last report's number: a late one is dropped
	old     bool  // a client that connects per call and holds no session
}

// monitor is the model of the monitor's host: its database and the processes
// that decide.
type monitor struct {
	w  *World
	up bool

	// The database.
	rows       []*row
	record     fsm.Record
	intents    []fsm.Intent
	nss        int
	waiting    string
	lastNode   int64
	lastIntent int64
	sessions   map[int64]int // held session locks, by node; the value tells connections apart
	decider    int64         // number of the process that may decide

	procs       [2]*process
	coordinator struct {
		owner, prepared int64
		down            bool
	}
}

// process is one monitor process. What it has seen is on its own clock and
// does not outlive it.
type process struct {
	m       *monitor
	n       int
	alive   bool
	frozen  bool
	gen     int
	start   time.Duration
	lastRun time.Duration
	holds   bool // the decider lock
	known   map[int64]*sight
	// heard is when anybody was last heard, excused when a silence was last
	// taken for the process's own.
	heard, excused time.Duration
}

// sight is what a process saw of a node.
type sight struct {
	reports                        int64
	seen, goalAt, repAt, streamAt  time.Duration
	healthAt                       time.Duration
	goalNumber                     int64
	reported                       fsm.State
	streaming                      fsm.Streaming
	held, lost, keeper             bool // the session lock is there; went; was ever there
	healthKnown, probing, everSeen bool
	probes                         int // counts what makes the outcome of a probe under way void
}

func (k *sight) session() fsm.Session {
	switch {
	case k.lost:
		return fsm.SessionLost
	case k.keeper:
		return fsm.SessionHeld
	}
	return fsm.SessionNone
}

// restart forgets how long a node was silent and what its probes said.
func (k *sight) restart(now time.Duration) {
	if k.everSeen {
		k.seen = now
	}
	k.healthKnown, k.held, k.lost = false, false, false
	k.probes++
}

func newMonitor(w *World) *monitor {
	m := &monitor{w: w, sessions: map[int64]int{}}
	for n := range m.procs {
		m.procs[n] = &process{m: m, n: n}
	}
	return m
}

// answers reports whether the monitor's server takes statements.
func (m *monitor) answers() bool { return m.up }

func (m *monitor) node(id int64) *row {
	for _, r := range m.rows {
		if r.ID == id {
			return r
		}
	}
	return nil
}

func (m *monitor) nodeAt(host int) *row {
	for _, r := range m.rows {
		if r.host == host {
			return r
		}
	}
	return nil
}

// list is what synchronous_standby_names() answers: the last list ordered.
func (m *monitor) list() fsm.List {
	if m.w.rules.Broken == LoneOrder && m.record.Election != nil {
		return fsm.List{Primary: m.record.Primary}
	}
	if n := len(m.record.Lists); n > 0 {
		return m.record.Lists[n-1]
	}
	return fsm.List{}
}

// primaryHost is get_primary: the node with a writable goal, else one on its way out.
func (m *monitor) primaryHost() int {
	host := -1
	for _, r := range m.rows {
		switch {
		case r.Goal == fsm.Dropped:
		case r.Goal.Writable():
			return r.host
		case r.Reported.BelongsToPrimary():
			host = r.host
		}
	}
	return host
}

// mostAdvanced is get_most_advanced_standby: for a candidate, the source that
// was chosen with it.
func (m *monitor) mostAdvanced(caller int64) int {
	var best *row
	if e := m.record.Election; e != nil && e.Source != 0 && m.record.Owner == caller {
		if r := m.node(e.Source); r != nil {
			return r.host
		}
	}
	for _, r := range m.rows {
		if r.ID != caller && r.Reported == fsm.ReportLSN && r.Goal != fsm.Dropped &&
			(best == nil || r.TLI > best.TLI || r.TLI == best.TLI && r.LSN > best.LSN) {
			best = r
		}
	}
	if best == nil {
		return -1
	}
	return best.host
}

// report stores a report and answers with the goal stored at its commit.
func (m *monitor) report(h *host, r report, session int) answer {
	n := m.node(r.id)
	if n == nil {
		return answer{unknown: true}
	}
	w := m.w
	if r.seq <= n.seq {
		return m.answer(n) // a newer one was there first
	}
	n.seq = r.seq
	if !n.old {
		m.sessions[r.id] = session
	}
	if r.state == fsm.ReportLSN && r.lsn == 0 && w.rules.Broken != VoteWithoutPosition {
		r.reached = n.Reached // a final report without a position is none
	}
	w.judge.reported(h, n, r)
	changed := n.Reported != r.state || n.Reached != r.reached || n.PgIsRunning != r.running ||
		n.CleanStop != r.cleanStop || n.Streaming != r.streaming || n.SyncState != r.syncState || !n.Settled()
	stateChanged := n.Reported != r.state || n.Reached != r.reached
	if w.tracing && (stateChanged || n.PgIsRunning != r.running || n.Streaming != r.streaming) {
		w.logf("monitor: node %d reports %s #%d running=%v tli=%d lsn=%s streaming=%d clean=%v (goal %s #%d)", r.id, r.state, r.reached, r.running, r.tli, r.lsn, r.streaming, r.cleanStop, n.Goal, n.GoalNumber)
	}
	n.Reported, n.Reached, n.PgIsRunning = r.state, r.reached, r.running
	if r.tli != 0 {
		changed = changed || n.TLI != r.tli
		n.TLI = r.tli
	}
	if r.lsn != 0 {
		n.LSN = r.lsn
		if w.rules.Broken == ShutdownIgnored && r.cleanStop {
			n.LSN = firstLSN
		}
	}
	n.CleanStop, n.Streaming, n.SyncState = r.cleanStop, r.streaming, r.syncState
	if r.history != nil {
		n.History = r.history
	}
	n.reports++
	if p := m.active(); p != nil {
		p.look(n)
	}
	if changed {
		m.wake()
		w.happened(onReport)
	}
	return m.answer(n)
}

func (m *monitor) answer(n *row) answer {
	a := answer{goal: n.Goal, number: n.GoalNumber, grant: m.record.Granted(n.ID), peers: make([]peer, 0, len(m.rows))}
	for _, r := range m.rows {
		if r.ID != n.ID && r.Goal != fsm.Dropped {
			a.peers = append(a.peers, peer{r.ID, r.host, r.Goal, r.LSN})
			a.mask |= 1 << uint(r.ID)
		}
	}
	return a
}

// sessionEnded: the server found out that a keeper's connection is gone.
func (m *monitor) sessionEnded(id int64, session int) {
	if held, ok := m.sessions[id]; ok && held == session {
		m.releaseSession(id)
	}
}

func (m *monitor) releaseSession(id int64) {
	if _, ok := m.sessions[id]; ok {
		delete(m.sessions, id)
		m.w.after(m.w.rng.between(0, lockLook), func() {
			if p := m.active(); p != nil {
				p.decide()
				if n := m.node(id); n != nil {
					p.probe(n, true)
				}
			}
		})
	}
}

// wake tells the deciding process that something changed.
func (m *monitor) wake() {
	m.w.after(m.w.rng.delay(500*time.Microsecond), func() {
		if p := m.active(); p != nil {
			p.decide()
		}
	})
}

// active is the process that may decide and can.
func (m *monitor) active() *process {
	for _, p := range m.procs {
		if p.holds && p.alive && !p.frozen && m.up {
			return p
		}
	}
	return nil
}

// boot starts the monitor's host with its first process.
func (m *monitor) boot() {
	if m.up {
		return
	}
	m.up = true
	m.procs[0].run()
}

// crash ends database and processes; what was committed stays.
func (m *monitor) crash() {
	if !m.up {
		return
	}
	m.up = false
	clear(m.sessions)
	for _, p := range m.procs {
		p.die()
	}
}

// run starts a monitor process; it waits for the lock of the decider.
func (p *process) run() {
	if p.alive || !p.m.up {
		return
	}
	p.gen++
	p.alive, p.frozen = true, false
	p.tryLock()
}

func (p *process) die() {
	p.gen++
	p.alive, p.frozen, p.holds = false, false, false
}

// after schedules fn in the life of this process; a process that stands still
// does it when it goes on.
func (p *process) after(d time.Duration, fn func()) {
	gen := p.gen
	var due func()
	due = func() {
		switch {
		case p.gen != gen:
		case p.frozen:
			p.m.w.after(50*time.Millisecond, due)
		default:
			fn()
		}
	}
	p.m.w.after(d, due)
}

func (p *process) tryLock() {
	if p.holds {
		return
	}
	for _, other := range p.m.procs {
		if other != p && other.holds {
			p.after(200*time.Millisecond, p.tryLock)
			return
		}
	}
	p.holds = true
	p.m.decider++
	now := p.m.w.now
	p.start, p.lastRun = now, now
	p.heard, p.excused = now, now-quietAgain
	p.known = map[int64]*sight{}
	if p.m.w.tracing {
		p.m.w.logf("monitor: process %d decides from now on", p.n+1)
	}
	p.sweep()
	p.probeRound()
}

// sweep looks at everything once a second, and at its own lateness first.
func (p *process) sweep() {
	if !p.holds {
		return
	}
	now := p.m.w.now
	if now-p.lastRun >= sweepEvery+time.Second {
		p.restart()
	}
	p.lastRun = now
	p.decide()
	p.after(sweepEvery, p.sweep)
}

func (p *process) restart() {
	for _, k := range p.known {
		k.restart(p.m.w.now)
	}
}

// word notes that a node was heard. The first word after a silence of all starts
// the clocks of all again.
func (p *process) word() {
	now := p.m.w.now
	if now-p.heard >= quietAfter && now-p.excused >= quietAgain {
		p.excused = now
		p.restart()
	}
	p.heard = now
}

// look returns what the process saw of a node, after a fresh look.
func (p *process) look(r *row) *sight {
	now := p.m.w.now
	k := p.known[r.ID]
	if k == nil {
		k = &sight{
			reports: r.reports, goalAt: now, repAt: now, streamAt: now, goalNumber: r.GoalNumber,
			reported: r.Reported, streaming: r.Streaming, keeper: !r.old && r.reports > 0,
		}
		p.known[r.ID] = k
	}
	if k.reports != r.reports {
		p.word()
		k.reports, k.seen, k.everSeen = r.reports, now, true
	}
	if k.goalNumber != r.GoalNumber {
		k.goalNumber, k.goalAt = r.GoalNumber, now
	}
	if k.reported != r.Reported {
		k.reported, k.repAt = r.Reported, now
	}
	if k.streaming != r.Streaming {
		k.streaming, k.streamAt = r.Streaming, now
	}
	if _, held := p.m.sessions[r.ID]; held {
		k.held, k.lost, k.keeper = true, false, true
	} else if k.held {
		k.held, k.lost = false, true
	}
	return k
}

// probeRound probes every node once a second.
func (p *process) probeRound() {
	if !p.holds {
		return
	}
	for _, r := range p.m.rows {
		p.probe(r, false)
	}
	p.after(probeEvery, p.probeRound)
}

// probe asks a node's server for an answer. Probes of one node never overlap.
func (p *process) probe(r *row, urgent bool) {
	k := p.look(r)
	if k.probing || r.Goal == fsm.Dropped && !urgent {
		return
	}
	k.probing = true
	id, host, probes := r.ID, r.host, k.probes
	verdict := func(health fsm.Health) {
		k.probing = false
		if !p.m.up || k.probes != probes {
			return
		}
		n := p.m.node(id)
		if n == nil || p.known[id] != k {
			return
		}
		changed := n.Health != health || !k.healthKnown
		n.Health, k.healthAt, k.healthKnown = health, p.m.w.now, true
		if changed && p.m.active() == p {
			if p.m.w.tracing {
				p.m.w.logf("monitor: probe of node %d says %d", id, health)
			}
			p.decide()
		}
	}
	p.attempt(host, 1, verdict)
}

// attempt is one try of a probe.
func (p *process) attempt(host, try int, verdict func(fsm.Health)) {
	w := p.m.w
	h := w.hosts[host]
	s := h.s
	p.after(w.rng.delay(time.Millisecond), func() {
		switch {
		case !w.net.both(monitorHost, host) || !h.up || h.frozen || s.pmFrozen:
			if try < probeTries {
				p.after(probeTimeout+probeRetry, func() { p.attempt(host, try+1, verdict) })
			} else {
				p.after(probeTimeout, func() { verdict(fsm.HealthBad) })
			}
		case s.state == down || s.state == orphaned:
			if try < 2 {
				p.after(probeRetry, func() { p.attempt(host, try+1, verdict) })
			} else {
				verdict(fsm.HealthBad)
			}
		default:
			verdict(fsm.HealthGood)
		}
	})
}

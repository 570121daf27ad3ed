package sim

import (
	"slices"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// The keeper's own clocks.
const (
	tickEvery        = time.Second
	patience         = 3 * time.Second // for an answer of the monitor
	statementTimeout = 2 * time.Second // of the monitor's server: shorter than patience
	partitionTimeout = 20 * time.Second
	restartLimit     = 20 * time.Second
	restartTries     = 3
	stopLimit        = 10 * time.Second
)

// peer is another node as the monitor last described it.
type peer struct {
	id   int64
	host int
	goal fsm.State
	lsn  pg.LSN
}

// keeper is a model of a keeper: it performs the real edges on a model server.
type keeper struct {
	h *host
	w *World

	// In the state file.
	id      int64
	current fsm.State

	// In memory.
	alive    bool
	frozen   bool
	gen      int
	deferred []func()
	known    bool // has heard a goal since it started or fenced itself
	goal     fsm.State
	number   int64
	grant    pg.Timeline // the timeline to begin
	reached  int64
	fresh    bool // just started: what current promises is to be established again
	away     bool // an edge away from current was begun and given up
	walk     *walk
	busy     bool // a report is under way
	again    bool // and another is wanted
	session  int
	seq      int64
	last     report

	peers       []peer
	mask        uint64
	startedAt   time.Duration
	resumedAt   time.Duration
	contact     time.Duration // when the last answered report was sent
	standbys    time.Duration // when enough standbys last gave a sign of life
	failures    int
	firstFailed time.Duration
	hungSince   time.Duration
	sickSince   time.Duration
	noEdgeSince time.Duration // when it was first told a goal without an edge; 0 for not at all
	fences      int
}

func newKeeper(h *host) *keeper { return &keeper{h: h, w: h.w, current: fsm.Init} }

// after schedules work in the life of this process.
func (k *keeper) after(d time.Duration, fn func()) { k.h.work(d, k.alarm, fn) }

// alarm schedules by the clock.
func (k *keeper) alarm(d time.Duration, fn func()) {
	gen := k.gen
	k.h.alarm(d, func() {
		switch {
		case k.gen != gen:
		case k.frozen:
			k.deferred = append(k.deferred, fn)
		default:
			fn()
		}
	})
}

// start runs the keeper's process: after a boot, or by the service manager.
func (k *keeper) start() {
	if k.alive || !k.h.up || k.id == 0 {
		return
	}
	k.gen++
	k.alive, k.frozen, k.deferred = true, false, nil
	k.known, k.fresh, k.away = false, true, false
	k.walk, k.busy, k.again = nil, false, false
	k.reached = 0
	k.startedAt, k.contact, k.standbys = k.w.now, k.w.now, k.w.now
	k.failures, k.firstFailed, k.hungSince, k.sickSince, k.noEdgeSince = 0, 0, 0, 0, 0
	k.last = report{}
	if k.w.tracing {
		k.w.logf("%s: keeper starts in %s", k.h, k.current)
	}
	if fsm.DutyOf(k.current).Postgres == fsm.PowerStopped && k.h.s.state != down {
		k.h.s.stopFast()
	}
	k.tick()
}

// die ends the process; the server goes on.
func (k *keeper) die() {
	if !k.alive {
		return
	}
	k.gen++
	k.alive, k.frozen, k.deferred, k.walk = false, false, nil, nil
	k.closeSession()
}

// closeSession: the monitor's server hears of it, or finds out late.
func (k *keeper) closeSession() {
	id, session := k.id, k.session
	release := func() { k.w.mon.sessionEnded(id, session) }
	late := k.w.net.giveUp()
	if !k.h.up {
		k.w.after(late, release)
		return
	}
	k.w.net.send(k.h.n, monitorHost, late, release, release)
}

// resume lets a stopped process go on.
func (k *keeper) resume() {
	k.frozen = false
	k.resumedAt = k.w.now
	due := k.deferred
	k.deferred = nil
	for _, fn := range due {
		k.after(k.h.rng.between(0, 3*time.Millisecond), fn)
	}
}

func (k *keeper) tick() {
	if k.id == 0 {
		return
	}
	k.watchStandbys()
	k.fence()
	k.report()
	k.alarm(tickEvery+k.h.rng.between(0, 20*time.Millisecond), k.tick)
}

// call asks the monitor's server; exactly one of answered and failed happens,
// unless the process dies first.
func (k *keeper) call(query func() func(), failed func()) {
	w, done := k.w, false
	sent := w.now
	gen := k.gen
	finish := func(how func()) {
		if k.gen != gen {
			return // an answer for a process that is gone
		}
		k.after(0, func() {
			if !done {
				done = true
				how()
			}
		})
	}
	k.alarm(patience, func() { finish(failed) })
	gone := func() { w.net.send(monitorHost, k.h.n, patience, func() { finish(failed) }, nil) }
	w.net.send(k.h.n, monitorHost, statementTimeout, func() {
		if k.gen != gen && !k.h.rng.chance(50) {
			return // the connection was reset before the statement arrived
		}
		if !w.mon.answers() {
			gone()
			return
		}
		if w.now-sent > statementTimeout {
			return
		}
		answer := query()
		if w.rng.chance(w.cfg.LostReplies) {
			return // committed, but nobody hears of it
		}
		w.net.send(monitorHost, k.h.n, patience, func() { finish(answer) }, nil)
	}, nil)
}

// report is one call of keeper_report.
type report struct {
	id        int64
	seq       int64
	state     fsm.State
	reached   int64
	running   bool
	tli       pg.Timeline
	lsn       pg.LSN
	cleanStop bool
	streaming fsm.Streaming
	syncState string
	history   pg.History
}

// answer is what keeper_report returns, with what the keeper asks beside it.
type answer struct {
	unknown bool
	goal    fsm.State
	number  int64
	grant   pg.Timeline
	peers   []peer
	mask    uint64
}

// snapshot is what the keeper would report now.
func (k *keeper) snapshot() report {
	s := k.h.s
	r := report{id: k.id, state: k.current, reached: k.reached, running: k.running()}
	if !s.exists || s.end.b == nil {
		return r
	}
	switch {
	case s.answers():
		k.position(&r)
	case s.sick && s.state == running && k.current.Writable():
		r.streaming = fsm.StreamingNo
	case s.state == down && s.clean && !k.current.Writable():
		r.lsn, r.tli, r.cleanStop = s.cleanAt, s.end.b.tli, true
		r.history = s.end.b.history()
	}
	return r
}

// position is what a server that answers says of its WAL.
func (k *keeper) position(r *report) {
	s := k.h.s
	r.lsn, r.tli = s.lsnReported(), s.end.b.tli
	if s.recovery {
		r.streaming = fsm.StreamingNo
		if s.conn != nil {
			r.streaming = fsm.StreamingYes
		}
	} else if len(s.senders) > 0 {
		r.syncState = "async"
		if !s.force.Empty() {
			r.syncState = "quorum"
		}
	}
	r.history = s.end.b.history()
}

// running is pg_is_running as reported: a primary whose restart is still being
// tried counts as running.
func (k *keeper) running() bool {
	s := k.h.s
	if s.pmFrozen {
		return k.hungSince == 0 || k.w.now-k.hungSince < restartLimit
	}
	if s.state == running && s.sick {
		return k.current.Writable() && (k.sickSince == 0 || k.w.now-k.sickSince < restartLimit)
	}
	if s.state == running {
		return true
	}
	if !k.current.Writable() {
		return false
	}
	return k.failures < restartTries && (k.firstFailed == 0 || k.w.now-k.firstFailed < restartLimit)
}

func (k *keeper) report() {
	if !k.alive || k.id == 0 {
		return
	}
	if k.busy {
		k.again = true
		return
	}
	k.busy, k.again = true, false
	r, sent := k.snapshot(), k.w.now
	k.seq++
	r.seq = k.seq
	session := k.session
	k.w.judge.reporting(k, r)
	k.call(func() func() {
		a := k.w.mon.report(k.h, r, session)
		return func() { k.answered(a, r, sent) }
	}, k.unanswered)
}

func (k *keeper) unanswered() {
	k.busy = false
	k.closeSession()
	k.session++
}

func (k *keeper) answered(a answer, r report, sent time.Duration) {
	k.busy = false
	k.last = r
	k.contact = sent
	if k.w.rules.Broken == ContactWhenAnswered {
		k.contact = k.w.now
	}
	if a.unknown {
		k.removed()
		return
	}
	if k.goal != a.goal || k.number != a.number || !k.known {
		k.noEdgeSince = 0
	}
	k.known, k.goal, k.number, k.grant = true, a.goal, a.number, a.grant
	k.peers, k.mask = a.peers, a.mask
	k.act()
	k.enforce()
	if k.again {
		k.report()
	}
}

// notified: a goal was announced on the keeper's session.
func (k *keeper) notified() {
	if k.alive {
		k.after(k.h.rng.delay(time.Millisecond), k.report)
	}
}

// removed: the monitor does not know this node any more. The server is stopped.
func (k *keeper) removed() {
	if k.current == fsm.Dropped {
		k.leave()
		return
	}
	k.goal, k.number, k.known = fsm.Dropped, -1, true
	k.act()
}

// leave ends a node that was dropped; its host may register again.
func (k *keeper) leave() {
	k.gen++
	k.alive, k.walk = false, nil
	k.closeSession()
	k.id, k.current = 0, fsm.Init
	k.h.s.vanish() // what is on its disk stays there
}

// forget removes the data directory.
func (s *server) forget() {
	s.vanish()
	h, w, gen := s.h, s.w, s.gen
	*s = server{h: h, w: w, gen: gen + 1, upDisk: nowhere, upLive: nowhere}
}

// serverChanged: something about the local server is new. Part of the monitor's
// speed: the keeper says so at once, and restarts a crashed server on the spot.
func (k *keeper) serverChanged() {
	if !k.alive {
		return
	}
	k.after(k.h.rng.delay(time.Millisecond), func() {
		if k.w.now-k.contact < partitionTimeout && k.known {
			k.enforce()
		}
		now := k.snapshot()
		if now.state != k.last.state || now.running != k.last.running || now.streaming != k.last.streaming || now.reached != k.last.reached {
			k.report()
		}
	})
}

// enforce has the server in the condition that the node's state demands.
func (k *keeper) enforce() {
	s := k.h.s
	if s.pmFrozen && k.hungSince == 0 {
		k.hungSince = k.w.now
	} else if !s.pmFrozen {
		k.hungSince = 0
	}
	if s.sick && s.state == running && k.sickSince == 0 {
		k.sickSince = k.w.now
	} else if !s.sick {
		k.sickSince = 0
	}
	if k.walk != nil || k.current != k.goal || !k.known {
		return
	}
	duty := fsm.DutyOf(k.current)
	switch duty.Postgres {
	case fsm.PowerRunning:
		k.restart()
	case fsm.PowerStopped:
		s.stopFast()
	case fsm.PowerUntouched:
	}
	if duty.Slots && s.state == running {
		s.slots = k.mask
	}
}

// restart starts a server that should run, and counts the failures.
func (k *keeper) restart() {
	s := k.h.s
	switch {
	case s.state == running:
		k.failures, k.firstFailed = 0, 0
	case s.state == down && s.cantStart:
		k.failures++
		if k.firstFailed == 0 {
			k.firstFailed = k.w.now
		}
	case s.state == down:
		s.dropSkipped()
		s.start()
	}
}

// watchStandbys keeps the time of the standbys' last sign of life.
func (k *keeper) watchStandbys() {
	s := k.h.s
	if s.state != running || s.recovery || s.pmFrozen || s.sick {
		return
	}
	counted := func(id int64) bool {
		return slices.ContainsFunc(k.peers, func(p peer) bool { return p.id == id && p.goal == fsm.Secondary })
	}
	if at := s.contact(s.listDisk, counted); at > k.standbys {
		k.standbys = at
	}
}

// mayFence reports whether this node can be replaced without its own word, so
// that it must stop by itself once it is cut off.
func (k *keeper) mayFence() bool {
	switch k.w.rules.Broken {
	case NoFence:
		return false
	case LonelyFence:
		return k.current.Writable()
	default:
	}
	alone := k.h.s.listDisk.Empty()
	if k.current == fsm.WaitPrimary {
		return !alone
	}
	if alone && k.goal.In(fsm.Single, fsm.WaitPrimary) {
		return false // ordered to go on alone, and not yet there
	}
	return k.current.In(fsm.Primary, fsm.ApplySettings, fsm.JoinPrimary)
}

// fence stops a primary that has lost the monitor and its standbys.
func (k *keeper) fence() {
	if !k.mayFence() || k.h.s.state == down || k.walk != nil && k.walk.local {
		return
	}
	if k.w.now-k.contact <= partitionTimeout || k.w.now-k.standbys <= partitionTimeout {
		return
	}
	k.w.judge.fencing(k)
	k.fences++
	if k.w.tracing {
		k.w.logf("%s: cut off, fences itself", k.h)
	}
	k.known = false
	k.begin(&walk{from: k.current, to: fsm.DemoteTimeout, steps: []fsm.Step{fsm.StepStopNow, fsm.StepSeal}, local: true})
}

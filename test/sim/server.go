package sim

import (
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// power is what a model server's processes are doing.
type power int

const (
	down power = iota
	starting
	running
	stopping // clients are gone, the shutdown checkpoint is written, walsenders finish
	orphaned // the postmaster is gone, its children are not
)

// upstream is where a standby streams from, and under which name.
type upstream struct {
	host int // -1 for none
	node int64
}

var nowhere = upstream{host: -1}

// server is a model of one PostgreSQL server: what is on its disk and what
// its processes believe.
type server struct {
	h *host
	w *World

	// On disk.
	exists   bool
	broken   bool // a rewind was killed half-way: nothing starts from here
	end      position
	signal   bool     // standby.signal
	sealed   bool     // it ran as a primary, and signal is only there to make it harmless
	upDisk   upstream // primary_conninfo
	listDisk fsm.List // synchronous_standby_names
	gateDisk bool     // HBA lets nobody in
	slots    uint64   // node ids with a slot and HBA rules
	clean    bool     // pg_control says: shut down
	cleanAt  pg.LSN   // location of the shutdown checkpoint
	needs    position // not consistent before this has been replayed
	// newest is the highest timeline with a history file, from that of end on
	// without a gap; those above known are of timelines that nobody began.
	newest, known pg.Timeline

	// In the processes.
	state      power
	gen        int
	recovery   bool
	promoting  bool
	pmFrozen   bool
	gate       bool
	upLive     upstream
	shown      fsm.List // what a new connection sees
	old, force fsm.List // what walsenders and checkpointer go by: both while they take notice
	noticing   int      // generation of the pending notice
	replayed   pg.LSN
	received   pg.LSN // what the receiver says: zero before the first
	conn       *stream
	trying     int // the run in which an attempt to connect is due
	senders    []*stream
	waiting    []pg.LSN // commits that wait for standbys
	rw         bool
	deadSince  time.Duration
	cantStart  bool
	sick       bool // every new connection is answered with an error, and stays so until the data directory is another one
}

func newServer(h *host) *server {
	return &server{h: h, w: h.w, upDisk: nowhere, upLive: nowhere}
}

// after schedules fn in the life of this run of the server.
func (s *server) after(d time.Duration, fn func()) {
	gen := s.gen
	s.h.after(d, func() {
		if s.gen == gen {
			fn()
		}
	})
}

// answers reports whether a new local connection gets an answer.
func (s *server) answers() bool {
	return s.state == running && !s.pmFrozen && !s.sick && (!s.recovery || s.consistent())
}

func (s *server) consistent() bool { return s.needs.b == nil || s.end.holds(s.needs) }

// alive reports whether backends and walsenders can be at work.
func (s *server) alive() bool {
	return (s.state == running || s.state == orphaned) && s.h.up && !s.h.frozen
}

// start begins a start of the server; it takes a while.
func (s *server) start() {
	if s.state != down || !s.exists || s.broken || s.signal && s.newest > max(s.known, s.end.b.tli) {
		return // the last one refuses: the line to follow would not be a child of its own
	}
	s.gen++
	s.state = starting
	s.pmFrozen = false
	delay := s.h.rng.delay(40 * time.Millisecond)
	if !s.clean {
		delay += s.h.rng.delay(60 * time.Millisecond)
	}
	s.after(delay, s.started)
}

func (s *server) started() {
	s.state = running
	s.recovery = s.signal
	s.promoting = false
	s.shown, s.old, s.force = s.listDisk, s.listDisk, s.listDisk
	s.upLive = s.upDisk
	s.gate = s.gateDisk
	s.waiting = s.waiting[:0]
	s.received = 0
	if s.recovery {
		s.replayed = pg.LSN(0)
		s.replayTail()
		s.connect(0)
	} else {
		if !s.clean {
			s.append(recordSize) // end-of-recovery checkpoint
		}
		s.replayed = s.end.at
	}
	s.clean, s.cleanAt = false, 0
	s.refresh()
	if s.w.tracing {
		s.w.logf("%s: server up, recovery=%v tli=%d lsn=%s list=%s", s.h, s.recovery, s.end.b.tli, s.end.at, s.listDisk.StandbyNames())
	}
	s.h.k.serverChanged()
}

// replayTail lets the startup process catch up with what is on disk.
func (s *server) replayTail() {
	s.after(s.h.rng.delay(4*time.Millisecond), func() {
		if s.recovery {
			s.replayed = s.end.at
		}
	})
}

// append writes WAL; only a server out of recovery does.
func (s *server) append(size pg.LSN) {
	if s.end.at != s.end.b.end && s.end.b.end > s.end.at {
		s.w.fail("model", "%s writes branch %d at %s, which goes on to %s", s.h, s.end.b.id, s.end.at, s.end.b.end)
	}
	s.end.at += size
	s.end.b.end = s.end.at
	s.replayed = s.end.at
	s.pumpAll()
}

// vanish ends everything at once: kill -9 of all, or the power is gone.
func (s *server) vanish() {
	if s.state == down {
		return
	}
	s.gen++
	s.state = down
	s.pmFrozen = false
	s.waiting = s.waiting[:0]
	s.promoting = false
	s.deadSince = s.w.now
	if s.conn != nil {
		s.conn.closeReceiver()
	}
	for _, st := range append([]*stream(nil), s.senders...) {
		st.closeSender()
	}
	s.refresh()
	s.w.happened(onDown)
}

// killPostmaster leaves the children running for a while.
func (s *server) killPostmaster(children time.Duration) {
	if s.state != running {
		if s.state != down && s.state != orphaned {
			s.vanish()
			s.h.k.serverChanged()
		}
		return
	}
	s.gen++
	s.state = orphaned
	s.promoting = false
	s.pmFrozen = false
	gen := s.gen
	s.h.alarm(children, func() {
		if s.gen == gen {
			s.vanish()
			s.h.k.serverChanged()
		}
	})
	s.h.k.serverChanged()
}

// stopFast asks for a fast shutdown: clients are ended, the shutdown
// checkpoint is written, and walsenders get it to whoever still listens.
func (s *server) stopFast() {
	if s.state != running {
		if s.state == starting {
			s.vanish()
		}
		return
	}
	s.gen++
	s.state = stopping
	s.waiting = s.waiting[:0]
	s.pmFrozen = false
	s.refresh()
	if s.recovery || s.sick { // a sick one writes no checkpoint
		if s.conn != nil {
			s.conn.closeReceiver()
		}
		s.after(s.h.rng.delay(10*time.Millisecond), s.vanish)
		return
	}
	s.after(s.h.rng.delay(10*time.Millisecond), func() {
		s.clean, s.cleanAt = true, s.end.at
		s.append(recordSize)
		s.after(10*time.Millisecond, s.finishStop)
	})
}

// finishStop waits for the walsenders, as a fast shutdown does.
func (s *server) finishStop() {
	for _, st := range s.senders {
		if st.flushed < s.end.at {
			s.after(20*time.Millisecond, s.finishStop)
			return
		}
	}
	s.vanish()
}

// reload makes the running server read its settings.
func (s *server) reload() {
	if s.state != running || s.pmFrozen {
		return
	}
	s.after(s.h.rng.delay(time.Millisecond), func() {
		if s.state != running {
			return
		}
		s.setGate(s.gateDisk)
		s.shownList(s.listDisk)
		if s.upLive != s.upDisk {
			s.upLive = s.upDisk
			if s.conn != nil {
				st := s.conn
				s.after(s.h.rng.delay(2*time.Millisecond), func() {
					st.closeReceiver()
					s.connect(s.h.rng.delay(5 * time.Millisecond))
				})
			} else {
				s.connect(0)
			}
		}
	})
}

func (s *server) setGate(closed bool) {
	if s.gate == closed {
		return
	}
	s.gate = closed
	if closed {
		s.waiting = s.waiting[:0] // the sessions that waited are ended
	}
	s.refresh()
}

// shownList is what a new connection sees from now on; walsenders and the
// checkpointer take notice at a time of their own.
func (s *server) shownList(l fsm.List) {
	if sameList(s.shown, l) && s.shown.Number == l.Number {
		return
	}
	s.shown = l
	s.force = l
	s.noticing++
	n := s.noticing
	s.after(s.h.rng.delay(30*time.Millisecond), func() {
		if s.noticing == n {
			s.noticed()
		}
	})
	s.w.happened(onList)
	s.checkAcks()
}

// noticed: every process goes by the new list.
func (s *server) noticed() {
	s.old = s.force
	s.checkAcks()
}

// checkpoint makes the checkpointer go round once.
func (s *server) checkpoint() {
	if s.state != running || s.sick {
		return
	}
	if !s.recovery {
		s.append(recordSize)
	}
	s.noticed()
}

// promote begins a promotion: the receiver ends, local WAL is replayed, and a
// new branch begins.
func (s *server) promote() {
	if s.promoting || !s.recovery || s.state != running {
		return
	}
	s.promoting = true
	s.upLive = nowhere
	if s.conn != nil {
		s.conn.closeReceiver()
	}
	s.after(s.h.rng.delay(30*time.Millisecond), func() {
		from := s.end
		s.recovery, s.promoting, s.signal = false, false, false
		s.end = position{s.w.newBranch(from, max(s.newest, from.b.tli)+1), from.at}
		s.newest, s.known = s.end.b.tli, s.end.b.tli
		s.needs = position{}
		s.append(recordSize)
		if s.w.tracing {
			s.w.logf("%s: promoted to branch %d (tli %d) at %s, list=%s gate=%v", s.h, s.end.b.id, s.end.b.tli, from.at, s.shown.StandbyNames(), s.gate)
		}
		s.refresh()
		s.w.happened(onPromote)
		s.h.k.serverChanged()
	})
}

// fallSick damages what every new backend needs. Those that are there go on;
// walsenders too, unless they are to end as well.
func (s *server) fallSick(senders bool) {
	if !s.exists || s.broken {
		return
	}
	s.sick = true
	if senders {
		for _, st := range append([]*stream(nil), s.senders...) {
			st.closeSender()
		}
	}
	s.h.k.serverChanged()
}

// refresh finds out whether ordinary clients can write here.
func (s *server) refresh() {
	rw := (s.state == running || s.state == orphaned) && !s.recovery && !s.gate
	if rw == s.rw {
		return
	}
	s.rw = rw
	if rw {
		s.w.judge.opened(s)
	}
}

// lsnReported is what a query for the standby's or the primary's position says.
func (s *server) lsnReported() pg.LSN {
	if !s.recovery {
		return s.end.at
	}
	if s.w.rules.Broken == UnderstatedLSN && s.received != 0 {
		return s.received
	}
	return max(s.received, s.replayed)
}

func sameList(a, b fsm.List) bool {
	if a.K != b.K && (!a.Empty() || !b.Empty()) || len(a.Voters) != len(b.Voters) {
		return false
	}
	for i := range a.Voters {
		if a.Voters[i] != b.Voters[i] {
			return false
		}
	}
	return true
}

// standby writes the files of a standby that follows up, nowhere for nobody.
func (s *server) standby(up upstream) { s.signal, s.sealed, s.upDisk = true, false, up }

// guard leaves a stopped server a list that nobody satisfies: should it come
// out of recovery, it acknowledges nothing before it has a list of its own.
func (s *server) guard() {
	if s.w.rules.Broken != NoGuard && s.w.rules.Broken != ListNotEnforced {
		s.listDisk = fsm.List{Number: -1, K: 1, Voters: []int64{-1}}
	}
}

// guarded: every process goes by the list that nobody satisfies.
func (s *server) guarded() bool {
	return s.listDisk.Number == -1 && s.shown.Number == -1 && s.old.Number == -1 && s.force.Number == -1
}

// dropSkipped takes away the history files of timelines that nobody began and
// nothing has followed.
func (s *server) dropSkipped() {
	if s.end.b != nil {
		s.known = max(s.known, s.end.b.tli)
		s.newest = s.known
	}
}

// learn: the history files up to tli are here.
func (s *server) learn(tli pg.Timeline) {
	s.known = max(s.known, tli)
	s.newest = max(s.newest, s.known)
}

package sim

import (
	"slices"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// stream is one replication connection: a walsender on up and a receiver on
// down, which may each outlive the other for a while.
type stream struct {
	up, down *server
	name     int64 // the node id in the receiver's application_name
	copying  bool  // a base backup's, not a standby's

	sending, receiving bool
	inFlight           bool
	sent               pg.LSN
	flushed            pg.LSN        // as the walsender was told
	replyAt            time.Duration // when that last moved or was repeated
}

// connect tries to stream from the configured upstream, again and again.
func (s *server) connect(d time.Duration) {
	if s.trying == s.gen {
		return
	}
	s.trying = s.gen
	s.after(d+s.h.rng.delay(2*time.Millisecond), func() {
		s.trying = 0
		if !s.recovery || s.promoting || s.state != running || s.conn != nil || s.upLive.host < 0 {
			return
		}
		if s.received == 0 {
			s.received = s.end.at &^ (segment - 1) // from where streaming is asked for
		}
		if !s.tryConnect() {
			s.connect(s.h.rng.between(200*time.Millisecond, 600*time.Millisecond))
		}
	})
}

// tryConnect does what walreceiver and walsender do before the first byte.
func (s *server) tryConnect() bool {
	up := s.w.hosts[s.upLive.host].s
	if up == s || !s.w.net.both(s.h.n, up.h.n) || !up.alive() || up.state != running || up.pmFrozen || up.sick {
		return false
	}
	if up.end.root() != s.end.root() || !up.consistent() {
		return false
	}
	if up.slots&(1<<uint(s.upLive.node)) == 0 {
		return false
	}
	for _, other := range slices.Clone(up.senders) {
		if other.name == s.upLive.node && !other.copying {
			if !other.receiving {
				other.closeSender() // the dead connection is answered with a reset
			}
			return false
		}
	}
	if !up.end.holds(s.end) {
		if up.end.b.tli == s.end.b.tli && up.end.at >= s.end.at && s.h.k.current != fsm.Maintenance {
			s.w.fail("I21", "%s (branch %d at %s) streams from %s (branch %d), which has the same timeline number %d",
				s.h, s.end.b.id, s.end.at, up.h, up.end.b.id, up.end.b.tli)
		}
		return false
	}
	s.learn(up.end.b.tli) // the receiver fetches every history file up to the upstream's
	st := &stream{up: up, down: s, name: s.upLive.node, sending: true, receiving: true, replyAt: s.w.now}
	st.sent, st.flushed = s.end.at, s.end.at
	up.senders = append(up.senders, st)
	s.conn = st
	up.checkAcks()
	st.pump()
	s.h.k.serverChanged()
	return true
}

// pumpAll sends new WAL to everybody who streams from here.
func (s *server) pumpAll() {
	for _, st := range s.senders {
		st.pump()
	}
}

// pump sends what the receiver lacks; one batch is under way at a time.
func (st *stream) pump() {
	if !st.sending || st.inFlight || st.sent >= st.up.end.at {
		return
	}
	st.inFlight = true
	from := st.up.end
	st.sent = from.at
	net := &st.up.w.net
	net.send(st.up.h.n, st.down.h.n, deadPeer, func() { st.arrived(from) }, func() { st.inFlight = false })
}

// arrived: the receiver writes and flushes, then tells.
func (st *stream) arrived(upTo position) {
	d := st.down
	st.inFlight = false
	if !st.receiving {
		if st.copying && st.sending {
			st.reply(upTo.at)
		}
		return
	}
	if !upTo.holds(d.end) {
		d.w.fail("I21", "%s at branch %d %s received branch %d up to %s", d.h, d.end.b.id, d.end.at, upTo.b.id, upTo.at)
		return
	}
	flush := time.Duration(0)
	if d.h.slow > 1 {
		flush = d.h.rng.delay(5 * time.Millisecond)
	}
	d.after(flush, func() {
		if !st.receiving || !upTo.holds(d.end) {
			return
		}
		d.end = place(upTo.b, upTo.at)
		d.learn(upTo.b.tli)
		d.received = d.end.at
		d.replayTail()
		d.pumpAll()
		st.reply(upTo.at)
	})
}

// reply tells the walsender how far WAL is safe at the standby.
func (st *stream) reply(at pg.LSN) {
	net := &st.up.w.net
	net.send(st.down.h.n, st.up.h.n, deadPeer, func() {
		if !st.sending || st.up.h.frozen {
			return
		}
		st.flushed = max(st.flushed, at)
		st.replyAt = st.up.w.now
		st.up.checkAcks()
		st.pump()
	}, nil)
}

// closeReceiver ends the standby's side; the other side hears of it when it can.
func (st *stream) closeReceiver() {
	if !st.receiving {
		return
	}
	st.receiving = false
	d := st.down
	if d.conn == st {
		d.conn = nil
	}
	if !st.sending {
		return
	}
	w := d.w
	if !d.h.up {
		// No farewell from a machine without power: the dead peer is found out late.
		w.after(deadPeer, st.closeSender)
		return
	}
	w.net.send(d.h.n, st.up.h.n, deadPeer, st.closeSender, st.closeSender)
}

// closeSender ends the walsender's side.
func (st *stream) closeSender() {
	if !st.sending {
		return
	}
	st.sending = false
	u := st.up
	if i := slices.Index(u.senders, st); i >= 0 {
		u.senders = slices.Delete(u.senders, i, i+1)
	}
	if !st.receiving {
		return
	}
	lost := func() {
		if st.receiving {
			st.closeReceiver()
			st.down.connect(st.down.h.rng.between(100*time.Millisecond, 300*time.Millisecond))
			st.down.h.k.serverChanged()
		}
	}
	if !u.h.up {
		u.w.after(deadPeer, lost)
		return
	}
	u.w.net.send(u.h.n, st.down.h.n, deadPeer, lost, lost)
}

// commit writes one transaction and tells whether a client could.
func (s *server) commit(size pg.LSN) bool {
	if !s.rw || !s.alive() {
		return false
	}
	s.append(size)
	s.waiting = append(s.waiting, s.end.at)
	s.checkAcks()
	return true
}

// checkAcks answers the clients whose commits are safe by the list in force;
// while a new list is taking effect, by the weaker of both.
func (s *server) checkAcks() {
	if len(s.waiting) == 0 || !s.alive() {
		return
	}
	for _, l := range [2]fsm.List{s.old, s.force} {
		upTo := s.end.at
		if !l.Empty() {
			upTo = s.quorumLSN(l)
		}
		n := 0
		for n < len(s.waiting) && s.waiting[n] <= upTo {
			n++
		}
		if n == 0 {
			continue
		}
		last := s.waiting[n-1]
		s.waiting = append(s.waiting[:0], s.waiting[n:]...)
		s.w.judge.acknowledged(s, last, l)
	}
}

// quorumLSN is the position that k voters of the list have confirmed.
func (s *server) quorumLSN(l fsm.List) pg.LSN {
	var confirmed [maxHosts * 2]pg.LSN
	n := 0
	for _, st := range s.senders {
		if n < len(confirmed) && slices.Contains(l.Voters, st.name) && (!st.copying || s.w.rules.Broken == CopyVotes) {
			confirmed[n] = st.flushed
			n++
		}
	}
	if n < l.K || l.K == 0 {
		return 0
	}
	top := confirmed[:n]
	slices.Sort(top)
	return top[n-l.K]
}

// contact is when k voters of the list last gave a sign of life; with an empty
// list, any of the standbys that the monitor counts on.
func (s *server) contact(l fsm.List, counted func(int64) bool) time.Duration {
	k := max(l.K, 1)
	var times [maxHosts * 2]time.Duration
	n := 0
	for _, st := range s.senders {
		if st.copying || n == len(times) || !l.Empty() && !slices.Contains(l.Voters, st.name) || l.Empty() && !counted(st.name) {
			continue
		}
		if st.receiving && s.w.net.both(s.h.n, st.down.h.n) && st.down.alive() {
			st.replyAt = s.w.now
		}
		times[n] = st.replyAt
		if s.w.rules.Broken == RowIsContact {
			times[n] = s.w.now
		}
		n++
	}
	if n < k {
		return -1
	}
	seen := times[:n]
	slices.Sort(seen)
	return seen[n-k]
}

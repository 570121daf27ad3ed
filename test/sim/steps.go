package sim

import (
	"slices"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

func (k *keeper) stepInitDB() outcome {
	s := k.h.s
	if !s.exists {
		b := k.w.newBranch(position{}, 1)
		b.opened = true
		k.w.head = b
		s.newest, s.known = 1, 1
		s.exists, s.end, s.clean = true, position{b, b.end}, true
	}
	return outcome{done, k.h.rng.delay(100 * time.Millisecond)}
}

// ensureRunning has the server up and answering.
func (k *keeper) ensureRunning() outcome {
	s := k.h.s
	switch {
	case s.answers():
		return outcome{done, time.Millisecond}
	case !s.exists || s.broken:
		return outcome{kind: failed}
	case s.state == down:
		if s.cantStart {
			k.restart()
			return outcome{kind: failed}
		}
		s.dropSkipped()
		s.start()
	}
	return outcome{again, 30 * time.Millisecond}
}

func (k *keeper) stepPromote(wk *walk) outcome {
	s := k.h.s
	switch wk.part {
	case 0:
		if out := k.ensureRunning(); out.kind != done {
			if k.w.now-wk.began > stopLimit {
				return outcome{kind: failed}
			}
			return out
		}
		return outcome{next, time.Millisecond}
	case 1:
		if s.state != running {
			return outcome{kind: failed}
		}
		if !s.recovery {
			return outcome{next, time.Millisecond}
		}
		if leftOut := wk.grant - 1; wk.grant > 0 && leftOut > s.newest && k.w.rules.Broken != NumbersAgain {
			s.newest = leftOut
			return outcome{again, k.h.rng.delay(2 * time.Millisecond)} // anything may happen before it promotes
		}
		s.promote()
		// The list comes at any time from now on, also when recovery is over already.
		return outcome{next, k.h.rng.delay(20 * time.Millisecond)}
	case 2:
		if s.state != running || s.sick {
			return outcome{kind: failed}
		}
		if wk.handed {
			s.listDisk = wk.list
			s.reload()
		}
		return outcome{next, k.h.rng.delay(2 * time.Millisecond)}
	case 3:
		if s.state != running {
			return outcome{kind: failed}
		}
		if s.recovery || wk.handed && !s.pmFrozen && s.shown.Number != s.listDisk.Number {
			return k.soon(wk, time.Minute)
		}
		return outcome{next, time.Millisecond}
	default:
		if s.state != running {
			return outcome{kind: failed}
		}
		s.checkpoint()
		s.upDisk = nowhere
		return outcome{done, k.h.rng.delay(5 * time.Millisecond)}
	}
}

func (k *keeper) stepSetList(wk *walk) outcome {
	s := k.h.s
	switch wk.part {
	case 0:
		wk.handed = false
		return k.ask(wk, func() bool {
			wk.list = k.w.mon.list()
			return true
		})
	case 1:
		if s.state == running && s.sick {
			return outcome{kind: failed}
		}
		if k.w.rules.Broken == OpenEmpty && wk.to == fsm.WaitPrimary && !wk.from.Writable() {
			wk.list = fsm.List{Primary: wk.list.Primary, Number: wk.list.Number}
		}
		if k.w.rules.Broken == NoteFirst {
			wk.lsn = s.end.at
		}
		if s.state == running && s.recovery && s.guarded() && slices.Contains(wk.steps[wk.i:], fsm.StepPromote) {
			wk.handed = true // nothing is acknowledged before it is in force
			return outcome{done, time.Millisecond}
		}
		s.listDisk = wk.list
		s.reload()
		return outcome{next, k.h.rng.delay(2 * time.Millisecond)}
	default:
		if s.state == running && !s.pmFrozen && s.shown.Number != s.listDisk.Number {
			return outcome{again, 2 * time.Millisecond}
		}
		if wk.list.Empty() {
			s.waiting = s.waiting[:0] // canceled: answered with a warning, which is no acknowledgement
		}
		return outcome{done, time.Millisecond}
	}
}

// stepEnforceList: the list holds for every session before anybody is let in.
func (k *keeper) stepEnforceList() outcome {
	s := k.h.s
	l := s.listDisk
	switch {
	case s.state != running || s.sick:
		return outcome{kind: failed}
	case l.Empty() || s.recovery || k.w.rules.Broken == ListNotEnforced:
		return outcome{done, time.Millisecond}
	case s.pmFrozen || !sameList(s.shown, l):
		return outcome{again, 5 * time.Millisecond}
	case s.old.Empty():
		s.checkpoint()
		return outcome{done, k.h.rng.delay(5 * time.Millisecond)}
	}
	return outcome{done, time.Millisecond}
}

func (k *keeper) stepWaitVoters(wk *walk) outcome {
	s := k.h.s
	if s.state != running || s.recovery || s.sick {
		return outcome{kind: failed}
	}
	l := s.listDisk
	if l.Empty() {
		return outcome{done, time.Millisecond}
	}
	switch wk.part {
	case 0:
		if s.pmFrozen || !sameList(s.shown, l) {
			return outcome{again, 10 * time.Millisecond}
		}
		return outcome{next, k.h.rng.delay(2 * time.Millisecond)}
	case 1:
		if k.w.rules.Broken != NoteFirst {
			s.checkpoint()
			wk.lsn = s.end.at
		}
		return outcome{next, k.h.rng.delay(2 * time.Millisecond)}
	default:
		need := l
		if k.w.rules.Broken == OneVoterEnough {
			need.K = 1
		}
		if s.quorumLSN(need) >= wk.lsn {
			if k.w.rules.Broken == NoteFirst {
				s.checkpoint()
			}
			return outcome{done, time.Millisecond}
		}
		if k.w.now-wk.began > 2*time.Second {
			s.slots = k.mask // whoever is to be the voter may need its slot first
		}
		return outcome{again, 50 * time.Millisecond}
	}
}

// stepStop has the server and all its children gone, cleanly when possible.
func (k *keeper) stepStop(wk *walk) outcome {
	s := k.h.s
	switch s.state {
	case down:
		return outcome{done, time.Millisecond}
	case orphaned:
		if k.w.rules.Broken == ChildrenIgnored {
			return outcome{done, time.Millisecond}
		}
	case starting:
		s.vanish()
	case running:
		if s.pmFrozen && k.w.now-wk.began > stopLimit {
			s.vanish()
			break
		}
		if !s.pmFrozen {
			s.stopFast()
		}
	case stopping:
		if k.w.now-wk.began > stopLimit || s.clean && k.candidateHas(s.cleanAt) {
			s.vanish()
		} else if s.clean {
			k.report() // how far is the candidate?
		}
	}
	return outcome{again, 20 * time.Millisecond}
}

// stepSeal leaves a stopped server that comes up harmless, whoever starts it.
func (k *keeper) stepSeal(wk *walk) outcome {
	s := k.h.s
	if s.state != down {
		return k.stepStop(wk) // somebody was quicker
	}
	if !s.exists || s.broken || k.w.rules.Broken == NotSealed {
		return outcome{done, time.Millisecond}
	}
	switch wk.part {
	case 0:
		s.sealed = s.sealed || !s.signal
		return outcome{next, k.h.rng.delay(time.Millisecond)}
	case 1:
		s.signal, s.upDisk = true, nowhere
		return outcome{next, k.h.rng.delay(time.Millisecond)}
	default:
		s.guard()
		return outcome{done, k.h.rng.delay(time.Millisecond)}
	}
}

// stepUnseal lets a sealed server be the primary again that it was.
func (k *keeper) stepUnseal() outcome {
	s := k.h.s
	switch {
	case !s.sealed:
		return outcome{done, 0}
	case s.state != down && s.recovery || s.state == starting:
		s.stopFast()
		return outcome{again, 20 * time.Millisecond}
	case s.signal:
		s.signal = false
		return outcome{again, k.h.rng.delay(time.Millisecond)}
	}
	s.sealed = false
	return outcome{done, time.Millisecond}
}

// candidateHas reports whether the node that takes over is known to have
// received beyond the shutdown checkpoint.
func (k *keeper) candidateHas(at pg.LSN) bool {
	for _, p := range k.peers {
		if p.goal.In(fsm.PreparePromotion, fsm.StopReplication, fsm.WaitPrimary, fsm.FastForward) && p.lsn > at {
			return true
		}
	}
	return false
}

// stepBaseBackup clones another server: the primary, or a standby that stays
// without upstream.
func (k *keeper) stepBaseBackup(wk *walk, alone bool) outcome {
	s := k.h.s
	switch wk.part {
	case 0:
		return k.askSource(wk, alone)
	case 1:
		up := k.w.hosts[wk.source.host].s
		if !k.reachable(up) || !alone && up.slots&(1<<uint(k.id)) == 0 {
			return outcome{kind: failed}
		}
		if s.state != down {
			s.vanish()
		}
		wk.upGen = up.gen
		wk.copy = &stream{up: up, down: s, name: k.id, copying: true, sending: true, replyAt: k.w.now}
		up.senders = append(up.senders, wk.copy)
		wk.copy.pump()
		wk.lsn = up.end.at
		return outcome{next, k.h.rng.between(200*time.Millisecond, 2*time.Second) * time.Duration(1+9*k.h.rng.below(2))}
	default:
		up := k.w.hosts[wk.source.host].s
		wk.copy.closeSender()
		wk.copy = nil
		if up.gen != wk.upGen || !k.reachable(up) || k.h.rng.chance(k.w.cfg.BadCopies) {
			return outcome{kind: failed}
		}
		k.install(up, wk.source, alone)
		s.start()
		return outcome{done, k.h.rng.delay(20 * time.Millisecond)}
	}
}

// install puts a copy of up's data directory in place.
func (k *keeper) install(up *server, from upstream, alone bool) {
	s := k.h.s
	s.exists, s.broken, s.clean, s.sick = true, false, false, false
	s.end, s.needs = up.end, up.end
	s.newest, s.known = up.end.b.tli, up.end.b.tli
	s.listDisk, s.gateDisk, s.slots = up.listDisk, up.gateDisk, 0
	s.guard()
	s.standby(from)
	if alone {
		s.standby(nowhere)
	}
}

// askSource finds the server to copy, rewind from or follow.
func (k *keeper) askSource(wk *walk, standby bool) outcome {
	return k.ask(wk, func() bool {
		host := k.w.mon.primaryHost()
		if standby {
			host = k.w.mon.mostAdvanced(k.id)
		}
		wk.source = upstream{host: host, node: k.id}
		return host >= 0 && host != k.h.n
	})
}

// reachable reports whether up answers a replication connection of ours.
func (k *keeper) reachable(up *server) bool {
	return k.w.net.both(k.h.n, up.h.n) && up.alive() && up.state == running && !up.pmFrozen && !up.sick && up.consistent()
}

func (k *keeper) stepRewind(wk *walk) outcome {
	s := k.h.s
	switch wk.part {
	case 0:
		return k.askSource(wk, false)
	case 1:
		if !k.reachable(k.w.hosts[wk.source.host].s) {
			return outcome{kind: failed}
		}
		if s.state != down {
			s.stopFast()
			if k.w.now-wk.began > stopLimit {
				s.vanish()
			}
			return outcome{again, 20 * time.Millisecond}
		}
		return outcome{next, k.h.rng.delay(20 * time.Millisecond)}
	case 2, 3:
		return k.rewind(wk)
	default:
		s.dropSkipped()
		s.start()
		s.slots = 0
		return outcome{done, k.h.rng.delay(20 * time.Millisecond)}
	}
}

// rewind makes the local data directory one that can follow the source.
func (k *keeper) rewind(wk *walk) outcome {
	s, up := k.h.s, k.w.hosts[wk.source.host].s
	if s.state != down {
		return outcome{kind: failed} // somebody started it: from the beginning
	}
	if wk.part == 2 {
		wk.upGen, wk.scratch = up.gen, false
		if !s.exists || s.broken || s.sick || s.end.root() != up.end.root() || k.h.rng.chance(10) {
			s.broken, wk.scratch = true, true
			return outcome{next, k.h.rng.between(time.Second, 5*time.Second)}
		}
		if up.end.holds(s.end) && (s.needs.b == nil || s.consistent() || up.end.holds(s.needs)) {
			return outcome{next, time.Millisecond}
		}
		s.broken = true
		return outcome{next, k.h.rng.delay(100 * time.Millisecond)}
	}
	if up.gen != wk.upGen || !k.reachable(up) {
		return outcome{kind: failed}
	}
	switch {
	case wk.scratch || !s.exists:
		k.install(up, wk.source, false)
	case s.broken:
		common := fork(s.end, up.end)
		if common.b == nil {
			common = up.end
		}
		k.install(up, wk.source, false)
		s.end = common
	default:
		s.standby(wk.source)
		s.clean = false
		s.guard()
	}
	return outcome{next, time.Millisecond}
}

// stepFollow points the standby at the primary; nothing is rewound.
func (k *keeper) stepFollow(wk *walk) outcome {
	s := k.h.s
	switch wk.part {
	case 0:
		return k.askSource(wk, false)
	case 1:
		if !k.reachable(k.w.hosts[wk.source.host].s) {
			return outcome{kind: failed}
		}
		if s.state != down && (s.state != running || !s.recovery) {
			s.stopFast()
			return k.soon(wk, time.Minute)
		}
		if s.standby(wk.source); s.state == down {
			s.guard()
		}
		if s.state == running {
			s.reload()
		}
		return outcome{next, k.h.rng.delay(3 * time.Millisecond)}
	default:
		return k.startIfWhole(wk)
	}
}

// startIfWhole starts the server, unless a rewind was killed half-way: then a
// later step of the edge completes it.
func (k *keeper) startIfWhole(wk *walk) outcome {
	if k.h.s.broken && slices.Contains(wk.steps, fsm.StepCheckTimeline) {
		return outcome{done, time.Millisecond}
	}
	return k.ensureRunning()
}

// stepCheckTimeline rewinds a server that has left the upstream's line.
func (k *keeper) stepCheckTimeline(wk *walk) outcome {
	s := k.h.s
	switch wk.part {
	case 0:
		return k.askSource(wk, false)
	case 1:
		up := k.w.hosts[wk.source.host].s
		late := up.recovery && !up.end.holds(s.end) // it may still receive, or replay, what we hold
		if !k.reachable(up) || late || s.state != down && s.state != running {
			if s.signal && s.upDisk.host != wk.source.host {
				s.standby(nowhere)
				s.reload()
			}
			return outcome{kind: failed}
		}
		if up.end.holds(s.end) && !s.broken && !s.sick && (s.needs.b == nil || s.consistent() || up.end.holds(s.needs)) {
			return outcome{done, time.Millisecond}
		}
		if s.state == running {
			s.stopFast()
			return outcome{again, 30 * time.Millisecond}
		}
		return outcome{next, time.Millisecond}
	case 2, 3:
		return k.rewind(wk)
	default:
		return k.ensureRunning()
	}
}

// stepEndReceiver: afterwards the server acknowledges nothing to anybody. One
// that is out of recovery is started again as a standby for that.
func (k *keeper) stepEndReceiver(wk *walk) outcome {
	s := k.h.s
	if s.state != running || !s.recovery {
		return k.stepStandbyAlone(wk)
	}
	switch wk.part {
	case 0:
		if k.w.rules.Broken == ReceiverStays {
			return outcome{done, time.Millisecond}
		}
		s.standby(nowhere)
		s.dropSkipped()
		s.reload()
		return outcome{next, k.h.rng.delay(3 * time.Millisecond)}
	default:
		if s.sick {
			return outcome{kind: failed}
		}
		if s.conn != nil || s.upLive != nowhere || s.replayed < s.end.at {
			return outcome{again, 5 * time.Millisecond}
		}
		return outcome{done, time.Millisecond}
	}
}

func (k *keeper) stepStandbyAlone(wk *walk) outcome {
	s := k.h.s
	switch wk.part {
	case 0:
		if s.state != down && (s.state != running || !s.recovery || s.upLive != nowhere) {
			s.stopFast()
			return outcome{again, 20 * time.Millisecond}
		}
		s.standby(nowhere)
		s.guard()
		return outcome{next, time.Millisecond}
	default:
		if out := k.ensureRunning(); out.kind != done {
			return out
		}
		if s.replayed < s.end.at {
			return outcome{again, 5 * time.Millisecond}
		}
		return outcome{done, time.Millisecond}
	}
}

// stepFetchWAL streams what is missing from the most advanced standby.
func (k *keeper) stepFetchWAL(wk *walk) outcome {
	s := k.h.s
	switch wk.part {
	case 0:
		return k.ask(wk, func() bool {
			host := k.w.mon.mostAdvanced(k.id)
			wk.source = upstream{host: host, node: k.id}
			if host >= 0 {
				wk.lsn = k.w.mon.nodeAt(host).LSN
			}
			return true
		})
	case 1:
		if out := k.ensureRunning(); out.kind != done {
			return out
		}
		if wk.source.host < 0 || s.end.at >= wk.lsn {
			wk.part = 2
			return outcome{again, time.Millisecond}
		}
		s.upDisk = wk.source
		s.reload()
		return outcome{next, 5 * time.Millisecond}
	case 2:
		if wk.source.host >= 0 && s.end.at < wk.lsn {
			return k.soon(wk, 10*time.Second)
		}
		s.upDisk = nowhere
		s.reload()
		return outcome{next, 5 * time.Millisecond}
	default:
		if s.state != running {
			return outcome{kind: failed}
		}
		if s.conn != nil || s.upLive != nowhere || s.replayed < s.end.at {
			return outcome{again, 10 * time.Millisecond}
		}
		return outcome{done, time.Millisecond}
	}
}

func (k *keeper) stepGate(wk *walk, closed bool) outcome {
	s := k.h.s
	if s.state == running && s.sick {
		return outcome{kind: failed}
	}
	if wk.part == 0 {
		s.gateDisk = closed
		s.reload()
		return outcome{next, k.h.rng.delay(2 * time.Millisecond)}
	}
	if s.state == running && !s.pmFrozen && s.gate != closed {
		return outcome{again, 3 * time.Millisecond}
	}
	return outcome{done, time.Millisecond}
}

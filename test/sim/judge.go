package sim

import (
	"slices"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// judge knows the truth of every server and compares it with what was
// promised. Nothing that it knows reaches keepers or monitor.
type judge struct {
	w *World
	// homes are the hosts on which nodes were registered.
	homes map[int64]*host
	// wiped is what nodes had that were removed on request (not by force) and
	// whose host was then registered again without its data.
	wiped map[int64]position
	// forced are the nodes whose row an operator removed by force.
	forced map[int64]bool
	// By epoch: an operator allowed data loss; he removed the old primary by
	// force; the group had no quorum standby and only empty lists.
	word, off, async map[int64]bool
	votes            map[int64][]fsm.Vote  // as known when the candidate was chosen
	lines            map[int64]pg.Timeline // on which they were compared
	// The same of the epoch in which the head opened, and of the open election.
	headWord, headForced, headAsync, openAsync bool
	// openEpoch is the epoch of the last order to open; ordered is when each node
	// was last ordered to, and wordAt when one opened that an operator allowed to lose writes.
	openEpoch int64
	ordered   map[int64]time.Duration
	wordAt    time.Duration

	dropped                             bool // some node was removed on request
	acks, lone, lost, promotions, goals int  // for statistics
}

func newJudge(w *World) judge {
	return judge{
		w: w, homes: map[int64]*host{}, wiped: map[int64]position{}, forced: map[int64]bool{}, word: map[int64]bool{}, off: map[int64]bool{}, async: map[int64]bool{},
		votes: map[int64][]fsm.Vote{}, lines: map[int64]pg.Timeline{}, ordered: map[int64]time.Duration{},
	}
}

// acknowledged: clients were told that everything up to at is safe, under list l.
func (j *judge) acknowledged(s *server, at pg.LSN, l fsm.List) {
	w := j.w
	p := place(s.end.b, at)
	w.happened(onAck)
	if j.overtaken(p) {
		j.splitBrain(s, p, l)
		return
	}
	if l.Empty() {
		j.lone++
		p.b.lone = max(p.b.lone, at)
	} else {
		j.acks++
		p.b.promised = max(p.b.promised, at)
		j.checkCopies(s, p, l)
	}
	j.checkList(s, l)
}

// overtaken: another server has opened since, without what is confirmed now.
func (j *judge) overtaken(p position) bool {
	head := j.w.head
	return head != nil && head != p.b && !p.holds(position{head, head.start + 1}) && !(position{head, head.end}).holds(p) &&
		(position{head, head.end}).root() == p.root()
}

// splitBrain: an acknowledgement by a server that is not the last one opened.
func (j *judge) splitBrain(s *server, p position, l fsm.List) {
	w := j.w
	if l.Empty() && j.excusedAlone(s) || s.end.b.given || j.forced[s.h.k.id] {
		return
	}
	w.fail("I1", "%s acknowledged a commit at %s on branch %d under %q, but branch %d has opened since",
		s.h, p.at, p.b.id, l.StandbyNames(), w.head.id)
}

// excusedAlone: what a server acknowledges without any standby is no promise
// when an operator said that it is off or that its writes may be lost, or when
// the group is asynchronous by choice and nobody could stop the server: its
// keeper was dead or stood still.
func (j *judge) excusedAlone(s *server) bool {
	k := s.h.k
	if k.id == 0 || j.forced[k.id] || s.end.b.given {
		return true
	}
	return s.end.b.loose && j.uncontrolled(k)
}

// uncontrolled: the keeper has not been at work long enough to fence its server.
func (j *judge) uncontrolled(k *keeper) bool {
	now := k.w.now
	return !k.alive || k.frozen || k.h.frozen || now-k.startedAt < partitionTimeout+5*time.Second || now-k.resumedAt < 5*time.Second
}

// wipe is called before the data directory of a host goes, for a new node.
func (j *judge) wipe(h *host, newcomer int64) {
	for id, home := range j.homes {
		if _, known := j.wiped[id]; known || home != h || id == newcomer || j.forced[id] || j.w.mon.node(id) != nil {
			continue
		}
		if h.s.exists && !h.s.broken && h.s.end.b != nil {
			j.wiped[id] = h.s.end
		}
	}
}

// checkCopies: what counts as a voter's confirmation is on that voter's disk, or was
// until its operator removed first the voter, on request, and then its data. The
// last word of that voter was true when it was given and may be under way for as
// long as the network was cut: the same commit acknowledged an instant before
// the removal would have lost the same copy. What was acknowledged still may not
// be lost when the next primary opens.
func (j *judge) checkCopies(s *server, p position, l fsm.List) {
	copies := j.holders(l, p)
	for _, id := range l.Voters {
		if was, ok := j.wiped[id]; ok && was.holds(p) && j.holders(fsm.List{Voters: []int64{id}}, p) == 0 {
			copies++
		}
	}
	if copies < l.K {
		j.w.fail("I6", "%s acknowledged a commit at %s under %q, which %d voters hold", s.h, p.at, l.StandbyNames(), copies)
	}
}

// holders counts the members of a list that have p on their disk.
func (j *judge) holders(l fsm.List, p position) int {
	count := 0
	for _, id := range l.Voters {
		h := j.homes[id]
		if h != nil && h.s.exists && !h.s.broken && h.s.end.b != nil && h.s.end.holds(p) {
			count++
		}
	}
	return count
}

// checkList: the monitor remembers every list that a server acknowledges under.
func (j *judge) checkList(s *server, l fsm.List) {
	id := s.h.k.id
	r := &j.w.mon.record
	if id == 0 || j.w.mon.node(id) == nil {
		return
	}
	for _, known := range r.Lists {
		if known.Primary == id && (sameList(known, l) || known.Empty()) {
			return // an empty list in force binds elections more than any other
		}
	}
	if r.Primary != id && r.Owner != id {
		return // an old primary's: the check of overlapping acknowledgements is for it
	}
	j.w.fail("I14", "node %d acknowledges under %q, which is none of the lists in force: %v", id, l.StandbyNames(), r.Lists)
}

// opened: ordinary clients can write to this server now.
func (j *judge) opened(s *server) {
	b := s.end.b
	if b.opened {
		return
	}
	b.opened = true
	w := j.w
	j.promotions++
	if id := s.h.k.id; w.mon.record.Primary != id || w.mon.node(id) == nil {
		// It was told to open, stood still, and the group has moved on: it may
		// be open for clients, but must not be able to acknowledge anything,
		// unless an operator gave it up with the others when another one opened.
		order, told := j.ordered[id]
		b.given = j.word[w.mon.record.Epoch] || told && j.wordAt > order
		b.loose = j.async[w.mon.record.Epoch]
		j.checkFence(s)
		return
	}
	epoch := j.openEpoch // of its order: by now another candidate may have been chosen
	j.headWord, j.headAsync, j.headForced = j.word[epoch], j.async[epoch], j.off[epoch]
	if j.headWord {
		j.wordAt = w.now
	}
	j.checkI7(s)
	for _, other := range w.branches {
		if other != b {
			other.given = other.given || j.headWord
			other.loose = other.loose || j.headAsync
		}
		at := max(other.promised, other.lone)
		if at == 0 || other == b || (position{b: other}).root() != s.end.root() {
			continue
		}
		if upTo, ok := s.end.line(other); !ok || upTo < at {
			j.lostWrites(s, other, s.h.k.id)
		}
	}
	w.head = b
}

// lostWrites judges acknowledged commits of branch other that s does not have.
func (j *judge) lostWrites(s *server, other *branch, id int64) {
	w := j.w
	upTo, _ := s.end.line(other)
	if other.promised > upTo && !j.headWord && !j.tolerable(s, other, other.promised) {
		w.fail("I6", "node %d opens branch %d, which leaves branch %d at %s: acknowledged up to %s",
			id, s.end.b.id, other.id, upTo, other.promised)
		return
	}
	if other.lone > upTo && !j.headWord && !j.headForced && !j.tolerable(s, other, other.lone) {
		w.fail("I6", "node %d opens branch %d, which leaves branch %d at %s: its writer acknowledged alone up to %s",
			id, s.end.b.id, other.id, upTo, other.lone)
		return
	}
	// Reported once: what is lost cannot be lost again.
	j.lost++
	other.promised, other.lone = min(other.promised, upTo), min(other.lone, upTo)
}

// tolerable: a group that is asynchronous by choice may lose the last writes
// of the primary that it replaces. What that one acknowledged to nobody but
// its client since it was cut off has no bound; what it once promised has.
func (j *judge) tolerable(s *server, b *branch, at pg.LSN) bool {
	limit := pg.LSN(j.w.cfg.settings().PromoteThreshold) + 64*recordSize
	if j.headForced && s.end.b.parent == b {
		return true // its writer was removed by force: the operator's word that it is off
	}
	if !j.headAsync || b != j.w.head && b.promised >= at {
		return false
	}
	return b.promised < at || at-min(at, fork(s.end, position{b, at}).at) <= limit
}

// checkI7: nothing that was reported in the election lies beyond the winner.
func (j *judge) checkI7(s *server) {
	if s.end.b.parent == nil || j.word[j.openEpoch] {
		return
	}
	for _, v := range j.votes[j.openEpoch] {
		if v.TLI == s.end.b.parent.tli && v.LSN > s.end.b.start && v.TLI == j.lines[j.openEpoch] {
			j.w.fail("I7", "node %d opens at %s, node %d had reported %s on the same timeline %d",
				s.h.k.id, s.end.b.start, v.Node, v.LSN, v.TLI)
		}
	}
}

// always is checked after every event.
func (j *judge) always() {
	open := 0
	for _, h := range j.w.hosts {
		if h.s.rw && h.up {
			open++
		}
	}
	if open < 2 || j.w.head == nil {
		return
	}
	for _, h := range j.w.hosts {
		s := h.s
		if !s.rw || !h.up || s.end.b == j.w.head {
			continue
		}
		if s.end.root() != (position{b: j.w.head}).root() {
			continue // another cluster
		}
		j.checkFence(s)
	}
}

// checkFence: another server has opened; this one must not be able to acknowledge.
func (j *judge) checkFence(s *server) {
	if j.w.head == nil || s.end.b.given || j.forced[s.h.k.id] {
		return // an operator said that this server is off, or does not count
	}
	for _, l := range [4]fsm.List{s.old, s.force, s.shown, s.listDisk} {
		if l.Empty() {
			if !j.excusedAlone(s) {
				j.w.fail("I1", "%s may acknowledge alone on branch %d while branch %d is open", s.h, s.end.b.id, j.w.head.id)
			}
			continue
		}
		able := 0
		for _, h := range j.w.hosts {
			if h == s.h || !h.s.exists || h.s.broken || h.s.end.b == nil || !s.end.holds(h.s.end) {
				continue
			}
			target := h.s.upDisk
			if h.s.state == running {
				target = h.s.upLive
			}
			standby := h.s.signal || h.s.recovery
			if standby && target.host == s.h.n && slices.Contains(l.Voters, target.node) {
				able++
			}
		}
		if able >= l.K {
			j.w.fail("I1", "%s on branch %d can still get %d confirmations for %q while branch %d is open",
				s.h, s.end.b.id, able, l.StandbyNames(), j.w.head.id)
		}
	}
}

// reporting is called when a keeper sends a report, while it is still true.
func (j *judge) reporting(k *keeper, r report) {
	s := k.h.s
	if r.state == fsm.ReportLSN && k.walk == nil && r.reached == k.number && k.known && k.goal == fsm.ReportLSN {
		if s.state == running && (s.conn != nil || s.upLive.host >= 0 || s.upDisk.host >= 0) {
			j.w.fail("I9", "node %d reports report_lsn while its receiver is configured for %s", k.id, j.w.hosts[max(s.upLive.host, s.upDisk.host)])
		}
		if s.rw {
			j.w.fail("I9", "node %d reports report_lsn while clients can write to it", k.id)
		}
	}
	if r.state == fsm.StopReplication && k.walk == nil && r.reached == k.number && s.state == running && !s.gate {
		j.w.fail("I20", "node %d reports stop_replication with its gate open", k.id)
	}
	if r.state.In(fsm.Draining, fsm.DemoteTimeout, fsm.Demoted, fsm.PrepareMaintenance) && k.walk == nil && r.reached == k.number &&
		k.known && k.goal == r.state && s.rw {
		j.w.fail("I2", "node %d reports %s while clients can write to it", k.id, r.state)
	}
}

// reported is called when a report is committed.
func (j *judge) reported(h *host, n *row, r report) {
	if r.state == fsm.Primary && n.Reported != fsm.Primary && r.reached == n.GoalNumber {
		j.checkI12(h)
	}
}

// checkI12: when a node becomes primary, k of its voters hold whatever it
// acknowledged before, alone or under another list.
func (j *judge) checkI12(h *host) {
	s := h.s
	if s.state != running || s.listDisk.Empty() {
		return
	}
	want := position{s.end.b, max(s.end.b.lone, s.end.b.promised)}
	holders := j.holders(s.listDisk, want)
	if want.at > s.end.b.start && holders < s.listDisk.K {
		j.w.fail("I12", "node %d is primary under %q, but only %d voters hold what it acknowledged up to %s",
			h.k.id, s.listDisk.StandbyNames(), holders, want.at)
	}
}

// reached is called when a keeper has walked an edge.
func (j *judge) reached(k *keeper, wk *walk) {
	s := k.h.s
	if wk.to == fsm.Secondary && !s.signal && s.exists {
		j.w.fail("I10", "node %d reached secondary with a server that is no standby", k.id)
	}
}

// fencing is called when a primary decides to stop by itself.
func (j *judge) fencing(k *keeper) {
	if k.current == fsm.Single || k.current == fsm.WaitPrimary && k.h.s.listDisk.Empty() {
		j.w.fail("I4", "node %d in %s stops by itself although nobody may replace it", k.id, k.current)
	}
}

package keeper

import (
	"slices"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// fence answers whether a primary has to stop on its own account: it has lost
// the monitor and the standbys that acknowledge for it, so the group may be
// replacing it. All times are on a clock that runs through suspend.
//
// Invariants: monitor is when the last answered report was sent, not when its
// answer came; contacts[id] is a time at which the standby with this id was
// surely still there, which is the look before the one that saw its reply
// time move. A row in pg_stat_replication alone proves nothing.
type fence struct {
	start   time.Duration
	monitor time.Duration
	looked  time.Duration
	// awake is when this keeper last came back from a pause of its own: the
	// silence before it proves nothing until the monitor had time to answer.
	awake    time.Duration
	contacts map[int64]time.Duration
	replies  map[int64]time.Time
	names    pg.StandbyNames
	known    bool // names were seen since the start
	// blind: the server runs and has not answered the last look. settled: the
	// list was seen since the last edge began that may have changed it.
	blind, settled bool
	// secondaries are the nodes that the monitor counted on when it last
	// answered: for a primary without a list it waits for their word.
	secondaries []int64
}

func newFence(now time.Duration) *fence {
	return &fence{
		start: now, monitor: now, looked: now,
		contacts: make(map[int64]time.Duration), replies: make(map[int64]time.Time),
	}
}

// answered notes that the monitor answered the report sent at this time.
func (f *fence) answered(sent time.Duration) { f.monitor = max(f.monitor, sent) }

// group takes what the monitor said of the other nodes.
func (f *fence) group(peers []peer) {
	f.secondaries = nil
	for _, p := range peers {
		if p.Goal == fsm.Secondary {
			f.secondaries = append(f.secondaries, p.ID)
		}
	}
}

// moves notes that an edge begins or is under way, which may change the list.
func (f *fence) moves() { f.settled = false }

// saw takes one look at the local server; moving says that an edge is under way.
func (f *fence) saw(v view, moving bool) {
	f.blind = v.Running && !v.Ready
	if moving {
		f.moves()
	}
	if !v.Ready || v.InRecovery {
		return
	}
	for _, s := range v.Standbys {
		last, seen := f.replies[s.ID]
		if seen && s.ReplyTime.After(last) {
			f.contacts[s.ID] = max(f.contacts[s.ID], f.looked)
		}
		f.replies[s.ID] = s.ReplyTime
	}
	f.names, f.known, f.settled = v.SyncNames, true, !moving
	if v.At-f.looked > askTimeout && v.At-f.awake > 5*askTimeout {
		f.awake = v.At
	}
	f.looked = v.At
}

// applies reports whether a node in this role fences itself. A primary whose
// list is empty because the monitor ordered it so is replaced by nobody, so
// the loss of a monitor must not stop it.
func (f *fence) applies(role, goal fsm.State) bool {
	alone := f.known && f.names.Empty()
	switch role {
	case fsm.Primary, fsm.ApplySettings, fsm.JoinPrimary:
		return !alone || !goal.In(fsm.Single, fsm.WaitPrimary)
	case fsm.WaitPrimary:
		return f.known && !alone
	default:
		return false
	}
}

// standbys returns when enough standbys were last there: as many members of
// the list as a commit needs, any secondary when the list is empty.
func (f *fence) standbys() time.Duration {
	need := max(f.names.K, 1)
	var times []time.Duration
	for id, at := range f.contacts {
		if f.names.Empty() && slices.Contains(f.secondaries, id) || slices.Contains(f.names.Members, pg.StandbyName(id)) {
			times = append(times, at)
		}
	}
	if len(times) < need {
		return f.start
	}
	slices.Sort(times)
	return times[len(times)-need]
}

// expired reports whether both contacts are older than timeout, and not only
// because this keeper was paused.
//
// A server that does not answer its own keeper says nothing of its standbys,
// which may be there all along: on a machine that crawls, looks fail for longer
// than any timeout. Where commits wait for standbys there is time until it answers, for
// it acknowledges nothing without them. Where they wait for nobody there is none.
func (f *fence) expired(now, timeout time.Duration) bool {
	if f.blind && f.settled && !f.names.Empty() {
		return false
	}
	return now-f.monitor > timeout && now-f.standbys() > timeout && now-f.awake > askTimeout
}

package conflict

import (
	"cmp"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// NodeID is a node's number, the same on all nodes. Zero is no node.
type NodeID uint32

// Stamp says when and by whom something was written. The author of what was
// written here is this node's own number, not the 0 that the server answers.
// The zero stamp is "not known": the server forgets those of old rows.
type Stamp struct {
	CommitTime pg.Timestamp
	Origin     NodeID
}

// Known tells whether there is a stamp.
func (s Stamp) Known() bool { return s != Stamp{} }

// copied is the time of rows that a copy has brought: 1970-01-01. All nodes had
// seen them before, so that nothing that comes later can be in conflict with them,
// whoever had written them.
const copied pg.Timestamp = -946_684_800_000_000

// Copied tells whether a copy has brought the row.
func (s Stamp) Copied() bool { return s.CommitTime == copied }

// Ranks are the numbers that operators gave to nodes for breaking ties. A node
// without one ranks by its id. All nodes must hold the same.
type Ranks map[NodeID]int64

// Outranks tells whether node a beats node b in a tie: the smaller rank does,
// and among equal ranks the smaller id.
func (r Ranks) Outranks(a, b NodeID) bool {
	if c := cmp.Compare(r.rank(a), r.rank(b)); c != 0 {
		return c < 0
	}
	return a < b
}

func (r Ranks) rank(n NodeID) int64 {
	if rank, ok := r[n]; ok {
		return rank
	}
	return int64(n)
}

// Compare is the total order of stamps: negative when a is less than b, zero
// when they are the same.
func (r Ranks) Compare(a, b Stamp) int {
	switch {
	case a.Known() != b.Known():
		if a.Known() {
			return 1
		}
		return -1
	case a.CommitTime != b.CommitTime:
		return cmp.Compare(a.CommitTime, b.CommitTime)
	case a.Origin == b.Origin:
		return 0
	case r.Outranks(a.Origin, b.Origin):
		return 1
	default:
		return -1
	}
}

// Beats tells whether a change that arrives wins over what is held. It is the
// test that rides in the statements that write rows.
func (r Ranks) Beats(change, held Stamp) bool {
	return !held.Known() || change.Origin == held.Origin || r.Compare(change, held) > 0
}

// Beaten returns those of the nodes that lose a tie against an author, in the
// order given: what that test has to be told.
func (r Ranks) Beaten(author NodeID, nodes []NodeID) []NodeID {
	var beaten []NodeID
	for _, n := range nodes {
		if n != author && r.Outranks(author, n) {
			beaten = append(beaten, n)
		}
	}
	return beaten
}

// DefaultMaxSkew is how far ahead of this server's clock a transaction may be
// stamped to be waited for.
const DefaultMaxSkew = 5 * time.Second

// Wait says how long a transaction has to wait before it may be applied: until
// this server's clock has passed its commit time. Applied earlier, a local write
// on top of it could carry an earlier stamp, win here and lose everywhere else.
// Too far ahead, it is not waited for: somebody has to look at that clock.
func Wait(commit, now pg.Timestamp, limit time.Duration) (wait time.Duration, tooFar bool) {
	if commit < now {
		return 0, false
	}
	ahead := commit.Sub(now)
	if ahead >= limit {
		return 0, true
	}
	return ahead + time.Microsecond, false
}

// stepTolerance is by how much commit times fall in the normal course of
// things: transactions commit in another order than they take their times.
const stepTolerance = 100 * time.Millisecond

// SteppedBack tells whether, and how far, the clock behind a stream of commits
// was set back between two of them. No order of stamps can repair that.
func SteppedBack(before, after pg.Timestamp) (time.Duration, bool) {
	if back := before.Sub(after); back > stepTolerance {
		return back, true
	}
	return 0, false
}

// Vector is how far a node has applied the changes of others: for each author
// the position in that author's log.
type Vector map[NodeID]pg.LSN

// Passed tells whether a tombstone may go: whether every provider that hears
// from the tombstone's author has applied that author's log up to the position
// of the delete. Then nothing older than the delete can arrive any more. Time
// proves nothing: an idle or a slow provider looks the same. A provider that has
// said nothing keeps the tombstone.
func Passed(author NodeID, at pg.LSN, providers map[NodeID]Vector) bool {
	for provider, vector := range providers {
		if provider == author {
			continue // its own changes come in their order
		}
		applied, listens := vector[author]
		if len(vector) == 0 || listens && applied < at {
			return false
		}
	}
	return true
}

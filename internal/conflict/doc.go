// Package conflict decides what becomes of one replicated change when the row
// that it is for is not what the sender saw: classify it, choose a winner, and
// say what to write, what to remember and what to record.
//
// # The order
//
// Every change has a [Stamp]: the commit time of its transaction and the node
// where that began, its author. Stamps have a total order that all nodes
// compute alike, [Ranks.Compare]: the later time is greater; at one time the
// author with the smaller rank is. Two rules come before it: what is known
// beats what is not (a frozen row has lost its stamp), and a change beats
// whatever its own author wrote before, since one author's changes arrive in
// the order in which they were made. [Ranks.Beats] is all of this.
//
// # Why nodes converge
//
// Under [LastUpdateWins] a key is a register that holds a row or a tombstone.
// An insert or an update puts a whole row into it, a delete puts a tombstone,
// an update that changes the key does one of each, and the greatest stamp wins
// in whatever order they arrive. The rest of the package keeps this true where
// a change does not carry a whole row (values stored out of line that an update
// did not write are not sent) or where rows compete for another unique key.
//
// What it needs from the caller: changes of one author in their order, each
// exactly once; the row, its stamp and the tombstones looked up so that nothing
// can change them until the outcome is written; tombstones also for deletes made
// here; and that no local write can follow a change and yet carry a stamp that
// is not later ([Wait]).
//
// Values are opaque, but for the columns that add up ([Add]). The package never
// reads a clock, never logs, never does I/O.
package conflict

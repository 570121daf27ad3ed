package conflict

import (
	"fmt"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Action is what a change does to a row.
type Action uint8

// The actions.
const (
	Insert Action = iota
	Update
	Delete
)

// String is the action's name.
func (a Action) String() string {
	switch a {
	case Insert:
		return "INSERT"
	case Update:
		return "UPDATE"
	case Delete:
		return "DELETE"
	default:
		return fmt.Sprintf("action %d", uint8(a))
	}
}

// Change is one change that arrived.
type Change struct {
	Action Action
	Stamp  Stamp
	// KeyChanged: the update gives the row another key.
	KeyChanged bool
	// Incomplete: the new row lacks values stored out of line that the update
	// did not write.
	Incomplete bool
	// Detachable: the table has columns whose values may be lacking in that way.
	Detachable bool
	// Counters: the table has columns that add up.
	Counters bool
	// Filtered: this node does not get all inserts of the table with all their
	// columns, so that a missing row cannot be made up from an update.
	Filtered bool
	// Fetched is the answer to Outcome.Fetch, when Resolve is asked again.
	Fetched Fetched
}

// Fetched says what came of the wish for a row's values.
type Fetched uint8

// The answers.
const (
	NotFetched  Fetched = iota
	FetchedRow          // the values are there
	FetchedGone         // the other node has no such row: its delete follows
)

// Ref is the caller's name for a row it holds.
type Ref int

// Keys that belong to no row.
const (
	OldKey Ref = -1 - iota // the key that the change looks for
	NewKey                 // the one that it gives the row; the same when it does not change it
)

// Row is a row that this node holds.
type Row struct {
	Ref   Ref // not negative, different for different rows
	Stamp Stamp
	XID   uint32 // the local transaction that wrote it
	Index string // the unique index by which it was found; empty when there is none
}

// Local is what this node holds under a change's keys.
type Local struct {
	// Row has the key that the change looks for: that of an inserted row, the old
	// key of an update or delete.
	Row *Row
	// Deleted are the stamps of the tombstones for that key, and for its table.
	Deleted []Stamp
	// Target and TargetDeleted are the same for the new key of an update that
	// changes it.
	Target        *Row
	TargetDeleted []Stamp
	// Others hold what the new row needs in another unique index, in the order
	// of the indexes. A row may stand there more than once.
	Others []Row
}

// StepKind is a way to write.
type StepKind uint8

// The ways to write.
const (
	// InsertRow inserts the new row.
	InsertRow StepKind = iota
	// UpdateRow writes the new row over the one that Ref names, key included.
	UpdateRow
	// AmendRow writes some columns of the row that Ref names. The row keeps its
	// stamp, which has to be remembered beside it.
	AmendRow
	// DeleteRow deletes the row that Ref names.
	DeleteRow
	// Bury writes a tombstone with Stamp for the key that Ref names, in the place
	// of the one that is there. Where Stamp is not the change's, the position by
	// which it may go ([Passed]) is any that this node has applied of its author.
	Bury
)

// Step is one thing to write. The steps of an outcome are written in their
// order, in the transaction of the change.
type Step struct {
	Kind  StepKind
	Ref   Ref   // for UpdateRow, AmendRow, DeleteRow a row; for Bury a row's key, OldKey or NewKey
	Stamp Stamp // for Bury; not always that of the change

	counters counters
	fetched  bool
}

// Fetch asks for values of a row that another node has now.
type Fetch struct {
	From NodeID
	// Since is when From wrote what is asked for. A row that was written before is
	// not it: From may have emptied the table meanwhile, to copy it again.
	Since pg.Timestamp
	// Key is the row there: OldKey or NewKey of the change.
	Key Ref
}

// Outcome is what to do about a change.
type Outcome struct {
	// Fetch is set when values are lacking. Then nothing else is: read them, and
	// ask again with Change.Fetched.
	Fetch     *Fetch
	Steps     []Step
	Conflicts []Conflict
}

// Column is what an assignment depends on.
type Column struct {
	Unchanged  bool // the change does not carry its value
	Detachable bool // its value may be stored out of line
	Counter    bool // it adds up
	OldKnown   bool // the change carries the old value
}

// Source says where a column's value comes from.
type Source uint8

// The sources of a value.
const (
	Leave      Source = iota // not written
	TakeNew                  // the change's
	TakeFetch                // the fetched row's
	AddChange                // held + (new − old)
	AddNew                   // held + new
	TakeChange               // new − old
)

type counters uint8

const (
	counterNew        counters = iota // the value as it is
	counterDifference                 // the row exists elsewhere: what the update adds
	counterSum                        // two inserts of one row: both amounts
)

// Assign says what InsertRow, UpdateRow or AmendRow writes into a column.
func (s Step) Assign(c Column) Source {
	switch {
	case c.Counter && s.counters == counterSum:
		return AddNew
	case c.Counter && s.counters == counterDifference && c.OldKnown:
		if s.Kind == InsertRow {
			return TakeChange
		}
		return AddChange
	case s.Kind == AmendRow:
		if s.fetched && c.Detachable {
			return TakeFetch
		}
		return Leave
	case c.Unchanged:
		if s.fetched {
			return TakeFetch
		}
		return Leave
	default:
		return TakeNew
	}
}

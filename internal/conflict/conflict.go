package conflict

import "fmt"

// Type is the kind of a conflict.
type Type uint8

// The types of conflicts.
const (
	InsertExists        Type = iota // the row is there already
	InsertDeleted                   // the row was deleted after it
	UpdateOriginDiffers             // the row is another author's; the update wins
	UpdateExists                    // the row is another author's, or another row has the unique key; one of them loses
	UpdateMissing                   // the row is not there
	UpdateDeleted                   // the row was deleted after it
	DeleteOriginDiffers             // the row is another author's; the delete wins
	DeleteExists                    // the row is another author's, and newer
	DeleteMissing                   // the row is not there
)

// typeNames holds the names of release 6 and release 5 of Spock. Where a release
// has none, the other's is taken; the two for inserts of deleted rows are ours.
var typeNames = [...][2]string{
	InsertExists:        {"insert_exists", "insert_exists"},
	InsertDeleted:       {"insert_deleted", "insert_delete"},
	UpdateOriginDiffers: {"update_origin_differs", "update_update"},
	UpdateExists:        {"update_exists", "update_update"},
	UpdateMissing:       {"update_missing", "update_delete"},
	UpdateDeleted:       {"update_missing", "update_delete"},
	DeleteOriginDiffers: {"delete_origin_differs", "delete_origin_differs"},
	DeleteExists:        {"delete_exists", "delete_exists"},
	DeleteMissing:       {"delete_missing", "delete_delete"},
}

// String is the type's name in release 6.
func (t Type) String() string { return t.name(0) }

// Release5 is the type's name in release 5, as in spock.resolutions.
func (t Type) Release5() string { return t.name(1) }

func (t Type) name(release int) string {
	if int(t) < len(typeNames) {
		return typeNames[t][release]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Resolution is how a conflict ended.
type Resolution uint8

// The resolutions.
const (
	RemoteApplied Resolution = iota
	LocalKept
	Skipped
)

// String is the resolution's name in spock.resolutions.
func (r Resolution) String() string {
	switch r {
	case RemoteApplied:
		return "apply_remote"
	case LocalKept:
		return "keep_local"
	case Skipped:
		return "skip"
	default:
		return fmt.Sprintf("resolution %d", uint8(r))
	}
}

// Loss says whose write a conflict cost.
type Loss uint8

// The losses.
const (
	NothingLost Loss = iota
	LocalLost
	RemoteLost
)

// Conflict is what a record of a conflict holds, beside the change itself, its
// transaction and the texts of the rows.
type Conflict struct {
	Type       Type
	Resolution Resolution
	Lost       Loss
	// Row is the row that this node held; nil when there was none.
	Row *Row
	// Deleted is the tombstone that the change did not beat; zero when that was
	// not it.
	Deleted Stamp
	// Stored: the conflict counts, and is stored when resolutions are.
	Stored bool
}

// LocalOrigin is the record's local_origin: 0 for a row written here. It is null
// (false) when there was no row or its stamp is not known.
func (c Conflict) LocalOrigin(self NodeID) (NodeID, bool) {
	switch {
	case c.Row == nil || !c.Row.Stamp.Known():
		return 0, false
	case c.Row.Stamp.Origin == self:
		return 0, true
	default:
		return c.Row.Stamp.Origin, true
	}
}

// Message is the line for the log; relation is qualified and quoted.
func (c Conflict) Message(relation, identityIndex string) string {
	what := "UPDATE"
	switch c.Type {
	case InsertExists:
		what = "INSERT EXISTS"
	case InsertDeleted:
		what = "INSERT"
	case DeleteOriginDiffers, DeleteExists, DeleteMissing:
		what = "DELETE"
	case UpdateOriginDiffers, UpdateExists, UpdateMissing, UpdateDeleted:
	}
	if c.Row == nil {
		return fmt.Sprintf("CONFLICT: remote %s on relation %s replica identity index %s (tuple not found). Resolution: %s.",
			what, relation, known(identityIndex), c.Resolution)
	}
	return fmt.Sprintf("CONFLICT: remote %s on relation %s (local index %s). Resolution: %s.",
		what, relation, known(c.Row.Index), c.Resolution)
}

func known(index string) string {
	if index == "" {
		return "(unknown)"
	}
	return index
}

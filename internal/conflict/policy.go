package conflict

import "fmt"

// Policy chooses between a change and a row of another author.
type Policy uint8

// The policies, and what each does with a change that meets
//
//	                    a row of another author     no row, but a tombstone
//	                                                of another author that
//	                                                the change does not beat
//	last_update_wins    the greater stamp stays     the row stays deleted
//	first_update_wins   the smaller stamp stays     the change is applied
//	apply_remote        the change is applied       the change is applied
//	keep_local          the row stays               the row stays deleted
//	error               the change fails            the change fails
//
// A row that the change's own author wrote, one whose stamp is not known, and a
// tombstone that the change beats are no obstacle under any of them. Only the
// first makes nodes converge.
const (
	LastUpdateWins Policy = iota
	FirstUpdateWins
	ApplyRemote
	KeepLocal
	Fail
)

var policyNames = [...]string{"last_update_wins", "first_update_wins", "apply_remote", "keep_local", "error"}

// String is the policy's name in the settings.
func (p Policy) String() string {
	if int(p) < len(policyNames) {
		return policyNames[p]
	}
	return fmt.Sprintf("policy %d", uint8(p))
}

// ParsePolicy reads the value of spock.conflict_resolution.
func ParsePolicy(s string) (Policy, error) {
	for p, name := range policyNames {
		if s == name {
			return Policy(p), nil
		}
	}
	return 0, fmt.Errorf("parse conflict resolution %q: not one of %q", s, policyNames)
}

// MissingPolicy chooses what an update of a row that is not there does.
type MissingPolicy uint8

// The ways to treat an update of a missing row that no tombstone explains.
const (
	// InsertMissing makes the row. Its insert may still be on its way from a
	// third node, and loses when it comes. This is what converges.
	InsertMissing MissingPolicy = iota
	// FailMissing is Spock's: the transaction takes the exception path.
	FailMissing
	// SkipMissing leaves the change out, with a record.
	SkipMissing
)

var missingNames = [...]string{"insert", "error", "skip"}

// String is the value's name in the settings.
func (p MissingPolicy) String() string {
	if int(p) < len(missingNames) {
		return missingNames[p]
	}
	return fmt.Sprintf("policy %d", uint8(p))
}

// ParseMissingPolicy reads the value of spock.update_missing.
func ParseMissingPolicy(s string) (MissingPolicy, error) {
	for p, name := range missingNames {
		if s == name {
			return MissingPolicy(p), nil
		}
	}
	return 0, fmt.Errorf("parse treatment of missing rows %q: not one of %q", s, missingNames)
}

// Rules are the settings of a node. Those that are zero are the ones under
// which nodes converge.
type Rules struct {
	Self  NodeID // this node
	Ranks Ranks

	Policy        Policy
	UpdateMissing MissingPolicy
	// DeleteAlways is Spock 5: a delete also removes a row that is newer.
	DeleteAlways bool
	// IdentityOnly leaves unique keys other than the identity to the server,
	// which fails the change (spock.check_all_uc_indexes = off).
	IdentityOnly bool
	// TruncateAlways is Spock: TRUNCATE also removes rows that are newer.
	TruncateAlways bool
	// SaveRemoteWins also stores the records of changes that won over a row of
	// another author. Most of them overwrite what their author had seen; with
	// them every lost write leaves a record.
	SaveRemoteWins bool
}

package conflict

import (
	"errors"
	"fmt"
	"slices"
)

// The errors that send a transaction to the exception path.
var (
	// ErrConflict is a conflict under the policy [Fail].
	ErrConflict = errors.New("cannot apply conflicting row")
	// ErrMissing is an update whose row is not there, where that is an error.
	ErrMissing = errors.New("logical replication did not find row to be updated in replication target relation")
)

var errStamp = errors.New("resolve change: it has no stamp of another node")

// Resolve decides what becomes of a change.
func Resolve(c Change, l Local, rules Rules) (Outcome, error) {
	if c.Stamp.Origin == 0 || c.Stamp.Origin == rules.Self {
		return Outcome{}, errStamp
	}
	j := judge{change: c, rules: rules}
	var err error
	switch {
	case c.Action == Insert:
		err = j.insert(l)
	case c.Action == Delete:
		err = j.delete(l)
	case c.Action != Update:
		err = fmt.Errorf("resolve change: unknown %s", c.Action)
	case c.KeyChanged:
		err = j.moveKey(l)
	default:
		err = j.update(l)
	}
	if err != nil {
		return Outcome{}, err
	}
	if j.out.Fetch != nil {
		return Outcome{Fetch: j.out.Fetch}, nil
	}
	return j.out, nil
}

// judge works on one change.
type judge struct {
	change Change
	rules  Rules
	out    Outcome
}

// wins tells whether the change wins over a row.
func (j *judge) wins(row *Row) (bool, error) {
	if !row.Stamp.Known() || row.Stamp.Origin == j.change.Stamp.Origin {
		return true, nil
	}
	switch j.rules.Policy {
	case LastUpdateWins:
		return j.rules.Ranks.Beats(j.change.Stamp, row.Stamp), nil
	case FirstUpdateWins:
		return !j.rules.Ranks.Beats(j.change.Stamp, row.Stamp), nil
	case ApplyRemote:
		return true, nil
	case KeepLocal:
		return false, nil
	case Fail:
		return false, ErrConflict
	default:
		return false, fmt.Errorf("resolve change: unknown %s", j.rules.Policy)
	}
}

// deleted returns the tombstone that keeps the change from being applied.
func (j *judge) deleted(tombstones []Stamp) (Stamp, bool, error) {
	for _, t := range tombstones {
		if j.rules.Ranks.Beats(j.change.Stamp, t) {
			continue
		}
		switch j.rules.Policy {
		case LastUpdateWins, KeepLocal:
			return t, true, nil
		case FirstUpdateWins, ApplyRemote:
		case Fail:
			return t, true, ErrConflict
		default:
			return t, true, fmt.Errorf("resolve change: unknown %s", j.rules.Policy)
		}
	}
	return Stamp{}, false, nil
}

func (j *judge) step(kind StepKind, ref Ref) *Step {
	j.out.Steps = append(j.out.Steps, Step{Kind: kind, Ref: ref})
	return &j.out.Steps[len(j.out.Steps)-1]
}

// bury leaves a tombstone, unless it would be one that everything beats.
func (j *judge) bury(key Ref, stamp Stamp) {
	if stamp.Known() {
		j.step(Bury, key).Stamp = stamp
	}
}

func (j *judge) record(t Type, r Resolution, lost Loss, row *Row) *Conflict {
	stored := true
	if t == UpdateOriginDiffers || t == DeleteOriginDiffers {
		stored = j.rules.SaveRemoteWins
	}
	j.out.Conflicts = append(j.out.Conflicts, Conflict{Type: t, Resolution: r, Lost: lost, Row: row, Stored: stored})
	return &j.out.Conflicts[len(j.out.Conflicts)-1]
}

// overwritten records that a change wins over a row of another author. What a copy
// has brought was the source's to send, which makes it nobody's.
func (j *judge) overwritten(t Type, row *Row) {
	if j.foreign(row) && !row.Stamp.Copied() {
		j.record(t, RemoteApplied, LocalLost, row)
	}
}

// foreign tells whether a row is known to be another author's.
func (j *judge) foreign(row *Row) bool {
	return row.Stamp.Known() && row.Stamp.Origin != j.change.Stamp.Origin
}

func (j *judge) insert(l Local) error {
	t, dead, err := j.deleted(l.Deleted)
	if err != nil {
		return err
	}
	if dead {
		j.record(InsertDeleted, Skipped, RemoteLost, nil).Deleted = t
		return nil
	}
	return j.place(l.Row, l.Others, OldKey, InsertExists, counterNew)
}

// place puts the change's new row under a key that it may hold: over the row
// that is there, or as a new one, and away with what else is in its way.
func (j *judge) place(row *Row, others []Row, key Ref, collision Type, missing counters) error {
	if row != nil {
		won, err := j.wins(row)
		if err != nil {
			return err
		}
		if !won {
			j.record(InsertExists, LocalKept, RemoteLost, row)
			j.amend(row, key, counterSum)
			return nil
		}
	}
	free, err := j.clear(row, others, key, collision)
	if err != nil || !free {
		return err
	}
	if row == nil {
		j.write(InsertRow, key, missing)
		return nil
	}
	j.record(InsertExists, RemoteApplied, LocalLost, row)
	j.write(UpdateRow, row.Ref, counterSum)
	return nil
}

// write is the step that writes the new row.
func (j *judge) write(kind StepKind, ref Ref, how counters) {
	s := j.step(kind, ref)
	if j.change.Counters {
		s.counters = how
	}
	s.fetched = j.change.Fetched == FetchedRow
}

// clear removes the rows that hold a unique key which the new row needs. When
// one of them wins over the change it is the new row that goes: all nodes must
// end with the same one of the two, so that it goes from its own key as well,
// whatever stood there. What goes leaves a tombstone with the stamp that it had,
// not with that of the winner: a later change of it counts as it did before.
func (j *judge) clear(row *Row, others []Row, key Ref, collision Type) (bool, error) {
	if j.rules.IdentityOnly {
		return true, nil
	}
	var losers []Row
	free := true
	for _, other := range others {
		if row != nil && other.Ref == row.Ref || contains(losers, other.Ref) {
			continue
		}
		won, err := j.wins(&other)
		if err != nil {
			return false, err
		}
		if won {
			losers = append(losers, other)
			continue
		}
		free = false
		j.record(collision, LocalKept, RemoteLost, &other)
	}
	if !free {
		if j.rules.Policy == LastUpdateWins {
			if row != nil {
				j.step(DeleteRow, row.Ref)
			}
			j.bury(key, j.change.Stamp)
		}
		return false, nil
	}
	for _, loser := range losers {
		j.record(collision, RemoteApplied, LocalLost, &loser)
		j.step(DeleteRow, loser.Ref)
		j.bury(loser.Ref, loser.Stamp)
	}
	return true, nil
}

func contains(rows []Row, ref Ref) bool {
	return slices.ContainsFunc(rows, func(r Row) bool { return r.Ref == ref })
}

func (j *judge) update(l Local) error {
	row := l.Row
	if row == nil {
		return j.updateMissing(l)
	}
	won, err := j.wins(row)
	if err != nil {
		return err
	}
	if !won {
		j.record(UpdateExists, LocalKept, RemoteLost, row)
		j.amend(row, OldKey, counterDifference)
		return nil
	}
	// Values that did not travel are those of the row as the author knew it. A row
	// of another author may be one that the author did not know; one that has lost
	// its stamp is so old that everybody has known it.
	if j.change.Incomplete && j.foreign(row) && j.fetch(j.change.Stamp, OldKey) {
		return nil
	}
	free, err := j.clear(row, l.Others, OldKey, UpdateExists)
	if err != nil || !free {
		return err
	}
	j.overwritten(UpdateOriginDiffers, row)
	j.write(UpdateRow, row.Ref, counterDifference)
	return nil
}

// fetch asks the author of a version of the row for values, once.
func (j *judge) fetch(version Stamp, key Ref) bool {
	if j.change.Fetched != NotFetched {
		return false
	}
	j.out.Fetch = &Fetch{From: version.Origin, Since: version.CommitTime, Key: key}
	return true
}

// amend is what a change does to a row that wins over it.
//
// Its counters are added all the same. And it may be the news that the row here
// is not quite its author's: when the author wrote over this very change, and
// left out what had not changed, and that arrived here first, upon an older row
// of the same author, then the values left out are those of the older row. They
// are read from the author again.
func (j *judge) amend(row *Row, key Ref, how counters) {
	incomplete := j.rules.Policy == LastUpdateWins && j.change.Detachable && row.Stamp.Origin != j.rules.Self
	if incomplete && j.fetch(row.Stamp, key) {
		return
	}
	incomplete = incomplete && j.change.Fetched == FetchedRow
	if !incomplete && !j.change.Counters {
		return
	}
	s := j.step(AmendRow, row.Ref)
	s.fetched = incomplete
	if j.change.Counters {
		s.counters = how
	}
}

// updateMissing treats an update whose row is not there.
func (j *judge) updateMissing(l Local) error {
	t, dead, err := j.deleted(l.Deleted)
	if err != nil {
		return err
	}
	if dead {
		j.record(UpdateDeleted, Skipped, RemoteLost, nil).Deleted = t
		return nil
	}
	if done, err := j.missing(); done || err != nil {
		return err
	}
	if j.change.Incomplete {
		if j.fetch(j.change.Stamp, OldKey) {
			return nil
		}
		if j.change.Fetched == FetchedGone {
			j.record(UpdateMissing, Skipped, NothingLost, nil)
			return nil
		}
	}
	j.record(UpdateMissing, RemoteApplied, NothingLost, nil)
	return j.place(nil, l.Others, OldKey, UpdateExists, missingCounters(l.Deleted))
}

// missing applies the setting for missing rows; done means that nothing is left
// to do.
func (j *judge) missing() (done bool, err error) {
	switch {
	case j.rules.UpdateMissing == FailMissing || j.change.Filtered && j.rules.UpdateMissing == InsertMissing:
		return true, ErrMissing
	case j.rules.UpdateMissing == SkipMissing:
		j.record(UpdateMissing, Skipped, RemoteLost, nil)
		return true, nil
	default:
		return false, nil
	}
}

// missingCounters says what a counter starts with when an update makes the row.
// Where nothing was deleted the row's insert is still to come and brings its
// amount along. Where the update outlives a delete nothing else will.
func missingCounters(deleted []Stamp) counters {
	if len(deleted) == 0 {
		return counterDifference
	}
	return counterNew
}

// moveKey judges an update that changes the key: as a delete of the old key and
// an insert of the new one, each on its own. Otherwise a newer update of the old
// key would leave one row here and two elsewhere.
func (j *judge) moveKey(l Local) error {
	leaves, err := j.leaveKey(l)
	if err != nil || j.out.Fetch != nil {
		return err
	}
	if l.Row == nil && j.rules.UpdateMissing != InsertMissing {
		return nil // said by leaveKey
	}
	t, dead, err := j.deleted(l.TargetDeleted)
	if err != nil {
		return err
	}
	if dead {
		j.record(InsertDeleted, Skipped, RemoteLost, nil).Deleted = t
	}
	enters := !dead
	if enters && l.Target != nil {
		if enters, err = j.wins(l.Target); err != nil {
			return err
		}
	}
	if enters && j.change.Incomplete {
		// Also when the row is this author's: a change that would tell of values
		// it does not have finds only a tombstone under the old key.
		if j.fetch(j.change.Stamp, NewKey) {
			return nil
		}
		enters = j.change.Fetched == FetchedRow
	}
	inPlace := leaves && enters && l.Row != nil && l.Target == nil
	if leaves && l.Row != nil && !inPlace {
		j.step(DeleteRow, l.Row.Ref)
	}
	if leaves {
		defer j.bury(OldKey, j.change.Stamp)
	}
	switch {
	case inPlace:
		return j.moveInPlace(l)
	case enters:
		return j.place(l.Target, without(l.Others, l.Row, leaves), NewKey, UpdateExists, counterNew)
	case l.Target != nil && !dead:
		j.record(InsertExists, LocalKept, RemoteLost, l.Target)
		j.amend(l.Target, NewKey, counterSum)
	}
	return nil
}

// leaveKey judges the old key's half: whether what stands there goes, with a
// tombstone.
func (j *judge) leaveKey(l Local) (bool, error) {
	if l.Row != nil {
		won, err := j.wins(l.Row)
		if err != nil {
			return false, err
		}
		if won {
			j.overwritten(UpdateOriginDiffers, l.Row)
		} else {
			j.record(UpdateExists, LocalKept, RemoteLost, l.Row)
		}
		return won, nil
	}
	t, dead, err := j.deleted(l.Deleted)
	if err != nil {
		return false, err
	}
	if dead && j.rules.UpdateMissing != InsertMissing {
		j.record(UpdateDeleted, Skipped, RemoteLost, nil).Deleted = t
		return false, nil
	}
	if done, err := j.missing(); done || err != nil {
		return false, err
	}
	j.record(UpdateMissing, RemoteApplied, NothingLost, nil).Deleted = t
	return !dead, nil
}

// moveInPlace is the plain case: the row is there and its new key is free.
func (j *judge) moveInPlace(l Local) error {
	free, err := j.clear(l.Row, l.Others, NewKey, UpdateExists)
	if err != nil || !free {
		return err
	}
	j.write(UpdateRow, l.Row.Ref, counterDifference)
	return nil
}

// without leaves out the row that is about to go.
func without(others []Row, row *Row, goes bool) []Row {
	if row == nil || !goes {
		return others
	}
	return slices.DeleteFunc(slices.Clone(others), func(r Row) bool { return r.Ref == row.Ref })
}

func (j *judge) delete(l Local) error {
	row := l.Row
	if row == nil {
		j.record(DeleteMissing, Skipped, NothingLost, nil)
		for _, t := range l.Deleted {
			if !j.rules.Ranks.Beats(j.change.Stamp, t) {
				return nil
			}
		}
		j.bury(OldKey, j.change.Stamp)
		return nil
	}
	won, err := true, error(nil)
	if !j.rules.DeleteAlways {
		won, err = j.wins(row)
	}
	if err != nil {
		return err
	}
	if !won {
		j.record(DeleteExists, Skipped, RemoteLost, row)
		return nil
	}
	j.overwritten(DeleteOriginDiffers, row)
	j.step(DeleteRow, row.Ref)
	j.bury(OldKey, j.change.Stamp)
	return nil
}

// Truncated is what TRUNCATE does to a table.
type Truncated uint8

// The ways to truncate.
const (
	TruncateAll Truncated = iota
	// DeleteOlder deletes the rows that the TRUNCATE beats, and no others.
	DeleteOlder
)

// Truncate decides a TRUNCATE: a delete of all rows with an older stamp. The
// caller says, under the table's lock, whether there is one that the TRUNCATE
// does not beat. Either way a tombstone for the whole table stays, which stands
// among Local.Deleted of its rows.
func Truncate(newerRow bool, rules Rules) Truncated {
	if newerRow && !rules.TruncateAlways {
		return DeleteOlder
	}
	return TruncateAll
}

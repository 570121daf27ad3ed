package conflict

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// The node of these tests is 1. Changes come from node 2 at time 20, unless
// they say otherwise; rows and tombstones have the stamps that their names say.
const self NodeID = 1

var (
	older   = Stamp{10, 3} // another author, beaten
	newer   = Stamp{30, 3} // another author, not beaten
	same    = Stamp{30, 2} // the change's own author
	ours    = Stamp{30, self}
	ancient = Stamp{} // not known
)

func rowAt(ref Ref, s Stamp) *Row { return &Row{Ref: ref, Stamp: s, XID: 7, Index: "item_pkey"} }

// describe is an outcome in one line.
func describe(o Outcome, err error) string {
	if err != nil {
		return err.Error()
	}
	var parts []string
	if o.Fetch != nil {
		parts = append(parts, fmt.Sprintf("fetch %s from %d", keyName(o.Fetch.Key), o.Fetch.From))
	}
	for _, s := range o.Steps {
		switch s.Kind {
		case InsertRow:
			parts = append(parts, "insert")
		case UpdateRow:
			parts = append(parts, "update "+keyName(s.Ref))
		case AmendRow:
			parts = append(parts, "amend "+keyName(s.Ref))
		case DeleteRow:
			parts = append(parts, "delete "+keyName(s.Ref))
		case Bury:
			parts = append(parts, fmt.Sprintf("bury %s at %d/%d", keyName(s.Ref), int64(s.Stamp.CommitTime), s.Stamp.Origin))
		}
	}
	for _, c := range o.Conflicts {
		stored := ""
		if !c.Stored {
			stored = " not stored"
		}
		parts = append(parts, fmt.Sprintf("[%s %s %s%s]", c.Type.Release5(), c.Resolution, []string{"none", "local", "remote"}[c.Lost]+" lost", stored))
	}
	return strings.Join(parts, ", ")
}

func keyName(r Ref) string {
	switch r {
	case OldKey:
		return "old key"
	case NewKey:
		return "new key"
	default:
		return fmt.Sprintf("row %d", r)
	}
}

// TestPolicies is the table of what each policy does.
func TestPolicies(t *testing.T) {
	t.Parallel()
	type verdicts map[Policy]string
	const (
		all5    = LastUpdateWins
		refused = "cannot apply conflicting row"
	)
	tests := []struct {
		name   string
		change Change
		local  Local
		want   verdicts // where a policy is not there, it does as last_update_wins
	}{
		{
			"insert, no row",
			Change{Action: Insert},
			Local{},
			verdicts{all5: "insert"},
		},
		{
			"insert, older row",
			Change{Action: Insert},
			Local{Row: rowAt(0, older)},
			verdicts{
				LastUpdateWins:  "update row 0, [insert_exists apply_remote local lost]",
				FirstUpdateWins: "[insert_exists keep_local remote lost]",
				KeepLocal:       "[insert_exists keep_local remote lost]",
				Fail:            refused,
			},
		},
		{
			"insert, newer row",
			Change{Action: Insert},
			Local{Row: rowAt(0, newer)},
			verdicts{
				LastUpdateWins:  "[insert_exists keep_local remote lost]",
				FirstUpdateWins: "update row 0, [insert_exists apply_remote local lost]",
				ApplyRemote:     "update row 0, [insert_exists apply_remote local lost]",
				Fail:            refused,
			},
		},
		{
			"insert, row of unknown stamp",
			Change{Action: Insert},
			Local{Row: rowAt(0, ancient)},
			verdicts{all5: "update row 0, [insert_exists apply_remote local lost]"},
		},
		{
			"insert, newer tombstone",
			Change{Action: Insert},
			Local{Deleted: []Stamp{older, newer}},
			verdicts{
				LastUpdateWins:  "[insert_delete skip remote lost]",
				FirstUpdateWins: "insert",
				ApplyRemote:     "insert",
				Fail:            refused,
			},
		},
		{
			"insert, older tombstone",
			Change{Action: Insert},
			Local{Deleted: []Stamp{older, same}},
			verdicts{all5: "insert"},
		},
		{
			"update, row of the same author",
			Change{Action: Update, Incomplete: true},
			Local{Row: rowAt(0, same)},
			verdicts{all5: "update row 0"},
		},
		{
			"update, row of unknown stamp",
			Change{Action: Update, Incomplete: true},
			Local{Row: rowAt(0, ancient)},
			verdicts{all5: "update row 0"},
		},
		{
			"update, older row",
			Change{Action: Update},
			Local{Row: rowAt(0, older)},
			verdicts{
				LastUpdateWins:  "update row 0, [update_update apply_remote local lost not stored]",
				FirstUpdateWins: "[update_update keep_local remote lost]",
				KeepLocal:       "[update_update keep_local remote lost]",
				Fail:            refused,
			},
		},
		{
			"update, newer row",
			Change{Action: Update},
			Local{Row: rowAt(0, newer)},
			verdicts{
				LastUpdateWins:  "[update_update keep_local remote lost]",
				FirstUpdateWins: "update row 0, [update_update apply_remote local lost not stored]",
				ApplyRemote:     "update row 0, [update_update apply_remote local lost not stored]",
				Fail:            refused,
			},
		},
		{
			"update, no row",
			Change{Action: Update},
			Local{},
			verdicts{all5: "insert, [update_delete apply_remote none lost]"},
		},
		{
			"update, no row, newer tombstone",
			Change{Action: Update},
			Local{Deleted: []Stamp{newer}},
			verdicts{
				LastUpdateWins:  "[update_delete skip remote lost]",
				FirstUpdateWins: "insert, [update_delete apply_remote none lost]",
				ApplyRemote:     "insert, [update_delete apply_remote none lost]",
				Fail:            refused,
			},
		},
		{
			"delete, older row",
			Change{Action: Delete},
			Local{Row: rowAt(0, older)},
			verdicts{
				LastUpdateWins:  "delete row 0, bury old key at 20/2, [delete_origin_differs apply_remote local lost not stored]",
				FirstUpdateWins: "[delete_exists skip remote lost]",
				KeepLocal:       "[delete_exists skip remote lost]",
				Fail:            refused,
			},
		},
		{
			"delete, newer row",
			Change{Action: Delete},
			Local{Row: rowAt(0, newer)},
			verdicts{
				LastUpdateWins:  "[delete_exists skip remote lost]",
				FirstUpdateWins: "delete row 0, bury old key at 20/2, [delete_origin_differs apply_remote local lost not stored]",
				ApplyRemote:     "delete row 0, bury old key at 20/2, [delete_origin_differs apply_remote local lost not stored]",
				Fail:            refused,
			},
		},
		{
			"delete, row of the same author",
			Change{Action: Delete},
			Local{Row: rowAt(0, same)},
			verdicts{all5: "delete row 0, bury old key at 20/2"},
		},
		{
			"delete, no row",
			Change{Action: Delete},
			Local{},
			verdicts{all5: "bury old key at 20/2, [delete_delete skip none lost]"},
		},
		{
			"delete, no row, newer tombstone",
			Change{Action: Delete},
			Local{Deleted: []Stamp{older, newer}},
			verdicts{all5: "[delete_delete skip none lost]"},
		},
	}
	for _, tt := range tests {
		for _, policy := range []Policy{LastUpdateWins, FirstUpdateWins, ApplyRemote, KeepLocal, Fail} {
			t.Run(tt.name+"/"+policy.String(), func(t *testing.T) {
				t.Parallel()
				want, ok := tt.want[policy]
				if !ok {
					want = tt.want[all5]
				}
				change := tt.change // the other policies run beside this one
				change.Stamp = Stamp{20, 2}
				out, err := Resolve(change, tt.local, Rules{Self: self, Policy: policy})
				require.Equal(t, want, describe(out, err))
			})
		}
	}
}

// TestSettings is the table of the other settings, and of what takes more than
// one row or one look.
func TestSettings(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change Change
		local  Local
		rules  Rules
		want   string
	}{
		{"missing row is an error", Change{Action: Update}, Local{}, Rules{UpdateMissing: FailMissing}, ErrMissing.Error()},
		{"missing row is an error, newer tombstone", Change{Action: Update}, Local{Deleted: []Stamp{newer}}, Rules{UpdateMissing: FailMissing}, "[update_delete skip remote lost]"},
		{"missing row is skipped", Change{Action: Update}, Local{}, Rules{UpdateMissing: SkipMissing}, "[update_delete skip remote lost]"},
		{"missing row of a filtered table", Change{Action: Update, Filtered: true}, Local{}, Rules{}, ErrMissing.Error()},
		{"missing row of a filtered table is skipped", Change{Action: Update, Filtered: true}, Local{}, Rules{UpdateMissing: SkipMissing}, "[update_delete skip remote lost]"},
		{"deletes always win", Change{Action: Delete}, Local{Row: rowAt(0, newer)}, Rules{DeleteAlways: true}, "delete row 0, bury old key at 20/2, [delete_origin_differs apply_remote local lost not stored]"},
		{"remote wins are stored", Change{Action: Update}, Local{Row: rowAt(0, older)}, Rules{SaveRemoteWins: true}, "update row 0, [update_update apply_remote local lost]"},
		{"remote deletes are stored", Change{Action: Delete}, Local{Row: rowAt(0, older)}, Rules{SaveRemoteWins: true}, "delete row 0, bury old key at 20/2, [delete_origin_differs apply_remote local lost]"},

		{"missing row, values lacking", Change{Action: Update, Incomplete: true}, Local{}, Rules{}, "fetch old key from 2"},
		{"missing row, values fetched", Change{Action: Update, Incomplete: true, Fetched: FetchedRow}, Local{}, Rules{}, "insert, [update_delete apply_remote none lost]"},
		{"missing row, gone there too", Change{Action: Update, Incomplete: true, Fetched: FetchedGone}, Local{}, Rules{}, "[update_delete skip none lost]"},
		{"missing row, values lacking, newer tombstone", Change{Action: Update, Incomplete: true}, Local{Deleted: []Stamp{newer}}, Rules{}, "[update_delete skip remote lost]"},
		{"older row, values lacking", Change{Action: Update, Incomplete: true}, Local{Row: rowAt(0, older)}, Rules{}, "fetch old key from 2"},
		{"older row, values fetched", Change{Action: Update, Incomplete: true, Fetched: FetchedRow}, Local{Row: rowAt(0, older)}, Rules{}, "update row 0, [update_update apply_remote local lost not stored]"},
		{"older row, gone there", Change{Action: Update, Incomplete: true, Fetched: FetchedGone}, Local{Row: rowAt(0, older)}, Rules{}, "update row 0, [update_update apply_remote local lost not stored]"},
		{"newer row may lack this change's values", Change{Action: Update, Detachable: true}, Local{Row: rowAt(0, newer)}, Rules{}, "fetch old key from 3"},
		{"newer row, values fetched", Change{Action: Update, Detachable: true, Fetched: FetchedRow}, Local{Row: rowAt(0, newer)}, Rules{}, "amend row 0, [update_update keep_local remote lost]"},
		{"newer row, gone there", Change{Action: Update, Detachable: true, Fetched: FetchedGone}, Local{Row: rowAt(0, newer)}, Rules{}, "[update_update keep_local remote lost]"},
		{"newer row of ours lacks nothing", Change{Action: Update, Detachable: true}, Local{Row: rowAt(0, ours)}, Rules{}, "[update_update keep_local remote lost]"},
		{"newer row, insert", Change{Action: Insert, Detachable: true}, Local{Row: rowAt(0, newer)}, Rules{}, "fetch old key from 3"},
		{"newer row, delete", Change{Action: Delete, Detachable: true}, Local{Row: rowAt(0, newer)}, Rules{}, "[delete_exists skip remote lost]"},
		{"newer row, counters add up", Change{Action: Update, Counters: true}, Local{Row: rowAt(0, newer)}, Rules{}, "amend row 0, [update_update keep_local remote lost]"},

		{"key change, no conflict", Change{Action: Update, KeyChanged: true}, Local{Row: rowAt(0, same)}, Rules{}, "update row 0, bury old key at 20/2"},
		{"key change, older row", Change{Action: Update, KeyChanged: true}, Local{Row: rowAt(0, older)}, Rules{}, "update row 0, bury old key at 20/2, [update_update apply_remote local lost not stored]"},
		{"key change, old key is newer", Change{Action: Update, KeyChanged: true}, Local{Row: rowAt(0, newer)}, Rules{}, "insert, [update_update keep_local remote lost]"},
		{"key change, both keys are newer", Change{Action: Update, KeyChanged: true}, Local{Row: rowAt(0, newer), Target: rowAt(1, newer)}, Rules{}, "[update_update keep_local remote lost], [insert_exists keep_local remote lost]"},
		{"key change, new key is taken by an older row", Change{Action: Update, KeyChanged: true}, Local{Row: rowAt(0, same), Target: rowAt(1, older)}, Rules{}, "delete row 0, update row 1, bury old key at 20/2, [insert_exists apply_remote local lost]"},
		{"key change, new key is taken by a newer row", Change{Action: Update, KeyChanged: true}, Local{Row: rowAt(0, same), Target: rowAt(1, newer)}, Rules{}, "delete row 0, bury old key at 20/2, [insert_exists keep_local remote lost]"},
		{"key change, new key was deleted later", Change{Action: Update, KeyChanged: true}, Local{Row: rowAt(0, same), TargetDeleted: []Stamp{newer}}, Rules{}, "delete row 0, bury old key at 20/2, [insert_delete skip remote lost]"},
		{"key change, no row", Change{Action: Update, KeyChanged: true}, Local{}, Rules{}, "insert, bury old key at 20/2, [update_delete apply_remote none lost]"},
		{"key change, old key was deleted later", Change{Action: Update, KeyChanged: true}, Local{Deleted: []Stamp{newer}}, Rules{}, "insert, [update_delete apply_remote none lost]"},
		{"key change, no row is an error", Change{Action: Update, KeyChanged: true}, Local{}, Rules{UpdateMissing: FailMissing}, ErrMissing.Error()},
		{"key change, no row is skipped", Change{Action: Update, KeyChanged: true}, Local{}, Rules{UpdateMissing: SkipMissing}, "[update_delete skip remote lost]"},
		{"key change, old key was deleted later, no row is an error", Change{Action: Update, KeyChanged: true}, Local{Deleted: []Stamp{newer}}, Rules{UpdateMissing: FailMissing}, "[update_delete skip remote lost]"},
		{"key change, values lacking", Change{Action: Update, KeyChanged: true, Incomplete: true}, Local{Row: rowAt(0, same)}, Rules{}, "fetch new key from 2"},
		{"key change, values fetched", Change{Action: Update, KeyChanged: true, Incomplete: true, Fetched: FetchedRow}, Local{Row: rowAt(0, same)}, Rules{}, "update row 0, bury old key at 20/2"},
		{"key change, gone there", Change{Action: Update, KeyChanged: true, Incomplete: true, Fetched: FetchedGone}, Local{Row: rowAt(0, same)}, Rules{}, "delete row 0, bury old key at 20/2"},

		{"unique key, all beaten", Change{Action: Insert}, Local{Others: []Row{*rowAt(5, older), *rowAt(6, same), *rowAt(5, older)}}, Rules{}, "delete row 5, bury row 5 at 10/3, delete row 6, bury row 6 at 30/2, insert, [insert_exists apply_remote local lost], [insert_exists apply_remote local lost]"},
		{"unique key, the row itself", Change{Action: Update}, Local{Row: rowAt(0, same), Others: []Row{*rowAt(0, same)}}, Rules{}, "update row 0"},
		{"unique key, one wins", Change{Action: Insert}, Local{Others: []Row{*rowAt(5, older), *rowAt(6, newer)}}, Rules{}, "bury old key at 20/2, [insert_exists keep_local remote lost]"},
		{"unique key, one wins, an update", Change{Action: Update}, Local{Row: rowAt(0, same), Others: []Row{*rowAt(6, newer)}}, Rules{}, "delete row 0, bury old key at 20/2, [update_update keep_local remote lost]"},
		{"unique key, one stays by policy", Change{Action: Update}, Local{Row: rowAt(0, same), Others: []Row{*rowAt(6, newer)}}, Rules{Policy: KeepLocal}, "[update_update keep_local remote lost]"},
		{"unique key, left to the server", Change{Action: Insert}, Local{Others: []Row{*rowAt(6, newer)}}, Rules{IdentityOnly: true}, "insert"},
		{"unique key, a row without stamp", Change{Action: Insert}, Local{Others: []Row{*rowAt(6, ancient)}}, Rules{}, "delete row 6, insert, [insert_exists apply_remote local lost]"},
		{"unique key, key change", Change{Action: Update, KeyChanged: true}, Local{Row: rowAt(0, same), Others: []Row{*rowAt(0, same), *rowAt(6, newer)}}, Rules{}, "delete row 0, bury new key at 20/2, bury old key at 20/2, [update_update keep_local remote lost]"},
		{"unique key, old key's row stays", Change{Action: Update, KeyChanged: true}, Local{Row: rowAt(0, newer), Others: []Row{*rowAt(0, newer)}}, Rules{}, "bury new key at 20/2, [update_update keep_local remote lost], [update_update keep_local remote lost]"},
		{"unique key, old key's row goes first", Change{Action: Update, KeyChanged: true}, Local{Row: rowAt(0, same), Target: rowAt(1, older), Others: []Row{*rowAt(0, same)}}, Rules{}, "delete row 0, update row 1, bury old key at 20/2, [insert_exists apply_remote local lost]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.change.Stamp = Stamp{20, 2}
			tt.rules.Self = self
			out, err := Resolve(tt.change, tt.local, tt.rules)
			require.Equal(t, tt.want, describe(out, err))
		})
	}
}

func TestChangesOfNobody(t *testing.T) {
	t.Parallel()
	for _, author := range []NodeID{0, self} {
		_, err := Resolve(Change{Stamp: Stamp{20, author}}, Local{}, Rules{Self: self})
		require.ErrorIs(t, err, errStamp)
	}
	_, err := Resolve(Change{Action: 9, Stamp: Stamp{20, 2}}, Local{}, Rules{Self: self})
	require.ErrorContains(t, err, "unknown action 9")
	for _, l := range []Local{{Row: rowAt(0, older)}, {Deleted: []Stamp{newer}}} {
		_, err = Resolve(Change{Stamp: Stamp{20, 2}}, l, Rules{Self: self, Policy: 9})
		require.ErrorContains(t, err, "unknown policy 9")
	}
}

func TestTruncate(t *testing.T) {
	t.Parallel()
	require.Equal(t, TruncateAll, Truncate(false, Rules{}))
	require.Equal(t, DeleteOlder, Truncate(true, Rules{}))
	require.Equal(t, TruncateAll, Truncate(true, Rules{TruncateAlways: true}))
}

func TestRecords(t *testing.T) {
	t.Parallel()
	for kind := InsertExists; kind <= DeleteMissing; kind++ {
		require.NotContains(t, kind.String()+kind.Release5(), "type")
	}
	require.Equal(t, "type 99", Type(99).String())
	require.Equal(t, "update_missing", UpdateDeleted.String())
	require.Equal(t, "update_delete", UpdateDeleted.Release5())

	origin, known := Conflict{Row: rowAt(0, ours)}.LocalOrigin(self)
	require.True(t, known)
	require.Zero(t, origin)
	origin, known = Conflict{Row: rowAt(0, newer)}.LocalOrigin(self)
	require.True(t, known)
	require.Equal(t, NodeID(3), origin)
	for _, c := range []Conflict{{}, {Row: rowAt(0, ancient)}} {
		_, known = c.LocalOrigin(self)
		require.False(t, known)
	}

	out, err := Resolve(Change{Stamp: Stamp{20, 2}}, Local{Deleted: []Stamp{newer}}, Rules{Self: self})
	require.NoError(t, err)
	require.Equal(t, newer, out.Conflicts[0].Deleted)
}

func TestMessages(t *testing.T) {
	t.Parallel()
	c := Conflict{Type: InsertExists, Row: rowAt(0, older)}
	require.Equal(t, "CONFLICT: remote INSERT EXISTS on relation public.item (local index item_pkey). Resolution: apply_remote.", c.Message("public.item", "x"))
	c = Conflict{Type: UpdateExists, Resolution: LocalKept, Row: &Row{}}
	require.Equal(t, "CONFLICT: remote UPDATE on relation public.item (local index (unknown)). Resolution: keep_local.", c.Message("public.item", "x"))
	c = Conflict{Type: DeleteMissing, Resolution: Skipped}
	require.Equal(t, "CONFLICT: remote DELETE on relation public.item replica identity index item_pkey (tuple not found). Resolution: skip.", c.Message("public.item", "item_pkey"))
}

func TestNames(t *testing.T) {
	t.Parallel()
	for p := LastUpdateWins; p <= Fail; p++ {
		got, err := ParsePolicy(p.String())
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
	for p := InsertMissing; p <= SkipMissing; p++ {
		got, err := ParseMissingPolicy(p.String())
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
	_, err := ParsePolicy("newest")
	require.ErrorContains(t, err, `parse conflict resolution "newest": not one of`)
	_, err = ParseMissingPolicy("")
	require.Error(t, err)
}

// TestAssign is the table of where a column's value comes from.
func TestAssign(t *testing.T) {
	t.Parallel()
	const fetched, gone = FetchedRow, FetchedGone
	plain, lacking := Column{}, Column{Unchanged: true, Detachable: true}
	sentWhole := Column{Detachable: true}
	counter, noOld := Column{Counter: true, OldKnown: true}, Column{Counter: true}
	tests := []struct {
		name   string
		change Change
		local  Local
		want   map[Column]Source
	}{
		{"insert", Change{Action: Insert}, Local{}, map[Column]Source{plain: TakeNew, sentWhole: TakeNew, noOld: TakeNew}},
		{"insert over a row", Change{Action: Insert}, Local{Row: rowAt(0, older)}, map[Column]Source{plain: TakeNew, noOld: AddNew}},
		{"insert under a row", Change{Action: Insert}, Local{Row: rowAt(0, ours)}, map[Column]Source{plain: Leave, noOld: AddNew}},
		{"update", Change{Action: Update}, Local{Row: rowAt(0, same)}, map[Column]Source{plain: TakeNew, lacking: Leave, counter: AddChange, noOld: TakeNew}},
		{"update, values fetched", Change{Action: Update, Incomplete: true, Fetched: fetched}, Local{Row: rowAt(0, older)}, map[Column]Source{plain: TakeNew, lacking: TakeFetch, sentWhole: TakeNew}},
		{"update, gone there", Change{Action: Update, Incomplete: true, Fetched: gone}, Local{Row: rowAt(0, older)}, map[Column]Source{plain: TakeNew, lacking: Leave}},
		{"update that loses", Change{Action: Update}, Local{Row: rowAt(0, ours)}, map[Column]Source{plain: Leave, lacking: Leave, counter: AddChange, noOld: Leave}},
		{"update that loses, values fetched", Change{Action: Update, Detachable: true, Fetched: fetched}, Local{Row: rowAt(0, newer)}, map[Column]Source{plain: Leave, lacking: TakeFetch, sentWhole: TakeFetch, counter: AddChange}},
		{"update of a row to come", Change{Action: Update}, Local{}, map[Column]Source{plain: TakeNew, counter: TakeChange, noOld: TakeNew}},
		{"update of a deleted row", Change{Action: Update}, Local{Deleted: []Stamp{older}}, map[Column]Source{plain: TakeNew, counter: TakeNew}},
		{"key change", Change{Action: Update, KeyChanged: true}, Local{Row: rowAt(0, same)}, map[Column]Source{plain: TakeNew, counter: AddChange}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.change.Stamp, tt.change.Counters = Stamp{20, 2}, true
			out, err := Resolve(tt.change, tt.local, Rules{Self: self})
			require.NoError(t, err)
			require.NotEmpty(t, out.Steps)
			for column, want := range tt.want {
				require.Equal(t, want, out.Steps[0].Assign(column), "%+v", column)
			}
		})
	}
}

// TestValuesOfAnInterleavedWrite is the case that no look at the row alone can
// tell: node 3 has a row of node 2, and hears of node 2's next update, which left
// a value out, before it hears of the write of node 1 that stood between the two.
func TestValuesOfAnInterleavedWrite(t *testing.T) {
	t.Parallel()
	w := newWorld(func(int) int { return 0 }, 3, 1, nil, "")
	n1, n2, n3 := w.nodes[0], w.nodes[1], w.nodes[2]
	put := func(n *modelNode, at pg.Timestamp, c sent) {
		stamp := Stamp{at, n.id}
		n.log = append(n.log, transaction{stamp, []sent{c}})
		n.rows[0] = heldRow{c.row, stamp}
	}
	put(n2, 10, sent{action: Insert, row: values{plain: 1, detached: 1}})
	require.True(t, w.deliver(n2, n1))
	put(n1, 20, sent{action: Update, row: values{plain: 2, detached: 2}})
	require.True(t, w.deliver(n1, n2))
	put(n2, 30, sent{action: Update, row: values{plain: 3, detached: 2}, incomplete: true})
	require.True(t, w.deliver(n2, n3))
	require.True(t, w.deliver(n2, n3))
	require.Equal(t, values{plain: 3, detached: 1}, n3.rows[0].values)
	w.settle()
	require.Equal(t, values{plain: 3, detached: 2}, n3.rows[0].values)
	require.NoError(t, w.check())
}

package conflict

import (
	"fmt"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// uniqueRow is a row with a second unique key; zero holds nothing there.
type uniqueRow struct {
	unique int
	stamp  Stamp
}

type uniqueChange struct {
	action      Action
	key, unique int
	stamp       Stamp
}

type uniqueNode struct {
	id    NodeID
	rows  map[int]uniqueRow
	tombs map[int]Stamp
}

func (n *uniqueNode) apply(c uniqueChange) {
	if c.stamp.Origin == n.id {
		n.rows[c.key] = uniqueRow{c.unique, c.stamp}
		return
	}
	var l Local
	for key, row := range n.rows {
		held := Row{Ref: Ref(key), Stamp: row.stamp}
		if key == c.key {
			l.Row = &held
		}
		if row.unique == c.unique && c.unique != 0 {
			l.Others = append(l.Others, held)
		}
	}
	if t, ok := n.tombs[c.key]; ok {
		l.Deleted = []Stamp{t}
	}
	out := must(Resolve(Change{Action: c.action, Stamp: c.stamp}, l, Rules{Self: n.id}))
	for _, s := range out.Steps {
		key := int(s.Ref)
		if s.Ref < 0 {
			key = c.key
		}
		switch s.Kind {
		case DeleteRow:
			delete(n.rows, key)
		case Bury:
			n.tombs[key] = s.Stamp
		case InsertRow, UpdateRow:
			n.rows[c.key] = uniqueRow{c.unique, c.stamp}
		case AmendRow:
		}
	}
}

// free tells whether a node's own client could make the change.
func (n *uniqueNode) free(c uniqueChange) bool {
	_, exists := n.rows[c.key]
	for key, row := range n.rows {
		if key != c.key && row.unique == c.unique && c.unique != 0 {
			return false
		}
	}
	return exists == (c.action == Update)
}

// TestTwoRowsOfOneUniqueKey: node 1 writes row 1 and node 2 writes row 2, with
// one value for the second unique key; the author of the loser may move on to
// another value. In whatever order three nodes hear of it, they end with equal
// rows. (Longer chains, where the winner moves away again, need not.)
func TestTwoRowsOfOneUniqueKey(t *testing.T) {
	t.Parallel()
	worlds := 0
	for _, actions := range [][2]Action{{Insert, Insert}, {Insert, Update}, {Update, Insert}, {Update, Update}} {
		for _, times := range [][2]pg.Timestamp{{10, 20}, {20, 10}, {10, 10}} {
			for _, moves := range []bool{false, true} {
				first := uniqueChange{actions[0], 1, 7, Stamp{times[0], 1}}
				second := uniqueChange{actions[1], 2, 7, Stamp{times[1], 2}}
				changes := [][]uniqueChange{{first}, {second}}
				if moves {
					loser := 0
					if Ranks(nil).Beats(first.stamp, second.stamp) {
						loser = 1
					}
					c := changes[loser][0]
					changes[loser] = append(changes[loser], uniqueChange{Update, c.key, 8, Stamp{15, c.stamp.Origin}})
				}
				name := fmt.Sprintf("%s %s %d moves %t", actions[0], actions[1], times, moves)
				worlds += everyOrder(t, name, actions, changes)
			}
		}
	}
	require.Greater(t, worlds, 100)
}

// everyOrder lets each node hear of the changes in every order, and compares all
// the ends that are possible.
func everyOrder(t *testing.T, name string, actions [2]Action, changes [][]uniqueChange) int {
	t.Helper()
	var ends []map[int]uniqueRow
	count := 0
	for id := NodeID(1); id <= 3; id++ {
		for _, order := range interleavings(changes[0], changes[1]) {
			n := &uniqueNode{id: id, rows: map[int]uniqueRow{}, tombs: map[int]Stamp{}}
			for i, action := range actions {
				if action == Update { // the row is there from the start
					n.rows[i+1] = uniqueRow{unique: 0, stamp: Stamp{1, NodeID(i + 1)}}
				}
			}
			possible := true
			for _, c := range order {
				if possible = possible && (c.stamp.Origin != id || n.free(c)); possible {
					n.apply(c)
				}
			}
			if !possible {
				continue // this node's client would have been refused
			}
			count++
			ends = append(ends, maps.Clone(n.rows))
			require.Equal(t, ends[0], n.rows, "%s: node %d after %+v", name, id, order)
		}
	}
	return count
}

// interleavings are all orders that keep those of a and of b.
func interleavings(a, b []uniqueChange) [][]uniqueChange {
	if len(a) == 0 {
		return [][]uniqueChange{b}
	}
	if len(b) == 0 {
		return [][]uniqueChange{a}
	}
	var all [][]uniqueChange
	for _, rest := range interleavings(a[1:], b) {
		all = append(all, append([]uniqueChange{a[0]}, rest...))
	}
	for _, rest := range interleavings(a, b[1:]) {
		all = append(all, append([]uniqueChange{b[0]}, rest...))
	}
	return all
}

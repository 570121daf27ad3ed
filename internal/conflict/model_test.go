package conflict

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// values are a model row's columns: a plain one, one whose value is not sent
// when an update leaves it alone, and one that adds up.
type values struct{ plain, detached, counter int }

type heldRow struct {
	values
	stamp Stamp
}

// sent is a change as it travels, and what its author knows beside that.
type sent struct {
	action     Action
	truncate   bool
	old, key   int
	row        values // detached is only to be used by the oracle when incomplete
	incomplete bool
	oldCounter int
}

type transaction struct {
	stamp   Stamp
	changes []sent
}

type modelNode struct {
	id        NodeID
	clock     pg.Timestamp
	rows      map[int]heldRow
	tombs     map[int]Stamp
	truncated []Stamp
	log       []transaction
	heard     map[NodeID]int // transactions of others that were applied
}

// world is a mesh of nodes in one process. broken names what is broken on purpose.
type world struct {
	nodes   []*modelNode
	ranks   Ranks
	keys    int
	broken  string
	choose  func(n int) int // 0 … n-1
	counts  map[Type]int
	fetches int
}

func newWorld(choose func(int) int, nodes, keys int, ranks Ranks, broken string) *world {
	w := &world{keys: keys, choose: choose, ranks: ranks, broken: broken, counts: map[Type]int{}}
	for i := range nodes {
		w.nodes = append(w.nodes, &modelNode{
			id: NodeID(i + 1), clock: pg.Timestamp(1 + choose(5)), rows: map[int]heldRow{}, tombs: map[int]Stamp{}, heard: map[NodeID]int{},
		})
	}
	return w
}

func (w *world) node(id NodeID) *modelNode { return w.nodes[id-1] }

// write runs one local transaction of a few statements.
func (w *world) write(n *modelNode, countersOnly bool) {
	n.clock += pg.Timestamp(w.choose(3))
	tx := transaction{stamp: Stamp{n.clock, n.id}}
	for range 1 + w.choose(2) {
		if c, ok := w.statement(n, tx.stamp, countersOnly); ok {
			tx.changes = append(tx.changes, c)
		}
	}
	if len(tx.changes) > 0 {
		n.log = append(n.log, tx)
	}
}

func (w *world) statement(n *modelNode, stamp Stamp, countersOnly bool) (sent, bool) {
	key := w.choose(w.keys)
	held, exists := n.rows[key]
	row := held.values
	row.plain = int(stamp.CommitTime)*10 + int(n.id)
	what := w.choose(12)
	switch {
	case !exists:
		row = values{plain: row.plain, detached: row.plain, counter: 1 + w.choose(50)}
		n.rows[key] = heldRow{row, stamp}
		return sent{action: Insert, old: key, key: key, row: row}, true
	case what == 0 && !countersOnly:
		delete(n.rows, key)
		n.tombs[key] = stamp
		return sent{action: Delete, old: key, key: key}, true
	case what == 1 && !countersOnly:
		clear(n.rows)
		n.truncated = append(n.truncated, stamp)
		return sent{truncate: true}, true
	default:
		c := sent{action: Update, old: key, key: key, incomplete: w.choose(3) > 0, oldCounter: row.counter}
		if !c.incomplete {
			row.detached = row.plain
		}
		row.counter += w.choose(20) - 10
		if to := w.choose(w.keys); what <= 4 && !countersOnly {
			if _, taken := n.rows[to]; !taken {
				c.key = to
				delete(n.rows, key)
				n.tombs[key] = stamp
			}
		}
		c.row = row
		n.rows[c.key] = heldRow{row, stamp}
		return c, true
	}
}

// deliver applies the next transaction of one node on another, if there is one.
func (w *world) deliver(from, to *modelNode) bool {
	at := to.heard[from.id]
	if from == to || at == len(from.log) {
		return false
	}
	tx := from.log[at]
	to.heard[from.id]++
	if w.broken != "wait" {
		wait, _ := Wait(tx.stamp.CommitTime, to.clock, 1<<62)
		to.clock += pg.Timestamp(wait.Microseconds())
	}
	for _, c := range tx.changes {
		w.apply(to, tx.stamp, c)
	}
	return true
}

func (w *world) rules(n *modelNode) Rules {
	r := Rules{Self: n.id, Ranks: w.ranks}
	if w.broken == "ties" { // as when the applying node's number counts, not the author's
		r.Ranks = Ranks{n.id: -1000}
	}
	return r
}

func (w *world) local(n *modelNode, c sent) Local {
	at := func(key int, ref Ref) (*Row, []Stamp) {
		var row *Row
		if held, ok := n.rows[key]; ok {
			row = &Row{Ref: ref, Stamp: held.stamp}
		}
		if w.broken == "tombstones" {
			return row, nil
		}
		dead := slices.Clone(n.truncated)
		if t, ok := n.tombs[key]; ok {
			dead = append(dead, t)
		}
		return row, dead
	}
	var l Local
	l.Row, l.Deleted = at(c.old, 0)
	if c.key != c.old {
		l.Target, l.TargetDeleted = at(c.key, 1)
	}
	return l
}

func (w *world) apply(n *modelNode, stamp Stamp, c sent) {
	rules := w.rules(n)
	if c.truncate {
		w.truncate(n, stamp, rules)
		return
	}
	l := w.local(n, c)
	change := Change{
		Action: c.action, Stamp: stamp, KeyChanged: c.key != c.old, Incomplete: c.incomplete, Detachable: true,
		Counters: c.action != Delete,
	}
	out := must(Resolve(change, l, rules))
	var fetched values
	if f := out.Fetch; f != nil {
		w.fetches++
		key := c.old
		if f.Key == NewKey {
			key = c.key
		}
		held, ok := w.node(f.From).rows[key]
		change.Fetched, fetched = FetchedGone, held.values
		if ok && w.broken != "fetch" && (w.broken != "refill" || f.From == stamp.Origin) {
			change.Fetched = FetchedRow
		}
		out = must(Resolve(change, l, rules))
	}
	for _, conflict := range out.Conflicts {
		w.counts[conflict.Type]++
	}
	for _, s := range out.Steps {
		w.step(n, s, stamp, c, fetched)
	}
}

func (w *world) truncate(n *modelNode, stamp Stamp, rules Rules) {
	beaten := func(_ int, r heldRow) bool { return rules.Ranks.Beats(stamp, r.stamp) }
	survivors := maps.Clone(n.rows)
	maps.DeleteFunc(survivors, beaten)
	if Truncate(len(survivors) > 0, rules) == TruncateAll {
		clear(n.rows)
	} else {
		n.rows = survivors
	}
	n.truncated = append(n.truncated, stamp)
}

func (w *world) step(n *modelNode, s Step, stamp Stamp, c sent, fetched values) {
	key := c.old
	if s.Ref == 1 || s.Ref == NewKey {
		key = c.key
	}
	switch s.Kind {
	case Bury:
		n.tombs[key] = s.Stamp
	case DeleteRow:
		delete(n.rows, key)
	case InsertRow:
		row := assign(s, values{}, c, fetched)
		n.rows[c.key] = heldRow{row, stamp}
	case UpdateRow:
		row := assign(s, n.rows[key].values, c, fetched)
		delete(n.rows, key)
		n.rows[c.key] = heldRow{row, stamp}
	case AmendRow:
		held := n.rows[key]
		n.rows[key] = heldRow{assign(s, held.values, c, fetched), held.stamp}
	}
}

// assign writes the columns as a step says.
func assign(s Step, held values, c sent, fetched values) values {
	column := func(source Source, held, now, before, fetched int) int {
		switch source {
		case TakeNew:
			return now
		case TakeFetch:
			return fetched
		case AddChange:
			return held + now - before
		case AddNew:
			return held + now
		case TakeChange:
			return now - before
		default:
			return held
		}
	}
	update := c.action == Update
	return values{
		plain:    column(s.Assign(Column{}), held.plain, c.row.plain, 0, fetched.plain),
		detached: column(s.Assign(Column{Unchanged: c.incomplete, Detachable: true}), held.detached, c.row.detached, 0, fetched.detached),
		counter:  column(s.Assign(Column{Counter: true, OldKnown: update}), held.counter, c.row.counter, c.oldCounter, fetched.counter),
	}
}

func must(o Outcome, err error) Outcome {
	if err != nil {
		panic(err)
	}
	return o
}

// settle delivers everything, in a random order that keeps each author's.
func (w *world) settle() {
	type pair struct{ from, to *modelNode }
	for {
		var open []pair
		for _, from := range w.nodes {
			for _, to := range w.nodes {
				if from != to && to.heard[from.id] < len(from.log) {
					open = append(open, pair{from, to})
				}
			}
		}
		if len(open) == 0 {
			return
		}
		p := open[w.choose(len(open))]
		w.deliver(p.from, p.to)
	}
}

func (w *world) run(steps int, countersOnly bool) {
	for range steps {
		n := w.nodes[w.choose(len(w.nodes))]
		if w.choose(5) < 2 {
			w.write(n, countersOnly)
		} else {
			w.deliver(w.nodes[w.choose(len(w.nodes))], n)
		}
	}
	w.settle()
}

// content is what must be equal on all nodes.
type content struct {
	Rows  map[int]heldRow
	Tombs map[int]Stamp // of keys without a row
}

func (n *modelNode) content(keys int, ranks Ranks) content {
	c := content{maps.Clone(n.rows), map[int]Stamp{}}
	for key := range keys {
		if _, alive := n.rows[key]; alive {
			continue
		}
		latest := n.tombs[key]
		for _, t := range n.truncated {
			if ranks.Compare(t, latest) > 0 {
				latest = t
			}
		}
		if latest.Known() {
			c.Tombs[key] = latest
		}
	}
	return c
}

// withoutCounters blots out the column that the plain convergence does not cover.
func (c content) withoutCounters() content {
	for key, row := range c.Rows {
		row.counter = 0
		c.Rows[key] = row
	}
	return c
}

// oracle computes the end from all changes at once, without looking at the order
// in which anybody heard of them: under each key the greatest stamp, and of one
// author's equal ones the last.
func (w *world) oracle() content {
	end := content{map[int]heldRow{}, map[int]Stamp{}}
	best := map[int]Stamp{}
	put := func(key int, s Stamp, row *values) {
		if w.ranks.Compare(s, best[key]) < 0 {
			return
		}
		best[key] = s
		delete(end.Rows, key)
		delete(end.Tombs, key)
		if row == nil {
			end.Tombs[key] = s
		} else {
			end.Rows[key] = heldRow{*row, s}
		}
	}
	for _, n := range w.nodes {
		for _, tx := range n.log {
			for _, c := range tx.changes {
				switch {
				case c.truncate:
					for key := range w.keys {
						put(key, tx.stamp, nil)
					}
				case c.action == Delete:
					put(c.old, tx.stamp, nil)
				default:
					if c.old != c.key {
						put(c.old, tx.stamp, nil)
					}
					put(c.key, tx.stamp, &c.row)
				}
			}
		}
	}
	return end
}

// check compares all nodes with the oracle.
func (w *world) check() error {
	want := w.oracle().withoutCounters()
	for _, n := range w.nodes {
		got := n.content(w.keys, w.ranks).withoutCounters()
		if !maps.Equal(want.Rows, got.Rows) || !maps.Equal(want.Tombs, got.Tombs) {
			return fmt.Errorf("node %d holds %+v, expected %+v: %w", n.id, got, want, errDiffers)
		}
	}
	return nil
}

var errDiffers = errors.New("nodes differ")

func drawWorld(t *rapid.T) *world {
	choose := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "choice") }
	ranks := rapid.SampledFrom([]Ranks{nil, {1: 9}, {1: 5, 2: 5, 3: 1}}).Draw(t, "ranks")
	return newWorld(choose, 2+choose(4), 2+choose(3), ranks, "")
}

// TestNodesConverge: any number of nodes that apply the same changes in any order
// that keeps each author's end with equal rows and tombstones.
func TestNodesConverge(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.run(rapid.IntRange(0, 120).Draw(t, "steps"), false)
		require.NoError(t, w.check())
	})
}

// TestCountersAddUp: columns that add up hold the sum of all that was inserted
// and added anywhere, on all nodes.
func TestCountersAddUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.run(rapid.IntRange(0, 100).Draw(t, "steps"), true)
		require.NoError(t, w.check())
		want := map[int]int{}
		for _, n := range w.nodes {
			for _, tx := range n.log {
				for _, c := range tx.changes {
					want[c.key] += c.row.counter - c.oldCounter
				}
			}
		}
		for _, n := range w.nodes {
			got := map[int]int{}
			for key, row := range n.rows {
				got[key] = row.counter
			}
			require.Equal(t, want, got, "node %d", n.id)
		}
	})
}

// randomRun is one run from a seed.
func randomRun(seed uint64, broken string) *world {
	r := rand.New(rand.NewPCG(seed, 7))
	w := newWorld(r.IntN, 3+r.IntN(2), 2+r.IntN(2), nil, broken)
	w.run(80, false)
	return w
}

// TestRunsMeetEveryConflict keeps the random runs worth their name.
func TestRunsMeetEveryConflict(t *testing.T) {
	t.Parallel()
	met, fetches := map[Type]int{}, 0
	for seed := range uint64(200) {
		w := randomRun(seed, "")
		require.NoError(t, w.check(), "seed %d", seed)
		for kind, n := range w.counts {
			met[kind] += n
		}
		fetches += w.fetches
	}
	for kind := InsertExists; kind <= DeleteMissing; kind++ {
		require.Greater(t, met[kind], 20, kind.String())
	}
	require.Greater(t, fetches, 200)
}

// TestCheckNotices breaks one rule at a time, and wants a run that shows it.
func TestCheckNotices(t *testing.T) {
	t.Parallel()
	for _, broken := range []string{"tombstones", "ties", "fetch", "refill", "wait"} {
		t.Run(broken, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(5000) {
				if randomRun(seed, broken).check() != nil {
					t.Logf("run %d ends with nodes that differ", seed)
					return
				}
			}
			require.Fail(t, "no run shows it")
		})
	}
}

package apply

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// claims keep transactions of different streams apart: no two may hold
// uncommitted work on one key. A delete that finds nothing and an older insert,
// each blind to the other's uncommitted work, would leave a row that should be
// gone. A transaction asks for all it needs at once and before it begins, so
// that nobody waits for one that waits.
type claims struct {
	mu     sync.Mutex
	keys   map[uint64]*holding
	tables map[uint32]*tableHolding
	all    *holding
	owners map[any]int // every owner of anything, to be weighed against a wish for all
	freed  chan struct{}
	queue  []*waiter // who waits for freed, in the order of their coming
	// defined counts the transactions that have run DDL: who has claimed something
	// after one of them must not go by what it knew of tables before.
	defined atomic.Uint64
}

// waiter is one who waits. It holds nothing meanwhile, and nobody who comes
// after it gets what it waits for: else a wish for much would wait for ever while
// others always hold some of it.
type waiter struct {
	owner any
	wish  *wish
}

// holding counts the claims of one owner on one thing; nobody else may have it
// meanwhile.
type holding struct {
	owner any
	n     int
}

type tableHolding struct {
	whole holding
	keys  map[any]int // owner → number of its claims in the table
}

// wish is what one transaction needs.
type wish struct {
	keys   []keyClaim
	tables []uint32 // whole
	shared []uint32 // not whole for anybody else
	all    bool
}

type keyClaim struct {
	table uint32
	hash  uint64
}

func newClaims() *claims {
	return &claims{
		keys: map[uint64]*holding{}, tables: map[uint32]*tableHolding{}, owners: map[any]int{},
		freed: make(chan struct{}),
	}
}

// acquire waits until nobody else holds any part of the wish. What an owner
// holds already is no obstacle to it.
func (c *claims) acquire(ctx context.Context, owner any, w *wish) error {
	me := &waiter{owner, w}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, me)
	defer c.leaveQueue(me)
	for {
		if c.free(owner, w) && !c.reserved(me) {
			c.hold(owner, w)
			return nil
		}
		freed := c.freed
		c.mu.Unlock()
		var err error
		select {
		case <-freed:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		c.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// reserved tells whether somebody who came before waits for a part of the wish.
func (c *claims) reserved(me *waiter) bool {
	for _, other := range c.queue {
		if other == me {
			return false
		}
		if other.owner != me.owner && other.wish.meets(me.wish) {
			return true
		}
	}
	return false
}

func (c *claims) leaveQueue(me *waiter) {
	c.queue = slices.DeleteFunc(c.queue, func(w *waiter) bool { return w == me })
	c.wake()
}

// wake has those who wait look again.
func (c *claims) wake() {
	if len(c.queue) > 0 {
		close(c.freed)
		c.freed = make(chan struct{})
	}
}

// tryAcquire is acquire without waiting.
func (c *claims) tryAcquire(owner any, w *wish) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.free(owner, w) || c.reserved(&waiter{owner, w}) {
		return false
	}
	c.hold(owner, w)
	return true
}

// meets tells whether two wishes cannot be had at a time.
func (w *wish) meets(o *wish) bool {
	if w.all || o.all || slices.ContainsFunc(w.tables, o.touches) || slices.ContainsFunc(o.tables, w.touches) {
		return true
	}
	for _, k := range w.keys {
		if slices.ContainsFunc(o.keys, func(l keyClaim) bool { return k.hash == l.hash }) {
			return true
		}
	}
	return false
}

func (w *wish) touches(table uint32) bool {
	return slices.Contains(w.tables, table) || slices.Contains(w.shared, table) ||
		slices.ContainsFunc(w.keys, func(k keyClaim) bool { return k.table == table })
}

func (c *claims) free(owner any, w *wish) bool {
	if c.all != nil && c.all.owner != owner {
		return false
	}
	if w.all && others(c.owners, owner) {
		return false
	}
	for _, t := range w.tables {
		if h := c.tables[t]; h != nil && (h.whole.n > 0 && h.whole.owner != owner || others(h.keys, owner)) {
			return false
		}
	}
	for _, t := range w.shared {
		if h := c.tables[t]; h != nil && h.whole.n > 0 && h.whole.owner != owner {
			return false
		}
	}
	for _, k := range w.keys {
		if h := c.tables[k.table]; h != nil && h.whole.n > 0 && h.whole.owner != owner {
			return false
		}
		if h := c.keys[k.hash]; h != nil && h.owner != owner {
			return false
		}
	}
	return true
}

func others(m map[any]int, owner any) bool {
	n := len(m)
	if m[owner] > 0 {
		n--
	}
	return n > 0
}

func (c *claims) hold(owner any, w *wish) {
	if w.all {
		if c.all == nil {
			c.all = &holding{owner: owner}
		}
		c.all.n++
	}
	c.owners[owner]++
	for _, t := range w.tables {
		h := c.table(t)
		h.whole.owner = owner
		h.whole.n++
	}
	for _, t := range w.shared {
		c.table(t).keys[owner]++
	}
	for _, k := range w.keys {
		c.table(k.table).keys[owner]++
		h := c.keys[k.hash]
		if h == nil {
			h = &holding{owner: owner}
			c.keys[k.hash] = h
		}
		h.n++
	}
}

func (c *claims) table(t uint32) *tableHolding {
	h := c.tables[t]
	if h == nil {
		h = &tableHolding{keys: map[any]int{}}
		c.tables[t] = h
	}
	return h
}

// release gives up what acquire got.
func (c *claims) release(owner any, w *wish) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.all {
		if c.all.n--; c.all.n == 0 {
			c.all = nil
		}
	}
	if c.owners[owner]--; c.owners[owner] == 0 {
		delete(c.owners, owner)
	}
	for _, t := range w.tables {
		h := c.tables[t]
		h.whole.n--
		c.sweep(t, h)
	}
	for _, t := range w.shared {
		c.leave(owner, t)
	}
	for _, k := range w.keys {
		if h := c.keys[k.hash]; h.n == 1 {
			delete(c.keys, k.hash)
		} else {
			h.n--
		}
		c.leave(owner, k.table)
	}
	c.wake()
}

func (c *claims) leave(owner any, t uint32) {
	h := c.tables[t]
	if h.keys[owner]--; h.keys[owner] == 0 {
		delete(h.keys, owner)
	}
	c.sweep(t, h)
}

func (c *claims) sweep(t uint32, h *tableHolding) {
	if h.whole.n == 0 && len(h.keys) == 0 {
		delete(c.tables, t)
	}
}

// amended are the tables that have rows whose stamp is not that of their last
// writer. The test of the fast form does not know the stamps that stand beside.
type amended struct {
	mu      sync.Mutex
	known   map[uint32]bool // committed
	open    map[uint32]int  // transactions that may yet commit some
	version int             // of known
}

func newAmended() *amended { return &amended{known: map[uint32]bool{}, open: map[uint32]int{}} }

// add is called before a transaction amends a row, while it holds the claim on
// the row's key.
func (a *amended) add(table uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open[table]++
}

// end is called when a transaction that has amended rows has ended.
func (a *amended) end(tables []uint32, committed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range tables {
		if a.open[t]--; a.open[t] <= 0 {
			delete(a.open, t)
		}
		if committed {
			a.known[t] = true
			a.version++
		}
	}
}

// learn takes what the database says of a table.
func (a *amended) learn(table uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known[table] = true
	a.version++
}

func (a *amended) has(table uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known[table] || a.open[table] > 0
}

// now is what to give to replace, taken before the database is asked.
func (a *amended) now() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.version
}

// replace takes what the database says of all tables, unless something has
// changed since it was asked.
func (a *amended) replace(version int, tables []uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.version != version {
		return
	}
	clear(a.known)
	for _, t := range tables {
		a.known[t] = true
	}
}

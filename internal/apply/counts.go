package apply

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/conflict"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// counts are counters that wait to be written to the database.
type counts struct {
	mu         sync.Mutex
	tables     map[countKey]*tableCounts // of what has committed
	counters   map[counterKey]int64
	open       map[*transaction]*tally // of what has not yet
	writing    map[uint32]*tally       // of that which a subscription writes step by step
	spare      []*tally                // to be used again
	exceptions int64                   // logged actions since the engine's start
}

type countKey struct{ sub, table uint32 }

type counterKey struct {
	sub  uint32
	name string
}

type tableCounts struct {
	rows      [3]int64 // inserts, updates, deletes
	conflicts int64
	counters  int64
	types     [16]int64
}

// tally is what a transaction counts with once it has committed: one that is
// repeated begins anew. Only who applies it writes it.
type tally struct {
	sub    uint32
	tables []tableTally
	places map[uint32]int
	last   int
}

type tableTally struct {
	table uint32
	tableCounts
}

// of is the counts of a table, good until the next call.
func (t *tally) of(table uint32) *tableCounts {
	if t.last < len(t.tables) && t.tables[t.last].table == table {
		return &t.tables[t.last].tableCounts
	}
	at, ok := t.places[table]
	if !ok {
		at = len(t.tables)
		t.places[table] = at
		t.tables = append(t.tables, tableTally{table: table})
	}
	t.last = at
	return &t.tables[at].tableCounts
}

func newCounts() *counts {
	return &counts{
		tables: map[countKey]*tableCounts{}, counters: map[counterKey]int64{}, open: map[*transaction]*tally{}, writing: map[uint32]*tally{},
	}
}

// tally is that of a transaction.
func (c *counts) tally(sub uint32, tx *transaction) *tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.open[tx]
	if t != nil {
		return t
	}
	if n := len(c.spare); n > 0 {
		t, c.spare = c.spare[n-1], c.spare[:n-1]
	} else {
		t = &tally{places: map[uint32]int{}}
	}
	t.sub = sub
	c.open[tx] = t
	return t
}

// write makes a transaction the one that its subscription writes step by step.
func (c *counts) write(sub uint32, tx *transaction) {
	t := c.tally(sub, tx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing[sub] = t
}

// end counts a transaction that has committed, and forgets one that has not.
func (c *counts) end(tx *transaction) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.open[tx]
	if t == nil {
		return
	}
	delete(c.open, tx)
	if c.writing[t.sub] == t {
		delete(c.writing, t.sub)
	}
	if tx.finished {
		for i := range t.tables {
			c.table(t.sub, t.tables[i].table).add(&t.tables[i].tableCounts)
		}
	}
	if len(c.spare) < inflightLimit && len(t.tables) <= 16 {
		t.tables, t.last = t.tables[:0], 0
		clear(t.places)
		c.spare = append(c.spare, t)
	}
}

// now is where to count what is done step by step.
func (c *counts) now(sub, table uint32) *tableCounts {
	if t := c.writing[sub]; t != nil {
		return t.of(table)
	}
	return c.table(sub, table)
}

func (c *counts) table(sub, table uint32) *tableCounts {
	key := countKey{sub, table}
	t := c.tables[key]
	if t == nil {
		t = &tableCounts{}
		c.tables[key] = t
	}
	return t
}

// row counts a change, whatever comes of it; minus one takes it back.
func (c *counts) row(sub, table uint32, kind pgoutput.Kind, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now(sub, table).row(kind, n)
}

func (t *tableCounts) add(other *tableCounts) {
	for i, n := range other.rows {
		t.rows[i] += n
	}
	for i, n := range other.types {
		t.types[i] += n
	}
	t.conflicts += other.conflicts
	t.counters += other.counters
}

func (t *tableCounts) row(kind pgoutput.Kind, n int64) {
	switch kind {
	case pgoutput.KindInsert:
		t.rows[0] += n
	case pgoutput.KindUpdate:
		t.rows[1] += n
	case pgoutput.KindDelete:
		t.rows[2] += n
	default:
	}
}

func (c *counts) conflict(sub, table uint32, x conflict.Conflict) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.now(sub, table)
	if x.Stored {
		t.conflicts++
	}
	if int(x.Type) < len(t.types) {
		t.types[x.Type]++
	}
}

func (c *counts) counter(sub, table uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now(sub, table).counters++
}

// add counts something that belongs to a subscription.
func (c *counts) add(sub uint32, name string, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counters[counterKey{sub, name}] += n
}

func (c *counts) exception(sub uint32) { c.add(sub, "exceptions", 1) }

// logged numbers the rows of the exception log.
func (c *counts) logged() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exceptions++
	return c.exceptions
}

// store adds what was counted to the tables of the database.
func (c *counts) store(ctx context.Context, db *pgx.Conn) error {
	c.mu.Lock()
	tables, counters := c.tables, c.counters
	c.tables, c.counters = map[countKey]*tableCounts{}, map[counterKey]int64{}
	c.mu.Unlock()
	for k, n := range counters {
		if _, err := db.Exec(ctx, "SELECT pgdrover.add_counter($1, $2, $3)", k.sub, k.name, n); err != nil {
			return err
		}
	}
	if len(tables) == 0 {
		return nil
	}
	var subs, rels []uint32
	columns := make([][]int64, 12)
	for k, t := range tables {
		subs, rels = append(subs, k.sub), append(rels, k.table)
		for i, n := range []int64{
			t.rows[0], t.rows[1], t.rows[2], t.conflicts, t.counters, t.types[conflict.InsertExists],
			t.types[conflict.UpdateOriginDiffers], t.types[conflict.UpdateExists],
			t.types[conflict.UpdateMissing] + t.types[conflict.UpdateDeleted], t.types[conflict.DeleteOriginDiffers],
			t.types[conflict.DeleteMissing], t.types[conflict.DeleteExists],
		} {
			columns[i] = append(columns[i], n)
		}
	}
	_, err := db.Exec(ctx, `SELECT pgdrover.add_channel_stats($1::oid[], $2::oid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
		$7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[])`,
		subs, rels, columns[0], columns[1], columns[2], columns[3], columns[4], columns[5], columns[6], columns[7], columns[8],
		columns[9], columns[10], columns[11])
	return err
}

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
	tables     map[countKey]*tableCounts
	counters   map[counterKey]int64
	exceptions int64 // logged actions since the engine's start
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

func newCounts() *counts {
	return &counts{tables: map[countKey]*tableCounts{}, counters: map[counterKey]int64{}}
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

// row counts an attempt, whatever comes of it; minus one takes it back.
func (c *counts) row(sub, table uint32, kind pgoutput.Kind, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.table(sub, table)
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
	t := c.table(sub, table)
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
	c.table(sub, table).counters++
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

package apply

import (
	"context"

	"github.com/pgdrover/pgdrover/internal/conflict"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// transaction is one remote transaction, or a position without one.
type transaction struct {
	final, end pg.LSN // start and end of its commit record there
	commitTime pg.Timestamp
	xid        uint32
	author     conflict.NodeID // of what the provider forwards; 0 when it is not known, or the provider's own
	changes    []change
	size       int  // bytes of changes
	weight     int  // what it is counted with while it is in flight
	mode       mode // how it is to be written
	// partial: a part of it was written and let go before all of it had arrived.
	// It can only be repeated by asking the provider for it again.
	partial  bool
	begun    bool // BEGIN was sent
	complete bool // its end has arrived
	skipped  bool // by its position: nothing is written but the progress
	// position: there is no transaction, only a point of the stream to remember.
	position bool
	durable  bool // its commit waits for the disk
	early    bool // it comes in blocks, and is applied before its end is here
	deferred bool // it touched tables with checks that may wait for its end
	defines  bool // it has run DDL
	stamped  bool // its stamp was sent along with its last change
	written  bool // one of its statements writes, or fails
	actions  int  // counted as in the exception log, from BEGIN = 1

	amends   []uint32 // tables with rows that it amends
	saved    bool     // the savepoint of a change is there
	arena    []byte
	wish     *wish   // claims it holds
	bundle   *bundle // of several, that it consists of
	hand     *hand   // the session that writes it, beside others
	alone    bool    // it is not to be written beside others
	cause    error   // why it is not in the fast form
	reread   bool    // its tables were read anew after an error
	failedAt int     // the action that failed; 0 when none can be named
	attempts int
	finished bool
	// What became of its actions in the exception form.
	trials    []trial
	failed    bool // one of them, at least
	described int  // bytes of trials
	untold    int  // actions that are not among them
	// sets are its changes of the provider's replication sets, which stay when the
	// transaction is left out, and when parts of it were let go.
	sets []func(context.Context, *session) error
}

// count is how many transactions of the provider it is.
func (tx *transaction) count() int {
	if tx.bundle == nil {
		return 1
	}
	return len(tx.bundle.members)
}

type mode uint8

const (
	fast      mode = iota
	careful        // step by step
	exception      // step by step, each step in a subtransaction
)

// change is one message of a transaction, kept as it came.
type change struct {
	kind   pgoutput.Kind
	table  *remoteTable   // of a row
	tables []*remoteTable // of TRUNCATE
	data   []byte
	queue  *queued // of spock.queue
	// set changes the copy of the provider's replication sets. It stays when the
	// changes of the transaction are left out.
	set func(context.Context, *session) error
}

// row tells whether the change is one of a row of a user's table.
func (c *change) row() bool { return c.set == nil && c.queue == nil && c.table != nil }

// Most transactions are small; those that are not take ever larger pieces.
const (
	arenaFirst = 1 << 10
	arenaKept  = 4 << 10 // what is worth to be used again
	arenaLimit = 64 << 10
)

// keep copies a message into the transaction.
func (tx *transaction) keep(data []byte) []byte {
	if len(tx.arena)+len(data) > cap(tx.arena) {
		tx.arena = make([]byte, 0, max(arenaFirst, min(2*cap(tx.arena), arenaLimit), len(data)))
	}
	at := len(tx.arena)
	tx.arena = append(tx.arena, data...)
	return tx.arena[at:len(tx.arena):len(tx.arena)]
}

func (tx *transaction) add(c change) {
	tx.changes = append(tx.changes, c)
	tx.size += len(c.data) + 64
	if c.set != nil {
		tx.sets = append(tx.sets, c.set)
	}
}

// row adds what a row's change touches.
func (w *wish) row(g *target, row pgoutput.Tuple) {
	oid := g.OID
	if len(g.Indexes) == 0 {
		w.shared = append(w.shared, oid)
		return
	}
	for n, x := range g.Indexes {
		hash := hashBasis.uint32(oid).uint32(uint32(n))
		known, exact := true, true
		for _, c := range x.columns {
			place := g.place[c]
			if place < 0 {
				known = false
				break
			}
			v := row[g.sent[place].remote]
			if v.Kind == pgoutput.Null || v.Kind == pgoutput.Unchanged {
				known = false
				break
			}
			exact = exact && g.Columns[c].Exact && (v.Kind == pgoutput.Binary || g.Columns[c].isText()) &&
				g.sent[place].typ == g.Columns[c].Type
			hash = hash.uint32(uint32(len(v.Data))).bytes(v.Data) //nolint:gosec // below 1 GB
		}
		switch {
		case !known:
			w.shared = append(w.shared, oid)
		case !exact:
			w.tables = append(w.tables, oid)
		default:
			w.keys = append(w.keys, keyClaim{table: oid, hash: uint64(hash)})
		}
	}
}

// keyHash is FNV-1a without an allocation.
type keyHash uint64

const (
	hashBasis keyHash = 14695981039346656037
	hashPrime keyHash = 1099511628211
)

func (h keyHash) bytes(data []byte) keyHash {
	for _, b := range data {
		h = (h ^ keyHash(b)) * hashPrime
	}
	return h
}

func (h keyHash) uint32(n uint32) keyHash {
	for range 4 {
		h = (h ^ keyHash(n&0xFF)) * hashPrime
		n >>= 8
	}
	return h
}

func (c column) isText() bool { return c.Type == 25 || c.Type == 1043 || c.Type == 19 }

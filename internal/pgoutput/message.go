package pgoutput

import "github.com/pgdrover/pgdrover/internal/pg"

// Kind is a message's first byte.
type Kind byte

// The messages. Those of the last two groups need the protocol version that
// stands with them.
const (
	KindBegin    Kind = 'B'
	KindCommit   Kind = 'C'
	KindOrigin   Kind = 'O'
	KindRelation Kind = 'R'
	KindType     Kind = 'Y'
	KindInsert   Kind = 'I'
	KindUpdate   Kind = 'U'
	KindDelete   Kind = 'D'
	KindTruncate Kind = 'T'
	KindMessage  Kind = 'M'

	KindStreamStart  Kind = 'S' // 2
	KindStreamStop   Kind = 'E' // 2
	KindStreamCommit Kind = 'c' // 2
	KindStreamAbort  Kind = 'A' // 2

	KindBeginPrepare     Kind = 'b' // 3
	KindPrepare          Kind = 'P' // 3
	KindCommitPrepared   Kind = 'K' // 3
	KindRollbackPrepared Kind = 'r' // 3
	KindStreamPrepare    Kind = 'p' // 3
)

// KindOf returns the kind of an encoded message without decoding it, and 0 for
// an empty one. It may be no kind that exists.
func KindOf(data []byte) Kind {
	if len(data) == 0 {
		return 0
	}
	return Kind(data[0])
}

// Message is one of the pointer types below.
type Message interface {
	Kind() Kind
	String() string
}

// Begin starts a transaction that has committed on the server. FinalLSN is the
// start of its commit record, the same number as Commit.CommitLSN.
type Begin struct {
	FinalLSN   pg.LSN
	CommitTime pg.Timestamp
	XID        uint32
}

// Commit ends a transaction. EndLSN is the first position behind its commit
// record: progress is counted in these.
type Commit struct {
	CommitLSN  pg.LSN
	EndLSN     pg.LSN
	CommitTime pg.Timestamp
}

// Origin says that the transaction came to the server by replication. It
// follows Begin, or the first StreamStart of a transaction; there without a
// position. A server that no longer knows the origin's name sends no Origin.
type Origin struct {
	CommitLSN pg.LSN // on the node where the transaction began
	Name      string
}

// ReplicaIdentity says what old rows are made of.
type ReplicaIdentity byte

// The replica identities that a table can have.
const (
	IdentityDefault ReplicaIdentity = 'd' // its primary key
	IdentityNothing ReplicaIdentity = 'n'
	IdentityFull    ReplicaIdentity = 'f'
	IdentityIndex   ReplicaIdentity = 'i'
)

// Relation describes a table before the first change of it, and again whenever
// it may have changed. The caller may keep it. Inside a streamed transaction it
// holds for that one alone; once that has committed it holds for all that
// follow, and the server does not repeat it. The same goes for Type.
type Relation struct {
	XID       uint32 // of the streamed (sub)transaction, else 0
	ID        uint32 // the table's oid on the server
	Namespace string
	Name      string
	Identity  ReplicaIdentity
	Columns   []Column // in the order of the tuples' values
}

// Column is a column that is sent: dropped, generated and unpublished ones are not.
type Column struct {
	Name     string
	Type     uint32 // oid on the server
	Modifier int32  // -1 when the type has none
	Key      bool   // belongs to the replica identity
}

// Type names a type that is not built in, before the first Relation that uses
// it. The caller may keep it. For a domain the server puts the domain's oid
// beside the schema and name of its base type.
type Type struct {
	XID       uint32 // of the streamed (sub)transaction, else 0
	ID        uint32
	Namespace string
	Name      string
}

// Insert is a new row.
type Insert struct {
	XID      uint32 // of the streamed (sub)transaction, else 0
	Relation uint32
	New      Tuple
}

// OldTuple says what an old row holds.
type OldTuple byte

// The forms of an old row.
const (
	OldNone OldTuple = 0   // an update that left the key as it was
	OldKey  OldTuple = 'K' // the key's columns; the others are null
	OldFull OldTuple = 'O' // all columns
)

// Update is a changed row.
type Update struct {
	XID      uint32 // of the streamed (sub)transaction, else 0
	Relation uint32
	OldTuple OldTuple
	Old      Tuple // empty with OldNone
	New      Tuple
}

// Delete is a row that is gone.
type Delete struct {
	XID      uint32 // of the streamed (sub)transaction, else 0
	Relation uint32
	OldTuple OldTuple
	Old      Tuple
}

// Truncate empties tables, in one statement.
type Truncate struct {
	XID             uint32 // of the streamed (sub)transaction, else 0
	Cascade         bool
	RestartIdentity bool
	Relations       []uint32
}

// LogicalMessage is what pg_logical_emit_message wrote. One that is not
// transactional comes on its own, between transactions.
type LogicalMessage struct {
	XID           uint32 // of the streamed (sub)transaction, else 0
	Transactional bool
	LSN           pg.LSN
	Prefix        string
	Content       []byte
}

// StreamStart opens a block of changes of a transaction that is still open.
type StreamStart struct {
	XID   uint32 // of the top transaction
	First bool   // its first block
}

// StreamStop closes the block.
type StreamStop struct{}

// StreamCommit says that a streamed transaction has committed.
type StreamCommit struct {
	XID        uint32
	CommitLSN  pg.LSN
	EndLSN     pg.LSN
	CommitTime pg.Timestamp
}

// StreamAbort takes back a streamed transaction, or the changes of one of its
// subtransactions when SubXID is not XID.
type StreamAbort struct {
	XID    uint32
	SubXID uint32
	// Sent by version 4 when blocks may be applied in parallel, else zero.
	AbortLSN  pg.LSN
	AbortTime pg.Timestamp
}

// TwoPhase is what the messages about a prepared transaction have in common.
type TwoPhase struct {
	LSN    pg.LSN // of the record that prepares or commits
	EndLSN pg.LSN // behind it
	Time   pg.Timestamp
	XID    uint32
	GID    string
}

// BeginPrepare starts a transaction that is prepared on the server.
type BeginPrepare struct{ TwoPhase }

// Prepare ends it.
type Prepare struct{ TwoPhase }

// StreamPrepare ends a streamed transaction that is prepared on the server.
type StreamPrepare struct{ TwoPhase }

// CommitPrepared says that a prepared transaction has committed.
type CommitPrepared struct{ TwoPhase }

// RollbackPrepared says that a prepared transaction was rolled back.
type RollbackPrepared struct {
	PrepareEndLSN  pg.LSN
	RollbackEndLSN pg.LSN
	PrepareTime    pg.Timestamp
	RollbackTime   pg.Timestamp
	XID            uint32
	GID            string
}

// ValueKind says in which form a value is there.
type ValueKind byte

// The forms of a value.
const (
	Null      ValueKind = 'n'
	Unchanged ValueKind = 'u' // stored out of line and not written by this update: not sent
	Text      ValueKind = 't' // the type's output function
	Binary    ValueKind = 'b' // the type's send function
)

// Value is one column of a row.
type Value struct {
	Data []byte // part of the input; nil when Null or Unchanged, never nil otherwise
	Kind ValueKind
}

// Tuple is a row in the order of Relation.Columns.
type Tuple []Value

// Complete tells whether no value is Unchanged.
func (t Tuple) Complete() bool {
	for i := range t {
		if t[i].Kind == Unchanged {
			return false
		}
	}
	return true
}

// Kind implements Message.
func (*Begin) Kind() Kind { return KindBegin }

// Kind implements Message.
func (*Commit) Kind() Kind { return KindCommit }

// Kind implements Message.
func (*Origin) Kind() Kind { return KindOrigin }

// Kind implements Message.
func (*Relation) Kind() Kind { return KindRelation }

// Kind implements Message.
func (*Type) Kind() Kind { return KindType }

// Kind implements Message.
func (*Insert) Kind() Kind { return KindInsert }

// Kind implements Message.
func (*Update) Kind() Kind { return KindUpdate }

// Kind implements Message.
func (*Delete) Kind() Kind { return KindDelete }

// Kind implements Message.
func (*Truncate) Kind() Kind { return KindTruncate }

// Kind implements Message.
func (*LogicalMessage) Kind() Kind { return KindMessage }

// Kind implements Message.
func (*StreamStart) Kind() Kind { return KindStreamStart }

// Kind implements Message.
func (*StreamStop) Kind() Kind { return KindStreamStop }

// Kind implements Message.
func (*StreamCommit) Kind() Kind { return KindStreamCommit }

// Kind implements Message.
func (*StreamAbort) Kind() Kind { return KindStreamAbort }

// Kind implements Message.
func (*BeginPrepare) Kind() Kind { return KindBeginPrepare }

// Kind implements Message.
func (*Prepare) Kind() Kind { return KindPrepare }

// Kind implements Message.
func (*StreamPrepare) Kind() Kind { return KindStreamPrepare }

// Kind implements Message.
func (*CommitPrepared) Kind() Kind { return KindCommitPrepared }

// Kind implements Message.
func (*RollbackPrepared) Kind() Kind { return KindRollbackPrepared }

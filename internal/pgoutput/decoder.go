package pgoutput

import (
	"fmt"
	"slices"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// The protocol versions that exist, each with what it can say more.
const (
	Version1 = 1 // 10: committed transactions
	Version2 = 2 // 14: streamed transactions
	Version3 = 3 // 15: two-phase commit
	Version4 = 4 // 16: streamed transactions that may be applied in parallel
)

// Error is a message that does not follow the protocol. The stream it came from
// cannot be followed any further.
type Error struct {
	Kind    Kind   // as far as it could be read
	Offset  int    // in the message
	Problem string // what is wrong there
}

func (e *Error) Error() string {
	return fmt.Sprintf("decode %s message: %s at byte %d", e.Kind, e.Problem, e.Offset)
}

// Decoder decodes the messages of one stream, one after the other. It is not
// safe for concurrent use.
type Decoder struct {
	version  int
	inStream bool
	large    bool // the last message was: nothing of it is to be held on to

	// Messages that are handed out and used again.
	begin            Begin
	commit           Commit
	origin           Origin
	insert           Insert
	update           Update
	delete           Delete
	truncate         Truncate
	message          LogicalMessage
	streamStart      StreamStart
	streamStop       StreamStop
	streamCommit     StreamCommit
	streamAbort      StreamAbort
	beginPrepare     BeginPrepare
	prepare          Prepare
	streamPrepare    StreamPrepare
	commitPrepared   CommitPrepared
	rollbackPrepared RollbackPrepared
}

// largeMessage is the size of a message that must not stay in memory because of
// the decoder.
const largeMessage = 64 << 10

// NewDecoder returns a decoder for a stream that was started with that
// proto_version.
func NewDecoder(version int) (*Decoder, error) {
	if version < Version1 || version > Version4 {
		return nil, fmt.Errorf("decode protocol version %d: only %d to %d exist", version, Version1, Version4)
	}
	return &Decoder{version: version}, nil
}

// InStream tells whether the decoder stands between StreamStart and StreamStop.
func (d *Decoder) InStream() bool { return d.inStream }

// Decode decodes the stream's next message. The message and everything in it
// are good until the next call and while data is left alone. After an error the
// stream is over.
func (d *Decoder) Decode(data []byte) (Message, error) {
	m, err := d.DecodeOne(data, d.inStream)
	if err != nil {
		return nil, err
	}
	switch m.Kind() {
	case KindStreamStart:
		d.inStream = true
	case KindStreamStop:
		d.inStream = false
	default:
	}
	return m, nil
}

// DecodeOne decodes a message that was kept, whatever the stream is doing now.
// Changes inside a streamed block are encoded differently: inStream is what
// [Decoder.InStream] said before the message was decoded first.
func (d *Decoder) DecodeOne(data []byte, inStream bool) (Message, error) {
	if d.large {
		clear(d.insert.New)
		clear(d.update.New)
		clear(d.update.Old[:cap(d.update.Old)])
		clear(d.delete.Old)
		d.message.Content = nil
	}
	d.large = len(data) > largeMessage
	r := reader{data: data}
	kind := Kind(r.byte())
	if r.problem != "" {
		return nil, &Error{Kind: kind, Problem: "no bytes"}
	}
	if problem := d.misplaced(kind, inStream); problem != "" {
		return nil, &Error{Kind: kind, Problem: problem}
	}
	var m Message
	switch kind {
	case KindInsert, KindUpdate, KindDelete, KindTruncate, KindRelation, KindType, KindMessage:
		var xid uint32
		if inStream {
			xid = r.uint32()
		}
		m = d.change(&r, kind, xid)
	case KindStreamStart, KindStreamStop, KindStreamCommit, KindStreamAbort:
		m = d.stream(&r, kind)
	case KindBegin, KindCommit, KindOrigin:
		m = d.transaction(&r, kind)
	default:
		m = d.twoPhase(&r, kind)
	}
	if r.problem == "" && r.off < len(data) {
		r.fail("more bytes than it should have")
	}
	if r.problem != "" {
		return nil, &Error{Kind: kind, Offset: r.at, Problem: r.problem}
	}
	return m, nil
}

// misplaced says why a message of that kind cannot come here, or nothing.
func (d *Decoder) misplaced(kind Kind, inStream bool) string {
	since := Version1
	inside, outside := false, true
	switch kind {
	case KindInsert, KindUpdate, KindDelete, KindTruncate, KindRelation, KindType, KindMessage, KindOrigin:
		inside = true
	case KindBegin, KindCommit:
	case KindStreamStart, KindStreamCommit, KindStreamAbort:
		since = Version2
	case KindStreamStop:
		since, inside, outside = Version2, true, false
	case KindBeginPrepare, KindPrepare, KindCommitPrepared, KindRollbackPrepared, KindStreamPrepare:
		since = Version3
	default:
		return "unknown message type"
	}
	switch {
	case d.version < since:
		return fmt.Sprintf("unknown message type in version %d", d.version)
	case inStream && !inside:
		return "not expected inside a streamed block"
	case !inStream && !outside:
		return "not expected outside a streamed block"
	}
	return ""
}

func (d *Decoder) transaction(r *reader, kind Kind) Message {
	switch kind {
	case KindBegin:
		d.begin = Begin{FinalLSN: r.lsn(), CommitTime: r.timestamp(), XID: r.uint32()}
		return &d.begin
	case KindCommit:
		r.noFlags()
		d.commit = Commit{CommitLSN: r.lsn(), EndLSN: r.lsn(), CommitTime: r.timestamp()}
		return &d.commit
	default:
		d.origin = Origin{CommitLSN: r.lsn(), Name: again(d.origin.Name, r.text())}
		return &d.origin
	}
}

func (d *Decoder) change(r *reader, kind Kind, xid uint32) Message {
	switch kind {
	case KindInsert:
		d.insert.XID, d.insert.Relation = xid, r.uint32()
		r.expect('N')
		d.insert.New = r.tuple(d.insert.New)
		return &d.insert
	case KindUpdate:
		d.decodeUpdate(r, xid)
		return &d.update
	case KindDelete:
		d.delete.XID, d.delete.Relation = xid, r.uint32()
		d.delete.OldTuple = OldTuple(r.byte())
		if d.delete.OldTuple != OldKey && d.delete.OldTuple != OldFull {
			r.fail("unknown form of an old row")
		}
		d.delete.Old = r.tuple(d.delete.Old)
		return &d.delete
	case KindTruncate:
		n := r.count(int64(int32(r.uint32())), 4) //nolint:gosec // a negative number is refused
		flags := r.byte()
		if flags > 3 {
			r.fail("unknown flags")
		}
		relations := slices.Grow(d.truncate.Relations[:0], n)[:n]
		for i := range relations {
			relations[i] = r.uint32()
		}
		d.truncate = Truncate{XID: xid, Cascade: flags&1 != 0, RestartIdentity: flags&2 != 0, Relations: relations}
		return &d.truncate
	case KindRelation:
		return decodeRelation(r, xid)
	case KindType:
		return &Type{XID: xid, ID: r.uint32(), Namespace: namespace(r.text()), Name: string(r.text())}
	default:
		flags := r.byte()
		if flags > 1 {
			r.fail("unknown flags")
		}
		d.message = LogicalMessage{
			XID: xid, Transactional: flags == 1, LSN: r.lsn(),
			Prefix: again(d.message.Prefix, r.text()), Content: r.sized(),
		}
		return &d.message
	}
}

func (d *Decoder) decodeUpdate(r *reader, xid uint32) {
	u := &d.update
	u.XID, u.Relation = xid, r.uint32()
	u.OldTuple, u.Old = OldNone, u.Old[:0]
	part := r.byte()
	if old := OldTuple(part); old == OldKey || old == OldFull {
		u.OldTuple, u.Old = old, r.tuple(u.Old)
		part = r.byte()
	}
	if part != 'N' {
		r.fail("unknown part of an update")
	}
	u.New = r.tuple(u.New)
}

func decodeRelation(r *reader, xid uint32) *Relation {
	rel := &Relation{
		XID: xid, ID: r.uint32(), Namespace: namespace(r.text()), Name: string(r.text()),
		Identity: ReplicaIdentity(r.byte()),
	}
	switch rel.Identity {
	case IdentityDefault, IdentityNothing, IdentityFull, IdentityIndex:
	default:
		r.fail("unknown replica identity")
	}
	// A column takes at least its flags, the end of its name, type and modifier.
	n := r.count(int64(int16(r.uint16())), 10) //nolint:gosec // a negative number is refused
	rel.Columns = make([]Column, n)
	for i := range rel.Columns {
		rel.Columns[i] = Column{
			Key: r.byte()&1 != 0, Name: string(r.text()), Type: r.uint32(),
			Modifier: int32(r.uint32()), //nolint:gosec // -1 is a modifier
		}
	}
	return rel
}

func (d *Decoder) stream(r *reader, kind Kind) Message {
	switch kind {
	case KindStreamStart:
		d.streamStart = StreamStart{XID: r.uint32(), First: r.byte() == 1}
		return &d.streamStart
	case KindStreamStop:
		return &d.streamStop
	case KindStreamCommit:
		d.streamCommit.XID = r.uint32()
		r.noFlags()
		d.streamCommit.CommitLSN, d.streamCommit.EndLSN, d.streamCommit.CommitTime = r.lsn(), r.lsn(), r.timestamp()
		return &d.streamCommit
	default:
		d.streamAbort = StreamAbort{XID: r.uint32(), SubXID: r.uint32()}
		if d.version >= Version4 && r.off < len(r.data) {
			d.streamAbort.AbortLSN, d.streamAbort.AbortTime = r.lsn(), r.timestamp()
		}
		return &d.streamAbort
	}
}

func (d *Decoder) twoPhase(r *reader, kind Kind) Message {
	if kind != KindBeginPrepare {
		r.noFlags()
	}
	if kind == KindRollbackPrepared {
		d.rollbackPrepared = RollbackPrepared{
			PrepareEndLSN: r.lsn(), RollbackEndLSN: r.lsn(), PrepareTime: r.timestamp(), RollbackTime: r.timestamp(),
			XID: r.uint32(), GID: string(r.text()),
		}
		return &d.rollbackPrepared
	}
	t := TwoPhase{LSN: r.lsn(), EndLSN: r.lsn(), Time: r.timestamp(), XID: r.uint32(), GID: string(r.text())}
	switch kind {
	case KindBeginPrepare:
		d.beginPrepare = BeginPrepare{t}
		return &d.beginPrepare
	case KindPrepare:
		d.prepare = Prepare{t}
		return &d.prepare
	case KindCommitPrepared:
		d.commitPrepared = CommitPrepared{t}
		return &d.commitPrepared
	default:
		d.streamPrepare = StreamPrepare{t}
		return &d.streamPrepare
	}
}

func (r *reader) expect(part byte) {
	if r.byte() != part {
		r.fail("unknown part of a change")
	}
}

// again returns the same text as before without a copy, if it is the same.
func again(before string, text []byte) string {
	if before == string(text) {
		return before
	}
	return string(text)
}

// namespace undoes the server's abbreviation for the schema of built-in objects.
func namespace(text []byte) string {
	if len(text) == 0 {
		return "pg_catalog"
	}
	return string(text)
}

// Begun returns the position by which the transaction that a message starts is
// known, if it starts one: the number that names a transaction to be skipped.
func Begun(m Message) (pg.LSN, bool) {
	switch m := m.(type) {
	case *Begin:
		return m.FinalLSN, true
	case *BeginPrepare:
		return m.LSN, true
	default:
		return 0, false
	}
}

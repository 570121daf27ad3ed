package pgoutput

import (
	"encoding/binary"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// encoder is the server's half, for tests.
type encoder struct{ b []byte }

func (e *encoder) byte(b byte) *encoder { e.b = append(e.b, b); return e }

func (e *encoder) u16(v int) *encoder {
	e.b = binary.BigEndian.AppendUint16(e.b, uint16(v))
	return e
}

func (e *encoder) u32(v uint32) *encoder { e.b = binary.BigEndian.AppendUint32(e.b, v); return e }
func (e *encoder) u64(v uint64) *encoder { e.b = binary.BigEndian.AppendUint64(e.b, v); return e }
func (e *encoder) lsn(l pg.LSN) *encoder { return e.u64(uint64(l)) }
func (e *encoder) time(t pg.Timestamp) *encoder {
	return e.u64(uint64(t))
}

func (e *encoder) text(s string) *encoder {
	e.b = append(append(e.b, s...), 0)
	return e
}

func (e *encoder) namespace(s string) *encoder {
	if s == "pg_catalog" {
		s = ""
	}
	return e.text(s)
}

func (e *encoder) tuple(t Tuple) *encoder {
	e.u16(len(t))
	for _, v := range t {
		e.byte(byte(v.Kind))
		if v.Kind == Text || v.Kind == Binary {
			e.u32(uint32(len(v.Data)))
			e.b = append(e.b, v.Data...)
		}
	}
	return e
}

func (e *encoder) old(kind OldTuple, t Tuple) *encoder {
	if kind != OldNone {
		e.byte(byte(kind)).tuple(t)
	}
	return e
}

func bit(set bool, value byte) byte {
	if set {
		return value
	}
	return 0
}

// encode is the inverse of Decode; inStream says whether changes carry an xid.
func encode(m Message, inStream bool) []byte {
	e := (&encoder{}).byte(byte(m.Kind()))
	xid := func(v uint32) *encoder {
		if inStream {
			e.u32(v)
		}
		return e
	}
	switch m := m.(type) {
	case *Begin:
		e.lsn(m.FinalLSN).time(m.CommitTime).u32(m.XID)
	case *Commit:
		e.byte(0).lsn(m.CommitLSN).lsn(m.EndLSN).time(m.CommitTime)
	case *Origin:
		e.lsn(m.CommitLSN).text(m.Name)
	case *Relation:
		xid(m.XID).u32(m.ID).namespace(m.Namespace).text(m.Name).byte(byte(m.Identity)).u16(len(m.Columns))
		for _, c := range m.Columns {
			e.byte(bit(c.Key, 1)).text(c.Name).u32(c.Type).u32(uint32(c.Modifier))
		}
	case *Type:
		xid(m.XID).u32(m.ID).namespace(m.Namespace).text(m.Name)
	case *Insert:
		xid(m.XID).u32(m.Relation).byte('N').tuple(m.New)
	case *Update:
		xid(m.XID).u32(m.Relation).old(m.OldTuple, m.Old).byte('N').tuple(m.New)
	case *Delete:
		xid(m.XID).u32(m.Relation).old(m.OldTuple, m.Old)
	case *Truncate:
		xid(m.XID).u32(uint32(len(m.Relations))).byte(bit(m.Cascade, 1) | bit(m.RestartIdentity, 2))
		for _, r := range m.Relations {
			e.u32(r)
		}
	case *LogicalMessage:
		xid(m.XID).byte(bit(m.Transactional, 1)).lsn(m.LSN).text(m.Prefix).u32(uint32(len(m.Content)))
		e.b = append(e.b, m.Content...)
	case *StreamStart:
		e.u32(m.XID).byte(bit(m.First, 1))
	case *StreamStop:
	case *StreamCommit:
		e.u32(m.XID).byte(0).lsn(m.CommitLSN).lsn(m.EndLSN).time(m.CommitTime)
	case *StreamAbort:
		e.u32(m.XID).u32(m.SubXID)
		if m.AbortLSN != 0 || m.AbortTime != 0 {
			e.lsn(m.AbortLSN).time(m.AbortTime)
		}
	case *BeginPrepare:
		e.lsn(m.LSN).lsn(m.EndLSN).time(m.Time).u32(m.XID).text(m.GID)
	case *Prepare:
		e.twoPhase(m.TwoPhase)
	case *StreamPrepare:
		e.twoPhase(m.TwoPhase)
	case *CommitPrepared:
		e.twoPhase(m.TwoPhase)
	case *RollbackPrepared:
		e.byte(0).lsn(m.PrepareEndLSN).lsn(m.RollbackEndLSN).time(m.PrepareTime).time(m.RollbackTime).u32(m.XID).text(m.GID)
	}
	return e.b
}

func (e *encoder) twoPhase(t TwoPhase) {
	e.byte(0).lsn(t.LSN).lsn(t.EndLSN).time(t.Time).u32(t.XID).text(t.GID)
}

package pgoutput

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// String returns the kind's name in the protocol's documentation.
func (k Kind) String() string {
	switch k {
	case KindBegin:
		return "Begin"
	case KindCommit:
		return "Commit"
	case KindOrigin:
		return "Origin"
	case KindRelation:
		return "Relation"
	case KindType:
		return "Type"
	case KindInsert:
		return "Insert"
	case KindUpdate:
		return "Update"
	case KindDelete:
		return "Delete"
	case KindTruncate:
		return "Truncate"
	case KindMessage:
		return "Message"
	case KindStreamStart:
		return "Stream Start"
	case KindStreamStop:
		return "Stream Stop"
	case KindStreamCommit:
		return "Stream Commit"
	case KindStreamAbort:
		return "Stream Abort"
	case KindBeginPrepare:
		return "Begin Prepare"
	case KindPrepare:
		return "Prepare"
	case KindCommitPrepared:
		return "Commit Prepared"
	case KindRollbackPrepared:
		return "Rollback Prepared"
	case KindStreamPrepare:
		return "Stream Prepare"
	default:
		return strconv.QuoteRune(rune(k))
	}
}

// line builds a message's text: the kind, then pairs of name and value.
type line struct{ b strings.Builder }

func describe(k Kind, xid uint32) *line {
	l := &line{}
	l.b.WriteString(k.String())
	if xid != 0 {
		l.add("xid", xid)
	}
	return l
}

func (l *line) add(name string, value any) *line {
	fmt.Fprintf(&l.b, " %s=%v", name, value)
	return l
}

func (l *line) flag(name string, set bool) *line {
	if set {
		l.b.WriteString(" " + name)
	}
	return l
}

// String is for people and for tests.
func (m *Begin) String() string {
	return describe(m.Kind(), m.XID).add("lsn", m.FinalLSN).add("time", m.CommitTime).b.String()
}

// String is for people and for tests.
func (m *Commit) String() string {
	return describe(m.Kind(), 0).add("lsn", m.CommitLSN).add("end", m.EndLSN).add("time", m.CommitTime).b.String()
}

// String is for people and for tests.
func (m *Origin) String() string {
	return describe(m.Kind(), 0).add("lsn", m.CommitLSN).add("name", strconv.Quote(m.Name)).b.String()
}

// String is for people and for tests.
func (m *Relation) String() string {
	l := describe(m.Kind(), m.XID).add("oid", m.ID).add("name", m.Namespace+"."+m.Name).add("identity", string(m.Identity))
	for _, c := range m.Columns {
		name := c.Name
		if c.Key {
			name += "*"
		}
		fmt.Fprintf(&l.b, " %s:%d/%d", name, c.Type, c.Modifier)
	}
	return l.b.String()
}

// String is for people and for tests.
func (m *Type) String() string {
	return describe(m.Kind(), m.XID).add("oid", m.ID).add("name", m.Namespace+"."+m.Name).b.String()
}

// String is for people and for tests.
func (m *Insert) String() string {
	return describe(m.Kind(), m.XID).add("oid", m.Relation).add("new", m.New).b.String()
}

// String is for people and for tests.
func (m *Update) String() string {
	l := describe(m.Kind(), m.XID).add("oid", m.Relation)
	m.OldTuple.describe(l, m.Old)
	return l.add("new", m.New).b.String()
}

// String is for people and for tests.
func (m *Delete) String() string {
	l := describe(m.Kind(), m.XID).add("oid", m.Relation)
	m.OldTuple.describe(l, m.Old)
	return l.b.String()
}

func (o OldTuple) describe(l *line, t Tuple) {
	switch o {
	case OldKey:
		l.add("key", t)
	case OldFull:
		l.add("old", t)
	case OldNone:
	}
}

// String is for people and for tests.
func (m *Truncate) String() string {
	return describe(m.Kind(), m.XID).add("oids", m.Relations).flag("cascade", m.Cascade).
		flag("restart_identity", m.RestartIdentity).b.String()
}

// String is for people and for tests.
func (m *LogicalMessage) String() string {
	return describe(m.Kind(), m.XID).flag("transactional", m.Transactional).add("lsn", m.LSN).
		add("prefix", strconv.Quote(m.Prefix)).add("content", strconv.Quote(string(m.Content))).b.String()
}

// String is for people and for tests.
func (m *StreamStart) String() string {
	return describe(m.Kind(), m.XID).flag("first", m.First).b.String()
}

// String is for people and for tests.
func (m *StreamStop) String() string { return m.Kind().String() }

// String is for people and for tests.
func (m *StreamCommit) String() string {
	return describe(m.Kind(), m.XID).add("lsn", m.CommitLSN).add("end", m.EndLSN).add("time", m.CommitTime).b.String()
}

// String is for people and for tests.
func (m *StreamAbort) String() string {
	l := describe(m.Kind(), m.XID).add("subxid", m.SubXID)
	if m.AbortLSN != 0 || m.AbortTime != 0 {
		l.add("lsn", m.AbortLSN).add("time", m.AbortTime)
	}
	return l.b.String()
}

func (t TwoPhase) describe(k Kind) string {
	return describe(k, t.XID).add("lsn", t.LSN).add("end", t.EndLSN).add("time", t.Time).
		add("gid", strconv.Quote(t.GID)).b.String()
}

// String is for people and for tests.
func (m *BeginPrepare) String() string { return m.describe(m.Kind()) }

// String is for people and for tests.
func (m *Prepare) String() string { return m.describe(m.Kind()) }

// String is for people and for tests.
func (m *StreamPrepare) String() string { return m.describe(m.Kind()) }

// String is for people and for tests.
func (m *CommitPrepared) String() string { return m.describe(m.Kind()) }

// String is for people and for tests.
func (m *RollbackPrepared) String() string {
	return describe(m.Kind(), m.XID).add("prepare_end", m.PrepareEndLSN).add("end", m.RollbackEndLSN).
		add("prepare_time", m.PrepareTime).add("time", m.RollbackTime).add("gid", strconv.Quote(m.GID)).b.String()
}

// String is for people and for tests: text values are quoted, binary ones
// are hexadecimal numbers.
func (t Tuple) String() string {
	var b strings.Builder
	b.WriteByte('(')
	for i, v := range t {
		if i > 0 {
			b.WriteString(", ")
		}
		switch v.Kind {
		case Null:
			b.WriteString("null")
		case Unchanged:
			b.WriteString("unchanged")
		case Text:
			b.WriteString(strconv.Quote(string(v.Data)))
		case Binary:
			b.WriteString("0x" + hex.EncodeToString(v.Data))
		}
	}
	b.WriteByte(')')
	return b.String()
}

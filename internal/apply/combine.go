package apply

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// Most transactions of a stream look alike: the same statements, one row each,
// on different tables. The server's price of a statement is much higher than
// that of a row, so what comes again and again is written as one statement of
// several common table expressions, which ends with the transaction's stamp.

const (
	// maxParts bounds a statement, maxShapes those that are remembered.
	maxParts  = 8
	maxShapes = 100
	// commonShape is how often a shape must come before it is worth to be prepared.
	commonShape = 3
)

// waiting is a row that will be written with others.
type waiting struct {
	plan   *plan
	target *target
	values []pgoutput.Value
	keys   []pgoutput.Value // for the look for tombstones
}

// shape is a statement for such rows.
type shape struct {
	seen  int
	text  string
	types []uint32
}

// shapes are those of a session.
type shapes struct {
	all  map[string]*shape
	ids  *int // number of the last plan
	name []byte
}

// number marks a plan as one that may be combined.
func (s *shapes) number(p *plan) {
	*s.ids++
	p.id = *s.ids
}

const (
	partsShape = 'p'
	looksShape = 'l'
)

// find returns the shape of some rows, once it is known to be common.
func (s *shapes) find(session *session, kind byte, rows []waiting, setup bool) *shape {
	s.name = append(s.name[:0], kind, 0)
	if setup {
		s.name[1] = 1
	}
	for i := range rows {
		s.name = binary.AppendUvarint(s.name, uint64(rows[i].plan.id)) //nolint:gosec // counted from 1
	}
	known := s.all[string(s.name)]
	if known == nil {
		if s.all == nil || len(s.all) >= maxShapes {
			s.forget(session)
		}
		known = &shape{}
		s.all[string(s.name)] = known
	}
	if known.seen++; known.seen < commonShape {
		return nil
	}
	if known.text == "" {
		known.make(kind, rows, setup)
	}
	return known
}

// forget begins anew where too many are known: the server keeps a plan of each.
func (s *shapes) forget(session *session) {
	for _, known := range s.all {
		if known.text != "" {
			session.drop(known.text)
		}
	}
	s.all = map[string]*shape{}
}

func (s *shape) make(kind byte, rows []waiting, setup bool) {
	var p parameters
	time, lsn := p.add(timestamptzOID), p.add(pgLSNOID)
	stamp := ""
	if setup {
		// The last to be evaluated: newer servers move the origin also when a
		// transaction aborts after that.
		stamp = fmt.Sprintf(", pg_replication_origin_xact_setup(%s, %s)", p.add(pgLSNOID), time)
	}
	var tables, tests []string
	for i, w := range rows {
		if kind == looksShape {
			tests = append(tests, w.plan.look(&p, time))
			continue
		}
		table, counted := w.plan.part(&p, i, time, lsn)
		tables = append(tables, table)
		tests = append(tests, "EXISTS (SELECT FROM "+counted+")")
	}
	s.text = "SELECT " + holds(strings.Join(tests, " AND ")) + stamp
	if len(tables) > 0 {
		s.text = "WITH " + strings.Join(tables, ", ") + " " + s.text
	}
	s.types = p.types
}

// combine keeps the gathered row for a statement with others. False means that
// it has to be written alone.
func (r *run) combine() bool {
	p := r.plan
	if r.n != 1 || p.id == 0 {
		return false
	}
	for i := range r.waiting {
		// A statement writes a table once: the order of its parts is not given.
		if r.waiting[i].target.OID == r.target.OID {
			r.sendWaiting(false)
			break
		}
	}
	if len(r.waiting) >= maxParts {
		r.sendWaiting(false)
	}
	w := waiting{plan: p, target: r.target}
	all := make([]pgoutput.Value, 0, len(p.columns)+2) // a time and a position may follow
	for i := range p.columns {
		all = append(all, r.values[i][0])
	}
	w.values = all
	if len(p.keys) > 0 {
		w.keys = make([]pgoutput.Value, 0, len(p.keys)+1)
	}
	for i := range p.keys {
		w.keys = append(w.keys, r.looked[i][0])
	}
	r.waiting = append(r.waiting, w)
	r.n, r.plan, r.target = 0, nil, nil
	return true
}

// sendWaiting writes the rows that were kept, and with setup the transaction's
// stamp.
func (r *run) sendWaiting(setup bool) {
	if len(r.waiting) > 0 {
		looks := false
		for i := range r.waiting {
			looks = looks || r.waiting[i].plan.look != nil
		}
		// A shape of one row without a stamp is what the plan has already.
		final := setup && !looks && len(r.looks) == 0
		var s *shape
		if len(r.waiting) > 1 || final {
			s = r.a.shapes.find(r.a.session, partsShape, r.waiting, final)
		}
		if s != nil {
			r.sendShape(s, r.waiting, final, func(w *waiting) []pgoutput.Value { return w.values })
			r.tx.stamped = final
		} else {
			for i := range r.waiting {
				w := &r.waiting[i]
				r.a.session.execute(w.plan.one, w.plan.oneOf, r.withStamp(w.plan, w.values), op{tx: r.tx})
			}
		}
		for i := range r.waiting {
			if r.waiting[i].plan.look != nil {
				r.looks = append(r.looks, r.waiting[i])
			}
		}
		r.waiting = r.waiting[:0]
	}
	if setup || len(r.looks) >= maxParts {
		r.sendLooks(setup)
	}
}

// sendLooks looks for tombstones of the rows that were inserted. It does so in a
// later statement than the inserts: one of those may have waited for the very
// transaction that deleted the row.
func (r *run) sendLooks(setup bool) {
	for left := r.looks; len(left) > 0; {
		n := min(len(left), maxParts)
		final := setup && n == len(left)
		if s := r.a.shapes.find(r.a.session, looksShape, left[:n], final); s != nil {
			r.sendShape(s, left[:n], final, func(w *waiting) []pgoutput.Value { return w.keys })
			r.tx.stamped = final
		} else {
			for i := range left[:n] {
				w := &left[i]
				r.a.session.execute(w.plan.lookOne, w.plan.lookOf, append(w.keys, int64Value(int64(r.tx.commitTime))), op{tx: r.tx})
			}
		}
		left = left[n:]
	}
	r.looks = r.looks[:0]
}

func (r *run) sendShape(s *shape, rows []waiting, setup bool, of func(*waiting) []pgoutput.Value) {
	values := r.bound[:0]
	values = append(values, int64Value(int64(r.tx.commitTime)), lsnValue(r.tx.final+1))
	if setup {
		values = append(values, lsnValue(r.tx.end))
	}
	for i := range rows {
		values = append(values, of(&rows[i])...)
	}
	r.a.session.execute(s.text, s.types, values, op{tx: r.tx})
	r.bound = values
}

// withStamp are the values of a plan's statement for one row.
func (r *run) withStamp(p *plan, values []pgoutput.Value) []pgoutput.Value {
	if p.time {
		values = append(values, int64Value(int64(r.tx.commitTime)))
	}
	if p.lsn {
		values = append(values, lsnValue(r.tx.final+1))
	}
	return values
}

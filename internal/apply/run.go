package apply

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// run gathers changes of a transaction that one statement can write: the same
// action on the same columns of one table, for different rows.
type run struct {
	a      *applier
	tx     *transaction
	plan   *plan
	target *target
	values [][]pgoutput.Value // by column of the plan
	looked [][]pgoutput.Value // by key column, for inserts
	n      int
	bytes  int
	seen   map[string]bool // keys of updates
	tally  *tally          // of the transaction; nil before its first row

	waiting []waiting // for others that one statement can write as well
	looks   []waiting // inserted, and not looked for yet
	bound   []pgoutput.Value
}

// begin prepares for a transaction, or for the next part of one.
func (r *run) begin(a *applier, tx *transaction) {
	r.a, r.tx, r.plan, r.target, r.n = a, tx, nil, nil, 0
	r.waiting, r.looks, r.tally = r.waiting[:0], r.looks[:0], nil
}

const (
	runRows  = 1000
	runBytes = 256 << 10
	// copyRows is how many inserted rows are worth a COPY.
	copyRows = 50
)

// add writes a change, or remembers it for the next statement. False means that
// the fast form is not for it.
func (r *run) add(ctx context.Context, c *change) (bool, error) {
	if !c.row() {
		return false, nil
	}
	g, err := r.a.target(ctx, c.table)
	if err != nil || g.careful || r.a.amended.has(g.OID) {
		return false, passPipeline(err)
	}
	m, err := r.a.decoder.DecodeOne(c.data, false)
	if err != nil {
		return false, err
	}
	var p *plan
	var row, old pgoutput.Tuple
	switch m := m.(type) {
	case *pgoutput.Insert:
		row, p = m.New, r.insertPlan(g)
	case *pgoutput.Update:
		row, old, p = m.New, m.Old, r.updatePlan(g, m)
	case *pgoutput.Delete:
		row, p = m.Old, r.deletePlan(g)
	}
	if p == nil || p.one == "" || len(row) != len(g.remote.Columns) {
		return false, nil
	}
	r.tx.deferred = r.tx.deferred || g.Deferrable
	r.tx.actions++
	if r.tally == nil {
		r.tally = r.a.counts.tally(r.a.subID, r.tx)
	}
	r.tally.of(g.OID).row(c.kind, 1)
	r.tx.written = r.tx.written || g.Plain || c.kind != pgoutput.KindInsert // a trigger may keep a row out
	if r.target != g || r.plan != p || r.n >= runRows || r.bytes >= runBytes || r.twice(g, row, c.kind) {
		r.next()
		r.start(g, p)
		r.twice(g, row, c.kind)
	}
	for i, col := range p.columns {
		from := row
		if i >= len(p.columns)-p.old {
			from = old
		}
		v := g.value(col, from[col.remote])
		r.values[i] = append(r.values[i], v)
		r.bytes += len(v.Data) + 4
	}
	for i, col := range p.keys {
		r.looked[i] = append(r.looked[i], g.value(col, row[col.remote]))
	}
	r.n++
	if r.a.session.full() {
		return true, r.a.session.flush()
	}
	return true, nil
}

func (r *run) insertPlan(g *target) *plan {
	p := g.plans[planInsert]
	if p == nil {
		p = g.insertPlan()
		r.a.keepPlan(g, planInsert, p)
	}
	return p
}

// deletePlan is nil where rows have no key to be deleted by.
func (r *run) deletePlan(g *target) *plan {
	p := g.plans[planDelete]
	if p == nil && g.hasKey && g.KeyBytes != nil {
		p = g.deletePlan(r.a.verdict)
		r.a.keepPlan(g, planDelete, p)
	}
	return p
}

// passPipeline lets the careful form meet all errors but those that concern the
// session.
func passPipeline(err error) error {
	if isSessionError(err) {
		return err
	}
	return nil
}

const (
	planInsert = 1 << 62
	planDelete = 1 << 61
	planMove   = 1 << 60
	maskWidth  = 60
)

// updatePlan is the plan for an update.
func (r *run) updatePlan(g *target, m *pgoutput.Update) *plan {
	if !g.hasKey || len(g.sent) > maskWidth || len(m.New) != len(g.remote.Columns) {
		return nil
	}
	if m.OldTuple == pgoutput.OldKey || m.OldTuple == pgoutput.OldFull && !sameKey(g, m.Old, m.New) {
		return r.movePlan(g, m)
	}
	mask := uint64(0)
	for i, c := range g.sent {
		if m.New[c.remote].Kind == pgoutput.Unchanged {
			mask |= 1 << i
		}
	}
	p := g.plans[mask]
	if p == nil {
		p = g.updatePlan(r.a.verdict, m.New, mask != 0)
		r.a.keepPlan(g, mask, p)
	}
	return p
}

// movePlan is the plan for an update that moves its row to another key, if that
// row comes as a whole. In a block the tombstone's place in the log is not known yet.
func (r *run) movePlan(g *target, m *pgoutput.Update) *plan {
	if r.tx.final == 0 || !g.moves || len(m.Old) != len(m.New) {
		return nil
	}
	for _, v := range m.New {
		if v.Kind == pgoutput.Unchanged {
			return nil
		}
	}
	for _, k := range g.key {
		if m.Old[g.sent[g.place[k]].remote].Kind == pgoutput.Unchanged {
			return nil
		}
	}
	p := g.plans[planMove]
	if p == nil {
		p = g.movePlan(r.a.verdict)
		r.a.keepPlan(g, planMove, p)
	}
	return p
}

func sameKey(g *target, a, b pgoutput.Tuple) bool {
	for _, k := range g.key {
		at := g.sent[g.place[k]].remote
		if b[at].Kind != pgoutput.Unchanged && (a[at].Kind != b[at].Kind || !bytes.Equal(a[at].Data, b[at].Data)) {
			return false
		}
	}
	return true
}

// twice tells whether an update's row is in the run already: one statement
// writes a row only once.
func (r *run) twice(g *target, row pgoutput.Tuple, kind pgoutput.Kind) bool {
	if kind != pgoutput.KindUpdate || r.plan == nil || r.plan.many == "" {
		return false
	}
	var key []byte
	for _, k := range g.key {
		v := row[g.sent[g.place[k]].remote]
		key = binary.BigEndian.AppendUint32(key, uint32(len(v.Data))) //nolint:gosec // below 1 GB
		key = append(key, v.Data...)
	}
	if r.seen[string(key)] {
		return true
	}
	if r.seen == nil {
		r.seen = map[string]bool{}
	}
	r.seen[string(key)] = true
	return false
}

func (r *run) start(g *target, p *plan) {
	r.plan, r.target, r.n, r.bytes = p, g, 0, 0
	r.values = emptied(r.values, len(p.columns))
	r.looked = emptied(r.looked, len(p.keys))
	clear(r.seen)
}

func emptied(lists [][]pgoutput.Value, n int) [][]pgoutput.Value {
	for len(lists) < n {
		lists = append(lists, nil)
	}
	lists = lists[:n]
	for i := range lists {
		clear(lists[i]) // a large value must not stay for ever
		lists[i] = lists[i][:0]
	}
	return lists
}

// keepPlan remembers a plan of a table.
func (a *applier) keepPlan(g *target, key uint64, p *plan) {
	if g.Plain && p.part != nil {
		a.shapes.number(p)
	}
	g.plans[key] = p
}

// send writes all that was gathered.
func (r *run) send() {
	r.next()
	r.sendWaiting(false)
	r.sendLooks(false)
}

// finish is send for the end of a transaction, which gets its stamp with it.
func (r *run) finish() {
	r.next()
	r.sendWaiting(true)
}

// next ends the run of alike rows: it is written, or kept to be written with
// others.
func (r *run) next() {
	if r.n == 0 || r.combine() {
		return
	}
	r.sendWaiting(false)
	p := r.plan
	switch together := r.n > 1 && allBinary(r.values); {
	case together && p.copy != "" && r.n >= copyRows && r.target.Plain:
		r.a.session.copyRows(p.copy, r.values, r.n, op{tx: r.tx})
	case together && p.many != "":
		values := arraysOf(p.columns, r.values)
		if p.time {
			values = append(values, int64Value(int64(r.tx.commitTime)))
		}
		if p.lsn {
			values = append(values, lsnValue(r.tx.final+1))
		}
		if p.columns != nil && len(p.manyOf) > len(values) {
			values = append(values, int64Value(int64(r.n)))
		}
		r.a.session.execute(p.many, p.manyOf, values, op{tx: r.tx})
	default:
		r.sendSingly()
	}
	r.look()
	r.n = 0
	r.plan, r.target = nil, nil
}

func allBinary(lists [][]pgoutput.Value) bool {
	for _, list := range lists {
		for i := range list {
			if list[i].Kind == pgoutput.Text || list[i].Kind == pgoutput.Unchanged {
				return false
			}
		}
	}
	return true
}

func arraysOf(columns []sent, lists [][]pgoutput.Value) []pgoutput.Value {
	var values []pgoutput.Value
	for i, c := range columns {
		values = append(values, pgoutput.Value{Kind: pgoutput.Binary, Data: arrayOf(nil, c.typ, lists[i])})
	}
	return values
}

func (r *run) sendSingly() {
	p := r.plan
	values := make([]pgoutput.Value, 0, len(p.columns)+2)
	for n := range r.n {
		values = values[:0]
		for i := range p.columns {
			values = append(values, r.values[i][n])
		}
		values = r.withStamp(p, values)
		r.a.session.execute(p.one, p.oneOf, values, op{tx: r.tx})
	}
}

// look looks for tombstones of what was inserted.
func (r *run) look() {
	p := r.plan
	if p.lookOne == "" {
		return
	}
	when := int64Value(int64(r.tx.commitTime))
	if p.lookMany != "" && r.n > 1 && allBinary(r.looked) {
		r.a.session.execute(p.lookMany, p.lookManyOf, append(arraysOf(p.keys, r.looked), when), op{tx: r.tx})
		return
	}
	for n := range r.n {
		values := make([]pgoutput.Value, 0, len(p.keys)+1)
		for i := range p.keys {
			values = append(values, r.looked[i][n])
		}
		r.a.session.execute(p.lookOne, p.lookOf, append(values, when), op{tx: r.tx})
	}
}

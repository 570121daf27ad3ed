package apply

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/pgdrover/pgdrover/internal/conflict"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// carefully is the careful form of one transaction: everything is looked at
// before it is written, and each answer waited for.
type carefully struct {
	*applier
	tx *transaction
}

// errAgain: what was looked at has changed meanwhile.
var errAgain = errors.New("the row was changed while it was looked at")

// lookLimit bounds how often a change is judged again because local writers got
// in between.
const lookLimit = 20

// change writes one change.
func (c *carefully) change(ctx context.Context, ch *change) error {
	if ch.set != nil {
		return ch.set(ctx, c.session)
	}
	if ch.queue != nil {
		c.tx.defines = true
		return c.execute(ctx, ch.queue)
	}
	m, err := c.decoder.DecodeOne(ch.data, false)
	if err != nil {
		return err
	}
	if t, ok := m.(*pgoutput.Truncate); ok {
		return c.truncate(ctx, ch.tables, t)
	}
	g, err := c.target(ctx, ch.table)
	if err != nil {
		return err
	}
	g.Amended = c.amended.has(g.OID)
	c.tx.deferred = c.tx.deferred || g.Deferrable
	c.counts.row(c.subID, g.OID, ch.kind, 1)
	r := rowChange{g: g}
	switch m := m.(type) {
	case *pgoutput.Insert:
		r.action, r.row = conflict.Insert, clone(m.New)
		r.keyRow = r.row
	case *pgoutput.Update:
		r.action, r.row, r.old, r.oldKind = conflict.Update, clone(m.New), clone(m.Old), m.OldTuple
		r.keyRow = r.oldKey()
	case *pgoutput.Delete:
		r.action, r.old, r.oldKind = conflict.Delete, clone(m.Old), m.OldTuple
		r.keyRow = r.old
	}
	if n := len(g.remote.Columns); r.row != nil && len(r.row) != n || r.keyRow != nil && len(r.keyRow) != n {
		return fmt.Errorf("apply change of %s: the provider sent another number of columns than it announced", g.plain)
	}
	if len(g.key) == 0 || !g.hasKey {
		return c.keyless(ctx, &r)
	}
	err = c.keyed(ctx, &r)
	if !isTaken(err) || c.rules.IdentityOnly {
		return err
	}
	// What is in the way may be in an index that was made since the table was read.
	if err := c.session.run(ctx, "ROLLBACK TO SAVEPOINT pgdrover_change"); err != nil {
		return err
	}
	c.epoch++
	if r.g, err = c.target(ctx, ch.table); err != nil {
		return err
	}
	r.g.Amended = c.amended.has(r.g.OID)
	return c.keyed(ctx, &r)
}

func isTaken(err error) bool { return sqlState(err) == pgerrcode.UniqueViolation }

func clone(t pgoutput.Tuple) pgoutput.Tuple { return append(pgoutput.Tuple(nil), t...) }

// rowChange is a change of one row.
type rowChange struct {
	g       *target
	action  conflict.Action
	row     pgoutput.Tuple // new; nil for a delete
	old     pgoutput.Tuple
	oldKind pgoutput.OldTuple
	keyRow  pgoutput.Tuple // holds the key that is looked for
	held    []held
	fetched []pgoutput.Value // by position in sent
	sameKey bool             // the key is written in another way, as 1.0 and 1.00 are, and is still the same
}

// oldKey is a row with the key that an update looks for.
func (r *rowChange) oldKey() pgoutput.Tuple {
	if r.oldKind == pgoutput.OldNone {
		return r.row
	}
	key := clone(r.row)
	for i := range key {
		if r.oldKind == pgoutput.OldFull || r.g.remote.Columns[i].Key {
			key[i] = r.old[i]
		}
	}
	return key
}

func (r *rowChange) keyChanged() bool {
	return r.action == conflict.Update && r.oldKind != pgoutput.OldNone && !r.sameKey && !sameKey(r.g, r.keyRow, r.row)
}

// equalKeys asks the server whether a key that was changed is another one.
func (r *rowChange) equalKeys() *ask {
	var p parameters
	before, values := r.g.literalRow(&p, r.keyRow, r.g.key)
	after, more := r.g.literalRow(&p, r.row, r.g.key)
	text := fmt.Sprintf("SELECT (SELECT %[1]s FROM %[2]s k) = (SELECT %[1]s FROM %[3]s k)", *r.g.KeyBytes, before, after)
	return &ask{text: text, types: p.types, values: append(values, more...)}
}

// held is a row of this database.
type held struct {
	ctid  string
	json  string
	key   pgoutput.Value // its key's canonical form
	row   conflict.Row
	stamp string // its time as text
}

// keyed judges a change of a row that has a key, until nobody gets in between.
func (c *carefully) keyed(ctx context.Context, r *rowChange) error {
	for range lookLimit {
		err := c.attempt(ctx, r)
		if err == nil {
			return nil
		}
		taken := isTaken(err) && !c.rules.IdentityOnly
		if !taken && !errors.Is(err, errAgain) {
			return err
		}
		c.tx.cause = err
		if err := c.session.run(ctx, "ROLLBACK TO SAVEPOINT pgdrover_change"); err != nil {
			return err
		}
	}
	return c.tx.cause
}

// save begins a savepoint in the place of the one before: what an attempt has
// written can be taken back.
func (c *carefully) save() []*ask {
	asks := []*ask{{text: "SAVEPOINT pgdrover_change"}}
	if c.tx.saved {
		asks = append([]*ask{{text: "RELEASE SAVEPOINT pgdrover_change"}}, asks...)
	}
	c.tx.saved = true
	return asks
}

// attempt looks at what is here, decides, and writes; for each it waits once.
func (c *carefully) attempt(ctx context.Context, r *rowChange) error {
	r.held = r.held[:0]
	local, err := c.look(ctx, r)
	if err != nil {
		return err
	}
	ch := conflict.Change{
		Action:     r.action,
		Stamp:      conflict.Stamp{CommitTime: c.tx.commitTime, Origin: c.author},
		KeyChanged: r.keyChanged(), Detachable: r.g.detachable(), Counters: r.g.Counters,
		Incomplete: r.row != nil && r.g.incomplete(r.row),
		Filtered:   r.g.filtered,
	}
	out, err := conflict.Resolve(ch, local, c.rules)
	if err == nil && out.Fetch != nil {
		if ch.Fetched, err = c.fetch(ctx, r, *out.Fetch); err != nil {
			return err
		}
		out, err = conflict.Resolve(ch, local, c.rules)
	}
	if err != nil {
		if errors.Is(err, conflict.ErrMissing) {
			return fmt.Errorf("%w (%s)", err, r.g.plain)
		}
		return err
	}
	c.stepped(r, local.Row, ch.Stamp)
	var asks []*ask
	var verify *ask
	for _, step := range out.Steps {
		more, err := c.step(ctx, r, step)
		if err != nil {
			return err
		}
		asks = append(asks, more...)
		if verify == nil && (step.Kind == conflict.InsertRow || step.Kind == conflict.UpdateRow && ch.KeyChanged) {
			verify = r.tombstones(r.row)
		}
	}
	if verify != nil { // after all that writes: a delete may have become visible only then
		asks = append(asks, verify)
	}
	if err := c.now(ctx, append(asks, c.records(r, out.Conflicts)...)); err != nil {
		return err
	}
	if err := c.verify(verify, ch.Stamp); err != nil {
		return err
	}
	c.note(ctx, r, out.Conflicts)
	return nil
}

// stepped notes that a table has rows which the fast form need not have refused:
// of the same author, from before its clock was set back.
func (c *carefully) stepped(r *rowChange, row *conflict.Row, stamp conflict.Stamp) {
	if r.action == conflict.Insert || row == nil || r.g.stepped || row.Stamp.Origin != stamp.Origin || row.Stamp.CommitTime < stamp.CommitTime {
		return
	}
	r.g.stepped = true
	clear(r.g.plans)
}

// look reads and locks what this database has under the change's keys. Where it
// matters that a row is not there, it looks until that is sure.
func (c *carefully) look(ctx context.Context, r *rowChange) (conflict.Local, error) {
	l, err := c.lookOnce(ctx, r, nil)
	if err != nil || l.Row != nil || !r.needsAbsence() {
		return l, err
	}
	r.held = r.held[:0]
	first := c.committing(r)
	l, err = c.lookOnce(ctx, r, first)
	if err != nil || l.Row != nil || len(first[1].rows()) == 0 {
		return l, err
	}
	if err := c.awaitCommits(ctx, r); err != nil {
		return l, err
	}
	r.held = r.held[:0]
	return c.lookOnce(ctx, r, nil)
}

func (c *carefully) lookOnce(ctx context.Context, r *rowChange, first []*ask) (conflict.Local, error) {
	var l conflict.Local
	row, err := c.find(ctx, r, r.g.Indexes[0], r.keyRow)
	if err != nil {
		return l, err
	}
	asks := append(append(c.save(), first...), row.asks()...)
	deleted := r.tombstones(r.keyRow)
	asks = append(asks, deleted)
	var target *search
	var targetDeleted, equal *ask
	if r.keyChanged() {
		if target, err = c.find(ctx, r, r.g.Indexes[0], r.row); err != nil {
			return l, err
		}
		targetDeleted = r.tombstones(r.row)
		equal = r.equalKeys()
		asks = append(append(asks, target.asks()...), targetDeleted, equal)
	}
	var others []*search
	if r.row != nil && !c.rules.IdentityOnly {
		for _, x := range r.g.Indexes[1:] {
			other, err := c.find(ctx, r, x, r.row)
			if err != nil {
				return l, err
			}
			others, asks = append(others, other), append(asks, other.asks()...)
		}
		for _, x := range r.g.computed {
			other := r.findComputed(x)
			others, asks = append(others, other), append(asks, other.asks()...)
		}
	}
	if err := c.session.together(ctx, asks...); err != nil {
		return l, err
	}
	if l.Row, err = row.found(r); err != nil {
		return l, err
	}
	if l.Deleted, err = stamps(deleted); err != nil {
		return l, err
	}
	if l.Target, err = target.found(r); err != nil {
		return l, err
	}
	if l.TargetDeleted, err = stamps(targetDeleted); err != nil {
		return l, err
	}
	if equal != nil && (string(equal.rows()[0][0].Data) == "t" || l.Row != nil && l.Target != nil && l.Row.Ref == l.Target.Ref) {
		r.sameKey, l.Target, l.TargetDeleted = true, nil, nil
	}
	for _, other := range others {
		row, err := other.found(r)
		if err != nil {
			return l, err
		}
		if row != nil {
			l.Others = append(l.Others, *row)
		}
	}
	return l, nil
}

// stampText gives the time and author of a row's last writer, as numbers.
func (g *target) stampText(alias string) string {
	text := fmt.Sprintf(`(SELECT ((extract(epoch FROM t.at) * 1000000)::int8 - 946684800000000)::text || ' ' ||`+
		` pgdrover.origin_node(s.roident)::text || ' ' || t.at::text`+
		` FROM pg_xact_commit_timestamp_origin(%s.xmin) s CROSS JOIN LATERAL (SELECT coalesce(%s, s."timestamp") AS at) t`+
		` WHERE s."timestamp" IS NOT NULL)`, alias, bundledTime(fmt.Sprint(g.OID), g.rowName(), alias+".xmin"))
	if g.Amended || g.Counters {
		text = fmt.Sprintf(`coalesce((SELECT ((extract(epoch FROM o.commit_time) * 1000000)::int8 - 946684800000000)::text || ' ' ||`+
			` coalesce(o.author, pgdrover.local_node_id())::text || ' ' || o.commit_time::text FROM spock.pgdrover_stamp o`+
			` WHERE o.relid = %d AND o.key = %s AND o.written_by = %s.xmin), %s)`, g.OID, *g.KeyBytes, alias, text)
	}
	return fmt.Sprintf("CASE WHEN NOT %s THEN %s END", rewritten(alias), text)
}

// rewritten is the test whether DDL has written a row anew. Then nobody knows how
// old it is, and it loses, as a very old one does: those that write it while the
// DDL is on its way to them have mostly seen what is in it.
func rewritten(alias string) string {
	return fmt.Sprintf("EXISTS (SELECT FROM spock.pgdrover_rewrite w WHERE w.relid = %[1]s.tableoid AND w.xmin = %[1]s.xmin)", alias)
}

func (g *target) only() string {
	if g.Kind == "r" {
		return "ONLY " + g.name
	}
	return g.name
}

// search locks a row and reads it in a second statement, whose snapshot has what
// the lock waited for. A nil search finds nothing.
type search struct {
	lock, read *ask
	index      string
}

func (s *search) asks() []*ask {
	if s == nil {
		return nil
	}
	return []*ask{s.lock, s.read}
}

// found is the row, or nil.
func (s *search) found(r *rowChange) (*conflict.Row, error) {
	if s == nil {
		return nil, nil //nolint:nilnil // nothing was looked for
	}
	if len(s.lock.rows()) != len(s.read.rows()) {
		return nil, errAgain
	}
	if len(s.read.rows()) == 0 {
		return nil, nil //nolint:nilnil // no such row
	}
	return r.remember(s.read.rows()[0], s.index)
}

// find looks for the row that holds a row's values in an index.
func (c *carefully) find(ctx context.Context, r *rowChange, x index, row pgoutput.Tuple) (*search, error) {
	g := r.g
	var p parameters
	var tests []string
	var values []pgoutput.Value
	for i, col := range x.columns {
		place := g.place[col]
		if place < 0 || row[g.sent[place].remote].Kind == pgoutput.Unchanged {
			return nil, nil //nolint:nilnil // the change does not write it: nothing is in its way
		}
		s := g.sent[place]
		v := row[s.remote]
		if v.Kind == pgoutput.Null {
			if !x.Equal {
				return nil, nil //nolint:nilnil // NULL equals nothing
			}
			tests = append(tests, "k."+pg.QuoteIdent(g.Columns[col].Name)+" IS NULL")
			continue
		}
		tests = append(tests, fmt.Sprintf("k.%s %s %s", pg.QuoteIdent(g.Columns[col].Name), x.Operators[i], s.same(&p)))
		values = append(values, g.value(s, v))
	}
	if x.Predicate != nil {
		if ok, err := c.satisfies(ctx, r, *x.Predicate, row); err != nil || !ok {
			return nil, err
		}
		tests = append(tests, "("+*x.Predicate+")")
	}
	return g.search(x, "", strings.Join(tests, " AND "), p.types, values), nil
}

// search is what finds a row k; more is what else it is selected from.
func (g *target) search(x index, more, where string, types []uint32, values []pgoutput.Value) *search {
	return &search{
		lock: &ask{text: fmt.Sprintf("SELECT 1 FROM %s AS k%s WHERE %s FOR UPDATE OF k", g.only(), more, where), types: types, values: values},
		read: &ask{text: fmt.Sprintf("SELECT k.tableoid::text || ' ' || k.ctid::text, k.xmin::text, %s, row_to_json(k.*)::text, %s::text"+
			" FROM %s AS k%s WHERE %s", g.stampText("k"), *g.KeyBytes, g.only(), more, where), types: types, values: values},
		index: x.Name,
	}
}

// remember gives a row that was found its number.
func (r *rowChange) remember(row []pgoutput.Value, index string) (*conflict.Row, error) {
	h := held{ctid: string(row[0].Data), json: string(row[3].Data), key: row[4]}
	xid, err := strconv.ParseUint(string(row[1].Data), 10, 32)
	if err != nil {
		return nil, fmt.Errorf("read xmin: %w", err)
	}
	h.row = conflict.Row{XID: uint32(xid), Index: index, Ref: conflict.Ref(len(r.held))}
	if row[2].Kind != pgoutput.Null {
		if h.row.Stamp, h.stamp, err = parseStamp(string(row[2].Data)); err != nil {
			return nil, err
		}
	}
	for i := range r.held {
		if r.held[i].ctid == h.ctid {
			h.row.Ref = r.held[i].row.Ref
			return &h.row, nil
		}
	}
	r.held = append(r.held, h)
	return &h.row, nil
}

func parseStamp(s string) (conflict.Stamp, string, error) {
	parts := strings.SplitN(s, " ", 3)
	if len(parts) < 2 {
		return conflict.Stamp{}, "", fmt.Errorf("parse stamp %q: %w", s, pg.ErrSyntax)
	}
	at, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil {
		return conflict.Stamp{}, "", fmt.Errorf("parse stamp %q: %w", s, err)
	}
	node, err := strconv.ParseUint(parts[1], 10, 32)
	if err != nil {
		return conflict.Stamp{}, "", fmt.Errorf("parse stamp %q: %w", s, err)
	}
	return conflict.Stamp{CommitTime: pg.Timestamp(at), Origin: conflict.NodeID(node)}, parts[len(parts)-1], nil
}

// literalRow is a subquery with a change's values under the names of the local
// columns; those that it does not carry are NULL.
func (g *target) literalRow(p *parameters, row pgoutput.Tuple, columns []int) (string, []pgoutput.Value) {
	var list []string
	var values []pgoutput.Value
	for _, col := range columns {
		name, typ := pg.QuoteIdent(g.Columns[col].Name), g.Columns[col].TypeName
		if place := g.place[col]; place >= 0 && row[g.sent[place].remote].Kind != pgoutput.Unchanged {
			s := g.sent[place]
			list = append(list, s.bind(p)+"::"+typ+" AS "+name)
			values = append(values, g.value(s, row[s.remote]))
			continue
		}
		list = append(list, "NULL::"+typ+" AS "+name)
	}
	return "(SELECT " + strings.Join(list, ", ") + ")", values
}

func (t *table) allColumns() []int {
	all := make([]int, len(t.Columns))
	for i := range all {
		all[i] = i
	}
	return all
}

// satisfies tells whether a row would be in a partial index.
func (c *carefully) satisfies(ctx context.Context, r *rowChange, predicate string, row pgoutput.Tuple) (bool, error) {
	var p parameters
	from, values := r.g.literalRow(&p, row, r.g.allColumns())
	reply, err := c.session.query(ctx, "SELECT ("+predicate+") IS TRUE FROM "+from+" k", p.types, values...)
	if err != nil {
		return false, fmt.Errorf("evaluate index predicate: %w", err)
	}
	return string(reply.rows[0][0].Data) == "t", nil
}

// tombstones asks for the stamps of the deletes of a row's key.
func (r *rowChange) tombstones(row pgoutput.Tuple) *ask {
	var p parameters
	from, values := r.g.literalRow(&p, row, r.g.key)
	// In two parts: with OR the index finds all tombstones of the table, and a transaction that changes many keys leaves one
	// for each.
	const text = `SELECT coalesce(((extract(epoch FROM d.commit_time) * 1000000)::int8 - 946684800000000)::text || ' ' ||
			coalesce(d.author, pgdrover.local_node_id())::text,
		(SELECT ((extract(epoch FROM s."timestamp") * 1000000)::int8 - 946684800000000)::text || ' ' ||
			coalesce(d.author, pgdrover.origin_node(s.roident))::text
		   FROM pg_xact_commit_timestamp_origin(d.xmin) s WHERE s."timestamp" IS NOT NULL))
		FROM %[1]s k CROSS JOIN LATERAL (
			SELECT t.commit_time, t.author, t.xmin FROM spock.pgdrover_tombstone t WHERE t.relid = %[2]d AND t.key = %[3]s
			UNION ALL SELECT t.commit_time, t.author, t.xmin FROM spock.pgdrover_tombstone t WHERE t.relid = %[2]d AND t.key IS NULL) d`
	return &ask{text: fmt.Sprintf(text, from, r.g.OID, *r.g.KeyBytes), types: p.types, values: values}
}

// stamps reads the answer.
func stamps(a *ask) ([]conflict.Stamp, error) {
	if a == nil {
		return nil, nil
	}
	var all []conflict.Stamp
	for _, row := range a.rows() {
		if row[0].Kind == pgoutput.Null {
			continue // of this very transaction
		}
		stamp, _, err := parseStamp(string(row[0].Data))
		if err != nil {
			return nil, err
		}
		all = append(all, stamp)
	}
	return all, nil
}

// verify looks at the deletes that became visible only when the row was written.
func (c *carefully) verify(found *ask, stamp conflict.Stamp) error {
	deleted, err := stamps(found)
	if err != nil {
		return err
	}
	for _, d := range deleted {
		if !c.rules.Ranks.Beats(stamp, d) && (c.rules.Policy == conflict.LastUpdateWins || c.rules.Policy == conflict.KeepLocal) {
			return errAgain
		}
	}
	return nil
}

// keySource is an expression for the canonical form of a key, and what to select
// it from.
func (r *rowChange) keySource(p *parameters, ref conflict.Ref) (expr, from string, values []pgoutput.Value) {
	if ref >= 0 {
		return p.add(byteaOID), "(SELECT) k", []pgoutput.Value{r.held[ref].key}
	}
	row := r.keyRow
	if ref == conflict.NewKey {
		row = r.row
	}
	from, values = r.g.literalRow(p, row, r.g.key)
	return *r.g.KeyBytes, from + " k", values
}

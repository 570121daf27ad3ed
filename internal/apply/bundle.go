package apply

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// A node that is behind writes several small transactions of a provider as one:
// the server's price of a statement and of a commit is much higher than that of a
// row. Of a row that several of them write only the last form is written. Such a
// bundle commits with the position and the time of its last transaction, which is
// the latest of their times; the time that each row would have had stands in
// spock.pgdrover_bundle, for whoever has to know which of two changes is the
// later one. The test of the fast form takes the bundle's time for a row's own:
// that refuses too much rather than too little.
//
// Nobody may get from this node what others wrote, or it would get it with the
// bundle's time.

const (
	// bundleLeast is how many transactions are worth it, bundleMost how many may be
	// one, and bundleSpan how far their times may be apart.
	bundleLeast = 4
	bundleMost  = 200
	bundleSpan  = time.Second
	bundleBytes = 512 << 10
	// bundleChanges is how many changes a transaction may have that goes with others.
	bundleChanges = 50
)

// bundle is what several transactions write together.
type bundle struct {
	a       *applier
	members []*transaction
	wish    *wish
	tables  []*bundled
	first   pg.Timestamp // the earliest of the members' times
	last    pg.Timestamp // the latest
	size    int
	tally   []tableTally
	key     []byte
}

// bundled are the rows of one table.
type bundled struct {
	g                *target
	inserts, updates bundledRows
	places           map[string]bundledPlace // by key; of a table without one by the whole row
}

// bundledRows are rows that one statement writes, by column.
type bundledRows struct {
	plan   *plan
	values [][]pgoutput.Value // of the plan's columns
	keys   [][]pgoutput.Value // of the key's
	times  []pgoutput.Value   // of their last changes
	n      int
}

type bundledPlace struct {
	rows *bundledRows
	at   int
}

// bundles tells whether a transaction may be written with others, as far as it
// tells by itself.
func (a *applier) bundles(tx *transaction) bool {
	return a.bundling.Load() && a.options.bundles && a.binary && !a.exact && tx.mode == fast && tx.complete && !tx.partial && !tx.begun &&
		!tx.position && !tx.skipped && !tx.durable && !tx.early && tx.author == 0 && len(tx.changes) > 0 && len(tx.changes) <= bundleChanges &&
		tx.size <= bundleBytes && !a.wants(tx)
}

// holds tells whether what is lined up may wait for more that goes with it.
func (a *applier) holds(tx *transaction) bool {
	return a.bundles(tx) && len(a.todo) < a.room
}

// bundle takes the next transactions that can be written as one; nil when there
// are too few of them.
func (a *applier) bundle(ctx context.Context) (*transaction, error) {
	a.gather.a = a
	for most := min(len(a.todo), a.room); most >= bundleLeast; {
		b := &bundle{a: a, wish: &wish{}}
		n, whole, err := b.take(ctx, a.todo[:most])
		if err != nil {
			return nil, err
		}
		if !whole || n < len(b.members) {
			most = n // once more, without what came of others
			continue
		}
		if n < bundleLeast {
			break
		}
		last := b.members[n-1]
		tx := &transaction{
			final: last.final, end: last.end, commitTime: last.commitTime, size: b.size, complete: true, written: true, alone: true, bundle: b,
		}
		a.todo = a.todo[n:]
		return tx, nil
	}
	return nil, nil //nolint:nilnil // none
}

// take adds transactions. It returns how many from the first on can be one, and
// whether nothing is left of one that cannot.
func (b *bundle) take(ctx context.Context, all []*transaction) (n int, whole bool, err error) {
	for _, tx := range all {
		if !b.a.bundles(tx) || b.size > bundleBytes || len(b.members) > 0 && b.spans(tx) {
			break
		}
		taken, err := b.takeOne(ctx, tx)
		if err != nil {
			return 0, false, err
		}
		if taken < len(tx.changes) {
			return b.ending(), taken == 0, nil
		}
		if len(b.members) == 0 {
			b.first, b.last = tx.commitTime, tx.commitTime
		}
		b.first, b.last = min(b.first, tx.commitTime), max(b.last, tx.commitTime)
		b.members, b.size = append(b.members, tx), b.size+tx.size
	}
	return b.ending(), true, nil
}

// takeOne adds a transaction's changes, up to the first that does not go with
// others, and returns how many.
func (b *bundle) takeOne(ctx context.Context, tx *transaction) (int, error) {
	for i := range tx.changes {
		if ok, err := b.add(ctx, tx, &tx.changes[i]); !ok || err != nil {
			return i, err
		}
	}
	return len(tx.changes), nil
}

// ending is how many members there may be: the bundle's time is that of its last,
// which has to be the latest.
func (b *bundle) ending() int {
	n := len(b.members)
	for n > 0 && b.members[n-1].commitTime < b.last {
		n--
	}
	return n
}

func (b *bundle) spans(tx *transaction) bool {
	return max(b.last, tx.commitTime).Sub(min(b.first, tx.commitTime)) > bundleSpan
}

// add takes a change; false means that it does not go with others. Then nothing
// of it was taken.
func (b *bundle) add(ctx context.Context, tx *transaction, c *change) (bool, error) {
	if !c.row() || c.kind == pgoutput.KindDelete {
		return false, nil
	}
	g, err := b.a.target(ctx, c.table)
	if err != nil {
		return false, passPipeline(err)
	}
	if !g.bundles() || b.a.amended.has(g.OID) {
		return false, nil
	}
	m, err := b.a.decoder.DecodeOne(c.data, false)
	if err != nil {
		return false, err
	}
	t := b.table(g)
	var row pgoutput.Tuple
	var p *plan
	rows := &t.inserts
	switch m := m.(type) {
	case *pgoutput.Insert:
		row, p = m.New, b.a.gather.insertPlan(g)
	case *pgoutput.Update:
		if m.OldTuple == pgoutput.OldKey || m.OldTuple == pgoutput.OldFull && !sameKey(g, m.Old, m.New) {
			return false, nil
		}
		row, p, rows = m.New, b.a.gather.updatePlan(g, m), &t.updates
	}
	if p == nil || p.many == "" || len(row) != len(g.remote.Columns) || rows.plan != nil && rows.plan != p ||
		slices.ContainsFunc(row, func(v pgoutput.Value) bool { return v.Kind == pgoutput.Text || v.Kind == pgoutput.Unchanged }) {
		return false, nil
	}
	b.key = b.key[:0]
	for _, col := range b.identity(g, p) {
		v := row[col.remote]
		if v.Kind == pgoutput.Null {
			b.key = append(b.key, 1)
			continue
		}
		b.key = append(binary.BigEndian.AppendUint32(append(b.key, 0), uint32(len(v.Data))), v.Data...) //nolint:gosec // below 1 GB
	}
	at := rows.n
	if there, ok := t.places[string(b.key)]; ok {
		if c.kind == pgoutput.KindInsert {
			// Rows that are alike, of a table without a key, cannot be told apart.
			return false, nil
		}
		rows, at, p = there.rows, there.at, there.rows.plan
	} else {
		rows.extend(g, p)
		t.places[string(b.key)] = bundledPlace{rows, at}
		b.wish.row(g, row)
	}
	for i, col := range p.columns {
		rows.values[i][at] = g.value(col, row[col.remote])
	}
	for i, k := range g.key {
		col := g.sent[g.place[k]]
		rows.keys[i][at] = g.value(col, row[col.remote])
	}
	rows.times[at] = int64Value(int64(tx.commitTime))
	b.count(g.OID, c.kind)
	return true, nil
}

// bundles tells whether rows of a table may be written with those of other
// transactions, and each in its last form alone: nothing binds them to each other.
func (g *target) bundles() bool {
	return g.suits() && !g.Counters && !g.stepped && len(g.Indexes) <= 1 && len(g.computed) == 0 && g.hasKey == (len(g.Indexes) > 0) &&
		g.hasKey == (g.KeyBytes != nil)
}

// identity are the columns by which rows of a table are told apart.
func (b *bundle) identity(g *target, insert *plan) []sent {
	if !g.hasKey {
		return insert.columns
	}
	columns := make([]sent, len(g.key))
	for i, k := range g.key {
		columns[i] = g.sent[g.place[k]]
	}
	return columns
}

func (b *bundle) table(g *target) *bundled {
	for _, t := range b.tables {
		if t.g == g {
			return t
		}
	}
	t := &bundled{g: g, places: map[string]bundledPlace{}}
	b.tables = append(b.tables, t)
	return t
}

// extend makes room for one more row.
func (w *bundledRows) extend(g *target, p *plan) {
	if w.plan == nil {
		w.plan, w.values, w.keys = p, make([][]pgoutput.Value, len(p.columns)), make([][]pgoutput.Value, len(g.key))
	}
	for i := range w.values {
		w.values[i] = append(w.values[i], pgoutput.Value{})
	}
	for i := range w.keys {
		w.keys[i] = append(w.keys[i], pgoutput.Value{})
	}
	w.times = append(w.times, pgoutput.Value{})
	w.n++
}

// count counts what the members have changed, be it written or not.
func (b *bundle) count(table uint32, kind pgoutput.Kind) {
	for i := range b.tally {
		if b.tally[i].table == table {
			b.tally[i].row(kind, 1)
			return
		}
	}
	b.tally = append(b.tally, tableTally{table: table})
	b.tally[len(b.tally)-1].row(kind, 1)
}

// unfollowed is the test that nobody gets from this database what others wrote. A
// slot whose making begins later sends nothing of a transaction that is open then.
const unfollowed = `NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.slot_type = 'logical' AND s.database = current_database()
	AND NOT EXISTS (SELECT FROM spock.pgdrover_follower f WHERE f.slot_name = s.slot_name))`

// send writes the bundle.
func (b *bundle) send(tx *transaction) {
	o := op{tx: tx}
	b.a.session.execute("SELECT "+holds(unfollowed), nil, nil, o)
	for _, t := range b.tables {
		b.sendRows(t.g, &t.inserts, o)
		b.sendRows(t.g, &t.updates, o)
	}
	tally := b.a.counts.tally(b.a.subID, tx)
	for i := range b.tally {
		tally.of(b.tally[i].table).add(&b.tally[i].tableCounts)
	}
}

func (b *bundle) sendRows(g *target, w *bundledRows, o op) {
	if w.n == 0 {
		return
	}
	p, first := w.plan, int64Value(int64(b.first))
	values := arraysOf(p.columns, w.values)
	stamps := []pgoutput.Value{
		{Kind: pgoutput.Binary, Data: arrayOf(nil, timestamptzOID, w.times)}, uint32Value(uint32(b.a.author)), lsnValue(o.tx.final + 1),
	}
	if !g.hasKey {
		b.a.session.execute(p.bundled, p.bundledOf, append(values, stamps...), o)
		return
	}
	if p.bundled == "" {
		b.a.session.execute(p.many, p.manyOf, values, o)
	} else {
		if p.time {
			values = append(values, first)
		}
		b.a.session.execute(p.bundled, p.manyOf, append(values, int64Value(int64(w.n))), o)
	}
	if p.lookMany != "" {
		b.a.session.execute(p.lookMany, p.lookManyOf, append(arraysOf(p.keys, w.keys), first), o)
	}
	columns := b.identity(g, p)
	text, types := g.bundleStamps(columns)
	b.a.session.execute(text, types, append(arraysOf(columns, w.keys), stamps...), o)
}

const (
	timestamptzArrayOID = 1185
	// keepStamps keeps the stamps of a bundle's rows.
	keepStamps = "INSERT INTO spock.pgdrover_bundle (written_by, relid, keys, times, author, author_lsn) SELECT pg_current_xact_id()::xid, "
)

// bundleStamps is the statement that keeps the stamps of rows that have a key.
func (g *target) bundleStamps(key []sent) (text string, types []uint32) {
	if g.stamps == "" {
		var p parameters
		var arrays, names []string
		for i, col := range key {
			arrays, names = append(arrays, p.add(g.array(col))), append(names, pg.QuoteIdent(g.Columns[g.key[i]].Name))
		}
		times, author, lsn := p.add(timestamptzArrayOID), p.add(oidOID), p.add(pgLSNOID)
		g.stamps = fmt.Sprintf(keepStamps+"%d, array_agg(%s), array_agg(k.pgdrover_time), %s, %s FROM unnest(%s, %s) k (%s, pgdrover_time)",
			g.OID, *g.KeyBytes, author, lsn, strings.Join(arrays, ", "), times, strings.Join(names, ", "))
		g.stampsOf = p.types
	}
	return g.stamps, g.stampsOf
}

// wholeRow names a row of an alias, of a table without a key, in a bundle.
func wholeRow(alias string) string { return "decode(md5((" + alias + ".*)::text), 'hex')" }

// rowName is what names a row of alias k in a bundle.
func (t *table) rowName() string {
	if t.KeyBytes == nil {
		return wholeRow("k")
	}
	return *t.KeyBytes
}

// bundledTime is the time that a row had by itself which came in a bundle; NULL
// where it came in none, or where that is not known any more.
func bundledTime(table, name, xmin string) string {
	return fmt.Sprintf("(SELECT b.times[array_position(b.keys, %[2]s)] FROM spock.pgdrover_bundle b WHERE b.relid = %[1]s AND b.written_by = %[3]s"+
		" AND %[2]s = ANY (b.keys) LIMIT 1)", table, name, xmin)
}

// hasBundles asks a node whether its version knows of bundles.
const hasBundles = "to_regclass('spock.pgdrover_bundle') IS NOT NULL"

// bundledThere is bundledTime on a node that has answered so.
func bundledThere(has []byte, table, name, xmin string) string {
	if string(has) != "t" {
		return "NULL"
	}
	return bundledTime(table, name, xmin)
}

// unbundled are transactions with what the bundles among them consist of.
func unbundled(all []*transaction) []*transaction {
	var single []*transaction
	for _, tx := range all {
		if tx.bundle == nil {
			single = append(single, tx)
		} else {
			single = append(single, tx.bundle.members...)
		}
	}
	return single
}

// follow tells the provider whether we get from it what others wrote.
func (w *Worker) follow(ctx context.Context) error {
	conn, err := w.applier.peers.connect(ctx, w.sub.provider)
	if err != nil {
		return err
	}
	result := w.applier.peers.ask(ctx, conn, "SELECT pgdrover.note_follower($1::text::name, $2::text::boolean)", []byte(w.sub.slot),
		fmt.Append(nil, len(w.sub.forward) > 0))
	if result.Err != nil && sqlState(result.Err) != pgerrcode.UndefinedFunction { // one of an older version makes no bundles
		return fmt.Errorf("tell the provider what follows it: %w", result.Err)
	}
	return nil
}

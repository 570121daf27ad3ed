package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// merger brings a table of the provider's into one that has rows or tombstones
// here. Rows and deletes of both go by the order of their stamps, as if each had
// come by a stream: what loses here goes, what wins here stays, also where it is
// a row that is gone. The provider is right about its own work; so is this node.
type merger struct {
	*copier
	l        *lane
	p        *piece
	t        *table   // here
	columns  []string // that are copied, quoted
	key      string   // an expression over alias k: the row's key, or all of it
	self     uint32
	provider uint32
}

// merge copies a whole table in one transaction. Rows and tombstones are brought
// beside it first: nobody has to wait for the network.
func (c *copier) merge(ctx context.Context, l *lane, p *piece, columns []string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("copy %s.%s: %w", p.schema, p.name, err)
		}
	}()
	m := &merger{copier: c, l: l, p: p, columns: columns, self: uint32(c.w.engine.node), provider: uint32(c.w.sub.provider)}
	if err := m.prepare(ctx); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, m.run(context.WithoutCancel(ctx), "DROP TABLE IF EXISTS pg_temp.pgdrover_copy, pg_temp.pgdrover_gone"))
	}()
	rows, err := m.load(ctx)
	if err != nil {
		return err
	}
	if m.t.KeyBytes == nil {
		if err := c.w.awaitWork(ctx, l); err != nil {
			return err
		}
	}
	release, err := c.claim(ctx, m.t.OID)
	if err != nil {
		return err
	}
	committed := false
	defer func() { release(committed) }()
	if err := m.write(ctx, rows); err != nil {
		return errors.Join(err, l.rollback(context.WithoutCancel(ctx)))
	}
	committed = true
	return nil
}

func (m *merger) run(ctx context.Context, text string) error {
	if m.l.local.IsClosed() {
		return nil
	}
	return runAll(ctx, m.l.local, text)
}

func (m *merger) prepare(ctx context.Context) error {
	result := m.l.local.ExecParams(ctx, tableQuery, [][]byte{[]byte(m.p.schema), []byte(m.p.name)}, []uint32{nameOID, nameOID}, nil, nil).Read()
	row, err := one(result)
	if err != nil {
		return fmt.Errorf("read definition of %s.%s: %w", m.p.schema, m.p.name, err)
	}
	m.t = &table{name: m.p.quoted(), plain: m.p.schema + "." + m.p.name}
	if err := json.Unmarshal(row[0], m.t); err != nil {
		return fmt.Errorf("read definition of %s: %w", m.t.plain, err)
	}
	m.t.finish()
	if m.key = "convert_to(ROW(" + m.list("k.") + ")::text, 'UTF8')"; m.t.KeyBytes != nil {
		m.key = *m.t.KeyBytes
	}
	return nil
}

// list names the copied columns, each behind a prefix.
func (m *merger) list(prefix string) string {
	names := make([]string, len(m.columns))
	for i, name := range m.columns {
		names[i] = prefix + name
	}
	return strings.Join(names, ", ")
}

// load brings the provider's rows, with their stamps, and its tombstones.
func (m *merger) load(ctx context.Context) (int64, error) {
	p := m.p
	there, err := m.l.ask(ctx, "SELECT r.oid, coalesce(pgdrover.key_expression(r.oid, quote_ident(r.relname)), 'NULL::bytea'), "+hasBundles+" FROM pg_class r WHERE r.oid = "+
		pg.QuoteLiteral(p.quoted())+"::regclass")
	if err != nil {
		return 0, err
	}
	if len(there) == 0 {
		return 0, fmt.Errorf("%w %s", errNoTable, p.quoted())
	}
	remote, key, name := string(there[0][0]), string(there[0][1]), string(there[0][1])
	if m.t.KeyBytes == nil {
		name = wholeRow(pg.QuoteIdent(p.name))
	}
	if err := m.run(ctx, fmt.Sprintf(`DROP TABLE IF EXISTS pg_temp.pgdrover_copy, pg_temp.pgdrover_gone;
		CREATE TEMPORARY TABLE pgdrover_copy AS SELECT %s, NULL::timestamptz AS pgdrover_at, NULL::oid AS pgdrover_author, NULL::pg_lsn AS pgdrover_lsn
			FROM ONLY %s WITH NO DATA;
		CREATE TEMPORARY TABLE pgdrover_gone (key bytea, at timestamptz, author oid, lsn pg_lsn)`, m.list(""), p.quoted())); err != nil {
		return 0, err
	}
	where := p.where("")
	if len(p.filters) > 0 {
		where += " AND ((" + strings.Join(p.filters, ") OR (") + "))"
	}
	author := func(given string) string {
		return fmt.Sprintf(`CASE WHEN %s THEN coalesce(o.author, '%d') WHEN s.roident = 0 THEN '%[2]d' ELSE coalesce(g.node_id, s.roident, '0') END`,
			given, m.provider)
	}
	source := fmt.Sprintf(`SELECT %[9]s, x.pgdrover_at, x.pgdrover_author, %[2]s FROM (
		SELECT %[10]s, coalesce(o.commit_time, %[11]s, s."timestamp", 'epoch') AS pgdrover_at, %[3]s::oid AS pgdrover_author
		FROM (SELECT %[1]s, %[4]s.xmin AS pgdrover_xmin, %[5]s AS pgdrover_key, %[12]s AS pgdrover_name FROM ONLY %[6]s WHERE %[7]s) k
		CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(k.pgdrover_xmin) s
		LEFT JOIN spock.pgdrover_origin g ON g.roident = s.roident
		LEFT JOIN spock.pgdrover_stamp o ON o.relid = %[8]s AND o.key = k.pgdrover_key AND o.written_by = k.pgdrover_xmin) x`,
		m.list(""), m.recent.behind("x.pgdrover_author"), author("o.relid IS NOT NULL"), pg.QuoteIdent(p.name), key, p.quoted(), where, remote,
		m.list("x."), m.list("k."), bundledThere(there[0][2], remote, "k.pgdrover_name", "k.pgdrover_xmin"), name)
	rows, err := m.l.pipe(ctx, "COPY ("+source+") TO STDOUT",
		"COPY pg_temp.pgdrover_copy ("+m.list("")+", pgdrover_at, pgdrover_author, pgdrover_lsn) FROM STDIN", nil, &p.bytes, m.pace)
	if err == nil {
		err = m.l.unwritten(ctx, p.copied)
	}
	if err != nil {
		return 0, err
	}
	deletes := fmt.Sprintf(`SELECT r.key, r.at, r.author, %s FROM (SELECT o.key, coalesce(o.commit_time, s."timestamp") AS at, %s::oid AS author
		FROM spock.pgdrover_tombstone o CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(o.xmin) s
		LEFT JOIN spock.pgdrover_origin g ON g.roident = s.roident WHERE o.relid = %s) r WHERE r.at IS NOT NULL`,
		m.recent.behind("r.author"), author("o.author IS NOT NULL"), remote)
	var ignored atomic.Int64
	if _, err := m.l.pipe(ctx, "COPY ("+deletes+") TO STDOUT", "COPY pg_temp.pgdrover_gone FROM STDIN", nil, &ignored, m.pace); err != nil {
		return 0, err
	}
	return rows, m.run(ctx, "ANALYZE pg_temp.pgdrover_copy, pg_temp.pgdrover_gone")
}

// write decides and writes. Clients that write the table wait meanwhile, and so
// do streams, which have no claim on it.
func (m *merger) write(ctx context.Context, rows int64) error {
	if err := m.run(ctx, `BEGIN; SELECT pg_replication_origin_xact_setup('0/0', 'epoch'); SET LOCAL enable_seqscan = on; SET LOCAL enable_nestloop = off;
		LOCK TABLE `+m.p.quoted()+" IN SHARE ROW EXCLUSIVE MODE"); err != nil {
		return err
	}
	decide := m.keyed()
	if m.t.KeyBytes == nil {
		decide = m.keyless()
	}
	for _, text := range slices.Concat(m.gather(), decide, m.store()) {
		if err := m.run(ctx, text); err != nil {
			return err
		}
	}
	if err := m.journal(ctx, m.l, m.p, rows); err != nil {
		return err
	}
	return m.run(ctx, m.with+"; COMMIT")
}

// gather reads what is held here, and names what was brought alike.
func (m *merger) gather() []string {
	author := func(given string) string {
		return fmt.Sprintf("CASE WHEN %s THEN coalesce(o.author, '%d') WHEN s.roident = 0 THEN '%[2]d' ELSE coalesce(g.node_id, s.roident, '0') END::oid AS author",
			given, m.self)
	}
	return []string{
		fmt.Sprintf(`CREATE TEMPORARY TABLE pgdrover_rows ON COMMIT DROP AS SELECT k.ctid AS place, %s AS key, coalesce(k.pgdrover_at, 'epoch') AS at,
			coalesce(k.pgdrover_author, '0') AS author, k.pgdrover_lsn AS lsn, false AS lost FROM pg_temp.pgdrover_copy k`, m.key),
		fmt.Sprintf(`CREATE TEMPORARY TABLE pgdrover_held ON COMMIT DROP AS SELECT k.ctid AS place, %[1]s AS key,
			coalesce(o.commit_time, %[5]s, s."timestamp", 'epoch') AS at, %[2]s, false AS goes, false AS met
			FROM ONLY %[3]s AS k CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(k.xmin) s
			LEFT JOIN spock.pgdrover_origin g ON g.roident = s.roident
			LEFT JOIN spock.pgdrover_stamp o ON o.relid = %[4]d AND o.key = %[1]s AND o.written_by = k.xmin`,
			m.key, author("o.relid IS NOT NULL"), m.p.quoted(), m.t.OID, bundledTime(fmt.Sprint(m.t.OID), m.t.rowName(), "k.xmin")),
		fmt.Sprintf(`CREATE TEMPORARY TABLE pgdrover_buried ON COMMIT DROP AS SELECT * FROM (SELECT o.key, coalesce(o.commit_time, s."timestamp") AS at, %s
			FROM spock.pgdrover_tombstone o CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(o.xmin) s
			LEFT JOIN spock.pgdrover_origin g ON g.roident = s.roident WHERE o.relid = %d AND NOT %s) d WHERE d.at IS NOT NULL`,
			author("o.author IS NOT NULL"), m.t.OID, m.noted.seen("o", m.self)),
		"ANALYZE pg_temp.pgdrover_rows, pg_temp.pgdrover_held, pg_temp.pgdrover_buried",
	}
}

// beats is the test whether what alias a holds is later than what alias b does.
func (m *merger) beats(a, b string) string {
	return fmt.Sprintf("(%[1]s.at > %[2]s.at OR %[1]s.at = %[2]s.at AND %[1]s.author <> %[2]s.author AND (%[3]s, %[1]s.author::int8) < (%[4]s, %[2]s.author::int8))",
		a, b, m.rank(a), m.rank(b))
}

func (m *merger) rank(alias string) string {
	if len(m.w.applier.rules.Ranks) == 0 {
		return alias + ".author::int8"
	}
	var b strings.Builder
	b.WriteString("CASE " + alias + ".author")
	for node, rank := range m.w.applier.rules.Ranks {
		fmt.Fprintf(&b, " WHEN '%d' THEN '%d'::int8", node, rank)
	}
	b.WriteString(" ELSE " + alias + ".author::int8 END")
	return b.String()
}

// keyed decides which rows come and which go where rows have keys.
func (m *merger) keyed() []string {
	const (
		rows, held, buried, gone = "pg_temp.pgdrover_rows", "pg_temp.pgdrover_held", "pg_temp.pgdrover_buried", "pg_temp.pgdrover_gone"
		missing                  = "NOT EXISTS (SELECT FROM " + rows + " n WHERE n.key = h.key)"
	)
	own := fmt.Sprintf("NOT (d.author = '%[1]d' AND n.author = '%[1]d')", m.provider)
	all := []string{
		fmt.Sprintf("UPDATE %s n SET lost = true FROM %s h WHERE h.key = n.key AND h.author <> '%d' AND h.at > 'epoch' AND (%s OR h.author = '%d' AND n.author = h.author AND h.at <> n.at)",
			rows, held, m.provider, m.beats("h", "n"), m.self),
		fmt.Sprintf("UPDATE %s n SET lost = true FROM %s d WHERE NOT n.lost AND d.key = n.key AND %s AND %s", rows, buried, own, m.beats("d", "n")),
		fmt.Sprintf("UPDATE %s n SET lost = true FROM %s d WHERE NOT n.lost AND d.key IS NULL AND %s AND %s", rows, buried, own, m.beats("d", "n")),
		fmt.Sprintf("UPDATE %s h SET goes = true WHERE h.author = '%d' AND %s", held, m.provider, missing),
		fmt.Sprintf("UPDATE %s h SET goes = true FROM %s d WHERE NOT h.goes AND d.key = h.key AND %s AND %s", held, gone, m.beats("d", "h"), missing),
		fmt.Sprintf("UPDATE %s h SET goes = true FROM %s d WHERE NOT h.goes AND d.key IS NULL AND %s AND %s", held, gone, m.beats("d", "h"), missing),
	}
	for i := range m.t.Indexes {
		all = append(all, m.unique(&m.t.Indexes[i], m.t.Indexes[i].columns, nil)...)
	}
	for i := range m.t.computed {
		if columns, formulas, ok := m.t.inputs(&m.t.computed[i]); ok {
			all = append(all, m.unique(&m.t.computed[i], columns, formulas)...)
		}
	}
	return append(all, m.same(), fmt.Sprintf("UPDATE %s h SET goes = true FROM %s n WHERE n.key = h.key AND NOT n.lost", held, rows))
}

// same leaves rows alone that are what they would become.
func (m *merger) same() string {
	older := "true"
	if m.recent.since != "" {
		older = "n.at <= " + pg.QuoteLiteral(m.recent.since)
	}
	return fmt.Sprintf(`UPDATE pg_temp.pgdrover_rows n SET lost = true FROM pg_temp.pgdrover_held h JOIN ONLY %s k ON k.ctid = h.place, pg_temp.pgdrover_copy c
		WHERE NOT n.lost AND NOT h.goes AND h.key = n.key AND c.ctid = n.place AND (h.at = n.at AND h.author = n.author OR h.at = 'epoch' AND %s)
		AND ROW(%s)::text = ROW(%s)::text`, m.p.quoted(), older, m.list("k."), m.list("c."))
}

// unique decides between rows of different keys that share a unique value. Given
// are the columns that go into it, and the generated ones among them, which are
// not copied, as items of a list.
func (m *merger) unique(x *index, columns []int, formulas []string) []string {
	if x.Key || slices.ContainsFunc(columns, func(at int) bool { return !slices.Contains(m.columns, pg.QuoteIdent(m.t.Columns[at].Name)) }) {
		return nil
	}
	var parts, equal []string
	for i, part := range x.Parts {
		parts = append(parts, fmt.Sprintf("%s AS pgdrover_%d", part, i))
		test := fmt.Sprintf("k.pgdrover_%[1]d %[2]s c.pgdrover_%[1]d", i, x.Operators[i])
		if x.Equal {
			test = fmt.Sprintf("(%[2]s OR k.pgdrover_%[1]d IS NULL AND c.pgdrover_%[1]d IS NULL)", i, test)
		}
		equal = append(equal, test)
	}
	where := ""
	if x.Predicate != nil {
		where = " WHERE " + *x.Predicate
	}
	const stays = "NOT h.goes AND NOT EXISTS (SELECT FROM pg_temp.pgdrover_rows r WHERE r.key = h.key AND NOT r.lost)"
	from := fmt.Sprintf("(SELECT ctid AS pgdrover_place, %[1]s FROM ONLY %[2]s%[3]s) k"+
		" JOIN (SELECT pgdrover_place, %[1]s FROM (SELECT %[4]s FROM pg_temp.pgdrover_copy) r%[3]s) c ON %[5]s", strings.Join(parts, ", "),
		m.p.quoted(), where, strings.Join(append([]string{"*", "ctid AS pgdrover_place"}, formulas...), ", "), strings.Join(equal, " AND "))
	return []string{
		fmt.Sprintf(`UPDATE pg_temp.pgdrover_rows n SET lost = true FROM %s JOIN pg_temp.pgdrover_held h ON h.place = k.pgdrover_place
			WHERE n.place = c.pgdrover_place AND NOT n.lost AND n.key <> h.key AND %s AND %s`, from, stays, m.beats("h", "n")),
		fmt.Sprintf(`WITH w AS (UPDATE pg_temp.pgdrover_held h SET goes = true FROM %s JOIN pg_temp.pgdrover_rows n ON n.place = c.pgdrover_place
			WHERE h.place = k.pgdrover_place AND NOT n.lost AND n.key <> h.key AND %s RETURNING h.key, n.at, n.author, n.lsn)
			INSERT INTO spock.pgdrover_tombstone (relid, key, commit_time, author, author_lsn) SELECT %d, w.key, w.at, w.author, w.lsn FROM w`,
			from, stays, m.t.OID),
	}
}

// keyless decides where rows have no keys. What the provider wrote comes anew;
// of the others' rows those come that are not here, each as often as it takes.
func (m *merger) keyless() []string {
	numbered := func(table, by, where string) string {
		return fmt.Sprintf("(SELECT place, key, at, author, row_number() OVER (PARTITION BY %s ORDER BY at) AS nr FROM pg_temp.%s WHERE %s)", by, table, where)
	}
	match := func(by, on string) []string {
		from := numbered("pgdrover_rows", by, "NOT lost") + " x JOIN " + numbered("pgdrover_held", by, "NOT goes AND NOT met") + " y ON " + on + " AND x.nr = y.nr"
		return []string{
			"CREATE TEMPORARY TABLE pgdrover_met ON COMMIT DROP AS SELECT x.place AS n, y.place AS h FROM " + from,
			"UPDATE pg_temp.pgdrover_rows n SET lost = true FROM pg_temp.pgdrover_met p WHERE p.n = n.place",
			"UPDATE pg_temp.pgdrover_held h SET met = true FROM pg_temp.pgdrover_met p WHERE p.h = h.place",
			"DROP TABLE pg_temp.pgdrover_met",
		}
	}
	return slices.Concat(
		[]string{fmt.Sprintf("UPDATE pg_temp.pgdrover_held SET goes = true WHERE author = '%d'", m.provider)},
		match("key, at, author", "x.key = y.key AND x.at = y.at AND x.author = y.author"),
		// Of what came in a bundle both nodes may have forgotten the exact time.
		match("key, author", fmt.Sprintf("x.key = y.key AND x.author = y.author AND abs(extract(epoch FROM x.at - y.at)) <= %g AND 'epoch' NOT IN (x.at, y.at)",
			bundleSpan.Seconds())),
		// Of what a copy has brought it is not known who wrote it when.
		match("key", "x.key = y.key AND (x.at = 'epoch' OR y.at = 'epoch')"),
	)
}

// store writes what was decided.
func (m *merger) store() []string {
	all := []string{
		fmt.Sprintf("DELETE FROM ONLY %s k USING pg_temp.pgdrover_held h WHERE k.ctid = h.place AND h.goes", m.p.quoted()),
		fmt.Sprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM pg_temp.pgdrover_copy k JOIN pg_temp.pgdrover_rows n ON n.place = k.ctid WHERE NOT n.lost",
			m.p.quoted(), m.list(""), m.list("k.")),
	}
	if m.t.KeyBytes == nil || m.recent.since == "" {
		return all
	}
	return append(all,
		fmt.Sprintf(`INSERT INTO spock.pgdrover_stamp (relid, key, written_by, commit_time, author, author_lsn)
			SELECT %d, n.key, pg_current_xact_id()::xid, n.at, n.author, n.lsn FROM pg_temp.pgdrover_rows n WHERE NOT n.lost AND n.at > %s
			ON CONFLICT (relid, key) DO UPDATE SET written_by = excluded.written_by, commit_time = excluded.commit_time, author = excluded.author,
			author_lsn = excluded.author_lsn`, m.t.OID, pg.QuoteLiteral(m.recent.since)),
		fmt.Sprintf(`INSERT INTO spock.pgdrover_tombstone (relid, key, commit_time, author, author_lsn) SELECT %d, g.key, g.at, g.author, g.lsn
			FROM pg_temp.pgdrover_gone g WHERE NOT EXISTS (SELECT FROM pg_temp.pgdrover_buried d WHERE d.key = g.key AND d.at >= g.at)`, m.t.OID),
	)
}

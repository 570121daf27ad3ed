package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgdrover/pgdrover/internal/conflict"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// errNoPeer: this node has no way to ask that one.
var errNoPeer = errors.New("no interface to the node is known")

// errPeer is wrapped by what goes wrong when another node is asked: nothing is
// wrong with the change for which it was asked.
var errPeer = errors.New("ask node")

// peers are connections to other nodes, for questions.
type peers struct {
	dsn  func(context.Context, conflict.NodeID) (string, error)
	name string // the connections' application_name
	open map[conflict.NodeID]*pgconn.PgConn
	// judged are the provider's tables whose rows go through filters.
	judged map[uint32]*judging
}

func (p *peers) close(ctx context.Context) {
	for _, conn := range p.open {
		_ = conn.Close(ctx)
	}
	clear(p.open)
}

// connect returns a connection to a node, the one it has if that still works.
func (p *peers) connect(ctx context.Context, node conflict.NodeID) (*pgconn.PgConn, error) {
	if conn := p.open[node]; conn != nil && !conn.IsClosed() {
		return conn, nil
	}
	dsn, err := p.dsn(ctx, node)
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx, dsn, p.name, nil)
	if err != nil {
		return nil, fmt.Errorf("%w %d: %w", errPeer, node, err)
	}
	p.open[node] = conn
	return conn, nil
}

// dial opens a connection that answers in the forms that a stream in text mode
// has.
func dial(ctx context.Context, dsn, name string, settings map[string]string) (*pgconn.PgConn, error) {
	config, err := dialConfig(dsn, name, settings)
	if err != nil {
		return nil, err
	}
	return pgconn.ConnectConfig(ctx, config)
}

// dialCopy opens one that is good at copying out.
func dialCopy(ctx context.Context, dsn, name string) (*pgconn.PgConn, error) {
	config, err := dialConfig(dsn, name, nil)
	if err != nil {
		return nil, err
	}
	config.DialFunc, config.BuildFrontend = dialCalm(config.DialFunc), gatherFrontend
	return pgconn.ConnectConfig(ctx, config)
}

func dialConfig(dsn, name string, settings map[string]string) (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("parse connection string: %w", err)
	}
	ordinary(config, map[string]string{"application_name": name})
	maps.Copy(config.RuntimeParams, settings)
	return config, nil
}

// peerTime bounds a question: one that is not answered must not hold up the
// stream, and the keys that it has claimed, for ever.
const peerTime = 30 * time.Second

// ask puts a question with values in text form.
func (p *peers) ask(ctx context.Context, conn *pgconn.PgConn, text string, values ...[]byte) *pgconn.Result {
	return p.askWith(ctx, conn, text, values, nil, nil)
}

func (*peers) askWith(ctx context.Context, conn *pgconn.PgConn, text string, values [][]byte, types []uint32, formats []int16) *pgconn.Result {
	ctx, cancel := context.WithTimeoutCause(ctx, peerTime, fmt.Errorf("no answer within %s", peerTime))
	defer cancel()
	result := conn.ExecParams(ctx, text, values, types, formats, nil).Read()
	if result.Err != nil && ctx.Err() != nil {
		result.Err = context.Cause(ctx)
	}
	return result
}

// row reads a row from a node by the key that a change's row holds: its values
// as text, in the order of the target's sent columns. Nil means that there is no
// such row, or one that was written before that time.
func (p *peers) row(ctx context.Context, node conflict.NodeID, g *target, key pgoutput.Tuple, since pg.Timestamp) ([]pgoutput.Value, error) {
	conn, err := p.connect(ctx, node)
	if err != nil {
		return nil, err
	}
	var columns, tests []string
	for _, s := range g.sent {
		columns = append(columns, pg.QuoteIdent(g.Columns[s.local].Name)+"::text")
	}
	var values [][]byte
	var types []uint32
	var formats []int16
	for _, k := range g.key {
		s := g.sent[g.place[k]]
		v := key[s.remote]
		typ := s.typ
		if typ >= firstOwnOID {
			typ = 0 // it has another number there
		}
		values, types = append(values, v.Data), append(types, typ)
		format := int16(0)
		if v.Kind == pgoutput.Binary {
			format = 1
		}
		formats = append(formats, format)
		tests = append(tests, fmt.Sprintf("%s = $%d", pg.QuoteIdent(g.Columns[k].Name), len(types)))
	}
	values, types, formats = append(values, []byte(since.Time().UTC().Format("2006-01-02 15:04:05.999999+00"))), append(types, timestamptzOID), append(formats, 0)
	text := fmt.Sprintf(`SELECT %s FROM ONLY %s AS k WHERE %s AND coalesce(greatest(pg_xact_commit_timestamp(k.xmin),
		(SELECT max(o.commit_time) FROM spock.pgdrover_stamp o WHERE o.relid = k.tableoid AND o.written_by = k.xmin)), 'infinity') >= $%d`,
		strings.Join(columns, ", "), g.name, strings.Join(tests, " AND "), len(types))
	result := p.askWith(ctx, conn, text, values, types, formats)
	if result.Err != nil {
		return nil, fmt.Errorf("%w %d for row of %s: %w", errPeer, node, g.plain, result.Err)
	}
	if len(result.Rows) == 0 {
		return nil, nil
	}
	return textRow(result.Rows[0]), nil
}

// filterError is what a row filter has made of a row, or the server of the
// filter: neither the provider nor the way to it is at fault. It does not unwrap
// to the server's error, which would be taken for one of this node's own server.
type filterError struct {
	table string
	cause error
}

func (e *filterError) Error() string {
	return fmt.Sprintf("evaluate row filter of %s on its provider: %v", e.table, e.cause)
}

// Hint says what to do.
func (e *filterError) Hint() string {
	return "Mend on the provider what the filter uses: it is evaluated there. Or leave the transaction out with spock.sub_alter_skiplsn."
}

// judging is how rows of a table are put before filters: by the columns that the
// stream has, and those that the table has on its provider by now.
type judging struct {
	table   *remoteTable
	filters []string
	name    string   // of the table by now; empty when it is gone
	columns []column // by now
	now     []int    // column of the stream → that of columns, or -1
	whole   bool     // a filter uses the row as a whole
	used    []used
	formula []int // generated columns that are used
}

// used is a column of a row that a filter sees.
type used struct {
	name   string
	remote int // place in the stream's rows, or -1
	now    int // place in columns, or -1
}

const judgingQuery = `SELECT json_build_object('name', format('%I.%I', n.nspname, c.relname), 'columns', (
	SELECT json_agg(json_build_object('name', a.attname, 'type', a.atttypid::bigint, 'type_name', format_type(a.atttypid, a.atttypmod),
		'generated', a.attgenerated <> '', 'formula', CASE WHEN a.attgenerated <> '' THEN
			(SELECT pg_get_expr(f.adbin, f.adrelid) FROM pg_attrdef f WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum) ELSE '' END,
		'collate', coalesce((SELECT format(' COLLATE %I.%I', v.nspname, l.collname) FROM pg_collation l
			JOIN pg_namespace v ON v.oid = l.collnamespace WHERE l.oid = a.attcollation AND l.collprovider <> 'd'), '')) ORDER BY a.attnum)
	FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1::text::oid`

// currentFilters says what filters are by now: their texts do not follow where a
// function, a type or a schema is renamed.
const currentFilters = `SELECT coalesce((SELECT pg_get_expr(m.set_row_filter, m.set_reloid) FROM spock.replication_set_table m
		JOIN spock.pgdrover_row_filter f ON f.set_id = m.set_id AND f.set_reloid = m.set_reloid::oid
		WHERE f.set_reloid = $1::text::oid AND f.row_filter = u.filter LIMIT 1), u.filter)
	FROM unnest($2::text[]) WITH ORDINALITY u (filter, n) ORDER BY n`

// filter asks the provider whether a row passes filters: what a filter uses may
// exist there alone.
func (p *peers) filter(ctx context.Context, node conflict.NodeID, t *remoteTable, row pgoutput.Tuple) (bool, error) {
	if len(row) != len(t.relation.Columns) {
		return true, nil // the change cannot be applied, which says why
	}
	conn, err := p.connect(ctx, node)
	if err != nil {
		return false, err
	}
	j := p.judged[t.relation.ID]
	if j == nil || j.table != t {
		if j, err = p.judging(ctx, conn, t, t.rule.filters); err != nil {
			return false, err
		}
	}
	pass, err := p.judge(ctx, conn, j, row)
	if nameless(err) {
		// What it names may have another name by now.
		result := p.ask(ctx, conn, currentFilters, fmt.Append(nil, t.relation.ID), []byte(arrayText(t.rule.filters)))
		if lost := j.fault(result.Err); errors.Is(lost, errPeer) {
			return false, lost
		}
		if result.Err != nil {
			return false, j.fault(err)
		}
		filters := make([]string, 0, len(result.Rows))
		for _, r := range result.Rows {
			filters = append(filters, string(r[0]))
		}
		if j, err = p.judging(ctx, conn, t, filters); err != nil {
			return false, err
		}
		pass, err = p.judge(ctx, conn, j, row)
	}
	return pass, j.fault(err)
}

// nameless tells whether an expression names what is not there.
func nameless(err error) bool {
	state := sqlState(err)
	return pgerrcode.IsSyntaxErrororAccessRuleViolation(state) || pgerrcode.IsInvalidSchemaName(state)
}

// fault tells a filter's errors from those of the provider.
func (j *judging) fault(err error) error {
	name := j.table.relation.Namespace + "." + j.table.relation.Name
	switch _, server := errors.AsType[*pgconn.PgError](err); {
	case err == nil:
		return nil
	case errors.Is(err, errUnsent), server && !passing(err) && !isSessionError(err):
		return &filterError{table: name, cause: err}
	default:
		return fmt.Errorf("%w for row filter of %s: %w", errPeer, name, err)
	}
}

// judging finds out how rows of a table are judged.
func (p *peers) judging(ctx context.Context, conn *pgconn.PgConn, t *remoteTable, filters []string) (*judging, error) {
	j := &judging{table: t, filters: filters}
	result := p.ask(ctx, conn, judgingQuery, fmt.Append(nil, t.relation.ID))
	if result.Err != nil {
		return nil, fmt.Errorf("%w for columns of %s.%s: %w", errPeer, t.relation.Namespace, t.relation.Name, result.Err)
	}
	if len(result.Rows) > 0 {
		var known struct {
			Name    string   `json:"name"`
			Columns []column `json:"columns"`
		}
		if err := json.Unmarshal(result.Rows[0][0], &known); err != nil {
			return nil, fmt.Errorf("read columns of %s.%s: %w", t.relation.Namespace, t.relation.Name, err)
		}
		j.name, j.columns = known.Name, known.Columns
	}
	j.match()
	j.choose()
	if p.judged == nil {
		p.judged = map[uint32]*judging{}
	}
	p.judged[t.relation.ID] = j
	return j, nil
}

// match finds the columns of the stream among those of now: by their names, and
// where as many of the same types are unknown on both sides, by their order. Those
// were renamed.
func (j *judging) match() {
	remote := j.table.relation.Columns
	j.now = make([]int, len(remote))
	var unknown, renamed []int
	for i, c := range remote {
		j.now[i] = slices.IndexFunc(j.columns, func(n column) bool { return n.Name == c.Name })
		if j.now[i] < 0 {
			unknown = append(unknown, i)
		}
	}
	for at, c := range j.columns {
		if !c.Generated && !slices.Contains(j.now, at) {
			renamed = append(renamed, at)
		}
	}
	same := func(i, at int) bool { return remote[i].Type == j.columns[at].Type }
	if slices.EqualFunc(unknown, renamed, same) {
		for n, i := range unknown {
			j.now[i] = renamed[n]
		}
	}
}

// choose finds the columns that filters use.
func (j *judging) choose() {
	words, plain := wordsOf(strings.Join(j.filters, " , "))
	if j.whole = !plain; j.whole {
		words = map[string]bool{}
	}
	sent := map[string]bool{}
	for _, c := range j.table.relation.Columns {
		sent[c.Name] = true
	}
	for at, c := range j.columns {
		if c.Generated && !sent[c.Name] && (j.whole || words[c.Name]) {
			j.formula = append(j.formula, at)
			inputs, _ := wordsOf(c.Formula)
			maps.Copy(words, inputs)
		}
	}
	for i, c := range j.table.relation.Columns {
		at := j.now[i]
		if j.whole || words[c.Name] {
			j.used = append(j.used, used{c.Name, i, at})
		}
		if at >= 0 && j.columns[at].Name != c.Name && (j.whole || words[j.columns[at].Name]) {
			j.used = append(j.used, used{j.columns[at].Name, i, at})
		}
	}
	for at, c := range j.columns {
		if !slices.Contains(j.now, at) && !c.Generated && (j.whole || words[c.Name]) {
			j.used = append(j.used, used{c.Name, -1, at})
		}
	}
}

// errUnsent: a filter needs what neither the stream nor the provider has.
var errUnsent = errors.New("a value that it uses is not in the stream, and its row cannot be found by its key any more")

// judge asks whether a row passes. What is not in the stream the filter sees as
// the row on the provider has it by now, if that is there.
func (p *peers) judge(ctx context.Context, conn *pgconn.PgConn, j *judging, row pgoutput.Tuple) (bool, error) {
	b := binding{row: row, columns: j.table.relation.Columns, places: make([]int, len(row))}
	fields := []string{fmt.Sprintf("%d::oid AS tableoid", j.table.relation.ID)}
	look := false
	for _, u := range j.used {
		var value string
		sent, found := u.remote >= 0, u.now >= 0 && j.findable(row)
		switch {
		case sent && row[u.remote].Kind != pgoutput.Unchanged:
			value = j.value(&b, u)
		case sent && found:
			look, value = true, "k."+pg.QuoteIdent(j.columns[u.now].Name)
		case sent && j.name == "":
			return false, nil // the row is gone with its table
		case sent:
			return false, errUnsent
		case found: // a column that is newer than the change
			value = "(SELECT k." + pg.QuoteIdent(j.columns[u.now].Name) + j.lookup(&b) + ")"
		default:
			value = j.columns[u.now].null()
		}
		fields = append(fields, value+" AS "+pg.QuoteIdent(u.name))
	}
	source := "SELECT " + strings.Join(fields, ", ")
	if look {
		source += j.lookup(&b)
	}
	result := p.askWith(ctx, conn, fmt.Sprintf("SELECT ((%s)) IS TRUE FROM %s", strings.Join(j.filters, ") AND ("), j.from(source)),
		b.values, b.types, b.formats)
	if result.Err != nil {
		return false, result.Err
	}
	return len(result.Rows) > 0 && string(result.Rows[0][0]) == "t", nil
}

// binding are the values of a row that go into a question.
type binding struct {
	row     pgoutput.Tuple
	columns []pgoutput.Column
	places  []int // column → number of its parameter; 0: none yet
	values  [][]byte
	types   []uint32
	formats []int16
}

func (b *binding) add(i int) string {
	if b.places[i] == 0 {
		v := b.row[i]
		format := int16(0)
		if v.Kind == pgoutput.Binary {
			format = 1
		}
		b.values, b.types, b.formats = append(b.values, v.Data), append(b.types, b.columns[i].Type), append(b.formats, format)
		b.places[i] = len(b.values)
	}
	return fmt.Sprintf("$%d", b.places[i])
}

// null is a NULL of the column's type. A domain may refuse one, as what stands for
// the values that a delete does not have; it is not asked for what comes of no row.
func (c column) null() string { return "(SELECT NULL::" + c.TypeName + " WHERE false)" }

// value is a sent value, of the column's collation.
func (j *judging) value(b *binding, u used) string {
	typ := b.columns[u.remote].Type
	if u.now < 0 || j.columns[u.now].Type != typ {
		return b.add(u.remote)
	}
	c := j.columns[u.now]
	if typ >= firstOwnOID && b.row[u.remote].Kind == pgoutput.Null {
		return c.null() + c.Collate
	}
	return b.add(u.remote) + c.Collate
}

// findable tells whether the provider can be asked for a row by its key.
func (j *judging) findable(row pgoutput.Tuple) bool {
	keyed := false
	for i, c := range j.table.relation.Columns {
		if !c.Key {
			continue
		}
		keyed = true
		if j.now[i] < 0 || row[i].Kind == pgoutput.Null || row[i].Kind == pgoutput.Unchanged {
			return false
		}
	}
	return keyed && j.name != ""
}

func (j *judging) lookup(b *binding) string {
	var tests []string
	for i, c := range j.table.relation.Columns {
		if c.Key {
			tests = append(tests, "k."+pg.QuoteIdent(j.columns[j.now[i]].Name)+" = "+b.add(i))
		}
	}
	return " FROM ONLY " + j.name + " k WHERE " + strings.Join(tests, " AND ")
}

// from is the row as filters see it: with the columns that the provider computes,
// since those are not sent, and of the table's type where a filter uses it whole.
func (j *judging) from(source string) string {
	if len(j.formula) > 0 {
		list := []string{"r.*"}
		for _, at := range j.formula {
			c := j.columns[at]
			list = append(list, fmt.Sprintf("CAST((%s) AS %s)%s AS %s", c.Formula, c.TypeName, c.Collate, pg.QuoteIdent(c.Name)))
		}
		source = fmt.Sprintf("SELECT %s FROM (%s) r", strings.Join(list, ", "), source)
	}
	alias := pg.QuoteIdent(j.table.relation.Name)
	if !j.whole || j.name == "" {
		return "(" + source + ") " + alias
	}
	// A column that was renamed has both names there.
	names := make([]string, 0, len(j.columns))
	for _, c := range j.columns {
		names = append(names, pg.QuoteIdent(c.Name))
	}
	values := "r." + strings.Join(names, ", r.")
	for i, c := range j.table.relation.Columns {
		if j.now[i] >= 0 {
			names[j.now[i]] = pg.QuoteIdent(c.Name)
		}
	}
	return fmt.Sprintf("unnest(ARRAY(SELECT ROW(%s)::%s FROM (%s) r)) AS %s (%s), (SELECT %d::oid AS tableoid) AS pgdrover_table",
		values, j.name, source, alias, strings.Join(names, ", "), j.table.relation.ID)
}

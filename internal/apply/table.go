package apply

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// table is a table of this database as the engine needs it.
type table struct {
	OID        uint32   `json:"oid"`
	Kind       string   `json:"kind"`
	Deferrable bool     `json:"deferrable"` // has checks that may wait for the commit
	Amended    bool     `json:"amended"`    // has rows whose stamp stands beside them
	Counters   bool     `json:"counters"`   // has columns that add up
	Plain      bool     `json:"plain"`      // what is written here moves nothing else
	KeyBytes   *string  `json:"key_bytes"`  // an expression over alias k for the key's canonical form
	Columns    []column `json:"columns"`
	Indexes    []index  `json:"indexes"` // the unique ones, the key's first
	computed   []index  // the unique ones over what is computed from a row
	Dropped    []string `json:"dropped"` // columns that peers may still send
	Added      []added  `json:"added"`   // columns that peers may not have yet
	key        []int    // positions in Columns; empty without a key
	keyIndex   string   // its name
	byName     map[string]int
	name       string // qualified and quoted
	plain      string // qualified, not quoted
}

// added is a column that came by DDL which travels.
type added struct {
	Name   string   `json:"name"`
	Value  *string  `json:"value"`   // what the rows of before have there; nil for NULL
	Awaits []uint32 `json:"awaited"` // providers that do not have it yet
}

type column struct {
	Name      string `json:"name"`
	Num       int    `json:"num"`
	Type      uint32 `json:"type"`
	Element   uint32 `json:"element"` // of an array type
	Always    bool   `json:"always"`  // an identity column that takes values only by force
	Generated bool   `json:"generated"`
	Formula   string `json:"formula"`  // of a generated column
	Collate   string `json:"collate"`  // the clause, where its collation is not the database's
	Detached  bool   `json:"detached"` // its values may be stored out of line
	Exact     bool   `json:"exact"`    // equal values have equal bytes
	Counter   bool   `json:"counter"`  // it adds up
	TypeName  string `json:"type_name"`
	Array     uint32 `json:"array"` // the type of arrays of it; 0 when rows of it cannot be sent as one
}

type index struct {
	Name      string   `json:"name"`
	Key       bool     `json:"key"`
	Nums      []int    `json:"nums"`
	Operators []string `json:"operators"` // of equality, for each column
	Predicate *string  `json:"predicate"`
	Equal     bool     `json:"equal"` // NULLs are equal
	Immediate bool     `json:"immediate"`
	Computed  bool     `json:"computed"` // over expressions
	Parts     []string `json:"parts"`    // what it is over
	columns   []int
}

// errNoTable is what an action on a table that is not here ends with.
var errNoTable = errors.New("Spock can't find relation") //nolint:staticcheck // the text that operators know

const tableQuery = `
SELECT pg_catalog.json_build_object(
  'oid', c.oid::bigint, 'kind', c.relkind,
  'deferrable', EXISTS (SELECT FROM pg_catalog.pg_constraint x WHERE x.conrelid = c.oid AND x.condeferrable)
    OR EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid AND g.tgdeferrable AND g.tgenabled IN ('A', 'R')),
  'amended', EXISTS (SELECT FROM spock.pgdrover_stamp o WHERE o.relid = c.oid),
  'plain', NOT c.relhasrules AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid AND g.tgenabled IN ('A', 'R'))
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_catalog.pg_proc'::regclass AND
      (d.classid = 'pg_catalog.pg_constraint'::regclass AND d.objid IN (SELECT x.oid FROM pg_catalog.pg_constraint x WHERE x.conrelid = c.oid)
       OR d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid IN (SELECT f.oid FROM pg_catalog.pg_attrdef f WHERE f.adrelid = c.oid)
       OR d.classid = 'pg_catalog.pg_class'::regclass AND d.objid IN (SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid)))
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND t.typtype = 'd'),
  'counters', EXISTS (SELECT FROM spock.pgdrover_delta_column d WHERE d.relid = c.oid),
  'key_bytes', pgdrover.key_expression(c.oid, 'k'),
  'dropped', (SELECT pg_catalog.json_agg(d.column_name) FROM spock.pgdrover_dropped_column d WHERE d.relid = c.oid),
  'added', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('name', d.column_name, 'value', d.value,
       'awaited', (SELECT pg_catalog.json_agg(b) FROM pgdrover.awaited_by(d.author, d.author_lsn, d.xmin) b)))
     FROM spock.pgdrover_added_column d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.relid AND a.attname = d.column_name
    WHERE d.relid = c.oid AND a.attgenerated = '' AND a.attidentity = '' AND (d.value IS NOT NULL OR NOT a.attnotnull)),
  'columns', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
       'name', a.attname, 'num', a.attnum, 'type', a.atttypid::bigint, 'element', t.typelem::bigint,
       'always', a.attidentity = 'a', 'generated', a.attgenerated <> '',
       'formula', CASE WHEN a.attgenerated <> '' THEN (SELECT pg_catalog.pg_get_expr(f.adbin, f.adrelid)
            FROM pg_catalog.pg_attrdef f WHERE f.adrelid = a.attrelid AND f.adnum = a.attnum) ELSE '' END,
       'collate', coalesce((SELECT pg_catalog.format(' COLLATE %I.%I', v.nspname, l.collname) FROM pg_catalog.pg_collation l
            JOIN pg_catalog.pg_namespace v ON v.oid = l.collnamespace
           WHERE l.oid = a.attcollation AND l.collprovider <> 'd'), ''),
       'detached', a.attlen = -1 AND a.attstorage <> 'p',
       'type_name', pg_catalog.format_type(a.atttypid, -1), -- without a length, also where none means 1
       'array', CASE WHEN t.typlen = -1 AND t.typelem <> 0 OR t.typtype IN ('c', 'd') THEN 0 ELSE t.typarray::bigint END,
       'counter', EXISTS (SELECT FROM spock.pgdrover_delta_column d WHERE d.relid = c.oid AND d.column_name = a.attname),
       'exact', t.typname IN ('int2', 'int4', 'int8', 'oid', 'uuid', 'bool', 'date', 'timestamp', 'timestamptz', 'bytea', 'name')
            AND t.typnamespace = 'pg_catalog'::regnamespace
          OR t.typname IN ('text', 'varchar') AND t.typnamespace = 'pg_catalog'::regnamespace
            AND coalesce((SELECT l.collisdeterministic FROM pg_catalog.pg_collation l WHERE l.oid = a.attcollation), false)
       ) ORDER BY a.attnum)
     FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'indexes', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
       'name', x.relname, 'key', i.indexrelid = pgdrover.key_index(c.oid),
       'nums', (SELECT pg_catalog.json_agg(k.num ORDER BY k.n)
                  FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, n) WHERE k.n <= i.indnkeyatts),
       'operators', (SELECT pg_catalog.json_agg(pg_catalog.format('OPERATOR(%I.%s)', f.nspname, o.oprname) ORDER BY k.n)
                  FROM pg_catalog.unnest(i.indclass::oid[]) WITH ORDINALITY AS k(class, n)
                  JOIN pg_catalog.pg_opclass q ON q.oid = k.class
                  JOIN pg_catalog.pg_amop m ON m.amopfamily = q.opcfamily AND m.amopstrategy = 3
                       AND m.amoplefttype = q.opcintype AND m.amoprighttype = q.opcintype
                  JOIN pg_catalog.pg_operator o ON o.oid = m.amopopr
                  JOIN pg_catalog.pg_namespace f ON f.oid = o.oprnamespace),
       'predicate', pg_catalog.pg_get_expr(i.indpred, i.indrelid), 'equal', i.indnullsnotdistinct,
       'immediate', i.indimmediate, 'computed', i.indexprs IS NOT NULL,
       'parts', (SELECT pg_catalog.json_agg(pg_catalog.pg_get_indexdef(i.indexrelid, k.n, false) ORDER BY k.n)
                  FROM pg_catalog.generate_series(1, i.indnkeyatts) AS k(n)))
       ORDER BY i.indexrelid = pgdrover.key_index(c.oid) DESC NULLS LAST, i.indexrelid)
     FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid)
)::text
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')`

// loadTable reads a table and makes sure that deletes in it leave tombstones.
// It uses the applying session, which also sees tables that the transaction
// being applied has made; until that ends, nobody changes the table.
func loadTable(ctx context.Context, s *session, schema, name string) (*table, error) {
	const watch = `SELECT pgdrover.watch(c.oid) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
		ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2`
	types := []uint32{nameOID, nameOID}
	if _, err := s.query(ctx, watch, types, textValue(schema), textValue(name)); err != nil {
		return nil, fmt.Errorf("watch deletes of %s.%s: %w", schema, name, err)
	}
	if s.inTransaction() {
		if _, err := s.query(ctx, "SELECT pgdrover.hold($1, $2)", types, textValue(schema), textValue(name)); err != nil {
			return nil, fmt.Errorf("lock table %s.%s: %w", schema, name, err)
		}
	}
	r, err := s.query(ctx, tableQuery, types, textValue(schema), textValue(name))
	if err != nil {
		return nil, fmt.Errorf("read definition of %s.%s: %w", schema, name, err)
	}
	if len(r.rows) == 0 {
		return nil, fmt.Errorf("%w %s.%s", errNoTable, schema, name)
	}
	t := &table{name: pg.QuoteIdent(schema) + "." + pg.QuoteIdent(name), plain: schema + "." + name}
	if err := json.Unmarshal(r.rows[0][0].Data, t); err != nil {
		return nil, fmt.Errorf("read definition of %s: %w", t.plain, err)
	}
	t.finish()
	return t, nil
}

const nameOID = 19

func (t *table) finish() {
	t.byName = make(map[string]int, len(t.Columns))
	byNum := make(map[int]int, len(t.Columns))
	for i, c := range t.Columns {
		t.byName[c.Name] = i
		byNum[c.Num] = i
	}
	kept := t.Indexes[:0]
	for _, x := range t.Indexes {
		if !x.Immediate {
			continue // no conflict can be looked for in these
		}
		computed := x.Computed
		for _, num := range x.Nums {
			if num > 0 {
				x.columns = append(x.columns, byNum[num])
				computed = computed || t.Columns[byNum[num]].Generated
			}
		}
		if computed && !x.Key {
			t.computed = append(t.computed, x)
			continue
		}
		if x.Key {
			t.key, t.keyIndex = x.columns, x.Name
		}
		kept = append(kept, x)
	}
	t.Indexes = kept
}

// remoteTable is a provider's table at one point of its stream: its columns and
// what the replication sets let through.
type remoteTable struct {
	relation *pgoutput.Relation
	types    map[uint32]*pgoutput.Type // of its columns, those that are the provider's own
	rule     rule
	target   *target // the table here, once looked up
	epoch    int     // of target
	fault    error   // why a change of it cannot be applied, known before it is looked up
}

// target joins a remote table with the local one: which value goes where.
type target struct {
	*table
	remote   *pgoutput.Relation
	sent     []sent // those remote columns that are written here
	place    []int  // local column → position in sent, or -1
	behind   []fill // those columns that the provider does not have yet
	plans    map[uint64]*plan
	hasKey   bool   // the key's columns are all sent
	moves    bool   // the fast form knows how to move rows to another key
	binary   bool   // values come in binary form
	careful  bool   // the fast form is not for this table
	stepped  bool   // it has rows of the same author from the future of its clock
	filtered bool   // not all inserts arrive here with all their columns
	stamps   string // keeps the stamps of rows that are written with those of others
	stampsOf []uint32
}

// sent is a remote column that has a place here.
type sent struct {
	remote  int // position in the tuple
	local   int // position in Columns
	typ     uint32
	element uint32 // of an array type
	cast    string // where the column has another type by now, or not yet: what makes one of the other
	back    string // and the other way round
}

// bind writes a value of a remote column as one of the column here.
func (s sent) bind(p *parameters) string {
	if s.cast == "" {
		return p.add(s.typ)
	}
	return "(" + p.add(s.typ) + s.cast + ")"
}

// same writes a value to be looked for: one that is another in the column's type,
// as 1.4 is 1, is none of its values.
func (s sent) same(p *parameters) string {
	if s.cast == "" {
		return p.add(s.typ)
	}
	value := p.add(s.typ)
	return fmt.Sprintf("(CASE WHEN (%[1]s%[2]s)%[3]s = %[1]s THEN %[1]s%[2]s END)", value, s.cast, s.back)
}

// fill is a column that rows do not bring because they were written before it
// came to the provider. It is written with what those rows get there when it
// comes: else a row that wins here would keep another's value in it, and there
// that one's whole row loses.
type fill struct {
	local int
	value string // as SQL
}

// fills finds the columns that a provider does not have yet. What the sets leave
// out, and what is this node's alone, never comes, and is let be.
func (g *target) fills(r rule, provider uint32) {
	for _, a := range g.Added {
		at, ok := g.byName[a.Name]
		if !ok || g.place[at] >= 0 || r.columns != nil && !r.columns[a.Name] || !slices.Contains(a.Awaits, provider) ||
			slices.ContainsFunc(g.remote.Columns, func(c pgoutput.Column) bool { return c.Name == a.Name }) {
			continue
		}
		value := "NULL"
		if a.Value != nil {
			value = pg.QuoteLiteral(*a.Value)
		}
		g.behind = append(g.behind, fill{local: at, value: value + "::" + g.Columns[at].TypeName})
	}
}

// builtin is the first type number that is not the same on every server.
const firstOwnOID = 16384

func newTarget(t *table, remote *pgoutput.Relation, r rule, binary bool, provider uint32) (*target, error) {
	g := &target{table: t, remote: remote, binary: binary, plans: map[uint64]*plan{}, place: make([]int, len(t.Columns))}
	for i := range g.place {
		g.place[i] = -1
	}
	for i, c := range remote.Columns {
		if r.columns != nil && !r.columns[c.Name] {
			continue
		}
		at, ok := t.byName[c.Name]
		if !ok {
			if slices.Contains(t.Dropped, c.Name) {
				continue
			}
			return nil, fmt.Errorf("find column %q of %s: the provider sends it, and it is not here", c.Name, t.plain)
		}
		if t.Columns[at].Generated {
			continue
		}
		g.place[at] = len(g.sent)
		g.sent = append(g.sent, sent{remote: i, local: at, typ: t.Columns[at].Type, element: t.Columns[at].Element})
	}
	g.fills(r, provider)
	g.hasKey = len(t.key) > 0
	for _, k := range t.key {
		g.hasKey = g.hasKey && g.place[k] >= 0
	}
	// The key's canonical form is made of what comes, not of what is here; and an
	// identity column that takes values only by force takes none in an update.
	g.moves = g.hasKey && t.KeyBytes != nil && len(t.Indexes) > 0 &&
		!slices.ContainsFunc(t.key, func(k int) bool { return !t.Columns[k].Exact }) &&
		!slices.ContainsFunc(g.sent, func(s sent) bool { return t.Columns[s.local].Always })
	g.filtered = r.filtered
	g.careful = t.Counters || t.Kind != "r"
	return g, nil
}

// incomplete tells whether a new row lacks values that were not written.
func (g *target) incomplete(row pgoutput.Tuple) bool {
	for _, c := range g.sent {
		if row[c.remote].Kind == pgoutput.Unchanged {
			return true
		}
	}
	return false
}

// detachable tells whether the table has columns that a row may lack.
func (g *target) detachable() bool {
	for _, c := range g.sent {
		if g.Columns[c.local].Detached {
			return true
		}
	}
	return false
}

// value is a remote value as it is bound here: numbers of types that are not
// the same on both servers are translated.
func (g *target) value(c sent, v pgoutput.Value) pgoutput.Value {
	if v.Kind != pgoutput.Binary {
		return v
	}
	if c.element >= firstOwnOID && c.typ >= firstOwnOID && len(v.Data) >= 12 {
		return pgoutput.Value{Kind: v.Kind, Data: withElement(v.Data, c.element)}
	}
	return v
}

// withElement puts another element type into an array's header.
func withElement(data []byte, element uint32) []byte {
	out := slices.Clone(data)
	binary.BigEndian.PutUint32(out[8:], element)
	return out
}

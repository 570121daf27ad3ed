package apply

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// verdict is the test whether the changes of one author win over a row, as SQL
// that rides in the statements that write rows.
type verdict struct {
	node   uint32 // the author
	same   string // origins here that stand for it, as a list of numbers
	beaten string // origins here, and 0, of those that lose a tie against it
	// strict: it wins over rows of the same author alone; for everything else
	// somebody wants to look.
	strict bool
}

// over is the test for the row of alias k; time is the change's commit time.
// A row of the running transaction has no stamp yet, and a very old one none any
// more: both lose.
func (v verdict) over(time string, strict bool) string {
	if strict || v.strict {
		return fmt.Sprintf("(SELECT s.roident IS NULL OR s.roident IN (%s) FROM pg_xact_commit_timestamp_origin(k.xmin) s)",
			v.same)
	}
	// Mostly the row is older, and its author need not be looked at.
	return fmt.Sprintf(`(pg_xact_commit_timestamp(k.xmin) < %[1]s OR (SELECT coalesce(%[1]s > s."timestamp" OR s.roident IN (%[2]s) OR`+
		` %[1]s = s."timestamp" AND s.roident IN (%[3]s), true) FROM pg_xact_commit_timestamp_origin(k.xmin) s))`, time, v.same, v.beaten)
}

// quick is over for the statements of the fast form. What it refuses besides,
// a row of the same author that is not older, comes from a clock that was set
// back: then whole is true, and the author is looked at.
func (v verdict) quick(time string, strict, whole bool) string {
	if strict || v.strict || whole {
		return v.over(time, strict)
	}
	return fmt.Sprintf("coalesce(pg_xact_commit_timestamp(k.xmin) < %s, true)", time)
}

// plan is a prepared statement of the fast form, for one row or for a run of
// rows.
type plan struct {
	one, many          string // "" when there is none
	oneOf, manyOf      []uint32
	bundled            string   // writes a run of rows of several transactions: an update, or an insert into a table without a key
	bundledOf          []uint32 // of the insert, which keeps their stamps as well; the update has those of many
	columns            []sent   // whose values are bound, in order
	old                int      // so many of them, the last, are the old row's
	time, lsn          bool     // what is bound behind them
	lookOne, lookMany  string   // for inserts: the look for tombstones
	lookOf, lookManyOf []uint32
	keys               []sent // whose values that look binds
	id                 int    // among the plans of a session; 0 when its statement stays alone
	part               part   // the statement for one row, as a part of a larger one
	look               func(p *parameters, time string) string
	copy               string // for inserts: takes rows in the server's binary form; "" when they cannot come so
}

// unlike is what the server's log says of a statement that refuses.
const unlike = "no fault: a row is not as its provider saw it, so that the transaction is repeated step by step"

// holds is 1, or an error where a test does not hold. Nothing in the server raises
// one with a text of ours but a value that cannot be read; it is made of something
// that no planner knows, who would read it beforehand.
func holds(test string) string {
	return "CASE WHEN " + test + " THEN 1 ELSE ('" + unlike + ", by ' || current_setting('application_name'))::int END"
}

// part writes a statement as common table expressions. It returns them, with
// names that end in a number, and the name of the one that has to hold a row.
type part func(p *parameters, number int, time, lsn string) (tables, counted string)

const (
	timestamptzOID = 1184
	pgLSNOID       = 3220
	int8OID        = 20
	textOID        = 25
	byteaOID       = 17
	oidOID         = 26
	tidOID         = 27
)

// parameters is a list of parameters and their types.
type parameters struct {
	types []uint32
}

func (p *parameters) add(oid uint32) string {
	p.types = append(p.types, oid)
	return fmt.Sprintf("$%d", len(p.types))
}

// insertPlan: a plain INSERT, which fails where a row is in the way.
func (g *target) insertPlan() *plan {
	p := &plan{columns: g.sent}
	var single, multi parameters
	var names, values, arrays, casts []string
	for i, c := range g.sent {
		names = append(names, pg.QuoteIdent(g.Columns[c.local].Name))
		values = append(values, c.bind(&single))
		if a := g.array(c); a != 0 {
			arrays = append(arrays, multi.add(a))
			casts = append(casts, fmt.Sprintf("v.c%d", i))
		}
	}
	if len(names) == 0 {
		p.one = fmt.Sprintf("INSERT INTO %s DEFAULT VALUES", g.name)
		return p
	}
	var constants strings.Builder
	for _, f := range g.behind {
		names = append(names, pg.QuoteIdent(g.Columns[f.local].Name))
		constants.WriteString(", " + f.value)
	}
	into := fmt.Sprintf("INSERT INTO %s AS k (%s) OVERRIDING SYSTEM VALUE ", g.name, strings.Join(names, ", "))
	p.one, p.oneOf = into+"VALUES ("+strings.Join(values, ", ")+constants.String()+")", single.types
	if len(arrays) == len(g.sent) {
		if len(g.behind) == 0 {
			p.copy = fmt.Sprintf("COPY %s (%s) FROM STDIN (FORMAT binary)", g.name, strings.Join(names, ", "))
		}
		p.many = into + fmt.Sprintf("SELECT %s FROM unnest(%s) v (%s)", strings.Join(casts, ", ")+constants.String(),
			strings.Join(arrays, ", "), strings.ReplaceAll(strings.Join(casts, ", "), "v.", ""))
		p.manyOf = multi.types
		if !g.hasKey {
			times, author, lsn := multi.add(timestamptzArrayOID), multi.add(oidOID), multi.add(pgLSNOID)
			p.bundled = fmt.Sprintf("WITH w AS (%s RETURNING %s AS name), n AS (SELECT w.name, row_number() OVER () AS i FROM w) "+keepStamps+
				"%d, array_agg(n.name ORDER BY n.i), %s, %s, %s FROM n", p.many, wholeRow("k"), g.OID, times, author, lsn)
			p.bundledOf = multi.types
		}
	}
	p.part = func(m *parameters, number int, _, _ string) (tables, counted string) {
		values := make([]string, len(g.sent))
		for i, c := range g.sent {
			values[i] = c.bind(m)
		}
		counted = fmt.Sprintf("w%d", number)
		return fmt.Sprintf("%s AS (%sVALUES (%s) RETURNING 1)", counted, into, strings.Join(values, ", ")+constants.String()), counted
	}
	g.lookPlan(p)
	return p
}

// lookPlan makes the statement that fails when a key that was inserted has a
// tombstone which is not older. It runs after the insert, which may have waited
// for the very transaction that deleted the row.
func (g *target) lookPlan(p *plan) {
	if !g.hasKey || g.KeyBytes == nil {
		return
	}
	// Most tables have none at the moment: then there is nothing to look up. Else each key is looked for by itself: the planner
	// knows nothing of how many there are, and a plan for few that compares all with all is worse than none.
	const look = `(NOT EXISTS (SELECT FROM spock.pgdrover_tombstone d WHERE d.relid = %[1]d) OR
		NOT EXISTS (SELECT FROM %[2]s CROSS JOIN LATERAL (SELECT t.commit_time, t.xmin FROM spock.pgdrover_tombstone t
			WHERE t.relid = %[1]d AND t.key = %[3]s OFFSET 0) d WHERE %[4]s) AND
		NOT EXISTS (SELECT FROM spock.pgdrover_tombstone d WHERE d.relid = %[1]d AND d.key IS NULL AND %[4]s))`
	const newer = `coalesce(d.commit_time, (SELECT s."timestamp" FROM pg_xact_commit_timestamp_origin(d.xmin) s), '-infinity') >= %s`
	var single, multi parameters
	var arrays, names []string
	batch := true
	for _, k := range g.key {
		c := g.sent[g.place[k]]
		p.keys = append(p.keys, c)
		names = append(names, pg.QuoteIdent(g.Columns[k].Name))
		if a := g.array(c); a != 0 {
			arrays = append(arrays, multi.add(a))
		} else {
			batch = false
		}
	}
	p.look = func(m *parameters, time string) string {
		values := make([]string, len(g.key))
		for i, k := range g.key {
			values[i] = p.keys[i].bind(m) + "::" + g.Columns[k].TypeName + " AS " + names[i]
		}
		if time == "" {
			time = m.add(timestamptzOID)
		}
		return fmt.Sprintf(look, g.OID, "(SELECT "+strings.Join(values, ", ")+") k", *g.KeyBytes, fmt.Sprintf(newer, time))
	}
	p.lookOne = "SELECT " + holds(p.look(&single, ""))
	p.lookOf = single.types
	if batch {
		p.lookMany = "SELECT " + holds(fmt.Sprintf(look, g.OID, fmt.Sprintf("unnest(%s) k (%s)", strings.Join(arrays, ", "),
			strings.Join(names, ", ")), *g.KeyBytes, fmt.Sprintf(newer, multi.add(timestamptzOID))))
		p.lookManyOf = multi.types
	}
}

// array is the type that carries many values of a column; 0 when there is none.
func (g *target) array(c sent) uint32 {
	if c.typ != g.Columns[c.local].Type || !g.binary {
		return 0
	}
	return g.Columns[c.local].Array
}

// updatePlan writes those columns that the update carries, unless the key is
// missing or the row wins.
func (g *target) updatePlan(v verdict, row pgoutput.Tuple, incomplete bool) *plan {
	p := &plan{}
	var fixed []sent
	for _, c := range g.sent {
		if g.Columns[c.local].Always && !g.isKey(c.local) {
			// The server lets no update write it. That the row is of the same author does
			// not mean that it has what the author has: it may stand upon an older one,
			// when what the author wrote over has yet to come.
			fixed = append(fixed, c)
		}
		if g.isKey(c.local) && g.Columns[c.local].Exact {
			continue // any other key that equals the one that is here may be written in another way
		}
		if row[c.remote].Kind != pgoutput.Unchanged && !g.Columns[c.local].Always {
			p.columns = append(p.columns, c)
		}
	}
	p.time = !incomplete && !v.strict
	if len(p.columns) == 0 {
		return p
	}
	written := len(p.columns)
	for _, k := range g.key {
		p.columns = append(p.columns, g.sent[g.place[k]])
	}
	p.columns = append(p.columns, fixed...)
	var single, multi parameters
	var setMany, arrays, aliases []string
	batch := true
	for i, c := range p.columns[:written] {
		setMany = append(setMany, fmt.Sprintf("%s = v.c%d", pg.QuoteIdent(g.Columns[c.local].Name), i))
	}
	setMany = append(setMany, g.fillList()...)
	one := func(m *parameters, time string) string {
		set := make([]string, written)
		for i, c := range p.columns[:written] {
			set[i] = pg.QuoteIdent(g.Columns[c.local].Name) + " = " + c.bind(m)
		}
		set = append(set, g.fillList()...)
		where := []string{g.keyTest(m)}
		for _, c := range fixed {
			where = append(where, fmt.Sprintf(hasText, pg.QuoteIdent(g.Columns[c.local].Name), c.bind(m)))
		}
		if p.time && time == "" {
			time = m.add(timestamptzOID)
		}
		return fmt.Sprintf("UPDATE ONLY %s AS k SET %s WHERE %s AND %s RETURNING 1", g.name, strings.Join(set, ", "), strings.Join(where, ""),
			v.quick(time, incomplete, g.stepped))
	}
	for i, c := range p.columns {
		aliases = append(aliases, fmt.Sprintf("c%d", i))
		a := g.array(c)
		batch = batch && a != 0
		arrays = append(arrays, multi.add(a))
	}
	p.part = func(m *parameters, number int, time, _ string) (tables, counted string) {
		counted = fmt.Sprintf("w%d", number)
		return counted + " AS (" + one(m, time) + ")", counted
	}
	p.one = "WITH w AS (" + one(&single, "") + ") SELECT " + holds("EXISTS (SELECT FROM w)")
	p.oneOf = single.types
	if batch {
		timeMany := ""
		if p.time {
			timeMany = multi.add(timestamptzOID)
		}
		join := []string{g.keyJoin(written)}
		for i, c := range fixed {
			join = append(join, fmt.Sprintf(hasText, pg.QuoteIdent(g.Columns[c.local].Name), fmt.Sprintf("v.c%d", written+len(g.key)+i)))
		}
		count := multi.add(int8OID)
		many := func(whole bool) string {
			return fmt.Sprintf("WITH w AS (UPDATE ONLY %s AS k SET %s FROM unnest(%s) v (%s) WHERE %s AND %s RETURNING 1)"+
				" SELECT "+holds("count(*) = %s")+" FROM w", g.name, strings.Join(setMany, ", "), strings.Join(arrays, ", "),
				strings.Join(aliases, ", "), strings.Join(join, ""), v.quick(timeMany, incomplete, whole), count)
		}
		p.many, p.bundled, p.manyOf = many(g.stepped), many(true), multi.types
	}
	return p
}

// movePlan writes a whole row over one of another key, and leaves a tombstone of
// that. Rows go one by one: which is first may matter where keys are taken over.
func (g *target) movePlan(v verdict) *plan {
	p := &plan{time: !v.strict, lsn: true, old: len(g.key), columns: slices.Clone(g.sent)}
	for _, k := range g.key {
		p.columns = append(p.columns, g.sent[g.place[k]])
	}
	const form = "w%[1]d AS (UPDATE ONLY %[2]s AS k SET %[3]s WHERE %[4]s AND %[5]s RETURNING 1)," +
		" b%[1]d AS (INSERT INTO spock.pgdrover_tombstone (relid, key, author, author_lsn) SELECT %[6]d, %[7]s, %[8]d, %[9]s FROM w%[1]d, (SELECT %[10]s) k RETURNING 1)"
	p.part = func(m *parameters, number int, time, lsn string) (tables, counted string) {
		var set, where, key []string
		for _, c := range g.sent {
			set = append(set, pg.QuoteIdent(g.Columns[c.local].Name)+" = "+c.bind(m))
		}
		set = append(set, g.fillList()...)
		for i, k := range g.key {
			name, value := pg.QuoteIdent(g.Columns[k].Name), p.columns[len(g.sent)+i].same(m)
			where = append(where, fmt.Sprintf("k.%s %s %s", name, g.Indexes[0].Operators[i], value))
			key = append(key, fmt.Sprintf("%s::%s AS %s", value, g.Columns[k].TypeName, name))
		}
		if p.time && time == "" {
			time = m.add(timestamptzOID)
		}
		if lsn == "" {
			lsn = m.add(pgLSNOID)
		}
		return fmt.Sprintf(form, number, g.name, strings.Join(set, ", "), strings.Join(where, " AND "), v.quick(time, false, g.stepped),
			g.OID, *g.KeyBytes, v.node, lsn, strings.Join(key, ", ")), fmt.Sprintf("b%d", number)
	}
	var single parameters
	tables, counted := p.part(&single, 0, "", "")
	p.one, p.oneOf = "WITH "+tables+" SELECT "+holds("EXISTS (SELECT FROM "+counted+")"), single.types
	g.lookPlan(p)
	return p
}

// fillList are the assignments of what the provider does not have yet.
func (g *target) fillList() []string {
	var list []string
	for _, f := range g.behind {
		list = append(list, pg.QuoteIdent(g.Columns[f.local].Name)+" = "+f.value)
	}
	return list
}

func (g *target) isKey(local int) bool {
	return slices.Contains(g.key, local)
}

// hasText is the test that a row has a value in a column that is never NULL.
const hasText = " AND k.%s OPERATOR(pg_catalog.=) %s"

// keyTest compares a row's key with parameters.
func (g *target) keyTest(p *parameters) string {
	var tests []string
	for i, k := range g.key {
		tests = append(tests, fmt.Sprintf("k.%s %s %s", pg.QuoteIdent(g.Columns[k].Name), g.Indexes[0].Operators[i],
			g.sent[g.place[k]].same(p)))
	}
	return strings.Join(tests, " AND ")
}

// keyJoin compares a row's key with columns of v, from number first on.
func (g *target) keyJoin(first int) string {
	var tests []string
	for i, k := range g.key {
		tests = append(tests, fmt.Sprintf("k.%s %s v.c%d", pg.QuoteIdent(g.Columns[k].Name), g.Indexes[0].Operators[i], first+i))
	}
	return strings.Join(tests, " AND ")
}

// deletePlan deletes and leaves a tombstone.
func (g *target) deletePlan(v verdict) *plan {
	p := &plan{time: !v.strict, lsn: true}
	var single, multi parameters
	batch := true
	var arrays, aliases []string
	for i, k := range g.key {
		c := g.sent[g.place[k]]
		p.columns = append(p.columns, c)
		a := g.array(c)
		batch = batch && a != 0
		arrays = append(arrays, multi.add(a))
		aliases = append(aliases, fmt.Sprintf("c%d", i))
	}
	const form = "w%[1]d AS (DELETE FROM ONLY %[2]s AS k %[3]s WHERE %[4]s AND %[5]s RETURNING %[6]s AS key)," +
		" b%[1]d AS (INSERT INTO spock.pgdrover_tombstone (relid, key, author, author_lsn) SELECT %[7]d, w%[1]d.key, %[8]d, %[9]s FROM w%[1]d RETURNING 1)"
	p.part = func(m *parameters, number int, time, lsn string) (tables, counted string) {
		where := g.keyTest(m)
		if p.time && time == "" {
			time = m.add(timestamptzOID)
		}
		if lsn == "" {
			lsn = m.add(pgLSNOID)
		}
		return fmt.Sprintf(form, number, g.name, "", where, v.quick(time, false, g.stepped), *g.KeyBytes, g.OID, v.node, lsn), fmt.Sprintf("b%d", number)
	}
	tables, counted := p.part(&single, 0, "", "")
	p.one = "WITH " + tables + " SELECT " + holds("EXISTS (SELECT FROM "+counted+")")
	p.oneOf = single.types
	if batch {
		timeMany := ""
		if p.time {
			timeMany = multi.add(timestamptzOID)
		}
		lsn := multi.add(pgLSNOID)
		p.many = fmt.Sprintf("WITH "+form+" SELECT "+holds("count(*) = %[10]s")+" FROM b0", 0, g.name,
			fmt.Sprintf("USING unnest(%s) v (%s)", strings.Join(arrays, ", "), strings.Join(aliases, ", ")),
			g.keyJoin(0), v.quick(timeMany, false, g.stepped), *g.KeyBytes, g.OID, v.node, lsn, multi.add(int8OID))
		p.manyOf = multi.types
	}
	return p
}

// arrayOf makes the binary form of a one-dimensional array.
func arrayOf(buf []byte, element uint32, values []pgoutput.Value) []byte {
	nulls := uint32(0)
	for i := range values {
		if values[i].Kind == pgoutput.Null {
			nulls = 1
		}
	}
	buf = binary.BigEndian.AppendUint32(buf, 1)
	buf = binary.BigEndian.AppendUint32(buf, nulls)
	buf = binary.BigEndian.AppendUint32(buf, element)
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(values))) //nolint:gosec // a run is short
	buf = binary.BigEndian.AppendUint32(buf, 1)
	for i := range values {
		if values[i].Kind == pgoutput.Null {
			buf = binary.BigEndian.AppendUint32(buf, 0xFFFFFFFF)
			continue
		}
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(values[i].Data))) //nolint:gosec // below 1 GB
		buf = append(buf, values[i].Data...)
	}
	return buf
}

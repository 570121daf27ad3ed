package apply

import (
	"fmt"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgoutput"
)

// findComputed looks for the row that holds what a new row's values come to in an
// index over expressions or generated columns. It finds nothing where the change
// does not carry all that goes into them.
func (r *rowChange) findComputed(x index) *search {
	var p parameters
	from, values, ok := r.computedRow(&p, x)
	if !ok {
		return nil
	}
	var parts, tests []string
	for i, part := range x.Parts {
		parts = append(parts, fmt.Sprintf("%s AS pgdrover_%d", part, i))
		test := fmt.Sprintf("%s %s n.pgdrover_%d", part, x.Operators[i], i)
		if x.Equal {
			test = fmt.Sprintf("(%s OR %s IS NULL AND n.pgdrover_%d IS NULL)", test, part, i)
		}
		tests = append(tests, test)
	}
	if x.Predicate != nil {
		parts = append(parts, "("+*x.Predicate+") AS pgdrover_within")
		tests = append(tests, "("+*x.Predicate+")", "n.pgdrover_within")
	}
	more := fmt.Sprintf(", (SELECT %s FROM %s r) AS n", strings.Join(parts, ", "), from)
	return r.g.search(x, more, strings.Join(tests, " AND "), p.types, values)
}

// computedRow is a subquery with those columns of a change's new row that an
// index is computed from, each with its collation.
func (r *rowChange) computedRow(p *parameters, x index) (from string, values []pgoutput.Value, ok bool) {
	g := r.g
	inputs, formulas, ok := g.inputs(&x)
	if !ok {
		return "", nil, false
	}
	var columns []string
	for _, at := range inputs {
		place := g.place[at]
		if place < 0 || r.row[g.sent[place].remote].Kind == pgoutput.Unchanged {
			return "", nil, false
		}
		s, c := g.sent[place], g.Columns[at]
		columns = append(columns, p.add(s.typ)+"::"+c.TypeName+c.Collate+" AS "+pg.QuoteIdent(c.Name))
		values = append(values, g.value(s, r.row[s.remote]))
	}
	list := append([]string{"r.*"}, formulas...)
	return fmt.Sprintf("(SELECT %s FROM (SELECT %s) r)", strings.Join(list, ", "), strings.Join(columns, ", ")), values, true
}

// inputs are the columns that an index is computed from, by their places, and the
// generated ones among them as items of a list. A column counts as one when its
// name is anywhere in the text: one too many does no harm. There are none to tell
// where a whole row goes into it.
func (t *table) inputs(x *index) (columns []int, formulas []string, ok bool) {
	text := strings.Join(x.Parts, " ")
	if x.Predicate != nil {
		text += " " + *x.Predicate
	}
	mentions := func(c column) bool { return strings.Contains(text, strings.ReplaceAll(c.Name, `"`, `""`)) }
	for _, c := range t.Columns {
		if c.Generated && mentions(c) {
			formulas = append(formulas, c.Formula+" AS "+pg.QuoteIdent(c.Name))
		}
	}
	if text += " " + strings.Join(formulas, " "); strings.Contains(text, ".*") {
		return nil, nil, false
	}
	for at, c := range t.Columns {
		if !c.Generated && mentions(c) {
			columns = append(columns, at)
		}
	}
	return columns, formulas, true
}

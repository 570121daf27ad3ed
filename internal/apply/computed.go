package apply

import (
	"fmt"
	"maps"
	"regexp"
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
		columns = append(columns, s.bind(p)+"::"+c.TypeName+c.Collate+" AS "+pg.QuoteIdent(c.Name))
		values = append(values, g.value(s, r.row[s.remote]))
	}
	list := append([]string{"r.*"}, formulas...)
	return fmt.Sprintf("(SELECT %s FROM (SELECT %s) r)", strings.Join(list, ", "), strings.Join(columns, ", ")), values, true
}

// inputs are the columns that an index is computed from, by their places, and the
// generated ones among them as items of a list. A column counts as one when its
// name is a word of the text: one too many does no harm but that more has to be
// known. There are none to tell where a whole row goes into it.
func (t *table) inputs(x *index) (columns []int, formulas []string, ok bool) {
	text := strings.Join(x.Parts, " , ")
	if x.Predicate != nil {
		text += " , " + *x.Predicate
	}
	words, ok := wordsOf(text)
	for _, c := range t.Columns {
		if c.Generated && words[c.Name] {
			formulas = append(formulas, c.Formula+" AS "+pg.QuoteIdent(c.Name))
			more, plain := wordsOf(c.Formula)
			maps.Copy(words, more)
			ok = ok && plain
		}
	}
	if !ok {
		return nil, nil, false
	}
	for at, c := range t.Columns {
		if !c.Generated && words[c.Name] {
			columns = append(columns, at)
		}
	}
	return columns, formulas, true
}

// sqlWord is what an expression that a server has printed consists of: strings,
// names, the types that values are cast to, functions, and the rest.
var sqlWord = regexp.MustCompile(`(?i)e'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|::|\.\*|(?:"(?:[^"]|"")*"|[\pL_][\pL\pN_$]*)\s*\(?`)

// wordsOf are the names in an expression that may be those of columns. Not ok
// means that a whole row is in it.
func wordsOf(text string) (words map[string]bool, ok bool) {
	words = map[string]bool{}
	last := ""
	for _, word := range sqlWord.FindAllString(text, -1) {
		if word == ".*" {
			return nil, false
		}
		name := strings.TrimSpace(word)
		switch {
		case word == "::", last == "::", strings.HasSuffix(word, "("), strings.HasSuffix(word, "'"):
		case name[0] == '"':
			words[strings.ReplaceAll(name[1:len(name)-1], `""`, `"`)] = true
		default:
			words[name] = true
		}
		last = word
	}
	return words, true
}

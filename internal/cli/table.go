package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// column describes one column of a text table.
type column struct {
	title string
	width int  // at least; grows with the cells unless fixed
	left  bool // left-aligned and never padded on the right: for last columns
	fixed bool // keeps its width whatever the cells hold
}

// table is upstream's text table: right-aligned cells, " | " between columns
// and a rule of dashes below the header.
type table struct {
	columns []column
	rows    [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// widths gives every column the room of its widest cell.
func (t *table) widths() []int {
	widths := make([]int, len(t.columns))
	for i, c := range t.columns {
		widths[i] = max(c.width, utf8.RuneCountInString(c.title))
		if c.fixed {
			continue
		}
		for _, row := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	return widths
}

// header renders the titles and the rule.
func (t *table) header(widths []int) string {
	titles := make([]string, len(t.columns))
	rules := make([]string, len(t.columns))
	for i, c := range t.columns {
		titles[i] = pad(c.title, widths[i], c.left)
		rules[i] = strings.Repeat("-", widths[i])
	}
	return strings.Join(titles, " | ") + "\n" + strings.Join(rules, "-+-") + "\n"
}

// line renders one row.
func (t *table) line(widths []int, cells []string) string {
	out := make([]string, len(cells))
	for i, cell := range cells {
		out[i] = pad(cell, widths[i], t.columns[i].left)
	}
	return strings.Join(out, " | ") + "\n"
}

// write prints the table and the empty line that ends it.
func (t *table) write(w io.Writer) error {
	widths := t.widths()
	var b strings.Builder
	b.WriteString(t.header(widths))
	for _, row := range t.rows {
		b.WriteString(t.line(widths, row))
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

func pad(s string, width int, left bool) string {
	if left {
		return s
	}
	if n := width - utf8.RuneCountInString(s); n > 0 {
		return strings.Repeat(" ", n) + s
	}
	return s
}

// labelled renders "label: value" lines with the labels padded to width.
func labelled(w io.Writer, width int, pairs ...[2]string) error {
	for _, p := range pairs {
		if _, err := fmt.Fprintf(w, "%-*s%s\n", width, p[0], p[1]); err != nil {
			return err
		}
	}
	return nil
}

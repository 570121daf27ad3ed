package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
)

// printRows prints rows as psql does: header, rule, rows, their number.
func printRows(w io.Writer, answer orchestrator.Result) error {
	widths := make([]int, len(answer.Columns))
	for i, c := range answer.Columns {
		widths[i] = utf8.RuneCountInString(c.Name)
		for _, row := range answer.Rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell(row[i])))
		}
	}
	var b strings.Builder
	line := func(cells func(i int) string, separator, fill string) {
		var line strings.Builder
		for i, width := range widths {
			if i > 0 {
				line.WriteString(separator)
			}
			text := cells(i)
			line.WriteString(fill + text + strings.Repeat(orDefault(fill, " "), max(0, width-utf8.RuneCountInString(text))) + fill)
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	line(func(i int) string { return answer.Columns[i].Name }, "|", " ")
	line(func(int) string { return "" }, "+", "-")
	for _, row := range answer.Rows {
		line(func(i int) string { return cell(row[i]) }, "|", " ")
	}
	plural := "s"
	if len(answer.Rows) == 1 {
		plural = ""
	}
	fmt.Fprintf(&b, "(%d row%s)\n", len(answer.Rows), plural)
	_, err := io.WriteString(w, b.String())
	return err
}

// cell is a value on one line.
func cell(value *string) string {
	if value == nil {
		return ""
	}
	return strings.NewReplacer("\n", " ", "\r", "", "\t", " ").Replace(*value)
}

// printJSON prints rows as an array of objects, whose keys are the columns.
func (s *spockctrl) printJSON(answer orchestrator.Result) error {
	rows := array{}
	for _, row := range answer.Rows {
		var o object
		for i, c := range answer.Columns {
			o = append(o, field{c.Name, jsonValue(c, row[i])})
		}
		rows = append(rows, o)
	}
	return printJSON(s.env.Stdout, rows, jsonStyle{})
}

// jsonValue gives a value the JSON type of its column.
func jsonValue(c orchestrator.Column, value *string) any {
	if value == nil {
		return nil
	}
	switch c.Type {
	case pgtype.BoolOID:
		return *value == "t"
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID:
		if n, err := strconv.ParseInt(*value, 10, 64); err == nil {
			return n
		}
	case pgtype.Float4OID, pgtype.Float8OID:
		// JSON has no number for the others.
		if f, err := strconv.ParseFloat(*value, 64); err == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f
		}
	case pgtype.TextArrayOID, pgtype.NameArrayOID:
		var items []string
		if pgtype.NewMap().Scan(c.Type, pgtype.TextFormatCode, []byte(*value), &items) == nil {
			list := array{}
			for _, item := range items {
				list = append(list, item)
			}
			return list
		}
	case pgtype.JSONOID, pgtype.JSONBOID:
		d := json.NewDecoder(bytes.NewReader([]byte(*value)))
		d.UseNumber()
		var v any
		if d.Decode(&v) == nil {
			return jsonTree(v)
		}
	}
	return *value
}

// jsonTree turns a decoded JSON value into ours.
func jsonTree(v any) any {
	switch v := v.(type) {
	case map[string]any:
		var o object
		for _, key := range sortedKeys(v) {
			o = append(o, field{key, jsonTree(v[key])})
		}
		return o
	case []any:
		list := array{}
		for _, item := range v {
			list = append(list, jsonTree(item))
		}
		return list
	case json.Number:
		return v // a jsonb number has as many digits as it likes
	}
	return v
}

package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// field is one member of an object, in the order it is printed.
type field struct {
	key   string
	value any
}

// object is a JSON object with an order; array a JSON array.
type (
	object []field
	array  []any
)

// jsonStyle tells the two producers of JSON apart that pg_autoctl has.
type jsonStyle struct {
	// escapeSlash writes "\/": objects built by the client.
	escapeSlash bool
	// bySize orders the keys by length, then by bytes: jsonb as the monitor prints it.
	bySize bool
}

// writeJSON prints a client-side answer: insertion order, indent of four.
func writeJSON(w io.Writer, v any) error {
	return printJSON(w, v, jsonStyle{escapeSlash: true})
}

// writeJSONB prints an answer the way jsonb_pretty() does.
func writeJSONB(w io.Writer, v any) error {
	return printJSON(w, v, jsonStyle{bySize: true})
}

func printJSON(w io.Writer, v any, style jsonStyle) error {
	var b strings.Builder
	if err := encodeJSON(&b, v, style, 0); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

func encodeJSON(b *strings.Builder, v any, style jsonStyle, depth int) error {
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case int:
		b.WriteString(strconv.Itoa(v))
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case uint64:
		b.WriteString(strconv.FormatUint(v, 10))
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("encode %v as JSON", v)
		}
		b.WriteString(strconv.FormatFloat(v, 'g', 17, 64))
	case json.Number:
		b.WriteString(v.String())
	case string:
		quoteJSON(b, v, style)
	case object:
		return encodeObject(b, v, style, depth)
	case array:
		return encodeArray(b, v, style, depth)
	case fmt.Stringer:
		quoteJSON(b, v.String(), style)
	default:
		return fmt.Errorf("encode %T as JSON", v)
	}
	return nil
}

func encodeObject(b *strings.Builder, o object, style jsonStyle, depth int) error {
	if style.bySize {
		o = slices.Clone(o)
		slices.SortStableFunc(o, func(x, y field) int {
			return cmp.Or(cmp.Compare(len(x.key), len(y.key)), cmp.Compare(x.key, y.key))
		})
	}
	if len(o) == 0 {
		b.WriteString("{}")
		return nil
	}
	b.WriteString("{\n")
	for i, f := range o {
		if i > 0 {
			b.WriteString(",\n")
		}
		indent(b, depth+1)
		quoteJSON(b, f.key, style)
		b.WriteString(": ")
		if err := encodeJSON(b, f.value, style, depth+1); err != nil {
			return err
		}
	}
	b.WriteByte('\n')
	indent(b, depth)
	b.WriteByte('}')
	return nil
}

func encodeArray(b *strings.Builder, a array, style jsonStyle, depth int) error {
	if len(a) == 0 {
		b.WriteString("[]")
		return nil
	}
	b.WriteString("[\n")
	for i, v := range a {
		if i > 0 {
			b.WriteString(",\n")
		}
		indent(b, depth+1)
		if err := encodeJSON(b, v, style, depth+1); err != nil {
			return err
		}
	}
	b.WriteByte('\n')
	indent(b, depth)
	b.WriteByte(']')
	return nil
}

func indent(b *strings.Builder, depth int) { b.WriteString(strings.Repeat("    ", depth)) }

func quoteJSON(b *strings.Builder, s string, style jsonStyle) {
	b.WriteByte('"')
	for i, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '/' && style.escapeSlash:
			b.WriteString(`\/`)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20:
			fmt.Fprintf(b, `\u%04x`, r)
		case r == utf8.RuneError:
			// Bytes that are no UTF-8 cannot travel in JSON.
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				b.WriteString(`\ufffd`)
				continue
			}
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}

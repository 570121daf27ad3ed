package workflow

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Kind is what a parameter's value has to be.
type Kind int

// The kinds of values. Those but Text may be written as SQL expressions in the
// forms that published files use.
const (
	Text Kind = iota
	Bool
	List     // of texts
	Interval // as the server reads it, or a number of seconds
	Object   // a JSON object
	Position64
	Word // never reaches the server
)

// sqlType is the type of the server that a value is handed over as.
func (k Kind) sqlType() string {
	switch k {
	case Bool:
		return "boolean"
	case List:
		return "text[]"
	case Interval:
		return "interval"
	case Object:
		return "jsonb"
	case Position64:
		return "pg_lsn"
	default:
		return "text"
	}
}

// Value is what a parameter is given: a text for the server to read as the
// parameter's type, or an SQL expression.
type Value struct {
	Text string
	// Raw says that Text is an SQL expression for the server to evaluate.
	Raw bool
}

// errRaw says that a value can only be an SQL expression.
type errRaw struct{ want, text string }

func (e errRaw) Error() string { return fmt.Sprintf("%q is not %s", e.text, e.want) }

// parse reads a value in one of the forms of its kind.
func (k Kind) parse(text string) (string, error) {
	switch k {
	case Bool:
		b, ok := ParseBool(text)
		if !ok {
			return "", errRaw{"a boolean", text}
		}
		return strconv.FormatBool(b), nil
	case List:
		items, ok := ParseList(text)
		if !ok {
			return "", errRaw{"a list", text}
		}
		return ListLiteral(items), nil
	case Interval:
		s, ok := parseInterval(text)
		if !ok {
			return "", errRaw{"an interval", text}
		}
		return s, nil
	case Object:
		var object map[string]any
		if err := json.Unmarshal([]byte(text), &object); err != nil {
			return "", fmt.Errorf("%q is not a JSON object: %w", text, err)
		}
	case Text, Word, Position64:
	}
	return text, nil
}

// ParseBool reads a boolean as the server spells it, quoted or not.
func ParseBool(text string) (value, ok bool) {
	text = strings.TrimSpace(text)
	if s, rest, ok := cutLiteral(text); ok && isCast(rest, "boolean", "bool") {
		text = s
	}
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "true", "t", "yes", "y", "on", "1":
		return true, true
	case "false", "f", "no", "n", "off", "0":
		return false, true
	}
	return false, false
}

// ParseList reads a list of texts: ARRAY['a', 'b'], '{a,b}', {a,b} or a,b, each
// with or without a cast to text[]. "none" is the empty list.
func ParseList(text string) (items []string, ok bool) {
	text = strings.TrimSpace(text)
	if s, rest, ok := cutLiteral(text); ok {
		if !isCast(rest, "text[]", "name[]") {
			return nil, false
		}
		text = strings.TrimSpace(s)
	} else if rest, ok := cutWord(text, "ARRAY"); ok {
		return parseArray(rest)
	}
	if text == "" || strings.EqualFold(text, "none") {
		return nil, true
	}
	if strings.HasPrefix(text, "{") {
		body, rest, ok := strings.Cut(text[1:], "}")
		if !ok || strings.TrimSpace(rest) != "" {
			return nil, false
		}
		text = body
		if strings.TrimSpace(text) == "" {
			return nil, true
		}
	}
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		if len(item) >= 2 && item[0] == '"' && item[len(item)-1] == '"' {
			item = item[1 : len(item)-1]
		}
		if item == "" || strings.ContainsAny(item, `'"\(){}[]:`) {
			return nil, false
		}
		items = append(items, item)
	}
	return items, true
}

// parseArray reads ['a', 'b'] and the cast that may follow.
func parseArray(text string) (items []string, ok bool) {
	text = strings.TrimSpace(text)
	if !strings.HasPrefix(text, "[") {
		return nil, false
	}
	text = strings.TrimSpace(text[1:])
	for !strings.HasPrefix(text, "]") {
		item, rest, ok := cutLiteral(text)
		if !ok {
			return nil, false
		}
		items = append(items, item)
		text = strings.TrimSpace(rest)
		if after, more := strings.CutPrefix(text, ","); more {
			text = strings.TrimSpace(after)
			if strings.HasPrefix(text, "]") {
				return nil, false
			}
		} else if !strings.HasPrefix(text, "]") {
			return nil, false
		}
	}
	return items, isCast(text[1:], "text[]", "name[]")
}

// parseInterval reads '5 seconds'::interval, the bare text, or seconds.
func parseInterval(text string) (string, bool) {
	text = strings.TrimSpace(text)
	if rest, ok := cutWord(text, "INTERVAL"); ok {
		text = strings.TrimSpace(rest)
	}
	if s, rest, ok := cutLiteral(text); ok {
		if !isCast(rest, "interval") {
			return "", false
		}
		text = strings.TrimSpace(s)
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return text + " seconds", true
	}
	for _, r := range text {
		if !strings.ContainsRune("-+:. ", r) && !isWordRune(r) {
			return "", false
		}
	}
	return text, strings.ContainsAny(text, "0123456789")
}

// isWordRune reports whether r may stand in the name of a variable.
func isWordRune(r rune) bool {
	return r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
}

// cutLiteral cuts a string constant off the front of an SQL text.
func cutLiteral(text string) (literal, rest string, ok bool) {
	if !strings.HasPrefix(text, "'") {
		return "", text, false
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		if text[i] != '\'' {
			b.WriteByte(text[i])
			continue
		}
		if i+1 < len(text) && text[i+1] == '\'' {
			b.WriteByte('\'')
			i++
			continue
		}
		return b.String(), text[i+1:], true
	}
	return "", text, false
}

// cutWord cuts a key word off the front.
func cutWord(text, word string) (string, bool) {
	if len(text) < len(word) || !strings.EqualFold(text[:len(word)], word) {
		return text, false
	}
	rest := text[len(word):]
	return rest, rest == "" || strings.ContainsAny(rest[:1], " \t\n[('")
}

// isCast reports whether text is empty or a cast to one of the types.
func isCast(text string, types ...string) bool {
	text = strings.TrimSpace(text)
	if text == "" {
		return true
	}
	name, ok := strings.CutPrefix(text, "::")
	if !ok {
		return false
	}
	name = strings.TrimPrefix(strings.ToLower(strings.ReplaceAll(strings.TrimSpace(name), " ", "")), "pg_catalog.")
	return slices.Contains(types, name)
}

// ListLiteral writes a list as the server reads an array of texts.
func ListLiteral(items []string) string {
	quoted := make([]string, len(items))
	for i, item := range items {
		quoted[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(item) + `"`
	}
	return "{" + strings.Join(quoted, ",") + "}"
}

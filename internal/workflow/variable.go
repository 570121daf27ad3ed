package workflow

import (
	"fmt"
	"strings"
)

// Reference is "$node.key" in a text.
type Reference struct {
	Node, Key  string
	Start, End int // in bytes
}

// String returns the reference as written.
func (r Reference) String() string { return "$" + r.Node + "." + r.Key }

// Variables are what the steps on a node have left behind: values by node and key.
type Variables map[string]map[string]*string

// Set stores a value; nil is NULL.
func (v Variables) Set(node, key string, value *string) {
	if v[node] == nil {
		v[node] = map[string]*string{}
	}
	v[node][key] = value
}

// Get returns a value, and whether it was ever set.
func (v Variables) Get(node, key string) (*string, bool) {
	value, ok := v[node][key]
	return value, ok
}

// References finds the variables of a text: $node.key, and ${node}.key for names
// with other characters than letters, digits and underscores. Only names of
// nodes begin one, so that parameters and the quotes of PL/pgSQL stay what they are.
func References(text string, isNode func(string) bool) []Reference {
	var found []Reference
	for i := 0; i < len(text); i++ {
		if text[i] != '$' {
			continue
		}
		node := word(text[i+1:])
		rest := text[i+1+len(node):]
		if strings.HasPrefix(rest, "{") && node == "" {
			node, rest = braced(rest, isNode)
		}
		if node == "" || !strings.HasPrefix(rest, ".") || !isNode(node) {
			continue
		}
		key := word(rest[1:])
		if key == "" {
			continue
		}
		r := Reference{Node: node, Key: key, Start: i, End: len(text) - len(rest) + 1 + len(key)}
		found = append(found, r)
		i = r.End - 1
	}
	return found
}

// braced is the name of a node that stands in the braces with which text
// begins, and what follows them. The name may hold braces itself.
func braced(text string, isNode func(string) bool) (node, rest string) {
	for end := range len(text) {
		if text[end] == '}' && strings.HasPrefix(text[end+1:], ".") && isNode(text[1:end]) {
			return text[1:end], text[end+1:]
		}
	}
	return "", text
}

// word is the part of text that can be a name in a reference.
func word(text string) string {
	for i, r := range text {
		if !isWordRune(r) {
			return text[:i]
		}
	}
	return text
}

// UnsetError says that a statement needs a variable that no step has set.
type UnsetError struct{ Reference Reference }

func (e *UnsetError) Error() string { return fmt.Sprintf("variable %s is not set", e.Reference) }

// Hint says where variables come from.
func (e *UnsetError) Hint() string {
	return "a variable holds a column of the last result on its node; an earlier step has to run there"
}

// SubstituteSQL puts the values of variables into SQL text, which sessions with
// standard_conforming_strings run. Outside of quotes a
// value becomes a quoted constant and NULL stays NULL; inside of them it is
// inserted as it is, so that both '$n.x' and $n.x mean the same. Nothing is
// substituted in comments.
func SubstituteSQL(sql string, isNode func(string) bool, vars Variables) (string, error) {
	var b strings.Builder
	for _, part := range splitSQL(plain(sql, isNode)) {
		text := sql[part.start:part.end]
		if part.state == inComment {
			b.WriteString(text)
			continue
		}
		last := 0
		for _, r := range References(text, isNode) {
			value, ok := vars.Get(r.Node, r.Key)
			if !ok {
				return "", &UnsetError{Reference: r}
			}
			inserted, err := part.insert(text, r, value)
			if err != nil {
				return "", err
			}
			b.WriteString(text[last:r.Start] + inserted)
			last = r.End
		}
		b.WriteString(text[last:])
	}
	return b.String(), nil
}

// plain is SQL text of the same length in which no reference holds a quote or
// what begins a comment: names of nodes may, and end nothing that way.
func plain(sql string, isNode func(string) bool) string {
	text := []byte(sql)
	for _, r := range References(sql, isNode) {
		for i := r.Start + 1; i < r.End; i++ {
			if strings.IndexByte(`'"-/*\$`, text[i]) >= 0 {
				text[i] = '_'
			}
		}
	}
	return string(text)
}

// SubstituteText puts the values of variables into the value of an option.
func SubstituteText(text string, isNode func(string) bool, vars Variables) (string, error) {
	var b strings.Builder
	last := 0
	for _, r := range References(text, isNode) {
		value, ok := vars.Get(r.Node, r.Key)
		if !ok {
			return "", &UnsetError{Reference: r}
		}
		if value == nil {
			return "", fmt.Errorf("variable %s is NULL", r)
		}
		b.WriteString(text[last:r.Start] + *value)
		last = r.End
	}
	return b.String() + text[last:], nil
}

// insert words a value for the place where its reference stands.
func (p sqlPart) insert(text string, r Reference, value *string) (string, error) {
	if p.state == inSQL {
		if value == nil {
			return "NULL", nil
		}
		return "'" + strings.ReplaceAll(*value, "'", "''") + "'", nil
	}
	if value == nil {
		return "", fmt.Errorf("variable %s is NULL, and it stands in quotes", r)
	}
	switch p.state {
	case inLiteral:
		return strings.ReplaceAll(*value, "'", "''"), nil
	case inEscape:
		return strings.NewReplacer(`\`, `\\`, "'", "''").Replace(*value), nil
	case inIdentifier:
		return strings.ReplaceAll(*value, `"`, `""`), nil
	default:
		tag := text[:strings.IndexByte(text[1:], '$')+2]
		if strings.Contains(*value, tag) {
			return "", fmt.Errorf("the value of variable %s holds the quote %s that it stands in", r, tag)
		}
		return *value, nil
	}
}

type sqlState int

const (
	inSQL        sqlState = iota
	inLiteral             // '…'
	inEscape              // E'…'
	inIdentifier          // "…"
	inDollar              // $tag$…$tag$
	inComment
)

// sqlPart is a stretch of SQL text in one state, with its quotes.
type sqlPart struct {
	state      sqlState
	start, end int
}

// splitSQL cuts SQL text at its quotes and comments. What is never closed lasts
// to the end.
func splitSQL(sql string) []sqlPart {
	var parts []sqlPart
	start := 0
	for i := 0; i < len(sql); {
		state, length := quoted(sql, i)
		if state == inSQL {
			i += length
			continue
		}
		if i > start {
			parts = append(parts, sqlPart{inSQL, start, i})
		}
		parts = append(parts, sqlPart{state, i, i + length})
		i += length
		start = i
	}
	if start < len(sql) {
		parts = append(parts, sqlPart{inSQL, start, len(sql)})
	}
	return parts
}

// quoted tells what begins at i, and how long it is.
func quoted(sql string, i int) (sqlState, int) {
	rest := sql[i:]
	switch {
	case rest[0] == '\'':
		return inLiteral, closing(rest, 1, '\'', false)
	case (rest[0] == 'E' || rest[0] == 'e') && len(rest) > 1 && rest[1] == '\'' && !afterWord(sql, i):
		return inEscape, closing(rest, 2, '\'', true)
	case rest[0] == '"':
		return inIdentifier, closing(rest, 1, '"', false)
	case strings.HasPrefix(rest, "--"):
		if end := strings.IndexByte(rest, '\n'); end >= 0 {
			return inComment, end
		}
		return inComment, len(rest)
	case strings.HasPrefix(rest, "/*"):
		return inComment, commentLength(rest)
	case rest[0] == '$' && !afterWord(sql, i):
		tag := word(rest[1:])
		if !strings.HasPrefix(rest[1+len(tag):], "$") || tag != "" && tag[0] >= '0' && tag[0] <= '9' {
			return inSQL, 1
		}
		open := rest[:len(tag)+2]
		if end := strings.Index(rest[len(open):], open); end >= 0 {
			return inDollar, end + 2*len(open)
		}
		return inDollar, len(rest)
	}
	return inSQL, 1
}

// afterWord reports whether the byte before i belongs to a name.
func afterWord(sql string, i int) bool {
	return i > 0 && (isWordRune(rune(sql[i-1])) || sql[i-1] >= 0x80)
}

// closing is the length of a quoted text; a doubled quote does not end it.
func closing(rest string, from int, quote byte, escapes bool) int {
	for i := from; i < len(rest); i++ {
		switch {
		case escapes && rest[i] == '\\':
			i++
		case rest[i] != quote:
		case i+1 < len(rest) && rest[i+1] == quote:
			i++
		default:
			return i + 1
		}
	}
	return len(rest)
}

// commentLength is the length of a comment, which may hold others.
func commentLength(rest string) int {
	depth := 0
	for i := 0; i+1 < len(rest); i++ {
		switch rest[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			depth--
			i++
		}
		if depth == 0 {
			return i + 1
		}
	}
	return len(rest)
}

package pg

import (
	"fmt"
	"strings"
)

// Setting is one line of a postgresql.conf-like file; Value is plain, not quoted.
type Setting struct{ Name, Value string }

// Settings are the lines of a file in order; of two lines for one name the later wins.
type Settings []Setting

// Get returns the value in force for a name; names are case-insensitive.
func (s Settings) Get(name string) (value string, ok bool) {
	for _, one := range s {
		if strings.EqualFold(one.Name, name) {
			value, ok = one.Value, true
		}
	}
	return value, ok
}

// Render writes one line for each setting. Words and numbers stay bare, all
// else is quoted.
func (s Settings) Render() string {
	var b strings.Builder
	for _, one := range s {
		value := one.Value
		if !bareConf(value) {
			value = QuoteConf(value)
		}
		fmt.Fprintf(&b, "%s = %s\n", one.Name, value)
	}
	return b.String()
}

func bareConf(v string) bool {
	for i := range len(v) {
		c := v[i]
		word := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !word && (c < '0' || c > '9') {
			return false
		}
		if word && v[0] >= '0' && v[0] <= '9' {
			return false
		}
	}
	return v != ""
}

// ParseSettings reads a postgresql.conf-like image. Include directives come
// back under their own names (include, include_if_exists, include_dir).
// A name outside the file's grammar is an error with its line number.
func ParseSettings(image string) (Settings, error) {
	var settings Settings
	n := 0
	for line := range strings.Lines(image) {
		n++
		line = strings.TrimLeft(strings.TrimRight(line, "\r\n"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		end := 0
		for end < len(line) && confNameByte(line[end]) {
			end++
		}
		name := line[:end]
		rest := strings.TrimLeft(line[end:], " \t")
		rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
		value, tail, ok := cutConfValue(rest)
		tail = strings.TrimLeft(tail, " \t")
		if name == "" || !ok || tail != "" && tail[0] != '#' {
			return nil, fmt.Errorf("parse settings, line %d: %w", n, ErrSyntax)
		}
		settings = append(settings, Setting{Name: name, Value: value})
	}
	return settings, nil
}

func confNameByte(c byte) bool {
	return c == '_' || c == '.' || c == '$' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80
}

func cutConfValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, "'") {
		end := strings.IndexAny(s, " \t#'")
		if end < 0 {
			end = len(s)
		}
		return s[:end], s[end:], end > 0
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\'' && i+1 < len(s) && s[i+1] == '\'':
			b.WriteByte(c)
			i++
		case c == '\'':
			return b.String(), s[i+1:], true
		case c == '\\' && i+1 < len(s):
			n := unescapeConf(&b, s[i+1:])
			i += n
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

// unescapeConf writes what follows a backslash and returns how much it read.
func unescapeConf(b *strings.Builder, s string) int {
	switch s[0] {
	case 'n':
		b.WriteByte('\n')
	case 'r':
		b.WriteByte('\r')
	case 't':
		b.WriteByte('\t')
	case 'b':
		b.WriteByte('\b')
	case 'f':
		b.WriteByte('\f')
	case '0', '1', '2', '3', '4', '5', '6', '7':
		n, v := 0, 0
		for n < len(s) && n < 3 && s[n] >= '0' && s[n] <= '7' {
			v = v<<3 | int(s[n]-'0')
			n++
		}
		b.WriteByte(byte(v))
		return n
	default:
		b.WriteByte(s[0])
	}
	return 1
}

// IncludeLine is the line that makes postgresql.conf read a file of ours.
func IncludeLine(file string) string {
	return "include " + QuoteConf(file) + " " + Marker + ", do not remove"
}

// EnsureInclude returns a postgresql.conf image whose first line includes
// file, so that the operator's own settings below it win. Nothing changes
// when some line includes it already.
func EnsureInclude(image, file string) (string, bool) {
	want := "include " + QuoteConf(file)
	for line := range strings.Lines(image) {
		if strings.HasPrefix(line, want) {
			return image, false
		}
	}
	return IncludeLine(file) + "\n" + image, true
}

package pg

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// StandbyNames is a value of synchronous_standby_names: any K of Members must
// have flushed a commit. The zero value is the empty setting.
type StandbyNames struct {
	K       int
	Members []string
}

// Empty reports whether nobody is waited for.
func (n StandbyNames) Empty() bool { return len(n.Members) == 0 }

// Equal reports whether both name the same standbys in the same order.
func (n StandbyNames) Equal(other StandbyNames) bool {
	if n.Empty() && other.Empty() {
		return true
	}
	return n.K == other.K && slices.Equal(n.Members, other.Members)
}

// String renders the setting: "" or "ANY k (a, b)".
func (n StandbyNames) String() string {
	if n.Empty() {
		return ""
	}
	quoted := make([]string, len(n.Members))
	for i, m := range n.Members {
		quoted[i] = m
		if m != "*" && !plainName(m) {
			quoted[i] = QuoteIdent(m)
		}
	}
	return fmt.Sprintf("ANY %d (%s)", n.K, strings.Join(quoted, ", "))
}

// plainName reports whether the setting's scanner reads s as one unquoted name.
func plainName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c != '$' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != "" && !strings.EqualFold(s, "any") && !strings.EqualFold(s, "first")
}

// ParseStandbyNames reads a setting that String could have written, in any
// spacing and letter case, and the "*" of nodes without a monitor. Priority lists
// are an error: no part of pgdrover writes them.
func ParseStandbyNames(s string) (StandbyNames, error) {
	p := namesParser{rest: s}
	p.space()
	if p.rest == "" {
		return StandbyNames{}, nil
	}
	if strings.TrimSpace(s) == "*" {
		return StandbyNames{K: 1, Members: []string{"*"}}, nil
	}
	names, ok := p.parse()
	if !ok {
		return StandbyNames{}, fmt.Errorf("parse synchronous_standby_names %q: %w", s, ErrSyntax)
	}
	return names, nil
}

type namesParser struct{ rest string }

func (p *namesParser) space() { p.rest = strings.TrimLeft(p.rest, " \t\n\r\f\v") }

func (p *namesParser) symbol(c byte) bool {
	p.space()
	if p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func (p *namesParser) parse() (StandbyNames, bool) {
	if len(p.rest) < 4 || !strings.EqualFold(p.rest[:3], "any") {
		return StandbyNames{}, false
	}
	p.rest = p.rest[3:]
	before := len(p.rest)
	p.space()
	digits := p.rest[:len(p.rest)-len(strings.TrimLeft(p.rest, "0123456789"))]
	k, err := strconv.Atoi(digits)
	if err != nil || k < 1 || len(p.rest) == before {
		return StandbyNames{}, false
	}
	p.rest = p.rest[len(digits):]
	if !p.symbol('(') {
		return StandbyNames{}, false
	}
	names := StandbyNames{K: k}
	for {
		name, ok := p.name()
		if !ok {
			return StandbyNames{}, false
		}
		names.Members = append(names.Members, name)
		if p.symbol(',') {
			continue
		}
		closed := p.symbol(')')
		p.space()
		return names, closed && p.rest == ""
	}
}

func (p *namesParser) name() (string, bool) {
	p.space()
	if strings.HasPrefix(p.rest, `"`) {
		name, rest, ok := cutQuoted(p.rest[1:], '"')
		p.rest = rest
		return name, ok && name != ""
	}
	if strings.HasPrefix(p.rest, "*") {
		p.rest = p.rest[1:]
		return "*", true
	}
	end := 0
	for end < len(p.rest) && !strings.ContainsRune(" \t\n\r\f\v,()\"*", rune(p.rest[end])) {
		end++
	}
	name := p.rest[:end]
	p.rest = p.rest[end:]
	return name, plainName(name)
}

// cutQuoted reads up to the closing quote; a doubled quote stands for one.
func cutQuoted(s string, quote byte) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != quote {
			b.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == quote {
			b.WriteByte(quote)
			i++
			continue
		}
		return b.String(), s[i+1:], true
	}
	return "", "", false
}

package workflow

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Position is a place in a file, counted from one; the column counts characters.
type Position struct{ Line, Column int }

// String returns "line 3, column 7".
func (p Position) String() string { return fmt.Sprintf("line %d, column %d", p.Line, p.Column) }

// Error is one complaint about a file.
type Error struct {
	At      Position
	Message string
	hint    string
}

// Error returns the place and the complaint.
func (e *Error) Error() string { return e.At.String() + ": " + e.Message }

// Hint says what to do about it; it may be empty.
func (e *Error) Hint() string { return e.hint }

// Errors are all complaints about a file, in the order of the file.
type Errors []*Error

// Error returns one line for each complaint.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Hint is that of the first complaint which has one.
func (e Errors) Hint() string {
	for _, one := range e {
		if one.hint != "" {
			return one.hint
		}
	}
	return ""
}

// orNil keeps an empty list from being an error.
func (e Errors) orNil() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

// source is the text of a file; it knows where an offset is.
type source struct{ text []byte }

func (s source) at(offset int) Position {
	offset = max(0, min(offset, len(s.text)))
	before := string(s.text[:offset])
	line := strings.Count(before, "\n")
	start := strings.LastIndexByte(before, '\n') + 1
	return Position{Line: line + 1, Column: utf8.RuneCountInString(before[start:]) + 1}
}

// complaints gathers what is wrong with a file.
type complaints struct {
	source
	errors   Errors
	warnings []string
}

func (c *complaints) errorf(v value, format string, args ...any) {
	c.errors = append(c.errors, &Error{At: c.at(v.at), Message: fmt.Sprintf(format, args...)})
}

func (c *complaints) hintf(hint string, v value, format string, args ...any) {
	c.errorf(v, format, args...)
	c.errors[len(c.errors)-1].hint = hint
}

func (c *complaints) warnf(v value, format string, args ...any) {
	c.warnings = append(c.warnings, c.at(v.at).String()+": "+fmt.Sprintf(format, args...))
}

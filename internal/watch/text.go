package watch

import (
	"strings"
	"unicode"

	"charm.land/lipgloss/v2"
)

// width is how many columns a text takes on the screen.
func width(s string) int { return lipgloss.Width(s) }

// plain makes a text of somebody else's safe to show: what a terminal would act on is gone.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}

// cut shortens a text to w columns, and shows that it did.
func cut(s string, w int) string {
	if width(s) <= w {
		return s
	}
	if w <= 0 {
		return ""
	}
	var b strings.Builder
	used := 0
	for _, r := range s {
		if used+width(string(r)) > w-1 {
			break
		}
		used += width(string(r))
		b.WriteRune(r)
	}
	return b.String() + "…"
}

// skip drops the first w columns of a text.
func skip(s string, w int) string {
	for i, r := range s {
		if w <= 0 {
			return s[i:]
		}
		w -= width(string(r))
	}
	return ""
}

// pad fills a text with blanks up to w columns.
func pad(s string, w int, right bool) string {
	fill := strings.Repeat(" ", max(0, w-width(s)))
	if right {
		return fill + s
	}
	return s + fill
}

// fold breaks a text at blanks into at most limit lines of w columns.
func fold(s string, w, limit int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(s) {
		switch {
		case line == "":
			line = word
		case width(line)+1+width(word) <= w:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	if limit < 1 {
		return nil
	}
	if len(lines) > limit {
		lines[limit-1] = cut(strings.Join(lines[limit-1:], " "), w)
		lines = lines[:limit]
	}
	for i := range lines {
		lines[i] = cut(lines[i], w)
	}
	return lines
}

// uncolour removes the colours that this package put into a line.
func uncolour(s string) string {
	var b strings.Builder
	for {
		text, rest, found := strings.Cut(s, "\x1b[")
		b.WriteString(text)
		if !found {
			return b.String()
		}
		_, s, _ = strings.Cut(rest, "m")
	}
}

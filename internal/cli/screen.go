package cli

import (
	"os"

	"golang.org/x/term"
)

// plain reports whether the operator, or the terminal, wants text only.
func (e *Env) plain() bool { return e.getenv("NO_COLOR") != "" || e.getenv("TERM") == "dumb" }

// colours reports whether messages may be coloured.
func (e *Env) colours() bool { return e.Terminal && !e.plain() }

// draws reports whether what is on the screen may be drawn over.
func (e *Env) draws() bool { return e.OutTerminal && !e.plain() }

// screen is the size of standard output. A line that wraps cannot be drawn over,
// nor can one that has left the screen at the top.
func (e *Env) screen() (columns, lines int) {
	if file, ok := e.Stdout.(*os.File); ok {
		if columns, lines, err := term.GetSize(int(file.Fd())); err == nil && columns > 0 && lines > 0 {
			return columns, lines
		}
	}
	return e.columns(), maxLines
}

// maxLines is the height of a screen of which nobody knows it.
const maxLines = 1000

// cut shortens a line to so many columns.
func cut(line string, columns int) string {
	runes := []rune(line)
	if len(runes) <= columns {
		return line
	}
	return string(runes[:max(columns-1, 0)]) + "…"
}

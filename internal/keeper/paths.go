package keeper

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Dirs are the base directories of a user's files, defaults already applied.
type Dirs struct {
	ConfigHome string // $XDG_CONFIG_HOME or ~/.config
	DataHome   string // $XDG_DATA_HOME or ~/.local/share
	RuntimeDir string // $XDG_RUNTIME_DIR or /tmp
}

// Paths names the files of one node outside its data directory. PIDFile may
// be empty: then there is neither a pid file nor a lock.
type Paths struct {
	ConfigFile   string
	StateFile    string
	InitFile     string
	NodesFile    string
	PIDFile      string
	PostgresFile string
}

// PathsOf returns the files that belong to the data directory pgdata, which
// must be absolute.
func PathsOf(d Dirs, pgdata string) Paths {
	tail := strings.TrimPrefix(filepath.Clean(pgdata), "/")
	config := filepath.Join(d.ConfigHome, "pg_autoctl", tail)
	data := filepath.Join(d.DataHome, "pg_autoctl", tail)
	runtime := filepath.Join(d.RuntimeDir, "pg_autoctl", tail)
	return Paths{
		ConfigFile:   filepath.Join(config, "pg_autoctl.cfg"),
		StateFile:    filepath.Join(data, "pg_autoctl.state"),
		InitFile:     filepath.Join(data, "pg_autoctl.init"),
		NodesFile:    filepath.Join(data, "nodes.json"),
		PIDFile:      filepath.Join(runtime, "pg_autoctl.pid"),
		PostgresFile: filepath.Join(runtime, "pg_autoctl.pg"),
	}
}

const (
	// dirMode is the mode of the directories that hold our files.
	dirMode = 0o755
	// privateMode is for files that hold passwords.
	privateMode = 0o600
)

// replaceFile puts data in place of the file at path so that a reader, or a
// start after a power cut, finds the old content or the new one, never less.
// suffix names the intermediate file.
func replaceFile(path, suffix string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	tmp := path + suffix
	if err := writeSynced(tmp, os.O_TRUNC, data, mode); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// createFile writes a file that must not exist yet.
func createFile(path string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if err := writeSynced(path, os.O_EXCL, data, mode); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// writeSynced writes data to path and has it on disk before it returns.
func writeSynced(path string, flag int, data []byte, mode os.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|flag, mode) //nolint:gosec // one of Paths
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	defer func() {
		if closeErr := f.Close(); err == nil && closeErr != nil {
			err = fmt.Errorf("close file: %w", closeErr)
		}
	}()
	// What an earlier call left behind may be readable for more.
	if err := f.Chmod(mode); err != nil {
		return fmt.Errorf("protect file: %w", err)
	}
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync file: %w", err)
	}
	return nil
}

// removeFile removes path; a file that is not there is fine.
func removeFile(path string) error {
	if path == "" {
		return nil
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove file: %w", err)
	}
	return nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // a directory of Paths
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	defer d.Close() //nolint:errcheck // only read
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// writeFile replaces a file in one step: after a crash it holds the old or the
// new contents, never a part.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // an operator's link stays a link
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, errors.Join(diskHint(err), ignoreClosed(f.Close()), os.Remove(f.Name())))
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	// The rename happened: an error from here on must not try to remove the file.
	if syncErr := syncDir(filepath.Dir(path)); syncErr != nil {
		return nil // the contents are in place; only their survival of a power cut is in doubt
	}
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// updateFile rewrites a file through edit when that changes it; a missing file is empty.
func updateFile(path string, mode fs.FileMode, edit func(string) string) (changed bool, err error) {
	old, err := os.ReadFile(path) //nolint:gosec // files of our instance
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	image := edit(string(old))
	if image == string(old) && !missing {
		return false, nil
	}
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	return true, writeFile(path, []byte(image), mode)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // directories of our instance
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// removeContents empties a directory and keeps it.
func removeContents(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// diskHint gives a full disk the one sentence that helps.
func diskHint(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return withHint(err, "free some space on the file system and try again; nothing was changed")
	}
	return err
}

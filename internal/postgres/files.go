package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sync/errgroup"
)

// writeFile replaces a file in one step: after a crash it holds the old or the
// new contents, never a part.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	path, err := placeFile(path, data, mode, true)
	if err != nil {
		return err
	}
	// An error from here on does not matter much: the contents are in place, and
	// only their survival of a power cut is in doubt.
	_ = syncDir(filepath.Dir(path))
	return nil
}

// placeFile replaces a file and returns its true path. Without durable it is for
// the caller to have the file and its directory on disk.
func placeFile(path string, data []byte, mode fs.FileMode, durable bool) (place string, err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // an operator's link stays a link
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return path, fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, errors.Join(diskHint(err), ignoreClosed(f.Close()), os.Remove(f.Name())))
		}
	}()
	if _, err = f.Write(data); err != nil {
		return path, err
	}
	if err = f.Chmod(mode); err != nil {
		return path, err
	}
	// Nothing of an empty file can be lost.
	if len(data) > 0 && durable {
		err = f.Sync()
	}
	if err != nil {
		return path, err
	}
	if err = f.Close(); err != nil {
		return path, err
	}
	return path, os.Rename(f.Name(), path)
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

// syncDir has a directory, or a file, on disk.
func syncDir(path string) error {
	f, err := os.Open(path) //nolint:gosec // places of our instance
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// syncAtOnce is how many files are brought to disk at once: a file system
// commits them together, and takes a fraction of the time that they need in turn.
const syncAtOnce = 16

// syncTree has a whole data directory on disk, with the places outside of it
// that its links lead to, and its own name.
func syncTree(ctx context.Context, dir string) error {
	roots := []string{dir}
	links, err := filepath.Glob(filepath.Join(dir, "pg_tblspc", "*"))
	if err != nil {
		return fmt.Errorf("list tablespaces: %w", err)
	}
	for _, link := range append(links, filepath.Join(dir, "pg_wal")) {
		if info, err := os.Lstat(link); err == nil && info.Mode().Type() == fs.ModeSymlink {
			roots = append(roots, link+string(filepath.Separator))
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(syncAtOnce)
	for _, root := range roots {
		err = errors.Join(err, syncBelow(ctx, g, root))
	}
	if err = errors.Join(err, g.Wait()); err != nil {
		return fmt.Errorf("bring %s to disk: %w", dir, diskHint(err))
	}
	return syncDir(filepath.Dir(filepath.Clean(dir)))
}

func syncBelow(ctx context.Context, g *errgroup.Group, root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		g.Go(func() error { return syncDir(path) })
		return ctx.Err()
	})
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

package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// walPlace is a disk of its own that an operator has given to the WAL.
type walPlace struct {
	link string // what pg_wal says, empty for none
	dir  string // where that leads to
}

// walPlace returns where the link pg_wal leads to; the zero value when the WAL
// lies in the data directory.
func (i *Instance) walPlace(ctx context.Context) walPlace {
	link, err := os.Readlink(i.path("pg_wal"))
	if err != nil {
		return walPlace{}
	}
	dir, err := filepath.EvalSymlinks(i.path("pg_wal"))
	data, dataErr := truePath(i.cfg.DataDir)
	if err := errors.Join(err, dataErr); err != nil {
		i.log.WarnContext(ctx, "the link pg_wal leads nowhere: the copy's WAL will be in the data directory", "link", link, "error", err)
		return walPlace{}
	}
	if liesIn(dir, data) || liesIn(data, dir) {
		return walPlace{}
	}
	return walPlace{link: link, dir: dir}
}

// moveWAL has the WAL of a copy that has replaced the data directory where the
// old WAL was. At every moment the directory is a whole server's, with its WAL
// in it or there: a copy is not less complete because this did not succeed. What the
// link displaces goes to the backup directory.
func (i *Instance) moveWAL(ctx context.Context, place walPlace, backupDir string) {
	if place.link == "" {
		return
	}
	if err := i.tryMoveWAL(ctx, place, backupDir); err != nil {
		i.log.WarnContext(ctx, "the WAL is in the data directory now: stop the node, move pg_wal and make it a link again",
			"place", place.dir, "error", err)
	}
}

func (i *Instance) tryMoveWAL(ctx context.Context, place walPlace, backupDir string) error {
	if err := removeWAL(place.dir); err != nil {
		return fmt.Errorf("remove the old WAL: %w", err)
	}
	wal := i.path("pg_wal")
	if err := copyWAL(ctx, wal, place.dir); err != nil {
		return errors.Join(fmt.Errorf("copy WAL: %w", diskHint(err)), removeWAL(place.dir))
	}
	// A file system that cannot exchange two directories has removed the old one.
	if err := os.MkdirAll(backupDir, 0o700); err != nil {
		return fmt.Errorf("link WAL: %w", err)
	}
	link := filepath.Join(backupDir, "pg_wal.link")
	if err := os.Symlink(place.link, link); err != nil {
		return fmt.Errorf("link WAL: %w", err)
	}
	if err := i.requireStopped(); err != nil {
		return fmt.Errorf("link WAL: %w", err)
	}
	if err := exchange(link, wal); err != nil {
		return fmt.Errorf("link WAL: %w", err)
	}
	return syncDir(i.cfg.DataDir)
}

// removeWAL empties a directory of WAL, which may be a file system's uppermost one.
func removeWAL(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "lost+found" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// copyWAL copies the files and directories in a directory to another, and has them on disk.
func copyWAL(ctx context.Context, from, to string) error {
	dirs := []string{to}
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil || path == from {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			dirs = append(dirs, target)
			return os.Mkdir(target, 0o700)
		}
		return copyFile(path, target)
	})
	for _, dir := range dirs {
		err = errors.Join(err, syncDir(dir))
	}
	return err
}

func copyFile(from, to string) error {
	in, err := os.Open(from) //nolint:gosec // a file of our instance
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm()) //nolint:gosec // where the WAL belongs
	if err != nil {
		return err
	}
	if _, err = io.Copy(out, in); err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

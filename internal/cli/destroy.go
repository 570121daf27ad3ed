package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgdrover/pgdrover/internal/postgres"
)

// destroyNode removes everything that belongs to a data directory.
func destroyNode(ctx context.Context, env *Env, n *node) error {
	for _, path := range []string{n.init, n.state, n.nodes} {
		if err := removeIfThere(path); err != nil {
			return withCode(exitBadState, err)
		}
	}
	in := n.instance(env.log)
	postmaster, err := in.Adopt()
	switch {
	case errors.Is(err, postgres.ErrNotRunning):
	case err != nil:
		return withCode(exitPgCtl, err)
	default:
		env.infof("Stopping PostgreSQL at %q", n.pgdata)
		if err := postmaster.Stop(ctx, postgres.StopFast); err != nil {
			return withCode(exitPgCtl, err)
		}
	}
	// Only this version's part of a tablespace is this server's.
	version := ""
	if control, err := in.ControlData(ctx); err == nil {
		if major, err := os.ReadFile(filepath.Join(n.pgdata, "PG_VERSION")); err == nil {
			version = fmt.Sprintf("PG_%s_%d", strings.TrimSpace(string(major)), control.CatalogVersion)
		}
	}
	env.infof("Removing %q", n.pgdata)
	if err := removeData(n.pgdata, version); err != nil {
		return withCode(exitInternal, err)
	}
	return withCode(exitBadConfig, removeIfThere(n.config))
}

// removeData removes a data directory with what its links lead to: its WAL, and
// in the place of each tablespace the directory that is called version. The links
// of an operator stay, and so do the places that they lead to, empty. What was
// noted beside the directory goes as well: the next node in that place would
// take it for its own.
func removeData(pgdata, version string) error {
	if links, err := filepath.Glob(filepath.Join(pgdata, "pg_tblspc", "*")); err == nil && version != "" {
		for _, link := range links {
			if err := os.RemoveAll(filepath.Join(link, version)); err != nil { //nolint:gosec // the server's own links
				return fmt.Errorf("remove tablespace: %w", err)
			}
		}
	}
	wal := filepath.Join(pgdata, "pg_wal")
	if isLink(wal) {
		if err := removeWithin(wal); err != nil {
			return fmt.Errorf("remove WAL: %w", err)
		}
	}
	remove := os.RemoveAll
	if isLink(pgdata) {
		remove = removeWithin
	}
	if err := remove(pgdata); err != nil {
		return err
	}
	for _, mark := range []string{".initdb", ".rewind"} {
		if err := os.RemoveAll(pgdata + mark); err != nil {
			return err
		}
	}
	return nil
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&os.ModeSymlink != 0
}

// removeWithin empties a directory, which a link may lead to.
func removeWithin(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
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

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

package cli

import (
	"context"
	"errors"
	"os"

	"github.com/pgdrover/pgdrover/internal/keeper"
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
	// A postmaster that was killed may have left its children at work.
	if err := in.EndOrphans(ctx); err != nil {
		return withCode(exitPgCtl, err)
	}
	env.infof("Removing %q", n.pgdata)
	if err := in.Remove(); err != nil {
		return withCode(exitInternal, err)
	}
	if !n.isMonitor() {
		keeper.RemoveBackupDir(n.keeper)
	}
	return withCode(exitBadConfig, removeIfThere(n.config))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

package postgres

import (
	"fmt"
	"os"
	"strings"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// sealMark is in a data directory whose standby files are a seal and not a
// standby's: the server was a primary, and may go on as one.
const sealMark = "pgdrover.sealed"

// Seal makes a stopped server harmless, whoever starts it: it would come up as
// a standby without upstream and with a list that nobody satisfies. One that
// ran as a primary is marked, so that Unseal knows. It is durable when it
// returns, and quick: a switchover waits for it.
func (i *Instance) Seal(guard pg.StandbyNames) error {
	if !i.Exists() {
		return nil
	}
	// The mark first: a signal without it is a true standby's.
	if !i.IsStandby() && !i.RewindInterrupted() {
		if err := touch(i.path(sealMark)); err != nil {
			return fmt.Errorf("seal the data directory: %w", err)
		}
	}
	if err := touch(i.path(signalFile)); err != nil {
		return fmt.Errorf("seal the data directory: %w", err)
	}
	changes := append(removals(upstreamSettings()), setting(syncNamesSetting, guard.String()))
	if err := i.setAutoConf(changes...); err != nil {
		return fmt.Errorf("seal the data directory: %w", err)
	}
	if text, err := os.ReadFile(i.path(standbyFile)); err == nil && strings.Contains(string(text), "primary_") {
		if err := i.writeStandbyFiles(Upstream{}); err != nil {
			return fmt.Errorf("seal the data directory: %w", err)
		}
	}
	return syncDir(i.cfg.DataDir)
}

// Sealed reports whether the server is a primary that was sealed.
func (i *Instance) Sealed() bool {
	_, err := os.Stat(i.path(sealMark))
	return err == nil
}

// Unseal lets a sealed server start as the primary that it was. Nothing happens
// to any other. The list that nobody satisfies stays.
func (i *Instance) Unseal() error {
	if !i.Sealed() {
		return nil
	}
	return i.RemoveStandby()
}

// forgetSeal removes the mark: the directory is a true standby's, or a primary's, from here on.
func (i *Instance) forgetSeal() error {
	if !i.Sealed() {
		return nil
	}
	return removeFile(i.path(sealMark))
}

// touch has an empty file there; the directory is for the caller to sync.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // files of our instance
	if err != nil {
		return diskHint(err)
	}
	return f.Close()
}

package keeper

import (
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/supervisor"
)

// pidLock is held for as long as a process works on the data directory.
type pidLock struct{ file *supervisor.PidFile }

// lock writes the pid file and takes the lock beside it.
func (k *Keeper) lock() (pidLock, error) {
	if k.cfg.Paths.PIDFile == "" {
		return pidLock{}, nil
	}
	file, err := supervisor.AcquirePidFile(k.cfg.Paths.PIDFile, supervisor.PidInfo{
		DataDir: k.cfg.File.PGData, Version: k.cfg.Version, ExtensionVersion: pgautofailover.CompatVersion,
	})
	if err != nil {
		return pidLock{}, err
	}
	if err := file.SetServices("postgres", "node-active"); err != nil {
		return pidLock{}, err
	}
	return pidLock{file: file}, nil
}

func (l pidLock) release() {
	if l.file != nil {
		_ = l.file.Release()
	}
}

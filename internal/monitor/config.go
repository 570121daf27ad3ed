package monitor

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
	"github.com/pgdrover/pgdrover/internal/supervisor"
)

// The names that a monitor's database and its roles always have.
const (
	databaseName = "pg_auto_failover"
	ownerRole    = "autoctl"
	nodeRole     = "autoctl_node"
)

// Paths are the files of a monitor outside its data directory.
type Paths struct {
	ConfigFile string
	// PIDFile is empty for a monitor that nobody needs to find; then nothing
	// keeps a second one from its data directory but the server itself.
	PIDFile string
}

// Config is all that a monitor is told.
type Config struct {
	Paths Paths
	// File is the contents of the configuration file.
	File  File
	Tools postgres.Tools
	// Logger may be nil.
	Logger *slog.Logger
	// Reload asks for the configuration file to be read again; may be nil.
	Reload <-chan struct{}
	// Version is the program's version, for the pid file.
	Version string
	// SocketDir is where the server puts its socket; empty means postgresql.host
	// when that is a directory, else the server's default.
	SocketDir string
	// Ready is called each time decisions begin; may be nil.
	Ready func()
}

// ConfigError is a configuration that cannot work.
type ConfigError struct {
	err  error
	hint string
}

// Error says what is wrong.
func (e *ConfigError) Error() string { return e.err.Error() }

// Unwrap returns what is wrong.
func (e *ConfigError) Unwrap() error { return e.err }

// Hint says what to do about it.
func (e *ConfigError) Hint() string { return e.hint }

// ErrDetach as the cause of a cancelled context ends Run and leaves PostgreSQL
// running: the next Run adopts it.
var ErrDetach = errors.New("leave PostgreSQL running")

// stopSignal is a context cause that says which signal asked the monitor to stop.
type stopSignal interface{ Signal() os.Signal }

func (c Config) validate() error {
	if err := c.File.Validate(); err != nil {
		return err
	}
	if c.Tools.Dir == "" {
		return &ConfigError{err: errors.New("find PostgreSQL: no directory of server programs is given")}
	}
	return nil
}

func (c Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}

// instance is the monitor's own server.
func (c Config) instance() *postgres.Instance {
	if c.SocketDir == "" && filepath.IsAbs(c.File.Host) {
		c.SocketDir = c.File.Host
	}
	return postgres.New(postgres.Config{
		Tools: c.Tools, DataDir: c.File.PGData, Port: c.File.Port, ListenAddresses: c.File.ListenAddresses,
		Host: c.File.Host, SocketDir: c.SocketDir, DBName: databaseName, Logger: c.logger(),
	})
}

// lock keeps other processes from this monitor. The pid file it returns is nil
// for a monitor without one.
func (c Config) lock() (*supervisor.PidFile, error) {
	if c.Paths.PIDFile == "" {
		return nil, nil //nolint:nilnil // see above
	}
	return supervisor.AcquirePidFile(c.Paths.PIDFile, supervisor.PidInfo{
		PID: os.Getpid(), DataDir: c.File.PGData, Version: c.Version, ExtensionVersion: pgautofailover.CompatVersion,
	})
}

func release(p *supervisor.PidFile) error {
	if p == nil {
		return nil
	}
	return p.Release()
}

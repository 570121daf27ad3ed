package monitor

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// clusterName marks the server of a monitor.
const clusterName = "pg_auto_failover monitor"

// ownSettings make an idle monitor cheap and leave room for its keepers: each
// holds one session, and every command another one for a moment. What is
// written is small, so nothing here depends on the size of the machine.
func ownSettings() pg.Settings {
	return pg.Settings{
		{Name: "max_connections", Value: "1000"},
		// However many clients there are, the decisions find their own sessions.
		{Name: "superuser_reserved_connections", Value: "12"},
		{Name: "shared_buffers", Value: "64 MB"},
		{Name: "work_mem", Value: "4 MB"},
		{Name: "maintenance_work_mem", Value: "64 MB"},
		{Name: "effective_cache_size", Value: "1 GB"},
		{Name: "autovacuum_max_workers", Value: "2"},
		{Name: "max_parallel_workers_per_gather", Value: "0"},
		{Name: "jit", Value: "off"},
		{Name: "track_functions", Value: "none"},
		// Reports that change nothing are not waited for; all else is flushed at
		// its commit. So the writers in the background have little to do.
		{Name: "synchronous_commit", Value: "on"},
		{Name: "wal_writer_delay", Value: "1s"},
		{Name: "bgwriter_delay", Value: "10s"},
		{Name: "checkpoint_timeout", Value: "15min"},
	}
}

// serverSettings is the settings file of a monitor's server.
func serverSettings(f File) pg.Settings {
	own := ownSettings()
	all := postgres.MonitorSettings(postgres.SettingsConfig{
		ListenAddresses: f.ListenAddresses, Port: f.Port, AuthMethod: f.AuthMethod, Hostname: f.Hostname,
		SSL: postgres.SSL{
			Active: f.SSL.Active, Mode: f.SSL.Mode, CAFile: f.SSL.CAFile, CRLFile: f.SSL.CRLFile,
			CertFile: f.SSL.CertFile, KeyFile: f.SSL.KeyFile,
		},
	})
	all = slices.DeleteFunc(all, func(s pg.Setting) bool {
		_, ours := own.Get(s.Name)
		return ours
	})
	all = append(all, own...)
	return append(all, pgautofailover.DefaultSettings()...)
}

// makeRoom comments out what initdb wrote into postgresql.conf and our settings
// file says differently: lines of postgresql.conf win over included ones. A
// value that initdb does not write is the operator's, and stays.
func makeRoom(dataDir string) error {
	path := filepath.Join(dataDir, "postgresql.conf")
	before, err := os.ReadFile(path) //nolint:gosec // in the data directory
	if err != nil {
		return fmt.Errorf("read postgresql.conf: %w", err)
	}
	byInitDB := regexp.MustCompile(`(?m)^(max_connections = 100|shared_buffers = 128MB)(\s)`)
	after := byInitDB.ReplaceAllString(string(before), "#$1$2")
	if after == string(before) {
		return nil
	}
	if err := replaceFile(path, after, 0o600); err != nil {
		return fmt.Errorf("write postgresql.conf: %w", err)
	}
	return nil
}

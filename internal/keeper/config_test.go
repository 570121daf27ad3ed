package keeper

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func sampleFile() File {
	f := DefaultFile()
	f.Monitor, f.Hostname, f.Name = "postgres://autoctl_node@m:5432/pg_auto_failover?sslmode=prefer", "10.0.0.1", "node_1"
	f.Group, f.PGData, f.PgCtl, f.AuthMethod = 0, "/data/pg", "/usr/lib/postgresql/15/bin/pg_ctl", "trust"
	f.BackupDirectory = "/data/backup/node_1"
	return f
}

const sampleText = `[pg_autoctl]
role = keeper
monitor = postgres://autoctl_node@m:5432/pg_auto_failover?sslmode=prefer
formation = default
group = 0
name = node_1
hostname = 10.0.0.1
nodekind = standalone

[postgresql]
pgdata = /data/pg
pg_ctl = /usr/lib/postgresql/15/bin/pg_ctl
dbname = postgres
port = 5432
listen_addresses = *
auth_method = trust
hba_level = minimal

[ssl]
active = 0
sslmode = prefer

[replication]
maximum_backup_rate = 100M
backup_directory = /data/backup/node_1

[timeout]
network_partition_timeout = 20
prepare_promotion_catchup = 30
prepare_promotion_walreceiver = 5
postgresql_restart_failure_timeout = 20
postgresql_restart_failure_max_retries = 3
listen_notifications_timeout = 60
citus_master_update_node_lock_cooldown = 10000
citus_coordinator_wait_max_retries = 100
citus_coordinator_wait_timeout = 300

[citus]
role = primary
`

func TestConfigurationFileIsByteExact(t *testing.T) {
	t.Parallel()
	text, err := sampleFile().Render()
	require.NoError(t, err)
	require.Equal(t, sampleText, text)
	back, err := parseFile(text)
	require.NoError(t, err)
	require.Equal(t, sampleFile(), back)
	f := sampleFile()
	f.MonitorPassword = "secret"
	text, err = f.Render()
	require.NoError(t, err)
	require.Contains(t, text, "backup_directory = /data/backup/node_1\n\n[pg_autoctl]\nmonitor_password = secret\n\n[timeout]")
	back, err = parseFile(text)
	require.NoError(t, err)
	require.Equal(t, "secret", back.MonitorPassword)
}

func TestConfigurationFileOnDisk(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "deep", "pg_autoctl.cfg")
	_, err := LoadFile(path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NotEmpty(t, hintOf(err))
	require.NoError(t, sampleFile().Save(path))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())
	back, err := LoadFile(path)
	require.NoError(t, err)
	require.Equal(t, sampleFile(), back)
}

func TestConfigurationOfOthers(t *testing.T) {
	t.Parallel()
	old := strings.Replace(sampleText, "hostname =", "nodename =", 1)
	f, err := parseFile(old)
	require.NoError(t, err)
	require.Equal(t, "10.0.0.1", f.Hostname)
	for want, text := range map[string]string{
		"pg_autoctl.role":   strings.Replace(sampleText, "role = keeper", "role = monitor", 1),
		"postgresql.pgdata": strings.Replace(sampleText, "pgdata = /data/pg\n", "", 1),
		"postgresql.port":   strings.Replace(sampleText, "port = 5432", "port = many", 1),
	} {
		_, err := parseFile(text)
		wrong, ok := errors.AsType[*ConfigError](err)
		require.True(t, ok, want)
		require.Equal(t, want, wrong.Key)
	}
}

func TestOptionsByName(t *testing.T) {
	t.Parallel()
	f := sampleFile()
	for _, key := range Keys() {
		_, err := f.Get(key)
		require.NoError(t, err)
	}
	value, err := f.Get("timeout.network_partition_timeout")
	require.NoError(t, err)
	require.Equal(t, "20", value)
	require.NoError(t, f.Set("timeout.network_partition_timeout", "40"))
	require.Equal(t, 40, f.Timeouts.NetworkPartition)
	before := f
	for key, value := range map[string]string{
		"postgresql.port": "99999", "postgresql.hba_level": "all", "pg_autoctl.monitor": "nonsense://x", "pg_autoctl.hostname": "a b",
		"replication.maximum_backup_rate": "fast", "replication.max_slot_wal_keep_size": "much", "postgresql.pgdata": "relative", "pg_autoctl.role": "monitor",
		"timeout.network_partition_timeout": "-1", "ssl.sslmode": "maybe", "no.such": "1", "ssl.active": "yes",
	} {
		require.Error(t, f.Set(key, value), key)
	}
	require.Equal(t, before, f)
	_, err = f.Get("no.such")
	require.Error(t, err)
	for rate, ok := range map[string]bool{"": true, "100M": true, "32k": true, "31k": false, "2000M": false, "40": true, "M": false} {
		require.Equal(t, ok, validRate(rate), rate)
	}
}

func TestNewTakesEveryKind(t *testing.T) {
	t.Parallel()
	for kind, ok := range map[string]bool{"standalone": true, "coordinator": true, "worker": true, "monitor": false} {
		f := sampleFile()
		f.NodeKind = kind
		_, err := New(Config{File: f})
		require.Equal(t, ok, err == nil, kind)
	}
}

package monitor

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFileIsWrittenAsPgAutoctlDoes(t *testing.T) {
	t.Parallel()
	f := DefaultFile()
	f.Hostname, f.PGData, f.PgCtl = "mon.example.com", "/data/monitor", "/usr/lib/postgresql/15/bin/pg_ctl"
	path := filepath.Join(t.TempDir(), "new", "pg_autoctl.cfg")
	require.NoError(t, f.Save(path))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, `[pg_autoctl]
role = monitor
hostname = mon.example.com

[postgresql]
pgdata = /data/monitor
pg_ctl = /usr/lib/postgresql/15/bin/pg_ctl
username = autoctl_node
dbname = pg_auto_failover
port = 5432
listen_addresses = *
auth_method = trust
hba_level = app

[ssl]
active = 0
sslmode = prefer
`, string(text))
	back, err := LoadFile(path)
	require.NoError(t, err)
	require.Equal(t, f, back)
}

func TestFileOfAnotherRoleIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pg_autoctl.cfg")
	require.NoError(t, os.WriteFile(path, []byte("[pg_autoctl]\nrole = keeper\n"), 0o600))
	_, err := LoadFile(path)
	_, ok := errors.AsType[*ConfigError](err)
	require.True(t, ok)
	_, err = LoadFile(path + ".none")
	e, ok := errors.AsType[*ConfigError](err)
	require.True(t, ok)
	require.NotEmpty(t, e.Hint())
}

func TestFileSetIsValidated(t *testing.T) {
	t.Parallel()
	f := DefaultFile()
	f.Hostname, f.PGData = "h", "/d"
	require.NoError(t, f.Set("postgresql.port", "6000"))
	value, err := f.Get("postgresql.port")
	require.NoError(t, err)
	require.Equal(t, "6000", value)
	require.Error(t, f.Set("postgresql.port", "70000"))
	require.Error(t, f.Set("postgresql.port", "many"))
	require.Error(t, f.Set("pg_autoctl.role", "keeper"))
	require.ErrorIs(t, f.Set("pg_autoctl.nothing", "1"), errUnknownKey)
	require.Equal(t, 6000, f.Port)
}

func TestURI(t *testing.T) {
	t.Parallel()
	f := DefaultFile()
	f.Hostname = "mon"
	require.Equal(t, "postgres://autoctl_node@mon:5432/pg_auto_failover?sslmode=prefer", f.URI())
	f.SSL = SSL{Active: true, Mode: "verify-ca", CAFile: "/ca.crt", CRLFile: "/ca.crl"}
	require.Equal(t, "postgres://autoctl_node@mon:5432/pg_auto_failover?sslmode=verify-ca&sslrootcert=/ca.crt&sslcrl=/ca.crl", f.URI())
	f.SSL.Mode = "disable"
	require.Equal(t, "postgres://autoctl_node@mon:5432/pg_auto_failover", f.URI())
}

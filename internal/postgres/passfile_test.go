package postgres_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// PostgreSQL logs each new primary_conninfo: the password is somewhere else, and works from there.
func TestPasswordOfTheReplicatorIsInNoLog(t *testing.T) {
	t.Parallel()
	const password = `hush:hu\sh 4711`
	primary, _ := newPrimary(t, 1)
	ctx := within(t)
	require.NoError(t, primary.With(ctx, func(s *postgres.Session) error {
		return s.EnsureRole(ctx, postgres.ReplicationRole(password))
	}))
	hba := filepath.Join(primary.DataDir(), "pg_hba.conf")
	image, err := os.ReadFile(hba)
	require.NoError(t, err)
	var rules strings.Builder
	for line := range strings.Lines(string(image)) {
		if strings.Contains(line, pg.ReplicationRole) {
			line = strings.Replace(line, "trust", "scram-sha-256", 1)
		}
		rules.WriteString(line)
	}
	require.NoError(t, os.WriteFile(hba, []byte(rules.String()), 0o600))
	require.NoError(t, primary.Reload(ctx))

	standby := newNode(t, 2)
	primary.slot(t, 2)
	up := standby.upstream(primary)
	up.Password = password
	backup := standby.backup(primary)
	backup.Source, backup.Standby = postgres.CopyFrom(up), postgres.StandbyOf(up)
	require.NoError(t, standby.BaseBackup(ctx, backup))
	_, err = standby.WriteSettings(settings(standby))
	require.NoError(t, err)
	standby.start(t)
	require.NoError(t, standby.WaitStreaming(ctx))
	file := filepath.Join(standby.DataDir(), "postgresql-auto-failover.pgpass")
	for _, follow := range []func() error{
		func() error { return standby.Follow(ctx, postgres.StandbyOf(up)) },
		func() error { return standby.Repoint(ctx, postgres.StandbyOf(up)) },
	} {
		_, err = standby.EndReceiver(ctx)
		require.NoError(t, err)
		require.NoError(t, os.Chmod(file, 0o640), "as a copy of a directory that a group may read")
		require.NoError(t, follow())
		require.NoError(t, standby.WaitStreaming(ctx))
	}
	log, err := os.ReadFile(filepath.Join(standby.DataDir(), "startup.log"))
	require.NoError(t, err)
	require.Contains(t, string(log), `parameter "primary_conninfo" changed to "`)
	require.NotContains(t, string(log), "hush")
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode())

	standby.promote(t)
	_, err = os.Stat(file)
	require.ErrorIs(t, err, os.ErrNotExist)
}

package postgres_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// A primary that was restored to a point in time has still in its configuration
// where that restore was to end, and what the server was to do there.
func TestStandbyOfARestoredPrimaryReplaysEverything(t *testing.T) {
	t.Parallel()
	primary, _ := newPrimary(t, 1)
	primary.exec(t, `ALTER SYSTEM SET recovery_target_time = '2020-01-01 00:00:00+00'`)
	for n, action := range []string{"promote", "pause"} {
		primary.exec(t, `ALTER SYSTEM SET recovery_target_action = '`+action+`'`)
		standby, p := newStandby(t, primary, int64(2+n))
		text, err := os.ReadFile(filepath.Join(standby.DataDir(), "postgresql.auto.conf"))
		require.NoError(t, err)
		require.NotContains(t, string(text), "recovery_target", "whoever starts it")
		standby.replays(t, primary)

		// The node's own files say as much; two targets at once end a server that sees them.
		standby.stop(t, p, postgres.StopImmediate)
		appendConf(t, standby, "recovery_target_time = '2020-01-01 00:00:00+00'\nrecovery_target_action = "+action+"\n")
		require.NoError(t, standby.RecoverCrash(within(t)))
		standby.start(t)
		standby.replays(t, primary)
	}
}

// replays waits until the standby shows a row that is written now.
func (n *node) replays(t *testing.T, primary *node) {
	t.Helper()
	primary.exec(t, `INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t`)
	want := primary.count(t)
	eventually(t, func() error {
		if rows := n.count(t); rows != want {
			return fmt.Errorf("%d rows of %d, replay is %s", rows, want, n.ask(t, `SELECT pg_get_wal_replay_pause_state()`))
		}
		return nil
	})
	require.Equal(t, "true", n.ask(t, `SELECT pg_is_in_recovery()::text`))
}

func appendConf(t *testing.T, n *node, lines string) {
	t.Helper()
	name := filepath.Join(n.DataDir(), "postgresql.conf")
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(name, append(text, lines...), 0o600))
}

func TestSealTakesTheTargetAway(t *testing.T) {
	t.Parallel()
	n, p := newPrimary(t, 1)
	n.exec(t, `ALTER SYSTEM SET recovery_target_time = '2020-01-01 00:00:00+00'`)
	n.exec(t, `ALTER SYSTEM SET recovery_target_action = 'promote'`)
	n.stop(t, p, postgres.StopFast)
	require.NoError(t, n.Seal(pg.StandbyNames{K: 1, Members: []string{"nobody"}}))
	text, err := os.ReadFile(filepath.Join(n.DataDir(), "postgresql.auto.conf"))
	require.NoError(t, err)
	require.NotContains(t, string(text), "recovery_target")
}

// A restore that nobody has started yet is no standby of ours: it ends where its operator wants it to.
func TestRestoreEndsAtItsTarget(t *testing.T) {
	t.Parallel()
	primary, p := newPrimary(t, 1)
	restored := newNode(t, 2)
	primary.slot(t, 2)
	require.NoError(t, restored.BaseBackup(within(t), restored.backup(primary)))
	primary.exec(t, `INSERT INTO t VALUES (1)`)
	primary.exec(t, `SELECT pg_create_restore_point('here')`)
	primary.exec(t, `INSERT INTO t VALUES (2)`)
	primary.stop(t, p, postgres.StopFast)
	dir := restored.DataDir()
	require.NoError(t, os.Remove(filepath.Join(dir, "postgresql-auto-failover-standby.conf")))
	require.NoError(t, os.Remove(filepath.Join(dir, "standby.signal")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "recovery.signal"), nil, 0o600))
	image := "include 'postgresql-auto-failover.conf'\nrecovery_target_name = 'here'\nrecovery_target_action = promote\n" +
		fmt.Sprintf("restore_command = 'cp %s/pg_wal/%%f %%p'\n", primary.DataDir())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "postgresql.conf"), []byte(image), 0o600))
	_, err := restored.WriteSettings(settings(restored))
	require.NoError(t, err)
	restored.start(t)
	eventually(t, func() error {
		if rows := restored.count(t); rows != 1 {
			return fmt.Errorf("%d rows", rows)
		}
		if restored.ask(t, `SELECT pg_is_in_recovery()::text`) == "true" {
			return fmt.Errorf("in recovery")
		}
		return nil
	})
}

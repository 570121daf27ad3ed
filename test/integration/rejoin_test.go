package integration

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// TestDeadNodeRejoinsWithoutItsWAL: a node was dead for so long that nobody has
// the WAL any more that it needs. Its process is started, and that is all.
func TestDeadNodeRejoinsWithoutItsWAL(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string]string{
		// By an operator who needs the space.
		"slot dropped": "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active",
		// By the server itself.
		"slot given up": "ALTER SYSTEM SET max_slot_wal_keep_size TO '1MB'",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, w := written(t, 2)
			step(t, "a standby", func(t *testing.T) {
				primary := g.WaitWhole(t)
				standby := g.Others(primary)[0]
				segment := segmentOf(t, primary)
				start := time.Now()
				standby.KillBoth(t)
				g.WaitLost(t, standby)
				removeWAL(t, primary, segment, forget)
				standby.Start(t)
				settle(t, g, w, start)
				require.Equal(t, primary.Name, g.WaitWhole(t).Name)
			})
			step(t, "an old primary", func(t *testing.T) {
				old := g.WaitWhole(t)
				start := time.Now()
				old.KillBoth(t)
				next := g.NewPrimary(t, old)
				w.WaitAck(t, time.Now())
				removeWAL(t, next, segmentOf(t, next), forget)
				old.Start(t)
				settle(t, g, w, start)
				require.Equal(t, next.Name, g.WaitWhole(t).Name)
			})
			finish(t, g, w)
		})
	}
}

// segmentOf is the WAL file that a primary writes now.
func segmentOf(t *testing.T, m *group.Member) string {
	t.Helper()
	conn, err := m.Connect(t.Context(), pgtest.Superuser, "postgres")
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	var name string
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT pg_walfile_name(pg_current_wal_insert_lsn())").Scan(&name))
	return name
}

// removeWAL makes a primary forget a WAL file, and with it all older ones; one
// more statement says what becomes of the slots that hold it.
func removeWAL(t *testing.T, m *group.Member, segment, forget string) {
	t.Helper()
	ctx := t.Context()
	conn, err := m.Connect(ctx, pgtest.Superuser, "postgres")
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(ctx))
	pgtest.Eventually(t, group.Patience, func() error {
		for _, sql := range []string{"ALTER SYSTEM SET wal_keep_size TO 0", forget, "SELECT pg_reload_conf()", "SELECT pg_switch_wal()", "CHECKPOINT"} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		var n int
		err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_ls_waldir() WHERE name = $1", segment).Scan(&n)
		if err == nil && n > 0 {
			err = fmt.Errorf("%s is still there", segment)
		}
		return err
	})
}

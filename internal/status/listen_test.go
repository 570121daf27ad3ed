package status_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/status"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// patience is for machines that stall.
const patience = 2 * time.Minute

// A real monitor: what is registered shows, and a connection that is cut comes back.
func TestWatchingARealMonitor(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	info, err := pg.ParseConnInfo(dsn)
	require.NoError(t, err)
	connect := pgautofailover.ConnectConfig{
		ConnInfo: info, ApplicationName: "status test", ConnectTimeout: patience, StatementTimeout: patience, LockTimeout: patience,
	}
	db, err := pgautofailover.Connect(t.Context(), connect)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close(context.WithoutCancel(t.Context()))) }()
	require.NoError(t, pgautofailover.Install(t.Context(), db))

	watched := connect
	watched.ConnInfo, watched.ApplicationName = info.With("user", "autoctl_node"), "status test, watched"
	ctx, cancel := context.WithCancel(t.Context())
	shown, lost := make(chan status.Snapshot, 1), make(chan error, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- status.Watcher{
			Open: func(ctx context.Context) (status.Session, error) {
				return status.Listen(ctx, watched, "default", nil, 10)
			},
			Show: func(s status.Snapshot) { newest(shown, s) },
			Lost: func(err error) { newest(lost, err) },
		}.Run(ctx)
	}()
	until := func(what string, ok func(status.Snapshot) bool) {
		deadline := time.After(patience)
		for {
			select {
			case s := <-shown:
				if ok(s) {
					return
				}
			case <-deadline:
				require.Fail(t, "not seen: "+what)
			}
		}
	}
	until("an empty formation", func(s status.Snapshot) bool { return len(s.Groups) == 0 && !s.Deciding })

	pending, err := db.BeginRegistration(t.Context(), pgautofailover.Registration{
		Formation: "default", Host: "h", Port: 5001, DBName: "postgres", SystemID: 1, DesiredGroup: -1,
		Initial: fsm.Init, Priority: 50, Quorum: true,
	})
	require.NoError(t, err)
	require.NoError(t, pending.Commit(t.Context()))
	until("the node", func(s status.Snapshot) bool {
		return len(s.Nodes()) == 1 && s.Nodes()[0].Goal == fsm.Single && s.Nodes()[0].Host == "h"
	})

	_, err = pgtest.Connect(t, dsn).Exec(t.Context(),
		`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'status test, watched'`)
	require.NoError(t, err)
	select {
	case err := <-lost:
		require.Error(t, err)
	case <-time.After(patience):
		require.Fail(t, "the cut connection was not noticed")
	}
	for len(shown) > 0 {
		<-shown
	}
	until("the node again", func(s status.Snapshot) bool { return len(s.Nodes()) == 1 })
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}

// newest replaces what nobody has taken yet.
func newest[T any](ch chan T, v T) {
	select {
	case <-ch:
	default:
	}
	ch <- v
}

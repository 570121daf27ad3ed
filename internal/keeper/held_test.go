package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// A standby that an operator paused or delays stays so while all is well, and
// does not hold up a group that needs it.
func TestHeldStandbysServeTheirGroup(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	first, second, third := g.place(t, "n1"), g.place(t, "n2"), g.place(t, "n3")
	first.run(t, true)
	g.wait(t, map[string]fsm.State{"n1": fsm.Single})
	second.run(t, true)
	third.run(t, true)
	g.wait(t, map[string]fsm.State{"n1": fsm.Primary, "n2": fsm.Secondary, "n3": fsm.Secondary})

	second.query(t, `ALTER SYSTEM SET recovery_min_apply_delay = '1h'`, `SELECT pg_reload_conf()::text`)
	second.eventually(t, `SHOW recovery_min_apply_delay`, "1h")
	third.query(t, `SELECT pg_wal_replay_pause()::text`)
	first.query(t, `CREATE TABLE t (id int)`, `INSERT INTO t VALUES (1)`, `SELECT ''`)
	const waits = `SELECT coalesce(wait_event, '') FROM pg_stat_activity WHERE backend_type = 'startup'`
	second.eventually(t, waits, "RecoveryApplyDelay")
	third.eventually(t, waits, "RecoveryPause")
	for _, p := range []place{second, third} {
		cfg := p.config()
		k := &Keeper{cfg: cfg, log: slog.New(slog.DiscardHandler), clock: boottime}
		require.NoError(t, k.newNode(identity{}, k.log).fit(t.Context()))
	}
	second.eventually(t, waits, "RecoveryApplyDelay")
	third.eventually(t, waits, "RecoveryPause")

	g.promotion(t, "n2")
	g.wait(t, map[string]fsm.State{"n1": fsm.Secondary, "n2": fsm.Primary, "n3": fsm.Secondary})
	require.Equal(t, "2", second.query(t, `INSERT INTO t VALUES (2)`, `SELECT count(*)::text FROM t`))
	for _, p := range []place{first, third} {
		p.eventually(t, `SELECT count(*)::text FROM public.t`, "2")
	}
	g.promotion(t, "n1")
	g.wait(t, map[string]fsm.State{"n1": fsm.Primary, "n2": fsm.Secondary, "n3": fsm.Secondary})
	second.eventually(t, `SHOW recovery_min_apply_delay`, "1h")

	// The other pause: the primary is restarted with settings that its standbys do not have.
	second.query(t, `ALTER SYSTEM RESET recovery_min_apply_delay`, `SELECT pg_reload_conf()::text`)
	second.eventually(t, `SELECT count(*)::text FROM public.t`, "2")
	first.query(t, `ALTER SYSTEM SET max_connections = 150`, `SELECT ''`)
	pm, err := first.instance().Adopt()
	require.NoError(t, err)
	defer pm.Release()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, pm.Stop(ctx, postgres.StopFast))
	for _, p := range []place{first, second, third} {
		p.eventually(t, `SHOW max_connections`, "150")
	}
	g.wait(t, map[string]fsm.State{"n1": fsm.Primary, "n2": fsm.Secondary, "n3": fsm.Secondary})
}

// eventually waits for an answer of a server that may be down in between.
func (p place) eventually(t *testing.T, question, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	pgtest.Eventually(t, patience, func() error {
		return p.instance().With(ctx, func(s *postgres.Session) error {
			var answer string
			err := s.Conn().QueryRow(ctx, question).Scan(&answer)
			if err == nil && answer != want {
				err = fmt.Errorf("%s: %s on %s", question, answer, p.Name)
			}
			return err
		})
	})
}

func (g *group) promotion(t *testing.T, name string) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	_, err := g.db.PerformPromotion(t.Context(), "default", name, false)
	require.NoError(t, err)
}

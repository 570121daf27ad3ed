package group

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// NewMonitor creates another monitor and starts it; the group asks that one
// from now on, and answers the one before, which the caller ends.
func (g *Group) NewMonitor(t testing.TB, name string) *Member {
	t.Helper()
	before := g.Monitor
	g.outsiders = append(g.outsiders, before)
	g.Monitor = g.member(t, name)
	g.Monitor.start(t, append(g.Monitor.createArgs("monitor"), "--run")...)
	g.disconnect()
	pgtest.Eventually(t, Patience, func() error {
		if err := g.Monitor.Alive(); err != nil {
			t.Fatal(err)
		}
		return g.query(func(ctx context.Context, conn *pgx.Conn) error {
			var n int
			return conn.QueryRow(ctx, "SELECT count(*) FROM pgautofailover.formation").Scan(&n)
		})
	})
	for name, value := range g.cfg.MonitorSettings {
		g.setMonitor(t, name, value)
	}
	return before
}

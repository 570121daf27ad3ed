package bench

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// watchFor is how long idle processes are watched.
const watchFor = 30 * time.Second

// BenchmarkMonitorWithKeepers measures a monitor while simulated keepers in
// groups of three report to it each second.
func BenchmarkMonitorWithKeepers(b *testing.B) {
	for _, n := range []int{200} {
		b.Run(fmt.Sprintf("keepers=%d", n), func(b *testing.B) { monitorWithKeepers(b, n) })
	}
}

func monitorWithKeepers(b *testing.B, n int) {
	b.Helper()
	g := group.New(b, group.Config{})
	uri, err := pg.ParseConnInfo(g.MonitorURI())
	require.NoError(b, err)
	admin, err := pgautofailover.Connect(b.Context(), pgautofailover.ConnectConfig{ConnInfo: uri, ApplicationName: "bench"})
	require.NoError(b, err)
	b.Cleanup(func() { _ = admin.Close(context.WithoutCancel(b.Context())) })
	began := time.Now()
	keepers := startKeepers(b, uri, admin, n)
	b.Logf("%d keepers registered after %.1f s", n, time.Since(began).Seconds())
	pgtest.Eventually(b, group.Patience, func() error { return settled(b.Context(), admin, n) })
	b.Logf("all groups settled after %.1f s", time.Since(began).Seconds())

	for _, k := range keepers {
		k.reports.Store(0)
		k.slowest.Store(0)
	}
	used := idleCosts(b, []*group.Member{g.Monitor})[0]
	var reports, slowest int64
	for _, k := range keepers {
		reports += k.reports.Load()
		slowest = max(slowest, k.slowest.Load())
	}
	b.Logf("%.0f reports a second, the slowest took %s", float64(reports)/watchFor.Seconds(), time.Duration(slowest))
	aims := map[int]float64{200: 50}
	measured.add(fmt.Sprintf("%d simulated keepers: the monitor with its server, of a core", n), ofACore, aims[n], ours, used.program+used.server)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(used.program, "program-%core")
	b.ReportMetric(used.server, "server-%core")
	b.ReportMetric(used.program+used.server, "total-%core")
	b.ReportMetric(used.memory, "program-MB")
}

// settled returns nil when every group has a primary and secondaries, or one node only.
func settled(ctx context.Context, db *pgautofailover.DB, n int) error {
	rows, err := db.AllNodeRows(ctx)
	if err != nil {
		return err
	}
	moving := 0
	for _, r := range rows {
		if r.Goal != r.Reported || !r.Goal.In(fsm.Primary, fsm.Secondary, fsm.Single) || r.Health != fsm.HealthGood {
			moving++
		}
	}
	if len(rows) != n || moving > 0 {
		return fmt.Errorf("%d of %d nodes, %d of them moving", len(rows), n, moving)
	}
	return nil
}

package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

const (
	twoNodes    = "from nothing: two nodes of a monitor that runs"
	withMonitor = "from nothing: a monitor and two nodes"
)

// BenchmarkFromNothing measures how long it takes to have two nodes that
// replicate: without a monitor to begin with, with one that runs already, and
// by hand without anything that watches.
func BenchmarkFromNothing(b *testing.B) {
	all := contenders(b)
	var bare, first []float64
	b.Run("bare", func(b *testing.B) {
		repeat(b, func(b *testing.B) {
			b.Helper()
			whole, one := bareCluster(b)
			bare, first = append(bare, whole.Seconds()), append(first, one.Seconds())
		})
	})
	aim := median(bare) * 3 / 2
	why := fmt.Sprintf("1.5 times initdb, base backup and two starts by hand, %.2f s", median(bare))
	measured.explain(twoNodes, inSeconds, aim, why)
	measured.explain(withMonitor, inSeconds, aim, fmt.Sprintf("%s, which count no monitor: its initdb and start by hand take another %.2f s", why, median(first)))
	for _, c := range all {
		b.Run(c.name, func(b *testing.B) {
			c.use(b)
			repeat(b, func(b *testing.B) {
				b.Helper()
				whole, nodes := cluster(b)
				measured.add(twoNodes, inSeconds, aim, c.name, nodes.Seconds())
				measured.add(withMonitor, inSeconds, aim, c.name, whole.Seconds())
			})
		})
	}
}

// cluster makes a monitor and two nodes, and returns how long everything took
// and how long the nodes did.
func cluster(b *testing.B) (whole, nodes time.Duration) {
	b.Helper()
	began := time.Now()
	g := group.New(b, group.Config{})
	ready := time.Now()
	for i := range 2 {
		g.Create(b, fmt.Sprintf("node%d", i+1))
		if i == 0 {
			g.WaitState(b, g.Nodes[0], "single")
		}
	}
	g.WaitWhole(b)
	whole, nodes = time.Since(began), time.Since(ready)
	tidy(b, g)
	return whole, nodes
}

// repeat runs something a few times, each in a benchmark of its own so that it
// cleans up after itself.
func repeat(b *testing.B, once func(b *testing.B)) {
	b.Helper()
	for i := range *rounds {
		b.Run(strconv.Itoa(i+1), func(b *testing.B) {
			once(b)
			b.ReportMetric(0, "ns/op")
		})
	}
}

// bareCluster makes a primary and a standby with PostgreSQL's own programs, and
// returns how long that took, and how long the first server of them.
func bareCluster(b *testing.B) (whole, first time.Duration) {
	b.Helper()
	bin, dir := pgtest.Bin(b), pgtest.Dir(b)
	primary, standby := filepath.Join(dir, "primary"), filepath.Join(dir, "standby")
	port := strconv.Itoa(pgtest.FreePort(b))
	run := func(program string, args ...string) {
		b.Helper()
		r := pgtest.Run(b, group.Patience, pgtest.Command{Path: filepath.Join(bin, program), Args: args, Dir: dir})
		require.Zero(b, r.Code, "%s: %s%s", program, r.Stdout, r.Stderr)
	}
	start := func(data, port string) {
		b.Helper()
		run("pg_ctl", "start", "-w", "-D", data, "-l", data+".log", "-o", "-k "+dir+" -p "+port+" -c listen_addresses=127.0.0.1")
		b.Cleanup(func() { run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", data) })
	}
	began := time.Now()
	run("initdb", "--auth=trust", "-D", primary)
	start(primary, port)
	first = time.Since(began)
	run("pg_basebackup", "-D", standby, "-h", "127.0.0.1", "-p", port, "-X", "stream", "-c", "fast", "-R")
	start(standby, strconv.Itoa(pgtest.FreePort(b)))
	conn := pgtest.Connect(b, "host=127.0.0.1 sslmode=disable dbname=postgres user="+pgtest.Superuser+" port="+port)
	pgtest.Eventually(b, group.Patience, func() error {
		var n int
		err := conn.QueryRow(context.Background(), "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").Scan(&n)
		if err == nil && n == 0 {
			err = fmt.Errorf("nothing streams")
		}
		return err
	})
	return time.Since(began), first
}

package bench

import (
	"fmt"
	"os"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/pgdrover/pgdrover/test/group"
)

// cost is what a member uses while nothing happens.
type cost struct {
	program, server float64 // percent of a core
	memory          float64 // of the program, in megabytes
}

// BenchmarkIdle measures what the programs and servers of a group of three
// cost when nothing happens: aims are 30 MB and 0.5 % of a core for a keeper,
// 1 % for a monitor with its server.
func BenchmarkIdle(b *testing.B) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nidle group of three, percent of a core\tprogram\tserver\tmemory of the program")
	for _, c := range contenders(b) {
		b.Run(c.name, func(b *testing.B) {
			c.use(b)
			g := group.Start(b, group.Config{Nodes: 3})
			tidy(b, g)
			primary := g.WaitWhole(b)
			time.Sleep(5 * time.Second) // what followed the last edge is over then
			members := append([]*group.Member{g.Monitor}, g.Nodes...)
			costs := idleCosts(b, members)
			for i, m := range members {
				name := m.Name
				if m == primary {
					name += " (primary)"
				}
				fmt.Fprintf(w, "%s, %s\t%.2f %%\t%.2f %%\t%.1f MB\n", c.name, name, costs[i].program, costs[i].server, costs[i].memory)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(costs[0].program+costs[0].server, "monitor-%core")
			b.ReportMetric(max(costs[1].program, costs[2].program, costs[3].program), "keeper-%core")
			b.ReportMetric(max(costs[1].memory, costs[2].memory, costs[3].memory), "keeper-MB")
		})
	}
	_ = w.Flush()
}

func idleCosts(b *testing.B, members []*group.Member) []cost {
	b.Helper()
	costs := make([]cost, len(members))
	use := func(sign float64) time.Time {
		for i, m := range members {
			postmaster := m.Postmaster(b)
			for _, p := range tree(b, postmaster) {
				costs[i].server += sign * p.cpu.Seconds()
			}
			for _, pid := range programs(b, m) {
				// Without its children: the server may be one of them.
				p, err := readProcess(pid)
				if err != nil {
					continue
				}
				costs[i].program += sign * p.own.Seconds()
			}
		}
		return time.Now()
	}
	began := use(-1)
	time.Sleep(watchFor)
	took := use(1).Sub(began).Seconds()
	for i, m := range members {
		costs[i].program *= 100 / took
		costs[i].server *= 100 / took
		for _, pid := range programs(b, m) {
			costs[i].memory += resident(b, pid)
		}
	}
	return costs
}

package bench

import (
	"testing"
	"time"

	"github.com/pgdrover/pgdrover/test/group"
)

// cost is what a member uses while nothing happens.
type cost struct {
	program, server float64 // percent of a core
	memory          float64 // of the program, in megabytes
}

// BenchmarkIdle measures what the programs and servers of a group of three
// cost when nothing happens.
func BenchmarkIdle(b *testing.B) {
	for _, c := range contenders(b) {
		b.Run(c.name, func(b *testing.B) {
			c.use(b)
			g := group.Start(b, group.Config{Nodes: 3})
			tidy(b, g)
			g.WaitWhole(b)
			time.Sleep(5 * time.Second) // what followed the last edge is over then
			costs := idleCosts(b, append([]*group.Member{g.Monitor}, g.Nodes...))
			for _, k := range costs[1:] {
				measured.add("idle, three nodes: memory of a keeper", inMegabytes, 30, c.name, k.memory)
				measured.add("idle, three nodes: a keeper, of a core", ofACore, 0.5, c.name, k.program)
				measured.add("idle, three nodes: a node's server, of a core", ofACore, 0, c.name, k.server)
			}
			measured.add("idle, three nodes: the monitor with its server, of a core", ofACore, 1, c.name, costs[0].program+costs[0].server)
			b.ReportMetric(0, "ns/op")
		})
	}
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

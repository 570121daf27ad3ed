package bench

import (
	"flag"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pgdrover/pgdrover/test/group"
)

// startupGrace is a little longer than pgautofailover.startup_grace_period.
const startupGrace = 11 * time.Second

var rounds = flag.Int("rounds", 5, "how often each failure is measured; the median counts")

// failure is something that happens to a primary, or is done to it.
type failure struct {
	name string
	aim  time.Duration
	// why says where the time goes, when that is not plain.
	why string
	// stays: the same node serves on.
	stays bool
	// waits: theirs does nothing but wait for most of a minute.
	waits bool
	// cause lets it happen and returns what brings the group back to health afterwards.
	cause func(b *testing.B, g *group.Group, primary *group.Member) (heal func())
}

// failures by the number of nodes that they happen to.
func failures(nodes int) []failure {
	if nodes == 3 {
		return []failure{{
			name: "switchover, three nodes", aim: 400 * time.Millisecond, cause: switchover,
			why: "the first commit waits until the other standby has followed and holds it; with two nodes it waits for nobody",
		}}
	}
	return []failure{
		{name: "switchover, two nodes", aim: 400 * time.Millisecond, cause: switchover},
		{name: "postmaster killed", aim: time.Second, stays: true, cause: postmasterKilled},
		{name: "postmaster and keeper killed", aim: 1500 * time.Millisecond, waits: true, cause: bothKilled},
		{name: "host silent", aim: 5 * time.Second, waits: true, cause: hostSilent},
	}
}

func switchover(b *testing.B, g *group.Group, _ *group.Member) (heal func()) {
	b.Helper()
	g.Switchover(b)
	return func() {}
}

func postmasterKilled(b *testing.B, _ *group.Group, primary *group.Member) (heal func()) {
	b.Helper()
	primary.KillPostmaster(b)
	return func() {}
}

func bothKilled(b *testing.B, _ *group.Group, primary *group.Member) (heal func()) {
	b.Helper()
	killBoth(b, primary)
	return func() { primary.Start(b) }
}

func hostSilent(b *testing.B, _ *group.Group, primary *group.Member) (heal func()) {
	b.Helper()
	return freeze(b, primary)
}

// BenchmarkGap measures how long writers wait: the longest time without an
// acknowledged commit, median of several rounds. A round begins when the group
// is whole again.
func BenchmarkGap(b *testing.B) {
	all := contenders(b)
	for _, nodes := range []int{2, 3} {
		for _, c := range all {
			b.Run(fmt.Sprintf("nodes=%d/%s", nodes, c.name), func(b *testing.B) {
				c.use(b)
				b.ReportMetric(0, "ns/op")
				gaps(b, c, nodes)
			})
		}
	}
}

// gaps measures all failures of a contender. Those for which theirs only waits
// share that time, each with a group of its own: nothing else could keep a run
// short enough to be repeated.
func gaps(b *testing.B, c contender, nodes int) {
	b.Helper()
	one := func(g *group.Group, w *group.Writer, f failure) {
		began := time.Now()
		gaps := measure(b, g, w, f)
		measured.add("write gap: "+f.name, inSeconds, f.aim.Seconds(), c.name, seconds(gaps)...)
		measured.explain("write gap: "+f.name, inSeconds, f.aim.Seconds(), f.why)
		b.Logf("%s, %s: %v, all in %s", c.name, f.name, gaps, time.Since(began).Round(time.Second))
	}
	together := func(f failure) bool { return f.waits && c.name == theirs }
	g, w := startWritten(b, nodes)
	for _, f := range failures(nodes) {
		if !together(f) {
			one(g, w, f)
		}
	}
	var waiting sync.WaitGroup
	for i, f := range slices.DeleteFunc(failures(nodes), func(f failure) bool { return !together(f) }) {
		if i > 0 {
			g, w = startWritten(b, nodes)
		}
		mine, writer := g, w
		waiting.Go(func() { one(mine, writer, f) })
	}
	waiting.Wait()
}

// startWritten starts a group and its writer, and waits until the monitor has
// watched long enough to act.
func startWritten(b *testing.B, nodes int) (*group.Group, *group.Writer) {
	b.Helper()
	g := group.Start(b, group.Config{Nodes: nodes})
	tidy(b, g)
	g.CreateLedger(b)
	// Several sessions, so that one that waits for a server that does not
	// answer does not hide that another one is served.
	w := g.Write(b, group.WriterConfig{Sessions: 4, Patience: 500 * time.Millisecond})
	w.WaitAck(b, time.Now())
	// A monitor replaces nobody right after its start: it has to watch first.
	time.Sleep(startupGrace)
	return g, w
}

// measure lets a failure happen again and again.
func measure(b *testing.B, g *group.Group, w *group.Writer, f failure) []time.Duration {
	b.Helper()
	var gaps []time.Duration
	for range *rounds {
		primary := g.WaitWhole(b)
		w.WaitAck(b, time.Now())
		began := time.Now()
		heal := f.cause(b, g, primary)
		next := w.WaitAck(b, began.Add(50*time.Millisecond))
		for next.Port == primary.Port && !f.stays {
			next = w.WaitAck(b, next.Got)
		}
		// What follows right behind belongs to it as well.
		w.WaitAck(b, time.Now().Add(time.Second))
		gaps = append(gaps, w.Gap(began).Round(time.Millisecond))
		heal()
		primary = g.WaitWhole(b)
		w.WaitAck(b, time.Now())
		primary.RequireAll(b, w.Acks())
		tidy(b, g) // also for what was started meanwhile
	}
	return gaps
}

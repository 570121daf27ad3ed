package citus

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

var rounds = flag.Int("rounds", 5, "how often each failure is measured; the median counts")

// gapRow is one line of what the benchmark prints.
type gapRow struct {
	what string
	aim  time.Duration
	got  []time.Duration
}

// gapTable collects what the benchmarks of one run have measured.
type gapTable struct {
	mu      sync.Mutex
	genuine bool
	rows    []*gapRow
}

// measured is what this run has found.
var measured gapTable

func (g *gapTable) add(genuine bool, row *gapRow) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.genuine = genuine
	g.rows = append(g.rows, row)
}

// write prints the table, in the Markdown of the documentation.
func (g *gapTable) write(w io.Writer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.rows) == 0 {
		return
	}
	with := "a stand-in for the extension, which is not installed here"
	if g.genuine {
		with = "the extension itself"
	}
	fmt.Fprintf(w, "\nWrites through the coordinator of a Citus formation, with %s: medians, with the smallest and the largest in parentheses.\n\n", with)
	fmt.Fprintf(w, "| | pgdrover | aim |\n|---|---|---|\n")
	for _, r := range g.rows {
		slices.Sort(r.got)
		middle, verdict := r.got[len(r.got)/2], "met"
		if middle > r.aim {
			verdict = "missed"
		}
		fmt.Fprintf(w, "| write gap, Citus: %s | %.2f s (%.2f to %.2f) | %.2f s, %s |\n",
			r.what, middle.Seconds(), r.got[0].Seconds(), r.got[len(r.got)-1].Seconds(), r.aim.Seconds(), verdict)
	}
	fmt.Fprintln(w)
}

// benchmarks prints the table after the last of them.
type benchmarks struct{ *testing.M }

func (m benchmarks) Run() int {
	code := m.M.Run()
	measured.write(os.Stdout)
	return code
}

// The longest that a write may wait: for a node that is lost, for the silence that is taken for a
// loss, and for the locks of sessions that were with it.
const (
	lossAim    = 3 * time.Second
	silenceAim = lossAim + 3*time.Second + 10*time.Second
)

// gapRound is one failure, and how to make up for it.
type gapRound struct {
	what  string
	aim   time.Duration
	cause func() (heal func())
}

// measure repeats failures, each when every group is whole again.
func (f *formation) measure(b *testing.B, rows func(w *writer) []gapRound) {
	b.Helper()
	b.ReportMetric(0, "ns/op")
	f.createLedger(b)
	w := f.write(b)
	w.waitAck(b, time.Now())
	for _, c := range rows(w) {
		row := &gapRow{what: c.what, aim: c.aim}
		for range *rounds {
			heal := c.cause()
			w.waitAck(b, time.Now())
			row.got = append(row.got, w.longest())
			heal()
			f.requireHealed(b, w)
		}
		measured.add(f.genuine, row)
		b.Logf("%s: %v", row.what, row.got)
	}
	w.end()
}

// BenchmarkGap measures how long clients of the coordinator wait, the longest time without
// an acknowledged row, when a worker, the coordinator, or both are lost.
func BenchmarkGap(b *testing.B) {
	bin, genuine := pgtest.Citus(b)
	f := &formation{genuine: genuine, workers: 1, brisk: true}
	f.start(b, bin)
	f.measure(b, func(w *writer) []gapRound { return f.losses(b, w) })
}

// BenchmarkGapSilent measures the same when a worker's host is cut off from everybody.
func BenchmarkGapSilent(b *testing.B) {
	bin, genuine := pgtest.Citus(b)
	f := &formation{genuine: genuine, workers: 1, alone: true, brisk: true}
	f.net = pgtest.NewNetwork(b, append([]string{"monitor"}, f.allNames()...)...)
	f.start(b, bin)
	f.measure(b, func(w *writer) []gapRound {
		silent := func() func() {
			old := f.primary(b, 1, nil)
			w.begin()
			f.net.Isolate(b, old.Host)
			f.primary(b, 1, old)
			return func() { f.net.Heal(b) }
		}
		return []gapRound{{"a worker's host is silent (3 s of silence, up to 10 s of lock cooldown)", silenceAim, silent}}
	})
}

func (f *formation) losses(b *testing.B, w *writer) []gapRound {
	b.Helper()
	killed := func(numbers ...int) func() (heal func()) {
		return func() func() {
			var old []*group.Member
			for _, number := range numbers {
				old = append(old, f.primary(b, number, nil))
			}
			w.begin()
			for _, m := range old {
				m.KillBoth(b)
			}
			for i, m := range old {
				f.primary(b, numbers[i], m)
			}
			return func() {
				for _, m := range old {
					m.Start(b)
				}
			}
		}
	}
	hangs := func() func() {
		old := f.primary(b, 1, nil)
		w.begin()
		resume := old.Freeze(b)
		f.primary(b, 1, old)
		return resume
	}
	return []gapRound{
		{"a worker killed", lossAim, killed(1)},
		{"the coordinator killed", lossAim, killed(0)},
		{"a worker and the coordinator killed", 2 * lossAim, killed(0, 1)},
		{"a worker hangs (3 s of silence, up to 10 s of lock cooldown)", 13 * time.Second, hangs},
	}
}

package bench

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/pgdrover/pgdrover/test/group"
)

// startupGrace is a little longer than pgautofailover.startup_grace_period.
const startupGrace = 11 * time.Second

var rounds = flag.Int("rounds", 5, "how often each failure is measured; the median counts")

// failure is something that happens to a primary, or is done to it.
type failure struct {
	name  string
	nodes int
	aim   time.Duration
	// cause lets it happen and returns what brings the group back to health afterwards.
	cause func(b *testing.B, g *group.Group, primary *group.Member) (heal func())
}

func failures() []failure {
	return []failure{
		{"switchover, 2 nodes", 2, 400 * time.Millisecond, switchover},
		{"switchover, 3 nodes", 3, 400 * time.Millisecond, switchover},
		{"postmaster killed", 2, time.Second, postmasterKilled},
		{"postmaster and keeper killed", 2, 1500 * time.Millisecond, bothKilled},
		{"host silent", 2, 5 * time.Second, hostSilent},
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
	var lines []line
	for _, f := range failures() {
		l := line{what: f.name, aim: f.aim}
		for _, c := range all {
			b.Run(strings.ReplaceAll(f.name, " ", "-")+"/"+c.name, func(b *testing.B) {
				c.use(b)
				gaps := measure(b, f)
				l.add(c.name, median(gaps))
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(median(gaps).Seconds(), "s-gap")
				b.Logf("%s: %v", c.name, gaps)
			})
		}
		lines = append(lines, l)
	}
	show("write gap, median of "+fmt.Sprint(*rounds), lines)
}

func measure(b *testing.B, f failure) []time.Duration {
	b.Helper()
	g := group.Start(b, group.Config{Nodes: f.nodes})
	tidy(b, g)
	g.CreateLedger(b)
	// Several sessions, so that one that waits for a server that does not
	// answer does not hide that another one is served.
	w := g.Write(b, group.WriterConfig{Sessions: 4, Patience: 500 * time.Millisecond})
	defer w.Stop()
	w.WaitAck(b, time.Now())
	// A monitor replaces nobody right after its start: it has to watch first.
	time.Sleep(startupGrace)
	var gaps []time.Duration
	for range *rounds {
		primary := g.WaitWhole(b)
		w.WaitAck(b, time.Now())
		began := time.Now()
		heal := f.cause(b, g, primary)
		next := w.WaitAck(b, began.Add(50*time.Millisecond))
		for next.Port == primary.Port && f.lasting() {
			next = w.WaitAck(b, next.Got)
		}
		// What follows right behind belongs to it as well.
		w.WaitAck(b, time.Now().Add(time.Second))
		gaps = append(gaps, w.Gap(began).Round(time.Millisecond))
		heal()
		primary = g.WaitWhole(b)
		w.WaitAck(b, time.Now())
		primary.RequireAll(b, w.Acks())
	}
	tidy(b, g) // also for what was started meanwhile
	return gaps
}

// lasting: another node has to take over.
func (f failure) lasting() bool { return f.name != "postmaster killed" }

// line is one row of the table of results.
type line struct {
	what   string
	aim    time.Duration
	result map[string]time.Duration
}

func (l *line) add(contender string, d time.Duration) {
	if l.result == nil {
		l.result = make(map[string]time.Duration)
	}
	l.result[contender] = d
}

// show prints results side by side, with the ratio between them and the aims.
func show(title string, lines []line) {
	fmt.Printf("\n%s\n", title)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\t%s\t%s\tratio\taim\t\n", ours, theirs)
	for _, l := range lines {
		mine, other := l.result[ours], l.result[theirs]
		ratio, theirText, verdict := "-", "-", "met"
		if other > 0 {
			theirText = seconds(other)
			ratio = fmt.Sprintf("%.3f", mine.Seconds()/other.Seconds())
		}
		switch {
		case mine == 0:
			verdict = "not measured"
		case mine > l.aim:
			verdict = "missed"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", l.what, seconds(mine), theirText, ratio, seconds(l.aim), verdict)
	}
	_ = w.Flush()
	fmt.Println()
}

func seconds(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func median(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

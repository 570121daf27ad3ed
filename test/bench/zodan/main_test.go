package zodan

import (
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/pgdrover/pgdrover/test/group"
)

// benchmarks prints the report after the last of them.
type benchmarks struct{ *testing.M }

func (m benchmarks) Run() int {
	code := m.M.Run()
	measured.write(os.Stdout)
	return code
}

func TestMain(m *testing.M) { group.Main(benchmarks{m}) }

// measured is what this run has found.
var measured report

// report are the times of each way to copy a database, a value a round.
type report struct {
	scale int
	ways  []string
	times map[string][]time.Duration
}

func (r *report) add(way string, took time.Duration) {
	if r.times == nil {
		r.times = map[string][]time.Duration{}
	}
	if !slices.Contains(r.ways, way) {
		r.ways = append(r.ways, way)
	}
	r.times[way] = append(r.times[way], took)
}

// median is that of a way's times.
func (r *report) median(way string) time.Duration {
	times := slices.Sorted(slices.Values(r.times[way]))
	return times[len(times)/2]
}

func (r *report) write(to io.Writer) {
	if len(r.ways) == 0 {
		return
	}
	fmt.Fprintf(to, "\nA node joins, pgbench scale %d, medians of %d\n", r.scale, len(r.times[r.ways[0]]))
	bare := time.Duration(0)
	for _, way := range r.ways {
		if took := r.median(way); way != addNode && (bare == 0 || took < bare) {
			bare = took
		}
		fmt.Fprintf(to, "  %-40s %7.1f s\n", way, r.median(way).Seconds())
	}
	if took := r.median(addNode); bare > 0 {
		fmt.Fprintf(to, "  %-40s %7.2f (with 5 s less: %.2f)\n", "times the faster bare copy", took.Seconds()/bare.Seconds(), (took-5*time.Second).Seconds()/bare.Seconds())
	}
}

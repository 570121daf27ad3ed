package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// row is one line of the report: the same measured of both contenders.
type row struct {
	what string
	unit unit
	aim  float64 // what ours may need at most; 0 means that there is no aim
	why  string  // where the aim comes from, or the time goes
	got  map[string][]float64
}

// unit says how a number is written.
type unit string

const (
	inSeconds   unit = "%.2f s"
	ofACore     unit = "%.1f %%"
	inMegabytes unit = "%.0f MB"
)

func (u unit) format(v float64) string { return fmt.Sprintf(string(u), v) }

// report collects what the benchmarks of one run have measured.
type report struct {
	mu   sync.Mutex
	rows []*row
}

// row finds or adds a line.
func (r *report) row(what string, u unit, aim float64) *row {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, have := range r.rows {
		if have.what == what {
			return have
		}
	}
	r.rows = append(r.rows, &row{what: what, unit: u, aim: aim, got: make(map[string][]float64)})
	return r.rows[len(r.rows)-1]
}

// add takes measurements of a contender.
func (r *report) add(what string, u unit, aim float64, who string, values ...float64) {
	line := r.row(what, u, aim)
	r.mu.Lock()
	defer r.mu.Unlock()
	line.got[who] = append(line.got[who], values...)
}

// explain says where the aim of a line comes from, or where its time goes.
func (r *report) explain(what string, u unit, aim float64, why string) { r.row(what, u, aim).why = why }

// write prints the table, in the Markdown of the documentation.
func (r *report) write(w io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.rows) == 0 {
		return
	}
	fmt.Fprintf(w, "\nMedians, with the smallest and the largest in parentheses; the ratio is %s to %s 2.0 in the same run.\n\n", ours, theirs)
	fmt.Fprintf(w, "| | %s | %s 2.0 | ratio | aim |\n|---|---|---|---|---|\n", ours, theirs)
	for _, line := range r.rows {
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", line.what, line.cell(ours), line.cell(theirs), line.ratio(), line.verdict())
	}
	fmt.Fprintln(w)
}

// cell is the median of a contender and its spread.
func (l *row) cell(who string) string {
	got := slices.Sorted(slices.Values(l.got[who]))
	switch len(got) {
	case 0:
		return "-"
	case 1:
		return l.unit.format(got[0])
	}
	number, _, _ := strings.Cut(string(l.unit), " ")
	return fmt.Sprintf("%s (%s)", l.unit.format(median(got)), fmt.Sprintf(number+" to "+number, got[0], got[len(got)-1]))
}

func (l *row) ratio() string {
	mine, other := median(l.got[ours]), median(l.got[theirs])
	if len(l.got[ours]) == 0 || other == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", mine/other)
}

func (l *row) verdict() string {
	aim := l.unit.format(l.aim)
	if l.why != "" {
		aim += " (" + l.why + ")"
	}
	switch mine := l.got[ours]; {
	case l.aim == 0:
		return "-"
	case len(mine) == 0:
		return aim
	case median(mine) > l.aim:
		return aim + ", missed"
	default:
		return aim + ", met"
	}
}

// median of some values; zero when there are none.
func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

func seconds(all []time.Duration) []float64 {
	values := make([]float64, len(all))
	for i, d := range all {
		values[i] = d.Seconds()
	}
	return values
}

package multimaster

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// line is one line of the report: the same measured of all contenders.
type line struct {
	what string
	unit string // as a format
	aim  aim
	got  map[string][]float64
}

// aim is what ours is to reach beside the others.
type aim struct {
	ratio float64 // to the best of beside; 0 means that there is no aim
	less  bool    // the smaller the better
	// beside are those whom it is measured by; nil is native replication.
	beside []string
}

type report struct{ lines []*line }

// add takes a measurement of a contender.
func (r *report) add(what, unit string, a aim, who string, value float64) {
	at := slices.IndexFunc(r.lines, func(l *line) bool { return l.what == what })
	if at < 0 {
		at = len(r.lines)
		r.lines = append(r.lines, &line{what: what, unit: unit, aim: a, got: map[string][]float64{}})
	}
	r.lines[at].got[who] = append(r.lines[at].got[who], value)
}

// write prints the table, in the Markdown of the documentation.
func (r *report) write(w io.Writer) {
	if len(r.lines) == 0 {
		return
	}
	names := []string{ours, native, pglogical, dump, bare}
	fmt.Fprintf(w, "\nMedians, with the smallest and the largest in parentheses; the ratio is %s to %s in the same run.\n\n", ours, native)
	fmt.Fprintf(w, "| | %s | ratio | aim |\n|---%s|---|---|\n", strings.Join(names, " | "), strings.Repeat("|---", len(names)))
	for _, l := range r.lines {
		fmt.Fprintf(w, "| %s |", l.what)
		for _, name := range names {
			fmt.Fprintf(w, " %s |", l.cell(name))
		}
		fmt.Fprintf(w, " %s | %s |\n", l.ratio(native), l.verdict())
	}
	fmt.Fprintln(w)
}

// cell is the median of a contender and its spread.
func (l *line) cell(who string) string {
	got := slices.Sorted(slices.Values(l.got[who]))
	switch len(got) {
	case 0:
		return "-"
	case 1:
		return fmt.Sprintf(l.unit, got[0])
	}
	number, _, _ := strings.Cut(l.unit, " ")
	return fmt.Sprintf(l.unit+" ("+number+" to "+number+")", median(got), got[0], got[len(got)-1])
}

func (l *line) ratio(who string) string {
	mine, other := median(l.got[ours]), median(l.got[who])
	if len(l.got[ours]) == 0 || other == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", mine/other)
}

// verdict compares with the aim. A miss by less than the spread is a tie.
func (l *line) verdict() string {
	if l.aim.ratio == 0 || len(l.got[ours]) == 0 {
		return "-"
	}
	beside := l.aim.beside
	if beside == nil {
		beside = []string{native}
	}
	best, spread, found := 0.0, 0.0, false
	for _, who := range beside {
		got := l.got[who]
		if len(got) == 0 {
			continue
		}
		if m := median(got); !found || (m < best) == l.aim.less {
			best, spread, found = m, (slices.Max(got)-slices.Min(got))/m, true
		}
	}
	if !found {
		return "-"
	}
	mine := l.got[ours]
	spread = max(spread, (slices.Max(mine)-slices.Min(mine))/median(mine))
	ratio, word, sign := median(mine)/best, "missed", "≥"
	short := l.aim.ratio/ratio - 1
	if l.aim.less {
		short, sign = ratio/l.aim.ratio-1, "≤"
	}
	switch {
	case short <= 0:
		word = "met"
	case short < spread:
		word = "tie"
	}
	return fmt.Sprintf("%s %.1f of %s: %.2f, %s", sign, l.aim.ratio, strings.Join(beside, ", "), ratio, word)
}

// median of some values; zero when there are none.
func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

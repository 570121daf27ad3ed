package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ticksPerSecond is the unit of times in /proc; Linux has had no other for user space.
const ticksPerSecond = 100

// process is one line of /proc/<pid>/stat, as far as it matters here.
type process struct {
	pid, parent int
	// cpu counts this process and the children that it has waited for, own
	// the process alone.
	cpu, own time.Duration
}

func readProcess(pid int) (process, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	// The name is in parentheses and may hold anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	number := func(n int) int {
		v, _ := strconv.Atoi(fields[n-3])
		return v
	}
	ticks := func(n int) time.Duration { return time.Duration(n) * time.Second / ticksPerSecond }
	own := ticks(number(14) + number(15))
	return process{pid: pid, parent: number(4), own: own, cpu: own + ticks(number(16)+number(17))}, nil
}

// tree returns a process and everything below it.
func tree(t testing.TB, root int) []process {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	children := make(map[int][]process)
	for _, path := range entries {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		p, err := readProcess(pid)
		if err != nil {
			continue // it has ended
		}
		children[p.parent] = append(children[p.parent], p)
	}
	top, err := readProcess(root)
	if err != nil {
		t.Fatalf("look at process %d: %v", root, err)
	}
	all := []process{top}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i].pid]...)
	}
	return all
}

// resident is the memory of one process, in megabytes.
func resident(t testing.TB, pid int) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return kb / 1024
		}
	}
	return 0
}

package postgres

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"
)

// progress tells a server that recovers slowly from one that waits for what
// does not come. No connection shows that yet, the processes do: their titles
// name the segment that is replayed and the position that was received, and the
// kernel counts what they read and how long they compute.
type progress struct {
	instance *Instance
	limit    time.Duration // 0: never stalled
	seen     map[string]bool
	moved    time.Time // when something new was last seen
	looked   time.Time
}

// progressPeriod is how often the processes are looked at.
const progressPeriod = 500 * time.Millisecond

func newProgress(i *Instance, limit time.Duration) *progress {
	now := time.Now()
	return &progress{instance: i, limit: limit, seen: make(map[string]bool), moved: now, looked: now}
}

// stalled reports that nothing new was seen for the limit. Time in which
// nobody looked, because this process was stopped itself, does not count.
func (p *progress) stalled() bool {
	now := time.Now()
	since := now.Sub(p.looked)
	if p.limit == 0 || since < progressPeriod {
		return false
	}
	if since > 4*progressPeriod {
		p.moved = p.moved.Add(since)
	}
	p.looked = now
	for _, sign := range p.instance.recoverySigns() {
		if !p.seen[sign] {
			p.seen[sign], p.moved = true, now
		}
	}
	return now.Sub(p.moved) > p.limit
}

// recoverySigns lists what the processes that recover show of their work.
func (i *Instance) recoverySigns() []string {
	pids, err := i.serverProcesses()
	if err != nil {
		return nil
	}
	var signs []string
	for _, pid := range pids {
		raw, err := os.ReadFile(procPath(pid) + "/cmdline")
		if err != nil {
			continue
		}
		title := strings.TrimSpace(string(bytes.ReplaceAll(raw, []byte{0}, []byte{' '})))
		switch {
		case strings.Contains(title, "walreceiver") && strings.Contains(title, "streaming"):
			signs = append(signs, title)
		case strings.Contains(title, "startup"):
			signs = append(signs, title, workOf(pid))
		}
	}
	return signs
}

// workOf sums up what a process has read from disks and how many seconds it has
// computed: waiting costs neither.
func workOf(pid int) string {
	_, fields, err := processStat(pid)
	if err != nil {
		return ""
	}
	var user, system int64
	_, _ = fmt.Sscan(fields[11], &user)
	_, _ = fmt.Sscan(fields[12], &system)
	var work strings.Builder
	fmt.Fprintf(&work, "%d: %d s ", pid, (user+system)/clockTicks)
	counts, _ := os.ReadFile(procPath(pid) + "/io")
	for line := range strings.Lines(string(counts)) {
		// Not what it writes: a server that only waits may say so in its log again and again.
		if strings.HasPrefix(line, "read_bytes") {
			work.WriteString(line)
		}
	}
	return work.String()
}

package apply

import (
	"sync"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// durability knows which of the provider's transactions are on disk here: only
// those may be acknowledged. A commit does not tell where it stands in the local
// log; any position read after it is an upper bound.
type durability struct {
	mu      sync.Mutex
	commits []commit
	flushed pg.LSN // of the provider's log
}

type commit struct {
	end   pg.LSN // there
	bound pg.LSN // here; 0 until one was read
}

// committed adds a transaction that has committed here.
func (d *durability) committed(end pg.LSN) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.commits = append(d.commits, commit{end: end})
}

// mark is called before positions are read; it returns what to give to advance.
func (d *durability) mark() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.commits)
}

// advance takes positions that were read after mark: how far the local log is
// written and how far it is on disk.
func (d *durability) advance(marked int, insert, flush pg.LSN) pg.LSN {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := marked - 1; i >= 0 && d.commits[i].bound == 0; i-- {
		d.commits[i].bound = insert
	}
	n := 0
	for n < len(d.commits) && d.commits[n].bound != 0 && d.commits[n].bound <= flush {
		d.flushed = max(d.flushed, d.commits[n].end)
		n++
	}
	d.commits = append(d.commits[:0], d.commits[n:]...)
	return d.flushed
}

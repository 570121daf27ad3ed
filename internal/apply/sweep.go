package apply

import (
	"runtime/debug"
	"sync"
	"time"
)

const (
	// sweepSize is what is worth it, in bytes.
	sweepSize = 4 << 20
	// sweepAfter is how long memory that held something huge waits for the next one.
	sweepAfter = time.Second
)

var sweeper struct {
	mu    sync.Mutex
	timer *time.Timer
}

// sweep gives memory that held so much back to the system, soon: an engine that has little to do
// makes so little garbage that what a huge row took would be kept for minutes.
func sweep(size int) {
	if size < sweepSize {
		return
	}
	sweeper.mu.Lock()
	defer sweeper.mu.Unlock()
	if sweeper.timer == nil {
		sweeper.timer = time.AfterFunc(sweepAfter, debug.FreeOSMemory)
		return
	}
	sweeper.timer.Reset(sweepAfter)
}

package monitor

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// watchman tells of the end of processes that serve the keepers' sessions: it
// is how a keeper that died with its server is noticed at once, without asking
// for locks all the time.
type watchman interface {
	// Follow replaces the processes that are watched. It reports whether the
	// end of each of them will be told.
	Follow(pids []int) bool
	// Ended receives when one of them has ended.
	Ended() <-chan struct{}
	Close()
}

// processWatch waits for processes of this host through pidfds. The number of
// a process may have passed to another one before it is watched; whoever
// follows asks for the truth now and then anyway.
type processWatch struct {
	files map[int]*os.File
	ended chan struct{} // holds one
	wait  sync.WaitGroup
}

func newProcessWatch() *processWatch {
	return &processWatch{files: make(map[int]*os.File), ended: make(chan struct{}, 1)}
}

// Ended implements watchman.
func (w *processWatch) Ended() <-chan struct{} { return w.ended }

// Follow implements watchman.
func (w *processWatch) Follow(pids []int) bool {
	all := true
	wanted := make(map[int]bool, len(pids))
	for _, pid := range pids {
		wanted[pid] = true
		if _, known := w.files[pid]; !known {
			all = w.watch(pid) && all
		}
	}
	for pid, file := range w.files {
		if !wanted[pid] {
			_ = file.Close() // which also ends its goroutine
			delete(w.files, pid)
		}
	}
	return all
}

// watch starts waiting for one process, which Close awaits the end of.
func (w *processWatch) watch(pid int) bool {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return false // gone already, or a kernel that cannot
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	conn, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return false
	}
	w.files[pid] = file
	w.wait.Go(func() {
		// A pidfd becomes readable when its process ends.
		if conn.Read(hasEnded) == nil {
			poke(w.ended)
		}
	})
	return true
}

func hasEnded(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // descriptors are small
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// Close implements watchman.
func (w *processWatch) Close() {
	w.Follow(nil)
	w.wait.Wait()
}

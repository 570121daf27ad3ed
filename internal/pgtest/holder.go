package pgtest

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
)

// holder stands in for a test around things that outlive a single one: it keeps
// their cleanups until the process has run all its tests.
type holder struct {
	testing.TB // nil: what is not overridden below must not be called

	mu       sync.Mutex
	cleanups []func()
	failure  string
}

// do runs code that takes a testing.TB and returns its failure as an error.
func (h *holder) do(code func()) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		code()
	}()
	<-done
	if h.Failed() {
		return fmt.Errorf("set up what tests share: %s", h.failure)
	}
	return nil
}

func (h *holder) end() {
	h.mu.Lock()
	cleanups := slices.Clone(h.cleanups)
	h.cleanups = nil
	h.mu.Unlock()
	for _, f := range slices.Backward(cleanups) {
		f()
	}
}

// Helper implements testing.TB.
func (h *holder) Helper() {}

// Cleanup implements testing.TB.
func (h *holder) Cleanup(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cleanups = append(h.cleanups, f)
}

// Failed implements testing.TB.
func (h *holder) Failed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failure != ""
}

// Fatal implements testing.TB.
func (h *holder) Fatal(args ...any) { h.fail(fmt.Sprint(args...)) }

// Fatalf implements testing.TB.
func (h *holder) Fatalf(format string, args ...any) { h.fail(fmt.Sprintf(format, args...)) }

func (h *holder) fail(why string) {
	h.mu.Lock()
	h.failure = why
	h.mu.Unlock()
	runtime.Goexit()
}

// Errorf implements testing.TB. Only cleanups call it, when no test is left.
func (h *holder) Errorf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "pgtest: "+format+"\n", args...)
}

// Logf implements testing.TB.
func (h *holder) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "pgtest: "+format+"\n", args...)
}

// ArtifactDir implements testing.TB.
func (h *holder) ArtifactDir() string { return os.TempDir() }

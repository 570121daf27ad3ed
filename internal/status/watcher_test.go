package status

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeMonitor is a monitor in virtual time, and counts what is done to it.
type fakeMonitor struct {
	changed chan struct{}
	fail    chan error

	mu                          sync.Mutex
	refusals                    int
	opened, closed, read, shown int
	losses                      []error
}

// look runs do while nothing else happens to the monitor.
func (f *fakeMonitor) look(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *fakeMonitor) open(context.Context) (Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened++
	if f.refusals > 0 {
		f.refusals--
		return nil, errors.New("connection refused")
	}
	return f, nil
}

func (f *fakeMonitor) Read(context.Context) (Snapshot, error) {
	select {
	case err := <-f.fail:
		return Snapshot{}, err
	default:
	}
	f.look(func() { f.read++ })
	return Snapshot{}, nil
}

func (f *fakeMonitor) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-f.fail:
		return err
	case <-f.changed:
		return nil
	}
}

func (f *fakeMonitor) Close(context.Context) { f.look(func() { f.closed++ }) }

func TestWatcher(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fakeMonitor{changed: make(chan struct{}, 100), fail: make(chan error, 1)}
		w := Watcher{
			Open: f.open,
			Show: func(Snapshot) { f.look(func() { f.shown++ }) },
			Lost: func(err error) { f.look(func() { f.losses = append(f.losses, err) }) },
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		pass := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}

		// Nothing is notified: it looks twice a second.
		pass(5*time.Second - time.Millisecond)
		f.look(func() {
			require.Equal(t, 10, f.shown)
			f.read = 0
		})
		// A storm: ten times a second at most, and the first at once.
		for range 100 {
			f.changed <- struct{}{}
		}
		pass(2 * time.Second)
		f.look(func() { require.Equal(t, 21, f.read) })
		for len(f.changed) > 0 {
			<-f.changed
		}
		// The monitor goes away and comes back.
		f.look(func() { f.refusals, f.shown = 3, 0 })
		f.fail <- errors.New("broken pipe")
		pass(4 * time.Second)
		f.look(func() {
			require.Len(t, f.losses, 4, "each failure is told")
			require.Equal(t, 5, f.opened)
			require.Equal(t, 1, f.closed)
			require.Positive(t, f.shown)
		})

		stop := errors.New("asked to stop")
		cancel(stop)
		require.ErrorIs(t, <-done, stop)
		f.look(func() { require.Equal(t, 2, f.closed) })
	})
}

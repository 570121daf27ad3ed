package status

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeSession is a monitor in virtual time.
type fakeSession struct {
	changed chan struct{}
	fail    chan error
	reads   *[]time.Time
	closed  *int
}

func (f fakeSession) Read(context.Context) (Snapshot, error) {
	select {
	case err := <-f.fail:
		return Snapshot{}, err
	default:
	}
	*f.reads = append(*f.reads, time.Now())
	return Snapshot{}, nil
}

func (f fakeSession) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-f.fail:
		return err
	case <-f.changed:
		return nil
	}
}

func (f fakeSession) Close(context.Context) { *f.closed++ }

func TestWatcher(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reads []time.Time
		var losses []error
		shown, opened, closed := 0, 0, 0
		f := fakeSession{changed: make(chan struct{}, 100), fail: make(chan error, 1), reads: &reads, closed: &closed}
		refusals := 0
		w := Watcher{
			Open: func(context.Context) (Session, error) {
				opened++
				if refusals > 0 {
					refusals--
					return nil, errors.New("connection refused")
				}
				return f, nil
			},
			Show: func(Snapshot) { shown++ },
			Lost: func(err error) { losses = append(losses, err) },
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		var ended error
		done := make(chan struct{})
		go func() { ended = w.Run(ctx); close(done) }()

		// Nothing is notified: it looks twice a second.
		time.Sleep(5*time.Second - time.Millisecond)
		synctest.Wait()
		require.Equal(t, 10, shown)
		// A storm: ten times a second at most, and the first at once.
		reads = nil
		for range 100 {
			f.changed <- struct{}{}
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Len(t, reads, 21)
		for len(f.changed) > 0 {
			<-f.changed
		}
		// The monitor goes away and comes back.
		refusals = 3
		f.fail <- errors.New("broken pipe")
		shown = 0
		time.Sleep(4 * time.Second)
		synctest.Wait()
		require.Len(t, losses, 4, "each failure is told")
		require.Equal(t, 5, opened)
		require.Equal(t, 1, closed)
		require.Positive(t, shown)

		stop := errors.New("asked to stop")
		cancel(stop)
		<-done
		require.ErrorIs(t, ended, stop)
		require.Equal(t, 2, closed)
	})
}

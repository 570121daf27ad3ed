package status

import (
	"context"
	"errors"
	"time"

	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// Session is one connection to a monitor that listens to changes.
type Session interface {
	// Read reads the formation.
	Read(ctx context.Context) (Snapshot, error)
	// Wait returns when something may have changed, or with the context's error.
	Wait(ctx context.Context) error
	Close(ctx context.Context)
}

// How often a Watcher reads, and tries to connect again.
const (
	// readEvery is the time between two readings when nothing is notified: positions and ages move silently.
	readEvery = 500 * time.Millisecond
	// readSpacing is the least time between two readings, whatever is notified.
	readSpacing = 100 * time.Millisecond
	// readPatience is how long one reading may take before the connection counts as lost.
	readPatience = 5 * time.Second
	retryFirst   = 250 * time.Millisecond
	retryLast    = 2 * time.Second
)

// Watcher reads a formation whenever something changes, and connects again
// when it loses the monitor.
type Watcher struct {
	// Open connects; it returns once the session listens.
	Open func(ctx context.Context) (Session, error)
	// Show takes each snapshot, Lost each failure; both are called by Run's goroutine.
	Show func(Snapshot)
	Lost func(error)
}

// Run watches until the context ends, and returns its cause.
func (w Watcher) Run(ctx context.Context) error {
	retry := retryFirst
	for {
		err := w.session(ctx, func(s Snapshot) {
			retry = retryFirst
			w.Show(s)
		})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		w.Lost(err)
		if err := pause(ctx, retry); err != nil {
			return err
		}
		retry = min(2*retry, retryLast)
	}
}

// session watches on one connection until it fails.
func (w Watcher) session(ctx context.Context, show func(Snapshot)) error {
	s, err := w.open(ctx)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		s.Close(closing)
	}()
	for {
		snapshot, err := read(ctx, s)
		if err != nil {
			return err
		}
		show(snapshot)
		if err := pause(ctx, readSpacing); err != nil {
			return err
		}
		if err := wait(ctx, s); err != nil {
			return err
		}
	}
}

func (w Watcher) open(ctx context.Context) (Session, error) {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	return w.Open(ctx)
}

func read(ctx context.Context, s Session) (Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	return s.Read(ctx)
}

// wait returns when something changed or it is time to look anyway.
func wait(ctx context.Context, s Session) error {
	tick, cancel := context.WithTimeout(ctx, readEvery-readSpacing)
	defer cancel()
	err := s.Wait(tick)
	if tick.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// Listen connects to a monitor and listens to its changes; the session reads
// that formation, or that one of its groups when group is not nil.
func Listen(
	ctx context.Context, cfg pgautofailover.ConnectConfig, formation string, group *int, events int,
) (Session, error) {
	db, err := pgautofailover.Connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s := &listener{db: db, formation: formation, group: group, events: events}
	if err := db.Listen(ctx, pgautofailover.ChannelState, pgautofailover.ChannelLog); err != nil {
		s.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return s, nil
}

// listener is a Session on a real monitor.
type listener struct {
	db        *pgautofailover.DB
	formation string
	group     *int
	events    int
}

func (l *listener) Read(ctx context.Context) (Snapshot, error) {
	return Read(ctx, l.db, l.formation, l.group, l.events)
}

// Wait returns with the first notification, and takes those that wait behind
// it as well: one reading answers them all.
func (l *listener) Wait(ctx context.Context) error {
	if _, err := l.db.WaitNotification(ctx); err != nil {
		return err
	}
	for {
		drain, cancel := context.WithTimeout(ctx, time.Millisecond)
		_, err := l.db.WaitNotification(drain)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (l *listener) Close(ctx context.Context) { _ = l.db.Close(ctx) }

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Policy says what follows the end of a service.
type Policy int

const (
	// Permanent services are always started again.
	Permanent Policy = iota
	// Transient services are started again after an error; their good end ends the tree.
	Transient
	// Temporary services are never started again.
	Temporary
)

// A service ends with one of these, wrapped or not, to end the whole tree.
var (
	// ErrDone: there is nothing left to do; the tree ends well.
	ErrDone = errors.New("nothing left to do")
	// ErrFatal: starting again would not help; the tree ends with the error.
	ErrFatal = errors.New("cannot go on")
	// ErrBudget: a service ended too often.
	ErrBudget = errors.New("too many restarts")
)

// Service is one thing that runs.
type Service struct {
	Name string
	// Run works until ctx ends or it cannot go on. context.Cause(ctx) tells why it is to end.
	Run     func(ctx context.Context) error
	Restart Policy
	// Reload, when not nil, is called for each request to read the configuration again; it must not block.
	Reload func()
}

// Budget bounds restarts: a service that has been started Restarts times
// within Within is not started again.
type Budget struct {
	Restarts int
	Within   time.Duration
}

// DefaultBudget is five restarts in five minutes.
func DefaultBudget() Budget { return Budget{Restarts: 5, Within: 300 * time.Second} }

// Config is what a tree runs.
type Config struct {
	// Services are started in this order, each when the one before was, and stopped in the reverse order.
	Services []Service
	// Budget is DefaultBudget when zero.
	Budget Budget
	// Delay is how long a service stays down before it is started again.
	Delay  time.Duration
	Logger *slog.Logger
}

// Tree runs services.
type Tree struct {
	cfg Config
	log *slog.Logger
}

// New returns the tree; it starts nothing.
func New(cfg Config) *Tree {
	if cfg.Budget == (Budget{}) {
		cfg.Budget = DefaultBudget()
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Tree{cfg: cfg, log: log}
}

// Reload passes a request to read the configuration again to every service.
func (t *Tree) Reload() {
	for _, s := range t.cfg.Services {
		if s.Reload != nil {
			s.Reload()
		}
	}
}

// running is one service between its start and its end.
type running struct {
	cancel context.CancelCauseFunc
	done   chan struct{} // closed at the end
}

// ending is what a service said when it ended for good.
type ending struct {
	service string
	err     error
}

// Run starts the services and returns when all have ended: after ctx ended, a
// transient service did its work, a service asked for the end, or one
// spent its budget. Only the last two of these can be errors.
func (t *Tree) Run(ctx context.Context) error {
	// One place for each service: none waits to say that it ended.
	ended := make(chan ending, len(t.cfg.Services))
	started := make([]running, 0, len(t.cfg.Services))
	for _, s := range t.cfg.Services {
		// A service must not hear of the end before its turn in the order of stopping has come.
		own, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		r := running{cancel: cancel, done: make(chan struct{})}
		started = append(started, r)
		go func() {
			defer close(r.done)
			if last, err := t.keep(own, s); last {
				ended <- ending{service: s.Name, err: err}
			}
		}()
	}
	var err error
	cause := context.Canceled
	select {
	case <-ctx.Done():
		cause = context.Cause(ctx)
	case e := <-ended:
		err = treeError(e)
		cause = fmt.Errorf("service %s ended: %w", e.service, errors.Join(e.err, context.Canceled))
	}
	for _, r := range slices.Backward(started) {
		r.cancel(cause)
		<-r.done
	}
	return err
}

func treeError(e ending) error {
	if e.err == nil || errors.Is(e.err, ErrDone) {
		return nil
	}
	return fmt.Errorf("service %s: %w", e.service, e.err)
}

// keep runs one service until it is told to end (last is false), or until its
// end is the end of the tree.
func (t *Tree) keep(ctx context.Context, s Service) (last bool, err error) {
	var starts []time.Time // of the restarts in the budget
	for {
		t.log.DebugContext(ctx, "starting service", "service", s.Name)
		err = s.Run(ctx)
		if ctx.Err() != nil {
			if err != nil && !errors.Is(err, context.Cause(ctx)) && !errors.Is(err, context.Canceled) {
				t.log.WarnContext(ctx, "service ended with an error", "service", s.Name, "error", err)
			}
			return false, nil
		}
		switch {
		case errors.Is(err, ErrDone), errors.Is(err, ErrFatal):
			return true, err
		case s.Restart == Temporary:
			if err != nil {
				t.log.WarnContext(ctx, "service ended with an error", "service", s.Name, "error", err)
			}
			return false, nil
		case s.Restart == Transient && err == nil:
			return true, nil
		}
		now := time.Now()
		if len(starts) == t.cfg.Budget.Restarts {
			if now.Sub(starts[0]) <= t.cfg.Budget.Within {
				return true, fmt.Errorf("%w: %d in %s: %w", ErrBudget, len(starts), t.cfg.Budget.Within, orEnded(err))
			}
			starts = starts[1:]
		}
		starts = append(starts, now)
		t.log.WarnContext(ctx, "restarting service", "service", s.Name, "error", orEnded(err))
		select {
		case <-ctx.Done():
			return false, nil
		case <-time.After(t.cfg.Delay):
		}
	}
}

var errEnded = errors.New("it ended")

func orEnded(err error) error {
	if err == nil {
		return errEnded
	}
	return err
}

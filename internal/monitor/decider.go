package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

const (
	// pulseInterval is how often the times of reports are looked at, for an
	// unchanged report notifies nobody. A session that ends is noticed by the
	// end of its server process, at once.
	pulseInterval = 400 * time.Millisecond
	// sweepInterval is how often session locks, the rows of all nodes and the
	// settings are read, as the safety net below the notifications.
	sweepInterval = 2 * time.Second
	// touchInterval is how often the time of the last health check is stored.
	touchInterval = 30 * time.Second
	// pruneInterval is how often old events are deleted.
	pruneInterval = time.Hour
	// retryDelay is how long a group rests whose decision could not be made,
	// because somebody else held its lock, say.
	retryDelay = 100 * time.Millisecond
	// brokenDelay is how long a group rests that nobody can decide about.
	brokenDelay = 2 * time.Second
	// workers is the number of groups that are decided at the same time. One
	// whose lock is held by somebody else must not hold up the others.
	workers = 4
	// reconnectDelay is the pause between attempts to get the database back.
	reconnectDelay = 200 * time.Millisecond
	// complainInterval is how often the log says that it is still not back.
	complainInterval = 30 * time.Second
	// maxSteps bounds the decisions about one group in one transaction.
	maxSteps = 64
)

// errStalled says that a look at the database is overdue, so that silence
// cannot be told from our own sleep.
var errStalled = errors.New("wait for a fresh look at the database")

// decider runs the decisions of all groups while this process may decide.
type decider struct {
	backend backend
	dial    dialer
	log     *slog.Logger
	ready   func()
	// watchmen makes what tells of the end of server processes.
	watchmen func() watchman
	// rules is fsm.Decide.
	rules func(g fsm.Group, now time.Time) (fsm.Decision, error)
	// apply is fsm.Apply.
	apply func(g fsm.Group, d fsm.Decision, now time.Time) fsm.Group

	observed *observer
	queue    *queue

	mu       sync.Mutex
	settings pgautofailover.Settings
	alarms   map[groupKey]alarm
	rearm    chan struct{}
}

// alarm is when a group deserves a look although nothing happens.
type alarm struct {
	// retry is set when the last look failed.
	retry time.Time
	// group and at are the last decision's: its clocks are brought up to date
	// before the alarm rings, since most nodes report in time.
	group fsm.Group
	at    time.Time
}

func newDecider(b backend, dial dialer, log *slog.Logger, ready func()) *decider {
	return &decider{
		backend: b, dial: dial, log: log, ready: ready, rules: fsm.Decide, apply: fsm.Apply,
		watchmen: func() watchman { return newProcessWatch() },
		alarms:   make(map[groupKey]alarm), rearm: make(chan struct{}, 1),
	}
}

// Run decides until the context ends. Whatever happens to the database, it
// comes back: with a new number, and with its clocks started again.
func (d *decider) Run(ctx context.Context) error {
	d.observed = newObserver(time.Now())
	var complained time.Time
	for {
		began := time.Now()
		err := d.session(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // asked to end
		}
		if now := time.Now(); now.Sub(began) > complainInterval || now.Sub(complained) > complainInterval {
			complained = now
			d.log.WarnContext(ctx, "decisions are suspended until the monitor's database is back", "error", err)
		}
		pause(ctx, reconnectDelay)
	}
}

// session is one time of being the decider, from taking the lock to losing a connection.
func (d *decider) session(ctx context.Context) error {
	// The listening starts before anything is read: what happens in between is heard.
	holder, err := d.backend.Acquire(ctx)
	if err != nil {
		return err
	}
	defer holder.Close(ctx)
	looks, err := holder.Watch(ctx)
	if err != nil {
		return err
	}
	defer looks.Close(ctx)
	d.begin()
	if err := d.readSettings(ctx, looks); err != nil {
		return err
	}
	d.log.InfoContext(ctx, "this process decides now", "decider_number", holder.Number())

	group, ctx := errgroup.WithContext(ctx)
	verdicts := newVerdicts()
	probes := newProber(d.dial, d.suspect, func(id int64, health fsm.Health, at time.Time) {
		verdicts.put(id, health, d.observed.verdict(id, health, at))
	}, rulesOf(d.current()))
	defer probes.close()
	d.observed.onExcuse(probes.forgive)
	group.Go(func() error { return d.hear(ctx, holder) })
	group.Go(func() error { return d.look(ctx, looks, probes) })
	group.Go(func() error { return d.ring(ctx) })
	group.Go(func() error { return d.record(ctx, holder, verdicts) })
	for range workers {
		group.Go(func() error { return d.work(ctx, holder) })
	}
	return group.Wait()
}

// begin forgets what an earlier session was about to do.
func (d *decider) begin() {
	d.queue = newQueue()
	d.observed.restartClocks(time.Now())
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.alarms)
}

func (d *decider) current() pgautofailover.Settings {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.settings
}

func (d *decider) suspect(id int64) suspicion {
	heard, lost, known := d.observed.silence(id)
	if !known {
		heard = time.Now()
	}
	return suspicion{heard: heard, sessionLost: lost}
}

// hear turns notifications into work.
func (d *decider) hear(ctx context.Context, holder control) error {
	for {
		key, err := holder.Wait(ctx)
		if err != nil {
			return err
		}
		d.queue.add(key)
	}
}

// work decides about one group after the other.
func (d *decider) work(ctx context.Context, holder control) error {
	var w worker
	defer func() {
		if w != nil {
			w.Close(ctx)
		}
	}()
	for {
		key, err := d.queue.next(ctx)
		if err != nil {
			return err
		}
		if w == nil {
			if w, err = holder.Work(ctx); err != nil {
				return err
			}
		}
		err = d.decide(ctx, w, key)
		d.queue.done(key)
		if err != nil {
			return err
		}
	}
}

// decide makes every decision about a group that is due. Errors of this group
// alone end in another try; all others end the session.
func (d *decider) decide(ctx context.Context, w worker, key groupKey) error {
	if !d.observed.steady(time.Now()) {
		d.later(key, retryDelay)
		return nil
	}
	t := turn{decider: d, key: key}
	err := w.Decide(ctx, key, t.run)
	if err != nil {
		if ctx.Err() != nil || w.Closed() || errors.Is(err, pgautofailover.ErrNotDecider) {
			return err
		}
		d.postpone(ctx, key, err)
		return nil
	}
	d.observed.decided(t.group, t.closed, t.now)
	d.logTurn(ctx, key, t)
	d.mu.Lock()
	if len(t.group.Nodes) == 0 && len(t.group.Intents) == 0 {
		delete(d.alarms, key)
	} else {
		d.alarms[key] = alarm{group: t.group, at: t.now}
	}
	d.mu.Unlock()
	poke(d.rearm)
	return nil
}

// postpone has a group wait whose decision was not stored: shortly when
// somebody else stands in the way, longer when nobody could decide it.
func (d *decider) postpone(ctx context.Context, key groupKey, err error) {
	_, hopeless := errors.AsType[undecidable](err)
	if !hopeless && (errors.Is(err, errStalled) || pgautofailover.Retryable(err)) {
		d.log.DebugContext(ctx, "a group has to wait", "formation", key.Formation, "group", key.Group, "error", err)
		d.later(key, retryDelay)
		return
	}
	d.log.ErrorContext(ctx, "a group cannot be decided about", "formation", key.Formation, "group", key.Group, "error", err)
	d.later(key, brokenDelay)
}

// turn is one look at one group, within its transaction.
type turn struct {
	*decider
	key       groupKey
	now       time.Time
	group     fsm.Group
	decisions []decided
	waiting   string
	waited    string // what was stored before
	closed    []int64
}

// decided is one decision with the group that it was made about.
type decided struct {
	before   fsm.Group
	decision fsm.Decision
}

// undecidable is an error of the decision itself: trying again at once is no use.
type undecidable struct{ err error }

func (e undecidable) Error() string { return e.err.Error() }
func (e undecidable) Unwrap() error { return e.err }

func (t *turn) run(from pgautofailover.LoadedGroup) (pgautofailover.Settled, error) {
	// The time is taken after lock and load: what was read is older than it.
	t.now = time.Now()
	if !t.observed.steady(t.now) {
		return pgautofailover.Settled{}, errStalled
	}
	t.group, t.waited = from.Group, from.Waiting
	t.observed.fill(&t.group, t.key, from.Stamps, t.now)
	var settled pgautofailover.Settled
	for range maxSteps {
		d, err := t.rules(t.group, t.now)
		if err != nil {
			return pgautofailover.Settled{}, undecidable{err}
		}
		if !d.Changes() {
			t.waiting, settled.Waiting = d.Waiting, d.Waiting
			return settled, nil
		}
		settled.Decisions = append(settled.Decisions, d)
		t.decisions = append(t.decisions, decided{before: t.group, decision: d})
		for _, c := range d.Close {
			t.closed = append(t.closed, c.Intent)
		}
		t.group = t.apply(t.group, d, t.now)
	}
	return pgautofailover.Settled{}, undecidable{fmt.Errorf("decide: no end after %d steps", maxSteps)}
}

// later has another look at a group after a while.
func (d *decider) later(key groupKey, after time.Duration) {
	d.mu.Lock()
	a := d.alarms[key]
	a.retry = time.Now().Add(after)
	d.alarms[key] = a
	d.mu.Unlock()
	poke(d.rearm)
}

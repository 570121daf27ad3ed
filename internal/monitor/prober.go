package monitor

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
)

// dialer makes one attempt to talk to a server.
type dialer interface {
	Probe(ctx context.Context, host string, port int) outcome
}

// target is a node to probe.
type target struct {
	id   int64
	host string
	port int
}

// prober runs one loop per node; loops do not wait for one another, and a node
// is never probed twice at once, because its role may connect only once.
type prober struct {
	dial   dialer
	watch  func(id int64) suspicion
	report func(id int64, health fsm.Health, at time.Time)
	rules  atomic.Pointer[probeRules]

	mu    sync.Mutex
	loops map[int64]*probeLoop
	wait  sync.WaitGroup
}

type probeLoop struct {
	target  target
	stop    context.CancelFunc
	hurry   chan struct{} // holds one: probe now
	forgive chan struct{} // holds one: earlier failures do not count
}

func newProber(dial dialer, watch func(int64) suspicion, report func(int64, fsm.Health, time.Time), rules probeRules) *prober {
	p := &prober{dial: dial, watch: watch, report: report, loops: make(map[int64]*probeLoop)}
	p.rules.Store(&rules)
	return p
}

// follow starts loops for new targets and ends those of nodes that are gone or moved.
func (p *prober) follow(ctx context.Context, targets []target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	want := make(map[int64]bool, len(targets))
	for _, t := range targets {
		want[t.id] = true
		if l, running := p.loops[t.id]; running {
			if l.target == t {
				continue
			}
			l.stop()
		}
		p.start(ctx, t)
	}
	for id, l := range p.loops {
		if !want[id] {
			l.stop()
			delete(p.loops, id)
		}
	}
}

func (p *prober) start(ctx context.Context, t target) {
	ctx, stop := context.WithCancel(ctx)
	l := &probeLoop{target: t, stop: stop, hurry: make(chan struct{}, 1), forgive: make(chan struct{}, 1)}
	p.loops[t.id] = l
	p.wait.Go(func() {
		defer stop()
		p.loop(ctx, l)
	})
}

// close ends all loops and waits for them.
func (p *prober) close() {
	p.mu.Lock()
	for id, l := range p.loops {
		l.stop()
		delete(p.loops, id)
	}
	p.mu.Unlock()
	p.wait.Wait()
}

// hurry has nodes probed at once, unless an attempt is running.
func (p *prober) hurry(ids ...int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		if l, running := p.loops[id]; running {
			poke(l.hurry)
		}
	}
}

// forgiveAll forgets all failures: they may have been our own.
func (p *prober) forgiveAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.loops {
		poke(l.forgive)
	}
}

// forgive forgets the failures of some nodes.
func (p *prober) forgive(ids ...int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		if l, running := p.loops[id]; running {
			poke(l.forgive)
		}
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (p *prober) loop(ctx context.Context, l *probeLoop) {
	v := verdict{health: fsm.HealthUnknown}
	for ctx.Err() == nil {
		select {
		case <-l.forgive:
			v = verdict{health: fsm.HealthUnknown}
		default:
		}
		began := time.Now()
		rules := *p.rules.Load()
		if v.health != fsm.HealthBad && v.overdue(began, rules, p.watch(l.target.id)) {
			v.health = fsm.HealthBad
			p.report(l.target.id, v.health, began)
		}
		if rules.enabled {
			out := p.attempt(ctx, l.target, v.patience(began, rules, p.watch(l.target.id)))
			if ctx.Err() != nil {
				return
			}
			now := time.Now()
			if len(l.forgive) > 0 {
				continue // the attempt ran while we slept: it says nothing
			}
			if v.note(out, now, rules, p.watch(l.target.id)) {
				p.report(l.target.id, v.health, now)
			}
		}
		p.rest(ctx, l, &v, began, rules)
	}
}

func (p *prober) attempt(ctx context.Context, t target, patience time.Duration) outcome {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return p.dial.Probe(ctx, t.host, t.port)
}

// rest waits for the next attempt: the rest of the period, or less when the
// node is suspected meanwhile or stays silent too long.
func (p *prober) rest(ctx context.Context, l *probeLoop, v *verdict, began time.Time, rules probeRules) {
	next := time.Now().Add(v.pause(began, time.Now(), rules))
	late := lateAfter(rules)
	for {
		now := time.Now()
		heard := p.watch(l.target.id).heard
		at := next
		// One extra attempt as soon as the keeper is late, not one after another.
		if due := heard.Add(late); v.failures == 0 && due.After(began) && due.Before(at) {
			at = due
		}
		if !at.After(now) {
			return
		}
		timer := time.NewTimer(at.Sub(now))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-l.hurry:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

package monitor

import (
	"context"
	"sync"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// verdicts collects the probes' verdicts for whoever stores them.
type verdicts struct {
	mu   sync.Mutex
	last map[int64]fsm.Health
	news map[int64]bool
	wake chan struct{} // holds one: there is news
}

func newVerdicts() *verdicts {
	return &verdicts{last: make(map[int64]fsm.Health), news: make(map[int64]bool), wake: make(chan struct{}, 1)}
}

func (v *verdicts) put(id int64, health fsm.Health, news bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last[id] = health
	if news {
		v.news[id] = true
		poke(v.wake)
	}
}

// take returns what is new, or everything, and the nodes with news.
func (v *verdicts) take(everything bool) (probes []pgautofailover.Probe, news []int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, health := range v.last {
		if v.news[id] {
			news = append(news, id)
		}
		if everything || v.news[id] {
			probes = append(probes, pgautofailover.Probe{NodeID: id, Health: health})
		}
	}
	clear(v.news)
	if everything {
		clear(v.last) // nodes that are gone leave the collection this way
	}
	return probes, news
}

// record stores verdicts: news at once and then has the groups looked at, the
// rest now and then. It also deletes old history.
func (d *decider) record(ctx context.Context, holder control, v *verdicts) error {
	w, err := holder.Work(ctx)
	if err != nil {
		return err
	}
	defer w.Close(ctx)
	touch, prune := time.NewTicker(touchInterval), time.NewTicker(pruneInterval)
	defer touch.Stop()
	defer prune.Stop()
	for {
		everything := false
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-v.wake:
		case <-touch.C:
			everything = true
		case <-prune.C:
			err := w.Prune(ctx, d.current().EventRetention)
			if done := d.tolerate(ctx, w, "delete old events", err); done != nil {
				return done
			}
			continue
		}
		probes, news := v.take(everything)
		if len(probes) == 0 {
			continue
		}
		err := w.SetHealth(ctx, probes...)
		if done := d.tolerate(ctx, w, "store health checks", err); done != nil {
			return done
		}
		if err != nil {
			d.retryHealth(ctx, v, probes)
			continue
		}
		for _, id := range news {
			if key, known := d.observed.keyOf(id); known {
				d.queue.add(key)
			}
		}
	}
}

// retryHealth puts verdicts back that could not be stored.
func (d *decider) retryHealth(ctx context.Context, v *verdicts, probes []pgautofailover.Probe) {
	timer := time.NewTimer(retryDelay)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, p := range probes {
		if _, newer := v.last[p.NodeID]; !newer {
			v.last[p.NodeID] = p.Health
		}
		v.news[p.NodeID] = true
	}
	poke(v.wake)
}

// tolerate logs an error that leaves the connection usable; any other it returns.
func (d *decider) tolerate(ctx context.Context, w worker, action string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil || w.Closed() {
		return err
	}
	d.log.WarnContext(ctx, "this has to be tried again", "action", action, "error", err)
	return nil
}

// keyOf tells which group a node is in.
func (o *observer) keyOf(id int64) (groupKey, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, known := o.nodes[id]
	if !known {
		return groupKey{}, false
	}
	return n.key, true
}

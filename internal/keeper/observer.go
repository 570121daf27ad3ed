package keeper

import (
	"context"
	"sync/atomic"
	"time"
)

// sensor looks at the local server.
type sensor interface {
	// look never takes longer than ctx allows; what it could not find out is zero.
	look(ctx context.Context) view
	// events are closed or receive when the server ended or another was started.
	events() <-chan struct{}
}

// lookTimeout is how long a look waits for the server's answer.
const lookTimeout = 2 * time.Second

// observer looks at the local server again and again, as often as the engine
// asks, and at once when the server ended.
type observer struct {
	sensor sensor
	every  atomic.Int64 // time.Duration
	epoch  atomic.Int64 // how often the engine declared all earlier looks out of date
	kicks  chan struct{}
	views  chan view
}

func newObserver(s sensor) *observer {
	o := &observer{sensor: s, kicks: make(chan struct{}, 1), views: make(chan view)}
	o.every.Store(int64(time.Second))
	return o
}

// pace sets the time between two looks.
func (o *observer) pace(d time.Duration) {
	if before := o.every.Swap(int64(d)); int64(d) < before {
		o.kick()
	}
}

// renew asks for a look that begins from now on, and returns its epoch.
func (o *observer) renew() int64 {
	epoch := o.epoch.Add(1)
	o.kick()
	return epoch
}

// kick asks for a look now.
func (o *observer) kick() {
	select {
	case o.kicks <- struct{}{}:
	default:
	}
}

// run looks until ctx ends.
func (o *observer) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		events := o.sensor.events()
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-o.kicks:
		case <-events:
		}
		lookCtx, cancel := context.WithTimeout(ctx, lookTimeout)
		epoch := o.epoch.Load()
		v := o.sensor.look(lookCtx)
		v.Epoch = epoch
		cancel()
		select {
		case o.views <- v:
		case <-ctx.Done():
			return
		}
		timer.Reset(time.Duration(o.every.Load()))
	}
}

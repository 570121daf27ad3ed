package monitor

import (
	"context"
	"sync"
)

// queue holds the groups that deserve a look. A key that is being worked on
// is handed out again only when that work is done, and once, however often it
// was asked for meanwhile: that is what serialises the decisions of a group.
type queue struct {
	mu      sync.Mutex
	pending []groupKey
	state   map[groupKey]queueState
	wake    chan struct{} // holds one: somebody may take a key
}

type queueState int

const (
	queueIdle queueState = iota
	queuePending
	queueRunning
	queueAgain // running, and asked for meanwhile
)

func newQueue() *queue {
	return &queue{state: make(map[groupKey]queueState), wake: make(chan struct{}, 1)}
}

func (q *queue) add(keys ...groupKey) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, key := range keys {
		switch q.state[key] {
		case queueIdle:
			q.state[key] = queuePending
			q.pending = append(q.pending, key)
		case queueRunning:
			q.state[key] = queueAgain
		case queuePending, queueAgain:
		}
	}
	q.signal()
}

func (q *queue) signal() {
	if len(q.pending) == 0 {
		return
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// next waits for a key; the caller owns it until it calls done.
func (q *queue) next(ctx context.Context) (groupKey, error) {
	for {
		if key, ok := q.take(); ok {
			return key, nil
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return groupKey{}, context.Cause(ctx)
		}
	}
}

func (q *queue) take() (groupKey, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.pending) == 0 {
		return groupKey{}, false
	}
	key := q.pending[0]
	q.pending = q.pending[1:]
	q.state[key] = queueRunning
	q.signal()
	return key, true
}

func (q *queue) done(key groupKey) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.state[key] == queueAgain {
		q.state[key] = queuePending
		q.pending = append(q.pending, key)
		q.signal()
		return
	}
	delete(q.state, key)
}

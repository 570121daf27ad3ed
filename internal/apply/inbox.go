package apply

import (
	"context"
	"sync"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/walreceiver"
)

// inbox stands between the goroutine that receives and the one that applies. It
// holds a bounded amount: a provider that is faster has to wait, while reports
// to it go on.
type inbox struct {
	mu    sync.Mutex
	batch batch
	wake  chan struct{} // holds 1: something came
	space chan struct{} // holds 1: the batch was taken
}

// batch is a number of messages, one behind the other.
type batch struct {
	data     []byte
	messages []received
}

type received struct {
	kind walreceiver.Kind
	from int
	to   int
	end  pg.LSN
	time pg.Timestamp
	ask  bool // the provider waits for a report
}

const inboxBytes = 1 << 20

func newInbox() *inbox {
	return &inbox{wake: make(chan struct{}, 1), space: make(chan struct{}, 1)}
}

// put adds a message and waits while there is too much. Who applies hears of it
// when signal is called.
func (b *inbox) put(ctx context.Context, m walreceiver.Message) error {
	b.mu.Lock()
	from := len(b.batch.data)
	b.batch.data = append(b.batch.data, m.Data...)
	b.batch.messages = append(b.batch.messages, received{
		kind: m.Kind, from: from, to: len(b.batch.data), end: m.End, time: m.ServerTime, ask: m.ReplyRequested,
	})
	for len(b.batch.data) > inboxBytes || len(b.batch.messages) > inboxBytes/64 {
		b.mu.Unlock()
		b.signal()
		select {
		case <-b.space:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		b.mu.Lock()
	}
	b.mu.Unlock()
	return nil
}

// signal tells who applies that something came, if it did.
func (b *inbox) signal() {
	b.mu.Lock()
	empty := len(b.batch.messages) == 0
	b.mu.Unlock()
	if empty {
		return
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take returns what has come, and leaves an empty batch to be filled.
func (b *inbox) take(empty batch) batch {
	empty.data, empty.messages = empty.data[:0], empty.messages[:0]
	if cap(empty.data) > 4*inboxBytes {
		empty.data = nil
	}
	b.mu.Lock()
	full := b.batch
	b.batch = empty
	b.mu.Unlock()
	select {
	case b.space <- struct{}{}:
	default:
	}
	return full
}

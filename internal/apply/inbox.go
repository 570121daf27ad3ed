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
	lent  bool          // a message is being looked at that is its receiver's
	wake  chan struct{} // holds 1: something came
	space chan struct{} // holds 1: the batch was taken
}

// batch is a number of messages, one behind the other.
type batch struct {
	data     []byte
	messages []received
	lent     bool // data is not ours
}

func (b *batch) add(m walreceiver.Message, from, to int) {
	b.messages = append(b.messages, received{kind: m.Kind, from: from, to: to, end: m.End, time: m.ServerTime, ask: m.ReplyRequested})
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
	if len(m.Data) > inboxBytes {
		return b.lend(ctx, m)
	}
	b.mu.Lock()
	from := len(b.batch.data)
	b.batch.data = append(b.batch.data, m.Data...)
	b.batch.add(m, from, len(b.batch.data))
	if err := b.room(ctx, inboxBytes, inboxBytes/64); err != nil {
		return err
	}
	b.mu.Unlock()
	return nil
}

// lend passes a large message on without a copy, alone, and waits until nobody
// looks at it any more.
func (b *inbox) lend(ctx context.Context, m walreceiver.Message) error {
	b.mu.Lock()
	if err := b.room(ctx, 0, 0); err != nil {
		return err
	}
	b.batch.data, b.batch.lent, b.lent = m.Data, true, true
	b.batch.add(m, 0, len(m.Data))
	for b.lent {
		b.mu.Unlock()
		select {
		case b.wake <- struct{}{}: // to take it, and then to give it back
		default:
		}
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

// room waits while there is more than that. The lock is held, before and after,
// unless there is an error.
func (b *inbox) room(ctx context.Context, bytes, messages int) error {
	for len(b.batch.data) > bytes || len(b.batch.messages) > messages {
		b.mu.Unlock()
		b.signal()
		select {
		case <-b.space:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		b.mu.Lock()
	}
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
	back := empty.lent
	if back || cap(empty.data) > 4*inboxBytes {
		sweep(cap(empty.data))
		empty.data = nil
	}
	empty.data, empty.messages, empty.lent = empty.data[:0], empty.messages[:0], false
	b.mu.Lock()
	b.lent = b.lent && !back
	full := b.batch
	b.batch = empty
	b.mu.Unlock()
	select {
	case b.space <- struct{}{}:
	default:
	}
	return full
}

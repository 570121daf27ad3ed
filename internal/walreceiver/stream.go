package walreceiver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// Kind says what a message is.
type Kind byte

// The messages of a stream.
const (
	Data      Kind = 'w' // a message of the output plugin
	Keepalive Kind = 'k' // a sign of life, and how far the server is
)

// Message is one message of a stream. Of what pg_logical_emit_message wrote only
// short ones come: see [sieve].
type Message struct {
	Kind Kind
	// Start is where a Data message stands in the server's log; 0 for messages
	// that have no place of their own.
	Start pg.LSN
	// End is how far the server has sent. When nothing of what was received is
	// still to be done, everything up to the End of a Keepalive is done. A server
	// that was told to stop waits until that is reported, as long as it is there.
	End        pg.LSN
	ServerTime pg.Timestamp
	// Data is what the plugin wrote. It is good until the next message is
	// received.
	Data []byte
	// ReplyRequested: the server waits for a report. It gets one when the next
	// message is asked for, so that there is time for SetFeedback.
	ReplyRequested bool
}

// Feedback says how far the caller is. Each position is the end of the last
// transaction of which it is true; the server may forget what was Flushed. Zero
// says nothing.
type Feedback struct {
	Written pg.LSN // received and handed on
	Flushed pg.LSN // on disk here
	Applied pg.LSN // visible here
}

// statusSize is the size of a report: type, length, and 34 bytes.
const statusSize = 39

// SetFeedback says what the next report, whenever it is due, will say. What was
// once acknowledged stays so: a lower position than before is not taken.
func (c *Conn) SetFeedback(f Feedback) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.feedback = Feedback{
		Written: max(c.feedback.Written, f.Written),
		Flushed: max(c.feedback.Flushed, f.Flushed),
		Applied: max(c.feedback.Applied, f.Applied),
	}
}

// Report sets the feedback and sends it at once.
func (c *Conn) Report(ctx context.Context, f Feedback) error {
	c.SetFeedback(f)
	if err := c.report(ctx, opReport, false); err != nil {
		return fail(opReport, err, true)
	}
	return nil
}

// report writes the feedback; with ping set it asks for an answer. It may run
// beside a read, so that it watches its context by itself.
func (c *Conn) report(ctx context.Context, op string, ping bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.broken != nil:
		return c.broken
	case !c.streaming:
		return errNotStreaming
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	defer interrupt(ctx, c.conn.SetWriteDeadline)()
	now := time.Now()
	deadline := time.Time{}
	if c.timeout > 0 {
		deadline = now.Add(c.timeout)
	}
	if err := c.conn.SetWriteDeadline(deadline); err != nil {
		return c.breakOff(fmt.Errorf("%s: %w", op, err))
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if n, err := c.conn.Write(c.status(now, ping)); err != nil {
		err = interrupted(ctx, err)
		if n == 0 && ctx.Err() != nil {
			return err
		}
		return c.breakOff(err) // half a report may be out: nothing can follow it
	}
	c.reported, c.replyDue = now, false
	return nil
}

// status builds a report. The caller holds the lock.
func (c *Conn) status(now time.Time, ping bool) []byte {
	b := append(c.scratch[:0], 'd')
	b = binary.BigEndian.AppendUint32(b, statusSize-1)
	b = append(b, 'r')
	b = binary.BigEndian.AppendUint64(b, uint64(c.feedback.Written))
	b = binary.BigEndian.AppendUint64(b, uint64(c.feedback.Flushed))
	b = binary.BigEndian.AppendUint64(b, uint64(c.feedback.Applied))
	b = binary.BigEndian.AppendUint64(b, uint64(pg.TimestampOf(now))) //nolint:gosec // the sign travels in the highest bit
	if ping {
		return append(b, 1)
	}
	return append(b, 0)
}

// due tells whether a report is to be sent, and when the next one is.
func (c *Conn) due(now time.Time) (bool, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.reported.Add(c.interval)
	return c.replyDue || !now.Before(next), next
}

// Receive returns the stream's next message. While it waits, reports go out on
// their timer; a caller that stays away for longer than the server's
// wal_sender_timeout has to call Report meanwhile, or use Run. When the context
// ends nothing is lost: the next call goes on.
func (c *Conn) Receive(ctx context.Context) (Message, error) {
	defer interrupt(ctx, c.conn.SetReadDeadline)()
	c.armed = false
	m, err := c.receive(ctx)
	if err != nil {
		return Message{}, fail(opReceive, err, true)
	}
	return m, nil
}

// Run receives until the context ends, the connection is lost or handle returns
// an error, and calls handle for each message. Reports go out on their timer
// also while handle is busy. Messages that come fast are taken together, a
// millisecond's worth at a time.
func (c *Conn) Run(ctx context.Context, handle func(Message) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer interrupt(ctx, c.conn.SetReadDeadline)()
	c.armed = false
	c.activity.patient = true
	defer func() { c.activity.patient = false }()
	var beat sync.WaitGroup
	defer beat.Wait()
	beat.Go(func() {
		if err := c.beat(ctx); err != nil {
			cancel(err)
		}
	})
	defer cancel(nil)
	for {
		m, err := c.receive(ctx)
		if err != nil {
			return fail(opReceive, err, true)
		}
		if err := handle(m); err != nil {
			return err
		}
	}
}

// beat sends reports on their timer until the context ends.
func (c *Conn) beat(ctx context.Context) error {
	timer := time.NewTimer(c.interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		now := time.Now()
		due, next := c.due(now)
		if due {
			if err := c.report(ctx, opReport, false); err != nil {
				return err
			}
			next = now.Add(c.interval)
		}
		timer.Reset(next.Sub(now))
	}
}

func (c *Conn) receive(ctx context.Context) (Message, error) {
	c.mu.Lock()
	broken, replyDue := c.broken, c.replyDue
	c.mu.Unlock()
	switch {
	case broken != nil:
		return Message{}, broken
	case !c.streaming:
		return Message{}, errNotStreaming
	}
	if c.last != nil {
		c.last.Data, c.last = nil, nil // the driver would keep it until the next one comes, and it may be large
	}
	if replyDue {
		if err := c.report(ctx, opReceive, false); err != nil {
			return Message{}, err
		}
	}
	var since time.Time // from when on silence counts, if not from the last byte
	for first := true; ; {
		if !c.armed {
			if err := c.arm(since); err != nil {
				return Message{}, err
			}
		}
		if ctx.Err() != nil {
			return Message{}, context.Cause(ctx)
		}
		m, err := c.frontend.Receive()
		switch {
		case err == nil:
			c.pinged = false
			message, skip, err := c.message(m)
			if skip {
				continue
			}
			return message, err
		case timedOut(err):
			c.armed = false
			if ctx.Err() != nil {
				return Message{}, context.Cause(ctx)
			}
			now := time.Now()
			if first && c.timeout > 0 && now.Sub(c.activity.at()) >= c.timeout {
				// The caller was away, and nobody looked: only from now on is it the
				// server that is silent.
				since = now
			}
			first = false
			if err := c.tick(ctx, now, since); err != nil {
				return Message{}, err
			}
		default:
			return Message{}, c.lose(err)
		}
	}
}

func timedOut(err error) bool {
	var network net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &network) && network.Timeout()
}

func (c *Conn) lose(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.breakOff(err)
}

// arm makes reads end when the next thing is due.
func (c *Conn) arm(since time.Time) error {
	_, next := c.due(time.Time{})
	if c.timeout > 0 {
		silent := c.silentSince(since)
		sign := silent.Add(c.timeout)
		if !c.pinged {
			sign = silent.Add(c.timeout / 2)
		}
		if sign.Before(next) {
			next = sign
		}
	}
	if err := c.conn.SetReadDeadline(next); err != nil {
		return c.lose(fmt.Errorf("read: %w", err))
	}
	c.armed = true
	return nil
}

// silentSince is when the server was last heard, but not before since.
func (c *Conn) silentSince(since time.Time) time.Time {
	if heard := c.activity.at(); heard.After(since) {
		return heard
	}
	return since
}

// tick does what is due while nothing comes.
func (c *Conn) tick(ctx context.Context, now, since time.Time) error {
	if c.timeout > 0 {
		silence := now.Sub(c.silentSince(since))
		if silence >= c.timeout {
			return c.lose(fmt.Errorf("%w: nothing received for %s", ErrSilent, silence.Round(time.Millisecond)))
		}
		if silence >= c.timeout/2 && !c.pinged {
			c.pinged = true
			return c.report(ctx, opReceive, true)
		}
	}
	if due, _ := c.due(now); due {
		return c.report(ctx, opReceive, false)
	}
	return nil
}

// message reads what came; skip means that it was nothing for the caller.
func (c *Conn) message(m pgproto3.BackendMessage) (message Message, skip bool, err error) {
	switch m := m.(type) {
	case *pgproto3.CopyData:
		c.last = m
		message, err = parse(m.Data)
		if err != nil {
			return Message{}, false, c.lose(err)
		}
		if message.ReplyRequested {
			c.mu.Lock()
			c.replyDue = true
			c.mu.Unlock()
		}
		return message, false, nil
	case *pgproto3.ErrorResponse:
		return Message{}, false, c.lose(pgconn.ErrorResponseToPgError(m))
	case *pgproto3.CopyDone, *pgproto3.CommandComplete:
		return Message{}, false, c.lose(ErrEnded)
	case *pgproto3.ParameterStatus:
		c.parameters[m.Name] = m.Value
		return Message{}, true, nil
	case *pgproto3.NoticeResponse, *pgproto3.NotificationResponse:
		return Message{}, true, nil
	default:
		return Message{}, false, c.lose(unexpected(m))
	}
}

// parse reads the header of what the server puts into a stream.
func parse(data []byte) (Message, error) {
	if len(data) == 0 {
		return Message{}, fmt.Errorf("%w: no bytes", errProtocol)
	}
	word := func(at int) uint64 { return binary.BigEndian.Uint64(data[at:]) }
	switch kind := Kind(data[0]); {
	case kind == Data && len(data) >= 25:
		return Message{
			Kind: Data, Start: pg.LSN(word(1)), End: pg.LSN(word(9)),
			ServerTime: pg.Timestamp(word(17)), //nolint:gosec // the sign travels in the highest bit
			Data:       data[25:],
		}, nil
	case kind == Keepalive && len(data) == 18:
		return Message{
			Kind: Keepalive, End: pg.LSN(word(1)),
			ServerTime:     pg.Timestamp(word(9)), //nolint:gosec // as above
			ReplyRequested: data[17] != 0,
		}, nil
	default:
		return Message{}, fmt.Errorf("%w: kind %q, %d bytes", errProtocol, byte(kind), len(data))
	}
}

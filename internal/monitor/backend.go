package monitor

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// backend is the monitor's database as the decider needs it.
type backend interface {
	// Acquire waits until this process is the one that decides, and listens for
	// whatever may ask for a decision from then on.
	Acquire(ctx context.Context) (control, error)
}

// control holds the right to decide, which is lost with its connection, and
// opens further connections that work under the same right.
type control interface {
	Number() int64
	// Wait returns the next group that asks for a look.
	Wait(ctx context.Context) (groupKey, error)
	Watch(ctx context.Context) (watch, error)
	Work(ctx context.Context) (worker, error)
	Close(ctx context.Context)
}

// watch looks at everything.
type watch interface {
	Pulses(ctx context.Context) ([]pgautofailover.Pulse, error)
	ReportTimes(ctx context.Context) ([]pgautofailover.ReportTime, error)
	AllNodeRows(ctx context.Context) ([]pgautofailover.NodeRow, error)
	// Settings come usable even with an error that is about their values; then Closed is false.
	Settings(ctx context.Context) (pgautofailover.Settings, error)
	Closed() bool
	// Break has whatever waits for the server fail at once.
	Break()
	Close(ctx context.Context)
}

// worker decides and stores. An error while Closed is false concerns the
// request only.
type worker interface {
	Decide(ctx context.Context, key groupKey, decide func(pgautofailover.LoadedGroup) (pgautofailover.Settled, error)) error
	SetHealth(ctx context.Context, probes ...pgautofailover.Probe) error
	Prune(ctx context.Context, retention time.Duration) error
	Closed() bool
	Close(ctx context.Context)
}

const (
	// acquireInterval is how often a second monitor process asks for the lock.
	acquireInterval = 250 * time.Millisecond
	// goodbye bounds the polite end of a connection.
	goodbye = time.Second
)

// database is the real backend.
type database struct {
	// info answers how to reach the server now: it may have moved with a restart.
	info func() (pg.ConnInfo, error)
	// holder names this process in the database.
	holder string
	log    *slog.Logger
}

func (b *database) connect(ctx context.Context, purpose string) (*pgautofailover.DB, error) {
	info, err := b.info()
	if err != nil {
		return nil, err
	}
	// A process that stops in the middle of a decision must not hold its group's
	// lock, or another process's right to decide, for ever.
	info = info.With("options", "-c idle_in_transaction_session_timeout=5s")
	return pgautofailover.Connect(ctx, pgautofailover.ConnectConfig{
		ConnInfo: info, ApplicationName: applicationName + " " + purpose,
		StatementTimeout: 4 * time.Second, LockTimeout: time.Second,
	})
}

// Acquire connects, listens and takes the lock.
func (b *database) Acquire(ctx context.Context) (control, error) {
	db, err := b.connect(ctx, "decider")
	if err != nil {
		return nil, err
	}
	number, err := b.acquire(ctx, db)
	if err != nil {
		closeDB(ctx, db)
		return nil, err
	}
	return &holding{backend: b, db: db, decider: number}, nil
}

func (b *database) acquire(ctx context.Context, db *pgautofailover.DB) (*pgautofailover.Decider, error) {
	if err := db.Listen(ctx, pgautofailover.ChannelWake); err != nil {
		return nil, err
	}
	ticker := time.NewTicker(acquireInterval)
	defer ticker.Stop()
	for first := true; ; first = false {
		d, err := pgautofailover.Acquire(ctx, db, b.holder)
		if !errors.Is(err, pgautofailover.ErrDeciderExists) {
			return d, err
		}
		if first {
			b.log.InfoContext(ctx, "another monitor process decides, waiting until it is gone")
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

func closeDB(ctx context.Context, db *pgautofailover.DB) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer cancel()
	_ = db.Close(ctx)
}

// holding is the connection that holds the lock.
type holding struct {
	backend *database
	db      *pgautofailover.DB
	decider *pgautofailover.Decider
}

func (h *holding) Number() int64 { return h.decider.Number() }

func (h *holding) Wait(ctx context.Context) (groupKey, error) {
	for {
		n, err := h.db.WaitNotification(ctx)
		if err != nil {
			return groupKey{}, err
		}
		if n.Channel != pgautofailover.ChannelWake {
			continue
		}
		// A payload that is not a group's is not ours; the next look sees everything anyway.
		if key, err := pgautofailover.ParseGroupKey(n.Payload); err == nil {
			return key, nil
		}
	}
}

func (h *holding) Watch(ctx context.Context) (watch, error) {
	c, err := h.open(ctx, "watch")
	if err != nil {
		return nil, err // as a watch, no connection would not be nil any more
	}
	return c, nil
}

func (h *holding) Work(ctx context.Context) (worker, error) {
	c, err := h.open(ctx, "worker")
	if err != nil {
		return nil, err // as above
	}
	return c, nil
}

func (h *holding) open(ctx context.Context, purpose string) (*connection, error) {
	db, err := h.backend.connect(ctx, purpose)
	if err != nil {
		return nil, err
	}
	return &connection{DB: db, Decider: h.decider.On(db)}, nil
}

func (h *holding) Close(ctx context.Context) { closeDB(ctx, h.db) }

// connection is a further connection of the decider.
type connection struct {
	*pgautofailover.DB
	*pgautofailover.Decider
}

// Close ends the session politely, also when ctx has ended.
func (c *connection) Close(ctx context.Context) { closeDB(ctx, c.DB) }

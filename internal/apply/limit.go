package apply

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// limits are what an operator lets a copy take; a zero is no limit.
type limits struct {
	jobs int   // sessions at a time
	rate int64 // bytes a second, of all sessions together
	load int   // sessions of clients that the provider may have at work
}

// limitsSetting holds the limits of the database's copies, as "jobs=2 rate=1000000 load=8".
// It is set for the database, so that the sessions of a copy that begins see it.
const limitsSetting = "SELECT coalesce(current_setting('pgdrover.copy_limits', true), '')"

// parseLimits reads the setting; words that it does not know say nothing.
func parseLimits(text string) limits {
	var l limits
	for word := range strings.FieldsSeq(text) {
		name, value, _ := strings.Cut(word, "=")
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < 0 {
			continue
		}
		switch name {
		case "jobs":
			l.jobs = int(n)
		case "rate":
			l.rate = n
		case "load":
			l.load = int(n)
		}
	}
	return l
}

// pace keeps a copy within its limits. All lanes share one; a nil one is free.
type pace struct {
	limits
	busy func(context.Context) (int, error) // clients at work on the provider

	mu     sync.Mutex // above what it guards
	next   time.Time  // when what was let through so far is used up
	looked time.Time
	over   bool // the provider had more to do than it may
}

// overPause is the time that a provider with too much to do gets between two
// buffers of a session: the copy gets on all the same.
const overPause = time.Second

// pass lets n bytes through when it is time for them.
func (p *pace) pass(ctx context.Context, n int) error {
	if p == nil {
		return nil
	}
	pause, err := p.pause(ctx, n)
	if err != nil || pause <= 0 {
		return err
	}
	if !sleep(ctx, pause) {
		return context.Cause(ctx)
	}
	return nil
}

func (p *pace) pause(ctx context.Context, n int) (time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.load > 0 && now.Sub(p.looked) >= overPause {
		busy, err := p.busy(ctx)
		if err != nil {
			return 0, err
		}
		p.looked, p.over = now, busy > p.load
	}
	var pause time.Duration
	if p.rate > 0 {
		p.next = latest(p.next, now).Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
		pause = p.next.Sub(now)
	}
	if p.over {
		pause = max(pause, overPause)
	}
	return pause, nil
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// readPace finds out which limits hold for a copy. It ends with the session
// that asks the provider.
func (c *copier) readPace(ctx context.Context) (end func(), err error) {
	row, err := one(c.local.ExecParams(ctx, limitsSetting, nil, nil, nil, nil).Read())
	if err != nil {
		return nil, fmt.Errorf("read limits of copies: %w", err)
	}
	l := parseLimits(string(row[0]))
	c.jobs = l.jobs
	if l.rate == 0 && l.load == 0 {
		return func() {}, nil
	}
	c.pace = &pace{limits: l}
	end = func() {}
	if l.load > 0 {
		var watch lane
		if err := c.openProvider(ctx, &watch); err != nil {
			return nil, err
		}
		c.pace.busy = func(ctx context.Context) (int, error) { return busyClients(ctx, watch.provider) }
		end = func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
			defer cancel()
			watch.close(ctx)
		}
	}
	c.w.log.InfoContext(ctx, "copy within limits", "jobs", l.jobs, "rate", l.rate, "load", l.load)
	return end, nil
}

// busyClients counts the sessions of clients that are at work, without those of
// subscribers and of our own programs.
func busyClients(ctx context.Context, provider *pgconn.PgConn) (int, error) {
	row, err := one(provider.ExecParams(ctx, `SELECT count(*), pg_stat_clear_snapshot()::text FROM pg_stat_activity a
		WHERE a.state = 'active' AND a.backend_type = 'client backend' AND a.application_name !~ '^(spock |pgdrover)|_(copy|snap|sync)$'`, nil, nil, nil, nil).Read())
	if err != nil {
		return 0, fmt.Errorf("ask provider how much it has to do: %w", err)
	}
	return strconv.Atoi(string(row[0]))
}

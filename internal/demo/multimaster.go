package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
)

// MultimasterConfig is what an operator asked of the demonstration of
// multi-master replication.
type MultimasterConfig struct {
	Stage
	// Nodes is how many nodes to start.
	Nodes int
	// Writing is how long all nodes are written to at once, Stay how long to
	// stay up afterwards.
	Writing, Stay time.Duration
}

func (c *MultimasterConfig) check() error {
	switch {
	case c.Nodes < 2 || c.Nodes > 5:
		return errors.New("--nodes must be from 2 to 5")
	case c.Writing <= 0 || c.Stay < 0:
		return errors.New("--writing must be positive, and --stay not negative")
	}
	return c.Stage.check(c.Nodes)
}

// Multimaster starts nodes that all take writes, has each of them change the
// same few rows, kills an engine on the way, and compares the rows.
type Multimaster struct {
	*MultimasterConfig
	masters []*master
	view    *mastersView
}

// NewMultimaster checks what was asked for; it touches nothing.
func NewMultimaster(cfg MultimasterConfig) (*Multimaster, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	m := &Multimaster{MultimasterConfig: &cfg}
	m.view = &mastersView{stage: &cfg.Stage}
	return m, nil
}

// Run tells the whole story and returns after everything it started has
// stopped. Rows that differ are an error.
func (m *Multimaster) Run(ctx context.Context) error {
	if err := m.open(); err != nil {
		return err
	}
	err := m.story(ctx)
	m.stop(context.WithoutCancel(ctx))
	m.leave(err != nil && ctx.Err() == nil)
	return err
}

func (m *Multimaster) story(ctx context.Context) error {
	m.say("pgdrover %s: %d PostgreSQL servers that all take writes, below %s", m.Version, m.Nodes, m.Directory)
	if err := m.startAll(ctx); err != nil {
		return err
	}
	if err := m.connectAll(ctx); err != nil {
		return err
	}
	first := m.masters[0]
	m.say("creating the tables on %s alone: automatic DDL takes them everywhere", first.name)
	if err := first.prepare(ctx); err != nil {
		return err
	}
	if err := m.settle(ctx); err != nil {
		return err
	}
	m.say("the tables are on all nodes; now every node changes the same %d rows for %s", contestedRows, m.Writing)
	if err := m.write(ctx); err != nil {
		return err
	}
	m.tell("the writers are done; waiting until every node has what the others wrote")
	if err := m.settle(ctx); err != nil {
		return err
	}
	if err := m.rest(ctx); err != nil {
		return err
	}
	if m.Stay > 0 {
		m.tell("staying up for %s; end it with Ctrl-C", m.Stay)
		if err := sleep(ctx, m.Stay); err != nil {
			return err
		}
	}
	return m.verdict(ctx)
}

// tell goes on with the story below the table.
func (m *Multimaster) tell(format string, args ...any) {
	m.view.flush()
	m.say(format, args...)
}

// write has all nodes written to at once. Half way through an engine is killed
// and starts again later: nothing is lost by that, and nothing happens twice.
func (m *Multimaster) write(ctx context.Context) error {
	writing, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, len(m.masters))
	for _, x := range m.masters {
		go func() { done <- x.write(writing) }()
	}
	err := m.watch(ctx, m.Writing/3)
	if err == nil {
		victim := m.masters[len(m.masters)-1]
		m.tell("killing the engine of %s (SIGKILL)", victim.name)
		if err = victim.engine.kill(ctx); err == nil {
			err = m.watch(ctx, m.Writing/3)
		}
		if err == nil {
			m.tell("starting the engine of %s again", victim.name)
			err = victim.startEngine()
		}
	}
	if err == nil {
		err = m.watch(ctx, m.Writing/3)
	}
	stop()
	for range m.masters {
		err = errors.Join(err, <-done)
	}
	return err
}

// watch shows the nodes for a time.
func (m *Multimaster) watch(ctx context.Context, d time.Duration) error {
	deadline := time.Now().Add(d)
	for {
		if err := m.look(ctx); err != nil {
			return err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return nil
		}
		if err := sleep(ctx, min(m.view.pace(), left)); err != nil {
			return err
		}
	}
}

// look shows the nodes once.
func (m *Multimaster) look(ctx context.Context) error {
	if err := m.observe(ctx); err != nil {
		return err
	}
	m.view.show(m.masters)
	return nil
}

func (m *Multimaster) observe(ctx context.Context) error {
	for _, x := range m.masters {
		if err := x.observe(ctx); err != nil {
			return err
		}
	}
	return nil
}

// restPatience is how long the table may take to say what is true already: the
// engines tell how far they are about once a second.
const restPatience = 10 * time.Second

// rest shows the nodes when nothing is behind any more.
func (m *Multimaster) rest(ctx context.Context) error {
	for deadline := time.Now().Add(restPatience); ; {
		if err := m.observe(ctx); err != nil {
			return err
		}
		var behind int64
		for _, x := range m.masters {
			behind += x.lagBytes
		}
		if behind == 0 || time.Now().After(deadline) {
			m.view.show(m.masters)
			return nil
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// settle waits until every node has applied what all others had committed. It
// goes on for as long as anything moves.
func (m *Multimaster) settle(ctx context.Context) error {
	for _, provider := range m.masters {
		at, err := provider.db.SyncEvent(ctx, false)
		if err != nil {
			return err
		}
		for _, x := range m.masters {
			if x == provider {
				continue
			}
			err := m.await(ctx, fmt.Sprintf("%s has what %s wrote", x.name, provider.name), func() (bool, string, error) {
				reached, err := x.appliedFrom(ctx, provider)
				return reached >= pg.LSN(at), reached.String(), err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// await waits until look says so, and gives up when nothing has moved for long.
func (m *Multimaster) await(ctx context.Context, what string, look func() (bool, string, error)) error {
	moved, last := time.Now(), ""
	for {
		done, at, err := look()
		if done || err != nil {
			return err
		}
		if at != last {
			moved, last = time.Now(), at
		}
		if time.Since(moved) > patience {
			return &Error{Err: fmt.Errorf("waited %s in vain until %s", patience, what), Advice: "look into the logs below " + m.Directory}
		}
		for _, x := range m.masters {
			if x.engine != nil && x.engine.ended() {
				return checkRunning([]*process{x.engine})
			}
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// verdict compares the rows of all nodes, and every writer's numbers.
func (m *Multimaster) verdict(ctx context.Context) error {
	m.view.flush()
	m.printf("\n  %-6s %12s %10s %34s %22s\n", "node", "transactions", "rows", "checksum of the rows", "applied here, of all")
	var all int64
	for _, x := range m.masters {
		all += x.committed.Load()
	}
	equal := true
	var first contents
	for i, x := range m.masters {
		c, err := x.contents(ctx)
		if err != nil {
			return err
		}
		if i == 0 {
			first = c
		}
		m.printf("  %-6s %12d %10d %34s %11d of %7d\n", x.name, x.committed.Load(), c.rows, c.sum, c.applied, all)
		equal = equal && c == first && c.applied == all && c.distinct == all
	}
	var conflicts, exceptions int64
	for _, x := range m.masters {
		conflicts, exceptions = conflicts+x.conflicts, exceptions+x.exceptions
	}
	m.printf("\n  conflicts resolved and recorded (spock.resolutions)  %d\n  changes that could not be applied                    %d\n", conflicts, exceptions)
	if !equal || exceptions > 0 {
		m.printf("\nDIFFERENT: the nodes do not hold the same rows.\n")
		return errors.New("the nodes do not hold the same rows")
	}
	m.printf("\nOK: all rows are equal on %d nodes, and each of %d transactions was applied exactly once on each.\n", len(m.masters), all)
	return nil
}

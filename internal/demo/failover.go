package demo

import (
	"context"
	"fmt"
	"time"

	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// Failure is what happens to the primary.
type Failure string

// The failures that the demonstration can cause.
const (
	Kill       Failure = "kill"       // keeper and server, without warning
	Switchover Failure = "switchover" // on request
	Stop       Failure = "stop"       // frozen, as a hung host
)

const defaultFormation = "default"

// monitorGrace is the startup_grace_period of a new monitor, and a little more:
// a failure within it would show the grace, not the failover.
const monitorGrace = 11 * time.Second

// FailoverConfig is what an operator asked of the demonstration.
type FailoverConfig struct {
	Stage
	// Nodes is how many PostgreSQL nodes to start.
	Nodes   int
	Failure Failure
	// Warmup is how long to write before the failure, Stay how long to stay up afterwards.
	Warmup, Stay time.Duration
}

func (c *FailoverConfig) check() error {
	switch c.Failure {
	case Kill, Switchover, Stop:
	default:
		return fmt.Errorf("--failure must be kill, switchover or stop, not %q", c.Failure)
	}
	switch {
	case c.Nodes < 2 || c.Nodes > 9:
		return fmt.Errorf("--nodes must be from 2 to 9: a failover needs a standby")
	case c.Stay < 0 || c.Warmup < 0:
		return fmt.Errorf("--stay and --warmup must not be negative")
	}
	return c.Stage.check(c.Nodes + 1)
}

// Failover starts a monitor and a group of nodes, writes, makes the primary
// fail, and counts what survived.
type Failover struct {
	*FailoverConfig
	play
	victim string // node that fails
}

// NewFailover checks what was asked for; it touches nothing.
func NewFailover(cfg FailoverConfig) (*Failover, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Failover{FailoverConfig: &cfg, play: newPlay(&cfg.Stage)}, nil
}

// Run tells the whole story and returns after everything it started has
// stopped. Lost rows are an error.
func (f *Failover) Run(ctx context.Context) error { return f.perform(ctx, f.story) }

func (f *Failover) story(ctx context.Context) error {
	f.say("pgdrover %s: a monitor and %d PostgreSQL nodes below %s", f.Version, f.Nodes, f.Directory)
	if err := f.cluster.startAll(ctx, f.Nodes); err != nil {
		return err
	}
	db, err := f.cluster.openMonitor(ctx)
	if err != nil {
		return err
	}
	defer db.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing hangs on it
	if err := f.enter(ctx, db); err != nil {
		return err
	}
	if err := f.writer.prepare(ctx); err != nil {
		return err
	}
	if err := f.act(ctx, db, f.Stay, func(ctx context.Context) error { return f.fail(ctx, db) }); err != nil {
		return err
	}
	return f.verdict(ctx, fmt.Sprintf("failure              %s of %s", f.Failure, f.victim),
		fmt.Sprintf("write gap            %d ms", f.writer.gap().Milliseconds()))
}

// fail lets the group write for a while, then causes the failure and waits
// until the group has healed.
func (f *Failover) fail(ctx context.Context, db *pgautofailover.DB) error {
	warmup := f.Warmup
	if grace := time.Until(f.cluster.monitorUp.Add(monitorGrace)); f.Failure != Switchover && grace > warmup {
		warmup = grace
		f.tell("writing for %.0f s: a new monitor judges nobody in its first seconds", warmup.Seconds())
	}
	if err := f.watch(ctx, db, warmup, never); err != nil {
		return err
	}
	primary := ""
	healthy := func(nodes []node) bool {
		primary = primaryOf(nodes)
		return primary != "" && allSettled(nodes)
	}
	if err := f.watchUntil(ctx, db, "the group is at rest", healthy); err != nil {
		return err
	}
	f.victim = primary
	f.writer.mark()
	heal, err := f.strike(ctx, db)
	if err != nil {
		return err
	}
	moved := func(nodes []node) bool {
		p := writableOf(nodes)
		return p != "" && p != f.victim && f.writer.acknowledgedSinceMark() > 0 && f.writer.lastServer() != f.writer.serverAtMark()
	}
	if err := f.watchUntil(ctx, db, "another node takes writes", moved); err != nil {
		return err
	}
	f.tellGap()
	if heal != nil {
		if err := heal(); err != nil {
			return err
		}
	}
	if err := f.watchUntil(ctx, db, "all nodes are back", healthy); err != nil {
		return err
	}
	f.tell("%s is primary, and all %d nodes are back", primary, f.Nodes)
	return nil
}

// strike causes the failure; the function it answers brings the node back.
func (f *Failover) strike(ctx context.Context, db *pgautofailover.DB) (heal func() error, err error) {
	if f.Failure == Switchover {
		f.tell("asking for a switchover away from %s", f.victim)
		return nil, db.PerformFailover(ctx, defaultFormation, 0, false)
	}
	p, err := f.cluster.find(f.victim)
	if err != nil {
		return nil, err
	}
	if f.Failure == Stop {
		f.tell("freezing keeper and server of %s (SIGSTOP)", p.name)
		thaw, err := p.freeze()
		return func() error {
			f.tell("thawing keeper and server of %s (SIGCONT)", p.name)
			return thaw()
		}, err
	}
	f.tell("killing keeper and server of %s (SIGKILL)", p.name)
	return func() error {
		f.tell("starting the service of %s again", p.name)
		return p.begin([]string{"run", "--pgdata", p.pgdata})
	}, p.kill(ctx)
}

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
	cluster *cluster
	writer  *writer
	view    *view
	victim  string // node that fails
}

// NewFailover checks what was asked for; it touches nothing.
func NewFailover(cfg FailoverConfig) (*Failover, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	f := &Failover{FailoverConfig: &cfg}
	f.cluster = &cluster{stage: &cfg.Stage}
	return f, nil
}

// Run tells the whole story and returns after everything it started has
// stopped. Lost rows are an error.
func (f *Failover) Run(ctx context.Context) error {
	if err := f.open(); err != nil {
		return err
	}
	err := f.story(ctx)
	f.cluster.stop(context.WithoutCancel(ctx))
	f.leave(err != nil && ctx.Err() == nil)
	return err
}

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
	uri, _, err := db.FormationURI(ctx, defaultFormation, defaultFormation, "prefer", "", "")
	if err != nil {
		return err
	}
	f.say("applications connect to %s", uri)
	f.writer = newWriter(uri)
	if err := f.writer.prepare(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.view = newView(&f.Stage, f.writer)
	stop := f.writer.begin(ctx)
	defer stop()
	if err := f.fail(ctx, db); err != nil {
		return err
	}
	if f.Stay > 0 {
		f.tell("staying up for %s; end it with Ctrl-C", f.Stay)
		if err := f.watch(ctx, db, f.Stay, never); err != nil {
			return err
		}
	}
	stop()
	return f.verdict(ctx)
}

// tell goes on with the story below the table.
func (f *Failover) tell(format string, args ...any) {
	f.view.flush()
	f.say(format, args...)
}

func never([]node) bool { return false }

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
	f.tell("another node takes writes; the longest pause between two acknowledged writes was %d ms", f.writer.gap().Milliseconds())
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

// watchUntil shows the group until done, which must happen in time.
func (f *Failover) watchUntil(ctx context.Context, db *pgautofailover.DB, what string, done func([]node) bool) error {
	reached := false
	err := f.watch(ctx, db, patience, func(nodes []node) bool {
		reached = done(nodes)
		return reached
	})
	if err == nil && !reached {
		return &Error{Err: fmt.Errorf("waited %s in vain until %s", patience, what), Advice: "look into the logs below " + f.Directory}
	}
	return err
}

// watch shows the group for a time, or until done.
func (f *Failover) watch(ctx context.Context, db *pgautofailover.DB, limit time.Duration, done func([]node) bool) error {
	deadline := time.Now().Add(limit)
	for {
		nodes, err := readNodes(ctx, db)
		if err != nil {
			return err
		}
		f.view.show(nodes)
		if done(nodes) || !time.Now().Before(deadline) {
			return nil
		}
		if err := sleep(ctx, min(50*time.Millisecond, max(time.Millisecond, time.Until(deadline)))); err != nil {
			return err
		}
	}
}

// unanswered explains rows that are there although nobody was told so.
func unanswered(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" (%d of them committed, but their answer never arrived)", n)
}

// verdict compares what was acknowledged with what is there.
func (f *Failover) verdict(ctx context.Context) error {
	surviving, lost, err := f.writer.count(ctx)
	if err != nil {
		return err
	}
	acked := f.writer.acknowledged()
	f.printf("\n")
	f.printf("  failure              %s of %s\n", f.Failure, f.victim)
	f.printf("  write gap            %d ms\n", f.writer.gap().Milliseconds())
	f.printf("  acknowledged rows    %d\n", acked)
	f.printf("  surviving rows       %d%s\n", surviving, unanswered(surviving-(acked-lost)))
	f.printf("  acknowledged, lost   %d\n", lost)
	if lost > 0 {
		f.printf("\nLOST: %d acknowledged rows are gone.\n", lost)
		return fmt.Errorf("%d of %d acknowledged rows were lost", lost, acked)
	}
	f.printf("\nOK: every acknowledged row is there.\n")
	return nil
}

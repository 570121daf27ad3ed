package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/fsm"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// qInsertAnywhere adds a row to a distributed table, which does not tell where it went.
const qInsertAnywhere = `INSERT INTO public.demo (id) VALUES ($1) RETURNING 0`

// CitusConfig is what an operator asked of the demonstration of a Citus formation.
type CitusConfig struct {
	Stage
	// Workers is how many groups of workers to start, two nodes each.
	Workers int
	// Stay is how long to stay up afterwards.
	Stay time.Duration
}

func (c *CitusConfig) check() error {
	switch {
	case c.Workers < 1 || c.Workers > 4:
		return errors.New("--workers must be from 1 to 4")
	case c.Stay < 0:
		return errors.New("--stay must not be negative")
	}
	return c.Stage.check(2*c.Workers + 3)
}

// Citus starts a coordinator and workers with a standby each, writes to a
// distributed table, kills a worker and the coordinator, and counts what survived.
type Citus struct {
	*CitusConfig
	play
	groups map[string]int // of each node
	gaps   []string
}

// NewCitus checks what was asked for; it touches nothing.
func NewCitus(cfg CitusConfig) (*Citus, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Citus{CitusConfig: &cfg, play: newPlay(&cfg.Stage), groups: make(map[string]int)}, nil
}

// Run tells the whole story and returns after everything it started has
// stopped. Lost rows are an error.
func (c *Citus) Run(ctx context.Context) error {
	if err := c.extension(ctx); err != nil {
		return err
	}
	return c.perform(ctx, c.story)
}

// extension refuses a PostgreSQL without Citus before anything is started.
func (c *Citus) extension(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, c.Tools.Path("pg_config"), "--sharedir").Output() //nolint:gosec // of the installation that is asked for
	if err != nil {
		return nil //nolint:nilerr // no pg_config: the nodes will say what is missing
	}
	path := filepath.Join(strings.TrimSpace(string(out)), "extension", "citus.control")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return &Error{
			Err:    fmt.Errorf("extension citus is not installed for the PostgreSQL in %q: there is no %q", c.Tools.Dir, path),
			Advice: "install Citus for this version of PostgreSQL, or name another installation with --pgctl", Refused: true,
		}
	}
	return nil
}

func (c *Citus) story(ctx context.Context) error {
	c.say("pgdrover %s: a monitor, a coordinator pair and %s below %s", c.Version, plural(c.Workers, "worker pair", "worker pairs"), c.Directory)
	db, err := c.startAll(ctx)
	if err != nil {
		return err
	}
	defer db.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing hangs on it
	if err := c.enter(ctx, db); err != nil {
		return err
	}
	c.writer.insert = qInsertAnywhere
	if err := c.distribute(ctx); err != nil {
		return err
	}
	if err := c.act(ctx, db, c.Stay, func(ctx context.Context) error { return c.killBoth(ctx, db) }); err != nil {
		return err
	}
	return c.verdict(ctx, "killed, write gap    "+strings.Join(c.gaps, ", "))
}

// killBoth kills a worker and then the coordinator, as soon as the monitor judges.
func (c *Citus) killBoth(ctx context.Context, db *pgautofailover.DB) error {
	if grace := time.Until(c.cluster.monitorUp.Add(monitorGrace)); grace > 0 {
		c.tell("writing for %.0f s: a new monitor judges nobody in its first seconds", grace.Seconds())
		if err := c.watch(ctx, db, grace, never); err != nil {
			return err
		}
	}
	for _, group := range []int{1, 0} {
		if err := c.kill(ctx, db, group); err != nil {
			return err
		}
	}
	return nil
}

// startAll starts the monitor and every group, and waits until all replicate.
func (c *Citus) startAll(ctx context.Context) (*pgautofailover.DB, error) {
	ports, err := c.ports(ctx, 2*c.Workers+3)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.socketDir(), 0o700); err != nil {
		return nil, err
	}
	c.cluster.monitor = c.cluster.process("monitor", ports[0])
	if err := c.cluster.create(c.cluster.monitor, "monitor"); err != nil {
		return nil, err
	}
	db, err := c.cluster.openMonitor(ctx)
	if err != nil {
		return nil, err
	}
	c.cluster.monitorUp = time.Now()
	c.say("the monitor is up on port %d", ports[0])
	if err := c.startGroups(ctx, db, ports[1:]); err != nil {
		return nil, errors.Join(err, db.Close(context.WithoutCancel(ctx)))
	}
	c.say("the coordinator and %s have a synchronous standby each", plural(c.Workers, "worker", "workers"))
	return db, nil
}

func (c *Citus) startGroups(ctx context.Context, db *pgautofailover.DB, ports []int) error {
	uri := "postgres://autoctl_node@localhost:" + strconv.Itoa(c.cluster.monitor.port) + "/pg_auto_failover?sslmode=prefer"
	// Each group's first node before any second one: workers need the coordinator.
	for _, letter := range []string{"a", "b"} {
		for group := range c.Workers + 1 {
			kind, name, args := "coordinator", "coord0"+letter, []string(nil)
			if group > 0 {
				kind, name = "worker", "worker"+strconv.Itoa(group)+letter
				args = []string{"--group", strconv.Itoa(group)}
			}
			p := c.cluster.process(name, ports[len(c.cluster.nodes)])
			c.cluster.nodes, c.groups[name] = append(c.cluster.nodes, p), group
			args = append(args, "--name", name, "--monitor", uri, "--pghost", c.socketDir())
			if err := c.cluster.create(p, kind, args...); err != nil {
				return err
			}
			if group > 0 && letter == "b" {
				continue
			}
			up := func(nodes []node) bool { return letter == "b" || c.writable(nodes, group) != "" }
			if err := c.cluster.await(ctx, db, up); err != nil {
				return err
			}
		}
	}
	return c.cluster.await(ctx, db, c.healthy)
}

// writable is the node of a group that takes writes.
func (c *Citus) writable(nodes []node, group int) string {
	for _, n := range nodes {
		if c.groups[n.name] == group && n.reported.Writable() && n.goal.Writable() {
			return n.name
		}
	}
	return ""
}

// healthy reports a primary and a secondary in every group.
func (c *Citus) healthy(nodes []node) bool {
	if len(nodes) != 2*(c.Workers+1) {
		return false
	}
	primaries := make(map[int]int)
	for _, n := range nodes {
		if n.reported != n.goal || n.goal != fsm.Primary && n.goal != fsm.Secondary {
			return false
		}
		if n.goal == fsm.Primary {
			primaries[c.groups[n.name]]++
		}
	}
	return len(primaries) == c.Workers+1
}

// distribute creates the table, its rows spread over the workers.
func (c *Citus) distribute(ctx context.Context) error {
	if err := c.writer.prepare(ctx); err != nil {
		return err
	}
	conn, err := c.writer.connect(ctx)
	if err != nil {
		return fmt.Errorf("connect to the coordinator: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing hangs on it
	if _, err := conn.Exec(ctx, `SELECT create_distributed_table('public.demo', 'id')`); err != nil {
		return fmt.Errorf("distribute the table: %w", err)
	}
	c.say("the table is distributed over %s", plural(c.Workers, "worker", "workers"))
	return nil
}

// kill ends the primary of a group without warning and waits until all is well again.
func (c *Citus) kill(ctx context.Context, db *pgautofailover.DB, group int) error {
	what := "the coordinator"
	if group > 0 {
		what = "worker " + strconv.Itoa(group)
	}
	victim := ""
	if err := c.watchUntil(ctx, db, "every group is at rest", func(nodes []node) bool {
		victim = c.writable(nodes, group)
		return victim != "" && c.healthy(nodes)
	}); err != nil {
		return err
	}
	p, err := c.cluster.find(victim)
	if err != nil {
		return err
	}
	c.writer.mark()
	c.tell("killing keeper and server of %s, the primary of %s (SIGKILL)", victim, what)
	if err := p.kill(ctx); err != nil {
		return err
	}
	if group > 0 && c.Workers > 1 {
		c.tell("rows of this worker wait, those of the others go on")
	}
	if err := c.watchUntil(ctx, db, "another node takes writes", func(nodes []node) bool {
		next := c.writable(nodes, group)
		return next != "" && next != victim && c.writer.acknowledgedSinceMark() > 0
	}); err != nil {
		return err
	}
	c.tellGap()
	c.gaps = append(c.gaps, fmt.Sprintf("%s %d ms", what, c.writer.gap().Milliseconds()))
	c.tell("starting the service of %s again", victim)
	if err := p.begin([]string{"run", "--pgdata", p.pgdata}); err != nil {
		return err
	}
	return c.watchUntil(ctx, db, "all nodes are back", c.healthy)
}

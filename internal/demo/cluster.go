package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// cluster is a monitor and the nodes of one group.
type cluster struct {
	stage   *Stage
	monitor *process
	nodes   []*process
	// monitorUp is when the monitor was first seen to decide.
	monitorUp time.Time
}

// startAll starts the monitor, the first node and the others, and waits until
// every standby replicates.
func (c *cluster) startAll(ctx context.Context, count int) error {
	ports, err := c.stage.ports(ctx, count+1)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.stage.socketDir(), 0o700); err != nil {
		return err
	}
	c.monitor = c.process("monitor", ports[0])
	if err := c.create(c.monitor, "monitor"); err != nil {
		return err
	}
	db, err := c.openMonitor(ctx)
	if err != nil {
		return err
	}
	defer db.Close(context.WithoutCancel(ctx)) //nolint:errcheck // only read
	c.monitorUp = time.Now()
	c.stage.say("the monitor is up on port %d", c.monitor.port)
	uri := "postgres://autoctl_node@localhost:" + strconv.Itoa(c.monitor.port) + "/pg_auto_failover?sslmode=prefer"
	for i := 1; i <= count; i++ {
		p := c.process("node_"+strconv.Itoa(i), ports[i])
		c.nodes = append(c.nodes, p)
		if err := c.create(p, "postgres", "--name", p.name, "--monitor", uri, "--pghost", c.stage.socketDir()); err != nil {
			return err
		}
		if i == 1 {
			if err := c.await(ctx, db, func(nodes []node) bool { return writableOf(nodes) == p.name }); err != nil {
				return err
			}
			c.stage.say("%s is up on port %d and takes writes", p.name, p.port)
		}
	}
	err = c.await(ctx, db, func(nodes []node) bool { return len(nodes) == count && allSettled(nodes) })
	if err == nil {
		c.stage.say("%s synchronously", plural(count-1, "standby replicates", "standbys replicate"))
	}
	return err
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

func (c *cluster) process(name string, port int) *process {
	return &process{stage: c.stage, name: name, port: port, pgdata: filepath.Join(c.stage.Directory, name)}
}

// create starts a process that creates its node and goes on as its service.
func (c *cluster) create(p *process, kind string, args ...string) error {
	return p.begin(slices.Concat([]string{
		"create", kind, "--run", "--pgdata", p.pgdata, "--pgport", strconv.Itoa(p.port), "--pgctl", c.stage.Tools.PgCtl(),
		"--listen", "localhost", "--hostname", "localhost", "--auth", "trust", "--no-ssl",
	}, args))
}

// all are the processes, the monitor first.
func (c *cluster) all() []*process {
	if c.monitor == nil {
		return nil
	}
	return append([]*process{c.monitor}, c.nodes...)
}

// await waits until the group is as wanted, and notices when a process ends early.
func (c *cluster) await(ctx context.Context, db *pgautofailover.DB, done func([]node) bool) error {
	deadline := time.Now().Add(patience)
	for {
		nodes, err := readNodes(ctx, db)
		if err != nil {
			return err
		}
		if done(nodes) {
			return nil
		}
		if err := checkRunning(c.all()); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return &Error{Err: fmt.Errorf("the nodes were not ready within %s", patience), Advice: "look into the logs below " + c.stage.Directory}
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// openMonitor connects to the monitor as soon as it decides.
func (c *cluster) openMonitor(ctx context.Context) (*pgautofailover.DB, error) {
	info := pg.NewConnInfo("host", "localhost", "port", strconv.Itoa(c.monitor.port), "user", "autoctl_node",
		"dbname", "pg_auto_failover", "sslmode", "disable")
	deadline := time.Now().Add(patience)
	for {
		db, err := pgautofailover.Connect(ctx, pgautofailover.ConnectConfig{
			ConnInfo: info, ApplicationName: "pgdrover demo", StatementTimeout: 30 * time.Second,
		})
		if err == nil {
			alive, aliveErr := db.MonitorAlive(ctx)
			if aliveErr == nil && alive {
				return db, nil
			}
			err = aliveErr
			_ = db.Close(context.WithoutCancel(ctx))
		}
		if early := checkRunning(c.all()); early != nil {
			return nil, early
		}
		if time.Now().After(deadline) {
			return nil, &Error{
				Err:    fmt.Errorf("the monitor was not ready within %s: %w", patience, err),
				Advice: "its log is " + c.stage.logFile(c.monitor.name),
			}
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// find answers the node of that name.
func (c *cluster) find(name string) (*process, error) {
	for _, p := range c.nodes {
		if p.name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("find %s: not one of ours", name)
}

// stop ends everything that was started, nodes before the monitor.
func (c *cluster) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 3*stopPatience)
	defer cancel()
	stopAll(ctx, c.nodes)
	if c.monitor != nil {
		stopAll(ctx, []*process{c.monitor})
	}
}

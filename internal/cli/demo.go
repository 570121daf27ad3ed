package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/postgres"
)

// The failures that the demonstration can cause.
const (
	failureKill       = "kill"
	failureSwitchover = "switchover"
	failureStop       = "stop"
)

// monitorGrace is the startup_grace_period of a new monitor, and a little more:
// a failure within it would show the grace, not the failover.
const monitorGrace = 11 * time.Second

// demoPatience bounds every wait of the demonstration.
const demoPatience = 120 * time.Second

// demoConfig is what an operator asked of the demonstration.
type demoConfig struct {
	nodes     int
	failure   string
	stay      time.Duration
	warmup    time.Duration
	directory string
	keep      bool
	port      int
	tools     postgres.Tools
}

func newDemoCmd(env *Env) *cobra.Command {
	cmd := newLeaf("demo", "Show a failover: a monitor, some nodes, a writer, and a failure", func(cmd *cobra.Command, _ []string) error {
		return runDemo(cmd.Context(), env, cmd)
	})
	f := cmd.Flags()
	f.IntP("nodes", "n", 3, "how many PostgreSQL `nodes` to start, from 2 to 9")
	f.StringP("failure", "f", failureKill, "what happens to the primary: kill (keeper and server, without warning), switchover (on request) or stop (frozen, as a hung host); the `kind`")
	f.Duration("stay", 0, "how `long` to stay up afterwards, for example 5m")
	f.Duration("warmup", 2*time.Second, "how `long` to write before the failure")
	f.StringP("directory", "D", "", "`directory` for data and logs, which must be empty or absent (default: a temporary one)")
	f.IntP("port", "p", 0, "`port` of the monitor; the nodes take those that follow (default: free ones)")
	f.Bool("keep", false, "leave data and logs behind")
	f.StringP("pgctl", "C", "", "`path` to pg_ctl")
	return cmd
}

// readDemo checks the options.
func readDemo(ctx context.Context, env *Env, cmd *cobra.Command) (demoConfig, error) {
	cfg := demoConfig{
		nodes: number(cmd, "nodes"), failure: text(cmd, "failure"), directory: text(cmd, "directory"),
		keep: on(cmd, "keep"), port: number(cmd, "port"),
	}
	var err error
	if cfg.stay, err = cmd.Flags().GetDuration("stay"); err != nil {
		return cfg, err
	}
	if cfg.warmup, err = cmd.Flags().GetDuration("warmup"); err != nil {
		return cfg, err
	}
	switch {
	case cfg.nodes < 2 || cfg.nodes > 9:
		return cfg, misuse("--nodes must be from 2 to 9: a failover needs a standby")
	case !slices.Contains([]string{failureKill, failureSwitchover, failureStop}, cfg.failure):
		return cfg, misuse("--failure must be kill, switchover or stop, not %q", cfg.failure)
	case cfg.port < 0 || cfg.port+cfg.nodes > 65535:
		return cfg, misuse("--port must leave room for %d ports below 65536", cfg.nodes+1)
	case cfg.stay < 0 || cfg.warmup < 0:
		return cfg, misuse("--stay and --warmup must not be negative")
	}
	cfg.tools, err = demoTools(ctx, env, text(cmd, "pgctl"))
	return cfg, err
}

// demoTools finds PostgreSQL also where Debian puts it, outside of PATH.
func demoTools(ctx context.Context, env *Env, pgCtl string) (postgres.Tools, error) {
	tools, err := findTools(ctx, env, pgCtl)
	if err == nil || pgCtl != "" {
		return tools, err
	}
	var best postgres.Tools
	newest := 0
	found, globErr := filepath.Glob("/usr/lib/postgresql/*/bin/pg_ctl")
	if globErr != nil {
		return tools, err
	}
	for _, path := range found {
		candidate := postgres.Tools{Dir: filepath.Dir(path)}
		if v, err := candidate.Version(ctx); err == nil && v.Number > newest {
			best, newest = candidate, v.Number
		}
	}
	if newest == 0 {
		return tools, err
	}
	return best, nil
}

func runDemo(ctx context.Context, env *Env, cmd *cobra.Command) error {
	if err := env.refuseRoot(env.program() + " demo"); err != nil {
		return err
	}
	cfg, err := readDemo(ctx, env, cmd)
	if err != nil {
		return err
	}
	made, err := demoDirectory(&cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	hungUp := make(chan struct{})
	defer close(hungUp)
	go func() {
		// There is nothing to reload: this is the terminal going away.
		select {
		case <-env.Reload:
			cancel(&SignalError{Sig: syscall.SIGHUP})
		case <-hungUp:
		}
	}()
	c := &demoCluster{env: env, cfg: cfg}
	d := &demo{env: env, cfg: cfg, cluster: c, start: time.Now()}
	err = d.run(ctx)
	c.stop(context.WithoutCancel(ctx))
	if made && !cfg.keep && (err == nil || ctx.Err() != nil) {
		if err := os.RemoveAll(cfg.directory); err != nil {
			env.warnf("remove %s: %s", cfg.directory, err)
		}
	} else {
		env.infof("Data and logs are in %s", cfg.directory)
	}
	if ctx.Err() != nil {
		return fail(exitInternal, "the demonstration was interrupted: everything it started is stopped")
	}
	return err
}

// demoDirectory makes sure of an empty directory; made says that it is ours to remove.
func demoDirectory(cfg *demoConfig) (made bool, err error) {
	if cfg.directory == "" {
		cfg.directory, err = os.MkdirTemp("", "pgdrover-demo-")
		return true, withCode(exitInternal, err)
	}
	if cfg.directory, err = absolute(cfg.directory); err != nil {
		return false, err
	}
	entries, err := os.ReadDir(cfg.directory)
	switch {
	case os.IsNotExist(err):
		return true, withCode(exitInternal, os.MkdirAll(cfg.directory, 0o700))
	case err != nil:
		return false, withCode(exitBadArgs, err)
	case len(entries) > 0:
		return false, fail(exitBadArgs, "directory %q is not empty", cfg.directory).withHint("choose another one with --directory")
	}
	return false, nil
}

// demo is one demonstration on its way.
type demo struct {
	env     *Env
	cfg     demoConfig
	cluster *demoCluster
	writer  *demoWriter
	view    *demoView
	start   time.Time
	victim  string // node that fails
	failed  time.Time
}

// run is the whole story; what it started is stopped by the caller.
func (d *demo) run(ctx context.Context) error {
	d.say("pgdrover %s: a monitor and %d PostgreSQL nodes below %s", d.env.Version, d.cfg.nodes, d.cfg.directory)
	if err := d.cluster.startAll(ctx, d.say); err != nil {
		return err
	}
	s, err := d.cluster.openMonitor(ctx)
	if err != nil {
		return err
	}
	defer s.close(ctx)
	uri, _, err := s.db.FormationURI(ctx, defaultFormation, defaultFormation, "prefer", "", "")
	if err != nil {
		return err
	}
	d.say("applications connect to %s", uri)
	d.writer = newDemoWriter(uri)
	if err := d.writer.prepare(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.view = newDemoView(d.env, d.writer, d.start)
	stop := d.writer.begin(ctx)
	defer stop()
	if err := d.fail(ctx, s); err != nil {
		return err
	}
	if d.cfg.stay > 0 {
		d.say("staying up for %s; end it with Ctrl-C", d.cfg.stay)
		if err := d.watch(ctx, s, d.cfg.stay, func([]demoNode) bool { return false }); err != nil {
			return err
		}
	}
	stop()
	return d.verdict(ctx)
}

// say tells the story with the seconds since the start.
func (d *demo) say(format string, args ...any) {
	if d.view != nil {
		d.view.flush()
	}
	d.env.printf("%6.1fs  %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

// fail lets the group write for a while, then causes the failure and waits
// until the group has healed.
func (d *demo) fail(ctx context.Context, s *session) error {
	warmup := d.cfg.warmup
	if grace := time.Until(d.cluster.monitorUp.Add(monitorGrace)); d.cfg.failure != failureSwitchover && grace > warmup {
		warmup = grace
		d.say("writing for %.0f s: a new monitor judges nobody in its first seconds", warmup.Seconds())
	}
	if err := d.watch(ctx, s, warmup, func([]demoNode) bool { return false }); err != nil {
		return err
	}
	primary := ""
	healthy := func(nodes []demoNode) bool {
		primary = primaryOf(nodes)
		return primary != "" && allSettled(nodes)
	}
	if err := d.watchUntil(ctx, s, "the group is at rest", healthy); err != nil {
		return err
	}
	d.victim = primary
	d.writer.mark()
	d.failed = time.Now()
	heal, err := d.strike(ctx, s)
	if err != nil {
		return err
	}
	moved := func(nodes []demoNode) bool {
		p := writableOf(nodes)
		return p != "" && p != d.victim && d.writer.acknowledgedSinceMark() > 0 && d.writer.lastServer() != d.writer.serverAtMark()
	}
	if err := d.watchUntil(ctx, s, "another node takes writes", moved); err != nil {
		return err
	}
	d.say("another node takes writes; the longest pause between two acknowledged writes was %d ms", d.writer.gap().Milliseconds())
	if heal != nil {
		if err := heal(ctx); err != nil {
			return err
		}
	}
	if err := d.watchUntil(ctx, s, "all nodes are back", healthy); err != nil {
		return err
	}
	d.say("%s is primary, and all %d nodes are back", primary, d.cfg.nodes)
	return nil
}

// strike causes the failure; the function it answers brings the node back.
func (d *demo) strike(ctx context.Context, s *session) (heal func(context.Context) error, err error) {
	switch d.cfg.failure {
	case failureSwitchover:
		d.say("asking for a switchover away from %s", d.victim)
		return nil, s.db.PerformFailover(ctx, defaultFormation, 0, false)
	case failureStop:
		d.say("freezing keeper and server of %s (SIGSTOP)", d.victim)
		return d.cluster.freeze(d.victim, d.say)
	}
	d.say("killing keeper and server of %s (SIGKILL)", d.victim)
	return d.cluster.kill(d.victim, d.say)
}

// watchUntil shows the group until done, which must happen in time.
func (d *demo) watchUntil(ctx context.Context, s *session, what string, done func([]demoNode) bool) error {
	reached := false
	err := d.watch(ctx, s, demoPatience, func(nodes []demoNode) bool {
		reached = done(nodes)
		return reached
	})
	if err == nil && !reached {
		return fail(exitInternal, "waited %s in vain until %s", demoPatience, what).
			withHint("look into the logs below %s", d.cfg.directory)
	}
	return err
}

// watch shows the group for a time, or until done.
func (d *demo) watch(ctx context.Context, s *session, limit time.Duration, done func([]demoNode) bool) error {
	deadline := time.Now().Add(limit)
	for {
		states, err := s.db.CurrentState(ctx, defaultFormation, nil)
		if err != nil {
			return err
		}
		nodes := demoNodes(states)
		d.view.show(nodes)
		if done(nodes) || !time.Now().Before(deadline) {
			return nil
		}
		if err := sleep(ctx, min(50*time.Millisecond, max(time.Millisecond, time.Until(deadline)))); err != nil {
			return err
		}
	}
}

// verdict compares what was acknowledged with what is there.
func (d *demo) verdict(ctx context.Context) error {
	surviving, lost, err := d.writer.count(ctx)
	if err != nil {
		return err
	}
	acked := d.writer.acknowledged()
	d.env.printf("\n")
	d.env.printf("  failure              %s of %s\n", d.cfg.failure, d.victim)
	d.env.printf("  write gap            %d ms\n", d.writer.gap().Milliseconds())
	d.env.printf("  acknowledged rows    %d\n", acked)
	d.env.printf("  surviving rows       %d\n", surviving)
	d.env.printf("  acknowledged, lost   %d\n", lost)
	if lost > 0 {
		d.env.printf("\nLOST: %d acknowledged rows are gone.\n", lost)
		return fail(exitInternal, "%d of %d acknowledged rows were lost", lost, acked)
	}
	d.env.printf("\nOK: every acknowledged row is there.\n")
	return nil
}

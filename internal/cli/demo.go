package cli

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/demo"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// newDemoCmd is the failover demonstration; the other demonstrations are words after it.
func newDemoCmd(env *Env) *cobra.Command {
	cmd := newLeaf("demo", "Show a failover: a monitor, some nodes, a writer, and a failure", func(cmd *cobra.Command, _ []string) error {
		return demoFailover(cmd.Context(), env, cmd)
	})
	f := cmd.Flags()
	f.IntP("nodes", "n", 3, "how many PostgreSQL `nodes` to start, from 2 to 9")
	f.StringP("failure", "f", string(demo.Kill), "what happens to the primary: kill (keeper and server, without warning), switchover (on request) or stop (frozen, as a hung host); the `kind`")
	f.Duration("stay", 0, "how `long` to stay up afterwards, for example 5m")
	f.Duration("warmup", 2*time.Second, "how `long` to write before the failure")
	stageFlags(cmd)
	// Another demonstration is one line here.
	return withSubcommands(cmd, newDemoMultimasterCmd(env), newDemoCitusCmd(env))
}

// stageFlags are the options of every demonstration.
func stageFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringP("directory", "D", "", "`directory` for data and logs, which must be empty or absent (default: a temporary one)")
	f.IntP("port", "p", 0, "first `port` to use; the others follow (default: free ones)")
	f.Bool("keep", false, "leave data and logs behind")
	f.StringP("pgctl", "C", "", "`path` to pg_ctl")
}

// tableWidth is what the lines of a demonstration's table take; such that wrap cannot be drawn over.
const tableWidth = 100

// stage is where a demonstration takes place, as its options say.
func stage(ctx context.Context, env *Env, cmd *cobra.Command) (demo.Stage, error) {
	tools, err := demoTools(ctx, env, text(cmd, "pgctl"))
	columns, _ := env.screen()
	return demo.Stage{
		Version: env.Version, Directory: text(cmd, "directory"), Keep: on(cmd, "keep"), Port: number(cmd, "port"), Tools: tools,
		Executable: env.Executable, Environ: env.Environ, Flags: env.verbosityFlags(),
		Out: env.Stdout, Terminal: env.draws() && columns >= tableWidth, Logger: env.log,
	}, err
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

func demoFailover(ctx context.Context, env *Env, cmd *cobra.Command) error {
	cfg := demo.FailoverConfig{Nodes: number(cmd, "nodes"), Failure: demo.Failure(text(cmd, "failure"))}
	var err error
	if cfg.Stay, err = cmd.Flags().GetDuration("stay"); err != nil {
		return err
	}
	if cfg.Warmup, err = cmd.Flags().GetDuration("warmup"); err != nil {
		return err
	}
	return runDemo(ctx, env, cmd, func(stage demo.Stage) (demonstration, error) {
		cfg.Stage = stage
		return demo.NewFailover(cfg)
	})
}

// demonstration is a story that can be told.
type demonstration interface {
	Run(ctx context.Context) error
}

// runDemo runs a demonstration until its end or that of the terminal.
func runDemo(ctx context.Context, env *Env, cmd *cobra.Command, build func(demo.Stage) (demonstration, error)) error {
	if err := env.refuseRoot(env.program() + " demo"); err != nil {
		return err
	}
	stage, err := stage(ctx, env, cmd)
	if err != nil {
		return err
	}
	d, err := build(stage)
	if err != nil {
		return misuse("%w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		// There is nothing to reload: this is the terminal going away.
		select {
		case <-env.Reload:
			cancel(&SignalError{Sig: syscall.SIGHUP})
		case <-ended:
		}
	}()
	err = d.Run(ctx)
	if ctx.Err() != nil {
		return fail(exitInternal, "the demonstration was interrupted: everything it started is stopped")
	}
	if refused, ok := errors.AsType[*demo.Error](err); ok && refused.Refused {
		return withCode(exitBadArgs, err)
	}
	return withCode(exitInternal, err)
}

package cli

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/keeper"
	"github.com/pgdrover/pgdrover/internal/monitor"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// SignalError is the cause of a context that a signal ended: the programs stop
// the way it asks for.
type SignalError struct{ Sig os.Signal }

func (e *SignalError) Error() string { return "received signal " + e.Sig.String() }

// Signal returns the signal.
func (e *SignalError) Signal() os.Signal { return e.Sig }

func newRunCmd(env *Env) *cobra.Command {
	cmd := newLeaf("run", "Run the service of a node (monitor or keeper)", func(cmd *cobra.Command, _ []string) error {
		return runNode(cmd.Context(), env, cmd)
	})
	metadataFlags(cmd)
	return cmd
}

func runNode(ctx context.Context, env *Env, cmd *cobra.Command) error {
	if err := env.refuseRoot(env.program() + " run"); err != nil {
		return err
	}
	n, err := localNode(env, cmd)
	if err != nil {
		return err
	}
	if !n.isMonitor() {
		if err := n.renamed(cmd); err != nil {
			return err
		}
	}
	svc, err := findService(n.site)
	if err != nil {
		return err
	}
	if svc.running {
		return fatal(exitInternal, "%s is already running with pid %d", nameAutoctl, svc.pid())
	}
	if err := n.checkPidDirectory(exitInternal); err != nil {
		return err
	}
	tools, err := postgres.FindTools(ctx, postgres.FindConfig{PgCtl: n.pgCtl()})
	if err != nil {
		return withCode(exitPgCtl, err)
	}
	if n.isMonitor() {
		return runMonitor(ctx, env, monitor.Config{
			Paths: n.monitorPaths(), File: n.monitor, Tools: tools, Logger: env.log, Reload: env.Reload, Version: env.Version,
			SocketDir: env.getenv("PG_REGRESS_SOCK_DIR"),
		})
	}
	if err := n.takeOptions(ctx, env, cmd); err != nil {
		return err
	}
	return runKeeper(ctx, env, keeper.Config{
		Paths: n.keeperPaths(), File: n.keeper, Tools: tools, Logger: env.log, Reload: env.Reload, Version: env.Version,
	})
}

// takeOptions stores name, host and port given to run, after the monitor knows them.
func (n *node) takeOptions(ctx context.Context, env *Env, cmd *cobra.Command) error {
	if !given(cmd, "name") && !given(cmd, "hostname") && !given(cmd, "pgport") {
		return nil
	}
	if !n.monitorDisabled() && isFile(n.state) {
		if err := pushMetadata(ctx, env, n); err != nil {
			return err
		}
	}
	return withCode(exitBadConfig, n.keeper.Save(n.config))
}

func runMonitor(ctx context.Context, env *Env, cfg monitor.Config) error {
	if env.OneThread != nil {
		env.OneThread()
	}
	version, err := wantedVersion(env)
	if err != nil {
		return err
	}
	ctx, next := followSuccessor(ctx, env, monitor.ErrDetach)
	manager := newNotifier(env)
	up := make(chan struct{}, 1)
	cfg.Ready = func() {
		manager.ready()
		select {
		case up <- struct{}{}:
		default:
		}
	}
	m, err := monitor.New(cfg)
	if err != nil {
		return next.end(ctx, manager, cfg.File.PGData, withCode(exitBadConfig, err))
	}
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() { manager.follow(ctx, ended) })
	following, unfollow := context.WithCancel(ctx)
	wg.Go(func() { followNodeFile(following, env, true) })
	wg.Go(func() {
		select {
		case <-ended:
		case <-up:
			if version != "" {
				tellVersion(following, env, cfg, version)
			}
		}
	})
	err = m.Run(ctx)
	unfollow()
	close(ended)
	wg.Wait()
	return serviceEnded(ctx, env, next.end(ctx, manager, cfg.File.PGData, err))
}

func runKeeper(ctx context.Context, env *Env, cfg keeper.Config) error {
	ctx, next := followSuccessor(ctx, env, keeper.ErrDetach)
	manager := newNotifier(env)
	cfg.Ready, cfg.VersionMismatch = manager.ready, next.mismatch
	k, err := keeper.New(cfg)
	if err != nil {
		return next.end(ctx, manager, cfg.File.PGData, withCode(exitBadConfig, err))
	}
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() { escalate(env, k, ended) })
	wg.Go(func() { manager.follow(ctx, ended) })
	following, unfollow := context.WithCancel(ctx)
	wg.Go(func() { followNodeFile(following, env, false) })
	serve := k.Run
	if env.getenv(suspendedVariable) != "" && cfg.File.Monitor != keeper.MonitorDisabled {
		serve = k.RunSuspended
	}
	err = serve(ctx)
	unfollow()
	close(ended)
	wg.Wait()
	return serviceEnded(ctx, env, next.end(ctx, manager, cfg.File.PGData, err))
}

// escalate passes on signals that arrive while the service stops already: the strongest counts.
func escalate(env *Env, k *keeper.Keeper, ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case sig, ok := <-env.Signals:
			switch {
			case !ok:
				return
			case sig == syscall.SIGQUIT:
				k.Stop(keeper.StopImmediate)
			default:
				k.Stop(keeper.StopFast)
			}
		}
	}
}

// serviceEnded gives the end of a service its exit code: being asked to stop is a success.
func serviceEnded(ctx context.Context, env *Env, err error) error {
	asked := ctx.Err() != nil
	switch {
	case err == nil, asked && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))):
		env.infof("Stop %s", nameAutoctl)
		return nil
	case errors.Is(err, keeper.ErrDropped):
		env.infof("This node has been dropped from the monitor, stopping")
		return nil
	case errors.Is(err, keeper.ErrNotRegistered):
		return fatal(exitInternal, "%w", err).
			withHint("register it again with the create command, or remove it with: %s drop node --destroy", env.program())
	case isConfigError(err):
		return withCode(exitBadConfig, err)
	}
	if _, ok := errors.AsType[*keeper.StateError](err); ok {
		return withCode(exitBadState, err)
	}
	return &exitError{code: exitInternal, level: levelFatal, err: err}
}

// isConfigError reports a configuration that a program refused.
func isConfigError(err error) bool {
	_, ofKeeper := errors.AsType[*keeper.ConfigError](err)
	_, ofMonitor := errors.AsType[*monitor.ConfigError](err)
	return ofKeeper || ofMonitor
}

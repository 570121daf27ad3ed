package cli

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/supervisor"
)

func newStopCmd(env *Env) *cobra.Command {
	cmd := newLeaf("stop", "Signal the service to stop", func(cmd *cobra.Command, _ []string) error {
		return stopService(env, cmd)
	})
	pgdataFlag(cmd)
	cmd.Flags().BoolP("fast", "f", false, "fast shutdown mode for the keeper")
	cmd.Flags().BoolP("immediate", "i", false, "immediate shutdown mode for the keeper")
	cmd.Flags().Bool("sigkill", false, "send SIGKILL to the whole process group")
	cmd.Flags().Lookup("sigkill").Hidden = true
	return cmd
}

func stopService(env *Env, cmd *cobra.Command) error {
	sig, modes := syscall.SIGTERM, 0
	for _, mode := range []struct {
		name string
		sig  syscall.Signal
	}{{"fast", syscall.SIGINT}, {"immediate", syscall.SIGQUIT}, {"sigkill", syscall.SIGKILL}} {
		if on(cmd, mode.name) {
			sig, modes = mode.sig, modes+1
		}
	}
	if modes > 1 {
		return fatal(exitBadArgs, "Please use only one of the options --fast and --immediate")
	}
	if on(cmd, "sigkill") && env.getenv("PG_AUTOCTL_DEBUG") == "" {
		return fatal(exitBadArgs, "Option --sigkill is for tests: set PG_AUTOCTL_DEBUG to use it")
	}
	s, err := sitePGData(env, cmd)
	if err != nil {
		return err
	}
	svc, err := findService(s)
	if err != nil {
		return err
	}
	if !svc.running {
		return fatal(exitInternal, "Failed to stop %s: it is not running at %q", nameAutoctl, s.pgdata).
			withHint("see what runs with: %s status --pgdata %s", env.program(), s.pgdata)
	}
	target := svc.pid()
	if sig == syscall.SIGKILL {
		target = -svc.pid()
	}
	if err := syscall.Kill(target, sig); err != nil {
		return fatal(exitInternal, "send %s to process %d: %w", sig, svc.pid(), err)
	}
	return nil
}

func newReloadCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("reload", "Signal the service to reload its configuration", func(cmd *cobra.Command, _ []string) error {
		s, err := sitePGData(env, cmd)
		if err != nil {
			return err
		}
		return signalReload(env, s)
	})
	pgdataFlag(cmd)
	return cmd
}

// signalReload has a running service read its configuration again; one that does not run is fine.
func signalReload(env *Env, s site) error {
	svc, err := findService(s)
	if err != nil || !svc.running {
		return err
	}
	if err := syscall.Kill(svc.pid(), syscall.SIGHUP); err != nil {
		return fail(exitInternal, "send SIGHUP to process %d: %w", svc.pid(), err)
	}
	env.log.Debug("signalled the service to reload", "pid", svc.pid())
	return nil
}

// waitStopped waits until the service of a site has ended by itself.
func waitStopped(ctx context.Context, s site, patience time.Duration) (bool, error) {
	deadline := time.Now().Add(patience)
	for {
		svc, err := findService(s)
		if err != nil || !svc.running {
			return err == nil, err
		}
		if time.Now().After(deadline) {
			return false, nil
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return false, err
		}
	}
}

func newStatusCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("status", "Display the current status of the service", func(cmd *cobra.Command, _ []string) error {
		n, err := localNode(env, cmd)
		if err != nil {
			return err
		}
		return showStatus(cmd.Context(), env, cmd, n)
	})
	pgdataFlag(cmd)
	return cmd
}

func showStatus(ctx context.Context, env *Env, cmd *cobra.Command, n node) error {
	server, err := inspectServer(ctx, n)
	if err != nil {
		return err
	}
	svc, err := findService(n.site)
	if err != nil {
		return err
	}
	if !svc.running {
		if server.pid > 0 {
			env.say(ctx, levelFatal, fmt.Sprintf("Postgres is running at %q with pid %d", n.pgdata, server.pid))
		}
		env.infof("%s is not running at %q", nameAutoctl, n.pgdata)
		return quit(exitBadState)
	}
	if !server.up() {
		env.infof("%s is running with pid %d", nameAutoctl, svc.pid())
		return quit(exitPgCtl)
	}
	if jsonWanted(cmd) {
		return writeJSON(env.Stdout, object{{"postgres", server.json()}, {"pg_autoctl", svc.json(true)}})
	}
	env.infof("%s is running with pid %d", nameAutoctl, svc.pid())
	env.infof("Postgres is serving PGDATA %q on port %d with pid %d", n.pgdata, server.port, server.pid)
	return nil
}

// service is what a pid file says, and whether its process lives.
type service struct {
	running bool
	info    supervisor.PidInfo
}

// findService looks for the service of a site.
func findService(s site) (service, error) {
	info, err := supervisor.ReadPidFile(s.pid)
	switch {
	case errors.Is(err, supervisor.ErrNotRunning):
		return service{}, nil
	case err != nil:
		return service{}, withCode(exitInternal, err)
	}
	return service{running: true, info: info}, nil
}

// pid is the process of the service.
func (s service) pid() int { return s.info.PID }

// json is the pid file as an object, with the state of its processes on demand.
func (s service) json(withStatus bool) object {
	status := func(o object) object {
		if withStatus {
			return append(o, field{"status", "running"})
		}
		return o
	}
	services := array{}
	for _, one := range s.info.Services {
		o := status(object{{"name", one.Name}, {"pid", one.PID}})
		services = append(services, append(o,
			field{"version", s.info.Version}, field{"pgautofailover", s.info.ExtensionVersion}))
	}
	o := status(object{{"pid", s.info.PID}})
	return append(o, field{"pgdata", s.info.DataDir}, field{"version", s.info.Version},
		field{"semId", s.info.Semaphore}, field{"services", services})
}

package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/keeper"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// serviceKeeps is what to do instead of handling a server that a service keeps.
const serviceKeeps = "the service would undo it; to handle the server yourself, put the node into maintenance or stop its service"

func newManualServiceCmd(env *Env) *cobra.Command {
	return newSet("service", "Restart the parts of a service, start and stop its server",
		newServiceRestartCmd(env),
		newPgCtlSwitchCmd(env),
	)
}

// serviceNames are the parts of a service as its pid file lists them.
func serviceNames() []string { return []string{"postgres", "node-active", "listener"} }

func newServiceRestartCmd(env *Env) *cobra.Command {
	var cmds []*cobra.Command
	for _, name := range serviceNames() {
		short := "Restart the program of the service from its file on disk; the server goes on"
		if name == "postgres" {
			short = "Restart the server that the service keeps"
		}
		cmd := newMixedLeaf(name, short, func(cmd *cobra.Command, _ []string) error {
			return restartPart(cmd.Context(), env, cmd, name)
		})
		pgdataFlag(cmd)
		cmds = append(cmds, cmd)
	}
	return newSet("restart", "Restart a part of a running service", cmds...)
}

// restartPatience is how long a part of a service may take to be there again.
const restartPatience = 60 * time.Second

// restartPart restarts the server, or the program that keeps it, and prints the
// new process's number.
func restartPart(ctx context.Context, env *Env, cmd *cobra.Command, name string) error {
	n, err := localNode(env, cmd)
	if err != nil {
		return err
	}
	svc, err := findService(n.site)
	if err != nil {
		return err
	}
	if !svc.running || !slices.Contains(svc.names(), name) {
		return fatal(exitInternal, "no service %q runs at %q", name, n.pgdata).
			withHint("see what runs with: %s status --pgdata %s", env.program(), n.pgdata)
	}
	if name != "postgres" {
		return restartProgram(ctx, env, n, svc)
	}
	before, err := n.instance(nil).Status()
	if err != nil {
		return withCode(exitPgCtl, err)
	}
	if before.Running {
		if err := syscall.Kill(before.PID, syscall.SIGINT); err != nil {
			return fail(exitInternal, "stop the server with pid %d: %w", before.PID, err)
		}
	}
	for deadline := time.Now().Add(restartPatience); ; {
		now, err := n.instance(nil).Status()
		if err == nil && now.Running && now.PID != before.PID && (now.State == postmasterReady || now.State == postmasterStandby) {
			env.printf("%d\n", now.PID)
			return nil
		}
		if time.Now().After(deadline) {
			return fail(exitInternal, "the server did not come back within %s", restartPatience).
				withHint("look at its log: %s inspect pgsetup logs", env.program())
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// names are the parts that a service says it has.
func (s service) names() []string {
	var out []string
	for _, one := range s.info.Services {
		out = append(out, one.Name)
	}
	return out
}

// newPgCtlSwitchCmd starts and stops the server of a node whose service does not run.
func newPgCtlSwitchCmd(env *Env) *cobra.Command {
	start := newMixedLeaf("on", "Start the server of a node whose service does not run", func(cmd *cobra.Command, _ []string) error {
		n, err := unkeptNode(env, cmd)
		if err != nil {
			return err
		}
		return withCode(exitPgCtl, startServer(cmd.Context(), env, n))
	})
	stop := newMixedLeaf("off", "Stop the server of a node whose service does not run", func(cmd *cobra.Command, _ []string) error {
		n, err := unkeptNode(env, cmd)
		if err != nil {
			return err
		}
		return withCode(exitPgCtl, stopServer(cmd.Context(), env, n))
	})
	pgdataFlag(start)
	pgdataFlag(stop)
	return newSet("pgctl", "Start and stop the server of a node whose service does not run", start, stop)
}

// unkeptNode is localNode for a data directory that no service keeps.
func unkeptNode(env *Env, cmd *cobra.Command) (node, error) {
	n, err := localNode(env, cmd)
	if err == nil {
		err = n.refuseService(serviceKeeps)
	}
	return n, err
}

func startServer(ctx context.Context, env *Env, n node) error {
	p, err := n.instance(env.log).Start(ctx, postgres.StartConfig{})
	if err != nil {
		return err
	}
	defer p.Release()
	if _, err := p.WaitReady(ctx); err != nil {
		return err
	}
	env.infof("Postgres is serving PGDATA %q on port %d with pid %d", n.pgdata, n.pgPort(), p.PID())
	return nil
}

func stopServer(ctx context.Context, env *Env, n node) error {
	p, err := n.instance(env.log).Adopt()
	if err != nil {
		if status, statusErr := n.instance(nil).Status(); statusErr == nil && !status.Running {
			env.infof("Postgres is not running at %q", n.pgdata)
			return nil
		}
		return err
	}
	defer p.Release()
	if err := p.Stop(ctx, postgres.StopFast); err != nil {
		return err
	}
	env.infof("Stopped Postgres at %q", n.pgdata)
	return nil
}

// byHand is one direct action on a local server.
type byHand struct {
	use, short string
	// running says that the server must run, and that a service may keep it.
	running bool
	do      func(ctx context.Context, env *Env, n node, words []string) error
}

// byHandCmds builds the commands of a table of actions.
func byHandCmds(env *Env, actions ...byHand) []*cobra.Command {
	var cmds []*cobra.Command
	for _, a := range actions {
		cmd := newWordsLeaf(a.use, a.short, func(cmd *cobra.Command, words []string) error {
			n, err := localKeeper(env, cmd)
			if err == nil && !a.running {
				err = n.refuseService(serviceKeeps)
			}
			if err != nil {
				return err
			}
			return withCode(exitPgSQL, a.do(cmd.Context(), env, n, words))
		})
		pgdataFlag(cmd)
		cmds = append(cmds, cmd)
	}
	return cmds
}

func newManualPrimaryCmd(env *Env) *cobra.Command {
	return newSet("primary", "Do by hand what a primary's service does",
		newSet("slot", "Manage replication slots", byHandCmds(env,
			byHand{"create [ node number ]", "Create the replication slot of a node (default: of this one)", true, onSlot(
				func(ctx context.Context, s *postgres.Session, slot string) error { return s.CreateSlot(ctx, slot) })},
			byHand{"drop [ node number ]", "Drop the replication slot of a node (default: of this one)", true, onSlot(
				func(ctx context.Context, s *postgres.Session, slot string) error { return s.DropSlot(ctx, slot) })},
		)...),
		newSet("adduser", "Create the roles that the group needs", byHandCmds(env,
			byHand{"monitor", "Create the role of the monitor's health checks", true, ensureRole(
				func(node) postgres.Role { return postgres.MonitorRole() })},
			byHand{"replica", "Create the role that the nodes replicate as", true, ensureRole(
				func(n node) postgres.Role { return postgres.ReplicationRole(n.keeper.ReplicationPassword) })},
		)...),
		byHandCmds(env, byHand{"defaults", "Write the default settings to postgresql-auto-failover.conf", true, writeDefaults})[0],
		byHandCmds(env, byHand{"identify <host> <port>", "Run IDENTIFY_SYSTEM on a server of the group", true, identify})[0],
	)
}

// onSlot runs an action on the slot of the node whose number is given.
func onSlot(do func(ctx context.Context, s *postgres.Session, slot string) error) func(context.Context, *Env, node, []string) error {
	return func(ctx context.Context, env *Env, n node, words []string) error {
		var id int64
		if len(words) == 1 {
			var err error
			if id, err = strconv.ParseInt(words[0], 10, 64); err != nil || id < 1 {
				return fatal(exitBadArgs, "%q is not the number of a node", words[0])
			}
		} else {
			st, err := n.keeperState()
			if err != nil {
				return err
			}
			id = int64(st.NodeID)
		}
		slot := pg.StandbyName(id)
		if err := n.instance(nil).With(ctx, func(s *postgres.Session) error { return do(ctx, s, slot) }); err != nil {
			return err
		}
		env.printf("%s\n", slot)
		return nil
	}
}

func ensureRole(role func(node) postgres.Role) func(context.Context, *Env, node, []string) error {
	return func(ctx context.Context, env *Env, n node, _ []string) error {
		r := role(n)
		if err := n.instance(nil).With(ctx, func(s *postgres.Session) error { return s.EnsureRole(ctx, r) }); err != nil {
			return err
		}
		env.printf("%s\n", r.Name)
		return nil
	}
}

func writeDefaults(ctx context.Context, env *Env, n node, _ []string) error {
	tuning, err := postgres.DetectTuning()
	if err != nil {
		return err
	}
	f := n.keeper
	in := n.instance(env.log)
	changed, err := in.WriteSettings(postgres.NodeSettings(postgres.SettingsConfig{
		ListenAddresses: f.ListenAddresses, Port: f.Port, AuthMethod: f.AuthMethod, Tuning: tuning, Hostname: f.Hostname,
		SSL: postgres.SSL{
			Active: f.SSL.Active, Mode: f.SSL.Mode, CAFile: f.SSL.CAFile, CRLFile: f.SSL.CRLFile,
			CertFile: f.SSL.CertFile, KeyFile: f.SSL.KeyFile,
		},
	}))
	if err == nil && changed {
		err = in.Reload(ctx)
	}
	return err
}

// upstreamAt is how this node reaches another node of its group.
func (n node) upstreamAt(words []string) (postgres.UpstreamConfig, error) {
	st, err := n.keeperState()
	if err != nil {
		return postgres.UpstreamConfig{}, err
	}
	port, err := strconv.Atoi(words[1])
	if err != nil || port < 1 || port > 65535 {
		return postgres.UpstreamConfig{}, fatal(exitBadArgs, "%q is not a port number", words[1])
	}
	f := n.keeper
	return postgres.UpstreamConfig{
		ID: int64(st.NodeID), Host: words[0], Port: port, DBName: f.DBName, Password: f.ReplicationPassword,
		SSLMode: f.SSL.Mode, SSLRootCert: f.SSL.CAFile, SSLCRL: f.SSL.CRLFile,
	}, nil
}

func identify(ctx context.Context, env *Env, n node, words []string) error {
	up, err := n.upstreamAt(words)
	if err != nil {
		return err
	}
	info, err := postgres.Identify(ctx, postgres.CopyFrom(up))
	if err != nil {
		return err
	}
	env.printf("Current timeline: %d\nCurrent WAL LSN: %s\n", info.TLI, info.LSN)
	for _, e := range info.History {
		env.printf("timeline %d, from timeline %d at %s\n", e.TLI, e.Parent, e.Switch)
	}
	return nil
}

func newManualStandbyCmd(env *Env) *cobra.Command {
	return newSet("standby", "Do by hand what a standby's service does", byHandCmds(env,
		byHand{"init <host> <port>", "Copy the data directory from another node", false, copyByHand},
		byHand{"rewind <host> <port>", "Rewind the data directory onto another node's line", false, rewindByHand},
		byHand{
			"crash-recovery", "Recover a data directory that was not stopped in an orderly way", false,
			func(ctx context.Context, env *Env, n node, _ []string) error {
				return n.instance(env.log).RecoverCrash(ctx)
			},
		},
		byHand{
			"promote", "Promote the local standby", false,
			func(ctx context.Context, env *Env, n node, _ []string) error {
				_, err := n.instance(env.log).Promote(ctx)
				return err
			},
		},
	)...)
}

func copyByHand(ctx context.Context, env *Env, n node, words []string) error {
	up, err := n.upstreamAt(words)
	if err != nil {
		return err
	}
	if err := stopServer(ctx, env, n); err != nil {
		return err
	}
	standby := postgres.StandbyOf(up)
	err = n.instance(env.log).BaseBackup(ctx, postgres.BackupConfig{
		Source: postgres.CopyFrom(up), Slot: standby.Slot, Standby: standby, MaxRate: n.keeper.MaximumBackupRate,
		BackupDir: backupDir(n.keeper, up.ID),
	})
	if err != nil {
		return err
	}
	return startStandby(ctx, env, n)
}

// backupDir is where a copy is made before it replaces the data directory.
func backupDir(f keeper.File, id int64) string {
	return orDefault(f.BackupDirectory, fmt.Sprintf("%s/backup/node_%d", f.PGData[:max(0, strings.LastIndexByte(f.PGData, '/'))], id))
}

func rewindByHand(ctx context.Context, env *Env, n node, words []string) error {
	up, err := n.upstreamAt(words)
	if err != nil {
		return err
	}
	if err := stopServer(ctx, env, n); err != nil {
		return err
	}
	if _, err := n.instance(env.log).Rewind(ctx, postgres.RewindConfig{Source: postgres.CopyFrom(up), Standby: postgres.StandbyOf(up)}); err != nil {
		return err
	}
	return startStandby(ctx, env, n)
}

// startStandby starts what was copied under this node's own settings.
func startStandby(ctx context.Context, env *Env, n node) error {
	if err := writeDefaults(ctx, env, n, nil); err != nil {
		return err
	}
	return startServer(ctx, env, n)
}

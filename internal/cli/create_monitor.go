package cli

import (
	"context"
	"net"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/monitor"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// maxExtraFormations is how many formations one create monitor may add.
const maxExtraFormations = 16

func newCreateMonitorCmd(env *Env) *cobra.Command {
	cmd := newLeaf("monitor", "Initialize a pg_auto_failover monitor node", func(cmd *cobra.Command, _ []string) error {
		return createMonitor(cmd.Context(), env, cmd)
	})
	createFlags(cmd)
	cmd.Flags().StringP("pghost", "H", "", "`host` or socket directory for local connections")
	cmd.Flags().StringP("autoctl-node-password", "W", "", "`password` of the role that nodes connect as")
	cmd.Flags().StringArrayP("formation", "f", nil, "`name` of a further formation to create; repeatable")
	return cmd
}

func createMonitor(ctx context.Context, env *Env, cmd *cobra.Command) error {
	if err := env.refuseRoot(env.program() + " create monitor"); err != nil {
		return err
	}
	formations, err := cmd.Flags().GetStringArray("formation")
	if err != nil {
		return err
	}
	if len(formations) > maxExtraFormations {
		return fatal(exitBadArgs, "Option --formation can be used %d times at most", maxExtraFormations)
	}
	if slices.Contains(formations, "") || given(cmd, "formation") && len(formations) == 0 {
		return fatal(exitBadArgs, "--formation argument is not valid: a formation has a name")
	}
	c, err := readCreation(env, cmd)
	if err != nil {
		return err
	}
	if err := c.refuseRunning(); err != nil {
		return err
	}
	file, err := c.monitorFile(ctx, env, cmd)
	if err != nil {
		return err
	}
	cfg := monitor.Config{
		Paths: c.site.monitorPaths(), File: file, Tools: c.tools, Logger: env.log,
		Reload: env.Reload, Version: env.Version, SocketDir: env.getenv("PG_REGRESS_SOCK_DIR"),
	}
	run := on(cmd, "run")
	err = monitor.Create(ctx, monitor.CreateConfig{Config: cfg, Formations: formations, SelfSigned: c.ssl.selfSigned, Run: run})
	if err != nil {
		return createFailed(ctx, err)
	}
	if err := interrupted(ctx, run); err != nil || ctx.Err() != nil {
		return err
	}
	env.infof("Monitor has been successfully initialized.")
	if !run {
		return nil
	}
	if cfg.File, err = monitor.LoadFile(c.site.config); err != nil {
		return withCode(exitBadConfig, err)
	}
	return runMonitor(ctx, env, cfg)
}

// monitorFile merges the options over the configuration file, or over the defaults.
func (c *creation) monitorFile(ctx context.Context, env *Env, cmd *cobra.Command) (monitor.File, error) {
	file := monitor.DefaultFile()
	var err error
	if !c.fresh {
		role, err := readRole(c.site.config)
		if err != nil {
			return file, err
		}
		if role != roleMonitor {
			return file, fatal(exitBadConfig, "%q holds a %s already", c.site.pgdata, role).
				withHint("choose another directory with --pgdata")
		}
		if file, err = monitor.LoadFile(c.site.config); err != nil {
			return file, withCode(exitBadConfig, err)
		}
	}
	if c.tools, err = findTools(ctx, env, orDefault(text(cmd, "pgctl"), file.PgCtl)); err != nil {
		return file, err
	}
	if err := c.lookAtServer(); err != nil {
		return file, err
	}
	if err := c.checkDirectory(!c.fresh); err != nil {
		return file, err
	}
	if err := c.choosePort(env, cmd, file.Port); err != nil {
		return file, err
	}
	file.PGData, file.PgCtl, file.Port = c.site.pgdata, c.tools.PgCtl(), c.port
	file.ListenAddresses = orDefault(text(cmd, "listen"), orDefault(file.ListenAddresses, "*"))
	if err := c.checkPort(ctx, file.ListenAddresses); err != nil {
		return file, err
	}
	file.Host = orDefault(text(cmd, "pghost"), file.Host)
	socket, err := c.chooseSocketDirectory(ctx, env, file.Host)
	if err != nil {
		return file, err
	}
	file.Host = orDefault(file.Host, socket)
	if c.auth != "" {
		file.AuthMethod = c.auth
	}
	if c.hba != "" {
		file.HBALevel = c.hba
	}
	if password := orDefault(text(cmd, "autoctl-node-password"), env.getenv("PG_AUTOCTL_NODE_PASSWORD")); password != "" {
		file.NodePassword = password
	}
	if c.ssl.made {
		s := c.ssl
		file.SSL = monitor.SSL{
			Active: s.active, Mode: s.mode, CAFile: s.caFile, CRLFile: s.crlFile,
			CertFile: s.certFile, KeyFile: s.keyFile,
		}
	}
	if host := text(cmd, "hostname"); host != "" || file.Hostname == "" {
		if file.Hostname, err = monitorHostname(ctx, env, host); err != nil {
			return file, err
		}
	}
	return file, withCode(exitBadConfig, file.Validate())
}

// monitorHostname is the name given, or the one this host calls itself by when that leads back here.
func monitorHostname(ctx context.Context, env *Env, given string) (string, error) {
	if given != "" {
		checkHostname(ctx, env, given)
		return given, nil
	}
	if name, err := os.Hostname(); err == nil && name != "" {
		var resolver net.Resolver
		if addrs, err := resolver.LookupHost(ctx, name); err == nil && anyLocal(addrs) {
			env.infof("Using hostname %q for this node: use --hostname to choose another one", name)
			return name, nil
		}
	}
	return findHostname(ctx, env, "", pg.HostPort{})
}

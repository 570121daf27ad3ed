package cli

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

func newPgCtlCmd(env *Env) *cobra.Command {
	return newMixedLeaf("pg_ctl", "Find the pg_ctl that a creation would use", func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		tools, err := findTools(ctx, env, "")
		if err != nil {
			return err
		}
		v, err := tools.Version(ctx)
		if err != nil {
			return withCode(exitPgCtl, err)
		}
		for _, kind := range []string{"monitor", "postgres"} {
			env.infof("`%s create %s` would use %q for Postgres %s", env.program(), kind, tools.PgCtl(), v.Text)
		}
		env.infof("The monitor's schema, which takes the place of extension pgautofailover %s, is part of this program", pgautofailover.CompatVersion)
		return nil
	})
}

func newPgLogsCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("logs", "Output the Postgres start-up log and the recent server logs", func(cmd *cobra.Command, _ []string) error {
		n, err := localNode(env, cmd)
		if err != nil {
			return err
		}
		startup := filepath.Join(n.pgdata, "startup.log")
		files := []string{startup}
		since, err := os.Stat(startup)
		logs, globErr := filepath.Glob(filepath.Join(n.pgdata, "log", "*"))
		if globErr != nil {
			return withCode(exitInternal, globErr)
		}
		slices.Sort(logs)
		for _, name := range logs {
			info, statErr := os.Stat(name)
			if statErr == nil && info.Mode().IsRegular() && (err != nil || !info.ModTime().Before(since.ModTime())) {
				files = append(files, name)
			}
		}
		for _, name := range files {
			if err := printFile(env, name); err != nil {
				return withCode(exitInternal, err)
			}
		}
		return nil
	})
	pgdataFlag(cmd)
	return cmd
}

// printFile copies a file to standard error, under its name. One that is not there is fine.
func printFile(env *Env, name string) error {
	f, err := os.Open(name) //nolint:gosec // a log of the server that the operator named
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	env.infof("Postgres logs from %q:", name)
	_, err = io.Copy(env.Stderr, f)
	return err
}

func newPgTuneCmd(env *Env) *cobra.Command {
	return newMixedLeaf("tune", "Compute and print the basic tuning of Postgres for this host", func(*cobra.Command, []string) error {
		tuning, err := postgres.DetectTuning()
		if err != nil {
			return withCode(exitInternal, err)
		}
		env.printf("%s", tuning.Settings().Render())
		return nil
	})
}

func newHBALanCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("hba-lan", "Let the local network connect, in pg_hba.conf", func(cmd *cobra.Command, _ []string) error {
		if err := checkTexts(cmd); err != nil {
			return err
		}
		ssl, err := readSSL(env, cmd)
		if err != nil {
			return err
		}
		n, err := localNode(env, cmd)
		if err != nil {
			return err
		}
		return letLANIn(cmd.Context(), env, n, text(cmd, "auth"), ssl)
	})
	pgdataFlag(cmd)
	cmd.Flags().StringP("auth", "A", "", "authentication `method` of the rules (default: the node's own)")
	sslFlags(cmd)
	return cmd
}

// letLANIn lets the network of the node's host name connect to all databases and replicate.
func letLANIn(ctx context.Context, env *Env, n node, auth string, ssl sslChoice) error {
	host, method, active := n.keeper.Hostname, n.keeper.AuthMethod, n.keeper.SSL.Active
	if n.isMonitor() {
		host, method, active = n.monitor.Hostname, n.monitor.AuthMethod, n.monitor.SSL.Active
	}
	method = orDefault(auth, orDefault(method, "trust"))
	if ssl.made {
		active = ssl.active
	}
	network, err := postgres.LocalNetwork(ctx, net.DefaultResolver, host)
	if err != nil {
		return withCode(exitInternal, err)
	}
	rule := pg.HBARule{Type: postgres.HostType(active), Database: "all", User: "all", Address: network.String(), Method: method}
	replication := rule
	replication.Database = "replication"
	changed, err := n.instance(env.log).EnsureHBA(ctx, rule, replication)
	if err != nil {
		return withCode(exitPgCtl, err)
	}
	for _, r := range []pg.HBARule{rule, replication} {
		env.printf("%s\n", r.Line())
	}
	if !changed {
		env.infof("The rules were there already")
	}
	return nil
}

package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newShowSystemdCmd(env *Env) *cobra.Command {
	cmd := newLeaf("systemd", "Print systemd service file for this node", func(cmd *cobra.Command, _ []string) error {
		return showSystemd(env, cmd)
	})
	pgdataFlag(cmd)
	return cmd
}

// showSystemd prints a unit that runs the service. The server is in a session
// of its own and outlives its keeper, so the unit must only signal the service.
func showSystemd(env *Env, cmd *cobra.Command) error {
	s, err := sitePGData(env, cmd)
	if err != nil {
		return err
	}
	owner := ownerOf(s.pgdata)
	if owner == nil {
		return fail(exitInternal, "find the owner of %q: it does not exist, or its owner has no name", s.pgdata)
	}
	env.infof("HINT: to complete a systemd integration, run the following commands (as root):")
	env.infof("%s -q show systemd --pgdata %q | tee /etc/systemd/system/pgautofailover.service", env.program(), s.pgdata)
	env.infof("systemctl daemon-reload")
	env.infof("systemctl start pgautofailover")
	_, err = fmt.Fprintf(env.Stdout, `[Unit]
Description = pg_auto_failover

[Service]
WorkingDirectory = %s
Environment = 'PGDATA=%s'
User = %s
ExecStart = %s run
KillMode = process
Restart = always
StartLimitBurst = 20
ExecReload = %s reload

[Install]
WantedBy = multi-user.target
`, owner.HomeDir, s.pgdata, owner.Username, env.Executable, env.Executable)
	return err
}

package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

func newShowSystemdCmd(env *Env) *cobra.Command {
	cmd := newLeaf("systemd", "Print systemd service file for this node", func(cmd *cobra.Command, _ []string) error {
		return showSystemd(env, cmd)
	})
	pgdataFlag(cmd)
	return cmd
}

// systemdUnit runs the service of a node. It differs from what upstream prints
// in four lines: the service tells when it is ready; only the service is
// signalled, for the server lives in a session of its own and outlives its
// keeper; a backend that the kernel kills for its memory does not take the
// service down; and a primary gets the time that handing over takes.
const systemdUnit = `[Unit]
Description = pg_auto_failover

[Service]
Type = notify
WorkingDirectory = %[1]s
Environment = 'PGDATA=%[2]s'
User = %[3]s
ExecStart = %[4]s run
Restart = always
StartLimitBurst = 20
ExecReload = %[4]s reload
KillMode = process
OOMPolicy = continue
TimeoutStopSec = 120

[Install]
WantedBy = multi-user.target
`

// showSystemd prints a unit that runs the service.
func showSystemd(env *Env, cmd *cobra.Command) error {
	s, err := sitePGData(env, cmd)
	if err != nil {
		return err
	}
	owner := ownerOf(s.pgdata)
	if owner == nil {
		return fail(exitInternal, "find the owner of %q: it does not exist, or its owner has no name", s.pgdata).
			withHint("create the node first")
	}
	env.infof("HINT: to complete a systemd integration, run the following commands (as root):")
	env.infof("%s -q show systemd --pgdata %q | tee /etc/systemd/system/pgautofailover.service", env.program(), s.pgdata)
	env.infof("systemctl daemon-reload")
	env.infof("systemctl enable --now pgautofailover")
	// A percent sign begins a specifier in a unit.
	plain := strings.NewReplacer("%", "%%")
	env.printf(systemdUnit, plain.Replace(owner.HomeDir), plain.Replace(s.pgdata), owner.Username, plain.Replace(env.Executable))
	return nil
}

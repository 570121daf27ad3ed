package cli

import (
	"io"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/status"
	"github.com/pgdrover/pgdrover/internal/web"
)

// webAddress is where the page is when nobody says otherwise: who reaches it sees everything, so it is for this host.
const webAddress = "127.0.0.1:8432"

func newWebCmd(env *Env) *cobra.Command {
	cmd := newLeaf("web", "Serve a page that shows the formation's nodes, group by group, and follows them", func(cmd *cobra.Command, words []string) error {
		if err := noWords(words); err != nil {
			return err
		}
		return runWeb(env, cmd)
	})
	pgdataFlag(cmd)
	monitorFlag(cmd, "m")
	formationFlag(cmd)
	groupFlag(cmd)
	f := cmd.Flags()
	f.StringP("listen", "l", webAddress, "`address` and port to serve it on; nobody is asked for a password")
	f.BoolP("wait", "w", false, "serve the page also while the monitor does not answer yet")
	return cmd
}

// runWeb serves the page until it is told to stop.
func runWeb(env *Env, cmd *cobra.Command) error {
	ctx := cmd.Context()
	address := text(cmd, "listen")
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fail(exitBadArgs, "--listen argument is not an address and a port: %q", address).withHint("for example --listen %s", webAddress)
	}
	s := &session{env: env}
	if err := s.locate(cmd); err != nil {
		return err
	}
	formation, group := s.formation(cmd), optionalGroup(cmd)
	if err := s.worthShowing(ctx, cmd, formation); err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fatal(exitBadArgs, "serve the page on --listen %s: %w", address, plainCause(err)).
			withHint("choose a port that is free on this host, or port 0 for any")
	}
	page, err := web.New(web.Config{
		Formation: formation, Listener: listener, Zone: time.Local, Logger: env.log,
		JSON: func(w io.Writer, s status.Snapshot) error { return writeJSON(w, snapshotJSON(s)) },
		Open: s.snapshots("web", formation, group),
	})
	if err != nil {
		return err
	}
	env.infof("Formation %q is shown at http://%s/", formation, listener.Addr())
	err = page.Run(ctx)
	if ctx.Err() == nil {
		return err
	}
	return nil // a signal is how it ends
}

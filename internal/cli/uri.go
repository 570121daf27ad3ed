package cli

import (
	"context"

	"github.com/spf13/cobra"
)

func newShowURICmd(env *Env) *cobra.Command {
	cmd := newLeaf("uri", "Show the postgres uri to use to connect to pg_auto_failover nodes", withMonitorAt(env, showURI))
	pgdataFlag(cmd)
	monitorFlag(cmd, "")
	cmd.Flags().String("formation", "", "show the connection string of formation `name` only; monitor is the monitor's")
	cmd.Flags().String("citus-cluster", "", "show the connection string of the read replicas of Citus cluster `name`")
	return cmd
}

// withMonitorAt runs a command that may not need the connection: it knows
// where the monitor is before it connects.
func withMonitorAt(env *Env, run func(ctx context.Context, s *session, cmd *cobra.Command) error) runFunc {
	return func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		s := &session{env: env}
		if err := s.locate(cmd); err != nil {
			return err
		}
		defer s.close(ctx)
		return withCode(exitMonitor, run(ctx, s, cmd))
	}
}

// sslParams are the SSL parameters of the connection strings we hand out.
type sslParams struct{ mode, rootCert, crl string }

// ssl takes the parameters from the local configuration, or from the monitor's URI.
func (s *session) ssl() sslParams {
	switch {
	case s.node == nil:
		return sslParams{s.info.Get("sslmode"), s.info.Get("sslrootcert"), s.info.Get("sslcrl")}.trimmed()
	case s.node.isMonitor():
		ssl := s.node.monitor.SSL
		return sslParams{ssl.Mode, ssl.CAFile, ssl.CRLFile}.trimmed()
	}
	ssl := s.node.keeper.SSL
	return sslParams{ssl.Mode, ssl.CAFile, ssl.CRLFile}.trimmed()
}

// trimmed leaves certificates out where the mode does not look at them.
func (p sslParams) trimmed() sslParams {
	if p.mode == "" {
		p.mode = "prefer"
	}
	if p.mode != "verify-ca" && p.mode != "verify-full" {
		p.rootCert, p.crl = "", ""
	}
	return p
}

// monitorURI is the URI that nodes are given to reach the monitor.
func (s *session) monitorURI(cmd *cobra.Command) string {
	switch {
	case s.node == nil:
		return orDefault(text(cmd, "monitor"), s.env.getenv("PG_AUTOCTL_MONITOR"))
	case s.node.isMonitor():
		return s.node.monitor.URI()
	}
	return s.node.keeper.Monitor
}

func showURI(ctx context.Context, s *session, cmd *cobra.Command) error {
	formation, cluster := text(cmd, "formation"), text(cmd, "citus-cluster")
	monitorURI := s.monitorURI(cmd)
	if formation == "monitor" {
		if jsonWanted(cmd) {
			return writeJSON(s.env.Stdout, object{{"monitor", monitorURI}})
		}
		s.env.printf("%s\n", monitorURI)
		return nil
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
	if formation == "" && cluster == "" {
		return showAllURIs(ctx, s, cmd, monitorURI)
	}
	formation = orDefault(formation, defaultFormation)
	uri, err := s.formationURI(ctx, formation, orDefault(cluster, defaultFormation))
	if err != nil {
		return err
	}
	if jsonWanted(cmd) {
		return writeJSON(s.env.Stdout, object{{"monitor", monitorURI}, {formation, uri}})
	}
	s.env.printf("%s\n", uri)
	return nil
}

// formationURI asks for the connection string of a formation that must have nodes.
func (s *session) formationURI(ctx context.Context, formation, cluster string) (string, error) {
	if err := s.formationExists(ctx, formation); err != nil {
		return "", err
	}
	ssl := s.ssl()
	uri, found, err := s.db.FormationURI(ctx, formation, cluster, ssl.mode, ssl.rootCert, ssl.crl)
	if err == nil && !found {
		return "", s.withoutCluster(ctx, formation, cluster)
	}
	return uri, err
}

func showAllURIs(ctx context.Context, s *session, cmd *cobra.Command, monitorURI string) error {
	t := &table{columns: []column{
		{title: "Type", width: 12},
		{title: "Name", width: 7},
		{title: "Connection String", width: 30, left: true, fixed: true},
	}}
	t.add("monitor", "monitor", monitorURI)
	formations, err := s.db.Formations(ctx)
	if err != nil {
		return err
	}
	ssl := s.ssl()
	for _, f := range formations {
		uri, _, err := s.db.FormationURI(ctx, f.ID, defaultFormation, ssl.mode, ssl.rootCert, ssl.crl)
		if err != nil {
			return err
		}
		t.add("formation", f.ID, uri)
		clusters, err := s.db.CitusClusters(ctx, f.ID)
		if err != nil {
			return err
		}
		for _, cluster := range clusters {
			if cluster == defaultFormation || cluster == "" {
				continue
			}
			uri, found, err := s.db.FormationURI(ctx, f.ID, cluster, ssl.mode, ssl.rootCert, ssl.crl)
			if err != nil {
				return err
			}
			if found {
				t.add("read-replica", cluster, uri)
			}
		}
	}
	if !jsonWanted(cmd) {
		return t.write(s.env.Stdout)
	}
	list := array{}
	for _, row := range t.rows {
		list = append(list, object{{"type", row[0]}, {"name", row[1]}, {"uri", row[2]}})
	}
	return writeJSON(s.env.Stdout, list)
}

package cli

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/keeper"
	"github.com/pgdrover/pgdrover/internal/monitor"
	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

func newSSLCmd(env *Env) *cobra.Command {
	cmd := newLeaf("ssl", "Enable SSL configuration on this node", func(cmd *cobra.Command, _ []string) error {
		choice, err := readSSL(env, cmd)
		if err != nil {
			return err
		}
		if err := choice.required(); err != nil {
			return err
		}
		return changeSSL(cmd.Context(), env, cmd, choice)
	})
	pgdataFlag(cmd)
	sslFlags(cmd)
	return cmd
}

func newDisableSSLCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("ssl", "Disable SSL configuration on this node", func(cmd *cobra.Command, _ []string) error {
		return changeSSL(cmd.Context(), env, cmd, sslChoice{noSSL: true, made: true, mode: "prefer"})
	})
	pgdataFlag(cmd)
	return cmd
}

// changeSSL stores a choice of SSL and has the service apply it.
func changeSSL(ctx context.Context, env *Env, cmd *cobra.Command, choice sslChoice) error {
	n, err := localNode(env, cmd)
	if err != nil {
		return err
	}
	if choice.selfSigned {
		if choice.certFile, choice.keyFile, err = ensureCertificate(n); err != nil {
			return err
		}
	}
	if n.isMonitor() {
		n.monitor.SSL = monitor.SSL{
			Active: choice.active, Mode: choice.mode, CAFile: choice.caFile, CRLFile: choice.crlFile,
			CertFile: choice.certFile, KeyFile: choice.keyFile,
		}
		err = n.monitor.Save(n.config)
	} else {
		n.keeper.SSL = keeper.SSL{
			Active: choice.active, Mode: choice.mode, CAFile: choice.caFile, CRLFile: choice.crlFile,
			CertFile: choice.certFile, KeyFile: choice.keyFile,
		}
		n.keeper.Monitor = monitorURIWith(ctx, env, n, choice)
		err = n.keeper.Save(n.config)
	}
	if err != nil {
		return withCode(exitBadConfig, err)
	}
	if err := signalReload(env, n.site); err != nil {
		return err
	}
	env.infof("Successfully set SSL to active=%t with sslmode %q, ssl_ca_file %q, ssl_cert_file %q, ssl_key_file %q",
		choice.active, choice.mode, choice.caFile, choice.certFile, choice.keyFile)
	env.warnf("HBA rules in %q have NOT been edited: rules that begin with \"host\" match SSL connections and others", filepath.Join(n.pgdata, "pg_hba.conf"))
	return nil
}

// ensureCertificate makes a self-signed certificate unless both files are there.
func ensureCertificate(n node) (cert, key string, err error) {
	cert, key = filepath.Join(n.pgdata, "server.crt"), filepath.Join(n.pgdata, "server.key")
	if isFile(cert) && isFile(key) {
		return cert, key, nil
	}
	host := n.keeper.Hostname
	if n.isMonitor() {
		host = n.monitor.Hostname
	}
	made, err := n.instance(nil).EnsureCertificate(host)
	if err != nil {
		return "", "", withCode(exitInternal, fmt.Errorf("make a certificate: %w", err))
	}
	return made.CertFile, made.KeyFile, nil
}

// monitorURIWith is the monitor's URI with other SSL parameters, when the
// monitor answers there; else the one that is configured.
func monitorURIWith(ctx context.Context, env *Env, n node, choice sslChoice) string {
	if n.monitorDisabled() {
		return n.keeper.Monitor
	}
	info, err := pg.ParseConnInfo(n.keeper.Monitor)
	if err != nil {
		env.errorf("read the monitor URI: %s", err)
		return n.keeper.Monitor
	}
	p := sslParams{choice.mode, choice.caFile, choice.crlFile}.trimmed()
	info = info.With("sslmode", p.mode).With("sslrootcert", p.rootCert).With("sslcrl", p.crl)
	db, err := pgautofailover.Connect(ctx, pgautofailover.ConnectConfig{ConnInfo: info, ApplicationName: env.program() + " cli"})
	if err == nil {
		err = db.Ping(ctx)
		_ = db.Close(context.WithoutCancel(ctx))
	}
	if err != nil {
		env.errorf("Failed to connect to the monitor at %s, keeping the monitor URI as it is: %s", info, err)
		return n.keeper.Monitor
	}
	return info.URI()
}

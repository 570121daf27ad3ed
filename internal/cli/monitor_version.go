package cli

import (
	"context"
	"regexp"
	"time"

	"github.com/pgdrover/pgdrover/internal/monitor"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// versionVariable names the version that a monitor tells nodes of
// pg_auto_failover, which ask for their own; it is for tests, as in theirs.
const versionVariable = "PG_AUTOCTL_EXTENSION_VERSION"

// wantedVersion reads what the environment wants of a monitor's service.
func wantedVersion(env *Env) (string, error) {
	version := env.getenv(versionVariable)
	if version == "" || env.getenv("PG_AUTOCTL_DEBUG") == "" {
		return "", nil
	}
	if !regexp.MustCompile(`^[0-9]+\.[0-9]+$`).MatchString(version) {
		return "", fatal(exitBadArgs, "environment variable %s is not a version: %q", versionVariable, version).
			withHint("it is the version that nodes ask for, such as 2.0")
	}
	return version, nil
}

// tellVersion has a monitor's server tell nodes another version, once it serves.
func tellVersion(ctx context.Context, env *Env, cfg monitor.Config, version string) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	n := node{site: site{pgdata: cfg.File.PGData}, role: roleMonitor, monitor: cfg.File}
	err := n.instance(nil).With(ctx, func(s *postgres.Session) error {
		if err := s.AlterSystem(ctx, "pgautofailover.extension_version", version); err != nil {
			return err
		}
		return s.Reload(ctx)
	})
	if err != nil {
		env.warnf("tell nodes version %s: %s", version, err)
		return
	}
	env.infof("Nodes of pg_auto_failover are told version %s", version)
}

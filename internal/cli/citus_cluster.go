package cli

import (
	"context"
	"slices"
	"strings"
)

// withoutCluster says why a cluster of a formation has no connection string.
func (s *session) withoutCluster(ctx context.Context, formation, cluster string) error {
	if cluster == defaultFormation {
		return fail(exitMonitor, "Formation %q currently has no nodes in group 0", formation)
	}
	all, err := s.db.CitusClusters(ctx, formation)
	if err != nil {
		return withCode(exitMonitor, err)
	}
	known := slices.DeleteFunc(all, func(name string) bool { return name == defaultFormation || name == "" })
	options := "--citus-secondary --citus-cluster " + cluster
	switch {
	case slices.Contains(known, cluster):
		return fail(exitMonitor, "Citus cluster %q of formation %q currently has no nodes in group 0", cluster, formation).
			withHint("create a read replica of the coordinator with: %s create coordinator %s", s.env.program(), options)
	case len(known) == 0:
		return fail(exitMonitor, "Formation %q has no Citus cluster %q", formation, cluster).
			withHint("it has no read-only clusters at all: their nodes are created with %s", options)
	}
	return fail(exitMonitor, "Formation %q has no Citus cluster %q", formation, cluster).
		withHint("its read-only clusters are: %s", strings.Join(known, ", "))
}

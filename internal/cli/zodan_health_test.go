package cli

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// Origins are a server's: those of nodes in its other databases are no reason to
// warn, those of nobody are, and a database without the schema knows none.
func TestOriginsOfOtherDatabases(t *testing.T) {
	t.Parallel()
	s := pgtest.NewServer(t, pgtest.ServerConfig{Name: "n1", Settings: map[string]string{"track_commit_timestamp": "on"}})
	for _, name := range []string{"source", "newcomer", "cluster", "plain"} {
		s.Exec(t, "postgres", "CREATE DATABASE "+name)
		if name == "plain" {
			continue
		}
		info, err := pg.ParseConnInfo(s.DSN(name))
		require.NoError(t, err)
		installSpock(t, info)
	}
	s.Exec(t, "source", "SELECT spock.node_create('n1', '"+s.DSN("source")+"')")
	s.Exec(t, "cluster", "SELECT pgdrover.origin_create('spk_app_m1_sub_m1_m2', 4711, NULL)")
	check := func() string {
		_, stdout, stderr := callProgram(t, pgtest.Dir(t), "zodan", "health-check", "--patience=1ms", "--src-node-name=n1", "--src-dsn", s.DSN("source"),
			"--new-node-name=n2", "--new-node-dsn", s.DSN("newcomer"))
		require.Contains(t, stdout, "PASS: new node n2 has no subscriptions", stderr)
		return stdout
	}
	require.NotContains(t, check(), "replication origins that are not of this cluster")
	s.Exec(t, "plain", "SELECT pg_replication_origin_create('spk_app_m8_sub_m8_m9')")
	require.Contains(t, check(), "    WARN: new node n2 has replication origins that are not of this cluster: spk_app_m8_sub_m8_m9\n")
}

package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// A primary that is to go on alone is not held up by a list in postgresql.conf,
// of whatever kept the server before.
func TestEmptyListSetOfflineWinsOverTheOperators(t *testing.T) {
	t.Parallel()
	n, p := newPrimary(t, 1)
	n.stop(t, p, postgres.StopFast)
	appendConf(t, n, "synchronous_standby_names = '*'\n")
	require.NoError(t, n.SetSyncNamesOffline(pg.StandbyNames{}))
	n.start(t)
	require.Empty(t, n.ask(t, `SHOW synchronous_standby_names`))
}

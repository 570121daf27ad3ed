package apply

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A provider whose address leads to a standby says what to do, to sub_create and
// to a subscription that is there; once it is promoted the stream goes on.
func TestProviderIsAStandby(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, "n1", nil), newNode(t, "n2", nil)
	for _, n := range []*node{a, b} {
		n.exec(t, keyed)
	}
	b.exec(t, "ALTER DATABASE "+database+" SET spock.restart_delay_default = 100")
	b.subscribe(t, a, "")
	a.halt(t)
	a.server.Stop(t, syscall.SIGINT)
	signal := filepath.Join(a.server.Dir, "standby.signal")
	require.NoError(t, os.WriteFile(signal, nil, 0o600))
	a.server.Start(t)
	a.conn = a.server.Connect(t, database)
	b.eventually(t, "SELECT concat_ws(' ', state, last_error, left(last_hint, 21)) FROM spock.pgdrover_subscription",
		"refused start replication: the provider's server is a standby Its connection string")
	_, err := b.try(t, "SELECT spock.sub_create('other', '"+a.dsn()+"')")
	require.ErrorContains(t, err, `node "n1" cannot be a provider: its server is a standby`)
	require.Equal(t, "1", b.text(t, "SELECT count(*) FROM spock.subscription"), "nothing is half-made")

	a.exec(t, "SELECT pg_promote()")
	a.start(t)
	a.exec(t, "INSERT INTO t VALUES (1, 'promoted')")
	b.eventually(t, "SELECT v FROM t", "promoted")
}

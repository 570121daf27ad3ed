package apply

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
)

// A million rows in one transaction, in bounded memory; with APPLY_LOAD set also
// a backlog of pgbench's small transactions, with figures beside those of native
// replication. It asserts no time.
func TestLoad(t *testing.T) {
	t.Parallel()
	if os.Getenv("APPLY_LOAD") == "" {
		t.Skip("set APPLY_LOAD=1 to measure")
	}
	settings := map[string]string{"max_wal_size": "4GB", "synchronous_commit": "off", "shared_buffers": "128MB"}
	a, b := newNode(t, "n1", settings), newNode(t, "n2", settings)
	other := newServer(t, "native", settings)
	out, err := exec.Command(filepath.Join(a.server.Bin, "pgbench"), "-i", "-s", "5", "-q", "-h", a.server.Socket, "-p", fmt.Sprint(a.server.Port),
		"-U", pgtest.Superuser, database).CombinedOutput()
	require.NoError(t, err, string(out))
	a.exec(t, `CREATE TABLE big (id int PRIMARY KEY, v text); SELECT spock.repset_add_table('default', c::regclass)
		FROM unnest('{pgbench_accounts,pgbench_branches,pgbench_tellers,big}'::text[]) c;
		SELECT spock.repset_add_table('default_insert_only', 'pgbench_history'); CREATE PUBLICATION everything FOR TABLES IN SCHEMA public`)
	b.subscribe(t, a, wholeCopy)
	b.exec(t, "SELECT spock.sub_wait_for_sync('sub_n1_n2')")
	out, err = exec.Command("sh", "-c", fmt.Sprintf("%s/pg_dump -s -n public --no-publications '%s' | grep -v pgdrover_ | %s/psql -q '%s'", a.server.Bin, a.server.DSN(database),
		a.server.Bin, other.DSN(database))).CombinedOutput()
	require.NoError(t, err, string(out))
	native := &node{name: "native", server: other, conn: other.Connect(t, database)}
	native.exec(t, fmt.Sprintf("CREATE SUBSCRIPTION native CONNECTION '%s' PUBLICATION everything WITH (binary)", a.server.DSN(database)))
	native.eventually(t, "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel", "t")

	drain := func(what string, count func(*node) string, want string) {
		t.Helper()
		b.exec(t, "SELECT spock.sub_disable('sub_n1_n2')")
		native.exec(t, "ALTER SUBSCRIPTION native DISABLE")
		b.eventually(t, "SELECT status FROM spock.sub_show_status()", "disabled")
		switch what {
		case "small":
			out, err := exec.Command(filepath.Join(a.server.Bin, "pgbench"), "-n", "-c", "4", "-t", "10000", "-h", a.server.Socket, "-p", fmt.Sprint(a.server.Port),
				"-U", pgtest.Superuser, database).CombinedOutput()
			require.NoError(t, err, string(out))
		default:
			a.exec(t, "INSERT INTO big SELECT i, 'value ' || i FROM generate_series(1, 1000000) i")
		}
		for _, n := range []*node{b, native} {
			began := time.Now()
			if n == b {
				b.exec(t, "SELECT spock.sub_enable('sub_n1_n2')")
			} else {
				native.exec(t, "ALTER SUBSCRIPTION native ENABLE")
			}
			pgtest.Eventually(t, 10*patience, func() error {
				if got := count(n); got != want {
					return fmt.Errorf("%s has %s", n.name, got)
				}
				return nil
			})
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			t.Logf("%s: %s took %s; memory of this process %d MB", what, n.name, time.Since(began), m.Sys>>20)
		}
	}
	drain("large", func(n *node) string { return n.text(t, "SELECT count(*) FROM big") }, "1000000")
	drain("small", func(n *node) string { return n.text(t, "SELECT count(*) FROM pgbench_history") }, "40000")
	equal(t, "SELECT sum(abalance), count(*) FROM pgbench_accounts", a, b)
	require.Equal(t, "0", b.text(t, "SELECT count(*) FROM spock.exception_log"))
}

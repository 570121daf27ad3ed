package operations

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pgdrover/pgdrover/internal/pgtest"
	"github.com/pgdrover/pgdrover/test/group"
)

// names is the directory of host names that every member of a group asks.
type names struct {
	file   string // stands in for /etc/hosts
	script string // runs the program so
	known  map[string]netip.Addr
}

func newNames(t *testing.T) *names {
	t.Helper()
	dir := pgtest.Dir(t)
	n := &names{file: filepath.Join(dir, "hosts"), script: filepath.Join(dir, "with-names"), known: map[string]netip.Addr{}}
	n.write(t)
	text := fmt.Sprintf("#!/bin/sh\nset -e\nprogram=${PROGRAM:-%s}\n"+
		"exec unshare --mount sh -c 'mount --bind %s /etc/hosts && exec setpriv --reuid=postgres --regid=postgres --init-groups \"$@\"' sh \"$program\" \"$@\"\n",
		group.Program(t), n.file)
	require.NoError(t, os.WriteFile(n.script, []byte(text), 0o755))
	cmd := exec.CommandContext(t.Context(), n.script)
	cmd.Env = append(os.Environ(), "PROGRAM=/bin/true")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("host names of a test's own need mount namespaces: %v: %s", err, out)
	}
	return n
}

func (n *names) write(t *testing.T) {
	t.Helper()
	lines := []string{"127.0.0.1 localhost"}
	for name, addr := range n.known {
		lines = append(lines, addr.String()+" "+name)
	}
	// In place: the members see this very file.
	require.NoError(t, os.WriteFile(n.file, []byte(strings.Join(lines, "\n")+"\n"), 0o644))
}

func (n *names) set(t *testing.T, name string, addr netip.Addr) {
	t.Helper()
	n.known[name] = addr
	n.write(t)
}

// move gives a host another address, as a cloud does, and tells everybody.
func (n *names) move(t *testing.T, h *pgtest.Host, name string, to netip.Addr) {
	t.Helper()
	link(t, h, "addr", "del", n.known[name].String()+"/24", "dev", "eth0") // would take a second one with it
	link(t, h, "addr", "add", to.String()+"/24", "dev", "eth0")
	n.set(t, name, to)
}

// link runs the program ip on a host.
func link(t *testing.T, h *pgtest.Host, args ...string) {
	t.Helper()
	require.NoError(t, h.Do(func() error {
		if out, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s on %s: %w: %s", strings.Join(args, " "), h.Name, err, out)
		}
		return nil
	}))
}

// admitClients lets the applications of the network in, which is the owner's to do.
func admitClients(t *testing.T, m *group.Member) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(m.Dir, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = fmt.Fprintln(f, "host all app samenet trust")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	m.Exec(t, "SELECT pg_reload_conf()")
}

// TestInterfacesAndAddresses: hosts that are known by name lose their interface
// and get it back, and come back under another address.
func TestInterfacesAndAddresses(t *testing.T) {
	t.Parallel()
	net := pgtest.NewNetwork(t, "monitor", "node1", "node2")
	known := newNames(t)
	for host, name := range map[string]string{"monitor": "mon", "node1": "db1", "node2": "db2"} {
		known.set(t, name, net.Host(host).IP)
	}
	g := group.New(t, group.Config{
		Network: net,
		MonitorSettings: map[string]string{
			"startup_grace_period": "1s", "node_considered_unhealthy_timeout": "6s", "health_check_timeout": "4s",
		},
	})
	g.Monitor.Stop(t)
	g.Monitor.Program, g.Monitor.Root = known.script, true
	g.Monitor.Start(t)
	uri := fmt.Sprintf("postgres://autoctl_node@mon:%d/pg_auto_failover?sslmode=prefer", g.Monitor.Port)
	create := func(name, host string) *group.Member {
		m := g.Outsider(t, name)
		m.Program, m.Root = known.script, true
		m.Create(t, "--hostname", host, "--monitor", uri, "--run")
		g.Nodes = append(g.Nodes, m)
		return m
	}
	first := create("node1", "db1")
	g.WaitState(t, first, "single")
	admitClients(t, first)
	second := create("node2", "db2")
	require.Equal(t, first, g.WaitReady(t))
	g.CreateLedger(t)
	w := g.Write(t, clients())
	w.WaitAck(t, time.Now())
	start := time.Now()

	// The standby's interface: the primary goes on without it.
	link(t, second.Host, "link", "set", "eth0", "down")
	g.WaitLost(t, second)
	w.WaitAck(t, time.Now())
	link(t, second.Host, "link", "set", "eth0", "up")
	require.Equal(t, first, g.WaitReady(t))

	// The primary's: the other one takes over, and it returns as a standby.
	link(t, first.Host, "link", "set", "eth0", "down")
	require.Equal(t, second, g.NewPrimary(t, first))
	w.WaitAck(t, time.Now())
	link(t, first.Host, "link", "set", "eth0", "up")
	require.Equal(t, second, g.WaitReady(t))

	// A standby under another address: everybody finds it by its name, and lets it in.
	moved := netip.MustParseAddr("10.77.0.101")
	known.move(t, first.Host, "db1", moved)
	pgtest.Eventually(t, group.Patience, func() error {
		from := second.Ask(t, "SELECT coalesce(string_agg(host(client_addr), ' '), '') FROM pg_stat_replication WHERE application_name LIKE 'pgautofailover_standby%' AND state = 'streaming'")
		if from != moved.String() {
			return fmt.Errorf("it streams to %q", from)
		}
		return nil
	})
	require.Equal(t, second, g.WaitReady(t))
	w.WaitAck(t, time.Now())

	// The monitor as well.
	known.move(t, g.Monitor.Host, "mon", netip.MustParseAddr("10.77.0.103"))
	require.Equal(t, second, g.WaitReady(t))
	w.WaitAck(t, time.Now())

	// A primary under another address is followed by its name. The writer knows only addresses.
	w.Stop()
	known.move(t, second.Host, "db2", netip.MustParseAddr("10.77.0.102"))
	require.Equal(t, second, g.WaitReady(t))
	pgtest.Eventually(t, group.Patience, func() error {
		// The nodes may be about to find the monitor.
		if res := g.Run(t, "perform", "switchover", "--pgdata", g.Monitor.Dir); res.Code != 0 {
			return errors.New(res.Stderr)
		}
		return nil
	})
	require.Equal(t, first, g.WaitReady(t))
	finish(t, g, w, start)
}

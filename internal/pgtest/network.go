package pgtest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Network is a set of hosts, each a network namespace, on one switch. Any
// direction between any two can be cut without either side noticing more than
// silence: a cut host sends to a hardware address that nobody has.
type Network struct {
	prefix string
	hosts  []*Host
}

// Host is one machine of a Network.
type Host struct {
	Name string
	IP   netip.Addr

	netns  string // name of the namespace
	number int
}

// namespaces made by this process, for their names.
var networks atomic.Int64

func namespacePrefix(pid int) string { return fmt.Sprintf("pgt%d-", pid) }

// NewNetwork makes a network of hosts with these names. It needs root (see
// MainAsRoot) and a kernel with namespaces; without them the test is skipped.
func NewNetwork(t testing.TB, names ...string) *Network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		missing(t, "network namespaces need the program ip (package iproute2)")
	}
	n := &Network{prefix: fmt.Sprintf("%s%d-", namespacePrefix(os.Getpid()), networks.Add(1))}
	sw := n.prefix + "switch"
	if out, err := ip("netns", "add", sw); err != nil {
		t.Skipf("this kernel or container gives no network namespaces: %s", out)
	}
	t.Cleanup(func() { n.remove(t, sw) })
	steps := [][]string{
		{"-n", sw, "link", "add", "br0", "type", "bridge"},
		{"-n", sw, "link", "set", "br0", "up"},
	}
	for i, name := range names {
		h := &Host{Name: name, netns: n.prefix + name, number: i + 1, IP: netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)})}
		n.hosts = append(n.hosts, h)
		port := fmt.Sprintf("port%d", h.number)
		steps = append(
			steps,
			[]string{"netns", "add", h.netns},
			[]string{"-n", sw, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", h.netns},
			[]string{"-n", sw, "link", "set", port, "master", "br0", "up"},
			[]string{"-n", h.netns, "link", "set", "lo", "up"},
			[]string{"-n", h.netns, "link", "set", "eth0", "address", h.mac(), "up"},
			[]string{"-n", h.netns, "addr", "add", h.IP.String() + "/24", "dev", "eth0"},
		)
	}
	for _, step := range steps {
		if out, err := ip(step...); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(step, " "), err, out)
		}
	}
	n.Heal(t)
	return n
}

func (n *Network) remove(t testing.TB, sw string) {
	t.Helper()
	for _, h := range n.hosts {
		if out, err := ip("netns", "del", h.netns); err != nil {
			t.Errorf("delete namespace of %s: %v: %s", h.Name, err, out)
		}
	}
	if out, err := ip("netns", "del", sw); err != nil {
		t.Errorf("delete namespace of the switch: %v: %s", err, out)
	}
}

func ip(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Host returns the host of that name.
func (n *Network) Host(name string) *Host {
	for _, h := range n.hosts {
		if h.Name == name {
			return h
		}
	}
	panic("pgtest: the network has no host " + name)
}

// Hosts lists the hosts in the order of their names at NewNetwork.
func (n *Network) Hosts() []*Host { return n.hosts }

// Cut stops all traffic between two hosts.
func (n *Network) Cut(t testing.TB, a, b *Host) {
	t.Helper()
	n.CutOneWay(t, a, b)
	n.CutOneWay(t, b, a)
}

// CutOneWay stops what from sends to to; the other direction still works.
func (n *Network) CutOneWay(t testing.TB, from, to *Host) {
	t.Helper()
	from.sendTo(t, to, fmt.Sprintf("02:ff:00:00:00:%02x", to.number))
}

// Isolate cuts a host off from all others.
func (n *Network) Isolate(t testing.TB, h *Host) {
	t.Helper()
	for _, other := range n.hosts {
		if other != h {
			n.Cut(t, h, other)
		}
	}
}

// Join undoes Cut and CutOneWay between two hosts.
func (n *Network) Join(t testing.TB, a, b *Host) {
	t.Helper()
	a.sendTo(t, b, b.mac())
	b.sendTo(t, a, a.mac())
}

// Heal makes the whole network good again.
func (n *Network) Heal(t testing.TB) {
	t.Helper()
	for i, a := range n.hosts {
		for _, b := range n.hosts[i+1:] {
			n.Join(t, a, b)
		}
	}
}

func (h *Host) mac() string { return fmt.Sprintf("02:00:00:00:00:%02x", h.number) }

func (h *Host) sendTo(t testing.TB, to *Host, mac string) {
	t.Helper()
	out, err := ip("-n", h.netns, "neigh", "replace", to.IP.String(), "lladdr", mac, "nud", "permanent", "dev", "eth0")
	if err != nil {
		t.Fatalf("change route from %s to %s: %v: %s", h.Name, to.Name, err, out)
	}
}

// Do runs code inside the host's network: sockets that it opens belong to the
// host for good, and so do processes that it starts. The code must not rely on
// other goroutines for that.
func (h *Host) Do(code func() error) error {
	done := make(chan error, 1) // the goroutine never waits for us
	go func() {
		runtime.LockOSThread()
		restored, err := h.inside(code)
		if restored {
			runtime.UnlockOSThread()
		} // else the thread ends with the goroutine
		done <- err
	}()
	return <-done
}

func (h *Host) inside(code func() error) (restored bool, err error) {
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return true, fmt.Errorf("open own namespace: %w", err)
	}
	defer here.Close()
	there, err := os.Open("/run/netns/" + h.netns)
	if err != nil {
		return true, fmt.Errorf("open namespace of %s: %w", h.Name, err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return true, fmt.Errorf("enter namespace of %s: %w", h.Name, err)
	}
	err = code()
	if back := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); back != nil {
		return false, fmt.Errorf("leave namespace of %s: %w", h.Name, back)
	}
	return true, err
}

// DialContext connects from this host. The address must be numeric: a name
// would be looked up elsewhere. It fits pgconn.Config.DialFunc.
func (h *Host) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	derr := h.Do(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, derr
}

package cli

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/pg"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

// newInspectShowCmd holds what a creation finds out about this host's network.
func newInspectShowCmd(env *Env) *cobra.Command {
	return newSet("show", "Show what is found out about this host",
		newLookCmd("ipaddr", "Print this node's IP address", func(ctx context.Context, _ []string) error {
			addr, err := outboundAddress(ctx)
			if err != nil {
				return err
			}
			env.printf("%s\n", addr)
			return nil
		}),
		newLookCmd("cidr", "Print the local network of this node's IP address", func(ctx context.Context, _ []string) error {
			addr, err := outboundAddress(ctx)
			if err != nil {
				return err
			}
			network, err := postgres.LocalNetwork(ctx, net.DefaultResolver, addr)
			if err != nil {
				return err
			}
			env.printf("%s\n", network)
			return nil
		}),
		newLookCmd("lookup <hostname>", "Print the IP addresses of a host name", func(ctx context.Context, words []string) error {
			addrs, err := net.DefaultResolver.LookupHost(ctx, words[0])
			if err != nil {
				return err
			}
			for _, addr := range addrs {
				env.printf("%s\n", addr)
			}
			return nil
		}),
		newLookCmd("hostname [ monitor URI ]", "Print this node's default host name", func(ctx context.Context, words []string) error {
			towards := pg.HostPort{}
			if len(words) == 1 {
				info, err := parseMonitorURI(words[0])
				if err != nil {
					return err
				}
				if hosts := info.Hosts(); len(hosts) > 0 {
					towards = hosts[0]
				}
			}
			name, err := discoverHostname(ctx, env, towards)
			if err != nil {
				return err
			}
			env.printf("%s\n", name)
			return nil
		}),
		newLookCmd("reverse <hostname>", "Print what an HBA rule for a host name is written with", func(ctx context.Context, words []string) error {
			address, warning := postgres.HBAAddress(ctx, net.DefaultResolver, words[0])
			if warning != "" {
				env.warnf("%s", warning)
			}
			env.printf("%s\n", address)
			return nil
		}),
		newVersionCmd(env),
	)
}

// newLookCmd builds a command that looks something up; the words it takes stand in use.
func newLookCmd(use, short string, look func(ctx context.Context, words []string) error) *cobra.Command {
	return newWordsLeaf(use, short, func(cmd *cobra.Command, words []string) error {
		return withCode(exitInternal, look(cmd.Context(), words))
	})
}

// outboundAddress is the address that this host has towards the world: that of
// its default route, which takes no packet to find, else that of an interface.
func outboundAddress(ctx context.Context) (string, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "udp", "8.8.8.8:53")
	if err != nil {
		return firstAddress()
	}
	defer conn.Close() //nolint:errcheck // nothing was sent
	local, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return "", fmt.Errorf("read local address: %w", err)
	}
	return local.Addr().String(), nil
}

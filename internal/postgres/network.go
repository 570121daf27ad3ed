package postgres

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// LocalNetwork returns the network of the local interface that has the host's
// address: whom "the local network" means in HBA rules.
func LocalNetwork(ctx context.Context, resolver Resolver, host string) (netip.Prefix, error) {
	addrs := []netip.Addr{}
	if addr, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, addr)
	} else if addrs, err = resolver.LookupNetIP(ctx, "ip", host); err != nil {
		return netip.Prefix{}, fmt.Errorf("find the network of %s: %w", host, err)
	}
	local, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("find the network of %s: %w", host, err)
	}
	for _, one := range local {
		prefix, err := netip.ParsePrefix(one.String())
		if err != nil {
			continue
		}
		for _, addr := range addrs {
			if prefix.Addr().Unmap() == addr.Unmap() {
				return prefix.Masked(), nil
			}
		}
	}
	return netip.Prefix{}, withHint(fmt.Errorf("find the network of %s: no local interface has its address", host),
		"give a --hostname that resolves to an address of this machine")
}

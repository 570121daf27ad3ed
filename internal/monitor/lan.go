package monitor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// localNetwork returns the network of the interface that has the host's
// address: the neighbourhood that a new monitor lets in.
func localNetwork(ctx context.Context, host string) (netip.Prefix, error) {
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("look up %s: %w", host, err)
	}
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list network interfaces: %w", err)
	}
	var prefixes []netip.Prefix
	for _, a := range interfaces {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			prefixes = append(prefixes, p)
		}
	}
	p, ok := networkOf(addresses, prefixes)
	if !ok {
		return netip.Prefix{}, fmt.Errorf("find the network of %s: none of its addresses is on an interface of this host", host)
	}
	return p, nil
}

// networkOf picks the interface with one of the addresses. A loopback network
// is the answer only when nothing else is: a host's own name often resolves to it too.
func networkOf(addresses []netip.Addr, interfaces []netip.Prefix) (found netip.Prefix, ok bool) {
	for _, p := range interfaces {
		for _, a := range addresses {
			a = a.Unmap()
			loop := a.IsLoopback() && p.Contains(a)
			if a != p.Addr().Unmap() && !loop {
				continue
			}
			if !loop {
				return p.Masked(), true
			}
			if !ok || found.Addr().Is6() {
				found, ok = p.Masked(), true
			}
		}
	}
	return found, ok
}

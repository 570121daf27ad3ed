package monitor

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNetworkOf(t *testing.T) {
	t.Parallel()
	interfaces := []netip.Prefix{
		netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("10.1.2.3/16"), netip.MustParsePrefix("::1/128"),
	}
	for _, c := range []struct{ addresses, want string }{
		{"10.1.2.3", "10.1.0.0/16"},
		{"127.0.1.1", "127.0.0.0/8"},
		{"127.0.1.1 10.1.2.3", "10.1.0.0/16"},
		{"::1 127.0.0.1", "127.0.0.0/8"},
		{"::1", "::1/128"},
		{"10.1.2.4", ""},
	} {
		got, ok := networkOf(addrs(c.addresses), interfaces)
		require.Equal(t, c.want != "", ok, c.addresses)
		if ok {
			require.Equal(t, c.want, got.String(), c.addresses)
		}
	}
}

func addrs(text string) []netip.Addr {
	var all []netip.Addr
	for word := range strings.FieldsSeq(text) {
		all = append(all, netip.MustParseAddr(word))
	}
	return all
}

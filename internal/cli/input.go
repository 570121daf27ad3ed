package cli

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// maxName is how long PostgreSQL lets a name be, in bytes; it cuts off the rest.
const maxName = 63

// checkTexts refuses values of options that only a server would find wrong, or
// that would end up where they mean something else, before anything is done
// with them. Options that a command does not have are not given.
func checkTexts(cmd *cobra.Command) error {
	for _, c := range []struct {
		option string
		right  func(string) bool
		hint   string
	}{
		{"hostname", isHostname, "it is a name or an address by which the other nodes reach this one, without a port"},
		{"auth", isAuthMethod, "the methods are those of pg_hba.conf: " + strings.Join(authMethods(), ", ")},
		{"dbname", isName, "a name has from 1 to 63 bytes"},
		{"username", isRoleName, "a name has from 1 to 63 bytes, and does not begin with pg_"},
	} {
		if value := text(cmd, c.option); given(cmd, c.option) && !c.right(value) {
			return fatal(exitBadArgs, "--%s argument is not valid: %q", c.option, value).withHint("%s", c.hint)
		}
	}
	return nil
}

// isHostname tells what may be a host's name or address.
func isHostname(s string) bool {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.IsValid()
	}
	if s == "" || len(s) > 253 {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune(`,:;/\'"@#?&=()[]{}<>|$`+"`", r)
	})
}

// authMethods are the methods of pg_hba.conf.
func authMethods() []string {
	return []string{
		"trust", "scram-sha-256", "md5", "password", "cert", "peer", "ident", "gss", "sspi", "pam", "ldap", "radius", "bsd", "reject",
	}
}

// isAuthMethod tells a method of pg_hba.conf, which options of the form name=value may follow.
func isAuthMethod(s string) bool {
	words := strings.Fields(s)
	if len(words) == 0 || strings.ContainsAny(s, "\n\r#") || !slices.Contains(authMethods(), words[0]) {
		return false
	}
	return !slices.ContainsFunc(words[1:], func(w string) bool { return !strings.Contains(w, "=") })
}

func isName(s string) bool { return s != "" && len(s) <= maxName && !strings.ContainsRune(s, 0) }

// isRoleName tells a name that a new role may have.
func isRoleName(s string) bool { return isName(s) && !strings.HasPrefix(s, "pg_") }

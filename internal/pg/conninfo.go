package pg

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// ConnInfo is a connection string: ordered libpq keywords and values, with
// several hosts separated by commas. String and MarshalText, and therefore
// every log and error, hide the password; only DSN and URI reveal it.
// The zero value has no keyword.
type ConnInfo struct {
	params []connParam
	// A pointer, so that printing a struct that holds a ConnInfo in a private
	// field does not print the password either.
	password *string
	uri      bool
}

type connParam struct{ key, value string }

const passwordKey = "password"

// errConnInfo never quotes the string: it may hold a password.
var errConnInfo = errors.New("parse connection string")

// ParseConnInfo reads a postgres:// or postgresql:// URI or a string of
// key=value pairs, as libpq does.
func ParseConnInfo(s string) (ConnInfo, error) {
	if rest, ok := cutScheme(s); ok {
		return parseURI(rest)
	}
	return parsePairs(s)
}

// NewConnInfo builds a connection string from alternating keys and values;
// pairs with an empty value are left out.
func NewConnInfo(keyvals ...string) ConnInfo {
	var c ConnInfo
	for i := 0; i+1 < len(keyvals); i += 2 {
		if keyvals[i+1] != "" {
			c = c.With(keyvals[i], keyvals[i+1])
		}
	}
	return c
}

func cutScheme(s string) (string, bool) {
	if rest, ok := strings.CutPrefix(s, "postgres://"); ok {
		return rest, true
	}
	return strings.CutPrefix(s, "postgresql://")
}

// Get returns the value of a keyword, "" when it is absent.
func (c ConnInfo) Get(key string) string {
	if key == passwordKey && c.password != nil {
		return *c.password
	}
	for _, p := range c.params {
		if p.key == key {
			return p.value
		}
	}
	return ""
}

// IsZero reports whether no keyword is set.
func (c ConnInfo) IsZero() bool { return len(c.params) == 0 && c.password == nil }

// With returns a copy in which key has the given value; an empty value removes the key.
func (c ConnInfo) With(key, value string) ConnInfo {
	if key == passwordKey {
		c.password = nil
		if value != "" {
			c.password = &value
		}
		return c
	}
	c.params = slices.Clone(c.params)
	i := slices.IndexFunc(c.params, func(p connParam) bool { return p.key == key })
	switch {
	case value == "" && len(c.params) == 1 && i == 0:
		c.params = nil // as in a value that never had one: equal values compare equal
	case value == "" && i >= 0:
		c.params = slices.Delete(c.params, i, i+1)
	case value == "":
	case i >= 0:
		c.params[i].value = value
	default:
		c.params = append(c.params, connParam{key, value})
	}
	return c
}

// Hosts returns the hosts and ports that are tried, in order. A port list may be
// shorter than the host list: its last value, or 5432, serves the rest.
func (c ConnInfo) Hosts() []HostPort {
	hosts := strings.Split(c.Get("host"), ",")
	ports := strings.Split(c.Get("port"), ",")
	pairs := make([]HostPort, len(hosts))
	for i, h := range hosts {
		pairs[i] = HostPort{Host: h, Port: ports[min(i, len(ports)-1)]}
		if pairs[i].Port == "" {
			pairs[i].Port = "5432"
		}
	}
	return pairs
}

// HostPort is one place to connect to.
type HostPort struct{ Host, Port string }

// DSN returns the key=value form, password included.
func (c ConnInfo) DSN() string { return c.pairs(c.Get(passwordKey)) }

// DriverDSN returns the key=value form, password included, without the
// keywords that only libpq knows: our driver would send them to the server,
// which would refuse the connection. An address without a name is the host.
func (c ConnInfo) DriverDSN() string {
	if c.Get("host") == "" {
		c = c.With("host", c.Get("hostaddr"))
	}
	for _, key := range []string{
		"sslcrl", "sslcrldir", "sslcompression", "ssl_min_protocol_version", "ssl_max_protocol_version", "sslcertmode",
		"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
		"gssencmode", "gsslib", "gssdelegation", "channel_binding", "requirepeer", "require_auth",
		"fallback_application_name", "load_balance_hosts", "hostaddr",
	} {
		c = c.With(key, "")
	}
	return c.DSN()
}

func (c ConnInfo) pairs(password string) string {
	words := make([]string, 0, len(c.params)+1)
	for _, p := range c.params {
		words = append(words, p.key+"="+quoteConnValue(p.value))
	}
	if password != "" {
		words = append(words, passwordKey+"="+quoteConnValue(password))
	}
	return strings.Join(words, " ")
}

func quoteConnValue(v string) string {
	plain := v != ""
	for i := range len(v) {
		if v[i] <= ' ' || v[i] == '\'' || v[i] == '\\' {
			plain = false
		}
	}
	if plain {
		return v
	}
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(v) + "'"
}

// URI returns the postgres:// form, password included.
func (c ConnInfo) URI() string { return c.toURI(c.Get(passwordKey)) }

func (c ConnInfo) toURI(password string) string {
	var b strings.Builder
	b.WriteString("postgres://")
	if user := c.Get("user"); user != "" || password != "" {
		b.WriteString(escapeURI(user))
		if password != "" {
			b.WriteString(":" + escapeURI(password))
		}
		b.WriteString("@")
	}
	ports := strings.Split(c.Get("port"), ",")
	for i, h := range strings.Split(c.Get("host"), ",") {
		if i > 0 {
			b.WriteString(",")
		}
		if strings.Contains(h, ":") {
			b.WriteString("[" + h + "]")
		} else {
			b.WriteString(escapeURI(h))
		}
		if port := ports[min(i, len(ports)-1)]; port != "" {
			b.WriteString(":" + escapeURI(port))
		}
	}
	b.WriteString("/" + escapeURI(c.Get("dbname")))
	sep := "?"
	for _, p := range c.params {
		if slices.Contains([]string{"host", "port", "user", "dbname"}, p.key) {
			continue
		}
		b.WriteString(sep + escapeURI(p.key) + "=" + escapeURI(p.value))
		sep = "&"
	}
	return b.String()
}

// escapeURI leaves alone what reads well and means nothing in any part of the URI.
func escapeURI(s string) string {
	const plain = "-._~*"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte(plain, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// String returns the connection string in the form it was given, with **** for the password.
func (c ConnInfo) String() string {
	mask := ""
	if c.password != nil {
		mask = "****"
	}
	if c.uri {
		return c.toURI(mask)
	}
	return c.pairs(mask)
}

// GoString hides the password from %#v.
func (c ConnInfo) GoString() string { return fmt.Sprintf("pg.ConnInfo(%q)", c.String()) }

// MarshalText hides the password; there is no way back from it.
func (c ConnInfo) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

func parsePairs(s string) (ConnInfo, error) {
	var c ConnInfo
	for {
		s = strings.TrimLeft(s, " \t\n\r\f\v")
		if s == "" {
			return c, nil
		}
		key, rest, ok := strings.Cut(s, "=")
		key = strings.TrimRight(key, " \t\n\r\f\v")
		if !ok || !connKey(key) {
			return ConnInfo{}, fmt.Errorf("%w: expected keyword=value: %w", errConnInfo, ErrSyntax)
		}
		value, rest, err := cutConnValue(strings.TrimLeft(rest, " \t\n\r\f\v"))
		if err != nil {
			return ConnInfo{}, fmt.Errorf("%w: value of %s: %w", errConnInfo, key, err)
		}
		c = c.With(key, value)
		s = rest
	}
}

func connKey(key string) bool {
	for i := range len(key) {
		c := key[i]
		if c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return key != ""
}

func cutConnValue(s string) (value, rest string, err error) {
	var b strings.Builder
	quoted := strings.HasPrefix(s, "'")
	i := 0
	if quoted {
		i = 1
	}
	for ; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case quoted && c == '\'':
			return b.String(), s[i+1:], nil
		case !quoted && strings.IndexByte(" \t\n\r\f\v", c) >= 0:
			return b.String(), s[i:], nil
		default:
			b.WriteByte(c)
		}
	}
	if quoted {
		return "", "", fmt.Errorf("unterminated quote: %w", ErrSyntax)
	}
	return b.String(), "", nil
}

func parseURI(s string) (ConnInfo, error) {
	c := ConnInfo{uri: true}
	authority, tail := s, ""
	if i := strings.IndexAny(s, "/?"); i >= 0 {
		authority, tail = s[:i], s[i:]
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, password, _ := strings.Cut(authority[:i], ":")
		authority = authority[i+1:]
		for _, p := range []connParam{{"user", user}, {passwordKey, password}} {
			if err := c.setEscaped(p.key, p.value); err != nil {
				return ConnInfo{}, err
			}
		}
	}
	if err := c.setHosts(authority); err != nil {
		return ConnInfo{}, err
	}
	path, query, _ := strings.Cut(tail, "?")
	if err := c.setEscaped("dbname", strings.TrimPrefix(path, "/")); err != nil {
		return ConnInfo{}, err
	}
	if query == "" {
		return c, nil
	}
	for word := range strings.SplitSeq(query, "&") {
		key, value, ok := strings.Cut(word, "=")
		key, err := url.PathUnescape(key)
		if err != nil || !ok || !connKey(key) {
			return ConnInfo{}, fmt.Errorf("%w: expected keyword=value after ?: %w", errConnInfo, ErrSyntax)
		}
		if err := c.setEscaped(key, value); err != nil {
			return ConnInfo{}, err
		}
	}
	return c, nil
}

func (c *ConnInfo) setEscaped(key, value string) error {
	plain, err := url.PathUnescape(value)
	if err != nil || strings.ContainsRune(plain, 0) {
		return fmt.Errorf("%w: escape in %s: %w", errConnInfo, key, ErrSyntax)
	}
	if plain != "" {
		*c = c.With(key, plain)
	}
	return nil
}

func (c *ConnInfo) setHosts(authority string) error {
	if authority == "" {
		return nil
	}
	var hosts, ports []string
	anyPort := false
	for part := range strings.SplitSeq(authority, ",") {
		host, port, err := cutPort(part)
		if err != nil {
			return err
		}
		hosts, ports = append(hosts, host), append(ports, port)
		anyPort = anyPort || port != ""
	}
	*c = c.With("host", strings.Join(hosts, ","))
	if anyPort {
		if !slices.ContainsFunc(ports, func(p string) bool { return p != ports[0] }) {
			ports = ports[:1]
		}
		*c = c.With("port", strings.Join(ports, ","))
	}
	return nil
}

func cutPort(part string) (host, port string, err error) {
	bad := fmt.Errorf("%w: host: %w", errConnInfo, ErrSyntax)
	if inner, ok := strings.CutPrefix(part, "["); ok {
		host, rest, ok := strings.Cut(inner, "]")
		if _, err := netip.ParseAddr(host); err != nil || !ok {
			return "", "", bad
		}
		port, ok := strings.CutPrefix(rest, ":")
		if !ok && rest != "" {
			return "", "", bad
		}
		return host, port, portError(port)
	}
	host, port, _ = strings.Cut(part, ":")
	host, unescapeErr := url.PathUnescape(host)
	if unescapeErr != nil || strings.ContainsRune(host, ',') || strings.ContainsRune(host, 0) {
		return "", "", bad
	}
	return host, port, portError(port)
}

func portError(port string) error {
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' {
			return fmt.Errorf("%w: port: %w", errConnInfo, ErrSyntax)
		}
	}
	return nil
}

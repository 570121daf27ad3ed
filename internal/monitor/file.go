package monitor

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Levels of access rules that pgdrover writes.
const (
	hbaSkip    = "skip"
	hbaMinimal = "minimal"
	hbaApp     = "app"
)

// roleName is what the file of a monitor says in pg_autoctl.role.
const roleName = "monitor"

// File is a monitor's configuration file.
type File struct {
	// Hostname is where nodes reach the monitor.
	Hostname string
	// NodePassword is the password of role autoctl_node; empty when there is none.
	NodePassword string

	PGData, PgCtl   string
	Host            string // of local connections; empty means the socket directory
	Port            int
	ListenAddresses string
	AuthMethod      string
	// HBALevel is skip, minimal or app.
	HBALevel string
	SSL      SSL
}

// SSL is the ssl section of the configuration file.
type SSL struct {
	Active            bool
	Mode              string
	CAFile, CRLFile   string
	CertFile, KeyFile string
}

// DefaultFile returns the defaults of a new monitor.
func DefaultFile() File {
	return File{Port: 5432, ListenAddresses: "*", AuthMethod: "trust", HBALevel: hbaApp, SSL: SSL{Mode: "prefer"}}
}

// Validate says what keeps the configuration from working.
func (f File) Validate() error {
	switch {
	case f.PGData == "":
		return missing("postgresql.pgdata")
	case f.Hostname == "":
		return missing("pg_autoctl.hostname")
	case f.Port < 1 || f.Port > 65535:
		return &ConfigError{err: fmt.Errorf("read postgresql.port: %d is not a port", f.Port), hint: "ports are 1 to 65535"}
	case !slices.Contains([]string{"", hbaSkip, hbaMinimal, hbaApp}, f.HBALevel):
		return &ConfigError{
			err: fmt.Errorf("read postgresql.hba_level: unknown level %q", f.HBALevel), hint: "levels are skip, minimal and app",
		}
	case f.AuthMethod == "" && f.HBALevel != hbaSkip:
		return missing("postgresql.auth_method")
	}
	return nil
}

func missing(key string) error {
	return &ConfigError{err: fmt.Errorf("read the monitor's configuration: %s is missing", key), hint: "set it in the configuration file"}
}

// key is one entry of the configuration file.
type key struct {
	name string // section.name
	get  func(f *File) string
	set  func(f *File, value string) error
}

// keys lists the entries in the order in which they are written.
func keys() []key {
	text := func(name string, field func(f *File) *string) key {
		return key{name, func(f *File) string { return *field(f) }, func(f *File, value string) error {
			*field(f) = value
			return nil
		}}
	}
	fixed := func(name, only string) key {
		return key{name, func(*File) string { return only }, func(_ *File, value string) error {
			if value != only {
				return fmt.Errorf("it is always %q", only)
			}
			return nil
		}}
	}
	tolerant := func(name, only string) key { // older files may say something else: it never mattered
		return key{name, func(*File) string { return only }, func(*File, string) error { return nil }}
	}
	return []key{
		fixed("pg_autoctl.role", roleName),
		text("pg_autoctl.hostname", func(f *File) *string { return &f.Hostname }),
		text("pg_autoctl.autoctl_node_password", func(f *File) *string { return &f.NodePassword }),
		text("postgresql.pgdata", func(f *File) *string { return &f.PGData }),
		text("postgresql.pg_ctl", func(f *File) *string { return &f.PgCtl }),
		tolerant("postgresql.username", nodeRole),
		tolerant("postgresql.dbname", databaseName),
		text("postgresql.host", func(f *File) *string { return &f.Host }),
		{"postgresql.port", func(f *File) string { return strconv.Itoa(f.Port) }, func(f *File, value string) (err error) {
			f.Port, err = strconv.Atoi(value)
			return err
		}},
		text("postgresql.listen_addresses", func(f *File) *string { return &f.ListenAddresses }),
		text("postgresql.auth_method", func(f *File) *string { return &f.AuthMethod }),
		text("postgresql.hba_level", func(f *File) *string { return &f.HBALevel }),
		{"ssl.active", func(f *File) string { return flag(f.SSL.Active) }, func(f *File, value string) error {
			n, err := strconv.Atoi(value)
			f.SSL.Active = n != 0
			return err
		}},
		text("ssl.sslmode", func(f *File) *string { return &f.SSL.Mode }),
		text("ssl.ca_file", func(f *File) *string { return &f.SSL.CAFile }),
		text("ssl.crl_file", func(f *File) *string { return &f.SSL.CRLFile }),
		text("ssl.cert_file", func(f *File) *string { return &f.SSL.CertFile }),
		text("ssl.key_file", func(f *File) *string { return &f.SSL.KeyFile }),
	}
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

var errUnknownKey = errors.New("no such key")

func find(name string) (key, error) {
	for _, k := range keys() {
		if k.name == name {
			return k, nil
		}
	}
	return key{}, &ConfigError{
		err:  fmt.Errorf("read configuration key %q: %w", name, errUnknownKey),
		hint: "keys are written as section.name, for example postgresql.port",
	}
}

// Get returns the value of a key, "section.name".
func (f File) Get(name string) (string, error) {
	k, err := find(name)
	if err != nil {
		return "", err
	}
	return k.get(&f), nil
}

// Set gives a key a value that passes validation.
func (f *File) Set(name, value string) error {
	k, err := find(name)
	if err != nil {
		return err
	}
	changed := *f
	if err := k.set(&changed, value); err != nil {
		return &ConfigError{err: fmt.Errorf("set %s to %q: %w", name, value, err)}
	}
	if err := changed.Validate(); err != nil {
		return err
	}
	*f = changed
	return nil
}

// URI is how nodes and clients reach the monitor.
func (f File) URI() string {
	u := url.URL{
		Scheme: "postgres", User: url.User(nodeRole),
		Host: net.JoinHostPort(f.Hostname, strconv.Itoa(f.Port)), Path: databaseName,
	}
	var query []string
	if m := f.SSL.Mode; m != "" && m != "disable" && m != "allow" {
		query = append(query, "sslmode="+m)
		if strings.HasPrefix(m, "verify-") {
			if f.SSL.CAFile != "" {
				query = append(query, "sslrootcert="+f.SSL.CAFile)
			}
			if f.SSL.CRLFile != "" {
				query = append(query, "sslcrl="+f.SSL.CRLFile)
			}
		}
	}
	u.RawQuery = strings.Join(query, "&")
	return u.String()
}

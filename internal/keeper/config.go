package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgdrover/pgdrover/internal/ini"
	"github.com/pgdrover/pgdrover/internal/pg"
)

// MonitorDisabled is the value of pg_autoctl.monitor of a node without monitor.
const MonitorDisabled = "PG_AUTOCTL_DISABLED"

// roleKeeper is the value of pg_autoctl.role of a data node.
const roleKeeper = "keeper"

// File is pg_autoctl.cfg of a data node.
type File struct {
	Monitor   string
	Formation string
	Group     int // -1 until registered
	Name      string
	Hostname  string
	NodeKind  string

	PGData          string
	PgCtl           string
	Username        string
	DBName          string
	Host            string
	Port            int
	ProxyPort       int
	ListenAddresses string
	AuthMethod      string
	HBALevel        string

	SSL SSL

	MaximumBackupRate string
	// MaxSlotWALKeepSize is the server's setting of that name; empty for a part of the disk.
	MaxSlotWALKeepSize  string
	BackupDirectory     string
	ReplicationPassword string
	MonitorPassword     string

	Timeouts Timeouts

	CitusRole        string
	CitusClusterName string
}

// SSL is the ssl section.
type SSL struct {
	Active   bool
	Mode     string
	CAFile   string
	CRLFile  string
	CertFile string
	KeyFile  string
	// SelfSigned asks a creation for a certificate of our own making. It is not
	// stored: afterwards the files are in the data directory.
	SelfSigned bool
}

// selfSigned reports whether the certificate is ours to make.
func (s SSL) selfSigned(pgdata string) bool {
	return s.Active && (s.SelfSigned || s.CertFile == filepath.Join(pgdata, "server.crt"))
}

// Timeouts is the timeout section, in the units of the file.
type Timeouts struct {
	NetworkPartition                int // s
	PreparePromotionCatchup         int // s
	PreparePromotionWalreceiver     int // s
	PostgresqlRestartFailureTimeout int // s
	PostgresqlRestartFailureRetries int
	ListenNotifications             int // s
	CitusUpdateNodeLockCooldown     int // ms
	CitusCoordinatorWaitMaxRetries  int
	CitusCoordinatorWaitTimeout     int // s
}

// DefaultFile returns the file of a node for which nothing was chosen.
func DefaultFile() File {
	return File{
		Formation: "default", Group: -1, NodeKind: "standalone",
		DBName: "postgres", Port: 5432, ListenAddresses: "*", HBALevel: hbaMinimal,
		SSL:               SSL{Mode: "prefer"},
		MaximumBackupRate: "100M",
		Timeouts: Timeouts{
			NetworkPartition: 20, PreparePromotionCatchup: 30, PreparePromotionWalreceiver: 5,
			PostgresqlRestartFailureTimeout: 20, PostgresqlRestartFailureRetries: 3, ListenNotifications: 60,
			CitusUpdateNodeLockCooldown: 10000, CitusCoordinatorWaitMaxRetries: 100, CitusCoordinatorWaitTimeout: 300,
		},
		CitusRole: "primary",
	}
}

// option is one key of the file: how to read and write it in the value.
type option struct {
	section, name string
	text          *string
	number        *int
	flag          *bool
	required      bool
	secret        bool
}

func (o option) key() string { return o.section + "." + o.name }

// value renders the option; a number is always there.
func (o option) value() string {
	switch {
	case o.text != nil:
		return *o.text
	case o.number != nil:
		return strconv.Itoa(*o.number)
	case *o.flag:
		return "1"
	}
	return "0"
}

// set stores a value that was read.
func (o option) set(value string) error {
	if o.text != nil {
		*o.text = value
		return nil
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		return fmt.Errorf("read %q: not an integer", value)
	}
	if o.flag != nil {
		*o.flag = n != 0
		return nil
	}
	*o.number = n
	return nil
}

// options lists the keys of f in the order of the file.
func (f *File) options(role *string) []option {
	const autoctl, postgres, ssl, replication, timeout = "pg_autoctl", "postgresql", "ssl", "replication", "timeout"
	t := &f.Timeouts
	return []option{
		{section: autoctl, name: "role", text: role, required: true},
		{section: autoctl, name: "monitor", text: &f.Monitor, secret: true},
		{section: autoctl, name: "formation", text: &f.Formation},
		{section: autoctl, name: "group", number: &f.Group},
		{section: autoctl, name: "name", text: &f.Name},
		{section: autoctl, name: "hostname", text: &f.Hostname},
		{section: autoctl, name: "nodekind", text: &f.NodeKind},
		{section: postgres, name: "pgdata", text: &f.PGData, required: true},
		{section: postgres, name: "pg_ctl", text: &f.PgCtl},
		{section: postgres, name: "username", text: &f.Username},
		{section: postgres, name: "dbname", text: &f.DBName},
		{section: postgres, name: "host", text: &f.Host},
		{section: postgres, name: "port", number: &f.Port, required: true},
		{section: postgres, name: "proxyport", number: &f.ProxyPort},
		{section: postgres, name: "listen_addresses", text: &f.ListenAddresses},
		{section: postgres, name: "auth_method", text: &f.AuthMethod},
		{section: postgres, name: "hba_level", text: &f.HBALevel},
		{section: ssl, name: "active", flag: &f.SSL.Active},
		{section: ssl, name: "sslmode", text: &f.SSL.Mode},
		{section: ssl, name: "ca_file", text: &f.SSL.CAFile},
		{section: ssl, name: "crl_file", text: &f.SSL.CRLFile},
		{section: ssl, name: "cert_file", text: &f.SSL.CertFile},
		{section: ssl, name: "key_file", text: &f.SSL.KeyFile},
		{section: replication, name: "maximum_backup_rate", text: &f.MaximumBackupRate},
		{section: replication, name: "max_slot_wal_keep_size", text: &f.MaxSlotWALKeepSize},
		{section: replication, name: "backup_directory", text: &f.BackupDirectory},
		{section: replication, name: "password", text: &f.ReplicationPassword, secret: true},
		{section: autoctl, name: "monitor_password", text: &f.MonitorPassword, secret: true},
		{section: timeout, name: "network_partition_timeout", number: &t.NetworkPartition},
		{section: timeout, name: "prepare_promotion_catchup", number: &t.PreparePromotionCatchup},
		{section: timeout, name: "prepare_promotion_walreceiver", number: &t.PreparePromotionWalreceiver},
		{section: timeout, name: "postgresql_restart_failure_timeout", number: &t.PostgresqlRestartFailureTimeout},
		{section: timeout, name: "postgresql_restart_failure_max_retries", number: &t.PostgresqlRestartFailureRetries},
		{section: timeout, name: "listen_notifications_timeout", number: &t.ListenNotifications},
		{section: timeout, name: "citus_master_update_node_lock_cooldown", number: &t.CitusUpdateNodeLockCooldown},
		{section: timeout, name: "citus_coordinator_wait_max_retries", number: &t.CitusCoordinatorWaitMaxRetries},
		{section: timeout, name: "citus_coordinator_wait_timeout", number: &t.CitusCoordinatorWaitTimeout},
		{section: "citus", name: "role", text: &f.CitusRole},
		{section: "citus", name: "cluster_name", text: &f.CitusClusterName},
	}
}

// Keys lists the keys as section.key, in the order of the file.
func Keys() []string {
	var f File
	var keys []string
	for _, o := range f.options(new(string)) {
		keys = append(keys, o.key())
	}
	return keys
}

// LoadFile reads a configuration file. What it does not say is the default.
func LoadFile(path string) (File, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the operator names it
	if err != nil {
		return File{}, &ConfigError{Path: path, Err: err, hint: "create the node with `pg_autoctl create postgres`, or check --pgdata"}
	}
	f, err := parseFile(string(data))
	if err != nil {
		if wrong, ok := errors.AsType[*ConfigError](err); ok {
			wrong.Path = path
			return File{}, wrong
		}
		return File{}, &ConfigError{Path: path, Err: err}
	}
	return f, nil
}

func parseFile(text string) (File, error) {
	parsed, err := ini.Parse(text)
	if err != nil {
		return File{}, err
	}
	f, role := DefaultFile(), ""
	for _, o := range f.options(&role) {
		value, ok := parsed.Get(o.section, o.name)
		if !ok && o.key() == "pg_autoctl.hostname" {
			// The name of this key in the first releases of pg_auto_failover.
			value, ok = parsed.Get("pg_autoctl", "nodename")
		}
		if !ok || value == "" {
			if o.required {
				return File{}, &ConfigError{Key: o.key(), Err: errors.New("it is missing")}
			}
			continue
		}
		if err := o.set(value); err != nil {
			return File{}, &ConfigError{Key: o.key(), Err: err}
		}
	}
	if role != roleKeeper {
		return File{}, &ConfigError{Key: "pg_autoctl.role", Err: fmt.Errorf("%q is not the role of a data node", role)}
	}
	return f, nil
}

// Render returns the text of the file.
func (f File) Render() (string, error) {
	role := roleKeeper
	var out ini.File
	for _, o := range f.options(&role) {
		last := len(out.Sections) - 1
		if last < 0 || out.Sections[last].Name != o.section {
			if o.name == "monitor_password" && o.value() == "" {
				continue
			}
			out.Sections = append(out.Sections, ini.Section{Name: o.section})
			last++
		}
		value := o.value()
		if o.name == "proxyport" && value == "0" {
			continue
		}
		out.Sections[last].Keys = append(out.Sections[last].Keys, ini.Key{Name: o.name, Value: value})
	}
	return out.Render()
}

// Save replaces the file at path.
func (f File) Save(path string) error {
	text, err := f.Render()
	if err != nil {
		return &ConfigError{Path: path, Err: err}
	}
	if err := replaceFile(path, ".tmp", []byte(text), privateMode); err != nil {
		return fmt.Errorf("write configuration file %q: %w", path, err)
	}
	return nil
}

// Get returns a key's value.
func (f File) Get(key string) (string, error) {
	role := roleKeeper
	for _, o := range f.options(&role) {
		if o.key() == key {
			return o.value(), nil
		}
	}
	return "", &ConfigError{Key: key, Err: errors.New("no such option"), hint: "`pg_autoctl config get` lists them all"}
}

// Set gives a key its value and checks the whole.
func (f *File) Set(key, value string) error {
	next, role := *f, roleKeeper
	for _, o := range next.options(&role) {
		if o.key() != key {
			continue
		}
		if err := o.set(strings.TrimSpace(value)); err != nil {
			return &ConfigError{Key: key, Err: err}
		}
		if role != roleKeeper {
			return &ConfigError{Key: key, Err: errors.New("it cannot be changed")}
		}
		if err := next.Validate(); err != nil {
			return err
		}
		*f = next
		return nil
	}
	return &ConfigError{Key: key, Err: errors.New("no such option"), hint: "`pg_autoctl config get` lists them all"}
}

// Validate checks the values that can be checked without touching anything.
func (f File) Validate() error {
	wrong := func(key, format string, args ...any) error {
		return &ConfigError{Key: key, Err: fmt.Errorf(format, args...)}
	}
	role := roleKeeper
	for _, o := range f.options(&role) {
		if strings.ContainsAny(o.value(), "\r\n") {
			return wrong(o.key(), "a value must be one line")
		}
		if strings.HasPrefix(o.section, "timeout") && *o.number < 0 {
			return wrong(o.key(), "%d is negative", *o.number)
		}
	}
	switch {
	case !filepath.IsAbs(f.PGData):
		return wrong("postgresql.pgdata", "%q is not an absolute path", f.PGData)
	case f.Port < 1 || f.Port > 65535:
		return wrong("postgresql.port", "%d is not a port", f.Port)
	case f.DBName == "":
		return wrong("postgresql.dbname", "it is empty")
	case f.Hostname == "":
		return wrong("pg_autoctl.hostname", "it is empty")
	case strings.ContainsAny(f.Hostname, " \t"):
		return wrong("pg_autoctl.hostname", "%q is not a host name", f.Hostname)
	case f.Formation == "":
		return wrong("pg_autoctl.formation", "it is empty")
	case !slices.Contains([]string{hbaSkip, hbaMinimal, hbaApp}, f.HBALevel):
		return wrong("postgresql.hba_level", "%q is none of skip, minimal, app", f.HBALevel)
	case !slices.Contains([]string{"standalone", "coordinator", "worker"}, f.NodeKind):
		return wrong("pg_autoctl.nodekind", "%q is none of standalone, coordinator, worker", f.NodeKind)
	case !slices.Contains([]string{"", "disable", "allow", "prefer", "require", "verify-ca", "verify-full"}, f.SSL.Mode):
		return wrong("ssl.sslmode", "%q is no sslmode", f.SSL.Mode)
	case !validSize(f.MaxSlotWALKeepSize):
		return wrong("replication.max_slot_wal_keep_size", "%q is not a size such as 20GB, nor -1 for no limit", f.MaxSlotWALKeepSize)
	case !validRate(f.MaximumBackupRate):
		return wrong("replication.maximum_backup_rate", "%q is not a rate such as 100M", f.MaximumBackupRate)
	}
	if f.Monitor != MonitorDisabled {
		if _, err := pg.ParseConnInfo(f.Monitor); err != nil || f.Monitor == "" {
			return &ConfigError{
				Key: "pg_autoctl.monitor", Err: errors.New("it is not a connection string"),
				hint: "the monitor prints its URI with `pg_autoctl show uri --monitor`",
			}
		}
	}
	return nil
}

// validSize reports whether the server takes a size in megabytes, or with a unit; -1 is no limit.
func validSize(size string) bool {
	if size == "" || size == "-1" {
		return true
	}
	digits := strings.TrimRight(size, "kMGTB")
	if unit := size[len(digits):]; !slices.Contains([]string{"", "kB", "MB", "GB", "TB"}, unit) {
		return false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 31)
	return err == nil && n > 0
}

// validRate reports whether pg_basebackup takes the rate: 32 kB to 1 GB a second.
func validRate(rate string) bool {
	if rate == "" {
		return true
	}
	digits, scale := rate, 1.0
	switch rate[len(rate)-1] {
	case 'k':
		digits = rate[:len(rate)-1]
	case 'M':
		digits, scale = rate[:len(rate)-1], 1024
	}
	kb, err := strconv.ParseFloat(digits, 64)
	return err == nil && kb*scale >= 32 && kb*scale <= 1<<20
}

// monitorHosts returns the hosts of the monitor's URI, for HBA rules.
func (f File) monitorHosts() []string {
	info, err := pg.ParseConnInfo(f.Monitor)
	if err != nil || f.Monitor == MonitorDisabled {
		return nil
	}
	var hosts []string
	for _, h := range info.Hosts() {
		if h.Host != "" && !filepath.IsAbs(h.Host) && !slices.Contains(hosts, h.Host) {
			hosts = append(hosts, h.Host)
		}
	}
	return hosts
}

// seconds turns a value of the timeout section into a duration.
func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

// limits are the times that the engine goes by.
func (f File) limits() limits {
	return limits{
		NetworkPartition: seconds(f.Timeouts.NetworkPartition),
		RestartTimeout:   seconds(f.Timeouts.PostgresqlRestartFailureTimeout),
		RestartRetries:   f.Timeouts.PostgresqlRestartFailureRetries,
	}
}

package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pgdrover/pgdrover/internal/ini"
)

// defaultNodeFile is where a node's file is looked for when none is named.
const defaultNodeFile = "/etc/pgaf/node.ini"

// nodeFile is a node as somebody wants it to be, written down in a file.
type nodeFile struct {
	path   string
	values map[string]string
	// formations are those that a monitor shall have, in the order of the file.
	formations []formationWish
}

// formationWish is a section [formation NAME] of a monitor's file.
type formationWish struct {
	name, kind string
	secondary  bool
	standbys   string // number_sync_standbys; "" leaves it alone
}

// nodeFileKeys are the keys of a node's file with their defaults, in the order
// in which they are written.
func nodeFileKeys() []struct{ key, value string } {
	return []struct{ key, value string }{
		{"node.kind", "postgres"},
		{"node.name", ""},
		{"node.hostname", ""},
		{"node.port", "5432"},
		{"postgresql.pgdata", ""},
		{"monitor.pguri", ""},
		{"monitor.no_monitor", "false"},
		{"monitor.node_id", "0"},
		{"formation.name", defaultFormation},
		{"formation.group", "0"},
		{"settings.candidate_priority", "50"},
		{"settings.replication_quorum", "true"},
		{"settings.region", ""},
		{"options.ssl", "self-signed"},
		{"options.auth", "trust"},
		{"options.pg_hba_lan", "true"},
		{"options.debian_cluster", ""},
		{"ssl.ca_file", ""},
		{"ssl.cert_file", ""},
		{"ssl.key_file", ""},
		{"launch.create", "immediate"},
		{"launch.run", "immediate"},
		{"pg_auto_failover.autoctl_node_password", ""},
		{"pg_auto_failover.monitor_password", ""},
		{"replication.password", ""},
		{"citus.role", ""},
		{"citus.cluster_name", ""},
	}
}

// readNodeFile reads and checks a node's file.
func readNodeFile(path string) (nodeFile, error) {
	f := nodeFile{path: path, values: map[string]string{}}
	data, err := os.ReadFile(path) //nolint:gosec // the operator named it
	if err != nil {
		return f, withCode(exitBadConfig, err)
	}
	parsed, err := ini.Parse(string(data))
	if err != nil {
		return f, fail(exitBadConfig, "read node file %q: %w", path, err)
	}
	for _, k := range nodeFileKeys() {
		f.values[k.key] = k.value
	}
	for _, section := range parsed.Sections {
		if name, ok := strings.CutPrefix(section.Name, "formation "); ok {
			wish := formationWish{name: strings.Trim(name, ` "`), kind: "pgsql", secondary: true}
			for _, key := range section.Keys {
				if err := wish.set(key.Name, key.Value); err != nil {
					return f, fail(exitBadConfig, "read node file %q: section %q: %w", path, section.Name, err)
				}
			}
			f.formations = append(f.formations, wish)
			continue
		}
		for _, key := range section.Keys {
			name := section.Name + "." + key.Name
			if _, known := f.values[name]; !known {
				return f, fail(exitBadConfig, "read node file %q: unknown option %q", path, name)
			}
			f.values[name] = key.Value
		}
	}
	return f, f.check()
}

func (w *formationWish) set(key, value string) error {
	switch key {
	case "kind":
		w.kind = value
	case "secondary":
		v, err := parseBool(value)
		w.secondary = v
		return err
	case "num_sync_standbys":
		_, err := parseSyncStandbys(value)
		w.standbys = value
		return err
	default:
		return fmt.Errorf("unknown option %q", key)
	}
	return nil
}

// check refuses values that no creation would take.
func (f nodeFile) check() error {
	wrong := func(key, wanted string) error {
		return fail(exitBadConfig, "node file %q: %s is %q", f.path, key, f.values[key]).withHint("%s", wanted)
	}
	if !slices.Contains([]string{"monitor", "postgres", "coordinator", "worker"}, f.values["node.kind"]) {
		return wrong("node.kind", "the kinds are monitor, postgres, coordinator and worker")
	}
	if f.values["postgresql.pgdata"] == "" {
		return wrong("postgresql.pgdata", "it is the data directory, and has to be given")
	}
	if _, err := parsePort(f.values["node.port"]); err != nil {
		return wrong("node.port", "a port is an integer from 1 to 65535")
	}
	if _, err := parsePriority(f.values["settings.candidate_priority"]); err != nil {
		return wrong("settings.candidate_priority", "valid values are integers from 0 to 100")
	}
	for _, key := range []string{"monitor.no_monitor", "settings.replication_quorum", "options.pg_hba_lan"} {
		if _, err := parseBool(f.values[key]); err != nil {
			return wrong(key, "valid values are true and false")
		}
	}
	for _, key := range []string{"monitor.node_id", "formation.group"} {
		if v, err := strconv.Atoi(f.values[key]); err != nil || v < 0 {
			return wrong(key, "the value is a number")
		}
	}
	for _, key := range []string{"launch.create", "launch.run"} {
		if v := f.values[key]; v != "immediate" && v != "deferred" {
			return wrong(key, "valid values are immediate and deferred")
		}
	}
	if ssl := f.values["options.ssl"]; ssl != "self-signed" && ssl != "off" && !slices.Contains(sslModes(), ssl) {
		return wrong("options.ssl", "valid values are self-signed, off, and the modes of libpq")
	}
	if len(f.formations) > maxExtraFormations {
		return fail(exitBadConfig, "node file %q: %d formations, and at most %d are possible", f.path, len(f.formations), maxExtraFormations)
	}
	return nil
}

func (f nodeFile) is(key string) bool { v, err := parseBool(f.values[key]); return err == nil && v }

// createWords is the command line that makes the node.
func (f nodeFile) createWords(env *Env) ([]string, error) {
	v := f.values
	kind := v["node.kind"]
	words := []string{"create", kind, "--pgdata", v["postgresql.pgdata"], "--pgport", v["node.port"], "--auth", v["options.auth"]}
	add := func(option, value string) {
		if value != "" {
			words = append(words, option, value)
		}
	}
	add("--hostname", v["node.hostname"])
	ssl, err := f.sslWords(env)
	if err != nil {
		return nil, err
	}
	words = append(words, ssl...)
	if kind == "monitor" {
		for _, w := range f.formations {
			if w.kind == "pgsql" {
				add("--formation", w.name)
			}
		}
		return words, nil
	}
	add("--name", v["node.name"])
	if f.is("options.pg_hba_lan") {
		words = append(words, "--pg-hba-lan")
	}
	if f.is("monitor.no_monitor") {
		words = append(words, "--disable-monitor")
		add("--node-id", v["monitor.node_id"])
	} else {
		add("--monitor", v["monitor.pguri"])
	}
	add("--formation", v["formation.name"])
	add("--candidate-priority", v["settings.candidate_priority"])
	add("--replication-quorum", v["settings.replication_quorum"])
	if kind == "postgres" {
		add("--region", v["settings.region"])
	}
	if kind == "worker" && v["formation.group"] != "0" {
		add("--group", v["formation.group"])
	}
	if v["citus.role"] == "secondary" {
		words = append(words, "--citus-secondary")
	}
	add("--citus-cluster", v["citus.cluster_name"])
	return words, nil
}

// createEnv are the passwords of a creation, which no command line shows.
func (f nodeFile) createEnv() map[string]string {
	return map[string]string{
		"PG_AUTOCTL_NODE_PASSWORD":        f.values["pg_auto_failover.autoctl_node_password"],
		"PG_AUTOCTL_MONITOR_PASSWORD":     f.values["pg_auto_failover.monitor_password"],
		"PG_AUTOCTL_REPLICATION_PASSWORD": f.values["replication.password"],
	}
}

// sslWords are the options for encryption. The files are copied to where the
// server's user has them for itself.
func (f nodeFile) sslWords(env *Env) ([]string, error) {
	switch mode := f.values["options.ssl"]; mode {
	case "self-signed":
		return []string{"--ssl-self-signed"}, nil
	case "off":
		return []string{"--no-ssl"}, nil
	default:
		home := env.getenv("HOME")
		words := []string{"--ssl-mode", mode}
		for _, file := range []struct{ key, option, to string }{
			{"ssl.ca_file", "--ssl-ca-file", filepath.Join(home, ".postgresql", "root.crt")},
			{"ssl.cert_file", "--server-cert", filepath.Join(home, "server.crt")},
			{"ssl.key_file", "--server-key", filepath.Join(home, "server.key")},
		} {
			from := f.values[file.key]
			if from == "" {
				continue
			}
			if err := copyPrivate(from, file.to); err != nil {
				return nil, withCode(exitBadConfig, fmt.Errorf("copy %s: %w", file.key, err))
			}
			words = append(words, file.option, file.to)
		}
		return words, nil
	}
}

// copyPrivate copies a file for nobody but this user to read.
func copyPrivate(from, to string) error {
	data, err := os.ReadFile(from) //nolint:gosec // the operator named it
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(to+".new", data, 0o600); err != nil { //nolint:gosec // below the home directory
		return err
	}
	return os.Rename(to+".new", to)
}

// text is the file in full, defaults included.
func (f nodeFile) text() string {
	var b strings.Builder
	last := ""
	for _, k := range nodeFileKeys() {
		value := f.values[k.key]
		section, name, _ := strings.Cut(k.key, ".")
		if value == "" {
			continue
		}
		if section != last {
			if last != "" {
				b.WriteByte('\n')
			}
			fmt.Fprintf(&b, "[%s]\n", section)
			last = section
		}
		fmt.Fprintf(&b, "%s = %s\n", name, value)
	}
	for _, w := range f.formations {
		fmt.Fprintf(&b, "\n[formation %s]\nkind = %s\nsecondary = %t\n", w.name, w.kind, w.secondary)
		if w.standbys != "" {
			fmt.Fprintf(&b, "num_sync_standbys = %s\n", w.standbys)
		}
	}
	return b.String()
}

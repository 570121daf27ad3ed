package cli

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/ini"
	"github.com/pgdrover/pgdrover/internal/postgres"
)

func newConfigCmd(env *Env) *cobra.Command {
	return newSet("config", "Manage the configuration of a node",
		newConfigCheckCmd(env),
		newConfigGetCmd(env),
		newConfigSetCmd(env),
	)
}

// readConfig reads the configuration file as it stands.
func readConfig(path string) (ini.File, string, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the configuration file is where the operator says
	if err != nil {
		return ini.File{}, "", withCode(exitBadConfig, err)
	}
	file, err := ini.Parse(string(data))
	if err != nil {
		return ini.File{}, "", fail(exitBadConfig, "read configuration file %q: %w", path, err)
	}
	return file, string(data), nil
}

// numericKeys are the keys whose values are numbers in JSON.
func numericKeys() []string {
	return []string{
		"pg_autoctl.group", "postgresql.port", "postgresql.proxyport", "ssl.active",
	}
}

// configJSON is the configuration file as an object of sections.
func configJSON(n node) (object, error) {
	file, _, err := readConfig(n.config)
	if err != nil {
		return nil, err
	}
	var out object
	for _, section := range file.Sections {
		var members object
		for _, key := range section.Keys {
			path := section.Name + "." + key.Name
			number, err := strconv.ParseInt(key.Value, 10, 64)
			if err == nil && (section.Name == "timeout" || slices.Contains(numericKeys(), path)) {
				members = append(members, field{key.Name, number})
			} else {
				members = append(members, field{key.Name, key.Value})
			}
		}
		at := slices.IndexFunc(out, func(f field) bool { return f.key == section.Name })
		if at < 0 {
			out = append(out, field{section.Name, members})
			continue
		}
		out[at].value = append(out[at].value.(object), members...)
	}
	return out, nil
}

func newConfigGetCmd(env *Env) *cobra.Command {
	cmd := newWordsLeaf("get [ section.option ]", "Get the value of a configuration variable", func(cmd *cobra.Command, words []string) error {
		n, err := localNode(env, cmd)
		if err != nil {
			return err
		}
		if len(words) == 1 {
			value, err := n.configValue(words[0])
			if err != nil {
				return err
			}
			env.printf("%s\n", value)
			return nil
		}
		return printConfig(env, cmd, n, "\n")
	})
	pgdataFlag(cmd)
	return cmd
}

// configValue is the value of a known key as the file has it, "" when the file has none.
func (n node) configValue(key string) (string, error) {
	if err := n.knownKey(key); err != nil {
		return "", err
	}
	file, _, err := readConfig(n.config)
	if err != nil {
		return "", err
	}
	section, name, _ := strings.Cut(key, ".")
	value, _ := file.Get(section, name)
	return value, nil
}

// knownKey refuses a key that this role's configuration does not have.
func (n node) knownKey(key string) error {
	var err error
	if n.isMonitor() {
		_, err = n.monitor.Get(key)
	} else {
		_, err = n.keeper.Get(key)
	}
	if err != nil {
		return fail(exitBadArgs, "Unknown configuration option %q", key).
			withHint("options are written section.option; list them with: config get")
	}
	return nil
}

func newConfigSetCmd(env *Env) *cobra.Command {
	cmd := newWordsLeaf("set <section.option> <value>", "Set the value of a configuration variable", func(cmd *cobra.Command, words []string) error {
		n, err := localNode(env, cmd)
		if err != nil {
			return err
		}
		if err := setConfig(cmd.Context(), env, &n, words[0], words[1]); err != nil {
			return err
		}
		value, err := n.configValue(words[0])
		if err != nil {
			return err
		}
		env.printf("%s\n", value)
		return signalReload(env, n.site)
	})
	pgdataFlag(cmd)
	return cmd
}

// overlaps tells two directories of which one is the other, or lies in it, by
// whatever links they are named.
func overlaps(a, b string) bool {
	a, b = strings.TrimSuffix(resolved(a), "/")+"/", strings.TrimSuffix(resolved(b), "/")+"/"
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
}

// resolved is a path without links, as far as it exists.
func resolved(path string) string {
	path = filepath.Clean(path)
	if there, err := filepath.EvalSymlinks(path); err == nil {
		return there
	}
	if parent := filepath.Dir(path); parent != path {
		return filepath.Join(resolved(parent), filepath.Base(path))
	}
	return path
}

// setConfig changes one key; a value that is refused leaves the file as it was.
func setConfig(ctx context.Context, env *Env, n *node, key, value string) error {
	if err := n.knownKey(key); err != nil {
		return err
	}
	if key == "postgresql.pg_ctl" {
		if _, err := postgres.FindTools(ctx, postgres.FindConfig{PgCtl: value}); err != nil {
			return withCode(exitBadConfig, err)
		}
	}
	if key == "replication.backup_directory" && value != "" && overlaps(value, n.pgdata) {
		return fail(exitBadConfig, "%q can not be the backup directory: it is the data directory %q, holds it, or lies in it", value, n.pgdata).
			withHint("it is emptied before each copy: name a directory for nothing else, on the file system of the data directory")
	}
	if n.isMonitor() {
		if err := n.monitor.Set(key, value); err != nil {
			return withCode(exitBadConfig, err)
		}
		if err := n.monitor.Validate(); err != nil {
			return withCode(exitBadConfig, err)
		}
		return withCode(exitBadConfig, n.monitor.Save(n.config))
	}
	if err := n.keeper.Set(key, value); err != nil {
		return withCode(exitBadConfig, err)
	}
	if err := n.keeper.Validate(); err != nil {
		return withCode(exitBadConfig, err)
	}
	if (key == "pg_autoctl.name" || key == "pg_autoctl.hostname") && !n.monitorDisabled() && isFile(n.state) {
		if err := pushMetadata(ctx, env, n); err != nil {
			return err
		}
	}
	return withCode(exitBadConfig, n.keeper.Save(n.config))
}

func newConfigCheckCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("check", "Check the configuration of a node", func(cmd *cobra.Command, _ []string) error {
		n, err := localNode(env, cmd)
		if err != nil {
			return err
		}
		return checkConfig(cmd.Context(), env, cmd, n)
	})
	pgdataFlag(cmd)
	return cmd
}

func checkConfig(ctx context.Context, env *Env, cmd *cobra.Command, n node) error {
	server, err := inspectServer(ctx, n)
	if err != nil {
		return err
	}
	ok := true
	if !server.hasControl {
		ok = false
		env.errorf("File \"global/pg_control\" does not exist in %q: it is not a PostgreSQL data directory", n.pgdata)
	}
	if !server.up() {
		ok = false
		env.errorf("PostgreSQL is not running at %q", n.pgdata)
	}
	if !ok {
		return fail(exitBadConfig, "Failed to check the configuration at %q", n.config).
			withHint("start the service with: %s run --pgdata %s", env.program(), n.pgdata)
	}
	if err := checkLocalSettings(ctx, env, n); err != nil {
		return err
	}
	if !n.isMonitor() && !n.monitorDisabled() {
		s, err := openNodeMonitor(ctx, env, &n)
		if err != nil {
			return err
		}
		defer s.close(ctx)
	}
	if jsonWanted(cmd) {
		o, err := configJSON(n)
		if err != nil {
			return err
		}
		return writeJSON(env.Stdout, object{{"postgres", server.json()}, {"config", o}})
	}
	return server.text(env.Stdout)
}

// requiredSettings are what streaming replication under our care needs of the
// server; a number is a least value.
func requiredSettings() []struct {
	name   string
	least  int
	values []string
} {
	return []struct {
		name   string
		least  int
		values []string
	}{
		{"max_wal_senders", 12, nil},
		{"max_replication_slots", 12, nil},
		{"wal_level", 0, []string{"replica", "logical"}},
		{"wal_log_hints", 0, []string{"on"}},
	}
}

// qSetting reads one setting of the local server.
const qSetting = `SELECT pg_catalog.current_setting($1)`

// checkLocalSettings connects to the local server and warns of settings that replication needs otherwise.
func checkLocalSettings(ctx context.Context, env *Env, n node) error {
	err := n.instance(nil).With(ctx, func(s *postgres.Session) error {
		if n.isMonitor() {
			return nil
		}
		for _, want := range requiredSettings() {
			var value string
			if err := s.Conn().QueryRow(ctx, qSetting, want.name).Scan(&value); err != nil {
				return err
			}
			number, err := strconv.Atoi(value)
			fine := slices.Contains(want.values, value) || want.values == nil && err == nil && number >= want.least
			if !fine {
				env.warnf("Setting %s is %q, which replication may not work with", want.name, value)
			}
		}
		return nil
	})
	return withCode(exitPgSQL, err)
}

func newShowFileCmd(env *Env) *cobra.Command {
	cmd := newLeaf("file", "List the files of a node (config, state, pid)", func(cmd *cobra.Command, _ []string) error {
		return showFile(env, cmd)
	})
	pgdataFlag(cmd)
	f := cmd.Flags()
	f.BoolP("all", "a", false, "show all the files, which is the default")
	f.BoolP("config", "c", false, "show the configuration file")
	f.BoolP("state", "s", false, "show the state file")
	f.BoolP("init", "i", false, "show the init file")
	f.BoolP("pid", "p", false, "show the pid file")
	f.BoolP("contents", "C", false, "show what is in the file")
	return cmd
}

func showFile(env *Env, cmd *cobra.Command) error {
	n, err := localNode(env, cmd)
	if err != nil {
		return err
	}
	var chosen []string
	for _, name := range []string{"config", "state", "init", "pid"} {
		if on(cmd, name) {
			chosen = append(chosen, name)
		}
	}
	switch {
	case len(chosen) > 1:
		return misuse("Please choose one of the options --config, --state, --init and --pid")
	case len(chosen) == 0 || on(cmd, "all"):
		return listFiles(env, cmd, n)
	case n.isMonitor() && (chosen[0] == "state" || chosen[0] == "init"):
		return fail(exitBadArgs, "A monitor has no %s file", chosen[0])
	}
	path := map[string]string{"config": n.config, "state": n.state, "init": n.init, "pid": n.pid}[chosen[0]]
	if !on(cmd, "contents") {
		env.printf("%s\n", path)
		return nil
	}
	switch chosen[0] {
	case "config":
		return printConfig(env, cmd, n, "")
	case "state":
		return showStateContents(env, cmd, n)
	case "init":
		return showInitContents(env, n)
	}
	return showPIDContents(env, cmd, n)
}

func listFiles(env *Env, cmd *cobra.Command, n node) error {
	files := object{{"config", n.config}, {"state", n.state}, {"init", n.init}, {"pid", n.pid}}
	if n.isMonitor() {
		files = slices.DeleteFunc(files, func(f field) bool { return f.key == "init" })
	}
	if jsonWanted(cmd) {
		return writeJSON(env.Stdout, files)
	}
	t := &table{columns: []column{{title: "File", width: 7}, {title: "Path", width: 15, left: true, fixed: true}}}
	for _, f := range files {
		t.add(strings.ToUpper(f.key[:1])+f.key[1:], f.value.(string))
	}
	return t.write(env.Stdout)
}

// printConfig prints the configuration file, and end after its text.
func printConfig(env *Env, cmd *cobra.Command, n node, end string) error {
	if jsonWanted(cmd) {
		o, err := configJSON(n)
		if err != nil {
			return err
		}
		return writeJSON(env.Stdout, o)
	}
	_, content, err := readConfig(n.config)
	if err != nil {
		return err
	}
	env.printf("%s%s", content, end)
	return nil
}

func showPIDContents(env *Env, cmd *cobra.Command, n node) error {
	data, err := os.ReadFile(n.pid)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(exitInternal, "pid file %q does not exist: the service is not running", n.pid)
	case err != nil:
		return withCode(exitInternal, err)
	}
	if jsonWanted(cmd) {
		svc, err := findService(n.site)
		if err != nil {
			return err
		}
		return writeJSON(env.Stdout, svc.json(false))
	}
	env.printf("%s", data)
	return nil
}

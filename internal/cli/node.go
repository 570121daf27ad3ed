package cli

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/keeper"
	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// nodeFileVariable names the file that a running service follows.
const nodeFileVariable = "PG_AUTOCTL_NODESPEC"

func newNodeCmd(env *Env) *cobra.Command {
	return newSet("node", "Create and run a node as a file describes it",
		newNodeFileCmd(env, "run [ node file ]", "Create the node if need be, and run its service", runNodeFile),
		newNodeFileCmd(env, "init [ node file ]", "Create the node if need be", initNodeFile),
		newNodeFileCmd(env, "apply <node file>", "Apply the settings of a node file that can change", applyNodeFile),
		newNodeFileCmd(env, "start [ node file ]", "Let a node begin whose file says that it is deferred", startNodeFile),
		newNodeShowCmd(env),
		newNodeFileCmd(env, "check <node file>", "Check a node file", func(_ context.Context, env *Env, f nodeFile) error {
			env.printf("Node spec \"%s\" is valid.\n\n%s", f.path, f.shown())
			return nil
		}),
		newNodeFileCmd(env, "post-init [ node file ]", "Create the formations of a monitor's file", applyNodeFile),
	)
}

// newNodeFileCmd builds a command about a node file: the word that is given, or the usual one.
func newNodeFileCmd(env *Env, use, short string, do func(ctx context.Context, env *Env, f nodeFile) error) *cobra.Command {
	return newWordsLeaf(use, short, func(cmd *cobra.Command, words []string) error {
		path := orDefault(env.getenv(nodeFileVariable), defaultNodeFile)
		if len(words) == 1 {
			path = words[0]
		}
		f, err := readNodeFile(path)
		if err != nil {
			return err
		}
		return do(cmd.Context(), env, f)
	})
}

// command runs another command line in this process.
func (e *Env) command(ctx context.Context, more map[string]string, words ...string) int {
	child := *e
	child.Args = words
	child.Getenv = func(name string) (string, bool) {
		if value := more[name]; value != "" {
			return value, true
		}
		return e.lookupenv(name)
	}
	return Main(ctx, child)
}

// shown is the file without its passwords.
func (f nodeFile) shown() string {
	hidden := nodeFile{values: map[string]string{}, formations: f.formations}
	for key, value := range f.values {
		if strings.HasSuffix(key, "password") && value != "" {
			value = "****"
		}
		hidden.values[key] = value
	}
	return hidden.text()
}

func initNodeFile(ctx context.Context, env *Env, f nodeFile) error {
	s, err := siteOf(env, f.values["postgresql.pgdata"])
	if err != nil {
		return err
	}
	if isFile(s.config) && !isFile(s.init) {
		env.infof("The node at %q has been created already", s.pgdata)
		return nil
	}
	words, err := f.createWords(env)
	if err != nil {
		return err
	}
	if code := env.command(ctx, f.createEnv(), words...); code != exitOK {
		return quit(code)
	}
	return nil
}

// awaitLaunch waits until a file does not defer a part any more.
func awaitLaunch(ctx context.Context, env *Env, f nodeFile, key string) (nodeFile, error) {
	for told := false; f.values[key] == "deferred"; told = true {
		if !told {
			env.infof("%s is deferred in %q: waiting for `%s node start`", key, f.path, env.program())
		}
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return f, err
		}
		next, err := readNodeFile(f.path)
		if err != nil {
			env.warnf("%s", err) // it may be half written
			continue
		}
		f = next
	}
	return f, nil
}

func runNodeFile(ctx context.Context, env *Env, f nodeFile) error {
	f, err := awaitLaunch(ctx, env, f, "launch.create")
	if err != nil {
		return err
	}
	if err := testDelay(ctx, env); err != nil {
		return err
	}
	if err := initNodeFile(ctx, env, f); err != nil || ctx.Err() != nil {
		return err
	}
	if f, err = awaitLaunch(ctx, env, f, "launch.run"); err != nil {
		return err
	}
	env.Environ = append(env.Environ, nodeFileVariable+"="+f.path)
	code := env.command(ctx, map[string]string{nodeFileVariable: f.path}, "run", "--pgdata", f.values["postgresql.pgdata"])
	if code != exitOK {
		return quit(code)
	}
	return nil
}

// testDelay waits before a node is created, for tests that need several to be
// created one after the other: twice the number of seconds that is asked for.
func testDelay(ctx context.Context, env *Env) error {
	const variable = "PG_AUTOCTL_TEST_DELAY"
	value := env.getenv(variable)
	if value == "" {
		return nil
	}
	seconds, err := parseInt(value, 3600)
	if err != nil {
		return fatal(exitBadArgs, "environment variable %s: %w", variable, err)
	}
	return sleep(ctx, 2*time.Duration(seconds)*time.Second)
}

// startNodeFile rewrites a file without its deferrals.
func startNodeFile(_ context.Context, env *Env, f nodeFile) error {
	if f.values["launch.create"] == "immediate" && f.values["launch.run"] == "immediate" {
		env.infof("Nothing is deferred in %q", f.path)
		return nil
	}
	f.values["launch.create"], f.values["launch.run"] = "immediate", "immediate"
	info, err := os.Stat(f.path)
	if err != nil {
		return withCode(exitBadConfig, err)
	}
	if err := os.WriteFile(f.path+".new", []byte(f.text()), info.Mode().Perm()); err != nil {
		return withCode(exitBadConfig, err)
	}
	return withCode(exitBadConfig, os.Rename(f.path+".new", f.path))
}

// applyNodeFile tells the monitor what the file says and may change, as far as
// it is not so already: a node's settings, a monitor's formations. All are
// tried; the first failure is the answer.
func applyNodeFile(ctx context.Context, env *Env, f nodeFile) error {
	lines, err := f.changes(ctx, env)
	if err != nil {
		return err
	}
	if len(lines) == 0 {
		env.infof("Everything is as %q says", f.path)
		return nil
	}
	first := exitOK
	for _, words := range lines {
		if code := env.command(ctx, nil, words...); code != exitOK && first == exitOK {
			first = code
		}
	}
	if first != exitOK {
		return quit(first)
	}
	return nil
}

// changes are the command lines that bring a node to what its file says.
func (f nodeFile) changes(ctx context.Context, env *Env) ([][]string, error) {
	if f.values["node.kind"] != roleMonitor && f.is("monitor.no_monitor") {
		return nil, nil
	}
	s, err := siteOf(env, f.values["postgresql.pgdata"])
	if err != nil {
		return nil, err
	}
	n, err := readNode(env, s)
	if err != nil {
		return nil, err
	}
	m, err := openNodeMonitor(ctx, env, &n)
	if err != nil {
		return nil, err
	}
	defer m.close(ctx)
	if !n.isMonitor() {
		row, err := m.db.NodeByName(ctx, n.keeper.Formation, n.keeper.Name)
		if err != nil {
			return nil, unknownNode(err, n.keeper.Formation, n.keeper.Name)
		}
		return f.nodeChanges(row), nil
	}
	formations, err := m.db.Formations(ctx)
	if err != nil {
		return nil, withCode(exitMonitor, err)
	}
	return f.formationChanges(formations), nil
}

// nodeChanges are the settings of a node that the file has otherwise.
func (f nodeFile) nodeChanges(is pgautofailover.NodeRow) [][]string {
	var lines [][]string
	set := func(property, value string) {
		lines = append(lines, []string{"set", "node", property, "--pgdata", f.values["postgresql.pgdata"], "--", value})
	}
	if v, err := parsePriority(f.values["settings.candidate_priority"]); err == nil && v != is.Priority {
		set("candidate-priority", strconv.Itoa(v))
	}
	if v := f.is("settings.replication_quorum"); v != is.Quorum {
		set("replication-quorum", strconv.FormatBool(v))
	}
	if v := f.values["settings.region"]; v != "" && v != is.Region {
		set("region", v)
	}
	return lines
}

// formationChanges are the formations that the file has otherwise.
func (f nodeFile) formationChanges(are []pgautofailover.Formation) [][]string {
	known := map[string]pgautofailover.Formation{}
	for _, one := range are {
		known[one.ID] = one
	}
	pgdata := f.values["postgresql.pgdata"]
	var lines [][]string
	for _, w := range f.formations {
		is, there := known[w.name]
		if !there {
			lines = append(lines, []string{"create", "formation", "--pgdata", pgdata, "--formation", w.name, "--kind", w.kind})
			is.OptSecondary = true
		}
		if w.secondary != is.OptSecondary {
			verb := map[bool]string{true: "enable", false: "disable"}[w.secondary]
			lines = append(lines, []string{verb, "secondary", "--pgdata", pgdata, "--formation", w.name})
		}
		if w.standbys != "" && w.standbys != strconv.Itoa(is.NumberSyncStandbys) {
			lines = append(lines, []string{"set", "formation", "number-sync-standbys", "--pgdata", pgdata, "--formation", w.name, "--", w.standbys})
		}
	}
	return lines
}

// followNodeFile applies a node's file whenever it has changed, until ctx ends,
// and first as it is for a monitor, whose formations can't be made before.
func followNodeFile(ctx context.Context, env *Env, first bool) {
	path := env.getenv(nodeFileVariable)
	if path == "" {
		return
	}
	before, err := os.ReadFile(path) //nolint:gosec // the operator named it
	if err != nil {
		env.warnf("follow the node file: %s", err)
	}
	if first {
		before = nil
	}
	for sleep(ctx, time.Second) == nil {
		now, err := os.ReadFile(path) //nolint:gosec // the operator named it
		if err != nil || bytes.Equal(before, now) {
			continue
		}
		f, err := readNodeFile(path)
		if err != nil {
			env.warnf("%s", err)
			before = now
			continue
		}
		env.infof("The node file %q has changed: applying it", path)
		if applyNodeFile(ctx, env, f) == nil {
			before = now
		}
	}
}

func newNodeShowCmd(env *Env) *cobra.Command {
	cmd := newMixedLeaf("show", "Print the node file that describes a node", func(cmd *cobra.Command, _ []string) error {
		n, err := localNode(env, cmd)
		if err != nil {
			return err
		}
		env.printf("%s", describe(cmd.Context(), env, n).shown())
		return nil
	})
	pgdataFlag(cmd)
	return cmd
}

// describe writes down what a node is: from its configuration, and from its
// monitor when that answers.
func describe(ctx context.Context, env *Env, n node) nodeFile {
	f := nodeFile{values: map[string]string{}}
	for _, k := range nodeFileKeys() {
		f.values[k.key] = k.value
	}
	v := f.values
	v["postgresql.pgdata"], v["node.port"] = n.pgdata, strconv.Itoa(n.pgPort())
	if n.isMonitor() {
		m := n.monitor
		v["node.kind"], v["node.hostname"], v["options.auth"] = "monitor", m.Hostname, m.AuthMethod
		v["pg_auto_failover.autoctl_node_password"] = m.NodePassword
		f.describeSSL(n.pgdata, m.SSL.Active, m.SSL.Mode, m.SSL.CAFile, m.SSL.CertFile, m.SSL.KeyFile)
		return f
	}
	k := n.keeper
	if k.NodeKind != "standalone" {
		v["node.kind"] = k.NodeKind
	}
	v["node.name"], v["node.hostname"], v["options.auth"] = k.Name, k.Hostname, k.AuthMethod
	v["formation.name"], v["formation.group"] = k.Formation, strconv.Itoa(max(0, k.Group))
	v["options.pg_hba_lan"] = strconv.FormatBool(k.HBALevel == "app")
	v["pg_auto_failover.monitor_password"], v["replication.password"] = k.MonitorPassword, k.ReplicationPassword
	v["citus.cluster_name"] = k.CitusClusterName
	if k.CitusRole == "secondary" {
		v["citus.role"] = k.CitusRole
	}
	f.describeSSL(n.pgdata, k.SSL.Active, k.SSL.Mode, k.SSL.CAFile, k.SSL.CertFile, k.SSL.KeyFile)
	if k.Monitor == keeper.MonitorDisabled {
		v["monitor.no_monitor"] = "true"
		if st, err := n.keeperState(); err == nil {
			v["monitor.node_id"] = strconv.Itoa(int(st.NodeID))
		}
		return f
	}
	v["monitor.pguri"] = k.Monitor
	f.describeSettings(ctx, env, n)
	return f
}

// describeSSL tells the three ways to encrypt apart.
func (f nodeFile) describeSSL(pgdata string, active bool, mode, ca, cert, key string) {
	switch {
	case !active:
		f.values["options.ssl"] = "off"
	case strings.HasPrefix(cert, pgdata+"/"):
	default:
		f.values["options.ssl"] = mode
		f.values["ssl.ca_file"], f.values["ssl.cert_file"], f.values["ssl.key_file"] = ca, cert, key
	}
}

// describeSettings asks the monitor for what only it knows.
func (f nodeFile) describeSettings(ctx context.Context, env *Env, n node) {
	s, err := openNodeMonitor(ctx, env, &n)
	if err != nil {
		env.warnf("%s: the settings shown are the defaults", err)
		return
	}
	defer s.close(ctx)
	row, err := s.db.NodeByName(ctx, n.keeper.Formation, n.keeper.Name)
	if err != nil {
		env.warnf("%s: the settings shown are the defaults", err)
		return
	}
	f.values["settings.candidate_priority"] = strconv.Itoa(row.Priority)
	f.values["settings.replication_quorum"] = strconv.FormatBool(row.Quorum)
	f.values["settings.region"] = row.Region
}

package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// valued are the options of a command that take a value.
func valued(cmd *cobra.Command) []*pflag.Flag {
	var all []*pflag.Flag
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.NoOptDefVal == "" && !isCommon(f.Name) {
			all = append(all, f)
		}
	})
	return all
}

// leaves are the commands that do something, by the words that lead there.
func leaves(root *cobra.Command) map[string]*cobra.Command {
	all := map[string]*cobra.Command{}
	walk(root, "", func(path string, cmd *cobra.Command) {
		if cmd.RunE != nil {
			all[strings.TrimSpace(path)] = cmd
		}
	})
	return all
}

// TestMissingValues: every option that takes a value says so when there is
// none, in either form; every option is found by each prefix that is its own,
// and a prefix of two is refused.
func TestMissingValues(t *testing.T) {
	t.Parallel()
	for _, program := range []string{nameDrover, nameAutoctl} {
		for path, cmd := range leaves(treeOf(program)) {
			flags := cmd.Flags()
			flags.VisitAll(func(f *pflag.Flag) {
				for n := 1; n <= len(f.Name); n++ {
					prefix, rivals := f.Name[:n], 0
					flags.VisitAll(func(other *pflag.Flag) {
						if strings.HasPrefix(other.Name, prefix) {
							rivals++
						}
					})
					found, err := findLong(flags, prefix)
					if n == len(f.Name) || rivals == 1 {
						require.NoError(t, err, "%s --%s", path, prefix)
						require.Equal(t, f.Name, found.Name, path)
					} else if flags.Lookup(prefix) == nil {
						require.ErrorContains(t, err, "option '--"+prefix+"' is ambiguous", path)
					}
				}
			})
			for _, f := range valued(cmd) {
				_, err := getopt(program, flags, []string{"--" + f.Name}, false)
				require.EqualError(t, err, fmt.Sprintf("%s: option '--%s' requires an argument", program, f.Name), path)
				if f.Shorthand == "" {
					continue
				}
				_, err = getopt(program, flags, []string{"-v" + f.Shorthand}, false)
				require.EqualError(t, err, fmt.Sprintf("%s: option requires an argument -- '%s'", program, f.Shorthand), path)
			}
		}
	}
}

// TestCompletions: a shell is told of every command and of every option.
func TestCompletions(t *testing.T) {
	t.Parallel()
	for _, program := range []string{nameDrover, nameAutoctl} {
		walk(treeOf(program), "", func(path string, cmd *cobra.Command) {
			if cmd.HasParent() && cmd.Parent().HasParent() && !cmd.HasSubCommands() {
				return // looked at with its set, but for its options
			}
			for _, sub := range visible(cmd) {
				require.Contains(t, completions(t, program, append(strings.Fields(path), "")), sub.Name()+"\t", "%s %s", program, path)
			}
		})
		if program == nameAutoctl {
			continue // the same commands
		}
		for path, cmd := range leaves(treeOf(program)) {
			if strings.HasPrefix(path, "do ") || strings.HasPrefix(path, "spock") {
				continue // the same as under their newer names; one set of many alike
			}
			told := completions(t, program, append(strings.Fields(path), "--"))
			for _, f := range options(cmd) {
				require.Contains(t, told, "--"+f.Name+"\t", "%s %s", program, path)
			}
		}
	}
}

// completions asks as the script does that a shell reads.
func completions(t *testing.T, program string, words []string) string {
	t.Helper()
	var out, complaints strings.Builder
	code := Main(t.Context(), Env{Name: program, Args: append([]string{cobra.ShellCompRequestCmd}, words...), Stdout: &out, Stderr: &complaints})
	require.Zero(t, code, "%v: %s", words, complaints.String())
	return out.String()
}

// TestTexts: what may be a host, a method, a name and a port, and what may not.
func TestTexts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"db1": true, "db1.example.org": true, "db_1": true, "10.0.0.1": true, "::1": true, "fe80::1%eth0": true, "хост": true,
		"": false, "two words": false, "a,b": false, "db1:5432": false, "postgres://db1": false, "a\nb": false, "a'b": false, "10.0.0.0/8": false,
	} {
		require.Equal(t, want, isHostname(text), "host %q", text)
	}
	for text, want := range map[string]bool{
		"trust": true, "scram-sha-256": true, "cert map=pgautofailover": true, "ldap ldapserver=l ldapport=389": true,
		"": false, "nonsense": false, "trust\nhost": false, "trust trust": false, "md5 # no": false,
	} {
		require.Equal(t, want, isAuthMethod(text), "method %q", text)
	}
	for text, want := range map[string]bool{"app": true, "two words": true, "": false, "pg_monitor": false, strings.Repeat("x", 64): false} {
		require.Equal(t, want, isRoleName(text), "role %q", text)
	}
	for text, want := range map[string]bool{"1": true, "65535": true, "": false, "0": false, "-1": false, "70000": false, "5432x": false, "port": false} {
		_, err := parsePort(text)
		require.Equal(t, want, err == nil, "port %q", text)
	}
}

// wrong is what an option may not be.
type wrong struct {
	values []string
	// any says why there is no wrong value.
	any string
}

func values(v ...string) wrong  { return wrong{values: v} }
func anything(why string) wrong { return wrong{any: why} }
func (w wrong) known() bool     { return len(w.values) > 0 || w.any != "" }
func isCreation(path string) bool {
	return strings.HasPrefix(path, "create ") && path != "create formation"
}

// wrongValues answers what an option of a command must refuse. Every option that
// takes a value has to be here.
func wrongValues(path, option string) wrong {
	const text = "any text will do"
	if path == "drop monitor" && option != "pgdata" {
		return anything("accepted as for a node, and without a meaning")
	}
	switch path + " " + option {
	case "create monitor formation":
		return values("")
	case "create formation formation":
		return values("", "default")
	case "create worker group":
		return values("many", "0", "-1")
	case "show systemd pgdata":
		return values("/nowhere/at/all")
	case "reload pgdata":
		return anything("where nothing runs there is nothing to signal")
	case "create coordinator formation", "create worker formation":
		return anything("looked at when everything else is right, as for postgres")
	case "get formation settings name", "get formation number-sync-standbys name", "set formation number-sync-standbys name", "show settings name":
		return anything("accepted, and without a meaning")
	case "show uri citus-cluster":
		return anything("a cluster without nodes is empty")
	case "show state count", "perform failover wait", "perform switchover wait", "perform promotion wait", "drop node wait":
		return values("many")
	case "get node candidate-priority formation", "get node replication-quorum formation", "get node region formation":
		return values("nowhere")
	case "demo pgctl", "demo directory", "demo stay", "demo warmup", "demo nodes", "demo failure", "demo port":
		return map[string]wrong{
			"pgctl": values("/nonexistent/pg_ctl"), "directory": anything("looked at when it begins"), "stay": values("long", "5"), "warmup": values("long"),
			"nodes": values("many", "1", "10"), "failure": values("rain"), "port": values("high"),
		}[option]
	}
	switch option {
	case "pgdata":
		if isCreation(path) {
			return values("/proc/1")
		}
		return values("/nowhere/at/all")
	case "monitor":
		return values("nonsense", "postgres://:x", "host=h port=high")
	case "formation":
		return values("nowhere")
	case "group":
		return values("many")
	case "pgport", "proxyport":
		return values("port", "70000")
	case "ssl-mode":
		return values("sometimes")
	case "ssl-ca-file", "ssl-crl-file", "server-cert", "server-key":
		return values("/nowhere/at/all.pem")
	case "pgctl":
		return values("/nonexistent/pg_ctl")
	case "hostname":
		return values("", "two words")
	case "auth":
		return values("nonsense", "trust\nhost")
	case "wait", "timeout", "tli":
		return values("soon")
	case "count":
		return values("many", "-1")
	case "pghost":
		return values("/proc/1")
	case "listen":
		return values("192.0.2.1", "no such host")
	case "candidate-priority":
		return values("high", "101", "-1")
	case "replication-quorum":
		return values("maybe")
	case "number-sync-standbys":
		return values("many", "-1")
	case "node-id":
		return values("first", "0", "-1")
	case "maximum-backup-rate":
		return values("fast", "1k", "2000M", "-1")
	case "kind":
		return values("tree")
	case "name":
		if isCreation(path) || path == "run" || path == "set node metadata" {
			return anything(text)
		}
		return values("nobody")
	case "dbname":
		return values(strings.Repeat("x", 64))
	case "username":
		return values(strings.Repeat("x", 64), "pg_monitor")
	case "region", "reason", "citus-cluster":
		return anything(text)
	case "monitor-password", "replication-password", "autoctl-node-password":
		return anything("whoever checks it is another server")
	}
	return wrong{}
}

// otherOptions are options that leave a command nothing to complain about but
// the one that is wrong; words are what must follow.
func otherOptions(ts *testscript.TestScript, path string, cmd *cobra.Command) (given map[string]string, flags, words []string) {
	v := ts.Getenv
	given = map[string]string{}
	switch {
	case path == "demo":
		return given, nil, nil
	case path == "create formation":
		given["formation"], given["kind"], given["monitor"] = "another", "pgsql", v("MONITOR")
		return given, nil, nil
	case isCreation(path):
		given["pgdata"], given["pgport"], given["hostname"] = v("DATA")+"/new", v("PORT2"), "localhost"
		given["auth"], given["pgctl"], given["pghost"] = "trust", v("PGCTL"), v("DATA")
		flags = []string{"--no-ssl"}
		if path != "create monitor" {
			given["monitor"] = v("MONITOR")
		}
		return given, flags, nil
	case path == "run" || path == "set node metadata":
		given["pgdata"] = v("DATA") + "/alone"
	case path == "drop node":
		given["pgdata"], given["name"] = v("DATA")+"/m", "nobody"
	case cmd.Flags().Lookup("monitor") != nil:
		given["monitor"] = v("MONITOR")
	case cmd.Flags().Lookup("pgdata") != nil:
		given["pgdata"] = v("DATA") + "/a"
	}
	if cmd.Flags().Lookup("name") != nil && given["monitor"] != "" {
		given["name"] = "a"
	}
	if cmd.Flags().Lookup("tli") != nil {
		given["tli"] = "1"
	}
	switch path {
	case "enable ssl":
		flags = []string{"--no-ssl"}
	case "enable secondary", "disable secondary", "drop formation":
		given["formation"] = "default"
	case "set node metadata":
		given["name"] = "another"
	}
	fixed := map[string][]string{
		"set node candidate-priority": {"50"}, "set node replication-quorum": {"true"}, "set node region": {"here"},
		"set formation number-sync-standbys": {"0"}, "config set": {"pg_autoctl.name", "a"}, "enable monitor": {v("MONITOR")},
	}
	if words, ok := fixed[path]; ok {
		return given, flags, words
	}
	for range strings.Count(cmd.Use, "<") {
		words = append(words, "single")
	}
	return given, flags, words
}

// commandBadOptions gives every option of every command that takes a value one
// that is wrong, on a group that is in use. Each must be refused in words that
// name the option or its value, with an exit code that is not for surprises.
func commandBadOptions(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: badoptions")
	}
	all := leaves(treeOf(nameAutoctl))
	all["demo"] = leaves(treeOf(nameDrover))["demo"]
	var paths, complaints []string
	for path := range all {
		if !strings.HasPrefix(path, "do ") { // an older name of another command
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	tried := 0
	for _, path := range paths {
		for _, f := range valued(all[path]) {
			w := wrongValues(path, f.Name)
			if !w.known() {
				complaints = append(complaints, fmt.Sprintf("%s --%s: nobody has said what is wrong", path, f.Name))
			}
			for _, value := range w.values {
				tried++
				line, code, said := tryOption(ts, path, all[path], f.Name, value)
				ts.Logf("%s: %d %s", strings.Join(line, " "), code, said)
				switch {
				case !slices.Contains([]int{exitBadArgs, exitBadConfig, exitBadState, exitPgSQL, exitPgCtl, exitMonitor, exitInternal}, code),
					code == exitInternal && path != "show systemd" && path != "stop":
					complaints = append(complaints, fmt.Sprintf("%q: exit code %d: %s", line, code, said))
				case !names(said, f.Name, value):
					complaints = append(complaints, fmt.Sprintf("%q: it does not say what is wrong: %s", line, said))
				}
			}
		}
	}
	ts.Logf("%d values tried", tried)
	if len(complaints) > 0 {
		ts.Fatalf("%s", strings.Join(complaints, "\n"))
	}
}

// names tells whether a sentence names an option, or the value that it has.
func names(said, option, value string) bool {
	for _, word := range []string{"--" + option, strings.ReplaceAll(option, "-", " "), value, strconv.Quote(value)} {
		if word != "" && strings.Contains(said, word) {
			return true
		}
	}
	return option == "monitor" && strings.Contains(said, "monitor URI")
}

// tryOption runs a command with one option that is wrong, and answers what it
// said first.
func tryOption(ts *testscript.TestScript, path string, cmd *cobra.Command, option, value string) (line []string, code int, said string) {
	given, flags, words := otherOptions(ts, path, cmd)
	switch {
	case option == "pgdata":
		delete(given, "monitor")
		if path != "set node metadata" {
			delete(given, "name")
		}
		if isCreation(path) && path != "create monitor" {
			given["monitor"] = ts.Getenv("MONITOR")
		}
	case option == "hostname" && path == "drop node":
		delete(given, "name")
		given["pgport"] = ts.Getenv("PORT3")
	case option == "pgport" && path == "drop node":
		delete(given, "name")
		given["hostname"] = "localhost"
	case option == "node-id":
		delete(given, "monitor")
		flags = append(flags, "--disable-monitor")
	case strings.HasPrefix(option, "ssl-") && option != "ssl-mode", strings.HasPrefix(option, "server-"):
		flags = nil
		for _, file := range []string{"ssl-ca-file", "server-cert", "server-key"} {
			given[file] = ts.MkAbs("alone.cfg")
		}
	case option == "formation" && path != "drop node":
		delete(given, "tli")
		if cmd.Flags().Lookup("tli") != nil {
			given["tli"] = "1"
		}
	}
	given[option] = value
	line = strings.Fields(path)
	var names []string
	for name := range given {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		line = append(line, "--"+name+"="+given[name])
	}
	line = append(line, flags...)
	if len(words) > 0 {
		line = append(append(line, "--"), words...)
	}
	if _, mixed := cmd.Annotations[anyOrder]; !mixed && len(words) > 0 {
		line = slices.DeleteFunc(line, func(w string) bool { return w == "--" })
	}
	var out, errs strings.Builder
	ctx, cancel := context.WithTimeout(context.Background(), commandPatience)
	defer cancel()
	program := nameAutoctl
	if path == "demo" {
		program = nameDrover
	}
	code = Main(ctx, Env{
		Name: program, Args: line, Version: "1.2.3", Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs,
		Getenv:  func(name string) (string, bool) { v := ts.Getenv(name); return v, v != "" },
		Environ: os.Environ(), Executable: os.Args[0], PID: os.Getpid(), EUID: os.Geteuid(),
	})
	for text := range strings.Lines(errs.String()) {
		if strings.Contains(text, "ERROR ") || strings.Contains(text, "FATAL ") || said == "" && !strings.Contains(text, "INFO ") && !strings.Contains(text, "WARN ") {
			if !strings.Contains(text, "HINT: ") && !strings.Contains(text, "PG_AUTOCTL_MONITOR is not set") {
				_, said, _ = strings.Cut(strings.TrimSpace(text), " ")
				break
			}
		}
	}
	return line, code, said
}

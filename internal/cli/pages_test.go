package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

const pagesDir = "../../docs/commands"

// treeOf is the tree of a name, as help shows it.
func treeOf(name string) *cobra.Command {
	env := &Env{Name: name}
	env.prepare()
	return newRootCmd(env)
}

// TestCommandPages keeps the manual's command pages equal to the command tree.
func TestCommandPages(t *testing.T) {
	t.Parallel()
	pages := commandPages(treeOf(nameDrover))
	if *rewrite {
		require.NoError(t, os.RemoveAll(pagesDir))
		require.NoError(t, os.MkdirAll(pagesDir, 0o755))
		for name, text := range pages {
			require.NoError(t, os.WriteFile(filepath.Join(pagesDir, name), []byte(text), 0o644))
		}
	}
	entries, err := os.ReadDir(pagesDir)
	require.NoError(t, err)
	require.Len(t, entries, len(pages), "run make docs")
	for name, text := range pages {
		page, err := os.ReadFile(filepath.Join(pagesDir, name))
		require.NoError(t, err)
		require.Equal(t, text, string(page), "docs/commands/%s is not what the code says: run make docs", name)
	}
}

// TestSurface compares every command and option with the list that was agreed
// on: a change of it is a change for every script out there.
func TestSurface(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for _, name := range []string{nameDrover, nameAutoctl} {
		surface(&b, name, treeOf(name))
	}
	const path = "testdata/surface.txt"
	if *rewrite {
		require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), b.String(), "the command line changed: if that is meant, run make docs")
}

// TestTree holds every command to the house's manners.
func TestTree(t *testing.T) {
	t.Parallel()
	walk(treeOf(nameDrover), nameDrover, func(path string, cmd *cobra.Command) {
		require.NotEmpty(t, cmd.Short, path)
		require.False(t, strings.HasSuffix(cmd.Short, "."), path)
		for _, common := range []string{"help", "verbose", "quiet", "version", "json"} {
			require.NotNil(t, cmd.Flags().Lookup(common), "%s --%s", path, common)
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) { require.NotEmpty(t, f.Usage, "%s --%s", path, f.Name) })
		require.True(t, cmd.HasSubCommands() || cmd.RunE != nil, path)
	})
}

func walk(cmd *cobra.Command, path string, visit func(string, *cobra.Command)) {
	visit(path, cmd)
	for _, c := range cmd.Commands() {
		walk(c, path+" "+c.Name(), visit)
	}
}

// surface writes one line for each command and each of its own options.
func surface(b *strings.Builder, path string, root *cobra.Command) {
	walk(root, path, func(path string, cmd *cobra.Command) {
		if cmd.RunE == nil {
			return
		}
		order := "posix"
		if _, ok := cmd.Annotations[anyOrder]; ok {
			order = "any"
		}
		fmt.Fprintf(b, "%s (%s order)\n", path, order)
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if isCommon(f.Name) {
				return
			}
			fmt.Fprintf(b, "    --%s", f.Name)
			if f.Shorthand != "" {
				fmt.Fprintf(b, " -%s", f.Shorthand)
			}
			fmt.Fprintf(b, " %s", f.Value.Type())
			if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
				fmt.Fprintf(b, " = %s", f.DefValue)
			}
			b.WriteByte('\n')
		})
	})
}

// commandPages renders one page for each command of the first level, and a list of them.
func commandPages(root *cobra.Command) map[string]string {
	pages := map[string]string{}
	var index strings.Builder
	index.WriteString("# Commands\n\nGenerated from the program; `pgdrover help` prints the same list. Called as `pg_autoctl` the program answers to the\n" +
		"same commands except `demo`, `completion` and what is about multi-master replication. Every command also takes `--help`, `--verbose` (repeatable), `--quiet`, `--version` and `--json`.\n\n")
	for _, cmd := range visible(root) {
		file := cmd.Name() + ".md"
		fmt.Fprintf(&index, "- [%s](%s): %s\n", cmd.Name(), file, cmd.Short)
		var b strings.Builder
		page(&b, nameDrover+" "+cmd.Name(), cmd)
		pages[file] = b.String()
	}
	index.WriteString(environmentPage)
	pages["README.md"] = index.String()
	return pages
}

func page(b *strings.Builder, path string, cmd *cobra.Command) {
	fmt.Fprintf(b, "# %s\n\n%s.\n", path, cmd.Short)
	if cmd.RunE != nil {
		section(b, path, cmd)
	}
	for _, c := range visible(cmd) {
		subpage(b, path+" "+c.Name(), c)
	}
}

func subpage(b *strings.Builder, path string, cmd *cobra.Command) {
	fmt.Fprintf(b, "\n## %s\n\n%s.\n", path, cmd.Short)
	if cmd.RunE != nil {
		section(b, path, cmd)
	}
	for _, c := range visible(cmd) {
		subpage(b, path+" "+c.Name(), c)
	}
}

// section shows how to call a command, and its own options.
func section(b *strings.Builder, path string, cmd *cobra.Command) {
	fmt.Fprintf(b, "\n```\n%s %s\n```\n", path, usageSuffix(cmd))
	var rows strings.Builder
	for _, f := range options(cmd) {
		if isCommon(f.Name) {
			continue
		}
		arg, text := pflag.UnquoteUsage(f)
		name := "`--" + f.Name
		if f.NoOptDefVal == "" && arg != "" {
			name += " <" + arg + ">"
		}
		name += "`"
		if f.Shorthand != "" {
			name += ", `-" + f.Shorthand + "`"
		}
		fmt.Fprintf(&rows, "| %s | %s |\n", name, strings.ReplaceAll(text, "|", "\\|"))
	}
	if rows.Len() > 0 {
		fmt.Fprintf(b, "\n| Option | Meaning |\n|---|---|\n%s", rows.String())
	}
}

// environmentPage is what all commands have in common.
const environmentPage = `
## Which node, which monitor

A command that is about a local node takes its data directory from ` + "`--pgdata`, else from `PGDATA`" + `. A command that only needs the
monitor takes its URI from ` + "`--monitor`, else from `PG_AUTOCTL_MONITOR`" + `, else from the configuration of the data directory.

## Environment

| Variable | Meaning |
|---|---|
| ` + "`PGDATA`" + ` | default of ` + "`--pgdata`" + ` |
| ` + "`PG_AUTOCTL_MONITOR`" + ` | default of ` + "`--monitor`" + ` |
| ` + "`PG_AUTOCTL_NODE_NAME`, `PG_AUTOCTL_CANDIDATE_PRIORITY`, `PG_AUTOCTL_REPLICATION_QUORUM`" + ` | defaults of the options of these names of ` + "`create postgres`" + ` |
| ` + "`PG_AUTOCTL_REPLICATION_PASSWORD`, `PG_AUTOCTL_MONITOR_PASSWORD`, `PG_AUTOCTL_NODE_PASSWORD`" + ` | defaults of ` + "`--replication-password`, `--monitor-password` and `--autoctl-node-password`" + `, which stay out of the shell's history so |
| ` + "`PG_AUTOCTL_AUTH_METHOD`, `PG_AUTOCTL_SSL_SELF_SIGNED`, `PG_AUTOCTL_PG_HBA_LAN`" + ` | defaults of ` + "`--auth`, `--ssl-self-signed` and `--pg-hba-lan`" + ` |
| ` + "`PG_CONFIG`, `PATH`" + ` | where the PostgreSQL programs are looked for |
| ` + "`PG_AUTOCTL_DEBUG_BIN_PATH`" + ` | the program that a service goes on as when it is restarted in place |
| ` + "`PGPORT`, `PGHOST`, `PGUSER`, `PGDATABASE`" + ` | defaults of ` + "`--pgport`, `--pghost`, `--username` and `--dbname`" + ` when something is created |
| ` + "`PGCONNECT_TIMEOUT`" + ` | for how many seconds a command tries to reach the monitor (default 2; creations 30) |
| ` + "`XDG_CONFIG_HOME`, `XDG_DATA_HOME`, `XDG_RUNTIME_DIR`" + ` | where configuration, state and pid files live (defaults: ` + "`~/.config`, `~/.local/share`, `/tmp`" + `) |
| ` + "`PG_AUTOCTL_NODESPEC`" + ` | the file of ` + "`node run`" + ` and its like when none is named, and what a service follows |
| ` + "`PG_AUTOCTL_SUSPENDED`" + ` | a node's service that is started with it makes no step by itself, and those of ` + "`manual fsm step`" + ` when asked |
| ` + "`PG_AUTOCTL_DEBUG`" + ` | help lists the older names below ` + "`do`; `stop --sigkill` and the next two work" + ` |
| ` + "`PG_AUTOCTL_EXTENSION_VERSION`" + ` | of a monitor's service: the version that it tells nodes of pg_auto_failover, such as 2.0 |
| ` + "`PG_AUTOCTL_TEST_DELAY`" + ` | ` + "`node run`" + ` waits twice so many seconds before it creates the node |
| ` + "`PG_REGRESS_SOCK_DIR`" + ` | directory for the servers' sockets |
| ` + "`PGDROVER_LOG_FORMAT=json`" + ` | log lines as JSON objects |
| ` + "`NO_COLOR=1`, `TERM=dumb`" + ` | messages without colours, and progress line by line instead of bars that are drawn over |

## Exit codes

| Code | When |
|---|---|
| 0 | success, help, asked to stop |
| 1 | wrong usage or a wrong value; ` + "`show blockers`" + `: something blocks |
| 2 | configuration that cannot be read, or that is of another role |
| 3 | creation failed, state file unusable, already running; ` + "`status`: not running" + ` |
| 4 | the local server does not answer |
| 5 | PostgreSQL's programs are missing or fail; ` + "`status`: the server does not run" + ` |
| 6 | the monitor cannot be reached, or refuses |
| 8 | the local node has no usable state |
| 12 | anything else; a wait was in vain; an acknowledged row was lost in a demonstration |
`

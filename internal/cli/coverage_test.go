package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// spelling is one way to call a command.
type spelling struct {
	name string   // of the program
	path []string // of the command
	json bool
}

func (s spelling) String() string {
	text := s.name + " " + strings.Join(s.path, " ")
	if s.json {
		text += " --json"
	}
	return text
}

// commandPath are those of a command line's words that lead to its command.
func commandPath(cmd *cobra.Command, words []string) []string {
	for i, word := range words {
		if cmd = child(cmd, word); cmd == nil {
			return words[:i]
		}
	}
	return words
}

// spellings are the ways to call a command: under both names, by the names that
// the debugging commands have and had, as text and in JSON.
func spellings(tree map[string]*cobra.Command, path []string) []spelling {
	paths := [][]string{path}
	for _, old := range [][]string{path[1:], slices.Concat([]string{"service"}, path[1:])} {
		if older := slices.Concat([]string{"do"}, old); tree[strings.Join(older, " ")] != nil && slices.Contains([]string{"inspect", "manual"}, path[0]) {
			paths = append(paths, older)
		}
	}
	if len(path) > 2 && path[1] == "service" && path[2] == "pgctl" {
		paths = append(paths, append([]string{"do"}, path[2:]...))
	}
	var all []spelling
	for _, name := range []string{nameAutoctl, nameDrover} {
		all = append(all, spelling{name, path, false})
		if answersJSON(path) {
			all = append(all, spelling{name, path, true})
		}
	}
	for _, older := range paths[1:] {
		all = append(all, spelling{nameDrover, older, false})
	}
	return all
}

// commandBoth runs a command that may be repeated by all of its spellings. Each
// has to succeed, and what is asked for in JSON has to be that; the script sees
// what the first one said.
func commandBoth(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: both program command...")
	}
	path := commandPath(treeOf(nameDrover), args[1:])
	rest := args[1+len(path):]
	for i, s := range spellings(leaves(treeOf(nameAutoctl)), path) {
		line := append([]string{s.name}, s.path...)
		if s.json {
			line = append(line, "--json")
		}
		a := answerOf(ts, append(line, rest...))
		if a.code != 0 {
			a.show(ts)
			ts.Fatalf("%s: exit code %d", s, a.code)
		}
		if s.json && !json.Valid([]byte(a.out.String())) {
			a.show(ts)
			ts.Fatalf("%s: that is no JSON", s)
		}
		if i == 0 {
			a.show(ts)
		}
	}
}

// answersJSON tells the commands whose answer can be had in JSON: they look, and
// those that set echo what was set.
func answersJSON(path []string) bool {
	if strings.HasPrefix(strings.Join(path, " "), "inspect show ") {
		return false
	}
	switch strings.Join(path, " ") {
	case "show systemd", "inspect pgsetup ready", "inspect pgsetup wait", "inspect pgsetup logs", "inspect pgsetup tune", "inspect pgsetup pg_ctl",
		"inspect pgsetup hba-lan", "inspect fsm gv", "inspect fsm mermaid", "inspect getpid":
		return false
	}
	return slices.Contains([]string{"show", "get", "set", "inspect", "status", "version"}, path[0]) && !slices.Contains(path, "metadata") ||
		path[0] == "config" && path[1] == "check"
}

// withoutScript are the commands that no script runs to a good end, and who does.
func withoutScript(path string) string {
	switch {
	case path == "create coordinator", path == "create worker", path == "activate", strings.Contains(path, "coordinator"):
		return "test/citus"
	case path == "node run", path == "watch":
		return "they end when somebody ends them"
	}
	return ""
}

// TestEveryCommandHasAScript: each command of pg_autoctl's tree succeeds in a
// script, under both names and in JSON.
func TestEveryCommandHasAScript(t *testing.T) {
	t.Parallel()
	run := map[string]bool{}
	root := treeOf(nameDrover)
	tree := leaves(treeOf(nameAutoctl))
	for dir, names := range map[string][]string{"script": {nameDrover, nameAutoctl}, "server": {nameAutoctl}} {
		files, err := filepath.Glob(filepath.Join("testdata", dir, "*.txtar"))
		require.NoError(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			names := names
			for line := range strings.Lines(string(text)) {
				if name, ok := strings.CutPrefix(strings.TrimSpace(line), "env NAME="); ok {
					names = []string{name}
				}
				note(run, root, tree, strings.Fields(line), names)
			}
		}
	}
	var missing []string
	for path := range tree {
		if strings.HasPrefix(path, "do ") && (run[nameDrover+" "+path] || run[nameAutoctl+" "+path]) || strings.HasPrefix(path, "do standby ") {
			continue // an older name of another command
		}
		for _, name := range []string{nameDrover, nameAutoctl} {
			s := spelling{name: name, path: strings.Fields(path)}
			if withoutScript(path) == "" && !run[s.String()] {
				missing = append(missing, s.String())
			}
			s.json = true
			if withoutScript(path) == "" && answersJSON(s.path) && !run[s.String()] {
				missing = append(missing, s.String())
			}
		}
	}
	slices.Sort(missing)
	require.Empty(t, missing, "%d commands have no script that they succeed in", len(missing))
}

// note takes down the command of a script's line, when it is one that has to succeed.
func note(run map[string]bool, root *cobra.Command, tree map[string]*cobra.Command, words []string, names []string) {
	if len(words) < 2 || !slices.Contains([]string{"ok", "exec", "until", "both"}, words[0]) && (words[0] != "code" || words[1] != "0") {
		return
	}
	at := slices.IndexFunc(words, func(w string) bool { return w == "$NAME" || w == nameDrover || w == nameAutoctl })
	if at < 0 {
		return
	}
	if words[at] != "$NAME" {
		names = words[at : at+1]
	}
	path := commandPath(root, words[at+1:])
	if words[0] == "both" {
		for _, s := range spellings(tree, path) {
			run[s.String()] = true
		}
	}
	for _, name := range names {
		s := spelling{name: name, path: path}
		run[s.String()] = true
		if s.json = slices.Contains(words, "--json"); s.json {
			run[s.String()] = true
		}
	}
}

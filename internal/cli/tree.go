package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// position is the annotation that keeps commands in the order of the manual.
const position = "position"

// newRootCmd builds the command tree for the name the program was called by.
func newRootCmd(env *Env) *cobra.Command {
	if env.program() == nameSpockctrl {
		return asRoot(newSpockctrlRoot(env))
	}
	if isZodan(env.program()) {
		return asRoot(newZodanRoot(env))
	}
	cmds := []*cobra.Command{
		newCreateCmd(env),
		newDropCmd(env),
		newConfigCmd(env),
		newShowCmd(env),
		newEnableCmd(env),
		newDisableCmd(env),
		newGetCmd(env),
		newSetCmd(env),
		newPerformCmd(env),
		newAcceptCmd(env),
		newActivateCmd(env),
		newInspectCmd(env),
		newManualCmd(env),
		newNodeCmd(env),
		newDoCmd(env),
		newRunCmd(env),
		newWatchCmd(env),
		newStopCmd(env),
		newReloadCmd(env),
		newStatusCmd(env),
	}
	if env.program() == nameDrover {
		// What pg_autoctl does not have: a new command, or the set that holds
		// a new tree of them, is one line here.
		cmds = append(cmds,
			newSpockCmd(env),
			newSpockctrlCmd(env),
			newZodanCmd(env),
			newDemoCmd(env),
			newWebCmd(env),
			newCompletionCmd(env),
		)
	}
	cmds = append(cmds, newHelpCmd(env), newVersionCmd(env))
	return asRoot(newSet(env.program(), "High availability for PostgreSQL", cmds...))
}

// asRoot keeps cobra's own commands out of a tree.
func asRoot(root *cobra.Command) *cobra.Command {
	root.SetHelpCommand(&cobra.Command{Use: "no-help", Hidden: true})
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}

// newSet builds a command that only holds others.
func newSet(use, short string, cmds ...*cobra.Command) *cobra.Command {
	set := &cobra.Command{Use: use, Short: short, SilenceErrors: true, SilenceUsage: true}
	addCommonFlags(set)
	return withSubcommands(set, cmds...)
}

// withSubcommands adds commands to a set, or to a command that also does
// something of its own when no word follows it.
func withSubcommands(parent *cobra.Command, cmds ...*cobra.Command) *cobra.Command {
	for i, cmd := range cmds {
		if cmd.Annotations == nil {
			cmd.Annotations = map[string]string{}
		}
		cmd.Annotations[position] = fmt.Sprintf("%03d", i)
		parent.AddCommand(cmd)
	}
	return parent
}

// runFunc is what a command does with the words that remain.
type runFunc func(cmd *cobra.Command, words []string) error

// newLeaf builds a command that does something; its options end at the first word.
func newLeaf(use, short string, run runFunc) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, RunE: run,
		SilenceErrors: true, SilenceUsage: true, DisableFlagsInUseLine: true,
		Annotations: map[string]string{},
	}
	cmd.Flags().SortFlags = false
	addCommonFlags(cmd)
	return cmd
}

// newMixedLeaf builds a command whose options and words may come in any order.
func newMixedLeaf(use, short string, run runFunc) *cobra.Command {
	cmd := newLeaf(use, short, run)
	cmd.Annotations[anyOrder] = "yes"
	return cmd
}

// newWordsLeaf builds a newMixedLeaf that takes the words that its use line
// shows, <mandatory> before [ optional ], and refuses another number of them.
func newWordsLeaf(use, short string, run runFunc) *cobra.Command {
	least := strings.Count(use, "<")
	most := least + strings.Count(use, "[ ")
	return newMixedLeaf(use, short, func(cmd *cobra.Command, words []string) error {
		if len(words) >= least && len(words) <= most {
			return run(cmd, words)
		}
		numbers := []string{"Zero", "One", "Two", "Three"}
		expected, verb := numbers[most]+" arguments", "are"
		if most == 1 {
			expected, verb = numbers[1]+" argument", "is"
		}
		if least < most {
			expected = numbers[least] + " or " + strings.ToLower(expected)
		}
		return misuse("%s %s expected, found %d", expected, verb, len(words))
	})
}

// addCommonFlags adds the options that every command accepts.
func addCommonFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolP("help", "h", false, "show this help text")
	f.CountP("verbose", "v", "say more; repeat for debug and trace output")
	f.BoolP("quiet", "q", false, "log errors only")
	f.BoolP("version", "V", false, "show the version")
	f.BoolP("json", "J", false, "answer in JSON where there is an answer")
}

func isCommon(name string) bool {
	return slices.Contains([]string{"help", "verbose", "quiet", "version", "json"}, name)
}

// jsonWanted reports whether the answer is asked for in JSON.
func jsonWanted(cmd *cobra.Command) bool {
	v, err := cmd.Flags().GetBool("json")
	return err == nil && v
}

// given reports whether an option was on the command line.
func given(cmd *cobra.Command, name string) bool {
	f := cmd.Flags().Lookup(name)
	return f != nil && f.Changed
}

func newHelpCmd(env *Env) *cobra.Command {
	return newLeaf("help", "Print help message", func(cmd *cobra.Command, _ []string) error {
		var b strings.Builder
		commandTree(&b, env.Name, cmd.Root())
		env.printf("%s", b.String())
		return nil
	})
}

// newCompletionCmd prints what makes a shell complete our words; the script
// then asks the program itself.
func newCompletionCmd(env *Env) *cobra.Command {
	return newWordsLeaf("completion <bash|zsh|fish>", "Print a completion script for a shell", func(cmd *cobra.Command, words []string) error {
		root := cmd.Root()
		switch words[0] {
		case "bash":
			return root.GenBashCompletionV2(env.Stdout, true)
		case "zsh":
			return root.GenZshCompletion(env.Stdout)
		case "fish":
			return root.GenFishCompletion(env.Stdout, true)
		}
		return misuse("there is no completion for the shell %q", words[0])
	})
}

package cli

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgdrover/pgdrover/internal/pgautofailover"
)

// anyOrder marks, as an annotation, commands whose options and words may mix.
const anyOrder = "any-order"

// Main runs one command line and returns the exit code of the process.
func Main(ctx context.Context, env Env) int {
	env.prepare()
	root := newRootCmd(&env) //nolint:contextcheck // each command takes it when it runs
	if len(env.Args) > 0 && (env.Args[0] == cobra.ShellCompRequestCmd || env.Args[0] == cobra.ShellCompNoDescRequestCmd) {
		return complete(ctx, &env, root)
	}
	c := &call{env: &env, root: root, badArgs: exitBadArgs}
	if args, ok := spockctrlLineOf(&env); ok {
		env.Args, c.badArgs = args, spockctrlMisuse
	}
	if args, ok := zodanLineOf(&env); ok {
		env.Args, c.badArgs = args, zodanMisuse
	}
	return c.run(ctx)
}

// complete answers a shell that asks for completions, which is cobra's own protocol.
func complete(ctx context.Context, env *Env, root *cobra.Command) int {
	root.SetArgs(env.Args)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	if root.ExecuteContext(ctx) != nil {
		return exitBadArgs
	}
	return exitOK
}

// call is one command line on its way from words to an exit code.
type call struct {
	env  *Env
	root *cobra.Command
	// breadcrumb are the words typed so far.
	breadcrumb string
	verbose    int
	quiet      bool
	json       bool
	// badArgs is the exit code of wrong usage.
	badArgs int
}

func (c *call) run(ctx context.Context) int {
	cmd, args, code, done := c.dispatch(ctx)
	if done {
		return code
	}
	_, mixed := cmd.Annotations[anyOrder]
	line, err := getopt(c.env.Name, cmd.Flags(), args, mixed)
	c.hideSecrets(line)
	if code, done := c.common(ctx, cmd, line.options); done {
		return code
	}
	if err != nil {
		_, _ = io.WriteString(c.env.Stderr, err.Error()+"\n")
		printUsage(c.env.Stderr, c.breadcrumb, cmd)
		return c.badArgs
	}
	c.env.setVerbosity(c.verbose, c.quiet)
	if c.json {
		line.options = append([]option{{name: "json"}}, line.options...)
	}
	if err := cmd.Flags().Parse(line.args()); err != nil {
		return c.report(ctx, cmd, misuse("%w", flagError(err)))
	}
	cmd.SetContext(ctx)
	return c.report(ctx, cmd, cmd.RunE(cmd, line.words))
}

// hideSecrets keeps passwords given as options out of the process's title.
func (c *call) hideSecrets(line parsed) {
	for _, o := range line.options {
		if c.env.Hide != nil && strings.HasSuffix(o.name, "-password") {
			c.env.Hide(o.value)
		}
	}
}

// flagError words pflag's complaint about a value.
func flagError(err error) error {
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return &valueError{flag: invalid.GetFlag().Name, value: invalid.GetValue(), err: invalid.Unwrap()}
	}
	return err
}

// valueError is an option's value that cannot be read.
type valueError struct {
	flag, value string
	err         error
}

func (e *valueError) Error() string {
	return "invalid value \"" + e.value + "\" for option --" + e.flag
}
func (e *valueError) Unwrap() error { return e.err }

// dispatch follows the words of the command line down to the command that
// runs. When the line ends before that, done is true and code the answer.
func (c *call) dispatch(ctx context.Context) (cmd *cobra.Command, args []string, code int, done bool) {
	cmd, args, c.breadcrumb = c.root, c.env.Args, c.env.Name
	for cmd.HasSubCommands() {
		line, err := getopt(c.env.Name, cmd.Flags(), args, false)
		if cmd.RunE != nil && len(line.words) == 0 {
			break // it does something itself, and reads its options then
		}
		if code, done := c.common(ctx, cmd, line.options); done {
			return nil, nil, code, true
		}
		if err != nil {
			_, _ = io.WriteString(c.env.Stderr, err.Error()+"\n")
			printUsage(c.env.Stderr, c.breadcrumb, cmd)
			return nil, nil, c.badArgs, true
		}
		if len(line.words) == 0 {
			_, _ = io.WriteString(c.env.Stderr, c.breadcrumb+": expected a command\n\n")
			printListing(c.env.Stderr, c.breadcrumb, cmd)
			return nil, nil, c.badArgs, true
		}
		next := child(cmd, line.words[0])
		if next == nil {
			_, _ = io.WriteString(c.env.Stderr, c.breadcrumb+": "+line.words[0]+": unknown command\n\n")
			printListing(c.env.Stderr, c.breadcrumb, cmd)
			return nil, nil, c.badArgs, true
		}
		cmd, args = next, line.words[1:]
		c.breadcrumb += " " + next.Name()
	}
	return cmd, args, exitOK, false
}

func child(cmd *cobra.Command, name string) *cobra.Command {
	for _, sub := range cmd.Commands() {
		if sub.Name() == name || sub.HasAlias(name) {
			return sub
		}
	}
	return nil
}

// common takes the options that every command has, in the order they came.
func (c *call) common(ctx context.Context, cmd *cobra.Command, options []option) (code int, done bool) {
	for _, o := range options {
		switch o.name {
		case "help":
			printUsage(c.env.Stderr, c.breadcrumb, cmd)
			return exitOK, true
		case "version":
			return c.report(ctx, cmd, printVersion(ctx, c.env, c.json)), true
		case "json":
			c.json = true
		case "verbose":
			c.verbose++
		case "quiet":
			c.quiet = true
		}
	}
	return exitOK, false
}

// report tells the operator how the command ended.
func (c *call) report(ctx context.Context, cmd *cobra.Command, err error) int {
	if err == nil {
		return exitOK
	}
	exit, ok := errors.AsType[*exitError](err)
	if !ok {
		exit = &exitError{code: exitInternal, level: slog.LevelError, err: err}
	}
	if !exit.silent {
		ctx := context.WithoutCancel(ctx)
		c.env.say(ctx, exit.level, err.Error())
		if server, ok := errors.AsType[*pgautofailover.ServerError](err); ok && server.Detail != "" {
			c.env.say(ctx, exit.level, "DETAIL: "+server.Detail)
		}
		if hint := exit.Hint(); hint != "" {
			c.env.say(ctx, exit.level, "HINT: "+hint)
		}
	}
	if exit.usage {
		printUsage(c.env.Stderr, c.breadcrumb, cmd)
		return c.badArgs
	}
	return exit.code
}

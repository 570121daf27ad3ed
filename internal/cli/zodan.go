package cli

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// The exit codes of zodan beside those of success and failure.
const (
	zodanMisuse      = 2
	zodanTimeout     = 4
	zodanPrecheck    = 5
	zodanInterrupted = 130
)

// newZodanCmd builds the commands that let nodes join and leave a cluster.
func newZodanCmd(env *Env) *cobra.Command {
	return newSet("zodan", "Add nodes to a multi-master cluster and remove them, without downtime", zodanCmds(env)...)
}

func zodanCmds(env *Env) []*cobra.Command {
	return []*cobra.Command{newAddNodeCmd(env), newRemoveNodeCmd(env), newHealthCheckCmd(env), newZodanListCmd(env), newZodanStatusCmd(env)}
}

// newZodanRoot is the tree for the names zodan and zodremove.
func newZodanRoot(env *Env) *cobra.Command {
	return newSet(env.program(), "Add nodes to a multi-master cluster and remove them, without downtime",
		append(zodanCmds(env), newHelpCmd(env), newVersionCmd(env))...)
}

// zodan is one call: its options, and how it answers.
type zodan struct {
	env  *Env
	cmd  *cobra.Command
	json bool
	// words are those that are no options.
	words []string
	// passed, warned and failed count checks.
	passed, warned, failed int
}

// newZodanLeaf builds a command with the options that all of them have.
func newZodanLeaf(env *Env, use, short string, run func(ctx context.Context, z *zodan) error) *cobra.Command {
	return newZodanWords(env, use, short, 0, run)
}

// newZodanWords is newZodanLeaf for a command that takes so many words.
func newZodanWords(env *Env, use, short string, most int, run func(ctx context.Context, z *zodan) error) *cobra.Command {
	cmd := newMixedLeaf(use, short, func(cmd *cobra.Command, words []string) error {
		if len(words) > most {
			return zodanUsage("unknown words: %s", strings.Join(words[most:], " "))
		}
		z := &zodan{env: env, cmd: cmd, json: jsonWanted(cmd), words: words}
		switch z.text("format") {
		case "", "text":
		case "json":
			z.json = true
		default:
			return zodanUsage("--format must be text or json, not %q", z.text("format"))
		}
		return run(cmd.Context(), z)
	})
	cmd.Flags().String("format", "text", "how to answer: `text`, or json with an object a line")
	return cmd
}

// runFlags are the options of commands that change something.
func runFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Bool("dry-run", false, "print what would be done, and do nothing")
	f.Bool("plan", false, "another name of --dry-run")
	f.Bool("resume", false, "take an unfinished run up again, or fail when there is none")
	f.Bool("rollback", false, "remove what an unfinished run has made")
	f.String("on-failure", "keep", "after a failed or cancelled run: `keep` what it made, or rollback")
	f.Duration("stall-timeout", 3*time.Minute, "give up when nothing has moved for that `duration`")
	f.Duration("timeout", 0, "`duration` that no step may exceed; 0 for no limit")
	f.String("state-dir", "", "`directory` of the journals of runs")
	f.Bool("yes", false, "accepted, of no use here: nothing asks")
	for _, name := range []string{"plan", "yes"} {
		f.Lookup(name).Hidden = true
	}
}

func zodanUsage(format string, args ...any) *exitError {
	e := fail(zodanMisuse, format, args...)
	e.usage = true
	return e
}

func (z *zodan) text(flag string) string { return z.cmd.Flag(flag).Value.String() }

func (z *zodan) on(flag string) bool { return on(z.cmd, flag) }

// need are the options that have to be given.
func (z *zodan) need(flags ...string) error {
	for _, flag := range flags {
		if z.text(flag) == "" {
			return zodanUsage("--%s is missing", flag)
		}
	}
	return nil
}

// verbose reports whether servers' notices are wanted: whoever has made the plan
// knows better what its steps mean.
func (z *zodan) verbose() bool {
	n, err := z.cmd.Flags().GetCount("verbose")
	return err == nil && n > 0
}

func (z *zodan) surveyor() *orchestrator.Surveyor {
	return &orchestrator.Surveyor{OnNotice: func(n spock.Notice) {
		if z.verbose() {
			z.env.infof("%s: %s", n.Severity, workflow.Mask(n.Message))
		}
	}}
}

// membership prepares runs as this call's options say.
func (z *zodan) membership() *orchestrator.Membership {
	return &orchestrator.Membership{
		Surveyor: z.surveyor(), Owner: runOwner(z.env), StateDir: orDefault(z.text("state-dir"), spockStateDir(z.env)),
		OnTitle: z.title, OnCheck: z.check,
	}
}

// execute runs what was prepared, undoes it, or prints it.
func (z *zodan) execute(ctx context.Context, cfg orchestrator.Config) error {
	reporter := newRunReporter(z.env, z.json)
	reporter.quiet = !z.verbose()
	cfg.Log, cfg.OnEvent = z.env.log, reporter.event
	var err error
	if cfg.Rollback, err = rollbackWanted(z.text("on-failure")); err != nil {
		return zodanUsage("%w", err)
	}
	if cfg.StallTimeout, err = z.cmd.Flags().GetDuration("stall-timeout"); err != nil {
		return err
	}
	if cfg.StepTimeout, err = z.cmd.Flags().GetDuration("timeout"); err != nil {
		return err
	}
	e, err := orchestrator.New(cfg)
	if err != nil {
		return fail(exitBadArgs, "%w", err)
	}
	switch {
	case z.on("dry-run") || z.on("plan"):
		return printPlan(z.env, e, z.json)
	case z.on("rollback"):
		err = e.Rollback(ctx)
	default:
		err = e.Run(ctx)
	}
	reporter.endLine()
	return z.finish(err)
}

// finish gives the end of a run its exit code.
func (z *zodan) finish(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*orchestrator.Changed](err); ok {
		return fail(zodanPrecheck, "%w", err)
	}
	code := exitBadArgs
	if step, ok := errors.AsType[*orchestrator.StepError](err); ok && step.TimedOut {
		code = zodanTimeout
	}
	if _, ok := errors.AsType[*orchestrator.CancelledError](err); ok {
		code = zodanInterrupted
	}
	e := fail(code, "%w", err)
	if !z.on("rollback") && z.text("on-failure") == "keep" {
		hint := "the same call goes on there; with --rollback it removes what the run has made"
		if z.cmd.Name() == "remove_node" {
			hint = "the same call goes on there"
		}
		if own := e.Hint(); own != "" {
			hint = own + "; " + hint
		}
		return e.withHint("%s", hint)
	}
	return e
}

// cancelled is the end of a call that was told to end before it had begun to change anything.
func (z *zodan) cancelled(ctx context.Context) error {
	return fail(zodanInterrupted, "%w; nothing was changed", context.Cause(ctx))
}

// title announces a phase.
func (z *zodan) title(text string) {
	if !z.json {
		z.env.printf("%s\n", text)
	}
}

// check tells how a check ended.
func (z *zodan) check(c orchestrator.Check) {
	switch c.Verdict {
	case orchestrator.Pass:
		z.passed++
	case orchestrator.Warn:
		z.warned++
	default:
		z.failed++
	}
	if z.json {
		line, err := json.Marshal(struct {
			TS      time.Time `json:"ts"`
			Phase   string    `json:"phase"`
			Node    string    `json:"node,omitempty"`
			Status  string    `json:"status"`
			Message string    `json:"message"`
		}{time.Now().UTC(), "check", c.Node, string(c.Verdict), c.Text})
		if err == nil {
			z.env.printf("%s\n", line)
		}
		return
	}
	z.env.printf("    %s: %s\n", c.Verdict, c.Text)
}

func checkSummary(z *zodan) string {
	return strings.Join([]string{
		"Passed: " + strconv.Itoa(z.passed), "Warnings: " + strconv.Itoa(z.warned), "Failed: " + strconv.Itoa(z.failed),
		"Total: " + strconv.Itoa(z.passed+z.warned+z.failed),
	}, ", ")
}

// isZodan reports whether the program was called to add or remove nodes.
func isZodan(name string) bool { return name == nameZodan || name == nameZodremove }

// zodanLineOf is the command line when it is one of zodan; without a word there is help.
func zodanLineOf(env *Env) ([]string, bool) {
	if isZodan(env.program()) {
		if len(env.Args) == 0 {
			return []string{"help"}, true
		}
		return env.Args, true
	}
	return env.Args, env.program() == nameDrover && len(env.Args) > 0 && env.Args[0] == nameZodan
}

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
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
	return []*cobra.Command{newAddNodeCmd(env), newRemoveNodeCmd(env), newHealthCheckCmd(env)}
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
	// passed, warned and failed count checks.
	passed, warned, failed int
}

// newZodanLeaf builds a command with the options that all of them have.
func newZodanLeaf(env *Env, use, short string, run func(ctx context.Context, z *zodan) error) *cobra.Command {
	cmd := newMixedLeaf(use, short, func(cmd *cobra.Command, words []string) error {
		if len(words) > 0 {
			return zodanUsage("unknown words: %s", strings.Join(words, " "))
		}
		z := &zodan{env: env, cmd: cmd, json: jsonWanted(cmd)}
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
	f.Bool("resume", false, "take an unfinished run up again, or fail when there is none")
	f.Bool("rollback", false, "remove what an unfinished run has made")
	f.String("on-failure", "keep", "after a failed or cancelled run: `keep` what it made, or rollback")
	f.Duration("stall-timeout", 3*time.Minute, "give up when nothing has moved for that `duration`")
	f.Duration("timeout", 0, "`duration` that no step may exceed; 0 for no limit")
	f.String("state-dir", "", "`directory` of the journals of runs")
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

func (z *zodan) surveyor() *orchestrator.Surveyor {
	return &orchestrator.Surveyor{OnNotice: func(n spock.Notice) {
		z.env.infof("%s: %s", n.Severity, workflow.Mask(n.Message))
	}}
}

func newAddNodeCmd(env *Env) *cobra.Command {
	cmd := newZodanLeaf(env, "add_node", "Let a node join a running cluster", addNode)
	f := cmd.Flags()
	f.String("src-node-name", "", "`name` of the node whose content is copied")
	f.String("src-dsn", "", "its `connection string`, for this program and for the other servers")
	f.String("new-node-name", "", "`name` of the new node")
	f.String("new-node-dsn", "", "its `connection string`")
	f.String("new-node-location", "NY", "`where` it stands")
	f.String("new-node-country", "USA", "`country` where it stands")
	f.String("new-node-info", "{}", "further facts, a `JSON` object")
	f.Bool("skip-check", false, "do not check the cluster before")
	runFlags(cmd)
	return cmd
}

func addNode(ctx context.Context, z *zodan) error {
	if err := z.need("src-node-name", "src-dsn", "new-node-name", "new-node-dsn"); err != nil {
		return err
	}
	j := workflow.Joining{
		Source:   workflow.Member{Name: z.text("src-node-name"), DSN: z.text("src-dsn")},
		New:      workflow.Member{Name: z.text("new-node-name"), DSN: z.text("new-node-dsn")},
		Location: z.text("new-node-location"), Country: z.text("new-node-country"), Info: z.text("new-node-info"),
	}
	if !json.Valid([]byte(j.Info)) {
		return zodanUsage("--new-node-info is no JSON")
	}
	journal := z.journal("add", j.New.Name)
	record, err := journal.Load()
	if err != nil {
		return fail(exitBadArgs, "%w", err)
	}
	if record != nil && !record.Finished {
		var before workflow.Joining
		if err := json.Unmarshal(record.Plan, &before); err != nil {
			return fail(exitBadArgs, "read the plan of the unfinished run: %w", err)
		}
		if before.Source.Name != j.Source.Name || before.New.DSN != j.New.DSN {
			return fail(zodanPrecheck, "an unfinished run lets %s join from %s; this one is another", before.New.Name, before.Source.Name).
				withHint("finish it with --resume and its own options, or undo it with --rollback")
		}
		return z.execute(ctx, "add_node", before, workflow.AddNode(before), journal, members(before))
	}
	if z.on("resume") || z.on("rollback") {
		return fail(exitBadArgs, "there is no unfinished run that lets %s join", j.New.Name)
	}
	if err := z.plan(ctx, &j); err != nil {
		return err
	}
	return z.execute(ctx, "add_node", j, workflow.AddNode(j), journal, members(j))
}

func members(j workflow.Joining) []workflow.Member {
	return append([]workflow.Member{j.Source, j.New}, j.Replicas...)
}

// plan asks the cluster what the plan has to know, after the checks.
func (z *zodan) plan(ctx context.Context, j *workflow.Joining) error {
	s := z.surveyor()
	if !z.on("skip-check") {
		z.title("Phase 0: checks before the node joins")
		s.Health(ctx, orchestrator.HealthConfig{Source: j.Source, New: j.New}, z.check)
		if z.failed > 0 {
			return fail(zodanPrecheck, "%d of %d checks failed; nothing was changed", z.failed, z.passed+z.warned+z.failed)
		}
	}
	t, err := s.Survey(ctx, j.Source)
	if err != nil {
		return fail(exitBadArgs, "%w", err)
	}
	j.Replicas = nil
	for i, m := range t.Members {
		switch {
		case i == 0:
			m.DSN = j.Source.DSN
			j.Source = m
		case m.Name != j.New.Name:
			if err := t.Unreachable[m.Name]; err != nil {
				return fail(exitBadArgs, "%w", err)
			}
			j.Replicas = append(j.Replicas, m)
		}
	}
	if err := s.NewNode(ctx, j); err != nil {
		return fail(exitBadArgs, "%w", err)
	}
	return nil
}

// journal is where a run on a node keeps its journal.
func (z *zodan) journal(what, node string) orchestrator.FileJournal {
	dir := orDefault(z.text("state-dir"), spockStateDir(z.env))
	return orchestrator.FileJournal{Path: filepath.Join(dir, "zodan", what+"-"+safeName(node)+".json")}
}

// execute runs a plan, undoes it, or prints it.
func (z *zodan) execute(
	ctx context.Context, name string, plan any, steps []workflow.Step, journal orchestrator.Journal, all []workflow.Member,
) error {
	kept, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	t := orchestrator.Topology{Members: all}
	nodes, err := t.Nodes()
	if err != nil {
		return zodanUsage("%w", err)
	}
	reporter := &runReporter{env: z.env, json: z.json}
	cfg := orchestrator.Config{
		Name: name, Cluster: "zodan", Nodes: nodes, Steps: steps, Journal: journal, Log: z.env.log, OnEvent: reporter.event, Plan: kept,
	}
	switch text := z.text("on-failure"); text {
	case "keep":
	case "rollback":
		cfg.Rollback = true
	default:
		return zodanUsage("--on-failure must be keep or rollback, not %q", text)
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
	case z.on("dry-run"):
		return z.printPlan(e)
	case z.on("rollback"):
		return z.finish(e.Rollback(ctx))
	}
	return z.finish(e.Run(ctx))
}

func (z *zodan) printPlan(e *orchestrator.Executor) error {
	for _, p := range e.Plan() {
		if z.json {
			line, err := json.Marshal(planLine{
				Step: p.Step.Path, Phase: p.Step.Phase, Node: p.Step.Node, Type: string(p.Step.Type), Command: p.Step.CommandName(),
				Description: p.Step.Description, Statement: p.Statement, Reads: p.Reads, Writes: p.Writes,
			})
			if err != nil {
				return err
			}
			z.env.printf("%s\n", line)
			continue
		}
		z.env.printf("[%s] %s\n    on %s: %s\n", p.Step.Phase, p.Step.Description, p.Step.Node, strings.ReplaceAll(p.Statement, "\n", "\n        "))
	}
	return nil
}

// finish gives the end of a run its exit code.
func (z *zodan) finish(err error) error {
	if err == nil {
		return nil
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
		if own := e.Hint(); own != "" {
			hint = own + "; " + hint
		}
		return e.withHint("%s", hint)
	}
	return e
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

func newHealthCheckCmd(env *Env) *cobra.Command {
	cmd := newZodanLeaf(env, "health-check", "Check a cluster before or after a node joins", healthCheck)
	f := cmd.Flags()
	f.String("src-node-name", "", "`name` of a node of the cluster")
	f.String("src-dsn", "", "its `connection string`")
	f.String("new-node-name", "", "`name` of the node that joins, or has joined")
	f.String("new-node-dsn", "", "its `connection string`")
	f.String("check-type", "pre", "`pre` before it joins, post after")
	f.Bool("strict", false, "a warning is a failure")
	for _, ignored := range []string{"new-node-location", "new-node-country", "new-node-info"} {
		f.String(ignored, "", "accepted, of no use here")
		f.Lookup(ignored).Hidden = true
	}
	return cmd
}

func healthCheck(ctx context.Context, z *zodan) error {
	if err := z.need("src-node-name", "src-dsn"); err != nil {
		return err
	}
	cfg := orchestrator.HealthConfig{
		Source: workflow.Member{Name: z.text("src-node-name"), DSN: z.text("src-dsn")},
		New:    workflow.Member{Name: z.text("new-node-name"), DSN: z.text("new-node-dsn")},
	}
	switch z.text("check-type") {
	case "pre":
	case "post":
		cfg.Post = true
	default:
		return zodanUsage("--check-type must be pre or post, not %q", z.text("check-type"))
	}
	if (cfg.New.Name == "") != (cfg.New.DSN == "") {
		return zodanUsage("--new-node-name and --new-node-dsn go together")
	}
	z.surveyor().Health(ctx, cfg, z.check)
	failed := z.failed
	if z.on("strict") {
		failed += z.warned
	}
	z.title(checkSummary(z))
	if failed > 0 {
		return fail(exitBadArgs, "%d checks failed", failed)
	}
	return nil
}

func newRemoveNodeCmd(env *Env) *cobra.Command {
	cmd := newZodanLeaf(env, "remove_node", "Let a node leave a cluster, also a dead or half added one", removeNode)
	f := cmd.Flags()
	f.String("target-node-name", "", "`name` of the node that leaves")
	f.String("target-node-dsn", "", "its `connection string`")
	f.String("target-dsn", "", "another name of --target-node-dsn")
	f.Lookup("target-dsn").Hidden = true
	f.String("survivor-dsn", "", "`connection string` of a node that stays, when the other cannot be reached")
	f.Bool("no-drain", false, "do not wait until the others have its last changes")
	runFlags(cmd)
	return cmd
}

func removeNode(ctx context.Context, z *zodan) error {
	if err := z.need("target-node-name"); err != nil {
		return err
	}
	target := workflow.Member{Name: z.text("target-node-name"), DSN: orDefault(z.text("target-node-dsn"), z.text("target-dsn"))}
	survivor := workflow.Member{DSN: z.text("survivor-dsn")}
	if target.DSN == "" && survivor.DSN == "" {
		return zodanUsage("--target-node-dsn is missing; for a dead node give --survivor-dsn")
	}
	if z.on("rollback") {
		return zodanUsage("what was removed cannot be brought back: add_node does that")
	}
	journal := z.journal("remove", target.Name)
	record, err := journal.Load()
	if err != nil {
		return fail(exitBadArgs, "%w", err)
	}
	if record == nil && z.on("resume") {
		return fail(exitBadArgs, "there is no unfinished run that removes %s", target.Name)
	}
	// What is left to do is asked anew: every step may be done twice.
	if err := journal.Remove(); err != nil {
		return fail(exitBadArgs, "%w", err)
	}
	l, t, err := z.surveyor().Leaving(ctx, target, survivor)
	if err != nil {
		return fail(exitBadArgs, "%w", err).withHint("a node that cannot be reached is removed from a survivor: --survivor-dsn=…")
	}
	l.NoDrain = z.on("no-drain")
	steps := workflow.RemoveNode(l)
	if len(steps) == 0 {
		z.title("there is nothing to remove: " + target.Name + " is in no cluster")
		return nil
	}
	all := l.Peers
	if !l.Dead {
		all = t.Members
	}
	return z.execute(ctx, "remove_node", l, steps, journal, all)
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

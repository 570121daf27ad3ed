package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// newWorkflowLeaf builds a command about a workflow file.
func newWorkflowLeaf(env *Env, verb, short string, run func(ctx context.Context, f *workflowFile) error) *cobra.Command {
	cmd := newSpockctrlLeaf(env, verb+" <file>", short, func(ctx context.Context, s *spockctrl, words []string) error {
		if len(words) != 1 {
			return spockctrlUsage("one workflow file is expected, found %d", len(words))
		}
		file, err := s.readWorkflow(words[0])
		if err != nil {
			return err
		}
		return run(ctx, file)
	})
	f := cmd.Flags()
	f.StringArray("var", nil, "set the variable `node.key=value`; may be repeated")
	f.String("allow-shell", "", "run steps of type shell (`yes|no`)")
	f.String("allow-raw-sql", "", "let values of options be SQL expressions (`yes|no`)")
	f.String("state-dir", "", "`directory` of the journals of runs")
	return cmd
}

func newWorkflowRunCmd(env *Env) *cobra.Command {
	cmd := newWorkflowLeaf(env, "run", "Run a workflow file, or take an unfinished run of it up again", func(ctx context.Context, f *workflowFile) error {
		if f.on("dry-run") {
			return f.plan(ctx)
		}
		return f.run(ctx)
	})
	f := cmd.Flags()
	f.String("from", "", "first `step` to run: a number or a name")
	f.String("to", "", "last `step` to run")
	f.String("only", "", "run this `step` alone")
	f.String("dry-run", "", "print the statements and run nothing (`yes|no`)")
	f.String("resume", "", "take an unfinished run up again, or fail when there is none (`yes|no`)")
	f.String("restart", "", "forget an unfinished run and begin at the first step (`yes|no`)")
	f.String("on-error", "stop", "after a failed step: `stop` or continue")
	f.String("on-failure", "keep", "after a failed or cancelled run: `keep` what it made, or rollback")
	f.String("no-sleep", "", "wait for what the pauses of the file are for instead of pausing (`yes|no`); also --fast")
	f.String("parallel", "", "run steps that cannot meet at the same time (`yes|no`)")
	f.String("legacy-out-files", "", "write the variables of each node to node.out here as well, as spockctrl did (`yes|no`)")
	f.Duration("step-timeout", 0, "`duration` that no step may exceed")
	return cmd
}

func newWorkflowCheckCmd(env *Env) *cobra.Command {
	return newWorkflowLeaf(env, "check", "Check a workflow file without asking any server", func(_ context.Context, f *workflowFile) error {
		f.env.printf("%s: %d steps, no complaint\n", f.path, len(f.workflow.Steps))
		return nil
	})
}

func newWorkflowPlanCmd(env *Env) *cobra.Command {
	return newWorkflowLeaf(env, "plan", "Print what a workflow file would send to which node", func(ctx context.Context, f *workflowFile) error {
		return f.plan(ctx)
	})
}

func newWorkflowRollbackCmd(env *Env) *cobra.Command {
	return newWorkflowLeaf(env, "rollback", "Remove what an unfinished run of a workflow file has made", func(ctx context.Context, f *workflowFile) error {
		e, err := f.executor(ctx)
		if err != nil {
			return err
		}
		return f.finish(e.Rollback(ctx))
	})
}

// workflowFile is a workflow file that was checked.
type workflowFile struct {
	*spockctrl
	path     string
	digest   string
	workflow *workflow.Workflow
	vars     workflow.Variables
}

func (f *workflowFile) on(flag string) bool { return isTrue(f.cmd.Flag(flag).Value.String()) }

func (s *spockctrl) readWorkflow(path string) (*workflowFile, error) {
	f := &workflowFile{spockctrl: s, path: path, vars: workflow.Variables{}}
	list, err := s.cmd.Flags().GetStringArray("var")
	if err != nil {
		return nil, err
	}
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		node, key, isName := strings.Cut(name, ".")
		if _, known := s.config.Node(node); !ok || !isName || key == "" || !known {
			return nil, spockctrlUsage("--var takes node.key=value with a node of the configuration, not %q", workflow.Mask(text))
		}
		f.vars.Set(node, key, &value)
	}
	data, err := os.ReadFile(path) //nolint:gosec // the file is where the operator says
	if err != nil {
		return nil, fail(spockctrlMisuse, "read the workflow: %w", err)
	}
	sum := sha256.Sum256(data)
	f.digest = hex.EncodeToString(sum[:])
	f.workflow, err = workflow.Parse(data, workflow.CheckConfig{
		Config: s.config, AllowShell: f.on("allow-shell"), AllowRawSQL: f.on("allow-raw-sql"), Variables: f.vars,
	})
	if err != nil {
		return nil, fail(spockctrlMisuse, "%w", inFile(path, err))
	}
	s.warnings(path, f.workflow.Warnings)
	return f, nil
}

func (f *workflowFile) executor(ctx context.Context) (*orchestrator.Executor, error) {
	cfg, err := f.configure(ctx)
	if err != nil {
		return nil, err
	}
	e, err := orchestrator.New(cfg)
	if err != nil {
		return nil, fail(spockctrlMisuse, "%w", err)
	}
	return e, nil
}

func (f *workflowFile) configure(ctx context.Context) (orchestrator.Config, error) {
	cluster := orDefault(f.config.Cluster, "cluster")
	reporter := newRunReporter(f.env, f.format == "json")
	cfg := orchestrator.Config{
		Name: f.workflow.Name, Cluster: cluster, Nodes: f.config.Nodes, Steps: f.workflow.Steps, Success: f.workflow.Success,
		Failure: f.workflow.Failure, Log: f.env.log, OnEvent: reporter.event, RawSQL: f.on("allow-raw-sql"), Variables: f.vars,
		Journal: orchestrator.FileJournal{Path: filepath.Join(f.stateDir(), safeName(cluster), f.digest+".json")},
	}
	if f.on("allow-shell") {
		cfg.Shell = f.env.runShell
	}
	if f.cmd.Flags().Lookup("from") == nil {
		return cfg, nil
	}
	cfg.From, cfg.To = f.cmd.Flag("from").Value.String(), f.cmd.Flag("to").Value.String()
	if only := f.cmd.Flag("only").Value.String(); only != "" {
		cfg.From, cfg.To = only, only
	}
	cfg.Restart, cfg.NoSleep = f.on("restart"), f.on("no-sleep")
	if f.on("parallel") {
		cfg.Steps = workflow.Parallelize(cfg.Steps, f.config)
	}
	if f.on("legacy-out-files") {
		cfg.OnAnswer = f.outFile
	}
	var err error
	if cfg.StepTimeout, err = f.cmd.Flags().GetDuration("step-timeout"); err != nil {
		return cfg, err
	}
	switch text := f.cmd.Flag("on-error").Value.String(); text {
	case "stop":
	case "continue":
		cfg.GoOn = true
	default:
		return cfg, spockctrlUsage("--on-error must be stop or continue, not %q", text)
	}
	if cfg.Rollback, err = rollbackWanted(f.cmd.Flag("on-failure").Value.String()); err != nil {
		return cfg, spockctrlUsage("%w", err)
	}
	return cfg, f.resumable(ctx, cfg.Journal)
}

// resumable refuses --resume when there is nothing to resume.
func (f *workflowFile) resumable(ctx context.Context, journal orchestrator.Journal) error {
	if !f.on("resume") {
		return nil
	}
	record, err := journal.Load(ctx)
	if err != nil {
		return fail(spockctrlMisuse, "%w", err)
	}
	if record == nil || record.Finished {
		return fail(spockctrlMisuse, "there is no unfinished run of %s", f.path)
	}
	return nil
}

// outFile writes an answer where spockctrl kept its variables: a line for each
// row, columns as label=value. What it held before is gone, as it was there.
func (f *workflowFile) outFile(node string, answer orchestrator.Result) {
	var b strings.Builder
	for _, row := range answer.Rows {
		for i, value := range row {
			if i > 0 {
				b.WriteByte('\t')
			}
			b.WriteString(answer.Columns[i].Name + "=")
			if value != nil {
				b.WriteString(*value)
			}
		}
		b.WriteByte('\n')
	}
	if err := os.WriteFile(safeName(node)+".out", []byte(b.String()), 0o600); err != nil {
		f.env.warnf("write the variables of %s: %v", node, err)
	}
}

// safeName makes a name fit for a directory.
func safeName(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '/' || r == 0 || r < ' ' {
			return '_'
		}
		return r
	}, strings.TrimLeft(name, "."))
}

// runShell runs a step's command.
func (e *Env) runShell(ctx context.Context, command string, env []string) error {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command) //nolint:gosec // --allow-shell asks for exactly that
	cmd.Env = e.childEnv(env...)
	cmd.Stdout, cmd.Stderr = e.Stderr, e.Stderr
	return cmd.Run()
}

func (f *workflowFile) run(ctx context.Context) error {
	e, err := f.executor(ctx)
	if err != nil {
		return err
	}
	return f.finish(e.Run(ctx))
}

// finish gives the end of a run its exit code.
func (f *workflowFile) finish(err error) error {
	if err == nil {
		return nil
	}
	code := spockctrlFailed
	if step, ok := errors.AsType[*orchestrator.StepError](err); ok {
		code = spockctrlStep
		if step.TimedOut {
			code = spockctrlTimeout
		}
	}
	if _, ok := errors.AsType[*orchestrator.CancelledError](err); ok {
		code = spockctrlInterrupted
	}
	e := fail(code, "%w", err)
	if code != spockctrlFailed && e.Hint() == "" && f.cmd.Name() == "run" && f.cmd.Flag("on-failure").Value.String() == "keep" {
		return e.withHint("the same call goes on there; \"workflow rollback %s\" removes what the run has made", f.path)
	}
	return e
}

func (f *workflowFile) plan(ctx context.Context) error {
	e, err := f.executor(ctx)
	if err != nil {
		return err
	}
	return printPlan(f.env, e, f.format == "json")
}

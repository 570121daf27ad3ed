package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

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
			return f.plan()
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
	f.String("no-sleep", "", "wait for what the pauses of the file are for instead of pausing (`yes|no`)")
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
	return newWorkflowLeaf(env, "plan", "Print what a workflow file would send to which node", func(_ context.Context, f *workflowFile) error {
		return f.plan()
	})
}

func newWorkflowRollbackCmd(env *Env) *cobra.Command {
	return newWorkflowLeaf(env, "rollback", "Remove what an unfinished run of a workflow file has made", func(ctx context.Context, f *workflowFile) error {
		e, err := f.executor()
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

func (f *workflowFile) executor() (*orchestrator.Executor, error) {
	cfg, err := f.configure()
	if err != nil {
		return nil, err
	}
	e, err := orchestrator.New(cfg)
	if err != nil {
		return nil, fail(spockctrlMisuse, "%w", err)
	}
	return e, nil
}

func (f *workflowFile) configure() (orchestrator.Config, error) {
	cluster := orDefault(f.config.Cluster, "cluster")
	reporter := &runReporter{env: f.env, json: f.format == "json"}
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
	switch text := f.cmd.Flag("on-failure").Value.String(); text {
	case "keep":
	case "rollback":
		cfg.Rollback = true
	default:
		return cfg, spockctrlUsage("--on-failure must be keep or rollback, not %q", text)
	}
	return cfg, f.resumable(cfg.Journal)
}

// resumable refuses --resume when there is nothing to resume.
func (f *workflowFile) resumable(journal orchestrator.Journal) error {
	if !f.on("resume") {
		return nil
	}
	record, err := journal.Load()
	if err != nil {
		return fail(spockctrlMisuse, "%w", err)
	}
	if record == nil || record.Finished {
		return fail(spockctrlMisuse, "there is no unfinished run of %s", f.path)
	}
	return nil
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
	e, err := f.executor()
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

func (f *workflowFile) plan() error {
	e, err := f.executor()
	if err != nil {
		return err
	}
	for _, p := range e.Plan() {
		if f.format == "json" {
			line, err := json.Marshal(planLine{
				Step: p.Step.Path, Node: p.Step.Node, Type: string(p.Step.Type), Command: p.Step.CommandName(),
				Description: p.Step.Description, Statement: p.Statement, Reads: p.Reads, Writes: p.Writes, Sleep: p.Step.Sleep.Seconds(),
				IgnoreErrors: p.Step.IgnoreErrors,
			})
			if err != nil {
				return err
			}
			f.env.printf("%s\n", line)
			continue
		}
		f.env.printf("[Step - %s] %s\n", stepNumber(p.Step.Path), p.Step.Description)
		f.env.printf("    on %s: %s\n", p.Step.Node, strings.ReplaceAll(p.Statement, "\n", "\n        "))
		if len(p.Reads) > 0 {
			f.env.printf("    reads %s\n", strings.Join(p.Reads, ", "))
		}
		if len(p.Writes) > 0 {
			f.env.printf("    sets %s\n", strings.Join(p.Writes, ", "))
		}
		if p.Step.Sleep > 0 {
			f.env.printf("    then pauses %s\n", p.Step.Sleep)
		}
	}
	return nil
}

type planLine struct {
	Step         string   `json:"step"`
	Phase        string   `json:"phase,omitempty"`
	Node         string   `json:"node"`
	Type         string   `json:"type"`
	Command      string   `json:"command"`
	Description  string   `json:"description"`
	Statement    string   `json:"statement"`
	Reads        []string `json:"reads"`
	Writes       []string `json:"writes"`
	Sleep        float64  `json:"sleep"`
	IgnoreErrors bool     `json:"ignore_errors"`
}

// stepNumber writes a step's number with two digits, as spockctrl does.
func stepNumber(path string) string {
	if len(path) == 1 {
		return "0" + path
	}
	return path
}

// runReporter tells how a run goes: a line for each step, or an object for each event.
type runReporter struct {
	env  *Env
	json bool
	// open says that a line waits for its end.
	open bool
}

func (r *runReporter) event(e orchestrator.Event) {
	switch {
	case e.Status == orchestrator.Noted && e.Type != "":
		r.notice(e)
	case r.json:
		r.line(e)
	case e.Status == orchestrator.Noted:
		r.endLine()
		r.env.printf("[%s] %s\n", e.Time.Local().Format(time.DateTime), e.Message)
	case e.Status == orchestrator.Waiting:
		r.endLine()
		r.env.printf("    %s\n", e.Message)
	case e.Status == orchestrator.Running:
		if !e.Parallel {
			r.begin(e)
			r.open = true
		}
	default:
		if !r.open {
			r.begin(e)
		}
		r.open = false
		r.env.printf("%s\n", statusMark(e.Status))
	}
}

func (r *runReporter) begin(e orchestrator.Event) {
	label := "Step - " + stepNumber(e.Step)
	if e.Phase != "" {
		label = e.Phase
	}
	r.env.printf("[%s] [%s] %s ", e.Time.Local().Format(time.DateTime), label, e.Description)
}

func (r *runReporter) endLine() {
	if r.open {
		_, _ = io.WriteString(r.env.Stdout, "\n")
		r.open = false
	}
}

func (r *runReporter) notice(e orchestrator.Event) {
	text := fmt.Sprintf("node %s: %s: %s", e.Node, e.Type, e.Message)
	if e.Type == "WARNING" {
		r.env.warnf("%s", text)
	} else {
		r.env.infof("%s", text)
	}
}

func statusMark(s orchestrator.Status) string {
	switch s {
	case orchestrator.OK:
		return "[OK]"
	case orchestrator.Failed:
		return "[FAILED]"
	case orchestrator.Ignored:
		return "[IGNORED]"
	case orchestrator.Undone:
		return "[UNDONE]"
	default:
		return "[OK] (" + string(s) + ")"
	}
}

// eventLine is an event as a JSON object.
type eventLine struct {
	TS          time.Time          `json:"ts"`
	Step        string             `json:"step,omitempty"`
	Phase       string             `json:"phase,omitempty"`
	Node        string             `json:"node,omitempty"`
	Type        string             `json:"type,omitempty"`
	Command     string             `json:"command,omitempty"`
	Description string             `json:"description,omitempty"`
	Status      string             `json:"status"`
	Seconds     float64            `json:"seconds"`
	Variables   map[string]*string `json:"variables,omitempty"`
	Message     string             `json:"message,omitempty"`
	Error       string             `json:"error,omitempty"`
}

func (r *runReporter) line(e orchestrator.Event) {
	line := eventLine{
		TS: e.Time.UTC(), Step: e.Step, Phase: e.Phase, Node: e.Node, Type: e.Type, Command: e.Command, Description: e.Description,
		Status: string(e.Status), Seconds: e.Seconds, Message: e.Message,
	}
	for key, value := range e.Variables {
		if line.Variables == nil {
			line.Variables = map[string]*string{}
		}
		if value != nil {
			value = new(workflow.Mask(*value))
		}
		line.Variables[key] = value
	}
	if e.Err != nil {
		line.Error = workflow.Mask(e.Err.Error())
	}
	text, err := json.Marshal(line)
	if err != nil {
		text = []byte(`{"status":"note","error":"an event cannot be written"}`)
	}
	r.env.printf("%s\n", text)
}

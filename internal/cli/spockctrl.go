package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// The exit codes of spockctrl.
const (
	spockctrlFailed      = 1
	spockctrlMisuse      = 2
	spockctrlStep        = 3
	spockctrlTimeout     = 4
	spockctrlInterrupted = 130
)

// newSpockctrlCmd builds the commands of spockctrl: one call each to a node of
// a multi-master cluster, and files of them.
func newSpockctrlCmd(env *Env) *cobra.Command {
	return newSet("spockctrl", "Manage the nodes of a multi-master cluster, as spockctrl does", spockctrlCmds(env)...)
}

func spockctrlCmds(env *Env) []*cobra.Command {
	return []*cobra.Command{
		newSet("node", "Manage nodes", append(spockctrlCalls(env, "node"), spockctrlNodeViews(env)...)...),
		newSet("sub", "Manage subscriptions", append(spockctrlCalls(env, "sub"), spockctrlSubViews(env)...)...),
		newSet("repset", "Manage replication sets", append(spockctrlCalls(env, "repset"), spockctrlRepsetViews(env)...)...),
		newSet("slot", "Manage replication slots", append(spockctrlCalls(env, "slot"), spockctrlSlotViews(env)...)...),
		newSpockctrlSQLCmd(env),
		newSet("workflow", "Run files of steps",
			newWorkflowRunCmd(env), newWorkflowCheckCmd(env), newWorkflowPlanCmd(env), newWorkflowRollbackCmd(env), newWorkflowNewCmd(env)),
	}
}

// newSpockctrlRoot is the tree for the name spockctrl.
func newSpockctrlRoot(env *Env) *cobra.Command {
	version := newMixedLeaf("version", "Print the version", func(*cobra.Command, []string) error {
		env.printf("spockctrl version %s\n", spockctrlVersion)
		env.printf("pgdrover version %s\n", env.Version)
		return nil
	})
	return newSet("spockctrl", "Manage the nodes of a multi-master cluster", append(spockctrlCmds(env), newHelpCmd(env), version)...)
}

// spockctrlVersion is the one that every release of the original printed.
const spockctrlVersion = "1.0.0"

// spockctrl is one call of a command: its configuration and how it answers.
type spockctrl struct {
	env    *Env
	cmd    *cobra.Command
	config *workflow.Config
	path   string
	format string
	level  *slog.LevelVar
}

// spockctrlRun is what a command does once its configuration is read.
type spockctrlRun func(ctx context.Context, s *spockctrl, words []string) error

// newSpockctrlLeaf builds a command with the options that all of them have.
func newSpockctrlLeaf(env *Env, use, short string, run spockctrlRun) *cobra.Command {
	cmd := newMixedLeaf(use, short, func(cmd *cobra.Command, words []string) error {
		s, closeLog, err := newSpockctrl(env, cmd)
		if err != nil {
			return err
		}
		defer closeLog()
		return run(cmd.Context(), s, words)
	})
	f := cmd.Flags()
	f.StringP("config", "c", "", "the cluster's configuration, a JSON `file`; default spockctrl.json, or $PGDROVER_SPOCK_CONFIG")
	f.StringP("format", "f", "", "how to answer: `table` or json")
	f.String("verbosity", "", "what to tell: 0 errors, 1 warnings, 2 information, 3 statements")
	f.Lookup("verbosity").Hidden = true
	return cmd
}

func newSpockctrl(env *Env, cmd *cobra.Command) (*spockctrl, func(), error) {
	s := &spockctrl{env: env, cmd: cmd, format: cmd.Flag("format").Value.String(), level: &slog.LevelVar{}}
	switch s.format {
	case "", "table", "text":
		s.format = "table"
	case "json":
	default:
		return nil, nil, spockctrlUsage("--format must be table or json, not %q", s.format)
	}
	if jsonWanted(cmd) {
		s.format = "json"
	}
	s.path = cmd.Flag("config").Value.String()
	if s.path == "" {
		s.path = "spockctrl.json"
		if !isFile(s.path) && env.getenv("PGDROVER_SPOCK_CONFIG") != "" {
			s.path = env.getenv("PGDROVER_SPOCK_CONFIG")
		}
	}
	data, err := os.ReadFile(s.path)
	if err != nil {
		return nil, nil, fail(spockctrlMisuse, "read the configuration: %w", err).
			withHint("name it with --config=FILE; it lists the cluster's nodes and how to reach them")
	}
	if s.config, err = workflow.ParseConfig(data); err != nil {
		return nil, nil, fail(spockctrlMisuse, "%w", inFile(s.path, err))
	}
	closeLog, err := s.openLog()
	if err != nil {
		return nil, nil, err
	}
	s.warnings(s.path, s.config.Warnings)
	if info, err := os.Stat(s.path); err == nil && info.Mode().Perm()&0o077 != 0 && s.hasPassword() {
		s.env.warnf("%s holds passwords, and others may read it: chmod 600 %s", s.path, s.path)
	}
	return s, closeLog, nil
}

func (s *spockctrl) hasPassword() bool {
	return slices.ContainsFunc(s.config.Nodes, func(n workflow.Node) bool { return n.ConnInfo.Get("password") != "" })
}

func (s *spockctrl) warnings(file string, warnings []string) {
	for _, w := range warnings {
		s.env.warnf("%s: %s", file, w)
	}
}

// openLog sends messages where the configuration says, in spockctrl's form.
func (s *spockctrl) openLog() (func(), error) {
	verbosity := s.config.Verbosity
	if verbosity < 0 {
		verbosity = 1
	}
	if text := s.cmd.Flag("verbosity").Value.String(); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > 3 {
			return nil, spockctrlUsage("--verbose takes a number from 0 to 3, not %q", text)
		}
		verbosity = n
	}
	if quiet, err := s.cmd.Flags().GetBool("quiet"); err == nil && quiet {
		verbosity = 0
	}
	s.level.Set([]slog.Level{slog.LevelError, slog.LevelWarn, slog.LevelInfo, slog.LevelDebug}[verbosity])
	out, colour, done := s.env.Stderr, s.env.colours(), func() {}
	if s.config.LogFile != "" {
		file, err := os.OpenFile(s.config.LogFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fail(spockctrlMisuse, "open the log file: %w", err)
		}
		out, colour, done = file, false, func() { _ = file.Close() }
	}
	s.env.log = slog.New(&stampHandler{out: out, level: s.level, colour: colour})
	return done, nil
}

// stampHandler writes lines as spockctrl does: "[time] [LEVEL] text".
type stampHandler struct {
	out    io.Writer
	level  slog.Leveler
	colour bool
}

// Enabled implements slog.Handler.
func (h *stampHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

// Handle implements slog.Handler.
func (h *stampHandler) Handle(_ context.Context, r slog.Record) error {
	mark := map[string]string{"ERROR": "[ERROR]:", "FATAL": "[ERROR]:", "WARN": "[WARN] ", "INFO": "[INFO] "}[levelName(r.Level)]
	if mark == "" {
		mark = "[DEBUG]"
	}
	if h.colour {
		mark = levelColour(r.Level) + mark + "\x1b[0m"
	}
	_, err := fmt.Fprintf(h.out, "[%s] %s %s\n", r.Time.Local().Format(time.DateTime), mark, strings.ReplaceAll(r.Message, "\n", "\n    "))
	return err
}

// WithAttrs implements slog.Handler; its messages are whole sentences.
func (h *stampHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup implements slog.Handler.
func (h *stampHandler) WithGroup(string) slog.Handler { return h }

// spockctrlUsage is a command line that cannot be.
func spockctrlUsage(format string, args ...any) *exitError {
	e := fail(spockctrlMisuse, format, args...)
	e.usage = true
	return e
}

// inFile puts the file's name in front of every line of an error.
func inFile(path string, err error) error {
	lines, ok := errors.AsType[workflow.Errors](err)
	if !ok {
		return fmt.Errorf("%s: %w", path, err)
	}
	return &fileError{path: path, errs: lines}
}

type fileError struct {
	path string
	errs workflow.Errors
}

func (e *fileError) Error() string {
	return e.path + ": " + strings.ReplaceAll(e.errs.Error(), "\n", "\n"+e.path+": ")
}
func (e *fileError) Hint() string { return e.errs.Hint() }

// failed is the error of a call that a server refused.
func failed(err error) error {
	if err == nil {
		return nil
	}
	return withCode(spockctrlFailed, err)
}

// node chooses the node that a command runs on.
func (s *spockctrl) node(name, object string) (workflow.Node, error) {
	if name == "" {
		if n, ok := s.config.Node(object); ok {
			return n, nil
		}
		if len(s.config.Nodes) == 1 {
			return s.config.Nodes[0], nil
		}
		return workflow.Node{}, spockctrlUsage("--node is missing: the node to run on, one of %s", strings.Join(s.config.Names(), ", "))
	}
	n, ok := s.config.Node(name)
	if !ok {
		return n, fail(spockctrlMisuse, "node %q is not in %s, which has %s", name, s.path, strings.Join(s.config.Names(), ", "))
	}
	return n, nil
}

// on opens a session with a node for one use.
func (s *spockctrl) on(ctx context.Context, n workflow.Node, use func(orchestrator.Server) error) error {
	idle := false
	server, err := orchestrator.Dial(ctx, n, func(notice spock.Notice) {
		idle = idle || strings.HasPrefix(notice.Message, noEngine)
		text := workflow.Mask(notice.Severity + ": " + notice.Message)
		if notice.Severity == "WARNING" {
			s.env.warnf("node %s: %s", n.Name, text)
		} else {
			s.env.infof("node %s: %s", n.Name, text)
		}
	})
	if err != nil {
		return failed(&orchestrator.NodeError{Node: n.Name, Op: "connect", Err: err})
	}
	defer func() { _ = server.Close(context.WithoutCancel(ctx)) }()
	if err := use(server); err != nil {
		if _, ok := errors.AsType[*exitError](err); ok {
			return err
		}
		return failed(&orchestrator.NodeError{Node: n.Name, Op: s.cmd.Name(), Err: orchestrator.Explain(n.Name, err)})
	}
	if idle {
		s.hintEngine(ctx, n, server)
	}
	return nil
}

// noEngine is how a database says that nobody applies anything there.
const noEngine = "no engine is connected to this database"

// hintEngine says what lets an engine serve the node: one that runs serves no
// schema but that of its own version.
func (s *spockctrl) hintEngine(ctx context.Context, n workflow.Node, server orchestrator.Server) {
	info := n.ConnInfo.String()
	version, err := server.Ask(ctx, "SELECT version::text FROM spock.pgdrover_schema_version")
	if err == nil && len(version.Rows) == 1 && version.Rows[0][0] != nil && *version.Rows[0][0] != strconv.Itoa(spock.SchemaNumber) {
		s.env.warnf("node %s: no engine serves it: its schema spock has version %s, and an engine of this program serves version %d; bring it up to date: %s spock upgrade --dsn %q",
			n.Name, *version.Rows[0][0], spock.SchemaNumber, nameDrover, info)
		return
	}
	s.env.hint("start one: %s spock run --dsn %q", nameDrover, info)
}

// stateDir is where runs of workflow files keep their journals.
func (s *spockctrl) stateDir() string {
	if dir := s.cmd.Flag("state-dir").Value.String(); dir != "" {
		return dir
	}
	return spockStateDir(s.env)
}

// spockStateDir is the default place of journals.
func spockStateDir(env *Env) string {
	data := orDefault(env.getenv("XDG_DATA_HOME"), filepath.Join(env.getenv("HOME"), ".local", "share"))
	return filepath.Join(data, "pgdrover", "runs")
}

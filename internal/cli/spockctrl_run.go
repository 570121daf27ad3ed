package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// What files of steps and plans for nodes have in common.

// rollbackWanted reads --on-failure.
func rollbackWanted(text string) (bool, error) {
	switch text {
	case "keep", "rollback":
		return text == "rollback", nil
	default:
		return false, fmt.Errorf("--on-failure must be keep or rollback, not %q", text)
	}
}

// runOwner is how journals and refusals name whoever makes a run.
func runOwner(env *Env) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s@%s (process %d)", orDefault(env.getenv("USER"), "somebody"), host, env.PID)
}

// printPlan prints what a run would send, a step after the other.
func printPlan(env *Env, e *orchestrator.Executor, asJSON bool) error {
	for _, p := range e.Plan() {
		if asJSON {
			line, err := json.Marshal(planLine{
				Step: p.Step.Path, Phase: p.Step.Phase, Node: p.Step.Node, Type: string(p.Step.Type), Command: p.Step.CommandName(),
				Description: p.Step.Description, Statement: p.Statement, Reads: p.Reads, Writes: p.Writes, Sleep: p.Step.Sleep.Seconds(),
				IgnoreErrors: p.Step.IgnoreErrors,
			})
			if err != nil {
				return err
			}
			env.printf("%s\n", line)
			continue
		}
		label := "Step - " + stepNumber(p.Step.Path)
		if p.Step.Phase != "" {
			label = p.Step.Phase
		}
		env.printf("[%s] %s\n", label, p.Step.Description)
		env.printf("    on %s: %s\n", p.Step.Node, strings.ReplaceAll(p.Statement, "\n", "\n        "))
		if len(p.Reads) > 0 {
			env.printf("    reads %s\n", strings.Join(p.Reads, ", "))
		}
		if len(p.Writes) > 0 && p.Step.Phase == "" {
			env.printf("    sets %s\n", strings.Join(p.Writes, ", "))
		}
		if p.Step.Sleep > 0 {
			env.printf("    then pauses %s\n", p.Step.Sleep)
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
	// drawn says that the line is a bar, which the next one covers.
	drawn bool
	// bars are the times at which a step's progress was told last.
	bars map[string]time.Time
	// quiet leaves out servers' notices that are no warnings.
	quiet bool
}

func newRunReporter(env *Env, json bool) *runReporter {
	return &runReporter{env: env, json: json, bars: map[string]time.Time{}}
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
	case e.Of > 0:
		r.bar(e)
	case e.Status == orchestrator.Waiting:
		r.endLine()
		r.env.printf("    %s\n", e.Message)
	case e.Status == orchestrator.Running:
		if !e.Parallel {
			r.begin(e)
			r.open = true
		}
	default:
		if r.drawn {
			r.endLine()
		}
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
	if r.open || r.drawn {
		_, _ = io.WriteString(r.env.Stdout, "\n")
		r.open, r.drawn = false, false
	}
}

// bar draws how far a step is: over the last one on a terminal, else a line now and then.
func (r *runReporter) bar(e orchestrator.Event) {
	const width, every = 30, 10 * time.Second
	first := r.bars[e.Step].IsZero()
	text := fmt.Sprintf("%s on %s: %d %%, %s of %s", e.Phase, e.Node, 100*e.Done/e.Of, orchestrator.ByteText(e.Done), orchestrator.ByteText(e.Of)) + e.Pace()
	switch {
	case r.env.draws():
		if r.open {
			r.endLine()
		}
		full := int(width * e.Done / e.Of)
		line := fmt.Sprintf("    [%s%s] %s", strings.Repeat("#", full), strings.Repeat(".", width-full), text)
		columns, _ := r.env.screen()
		if room := columns - 2; utf8.RuneCountInString(line) > room { // for the blank, and the cursor behind it
			line = cut("    "+text, room)
		}
		r.env.printf("\r%s\x1b[K ", line)
		r.drawn = true
	case first || e.Time.Sub(r.bars[e.Step]) >= every:
		r.endLine()
		r.env.printf("    %s\n", text)
	default:
		return
	}
	r.bars[e.Step] = e.Time
}

func (r *runReporter) notice(e orchestrator.Event) {
	if r.quiet && e.Type != "WARNING" {
		return
	}
	text := fmt.Sprintf("node %s: %s: %s", e.Node, e.Type, e.Message)
	if !r.json && (e.Type == "WARNING" || r.env.Terminal) {
		r.endLine() // what has begun on stdout is not to be torn apart
	}
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
	case orchestrator.Cancelled:
		return "[CANCELLED]"
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
	Run         string             `json:"run,omitempty"`
	Progress    *progressLine      `json:"progress,omitempty"`
	Variables   map[string]*string `json:"variables,omitempty"`
	Message     string             `json:"message,omitempty"`
	Error       string             `json:"error,omitempty"`
}

// progressLine is how far a step is.
type progressLine struct {
	Done int64 `json:"done"`
	Of   int64 `json:"of"`
	// Rate and SecondsLeft are absent as long as nobody knows.
	Rate        int64   `json:"rate,omitempty"`
	SecondsLeft float64 `json:"seconds_left,omitempty"`
}

func (r *runReporter) line(e orchestrator.Event) {
	line := eventLine{
		TS: e.Time.UTC(), Step: e.Step, Phase: e.Phase, Node: e.Node, Type: e.Type, Command: e.Command, Description: e.Description,
		Status: string(e.Status), Seconds: e.Seconds, Message: e.Message,
	}
	line.Run = e.Run
	if e.Of > 0 {
		line.Progress = &progressLine{Done: e.Done, Of: e.Of, Rate: e.Rate, SecondsLeft: e.Left.Seconds()}
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

package workflow

import (
	"fmt"
	"strings"
	"time"
)

// StepType is the key under which a step stands in a file.
type StepType string

// The types of steps.
const (
	TypeSpock StepType = "spock" // a command
	TypeSQL   StepType = "sql"   // free SQL
	TypeShell StepType = "shell" // a command of the shell, only when it is allowed
	TypeWait  StepType = "wait"  // a query that is repeated until it says true; only plans have it
	TypeHold  StepType = "hold"  // a snapshot of the node, held for others to copy; only plans have it
	TypeLetGo StepType = "letgo" // ends that
)

// SharedSnapshot is the variable of a node in which a snapshot is described that it
// holds, as engines read it: "slot=… snapshot=… point=…".
const SharedSnapshot = "shared_snapshot"

// Step is one thing to do on one node.
type Step struct {
	Type StepType
	// Number counts the steps of a list from one; Path is the number behind those
	// of the steps it follows, "7.1".
	Number int
	Path   string
	// Phase groups the steps of a plan, "J3"; files have none.
	Phase string
	// Name is a label that "goto" and --from can use.
	Name        string
	Node        string
	Description string
	// Command of a step of type spock, and its options by name; nil for others.
	Command *Command
	Options map[string]string
	// SQL of the types sql and wait.
	SQL string
	// Shell is the command line of type shell.
	Shell string
	// Sleep is the pause after the step.
	Sleep        time.Duration
	IgnoreErrors bool
	OnSuccess    *Follow
	OnFailure    *Follow
	At           Position

	// Done is a query on Node that says true when the step's work is there
	// already; a plan asks before it does a step for the second time.
	Done string
	// Undo is SQL that takes back what the step made; it succeeds when there is
	// nothing to take back.
	Undo string
	// Lift is SQL that ends what the step does to clients, when the run ends
	// before a later phase has begun.
	Lift string
	// Lasts is what the step does to clients still, when the run ends too late for
	// Lift and before the step that is named Ended is done.
	Lasts string
	// Ended is the Description of that step.
	Ended string
	// Blockers is a query for what a step may be waiting for, one text a row.
	Blockers string
	// BlockersAt is the node to ask for them when it is not the step's own.
	BlockersAt string
	// Progress is a query whose text changes while a waiting step gets on.
	Progress string
	// Trouble is a query for what keeps the node's engine from getting on: a text
	// a row, and whether waiting is in vain.
	Trouble string
	// Bar is a query for how much is done and of how much.
	Bar string
	// Refuse words the error of a step whose query says false; a column "why" of
	// the answer is added.
	Refuse string
	// Parallel steps with the same number may run at the same time; 0 stands alone.
	Parallel int
	// For are the joining nodes without which the step is of no use. Where others
	// join as well, these alone are given up when it fails.
	For []string
}

// Follow is what happens after a step that ended one way.
type Follow struct {
	Steps []Step
	Goto  string
	Stop  bool
}

// Label is how messages name a step.
func (s Step) Label() string {
	label := "step " + s.Path
	if s.Phase != "" {
		label = s.Phase
	}
	if s.Name != "" {
		label += " (" + s.Name + ")"
	}
	return label
}

// Object is the name of what a command is about.
func (s Step) Object() string {
	if s.Command == nil || len(s.Command.Places) == 0 {
		return ""
	}
	return s.Options[s.Command.Places[0]]
}

// CommandName is what stands under "command" in events.
func (s Step) CommandName() string {
	switch s.Type {
	case TypeSpock:
		return stepCommand(s.Command)
	case TypeShell:
		return "SHELL"
	default:
		return SQLCommand
	}
}

// Statement is SQL that a node can run.
type Statement struct {
	SQL string
	// Args are the values of $1, $2, …; nil is NULL. Without any, SQL may hold
	// several statements and is sent as a simple query.
	Args []*string
	// Simple asks for the simple protocol, in which procedures may commit.
	Simple bool
}

// Statement is what the step sends to its node once its variables have values.
func (s Step) Statement(isNode func(string) bool, vars Variables, rawSQL bool) (Statement, error) {
	if s.Type != TypeSpock {
		sql, err := SubstituteSQL(s.SQL, isNode, vars)
		return Statement{SQL: sql, Simple: true}, err
	}
	options := make(map[string]string, len(s.Options))
	for name, text := range s.Options {
		substituted, err := SubstituteText(text, isNode, vars)
		if err != nil {
			return Statement{}, fmt.Errorf("option --%s: %w", name, err)
		}
		options[name] = substituted
	}
	values, err := s.Command.Values(options, rawSQL)
	if err != nil {
		return Statement{}, err
	}
	return s.Command.Call(values), nil
}

// Call is the statement of a command with these values.
func (c *Command) Call(values map[string]Value) Statement {
	var call Statement
	var args []string
	for _, p := range c.Params {
		v, ok := values[p.Name]
		if !ok || p.SQL == "" {
			continue
		}
		typ := p.Type
		if typ == "" {
			typ = p.Kind.sqlType()
		}
		expression := "(" + v.Text + ")::" + typ
		if !v.Raw {
			call.Args = append(call.Args, &v.Text)
			expression = fmt.Sprintf("$%d::%s", len(call.Args), typ)
		}
		if p.SQL != byPosition {
			expression = p.SQL + " := " + expression
		}
		args = append(args, expression)
	}
	columns, from := c.Columns, " FROM "
	if columns == "" {
		columns, from = "", ""
	}
	call.SQL = "SELECT " + columns + from + c.Function + "(" + strings.Join(args, ", ") + ")"
	return call
}

// String is the statement for people: values in place, passwords hidden.
func (s Statement) String() string { return Mask(s.Plain()) }

// Plain is the statement with its values in place and its passwords shown.
func (s Statement) Plain() string {
	if len(s.Args) == 0 {
		return s.SQL
	}
	var b strings.Builder
	last := 0
	for _, part := range splitSQL(s.SQL) {
		if part.state != inSQL {
			continue
		}
		for i := part.start; i < part.end; i++ {
			n, length := parameterNumber(s.SQL[i:part.end])
			if n < 1 || n > len(s.Args) {
				continue
			}
			b.WriteString(s.SQL[last:i] + literal(s.Args[n-1]))
			last = i + length
			i = last - 1
			// A cast of a constant to what it is anyway says nothing.
			for _, cast := range []string{"::text", "::name", "::boolean"} {
				if rest := s.SQL[last:]; strings.HasPrefix(rest, cast) && !strings.HasPrefix(rest, cast+"[") {
					last += len(cast)
					i = last - 1
				}
			}
		}
	}
	return b.String() + s.SQL[last:]
}

func parameterNumber(text string) (number, length int) {
	if text[0] != '$' {
		return 0, 0
	}
	length = 1
	for length < len(text) && text[length] >= '0' && text[length] <= '9' && length < 6 {
		number = number*10 + int(text[length]-'0')
		length++
	}
	return number, length
}

func literal(value *string) string {
	switch {
	case value == nil:
		return "NULL"
	case *value == "true" || *value == "false":
		return *value
	}
	return "'" + strings.ReplaceAll(*value, "'", "''") + "'"
}

// Reads are the variables that a step needs.
func (s Step) Reads(isNode func(string) bool) []Reference {
	if s.Type != TypeSpock {
		return References(s.SQL+s.Done, isNode)
	}
	var all []Reference
	for _, p := range s.Command.Params {
		all = append(all, References(s.Options[p.Name], isNode)...)
	}
	return all
}

// Writes are the keys that a step sets for its node; known is false when only
// the server knows them.
func (s Step) Writes() (keys []string, known bool) {
	if s.Type == TypeSpock {
		return s.Command.Sets, true
	}
	if s.Type == TypeHold {
		return []string{SharedSnapshot}, true
	}
	return nil, s.Type == TypeShell || s.Type == TypeWait || s.Type == TypeLetGo
}

package workflow

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Workflow is a file: steps, and what follows the last of them.
type Workflow struct {
	Name        string
	Description string
	Steps       []Step
	// Success and Failure run at the end of a run that went well or did not.
	Success, Failure *Follow
	// Warnings are what is odd and does no harm.
	Warnings []string
}

// CheckConfig is what a workflow is checked against.
type CheckConfig struct {
	// Config names the nodes; without it any name is one.
	Config *Config
	// AllowShell lets steps of type shell pass, AllowRawSQL values that are SQL expressions.
	AllowShell, AllowRawSQL bool
	// Variables are set before the first step.
	Variables Variables
}

// Parse reads a workflow file and checks all that can be known without a
// server. The error is Errors, in the order of the file.
func Parse(text []byte, check CheckConfig) (*Workflow, error) {
	c := &fileReader{complaints: complaints{source: source{trimMark(text)}}, check: check}
	root, err := parseJSON(c.source)
	if err != nil {
		return nil, err
	}
	if root.kind != kindObject {
		c.errorf(root, "a workflow must be an object, not %s", root.kind)
		return nil, c.errors
	}
	w := &Workflow{}
	c.known(root, "workflow_name", "description", "steps", "success_step", "failure_step")
	w.Name, _ = c.textMember(root, "workflow_name")
	w.Description, _ = c.textMember(root, "description")
	steps, ok := root.member("steps")
	switch {
	case !ok:
		c.errorf(root, `"steps" is missing`)
	case steps.kind != kindArray:
		c.errorf(steps, `"steps" must be an array, not %s`, steps.kind)
	case len(steps.items) == 0:
		c.errorf(steps, `"steps" is empty`)
	}
	w.Steps = c.steps(steps, "")
	w.Success = c.lastStep(root, "success_step")
	w.Failure = c.lastStep(root, "failure_step")
	c.checkLabels(w.Steps)
	c.checkVariables(w)
	slices.SortStableFunc(c.errors, func(a, b *Error) int {
		if a.At.Line != b.At.Line {
			return a.At.Line - b.At.Line
		}
		return a.At.Column - b.At.Column
	})
	w.Warnings = c.warnings
	return w, c.errors.orNil()
}

type fileReader struct {
	complaints
	check CheckConfig
}

func (c *fileReader) isNode(name string) bool {
	if c.check.Config == nil {
		return true
	}
	_, ok := c.check.Config.Node(name)
	return ok
}

func (c *fileReader) steps(list value, path string) []Step {
	var steps []Step
	for i, v := range list.items {
		s, ok := c.step(v, path+strconv.Itoa(i+1))
		if !ok {
			continue
		}
		s.Number = i + 1
		steps = append(steps, s)
	}
	return steps
}

// step reads an element of "steps": an object whose one key is the type.
func (c *fileReader) step(v value, path string) (Step, bool) {
	s := Step{Path: path, At: c.at(v.at)}
	if v.kind != kindObject {
		c.errorf(v, "a step must be an object, not %s", v.kind)
		return s, false
	}
	c.known(v, "spock", "sql", "shell", "on_success", "on_failure")
	var body value
	for _, t := range []StepType{TypeSpock, TypeSQL, TypeShell} {
		m, ok := v.member(string(t))
		switch {
		case !ok:
		case s.Type != "":
			c.errorf(m, "a step has one type: %q or %q", s.Type, t)
		case m.kind != kindObject:
			c.errorf(m, "%q must be an object, not %s", t, m.kind)
			return s, false
		default:
			s.Type, body = t, m
		}
	}
	if s.Type == "" {
		c.errorf(v, `a step needs a type: "spock", "sql" or "shell"`)
		return s, false
	}
	c.body(&s, body)
	s.OnSuccess = c.follow(v, body, "on_success", path)
	s.OnFailure = c.follow(v, body, "on_failure", path)
	return s, s.Type != TypeSpock || s.Command != nil
}

// body reads the object under the type.
func (c *fileReader) body(s *Step, v value) {
	c.known(v, "node", "command", "description", "args", "sleep", "ignore_errors", "name", "on_success", "on_failure")
	s.Name, _ = c.textMember(v, "name")
	s.Description, _ = c.textMember(v, "description")
	s.IgnoreErrors = c.boolMember(v, "ignore_errors")
	s.Sleep = c.sleep(v)
	var nodeAt value
	s.Node, nodeAt = c.textMember(v, "node")
	commandName, commandAt := c.textMember(v, "command")
	args, ok := v.member("args")
	if ok && args.kind != kindArray {
		c.errorf(args, `"args" must be an array of texts, not %s`, args.kind)
	}
	switch s.Type {
	case TypeShell:
		s.Shell = commandName
		switch {
		case commandName == "":
			c.errorf(commandAt, `"command" is missing`)
		case !c.check.AllowShell:
			c.hintf("--allow-shell runs commands of the shell as the user who calls the program",
				commandAt, "a step runs a command of the shell, which is not allowed")
		}
		if s.Description == "" {
			s.Description = s.Shell
		}
		return
	case TypeSQL:
		c.sqlBody(s, args, v)
	default:
		s.Command = command(commandName)
		switch {
		case commandName == "":
			c.errorf(commandAt, `"command" is missing`)
			return
		case s.Command == nil || s.Command.Name == SQLCommand:
			s.Command = nil
			c.hintf("the commands are "+strings.Join(commandNames(), ", "), commandAt, "unknown command %q", commandName)
			return
		}
		c.options(s, args, v)
	}
	if s.Description == "" {
		s.Description = strings.TrimSpace(s.CommandName() + " " + s.Object())
	}
	switch {
	case s.Node == "":
		c.errorf(v, `"node" is missing: the node that the step runs on`)
	case !c.isNode(s.Node):
		c.errorf(nodeAt, "%s", c.check.Config.unknownNode(s.Node))
	}
}

func (c *fileReader) sleep(v value) time.Duration {
	m, ok := v.member("sleep")
	if !ok {
		return 0
	}
	seconds, err := strconv.ParseFloat(strings.TrimSpace(m.text), 64)
	if m.kind != kindNumber && m.kind != kindText || err != nil || seconds < 0 || seconds > maxSleep {
		c.errorf(m, `"sleep" must be a number of seconds, at most %d`, maxSleep)
		return 0
	}
	return time.Duration(seconds * float64(time.Second))
}

// maxSleep is a day, in seconds: more is a slip.
const maxSleep = 86400

func (c *fileReader) sqlBody(s *Step, args, v value) {
	cmd := command(SQLCommand)
	for _, a := range c.readArgs(cmd, args.items) {
		switch a.name {
		case "sql":
			s.SQL = a.text
		case "ignore_errors":
			if on, ok := ParseBool(a.text); ok {
				s.IgnoreErrors = s.IgnoreErrors || on
			}
		case "node":
			c.overrideNode(s, a)
		}
	}
	if strings.TrimSpace(s.SQL) == "" {
		c.errorf(v, "a step of type sql needs its statement: --sql=…")
	}
}

// overrideNode lets the argument win over the key beside it, as it always did.
func (c *fileReader) overrideNode(s *Step, a arg) {
	if s.Node != "" && s.Node != a.text {
		c.warnf(a.at, "--node=%s overrides the step's node %q", a.text, s.Node)
	}
	if !c.isNode(a.text) {
		c.errorf(a.at, "%s", c.check.Config.unknownNode(a.text))
	}
	s.Node = a.text
}

func (c *fileReader) options(s *Step, args, v value) {
	s.Options = map[string]string{}
	for _, a := range c.readArgs(s.Command, args.items) {
		if a.name == "node" {
			c.overrideNode(s, a)
			continue
		}
		s.Options[a.name] = a.text
		p, _ := s.Command.Param(a.name)
		if len(References(a.text, c.isNode)) > 0 {
			continue
		}
		if _, err := s.Command.single(p).Values(map[string]string{p.Name: a.text}, c.check.AllowRawSQL); err != nil {
			c.errorf(a.at, "%s: %s", s.Command.Name, Mask(err.Error()))
		}
	}
	for _, p := range s.Command.Params {
		if _, ok := s.Options[p.Name]; p.Required && !ok {
			c.errorf(v, "%s: option --%s is missing", s.Command.Name, p.Name)
		}
	}
	if s.Command.Name == CreateNode && s.Node != "" && s.Options["node_name"] != "" && s.Node != s.Options["node_name"] {
		c.errorf(v, "%s: node %q cannot be created on node %q: the statement makes its own server the node", CreateNode, s.Options["node_name"], s.Node)
	}
	if s.Command.Name == EnableSlot || s.Command.Name == DisableSlot {
		c.warnf(v, "%s does nothing: slots cannot be switched", s.Command.Name)
	}
}

// single is the command with one parameter only, to check that alone.
func (c *Command) single(p Param) *Command {
	one := *c
	one.Params = []Param{p}
	return &one
}

// follow reads what comes after a step: inside its object or beside it.
func (c *fileReader) follow(outer, body value, key, path string) *Follow {
	v, ok := body.member(key)
	if !ok || v.kind == kindObject && v.empty() {
		v, ok = outer.member(key)
	}
	if !ok || v.kind == kindObject && v.empty() {
		return nil
	}
	if v.kind != kindObject {
		c.errorf(v, "%q must be an object, not %s", key, v.kind)
		return nil
	}
	c.known(v, "steps", "goto", "stop")
	f := &Follow{Stop: c.boolMember(v, "stop")}
	f.Goto, _ = c.textMember(v, "goto")
	if f.Stop && f.Goto != "" {
		c.errorf(v, `%q can either stop or go on at %q`, key, f.Goto)
	}
	steps, ok := v.member("steps")
	if ok && steps.kind != kindArray {
		c.errorf(steps, `"steps" must be an array, not %s`, steps.kind)
		return f
	}
	mark := "."
	if key == "on_failure" {
		mark = ".f"
	}
	f.Steps = c.steps(steps, path+mark)
	return f
}

// lastStep reads success_step and failure_step: a command whose node is among its arguments.
func (c *fileReader) lastStep(root value, key string) *Follow {
	v, ok := root.member(key)
	if !ok || v.kind == kindObject && v.empty() {
		return nil
	}
	if v.kind != kindObject {
		c.errorf(v, "%q must be an object, not %s", key, v.kind)
		return nil
	}
	c.known(v, "name", "node", "description", "command", "args", "options")
	s := Step{Type: TypeSpock, Path: key, At: c.at(v.at), Number: 1}
	if name, _ := c.textMember(v, "command"); strings.EqualFold(name, SQLCommand) {
		s.Type = TypeSQL
	}
	c.body(&s, v)
	if s.Type == TypeSpock && s.Command == nil {
		return nil
	}
	return &Follow{Steps: []Step{s}}
}

// checkLabels looks for names given twice and for jumps to nowhere.
func (c *fileReader) checkLabels(steps []Step) {
	labels := map[string]bool{}
	for _, s := range steps {
		if s.Name == "" {
			continue
		}
		if labels[s.Name] {
			c.errors = append(c.errors, &Error{At: s.At, Message: fmt.Sprintf("two steps are named %q", s.Name)})
		}
		labels[s.Name] = true
	}
	for _, s := range steps {
		for _, f := range []*Follow{s.OnSuccess, s.OnFailure} {
			if f != nil && f.Goto != "" && !labels[f.Goto] {
				c.errors = append(c.errors, &Error{At: s.At, Message: fmt.Sprintf("no step is named %q", f.Goto)})
			}
		}
	}
}

// checkVariables looks for variables that no step before can have set. The
// labels of a query's columns are the server's: a query may set anything.
func (c *fileReader) checkVariables(w *Workflow) {
	known := map[string]map[string]bool{}
	anything := map[string]bool{}
	for node, keys := range c.check.Variables {
		known[node] = map[string]bool{}
		for key := range keys {
			known[node][key] = true
		}
	}
	var visit func(steps []Step)
	visit = func(steps []Step) {
		for _, s := range steps {
			for _, r := range s.Reads(c.isNode) {
				if !anything[r.Node] && !known[r.Node][r.Key] {
					c.errors = append(c.errors, &Error{At: s.At, Message: fmt.Sprintf("variable %s is never set before this step", r)})
				}
			}
			keys, all := s.Writes()
			anything[s.Node] = anything[s.Node] || !all
			for _, key := range keys {
				if known[s.Node] == nil {
					known[s.Node] = map[string]bool{}
				}
				known[s.Node][key] = true
			}
			for _, f := range []*Follow{s.OnSuccess, s.OnFailure} {
				if f != nil {
					visit(f.Steps)
				}
			}
		}
	}
	visit(w.Steps)
	for _, f := range []*Follow{w.Success, w.Failure} {
		if f != nil {
			visit(f.Steps)
		}
	}
}

package workflow

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// arg is one option of a step as written.
type arg struct {
	name     string
	text     string
	hasValue bool
	at       value
}

// readArgs reads the elements of "args" as getopt_long does: "--name=value", or
// "--name" and "value" as two elements, in any order. What used to be ignored silently
// is a complaint here: words without a dash and options that nobody knows.
func (c *complaints) readArgs(cmd *Command, elements []value) []arg {
	var args []arg
	for i := 0; i < len(elements); i++ {
		e := elements[i]
		if e.kind != kindText {
			c.errorf(e, "an argument must be a text, not %s", e.kind)
			continue
		}
		option, ok := strings.CutPrefix(e.text, "--")
		if !ok {
			c.errorf(e, "argument %q is no option: options look like --name=value", Mask(e.text))
			continue
		}
		a := arg{at: e}
		option, a.text, a.hasValue = strings.Cut(option, "=")
		param, err := findOption(cmd, option)
		if err != nil {
			c.errorf(e, "%s: %v", stepCommand(cmd), err)
			continue
		}
		a.name = param.Name
		if !a.hasValue && param.Kind != Bool {
			if i+1 >= len(elements) {
				c.errorf(e, "%s: option --%s needs a value", stepCommand(cmd), param.Name)
				continue
			}
			i++
			a.text, a.hasValue = elements[i].text, true
		} else if !a.hasValue && i+1 < len(elements) && elements[i+1].kind == kindText {
			if _, ok := ParseBool(elements[i+1].text); ok {
				i++
				a.text, a.hasValue = elements[i].text, true
			}
		}
		if !a.hasValue {
			a.text = "true"
		}
		args = append(args, a)
	}
	return args
}

// nodeOption is the option that every command has: where it runs.
func nodeOption() Param { return Param{Name: "node", Kind: Word} }

// findOption finds an option by its name, an alias, or an unambiguous beginning.
func findOption(cmd *Command, option string) (Param, error) {
	wanted := strings.ReplaceAll(option, "-", "_")
	all := append(slices.Clone(cmd.Params), nodeOption())
	var found []Param
	for _, p := range all {
		if p.Name == wanted || slices.Contains(p.Aliases, wanted) {
			return p, nil
		}
		if wanted != "" && strings.HasPrefix(p.Name, wanted) {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Param{}, fmt.Errorf("unknown option --%s", option)
	}
	var names []string
	for _, p := range found {
		names = append(names, "--"+p.Name)
	}
	return Param{}, fmt.Errorf("option --%s is ambiguous: %s", option, strings.Join(names, ", "))
}

func stepCommand(cmd *Command) string {
	if cmd.Name != "" {
		return cmd.Name
	}
	return cmd.Words
}

// Values checks the options of a call and gives each parameter its value.
// Values with variables stay as they are until these are known. With rawSQL a
// value that is none of its kind is an SQL expression.
func (cmd *Command) Values(options map[string]string, rawSQL bool) (map[string]Value, error) {
	values := map[string]Value{}
	var problems []error
	for _, p := range cmd.Params {
		given, ok := options[p.Name]
		if !ok {
			if p.Required {
				problems = append(problems, fmt.Errorf("option --%s is missing", p.Name))
			}
			if p.Default == "" {
				continue
			}
			given = p.Default
		}
		v, err := p.Kind.parse(given)
		_, isRaw := errors.AsType[errRaw](err)
		switch {
		case err == nil:
			values[p.Name] = Value{Text: v}
		case isRaw && rawSQL:
			values[p.Name] = Value{Text: given, Raw: true}
		case isRaw:
			problems = append(problems, fmt.Errorf("option --%s: %w (SQL expressions need --allow-raw-sql)", p.Name, err))
		default:
			problems = append(problems, fmt.Errorf("option --%s: %w", p.Name, err))
		}
		if v == "" && p.Required && given == "" {
			problems = append(problems, fmt.Errorf("option --%s is empty", p.Name))
		}
	}
	return values, errors.Join(problems...)
}

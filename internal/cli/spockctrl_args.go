package cli

import (
	"slices"
	"strconv"
	"strings"

	"github.com/pgdrover/pgdrover/internal/workflow"
)

// spockctrlArgs puts a command line of spockctrl into the order and the
// spelling of ours: words first, then options with their full names and "=".
// There global options stand anywhere, -w FILE replaces the command, -v takes a
// number, hyphens and underscores are the same, and a boolean needs no value.
func spockctrlArgs(args []string) []string {
	p := &spockctrlLine{verbose: -1}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			p.words, args = append(p.words, args...), nil
		case strings.HasPrefix(arg, "--"):
			args = p.long(arg[2:], args)
		case len(arg) > 1 && arg[0] == '-':
			args = p.short(arg[1:], args)
		default:
			p.words = append(p.words, arg)
		}
	}
	return p.line()
}

type spockctrlLine struct {
	words, options []string
	workflow       *string
	verbose        int // -1 when it was not said
	help, version  bool
}

func (p *spockctrlLine) long(arg string, rest []string) []string {
	name, value, hasValue := strings.Cut(arg, "=")
	name = spockctrlOption(name)
	take := func() bool {
		if !hasValue && len(rest) > 0 {
			value, rest, hasValue = rest[0], rest[1:], true
		}
		return hasValue
	}
	switch {
	case name == "help":
		p.help = true
	case name == "version":
		p.version = true
	case name == "verbose":
		if !hasValue && len(rest) > 0 && isVerbosity(rest[0]) {
			take()
		}
		p.setVerbose(value)
	case name == "workflow":
		if take() {
			p.workflow = &value
		} else {
			p.options = append(p.options, "--workflow")
		}
	case slices.Contains(spockctrlSwitches(), name):
		if !hasValue && len(rest) > 0 {
			if _, ok := workflow.ParseBool(rest[0]); ok {
				take()
			}
		}
		if !hasValue {
			value = "true"
		}
		p.options = append(p.options, "--"+name+"="+value)
	case slices.Contains([]string{"json", "quiet"}, name):
		p.options = append(p.options, "--"+name)
	case take():
		p.options = append(p.options, "--"+name+"="+value)
	default:
		p.options = append(p.options, "--"+name)
	}
	return rest
}

func (p *spockctrlLine) short(bundle string, rest []string) []string {
	letter, value := bundle[:1], bundle[1:]
	long := map[string]string{"c": "config", "w": "workflow", "f": "format"}[letter]
	switch {
	case long != "" && value != "":
		return p.long(long+"="+value, rest)
	case long != "":
		return p.long(long, rest)
	case letter == "v" && (value == "" || isVerbosity(value)):
		if value == "" && len(rest) > 0 && isVerbosity(rest[0]) {
			value, rest = rest[0], rest[1:]
		}
		p.setVerbose(value)
	case letter == "h" && value == "":
		p.help = true
	default:
		p.options = append(p.options, "-"+bundle)
	}
	return rest
}

func isVerbosity(text string) bool { return len(text) == 1 && text[0] >= '0' && text[0] <= '3' }

func (p *spockctrlLine) setVerbose(text string) {
	n, err := strconv.Atoi(text)
	switch {
	case text == "":
		p.verbose = max(p.verbose, 0) + 1
	case err != nil || n < 0 || n > 3:
		p.options = append(p.options, "--verbosity="+text)
	default:
		p.verbose = n
	}
}

// line is the command line in our order.
func (p *spockctrlLine) line() []string {
	words := p.words
	if p.workflow != nil {
		words = []string{"workflow", "run", *p.workflow}
	}
	switch {
	case p.version:
		return []string{"version"}
	case len(words) == 0 && len(p.options) == 0, p.help && len(words) == 0:
		return []string{"help"}
	}
	line := slices.Concat(words, p.options)
	if p.verbose >= 0 {
		line = append(line, "--verbosity="+strconv.Itoa(p.verbose))
	}
	if p.help {
		line = append(line, "--help")
	}
	return line
}

// spockctrlOption is the name of an option as our commands have it.
func spockctrlOption(name string) string {
	name = strings.ReplaceAll(name, "_", "-")
	switch name {
	case "target-node":
		return "node"
	case "repsets":
		return "replication-sets"
	case "enable":
		return "enabled"
	case "if-exists":
		return "ifexists"
	case "fast":
		return "no-sleep"
	case "plan":
		return "dry-run"
	}
	return name
}

// spockctrlSwitches are the options that take a boolean, or nothing.
func spockctrlSwitches() []string {
	names := []string{
		"ignore-errors", "show-secrets", "dry-run", "resume", "restart", "no-sleep", "allow-shell", "allow-raw-sql", "legacy-out-files", "parallel",
	}
	for _, c := range workflow.Commands() {
		for _, param := range c.Params {
			if name := spockctrlOption(param.Name); param.Kind == workflow.Bool && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// spockctrlLineOf is the command line in our order when it is one of spockctrl.
func spockctrlLineOf(env *Env) ([]string, bool) {
	if env.program() == nameSpockctrl {
		return spockctrlArgs(env.Args), true
	}
	if env.program() == nameDrover && len(env.Args) > 0 && env.Args[0] == nameSpockctrl {
		args := spockctrlArgs(env.Args[1:])
		switch args[0] {
		case "help":
			args[0] = "--help"
		case "version":
			args[0] = "--version"
		}
		return append([]string{nameSpockctrl}, args...), true
	}
	return nil, false
}

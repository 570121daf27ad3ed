package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// parsed is a command line after getopt's rules: options under their full
// names, in the order typed, and the words between or after them.
type parsed struct {
	options []option
	words   []string
}

// option is one option as given; value is empty for those that take none.
type option struct {
	name     string
	value    string
	hasValue bool
}

// args renders the options for pflag.
func (p parsed) args() []string {
	out := make([]string, 0, len(p.options))
	for _, o := range p.options {
		if o.hasValue {
			out = append(out, "--"+o.name+"="+o.value)
		} else {
			out = append(out, "--"+o.name)
		}
	}
	return out
}

// getopt reads args as getopt_long() does: "--opt value" and "--opt=value",
// bundled short options, unambiguous prefixes of long names, and "--" as the
// end of options. With anyOrder words and options may mix, otherwise options
// end at the first word. Its messages are getopt's own, prefixed by program.
// What was read before an error is returned with it.
func getopt(program string, flags *pflag.FlagSet, args []string, anyOrder bool) (parsed, error) {
	var p parsed
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		var err error
		switch {
		case arg == "--":
			p.words = append(p.words, args...)
			return p, nil
		case strings.HasPrefix(arg, "--"):
			args, err = p.long(flags, arg[2:], args)
		case len(arg) > 1 && arg[0] == '-':
			args, err = p.short(flags, arg[1:], args)
		case anyOrder:
			p.words = append(p.words, arg)
		default:
			p.words = append(append(p.words, arg), args...)
			return p, nil
		}
		if err != nil {
			return p, fmt.Errorf("%s: %w", program, err)
		}
	}
	return p, nil
}

func (p *parsed) long(flags *pflag.FlagSet, arg string, rest []string) ([]string, error) {
	name, value, hasValue := strings.Cut(arg, "=")
	flag, err := findLong(flags, name)
	if err != nil {
		return nil, err
	}
	switch takesValue := flag.NoOptDefVal == ""; {
	case !takesValue && hasValue:
		return nil, fmt.Errorf("option '--%s' doesn't allow an argument", flag.Name)
	case takesValue && !hasValue:
		if len(rest) == 0 {
			return nil, fmt.Errorf("option '--%s' requires an argument", flag.Name)
		}
		value, rest, hasValue = rest[0], rest[1:], true
	}
	p.options = append(p.options, option{name: flag.Name, value: value, hasValue: hasValue})
	return rest, nil
}

func (p *parsed) short(flags *pflag.FlagSet, bundle string, rest []string) ([]string, error) {
	for bundle != "" {
		letter := bundle[:1]
		bundle = bundle[1:]
		flag := flags.ShorthandLookup(letter)
		if flag == nil {
			return nil, fmt.Errorf("invalid option -- '%s'", letter)
		}
		if flag.NoOptDefVal != "" {
			p.options = append(p.options, option{name: flag.Name})
			continue
		}
		if bundle == "" {
			if len(rest) == 0 {
				return nil, fmt.Errorf("option requires an argument -- '%s'", letter)
			}
			bundle, rest = rest[0], rest[1:]
		}
		p.options = append(p.options, option{name: flag.Name, value: bundle, hasValue: true})
		return rest, nil
	}
	return rest, nil
}

// findLong finds the option with this name, or the only one that it begins.
func findLong(flags *pflag.FlagSet, name string) (*pflag.Flag, error) {
	if flag := flags.Lookup(name); flag != nil {
		return flag, nil
	}
	var found []*pflag.Flag
	if name != "" {
		flags.VisitAll(func(f *pflag.Flag) {
			if strings.HasPrefix(f.Name, name) {
				found = append(found, f)
			}
		})
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("unrecognized option '--%s'", name)
	case 1:
		return found[0], nil
	}
	var names strings.Builder
	for _, f := range found {
		names.WriteString(" '--" + f.Name + "'")
	}
	return nil, fmt.Errorf("option '--%s' is ambiguous; possibilities:%s", name, names.String())
}

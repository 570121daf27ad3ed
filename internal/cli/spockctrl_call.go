package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

// spockctrlCalls are the commands of one kind that are one call each.
func spockctrlCalls(env *Env, kind string) []*cobra.Command {
	var cmds []*cobra.Command
	for _, c := range workflow.Commands() {
		set, verb, ok := strings.Cut(c.Words, " ")
		// The states of subscriptions are shown for many nodes at once.
		if ok && set == kind && verb != "show-status" {
			cmds = append(cmds, newSpockctrlCall(env, verb, c))
		}
	}
	return cmds
}

func newSpockctrlCall(env *Env, verb string, c *workflow.Command) *cobra.Command {
	use := []string{verb}
	for _, place := range c.Places {
		word := "<" + strings.ReplaceAll(place, "_", "-") + ">"
		if p, _ := c.Param(place); !p.Required {
			word = "[ " + word + " ]"
		}
		use = append(use, word)
	}
	cmd := newSpockctrlLeaf(env, strings.Join(use, " "), c.Short, func(ctx context.Context, s *spockctrl, words []string) error {
		return s.call(ctx, c, words)
	})
	f := cmd.Flags()
	f.String("node", "", "the `node` to run on")
	for _, p := range c.Params {
		usage := p.Usage
		switch p.Kind {
		case workflow.Bool:
			usage += " (`yes|no`)"
		case workflow.List:
			usage += " (`a,b`)"
		default:
		}
		f.String(spockctrlOption(p.Name), "", usage)
	}
	f.String("allow-raw-sql", "", "let values be SQL expressions (`yes|no`)")
	f.Lookup("allow-raw-sql").Hidden = true
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if p, ok := c.Param(name); ok {
			name = spockctrlOption(p.Name)
		}
		return pflag.NormalizedName(name)
	})
	return cmd
}

func (s *spockctrl) call(ctx context.Context, c *workflow.Command, words []string) error {
	options, err := s.options(c, words)
	if err != nil {
		return err
	}
	n, nodeErr := s.node(s.cmd.Flag("node").Value.String(), options[c.Places[0]])
	if c.Name == workflow.CreateNode && options["dsn"] == "" && nodeErr == nil {
		options["dsn"] = n.ConnInfo.DSN()
	}
	values, err := c.Values(options, isTrue(s.cmd.Flag("allow-raw-sql").Value.String()))
	if err != nil {
		return spockctrlUsage("%s", strings.ReplaceAll(workflow.Mask(err.Error()), "\n", "; "))
	}
	if nodeErr != nil {
		return nodeErr
	}
	return s.on(ctx, n, func(server orchestrator.Server) error {
		s.env.log.DebugContext(ctx, c.Call(values).String()) //nolint:sloglint // the statement itself
		answer, err := orchestrator.Call(ctx, server, c, values)
		if err != nil {
			return err
		}
		return s.print(answer)
	})
}

// options are the values of a command by parameter, given by name or by position.
func (s *spockctrl) options(c *workflow.Command, words []string) (map[string]string, error) {
	options := map[string]string{}
	for _, p := range c.Params {
		if name := spockctrlOption(p.Name); given(s.cmd, name) {
			options[p.Name] = s.cmd.Flag(name).Value.String()
		}
	}
	if len(words) > len(c.Places) {
		return nil, spockctrlUsage("%d words are too many: %s", len(words), strings.Join(words, " "))
	}
	for i, word := range words {
		if _, twice := options[c.Places[i]]; twice {
			return nil, spockctrlUsage("--%s is given twice: by name and as %q", strings.ReplaceAll(c.Places[i], "_", "-"), word)
		}
		options[c.Places[i]] = word
	}
	return options, nil
}

func newSpockctrlSQLCmd(env *Env) *cobra.Command {
	cmd := newSpockctrlLeaf(env, "sql [ <node> ] <statements>", "Run SQL on a node", func(ctx context.Context, s *spockctrl, words []string) error {
		name, sql := s.cmd.Flag("node").Value.String(), s.cmd.Flag("sql").Value.String()
		if sql == "" && len(words) > 0 {
			sql, words = words[len(words)-1], words[:len(words)-1]
		}
		if name == "" && len(words) > 0 {
			name, words = words[0], words[1:]
		}
		if len(words) > 0 || strings.TrimSpace(sql) == "" {
			return spockctrlUsage("one node and one text of SQL are expected")
		}
		n, err := s.node(name, "")
		if err != nil {
			return err
		}
		ignore, _ := workflow.ParseBool(s.cmd.Flag("ignore-errors").Value.String())
		err = s.on(ctx, n, func(server orchestrator.Server) error {
			answer, err := server.Run(ctx, sql)
			if err != nil {
				return err
			}
			return s.print(answer)
		})
		if err != nil && ignore {
			s.env.warnf("%s", workflow.Mask(err.Error()))
			return nil
		}
		return err
	})
	f := cmd.Flags()
	f.String("node", "", "the `node` to run on")
	f.String("sql", "", "the `statements`")
	f.String("ignore-errors", "", "succeed whatever the server says (`yes|no`)")
	f.String("show-secrets", "", "show passwords (`yes|no`)")
	return cmd
}

// print prints an answer as a table or as JSON.
func (s *spockctrl) print(answer orchestrator.Result) error {
	if len(answer.Columns) == 0 {
		if s.format == "json" {
			return s.printJSON(orchestrator.Result{})
		}
		s.env.printf("%s\n", answer.Tag)
		return nil
	}
	if flag := s.cmd.Flags().Lookup("show-secrets"); flag == nil || !isTrue(flag.Value.String()) {
		answer.Rows = masked(answer.Rows)
	}
	if s.format == "json" {
		return s.printJSON(answer)
	}
	return printRows(s.env.Stdout, answer)
}

func isTrue(text string) bool {
	value, ok := workflow.ParseBool(text)
	return ok && value
}

func masked(rows [][]*string) [][]*string {
	out := make([][]*string, len(rows))
	for i, row := range rows {
		out[i] = slices.Clone(row)
		for j, cell := range row {
			if cell != nil {
				out[i][j] = new(workflow.Mask(*cell))
			}
		}
	}
	return out
}

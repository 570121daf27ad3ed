package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/orchestrator"
	"github.com/pgdrover/pgdrover/internal/spock"
	"github.com/pgdrover/pgdrover/internal/workflow"
)

func newWorkflowNewCmd(env *Env) *cobra.Command {
	cmd := newSpockctrlLeaf(env, "new <kind>", "Write a workflow file for the configured nodes to stdout: "+workflow.Kinds(), workflowNew)
	f := cmd.Flags()
	f.String("source", "", "`node` whose content is copied")
	f.String("new", "", "`node` that joins, or leaves")
	return cmd
}

func workflowNew(ctx context.Context, s *spockctrl, words []string) error {
	if len(words) != 1 {
		return spockctrlUsage("one of %s is expected", workflow.Kinds())
	}
	g := workflow.Generating{Kind: words[0], Source: s.cmd.Flag("source").Value.String(), New: s.cmd.Flag("new").Value.String(), Nodes: s.config.Nodes}
	for option, wanted := range map[string]bool{"source": g.Kind == "add-node", "new": g.Kind == "add-node" || g.Kind == "remove-node"} {
		name := s.cmd.Flag(option).Value.String()
		if _, ok := s.config.Node(name); wanted && !ok {
			return spockctrlUsage("--%s must be a node of the configuration, not %q", option, name)
		}
	}
	g.Slot = func(provider, subscription string) (string, error) { return s.slotName(ctx, g, provider, subscription) }
	text, err := workflow.Generate(g)
	if err != nil {
		return spockctrlUsage("%w", err)
	}
	s.env.printf("%s", text)
	return nil
}

// slotName asks the source how the servers call a subscription's slot.
func (s *spockctrl) slotName(ctx context.Context, g workflow.Generating, provider, subscription string) (string, error) {
	source, _ := s.config.Node(g.Source)
	joining, _ := s.config.Node(g.New)
	server, err := orchestrator.Dial(ctx, source, func(spock.Notice) {})
	if err != nil {
		return "", err
	}
	defer func() { _ = server.Close(context.WithoutCancel(ctx)) }()
	database := orDefault(joining.ConnInfo.Get("dbname"), joining.ConnInfo.Get("user"))
	answer, err := server.Ask(ctx, "SELECT spock.spock_gen_slot_name($1::name, $2::name, $3::name)", &database, &provider, &subscription)
	if err != nil {
		return "", orchestrator.Explain(g.Source, err)
	}
	return *answer.Rows[0][0], nil
}

package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/pgdrover/pgdrover/internal/keeper"
)

func newSetRegionCmd(env *Env) *cobra.Command {
	const name = "region"
	cmd := newMixedLeaf(name+" <region>", "Set the region of a node on the monitor",
		withValue(env, parseRegion, func(ctx context.Context, s *session, cmd *cobra.Command, value string) error {
			node, err := s.findNode(ctx, cmd)
			if err != nil {
				return err
			}
			if err := s.db.SetRegion(ctx, node.Formation, node.Name, value); err != nil {
				return err
			}
			return s.answer(cmd, value, object{{name, value}})
		}))
	propertyFlags(cmd)
	return cmd
}

func parseRegion(text string) (string, error) {
	if text == "" {
		return "", fail(exitBadArgs, "region value \"\" is not valid").withHint("a region is a name, for example a data centre's")
	}
	return text, nil
}

// placeInRegion tells the monitor the region of a node that was just created;
// its name may have been the monitor's choice.
func placeInRegion(ctx context.Context, env *Env, n node, region string) error {
	if region == "" || n.monitorDisabled() {
		return nil
	}
	var err error
	if n.keeper, err = keeper.LoadFile(n.config); err != nil {
		return withCode(exitBadConfig, err)
	}
	s, err := openNodeMonitor(ctx, env, &n)
	if err != nil {
		return err
	}
	defer s.close(ctx)
	return withCode(exitMonitor, s.db.SetRegion(ctx, n.keeper.Formation, n.keeper.Name, region))
}
